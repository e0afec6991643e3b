//! What one end has lost and the other end has.

use counterfoil_storage::Seq;

use super::*;
use crate::{
    error::PeerMisbehaved,
    event::NotMended,
    message::{Mend, MendEnd, MendOutcome},
};

fn grant(rights: &str) -> Policy {
    Policy::parse(&format!("[[grant]]\nnode = \"p\"\nspace = \"p\"\nrights = [{rights}]")).unwrap()
}

/// A practice with six batches that are mirrored to a hub.
fn mirrored() -> (Node, Node, LogId) {
    let (mut practice, mut hub) = practice_and_hub();
    let bodies = ["a", "b", "c", "d", "e", "f"];
    let log = genesis("p", "p").log_id();
    for body in bodies {
        practice.append("p", "p", &[body, "more"]);
    }
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.logs[&log].durable, bodies.len());
    (practice, hub, log)
}

/// The holes of the last thing that was told of a log that the peer holds.
fn known_holes(node: &Node, id: LogId) -> Vec<(u64, u64)> {
    let told = node.events.iter().rev().find_map(|event| match event {
        Event::Acked { log, holes, .. } | Event::Withdrawn { log, holes, .. } if *log == id => Some(holes),
        _ => None,
    });
    told.unwrap().iter().map(|(first, next)| (first.0, next.0)).collect()
}

fn not_mended(node: &Node) -> Vec<NotMended> {
    node.events
        .iter()
        .filter_map(|event| if let Event::NotMended { reason, .. } = event { Some(*reason) } else { None })
        .collect()
}

fn mended(node: &Node) -> Vec<(u64, u64)> {
    let ranges = node.events.iter().filter_map(|event| match event {
        Event::Mended { first_seq, next_seq, .. } => Some((first_seq.0, next_seq.0)),
        _ => None,
    });
    ranges.collect()
}

#[test]
fn a_target_that_finds_a_hole_takes_its_ack_back_and_is_mended_by_its_source() {
    let (mut practice, mut hub, log) = mirrored();
    let now = start();
    hub.rot(log, [1, 2, 4]);
    // Nothing of the mending is heard yet: the ack is.
    let withdrawn = std::iter::from_fn(|| hub.transmit()).find(|message| matches!(message, Message::Ack(_))).unwrap();
    practice.handle(now, withdrawn).unwrap();
    assert_eq!(known_holes(&practice, log), [(2, 6), (8, 10)]);
    assert!(matches!(practice.events.last(), Some(Event::Withdrawn { from, to, .. }) if from == to));
    assert!(!practice.session.status().spaces[0].in_sync);
    let (mut practice, mut hub, log) = mirrored();
    hub.rot(log, [1, 2, 4]);
    run(now, &mut practice, &mut hub);
    assert!(hub.logs[&log].lost.is_empty());
    assert_eq!(mended(&hub), [(2, 6), (8, 10)]);
    assert!(known_holes(&practice, log).is_empty());
    assert!(practice.session.status().spaces[0].in_sync);
    let withdrawals = practice.events.iter().filter(|event| matches!(event, Event::Withdrawn { .. })).count();
    assert_eq!(withdrawals, 1);
}

#[test]
fn what_was_lost_before_the_session_is_told_before_anything_is_believed_and_mended() {
    for is_equal in [true, false] {
        let (mut practice, mut hub, log) = mirrored();
        practice.reconnect();
        hub.reconnect();
        hub.logs.get_mut(&log).unwrap().lost.extend([0, 5]);
        if !is_equal {
            practice.append("p", "p", &["g"]);
        }
        run(start(), &mut practice, &mut hub);
        let first = practice.events.iter().find_map(|event| match event {
            Event::Stated { holes, .. } | Event::Acked { holes, .. } => Some(holes.clone()),
            _ => None,
        });
        let holes: Vec<_> = first.unwrap().iter().collect();
        assert_eq!(holes, [(Seq(0), Seq(2)), (Seq(10), Seq(12))], "equal: {is_equal}");
        assert!(hub.logs[&log].lost.is_empty());
        assert!(known_holes(&practice, log).is_empty());
        assert!(practice.session.status().spaces[0].in_sync);
    }
}

#[test]
fn a_source_gets_what_it_lost_back_from_a_mirror_that_lets_it_read_and_goes_on() {
    let (mut practice, mut hub) = practice_and_hub();
    for body in ["a", "b", "c"] {
        practice.append("p", "p", &[body]);
    }
    let log = practice.append("p", "p", &["d"]);
    // The mirror has all but lost the first half, and the source has lost the second.
    run(start(), &mut practice, &mut hub);
    practice.rot(log, [2, 3]);
    practice.append("p", "p", &["e"]);
    run(start(), &mut practice, &mut hub);
    assert!(practice.logs[&log].lost.is_empty());
    assert_eq!(mended(&practice), [(2, 4)]);
    assert_eq!(hub.bodies(log), ["a", "b", "c", "d", "e"]);
}

#[test]
fn a_log_that_stopped_at_a_hole_of_its_source_goes_on_once_the_source_has_it_again() {
    let (mut practice, mut hub) = practice_and_hub();
    for body in ["a", "b"] {
        practice.append("p", "p", &[body]);
    }
    let log = practice.append("p", "p", &["c"]);
    practice.logs.get_mut(&log).unwrap().lost.insert(1);
    run(start(), &mut practice, &mut hub);
    assert!(matches!(practice.parked(log), Some((ParkReason::Gap { .. }, By::Local))));
    assert_eq!(hub.bodies(log), ["a"]);
    // The hub had not heard of the log when it was asked.
    assert_eq!(not_mended(&practice), [NotMended::Refused]);
    // Another mirror had it.
    practice.logs.get_mut(&log).unwrap().lost.clear();
    practice.announce_logs();
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a", "b", "c"]);
    assert_eq!(practice.acked(log), Some(Seq(3)));
    assert!(practice.session.status().spaces[0].in_sync);
}

#[test]
fn a_long_hole_comes_in_answers_of_bounded_size_newest_first() {
    let limits = Limits { ready_bytes_max: 300, ..Limits::default() };
    let spaces = [("p", Direction::Send)];
    let mut practice = Node::with("p", "hub", &spaces, Policy::own_space_only(), limits.clone());
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    let log = genesis("p", "p").log_id();
    for _ in 0..20 {
        practice.append("p", "p", &["a body of some length"]);
    }
    run(start(), &mut practice, &mut hub);
    hub.rot(log, 3..17);
    run(start(), &mut practice, &mut hub);
    assert!(hub.logs[&log].lost.is_empty());
    assert_eq!(hub.mended, [3, 3, 3, 3, 2], "batches an answer");
    assert_eq!(mended(&hub)[0], (14, 17));
}

#[test]
fn a_peer_that_lacks_it_too_is_asked_again_and_told_of_once() {
    let (mut practice, mut hub, log) = mirrored();
    practice.rot(log, [2]);
    hub.rot(log, [2]);
    run(start(), &mut practice, &mut hub);
    let now = pass(start(), 60, &mut practice, &mut hub);
    for node in [&practice, &hub] {
        assert_eq!(not_mended(node), [NotMended::Lacking(GapCause::Damaged)]);
    }
    let asked = practice.sent.iter().filter(|message| matches!(message, Message::Mend(_))).count();
    assert!((3..30).contains(&asked), "{asked} times in a minute");
    // Somebody else mends one of the two.
    practice.logs.get_mut(&log).unwrap().lost.clear();
    practice.announce_logs();
    pass(now, 30, &mut practice, &mut hub);
    assert!(hub.logs[&log].lost.is_empty());
    assert_eq!(known_holes(&practice, log), []);
}

#[test]
fn only_who_may_read_a_space_is_sent_what_it_lost() {
    let mut practice = Node::new("p", "hub", &[("p", Direction::Send)]);
    let mut hub = Node::with("hub", "p", &[], grant("\"write\""), Limits::default());
    practice.append("p", "p", &["a"]);
    let log = practice.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    practice.rot(log, [0]);
    run(start(), &mut practice, &mut hub);
    assert_eq!(not_mended(&practice), [NotMended::Refused]);
    assert!(!hub.sent.iter().any(|message| matches!(message, Message::MendBatch(_))));
    // A log of a space that is not in the session, and one that is nowhere, are refused alike.
    let elsewhere = hub.append("secret", "q", &["x"]);
    for id in [elsewhere, LogId::from_bytes([9; 16])] {
        let end = Head { next_seq: Seq(1), digest: hub.logs[&elsewhere].head_at(1).digest };
        hub.handle(start(), Message::Mend(Mend { log: id, first_seq: Seq(0), end, bytes_max: 1000 })).unwrap();
        let answer = hub.transmit().unwrap();
        assert_eq!(answer, Message::MendEnd(MendEnd { log: id, end, outcome: MendOutcome::Refused }));
    }
}

#[test]
fn a_right_that_is_taken_away_ends_an_answer_in_the_middle() {
    let (mut practice, mut hub, log) = mirrored();
    let head = hub.logs[&log].head_at(6);
    hub.handle(start(), Message::Mend(Mend { log, first_seq: Seq(0), end: head, bytes_max: 10_000 })).unwrap();
    assert!(matches!(hub.transmit(), Some(Message::MendBatch(_))));
    hub.session.handle_policy(Arc::new(Policy::nothing())).unwrap();
    let rest: Vec<_> = std::iter::from_fn(|| hub.transmit()).collect();
    assert!(rest.contains(&Message::MendEnd(MendEnd { log, end: head, outcome: MendOutcome::Refused })));
    assert!(!rest.iter().any(|message| matches!(message, Message::MendBatch(_))));
    practice.serve(start());
}

/// A hub that has asked for its hole, and what it asked.
fn asking() -> (Node, Node, LogId, Mend) {
    let (practice, mut hub, log) = mirrored();
    hub.rot(log, [1, 2]);
    hub.serve(start());
    let asked = std::iter::from_fn(|| hub.transmit()).find_map(|message| match message {
        Message::Mend(mend) => Some(mend),
        _ => None,
    });
    (practice, hub, log, asked.unwrap())
}

/// What a peer answers, and why that does not mend.
type Answer = fn(&Node, LogId, Mend) -> (Vec<Message>, NotMended);

#[test]
fn wrong_forged_late_and_superfluous_answers_are_refused_and_the_log_flows_on() {
    let end = |mend: Mend, outcome| Message::MendEnd(MendEnd { log: mend.log, end: mend.end, outcome });
    let answers: [Answer; 7] = [
        // Another batch of the log, in its place or not.
        |practice, log, _| (vec![Message::MendBatch(practice.logs[&log].batches[1].clone())], NotMended::Wrong),
        |practice, log, _| (vec![Message::MendBatch(practice.logs[&log].batches[4].clone())], NotMended::Wrong),
        // The right predecessor, and other records.
        |practice, log, _| {
            let forged = batch(log, practice.logs[&log].head_at(2), &["c", "MORE"]);
            (vec![Message::MendBatch(forged)], NotMended::Wrong)
        },
        // More than was asked for.
        |practice, log, _| {
            let sent = [2, 1, 0].map(|index| Message::MendBatch(practice.logs[&log].batches[index].clone()));
            (sent.into(), NotMended::Wrong)
        },
        |_, log, _| (vec![Message::DamagedMendBatch { log }], NotMended::Damaged),
        // An answer that holds nothing.
        |_, _, _| (vec![], NotMended::Wrong),
        // The end of another answer.
        |_, log, mend| {
            let other = MendEnd { log, end: Head { next_seq: Seq(12), ..mend.end }, outcome: MendOutcome::Sent };
            (vec![Message::MendEnd(other)], NotMended::Wrong)
        },
    ];
    for answer in answers {
        let (mut practice, mut hub, log, mend) = asking();
        let (messages, reason) = answer(&practice, log, mend);
        for message in messages {
            hub.handle(start(), message).unwrap();
        }
        hub.handle(start(), end(mend, MendOutcome::Sent)).unwrap();
        assert_eq!(not_mended(&hub), [reason]);
        assert_eq!((hub.logs[&log].lost.len(), hub.mended.len()), (2, 0), "nothing was stored");
        practice.append("p", "p", &["on"]);
        run(start(), &mut practice, &mut hub);
        assert_eq!(hub.logs[&log].durable, 7, "the log flows on");
        // Another log is mended all the same.
        let other = practice.append("p", "q", &["x"]);
        let model = &practice.logs[&other];
        let copy = ModelLog {
            genesis: Arc::clone(&model.genesis),
            batches: model.batches.clone(),
            durable: 1,
            trimmed: 0,
            lost: BTreeSet::from([0]),
        };
        hub.logs.insert(other, copy);
        hub.announce_logs();
        run(start(), &mut practice, &mut hub);
        assert!(hub.logs[&other].lost.is_empty());
    }
}

#[test]
fn a_batch_that_nobody_asked_for_is_dropped() {
    let (practice, mut hub, log) = mirrored();
    let batches = practice.logs[&log].batches.clone();
    for _ in 0..3 {
        hub.handle(start(), Message::MendBatch(batches[5].clone())).unwrap();
    }
    assert_eq!(not_mended(&hub), [NotMended::Wrong], "told once");
    let unknown = batch(LogId::from_bytes([3; 16]), Head { next_seq: Seq(0), ..batches[0].head() }, &["x"]);
    hub.handle(start(), Message::MendBatch(unknown)).unwrap();
    assert!(hub.mended.is_empty());
    assert_eq!(hub.logs[&log].batches, batches);
}

#[test]
fn who_asks_before_it_is_answered_or_for_nothing_breaks_the_protocol() {
    let (_, mut hub, log) = mirrored();
    let head = hub.logs[&log].head_at(6);
    let mend = |first_seq| Message::Mend(Mend { log, first_seq: Seq(first_seq), end: head, bytes_max: 1 });
    hub.handle(start(), mend(0)).unwrap();
    let misbehaved = |error: SessionError| match error {
        SessionError::PeerMisbehaved { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(misbehaved(hub.handle(start(), mend(0)).unwrap_err()), PeerMisbehaved::Flood { limit: 1 });

    // Also where the answer is only that there is none: it waits until it has left.
    let (_, mut hub, _) = mirrored();
    let unknown = Mend { log: LogId::from_bytes([7; 16]), first_seq: Seq(0), end: head, bytes_max: 1 };
    hub.handle(start(), Message::Mend(unknown)).unwrap();
    hub.session.handle_lookup(unknown.log, None);
    assert_eq!(
        misbehaved(hub.handle(start(), Message::Mend(unknown)).unwrap_err()),
        PeerMisbehaved::Flood { limit: 1 }
    );
    let (_, mut hub, _) = mirrored();
    assert!(matches!(misbehaved(hub.handle(start(), mend(12)).unwrap_err()), PeerMisbehaved::OutOfRange { .. }));
    let (_, mut hub, _) = mirrored();
    for _ in 0..3 {
        hub.handle(start(), mend(0)).unwrap();
        let answer: Vec<_> = std::iter::from_fn(|| hub.transmit()).collect();
        assert!(matches!(answer[..], [Message::MendBatch(_), Message::MendEnd(_)]), "one batch always fits");
    }
}
