//! Retention: floors of logs, and segments that are freed.
//!
//! A log's *floor* is its first record that is kept. It only advances, and always to the beginning of a batch; the digest
//! that this batch follows is kept with it, so that the chain of what is kept still verifies. Reading below it is
//! [`ReadError::Trimmed`](super::ReadError::Trimmed). Who advances it, and why, is not this crate's business.
//!
//! Space is given back by whole segments, the oldest first. What is left in one above the floors of its logs is copied
//! forward verbatim, with its arrival numbers (see the module `rewrite`), so that an idle log never pins the journal.
//!
//! # The order in which a segment is freed
//!
//! 1. What is left in it is written anew, and so are the floors that it alone holds; a later frame proves that flushed.
//! 2. The genesis of every log that was announced in it goes into the file `logs` (module `logs_file`).
//! 3. The extent file says which segment is the first one kept. From here on the segment counts as freed.
//! 4. The file is removed, not used again: who has it open reads on what it was, and nothing else.
//!
//! A crash between two steps leaves copies of what is there as well, or a file that opening removes. Nothing is lost by
//! it, and a batch is served once: where it was rewritten last.
//!
//! The index does not decide what is given up: it has what could be read when it was made, of logs that were known then.
//! Before a segment is freed all its frames are read: what is whole and kept must be served, from there or from elsewhere.
//! If a frame is damaged, or the segment before it or behind it is missing, nothing of what is kept may be missing
//! anywhere. Nor is any segment freed while the end of a log that a footer tells of is missing: perhaps no other one does. So a
//! hole stays one that is told of, and where a log ends stays known. (An end of which no footer tells is in the file of holes.)
//!
//! # What it costs
//!
//! Each segment is read once more when it is freed. It is freed when at most half of it has to be copied; or else when the journal holds more bytes that nobody
//! needs than bytes that are kept. So no more than one byte is copied for each byte given back, in the long run, and the
//! journal is at most twice as long as what it keeps, and the segments that are not full yet.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use thiserror::Error;

use super::{
    Journal,
    commit::Shared,
    error::{AppendError, DiskError, ReadError},
    floor::{Floor, FloorEntry},
    frame::{FrameEntry, FrameKind},
    identity::Extent,
    index::Entry,
    log_state::LogState,
    logs_file,
    queue::Group,
    read::{LoadedSegment, Located},
    rewrite::{Rewritten, WRITTEN_AT_ONCE, in_chunks},
    segment::{self, FRAMES_OFFSET},
    tail::Tail,
    view::{SealedSegment, View},
};
use crate::{
    batch::Batch,
    genesis::Genesis,
    ids::{Head, LogId, SegmentNumber, Seq},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Hlc,
};

/// Segments are given back at the latest when so many bytes have been copied out of them.
const COPIED_MAX: u64 = 16 << 20;

/// How many batches are looked up at a time where only their lengths count.
const COUNTED_AT_ONCE: usize = 4096;

/// What one who frees segments leaves to the next.
#[derive(Debug, Default)]
struct Turn {
    /// The file of logs has been written in this life of the store.
    has_written_logs: bool,
}

/// What retention and those who read meanwhile share.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    turn: Mutex<Turn>,
    changes: AtomicU64,
    /// What was freed since the journal was opened.
    freed: Mutex<Freed>,
}

impl Retention {
    /// Floors are advanced, and segments freed, by one at a time.
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, segments: u64, bytes: u64, copied_bytes: u64) {
        let mut freed = self.freed.lock().unwrap_or_else(PoisonError::into_inner);
        freed.segments += segments;
        freed.bytes += bytes;
        freed.copied_bytes += copied_bytes;
    }

    fn freed(&self) -> Freed {
        *self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often records have gone from where they were. Who is about to read asks before, and again should something
    /// not be where it was said to be.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Records have gone from where they were. Called while the view that says so is held.
    pub(crate) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// A floor could not be advanced, or segments not be freed. What was done before stands.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum TrimError {
    /// Nothing can be written; see there.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// What decides where a batch begins, or has to be copied forward, can't be read. It stays where it is, and so does
    /// all that came later, until it is mended or is below the floor.
    #[error("space can't be given back: {0}")]
    Read(#[from] ReadError),
    /// An operation on the store's files failed.
    #[error("giving back space failed: {0}")]
    Disk(#[from] DiskError),
}

/// What [`Journal::free`] did. What it does before it ends with an error is counted by [`Journal::freed`] alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freed {
    /// Segments given back.
    pub segments: u64,
    /// Bytes of frames in them.
    pub bytes: u64,
    /// Bytes of batches that were copied forward out of them.
    pub copied_bytes: u64,
}

impl Freed {
    /// What was freed since an earlier count.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            segments: self.segments - earlier.segments,
            bytes: self.bytes - earlier.bytes,
            copied_bytes: self.copied_bytes - earlier.copied_bytes,
        }
    }
}

impl Journal {
    /// What was freed since the journal was opened, also by what ended with an error.
    pub fn freed(&self) -> Freed {
        self.shared.retention.freed()
    }

    /// Advances the floors of logs: what comes before the record named of each is kept no more. A batch of which a part
    /// is kept is kept whole, and a floor never goes back. Where the floors are then, in the same order.
    ///
    /// The space is given back by [`free`](Self::free).
    ///
    /// **Durability**: on `Ok` the floors survive power loss. On `Err` each is where it was, or where it should be.
    ///
    /// # Errors
    ///
    /// A log is not known; the batch in which a floor would lie can't be read; nothing can be written.
    pub fn trim(&self, floors: &[(LogId, Seq)]) -> Result<Vec<Seq>, TrimError> {
        self.shared.trim(floors)
    }

    /// Gives back the space of segments, the oldest first, of which little or nothing is kept; that is copied forward.
    /// Appends and reads go on meanwhile.
    ///
    /// # Errors
    ///
    /// Something that is kept and would have to be copied can't be read, or is missing and may have been there: it stays
    /// where it is, and what came later too. Or nothing can be written.
    pub fn free(&self) -> Result<Freed, TrimError> {
        self.free_while(|| true)
    }

    /// The same, segment by segment as long as it `goes_on`: what is left is for the next call. So that whoever closes the
    /// journal need not wait for all of it.
    ///
    /// # Errors
    ///
    /// Those of [`free`](Self::free).
    pub fn free_while(&self, goes_on: impl Fn() -> bool) -> Result<Freed, TrimError> {
        // Nothing is mended in a segment that is given back.
        let _mending = self.shared.mending.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.free(goes_on)
    }
}

impl Shared {
    fn trim(self: &Arc<Self>, floors: &[(LogId, Seq)]) -> Result<Vec<Seq>, TrimError> {
        if self.options.read_only {
            return Err(AppendError::ReadOnly.into());
        }
        let _one_at_a_time = self.retention.turn();
        let mut entries = Vec::new();
        let mut reached = Vec::with_capacity(floors.len());
        for (log, wanted) in floors {
            let entry = self.floor_at(*log, *wanted)?;
            reached.push(match &entry {
                Ok(entry) => entry.floor.head.next_seq,
                Err(floor) => *floor,
            });
            entries.extend(entry);
        }
        if !entries.is_empty() {
            self.write_floors(entries)?;
            let _view = self.view_mut();
            self.retention.note_change();
        }
        Ok(reached)
    }

    /// The floor of a log that keeps `wanted`; as the error where it is already, if it would not advance.
    fn floor_at(self: &Arc<Self>, log: LogId, wanted: Seq) -> Result<Result<FloorEntry, Seq>, TrimError> {
        let state = self.view().log(log).cloned().ok_or(AppendError::UnknownLog { log })?;
        let (floor, head) = (state.row.floor, state.row.head);
        if wanted <= floor.head.next_seq {
            return Ok(Err(floor.head.next_seq));
        }
        let at = if wanted >= head.next_seq {
            head
        } else {
            match self.read_batch(log, wanted)? {
                Some(batch) => Head { next_seq: batch.first_seq(), digest: batch.header().previous },
                None => head,
            }
        };
        if at.next_seq <= floor.head.next_seq {
            return Ok(Err(floor.head.next_seq));
        }
        let bytes = floor.bytes + self.bytes_between(log, floor.head.next_seq, at.next_seq)?;
        let time = if at == head {
            // Nothing that is kept tells the log's time any more.
            self.last_time(&state)
        } else {
            state.row.last_time
        };
        Ok(Ok(FloorEntry::new(log, Floor { head: at, bytes }, time)))
    }

    /// The time of a log's last record, as far as it can be told.
    fn last_time(self: &Arc<Self>, state: &LogState) -> Hlc {
        let last = state.row.head.next_seq.0.checked_sub(1);
        let batch = last.and_then(|last| self.read_batch(state.id, Seq(last)).ok().flatten());
        let record = batch.and_then(|batch| batch.records().flatten().last());
        record.map_or(state.row.last_time, |record| record.time.max(state.row.last_time))
    }

    /// Bytes of the batches of a log in a range, as far as they can be found.
    fn bytes_between(&self, log: LogId, from: Seq, to: Seq) -> Result<u64, ReadError> {
        let (mut next, mut bytes) = (from, 0);
        while next < to {
            match self.locate(log, next, COUNTED_AT_ONCE)? {
                Located::End | Located::Trimmed { .. } => break,
                Located::Hole { resumes_at } => next = resumes_at,
                Located::Extract(extract) => {
                    for listed in extract.entries {
                        if listed.entry.next_seq() <= to {
                            bytes += u64::from(listed.entry.len);
                        }
                        next = listed.entry.next_seq();
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Counts what is kept of logs that have been trimmed, if that could not be told while opening: a floor says how many bytes were
    /// ever before it, of which some were in segments that are gone. Reads the indexes of the few segments that are left.
    pub(super) fn count_kept(&self) {
        let logs: Vec<_> = {
            let view = self.view_without_digests();
            if !view.is_miscounted {
                return;
            }
            let trimmed = view.logs().filter(|state| state.row.floor.head.next_seq > Seq::ZERO);
            trimmed.map(|state| (state.id, state.row.floor.head.next_seq, state.row.head.next_seq)).collect()
        };
        for (log, floor, end) in logs {
            match self.bytes_between(log, floor, end) {
                Ok(bytes) => self.view_mut().set_bytes(log, bytes),
                Err(error) => tracing::warn!(%log, %error, "what is kept of a log can't be counted"),
            }
        }
        self.view_mut().is_miscounted = false;
    }

    fn write_floors(&self, entries: Vec<FloorEntry>) -> Result<(), TrimError> {
        let entries = entries.into_iter().flat_map(|entry| [entry.clone(), entry]);
        let entries: Vec<_> = entries.map(|entry| (entry.log, FrameEntry::Floor(Box::new(entry)))).collect();
        self.write_out_of_order(entries)
    }

    /// Has entries written that leave the heads of their logs as they are, and waits until they are durable.
    fn write_out_of_order(&self, entries: Vec<(LogId, FrameEntry)>) -> Result<(), TrimError> {
        for chunk in in_chunks(entries, |(_, entry)| entry.bytes().len()) {
            let group: Arc<Group> = self.queue_out_of_order(chunk)?;
            self.wait_for(&group, None).unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    fn free(&self, goes_on: impl Fn() -> bool) -> Result<Freed, TrimError> {
        if self.options.read_only {
            return Err(AppendError::ReadOnly.into());
        }
        let mut turn = self.retention.turn();
        self.check_ends()?;
        let before = self.retention.freed();
        // What is sealed meanwhile is for the next call.
        let numbers: Vec<_> = self.view_without_digests().sealed.iter().map(|segment| segment.number).collect();
        let mut emptied = None;
        let mut copied_bytes = 0;
        let mut failure = None;
        for number in numbers.into_iter().take_while(|_| goes_on()) {
            match self.empty(number, copied_bytes) {
                Ok(Some(copied)) => copied_bytes += copied,
                Ok(None) => break,
                // What is emptied already can be given back all the same: on a full disk that makes room.
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
            emptied = Some(number);
            if copied_bytes >= COPIED_MAX {
                self.give_back(emptied.take(), std::mem::take(&mut copied_bytes), &mut turn)?;
            }
        }
        self.give_back(emptied, copied_bytes, &mut turn)?;
        failure.map_or_else(|| Ok(self.retention.freed().since(before)), Err)
    }

    /// Copies forward what is kept of a segment, if it is to be freed; how many bytes that were. `copied_before` have been
    /// copied out of segments that are not given back yet.
    fn empty(&self, number: SegmentNumber, copied_before: u64) -> Result<Option<u64>, TrimError> {
        let sealed = self.view_without_digests().sealed_segment(number).cloned();
        // One that has no footer yet is about to get it.
        let Some(sealed) = sealed.filter(|sealed| sealed.pinned.is_none()) else { return Ok(None) };
        let loaded = self.load(&sealed)?;
        let left = self.view_without_digests().left_in(&loaded)?;
        let left_bytes: u64 = left.iter().map(|(_, entry)| u64::from(entry.len)).sum();
        let is_cheap = left_bytes.saturating_mul(2) <= sealed.end;
        if !is_cheap && !self.view_without_digests().is_mostly_garbage(copied_before) {
            return Ok(None);
        }
        self.check_all_served(&sealed, &loaded)?;
        self.copy_forward(&loaded, &left)?;
        Ok(Some(left_bytes))
    }

    /// Fails if a segment holds something that is kept and is not served, or it can't be told: an index has what could be
    /// read when it was made, of logs that were known then.
    fn check_all_served(&self, sealed: &SealedSegment, loaded: &LoadedSegment) -> Result<(), ReadError> {
        let mut kept = Vec::new();
        let mut is_lost = false;
        let is_whole = self.scan_sealed(&loaded.file, sealed, |frame, _| {
            is_lost |= frame.entries.iter().any(|entry| matches!(entry, FrameEntry::Lost(_)));
            let view = self.view_without_digests();
            let headers = frame.entries.iter().filter_map(FrameEntry::batch).map(Batch::header);
            kept.extend(headers.filter(|header| view.is_kept(header.log, header.next_seq())).copied());
        });
        let is_whole = is_whole.map_err(|error| Self::disk_error(sealed.number, 0, error))?;
        if is_lost || !is_whole || !self.view_without_digests().is_between_others(sealed.number) {
            self.check_no_holes()?;
        }
        for header in kept {
            let (log, first_seq, next_seq) = (header.log, header.first_seq, header.next_seq());
            match self.locate(log, first_seq, 1)? {
                Located::Extract(extract) if extract.begins_at(first_seq) => {}
                Located::Trimmed { first_available } if next_seq <= first_available => {}
                _ => return Err(ReadError::Hole { log, first_seq, next_seq }),
            }
        }
        Ok(())
    }

    /// Fails if the end of a log is kept and missing: perhaps but the footer of a segment that is to be freed tells where
    /// the log ends.
    fn check_ends(&self) -> Result<(), ReadError> {
        let hole = self.view_without_digests().logs().find_map(|state| {
            let (first_seq, next_seq) = state.holes_before_head().iter().last()?;
            (next_seq >= state.row.head.next_seq).then_some(ReadError::Hole { log: state.id, first_seq, next_seq })
        });
        hole.map_or(Ok(()), Err)
    }

    /// Fails if something that is kept is missing.
    fn check_no_holes(&self) -> Result<(), ReadError> {
        self.find_gaps()?;
        let hole = self.view_without_digests().logs().find_map(|state| {
            let (first_seq, next_seq) = state.holes_before_head().iter().next()?;
            Some(ReadError::Hole { log: state.id, first_seq, next_seq })
        });
        hole.map_or(Ok(()), Err)
    }

    fn copy_forward(&self, loaded: &LoadedSegment, left: &[(LogId, Entry)]) -> Result<(), TrimError> {
        let mut chunk: Vec<(LogId, FrameEntry)> = Vec::new();
        let mut bytes = 0;
        for (log, entry) in left {
            let batch = self.read_one(&*loaded.file, loaded.number, *log, entry)?;
            bytes += batch.bytes().len();
            chunk.push((*log, FrameEntry::Rewritten(Box::new(Rewritten::relocated(batch, entry.arrival)))));
            if bytes >= WRITTEN_AT_ONCE {
                self.write_out_of_order(std::mem::take(&mut chunk))?;
                bytes = 0;
            }
        }
        self.write_out_of_order(chunk)
    }

    /// Gives back all segments up to `last`, of which nothing is needed any more, since so many bytes were copied out of them.
    fn give_back(&self, last: Option<SegmentNumber>, copied_bytes: u64, turn: &mut Turn) -> Result<(), TrimError> {
        self.retention.count(0, 0, copied_bytes);
        let Some(last) = last else { return Ok(()) };
        let first_kept = SegmentNumber(last.0 + 1);
        let floors = self.view_without_digests().floors_before(first_kept);
        self.write_floors(floors)?;
        self.cover()?;
        let vfs = &*self.options.vfs;
        let (known, active) = {
            let view = self.view_without_digests();
            let active = view.active.as_ref().map_or(first_kept, |active| active.number);
            (view.announced_before(first_kept, turn.has_written_logs), active)
        };
        if let Some(known) = known {
            logs_file::write(vfs, &self.dir, &known).map_err(DiskError::from)?;
            turn.has_written_logs = true;
        }
        let extent = Extent { segment: active, end: FRAMES_OFFSET };
        let Some(raising) = self.with_tail(|tail| tail.raising.clone()) else { return Ok(()) };
        extent.raise_first(first_kept, &raising, vfs, &self.dir).map_err(DiskError::from)?;
        let gone = {
            let mut view = self.view_mut();
            let gone = view.free(first_kept);
            self.retention.note_change();
            gone
        };
        self.cache().remove_before(first_kept);
        for segment in gone {
            self.retention.count(1, segment.end, 0);
            // It counts as freed whether this succeeds or not: opening removes what is left.
            if let Err(error) = vfs.remove(&segment::path(&self.dir, segment.number)) {
                tracing::warn!(segment = %segment.number, %error, "removing a freed segment failed");
            }
        }
        Ok(())
    }

    /// Waits until a frame is written after those that are durable now, so that no damage to the last one can undo them.
    fn cover(&self) -> Result<(), AppendError> {
        let look = |tail: &Tail| (tail.next_commit, tail.uncovered);
        let tail = || self.with_tail(look);
        let Some((reached, _)) = tail() else { return Ok(()) };
        while let Some((next, uncovered)) = tail() {
            if !uncovered || next > reached {
                return Ok(());
            }
            let queue = self.queue();
            if let Some(refusal) = queue.refusal() {
                return Err(refusal);
            }
            // What is being written, or is about to be, will do as well.
            let group = match &queue.in_flight {
                Some(in_flight) => Some(Arc::clone(in_flight)),
                None => (!queue.is_empty()).then(|| Arc::clone(&queue.filling)),
            };
            drop(queue);
            match group {
                Some(group) => self.wait_for(&group, None).unwrap_or(Ok(()))?,
                None => {
                    self.mark(FrameKind::Mark)?;
                    if tail().is_some_and(|(next, _)| next == reached) && self.queue().in_flight.is_none() {
                        // It found no space.
                        return Err(AppendError::StorageFull);
                    }
                }
            }
        }
        Ok(())
    }
}

impl View {
    /// The batches of a segment that are kept and have no copy behind it. Fails if one belongs to no log that is known.
    fn left_in(&self, loaded: &LoadedSegment) -> Result<Vec<(LogId, Entry)>, ReadError> {
        let in_order = loaded.index.entries().map(|(log, entry)| (log, entry, None));
        let rewritten = loaded.index.rewritten().map(|(log, entry)| (log, *entry, Some(loaded.number)));
        let mut left = Vec::new();
        for (log, entry, stands_in) in in_order.chain(rewritten) {
            let state = self.log(log).ok_or(ReadError::UnknownLog { log })?;
            // A copy that is gone takes nothing's place.
            let copied = state.row.rewrites.segment_of(entry.first_seq).filter(|number| self.has_segment(*number));
            if copied == stands_in && entry.next_seq() > state.row.floor.head.next_seq {
                left.push((log, entry));
            }
        }
        Ok(left)
    }

    /// Whether a batch that ends there is kept, or belongs to no log that is known.
    fn is_kept(&self, log: LogId, next_seq: Seq) -> bool {
        self.log(log).is_none_or(|state| next_seq > state.row.floor.head.next_seq)
    }

    /// Whether the segments right before and right behind a sealed one are there, or the one before was freed.
    fn is_between_others(&self, number: SegmentNumber) -> bool {
        let before = number.0.checked_sub(1).map(SegmentNumber).filter(|_| number > self.first_segment);
        before.is_none_or(|before| self.has_segment(before)) && self.has_segment(SegmentNumber(number.0 + 1))
    }

    /// Whether the journal, without what has been copied and not given back yet, holds more bytes that nobody needs than
    /// bytes that are kept.
    fn is_mostly_garbage(&self, copied: u64) -> bool {
        let sealed: u64 = self.sealed.iter().map(|segment| segment.end).sum();
        let journal = sealed + self.active.as_ref().map_or(0, |active| active.end);
        journal.saturating_sub(copied) > self.bytes.saturating_mul(2)
    }

    /// The floors that are on disk only in segments before `first_kept`.
    fn floors_before(&self, first_kept: SegmentNumber) -> Vec<FloorEntry> {
        let is_due = |state: &&LogState| state.row.floor.head.next_seq > Seq::ZERO && state.row.floor_in < first_kept;
        let entry = |state: &LogState| FloorEntry::new(state.id, state.row.floor, state.row.last_time);
        self.logs().filter(is_due).map(entry).collect()
    }

    /// The genesis of each log that was announced before `first_kept`, unless the file of those is known to have them all.
    fn announced_before(
        &self,
        first_kept: SegmentNumber,
        has_written_logs: bool,
    ) -> Option<HashMap<LogId, Arc<Genesis>>> {
        let is_new = |state: &LogState| (self.first_segment..first_kept).contains(&state.row.announced_in);
        if has_written_logs && !self.logs().any(is_new) {
            return None;
        }
        let known = self.logs().filter(|state| state.row.announced_in < first_kept);
        Some(known.map(|state| (state.id, Arc::clone(&state.row.genesis))).collect())
    }
}
