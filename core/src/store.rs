//! The store: one node's records, on its own disk.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Context,
    time::{Duration, Instant},
};

use counterfoil_storage::{
    Holes, Incarnation, Journal, LogId, LogInfo, NodeName, Options, Recovery, Seq, SpaceName, StoreId, VerifyReport,
    WallClock,
};

use crate::{
    acks::{Ack, Acks},
    error::{Error, Result},
    options::Builder,
    retention::Keeper,
    space::{Space, SpaceState},
    stats::Stats,
    status::{Lag, LinkShared, LinkState, LinkStatus, Progress, Unmirrored},
};

/// A store: the records of one node, in a folder on its own disk. Cheap to clone; all clones are one.
///
/// Reads and writes never touch the network. It is open until [`close`](Self::close), or until the
/// last handle (of it, its spaces and followers) is dropped; dropping never waits.
///
/// ```
/// use counterfoil::{Durability, Store};
///
/// let store = Store::in_memory()?;
/// let space = store.space("practice-12")?;
/// space.append("first")?;
/// space.append("second")?.wait(Durability::Local)?;
/// let bodies: Vec<_> = space.read(..)?.map(|record| Ok(record?.into_body())).collect::<Result<_, counterfoil::Error>>()?;
/// assert_eq!(bodies, ["first", "second"]);
/// # Ok::<(), counterfoil::Error>(())
/// ```
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What all handles of a store share. Threads and tasks of links hold parts of it, never this.
pub(crate) struct Inner {
    /// Before the journal, whose lock guards the index's file: fields are dropped in this order.
    #[cfg(feature = "collections")]
    pub(crate) collections: crate::collection::Collections,
    pub(crate) journal: Journal,
    pub(crate) acks: Arc<Acks>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) clock_ahead_max: Duration,
    pub(crate) is_read_only: bool,
    recovery: Recovery,
    spaces: Mutex<HashMap<SpaceName, Arc<SpaceState>>>,
    links: Mutex<Vec<LinkHandle>>,
    /// Held while a link is begun, from the look at the others until it is among them.
    pub(crate) linking: Mutex<()>,
    #[cfg(feature = "net")]
    servers: Mutex<Vec<Arc<counterfoil_replication::net::Listener>>>,
    pub(crate) appended: Appended,
    #[cfg(feature = "net")]
    pub(crate) runtime: crate::runtime::Runtime,
}

/// What this process has appended since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Appended {
    pub(crate) fn count(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A link as the store sees it: what it shows, and how it is stopped.
pub(crate) struct LinkHandle {
    pub(crate) shared: Arc<LinkShared>,
    /// Whether records leave this store by it; the other end of an in-process link is stopped with the store, no more.
    pub(crate) is_source: bool,
    /// It carries every space that there is and will be.
    pub(crate) all_spaces: bool,
    pub(crate) stop: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("node", &self.journal.identity().node).finish_non_exhaustive()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the store in the folder `path`, recovering what a crash has left: see
    /// [`recovery`](Self::recovery).
    ///
    /// # Errors
    ///
    /// There is no store ([`ErrorKind::NoStore`](crate::ErrorKind::NoStore): make one with
    /// `Store::builder().node("practice-12").open_or_create(path)`); another process has it open;
    /// the disk refused.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(path)
    }

    /// Opens the store in the folder `path` without changing a byte, beside the process that writes
    /// it: what is proven durable is served.
    ///
    /// # Errors
    ///
    /// There is no store, or it can't be told whose it is, or a file can't be read. Damage is not an error: see
    /// [`recovery`](Self::recovery).
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open_read_only(path)
    }

    /// A store in memory, whose node is called `local`: for tests of applications. It ends with its last handle.
    ///
    /// # Errors
    ///
    /// None is known; what could go wrong on a disk has the same type.
    pub fn in_memory() -> Result<Self> {
        Self::builder().in_memory()
    }

    /// To make a store, or open one with options.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn from_journal(
        journal: Journal,
        recovery: Recovery,
        options: Options,
        keeper: Arc<Keeper>,
        #[cfg(feature = "collections")] collections: crate::collection::CollectionOptions,
    ) -> Result<Self> {
        let acks = Arc::new(Acks::new(journal.identity().node.clone()));
        let store = Self {
            inner: Arc::new(Inner {
                #[cfg(feature = "collections")]
                collections: crate::collection::Collections::new(collections, &options),
                journal,
                acks,
                keeper,
                clock: options.clock,
                clock_ahead_max: options.clock_ahead_max,
                is_read_only: options.read_only,
                recovery,
                spaces: Mutex::default(),
                links: Mutex::default(),
                linking: Mutex::default(),
                #[cfg(feature = "net")]
                servers: Mutex::default(),
                appended: Appended::default(),
                #[cfg(feature = "net")]
                runtime: crate::runtime::Runtime::default(),
            }),
        };
        store.inner.keeper.start(&store.inner)?;
        Ok(store)
    }

    /// The node's name.
    pub fn node(&self) -> &NodeName {
        &self.inner.journal.identity().node
    }

    /// The store's folder.
    pub fn path(&self) -> &Path {
        self.inner.journal.dir()
    }

    /// The store's random id.
    pub fn id(&self) -> StoreId {
        self.inner.journal.identity().store
    }

    /// Which life of the node this is: new when the store is found to be a copy.
    pub fn incarnation(&self) -> Incarnation {
        self.inner.journal.identity().incarnation
    }

    /// What opening the store found and did.
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// A space, by name. It comes into being with its first record.
    ///
    /// # Errors
    ///
    /// The text can't be a name.
    pub fn space(&self, name: impl AsRef<str>) -> Result<Space> {
        Ok(self.open_space(SpaceName::new(name.as_ref())?))
    }

    /// The space that bears the node's own name.
    ///
    /// # Errors
    ///
    /// None: a node's name can be that of a space.
    pub fn own_space(&self) -> Result<Space> {
        self.space(self.node().as_str())
    }

    pub(crate) fn open_space(&self, name: SpaceName) -> Space {
        let mut spaces = lock(&self.inner.spaces);
        let state = spaces.entry(name).or_insert_with_key(|name| Arc::new(SpaceState::new(name.clone())));
        Space::new(Arc::clone(&self.inner), Arc::clone(state))
    }

    /// The spaces that have a log here, in order.
    pub fn spaces(&self) -> Vec<Space> {
        self.inner.journal.spaces().into_iter().map(|name| self.open_space(name)).collect()
    }

    /// All logs as they stand, of this node and of others; ascending by id.
    pub fn logs(&self) -> Vec<LogInfo> {
        self.inner.journal.logs(None)
    }

    /// What other nodes have said they hold of a log, since this store was opened.
    pub fn acks(&self, log: LogId) -> Vec<Ack> {
        self.inner.acks.of_log(log)
    }

    /// Makes durable all that has been appended so far.
    ///
    /// # Errors
    ///
    /// The commit failed, or an earlier one did: what was appended may or may not be found when the store is next
    /// opened. Or the store is closed, or open to read only.
    pub fn commit(&self) -> Result<()> {
        Ok(self.inner.journal.commit()?)
    }

    /// When opened to read only: takes notice of what the writer beside has made durable since;
    /// whether there was anything. Iterators that follow do this by themselves.
    ///
    /// # Errors
    ///
    /// A file can't be read.
    pub fn refresh(&self) -> Result<bool> {
        Ok(self.inner.journal.refresh()?)
    }

    /// Reads the whole store in the folder `path` and checks every checksum and every chain. Never
    /// changes a byte; may run beside the process that writes the store.
    ///
    /// `progress` is told the bytes read so far and the bytes in all.
    ///
    /// # Errors
    ///
    /// There is no store, or it can't be told whose it is. Damage is not an error: see the report.
    pub fn verify(path: impl AsRef<Path>, progress: impl FnMut(u64, u64)) -> Result<VerifyReport> {
        Ok(counterfoil_storage::verify(path.as_ref(), &Options::default(), progress)?)
    }

    /// A snapshot of numbers to watch.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.inner)
    }

    /// The links started and not stopped, as they stand.
    pub fn links(&self) -> Vec<LinkStatus> {
        self.inner.link_statuses()
    }

    /// Commits what is queued, waits up to `timeout` for the links to carry it, stops links and
    /// servers, and closes the store, also for its other handles. Closing again does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotMirrored`] if a link's peer does not have everything: the store is closed all the
    /// same, and nothing is lost. Or the last commit failed.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        let committed = match self.inner.journal.commit() {
            Err(counterfoil_storage::AppendError::ReadOnly | counterfoil_storage::AppendError::Closed) => Ok(()),
            result => result,
        };
        let unmirrored = self.inner.wait_mirrored(timeout);
        self.inner.keeper.stop();
        self.inner.stop_all();
        self.inner.acks.close();
        #[cfg(feature = "collections")]
        self.inner.close_collections();
        let closed = self.inner.journal.close();
        committed.and(closed)?;
        if unmirrored.is_empty() { Ok(()) } else { Err(Error::NotMirrored { unmirrored }) }
    }
}

#[expect(clippy::disallowed_methods, reason = "a caller's thread waits here for a time that it chose")]
fn now() -> Instant {
    Instant::now()
}

impl Inner {
    /// Fails if one of the spaces goes to the same node by another link.
    ///
    /// What a node says in two sessions at once about one log can overtake each other on the way: an ack could be taken
    /// back for a moment that stands. So there is at most one session for each space and peer.
    ///
    /// A link of all spaces, now and to come, is the only one to its node. Whoever calls holds
    /// [`linking`](Self::linking) until the link is in the list.
    pub(crate) fn check_unlinked(&self, peer: &NodeName, spaces: &[SpaceName], all_spaces: bool) -> Result<()> {
        let own_space = SpaceName::new(self.journal.identity().node.as_str()).ok();
        let links = lock(&self.links);
        let is_live = |link: &&LinkHandle| link.is_source && link.shared.state() != LinkState::Stopped;
        let live = links.iter().filter(is_live).filter(|link| link.shared.peer == *peer);
        for link in live {
            let carried = link.shared.spaces();
            let shared = if all_spaces || link.all_spaces {
                carried.first().or(spaces.first()).cloned().or_else(|| own_space.clone())
            } else {
                carried.into_iter().find(|space| spaces.contains(space))
            };
            if let Some(space) = shared {
                return Err(Error::AlreadyLinked { peer: peer.clone(), space });
            }
        }
        Ok(())
    }

    /// Takes a link into the list that `close` and `stats` look at.
    pub(crate) fn add_link(&self, link: LinkHandle) {
        let mut links = lock(&self.links);
        links.retain(|link| link.shared.state() != LinkState::Stopped);
        links.push(link);
    }

    /// Stops the links that `is_meant`; stopping is final.
    pub(crate) fn stop_links(&self, is_meant: impl Fn(&LinkShared) -> bool) {
        for link in lock(&self.links).extract_if(.., |link| is_meant(&link.shared)) {
            (link.stop)();
            link.shared.set_state(LinkState::Stopped);
        }
        self.acks.touch();
    }

    #[cfg(feature = "net")]
    pub(crate) fn add_server(&self, server: Arc<counterfoil_replication::net::Listener>) {
        lock(&self.servers).push(server);
    }

    /// Stops the servers that `is_meant`: they end with their last handle, and the others' are closed.
    #[cfg(feature = "net")]
    pub(crate) fn stop_servers(&self, is_meant: impl Fn(&Arc<counterfoil_replication::net::Listener>) -> bool) {
        for server in lock(&self.servers).extract_if(.., |server| is_meant(server)) {
            server.close();
        }
    }

    /// The nodes connected to servers.
    #[cfg_attr(not(feature = "net"), expect(clippy::unused_self, reason = "nobody connects without a network"))]
    pub(crate) fn peers(&self) -> Vec<NodeName> {
        #[cfg(feature = "net")]
        let mut peers: Vec<_> = {
            let servers = lock(&self.servers).clone();
            servers.iter().flat_map(|server| server.peers()).map(|peer| peer.node).collect()
        };
        #[cfg(not(feature = "net"))]
        let mut peers = Vec::new();
        peers.sort_unstable();
        peers
    }

    /// Stops links and servers, without waiting for any.
    fn stop_all(&self) {
        self.stop_links(|_| true);
        #[cfg(feature = "net")]
        {
            self.stop_servers(|_| true);
            self.runtime.shut_down();
        }
    }

    fn link_list(&self) -> Vec<Arc<LinkShared>> {
        let links = lock(&self.links);
        let is_going = |link: &&LinkHandle| link.is_source && link.shared.state() != LinkState::Stopped;
        links.iter().filter(is_going).map(|link| Arc::clone(&link.shared)).collect()
    }

    pub(crate) fn link_statuses(&self) -> Vec<LinkStatus> {
        self.link_list().iter().map(|link| self.link_status(link)).collect()
    }

    pub(crate) fn link_status(&self, link: &LinkShared) -> LinkStatus {
        let lacks = self.unmirrored(link);
        LinkStatus {
            peer: link.peer.clone(),
            spaces: link.spaces(),
            state: link.state(),
            lag: self.lag(&lacks),
            behind_records: link.behind_records(),
            catching_up: link.catching_up(),
            last_error: link.last_error(),
            is_stuck: link.is_stuck(),
            parked: link.parked(|log| lacks.iter().all(|missing| missing.log != log)),
            refused: link.refused(),
        }
    }

    /// What the link's peer has not acked, a range at a time: what it has lost since is among it. The peer's own logs are its own affair.
    fn unmirrored(&self, link: &LinkShared) -> Vec<Unmirrored> {
        let spaces = link.spaces();
        let logs = spaces.iter().flat_map(|space| self.journal.logs(Some(space)));
        logs.filter(|info| info.genesis.node != link.peer)
            .flat_map(|info| {
                let (acked, holes) = match self.acks.of_node(info.id, &link.peer) {
                    Some(ack) => (ack.head.next_seq, ack.holes),
                    None => (Seq::ZERO, Holes::default()),
                };
                let behind = (acked, info.durable.next_seq);
                let lost: Vec<_> = holes.iter().map(|(first, next)| (first, next.min(acked))).collect();
                let ranges = lost.into_iter().chain([behind]).filter(|(first_seq, next_seq)| first_seq < next_seq);
                let lacks: Vec<_> = ranges
                    .map(|(first_seq, next_seq)| Unmirrored {
                        peer: link.peer.clone(),
                        space: info.genesis.space.clone(),
                        log: info.id,
                        first_seq,
                        next_seq,
                        was_reached: link.was_reached(),
                        reason: link.stopped_by(info.id, &info.genesis.space).or_else(|| link.last_error()),
                    })
                    .collect();
                lacks
            })
            .collect()
    }

    fn lag(&self, lacks: &[Unmirrored]) -> Lag {
        let mut lag = Lag::default();
        for missing in lacks {
            lag.records += missing.records();
            if let Some(info) = self.journal.log(missing.log) {
                let kept = (info.durable.next_seq.0 - info.first_seq.0).max(1);
                lag.bytes += (u128::from(info.bytes) * u128::from(missing.records()) / u128::from(kept)) as u64;
            }
            if let Ok(Some(batch)) = self.journal.read_batch(missing.log, missing.first_seq) {
                let age_ms = self.clock.unix_ms().saturating_sub(batch.header().time.unix_ms());
                lag.seconds = lag.seconds.max(age_ms as f64 / 1000.0);
            }
        }
        lag
    }

    /// Waits until the peers of all links have what is durable now, as far as it is on its way; what
    /// they lack then, or when `timeout` is over.
    fn wait_mirrored(&self, timeout: Duration) -> Vec<Unmirrored> {
        let deadline = now().checked_add(timeout);
        let links = self.link_list();
        loop {
            let version = self.acks.version();
            let mut unmirrored = Vec::new();
            let mut is_moving = false;
            for link in &links {
                let lacks = self.unmirrored(link);
                let moves = lacks.iter().any(|missing| link.stopped_by(missing.log, &missing.space).is_none());
                is_moving |= moves;
                // What has stopped since it was looked for is told with the reason.
                unmirrored.extend(if moves { lacks } else { self.unmirrored(link) });
            }
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(now()));
            if !is_moving || left.is_zero() || self.acks.is_closed() {
                return unmirrored;
            }
            self.acks.wait_changed(version, left);
        }
    }

    /// Whether the link's peer gets what it lacks.
    #[cfg(feature = "net")]
    fn outward(&self, link: &LinkShared) -> Progress {
        let lacks = self.unmirrored(link);
        let moves = |missing: &Unmirrored| link.stopped_by(missing.log, &missing.space).is_none();
        match lacks.is_empty() {
            true => Progress::Done,
            false if lacks.iter().any(moves) => Progress::Moving,
            false => Progress::Stopped,
        }
    }

    /// Whether both ends of the link have everything, or something that one lacks is not known to have stopped.
    #[cfg(feature = "net")]
    pub(crate) fn is_link_moving(&self, link: &LinkShared) -> bool {
        let ways = [self.outward(link), link.inward()];
        ways.contains(&Progress::Moving) || ways == [Progress::Done; 2]
    }

    /// Waits until the link's peer has what is durable now; whether it has.
    pub(crate) fn wait_link_mirrored(&self, link: &LinkShared, timeout: Duration) -> bool {
        self.wait_link(link, timeout, || true)
    }

    /// Waits until the link's peer has what is durable now, and this store what the peer had; whether both have.
    pub(crate) fn wait_link_synced(&self, link: &LinkShared, timeout: Duration) -> bool {
        self.wait_link(link, timeout, || link.inward() == Progress::Done)
    }

    fn wait_link(&self, link: &LinkShared, timeout: Duration, is_done: impl Fn() -> bool) -> bool {
        let deadline = now().checked_add(timeout);
        let wanted = self.unmirrored(link);
        loop {
            let version = self.acks.version();
            let is_there = |missing: &Unmirrored| {
                let ack = self.acks.of_node(missing.log, &link.peer);
                ack.is_some_and(|ack| ack.covers(missing.first_seq, missing.next_seq))
            };
            if wanted.iter().all(is_there) && is_done() {
                return true;
            }
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(now()));
            if left.is_zero() || self.acks.is_closed() || link.state() == LinkState::Stopped {
                return false;
            }
            self.acks.wait_changed(version, left);
        }
    }

    #[cfg(feature = "collections")]
    fn close_collections(&self) {
        let spaces: Vec<_> = lock(&self.spaces).values().cloned().collect();
        let engines: Vec<_> = spaces.iter().filter_map(|space| lock(&space.engine).clone()).collect();
        self.collections.close(engines.iter());
    }

    #[cfg(feature = "collections")]
    pub(crate) fn is_closed(&self) -> bool {
        self.acks.is_closed()
    }

    /// Whether the store has been closed. Followers ask it whenever the journal's watch wakes them,
    /// which closing does.
    pub(crate) fn poll_closed(&self, _cx: &mut Context<'_>) -> bool {
        self.acks.is_closed()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.begin_stopping();
        self.stop_all();
        self.acks.close();
    }
}
