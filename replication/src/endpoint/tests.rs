//! What a session may have its journal do.

use std::path::Path;

use counterfoil_storage::{BatchBuilder, Hlc, Incarnation, NodeName, Options, Term, vfs::Memory};

use super::*;
use crate::{
    FrontierHash, Limits,
    event::By,
    message::{Announce, Hello, Offer, ParkReason},
};

#[test]
fn a_relay_can_t_have_a_node_begin_a_log_of_its_own() {
    let (hub, relay, space) = ("hub", "relay", SpaceName::new("s").unwrap());
    let [hub, relay] = [hub, relay].map(|name| NodeName::new(name).unwrap());
    let mut options = Options::default();
    options.vfs = Arc::new(Memory::default());
    options.background = false;
    let journal = Journal::create(Path::new("store"), hub.clone(), options).unwrap();
    let incarnation = journal.identity().incarnation;
    let policy = "[[grant]]\nnode = \"relay\"\nspace = \"s\"\nrights = [\"relay\"]";
    let policy = Arc::new(Policy::parse(policy).unwrap());
    let limits = Limits::default();
    let config = SessionConfig { local: hub.clone(), incarnation, peer: relay, spaces: vec![], policy, limits };
    #[expect(clippy::disallowed_methods, reason = "a test's beginning of time")]
    let now = Instant::now();
    let mut endpoint = Endpoint::new(journal.clone(), config, now);

    let mut forged = Genesis::new(space.clone(), hub.clone(), *incarnation.as_bytes());
    forged.term = Term(u64::MAX);
    let (log, head) = (forged.log_id(), forged.head());
    let mut batch = BatchBuilder::with_capacity(64);
    batch.push(Hlc::from_bits(1), b"a");
    let batch = batch.seal(log, head);
    let hash = FrontierHash::from_bytes([1; 16]);
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        incarnation: Incarnation::from_bytes([9; 16]),
        session_window_bytes: 1 << 20,
        space_window_bytes: 1 << 20,
        batch_len_max_bytes: 1 << 20,
        next_ms: 1000,
        takes_zstd: false,
    };
    for message in [
        Message::Hello(hello),
        Message::Offer(Offer { space: space.clone(), all: hash, heard: None }),
        Message::Announce(Announce { head: batch.head(), genesis: forged }),
        Message::Batch(batch),
    ] {
        endpoint.handle_message(now, message).unwrap();
        while endpoint.poll_transmit().is_some() {}
    }
    assert!(journal.log(log).is_none());
    let reason = ParkReason::NoRight { writer: hub, space };
    let events: Vec<_> = std::iter::from_fn(|| endpoint.poll_event()).collect();
    assert!(events.contains(&Event::Parked { log, reason, by: By::Local }), "{events:?}");
}
