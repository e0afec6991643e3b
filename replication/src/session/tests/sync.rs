//! Both directions at once.

use counterfoil_storage::Seq;

use super::*;
use crate::message::{CaughtUp, Refusal};

const MEMBER: &str = "[[grant]]\nnode = \"p\"\nspace = \"s\"\nrights = [\"read\", \"write\"]";

/// A practice that syncs the space `s` with a hub, which lets it read and write its own logs.
pub(super) fn member_and_hub() -> (Node, Node) {
    let hub = Node::with("hub", "p", &[], Policy::parse(MEMBER).unwrap(), Limits::default());
    (Node::new("p", "hub", &[("s", Direction::Both)]), hub)
}

fn caught_up(node: &Node) -> Vec<bool> {
    let told = |event: &Event| if let Event::CaughtUp { whole, .. } = event { Some(*whole) } else { None };
    node.events.iter().filter_map(told).collect()
}

fn said(node: &Node, message: fn(&Message) -> bool) -> usize {
    node.sent.iter().filter(|sent| message(sent)).count()
}

#[test]
fn both_ends_of_a_space_get_each_others_logs_without_echo() {
    let mut a = Node::new("a", "b", &[("s", Direction::Both)]);
    let mut b = Node::new("b", "a", &[("s", Direction::Both)]);
    let log_a = a.append("s", "a", &["1"]);
    let log_b = b.append("s", "b", &["2"]);
    run(start(), &mut a, &mut b);
    a.append("s", "a", &["3"]);
    b.append("s", "b", &["4"]);
    run(start(), &mut a, &mut b);
    for node in [&a, &b] {
        assert_eq!(node.bodies(log_a), ["1", "3"]);
        assert_eq!(node.bodies(log_b), ["2", "4"]);
        assert!(node.session.status().spaces[0].in_sync);
        assert_eq!(node.batches_sent(), 2, "each batch crosses once");
    }
}

#[test]
fn an_end_that_holds_another_history_than_it_is_sent_is_not_in_sync() {
    let mut a = Node::new("a", "b", &[("s", Direction::Both)]);
    let mut b = Node::new("b", "a", &[("s", Direction::Both)]);
    run(start(), &mut a, &mut b);
    // A log of a third node, which both get meanwhile, each another history of it.
    (a.flushing, b.flushing) = (false, false);
    let log = a.append("s", "third", &["1"]);
    b.append("s", "third", &["other"]);
    run(start(), &mut a, &mut b);
    for node in [&a, &b] {
        assert!(!node.session.status().spaces[0].in_sync);
        assert!(node.acked(log).is_none() || node.parked(log).is_some(), "{:?}", node.events);
    }
}

/// A practice that may not relay, and a hub that lets it read: both hold a log of another practice.
fn reader_and_hub(hub_holds: bool) -> (Node, Node, LogId) {
    let grant = "[[grant]]\nnode = \"w1\"\nspace = \"s\"\nrights = [\"read\", \"write\"]";
    let mut reader = Node::new("w1", "hub", &[("s", Direction::Both)]);
    let mut hub = Node::with("hub", "w1", &[], Policy::parse(grant).unwrap(), Limits::default());
    let log = reader.append("s", "w2", &["a"]);
    if hub_holds {
        hub.append("s", "w2", &["a"]);
    }
    run(start(), &mut reader, &mut hub);
    (reader, hub, log)
}

#[test]
fn what_an_end_has_lost_is_told_of_a_log_that_the_peer_may_read_and_not_relay() {
    let (mut reader, mut hub, log) = reader_and_hub(true);
    assert_eq!(reader.acked(log), Some(Seq(1)));
    hub.logs.get_mut(&log).unwrap().lost.insert(0);
    hub.announce_logs();
    run(start(), &mut reader, &mut hub);
    let lost =
        |event: &Event| matches!(event, Event::Withdrawn { log: of, holes, .. } if *of == log && !holes.is_empty());
    assert!(reader.events.iter().any(lost), "{:?}", reader.events);
}

#[test]
fn a_log_that_is_not_named_where_all_are_is_not_there_though_the_flow_does_not_carry_it() {
    let stated = |reader: &Node, log| {
        let of_log = |event: &Event| match event {
            Event::Stated { log: of, head, .. } if *of == log => Some(head.next_seq),
            _ => None,
        };
        reader.events.iter().find_map(of_log)
    };
    let (reader, _, log) = reader_and_hub(false);
    assert_eq!(stated(&reader, log), Some(Seq::ZERO));
    let (mut reader, mut hub, log) = reader_and_hub(true);
    // More of another log, so that heads are named.
    reader.append("s", "w1", &["b"]);
    reader.reconnect();
    hub.reconnect();
    reader.events.clear();
    run(start(), &mut reader, &mut hub);
    assert_ne!(stated(&reader, log), Some(Seq::ZERO), "it was named");
}

#[test]
fn a_member_gets_the_logs_of_all_and_gives_its_own() {
    let (mut member, mut hub) = member_and_hub();
    let own = member.append("s", "p", &["own"]);
    let of_hub = hub.append("s", "hub", &["of the hub"]);
    let of_other = hub.append("s", "q", &["of another member"]);
    run(start(), &mut member, &mut hub);
    for node in [&member, &hub] {
        assert_eq!(node.bodies(own), ["own"]);
        assert_eq!(node.bodies(of_hub), ["of the hub"]);
        assert_eq!(node.bodies(of_other), ["of another member"]);
        assert_eq!(caught_up(node), [true], "{:?}", node.events);
        assert!(node.parked(of_other).is_none(), "what came from the hub need not go there: {:?}", node.events);
        assert!(node.session.status().spaces[0].in_sync);
    }
    assert_eq!(member.acked(of_other), Some(Seq(1)), "who sends it has it durable");
    assert_eq!(hub.acked(of_hub), Some(Seq(1)));
    assert_eq!(member.acked(of_hub), None, "its writer is none of those who hold it for others");
    assert!(!member.events.iter().any(|event| matches!(event, Event::Ahead { .. })), "{:?}", member.events);
}

#[test]
fn two_ends_that_are_equal_know_it_at_once_and_who_holds_what() {
    let (mut member, mut hub) = member_and_hub();
    member.append("s", "p", &["own"]);
    let of_other = hub.append("s", "q", &["of another member"]);
    run(start(), &mut member, &mut hub);
    member.reconnect();
    hub.reconnect();
    run(start(), &mut member, &mut hub);
    for node in [&member, &hub] {
        assert_eq!(caught_up(node), [true]);
        assert_eq!(said(node, |message| matches!(message, Message::Heads(_) | Message::CaughtUp(_))), 0);
    }
    assert_eq!(member.acked(of_other), Some(Seq(1)), "though this flow does not carry it");
}

#[test]
fn what_a_member_may_not_relay_is_told_unless_the_hub_has_it() {
    let (mut member, mut hub) = member_and_hub();
    let (known, unknown) = (member.append("s", "q", &["1"]), member.append("s", "r", &["2"]));
    hub.append("s", "q", &["1"]);
    run(start(), &mut member, &mut hub);
    assert!(member.parked(known).is_none(), "{:?}", member.events);
    assert_eq!(member.acked(known), Some(Seq(1)));
    let (reason, by) = member.parked(unknown).unwrap();
    assert!(reason.to_string().contains("no right to stream logs of r in s: grant `relay`"), "{reason}");
    assert_eq!(by, By::Peer);
    assert!(hub.bodies(unknown).is_empty());
}

#[test]
fn a_refused_direction_names_the_right_that_is_missing_and_the_other_goes_on() {
    for (right, missing, flow) in [
        ("read", Refusal::NoRightToStream, crate::Flow::Outgoing),
        ("write", Refusal::NoRightToRead, crate::Flow::Incoming),
    ] {
        let policy = Policy::parse(&MEMBER.replace("\"read\", \"write\"", &format!("\"{right}\""))).unwrap();
        let mut hub = Node::with("hub", "p", &[], policy, Limits::default());
        let mut member = Node::new("p", "hub", &[("s", Direction::Both)]);
        let (own, of_hub) = (member.append("s", "p", &["own"]), hub.append("s", "hub", &["of the hub"]));
        run(start(), &mut member, &mut hub);
        let refused = Event::Refused { space: space("s"), flow, reason: missing, by: By::Peer };
        assert!(member.events.contains(&refused), "{:?}", member.events);
        assert_eq!(hub.bodies(own).len() + member.bodies(of_hub).len(), 1, "{right}");
    }
}

#[test]
fn a_node_that_lost_its_data_gets_its_earlier_log_back_and_acknowledges_it() {
    let (mut member, mut hub) = member_and_hub();
    let earlier = hub.append("s", "p", &["before", "the fire"]);
    hub.append("s", "p", &["last words"]);
    run(start(), &mut member, &mut hub);
    assert_eq!(member.bodies(earlier), ["before", "the fire", "last words"]);
    assert_eq!(caught_up(&member), [true], "{:?}", hub.events);
    let acks = |message: &Message| matches!(message, Message::Ack(ack) if ack.head.next_seq == Seq(3));
    assert_eq!(said(&member, acks), 1);
    assert_eq!(hub.acked(earlier), None, "but its writer does not count among those who hold it");
}

#[test]
fn a_target_hears_that_it_has_all_only_once_it_is_durable_there() {
    let (mut member, mut hub) = member_and_hub();
    hub.append("s", "hub", &["1"]);
    member.flushing = false;
    run(start(), &mut member, &mut hub);
    assert_eq!(caught_up(&member), []);
    member.flush();
    run(start(), &mut member, &mut hub);
    assert_eq!(caught_up(&member), [true]);
    hub.append("s", "hub", &["2"]);
    member.flush();
    run(start(), &mut member, &mut hub);
    let told = |message: &Message| matches!(message, Message::CaughtUp(_));
    assert_eq!(said(&hub, told), 1, "once, not with every record");
}

#[test]
fn a_log_that_stopped_is_no_reason_to_wait_but_then_it_is_not_all() {
    let (mut member, mut hub) = member_and_hub();
    let fine = hub.append("s", "hub", &["1"]);
    let holed = hub.append("s", "q", &["2"]);
    hub.append("s", "q", &["3"]);
    hub.logs.get_mut(&holed).unwrap().trimmed = 1;
    hub.announce_logs();
    run(start(), &mut member, &mut hub);
    assert_eq!(member.bodies(fine), ["1"]);
    assert_eq!(caught_up(&member), [false], "{:?}", hub.events);
    let whole = Message::CaughtUp(CaughtUp { space: space("s"), whole: true });
    assert!(!hub.sent.contains(&whole));
}

#[test]
fn histories_that_parted_stop_at_both_ends_and_all_else_goes_on() {
    let mut a = Node::new("a", "b", &[("s", Direction::Both)]);
    let mut b = Node::new("b", "a", &[("s", Direction::Both)]);
    let parted = a.append("s", "third", &["1"]);
    b.append("s", "third", &["other"]);
    b.append("s", "third", &["more"]);
    let (log_a, log_b) = (a.append("s", "a", &["2"]), b.append("s", "b", &["3"]));
    run(start(), &mut a, &mut b);
    for node in [&a, &b] {
        assert_eq!((node.bodies(log_a), node.bodies(log_b)), (vec!["2".to_owned()], vec!["3".to_owned()]));
        assert!(matches!(node.parked(parted), Some((ParkReason::Diverged { .. }, _))), "{:?}", node.events);
        assert!(!node.session.status().spaces[0].in_sync);
    }
    assert_eq!((a.bodies(parted).len(), b.bodies(parted).len()), (1, 2), "nothing is altered");
}

#[test]
fn a_log_that_came_from_the_peer_goes_on_to_it_when_more_comes_from_elsewhere() {
    let mut a = Node::new("a", "b", &[("s", Direction::Both)]);
    let mut b = Node::new("b", "a", &[("s", Direction::Both)]);
    run(start(), &mut a, &mut b);
    let log = b.append("s", "third", &["1"]);
    run(start(), &mut a, &mut b);
    a.append("s", "third", &["2"]);
    run(start(), &mut a, &mut b);
    assert_eq!(b.bodies(log), ["1", "2"]);
    assert_eq!((a.batches_sent(), b.batches_sent()), (1, 1));
}

#[test]
fn what_a_peer_was_believed_to_hold_is_taken_back_when_it_turns_out_to_be_another_history() {
    let relay = || Policy::parse("[[grant]]\nnode = \"r\"\nspace = \"s\"\nrights = [\"relay\"]").unwrap();
    let mut hub = Node::with("hub", "r", &[], relay(), Limits::default());
    let mut liar = Node::new("r", "hub", &[("s", Direction::Send)]);
    run(start(), &mut hub, &mut liar);
    // Another session has brought the log, and it is not durable yet.
    let log = hub.append("s", "w", &["as written"]);
    hub.logs.get_mut(&log).unwrap().durable = 0;
    hub.flushing = false;
    hub.announce_logs();
    liar.append("s", "w", &["forged"]);
    run(start(), &mut hub, &mut liar);
    let of_log = hub.events.iter().filter_map(|event| match event {
        Event::Holds { head, .. } => Some(("holds", head.next_seq)),
        Event::Withdrawn { to, .. } => Some(("withdrawn", to.next_seq)),
        _ => None,
    });
    assert_eq!(of_log.collect::<Vec<_>>(), [("holds", Seq(1)), ("withdrawn", Seq::ZERO)], "{:?}", hub.events);
    assert!(matches!(hub.parked(log), Some((ParkReason::Chain { .. }, By::Local))), "{:?}", hub.events);
}

/// A log that the node writes in its present life.
pub(super) fn append_own(node: &mut Node, name: &str, bodies: &[&str]) -> LogId {
    let genesis = Genesis::new(space("s"), self::node(name), *incarnation(name).as_bytes());
    let id = genesis.log_id();
    let log = node.logs.entry(id).or_insert_with(|| ModelLog {
        genesis: Arc::new(genesis),
        batches: Vec::new(),
        durable: 0,
        trimmed: 0,
        lost: std::collections::BTreeSet::new(),
    });
    let batch = batch(id, log.head_at(log.batches.len()), bodies);
    log.batches.push(batch);
    log.durable = log.batches.len();
    node.announce_logs();
    id
}

#[test]
fn a_writer_that_was_rewound_in_the_same_life_is_told_and_nothing_of_either_history_is_altered_or_counted() {
    for jump in [false, true] {
        let (mut member, mut hub) = member_and_hub();
        let other = hub.append("s", "hub", &["of the hub"]);
        let log = append_own(&mut member, "p", &["1"]);
        append_own(&mut member, "p", &["2"]);
        append_own(&mut member, "p", &["3"]);
        run(start(), &mut member, &mut hub);
        assert_eq!((member.acked(log), hub.bodies(log)), (Some(Seq(3)), vec!["1".into(), "2".into(), "3".into()]));
        // A machine's image of a while ago, with the same identity.
        let state = member.logs.get_mut(&log).unwrap();
        state.batches.truncate(1);
        state.durable = 1;
        member.reconnect();
        hub.reconnect();
        run(start(), &mut member, &mut hub);
        let is_ahead = |event: &Event| matches!(event, Event::Ahead { log: ahead, .. } if *ahead == log);
        assert!(member.events.iter().any(is_ahead), "{:?}", member.events);
        // It goes on in ignorance, up to where the hub ends and beyond.
        if jump {
            append_own(&mut member, "p", &["2'", "3'", "4'"]);
        } else {
            ["2'", "3'", "4'"].into_iter().for_each(|body| _ = append_own(&mut member, "p", &[body]));
        }
        hub.append("s", "hub", &["more of the hub"]);
        run(start(), &mut member, &mut hub);
        assert_eq!((member.bodies(log).len(), hub.bodies(log).len()), (4, 3), "jump: {jump}");
        assert_eq!(member.acked(log), None, "jump: {jump}");
        assert!(member.parked(log).is_some() && hub.parked(log).is_some(), "jump: {jump}");
        assert_eq!(member.bodies(other), ["of the hub", "more of the hub"], "one bad log stops no other");
    }
}
