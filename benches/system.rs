//! What a system must do to compete.

use std::{error::Error, path::Path};

use crate::{payload::RECORD_BYTES, workload::Workload};

/// What a system's operation returns: a bench has nothing to tell errors apart for.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Body of a record.
pub type Body = [u8; RECORD_BYTES];

/// A kind of system: how it is made, and what it can't do.
pub trait Contender: Sync {
    /// As in the report.
    fn name(&self) -> &'static str;

    /// What has happened when it says that a record is durable.
    fn durability(&self) -> &'static str;

    /// Why it has no part in a workload.
    fn cannot(&self, workload: Workload) -> Option<&'static str>;

    /// What it does otherwise than asked for, though it takes part.
    fn remark(&self, _workload: Workload) -> Option<Remark> {
        None
    }

    /// Makes a system with so many logs in an empty folder.
    fn create(&self, dir: &Path, logs: u32) -> Outcome<Box<dyn System>>;

    /// Opens one that was closed, to read its first log.
    fn reopen(&self, dir: &Path) -> Outcome<Box<dyn System>>;
}

/// A difference that a table must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// It promises less: it is not among the best peers.
    Less(&'static str),
    /// It does the same in another way.
    Otherwise(&'static str),
}

/// An open system. Logs are numbered from 0, records of a log too.
pub trait System: Send + Sync {
    /// The log that one of several writers appends to: all share one unless a log can't be shared.
    fn log_of_writer(&self, _writer: u32) -> u32 {
        0
    }

    /// Appends one record and returns once it is durable.
    fn append_durable(&self, log: u32, body: &Body) -> Outcome<()>;

    /// Appends one record without waiting for a disk.
    fn append_unflushed(&self, log: u32, body: &Body) -> Outcome<()>;

    /// Appends records with one call, without waiting for a disk where that can be chosen.
    fn append_many(&self, log: u32, bodies: &[Body]) -> Outcome<()>;

    /// Appends one record to each of the logs from `first` on and returns once all are durable, by one commit.
    fn append_across(&self, first: u32, bodies: &[Body]) -> Outcome<()>;

    /// Appends each record durably, with at most `in_flight` that are not durable yet.
    fn append_pipelined(&self, _bodies: &[Body], _in_flight: usize) -> Outcome<()> {
        Err("no receipts".into())
    }

    /// Appends one record to each log, durably, such that each lies by itself between those of other logs.
    fn load_interleaved(&self, bodies: &[Body]) -> Outcome<()> {
        self.append_across(0, bodies)
    }

    /// Returns once all that was appended is durable.
    fn flush(&self) -> Outcome<()>;

    /// Reads what is there.
    fn reader(&self, log: u32) -> Outcome<Box<dyn Reader + '_>>;

    /// Closes it as its authors would have it.
    fn close(self: Box<Self>) -> Outcome<()>;
}

/// Reads one log.
pub trait Reader {
    /// Reads one record and returns its length in bytes.
    fn read(&mut self, seq: u64) -> Outcome<usize>;

    /// Reads all records and counts them.
    fn scan(&mut self) -> Outcome<u64>;
}
