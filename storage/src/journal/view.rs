//! What readers see: the logs, where their batches are, and the newest batches themselves.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    task::Waker,
};

use foldhash::fast::RandomState;

use super::{
    digests::Digests,
    frame::{Frame, FrameEntry},
    index::{Footer, LogRow, RunLinks, SegmentIndex},
    watch::Signal,
};
use crate::{
    batch::Batch,
    genesis::Genesis,
    ids::{Arrival, Head, LogId, SegmentNumber, SpaceName},
    time::Hlc,
    vfs::VfsFile,
};

/// About what a log takes in a footer besides its genesis, in bytes.
const LOG_ROW_BYTES: u64 = 200;

/// A footer lists all logs when that takes at most one byte in so many written since.
const ALL_LOGS_RATIO: u64 = 16;

/// A log as far as it is durable.
#[derive(Debug, Clone)]
pub(crate) struct LogState {
    pub(crate) id: LogId,
    pub(crate) row: LogRow,
    signal: Arc<Signal>,
    /// Its run in the segment that grows, if it was begun there.
    run: Option<(SegmentNumber, u32)>,
}

/// The logs of one space.
#[derive(Debug, Default)]
pub(crate) struct SpaceState {
    pub(crate) logs: Vec<LogId>,
    pub(crate) signal: Arc<Signal>,
}

/// A segment that is no longer written.
#[derive(Debug, Clone)]
pub(crate) struct SealedSegment {
    pub(crate) number: SegmentNumber,
    pub(crate) first_arrival: Arrival,
    /// Where its frames end.
    pub(crate) end: u64,
    /// The index, while no durable footer stands in for it.
    pub(crate) pinned: Option<Arc<SegmentIndex>>,
}

/// The segment that grows.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) number: SegmentNumber,
    pub(crate) first_arrival: Arrival,
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) index: SegmentIndex,
    /// Logs announced in it.
    pub(crate) announced: HashSet<LogId>,
    /// Where its durable frames end.
    pub(crate) end: u64,
}

#[derive(Debug)]
struct RingBatch {
    arrival: Arrival,
    /// Its length, in bytes: whoever evicts it need not look at it, which has long left the processor's caches.
    len: u32,
    batch: Batch,
}

/// The newest batches, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Ring {
    batches: VecDeque<RingBatch>,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, bytes_max }
    }

    fn push(&mut self, arrival: Arrival, batch: Batch) {
        let len = batch.bytes().len() as u32;
        self.bytes += len as usize;
        self.batches.push_back(RingBatch { arrival, len, batch });
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= oldest.len as usize;
        }
    }

    /// The batch with this arrival number, if it is still here.
    pub(crate) fn batch(&self, arrival: Arrival) -> Option<&Batch> {
        let index = self.batches.binary_search_by_key(&arrival, |kept| kept.arrival).ok()?;
        Some(&self.batches[index].batch)
    }
}

/// What readers see. Everything in it is durable.
#[derive(Debug)]
pub(crate) struct View {
    /// By slot; none where a log has been queued but is not durable.
    logs: Vec<Option<LogState>>,
    slots: HashMap<LogId, usize, RandomState>,
    /// Digests being computed of the last frame. While there are, the heads of its logs are not complete.
    pub(crate) digests: Option<Arc<Digests>>,
    pub(crate) spaces: BTreeMap<SpaceName, SpaceState>,
    /// Raised by every change.
    pub(crate) signal: Arc<Signal>,
    /// Ascending by number.
    pub(crate) sealed: Vec<SealedSegment>,
    /// None until the first segment is made.
    pub(crate) active: Option<ActiveSegment>,
    pub(crate) ring: Ring,
    pub(crate) next_arrival: Arrival,
    /// Bytes of all batches.
    pub(crate) bytes: u64,
    /// About what a footer of all logs takes, in bytes.
    rows_bytes: u64,
    /// Bytes of segments sealed since a footer last listed all logs.
    pub(crate) bytes_since_all_logs: u64,
}

impl View {
    pub(crate) fn new(ring_bytes: usize) -> Self {
        Self {
            logs: Vec::new(),
            slots: HashMap::default(),
            digests: None,
            spaces: BTreeMap::new(),
            signal: Arc::default(),
            sealed: Vec::new(),
            active: None,
            ring: Ring::new(ring_bytes),
            next_arrival: Arrival::ZERO,
            bytes: 0,
            rows_bytes: 0,
            bytes_since_all_logs: 0,
        }
    }

    /// A log by its name.
    pub(crate) fn log(&self, log: LogId) -> Option<&LogState> {
        self.log_at(*self.slots.get(&log)?)
    }

    fn log_at(&self, slot: usize) -> Option<&LogState> {
        self.logs.get(slot)?.as_ref()
    }

    /// All logs, ascending by slot.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &LogState> {
        self.logs.iter().flatten()
    }

    pub(crate) fn log_count(&self) -> usize {
        self.slots.len()
    }

    /// The head of a log; `None` if nothing of it is durable.
    pub(crate) fn head_at(&self, slot: usize) -> Option<Head> {
        self.log_at(slot).map(|state| state.row.head)
    }

    pub(crate) fn sealed_segment(&self, number: SegmentNumber) -> Option<&SealedSegment> {
        let index = self.sealed.binary_search_by_key(&number, |segment| segment.number).ok()?;
        self.sealed.get(index)
    }

    pub(crate) fn sealed_segment_mut(&mut self, number: SegmentNumber) -> Option<&mut SealedSegment> {
        let index = self.sealed.binary_search_by_key(&number, |segment| segment.number).ok()?;
        self.sealed.get_mut(index)
    }

    /// The signal of a space, which need not have logs yet.
    pub(crate) fn space_signal(&mut self, space: &SpaceName) -> Arc<Signal> {
        Arc::clone(&self.spaces.entry(space.clone()).or_default().signal)
    }

    /// Adds or replaces a log as a footer describes it.
    pub(crate) fn restore_log(&mut self, id: LogId, row: LogRow) {
        match self.slots.get(&id).and_then(|slot| self.logs[*slot].as_mut()) {
            Some(state) => {
                self.bytes = self.bytes - state.row.bytes + row.bytes;
                state.row = row;
            }
            None => self.insert_log(id, row, self.logs.len()),
        }
    }

    fn insert_log(&mut self, id: LogId, row: LogRow, slot: usize) {
        self.bytes += row.bytes;
        self.rows_bytes += LOG_ROW_BYTES + row.genesis.encode().len() as u64;
        let space = self.spaces.entry(row.genesis.space.clone()).or_default();
        space.logs.push(id);
        let signal = Arc::clone(&space.signal);
        if self.logs.len() <= slot {
            self.logs.resize_with(slot + 1, || None);
        }
        self.logs[slot] = Some(LogState { id, row, signal, run: None });
        self.slots.insert(id, slot);
    }

    fn add_log(&mut self, genesis: &Genesis, slot: Option<usize>) {
        let id = genesis.log_id();
        if let Some(active) = &mut self.active {
            active.announced.insert(id);
        }
        if !self.slots.contains_key(&id) {
            let row = LogRow {
                head: genesis.head(),
                genesis: Arc::new(genesis.clone()),
                last_time: Hlc::ZERO,
                bytes: 0,
                links: RunLinks::default(),
            };
            self.insert_log(id, row, slot.unwrap_or(self.logs.len()));
        }
    }

    /// Takes the active segment out of use: it ends here. Returns the footer that it should get.
    ///
    /// The footer lists all logs, not only those of the segment, once that costs little beside the
    /// bytes written since one last did.
    pub(crate) fn seal_active(&mut self) -> Option<(SegmentNumber, Footer)> {
        let active = self.active.take()?;
        let number = active.number;
        self.bytes_since_all_logs += active.end;
        let all_logs = self.rows_bytes * ALL_LOGS_RATIO <= self.bytes_since_all_logs;
        let index = Arc::new(active.index);
        let touched = |state: &LogState| index.links(state.id).is_some() || active.announced.contains(&state.id);
        let chosen = self.logs().filter(|state| all_logs || touched(state));
        let mut rows: Vec<_> = chosen.map(|state| (state.id, state.row.clone())).collect();
        rows.sort_unstable_by_key(|(log, _)| *log);
        if all_logs {
            self.bytes_since_all_logs = 0;
        }
        self.sealed.push(SealedSegment {
            number,
            first_arrival: active.first_arrival,
            end: active.end,
            pinned: Some(Arc::clone(&index)),
        });
        Some((number, Footer { all_logs, rows, index }))
    }

    /// Adds a durable frame that lies at `offset` of the active segment, as it was read from there.
    ///
    /// Batches that don't continue their log here (a hole before them) are added all the same: the
    /// lookup finds the hole.
    pub(crate) fn apply(&mut self, frame: Frame, offset: u64) {
        self.apply_entries(frame, None, offset, |_| {});
    }

    /// The same for a frame that was written here, with the slots of its entries' logs. Raises the signals
    /// of those whom it concerns; who is to be woken is added to `wakers`.
    pub(crate) fn publish(&mut self, frame: Frame, slots: &[usize], offset: u64, wakers: &mut Vec<Waker>) {
        let mut last: Option<*const Signal> = None;
        self.apply_entries(frame, Some(slots), offset, |state| {
            let signal = Arc::as_ptr(&state.signal);
            if last != Some(signal) {
                last = Some(signal);
                state.signal.raise(wakers);
            }
        });
        self.signal.raise(wakers);
    }

    fn apply_entries(
        &mut self,
        frame: Frame,
        slots: Option<&[usize]>,
        offset: u64,
        mut touched: impl FnMut(&LogState),
    ) {
        let end = offset + u64::from(frame.header.len);
        let mut place = (frame.header.first_arrival, offset + frame.header.entries_offset() as u64);
        for (index, entry) in frame.entries.into_iter().enumerate() {
            let slot = slots.map(|slots| slots[index]);
            let len = entry.bytes().len() as u64;
            let slot = match entry {
                FrameEntry::Announcement(announcement) => {
                    self.add_log(&announcement.genesis, slot);
                    slot.or_else(|| self.slots.get(&announcement.genesis.log_id()).copied())
                }
                FrameEntry::Batch(batch) => {
                    let slot = slot.or_else(|| self.slots.get(&batch.log()).copied());
                    self.apply_batch(batch, slot, place);
                    place.0.0 += 1;
                    slot
                }
                FrameEntry::Lost(lost) => {
                    place.0.0 += u64::from(lost.takes_arrival);
                    None
                }
            };
            place.1 += len;
            if let Some(state) = slot.and_then(|slot| self.log_at(slot)) {
                touched(state);
            }
        }
        self.next_arrival = self.next_arrival.max(place.0);
        if let Some(active) = &mut self.active {
            active.end = end;
        }
    }

    fn apply_batch(&mut self, batch: Batch, slot: Option<usize>, (arrival, offset): (Arrival, u64)) {
        let state = slot.and_then(|slot| self.logs.get_mut(slot)?.as_mut());
        let (Some(state), Some(active)) = (state, &mut self.active) else {
            // Its announcement is in a range that was lost; without a genesis it belongs to nobody.
            tracing::warn!(log = %batch.log(), "a batch of a log that was never announced is not served");
            return;
        };
        let header = batch.header();
        let len = batch.bytes().len();
        let run = match state.run.filter(|(segment, _)| *segment == active.number) {
            Some((_, run)) => run,
            None => {
                state.row.links = state.row.links.next(active.number, header.first_seq);
                let run = active.index.begin_run(batch.log(), state.row.links.clone());
                state.run = Some((active.number, run));
                run
            }
        };
        active.index.push(run, header.first_seq, header.record_count, arrival, offset, len as u32);
        state.row.head.next_seq = header.next_seq();
        // Those that are not known yet while digests are being computed are among them.
        if self.digests.is_none() {
            state.row.head.digest = batch.digest();
        } else if let Some(digest) = batch.known_digest() {
            state.row.head.digest = digest;
        }
        state.row.last_time = state.row.last_time.max(header.time);
        state.row.bytes += len as u64;
        self.bytes += len as u64;
        self.ring.push(arrival, batch);
    }

    /// Takes the digests of the last frame, which are all computed.
    pub(crate) fn take_digests(&mut self, digests: &Arc<Digests>) {
        if self.digests.take_if(|known| Arc::ptr_eq(known, digests)).is_none() {
            return;
        }
        for (slot, batch) in digests.finish() {
            if let Some(Some(state)) = self.logs.get_mut(*slot)
                && state.row.head.next_seq == batch.next_seq()
            {
                state.row.head.digest = batch.digest();
            }
        }
    }

    /// Raises all signals there are.
    pub(crate) fn raise_all(&self, wakers: &mut Vec<Waker>) {
        self.spaces.values().for_each(|space| space.signal.raise(wakers));
        self.signal.raise(wakers);
    }
}
