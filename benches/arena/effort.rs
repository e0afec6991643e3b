//! How much is done.

use std::time::Duration;

use counterfoil_benches::{RECORD_BYTES, Workload};

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds of most workloads; C does fewer.
    pub(crate) rounds: usize,
    /// Rounds of those whose turns are short: many, since a busy processor makes each flush slow or none.
    pub(crate) rounds_of_short: usize,
    pub(crate) rounds_of_c: usize,
    /// How long such a turn takes.
    pub(crate) turn: Duration,
    /// How long a turn takes of At, and of reads at most.
    pub(crate) long_turn: Duration,
    /// What C writes at most, and how long at most.
    pub(crate) unflushed_records: usize,
    pub(crate) unflushed_turn: Duration,
    pub(crate) bulk_records: usize,
    /// Records of each log of F2, and how many of its logs are read.
    pub(crate) interleaved_records: usize,
    pub(crate) interleaved_logs: u32,
    pub(crate) archive_records: usize,
    pub(crate) reads: usize,
    /// Of the collection of Kget and others.
    pub(crate) keys: usize,
    /// Of the store with holes of H100g; none where making it would take too long.
    pub(crate) hole_gib: Option<u64>,
    /// Rounds of those workloads that take two nodes.
    pub(crate) rounds_of_pairs: usize,
    pub(crate) mirrored_records: usize,
    /// Records that R waits for in a turn, twice.
    pub(crate) waits: usize,
    pub(crate) catch_up_records: usize,
    pub(crate) fhir_records: usize,
    /// Of S.
    pub(crate) synced_records: usize,
    /// Of V20 and V200.
    pub(crate) line_records: [usize; 2],
    /// Between turns, for what a system does behind the caller's back.
    pub(crate) pause: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        rounds: 7,
        rounds_of_short: 21,
        rounds_of_c: 3,
        turn: Duration::from_millis(240),
        long_turn: Duration::from_millis(1400),
        unflushed_records: (1 << 30) / RECORD_BYTES,
        unflushed_turn: Duration::from_secs(6),
        bulk_records: 512_000,
        interleaved_records: 300,
        interleaved_logs: 100,
        archive_records: 2_640_000,
        reads: 40_000,
        keys: 1_000_000,
        hole_gib: Some(100),
        rounds_of_pairs: 5,
        mirrored_records: 256_000,
        waits: 400,
        catch_up_records: (1 << 30) / RECORD_BYTES,
        fhir_records: usize::MAX,
        synced_records: 1_000_000,
        line_records: [32_000, 320_000],
        pause: Duration::from_millis(100),
    };

    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        rounds_of_short: 9,
        rounds_of_c: 3,
        turn: Duration::from_millis(70),
        long_turn: Duration::from_millis(400),
        unflushed_records: (1 << 28) / RECORD_BYTES,
        unflushed_turn: Duration::from_millis(600),
        bulk_records: 100_000,
        interleaved_records: 50,
        interleaved_logs: 100,
        archive_records: 500_000,
        reads: 5_000,
        keys: 200_000,
        hole_gib: None,
        rounds_of_pairs: 3,
        mirrored_records: 100_000,
        waits: 100,
        catch_up_records: (1 << 27) / RECORD_BYTES,
        fhir_records: 3_000,
        synced_records: 100_000,
        line_records: [8_000, 128_000],
        pause: Duration::from_millis(30),
    };

    /// Everything once, to see that it works.
    pub(crate) const TEST: Self = Self {
        rounds: 1,
        rounds_of_short: 1,
        rounds_of_c: 1,
        turn: Duration::from_millis(5),
        long_turn: Duration::from_millis(10),
        unflushed_records: 2_000,
        unflushed_turn: Duration::from_millis(50),
        bulk_records: 4_000,
        interleaved_records: 2,
        interleaved_logs: 3,
        archive_records: 10_000,
        reads: 100,
        keys: 2_000,
        hole_gib: Some(1),
        rounds_of_pairs: 1,
        mirrored_records: 2_000,
        waits: 3,
        catch_up_records: 16_000,
        fhir_records: 50,
        synced_records: 20_000,
        line_records: [4_000, 4_000],
        pause: Duration::ZERO,
    };

    /// Rounds of a workload that takes two nodes: those that are slow by their nature do one or two.
    pub(crate) fn pair_rounds(&self, workload: Workload) -> usize {
        match workload {
            Workload::O | Workload::P => self.rounds_of_short,
            Workload::U | Workload::V20 | Workload::V200 => 1,
            _ => self.rounds_of_pairs,
        }
    }

    /// What a mirror is to catch up with. Peers, which are slower by far, get a quarter.
    pub(crate) fn catch_up_records(&self, system: &str) -> usize {
        if matches!(system, "counterfoil" | "limit" | "limit-plain") {
            self.catch_up_records
        } else {
            self.catch_up_records / 4
        }
    }

    pub(crate) fn rounds(&self, workload: Workload) -> usize {
        match workload {
            Workload::C | Workload::Kput => self.rounds_of_c,
            Workload::Disk | Workload::Mem | Workload::Kmem => 1,
            Workload::A | Workload::B | Workload::B2 | Workload::E | Workload::E10k | Workload::R => {
                self.rounds_of_short
            }
            _ => self.rounds,
        }
    }
}
