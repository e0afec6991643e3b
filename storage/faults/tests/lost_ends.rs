//! The end of a journal that was durable and can't be read any more: no sequence number is given again, what is whole is
//! served, and what is missing is told of until it is there again.

use std::path::Path;

use counterfoil_faults::{
    Fault, FaultVfs, Injection, Ledger, Operation, Player, STORE, Step, options_on, small_options,
};
use counterfoil_storage::{Finding, Genesis, Journal, LogId, NodeName, Options, Recovery, Seq, SpaceName, verify};

fn open(disk: &FaultVfs) -> (Journal, Recovery) {
    Journal::open(Path::new(STORE), options_on(disk)).unwrap()
}

fn extent() -> std::path::PathBuf {
    Path::new(STORE).join("extent")
}

/// The newest segment file, and where its last byte stands that is not zero.
fn last_segment(disk: &FaultVfs) -> (std::path::PathBuf, usize) {
    let mut segments = disk.files();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    let is_used = |path: &&std::path::PathBuf| disk.content(path).unwrap().starts_with(b"CFS1");
    let last = segments.iter().rfind(is_used).unwrap().clone();
    let end = disk.content(&last).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (last, end)
}

/// Sets so many bytes to zero from `at` on.
fn zero(disk: &FaultVfs, path: &Path, at: usize, len: usize) {
    disk.edit(path, |content| content.iter_mut().skip(at).take(len).for_each(|byte| *byte = 0));
}

/// Where the last frame begins.
fn last_frame(disk: &FaultVfs) -> (std::path::PathBuf, usize) {
    let (path, _) = last_segment(disk);
    let content = disk.content(&path).unwrap();
    let at = (8192..content.len()).step_by(8).rfind(|at| content[*at..].starts_with(b"CFF1")).unwrap();
    (path, at)
}

/// A store after so many commits of an own and another node's log, each of several batches, killed before its mark.
fn killed(commits: usize) -> (FaultVfs, Ledger) {
    let mut player = Player::new(FaultVfs::new(1), small_options());
    let mut steps = vec![Step::CreateLog, Step::CreateForeignLog];
    for _ in 0..commits {
        steps.extend([Step::AppendAll(0, vec![150; 14]), Step::Store(0, 10), Step::Commit]);
    }
    assert_eq!(player.play(&steps), Ok(()));
    (player.disk.kill(), player.ledger)
}

/// The store takes records in a log that nobody knows yet, and has them after a crash.
fn check_that_writing_goes_on(disk: &FaultVfs, journal: &Journal) {
    let identity = journal.identity().clone();
    let space = SpaceName::new("afterwards").unwrap();
    let log = journal.create_log(Genesis::new(space, identity.node, *identity.incarnation.as_bytes())).unwrap();
    journal.writer(log).unwrap().append(b"new").unwrap().wait().unwrap();
    let (journal, recovery) = open(&disk.crash(1));
    assert_eq!(recovery.damage().count(), 0, "{recovery:?}");
    assert!(journal.read_batch(log, Seq::ZERO).unwrap().is_some());
}

#[test]
fn without_the_extent_no_sequence_number_of_a_commit_that_may_have_been_acknowledged_is_given_again() {
    for commits in [1, 2, 3, 30] {
        let (sound, ledger) = killed(commits);
        for how in ["lost", "unreadable"] {
            let what = format!("{commits} commits, extent {how}");
            let disk = sound.snapshot();
            if how == "lost" {
                assert!(disk.lose(&extent()));
            } else {
                assert!(disk.edit(&extent(), |content| content.fill(0x55)));
            }
            let (path, at) = last_frame(&disk);
            zero(&disk, &path, at, 60);
            let incarnation = open(&sound.snapshot()).0.identity().incarnation;
            let verified = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
            let (journal, recovery) = open(&disk);
            ledger.judge_own(&journal).unwrap_or_else(|violation| panic!("{what}: {violation:?}"));
            assert_ne!(journal.identity().incarnation, incarnation, "{what}: {recovery:?}");
            let is_told = |finding: &Finding| matches!(finding, Finding::TornTail { possibly_acknowledged: true, .. });
            // Where there was one commit only, most likely it was never finished.
            assert!(commits == 1 || recovery.findings.iter().any(is_told), "{what}: {recovery:?}");
            let is_damage = commits > 1 || how == "unreadable";
            assert_eq!(recovery.damage().count() > 0, is_damage, "{what}: {recovery:?}");
            assert!(!verified.damage.is_empty() || !is_damage, "{what}");
            let missing = ledger.judge_rotten(&journal).unwrap();
            assert!(missing.len() <= 24, "{what}: {} are missing", missing.len());
            check_that_writing_goes_on(&disk, &journal);
        }
    }
}

#[test]
fn where_the_extent_is_lost_the_end_that_is_found_is_not_taken_for_proven() {
    // Nothing of the last commit is left to be seen, and without the extent nothing tells that there was one.
    let (disk, ledger) = killed(3);
    let (path, at) = last_frame(&disk);
    let (_, end) = last_segment(&disk);
    zero(&disk, &path, at, end - at);
    disk.lose(&extent());
    let (journal, recovery) = open(&disk);
    assert!(recovery.damage().count() > 0, "{recovery:?}");
    ledger.judge_own(&journal).unwrap();
    check_that_writing_goes_on(&disk, &journal);
}

fn own_log(journal: &Journal) -> LogId {
    let nonce = *journal.identity().incarnation.as_bytes();
    journal.create_log(Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("own").unwrap(), nonce)).unwrap()
}

#[test]
fn no_second_frame_is_written_before_it_is_on_record_that_there_is_a_first() {
    for fault in [Fault::Eio, Fault::NoSpace] {
        let disk = FaultVfs::new(1);
        let journal = Journal::create(Path::new(STORE), NodeName::new("own").unwrap(), options_on(&disk)).unwrap();
        let log = own_log(&journal);
        disk.inject_ahead(Injection::at(0, fault).of(Operation::Rename).for_ever());
        let append = || journal.writer(log)?.append(b"record")?.wait();
        append().unwrap();
        assert!(append().is_err(), "{fault:?}: that it failed to be recorded is met again");
        assert!(disk.content(&extent()).is_none());
        disk.mend();
        // A disk that failed is not written any more, one that was full is.
        assert_eq!(append().is_ok(), fault == Fault::NoSpace);
        drop(journal);
        let (journal, recovery) = open(&disk.crash(3));
        assert_eq!(recovery.damage().count(), 0, "{fault:?}: {recovery:?}");
        assert_eq!(journal.log(log).unwrap().durable.next_seq.0, 1 + u64::from(fault == Fault::NoSpace));
    }
}

/// A closed store whose last commit holds many batches of several logs, and its last two frames: that commit's and the
/// closing mark's.
fn closed() -> (FaultVfs, Ledger, [usize; 3]) {
    let mut player = Player::new(FaultVfs::new(1), options_of_one_segment());
    let mut steps = vec![Step::CreateLog, Step::CreateForeignLog, Step::CreateLog, Step::CreateLog];
    for round in 0..3 {
        steps.extend([Step::Store(0, 10 + round), Step::AppendAll(0, vec![150; 40]), Step::AppendAll(1, vec![90; 30])]);
        steps.extend([Step::AppendAll(2, vec![30; 5]), Step::Commit]);
    }
    assert_eq!(player.play(&steps), Ok(()));
    player.journal.take().expect("open").close().unwrap();
    let disk = player.disk.kill();
    let (path, mark) = last_frame(&disk);
    let content = disk.content(&path).unwrap();
    let commit = (8192..mark).step_by(8).rfind(|at| content[*at..].starts_with(b"CFF1")).unwrap();
    (disk, player.ledger, [commit, mark, mark + 40])
}

fn options_of_one_segment() -> Options {
    let mut options = small_options();
    (options.segment_bytes_min, options.segment_bytes_max) = (1 << 20, 1 << 20);
    options
}

/// What stands between two offsets of the only segment: log, first record, after the last.
fn batches_between(disk: &FaultVfs, journal: &Journal, from: usize, to: usize) -> Vec<(LogId, Seq, Seq)> {
    let (path, _) = last_segment(disk);
    let content = disk.content(&path).unwrap();
    let mut hit = Vec::new();
    for info in journal.logs(None) {
        for batch in journal.read(info.id, Seq::ZERO).map(Result::unwrap) {
            let bytes = &batch.bytes()[..];
            let at = content.windows(bytes.len()).position(|window| window == bytes).unwrap();
            if at < to && from < at + bytes.len() {
                hit.push((info.id, batch.first_seq(), batch.next_seq()));
            }
        }
    }
    hit
}

/// Opens a damaged store: nothing but `hit` and what follows it in the same logs is missing, that is told, now and in later
/// lives, and no number is given again.
fn check_damaged(disk: &FaultVfs, ledger: &Ledger, hit: &[(LogId, Seq, Seq)], what: &str) {
    let verified = verify(Path::new(STORE), &options_on(disk), |_, _| {}).unwrap();
    assert!(verified.damage.len() + verified.mended.len() > 0, "{what}");
    let is_nameless = verified.damage.iter().any(|damage| damage.log.is_none());
    let (journal, recovery) = open(disk);
    assert!(recovery.damage().count() > 0, "{what}: {recovery:?}");
    let check = |journal: &Journal, when: &str| {
        ledger.judge_own(journal).unwrap_or_else(|violation| panic!("{what}, {when}: {violation:?}"));
        for missing in ledger.judge_rotten(journal).unwrap() {
            let is_hit =
                |(log, first, next): &(LogId, Seq, Seq)| *log == missing.log && (*first..*next).contains(&missing.seq);
            let is_hit = hit.iter().any(is_hit);
            assert!(is_hit, "{what}, {when}: {} of {} is missing: {recovery:?}", missing.seq, missing.log);
            // Of a batch without a header nothing tells whose it was.
            let holes = journal.log(missing.log).unwrap().holes;
            let is_told = is_nameless || holes.meet(missing.seq, Seq(missing.seq.0 + 1));
            assert!(is_told, "{what}, {when}: nothing tells of {} of {}", missing.seq, missing.log);
        }
    };
    check(&journal, "opened");
    drop(journal);
    for when in ["opened again", "a third time"] {
        let (journal, _) = open(disk);
        check(&journal, when);
        journal.close().unwrap();
    }
}

#[test]
fn damage_to_the_last_commit_and_the_mark_behind_it_costs_the_batches_that_it_hits_and_no_more() {
    let (sound, ledger, [commit, _, end]) = closed();
    let (journal, _) = open(&sound.snapshot());
    let (path, _) = last_segment(&sound);
    for len in [20, 40, 48, 60, 100, 400, 3000] {
        let disk = sound.snapshot();
        zero(&disk, &path, end - len, len);
        let hit = batches_between(&sound, &journal, end - len, end);
        assert_eq!(hit.is_empty(), len <= 40);
        check_damaged(&disk, &ledger, &hit, &format!("the last {len} bytes"));
    }
    // And something in the middle of the commit at once.
    let disk = sound.snapshot();
    zero(&disk, &path, end - 60, 60);
    zero(&disk, &path, commit + 5000, 4);
    let mut hit = batches_between(&sound, &journal, end - 60, end);
    hit.extend(batches_between(&sound, &journal, commit + 5000, commit + 5004));
    assert!(hit.len() > 1);
    check_damaged(&disk, &ledger, &hit, "the middle and the end");
}

#[test]
fn damage_to_a_commits_header_and_table_at_once_costs_nothing_while_one_of_its_sums_is_left() {
    let (sound, ledger, [commit, mark, _]) = closed();
    let (path, _) = last_segment(&sound);
    let content = sound.content(&path).unwrap();
    // The second commit: the first one holds what the other node sent.
    let earlier = (8192..commit).step_by(8).filter(|at| content[*at..].starts_with(b"CFF1")).nth(1).unwrap();
    for (frame, is_mark_lost) in [(earlier, false), (commit, false), (commit, true)] {
        for len in [41, 44, 60, 80] {
            let disk = sound.snapshot();
            zero(&disk, &path, frame, len);
            if is_mark_lost {
                zero(&disk, &path, mark, 40);
            }
            check_damaged(&disk, &ledger, &[], &format!("{len} bytes at {frame}, mark lost: {is_mark_lost}"));
        }
        // A flip in each.
        let disk = sound.snapshot();
        for at in [8, 33, 47] {
            disk.flip_bit(&path, ((frame + at) * 8) as u64);
        }
        check_damaged(&disk, &ledger, &[], "flips");
    }
}

#[test]
fn damage_across_two_commits_costs_what_it_hits() {
    let (sound, ledger, [commit, ..]) = closed();
    let (journal, _) = open(&sound.snapshot());
    let (path, _) = last_segment(&sound);
    let disk = sound.snapshot();
    zero(&disk, &path, commit - 60, 110);
    let hit = batches_between(&sound, &journal, commit - 60, commit);
    assert!(!hit.is_empty());
    check_damaged(&disk, &ledger, &hit, "the end of one commit and the beginning of the next");
}

#[test]
fn zeros_where_a_frame_begins_do_not_hide_what_is_behind_them() {
    // Closed, and opened again: an opening mark, commits behind it, and no extent that tells of them.
    let mut player = Player::new(FaultVfs::new(1), options_of_one_segment());
    let steps = [Step::CreateLog, Step::AppendAll(0, vec![150; 40]), Step::Commit, Step::Reopen];
    let more = [Step::Append(0, 500), Step::Commit, Step::Append(0, 500), Step::Commit];
    assert_eq!(player.play(&steps.into_iter().chain(more).collect::<Vec<_>>()), Ok(()));
    let disk = player.disk.kill();
    let (path, _) = last_segment(&disk);
    let content = disk.content(&path).unwrap();
    let frames: Vec<_> = (8192..content.len()).step_by(8).filter(|at| content[*at..].starts_with(b"CFF1")).collect();
    let opening_mark = frames[frames.len() - 3];
    zero(&disk, &path, opening_mark, 60);
    let (journal, recovery) = open(&disk);
    assert!(recovery.damage().count() > 0, "{recovery:?}");
    assert_eq!(player.ledger.judge_rotten(&journal).unwrap(), []);
    drop(journal);
    assert_eq!(player.ledger.judge_rotten(&open(&disk).0).unwrap(), []);
}

#[test]
fn a_sector_of_zeros_hides_no_more_than_it_hits() {
    let (sound, ledger, [commit, ..]) = closed();
    let (path, _) = last_segment(&sound);
    for len in [512, 4096] {
        let disk = sound.snapshot();
        // Where the first frame begins.
        zero(&disk, &path, 8192, len);
        let (journal, recovery) = open(&disk);
        assert!(recovery.damage().count() > 0, "{recovery:?}");
        let (whole, _) = open(&sound.snapshot());
        let behind = batches_between(&sound, &whole, commit, usize::MAX);
        assert!(behind.len() > 3);
        for missing in ledger.judge_rotten(&journal).unwrap() {
            let is_behind = |(log, first, _): &(LogId, Seq, Seq)| *log == missing.log && *first <= missing.seq;
            // Nothing of a log is served without its announcement.
            let is_known = journal.log(missing.log).is_some();
            assert!(!is_known || !behind.iter().any(is_behind), "{len} zeros: {missing:?}");
        }
    }
}

#[test]
fn what_stands_behind_a_damaged_last_commit_proves_that_it_was_durable() {
    // Killed after its mark; nothing is on record of how far the segment went.
    let (sound, ledger, [commit, mark, _]) = closed();
    let (path, _) = last_segment(&sound);
    let (whole, _) = open(&sound.snapshot());
    let incarnation = whole.identity().incarnation;
    let first_extent = {
        let disk = FaultVfs::new(1);
        let mut player = Player::new(disk, options_of_one_segment());
        player.play(&[Step::CreateLog, Step::Append(0, 1), Step::Commit]).unwrap();
        player.disk.content(&extent()).unwrap()
    };
    let disk = sound.snapshot();
    disk.edit(&extent(), |content| content.clone_from(&first_extent));
    disk.flip_bit(&path, (mark * 8 + 300) as u64);
    zero(&disk, &path, commit + 5000, 4);
    let hit = batches_between(&sound, &whole, commit + 5000, commit + 5004);
    assert_eq!(hit.len(), 1);
    let (journal, recovery) = open(&disk);
    assert!(recovery.damage().count() > 0, "{recovery:?}");
    assert_ne!(journal.identity().incarnation, incarnation);
    ledger.judge_own(&journal).unwrap();
    let (log, first_seq, next_seq) = hit[0];
    for missing in ledger.judge_rotten(&journal).unwrap() {
        assert!(missing.log == log && (first_seq..next_seq).contains(&missing.seq), "{missing:?}");
    }
}

#[test]
fn the_lost_end_of_a_log_is_known_until_its_writer_has_sent_it_again() {
    let (sound, ledger, [_, _, end]) = closed();
    let (whole, _) = open(&sound.snapshot());
    let (path, _) = last_segment(&sound);
    let hit = batches_between(&sound, &whole, end - 60, end);
    let [(log, first_seq, next_seq)] = hit[..] else { panic!("{hit:?}") };
    assert_eq!(whole.log(log).unwrap().durable.next_seq, next_seq, "it is the last of its log");
    let disk = sound.snapshot();
    zero(&disk, &path, end - 60, 60);
    let holes = |journal: &Journal| journal.log(log).unwrap().holes.iter().collect::<Vec<_>>();
    for _ in 0..2 {
        let (journal, _) = open(&disk);
        assert_eq!(journal.log(log).unwrap().durable.next_seq, first_seq);
        assert_eq!(holes(&journal), [(first_seq, next_seq)]);
        assert_eq!(journal.holes(log).unwrap(), [], "no digest tells what it was");
        check_retention_goes_on(&journal);
        journal.close().unwrap();
    }
    let verified = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
    assert_eq!(verified.damage.len(), 2, "the batch and the mark: {verified:?}");
    let (journal, _) = open(&disk);
    journal.store(whole.read_batch(log, first_seq).unwrap().unwrap()).unwrap();
    journal.commit().unwrap();
    assert_eq!(holes(&journal), []);
    // After a power cut, too.
    let disk = disk.crash(5);
    let (journal, _) = open(&disk);
    assert_eq!(holes(&journal), []);
    assert_eq!(ledger.judge_rotten(&journal).unwrap(), []);
    journal.close().unwrap();
    let verified = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
    assert_eq!((verified.damage, verified.mended.len()), (vec![], 2), "the batch and the mark");
}

fn check_retention_goes_on(journal: &Journal) {
    assert!(journal.free().is_ok(), "nothing that is kept is given up for it");
}

#[test]
fn a_log_of_which_nothing_is_kept_lacks_nothing() {
    let (sound, _, [_, _, end]) = closed();
    let (whole, _) = open(&sound.snapshot());
    let (path, _) = last_segment(&sound);
    let (log, first_seq, _) = batches_between(&sound, &whole, end - 60, end)[0];
    let disk = sound.snapshot();
    zero(&disk, &path, end - 60, 60);
    let (journal, _) = open(&disk);
    journal.trim(&[(log, Seq(first_seq.0 - 1))]).unwrap();
    assert!(!journal.log(log).unwrap().holes.is_empty());
    journal.trim(&[(log, first_seq)]).unwrap();
    assert!(journal.log(log).unwrap().holes.is_empty());
    journal.close().unwrap();
    drop(journal);
    assert!(open(&disk).0.log(log).unwrap().holes.is_empty());
}

#[test]
fn an_unfinished_commit_is_no_damage() {
    let (disk, _) = killed(3);
    let (path, at) = last_frame(&disk);
    let (_, end) = last_segment(&disk);
    zero(&disk, &path, at + 200, end - at - 200);
    let verified = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
    assert_eq!((verified.damage, verified.unfinished.len()), (vec![], 1));
    let (journal, _) = open(&disk);
    journal.writer(own_log(&journal)).unwrap().append(b"new").unwrap().wait().unwrap();
    journal.close().unwrap();
    let verified = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
    assert_eq!((verified.damage, verified.unfinished), (vec![], vec![]), "it has been kept aside");
}

#[test]
fn only_the_segment_that_is_gone_is_named_and_records_kept_are_counted_once() {
    let (disk, _) = killed(60);
    open(&disk).0.close().unwrap();
    let (journal, _) = open(&disk);
    let log = journal.logs(None).into_iter().max_by_key(|log| log.bytes).unwrap();
    journal.trim(&[(log.id, Seq(100))]).unwrap();
    let kept: u64 = journal.logs(None).iter().map(|log| log.durable.next_seq.0 - log.first_seq.0).sum();
    journal.close().unwrap();
    drop(journal);
    let verified = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
    assert_eq!((verified.damage, verified.records), (vec![], kept));
    let segments: Vec<_> = disk.files().into_iter().filter(|path| path.to_string_lossy().ends_with(".seg")).collect();
    assert!(disk.lose(&segments[1]));
    let verified = verify(Path::new(STORE), &options_on(&disk), |_, _| {}).unwrap();
    let named: Vec<_> = verified.damage.iter().filter(|damage| damage.log.is_none()).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!(named[0].segment.unwrap().0, 1);
}

#[test]
fn what_was_given_back_is_counted_also_where_giving_back_ends_with_an_error() {
    let mut player = Player::new(FaultVfs::new(1), small_options());
    let mut steps = vec![Step::CreateLog, Step::CreateForeignLog];
    for round in 0..40 {
        let quiet = (round == 20).then_some(Step::Store(0, 10));
        steps.extend([Step::AppendAll(0, vec![150; 20])].into_iter().chain(quiet).chain([Step::Commit]));
    }
    steps.push(Step::Trim(0, 950));
    assert_eq!(player.play(&steps), Ok(()));
    let journal = player.journal.take().unwrap();
    let quiet = journal.logs(None).into_iter().find(|log| log.durable.next_seq == Seq(10)).unwrap();
    let batch = journal.read_batch(quiet.id, Seq(0)).unwrap().unwrap();
    let segments = |disk: &FaultVfs| {
        let mut files = disk.files();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
        files
    };
    let before = segments(&player.disk);
    let (path, at) = (before.iter())
        .find_map(|path| {
            let content = player.disk.content(path)?;
            let at = content.windows(batch.bytes().len()).position(|window| window == &batch.bytes()[..])?;
            Some((path, at + batch.bytes().len() - 1))
        })
        .unwrap();
    player.disk.flip_bit(path, at as u64 * 8);
    // What it can't read it can't copy: it and what came later stay.
    drop(journal);
    player.disk = player.disk.kill();
    let (journal, _) = open(&player.disk);
    let freed = journal.free();
    assert!(freed.is_err(), "{freed:?}");
    let left = segments(&player.disk);
    let given_back = before.iter().filter(|path| !left.contains(path)).count() as u64;
    assert!(given_back > 1);
    assert_eq!(journal.freed().segments, given_back);
    assert!(journal.freed().bytes > given_back * 8192);
}
