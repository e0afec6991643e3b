//! A disk that can be told to fail.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use counterfoil::vfs::{FileIdentity, Memory, OpenMode, Vfs, VfsFile, VfsLock};

/// A disk that can be told to refuse reads or flushes, or to have no space for more files.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    files: Arc<dyn Vfs>,
    pub(crate) refuses_reads: Arc<AtomicBool>,
    pub(crate) refuses_flushes: Arc<AtomicBool>,
    pub(crate) is_full: Arc<AtomicBool>,
    /// No file whose name ends in `.redb` may grow.
    pub(crate) is_full_for_index: Arc<AtomicBool>,
    /// Read from such files.
    pub(crate) index_bytes_read: Arc<AtomicU64>,
    /// Written to such files.
    pub(crate) index_bytes_written: Arc<AtomicU64>,
}

impl Disk {
    /// Over another one.
    pub(crate) fn over(files: impl Vfs + 'static) -> Self {
        Self {
            files: Arc::new(files),
            refuses_reads: Arc::default(),
            refuses_flushes: Arc::default(),
            is_full: Arc::default(),
            is_full_for_index: Arc::default(),
            index_bytes_read: Arc::default(),
            index_bytes_written: Arc::default(),
        }
    }
}

impl Default for Disk {
    /// In memory.
    fn default() -> Self {
        Self::over(Memory::default())
    }
}

#[derive(Debug)]
struct File {
    inner: Arc<dyn VfsFile>,
    disk: Disk,
    is_index: bool,
}

impl Vfs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        if mode == OpenMode::Create && self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let is_index = path.extension().is_some_and(|extension| extension == "redb");
        Ok(Arc::new(File { inner: self.files.open(path, mode)?, disk: self.clone(), is_index }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.files.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        self.files.lock(path)
    }
}

impl File {
    /// Whether it may not get as long.
    fn is_refused(&self, len: u64) -> io::Result<bool> {
        let is_full = self.disk.is_full.load(Ordering::Relaxed)
            || (self.is_index && self.disk.is_full_for_index.load(Ordering::Relaxed));
        Ok(is_full && len > self.inner.len()?)
    }
}

impl VfsFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.disk.refuses_reads.load(Ordering::Relaxed) {
            return Err(io::Error::other("the head has crashed"));
        }
        if self.is_index {
            self.disk.index_bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        }
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let end = offset + buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>();
        if self.is_refused(end)? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = self.inner.write_at(buffers, offset)?;
        if self.is_index {
            self.disk.index_bytes_written.fetch_add(written as u64, Ordering::Relaxed);
        }
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.disk.refuses_flushes.load(Ordering::Relaxed) {
            return Err(io::Error::other("the platter is scratched"));
        }
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.is_refused(len)? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        if self.is_refused(len)? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.reserve(len)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.inner.identity()
    }
}
