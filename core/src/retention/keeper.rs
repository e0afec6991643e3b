//! Removes what may go: looks at the policies and the acks, advances floors, gives segments back.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use counterfoil_storage::{AppendError, LogId, LogInfo, Seq, SpaceName, TrimError};

use super::{
    Held, Retention, RetentionStats, Trimmed, TrimmedLog,
    due::{self, Candidate, Due},
    guard::{self, Removable},
};
use crate::{
    error::{Error, Result},
    space::Space,
    store::{Inner, Store, lock},
};

/// How often it is looked for what may go unless told otherwise.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);

/// What is told of each time that something was removed or given back.
pub(crate) type OnTrimmed = Arc<dyn Fn(&Trimmed) + Send + Sync>;

/// How a builder wants retention.
#[derive(Clone)]
pub(crate) struct KeeperOptions {
    pub(crate) of_all: Retention,
    pub(crate) of_spaces: Vec<(String, Retention)>,
    pub(crate) interval: Duration,
    pub(crate) on_trimmed: Option<OnTrimmed>,
}

impl Default for KeeperOptions {
    fn default() -> Self {
        Self { of_all: Retention::keep_all(), of_spaces: Vec::new(), interval: INTERVAL_DEFAULT, on_trimmed: None }
    }
}

impl fmt::Debug for KeeperOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of_all, of_spaces, interval, .. } = self;
        let mut debug = f.debug_struct("KeeperOptions");
        debug.field("of_all", of_all).field("of_spaces", of_spaces).field("interval", interval).finish_non_exhaustive()
    }
}

impl KeeperOptions {
    /// # Errors
    ///
    /// A space is not well named.
    pub(crate) fn keeper(self, is_background: bool) -> Result<Arc<Keeper>> {
        let of_space = self.of_spaces.into_iter().map(|(name, policy)| Ok((SpaceName::new(&name)?, policy)));
        let policies = Policies { of_all: self.of_all, of_space: of_space.collect::<Result<_>>()? };
        Ok(Arc::new(Keeper {
            policies: Mutex::new(policies),
            turn: Mutex::default(),
            stats: Mutex::default(),
            interval: self.interval,
            on_trimmed: self.on_trimmed,
            is_background,
            worker: Mutex::default(),
            is_stopping: Mutex::default(),
            stopping: Condvar::new(),
        }))
    }
}

#[derive(Debug)]
struct Policies {
    of_all: Retention,
    of_space: HashMap<SpaceName, Retention>,
}

impl Policies {
    fn of(&self, space: &SpaceName) -> &Retention {
        self.of_space.get(space).unwrap_or(&self.of_all)
    }

    fn keep_all(&self) -> bool {
        self.of_all.keeps_all() && self.of_space.values().all(Retention::keeps_all)
    }
}

/// What a look leaves for the next one.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// What the wall clock said.
    at_unix_ms: u64,
    /// For each space how far its rules have come, with the policy whose rules they are.
    found: HashMap<SpaceName, (Retention, HashMap<LogId, Due>)>,
    /// Whether nothing below the floors is left to be given back, as far as that is worth the copying.
    is_freed: bool,
}

/// The retention of a store.
pub(crate) struct Keeper {
    policies: Mutex<Policies>,
    /// Held by whoever looks. Taken before any other lock.
    turn: Mutex<Turn>,
    stats: Mutex<RetentionStats>,
    interval: Duration,
    on_trimmed: Option<OnTrimmed>,
    is_background: bool,
    worker: Mutex<Option<JoinHandle<()>>>,
    is_stopping: Mutex<bool>,
    stopping: Condvar,
}

/// A log of which something is due.
pub(super) struct Planned {
    info: LogInfo,
    /// By whose rules.
    policy: Retention,
    due: Seq,
    removable: Removable,
}

impl Planned {
    fn outcome(self, reached: Seq, bytes: u64) -> TrimmedLog {
        let Self { info, due, removable, .. } = self;
        let held = removable.held;
        let (space, node) = (info.genesis.space.clone(), info.genesis.node.clone());
        TrimmedLog { log: info.id, space, node, from: info.first_seq, to: reached, due, bytes, held }
    }
}

impl Keeper {
    pub(crate) fn policy(&self, space: &SpaceName) -> Retention {
        lock(&self.policies).of(space).clone()
    }

    pub(crate) fn set_policy(&self, space: &SpaceName, policy: Retention) {
        lock(&self.policies).of_space.insert(space.clone(), policy);
    }

    pub(crate) fn stats(&self) -> RetentionStats {
        lock(&self.stats).clone()
    }

    /// Starts the thread that looks now and then, if anything may ever be removed and it does not run yet.
    pub(crate) fn start(self: &Arc<Self>, inner: &Arc<Inner>) -> Result<()> {
        if !self.is_background || lock(&self.policies).keep_all() {
            return Ok(());
        }
        let mut worker = lock(&self.worker);
        if worker.is_none() && !self.is_stopping() {
            let (keeper, inner) = (Arc::clone(self), Arc::downgrade(inner));
            let spawned =
                thread::Builder::new().name("counterfoil-keeper".to_owned()).spawn(move || keeper.work(&inner));
            let system = |error| Error::System { what: "starting the thread of retention".to_owned(), error };
            *worker = Some(spawned.map_err(system)?);
        }
        Ok(())
    }

    /// Looks now and then until it is stopped or the store is gone. It holds the store only while it looks.
    fn work(&self, inner: &Weak<Inner>) {
        while !self.wait() {
            let Some(inner) = inner.upgrade() else { return };
            // What failed stands in the stats, and is tried again.
            let _ = Store { inner }.trim();
        }
    }

    /// Waits until it is time to look; whether it is to stop instead.
    fn wait(&self) -> bool {
        let is_stopping = lock(&self.is_stopping);
        let waited = self.stopping.wait_timeout_while(is_stopping, self.interval, |is_stopping| !*is_stopping);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn is_stopping(&self) -> bool {
        *lock(&self.is_stopping)
    }

    /// Has the thread end, without waiting for it.
    pub(crate) fn begin_stopping(&self) {
        *lock(&self.is_stopping) = true;
        self.stopping.notify_all();
    }

    /// Has the thread end, and waits for it, unless this is it.
    pub(crate) fn stop(&self) {
        self.begin_stopping();
        let worker = lock(&self.worker).take();
        if let Some(worker) = worker.filter(|worker| worker.thread().id() != thread::current().id()) {
            // A panic there has been reported by the panic hook; there is nothing to add.
            drop(worker.join());
        }
    }

    /// Takes down how a look went.
    fn note(&self, outcome: &Result<Trimmed>) {
        let mut stats = lock(&self.stats);
        stats.runs += 1;
        let error = match outcome {
            Ok(trimmed) => {
                stats.trimmed_records += trimmed.records();
                stats.trimmed_bytes += trimmed.bytes();
                stats.freed_segments += trimmed.freed_segments;
                stats.freed_bytes += trimmed.freed_bytes;
                stats.copied_bytes += trimmed.copied_bytes;
                stats.held_logs = trimmed.logs.iter().filter(|log| log.held.is_some()).count() as u64;
                trimmed.not_freed.clone()
            }
            Err(error) => Some(error.to_string()),
        };
        if error != stats.last_error
            && let Some(error) = &error
        {
            tracing::warn!(error, "retention failed");
        }
        stats.last_error = error;
    }
}

impl Store {
    /// Removes now what may go by the [policies](Retention) of the spaces, and gives back the space that it took, by whole
    /// segments. What is left of others in these is copied forward. Appends and reads go on meanwhile.
    ///
    /// A store that has threads does this by itself, every few seconds: see
    /// [`Builder::retention_interval`](crate::Builder::retention_interval).
    ///
    /// **Durability**: what is removed stays so. After a crash in the middle a part of it is removed, or all.
    ///
    /// # Errors
    ///
    /// Nothing can be written: the store is read only or closed, the disk is full or has failed. That something is held,
    /// or can't be read, is no error: it is told of each log.
    pub fn trim(&self) -> Result<Trimmed> {
        let keeper = &self.inner.keeper;
        let mut turn = lock(&keeper.turn);
        let _span = tracing::info_span!("retention", node = %self.node()).entered();
        let outcome = self.trim_in_turn(&mut turn);
        keeper.note(&outcome);
        drop(turn);
        let trimmed = outcome?;
        if let Some(tell) = keeper.on_trimmed.as_ref().filter(|_| trimmed.records() > 0 || trimmed.freed_segments > 0) {
            tell(&trimmed);
        }
        Ok(trimmed)
    }

    /// What [`trim`](Self::trim) would remove now. Changes nothing; in a store opened to read only, too, where no acks are
    /// known.
    pub fn trim_plan(&self) -> Trimmed {
        let mut turn = lock(&self.inner.keeper.turn);
        let planned = self.plan(&mut turn);
        let outcome = |planned: Planned| {
            let Removable { until, bytes, .. } = planned.removable;
            planned.outcome(until, bytes)
        };
        Trimmed { logs: planned.into_iter().map(outcome).collect(), ..Trimmed::default() }
    }

    fn trim_in_turn(&self, turn: &mut Turn) -> Result<Trimmed> {
        if self.inner.is_read_only {
            return Err(AppendError::ReadOnly.into());
        }
        let planned = self.plan(turn);
        let was_freed = std::mem::replace(&mut turn.is_freed, false);
        let advanced = match self.advance(planned) {
            // What was removed before may give back the space that is lacking.
            Err(error) => {
                let _ = self.inner.journal.free_while(|| !self.inner.keeper.is_stopping());
                return Err(error);
            }
            advanced => advanced?,
        };
        let mut trimmed = Trimmed { logs: advanced, ..Trimmed::default() };
        turn.is_freed = was_freed && trimmed.records() == 0;
        if turn.is_freed {
            return Ok(trimmed);
        }
        let before = self.inner.journal.freed();
        let outcome = self.inner.journal.free_while(|| !self.inner.keeper.is_stopping());
        // Also what was done before it failed.
        let freed = self.inner.journal.freed().since(before);
        let counted = (freed.segments, freed.bytes, freed.copied_bytes);
        (trimmed.freed_segments, trimmed.freed_bytes, trimmed.copied_bytes) = counted;
        if freed.segments > 0 {
            tracing::info!(segments = freed.segments, bytes = freed.bytes, "segments given back");
        }
        match outcome {
            Ok(_) => turn.is_freed = !self.inner.keeper.is_stopping(),
            // It stays where it is until it is mended, and so does what came later.
            Err(TrimError::Read(error)) => trimmed.not_freed = Some(TrimError::Read(error).to_string()),
            Err(error) => return Err(error.into()),
        }
        Ok(trimmed)
    }

    /// Finds out what is due in all spaces, and how much of it may go.
    pub(super) fn plan(&self, turn: &mut Turn) -> Vec<Planned> {
        let Inner { journal, keeper, clock, .. } = &*self.inner;
        let now_unix_ms = clock.unix_ms();
        if now_unix_ms < std::mem::replace(&mut turn.at_unix_ms, now_unix_ms) {
            // It was ahead: what was old by it may not be.
            turn.found.clear();
        }
        let mut spaces: BTreeMap<SpaceName, (Retention, Vec<LogInfo>)> = BTreeMap::new();
        {
            let policies = lock(&keeper.policies);
            if policies.keep_all() {
                turn.found.clear();
                return Vec::new();
            }
            for info in journal.logs(None) {
                let policy = policies.of(&info.genesis.space);
                if !policy.keeps_all() {
                    let entry = || (policy.clone(), Vec::new());
                    spaces.entry(info.genesis.space.clone()).or_insert_with(entry).1.push(info);
                }
            }
        }
        turn.found.retain(|space, (policy, _)| spaces.get(space).is_some_and(|(now, _)| now == policy));
        let mut planned = Vec::new();
        for (space, (policy, infos)) in spaces {
            if keeper.is_stopping() {
                break;
            }
            let (_, found) = turn.found.entry(space.clone()).or_insert_with(|| (policy.clone(), HashMap::new()));
            let candidate = |info: LogInfo| {
                let due = found.remove(&info.id).unwrap_or_default();
                Candidate::new(info, due)
            };
            let mut logs: Vec<_> = infos.into_iter().map(candidate).collect();
            due::find(journal, &policy, &mut logs, now_unix_ms, || keeper.is_stopping());
            found.extend(logs.iter().map(|log| (log.info.id, log.due.clone())));
            let space = self.open_space(space);
            planned.extend(logs.into_iter().filter_map(|log| self.removable(&space, &policy, log)));
        }
        planned
    }

    /// How much of what is due in a log may go; `None` if nothing is due.
    fn removable(&self, space: &Space, policy: &Retention, log: Candidate) -> Option<Planned> {
        let (info, due) = (&log.info, log.due_until());
        if due <= info.first_seq && log.obstacle.is_none() {
            return None;
        }
        let mirrored =
            policy.mirrored_until(&self.inner.acks.first_hand(info.id), info.first_seq, info.durable.next_seq);
        let mut removable = guard::removable(space, info, due.min(mirrored), || self.inner.keeper.is_stopping());
        if removable.until < due {
            removable.held.get_or_insert(Held::NotMirrored { from: removable.until.max(mirrored.min(due)) });
        }
        removable.held = removable.held.or(log.obstacle);
        Some(Planned { due, info: log.info, policy: policy.clone(), removable })
    }

    /// Advances floors as planned, of those logs of which that is still right: a policy may have been changed meanwhile, or an ack been
    /// taken back. The others wait for the next look.
    pub(super) fn advance(&self, mut planned: Vec<Planned>) -> Result<Vec<TrimmedLog>> {
        let Inner { journal, keeper, acks, .. } = &*self.inner;
        // Whoever sets a policy, and it returns, has nothing removed by the old one.
        let policies = lock(&keeper.policies);
        planned.retain(|Planned { info, policy, removable, .. }| {
            let mirrored = || policy.mirrored_until(&acks.first_hand(info.id), info.first_seq, info.durable.next_seq);
            let is_held = removable.until == info.first_seq;
            policies.of(&info.genesis.space) == policy && (is_held || mirrored() >= removable.until)
        });
        let (moving, held): (Vec<_>, Vec<_>) =
            planned.into_iter().partition(|log| log.removable.until > log.info.first_seq);
        let floors: Vec<_> = moving.iter().map(|log| (log.info.id, log.removable.until)).collect();
        let reached = if floors.is_empty() { Vec::new() } else { journal.trim(&floors)? };
        drop(policies);
        let mut outcomes: Vec<_> = moving
            .into_iter()
            .zip(reached)
            .map(|(log, reached)| {
                let bytes_now = journal.log(log.info.id).map_or(0, |info| info.trimmed_bytes);
                let bytes = bytes_now.saturating_sub(log.info.trimmed_bytes);
                log.outcome(reached, bytes)
            })
            .collect();
        for log in &outcomes {
            let TrimmedLog { log, space, from, to, bytes, .. } = log;
            tracing::info!(%log, %space, from = from.0, to = to.0, bytes, "records removed");
        }
        for log in held {
            let from = log.info.first_seq;
            outcomes.push(log.outcome(from, 0));
        }
        outcomes.sort_by(|a, b| (&a.space, a.log).cmp(&(&b.space, b.log)));
        Ok(outcomes)
    }
}
