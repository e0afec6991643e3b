//! What is measured: DESIGN.md section 11 and the tables of issues 3 and 4.

use std::fmt;

/// A workload, by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// One writer, durable each.
    A,
    /// A beside a reader, while segments roll over.
    At,
    /// 32 writers, durable each.
    B,
    /// 256 receipts in flight.
    B2,
    /// Not waiting.
    C,
    /// 1000 records a call.
    D,
    /// 600 logs a commit.
    E,
    /// 600 of 10,000 logs a commit.
    E10k,
    /// Scan of one log out of 600.
    F2,
    /// Scan.
    F,
    /// Random read.
    G,
    /// Read of what was just read.
    Gc,
    /// Reopening.
    H,
    /// Space taken on disk.
    Disk,
    /// Memory taken.
    Mem,
    /// Random read in a store of 100,000 logs.
    G1e5,
    /// Reopening a store of 100,000 logs.
    H1e5,
    /// Reopening after a kill.
    Hkill,
    /// Reopening 100 GiB.
    H100g,
    /// Keys put into a collection.
    Kput,
    /// Keys got from it.
    Kget,
    /// Reopening it.
    Kopen,
    /// Memory taken with it.
    Kmem,
    /// Both ways at once.
    W,
    /// What a hub in between adds.
    R,
    /// Mirrored in real time.
    M,
    /// A mirror that catches up from nothing.
    N,
    /// One writer, waiting until mirrored.
    O,
    /// 32 writers, waiting until mirrored.
    P,
    /// Finding out what differs.
    S(SyncCase),
    /// Bytes on the wire.
    U,
    /// A line of 10 Mbit/s.
    V20,
    /// A long line of 100 Mbit/s.
    V200,
}

/// Stores that are filled once and then read by several workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Archive {
    /// Of one log.
    OneLog,
    /// Of one long log and 100,000 of one record each.
    ManyLogs,
}

/// Two nodes that hold nearly the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncCase {
    /// Logs that the records are in, evenly.
    pub logs: u32,
    /// Records that only one of the two has, half of them each, spread evenly over the logs.
    pub differing: u32,
    letter: &'static str,
    title: &'static str,
}

impl SyncCase {
    const fn new(logs: u32, differing: u32, letter: &'static str, title: &'static str) -> Self {
        Self { logs, differing, letter, title }
    }

    /// In the order in which they run.
    pub const ALL: [Self; 9] = [
        Self::new(1, 0, "S1-0", "finding out that nothing differs in 1 log"),
        Self::new(1, 10, "S1-10", "finding out which 10 records differ in 1 log"),
        Self::new(1, 1000, "S1-1000", "finding out which 1000 records differ in 1 log"),
        Self::new(100, 0, "S100-0", "finding out that nothing differs in 100 logs"),
        Self::new(100, 10, "S100-10", "finding out which 10 records differ in 100 logs"),
        Self::new(100, 1000, "S100-1000", "finding out which 1000 records differ in 100 logs"),
        Self::new(10_000, 0, "S10k-0", "finding out that nothing differs in 10,000 logs"),
        Self::new(10_000, 10, "S10k-10", "finding out which 10 records differ in 10,000 logs"),
        Self::new(10_000, 1000, "S10k-1000", "finding out which 1000 records differ in 10,000 logs"),
    ];
}

/// In what a workload's figures are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `rec/s`
    RecordsPerSecond,
    /// `us`
    Microseconds,
    /// `ms`
    Milliseconds,
    /// `x`
    Times,
    /// `Mbit/s`
    MegabitsPerSecond,
    /// `B`
    Bytes,
}

impl Unit {
    /// Whether more is better than less.
    pub fn is_more_better(self) -> bool {
        matches!(self, Self::RecordsPerSecond | Self::MegabitsPerSecond)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RecordsPerSecond => "rec/s",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Times => "x",
            Self::MegabitsPerSecond => "Mbit/s",
            Self::Bytes => "B",
        })
    }
}

/// Threads of B.
pub const WRITERS: u32 = 32;
/// Receipts of B2.
pub const IN_FLIGHT: usize = 256;
/// Records that E commits together, each of another log.
pub const LOGS_A_COMMIT: usize = 600;
/// Logs of one record each in G1e5 and H1e5.
pub const MANY_LOGS: u32 = 100_000;
/// Records of one call in D.
pub const RECORDS_A_CALL: usize = 1000;

impl Workload {
    /// In the order in which they run: those that share a store follow each other, and the store is closed for H.
    pub const ALL: [Self; 41] = [
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
        Self::Mem,
        Self::G1e5,
        Self::H1e5,
        Self::Hkill,
        Self::H100g,
        Self::Kput,
        Self::Kget,
        Self::Kopen,
        Self::Kmem,
        Self::W,
        Self::R,
        Self::M,
        Self::N,
        Self::O,
        Self::P,
        Self::S(SyncCase::ALL[0]),
        Self::S(SyncCase::ALL[1]),
        Self::S(SyncCase::ALL[2]),
        Self::S(SyncCase::ALL[3]),
        Self::S(SyncCase::ALL[4]),
        Self::S(SyncCase::ALL[5]),
        Self::S(SyncCase::ALL[6]),
        Self::S(SyncCase::ALL[7]),
        Self::S(SyncCase::ALL[8]),
        Self::U,
        Self::V20,
        Self::V200,
    ];

    /// As in the report.
    pub fn letter(self) -> &'static str {
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
            Self::Mem => "mem",
            Self::G1e5 => "G1e5",
            Self::H1e5 => "H1e5",
            Self::Hkill => "Hkill",
            Self::H100g => "H100g",
            Self::Kput => "Kput",
            Self::Kget => "Kget",
            Self::Kopen => "Kopen",
            Self::Kmem => "Kmem",
            Self::W => "W",
            Self::R => "R",
            Self::M => "M",
            Self::N => "N",
            Self::O => "O",
            Self::P => "P",
            Self::S(case) => case.letter,
            Self::U => "U",
            Self::V20 => "V20",
            Self::V200 => "V200",
        }
    }

    /// By its letter, in either case; all cases of S by that.
    pub fn parse(letter: &str) -> Vec<Self> {
        let is_meant = |workload: &Self| {
            let is_case = matches!(workload, Self::S(_)) && letter.eq_ignore_ascii_case("S");
            is_case || workload.letter().eq_ignore_ascii_case(letter)
        };
        Self::ALL.into_iter().filter(is_meant).collect()
    }

    /// In words.
    pub fn title(self) -> &'static str {
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
            Self::Mem => {
                "most memory of a process that opens, scans, reads at random and appends, of a budget of 64 MiB"
            }
            Self::G1e5 => "random read of one record beside 100,000 other logs",
            Self::H1e5 => "reopen a store of 100,000 logs and read one record",
            Self::Hkill => "reopen after a kill with a full active segment of 600 logs in lone batches",
            Self::H100g => "reopen 100 GiB of synthetic sealed segments, 600 logs",
            Self::Kput => "a million keys put into a collection one after the other, durable at the end",
            Self::Kget => "one of these keys got at random from the collection",
            Self::Kopen => "reopen a store and the collection after a clean close, and get a key",
            Self::Kmem => "most memory of a process that opens it, gets at random and puts, of two budgets of 64 MiB",
            Self::W => "records a second both ways at once, half from each end, of those one way, over TLS",
            Self::R => {
                "what one who waits until a far hub has a record, through a near one, waits longer than for the near one"
            }
            Self::M => "mirrored in real time over TLS, durable at both ends",
            Self::N => "a mirror that catches up from nothing, the same",
            Self::O => "one writer, waiting until mirrored",
            Self::P => "32 writers, waiting until mirrored",
            Self::S(case) => case.title,
            Self::U => {
                "bytes that go to the mirror for each byte of FHIR records, one at a time, connection compressed"
            }
            Self::V20 => "mirrored over 10 Mbit/s and 20 ms there and back",
            Self::V200 => "mirrored over 100 Mbit/s and 200 ms there and back",
        }
    }

    /// Of its figures.
    pub fn unit(self) -> Unit {
        match self {
            Self::At | Self::G | Self::Gc | Self::G1e5 | Self::Kget | Self::R | Self::O => Unit::Microseconds,
            Self::H | Self::H1e5 | Self::Hkill | Self::H100g | Self::Kopen => Unit::Milliseconds,
            Self::Disk | Self::Mem | Self::Kmem | Self::W | Self::U => Unit::Times,
            Self::S(_) => Unit::Bytes,
            Self::V20 | Self::V200 => Unit::MegabitsPerSecond,
            _ => Unit::RecordsPerSecond,
        }
    }

    /// Logs of the store that it works on.
    pub fn logs(self) -> u32 {
        match self {
            Self::E | Self::F2 => LOGS_A_COMMIT as u32,
            Self::E10k => 10_200,
            Self::B => WRITERS,
            Self::G1e5 | Self::H1e5 => MANY_LOGS + 1,
            _ => 1,
        }
    }

    /// The store that it reads, if that is filled once for several.
    pub fn archive(self) -> Option<Archive> {
        match self {
            Self::F | Self::G | Self::Gc | Self::H | Self::Disk | Self::Mem => Some(Archive::OneLog),
            Self::G1e5 | Self::H1e5 => Some(Archive::ManyLogs),
            _ => None,
        }
    }

    /// Whether it is asked of Counterfoil alone: a bound that holds whatever others reach.
    pub fn is_asked_of_us_alone(self) -> bool {
        matches!(self, Self::Mem | Self::G1e5 | Self::H1e5 | Self::Hkill | Self::H100g | Self::W) || self.is_of_keys()
    }

    /// Whether it is of a collection of many keys.
    pub fn is_of_keys(self) -> bool {
        matches!(self, Self::Kput | Self::Kget | Self::Kopen | Self::Kmem)
    }

    /// Whether it takes two nodes.
    pub fn is_of_pair(self) -> bool {
        matches!(self, Self::M | Self::N | Self::O | Self::P | Self::U | Self::V20 | Self::V200)
    }
}
