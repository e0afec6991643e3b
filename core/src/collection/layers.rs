//! What is known of the keys of a space, in layers: what changed of late, what is being written to the index, the index, and
//! over them what this process has queued.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use counterfoil_storage::{AppendError, Batch, LogId, Receipt, Seq, Watch};

use super::{
    engine::{FullKey, RawVersion, full_key},
    index::{IndexError, Numbers, Snapshot, SpaceIndex, Taken},
    layer::Layer,
    record::{self, Prefix, Seen, Unreadable},
    state::{KeyState, Live},
};
use crate::{error::Result, read::COLLECTION};

pub(super) struct State {
    pub(super) watch: Watch,
    /// `None` once the store is closed.
    pub(super) index: Option<OpenIndex>,
    /// Counts the snapshots of the index: what is in no layer is what it was as long as the snapshot is the same.
    pub(super) snapshots: u64,
    /// By which rows name logs, in the layers too.
    pub(super) numbers: Numbers,
    pub(super) taken: Taken,
    pub(super) fresh: Layer,
    pub(super) flushing: Option<Arc<Layer>>,
    pub(super) queued: BTreeMap<FullKey, Vec<Queued>>,
    /// The log that this life of this node writes, and where it durably ended when logs were last taken in.
    pub(super) own: Option<(LogId, Seq)>,
    /// The journal's count of changes to its holes when gaps were last read again; `None` before that.
    pub(super) holes_seen: Option<u64>,
    /// Taking in was begun and did not end.
    pub(super) is_behind: bool,
    /// What is written in the index is wrong: it is to be made anew.
    pub(super) is_unsound: bool,
    /// The fresh layer is written to the index once it is as large: more than usual after that failed.
    pub(super) flush_at_bytes: usize,
}

pub(super) struct OpenIndex {
    pub(super) snapshot: Snapshot,
    pub(super) space: Arc<SpaceIndex>,
}

/// A write of this process that is not taken in yet.
pub(super) struct Queued {
    pub(super) receipt: Receipt,
    pub(super) seq: Seq,
    /// Of its key, with the write.
    pub(super) state: KeyState,
    /// Of its key, by what was durable when it was made: found then, and needed again when it has become durable itself.
    pub(super) before: Option<Before>,
    pub(super) version: RawVersion,
}

/// The state of a key in the layers and a snapshot of the index, by its [number](State::snapshots).
pub(super) struct Before {
    pub(super) state: KeyState,
    pub(super) snapshot: u64,
}

impl State {
    /// Takes in the records of a batch from a sequence number on, as far as they can be read; the first that can't be,
    /// and with it all that follow in the batch, or the batch's end.
    pub(super) fn take_batch(&mut self, batch: &Batch, from: Seq) -> Result<Seq> {
        let (log, mut next) = (batch.log(), from.max(batch.first_seq()));
        let body = match batch.body() {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!(%log, first_seq = %next, %error, "records can't be read: collections lack them");
                return Ok(next);
            }
        };
        let prefix = Prefix::of(&batch.digest());
        for record in body.record_refs() {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(%log, first_seq = %next, %error, "records can't be read: collections lack them");
                    return Ok(next);
                }
            };
            next = next.max(Seq(record.seq.0 + 1));
            if record.attributes.kind != COLLECTION || record.seq < from {
                continue;
            }
            let place = Seen { log, seq: record.seq, prefix: Some(prefix), time: record.time };
            match record::decode(record.body) {
                Ok(writes) => writes.into_iter().try_for_each(|write| self.take_write(place, &write))?,
                Err(unreadable) => {
                    let version = match unreadable {
                        Unreadable::Version(version) => version,
                        Unreadable::Malformed => 0,
                    };
                    tracing::warn!(log = %place.log, seq = %place.seq, version, "a write to collections can't be read: it is kept");
                    self.taken.unreadable.insert((place.log, place.seq), version);
                }
            }
        }
        Ok(batch.next_seq())
    }

    fn take_write(&mut self, place: Seen, write: &record::Write<'_>) -> Result<()> {
        let key = full_key(write.collection, write.key);
        let before = self.taken_from_queue(&key, place);
        let mut known = match (self.in_layers(&key)?, before) {
            (Some(known), _) => known,
            (None, Some(before)) if before.snapshot == self.snapshots => before.state,
            (None, _) => self.in_snapshot(&key)?,
        };
        // A record comes after what it supersedes in its own log.
        let own = write.own.filter(|seq| *seq < place.seq).map(|seq| Seen { seq, prefix: None, ..place });
        let others = write.others.iter().filter(|seen| !is_of_other_history(seen, &known, self));
        let supersedes: Vec<_> =
            own.into_iter().chain(others.copied()).map(|seen| Seen { time: place.time, ..seen }).collect();
        known.apply(place, supersedes, write.value.is_none());
        self.fresh.insert(&key, &known, &mut self.numbers);
        Ok(())
    }

    /// Takes what has been taken in up to a place from what is queued; what was known before the first of it.
    fn taken_from_queue(&mut self, key: &FullKey, place: Seen) -> Option<Before> {
        let queued = self.queued.get_mut(key)?;
        let before = queued.first_mut().and_then(|queued| queued.before.take());
        queued.retain(|queued| queued.version.log != place.log || queued.seq > place.seq);
        if queued.is_empty() {
            self.queued.remove(key);
        }
        before
    }

    /// The state of a key by what is durable.
    pub(super) fn durable(&self, key: &[u8]) -> Result<KeyState> {
        self.in_layers(key)?.map_or_else(|| self.in_snapshot(key), Ok)
    }

    fn in_layers(&self, key: &[u8]) -> Result<Option<KeyState>> {
        let row = self.fresh.row(key).or_else(|| self.flushing.as_ref()?.row(key));
        let decoded = |row| KeyState::decode(row, self.numbers.logs()).ok_or(IndexError::Row);
        Ok(row.map(decoded).transpose()?)
    }

    fn in_snapshot(&self, key: &[u8]) -> Result<KeyState> {
        let index = self.index.as_ref().ok_or(AppendError::Closed)?;
        Ok(index.snapshot.state(key, &self.numbers)?.unwrap_or_default())
    }

    /// The state of a key with what this process has queued.
    pub(super) fn effective(&self, key: &[u8]) -> Result<KeyState> {
        let mut state = self.durable(key)?;
        if let Some(queued) = self.last_queued(key) {
            state.join(&queued.state);
        }
        Ok(state)
    }

    /// The state of a key with what this process has queued; and by what is durable, unless something is queued.
    pub(super) fn before(&self, key: &[u8]) -> Result<(KeyState, Option<Before>)> {
        if self.queued.contains_key(key) {
            return Ok((self.effective(key)?, None));
        }
        let state = self.durable(key)?;
        Ok((state.clone(), Some(Before { state, snapshot: self.snapshots })))
    }

    /// Up to `limit` keys, ascending, with the state of each; and whether there may be more.
    pub(super) fn keys(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
        only_conflicts: bool,
    ) -> Result<(Vec<(FullKey, KeyState)>, bool)> {
        let index = self.index.as_ref().ok_or(AppendError::Closed)?;
        let mut keys = index.snapshot.keys(range, limit, only_conflicts)?;
        let layers = [self.flushing.as_deref(), Some(&self.fresh)].into_iter().flatten();
        for layer in layers {
            keys.extend(layer.keys(range, limit, only_conflicts));
        }
        keys.extend(self.queued.range::<[u8], _>(range).take(limit).map(|(key, _)| key.clone()));
        keys.sort_unstable();
        keys.dedup();
        let is_more = keys.len() >= limit;
        keys.truncate(limit);
        let with_state = |key: FullKey| self.effective(&key).map(|found| (key, found));
        Ok((keys.into_iter().map(with_state).collect::<Result<_>>()?, is_more))
    }

    /// The last write that is queued and has not failed.
    pub(super) fn last_queued(&self, key: &[u8]) -> Option<&Queued> {
        self.queued.get(key)?.iter().rev().find(|queued| queued.receipt.is_durable().is_ok())
    }

    pub(super) fn queued_version(&self, key: &[u8], live: &Live) -> Option<RawVersion> {
        let version = &self.last_queued(key)?.version;
        ((version.log, version.seq) == (live.log, live.seq)).then(|| version.clone())
    }
}

/// Whether what a write names is here as far, and is no version of the key: it means another history of the log. This node's own
/// log is here to its end.
fn is_of_other_history(seen: &Seen, known: &KeyState, state: &State) -> bool {
    let (heads, gaps) = (&state.taken.heads, &state.taken.gaps);
    let is_beyond_own_end = state.own.is_some_and(|(log, end)| log == seen.log && end <= seen.seq);
    let is_here = heads.get(&seen.log).is_some_and(|head| head.next_seq > seen.seq);
    let is_in_gap = gaps.contain(seen.log, seen.seq);
    let is_version = known.last_in(seen.log).is_some_and(|last| last.seq >= seen.seq);
    // Of a newer format: it may have been the version that is meant.
    let is_unreadable = state.taken.unreadable.contains_key(&(seen.log, seen.seq));
    is_beyond_own_end || (is_here && !is_version && !is_in_gap && !is_unreadable)
}
