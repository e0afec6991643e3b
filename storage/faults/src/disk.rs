//! The disk, as a file system that a journal can be opened on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use counterfoil_storage::vfs::{FileIdentity, OpenMode, Vfs, VfsFile, VfsLock};

use crate::{
    fault::{Counts, Fault, Injection, Operation},
    medium::Medium,
    names::{Entry, Names},
    rng::Rng,
};

/// A disk in memory that fails when it is told to. Clones share it.
///
/// It keeps apart what processes see and what the medium holds. [`crash`](Self::crash) gives the disk
/// that is found when the power is back: of what was not flushed, anything may be there.
///
/// The same operations on the same seed lead to the same disk.
///
/// ```
/// use counterfoil_faults::{Fault, FaultVfs, Injection, Operation};
/// use counterfoil_storage::vfs::{OpenMode, Vfs};
/// use std::{io::IoSlice, path::Path};
///
/// # fn main() -> std::io::Result<()> {
/// let disk = FaultVfs::new(7);
/// let file = disk.open(Path::new("/a"), OpenMode::Create)?;
/// disk.sync_dir(Path::new("/"))?;
/// file.write_at(&[IoSlice::new(b"kept")], 0)?;
/// file.sync_data()?;
/// disk.inject(Injection::at(1, Fault::Eio).of(Operation::SyncData));
/// assert!(file.sync_data().is_err());
/// let after = disk.crash(8);
/// assert_eq!(after.content(Path::new("/a")).as_deref(), Some(&b"kept"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FaultVfs {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone)]
struct State {
    files: BTreeMap<u64, Medium>,
    names: Names,
    next_inode: u64,
    locks: BTreeSet<PathBuf>,
    /// False once the power is gone, or another disk has taken this one's place.
    powered: bool,
    capacity_bytes: Option<u64>,
    injections: Vec<Injection>,
    /// Of 1000 reads and writes, how many are short, and how many interrupted.
    mischief: u64,
    counts: Counts,
    struck: u64,
    rng: Rng,
    trace: Option<Vec<(Operation, String)>>,
}

/// How an operation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Well,
    Short,
    /// It fails; what it leaves behind depends on the fault.
    Fails(Fault),
}

impl fmt::Debug for FaultVfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultVfs").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

fn off() -> io::Error {
    Fault::PowerCut.error()
}

impl FaultVfs {
    /// An empty disk without bounds or faults; `seed` decides what its faults leave behind.
    pub fn new(seed: u64) -> Self {
        Self::from_state(State {
            files: BTreeMap::new(),
            names: Names::default(),
            next_inode: 1,
            locks: BTreeSet::new(),
            powered: true,
            capacity_bytes: None,
            injections: Vec::new(),
            mischief: 0,
            counts: Counts::default(),
            struck: 0,
            rng: Rng::new(seed),
            trace: None,
        })
    }

    fn from_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power and gives the disk that is found when it is back.
    ///
    /// Of what was not flushed (bytes, lengths, names) any part may be there, as `seed` decides:
    /// writes torn at any byte or sector, in any order; a length without its bytes; names as a
    /// journalling file system keeps them. Locks are free, faults and counts are gone, the capacity
    /// stays. Files and locks of this disk, and the disk itself, fail from here on; but it can be crashed
    /// again, for what another seed finds.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut after = self.take();
        after.rng = Rng::new(seed);
        after.names.crash(&mut after.rng);
        let reachable: BTreeSet<u64> = after.names.reachable().collect();
        after.files.retain(|inode, _| reachable.contains(inode));
        for file in after.files.values_mut() {
            file.crash(&mut after.rng);
        }
        Self::from_state(after)
    }

    /// Kills the process: the disk goes on with all that was written, flushed or not. Locks are free,
    /// faults and counts are gone; files and locks of this disk, and the disk itself, fail from here on.
    #[must_use]
    pub fn kill(&self) -> Self {
        Self::from_state(self.take())
    }

    /// A disk that is the same in every respect but faults, counts and locks, as a snapshot of a
    /// virtual machine is. This one goes on.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self::from_state(self.state().successor())
    }

    /// Like [`snapshot`](Self::snapshot), but of another identity: as when files are copied or restored.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut state = self.state().successor();
        let shift = state.next_inode;
        state.names.renumber(shift);
        state.files = state.files.into_iter().map(|(inode, file)| (inode + shift, file)).collect();
        state.next_inode += shift;
        Self::from_state(state)
    }

    fn take(&self) -> State {
        let mut state = self.state();
        let after = state.successor();
        state.powered = false;
        after
    }

    /// Plans a fault, besides those planned before. Where several meet, the first one planned counts.
    pub fn inject(&self, injection: Injection) {
        self.state().injections.push(injection);
    }

    /// The same, for an injection whose number counts from the next operation on. Unlike a number that is computed
    /// from [`counts`](Self::counts), it can't have gone by when other threads use the disk at the same time.
    pub fn inject_ahead(&self, injection: Injection) {
        let mut state = self.state();
        let ahead = injection.after(&state.counts);
        state.injections.push(ahead);
    }

    /// Forgets all planned faults.
    pub fn mend(&self) {
        self.state().injections.clear();
    }

    /// Of 1000 reads and writes each, makes `per_mille` short and as many interrupted.
    pub fn set_mischief(&self, per_mille: u64) {
        self.state().mischief = per_mille;
    }

    /// Bounds the space that files can take, in bytes; `None` is no bound. It may be less than what they take.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Whether the space is bounded.
    pub fn is_bounded(&self) -> bool {
        self.state().capacity_bytes.is_some()
    }

    /// Space that files take, in bytes: whole blocks, no holes.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Operations until now.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// How many planned faults have struck.
    pub fn struck(&self) -> u64 {
        self.state().struck
    }

    /// Writes down every operation from here on; see [`trace`](Self::trace).
    pub fn start_trace(&self) {
        self.state().trace = Some(Vec::new());
    }

    /// Each operation since [`start_trace`](Self::start_trace), with a line that tells it.
    pub fn trace(&self) -> Vec<(Operation, String)> {
        self.state().trace.clone().unwrap_or_default()
    }

    /// Whether the power is on.
    pub fn is_powered(&self) -> bool {
        self.state().powered
    }

    /// Drops the cache: reads return what the medium holds of all that is not dirty. After a failed
    /// flush this shows what was lost.
    pub fn evict(&self) {
        self.state().files.values_mut().for_each(Medium::evict);
    }

    /// Paths of all files, ascending.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().names.files().map(|(path, _)| path.clone()).collect()
    }

    /// The bytes of a file, as processes see them.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.files.get(&state.names.file(path)?)?.content().to_vec())
    }

    /// Changes the bytes of a file at rest. Returns whether there is such a file.
    pub fn edit(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state();
        let Some(inode) = state.names.file(path) else { return false };
        state.files.get_mut(&inode).is_some_and(|file| {
            file.edit(change);
            true
        })
    }

    /// Flips one bit of a file at rest; bit 0 is the lowest of the first byte. Whether there is such a bit.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> bool {
        let mut flipped = false;
        self.edit(path, |content| {
            if let Some(byte) = content.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
                flipped = true;
            }
        });
        flipped
    }

    /// Cuts a file at rest. Whether there is such a file, and it was longer.
    pub fn cut(&self, path: &Path, len: u64) -> bool {
        let mut cut = false;
        self.edit(path, |content| {
            cut = content.len() as u64 > len;
            content.truncate(len as usize);
        });
        cut
    }

    /// Takes a file away at rest. Whether there was one.
    pub fn lose(&self, path: &Path) -> bool {
        let mut state = self.state();
        let found = state.names.file(path).is_some();
        state.names.lose(path);
        found
    }

    /// Counts an operation and says how it goes; `Err` if there is no power.
    fn begin(&self, operation: Operation, path: &dyn fmt::Debug) -> io::Result<(MutexGuard<'_, State>, Course)> {
        let mut state = self.state();
        if !state.powered {
            return Err(off());
        }
        let course = state.step(operation);
        let number = state.counts.total() - 1;
        if let Some(trace) = &mut state.trace {
            trace.push((operation, format!("{number} {operation:?} {path:?}: {course:?}")));
        }
        Ok((state, course))
    }

    /// For operations of which nothing is left when they fail.
    fn begin_whole(&self, operation: Operation, path: &dyn fmt::Debug) -> io::Result<MutexGuard<'_, State>> {
        match self.begin(operation, path)? {
            (_, Course::Fails(fault)) => Err(fault.error()),
            (state, _) => Ok(state),
        }
    }

    /// For changes of names: one that the power cut interrupts may be found or not.
    fn change_names<T>(
        &self,
        operation: Operation,
        path: &Path,
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.begin(operation, &path)? {
            (mut state, Course::Fails(Fault::PowerCut)) => {
                change(&mut state)?;
                Err(off())
            }
            (_, Course::Fails(fault)) => Err(fault.error()),
            (mut state, _) => change(&mut state),
        }
    }

    fn handle(&self, inode: u64) -> Arc<dyn VfsFile> {
        Arc::new(FaultFile { disk: self.clone(), inode })
    }
}

impl State {
    fn successor(&self) -> Self {
        Self {
            locks: BTreeSet::new(),
            powered: true,
            injections: Vec::new(),
            counts: Counts::default(),
            struck: 0,
            trace: self.trace.as_ref().map(|_| Vec::new()),
            ..self.clone()
        }
    }

    fn used_bytes(&self) -> u64 {
        let linked: BTreeSet<u64> = self.names.files().map(|(_, inode)| inode).collect();
        linked.iter().filter_map(|inode| self.files.get(inode)).map(Medium::allocated_bytes).sum()
    }

    fn free_bytes(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_bytes()))
    }

    fn step(&mut self, operation: Operation) -> Course {
        let (number, number_of_kind) = (self.counts.total(), self.counts.of(operation));
        self.counts.add(operation);
        let struck = self.injections.iter().find_map(|plan| plan.strikes(operation, number, number_of_kind));
        let fault = struck.or_else(|| {
            let mischief = self.mischief > 0 && Fault::Short.can_meet(operation);
            let draw = if mischief { self.rng.below(1000) } else { u64::MAX };
            (draw < 2 * self.mischief).then_some(if draw < self.mischief { Fault::Short } else { Fault::Interrupted })
        });
        self.struck += u64::from(struck.is_some());
        self.powered &= fault != Some(Fault::PowerCut);
        match fault {
            None => Course::Well,
            Some(Fault::Short) => Course::Short,
            Some(fault) => Course::Fails(fault),
        }
    }

    fn file(&mut self, inode: u64) -> io::Result<&mut Medium> {
        self.files.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// A random front of `len` bytes, at least one if there is any.
    fn front(&mut self, len: usize) -> usize {
        if len < 2 { len } else { 1 + self.rng.below(len as u64 - 1) as usize }
    }
}

impl Vfs for FaultVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        if mode == OpenMode::Create {
            let inode = self.change_names(Operation::Create, path, |state| {
                state.names.check_new(path)?;
                let inode = state.next_inode;
                state.next_inode += 1;
                state.files.insert(inode, Medium::default());
                state.names.link(path, Entry::File(inode));
                Ok(inode)
            })?;
            return Ok(self.handle(inode));
        }
        let state = self.begin_whole(Operation::Open, &path)?;
        Ok(self.handle(state.names.file(path).ok_or(io::ErrorKind::NotFound)?))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.change_names(Operation::CreateDir, path, |state| {
            state.names.create_dirs(path);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change_names(Operation::Rename, to, |state| state.names.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change_names(Operation::Remove, path, |state| state.names.remove(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.begin_whole(Operation::List, &dir)?.names.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.begin_whole(Operation::SyncDir, &dir)?.names.sync(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        let taken = self.change_names(Operation::Lock, path, |state| {
            if state.names.file(path).is_none() {
                state.names.check_new(path)?;
                let inode = state.next_inode;
                state.next_inode += 1;
                state.files.insert(inode, Medium::default());
                state.names.link(path, Entry::File(inode));
            }
            Ok(state.locks.insert(path.to_owned()))
        })?;
        Ok(taken.then(|| Box::new(FaultLock { disk: self.clone(), path: path.to_owned() }) as Box<dyn VfsLock>))
    }
}

#[derive(Debug)]
struct FaultLock {
    disk: FaultVfs,
    path: PathBuf,
}

impl VfsLock for FaultLock {}

impl Drop for FaultLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultVfs,
    inode: u64,
}

impl VfsFile for FaultFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.disk.begin(Operation::Read, &(self.inode, offset, buffer.len()))? {
            (_, Course::Fails(fault)) => Err(fault.error()),
            (mut state, Course::Well) => Ok(state.file(self.inode)?.read(buffer, offset)),
            (mut state, Course::Short) => {
                let front = state.front(buffer.len());
                Ok(state.file(self.inode)?.read(&mut buffer[..front], offset))
            }
        }
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let (mut state, course) = self.disk.begin(Operation::Write, &(self.inode, offset, bytes.len()))?;
        let allowed = match course {
            Course::Fails(Fault::Interrupted | Fault::NoSpace) => 0,
            Course::Fails(Fault::Eio) => state.rng.below(bytes.len() as u64 + 1) as usize,
            Course::Short => state.front(bytes.len()),
            Course::Well | Course::Fails(_) => bytes.len(),
        };
        bytes.truncate(allowed);
        let free = state.free_bytes();
        let file = state.file(self.inode)?;
        let room = file.allocate(offset, bytes.len() as u64, free);
        if room == 0 && !bytes.is_empty() {
            return Err(Fault::NoSpace.error());
        }
        bytes.truncate(room as usize);
        if !bytes.is_empty() {
            file.write(usize::try_from(offset).map_err(io::Error::other)?, &bytes);
            state.counts.bytes_written += bytes.len() as u64;
        }
        match course {
            Course::Fails(fault) => Err(fault.error()),
            Course::Well | Course::Short => Ok(bytes.len()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.disk.begin(Operation::SyncData, &self.inode)? {
            (mut state, Course::Fails(fault @ (Fault::Eio | Fault::NoSpace))) => {
                let mut rng = state.rng.clone();
                state.file(self.inode)?.fail_sync(&mut rng);
                state.rng = rng;
                Err(fault.error())
            }
            (_, Course::Fails(fault)) => Err(fault.error()),
            (mut state, _) => {
                state.file(self.inode)?.sync();
                Ok(())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.begin_whole(Operation::Len, &self.inode)?.file(self.inode)?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, course) = self.disk.begin(Operation::SetLen, &(self.inode, len))?;
        if matches!(course, Course::Well | Course::Short | Course::Fails(Fault::PowerCut)) {
            state.file(self.inode)?.set_len(usize::try_from(len).map_err(io::Error::other)?);
        }
        match course {
            Course::Fails(fault) => Err(fault.error()),
            Course::Well | Course::Short => Ok(()),
        }
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let (mut state, course) = self.disk.begin(Operation::Reserve, &(self.inode, len))?;
        let free = state.free_bytes();
        let file = state.file(self.inode)?;
        if matches!(course, Course::Well | Course::Short | Course::Fails(Fault::PowerCut)) {
            if file.allocate(0, len, free) < len {
                return Err(Fault::NoSpace.error());
            }
            if file.len() < len {
                file.set_len(usize::try_from(len).map_err(io::Error::other)?);
            }
        }
        match course {
            Course::Fails(fault) => Err(fault.error()),
            Course::Well | Course::Short => Ok(()),
        }
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        let state = self.disk.begin_whole(Operation::Identity, &self.inode)?;
        drop(state);
        Ok(FileIdentity { inode: self.inode, birth_ns: self.inode.wrapping_mul(1_000_003) })
    }
}
