//! What is known to be missing, and how it comes to be known.
//!
//! A hole is known once it was met: while opening (frames that can't be read, segment files that are missing), by a
//! read whose checksum does not match, or by [`Journal::find_holes`], which reads everything. What has rotted and was
//! not looked at since is not known. What is known stays so in later lives of the store: see the module `holes_file`.
//!
//! A hole behind the head of a log was its end once: frames that can't be read held it, as headers of batches in them tell.
//! It is filled when the log grows again.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    task::Waker,
};

use super::{Journal, commit::Shared, error::ReadError, holes_file, index::Entry};
use crate::{
    holes::{Hole, Holes},
    ids::{Arrival, Head, LogId, Seq},
};

impl Journal {
    /// What is known to be missing of a log, and which batches fill it; ascending. Nothing of a log that is not known, and
    /// nothing of what was a log's end once: that is told by [`LogInfo::holes`](super::LogInfo::holes) alone.
    ///
    /// Reads the batch behind each hole, which may turn out to be damaged too.
    ///
    /// # Errors
    ///
    /// The disk refuses a read.
    pub fn holes(&self, log: LogId) -> Result<Vec<Hole>, ReadError> {
        self.shared.holes(log)
    }

    /// Reads everything, so that all that is missing is known: by [`LogInfo::holes`](super::LogInfo::holes), by
    /// [`holes`](Self::holes), and by whoever [watches](Self::watch).
    ///
    /// `progress` is told the batches read and the batches in all. Reads and appends go on beside. Memory: the ends of
    /// all logs.
    ///
    /// # Errors
    ///
    /// The disk refuses a read; what was found until then is known.
    pub fn find_holes(&self, mut progress: impl FnMut(u64, u64)) -> Result<(), ReadError> {
        let end = self.next_arrival();
        let mut reader = self.read_arrivals(Arrival::ZERO);
        while reader.next_arrival() < end {
            match reader.next() {
                None => break,
                Some(Err(error @ (ReadError::Disk { .. } | ReadError::UnknownLog { .. }))) => return Err(error),
                // Known by now, or found as a gap below.
                Some(_) => progress(reader.next_arrival().0.min(end.0), end.0),
            }
        }
        self.shared.find_gaps()
    }

    /// Counts how often a hole was found or filled since the journal was opened.
    pub fn holes_changed(&self) -> u64 {
        self.shared.view_without_digests().holes_changed
    }
}

impl Shared {
    /// Takes note of what an error of reading says is missing.
    pub(crate) fn note_hole(&self, error: &ReadError) {
        if let ReadError::Damaged { log, first_seq, next_seq, .. } | ReadError::Hole { log, first_seq, next_seq } =
            error
            && self.change_holes(*log, |holes| holes.add(*first_seq, *next_seq))
        {
            tracing::warn!(dir = %self.dir.display(), %error, "a hole was found");
        }
    }

    /// Changes what is known to be missing of a log, records it, and tells it to whoever watches; whether it was news.
    pub(crate) fn change_holes(&self, log: LogId, change: impl FnOnce(&mut Holes) -> bool) -> bool {
        let mut wakers = Vec::new();
        let is_news = self.view_mut().change_holes(log, &mut wakers, change);
        if is_news {
            self.record_holes();
        }
        wakers.into_iter().for_each(Waker::wake);
        is_news
    }

    /// Has the file of holes say what is known now, so that the next life of the store knows it too. What the disk does not
    /// take is tried again with the next change, and when the journal is closed.
    pub(crate) fn record_holes(&self) {
        // Who has not, or no longer, the store to itself changes nothing.
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            return;
        }
        let mut recorded = self.recorded_holes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.view_without_digests().known_holes();
        if recorded.as_ref() == Some(&known) {
            return;
        }
        match holes_file::write(&*self.options.vfs, &self.dir, &known) {
            Ok(()) => *recorded = Some(known),
            Err(error) => {
                *recorded = None;
                tracing::warn!(dir = %self.dir.display(), %error, "what is missing can't be recorded: it is known until the store is closed");
            }
        }
    }

    /// Whether the file of holes could not be read, or not be written.
    pub(crate) fn has_lost_holes(&self) -> bool {
        self.recorded_holes.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    pub(crate) fn holes(self: &Arc<Self>, log: LogId) -> Result<Vec<Hole>, ReadError> {
        let mut found = Vec::new();
        let mut from = Seq::ZERO;
        loop {
            let (holes, head) = {
                let view = self.view();
                let Some(state) = view.log(log) else { return Ok(Vec::new()) };
                from = from.max(state.row.floor.head.next_seq);
                (state.holes.clone(), state.row.head)
            };
            // Of what was the log's end once the digest is lost, too: whoever streams the log brings it back.
            let Some((first_seq, next_seq)) = holes.iter().find(|(first, next)| *next > from && *first < head.next_seq)
            else {
                return Ok(found);
            };
            let end = if next_seq >= head.next_seq {
                Some(head)
            } else {
                match self.read_batch(log, next_seq) {
                    Ok(batch) => {
                        batch.map(|batch| Head { next_seq: batch.first_seq(), digest: batch.header().previous })
                    }
                    // It is part of the hole by now, which is looked at again.
                    Err(ReadError::Damaged { .. } | ReadError::Hole { .. }) => None,
                    Err(error) => return Err(error),
                }
            };
            if let Some(end) = end {
                found.push(Hole { first_seq: first_seq.max(from), end });
                from = next_seq;
            }
        }
    }

    /// Looks for sequence numbers that no index knows. Reads the footers of all segments.
    pub(crate) fn find_gaps(&self) -> Result<(), ReadError> {
        let gaps = loop {
            let changes = self.retention.changes();
            match self.gaps_of_indexes() {
                // A segment has been freed meanwhile.
                Err(_) if self.retention.changes() != changes => {}
                gaps => break gaps?,
            }
        };
        gaps.iter().for_each(|gap| self.note_hole(gap));
        Ok(())
    }

    fn gaps_of_indexes(&self) -> Result<Vec<ReadError>, ReadError> {
        let mut ends: HashMap<LogId, Seq> = HashMap::new();
        let mut gaps = Vec::new();
        let mut take = |(log, entry): (LogId, Entry)| {
            let end = ends.entry(log).or_default();
            if *end < entry.first_seq {
                gaps.push((log, *end, entry.first_seq));
            }
            *end = entry.next_seq().max(*end);
        };
        // What is written meanwhile goes on where the logs end.
        let (sealed, active, logs) = {
            let view = self.view_without_digests();
            let active = view.active.as_ref().map(|active| active.index.arrivals_from(Arrival::ZERO, usize::MAX));
            let logs = view.logs().map(|state| {
                let mut rewrites = state.row.rewrites.ranges().to_vec();
                rewrites.retain(|range| view.has_segment(range.segment));
                (state.id, (state.row.head.next_seq, rewrites, state.row.floor.head.next_seq))
            });
            let logs: HashMap<_, _> = logs.collect();
            (view.sealed.clone(), active.unwrap_or_default(), logs)
        };
        for segment in &sealed {
            self.index_of(segment)?.arrivals_from(Arrival::ZERO, usize::MAX).into_iter().for_each(&mut take);
        }
        active.into_iter().for_each(&mut take);
        for (log, (head, ..)) in &logs {
            let end = ends.get(log).copied().unwrap_or_default();
            gaps.push((*log, end, *head));
        }
        let mut found = Vec::new();
        for (log, first_seq, next_seq) in gaps {
            let mut gap = Holes::default();
            gap.add(first_seq, next_seq);
            let Some((_, rewrites, floor)) = logs.get(&log) else { continue };
            for range in rewrites {
                gap.take(range.first_seq, range.next_seq);
            }
            // What is below the floor is not missing.
            gap.take(Seq::ZERO, *floor);
            found.extend(gap.iter().map(|(first_seq, next_seq)| ReadError::Hole { log, first_seq, next_seq }));
        }
        Ok(found)
    }
}
