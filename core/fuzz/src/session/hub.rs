//! The node that is talked to, and what must hold of it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use counterfoil_replication::{
    Ack, AckBoard, Direction, Endpoint, Event, Limits, Message, Policy, Reconciled, SessionConfig, SessionError,
};
use counterfoil_storage::{Genesis, Head, Holes, Incarnation, Journal, LogId, NodeName, Seq, SpaceName, vfs::Memory};

use super::{
    CONTROL_MAX, More, POLICIES, SPACES, Step, WINDOW_BYTES, WRITERS, genesis, head, log, message, pick, space, world,
};
use crate::template::{self, DIR};

/// The longest batch that it takes.
const BATCH_LEN_MAX: u32 = 4 << 10;
/// Bytes that it reads ahead.
const READY_BYTES_MAX: usize = 2 << 10;
/// Logs of which it speaks at most.
const LOGS_MAX: usize = 40;

/// The node.
pub(super) struct Hub {
    journal: Journal,
    endpoint: Endpoint,
    config: SessionConfig,
    /// What it has heard of others' disks.
    board: Arc<AckBoard>,
    /// Which policy holds.
    policy: usize,
    /// What it wrote itself, in spaces of all kinds.
    own: Vec<LogId>,
    /// Logs that were there before the peer came.
    before: Vec<LogId>,
    brings: Vec<(SpaceName, Direction)>,
    /// How often it has offered each space.
    offers: BTreeMap<SpaceName, u32>,
    now: Instant,
}

impl Hub {
    pub(super) fn new(brings: [Option<bool>; 4]) -> Self {
        let disk = Memory::default();
        let node = NodeName::new("hub").unwrap();
        let journal = Journal::create(Path::new(DIR), node.clone(), template::options(&disk)).unwrap();
        let nonce = *journal.identity().incarnation.as_bytes();
        let mut own = Vec::new();
        for space in SPACES {
            let log = journal.create_log(Genesis { nonce, ..genesis(space, "hub") }).unwrap();
            journal.writer(log).unwrap().append(b"of the node itself").unwrap();
            own.push(log);
        }
        // A log of somebody else in each, up to its second batch.
        for space in SPACES {
            let log = journal.create_log(genesis(space, "q")).unwrap();
            for batch in &world().chains[&log].batches[..2] {
                journal.store(batch.clone()).unwrap();
            }
        }
        journal.commit().unwrap();
        let mut limits = Limits::default();
        limits.spaces_max = 6;
        limits.logs_max = LOGS_MAX;
        limits.session_window_bytes = 2 * WINDOW_BYTES;
        limits.space_window_bytes = WINDOW_BYTES;
        limits.space_window_bytes_min = WINDOW_BYTES / 4;
        limits.space_window_bytes_max = 4 * WINDOW_BYTES;
        limits.ready_bytes_max = READY_BYTES_MAX;
        limits.batch_len_max_bytes = BATCH_LEN_MAX;
        limits.control_max = CONTROL_MAX;
        limits.heads_at_once_max = 1;
        limits.fetch_bytes = 100;
        let directions =
            brings.iter().map(|both| both.map(|both| if both { Direction::Both } else { Direction::Send }));
        let brings: Vec<_> =
            (0..).zip(directions).filter_map(|(number, direction)| Some((space(number), direction?))).collect();
        let config = SessionConfig {
            local: node,
            incarnation: journal.identity().incarnation,
            peer: NodeName::new("p").unwrap(),
            spaces: brings.clone(),
            policy: Arc::new(Policy::parse(POLICIES[0]).unwrap()),
            limits,
        };
        let now = world().start;
        let board = AckBoard::new(config.local.clone());
        let before = journal.logs(None).into_iter().map(|info| info.id).collect();
        Self {
            endpoint: Endpoint::new(journal.clone(), config.clone(), now).with_acks(&board),
            config,
            board,
            policy: 0,
            journal,
            own,
            before,
            brings,
            offers: BTreeMap::new(),
            now,
        }
    }

    /// A new session of the same store, in which the peer has said hello.
    pub(super) fn meet_again(&mut self) {
        let config = SessionConfig { policy: Arc::new(Policy::parse(POLICIES[0]).unwrap()), ..self.config.clone() };
        self.policy = 0;
        self.offers.clear();
        self.endpoint = Endpoint::new(self.journal.clone(), config, self.now).with_acks(&self.board);
        self.step(&Step::Greet);
    }

    fn direction(&self, space: &SpaceName) -> Option<Direction> {
        self.brings.iter().find(|(name, _)| name == space).map(|(_, direction)| *direction)
    }

    /// Whether the peer may have what is in a space; or might, before a right was taken away.
    fn may_ever_read(&self, space: &SpaceName) -> bool {
        ["p", "shared"].contains(&space.as_str()) || self.direction(space).is_some()
    }

    /// Whether it may have that now.
    fn may_read(&self, space: &SpaceName) -> bool {
        let is_granted = self.policy != 1 && ["p", "shared"].contains(&space.as_str());
        is_granted || self.direction(space).is_some()
    }

    /// Whether what the peer says of others' disks counts.
    fn may_speak_for_others(&self, space: &SpaceName) -> bool {
        space.as_str() == "shared" || self.direction(space).is_some()
    }

    /// Whether the peer may bring a log.
    fn may_bring(&self, genesis: &Genesis) -> bool {
        let receives = self.direction(&genesis.space).is_some_and(Direction::receives);
        match genesis.space.as_str() {
            "shared" => true,
            "p" => genesis.node.as_str() == "p" || receives,
            _ => receives,
        }
    }

    pub(super) fn step(&mut self, step: &Step) -> bool {
        let handled = match step {
            Step::Commit => {
                self.journal.commit().unwrap();
                self.endpoint.handle_journal(self.now)
            }
            Step::Read => {
                self.transmit();
                Ok(())
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis((*ms).into());
                match self.endpoint.poll_timeout() {
                    Some(at) if at <= self.now => self.endpoint.handle_timeout(self.now),
                    _ => Ok(()),
                }
            }
            Step::Append => {
                for log in &self.own {
                    self.journal.writer(*log).unwrap().append(b"more").unwrap();
                }
                Ok(())
            }
            said => match message(said).map(|message| self.answering(message)) {
                Some(message) => self.endpoint.handle_message(self.now, message),
                None => Ok(()),
            },
        };
        self.settle(&handled)
    }

    /// Does a step of the newer kinds.
    pub(super) fn more(&mut self, more: &More) -> bool {
        let message = match more {
            More::Policy(number) => {
                self.policy = usize::from(*number) % POLICIES.len();
                let policy = Policy::parse(POLICIES[self.policy]).unwrap();
                let handled = self.endpoint.handle_policy(self.now, Arc::new(policy));
                return self.settle(&handled);
            }
            More::PassedAck { log: choice, node, life, at, hole, via } => Message::Ack(Ack {
                log: log(*choice),
                node: NodeName::new(pick(&["far", "farther", "hub", "q"], *node)).unwrap(),
                incarnation: Incarnation::from_bytes([*life % 3; 16]),
                head: head(*at, log(*choice)),
                holes: hole
                    .map(|first| (Seq(first.into()), Seq(u64::from(first) + 2)))
                    .map_or_else(Holes::default, |hole| Holes::try_from(vec![hole]).unwrap_or_default()),
                via: via.iter().take(8).map(|number| NodeName::new(pick(&WRITERS, *number)).unwrap()).collect(),
                losses: u32::from(*life / 3),
            }),
            More::Next(choice) => {
                let (log, chains) = (log(*choice), &world().chains);
                let has = self.journal.log(log).map_or(Seq::ZERO, |info| info.durable.next_seq);
                match chains[&log].batches.iter().find(|batch| batch.first_seq() == has) {
                    Some(batch) => Message::Batch(batch.clone()),
                    None => return true,
                }
            }
            More::TrueAck { space: number, own } => {
                let name = space(*number);
                let logs = self.journal.logs(Some(&name));
                let mine = logs.into_iter().find(|info| (info.genesis.node.as_str() == "hub") == *own);
                let Some(info) = mine else { return true };
                let (node, incarnation) = (NodeName::new("p").unwrap(), Incarnation::from_bytes([0; 16]));
                let (holes, via) = (Holes::default(), Vec::new());
                Message::Ack(Ack { log: info.id, node, incarnation, head: info.durable, holes, via, losses: 0 })
            }
        };
        let handled = self.endpoint.handle_message(self.now, message);
        self.settle(&handled)
    }

    /// Does what the endpoint wants, and judges what it tells and holds. Whether the session goes on.
    fn settle(&mut self, handled: &Result<(), SessionError>) -> bool {
        if handled.is_err() {
            return false;
        }
        while let Some(fetch) = self.endpoint.poll_fetch() {
            if self.endpoint.handle_fetched(self.now, fetch.run()).is_err() {
                return false;
            }
        }
        while let Some(event) = self.endpoint.poll_event() {
            self.judge_event(&event);
            self.board.hear(&NodeName::new("p").unwrap(), &event);
        }
        let held = self.endpoint.held();
        // Twice a space's window is the session's; and a batch each.
        let (received_max, batch) = (8 * WINDOW_BYTES, u64::from(BATCH_LEN_MAX));
        assert!(held.received_bytes <= received_max + batch, "{held:?}");
        assert!(held.read_bytes <= READY_BYTES_MAX as u64 + batch * LOGS_MAX as u64, "{held:?}");
        assert!(held.messages <= CONTROL_MAX + 4 * LOGS_MAX, "{held:?}");
        true
    }

    /// What it believes of others' disks.
    fn judge_event(&self, event: &Event) {
        let Event::Acked { log, node, head, .. } = event else { return };
        let info = self.journal.log(*log).expect("a log of the journal");
        assert!(node.as_str() != "hub" && *node != info.genesis.node, "{node} was counted for its own log, or itself");
        assert!(
            node.as_str() == "p" || self.may_speak_for_others(&info.genesis.space),
            "the peer was believed to speak for {node}"
        );
        assert!(head.next_seq <= info.durable.next_seq, "more was believed than there is: {event:?}");
        let last = head.next_seq.0.checked_sub(1).map(|last| self.journal.read_batch(*log, Seq(last)));
        let is_on_chain = |found: Head| found == *head;
        assert!(
            last.is_none_or(|found| found.unwrap().is_some_and(|batch| is_on_chain(batch.head()))),
            "another history was believed: {event:?}"
        );
    }

    /// That all is equal is said of the last offer, or of none.
    fn answering(&self, message: Message) -> Message {
        match message {
            Message::Equal(answer) => {
                let offer = self.offers.get(&answer.space).copied();
                Message::Equal(Reconciled { offer: offer.unwrap_or(answer.offer), ..answer })
            }
            message => message,
        }
    }

    /// Takes all that is to be sent, and judges it.
    pub(super) fn transmit(&mut self) {
        // Two messages a log and space, and what was waiting.
        let bound = 4 * CONTROL_MAX + 1000;
        for count in 0.. {
            assert!(count < bound, "sending has no end");
            let Some(message) = self.endpoint.poll_transmit() else { return };
            match message {
                Message::Batch(batch) | Message::MendBatch(batch) => {
                    let info = self.journal.log(batch.log()).expect("a log of the journal");
                    assert!(self.may_read(&info.genesis.space), "{} leaves", info.genesis.space);
                    assert!(batch.next_seq() <= info.durable.next_seq, "a batch leaves before it is durable");
                }
                Message::Announce(announce) => {
                    assert!(self.may_ever_read(&announce.genesis.space), "{} is announced", announce.genesis.space);
                    let info = self.journal.log(announce.genesis.log_id()).expect("a log of the journal");
                    assert!(announce.head.next_seq <= info.durable.next_seq);
                }
                Message::Heads(heads) => {
                    for said in heads.heads {
                        let info = self.journal.log(said.log).expect("a log of the journal");
                        assert_eq!(info.genesis.space, heads.space, "another space's head is told");
                        assert!(said.head.next_seq <= info.durable.next_seq);
                    }
                }
                Message::Offer(offer) | Message::Exchange(offer) => *self.offers.entry(offer.space).or_default() += 1,
                Message::Ack(ack) if ack.node.as_str() == "hub" => {
                    let durable = self.journal.log(ack.log).map_or(Seq::ZERO, |info| info.durable.next_seq);
                    assert!(
                        ack.head.next_seq <= durable,
                        "{} is acknowledged, {durable} is durable",
                        ack.head.next_seq
                    );
                }
                _ => {}
            }
        }
    }

    /// Nothing is there without a right, and what is there is whole.
    pub(super) fn judge(&mut self) {
        self.transmit();
        let status = self.endpoint.status();
        assert!(status.spaces.len() <= 6, "{} spaces", status.spaces.len());
        self.journal.commit().unwrap();
        for info in self.journal.logs(None) {
            let was_there = self.before.contains(&info.id);
            assert!(was_there || self.may_bring(&info.genesis), "{:?} was stored without a right", info.genesis);
            if was_there && !self.own.contains(&info.id) && !self.may_bring(&info.genesis) {
                assert_eq!(info.durable.next_seq, Seq(4), "{:?} grew without a right", info.genesis);
            }
            let mut head = info.genesis.head();
            for batch in self.journal.read(info.id, Seq::ZERO) {
                let batch = batch.expect("what was stored is whole");
                assert_eq!(
                    (batch.first_seq(), batch.header().previous),
                    (head.next_seq, head.digest),
                    "the chain holds"
                );
                batch.check_records().expect("its records were checked");
                head = batch.head();
            }
            assert_eq!(head, info.durable);
        }
    }
}
