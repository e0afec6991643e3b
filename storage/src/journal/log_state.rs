//! A log as readers see it: where it durably ends, and what is known to be missing of it.

use std::sync::Arc;

use super::{index::LogRow, watch::Signal};
use crate::{
    batch::BatchHeader,
    holes::Holes,
    ids::{LogId, SegmentNumber, Seq},
};

/// A log as far as it is durable.
#[derive(Debug, Clone)]
pub(crate) struct LogState {
    pub(crate) id: LogId,
    pub(crate) row: LogRow,
    pub(super) signal: Arc<Signal>,
    /// Its run in the segment that grows, if it was begun there.
    pub(super) run: Option<(SegmentNumber, u32)>,
    /// What is known to be missing of it. What is behind its head was its end once.
    pub(crate) holes: Holes,
}

impl LogState {
    /// What is known to be missing of what is kept: what is below the floor is not missing, nor is anything of a log of which
    /// nothing is kept.
    pub(crate) fn holes_kept(&self) -> Holes {
        let floor = self.row.floor.head.next_seq;
        if floor > Seq::ZERO && floor >= self.row.head.next_seq {
            return Holes::default();
        }
        let mut holes = self.holes.clone();
        holes.take(Seq::ZERO, floor);
        holes
    }

    /// The same, of what comes before its head.
    pub(crate) fn holes_before_head(&self) -> Holes {
        let mut holes = self.holes_kept();
        holes.take(self.row.head.next_seq, Seq(u64::MAX));
        holes
    }

    /// Where it ended as far as is known, though what is behind its head is lost.
    fn lost_end(&self) -> Seq {
        let end = self.holes.iter().last().map_or(Seq::ZERO, |(_, next_seq)| next_seq);
        end.max(self.row.head.next_seq)
    }

    /// A batch was found damaged behind its head, of which this header is left: it is believed if it fits there.
    pub(super) fn lose(&mut self, header: &BatchHeader) {
        let end = self.lost_end();
        let follows = end > self.row.head.next_seq || header.previous == self.row.head.digest;
        if header.first_seq == end && follows {
            self.holes.add(header.first_seq, header.next_seq());
        }
    }
}
