//! What a history held, and how a broken promise is told.

use std::{fmt, time::Duration};

/// A promise was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The history.
    pub seed: u64,
    /// When in it.
    pub at: Duration,
    /// What.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, what } = self;
        write!(f, "at {at:?} of seed {seed}: {what}\nreplay: COUNTERFOIL_SEED={seed} cargo test -p counterfoil-sim")
    }
}

/// What a history held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// A hash over all that happened: equal for equal seeds.
    pub trace: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Messages delivered.
    pub messages: u64,
    /// Bytes delivered.
    pub bytes: u64,
    /// Records appended.
    pub records: u64,
    /// Acknowledgements that a source believed.
    pub acks: u64,
    /// Acknowledgements of other nodes that a source believed of a hub that passed them on.
    pub passed_acks: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections cut, silenced or corrupted.
    pub cuts: u64,
    /// Machines killed or crashed.
    pub crashes: u64,
    /// Disks that failed or ran full.
    pub disk_faults: u64,
    /// Ends that stopped reading for a while.
    pub stalls: u64,
    /// Times that rights were taken away.
    pub denials: u64,
    /// Histories with one who lies.
    pub liars: u64,
    /// Messages twisted or invented.
    pub lies: u64,
    /// Sessions that an honest end ended because of them.
    pub accused: u64,
}

impl Report {
    /// Adds up histories; of the traces nothing meaningful remains.
    pub fn add(&mut self, other: &Self) {
        self.trace ^= other.trace;
        self.simulated += other.simulated;
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.records += other.records;
        self.acks += other.acks;
        self.passed_acks += other.passed_acks;
        self.connections += other.connections;
        self.cuts += other.cuts;
        self.crashes += other.crashes;
        self.disk_faults += other.disk_faults;
        self.stalls += other.stalls;
        self.denials += other.denials;
        self.liars += other.liars;
        self.lies += other.lies;
        self.accused += other.accused;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} simulated seconds, {} messages ({} bytes), {} records, {} acks and {} passed on, {} connections, {} cuts, {} crashes, \
             {} disk faults, {} stalls, {} denials; {} with a liar: {} lies, {} sessions ended for one",
            self.simulated.as_secs(),
            self.messages,
            self.bytes,
            self.records,
            self.acks,
            self.passed_acks,
            self.connections,
            self.cuts,
            self.crashes,
            self.disk_faults,
            self.stalls,
            self.denials,
            self.liars,
            self.lies,
            self.accused
        )
    }
}
