//! Each planted mistake is told from a sound history, within few seeds.

use counterfoil_sim::{Bug, explore_sync_with, explore_with};

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

#[test]
fn every_bug_that_only_a_liar_shows_is_caught() {
    let mut missed = Vec::new();
    for bug in Bug::OF_LIARS {
        let found =
            (0..SEEDS).find_map(|seed| explore_with(seed, bug).and_then(|_| explore_sync_with(seed, bug)).err());
        match found {
            Some(violation) => println!("{bug:?}: seed {}: {}", violation.seed, violation.what),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// Those of the messages and of what is believed show among nodes that sync as well.
const ALSO_OF_SYNC: [Bug; 12] = [
    Bug::AcksOnArrival,
    Bug::AcksOneTooMany,
    Bug::CountsWhatWasSent,
    Bug::CountsItself,
    Bug::SkipsABatch,
    Bug::FlipsABit,
    Bug::EncodesAnew,
    Bug::KeepsCredit,
    Bug::ReturnsCreditTwice,
    Bug::AnswersEqualAlways,
    Bug::PassesNothingOn,
    Bug::ComesBackOlder,
];

#[test]
fn every_bug_planted_among_nodes_that_sync_is_caught() {
    let mut missed = Vec::new();
    for bug in Bug::OF_SYNC.into_iter().chain(ALSO_OF_SYNC) {
        match (0..SEEDS).find_map(|seed| explore_sync_with(seed, bug).err()) {
            Some(violation) => println!("{bug:?}: seed {}: {}", violation.seed, violation.what),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not caught in {SEEDS} histories: {missed:?}");
}
