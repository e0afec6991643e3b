//! Who a store is, and how far it is known to reach: two small files, each written twice over.
//!
//! # Bytes
//!
//! Little-endian; a second copy at offset 4096. `identity`:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic, `CFN1` |
//! | 2 | format, 1 |
//! | 2 | zero |
//! | 16 | store id |
//! | 16 | incarnation |
//! | 8 | inode of this file when the incarnation began |
//! | 8 | its birth time, nanoseconds since 1970; 0 if the file system does not tell |
//! | 1 + n | node: length and name |
//! | 4 | CRC-32 of what is before |
//!
//! `extent`, made before a second frame is written, and replaced as a whole when a segment has been begun, at a clean close,
//! and before segments are freed; a second
//! copy at offset 4096: magic `CFE1` (4), segment (8), offset where its frames end (8), the first segment that is kept (8),
//! CRC-32 (4). A store found shorter has lost data; segments before the first one kept have been freed. Where it is lost
//! nothing proves that the end that is found is the end that was acknowledged.

use std::{
    io,
    io::IoSlice,
    path::Path,
    sync::{Arc, PoisonError},
};

use super::index::POSITION_MAX;
use crate::{
    field::Fields,
    ids::{Incarnation, NodeName, SegmentNumber, StoreId},
    sync::Mutex,
    vfs::{FileIdentity, OpenMode, Vfs, VfsFile, read_full, replace_file, write_full},
};

const IDENTITY_MAGIC: [u8; 4] = *b"CFN1";
const EXTENT_MAGIC: [u8; 4] = *b"CFE1";
const FORMAT: u16 = 1;
const COPY_OFFSET: usize = 4096;
const FILE_LEN: usize = COPY_OFFSET + 512;
const EXTENT_LEN: usize = 32;

/// Name of the identity file in a store's folder.
pub(crate) const IDENTITY_FILE: &str = "identity";
/// Name of the extent file in a store's folder.
const EXTENT_FILE: &str = "extent";

/// Who a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node's name.
    pub node: NodeName,
    /// The store's random id.
    pub store: StoreId,
    /// New when the store is found to be a copy, or its newest records to be damaged: the node then
    /// writes new logs, since its old ones may go on elsewhere.
    pub incarnation: Incarnation,
}

/// An identity as stored, with the file that it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundIdentity {
    pub(crate) identity: Identity,
    pub(crate) file: FileIdentity,
}

/// What the identity file says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IdentityState {
    Whole(BoundIdentity),
    OneCopy(BoundIdentity),
    Unreadable,
    /// Written by a later version.
    Format(u16),
}

impl BoundIdentity {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&IDENTITY_MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(self.identity.store.as_bytes());
        out.extend_from_slice(self.identity.incarnation.as_bytes());
        out.extend_from_slice(&self.file.inode.to_le_bytes());
        out.extend_from_slice(&self.file.birth_ns.to_le_bytes());
        let node = self.identity.node.as_str();
        out.push(node.len() as u8);
        out.extend_from_slice(node.as_bytes());
        push_crc(&mut out);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Result<Self, u16>> {
        let mut fields = Fields(bytes);
        let _fixed = fields.bytes(56)?;
        let node_len = usize::from(fields.u8()?);
        let mut fields = Fields(check_crc(bytes, 57 + node_len)?);
        if fields.array()? != IDENTITY_MAGIC {
            return None;
        }
        let format = fields.u16()?;
        if format != FORMAT {
            return Some(Err(format));
        }
        let _zero = fields.u16()?;
        let store = StoreId::from_bytes(fields.array()?);
        let incarnation = Incarnation::from_bytes(fields.array()?);
        let file = FileIdentity { inode: fields.u64()?, birth_ns: fields.u64()? };
        let name = fields.bytes(node_len + 1)?.get(1..)?;
        let node = NodeName::new(std::str::from_utf8(name).ok()?).ok()?;
        Some(Ok(Self { identity: Identity { node, store, incarnation }, file }))
    }

    /// Writes both copies, one after the other, each flushed, so that a crash leaves one whole.
    pub(crate) fn write(&self, file: &dyn VfsFile) -> io::Result<()> {
        let encoded = self.encode();
        for offset in [0, COPY_OFFSET as u64] {
            write_full(file, &mut [IoSlice::new(&encoded)], offset)?;
            file.sync_data()?;
        }
        Ok(())
    }

    /// Makes the identity file of a new store, bound to itself.
    pub(crate) fn create(vfs: &dyn Vfs, dir: &Path, identity: Identity) -> io::Result<Self> {
        let new_path = dir.join("identity.new");
        match vfs.remove(&new_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = vfs.open(&new_path, OpenMode::Create)?;
        let bound = Self { identity, file: file.identity()? };
        bound.write(&*file)?;
        vfs.rename(&new_path, &dir.join(IDENTITY_FILE))?;
        vfs.sync_dir(dir)?;
        Ok(bound)
    }

    /// Reads the identity file; which of two differing copies is the newer does not matter: each was written whole.
    pub(crate) fn read(file: &dyn VfsFile) -> io::Result<IdentityState> {
        let mut bytes = vec![0; FILE_LEN];
        let count = read_full(file, &mut bytes, 0)?;
        bytes.truncate(count);
        let first = Self::decode(&bytes);
        let second = bytes.get(COPY_OFFSET..).and_then(Self::decode);
        Ok(match (first, second) {
            (Some(Ok(first)), Some(Ok(second))) if first == second => IdentityState::Whole(first),
            (Some(Ok(bound)), _) | (_, Some(Ok(bound))) => IdentityState::OneCopy(bound),
            (Some(Err(format)), _) | (_, Some(Err(format))) => IdentityState::Format(format),
            (None, None) => IdentityState::Unreadable,
        })
    }
}

fn push_crc(out: &mut Vec<u8>) {
    let crc = crc32fast::hash(out);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// The first `len` bytes, if the CRC-32 after them matches.
fn check_crc(bytes: &[u8], len: usize) -> Option<&[u8]> {
    let (summed, rest) = bytes.split_at_checked(len)?;
    let crc = Fields(rest).u32()?;
    (crc == crc32fast::hash(summed)).then_some(summed)
}

/// Held while a journal's extent file is replaced. Says whether what can be read of it is known to survive power loss:
/// whoever replaced it last may have been cut short before that was so, or its flush have failed. Then it is replaced once
/// more, since another flush proves nothing of what the first one did not write.
#[derive(Debug, Default, Clone)]
pub(crate) struct Raising(Arc<Mutex<bool>>);

/// A place that the journal is known to have reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    pub(crate) segment: SegmentNumber,
    /// Where the frames of that segment ended, at least.
    pub(crate) end: u64,
}

impl Extent {
    /// Replaces the extent file, unless it records this place or one beyond. On `Ok` that survives power loss.
    ///
    /// Committer and filler may both do so: one at a time, or the later of two reads would be followed by
    /// the earlier of two writes.
    pub(crate) fn raise(self, raising: &Raising, vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
        self.raise_first(SegmentNumber::ZERO, raising, vfs, dir)
    }

    /// The same, and records that all segments before `first` are freed. Neither goes back.
    pub(crate) fn raise_first(
        self,
        first: SegmentNumber,
        raising: &Raising,
        vfs: &dyn Vfs,
        dir: &Path,
    ) -> io::Result<()> {
        let mut is_flushed = raising.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = Self::read(vfs, dir)?;
        let (recorded, kept) = (state.recorded(), state.first_segment());
        if recorded.is_none_or(|recorded| recorded < self) || kept < first || !*is_flushed {
            *is_flushed = false;
            recorded.map_or(self, |recorded| recorded.max(self)).write(kept.max(first), vfs, dir)?;
            *is_flushed = true;
        }
        Ok(())
    }

    fn encode(self, first: SegmentNumber) -> Vec<u8> {
        let mut bytes = EXTENT_MAGIC.to_vec();
        bytes.extend_from_slice(&self.segment.0.to_le_bytes());
        bytes.extend_from_slice(&self.end.to_le_bytes());
        bytes.extend_from_slice(&first.0.to_le_bytes());
        push_crc(&mut bytes);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(Self, SegmentNumber)> {
        let mut fields = Fields(check_crc(bytes, EXTENT_LEN - 4)?);
        let magic: [u8; 4] = fields.array()?;
        let extent = Self { segment: SegmentNumber(fields.u64()?), end: fields.u64()? };
        let first = SegmentNumber(fields.u64()?);
        let is_bounded = extent.segment.0.max(extent.end).max(first.0) < POSITION_MAX;
        (magic == EXTENT_MAGIC && is_bounded).then_some((extent, first))
    }

    fn write(self, first: SegmentNumber, vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
        let mut bytes = self.encode(first);
        bytes.resize(COPY_OFFSET, 0);
        bytes.extend_from_within(..EXTENT_LEN);
        replace_file(vfs, dir, EXTENT_FILE, &mut [IoSlice::new(&bytes)])
    }

    /// Reads the extent file.
    pub(crate) fn read(vfs: &dyn Vfs, dir: &Path) -> io::Result<ExtentState> {
        let file = match vfs.open(&dir.join(EXTENT_FILE), OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ExtentState::Missing),
            opened => opened?,
        };
        let mut bytes = [0; COPY_OFFSET + EXTENT_LEN];
        let count = read_full(&*file, &mut bytes, 0)?;
        let bytes = &bytes[..count];
        // Which of two that differ does not matter: both were written at once.
        let decoded = Self::decode(bytes).or_else(|| bytes.get(COPY_OFFSET..).and_then(Self::decode));
        Ok(decoded.map_or(ExtentState::Damaged, |(extent, first)| ExtentState::Recorded(extent, first)))
    }
}

/// What became of the extent file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtentState {
    /// The place, and the first segment that is kept.
    Recorded(Extent, SegmentNumber),
    /// Right if nothing was ever committed, or the first commit was the last thing that happened. See [`Tail::write`].
    ///
    /// [`Tail::write`]: super::tail::Tail::write
    Missing,
    Damaged,
}

impl ExtentState {
    /// The place recorded, if it can be read.
    pub(crate) fn recorded(self) -> Option<Extent> {
        match self {
            Self::Recorded(extent, _) => Some(extent),
            Self::Missing | Self::Damaged => None,
        }
    }

    /// The first segment that is kept, as far as can be told.
    pub(crate) fn first_segment(self) -> SegmentNumber {
        match self {
            Self::Recorded(_, first) => first,
            Self::Missing | Self::Damaged => SegmentNumber::ZERO,
        }
    }

    /// What is wrong, in a store that has or has not begun a second frame: none is written before there is this file.
    pub(crate) fn damage(self, is_used: bool) -> Option<&'static str> {
        match self {
            Self::Damaged => Some("the extent file is damaged: whether the newest commits are all there can't be told"),
            Self::Missing if is_used => {
                Some("the extent file is missing: whether the newest commits are all there can't be told")
            }
            Self::Missing | Self::Recorded(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{Disk, Memory};

    fn identity() -> Identity {
        Identity {
            node: NodeName::new("practice-12").unwrap(),
            store: StoreId::from_bytes([1; 16]),
            incarnation: Incarnation::from_bytes([2; 16]),
        }
    }

    #[test]
    fn any_flipped_bit_of_the_identity_leaves_the_other_copy() {
        let vfs = Memory::default();
        let bound = BoundIdentity::create(&vfs, Path::new("s"), identity()).unwrap();
        let file = vfs.open(&Path::new("s").join(IDENTITY_FILE), OpenMode::Write).unwrap();
        assert_eq!(BoundIdentity::read(&*file).unwrap(), IdentityState::Whole(bound.clone()));
        let len = bound.encode().len();
        for byte in (0..len).chain(COPY_OFFSET..COPY_OFFSET + len) {
            let mut old = [0];
            read_full(&*file, &mut old, byte as u64).unwrap();
            write_full(&*file, &mut [IoSlice::new(&[old[0] ^ 4])], byte as u64).unwrap();
            assert_eq!(BoundIdentity::read(&*file).unwrap(), IdentityState::OneCopy(bound.clone()), "byte {byte}");
            write_full(&*file, &mut [IoSlice::new(&old)], byte as u64).unwrap();
        }
    }

    #[test]
    fn an_extent_raised_by_several_threads_at_once_ends_at_the_furthest() {
        let folder = tempfile::tempdir().unwrap();
        let raising = Raising::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (raising, dir) = (&raising, folder.path());
                scope.spawn(move || {
                    for end in (thread..100).step_by(4) {
                        Extent { segment: SegmentNumber(0), end }.raise(raising, &Disk, dir).unwrap();
                    }
                });
            }
        });
        let furthest = Extent { segment: SegmentNumber(0), end: 99 };
        let recorded = ExtentState::Recorded(furthest, SegmentNumber::ZERO);
        assert_eq!(Extent::read(&Disk, folder.path()).unwrap(), recorded);
    }

    #[test]
    fn the_bytes_of_the_extent_are_fixed_for_ever() {
        let extent = Extent { segment: SegmentNumber(3), end: 99 };
        let golden = b"CFE1\x03\0\0\0\0\0\0\0\x63\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0";
        assert_eq!(extent.encode(SegmentNumber(2))[..EXTENT_LEN - 4], golden[..]);
    }

    #[test]
    fn the_extent_reads_back_from_either_copy_and_a_damaged_one_is_told_from_none() {
        let vfs = Memory::default();
        let extent = Extent { segment: SegmentNumber(3), end: 99 };
        assert_eq!(Extent::read(&vfs, Path::new("s")).unwrap(), ExtentState::Missing);
        let (raising, first) = (Raising::default(), SegmentNumber(2));
        extent.raise_first(first, &raising, &vfs, Path::new("s")).unwrap();
        assert_eq!(Extent::read(&vfs, Path::new("s")).unwrap(), ExtentState::Recorded(extent, first));
        let further = Extent { segment: SegmentNumber(4), end: 9 };
        further.raise(&raising, &vfs, Path::new("s")).unwrap();
        extent.raise_first(SegmentNumber(3), &raising, &vfs, Path::new("s")).unwrap();
        let recorded = ExtentState::Recorded(further, SegmentNumber(3));
        assert_eq!(Extent::read(&vfs, Path::new("s")).unwrap(), recorded, "neither goes back");
        let file = vfs.open(&Path::new("s").join(EXTENT_FILE), OpenMode::Write).unwrap();
        write_full(&*file, &mut [IoSlice::new(&[0xff])], 5).unwrap();
        assert_eq!(Extent::read(&vfs, Path::new("s")).unwrap(), recorded, "the other copy");
        write_full(&*file, &mut [IoSlice::new(&[0xff])], COPY_OFFSET as u64 + 5).unwrap();
        assert_eq!(Extent::read(&vfs, Path::new("s")).unwrap(), ExtentState::Damaged);
    }
}
