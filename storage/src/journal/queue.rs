//! What waits to be committed, and those who wait for it.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, OnceLock},
    task::Waker,
};

use super::{
    error::{AppendError, DiskError},
    frame::{Announcement, FrameEntry},
};
use crate::{
    batch::{Batch, BatchBuilder},
    genesis::Genesis,
    ids::{Head, LogId, Seq},
    time::Hlc,
};

/// Records that are made durable by one flush, and what became of them.
#[derive(Debug)]
pub(crate) struct Group {
    /// Counts the groups of this opening of the journal.
    pub(crate) number: u64,
    /// Set once, when the flush has returned or the group has failed.
    pub(crate) outcome: OnceLock<Result<(), AppendError>>,
}

/// One thing to be written, in the order in which it was queued.
#[derive(Debug)]
pub(crate) enum Item {
    /// A log made known.
    Announcement(Announcement),
    /// A batch that this node writes; still open for records until the group is taken.
    Own { log: LogId, builder: BatchBuilder },
    /// A batch of another node's, verbatim.
    Foreign(Batch),
}

/// A log as far as it is queued.
#[derive(Debug)]
pub(crate) struct LogQueue {
    pub(crate) id: LogId,
    pub(crate) genesis: Arc<Genesis>,
    /// Written by this node in this incarnation.
    pub(crate) own: bool,
    /// Sequence number of the next record.
    pub(crate) next_seq: Seq,
    /// Digest at `next_seq` of another node's log; unused for own logs, whose batches are not sealed yet.
    pub(crate) digest: crate::ids::Digest,
    /// Its announcement is durable, or is queued before anything of the log.
    announced: bool,
    /// The item that is open for records, with the group that it belongs to.
    open: Option<(u64, usize)>,
}

/// Whether anything can be queued.
#[derive(Debug, Clone)]
pub(crate) enum QueueState {
    Open,
    Closed,
    Poisoned(DiskError),
}

/// What waits to be committed. Bounded in bytes by those who queue.
#[expect(clippy::struct_excessive_bools, reason = "four conditions that hold independently")]
#[derive(Debug)]
pub(crate) struct Queue {
    logs: Vec<LogQueue>,
    slots: HashMap<LogId, usize>,
    items: Vec<Item>,
    /// Bytes of the items' bodies.
    pub(crate) bytes: usize,
    /// The group that is being filled.
    pub(crate) filling: Arc<Group>,
    /// The group that is being written.
    pub(crate) in_flight: Option<Arc<Group>>,
    pub(crate) state: QueueState,
    /// Nothing more is taken; what is queued is still committed.
    pub(crate) closing: bool,
    /// The clock that stamps records.
    pub(crate) clock: Hlc,
    /// Those to be woken once a group is done, by its number.
    waiters: Vec<(u64, Waker)>,
    /// The last write found no space.
    pub(crate) full: bool,
    /// Someone who will not flush wants the group to be committed.
    pub(crate) nudged: bool,
    /// The background committer sleeps until it is told.
    pub(crate) committer_sleeps: bool,
    batch_bytes: usize,
}

impl Queue {
    pub(crate) fn new(batch_bytes: usize, clock: Hlc) -> Self {
        Self {
            logs: Vec::new(),
            slots: HashMap::new(),
            items: Vec::new(),
            bytes: 0,
            filling: Arc::new(Group { number: 0, outcome: OnceLock::new() }),
            in_flight: None,
            state: QueueState::Open,
            closing: false,
            clock,
            waiters: Vec::new(),
            full: false,
            nudged: false,
            committer_sleeps: false,
            batch_bytes,
        }
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn slot(&self, log: LogId) -> Option<usize> {
        self.slots.get(&log).copied()
    }

    pub(crate) fn log(&self, slot: usize) -> &LogQueue {
        &self.logs[slot]
    }

    /// Why nothing can be queued, if so.
    pub(crate) fn refusal(&self) -> Option<AppendError> {
        match &self.state {
            QueueState::Open => self.closing.then_some(AppendError::Closed),
            QueueState::Closed => Some(AppendError::Closed),
            QueueState::Poisoned(error) => Some(AppendError::Poisoned { error: error.clone() }),
        }
    }

    /// Adds a log, with its head as far as it is durable.
    pub(crate) fn add_log(
        &mut self,
        id: LogId,
        genesis: Arc<Genesis>,
        own: bool,
        head: Head,
        announced: bool,
    ) -> usize {
        let slot = self.logs.len();
        self.slots.insert(id, slot);
        let Head { next_seq, digest } = head;
        self.logs.push(LogQueue { id, genesis, own, next_seq, digest, announced, open: None });
        slot
    }

    /// Queues the announcement of a log unless that has been done; whether it did.
    pub(crate) fn announce(&mut self, slot: usize) -> bool {
        let log = &mut self.logs[slot];
        if log.announced {
            return false;
        }
        log.announced = true;
        self.items.push(Item::Announcement(Announcement::new((*log.genesis).clone())));
        self.bytes += 256;
        true
    }

    /// Queues a record of an own log; its sequence number.
    pub(crate) fn push_record(&mut self, slot: usize, wall_unix_ms: u64, body: &[u8]) -> Seq {
        self.announce(slot);
        self.clock = self.clock.tick(wall_unix_ms);
        let log = &mut self.logs[slot];
        let open = log.open.filter(|(group, _)| *group == self.filling.number).map(|(_, item)| item);
        let index = match open {
            Some(index) if self.items[index].has_room(body.len(), self.batch_bytes) => index,
            _ => {
                let capacity = (body.len() + 20).max(if open.is_some() { self.batch_bytes } else { 0 });
                self.items.push(Item::Own { log: log.id, builder: BatchBuilder::with_capacity(capacity) });
                log.open = Some((self.filling.number, self.items.len() - 1));
                self.items.len() - 1
            }
        };
        if let Item::Own { builder, .. } = &mut self.items[index] {
            builder.push(self.clock, body);
        }
        self.bytes += body.len() + 16;
        let seq = log.next_seq;
        log.next_seq.0 += 1;
        seq
    }

    /// Queues another node's batch, which continues the log.
    pub(crate) fn push_batch(&mut self, slot: usize, batch: Batch) {
        self.announce(slot);
        let log = &mut self.logs[slot];
        debug_assert_eq!((log.next_seq, log.digest), (batch.first_seq(), batch.header().previous));
        log.next_seq = batch.next_seq();
        log.digest = batch.digest();
        self.bytes += batch.bytes().len();
        self.items.push(Item::Foreign(batch));
    }

    /// Takes what is queued as the group in flight and begins the next one.
    pub(crate) fn take(&mut self) -> (Arc<Group>, Vec<Item>) {
        debug_assert!(self.in_flight.is_none(), "one group is written at a time");
        let group = self.renew();
        self.in_flight = Some(Arc::clone(&group));
        self.bytes = 0;
        self.nudged = false;
        (group, mem::take(&mut self.items))
    }

    fn renew(&mut self) -> Arc<Group> {
        let next = Arc::new(Group { number: self.filling.number + 1, outcome: OnceLock::new() });
        mem::replace(&mut self.filling, next)
    }

    /// Has `waker` woken once the group is done.
    pub(crate) fn register(&mut self, group: &Group, waker: &Waker) {
        let known = |(number, known): &(u64, Waker)| *number == group.number && known.will_wake(waker);
        if !self.waiters.iter().rev().take(64).any(known) {
            self.waiters.push((group.number, waker.clone()));
        }
    }

    /// Takes those who wait for a group that is done, and one who can lead the next.
    pub(crate) fn take_waiters(&mut self, done: u64) -> Vec<Waker> {
        let mut woken: Vec<_> =
            self.waiters.extract_if(.., |(group, _)| *group <= done).map(|(_, waker)| waker).collect();
        if !self.items.is_empty() && !self.waiters.is_empty() {
            woken.push(self.waiters.swap_remove(0).1);
        }
        woken
    }

    /// Fails the group in flight and the one being filled: their records are gone from the queue,
    /// and the logs go on where `head_of` says that they durably end.
    pub(crate) fn fail_all(&mut self, error: &AppendError, head_of: impl Fn(LogId) -> Option<Head>) -> Vec<Waker> {
        self.items.clear();
        self.bytes = 0;
        let last = self.renew();
        for group in self.in_flight.take().into_iter().chain([Arc::clone(&last)]) {
            // A group is failed or finished once, by the one who leads.
            let _ = group.outcome.set(Err(error.clone()));
        }
        for log in &mut self.logs {
            let head = head_of(log.id);
            log.announced = head.is_some();
            let Head { next_seq, digest } = head.unwrap_or_else(|| log.genesis.head());
            (log.next_seq, log.digest, log.open) = (next_seq, digest, None);
        }
        self.take_waiters(last.number)
    }
}

impl Item {
    /// Whether a record fits into the open batch. A batch may exceed its size only by being one record.
    fn has_room(&self, body_len: usize, batch_bytes: usize) -> bool {
        match self {
            Self::Own { builder, .. } => builder.body_len() + body_len <= batch_bytes,
            _ => false,
        }
    }
}

/// Seals what was queued into the entries of a frame. `head_of` says where logs durably end.
pub(crate) fn seal(items: Vec<Item>, head_of: impl Fn(LogId) -> Option<Head>) -> Vec<FrameEntry> {
    let mut entries = Vec::with_capacity(items.len());
    // The last entry of each log in this frame.
    let mut last: HashMap<LogId, usize> = HashMap::new();
    for item in items {
        match item {
            Item::Announcement(announcement) => {
                last.insert(announcement.genesis.log_id(), entries.len());
                entries.push(FrameEntry::Announcement(announcement));
            }
            Item::Foreign(batch) => entries.push(FrameEntry::Batch(batch)),
            Item::Own { log, builder } => {
                let here = last.insert(log, entries.len()).map(|index| match &entries[index] {
                    FrameEntry::Announcement(announcement) => announcement.genesis.head(),
                    FrameEntry::Batch(batch) => batch.head(),
                });
                let head = here.or_else(|| head_of(log)).expect("a log is announced before its first batch");
                entries.push(FrameEntry::Batch(builder.seal(log, head)));
            }
        }
    }
    entries
}
