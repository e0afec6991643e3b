//! What a session tells the application, and how it stands.

use std::time::Instant;

use counterfoil_storage::{Head, Holes, Incarnation, LogId, NodeName, Seq, SpaceName};
use thiserror::Error;

use crate::message::{Flow, GapCause, ParkReason, Refusal};

/// Which end noticed or decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// This one.
    Local,
    /// The other one.
    Peer,
}

/// Something that the application may act upon.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer has said who it is; its offers may follow.
    PeerReady {
        /// The peer.
        node: NodeName,
        /// Its present life.
        incarnation: Incarnation,
        /// The version of the protocol that both speak.
        protocol: u16,
    },
    /// A node (the peer, or another one whose ack the peer passed on) has made a log durable up to a head that is on
    /// this node's chain. Cumulative.
    Acked {
        /// The log.
        log: LogId,
        /// Whose disk.
        node: NodeName,
        /// Which life of that node.
        incarnation: Incarnation,
        /// Up to where.
        head: Head,
        /// What it has lost before that, and does not acknowledge.
        holes: Holes,
        /// Through whom it came to the peer that passed it on.
        via: Vec<NodeName>,
        /// How often that peer has known the node to take something back; 0 of the peer itself.
        losses: u32,
    },
    /// The peer has sent a log up to a head, so it has that durable. It may have more: of all that is said of it, the
    /// most counts.
    Holds {
        /// The log.
        log: LogId,
        /// Whose disk.
        node: NodeName,
        /// Which life of that node.
        incarnation: Incarnation,
        /// Up to where at least.
        head: Head,
    },
    /// Where a log ends at a node, as the node says first in a session, or since its flow was opened again; nothing of it: at the log's beginning. It may be
    /// another chain than this node's, so it does not acknowledge. But whatever the node acknowledged beyond it in an
    /// earlier session is gone from its disk: it was rolled back, which no session lives through.
    Stated {
        /// The log.
        log: LogId,
        /// Whose disk.
        node: NodeName,
        /// Which life of that node.
        incarnation: Incarnation,
        /// Where it ends.
        head: Head,
        /// What it has lost before that.
        holes: Holes,
    },
    /// A node no longer holds what it had acknowledged: its disk was restored, or is damaged and has holes that it did
    /// not have.
    Withdrawn {
        /// The log.
        log: LogId,
        /// Whose disk.
        node: NodeName,
        /// Which life of that node.
        incarnation: Incarnation,
        /// What it had acknowledged.
        from: Head,
        /// What it holds now.
        to: Head,
        /// Apart from these.
        holes: Holes,
        /// How often a peer that passes it on has known the node to take something back; 0 of the peer itself.
        losses: u32,
    },
    /// The peer, which passed on an ack of another node, knows nothing of it any more but what it heard through this one: those
    /// who heard that node itself have been restarted, or can't be heard. It says nothing of what the node holds.
    Forgotten {
        /// The log.
        log: LogId,
        /// Whose disk.
        node: NodeName,
        /// Which life of that node.
        incarnation: Incarnation,
    },
    /// Where a log ends at another node, as the peer says of one of which nothing that it said in this session has been found on this node's
    /// chain. So it acknowledges nothing; but what the peer passed on in earlier sessions beyond it counts no more.
    Restated {
        /// The log.
        log: LogId,
        /// Whose disk.
        node: NodeName,
        /// Which life of that node.
        incarnation: Incarnation,
        /// Up to where, at most.
        head: Head,
        /// What it has lost before that.
        holes: Holes,
        /// How often the peer has known it to take something back.
        losses: u32,
    },
    /// The flow of a log to the peer was closed, as the policy of either has it: the peer can't take back what it acknowledged, until it
    /// is opened again. That still counts, but for nothing that can't be undone.
    Unheard {
        /// The log.
        log: LogId,
        /// The peer.
        node: NodeName,
    },
    /// All that is durable here of a space that this end streams is durable at the peer.
    InSync {
        /// The space.
        space: SpaceName,
    },
    /// All that the peer had durable of a space that it streams is durable here; at least once in each session. What
    /// comes afterwards follows as it becomes durable there.
    CaughtUp {
        /// The space.
        space: SpaceName,
        /// Whether it is all: false if logs have stopped, each with an event of its own.
        whole: bool,
    },
    /// The peer durably holds more of a log than this node does, and does not stream it here; nothing of it is
    /// streamed until this node has as much. For a log that this node writes it means that this node was rewound.
    Ahead {
        /// The log.
        log: LogId,
        /// Where it ends here.
        local: Head,
        /// Where it ends at the peer.
        remote: Head,
    },
    /// One log has stopped for the rest of the session, or until the policy changes.
    Parked {
        /// The log.
        log: LogId,
        /// Why.
        reason: ParkReason,
        /// Who noticed.
        by: By,
    },
    /// One flow is not permitted, or no more.
    Refused {
        /// The space.
        space: SpaceName,
        /// The flow, seen from this end.
        flow: Flow,
        /// Why.
        reason: Refusal,
        /// Who refused.
        by: By,
    },
    /// This node's disk is full: what the peer streams is asked for again when there is room.
    StorageFull,
    /// Records that this node had lost are durable here again, verbatim: the peer had them.
    Mended {
        /// The log.
        log: LogId,
        /// The first record that is here again.
        first_seq: Seq,
        /// After the last.
        next_seq: Seq,
    },
    /// Records that this node has lost can't be had of the peer, at least now. Told once for each reason.
    NotMended {
        /// The log.
        log: LogId,
        /// Why.
        reason: NotMended,
    },
}

/// Why records that were lost can't be had of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum NotMended {
    /// It does not know the log, or this node may not read the space.
    #[error("it does not know the log, or does not let this node read it")]
    Refused,
    /// It lacks them too.
    #[error("it lacks them too: {0}")]
    Lacking(GapCause),
    /// What it sent is not what is missing: its digest is another one.
    #[error("it sent something else than what is missing")]
    Wrong,
    /// What it sent was damaged on the way or there.
    #[error("it sent a damaged batch")]
    Damaged,
    /// This node's disk did not take them.
    #[error("the disk here did not take them")]
    NotStored,
}

/// What a session holds in memory, within its [`Limits`](crate::Limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Held {
    /// Bytes of batches that came from the peer and are neither durable nor dropped.
    pub received_bytes: u64,
    /// Bytes of batches that were read to be sent.
    pub read_bytes: u64,
    /// Messages that wait to be sent.
    pub messages: usize,
}

/// How a session stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionStatus {
    /// The peer.
    pub peer: NodeName,
    /// Its present life, once it has said so.
    pub incarnation: Option<Incarnation>,
    /// When it was last heard.
    pub last_heard: Instant,
    /// Bytes of batches sent and not yet acknowledged.
    pub in_flight_bytes: u64,
    /// Each space of the session, by name.
    pub spaces: Vec<SpaceStatus>,
}

/// How a space stands in a session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SpaceStatus {
    /// The space.
    pub space: SpaceName,
    /// Whether this end streams it.
    pub sends: bool,
    /// Whether this end receives it.
    pub receives: bool,
    /// Whether all that this end streams is durable at the peer. False while a log is parked.
    pub in_sync: bool,
    /// Records durable here that the peer has not acknowledged.
    pub lag_records: u64,
    /// Bytes of them: exact for what was sent, by the log's average for the rest.
    pub lag_bytes: u64,
    /// Since when there have been any.
    pub behind_since: Option<Instant>,
    /// Records that the peer says it has durable and that are not durable here yet.
    pub behind_records: u64,
    /// Logs that have stopped, with the reason.
    pub parked: Vec<(LogId, ParkReason)>,
    /// Heads that the peer has acknowledged.
    pub acked: Vec<(LogId, Head)>,
}
