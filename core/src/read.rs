//! Reading records.

use std::{
    ops::{Bound, RangeBounds},
    time::SystemTime,
};

use bytes::Bytes;
use counterfoil_storage::{Arrival, Hlc, LogId, LogInfo, LogReader, NodeName, RecordKind, Records, Seq};

use crate::{
    error::{Error, ErrorKind, Result},
    merge::Merge,
    store::Inner,
    time,
};

/// A record: bytes, with a place in a log and a time. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    log: LogId,
    node: NodeName,
    stored: counterfoil_storage::Record,
}

impl Record {
    /// Its sequence number in its log.
    pub fn seq(&self) -> Seq {
        self.stored.seq
    }

    /// Its log.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// The node that wrote it.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// When its writer recorded it, as the stamp that orders it among records of other logs.
    pub fn time(&self) -> Hlc {
        self.stored.time
    }

    /// When its writer recorded it, by the writer's clock, to the millisecond. Never earlier than of the record
    /// before it in its log.
    pub fn recorded_at(&self) -> SystemTime {
        self.stored.time.to_system_time()
    }

    /// When it happened, if its writer said that this was not when it was recorded: see
    /// [`Space::append_at`](crate::Space::append_at).
    pub fn happened_at(&self) -> Option<SystemTime> {
        self.stored.attributes.happened_unix_ms.and_then(time::of_unix_ms)
    }

    /// Whether this library wrote its bytes, as a part of a collection, and the application did not.
    pub fn is_of_collection(&self) -> bool {
        self.stored.attributes.kind == COLLECTION
    }

    /// Its bytes: a slice of a read buffer, which lives as long as the slice does.
    pub fn body(&self) -> &Bytes {
        &self.stored.body
    }

    #[cfg(feature = "collections")]
    pub(crate) fn stored(&self) -> &counterfoil_storage::Record {
        &self.stored
    }

    /// Takes its bytes out.
    pub fn into_body(self) -> Bytes {
        self.stored.body
    }
}

/// The kind of records that hold writes to collections.
pub(crate) const COLLECTION: RecordKind = RecordKind::new(1);

/// Records of one log from a sequence number on.
#[derive(Debug)]
pub(crate) struct LogRecords {
    log: LogId,
    node: NodeName,
    batches: LogReader,
    records: Option<Records>,
    /// What comes next; records before it in its batch are skipped.
    next_seq: Seq,
    /// Where the present batch ends.
    batch_end: Seq,
}

impl LogRecords {
    pub(crate) fn new(inner: &Inner, log: LogId, node: NodeName, from: Seq) -> Self {
        Self { log, node, batches: inner.journal.read(log, from), records: None, next_seq: from, batch_end: from }
    }

    /// Sets how many bytes may be read ahead.
    pub(crate) fn read_ahead(mut self, bytes: usize) -> Self {
        self.batches.set_read_ahead(bytes);
        self
    }

    pub(crate) fn log(&self) -> LogId {
        self.log
    }

    /// What comes next, as far as no range is missing.
    pub(crate) fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// Whether the batch before what comes next has been given out to its end.
    pub(crate) fn is_between_batches(&self) -> bool {
        self.next_seq >= self.batch_end
    }

    /// Between batches: the arrival of the next one, see [`LogReader::next_arrival`].
    pub(crate) fn next_arrival(&mut self) -> Option<Arrival> {
        self.batches.next_arrival()
    }
}

impl Iterator for LogRecords {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.records.as_mut().and_then(Iterator::next) {
                Some(Ok(stored)) if stored.seq < self.next_seq => {}
                Some(Ok(stored)) => {
                    self.next_seq = Seq(stored.seq.0 + 1);
                    return Some(Ok(Record { log: self.log, node: self.node.clone(), stored }));
                }
                Some(Err(error)) => return Some(Err(error.into())),
                None => match self.batches.next()? {
                    Ok(batch) => {
                        self.batch_end = batch.next_seq();
                        self.records = Some(batch.records());
                    }
                    Err(error) => return Some(Err(error.into())),
                },
            }
        }
    }
}

/// The part of one log that lies in a range.
#[derive(Debug)]
struct LogRange {
    records: LogRecords,
    /// First sequence number not wanted any more.
    end: Option<Seq>,
}

impl LogRange {
    fn new(inner: &Inner, info: &LogInfo, range: &impl RangeBounds<Seq>) -> Self {
        let from = match range.start_bound() {
            Bound::Included(seq) => *seq,
            Bound::Excluded(seq) => Seq(seq.0.saturating_add(1)),
            Bound::Unbounded => Seq::ZERO,
        };
        let end = match range.end_bound() {
            Bound::Included(seq) => Some(Seq(seq.0.saturating_add(1))),
            Bound::Excluded(seq) => Some(*seq),
            Bound::Unbounded => None,
        };
        Self { records: LogRecords::new(inner, info.id, info.genesis.node.clone(), from), end }
    }
}

impl Iterator for LogRange {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.end.is_some_and(|end| self.records.next_seq >= end) {
            return None;
        }
        let item = self.records.next()?;
        let is_past_end = |record: &Record| self.end.is_some_and(|end| record.seq() >= end);
        if item.as_ref().is_ok_and(is_past_end) {
            return None;
        }
        Some(item)
    }
}

/// Iterator over durable records of a space, or of one of its logs: `Item = Result<Record, Error>`. Owned.
///
/// An error names a range that can't be served, because it is damaged, missing or kept no more; the next item is what follows
/// it. After an error of another kind, such as a disk that refuses, there is no next item: what is left can be asked for
/// again, from the place where reading ended.
#[derive(Debug)]
pub struct Read(Source);

#[derive(Debug)]
enum Source {
    One(Box<LogRange>),
    Many(Merge),
    /// An error was met that nothing follows.
    Ended,
}

/// Whether what follows an error can be read, or the same would be met again.
fn can_be_passed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Trimmed)
}

impl Read {
    /// A part of one log, and what is appended to it before the end is reached.
    pub(crate) fn of_log(inner: &Inner, info: &LogInfo, range: &impl RangeBounds<Seq>) -> Self {
        Self(Source::One(Box::new(LogRange::new(inner, info, range))))
    }

    /// Logs in merged order, each up to the sequence number beside it.
    pub(crate) fn merged(inner: &Inner, logs: Vec<(LogInfo, Seq)>) -> Self {
        match &logs[..] {
            [(only, end)] => Self::of_log(inner, only, &(..*end)),
            _ => Self(Source::Many(Merge::new(inner, logs))),
        }
    }
}

impl Iterator for Read {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = match &mut self.0 {
            Source::One(records) => records.next(),
            Source::Many(records) => records.next(),
            Source::Ended => None,
        };
        if item.as_ref().is_some_and(|item| item.as_ref().is_err_and(|error| !can_be_passed(error))) {
            self.0 = Source::Ended;
        }
        item
    }
}
