//! Who may do what, and when it changes.

use counterfoil_storage::Seq;

use super::*;
use crate::message::{Flow, Heads, Refusal, Refuse, Scope, Want};

fn grant(node: &str, space: &str, rights: &str) -> Policy {
    Policy::parse(&format!("[[grant]]\nnode = \"{node}\"\nspace = \"{space}\"\nrights = [{rights}]")).unwrap()
}

fn refused(node: &Node, by: By) -> bool {
    node.events
        .iter()
        .any(|event| matches!(event, Event::Refused { reason: Refusal::NoRightToStream | Refusal::NoRightToRead, by: who, .. } if *who == by))
}

#[test]
fn a_space_without_a_grant_is_refused_and_nothing_of_it_is_stored() {
    let mut practice = Node::new("p", "hub", &[("other", Direction::Send), ("p", Direction::Send)]);
    let mut hub = Node::new("hub", "p", &[]);
    let foreign = practice.append("other", "p", &["secret"]);
    let own = practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    assert!(refused(&practice, By::Peer) && refused(&hub, By::Local));
    assert!(!hub.logs.contains_key(&foreign));
    assert_eq!(hub.bodies(own), ["a"], "the space that is granted does not suffer");
}

#[test]
fn a_space_is_not_given_to_a_node_that_may_not_read_it() {
    let mut thief = Node::new("t", "hub", &[("p", Direction::Receive)]);
    let mut hub = Node::new("hub", "t", &[]);
    hub.append("p", "p", &["secret"]);
    run(start(), &mut thief, &mut hub);
    assert!(refused(&thief, By::Peer));
    assert!(thief.logs.is_empty());
    assert!(!hub.sent.iter().any(|message| matches!(message, Message::Offer(_) | Message::Announce(_))));
}

#[test]
fn the_right_to_write_carries_own_logs_only() {
    let mut source = Node::new("p", "hub", &[("p", Direction::Send)]);
    let mut hub = Node::new("hub", "p", &[]);
    let own = source.append("p", "p", &["a"]);
    let foreign = source.append("p", "q", &["b"]);
    run(start(), &mut source, &mut hub);
    assert_eq!(hub.bodies(own), ["a"]);
    assert!(!hub.logs.contains_key(&foreign));
    assert!(source.session.status().spaces[0].in_sync, "what the flow does not carry is not waited for");
    source.append("p", "q", &["c"]);
    run(start(), &mut source, &mut hub);
    assert!(!hub.logs.contains_key(&foreign));
    assert!(source.session.status().spaces[0].in_sync);
}

#[test]
fn a_log_of_another_writer_is_parked_when_announced_without_the_right_to_relay() {
    let mut hub = Node::new("hub", "p", &[]);
    let mut honest = Node::new("p", "hub", &[("p", Direction::Send)]);
    run(start(), &mut honest, &mut hub);
    let foreign = genesis("p", "q");
    let log = foreign.log_id();
    let first = batch(log, foreign.head(), &["x"]);
    let announce = crate::message::Announce { head: first.head(), genesis: foreign };
    hub.handle(start(), Message::Announce(announce)).unwrap();
    hub.handle(start(), Message::Batch(first)).unwrap();
    assert!(matches!(hub.parked(log), Some((ParkReason::NoRight { .. }, By::Local))));
    assert!(!hub.logs.contains_key(&log));
    assert_eq!(hub.session.target_outstanding(), 0);
}

#[test]
fn a_peer_that_parks_what_it_may_not_stream_and_announces_it_again_still_may_not() {
    let mut hub = Node::new("hub", "p", &[]);
    let mut honest = Node::new("p", "hub", &[("p", Direction::Send)]);
    run(start(), &mut honest, &mut hub);
    let foreign = genesis("p", "q");
    let log = foreign.log_id();
    let first = batch(log, foreign.head(), &["x"]);
    let announce = Message::Announce(crate::message::Announce { head: first.head(), genesis: foreign });
    hub.handle(start(), announce.clone()).unwrap();
    let reason = ParkReason::Gap { first_seq: Seq(0), next_seq: Seq(1), cause: crate::message::GapCause::Hole };
    hub.handle(start(), Message::Park(crate::message::Park { log, flow: Flow::Outgoing, reason })).unwrap();
    hub.handle(start(), announce).unwrap();
    hub.handle(start(), Message::Batch(first)).unwrap();
    assert!(!hub.logs.contains_key(&log));
}

#[test]
fn a_gap_told_by_a_peer_that_may_not_stream_the_log_opens_nothing_once_it_is_passed() {
    let mut hub = Node::new("hub", "p", &[]);
    let mut honest = Node::new("p", "hub", &[("p", Direction::Send)]);
    run(start(), &mut honest, &mut hub);
    let log = hub.append("p", "q", &["x"]);
    let reason = ParkReason::Gap { first_seq: Seq(0), next_seq: Seq(1), cause: crate::message::GapCause::Trimmed };
    hub.handle(start(), Message::Park(crate::message::Park { log, flow: Flow::Outgoing, reason })).unwrap();
    // It comes from elsewhere.
    hub.append("p", "q", &["y"]);
    let said: Vec<_> = std::iter::from_fn(|| hub.transmit()).collect();
    assert!(!said.iter().any(|message| matches!(message, Message::Rewind(_))), "{said:?}");
    let more = batch(log, hub.logs[&log].head_at(2), &["z"]);
    // Not even that is believed which would follow.
    drop(hub.handle(start(), Message::Batch(more)));
    assert_eq!(hub.bodies(log), ["x", "y"]);
}

/// A hub of which the disk is full, and that closes the flow before or after it learns that.
fn closes_while_full(learns_first: bool) -> (Node, Node) {
    let limits = Limits { space_window_bytes: 200, ..Limits::default() };
    let mut practice = Node::new("p", "hub", &[("p", Direction::Send)]);
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    run(start(), &mut practice, &mut hub);
    (hub.full, hub.flushing) = (learns_first, false);
    let log = practice.append("p", "p", &["a"]);
    practice.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    if !learns_first {
        // What was queued did not become durable.
        hub.logs.clear();
        hub.session.handle_store_failed(start(), log, StoreFailure::Retry);
    }
    run(start(), &mut practice, &mut hub);
    (practice, hub)
}

#[test]
fn what_a_full_disk_did_not_take_holds_no_credit_back_when_the_flow_is_closed_meanwhile() {
    for learns_first in [true, false] {
        let (mut practice, mut hub) = closes_while_full(learns_first);
        assert_eq!(hub.session.target_outstanding(), 0, "learns first: {learns_first}");
        (hub.full, hub.flushing) = (false, true);
        hub.session.handle_policy(Arc::new(Policy::own_space_only())).unwrap();
        let log = practice.append("p", "p", &["c"]);
        run(start(), &mut practice, &mut hub);
        assert_eq!(hub.bodies(log), ["a", "b", "c"], "learns first: {learns_first}");
    }
}

#[test]
fn a_denial_ends_a_living_session() {
    let (mut practice, mut hub) = practice_and_hub();
    run(start(), &mut practice, &mut hub);
    let denial = Policy::parse("[[deny]]\nnode = \"p\"").unwrap();
    let error = hub.session.handle_policy(Arc::new(denial)).unwrap_err();
    assert!(matches!(error, SessionError::Denied { .. }), "{error}");
    assert!(error.close_reason().is_some());
}

#[test]
fn a_denied_node_gets_no_further_than_hello() {
    let mut practice = Node::new("p", "hub", &[("p", Direction::Send)]);
    let denial = Policy::parse("[[deny]]\nnode = \"p\"").unwrap();
    let mut hub = Node::with("hub", "p", &[], denial, Limits::default());
    let hello = practice.transmit().unwrap();
    assert!(matches!(hub.handle(start(), hello), Err(SessionError::Denied { .. })));
}

#[test]
fn a_right_taken_away_stops_the_flow_and_one_given_starts_it() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    practice.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    assert!(refused(&practice, By::Peer));
    assert_eq!(hub.bodies(log), ["a"]);
    hub.session.handle_policy(Arc::new(Policy::own_space_only())).unwrap();
    practice.append("p", "p", &["c"]);
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a", "b", "c"]);
    assert_eq!(practice.acked(log), Some(Seq(3)));
    assert_eq!(hub.session.target_outstanding(), 0);
}

#[test]
fn a_wider_right_brings_the_logs_that_the_narrow_one_left_out() {
    let mut source = Node::new("p", "hub", &[("p", Direction::Send)]);
    let mut hub = Node::new("hub", "p", &[]);
    source.append("p", "p", &["a"]);
    let foreign = source.append("p", "q", &["b"]);
    run(start(), &mut source, &mut hub);
    hub.session.handle_policy(Arc::new(grant("p", "p", "\"relay\""))).unwrap();
    run(start(), &mut source, &mut hub);
    assert_eq!(hub.bodies(foreign), ["b"]);
    hub.session.handle_policy(Arc::new(grant("p", "p", "\"write\""))).unwrap();
    source.append("p", "q", &["c"]);
    run(start(), &mut source, &mut hub);
    assert_eq!(hub.bodies(foreign), ["b"], "and a narrower one stops them");
}

#[test]
fn a_right_to_read_given_later_starts_the_flow_that_was_asked_for() {
    let mut reader = Node::new("r", "hub", &[("s", Direction::Receive)]);
    let mut hub = Node::new("hub", "r", &[]);
    let log = hub.append("s", "hub", &["a"]);
    run(start(), &mut reader, &mut hub);
    assert!(reader.logs.is_empty());
    hub.session.handle_policy(Arc::new(grant("r", "s", "\"read\""))).unwrap();
    run(start(), &mut reader, &mut hub);
    assert_eq!(reader.bodies(log), ["a"]);
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    hub.append("s", "hub", &["b"]);
    run(start(), &mut reader, &mut hub);
    assert_eq!(reader.bodies(log), ["a"]);
    assert!(reader.events.iter().any(|event| matches!(event, Event::Refused { flow: Flow::Incoming, .. })));
}

#[test]
fn a_session_has_no_more_spaces_than_allowed() {
    let policy = grant("p", "*", "\"write\"");
    let limits = Limits { spaces_max: 1, ..Limits::default() };
    let mut practice = Node::new("p", "hub", &[("a", Direction::Send), ("b", Direction::Send)]);
    let mut hub = Node::with("hub", "p", &[], policy, limits);
    run(start(), &mut practice, &mut hub);
    let refused = |event: &Event| matches!(event, Event::Refused { reason: Refusal::TooManySpaces, .. });
    assert_eq!(practice.events.iter().filter(|event| refused(event)).count(), 1);
}

#[test]
fn of_a_peer_that_may_read_no_more_nothing_is_heard_until_it_may_again() {
    let read = || Arc::new(grant("r", "s", "\"read\""));
    let mut reader = Node::new("r", "hub", &[("s", Direction::Receive)]);
    let mut hub = Node::with("hub", "r", &[], grant("r", "s", "\"read\""), Limits::default());
    let log = hub.append("s", "hub", &["a"]);
    run(start(), &mut reader, &mut hub);
    hub.events.clear();
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    run(start(), &mut reader, &mut hub);
    assert!(hub.events.contains(&Event::Unheard { log, node: node("r") }), "{:?}", hub.events);
    hub.events.clear();
    hub.session.handle_policy(read()).unwrap();
    run(start(), &mut reader, &mut hub);
    let acked =
        |event: &Event| matches!(event, Event::Acked { log: of, head, .. } if *of == log && head.next_seq == Seq(1));
    assert!(hub.events.iter().any(acked), "though it is what was said before: {:?}", hub.events);
    hub.events.clear();
    hub.session.handle_policy(read()).unwrap();
    run(start(), &mut reader, &mut hub);
    assert!(!hub.events.iter().any(|event| matches!(event, Event::Unheard { .. })), "nothing has changed");
}

#[test]
fn who_is_refused_before_its_offer_was_made_asks_all_the_same() {
    let mut member = Node::new("p", "hub", &[("s", Direction::Both)]);
    let greeting = Node::new("hub", "p", &[]).transmit().unwrap();
    member.session.handle_message(start(), greeting).unwrap();
    let refuse = Refuse { space: space("s"), flow: Flow::Incoming, reason: Refusal::NoRightToStream };
    member.session.handle_message(start(), Message::Refuse(refuse)).unwrap();
    member.serve(start());
    while member.transmit().is_some() {}
    assert!(matches!(member.sent[..], [Message::Hello(_), Message::Want(_)]), "{:?}", member.sent);
}

#[test]
fn a_node_that_may_only_write_gets_nothing_by_answering_an_offer_that_was_never_made() {
    let mut hub = Node::with("hub", "w", &[], grant("w", "s", "\"write\""), Limits::default());
    hub.append("s", "q", &["secret"]);
    let mut writer = Node::new("w", "hub", &[("s", Direction::Send)]);
    writer.append("s", "w", &["own"]);
    run(start(), &mut writer, &mut hub);
    hub.handle(start(), Message::Want(Want { space: space("s") })).unwrap();
    let heads = Heads {
        space: space("s"),
        scope: Scope::All,
        told: Scope::All,
        heads: Vec::new(),
        since_heard: false,
        first: true,
        last: true,
    };
    hub.handle(start(), Message::Heads(heads)).unwrap();
    while hub.transmit().is_some() {
        hub.serve(start());
    }
    let shown = |message: &Message| matches!(message, Message::Announce(_) | Message::Batch(_));
    assert!(!hub.sent.iter().any(shown), "a space was shown to a node that may not read it");
}

#[test]
fn a_right_to_read_taken_away_can_not_be_had_back_by_answering_again() {
    let mut reader = Node::new("r", "hub", &[("s", Direction::Receive)]);
    let mut hub = Node::with("hub", "r", &[], grant("r", "s", "\"read\""), Limits::default());
    let log = hub.append("s", "hub", &["a"]);
    run(start(), &mut reader, &mut hub);
    assert_eq!(reader.bodies(log), ["a"]);
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    run(start(), &mut reader, &mut hub);
    hub.sent.clear();
    hub.append("s", "hub", &["secret"]);
    let heads = Heads {
        space: space("s"),
        scope: Scope::All,
        told: Scope::All,
        heads: Vec::new(),
        since_heard: false,
        first: true,
        last: true,
    };
    hub.handle(start(), Message::Heads(heads)).unwrap();
    while hub.transmit().is_some() {
        hub.serve(start());
    }
    assert_eq!(hub.batches_sent(), 0);
}

/// What the peer says until it has nothing more to say; kept back.
fn under_way(node: &mut Node) -> Vec<Message> {
    node.serve(start());
    std::iter::from_fn(|| {
        let message = node.transmit();
        node.serve(start());
        message
    })
    .collect()
}

#[test]
fn a_right_taken_away_and_given_back_while_batches_are_under_way_parks_nothing_and_accuses_nobody() {
    for is_known in [true, false] {
        let (mut practice, mut hub) = practice_and_hub();
        if is_known {
            practice.append("p", "p", &["a"]);
        }
        run(start(), &mut practice, &mut hub);
        let log = practice.append("p", "p", &["b"]);
        practice.append("p", "p", &["c"]);
        practice.append("p", "p", &["d"]);
        let mut sent = under_way(&mut practice).into_iter();
        // Of a new log the announcement alone has come, or the first batch too.
        for message in sent.by_ref().take(2) {
            hub.handle(start(), message).unwrap();
        }
        for policy in [Policy::nothing(), Policy::own_space_only()] {
            hub.session.handle_policy(Arc::new(policy)).unwrap();
            hub.serve(start());
        }
        for message in sent {
            hub.handle(start(), message).unwrap();
        }
        run(start(), &mut practice, &mut hub);
        let all: &[&str] = if is_known { &["a", "b", "c", "d"] } else { &["b", "c", "d"] };
        assert_eq!(hub.bodies(log), all, "known: {is_known}");
        assert_eq!((practice.parked(log), hub.parked(log)), (None, None), "known: {is_known}");
        assert_eq!(practice.acked(log), Some(Seq(all.len() as u64)));
        assert_eq!(hub.session.target_outstanding(), 0);
    }
}

#[test]
fn a_log_announced_while_its_flow_was_refused_goes_on_once_the_right_is_given_back() {
    let (mut practice, mut hub) = practice_and_hub();
    run(start(), &mut practice, &mut hub);
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    hub.serve(start());
    let log = practice.append("p", "p", &["a"]);
    let mut sent = under_way(&mut practice).into_iter();
    hub.handle(start(), sent.next().unwrap()).unwrap();
    hub.session.handle_policy(Arc::new(Policy::own_space_only())).unwrap();
    for message in sent {
        hub.handle(start(), message).unwrap();
    }
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a"]);
    assert_eq!((practice.parked(log), hub.parked(log)), (None, None));
}

#[test]
fn an_answer_to_an_offer_that_was_taken_back_is_not_taken_for_one_to_the_next() {
    let (mut hub, mut reader) = (Node::new("hub", "r", &[]), Node::new("r", "hub", &[("s", Direction::Receive)]));
    let log = hub.append("s", "hub", &["a"]);
    reader.append("s", "hub", &["a"]);
    let may_read = || Arc::new(grant("r", "s", "\"read\""));
    hub.session.handle_policy(may_read()).unwrap();
    for message in under_way(&mut reader) {
        hub.handle(start(), message).unwrap();
    }
    for message in under_way(&mut hub) {
        reader.handle(start(), message).unwrap();
    }
    let answer = under_way(&mut reader);
    assert!(answer.iter().any(|message| matches!(message, Message::Equal(_))), "{answer:?}");
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    hub.append("s", "hub", &["b"]);
    hub.session.handle_policy(may_read()).unwrap();
    for message in answer {
        hub.handle(start(), message).unwrap();
    }
    assert_eq!(hub.acked(log), None, "the second record was offered, and nobody has it");
    run(start(), &mut hub, &mut reader);
    assert_eq!((reader.bodies(log).len(), hub.acked(log)), (2, Some(Seq(2))));
}

#[test]
fn an_answer_that_crosses_with_a_refusal_accuses_nobody() {
    let (mut hub, mut reader) = (Node::new("hub", "r", &[]), Node::new("r", "hub", &[("s", Direction::Receive)]));
    hub.session.handle_policy(Arc::new(grant("r", "s", "\"read\""))).unwrap();
    for message in under_way(&mut reader) {
        hub.handle(start(), message).unwrap();
    }
    for message in under_way(&mut hub) {
        reader.handle(start(), message).unwrap();
    }
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    let answer = under_way(&mut reader);
    assert!(answer.iter().any(|message| matches!(message, Message::Equal(_))), "{answer:?}");
    for message in answer {
        hub.handle(start(), message).unwrap();
    }
}
