//! commitlog 0.2: one log in segments with an index that is mapped into memory. It never flushes its segments.

use std::{
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use commitlog::{
    LogOptions, ReadLimit,
    message::{MessageBuf, MessageSet as _},
};
use counterfoil_benches::{Body, Contender, Outcome, Reader, Remark, System, Workload};

/// What one message may need with its header.
const ONE_MESSAGE_BYTES: usize = 300;
const SCAN_BYTES: usize = 64 << 10;

pub(crate) struct CommitLog;

struct Open(RwLock<commitlog::CommitLog>);

impl Contender for CommitLog {
    fn name(&self) -> &'static str {
        "commitlog"
    }

    fn durability(&self) -> &'static str {
        "none: its flush hands the segment to the kernel and asks for no more"
    }

    fn cannot(&self, workload: Workload) -> Option<&'static str> {
        match workload {
            Workload::F2 => Some("it has one log"),
            Workload::C | Workload::D | Workload::F | Workload::G | Workload::Gc | Workload::H | Workload::Disk => None,
            _ => Some("it never flushes: nothing is durable"),
        }
    }

    fn remark(&self, workload: Workload) -> Option<Remark> {
        (workload == Workload::D).then_some(Remark::Less("does not flush at the end: nothing is durable"))
    }

    fn create(&self, dir: &Path, _logs: u32) -> Outcome<Box<dyn System>> {
        Ok(Box::new(Open(RwLock::new(commitlog::CommitLog::new(LogOptions::new(dir.join("log")))?))))
    }

    fn reopen(&self, dir: &Path) -> Outcome<Box<dyn System>> {
        self.create(dir, 1)
    }
}

impl Open {
    fn write(&self) -> RwLockWriteGuard<'_, commitlog::CommitLog> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, commitlog::CommitLog> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl System for Open {
    fn append_durable(&self, _log: u32, _body: &Body) -> Outcome<()> {
        Err("it never flushes".into())
    }

    fn append_unflushed(&self, _log: u32, body: &Body) -> Outcome<()> {
        self.write().append_msg(body)?;
        Ok(())
    }

    fn append_many(&self, _log: u32, bodies: &[Body]) -> Outcome<()> {
        let mut messages = MessageBuf::default();
        for body in bodies {
            messages.push(body).map_err(|error| format!("{error:?}"))?;
        }
        self.write().append(&mut messages)?;
        Ok(())
    }

    fn append_across(&self, _first: u32, _bodies: &[Body]) -> Outcome<()> {
        Err("it has one log".into())
    }

    fn flush(&self) -> Outcome<()> {
        Ok(self.write().flush()?)
    }

    fn reader(&self, _log: u32) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(Log(self)))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.flush()
    }
}

struct Log<'a>(&'a Open);

impl Reader for Log<'_> {
    fn read(&mut self, seq: u64) -> Outcome<usize> {
        let messages = self.0.read().read(seq, ReadLimit::max_bytes(ONE_MESSAGE_BYTES))?;
        let message = messages.iter().next().ok_or("no such message")?;
        if message.verify_hash() { Ok(message.payload().len()) } else { Err("a wrong checksum".into()) }
    }

    fn scan(&mut self) -> Outcome<u64> {
        let log = self.0.read();
        let mut next = 0;
        while next < log.next_offset() {
            let messages = log.read(next, ReadLimit::max_bytes(SCAN_BYTES))?;
            messages.verify_hashes().map_err(|number| format!("a wrong checksum in message {number}"))?;
            next += messages.len() as u64;
        }
        Ok(next)
    }
}
