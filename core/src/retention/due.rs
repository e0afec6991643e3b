//! How far the rules of age and size have come in each log.
//!
//! What was found due once stays so: it is looked at once, however long it is held by something else. In memory only.

use std::{cmp::Reverse, collections::BinaryHeap};

use counterfoil_storage::{Hlc, Journal, LogId, LogInfo, ReadError, Seq};

use super::{Held, Retention};

/// How far the rules have come in one log.
#[derive(Debug, Clone, Default)]
pub(super) struct Due {
    /// What comes before is due.
    until: Seq,
    /// Bytes of the log's batches before that, ever.
    bytes: u64,
    next: Option<Next>,
}

/// The first batch that is not due.
#[derive(Debug, Clone, Copy)]
struct Next {
    end: Seq,
    bytes: u64,
    /// Of its last record.
    time: Hlc,
}

/// A log that is looked at.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) info: LogInfo,
    pub(super) due: Due,
    /// What comes next can't be read.
    pub(super) obstacle: Option<Held>,
}

impl Candidate {
    pub(super) fn new(info: LogInfo, mut due: Due) -> Self {
        if due.until < info.first_seq {
            due = Due { until: info.first_seq, bytes: info.trimmed_bytes, next: None };
        }
        Self { info, due, obstacle: None }
    }

    /// Everything before is due.
    pub(super) fn due_until(&self) -> Seq {
        self.due.until
    }

    /// Bytes of the batches that are not due. Less than nothing if a damaged commit is not counted in the log any more.
    fn kept_bytes(&self) -> i128 {
        i128::from(self.info.trimmed_bytes) + i128::from(self.info.bytes) - i128::from(self.due.bytes)
    }

    /// The first batch that is not due, if there is one and it can be read.
    fn next(&mut self, journal: &Journal) -> Option<Next> {
        if self.due.next.is_none() && self.obstacle.is_none() && self.due.until < self.info.durable.next_seq {
            match journal.read_batch(self.info.id, self.due.until) {
                Ok(batch) => {
                    self.due.next = batch.map(|batch| Next {
                        end: batch.next_seq(),
                        bytes: batch.bytes().len() as u64,
                        time: batch.last_time(),
                    });
                }
                Err(error) => self.obstacle = Some(held_by(&error, self.due.until)),
            }
        }
        self.due.next
    }

    /// The first batch that was not due is.
    fn pass(&mut self) {
        if let Some(next) = self.due.next.take() {
            self.due.until = next.end;
            self.due.bytes += next.bytes;
        }
    }
}

/// What an error of reading means for records from `seq` on.
pub(super) fn held_by(error: &ReadError, seq: Seq) -> Held {
    match error {
        ReadError::Damaged { .. } | ReadError::Hole { .. } => Held::Hole { from: seq },
        error => Held::Failed { what: error.to_string() },
    }
}

/// Finds out what is due in the logs of a space. What is found by then is true also when it ends early, once `is_stopping`.
pub(super) fn find(
    journal: &Journal,
    policy: &Retention,
    logs: &mut [Candidate],
    now_unix_ms: u64,
    is_stopping: impl Fn() -> bool,
) {
    for log in &mut *logs {
        while !is_stopping() && log.next(journal).is_some_and(|next| policy.is_old(next.time, now_unix_ms)) {
            log.pass();
        }
    }
    let Some(bytes_max) = policy.beyond_bytes else { return };
    let bytes_max = i128::from(bytes_max);
    let mut kept: i128 = logs.iter().map(Candidate::kept_bytes).sum();
    let mut oldest: BinaryHeap<Reverse<(Hlc, LogId, usize)>> = BinaryHeap::new();
    if kept > bytes_max {
        let place =
            |(index, log): (usize, &mut Candidate)| Some(Reverse((log.next(journal)?.time, log.info.id, index)));
        oldest.extend(logs.iter_mut().enumerate().filter_map(place));
    }
    while kept > bytes_max && !is_stopping() {
        let Some(Reverse((.., index))) = oldest.pop() else { return };
        let log = &mut logs[index];
        kept -= log.due.next.map_or(0, |next| next.bytes.into());
        log.pass();
        oldest.extend(log.next(journal).map(|next| Reverse((next.time, log.info.id, index))));
    }
}
