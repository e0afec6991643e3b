//! Receipts: what an append has reached.

use std::{
    fmt,
    future::Future,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use counterfoil_storage::{AppendError, LogId, Seq};

use crate::{
    acks::{Acks, WaiterId},
    error::Result,
};

/// How far an append has come. Ordered: each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Taken into the queue of this process: lost if the process ends now.
    Buffered,
    /// On this node's disk, flushed: survives power loss.
    Local,
    /// `Local`, and so many distinct other nodes have said that it is durable on their own disks: those at the other
    /// ends of this node's links, and those that these mirror onward to, whose acks they pass on. Each counts once.
    Mirrored(usize),
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffered => f.write_str("buffered"),
            Self::Local => f.write_str("durable locally"),
            Self::Mirrored(1) => f.write_str("mirrored to 1 node"),
            Self::Mirrored(nodes) => write!(f, "mirrored to {nodes} nodes"),
        }
    }
}

/// The counterfoil of an append: says which records it made, and how far they have come.
///
/// Cheap to clone; dropping it changes nothing about the append.
///
/// **Durability**: an error means *unknown*, not *absent*. The records may be found when the store
/// is next opened.
///
/// ```
/// use std::time::Duration;
/// use counterfoil::{Durability, Store};
///
/// let store = Store::in_memory()?;
/// let receipt = store.own_space()?.append("a record")?;
/// receipt.wait(Durability::Local)?;
/// // Nobody mirrors this store: what has been reached is said, not what was hoped for.
/// let reached = receipt.wait_timeout(Durability::Mirrored(1), Duration::from_millis(1))?;
/// assert_eq!(reached, Durability::Local);
/// # Ok::<(), counterfoil::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Receipt {
    stored: counterfoil_storage::Receipt,
    acks: Arc<Acks>,
}

impl Receipt {
    pub(crate) fn new(stored: counterfoil_storage::Receipt, acks: Arc<Acks>) -> Self {
        Self { stored, acks }
    }

    #[cfg(feature = "collections")]
    pub(crate) fn stored(&self) -> &counterfoil_storage::Receipt {
        &self.stored
    }

    /// The log appended to.
    pub fn log(&self) -> LogId {
        self.stored.log()
    }

    /// Sequence number of the first record.
    pub fn first_seq(&self) -> Seq {
        self.stored.first_seq()
    }

    /// Sequence number after the last record.
    pub fn next_seq(&self) -> Seq {
        self.stored.next_seq()
    }

    fn records(&self) -> Range<Seq> {
        self.first_seq()..self.next_seq()
    }

    /// The level reached by now; never waits.
    ///
    /// # Errors
    ///
    /// The commit failed: whether the records are found when the store is next opened is not known.
    pub fn reached(&self) -> Result<Durability> {
        if !self.stored.is_durable()? {
            return Ok(Durability::Buffered);
        }
        Ok(match self.acks.count(self.log(), &self.records()) {
            0 => Durability::Local,
            nodes => Durability::Mirrored(nodes),
        })
    }

    /// Waits until `level` is reached, however long it takes. May flush the disk itself.
    ///
    /// # Errors
    ///
    /// The commit failed; or the store was closed before the level was reached ([`AppendError::Closed`]).
    pub fn wait(&self, level: Durability) -> Result<()> {
        match level {
            Durability::Buffered => Ok(()),
            Durability::Local | Durability::Mirrored(0) => Ok(self.stored.wait()?),
            Durability::Mirrored(nodes) => self.wait_mirrored(nodes, None),
        }
    }

    /// Waits until `level` is reached or `timeout` is over, and says which level has been: compare
    /// it with what was asked for. It may be higher, and `Mirrored` with fewer nodes is less.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use counterfoil::{Durability, Store};
    /// # let store = Store::in_memory()?;
    /// # let receipt = store.own_space()?.append("a record")?;
    /// let asked = Durability::Mirrored(2);
    /// let reached = receipt.wait_timeout(asked, Duration::from_millis(1))?;
    /// if reached < asked {
    ///     eprintln!("only {reached} so far");
    /// }
    /// # assert!(reached < asked && Durability::Mirrored(1) < asked);
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As of [`reached`](Self::reached). That the time is over is no error.
    pub fn wait_timeout(&self, level: Durability, timeout: Duration) -> Result<Durability> {
        match level {
            Durability::Buffered => {}
            Durability::Local | Durability::Mirrored(0) => _ = self.stored.wait_timeout(timeout)?,
            Durability::Mirrored(nodes) => self.wait_mirrored(nodes, now().checked_add(timeout))?,
        }
        self.reached()
    }

    /// A future of the same wait. It never flushes in `poll`: the store's background thread does. In a
    /// store opened without one, somebody must call [`Store::commit`](crate::Store::commit).
    ///
    /// Dropping it before it is ready is harmless: the append goes on.
    pub fn durable(&self, level: Durability) -> Durable {
        Durable { receipt: self.clone(), level, waiter: None }
    }

    /// Waits for acks with this thread as the one to wake; returns early at the deadline.
    ///
    /// It leads the commit if nobody else does, and is not woken by one that another leads: nothing leaves this node before
    /// it is durable here, so the ack says both.
    fn wait_mirrored(&self, nodes: usize, deadline: Option<Instant>) -> Result<()> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut durable = self.durable(Durability::Mirrored(nodes));
        loop {
            if let Poll::Ready(outcome) = self.stored.lead_or_watch(&waker) {
                outcome?;
            }
            let acks = durable.poll_acks(nodes, &mut Context::from_waker(&waker));
            if let Poll::Ready(outcome) = acks {
                outcome?;
                break;
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(now())) {
                None => thread::park(),
                Some(Duration::ZERO) => return Ok(()),
                Some(left) => thread::park_timeout(left),
            }
        }
        // An ack may be of another history of the log: of a store that has been set back.
        match deadline {
            None => self.stored.wait()?,
            Some(deadline) => _ = self.stored.wait_timeout(deadline.saturating_duration_since(now()))?,
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "a caller's thread waits here for a time that it chose")]
fn now() -> Instant {
    Instant::now()
}

/// Wakes a thread that is parked.
pub(crate) struct Unpark(pub(crate) Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The future that [`Receipt::durable`] returns. Cancel-safe.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Durable {
    receipt: Receipt,
    level: Durability,
    waiter: Option<WaiterId>,
}

impl Durable {
    /// Ready once so many nodes have the records.
    fn poll_acks(&mut self, nodes: usize, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Receipt { acks, .. } = &self.receipt;
        let wanted = (self.receipt.log(), self.receipt.records(), nodes);
        acks.poll_mirrored(wanted, &mut self.waiter, cx)
            .map(|is_mirrored| if is_mirrored { Ok(()) } else { Err(AppendError::Closed.into()) })
    }
}

impl Future for Durable {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match this.level {
            Durability::Buffered => return Poll::Ready(Ok(())),
            Durability::Local | Durability::Mirrored(0) => {}
            // As in `Receipt::wait_mirrored`.
            Durability::Mirrored(nodes) => match this.poll_acks(nodes, cx) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => {
                    return match this.receipt.stored.poll_failed(cx) {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                }
            },
        }
        this.receipt.stored.poll_durable(cx).map_err(Into::into)
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            self.receipt.acks.forget(self.receipt.log(), waiter);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use counterfoil_replication::Event;
    use counterfoil_storage::{Digest, Head, Holes, Incarnation, NodeName, Seq};

    use super::*;
    use crate::Store;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A store that flushes when it is told to.
    fn store() -> Store {
        Store::builder().background(false).in_memory().unwrap()
    }

    /// The hub says that it has a log as far as this.
    fn acked(store: &Store, log: LogId, next_seq: u64) {
        let node = NodeName::new("hub").unwrap();
        let head = Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([0; 32]) };
        let incarnation = Incarnation::from_bytes([1; 16]);
        let (holes, via) = (Holes::default(), Vec::new());
        store.inner.acks.hear(&node.clone(), Event::Acked { log, node, incarnation, head, holes, via, losses: 0 });
    }

    #[test]
    fn levels_are_ordered_and_say_in_words_what_they_are() {
        let levels = [Durability::Buffered, Durability::Local, Durability::Mirrored(1), Durability::Mirrored(2)];
        assert!(levels.is_sorted_by(|a, b| a < b));
        let words: Vec<_> = levels.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["buffered", "durable locally", "mirrored to 1 node", "mirrored to 2 nodes"]);
    }

    #[test]
    fn who_waits_for_an_ack_is_woken_by_it_and_not_by_the_flush_before_it() {
        let store = store();
        let receipt = store.own_space().unwrap().append("a record").unwrap();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let mut mirrored = receipt.durable(Durability::Mirrored(1));
        assert!(Pin::new(&mut mirrored).poll(&mut cx).is_pending());
        store.commit().unwrap();
        assert_eq!((receipt.reached().unwrap(), count.0.load(Ordering::SeqCst)), (Durability::Local, 0));
        acked(&store, receipt.log(), 1);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(matches!(Pin::new(&mut mirrored).poll(&mut cx), Poll::Ready(Ok(()))));
    }

    #[test]
    fn an_ack_of_what_another_history_had_there_does_not_stand_for_the_own_flush() {
        let store = store();
        let space = store.own_space().unwrap();
        let log = space.append("first").unwrap().log();
        acked(&store, log, 9);
        let receipt = space.append("second").unwrap();
        let mut mirrored = receipt.durable(Durability::Mirrored(1));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut mirrored).poll(&mut cx).is_pending());
        // A thread flushes itself.
        receipt.wait(Durability::Mirrored(1)).unwrap();
        assert_eq!(receipt.reached().unwrap(), Durability::Mirrored(1));
        assert!(Pin::new(&mut mirrored).poll(&mut cx).is_ready());
    }
}
