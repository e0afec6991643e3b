//! redb 4: a B-tree that is copied on writing. One table; a key is (log, sequence number).

use std::path::Path;

use counterfoil_benches::{Body, Contender, Outcome, Reader, Remark, System, Workload};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase as _, TableDefinition};

use super::{CACHE_BYTES, NO_RECEIPTS, NextSeqs, key};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

pub(crate) struct Redb;

struct Open {
    database: Database,
    next: NextSeqs,
}

impl Contender for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn durability(&self) -> &'static str {
        "Durability::Immediate: one flush of its file for a commit"
    }

    fn cannot(&self, workload: Workload) -> Option<&'static str> {
        (workload == Workload::B2).then_some(NO_RECEIPTS)
    }

    fn remark(&self, workload: Workload) -> Option<Remark> {
        match workload {
            Workload::F | Workload::F2 | Workload::G | Workload::Gc => {
                Some(Remark::Less("verifies no checksum on reading"))
            }
            _ => None,
        }
    }

    fn create(&self, dir: &Path, logs: u32) -> Outcome<Box<dyn System>> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(dir.join("redb"))?;
        let open = Open { database, next: NextSeqs::new(logs) };
        open.flush()?;
        Ok(Box::new(open))
    }

    fn reopen(&self, dir: &Path) -> Outcome<Box<dyn System>> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).open(dir.join("redb"))?;
        Ok(Box::new(Open { database, next: NextSeqs::new(1) }))
    }
}

impl Open {
    fn insert<'a>(&self, durability: Durability, records: impl Iterator<Item = (u32, &'a Body)>) -> Outcome<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for (log, body) in records {
                table.insert(key(log, self.next.take(log, 1)), body.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl System for Open {
    fn append_durable(&self, log: u32, body: &Body) -> Outcome<()> {
        self.insert(Durability::Immediate, [(log, body)].into_iter())
    }

    fn append_unflushed(&self, log: u32, body: &Body) -> Outcome<()> {
        self.insert(Durability::None, [(log, body)].into_iter())
    }

    fn append_many(&self, log: u32, bodies: &[Body]) -> Outcome<()> {
        self.insert(Durability::None, bodies.iter().map(|body| (log, body)))
    }

    fn append_across(&self, first: u32, bodies: &[Body]) -> Outcome<()> {
        self.insert(Durability::Immediate, (first..).zip(bodies))
    }

    fn flush(&self) -> Outcome<()> {
        self.insert(Durability::Immediate, std::iter::empty())
    }

    fn reader(&self, log: u32) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(Log { table: self.database.begin_read()?.open_table(RECORDS)?, log }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.flush()
    }
}

struct Log {
    table: ReadOnlyTable<u64, &'static [u8]>,
    log: u32,
}

impl Reader for Log {
    fn read(&mut self, seq: u64) -> Outcome<usize> {
        Ok(self.table.get(key(self.log, seq))?.ok_or("no such key")?.value().len())
    }

    fn scan(&mut self) -> Outcome<u64> {
        let mut count = 0;
        for entry in self.table.range(key(self.log, 0)..key(self.log + 1, 0))? {
            std::hint::black_box(entry?.1.value());
            count += 1;
        }
        Ok(count)
    }
}
