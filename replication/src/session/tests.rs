//! Two sessions over model stores, joined by the codec.

mod hostile;
mod mending;
mod passing;
mod permission;
mod reconciling;
mod rewound;
mod streaming;
mod sync;
mod transcript;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use counterfoil_storage::{
    Batch, BatchBuilder, Genesis, Head, Hlc, Hole, Holes, Incarnation, LogId, MAX_BATCH_LEN, NodeName, Seq, SpaceName,
};

use super::{FetchFailure, LogState, MendingRequest, MendingResult, Session, StoreFailure};
use crate::{
    codec,
    config::{Direction, Limits, SessionConfig},
    error::SessionError,
    event::{By, Event},
    message::{GapCause, Message, ParkReason},
    policy::Policy,
};

pub(super) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(super) fn space(name: &str) -> SpaceName {
    SpaceName::new(name).unwrap()
}

pub(super) fn incarnation(name: &str) -> Incarnation {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Incarnation::from_bytes(bytes)
}

pub(super) fn genesis(space_name: &str, writer: &str) -> Genesis {
    Genesis::new(space(space_name), node(writer), [7; 16])
}

/// A batch that follows `head`, of records with these bodies.
pub(super) fn batch(log: LogId, head: Head, bodies: &[&str]) -> Batch {
    let mut builder = BatchBuilder::with_capacity(64);
    for body in bodies {
        builder.push(Hlc::from_bits(1), body.as_bytes());
    }
    builder.seal(log, head)
}

#[expect(clippy::disallowed_methods, reason = "a test's beginning of time")]
pub(super) fn start() -> Instant {
    Instant::now()
}

/// One log of a model store.
#[derive(Clone)]
pub(super) struct ModelLog {
    pub(super) genesis: Arc<Genesis>,
    pub(super) batches: Vec<Batch>,
    /// How many of the batches are durable, and how many of the first were trimmed.
    pub(super) durable: usize,
    pub(super) trimmed: usize,
    /// Which of them have rotted.
    pub(super) lost: BTreeSet<usize>,
}

impl ModelLog {
    pub(super) fn head_at(&self, count: usize) -> Head {
        count.checked_sub(1).map_or_else(|| self.genesis.head(), |last| self.batches[last].head())
    }

    fn state(&self, id: LogId) -> LogState {
        let first_seq = self.batches.get(self.trimmed).map_or(Seq::ZERO, Batch::first_seq);
        let durable = self.head_at(self.durable);
        let bytes = self.batches[..self.durable].iter().map(|batch| batch.bytes().len() as u64).sum();
        let holes = self.holes().into_iter().map(|hole| (hole.first_seq, hole.end.next_seq)).collect::<Vec<_>>();
        let holes = Holes::try_from(holes).unwrap();
        LogState { id, genesis: Arc::clone(&self.genesis), first_seq, durable, bytes, holes }
    }

    fn holes(&self) -> Vec<Hole> {
        let mut holes: Vec<Hole> = Vec::new();
        for batch in self.lost.iter().map(|index| &self.batches[*index]) {
            match holes.last_mut().filter(|hole| hole.end.next_seq == batch.first_seq()) {
                Some(hole) => hole.end = batch.head(),
                None => holes.push(Hole { first_seq: batch.first_seq(), end: batch.head() }),
            }
        }
        holes
    }

    /// Takes back a batch that had rotted, if it is the very one.
    fn mend(&mut self, batch: &Batch) -> bool {
        let index = self.batches.iter().position(|stored| stored == batch);
        index.is_some_and(|index| self.lost.remove(&index))
    }
}

/// A session over a model of a store.
pub(super) struct Node {
    pub(super) session: Session,
    pub(super) logs: BTreeMap<LogId, ModelLog>,
    pub(super) events: Vec<Event>,
    /// Whether what is stored becomes durable at once.
    pub(super) flushing: bool,
    /// Whether the disk takes anything.
    pub(super) full: bool,
    /// A hole that reads of any log meet.
    pub(super) hole: Option<(Seq, Seq)>,
    /// How many batches each answer brought that mended something here.
    pub(super) mended: Vec<usize>,
    /// Every message taken from the session.
    pub(super) sent: Vec<Message>,
}

impl Node {
    pub(super) fn new(name: &str, peer: &str, spaces: &[(&str, Direction)]) -> Self {
        Self::with(name, peer, spaces, Policy::own_space_only(), Limits::default())
    }

    pub(super) fn with(name: &str, peer: &str, spaces: &[(&str, Direction)], policy: Policy, limits: Limits) -> Self {
        let config = SessionConfig {
            local: node(name),
            incarnation: incarnation(name),
            peer: node(peer),
            spaces: spaces.iter().map(|(name, direction)| (space(name), *direction)).collect(),
            policy: Arc::new(policy),
            limits,
        };
        Self {
            session: Session::new(config, start()),
            logs: BTreeMap::new(),
            events: Vec::new(),
            flushing: true,
            full: false,
            hole: None,
            mended: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// A new session of the same node and store.
    pub(super) fn reconnect(&mut self) {
        self.session = Session::new(self.session.config().clone(), start());
        for log in self.logs.values_mut() {
            log.batches.truncate(log.durable);
        }
        self.events.clear();
        self.sent.clear();
    }

    /// Appends one batch durably to the log of `writer` in a space.
    pub(super) fn append(&mut self, space_name: &str, writer: &str, bodies: &[&str]) -> LogId {
        let genesis = genesis(space_name, writer);
        let id = genesis.log_id();
        let log = self.logs.entry(id).or_insert_with(|| ModelLog {
            genesis: Arc::new(genesis),
            batches: Vec::new(),
            durable: 0,
            trimmed: 0,
            lost: BTreeSet::new(),
        });
        let batch = batch(id, log.head_at(log.batches.len()), bodies);
        log.batches.push(batch);
        log.durable = log.batches.len();
        self.announce_logs();
        id
    }

    /// Tells the session of all logs.
    pub(super) fn announce_logs(&mut self) {
        let spaces: Vec<_> = self.session.spaces().cloned().collect();
        for space in spaces {
            self.load(&space);
        }
    }

    fn load(&mut self, space: &SpaceName) {
        let logs = self.logs.iter().filter(|(_, log)| log.genesis.space == *space);
        let states: Vec<_> = logs.map(|(id, log)| log.state(*id)).collect();
        let now = self.session.liveness.last_heard;
        self.session.handle_logs(now, space, &states);
    }

    /// Makes durable what is stored.
    pub(super) fn flush(&mut self) {
        for log in self.logs.values_mut() {
            log.durable = log.batches.len();
        }
        self.announce_logs();
    }

    pub(super) fn handle(&mut self, now: Instant, message: Message) -> Result<(), SessionError> {
        self.session.handle_message(now, message)?;
        self.serve(now);
        Ok(())
    }

    /// Does what the session wants of its store.
    pub(super) fn serve(&mut self, now: Instant) {
        loop {
            let mut idle = true;
            while let Some(space) = self.session.poll_load() {
                self.load(&space);
                idle = false;
            }
            while let Some(request) = self.session.poll_store() {
                let id = request.batch.log();
                if let Some(failure) = self.store(&request) {
                    self.session.handle_store_failed(now, id, failure);
                }
                idle = false;
            }
            while let Some(log) = self.session.poll_lookup() {
                let state = self.logs.get(&log).map(|known| known.state(log));
                self.session.handle_lookup(log, state.as_ref());
                idle = false;
            }
            while let Some(request) = self.session.poll_mending() {
                let result = self.mend(request);
                self.session.handle_mending(result);
                self.announce_logs();
                idle = false;
            }
            while let Some(request) = self.session.poll_fetch() {
                let result = self.fetch(&request);
                self.session.handle_fetched(now, request, result);
                idle = false;
            }
            if self.flushing && self.logs.values().any(|log| log.durable < log.batches.len()) {
                self.flush();
                idle = false;
            }
            self.events.extend(std::iter::from_fn(|| self.session.poll_event()));
            if idle {
                return;
            }
        }
    }

    fn store(&mut self, request: &super::StoreRequest) -> Option<StoreFailure> {
        let batch = &request.batch;
        if self.full {
            return Some(StoreFailure::Retry);
        }
        let log = self.logs.entry(batch.log()).or_insert_with(|| ModelLog {
            genesis: Arc::clone(&request.genesis),
            batches: Vec::new(),
            durable: 0,
            trimmed: 0,
            lost: BTreeSet::new(),
        });
        let head = log.head_at(log.batches.len());
        if batch.first_seq() > head.next_seq {
            return Some(StoreFailure::Retry);
        }
        if batch.first_seq() == head.next_seq && batch.header().previous == head.digest {
            log.batches.push(batch.clone());
            return None;
        }
        let duplicate = log.batches.contains(batch);
        (!duplicate).then_some(StoreFailure::Diverged { first_seq: batch.first_seq(), local: head })
    }

    fn mend(&mut self, request: MendingRequest) -> MendingResult {
        match request {
            MendingRequest::Ends(id) => MendingResult::Ends(id, Some(self.logs[&id].holes())),
            MendingRequest::Store { log, batches } => {
                self.mended.push(batches.len());
                let model = self.logs.get_mut(&log).unwrap();
                MendingResult::Stored(log, batches.iter().all(|batch| model.mend(batch)))
            }
        }
    }

    /// Has batches of a log rot.
    pub(super) fn rot(&mut self, id: LogId, lost: impl IntoIterator<Item = usize>) {
        self.logs.get_mut(&id).unwrap().lost.extend(lost);
        self.announce_logs();
    }

    /// Reads backwards from `before`.
    fn fetch_back(&self, request: &super::FetchRequest, mut before: Head) -> Result<Vec<Batch>, FetchFailure> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let log = &self.logs[&request.log];
        while before.next_seq > request.from && (batches.is_empty() || bytes < request.bytes_max) {
            let found = log.batches[..log.durable].iter().position(|batch| batch.head() == before);
            let lacking = found.is_none_or(|index| log.lost.contains(&index));
            let Some(batch) = found.filter(|_| !lacking).map(|index| &log.batches[index]) else {
                let cause = if found.is_some() { GapCause::Damaged } else { GapCause::Absent };
                let failure = FetchFailure { first_seq: request.from, next_seq: before.next_seq, cause };
                return if batches.is_empty() { Err(failure) } else { Ok(batches) };
            };
            before = Head { next_seq: batch.first_seq(), digest: batch.header().previous };
            bytes += batch.bytes().len();
            batches.push(batch.clone());
        }
        Ok(batches)
    }

    fn fetch(&self, request: &super::FetchRequest) -> Result<Vec<Batch>, FetchFailure> {
        if let Some(before) = request.before {
            return self.fetch_back(request, before);
        }
        let mut batches = Vec::new();
        let mut bytes = 0;
        let Some(log) = self.logs.get(&request.log) else { return Ok(batches) };
        let rotten = log.lost.iter().map(|index| &log.batches[*index]).map(|lost| (lost.first_seq(), lost.next_seq()));
        let holes: Vec<_> = self.hole.into_iter().chain(rotten).collect();
        for batch in log.batches[log.trimmed..log.durable].iter().filter(|batch| batch.next_seq() > request.from) {
            let meets = |hole: &&(Seq, Seq)| hole.0 < batch.next_seq() && batch.first_seq() < hole.1;
            if let Some((first_seq, next_seq)) = holes.iter().find(meets).copied() {
                let failure = FetchFailure { first_seq, next_seq, cause: GapCause::Hole };
                return if batches.is_empty() { Err(failure) } else { Ok(batches) };
            }
            bytes += batch.bytes().len();
            batches.push(batch.clone());
            if bytes >= request.bytes_max {
                break;
            }
        }
        Ok(batches)
    }

    pub(super) fn bodies(&self, log: LogId) -> Vec<String> {
        let records = self.logs.get(&log).into_iter().flat_map(|log| &log.batches).flat_map(Batch::records);
        records.map(|record| String::from_utf8(record.unwrap().body.to_vec()).unwrap()).collect()
    }

    pub(super) fn acked(&self, id: LogId) -> Option<Seq> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Acked { log, head, .. } | Event::Holds { log, head, .. } if *log == id => Some(head.next_seq),
            _ => None,
        })
    }

    pub(super) fn parked(&self, id: LogId) -> Option<(ParkReason, By)> {
        self.events.iter().find_map(|event| match event {
            Event::Parked { log, reason, by } if *log == id => Some((reason.clone(), *by)),
            _ => None,
        })
    }

    pub(super) fn batches_sent(&self) -> usize {
        self.sent.iter().filter(|message| matches!(message, Message::Batch(_))).count()
    }

    /// Takes one message, through its bytes.
    pub(super) fn transmit(&mut self) -> Option<Message> {
        let message = self.session.poll_transmit()?;
        self.sent.push(message.clone());
        let mut bytes = BytesMut::new();
        codec::encode(&message, &mut bytes);
        let decoded = codec::decode(&mut bytes, MAX_BATCH_LEN as u32).unwrap().unwrap();
        assert_eq!(decoded, message, "a message reads back from its bytes");
        assert!(bytes.is_empty());
        Some(decoded)
    }
}

/// Carries messages both ways until neither end has any.
pub(super) fn run(now: Instant, a: &mut Node, b: &mut Node) {
    a.serve(now);
    b.serve(now);
    loop {
        let (from_a, from_b) = (a.transmit(), b.transmit());
        if from_a.is_none() && from_b.is_none() {
            return;
        }
        if let Some(message) = from_a {
            b.handle(now, message).unwrap();
        }
        if let Some(message) = from_b {
            a.handle(now, message).unwrap();
        }
        a.serve(now);
        b.serve(now);
    }
}

/// Lets time pass, a second at a time, while messages flow.
pub(super) fn pass(from: Instant, seconds: u32, a: &mut Node, b: &mut Node) -> Instant {
    let mut now = from;
    for _ in 0..seconds {
        now += SECOND;
        a.session.handle_timeout(now).unwrap();
        b.session.handle_timeout(now).unwrap();
        run(now, a, b);
    }
    now
}

/// A practice that mirrors its own space to a hub.
pub(super) fn practice_and_hub() -> (Node, Node) {
    (Node::new("p", "hub", &[("p", Direction::Send)]), Node::new("hub", "p", &[]))
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
