//! What can go wrong, by whose fault it is.

use std::{fmt, io, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::{
    batch::BatchError,
    compression::Compression,
    ids::{Arrival, Head, LogId, SegmentNumber, Seq},
};

/// A place in a store's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment file.
    pub segment: SegmentNumber,
    /// Bytes from the start of that file.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} at offset {}", self.segment, self.offset)
    }
}

/// An error of the operating system that several waiters can be told of.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub struct DiskError(#[source] pub Arc<io::Error>);

impl From<io::Error> for DiskError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

/// A store could not be made or opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another handle of this one, has it open for writing.
    #[error("{path} is locked: another process has it open; stop that process, or open it to read only")]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// There is no store in this folder.
    #[error("{path} holds no store; make one first (`counterfoil init`)")]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// There already is one.
    #[error("{path} holds a store already; open it, or choose another folder")]
    AlreadyExists {
        /// The store's folder.
        path: PathBuf,
    },
    /// Batches are to be compressed in a way that this build lacks.
    #[error("this build can't compress with {compression}: it lacks the feature `{compression}`")]
    Compression {
        /// What was asked for.
        compression: Compression,
    },
    /// There are segments of a store, but not the file that says whose they are.
    #[error("{path} is missing beside the segments of a store; restore this file from a backup of the same store")]
    IdentityMissing {
        /// The identity file.
        path: PathBuf,
    },
    /// Both copies of the identity are unreadable: whose store this is can't be told.
    #[error("{path}: both copies of the identity are damaged; restore this file from a backup of the same store")]
    Identity {
        /// The identity file.
        path: PathBuf,
    },
    /// The store was written by a later version.
    #[error("{path} has format {found}, this version reads up to {known}; use a later version")]
    Format {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u16,
        /// The latest version known here.
        known: u16,
    },
    /// An operation on a file failed.
    #[error("{path}: {operation} failed: {error}{}", advice(error))]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
}

/// What may be done about a store that could not be made or opened.
fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind::{
        AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };

    match error.kind() {
        AlreadyExists | NotADirectory | IsADirectory => "; a store is a folder: choose another path",
        NotFound => "; check the path",
        PermissionDenied => "; check who may read and write there",
        ReadOnlyFilesystem => "; nothing can be written there: choose another path, or open it to read only",
        StorageFull | QuotaExceeded => "; free some space, then try again",
        _ => "",
    }
}

/// An append, or the commit that it waits for, failed.
///
/// Said by an append itself, nothing was queued. Said by a [`Receipt`](super::Receipt), it means
/// *unknown*, not *absent*: the records may or may not be found when the store is next opened.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A flush or a write failed before; what the disk holds since is not known. Reads of what was
    /// proven durable go on; only opening the store again clears this.
    #[error("the store's disk failed ({error}): appends are refused until the store is opened again")]
    Poisoned {
        /// What the operating system said at first.
        error: DiskError,
    },
    /// No space is left for a further segment. Appends succeed again once there is.
    #[error("no space left on the store's disk: free some, then append again")]
    StorageFull,
    /// The queue is full and the caller chose not to wait.
    #[error("the queue of {queue_bytes} bytes is full: wait for a receipt, then append again")]
    WouldBlock {
        /// The bound of the queue.
        queue_bytes: usize,
    },
    /// A record is longer than allowed.
    #[error("a record of {len} bytes is longer than the limit of {limit}: split it, or raise the limit")]
    RecordTooLong {
        /// Its length, in bytes.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The records of one append are longer than allowed together.
    #[error("an append of {len} bytes is longer than the limit of {limit}: split it")]
    AppendTooLong {
        /// Their length, in bytes.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The log is not known here.
    #[error("log {log} is not in this store: announce it first")]
    UnknownLog {
        /// The log.
        log: LogId,
    },
    /// The log is another writer's: its batches are stored verbatim, never written here.
    #[error("log {log} is written by another node: append to a log of this node")]
    ForeignLog {
        /// The log.
        log: LogId,
    },
    /// The log is of an earlier life of this node, which turned out to have been rolled back: see
    /// [`Journal::begin_new_life`](super::Journal::begin_new_life).
    #[error("log {log} has ended, since this store was rolled back: append to a log of the node's present life")]
    LogEnded {
        /// The log.
        log: LogId,
    },
    /// The store was opened to read only.
    #[error("the store was opened to read only: open it for writing")]
    ReadOnly,
    /// The store has been closed.
    #[error("the store is closed: open it again")]
    Closed,
}

/// A batch of another node's was not stored.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing can be appended; see there.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The bytes are not a sound batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Whether the batch is stored here already can't be told: what is here can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The batch begins after the end of the log here: what is between is missing.
    #[error("log {log} ends at {next_seq} here, the batch begins at {first_seq}: send what is between")]
    Gap {
        /// The log.
        log: LogId,
        /// Where the log ends here.
        next_seq: Seq,
        /// Where the batch begins.
        first_seq: Seq,
    },
    /// At this place the log holds other bytes, or the batch follows another history.
    #[error("log {log} has two histories: at {first_seq} the batch does not continue what is stored here")]
    Diverged {
        /// The log.
        log: LogId,
        /// Where the batch begins.
        first_seq: Seq,
        /// The head of the log here.
        local: Head,
    },
}

/// A hole was not filled.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum MendError {
    /// The store takes nothing; see there.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// What is around the hole can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The batch is not one that is missing, or not the last one of its hole.
    #[error("the batch at {first_seq} of log {log} is not what is missing there: its digest is another one")]
    NotMissing {
        /// The log.
        log: LogId,
        /// Where the batch begins.
        first_seq: Seq,
    },
    /// The disk does not take it.
    #[error("mending {place} failed: {error}")]
    Disk {
        /// Where.
        place: Place,
        /// What the operating system said.
        error: DiskError,
    },
}

/// Records can't be served.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The log is not known here.
    #[error("log {log} is not in this store")]
    UnknownLog {
        /// The log.
        log: LogId,
    },
    /// The bytes on disk are not those that were written.
    #[error(
        "log {log} can't be read from {first_seq} to before {next_seq}: {what} ({place}); a mirror may have what is missing"
    )]
    Damaged {
        /// The log.
        log: LogId,
        /// First sequence number that can't be served.
        first_seq: Seq,
        /// First sequence number after those that can't be.
        next_seq: Seq,
        /// Where.
        place: Place,
        /// What is wrong.
        what: String,
    },
    /// Records are kept no more. Reading can go on at `first_available`.
    #[error(
        "log {log} is kept from {first_available} on: retention removed {first_seq} to before that; a mirror may have them"
    )]
    Trimmed {
        /// The log.
        log: LogId,
        /// First sequence number asked for that is kept no more.
        first_seq: Seq,
        /// First sequence number kept.
        first_available: Seq,
    },
    /// Batches are kept no more. Reading can go on at `first_available`.
    #[error(
        "retention removed the batches that arrived from {first_arrival} to before {first_available}; a mirror may have them"
    )]
    TrimmedArrivals {
        /// First arrival number asked for that is kept no more.
        first_arrival: Arrival,
        /// The arrival number from which on it is not so.
        first_available: Arrival,
    },
    /// The writer beside has given back this segment since the store was opened to read only, or refreshed.
    #[error("segment {segment} was freed by the process that writes the store: refresh, or open again, then read on")]
    Freed {
        /// The segment.
        segment: SegmentNumber,
    },
    /// Records are missing: a range of the journal was lost. Reading can go on at `next_seq`.
    #[error("log {log} has a hole from {first_seq} to before {next_seq}; a mirror may have what is missing")]
    Hole {
        /// The log.
        log: LogId,
        /// First sequence number missing.
        first_seq: Seq,
        /// First sequence number after the hole.
        next_seq: Seq,
    },
    /// Batches are missing whose logs can't be told: a range of the journal was lost.
    #[error(
        "the batches that arrived from {first_arrival} to before {next_arrival} are lost; a mirror may have what is missing"
    )]
    MissingArrivals {
        /// First arrival number missing.
        first_arrival: Arrival,
        /// First arrival number after the range.
        next_arrival: Arrival,
    },
    /// An operation on a file failed.
    #[error("reading {place} failed: {error}")]
    Disk {
        /// Where.
        place: Place,
        /// What the operating system said.
        error: DiskError,
    },
}
