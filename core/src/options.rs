//! How a store is made and opened.

use std::{path::Path, sync::Arc, time::Duration};

use counterfoil_storage::{Compression, Journal, NodeName, Options, Recovery, WallClock, vfs};

use crate::{
    error::{Error, Result},
    retention::{Keeper, KeeperOptions, Retention, Trimmed},
    store::Store,
};

/// Makes or opens a [`Store`], with options. Each option states its default and its limits.
///
/// ```
/// use counterfoil::Store;
///
/// let store = Store::builder().node("practice-12").queue_bytes(1 << 20).in_memory()?;
/// assert_eq!(store.node().as_str(), "practice-12");
/// # Ok::<(), counterfoil::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Builder {
    node: Option<String>,
    options: Options,
    retention: KeeperOptions,
    #[cfg(feature = "collections")]
    collections: crate::collection::CollectionOptions,
}

impl Builder {
    /// The node's name: needed to make a store; checked, if given, when one is opened.
    /// 1 to 128 bytes of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit.
    #[must_use]
    pub fn node(mut self, name: impl Into<String>) -> Self {
        self.node = Some(name.into());
        self
    }

    /// Bytes of records at which a batch is cut. Default: 8 KiB. A lone record makes a batch at once.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.options.batch_bytes = bytes;
        self
    }

    /// How this node's batches are stored, and sent. Default: as they are. Each batch says how it is stored, so
    /// this may change from one opening to the next; whoever reads needs the feature of the same name,
    /// whoever only stores and passes on does not.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.options.compression = compression;
        self
    }

    /// The longest record, in bytes. Default and limit: [`MAX_RECORD_LEN`](crate::MAX_RECORD_LEN), 16 MiB.
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: usize) -> Self {
        self.options.record_bytes_max = bytes.min(counterfoil_storage::MAX_RECORD_LEN);
        self
    }

    /// Bytes that may wait to be committed; when more do, appends wait. Default: 16 MiB.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.options.queue_bytes = bytes;
        self
    }

    /// Bytes of the newest batches kept in memory for followers and mirrors. Default: 8 MiB.
    #[must_use]
    pub fn ring_bytes(mut self, bytes: usize) -> Self {
        self.options.ring_bytes = bytes;
        self
    }

    /// Bytes of the index of old segments kept in memory. Default: 16 MiB.
    #[must_use]
    pub fn index_bytes(mut self, bytes: usize) -> Self {
        self.options.index_bytes = bytes;
        self
    }

    /// Sizes of segment files, in bytes: at first, and once the store has grown.
    /// Defaults: 1 MiB and 64 MiB.
    #[must_use]
    pub fn segment_bytes(mut self, min: u64, max: u64) -> Self {
        self.options.segment_bytes_min = min;
        self.options.segment_bytes_max = max;
        self
    }

    /// How long records that nobody waits for may stay in memory. Default: 2 ms.
    #[must_use]
    pub fn commit_delay(mut self, delay: Duration) -> Self {
        self.options.commit_delay = delay;
        self
    }

    /// Whether threads commit and prepare segments in the background. Default: true. Without them
    /// records are committed only when somebody waits: for tests that must be repeatable.
    #[must_use]
    pub fn background(mut self, is_on: bool) -> Self {
        self.options.background = is_on;
        self
    }

    /// The file system. Default: the operating system's. For tests.
    #[must_use]
    pub fn vfs(mut self, vfs: Arc<dyn vfs::Vfs>) -> Self {
        self.options.vfs = vfs;
        self
    }

    /// The wall clock. Default: the operating system's. For tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn WallClock>) -> Self {
        self.options.clock = clock;
        self
    }

    /// How far ahead of the wall clock another node's stamp may be and still set the clock that stamps this node's
    /// records, so that they come after it. Default: 1 minute. See [`Space::clocks_ahead`](crate::Space::clocks_ahead).
    #[must_use]
    pub fn clock_ahead_max(mut self, ahead: Duration) -> Self {
        self.options.clock_ahead_max = ahead;
        self
    }

    /// What of each space may be removed from this store, and when. Default: nothing, ever. It is not stored: say it
    /// whenever the store is opened.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention.of_all = retention;
        self
    }

    /// The same for one space, instead; see also [`Space::set_retention`](crate::Space::set_retention).
    #[must_use]
    pub fn retention_of(mut self, space: impl Into<String>, retention: Retention) -> Self {
        self.retention.of_spaces.push((space.into(), retention));
        self
    }

    /// How often a thread looks for what may be removed, if anything ever may. Default: 10 seconds. In a store without
    /// [threads](Self::background) nothing is removed but by [`Store::trim`].
    #[must_use]
    pub fn retention_interval(mut self, interval: Duration) -> Self {
        self.retention.interval = interval;
        self
    }

    /// Whom to tell whenever records were removed, or space given back. Called by the thread that did it.
    #[must_use]
    pub fn on_trimmed(mut self, tell: impl Fn(&Trimmed) + Send + Sync + 'static) -> Self {
        self.retention.on_trimmed = Some(Arc::new(tell));
        self
    }

    /// Memory for the index of collections, in bytes: its cache, and what has changed and is not written to it yet. Default:
    /// 64 MiB. In a store that is opened to read only, or in memory, the whole index is in memory besides.
    #[cfg(feature = "collections")]
    #[must_use]
    pub fn collection_bytes(mut self, bytes: usize) -> Self {
        self.collections.bytes_max = bytes;
        self
    }

    /// Whom to tell how far the index of collections has come, whenever it takes in 100,000 records or more at once, as it does
    /// when it is made anew. Called by whoever opens a collection or asks for something, who waits meanwhile.
    #[cfg(feature = "collections")]
    #[must_use]
    pub fn on_index_progress(mut self, tell: impl Fn(&crate::IndexProgress) + Send + Sync + 'static) -> Self {
        self.collections.on_progress = Some(Arc::new(tell));
        self
    }

    /// Makes a new store in the folder `path` and opens it.
    ///
    /// **Durability**: on `Ok` the empty store survives power loss.
    ///
    /// # Errors
    ///
    /// There is a store already; no node was named; the disk refused.
    pub fn create(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let node = self.node_name()?.ok_or_else(|| Error::NodeNotNamed { path: path.to_owned() })?;
        let keeper = self.keeper()?;
        let journal = Journal::create(path, node, self.options.clone())?;
        self.store(journal, Recovery::default(), keeper)
    }

    /// Opens the store in the folder `path`, recovering what a crash has left.
    ///
    /// # Errors
    ///
    /// There is no store; another process has it open; it is another node's; the disk refused.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let node = self.node_name()?;
        let keeper = self.keeper()?;
        let (journal, recovery) = Journal::open(path, self.options.clone())?;
        let found = journal.identity().node.clone();
        if let Some(expected) = node.filter(|node| *node != found) {
            // Gives the lock back at once; nothing has been appended that closing could fail on.
            let _ = journal.close();
            return Err(Error::OtherNode { path: path.to_owned(), expected, found });
        }
        self.store(journal, recovery, keeper)
    }

    /// Opens the store in the folder `path`, or makes it if there is none.
    ///
    /// # Errors
    ///
    /// As of [`open`](Self::open) and [`create`](Self::create).
    pub fn open_or_create(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        match self.clone().open(path) {
            Err(Error::Open(counterfoil_storage::OpenError::NoStore { .. })) => self.create(path),
            result => result,
        }
    }

    /// Opens the store in the folder `path` without changing a byte: beside the process that
    /// writes it, or on media that can't be written. What is proven durable is served.
    ///
    /// # Errors
    ///
    /// As of [`Store::open_read_only`].
    pub fn open_read_only(mut self, path: impl AsRef<Path>) -> Result<Store> {
        self.options.read_only = true;
        self.open(path)
    }

    /// Makes a store in memory that ends with its last handle: for tests of applications.
    /// The node is called `local` unless named.
    ///
    /// # Errors
    ///
    /// As of [`Store::in_memory`].
    pub fn in_memory(mut self) -> Result<Store> {
        self.options.vfs = Arc::new(vfs::Memory::default());
        self.node.get_or_insert_with(|| "local".to_owned());
        self.create("memory")
    }

    fn keeper(&self) -> Result<Arc<Keeper>> {
        self.retention.clone().keeper(self.options.background && !self.options.read_only)
    }

    fn store(self, journal: Journal, recovery: Recovery, keeper: Arc<Keeper>) -> Result<Store> {
        Store::from_journal(
            journal,
            recovery,
            self.options,
            keeper,
            #[cfg(feature = "collections")]
            self.collections,
        )
    }

    fn node_name(&self) -> Result<Option<NodeName>> {
        Ok(self.node.as_deref().map(NodeName::new).transpose()?)
    }
}
