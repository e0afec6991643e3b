//! The limit's files: segments filled with zeros ahead of the writer, under the same policy as the journal's.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
const CHUNK_BYTES: u64 = 1 << 20;
const CHUNK_PAUSE: Duration = Duration::from_millis(10);
/// Frames are cut so that one is read with one call, and stays in the processor's cache.
const FRAME_BYTES: usize = 64 << 10;
const FRAME_HEADER_LEN: usize = 8;
const RECORD_HEADER_LEN: usize = 4;

/// Frames to be written: each {length, CRC-32} and records {length, body}, little-endian.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Where the frame begins that is not full yet.
    open: usize,
}

impl Frames {
    /// Adds a record; where it begins among these bytes.
    pub fn push(&mut self, body: &[u8]) -> usize {
        let len = RECORD_HEADER_LEN + body.len();
        if self.bytes.len() - self.open + len > FRAME_BYTES {
            self.seal();
        }
        if self.bytes.len() == self.open {
            self.bytes.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        }
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(body);
        offset
    }

    /// The bytes as they are written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn seal(&mut self) {
        let (header, records) = self.bytes[self.open..].split_at_mut(FRAME_HEADER_LEN);
        header[..4].copy_from_slice(&(records.len() as u32).to_le_bytes());
        header[4..].copy_from_slice(&crc32fast::hash(records).to_le_bytes());
        self.open = self.bytes.len();
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.open = 0;
    }
}

/// A place in a segment.
#[derive(Debug, Clone, Copy)]
pub struct Spot {
    /// Number of the segment.
    pub segment: usize,
    /// Bytes from its front.
    pub offset: u64,
}

/// Segments one after the other; the last is written to.
#[derive(Debug)]
pub struct Segments {
    filled: Vec<Segment>,
    last: Segment,
    capacity: u64,
    /// Written to since the last flush, and left behind.
    unflushed: Vec<Arc<File>>,
    dir: PathBuf,
    filler: Arc<Filler>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, Clone)]
struct Segment {
    file: Arc<File>,
    /// Where its frames end.
    end: u64,
}

impl Segments {
    /// Makes the first one in an empty folder.
    pub fn create(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let filler = Arc::new(Filler { dir: dir.to_owned(), state: Mutex::default(), changed: Condvar::new() });
        let thread = thread::spawn({
            let filler = Arc::clone(&filler);
            move || filler.run()
        });
        filler.request(0, SEGMENT_BYTES_MIN);
        let file = filler.take(0)?;
        filler.request(1, SEGMENT_BYTES_MIN);
        let last = Segment { file, end: 0 };
        let (filled, unflushed, dir) = (Vec::new(), Vec::new(), dir.to_owned());
        Ok(Self { filled, last, capacity: SEGMENT_BYTES_MIN, unflushed, dir, filler, thread: Some(thread) })
    }

    /// Writes `frames` with one call, and takes them away; where they begin.
    pub fn write(&mut self, frames: &mut Frames) -> io::Result<Spot> {
        frames.seal();
        let len = frames.bytes.len() as u64;
        if self.last.end > 0 && self.last.end + len > self.capacity {
            self.roll()?;
        }
        let offset = self.last.end;
        self.last.file.write_all_at(&frames.bytes, offset)?;
        self.last.end += len;
        frames.clear();
        Ok(Spot { segment: self.filled.len(), offset })
    }

    /// Flushes.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.unflushed.is_empty() {
            self.unflushed.drain(..).try_for_each(|file| file.sync_data())?;
            File::open(&self.dir)?.sync_all()?;
        }
        self.last.file.sync_data()
    }

    /// What has been written so far, to be read.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { segments: self.filled.iter().chain([&self.last]).cloned().collect() }
    }

    fn roll(&mut self) -> io::Result<()> {
        let number = self.filled.len() + 1;
        let file = self.filler.take(number)?;
        let last = std::mem::replace(&mut self.last, Segment { file, end: 0 });
        self.unflushed.push(Arc::clone(&last.file));
        self.filled.push(last);
        self.capacity = self.segment_bytes(self.filled.len() - 1);
        self.filler.request(number + 1, self.segment_bytes(self.filled.len()));
        Ok(())
    }

    /// Size of the segment that follows the first `count`.
    fn segment_bytes(&self, count: usize) -> u64 {
        let total: u64 = self.filled[..count].iter().map(|segment| segment.end).sum();
        total.next_power_of_two().clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        self.filler.state().is_stopping = true;
        self.filler.changed.notify_all();
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Fills the next segment in the background, a chunk at a time.
#[derive(Debug)]
struct Filler {
    dir: PathBuf,
    state: Mutex<Filling>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Filling {
    request: Option<(usize, u64)>,
    spare: Option<Spare>,
    is_busy: bool,
    is_stopping: bool,
}

#[derive(Debug)]
struct Spare {
    number: usize,
    file: Arc<File>,
    filled: u64,
    wanted: u64,
}

impl Filler {
    fn state(&self) -> MutexGuard<'_, Filling> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, number: usize, bytes: u64) {
        self.state().request = Some((number, bytes));
        self.changed.notify_all();
    }

    /// The file of a segment, as far as it is filled: who is faster than the filler extends it. The first is filled whole.
    fn take(&self, number: usize) -> io::Result<Arc<File>> {
        let mut state = self.state();
        if number > 0 {
            state.request = None;
        }
        let is_awaited = |state: &Filling| {
            let is_filling = state.spare.as_ref().is_none_or(|spare| spare.filled < spare.wanted);
            state.is_busy || (number == 0 && is_filling)
        };
        while is_awaited(&state) && !state.is_stopping {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.spare.take() {
            Some(spare) => Ok(spare.file),
            None => self.create(number),
        }
    }

    fn create(&self, number: usize) -> io::Result<Arc<File>> {
        let path = self.dir.join(format!("{number:08}"));
        OpenOptions::new().read(true).write(true).create_new(true).open(path).map(Arc::new)
    }

    /// The thread.
    fn run(&self) -> io::Result<()> {
        let result = self.fill();
        self.state().is_stopping = true;
        self.changed.notify_all();
        result
    }

    fn fill(&self) -> io::Result<()> {
        let zeros = vec![0; CHUNK_BYTES as usize];
        let mut state = self.state();
        while !state.is_stopping {
            if let Some((number, wanted)) = state.request.take() {
                let file = self.create(number)?;
                state.spare = Some(Spare { number, file, filled: 0, wanted });
            }
            let Some(spare) = state.spare.as_mut().filter(|spare| spare.filled < spare.wanted) else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (file, offset, number) = (Arc::clone(&spare.file), spare.filled, spare.number);
            spare.filled += CHUNK_BYTES;
            state.is_busy = true;
            drop(state);
            file.write_all_at(&zeros, offset)?;
            file.sync_data()?;
            self.state().is_busy = false;
            self.changed.notify_all();
            // The first is waited for before anything is written.
            if number > 0 {
                thread::sleep(CHUNK_PAUSE);
            }
            state = self.state();
        }
        Ok(())
    }
}

/// Segments to read from, as far as they had been written.
#[derive(Debug, Clone)]
pub struct Snapshot {
    segments: Vec<Segment>,
}

impl Snapshot {
    /// Reads all frames, checks them, and counts their records.
    pub fn scan(&self) -> io::Result<u64> {
        let mut buffer = vec![0; FRAME_BYTES];
        let mut records = 0;
        for segment in &self.segments {
            let mut offset = 0;
            while offset < segment.end {
                let wanted = buffer.len().min((segment.end - offset) as usize);
                segment.file.read_exact_at(&mut buffer[..wanted], offset)?;
                let mut rest = &buffer[..wanted];
                while let Some((frame, behind)) = split_frame(rest)? {
                    records += count_records(frame);
                    rest = behind;
                }
                offset += (wanted - rest.len()) as u64;
            }
        }
        Ok(records)
    }

    /// Reads the 8 KiB that hold a spot, and sums them up.
    pub fn checked_read(&self, spot: Spot) -> io::Result<u32> {
        let mut buffer = [0; 8 << 10];
        let offset = spot.offset / buffer.len() as u64 * buffer.len() as u64;
        let count = self.segments[spot.segment].file.read_at(&mut buffer, offset)?;
        Ok(crc32fast::hash(&buffer[..count]))
    }

    /// Reads a frame that begins at a spot and holds one record of a known length.
    pub fn read_lone(&self, spot: Spot, body_len: usize) -> io::Result<u64> {
        let mut buffer = [0; 512];
        let wanted = FRAME_HEADER_LEN + RECORD_HEADER_LEN + body_len;
        self.segments[spot.segment].file.read_exact_at(&mut buffer[..wanted], spot.offset)?;
        split_frame(&buffer[..wanted])?.map(|(frame, _)| count_records(frame)).ok_or(io::ErrorKind::InvalidData.into())
    }
}

type Split<'a> = Option<(&'a [u8], &'a [u8])>;

/// The records of the first frame and what is behind it; `None` if it is not there whole.
fn split_frame(bytes: &[u8]) -> io::Result<Split<'_>> {
    let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_LEN>() else { return Ok(None) };
    let [len, crc] = [0, 4].map(|at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    if len == 0 || len as usize > rest.len() {
        return Ok(None);
    }
    let (records, behind) = rest.split_at(len as usize);
    if crc32fast::hash(records) == crc { Ok(Some((records, behind))) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn count_records(mut frame: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((len, rest)) = frame.split_first_chunk::<RECORD_HEADER_LEN>() {
        frame = &rest[u32::from_le_bytes(*len) as usize..];
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_found_again_over_many_segments() {
        let folder = tempfile::tempdir().unwrap();
        let mut segments = Segments::create(folder.path()).unwrap();
        let mut frames = Frames::default();
        for _ in 0..40 {
            for _ in 0..1000 {
                frames.push(&[7; 256]);
            }
            segments.write(&mut frames).unwrap();
        }
        segments.sync().unwrap();
        assert_eq!(segments.snapshot().scan().unwrap(), 40_000);
        assert!(segments.filled.len() > 3, "{} segments", segments.filled.len());
    }

    #[test]
    fn a_lone_record_is_found_where_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut segments = Segments::create(folder.path()).unwrap();
        let mut frames = Frames::default();
        let spots = [1, 2, 3].map(|byte| {
            frames.push(&[byte; 100]);
            segments.write(&mut frames).unwrap()
        });
        for spot in spots {
            assert_eq!(segments.snapshot().read_lone(spot, 100).unwrap(), 1);
        }
    }
}
