//! Stores that were damaged and are mended from a copy: every record is there again, verbatim; a crash at any point of
//! the mending leaves a store that is at worst not mended.
//!
//! `COUNTERFOIL_MEND=n` tries `n` damaged stores; `COUNTERFOIL_SEED=n` replays one.

use std::path::Path;

use bytes::Bytes;
use counterfoil_faults::{
    Fault, FaultVfs, Injection, Ledger, Missing, Player, Rng, STORE, Step, options_on, small_options,
};
use counterfoil_storage::{Arrival, Batch, Head, Hole, Journal, LogId, MendError, ReadError, Recovery, Seq, verify};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A closed store of several segments, and what it was given.
fn store() -> (FaultVfs, Ledger) {
    let mut player = Player::new(FaultVfs::new(1), small_options());
    let mut steps = vec![Step::CreateLog, Step::CreateLog, Step::CreateForeignLog];
    for round in 0..40 {
        steps.extend([Step::AppendAll(round, vec![150; 20]), Step::Store(0, 10), Step::Commit]);
    }
    steps.push(Step::Reopen);
    assert_eq!(player.play(&steps), Ok(()));
    player.journal.take().expect("open").close().unwrap();
    (player.disk.kill(), player.ledger)
}

fn open(disk: &FaultVfs) -> (Journal, Recovery) {
    Journal::open(Path::new(STORE), options_on(disk)).unwrap()
}

/// Batches of a hole as another replica has them, newest first, a few at a time.
fn read_back(copy: &Journal, log: LogId, hole: Hole, most: usize) -> Vec<Batch> {
    let mut before = hole.end;
    let mut batches = Vec::new();
    while before.next_seq > hole.first_seq && batches.len() < most {
        let batch = copy.read_batch(log, Seq(before.next_seq.0 - 1)).unwrap().expect("the copy is whole");
        assert_eq!(batch.head(), before, "the end of a hole is told by its digest");
        before = Head { next_seq: batch.first_seq(), digest: batch.header().previous };
        batches.push(batch);
    }
    batches
}

/// Fills all holes that are known. How many batches that took.
fn mend(journal: &Journal, copy: &Journal) -> Result<usize, MendError> {
    let mut count = 0;
    for log in journal.logs(None) {
        while let Some(hole) = journal.holes(log.id)?.last().copied() {
            let batches = read_back(copy, log.id, hole, 3);
            assert!(!batches.is_empty());
            journal.mend(&batches)?;
            count += batches.len();
        }
    }
    Ok(count)
}

/// Everything is there, in order and once, but for what is missing at the end of a log: that is no hole.
fn judge(journal: &Journal, ledger: &Ledger, what: &str) -> Vec<Missing> {
    let mut missing = ledger.judge_rotten(journal).unwrap_or_else(|violation| panic!("{what}: {violation:?}"));
    missing.retain(|missing| journal.log(missing.log).is_some_and(|log| missing.seq < log.durable.next_seq));
    missing
}

/// All batches by arrival, once each.
fn arrivals(journal: &Journal) -> Vec<(Arrival, Batch)> {
    let mut reader = journal.read_arrivals(Arrival::ZERO);
    let mut found = Vec::new();
    for _ in 0..100_000 {
        match reader.next() {
            None => return found,
            Some(Ok(arrived)) => found.push(arrived),
            Some(Err(_)) => {}
        }
    }
    panic!("reading by arrival makes no progress");
}

fn segments(disk: &FaultVfs) -> Vec<std::path::PathBuf> {
    let mut segments = disk.files();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments
}

/// One damage to a sealed segment; whether the file is gone.
fn damage(disk: &FaultVfs, rng: &mut Rng) -> bool {
    let segments = segments(disk);
    let path = &segments[rng.below(segments.len() as u64 - 1) as usize];
    let len = disk.content(path).map_or(0, |content| content.len() as u64);
    match rng.below(12) {
        0 => disk.lose(path),
        1 => {
            disk.cut(path, rng.below(len));
            true
        }
        2 => {
            let (at, count) = (rng.below(len) as usize, 1 + rng.below(5000) as usize);
            disk.edit(path, |content| content.iter_mut().skip(at).take(count).for_each(|byte| *byte = 0xa5));
            true
        }
        _ => {
            disk.flip_bit(path, rng.below(len * 8));
            false
        }
    }
}

#[test]
fn what_was_lost_at_random_is_mended_from_a_copy_byte_for_byte() {
    let (sound, ledger) = store();
    let (copy, _) = open(&sound.snapshot());
    let seeds = match number("COUNTERFOIL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("COUNTERFOIL_MEND").unwrap_or(60),
    };
    let (mut mended, mut again, mut whole_files, mut closed, mut clean) = (0, 0, 0, 0, 0);
    for seed in seeds {
        let what = format!("COUNTERFOIL_SEED={seed}");
        let mut rng = Rng::new(seed);
        let disk = sound.snapshot();
        let mut is_rough = false;
        for _ in 0..=rng.below(6) {
            is_rough |= damage(&disk, &mut rng);
        }
        let lost_files = (segments(&sound).len() - segments(&disk).len()) as u64;
        let (journal, _) = open(&disk);
        journal.find_holes(|_, _| {}).unwrap();
        mended += mend(&journal, &copy).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(journal.logs(None).iter().all(|log| log.holes.is_empty()), "{what}");
        let missing = judge(&journal, &ledger, &what);
        assert!(missing.is_empty(), "{what}: {} are missing, first {:?}", missing.len(), missing[0]);
        let batches = arrivals(&journal);
        let copies = arrivals(&copy);
        let mut served: Vec<_> = batches.iter().map(|(_, batch)| (batch.log(), batch.first_seq())).collect();
        served.sort_unstable();
        let count = served.len();
        served.dedup();
        assert_eq!((served.len(), count), (copies.len(), copies.len()), "{what}: by arrival each batch comes once");
        journal.close().unwrap();
        closed += lost_files;
        drop(journal);
        // It arrives where it did, or again.
        let end = copies[copies.len() - 1].0;
        for (arrival, batch) in &batches {
            let place = copies.iter().find(|(_, copy)| copy == batch).map(|(arrival, _)| *arrival);
            assert!(place == Some(*arrival) || *arrival > end, "{what}: {arrival} instead of {place:?}");
            again += usize::from(*arrival > end);
        }
        if !is_rough {
            let same = |path: &std::path::PathBuf| disk.content(path) == sound.content(path);
            whole_files += u64::from(segments(&sound).iter().all(same));
        }
        let (journal, recovery) = open(&disk.kill());
        clean += u64::from(recovery.damage().count() == 0);
        assert!(judge(&journal, &ledger, &what).is_empty(), "{what}: opened again");
        journal.find_holes(|_, _| {}).unwrap();
        assert!(journal.logs(None).iter().all(|log| log.holes.is_empty()), "{what}: opened again");
    }
    println!("{mended} batches mended, {again} of them arrived again");
    println!("{whole_files} stores are as they were, byte for byte; {clean} open without a word of damage");
    println!("{closed} lost segments are told of no more");
    assert!(mended > 0 && closed > 0);
}

#[test]
fn a_crash_or_a_fault_at_any_operation_of_a_mending_leaves_a_store_that_can_be_mended() {
    let (sound, ledger) = store();
    let (copy, _) = open(&sound.snapshot());
    let rotten = sound.snapshot();
    let files = segments(&rotten);
    for (index, bit) in [(0, 9000 * 8), (1, 12_345), (2, 9999 * 8 + 3), (2, 20_000 * 8)] {
        rotten.flip_bit(&files[index], bit);
    }
    rotten.lose(&files[4]);
    let mut operations = 0;
    for fault in [Fault::PowerCut, Fault::Eio, Fault::NoSpace] {
        for number in 0.. {
            let what = format!("{fault:?} at operation {number}");
            let disk = rotten.snapshot();
            let (journal, _) = open(&disk);
            journal.find_holes(|_, _| {}).unwrap();
            let begun = disk.counts().total();
            disk.inject(Injection::at(begun + number, fault));
            let outcome = mend(&journal, &copy);
            operations = operations.max(number);
            drop(journal);
            let after = disk.crash(number);
            let (journal, _) = open(&after);
            // What is served is what was written; nothing that was there is gone.
            let lost = judge(&journal, &ledger, &what);
            let before = {
                let (journal, _) = open(&rotten.snapshot());
                judge(&journal, &ledger, &what)
            };
            let was_missing =
                |record: &Missing| before.iter().any(|old| (old.log, old.seq) == (record.log, record.seq));
            assert!(lost.iter().all(was_missing), "{what}: something was lost by mending");
            journal.find_holes(|_, _| {}).unwrap();
            mend(&journal, &copy).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(judge(&journal, &ledger, &what).is_empty(), "{what}");
            if outcome.is_ok() {
                break;
            }
        }
    }
    println!("{operations} operations, each failed in 3 ways");
    assert!(operations > 10);
}

#[test]
fn only_the_very_batch_that_is_missing_fills_a_hole() {
    let (sound, ledger) = store();
    let (copy, _) = open(&sound.snapshot());
    let disk = sound.snapshot();
    let files = segments(&disk);
    disk.lose(&files[3]);
    let (journal, _) = open(&disk);
    let holed = journal.logs(None).into_iter().find(|log| !log.holes.is_empty()).unwrap();
    let hole = journal.holes(holed.id).unwrap()[0];
    let batches = read_back(&copy, holed.id, hole, usize::MAX);
    assert!(batches.len() > 2);
    let refused =
        |batch: &Batch| matches!(journal.mend(std::slice::from_ref(batch)), Err(MendError::NotMissing { .. }));
    // Not the last of the hole; one that is there; another log's; one that was made up and fits its predecessor.
    assert!(refused(&batches[1]));
    let there = copy.read_batch(holed.id, Seq(0)).unwrap().unwrap();
    assert!(journal.mend(&[there]).is_ok(), "what is there already changes nothing");
    let mut forged = counterfoil_storage::BatchBuilder::with_capacity(64);
    let last = &batches[0];
    for record in last.records() {
        forged.push(record.unwrap().time, b"forged");
    }
    let before = Head { next_seq: last.first_seq(), digest: last.header().previous };
    assert!(refused(&forged.seal(holed.id, before)));
    let found = journal.log(holed.id).unwrap();
    assert_eq!(found.holes, holed.holes);
    // In one go, from the end on.
    journal.mend(&batches).unwrap();
    assert!(!journal.holes(holed.id).unwrap().contains(&hole));
    mend(&journal, &copy).unwrap();
    assert!(judge(&journal, &ledger, "").is_empty());
}

#[test]
fn a_hole_is_known_once_a_read_meets_it_and_is_told_to_whoever_watches() {
    let (sound, _) = store();
    let disk = sound.snapshot();
    let (journal, recovery) = open(&disk);
    assert_eq!(recovery.damage().count(), 0);
    let log = journal.logs(None).into_iter().max_by_key(|log| log.durable.next_seq).unwrap();
    let batch = journal.read_batch(log.id, Seq(50)).unwrap().unwrap();
    let body: Bytes = batch.bytes().clone();
    let (path, at) = segments(&disk)
        .into_iter()
        .find_map(|path| {
            let content = disk.content(&path)?;
            let at = content.windows(body.len()).position(|window| window == &body[..])?;
            Some((path, at as u64))
        })
        .unwrap();
    disk.flip_bit(&path, (at + body.len() as u64 - 1) * 8);
    let mut watch = journal.watch(Some(&log.genesis.space));
    assert!(!watch.wait_timeout(std::time::Duration::ZERO));
    let met = journal.read(log.id, Seq(0)).filter(Result::is_err).count();
    assert_eq!(met, 1);
    assert!(watch.wait_timeout(std::time::Duration::ZERO));
    let holes = journal.log(log.id).unwrap().holes;
    assert_eq!(holes.iter().collect::<Vec<_>>(), [(batch.first_seq(), batch.next_seq())]);
    assert_eq!(journal.holes(log.id).unwrap(), [Hole { first_seq: batch.first_seq(), end: batch.head() }]);
    let found = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
    assert_eq!(found.damage.len(), 1);
    journal.mend(&[batch]).unwrap();
    assert!(journal.log(log.id).unwrap().holes.is_empty() && journal.holes(log.id).unwrap().is_empty());
    assert!(watch.wait_timeout(std::time::Duration::ZERO));
    let found = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
    assert_eq!(found.damage, []);
    assert_eq!(disk.content(&path), sound.content(&path));
}

/// Where a batch stands: the file, and the offset of its last byte.
fn place_of(disk: &FaultVfs, batch: &Batch) -> (std::path::PathBuf, u64) {
    let bytes = &batch.bytes()[..];
    let place = segments(disk).into_iter().find_map(|path| {
        let content = disk.content(&path)?;
        let at = content.windows(bytes.len()).position(|window| window == bytes)?;
        Some((path, (at + bytes.len() - 1) as u64))
    });
    place.expect("the batch is on disk")
}

/// A store in which a batch of a sealed segment has rotted, and that batch.
fn rotten() -> (FaultVfs, Batch) {
    let disk = store().0;
    let (journal, _) = open(&disk);
    let log = journal.logs(None).into_iter().max_by_key(|log| log.durable.next_seq).unwrap();
    let batch = journal.read_batch(log.id, Seq(50)).unwrap().unwrap();
    journal.close().unwrap();
    drop(journal);
    let disk = disk.kill();
    let (path, last) = place_of(&disk, &batch);
    disk.flip_bit(&path, last * 8);
    (disk, batch)
}

/// What is known to be missing of the log of a batch.
fn holes_of(journal: &Journal, batch: &Batch) -> Vec<(Seq, Seq)> {
    journal.log(batch.log()).unwrap().holes.iter().collect()
}

#[test]
fn a_hole_that_was_known_is_known_in_later_lives_before_anything_is_read_and_until_it_is_mended() {
    let (disk, batch) = rotten();
    let (journal, recovery) = open(&disk);
    let hole = (batch.first_seq(), batch.next_seq());
    assert_eq!((recovery.damage().count(), holes_of(&journal, &batch)), (0, vec![]), "nobody has read it");
    assert!(journal.read_batch(batch.log(), batch.first_seq()).is_err());
    drop(journal);
    // After a kill, after power was cut, after it was closed, and for one who only reads.
    for disk in [disk.kill(), disk.crash(1)] {
        let (journal, _) = open(&disk);
        assert_eq!(holes_of(&journal, &batch), [hole]);
        journal.close().unwrap();
        drop(journal);
        let mut options = options_on(&disk);
        options.read_only = true;
        let beside = Journal::open(Path::new(STORE), options).unwrap().0;
        assert_eq!(holes_of(&beside, &batch), [hole]);
        let (journal, _) = open(&disk);
        assert_eq!(journal.holes(batch.log()).unwrap(), [Hole { first_seq: hole.0, end: batch.head() }]);
        journal.mend(std::slice::from_ref(&batch)).unwrap();
        drop(journal);
        let (journal, _) = open(&disk.crash(2));
        assert_eq!(holes_of(&journal, &batch), []);
    }
}

#[test]
fn a_hole_found_while_opening_is_known_once_the_segment_has_a_footer_and_below_the_floor_it_is_none() {
    let mut player = Player::new(FaultVfs::new(1), small_options());
    let steps = [Step::CreateLog].into_iter().chain((0..9).flat_map(|_| [Step::Append(0, 500), Step::Commit]));
    assert_eq!(player.play(&steps.collect::<Vec<_>>()), Ok(()));
    let journal = player.journal.take().expect("open");
    let log = journal.logs(None)[0].id;
    let batch = journal.read_batch(log, Seq(4)).unwrap().unwrap();
    drop(journal);
    let disk = player.disk.kill();
    let (path, last) = place_of(&disk, &batch);
    disk.flip_bit(&path, last * 8);
    let (journal, recovery) = open(&disk);
    assert_eq!((recovery.damage().count(), holes_of(&journal, &batch)), (1, vec![(Seq(4), Seq(5))]));
    journal.close().unwrap();
    drop(journal);
    let (journal, recovery) = open(&disk);
    assert_eq!((recovery.damage().count(), holes_of(&journal, &batch)), (0, vec![(Seq(4), Seq(5))]));
    journal.trim(&[(log, Seq(5))]).unwrap();
    assert_eq!(holes_of(&journal, &batch), []);
    journal.close().unwrap();
    drop(journal);
    assert_eq!(holes_of(&open(&disk).0, &batch), []);
}

#[test]
fn whatever_happens_while_a_hole_is_recorded_it_is_known_and_a_file_that_can_t_be_read_is_told() {
    let (rotten, batch) = rotten();
    let hole = (batch.first_seq(), batch.next_seq());
    let mut operations = 0;
    for fault in [Fault::PowerCut, Fault::Eio, Fault::NoSpace] {
        for number in 0.. {
            let disk = rotten.snapshot();
            let (journal, _) = open(&disk);
            disk.inject_ahead(Injection::at(number, fault));
            let error = journal.read_batch(batch.log(), batch.first_seq()).unwrap_err();
            let is_known = matches!(error, ReadError::Damaged { .. });
            assert_eq!(holes_of(&journal, &batch), if is_known { vec![hole] } else { vec![] });
            let was_struck = disk.struck() > 0;
            if fault != Fault::PowerCut {
                disk.mend();
                journal.close().unwrap();
            }
            drop(journal);
            let disk = disk.crash(number);
            let (journal, recovery) = open(&disk);
            assert_eq!(recovery.damage().count(), 0, "{fault:?} at operation {number}");
            // Without power it could not be recorded; whoever was told of it has heard nothing since.
            let is_recorded = holes_of(&journal, &batch) == [hole];
            assert!(is_recorded || !is_known || (fault == Fault::PowerCut && was_struck), "{fault:?} at {number}");
            operations = operations.max(number);
            if !was_struck {
                break;
            }
        }
    }
    assert!(operations > 4, "{operations}");
    let (journal, _) = open(&rotten);
    journal.find_holes(|_, _| {}).unwrap();
    journal.close().unwrap();
    drop(journal);
    let file = Path::new(STORE).join("holes");
    rotten.edit(&file, |content| content.fill(0x55));
    let told = |damage: &counterfoil_storage::Damage| damage.to_string().contains("the file of holes is damaged");
    let found = verify(Path::new(STORE), &options_on(&rotten), |_, _| {}).unwrap();
    assert_eq!((found.damage.len(), found.damage.iter().filter(|damage| told(damage)).count()), (2, 1));
    let (journal, recovery) = open(&rotten);
    assert_eq!(recovery.damage().filter(|damage| told(damage)).count(), 1);
    drop(journal);
    assert_eq!(open(&rotten).1.damage().count(), 0, "it is written anew");
}

#[test]
fn a_segment_that_is_gone_is_told_of_until_all_that_it_held_is_stored_anew() {
    let (sound, ledger) = store();
    let (copy, _) = open(&sound.snapshot());
    let files = segments(&sound);
    for lost in [vec![0], vec![2], vec![3, 4], vec![1, 5]] {
        let disk = sound.snapshot();
        lost.iter().for_each(|index: &usize| assert!(disk.lose(&files[*index])));
        let (journal, recovery) = open(&disk);
        assert_eq!(recovery.damage().count(), if lost == [1, 5] { 2 } else { 1 }, "{lost:?}");
        assert_eq!(journal.close_gaps().unwrap(), 0, "{lost:?}: all is missing");
        let one = journal.logs(None).into_iter().find(|log| !log.holes.is_empty()).unwrap();
        let hole = journal.holes(one.id).unwrap()[0];
        journal.mend(&read_back(&copy, one.id, hole, 1)).unwrap();
        assert_eq!(journal.close_gaps().unwrap(), 0, "{lost:?}: much is missing");
        let before = disk.snapshot();
        mend(&journal, &copy).unwrap();
        assert!(lost.iter().all(|index| disk.content(&files[*index]).is_some()), "{lost:?}");
        crash_while_gaps_are_closed(&before, &copy, &ledger);
        journal.close().unwrap();
        drop(journal);
        let disk = disk.kill();
        let found = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
        assert_eq!(found.damage, [], "{lost:?}");
        let (journal, recovery) = open(&disk);
        assert_eq!(recovery.damage().count(), 0, "{lost:?}: {recovery:?}");
        assert!(judge(&journal, &ledger, "").is_empty());
        assert_eq!(journal.close_gaps().unwrap(), 0);
    }
}

#[test]
fn a_gap_that_was_closed_is_not_closed_again_and_what_was_kept_aside_stays_as_it_was() {
    let (sound, ledger) = store();
    let (copy, _) = open(&sound.snapshot());
    let files = segments(&sound);
    let disk = sound.snapshot();
    // Neither copy of its header can be read: the file is kept aside once nothing of it is missing.
    disk.edit(&files[2], |content| content[..8192].fill(0xee));
    let unreadable = disk.content(&files[2]).unwrap();
    let (journal, _) = open(&disk);
    assert!(mend(&journal, &copy).unwrap() > 0);
    let kept = || disk.files().into_iter().filter(|path| path.to_string_lossy().contains("torn-")).collect::<Vec<_>>();
    let aside = kept();
    assert_eq!(aside.len(), 1);
    assert_eq!(disk.content(&aside[0]).as_ref(), Some(&unreadable));
    let empty = disk.content(&files[2]).unwrap();
    // As it stands, after another hole was mended, and when nothing is known of the first attempt.
    assert_eq!(journal.close_gaps().unwrap(), 0);
    disk.flip_bit(&files[3], 20_000 * 8);
    journal.find_holes(|_, _| {}).unwrap();
    mend(&journal, &copy).unwrap();
    assert_eq!(journal.close_gaps().unwrap(), 0);
    journal.close().unwrap();
    drop(journal);
    let (journal, recovery) = open(&disk);
    assert_eq!((recovery.damage().count(), journal.close_gaps().unwrap()), (0, 0));
    assert_eq!((kept(), disk.content(&aside[0])), (aside.clone(), Some(unreadable)));
    assert_eq!(disk.content(&files[2]), Some(empty));
    assert!(judge(&journal, &ledger, "").is_empty());
    journal.close().unwrap();
    assert_eq!(verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap().damage, []);
}

#[test]
fn lost_segments_are_told_of_no_more_once_they_are_mended_where_earlier_ones_were_given_back_too() {
    let (sound, _) = store();
    let disk = sound.snapshot();
    let files = segments(&disk);
    // All but one log are trimmed, so that the first segments are given back; what is left of that one is copied forward.
    let (journal, _) = open(&disk);
    let mut logs = journal.logs(None);
    logs.sort_by_key(|log| log.bytes);
    let floor = |log: &counterfoil_storage::LogInfo| (log.id, Seq(log.durable.next_seq.0 / 6));
    journal.trim(&logs[1..].iter().map(floor).collect::<Vec<_>>()).unwrap();
    assert!(journal.free().unwrap().copied_bytes > 0);
    journal.close().unwrap();
    drop(journal);
    let disk = disk.kill();
    let whole = disk.snapshot();
    let left: Vec<_> = files.iter().filter(|path| disk.content(path).is_some()).collect();
    assert!(left.len() < files.len() && left.len() > 3, "{} of {}", left.len(), files.len());
    disk.lose(left[2]);
    let (copy, _) = open(&whole);
    let (journal, recovery) = open(&disk);
    assert_eq!(recovery.damage().count(), 1);
    assert!(mend(&journal, &copy).unwrap() > 0);
    journal.close().unwrap();
    drop(journal);
    assert_eq!(open(&disk).1.damage().count(), 0);
    assert_eq!(verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap().damage, []);
}

/// A crash at any operation of the mending and of what follows it leaves a store in which what was mended is there, and
/// that can be mended to the end.
fn crash_while_gaps_are_closed(disk: &FaultVfs, copy: &Journal, ledger: &Ledger) {
    for number in 0..3000 {
        let crashed = disk.snapshot().kill();
        crashed.inject(Injection::at(number, Fault::PowerCut));
        if let Ok((journal, _)) = Journal::open(Path::new(STORE), options_on(&crashed)) {
            // What became of it is seen below.
            let _ = mend(&journal, copy);
        }
        let was_struck = crashed.struck() > 0;
        let after = crashed.crash(number);
        let (journal, _) = open(&after);
        let what = format!("a crash at operation {number}");
        mend(&journal, copy).unwrap_or_else(|error| panic!("{what}: {error}"));
        journal.close_gaps().unwrap();
        assert!(judge(&journal, ledger, &what).is_empty(), "{what}");
        journal.close().unwrap();
        let found = verify(Path::new(STORE), &options_on(&after), |_, _| {}).unwrap();
        assert_eq!(found.damage, [], "{what}");
        if !was_struck {
            return;
        }
    }
    panic!("mending has no end");
}
