//! What waits to be committed, and those who wait for it.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
    task::Waker,
};

use foldhash::fast::RandomState;

use super::{
    error::{AppendError, DiskError},
    frame::{Announcement, FrameEntry},
};
use crate::{
    batch::{Attributes, Batch, BatchBuilder, HEADER_LEN},
    compression::Compression,
    genesis::Genesis,
    ids::{Head, LogId, Seq},
    sync::OnceLock,
    time::Hlc,
};

/// Records that are made durable by one flush, and what became of them.
#[derive(Debug)]
pub(crate) struct Group {
    /// Counts the groups of this opening of the journal.
    pub(crate) number: u64,
    /// Set once, when the flush has returned or the group has failed.
    pub(crate) outcome: OnceLock<Result<(), AppendError>>,
    /// In a bulk load, set once the group is sealed: where its logs end.
    pub(crate) sealed: OnceLock<Vec<SealedHead>>,
}

impl Group {
    fn new(number: u64) -> Arc<Self> {
        Arc::new(Self { number, outcome: OnceLock::new(), sealed: OnceLock::new() })
    }
}

/// One thing to be written, in the order in which it was queued.
#[derive(Debug)]
pub(crate) enum Item {
    /// A log made known.
    Announcement { slot: usize, announcement: Box<Announcement> },
    /// A batch that this node writes, not yet sealed.
    Open { slot: usize, log: LogId, builder: BatchBuilder },
    /// A batch of another node's, verbatim, or one of this node's that is full.
    Batch { slot: usize, batch: Batch },
    /// What leaves the head of its log as it is: a batch that belongs elsewhere in it, or a floor.
    OutOfOrder { slot: usize, entry: FrameEntry },
}

/// Who writes a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// This node, in its present life.
    This,
    /// This node, which takes no more records for it, since its life is about to end.
    Ending,
    /// Another node, or this one in an earlier life.
    Other,
}

/// A log as far as it is queued.
#[derive(Debug)]
pub(crate) struct LogQueue {
    pub(crate) id: LogId,
    pub(crate) genesis: Arc<Genesis>,
    pub(crate) writer: Writer,
    /// Sequence number of the next record.
    pub(crate) next_seq: Seq,
    /// Where the sealed batches end. None once whoever leads has taken batches of this log to seal, until
    /// it tells where they end, which it does in a bulk load: see [`Group::sealed`].
    ///
    /// For another node's log this is where the log ends.
    sealed: Option<Head>,
    /// Items with full batches that wait for their predecessor to be sealed, in order.
    unsealed: VecDeque<usize>,
    /// Its announcement is durable, or is queued before anything of the log.
    announced: bool,
    /// The item that is open for records, with the group that it belongs to.
    open: Option<(u64, usize)>,
    /// A batch with a stamp far ahead of the wall clock has come since the journal was opened.
    is_ahead: bool,
}

impl LogQueue {
    /// Where another node's log ends, what is queued included.
    pub(crate) fn foreign_head(&self) -> Option<Head> {
        self.sealed.filter(|head| head.next_seq == self.next_seq)
    }
}

/// A log with batches that its leader sealed: where they end.
pub(crate) type SealedHead = (usize, Head);

/// How many batches are sealed when one becomes full: more than one, so that those that had to wait
/// for their predecessor are caught up with; few, since others wait for the queue meanwhile.
const SEALED_AT_ONCE: usize = 8;

/// How many empty builders are kept for the next group.
const BUILDERS_KEPT: usize = 1024;

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// That the group is done, well or not.
    Outcome,
    /// That it fails: if it does not, something else wakes who waits, later.
    Failure,
}

/// Somebody to be woken of a group; until then also one who may be woken to lead it.
#[derive(Debug)]
struct Waiter {
    /// The group's number.
    group: u64,
    awaited: Awaited,
    waker: Waker,
}

/// Whether anything can be queued.
#[derive(Debug, Clone)]
pub(crate) enum QueueState {
    Open,
    Closed,
    Poisoned(DiskError),
}

/// What waits to be committed. Bounded in bytes by those who queue.
#[expect(clippy::struct_excessive_bools, reason = "conditions that hold independently")]
#[derive(Debug)]
pub(crate) struct Queue {
    logs: Vec<LogQueue>,
    slots: HashMap<LogId, usize, RandomState>,
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
    /// Why what was queued when the journal was closed could not be committed.
    pub(crate) close_error: Option<AppendError>,
    /// The clock that stamps records.
    pub(crate) clock: Hlc,
    waiters: Vec<Waiter>,
    /// The last group that became durable had several waiters, who may come back together.
    is_shared: bool,
    /// The last write found no space.
    pub(crate) full: bool,
    /// Someone who will not flush wants the group to be committed.
    pub(crate) nudged: bool,
    /// The background committer sleeps until it is told.
    pub(crate) committer_sleeps: bool,
    /// How many appenders wait until there is room.
    pub(crate) waiting_for_room: usize,
    batch_bytes: usize,
    compression: Compression,
    /// For the next batches, once restarted: not before, since what was just written is slow to be moved.
    builders: Vec<BatchBuilder>,
}

impl Queue {
    pub(crate) fn new(batch_bytes: usize, compression: Compression, clock: Hlc) -> Self {
        Self {
            logs: Vec::new(),
            slots: HashMap::default(),
            items: Vec::new(),
            bytes: 0,
            filling: Group::new(0),
            in_flight: None,
            state: QueueState::Open,
            closing: false,
            close_error: None,
            clock,
            waiters: Vec::new(),
            is_shared: false,
            full: false,
            nudged: false,
            committer_sleeps: false,
            waiting_for_room: 0,
            batch_bytes,
            compression,
            builders: Vec::new(),
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
        let (sealed, unsealed) = (Some(head), VecDeque::new());
        let next_seq = head.next_seq;
        self.logs.push(LogQueue {
            id,
            genesis,
            writer: if own { Writer::This } else { Writer::Other },
            next_seq,
            sealed,
            unsealed,
            announced,
            open: None,
            is_ahead: false,
        });
        slot
    }

    /// Has this node's logs take no more records, or go on.
    pub(crate) fn end_own_logs(&mut self, has_ended: bool) {
        let (before, after) = if has_ended { (Writer::This, Writer::Ending) } else { (Writer::Ending, Writer::This) };
        self.logs.iter_mut().filter(|log| log.writer == before).for_each(|log| log.writer = after);
    }

    /// Makes the logs that have ended, of which nothing is queued, like those of others: each goes on, if it does, where `head_at` says that
    /// it durably ends.
    pub(crate) fn give_up_own_logs(&mut self, head_at: impl Fn(usize) -> Option<Head>) {
        for (slot, log) in self.logs.iter_mut().enumerate().filter(|(_, log)| log.writer == Writer::Ending) {
            let head = head_at(slot).unwrap_or_else(|| log.genesis.head());
            debug_assert_eq!(log.next_seq, head.next_seq, "what was queued is durable");
            (log.writer, log.sealed, log.open) = (Writer::Other, Some(head), None);
        }
    }

    /// Queues the announcement of a log unless that has been done; whether it did.
    pub(crate) fn announce(&mut self, slot: usize) -> bool {
        let log = &mut self.logs[slot];
        if log.announced {
            return false;
        }
        log.announced = true;
        let announcement = Box::new(Announcement::new((*log.genesis).clone()));
        self.bytes += 2 * announcement.len();
        // Twice, like the headers of segments: without it nothing of the log can be served.
        self.items.push(Item::Announcement { slot, announcement: announcement.clone() });
        self.items.push(Item::Announcement { slot, announcement });
        true
    }

    /// Queues the announcement of a log once more: the segment that held it is lost.
    pub(crate) fn announce_again(&mut self, slot: usize) {
        self.logs[slot].announced = false;
        self.announce(slot);
    }

    /// Queues a record of an own log; its sequence number. The clock then shows its time.
    pub(crate) fn push_record(&mut self, slot: usize, wall_unix_ms: u64, attributes: Attributes, body: &[u8]) -> Seq {
        self.announce(slot);
        self.clock = self.clock.tick(wall_unix_ms);
        let log = &mut self.logs[slot];
        let open = log.open.filter(|(group, _)| *group == self.filling.number).map(|(_, item)| item);
        let index = match open {
            Some(index) if self.items[index].has_room(body.len(), self.batch_bytes) => index,
            _ => {
                let builder = match open {
                    // A log that filled a batch will fill another.
                    Some(_) => BatchBuilder::with_capacity(self.batch_bytes + body.len() + 20),
                    None => self.builders.pop().unwrap_or_else(|| BatchBuilder::with_capacity(body.len() + 20)),
                };
                let (log, index) = (log.id, self.items.len());
                self.items.push(Item::Open { slot, log, builder });
                if let Some(Item::Open { builder, .. }) = self.items.last_mut() {
                    builder.restart();
                }
                self.bytes += HEADER_LEN;
                self.logs[slot].open = Some((self.filling.number, index));
                if let Some(full) = open {
                    self.logs[slot].unsealed.push_back(full);
                    self.seal_full(slot);
                }
                index
            }
        };
        if let Item::Open { builder, .. } = &mut self.items[index] {
            builder.push_with(self.clock, attributes, body);
        }
        self.bytes += body.len() + 16;
        let log = &mut self.logs[slot];
        let seq = log.next_seq;
        log.next_seq.0 += 1;
        seq
    }

    /// Seals full batches of a log in the thread that filled them, so that hashing and writing share
    /// the work of a bulk load.
    fn seal_full(&mut self, slot: usize) {
        let log = &mut self.logs[slot];
        if log.sealed.is_none() {
            let heads = self.in_flight.as_ref().and_then(|group| group.sealed.get());
            let head = heads.into_iter().flatten().find(|(known, _)| *known == slot);
            log.sealed = head.map(|(_, head)| *head);
        }
        for _ in 0..SEALED_AT_ONCE {
            let Some(head) = log.sealed else { return };
            let Some(index) = log.unsealed.pop_front() else { return };
            if let Item::Open { builder, .. } = &mut self.items[index] {
                builder.compress(self.compression);
                let batch = mem::take(builder).seal(log.id, head);
                log.sealed = Some(batch.head());
                self.items[index] = Item::Batch { slot, batch };
            }
        }
    }

    /// Seals some of the full batches of a log; whether there were any. For those who must wait anyway.
    pub(crate) fn seal_waiting(&mut self, slot: usize) -> bool {
        let before = self.logs[slot].unsealed.len();
        self.seal_full(slot);
        self.logs[slot].unsealed.len() < before
    }

    /// Takes back builders whose batches are sealed.
    pub(crate) fn reuse(&mut self, builders: Vec<BatchBuilder>) {
        let room = BUILDERS_KEPT.saturating_sub(self.builders.len());
        self.builders.extend(builders.into_iter().take(room));
    }

    /// Takes note that a log's writer has a clock that is ahead; whether that is new.
    pub(crate) fn is_first_ahead(&mut self, slot: usize) -> bool {
        !std::mem::replace(&mut self.logs[slot].is_ahead, true)
    }

    /// Queues another node's batch, which continues the log.
    pub(crate) fn push_batch(&mut self, slot: usize, batch: Batch) {
        self.announce(slot);
        let log = &mut self.logs[slot];
        debug_assert_eq!(log.sealed, Some(Head { next_seq: batch.first_seq(), digest: batch.header().previous }));
        log.next_seq = batch.next_seq();
        log.sealed = Some(batch.head());
        self.bytes += batch.bytes().len();
        self.items.push(Item::Batch { slot, batch });
    }

    /// Queues what leaves the head of its log as it is.
    pub(crate) fn push_out_of_order(&mut self, slot: usize, entry: FrameEntry) {
        self.announce(slot);
        self.bytes += entry.bytes().len();
        self.items.push(Item::OutOfOrder { slot, entry });
    }

    /// Takes what is queued as the group in flight and begins the next one.
    pub(crate) fn take(&mut self) -> (Arc<Group>, Vec<Item>) {
        debug_assert!(self.in_flight.is_none(), "one group is written at a time");
        let group = self.renew();
        self.in_flight = Some(Arc::clone(&group));
        self.bytes = 0;
        self.nudged = false;
        for item in &self.items {
            if let Item::Open { slot, .. } = item {
                let log = &mut self.logs[*slot];
                log.sealed = None;
                log.unsealed.clear();
            }
        }
        (group, mem::take(&mut self.items))
    }

    fn renew(&mut self) -> Arc<Group> {
        let next = Group::new(self.filling.number + 1);
        mem::replace(&mut self.filling, next)
    }

    /// Takes note that the group in flight is durable.
    pub(crate) fn finish_in_flight(&mut self) {
        let group = self.in_flight.take();
        for (slot, head) in group.iter().filter_map(|group| group.sealed.get()).flatten() {
            self.logs[*slot].sealed.get_or_insert(*head);
        }
    }

    /// Has `waker` woken once what is awaited of the group has come, or to lead it.
    pub(crate) fn register(&mut self, group: &Group, awaited: Awaited, waker: &Waker) {
        let group = group.number;
        let known =
            |waiter: &Waiter| (waiter.group, waiter.awaited) == (group, awaited) && waiter.waker.will_wake(waker);
        if !self.waiters.iter().rev().take(64).any(known) {
            self.waiters.push(Waiter { group, awaited, waker: waker.clone() });
        }
    }

    /// Takes those who wait for the outcome of a group that is durable, and one who can lead the next.
    pub(crate) fn take_waiters(&mut self, done: u64) -> Vec<Waker> {
        let concerned: Vec<_> = self.waiters.extract_if(.., |waiter| waiter.group <= done).collect();
        self.is_shared = concerned.len() > 1;
        let told = concerned.into_iter().filter(|waiter| waiter.awaited == Awaited::Outcome);
        let mut woken: Vec<_> = told.map(|waiter| waiter.waker).collect();
        if !self.items.is_empty() && !self.waiters.is_empty() {
            woken.push(self.waiters.swap_remove(0).waker);
        }
        woken
    }

    /// Whether who is about to lead should first let others append: said once for a group.
    pub(crate) fn take_shared(&mut self) -> bool {
        mem::take(&mut self.is_shared)
    }

    /// Fails the group in flight and the one being filled: their records are gone from the queue,
    /// and the logs go on where `head_at` says that they durably end.
    pub(crate) fn fail_all(&mut self, error: &AppendError, head_at: impl Fn(usize) -> Option<Head>) -> Vec<Waker> {
        self.items.clear();
        self.bytes = 0;
        let last = self.renew();
        for group in self.in_flight.take().into_iter().chain([last]) {
            // A group is failed or finished once, by the one who leads.
            let _ = group.outcome.set(Err(error.clone()));
        }
        for (slot, log) in self.logs.iter_mut().enumerate() {
            let head = head_at(slot);
            log.announced = head.is_some();
            let head = head.unwrap_or_else(|| log.genesis.head());
            (log.next_seq, log.sealed, log.open) = (head.next_seq, Some(head), None);
            log.unsealed.clear();
        }
        self.waiters.drain(..).map(|waiter| waiter.waker).collect()
    }
}

impl Item {
    /// The slot of its log.
    pub(crate) fn slot(&self) -> usize {
        match self {
            Self::Announcement { slot, .. }
            | Self::Open { slot, .. }
            | Self::Batch { slot, .. }
            | Self::OutOfOrder { slot, .. } => *slot,
        }
    }

    /// Whether another record is taken into the open batch: until it has reached its size.
    ///
    /// It ends a little above the size rather than below: BLAKE3 takes 6.1 µs for 8,117 bytes, whose last
    /// 1 KiB chunk is not whole, and 2.2 µs for 8,320, of which eight whole chunks are hashed at once.
    fn has_room(&self, body_len: usize, batch_bytes: usize) -> bool {
        match self {
            Self::Open { builder, .. } => HEADER_LEN + builder.body_len() < batch_bytes && body_len <= batch_bytes,
            _ => false,
        }
    }
}
