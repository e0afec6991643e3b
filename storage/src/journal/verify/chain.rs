//! What verification finds out about one log: which of its batches follow each other.
//!
//! Batches need not come in the order of their log: some are rewritten later in the journal, and what came before the
//! first one kept is gone.

use std::collections::HashSet;

use crate::{
    batch::Batch,
    ids::{Head, LogId, Seq},
    journal::{error::Place, report::Damage},
};

/// Batches that follow each other.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// Where the first of them begins, and what it follows.
    begin: Head,
    end: Head,
    /// Where the first of them is.
    place: Place,
    /// That it does not follow what is before it has been said.
    is_reported: bool,
}

/// One log.
#[derive(Debug, Default)]
pub(super) struct LogCheck {
    /// Where it begins; none before its announcement has been met.
    origin: Option<Head>,
    /// Where what is kept of it begins, if that is later.
    floor: Option<Head>,
    /// Few: one, unless something is missing or was rewritten.
    stretches: Vec<Stretch>,
}

impl LogCheck {
    /// Its announcement has been met.
    pub(super) fn announce(&mut self, origin: Head) {
        self.origin.get_or_insert(origin);
    }

    /// What comes before `floor` is kept no more.
    pub(super) fn trim(&mut self, floor: Head) {
        if self.floor.is_none_or(|known| known.next_seq < floor.next_seq) {
            self.floor = Some(floor);
        }
    }

    /// Its first record that is kept, as far as a floor has been met.
    pub(super) fn floor(&self) -> Seq {
        self.floor.map_or(Seq::ZERO, |floor| floor.next_seq)
    }

    /// Whether a batch with this record has been taken.
    pub(super) fn holds(&self, seq: Seq) -> bool {
        self.stretches.iter().any(|stretch| (stretch.begin.next_seq..stretch.end.next_seq).contains(&seq))
    }

    /// How many records have been met that are kept, each counted once.
    pub(super) fn records(&self) -> u64 {
        let mut ranges: Vec<_> = self.stretches.iter().map(|it| (it.begin.next_seq, it.end.next_seq)).collect();
        ranges.sort_unstable();
        let mut reached = self.floor();
        let mut records = 0;
        for (first_seq, next_seq) in ranges {
            records += next_seq.0.saturating_sub(first_seq.max(reached).0);
            reached = reached.max(next_seq);
        }
        records
    }

    /// Takes a batch; what is wrong with where it is, if that can be told already.
    pub(super) fn add(&mut self, batch: &Batch, place: Place) -> Option<&'static str> {
        let begin = Head { next_seq: batch.first_seq(), digest: batch.header().previous };
        let end = batch.head();
        let before = self.stretches.iter().position(|stretch| stretch.end == begin);
        let differs = before.is_none() && self.stretches.iter().any(|stretch| stretch.end.next_seq == begin.next_seq);
        let differs = differs || self.origin.is_some_and(|origin| origin.next_seq == begin.next_seq && origin != begin);
        let mut stretch = Stretch { begin, end, place, is_reported: differs };
        if let Some(before) = before.map(|before| self.stretches.swap_remove(before)) {
            stretch = Stretch { end, ..before };
        }
        if let Some(behind) = self.stretches.iter().position(|behind| behind.begin == end && begin != end) {
            stretch.end = self.stretches.swap_remove(behind).end;
        }
        self.stretches.push(stretch);
        differs.then_some("the batch does not continue its log's chain")
    }

    /// Tells what is missing in the log, once everything has been read. `lost` are the logs with the ends of those of
    /// their batches that have been reported already.
    pub(super) fn finish(mut self, log: LogId, lost: &HashSet<(LogId, Seq)>) -> Vec<Damage> {
        let mut damage = Vec::new();
        let Some(mut reached) = self.origin else {
            let name = |stretch: &Stretch| {
                let (first, next) = (stretch.begin.next_seq, stretch.end.next_seq);
                Damage::of_records(stretch.place, log, first, next, "the log was never announced")
            };
            return self.stretches.iter().map(name).collect();
        };
        if let Some(floor) = self.floor.filter(|floor| floor.next_seq > reached.next_seq) {
            reached = floor;
        }
        self.stretches.sort_by_key(|stretch| (stretch.begin.next_seq, stretch.place.segment, stretch.place.offset));
        while let Some(index) = self.next_after(reached) {
            let Stretch { begin, end, place, is_reported } = self.stretches.swap_remove(index);
            if begin.next_seq > reached.next_seq && !lost.contains(&(log, begin.next_seq)) {
                let what = "records are missing before this batch";
                damage.push(Damage::of_records(place, log, reached.next_seq, begin.next_seq, what));
            } else if begin.next_seq == reached.next_seq && begin != reached && !is_reported {
                let what = "the batch does not continue its log's chain";
                damage.push(Damage::of_records(place, log, begin.next_seq, end.next_seq, what));
            }
            reached = end;
        }
        damage
    }

    /// The stretch that goes on from there: one that follows, else one that has it in it or begins there, else the next.
    fn next_after(&self, reached: Head) -> Option<usize> {
        let is_of_use = |stretch: &&Stretch| stretch.end.next_seq > reached.next_seq;
        let follows = self.stretches.iter().position(|stretch| stretch.begin == reached);
        follows.or_else(|| {
            let candidates = self.stretches.iter().enumerate().filter(|(_, stretch)| is_of_use(stretch));
            candidates.min_by_key(|(_, stretch)| stretch.begin.next_seq.max(reached.next_seq)).map(|(index, _)| index)
        })
    }
}
