//! What can go wrong, by whose fault it is.

use std::{collections::HashSet, fmt, io, path::PathBuf};

use counterfoil_storage::{
    AppendError, BatchError, LogId, MendError, NameError, NodeName, OpenError, ParseIdError, ReadError, Seq, SpaceName,
    StoreError, TrimError,
};
use thiserror::Error;

use crate::{codec::CodecError, status::Unmirrored, token::TokenError};

/// What went wrong, where, and what to do about it, on one line.
///
/// An error from an append that has been queued, or from waiting for one, means *unknown*, not
/// *absent*: the records may be found when the store is next opened.
/// As `{:?}` it is that line too, so that an application whose `main` returns it ends with a message for people;
/// `{:#?}` adds its [kind](Self::kind) and what it came from.
#[derive(Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be made or opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store belongs to another node than the one asked for.
    #[error("{path} is the store of node {found}, not of {expected}: open another folder, or ask for that node")]
    OtherNode {
        /// The store's folder.
        path: PathBuf,
        /// The node asked for.
        expected: NodeName,
        /// The node whose store it is.
        found: NodeName,
    },
    /// A store can't be made without a name for its node.
    #[error("{path}: a new store needs its node's name: give it with `Store::builder().node(..)`")]
    NodeNotNamed {
        /// The folder of the store to be made.
        path: PathBuf,
    },
    /// A name can't be that of a node or a space.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A text is not the identifier of a log.
    #[error(transparent)]
    Id(#[from] ParseIdError),
    /// An append, or the commit it waits for, failed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A batch of another node was not stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was lost could not be stored again.
    #[error(transparent)]
    Mend(#[from] MendError),
    /// What may be removed could not be, or its space not be given back.
    #[error(transparent)]
    Trim(#[from] TrimError),
    /// Records can't be served.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The records of a batch don't fit its header: its writer was faulty.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Several logs make up the space and none of them is this node's own.
    #[error("space {space} has {logs} logs and none is this node's own: name one of them (`Space::logs`)")]
    AmbiguousLog {
        /// The space.
        space: SpaceName,
        /// How many logs it has.
        logs: usize,
    },
    /// A space can't be read as of a frontier.
    #[error("space {space} can't be read as of record {next_seq} of log {log}: {why}")]
    NotThatFrontier {
        /// The space.
        space: SpaceName,
        /// The log.
        log: LogId,
        /// Its length in the frontier.
        next_seq: Seq,
        /// What is in the way.
        why: &'static str,
    },
    /// A text or bytes are not a cursor or a frontier as it was given out.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A key holds other versions than those that were read; nothing was written.
    #[error("{key:?} of collection {collection} has changed since it was read: read it again, then decide")]
    Changed {
        /// The collection.
        collection: String,
        /// The key, as text.
        key: String,
    },
    /// A version to be taken is none of those that a key holds; nothing was written.
    #[error("the key does not hold version {version}: it holds those that reading it shows")]
    NoSuchVersion {
        /// The version, as `LOG:SEQ`.
        version: String,
    },
    /// A key of a collection is longer than the limit; nothing was written.
    #[error("a key of {len} bytes is longer than the limit, 4096")]
    KeyTooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// A key is there, and is not of the type asked for.
    #[error("{key:?} of collection {collection} is no key of the type asked for")]
    NotAKey {
        /// The collection.
        collection: String,
        /// The key, as text.
        key: String,
    },
    /// A version of a key is damaged or missing here.
    #[error("what {key:?} of collection {collection} holds can't be read: {error}")]
    Unread {
        /// The collection.
        collection: String,
        /// The key, as text.
        key: String,
        /// What is damaged or missing.
        #[source]
        error: Box<Error>,
    },
    /// Nothing was put or deleted in a transaction.
    #[error("the transaction has no writes")]
    EmptyTransaction,
    /// The index of collections failed, and so did opening it again or making it anew. It is derived data: no record is lost. The next call tries again.
    #[error("the index of collections can't be used: {what}; no record is lost: see to the disk, then try again")]
    Index {
        /// What went wrong.
        what: String,
    },
    /// No space is left for the index of collections. The next call tries again.
    #[error("no space left for the index of collections: free some, then try again")]
    IndexFull,
    /// A value was not encoded, so nothing was appended.
    #[error("the value was not appended: {error}")]
    Encode {
        /// What the codec said.
        #[source]
        error: CodecError,
    },
    /// The codec encodes this value but can't decode what it made of it; nothing was appended.
    #[error(
        "the value was not appended: codec {codec} can't read back what it writes of {type_name} ({error}); use another codec, such as Json"
    )]
    CodecCannotRoundTrip {
        /// The codec's name.
        codec: &'static str,
        /// The Rust type of the value.
        type_name: &'static str,
        /// What decoding said.
        #[source]
        error: CodecError,
    },
    /// A record is there, whole, but is not a value of the type asked for.
    #[error("record {seq} of log {log} is not a {type_name}: {error}")]
    Decode {
        /// The log.
        log: LogId,
        /// The record.
        seq: Seq,
        /// The Rust type asked for.
        type_name: &'static str,
        /// What is wrong with it.
        #[source]
        error: CodecError,
    },
    /// A peer was not given as `NODE@HOST:PORT`.
    #[cfg(feature = "net")]
    #[error(transparent)]
    Peer(#[from] counterfoil_replication::net::TargetError),
    /// Two ends of a link are one and the same node.
    #[error("node {node} can't be linked to itself: give the other store another node name")]
    SameNode {
        /// The node.
        node: NodeName,
    },
    /// A node that was to give something was not reached.
    #[cfg(feature = "net")]
    #[error("{peer} was not reached: {reason}")]
    NotReached {
        /// The node, and where it should listen.
        peer: String,
        /// Why.
        reason: String,
    },
    /// Another link of this store carries the space to the same node.
    #[error("space {space} goes to {peer} by another link already: stop that one first, or leave the space out")]
    AlreadyLinked {
        /// The node at the other end.
        peer: NodeName,
        /// The space.
        space: SpaceName,
    },
    /// The store was closed, but a peer does not have everything yet.
    ///
    /// Nothing is lost: what is missing there is durable here and goes on when a link is next started.
    #[error("not all of it is known to be mirrored: {}{}", list(.unmirrored), next_time(.unmirrored))]
    NotMirrored {
        /// What each peer has not acknowledged, a log at a time.
        unmirrored: Vec<Unmirrored>,
    },
    /// Certificates or key can't be used.
    #[cfg(feature = "net")]
    #[error(transparent)]
    Tls(#[from] counterfoil_replication::net::TlsError),
    /// The address can't be listened on.
    #[cfg(feature = "net")]
    #[error(transparent)]
    Listen(#[from] counterfoil_replication::net::ListenError),
    /// A private authority or a certificate could not be made.
    #[cfg(feature = "net")]
    #[error(transparent)]
    Certificate(#[from] crate::certificates::CertificateError),
    /// A policy can't be understood.
    #[error(transparent)]
    Policy(#[from] counterfoil_replication::PolicyError),
    /// A thread or the network runtime could not be started, or an address not be bound.
    #[error("{what} failed: {error}")]
    System {
        /// What was tried, and where.
        what: String,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
}

/// Each once: of a peer that was not reached all logs of a space say the same.
fn list(unmirrored: &[Unmirrored]) -> String {
    let mut told = HashSet::new();
    let texts = unmirrored.iter().map(ToString::to_string).filter(|text| told.insert(text.clone()));
    texts.collect::<Vec<_>>().join(", ")
}

/// What to do about records that are merely on their way; where something else is in the way, that is said.
fn next_time(unmirrored: &[Unmirrored]) -> &'static str {
    if unmirrored.iter().any(|missing| missing.reason.is_none()) { "; start the link again" } else { "" }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        let message = self.to_string();
        let mut detail = f.debug_struct("Error");
        detail.field("kind", &self.kind()).field("message", &message);
        std::error::Error::source(self).map(|source| detail.field("source", &source));
        detail.finish()
    }
}

/// The result of most calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an [error](enum@Error) is about, to decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no store in this folder.
    NoStore,
    /// There is one already.
    AlreadyExists,
    /// Another process has it open.
    Locked,
    /// The disk refused an operation, now or before: see whether the store must be opened again.
    Disk,
    /// No space is left on the disk; appends succeed again once there is.
    StorageFull,
    /// The queue is full and the caller chose not to wait.
    WouldBlock,
    /// A record or value is longer than the limit.
    TooLong,
    /// Stored bytes are not those that were written, or are missing.
    Damaged,
    /// Retention has removed the records asked for; reading goes on behind them.
    Trimmed,
    /// A log has two histories, or a batch does not continue it.
    Diverged,
    /// The log, or the record, is not in this store.
    NotFound,
    /// The store was opened to read only.
    ReadOnly,
    /// The store is closed.
    Closed,
    /// The caller asked for something that can't be: a name, an address, an option.
    Misuse,
    /// A value could not be encoded or decoded.
    Codec,
    /// The codec can't read back what it writes of this type.
    CodecCannotRoundTrip,
    /// A key holds other versions than those that were read.
    Changed,
    /// A peer does not have everything yet.
    NotMirrored,
    /// Certificates, keys or policy can't be used.
    Security,
    /// The network, or the operating system's threads, failed.
    System,
    /// The store was written by a later version.
    Format,
}

impl Error {
    /// What this error is about.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(error) => open_kind(error),
            Self::Append(error) => append_kind(error),
            Self::Store(error) => store_kind(error),
            Self::Read(error) => read_kind(error),
            Self::Mend(error) => mend_kind(error),
            Self::Trim(error) => trim_kind(error),
            Self::Batch(_) => ErrorKind::Damaged,
            Self::OtherNode { .. }
            | Self::NodeNotNamed { .. }
            | Self::Name(_)
            | Self::Id(_)
            | Self::AmbiguousLog { .. }
            | Self::SameNode { .. }
            | Self::AlreadyLinked { .. } => ErrorKind::Misuse,
            Self::NotThatFrontier { .. } | Self::NoSuchVersion { .. } => ErrorKind::NotFound,
            Self::Token(_) | Self::EmptyTransaction => ErrorKind::Misuse,
            Self::Changed { .. } => ErrorKind::Changed,
            Self::KeyTooLong { .. } => ErrorKind::TooLong,
            Self::NotAKey { .. } => ErrorKind::Codec,
            Self::Unread { error, .. } => error.kind(),
            Self::Index { .. } => ErrorKind::Disk,
            Self::IndexFull => ErrorKind::StorageFull,
            Self::Encode { .. } | Self::Decode { .. } => ErrorKind::Codec,
            Self::CodecCannotRoundTrip { .. } => ErrorKind::CodecCannotRoundTrip,
            #[cfg(feature = "net")]
            Self::Tls(_) | Self::Certificate(_) => ErrorKind::Security,
            #[cfg(feature = "net")]
            Self::Peer(_) => ErrorKind::Misuse,
            #[cfg(feature = "net")]
            Self::Listen(counterfoil_replication::net::ListenError::Tls(_)) => ErrorKind::Security,
            #[cfg(feature = "net")]
            Self::Listen(_) => ErrorKind::System,
            Self::Policy(_) => ErrorKind::Security,
            Self::NotMirrored { .. } => ErrorKind::NotMirrored,
            #[cfg(feature = "net")]
            Self::NotReached { .. } => ErrorKind::System,
            Self::System { .. } => ErrorKind::System,
        }
    }
}

fn mend_kind(error: &MendError) -> ErrorKind {
    match error {
        MendError::Append(error) => append_kind(error),
        MendError::Read(error) => read_kind(error),
        MendError::NotMissing { .. } => ErrorKind::Damaged,
        _ => ErrorKind::Disk,
    }
}

fn trim_kind(error: &TrimError) -> ErrorKind {
    match error {
        TrimError::Append(error) => append_kind(error),
        TrimError::Read(error) => read_kind(error),
        _ => ErrorKind::Disk,
    }
}

fn open_kind(error: &OpenError) -> ErrorKind {
    match error {
        OpenError::Locked { .. } => ErrorKind::Locked,
        OpenError::NoStore { .. } => ErrorKind::NoStore,
        OpenError::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        OpenError::Identity { .. } | OpenError::IdentityMissing { .. } => ErrorKind::Damaged,
        OpenError::Format { .. } | OpenError::Compression { .. } => ErrorKind::Format,
        _ => ErrorKind::Disk,
    }
}

fn append_kind(error: &AppendError) -> ErrorKind {
    match error {
        AppendError::StorageFull => ErrorKind::StorageFull,
        AppendError::WouldBlock { .. } => ErrorKind::WouldBlock,
        AppendError::RecordTooLong { .. } => ErrorKind::TooLong,
        AppendError::UnknownLog { .. } => ErrorKind::NotFound,
        AppendError::ForeignLog { .. } | AppendError::LogEnded { .. } => ErrorKind::Misuse,
        AppendError::ReadOnly => ErrorKind::ReadOnly,
        AppendError::Closed => ErrorKind::Closed,
        _ => ErrorKind::Disk,
    }
}

fn store_kind(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::Append(error) => append_kind(error),
        StoreError::Batch(_) => ErrorKind::Damaged,
        _ => ErrorKind::Diverged,
    }
}

fn read_kind(error: &ReadError) -> ErrorKind {
    match error {
        ReadError::UnknownLog { .. } => ErrorKind::NotFound,
        ReadError::Damaged { .. } | ReadError::Hole { .. } => ErrorKind::Damaged,
        ReadError::Trimmed { .. } | ReadError::TrimmedArrivals { .. } => ErrorKind::Trimmed,
        _ => ErrorKind::Disk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_main_returns_is_shown_as_its_line_and_in_detail_on_request() {
        let error = Error::NodeNotNamed { path: "practice.store".into() };
        assert_eq!(format!("{error:?}"), error.to_string());
        let detail = format!("{error:#?}");
        assert!(detail.contains("kind: Misuse") && detail.contains("practice.store"), "{detail}");
    }
}
