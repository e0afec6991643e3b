//! Following the records of a space as they become durable.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use counterfoil_storage::{Arrival, LogId, Seq, SpaceName, Watch};

use crate::{
    cursor::Cursor,
    error::Result,
    read::{LogRecords, Record},
    receipt::Unpark,
    store::Inner,
};

/// Blocking iterator over the records of all logs of a space in the order in which they became durable here.
///
/// Within a log the records come in order; none is left out and none comes twice. A range that can't be had (it is
/// damaged, missing, or no longer kept) is an error that names it, and what follows it comes next. Two stores may have received
/// the logs in different orders, so this order differs from node to node; [`Space::read`](crate::Space::read) gives one
/// that does not.
///
/// It ends when the store is closed. It holds the store open. In async code use [`into_stream`](Self::into_stream).
#[derive(Debug)]
pub struct Follow {
    inner: Arc<Inner>,
    space: SpaceName,
    watch: Watch,
    cursor: Cursor,
    arrivals: Arrivals,
}

/// The logs of a space merged by the arrival of their batches.
#[derive(Debug, Default)]
struct Arrivals {
    logs: Vec<LogRecords>,
    known: HashMap<LogId, usize>,
    /// Logs whose next batch is known, with its arrival.
    ready: BinaryHeap<Reverse<(Arrival, usize)>>,
    /// Logs that had nothing more when they were last asked.
    idle: Vec<usize>,
    /// The log whose batch is being given out.
    current: Option<usize>,
    /// Of all batches that arrived before this one, those not given out yet are in `ready`.
    horizon: Arrival,
}

impl Arrivals {
    fn add(&mut self, records: LogRecords) {
        self.known.insert(records.log(), self.logs.len());
        self.idle.push(self.logs.len());
        self.logs.push(records);
    }

    /// Asks a log what comes next of it.
    fn ask(&mut self, log: usize) {
        match self.logs[log].next_arrival() {
            Some(arrival) => self.ready.push(Reverse((arrival, log))),
            None => self.idle.push(log),
        }
    }

    /// Whether the first that is ready is the first of all. Errors have the first arrival.
    fn is_next_known(&self) -> bool {
        let first = self.ready.peek().map(|Reverse((arrival, _))| *arrival);
        first.is_some_and(|first| first < self.horizon || first == Arrival::ZERO)
    }

    /// What is there without waiting; `next_arrival` is the first arrival number that is not durable yet.
    fn next(&mut self, next_arrival: impl Fn() -> Arrival) -> Option<Result<Record>> {
        loop {
            if let Some(log) = self.current.take() {
                let item = self.logs[log].next();
                if self.logs[log].is_between_batches() {
                    self.ask(log);
                } else {
                    self.current = Some(log);
                }
                if item.is_some() {
                    return item;
                }
            }
            if !self.is_next_known() {
                // Taken before the logs are asked: what arrives meanwhile may be seen of one and missed of another.
                self.horizon = next_arrival();
                for log in std::mem::take(&mut self.idle) {
                    self.ask(log);
                }
                if !self.is_next_known() {
                    return None;
                }
            }
            self.current = self.ready.pop().map(|Reverse((_, log))| log);
        }
    }
}

impl Follow {
    pub(crate) fn new(inner: Arc<Inner>, space: SpaceName, cursor: Cursor) -> Self {
        let watch = inner.journal.watch(Some(&space));
        let mut follow = Self { inner, space, watch, cursor, arrivals: Arrivals::default() };
        follow.find_logs();
        follow
    }

    /// Where it stands: after the last record it gave.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Waits for the next record, but no longer than `timeout`: `None` if none came, or the store
    /// is closed.
    ///
    /// # Errors
    ///
    /// Records are missing, damaged or trimmed, or the disk refuses a read.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Record>> {
        self.next_timeout_of(timeout, |_| true)
    }

    /// The same for the next record that is wanted; others are passed over.
    pub(crate) fn next_timeout_of(
        &mut self,
        timeout: Duration,
        is_wanted: impl Fn(&Record) -> bool,
    ) -> Result<Option<Record>> {
        let deadline = now().checked_add(timeout);
        loop {
            match self.wait_until(deadline).transpose()? {
                Some(record) if !is_wanted(&record) => {}
                outcome => return Ok(outcome),
            }
        }
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
        let item = self.arrivals.next(|| self.inner.journal.next_arrival())?;
        if let Ok(record) = &item {
            self.cursor.set(record.log(), Seq(record.seq().0 + 1));
        }
        Some(item)
    }

    /// Opens readers for logs that are new here.
    fn find_logs(&mut self) {
        for info in self.inner.journal.logs(Some(&self.space)) {
            if !self.arrivals.known.contains_key(&info.id) {
                let from = self.cursor.next_seq(info.id);
                self.arrivals.add(LogRecords::new(&self.inner, info.id, info.genesis.node.clone(), from));
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
