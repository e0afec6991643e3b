//! Floors of logs, and segments that are given back.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use counterfoil_storage::{
    Arrival, Batch, BatchBuilder, Genesis, Head, Hlc, Journal, LogId, MendError, NodeName, Options, ReadError, Seq,
    SpaceName, StoreError, verify,
    vfs::{Memory, OpenMode, Vfs as _},
};

const DIR: &str = "hub.store";

fn options(vfs: &Memory) -> Options {
    let mut options = Options::default();
    options.vfs = Arc::new(vfs.clone());
    options.background = false;
    options.ring_bytes = 0;
    options.batch_bytes = 1 << 10;
    (options.segment_bytes_min, options.segment_bytes_max) = (16 << 10, 64 << 10);
    options
}

fn create(vfs: &Memory) -> Journal {
    Journal::create(Path::new(DIR), NodeName::new("hub").unwrap(), options(vfs)).unwrap()
}

fn open(vfs: &Memory) -> Journal {
    let (journal, recovery) = Journal::open(Path::new(DIR), options(vfs)).unwrap();
    assert_eq!(recovery.damage().count(), 0, "{recovery:?}");
    journal
}

fn open_read_only(vfs: &Memory) -> Journal {
    let mut options = options(vfs);
    options.read_only = true;
    Journal::open(Path::new(DIR), options).unwrap().0
}

fn reopen(vfs: &Memory, journal: Journal) -> Journal {
    journal.close().unwrap();
    drop(journal);
    open(vfs)
}

fn create_log(journal: &Journal, space: &str) -> LogId {
    let identity = journal.identity();
    let nonce = *identity.incarnation.as_bytes();
    let genesis = Genesis::new(SpaceName::new(space).unwrap(), identity.node.clone(), nonce);
    journal.create_log(genesis).unwrap()
}

fn end_of(journal: &Journal, log: LogId) -> Seq {
    journal.log(log).unwrap().durable.next_seq
}

/// Appends `count` records that tell their sequence number, a batch each, and commits them now and then.
fn append(journal: &Journal, log: LogId, count: u64) {
    let writer = journal.writer(log).unwrap();
    let first = journal.log(log).map_or(0, |info| info.durable.next_seq.0);
    for seq in first..first + count {
        writer.append(&body(seq)).unwrap();
        if seq % 4 == 0 {
            journal.commit().unwrap();
        }
    }
    journal.commit().unwrap();
}

fn body(seq: u64) -> Vec<u8> {
    seq.to_le_bytes().repeat(120)
}

/// What is kept of a log is whole and in order, its chain begins where the floor says, and what is below is refused.
fn assert_kept(journal: &Journal, log: LogId) {
    let info = journal.log(log).unwrap();
    let mut head = Head { next_seq: info.first_seq, digest: info.first_digest };
    for batch in journal.read(log, info.first_seq) {
        let batch = batch.unwrap();
        assert_eq!(head, Head { next_seq: batch.first_seq(), digest: batch.header().previous }, "the chain");
        for record in batch.records() {
            let record = record.unwrap();
            assert_eq!(record.body, body(record.seq.0)[..]);
        }
        assert_eq!(journal.read_batch(log, batch.first_seq()).unwrap().as_ref(), Some(&batch));
        head = batch.head();
    }
    assert_eq!(head, info.durable);
    if info.first_seq > Seq(0) {
        let first = journal.read(log, Seq(0)).next().unwrap().unwrap_err();
        let is_told = |error: &ReadError| matches!(error, ReadError::Trimmed { first_available, .. } if *first_available == info.first_seq);
        assert!(is_told(&first), "{first}");
        let below = Seq(info.first_seq.0 - 1);
        assert!(is_told(&journal.read_batch(log, below).unwrap_err()));
    }
}

/// All that is kept is served by arrival too, each batch once.
fn assert_arrivals(journal: &Journal) {
    let mut arrived: Vec<(LogId, Seq)> = Vec::new();
    let mut next = Arrival(0);
    for item in journal.read_arrivals(Arrival(0)) {
        match item {
            Ok((arrival, batch)) => {
                assert!(arrival >= next, "{arrival} after {next}");
                next = Arrival(arrival.0 + 1);
                arrived.push((batch.log(), batch.first_seq()));
            }
            Err(ReadError::TrimmedArrivals { first_arrival, first_available }) => {
                assert_eq!(first_arrival, next, "no number is passed over");
                assert!(first_available > first_arrival);
                next = first_available;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(next, journal.next_arrival());
    let logs = journal.logs(None);
    let of_log =
        |id| journal.read(id, journal.log(id).unwrap().first_seq).map(move |batch| (id, batch.unwrap().first_seq()));
    let mut kept: Vec<_> = logs.iter().flat_map(|info| of_log(info.id)).collect();
    kept.sort_unstable();
    arrived.sort_unstable();
    assert_eq!(arrived, kept);
}

fn assert_sound(vfs: &Memory, journal: &Journal) {
    journal.logs(None).iter().for_each(|info| assert_kept(journal, info.id));
    assert_arrivals(journal);
    let report = verify(Path::new(DIR), &options(vfs), |_, _| {}).unwrap();
    assert_eq!(report.damage, []);
}

/// Segment files and their bytes.
fn segments(vfs: &Memory) -> (usize, u64) {
    let names: Vec<_> =
        vfs.list(Path::new(DIR)).unwrap().into_iter().filter(|name| name.strip_suffix(".seg").is_some()).collect();
    let len = |name: &String| vfs.open(&PathBuf::from(DIR).join(name), OpenMode::Read).unwrap().len().unwrap();
    (names.len(), names.iter().map(len).sum())
}

#[test]
fn a_floor_keeps_the_batch_that_it_falls_into_never_goes_back_and_is_there_after_a_kill() {
    let vfs = Memory::default();
    let journal = create(&vfs);
    let log = create_log(&journal, "busy");
    for _ in 0..10 {
        journal.writer(log).unwrap().append_all(&[[7; 200]; 12]).unwrap();
    }
    journal.commit().unwrap();
    let whole: Vec<Batch> = journal.read(log, Seq(0)).map(Result::unwrap).collect();
    let third = &whole[2];
    assert!(third.next_seq().0 > third.first_seq().0 + 1, "it has several records");
    let reached = journal.trim(&[(log, Seq(third.next_seq().0 - 1))]).unwrap();
    assert_eq!(reached, [third.first_seq()]);
    assert_eq!(journal.trim(&[(log, Seq(1))]).unwrap(), reached, "it does not go back");
    let check = |journal: &Journal| {
        let info = journal.log(log).unwrap();
        assert_eq!((info.first_seq, info.first_digest), (third.first_seq(), whole[1].digest()));
        assert_eq!(info.bytes, whole[2..].iter().map(|batch| batch.bytes().len() as u64).sum::<u64>());
        let read: Vec<_> = journal.read(log, third.first_seq()).map(Result::unwrap).collect();
        assert_eq!(read, whole[2..]);
    };
    check(&journal);
    drop(journal);
    let journal = open(&vfs);
    check(&journal);
    check(&reopen(&vfs, journal));
}

#[test]
fn readers_that_are_under_way_are_told_and_go_on_at_the_floor() {
    let vfs = Memory::default();
    let journal = create(&vfs);
    let busy = create_log(&journal, "busy");
    append(&journal, busy, 200);
    let mut reader = journal.read(busy, Seq(0));
    let mut arrivals = journal.read_arrivals(Arrival(0));
    assert_eq!(reader.next().unwrap().unwrap().first_seq(), Seq(0));
    assert_eq!(arrivals.next().unwrap().unwrap().0, Arrival(0));
    let floor = journal.trim(&[(busy, Seq(150))]).unwrap()[0];
    journal.free().unwrap();
    let told = reader.next().unwrap().unwrap_err();
    let ReadError::Trimmed { first_seq, first_available, .. } = told else { panic!("{told}") };
    assert_eq!((first_seq, first_available), (Seq(1), floor));
    assert_eq!(reader.next().unwrap().unwrap().first_seq(), floor);
    let rest: Vec<_> = arrivals.collect();
    let kept = rest.iter().filter(|item| item.is_ok()).count();
    assert_eq!(kept, journal.read(busy, floor).count());
    assert!(matches!(rest[0], Err(ReadError::TrimmedArrivals { first_arrival: Arrival(1), .. })), "{:?}", rest[0]);
}

#[test]
fn what_quiet_logs_left_is_copied_forward_and_an_idle_log_never_pins_the_journal() {
    let vfs = Memory::default();
    let mut journal = create(&vfs);
    let quiet: Vec<LogId> = (0..5)
        .map(|number| {
            let quiet = create_log(&journal, &format!("quiet-{number}"));
            append(&journal, quiet, number);
            quiet
        })
        .collect();
    let mut busy = create_log(&journal, "busy");
    let mut most = 0;
    for round in 0..30 {
        append(&journal, busy, 60);
        let end = end_of(&journal, busy);
        journal.trim(&[(busy, Seq(end.0 - 20))]).unwrap();
        journal.free().unwrap();
        most = most.max(segments(&vfs).0);
        if round % 3 == 0 {
            assert_sound(&vfs, &journal);
        }
        match round % 4 {
            1 => journal = reopen(&vfs, journal),
            // A kill.
            3 => {
                drop(journal);
                journal = open(&vfs);
            }
            _ => continue,
        }
        assert_sound(&vfs, &journal);
        busy = create_log(&journal, "busy");
    }
    assert!(most <= 8, "{most} segments");
    for (number, log) in quiet.iter().enumerate().skip(1) {
        let info = journal.log(*log).unwrap();
        assert_eq!((info.first_seq, info.durable.next_seq), (Seq(0), Seq(number as u64)));
    }
    assert!(!vfs.list(Path::new(DIR)).unwrap().contains(&"0000000000000000.seg".to_owned()), "the first one is gone");
}

#[test]
fn a_store_that_appends_and_trims_for_long_keeps_its_size() {
    let vfs = Memory::default();
    let mut journal = create(&vfs);
    let mut sizes = Vec::new();
    // Half of the logs are kept for ever, and get a record now and then.
    for round in 0..400_u64 {
        let logs: Vec<_> = (0..8).map(|number| create_log(&journal, &format!("space-{number}"))).collect();
        for (number, log) in logs.iter().enumerate() {
            if number < 4 || (round % 20 == 0 && round < 200) {
                append(&journal, *log, 6);
            }
        }
        let floor = |log: &LogId| (*log, Seq(end_of(&journal, *log).0.saturating_sub(30)));
        journal.trim(&logs[..4].iter().map(floor).collect::<Vec<_>>()).unwrap();
        journal.free().unwrap();
        if round % 50 == 49 {
            journal = reopen(&vfs, journal);
            assert_sound(&vfs, &journal);
        }
        sizes.push(segments(&vfs));
    }
    let kept: u64 = journal.logs(None).iter().map(|info| info.bytes).sum();
    let (files, bytes) = sizes[200..].iter().fold((0, 0), |most, size| (most.0.max(size.0), most.1.max(size.1)));
    assert!(kept > 300_000, "{kept} bytes are kept");
    // Twice what is kept, and segments that are not full.
    assert!(bytes <= 2 * kept + 4 * (64 << 10), "{bytes} bytes of segments for {kept} kept");
    assert!(files <= 24, "{files} segments");
    let most_of = |sizes: &[(usize, u64)]| sizes.iter().map(|size| size.1).max().unwrap();
    assert!(most_of(&sizes[300..]) <= most_of(&sizes[200..300]) + (64 << 10), "it goes on growing");
}

#[test]
fn what_is_kept_of_a_log_counts_the_same_after_segments_were_given_back_and_the_store_was_opened_anew() {
    // Which segments are left, and where the floor is written, is another for each.
    for (count, kept) in [(300, 10), (300, 100), (1_500, 600), (1_900, 100), (1_900, 500), (1_900, 900), (1_900, 1_200)]
    {
        let vfs = Memory::default();
        let mut options = options(&vfs);
        // A last segment that is small for its largest size is read frame by frame, not by a footer.
        (options.segment_bytes_min, options.segment_bytes_max) = (1 << 20, 64 << 20);
        let open = |read_only| {
            let mut options = options.clone();
            options.read_only = read_only;
            Journal::open(Path::new(DIR), options).unwrap().0
        };
        let journal = Journal::create(Path::new(DIR), NodeName::new("hub").unwrap(), options.clone()).unwrap();
        let log = create_log(&journal, "s");
        append(&journal, log, count);
        journal.trim(&[(log, Seq(count - kept))]).unwrap();
        journal.free().unwrap();
        let counted =
            |journal: &Journal| journal.log(log).map(|info| (info.first_seq, info.bytes, info.trimmed_bytes)).unwrap();
        let before = counted(&journal);
        journal.close().unwrap();
        assert_eq!(counted(&open(false)), before, "{kept} of {count}");
        assert_eq!(counted(&open(true)), before, "{kept} of {count}, read only");
    }
}

#[test]
fn a_log_of_which_nothing_is_kept_is_still_there_with_its_end_and_goes_on() {
    let vfs = Memory::default();
    let journal = create(&vfs);
    let [gone, busy] = ["gone", "busy"].map(|space| create_log(&journal, space));
    append(&journal, gone, 5);
    let head = journal.log(gone).unwrap().durable;
    append(&journal, busy, 100);
    assert_eq!(journal.trim(&[(gone, Seq(u64::MAX))]).unwrap(), [Seq(5)]);
    let end = end_of(&journal, busy);
    journal.trim(&[(busy, end)]).unwrap();
    assert!(journal.free().unwrap().segments > 2);
    for _ in 0..2 {
        append(&journal, busy, 100);
        let end = end_of(&journal, busy);
        journal.trim(&[(busy, end)]).unwrap();
        journal.free().unwrap();
    }
    drop(journal);
    let journal = open(&vfs);
    let info = journal.log(gone).unwrap();
    assert_eq!((info.durable, info.first_seq, info.first_digest, info.bytes), (head, Seq(5), head.digest, 0));
    assert_sound(&vfs, &journal);
    let before = journal.log(gone).unwrap().last_time;
    let again = create_log(&journal, "gone");
    append(&journal, again, 3);
    let first = journal.read_batch(gone, Seq(5)).unwrap().unwrap();
    assert_eq!(first.header().previous, head.digest);
    assert!(first.header().time > before, "stamps go on");
    assert_sound(&vfs, &reopen(&vfs, journal));
}

#[test]
fn logs_are_known_from_their_file_where_no_footer_lists_them_all_and_either_copy_of_it_will_do() {
    let vfs = Memory::default();
    let journal = create(&vfs);
    let quiet = create_log(&journal, "quiet");
    append(&journal, quiet, 2);
    let busy = create_log(&journal, "busy");
    append(&journal, busy, 60);
    let end = end_of(&journal, busy);
    journal.trim(&[(busy, end)]).unwrap();
    assert!(journal.free().unwrap().segments > 0);
    append(&journal, busy, 30);
    drop(journal);
    // No footer is left at all.
    for name in vfs.list(Path::new(DIR)).unwrap().iter().filter(|name| name.strip_suffix(".seg").is_some()) {
        let file = vfs.open(&PathBuf::from(DIR).join(name), OpenMode::Write).unwrap();
        let mut content = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut content, 0).unwrap();
        if let Some(at) = content.windows(4).rposition(|bytes| bytes == b"CFI1") {
            file.write_at(&[std::io::IoSlice::new(&[0; 32])], at as u64).unwrap();
        }
    }
    let file = vfs.open(&PathBuf::from(DIR).join("logs"), OpenMode::Write).unwrap();
    file.write_at(&[std::io::IoSlice::new(b"x")], 30).unwrap();
    let journal = open(&vfs);
    assert_eq!(journal.log(quiet).unwrap().durable.next_seq, Seq(2));
    assert_sound(&vfs, &journal);
}

#[test]
fn what_would_have_to_be_copied_and_is_damaged_stays_where_it_is() {
    let vfs = Memory::default();
    let journal = create(&vfs);
    let quiet = create_log(&journal, "quiet");
    append(&journal, quiet, 1);
    let batch = journal.read_batch(quiet, Seq(0)).unwrap().unwrap();
    let busy = create_log(&journal, "busy");
    append(&journal, busy, 100);
    let path = PathBuf::from(DIR).join("0000000000000000.seg");
    let file = vfs.open(&path, OpenMode::Write).unwrap();
    let mut content = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut content, 0).unwrap();
    let at = content.windows(batch.bytes().len()).position(|bytes| bytes == &batch.bytes()[..]).unwrap();
    let at = at + batch.bytes().len() - 1;
    file.write_at(&[std::io::IoSlice::new(&[content[at] ^ 1])], at as u64).unwrap();
    let journal = reopen(&vfs, journal);
    let end = end_of(&journal, busy);
    journal.trim(&[(busy, end)]).unwrap();
    let error = journal.free().unwrap_err();
    assert!(error.to_string().contains("can't be read from 0 to before 1"), "{error}");
    assert!(vfs.list(Path::new(DIR)).unwrap().contains(&"0000000000000000.seg".to_owned()));
    // Once it has been mended, the space is given back.
    journal.mend(std::slice::from_ref(&batch)).unwrap();
    assert!(journal.free().unwrap().segments > 0);
    assert_eq!(journal.read_batch(quiet, Seq(0)).unwrap(), Some(batch));
    assert_sound(&vfs, &reopen(&vfs, journal));
}

#[test]
fn a_reader_beside_a_writer_that_frees_is_told_so_and_finds_everything_after_a_refresh() {
    let vfs = Memory::default();
    let journal = create(&vfs);
    let quiet = create_log(&journal, "quiet");
    append(&journal, quiet, 3);
    let busy = create_log(&journal, "busy");
    append(&journal, busy, 60);
    let beside = open_read_only(&vfs);
    let idle = open_read_only(&vfs);
    for round in 0..6 {
        append(&journal, busy, 60);
        let end = end_of(&journal, busy);
        journal.trim(&[(busy, Seq(end.0 - 10))]).unwrap();
        assert!(journal.free().unwrap().segments > 0);
        append(&journal, busy, 1);
        if round == 0 {
            // What it holds open it reads on; of the rest it is told that it has gone; other bytes it never gets.
            let mut read = idle.read(busy, Seq(0));
            let told = read.find_map(|item| match item {
                Ok(batch) => {
                    let record = batch.records().next().unwrap().unwrap();
                    assert_eq!(record.body, body(record.seq.0)[..]);
                    None
                }
                Err(error) => Some(error),
            });
            assert!(matches!(told, Some(ReadError::Freed { .. })), "{told:?}");
        }
        assert!(beside.refresh().unwrap());
        let proven = beside.log(busy).unwrap();
        assert!(proven.first_seq <= Seq(end.0 - 10) && proven.first_seq > Seq(end.0 - 60), "{proven:?}");
        assert_kept(&beside, busy);
        assert_kept(&beside, quiet);
    }
    // One that has slept through all of it looks at everything anew.
    assert!(idle.refresh().unwrap());
    assert_kept(&idle, busy);
    assert_kept(&idle, quiet);
    assert_arrivals(&idle);
}

#[test]
fn a_batch_that_comes_again_below_the_floor_is_not_stored_and_none_is_mended_there() {
    let vfs = Memory::default();
    let journal = create(&vfs);
    let genesis = Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("p").unwrap(), [1; 16]);
    let log = journal.create_log(genesis.clone()).unwrap();
    let mut head = genesis.head();
    let mut batches = Vec::new();
    for number in 0..5_u8 {
        let mut builder = BatchBuilder::with_capacity(16);
        builder.push(Hlc::from_bits(u64::from(number)), &[number]);
        let batch = builder.seal(log, head);
        head = batch.head();
        journal.store(batch.clone()).unwrap();
        batches.push(batch);
    }
    journal.commit().unwrap();
    journal.trim(&[(log, Seq(3))]).unwrap();
    let again = journal.store(batches[1].clone());
    assert!(matches!(again, Err(StoreError::Read(ReadError::Trimmed { .. }))), "{again:?}");
    let again = journal.mend(&batches[1..2]);
    assert!(matches!(again, Err(MendError::Read(ReadError::Trimmed { .. }))), "{again:?}");
}

#[test]
fn giving_back_ends_when_it_is_to_and_the_next_call_does_the_rest() {
    let vfs = Memory::default();
    let journal = create(&vfs);
    let log = create_log(&journal, "s");
    append(&journal, log, 400);
    journal.trim(&[(log, Seq(400))]).unwrap();
    let (before, _) = segments(&vfs);
    assert_eq!(journal.free_while(|| false).unwrap().segments, 0);
    let looks = std::cell::Cell::new(0);
    let freed = journal.free_while(|| looks.replace(looks.get() + 1) < 3).unwrap().segments;
    assert_eq!((freed, segments(&vfs).0), (3, before - 3));
    assert_sound(&vfs, &journal);
    assert!(journal.free().unwrap().segments >= 2);
    assert_sound(&vfs, &journal);
}
