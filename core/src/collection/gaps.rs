//! Records that a space's collections could not take in.

use std::{collections::BTreeMap, fmt};

use counterfoil_storage::{LogId, LogInfo, Seq};

/// Ranges of logs that could not be read. Those of one log neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gaps(BTreeMap<(LogId, Seq), Seq>);

impl Gaps {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each gap: its log, the first record in it, and the first after it; ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LogId, Seq, Seq)> + '_ {
        self.0.iter().map(|((log, first_seq), next_seq)| (*log, *first_seq, *next_seq))
    }

    /// Adds a range, which may be known in part.
    pub(crate) fn add(&mut self, log: LogId, mut first_seq: Seq, mut next_seq: Seq) {
        if first_seq >= next_seq {
            return;
        }
        while let Some((first, next)) = self.last_before(log, Seq(next_seq.0.saturating_add(1)))
            && next >= first_seq
        {
            self.0.remove(&(log, first));
            (first_seq, next_seq) = (first_seq.min(first), next_seq.max(next));
        }
        self.0.insert((log, first_seq), next_seq);
    }

    /// Takes out a range that has been read.
    pub(crate) fn take(&mut self, log: LogId, first_seq: Seq, next_seq: Seq) {
        if first_seq >= next_seq {
            return;
        }
        let mut rest = None;
        while let Some((first, next)) = self.last_before(log, next_seq)
            && next > first_seq
        {
            self.0.remove(&(log, first));
            if next > next_seq {
                rest = Some(next);
            }
            if first < first_seq {
                self.0.insert((log, first), first_seq);
                break;
            }
        }
        if let Some(next) = rest {
            self.0.insert((log, next_seq), next);
        }
    }

    /// Whether a record is in one of them.
    pub(crate) fn contain(&self, log: LogId, seq: Seq) -> bool {
        self.last_before(log, Seq(seq.0.saturating_add(1))).is_some_and(|(_, next)| next > seq)
    }

    /// The last one of a log that begins before a place.
    fn last_before(&self, log: LogId, place: Seq) -> Option<(Seq, Seq)> {
        let ((found, first), next) = self.0.range(..(log, place)).next_back()?;
        (*found == log).then_some((*first, *next))
    }
}

/// Records of a space that are missing here, or can't be read: see [`Collection::missing`](super::Collection::missing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct MissingRange {
    /// The log.
    pub log: LogId,
    /// The first record missing.
    pub first_seq: Seq,
    /// After the last.
    pub next_seq: Seq,
}

impl MissingRange {
    /// What of the logs is missing: what could not be taken in, and what is known to be lost besides. What retention
    /// removed is not.
    pub(super) fn of(logs: &[LogInfo], gaps: &Gaps) -> Vec<Self> {
        let mut all = gaps.clone();
        for info in logs {
            info.holes.iter().for_each(|(first_seq, next_seq)| all.add(info.id, first_seq, next_seq));
            all.take(info.id, Seq::ZERO, info.first_seq);
        }
        all.iter().map(|(log, first_seq, next_seq)| Self { log, first_seq, next_seq }).collect()
    }

    /// How many records.
    pub fn records(&self) -> u64 {
        self.next_seq.0 - self.first_seq.0
    }
}

impl fmt::Display for MissingRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to before {} of log {}", self.first_seq, self.next_seq, self.log)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn log(number: u8) -> LogId {
        LogId::from_bytes([number; 16])
    }

    proptest! {
        /// The model is the set of all records that are in gaps.
        #[test]
        fn gaps_are_the_records_added_and_not_taken_out_in_as_few_ranges_as_can_be(
            steps in prop::collection::vec((any::<bool>(), 0..3_u8, 0..30_u64, 0..12_u64), 0..60)
        ) {
            let (mut gaps, mut model) = (Gaps::default(), BTreeSet::new());
            for (is_added, number, first, len) in steps {
                let range = first..first + len;
                if is_added {
                    gaps.add(log(number), Seq(first), Seq(first + len));
                    model.extend(range.map(|seq| (log(number), seq)));
                } else {
                    gaps.take(log(number), Seq(first), Seq(first + len));
                    model.retain(|(of, seq)| *of != log(number) || !range.contains(seq));
                }
                let named: Vec<_> =
                    gaps.iter().flat_map(|(log, first, next)| (first.0..next.0).map(move |seq| (log, seq))).collect();
                prop_assert_eq!(&named, &model.iter().copied().collect::<Vec<_>>());
                let touch = |pair: &[(LogId, Seq, Seq)]| pair[0].0 == pair[1].0 && pair[0].2 >= pair[1].1;
                prop_assert!(!gaps.iter().collect::<Vec<_>>().windows(2).any(touch));
                for seq in 0..45 {
                    prop_assert_eq!(gaps.contain(log(number), Seq(seq)), model.contains(&(log(number), seq)));
                }
            }
        }
    }
}
