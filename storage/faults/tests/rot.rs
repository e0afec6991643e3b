//! Bits that flip and bytes that go at rest: what is served is what was written, the rest is named.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use counterfoil_faults::{FaultVfs, Ledger, Missing, Player, STORE, Step, small_options};
use counterfoil_storage::{Finding, Genesis, Journal, LogId, Options, Seq, SpaceName, TrimError, verify};

const SEGMENT_BYTES: u64 = 64 << 10;

/// How a store is left.
#[derive(Debug, Clone, Copy)]
enum Left {
    Closed,
    Killed,
}

/// What became of stores with one damage each.
#[derive(Debug, Default)]
struct Tally {
    trials: u64,
    /// Segments are given back in each of them, not in a part.
    is_thorough: bool,
    /// Did not open, with an error.
    refused: u64,
    /// Records were missing, and it was said.
    named: u64,
    /// Nothing was missing, and damage was found.
    found: u64,
    /// Nothing was missing.
    harmless: u64,
}

/// What must be said of records that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// That they are.
    Named,
    /// Nothing, where nothing records how far the file went: but then only its end may be missing.
    Front,
}

fn options() -> Options {
    let mut options = small_options();
    options.segment_bytes_min = SEGMENT_BYTES;
    options.segment_bytes_max = SEGMENT_BYTES;
    options
}

/// A store of one segment that is nearly full.
fn small_store(left: Left) -> (FaultVfs, Ledger) {
    let mut player = Player::new(FaultVfs::new(1), options());
    let mut steps = vec![Step::CreateLog, Step::CreateLog, Step::CreateForeignLog];
    for round in 0..14 {
        steps.extend([Step::AppendAll(round, vec![150; 14]), Step::Store(0, 10), Step::Commit]);
        steps.extend([Step::Append(round, 30), Step::Commit]);
    }
    assert_eq!(player.play(&steps), Ok(()));
    let journal = player.journal.take().expect("open");
    if matches!(left, Left::Closed) {
        journal.close().unwrap();
    }
    (player.disk.kill(), player.ledger)
}

fn segment_of(disk: &FaultVfs) -> PathBuf {
    let longest = disk.files().into_iter().max_by_key(|path| disk.content(path).map_or(0, |content| content.len()));
    longest.expect("a store has files")
}

/// Opens a damaged store, reads and verifies all of it; the records that are missing.
fn judge(
    disk: &FaultVfs,
    ledger: &Ledger,
    expect: Expect,
    tally: &mut Tally,
    what: &dyn std::fmt::Display,
) -> Vec<Missing> {
    tally.trials += 1;
    let mut options = options();
    options.vfs = Arc::new(disk.clone());
    let verified = catch_unwind(AssertUnwindSafe(|| verify(Path::new(STORE), &options, |_, _| {})));
    let verified = verified.unwrap_or_else(|_| panic!("{what}: verifying panicked"));
    let opened = catch_unwind(AssertUnwindSafe(|| Journal::open(Path::new(STORE), options)));
    let (journal, recovery) = match opened.unwrap_or_else(|_| panic!("{what}: opening panicked")) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(verified.is_err(), "{what}: it does not open ({error}), and verify finds nothing");
            tally.refused += 1;
            return Vec::new();
        }
    };
    let judged = catch_unwind(AssertUnwindSafe(|| ledger.judge_rotten(&journal)));
    let missing = judged.unwrap_or_else(|_| panic!("{what}: reading panicked"));
    let missing = missing.unwrap_or_else(|violation| panic!("{what}: {violation:?}"));
    let verified = verified.unwrap_or_else(|error| panic!("{what}: verifying failed: {error}"));
    let reported = recovery
        .findings
        .iter()
        .any(|finding| matches!(finding, Finding::Damage(_) | Finding::TornTail { possibly_acknowledged: true, .. }));
    // Of a torn tail nothing was acknowledged, unless the disk lies.
    let is_torn = |finding: &Finding| matches!(finding, Finding::TornTail { .. });
    let is_front = expect == Expect::Front || recovery.findings.iter().any(is_torn);
    if !is_front {
        ledger.judge_own(&journal).unwrap_or_else(|violation| panic!("{what}: {violation:?} {recovery:?}"));
    }
    let unnamed = missing.iter().find(|missing| !missing.is_named);
    assert!(
        unnamed.is_none() || reported || expect == Expect::Front,
        "{what}: {unnamed:?} is missing, and nothing says so: {recovery:?}"
    );
    if expect == Expect::Front {
        let mut untold = missing.iter().filter(|record| !record.is_named);
        let is_next = |a: &&Missing, b: &&Missing| a.log != b.log || a.seq.0 + 1 == b.seq.0;
        assert!(untold.by_ref().is_sorted_by(is_next), "{what}: not the end is missing");
    } else if !missing.is_empty() {
        let said = reported || !verified.damage.is_empty();
        assert!(said, "{what}: {} records are missing, and verify finds nothing", missing.len());
    }
    if tally.trials % 16 == 1 {
        check_that_appends_go_on(disk, &journal, what);
    }
    let part = if tally.is_thorough { 1 } else { 4 };
    if !is_front && tally.trials % 16 != 1 && tally.trials.is_multiple_of(part) {
        check_that_retention_loses_nothing(disk, journal, ledger, &missing, what);
    }
    match (missing.is_empty(), reported || !verified.damage.is_empty()) {
        (false, _) => tally.named += 1,
        (true, true) => tally.found += 1,
        (true, false) => tally.harmless += 1,
    }
    missing
}

/// What is missing, and whether reading says so.
fn places(missing: &[Missing], is_named: bool) -> BTreeSet<(LogId, Seq)> {
    missing.iter().filter(|record| record.is_named == is_named).map(|record| (record.log, record.seq)).collect()
}

/// A damaged store gives back segments: nothing more is missing then, also when it is opened again, no log begins again,
/// and what was told is told.
fn check_that_retention_loses_nothing(
    disk: &FaultVfs,
    journal: Journal,
    ledger: &Ledger,
    before: &[Missing],
    what: &dyn std::fmt::Display,
) {
    let mut ledger = ledger.clone();
    let Some(busy) = journal.logs(None).into_iter().max_by_key(|log| log.bytes) else { return };
    let most = Seq(busy.durable.next_seq.0 * 95 / 100);
    ledger.trimming(busy.id, most);
    for outcome in [journal.trim(&[(busy.id, most)]).map(drop), journal.free().map(drop)] {
        assert!(matches!(outcome, Ok(()) | Err(TrimError::Read(_))), "{what}: {outcome:?}");
    }
    let floor = journal.log(busy.id).map_or(Seq::ZERO, |info| info.first_seq);
    ledger.trimmed(busy.id, floor);
    let (known, unknown) = (places(before, true), places(before, false));
    let check = |journal: &Journal, when: &str| {
        let judged = catch_unwind(AssertUnwindSafe(|| ledger.judge_rotten(journal)));
        let missing = judged.unwrap_or_else(|_| panic!("{what}: {when}, reading panicked"));
        let missing = missing.unwrap_or_else(|violation| panic!("{what}: {when}: {violation:?}"));
        ledger.judge_own(journal).unwrap_or_else(|violation| panic!("{what}: {when}: {violation:?}"));
        let more = places(&missing, true).difference(&known).find(|place| !unknown.contains(place)).copied();
        assert_eq!(more, None, "{what}: {when} it is missing");
        let untold = places(&missing, false).difference(&unknown).next().copied();
        assert_eq!(untold, None, "{what}: {when} nothing says so any more");
    };
    check(&journal, "after segments were given back");
    drop(journal);
    let mut options = options();
    options.vfs = Arc::new(disk.kill());
    let (journal, _) =
        Journal::open(Path::new(STORE), options).unwrap_or_else(|error| panic!("{what}: again: {error}"));
    check(&journal, "opened again after segments were given back");
}

/// A damaged store takes records in a new log, and has them when it is opened again.
fn check_that_appends_go_on(disk: &FaultVfs, journal: &Journal, what: &dyn std::fmt::Display) {
    let identity = journal.identity().clone();
    let space = SpaceName::new("after-the-damage").unwrap();
    let log = journal.create_log(Genesis::new(space, identity.node, *identity.incarnation.as_bytes())).unwrap();
    let appended = journal.writer(log).and_then(|writer| writer.append(b"new")).and_then(|receipt| receipt.wait());
    assert!(appended.is_ok(), "{what}: {appended:?}");
    let mut options = options();
    let after = disk.crash(1);
    options.vfs = Arc::new(after);
    let (journal, _) =
        Journal::open(Path::new(STORE), options).unwrap_or_else(|error| panic!("{what}: again: {error}"));
    let batch = journal.read_batch(log, Seq::ZERO).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(batch.is_some(), "{what}: what was appended after the damage is lost");
}

/// Whether the records missing are of one batch at most.
fn is_one_batch(missing: &[Missing]) -> bool {
    missing.iter().all(|record| record.log == missing[0].log && record.seq.0 - missing[0].seq.0 < 16)
}

/// Runs `trial` for each number on as many threads as there are processors.
fn on_all_processors(numbers: impl Iterator<Item = u64>, trial: impl Fn(u64, &mut Tally) + Sync) -> Tally {
    let numbers: Vec<u64> = numbers.collect();
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let mut sum = Tally::default();
    thread::scope(|scope| {
        let run = |part: usize| {
            let mut tally = Tally::default();
            numbers.iter().skip(part).step_by(threads).for_each(|number| trial(*number, &mut tally));
            tally
        };
        let runs: Vec<_> = (0..threads).map(|part| scope.spawn(move || run(part))).collect();
        for run in runs {
            let tally = run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sum.trials += tally.trials;
            sum.refused += tally.refused;
            sum.named += tally.named;
            sum.found += tally.found;
            sum.harmless += tally.harmless;
        }
    });
    sum
}

/// Every bit from `COUNTERFOIL_EXPLORE=10` on, else a part of them that meets each bit of a byte.
fn stride(usual: u64) -> usize {
    let factor = std::env::var("COUNTERFOIL_EXPLORE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    if factor >= 10 { 1 } else { usual as usize }
}

#[test]
fn a_flipped_bit_of_a_segment_is_named_or_harmless_and_never_wrong_data() {
    for left in [Left::Closed, Left::Killed] {
        let (disk, ledger) = small_store(left);
        let segment = segment_of(&disk);
        let bits = SEGMENT_BYTES * 8;
        let tally = on_all_processors((0..bits).step_by(stride(101)), |bit, tally| {
            let rotten = disk.snapshot();
            if rotten.flip_bit(&segment, bit) {
                let what = format!("{left:?}, bit {bit} of {}", segment.display());
                let missing = judge(&rotten, &ledger, Expect::Named, tally, &what);
                assert!(is_one_batch(&missing), "{what}: {missing:?}");
            }
        });
        println!("{left:?}: {tally:?}");
    }
}

#[test]
fn a_flipped_bit_of_any_other_file_is_named_or_harmless() {
    for left in [Left::Closed, Left::Killed] {
        let (disk, ledger) = small_store(left);
        let segment = segment_of(&disk);
        for path in disk.files().into_iter().filter(|path| *path != segment) {
            let bits = disk.content(&path).map_or(0, |content| content.len() as u64 * 8).min(SEGMENT_BYTES);
            let tally = on_all_processors((0..bits).step_by(stride(13)), |bit, tally| {
                let rotten = disk.snapshot();
                rotten.flip_bit(&path, bit);
                judge(
                    &rotten,
                    &ledger,
                    Expect::Named,
                    tally,
                    &format_args!("{left:?}, bit {bit} of {}", path.display()),
                );
            });
            println!("{left:?}, {}: {tally:?}", path.display());
        }
    }
}

#[test]
fn a_segment_cut_at_any_byte_is_named_or_harmless() {
    for left in [Left::Closed, Left::Killed] {
        let (disk, ledger) = small_store(left);
        let segment = segment_of(&disk);
        let expect = if matches!(left, Left::Closed) { Expect::Named } else { Expect::Front };
        let tally = on_all_processors((0..SEGMENT_BYTES).step_by(stride(37)), |len, tally| {
            let rotten = disk.snapshot();
            rotten.cut(&segment, len);
            judge(&rotten, &ledger, expect, tally, &format_args!("{left:?}, cut to {len}"));
        });
        println!("{left:?}: {tally:?}");
    }
}

/// A store that has given back segments in which logs were announced, so many that hardly a footer lists all of them;
/// of some nothing is kept.
fn store_that_was_trimmed(left: Left) -> (FaultVfs, Ledger) {
    let mut player = Player::new(FaultVfs::new(1), small_options());
    let mut steps = vec![Step::CreateLog, Step::CreateLog, Step::CreateForeignLog];
    for log in 2..40 {
        steps.extend([Step::CreateLog, Step::Append(log, 90)]);
    }
    steps.push(Step::Commit);
    for round in 0..40 {
        steps.extend([Step::AppendAll(round % 2, vec![150; 20]), Step::Store(0, 10), Step::Append(2 + round % 9, 40)]);
        steps.push(Step::Commit);
        if round % 10 == 9 {
            steps.extend([Step::Trim(0, 800), Step::Trim(1, 400), Step::Trim(5 + round, 1000), Step::Free]);
        }
    }
    assert_eq!(player.play(&steps), Ok(()));
    assert!(player.freed_segments > 2, "{}", player.freed_segments);
    let journal = player.journal.take().expect("open");
    if matches!(left, Left::Closed) {
        journal.close().unwrap();
    }
    drop(journal);
    (player.disk.kill(), player.ledger)
}

/// A closed store of several segments.
fn store_of_segments() -> (FaultVfs, Ledger) {
    let mut player = Player::new(FaultVfs::new(1), small_options());
    let mut steps = vec![Step::CreateLog, Step::CreateLog, Step::CreateForeignLog];
    for round in 0..70 {
        steps.extend([Step::AppendAll(round, vec![150; 20]), Step::Store(0, 10), Step::Commit]);
    }
    steps.push(Step::Reopen);
    assert_eq!(player.play(&steps), Ok(()));
    player.journal.take().expect("open").close().unwrap();
    (player.disk.kill(), player.ledger)
}

#[test]
fn a_flipped_bit_of_a_sealed_segment_makes_one_batch_unavailable_at_most() {
    let (disk, ledger) = store_of_segments();
    let mut segments = disk.files();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.pop();
    assert!(segments.len() > 8, "{segments:?}");
    for (path, number) in segments.iter().zip(0..) {
        let bits = disk.content(path).map_or(0, |content| content.len() as u64 * 8);
        let tally = on_all_processors((number..bits).step_by(stride(2003)), |bit, tally| {
            let rotten = disk.snapshot();
            rotten.flip_bit(path, bit);
            let what = format_args!("bit {bit} of {}", path.display()).to_string();
            let missing = judge(&rotten, &ledger, Expect::Named, tally, &what);
            let is_named = missing.iter().all(|record| record.is_named);
            assert!(
                is_named && is_one_batch(&missing),
                "{what}: {} records are missing: {:?}",
                missing.len(),
                missing.first()
            );
        });
        assert_eq!(tally.refused, 0);
        if number == 0 {
            println!("first of {} segments: {tally:?}", segments.len());
        }
    }
}

fn contains(content: &[u8], body: &[u8]) -> bool {
    content.windows(body.len()).any(|window| window == body)
}

#[test]
fn a_flipped_bit_of_a_store_that_has_given_back_segments_loses_one_batch_at_most_and_so_it_stays() {
    for left in [Left::Closed, Left::Killed] {
        let (disk, ledger) = store_that_was_trimmed(left);
        let files = disk.files();
        assert!(files.iter().filter(|path| path.extension().is_some()).count() > 4, "{files:?}");
        for (path, number) in files.iter().zip(0..) {
            let bits = disk.content(path).map_or(0, |content| content.len() as u64 * 8);
            // Each bit of a byte at least: in a part of them segments are given back, too, which takes long.
            let tally = on_all_processors((number..bits).step_by(stride(499).max(13)), |bit, tally| {
                let rotten = disk.snapshot();
                rotten.flip_bit(path, bit);
                let what = format_args!("{left:?}, bit {bit} of {}", path.display()).to_string();
                let missing = judge(&rotten, &ledger, Expect::Named, tally, &what);
                assert!(is_one_batch(&missing), "{what}: {} records are missing", missing.len());
            });
            println!("{left:?}, {}: {tally:?}", path.display());
        }
    }
}

#[test]
fn a_file_that_is_missing_or_foreign_or_cut_is_named_and_the_rest_is_served() {
    let tally = spoil_files(&store_of_segments(), Left::Closed);
    println!("{tally:?}");
}

#[test]
fn a_file_that_a_store_which_has_given_back_segments_has_lost_is_named_and_the_rest_is_served_for_good() {
    for left in [Left::Closed, Left::Killed] {
        let tally = spoil_files(&store_that_was_trimmed(left), left);
        println!("{left:?}: {tally:?}");
    }
}

/// Each file of a store is lost, or holds something else.
fn spoil_files((disk, ledger): &(FaultVfs, Ledger), left: Left) -> Tally {
    let files = disk.files();
    assert!(files.len() > 8, "{files:?}");
    let mut tally = Tally { is_thorough: true, ..Tally::default() };
    let last = files.iter().rfind(|path| path.extension().is_some_and(|extension| extension == "seg"));
    for path in &files {
        // How far the last segment of a killed store went is not recorded.
        let cut = if matches!(left, Left::Killed) && last == Some(path) { Expect::Front } else { Expect::Named };
        let original = disk.content(path).unwrap_or_default();
        let mut trial = |what: &str, expect: Expect, rot: &dyn Fn(&FaultVfs)| {
            let rotten = disk.snapshot();
            rot(&rotten);
            let what = format!("{what} {}", path.display());
            for missing in judge(&rotten, ledger, expect, &mut tally, &what) {
                let was_there = contains(&original, &missing.body);
                assert!(was_there, "{what}: {} of {} is missing, but is in another file", missing.seq, missing.log);
            }
        };
        trial("without", Expect::Named, &|disk| {
            disk.lose(path);
        });
        for (name, foreign) in
            [("ones in", vec![0xff; 5000]), ("zeros in", vec![0; 20_000]), ("text in", b"text".to_vec())]
        {
            trial(name, Expect::Named, &|disk| {
                disk.edit(path, |content| content.clone_from(&foreign));
            });
        }
        trial("headers lost of", Expect::Named, &|disk| {
            disk.edit(path, |content| {
                let end = content.len().min(8192);
                content[..end].fill(0);
            });
        });
        for len in (0..original.len() as u64).step_by(1000) {
            trial(&format!("cut to {len}:"), cut, &|disk| {
                disk.cut(path, len);
            });
        }
    }
    tally
}
