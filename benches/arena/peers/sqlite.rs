//! SQLite with a write-ahead log. One table; the rowid is (log, sequence number), which is its fastest key.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use counterfoil_benches::{Body, Contender, Outcome, Reader, Remark, System, Workload};
use rusqlite::Connection;

use super::{CACHE_BYTES, NO_RECEIPTS, NextSeqs, key};

const INSERT: &str = "INSERT INTO records (key, body) VALUES (?1, ?2)";

pub(crate) struct Sqlite;

struct Open {
    /// One for all threads: SQLite has one writer at a time, and a lock here wakes sooner than its busy handler.
    writing: Mutex<Writing>,
    path: PathBuf,
    next: NextSeqs,
}

struct Writing {
    connection: Connection,
    /// With it a commit flushes the log, without it only a checkpoint flushes.
    is_full: bool,
}

fn rowid(log: u32, seq: u64) -> i64 {
    key(log, seq).cast_signed()
}

fn connect(path: &Path) -> Outcome<Connection> {
    let connection = connect_to_read(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn connect_to_read(path: &Path) -> Outcome<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "cache_size", format!("-{}", CACHE_BYTES >> 10))?;
    Ok(connection)
}

impl Contender for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn durability(&self) -> &'static str {
        "WAL, synchronous=FULL: fdatasync of the log at each commit; NORMAL where nothing waits"
    }

    fn cannot(&self, workload: Workload) -> Option<&'static str> {
        (workload == Workload::B2).then_some(NO_RECEIPTS)
    }

    fn remark(&self, workload: Workload) -> Option<Remark> {
        match workload {
            Workload::F | Workload::F2 | Workload::G | Workload::Gc => Some(Remark::Less("its pages have no checksum")),
            _ => None,
        }
    }

    fn create(&self, dir: &Path, logs: u32) -> Outcome<Box<dyn System>> {
        let path = dir.join("records.sqlite");
        let connection = connect(&path)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS records (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS flushes (key INTEGER PRIMARY KEY, number INTEGER);",
        )?;
        let writing = Mutex::new(Writing { connection, is_full: true });
        Ok(Box::new(Open { writing, path, next: NextSeqs::new(logs) }))
    }

    fn reopen(&self, dir: &Path) -> Outcome<Box<dyn System>> {
        let path = dir.join("records.sqlite");
        let writing = Mutex::new(Writing { connection: connect(&path)?, is_full: true });
        Ok(Box::new(Open { writing, path, next: NextSeqs::new(1) }))
    }
}

impl Open {
    fn writing(&self, is_full: bool) -> Outcome<MutexGuard<'_, Writing>> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.is_full != is_full {
            writing.connection.pragma_update(None, "synchronous", if is_full { "FULL" } else { "NORMAL" })?;
            writing.is_full = is_full;
        }
        Ok(writing)
    }

    fn insert_one(&self, is_full: bool, log: u32, body: &Body) -> Outcome<()> {
        let writing = self.writing(is_full)?;
        let key = rowid(log, self.next.take(log, 1));
        writing.connection.prepare_cached(INSERT)?.execute((key, body.as_slice()))?;
        Ok(())
    }

    fn insert<'a>(&self, is_full: bool, records: impl Iterator<Item = (u32, &'a Body)>) -> Outcome<()> {
        let mut writing = self.writing(is_full)?;
        let transaction = writing.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(INSERT)?;
            for (log, body) in records {
                insert.execute((rowid(log, self.next.take(log, 1)), body.as_slice()))?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl System for Open {
    fn append_durable(&self, log: u32, body: &Body) -> Outcome<()> {
        self.insert_one(true, log, body)
    }

    fn append_unflushed(&self, log: u32, body: &Body) -> Outcome<()> {
        self.insert_one(false, log, body)
    }

    fn append_many(&self, log: u32, bodies: &[Body]) -> Outcome<()> {
        self.insert(false, bodies.iter().map(|body| (log, body)))
    }

    fn append_across(&self, first: u32, bodies: &[Body]) -> Outcome<()> {
        self.insert(true, (first..).zip(bodies))
    }

    fn flush(&self) -> Outcome<()> {
        let writing = self.writing(true)?;
        writing.connection.execute("INSERT OR REPLACE INTO flushes VALUES (0, 0)", ())?;
        Ok(())
    }

    fn reader(&self, log: u32) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(Log { connection: connect_to_read(&self.path)?, log }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        let writing = self.writing.into_inner().unwrap_or_else(PoisonError::into_inner);
        writing.connection.close().map_err(|(_, error)| error.into())
    }
}

/// With a connection of its own: readers don't wait for the writer.
struct Log {
    connection: Connection,
    log: u32,
}

impl Reader for Log {
    fn read(&mut self, seq: u64) -> Outcome<usize> {
        let mut select = self.connection.prepare_cached("SELECT body FROM records WHERE key = ?1")?;
        let len = select.query_row([rowid(self.log, seq)], |row| Ok(row.get_ref(0)?.as_blob()?.len()))?;
        Ok(len)
    }

    fn scan(&mut self) -> Outcome<u64> {
        let mut select =
            self.connection.prepare_cached("SELECT body FROM records WHERE key >= ?1 AND key < ?2 ORDER BY key")?;
        let mut rows = select.query([rowid(self.log, 0), rowid(self.log + 1, 0)])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            std::hint::black_box(row.get_ref(0)?.as_blob()?);
            count += 1;
        }
        Ok(count)
    }
}
