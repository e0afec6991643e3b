//! Random programs with crashes, against the ledger.
//!
//! The model: each log is a list of records of which a front is acknowledged. After any crash the log
//! has all of that front and perhaps some more of the list, never anything else.

use counterfoil_faults::{FaultVfs, Player, Step, small_options};
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
        1 => Just(Step::Judge),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

fn cases(cases: u32) -> ProptestConfig {
    let factor = std::env::var("COUNTERFOIL_EXPLORE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    ProptestConfig { cases: cases * factor, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn no_program_with_crashes_loses_doubles_or_alters_what_was_acknowledged(program in vec(step(), 1..80)) {
        let mut player = Player::new(FaultVfs::new(1), small_options());
        let played = player.play(&program);
        prop_assert!(played.is_ok(), "{played:?}");
        let disk = player.disk.crash(2);
        let sound = player.prove_sound(disk);
        prop_assert!(sound.is_ok(), "{sound:?}");
    }

    #[test]
    fn short_and_interrupted_reads_and_writes_change_nothing(program in vec(step(), 1..40)) {
        let mut player = Player::new(FaultVfs::new(1), small_options());
        player.disk.set_mischief(100);
        let played = player.play(&program);
        prop_assert!(played.is_ok(), "{played:?}");
        prop_assert_eq!(player.errors, 0);
    }

    #[test]
    fn a_ring_in_memory_serves_what_the_disk_does(program in vec(step(), 1..40), ring_bytes in 0..20_000usize) {
        let mut options = small_options();
        options.ring_bytes = ring_bytes;
        let mut player = Player::new(FaultVfs::new(1), options);
        let played = player.play(&program);
        prop_assert!(played.is_ok(), "{played:?}");
    }
}
