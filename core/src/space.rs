//! Spaces: named sets of logs that replicate together.

use std::{
    fmt,
    ops::{Bound, RangeBounds},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use counterfoil_storage::{
    AppendError, Attributes, Genesis, Head, Journal, LogId, LogInfo, LogWriter, NodeName, Parent, ReadError,
    RecordKind, Seq, SpaceName,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{Bincode, Codec},
    cursor::Cursor,
    error::{Error, Result},
    follow::Follow,
    frontier::Frontier,
    read::Read,
    receipt::Receipt,
    retention::Retention,
    store::Inner,
    time,
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
    pub(crate) name: SpaceName,
    /// Of the own log, once that was looked up or made.
    writer: RwLock<Option<LogWriter>>,
    /// What its collections share, once one is opened.
    #[cfg(feature = "collections")]
    pub(crate) engine: std::sync::Mutex<Option<Arc<crate::collection::Engine>>>,
}

impl SpaceState {
    pub(crate) fn new(name: SpaceName) -> Self {
        Self {
            name,
            writer: RwLock::default(),
            #[cfg(feature = "collections")]
            engine: std::sync::Mutex::default(),
        }
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
        let stored = self.write(|writer| writer.append(body))?;
        self.inner.appended.count(1, body.len() as u64);
        Ok(self.receipt(stored))
    }

    /// Appends records that are committed together: after a crash all are there, or none.
    ///
    /// **Durability**: as of [`append`](Self::append).
    ///
    /// # Errors
    ///
    /// Nothing was queued: as of [`append`](Self::append), or they are too long together.
    pub fn append_all<B: AsRef<[u8]>>(&self, bodies: &[B]) -> Result<Receipt> {
        let stored = self.write(|writer| writer.append_all(bodies))?;
        self.count(bodies);
        Ok(self.receipt(stored))
    }

    /// Like [`append`](Self::append), but fails with
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) instead of waiting for room in the queue.
    ///
    /// # Errors
    ///
    /// As of [`append`](Self::append), or the queue is full ([`WouldBlock`](crate::ErrorKind)).
    pub fn try_append(&self, body: impl AsRef<[u8]>) -> Result<Receipt> {
        self.try_append_all(&[body])
    }

    /// Like [`append_all`](Self::append_all), but fails with
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) instead of waiting for room in the queue.
    ///
    /// # Errors
    ///
    /// As of [`try_append`](Self::try_append).
    pub fn try_append_all<B: AsRef<[u8]>>(&self, bodies: &[B]) -> Result<Receipt> {
        let stored = self.write(|writer| writer.try_append_all(bodies))?;
        self.count(bodies);
        Ok(self.receipt(stored))
    }

    /// Like [`append`](Self::append), for a record of something that happened at another time than it is recorded:
    /// what was written on paper during an outage, a measurement that was fetched later. The time is kept to the
    /// millisecond, beside the record's bytes, which stay as they are; records are not ordered by it.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use counterfoil::Store;
    ///
    /// let store = Store::in_memory()?;
    /// let space = store.own_space()?;
    /// let yesterday = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    /// space.append_at("BP 120/80, from the paper chart", yesterday)?;
    /// store.commit()?;
    /// let record = space.read(..)?.next().expect("there is one")?;
    /// assert_eq!(record.happened_at(), Some(yesterday));
    /// assert!(record.recorded_at() > yesterday);
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As of [`append`](Self::append).
    pub fn append_at(&self, body: impl AsRef<[u8]>, happened_at: SystemTime) -> Result<Receipt> {
        self.append_as(RecordKind::PLAIN, Some(happened_at), body.as_ref())
    }

    /// What of this space may be removed from this store, and when: instead of what the
    /// [builder](crate::Builder::retention) said of all spaces. It holds while the store is open, and is to be said again when it is next opened.
    ///
    /// # Errors
    ///
    /// The thread that removes can't be started.
    pub fn set_retention(&self, retention: Retention) -> Result<()> {
        self.inner.keeper.set_policy(&self.state.name, retention);
        self.inner.keeper.start(&self.inner)
    }

    /// What of this space may be removed, and when.
    pub fn retention(&self) -> Retention {
        self.inner.keeper.policy(&self.state.name)
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    #[cfg(feature = "collections")]
    pub(crate) fn parts(&self) -> (&Inner, &SpaceState) {
        (&self.inner, &self.state)
    }

    /// This node's own log, which is made if need be.
    #[cfg(feature = "collections")]
    pub(crate) fn own_log_to_write(&self) -> Result<LogId> {
        self.write(|writer| {
            let log = writer.log();
            if writer.has_ended() { Err(AppendError::LogEnded { log }) } else { Ok(log) }
        })
    }

    /// Appends a record of a kind, if this node's own log is `log` still.
    #[cfg(feature = "collections")]
    pub(crate) fn append_to(
        &self,
        log: LogId,
        kind: RecordKind,
        happened_at: Option<SystemTime>,
        body: &[u8],
    ) -> Result<Receipt> {
        let attributes = Attributes { kind, happened_unix_ms: happened_at.map(time::to_unix_ms) };
        let stored = self.inner.journal.writer(log).and_then(|writer| writer.append_with(attributes, &[body], true))?;
        self.inner.appended.count(1, body.len() as u64);
        Ok(self.receipt(stored))
    }

    /// Appends a record of a kind.
    pub(crate) fn append_as(&self, kind: RecordKind, happened_at: Option<SystemTime>, body: &[u8]) -> Result<Receipt> {
        let attributes = Attributes { kind, happened_unix_ms: happened_at.map(time::to_unix_ms) };
        let stored = self.write(|writer| writer.append_with(attributes, &[body], true))?;
        self.inner.appended.count(1, body.len() as u64);
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
        let writer = self.state.writer.read().unwrap_or_else(PoisonError::into_inner);
        let queued = writer.as_ref().filter(|writer| !writer.has_ended()).map(LogWriter::log);
        queued.or_else(|| self.find_own(&self.logs()).map(|info| info.id))
    }

    /// Reads the space's durable records.
    ///
    /// **All of them** (`..`): of all its logs, as far as they are durable now, in merged order: by
    /// [time](crate::Record::time), then log, then sequence number. That order is a function of the records alone: it is the same
    /// at every node that holds the same [frontier](Self::frontier), whoever wrote what and however it got there. It
    /// agrees with cause and effect: a record that was appended after another had arrived comes after it,
    /// unless that other's stamp came from a clock that was ahead by more than a minute (see
    /// [`clocks_ahead`](Self::clocks_ahead)). In memory are a batch of each log and 4 MiB read ahead.
    ///
    /// **A part** (`Seq(3)..Seq(5)`, and any range with an end): sequence numbers mean something within one log, so
    /// this reads that part of this node's own log, or, if this node does not write here and one other does, of that
    /// one's. A store that is found to be a copy writes a new log from then on. The logs of others are read with
    /// [`read_log`](Self::read_log).
    ///
    /// ```
    /// use counterfoil::{Seq, Store};
    ///
    /// let store = Store::in_memory()?;
    /// let space = store.own_space()?;
    /// space.append_all(&["a", "b", "c"])?;
    /// store.commit()?;
    /// assert_eq!(space.read(..)?.count(), 3);
    /// let seqs: Vec<_> = space.read(Seq(1)..)?.map(|record| record.map(|record| record.seq().0)).collect::<Result<_, _>>()?;
    /// assert_eq!(seqs, [1, 2]);
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::AmbiguousLog`] if a part is asked for, several other nodes write here and this one does not.
    pub fn read(&self, range: impl RangeBounds<Seq>) -> Result<Read> {
        let logs = self.logs();
        if let (Bound::Unbounded, Bound::Unbounded) = (range.start_bound(), range.end_bound()) {
            let with_ends = logs.into_iter().map(|info| (info.durable.next_seq, info)).map(|(end, info)| (info, end));
            return Ok(Read::merged(&self.inner, with_ends.collect()));
        }
        let info = match (self.find_own(&logs), &logs[..]) {
            (Some(own), _) => own,
            (None, [only]) => only,
            (None, []) => return Ok(Read::merged(&self.inner, Vec::new())),
            (None, _) => return Err(Error::AmbiguousLog { space: self.state.name.clone(), logs: logs.len() }),
        };
        Ok(Read::of_log(&self.inner, info, &range))
    }

    /// Reads durable records of one of the space's logs, in order.
    ///
    /// # Errors
    ///
    /// The log is not in this space.
    pub fn read_log(&self, log: LogId, range: impl RangeBounds<Seq>) -> Result<Read> {
        Ok(Read::of_log(&self.inner, &self.log(log)?, &range))
    }

    /// Reads the space as it was, here or elsewhere, when its frontier was `frontier`: in merged order, as
    /// [`read`](Self::read) gave it then.
    ///
    /// ```
    /// use counterfoil::Store;
    ///
    /// let store = Store::in_memory()?;
    /// let space = store.own_space()?;
    /// space.append("before")?;
    /// store.commit()?;
    /// let then = space.frontier();
    /// space.append("after")?;
    /// store.commit()?;
    /// let bodies: Vec<_> = space.as_of(&then)?.map(|record| Ok(record?.into_body())).collect::<Result<_, counterfoil::Error>>()?;
    /// assert_eq!(bodies, ["before"]);
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotThatFrontier`]: a log is not here as far as that, or has another history here.
    pub fn as_of(&self, frontier: &Frontier) -> Result<Read> {
        let log = |(log, head)| self.check_head(log, head).map(|info| (info, head.next_seq));
        Ok(Read::merged(&self.inner, frontier.heads().map(log).collect::<Result<_>>()?))
    }

    /// What is durable of the space now.
    pub fn frontier(&self) -> Frontier {
        let mut frontier = Frontier::empty();
        self.logs().iter().for_each(|info| frontier.set(info.id, info.durable));
        frontier
    }

    fn log(&self, log: LogId) -> Result<LogInfo> {
        let info = self.inner.journal.log(log).filter(|info| info.genesis.space == self.state.name);
        Ok(info.ok_or(ReadError::UnknownLog { log })?)
    }

    /// Finds out whether a log had that head here, when it was as long.
    fn check_head(&self, log: LogId, head: Head) -> Result<LogInfo> {
        let not_here =
            |why| Error::NotThatFrontier { space: self.state.name.clone(), log, next_seq: head.next_seq, why };
        let info = self.log(log).map_err(|_| not_here("the log is not here"))?;
        if info.durable == head {
            return Ok(info);
        }
        let last = head.next_seq.0.checked_sub(1).map(Seq).ok_or_else(|| not_here("it has no record"))?;
        match self.inner.journal.read_batch(log, last)? {
            Some(batch) if batch.head() == head => Ok(info),
            Some(_) => Err(not_here("the log has another history here")),
            None => Err(not_here("the log is not as long here")),
        }
    }

    /// Follows all the space's logs from `cursor` on, as their records become durable, in the order in which they do.
    pub fn follow(&self, cursor: Cursor) -> Follow {
        Follow::new(Arc::clone(&self.inner), self.state.name.clone(), cursor)
    }

    /// Where all the space's logs durably end now: to follow only what comes.
    pub fn end(&self) -> Cursor {
        let mut cursor = Cursor::start();
        self.logs().iter().for_each(|info| cursor.set(info.id, info.durable.next_seq));
        cursor
    }

    /// Logs that end with a stamp that is ahead of this node's wall clock by more than a minute, and by how much:
    /// a clock is wrong, there or here.
    ///
    /// Their records are kept and ordered as they are stamped. They don't set this node's clock, as smaller
    /// differences do; so what is appended here after such a record was read may come before it in merged order.
    pub fn clocks_ahead(&self) -> Vec<(LogInfo, Duration)> {
        let wall_unix_ms = self.inner.clock.unix_ms();
        let ahead = |info: &LogInfo| Duration::from_millis(info.last_time.ms_ahead_of(wall_unix_ms));
        let logs = self.logs().into_iter().map(|info| (ahead(&info), info));
        logs.filter(|(ahead, _)| *ahead > self.inner.clock_ahead_max).map(|(ahead, info)| (info, ahead)).collect()
    }

    /// Does something with the writer of this node's own log, which is made if need be; once more, with that of another log, if the
    /// node has begun a new life.
    fn write<T>(&self, write: impl Fn(&LogWriter) -> Result<T, AppendError>) -> Result<T> {
        loop {
            let writer = self.state.writer.read().unwrap_or_else(PoisonError::into_inner);
            match writer.as_ref().map(&write) {
                None | Some(Err(AppendError::LogEnded { .. })) => {}
                Some(result) => return Ok(result?),
            }
            drop(writer);
            self.find_writer()?;
        }
    }

    /// Looks up this node's own log, or makes it.
    fn find_writer(&self) -> Result<()> {
        let mut writer = self.state.writer.write().unwrap_or_else(PoisonError::into_inner);
        let _life = self.inner.journal.hold_life();
        if writer.as_ref().is_none_or(LogWriter::has_ended) {
            let logs = self.logs();
            let log = match self.find_own(&logs) {
                Some(own) => own.id,
                None => self.inner.journal.create_log(self.genesis(&logs))?,
            };
            *writer = Some(self.inner.journal.writer(log)?);
        }
        Ok(())
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
