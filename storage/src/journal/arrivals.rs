//! Reading by arrival: the batches of all logs in the order in which they came.
//!
//! A batch that was rewritten is served once, at the arrival number of the copy in use; see the module `rewrite`.

use std::sync::Arc;

use super::{
    commit::Shared,
    error::ReadError,
    index::Entry,
    read::{Cursor, Extract, LOOKUP_BATCHES, Listed, Standing},
    view::{SealedSegment, View},
};
use crate::{
    batch::Batch,
    ids::{Arrival, LogId, SegmentNumber},
};

/// Rewritten batches of one segment, ascending by arrival.
type Rewritten = (SegmentNumber, Vec<Listed>);

impl View {
    /// What a batch is that stands in a segment: in order, or rewritten there.
    fn standing(&self, log: LogId, entry: &Entry, rewritten_in: Option<SegmentNumber>) -> Standing {
        let Some(state) = self.log(log) else { return Standing::Elsewhere };
        if entry.next_seq() <= state.row.floor.head.next_seq {
            Standing::Trimmed
        } else if state.row.rewrites.segment_of(entry.first_seq) == rewritten_in {
            Standing::Here
        } else {
            Standing::Elsewhere
        }
    }

    /// Rewritten batches that stand in a segment.
    fn rewritten_listed(&self, segment: SegmentNumber, entries: Vec<(LogId, Entry)>) -> Vec<Listed> {
        let listed = |(log, entry)| {
            let standing = self.standing(log, &entry, Some(segment));
            Listed { log, entry, batch: None, standing }
        };
        entries.into_iter().map(listed).collect()
    }

    /// The arrival number of the first batch in order that has not been freed.
    fn first_arrival(&self) -> Arrival {
        let sealed = self.sealed.first().map(|segment| segment.first_arrival);
        sealed.or(self.active.as_ref().map(|active| active.first_arrival)).unwrap_or(self.next_arrival)
    }

    /// The sealed segments that may hold rewritten batches from `arrival` on.
    fn rewritten_behind(&self, arrival: Arrival) -> Vec<SealedSegment> {
        let may_hold = |segment: &&SealedSegment| match self.rewritten.get(&segment.number) {
            Some(Some((_, last))) => *last >= arrival,
            Some(None) => true,
            None => false,
        };
        self.sealed.iter().filter(may_hold).cloned().collect()
    }

    /// Batches of a run, with what is at hand of them, before `end`.
    fn listed(&self, entries: Vec<(LogId, Entry)>, end: Option<Arrival>) -> impl Iterator<Item = Listed> {
        let entries = entries.into_iter().take_while(move |(_, entry)| end.is_none_or(|end| entry.arrival < end));
        entries.map(|(log, entry)| Listed {
            log,
            entry,
            batch: self.ring.batch(entry.arrival).cloned(),
            standing: self.standing(log, &entry, None),
        })
    }
}

impl Shared {
    /// The batches from `arrival` on; `None` if none has arrived.
    fn locate_arrival(&self, arrival: Arrival) -> Result<Option<Extract>, ReadError> {
        let mut rewritten = self.rewritten_from(arrival)?;
        let first_of = |(_, listed): &Rewritten| listed.first().map(|listed| (listed.entry.arrival, listed.standing));
        // Of two copies with one number that in use comes first, and the other is passed over as too early.
        rewritten.sort_by_key(first_of);
        let first = rewritten.first().and_then(first_of).map(|(arrival, _)| arrival);
        let in_order = self.locate_in_order(arrival, first)?;
        let (Some(first), false) = (first, in_order.as_ref().is_some_and(|extract| !extract.entries.is_empty())) else {
            return Ok(in_order);
        };
        // What comes next was rewritten. It goes on so until something else comes first.
        let behind = self.locate_in_order(Arrival(first.0 + 1), None)?;
        let in_order = behind.and_then(|extract| extract.entries.front().map(|listed| listed.entry.arrival));
        let other = rewritten.get(1).and_then(first_of).map(|(arrival, _)| arrival);
        let end = in_order.into_iter().chain(other).min();
        let Some((segment, listed)) = rewritten.into_iter().next() else { return Ok(None) };
        let is_next = |listed: &Listed| {
            let arrival = listed.entry.arrival;
            arrival == first || end.is_none_or(|end| arrival < end)
        };
        let entries = listed.into_iter().take_while(is_next).collect();
        Ok(self.file_of(segment)?.map(|file| Extract { segment, file, entries }))
    }

    /// For each segment that has any, the first rewritten batches from `arrival` on.
    fn rewritten_from(&self, arrival: Arrival) -> Result<Vec<Rewritten>, ReadError> {
        let mut found = Vec::new();
        let sealed = {
            let view = self.view_without_digests();
            if let Some(active) = &view.active {
                let entries = active.index.rewritten_arrivals_from(arrival, LOOKUP_BATCHES);
                found.push((active.number, view.rewritten_listed(active.number, entries)));
            }
            view.rewritten_behind(arrival)
        };
        for segment in sealed {
            let loaded = self.load(&segment)?;
            self.note_rewritten_arrivals(segment.number, loaded.index.rewritten_arrivals());
            let entries = loaded.index.rewritten_arrivals_from(arrival, LOOKUP_BATCHES);
            found.push((segment.number, self.view_without_digests().rewritten_listed(segment.number, entries)));
        }
        found.retain(|(_, listed)| !listed.is_empty());
        Ok(found)
    }

    /// Keeps in mind which arrival numbers the rewritten batches of a sealed segment have, so that it need not be asked.
    fn note_rewritten_arrivals(&self, segment: SegmentNumber, arrivals: Option<(Arrival, Arrival)>) {
        let is_known = matches!(self.view_without_digests().rewritten.get(&segment), Some(Some(_)) | None);
        if is_known {
            return;
        }
        let mut view = self.view_mut();
        match arrivals {
            Some(arrivals) => drop(view.rewritten.insert(segment, Some(arrivals))),
            None => drop(view.rewritten.remove(&segment)),
        }
    }

    /// The batches that stand in runs, from `arrival` to before `end`; `None` if there is none behind either.
    fn locate_in_order(&self, arrival: Arrival, end: Option<Arrival>) -> Result<Option<Extract>, ReadError> {
        let (sealed, active_begins) = {
            let view = self.view_without_digests();
            let first_behind = view.sealed.partition_point(|segment| segment.first_arrival <= arrival);
            let candidates: Vec<_> = view.sealed[first_behind.saturating_sub(1)..].to_vec();
            if let Some(active) = view.active.as_ref().filter(|active| active.first_arrival <= arrival) {
                let entries = active.index.arrivals_from(arrival, LOOKUP_BATCHES);
                let is_end = entries.is_empty();
                let entries = view.listed(entries, end).collect();
                let extract = Extract { segment: active.number, file: Arc::clone(&active.file), entries };
                return Ok((!is_end).then_some(extract));
            }
            // Looked up once: by the time the sealed ones are read, another segment may be the active one.
            (candidates, view.active.as_ref().map(|active| active.first_arrival))
        };
        for segment in sealed {
            let loaded = self.load(&segment)?;
            let entries = loaded.index.arrivals_from(arrival, LOOKUP_BATCHES);
            if !entries.is_empty() {
                let entries = self.view_without_digests().listed(entries, end).collect();
                return Ok(Some(Extract { segment: loaded.number, file: loaded.file, entries }));
            }
        }
        active_begins.map_or(Ok(None), |first| self.locate_in_order(first, end))
    }
}

/// Iterates over the durable batches of all logs in order of arrival. Like [`LogReader`](super::LogReader) otherwise.
///
/// Ranges of numbers of which the batches are kept no more are told, one after the other:
/// [`ReadError::TrimmedArrivals`].
#[derive(Debug)]
pub struct ArrivalReader {
    shared: Arc<Shared>,
    next: Arrival,
    cursor: Cursor,
    /// What the journal's count of [changes](super::retention::Retention::changes) was when the cursor was filled.
    changes: u64,
}

impl ArrivalReader {
    pub(crate) fn new(shared: Arc<Shared>, from: Arrival) -> Self {
        let changes = shared.retention.changes();
        Self { shared, next: from, cursor: Cursor::default(), changes }
    }

    /// Arrival number of the next batch that it has not returned.
    pub fn next_arrival(&self) -> Arrival {
        self.next
    }

    /// Whether what the cursor holds may not be where it was any more; it is then forgotten.
    fn forgets(&mut self) -> bool {
        let changes = self.shared.retention.changes();
        if changes == self.changes {
            return false;
        }
        self.changes = changes;
        self.cursor = Cursor::default();
        true
    }

    fn step(&mut self) -> Option<Result<(Arrival, Batch), ReadError>> {
        loop {
            let Some(listed) = self.cursor.entries.pop_front() else {
                match self.shared.locate_arrival(self.next) {
                    Err(error) => return Some(Err(error)),
                    Ok(None) => return self.end(),
                    Ok(Some(extract)) => self.cursor.fill(extract),
                }
                continue;
            };
            let arrival = listed.entry.arrival;
            if arrival < self.next {
                continue;
            }
            if arrival > self.next {
                self.cursor.entries.push_front(listed);
                return Some(Err(self.gap_until(arrival)));
            }
            if listed.standing == Standing::Here {
                let result = self.cursor.read(listed);
                if matches!(result, Err(ReadError::Disk { .. })) {
                    self.cursor.entries.clear();
                } else {
                    self.next = Arrival(arrival.0 + 1);
                }
                return Some(result.map(|batch| (arrival, batch)));
            }
            self.next = Arrival(arrival.0 + 1);
            if listed.standing == Standing::Trimmed {
                return Some(Err(self.trimmed_from(arrival)));
            }
        }
    }

    /// Nothing comes any more, for the time being.
    fn end(&mut self) -> Option<Result<(Arrival, Batch), ReadError>> {
        // So that the file of a segment that is freed meanwhile takes no space.
        self.cursor = Cursor::default();
        let first = self.shared.view_without_digests().first_arrival();
        (self.next < first).then(|| Err(self.gap_until(first)))
    }

    /// The range of trimmed batches that begins with one at `first_arrival`.
    fn trimmed_from(&mut self, first_arrival: Arrival) -> ReadError {
        let goes_on = |listed: &Listed, next| listed.entry.arrival == next && listed.standing == Standing::Trimmed;
        while self.cursor.entries.front().is_some_and(|listed| goes_on(listed, self.next)) {
            self.cursor.entries.pop_front();
            self.next.0 += 1;
        }
        ReadError::TrimmedArrivals { first_arrival, first_available: self.next }
    }

    /// Why there is nothing up to `arrival`, or up to where another reason begins.
    fn gap_until(&mut self, arrival: Arrival) -> ReadError {
        let (first_arrival, first_kept) = (self.next, self.shared.view_without_digests().first_arrival());
        if first_arrival < first_kept {
            self.next = arrival.min(first_kept);
            return ReadError::TrimmedArrivals { first_arrival, first_available: self.next };
        }
        self.next = arrival;
        ReadError::MissingArrivals { first_arrival, next_arrival: arrival }
    }
}

impl Iterator for ArrivalReader {
    type Item = Result<(Arrival, Batch), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.forgets();
        loop {
            let at = self.next;
            let item = self.step()?;
            // What was looked for may have gone elsewhere meanwhile; then it is looked for again.
            if item.is_ok() || !self.forgets() {
                return Some(item.inspect_err(|error| self.shared.note_hole(error)));
            }
            self.next = at;
        }
    }
}
