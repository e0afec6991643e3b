//! One-way replication over hundreds of histories.
//!
//! `COUNTERFOIL_SEED=n` replays one; `COUNTERFOIL_SEEDS=n` explores that many, `COUNTERFOIL_SEEDS=a..b` those from a on.

use counterfoil_sim::{explore, explore_seeds, seeds};

const SEEDS: u64 = 200;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_acknowledged_record_survives_and_all_copies_become_equal() {
    if let Some(seed) = number("COUNTERFOIL_SEED") {
        match explore(seed) {
            Ok(report) => println!("seed {seed}: {report}"),
            Err(violation) => panic!("{violation} --test one_way"),
        }
        return;
    }
    let seeds = seeds(SEEDS);
    let count = seeds.end - seeds.start;
    let (total, violations) = explore_seeds(seeds, explore);
    let violations: Vec<_> = violations.iter().map(|violation| format!("{violation} --test one_way")).collect();
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
        let (once, twice) = (explore(seed), explore(seed));
        assert_eq!(once.map_err(|violation| violation.to_string()), twice.map_err(|violation| violation.to_string()));
    }
}
