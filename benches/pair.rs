//! What two nodes must do to compete: one that writes, and its mirror.

use std::path::Path;

use crate::{
    shaper::Line,
    system::{Body, Outcome, Remark},
    workload::Workload,
};

/// A kind of pair: how it is made, and what it can't do.
pub trait Pairing: Sync {
    /// As in the report.
    fn name(&self) -> &'static str;

    /// What has happened when it says that a record is mirrored.
    fn durability(&self) -> &'static str;

    /// Why it has no part in a workload.
    fn cannot(&self, workload: Workload) -> Option<String>;

    /// What it does otherwise than asked for, though it takes part.
    fn remark(&self, _workload: Workload) -> Option<Remark> {
        None
    }

    /// Starts the node that writes, in an empty folder.
    fn start(&self, dir: &Path, workload: Workload) -> Outcome<Box<dyn Pair>>;
}

/// A node that writes, and its mirror while there is one; TLS between them.
pub trait Pair: Send + Sync {
    /// Starts a mirror that has nothing, over the line of the workload, and returns at once.
    fn begin_mirror(&mut self) -> Outcome<()>;

    /// Ends the mirror and forgets what it has. Does nothing without one.
    fn end_mirror(&mut self) -> Outcome<()>;

    /// Appends at the node that writes, as fast as it takes records, durably there in the end.
    fn append_many(&self, bodies: &[Body]) -> Outcome<()>;

    /// Returns once the mirror has durably the first `count` records that were appended, and perhaps some more.
    fn wait_mirrored(&self, count: u64) -> Outcome<()>;

    /// Somebody who waits for each record.
    fn waiter(&self) -> Outcome<Box<dyn Waiter + '_>>;

    /// Bytes that the line has carried to the mirror and back, where they are counted.
    fn carried(&self) -> Option<(u64, u64)> {
        None
    }

    /// Ends all of it.
    fn stop(self: Box<Self>) -> Outcome<()>;
}

/// Appends one record after the other.
pub trait Waiter: Send {
    /// Returns once the record is durable at both nodes.
    fn append_mirrored(&mut self, body: &[u8]) -> Outcome<()>;
}

/// The line of a workload; none where two nodes of one machine are simply connected.
pub fn line_of(workload: Workload) -> Option<Line> {
    use std::time::Duration;

    match workload {
        Workload::U => Some(Line::LOOPBACK),
        Workload::V20 => Some(Line { round_trip: Duration::from_millis(20), bits_per_second: 10_000_000 }),
        Workload::V200 => Some(Line { round_trip: Duration::from_millis(200), bits_per_second: 100_000_000 }),
        _ => None,
    }
}
