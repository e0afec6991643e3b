//! Acks of other nodes, passed on by a hub.

use counterfoil_storage::{Digest, Holes};

use super::*;
use crate::message::Ack;

/// An ack of `who`, as the hub's other sessions hear it.
fn ack(log: LogId, who: &str, head: Head) -> Ack {
    Ack {
        log,
        node: node(who),
        incarnation: incarnation(who),
        head,
        holes: Holes::default(),
        via: Vec::new(),
        losses: 0,
    }
}

/// What the practice believes that `who` holds, event by event; `-` for what was taken back, `?` for what nobody knows any more.
fn told(practice: &Node, who: &str) -> Vec<String> {
    let of = |event: &Event| match event {
        Event::Acked { node, head, .. } if node.as_str() == who => Some(head.next_seq.to_string()),
        Event::Withdrawn { node, from, to, .. } if node.as_str() == who => {
            Some(format!("-{} to {}", from.next_seq, to.next_seq))
        }
        Event::Forgotten { node, .. } if node.as_str() == who => Some("?".to_owned()),
        _ => None,
    };
    practice.events.iter().filter_map(of).collect()
}

/// A practice with records 0 to 2 in a batch each, all at the hub.
fn mirrored() -> (Node, Node, LogId, Vec<Head>) {
    let (mut practice, mut hub) = practice_and_hub();
    for body in ["a", "b", "c"] {
        practice.append("p", "p", &[body]);
    }
    run(start(), &mut practice, &mut hub);
    let (&log, state) = practice.logs.first_key_value().unwrap();
    let heads = (0..=3).map(|count| state.head_at(count)).collect();
    (practice, hub, log, heads)
}

#[test]
fn an_ack_that_a_hub_passes_on_counts_for_the_node_whose_disk_it_is() {
    let (mut practice, mut hub, log, heads) = mirrored();
    for head in [heads[1], heads[1], heads[2], heads[3]] {
        hub.session.handle_acked_elsewhere(&ack(log, "far", head));
        run(start(), &mut practice, &mut hub);
    }
    assert_eq!(told(&practice, "far"), ["1", "2", "3"], "where it is looked for and where it is known");
    assert_eq!(practice.acked(log), Some(Seq(3)));
}

#[test]
fn a_passed_on_head_that_is_not_on_the_chain_does_not_count() {
    let (mut practice, mut hub, log, heads) = mirrored();
    for (count, head) in heads.iter().enumerate().skip(1) {
        let head = Head { digest: Digest::from_bytes([9; 32]), ..*head };
        hub.session.handle_acked_elsewhere(&ack(log, &format!("far-{count}"), head));
        run(start(), &mut practice, &mut hub);
        assert_eq!(told(&practice, &format!("far-{count}")), Vec::<String>::new());
    }
    // Nor what is beyond the end, until it is not.
    let mut longer = practice.logs[&log].batches.clone();
    longer.push(batch(log, heads[3], &["d"]));
    hub.session.handle_acked_elsewhere(&ack(log, "far", longer[3].head()));
    run(start(), &mut practice, &mut hub);
    assert_eq!(told(&practice, "far"), Vec::<String>::new());
    practice.append("p", "p", &["d"]);
    run(start(), &mut practice, &mut hub);
    assert_eq!(told(&practice, "far"), ["4"]);
}

#[test]
fn what_a_far_node_takes_back_is_taken_back_here() {
    let (mut practice, mut hub, log, heads) = mirrored();
    let burnt = Head { next_seq: Seq::ZERO, digest: Digest::from_bytes([0; 32]) };
    let another_life = |head| Ack { incarnation: incarnation("another"), ..ack(log, "far", head) };
    for ack in [ack(log, "far", heads[3]), ack(log, "far", heads[1]), another_life(burnt), another_life(heads[2])] {
        hub.session.handle_acked_elsewhere(&ack);
        run(start(), &mut practice, &mut hub);
    }
    assert_eq!(told(&practice, "far"), ["3", "-3 to 0", "1", "-1 to 0", "2"]);
}

#[test]
fn a_head_that_is_taken_back_while_it_is_looked_for_is_not_believed() {
    let another = |head, log| Ack { incarnation: incarnation("another"), ..ack(log, "far", head) };
    for is_another_life in [false, true] {
        let (mut practice, _, log, heads) = mirrored();
        practice.session.handle_message(start(), Message::Ack(ack(log, "far", heads[2]))).unwrap();
        let request = practice.session.poll_fetch().unwrap();
        let less = if is_another_life { another(heads[1], log) } else { ack(log, "far", heads[1]) };
        practice.session.handle_message(start(), Message::Ack(less)).unwrap();
        let found = vec![practice.logs[&log].batches[2].clone()];
        practice.session.handle_fetched(start(), request, Ok(found));
        practice.serve(start());
        assert_eq!(told(&practice, "far"), ["1"]);
    }
}

#[test]
fn what_was_taken_back_before_the_session_is_said_in_it_and_what_nobody_knows_is_not() {
    let (mut practice, mut hub, log, _) = mirrored();
    let burnt = Head { next_seq: Seq::ZERO, digest: Digest::from_bytes([0; 32]) };
    hub.sent.clear();
    hub.session.handle_acked_elsewhere(&Ack { via: vec![node("p")], ..ack(log, "unknown", burnt) });
    run(start(), &mut practice, &mut hub);
    assert!(hub.sent.is_empty(), "{:?}", hub.sent);
    hub.session.handle_acked_elsewhere(&Ack { losses: 7, ..ack(log, "far", burnt) });
    run(start(), &mut practice, &mut hub);
    assert_eq!(told(&practice, "far"), Vec::<String>::new());
    let restated = |event: &Event| matches!(event, Event::Restated { head, losses: 7, .. } if *head == burnt);
    assert_eq!(practice.events.iter().filter(|event| restated(event)).count(), 1);
}

#[test]
fn what_is_taken_back_of_a_claim_that_was_never_found_is_told_too() {
    let (mut practice, mut hub, log, heads) = mirrored();
    let beyond = Head { next_seq: Seq(heads.len() as u64 + 100), digest: Digest::from_bytes([0; 32]) };
    hub.session.handle_acked_elsewhere(&ack(log, "far", beyond));
    run(start(), &mut practice, &mut hub);
    practice.events.clear();
    let burnt = Head { next_seq: Seq::ZERO, digest: Digest::from_bytes([0; 32]) };
    hub.session.handle_acked_elsewhere(&Ack { losses: 1, ..ack(log, "far", burnt) });
    run(start(), &mut practice, &mut hub);
    let restated = |event: &Event| matches!(event, Event::Restated { head, losses: 1, .. } if *head == burnt);
    assert!(
        practice.events.iter().any(restated),
        "an earlier session may have brought proof of less: {:?}",
        practice.events
    );
    practice.events.clear();
    hub.session.handle_acked_elsewhere(&Ack { via: vec![node("p")], ..ack(log, "far", burnt) });
    run(start(), &mut practice, &mut hub);
    assert!(practice.events.iter().any(|event| matches!(event, Event::Forgotten { .. })), "{:?}", practice.events);
}

#[test]
fn nobody_is_told_of_itself_or_of_the_writer_and_only_logs_that_flow_in_are_spoken_of() {
    let (mut practice, mut hub, log, heads) = mirrored();
    hub.sent.clear();
    for who in ["p", "hub"] {
        hub.session.handle_acked_elsewhere(&ack(log, who, heads[3]));
    }
    practice.session.handle_acked_elsewhere(&ack(log, "far", heads[3]));
    run(start(), &mut practice, &mut hub);
    assert!(hub.sent.is_empty(), "{:?}", hub.sent);
    // And if a peer says so all the same, it does not count.
    let message = Message::Ack(ack(log, "p", heads[3]));
    practice.handle(start(), message).unwrap();
    assert_eq!(told(&practice, "p"), Vec::<String>::new());
}

#[test]
fn a_hub_that_names_ever_more_nodes_is_heard_of_sixteen() {
    let (mut practice, mut hub, log, heads) = mirrored();
    for number in 0..100 {
        hub.session.handle_acked_elsewhere(&ack(log, &format!("far-{number}"), heads[3]));
    }
    run(start(), &mut practice, &mut hub);
    let far = |event: &Event| matches!(event, Event::Acked { node, .. } if node.as_str() != "hub");
    assert_eq!(practice.events.iter().filter(|event| far(event)).count(), 16);
}

#[test]
fn what_was_passed_on_before_the_source_had_the_log_is_passed_on_again() {
    let policy = Policy::parse("[[grant]]\nnode = \"hub\"\nspace = \"p\"\nrights = [\"relay\"]").unwrap();
    let mut hub = Node::new("hub", "hub-2", &[("p", Direction::Send)]);
    let mut second = Node::with("hub-2", "hub", &[], policy, Limits::default());
    let log = second.append("p", "p", &["a"]);
    let head = second.logs[&log].head_at(1);
    let pass_on = |second: &mut Node| {
        let opened = std::iter::from_fn(|| second.session.poll_opened()).any(|opened| opened == log);
        if opened {
            second.session.handle_acked_elsewhere(&ack(log, "hub-3", head));
        }
        opened
    };
    run(start(), &mut hub, &mut second);
    assert!(pass_on(&mut second));
    run(start(), &mut hub, &mut second);
    assert_eq!(told(&hub, "hub-3"), Vec::<String>::new(), "of a log that the hub does not know");
    hub.append("p", "p", &["a"]);
    run(start(), &mut hub, &mut second);
    assert!(pass_on(&mut second));
    run(start(), &mut hub, &mut second);
    assert_eq!(told(&hub, "hub-3"), ["1"]);
}

#[test]
fn an_ack_that_came_through_this_node_itself_does_not_count_and_nothing_else_is_known_then() {
    let (mut practice, mut hub, log, heads) = mirrored();
    hub.session.handle_acked_elsewhere(&ack(log, "far", heads[3]));
    run(start(), &mut practice, &mut hub);
    let round = Ack { via: vec![node("p"), node("other")], ..ack(log, "far", heads[3]) };
    practice.handle(start(), Message::Ack(round.clone())).unwrap();
    assert_eq!(told(&practice, "far"), ["3", "?"]);
    // It is said again, and then the node has been met in another life, of which nothing is known.
    for word in [ack(log, "far", heads[3]), Ack { incarnation: incarnation("another"), ..round.clone() }] {
        practice.handle(start(), Message::Ack(word)).unwrap();
    }
    run(start(), &mut practice, &mut hub);
    assert_eq!(told(&practice, "far"), ["3", "?", "3", "-3 to 0"]);
    practice.handle(start(), Message::Ack(Ack { node: node("farther"), ..round })).unwrap();
    assert_eq!(told(&practice, "farther"), Vec::<String>::new());
}

/// What the node has heard of the far one is given for each log that opens.
fn give(of: &mut Node, known: &Ack) {
    while let Some(log) = of.session.poll_opened() {
        of.session.handle_acked_elsewhere(&Ack { log, ..known.clone() });
    }
}

#[test]
fn what_is_passed_on_when_a_flow_opens_again_comes_behind_the_answer_that_opens_it() {
    let (mut practice, mut hub, log, heads) = mirrored();
    while hub.session.poll_opened().is_some() {}
    for policy in [Policy::nothing(), Policy::own_space_only()] {
        hub.session.handle_policy(Arc::new(policy)).unwrap();
    }
    give(&mut hub, &ack(log, "far", heads[3]));
    run(start(), &mut practice, &mut hub);
    assert_eq!(told(&practice, "far"), ["3"]);
}

#[test]
fn what_was_passed_on_while_the_flow_was_stopped_is_passed_on_again() {
    let grant = "[[grant]]\nnode = \"r\"\nspace = \"s\"\nrights = [\"read\", \"relay\"]";
    let grant = || Arc::new(Policy::parse(grant).unwrap());
    let mut hub = Node::with("hub", "r", &[], (*grant()).clone(), Limits::default());
    let mut reader = Node::new("r", "hub", &[("s", Direction::Receive)]);
    let log = hub.append("s", "hub", &["a"]);
    run(start(), &mut hub, &mut reader);
    while reader.session.poll_opened().is_some() {}
    let known = ack(log, "far", hub.logs[&log].head_at(1));
    // The two cross: the right is gone, and the reader does not know.
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    reader.session.handle_acked_elsewhere(&known);
    run(start(), &mut hub, &mut reader);
    assert_eq!(told(&hub, "far"), Vec::<String>::new());
    hub.session.handle_policy(grant()).unwrap();
    run(start(), &mut hub, &mut reader);
    give(&mut reader, &known);
    run(start(), &mut hub, &mut reader);
    assert_eq!(told(&hub, "far"), ["1"]);
}
