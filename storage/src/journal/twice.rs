//! Small files that are replaced as a whole and hold what they say twice, so that one damaged place leaves a copy.
//!
//! The second copy begins in the middle of the file; each ends in a CRC-32 (4 bytes, little-endian) of what is before.

use std::{
    io::{self, IoSlice},
    path::Path,
};

use crate::vfs::{OpenMode, Vfs, read_full, replace_file};

/// What such a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Twice<T> {
    /// There is no file.
    Missing,
    /// What a copy says that can be read.
    Known(T),
    /// Neither copy can be read.
    Damaged,
}

/// Replaces the file `name` in `dir` by one that says `contents`.
///
/// **Durability**: on `Ok` it survives power loss; on `Err` it is as it was or as it should be.
pub(crate) fn write(vfs: &dyn Vfs, dir: &Path, name: &str, contents: Vec<u8>) -> io::Result<()> {
    let copy = with_crc(contents);
    replace_file(vfs, dir, name, &mut [IoSlice::new(&copy), IoSlice::new(&copy)])
}

/// Reads it, at most `len_max` bytes; `decode` is given what stood before the checksum of a copy that matches, and what it does
/// not take counts as damage too.
pub(crate) fn read<T>(
    vfs: &dyn Vfs,
    dir: &Path,
    name: &str,
    len_max: u64,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Twice<T>> {
    let file = match vfs.open(&dir.join(name), OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Twice::Missing),
        opened => opened?,
    };
    let mut bytes = vec![0; file.len()?.min(len_max) as usize];
    let count = read_full(&*file, &mut bytes, 0)?;
    bytes.truncate(count);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let known = [first, second].into_iter().find_map(|copy| decode(contents_of(copy)?));
    Ok(known.map_or(Twice::Damaged, Twice::Known))
}

pub(crate) fn with_crc(mut contents: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&contents);
    contents.extend_from_slice(&crc.to_le_bytes());
    contents
}

fn contents_of(copy: &[u8]) -> Option<&[u8]> {
    let (contents, crc) = copy.split_last_chunk::<4>()?;
    (crc32fast::hash(contents) == u32::from_le_bytes(*crc)).then_some(contents)
}
