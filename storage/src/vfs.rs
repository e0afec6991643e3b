//! Every operation on files goes through here, so that a test can stand in for the disk.

mod disk;
mod memory;

use std::{fmt, io, io::IoSlice, path::Path, sync::Arc};

pub use disk::Disk;
pub use memory::Memory;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A file that must not exist yet, to read and write.
    Create,
}

/// What tells a file from a copy of it.
///
/// Not the host's name, the device's number or the machine's id, which change for good reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Number of the inode in its file system.
    pub inode: u64,
    /// When the inode was made, in nanoseconds since 1970; 0 where the file system does not tell.
    pub birth_ns: u64,
}

/// A file system, as far as a journal needs one.
///
/// An implementation is the operating system's ([`Disk`]), memory ([`Memory`]), or a test's that
/// loses, tears and refuses. Paths are passed as given.
pub trait Vfs: Send + Sync + fmt::Debug {
    /// Opens or creates a file.
    ///
    /// **Durability**: the directory entry of a created file is durable only after [`sync_dir`](Self::sync_dir).
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>>;
    /// Makes a directory, and those above it that are missing. It may exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name in the same directory, replacing what bears it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of the files and directories in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock that a file stands for, making the file if need be.
    ///
    /// `None` at once if another holds it. It is held until the box is dropped or the process ends.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>>;
    /// Whether another holds the lock that a file stands for.
    ///
    /// Unless implemented, it is taken for a moment to learn this, which may be in the way of who wants it.
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        Ok(self.lock(path)?.is_none())
    }
}

/// A lock held.
pub trait VfsLock: Send + Sync + fmt::Debug {}

/// An open file. All operations take the offset, so that threads can share it.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait VfsFile: Send + Sync + fmt::Debug {
    /// Reads at `offset` into the front of `buffer`; how many bytes, 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes the buffers one after the other at `offset`; how many bytes, which may be fewer than given.
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Makes data and length durable: what `fdatasync` does.
    fn sync_data(&self) -> io::Result<()>;
    /// Length of the file, in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes the space for the first `len` bytes, so that writing there will not find the disk full, and
    /// extends the file with zeros if it is shorter. File systems that can't do this do nothing.
    fn reserve(&self, len: u64) -> io::Result<()>;
    /// What tells this file from a copy.
    fn identity(&self) -> io::Result<FileIdentity>;
}

/// Reads until `buffer` is full or the file ends; how many bytes. Interrupted reads are retried.
pub(crate) fn read_full(file: &dyn VfsFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Puts a file with these contents in the place of the one that bears `name` in `dir`, if there is one; it is written as
/// `name.new` first.
///
/// **Durability**: on `Ok` it survives power loss; on `Err` the file is as it was or as it should be, and whether that
/// survives is not known.
pub(crate) fn replace_file(vfs: &dyn Vfs, dir: &Path, name: &str, contents: &mut [IoSlice<'_>]) -> io::Result<()> {
    let new_path = dir.join(format!("{name}.new"));
    match vfs.remove(&new_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = vfs.open(&new_path, OpenMode::Create)?;
    write_full(&*file, contents, 0)?;
    file.sync_data()?;
    vfs.rename(&new_path, &dir.join(name))?;
    vfs.sync_dir(dir)
}

/// Writes all of `buffers`. Short writes are continued, interrupted ones retried.
pub(crate) fn write_full(file: &dyn VfsFile, mut buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        match file.write_at(buffers, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                IoSlice::advance_slices(&mut buffers, count);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
