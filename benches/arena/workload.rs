//! What is measured: DESIGN.md section 11 and the table of issue 3.

use std::{fmt, time::Duration};

use counterfoil_benches::RECORD_BYTES;

/// A workload, by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Workload {
    A,
    At,
    B,
    B2,
    C,
    D,
    E,
    E10k,
    F2,
    F,
    G,
    Gc,
    H,
    Disk,
}

/// In what a workload's figures are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    RecordsPerSecond,
    Microseconds,
    Milliseconds,
    Times,
}

impl Unit {
    pub(crate) fn is_more_better(self) -> bool {
        self == Self::RecordsPerSecond
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RecordsPerSecond => "rec/s",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Times => "x",
        })
    }
}

pub(crate) const WRITERS: u32 = 32;
pub(crate) const IN_FLIGHT: usize = 256;
pub(crate) const LOGS_A_COMMIT: usize = 600;
pub(crate) const RECORDS_A_CALL: usize = 1000;

impl Workload {
    /// In the order in which they run: those that share a store follow each other, and the store is closed for H.
    pub(crate) const ALL: [Self; 14] = [
        Self::A,
        Self::At,
        Self::B,
        Self::B2,
        Self::C,
        Self::D,
        Self::E,
        Self::E10k,
        Self::F2,
        Self::F,
        Self::G,
        Self::Gc,
        Self::H,
        Self::Disk,
    ];

    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::At => "At",
            Self::B => "B",
            Self::B2 => "B2",
            Self::C => "C",
            Self::D => "D",
            Self::E => "E",
            Self::E10k => "E10k",
            Self::F2 => "F2",
            Self::F => "F",
            Self::G => "G",
            Self::Gc => "Gc",
            Self::H => "H",
            Self::Disk => "disk",
        }
    }

    pub(crate) fn parse(letter: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|workload| workload.letter().eq_ignore_ascii_case(letter))
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::A => "one writer, durable each",
            Self::At => "the same while a reader scans and segments roll over: latency (ratios: 99th percentile)",
            Self::B => "32 writers, durable each",
            Self::B2 => "one thread with 256 receipts in flight",
            Self::C => "one record a call, not waiting",
            Self::D => "1000 records a call, one flush at the end",
            Self::E => "600 records of 600 logs per durable commit",
            Self::E10k => "the same, 600 of 10,000 logs in turn",
            Self::F2 => "scan of one log out of 600 that are interleaved in lone batches",
            Self::F => "sequential scan, every checksum verified",
            Self::G => "random read of one record, checksum verified",
            Self::Gc => "read of one record whose neighbours were just read",
            Self::H => "reopen and read one record",
            Self::Disk => "bytes on disk after closing for each byte of payload, zeros at the end of a file aside",
        }
    }

    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::At | Self::G | Self::Gc => Unit::Microseconds,
            Self::H => Unit::Milliseconds,
            Self::Disk => Unit::Times,
            _ => Unit::RecordsPerSecond,
        }
    }

    /// Logs of the store that it works on.
    pub(crate) fn logs(self) -> u32 {
        match self {
            Self::E | Self::F2 => LOGS_A_COMMIT as u32,
            Self::E10k => 10_200,
            Self::B => WRITERS,
            _ => 1,
        }
    }

    /// Whether it reads the store that is filled once for all of these.
    pub(crate) fn is_of_archive(self) -> bool {
        matches!(self, Self::F | Self::G | Self::Gc | Self::H | Self::Disk)
    }
}

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
