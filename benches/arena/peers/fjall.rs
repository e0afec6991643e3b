//! fjall 3: a log-structured merge tree with a journal. One keyspace; a key is (log, sequence number).

use std::path::Path;

use counterfoil_benches::{Body, Contender, Outcome, Reader, System, Workload};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{CACHE_BYTES, NO_RECEIPTS, NextSeqs, key};

pub(crate) struct Fjall;

struct Open {
    database: Database,
    records: Keyspace,
    next: NextSeqs,
}

impl Contender for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn durability(&self) -> &'static str {
        "persist(SyncData): fdatasync of its journal, whose files are preallocated; compression off"
    }

    fn cannot(&self, workload: Workload) -> Option<&'static str> {
        (workload == Workload::B2).then_some(NO_RECEIPTS)
    }

    fn create(&self, dir: &Path, logs: u32) -> Outcome<Box<dyn System>> {
        let database = Database::builder(dir.join("fjall")).cache_size(CACHE_BYTES as u64).open()?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
        Ok(Box::new(Open { database, records, next: NextSeqs::new(logs) }))
    }

    fn reopen(&self, dir: &Path) -> Outcome<Box<dyn System>> {
        self.create(dir, 1)
    }
}

impl System for Open {
    fn append_durable(&self, log: u32, body: &Body) -> Outcome<()> {
        self.append_unflushed(log, body)?;
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn append_unflushed(&self, log: u32, body: &Body) -> Outcome<()> {
        let seq = self.next.take(log, 1);
        Ok(self.records.insert(key(log, seq).to_be_bytes(), body)?)
    }

    fn append_many(&self, log: u32, bodies: &[Body]) -> Outcome<()> {
        let first = self.next.take(log, bodies.len());
        let mut batch = self.database.batch();
        for (seq, body) in (first..).zip(bodies) {
            batch.insert(&self.records, key(log, seq).to_be_bytes(), body);
        }
        Ok(batch.commit()?)
    }

    fn append_across(&self, first: u32, bodies: &[Body]) -> Outcome<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (log, body) in (first..).zip(bodies) {
            batch.insert(&self.records, key(log, self.next.take(log, 1)).to_be_bytes(), body);
        }
        Ok(batch.commit()?)
    }

    fn flush(&self) -> Outcome<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn reader(&self, log: u32) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(Log { records: &self.records, log }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.flush()
    }
}

struct Log<'a> {
    records: &'a Keyspace,
    log: u32,
}

impl Reader for Log<'_> {
    fn read(&mut self, seq: u64) -> Outcome<usize> {
        Ok(self.records.get(key(self.log, seq).to_be_bytes())?.ok_or("no such key")?.len())
    }

    fn scan(&mut self) -> Outcome<u64> {
        let keys = key(self.log, 0).to_be_bytes()..key(self.log + 1, 0).to_be_bytes();
        let mut count = 0;
        for guard in self.records.range(keys) {
            std::hint::black_box(guard.value()?);
            count += 1;
        }
        Ok(count)
    }
}
