//! A peer that may only read speaks for others.
#![allow(clippy::all, clippy::pedantic, clippy::disallowed_methods, reason = "an attacker's program, kept as it was")]
use std::{path::Path, sync::Arc, time::Instant};

use counterfoil_replication::*;
use counterfoil_storage::{Genesis, Holes, Incarnation, Journal, NodeName, Options, SpaceName, vfs::Memory};

#[test]
fn a_peer_that_may_only_read_does_not_make_up_mirrors() {
    let name = |name: &str| NodeName::new(name).unwrap();
    let space = SpaceName::new("s").unwrap();
    let mut options = Options::default();
    options.vfs = Arc::new(Memory::default());
    options.background = false;
    let journal = Journal::create(Path::new("store"), name("practice-1"), options).unwrap();
    let incarnation = journal.identity().incarnation;
    let genesis = Genesis::new(space.clone(), name("practice-1"), *incarnation.as_bytes());
    let log = journal.create_log(genesis).unwrap();
    journal.writer(log).unwrap().append(b"precious").unwrap().wait().unwrap();
    // The reader has no right but to read: it must not relay anything.
    let policy = "[[grant]]\nnode = \"reader\"\nspace = \"s\"\nrights = [\"read\"]";
    let policy = Arc::new(Policy::parse(policy).unwrap());
    let limits = Limits::default();
    let config =
        SessionConfig { local: name("practice-1"), incarnation, peer: name("reader"), spaces: vec![], policy, limits };
    let now = Instant::now();
    let mut endpoint = Endpoint::new(journal.clone(), config, now);
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
    let head = journal.log(log).unwrap().durable;
    let mut messages = vec![
        Message::Hello(hello),
        Message::Want(Want { space: space.clone() }),
        // It has nothing at all, and says so.
        Message::Heads(Heads {
            space: space.clone(),
            scope: Scope::All,
            told: Scope::All,
            heads: vec![],
            since_heard: false,
            first: true,
            last: true,
        }),
    ];
    for node in ["hub-1", "hub-2", "hub-3"] {
        messages.push(Message::Ack(Ack {
            log,
            node: name(node),
            incarnation: Incarnation::from_bytes([7; 16]),
            head,
            holes: Holes::default(),
            via: vec![],
            losses: 0,
        }));
    }
    let board = AckBoard::new(name("practice-1"));
    for message in messages {
        endpoint.handle_message(now, message).unwrap();
        while endpoint.poll_transmit().is_some() {}
        while let Some(fetch) = endpoint.poll_fetch() {
            endpoint.handle_fetched(now, fetch.run()).unwrap();
        }
        while let Some(event) = endpoint.poll_event() {
            println!("{event:?}");
            board.hear(&name("reader"), &event);
        }
    }
    let acks = board.of_log(log);
    println!(
        "the reader holds nothing; believed to hold the record: {:?}",
        acks.iter().map(|a| a.node.as_str()).collect::<Vec<_>>()
    );
    assert!(acks.is_empty(), "Mirrored({}) is said although no other node holds the record", acks.len());
}
