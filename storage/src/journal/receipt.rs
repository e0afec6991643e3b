//! Receipts: what an append returns.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    commit::Shared,
    error::AppendError,
    queue::{Awaited, Group},
    watch,
};
use crate::{
    ids::{LogId, Seq},
    time::Hlc,
};

/// The promise of a commit, for the records of one append. Cheap to clone.
///
/// Dropping it changes nothing: the records are committed all the same.
#[derive(Clone)]
pub struct Receipt {
    shared: Arc<Shared>,
    group: Arc<Group>,
    log: LogId,
    first_seq: Seq,
    next_seq: Seq,
    last_time: Hlc,
}

impl Receipt {
    pub(crate) fn new(
        shared: Arc<Shared>,
        group: Arc<Group>,
        log: LogId,
        first_seq: Seq,
        next_seq: Seq,
        last_time: Hlc,
    ) -> Self {
        Self { shared, group, log, first_seq, next_seq, last_time }
    }

    /// The log.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// Sequence number of the first record.
    pub fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// Sequence number after the last record.
    pub fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// Time of the last record.
    pub fn last_time(&self) -> Hlc {
        self.last_time
    }

    /// Waits until the records are durable; leads the commit if nobody else does.
    ///
    /// **Durability**: on `Ok` the records survive power loss. On `Err` it is *unknown* whether they
    /// do, unless the error is [`AppendError::StorageFull`], which means that they were not kept.
    pub fn wait(&self) -> Result<(), AppendError> {
        match self.group.outcome.get() {
            Some(outcome) => outcome.clone(),
            None => self.shared.wait_for(&self.group, None).unwrap_or(Ok(())),
        }
    }

    /// Waits until the records are durable or `timeout` has passed; whether they are durable.
    ///
    /// A flush that this thread leads is not cut short by the timeout.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, AppendError> {
        match self.shared.wait_for(&self.group, watch::deadline_after(timeout)) {
            Some(outcome) => outcome.map(|()| true),
            None => Ok(false),
        }
    }

    /// Whether the records are durable by now. Never waits.
    pub fn is_durable(&self) -> Result<bool, AppendError> {
        self.group.outcome.get().map_or(Ok(false), |outcome| outcome.clone().map(|()| true))
    }

    /// For futures: ready once durable. Never flushes; the background committer is asked to, so a
    /// journal opened without it needs someone who calls [`Journal::commit`](super::Journal::commit).
    pub fn poll_durable(&self, cx: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        self.shared.poll_committed(&self.group, Awaited::Outcome, cx.waker())
    }

    /// The same for a task that waits for what can only come after the commit, and is woken by that: another node's
    /// ack. Of the commit it is told only if it fails, which saves waking it twice.
    pub fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        self.shared.poll_committed(&self.group, Awaited::Failure, cx.waker())
    }

    /// The same for a thread, which leads the commit if nobody else does, and does not wait for one who leads. While this
    /// is pending `waker` is woken if the commit fails, and may be woken to call this again: to lead.
    pub fn lead_or_watch(&self, waker: &Waker) -> Poll<Result<(), AppendError>> {
        match self.group.outcome.get() {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => self.shared.lead_or_watch(&self.group, waker),
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, first_seq, next_seq, .. } = self;
        write!(f, "Receipt({log}, {first_seq}..{next_seq}, durable: {:?})", self.is_durable())
    }
}
