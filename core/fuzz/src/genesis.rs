//! The first thing in a log.

use counterfoil_storage::{Genesis, MAX_GENESIS_LEN, Parent, Term};

use crate::template;

/// Takes bytes as a genesis.
pub fn run(input: &[u8]) {
    let Ok(genesis) = Genesis::decode(input) else { return };
    assert!(input.len() <= MAX_GENESIS_LEN);
    assert!(genesis.encode() == input, "one encoding for one genesis, or a log had two names");
    assert_eq!(genesis.log_id().as_bytes()[..], genesis.digest().as_bytes()[..16]);
}

/// Whole ones, of every shape.
pub fn seeds() -> Vec<Vec<u8>> {
    let plain = template::genesis("practice-12", "hub");
    let head = plain.head();
    let full = Genesis {
        term: Term(3),
        base: vec![(plain.log_id(), head)],
        parent: Some(Parent { log: plain.log_id(), head }),
        public_key: Some([9; 32]),
        ..plain.clone()
    };
    vec![plain.encode(), full.encode()]
}
