//! Recorded calls, done again on a disk that can lose what was not flushed.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use counterfoil_faults::FaultVfs;
use counterfoil_storage::{
    Journal, Options, Seq,
    vfs::{FileIdentity, OpenMode, Vfs, VfsFile, VfsLock},
};

use super::{
    record,
    trace::{Call, Operation},
};

/// Which flushes are done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncs {
    Kept,
    WithoutData,
    WithoutFolders,
}

/// What was done and seen.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) calls: BTreeMap<&'static str, u64>,
    pub(super) segments: u64,
    pub(super) acked: u64,
    pub(super) crashes: u64,
    pub(super) kills: u64,
    /// Flushes during which another thread changed the same file.
    pub(super) raced: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls: Vec<_> = self.calls.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let Self { segments, acked, crashes, kills, raced, .. } = self;
        write!(
            f,
            "{}; {segments} segments, {acked} records acknowledged, {raced} flushes raced; {crashes} states after a power \
             cut and {kills} after a kill opened",
            calls.join(", ")
        )
    }
}

/// A disk on which a recorded store is, at a moment.
pub(super) struct Replay<'a> {
    disk: FaultVfs,
    /// The folder in which the command ran: the root of the disk.
    root: &'a Path,
    identity: FileIdentity,
    syncs: Syncs,
    /// Text on standard output that is not a whole line yet.
    printed: String,
    /// The command that makes the store has ended: from here on it must open.
    is_made: bool,
    pub(super) counts: Counts,
}

/// When a call takes effect on the disk, in events; `None` if it never does for sure.
///
/// What changes a file may be there from when it was asked for. A flush covers what had returned before it was asked
/// for: so it takes effect when it returns, unless the same file was changed meanwhile, else when it began.
fn effect_of(call: &Call, calls: &[Call], raced: &mut u64) -> Option<usize> {
    let Operation::Sync { path } = &call.operation else {
        let is_synced_within = |other: &Call| {
            let is_sync = matches!(&other.operation, Operation::Sync { path } if call.operation.changes(path));
            is_sync && other.began > call.began && call.ended.is_none_or(|ended| other.began < ended)
        };
        // Whether that flush covers it is not known.
        let is_raced = call.ended != Some(call.began) && calls.iter().any(is_synced_within);
        return if is_raced { call.ended } else { Some(call.began) };
    };
    let ended = call.ended?;
    let is_changed_within = |other: &Call| {
        let (from, to) = (other.began, other.ended.unwrap_or(usize::MAX));
        other.operation.changes(path) && from < ended && to > call.began
    };
    if ended != call.began && calls.iter().any(is_changed_within) {
        *raced += 1;
        return Some(call.began);
    }
    Some(ended)
}

impl Operation {
    /// Whether a flush of `path` is about what this changes.
    fn changes(&self, path: &str) -> bool {
        let is_entry_of = |entry: &str| Path::new(entry).parent().is_some_and(|folder| folder.ends_with(path));
        match self {
            Self::Write { path: changed, .. }
            | Self::SetLen { path: changed, .. }
            | Self::Reserve { path: changed, .. } => changed == path,
            // Names are relative where the command gives them so: any that may be meant counts.
            Self::Create { path: changed } => is_entry_of(changed),
            Self::Rename { .. } | Self::Remove { .. } | Self::CreateDir { .. } => true,
            Self::Sync { .. } | Self::Print { .. } => false,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "files made",
            Self::Write { .. } => "writes",
            Self::Sync { .. } => "flushes",
            Self::SetLen { .. } => "lengths set",
            Self::Reserve { .. } => "reservations",
            Self::Rename { .. } => "renames",
            Self::Remove { .. } => "removals",
            Self::CreateDir { .. } => "folders made",
            Self::Print { .. } => "prints",
        }
    }
}

impl<'a> Replay<'a> {
    pub(super) fn new(root: &'a Path, identity: FileIdentity, syncs: Syncs) -> Self {
        let (printed, counts) = (String::new(), Counts::default());
        Self { disk: FaultVfs::new(1), root, identity, syncs, printed, is_made: false, counts }
    }

    /// Does again what the lives of the command did, and opens about `states` crash states on the way.
    pub(super) fn play(&mut self, lives: &[Vec<Call>], states: usize) -> Result<(), String> {
        let total: usize = lives.iter().map(Vec::len).sum();
        let mut done = 0;
        for calls in lives {
            let mut raced = 0;
            let mut effects: Vec<(usize, &Call)> =
                calls.iter().filter_map(|call| Some((effect_of(call, calls, &mut raced)?, call))).collect();
            self.counts.raced += raced;
            // Of what one event does, a flush comes first: it covers nothing that began with its end.
            effects.sort_by_key(|(at, call)| (*at, !matches!(call.operation, Operation::Sync { .. })));
            for (_, call) in effects {
                self.take(&call.operation).map_err(|error| format!("{:?}: {error}", call.operation.name()))?;
                let due = (done + 1) * states / total - done * states / total;
                done += 1;
                for _ in 0..due {
                    self.open_what_a_crash_leaves(done)?;
                }
            }
            self.is_made = true;
            self.open_what_a_crash_leaves(done)?;
        }
        Ok(())
    }

    /// A path on the replayed disk.
    fn path(&self, recorded: &str) -> PathBuf {
        let recorded = Path::new(recorded);
        Path::new("/").join(recorded.strip_prefix(self.root).unwrap_or(recorded))
    }

    fn take(&mut self, operation: &Operation) -> io::Result<()> {
        *self.counts.calls.entry(operation.name()).or_default() += 1;
        let disk = self.disk.clone();
        let file = |path: &str| disk.open(&self.path(path), OpenMode::Write);
        match operation {
            Operation::Create { path } => {
                if disk.content(&self.path(path)).is_none() {
                    disk.open(&self.path(path), OpenMode::Create)?;
                    self.counts.segments +=
                        u64::from(Path::new(path).extension().is_some_and(|extension| extension == "seg"));
                }
            }
            Operation::Write { path, offset, bytes } => {
                let written = file(path)?.write_at(&[IoSlice::new(bytes)], *offset)?;
                assert_eq!(written, bytes.len());
            }
            Operation::Sync { path } if disk.content(&self.path(path)).is_some() => {
                if self.syncs != Syncs::WithoutData {
                    file(path)?.sync_data()?;
                }
            }
            Operation::Sync { path } => {
                if self.syncs != Syncs::WithoutFolders {
                    disk.sync_dir(&self.path(path))?;
                }
            }
            Operation::SetLen { path, len } => file(path)?.set_len(*len)?,
            Operation::Reserve { path, len } => file(path)?.reserve(*len)?,
            Operation::Rename { from, to } => disk.rename(&self.path(from), &self.path(to))?,
            Operation::Remove { path } => disk.remove(&self.path(path))?,
            Operation::CreateDir { path } => disk.create_dir(&self.path(path))?,
            Operation::Print { text } => {
                self.printed.push_str(text);
                let whole = self.printed.rfind('\n').map_or(0, |end| end + 1);
                self.counts.acked +=
                    self.printed[..whole].lines().filter(|line| line.starts_with("ack ")).count() as u64;
                self.printed.drain(..whole);
            }
        }
        Ok(())
    }

    /// The power goes, or the process is killed: what is acknowledged is served, and served again after another crash.
    fn open_what_a_crash_leaves(&mut self, at: usize) -> Result<(), String> {
        let seed = self.counts.crashes;
        let is_kill = seed % 8 == 7 && self.counts.kills * 7 < seed;
        let disk = if is_kill { self.disk.snapshot().kill() } else { self.disk.snapshot().crash(seed) };
        if is_kill {
            self.counts.kills += 1;
        } else {
            self.counts.crashes += 1;
        }
        let place = |what: String| format!("power cut after {at} calls, seed {seed}: {what}");
        let opened = self.serve(&disk);
        let served = match opened {
            Err(_) if !self.is_made => return Ok(()),
            opened => opened.map_err(place)?,
        };
        if served < self.counts.acked {
            return Err(place(format!("{} were acknowledged, {served} are there", self.counts.acked)));
        }
        let again = self.serve(&disk.crash(!seed)).map_err(place)?;
        if again < served { Err(place(format!("{served} were served, {again} after another crash"))) } else { Ok(()) }
    }

    /// Opens the store on a disk; how many records it serves, each at its place.
    fn serve(&self, disk: &FaultVfs) -> Result<u64, String> {
        let mut options = Options::default();
        options.vfs = Arc::new(Bound { disk: disk.clone(), identity: self.identity });
        options.background = false;
        let (journal, recovery) =
            Journal::open(Path::new("/practice.store"), options).map_err(|error| error.to_string())?;
        if let Some(damage) = recovery.damage().next() {
            return Err(format!("damage where there is none: {damage}"));
        }
        let mut count = 0;
        for info in journal.logs(None) {
            for batch in journal.read(info.id, Seq::ZERO) {
                for found in batch.map_err(|error| error.to_string())?.records() {
                    let found = found.map_err(|error| error.to_string())?;
                    if found.seq != Seq(count) || found.body != record(count).as_bytes() {
                        return Err(format!("record {} of {} is not what was appended", found.seq, info.id));
                    }
                    count += 1;
                }
            }
        }
        Ok(count)
    }

    /// The replayed files are those that the command left: nothing was overlooked.
    pub(super) fn expect_files(&self, store: &Path) {
        let mut names = 0;
        for entry in fs::read_dir(store).unwrap() {
            let path = entry.unwrap().path();
            let replayed = self.disk.content(&Path::new("/practice.store").join(path.file_name().unwrap()));
            assert!(replayed.as_deref() == Some(&fs::read(&path).unwrap()[..]), "{} differs", path.display());
            names += 1;
        }
        assert_eq!(self.disk.files().len(), names, "{:?}", self.disk.files());
    }
}

/// A disk whose identity file is the recorded one, not a copy of it.
#[derive(Debug)]
struct Bound {
    disk: FaultVfs,
    identity: FileIdentity,
}

#[derive(Debug)]
struct BoundFile {
    file: Arc<dyn VfsFile>,
    identity: FileIdentity,
}

impl Vfs for Bound {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(BoundFile { file, identity: self.identity }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        self.disk.lock(path)
    }
}

impl VfsFile for BoundFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.file.write_at(buffers, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.file.reserve(len)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(self.identity)
    }
}
