//! okaywal 0.3: a write-ahead log whose segments are used anew once the application has what they hold.

use std::path::Path;

use counterfoil_benches::{Body, Contender, Outcome, Reader, Remark, System, Workload};
use okaywal::{Configuration, LogVoid, WriteAheadLog};

use super::NO_RECEIPTS;

const SEGMENT_BYTES: u32 = 64 << 20;
const LOG_LEN: usize = 4;

pub(crate) struct OkayWal;

struct Open(WriteAheadLog);

impl Contender for OkayWal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn durability(&self) -> &'static str {
        "commit of an entry: fdatasync into preallocated segments of 64 MiB; group commit for threads"
    }

    fn cannot(&self, workload: Workload) -> Option<&'static str> {
        match workload {
            Workload::B2 => Some(NO_RECEIPTS),
            Workload::C => Some("every commit of an entry flushes"),
            Workload::A | Workload::B | Workload::D | Workload::E | Workload::E10k => None,
            _ => Some("what has been checkpointed is gone: it keeps no records to be read"),
        }
    }

    fn remark(&self, workload: Workload) -> Option<Remark> {
        match workload {
            Workload::D => Some(Remark::Otherwise("flushes at every call")),
            Workload::E | Workload::E10k => Some(Remark::Otherwise("has one log: each record bears its log's number")),
            _ => None,
        }
    }

    fn create(&self, dir: &Path, _logs: u32) -> Outcome<Box<dyn System>> {
        let configuration = Configuration::default_for(dir.join("wal"))
            .preallocate_bytes(SEGMENT_BYTES)
            .checkpoint_after_bytes(u64::from(SEGMENT_BYTES) / 4 * 3);
        Ok(Box::new(Open(configuration.open(LogVoid)?)))
    }

    fn reopen(&self, _dir: &Path) -> Outcome<Box<dyn System>> {
        Err("it keeps no records".into())
    }
}

impl System for Open {
    fn append_durable(&self, _log: u32, body: &Body) -> Outcome<()> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(body)?;
        entry.commit()?;
        Ok(())
    }

    fn append_unflushed(&self, _log: u32, _body: &Body) -> Outcome<()> {
        Err("every commit of an entry flushes".into())
    }

    fn append_many(&self, _log: u32, bodies: &[Body]) -> Outcome<()> {
        let mut entry = self.0.begin_entry()?;
        for body in bodies {
            entry.write_chunk(body)?;
        }
        entry.commit()?;
        Ok(())
    }

    fn append_across(&self, first: u32, bodies: &[Body]) -> Outcome<()> {
        let mut entry = self.0.begin_entry()?;
        let mut chunk = Vec::with_capacity(LOG_LEN + bodies.first().map_or(0, |body| body.len()));
        for (log, body) in (first..).zip(bodies) {
            chunk.clear();
            chunk.extend_from_slice(&log.to_le_bytes());
            chunk.extend_from_slice(body);
            entry.write_chunk(&chunk)?;
        }
        entry.commit()?;
        Ok(())
    }

    fn flush(&self) -> Outcome<()> {
        Ok(())
    }

    fn reader(&self, _log: u32) -> Outcome<Box<dyn Reader + '_>> {
        Err("it keeps no records".into())
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(self.0.shutdown()?)
    }
}
