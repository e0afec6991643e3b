//! Sync over hundreds of histories: pairs, chains, stars, rings and random shapes of 2 to 8 nodes.
//!
//! `COUNTERFOIL_SEED=n` replays one; `COUNTERFOIL_SEEDS=n` explores that many, `COUNTERFOIL_SEEDS=a..b` those from a on.

use counterfoil_sim::{explore_seeds, explore_sync, seeds};

const SEEDS: u64 = 200;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_acknowledged_record_gets_everywhere_and_all_frontiers_become_equal() {
    if let Some(seed) = number("COUNTERFOIL_SEED") {
        match explore_sync(seed) {
            Ok(report) => println!("seed {seed}: {report}"),
            Err(violation) => panic!("{violation} --test both_ways"),
        }
        return;
    }
    let seeds = seeds(SEEDS);
    let count = seeds.end - seeds.start;
    let (total, violations) = explore_seeds(seeds, explore_sync);
    let violations: Vec<_> = violations.iter().map(|violation| format!("{violation} --test both_ways")).collect();
    println!("explored {count} seeds: {total}");
    assert!(violations.is_empty(), "{} of {count}:\n{}", violations.len(), violations.join("\n"));
    assert!(total.liars > 0 && total.lies > 0 && total.accused > 0 && total.denials > 0 && total.stalls > 0, "{total}");
    assert!(
        total.acks > 0 && total.passed_acks > 0 && total.crashes > 0 && total.cuts > 0 && total.disk_faults > 0,
        "{total}"
    );
}

#[test]
fn a_seed_is_the_same_history_every_time() {
    for seed in [1, 2, 3, 5, 8, 13] {
        let (once, twice) = (explore_sync(seed), explore_sync(seed));
        assert_eq!(once.map_err(|violation| violation.to_string()), twice.map_err(|violation| violation.to_string()));
    }
}
