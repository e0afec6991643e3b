//! What a session knows of spaces and logs.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use counterfoil_storage::{Batch, Genesis, Head, Holes, LogId, NodeName, Seq, SpaceName};

use super::{mending::Mending, passing::Passing};
use crate::{
    config::Direction,
    event::NotMended,
    frontier::FrontierHash,
    memory::{Base, Statements},
    message::{Offer, ParkReason, Scope},
    sketch::{LogMark, MarkedHead, Salt},
};

/// One space of the session, with its up to two flows.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "memberships of queues, each independent of the others")]
pub(super) struct Space {
    pub(super) name: SpaceName,
    /// What this end's configuration wants of it; `None` if the peer brought it.
    pub(super) brought: Option<Direction>,
    /// Whether the journal's logs have been asked for, and whether they are here.
    pub(super) load_asked: bool,
    pub(super) loaded: bool,
    /// Logs of the space, ascending: the order of frontiers.
    pub(super) logs: BTreeSet<LogId>,
    /// How many of them each writer has that are kept here, or may be.
    pub(super) kept: HashMap<NodeName, usize>,

    /// The flow from this end.
    pub(super) outflow: Outflow,
    /// The peer has asked for it.
    pub(super) wanted: bool,
    /// The peer is to be asked for the space, with the offer that is due.
    pub(super) want_due: bool,
    /// It is to be offered once the logs are here.
    pub(super) offer_due: bool,
    /// What an answer is compared with; `None` while there was no offer.
    pub(super) last_offer: Option<LastOffer>,
    /// Bytes sent whose credit has not been returned; sending begins only below the peer's window.
    pub(super) used_bytes: u64,
    /// Logs with batches ready to send, in rotation.
    pub(super) ready: VecDeque<LogId>,
    pub(super) in_send_order: bool,
    /// Logs that want to be read, in rotation.
    pub(super) fetch: VecDeque<LogId>,
    pub(super) in_fetch_order: bool,
    /// All that is durable here is durable at the peer.
    pub(super) in_sync: bool,
    pub(super) behind_since: Option<Instant>,
    /// A log that the peer lacked something of when it was last looked for one: looked at first.
    pub(super) lacking: Option<LogId>,
    /// What the peer was told of having caught up, since it last said what it has.
    pub(super) caught_up: Option<bool>,
    /// The frontier last said in a heartbeat.
    pub(super) said: Option<FrontierHash>,

    /// What was said of the space so far, by either end.
    pub(super) statements: Arc<Statements>,
    /// What the peer had said when it was made the offer that it has not answered.
    pub(super) base: Option<Base>,
    /// The peer has been told a sketch of what is here: what it says to that is awaited.
    pub(super) sketched: Option<SketchSent>,
    /// What the peer was asked for when it had told a sketch from which nothing could be told.
    pub(super) asked: Asked,
    /// A sketch of what the peer has is being made use of.
    pub(super) placing: Option<Placing>,

    /// The flow towards this end.
    pub(super) inflow: Inflow,
    /// An offer that waits for the logs to be here.
    pub(super) offered: Option<Offer>,
    /// How many there were.
    pub(super) offers: u32,
    /// An answer that is being sent: heads of logs after this one are still to be said.
    pub(super) answer: Option<Answer>,
    /// Bytes received that are neither durable nor dropped.
    pub(super) outstanding: u64,
    /// Bytes of credit to be returned.
    pub(super) credit_due: u64,
    pub(super) in_credit_queue: bool,
    /// The peer's and the own frontier hash over which the heads were compared again last.
    pub(super) compared: Option<(FrontierHash, FrontierHash)>,
}

impl Space {
    pub(super) fn new(name: SpaceName, brought: Option<Direction>, statements: Arc<Statements>) -> Self {
        Self {
            name,
            brought,
            load_asked: false,
            loaded: false,
            logs: BTreeSet::new(),
            kept: HashMap::new(),
            outflow: Outflow::Closed,
            wanted: false,
            want_due: false,
            offer_due: false,
            last_offer: None,
            used_bytes: 0,
            ready: VecDeque::new(),
            in_send_order: false,
            fetch: VecDeque::new(),
            in_fetch_order: false,
            in_sync: false,
            behind_since: None,
            lacking: None,
            caught_up: None,
            said: None,
            statements,
            base: None,
            sketched: None,
            asked: Asked::default(),
            placing: None,
            inflow: Inflow::Closed,
            offered: None,
            offers: 0,
            answer: None,
            outstanding: 0,
            credit_due: 0,
            in_credit_queue: false,
            compared: None,
        }
    }

    /// This end asks for the flow towards it.
    pub(super) fn ask(&mut self) {
        self.inflow = Inflow::Asked;
    }

    /// Which logs the flow from this end carries, while it is open.
    pub(super) fn out_scope(&self) -> Option<Scope> {
        match self.outflow {
            Outflow::Open { scope } => Some(scope),
            _ => None,
        }
    }

    /// Which logs the flow from this end carries, as soon as the peer says so.
    pub(super) fn answered_scope(&self) -> Option<Scope> {
        match self.outflow {
            Outflow::Answering { scope } | Outflow::Open { scope } => Some(scope),
            _ => None,
        }
    }

    /// Which logs the flow towards this end carries, while it is open.
    pub(super) fn in_scope(&self) -> Option<Scope> {
        match self.inflow {
            Inflow::Open { scope } => Some(scope),
            _ => None,
        }
    }
}

/// What an answer is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastOffer {
    pub(super) all: FrontierHash,
    /// From 1. After the first, an answer to the one before may still come.
    pub(super) number: u32,
}

/// A flow from this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outflow {
    /// Neither end has spoken of it.
    Closed,
    /// Offered; the answer is awaited.
    Offered,
    /// The answer is coming in.
    Answering { scope: Scope },
    /// Streaming.
    Open { scope: Scope },
    /// One of the two ends does not permit it.
    Refused,
}

/// A flow towards this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inflow {
    /// Neither end has spoken of it.
    Closed,
    /// Asked for; the offer is awaited.
    Asked,
    /// Offered, and not permitted here.
    Refused,
    /// Receiving.
    Open { scope: Scope },
}

/// How far an answer has been sent.
#[derive(Debug)]
pub(super) struct Answer {
    /// Heads of logs after this one are still to be said; `None`: of all.
    pub(super) after: Option<LogId>,
    /// Only of these, after which the peer has asked; ascending.
    pub(super) wanted: Option<Vec<LogId>>,
}

/// What the peer was told as an answer to its offer.
#[derive(Debug, Clone, Copy)]
pub(super) struct SketchSent {
    /// What was offered, by which it was salted.
    pub(super) salt: Salt,
    /// It was told a larger one already.
    pub(super) is_enlarged: bool,
}

/// What is asked for after a sketch that told nothing, each once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    /// A larger one.
    pub(super) is_more: bool,
    /// All heads.
    pub(super) is_all: bool,
}

/// What a sketch told, and is not known for sure yet.
#[derive(Debug)]
pub(super) struct Placing {
    pub(super) salt: Salt,
    /// Which logs the flow carries.
    pub(super) scope: Scope,
    /// Which logs the target told of.
    pub(super) told: Scope,
    /// Logs whose ends at the target are being looked for here: those that are [`Outgoing::Placing`].
    pub(super) open: usize,
    /// Logs whose heads the target is to name.
    pub(super) unplaced: Vec<LogMark>,
}

/// One log of the session.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "memberships of queues, each independent of the others")]
pub(super) struct Log {
    /// Position of its space.
    pub(super) space: usize,
    pub(super) genesis: Arc<Genesis>,
    /// Its head while it is empty.
    pub(super) origin: Head,
    /// How it durably is here; `None` while the journal does not know it.
    pub(super) local: Option<Local>,
    /// What is known to be missing of that.
    pub(super) holes: Holes,
    pub(super) mending: Mending,
    /// Why the peer could not mend it, as was told last.
    pub(super) not_mended: Option<NotMended>,

    pub(super) outgoing: Outgoing,
    /// The target takes the log from here: it has named it, or it was announced. Else that comes before the next batch.
    pub(super) is_announced: bool,
    /// Changes with each state of `outgoing`: reads asked for in an earlier one are ignored.
    pub(super) generation: u64,
    /// Up to where the peer has it durable, on this node's chain; `None` until known.
    pub(super) peer_head: Option<Head>,
    /// Where it ended at the peer when it was stopped here.
    pub(super) stopped_at: Option<Head>,
    /// What the peer says is missing there, and what of it has been told.
    pub(super) peer_holes: Holes,
    pub(super) peer_holes_told: Holes,
    /// The peer has said in this session where it ends there.
    pub(super) stated: bool,
    /// Where it ended there by the last answer, on whatever chain.
    pub(super) stated_head: Option<Head>,
    /// What was sent and not acknowledged. Also of a log that has stopped since.
    pub(super) in_flight: InFlight,
    /// It is in its space's list of logs ready to send, in that of logs wanting to be read, and in the
    /// session's of logs to check.
    pub(super) in_ready: bool,
    pub(super) in_fetch: bool,
    pub(super) in_checks: bool,

    pub(super) incoming: Incoming,
    /// It is counted among those that are kept here.
    pub(super) is_kept: bool,
    /// The head that the peer believes this end to have; `None` while it has not been told of the log.
    pub(super) told: Option<Head>,
    /// What the peer has been told is missing here.
    pub(super) told_holes: Holes,
    /// The peer may have dropped what it was told of holes.
    pub(super) is_to_be_told: bool,
    pub(super) in_ack_queue: bool,
    /// Batches received that are not durable. Their bytes are within the windows.
    pub(super) unsettled: VecDeque<Unsettled>,
    /// Where it ends at the peer, as the peer says.
    pub(super) source_next_seq: Seq,

    pub(super) passing: Passing,
}

/// A batch received that is not durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unsettled {
    /// After its last record.
    pub(super) next_seq: Seq,
    pub(super) len_bytes: u64,
    pub(super) arrived: Instant,
}

/// A log as it durably is here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local {
    pub(super) first_seq: Seq,
    pub(super) head: Head,
    pub(super) bytes: u64,
}

impl Log {
    pub(super) fn new(space: usize, genesis: Arc<Genesis>) -> Self {
        let origin = genesis.head();
        Self {
            space,
            genesis,
            origin,
            local: None,
            holes: Holes::default(),
            mending: Mending::Whole,
            not_mended: None,
            outgoing: Outgoing::Idle,
            is_announced: false,
            generation: 0,
            peer_head: None,
            stopped_at: None,
            peer_holes: Holes::default(),
            peer_holes_told: Holes::default(),
            stated: false,
            stated_head: None,
            in_flight: InFlight::default(),
            in_ready: false,
            in_fetch: false,
            in_checks: false,
            incoming: Incoming::Idle,
            is_kept: false,
            told: None,
            told_holes: Holes::default(),
            is_to_be_told: false,
            in_ack_queue: false,
            unsettled: VecDeque::new(),
            source_next_seq: Seq::ZERO,
            passing: Passing::default(),
        }
    }

    pub(super) fn writer(&self) -> &NodeName {
        &self.genesis.node
    }

    /// Where it durably ends here.
    pub(super) fn head(&self) -> Head {
        self.local.map_or(self.origin, |local| local.head)
    }

    /// Whether a record of it is durable here.
    pub(super) fn has_records(&self) -> bool {
        self.head().next_seq > Seq::ZERO
    }

    /// Whether it may yet get to the peer by itself.
    pub(super) fn moves(&self) -> bool {
        !matches!(self.outgoing, Outgoing::Parked(_) | Outgoing::Ahead { .. })
    }

    /// Whether the peer has durable what is durable here: its head is this end's, digest and all, or follows it on the
    /// chain that it is sending. That it has *more* is no proof: its history may be another one.
    pub(super) fn is_mirrored(&self) -> bool {
        let local = self.head();
        // What it had of the log once behind that, and lost, is not here.
        let lacks = self.peer_holes.first_seq().is_some_and(|first_seq| first_seq < local.next_seq);
        matches!(self.outgoing, Outgoing::Streaming(_))
            && !lacks
            && self.peer_head.is_some_and(|peer| peer == local || peer.next_seq > local.next_seq)
    }
}

/// A log in the flow from this end.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Not carried, or not yet.
    Idle,
    /// The answer to the offer is awaited.
    Awaiting {
        /// Its head when it was offered.
        offered: Option<Head>,
        /// Up to where the peer has streamed it since its answer began, which need not name it.
        streamed: Option<Head>,
    },
    /// Where it ends at the target is known by a sketch, and being looked for on the chain here.
    Placing { marked: MarkedHead, fetching: bool },
    /// The target's head is being looked for on the chain here.
    Checking { remote: Head, fetching: bool },
    /// The target's head is on the chain here: what follows it is sent.
    Streaming(Streaming),
    /// The target has more than this end.
    Ahead { remote: Head },
    /// Stopped.
    Parked(ParkReason),
}

/// A log that is being sent. `peer_head ≤ in flight ≤ sent ≤ read ≤ durable here`, all on one chain.
#[derive(Debug)]
pub(super) struct Streaming {
    /// After the last batch sent.
    pub(super) sent: Head,
    /// Read and not yet sent; the first follows `sent`.
    pub(super) ready: VecDeque<Batch>,
    pub(super) ready_bytes: usize,
    /// After the last batch read.
    pub(super) read: Head,
    pub(super) fetching: bool,
    /// Why it stops once what is ready has been sent.
    pub(super) blocked: Option<ParkReason>,
}

/// The most batches of one log that may be sent and not acknowledged: 131,072, of 48 bytes each.
const IN_FLIGHT_MAX: usize = 131_072;

/// The batches of a log that were sent and not acknowledged.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// Ascending; at most [`IN_FLIGHT_MAX`].
    boundaries: VecDeque<Boundary>,
    pub(super) bytes: u64,
}

/// Where a batch that was sent ends.
#[derive(Debug, Clone, Copy)]
struct Boundary {
    head: Head,
    len_bytes: u64,
}

impl InFlight {
    pub(super) fn is_full(&self) -> bool {
        self.boundaries.len() >= IN_FLIGHT_MAX
    }

    /// A batch was sent.
    pub(super) fn push(&mut self, head: Head, len_bytes: u64) {
        self.boundaries.push_back(Boundary { head, len_bytes });
        self.bytes += len_bytes;
    }

    /// Whether a head is one that was sent and not yet acknowledged: then all up to it is.
    pub(super) fn acknowledge(&mut self, head: Head) -> bool {
        let found = self.boundaries.binary_search_by_key(&head.next_seq, |boundary| boundary.head.next_seq);
        let Some(position) = found.ok().filter(|position| self.boundaries[*position].head == head) else {
            return false;
        };
        self.bytes -= self.boundaries.drain(..=position).map(|boundary| boundary.len_bytes).sum::<u64>();
        true
    }
}

impl Streaming {
    pub(super) fn from(head: Head) -> Self {
        Self { sent: head, ready: VecDeque::new(), ready_bytes: 0, read: head, fetching: false, blocked: None }
    }
}

/// A log in the flow towards this end.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The peer may not send it: it was not announced, or the flow is closed.
    Idle,
    /// Received.
    Open {
        /// After the last batch taken.
        tail: Head,
        /// The source was asked to begin again at `tail`: what it sent before it heard is dropped.
        resuming: bool,
    },
    /// The store can't take it at present: what comes is dropped, then asked for again.
    Stalled {
        /// Bytes dropped whose credit is kept back until then.
        dropped_bytes: u64,
    },
    /// Stopped: what comes is dropped.
    Parked(ParkReason),
}
