//! Files in memory: for tests of applications, and for stores that need not outlive the process.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{FileIdentity, OpenMode, Vfs, VfsFile, VfsLock};

/// Files in memory. Clones share the files, so a journal can be closed and opened again.
///
/// A flush does nothing: what is written is as durable as it gets, until the last clone is dropped.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    files: Arc<Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>>,
    locks: Arc<Mutex<Vec<PathBuf>>>,
    next_inode: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct MemoryFile {
    content: Mutex<Vec<u8>>,
    inode: u64,
}

#[derive(Debug)]
struct MemoryLock {
    path: PathBuf,
    locks: Arc<Mutex<Vec<PathBuf>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vfs for Memory {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut files = lock(&self.files);
        match (files.get(path), mode) {
            (Some(_), OpenMode::Create) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(Arc::clone(file) as Arc<dyn VfsFile>),
            (None, OpenMode::Create) => {
                let inode = self.next_inode.fetch_add(1, Ordering::Relaxed);
                let file = Arc::new(MemoryFile { content: Mutex::default(), inode });
                files.insert(path.to_owned(), Arc::clone(&file));
                Ok(file)
            }
            (None, _) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.files);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.files).remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = lock(&self.files);
        let names = files.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        let mut locks = lock(&self.locks);
        if locks.iter().any(|held| held == path) {
            return Ok(None);
        }
        locks.push(path.to_owned());
        Ok(Some(Box::new(MemoryLock { path: path.to_owned(), locks: Arc::clone(&self.locks) })))
    }
}

impl VfsLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        lock(&self.locks).retain(|held| *held != self.path);
    }
}

impl VfsFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = lock(&self.content);
        let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut content = lock(&self.content);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let mut at = start;
        for buffer in buffers {
            let end = at + buffer.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[at..end].copy_from_slice(buffer);
            at = end;
        }
        Ok(at - start)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.content).len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.content).resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn reserve(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(FileIdentity { inode: self.inode, birth_ns: 0 })
    }
}
