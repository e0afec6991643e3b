//! raft-engine 0.4: the store of `TiKV` for the logs of many Raft groups. A group is a log.

use std::path::Path;

use counterfoil_benches::{Body, Contender, Outcome, RECORDS_A_CALL, Reader, Remark, System, Workload};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::{NO_RECEIPTS, NextSeqs};

pub(crate) struct RaftEngine;

struct Open {
    engine: Engine,
    next: NextSeqs,
}

/// Entries whose index stands in front of the record, as a Raft entry has it.
#[derive(Clone)]
struct Entries;

const INDEX_LEN: usize = 8;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |index| u64::from_le_bytes(*index))
    }
}

fn entry(index: u64, body: &Body) -> BytesValue {
    let mut entry = BytesValue::new();
    entry.value = Vec::with_capacity(INDEX_LEN + body.len());
    entry.value.extend_from_slice(&index.to_le_bytes());
    entry.value.extend_from_slice(body);
    entry
}

/// Groups are numbered from 1: 0 is none.
fn group(log: u32) -> u64 {
    u64::from(log) + 1
}

impl Contender for RaftEngine {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn durability(&self) -> &'static str {
        "write(batch, sync): fdatasync into space that fallocate reserves 2 MiB at a time; compression off"
    }

    fn cannot(&self, workload: Workload) -> Option<&'static str> {
        (workload == Workload::B2).then_some(NO_RECEIPTS)
    }

    fn remark(&self, workload: Workload) -> Option<Remark> {
        match workload {
            Workload::B => {
                Some(Remark::Otherwise("a group for each writer, since a group's entries must come in order"))
            }
            Workload::G | Workload::Gc => {
                Some(Remark::Otherwise("reads the whole call of 1000 records for one of them"))
            }
            _ => None,
        }
    }

    fn create(&self, dir: &Path, logs: u32) -> Outcome<Box<dyn System>> {
        let config = Config {
            dir: dir.join("engine").to_str().ok_or("a path that is not UTF-8")?.to_owned(),
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        Ok(Box::new(Open { engine: Engine::open(config)?, next: NextSeqs::new(logs) }))
    }

    fn reopen(&self, dir: &Path) -> Outcome<Box<dyn System>> {
        self.create(dir, 1)
    }
}

impl Open {
    fn add(&self, batch: &mut LogBatch, log: u32, bodies: &[Body]) -> Outcome<()> {
        let first = self.next.take(log, bodies.len());
        let entries: Vec<_> = (first..).zip(bodies).map(|(seq, body)| entry(seq, body)).collect();
        Ok(batch.add_entries::<Entries>(group(log), &entries)?)
    }

    fn append(&self, log: u32, bodies: &[Body], is_durable: bool) -> Outcome<()> {
        let mut batch = LogBatch::with_capacity(1);
        self.add(&mut batch, log, bodies)?;
        self.engine.write(&mut batch, is_durable)?;
        Ok(())
    }
}

impl System for Open {
    fn log_of_writer(&self, writer: u32) -> u32 {
        writer
    }

    fn append_durable(&self, log: u32, body: &Body) -> Outcome<()> {
        self.append(log, &[*body], true)
    }

    fn append_unflushed(&self, log: u32, body: &Body) -> Outcome<()> {
        self.append(log, &[*body], false)
    }

    fn append_many(&self, log: u32, bodies: &[Body]) -> Outcome<()> {
        self.append(log, bodies, false)
    }

    fn append_across(&self, first: u32, bodies: &[Body]) -> Outcome<()> {
        let mut batch = LogBatch::with_capacity(bodies.len());
        for (log, body) in (first..).zip(bodies) {
            self.add(&mut batch, log, &[*body])?;
        }
        self.engine.write(&mut batch, true)?;
        Ok(())
    }

    fn flush(&self) -> Outcome<()> {
        Ok(self.engine.sync()?)
    }

    fn reader(&self, log: u32) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(Log { engine: &self.engine, group: group(log) }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}

struct Log<'a> {
    engine: &'a Engine,
    group: u64,
}

impl Reader for Log<'_> {
    fn read(&mut self, seq: u64) -> Outcome<usize> {
        let entry = self.engine.get_entry::<Entries>(self.group, seq)?.ok_or("no such entry")?;
        Ok(entry.value.len() - INDEX_LEN)
    }

    fn scan(&mut self) -> Outcome<u64> {
        let (Some(first), Some(last)) = (self.engine.first_index(self.group), self.engine.last_index(self.group))
        else {
            return Ok(0);
        };
        let mut count = 0;
        let mut entries = Vec::with_capacity(RECORDS_A_CALL);
        for begin in (first..=last).step_by(RECORDS_A_CALL) {
            let end = (begin + RECORDS_A_CALL as u64).min(last + 1);
            entries.clear();
            count += self.engine.fetch_entries_to::<Entries>(self.group, begin, end, None, &mut entries)? as u64;
        }
        Ok(count)
    }
}
