//! Bits that flip and bytes that go at rest: what is served is what was written, the rest is named.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use counterfoil_faults::{FaultVfs, Ledger, Missing, Player, STORE, Step, small_options};
use counterfoil_storage::{Finding, Genesis, Journal, Options, Seq, SpaceName, verify};

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
    let unnamed = missing.iter().find(|missing| !missing.is_named);
    assert!(
        unnamed.is_none() || reported || expect == Expect::Front,
        "{what}: {unnamed:?} is missing, and nothing says so: {recovery:?}"
    );
    if expect == Expect::Front {
        assert!(
            missing.is_sorted_by(|a, b| a.log != b.log || a.seq.0 + 1 == b.seq.0),
            "{what}: not the end is missing"
        );
    } else if !missing.is_empty() {
        let said = reported || !verified.damage.is_empty();
        assert!(said, "{what}: {} records are missing, and verify finds nothing", missing.len());
    }
    if tally.trials % 16 == 1 {
        check_that_appends_go_on(disk, &journal, what);
    }
    match (missing.is_empty(), reported || !verified.damage.is_empty()) {
        (false, _) => tally.named += 1,
        (true, true) => tally.found += 1,
        (true, false) => tally.harmless += 1,
    }
    missing
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
fn a_file_that_is_missing_or_foreign_or_cut_is_named_and_the_rest_is_served() {
    let (disk, ledger) = store_of_segments();
    let files = disk.files();
    assert!(files.len() > 8, "{files:?}");
    let mut tally = Tally::default();
    for path in &files {
        let original = disk.content(path).unwrap_or_default();
        let mut trial = |what: &str, rot: &dyn Fn(&FaultVfs)| {
            let rotten = disk.snapshot();
            rot(&rotten);
            let what = format!("{what} {}", path.display());
            for missing in judge(&rotten, &ledger, Expect::Named, &mut tally, &what) {
                let was_there = contains(&original, &missing.body);
                assert!(was_there, "{what}: {} of {} is missing, but is in another file", missing.seq, missing.log);
            }
        };
        trial("without", &|disk| {
            disk.lose(path);
        });
        for (name, foreign) in
            [("ones in", vec![0xff; 5000]), ("zeros in", vec![0; 20_000]), ("text in", b"text".to_vec())]
        {
            trial(name, &|disk| {
                disk.edit(path, |content| content.clone_from(&foreign));
            });
        }
        trial("headers lost of", &|disk| {
            disk.edit(path, |content| {
                let end = content.len().min(8192);
                content[..end].fill(0);
            });
        });
        for len in (0..original.len() as u64).step_by(1000) {
            trial(&format!("cut to {len}:"), &|disk| {
                disk.cut(path, len);
            });
        }
    }
    println!("{tally:?}");
}
