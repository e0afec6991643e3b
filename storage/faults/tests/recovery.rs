//! What recovery does in detail, where nothing acknowledged is at stake: what it keeps aside, and how far it looks.

use std::{
    io::IoSlice,
    path::{Path, PathBuf},
};

use counterfoil_faults::{Fault, FaultVfs, Injection, Operation, Player, STORE, Step, options_on, small_options};
use counterfoil_storage::{
    Finding, Journal, OpenError, Options, Recovery, Seq,
    vfs::{OpenMode, Vfs as _},
};

fn options(disk: &FaultVfs) -> Options {
    let mut options = options_on(disk);
    options.segment_bytes_min = 4 << 20;
    options.segment_bytes_max = 4 << 20;
    options
}

fn open(disk: &FaultVfs) -> Result<(Journal, Recovery), OpenError> {
    Journal::open(Path::new(STORE), options(disk))
}

fn segment() -> PathBuf {
    Path::new(STORE).join("0000000000000000.seg")
}

/// Where the frames of a segment end.
fn end_of(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).next_multiple_of(8)
}

/// A killed process's disk, with bytes behind the last frame that nothing proves.
fn with_torn_tail(tail: &[u8]) -> (FaultVfs, usize) {
    let mut player = Player::new(FaultVfs::new(1), options(&FaultVfs::new(0)));
    player.play(&[Step::CreateLog, Step::Append(0, 100), Step::Commit, Step::Append(0, 50), Step::Commit]).unwrap();
    let disk = player.disk.kill();
    let mut end = 0;
    disk.edit(&segment(), |content| {
        end = end_of(content);
        content.resize(content.len().max(end + tail.len() + 64), 0);
        content[end..end + tail.len()].copy_from_slice(tail);
    });
    (disk, end)
}

#[test]
fn a_torn_tail_is_kept_aside_byte_by_byte_and_reported_with_its_place_and_length() {
    let tail = [b"CFF1 half a frame ".as_slice(), &[7; 3000], &[0; 100], &[9]].concat();
    let (disk, end) = with_torn_tail(&tail);
    let (journal, recovery) = open(&disk).unwrap();
    let found = recovery.findings.iter().find_map(|finding| match finding {
        Finding::TornTail { place, len_bytes, kept_in, .. } => Some((place.offset, *len_bytes, kept_in.clone())),
        _ => None,
    });
    let (offset, len_bytes, kept_in) = found.unwrap_or_else(|| panic!("{recovery:?}"));
    assert_eq!((offset, len_bytes), (end as u64, tail.len() as u64));
    let kept = disk.content(&Path::new(STORE).join(kept_in.expect("it is kept in a file")));
    assert!(kept.as_deref() == Some(&tail[..]));
    journal.close().unwrap();
}

#[test]
fn a_store_whose_torn_tail_can_not_be_kept_aside_does_not_open() {
    let (disk, end) = with_torn_tail(&[7; 300]);
    let creates = {
        let disk = disk.snapshot();
        open(&disk).unwrap();
        disk.counts().of(Operation::Create)
    };
    assert!(creates >= 2, "the torn tail and a new segment");
    let mut refused = 0;
    for (number, fault) in (0..creates).flat_map(|number| [(number, Fault::Eio), (number, Fault::NoSpace)]) {
        let disk = disk.snapshot();
        disk.inject(Injection::at(number, fault).of(Operation::Create));
        match open(&disk) {
            Err(_) => refused += 1,
            Ok(_) => {
                let kept = disk.content(&Path::new(STORE).join(format!("torn-{:016x}-{end:016x}", 0)));
                assert!(kept.as_deref() == Some(&[7; 300][..]), "{fault:?} at {number}: opened, and nothing is kept");
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_torn_tail_is_kept_whole_by_whoever_opens_the_store_if_the_first_to_try_was_cut_short() {
    let tail = [7; 300];
    let (disk, end) = with_torn_tail(&tail);
    let operations = {
        let disk = disk.snapshot();
        disk.start_trace();
        open(&disk).unwrap();
        disk.trace().len() as u64
    };
    let mut cut_short = 0;
    for (number, fault) in
        (0..operations).flat_map(|number| [Fault::Eio, Fault::NoSpace, Fault::PowerCut].map(|fault| (number, fault)))
    {
        let disk = disk.snapshot();
        disk.inject(Injection::at(number, fault));
        if let Ok((journal, _)) = open(&disk) {
            drop(journal);
            continue;
        }
        cut_short += 1;
        disk.mend();
        for seed in 0..8 {
            let after = if fault == Fault::PowerCut { disk.crash(seed) } else { disk.snapshot() };
            let opened = open(&after);
            assert!(opened.is_ok(), "{fault:?} at {number}, seed {seed}: {opened:?}");
            let kept = after.content(&Path::new(STORE).join(format!("torn-{:016x}-{end:016x}", 0)));
            assert!(kept.as_deref() == Some(&tail[..]), "{fault:?} at {number}, seed {seed}: {kept:?}");
        }
    }
    assert!(cut_short > 20, "{cut_short}");
}

#[test]
fn damage_longer_than_what_is_read_at_a_time_does_not_hide_what_comes_behind_it() {
    for damaged_len in [1 << 20, (5 << 20) / 2, 3 << 20] {
        let mut player = Player::new(FaultVfs::new(1), options(&FaultVfs::new(0)));
        let before = [Step::CreateLog, Step::Append(0, 100), Step::Commit];
        let damaged = [Step::Append(0, damaged_len), Step::Commit];
        let behind = [Step::Append(0, 200), Step::Commit, Step::Append(0, 300), Step::Commit];
        player.play(&before).unwrap();
        let from = end_of(&player.disk.content(&segment()).unwrap());
        damaged.iter().for_each(|step| player.step(step).unwrap());
        let to = end_of(&player.disk.content(&segment()).unwrap());
        behind.iter().for_each(|step| player.step(step).unwrap());
        let disk = player.disk.kill();
        // Nothing in it looks like the beginning of anything.
        disk.edit(&segment(), |content| content[from..to].fill(0x11));
        let (journal, recovery) = open(&disk).unwrap();
        assert!(recovery.damage().next().is_some(), "{damaged_len}: {recovery:?}");
        let log = journal.logs(None)[0].id;
        for seq in [0, 2, 3] {
            let batch = journal.read_batch(log, Seq(seq));
            assert!(batch.as_ref().is_ok_and(Option::is_some), "{damaged_len}: {seq} is not served: {batch:?}");
        }
        assert!(journal.read_batch(log, Seq(1)).is_err(), "{damaged_len}: what is damaged is named");
    }
}

#[test]
fn what_a_recovery_that_was_cut_short_left_where_the_next_segment_belongs_is_neither_damage_nor_a_torn_tail() {
    // Killed, so that the last commit is copied to the next segment; and closed, so that the next one is begun by a commit.
    for is_closed in [false, true] {
        let mut player = Player::new(FaultVfs::new(1), small_options());
        let steps =
            [Step::CreateLog, Step::AppendAll(0, vec![700; 4]), Step::Commit, Step::Append(0, 50), Step::Commit];
        player.play(&steps).unwrap();
        let journal = player.journal.take().expect("open");
        if is_closed {
            journal.close().unwrap();
        }
        drop(journal);
        let disk = player.disk.kill();
        // A frame, but no header yet.
        let left = disk.open(&Path::new(STORE).join("0000000000000001.seg"), OpenMode::Create).unwrap();
        left.write_at(&[IoSlice::new(&vec![0x55; 20_000])], 8192).unwrap();
        left.sync_data().unwrap();
        disk.sync_dir(Path::new(STORE)).unwrap();
        let mut after = player.on_disk(disk);
        assert_eq!(after.play(&[Step::Append(0, 14_000), Step::Commit, Step::Kill]), Ok(()), "closed: {is_closed}");
        let kept = after.disk.files().into_iter().filter(|path| path.to_string_lossy().contains("torn-")).count();
        assert_eq!(kept, 0, "closed: {is_closed}");
        assert_eq!(after.prove_sound(after.disk.kill()), Ok(()), "closed: {is_closed}");
    }
}
