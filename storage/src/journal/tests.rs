use std::{collections::HashMap, io::IoSlice};

use super::{frame::FrameKind, *};
use crate::{
    batch::BatchBuilder,
    ids::SegmentNumber,
    time::{SystemClock, WallClock},
    vfs::{Memory, OpenMode, read_full, write_full},
};

#[test]
fn a_stamp_from_the_future_in_another_nodes_log_does_not_drag_the_clock_of_a_store_that_is_opened_again() {
    let vfs = Memory::default();
    let options = || Options { vfs: Arc::new(vfs.clone()), background: false, ..Options::default() };
    let dir = Path::new("hub.store");
    let hub = Journal::create(dir, NodeName::new("hub").unwrap(), options()).unwrap();
    let foreign = Genesis::new(SpaceName::new("p").unwrap(), NodeName::new("p").unwrap(), [1; 16]);
    let mut builder = BatchBuilder::with_capacity(16);
    builder.push(Hlc::from_bits(u64::MAX), b"from the end of time");
    let batch = builder.seal(foreign.log_id(), foreign.head());
    hub.create_log(foreign).unwrap();
    hub.store(batch).unwrap();
    hub.close().unwrap();
    drop(hub);

    let (hub, _) = Journal::open(dir, options()).unwrap();
    let nonce = *hub.identity().incarnation.as_bytes();
    let own = Genesis::new(SpaceName::new("hub").unwrap(), NodeName::new("hub").unwrap(), nonce);
    let log = hub.create_log(own).unwrap();
    let writer = hub.writer(log).unwrap();
    for body in [b"one", b"two"] {
        writer.append(body).unwrap();
    }
    hub.commit().unwrap();
    let times: Vec<_> = hub
        .read(log, Seq(0))
        .flat_map(|batch| batch.unwrap().records().collect::<Vec<_>>())
        .map(|record| record.unwrap().time)
        .collect();
    assert!(times.is_sorted_by(|a, b| a < b), "stamps no longer order records: {times:?}");
    assert!(times[0].unix_ms() < SystemClock.unix_ms() + 60_000, "{}", times[0]);
}

#[test]
fn a_log_whose_announcement_is_damaged_does_not_make_records_of_another_log_unreadable() {
    let vfs = Memory::default();
    let options = || Options { vfs: Arc::new(vfs.clone()), background: false, ring_bytes: 0, ..Options::default() };
    let dir = Path::new("hub.store");
    let hub = Journal::create(dir, NodeName::new("hub").unwrap(), options()).unwrap();
    let store = |space: &str, heads: &mut HashMap<LogId, Head>| {
        let genesis = Genesis::new(SpaceName::new(space).unwrap(), NodeName::new(space).unwrap(), [1; 16]);
        let (log, origin) = (genesis.log_id(), genesis.head());
        hub.create_log(genesis).unwrap();
        let mut builder = BatchBuilder::with_capacity(16);
        builder.push(Hlc::from_bits(1), space.as_bytes());
        let batch = builder.seal(log, *heads.get(&log).unwrap_or(&origin));
        heads.insert(log, batch.head());
        hub.store(batch).unwrap();
        hub.commit().unwrap();
        log
    };
    let mut heads = HashMap::new();
    let first = store("a", &mut heads);
    for space in ["b", "b", "a", "b", "a"] {
        store(space, &mut heads);
    }
    drop(hub);

    // One byte of what made the second log known.
    let file = vfs.open(&segment::path(dir, SegmentNumber(0)), OpenMode::Write).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    read_full(&*file, &mut bytes, 0).unwrap();
    let announcements: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"CFA1")).collect();
    write_full(&*file, &mut [IoSlice::new(b"X")], announcements[1] as u64 + 14).unwrap();

    // The first opening writes the segment's footer, the second uses it.
    for opening in 0..3 {
        let (hub, _) = Journal::open(dir, options()).unwrap();
        let read: Vec<_> = hub.read(first, Seq::ZERO).map(|batch| batch.map(|batch| batch.first_seq())).collect();
        assert_eq!(read.len(), 3, "opening {opening}: {read:?}");
        assert!(read.iter().all(Result::is_ok), "opening {opening}: {read:?}");
        hub.create_log(Genesis::new(SpaceName::new("c").unwrap(), NodeName::new("c").unwrap(), [opening; 16])).unwrap();
        hub.commit().unwrap();
        hub.close().unwrap();
    }
}

#[test]
fn a_log_whose_announcement_was_damaged_can_be_stored_and_read_again_in_the_same_segment() {
    let vfs = Memory::default();
    let options = || Options { vfs: Arc::new(vfs.clone()), background: false, ring_bytes: 0, ..Options::default() };
    let dir = Path::new("hub.store");
    let hub = Journal::create(dir, NodeName::new("hub").unwrap(), options()).unwrap();
    let genesis = Genesis::new(SpaceName::new("b").unwrap(), NodeName::new("b").unwrap(), [1; 16]);
    let (log, mut head) = (genesis.log_id(), genesis.head());
    let mut batches = Vec::new();
    hub.create_log(genesis.clone()).unwrap();
    for body in [b"0", b"1", b"2"] {
        let mut builder = BatchBuilder::with_capacity(16);
        builder.push(Hlc::from_bits(1), body);
        let batch = builder.seal(log, head);
        head = batch.head();
        hub.store(batch.clone()).unwrap();
        hub.commit().unwrap();
        batches.push(batch);
    }
    hub.close().unwrap();
    drop(hub);
    let file = vfs.open(&segment::path(dir, SegmentNumber(0)), OpenMode::Write).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    read_full(&*file, &mut bytes, 0).unwrap();
    let announced = (0..bytes.len()).find(|at| bytes[*at..].starts_with(b"CFA1")).unwrap();
    write_full(&*file, &mut [IoSlice::new(b"X")], announced as u64 + 14).unwrap();
    // Room in the segment, as a file filled ahead has it.
    file.set_len(64 << 10).unwrap();

    let (hub, recovery) = Journal::open(dir, options()).unwrap();
    assert!(!recovery.findings.is_empty());
    // Its writer mirrors it again.
    hub.create_log(genesis).unwrap();
    for batch in &batches {
        hub.store(batch.clone()).unwrap();
        hub.commit().unwrap();
    }
    let read: Vec<_> = hub.read(log, Seq::ZERO).map(Result::unwrap).collect();
    assert_eq!(read, batches);
}

#[test]
fn a_mark_takes_nothing_that_waits_to_be_committed() {
    let options = Options { vfs: Arc::new(Memory::default()), background: false, ..Options::default() };
    let node = NodeName::new("own").unwrap();
    let journal = Journal::create(Path::new("store"), node.clone(), options).unwrap();
    let nonce = *journal.identity().incarnation.as_bytes();
    let log = journal.create_log(Genesis::new(SpaceName::new("space").unwrap(), node, nonce)).unwrap();
    let writer = journal.writer(log).unwrap();
    // Now there is a frame that a mark would prove.
    writer.append(b"one").unwrap().wait().unwrap();
    let waiting = writer.append(b"two").unwrap();
    journal.shared.mark(FrameKind::Mark).unwrap();
    assert!(!waiting.is_durable().unwrap(), "it was not written");
    waiting.wait().unwrap();
    assert!(journal.read_batch(log, Seq(1)).unwrap().is_some());
}

/// A wall clock that stands still.
#[derive(Debug)]
struct Still(u64);

impl WallClock for Still {
    fn unix_ms(&self) -> u64 {
        self.0
    }
}

/// The stamps of what a store appends to a space, before and after it was opened again, once another node's batch,
/// whose clock is `ahead_ms` ahead, has come.
fn stamps_after_a_batch_from_ahead(ahead_ms: u64) -> (Hlc, Vec<Hlc>) {
    const NOW: u64 = 1_700_000_000_000;
    let vfs = Memory::default();
    let clock = Arc::new(Still(NOW));
    let options =
        || Options { vfs: Arc::new(vfs.clone()), clock: clock.clone(), background: false, ..Options::default() };
    let dir = Path::new("a.store");
    let space = SpaceName::new("p").unwrap();
    let foreign = Genesis::new(space.clone(), NodeName::new("b").unwrap(), [1; 16]);
    let mut builder = BatchBuilder::with_capacity(16);
    let remote = Hlc::from_unix_ms(NOW + ahead_ms);
    builder.push(Hlc::from_unix_ms(NOW), b"as ours");
    builder.push(remote, b"ahead");
    let batch = builder.seal(foreign.log_id(), foreign.head());

    let journal = Journal::create(dir, NodeName::new("a").unwrap(), options()).unwrap();
    let mut stamps = Vec::new();
    let append = |journal: &Journal, stamps: &mut Vec<_>| {
        let nonce = *journal.identity().incarnation.as_bytes();
        let log = journal.create_log(Genesis::new(space.clone(), journal.identity().node.clone(), nonce)).unwrap();
        stamps.push(journal.writer(log).unwrap().append(b"reply").unwrap().last_time());
        journal.commit().unwrap();
    };
    journal.create_log(foreign).unwrap();
    journal.store(batch).unwrap();
    journal.commit().unwrap();
    append(&journal, &mut stamps);
    journal.close().unwrap();
    drop(journal);
    let (journal, _) = Journal::open(dir, options()).unwrap();
    append(&journal, &mut stamps);
    (remote, stamps)
}

#[test]
fn a_reply_is_stamped_after_what_it_replies_to_though_that_clock_is_ahead() {
    let (remote, stamps) = stamps_after_a_batch_from_ahead(60_000);
    assert!(stamps[0] > remote && stamps[1] > stamps[0], "{remote} {stamps:?}");
}

#[test]
fn a_stamp_too_far_ahead_is_kept_and_does_not_drag_the_clock() {
    let (remote, stamps) = stamps_after_a_batch_from_ahead(60_001);
    assert!(stamps.iter().all(|stamp| *stamp < remote) && stamps[1] > stamps[0], "{remote} {stamps:?}");
}

#[test]
fn a_store_opened_again_stamps_after_what_came_before_it_was_closed() {
    let vfs = Memory::default();
    let clock = Arc::new(Still(1_700_000_000_000));
    let options =
        || Options { vfs: Arc::new(vfs.clone()), clock: clock.clone(), background: false, ..Options::default() };
    let (dir, space) = (Path::new("a.store"), SpaceName::new("p").unwrap());
    let foreign = Genesis::new(space.clone(), NodeName::new("b").unwrap(), [1; 16]);
    let mut builder = BatchBuilder::with_capacity(16);
    builder.push(Hlc::from_unix_ms(clock.0), b"first");
    builder.push(Hlc::from_unix_ms(clock.0 + 50_000), b"last");
    let batch = builder.seal(foreign.log_id(), foreign.head());
    let own = |journal: &Journal| {
        let nonce = *journal.identity().incarnation.as_bytes();
        journal.create_log(Genesis::new(space.clone(), journal.identity().node.clone(), nonce)).unwrap()
    };
    let journal = Journal::create(dir, NodeName::new("a").unwrap(), options()).unwrap();
    own(&journal);
    journal.create_log(foreign).unwrap();
    journal.store(batch.clone()).unwrap();
    journal.close().unwrap();
    drop(journal);
    let (journal, _) = Journal::open(dir, options()).unwrap();
    let reply = journal.writer(own(&journal)).unwrap().append(b"reply").unwrap();
    assert!(reply.last_time() > batch.last_time(), "{} {}", reply.last_time(), batch.last_time());
}
