//! How far an input has been appended, and what of it is durable.

use std::collections::VecDeque;

use counterfoil::{Durability, Error, LogId, Receipt, Seq};

use crate::output::count;

/// Records that were appended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sum {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// The log, its first and its last record.
    pub(crate) range: Option<(LogId, Seq, Seq)>,
}

impl Sum {
    fn add(&mut self, appended: &Appended) {
        let Appended { receipt, bytes } = appended;
        self.records += receipt.next_seq().0 - receipt.first_seq().0;
        self.bytes += bytes;
        let last_seq = Seq(receipt.next_seq().0 - 1);
        let first_seq = self.range.map_or(receipt.first_seq(), |(_, first_seq, _)| first_seq);
        self.range = Some((receipt.log(), first_seq, last_seq));
    }
}

/// Lines that were appended together.
#[derive(Debug)]
struct Appended {
    receipt: Receipt,
    bytes: u64,
}

/// What has become of the lines of an input, from the first on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// What is durable. Its records are the first lines of the input, but for `astray`.
    durable: Sum,
    /// The lines, counted from 1, that were stored though one before them was not: first and last.
    astray: Option<(u64, u64)>,
    /// Lines that are durable, and so were all before them.
    lines: u64,
    /// Appended and not yet known to be durable, in order: bounded by the store's queue.
    waiting: VecDeque<Appended>,
    /// What comes next if none is lost.
    next_seq: Option<Seq>,
    /// The whole input has been read.
    pub(crate) is_input_at_end: bool,
}

impl Progress {
    /// Takes in what was appended next; false if something before it was lost, in whose place it is now.
    pub(crate) fn add(&mut self, receipt: &Receipt, lines: &[&[u8]]) -> bool {
        let bytes = lines.iter().map(|line| line.len() as u64).sum();
        let is_next = self.next_seq.is_none_or(|next_seq| next_seq == receipt.first_seq());
        self.next_seq = Some(receipt.next_seq());
        self.waiting.push_back(Appended { receipt: receipt.clone(), bytes });
        is_next
    }

    /// Counts what is known to be durable by now; fails if something was not stored.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        while let Some(appended) = self.waiting.front() {
            if appended.receipt.reached()? < Durability::Local {
                break;
            }
            self.durable.add(appended);
            self.lines = self.durable.records;
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Waits until it is known of all that was appended whether it is durable. What failed is told by its receipt.
    pub(crate) fn finish(&mut self) {
        let mut line = self.lines;
        let mut is_whole = true;
        for appended in std::mem::take(&mut self.waiting) {
            let (first, records) = (line + 1, appended.receipt.next_seq().0 - appended.receipt.first_seq().0);
            line += records;
            if appended.receipt.wait(Durability::Local).is_err() {
                is_whole = false;
                continue;
            }
            self.durable.add(&appended);
            if is_whole {
                self.lines = line;
            } else {
                self.astray = Some((self.astray.map_or(first, |(first, _)| first), line));
            }
        }
    }

    /// All that is durable.
    pub(crate) fn durable(&self) -> &Sum {
        &self.durable
    }

    /// The first line, counted from 1, that is not known to be stored.
    fn next_line(&self) -> u64 {
        self.lines + 1
    }

    /// The line of a record, counted from 1.
    pub(crate) fn line_of(&self, seq: Seq) -> Option<u64> {
        let (_, first_seq, _) = self.durable.range?;
        Some(seq.0.checked_sub(first_seq.0)? + 1)
    }

    /// Which lines are in the store, in words.
    pub(crate) fn stored(&self) -> String {
        let Some((_, first_seq, _)) = self.durable.range.filter(|_| self.lines > 0) else {
            return "nothing of the input is in the store".to_owned();
        };
        let are = if self.lines == 1 { "is" } else { "are" };
        let last_seq = first_seq.0 + self.lines - 1;
        format!("{} of the input {are} in the store (to seq {last_seq})", count(self.lines, "lines"))
    }

    /// With which line to go on, in words.
    pub(crate) fn going_on(&self) -> String {
        if self.is_input_at_end && self.waiting.is_empty() && self.durable.records == self.lines && !self.is_cut_short()
        {
            return "there is nothing to append again".to_owned();
        }
        let astray = self.astray.map(|(first, last)| format!(", but not lines {first} to {last}, which are there"));
        format!("append from line {} on{}", self.next_line(), astray.unwrap_or_default())
    }

    /// Whether something that was appended is not durable.
    fn is_cut_short(&self) -> bool {
        self.astray.is_some() || self.durable.range.map(|(_, _, last)| Seq(last.0 + 1)) != self.next_seq
    }
}
