//! A checksum for each block of the index's file, looked at by each read.
//!
//! redb sums up its pages and looks at the sums only when it checks a whole file: whoever opens one either reads all of it, or
//! serves what has rotted. So each block of 4 KiB, which is redb's page, has a CRC-32 here: in memory while the file is open, a thousandth
//! of its length, and from a clean close to the next opening in a file of their own. With it, opening reads next to nothing, and a bit
//! that flips at any time is met by the read that would have used it.
//!
//! The file of sums is taken away before the other is used, and need not be durable: redb writes its first block with every
//! commit, so sums of another time do not fit that block or the length, and are as good as none. Without sums redb has to check the file,
//! and by that they are learnt: what it has not read by then is in no use.
//!
//! # Layout
//!
//! | offset | length | |
//! |---|---|---|
//! | 0 | 8 | magic `CFSUMS1\n` |
//! | 8 | 16 | id of the store |
//! | 24 | 8 | length of the file, little-endian as all numbers here |
//! | 32 | 4 for each block begun | its CRC-32, 0xffff_ffff in place of 0; 0 if it is not known |
//! | at the end | 4 | CRC-32 of all before |

use std::{
    borrow::Cow,
    io::{self, IoSlice},
    num::NonZeroU32,
    ops::Range,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use counterfoil_storage::{
    StoreId,
    vfs::{OpenMode, Vfs, VfsFile},
};

const FILE: &str = "collections.sums";

const BLOCK_LEN: usize = 4096;

const MAGIC: &[u8; 8] = b"CFSUMS1\n";
const HEADER_LEN: usize = 32;

/// Of a block; `None` if it is not known.
type Sum = Option<NonZeroU32>;

fn sum(block: &[u8]) -> NonZeroU32 {
    NonZeroU32::new(crc32fast::hash(block)).unwrap_or(NonZeroU32::MAX)
}

/// The store whose index it is, and where it keeps its files.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) dir: PathBuf,
    pub(super) store: StoreId,
}

impl Place {
    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// The sums of a file of that length, if they were kept. They are kept no longer: what they are of is about to change.
    fn take(&self, len: u64) -> Option<Vec<Sum>> {
        let bytes = self.vfs.open(&self.path(), OpenMode::Read).and_then(|file| read_all(&*file));
        self.remove();
        parse(&bytes.ok()?, self.store, len)
    }

    fn remove(&self) {
        match self.vfs.remove(&self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path().display(), %error, "checksums of the index of collections can't be removed");
            }
            _ => {}
        }
    }

    fn keep(&self, len: u64, sums: &[Sum]) -> io::Result<()> {
        let file = self.vfs.open(&self.path(), OpenMode::Create)?;
        write_all(&*file, 0, &encode(self.store, len, sums))
    }
}

fn encode(store: StoreId, len: u64, sums: &[Sum]) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], store.as_bytes(), &len.to_le_bytes()].concat();
    bytes.extend(sums.iter().flat_map(|sum| sum.map_or(0, NonZeroU32::get).to_le_bytes()));
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn parse(bytes: &[u8], store: StoreId, len: u64) -> Option<Vec<Sum>> {
    let (content, crc) = bytes.split_last_chunk()?;
    let sums = content.get(HEADER_LEN..)?;
    let is_of_file = content.starts_with(&encode(store, len, &[])[..HEADER_LEN])
        && u32::from_le_bytes(*crc) == crc32fast::hash(content)
        && sums.len() as u64 == 4 * len.div_ceil(BLOCK_LEN as u64);
    let sum = |bytes: &[u8; 4]| NonZeroU32::new(u32::from_le_bytes(*bytes));
    is_of_file.then(|| sums.as_chunks().0.iter().map(sum).collect())
}

/// A file of the store's file system, as redb wants it, of which nothing is read that was not written.
#[derive(Debug)]
pub(super) struct SummedFile {
    file: Arc<dyn VfsFile>,
    place: Place,
    /// Of each block begun; `None` once the file was given up, and then it is neither read nor written. Held over a write.
    sums: RwLock<Option<Vec<Sum>>>,
}

impl SummedFile {
    /// The file, and whether its sums are known. If not, what is read first is taken for what was written.
    pub(super) fn new(file: Arc<dyn VfsFile>, place: Place) -> io::Result<(Self, bool)> {
        let len = file.len()?;
        let mut first_block = vec![0; BLOCK_LEN.min(len as usize)];
        read_exact(&*file, 0, &mut first_block)?;
        let kept = place.take(len).filter(|sums| check(sums, 0, &first_block).is_ok());
        let is_known = kept.is_some();
        let sums = kept.unwrap_or_else(|| vec![None; block_count(len)]);
        Ok((Self { file, place, sums: RwLock::new(Some(sums)) }, is_known))
    }

    /// From now on all is refused, so that another may have the file; sums are not kept.
    pub(super) fn give_up(&self) {
        *write_lock(&self.sums) = None;
    }

    /// Reads from the beginning of a block to the end of one, or of the file.
    fn read_checked(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact(&*self.file, offset, out)?;
        let first = block_of(offset);
        let sums = self.sums.read().unwrap_or_else(PoisonError::into_inner);
        let checked = check(sums.as_ref().ok_or_else(given_up)?, first, out);
        drop(sums);
        let learnt = checked.inspect_err(|_| self.give_up())?;
        if !learnt.is_empty()
            && let Some(sums) = &mut *write_lock(&self.sums)
        {
            learnt.into_iter().for_each(|(block, found)| _ = sums[block].get_or_insert(found));
        }
        Ok(())
    }
}

/// Compares blocks with what is known of them; what was not known.
fn check(sums: &[Sum], first: usize, blocks: &[u8]) -> io::Result<Vec<(usize, NonZeroU32)>> {
    let mut learnt = Vec::new();
    for (block, bytes) in (first..).zip(blocks.chunks(BLOCK_LEN)) {
        let known = sums.get(block).ok_or(io::ErrorKind::UnexpectedEof)?;
        match (known, sum(bytes)) {
            (Some(known), found) if *known == found => {}
            (None, found) => learnt.push((block, found)),
            (Some(_), _) => {
                let what = format!("the {BLOCK_LEN} bytes from byte {} on are damaged", block * BLOCK_LEN);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
    }
    Ok(learnt)
}

fn given_up() -> io::Error {
    io::Error::other("the file was given up when an operation failed")
}

/// As redb takes it.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<SummedFile>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Self(file) = self;
        let blocks = blocks_of(offset, out.len());
        if blocks == (offset..offset + out.len() as u64) {
            return file.read_checked(offset, out);
        }
        let mut covering = vec![0; (blocks.end.min(file.file.len()?).saturating_sub(blocks.start)) as usize];
        file.read_checked(blocks.start, &mut covering)?;
        let start = (offset - blocks.start) as usize;
        out.copy_from_slice(covering.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut guard = write_lock(&self.0.sums);
        let sums = guard.as_mut().ok_or_else(given_up)?;
        // A block that is cut or grows is not known any more.
        sums.truncate((len.min(self.0.file.len()?) / BLOCK_LEN as u64) as usize);
        sums.resize(block_count(len), None);
        self.0.file.set_len(len).inspect_err(|_| *guard = None)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.file.sync_data().inspect_err(|_| self.0.give_up())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Self(file) = self;
        let range = blocks_of(offset, data.len());
        let mut guard = write_lock(&file.sums);
        let sums = guard.as_mut().ok_or_else(given_up)?;
        let mut blocks = Cow::Borrowed(data);
        if range != (offset..offset + data.len() as u64) {
            // The rest of its blocks stays, and must be what it was.
            let mut covering = vec![0; (range.end.min(file.file.len()?).saturating_sub(range.start)) as usize];
            read_exact(&*file.file, range.start, &mut covering)?;
            check(sums, block_of(offset), &covering)?;
            let start = (offset - range.start) as usize;
            covering.resize(covering.len().max(start + data.len()), 0);
            covering[start..start + data.len()].copy_from_slice(data);
            blocks = Cow::Owned(covering);
        }
        if let Err(error) = write_all(&*file.file, offset, data) {
            *guard = None;
            return Err(error);
        }
        for (block, bytes) in (block_of(offset)..).zip(blocks.chunks(BLOCK_LEN)) {
            if sums.len() <= block {
                sums.resize(block + 1, None);
            }
            sums[block] = Some(sum(bytes));
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        let Self(file) = self;
        let sums = file.sums.read().unwrap_or_else(PoisonError::into_inner);
        let Some(sums) = &*sums else { return Ok(()) };
        if let Err(error) = file.file.len().and_then(|len| file.place.keep(len, sums)) {
            tracing::warn!(path = %file.place.path().display(), %error, "checksums of the index of collections can't be kept: it is checked whole when it is next opened");
            file.place.remove();
        }
        Ok(())
    }
}

fn block_of(offset: u64) -> usize {
    (offset / BLOCK_LEN as u64) as usize
}

fn block_count(len: u64) -> usize {
    len.div_ceil(BLOCK_LEN as u64) as usize
}

/// The blocks that a range lies in.
fn blocks_of(offset: u64, len: usize) -> Range<u64> {
    let block = BLOCK_LEN as u64;
    offset / block * block..(offset + len as u64).next_multiple_of(block)
}

fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn read_all(file: &dyn VfsFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    read_exact(file, 0, &mut bytes)?;
    Ok(bytes)
}

fn read_exact(file: &dyn VfsFile, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match file.read_at(out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                out = &mut out[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_all(file: &dyn VfsFile, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match file.write_at(&[IoSlice::new(data)], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                data = &data[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
