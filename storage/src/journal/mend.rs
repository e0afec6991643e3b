//! Filling holes with the verbatim bytes of what was lost.
//!
//! A batch that is damaged where it stands is written anew in the same place: whatever becomes of that write, a crash
//! in the middle of it included, the place holds the batch or is damaged as before, and nothing else is touched. So
//! its arrival number, the indexes and all cursors stay as they are.

use std::{
    io::{self, IoSlice},
    sync::{Arc, PoisonError},
};

use super::{
    Journal,
    commit::Shared,
    error::{DiskError, MendError, Place, ReadError},
    read::Site,
    segment,
};
use crate::{
    batch::Batch,
    ids::Seq,
    vfs::{OpenMode, read_full, write_full},
};

impl Journal {
    /// Fills holes with the batches that were lost: those of one hole from its end on, newest first. Any order of
    /// holes will do.
    ///
    /// Each must be the very batch that is missing, by its digest: see [`holes`](Self::holes). One that is not missing
    /// any more changes nothing. Blocks while the disk does.
    ///
    /// **Durability**: on `Ok` all of them survive power loss. On `Err`, and if the power fails meanwhile, those before
    /// the one that failed do; of the others each is there, or missing as before.
    ///
    /// # Errors
    ///
    /// A batch is not what is missing ([`MendError::NotMissing`]); the disk refuses, or is full; the store is read only,
    /// closed or poisoned.
    pub fn mend(&self, batches: &[Batch]) -> Result<(), MendError> {
        // One at a time, and none while a segment is given up.
        let _mending = self.shared.mending.lock().unwrap_or_else(PoisonError::into_inner);
        batches.iter().try_for_each(|batch| self.shared.mend(batch))
    }
}

impl Shared {
    fn mend(self: &Arc<Self>, batch: &Batch) -> Result<(), MendError> {
        let (log, first_seq) = (batch.log(), batch.first_seq());
        if let Some(refusal) = self.queue_for_writing()?.refusal() {
            return Err(refusal.into());
        }
        match self.read_batch(log, first_seq) {
            // Known to be missing only because holes are told apart up to a number, or filled by another.
            Ok(Some(stored)) if stored == *batch => {
                self.change_holes(log, |holes| holes.take(first_seq, batch.next_seq()));
                return Ok(());
            }
            Ok(_) => return Err(MendError::NotMissing { log, first_seq }),
            Err(ReadError::Damaged { .. } | ReadError::Hole { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.check_missing(batch)?;
        match self.site_of(batch)? {
            Some(site) => self.write_in_place(&site, batch)?,
            None => return Err(MendError::NotMissing { log, first_seq }),
        }
        self.change_holes(log, |holes| holes.take(first_seq, batch.next_seq()));
        tracing::info!(dir = %self.dir.display(), %log, %first_seq, next_seq = %batch.next_seq(), "a hole was filled");
        Ok(())
    }

    /// Whether a batch is the last one of a hole, by the digest that the hole's end tells, and continues what is before
    /// the hole if it is the first.
    fn check_missing(self: &Arc<Self>, batch: &Batch) -> Result<(), MendError> {
        let (log, first_seq) = (batch.log(), batch.first_seq());
        let not_missing = MendError::NotMissing { log, first_seq };
        let holes = self.holes(log)?;
        let hole = holes.iter().find(|hole| hole.first_seq <= first_seq && hole.end == batch.head());
        let Some(hole) = hole else { return Err(not_missing) };
        if first_seq > hole.first_seq {
            return Ok(());
        }
        let before = match first_seq.0.checked_sub(1) {
            None => self.view().log(log).map(|state| state.row.genesis.head().digest),
            Some(last) => match self.read_batch(log, Seq(last)) {
                Ok(batch) => batch.map(|batch| batch.digest()),
                // What is known of it comes from behind the hole.
                Err(ReadError::Damaged { .. } | ReadError::Hole { .. }) => None,
                Err(error) => return Err(error.into()),
            },
        };
        if before.is_none_or(|digest| digest == batch.header().previous) { Ok(()) } else { Err(not_missing) }
    }

    fn write_in_place(&self, site: &Site, batch: &Batch) -> Result<(), MendError> {
        let Place { segment, offset } = site.place;
        let path = segment::path(&self.dir, segment);
        let write = || {
            let file = self.options.vfs.open(&path, OpenMode::Write)?;
            write_full(&*file, &mut [IoSlice::new(batch.bytes())], offset)?;
            file.sync_data()?;
            let mut written = vec![0; batch.bytes().len()];
            let count = read_full(&*file, &mut written, offset)?;
            if written[..count] == batch.bytes()[..] {
                Ok(())
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidData, "what was written is not what is read"))
            }
        };
        write().map_err(|error| MendError::Disk { place: site.place, error: DiskError::from(error) })
    }
}
