//! The primitives by which threads meet: the standard library's.
//!
//! With `--cfg shuttle` they are those of the crate shuttle, which runs threads one at a time and lets a scheduler choose
//! who goes on at each use of a primitive. All other code is the same, so what `storage/faults/tests/schedules` explores
//! is what is shipped. What no other thread waits for or races with (the digest of a batch, files in memory) stays with
//! the standard library.

#[cfg(shuttle)]
mod explored;

#[cfg(shuttle)]
pub(crate) use explored::{
    Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic, now, thread, wait_at_most,
};
#[cfg(not(shuttle))]
use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};
#[cfg(not(shuttle))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread,
};

/// The time, for waits with a limit and for pacing.
#[cfg(not(shuttle))]
#[expect(clippy::disallowed_methods, reason = "a blocking wait with a time limit, and pacing, need the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until `told`, or for `limit`, or for no reason at all. `guard` is of `mutex`.
#[cfg(not(shuttle))]
pub(crate) fn wait_at_most<'a, T>(
    told: &Condvar,
    _mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    told.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}
