//! Batches written a second time, where nothing tells any more what place they had.

use std::{
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use counterfoil_storage::{
    Arrival, Batch, BatchBuilder, Damage, Genesis, Head, Hlc, Journal, LogId, MendError, NodeName, Options, ReadError,
    Seq, SpaceName, VerifyReport, verify,
    vfs::{Memory, OpenMode, Vfs as _},
};

const DIR: &str = "hub.store";
const BATCHES: usize = 40;

fn options(vfs: &Memory) -> Options {
    let mut options = Options::default();
    options.vfs = Arc::new(vfs.clone());
    options.background = false;
    // Nothing is served from memory.
    options.ring_bytes = 0;
    (options.segment_bytes_min, options.segment_bytes_max) = (16 << 10, 16 << 10);
    options
}

fn genesis(node: &str) -> Genesis {
    Genesis::new(SpaceName::new("s").unwrap(), NodeName::new(node).unwrap(), [1; 16])
}

fn batch(log: LogId, head: Head, body: &[u8]) -> Batch {
    let mut builder = BatchBuilder::with_capacity(body.len());
    builder.push(Hlc::from_bits(head.next_seq.0 << 16), body);
    builder.seal(log, head)
}

/// A store with two logs of other nodes, a batch of each in every commit, and their batches.
fn store(vfs: &Memory) -> (Journal, [Vec<Batch>; 2]) {
    let journal = Journal::create(Path::new(DIR), NodeName::new("hub").unwrap(), options(vfs)).unwrap();
    let logs = ["a", "b"].map(|node| journal.create_log(genesis(node)).unwrap());
    let mut batches = ["a", "b"].map(|node| vec![batch(genesis(node).log_id(), genesis(node).head(), &[0; 900])]);
    assert_eq!(logs, [0, 1].map(|index: usize| batches[index][0].log()));
    batches.iter().for_each(|of_log| drop(journal.store(of_log[0].clone()).unwrap()));
    journal.commit().unwrap();
    (1..BATCHES).for_each(|_| grow(&journal, &mut batches));
    (journal, batches)
}

/// A commit more.
fn grow(journal: &Journal, batches: &mut [Vec<Batch>; 2]) {
    for of_log in batches {
        let last = of_log.last().unwrap();
        let next = batch(last.log(), last.head(), &[of_log.len() as u8; 900]);
        journal.store(next.clone()).unwrap();
        of_log.push(next);
    }
    journal.commit().unwrap();
}

fn open(vfs: &Memory) -> Journal {
    Journal::open(Path::new(DIR), options(vfs)).unwrap().0
}

fn reopen(vfs: &Memory, journal: Journal) -> Journal {
    journal.close().unwrap();
    drop(journal);
    open(vfs)
}

fn verified(vfs: &Memory) -> VerifyReport {
    verify(Path::new(DIR), &options(vfs), |_, _| {}).unwrap()
}

fn segments(vfs: &Memory) -> Vec<PathBuf> {
    let mut names = vfs.list(Path::new(DIR)).unwrap();
    names.retain(|name| name.strip_suffix(".seg").is_some());
    names.sort();
    names.iter().map(|name| PathBuf::from(DIR).join(name)).collect()
}

/// Changes the bytes around a batch wherever it stands in the store's segments: `change` is told all of a file, where the
/// batch begins and where it ends.
fn edit(vfs: &Memory, batch: &Batch, change: impl Fn(&mut [u8], usize, usize)) {
    let mut hits = 0;
    for path in segments(vfs) {
        let file = vfs.open(&path, OpenMode::Write).unwrap();
        let mut content = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut content, 0).unwrap();
        if let Some(at) = content.windows(batch.bytes().len()).position(|bytes| bytes == &batch.bytes()[..]) {
            change(&mut content, at, at + batch.bytes().len());
            file.write_at(&[IoSlice::new(&content)], 0).unwrap();
            hits += 1;
        }
    }
    assert!(hits > 0, "the batch is on disk");
}

/// Flips a bit of the body.
fn damage(vfs: &Memory, batch: &Batch) {
    edit(vfs, batch, |content, _, end| content[end - 1] ^= 1);
}

/// Fills all holes of the logs with these batches, from their ends on.
fn mend(journal: &Journal, batches: &[Vec<Batch>; 2]) {
    batches.iter().for_each(|of_log| mend_log(journal, of_log));
}

fn mend_log(journal: &Journal, batches: &[Batch]) {
    while let Some(hole) = journal.holes(batches[0].log()).unwrap().first() {
        let missing = batches.iter().rev().skip_while(|batch| batch.head() != hole.end);
        let missing: Vec<_> = missing.take_while(|batch| batch.next_seq() > hole.first_seq).cloned().collect();
        assert!(!missing.is_empty(), "{hole:?}");
        journal.mend(&missing).unwrap();
    }
}

/// All of a log is read, in order; each batch by itself; and by arrival each once.
fn assert_whole(journal: &Journal, batches: &[Batch]) {
    let log = batches[0].log();
    let read: Vec<_> = journal.read(log, Seq(0)).collect::<Result<_, _>>().unwrap();
    assert_eq!(read, batches);
    for batch in batches {
        assert_eq!(journal.read_batch(log, batch.first_seq()).unwrap().as_ref(), Some(batch));
        let first = journal.read(log, batch.first_seq()).next().unwrap().unwrap();
        assert_eq!(first, *batch);
    }
    assert_eq!(journal.log(log).unwrap().durable, batches.last().unwrap().head());
    // A number may be missing: that of a batch that was lost, and which has another one now.
    let is_whole = |arrived: &Result<_, _>| !matches!(arrived, Err(ReadError::MissingArrivals { .. }));
    let arrived = journal.read_arrivals(Arrival(0)).filter(is_whole);
    let mut arrived: Vec<_> = arrived.map(|arrived| arrived.unwrap()).collect();
    assert!(arrived.is_sorted_by(|(a, _), (b, _)| a < b));
    arrived.sort_by_key(|(_, batch)| batch.first_seq());
    let of_log: Vec<_> = arrived.into_iter().map(|(_, batch)| batch).filter(|batch| batch.log() == log).collect();
    assert_eq!(of_log, batches, "by arrival");
}

#[test]
fn what_a_lost_segment_held_is_served_once_it_is_stored_anew_also_when_segments_roll_over_and_the_copy_rots() {
    let count = {
        let vfs = Memory::default();
        store(&vfs).0.close().unwrap();
        segments(&vfs).len()
    };
    assert!(count > 4);
    for lost in [0, 1, count / 2, count - 2] {
        let vfs = Memory::default();
        let (journal, mut batches) = store(&vfs);
        journal.close().unwrap();
        drop(journal);
        vfs.remove(&segments(&vfs)[lost]).unwrap();
        let journal = open(&vfs);
        let first = journal.holes(batches[0][0].log()).unwrap()[0].first_seq;
        mend(&journal, &batches);
        batches.iter().for_each(|of_log| assert_whole(&journal, of_log));
        // A kill: the last frames are read one by one.
        drop(journal);
        let journal = open(&vfs);
        batches.iter().for_each(|of_log| assert_whole(&journal, of_log));
        // More, so that the segment with the rewritten batches gets its footer.
        (0..40).for_each(|_| grow(&journal, &mut batches));
        batches.iter().for_each(|of_log| assert_whole(&journal, of_log));
        let journal = reopen(&vfs, journal);
        batches.iter().for_each(|of_log| assert_whole(&journal, of_log));
        // The copy rots in its turn. What was read of late is in memory: hence another life.
        let hit = &batches[0][first.0 as usize];
        damage(&vfs, hit);
        let journal = reopen(&vfs, journal);
        let error = journal.read_batch(hit.log(), hit.first_seq()).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
        let found = verified(&vfs).damage;
        assert!(found.iter().any(|damage| damage.first_seq == Some(hit.first_seq())), "{lost}: {found:?}");
        mend(&journal, &batches);
        let journal = reopen(&vfs, journal);
        batches.iter().for_each(|of_log| assert_whole(&journal, of_log));
        journal.close().unwrap();
        assert_eq!(verified(&vfs).damage, [], "{lost}");
    }
}

#[test]
fn what_lies_beyond_the_end_of_its_log_or_belongs_to_no_known_log_fills_no_hole() {
    let vfs = Memory::default();
    let (journal, batches) = store(&vfs);
    let last = batches[0].last().unwrap();
    let next = batch(last.log(), last.head(), b"next");
    assert!(matches!(journal.mend(&[next]), Err(MendError::NotMissing { .. })));
    let unknown = batch(genesis("c").log_id(), genesis("c").head(), b"unknown");
    assert!(matches!(journal.mend(&[unknown]), Err(MendError::Read(ReadError::UnknownLog { .. }))));
}

/// A store that was killed, in whose last segment a commit's header and table and `damaged` of its two batches are damaged:
/// nothing tells where these stood. The number of the commit.
fn with_a_commit_lost(vfs: &Memory, damaged: usize) -> (Journal, [Vec<Batch>; 2], usize) {
    let (journal, mut batches) = store(vfs);
    let count = segments(vfs).len();
    while segments(vfs).len() == count {
        grow(&journal, &mut batches);
    }
    grow(&journal, &mut batches);
    let hit = batches[0].len() - 1;
    grow(&journal, &mut batches);
    drop(journal);
    edit(vfs, &batches[0][hit], |content, at, end| {
        let frame = content[..at].windows(4).rposition(|bytes| bytes == b"CFF1").unwrap();
        content[frame..at].fill(0xff);
        content[end - 1] ^= 1;
    });
    (1..damaged).for_each(|of_log| damage(vfs, &batches[of_log][hit]));
    (open(vfs), batches, hit)
}

#[test]
fn verification_tells_of_no_damage_any_more_once_what_it_names_is_stored_elsewhere() {
    let vfs = Memory::default();
    let (journal, batches, hit) = with_a_commit_lost(&vfs, 2);
    journal.commit().unwrap();
    let before = verified(&vfs);
    let first_seq = batches[0][hit].first_seq();
    // By their places; and in either log something is missing.
    let places = &before.damage[..2];
    let named: Vec<_> = places.iter().map(|damage| (damage.log, damage.first_seq, damage.last_seq)).collect();
    assert_eq!(named, [0, 1].map(|log| (Some(batches[log][0].log()), Some(first_seq), Some(first_seq))));
    assert_eq!((before.damage.len(), &before.mended), (4, &Vec::new()));
    mend(&journal, &batches);
    batches.iter().for_each(|of_log| assert_whole(&journal, of_log));
    journal.close().unwrap();
    let after = verified(&vfs);
    assert_eq!((&after.damage[..], &after.mended[..]), (&[][..], places));
    assert_eq!(after.batches, before.batches + 2);
    // A copy that rots is damage: it is the one that is served.
    damage(&vfs, &batches[1][hit]);
    let rotten = verified(&vfs);
    let named: Vec<_> = rotten.damage.iter().map(|damage| (damage.log, damage.first_seq)).collect();
    assert_eq!(named, [(Some(batches[1][0].log()), Some(first_seq))].repeat(2), "where it was and where it is");
    assert_eq!(rotten.mended, places[..1]);
}

#[test]
fn verification_tells_of_a_commit_that_can_t_be_read_until_all_that_was_whole_in_it_is_stored_elsewhere_too() {
    let vfs = Memory::default();
    let (journal, batches, _) = with_a_commit_lost(&vfs, 1);
    journal.commit().unwrap();
    let is_of_commit = |damage: &&Damage| damage.log.is_none();
    let before = verified(&vfs).damage;
    assert_eq!(
        (before.len(), before.iter().filter(is_of_commit).count()),
        (4, 1),
        "and a batch, and a gap in each log: {before:?}"
    );
    mend_log(&journal, &batches[0]);
    let half = verified(&vfs);
    assert_eq!((half.damage.len(), half.damage.iter().filter(is_of_commit).count(), half.mended.len()), (2, 1, 1));
    mend_log(&journal, &batches[1]);
    journal.close().unwrap();
    let after = verified(&vfs);
    assert_eq!((after.damage, after.mended.len(), after.mended.iter().filter(is_of_commit).count()), (vec![], 2, 1));
}

#[test]
fn verification_tells_of_no_damage_below_a_floor() {
    let vfs = Memory::default();
    let (journal, batches) = store(&vfs);
    damage(&vfs, &batches[0][5]);
    let before = verified(&vfs).damage;
    assert_eq!(before.len(), 1);
    journal.trim(&[(batches[0][0].log(), Seq(4))]).unwrap();
    assert_eq!(verified(&vfs).damage, before);
    journal.trim(&[(batches[0][0].log(), Seq(6))]).unwrap();
    let after = verified(&vfs);
    assert_eq!((after.damage, after.mended), (Vec::new(), before));
}
