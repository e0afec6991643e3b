//! What a peer that breaks the protocol, or falls silent, leads to.

use counterfoil_storage::{Digest, Holes, Seq};
use proptest::prelude::*;

use super::*;
use crate::{
    error::PeerMisbehaved,
    frontier::{FrontierHash, LogHead},
    message::{
        Ack, Announce, CaughtUp, CloseReason, Credit, Differing, Flow, Heads, Heartbeat, Hello, Offer, Park,
        Reconciled, Refusal, Refuse, Rewind, Scope, Sketch, Want, Wanted, Window,
    },
    sketch::{Cell, Estimate, LogMark},
};

fn hello() -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        incarnation: incarnation("p"),
        session_window_bytes: 1 << 20,
        space_window_bytes: 1 << 20,
        batch_len_max_bytes: 1 << 20,
        next_ms: 1000,
        takes_zstd: false,
    }
}

fn offer(name: &str) -> Message {
    let hash = FrontierHash::from_bytes([1; 16]);
    Message::Offer(Offer { space: space(name), all: hash, heard: None })
}

fn announce(name: &str) -> Message {
    let genesis = genesis(name, "p");
    Message::Announce(Announce { head: genesis.head(), genesis })
}

fn first_batch() -> Batch {
    let genesis = genesis("p", "p");
    batch(genesis.log_id(), genesis.head(), &["a"])
}

/// A hub that has heard these messages from `p`.
fn hub_after(messages: impl IntoIterator<Item = Message>) -> Node {
    let mut hub = Node::new("hub", "p", &[]);
    for message in messages {
        hub.handle(start(), message).unwrap();
        while hub.transmit().is_some() {}
    }
    hub
}

fn misbehaviour(hub: &mut Node, message: Message) -> PeerMisbehaved {
    match hub.handle(start(), message) {
        Err(SessionError::PeerMisbehaved { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_wrong_message_is_a_named_error() {
    let log = genesis("p", "p").log_id();
    let head = Head { next_seq: Seq(1), digest: Digest::from_bytes([1; 32]) };
    let equal = Message::Equal(Reconciled { space: space("p"), scope: Scope::Own, told: Scope::Own, offer: 1 });
    let heads = Message::Heads(Heads {
        space: space("p"),
        scope: Scope::Own,
        told: Scope::Own,
        heads: vec![],
        since_heard: false,
        first: true,
        last: true,
    });
    let ack = |life: &str| {
        let holes = Holes::default();
        Message::Ack(Ack {
            log,
            node: node("p"),
            incarnation: incarnation(life),
            head,
            holes,
            via: Vec::new(),
            losses: 0,
        })
    };
    let refuse = Message::Refuse(Refuse { space: space("x"), flow: Flow::Incoming, reason: Refusal::NoRightToStream });
    let beat = Message::Heartbeat(Heartbeat { next_ms: 0, frontiers: vec![], heads: vec![] });
    let cases = [
        (Message::Hello(hello()), PeerMisbehaved::SecondHello),
        (equal, PeerMisbehaved::UnexpectedAnswer { space: space("p") }),
        (heads, PeerMisbehaved::UnexpectedAnswer { space: space("p") }),
        (announce("p"), PeerMisbehaved::UnknownSpace { space: space("p") }),
        (Message::Batch(first_batch()), PeerMisbehaved::UnknownLog { log }),
        (Message::DamagedBatch { log, first_seq: Seq(0), len_bytes: 100 }, PeerMisbehaved::UnknownLog { log }),
        (ack("p"), PeerMisbehaved::UnknownLog { log }),
        (ack("q"), PeerMisbehaved::ForeignAck { node: node("p") }),
        (Message::Rewind(Rewind { log, head }), PeerMisbehaved::UnknownLog { log }),
        (Message::Credit(Credit { space: space("x"), bytes: 1 }), PeerMisbehaved::UnknownSpace { space: space("x") }),
        (refuse, PeerMisbehaved::UnknownSpace { space: space("x") }),
        (beat, PeerMisbehaved::OutOfRange { field: "heartbeat interval", value: 0 }),
    ];
    for (message, expected) in cases {
        let mut hub = hub_after([Message::Hello(hello())]);
        assert_eq!(misbehaviour(&mut hub, message), expected);
    }
}

#[test]
fn a_peer_whose_sketches_tell_nothing_is_asked_for_all_once_and_then_sent_away() {
    let mut source = Node::new("s", "p", &[("p", Direction::Send)]);
    source.append("p", "s", &["a"]);
    source.serve(start());
    source.handle(start(), Message::Hello(hello())).unwrap();
    let cells = vec![Cell::from_bytes([7; 24])];
    let sketch =
        || Message::Sketch(Sketch { space: space("p"), scope: Scope::Own, told: Scope::Own, cells: cells.clone() });
    for _ in 0..2 {
        source.handle(start(), sketch()).unwrap();
    }
    while source.transmit().is_some() {}
    let asked: Vec<_> = source.sent.iter().filter(|message| matches!(message, Message::Differing(_))).collect();
    assert!(matches!(asked[1], Message::Differing(Differing { wanted: Wanted::All, .. })), "{asked:?}");
    assert_eq!(misbehaviour(&mut source, sketch()), PeerMisbehaved::UnexpectedAnswer { space: space("p") });
}

#[test]
fn whatever_comes_before_hello_is_refused() {
    for message in [offer("p"), Message::Want(Want { space: space("p") }), Message::Batch(first_batch())] {
        let mut hub = Node::new("hub", "p", &[]);
        assert_eq!(misbehaviour(&mut hub, message), PeerMisbehaved::NoHello);
    }
}

#[test]
fn a_hello_out_of_range_is_refused() {
    for (hello, field) in [
        (Hello { session_window_bytes: 0, ..hello() }, "session window"),
        (Hello { space_window_bytes: u64::MAX, ..hello() }, "space window"),
        (Hello { next_ms: u32::MAX, ..hello() }, "heartbeat interval"),
    ] {
        let mut hub = Node::new("hub", "p", &[]);
        let PeerMisbehaved::OutOfRange { field: named, .. } = misbehaviour(&mut hub, Message::Hello(hello)) else {
            panic!("{field}");
        };
        assert_eq!(named, field);
    }
}

#[test]
fn windows_out_of_range_and_echoes_that_nobody_asked_for_are_refused() {
    for (session_bytes, space_bytes, field) in [(0, 1, "session window"), (1, u64::MAX, "space window")] {
        let mut hub = hub_after([Message::Hello(hello())]);
        let told = Message::Window(Window { session_bytes, space_bytes });
        assert!(
            matches!(misbehaviour(&mut hub, told), PeerMisbehaved::OutOfRange { field: named, .. } if named == field)
        );
    }
    let mut hub = hub_after([Message::Hello(hello())]);
    assert_eq!(misbehaviour(&mut hub, Message::Echo(0)), PeerMisbehaved::UnaskedEcho);
}

#[test]
fn two_versions_without_a_common_one_say_so() {
    let mut hub = Node::new("hub", "p", &[]);
    let error = hub.handle(start(), Message::Hello(Hello { protocol_min: 7, protocol_max: 9, ..hello() })).unwrap_err();
    assert!(matches!(error, SessionError::NoCommonProtocol { peer_min: 7, peer_max: 9, .. }), "{error}");
    assert_eq!(error.close_reason(), Some(CloseReason::Protocol { min: 1, max: 1 }));
    let mut hub = Node::new("hub", "p", &[]);
    assert!(
        hub.handle(start(), Message::Hello(Hello { protocol_max: 9, ..hello() })).is_ok(),
        "a newer peer that speaks 1"
    );
}

#[test]
fn a_batch_that_breaks_the_chain_parks_its_log_and_stores_nothing() {
    let genesis = genesis("p", "p");
    let log = genesis.log_id();
    let wrong_previous = batch(log, Head { digest: Digest::from_bytes([9; 32]), ..genesis.head() }, &["x"]);
    let gap = batch(log, Head { next_seq: Seq(5), ..genesis.head() }, &["x"]);
    for bad in [wrong_previous, gap] {
        let mut hub = hub_after([Message::Hello(hello()), offer("p"), announce("p"), Message::Batch(bad)]);
        assert!(matches!(hub.parked(log), Some((ParkReason::Chain { .. }, By::Local))), "{:?}", hub.events);
        hub.handle(start(), Message::Batch(first_batch())).unwrap();
        assert!(hub.bodies(log).is_empty(), "what follows is dropped");
        assert_eq!(hub.session.target_outstanding(), 0, "and its credit returned");
        assert!(hub.sent.iter().any(|message| matches!(message, Message::Park(park) if park.log == log)));
    }
}

#[test]
fn other_bytes_at_a_place_that_is_stored_park_the_log() {
    let genesis = genesis("p", "p");
    let other = batch(genesis.log_id(), genesis.head(), &["other"]);
    let hub = hub_after([
        Message::Hello(hello()),
        offer("p"),
        announce("p"),
        Message::Batch(first_batch()),
        Message::Batch(other),
    ]);
    assert_eq!(hub.bodies(genesis.log_id()), ["a"]);
    assert!(matches!(hub.parked(genesis.log_id()), Some((ParkReason::Chain { .. }, By::Local))));
}

#[test]
fn a_duplicate_is_ignored() {
    let log = genesis("p", "p").log_id();
    let mut messages = vec![Message::Hello(hello()), offer("p"), announce("p")];
    messages.extend(std::iter::repeat_n(Message::Batch(first_batch()), 3));
    let hub = hub_after(messages);
    assert_eq!(hub.bodies(log), ["a"]);
    assert_eq!(hub.parked(log), None);
    assert_eq!(hub.session.target_outstanding(), 0);
}

#[test]
fn a_wrong_checksum_in_an_intact_frame_parks_the_log_that_it_names() {
    let log = genesis("p", "p").log_id();
    let damaged = Message::DamagedBatch { log, first_seq: Seq(0), len_bytes: 100 };
    let hub = hub_after([Message::Hello(hello()), offer("p"), announce("p"), damaged.clone(), damaged]);
    assert_eq!(hub.parked(log), Some((ParkReason::Checksum { first_seq: Seq(0) }, By::Local)));
    assert_eq!(hub.sent.iter().filter(|message| matches!(message, Message::Park(_))).count(), 1, "said once");
}

#[test]
fn a_batch_without_credit_ends_the_session() {
    let limits = Limits { session_window_bytes: 50, ..Limits::default() };
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    hub.flushing = false;
    for message in [Message::Hello(hello()), offer("p"), announce("p"), Message::Batch(first_batch())] {
        hub.handle(start(), message).unwrap();
    }
    let second = batch(first_batch().log(), first_batch().head(), &["b"]);
    let what = misbehaviour(&mut hub, Message::Batch(second));
    assert_eq!(what, PeerMisbehaved::CreditOverdrawn { window_bytes: 50 });
}

#[test]
fn credit_that_was_not_used_cannot_be_returned() {
    let (mut practice, mut hub) = practice_and_hub();
    run(start(), &mut practice, &mut hub);
    let credit = Message::Credit(Credit { space: space("p"), bytes: 1 });
    let error = practice.handle(start(), credit).unwrap_err();
    assert!(error.to_string().contains("more than was used"), "{error}");
}

#[test]
fn a_session_has_no_more_logs_than_allowed() {
    let limits = Limits { logs_max: 2, ..Limits::default() };
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    let log = |nonce| {
        let genesis = Genesis { nonce: [nonce; 16], ..genesis("p", "p") };
        Message::Announce(Announce { head: genesis.head(), genesis })
    };
    for message in [Message::Hello(hello()), offer("p"), log(1), log(2), log(2)] {
        hub.handle(start(), message).unwrap();
    }
    assert_eq!(misbehaviour(&mut hub, log(3)), PeerMisbehaved::TooManyLogs { limit: 2 });
}

/// A log of the node `p` in its space, and the first batch of it.
fn log_of_p(nonce: u16) -> (LogId, [Message; 2]) {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&nonce.to_le_bytes());
    let genesis = Genesis { nonce: bytes, ..genesis("p", "p") };
    let (id, head) = (genesis.log_id(), genesis.head());
    (id, [Message::Announce(Announce { genesis, head }), Message::Batch(batch(id, head, &["x"]))])
}

#[test]
fn of_one_writer_no_more_logs_are_stored_than_allowed_those_included_that_are_there() {
    let limits = Limits { logs_per_writer_max: 3, ..Limits::default() };
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    let there = hub.append("p", "p", &["of an earlier life"]);
    let logs: Vec<_> = (0..3).map(log_of_p).collect();
    hub.flushing = false;
    for message in [Message::Hello(hello()), offer("p")] {
        hub.handle(start(), message).unwrap();
    }
    for (_, messages) in &logs {
        for message in messages {
            hub.handle(start(), message.clone()).unwrap();
        }
    }
    hub.flush();
    let kept: Vec<_> = hub.logs.keys().copied().collect();
    assert!(kept.len() == 3 && [there, logs[0].0, logs[1].0].iter().all(|id| kept.contains(id)), "{kept:?}");
    let reason = ParkReason::TooManyOfWriter { writer: node("p"), space: space("p"), limit: 3 };
    assert_eq!(hub.parked(logs[2].0), Some((reason, By::Local)));
    assert_eq!(hub.session.target_outstanding(), 0, "what was dropped holds no credit back");
    // What was taken goes on.
    let next = hub.logs[&logs[0].0].head_at(1);
    hub.handle(start(), Message::Batch(batch(logs[0].0, next, &["more"]))).unwrap();
    hub.flush();
    assert_eq!(hub.bodies(logs[0].0), ["x", "more"]);
}

#[test]
fn a_peer_that_announces_log_after_log_that_is_not_taken_is_stopped() {
    let limits = Limits { logs_per_writer_max: 1, ..Limits::default() };
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    for message in [Message::Hello(hello()), offer("p")] {
        hub.handle(start(), message).unwrap();
    }
    let mut announce = |nonce| {
        let [announce, _] = log_of_p(nonce).1;
        let handled = hub.handle(start(), announce);
        while hub.transmit().is_some() {}
        handled
    };
    (0..=1024).for_each(|nonce| announce(nonce).unwrap());
    let error = announce(1025).unwrap_err();
    assert!(
        matches!(error, SessionError::PeerMisbehaved { what: PeerMisbehaved::TooManyLogs { limit: 1024 }, .. }),
        "{error}"
    );
}

#[test]
fn a_peer_that_asks_without_reading_the_answers_is_stopped() {
    let limits = Limits { control_max: 100, ..Limits::default() };
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    hub.handle(start(), Message::Hello(hello())).unwrap();
    let asked = (0..1000).find_map(|_| hub.handle(start(), offer("x")).err());
    assert!(asked.unwrap().to_string().contains("left 100 answers unread"));
}

#[test]
fn a_peer_that_says_nothing_is_given_up_after_the_time_for_a_hello() {
    let mut hub = Node::new("hub", "p", &[]);
    assert!(hub.session.handle_timeout(start() + 9 * SECOND).is_ok());
    let error = hub.session.handle_timeout(start() + 11 * SECOND).unwrap_err();
    assert!(matches!(error, SessionError::HandshakeTimeout { .. }));
}

#[test]
fn a_peer_that_falls_silent_is_given_up_after_three_of_its_intervals() {
    let mut hub = hub_after([Message::Hello(hello())]);
    assert!(hub.session.handle_timeout(start() + 2 * SECOND).is_ok());
    let idle = Heartbeat { next_ms: 15_000, frontiers: vec![], heads: vec![] };
    hub.handle(start() + 2 * SECOND, Message::Heartbeat(idle)).unwrap();
    assert!(hub.session.handle_timeout(start() + 40 * SECOND).is_ok());
    let error = hub.session.handle_timeout(start() + 60 * SECOND).unwrap_err();
    assert!(matches!(error, SessionError::Silent { .. }));
}

#[test]
fn a_heartbeat_always_comes_within_the_time_promised() {
    let (mut practice, mut hub) = practice_and_hub();
    let begin = start();
    run(begin, &mut practice, &mut hub);
    let mut now = begin;
    for _ in 0..50 {
        now = practice.session.poll_timeout().unwrap().min(hub.session.poll_timeout().unwrap());
        practice.session.handle_timeout(now).unwrap();
        hub.session.handle_timeout(now).unwrap();
        run(now, &mut practice, &mut hub);
    }
    assert!(now - begin > 100 * SECOND, "idle links whisper");
}

#[test]
fn a_goodbye_names_its_reason() {
    let mut hub = hub_after([Message::Hello(hello())]);
    let error = hub.handle(start(), Message::Close(CloseReason::Shutdown)).unwrap_err();
    assert_eq!(error.to_string(), "p ended the session: it stops");
    assert_eq!(error.close_reason(), None);
}

#[test]
fn a_read_that_has_become_pointless_is_ignored() {
    let (mut practice, mut hub) = practice_and_hub();
    hub.flushing = false;
    run(start(), &mut practice, &mut hub);
    let log = practice.append("p", "p", &["a"]);
    let request = practice.session.poll_fetch().unwrap();
    let origin = genesis("p", "p").head();
    practice.session.handle_message(start(), Message::Rewind(Rewind { log, head: origin })).unwrap();
    let batches = practice.logs[&log].batches.clone();
    practice.session.handle_fetched(start(), request, Ok(batches));
    assert!(practice.session.poll_transmit().is_none(), "the stale read sends nothing");
    run(start(), &mut practice, &mut hub);
    assert_eq!(practice.batches_sent(), 1);
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        prop::collection::vec((0_u8..5).prop_map(|byte| LogMark::from_bytes([byte; 8])), 0..4).prop_map(Wanted::Logs),
        prop::collection::vec(any::<i32>(), 0..=64).prop_map(|counters| Wanted::More(Estimate::of(counters))),
        Just(Wanted::All),
    ]
}

/// Messages over two spaces, three logs and a handful of heads: some fit, most don't.
fn message() -> impl Strategy<Value = Message> {
    let head = (0_u64..3, 0_usize..4).prop_map(|(next_seq, pick)| {
        let genesis = genesis("p", "p");
        let first = first_batch();
        let second = batch(first.log(), first.head(), &["b"]);
        match pick {
            0 => genesis.head(),
            1 => first.head(),
            2 => second.head(),
            _ => Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([next_seq as u8; 32]) },
        }
    });
    let name = prop_oneof!["p", "q"].prop_map(|name| space(&name));
    let writer = prop_oneof!["p", "q", "hub"];
    let log = ("p|q", "p|q|hub").prop_map(|(space, writer)| genesis(&space, &writer).log_id());
    let scope = prop_oneof![Just(Scope::Own), Just(Scope::All)];
    let flow = prop_oneof![Just(Flow::Incoming), Just(Flow::Outgoing)];
    let hash = prop_oneof![Just(FrontierHash::of([])), Just(FrontierHash::from_bytes([3; 16]))];
    let heads = prop::collection::vec((log.clone(), head.clone()), 0..4);
    prop_oneof![
        name.clone().prop_map(|space| Message::Want(Want { space })),
        (name.clone(), hash.clone(), prop::option::of(hash.clone()))
            .prop_map(|(space, hash, heard)| Message::Offer(Offer { space, all: hash, heard })),
        (name.clone(), scope.clone(), prop::collection::vec(0_u8..3, 0..40)).prop_map(|(space, scope, bytes)| {
            let cells = bytes.into_iter().map(|byte| Cell::from_bytes([byte; 24])).collect();
            Message::Sketch(Sketch { space, scope, told: scope, cells })
        }),
        (name.clone(), wanted()).prop_map(|(space, wanted)| Message::Differing(Differing { space, wanted })),
        (name.clone(), hash.clone(), prop::option::of(hash.clone()))
            .prop_map(|(space, all, heard)| Message::Exchange(Offer { space, all, heard })),
        (name.clone(), scope.clone(), scope.clone(), 0_u32..4)
            .prop_map(|(space, scope, told, offer)| Message::Equal(Reconciled { space, scope, told, offer })),
        (name.clone(), any::<bool>()).prop_map(|(space, whole)| Message::CaughtUp(CaughtUp { space, whole })),
        (name.clone(), scope.clone(), scope, heads.clone(), any::<[bool; 3]>()).prop_map(
            |(space, scope, told, heads, [since_heard, first, last])| {
                let heads = heads.into_iter().map(|(log, head)| LogHead { log, head }).collect();
                Message::Heads(Heads { space, scope, told, heads, since_heard, first, last })
            }
        ),
        (name.clone(), flow.clone()).prop_map(|(space, flow)| Message::Refuse(Refuse {
            space,
            flow,
            reason: Refusal::NoRightToRead
        })),
        (name.clone(), writer.clone(), head.clone()).prop_map(|(space, writer, head)| {
            Message::Announce(Announce { genesis: genesis(space.as_str(), &writer), head })
        }),
        (log.clone(), head.clone()).prop_map(|(log, head)| {
            Message::Ack(Ack {
                log,
                node: node("p"),
                incarnation: incarnation("p"),
                head,
                holes: Holes::default(),
                via: Vec::new(),
                losses: 0,
            })
        }),
        (name.clone(), 0_u64..200).prop_map(|(space, bytes)| Message::Credit(Credit { space, bytes })),
        (log.clone(), head.clone()).prop_map(|(log, head)| Message::Rewind(Rewind { log, head })),
        (log.clone(), flow).prop_map(|(log, flow)| Message::Park(Park {
            log,
            flow,
            reason: ParkReason::Checksum { first_seq: Seq(1) }
        })),
        (1000_u32..2000, name, hash, heads).prop_map(|(next_ms, space, hash, heads)| {
            let heads = heads.into_iter().map(|(log, head)| LogHead { log, head }).collect();
            Message::Heartbeat(Heartbeat { next_ms, frontiers: vec![(space, hash)], heads })
        }),
        (log.clone(), head, "[a-c]{1,3}").prop_map(|(log, head, body)| Message::Batch(batch(log, head, &[&body]))),
        log.prop_map(|log| Message::DamagedBatch { log, first_seq: Seq(0), len_bytes: 90 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_sequence_of_messages_makes_a_session_panic_or_store_what_it_should_not(
        messages in prop::collection::vec((message(), any::<bool>(), 0_u64..400), 1..60),
    ) {
        let policy = "[[grant]]\nnode = \"p\"\nspace = \"p\"\nrights = [\"read\", \"write\"]";
        let limits = Limits {
            session_window_bytes: 2000,
            space_window_bytes: 1000,
            heads_at_once_max: 0,
            ..Limits::default()
        };
        let mut hub =
            Node::with("hub", "p", &[("q", Direction::Both)], Policy::parse(policy).unwrap(), limits);
        let mut now = start();
        hub.append("p", "p", &["a"]);
        hub.append("q", "hub", &["b"]);
        hub.handle(now, Message::Hello(hello())).unwrap();
        for (message, flush, wait_ms) in messages {
            now += Duration::from_millis(wait_ms);
            hub.flushing = flush;
            if hub.session.handle_timeout(now).is_err() || hub.handle(now, message).is_err() {
                break;
            }
            while hub.session.poll_transmit().is_some() {}
            hub.session.status();
            for log in hub.logs.values() {
                let allowed = log.genesis.space == space("q") || log.genesis.node == node("p");
                prop_assert!(allowed || log.batches.is_empty(), "{:?}", log.genesis);
                for (index, batch) in log.batches.iter().enumerate() {
                    prop_assert_eq!(batch.header().previous, log.head_at(index).digest, "an unbroken chain");
                }
            }
        }
    }
}
