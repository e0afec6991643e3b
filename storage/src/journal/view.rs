//! What readers see: the logs, where their batches are, and the newest batches themselves.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    task::Waker,
};

use foldhash::fast::RandomState;

use super::{
    digests::Digests,
    error::Place,
    floor::{Floor, FloorEntry},
    frame::{EntryKind, Frame, FrameEntry},
    holes_file::RecordedHoles,
    index::{Footer, LogRow, RunLinks, SegmentIndex},
    log_state::LogState,
    rewrite::{RewriteRange, Rewrites, Rewritten, segments_of},
    ring::Ring,
    watch::Signal,
};
use crate::{
    batch::{Batch, BatchHeader},
    genesis::Genesis,
    holes::Holes,
    ids::{Arrival, Head, LogId, SegmentNumber, Seq, SpaceName},
    time::Hlc,
    vfs::VfsFile,
};

/// About what a log takes in a footer besides its genesis and what was rewritten of it, in bytes.
const LOG_ROW_BYTES: u64 = 270;

/// What a range of rewritten records takes in a footer, in bytes.
const REWRITE_RANGE_BYTES: u64 = 24;

/// Of so many damaged batches it is kept in mind where they stand.
const SLOTS_MAX: usize = 4096;

/// A footer lists all logs when that takes at most one byte in so many written since.
const ALL_LOGS_RATIO: u64 = 16;

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
    /// Logs announced in it, or of which it holds rewritten batches or floors.
    pub(crate) noted: HashSet<LogId>,
    /// Where its durable frames end.
    pub(crate) end: u64,
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
    /// All segments before it have been freed.
    pub(crate) first_segment: SegmentNumber,
    /// Ascending by number.
    pub(crate) sealed: Vec<SealedSegment>,
    /// The sealed segments that hold rewritten batches, with the first and last of their arrival numbers where these are
    /// known.
    pub(crate) rewritten: BTreeMap<SegmentNumber, Option<(Arrival, Arrival)>>,
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
    /// What logs hold was counted from a part of their batches, since no footer of all logs is left: it is to be counted anew.
    pub(crate) is_miscounted: bool,
    /// Counts the holes found and filled since the journal was opened.
    pub(crate) holes_changed: u64,
    /// Batches found damaged while opening, which no index has; at most [`SLOTS_MAX`].
    slots_lost: HashMap<(LogId, Seq), Slot>,
}

/// Where a batch stands that was found damaged while opening.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// As far as it can be read.
    header: BatchHeader,
    pub(crate) arrival: Arrival,
    pub(crate) place: Place,
}

impl View {
    pub(crate) fn new(ring_bytes: usize) -> Self {
        Self {
            logs: Vec::new(),
            slots: HashMap::default(),
            digests: None,
            spaces: BTreeMap::new(),
            signal: Arc::default(),
            first_segment: SegmentNumber::ZERO,
            sealed: Vec::new(),
            rewritten: BTreeMap::new(),
            active: None,
            ring: Ring::new(ring_bytes),
            next_arrival: Arrival::ZERO,
            bytes: 0,
            rows_bytes: 0,
            bytes_since_all_logs: 0,
            is_miscounted: false,
            holes_changed: 0,
            slots_lost: HashMap::new(),
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

    /// Whether the file of a segment is there.
    pub(crate) fn has_segment(&self, number: SegmentNumber) -> bool {
        self.active.as_ref().is_some_and(|active| active.number == number) || self.sealed_segment(number).is_some()
    }

    pub(crate) fn sealed_segment_mut(&mut self, number: SegmentNumber) -> Option<&mut SealedSegment> {
        let index = self.sealed.binary_search_by_key(&number, |segment| segment.number).ok()?;
        self.sealed.get_mut(index)
    }

    /// The signal of a space, which need not have logs yet.
    pub(crate) fn space_signal(&mut self, space: &SpaceName) -> Arc<Signal> {
        Arc::clone(&self.spaces.entry(space.clone()).or_default().signal)
    }

    /// Adds or replaces logs as the footer of a segment describes them; footers come in the order of their segments.
    pub(crate) fn restore(&mut self, segment: SegmentNumber, footer: Footer) {
        let Footer { all_logs, rows, index } = footer;
        for (id, row) in rows {
            self.restore_log(id, row, all_logs);
        }
        if let Some(arrivals) = index.rewritten_arrivals() {
            self.rewritten.insert(segment, Some(arrivals));
        }
        if all_logs {
            for segment in segments_of(self.logs.iter().flatten().map(|state| &state.row.rewrites)) {
                self.rewritten.entry(segment).or_default();
            }
            return;
        }
        for (log, entry) in index.rewritten() {
            self.note_rewritten(log, RewriteRange { first_seq: entry.first_seq, next_seq: entry.next_seq(), segment });
        }
    }

    fn restore_log(&mut self, id: LogId, row: LogRow, has_rewrites: bool) {
        match self.slots.get(&id).and_then(|slot| self.logs[*slot].as_mut()) {
            Some(state) => {
                self.bytes = self.bytes - state.row.bytes + row.bytes;
                let known = std::mem::replace(&mut state.row, row);
                if has_rewrites {
                    self.rows_bytes -= rewrites_bytes(&known.rewrites);
                    self.rows_bytes += rewrites_bytes(&state.row.rewrites);
                } else {
                    state.row.rewrites = known.rewrites;
                    let floor = state.row.floor.head.next_seq;
                    self.rows_bytes -= rewrites_bytes(&state.row.rewrites);
                    state.row.rewrites.trim(floor);
                    self.rows_bytes += rewrites_bytes(&state.row.rewrites);
                }
            }
            None => self.insert_log(id, row, self.logs.len()),
        }
    }

    /// These records of a log are to be read from rewritten batches in that segment from now on.
    fn note_rewritten(&mut self, log: LogId, range: RewriteRange) {
        let Some(Some(state)) = self.slots.get(&log).map(|slot| self.logs[*slot].as_mut()) else { return };
        self.rows_bytes -= rewrites_bytes(&state.row.rewrites);
        state.row.rewrites.insert(range);
        self.rows_bytes += rewrites_bytes(&state.row.rewrites);
    }

    fn insert_log(&mut self, id: LogId, row: LogRow, slot: usize) {
        self.bytes += row.bytes;
        self.rows_bytes += LOG_ROW_BYTES + row.genesis.encode().len() as u64 + rewrites_bytes(&row.rewrites);
        let space = self.spaces.entry(row.genesis.space.clone()).or_default();
        space.logs.push(id);
        let signal = Arc::clone(&space.signal);
        if self.logs.len() <= slot {
            self.logs.resize_with(slot + 1, || None);
        }
        self.logs[slot] = Some(LogState { id, row, signal, run: None, holes: Holes::default() });
        self.slots.insert(id, slot);
    }

    /// Adds a log that was announced in a segment which has been freed since.
    pub(crate) fn add_known(&mut self, genesis: &Genesis) {
        self.add_log(genesis, None, SegmentNumber::ZERO);
    }

    fn announce(&mut self, genesis: &Genesis, slot: Option<usize>) {
        let mut number = SegmentNumber::ZERO;
        if let Some(active) = &mut self.active {
            active.noted.insert(genesis.log_id());
            number = active.number;
        }
        self.add_log(genesis, slot, number);
    }

    fn add_log(&mut self, genesis: &Genesis, slot: Option<usize>, announced_in: SegmentNumber) {
        let id = genesis.log_id();
        if !self.slots.contains_key(&id) {
            let row = LogRow {
                head: genesis.head(),
                genesis: Arc::new(genesis.clone()),
                last_time: Hlc::ZERO,
                bytes: 0,
                links: RunLinks::default(),
                rewrites: Rewrites::default(),
                floor: Floor::of_all(genesis.head()),
                floor_in: SegmentNumber::ZERO,
                announced_in,
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
        let touched = |state: &LogState| index.links(state.id).is_some() || active.noted.contains(&state.id);
        let chosen = self.logs().filter(|state| all_logs || touched(state));
        let mut rows: Vec<_> = chosen.map(|state| (state.id, state.row.clone())).collect();
        rows.sort_unstable_by_key(|(log, _)| *log);
        if all_logs {
            self.bytes_since_all_logs = 0;
        }
        if let Some(arrivals) = index.rewritten_arrivals() {
            self.rewritten.insert(number, Some(arrivals));
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
            let takes_arrival = entry.takes_arrival();
            let slot = match entry {
                FrameEntry::Announcement(announcement) => {
                    self.announce(&announcement.genesis, slot);
                    slot.or_else(|| self.slots.get(&announcement.genesis.log_id()).copied())
                }
                FrameEntry::Batch(batch) => {
                    let slot = slot.or_else(|| self.slots.get(&batch.log()).copied());
                    self.apply_batch(batch, slot, place);
                    place.0.0 += 1;
                    slot
                }
                FrameEntry::Rewritten(rewritten) => {
                    let slot = slot.or_else(|| self.slots.get(&rewritten.batch().log()).copied());
                    self.apply_rewritten(&rewritten, slot, place);
                    place.0.0 += u64::from(rewritten.kept_arrival().is_none());
                    slot
                }
                FrameEntry::Floor(floor) => {
                    let slot = slot.or_else(|| self.slots.get(&floor.log).copied());
                    self.apply_floor(&floor, slot);
                    slot
                }
                FrameEntry::Lost(lost) => {
                    if let Some(header) = lost.header().filter(|_| lost.kind == EntryKind::Batch) {
                        self.lose(header, place);
                    }
                    place.0.0 += u64::from(takes_arrival);
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

    /// Takes note of a batch that is damaged, of which this header is left.
    fn lose(&mut self, header: BatchHeader, (arrival, offset): (Arrival, u64)) {
        if let Some(active) = self.active.as_ref().filter(|_| self.slots_lost.len() < SLOTS_MAX) {
            let place = Place { segment: active.number, offset };
            self.slots_lost.insert((header.log, header.first_seq), Slot { header, arrival, place });
        }
        if let Some(Some(state)) = self.slots.get(&header.log).map(|slot| self.logs[*slot].as_mut()) {
            state.lose(&header);
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
        if state.row.head.next_seq < header.first_seq {
            // What came between was lost, and nothing that may have been said of the log's end before.
            state.holes.take(header.first_seq, Seq(u64::MAX));
            state.holes.add(state.row.head.next_seq, header.first_seq);
            for range in state.row.rewrites.ranges() {
                state.holes.take(range.first_seq, range.next_seq);
            }
        } else if state.holes.take(header.first_seq, header.next_seq()) {
            // It was there once, and its writer has sent it again.
            self.holes_changed += 1;
        }
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
        state.row.last_time = state.row.last_time.max(batch.last_time());
        state.row.bytes += len as u64;
        self.bytes += len as u64;
        self.ring.push(arrival, batch);
    }

    /// Where a batch stands that was found damaged while opening. That it is this one is told by its header, with the
    /// digest of the one before it.
    pub(crate) fn slot_of(&self, batch: &Batch) -> Option<Slot> {
        self.slots_lost.get(&(batch.log(), batch.first_seq())).filter(|slot| slot.header == *batch.header()).copied()
    }

    /// Takes in what was known to be missing of a log, its end included.
    pub(crate) fn restore_holes(&mut self, log: LogId, holes: &Holes) {
        let state = self.slots.get(&log).and_then(|slot| self.logs.get_mut(*slot)?.as_mut());
        if let Some(state) = state {
            for (first_seq, next_seq) in holes.iter() {
                state.holes.add(first_seq, next_seq);
            }
        }
    }

    /// All that is known to be missing, ascending by log.
    pub(crate) fn known_holes(&self) -> RecordedHoles {
        let holed = self.logs().filter(|state| !state.holes.is_empty());
        let mut known: Vec<_> = holed.map(|state| (state.id, state.holes_kept())).collect();
        known.retain(|(_, holes)| !holes.is_empty());
        known.sort_unstable_by_key(|(log, _)| *log);
        known
    }

    /// Adds records that can't be served to what is known to be missing of a log, or takes out what is there again;
    /// whether that was news, which it then tells.
    pub(crate) fn change_holes(
        &mut self,
        log: LogId,
        wakers: &mut Vec<Waker>,
        change: impl FnOnce(&mut Holes) -> bool,
    ) -> bool {
        let state = self.slots.get(&log).and_then(|slot| self.logs.get_mut(*slot)?.as_mut());
        let Some(state) = state else { return false };
        let is_news = change(&mut state.holes);
        if is_news {
            self.holes_changed += 1;
            state.signal.raise(wakers);
            self.signal.raise(wakers);
        }
        is_news
    }

    fn apply_rewritten(&mut self, rewritten: &Rewritten, slot: Option<usize>, (next, offset): (Arrival, u64)) {
        let state = slot.and_then(|slot| self.logs.get_mut(slot)?.as_mut());
        let batch = rewritten.batch();
        let (Some(state), Some(active)) = (state, &mut self.active) else {
            tracing::warn!(log = %batch.log(), "a rewritten batch of a log that was never announced is not served");
            return;
        };
        let header = batch.header();
        active.index.push_rewritten(header, rewritten.kept_arrival().unwrap_or(next), offset);
        active.noted.insert(header.log);
        if header.next_seq() > state.row.head.next_seq {
            // What told that the log reached so far is lost, or was given up.
            state.row.head = batch.head();
            state.row.bytes += batch.bytes().len() as u64;
            self.bytes += batch.bytes().len() as u64;
        }
        state.row.last_time = state.row.last_time.max(batch.last_time());
        if state.holes.take(header.first_seq, header.next_seq()) {
            self.holes_changed += 1;
        }
        let range = RewriteRange { first_seq: header.first_seq, next_seq: header.next_seq(), segment: active.number };
        self.note_rewritten(header.log, range);
    }

    fn apply_floor(&mut self, entry: &FloorEntry, slot: Option<usize>) {
        let state = slot.and_then(|slot| self.logs.get_mut(slot)?.as_mut());
        let (Some(state), Some(active)) = (state, &mut self.active) else {
            tracing::warn!(log = %entry.log, "a floor of a log that was never announced is passed over");
            return;
        };
        active.noted.insert(entry.log);
        let row = &mut state.row;
        if entry.floor.head.next_seq < row.floor.head.next_seq {
            return;
        }
        row.floor_in = active.number;
        row.last_time = row.last_time.max(entry.time);
        let below = entry.floor.bytes.saturating_sub(row.floor.bytes).min(row.bytes);
        row.floor = entry.floor;
        row.bytes -= below;
        self.bytes -= below;
        if row.head.next_seq < row.floor.head.next_seq {
            // Nothing of it is kept, and what told where it ends has been freed.
            row.head = row.floor.head;
        }
        self.rows_bytes -= rewrites_bytes(&row.rewrites);
        row.rewrites.trim(row.floor.head.next_seq);
        self.rows_bytes += rewrites_bytes(&row.rewrites);
    }

    /// Takes segments before `first` out of use; which these are.
    pub(crate) fn free(&mut self, first: SegmentNumber) -> Vec<SealedSegment> {
        self.first_segment = self.first_segment.max(first);
        self.rewritten = self.rewritten.split_off(&first);
        let kept = self.sealed.partition_point(|segment| segment.number < first);
        self.sealed.drain(..kept).collect()
    }

    /// Says how many bytes are kept of a log.
    pub(crate) fn set_bytes(&mut self, log: LogId, bytes: u64) {
        let slot = self.slots.get(&log).copied();
        if let Some(state) = slot.and_then(|slot| self.logs.get_mut(slot)?.as_mut()) {
            self.bytes = self.bytes.saturating_sub(state.row.bytes).saturating_add(bytes);
            state.row.bytes = bytes;
        }
    }

    /// What a store opened anew shows takes the place of what was shown. Who watches goes on doing so.
    pub(crate) fn replace(&mut self, mut fresh: Self) {
        for (name, space) in &self.spaces {
            fresh.spaces.entry(name.clone()).or_default().signal = Arc::clone(&space.signal);
        }
        for state in fresh.logs.iter_mut().flatten() {
            if let Some(space) = fresh.spaces.get(&state.row.genesis.space) {
                state.signal = Arc::clone(&space.signal);
            }
        }
        fresh.signal = Arc::clone(&self.signal);
        *self = fresh;
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

fn rewrites_bytes(rewrites: &Rewrites) -> u64 {
    rewrites.ranges().len() as u64 * REWRITE_RANGE_BYTES
}
