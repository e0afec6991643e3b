//! A file system that leaves out zeros, to make a store of 100 GiB where there is no room for one: files with holes where
//! the records are, and with everything else as the journal writes it.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use counterfoil_storage::vfs::{Disk, FileIdentity, OpenMode, Vfs, VfsFile, VfsLock};

const BLOCK_LEN: usize = 4096;

/// The disk, less zeros. Flushes nothing: what it makes is to be measured, not kept.
#[derive(Debug)]
pub(crate) struct Holes;

#[derive(Debug)]
struct File(Arc<dyn VfsFile>);

impl Vfs for Holes {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(File(Disk.open(path, mode)?)))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        Disk.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk.list(dir)
    }
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        Disk.lock(path)
    }
}

impl VfsFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let len: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let end = offset + len as u64;
        if self.0.len()? < end {
            self.0.set_len(end)?;
        }
        let mut start = offset;
        for buffer in buffers {
            for block in buffer.chunks(BLOCK_LEN) {
                if block.iter().any(|byte| *byte != 0) {
                    write_all(&*self.0, block, start)?;
                }
                start += block.len() as u64;
            }
        }
        Ok(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn reserve(&self, len: u64) -> io::Result<()> {
        if self.0.len()? < len { self.0.set_len(len) } else { Ok(()) }
    }
    fn identity(&self) -> io::Result<FileIdentity> {
        self.0.identity()
    }
}

fn write_all(file: &dyn VfsFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = file.write_at(&[IoSlice::new(bytes)], offset)?;
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(())
}
