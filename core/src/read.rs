//! Reading and following records.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::{Bound, RangeBounds},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use counterfoil_storage::{Hlc, LogId, LogReader, NodeName, Records, Seq, SpaceName, Watch};
use serde::{Deserialize, Serialize};

use crate::{error::Result, receipt::Unpark, store::Inner};

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

    /// When its writer recorded it.
    pub fn time(&self) -> Hlc {
        self.stored.time
    }

    /// Its bytes: a slice of a read buffer, which lives as long as the slice does.
    pub fn body(&self) -> &Bytes {
        &self.stored.body
    }

    /// Takes its bytes out.
    pub fn into_body(self) -> Bytes {
        self.stored.body
    }
}

/// Records of one log from a sequence number on.
#[derive(Debug)]
struct LogRecords {
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
    fn new(inner: &Inner, log: LogId, node: NodeName, from: Seq) -> Self {
        Self { log, node, batches: inner.journal.read(log, from), records: None, next_seq: from, batch_end: from }
    }
}

impl LogRecords {
    fn is_between_batches(&self) -> bool {
        self.next_seq >= self.batch_end
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

/// Iterator over durable records of one log, in order: `Item = Result<Record, Error>`. Owned.
///
/// An error names a range that can't be served; the next item is what follows it.
#[derive(Debug)]
pub struct Read {
    /// `None` if the log does not exist yet.
    records: Option<LogRecords>,
    /// First sequence number not wanted any more.
    end: Option<Seq>,
}

impl Read {
    pub(crate) fn empty() -> Self {
        Self { records: None, end: None }
    }

    pub(crate) fn new(inner: &Inner, log: LogId, node: NodeName, range: &impl RangeBounds<Seq>) -> Self {
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
        Self { records: Some(LogRecords::new(inner, log, node, from)), end }
    }
}

impl Iterator for Read {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let records = self.records.as_mut()?;
        if self.end.is_some_and(|end| records.next_seq >= end) {
            return None;
        }
        let item = records.next()?;
        let is_past_end = |record: &Record| self.end.is_some_and(|end| record.seq() >= end);
        if item.as_ref().is_ok_and(is_past_end) {
            return None;
        }
        Some(item)
    }
}

/// A place to go on following from: for each log, the sequence number that comes next.
///
/// The default is the start of everything. Keep it (it is serializable) to go on after a restart;
/// it means the same at every replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor {
    next: BTreeMap<LogId, Seq>,
}

impl Cursor {
    /// The start: before all records of all logs.
    pub fn start() -> Self {
        Self::default()
    }

    /// The sequence number that comes next in a log.
    pub fn next_seq(&self, log: LogId) -> Seq {
        self.next.get(&log).copied().unwrap_or_default()
    }

    /// Sets what comes next in a log.
    pub fn set(&mut self, log: LogId, next_seq: Seq) {
        self.next.insert(log, next_seq);
    }
}

/// Blocking iterator over the records of all logs of a space as they become durable.
///
/// Within a log the records come in order, without gap; logs take turns, a batch at a time. It ends when the store is
/// closed. It holds the store open. In async code use [`into_stream`](Self::into_stream).
#[derive(Debug)]
pub struct Follow {
    inner: Arc<Inner>,
    space: SpaceName,
    watch: Watch,
    cursor: Cursor,
    /// The readers of the logs known so far; the first one's turn is next.
    logs: VecDeque<LogRecords>,
}

impl Follow {
    pub(crate) fn new(inner: Arc<Inner>, space: SpaceName, cursor: Cursor) -> Self {
        let watch = inner.journal.watch(Some(&space));
        let mut follow = Self { inner, space, watch, cursor, logs: VecDeque::new() };
        follow.find_logs();
        follow
    }

    /// Where it stands: after the last record it gave.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Waits for the next record, but no longer than `timeout`: `None` if none came, or the store
    /// is closed.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Record>> {
        let deadline = now().checked_add(timeout);
        self.wait_until(deadline).transpose()
    }

    /// The same as a [`Stream`](futures_core::Stream), for async code. Its `poll_next` reads from disk when the
    /// newest batches are not in memory any more.
    ///
    /// In a store opened to read only it is woken by [`Store::refresh`](crate::Store::refresh), which
    /// somebody must call now and then.
    pub fn into_stream(self) -> FollowStream {
        FollowStream { follow: self }
    }

    /// What is there without waiting.
    fn try_next(&mut self) -> Option<Result<Record>> {
        for _ in 0..self.logs.len() {
            if let Some(item) = self.logs.front_mut().and_then(Iterator::next) {
                if let Ok(record) = &item {
                    self.cursor.set(record.log(), Seq(record.seq().0 + 1));
                }
                if self.logs.front().is_some_and(LogRecords::is_between_batches) {
                    self.logs.rotate_left(1);
                }
                return Some(item);
            }
            self.logs.rotate_left(1);
        }
        None
    }

    /// Opens readers for logs that are new here.
    fn find_logs(&mut self) {
        for info in self.inner.journal.logs(Some(&self.space)) {
            if self.logs.iter().all(|known| known.log != info.id) {
                let from = self.cursor.next_seq(info.id);
                self.logs.push_back(LogRecords::new(&self.inner, info.id, info.genesis.node.clone(), from));
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Record>>> {
        loop {
            if let Some(item) = self.try_next() {
                return Poll::Ready(Some(item));
            }
            // Asked before the last look, so that what comes between is not missed.
            let is_closed = self.inner.poll_closed(cx);
            let is_changed = self.watch.poll_changed(cx).is_ready();
            self.find_logs();
            if let Some(item) = self.try_next() {
                return Poll::Ready(Some(item));
            }
            if is_closed {
                return Poll::Ready(None);
            }
            if !is_changed {
                return Poll::Pending;
            }
        }
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Option<Result<Record>> {
        if let Some(item) = self.try_next() {
            return Some(item);
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            if self.inner.is_read_only
                && let Err(error) = self.inner.journal.refresh()
            {
                return Some(Err(error.into()));
            }
            if let Poll::Ready(item) = self.poll_next(&mut Context::from_waker(&waker)) {
                return item;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            match (left, self.inner.is_read_only) {
                (Some(Duration::ZERO), _) => return None,
                (None, false) => thread::park(),
                (Some(left), false) => thread::park_timeout(left),
                (left, true) => thread::park_timeout(left.unwrap_or(REFRESH).min(REFRESH)),
            }
        }
    }
}

/// How often a follower of a store that is opened to read only asks what the writer beside has written.
const REFRESH: Duration = Duration::from_millis(20);

#[expect(clippy::disallowed_methods, reason = "a caller's thread waits here for a time that it chose")]
fn now() -> Instant {
    Instant::now()
}

impl Iterator for Follow {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.wait_until(None)
    }
}

/// Stream over the records of a space as they become durable. Cancel-safe.
#[derive(Debug)]
pub struct FollowStream {
    follow: Follow,
}

impl FollowStream {
    /// Where it stands: after the last record it gave.
    pub fn cursor(&self) -> &Cursor {
        &self.follow.cursor
    }
}

impl futures_core::Stream for FollowStream {
    type Item = Result<Record>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.follow.poll_next(cx)
    }
}
