//! The operating system's file system.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, IoSlice},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, UNIX_EPOCH},
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

/// How often a lock is tried for that others only ask about, and the pause between: 10 s in all.
const SHARED_ATTEMPTS_MAX: u32 = 10_000;
const SHARED_PAUSE: Duration = Duration::from_millis(1);

/// Who has a store open holds its lock alone. Who asks whether somebody does shares it for a moment, which on a busy
/// machine may be long: so it is told apart from one that is held.
#[derive(Debug)]
struct DiskLock(File);

impl DiskLock {
    fn take(path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        for _ in 0..SHARED_ATTEMPTS_MAX {
            if is_granted(file.try_lock())? {
                return Ok(Some(Self(file)));
            }
            if !is_granted(file.try_lock_shared())? {
                return Ok(None);
            }
            file.unlock()?;
            thread::sleep(SHARED_PAUSE);
        }
        Ok(None)
    }
}

fn is_granted(tried: Result<(), TryLockError>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Drop for DiskLock {
    /// Closing the file would not do: a process that is being started has a copy of it until it is another program.
    fn drop(&mut self) {
        // What can't be given back so is given back by closing it.
        let _ = self.0.unlock();
    }
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
        Ok(DiskLock::take(path)?.map(|lock| Box::new(lock) as Box<dyn VfsLock>))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        match File::open(path) {
            Ok(file) => Ok(!is_granted(file.try_lock_shared())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_given_back_though_a_process_that_is_being_started_has_a_copy_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = DiskLock::take(&path).unwrap().unwrap();
        let _copy = lock.0.try_clone().unwrap();
        assert!(Disk.lock(&path).unwrap().is_none());
        drop(lock);
        assert!(Disk.lock(&path).unwrap().is_some());
    }

    #[test]
    fn who_asks_whether_a_lock_is_held_keeps_nobody_from_taking_it_though_stopped_in_between() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!Disk.is_locked(&path).unwrap());
        drop(Disk.lock(&path).unwrap());
        let asking = File::open(&path).unwrap();
        asking.try_lock_shared().unwrap();
        assert!(!Disk.is_locked(&path).unwrap(), "nor does another who asks take it for held");
        let taking = thread::spawn({
            let path = path.clone();
            move || Disk.lock(&path).unwrap()
        });
        // Longer than who opens a store tries to.
        thread::sleep(Duration::from_millis(200));
        drop(asking);
        let taken = taking.join().unwrap();
        assert!(taken.is_some() && Disk.is_locked(&path).unwrap() && Disk.lock(&path).unwrap().is_none());
    }
}
