//! What the explorations have found, each as the shortest program that shows it.

use std::path::Path;

use counterfoil_faults::{Fault, FaultVfs, Injection, Operation, Player, STORE, Step, options_on, small_options};
use counterfoil_storage::{
    AppendError, BatchBuilder, Finding, Genesis, Hlc, Journal, NodeName, OpenError, SpaceName, StoreError, Stored,
    verify,
};

fn node() -> NodeName {
    NodeName::new("own").unwrap()
}

fn own_log(journal: &Journal) -> counterfoil_storage::LogId {
    let nonce = *journal.identity().incarnation.as_bytes();
    journal.create_log(Genesis::new(SpaceName::new("space").unwrap(), node(), nonce)).unwrap()
}

#[test]
fn a_store_whose_making_failed_at_its_last_flush_does_not_vanish_once_it_has_acknowledged() {
    for number in 0..4 {
        let disk = FaultVfs::new(1);
        disk.inject(Injection::at(number, Fault::Eio).of(Operation::SyncDir));
        let made = Journal::create(Path::new(STORE), node(), options_on(&disk));
        let opened = made.or_else(|_| match Journal::open(Path::new(STORE), options_on(&disk)) {
            Err(OpenError::NoStore { .. }) => Journal::create(Path::new(STORE), node(), options_on(&disk)),
            opened => opened.map(|(journal, _)| journal),
        });
        let journal = opened.unwrap();
        let appended = journal.writer(own_log(&journal)).unwrap().append(b"kept").unwrap().wait();
        for seed in 0..20 {
            let after = Journal::open(Path::new(STORE), options_on(&disk.crash(seed)));
            assert!(after.is_ok() || appended.is_err(), "flush {number}, seed {seed}: {after:?}");
        }
    }
}

#[test]
fn a_segment_without_a_footer_keeps_its_place_among_those_that_have_one() {
    let load = || [Step::AppendAll(0, vec![700; 12]), Step::Commit];
    let steps: Vec<Step> = std::iter::once(Step::CreateLog).chain((0..8).flat_map(|_| load())).collect();
    let mut player = Player::new(FaultVfs::new(1), small_options());
    player.play(&steps[..4]).unwrap();
    // The third segment's footer finds no space, the later ones' do.
    player.disk.inject_ahead(Injection::at(1, Fault::NoSpace).of(Operation::Write));
    steps[4..].iter().for_each(|step| player.step(step).unwrap());
    assert_eq!(player.disk.struck(), 1);
    assert_eq!(player.errors, 0, "only the footer was refused");
    player.disk.mend();
    for step in [Step::Reopen, Step::Judge, Step::Reopen, Step::Judge] {
        player.step(&step).unwrap();
    }
}

#[test]
fn closing_tells_that_what_was_queued_found_no_space() {
    let disk = FaultVfs::new(1);
    let journal = Journal::create(Path::new(STORE), node(), options_on(&disk)).unwrap();
    let receipt = journal.writer(own_log(&journal)).unwrap().append(&[7; 9000]).unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    assert!(matches!(journal.close(), Err(AppendError::StorageFull)));
    assert!(matches!(receipt.wait(), Err(AppendError::StorageFull)));
    assert!(matches!(journal.close(), Err(AppendError::StorageFull)), "and tells again");
}

#[test]
fn a_batch_that_can_not_be_compared_is_not_called_a_divergence() {
    let disk = FaultVfs::new(1);
    let journal = Journal::create(Path::new(STORE), node(), options_on(&disk)).unwrap();
    let genesis = Genesis::new(SpaceName::new("space").unwrap(), NodeName::new("other").unwrap(), [1; 16]);
    let log = journal.create_log(genesis.clone()).unwrap();
    let mut builder = BatchBuilder::with_capacity(0);
    builder.push(Hlc::from_bits(1), b"record");
    let batch = builder.seal(log, genesis.head());
    journal.store(batch.clone()).unwrap();
    journal.commit().unwrap();
    disk.inject_ahead(Injection::at(0, Fault::Eio).of(Operation::Read));
    let again = journal.store(batch.clone());
    assert!(matches!(again, Err(StoreError::Read(_))), "{again:?}");
    assert!(matches!(journal.store(batch), Ok(Stored::Duplicate)));
}

#[test]
fn the_loss_of_the_newest_segment_is_noticed() {
    for closed in [false, true] {
        for rounds in [1, 5] {
            let mut player = Player::new(FaultVfs::new(1), small_options());
            let load = (0..rounds).flat_map(|_| [Step::AppendAll(0, vec![700; 12]), Step::Commit]);
            let steps: Vec<Step> = std::iter::once(Step::CreateLog).chain(load).collect();
            player.play(&steps).unwrap();
            if closed {
                player.journal.as_ref().unwrap().close().unwrap();
            }
            let disk = player.disk.kill();
            let is_segment = |path: &&std::path::PathBuf| path.extension().is_some_and(|extension| extension == "seg");
            let files = disk.files();
            disk.lose(files.iter().rfind(is_segment).unwrap());
            let (_, recovery) = Journal::open(Path::new(STORE), options_on(&disk)).unwrap();
            assert!(recovery.damage().next().is_some(), "{closed} {rounds}: {recovery:?}");
        }
    }
}

#[test]
fn a_header_that_was_seen_but_never_flushed_is_not_missed_after_a_later_crash() {
    for number in 0..200 {
        let mut player = Player::new(FaultVfs::new(1), small_options());
        player.disk.inject(Injection::at(number, Fault::PowerCut));
        let steps =
            [Step::CreateLog, Step::AppendAll(0, vec![700; 12]), Step::Commit, Step::Append(0, 9), Step::Commit];
        player.play(&steps).unwrap();
        if player.disk.is_powered() {
            break;
        }
        for seed in 0..8 {
            let mut after = player.on_disk(player.disk.kill());
            after.open().unwrap();
            let crashed = after.disk.crash(seed);
            assert_eq!(after.prove_sound(crashed), Ok(()), "killed at {number}, crash {seed}");
        }
    }
}

#[test]
fn a_store_made_several_folders_deep_does_not_vanish_with_a_folder_that_was_made_for_it() {
    for dir in ["/a/store", "/a/b/store", "/a/b/c/store"].map(Path::new) {
        let disk = FaultVfs::new(1);
        let journal = Journal::create(dir, node(), options_on(&disk)).unwrap();
        journal.writer(own_log(&journal)).unwrap().append(b"kept").unwrap().wait().unwrap();
        for seed in 0..40 {
            let after = Journal::open(dir, options_on(&disk.snapshot().crash(seed)));
            assert!(after.is_ok(), "{}, seed {seed}: {after:?}", dir.display());
        }
    }
}

/// How often an opening reads a store whose last commit, a record that repeats `fake`, was cut short by a power cut.
fn reads_to_open(fake: &[u8], times: usize) -> u64 {
    let disk = FaultVfs::new(1);
    let mut options = options_on(&disk);
    (options.segment_bytes_min, options.segment_bytes_max) = (4 << 20, 4 << 20);
    let journal = Journal::create(Path::new(STORE), node(), options.clone()).unwrap();
    let foreign = Genesis::new(SpaceName::new("p").unwrap(), NodeName::new("p").unwrap(), [1; 16]);
    let log = journal.create_log(foreign.clone()).unwrap();
    let mut builder = BatchBuilder::with_capacity(0);
    builder.push(Hlc::from_bits(1), &[b"mark".as_slice(), &fake.repeat(times)].concat());
    journal.store(builder.seal(log, foreign.head())).unwrap();
    journal.commit().unwrap();
    journal.close().unwrap();
    drop(journal);
    let is_segment = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "seg");
    let segment = disk.files().into_iter().find(is_segment).unwrap();
    disk.edit(&segment, |content| {
        let body = content.windows(4).position(|bytes| bytes == b"mark").unwrap();
        let end = body + 4 + fake.len() * times;
        content[end - 100..].fill(0);
    });
    let before = disk.counts().of(Operation::Read);
    Journal::open(Path::new(STORE), options).unwrap();
    disk.counts().of(Operation::Read) - before
}

#[test]
fn a_record_full_of_headers_of_long_frames_does_not_have_them_read() {
    // As the format says, but for the checksum, which needs the segment's salt.
    let mut fake = b"CFF1\0\0\0\0".to_vec();
    fake.extend_from_slice(&(2_u32 << 20).to_le_bytes());
    fake.extend_from_slice(&1_u32.to_le_bytes());
    fake.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0]);
    fake.extend_from_slice(&[0; 16]);
    assert_eq!(fake.len(), 40);
    let harmless = reads_to_open(&[0x55; 40], 500);
    // At each of the eight places where it may lie.
    for shift in 0..8 {
        let mut shifted = fake.clone();
        shifted.rotate_right(shift);
        let reads = reads_to_open(&shifted, 500);
        assert!(reads <= harmless + 8, "shifted by {shift}: {reads} reads, {harmless} without");
    }
}

/// How often opening reads a store with so many own logs, of a few records each in a sealed segment.
fn reads_to_open_with(logs: u64) -> u64 {
    let disk = FaultVfs::new(1);
    let mut options = options_on(&disk);
    // It is large enough to be sealed at the close.
    (options.segment_bytes_min, options.segment_bytes_max) = (1 << 20, 1 << 20);
    let journal = Journal::create(Path::new(STORE), node(), options.clone()).unwrap();
    let nonce = *journal.identity().incarnation.as_bytes();
    for number in 0..logs {
        let space = SpaceName::new(&format!("space-{number}")).unwrap();
        let log = journal.create_log(Genesis::new(space, node(), nonce)).unwrap();
        journal.writer(log).unwrap().append_all(&[vec![7; 100_000 / logs as usize], vec![8]]).unwrap();
    }
    journal.commit().unwrap();
    journal.close().unwrap();
    drop(journal);
    let before = disk.counts().of(Operation::Read);
    Journal::open(Path::new(STORE), options).unwrap();
    disk.counts().of(Operation::Read) - before
}

#[test]
fn opening_reads_no_batch_of_its_own_logs() {
    assert_eq!(reads_to_open_with(200), reads_to_open_with(2));
}

#[test]
fn a_segment_cut_back_when_its_last_commit_was_copied_is_no_damage() {
    let mut player = Player::new(FaultVfs::new(1), small_options());
    player.play(&[Step::CreateLog, Step::Commit, Step::Kill]).unwrap();
    // The commit was the first segment's only one. Its footer is written when the store is used next, and takes
    // less; then the power goes before that is recorded.
    player.disk.inject_ahead(Injection::at(0, Fault::PowerCut).of(Operation::Create));
    [Step::Append(0, 10), Step::Commit].iter().for_each(|step| player.step(step).unwrap());
    assert_eq!(player.disk.struck(), 1);
    let disk = player.disk.kill();
    player.prove_sound(disk).unwrap();
}

#[test]
fn closing_on_a_full_disk_leaves_nothing_that_looks_like_an_unfinished_commit() {
    let lens = vec![689, 401, 874, 775, 66, 333, 560, 167, 876, 115, 345, 594, 261, 171, 397, 170, 542];
    let mut player = Player::new(FaultVfs::new(1), small_options());
    player.play(&[Step::CreateLog, Step::AppendAll(0, lens), Step::Fill(20480), Step::Reopen]).unwrap();
    let disk = player.disk.crash(2);
    disk.set_capacity(None);
    assert_eq!(verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap().unfinished, []);
    let (_, recovery) = Journal::open(Path::new(STORE), options_on(&disk)).unwrap();
    assert!(matches!(recovery.findings[..], [Finding::CopiedLastFrame { .. }]), "{recovery:?}");
    player.prove_sound(disk.crash(1)).unwrap();
}

#[test]
fn verify_names_no_footer_that_is_not_written_yet() {
    // The only commit was never proven: it is copied, and what stands where the footer will be is the old one.
    let mut player = Player::new(FaultVfs::new(1), small_options());
    player.play(&[Step::CreateLog, Step::AppendAll(0, vec![400; 3]), Step::Commit, Step::Kill]).unwrap();
    let disk = player.disk.kill();
    assert_eq!(verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap().damage, []);
}

#[test]
fn what_a_reader_served_is_served_while_a_writer_comes() {
    let mut player = Player::new(FaultVfs::new(1), small_options());
    let append = [Step::CreateLog, Step::Append(0, 10), Step::Commit];
    player.play(&append).unwrap();
    // The last commit is proven by nothing, and no writer is there who would prove it.
    player.journal = None;
    player.disk = player.disk.kill();
    player.step(&Step::ReadBeside).unwrap();
    // It writes that commit anew to another segment, and as yet nothing behind it.
    player.open().unwrap();
    player.step(&Step::ReadBeside).unwrap();
}

#[test]
fn a_segment_is_removed_only_once_it_survives_power_loss_that_it_is_freed() {
    let load = [Step::AppendAll(0, vec![700; 14]), Step::Commit];
    let load = || std::iter::repeat_n(load.clone(), 12).flatten();
    let mut steps = vec![Step::CreateLog];
    steps.extend(load());
    // From then on the file of logs, which is flushed after it is written, has all of them.
    steps.extend([Step::Trim(0, 1000), Step::Free]);
    steps.extend(load());
    steps.push(Step::Trim(0, 1000));
    let mut player = Player::new(FaultVfs::new(1), small_options());
    player.play(&steps).unwrap();
    let before = player.disk.files();
    player.disk.inject_ahead(Injection::at(0, Fault::NoSpace).of(Operation::SyncDir));
    player.step(&Step::Free).unwrap();
    assert_eq!((player.disk.struck(), player.disk.files()), (1, before.clone()), "the extent could not be flushed");
    // Whoever comes next finds the extent as it should be: another process, that is cut short in its turn,
    for number in 0..40 {
        for seed in 0..8 {
            let mut other = player.on_disk(player.disk.snapshot().kill());
            other.disk.inject(Injection::at(number, Fault::PowerCut));
            other.open().unwrap();
            let disk = other.disk.crash(seed);
            assert_eq!(other.prove_sound(disk), Ok(()), "opened up to operation {number}, seed {seed}");
        }
    }
    // or this one, when it tries again: it renames again, since a flush that works proves nothing of one that failed.
    player.disk.start_trace();
    player.step(&Step::Free).unwrap();
    let trace = player.disk.trace();
    assert!(trace.iter().any(|(_, line)| line.contains("Rename \"/store/extent\"")), "{trace:?}");
    assert!(player.disk.files().len() < before.len(), "nothing was freed");
    for seed in 0..32 {
        let disk = player.disk.crash(seed);
        assert_eq!(player.on_disk(disk.clone()).prove_sound(disk), Ok(()), "seed {seed}");
    }
}
