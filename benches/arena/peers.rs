//! What a Rust developer could choose instead, each used as its authors mean it to be used for durable appends.

mod commitlog;
mod fjall;
mod jetstream;
mod nats;
mod negentropy;
mod okaywal;
mod postgresql;
mod raft_engine;
mod redb;
mod servers;
mod sqlite;

use std::sync::atomic::{AtomicU64, Ordering};

use counterfoil_benches::{Contender, Pairing, Reconciler};

/// In the order of the report.
pub(crate) const ALL: [&dyn Contender; 6] = [
    &raft_engine::RaftEngine,
    &self::fjall::Fjall,
    &self::redb::Redb,
    &sqlite::Sqlite,
    &self::okaywal::OkayWal,
    &self::commitlog::CommitLog,
];

/// Those that replicate, in the order of the report.
pub(crate) const PAIRS: [&dyn Pairing; 2] = [&jetstream::JetStream, &postgresql::PostgreSql];

/// Those that find out what differs, in the order of the report.
pub(crate) const RECONCILERS: [&dyn Reconciler; 1] = [&self::negentropy::Ranges];

/// What the stores that have a cache may keep in it: as much as Counterfoil's budget.
const CACHE_BYTES: usize = 64 << 20;

const NO_RECEIPTS: &str = "an append waits for its own flush: one thread has one under way";

/// The next sequence number of each log, for stores that know keys only.
struct NextSeqs(Vec<AtomicU64>);

impl NextSeqs {
    fn new(logs: u32) -> Self {
        Self((0..logs).map(|_| AtomicU64::new(0)).collect())
    }

    /// The first of `count` numbers, which are the caller's.
    fn take(&self, log: u32, count: usize) -> u64 {
        self.0[log as usize].fetch_add(count as u64, Ordering::Relaxed)
    }
}

/// One key for log and sequence number, in the order of both.
const fn key(log: u32, seq: u64) -> u64 {
    (log as u64) << 40 | seq
}
