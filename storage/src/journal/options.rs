//! How a journal is opened.

use std::{fmt, io, sync::Arc, time::Duration};

use crate::{
    batch::MAX_RECORD_LEN,
    compression::Compression,
    ids::Incarnation,
    time::{SystemClock, WallClock},
    vfs::{Disk, Vfs},
};

/// Names lives of nodes. No two may be equal, of whatever stores: logs are named by them.
pub trait Lives: Send + Sync + fmt::Debug {
    /// A name that no life had before.
    fn next(&self) -> io::Result<Incarnation>;
}

/// Takes them from the operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomLives;

impl Lives for RandomLives {
    fn next(&self) -> io::Result<Incarnation> {
        Incarnation::random()
    }
}

/// How a journal is opened. Each field's default is stated; all are limits, none is needed for correctness.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The file system. Default: the operating system's.
    pub vfs: Arc<dyn Vfs>,
    /// The wall clock. Default: the operating system's.
    pub clock: Arc<dyn WallClock>,
    /// Where lives of a node get their names. Default: the operating system's randomness.
    pub lives: Arc<dyn Lives>,
    /// A stamp of another node's that is ahead of the wall clock by more than this does not set the clock that stamps
    /// this node's records. Default: 1 minute.
    pub clock_ahead_max: Duration,
    /// Open without changing a byte, beside a writer or on read-only media. Default: false.
    pub read_only: bool,
    /// Run the threads that commit what nobody waits for and fill segments ahead. Without them the
    /// caller does this with [`Journal::commit`](super::Journal::commit): for tests that must be repeatable. Default: true.
    pub background: bool,
    /// A batch is cut when its records reach this many bytes; 1 KiB to 1 MiB. Default: 8 KiB.
    pub batch_bytes: usize,
    /// How the bodies of own batches are stored. Default: as they are.
    pub compression: Compression,
    /// The longest record, in bytes; at most [`MAX_RECORD_LEN`]. Default: that.
    pub record_bytes_max: usize,
    /// Bytes that may wait to be committed; when more do, appenders wait. At most 64 MiB. Default: 16 MiB.
    pub queue_bytes: usize,
    /// Bytes of the newest batches kept in memory for those who follow. Default: 8 MiB.
    pub ring_bytes: usize,
    /// Bytes of index of sealed segments kept in memory. Default: 16 MiB.
    pub index_bytes: usize,
    /// Size of the first segments, in bytes. Default: 1 MiB.
    pub segment_bytes_min: u64,
    /// Size of segments once the store has grown, in bytes. Default: 64 MiB.
    pub segment_bytes_max: u64,
    /// Records that nobody waits for stay in memory for at most about twice this. Default: 2 ms.
    pub commit_delay: Duration,
    /// A mark is written after at most about twice this without a commit. Default: 5 ms.
    pub mark_delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vfs: Arc::new(Disk),
            clock: Arc::new(SystemClock),
            lives: Arc::new(RandomLives),
            clock_ahead_max: Duration::from_secs(60),
            read_only: false,
            background: true,
            batch_bytes: 8 << 10,
            compression: Compression::None,
            record_bytes_max: MAX_RECORD_LEN,
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

impl Options {
    /// [`clock_ahead_max`](Self::clock_ahead_max) in milliseconds.
    pub(crate) fn clock_ahead_ms_max(&self) -> u64 {
        u64::try_from(self.clock_ahead_max.as_millis()).unwrap_or(u64::MAX)
    }

    /// The options with each within its limits.
    pub(crate) fn bounded(mut self) -> Self {
        self.record_bytes_max = self.record_bytes_max.min(MAX_RECORD_LEN);
        self.queue_bytes = self.queue_bytes.clamp(1, 64 << 20);
        self.batch_bytes = self.batch_bytes.clamp(1 << 10, 1 << 20);
        self.segment_bytes_max = self.segment_bytes_max.clamp(16 << 10, 1 << 30);
        self.segment_bytes_min = self.segment_bytes_min.clamp(16 << 10, self.segment_bytes_max);
        self
    }
}
