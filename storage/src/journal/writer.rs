//! Appending to a log of this node.

use std::sync::Arc;

use super::{Journal, MAX_APPEND_LEN, Receipt, error::AppendError, queue::Writer};
use crate::{
    batch::Attributes,
    ids::{LogId, Seq},
};

/// Appends to one log of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogWriter {
    pub(super) journal: Journal,
    pub(super) log: LogId,
    pub(super) slot: usize,
}

impl LogWriter {
    /// The log.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// Whether it takes no more records, since a new life of the node has begun: see [`Journal::begin_new_life`].
    pub fn has_ended(&self) -> bool {
        self.journal.shared.queue().log(self.slot).writer != Writer::This
    }

    /// Sequence number that the next record will get, what is queued included.
    pub fn next_seq(&self) -> Seq {
        self.journal.shared.queue().log(self.slot).next_seq
    }

    /// Queues a record; waits while the queue is full.
    ///
    /// **Durability**: none until the receipt says so. On `Err` nothing was queued; only if the disk fails when it is
    /// tried again after it was full ([`AppendError::Poisoned`]) is it *unknown* whether the records are kept.
    pub fn append(&self, body: &[u8]) -> Result<Receipt, AppendError> {
        self.append_with(Attributes::default(), &[body], true)
    }

    /// Queues records that are committed together: all of them are durable or none is. At most
    /// [`MAX_APPEND_LEN`] bytes.
    ///
    /// **Durability**: none until the receipt says so. On `Err` nothing was queued; only if the disk fails when it is
    /// tried again after it was full ([`AppendError::Poisoned`]) is it *unknown* whether the records are kept.
    pub fn append_all<B: AsRef<[u8]>>(&self, bodies: &[B]) -> Result<Receipt, AppendError> {
        self.append_with(Attributes::default(), bodies, true)
    }

    /// Like [`append_all`](Self::append_all), but fails with [`AppendError::WouldBlock`] instead of waiting.
    pub fn try_append_all<B: AsRef<[u8]>>(&self, bodies: &[B]) -> Result<Receipt, AppendError> {
        self.append_with(Attributes::default(), bodies, false)
    }

    /// Like [`append_all`](Self::append_all), of records that all have these attributes; fails with
    /// [`AppendError::WouldBlock`] instead of waiting for room if not told to `wait`.
    pub fn append_with<B: AsRef<[u8]>>(
        &self,
        attributes: Attributes,
        bodies: &[B],
        wait: bool,
    ) -> Result<Receipt, AppendError> {
        let shared = &self.journal.shared;
        let mut total = 0;
        for body in bodies {
            let (len, limit) = (body.as_ref().len(), shared.options.record_bytes_max);
            if len > limit {
                return Err(AppendError::RecordTooLong { len, limit });
            }
            total += len + 16;
        }
        if total > MAX_APPEND_LEN + 16 {
            return Err(AppendError::AppendTooLong { len: total, limit: MAX_APPEND_LEN });
        }
        let wall_unix_ms = shared.options.clock.unix_ms();
        let mut queue = shared.make_room(shared.queue(), Some(self.slot), wait)?;
        if queue.log(self.slot).writer != Writer::This {
            return Err(AppendError::LogEnded { log: self.log });
        }
        let first_seq = queue.log(self.slot).next_seq;
        for body in bodies {
            queue.push_record(self.slot, wall_unix_ms, attributes, body.as_ref());
        }
        let (next_seq, last_time) = (queue.log(self.slot).next_seq, queue.clock);
        let group = shared.queued(queue)?;
        Ok(Receipt::new(Arc::clone(shared), group, self.log, first_seq, next_seq, last_time))
    }
}
