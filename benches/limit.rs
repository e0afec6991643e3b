//! What a hand-written program reaches that does only what must be done: no index, no chain, no recovery.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, Thread},
};

use crate::segments::{Frames, Segments};

const CHUNK_BYTES: usize = 1 << 20;

/// A file whose space has been filled with zeros and flushed, to write into.
#[derive(Debug)]
pub struct FilledFile {
    file: File,
    len: u64,
    offset: u64,
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

impl FilledFile {
    /// Makes one of `len` bytes.
    pub fn create(path: &Path, len: u64) -> io::Result<Self> {
        let file = create(path)?;
        let zeros = vec![0; CHUNK_BYTES];
        for offset in (0..len).step_by(CHUNK_BYTES) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        Ok(Self { file, len, offset: 0 })
    }

    /// Reads it through, since writing a part of a page that the kernel has let go of means reading it first.
    pub fn touch(&self) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        (0..self.len).step_by(CHUNK_BYTES).try_for_each(|offset| self.file.read_at(&mut buffer, offset).map(drop))
    }

    /// Writes after what was written last; from the front again where the end is reached.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.offset + bytes.len() as u64 > self.len {
            self.offset = 0;
        }
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Flushes.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// A file that grows as it is written.
#[derive(Debug)]
pub struct ExtendingFile {
    file: File,
    offset: u64,
}

impl ExtendingFile {
    /// Makes an empty one.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: create(path)?, offset: 0 })
    }

    /// Writes at the end.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Flushes.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// A file to read from.
#[derive(Debug)]
pub struct ScannedFile {
    file: File,
    len: u64,
}

impl ScannedFile {
    /// Makes one that holds `bytes` as often as fit into `len`, flushed.
    pub fn create(path: &Path, bytes: &[u8], len: u64) -> io::Result<Self> {
        let mut file = ExtendingFile::create(path)?;
        while file.offset + bytes.len() as u64 <= len {
            file.write(bytes)?;
        }
        file.sync()?;
        Ok(Self { file: file.file, len: file.offset })
    }

    /// Its length, in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// Reads it from front to end, 64 KiB at a time (more falls out of the processor's cache), and sums it up.
    pub fn scan(&self) -> io::Result<u32> {
        let mut buffer = vec![0; 64 << 10];
        let mut hasher = crc32fast::Hasher::new();
        let mut offset = 0;
        while offset < self.len {
            let count = self.file.read_at(&mut buffer, offset)?;
            hasher.update(&buffer[..count]);
            offset += count as u64;
        }
        Ok(hasher.finalize())
    }
}

/// Reads the 8 KiB that hold byte `at`, and sums them up.
pub fn checked_random_read(file: &ScannedFile, at: u64) -> io::Result<u32> {
    let mut buffer = [0; 8 << 10];
    let offset = at / buffer.len() as u64 * buffer.len() as u64;
    let count = file.file.read_at(&mut buffer, offset)?;
    Ok(crc32fast::hash(&buffer[..count]))
}

/// Group commit: one thread writes and flushes for all that wait, and wakes exactly those.
#[derive(Debug)]
pub struct GroupCommit {
    group: Mutex<Group>,
    segments: Mutex<Segments>,
}

#[derive(Debug, Default)]
struct Group {
    frames: Frames,
    waiting: Vec<Thread>,
    /// Number of the group that is being filled.
    number: u64,
    /// Groups before this are durable.
    durable: u64,
    has_leader: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GroupCommit {
    /// Commits into `segments`.
    pub fn new(segments: Segments) -> Self {
        Self { group: Mutex::default(), segments: Mutex::new(segments) }
    }

    /// The segments, for who needs no group.
    pub fn segments(&self) -> MutexGuard<'_, Segments> {
        lock(&self.segments)
    }

    /// Writes `record` and returns once it is durable.
    pub fn append(&self, record: &[u8]) -> io::Result<()> {
        let mut group = lock(&self.group);
        group.frames.push(record);
        let mine = group.number;
        let mut is_registered = false;
        loop {
            if group.durable > mine {
                return Ok(());
            }
            if group.has_leader {
                // Once: the entry goes when the group is taken, and its leader wakes whom it took.
                if !is_registered {
                    group.waiting.push(thread::current());
                    is_registered = true;
                }
                drop(group);
                thread::park();
                group = lock(&self.group);
                continue;
            }
            group.has_leader = true;
            let mut frames = std::mem::take(&mut group.frames);
            let waiting = std::mem::take(&mut group.waiting);
            group.number += 1;
            drop(group);
            let mut segments = self.segments();
            segments.write(&mut frames)?;
            segments.sync()?;
            drop(segments);
            group = lock(&self.group);
            group.durable = mine + 1;
            group.has_leader = false;
            let next = group.waiting.first().cloned();
            drop(group);
            waiting.iter().chain(&next).for_each(Thread::unpark);
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_commit_writes_every_record_of_every_thread_once() {
        let folder = tempfile::tempdir().unwrap();
        let group = GroupCommit::new(Segments::create(folder.path()).unwrap());
        thread::scope(|scope| {
            for writer in 0..8_u8 {
                let group = &group;
                scope.spawn(move || (0..50).for_each(|_| group.append(&[writer + 1; 16]).unwrap()));
            }
        });
        assert_eq!(group.segments().snapshot().scan().unwrap(), 8 * 50);
    }
}
