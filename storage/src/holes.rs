//! What a log lacks: ranges of records that were there and can't be served.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{Head, Seq};

/// The most ranges that are told apart. With more of them the two that lie closest become one, which then also names
/// records that are there: it is never said that less is missing than is.
pub const HOLES_MAX: usize = 16;

/// The holes of a log: ascending ranges that neither touch nor overlap, at most [`HOLES_MAX`]. Empty if nothing is
/// known to be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<(Seq, Seq)>", into = "Vec<(Seq, Seq)>")]
pub struct Holes(Vec<(Seq, Seq)>);

/// Ranges are not [`Holes`]: empty, out of order, or too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("holes of a log are at most {HOLES_MAX} ranges that ascend and neither touch nor overlap")]
pub struct HolesError;

impl Holes {
    /// Whether nothing is known to be missing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each hole: the first sequence number missing, and the first after those missing.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Seq, Seq)> + '_ {
        self.0.iter().copied()
    }

    /// The first sequence number missing.
    pub fn first_seq(&self) -> Option<Seq> {
        self.0.first().map(|(first_seq, _)| *first_seq)
    }

    /// Whether one of the records from `first_seq` to before `next_seq` is missing.
    pub fn meet(&self, first_seq: Seq, next_seq: Seq) -> bool {
        self.0.iter().any(|(first, next)| *first < next_seq && first_seq < *next)
    }

    /// Whether all that these name is named by `other` too.
    pub fn are_within(&self, other: &Self) -> bool {
        self.0.iter().all(|(first, next)| other.0.iter().any(|(begin, end)| begin <= first && next <= end))
    }

    /// Adds a range, which may be known in part; whether it was news.
    pub(crate) fn add(&mut self, first_seq: Seq, next_seq: Seq) -> bool {
        if first_seq >= next_seq || self.0.iter().any(|(first, next)| *first <= first_seq && next_seq <= *next) {
            return false;
        }
        let touching = self.0.extract_if(.., |(first, next)| *first <= next_seq && first_seq <= *next);
        let range = touching.fold((first_seq, next_seq), |(low, high), (first, next)| (low.min(first), high.max(next)));
        let place = self.0.partition_point(|(first, _)| *first < range.0);
        self.0.insert(place, range);
        if self.0.len() > HOLES_MAX {
            let distance = |index: &usize| self.0[index + 1].0.0 - self.0[*index].1.0;
            if let Some(closest) = (0..self.0.len() - 1).min_by_key(distance) {
                let (_, end) = self.0.remove(closest + 1);
                self.0[closest].1 = end;
            }
        }
        true
    }

    /// Takes out a range that is there again, or is not to be there; whether any of it was named.
    pub(crate) fn take(&mut self, first_seq: Seq, next_seq: Seq) -> bool {
        if !self.meet(first_seq, next_seq) {
            return false;
        }
        let left = |(first, next): &(Seq, Seq)| [(*first, (*next).min(first_seq)), ((*first).max(next_seq), *next)];
        let parts: Vec<_> = self.0.iter().flat_map(left).filter(|(first, next)| first < next).collect();
        self.0.clear();
        for (first, next) in parts {
            self.add(first, next);
        }
        true
    }
}

impl TryFrom<Vec<(Seq, Seq)>> for Holes {
    type Error = HolesError;

    fn try_from(ranges: Vec<(Seq, Seq)>) -> Result<Self, HolesError> {
        let ascend = ranges.is_sorted_by(|a, b| a.1 < b.0) && ranges.iter().all(|(first, next)| first < next);
        if ascend && ranges.len() <= HOLES_MAX { Ok(Self(ranges)) } else { Err(HolesError) }
    }
}

impl From<Holes> for Vec<(Seq, Seq)> {
    fn from(holes: Holes) -> Self {
        holes.0
    }
}

/// One hole of a log, with what tells which batches fill it: its last one has the digest of `end`, each one before it
/// that which its successor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The first sequence number missing.
    pub first_seq: Seq,
    /// Where what is missing ends: the digest is that which the next intact batch names, or the log's head.
    pub end: Head,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holes(ranges: &[(u64, u64)]) -> Holes {
        Holes::try_from(ranges.iter().map(|(first, next)| (Seq(*first), Seq(*next))).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn ranges_that_touch_become_one_and_one_that_is_filled_in_the_middle_becomes_two() {
        let mut known = Holes::default();
        assert!(known.add(Seq(3), Seq(5)) && known.add(Seq(8), Seq(9)) && !known.add(Seq(3), Seq(4)));
        assert_eq!(known, holes(&[(3, 5), (8, 9)]));
        assert!(known.add(Seq(5), Seq(8)));
        assert_eq!(known, holes(&[(3, 9)]));
        assert!(known.take(Seq(5), Seq(6)) && !known.take(Seq(5), Seq(6)));
        assert_eq!(known, holes(&[(3, 5), (6, 9)]));
        assert!(known.meet(Seq(4), Seq(6)) && !known.meet(Seq(5), Seq(6)) && !known.meet(Seq(9), Seq(20)));
        assert!(holes(&[(6, 7)]).are_within(&known) && !holes(&[(4, 7)]).are_within(&known));
    }

    #[test]
    fn what_is_no_list_of_holes_is_refused() {
        let many: Vec<_> = (0..=HOLES_MAX as u64).map(|n| (Seq(3 * n), Seq(3 * n + 1))).collect();
        for ranges in [vec![(Seq(1), Seq(1))], vec![(Seq(1), Seq(2)), (Seq(2), Seq(3))], vec![(Seq(5), Seq(1))], many] {
            assert_eq!(Holes::try_from(ranges), Err(HolesError));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_missing_is_ever_forgotten_and_with_few_holes_nothing_else_is_named(
            changes in proptest::collection::vec((any::<bool>(), 0_u64..120, 1_u64..9), 1..80),
        ) {
            let (mut holes, mut missing, mut most) = (Holes::default(), vec![false; 130], 0);
            for (adds, first, len) in changes {
                let (first_seq, next_seq) = (Seq(first), Seq(first + len));
                if adds { holes.add(first_seq, next_seq) } else { holes.take(first_seq, next_seq) };
                missing[first as usize..(first + len) as usize].fill(adds);
                prop_assert!(Holes::try_from(Vec::from(holes.clone())).is_ok());
                let ranges = missing.windows(2).filter(|pair| !pair[0] && pair[1]).count() + usize::from(missing[0]);
                most = most.max(ranges);
                for (seq, is_missing) in (0..).zip(&missing) {
                    let named = holes.meet(Seq(seq), Seq(seq + 1));
                    prop_assert!(named >= *is_missing && (most > HOLES_MAX || named == *is_missing), "{seq}");
                }
            }
        }
    }
}
