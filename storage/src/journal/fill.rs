//! Space made ready ahead of time, and footers written behind: the work of a thread of its own.
//!
//! Flushing into space that is filled with zeros already is faster than extending a file, since
//! the file system has nothing to allocate and no length to record. The filling is paced: all at
//! once, beside live commits, it would multiply their latency. A bulk load that outruns it writes into
//! space that is at least reserved, which is still faster than extending.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{
    frame::align,
    identity::{Extent, Raising},
    index::Footer,
    segment,
};
use crate::{
    ids::SegmentNumber,
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
        now, thread,
    },
    vfs::{OpenMode, Vfs, VfsFile, write_full},
};

/// Bytes filled between two pauses: few, since a commit's flush may have to wait for the chunk's.
const CHUNK_LEN: usize = 256 << 10;

/// The pause after each chunk: about 100 MB/s.
const CHUNK_PAUSE: Duration = Duration::from_micros(2500);

/// The pause while the segment in use fills faster than its spare.
const CHUNK_PAUSE_BEHIND: Duration = Duration::from_micros(500);

/// While commits write more than this, in bytes per second, filling would not keep up, and would only delay
/// their flushes.
const FILLING_RATE_MAX: f64 = 400e6;

/// Over at least how long that is looked at: a bulk load writes many megabytes at once, and then nothing while it flushes them.
const RATE_WINDOW: Duration = Duration::from_millis(20);

/// A sealed segment whose footer is to be written.
#[derive(Debug)]
pub(crate) struct SealJob {
    pub(crate) number: SegmentNumber,
    /// The segment after it, whose first frame is durable.
    pub(crate) next: SegmentNumber,
    /// Where its frames end.
    pub(crate) end: u64,
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) footer: Footer,
}

impl SealJob {
    /// Writes the footer and cuts off what lies behind it.
    ///
    /// **Durability**: on `Ok` the footer stands in for the index in memory. On `Err` nothing is
    /// lost: the frames before it were flushed long ago, and opening scans them.
    pub(crate) fn run(&self, raising: &Raising, vfs: &dyn Vfs, dir: &std::path::Path) -> io::Result<()> {
        self.write_footer()?;
        Extent { segment: self.next, end: segment::FRAMES_OFFSET }.raise(raising, vfs, dir)
    }

    /// The same for the last segment at a clean close, when none follows yet.
    pub(crate) fn write_footer(&self) -> io::Result<()> {
        let encoded = self.footer.encode();
        let offset = align(self.end);
        write_full(&*self.file, &mut [IoSlice::new(&encoded)], offset)?;
        self.file.set_len(offset + encoded.len() as u64)?;
        self.file.sync_data()
    }
}

/// A file being filled for a segment to come.
#[derive(Debug)]
struct Spare {
    number: SegmentNumber,
    file: Arc<dyn VfsFile>,
    filled: u64,
    wanted: u64,
}

#[derive(Debug, Default)]
struct State {
    request: Option<(SegmentNumber, u64)>,
    spare: Option<Spare>,
    seals: VecDeque<SealJob>,
    /// The last segment that was begun: from then on its file is its writer's alone.
    begun: Option<SegmentNumber>,
    /// A chunk of the spare file is being flushed.
    flushing: bool,
    stopping: bool,
}

/// The thread's orders.
#[derive(Debug)]
pub(crate) struct Filler {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    raising: Raising,
    state: Mutex<State>,
    changed: Condvar,
    /// Told when a flush of the spare file has returned.
    flushed: Condvar,
    /// Bytes written by commits.
    written: AtomicU64,
    /// How full the segment in use is, in thousandths.
    used_per_mille: AtomicU64,
}

/// How fast commits write.
#[derive(Debug)]
struct Rate {
    /// Bytes written by then: at least [`RATE_WINDOW`] before the look that follows, once there was one that long ago.
    before: (Instant, u64),
    since: (Instant, u64),
}

impl Rate {
    fn new(written: u64) -> Self {
        let start = (now(), written);
        Self { before: start, since: start }
    }

    /// Bytes per second lately, given all that were written.
    fn look(&mut self, written: u64) -> f64 {
        let time = now();
        let rate = (written - self.before.1) as f64 / (time - self.before.0).as_secs_f64();
        if time - self.since.0 >= RATE_WINDOW {
            self.before = mem::replace(&mut self.since, (time, written));
        }
        rate
    }
}

/// What the thread is to do next.
enum Task {
    Seal(SealJob),
    Begin(SegmentNumber, u64),
    Fill,
    Stop,
}

impl Filler {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, dir: PathBuf, raising: Raising) -> Self {
        let (changed, flushed) = (Condvar::new(), Condvar::new());
        Self {
            vfs,
            dir,
            raising,
            state: Mutex::default(),
            changed,
            flushed,
            written: AtomicU64::new(0),
            used_per_mille: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a file of `bytes` for segment `number`.
    pub(crate) fn request_spare(&self, number: SegmentNumber, bytes: u64) {
        self.state().request = Some((number, bytes));
        self.changed.notify_one();
    }

    /// Takes the file made for segment `number`, as far as it is filled. Its directory entry is durable.
    ///
    /// Waits for the chunk that is being written, so that nothing is filled over what comes next; and for
    /// its flush: the kernel tells of a failure once, and if the filler were told while the segment's first
    /// frame is in the file already, the flush of that frame would succeed without it being on the disk.
    pub(crate) fn take_spare(&self, number: SegmentNumber) -> Option<(Arc<dyn VfsFile>, u64)> {
        let mut state = self.state();
        state.request = None;
        state.begun = Some(number);
        while state.flushing {
            state = self.flushed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let spare = state.spare.take_if(|spare| spare.number == number)?;
        Some((spare.file, spare.wanted))
    }

    /// Hands over a segment whose footer is to be written.
    pub(crate) fn seal(&self, job: SealJob) {
        self.state().seals.push_back(job);
        self.changed.notify_one();
    }

    /// Ends the thread once the footers handed over are written.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_one();
    }

    /// The thread. `sealed` is told of each footer that is durable.
    pub(crate) fn run(&self, sealed: impl Fn(SegmentNumber)) {
        let mut rate = Rate::new(self.written.load(Ordering::Relaxed));
        loop {
            match self.next_task() {
                Task::Stop => return,
                Task::Seal(job) => match job.run(&self.raising, &*self.vfs, &self.dir) {
                    Ok(()) => sealed(job.number),
                    Err(error) => tracing::warn!(segment = %job.number, %error, "writing a footer failed"),
                },
                Task::Begin(number, bytes) => match self.begin_spare(number, bytes) {
                    Ok(()) => {}
                    Err(error) => tracing::warn!(segment = %number, %error, "making a segment ahead failed"),
                },
                Task::Fill => {
                    if self.wait_to_fill(&mut rate)
                        && let Err(error) = self.fill_chunk()
                    {
                        tracing::warn!(%error, "filling a segment ahead failed");
                    }
                }
            }
        }
    }

    /// Takes note of bytes written to the segment in use, which has room for `capacity`.
    pub(crate) fn note_written(&self, bytes: u64, used: u64, capacity: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.used_per_mille.store(used.saturating_mul(1000) / capacity.max(1), Ordering::Relaxed);
    }

    /// Waits for the time to fill a chunk; `false` if there is something else to do first.
    fn wait_to_fill(&self, rate: &mut Rate) -> bool {
        loop {
            let used = self.used_per_mille.load(Ordering::Relaxed);
            let is_behind = |spare: &Spare| spare.filled.saturating_mul(1000) / spare.wanted.max(1) < used;
            let is_behind = self.state().spare.as_ref().is_some_and(is_behind);
            thread::sleep(if is_behind { CHUNK_PAUSE_BEHIND } else { CHUNK_PAUSE });
            let state = self.state();
            if state.stopping || state.request.is_some() || !state.seals.is_empty() {
                return false;
            }
            drop(state);
            if rate.look(self.written.load(Ordering::Relaxed)) < FILLING_RATE_MAX {
                return true;
            }
        }
    }

    fn next_task(&self) -> Task {
        let mut state = self.state();
        loop {
            if let Some(job) = state.seals.pop_front() {
                return Task::Seal(job);
            }
            if state.stopping {
                return Task::Stop;
            }
            if let Some((number, bytes)) = state.request.take() {
                return Task::Begin(number, bytes);
            }
            if state.spare.as_ref().is_some_and(|spare| spare.filled < spare.wanted) {
                return Task::Fill;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn begin_spare(&self, number: SegmentNumber, wanted: u64) -> io::Result<()> {
        let mut state = self.state();
        // It may have been begun without a file made ahead since this was asked for.
        let is_late = state.begun.is_some_and(|begun| begun >= number);
        if is_late || state.spare.as_ref().is_some_and(|spare| spare.number >= number) {
            return Ok(());
        }
        let path = segment::path(&self.dir, number);
        let file = match self.vfs.open(&path, OpenMode::Create) {
            // The segment was needed before this thread came to it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            opened => opened?,
        };
        if let Err(error) = file.reserve(wanted) {
            // Whoever needs the segment will meet this, and may get along with less.
            drop(file);
            self.vfs.remove(&path)?;
            return Err(error);
        }
        if let Err(error) = self.vfs.sync_dir(&self.dir) {
            // Another flush would prove nothing of this name: whoever needs the segment makes the file anew.
            drop(file);
            self.vfs.remove(&path)?;
            return Err(error);
        }
        state.spare = Some(Spare { number, file, filled: 0, wanted });
        Ok(())
    }

    /// Fills one chunk. The write is made under the lock, the flush is not, but [`take_spare`](Self::take_spare)
    /// waits for it. After an error the file is given up before anyone can take it.
    fn fill_chunk(&self) -> io::Result<()> {
        let mut state = self.state();
        let Some(spare) = &mut state.spare else { return Ok(()) };
        let len = (spare.wanted - spare.filled).min(CHUNK_LEN as u64) as usize;
        if let Err(error) = write_full(&*spare.file, &mut [IoSlice::new(&vec![0; len])], spare.filled) {
            self.give_up(&mut state, &error);
            return Err(error);
        }
        spare.filled += len as u64;
        let file = Arc::clone(&spare.file);
        state.flushing = true;
        drop(state);
        let flushed = file.sync_data();
        let mut state = self.state();
        state.flushing = false;
        if let Err(error) = &flushed {
            self.give_up(&mut state, error);
        }
        drop(state);
        self.flushed.notify_all();
        flushed
    }

    /// Without space, leaves the file as it is: it is taken when the segment is needed, and the lack
    /// met again if it lasts. After any other error the file is not trusted.
    fn give_up(&self, state: &mut State, error: &io::Error) {
        if error.kind() == io::ErrorKind::StorageFull {
            if let Some(spare) = &mut state.spare {
                spare.wanted = spare.filled;
            }
        } else if let Some(spare) = state.spare.take() {
            let path = segment::path(&self.dir, spare.number);
            if let Err(error) = self.vfs.remove(&path) {
                tracing::warn!(%error, path = %path.display(), "removing a distrusted file failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::mpsc};

    use super::*;
    use crate::vfs::{FileIdentity, Memory, VfsLock, read_full};

    const DIR: &str = "s";
    const NUMBER: SegmentNumber = SegmentNumber(1);

    #[test]
    fn nothing_is_filled_over_a_segment_that_was_begun_while_its_file_was_about_to_be_made_ahead() {
        let vfs = Memory::default();
        let filler = Filler::new(Arc::new(vfs.clone()), DIR.into(), Raising::default());
        filler.request_spare(NUMBER, CHUNK_LEN as u64);
        let Task::Begin(number, bytes) = filler.next_task() else { panic!("a file was asked for") };
        // Before the thread comes to it, a commit needs the segment, and finds no file.
        assert!(filler.take_spare(NUMBER).is_none());
        filler.begin_spare(number, bytes).unwrap();
        let path = segment::path(Path::new(DIR), NUMBER);
        let opened = vfs.open(&path, OpenMode::Create).or_else(|_| vfs.open(&path, OpenMode::Write));
        let file = opened.unwrap();
        write_full(&*file, &mut [IoSlice::new(b"acknowledged")], 0).unwrap();
        filler.fill_chunk().unwrap();
        let mut found = [0; 12];
        read_full(&*file, &mut found, 0).unwrap();
        assert_eq!(found, *b"acknowledged");
    }

    /// Files whose flush waits for a word and then fails; and so may that of their folder, at once.
    #[derive(Debug, Clone)]
    struct FailingFlush {
        memory: Memory,
        fails_folders: bool,
        begun: mpsc::Sender<()>,
        word: Arc<Mutex<mpsc::Receiver<()>>>,
    }

    #[derive(Debug)]
    struct FailingFile(Arc<dyn VfsFile>, FailingFlush);

    impl Vfs for FailingFlush {
        fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
            Ok(Arc::new(FailingFile(self.memory.open(path, mode)?, self.clone())))
        }
        fn create_dir(&self, path: &Path) -> io::Result<()> {
            self.memory.create_dir(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.memory.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.memory.remove(path)
        }
        fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
            self.memory.list(dir)
        }
        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            if self.fails_folders { Err(io::Error::other("EIO")) } else { self.memory.sync_dir(dir) }
        }
        fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
            self.memory.lock(path)
        }
    }

    impl VfsFile for FailingFile {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(buffer, offset)
        }
        fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
            self.0.write_at(buffers, offset)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.1.begun.send(()).unwrap();
            self.1.word.lock().unwrap().recv().unwrap();
            Err(io::Error::other("EIO"))
        }
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn reserve(&self, len: u64) -> io::Result<()> {
            self.0.reserve(len)
        }
        fn identity(&self) -> io::Result<FileIdentity> {
            self.0.identity()
        }
    }

    #[test]
    fn a_file_whose_flush_fails_is_not_taken_for_a_segment_while_that_is_not_known_yet() {
        let (begun, has_begun) = mpsc::channel();
        let (say, word) = mpsc::channel();
        let word = Arc::new(Mutex::new(word));
        let vfs = FailingFlush { memory: Memory::default(), fails_folders: false, begun, word };
        let filler = Filler::new(Arc::new(vfs), DIR.into(), Raising::default());
        filler.begin_spare(NUMBER, 2 * CHUNK_LEN as u64).unwrap();
        thread::scope(|scope| {
            let filling = scope.spawn(|| filler.fill_chunk());
            has_begun.recv().unwrap();
            let taking = scope.spawn(|| filler.take_spare(NUMBER));
            thread::sleep(Duration::from_millis(50));
            say.send(()).unwrap();
            assert!(filling.join().unwrap().is_err());
            assert!(taking.join().unwrap().is_none(), "the failure was told to the filler only, and is not told again");
        });
    }

    #[test]
    fn a_file_whose_name_could_not_be_flushed_is_left_to_nobody() {
        let ((begun, _), (_, word)) = (mpsc::channel(), mpsc::channel());
        let memory = Memory::default();
        let vfs = FailingFlush { memory: memory.clone(), fails_folders: true, begun, word: Arc::new(Mutex::new(word)) };
        let filler = Filler::new(Arc::new(vfs), DIR.into(), Raising::default());
        assert!(filler.begin_spare(NUMBER, CHUNK_LEN as u64).is_err());
        assert!(filler.take_spare(NUMBER).is_none());
        let found = memory.open(&segment::path(Path::new(DIR), NUMBER), OpenMode::Read);
        assert_eq!(found.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
