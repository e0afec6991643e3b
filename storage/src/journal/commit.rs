//! Group commit: whoever waits may lead, write all that is queued, flush once, and wake those concerned.
//!
//! Source: the idea is as old as IMS Fast Path (D. Gawlick, D. Kinkade, 1985); the leader among the
//! waiters is how `MySQL`'s binary log and `RocksDB` do it.

use std::{
    mem,
    path::PathBuf,
    sync::{Arc, PoisonError},
    task::{Poll, Waker},
    time::Instant,
};

use super::{
    Options,
    digests::{Digests, Hasher},
    error::AppendError,
    fill::{Filler, SealJob},
    frame::FrameKind,
    holes_file::RecordedHoles,
    life::Lifetimes,
    queue::{self, Awaited, Group, Queue, QueueState, SealedHead},
    read::{BatchCache, IndexCache},
    retention::Retention,
    seal::Sealed,
    segment::FRAMES_OFFSET,
    tail::{NewSegment, Tail, WriteError, Written},
    view::{ActiveSegment, View},
    watch::Parker,
};
use crate::{
    ids::SegmentNumber,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, thread},
    vfs::VfsLock,
};

/// A last segment that reaches this part of the largest size gets a footer at a clean close, and is
/// not written again.
const SEAL_AT_CLOSE_PART: u64 = 16;

/// From so many entries on, of at most so many logs, a commit is part of a bulk load.
const BULK_ENTRIES_MIN: usize = 8;
const BULK_LOGS_MAX: usize = 8;

/// When so many bytes are queued the background committer is told at once.
pub(crate) const NUDGE_BYTES: usize = 1 << 20;

/// What all handles of a journal share.
///
/// The tail is locked by the leader only, who holds no other lock when taking it, and may take the
/// queue, the view or the cache for a moment while holding it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) queue: Mutex<Queue>,
    /// Told when the queue has been taken, or nothing can be queued any more.
    pub(crate) room: Condvar,
    /// Tells the background committer that there is work.
    pub(crate) work: Condvar,
    /// None when opened to read only.
    pub(crate) tail: Mutex<Option<Tail>>,
    pub(crate) view: RwLock<View>,
    pub(crate) cache: Mutex<IndexCache>,
    pub(crate) batches: BatchCache,
    pub(crate) retention: Retention,
    /// None without background threads.
    pub(crate) filler: Option<Arc<Filler>>,
    /// None without background threads.
    pub(crate) hasher: Option<Hasher>,
    /// Footers to be written by the next who leads, where there is no thread for it.
    pub(crate) seals: Mutex<Vec<SealJob>>,
    /// Held until the journal is closed.
    pub(crate) lock: Mutex<Option<Box<dyn VfsLock>>>,
    /// Held while damaged batches are written anew where they stand: no segment may be given up meanwhile. Taken
    /// before any other lock.
    pub(crate) mending: Mutex<()>,
    /// What the file of holes says; none if it can't be read. Taken after `lock`.
    pub(crate) recorded_holes: Mutex<Option<RecordedHoles>>,
}

/// Takes a lock whatever became of a thread that held it: what it guards is consistent at every point
/// where a panic could have left it, since panics are our bugs and no partial state is published.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        locked(&self.queue)
    }

    /// What readers see, with all heads complete.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        loop {
            let view = self.view_without_digests();
            if view.digests.is_none() {
                return view;
            }
            drop(view);
            self.finish_digests();
        }
    }

    /// The same, where nobody asks for the digests of heads.
    pub(crate) fn view_without_digests(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes what is left of the digests of the last frame, and completes the heads of its logs.
    pub(crate) fn finish_digests(&self) {
        let digests = self.view_without_digests().digests.clone();
        if let Some(digests) = digests {
            digests.finish();
            self.view_mut().take_digests(&digests);
        }
    }

    pub(crate) fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, IndexCache> {
        locked(&self.cache)
    }

    /// Waits until the queue has room, or says why nothing can be queued. Meanwhile full batches of the log
    /// in `slot` are sealed, so that the one who leads need not.
    pub(crate) fn make_room<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
        slot: Option<usize>,
        wait: bool,
    ) -> Result<MutexGuard<'a, Queue>, AppendError> {
        loop {
            if let Some(refusal) = queue.refusal() {
                return Err(refusal);
            }
            let queue_bytes = self.options.queue_bytes;
            if queue.bytes < queue_bytes {
                return Ok(queue);
            }
            if !wait {
                return Err(AppendError::WouldBlock { queue_bytes });
            }
            queue = if queue.in_flight.is_none() {
                self.lead(queue)
            } else if slot.is_some_and(|slot| queue.seal_waiting(slot)) {
                drop(queue);
                self.queue()
            } else {
                queue.waiting_for_room += 1;
                let mut queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.waiting_for_room -= 1;
                queue
            };
        }
    }

    /// After something was queued: has it committed in time, and tells at once if there is no space.
    pub(crate) fn queued(&self, mut queue: MutexGuard<'_, Queue>) -> Result<Arc<Group>, AppendError> {
        let group = Arc::clone(&queue.filling);
        if queue.full && queue.in_flight.is_none() {
            drop(self.lead(queue));
            return match group.outcome.get() {
                Some(Err(error)) => Err(error.clone()),
                _ => Ok(group),
            };
        }
        let many = queue.bytes >= NUDGE_BYTES && !queue.nudged;
        if many || queue.committer_sleeps {
            queue.nudged |= many;
            self.work.notify_one();
        }
        Ok(group)
    }

    /// Waits until `group` is done, or `deadline`; `None` at the deadline.
    pub(crate) fn wait_for(&self, group: &Group, deadline: Option<Instant>) -> Option<Result<(), AppendError>> {
        let mut parker: Option<(Arc<Parker>, Waker)> = None;
        let mut queue = self.queue();
        loop {
            if let Some(outcome) = group.outcome.get() {
                return Some(outcome.clone());
            }
            if queue.in_flight.is_none() {
                queue = self.lead_together(queue);
                continue;
            }
            let (parker, waker) = parker.get_or_insert_with(|| {
                let parker = Parker::new();
                (Arc::clone(&parker), Waker::from(parker))
            });
            queue.register(group, Awaited::Outcome, waker);
            drop(queue);
            let is_woken = parker.park_until(deadline);
            // Without the lock, which all who are woken together would wait for.
            if let Some(outcome) = group.outcome.get() {
                return Some(outcome.clone());
            }
            if !is_woken {
                return None;
            }
            queue = self.queue();
        }
    }

    /// Has `group` committed, by this thread if nobody else leads, and does not wait for one who does: ready once the
    /// group is done; else `waker` is woken if it fails, or to call this again.
    pub(crate) fn lead_or_watch(&self, group: &Group, waker: &Waker) -> Poll<Result<(), AppendError>> {
        let mut queue = self.queue();
        loop {
            if let Some(outcome) = group.outcome.get() {
                return Poll::Ready(outcome.clone());
            }
            if queue.in_flight.is_some() {
                queue.register(group, Awaited::Failure, waker);
                return Poll::Pending;
            }
            queue = self.lead_together(queue);
        }
    }

    /// Commits what is queued, unless others who can lead append first: who were woken together come back together, and
    /// the first of them would flush for itself alone while all others wait for the next flush.
    fn lead_together<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        if !queue.take_shared() {
            return self.lead(queue);
        }
        drop(queue);
        thread::yield_now();
        self.queue()
    }

    /// Has the background committer commit `group`: ready once it is done; else `waker` is woken once what is awaited
    /// has come.
    pub(crate) fn poll_committed(
        &self,
        group: &Group,
        awaited: Awaited,
        waker: &Waker,
    ) -> Poll<Result<(), AppendError>> {
        if let Some(outcome) = group.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        let mut queue = self.queue();
        if let Some(outcome) = group.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        queue.register(group, awaited, waker);
        if queue.filling.number == group.number && !queue.nudged {
            queue.nudged = true;
            self.work.notify_one();
        }
        Poll::Pending
    }

    /// Commits what is queued. Nobody else may be leading.
    pub(crate) fn lead<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let (group, items) = queue.take();
        let is_awaited = queue.waiting_for_room > 0;
        drop(queue);
        if is_awaited {
            // A system call, also where nobody waits.
            self.room.notify_all();
        }
        let result = if items.is_empty() { Ok(()) } else { self.write(FrameKind::Commit, items, &group.sealed) };
        let mut queue = self.queue();
        let wakers = match result {
            Ok(()) => {
                queue.finish_in_flight();
                queue.full = false;
                // A group is failed or finished once, by the one who leads.
                let _ = group.outcome.set(Ok(()));
                queue.take_waiters(group.number)
            }
            Err(error) => self.fail(&mut queue, &error),
        };
        if queue.nudged && !queue.is_empty() {
            self.work.notify_one();
        }
        self.done(queue, wakers);
        self.queue()
    }

    /// Wakes those concerned once nobody leads any more.
    fn done(&self, queue: MutexGuard<'_, Queue>, wakers: Vec<Waker>) {
        let is_awaited = queue.waiting_for_room > 0;
        drop(queue);
        if is_awaited {
            // The queue was filled again meanwhile, and perhaps nobody but those who wait for room will lead.
            self.room.notify_one();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    fn fail(&self, queue: &mut Queue, error: &WriteError) -> Vec<Waker> {
        let error = match error {
            WriteError::Full => {
                queue.full = true;
                AppendError::StorageFull
            }
            WriteError::Disk(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "the disk failed: appends are refused from here on");
                queue.state = QueueState::Poisoned(error.clone());
                AppendError::Poisoned { error: error.clone() }
            }
        };
        let view = self.view();
        let mut wakers = queue.fail_all(&error, |slot| view.head_at(slot));
        view.raise_all(&mut wakers);
        drop(view);
        self.room.notify_all();
        wakers
    }

    /// Writes one frame and publishes it. In a bulk load `sealed_heads` is told where the logs end.
    fn write(
        &self,
        kind: FrameKind,
        items: Vec<queue::Item>,
        sealed_heads: &OnceLock<Vec<SealedHead>>,
    ) -> Result<(), WriteError> {
        let mut tail = locked(&self.tail);
        let Some(tail) = tail.as_mut() else { return Err(WriteError::Full) };
        let heads: Vec<_> = {
            let view = self.view();
            items.iter().map(|item| view.head_at(item.slot())).collect()
        };
        let mut sealed = tail.sealer.seal(items, &heads);
        // In a bulk load those who append seal their batches themselves: they are told at once where
        // the log ends.
        let is_bulk = sealed.last.len() <= BULK_LOGS_MAX && sealed.entries.len() >= BULK_ENTRIES_MIN;
        if is_bulk {
            // A group is sealed once, by the one who leads.
            let _ = sealed_heads.set(sealed.heads());
            // Who waits for room can seal meanwhile.
            self.room.notify_all();
        }
        let digests = self.begin_digests(&sealed);
        let written = tail.write(kind, mem::take(&mut sealed.entries), &sealed.pieces)?;
        let has_begun = written.begun.is_some();
        self.publish(written, &sealed.slots, digests);
        if !sealed.builders.is_empty() {
            self.queue().reuse(sealed.builders);
        }
        if has_begun && !tail.has_extent {
            record_extent(tail);
        }
        self.write_footers(tail);
        Ok(())
    }

    /// Has the digests of a frame of many batches computed while it is written and flushed.
    fn begin_digests(&self, sealed: &Sealed) -> Option<Arc<Digests>> {
        let hasher = self.hasher.as_ref()?;
        let digests = Digests::of_many(&sealed.entries, &sealed.slots)?;
        hasher.begin(Arc::clone(&digests));
        Some(digests)
    }

    /// Makes a durable frame visible to readers. The heads of its logs are complete once `digests` are.
    fn publish(&self, written: Written, slots: &[usize], digests: Option<Arc<Digests>>) {
        let Written { frame, offset, begun } = written;
        let mut wakers = Vec::new();
        let mut view = self.view_mut();
        let holes_changed = view.holes_changed;
        let seal_job = begun.and_then(|segment| begin_active(&mut view, segment));
        view.digests = digests;
        if frame.header.kind == FrameKind::Commit {
            view.publish(frame, slots, offset, &mut wakers);
        } else {
            view.apply(frame, offset);
        }
        let has_filled = view.holes_changed != holes_changed;
        drop(view);
        if has_filled {
            self.record_holes();
        }
        if let Some(job) = seal_job {
            match &self.filler {
                Some(filler) => filler.seal(job),
                None => locked(&self.seals).push(job),
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Without a background thread, footers are written by whoever leads.
    fn write_footers(&self, tail: &Tail) {
        let jobs = mem::take(&mut *locked(&self.seals));
        for job in jobs {
            match job.run(&tail.raising, &*tail.vfs, &tail.dir) {
                Ok(()) => self.footer_written(job.number),
                Err(error) => tracing::warn!(segment = %job.number, %error, "writing a footer failed"),
            }
        }
    }

    /// A durable footer stands in for the index in memory.
    pub(crate) fn footer_written(&self, number: SegmentNumber) {
        if let Some(segment) = self.view_mut().sealed_segment_mut(number) {
            segment.pinned = None;
        }
    }

    /// Writes a mark whatever came before it, while nobody else can write.
    pub(crate) fn force_mark(&self) -> Result<(), WriteError> {
        self.write(FrameKind::Mark, Vec::new(), &OnceLock::new())
    }

    /// Writes a mark if the last frame is not proven durable by a later one; whether it did.
    pub(crate) fn mark(&self, kind: FrameKind) -> Result<bool, AppendError> {
        let mut queue = self.queue();
        let wanted = !queue.closing || kind == FrameKind::ClosingMark;
        if queue.in_flight.is_some() || !queue.is_empty() || !wanted || !matches!(queue.state, QueueState::Open) {
            return Ok(false);
        }
        let needed = |tail: &Tail| tail.position().is_some() && (tail.uncovered || kind == FrameKind::ClosingMark);
        if !locked(&self.tail).as_ref().is_some_and(needed) {
            return Ok(false);
        }
        let (group, _) = queue.take();
        drop(queue);
        let result = self.write(kind, Vec::new(), &group.sealed);
        let mut queue = self.queue();
        let (outcome, wakers) = match result {
            // A mark that finds no space proves nothing and breaks nothing.
            Ok(()) | Err(WriteError::Full) => {
                queue.finish_in_flight();
                let _ = group.outcome.set(Ok(()));
                (Ok(result.is_ok()), queue.take_waiters(group.number))
            }
            Err(error) => {
                let wakers = self.fail(&mut queue, &error);
                (queue.refusal().map_or(Ok(false), Err), wakers)
            }
        };
        self.done(queue, wakers);
        outcome
    }

    /// Refuses further appends and tells the background committer, if there is one, to finish.
    pub(crate) fn begin_closing(&self) {
        self.queue().closing = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Commits what is queued and writes the closing mark; after [`begin_closing`](Self::begin_closing).
    pub(crate) fn finish_closing(&self) {
        // What the disk did not take when it was found.
        self.record_holes();
        let mut queue = self.queue();
        while !queue.is_empty() || queue.in_flight.is_some() {
            let group = Arc::clone(queue.in_flight.as_ref().unwrap_or(&queue.filling));
            drop(queue);
            let outcome = self.wait_for(&group, None);
            queue = self.queue();
            if let Some(Err(error)) = outcome {
                queue.close_error = Some(error);
            }
        }
        let open = matches!(queue.state, QueueState::Open);
        drop(queue);
        if open && let Ok(is_marked) = self.mark(FrameKind::ClosingMark) {
            if let Some(tail) = locked(&self.tail).as_mut() {
                record_extent(tail);
                // Where the mark found no space, a footer would stand behind a frame that nothing proves, like a torn one.
                if is_marked {
                    self.seal_last(tail);
                }
            }
            self.queue().state = QueueState::Closed;
        }
        self.raise_all();
    }

    /// Wakes all who watch.
    pub(crate) fn raise_all(&self) {
        let mut wakers = Vec::new();
        self.view_without_digests().raise_all(&mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Gives a large last segment its footer at a clean close, so that opening need not read it.
    fn seal_last(&self, tail: &Tail) {
        let large = self.options.segment_bytes_max / SEAL_AT_CLOSE_PART + FRAMES_OFFSET;
        let Some((number, _)) = tail.position().filter(|(_, end)| *end >= large) else { return };
        self.finish_digests();
        let job = end_active(&mut self.view_mut(), SegmentNumber(number.0 + 1));
        if let Some(Err(error)) = job.map(|job| job.write_footer()) {
            tracing::warn!(segment = %number, %error, "writing a footer failed");
        }
    }

    /// Asks the tail, once nobody leads; none when opened to read only.
    pub(crate) fn with_tail<T>(&self, ask: impl FnOnce(&Tail) -> T) -> Option<T> {
        locked(&self.tail).as_ref().map(ask)
    }

    /// Gives the lock back, so that the store can be opened again.
    pub(crate) fn unlock(&self) {
        drop(locked(&self.lock).take());
    }
}

/// Records how far the journal reaches, as far as the disk lets it.
fn record_extent(tail: &mut Tail) {
    if let Err(error) = tail.record_extent() {
        tracing::warn!(%error, "recording how far the journal reaches failed");
    }
}

/// Makes a segment the one that grows; the footer that the one before it is to get.
pub(crate) fn begin_active(view: &mut View, segment: NewSegment) -> Option<SealJob> {
    if let Some(active) = &mut view.active {
        // Damage at the end is not part of any frame, but of the segment.
        active.end = active.end.max(segment.header.previous_end);
    }
    let sealed = end_active(view, segment.header.number);
    let NewSegment { header, file: new_file } = segment;
    view.active = Some(ActiveSegment {
        number: header.number,
        first_arrival: header.first_arrival,
        file: new_file,
        index: super::index::SegmentIndex::default(),
        noted: std::collections::HashSet::new(),
        end: FRAMES_OFFSET,
    });
    sealed
}

/// Seals the segment that grows, if there is one, whose successor is `next`; the footer that it is to get.
pub(crate) fn end_active(view: &mut View, next: SegmentNumber) -> Option<SealJob> {
    let file = Arc::clone(&view.active.as_ref()?.file);
    let (number, footer) = view.seal_active()?;
    let end = view.sealed_segment(number)?.end;
    Some(SealJob { number, next, end, file, footer })
}
