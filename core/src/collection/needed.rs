//! What of the logs the keys of a space still need.

use std::sync::Arc;

use counterfoil_storage::{Batch, Seq};

use super::{
    engine::{Engine, full_key},
    layers::State,
    record,
};
use crate::{error::Result, read::COLLECTION};

impl Engine {
    /// The first record of a batch that the keys of this space need: one with a version that is live, that could not be taken in, or that
    /// this program can't read.
    pub(crate) fn first_needed(self: &Arc<Self>, batch: &Batch) -> Result<Option<Seq>> {
        self.look(|state| state.first_needed(batch))
    }
}

impl State {
    fn first_needed(&self, batch: &Batch) -> Result<Option<Seq>> {
        let log = batch.log();
        let end = self.taken.heads.get(&log).map_or(Seq::ZERO, |head| head.next_seq);
        for record in batch.body()?.record_refs() {
            let record = record?;
            if record.attributes.kind != COLLECTION {
                continue;
            }
            let is_taken = record.seq < end && !self.taken.gaps.contain(log, record.seq);
            let Some(writes) = record::decode(record.body).ok().filter(|_| is_taken) else {
                return Ok(Some(record.seq));
            };
            for write in writes {
                let known = self.durable(&full_key(write.collection, write.key))?;
                if known.live().iter().any(|live| (live.log, live.seq) == (log, record.seq)) {
                    return Ok(Some(record.seq));
                }
            }
        }
        Ok(None)
    }
}
