//! Filling holes with the verbatim bytes of what was lost.
//!
//! A batch that is damaged where it stands is written anew in the same place: whatever becomes of that write, a crash
//! in the middle of it included, the place holds the batch or is damaged as before, and nothing else is touched. So
//! its arrival number, the indexes and all cursors stay as they are.
//!
//! Where nothing tells any more where a batch stood (a segment file, or a commit's table, is lost), it is rewritten: see
//! the module `rewrite`. It then arrives again, unless its arrival number is known: read by log, it is in its place. Once
//! nothing is missing any more, an empty segment takes the place of one that is gone: see the module `close_gaps`.

use std::{
    io::{self, IoSlice},
    sync::{Arc, PoisonError},
};

use super::{
    Journal,
    commit::Shared,
    error::{AppendError, DiskError, MendError, Place, ReadError},
    rewrite::{Rewritten, in_chunks},
    segment,
};
use crate::{
    batch::Batch,
    holes::Hole,
    ids::{Head, LogId, Seq},
    vfs::{OpenMode, read_full, write_full},
};

impl Journal {
    /// Fills holes with the batches that were lost: those of one hole from its end on, newest first. Any order of
    /// holes will do.
    ///
    /// Each must be the very batch that is missing, by its digest: see [`holes`](Self::holes). One that is not missing
    /// any more changes nothing. Once nothing is missing [gaps are closed](Self::close_gaps). Blocks while the disk does.
    ///
    /// **Durability**: on `Ok` all of them survive power loss. On `Err`, and if the power fails meanwhile, each is there,
    /// or missing as before; the log's holes tell.
    ///
    /// # Errors
    ///
    /// A batch is not what is missing ([`MendError::NotMissing`]): those before it are mended. The disk refuses, or is
    /// full; the store is read only, closed or poisoned.
    pub fn mend(&self, batches: &[Batch]) -> Result<(), MendError> {
        // One at a time, and none while a segment is given up.
        let _mending = self.shared.mending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lost = Vec::new();
        let mended = self.shared.mend(batches, &mut lost);
        let rewritten = self.shared.rewrite_lost(lost);
        self.shared.record_holes();
        rewritten?;
        mended?;
        if let Err(error) = self.shared.close_gaps() {
            // Nothing is missing for that; it is tried again with the next mending.
            tracing::warn!(dir = %self.shared.dir.display(), %error, "lost segments go on being told of");
        }
        Ok(())
    }
}

/// Where a batch that may be missing belongs.
enum Standing {
    /// It reads as it should.
    Whole(Place),
    /// It is damaged where it stands.
    Damaged(Place),
    /// Nothing tells where it stood.
    Lost,
}

impl Shared {
    /// Fills holes; those batches that have no place any more are left in `lost`.
    fn mend(self: &Arc<Self>, batches: &[Batch], lost: &mut Vec<Batch>) -> Result<(), MendError> {
        if let Some(refusal) = self.queue_for_writing()?.refusal() {
            return Err(refusal.into());
        }
        // What is left of the hole that the last batch belongs to.
        let mut rest: Option<(LogId, Hole)> = None;
        for batch in batches {
            let (log, first_seq) = (batch.log(), batch.first_seq());
            let known = rest.take().filter(|(of, hole)| *of == log && hole.end == batch.head()).map(|(_, hole)| hole);
            match self.standing(batch)? {
                Standing::Whole(place) => {
                    // Bytes whose flush failed are read back as if all were well: what was missing is written anew.
                    let holes = |log| self.view().log(log).map(|state| state.holes.clone());
                    if holes(log).is_some_and(|holes| holes.meet(first_seq, batch.next_seq())) {
                        self.write_in_place(place, batch)?;
                    }
                    self.filled(batch);
                }
                Standing::Damaged(place) => {
                    rest = self.check_missing(batch, known)?.map(|hole| (log, hole));
                    self.write_in_place(place, batch)?;
                    self.filled(batch);
                    tracing::info!(dir = %self.dir.display(), %place, %log, %first_seq, "a batch was mended");
                }
                Standing::Lost => {
                    rest = self.check_missing(batch, known)?.map(|hole| (log, hole));
                    lost.push(batch.clone());
                }
            }
        }
        Ok(())
    }

    fn filled(&self, batch: &Batch) {
        self.change_holes(batch.log(), |holes| holes.take(batch.first_seq(), batch.next_seq()));
    }

    fn standing(self: &Arc<Self>, batch: &Batch) -> Result<Standing, MendError> {
        let (log, first_seq) = (batch.log(), batch.first_seq());
        if let Some(place) = self.place_of(batch)? {
            // What counts is the disk, not what is kept of it in memory.
            let stored = self.read_place(place, batch.bytes().len());
            let stored = stored.map_err(|error| MendError::Disk { place, error: DiskError::from(error) })?;
            return Ok(if stored[..] == batch.bytes()[..] { Standing::Whole(place) } else { Standing::Damaged(place) });
        }
        match self.read_batch(log, first_seq) {
            Err(ReadError::Damaged { .. } | ReadError::Hole { .. }) => Ok(Standing::Lost),
            Ok(_) => Err(MendError::NotMissing { log, first_seq }),
            Err(error) => Err(error.into()),
        }
    }

    fn read_place(&self, place: Place, len: usize) -> io::Result<Vec<u8>> {
        let file = self.options.vfs.open(&segment::path(&self.dir, place.segment), OpenMode::Read)?;
        let mut bytes = vec![0; len];
        let count = read_full(&*file, &mut bytes, place.offset)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Whether a batch is the last one of a hole, by the digest that the hole's end tells, and continues what is before
    /// the hole if it is the first. What is left of the hole then. `known` is a hole that ends with it.
    fn check_missing(self: &Arc<Self>, batch: &Batch, known: Option<Hole>) -> Result<Option<Hole>, MendError> {
        let (log, first_seq, previous) = (batch.log(), batch.first_seq(), batch.header().previous);
        let not_missing = MendError::NotMissing { log, first_seq };
        let hole = match known {
            Some(hole) => Some(hole),
            None => self.holes(log)?.into_iter().find(|hole| hole.end == batch.head()),
        };
        let Some(hole) = hole.filter(|hole| hole.first_seq <= first_seq) else { return Err(not_missing) };
        if first_seq > hole.first_seq {
            let end = Head { next_seq: first_seq, digest: previous };
            return Ok(Some(Hole { first_seq: hole.first_seq, end }));
        }
        let before = match first_seq.0.checked_sub(1) {
            None => self.view().log(log).map(|state| state.row.genesis.head().digest),
            Some(last) => match self.read_batch(log, Seq(last)) {
                Ok(batch) => batch.map(|batch| batch.digest()),
                // All that is known of it is what comes behind the hole.
                Err(_) => None,
            },
        };
        if before.is_none_or(|digest| digest == previous) { Ok(None) } else { Err(not_missing) }
    }

    /// Stores batches anew, and waits until they are durable.
    fn rewrite_lost(&self, lost: Vec<Batch>) -> Result<(), MendError> {
        in_chunks(lost, |batch| batch.bytes().len()).into_iter().try_for_each(|some| self.rewrite_some(some))
    }

    fn rewrite_some(&self, lost: Vec<Batch>) -> Result<(), MendError> {
        let count = lost.len();
        let slots: Vec<_> = {
            let view = self.view_without_digests();
            lost.into_iter().map(|batch| (view.slot_of(&batch), batch)).collect()
        };
        let rewritten = slots.iter().map(|(slot, batch)| match slot {
            Some(slot) => Rewritten::relocated(batch.clone(), slot.arrival),
            None => Rewritten::restored(batch.clone()),
        });
        let rewritten = rewritten.collect();
        {
            let mut queue = self.make_room(self.queue(), None, true)?;
            for (_, batch) in slots.iter().filter(|(slot, batch)| slot.is_none() && batch.first_seq() == Seq::ZERO) {
                // Where a log began it was announced.
                let log = batch.log();
                let slot = queue.slot(log).ok_or(AppendError::UnknownLog { log })?;
                queue.announce_again(slot);
            }
        }
        let group = self.rewrite(rewritten)?;
        self.wait_for(&group, None).unwrap_or(Ok(()))?;
        tracing::info!(dir = %self.dir.display(), count, "batches that were lost are stored anew");
        // So that nothing is found damaged there any more: what is served is the copy.
        for (slot, batch) in slots {
            if let Some(error) = slot.and_then(|slot| self.write_in_place(slot.place, &batch).err()) {
                tracing::warn!(dir = %self.dir.display(), %error, "the damaged place stays as it is");
            }
        }
        Ok(())
    }

    fn write_in_place(&self, place: Place, batch: &Batch) -> Result<(), MendError> {
        let write = || {
            let file = self.options.vfs.open(&segment::path(&self.dir, place.segment), OpenMode::Write)?;
            write_full(&*file, &mut [IoSlice::new(batch.bytes())], place.offset)?;
            file.sync_data()?;
            if self.read_place(place, batch.bytes().len())? == batch.bytes()[..] {
                Ok(())
            } else {
                Err(io::Error::new(io::ErrorKind::InvalidData, "what was written is not what is read"))
            }
        };
        write().map_err(|error| MendError::Disk { place, error: DiskError::from(error) })
    }
}
