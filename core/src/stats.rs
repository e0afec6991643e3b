//! Numbers to watch.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use counterfoil_storage::{Incarnation, NodeName, SpaceName};

use crate::{retention::RetentionStats, status::LinkStatus, store::Inner};

/// A snapshot of a store's numbers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// The node.
    pub node: NodeName,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Each space that has a log here, in order.
    pub spaces: Vec<SpaceStats>,
    /// Segment files.
    pub segments: u64,
    /// Batches stored, since the store was made.
    pub batches: u64,
    /// Bytes of these batches.
    pub batch_bytes: u64,
    /// Bytes that wait to be committed.
    pub queued_bytes: u64,
    /// A write or flush has failed: appends are refused until the store is opened again.
    pub is_poisoned: bool,
    /// The last write found no space.
    pub is_storage_full: bool,
    /// Records appended through this handle's process since the store was opened.
    pub appended_records: u64,
    /// Bytes of these records' bodies.
    pub appended_bytes: u64,
    /// The links started and not stopped.
    pub links: Vec<LinkStatus>,
    /// The nodes connected to this store's servers, in order; a node that is connected twice is there twice.
    pub peers: Vec<NodeName>,
    /// What retention has done since the store was opened.
    pub retention: RetentionStats,
}

/// What a store holds of a space.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceStats {
    /// The space.
    pub space: SpaceName,
    /// How many logs it has here.
    pub logs: u64,
    /// Durable records kept, without those that are [known to be missing](counterfoil_storage::LogInfo::missing_records).
    pub records: u64,
    /// Bytes of their batches on disk.
    pub bytes: u64,
    /// Records that retention removed, since the logs were begun.
    pub trimmed_records: u64,
    /// Bytes of their batches.
    pub trimmed_bytes: u64,
}

impl Stats {
    pub(crate) fn of(inner: &Inner) -> Self {
        let identity = inner.journal.identity();
        let mut spaces = BTreeMap::new();
        for info in inner.journal.logs(None) {
            let space = info.genesis.space.clone();
            let nothing =
                |space| SpaceStats { space, logs: 0, records: 0, bytes: 0, trimmed_records: 0, trimmed_bytes: 0 };
            let sum = spaces.entry(space.clone()).or_insert_with(|| nothing(space));
            sum.logs += 1;
            sum.records += (info.durable.next_seq.0 - info.first_seq.0).saturating_sub(info.missing_records());
            sum.bytes += info.bytes;
            sum.trimmed_records += info.first_seq.0;
            sum.trimmed_bytes += info.trimmed_bytes;
        }
        let journal = inner.journal.stats();
        Self {
            segments: journal.segments,
            batches: journal.batches,
            batch_bytes: journal.batch_bytes,
            queued_bytes: journal.queued_bytes,
            is_poisoned: journal.poisoned,
            is_storage_full: journal.storage_full,
            node: identity.node.clone(),
            incarnation: identity.incarnation,
            spaces: spaces.into_values().collect(),
            appended_records: inner.appended.records.load(Ordering::Relaxed),
            appended_bytes: inner.appended.bytes.load(Ordering::Relaxed),
            links: inner.link_statuses(),
            peers: inner.peers(),
            retention: inner.keeper.stats(),
        }
    }
}
