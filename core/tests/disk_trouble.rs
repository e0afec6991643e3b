//! What an application sees when its disk fails or is full.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use counterfoil::{
    Durability, ErrorKind, Store,
    vfs::{FileIdentity, Memory, OpenMode, Vfs, VfsFile, VfsLock},
};

/// A disk in memory that can be told to refuse flushes, or to have no space for more files.
#[derive(Debug, Clone, Default)]
struct Disk {
    files: Memory,
    refuses_flushes: Arc<AtomicBool>,
    is_full: Arc<AtomicBool>,
}

#[derive(Debug)]
struct File {
    file: Arc<dyn VfsFile>,
    disk: Disk,
}

impl Vfs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        if mode == OpenMode::Create && self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Arc::new(File { file: self.files.open(path, mode)?, disk: self.clone() }))
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

impl VfsFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let end = offset + buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>();
        if self.disk.is_full.load(Ordering::Relaxed) && end > self.file.len()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(buffers, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.disk.refuses_flushes.load(Ordering::Relaxed) {
            return Err(io::Error::other("the platter is scratched"));
        }
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.disk.is_full.load(Ordering::Relaxed) && len > self.file.len()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        if self.disk.is_full.load(Ordering::Relaxed) && len > self.file.len()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.reserve(len)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.file.identity()
    }
}

#[test]
fn a_flush_that_fails_is_told_and_ends_all_acks_until_the_store_is_opened_again() {
    let disk = Disk::default();
    let builder = Store::builder().node("practice-12").vfs(Arc::new(disk.clone()));
    let store = builder.clone().create("store").unwrap();
    let space = store.own_space().unwrap();
    space.append("acknowledged").unwrap().wait(Durability::Local).unwrap();

    disk.refuses_flushes.store(true, Ordering::Relaxed);
    let receipt = space.append("unknown").unwrap();
    let error = receipt.wait(Durability::Local).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disk);
    assert!(error.to_string().contains("the platter is scratched"), "{error}");
    assert_eq!(receipt.wait_timeout(Durability::Mirrored(1), Duration::ZERO).unwrap_err().kind(), ErrorKind::Disk);
    disk.refuses_flushes.store(false, Ordering::Relaxed);
    assert_eq!(space.append("later").unwrap_err().kind(), ErrorKind::Disk, "only opening again clears it");
    assert!(store.stats().is_poisoned);
    assert_eq!(space.read(..).unwrap().count(), 1, "what is proven is read");
    assert_eq!(store.close(Duration::ZERO).unwrap_err().kind(), ErrorKind::Disk);
    drop((store, space, receipt));

    let store = builder.open("store").unwrap();
    let space = store.own_space().unwrap();
    let first = space.follow(counterfoil::Cursor::start()).next().unwrap().unwrap();
    assert_eq!(first.body(), "acknowledged");
    space.append("again").unwrap().wait(Durability::Local).unwrap();
}

#[test]
fn a_full_disk_is_told_reads_go_on_and_appends_succeed_again_once_there_is_space() {
    let disk = Disk::default();
    let builder = Store::builder().node("practice-12").vfs(Arc::new(disk.clone())).segment_bytes(1 << 16, 1 << 16);
    let store = builder.create("store").unwrap();
    let space = store.own_space().unwrap();
    space.append("acknowledged").unwrap().wait(Durability::Local).unwrap();

    disk.is_full.store(true, Ordering::Relaxed);
    let error = (0..1000)
        .find_map(|_| space.append([7; 1000]).and_then(|receipt| receipt.wait(Durability::Local)).err())
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(space.read(..).unwrap().next().unwrap().unwrap().body(), "acknowledged");

    disk.is_full.store(false, Ordering::Relaxed);
    let again = (0..10_000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        space.append("again").and_then(|receipt| receipt.wait(Durability::Local)).ok()
    });
    assert!(again.is_some());
    let last = space.read(..).unwrap().last().unwrap().unwrap();
    assert_eq!(last.body(), "again");
    store.close(Duration::ZERO).unwrap();
}
