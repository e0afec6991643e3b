//! Each planted mistake is told from a sound history, within few seeds.

use counterfoil_sim::{Bug, explore_with};

/// Histories in which a mistake must show; some need a certain shape, or a certain fault.
const SEEDS: u64 = 100;

#[test]
fn every_planted_bug_is_caught() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match (0..SEEDS).find_map(|seed| explore_with(seed, bug).err()) {
            Some(violation) => println!("{bug:?}: seed {}: {}", violation.seed, violation.what),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not caught in {SEEDS} histories: {missed:?}");
}
