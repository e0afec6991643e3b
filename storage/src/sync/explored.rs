//! The primitives under exploration: shuttle's, with what it lacks.
//!
//! Shuttle knows no time. Here a wait with a limit below [`A_WHILE`] may end at any moment, and moves the clock
//! when it does; one with a longer limit ends only if someone ends it, so that nothing can rely on it.

use std::{
    cell::Cell,
    sync::{LazyLock, PoisonError},
    time::{Duration, Instant},
};

pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};

use self::atomic::{AtomicBool, Ordering};

/// From this limit on, a wait does not end by itself.
const A_WHILE: Duration = Duration::from_secs(1);

thread_local! {
    /// By how much the clock has been moved. An execution, with all its threads, runs in one thread of the system.
    static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The time. It stands still but for waits that end by themselves.
#[expect(clippy::disallowed_methods, reason = "where time begins does not matter, but there is no other instant")]
pub(crate) fn now() -> Instant {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    *BEGINNING + ELAPSED.get()
}

/// Lets others go on while `duration` passes.
fn pass(duration: Duration) {
    shuttle::thread::yield_now();
    ELAPSED.set(ELAPSED.get() + duration);
}

/// Waits until `told`, or for `limit`, or for no reason at all. `guard` is of `mutex`.
pub(crate) fn wait_at_most<'a, T>(
    told: &Condvar,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    if limit < A_WHILE {
        drop(guard);
        pass(limit);
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    } else {
        told.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads, with time.
pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use shuttle::thread::{Builder, JoinHandle, Thread, current, park, yield_now};

    /// Sleeps.
    pub(crate) fn sleep(duration: Duration) {
        super::pass(duration);
    }

    /// Parks until unparked, or for `limit`, or for no reason at all.
    pub(crate) fn park_timeout(limit: Duration) {
        if limit < super::A_WHILE {
            super::pass(limit);
        } else {
            park();
        }
    }
}

/// A cell that is set once, at each use of which another thread may go on first.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    used: AtomicBool,
}

impl<T> OnceLock<T> {
    pub(crate) const fn new() -> Self {
        Self { value: std::sync::OnceLock::new(), used: AtomicBool::new(false) }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.used.load(Ordering::SeqCst);
        self.value.get()
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.used.store(true, Ordering::SeqCst);
        self.value.set(value)
    }
}
