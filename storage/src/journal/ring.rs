//! The newest batches in memory, so that those who follow need not read the disk.

use std::collections::VecDeque;

use crate::{batch::Batch, ids::Arrival};

#[derive(Debug)]
struct RingBatch {
    arrival: Arrival,
    /// Its length, in bytes: whoever evicts it need not look at it, which has long left the processor's caches.
    len: u32,
    batch: Batch,
}

/// The newest batches, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Ring {
    batches: VecDeque<RingBatch>,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn push(&mut self, arrival: Arrival, batch: Batch) {
        let len = batch.bytes().len() as u32;
        self.bytes += len as usize;
        self.batches.push_back(RingBatch { arrival, len, batch });
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= oldest.len as usize;
        }
    }

    /// The batch with this arrival number, if it is still here.
    pub(crate) fn batch(&self, arrival: Arrival) -> Option<&Batch> {
        let index = self.batches.binary_search_by_key(&arrival, |kept| kept.arrival).ok()?;
        Some(&self.batches[index].batch)
    }
}
