//! Counterfoil's journal with the default options, as an application gets it.

use std::{collections::VecDeque, path::Path};

use counterfoil_storage::{Journal, LogId, LogWriter, Options, Receipt, Seq};

use crate::{
    create_log, store_in,
    system::{Body, Contender, Outcome, Reader, System},
    workload::Workload,
};

/// The contender.
#[derive(Debug)]
pub struct Counterfoil;

struct Open {
    journal: Journal,
    writers: Vec<LogWriter>,
}

impl Contender for Counterfoil {
    fn name(&self) -> &'static str {
        "counterfoil"
    }

    fn durability(&self) -> &'static str {
        "fdatasync into space filled ahead; directories flushed"
    }

    fn cannot(&self, _workload: Workload) -> Option<&'static str> {
        None
    }

    fn create(&self, dir: &Path, logs: u32) -> Outcome<Box<dyn System>> {
        let (journal, writers) = store_in(dir, u64::from(logs));
        Ok(Box::new(Open { journal, writers }))
    }

    fn reopen(&self, dir: &Path) -> Outcome<Box<dyn System>> {
        let (journal, _) = Journal::open(&dir.join("store"), Options::default())?;
        // The first log only, which is known by its name: listing them all is not what opening is.
        let writers = vec![journal.writer(create_log(&journal, 0))?];
        Ok(Box::new(Open { journal, writers }))
    }
}

impl Open {
    fn writer(&self, log: u32) -> &LogWriter {
        &self.writers[log as usize]
    }
}

impl System for Open {
    fn append_durable(&self, log: u32, body: &Body) -> Outcome<()> {
        Ok(self.writer(log).append(body)?.wait()?)
    }

    fn append_unflushed(&self, log: u32, body: &Body) -> Outcome<()> {
        self.writer(log).append(body)?;
        Ok(())
    }

    fn append_many(&self, log: u32, bodies: &[Body]) -> Outcome<()> {
        self.writer(log).append_all(bodies)?;
        Ok(())
    }

    fn append_across(&self, first: u32, bodies: &[Body]) -> Outcome<()> {
        for (writer, body) in self.writers[first as usize..].iter().zip(bodies) {
            writer.append(body)?;
        }
        Ok(self.journal.commit()?)
    }

    fn append_pipelined(&self, bodies: &[Body], in_flight: usize) -> Outcome<()> {
        let mut receipts: VecDeque<Receipt> = VecDeque::with_capacity(in_flight);
        for body in bodies {
            if receipts.len() == in_flight {
                receipts.pop_front().map_or(Ok(()), |oldest| oldest.wait())?;
            }
            receipts.push_back(self.writer(0).append(body)?);
        }
        Ok(receipts.into_iter().try_for_each(|receipt| receipt.wait())?)
    }

    fn flush(&self) -> Outcome<()> {
        Ok(self.journal.commit()?)
    }

    fn reader(&self, log: u32) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(Log { journal: &self.journal, id: self.writer(log).log() }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(self.journal.close()?)
    }
}

struct Log<'a> {
    journal: &'a Journal,
    id: LogId,
}

impl Reader for Log<'_> {
    fn read(&mut self, seq: u64) -> Outcome<usize> {
        let batch = self.journal.read_batch(self.id, Seq(seq))?.ok_or("beyond the end")?;
        let record = batch.record(Seq(seq)).ok_or("not in its batch")?;
        Ok(record.body.len())
    }

    fn scan(&mut self) -> Outcome<u64> {
        let mut count = 0;
        for batch in self.journal.read(self.id, Seq::ZERO) {
            for record in batch?.body()?.record_refs() {
                std::hint::black_box(record?.body);
                count += 1;
            }
        }
        Ok(count)
    }
}
