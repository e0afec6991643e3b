//! Spaces: named sets of logs that replicate together.

use std::{
    fmt,
    ops::RangeBounds,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use counterfoil_storage::{Genesis, LogId, LogInfo, LogWriter, NodeName, Parent, ReadError, Seq, SpaceName};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{Bincode, Codec},
    error::{Error, Result},
    read::{Cursor, Follow, Read},
    receipt::Receipt,
    store::Inner,
    typed::Typed,
};

/// A space of a store: append to it, read it, follow it. Cheap to clone.
///
/// Each node that writes to a space has a log of its own in it. This node's log comes into being
/// with its first record.
#[derive(Clone)]
pub struct Space {
    inner: Arc<Inner>,
    state: Arc<SpaceState>,
}

/// What all handles of a space share.
pub(crate) struct SpaceState {
    name: SpaceName,
    writer: OnceLock<LogWriter>,
    /// Held while the own log is looked up or made.
    making: Mutex<()>,
}

impl SpaceState {
    pub(crate) fn new(name: SpaceName) -> Self {
        Self { name, writer: OnceLock::new(), making: Mutex::new(()) }
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("name", &self.state.name).finish_non_exhaustive()
    }
}

impl Space {
    pub(crate) fn new(inner: Arc<Inner>, state: Arc<SpaceState>) -> Self {
        Self { inner, state }
    }

    /// Its name.
    pub fn name(&self) -> &SpaceName {
        &self.state.name
    }

    /// The space as values of one type, encoded with bincode.
    pub fn typed<T: Serialize + DeserializeOwned>(&self) -> Typed<T> {
        self.typed_with(Bincode)
    }

    /// The space as values of one type, encoded with a codec.
    pub fn typed_with<T: Serialize + DeserializeOwned, C: Codec>(&self, codec: C) -> Typed<T, C> {
        Typed::new(self.clone(), codec)
    }

    /// Appends a record to this node's log; waits while the queue is full, never for the disk or the network.
    ///
    /// **Durability**: on `Ok` the record is in the queue of this process. It becomes durable within
    /// milliseconds, or when somebody waits for it with the receipt.
    ///
    /// # Errors
    ///
    /// Nothing was queued: the record is too long, the disk is full or has failed, the store is
    /// closed or read-only.
    pub fn append(&self, body: impl AsRef<[u8]>) -> Result<Receipt> {
        let body = body.as_ref();
        let stored = self.writer()?.append(body)?;
        self.inner.appended.count(1, body.len() as u64);
        Ok(self.receipt(stored))
    }

    /// Appends records that are committed together: after a crash all are there, or none.
    ///
    /// **Durability**: as of [`append`](Self::append).
    pub fn append_all<B: AsRef<[u8]>>(&self, bodies: &[B]) -> Result<Receipt> {
        let stored = self.writer()?.append_all(bodies)?;
        self.count(bodies);
        Ok(self.receipt(stored))
    }

    /// Like [`append`](Self::append), but fails with
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) instead of waiting for room in the queue.
    pub fn try_append(&self, body: impl AsRef<[u8]>) -> Result<Receipt> {
        self.try_append_all(&[body])
    }

    /// Like [`append_all`](Self::append_all), but fails with
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) instead of waiting for room in the queue.
    pub fn try_append_all<B: AsRef<[u8]>>(&self, bodies: &[B]) -> Result<Receipt> {
        let stored = self.writer()?.try_append_all(bodies)?;
        self.count(bodies);
        Ok(self.receipt(stored))
    }

    fn count<B: AsRef<[u8]>>(&self, bodies: &[B]) {
        let bytes: usize = bodies.iter().map(|body| body.as_ref().len()).sum();
        self.inner.appended.count(bodies.len() as u64, bytes as u64);
    }

    fn receipt(&self, stored: counterfoil_storage::Receipt) -> Receipt {
        Receipt::new(stored, Arc::clone(&self.inner.acks))
    }

    /// The space's logs as they stand, of this node and of others; ascending by id.
    pub fn logs(&self) -> Vec<LogInfo> {
        self.inner.journal.logs(Some(&self.state.name))
    }

    /// This node's own log, if it has begun.
    pub fn own_log(&self) -> Option<LogId> {
        let writer = self.state.writer.get().map(LogWriter::log);
        writer.or_else(|| self.find_own(&self.logs()).map(|info| info.id))
    }

    /// Reads durable records of this node's own log, all (`..`) or a part (`Seq(3)..Seq(5)`), in order. If this node
    /// does not write here, and one other does, reads that one's.
    ///
    /// A store that is found to be a copy writes a new log from then on, whose genesis names the
    /// earlier one: that is read with [`read_log`](Self::read_log), or both with [`follow`](Self::follow).
    ///
    /// ```
    /// use counterfoil::{Seq, Store};
    ///
    /// let store = Store::in_memory()?;
    /// let space = store.own_space()?;
    /// space.append_all(&["a", "b", "c"])?;
    /// store.commit()?;
    /// let seqs: Vec<_> = space.read(Seq(1)..)?.map(|record| record.map(|record| record.seq().0)).collect::<Result<_, _>>()?;
    /// assert_eq!(seqs, [1, 2]);
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::AmbiguousLog`] if several other nodes write here and this one does not: use
    /// [`read_log`](Self::read_log), or [`follow`](Self::follow).
    pub fn read(&self, range: impl RangeBounds<Seq>) -> Result<Read> {
        let logs = self.logs();
        let info = match (self.find_own(&logs), &logs[..]) {
            (Some(own), _) => own,
            (None, [only]) => only,
            (None, []) => return Ok(Read::empty()),
            (None, _) => return Err(Error::AmbiguousLog { space: self.state.name.clone(), logs: logs.len() }),
        };
        Ok(Read::new(&self.inner, info.id, info.genesis.node.clone(), &range))
    }

    /// Reads durable records of one of the space's logs, in order.
    ///
    /// # Errors
    ///
    /// The log is not in this space.
    pub fn read_log(&self, log: LogId, range: impl RangeBounds<Seq>) -> Result<Read> {
        let info = self.inner.journal.log(log).filter(|info| info.genesis.space == self.state.name);
        let info = info.ok_or(ReadError::UnknownLog { log })?;
        Ok(Read::new(&self.inner, log, info.genesis.node.clone(), &range))
    }

    /// Follows all the space's logs from `cursor` on, as their records become durable.
    pub fn follow(&self, cursor: Cursor) -> Follow {
        Follow::new(Arc::clone(&self.inner), self.state.name.clone(), cursor)
    }

    /// Where all the space's logs durably end now: to follow only what comes.
    pub fn end(&self) -> Cursor {
        let mut cursor = Cursor::start();
        self.logs().iter().for_each(|info| cursor.set(info.id, info.durable.next_seq));
        cursor
    }

    fn writer(&self) -> Result<&LogWriter> {
        if let Some(writer) = self.state.writer.get() {
            return Ok(writer);
        }
        let _making = self.state.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = self.state.writer.get() {
            return Ok(writer);
        }
        let logs = self.logs();
        let log = match self.find_own(&logs) {
            Some(own) => own.id,
            None => self.inner.journal.create_log(self.genesis(&logs))?,
        };
        let writer = self.inner.journal.writer(log)?;
        Ok(self.state.writer.get_or_init(|| writer))
    }

    /// The log that this life of this node writes.
    fn find_own<'a>(&self, logs: &'a [LogInfo]) -> Option<&'a LogInfo> {
        let identity = self.inner.journal.identity();
        let is_own = |info: &&LogInfo| {
            info.genesis.node == identity.node && info.genesis.nonce == *identity.incarnation.as_bytes()
        };
        logs.iter().filter(is_own).max_by_key(|info| info.genesis.term)
    }

    /// What the own log begins with: it continues the last one of an earlier life, if there was one.
    fn genesis(&self, logs: &[LogInfo]) -> Genesis {
        let identity = self.inner.journal.identity();
        let earlier = logs.iter().filter(|info| info.genesis.node == identity.node);
        let parent = earlier.max_by_key(|info| (info.last_time, info.id));
        Genesis {
            parent: parent.map(|info| Parent { log: info.id, head: info.durable }),
            ..Genesis::new(self.state.name.clone(), identity.node.clone(), *identity.incarnation.as_bytes())
        }
    }
}

/// The spaces named, or the one that bears the node's own name.
pub(crate) fn names_or_own(names: &[String], own: &NodeName) -> Result<Vec<SpaceName>> {
    if names.is_empty() {
        return Ok(vec![SpaceName::new(own.as_str())?]);
    }
    Ok(names.iter().map(|name| SpaceName::new(name)).collect::<Result<_, _>>()?)
}
