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

impl Durability {
    /// How many other nodes it takes.
    fn nodes(self) -> usize {
        match self {
            Self::Buffered | Self::Local => 0,
            Self::Mirrored(nodes) => nodes,
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
        if level == Durability::Buffered {
            return Ok(());
        }
        self.stored.wait()?;
        self.wait_mirrored(level.nodes(), None)
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
        let deadline = now().checked_add(timeout);
        if level == Durability::Buffered || !self.stored.wait_timeout(timeout)? {
            return self.reached();
        }
        self.wait_mirrored(level.nodes(), deadline)?;
        self.reached()
    }

    /// A future of the same wait. It never flushes in `poll`: the store's background thread does. In a
    /// store opened without one, somebody must call [`Store::commit`](crate::Store::commit).
    ///
    /// Dropping it before it is ready is harmless: the append goes on.
    pub fn durable(&self, level: Durability) -> Durable {
        Durable { receipt: self.clone(), level, is_local: false, waiter: None }
    }

    /// Waits for acks with this thread as the one to wake; returns early at the deadline.
    fn wait_mirrored(&self, nodes: usize, deadline: Option<Instant>) -> Result<()> {
        if self.acks.count(self.log(), &self.records()) >= nodes {
            return Ok(());
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut durable =
            Durable { receipt: self.clone(), level: Durability::Mirrored(nodes), is_local: true, waiter: None };
        loop {
            if let Poll::Ready(result) = Pin::new(&mut durable).poll(&mut Context::from_waker(&waker)) {
                return result;
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(now())) {
                None => thread::park(),
                Some(Duration::ZERO) => return Ok(()),
                Some(left) => thread::park_timeout(left),
            }
        }
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
    /// The local flush has been seen.
    is_local: bool,
    waiter: Option<WaiterId>,
}

impl Future for Durable {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.level == Durability::Buffered {
            return Poll::Ready(Ok(()));
        }
        if !this.is_local {
            match this.receipt.stored.poll_durable(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result?,
            }
            this.is_local = true;
        }
        let nodes = this.level.nodes();
        if nodes == 0 {
            return Poll::Ready(Ok(()));
        }
        let (log, records) = (this.receipt.log(), this.receipt.records());
        this.receipt
            .acks
            .poll_mirrored((log, records, nodes), &mut this.waiter, cx)
            .map(|is_mirrored| if is_mirrored { Ok(()) } else { Err(AppendError::Closed.into()) })
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
    use super::*;

    #[test]
    fn levels_are_ordered_and_say_in_words_what_they_are() {
        let levels = [Durability::Buffered, Durability::Local, Durability::Mirrored(1), Durability::Mirrored(2)];
        assert!(levels.is_sorted_by(|a, b| a < b));
        let words: Vec<_> = levels.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["buffered", "durable locally", "mirrored to 1 node", "mirrored to 2 nodes"]);
    }
}
