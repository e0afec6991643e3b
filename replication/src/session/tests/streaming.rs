//! What an honest pair does.

use counterfoil_storage::{Digest, LogId, Seq};

use super::*;
use crate::message::{Credit, Flow, Heads};

#[test]
fn a_fresh_mirror_gets_every_record_in_order_and_acknowledges_it() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a", "b"]);
    practice.append("p", "p", &["c"]);
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a", "b", "c"]);
    assert_eq!(practice.acked(log), Some(Seq(3)));
    assert!(practice.events.contains(&Event::InSync { space: space("p") }));
    let status = practice.session.status();
    assert!(status.spaces[0].in_sync && status.spaces[0].lag_records == 0 && status.in_flight_bytes == 0);
}

#[test]
fn records_and_logs_that_come_while_the_session_lives_flow_at_once() {
    let (mut practice, mut hub) = practice_and_hub();
    run(start(), &mut practice, &mut hub);
    assert!(practice.events.contains(&Event::InSync { space: space("p") }), "an empty space is in sync");
    let log = practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    practice.append("p", "p", &["b"]);
    assert_eq!(practice.session.status().spaces[0].lag_records, 1);
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a", "b"]);
    assert_eq!(practice.acked(log), Some(Seq(2)));
}

#[test]
fn two_equal_stores_know_it_after_one_short_message_each() {
    let (mut practice, mut hub) = practice_and_hub();
    practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    practice.reconnect();
    hub.reconnect();
    run(start(), &mut practice, &mut hub);
    assert!(matches!(practice.sent[..], [Message::Hello(_), Message::Offer(_)]), "{:?}", practice.sent);
    assert!(matches!(hub.sent[..], [Message::Hello(_), Message::Equal(_)]), "{:?}", hub.sent);
    let mut bytes = BytesMut::new();
    codec::encode(&practice.sent[1], &mut bytes);
    codec::encode(&hub.sent[1], &mut bytes);
    assert!(bytes.len() <= 100, "{} bytes", bytes.len());
    assert!(practice.events.contains(&Event::InSync { space: space("p") }));
}

#[test]
fn a_mirror_that_is_behind_gets_only_what_it_lacks() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    practice.append("p", "p", &["b"]);
    practice.append("p", "p", &["c"]);
    practice.reconnect();
    hub.reconnect();
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a", "b", "c"]);
    assert_eq!(practice.batches_sent(), 2);
    assert_eq!(practice.acked(log), Some(Seq(3)));
}

#[test]
fn nothing_is_acknowledged_before_it_is_durable() {
    let (mut practice, mut hub) = practice_and_hub();
    hub.flushing = false;
    let log = practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a"], "it is stored");
    assert_eq!(practice.acked(log), None, "but not flushed");
    hub.flush();
    run(start(), &mut practice, &mut hub);
    assert_eq!(practice.acked(log), Some(Seq(1)));
}

#[test]
fn what_is_queued_but_not_durable_is_not_sent() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    practice.flushing = false;
    let model = practice.logs.get_mut(&log).unwrap();
    let next = batch(log, model.head_at(1), &["b"]);
    model.batches.push(next);
    practice.announce_logs();
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a"]);
}

#[test]
fn diverged_histories_park_that_log_at_both_ends_and_no_other() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    practice.append("p", "p", &["b"]);
    hub.append("p", "p", &["x"]);
    let model = practice.logs.get_mut(&log).unwrap();
    let other = Arc::new(Genesis { nonce: [9; 16], ..(*model.genesis).clone() });
    let other_id = other.log_id();
    let first = batch(other_id, other.head(), &["fine"]);
    practice.logs.insert(
        other_id,
        ModelLog { genesis: other, batches: vec![first], durable: 1, trimmed: 0, lost: BTreeSet::new() },
    );
    run(start(), &mut practice, &mut hub);
    let (reason, by) = practice.parked(log).unwrap();
    assert!(matches!(reason, ParkReason::Diverged { .. }) && by == By::Local, "{reason}");
    assert_eq!(hub.parked(log), Some((reason, By::Peer)));
    assert_eq!(hub.bodies(log), ["x"], "nothing was altered");
    assert_eq!(hub.bodies(other_id), ["fine"]);
    assert_eq!(practice.acked(log), None);
    assert!(!practice.session.status().spaces[0].in_sync);
    assert_eq!(practice.session.status().spaces[0].parked.len(), 1);
}

#[test]
fn histories_that_differ_at_equal_length_are_noticed_without_a_read() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    hub.append("p", "p", &["x"]);
    run(start(), &mut practice, &mut hub);
    assert!(matches!(practice.parked(log), Some((ParkReason::Diverged { .. }, By::Local))));
}

#[test]
fn a_head_inside_a_batch_is_another_history() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a", "b"]);
    hub.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    assert!(matches!(practice.parked(log), Some((ParkReason::Diverged { .. }, By::Local))));
}

#[test]
fn a_peer_that_has_more_is_reported_and_streaming_goes_on_when_this_end_has_as_much() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    hub.append("p", "p", &["a"]);
    hub.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    assert!(practice.events.iter().any(|event| matches!(event, Event::Ahead { log: id, .. } if *id == log)));
    assert_eq!(practice.acked(log), None, "what is not on the chain here does not count");
    practice.append("p", "p", &["b"]);
    practice.append("p", "p", &["c"]);
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a", "b", "c"]);
    assert_eq!(practice.acked(log), Some(Seq(3)));
}

#[test]
fn a_source_that_was_rewound_is_not_in_sync_until_the_digests_agree() {
    let in_sync = |node: &Node| node.session.status().spaces[0].in_sync;
    let told = |node: &Node| node.events.iter().any(|event| matches!(event, Event::InSync { .. }));
    let (mut practice, mut hub) = practice_and_hub();
    practice.append("p", "p", &["a"]);
    hub.append("p", "p", &["a"]);
    hub.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    assert!(!in_sync(&practice) && !told(&practice), "{:?}", practice.events);
    assert_eq!(practice.session.status().spaces[0].lag_records, 1, "nothing is known to be mirrored");
    // As much as the hub has, but something else.
    practice.append("p", "p", &["x"]);
    run(start(), &mut practice, &mut hub);
    assert!(!in_sync(&practice) && !told(&practice), "{:?}", practice.events);

    let (mut practice, mut hub) = practice_and_hub();
    practice.append("p", "p", &["a"]);
    hub.append("p", "p", &["a"]);
    hub.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    practice.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    assert!(in_sync(&practice) && told(&practice));
}

#[test]
fn a_hole_is_named_at_both_ends_after_what_comes_before_it_was_sent() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    practice.append("p", "p", &["b"]);
    practice.append("p", "p", &["c"]);
    practice.hole = Some((Seq(1), Seq(2)));
    run(start(), &mut practice, &mut hub);
    let gap = ParkReason::Gap { first_seq: Seq(1), next_seq: Seq(2), cause: GapCause::Hole };
    assert_eq!(practice.parked(log), Some((gap.clone(), By::Local)));
    assert_eq!(hub.parked(log), Some((gap, By::Peer)));
    assert_eq!(hub.bodies(log), ["a"]);
    assert_eq!(practice.acked(log), Some(Seq(1)), "what arrived before the hole counts");
}

#[test]
fn what_retention_removed_is_an_explicit_gap() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    practice.append("p", "p", &["b"]);
    practice.logs.get_mut(&log).unwrap().trimmed = 1;
    practice.announce_logs();
    run(start(), &mut practice, &mut hub);
    let gap = ParkReason::Gap { first_seq: Seq(0), next_seq: Seq(1), cause: GapCause::Trimmed };
    assert_eq!(hub.parked(log), Some((gap, By::Peer)));
}

#[test]
fn a_log_that_stopped_at_a_gap_goes_on_once_the_target_has_got_of_another_what_was_missing() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    practice.append("p", "p", &["b"]);
    practice.logs.get_mut(&log).unwrap().trimmed = 1;
    practice.announce_logs();
    run(start(), &mut practice, &mut hub);
    let (genesis, batches) = (Arc::clone(&practice.logs[&log].genesis), practice.logs[&log].batches.clone());
    // Less than all that is missing changes nothing; and nothing is asked for twice.
    hub.logs.insert(log, ModelLog { genesis, batches: Vec::new(), durable: 0, trimmed: 0, lost: BTreeSet::new() });
    let rewinds = |hub: &Node| hub.sent.iter().filter(|message| matches!(message, Message::Rewind(_))).count();
    hub.flush();
    run(start(), &mut practice, &mut hub);
    assert_eq!((rewinds(&hub), practice.acked(log)), (0, None));
    hub.logs.get_mut(&log).unwrap().batches.push(batches[0].clone());
    hub.flush();
    practice.append("p", "p", &["c"]);
    run(start(), &mut practice, &mut hub);
    assert_eq!((hub.bodies(log).join(""), practice.acked(log)), ("abc".to_owned(), Some(Seq(3))));
    practice.append("p", "p", &["d"]);
    run(start(), &mut practice, &mut hub);
    assert_eq!((rewinds(&hub), practice.acked(log)), (1, Some(Seq(4))));
}

#[test]
fn a_target_that_was_away_for_longer_than_what_is_kept_is_told_the_gap_and_goes_on_like_one_that_is_new() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    for body in ["b", "c"] {
        practice.append("p", "p", &[body]);
    }
    practice.logs.get_mut(&log).unwrap().trimmed = 2;
    practice.reconnect();
    hub.reconnect();
    run(start(), &mut practice, &mut hub);
    let gap = ParkReason::Gap { first_seq: Seq(1), next_seq: Seq(2), cause: GapCause::Trimmed };
    assert_eq!(hub.parked(log), Some((gap, By::Peer)));
    let batches = practice.logs[&log].batches.clone();
    hub.logs.get_mut(&log).unwrap().batches.push(batches[1].clone());
    hub.flush();
    run(start(), &mut practice, &mut hub);
    assert_eq!((hub.bodies(log).join(""), practice.acked(log)), ("abc".to_owned(), Some(Seq(3))));
}

#[test]
fn a_small_window_is_never_overdrawn_and_all_arrives() {
    let limits = Limits { session_window_bytes: 500, space_window_bytes: 300, ..Limits::default() };
    let mut practice = Node::new("p", "hub", &[("p", Direction::Send)]);
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    let long = "x".repeat(1000);
    let mut log = None;
    for _ in 0..50 {
        practice.append("p", "p", &["short"]);
        log = Some(practice.append("p", "p", &[&long]));
    }
    run(start(), &mut practice, &mut hub);
    assert_eq!(practice.acked(log.unwrap()), Some(Seq(100)));
}

#[test]
fn what_was_too_little_to_return_is_returned_when_the_windows_shrink() {
    let limits = Limits { space_window_bytes: 2000, space_window_bytes_min: 50, ..Limits::default() };
    let mut practice = Node::new("p", "hub", &[("p", Direction::Send)]);
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    for _ in 0..4 {
        practice.append("p", "p", &["0123456789"]);
    }
    run(start(), &mut practice, &mut hub);
    let is_credit = |message: &Message| matches!(message, Message::Credit(_));
    assert!(!hub.sent.iter().any(is_credit), "400 bytes are less than a quarter");
    // A space in which nothing is under way: what it used is more than all that it has from now on.
    let later = start() + 10 * SECOND;
    let windows = hub.session.window.received(later, 500).expect("few bytes in a long time");
    assert!(windows.space_bytes < 400, "{windows:?}");
    hub.session.tell_windows(later, Some(windows));
    let told: Vec<Message> = std::iter::from_fn(|| hub.transmit()).collect();
    assert!(told.contains(&Message::Credit(Credit { space: space("p"), bytes: 400 })), "{told:?}");
}

#[test]
fn a_store_that_does_not_flush_stops_the_stream_at_its_window() {
    let limits = Limits { session_window_bytes: 1000, ..Limits::default() };
    let mut practice = Node::new("p", "hub", &[("p", Direction::Send)]);
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    hub.flushing = false;
    for _ in 0..100 {
        practice.append("p", "p", &["0123456789"]);
    }
    run(start(), &mut practice, &mut hub);
    assert_eq!(practice.batches_sent(), 10, "1000 bytes of 100 each");
    hub.flush();
    run(start(), &mut practice, &mut hub);
    assert!(practice.batches_sent() > 10);
}

#[test]
fn spaces_take_turns() {
    let policy = r#"
        [[grant]]
        node = "p"
        space = "*"
        rights = ["write"]
    "#;
    let mut practice = Node::new("p", "hub", &[("a", Direction::Send), ("b", Direction::Send)]);
    let mut hub = Node::with("hub", "p", &[], Policy::parse(policy).unwrap(), Limits::default());
    for _ in 0..10 {
        practice.append("a", "p", &["x"]);
    }
    let late = practice.append("b", "p", &["y"]);
    run(start(), &mut practice, &mut hub);
    let order: Vec<LogId> = practice
        .sent
        .iter()
        .filter_map(|message| if let Message::Batch(b) = message { Some(b.log()) } else { None })
        .collect();
    let position = order.iter().position(|log| *log == late).unwrap();
    assert!(position <= 1, "the space with one record waits for one batch of the other at most, not {position}");
}

#[test]
fn a_full_disk_holds_records_back_and_they_come_when_there_is_room() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    hub.full = true;
    practice.append("p", "p", &["b"]);
    practice.append("p", "p", &["c"]);
    run(start(), &mut practice, &mut hub);
    assert!(hub.events.contains(&Event::StorageFull));
    assert_eq!(practice.acked(log), Some(Seq(1)));
    let now = pass(start(), 3, &mut practice, &mut hub);
    assert_eq!(practice.acked(log), Some(Seq(1)), "still full");
    hub.full = false;
    pass(now, 2, &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a", "b", "c"]);
    assert_eq!(practice.acked(log), Some(Seq(3)));
    assert_eq!(hub.session.target_outstanding(), 0, "all credit went back");
}

#[test]
fn a_mirror_that_lost_what_it_acknowledged_says_so_and_gets_it_again() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    practice.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    let model = hub.logs.get_mut(&log).unwrap();
    model.batches.truncate(1);
    model.durable = 1;
    hub.announce_logs();
    run(start(), &mut practice, &mut hub);
    let withdrawn = practice.events.iter().any(
        |event| matches!(event, Event::Withdrawn { from, to, .. } if from.next_seq == Seq(2) && to.next_seq == Seq(1)),
    );
    assert!(withdrawn, "{:?}", practice.events);
    assert_eq!(hub.bodies(log), ["a", "b"]);
    assert_eq!(practice.acked(log), Some(Seq(2)));
}

#[test]
fn a_mirror_restored_from_a_backup_resumes_from_what_it_has() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    practice.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    let model = hub.logs.get_mut(&log).unwrap();
    model.batches.truncate(1);
    model.durable = 1;
    hub.reconnect();
    practice.reconnect();
    run(start(), &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a", "b"]);
    assert_eq!(practice.batches_sent(), 1);
}

#[test]
fn what_a_mirror_first_says_in_a_session_is_told_once_and_as_nothing_where_it_does_not_name_the_log() {
    for kept in [1, 0] {
        let (mut practice, mut hub) = practice_and_hub();
        let log = practice.append("p", "p", &["a"]);
        practice.append("p", "p", &["b"]);
        run(start(), &mut practice, &mut hub);
        let model = hub.logs.get_mut(&log).unwrap();
        model.batches.truncate(kept);
        model.durable = kept;
        let expected = model.head_at(kept);
        if kept == 0 {
            hub.logs.clear();
        }
        hub.reconnect();
        practice.reconnect();
        run(start(), &mut practice, &mut hub);
        let stated = |event: &Event| match event {
            Event::Stated { log: id, head, .. } if *id == log => Some(*head),
            _ => None,
        };
        assert_eq!(practice.events.iter().filter_map(stated).collect::<Vec<_>>(), [expected]);
        let position = |is: &dyn Fn(&Event) -> bool| practice.events.iter().position(is);
        let first_ack = position(&|event| matches!(event, Event::Acked { .. }));
        assert!(position(&|event| stated(event).is_some()) < first_ack, "{:?}", practice.events);
        assert_eq!(practice.acked(log), Some(Seq(2)));
    }
}

#[test]
fn an_end_that_asks_receives_all_logs_of_the_space() {
    let mut reader = Node::new("r", "hub", &[("s", Direction::Receive)]);
    let policy = "[[grant]]\nnode = \"r\"\nspace = \"s\"\nrights = [\"read\"]";
    let mut hub = Node::with("hub", "r", &[], Policy::parse(policy).unwrap(), Limits::default());
    let of_hub = hub.append("s", "hub", &["1"]);
    let of_other = hub.append("s", "other", &["2"]);
    run(start(), &mut reader, &mut hub);
    assert_eq!(reader.bodies(of_hub), ["1"]);
    assert_eq!(reader.bodies(of_other), ["2"]);
    assert_eq!(hub.acked(of_other), Some(Seq(1)));
}

#[test]
fn many_logs_are_compared_in_messages_of_bounded_length() {
    let mut source = Node::new("s", "t", &[("x", Direction::Send)]);
    let limits = Limits { heads_at_once_max: usize::MAX, ..Limits::default() };
    let mut target = Node::with("t", "s", &[("x", Direction::Receive)], Policy::own_space_only(), limits);
    let count = codec::HEADS_MAX * 2;
    for index in 0..count {
        source.append("x", &format!("w{index}"), &["r"]);
    }
    run(start(), &mut source, &mut target);
    assert_eq!(target.logs.len(), count);
    source.reconnect();
    target.reconnect();
    source.append("x", "w0", &["more"]);
    run(start(), &mut source, &mut target);
    let heads: Vec<&Heads> = target
        .sent
        .iter()
        .filter_map(|message| if let Message::Heads(heads) = message { Some(heads) } else { None })
        .collect();
    assert_eq!(heads.iter().map(|heads| heads.heads.len()).sum::<usize>(), count);
    assert!(heads.len() == 3 && heads[0].first && heads[2].last);
    assert_eq!(source.batches_sent(), 1);
    assert!(source.session.status().spaces[0].in_sync);
}

#[test]
fn an_acknowledgement_of_a_head_that_is_not_on_the_chain_does_not_count() {
    let (mut practice, mut hub) = practice_and_hub();
    hub.flushing = false;
    let log = practice.append("p", "p", &["a"]);
    practice.append("p", "p", &["b"]);
    run(start(), &mut practice, &mut hub);
    let forged = crate::message::Ack {
        holes: counterfoil_storage::Holes::default(),
        log,
        node: node("hub"),
        incarnation: incarnation("hub"),
        head: Head { next_seq: Seq(1), digest: Digest::from_bytes([1; 32]) },
        via: Vec::new(),
        losses: 0,
    };
    practice.handle(start(), Message::Ack(forged)).unwrap();
    assert_eq!(practice.acked(log), None);
    assert!(matches!(practice.parked(log), Some((ParkReason::Diverged { .. }, By::Local))));
}

#[test]
fn a_busy_link_says_how_far_behind_the_mirror_is_and_an_idle_one_proves_that_it_is_not() {
    let limits = Limits { session_window_bytes: 1, ..Limits::default() };
    let mut practice = Node::new("p", "hub", &[("p", Direction::Send)]);
    let mut hub = Node::with("hub", "p", &[], Policy::own_space_only(), limits);
    hub.flushing = false;
    for _ in 0..3 {
        practice.append("p", "p", &["x"]);
    }
    run(start(), &mut practice, &mut hub);
    let now = pass(start(), 2, &mut practice, &mut hub);
    assert_eq!(hub.session.status().spaces[0].behind_records, 3, "one is stored but not durable");
    hub.flushing = true;
    hub.flush();
    run(start(), &mut practice, &mut hub);
    pass(now, 30, &mut practice, &mut hub);
    assert_eq!(hub.session.status().spaces[0].behind_records, 0);
    let said = practice.sent.iter().any(|m| matches!(m, Message::Heartbeat(beat) if !beat.frontiers.is_empty()));
    assert!(said, "{:?}", practice.sent);
}

#[test]
fn a_frontier_that_does_not_match_while_idle_makes_the_heads_be_compared_again() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    // The hub's copy changes without the session being told, as after a repair by hand.
    let model = hub.logs.get_mut(&log).unwrap();
    model.batches.clear();
    model.durable = 0;
    hub.session.logs.get_mut(&log).unwrap().told = None;
    hub.announce_logs();
    pass(start(), 2, &mut practice, &mut hub);
    assert_eq!(hub.bodies(log), ["a"]);
}

#[test]
fn a_log_that_only_the_other_end_parks_is_named_with_its_flow() {
    let (mut practice, mut hub) = practice_and_hub();
    let log = practice.append("p", "p", &["a"]);
    run(start(), &mut practice, &mut hub);
    let park = crate::message::Park { log, flow: Flow::Outgoing, reason: ParkReason::Checksum { first_seq: Seq(1) } };
    hub.handle(start(), Message::Park(park)).unwrap();
    assert_eq!(hub.session.status().spaces[0].parked.len(), 1);
}

#[test]
fn a_source_with_more_logs_than_a_session_takes_says_so_and_streams_the_others() {
    let limits = Limits { logs_max: 2, ..Limits::default() };
    let mut source = Node::with("s", "t", &[("x", Direction::Send)], Policy::nothing(), limits);
    let mut target = Node::new("t", "s", &[("x", Direction::Receive)]);
    for writer in ["a", "b", "c", "d"] {
        source.append("x", writer, &["r"]);
    }
    run(start(), &mut source, &mut target);
    let told = |event: &&Event| matches!(event, Event::Parked { reason: ParkReason::TooManyLogs { limit: 2 }, .. });
    assert_eq!(source.events.iter().filter(told).count(), 1);
    assert_eq!(target.logs.len(), 2);
}

#[test]
fn a_space_that_is_brought_later_flows_like_the_others() {
    let policy = Policy::parse("[[grant]]\nnode = \"hub\"\nspace = \"*\"\nrights = [\"relay\"]").unwrap();
    let mut hub = Node::new("hub", "hub-2", &[("a", Direction::Send)]);
    let mut second = Node::with("hub-2", "hub", &[], policy, Limits::default());
    run(start(), &mut hub, &mut second);
    let log = hub.append("b", "writer", &["1"]);
    run(start(), &mut hub, &mut second);
    assert_eq!(second.bodies(log), Vec::<String>::new());
    for _ in 0..2 {
        hub.session.bring(&space("b"), Direction::Send);
        run(start(), &mut hub, &mut second);
        assert_eq!(second.bodies(log), ["1"]);
    }
    let offers = hub.sent.iter().filter(|message| matches!(message, Message::Offer(_))).count();
    assert_eq!(offers, 2, "each space once");
}

#[test]
fn a_mirror_may_have_a_log_before_its_source_does() {
    let policy = || Policy::parse("[[grant]]\nnode = \"hub\"\nspace = \"p\"\nrights = [\"relay\"]").unwrap();
    let mut hub = Node::new("hub", "hub-2", &[("p", Direction::Send)]);
    let mut second = Node::with("hub-2", "hub", &[], policy(), Limits::default());
    let log = second.append("p", "p", &["a"]);
    run(start(), &mut hub, &mut second);
    // The writer goes on streaming to the mirror, and then to the source as well.
    second.append("p", "p", &["b"]);
    run(start(), &mut hub, &mut second);
    for body in ["a", "b"] {
        hub.append("p", "p", &[body]);
        run(start(), &mut hub, &mut second);
    }
    assert_eq!(hub.acked(log), Some(Seq(2)), "{:?}", hub.events);
    assert!(hub.session.status().spaces[0].in_sync);
    assert_eq!(second.bodies(log), ["a", "b"]);
}

#[test]
fn no_more_is_read_ahead_than_may_be_and_a_batch_whatever_is_being_read() {
    let limits = Limits { ready_bytes_max: 16 << 10, fetch_bytes: 16 << 10, ..Limits::default() };
    let spaces = [("p", Direction::Send), ("q", Direction::Send)];
    let mut practice = Node::with("p", "hub", &spaces, Policy::nothing(), limits);
    let (body, policy) = ("x".repeat(1000), grant_all());
    for space_name in ["p", "q"] {
        for _ in 0..100 {
            practice.append(space_name, "p", &[&body]);
        }
    }
    let mut hub = Node::with("hub", "p", &[], policy, Limits::default());
    practice.serve(start());
    while let Some(message) = practice.transmit() {
        hub.handle(start(), message).unwrap();
    }
    // The flows are open, and nothing is sent.
    while let Some(message) = hub.transmit() {
        practice.session.handle_message(start(), message).unwrap();
    }
    let mut most = 0;
    loop {
        // Several reads at a time, of which none has ended when the next is asked for.
        let requests: Vec<_> = std::iter::from_fn(|| practice.session.poll_fetch()).collect();
        if requests.is_empty() {
            break;
        }
        for request in requests {
            let result = practice.fetch(&request);
            practice.session.handle_fetched(start(), request, result);
            most = most.max(practice.session.held().read_bytes);
        }
    }
    let batch = practice.logs.values().next().unwrap().batches[0].bytes().len() as u64;
    assert!(most > 8 << 10, "{most}");
    assert!(most <= (16 << 10) + 2 * batch, "{most}");
}

fn grant_all() -> Policy {
    Policy::parse("[[grant]]\nnode = \"p\"\nspace = \"*\"\nrights = [\"write\"]").unwrap()
}
