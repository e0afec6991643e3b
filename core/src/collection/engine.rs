//! Takes the writes of a space's logs into the states of their keys, and answers from them.
//!
//! # Layers
//!
//! A state is looked for in what was changed of late (**fresh**), in what is being written to the index (**flushing**),
//! and in the index's last **snapshot**. These three hold what is durable. Writes of this process that are still queued
//! lie over them, each with the receipt that tells what became of it, so that they are read at once and vanish if they
//! were not kept.
//!
//! Nobody waits for a thread that follows: whoever asks first takes in what has become durable since. Once the fresh
//! layer has grown, a thread is started that writes it to the index and ends. Locks: `writing` before `state`; neither is
//! held while the disk is waited for, but `writing`, by those who write.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Bound,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use bytes::Bytes;
use counterfoil_storage::{
    AppendError, Hlc, Journal, LogId, NodeName, ReadError, Record, Seq, SpaceName,
    vfs::{Memory, Vfs},
};

use super::{
    entries::after_prefix,
    gaps::MissingRange,
    index::{IndexError, IndexFile, Loaded, Snapshot, SpaceIndex, UnreadableRecords},
    layer::Layer,
    layers::{OpenIndex, Queued, State},
    record::{self, Seen},
    state::{KeyState, Live},
    taking::not_of_this_history,
};
use crate::{
    error::{Error, Result},
    store::lock,
};

/// Length and name of the collection, and the key: what keys of all collections of a space are sorted by.
pub(crate) type FullKey = Box<[u8]>;

/// What all keys of a collection begin with.
pub(crate) fn prefix_of(collection: &str) -> Vec<u8> {
    [&[collection.len() as u8], collection.as_bytes()].concat()
}

pub(super) fn full_key(collection: &str, key: &[u8]) -> FullKey {
    [&[collection.len() as u8], collection.as_bytes(), key].concat().into()
}

fn is_full_key(full: &[u8], collection: &str, key: &[u8]) -> bool {
    full.strip_prefix(&[collection.len() as u8])
        .and_then(|rest| rest.strip_prefix(collection.as_bytes()))
        .is_some_and(|rest| rest == key)
}

/// How the index is built: told to who opens the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexProgress {
    /// The space.
    pub space: SpaceName,
    /// Records read so far.
    pub records: u64,
    /// Records to be read in all.
    pub records_in_all: u64,
}

/// What is told of the building of an index.
pub(crate) type OnProgress = Arc<dyn Fn(&IndexProgress) + Send + Sync>;

/// The collections of one space.
pub(crate) struct Engine {
    /// Held from the look at a key until what was made of it is queued.
    writing: Mutex<()>,
    /// Dropped before the journal, whose lock guards the index's file too.
    pub(super) state: Mutex<State>,
    pub(super) journal: Journal,
    pub(super) space: SpaceName,
    /// The fresh layer is written to the index once it is as large.
    pub(super) layer_bytes_max: usize,
    pub(super) is_read_only: bool,
    /// Whether the fresh layer is written by a thread, or by whoever finds it too large.
    pub(super) background: bool,
    pub(super) on_progress: Option<OnProgress>,
    /// Told when a layer has been written.
    flushed: Condvar,
}

/// A version with its value as bytes.
#[derive(Debug, Clone)]
pub(crate) struct RawVersion {
    pub(crate) log: LogId,
    pub(crate) seq: Seq,
    pub(crate) time: Hlc,
    pub(crate) happened_unix_ms: Option<i64>,
    /// With the envelope; `None` if it deletes.
    pub(crate) value: Option<Bytes>,
    /// The last version in each log that it supersedes.
    pub(crate) supersedes: Vec<(LogId, Seq)>,
}

impl RawVersion {
    /// What a write in a record makes.
    pub(crate) fn of(record: &Record, log: LogId, write: &record::Write<'_>) -> Self {
        let own = write.own.map(|seq| (log, seq));
        Self {
            log,
            seq: record.seq,
            time: record.time,
            happened_unix_ms: record.attributes.happened_unix_ms,
            value: write.value.map(|value| record.body.slice_ref(value)),
            supersedes: own.into_iter().chain(write.others.iter().map(|seen| (seen.log, seen.seq))).collect(),
        }
    }
}

/// What is known of the versions of a key.
#[derive(Debug, Default)]
pub(crate) struct RawHistory {
    /// Those that are here, in merged order.
    pub(crate) versions: Vec<RawVersion>,
    /// Places of those that are not.
    pub(crate) missing: Vec<(LogId, Seq)>,
    /// Places of those that no write supersedes.
    pub(crate) live: Vec<(LogId, Seq)>,
}

/// A write to be made.
pub(crate) struct NewWrite {
    pub(crate) collection: SpaceName,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Bytes>,
    /// The versions that must be the live ones, if that matters.
    pub(crate) expected: Option<Vec<(LogId, Seq)>>,
}

/// How collections are kept.
#[derive(Clone)]
pub(crate) struct EngineOptions {
    pub(crate) bytes_max: usize,
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) is_read_only: bool,
    pub(crate) background: bool,
    pub(crate) on_progress: Option<OnProgress>,
}

impl EngineOptions {
    /// The part of the memory that the index's file may take for its pages. A filter may take an eighth of that.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.bytes_max / 8 * 3
    }

    /// And each of two layers, of which one may be written while the next grows: to write a layer of keys in no order is to write most of
    /// the index, so they had better be large. The rest is for the next filter, and for what an allocator adds: pages are allocated and freed by
    /// two threads, of which each has its own heap.
    fn layer_bytes(&self) -> usize {
        self.bytes_max / 16 * 3
    }

    /// Opens the index file of a store.
    pub(crate) fn open_file(&self, journal: &Journal) -> Result<Arc<IndexFile>, IndexError> {
        let store = journal.identity().store;
        let dir = journal.dir();
        if self.is_read_only {
            // The writer beside has the file; and nothing is changed here.
            return IndexFile::open(Arc::new(Memory::default()), dir, store, self.cache_bytes()).map(Arc::new);
        }
        IndexFile::open(Arc::clone(&self.vfs), dir, store, self.cache_bytes()).map(Arc::new)
    }
}

impl Engine {
    /// Opens the collections of a space and takes in what the index has not seen.
    pub(crate) fn open(
        journal: Journal,
        space: SpaceName,
        file: Arc<IndexFile>,
        options: &EngineOptions,
    ) -> Result<Arc<Self>> {
        let watch = journal.watch(Some(&space));
        let mut index = SpaceIndex::new(file, space.clone());
        let mut loaded = index.load().or_else(|error| {
            tracing::warn!(%space, %error, "the index of collections is made anew");
            index = index.open_again()?;
            index.load().or_else(|_| index.cleared())
        })?;
        if let Some(log) = not_of_this_history(&journal, &loaded.taken)? {
            tracing::warn!(%space, %log, "the index of collections has seen another history: it is made anew");
            loaded = index.cleared().or_else(|_| {
                index = index.open_again()?;
                index.cleared()
            })?;
        }
        let Loaded { taken, numbers, snapshot } = loaded;
        let engine = Arc::new(Self {
            journal,
            space,
            layer_bytes_max: options.layer_bytes(),
            is_read_only: options.is_read_only,
            background: options.background && !options.is_read_only,
            on_progress: options.on_progress.clone(),
            writing: Mutex::new(()),
            state: Mutex::new(State {
                watch,
                index: Some(OpenIndex { space: Arc::new(index), snapshot }),
                snapshots: 0,
                numbers,
                taken,
                fresh: Layer::default(),
                flushing: None,
                queued: BTreeMap::new(),
                own: None,
                holes_seen: None,
                is_behind: true,
                is_unsound: false,
                flush_at_bytes: options.layer_bytes(),
            }),
            flushed: Condvar::new(),
        });
        drop(engine.caught_up(lock(&engine.state))?);
        Ok(engine)
    }

    /// What `look` finds in the state, with all that is durable taken in. Should it meet a part of the index that can't be read, the
    /// index is made again, and it looks once more.
    pub(super) fn look<T>(self: &Arc<Self>, look: impl Fn(&State) -> Result<T>) -> Result<T> {
        let state = self.caught_up(lock(&self.state))?;
        let what = match look(&state) {
            Err(Error::Index { what }) => what,
            found => return found,
        };
        let mut state = self.index_again(state, &what)?;
        match look(&state) {
            // It is as it was written, and wrong.
            Err(Error::Index { what }) => {
                state.is_unsound = true;
                look(&*self.index_again(state, &what)?)
            }
            found => found,
        }
    }

    /// Opens the index again, since it failed, or makes it anew if what it holds is wrong, and takes in what it lacks.
    pub(super) fn index_again<'a>(
        self: &'a Arc<Self>,
        state: MutexGuard<'a, State>,
        what: &str,
    ) -> Result<MutexGuard<'a, State>> {
        tracing::warn!(space = %self.space, error = what, "the index of collections failed: it is opened again");
        let mut state = state;
        loop {
            state = self.wait_flushed(state);
            let Some(failed) = &state.index else { return Err(AppendError::Closed.into()) };
            let index = failed.space.open_again()?;
            let loaded = if std::mem::take(&mut state.is_unsound) { index.cleared() } else { index.load() };
            let Loaded { taken, numbers, snapshot } = loaded.or_else(|_| index.cleared())?;
            state.index = Some(OpenIndex { space: Arc::new(index), snapshot });
            state.snapshots += 1;
            (state.taken, state.numbers, state.fresh) = (taken, numbers, Layer::default());
            (state.holes_seen, state.is_behind) = (None, true);
            let flush_at_bytes = state.flush_at_bytes;
            match self.take_all(state) {
                Ok(mut state) => {
                    state.is_behind = false;
                    return Ok(state);
                }
                Err(error @ Error::Index { .. }) => {
                    state = self.wait_flushed(lock(&self.state));
                    // If it could not be written to, more is kept in memory each time, until nothing has to be written.
                    if state.flush_at_bytes <= flush_at_bytes {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes what has been taken in to the index and gives its file back.
    pub(crate) fn close(self: &Arc<Self>) {
        let state = lock(&self.state);
        // What can't be read is read again when the store is next opened.
        let Ok(state) = self.caught_up(state) else { return };
        let mut state = self.wait_flushed(state);
        if !state.fresh.is_empty() && !self.is_read_only {
            state = self.flush(state, false);
        }
        state.index = None;
    }

    pub(super) fn wait_flushed<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.flushing.is_some() {
            state = self.flushed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Has the fresh layer written to the index, by a thread or here. Nothing may be being written.
    pub(super) fn flush<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        by_thread: bool,
    ) -> MutexGuard<'a, State> {
        let Some(index) = &state.index else { return state };
        let (space, filter) = (Arc::clone(&index.space), index.snapshot.filter());
        let layer = Arc::new(mem::take(&mut state.fresh));
        let (numbers, taken) = (state.numbers.clone(), state.taken.clone());
        state.flushing = Some(Arc::clone(&layer));
        drop(state);
        let engine = Arc::clone(self);
        let write = move || {
            let written = space.commit(&layer, &numbers, &taken, filter);
            // Whoever closes the store waits for the end, and then nothing here may hold the file.
            drop((layer, space));
            engine.flush_ended(written);
        };
        if by_thread {
            let spawned = thread::Builder::new().name("counterfoil-index".to_owned()).spawn(write);
            if let Err(error) = spawned {
                self.flush_ended(Err(error.into()));
            }
        } else {
            write();
        }
        lock(&self.state)
    }

    fn flush_ended(&self, written: Result<Snapshot, IndexError>) {
        let mut state = lock(&self.state);
        let mut layer = state.flushing.take();
        match (written, &mut state.index) {
            (Ok(snapshot), Some(index)) => {
                index.snapshot = snapshot;
                state.snapshots += 1;
                state.flush_at_bytes = self.layer_bytes_max;
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                tracing::warn!(space = %self.space, %error, "the index of collections can't be written: what has changed is kept in memory");
                // Both layers go on being answered from.
                if let Some(layer) = layer.take() {
                    let newer = mem::replace(&mut state.fresh, Arc::unwrap_or_clone(layer));
                    state.fresh.extend(&newer);
                }
                state.is_unsound |= error.is_unsound();
                // A full disk is not asked again for each record.
                state.flush_at_bytes = 2 * state.fresh.bytes().max(self.layer_bytes_max);
            }
        }
        drop(state);
        self.flushed.notify_all();
        // It takes a while to free all of it, for which nobody has to wait.
        drop(layer);
    }

    /// The versions of a key that are live, with their values; queued ones of this process included.
    pub(crate) fn versions(self: &Arc<Self>, collection: &str, key: &[u8]) -> Result<Vec<RawVersion>> {
        let key = full_key(collection, key);
        let found = self.live_versions(&key)?;
        let is_trimmed = |version: &Result<RawVersion>| matches!(version, Err(Error::Read(ReadError::Trimmed { .. })));
        if !found.iter().any(is_trimmed) {
            return found.into_iter().collect();
        }
        // It has been superseded meanwhile, and then removed. Retention removes no live version, so one that still
        // seems live and is gone was superseded by a record that is gone too.
        self.live_versions(&key)?.into_iter().filter(|version| !is_trimmed(version)).collect()
    }

    /// The versions of a key that are live, each with its value if that can be read.
    fn live_versions(self: &Arc<Self>, key: &FullKey) -> Result<Vec<Result<RawVersion>>> {
        let found: Vec<_> = self.look(|state| {
            let effective = state.effective(key)?;
            Ok(effective.live().iter().map(|live| state.queued_version(key, live).ok_or(*live)).collect())
        })?;
        let read = |found: Result<RawVersion, Live>| found.or_else(|live| self.read(key, live.log, live.seq));
        Ok(found.into_iter().map(read).collect())
    }

    /// Reads a version from its log.
    fn read(&self, key: &[u8], log: LogId, seq: Seq) -> Result<RawVersion> {
        let batch = self.journal.read_batch(log, seq)?.ok_or(ReadError::Hole {
            log,
            first_seq: seq,
            next_seq: Seq(seq.0.saturating_add(1)),
        })?;
        let malformed = || counterfoil_storage::BatchError::Records { log, first_seq: batch.first_seq() };
        let record = batch.body()?.record(seq).ok_or_else(malformed)?;
        let writes = record::decode(&record.body).map_err(|_| malformed())?;
        let is_meant = |write: &&record::Write<'_>| is_full_key(key, write.collection, write.key);
        let write = writes.iter().find(is_meant).ok_or_else(malformed)?;
        Ok(RawVersion::of(&record, log, write))
    }

    /// The node that writes a log.
    pub(crate) fn node_of(&self, log: LogId) -> NodeName {
        // A log that is not durable yet is this node's own.
        let own = || self.journal.identity().node.clone();
        self.journal.log(log).map_or_else(own, |info| info.genesis.node.clone())
    }

    /// All versions of a key that are here, in merged order, and places of those that are not.
    pub(crate) fn history(self: &Arc<Self>, collection: &str, key: &[u8]) -> Result<RawHistory> {
        if !self.is_read_only {
            self.journal.commit()?;
        }
        let key = full_key(collection, key);
        let known = self.look(|state| state.durable(&key))?;
        // What a faulty writer did not name as seen may be live all the same.
        let live: Vec<_> = known.live().iter().map(|live| (live.log, live.seq)).collect();
        let starts = known.seen().iter().map(|seen| (seen.log, seen.seq)).chain(live.iter().copied());
        let (mut versions, mut missing, mut met) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (log, seq) in starts {
            let mut next = Some(seq);
            while let Some(seq) = next.take().filter(|seq| met.insert((log, *seq))) {
                match self.read(&key, log, seq) {
                    Ok(version) => {
                        next = version.supersedes.iter().find(|(named, _)| *named == log).map(|(_, earlier)| *earlier);
                        versions.push(version);
                    }
                    Err(Error::Read(_) | Error::Batch(_)) => missing.push((log, seq)),
                    Err(error) => return Err(error),
                }
            }
        }
        versions.sort_unstable_by_key(|version| (version.time, version.log, version.seq));
        Ok(RawHistory { versions, missing, live })
    }

    /// The next keys of a collection, ascending, up to `limit` of them, with the live versions of each; and whether
    /// there may be more.
    pub(crate) fn keys(
        self: &Arc<Self>,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
        only_conflicts: bool,
    ) -> Result<(Vec<(FullKey, KeyState)>, bool)> {
        self.look(|state| state.keys(range, limit, only_conflicts))
    }

    /// The names of the collections of which a key is known, ascending.
    pub(crate) fn names(self: &Arc<Self>) -> Result<Vec<String>> {
        let (mut names, mut start) = (Vec::new(), Vec::new());
        loop {
            let (page, _) = self.keys((Bound::Included(&start[..]), Bound::Unbounded), 1, false)?;
            let Some((key, _)) = page.first() else { break };
            let prefix = key.first().and_then(|len| key.get(..=usize::from(*len))).unwrap_or(key);
            names.push(String::from_utf8_lossy(prefix.get(1..).unwrap_or_default()).into_owned());
            start = after_prefix(prefix);
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Records of the space that are missing here, or can't be read.
    pub(crate) fn missing(self: &Arc<Self>) -> Result<Vec<MissingRange>> {
        let state = self.caught_up(lock(&self.state))?;
        Ok(MissingRange::of(&self.journal.logs(Some(&self.space)), &state.taken.gaps))
    }

    /// Records that are writes to collections and can't be read.
    pub(crate) fn unreadable(self: &Arc<Self>) -> Result<UnreadableRecords> {
        Ok(self.caught_up(lock(&self.state))?.taken.unreadable.clone())
    }

    /// Makes writes, all of them in one record, on top of all versions known here.
    ///
    /// `append` is told the body.
    pub(crate) fn write(
        self: &Arc<Self>,
        own: LogId,
        writes: &[NewWrite],
        append: impl FnOnce(&[u8]) -> Result<crate::Receipt>,
        happened_unix_ms: Option<i64>,
    ) -> Result<crate::Receipt> {
        let _writing = lock(&self.writing);
        let keys: Vec<_> = writes.iter().map(|write| full_key(write.collection.as_str(), &write.key)).collect();
        let before: Vec<_> = self.look(|state| keys.iter().map(|key| state.before(key)).collect())?;
        for (write, (known, _)) in writes.iter().zip(&before) {
            if !write.expected.as_ref().is_none_or(|expected| is_as_expected(known, expected)) {
                let key = String::from_utf8_lossy(&write.key).into_owned();
                return Err(Error::Changed { collection: write.collection.to_string(), key });
            }
        }
        let encoded = writes.iter().zip(&before).map(|(write, (known, _))| record::Write {
            collection: write.collection.as_str(),
            key: &write.key,
            own: known.last_in(own).map(|seen| seen.seq),
            others: known.seen().iter().filter(|seen| seen.log != own).copied().collect(),
            value: write.value.as_deref(),
        });
        let receipt = append(&record::encode(encoded))?;
        let (seq, time) = (receipt.first_seq(), receipt.stored().last_time());
        let mut state = lock(&self.state);
        if state.taken.heads.get(&own).is_some_and(|head| head.next_seq > seq) {
            // It has become durable and was taken in meanwhile.
            return Ok(receipt);
        }
        for ((write, key), (mut known, before)) in writes.iter().zip(keys).zip(before) {
            let seen: Vec<_> = known.seen().iter().map(|seen| Seen { time, ..*seen }).collect();
            let supersedes = seen.iter().map(|seen| (seen.log, seen.seq)).collect();
            known.apply(Seen { log: own, seq, prefix: None, time }, seen, write.value.is_none());
            let version = RawVersion { log: own, seq, time, happened_unix_ms, value: write.value.clone(), supersedes };
            let queued = state.queued.entry(key).or_default();
            queued.retain(|queued| queued.receipt.is_durable().is_ok());
            if queued.is_empty() {
                // Mostly it stays the only one.
                queued.reserve_exact(1);
            }
            queued.push(Queued { receipt: receipt.stored().clone(), seq, state: known, before, version });
        }
        Ok(receipt)
    }
}

/// Whether the live versions of a key are those that were read; a deletion alone is read as nothing.
fn is_as_expected(known: &KeyState, expected: &[(LogId, Seq)]) -> bool {
    match (known.live(), expected) {
        ([only], []) => only.is_deleted,
        (live, expected) => {
            live.len() == expected.len() && live.iter().all(|live| expected.contains(&(live.log, live.seq)))
        }
    }
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Self {
        if error.is_storage_full() { Self::IndexFull } else { Self::Index { what: error.to_string() } }
    }
}
