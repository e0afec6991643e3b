//! The records of many logs in one order.

use std::{cmp::Reverse, collections::BinaryHeap};

use counterfoil_storage::{Hlc, LogId, LogInfo, NodeName, Seq};

use crate::{
    error::Result,
    read::{LogRecords, Record},
    store::Inner,
};

/// Bytes read ahead, all logs together.
const READ_AHEAD: usize = 4 << 20;

/// The durable records of some logs, each up to an end, in merged order: time, then log, then sequence number.
///
/// Each log's records stay in their order, also where a faulty writer's time went back: such a record comes as soon
/// as the one before it. So the order depends on nothing but the bytes of the logs.
///
/// In memory are a record, and the batch around it, of each log.
#[derive(Debug)]
pub(crate) struct Merge {
    logs: Vec<Source>,
    /// The next record of each log that has one.
    heads: BinaryHeap<Reverse<Head>>,
    /// Logs whose next record is not in `heads`, and that have not ended.
    due: Vec<usize>,
}

#[derive(Debug)]
struct Source {
    records: LogRecords,
    end: Seq,
}

/// The next record of a log. The order of heads is the merged order.
#[derive(Debug)]
struct Head {
    record: Record,
    source: usize,
}

impl Head {
    /// A log has one head at a time, so the sequence number decides nothing.
    fn place(&self) -> (Hlc, LogId) {
        (self.record.time(), self.record.log())
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

impl Merge {
    /// The records of `logs`, each up to the sequence number beside it.
    pub(crate) fn new(inner: &Inner, logs: Vec<(LogInfo, Seq)>) -> Self {
        let read_ahead = READ_AHEAD / logs.len().max(1);
        let source = |(info, end): (LogInfo, Seq)| {
            let node: NodeName = info.genesis.node.clone();
            Source { records: LogRecords::new(inner, info.id, node, Seq::ZERO).read_ahead(read_ahead), end }
        };
        let logs: Vec<_> = logs.into_iter().map(source).collect();
        // The first is asked first.
        let due = (0..logs.len()).rev().collect();
        Self { logs, heads: BinaryHeap::new(), due }
    }
}

impl Source {
    /// The next record before the end.
    fn next(&mut self) -> Option<Result<Record>> {
        if self.records.next_seq() >= self.end {
            return None;
        }
        let item = self.records.next()?;
        item.as_ref().map_or(true, |record| record.seq() < self.end).then_some(item)
    }
}

impl Iterator for Merge {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(source) = self.due.pop() {
            match self.logs[source].next() {
                None => {}
                Some(Ok(record)) => self.heads.push(Reverse(Head { record, source })),
                Some(Err(error)) => {
                    self.due.push(source);
                    return Some(Err(error));
                }
            }
        }
        let Reverse(Head { record, source }) = self.heads.pop()?;
        self.due.push(source);
        Some(Ok(record))
    }
}
