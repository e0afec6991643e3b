//! Finding out what the other end has: what it costs, and that it comes to the same whatever is remembered.

use std::collections::BTreeSet;

use counterfoil_storage::{Digest, Seq};
use proptest::prelude::*;

use super::*;
use crate::{
    error::PeerMisbehaved,
    memory::Memory,
    message::{Ack, Differing, Heads, Scope, Sketch, Wanted},
    sketch::{Cell, Estimate, LogMark},
};

/// A source and a target of one space, and what each remembers.
struct Pair {
    source: Node,
    target: Node,
    memories: [Arc<Memory>; 2],
}

/// The genesis of the log of a number, by one of three writers of which the source is one.
fn numbered(number: usize) -> Genesis {
    let mut genesis = genesis("x", ["s", "q", "t"][number % 3]);
    genesis.nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
    genesis
}

impl Node {
    /// Has a log hold `count` batches, of a history of which there is one more for each `branch`.
    fn hold(&mut self, number: usize, count: usize, branch: &str) -> LogId {
        let genesis = numbered(number);
        let id = genesis.log_id();
        let log = self.logs.entry(id).or_insert_with(|| ModelLog {
            genesis: Arc::new(genesis),
            batches: Vec::new(),
            durable: 0,
            trimmed: 0,
            lost: BTreeSet::new(),
        });
        while log.batches.len() < count {
            let body = format!("{branch}{}", log.batches.len());
            log.batches.push(batch(id, log.head_at(log.batches.len()), &[&body]));
        }
        log.durable = log.batches.len();
        self.announce_logs();
        id
    }

    fn bytes_sent(&self) -> usize {
        let mut bytes = BytesMut::new();
        let said = self.sent.iter().filter(|message| !matches!(message, Message::Hello(_) | Message::Batch(_)));
        said.for_each(|message| codec::encode(message, &mut bytes));
        bytes.len()
    }

    fn has_said(&self, what: fn(&Message) -> bool) -> bool {
        self.sent.iter().any(what)
    }
}

fn is_sketch(message: &Message) -> bool {
    matches!(message, Message::Sketch(_))
}

/// Of how many logs the source has asked for the heads after a sketch.
fn asked_for(source: &Node) -> Option<usize> {
    source.sent.iter().find_map(|message| match message {
        Message::Differing(Differing { wanted: Wanted::Logs(logs), .. }) => Some(logs.len()),
        _ => None,
    })
}

fn is_since_heard(message: &Message) -> bool {
    matches!(message, Message::Heads(Heads { since_heard: true, .. }))
}

impl Pair {
    fn new(rights: &str, direction: Direction, heads_at_once_max: usize) -> Self {
        let policy = Policy::parse(&format!("[[grant]]\nnode = \"s\"\nspace = \"x\"\nrights = [{rights}]")).unwrap();
        let limits = Limits { heads_at_once_max, ..Limits::default() };
        let source = Node::with("s", "t", &[("x", direction)], Policy::nothing(), limits.clone());
        let target = Node::with("t", "s", &[], policy, limits);
        let mut pair = Self { source, target, memories: [Arc::default(), Arc::default()] };
        pair.remember();
        pair
    }

    /// A source that mirrors all it has.
    fn mirror(heads_at_once_max: usize) -> Self {
        Self::new("\"relay\"", Direction::Send, heads_at_once_max)
    }

    fn remember(&mut self) {
        self.source.session.remember_in(&self.memories[0]);
        self.target.session.remember_in(&self.memories[1]);
    }

    fn reconnect(&mut self) {
        self.source.reconnect();
        self.target.reconnect();
        self.remember();
    }

    fn hold(&mut self, number: usize, [source, target]: [usize; 2]) {
        self.source.hold(number, source, "");
        self.target.hold(number, target, "");
    }

    fn run(&mut self) {
        run(start(), &mut self.source, &mut self.target);
    }

    /// Carries so many messages, and loses what is under way then.
    fn run_and_cut(&mut self, messages: usize) {
        let now = start();
        for round in 0..messages {
            self.source.serve(now);
            self.target.serve(now);
            let (from, to) = match round % 2 {
                0 => (&mut self.source, &mut self.target),
                _ => (&mut self.target, &mut self.source),
            };
            // Said, and perhaps never heard.
            let said: Vec<_> = std::iter::from_fn(|| from.transmit()).collect();
            let heard = if round + 2 < messages { said.len() } else { said.len() / 2 };
            said.into_iter().take(heard).for_each(|message| to.handle(now, message).unwrap());
        }
    }

    /// Messages of either end, one after the other, until the first batch leaves the source: how often the line is passed.
    fn passes_to_first_batch(&mut self) -> usize {
        let now = start();
        for pass in 0.. {
            assert!(pass < 20, "no batch comes");
            self.source.serve(now);
            self.target.serve(now);
            let (from, to) = match pass % 2 {
                0 => (&mut self.source, &mut self.target),
                _ => (&mut self.target, &mut self.source),
            };
            let said: Vec<_> = std::iter::from_fn(|| from.transmit()).collect();
            if said.iter().any(|message| matches!(message, Message::Batch(_))) {
                return pass;
            }
            said.into_iter().for_each(|message| to.handle(now, message).unwrap());
        }
        unreachable!()
    }
}

/// What two ends have come to, whatever they said on the way.
#[derive(Debug, PartialEq)]
struct Outcome {
    bodies: [Vec<Vec<String>>; 2],
    stopped: [Vec<String>; 2],
    in_sync: [bool; 2],
    lag_records: [u64; 2],
    /// As each end knows it of the other.
    acked: [BTreeMap<LogId, Head>; 2],
    /// As each end was told, first and last.
    stated: [BTreeMap<LogId, Head>; 2],
    counted: [BTreeMap<LogId, (Head, Holes)>; 2],
    caught_up: [Option<bool>; 2],
}

fn outcome(pair: &Pair) -> Outcome {
    let ends = [&pair.source, &pair.target];
    let spaces = ends.map(|end| end.session.status().spaces.into_iter().next().unwrap());
    let mut stopped = ends.map(|end| {
        let stopped = end.events.iter().filter_map(|event| match event {
            Event::Parked { .. } | Event::Ahead { .. } | Event::Refused { .. } | Event::Withdrawn { .. } => {
                Some(format!("{event:?}"))
            }
            _ => None,
        });
        stopped.collect::<Vec<_>>()
    });
    stopped.iter_mut().for_each(|stopped| stopped.sort());
    Outcome {
        bodies: ends.map(|end| end.logs.keys().map(|id| end.bodies(*id)).collect()),
        stopped,
        in_sync: [spaces[0].in_sync, spaces[1].in_sync],
        lag_records: [spaces[0].lag_records, spaces[1].lag_records],
        acked: spaces.map(|space| space.acked.into_iter().collect()),
        stated: ends.map(|end| {
            let stated = end.events.iter().rev().filter_map(|event| match event {
                Event::Stated { log, head, .. } => Some((*log, *head)),
                _ => None,
            });
            stated.collect()
        }),
        counted: ends.map(|end| {
            let counted = end.events.iter().filter_map(|event| match event {
                Event::Acked { log, head, holes, .. } => Some((*log, (*head, holes.clone()))),
                Event::Holds { log, head, .. } => Some((*log, (*head, Holes::default()))),
                _ => None,
            });
            counted.collect()
        }),
        caught_up: ends.map(|end| {
            end.events.iter().rev().find_map(|event| match event {
                Event::CaughtUp { whole, .. } => Some(*whole),
                _ => None,
            })
        }),
    }
}

#[test]
fn two_ends_that_are_equal_know_it_at_half_a_round_trip_and_within_100_bytes() {
    let mut pair = Pair::mirror(256);
    (0..1000).for_each(|number| pair.hold(number, [2, 2]));
    pair.reconnect();
    for round in 0..2 {
        pair.run();
        assert_eq!(pair.source.sent.len() + pair.target.sent.len(), 4, "{:?}", pair.source.sent);
        let bytes = pair.source.bytes_sent() + pair.target.bytes_sent();
        assert!(bytes <= 100, "round {round}: {bytes}");
        assert!(pair.source.session.status().spaces[0].in_sync);
        pair.reconnect();
    }
}

#[test]
fn two_ends_that_write_the_same_space_and_are_equal_know_it_within_100_bytes_both_ways() {
    let mut ends = [("a", "b"), ("b", "a")].map(|(own, peer)| Node::new(own, peer, &[("practice", Direction::Both)]));
    for end in &mut ends {
        for writer in ["a", "b"] {
            end.append("practice", writer, &["1"]);
        }
        end.reconnect();
    }
    let [a, b] = &mut ends;
    run(start(), a, b);
    for end in [&*a, &*b] {
        assert!(end.session.status().spaces[0].in_sync);
        let said: Vec<_> = end.sent.iter().skip(1).collect();
        assert!(matches!(said[..], [Message::Exchange(_), Message::Equal(_)]), "{said:?}");
    }
    let bytes = a.bytes_sent() + b.bytes_sent();
    assert!(bytes <= 100, "{bytes}");
}

#[test]
fn what_the_source_has_more_of_begins_to_flow_after_one_round_trip_and_nothing_is_named() {
    let mut pair = Pair::mirror(256);
    (0..1000).for_each(|number| pair.hold(number, [2, 2]));
    pair.run();
    pair.source.hold(0, 3, "");
    pair.run();
    pair.reconnect();
    (0..10).for_each(|number| pair.hold(number * 7, [4, 2]));
    assert_eq!(pair.passes_to_first_batch(), 2);
    assert!(pair.target.has_said(is_since_heard) && pair.target.bytes_sent() <= 100, "{}", pair.target.bytes_sent());
    pair.reconnect();
    pair.run();
    assert_eq!(pair.source.batches_sent(), 20 - 1);
    assert!(pair.source.session.status().spaces[0].in_sync);
}

#[test]
fn of_what_has_changed_at_the_target_each_log_costs_64_bytes_at_most() {
    let mut pair = Pair::mirror(256);
    (0..1000).for_each(|number| pair.hold(number, [3, 2]));
    pair.run();
    for (round, changed) in [1, 10, 100, 700].into_iter().enumerate() {
        pair.reconnect();
        (0..changed).for_each(|number| pair.hold(number, [5 + round, 4 + round]));
        pair.source.hold(999, 5 + round, "");
        assert_eq!(pair.passes_to_first_batch(), 2, "one round trip");
        assert!(pair.target.has_said(is_since_heard));
        let bytes = pair.target.bytes_sent();
        assert!(bytes <= 64 * changed + 100, "{changed} changed: {bytes} bytes");
        pair.reconnect();
        pair.run();
        assert!(pair.source.session.status().spaces[0].in_sync);
    }
}

#[test]
fn two_ends_that_have_never_met_name_only_what_differs_and_what_is_behind_flows_after_one_round_trip() {
    let mut pair = Pair::mirror(256);
    (0..2000).for_each(|number| pair.hold(number, [2, 2]));
    (0..6).for_each(|number| pair.hold(number * 100, [3, 2]));
    pair.hold(2001, [1, 0]);
    pair.hold(2002, [0, 1]);
    pair.reconnect();
    assert_eq!(pair.passes_to_first_batch(), 2, "one round trip");
    assert!(pair.target.has_said(is_sketch));
    pair.reconnect();
    pair.run();
    assert_eq!(asked_for(&pair.source), Some(1), "of what is at the target alone");
    let heads = pair.target.sent.iter().map(|message| match message {
        Message::Heads(heads) => heads.heads.len(),
        _ => 0,
    });
    assert_eq!(heads.sum::<usize>(), 1);
    assert_eq!(pair.source.batches_sent(), 7);
    assert!(pair.source.session.status().spaces[0].in_sync);
}

#[test]
fn where_much_differs_a_larger_sketch_tells_it_and_where_most_does_all_heads() {
    for (changed, sketches, heads) in [(5, 1, 0..1), (150, 2, 0..1), (900, 1, 1000..1001)] {
        let mut pair = Pair::mirror(256);
        (0..1000).for_each(|number| pair.hold(number, [2, 2]));
        (0..changed).for_each(|number| pair.hold(number, [3, 2]));
        pair.reconnect();
        pair.run();
        assert_eq!(pair.target.sent.iter().filter(|message| is_sketch(message)).count(), sketches, "{changed}");
        let named = pair.target.sent.iter().map(|message| match message {
            Message::Heads(heads) => heads.heads.len(),
            _ => 0,
        });
        assert!(heads.contains(&named.sum::<usize>()), "{changed}");
        assert_eq!(pair.source.batches_sent(), changed);
        assert!(pair.source.session.status().spaces[0].in_sync);
    }
}

#[test]
fn of_strangers_each_log_that_differs_costs_64_bytes_at_most() {
    for changed in [6, 120] {
        let mut pair = Pair::mirror(256);
        (0..800).for_each(|number| pair.hold(number, [2, 2]));
        (0..changed).for_each(|number| pair.hold(number, [3, 2]));
        pair.reconnect();
        pair.run();
        let mut bytes = BytesMut::new();
        let said = pair.source.sent.iter().chain(&pair.target.sent);
        let said = said.filter(|said| matches!(said, Message::Sketch(_) | Message::Differing(_) | Message::Heads(_)));
        said.for_each(|message| codec::encode(message, &mut bytes));
        let bytes = bytes.len();
        assert!(bytes <= 64 * changed + 260, "{changed}: {bytes}");
    }
}

#[test]
fn what_changes_while_it_is_looked_for_where_a_log_ends_at_the_target_is_asked_for() {
    let mut pair = Pair::new("\"read\", \"relay\"", Direction::Both, 0);
    (0..40).for_each(|number| pair.hold(number, [1, 1]));
    pair.hold(3, [4, 2]);
    pair.hold(4, [4, 2]);
    pair.reconnect();
    let now = start();
    for pass in 0.. {
        assert!(pass < 9, "no sketch comes");
        pair.source.serve(now);
        pair.target.serve(now);
        while let Some(message) = pair.source.transmit() {
            pair.target.handle(now, message).unwrap();
        }
        let said: Vec<_> = std::iter::from_fn(|| pair.target.transmit()).collect();
        let is_last = said.iter().any(is_sketch);
        for message in said {
            // Nothing is read here yet.
            pair.source.session.handle_message(now, message).unwrap();
        }
        if is_last {
            break;
        }
    }
    // Another node gives the target what it lacks of one log, and it says so.
    let log = pair.target.hold(3, 3, "");
    pair.target.serve(now);
    let said: Vec<_> = std::iter::from_fn(|| pair.target.transmit()).collect();
    assert!(said.iter().any(|message| matches!(message, Message::Ack(_) | Message::Batch(_) | Message::Announce(_))));
    said.into_iter().for_each(|message| pair.source.session.handle_message(now, message).unwrap());
    pair.source.serve(now);
    pair.run();
    assert_eq!(asked_for(&pair.source), Some(1));
    assert_eq!((pair.target.bodies(log).len(), pair.target.bodies(numbered(4).log_id()).len()), (4, 4));
    assert!(pair.source.session.status().spaces[0].in_sync);
}

#[test]
fn another_history_of_a_log_is_told_with_its_head_also_where_a_sketch_told_of_it() {
    for (here, there) in [(3, 2), (2, 2), (2, 3)] {
        let mut pair = Pair::mirror(0);
        (0..40).for_each(|number| pair.hold(number, [2, 2]));
        pair.source.hold(50, here, "");
        let log = pair.target.hold(50, there, "other");
        pair.reconnect();
        let head = pair.target.logs[&log].head_at(there);
        pair.run();
        let is_told = |event: &Event| match event {
            Event::Parked { log: of, reason: ParkReason::Diverged { target_head, .. }, .. } => {
                (*of, *target_head) == (log, head)
            }
            Event::Ahead { log: of, remote, .. } => (*of, *remote) == (log, head),
            _ => false,
        };
        assert!(pair.source.events.iter().any(is_told), "{here} {there}: {:?}", pair.source.events);
        assert_eq!(asked_for(&pair.source), Some(1));
    }
}

#[test]
fn acks_that_were_lost_on_the_way_cost_only_the_logs_they_were_of() {
    let mut pair = Pair::mirror(0);
    (0..400).for_each(|number| pair.hold(number, [2, 2]));
    pair.run();
    (0..5).for_each(|number| pair.hold(number, [3, 2]));
    // The batches arrive, the acks are lost.
    let now = start();
    pair.source.serve(now);
    while let Some(message) = pair.source.transmit() {
        pair.target.handle(now, message).unwrap();
    }
    while pair.target.transmit().is_some() {}
    pair.reconnect();
    (0..5).for_each(|number| pair.hold(number, [4, 3]));
    pair.hold(6, [3, 2]);
    pair.run();
    assert!(pair.target.has_said(is_sketch), "it has said more than was heard");
    assert_eq!(asked_for(&pair.source), Some(0));
    assert_eq!(pair.source.batches_sent(), 6);
}

#[test]
fn a_target_that_was_restarted_is_known_by_what_it_holds() {
    let mut pair = Pair::mirror(256);
    (0..500).for_each(|number| pair.hold(number, [2, 2]));
    pair.hold(500, [2, 1]);
    pair.run();
    pair.memories[1] = Arc::default();
    pair.reconnect();
    pair.source.hold(500, 3, "");
    pair.run();
    assert!(pair.target.has_said(is_since_heard));
    assert_eq!(pair.source.batches_sent(), 1);
}

#[test]
fn a_hole_is_told_before_an_answer_that_builds_on_what_was_heard() {
    let mut pair = Pair::mirror(256);
    (0..20).for_each(|number| pair.hold(number, [2, 2]));
    pair.run();
    let holed = pair.target.hold(3, 2, "");
    pair.target.rot(holed, [0]);
    pair.reconnect();
    pair.source.hold(5, 3, "");
    // It may not ask the source for it.
    pair.source.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    let now = start();
    pair.source.serve(now);
    while let Some(message) = pair.source.transmit() {
        pair.target.handle(now, message).unwrap();
    }
    let said: Vec<_> = std::iter::from_fn(|| pair.target.transmit()).collect();
    let position = |what: fn(&Message) -> bool| said.iter().position(what).unwrap();
    assert!(position(|message| matches!(message, Message::Ack(_))) < position(is_since_heard));
    said.into_iter().for_each(|message| pair.source.handle(now, message).unwrap());
    let counted = outcome(&pair).counted[0][&holed].clone();
    assert!(!counted.1.is_empty(), "{counted:?}");
}

#[test]
fn a_hole_that_is_mended_while_an_answer_is_on_its_way_is_taken_back() {
    let mut pair = Pair::mirror(256);
    (0..20).for_each(|number| pair.hold(number, [2, 1]));
    let holed = pair.target.hold(3, 1, "");
    pair.target.rot(holed, [0]);
    pair.reconnect();
    let now = start();
    pair.source.serve(now);
    while let Some(message) = pair.source.transmit() {
        pair.target.session.handle_message(now, message).unwrap();
        while let Some(space) = pair.target.session.poll_load() {
            pair.target.load(&space);
        }
    }
    let mut told = Vec::new();
    while let Some(message) = pair.target.transmit() {
        if let Message::Ack(ack) = message {
            told.push(ack.holes.is_empty());
            pair.target.logs.get_mut(&holed).unwrap().lost.clear();
            pair.target.announce_logs();
        }
    }
    assert_eq!(told, [false, true]);
}

/// Carries all but what the source says to a sketch, which is given back.
fn run_but_differing(pair: &mut Pair) -> Vec<Message> {
    let (now, mut held) = (start(), Vec::new());
    loop {
        pair.source.serve(now);
        pair.target.serve(now);
        let (from_source, from_target) = (pair.source.transmit(), pair.target.transmit());
        match from_source {
            Some(message @ Message::Differing(_)) => held.push(message),
            Some(message) => pair.target.handle(now, message).unwrap(),
            None if from_target.is_none() => return held,
            None => {}
        }
        if let Some(message) = from_target {
            pair.source.handle(now, message).unwrap();
        }
    }
}

#[test]
fn what_comes_to_the_target_while_its_answer_is_coming_in_is_not_taken_for_lacking() {
    let mut pair = Pair::new("\"read\", \"relay\"", Direction::Both, 0);
    (0..40).for_each(|number| pair.hold(number, [1, 1]));
    pair.hold(3, [2, 1]);
    pair.reconnect();
    let held = run_but_differing(&mut pair);
    assert_eq!(held.len(), 1);
    let news: Vec<_> = (50..62).map(|number| pair.target.hold(number, 1, "")).collect();
    assert!(run_but_differing(&mut pair).is_empty());
    held.into_iter().for_each(|message| pair.target.handle(start(), message).unwrap());
    pair.run();
    for log in news {
        assert_eq!(pair.source.bodies(log), ["0"]);
        assert!(pair.target.session.status().spaces[0].in_sync);
    }
    let untrue = |event: &&Event| match event {
        Event::Stated { log, head, .. } => *head != pair.target.logs[log].head_at(1),
        event => matches!(event, Event::Withdrawn { .. } | Event::Parked { .. }),
    };
    assert_eq!(pair.source.events.iter().find(untrue), None);
    assert_eq!(pair.source.batches_sent(), 1, "nothing goes back where it came from");
    assert!(pair.source.session.status().spaces[0].in_sync);
}

#[test]
fn acks_that_are_passed_on_while_an_answer_is_coming_in_are_heard() {
    let mut pair = Pair::mirror(0);
    (0..40).for_each(|number| pair.hold(number, [1, 1]));
    pair.hold(3, [2, 1]);
    pair.reconnect();
    let held = run_but_differing(&mut pair);
    for number in 0..40 {
        let log = numbered(number).log_id();
        let head = pair.target.logs[&log].head_at(1);
        let (node, incarnation, holes) = (node("far"), incarnation("far"), Holes::default());
        pair.target.session.handle_acked_elsewhere(&Ack {
            log,
            node,
            incarnation,
            head,
            holes,
            via: Vec::new(),
            losses: 0,
        });
    }
    run_but_differing(&mut pair);
    held.into_iter().for_each(|message| pair.target.handle(start(), message).unwrap());
    pair.run();
    let of_far = |event: &&Event| matches!(event, Event::Acked { node: by, .. } if *by == node("far"));
    assert_eq!(pair.source.events.iter().filter(of_far).count(), 40);
}

#[test]
fn acks_that_are_passed_on_after_a_sketch_that_told_nothing_are_passed_on_again() {
    // More cells tell what differs of many logs; of few all heads are named.
    for logs in [40, 400] {
        let mut pair = Pair::mirror(0);
        (0..logs).for_each(|number| pair.hold(number, [2, if number < 40 { 1 } else { 2 }]));
        pair.reconnect();
        let held = run_but_differing(&mut pair);
        assert!(matches!(&held[..], [Message::Differing(Differing { wanted: Wanted::More(_), .. })]), "{held:?}");
        let ack = |log, head| {
            let (node, incarnation, holes) = (node("far"), incarnation("far"), Holes::default());
            Ack { log, node, incarnation, head, holes, via: Vec::new(), losses: 0 }
        };
        let pass_on = |pair: &mut Pair| {
            while let Some(log) = pair.target.session.poll_opened() {
                let head = pair.target.logs[&log].head_at(1);
                pair.target.session.handle_acked_elsewhere(&ack(log, head));
            }
        };
        // The source can't tell yet whether the target carries them.
        pass_on(&mut pair);
        run_but_differing(&mut pair);
        held.into_iter().for_each(|message| pair.target.handle(start(), message).unwrap());
        pair.run();
        pass_on(&mut pair);
        pair.run();
        let of_far = pair.source.events.iter().filter_map(|event| match event {
            Event::Acked { node: by, log, .. } if *by == node("far") => Some(*log),
            _ => None,
        });
        assert_eq!(of_far.collect::<BTreeSet<_>>().len(), logs);
    }
}

#[test]
fn an_answer_that_crossed_with_another_offer_is_not_taken_for_the_answer_to_that() {
    let granted = || Policy::parse("[[grant]]\nnode = \"t\"\nspace = \"x\"\nrights = [\"read\"]").unwrap();
    for (heads_at_once_max, remembers) in [(0, false), (256, true), (256, false)] {
        let limits = Limits { heads_at_once_max, ..Limits::default() };
        let mut pair = Pair::mirror(256);
        pair.source = Node::with("s", "t", &[], granted(), limits.clone());
        pair.target = Node::with("t", "s", &[("x", Direction::Receive)], Policy::nothing(), limits);
        (0..40).for_each(|number| pair.hold(number, [2, 2]));
        pair.hold(0, [3, 2]);
        if remembers {
            pair.run();
        }
        pair.reconnect();
        (0..40).for_each(|number| pair.hold(number, [4, if number % 2 == 0 { 4 } else { 3 }]));
        let now = start();
        // The offer leaves, and the answer is on its way.
        for _ in 0..2 {
            pair.target.serve(now);
            while let Some(message) = pair.target.transmit() {
                pair.source.handle(now, message).unwrap();
            }
            while let Some(message) = pair.source.transmit() {
                pair.target.handle(now, message).unwrap();
            }
            if pair.source.has_said(|message| matches!(message, Message::Offer(_))) {
                break;
            }
        }
        assert!(pair.source.has_said(|message| matches!(message, Message::Offer(_))));
        pair.source.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
        pair.source.session.handle_policy(Arc::new(granted())).unwrap();
        pair.run();
        let bodies = |node: &Node| node.logs.keys().map(|id| node.bodies(*id)).collect::<Vec<_>>();
        assert_eq!(bodies(&pair.source), bodies(&pair.target));
        assert!(pair.source.session.status().spaces[0].in_sync);
        let offers = pair.source.sent.iter().filter(|message| matches!(message, Message::Offer(_))).count();
        assert_eq!(offers, 2);
    }
}

#[test]
fn answers_that_build_on_nothing_and_sketches_that_nobody_asked_for_are_named_errors() {
    let misbehaviour = |pair: &mut Pair, message| match pair.source.handle(start(), message) {
        Err(SessionError::PeerMisbehaved { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let (space, scope, told) = (space("x"), Scope::All, Scope::All);
    let unexpected = PeerMisbehaved::UnexpectedAnswer { space: space.clone() };
    let heads = |since_heard, first| {
        let (space, heads) = (space.clone(), Vec::new());
        Message::Heads(Heads { space, scope, told, heads, since_heard, first, last: true })
    };
    let sketch = |count| {
        let (space, cells) = (space.clone(), vec![Cell::default(); count]);
        Message::Sketch(Sketch { space, scope, told, cells })
    };
    let begun = || {
        let mut pair = Pair::mirror(256);
        pair.hold(0, [1, 1]);
        pair.source.serve(start());
        let hello = pair.target.transmit().unwrap();
        pair.source.handle(start(), hello).unwrap();
        pair
    };
    assert_eq!(misbehaviour(&mut begun(), heads(true, true)), unexpected, "nothing was heard");
    let mut pair = begun();
    // It says that nothing is there.
    pair.source.handle(start(), sketch(24)).unwrap();
    assert_eq!(misbehaviour(&mut pair, sketch(24)), unexpected, "once for each offer");
    let mut pair = begun();
    // Nothing, and nothing again.
    for _ in 0..2 {
        pair.source.handle(start(), sketch(0)).unwrap();
    }
    let wanted = std::iter::from_fn(|| pair.source.transmit()).filter_map(|message| match message {
        Message::Differing(Differing { wanted, .. }) => Some(wanted),
        _ => None,
    });
    assert!(matches!(&wanted.collect::<Vec<_>>()[..], [Wanted::More(_), Wanted::All]));

    let offered = || {
        let mut pair = Pair::mirror(0);
        (0..40).for_each(|number| pair.hold(number, [2, 1]));
        pair.source.serve(start());
        while let Some(message) = pair.source.transmit() {
            pair.target.handle(start(), message).unwrap();
        }
        assert!(std::iter::from_fn(|| pair.target.transmit()).any(|message| is_sketch(&message)));
        pair.target
    };
    let differing = |wanted| Message::Differing(Differing { space: space.clone(), wanted });
    let marks = |bytes: &[u8]| Wanted::Logs(bytes.iter().map(|byte| LogMark::from_bytes([*byte; 8])).collect());
    for wrong in [&[2, 1][..], &[1, 1]] {
        let handled = offered().handle(start(), differing(marks(wrong)));
        let Err(SessionError::PeerMisbehaved { what: PeerMisbehaved::OutOfRange { field, .. }, .. }) = handled else {
            panic!("{handled:?}");
        };
        assert_eq!(field, "the order of logs that differ");
    }
    let heads = |target: &mut Node| {
        let heads = std::iter::from_fn(|| target.transmit()).filter(|message| matches!(message, Message::Heads(_)));
        heads.count()
    };
    let mut target = offered();
    target.handle(start(), differing(marks(&[1]))).unwrap();
    target.handle(start(), differing(marks(&[2]))).unwrap();
    assert_eq!(heads(&mut target), 1, "what nobody asked is of no use");
    // An estimate of nonsense gets all heads, or a sketch, and after that all heads.
    for counters in [vec![], vec![i32::MIN; 64], vec![i32::MAX; 64]] {
        let mut target = offered();
        for _ in 0..3 {
            target.handle(start(), differing(Wanted::More(Estimate::of(counters.clone())))).unwrap();
        }
        assert_eq!(heads(&mut target), 1);
    }
}

/// A log: batches at source and target when they first met, how many more later, whether the target's history parts.
type Holding = (usize, [usize; 2], [usize; 2], bool, bool);

fn holding() -> impl Strategy<Value = Holding> {
    let grows = prop_oneof![3 => Just([0, 0]), 1 => [0_usize..3, 0..3]];
    (0_usize..60, [0_usize..3, 0..3], grows, prop::bool::weighted(0.05), prop::bool::weighted(0.1))
}

/// What a memory is made to say that was never said.
fn lies() -> impl Strategy<Value = Vec<(usize, u64, u8)>> {
    prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec((0_usize..60, 0_u64..4, 0_u8..3), 1..5)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_same_frontiers_come_to_the_same_whatever_is_remembered(
        holdings in prop::collection::vec(holding(), 0..25),
        rights in prop_oneof!["\"write\"", "\"relay\"", "\"read\", \"write\"", "\"read\", \"relay\""],
        two_ways in any::<bool>(),
        heads_at_once_max in prop_oneof![Just(0), Just(256)],
        messages in 0_usize..12,
        forgets in any::<[bool; 2]>(),
        wrong in [lies(), lies()],
    ) {
        let direction = if two_ways { Direction::Both } else { Direction::Send };
        let mut pair = Pair::new(&rights, direction, heads_at_once_max);
        for (number, met, _, parts, _) in &holdings {
            pair.source.hold(*number, met[0], "");
            pair.target.hold(*number, met[1], if *parts { "other" } else { "" });
        }
        pair.run_and_cut(messages);
        for (number, _, grown, _, rots) in &holdings {
            for (node, more) in [(&mut pair.source, grown[0]), (&mut pair.target, grown[1])] {
                let count = node.logs.get(&numbered(*number).log_id()).map_or(0, |log| log.durable);
                node.hold(*number, count + more, "");
            }
            let id = numbered(*number).log_id();
            if *rots && pair.target.logs[&id].durable > 0 {
                pair.target.rot(id, [0]);
            }
        }
        for (index, peer) in ["t", "s"].into_iter().enumerate() {
            let statements = pair.memories[index].of(&node(peer), &space("x"));
            for (number, next_seq, digest) in &wrong[index] {
                let head = Head { next_seq: Seq(*next_seq), digest: Digest::from_bytes([*digest; 32]) };
                statements.heard().note(numbered(*number).log_id(), head);
                statements.stated().note(numbered(*number).log_id(), head);
            }
            if forgets[index] {
                pair.memories[index] = Arc::default();
            }
        }
        pair.reconnect();

        let mut model = Pair::new(&rights, direction, usize::MAX);
        (model.source.logs, model.target.logs) = (pair.source.logs.clone(), pair.target.logs.clone());
        model.reconnect();
        pair.run();
        model.run();
        prop_assert_eq!(outcome(&pair), outcome(&model));
    }
}

#[test]
fn the_model_of_the_property_says_all_and_what_is_tested_does_not() {
    for (heads_at_once_max, what) in [(0, is_sketch as fn(&Message) -> bool), (256, is_since_heard)] {
        let mut pair = Pair::mirror(heads_at_once_max);
        (0..30).for_each(|number| pair.hold(number, [2, 1]));
        if heads_at_once_max > 0 {
            pair.run();
            pair.reconnect();
            pair.hold(0, [3, 2]);
        }
        pair.run();
        assert!(pair.target.has_said(what));
    }
}

#[test]
fn a_memory_that_fits_by_chance_is_none() {
    // Both ends remember the same lie: that the target has more than it has.
    let mut pair = Pair::mirror(256);
    pair.hold(0, [3, 1]);
    let id = numbered(0).log_id();
    let head = pair.source.logs[&id].head_at(3);
    pair.memories[0].of(&node("t"), &space("x")).heard().begin(Scope::All);
    pair.memories[0].of(&node("t"), &space("x")).heard().note(id, head);
    pair.memories[1].of(&node("s"), &space("x")).stated().begin(Scope::All);
    pair.memories[1].of(&node("s"), &space("x")).stated().note(id, head);
    pair.reconnect();
    pair.run();
    assert_eq!(pair.target.bodies(id).len(), 3, "what differs from what was remembered is named");
    assert_eq!(pair.source.batches_sent(), 2);
}

/// The source comes by a log while the target's answer is coming in: what the target had said of it before was dropped.
#[test]
fn what_was_said_of_a_log_before_the_source_had_it_is_said_again_once_it_is_named() {
    let mut pair = Pair::mirror(0);
    (0..40).for_each(|number| pair.hold(number, [1, 1]));
    pair.hold(7, [1, 2]);
    let log = pair.target.hold(52, 3, "");
    pair.target.rot(log, [1]);
    let held = run_but_differing(&mut pair);
    assert!(!held.is_empty(), "the answer is a sketch");
    let (far, head) = (node("far"), pair.target.logs[&log].head_at(3));
    let far_s = Ack {
        log,
        node: far.clone(),
        incarnation: incarnation("far"),
        head,
        holes: Holes::default(),
        via: vec![],
        losses: 0,
    };
    pair.target.session.handle_acked_elsewhere(&far_s);
    run_but_differing(&mut pair);
    pair.source.hold(52, 3, "");
    pair.source.announce_logs();
    held.into_iter().for_each(|message| pair.target.handle(start(), message).unwrap());
    pair.run();
    let opened: Vec<_> = std::iter::from_fn(|| pair.target.session.poll_opened()).collect();
    assert!(opened.contains(&log), "its acks are asked for anew");
    pair.target.session.handle_acked_elsewhere(&far_s);
    pair.run();
    let last_of = |by: &NodeName| {
        let mut said = pair.source.events.iter().filter_map(|event| match event {
            Event::Acked { log: of, node, holes, head, .. } if (of, node) == (&log, by) => Some((*head, holes.clone())),
            Event::Withdrawn { log: of, node, holes, to, .. } if (of, node) == (&log, by) => Some((*to, holes.clone())),
            _ => None,
        });
        said.next_back()
    };
    let (_, holes) = last_of(&node("t")).expect("the target has acknowledged it");
    assert_eq!(holes.iter().collect::<Vec<_>>(), [(Seq(1), Seq(2))], "what it lacks is known");
    assert_eq!(last_of(&far), Some((head, Holes::default())), "and who else has it");
}

#[test]
fn what_the_target_lacks_of_logs_that_the_source_may_not_stream_is_told_too() {
    let granted = Policy::parse("[[grant]]\nnode = \"s\"\nspace = \"x\"\nrights = [\"read\", \"write\"]").unwrap();
    let mut pair = Pair::mirror(256);
    pair.source = Node::with("s", "t", &[("x", Direction::Send)], Policy::nothing(), Limits::default());
    pair.target = Node::with("t", "s", &[], granted, Limits::default());
    // Of a third node.
    pair.hold(1, [3, 3]);
    let log = numbered(1).log_id();
    pair.target.rot(log, [1]);
    pair.run();
    let said = pair.source.events.iter().filter_map(|event| match event {
        Event::Acked { log: of, holes, .. } | Event::Withdrawn { log: of, holes, .. } if *of == log => Some(holes),
        _ => None,
    });
    let lacks: Vec<Vec<_>> = said.map(|holes| holes.iter().collect()).collect();
    assert!(pair.target.logs[&log].lost.is_empty(), "the source had it");
    assert_eq!(lacks, [vec![(Seq(1), Seq(2))], vec![]], "and then it lacks nothing");
}
