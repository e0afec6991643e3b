//! How much is done.

use std::time::Duration;

use counterfoil_benches::{RECORD_BYTES, Workload};

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds of most workloads; C does fewer.
    pub(crate) rounds: usize,
    pub(crate) rounds_of_c: usize,
    /// How long a turn takes that is bounded by time.
    pub(crate) turn: Duration,
    /// What C writes at most, and how long at most.
    pub(crate) unflushed_records: usize,
    pub(crate) unflushed_turn: Duration,
    pub(crate) bulk_records: usize,
    /// Records of each log of F2, and how many of its logs are read.
    pub(crate) interleaved_records: usize,
    pub(crate) interleaved_logs: u32,
    pub(crate) archive_records: usize,
    pub(crate) reads: usize,
    /// Between turns, for what a system does behind the caller's back.
    pub(crate) pause: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        rounds: 7,
        rounds_of_c: 3,
        turn: Duration::from_millis(900),
        unflushed_records: (1 << 30) / RECORD_BYTES,
        unflushed_turn: Duration::from_secs(8),
        bulk_records: 512_000,
        interleaved_records: 300,
        interleaved_logs: 100,
        archive_records: 2_640_000,
        reads: 40_000,
        pause: Duration::from_millis(100),
    };

    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        rounds_of_c: 3,
        turn: Duration::from_millis(200),
        unflushed_records: (1 << 28) / RECORD_BYTES,
        unflushed_turn: Duration::from_millis(600),
        bulk_records: 100_000,
        interleaved_records: 50,
        interleaved_logs: 100,
        archive_records: 500_000,
        reads: 5_000,
        pause: Duration::from_millis(30),
    };

    /// Everything once, to see that it works.
    pub(crate) const TEST: Self = Self {
        rounds: 1,
        rounds_of_c: 1,
        turn: Duration::from_millis(5),
        unflushed_records: 2_000,
        unflushed_turn: Duration::from_millis(50),
        bulk_records: 4_000,
        interleaved_records: 2,
        interleaved_logs: 3,
        archive_records: 10_000,
        reads: 100,
        pause: Duration::ZERO,
    };

    pub(crate) fn rounds(&self, workload: Workload) -> usize {
        match workload {
            Workload::C => self.rounds_of_c,
            Workload::Disk => 1,
            _ => self.rounds,
        }
    }
}
