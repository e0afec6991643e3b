//! The journal: one sequence of segments on disk that holds the batches of all logs of a store.

mod arrivals;
mod background;
mod close_gaps;
mod commit;
mod digests;
mod error;
mod fill;
mod floor;
mod frame;
mod holes;
mod holes_file;
mod identity;
mod index;
mod info;
mod life;
mod log_state;
mod logs_file;
mod mend;
mod options;
mod queue;
mod read;
mod receipt;
mod recovery;
mod report;
mod retention;
mod rewrite;
mod ring;
mod salvage;
mod scan;
mod seal;
mod segment;
mod tail;
mod twice;
mod verify;
mod view;
mod watch;
mod writer;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

pub use arrivals::ArrivalReader;
pub use error::{AppendError, DiskError, MendError, OpenError, Place, ReadError, StoreError};
pub use identity::Identity;
pub use info::{JournalStats, LogInfo};
pub use life::{NewLifeError, PresentLife};
pub use options::{Lives, Options, RandomLives};
pub use read::LogReader;
pub use receipt::Receipt;
pub use report::{Damage, Finding, Recovery, VerifyReport};
pub use retention::{Freed, TrimError};
pub use verify::verify;
pub use watch::Watch;
pub use writer::LogWriter;

use self::{
    commit::Shared,
    digests::Hasher,
    fill::Filler,
    identity::{BoundIdentity, Raising},
    life::Lifetimes,
    queue::{Queue, QueueState, Writer},
    read::{BatchCache, IndexCache},
    recovery::Frontier,
    retention::Retention,
    seal::Sealer,
    tail::{Tail, WriteError},
};
use crate::{
    batch::Batch,
    genesis::Genesis,
    ids::{Arrival, Head, LogId, NodeName, Seq, SpaceName, StoreId},
    sync::{
        Condvar, Mutex, MutexGuard, RwLock,
        thread::{self, JoinHandle},
    },
    time::Hlc,
    vfs::{Vfs, VfsLock},
};

/// The most that one append may hold, in bytes: 64 MiB.
pub const MAX_APPEND_LEN: usize = 64 << 20;

/// A batch is not open for longer than this, from its first record to its last, unless the disk stalls, in milliseconds.
const BATCH_MS_MAX: u64 = 60_000;

const LOCK_FILE: &str = "lock";

/// How often the lock is tried for, and the pause between: 50 ms in all.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// An append-only journal of logs in one folder. Cheap to clone; all clones are one journal.
///
/// Dropping the last handle closes it in the background, which may outlast the drop:
/// [`close`](Self::close) waits and tells the outcome.
///
/// ```
/// use counterfoil_storage::{Genesis, Journal, NodeName, Options, Seq, SpaceName, vfs::Memory};
/// use std::{path::Path, sync::Arc};
///
/// let mut options = Options::default();
/// options.vfs = Arc::new(Memory::default());
/// let node = NodeName::new("practice-12")?;
/// let journal = Journal::create(Path::new("store"), node.clone(), options)?;
/// let nonce = *journal.identity().incarnation.as_bytes();
/// let log = journal.create_log(Genesis::new(SpaceName::new("practice-12")?, node, nonce))?;
/// journal.writer(log)?.append(b"BP 120/80")?.wait()?;
/// let batch = journal.read_batch(log, Seq(0))?.expect("it is durable");
/// assert_eq!(batch.records().next().unwrap()?.body, b"BP 120/80"[..]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    guard: Arc<Guard>,
}

/// Closes the journal when the last handle is dropped.
#[derive(Debug)]
struct Guard {
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// Where reading goes on, when opened to read only.
    frontier: Mutex<Option<Frontier>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.begin_closing();
    }
}

impl Journal {
    /// Makes a store in `dir`, which may exist but must hold no store, and opens it.
    ///
    /// **Durability**: on `Ok` the empty store survives power loss.
    pub fn create(dir: &Path, node: NodeName, options: Options) -> Result<Self, OpenError> {
        let vfs = &*options.vfs;
        let disk = |operation| move |error| OpenError::Disk { operation, path: dir.to_owned(), error };
        vfs.create_dir(dir).map_err(disk("creating the folder"))?;
        sync_folders_above(vfs, dir).map_err(disk("flushing the folders above"))?;
        let lock = lock(vfs, dir)?;
        match recovery::store_id_of(vfs, dir) {
            Err(OpenError::NoStore { .. }) => {}
            Err(error @ OpenError::IdentityMissing { .. }) => return Err(error),
            _ => return Err(OpenError::AlreadyExists { path: dir.to_owned() }),
        }
        let store = StoreId::random().map_err(disk("asking for random bytes"))?;
        let incarnation = options.lives.next().map_err(disk("asking for random bytes"))?;
        BoundIdentity::create(vfs, dir, Identity { node, store, incarnation }).map_err(disk("writing the identity"))?;
        Self::open_locked(dir, options, Some(lock)).map(|(journal, _)| journal)
    }

    /// Opens the store in `dir`, with what was found while doing so.
    ///
    /// Time and memory don't grow with the store: footers are read back to one that lists all logs,
    /// and the last segment is read frame by frame.
    ///
    /// **Durability**: what is served after `Ok` survives power loss.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        let lock = if options.read_only {
            None
        } else {
            // Before the lock, so that a missing store is not given a lock file.
            recovery::store_id_of(&*options.vfs, dir).map(drop).or_else(unless_unreadable)?;
            Some(lock(&*options.vfs, dir)?)
        };
        Self::open_locked(dir, options, lock)
    }

    fn open_locked(
        dir: &Path,
        options: Options,
        lock: Option<Box<dyn VfsLock>>,
    ) -> Result<(Self, Recovery), OpenError> {
        let options = options.bounded();
        if !options.compression.is_available() {
            return Err(OpenError::Compression { compression: options.compression });
        }
        let disk = |operation| move |error| OpenError::Disk { operation, path: dir.to_owned(), error };
        let opened = recovery::open(dir, &options)?;
        let threads = options.background && !options.read_only;
        let raising = Raising::default();
        let new_filler = || Arc::new(Filler::new(Arc::clone(&options.vfs), dir.to_owned(), raising.clone()));
        let filler = threads.then(new_filler);
        let store = opened.identity.store;
        let clean = opened.recovery.clean;
        let mut tail = opened
            .tail
            .map(|start| {
                let sizes = (options.segment_bytes_min, options.segment_bytes_max);
                Tail::new(
                    Arc::clone(&options.vfs),
                    dir.to_owned(),
                    raising.clone(),
                    store,
                    start,
                    sizes,
                    filler.clone(),
                )
            })
            .transpose()
            .map_err(disk("reading the last segment"))?;
        if let Some(tail) = &mut tail {
            tail.sealer = Sealer::new(options.compression);
        }
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            queue: Mutex::new(Queue::new(options.batch_bytes, options.compression, Hlc::ZERO)),
            room: Condvar::new(),
            work: Condvar::new(),
            tail: Mutex::new(tail),
            view: RwLock::new(opened.view),
            cache: Mutex::new(IndexCache::new(options.index_bytes)),
            batches: BatchCache::new(),
            retention: Retention::default(),
            filler,
            hasher: threads.then(Hasher::default),
            seals: Mutex::new(Vec::new()),
            lock: Mutex::new(lock),
            mending: Mutex::new(()),
            recorded_holes: Mutex::new(opened.recorded_holes),
            lifetimes: Lifetimes::new(opened.identity),
            options,
        });
        shared.restore_queue();
        shared.count_kept();
        if clean && shared.goes_on_in_a_segment() {
            shared.write_opening_mark().map_err(disk("writing the opening mark"))?;
        }
        match &shared.filler {
            Some(filler) => opened.seals.into_iter().for_each(|job| filler.seal(job)),
            None => *shared.seals.lock().unwrap_or_else(PoisonError::into_inner) = opened.seals,
        }
        let committer = threads.then(|| background::start(&shared)).transpose().map_err(disk("starting a thread"))?;
        // Where it can't be told what was known to be missing either.
        if (opened.has_gaps || shared.has_lost_holes())
            && let Err(error) = shared.find_gaps()
        {
            tracing::warn!(dir = %dir.display(), %error, "what is missing of each log could not be looked for");
        }
        // Those that opening has found are in no file yet.
        shared.record_holes();
        let frontier = Mutex::new(opened.frontier);
        let guard = Guard { shared: Arc::clone(&shared), committer: Mutex::new(committer), frontier };
        Ok((Self { shared, guard: Arc::new(guard) }, opened.recovery))
    }

    /// Who this store is, in its present life.
    pub fn identity(&self) -> &Identity {
        self.shared.identity()
    }

    /// The store's folder.
    pub fn dir(&self) -> &PathBuf {
        &self.shared.dir
    }

    /// Makes a log known: this node's own or another's. Idempotent.
    ///
    /// A log is this node's own, and can be appended to, if its genesis names this node, and this
    /// incarnation as the nonce.
    ///
    /// **Durability**: the genesis is stored with the next commit, before anything of the log.
    pub fn create_log(&self, genesis: Genesis) -> Result<LogId, AppendError> {
        let id = genesis.log_id();
        let mut queue = self.shared.make_room(self.shared.queue_for_writing()?, None, true)?;
        let slot = match queue.slot(id) {
            Some(slot) => slot,
            None => {
                let own = self.shared.is_own(&genesis);
                let head = genesis.head();
                if own {
                    // Until now there was nothing here that could reply to what others wrote in the space.
                    queue.clock = self.shared.clock_of_space(&genesis.space, queue.clock);
                }
                queue.add_log(id, Arc::new(genesis), own, head, false)
            }
        };
        if !queue.announce(slot) {
            return Ok(id);
        }
        self.shared.queued(queue)?;
        Ok(id)
    }

    /// A handle to append to a log of this node.
    pub fn writer(&self, log: LogId) -> Result<LogWriter, AppendError> {
        let queue = self.shared.queue_for_writing()?;
        let slot = queue.slot(log).ok_or(AppendError::UnknownLog { log })?;
        match queue.log(slot).writer {
            Writer::This => {}
            Writer::Ending => return Err(AppendError::LogEnded { log }),
            Writer::Other => return Err(AppendError::ForeignLog { log }),
        }
        drop(queue);
        Ok(LogWriter { journal: self.clone(), log, slot })
    }

    /// Queues another node's batch, verbatim; waits while the queue is full.
    ///
    /// That the batch continues its log's chain is checked here; that its writer may write, and that
    /// its records are sound, is the caller's to check.
    ///
    /// **Durability**: none until the receipt says so.
    pub fn store(&self, batch: Batch) -> Result<Stored, StoreError> {
        self.store_or(batch, true)
    }

    /// Like [`store`](Self::store), but fails with [`AppendError::WouldBlock`] instead of waiting.
    pub fn try_store(&self, batch: Batch) -> Result<Stored, StoreError> {
        self.store_or(batch, false)
    }

    fn store_or(&self, batch: Batch, wait: bool) -> Result<Stored, StoreError> {
        let (log, first_seq) = (batch.log(), batch.first_seq());
        // Computed before the lock is taken: the chain needs the one, the clock the other.
        batch.digest();
        let last_time = batch.last_time();
        let wall_unix_ms = self.shared.options.clock.unix_ms();
        let queue = self.shared.make_room(self.shared.queue_for_writing()?, None, wait)?;
        let slot = queue.slot(log).ok_or(AppendError::UnknownLog { log })?;
        let known = queue.log(slot);
        let next_seq = known.next_seq;
        if first_seq < next_seq {
            drop(queue);
            return self.duplicate_or_diverged(&batch, wait);
        }
        let follows = known.foreign_head() == Some(Head { next_seq, digest: batch.header().previous });
        if known.writer != Writer::Other || (first_seq == next_seq && !follows) {
            drop(queue);
            return Err(self.diverged(log, first_seq));
        }
        if first_seq > next_seq {
            return Err(StoreError::Gap { log, next_seq, first_seq });
        }
        let mut queue = queue;
        let end = batch.next_seq();
        let ahead_ms_max = self.shared.options.clock_ahead_ms_max();
        queue.clock = queue.clock.observe(last_time, wall_unix_ms, ahead_ms_max);
        if last_time.ms_ahead_of(wall_unix_ms) > ahead_ms_max && queue.is_first_ahead(slot) {
            let node = &queue.log(slot).genesis.node;
            tracing::warn!(%log, %node, time = %last_time, "a clock is ahead: its records are kept as they are stamped");
        }
        queue.push_batch(slot, batch);
        let group = self.shared.queued(queue)?;
        Ok(Stored::Queued(Receipt::new(Arc::clone(&self.shared), group, log, first_seq, end, last_time)))
    }

    fn duplicate_or_diverged(&self, batch: &Batch, wait: bool) -> Result<Stored, StoreError> {
        let (log, first_seq) = (batch.log(), batch.first_seq());
        if self.log(log).is_none_or(|info| info.durable.next_seq <= first_seq) {
            if !wait {
                // What it is to be compared with is still queued.
                self.nudge();
                return Err(AppendError::WouldBlock { queue_bytes: self.shared.options.queue_bytes }.into());
            }
            self.commit()?;
        }
        match self.read_batch(log, first_seq)? {
            Some(stored) if stored == *batch => Ok(Stored::Duplicate),
            _ => Err(self.diverged(log, first_seq)),
        }
    }

    fn diverged(&self, log: LogId, first_seq: Seq) -> StoreError {
        match self.log(log) {
            Some(info) => StoreError::Diverged { log, first_seq, local: info.durable },
            None => StoreError::Append(AppendError::UnknownLog { log }),
        }
    }

    /// Makes durable all that is queued.
    pub fn commit(&self) -> Result<(), AppendError> {
        let queue = self.shared.queue();
        let group = match &queue.in_flight {
            Some(in_flight) if queue.is_empty() => Arc::clone(in_flight),
            _ => Arc::clone(&queue.filling),
        };
        if queue.is_empty() && queue.in_flight.is_none() {
            return queue.refusal().map_or(Ok(()), Err);
        }
        drop(queue);
        self.shared.wait_for(&group, None).unwrap_or(Ok(()))
    }

    /// Commits what is queued, here and now, unless somebody else is committing: then the background committer is asked to,
    /// as by [`nudge`](Self::nudge). Whether it was done here.
    ///
    /// It saves the two thread switches that asking costs, at the price of a flush in this thread. The outcome is told by
    /// receipts and by a [`Watch`]. Without background threads it does nothing.
    pub fn commit_if_idle(&self) -> bool {
        let queue = self.shared.queue();
        if queue.is_empty() || !self.shared.options.background {
            return false;
        }
        if queue.in_flight.is_some() || queue.refusal().is_some() {
            drop(queue);
            self.nudge();
            return false;
        }
        drop(self.shared.lead(queue));
        true
    }

    /// Asks the background committer to commit what is queued at once. Never waits.
    ///
    /// For those who are told of the outcome by a [`Watch`]. Without background threads it does nothing.
    pub fn nudge(&self) {
        let mut queue = self.shared.queue();
        if !queue.is_empty() && !queue.nudged {
            queue.nudged = true;
            self.shared.work.notify_one();
        }
    }

    /// All logs, or those of one space, as far as they are durable; ascending by id.
    pub fn logs(&self, space: Option<&SpaceName>) -> Vec<LogInfo> {
        let view = self.shared.view();
        let mut logs: Vec<_> = match space {
            None => view.logs().map(LogInfo::of).collect(),
            Some(space) => {
                let ids = view.spaces.get(space).map_or(&[][..], |space| &space.logs);
                ids.iter().filter_map(|id| view.log(*id)).map(LogInfo::of).collect()
            }
        };
        drop(view);
        logs.sort_unstable_by_key(|log| log.id);
        logs
    }

    /// The spaces that have logs here; ascending.
    pub fn spaces(&self) -> Vec<SpaceName> {
        let view = self.shared.view();
        let with_logs = view.spaces.iter().filter(|(_, space)| !space.logs.is_empty());
        with_logs.map(|(name, _)| name.clone()).collect()
    }

    /// One log, as far as it is durable; `None` if nothing of it is.
    pub fn log(&self, log: LogId) -> Option<LogInfo> {
        self.shared.view().log(log).map(LogInfo::of)
    }

    /// The durable batch that holds the record `seq`; `None` if the log durably ends before it.
    pub fn read_batch(&self, log: LogId, seq: Seq) -> Result<Option<Batch>, ReadError> {
        self.shared.read_batch(log, seq)
    }

    /// Durable batches of a log from the one that holds `from` on.
    pub fn read(&self, log: LogId, from: Seq) -> LogReader {
        LogReader::new(Arc::clone(&self.shared), log, from)
    }

    /// Durable batches of all logs by arrival.
    pub fn read_arrivals(&self, from: Arrival) -> ArrivalReader {
        ArrivalReader::new(Arc::clone(&self.shared), from)
    }

    /// The arrival number that the next batch will get, as far as the journal is durable.
    pub fn next_arrival(&self) -> Arrival {
        self.shared.view().next_arrival
    }

    /// Tells when logs of a space (or of any) have durably grown, or the journal has failed or been closed.
    pub fn watch(&self, space: Option<&SpaceName>) -> Watch {
        let signal = match space {
            None => Arc::clone(&self.shared.view().signal),
            Some(space) => self.shared.view_mut().space_signal(space),
        };
        Watch::new(signal)
    }

    /// When opened to read only: takes notice of what a writer beside has made durable since;
    /// whether there was anything.
    pub fn refresh(&self) -> Result<bool, OpenError> {
        let mut frontier = self.guard.frontier.lock().unwrap_or_else(PoisonError::into_inner);
        recovery::refresh(&self.shared, &mut frontier)
    }

    /// The journal in figures.
    pub fn stats(&self) -> JournalStats {
        let queue = self.shared.queue();
        let (queued_bytes, storage_full) = (queue.bytes as u64, queue.full);
        let poisoned = matches!(queue.state, QueueState::Poisoned(_));
        drop(queue);
        let view = self.shared.view();
        JournalStats {
            logs: view.log_count() as u64,
            segments: view.sealed.len() as u64 + u64::from(view.active.is_some()),
            batch_bytes: view.bytes,
            batches: view.next_arrival.0,
            queued_bytes,
            poisoned,
            storage_full,
        }
    }

    /// Commits what is queued, writes the closing mark and gives the lock back. Idempotent.
    ///
    /// Other handles' appends fail with [`AppendError::Closed`] from here on; reads go on.
    ///
    /// # Errors
    ///
    /// What was queued could not be committed: the disk is full, or failed. The store is closed all the same.
    pub fn close(&self) -> Result<(), AppendError> {
        self.shared.begin_closing();
        // Held to the end: who closes at the same time waits for the outcome too.
        let mut committer = self.guard.committer.lock().unwrap_or_else(PoisonError::into_inner);
        match committer.take() {
            // A panic there has been reported by the panic hook; there is nothing to add.
            Some(thread) => drop(thread.join()),
            None if !self.shared.options.background => {
                self.shared.finish_closing();
                self.shared.unlock();
            }
            None => {}
        }
        let queue = self.shared.queue();
        match (&queue.state, &queue.close_error) {
            (QueueState::Poisoned(error), _) => Err(AppendError::Poisoned { error: error.clone() }),
            (_, Some(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

impl Shared {
    fn is_own(&self, genesis: &Genesis) -> bool {
        let identity = self.identity();
        genesis.node == identity.node && genesis.nonce == *identity.incarnation.as_bytes()
    }

    fn queue_for_writing(&self) -> Result<MutexGuard<'_, Queue>, AppendError> {
        if self.options.read_only { Err(AppendError::ReadOnly) } else { Ok(self.queue()) }
    }

    /// Tells the queue of the logs that recovery found, and where the clock stood.
    fn restore_queue(self: &Arc<Self>) {
        let logs: Vec<_> = self.view().logs().map(|state| (state.id, state.row.clone())).collect();
        let mut clock = Hlc::ZERO;
        let mut own_spaces = BTreeSet::new();
        for (_, row) in &logs {
            if row.genesis.node != self.identity().node {
                continue;
            }
            own_spaces.insert(&row.genesis.space);
            clock = clock.max(row.last_time);
        }
        clock = own_spaces.into_iter().fold(clock, |clock, space| self.clock_of_space(space, clock));
        let mut queue = self.queue();
        queue.clock = clock;
        for (id, row) in logs {
            let own = self.is_own(&row.genesis);
            let slot = queue.add_log(id, row.genesis, own, row.head, true);
            debug_assert_eq!(self.view_without_digests().head_at(slot), Some(row.head), "slots are the same in both");
        }
    }

    /// A clock that stands at `clock` once it has seen what others' logs of a space end with.
    ///
    /// Only batches are read that may end ahead of the wall clock: what comes later is stamped later without.
    fn clock_of_space(self: &Arc<Self>, space: &SpaceName, mut clock: Hlc) -> Hlc {
        let wall_unix_ms = self.options.clock.unix_ms();
        let ahead_ms_max = self.options.clock_ahead_ms_max();
        let ends: Vec<_> = {
            let view = self.view_without_digests();
            let ids = view.spaces.get(space).map_or(&[][..], |space| &space.logs);
            let rows = ids.iter().filter_map(|id| view.log(*id)).map(|state| (state.id, &state.row));
            let is_recent = |time: Hlc| time.unix_ms().saturating_add(BATCH_MS_MAX) >= wall_unix_ms;
            let recent = rows.filter(|(_, row)| row.genesis.node != self.identity().node && is_recent(row.last_time));
            recent.filter_map(|(id, row)| Some((id, Seq(row.head.next_seq.0.checked_sub(1)?)))).collect()
        };
        for (log, last) in ends {
            // What can't be read is reported to those who want it.
            if let Ok(Some(batch)) = self.read_batch(log, last) {
                clock = clock.observe(batch.last_time(), wall_unix_ms, ahead_ms_max);
            }
        }
        clock
    }

    /// Whether the next frame goes into a segment that has frames already.
    fn goes_on_in_a_segment(&self) -> bool {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.as_ref().is_some_and(|tail| tail.position().is_some())
    }

    /// Written before anything else after a clean close: what follows the closing mark on disk was then
    /// certainly not written by a life of this store that is not known.
    fn write_opening_mark(&self) -> io::Result<()> {
        self.force_mark().map_err(|error| match error {
            WriteError::Full => io::ErrorKind::StorageFull.into(),
            WriteError::Disk(DiskError(error)) => io::Error::new(error.kind(), error.to_string()),
        })
    }
}

/// A damaged identity is met, and reported, while opening.
fn unless_unreadable(error: OpenError) -> Result<(), OpenError> {
    match error {
        OpenError::Identity { .. } => Ok(()),
        error => Err(error),
    }
}

/// Makes durable the entries of `dir` and of all folders above it, of which any may just have been made, now or by
/// an attempt that was cut short. Called before there is an identity, so that a store that is found has them.
fn sync_folders_above(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    for above in dir.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match vfs.sync_dir(above) {
            // A folder that may not be read was not made here.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

fn lock(vfs: &dyn Vfs, dir: &Path) -> Result<Box<dyn VfsLock>, OpenError> {
    let path = dir.join(LOCK_FILE);
    for attempt in 1.. {
        match vfs.lock(&path) {
            Ok(Some(lock)) => return Ok(lock),
            // Where `is_locked` takes it, a reader may hold it for a moment to learn whether there is a writer.
            Ok(None) if attempt < LOCK_ATTEMPTS => thread::sleep(LOCK_PAUSE),
            Ok(None) => break,
            Err(error) => return Err(OpenError::Disk { operation: "locking", path, error }),
        }
    }
    Err(OpenError::Locked { path: dir.to_owned() })
}

/// What became of a batch.
#[derive(Debug, Clone)]
pub enum Stored {
    /// Queued; durable once the receipt says so.
    Queued(Receipt),
    /// The log holds this very batch already, durably.
    Duplicate,
}

#[cfg(test)]
mod tests;
