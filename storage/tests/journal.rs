//! The journal as its users see it, on the real file system and in memory.

use std::{
    path::Path,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use counterfoil_storage::{
    AppendError, Arrival, Finding, Genesis, Journal, LogId, LogWriter, NodeName, OpenError, Options, ReadError,
    Recovery, Seq, SpaceName, StoreError, Stored, verify,
    vfs::{Memory, OpenMode, Vfs},
};

fn node() -> NodeName {
    NodeName::new("practice-12").unwrap()
}

fn space() -> SpaceName {
    SpaceName::new("practice-12").unwrap()
}

fn small(vfs: &Memory) -> Options {
    let mut options = Options::default();
    options.vfs = Arc::new(vfs.clone());
    options.background = false;
    options.segment_bytes_min = 32 << 10;
    options.segment_bytes_max = 64 << 10;
    options.ring_bytes = 4 << 10;
    options
}

fn own_log(journal: &Journal) -> LogWriter {
    let nonce = *journal.identity().incarnation.as_bytes();
    let log = journal.create_log(Genesis::new(space(), node(), nonce)).unwrap();
    journal.writer(log).unwrap()
}

fn body(number: u64) -> Vec<u8> {
    let len = 20 + (number * 7919 % 900) as usize;
    number.to_le_bytes().iter().copied().cycle().take(len).collect()
}

fn bodies(journal: &Journal, log: LogId, from: u64) -> Vec<Vec<u8>> {
    let records = journal.read(log, Seq(from)).flat_map(|batch| batch.unwrap().records().collect::<Vec<_>>());
    records.map(Result::unwrap).filter(|record| record.seq.0 >= from).map(|record| record.body.to_vec()).collect()
}

fn reopen(dir: &Path, options: Options) -> (Journal, Recovery) {
    Journal::open(dir, options).unwrap()
}

#[test]
fn what_was_read_stays_as_it_was_whatever_is_read_afterwards() {
    let vfs = Memory::default();
    let journal = Journal::create(Path::new("store"), node(), small(&vfs)).unwrap();
    let writer = own_log(&journal);
    for number in 0..2_000 {
        writer.append(&body(number)).unwrap();
        journal.commit().unwrap();
    }
    let read = |seq: u64| journal.read_batch(writer.log(), Seq(seq)).unwrap().unwrap();
    let body_of = |seq: u64| read(seq).record(Seq(seq)).unwrap().body;
    // Some are kept whole, of some a record, of the others nothing: their memory may be used again.
    let (mut batches, mut records) = (Vec::new(), Vec::new());
    for (round, seq) in (0..8_000_u64).map(|round| (round, round.wrapping_mul(0x9e37_79b9) % 2_000)) {
        match round % 5 {
            0 => batches.push((seq, read(seq))),
            1 => records.push((seq, body_of(seq))),
            _ => assert_eq!(body_of(seq), body(seq)),
        }
    }
    assert!(batches.iter().all(|(seq, batch)| batch.record(Seq(*seq)).unwrap().body == body(*seq)));
    assert!(records.iter().all(|(seq, found)| *found == body(*seq)));
}

#[test]
fn what_was_committed_is_read_back_after_closing_and_opening_over_many_segments() {
    let vfs = Memory::default();
    let dir = Path::new("store");
    let journal = Journal::create(dir, node(), small(&vfs)).unwrap();
    let writer = own_log(&journal);
    for number in 0..2_000 {
        let receipt = writer.append(&body(number)).unwrap();
        if number % 7 == 0 {
            receipt.wait().unwrap();
        }
    }
    journal.close().unwrap();
    drop((journal, writer));
    for _ in 0..3 {
        let (journal, recovery) = reopen(dir, small(&vfs));
        assert!(recovery.clean && recovery.findings.is_empty(), "{recovery:?}");
        assert!(journal.stats().segments > 10);
        let log = journal.logs(None)[0].id;
        let read = bodies(&journal, log, 0);
        assert_eq!(read, (0..2_000).map(body).collect::<Vec<_>>());
        for seq in (0..2_000).step_by(13) {
            let batch = journal.read_batch(log, Seq(seq)).unwrap().unwrap();
            let record = batch.records().map(Result::unwrap).find(|record| record.seq == Seq(seq)).unwrap();
            assert_eq!(record.body, body(seq));
        }
        let mut arrivals = 0;
        for (number, item) in journal.read_arrivals(Arrival::ZERO).enumerate() {
            assert_eq!(item.unwrap().0, Arrival(number as u64));
            arrivals += 1;
        }
        assert_eq!(arrivals, journal.next_arrival().0);
        journal.close().unwrap();
    }
    let report = verify(dir, &small(&vfs), |_, _| {}).unwrap();
    assert_eq!((report.damage, report.records), (vec![], 2_000));
}

#[test]
fn a_journal_that_was_not_closed_keeps_what_was_committed_and_goes_on() {
    let vfs = Memory::default();
    let dir = Path::new("store");
    let mut journal = Journal::create(dir, node(), small(&vfs)).unwrap();
    let mut total = 0;
    for round in 0..20 {
        let writer = own_log(&journal);
        assert_eq!(writer.next_seq(), Seq(total), "round {round}");
        for _ in 0..round {
            writer.append(&body(total)).unwrap().wait().unwrap();
            total += 1;
        }
        // Never committed, so gone.
        writer.append(b"lost").unwrap();
        drop(writer);
        drop(journal);
        let (next, recovery) = reopen(dir, small(&vfs));
        assert!(!recovery.clean || total == 0);
        assert_eq!(recovery.damage().count(), 0);
        assert_eq!(next.identity().incarnation, next.identity().incarnation);
        journal = next;
    }
    let log = journal.logs(None)[0].id;
    assert_eq!(bodies(&journal, log, 0), (0..total).map(body).collect::<Vec<_>>());
}

#[test]
fn a_replica_stores_batches_verbatim_ignores_duplicates_and_refuses_gaps_and_forks() {
    let vfs = Memory::default();
    let source = Journal::create(Path::new("source"), node(), small(&vfs)).unwrap();
    let replica = Journal::create(Path::new("hub"), NodeName::new("hub").unwrap(), small(&vfs)).unwrap();
    let writer = own_log(&source);
    for number in 0..300 {
        writer.append(&body(number)).unwrap();
        if number % 10 == 0 {
            source.commit().unwrap();
        }
    }
    source.commit().unwrap();
    let log = writer.log();
    let batches: Vec<_> = source.read(log, Seq(0)).map(Result::unwrap).collect();
    assert!(matches!(replica.store(batches[0].clone()), Err(StoreError::Append(AppendError::UnknownLog { .. }))));
    replica.create_log((*source.log(log).unwrap().genesis).clone()).unwrap();
    assert!(matches!(replica.store(batches[1].clone()), Err(StoreError::Gap { .. })));
    for batch in &batches {
        assert!(matches!(replica.store(batch.clone()), Ok(Stored::Queued(_))));
    }
    assert!(matches!(replica.store(batches[0].clone()), Ok(Stored::Duplicate)));
    replica.commit().unwrap();
    assert_eq!(replica.log(log).unwrap().durable, source.log(log).unwrap().durable);
    let copies: Vec<_> = replica.read(log, Seq(0)).map(Result::unwrap).collect();
    assert_eq!(copies, batches);
    assert!(matches!(replica.writer(log), Err(AppendError::ForeignLog { .. })));

    let other = Journal::create(Path::new("other"), node(), small(&vfs)).unwrap();
    let forked = own_log(&other);
    forked.append(b"fork").unwrap().wait().unwrap();
    let forged = other.read_batch(forked.log(), Seq(0)).unwrap().unwrap();
    let mut bytes = batches[0].bytes().to_vec();
    bytes[88..].fill(0);
    assert!(counterfoil_storage::Batch::parse(bytes.into()).is_err());
    assert!(matches!(replica.store(forged), Err(StoreError::Append(AppendError::UnknownLog { .. }))));
}

#[test]
fn many_threads_get_their_receipts_and_every_record_is_there_once_in_its_thread_s_order() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    let journal = Journal::create(&dir, node(), Options::default()).unwrap();
    let writer = own_log(&journal);
    let barrier = Arc::new(Barrier::new(16));
    let threads: Vec<_> = (0..16_u64)
        .map(|thread| {
            let (writer, barrier) = (writer.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                for number in 0..200_u64 {
                    let receipt = writer.append(&[thread.to_le_bytes(), number.to_le_bytes()].concat()).unwrap();
                    if number % 3 == 0 {
                        receipt.wait().unwrap();
                        assert!(receipt.is_durable().unwrap());
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    journal.close().unwrap();
    assert!(matches!(writer.append(b"late"), Err(AppendError::Closed)));
    let log = writer.log();
    drop((journal, writer));
    let (journal, recovery) = reopen(&dir, Options::default());
    assert!(recovery.clean);
    let mut next = [0_u64; 16];
    for body in bodies(&journal, log, 0) {
        let thread = u64::from_le_bytes(body[..8].try_into().unwrap()) as usize;
        assert_eq!(u64::from_le_bytes(body[8..].try_into().unwrap()), next[thread]);
        next[thread] += 1;
    }
    assert_eq!(next, [200; 16]);
}

#[test]
fn the_background_commits_what_nobody_waits_for_and_wakes_futures() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::create(&folder.path().join("store"), node(), Options::default()).unwrap();
    let writer = own_log(&journal);
    let mut watch = journal.watch(Some(&space()));
    let receipt = writer.append(b"one").unwrap();
    while !receipt.is_durable().unwrap() {
        watch.wait_timeout(std::time::Duration::from_millis(50));
    }
    assert_eq!(journal.log(writer.log()).unwrap().durable.next_seq, Seq(1));
    let receipt = writer.append(b"two").unwrap();
    let parker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(parker);
    while receipt.poll_durable(&mut cx).is_pending() {
        thread::yield_now();
    }
}

#[test]
fn a_second_writer_is_refused_at_once_and_a_reader_beside_the_first_sees_what_is_proven() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    assert!(matches!(Journal::open(&dir, Options::default()), Err(OpenError::NoStore { .. })));
    let mut options = Options::default();
    options.background = false;
    options.segment_bytes_min = 64 << 10;
    options.segment_bytes_max = 64 << 10;
    let journal = Journal::create(&dir, node(), options.clone()).unwrap();
    assert!(matches!(Journal::open(&dir, options.clone()), Err(OpenError::Locked { .. })));
    assert!(matches!(Journal::create(&dir, node(), options.clone()), Err(OpenError::Locked { .. })));
    let mut reading = options.clone();
    reading.read_only = true;
    let (reader, _) = reopen(&dir, reading);
    let writer = own_log(&journal);
    let log = writer.log();
    assert!(matches!(reader.create_log(Genesis::new(space(), node(), [0; 16])), Err(AppendError::ReadOnly)));
    for number in 0..500 {
        writer.append(&body(number)).unwrap().wait().unwrap();
        if number % 50 == 0 {
            reader.refresh().unwrap();
            // The newest frame is not proven yet.
            let seen = reader.log(log).map_or(0, |info| info.durable.next_seq.0);
            assert!((number..=number + 1).contains(&seen), "{seen} of {number}");
            if seen > 0 {
                assert_eq!(bodies(&reader, log, 0).len() as u64, seen);
            }
        }
    }
    journal.close().unwrap();
    reader.refresh().unwrap();
    assert_eq!(bodies(&reader, log, 0), (0..500).map(body).collect::<Vec<_>>());
    assert!(reader.read(log, Seq(500)).next().is_none());
    assert!(matches!(reader.read(LogId::from_bytes([0; 16]), Seq(0)).next(), Some(Err(ReadError::UnknownLog { .. }))));
}

#[test]
fn a_copied_store_takes_a_new_incarnation() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, copy) = (folder.path().join("store"), folder.path().join("copy"));
    let journal = Journal::create(&dir, node(), Options::default()).unwrap();
    let writer = own_log(&journal);
    writer.append(b"one").unwrap().wait().unwrap();
    let incarnation = journal.identity().incarnation;
    journal.close().unwrap();
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let (journal, recovery) = reopen(&copy, Options::default());
    assert_ne!(journal.identity().incarnation, incarnation);
    assert!(recovery.findings.iter().any(|finding| matches!(finding, Finding::NewIncarnation { .. })));
    assert!(matches!(journal.writer(writer.log()), Err(AppendError::ForeignLog { .. })));
    journal.close().unwrap();
    let (again, recovery) = reopen(&copy, Options::default());
    assert!(recovery.findings.is_empty());
    assert_eq!(again.identity().incarnation, journal.identity().incarnation);
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_takes_away_one_batch_and_is_named() {
    let vfs = Memory::default();
    let dir = Path::new("store");
    let journal = Journal::create(dir, node(), small(&vfs)).unwrap();
    let writer = own_log(&journal);
    for number in 0..400 {
        writer.append(&body(number)).unwrap().wait().unwrap();
    }
    journal.close().unwrap();
    let file = vfs.open(&dir.join("0000000000000001.seg"), OpenMode::Write).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 20_000).unwrap();
    file.write_at(&[std::io::IoSlice::new(&[byte[0] ^ 1])], 20_000).unwrap();
    let (journal, _) = reopen(dir, small(&vfs));
    let mut missing = 0;
    for item in journal.read(writer.log(), Seq(0)) {
        match item {
            Ok(batch) => assert_eq!(batch.records().next().unwrap().unwrap().body, body(batch.first_seq().0)),
            Err(ReadError::Damaged { first_seq, next_seq, .. }) => missing += next_seq.0 - first_seq.0,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(missing, 1);
    journal.close().unwrap();
    let report = verify(dir, &small(&vfs), |_, _| {}).unwrap();
    assert!(report.damage.iter().any(|damage| damage.log == Some(writer.log())), "{:?}", report.damage);
}

/// A closed store of ten records, each committed, and the length of its only segment with frames.
fn closed_store(vfs: &Memory, dir: &Path) -> (LogId, u64) {
    let journal = Journal::create(dir, node(), small(vfs)).unwrap();
    let writer = own_log(&journal);
    for number in 0..10 {
        writer.append(&body(number)).unwrap().wait().unwrap();
    }
    journal.close().unwrap();
    let file = vfs.open(&dir.join("0000000000000000.seg"), OpenMode::Read).unwrap();
    (writer.log(), file.len().unwrap())
}

#[test]
fn the_end_of_a_closed_store_that_is_zeroed_or_cut_off_is_missed_and_stays_named() {
    let dir = Path::new("store");
    for (cut, is_zeroed) in [(9_000, true), (11_000, true), (12_000, true), (9_000, false), (12_000, false)] {
        let vfs = Memory::default();
        let (log, len) = closed_store(&vfs, dir);
        let file = vfs.open(&dir.join("0000000000000000.seg"), OpenMode::Write).unwrap();
        file.set_len(cut).unwrap();
        if is_zeroed {
            file.set_len(len).unwrap();
        }
        let is_named = |when| {
            let report = verify(dir, &small(&vfs), |_, _| {}).unwrap();
            assert!(!report.damage.is_empty(), "{when}, cut at {cut}, zeroed: {is_zeroed}");
        };
        is_named("at first");
        let (journal, recovery) = reopen(dir, small(&vfs));
        assert_ne!(recovery.damage().count(), 0, "cut at {cut}, zeroed: {is_zeroed}");
        let kept = if journal.log(log).is_some() { bodies(&journal, log, 0) } else { Vec::new() };
        assert!(kept.len() < 10 && kept.iter().eq((0..10).map(body).take(kept.len()).collect::<Vec<_>>().iter()));
        // The numbers of the lost records are not given to others.
        let writer = own_log(&journal);
        assert_ne!(writer.log(), log);
        writer.append(b"later").unwrap().wait().unwrap();
        journal.close().unwrap();
        is_named("after writing went on");
        let (journal, _) = reopen(dir, small(&vfs));
        assert_eq!(bodies(&journal, writer.log(), 0), [b"later"]);
        assert_eq!(journal.log(log).map_or(0, |info| info.durable.next_seq.0), kept.len() as u64);
        journal.close().unwrap();
        is_named("after another opening");
    }
}

#[test]
fn segments_without_an_identity_are_not_taken_for_an_empty_folder() {
    let vfs = Memory::default();
    let dir = Path::new("store");
    let (log, _) = closed_store(&vfs, dir);
    vfs.rename(&dir.join("identity"), Path::new("elsewhere")).unwrap();
    assert!(matches!(Journal::open(dir, small(&vfs)), Err(OpenError::IdentityMissing { .. })));
    assert!(matches!(Journal::create(dir, node(), small(&vfs)), Err(OpenError::IdentityMissing { .. })));
    assert!(matches!(verify(dir, &small(&vfs), |_, _| {}), Err(OpenError::IdentityMissing { .. })));
    vfs.rename(Path::new("elsewhere"), &dir.join("identity")).unwrap();
    let (journal, _) = reopen(dir, small(&vfs));
    assert_eq!(bodies(&journal, log, 0).len(), 10);
}

#[test]
fn a_bulk_load_by_several_threads_keeps_every_chain_whole() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    let journal = Journal::create(&dir, node(), Options::default()).unwrap();
    let nonce = *journal.identity().incarnation.as_bytes();
    let writers: Vec<_> = (0..3)
        .map(|number| {
            let space = SpaceName::new(&format!("space-{number}")).unwrap();
            journal.writer(journal.create_log(Genesis::new(space, node(), nonce)).unwrap()).unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for (number, writer) in writers.iter().enumerate() {
            scope.spawn(move || {
                let bodies: Vec<_> = (0..500).map(body).collect();
                for round in 0..20 {
                    let receipt = writer.append_all(&bodies).unwrap();
                    for single in 0..round * number as u64 {
                        writer.append(&body(single)).unwrap();
                    }
                    if round % 6 == number as u64 {
                        receipt.wait().unwrap();
                    }
                }
            });
        }
    });
    journal.commit().unwrap();
    let lengths = [10_000, 10_190, 10_380];
    for (writer, length) in writers.iter().zip(lengths) {
        assert_eq!(journal.log(writer.log()).unwrap().durable.next_seq, Seq(length));
    }
    journal.close().unwrap();
    let report = verify(&dir, &Options::default(), |_, _| {}).unwrap();
    assert_eq!((report.damage, report.records), (vec![], lengths.iter().sum()));
}

#[test]
fn a_large_last_segment_is_sealed_at_a_clean_close_and_not_read_at_the_next_opening() {
    let vfs = Memory::default();
    let dir = Path::new("store");
    let mut options = small(&vfs);
    options.segment_bytes_min = 64 << 20;
    options.segment_bytes_max = 64 << 20;
    let mut journal = Journal::create(dir, node(), options.clone()).unwrap();
    let mut total = 0;
    for round in 0..4_u64 {
        let writer = own_log(&journal);
        assert_eq!(writer.next_seq(), Seq(total));
        // Large in the first rounds, then small.
        for _ in 0..if round < 2 { 12_000 } else { 10 } {
            writer.append(&body(total)).unwrap();
            total += 1;
        }
        writer.append_all::<&[u8]>(&[]).unwrap();
        journal.close().unwrap();
        let report = verify(dir, &options, |_, _| {}).unwrap();
        assert_eq!((report.damage, report.records), (vec![], total));
        let mut reading = options.clone();
        reading.read_only = true;
        let (reader, recovery) = reopen(dir, reading);
        assert!(recovery.clean);
        assert_eq!(bodies(&reader, writer.log(), total - 20).len(), 20);
        drop(writer);
        let (next, recovery) = reopen(dir, options.clone());
        assert!(recovery.clean && recovery.findings.is_empty(), "{recovery:?}");
        journal = next;
        own_log(&journal).append(&body(total)).unwrap().wait().unwrap();
        total += 1;
        reader.refresh().unwrap();
        assert!(bodies(&reader, reader.logs(None)[0].id, total - 20).len() >= 19);
    }
    let log = journal.logs(None)[0].id;
    assert_eq!(journal.stats().segments, 3);
    assert_eq!(bodies(&journal, log, 0), (0..total).map(body).collect::<Vec<_>>());
}

#[test]
fn a_reader_of_a_store_that_was_killed_serves_the_last_commit_and_goes_on_when_a_writer_comes() {
    let vfs = Memory::default();
    let dir = Path::new("store");
    let journal = Journal::create(dir, node(), small(&vfs)).unwrap();
    let writer = own_log(&journal);
    for number in 0..10 {
        writer.append(&body(number)).unwrap().wait().unwrap();
    }
    let log = writer.log();
    drop((journal, writer));
    let mut reading = small(&vfs);
    reading.read_only = true;
    let (reader, recovery) = reopen(dir, reading);
    assert!(matches!(recovery.findings[..], [Finding::UnprovenLastFrame { .. }]));
    assert_eq!(bodies(&reader, log, 0), (0..10).map(body).collect::<Vec<_>>());
    let (journal, _) = reopen(dir, small(&vfs));
    let writer = own_log(&journal);
    for number in 10..20 {
        writer.append(&body(number)).unwrap().wait().unwrap();
    }
    journal.close().unwrap();
    reader.refresh().unwrap();
    assert_eq!(bodies(&reader, log, 0), (0..20).map(body).collect::<Vec<_>>());
}

#[test]
fn damage_to_the_segment_that_grows_costs_one_new_incarnation() {
    let vfs = Memory::default();
    let dir = Path::new("store");
    let mut options = small(&vfs);
    options.segment_bytes_max = 1 << 20;
    let journal = Journal::create(dir, node(), options.clone()).unwrap();
    let writer = own_log(&journal);
    for number in 0..10 {
        writer.append(&body(number)).unwrap().wait().unwrap();
    }
    journal.close().unwrap();
    let file = vfs.open(&dir.join("0000000000000000.seg"), OpenMode::Write).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 10_000).unwrap();
    file.write_at(&[std::io::IoSlice::new(&[byte[0] ^ 1])], 10_000).unwrap();
    drop((journal, writer));
    let mut incarnations = std::collections::HashSet::new();
    for _ in 0..4 {
        let (journal, _) = reopen(dir, options.clone());
        incarnations.insert(journal.identity().incarnation);
        own_log(&journal).append(b"goes on").unwrap().wait().unwrap();
        journal.close().unwrap();
    }
    assert_eq!(incarnations.len(), 1);
}

#[test]
fn an_append_waits_for_room_in_a_full_queue_and_one_that_may_not_wait_is_told_so() {
    let vfs = Memory::default();
    let mut options = small(&vfs);
    options.queue_bytes = 2_000;
    let journal = Journal::create(Path::new("store"), node(), options).unwrap();
    let writer = own_log(&journal);
    let refused = (0..100).find_map(|_| writer.try_append_all(&[[1; 100]]).err());
    assert!(matches!(refused, Some(AppendError::WouldBlock { queue_bytes: 2_000 })), "{refused:?}");
    // Nobody else commits here: whoever waits for room makes it.
    let receipt = writer.append(b"waits").unwrap();
    assert!(writer.try_append_all(&[b"there is room again"]).is_ok());
    receipt.wait().unwrap();
    journal.commit().unwrap();
    let all = bodies(&journal, writer.log(), 0);
    assert_eq!(all[receipt.first_seq().0 as usize], b"waits");
}

#[test]
fn each_commit_is_told_to_those_who_watch_its_space_or_any_and_to_no_others() {
    let vfs = Memory::default();
    let journal = Journal::create(Path::new("store"), node(), small(&vfs)).unwrap();
    let writer = own_log(&journal);
    journal.commit().unwrap();
    let other = SpaceName::new("other").unwrap();
    let [mut any, mut its, mut others] = [None, Some(&space()), Some(&other)].map(|space| journal.watch(space));
    for number in 0..3 {
        writer.append(&body(number)).unwrap();
        assert!(!its.wait_timeout(Duration::ZERO), "nothing is durable yet");
        journal.commit().unwrap();
        assert!(any.wait_timeout(Duration::ZERO) && its.wait_timeout(Duration::ZERO), "commit {number}");
        assert!(!others.wait_timeout(Duration::ZERO));
    }
}
