//! Takes what has become durable in a space's logs into the states of its keys.
//!
//! What can't be read is a gap, which is kept with what has been taken in: it is read again when the space is next opened, and
//! whenever the journal says that some of its holes were found or filled.

use std::sync::{Arc, MutexGuard};

use counterfoil_storage::{Head, Journal, LogId, LogInfo, ReadError, Seq};

use super::{
    engine::{Engine, IndexProgress},
    index::Taken,
    layers::State,
};
use crate::{
    error::{Error, Result},
    store::lock,
};

/// Progress is told after so many records.
const PROGRESS_RECORDS: u64 = 100_000;

impl Engine {
    /// The state, with all that is durable taken in.
    pub(super) fn caught_up<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>> {
        if state.is_unsound {
            return self.index_again(state, "what is written there is wrong");
        }
        let may_be_mended = !state.taken.gaps.is_empty() && state.holes_seen != Some(self.journal.holes_changed());
        if !state.watch.take_change() && !state.is_behind && !may_be_mended {
            return Ok(state);
        }
        state.is_behind = true;
        let mut state = match self.take_all(state) {
            Err(Error::Index { what }) => self.index_again(lock(&self.state), &what)?,
            taken => taken?,
        };
        state.is_behind = false;
        Ok(state)
    }

    pub(super) fn take_all<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        // Asked before the gaps are read: what is mended meanwhile is seen the next time.
        let holes = self.journal.holes_changed();
        // Beside a writer it is the writer that mends, of which nothing is heard here.
        if !state.taken.gaps.is_empty() && (state.holes_seen != Some(holes) || self.is_read_only) {
            state = self.retry_gaps(state)?;
        }
        state.holes_seen = Some(holes);
        let logs = self.journal.logs(Some(&self.space));
        let length = |head: Option<&Head>| head.map_or(0, |head| head.next_seq.0);
        let news = |info: &LogInfo, state: &State| {
            info.durable.next_seq.0.saturating_sub(length(state.taken.heads.get(&info.id)))
        };
        let identity = self.journal.identity();
        let is_own = |info: &&LogInfo| {
            info.genesis.node == identity.node && info.genesis.nonce == *identity.incarnation.as_bytes()
        };
        state.own = logs.iter().find(is_own).map(|info| (info.id, info.durable.next_seq));
        let mut progress = Progress::new(self, logs.iter().map(|info| news(info, &state)).sum());
        for info in &logs {
            if news(info, &state) > 0 {
                state = self.take_log(state, info.id, info.durable, &mut progress)?;
            }
        }
        Ok(state)
    }

    /// Takes in a log up to where it durably ends.
    fn take_log<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        log: LogId,
        end: Head,
        progress: &mut Progress<'_>,
    ) -> Result<MutexGuard<'a, State>> {
        let from = state.taken.heads.get(&log).map_or(Seq::ZERO, |head| head.next_seq);
        let mut next = from;
        let mut batches = self.journal.read(log, from);
        while next < end.next_seq {
            match batches.next() {
                Some(Ok(batch)) => {
                    let unread = state.take_batch(&batch, next)?;
                    next = batch.next_seq();
                    state.taken.gaps.add(log, unread, next);
                    state.taken.heads.insert(log, batch.head());
                    progress.advance(batch.header().record_count.into());
                }
                Some(Err(error)) => match missing_range(&error) {
                    Some((first_seq, next_seq)) => {
                        state.taken.gaps.add(log, first_seq, next_seq);
                        next = next_seq;
                    }
                    None => return Err(error.into()),
                },
                None => break,
            }
            state = self.flushed_if_full(state);
        }
        if next >= end.next_seq && state.taken.heads.get(&log).is_none_or(|head| head.next_seq < next) {
            // It ends in a gap.
            state.taken.heads.insert(log, end);
        }
        Ok(state)
    }

    /// Reads again what could not be read: it may have been mended. A gap is known until all of it has been taken in.
    fn retry_gaps<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        let gaps: Vec<_> = state.taken.gaps.iter().collect();
        for (log, first_seq, end) in gaps {
            let mut next = first_seq;
            let mut batches = self.journal.read(log, first_seq);
            while next < end {
                match batches.next() {
                    Some(Ok(batch)) => {
                        let unread = state.take_batch(&batch, next)?;
                        state.taken.gaps.take(log, next, unread);
                        next = batch.next_seq();
                    }
                    Some(Err(error)) => match missing_range(&error) {
                        Some((_, after)) => next = after,
                        None => return Err(error.into()),
                    },
                    None => break,
                }
                state = self.flushed_if_full(state);
            }
        }
        Ok(state)
    }

    /// Has the fresh layer written to the index once it is large.
    fn flushed_if_full<'a>(self: &'a Arc<Self>, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.fresh.bytes() <= state.flush_at_bytes {
            return state;
        }
        let state = self.wait_flushed(state);
        self.flush(state, self.background)
    }
}

/// Tells how far the taking in of many records has come.
struct Progress<'a> {
    engine: &'a Engine,
    records: u64,
    records_in_all: u64,
    told: u64,
}

impl<'a> Progress<'a> {
    fn new(engine: &'a Engine, records_in_all: u64) -> Self {
        Self { engine, records: 0, records_in_all, told: 0 }
    }

    fn advance(&mut self, records: u64) {
        self.records += records;
        let is_due = self.records - self.told >= PROGRESS_RECORDS || self.records >= self.records_in_all;
        if self.records_in_all < PROGRESS_RECORDS || !is_due {
            return;
        }
        self.told = self.records;
        let Self { records, records_in_all, .. } = *self;
        tracing::info!(space = %self.engine.space, records, records_in_all, "indexing collections");
        if let Some(tell) = &self.engine.on_progress {
            tell(&IndexProgress { space: self.engine.space.clone(), records, records_in_all });
        }
    }
}

/// A log of which the index has seen what is not here: the store lost its end, or is an older copy.
pub(super) fn not_of_this_history(journal: &Journal, taken: &Taken) -> Result<Option<LogId>> {
    for (log, head) in &taken.heads {
        let info = journal.log(*log);
        if info.as_ref().is_some_and(|info| info.durable == *head) || head.next_seq == Seq::ZERO {
            continue;
        }
        if info.is_none_or(|info| info.durable.next_seq < head.next_seq) {
            return Ok(Some(*log));
        }
        match journal.read_batch(*log, Seq(head.next_seq.0 - 1)) {
            Ok(Some(batch)) if batch.head() == *head => {}
            Err(error) if missing_range(&error).is_some() => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(Some(*log)),
        }
    }
    Ok(None)
}

/// The range that an error says can't be had; `None` if trying again may help.
fn missing_range(error: &ReadError) -> Option<(Seq, Seq)> {
    match error {
        ReadError::Damaged { first_seq, next_seq, .. } | ReadError::Hole { first_seq, next_seq, .. } => {
            Some((*first_seq, *next_seq))
        }
        ReadError::Trimmed { first_seq, first_available, .. } => Some((*first_seq, *first_available)),
        _ => None,
    }
}
