//! Segments are given back where something is damaged, missing, or read meanwhile: nothing that is kept is lost by it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use counterfoil_faults::{FaultVfs, STORE, options_on, small_options};
use counterfoil_storage::{
    Batch, BatchBuilder, Genesis, Head, Hlc, Journal, LogId, NodeName, ReadError, Recovery, Seq, SpaceName, Stored,
    TrimError, verify,
    vfs::{OpenMode, Vfs, VfsFile, VfsLock},
};

fn create(disk: &FaultVfs) -> Journal {
    Journal::create(Path::new(STORE), NodeName::new("own").unwrap(), options_on(disk)).unwrap()
}

fn open(disk: &FaultVfs) -> (Journal, Recovery) {
    Journal::open(Path::new(STORE), options_on(disk)).unwrap()
}

fn kill(disk: &FaultVfs, journal: Journal) -> FaultVfs {
    drop(journal);
    disk.kill()
}

fn damage_of(disk: &FaultVfs) -> usize {
    verify(Path::new(STORE), &options_on(disk), |_, _| {}).unwrap().damage.len()
}

fn space(name: &str) -> SpaceName {
    SpaceName::new(name).unwrap()
}

fn own_log(journal: &Journal, name: &str) -> LogId {
    let identity = journal.identity();
    journal.create_log(Genesis::new(space(name), identity.node.clone(), *identity.incarnation.as_bytes())).unwrap()
}

fn end_of(journal: &Journal, log: LogId) -> Seq {
    journal.log(log).unwrap().durable.next_seq
}

fn append(journal: &Journal, log: LogId, len: usize) {
    journal.writer(log).unwrap().append(&vec![7; len]).unwrap().wait().unwrap();
}

fn segments(disk: &FaultVfs) -> Vec<PathBuf> {
    let mut files = disk.files();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    files
}

/// Appends until so many segments have been begun.
fn fill(disk: &FaultVfs, journal: &Journal, log: LogId, count: usize) {
    let wanted = segments(disk).len() + count;
    while segments(disk).len() < wanted {
        append(journal, log, 2000);
    }
}

/// Keeps nothing of a log that is there by now.
fn give_up(journal: &Journal, log: LogId) {
    journal.trim(&[(log, Seq(u64::MAX))]).unwrap();
}

/// A log is served from its floor to its end.
fn assert_served(journal: &Journal, log: LogId) {
    let info = journal.log(log).unwrap();
    let mut head = Head { next_seq: info.first_seq, digest: info.first_digest };
    for item in journal.read(log, info.first_seq) {
        let batch = item.unwrap();
        assert_eq!((batch.first_seq(), batch.header().previous), (head.next_seq, head.digest));
        head = batch.head();
    }
    assert_eq!(head, info.durable);
}

#[test]
fn a_missing_segment_is_not_passed_over_while_something_of_it_is_kept_and_no_log_ends_lower() {
    let disk = FaultVfs::new(1);
    let journal = create(&disk);
    let [quiet, busy] = ["quiet", "busy"].map(|name| own_log(&journal, name));
    append(&journal, quiet, 40);
    fill(&disk, &journal, busy, 3);
    // The end of the quiet log is told by a later footer that lists all logs.
    append(&journal, quiet, 40);
    let lost = segments(&disk).pop().unwrap();
    fill(&disk, &journal, busy, 4);
    journal.close().unwrap();
    let disk = kill(&disk, journal);
    disk.lose(&lost);
    let (journal, recovery) = open(&disk);
    let incarnation = journal.identity().incarnation;
    assert_eq!((recovery.damage().count(), end_of(&journal, quiet)), (1, Seq(2)));
    give_up(&journal, busy);
    for _ in 0..2 {
        let error = journal.free().unwrap_err();
        assert!(matches!(error, TrimError::Read(ReadError::Hole { log, .. }) if log == quiet), "{error}");
    }
    let disk = kill(&disk, journal);
    let (journal, recovery) = open(&disk);
    assert_eq!((recovery.damage().count(), journal.identity().incarnation), (1, incarnation));
    assert_eq!(end_of(&journal, quiet), Seq(2), "no sequence number is given twice");
    // Once nothing is kept of what is missing, the space is given back.
    give_up(&journal, quiet);
    assert!(journal.free().unwrap().segments > 2);
    let disk = kill(&disk, journal);
    let (journal, recovery) = open(&disk);
    assert_eq!((recovery.damage().count(), end_of(&journal, quiet)), (0, Seq(2)));
    append(&journal, quiet, 40);
    assert_served(&journal, quiet);
    assert_eq!(damage_of(&disk), 0);
}

/// A store of so many quiet logs that no footer lists all, killed after it has given back the segments in which they were
/// announced; with all its logs and their ends.
fn store_of_many_logs() -> (FaultVfs, Vec<(LogId, Seq)>) {
    let disk = FaultVfs::new(1);
    let journal = create(&disk);
    let quiet: Vec<_> = (0..200).map(|number| own_log(&journal, &format!("quiet-{number}"))).collect();
    quiet.iter().for_each(|log| drop(journal.writer(*log).unwrap().append(b"quiet").unwrap()));
    let busy = own_log(&journal, "busy");
    fill(&disk, &journal, busy, 8);
    give_up(&journal, busy);
    assert!(journal.free().unwrap().segments > 6);
    let logs = quiet.into_iter().chain([busy]).map(|log| (log, end_of(&journal, log))).collect();
    (kill(&disk, journal), logs)
}

fn assert_all_there(journal: &Journal, logs: &[(LogId, Seq)]) {
    for (log, end) in logs {
        assert_eq!(journal.log(*log).map(|info| info.durable.next_seq), Some(*end), "{log}");
        assert_served(journal, *log);
    }
}

#[test]
fn without_an_extent_the_logs_that_were_announced_in_freed_segments_are_known_and_kept_all_the_same() {
    let (killed, logs) = store_of_many_logs();
    let extent = Path::new(STORE).join("extent");
    let ways: [&dyn Fn(&FaultVfs); 2] = [&|disk| assert!(disk.lose(&extent)), &|disk| {
        assert!(disk.edit(&extent, |content| content.fill(0x55)));
    }];
    for spoil in ways {
        let disk = killed.snapshot();
        spoil(&disk);
        assert!(damage_of(&disk) > 0);
        let (journal, recovery) = open(&disk);
        assert!(recovery.damage().count() > 0);
        assert_all_there(&journal, &logs);
        let again = own_log(&journal, "again");
        fill(&disk, &journal, again, 4);
        give_up(&journal, again);
        assert!(journal.free().unwrap().segments > 0);
        let disk = kill(&disk, journal);
        let (journal, recovery) = open(&disk);
        assert_eq!(recovery.damage().count(), 0, "{recovery:?}");
        assert_all_there(&journal, &logs);
        drop(journal);
        assert_eq!(damage_of(&disk), 0);
    }
}

#[test]
fn without_the_file_of_logs_no_own_log_begins_again_and_nothing_of_an_unknown_one_is_given_back() {
    let (disk, logs) = store_of_many_logs();
    assert!(disk.edit(&Path::new(STORE).join("logs"), |content| content.fill(0x55)));
    let (journal, recovery) = open(&disk);
    assert!(recovery.damage().count() > 0);
    let unknown = logs.iter().filter(|(log, _)| journal.log(*log).is_none()).count();
    assert!(unknown > 0, "some are known from that file alone");
    for number in 0..200 {
        // Of another incarnation.
        let log = own_log(&journal, &format!("quiet-{number}"));
        assert!(logs.iter().all(|(known, _)| *known != log));
    }
    let busy = own_log(&journal, "again");
    fill(&disk, &journal, busy, 4);
    give_up(&journal, busy);
    let error = journal.free().unwrap_err();
    assert!(matches!(error, TrimError::Read(ReadError::UnknownLog { .. })), "{error}");
}

#[test]
fn a_file_of_logs_that_has_rotted_is_whole_again_once_a_segment_is_freed() {
    let disk = FaultVfs::new(1);
    let journal = create(&disk);
    let [quiet, busy] = ["quiet", "busy"].map(|name| own_log(&journal, name));
    append(&journal, quiet, 40);
    fill(&disk, &journal, busy, 3);
    give_up(&journal, busy);
    assert!(journal.free().unwrap().segments > 0);
    // Two logs: each footer lists them all, and the file is not needed.
    fill(&disk, &journal, busy, 2);
    journal.close().unwrap();
    let disk = kill(&disk, journal);
    let logs = Path::new(STORE).join("logs");
    let whole = disk.content(&logs).unwrap();
    disk.edit(&logs, |content| content.fill(0x55));
    assert!(damage_of(&disk) > 0);
    let (journal, recovery) = open(&disk);
    assert_eq!(recovery.damage().count(), 0, "{recovery:?}");
    fill(&disk, &journal, busy, 2);
    give_up(&journal, busy);
    assert!(journal.free().unwrap().segments > 0);
    assert_eq!(damage_of(&disk), 0);
    assert_eq!(disk.content(&logs), Some(whole));
}

fn foreign_batch(log: LogId, head: Head) -> Batch {
    let mut builder = BatchBuilder::with_capacity(40);
    builder.push(Hlc::from_bits(head.next_seq.0 + 1), &[7; 40]);
    builder.seal(log, head)
}

/// Has another node's batch stored, alone in its commit.
fn store(journal: &Journal, batch: &Batch) {
    let Stored::Queued(receipt) = journal.store(batch.clone()).unwrap() else { panic!("it is new") };
    receipt.wait().unwrap();
}

fn position(content: &[u8], wanted: &[u8]) -> usize {
    content.windows(wanted.len()).position(|window| window == wanted).expect("it is on disk")
}

#[test]
fn what_is_whole_and_was_left_out_of_an_index_is_not_given_back() {
    let disk = FaultVfs::new(1);
    let journal = create(&disk);
    let genesis = Genesis::new(space("shared"), NodeName::new("other").unwrap(), [1; 16]);
    let quiet = journal.create_log(genesis.clone()).unwrap();
    let mut batches = vec![foreign_batch(quiet, genesis.head())];
    (1..3).for_each(|_| batches.push(foreign_batch(quiet, batches.last().unwrap().head())));
    batches.iter().for_each(|batch| store(&journal, batch));
    let disk = kill(&disk, journal);
    // Header and table of the commit in the middle.
    disk.edit(&segments(&disk)[0], |content| {
        let batch = position(content, batches[1].bytes());
        let frame = content[..batch].windows(4).rposition(|window| window == b"CFF1").unwrap();
        content[frame..batch].fill(0xff);
    });
    let (journal, recovery) = open(&disk);
    assert_eq!(recovery.damage().count(), 1);
    let busy = own_log(&journal, "busy");
    fill(&disk, &journal, busy, 4);
    give_up(&journal, busy);
    let disk = kill(&disk, journal);
    // In this life nothing is known of the damage but that there is a hole; not even that without the file of holes.
    disk.lose(&Path::new(STORE).join("holes"));
    let (journal, _) = open(&disk);
    let error = journal.free().unwrap_err();
    assert!(matches!(error, TrimError::Read(ReadError::Hole { first_seq: Seq(1), .. })), "{error}");
    assert!(disk.content(&segments(&disk)[0]).is_some_and(|content| {
        content.windows(batches[1].bytes().len()).any(|window| window == &batches[1].bytes()[..])
    }));
    journal.mend(&batches[1..2]).unwrap();
    assert!(journal.free().unwrap().segments > 2);
    let (journal, recovery) = open(&kill(&disk, journal));
    assert_eq!(recovery.damage().count(), 0);
    assert_eq!(journal.read(quiet, Seq(0)).map(Result::unwrap).collect::<Vec<_>>(), batches);
}

#[test]
fn batches_of_a_log_whose_announcement_has_rotted_are_not_given_back() {
    let disk = FaultVfs::new(1);
    let journal = create(&disk);
    let genesis = Genesis::new(space("shared"), NodeName::new("other").unwrap(), [1; 16]);
    let quiet = journal.create_log(genesis.clone()).unwrap();
    let batch = foreign_batch(quiet, genesis.head());
    store(&journal, &batch);
    append(&journal, own_log(&journal, "proof"), 10);
    let disk = kill(&disk, journal);
    disk.edit(&segments(&disk)[0], |content| {
        let announced = content[..position(content, batch.bytes())].to_vec();
        let copies = announced.windows(4).enumerate().filter(|(_, window)| window == b"CFA1");
        copies.for_each(|(at, _)| content[at + 8] ^= 1);
    });
    let (journal, recovery) = open(&disk);
    assert!(recovery.damage().count() > 0 && journal.log(quiet).is_none());
    let busy = own_log(&journal, "busy");
    fill(&disk, &journal, busy, 4);
    give_up(&journal, busy);
    let error = journal.free().unwrap_err();
    assert!(matches!(error, TrimError::Read(ReadError::UnknownLog { log }) if log == quiet), "{error}");
    // Once its source has it announced and stored again, nothing is missing.
    journal.create_log(genesis).unwrap();
    store(&journal, &batch);
    assert!(journal.free().unwrap().segments > 2);
    let (journal, recovery) = open(&kill(&disk, journal));
    assert_eq!((recovery.damage().count(), journal.read_batch(quiet, Seq(0)).unwrap()), (0, Some(batch)));
}

type Event = Box<dyn FnOnce() + Send>;

/// Mends all that is missing of a log, from all its batches.
fn mend(journal: &Journal, batches: &[Batch]) {
    let log = batches[0].log();
    while let Some(hole) = journal.holes(log).unwrap().last() {
        let missing = batches.iter().rev().skip_while(|batch| batch.head() != hole.end);
        let missing: Vec<_> = missing.take_while(|batch| batch.next_seq() > hole.first_seq).cloned().collect();
        assert!(!missing.is_empty(), "{hole:?}");
        journal.mend(&missing).unwrap();
    }
}

#[test]
fn a_segment_lost_after_an_earlier_one_was_mended_and_given_back_is_told_of_until_it_is_mended_too() {
    let disk = FaultVfs::new(1);
    let journal = create(&disk);
    let logs = ["quiet", "busy"].map(|name| own_log(&journal, name));
    let [quiet, busy] = logs;
    append(&journal, quiet, 40);
    fill(&disk, &journal, busy, 3);
    let mut disk = kill(&disk, journal);
    // Of the first loss some is kept where it was stored anew, when the place of the lost segment is given back.
    for (round, lost) in [0, 1].into_iter().enumerate() {
        let whole = open(&disk.snapshot().kill()).0;
        let batches = logs.map(|log| {
            let first_seq = whole.log(log).unwrap().first_seq;
            whole.read(log, first_seq).map(Result::unwrap).collect::<Vec<_>>()
        });
        let lost = segments(&disk)[lost].clone();
        disk.lose(&lost);
        let (journal, recovery) = open(&disk);
        assert_eq!(recovery.damage().count(), 1);
        mend(&journal, &batches[1]);
        if round == 0 {
            assert!(disk.content(&lost).is_none(), "a record of the quiet log is missing yet");
            mend(&journal, &batches[0]);
        }
        assert!(disk.content(&lost).is_some(), "an empty one takes its place");
        let floor = end_of(&journal, busy);
        fill(&disk, &journal, busy, 4);
        journal.trim(&[(busy, floor)]).unwrap();
        let freed = journal.free().unwrap();
        assert!(round > 0 || freed.segments > 2, "{freed:?}");
        logs.iter().for_each(|log| assert_served(&journal, *log));
        disk = kill(&disk, journal);
        assert_eq!(open(&disk.snapshot().kill()).1.damage().count(), 0);
        assert_eq!(damage_of(&disk), 0);
    }
}

/// A file system on which something happens right before a file is opened to read: at the open of that number.
struct Racing {
    disk: FaultVfs,
    opens: Mutex<(u64, Option<Event>)>,
}

impl fmt::Debug for Racing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Racing").finish_non_exhaustive()
    }
}

impl Vfs for Racing {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let due = {
            let mut opens = self.opens.lock().unwrap();
            let is_due = mode == OpenMode::Read && opens.1.is_some() && opens.0 == 0;
            opens.0 = opens.0.saturating_sub(u64::from(mode == OpenMode::Read));
            if is_due { opens.1.take() } else { None }
        };
        due.into_iter().for_each(|happen| happen());
        self.disk.open(path, mode)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        self.disk.lock(path)
    }
}

#[test]
fn a_reader_in_whose_way_segments_are_freed_finds_everything_and_takes_nothing_for_missing() {
    let whole = FaultVfs::new(1);
    let journal = create(&whole);
    let [quiet, busy] = ["quiet", "busy"].map(|name| own_log(&journal, name));
    for _ in 0..6 {
        append(&journal, quiet, 40);
        fill(&whole, &journal, busy, 1);
    }
    give_up(&journal, busy);
    journal.close().unwrap();
    let whole = kill(&whole, journal);
    let mut races = 0;
    for number in 0..40 {
        let vfs = Arc::new(Racing { disk: whole.snapshot().kill(), opens: Mutex::new((0, None)) });
        let mut options = small_options();
        options.vfs = Arc::<Racing>::clone(&vfs);
        options.index_bytes = 0;
        let journal = Journal::open(Path::new(STORE), options).unwrap().0;
        let freeing = journal.clone();
        *vfs.opens.lock().unwrap() = (number, Some(Box::new(move || assert!(freeing.free().unwrap().segments > 3))));
        let read: Vec<_> = journal.read(quiet, Seq(0)).map(|item| item.map(|batch| batch.first_seq())).collect();
        races += usize::from(vfs.opens.lock().unwrap().1.take().is_none());
        let read: Vec<_> =
            read.into_iter().collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(read, (0..6).map(Seq).collect::<Vec<_>>(), "{number}");
        assert!(journal.log(quiet).unwrap().holes.is_empty(), "{number}");
    }
    assert!(races > 5, "{races}");
}

#[test]
fn floors_and_batches_stored_anew_are_written_a_bounded_part_at_a_time_however_many_there_are() {
    let disk = FaultVfs::new(1);
    let mut options = options_on(&disk);
    (options.segment_bytes_min, options.segment_bytes_max) = (1 << 20, 1 << 20);
    let journal = Journal::create(Path::new(STORE), NodeName::new("own").unwrap(), options.clone()).unwrap();
    let quiet: Vec<_> = (0..4000).map(|number| own_log(&journal, &format!("quiet-{number}"))).collect();
    quiet.iter().for_each(|log| drop(journal.writer(*log).unwrap().append(b"quiet").unwrap()));
    journal.commit().unwrap();
    let frames = |disk: &FaultVfs| {
        let count =
            |path: &PathBuf| disk.content(path).map_or(0, |it| it.windows(4).filter(|at| at == b"CFF1").count());
        segments(disk).iter().map(count).sum::<usize>()
    };
    let before = frames(&disk);
    journal.trim(&quiet.iter().map(|log| (*log, Seq(1))).collect::<Vec<_>>()).unwrap();
    assert_eq!(frames(&disk) - before, 3, "700 KB of floors");
    assert!(quiet.iter().all(|log| journal.log(*log).unwrap().first_seq == Seq(1)));
    let busy = own_log(&journal, "busy");
    for _ in 0..800 {
        append(&journal, busy, 4000);
    }
    let batches: Vec<_> = journal.read(busy, Seq(0)).map(Result::unwrap).collect();
    journal.close().unwrap();
    let disk = kill(&disk, journal);
    let lost = segments(&disk)[2].clone();
    disk.lose(&lost);
    options.vfs = Arc::new(disk.clone());
    let journal = Journal::open(Path::new(STORE), options).unwrap().0;
    let [hole] = journal.holes(busy).unwrap()[..] else { panic!("one segment is missing") };
    let missing = batches.iter().rev().skip_while(|batch| batch.head() != hole.end);
    let missing: Vec<_> = missing.take_while(|batch| batch.next_seq() > hole.first_seq).cloned().collect();
    let bytes: usize = missing.iter().map(|batch| batch.bytes().len()).sum();
    assert!(bytes > 700_000, "{bytes}");
    let before = frames(&disk);
    journal.mend(&missing).unwrap();
    assert!(frames(&disk) - before >= 3, "{bytes} bytes of batches");
    assert_eq!(journal.read(busy, Seq(0)).map(Result::unwrap).collect::<Vec<_>>(), batches);
}
