//! Putting an empty segment in the place of one that is gone, once all that it held is stored anew.
//!
//! While a file is missing that must have been there, each opening and each verification says so. When nothing is
//! missing any more there is nothing to say. What the file held is not known; but arrival numbers count batches: there
//! must be as many rewritten ones in the gaps of logs as numbers that no batch bears. So a log of which nothing but
//! the lost file told keeps the damage being told.
//!
//! Each step leaves a store that is at worst damaged as before: the segment behind says first where the frames of an
//! empty one end, which counts only once the empty one is there.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, IoSlice},
    ops::Range,
    sync::{Arc, PoisonError},
};

use super::{
    Journal,
    commit::Shared,
    error::{DiskError, MendError, Place},
    fill::SealJob,
    index::{Footer, RunLinks, SegmentIndex},
    log_state::LogState,
    recovery::missing_ranges,
    segment::{self, FRAMES_OFFSET, HeaderState, SegmentHeader},
    view::SealedSegment,
};
use crate::{
    ids::{Arrival, LogId, SegmentNumber, Seq, random_bytes},
    vfs::{OpenMode, VfsFile, write_full},
};

/// No file of an empty segment is longer than its header and an empty footer, in bytes.
const EMPTY_LEN_MAX: u64 = FRAMES_OFFSET + 64;

/// Counts what is there and what is not.
#[derive(Debug, Default)]
struct Census {
    /// The first segment that is kept. Before it all has been given back.
    first_segment: SegmentNumber,
    /// Where the runs of each log end.
    ends: HashMap<LogId, Seq>,
    /// The links of the first run that is there of each log; of a log without one those of its last run.
    fronts: HashMap<LogId, RunLinks>,
    /// Records that no run has.
    gaps: Vec<(LogId, Range<Seq>)>,
    /// Batches that have been rewritten, apart from those that were copied forward out of segments given back since.
    rewritten: BTreeSet<(LogId, Seq)>,
    /// Arrival numbers that a batch bears.
    arrivals: u64,
}

impl Census {
    /// Counts what a segment holds that begins with `first_arrival`; before `first_kept` all has been given back.
    fn count(&mut self, index: &SegmentIndex, first_arrival: Arrival, first_kept: Arrival) {
        for (log, entry) in index.arrivals_from(Arrival::ZERO, usize::MAX) {
            if let Some(links) = index.links(log) {
                self.fronts.entry(log).or_insert_with(|| links.clone());
            }
            let end = self.ends.entry(log).or_default();
            if *end < entry.first_seq {
                self.gaps.push((log, *end..entry.first_seq));
            }
            *end = entry.next_seq().max(*end);
            self.arrivals += 1;
        }
        for (log, entry) in index.rewritten() {
            if entry.arrival >= first_kept {
                self.rewritten.insert((log, entry.first_seq));
            }
            // One that keeps its number bears that of a batch which is damaged where it stood, or gone.
            self.arrivals += u64::from(entry.arrival >= first_arrival);
        }
    }

    /// How many batches in the gaps have been rewritten that were lost with a segment which would be kept. Not counted is
    /// one of which that can't be told: then what is missing goes on being told of.
    fn filled(&self) -> u64 {
        let in_gap = |(log, gap): &(LogId, Range<Seq>)| {
            let rewritten = self.rewritten.range((*log, gap.start)..(*log, gap.end));
            rewritten.filter(|(_, seq)| gap.start > Seq::ZERO || self.was_kept(*log, *seq)).count() as u64
        };
        self.gaps.iter().map(in_gap).sum()
    }

    /// Whether what stands before the first batch of a log that is there was, surely, not in a segment given back.
    fn was_kept(&self, log: LogId, seq: Seq) -> bool {
        let path = self.fronts.get(&log).map_or(&[][..], |links| &links.path);
        let run = path.iter().find(|node| node.first_seq <= seq);
        self.first_segment == SegmentNumber::ZERO || run.is_some_and(|run| run.segment >= self.first_segment)
    }
}

/// Segments that are gone, and those around them.
struct Gap {
    missing: Range<u64>,
    /// Where the frames of the segment before end; 0 before the first.
    previous_end: u64,
    next: SegmentNumber,
    next_arrival: Arrival,
}

impl Gap {
    /// The first arrival number of an empty segment in its place: before the first that is there nothing was given back.
    fn first_arrival(&self, number: SegmentNumber) -> Arrival {
        let is_first = self.previous_end == 0 && number.0 == self.missing.start;
        if is_first { Arrival::ZERO } else { self.next_arrival }
    }
}

impl Journal {
    /// Puts empty segments in the place of those whose files are gone, if all that they held is stored anew; how many.
    /// Call [`find_holes`](Self::find_holes) first. Reads the footers of all segments.
    ///
    /// **Durability**: on `Ok` neither opening nor verifying the store says any more that they are missing.
    ///
    /// # Errors
    ///
    /// The disk refuses, or is full; the store is read only, closed or poisoned.
    pub fn close_gaps(&self) -> Result<u64, MendError> {
        let _mending = self.shared.mending.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.close_gaps()
    }
}

impl Shared {
    pub(super) fn close_gaps(self: &Arc<Self>) -> Result<u64, MendError> {
        if let Some(refusal) = self.queue_for_writing()?.refusal() {
            return Err(refusal.into());
        }
        let gaps = self.gaps();
        if gaps.is_empty() || !self.is_all_stored_anew()? {
            return Ok(0);
        }
        let mut closed = 0;
        for gap in gaps {
            let place = Place { segment: SegmentNumber(gap.missing.start), offset: 0 };
            self.close_gap(&gap).map_err(|error| MendError::Disk { place, error: DiskError::from(error) })?;
            self.show_closed(&gap);
            tracing::info!(dir = %self.dir.display(), segments = ?gap.missing, "nothing of lost segments is missing");
            closed += gap.missing.end - gap.missing.start;
        }
        Ok(closed)
    }

    /// Segments that are gone, between those that are there, and that are known to have held batches.
    fn gaps(&self) -> Vec<Gap> {
        let view = self.view_without_digests();
        let mut there: Vec<_> =
            view.sealed.iter().map(|segment| (segment.number, segment.first_arrival, segment.end)).collect();
        there.extend(view.active.as_ref().map(|active| (active.number, active.first_arrival, active.end)));
        let numbers: Vec<_> = there.iter().map(|(number, ..)| *number).collect();
        let Some(last) = numbers.last() else { return Vec::new() };
        let wanted = view.first_segment..*last;
        let gap = |missing: Range<u64>| {
            let behind = there.partition_point(|(number, ..)| number.0 < missing.start);
            let (next, next_arrival, _) = there[behind];
            let before = behind.checked_sub(1).map(|before| there[before]);
            let first_arrival = before.map_or(Arrival::ZERO, |(_, first_arrival, _)| first_arrival);
            let previous_end = before.map_or(0, |(.., end)| end);
            (first_arrival < next_arrival).then_some(Gap { missing, previous_end, next, next_arrival })
        };
        missing_ranges(&numbers, wanted).into_iter().filter_map(gap).collect()
    }

    /// Whether nothing is known to be missing, and there is a rewritten batch for each arrival number that none bears.
    fn is_all_stored_anew(&self) -> Result<bool, MendError> {
        let mut census = Census::default();
        let (sealed, heads, first_arrival, next_arrival) = {
            let view = self.view_without_digests();
            if view.logs().any(|state| !state.holes_before_head().is_empty()) {
                return Ok(false);
            }
            let head = |state: &LogState| (state.id, state.row.head.next_seq, state.row.links.clone());
            let heads: Vec<_> = view.logs().map(head).collect();
            census.first_segment = view.first_segment;
            // What was given back before the first segment that is kept is not missing.
            let first_arrival = match view.sealed.first() {
                Some(first) if first.number == view.first_segment => first.first_arrival,
                _ if view.first_segment == SegmentNumber::ZERO => Arrival::ZERO,
                _ => return Ok(false),
            };
            (view.sealed.clone(), heads, first_arrival, view.next_arrival)
        };
        for segment in &sealed {
            census.count(&*self.index_of(segment)?, segment.first_arrival, first_arrival);
        }
        {
            let view = self.view_without_digests();
            if let Some(active) = &view.active {
                census.count(&active.index, active.first_arrival, first_arrival);
            }
            if view.next_arrival != next_arrival || view.sealed.len() != sealed.len() {
                // Others write meanwhile: next time.
                return Ok(false);
            }
        }
        for (log, head, links) in heads {
            census.fronts.entry(log).or_insert(links);
            let end = census.ends.get(&log).copied().unwrap_or_default();
            census.gaps.push((log, end..head.max(end)));
        }
        Ok(first_arrival.0 + census.arrivals + census.filled() == next_arrival.0)
    }

    fn close_gap(&self, gap: &Gap) -> io::Result<()> {
        let vfs = &*self.options.vfs;
        let next = vfs.open(&segment::path(&self.dir, gap.next), OpenMode::Write)?;
        let (HeaderState::Whole(header) | HeaderState::OneCopy(header)) =
            SegmentHeader::read(&*next, self.identity().store, gap.next)?
        else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the header of the segment behind can't be read"));
        };
        write_header(&*next, &SegmentHeader { previous_end: FRAMES_OFFSET, ..header })?;
        // The last first: each one that is there has one behind it that says where its frames end.
        for number in gap.missing.clone().rev() {
            let previous_end = if number == gap.missing.start { gap.previous_end } else { FRAMES_OFFSET };
            let number = SegmentNumber(number);
            let path = segment::path(&self.dir, number);
            let file = match vfs.open(&path, OpenMode::Create) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.take_place(number)?,
                opened => opened?,
            };
            let first_arrival = gap.first_arrival(number);
            let header = SegmentHeader { number, salt: random_bytes()?, previous_end, first_arrival, ..header };
            // The header last: with it the segment is there.
            write_footer(number, gap.next, &file)?;
            write_header(&*file, &header)?;
            vfs.sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// A file for an empty segment where there is one of that name. One without a header, or whose header can be read, was
    /// made by an attempt that was cut short: else it would not count as missing. Any other is kept aside.
    fn take_place(&self, number: SegmentNumber) -> io::Result<Arc<dyn VfsFile>> {
        let vfs = &*self.options.vfs;
        let path = segment::path(&self.dir, number);
        let file = vfs.open(&path, OpenMode::Write)?;
        let state = SegmentHeader::read(&*file, self.identity().store, number)?;
        if !matches!(state, HeaderState::Unreadable) && file.len()? <= EMPTY_LEN_MAX {
            return Ok(file);
        }
        let kept = vfs.list(&self.dir)?;
        let name = |copy: u64| format!("torn-{:016x}-{copy:016x}", number.0);
        // Another one may be kept under that name already.
        let free = (0..=kept.len() as u64).map(name).find(|name| !kept.contains(name));
        let free = free.unwrap_or_else(|| name(u64::MAX));
        vfs.rename(&path, &self.dir.join(free))?;
        vfs.open(&path, OpenMode::Create)
    }

    /// What was missing is there from now on: it is not closed a second time.
    fn show_closed(&self, gap: &Gap) {
        let mut view = self.view_mut();
        for number in gap.missing.clone().map(SegmentNumber) {
            let segment =
                SealedSegment { number, first_arrival: gap.first_arrival(number), end: FRAMES_OFFSET, pinned: None };
            let place = view.sealed.partition_point(|sealed| sealed.number < number);
            view.sealed.insert(place, segment);
        }
    }
}

/// Writes both copies of a header, one after the other, so that one is whole at any time.
fn write_header(file: &dyn VfsFile, header: &SegmentHeader) -> io::Result<()> {
    let block = header.encode_block();
    let (first, second) = block.split_at(FRAMES_OFFSET as usize / 2);
    write_full(file, &mut [IoSlice::new(first)], 0)?;
    file.sync_data()?;
    write_full(file, &mut [IoSlice::new(second)], FRAMES_OFFSET / 2)?;
    file.sync_data()
}

/// Gives an empty segment its footer, so that nobody looks for frames in it.
fn write_footer(number: SegmentNumber, next: SegmentNumber, file: &Arc<dyn VfsFile>) -> io::Result<()> {
    let footer = Footer { all_logs: false, rows: Vec::new(), index: Arc::default() };
    SealJob { number, next, end: FRAMES_OFFSET, file: Arc::clone(file), footer }.write_footer()
}
