//! The background committer: commits what nobody waits for, and marks the last frame.

use std::sync::{Arc, PoisonError};

use super::{
    commit::{NUDGE_BYTES, Shared},
    frame::FrameKind,
};
use crate::sync::{
    thread::{self, JoinHandle},
    wait_at_most,
};

/// Starts the threads of a journal; the one returned ends once the journal is closed and its lock given back.
pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
    let for_filler = Arc::clone(shared);
    let filler = thread::Builder::new().name("counterfoil-fill".into()).spawn(move || {
        if let Some(filler) = &for_filler.filler {
            filler.run(|number| for_filler.footer_written(number));
        }
    })?;
    let for_hasher = Arc::clone(shared);
    let hasher = thread::Builder::new().name("counterfoil-hash".into()).spawn(move || {
        if let Some(hasher) = &for_hasher.hasher {
            hasher.run(|| for_hasher.finish_digests());
        }
    })?;
    let shared = Arc::clone(shared);
    thread::Builder::new().name("counterfoil-commit".into()).spawn(move || {
        commit_until_closing(&shared);
        shared.finish_closing();
        if let Some(filler) = &shared.filler {
            filler.stop();
        }
        if let Some(hasher) = &shared.hasher {
            hasher.stop();
        }
        // A panic there has been reported by the panic hook; there is nothing to add.
        let _ = filler.join();
        let _ = hasher.join();
        shared.unlock();
    })
}

/// Between two looks nothing is asked of those who append: a group seen twice has waited long enough.
fn commit_until_closing(shared: &Shared) {
    let (commit_delay, mark_delay) = (shared.options.commit_delay, shared.options.mark_delay);
    let mut seen_group = None;
    let mut queue = shared.queue();
    loop {
        if queue.closing {
            return;
        }
        let group = queue.filling.number;
        if queue.in_flight.is_some() {
            // Somebody leads, and will wake a waiter to lead the next group if there is one.
            seen_group = None;
        } else if !queue.is_empty() {
            let due = queue.nudged || queue.bytes >= NUDGE_BYTES || seen_group == Some(group);
            if due {
                queue = shared.lead(queue);
                continue;
            }
            seen_group = Some(group);
        } else if seen_group == Some(group) {
            // Nothing was committed since the last look: cover the last frame, then sleep until told.
            drop(queue);
            // A failure is seen by the next who appends: the queue is poisoned.
            let _ = shared.mark(FrameKind::Mark);
            queue = shared.queue();
            if queue.is_empty() && queue.in_flight.is_none() && !queue.closing {
                queue.committer_sleeps = true;
                queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.committer_sleeps = false;
            }
            seen_group = None;
            continue;
        } else {
            seen_group = Some(group);
        }
        let pause = if queue.is_empty() { mark_delay } else { commit_delay };
        queue = wait_at_most(&shared.work, &shared.queue, queue, pause);
    }
}
