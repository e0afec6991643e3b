//! The operating system's file system.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, IoSlice},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::UNIX_EPOCH,
};

use super::{FileIdentity, OpenMode, Vfs, VfsFile, VfsLock};

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

/// What is made here holds patients' records: nobody but the user that the application runs as may read it.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Several buffers are written together up to this many bytes.
const WRITE_LEN_MAX: usize = 512 << 10;

#[derive(Debug)]
struct DiskFile(File);

#[derive(Debug)]
struct DiskLock {
    /// Closing it gives the lock back.
    _file: File,
}

impl VfsLock for DiskLock {}

impl Vfs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(DiskFile(options.open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(DiskLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl VfsFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        match buffers {
            [single] => self.0.write_at(single, offset),
            many => Ok(rustix::io::pwritev(&self.0, &many[..count_of_one_call(many)], offset)?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        loop {
            match reserve(&self.0, len) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
                outcome => return outcome,
            }
        }
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        let metadata = self.0.metadata()?;
        let birth = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(FileIdentity { inode: metadata.ino(), birth_ns: birth.map_or(0, |since| since.as_nanos() as u64) })
    }
}

/// How many buffers are written with one call; the caller continues a shorter write.
///
/// The kernel takes at most 1024. And it caches a long write in pages as large as it can get, which are those that nobody
/// has used for longest: a virtual machine may have to be given them by its host first, at a tenth of the speed.
fn count_of_one_call(buffers: &[IoSlice<'_>]) -> usize {
    let mut len = 0;
    let fitting = buffers.iter().take(1024).take_while(|buffer| {
        len += buffer.len();
        len <= WRITE_LEN_MAX
    });
    fitting.count().max(1)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(file: &File, len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reserve(_file: &File, _len: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
