//! Telling those who wait that something has become durable.

use std::{
    sync::{Arc, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use crate::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
    now,
    thread::{self, Thread},
};

/// A waker for a thread that parks.
#[derive(Debug)]
pub(crate) struct Parker {
    thread: Thread,
    woken: AtomicBool,
}

impl Parker {
    /// For the thread that calls.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { thread: thread::current(), woken: AtomicBool::new(false) })
    }

    /// Parks until woken or `deadline`; whether it was woken.
    pub(crate) fn park_until(&self, deadline: Option<Instant>) -> bool {
        loop {
            if self.woken.swap(false, Ordering::Acquire) {
                return true;
            }
            match deadline {
                None => thread::park(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(now());
                    if left.is_zero() {
                        return false;
                    }
                    thread::park_timeout(left);
                }
            }
        }
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// When a wait of `timeout` from now on ends; never, if that can't be represented.
pub(crate) fn deadline_after(timeout: Duration) -> Option<Instant> {
    now().checked_add(timeout)
}

/// A counter of changes that many may wait for.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    version: AtomicU64,
    /// There may be someone in `wakers`: most spaces have nobody who waits, and are told so by one load.
    is_awaited: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Signal {
    /// Counts a change; those to be woken are added to `woken`.
    pub(crate) fn raise(&self, woken: &mut Vec<Waker>) {
        // Either this sees that someone is registered, or whoever registers sees the new version: both
        // sides write first and then read, in one order for all.
        self.version.fetch_add(1, Ordering::SeqCst);
        if self.is_awaited.load(Ordering::SeqCst) {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            self.is_awaited.store(false, Ordering::SeqCst);
            woken.append(&mut wakers);
        }
    }

    fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.is_awaited.store(true, Ordering::SeqCst);
    }
}

/// Tells when logs have durably grown, a log has been added, or the journal has failed or been closed.
///
/// From [`Journal::watch`](super::Journal::watch). Changes between two calls count as one. The first
/// call is ready if anything happened since the watch was made.
#[derive(Debug)]
pub struct Watch {
    signal: Arc<Signal>,
    seen: u64,
}

impl Watch {
    pub(crate) fn new(signal: Arc<Signal>) -> Self {
        let seen = signal.version.load(Ordering::Acquire);
        Self { signal, seen }
    }

    /// Whether there was a change since this was last asked, or a wait ended. Never waits.
    pub fn take_change(&mut self) -> bool {
        let version = self.signal.version.load(Ordering::SeqCst);
        let changed = version != self.seen;
        self.seen = version;
        changed
    }

    /// Waits for a change or `timeout`; whether there was a change.
    pub fn wait_timeout(&mut self, timeout: Duration) -> bool {
        let deadline = deadline_after(timeout);
        let parker = Parker::new();
        let waker = Waker::from(Arc::clone(&parker));
        loop {
            match self.poll_changed(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) => return true,
                Poll::Pending => {
                    if !parker.park_until(deadline) {
                        return self.take_change();
                    }
                }
            }
        }
    }

    /// Ready when there was a change since it was last ready; else the task is woken by the next.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.take_change() {
            return Poll::Ready(());
        }
        self.signal.register(cx.waker());
        // A change between the first look and the registration would not have woken anyone.
        if self.take_change() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raise(signal: &Signal) {
        let mut woken = Vec::new();
        signal.raise(&mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    #[test]
    fn a_change_is_told_once_and_wakes_a_waiting_thread() {
        let signal = Arc::new(Signal::default());
        let mut watch = Watch::new(Arc::clone(&signal));
        assert!(!watch.wait_timeout(Duration::ZERO));
        raise(&signal);
        raise(&signal);
        assert!(watch.wait_timeout(Duration::ZERO));
        assert!(!watch.wait_timeout(Duration::ZERO));
        let raiser = thread::spawn(move || raise(&signal));
        assert!(watch.wait_timeout(Duration::from_secs(60)));
        raiser.join().unwrap();
    }
}
