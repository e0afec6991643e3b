//! Random programs with crashes, against the ledger.
//!
//! The model: each log is a list of records of which a front is acknowledged. After any crash the log
//! has all of that front and perhaps some more of the list, never anything else.

use std::sync::atomic::{AtomicU64, Ordering};

use counterfoil_faults::{Fault, FaultVfs, Player, Step, small_options};
use proptest::{collection::vec, prelude::*};

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::CreateLog),
        1 => Just(Step::CreateForeignLog),
        4 => (0..6usize, 0..300usize).prop_map(|(log, len)| Step::Append(log, len)),
        1 => (0..6usize, 300..40_000usize).prop_map(|(log, len)| Step::Append(log, len)),
        3 => (0..6usize, vec(0..900usize, 1..30)).prop_map(|(log, lens)| Step::AppendAll(log, lens)),
        3 => (0..6usize, 1..40usize).prop_map(|(log, records)| Step::Store(log, records)),
        5 => Just(Step::Commit),
        2 => (0..6usize, 0..=1000u64).prop_map(|(log, per_mille)| Step::Trim(log, per_mille)),
        2 => Just(Step::Free),
        1 => Just(Step::Judge),
        2 => (0..8usize).prop_map(Step::Follow),
        1 => Just(Step::ReadBeside),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// Steps among which something goes wrong, too. What is short or interrupted changes nothing, and has a test below.
fn troubled_step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![Just(Fault::Eio), Just(Fault::NoSpace)];
    prop_oneof![
        12 => step(),
        1 => (fault, 0..60u64, any::<bool>()).prop_map(|(fault, ahead, lasting)| Step::Fail(fault, ahead, lasting)),
        1 => (0..60_000u64).prop_map(Step::Fill),
        2 => Just(Step::Mend),
    ]
}

/// Programs of each kind, multiplied by `COUNTERFOIL_EXPLORE`.
fn programs() -> u32 {
    let factor = std::env::var("COUNTERFOIL_EXPLORE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    150 * factor
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: programs(), failure_persistence: None, ..ProptestConfig::default() }
}

/// What was played of one kind of programs.
struct Tally {
    kind: &'static str,
    programs: AtomicU64,
    steps: AtomicU64,
    crashes: AtomicU64,
    kills: AtomicU64,
    faults: AtomicU64,
}

impl Tally {
    const fn of(kind: &'static str) -> Self {
        let [programs, steps, crashes, kills, faults] = [const { AtomicU64::new(0) }; 5];
        Self { kind, programs, steps, crashes, kills, faults }
    }

    /// Counts a program, and prints the sum with the last.
    fn count(&self, program: &[Step]) {
        let add = |sum: &AtomicU64, count: usize| sum.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        let steps = add(&self.steps, program.len());
        let crashes = add(&self.crashes, program.iter().filter(|step| matches!(step, Step::Crash(_))).count());
        let kills = add(&self.kills, program.iter().filter(|step| matches!(step, Step::Kill)).count());
        let faults = |step: &&Step| matches!(step, Step::Fail(..) | Step::Fill(_));
        let faults = add(&self.faults, program.iter().filter(faults).count());
        if add(&self.programs, 1) == u64::from(programs()) {
            let (kind, programs) = (self.kind, programs());
            println!(
                "random programs, {kind}: {programs} of {steps} steps, \
                 {crashes} power cuts, {kills} kills and {faults} other faults among them"
            );
        }
    }
}

static CRASHING: Tally = Tally::of("with crashes");
static TROUBLED: Tally = Tally::of("with crashes, failing and full disks");
static SHORT: Tally = Tally::of("with short and interrupted reads and writes");
static RING: Tally = Tally::of("with a ring in memory");

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_program_with_crashes_loses_doubles_or_alters_what_was_acknowledged(program in vec(step(), 1..80)) {
        CRASHING.count(&program);
        let mut player = Player::new(FaultVfs::new(1), small_options());
        let played = player.play(&program);
        prop_assert!(played.is_ok(), "{played:?}");
        let disk = player.disk.crash(2);
        let sound = player.prove_sound(disk);
        prop_assert!(sound.is_ok(), "{sound:?}");
    }

    #[test]
    fn no_program_on_a_disk_that_fails_or_fills_up_breaks_a_promise(program in vec(troubled_step(), 1..80)) {
        TROUBLED.count(&program);
        let mut player = Player::new(FaultVfs::new(1), small_options());
        let played = player.play(&program);
        prop_assert!(played.is_ok(), "{played:?}");
        let disk = player.disk.crash(2);
        let sound = player.prove_sound(disk);
        prop_assert!(sound.is_ok(), "{sound:?}");
    }

    #[test]
    fn short_and_interrupted_reads_and_writes_change_nothing(program in vec(step(), 1..40)) {
        SHORT.count(&program);
        let mut player = Player::new(FaultVfs::new(1), small_options());
        player.disk.set_mischief(100);
        let played = player.play(&program);
        prop_assert!(played.is_ok(), "{played:?}");
        prop_assert_eq!(player.errors, 0);
    }

    #[test]
    fn a_ring_in_memory_serves_what_the_disk_does(program in vec(step(), 1..40), ring_bytes in 0..20_000usize) {
        RING.count(&program);
        let mut options = small_options();
        options.ring_bytes = ring_bytes;
        let mut player = Player::new(FaultVfs::new(1), options);
        let played = player.play(&program);
        prop_assert!(played.is_ok(), "{played:?}");
    }
}
