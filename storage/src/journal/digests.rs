//! Digests of many long batches, computed beside the flush: nobody's ack waits for them, only the next batch of the same
//! log and whoever asks where a log ends. Short ones have theirs since they were sealed together.

use std::sync::{Arc, PoisonError};

use super::frame::FrameEntry;
use crate::{
    batch::Batch,
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

/// From so many batches on the work is shared with a thread of its own.
const SHARED_MIN: usize = 64;

/// Batches of one frame. Several threads may compute their digests together.
#[derive(Debug)]
pub(crate) struct Digests {
    /// Each with the slot of its log.
    batches: Vec<(usize, Batch)>,
    next: AtomicUsize,
}

impl Digests {
    /// Of the batches in a frame whose digests are not known yet, if they are many.
    pub(crate) fn of_many(entries: &[FrameEntry], slots: &[usize]) -> Option<Arc<Self>> {
        if entries.len() < SHARED_MIN {
            return None;
        }
        let unknown = entries.iter().zip(slots).filter_map(|(entry, slot)| match entry {
            FrameEntry::Batch(batch) if batch.known_digest().is_none() => Some((*slot, batch.clone())),
            _ => None,
        });
        let batches: Vec<_> = unknown.collect();
        (batches.len() >= SHARED_MIN).then(|| Arc::new(Self { batches, next: AtomicUsize::new(0) }))
    }

    /// Computes those that nobody has begun.
    fn help(&self) {
        while let Some((_, batch)) = self.batches.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            batch.digest();
        }
    }

    /// The batches, once all digests are computed.
    pub(crate) fn finish(&self) -> &[(usize, Batch)] {
        self.help();
        for (_, batch) in &self.batches {
            // Another thread may be at it.
            batch.digest();
        }
        &self.batches
    }
}

#[derive(Debug, Default)]
struct State {
    work: Option<Arc<Digests>>,
    stopping: bool,
}

/// The thread's orders.
#[derive(Debug, Default)]
pub(crate) struct Hasher {
    state: Mutex<State>,
    changed: Condvar,
}

impl Hasher {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the digests computed. What was asked for before is left to those who need it.
    pub(crate) fn begin(&self, digests: Arc<Digests>) {
        self.state().work = Some(digests);
        self.changed.notify_one();
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_one();
    }

    /// The thread. `done` is called each time digests are computed.
    pub(crate) fn run(&self, done: impl Fn()) {
        let mut state = self.state();
        loop {
            if state.stopping {
                return;
            }
            let Some(digests) = state.work.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            digests.finish();
            drop(digests);
            done();
            state = self.state();
        }
    }
}
