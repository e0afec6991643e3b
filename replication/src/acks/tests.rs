//! What holds of whom, whoever says it.

use counterfoil_storage::Digest;

use super::*;

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn log() -> LogId {
    LogId::from_bytes([1; 16])
}

fn head(next_seq: u64) -> Head {
    Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([0; 32]) }
}

fn life(incarnation: u8) -> Incarnation {
    Incarnation::from_bytes([incarnation; 16])
}

fn acked(of: &str, incarnation: u8, next_seq: u64) -> Event {
    Event::Acked {
        log: log(),
        node: node(of),
        incarnation: life(incarnation),
        head: head(next_seq),
        holes: Holes::default(),
        via: Vec::new(),
        losses: 0,
    }
}

fn withdrawn(of: &str, incarnation: u8, to: u64) -> Event {
    let (node, incarnation) = (node(of), life(incarnation));
    Event::Withdrawn { log: log(), node, incarnation, from: head(99), to: head(to), holes: Holes::default(), losses: 0 }
}

fn met(of: &str, incarnation: u8) -> Event {
    Event::PeerReady { node: node(of), incarnation: life(incarnation), protocol: 1 }
}

/// What is known, as `(node, next_seq)`.
fn known(board: &AckBoard) -> Vec<(String, u64)> {
    board.of_log(log()).into_iter().map(|ack| (ack.node.to_string(), ack.head.next_seq.0)).collect()
}

#[test]
fn each_node_counts_once_by_its_own_word_or_else_by_the_best_of_those_who_pass_it_on() {
    let board = AckBoard::new(node("own"));
    for (peer, event) in [
        ("hub", acked("hub", 1, 5)),
        ("hub", acked("far", 2, 3)),
        ("other", acked("far", 2, 4)),
        ("other", acked("own", 3, 9)),
    ] {
        board.hear(&node(peer), &event);
    }
    assert_eq!(known(&board), [("far".to_owned(), 4), ("hub".to_owned(), 5)]);
    board.hear(&node("other"), &acked("hub", 1, 7));
    assert_eq!(known(&board)[1].1, 5, "what it says itself");
    board.hear(&node("other"), &withdrawn("far", 2, 1));
    assert_eq!(known(&board)[0].1, 3, "the other one still says so");
    board.hear(&node("far"), &acked("far", 2, 2));
    assert_eq!(known(&board)[0].1, 3, "it is on its way to what was said of it");
    board.hear(&node("far"), &acked("far", 2, 3));
    board.hear(&node("other"), &acked("far", 2, 9));
    assert_eq!(known(&board)[0].1, 3, "from here on its own word");
    board.hear(&node("far"), &withdrawn("far", 2, 1));
    assert_eq!(known(&board)[0].1, 1);
}

#[test]
fn another_life_begins_anew_and_hearsay_of_an_old_one_does_not_count() {
    let board = AckBoard::new(node("own"));
    board.hear(&node("hub"), &acked("hub", 1, 7));
    let changes = board.hear(&node("hub"), &met("hub", 2));
    assert_eq!((changes[0].from, changes[0].ack.head.next_seq), (Some(head(7)), Seq::ZERO));
    board.hear(&node("other"), &acked("hub", 1, 7));
    assert_eq!(known(&board), [("hub".to_owned(), 0)]);
    assert_eq!(board.hear(&node("hub"), &met("hub", 2)), []);
}

#[test]
fn a_session_is_told_of_what_it_passes_on_but_not_what_its_own_peer_told_or_holds() {
    let board = AckBoard::new(node("hub"));
    let (upstream, far) = (board.subscribe(node("practice")), board.subscribe(node("far")));
    let mut cx = Context::from_waker(Waker::noop());
    board.hear(&node("far"), &acked("far", 1, 5));
    assert!(upstream.poll(&mut cx).is_pending(), "it passes on nothing of this log yet");
    upstream.add(log());
    far.add(log());
    assert!(upstream.poll(&mut cx).is_ready());
    let taken = |session: &Subscription| -> Vec<String> {
        session.take().iter().map(|ack| format!("{} {}", ack.node, ack.head.next_seq)).collect()
    };
    assert_eq!(taken(&upstream), ["far 5"]);
    assert!(upstream.poll(&mut cx).is_pending());
    board.hear(&node("practice"), &acked("practice", 1, 9));
    board.hear(&node("practice"), &acked("third", 1, 9));
    assert_eq!(taken(&upstream), ["far 5", "third 0"], "nothing is to be said of it");
    board.hear(&node("far"), &withdrawn("far", 1, 2));
    assert_eq!(taken(&far), ["practice 9", "third 9"]);
    drop((upstream, far));
    assert!(board.table().interested.is_empty() && board.table().subscribers.is_empty());
}

fn stated(of: &str, incarnation: u8, next_seq: u64) -> Event {
    let (node, incarnation, holes) = (node(of), life(incarnation), Holes::default());
    Event::Stated { log: log(), node, incarnation, head: head(next_seq), holes }
}

#[test]
fn what_a_node_was_only_seen_to_send_is_taken_back_when_it_states_less_and_those_who_passed_it_on_hear_it() {
    let board = AckBoard::new(node("hub"));
    let upstream = board.subscribe(node("practice"));
    upstream.add(log());
    let (node_far, incarnation) = (node("far"), life(1));
    board.hear(&node("far"), &Event::Holds { log: log(), node: node_far, incarnation, head: head(5) });
    assert_eq!(upstream.take()[0].head.next_seq, Seq(5));
    let changes = board.hear(&node("far"), &stated("far", 1, 3));
    assert_eq!(changes.len(), 1, "who counted it is told");
    assert_eq!((changes[0].from, changes[0].ack.head.next_seq), (Some(head(5)), Seq::ZERO));
    assert_eq!(upstream.take()[0].head.next_seq, Seq::ZERO);
}

#[test]
fn hearsay_of_another_life_than_a_node_was_met_in_does_not_count_even_if_nothing_else_is_known() {
    let board = AckBoard::new(node("own"));
    board.hear(&node("hub"), &met("hub", 2));
    assert_eq!(board.hear(&node("other"), &acked("hub", 1, 7)), []);
    assert_eq!(known(&board), []);
    board.hear(&node("other"), &acked("hub", 2, 7));
    assert_eq!(known(&board), [("hub".to_owned(), 7)]);
}

#[test]
fn what_others_said_before_a_session_began_does_not_outweigh_what_the_node_states_in_it() {
    let board = AckBoard::new(node("own"));
    board.hear(&node("other"), &acked("far", 1, 7));
    let session = board.subscribe(node("far"));
    // This is said while the session runs: it may be newer than what is on its way in it.
    board.hear(&node("third"), &acked("far", 1, 6));
    let changes = board.hear(&node("far"), &stated("far", 1, 3));
    assert_eq!((changes[0].from, changes[0].ack.head.next_seq), (Some(head(7)), Seq::ZERO));
    board.hear(&node("far"), &acked("far", 1, 3));
    board.hear(&node("other"), &acked("far", 1, 9));
    assert_eq!(known(&board), [("far".to_owned(), 3)], "from here on its own word");
    drop(session);

    let board = AckBoard::new(node("own"));
    let session = board.subscribe(node("far"));
    board.hear(&node("other"), &acked("far", 1, 7));
    assert_eq!(board.hear(&node("far"), &stated("far", 1, 3)), [], "it may be on its way to there");
    assert_eq!(known(&board), [("far".to_owned(), 7)]);
    drop(session);
}

/// The same, passed on by one who knows that the node has taken something back so often.
fn after(losses: u32, event: Event) -> Event {
    match event {
        Event::Acked { log, node, incarnation, head, holes, via, .. } => {
            Event::Acked { log, node, incarnation, head, holes, via, losses }
        }
        Event::Withdrawn { log, node, incarnation, from, to, holes, .. } => {
            Event::Withdrawn { log, node, incarnation, from, to, holes, losses }
        }
        other => other,
    }
}

/// What a relay says first of a node in a session.
fn restated(of: &str, incarnation: u8, next_seq: u64, losses: u32) -> Event {
    let (node, incarnation, holes) = (node(of), life(incarnation), Holes::default());
    Event::Restated { log: log(), node, incarnation, head: head(next_seq), holes, losses }
}

#[test]
fn what_a_relay_says_in_a_later_session_counts_instead_of_what_it_said_in_an_earlier_one() {
    let board = AckBoard::new(node("own"));
    let hub = node("hub");
    let session = board.subscribe(hub.clone());
    board.hear(&hub, &acked("far", 1, 10));
    assert_eq!(board.hear(&hub, &acked("far", 1, 9)), [], "one session's words may have overtaken another's");
    drop(session);
    // The hub was started again while the link was cut, and knows less.
    let session = board.subscribe(hub.clone());
    assert_eq!(board.hear(&hub, &restated("far", 1, 11, 0)), [], "more has to be found on the chain");
    drop(session);
    let session = board.subscribe(hub.clone());
    let changes = board.hear(&hub, &restated("far", 1, 8, 0));
    assert!(changes[0].is_forgotten && !changes[0].is_withdrawal());
    assert_eq!(known(&board), [("far".to_owned(), 0)], "it may be another history");
    board.hear(&hub, &acked("far", 1, 8));
    assert_eq!(known(&board), [("far".to_owned(), 8)]);
    drop(session);
    // The far node was rolled back while it was cut, and the hub knows.
    let session = board.subscribe(hub.clone());
    assert!(board.hear(&hub, &restated("far", 1, 5, 1))[0].is_withdrawal());
    board.hear(&hub, &after(1, acked("far", 1, 5)));
    drop(session);
    let session = board.subscribe(hub.clone());
    let Event::Restated { log, node: far, incarnation, head, losses, .. } = restated("far", 1, 5, 1) else { panic!() };
    let holes = Holes::try_from(vec![(Seq(1), Seq(2))]).unwrap();
    let rotten = Event::Restated { log, node: far, incarnation, head, holes, losses };
    assert!(board.hear(&hub, &rotten)[0].is_withdrawal(), "what is lost is lost");
    assert_eq!(board.of_log(log)[0].holes.iter().count(), 1);
    drop(session);
    // What has been missing for long is not lost once more when less is known.
    let session = board.subscribe(hub.clone());
    assert!(board.hear(&hub, &restated("far", 1, 4, 1))[0].is_forgotten);
    let Event::Acked { node: far, incarnation, head, via, losses, .. } = after(1, acked("far", 1, 4)) else { panic!() };
    let holes = Holes::try_from(vec![(Seq(1), Seq(2))]).unwrap();
    let changes = board.hear(&hub, &Event::Acked { log, node: far, incarnation, head, holes, via, losses });
    assert!(!changes[0].is_withdrawal(), "{changes:?}");
    assert_eq!(changes[0].ack.losses, 2);
    drop(session);
    let _session = board.subscribe(hub.clone());
    assert!(board.hear(&hub, &restated("far", 1, 0, 2))[0].is_withdrawal(), "it has nothing");
    assert_eq!(board.hear(&node("other"), &restated("far", 1, 0, 3)), [], "that one had said nothing of it");
}

#[test]
fn a_loss_is_told_whichever_relay_still_says_more_and_whatever_another_one_has_counted() {
    // One tells of the loss, by which what another one says shows, who has not heard.
    let board = AckBoard::new(node("own"));
    board.hear(&node("one"), &acked("far", 1, 10));
    board.hear(&node("two"), &acked("far", 1, 7));
    let changes = board.hear(&node("one"), &after(1, withdrawn("far", 1, 0)));
    assert!(changes[0].is_withdrawal(), "{changes:?}");
    assert_eq!(changes[0].ack.losses, 1, "so that those hear of it to whom this is passed on");

    // One tells of it, and nothing shows until the other one, which was started again, says no more.
    let board = AckBoard::new(node("own"));
    ["one", "two"].iter().for_each(|by| drop(board.hear(&node(by), &acked("far", 1, 10))));
    assert_eq!(board.hear(&node("one"), &after(1, withdrawn("far", 1, 0))), []);
    board.hear(&node("one"), &after(1, acked("far", 1, 5)));
    let forgotten = Event::Forgotten { log: log(), node: node("far"), incarnation: life(1) };
    assert!(board.hear(&node("two"), &forgotten)[0].is_withdrawal());

    // It has been made up for before that.
    let board = AckBoard::new(node("own"));
    ["one", "two"].iter().for_each(|by| drop(board.hear(&node(by), &acked("far", 1, 10))));
    board.hear(&node("one"), &after(1, withdrawn("far", 1, 0)));
    board.hear(&node("one"), &after(1, acked("far", 1, 10)));
    board.hear(&node("one"), &after(1, withdrawn("far", 1, 0)));
    board.hear(&node("one"), &after(1, acked("far", 1, 9)));
    assert!(board.hear(&node("two"), &forgotten)[0].is_forgotten);

    // What one has counted says nothing of what another one says.
    let board = AckBoard::new(node("own"));
    board.hear(&node("one"), &after(3, acked("far", 1, 7)));
    board.hear(&node("two"), &acked("far", 1, 10));
    assert!(board.hear(&node("two"), &withdrawn("far", 1, 0))[0].is_forgotten);
    board.hear(&node("one"), &after(u32::MAX, acked("far", 1, 8)));
    board.hear(&node("far"), &acked("far", 1, 8));
    assert!(board.hear(&node("far"), &withdrawn("far", 1, 6))[0].is_withdrawal(), "its own word");
}

#[test]
fn a_relay_that_never_spoke_of_a_life_ends_none() {
    let board = AckBoard::new(node("own"));
    board.hear(&node("hub"), &acked("far", 3, 10));
    assert_eq!(board.hear(&node("other"), &restated("far", 2, 0, 0)), [], "of a life before that");
    assert_eq!(board.hear(&node("other"), &withdrawn("far", 2, 0)), []);
    assert_eq!(known(&board), [("far".to_owned(), 10)]);
    let changes = board.hear(&node("hub"), &restated("far", 4, 3, 0));
    assert!(changes[0].is_withdrawal(), "another life has another disk");
}

#[test]
fn what_a_node_takes_back_is_counted_for_those_to_whom_it_is_passed_on() {
    let board = AckBoard::new(node("hub"));
    let upstream = board.subscribe(node("practice"));
    upstream.add(log());
    let losses = |event: &Event| {
        board.hear(&node("far"), event);
        upstream.take()[0].losses
    };
    assert_eq!(losses(&acked("far", 1, 9)), 0);
    assert_eq!(losses(&withdrawn("far", 1, 7)), 1);
    assert_eq!(losses(&acked("far", 1, 8)), 1, "more is no loss");
    assert_eq!(losses(&stated("far", 1, 6)), 2);
    assert_eq!(losses(&met("far", 2)), 3);
}

/// Nodes that pass on to each other, each to some others.
struct Mesh {
    boards: BTreeMap<&'static str, Arc<AckBoard>>,
    /// From whom to whom, and what was said there last.
    ways: Vec<(&'static str, &'static str, Subscription, BTreeMap<NodeName, Ack>)>,
}

impl Mesh {
    fn new(ways: &[(&'static str, &'static str)]) -> Self {
        let mut boards = BTreeMap::new();
        for name in ways.iter().flat_map(|(from, to)| [*from, *to]) {
            boards.entry(name).or_insert_with(|| AckBoard::new(node(name)));
        }
        let ways = ways.iter().map(|(from, to)| {
            let way = boards[from].subscribe(node(to));
            way.add(log());
            (*from, *to, way, BTreeMap::new())
        });
        let ways = ways.collect();
        Self { boards, ways }
    }

    /// Passes on until nobody has anything to say; how many words that took.
    fn settle(&mut self) -> usize {
        let mut words = 0;
        loop {
            let before = words;
            for (from, to, way, said) in &mut self.ways {
                for ack in way.take() {
                    let was = said.insert(ack.node.clone(), ack.clone());
                    if was.as_ref() == Some(&ack) || (was.is_none() && ack.head.next_seq == Seq::ZERO) {
                        continue;
                    }
                    words += 1;
                    assert!(words < 1000, "it goes round for ever");
                    assert!(ack.via.len() <= VIA_MAX && ack.node != node(to));
                    let is_unsaid = ack.via.contains(&node(to));
                    assert!(!is_unsaid || ack.head.next_seq == Seq::ZERO, "{ack:?}");
                    let Ack { log, node: of, incarnation, head, holes, via, losses } = ack;
                    let lost = was
                        .as_ref()
                        .is_some_and(|was| was.incarnation != incarnation || was.head.next_seq > head.next_seq);
                    let (board, from) = (&self.boards[to], node(from));
                    if is_unsaid && was.is_some_and(|was| was.incarnation == incarnation) {
                        board.hear(&from, &Event::Forgotten { log, node: of, incarnation });
                        continue;
                    }
                    if lost || head.next_seq == Seq::ZERO {
                        let (node, holes) = (of.clone(), holes.clone());
                        let withdrawn =
                            Event::Withdrawn { log, node, incarnation, from: head, to: nothing().head, holes, losses };
                        board.hear(&from, &withdrawn);
                    }
                    if head.next_seq > Seq::ZERO {
                        board.hear(&from, &Event::Acked { log, node: of, incarnation, head, holes, via, losses });
                    }
                }
            }
            if words == before {
                return words;
            }
        }
    }

    fn of(&self, name: &str, of: &str) -> Option<u64> {
        let known = known(&self.boards[name]).into_iter().find(|(node, _)| node == of);
        known.map(|(_, next_seq)| next_seq)
    }
}

#[test]
fn what_a_node_takes_back_does_not_come_round_in_a_ring_of_hubs() {
    // The witness is outside of the ring, so that none in it has the node's own word.
    let ring = [("witness", "x"), ("x", "l"), ("l", "r"), ("r", "x"), ("l", "x"), ("r", "l"), ("x", "r")];
    let mut mesh = Mesh::new(&ring);
    mesh.boards["witness"].hear(&node("far"), &acked("far", 1, 5));
    mesh.settle();
    for hub in ["x", "l", "r"] {
        assert_eq!(mesh.of(hub, "far"), Some(5));
    }
    mesh.boards["witness"].hear(&node("far"), &withdrawn("far", 1, 3));
    mesh.settle();
    for hub in ["x", "l", "r"] {
        assert_eq!(mesh.of(hub, "far"), Some(3), "{hub}");
    }
    // And in another life, which has nothing.
    mesh.boards["witness"].hear(&node("far"), &met("far", 2));
    mesh.settle();
    for hub in ["x", "l", "r"] {
        assert_eq!(mesh.of(hub, "far"), Some(0), "{hub}");
    }
}

#[test]
fn what_nobody_knows_any_more_is_forgotten_and_not_taken_back() {
    let board = AckBoard::new(node("own"));
    let (upstream, hub) = (board.subscribe(node("practice")), board.subscribe(node("hub")));
    [&upstream, &hub].iter().for_each(|session| session.add(log()));
    let forgotten = |life_of: u8| Event::Forgotten { log: log(), node: node("far"), incarnation: life(life_of) };
    board.hear(&node("hub"), &acked("far", 1, 5));
    assert_eq!(upstream.take()[0].head.next_seq, Seq(5));
    assert_eq!(board.hear(&node("hub"), &forgotten(2)), [], "of another life");
    assert_eq!(board.hear(&node("other"), &forgotten(1)), [], "of which nothing was said by that one");
    let changes = board.hear(&node("hub"), &forgotten(1));
    assert_eq!((changes[0].from, changes[0].ack.head.next_seq), (Some(head(5)), Seq::ZERO));
    assert!(changes[0].is_forgotten && !changes[0].is_withdrawal());
    let passed = upstream.take().remove(0);
    assert_eq!((passed.head.next_seq, passed.via), (Seq::ZERO, vec![node("practice")]), "nothing that it has not said");

    // While somebody else knows as much nothing has changed, and what is taken back is no less so.
    for peer in ["hub", "other"] {
        board.hear(&node(peer), &acked("far", 1, 5));
    }
    assert_eq!(board.hear(&node("hub"), &forgotten(1)), []);
    let changes = board.hear(&node("other"), &after(1, withdrawn("far", 1, 0)));
    assert!(changes[0].is_withdrawal() && !changes[0].is_forgotten);
    assert_eq!(upstream.take()[0].via, [node("other")]);

    // Nor is less a loss that the node did not take back.
    board.hear(&node("other"), &after(1, acked("far", 1, 7)));
    let changes = board.hear(&node("other"), &after(1, withdrawn("far", 1, 3)));
    assert!(changes[0].is_forgotten && !changes[0].is_withdrawal());
}

#[test]
fn a_word_that_is_left_only_with_those_who_heard_it_here_is_forgotten_by_all() {
    // What the witness said went round; then it and the node that heard it first are started again, and meet nobody.
    let mut mesh =
        Mesh::new(&[("witness", "x"), ("x", "l"), ("l", "r"), ("r", "x"), ("l", "x"), ("r", "l"), ("x", "r")]);
    mesh.boards["witness"].hear(&node("far"), &acked("far", 1, 5));
    mesh.settle();
    mesh.boards["x"].hear(&node("witness"), &Event::Forgotten { log: log(), node: node("far"), incarnation: life(1) });
    mesh.settle();
    for hub in ["x", "l", "r"] {
        assert_eq!(mesh.of(hub, "far"), None, "{hub}");
    }
}

#[test]
fn an_ack_comes_through_nine_hubs_and_no_further() {
    let hubs = ["h0", "h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "h9", "h10"];
    let ways: Vec<_> = hubs.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let mut mesh = Mesh::new(&ways);
    mesh.boards["h0"].hear(&node("far"), &acked("far", 1, 5));
    mesh.settle();
    assert_eq!((mesh.of("h9", "far"), mesh.of("h10", "far")), (Some(5), None));
}

#[test]
fn first_hand_is_what_a_node_said_itself_last_in_a_session_that_lives() {
    let board = AckBoard::new(node("own"));
    let first_hand =
        || board.first_hand(log()).into_iter().map(|ack| (ack.node, ack.head.next_seq.0)).collect::<Vec<_>>();
    let say = |session: &Subscription, by: &str, event: &Event| {
        session.note(event);
        board.hear(&node(by), event);
    };
    let relay = board.subscribe(node("relay"));
    say(&relay, "relay", &acked("far", 1, 7));
    assert_eq!(first_hand(), [], "what a relay says of another");
    let far = board.subscribe(node("far"));
    assert_eq!(first_hand(), [], "it has not spoken yet");
    say(&far, "far", &acked("far", 1, 5));
    assert_eq!(first_hand(), [(node("far"), 5)], "its own word, though another says more");
    drop(far);
    assert_eq!(first_hand(), [], "out of touch: it can't take anything back");
    let far = board.subscribe(node("far"));
    assert_eq!(first_hand(), [], "what it said before");
    say(&far, "far", &acked("far", 1, 4));
    assert_eq!(first_hand(), [(node("far"), 4)], "it has less than it had");
    say(&far, "far", &met("far", 2));
    assert_eq!(first_hand(), [], "of a former life");
    say(&far, "far", &acked("far", 2, 3));
    assert_eq!(first_hand(), [(node("far"), 3)]);

    // It has been rolled back, says so in another session, and what it has is not here any more; the first one seems to live.
    let second = board.subscribe(node("far"));
    say(&second, "far", &stated("far", 2, 1));
    assert_eq!(first_hand(), [(node("far"), 0)]);
    drop(second);

    // Another session of the same node, in which other logs may flow: each counts for what was said in it, and of both the lesser.
    let second = board.subscribe(node("far"));
    say(&second, "far", &acked("far", 2, 6));
    assert_eq!(first_hand(), [(node("far"), 3)]);
    drop(far);
    assert_eq!(first_hand(), [(node("far"), 6)]);
    let third = board.subscribe(node("far"));
    drop(second);
    assert_eq!(first_hand(), [], "nothing was said in the one that is left");
    say(&third, "far", &acked("far", 2, 7));
    // The flow is closed: nothing is taken back that all count, but nothing is removed for it.
    say(&third, "far", &Event::Unheard { log: log(), node: node("far") });
    assert_eq!(first_hand(), []);
    assert_eq!(known(&board), [("far".to_owned(), 7)]);
    say(&third, "far", &acked("far", 2, 7));
    assert_eq!(first_hand(), [(node("far"), 7)]);
    say(&third, "far", &withdrawn("far", 2, 2));
    assert_eq!(first_hand(), [(node("far"), 2)]);
    drop((relay, third));
}
