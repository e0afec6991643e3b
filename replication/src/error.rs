//! What ends a session, by whose fault it is.

use std::time::Duration;

use counterfoil_storage::{AppendError, LogId, NodeName, SpaceName};
use thiserror::Error;

use crate::{codec::CodecError, message::CloseReason};

/// A session has ended. Everything acknowledged stays so; a new session resumes from the durable heads.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The peer broke the protocol.
    #[error("{node} broke the protocol: {what}")]
    PeerMisbehaved {
        /// The peer.
        node: NodeName,
        /// How.
        #[source]
        what: PeerMisbehaved,
    },
    /// The peer ended the session.
    #[error("{node} ended the session: {reason}")]
    ClosedByPeer {
        /// The peer.
        node: NodeName,
        /// Why.
        reason: CloseReason,
    },
    /// The two ends have no version of the protocol in common.
    #[error("{node} speaks versions {peer_min} to {peer_max} of the protocol, this end {min} to {max}: update one of them",
        min = crate::message::PROTOCOL_MIN, max = crate::message::PROTOCOL_MAX)]
    NoCommonProtocol {
        /// The peer.
        node: NodeName,
        /// The oldest version that it speaks.
        peer_min: u16,
        /// The newest version that it speaks.
        peer_max: u16,
    },
    /// The policy denies the peer.
    #[error("{node} is denied by the policy here")]
    Denied {
        /// The peer.
        node: NodeName,
    },
    /// The peer did not say `Hello` in time.
    #[error("{node} did not say hello within {limit:?}")]
    HandshakeTimeout {
        /// The peer.
        node: NodeName,
        /// The limit.
        limit: Duration,
    },
    /// The peer has said nothing for three of the intervals that it promised.
    #[error("{node} was silent for {limit:?}")]
    Silent {
        /// The peer.
        node: NodeName,
        /// For how long.
        limit: Duration,
    },
    /// This node's store failed.
    #[error("the store here failed: {0}")]
    Store(#[from] AppendError),
    /// This node was rolled back, as a peer's word shows, and has begun another life than this session's.
    #[error("this store was rolled back: a peer holds what it wrote and lost; it goes on in new logs")]
    NewLife,
}

impl SessionError {
    /// What to tell the peer before the connection is closed; nothing where it would be pointless.
    pub fn close_reason(&self) -> Option<CloseReason> {
        match self {
            Self::PeerMisbehaved { .. } => Some(CloseReason::Misbehaved),
            Self::NoCommonProtocol { .. } => {
                Some(CloseReason::Protocol { min: crate::message::PROTOCOL_MIN, max: crate::message::PROTOCOL_MAX })
            }
            Self::Denied { .. } => Some(CloseReason::Denied),
            Self::HandshakeTimeout { .. } | Self::Silent { .. } => Some(CloseReason::Silent),
            Self::Store(_) => Some(CloseReason::StoreFailed),
            Self::NewLife => Some(CloseReason::Shutdown),
            Self::ClosedByPeer { .. } => None,
        }
    }
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// Its bytes are not messages.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Its first message was not `Hello`.
    #[error("its first message was not a hello")]
    NoHello,
    /// It said `Hello` twice.
    #[error("it said hello twice")]
    SecondHello,
    /// A field of its `Hello` or a heartbeat is out of range.
    #[error("{field} is {value}, out of range")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What it said.
        value: u64,
    },
    /// It answered an offer that was not made, or answered it in a wrong order.
    #[error("it answered an offer of {space} that was not open")]
    UnexpectedAnswer {
        /// The space.
        space: SpaceName,
    },
    /// It spoke of a space that neither end offered.
    #[error("it spoke of {space}, which was not offered")]
    UnknownSpace {
        /// The space.
        space: SpaceName,
    },
    /// It sent or acknowledged a log that was never announced.
    #[error("it spoke of log {log}, which was not announced")]
    UnknownLog {
        /// The log.
        log: LogId,
    },
    /// It sent batches without credit.
    #[error("it sent batches beyond the {window_bytes} bytes granted")]
    CreditOverdrawn {
        /// The window that was overdrawn, in bytes.
        window_bytes: u64,
    },
    /// It returned more credit than was used.
    #[error("it returned {bytes} bytes of credit, more than was used")]
    CreditOverflow {
        /// What it returned.
        bytes: u64,
    },
    /// It echoed what was not asked.
    #[error("it answered a probe that was not sent")]
    UnaskedEcho,
    /// It brings more logs into the session than allowed.
    #[error("it announced more than {limit} logs in one session")]
    TooManyLogs {
        /// The limit.
        limit: usize,
    },
    /// It asks faster than it takes the answers.
    #[error("it left {limit} answers unread and asked on")]
    Flood {
        /// The most answers kept for it.
        limit: usize,
    },
    /// It acknowledged in the name of another life of its own than the one it is in.
    #[error("it acknowledged in another life of {node} than it said hello in")]
    ForeignAck {
        /// The node named.
        node: NodeName,
    },
}
