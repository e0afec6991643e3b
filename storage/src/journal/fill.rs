//! Space made ready ahead of time, and footers written behind: the work of a thread of its own.
//!
//! Flushing into space that is filled with zeros already is faster than extending a file, since
//! the file system has nothing to allocate and no length to record. The filling is paced: all at
//! once, beside live commits, it would multiply their latency.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::{
    frame::align,
    identity::{Extent, Raising},
    index::Footer,
    segment,
};
use crate::{
    ids::SegmentNumber,
    vfs::{OpenMode, Vfs, VfsFile, write_full},
};

/// Bytes filled between two pauses.
const CHUNK_LEN: usize = 256 << 10;

/// The pause after each chunk.
const CHUNK_PAUSE: Duration = Duration::from_millis(2);

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
        Self { vfs, dir, raising, state: Mutex::default(), changed: Condvar::new() }
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
    /// Waits for the chunk that is being written, so that nothing is filled over what comes next.
    pub(crate) fn take_spare(&self, number: SegmentNumber) -> Option<(Arc<dyn VfsFile>, u64)> {
        let mut state = self.state();
        state.request = None;
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
                Task::Fill => match self.fill_chunk() {
                    Ok(()) => thread::sleep(CHUNK_PAUSE),
                    Err(error) => self.give_up(&error),
                },
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
        if state.spare.as_ref().is_some_and(|spare| spare.number >= number) {
            return Ok(());
        }
        let path = segment::path(&self.dir, number);
        let file = match self.vfs.open(&path, OpenMode::Create) {
            // The segment was needed before this thread came to it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            opened => opened?,
        };
        self.vfs.sync_dir(&self.dir)?;
        state.spare = Some(Spare { number, file, filled: 0, wanted });
        Ok(())
    }

    /// Fills one chunk. The write is made under the lock, the flush is not.
    fn fill_chunk(&self) -> io::Result<()> {
        let mut state = self.state();
        let Some(spare) = &mut state.spare else { return Ok(()) };
        let len = (spare.wanted - spare.filled).min(CHUNK_LEN as u64) as usize;
        write_full(&*spare.file, &mut [IoSlice::new(&vec![0; len])], spare.filled)?;
        spare.filled += len as u64;
        let file = Arc::clone(&spare.file);
        drop(state);
        file.sync_data()
    }

    /// Without space, leaves the file as it is: it is taken when the segment is needed, and the lack
    /// met again if it lasts. After any other error the file is not trusted.
    fn give_up(&self, error: &io::Error) {
        tracing::warn!(%error, "filling a segment ahead failed");
        let mut state = self.state();
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
