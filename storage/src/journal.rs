//! The journal: one sequence of segments on disk that holds the batches of all logs of a store.

mod error;

use std::{
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

pub use error::{AppendError, DiskError, OpenError, Place, ReadError, StoreError};

use crate::{
    batch::Batch,
    genesis::Genesis,
    ids::{Arrival, Head, Incarnation, LogId, NodeName, Seq, SpaceName, StoreId},
    time::{Hlc, SystemClock, WallClock},
    vfs::{Disk, Vfs},
};

/// How a journal is opened. Each field's default is stated; all are limits, none is needed for correctness.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The file system. Default: the operating system's.
    pub vfs: Arc<dyn Vfs>,
    /// The wall clock. Default: the operating system's.
    pub clock: Arc<dyn WallClock>,
    /// Open without changing a byte, beside a writer or on read-only media. Default: false.
    pub read_only: bool,
    /// Run the threads that commit what nobody waits for and fill segments ahead. Without them the
    /// caller does this with [`Journal::commit`]: for tests that must be repeatable. Default: true.
    pub background: bool,
    /// A batch is cut when its records reach this many bytes. Default: 8 KiB.
    pub batch_bytes: usize,
    /// The longest record, in bytes; at most [`MAX_RECORD_LEN`](crate::MAX_RECORD_LEN). Default: that.
    pub record_bytes_max: usize,
    /// Bytes that may wait to be committed; when more do, appenders wait. Default: 16 MiB.
    pub queue_bytes: usize,
    /// Bytes of the newest batches kept in memory for those who follow. Default: 8 MiB.
    pub ring_bytes: usize,
    /// Bytes of index of sealed segments kept in memory. Default: 16 MiB.
    pub index_bytes: usize,
    /// Size of the first segments, in bytes. Default: 1 MiB.
    pub segment_bytes_min: u64,
    /// Size of segments once the store has grown, in bytes. Default: 64 MiB.
    pub segment_bytes_max: u64,
    /// How long records that nobody waits for may stay in memory. Default: 2 ms.
    pub commit_delay: Duration,
    /// After how long without a commit a mark is written. Default: 5 ms.
    pub mark_delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vfs: Arc::new(Disk),
            clock: Arc::new(SystemClock),
            read_only: false,
            background: true,
            batch_bytes: 8 << 10,
            record_bytes_max: crate::batch::MAX_RECORD_LEN,
            queue_bytes: 16 << 20,
            ring_bytes: 8 << 20,
            index_bytes: 16 << 20,
            segment_bytes_min: 1 << 20,
            segment_bytes_max: 64 << 20,
            commit_delay: Duration::from_millis(2),
            mark_delay: Duration::from_millis(5),
        }
    }
}

/// Who a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node's name.
    pub node: NodeName,
    /// The store's random id.
    pub store: StoreId,
    /// New when the store is found to be a copy.
    pub incarnation: Incarnation,
}

/// A log as it stands.
#[derive(Debug, Clone)]
pub struct LogInfo {
    /// Its name.
    pub id: LogId,
    /// What it began with.
    pub genesis: Arc<Genesis>,
    /// First record kept.
    pub first_seq: Seq,
    /// Where it durably ends.
    pub durable: Head,
    /// Sequence number after the last record queued; at least `durable.next_seq`.
    pub queued_next_seq: Seq,
    /// Bytes of its batches on disk.
    pub bytes: u64,
    /// Time of its last durable batch's first record.
    pub last_time: Hlc,
}

/// What opening found. Empty after a clean close.
#[derive(Debug, Clone, Default)]
pub struct Recovery {/* see the recovery module */}

/// An append-only journal of logs in one folder. Cheap to clone; all clones are one journal.
#[derive(Debug, Clone)]
pub struct Journal;

impl Journal {
    /// Makes a store in `dir` and opens it.
    ///
    /// **Durability**: on `Ok` the empty store survives power loss.
    pub fn create(dir: &Path, node: NodeName, options: Options) -> Result<Self, OpenError> {
        todo!()
    }

    /// Opens the store in `dir`, with what was found while doing so.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        todo!()
    }

    /// Who this store is.
    pub fn identity(&self) -> &Identity {
        todo!()
    }

    /// Makes a log known: this node's own or another's. It is stored with the next commit. Idempotent.
    pub fn create_log(&self, genesis: Genesis) -> Result<LogId, AppendError> {
        todo!()
    }

    /// A handle to append to a log of this node.
    pub fn writer(&self, log: LogId) -> Result<LogWriter, AppendError> {
        todo!()
    }

    /// Queues another node's batch, verbatim; waits while the queue is full. Checksum verified by `Batch`; the chain here.
    pub fn store(&self, batch: Batch) -> Result<Stored, StoreError> {
        todo!()
    }

    /// Like `store`, but fails with [`AppendError::WouldBlock`] instead of waiting.
    pub fn try_store(&self, batch: Batch) -> Result<Stored, StoreError> {
        todo!()
    }

    /// Makes durable all that is queued.
    pub fn commit(&self) -> Result<(), AppendError> {
        todo!()
    }

    /// All logs, or those of one space; ascending by id.
    pub fn logs(&self, space: Option<&SpaceName>) -> Vec<LogInfo> {
        todo!()
    }

    /// One log.
    pub fn log(&self, log: LogId) -> Option<LogInfo> {
        todo!()
    }

    /// The durable batch that holds the record `seq`; `None` if the log durably ends before it.
    pub fn read_batch(&self, log: LogId, seq: Seq) -> Result<Option<Batch>, ReadError> {
        todo!()
    }

    /// Durable batches of a log from the one that holds `from`, until the end as of each step.
    pub fn read(&self, log: LogId, from: Seq) -> LogReader {
        todo!()
    }

    /// Durable batches of all logs by arrival.
    pub fn read_arrivals(&self, from: Arrival) -> ArrivalReader {
        todo!()
    }

    /// Tells when logs of a space (or any) have durably grown, or the journal fails.
    pub fn watch(&self, space: Option<SpaceName>) -> Watch {
        todo!()
    }

    /// Commits what is queued, writes the closing mark and gives the lock back. Idempotent.
    pub fn close(&self) -> Result<(), AppendError> {
        todo!()
    }
}

/// Appends to one log of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogWriter;

impl LogWriter {
    /// Queues a record; waits while the queue is full.
    pub fn append(&self, body: &[u8]) -> Result<Receipt, AppendError> {
        todo!()
    }
    /// Queues records that are committed together (one or several batches of one commit).
    pub fn append_all<B: AsRef<[u8]>>(&self, bodies: &[B]) -> Result<Receipt, AppendError> {
        todo!()
    }
    /// Like `append_all`, but fails with [`AppendError::WouldBlock`] instead of waiting.
    pub fn try_append_all<B: AsRef<[u8]>>(&self, bodies: &[B]) -> Result<Receipt, AppendError> {
        todo!()
    }
}

/// What an append returns: the promise of a commit.
#[derive(Debug, Clone)]
pub struct Receipt;

impl Receipt {
    /// The log.
    pub fn log(&self) -> LogId {
        todo!()
    }
    /// Sequence number of the first record.
    pub fn first_seq(&self) -> Seq {
        todo!()
    }
    /// Sequence number after the last record.
    pub fn next_seq(&self) -> Seq {
        todo!()
    }
    /// Waits until durable.
    pub fn wait(&self) -> Result<(), AppendError> {
        todo!()
    }
    /// Waits until durable or `timeout`; whether it is durable.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, AppendError> {
        todo!()
    }
    /// Whether it is durable by now; never waits.
    pub fn is_durable(&self) -> Result<bool, AppendError> {
        todo!()
    }
    /// For futures: registers the waker and nudges the background committer, never flushes.
    pub fn poll_durable(&self, cx: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        todo!()
    }
}

/// What became of a batch.
#[derive(Debug, Clone)]
pub enum Stored {
    /// Queued; durable once the receipt says so.
    Queued(Receipt),
    /// The log holds (or has queued) this very batch already.
    Duplicate,
}

/// Iterator over the durable batches of one log: `Item = Result<Batch, ReadError>`. Owned, no lifetimes.
/// After the end it can be polled again and goes on with what has become durable.
/// After a `Damaged`/`Hole` error the next item is what follows it.
#[derive(Debug)]
pub struct LogReader;

impl Iterator for LogReader {
    type Item = Result<Batch, ReadError>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// Iterator over durable batches by arrival: `Item = Result<(Arrival, Batch), ReadError>`.
#[derive(Debug)]
pub struct ArrivalReader;

impl Iterator for ArrivalReader {
    type Item = Result<(Arrival, Batch), ReadError>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// Tells when something has become durable.
#[derive(Debug)]
pub struct Watch;

impl Watch {
    /// Waits for a change since the last call returned true, or `timeout`; whether there was one.
    pub fn wait_timeout(&mut self, timeout: Duration) -> bool {
        todo!()
    }
    /// Ready when there was a change since it was last ready.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        todo!()
    }
}
