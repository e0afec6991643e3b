//! The session: one connection's protocol, as a machine.
//!
//! Code map: [`state`] is what is known of spaces and logs; [`reconciling`] offers and takes the answer, [`source`] finds where
//! each log stands at the target, [`sending`] reads ahead and sends; [`answering`] answers offers, [`target`] stores and acknowledges; [`mending`] gets back what was lost;
//! [`passing`] has acks of other nodes; [`keeping`] bounds the logs that a peer may bring; [`permission`] applies the policy; [`liveness`] keeps the timers; [`status`] reports.

mod answering;
mod keeping;
mod liveness;
mod mending;
mod passing;
mod permission;
mod reconciling;
mod rewound;
mod sending;
mod source;
mod state;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod window;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use counterfoil_storage::{Batch, Genesis, Head, Holes, Incarnation, LogId, Seq, SpaceName};

pub use self::mending::{MendingRequest, MendingResult};
use self::{
    liveness::{Liveness, Timer},
    mending::MendingQueues,
    passing::PassingQueues,
    sending::SourceQueues,
    state::{Inflow, Log, Outflow, Space},
    target::TargetQueues,
    window::WindowMeter,
};
use crate::{
    codec,
    config::{Direction, SessionConfig},
    error::{PeerMisbehaved, SessionError},
    event::{By, Event, Held, SessionStatus},
    memory::{Memory, Statements},
    message::{Flow, GapCause, Hello, Message, PROTOCOL_MAX, PROTOCOL_MIN, Refusal, Want},
    policy::Policy,
};

/// A log as the journal knows it.
#[derive(Debug, Clone)]
pub struct LogState {
    /// Its name: that of its genesis.
    pub id: LogId,
    /// What it began with.
    pub genesis: Arc<Genesis>,
    /// The first record kept.
    pub first_seq: Seq,
    /// Where it durably ends.
    pub durable: Head,
    /// Bytes of its batches.
    pub bytes: u64,
    /// What is known to be missing of it.
    pub holes: Holes,
}

/// A batch to be stored, right and chain being checked.
#[derive(Debug, Clone)]
pub struct StoreRequest {
    /// What its log began with: make the log known first.
    pub genesis: Arc<Genesis>,
    /// The batch.
    pub batch: Batch,
}

/// Why a batch was not stored, or is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFailure {
    /// The disk is full, or what was queued before it was lost: it is asked for again after a while.
    Retry,
    /// The journal holds another history.
    Diverged {
        /// Where the batch begins.
        first_seq: Seq,
        /// Where the log ends in the journal.
        local: Head,
    },
    /// The log would be this node's own in its present life, and this node never began it.
    Forged,
    /// The journal found the batch unsound.
    Unsound {
        /// Where the batch begins.
        first_seq: Seq,
    },
}

/// A range to be read: durable batches from the one that holds `from`; or, if `before` says so, backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchRequest {
    /// The log.
    pub log: LogId,
    /// The first record wanted.
    pub from: Seq,
    /// Read backwards: the batch that ends in this head first, then each one whose digest the last one names, down to
    /// the one that begins with `from`. [`GapCause::Absent`] if there is no such batch.
    pub before: Option<Head>,
    /// Stop after the batch with which their bytes reach this; at least one batch is read.
    pub bytes_max: usize,
    /// Tells a read that has become pointless.
    generation: u64,
    purpose: Purpose,
}

/// What a read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To send what is read, or to find the target's head.
    Stream,
    /// To find a head that the peer passed on.
    Judge,
    /// To answer a peer that has lost it.
    Mend,
}

impl FetchRequest {
    /// Whether it goes on where an earlier one of the log stopped, or will be gone on with.
    pub fn is_stream(&self) -> bool {
        self.purpose == Purpose::Stream
    }
}

/// Records can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchFailure {
    /// The first sequence number missing.
    pub first_seq: Seq,
    /// The first after those missing.
    pub next_seq: Seq,
    /// Why.
    pub cause: GapCause,
}

/// One connection's protocol, without IO, clock or journal.
///
/// One input (`handle_…`), then drain what it has to say (`poll_…`) in this order: [`poll_load`](Self::poll_load)
/// (answer each with [`handle_logs`](Self::handle_logs)), [`poll_lookup`](Self::poll_lookup), [`poll_store`](Self::poll_store),
/// [`poll_fetch`](Self::poll_fetch), [`poll_mending`](Self::poll_mending), [`poll_opened`](Self::poll_opened), [`poll_event`](Self::poll_event), and, as far as the connection
/// takes them, [`poll_transmit`](Self::poll_transmit). [`Endpoint`](crate::Endpoint) does all but the last two.
///
/// An error ends the session: nothing may be called after it. A panic is a bug here, never the peer's doing.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    /// What the peer said of itself; `None` until it did.
    peer: Option<PeerHello>,
    spaces: Vec<Space>,
    /// Positions in `spaces`.
    space_index: HashMap<SpaceName, usize>,
    logs: HashMap<LogId, Log>,
    /// It has been told that not all logs found a place.
    overflow_told: bool,
    /// What is said in this session and was said in earlier ones; `None` if only for as long as it lasts.
    memory: Option<Arc<Memory>>,
    loads: VecDeque<SpaceName>,
    /// Control messages in order; at most `limits.control_max` that the peer caused.
    control: VecDeque<Message>,
    events: VecDeque<Event>,
    /// Logs of this node of which the peer holds more, or something else; at most 16.
    claims: Vec<(LogId, Head)>,
    source: SourceQueues,
    target: TargetQueues,
    passing: PassingQueues,
    mending: MendingQueues,
    liveness: Liveness,
    window: WindowMeter,
}

/// What the peer's `Hello` said; the windows as it has said last.
#[derive(Debug, Clone, Copy)]
struct PeerHello {
    incarnation: Incarnation,
    space_window_bytes: u64,
    session_window_bytes: u64,
    batch_len_max_bytes: u32,
    takes_zstd: bool,
}

/// What a peer may claim as a window: far more than any, and sums of them don't overflow.
const WINDOW_BYTES_MAX: u64 = 1 << 40;

fn check_windows(session_bytes: u64, space_bytes: u64) -> Result<(), PeerMisbehaved> {
    for (field, value) in [("session window", session_bytes), ("space window", space_bytes)] {
        if value == 0 || value > WINDOW_BYTES_MAX {
            return Err(PeerMisbehaved::OutOfRange { field, value });
        }
    }
    Ok(())
}

impl Session {
    /// Begins a session: says hello and offers or asks for the configured spaces.
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        let liveness = Liveness::new(&config.limits, now);
        let hello = Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            incarnation: config.incarnation,
            session_window_bytes: config.limits.session_window_bytes,
            space_window_bytes: config.limits.space_window_bytes,
            batch_len_max_bytes: config.limits.batch_len_max_bytes,
            next_ms: liveness.interval_ms(),
            takes_zstd: codec::TAKES_ZSTD,
        };
        let mut session = Self {
            peer: None,
            spaces: Vec::new(),
            space_index: HashMap::new(),
            logs: HashMap::new(),
            overflow_told: false,
            memory: None,
            loads: VecDeque::new(),
            control: VecDeque::from([Message::Hello(hello)]),
            events: VecDeque::new(),
            claims: Vec::new(),
            source: SourceQueues::default(),
            target: TargetQueues::default(),
            passing: PassingQueues::default(),
            mending: MendingQueues::default(),
            window: WindowMeter::new(&config.limits),
            liveness,
            config,
        };
        for (name, direction) in session.config.spaces.clone() {
            session.bring(&name, direction);
        }
        session
    }

    /// Brings a space into the session that its configuration did not name: offers it or asks for it, as if it had.
    ///
    /// One too many is refused, with an event.
    pub fn bring(&mut self, name: &SpaceName, direction: Direction) {
        let limit = self.config.limits.spaces_max.max(self.config.spaces.len());
        if !self.space_index.contains_key(name) && self.spaces.len() >= limit {
            let (space, flow, reason, by) = (name.clone(), Flow::Outgoing, Refusal::TooManySpaces, By::Local);
            return self.events.push_back(Event::Refused { space, flow, reason, by });
        }
        let index = self.add_space(name.clone(), Some(direction));
        self.spaces[index].brought = Some(direction);
        let space = &mut self.spaces[index];
        if direction.receives() && matches!(space.inflow, Inflow::Closed) {
            space.ask();
            space.want_due = true;
        }
        if direction.sends() && matches!(space.outflow, Outflow::Closed) {
            space.offer_due = true;
            self.load(index);
        } else {
            self.want(index);
        }
        if direction == Direction::Mend {
            self.load(index);
        }
    }

    /// Goes on from what was said in earlier sessions with the peer, and remembers what is said in this one. Call before
    /// anything was sent.
    pub(crate) fn remember_in(&mut self, memory: &Arc<Memory>) {
        self.memory = Some(Arc::clone(memory));
        for index in 0..self.spaces.len() {
            self.spaces[index].statements = self.statements_of(&self.spaces[index].name);
            if self.spaces[index].outflow == Outflow::Offered {
                self.recall_offer(index);
            }
        }
    }

    /// Takes a message from the peer.
    pub fn handle_message(&mut self, now: Instant, message: Message) -> Result<(), SessionError> {
        self.liveness.heard(now);
        let handled = match message {
            Message::Hello(hello) => return self.handle_hello(now, &hello),
            Message::Close(reason) => {
                return Err(SessionError::ClosedByPeer { node: self.config.peer.clone(), reason });
            }
            _ if self.peer.is_none() => Err(PeerMisbehaved::NoHello),
            Message::Want(want) => {
                self.handle_want(want);
                Ok(())
            }
            Message::Offer(offer) => {
                self.handle_offer(offer);
                Ok(())
            }
            Message::Exchange(offer) => {
                self.handle_want(Want { space: offer.space.clone() });
                self.handle_offer(offer);
                Ok(())
            }
            Message::Equal(answer) => self.handle_equal(now, &answer),
            Message::Heads(heads) => self.handle_heads(now, heads),
            Message::Sketch(sketch) => self.handle_sketch(now, sketch),
            Message::Differing(differing) => self.handle_differing(differing),
            Message::Refuse(refuse) => self.handle_refuse(refuse),
            Message::Announce(announce) => self.handle_announce(announce),
            Message::Ack(ack) => self.handle_ack(&ack),
            Message::Credit(credit) => self.handle_credit(&credit),
            Message::Window(window) => self.handle_window(window),
            Message::Probe(number) => {
                self.control.push_back(Message::Echo(number));
                Ok(())
            }
            Message::Echo(number) => self.handle_echo(now, number),
            Message::Rewind(rewind) => self.handle_rewind(&rewind),
            Message::Park(park) => {
                self.handle_park(park);
                Ok(())
            }
            Message::Heartbeat(heartbeat) => self.handle_heartbeat(&heartbeat),
            Message::CaughtUp(caught_up) => self.handle_caught_up(caught_up),
            Message::Batch(batch) => self.handle_batch(now, batch),
            Message::DamagedBatch { log, first_seq, len_bytes } => self.handle_damaged_batch(log, first_seq, len_bytes),
            Message::Mend(mend) => self.handle_mend(mend),
            Message::MendEnd(answer) => {
                self.handle_mend_end(answer);
                Ok(())
            }
            Message::MendBatch(batch) => {
                self.handle_mend_batch(batch);
                Ok(())
            }
            Message::DamagedMendBatch { log } => {
                self.handle_damaged_mend_batch(log);
                Ok(())
            }
        };
        self.ask_for_unplaced(now);
        handled.and_then(|()| self.check_flood()).map_err(|what| self.misbehaved(what))
    }

    /// Takes logs of a space as they durably are: all of them as the answer to [`poll_load`](Self::poll_load), and from
    /// then on those that have durably grown. Spaces that the session does not have are ignored.
    pub fn handle_logs(&mut self, now: Instant, space: &SpaceName, logs: &[LogState]) {
        let Some(&index) = self.space_index.get(space) else { return };
        for state in logs {
            self.update_log(now, index, state);
        }
        if !std::mem::replace(&mut self.spaces[index].loaded, true) {
            self.begin_flows(index);
        }
    }

    /// Call when [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        while let Some(timer) = self.liveness.expired(now) {
            match timer {
                Timer::Handshake => {
                    let limit = self.config.limits.handshake_timeout;
                    return Err(SessionError::HandshakeTimeout { node: self.config.peer.clone(), limit });
                }
                Timer::Silence => {
                    let limit = self.liveness.silence_limit();
                    return Err(SessionError::Silent { node: self.config.peer.clone(), limit });
                }
                Timer::Heartbeat => {
                    self.heartbeat(now);
                    self.retry_mending();
                }
                Timer::Retry => self.rewind_stalled(),
            }
        }
        Ok(())
    }

    /// Replaces the policy. An error means that the peer is denied now.
    pub fn handle_policy(&mut self, policy: Arc<Policy>) -> Result<(), SessionError> {
        self.config.policy = policy;
        self.check_denied()?;
        for index in 0..self.spaces.len() {
            self.apply_policy(index);
        }
        self.recheck_answer();
        Ok(())
    }

    /// A space of the session whose logs it needs: answer with [`handle_logs`](Self::handle_logs).
    pub fn poll_load(&mut self) -> Option<SpaceName> {
        self.loads.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next message to send: control first, then batches in fair rotation as far as there is credit.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        self.control
            .pop_front()
            .or_else(|| self.next_ack())
            .or_else(|| self.next_credit())
            .or_else(|| self.next_answer())
            // Behind the answer that opens the flow: before it nobody listens.
            .or_else(|| self.next_passed_ack())
            .or_else(|| self.next_mend_message())
            .or_else(|| self.next_batch())
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.liveness.next()
    }

    /// How the session stands.
    pub fn status(&self) -> SessionStatus {
        self.report()
    }

    /// What it holds in memory.
    pub fn held(&self) -> Held {
        let read_bytes = self.source.ready_bytes as u64;
        Held { received_bytes: self.target_outstanding(), read_bytes, messages: self.control.len() }
    }

    /// Names of the spaces of the session whose logs it has asked for, in no special order.
    pub fn spaces(&self) -> impl Iterator<Item = &SpaceName> + Clone {
        self.spaces.iter().filter(|space| space.load_asked).map(|space| &space.name)
    }

    /// Whether it has asked for the logs of a space.
    pub fn has_asked_for(&self, space: &SpaceName) -> bool {
        self.space_index.get(space).is_some_and(|index| self.spaces[*index].load_asked)
    }

    /// Whether the peer has said that what is said to it may be compressed by Zstandard.
    pub fn peer_takes_zstd(&self) -> bool {
        self.peer.is_some_and(|peer| peer.takes_zstd)
    }

    /// What it was told when it began.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    fn handle_hello(&mut self, now: Instant, hello: &Hello) -> Result<(), SessionError> {
        if self.peer.is_some() {
            return Err(self.misbehaved(PeerMisbehaved::SecondHello));
        }
        let protocol = PROTOCOL_MAX.min(hello.protocol_max);
        if protocol < PROTOCOL_MIN.max(hello.protocol_min) {
            let (peer_min, peer_max) = (hello.protocol_min, hello.protocol_max);
            return Err(SessionError::NoCommonProtocol { node: self.config.peer.clone(), peer_min, peer_max });
        }
        check_windows(hello.session_window_bytes, hello.space_window_bytes).map_err(|what| self.misbehaved(what))?;
        self.liveness.promised(now, hello.next_ms).map_err(|what| self.misbehaved(what))?;
        self.check_denied()?;
        self.liveness.greeted();
        self.peer = Some(PeerHello {
            incarnation: hello.incarnation,
            space_window_bytes: hello.space_window_bytes,
            session_window_bytes: hello.session_window_bytes,
            batch_len_max_bytes: hello.batch_len_max_bytes,
            takes_zstd: hello.takes_zstd,
        });
        let (node, incarnation) = (self.config.peer.clone(), hello.incarnation);
        self.events.push_back(Event::PeerReady { node, incarnation, protocol });
        Ok(())
    }

    /// Position of a space, which is added if there is room for it.
    fn space_or_add(&mut self, name: &SpaceName) -> Option<usize> {
        match self.space_index.get(name) {
            Some(&index) => Some(index),
            None if self.spaces.len() < self.config.limits.spaces_max => Some(self.add_space(name.clone(), None)),
            None => None,
        }
    }

    fn add_space(&mut self, name: SpaceName, brought: Option<Direction>) -> usize {
        if let Some(&index) = self.space_index.get(&name) {
            return index;
        }
        let index = self.spaces.len();
        self.space_index.insert(name.clone(), index);
        let statements = self.statements_of(&name);
        self.spaces.push(Space::new(name, brought, statements));
        index
    }

    /// What was said of a space before this session, as far as it is remembered.
    fn statements_of(&self, space: &SpaceName) -> Arc<Statements> {
        self.memory.as_ref().map(|memory| memory.of(&self.config.peer, space)).unwrap_or_default()
    }

    /// Asks for the logs of a space, once; what is due begins when they are here.
    fn load(&mut self, index: usize) {
        let space = &mut self.spaces[index];
        if !std::mem::replace(&mut space.load_asked, true) {
            self.loads.push_back(space.name.clone());
        } else if space.loaded {
            self.begin_flows(index);
        }
    }

    /// Makes and answers the offer that waited for the logs of a space.
    fn begin_flows(&mut self, index: usize) {
        if self.spaces[index].offer_due {
            self.offer(index);
        }
        self.answer_offer(index);
    }

    fn check_flood(&self) -> Result<(), PeerMisbehaved> {
        let limit = self.config.limits.control_max;
        if self.control.len() > limit { Err(PeerMisbehaved::Flood { limit }) } else { Ok(()) }
    }

    fn misbehaved(&self, what: PeerMisbehaved) -> SessionError {
        SessionError::PeerMisbehaved { node: self.config.peer.clone(), what }
    }
}
