//! What two sessions say to each other.
//!
//! Everything is said per space and flow. A *flow* is one space in one direction: its source streams,
//! its target stores and acknowledges. A session has up to two flows per space, one each way.
//!
//! ```text
//! both     Hello
//! target   Want{space}                              asks the other end to be a source (read right needed)
//! source   Offer{space, hash of its frontier}       asks to stream (write or relay right needed)
//! either   Exchange{space, hash of its frontier}    both in one: asks to stream, and for what the other end has
//! target   Equal{space, number of the offer} | Heads{space, heads}… | Sketch{space, cells}      or Refuse
//! source   Differing{space, wanted}                 answers a Sketch, and is answered by Heads or a larger one
//! source   Announce{genesis, head}                  once per log that the target lacks
//! source   Batch…                                   verbatim, within the credit granted
//! target   Ack{log, node, head}, Credit{space, …}   once durable there; acks of others are passed on
//! source   CaughtUp{space}                          once the target has all that the source has
//! target   Probe, answered by Echo; Window             how much may be outstanding, as measured
//! both     Heartbeat, Park{log, reason}, Close
//! ```
//!
//! Whoever finds that records of a log are lost asks for them, in any session and whichever way the space flows:
//!
//! ```text
//! asks     Mend{log, from, end}                     one at a time
//! answers  MendBatch…, MendEnd{log, end, outcome}   newest first; read right needed
//! ```
//!
//! `end` has the digest of the last batch missing, which the batch behind it or the log's head tells; each batch tells
//! that of the one before it. So each batch of an answer is known by its digest before it comes: nothing has to be
//! trusted, no right to write is needed, and a hole shrinks from its end with every answer.

use counterfoil_storage::{Batch, Genesis, Head, Holes, Incarnation, LogId, NodeName, Seq, SpaceName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    codec,
    frontier::{FrontierHash, LogHead},
    sketch::{Cell, Estimate, LogMark},
};

/// The oldest version of the protocol spoken here.
pub const PROTOCOL_MIN: u16 = 1;
/// The newest version of the protocol spoken here.
pub const PROTOCOL_MAX: u16 = 1;

/// One message. Control messages are bounded by [`codec::CONTROL_LEN_MAX`], batches by what `Hello` allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first message of each end.
    Hello(Hello),
    /// The end that says so would like to receive a space.
    Want(Want),
    /// The end that says so would like to stream a space.
    Offer(Offer),
    /// Answer to an offer: the target holds exactly what the source holds.
    Equal(Reconciled),
    /// Answer to an offer: what the target holds.
    Heads(Heads),
    /// A flow is not permitted, or no more.
    Refuse(Refuse),
    /// A log begins to flow.
    Announce(Announce),
    /// A node has made a log durable up to a head.
    Ack(Ack),
    /// The target has room for more.
    Credit(Credit),
    /// The target lost what it had not made durable: stream this log again from there.
    Rewind(Rewind),
    /// One log has stopped.
    Park(Park),
    /// The end that says so is alive.
    Heartbeat(Heartbeat),
    /// The end that says so ends the session.
    Close(CloseReason),
    /// From now on so much may be outstanding.
    Window(Window),
    /// To be echoed at once: how long is the way?
    Probe(u32),
    /// The answer to a probe.
    Echo(u32),
    /// The target has all that the source has of a space.
    CaughtUp(CaughtUp),
    /// The end that says so has lost records.
    Mend(Mend),
    /// Ends the answer to a [`Mend`].
    MendEnd(MendEnd),
    /// Answer to an offer: a sketch of what the target holds.
    Sketch(Sketch),
    /// Answer to a [`Sketch`]: what is still to be said.
    Differing(Differing),
    /// The end that says so would like to receive a space and to stream it: a [`Want`] and an offer.
    Exchange(Offer),
    /// Records, as their writer encoded them. Not a control message: travels verbatim.
    #[serde(skip)]
    Batch(Batch),
    /// A batch whose checksum does not match, in an intact frame. Never sent: made by [`codec::decode`].
    #[serde(skip)]
    DamagedBatch {
        /// The log that its header names.
        log: LogId,
        /// The sequence number that its header names.
        first_seq: Seq,
        /// Its length, in bytes.
        len_bytes: u64,
    },
    /// Part of the answer to a [`Mend`]: as its writer encoded it. Not a control message: travels verbatim.
    #[serde(skip)]
    MendBatch(Batch),
    /// The same with a checksum that does not match, in an intact frame. Never sent: made by [`codec::decode`].
    #[serde(skip)]
    DamagedMendBatch {
        /// The log that its header names.
        log: LogId,
    },
}

/// Who speaks, and within what limits. The node's name is not here: TLS has proved it.
///
/// The same in every version of the protocol, but that later ones may add fields at its end, which earlier ones pass over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version of the protocol that this end speaks.
    pub protocol_min: u16,
    /// Newest version of the protocol that this end speaks.
    pub protocol_max: u16,
    /// This life of the node.
    pub incarnation: Incarnation,
    /// Bytes of batches that the other end may have outstanding in the whole session, until a [`Window`] says otherwise.
    pub session_window_bytes: u64,
    /// Bytes of batches that the other end may have outstanding in one space.
    pub space_window_bytes: u64,
    /// The longest batch that this end takes, in bytes.
    pub batch_len_max_bytes: u32,
    /// Within how many milliseconds this end will speak again.
    pub next_ms: u32,
    /// Whether the other end may compress what it says, by Zstandard.
    pub takes_zstd: bool,
}

/// Asks for a space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The space.
    pub space: SpaceName,
}

/// Offers a space. Both ends number the offers of a space in a session, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenOffer", into = "WrittenOffer")]
pub struct Offer {
    /// The space.
    pub space: SpaceName,
    /// Over all logs of the space that the source holds.
    pub all: FrontierHash,
    /// Over what the target has told so far, in this session and in earlier ones, as far as the source remembers it.
    pub heard: Option<FrontierHash>,
}

/// An [`Offer`] as it travels: what was heard is most often what is offered.
#[derive(Serialize, Deserialize)]
struct WrittenOffer {
    space: SpaceName,
    all: FrontierHash,
    heard: WrittenHeard,
}

#[derive(Serialize, Deserialize)]
enum WrittenHeard {
    Nothing,
    All,
    /// Not the hash over all: each offer is written in one way only.
    Other(FrontierHash),
}

impl From<Offer> for WrittenOffer {
    fn from(Offer { space, all, heard }: Offer) -> Self {
        let heard = match heard {
            None => WrittenHeard::Nothing,
            Some(heard) if heard == all => WrittenHeard::All,
            Some(heard) => WrittenHeard::Other(heard),
        };
        Self { space, all, heard }
    }
}

impl TryFrom<WrittenOffer> for Offer {
    type Error = &'static str;

    fn try_from(WrittenOffer { space, all, heard }: WrittenOffer) -> Result<Self, Self::Error> {
        let heard = match heard {
            WrittenHeard::Nothing => None,
            WrittenHeard::All => Some(all),
            WrittenHeard::Other(heard) if heard == all => return Err("what is offered, as what was heard"),
            WrittenHeard::Other(heard) => Some(heard),
        };
        Ok(Self { space, all, heard })
    }
}

/// Which logs of a space a flow carries: what the target permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Those that the source itself writes (right `write`).
    Own,
    /// All (right `relay`).
    All,
}

/// The target holds what the source offered: the logs that were compared are, as they are there, all that the source holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// The space.
    pub space: SpaceName,
    /// Which logs this flow carries.
    pub scope: Scope,
    /// Which logs were compared: all, if the source may read the space, else those that the flow carries.
    pub told: Scope,
    /// The number of the offer: an answer may cross with another one.
    pub offer: u32,
}

/// What the target holds of a space; as many messages as needed. After [`Differing`], of the logs named there: then
/// none of them is the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// The space.
    pub space: SpaceName,
    /// Which logs this flow carries.
    pub scope: Scope,
    /// Of which logs heads are told: of all, if the source may read the space, so that it learns what the target has
    /// otherwise than by this flow; else of those that the flow carries.
    pub told: Scope,
    /// Durable heads of the logs that the target holds; at most [`codec::HEADS_MAX`] in one message.
    pub heads: Vec<LogHead>,
    /// Whether only those are named that have changed since what the offer called heard: the answer is this one message.
    pub since_heard: bool,
    /// Whether this is the first message of the answer.
    pub first: bool,
    /// Whether this is the last message of the answer.
    pub last: bool,
}

/// What the target holds of a space, by sums: for a space of many logs of which the source may have nearly all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    /// The space.
    pub space: SpaceName,
    /// Which logs this flow carries.
    pub scope: Scope,
    /// Of which logs heads are told, as in [`Heads`].
    pub told: Scope,
    /// The first cells of the sketch of their heads, salted by the hash that was offered. At most [`codec::CELLS_MAX`].
    pub cells: Vec<Cell>,
}

/// What the source says to a [`Sketch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// The space.
    pub space: SpaceName,
    /// What is still to be said.
    pub wanted: Wanted,
}

/// What the source has still to be told after a [`Sketch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// The heads of these logs, ascending; of none, if all is known now. At most [`codec::CELLS_MAX`].
    Logs(Vec<LogMark>),
    /// More differs than the sketch tells: a larger one, if so much differs as the estimate says; or all heads.
    More(Estimate),
    /// All heads.
    All,
}

/// Which of a space's two flows is meant, as seen by the end that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Flow {
    /// The one towards the end that says so.
    Incoming,
    /// The one from the end that says so.
    Outgoing,
}

/// Why a flow is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Error)]
pub enum Refusal {
    /// The node that would stream the space may not.
    #[error(
        "no right to stream this space: grant `write`, or `relay` for logs of others, in the policy of the refusing end"
    )]
    NoRightToStream,
    /// The node that would get the space may not.
    #[error("no right to get this space: grant `read` in the policy of the refusing end")]
    NoRightToRead,
    /// The session has as many spaces as it may.
    #[error("too many spaces in one session: use several links")]
    TooManySpaces,
}

/// A flow is refused or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// The space.
    pub space: SpaceName,
    /// The flow.
    pub flow: Flow,
    /// Why.
    pub reason: Refusal,
}

/// Makes a log known to the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// What it begins with; names the log, its space and its writer.
    #[serde(with = "codec::genesis_bytes")]
    pub genesis: Genesis,
    /// Where it durably ends at the source.
    pub head: Head,
}

/// A named node says durable: the one that sends this, or another one whose ack it passes on.
///
/// A lower head than was said before takes that back; at 0 the node holds nothing (the digest means nothing then). So
/// does a hole that was not named before. An end that has holes when it answers an offer says so before it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The log.
    pub log: LogId,
    /// Whose disk.
    pub node: NodeName,
    /// Which life of that node.
    pub incarnation: Incarnation,
    /// Where the log durably ends there.
    pub head: Head,
    /// What was lost there before that.
    pub holes: Holes,
    /// Through whom it came to the end that says so, the one that heard the node itself first; at most [`VIA_MAX`].
    pub via: Vec<NodeName>,
    /// How often the end that passes this on has known the node to take something of the log back, since that end was started. If not more
    /// often than with its word before, less is no loss: only less is known. An end counts nothing of itself, and says 0.
    pub losses: u32,
}

/// Nodes through which an ack may have come to the one that passes it on: a chain may have one more.
pub const VIA_MAX: usize = 8;

/// Returns credit: bytes of batches made durable or dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// The space that they belonged to.
    pub space: SpaceName,
    /// How many.
    pub bytes: u64,
}

/// How many bytes of batches the other end may have outstanding, instead of what was said before.
///
/// When it becomes less, what is outstanding beyond it stays so until its credit comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// In the whole session.
    pub session_bytes: u64,
    /// In each space.
    pub space_bytes: u64,
}

/// Asks for a log again from a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewind {
    /// The log.
    pub log: LogId,
    /// Where it durably ends at the target.
    pub head: Head,
}

/// Why records can't be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Error)]
pub enum GapCause {
    /// Retention removed them.
    #[error("retention removed them")]
    Trimmed,
    /// A range of the journal was lost.
    #[error("they were lost")]
    Hole,
    /// They are on disk but damaged.
    #[error("they are damaged on disk")]
    Damaged,
    /// The disk does not give them.
    #[error("the disk does not give them")]
    Unreadable,
    /// They never were there: the log ends before them, or is another history.
    #[error("they never were there")]
    Absent,
}

/// Why a log has stopped while the session goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum ParkReason {
    /// The two ends hold different histories of it.
    #[error("histories differ: the source ends at {}, the target at {}, which is not on the source's chain",
        source_head.next_seq, target_head.next_seq)]
    Diverged {
        /// Where it ends at the source.
        source_head: Head,
        /// Where it ends at the target.
        target_head: Head,
    },
    /// The source can't serve records that the target needs.
    #[error("the source can't serve {first_seq} to before {next_seq}: {cause}; another replica may")]
    Gap {
        /// The first sequence number missing.
        first_seq: Seq,
        /// The first after those missing.
        next_seq: Seq,
        /// Why.
        cause: GapCause,
    },
    /// The source may not stream logs of this writer in this space.
    #[error("no right to stream logs of {writer} in {space}: grant `relay` in the policy of the target")]
    NoRight {
        /// The writer of the log.
        writer: NodeName,
        /// The space of the log.
        space: SpaceName,
    },
    /// The target writes this log itself and the source has more of it: the target was rewound.
    #[error("the target writes this log, ends at {} and was sent {first_seq}: it was rewound", target_head.next_seq)]
    Rewound {
        /// The first sequence number sent.
        first_seq: Seq,
        /// Where it ends at the target.
        target_head: Head,
    },
    /// A batch does not follow the one before it.
    #[error("the batch at {first_seq} does not follow the chain, which ends at {}", target_head.next_seq)]
    Chain {
        /// Where the batch begins.
        first_seq: Seq,
        /// Where the log ends at the target.
        target_head: Head,
    },
    /// The checksum of a batch does not match.
    #[error("the checksum of the batch at {first_seq} does not match")]
    Checksum {
        /// Where the batch begins.
        first_seq: Seq,
    },
    /// The records of a batch don't fit its header.
    #[error("the records of the batch at {first_seq} don't fit its header")]
    Records {
        /// Where the batch begins.
        first_seq: Seq,
    },
    /// A batch is longer than the target takes.
    #[error("the batch at {first_seq} has {len_bytes} bytes, the target takes {limit_bytes}")]
    BatchTooLong {
        /// Where the batch begins.
        first_seq: Seq,
        /// Its length, in bytes.
        len_bytes: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// The session has as many logs as it may.
    #[error("more than {limit} logs in one session: use several links")]
    TooManyLogs {
        /// The limit.
        limit: u32,
    },
    /// The target has as many logs of this writer in this space as it takes.
    #[error("the target has {limit} logs of {writer} in {space}, the most that it takes of one writer")]
    TooManyOfWriter {
        /// The writer of the log.
        writer: NodeName,
        /// The space of the log.
        space: SpaceName,
        /// The limit.
        limit: u32,
    },
}

/// Stops one log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Park {
    /// The log.
    pub log: LogId,
    /// In which flow, as seen by the end that says so.
    pub flow: Flow,
    /// Why.
    pub reason: ParkReason,
}

/// Sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Within how many milliseconds the next one comes.
    pub next_ms: u32,
    /// For spaces that this end streams and has sent all of: the hash of the frontier that the flow
    /// carries, where it changed since it was last said. At most [`codec::FRONTIERS_MAX`], the others next time.
    pub frontiers: Vec<(SpaceName, FrontierHash)>,
    /// Durable heads of logs that this end streams and has not sent all of: how far the target is
    /// behind. At most [`codec::HEADS_MAX`].
    pub heads: Vec<LogHead>,
}

/// The target has durably what the source had durable when it said so: sent once in a session, after an answer with
/// heads; an answer that all is equal says as much. What comes afterwards follows as it becomes durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtUp {
    /// The space.
    pub space: SpaceName,
    /// Whether it is all: false while logs have stopped. Said again once it is.
    pub whole: bool,
}

/// Asks for records that were lost: for batches of a log, from the one that ends in `end` back to the one that begins
/// with `first_seq`, newest first. An end asks again only once it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mend {
    /// The log.
    pub log: LogId,
    /// The first record wanted.
    pub first_seq: Seq,
    /// After the last record wanted: the digest is that of the batch that ends there.
    pub end: Head,
    /// The answer may stop after the batch with which its bytes reach this; one batch always fits.
    pub bytes_max: u32,
}

/// How an answer to a [`Mend`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MendOutcome {
    /// What was asked for has been sent, or as much of it as fits.
    Sent,
    /// The batch before the last one sent can't be: the records are not there.
    Lacking(GapCause),
    /// The log is not known there, or the node that asks may not read it: which of the two is not told.
    Refused,
}

/// Ends the answer to a [`Mend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MendEnd {
    /// The log, as asked.
    pub log: LogId,
    /// The end, as asked.
    pub end: Head,
    /// How the answer ends.
    pub outcome: MendOutcome,
}

/// Why an end ends the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// It stops.
    #[error("it stops")]
    Shutdown,
    /// The other end's name is denied.
    #[error("this node is denied there")]
    Denied,
    /// No version of the protocol is common.
    #[error("it speaks versions {min} to {max} of the protocol")]
    Protocol {
        /// The oldest version that it speaks.
        min: u16,
        /// The newest version that it speaks.
        max: u16,
    },
    /// The other end broke the protocol.
    #[error("this node broke the protocol")]
    Misbehaved,
    /// The other end was silent.
    #[error("this node was silent for too long")]
    Silent,
    /// Its store failed.
    #[error("its store failed")]
    StoreFailed,
    /// The other end's certificate has expired, or its authority is trusted no more.
    #[error("this node's certificate is not accepted there any more; issue it a new one with `counterfoil cert node`")]
    Certificate,
}
