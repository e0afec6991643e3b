//! What readers see: the logs, where their batches are, and the newest batches themselves.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{
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

/// About what a log takes in a footer, in bytes.
const LOG_ROW_BYTES: u64 = 250;

/// A footer lists all logs when that takes at most one byte in so many written since.
const ALL_LOGS_RATIO: u64 = 16;

/// A log as far as it is durable.
#[derive(Debug, Clone)]
pub(crate) struct LogState {
    pub(crate) id: LogId,
    pub(crate) row: LogRow,
    signal: Arc<Signal>,
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

/// The newest batches, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Ring {
    batches: VecDeque<(Arrival, Batch)>,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, bytes_max }
    }

    fn push(&mut self, arrival: Arrival, batch: Batch) {
        self.bytes += batch.bytes().len();
        self.batches.push_back((arrival, batch));
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.batches.pop_front() else { break };
            self.bytes -= oldest.bytes().len();
        }
    }

    /// The batch with this arrival number, if it is still here.
    pub(crate) fn batch(&self, arrival: Arrival) -> Option<&Batch> {
        let index = self.batches.binary_search_by_key(&arrival, |(arrival, _)| *arrival).ok()?;
        Some(&self.batches[index].1)
    }
}

/// What readers see. Everything in it is durable.
#[derive(Debug)]
pub(crate) struct View {
    logs: HashMap<LogId, LogState>,
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
    /// Bytes of segments sealed since a footer last listed all logs.
    pub(crate) bytes_since_all_logs: u64,
}

impl View {
    pub(crate) fn new(ring_bytes: usize) -> Self {
        Self {
            logs: HashMap::new(),
            spaces: BTreeMap::new(),
            signal: Arc::default(),
            sealed: Vec::new(),
            active: None,
            ring: Ring::new(ring_bytes),
            next_arrival: Arrival::ZERO,
            bytes: 0,
            bytes_since_all_logs: 0,
        }
    }

    pub(crate) fn log(&self, log: LogId) -> Option<&LogState> {
        self.logs.get(&log)
    }

    pub(crate) fn logs(&self) -> impl Iterator<Item = &LogState> {
        self.logs.values()
    }

    pub(crate) fn log_count(&self) -> usize {
        self.logs.len()
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
        if let Some(state) = self.logs.get_mut(&id) {
            self.bytes = self.bytes - state.row.bytes + row.bytes;
            state.row = row;
            return;
        }
        self.bytes += row.bytes;
        let space = self.spaces.entry(row.genesis.space.clone()).or_default();
        space.logs.push(id);
        let signal = Arc::clone(&space.signal);
        self.logs.insert(id, LogState { id, row, signal });
    }

    fn add_log(&mut self, genesis: &Genesis) {
        let id = genesis.log_id();
        if let Some(active) = &mut self.active {
            active.announced.insert(id);
        }
        if !self.logs.contains_key(&id) {
            let row = LogRow {
                head: genesis.head(),
                genesis: Arc::new(genesis.clone()),
                last_time: Hlc::ZERO,
                bytes: 0,
                links: RunLinks::default(),
            };
            self.restore_log(id, row);
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
        let all_logs = self.logs.len() as u64 * LOG_ROW_BYTES * ALL_LOGS_RATIO <= self.bytes_since_all_logs;
        let index = Arc::new(active.index);
        let touched = |state: &LogState| index.links(state.id).is_some() || active.announced.contains(&state.id);
        let chosen = self.logs.values().filter(|state| all_logs || touched(state));
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

    /// Adds a durable frame that lies at `offset` of the active segment.
    ///
    /// Batches that don't continue their log here (a hole before them) are added all the same: the
    /// lookup finds the hole.
    pub(crate) fn apply(&mut self, frame: &Frame, offset: u64) {
        for entry in &frame.entries {
            if let FrameEntry::Announcement(announcement) = entry {
                self.add_log(&announcement.genesis);
            }
        }
        let mut arrival = frame.header.first_arrival;
        for entry in &frame.entries {
            if let FrameEntry::Batch(batch) = entry {
                self.apply_batch(batch, arrival);
                arrival.0 += 1;
            }
        }
        self.next_arrival = self.next_arrival.max(arrival);
        if let Some(active) = &mut self.active {
            active.index.add_frame(frame, offset);
            active.end = offset + u64::from(frame.header.len);
        }
    }

    fn apply_batch(&mut self, batch: &Batch, arrival: Arrival) {
        let (Some(state), Some(active)) = (self.logs.get_mut(&batch.log()), &mut self.active) else {
            // Its announcement is in a range that was lost; without a genesis it belongs to nobody.
            tracing::warn!(log = %batch.log(), "a batch of a log that was never announced is not served");
            return;
        };
        if active.index.links(batch.log()).is_none() {
            state.row.links = state.row.links.next(active.number, batch.first_seq());
            active.index.begin_run(batch.log(), state.row.links.clone());
        }
        let len = batch.bytes().len() as u64;
        state.row.head = batch.head();
        state.row.last_time = state.row.last_time.max(batch.header().time);
        state.row.bytes += len;
        self.bytes += len;
        self.ring.push(arrival, batch.clone());
    }

    /// Raises the signals of those whom a frame concerns.
    pub(crate) fn signals_of(&self, frame: &Frame) -> Vec<Arc<Signal>> {
        let mut signals: Vec<Arc<Signal>> = Vec::new();
        for entry in &frame.entries {
            let log = match entry {
                FrameEntry::Announcement(announcement) => announcement.genesis.log_id(),
                FrameEntry::Batch(batch) => batch.log(),
            };
            if let Some(state) = self.logs.get(&log)
                && !signals.last().is_some_and(|last| Arc::ptr_eq(last, &state.signal))
            {
                signals.push(Arc::clone(&state.signal));
            }
        }
        signals.push(Arc::clone(&self.signal));
        signals
    }

    /// All signals there are.
    pub(crate) fn all_signals(&self) -> Vec<Arc<Signal>> {
        let spaces = self.spaces.values().map(|space| Arc::clone(&space.signal));
        spaces.chain([Arc::clone(&self.signal)]).collect()
    }

    /// The head of a log; `None` if it is not known.
    pub(crate) fn head(&self, log: LogId) -> Option<Head> {
        self.logs.get(&log).map(|state| state.row.head)
    }
}
