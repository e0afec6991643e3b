//! A disk whose every operation lets others go on, and that knows what it has made durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use counterfoil_faults::FaultVfs;
use counterfoil_storage::vfs::{FileIdentity, OpenMode, Vfs, VfsFile, VfsLock};
use shuttle::sync::atomic::{AtomicU64, Ordering};

/// What the body of a record begins with; its number follows, in 8 bytes.
pub(crate) const MARK: &[u8] = b"record:";

/// The number in a record's body.
pub(crate) fn number_of(body: &[u8]) -> Option<u64> {
    let number = body.strip_prefix(MARK)?.first_chunk()?;
    Some(u64::from_le_bytes(*number))
}

/// A segment, and an offset in it.
type Reach = (u64, u64);

#[derive(Debug, Default)]
struct Known {
    /// Numbers of records written and not flushed, by file.
    written: BTreeMap<PathBuf, BTreeSet<u64>>,
    /// Files whose directory entries are not flushed, with the records flushed to them.
    unnamed: BTreeMap<PathBuf, BTreeSet<u64>>,
    /// Numbers of records that survive a crash.
    durable: BTreeSet<u64>,
    /// How far the journal is recorded to reach.
    reach: Option<Reach>,
}

/// [`FaultVfs`], watched. Clones are one disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) faults: FaultVfs,
    known: Arc<Mutex<Known>>,
    turns: Arc<AtomicU64>,
}

#[derive(Debug)]
struct File {
    disk: Disk,
    path: PathBuf,
    file: Arc<dyn VfsFile>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { faults: FaultVfs::new(1), known: Arc::default(), turns: Arc::default() }
    }

    /// Whether a record survives a crash.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.known().durable.contains(&number)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets others go on.
    fn turn(&self) {
        self.turns.fetch_add(1, Ordering::SeqCst);
    }
}

impl Vfs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        self.turn();
        let file = self.faults.open(path, mode)?;
        if mode == OpenMode::Create {
            self.known().unnamed.insert(path.to_owned(), BTreeSet::new());
        }
        Ok(Arc::new(File { disk: self.clone(), path: path.to_owned(), file }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.faults.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.turn();
        if to.ends_with("extent") {
            let recorded = self.faults.content(from).and_then(|content| reach(&content));
            let mut known = self.known();
            assert!(recorded >= known.reach, "the journal is recorded to reach less far than it was: {recorded:?}");
            known.reach = recorded;
        }
        self.faults.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.turn();
        self.faults.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.faults.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.turn();
        let unnamed: Vec<_> = self.known().unnamed.keys().cloned().collect();
        self.faults.sync_dir(dir)?;
        self.turn();
        let mut known = self.known();
        for path in unnamed {
            let flushed = known.unnamed.remove(&path).unwrap_or_default();
            known.durable.extend(flushed);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        self.turn();
        self.faults.lock(path)
    }
}

impl VfsFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.turn();
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.disk.turn();
        let written = self.file.write_at(buffers, offset)?;
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).take(written).collect();
        let places = marks(&bytes);
        let numbers = places.filter_map(|place| number_of(&bytes[place..]));
        self.disk.known().written.entry(self.path.clone()).or_default().extend(numbers);
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.turn();
        // What is written while the flush runs may not be covered by it.
        let covered = self.disk.known().written.remove(&self.path).unwrap_or_default();
        self.file.sync_data()?;
        self.disk.turn();
        let mut known = self.disk.known();
        match known.unnamed.get_mut(&self.path) {
            Some(flushed) => flushed.extend(covered),
            None => known.durable.extend(covered),
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.turn();
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.disk.turn();
        self.file.reserve(len)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.file.identity()
    }
}

/// What an extent file records: see `storage/src/journal/identity.rs`.
fn reach(extent: &[u8]) -> Option<Reach> {
    let number = |at: usize| Some(u64::from_le_bytes(*extent.get(at..)?.first_chunk()?));
    Some((number(4)?, number(12)?))
}

/// Where records' bodies begin.
fn marks(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let is_mark = |place: &usize| bytes[*place] == MARK[0] && bytes[*place..].starts_with(MARK);
    (0..bytes.len()).filter(is_mark)
}
