//! Batches written a second time, where the place that they had can't be read.

use std::{
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use counterfoil_storage::{
    Arrival, Batch, BatchBuilder, Genesis, Head, Hlc, Journal, LogId, NodeName, Options, ReadError, Seq, SpaceName,
    StoreError, Stored, verify,
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

/// A store with two logs of other nodes, a batch of each in every commit, and the batches of the first.
fn store(vfs: &Memory) -> (Journal, LogId, Vec<Batch>) {
    let journal = Journal::create(Path::new(DIR), NodeName::new("hub").unwrap(), options(vfs)).unwrap();
    let logs = ["a", "b"].map(|node| (genesis(node).log_id(), genesis(node).head()));
    for node in ["a", "b"] {
        journal.create_log(genesis(node)).unwrap();
    }
    let mut heads = logs.map(|(_, head)| head);
    let mut batches = Vec::new();
    for number in 0..BATCHES as u8 {
        for (index, (log, _)) in logs.iter().enumerate() {
            let batch = batch(*log, heads[index], &[number; 900]);
            heads[index] = batch.head();
            journal.store(batch.clone()).unwrap();
            if index == 0 {
                batches.push(batch);
            }
        }
        journal.commit().unwrap();
    }
    (journal, logs[0].0, batches)
}

fn reopen(vfs: &Memory, journal: Journal) -> Journal {
    journal.close().unwrap();
    drop(journal);
    Journal::open(Path::new(DIR), options(vfs)).unwrap().0
}

/// Flips a bit of the body wherever these bytes stand in the store's segments.
fn damage(vfs: &Memory, batch: &Batch) {
    let mut hits = 0;
    for name in vfs.list(Path::new(DIR)).unwrap().iter().filter(|name| name.strip_suffix(".seg").is_some()) {
        let file = vfs.open(&PathBuf::from(DIR).join(name), OpenMode::Write).unwrap();
        let mut content = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut content, 0).unwrap();
        let at = content.windows(batch.bytes().len()).position(|bytes| bytes == &batch.bytes()[..]);
        if let Some(at) = at.map(|at| at + batch.bytes().len() - 1) {
            file.write_at(&[IoSlice::new(&[content[at] ^ 1])], at as u64).unwrap();
            hits += 1;
        }
    }
    assert!(hits > 0, "the batch is on disk");
}

fn restore(journal: &Journal, batch: &Batch) {
    match journal.restore(batch.clone()) {
        Ok(Stored::Queued(receipt)) => receipt.wait().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// All of the log is read, in order; each batch by itself; and by arrival each once.
fn assert_whole(journal: &Journal, log: LogId, batches: &[Batch]) {
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
fn what_is_damaged_is_served_again_once_it_is_restored_also_after_opening_again_and_when_segments_roll_over() {
    for hit in [0, 1, 17, BATCHES - 2, BATCHES - 1] {
        let vfs = Memory::default();
        let (journal, log, mut batches) = store(&vfs);
        damage(&vfs, &batches[hit]);
        let error = journal.read_batch(log, batches[hit].first_seq()).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
        restore(&journal, &batches[hit]);
        assert_whole(&journal, log, &batches);
        let Ok(Stored::Duplicate) = journal.restore(batches[hit].clone()) else { panic!("it is there already") };
        // A kill: the last frames are read one by one.
        drop(journal);
        let (journal, _) = Journal::open(Path::new(DIR), options(&vfs)).unwrap();
        assert_whole(&journal, log, &batches);
        // More, so that the segment with the rewritten batch gets its footer.
        for _ in 0..40 {
            let next = batch(log, batches.last().unwrap().head(), &[7; 900]);
            journal.store(next.clone()).unwrap();
            journal.commit().unwrap();
            batches.push(next);
        }
        assert_whole(&journal, log, &batches);
        let journal = reopen(&vfs, journal);
        assert_whole(&journal, log, &batches);
        // The copy is damaged in its turn. What was read of late is in memory: hence another life.
        damage(&vfs, &batches[hit]);
        let journal = reopen(&vfs, journal);
        let error = journal.read_batch(log, batches[hit].first_seq()).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
        restore(&journal, &batches[hit]);
        assert_whole(&journal, log, &batches);
        let journal = reopen(&vfs, journal);
        assert_whole(&journal, log, &batches);
    }
}

#[test]
fn several_batches_are_restored_from_an_end_of_the_hole_and_nothing_that_its_neighbours_don_t_vouch_for() {
    for (missing, order) in [(10..20, false), (10..20, true), (0..9, true), (30..BATCHES, true)] {
        let vfs = Memory::default();
        let (journal, log, batches) = store(&vfs);
        missing.clone().for_each(|hit| damage(&vfs, &batches[hit]));
        let middle = missing.start + 4;
        let refused = journal.restore(batches[middle].clone());
        assert!(matches!(refused, Err(StoreError::Unproven { .. })), "{refused:?}");
        let (first, last) = (missing.start, missing.end - 1);
        let before = Head { next_seq: batches[first].first_seq(), digest: batches[first].header().previous };
        let forged = batch(log, before, b"forged");
        // What comes behind can't be read, and what stands before vouches for many batches: but of the first that can be
        // read behind it nothing forged is the predecessor.
        let alone = Memory::default();
        let (other, ..) = store(&alone);
        damage(&alone, &batches[first]);
        let refused = other.restore(forged);
        assert!(matches!(refused, Err(StoreError::Diverged { .. })), "{refused:?}");
        let mut hits: Vec<_> = (first..=last).collect();
        if order {
            hits.reverse();
        }
        hits.iter().for_each(|hit| restore(&journal, &batches[*hit]));
        assert_whole(&journal, log, &batches);
        let journal = reopen(&vfs, journal);
        assert_whole(&journal, log, &batches);
    }
}

#[test]
fn what_lies_beyond_the_end_of_its_log_or_belongs_to_no_known_log_is_not_restored() {
    let vfs = Memory::default();
    let (journal, log, batches) = store(&vfs);
    let next = batch(log, batches.last().unwrap().head(), b"next");
    assert!(matches!(journal.restore(next), Err(StoreError::Gap { .. })));
    let unknown = batch(genesis("c").log_id(), genesis("c").head(), b"unknown");
    assert!(matches!(journal.restore(unknown), Err(StoreError::Append(_))));
}

#[test]
fn verification_reads_rewritten_batches_and_finds_the_chain_whole() {
    let vfs = Memory::default();
    let (journal, log, batches) = store(&vfs);
    damage(&vfs, &batches[5]);
    let found = || verify(Path::new(DIR), &options(&vfs), |_, _| {}).unwrap();
    let before = found();
    assert_eq!(before.damage.len(), 1, "{before:?}");
    restore(&journal, &batches[5]);
    journal.close().unwrap();
    let after = found();
    assert_eq!(after.damage, before.damage, "the damaged bytes are still there, and nothing else is wrong");
    assert_eq!(after.batches, before.batches + 1);
    assert_eq!(after.damage[0].log, Some(log));
}
