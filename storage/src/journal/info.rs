//! A journal and its logs in figures.

use std::sync::Arc;

use super::log_state::LogState;
use crate::{
    genesis::Genesis,
    holes::Holes,
    ids::{Digest, Head, LogId, Seq},
    time::Hlc,
};

/// A log as it stands.
#[derive(Debug, Clone)]
pub struct LogInfo {
    /// Its name.
    pub id: LogId,
    /// What it began with.
    pub genesis: Arc<Genesis>,
    /// First record kept.
    pub first_seq: Seq,
    /// What it follows: the digest of the batch before it, or of the genesis.
    pub first_digest: Digest,
    /// Where it durably ends.
    pub durable: Head,
    /// Bytes of its batches that are kept.
    pub bytes: u64,
    /// Bytes of its batches that are kept no more: those below the floor.
    pub trimmed_bytes: u64,
    /// Time of the first record of its last durable batch.
    pub last_time: Hlc,
    /// What is known to be missing before that: see [`Journal::holes`](super::Journal::holes). A range behind it was the
    /// log's end once, and is lost: known until it is here again, or nothing of the log is kept.
    pub holes: Holes,
}

impl LogInfo {
    /// How many of the records from [`first_seq`](Self::first_seq) on are known to be missing or damaged: with more ranges
    /// than [`HOLES_MAX`](crate::HOLES_MAX), also those between some of them.
    pub fn missing_records(&self) -> u64 {
        self.holes.iter().map(|(first_seq, next_seq)| next_seq.0 - first_seq.0).sum()
    }

    pub(super) fn of(state: &LogState) -> Self {
        let row = &state.row;
        Self {
            id: state.id,
            genesis: Arc::clone(&row.genesis),
            first_seq: row.floor.head.next_seq,
            first_digest: row.floor.head.digest,
            durable: row.head,
            bytes: row.bytes,
            trimmed_bytes: row.floor.bytes,
            last_time: row.last_time,
            holes: state.holes_kept(),
        }
    }
}

/// A journal in figures, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalStats {
    /// Logs known.
    pub logs: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes of all batches that are kept.
    pub batch_bytes: u64,
    /// Batches that have arrived, ever.
    pub batches: u64,
    /// Bytes waiting to be committed.
    pub queued_bytes: u64,
    /// A write or flush has failed: appends are refused.
    pub poisoned: bool,
    /// The last write found no space.
    pub storage_full: bool,
}
