//! What is known to be missing, kept for the next life of the store: a file that is there once a hole has been found.
//!
//! What rotted in a sealed segment is met by a read, and no index tells of it. Without the file it would be forgotten
//! with the process, and the log be acknowledged whole to those who may then remove it elsewhere. It is replaced as a whole
//! when a hole is found, before anybody is told of it, and when one is filled, after that is durable: so a crash leaves at
//! worst a hole that is filled already, which mending finds out.
//!
//! # Bytes of the file `holes`
//!
//! Little-endian, twice (see the module `twice`):
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic and version, `CFH1` |
//! | 4 | number of logs |
//! | 20 + 16 n each | log (16), number of ranges (4), each: first sequence number missing (8), first one behind them (8); ascending by log id |
//! | 4 | CRC-32 of what is before |

use std::{io, path::Path};

use super::{
    index::POSITION_MAX,
    twice::{self, Twice},
};
use crate::{
    field::Fields,
    holes::Holes,
    ids::{LogId, Seq},
    vfs::Vfs,
};

const HOLES_FILE: &str = "holes";
const MAGIC: [u8; 4] = *b"CFH1";

/// The longest file, in bytes: bounds what is read before a checksum is known to match.
const FILE_LEN_MAX: u64 = 256 << 20;

/// The holes of each log that has any, ascending by log.
pub(crate) type RecordedHoles = Vec<(LogId, Holes)>;

/// What the file says. It is missing if no hole was ever found, or it was lost.
pub(crate) type HolesState = Twice<RecordedHoles>;

impl HolesState {
    /// What is wrong with it.
    pub(crate) fn damage(&self) -> Option<&'static str> {
        let what = "the file of holes is damaged: what was known to be missing is known again once everything was read";
        (*self == Self::Damaged).then_some(what)
    }
}

/// Replaces the file; the holes are ascending by log.
///
/// **Durability**: on `Ok` it survives power loss; on `Err` it is as it was or as it should be.
pub(crate) fn write(vfs: &dyn Vfs, dir: &Path, holes: &[(LogId, Holes)]) -> io::Result<()> {
    twice::write(vfs, dir, HOLES_FILE, encode(holes))
}

/// Reads the file.
pub(crate) fn read(vfs: &dyn Vfs, dir: &Path) -> io::Result<HolesState> {
    twice::read(vfs, dir, HOLES_FILE, FILE_LEN_MAX, decode)
}

/// What is before the checksum.
fn encode(holes: &[(LogId, Holes)]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&(holes.len() as u32).to_le_bytes());
    for (log, holes) in holes {
        out.extend_from_slice(log.as_bytes());
        out.extend_from_slice(&(holes.iter().len() as u32).to_le_bytes());
        for (first_seq, next_seq) in holes.iter() {
            out.extend_from_slice(&first_seq.0.to_le_bytes());
            out.extend_from_slice(&next_seq.0.to_le_bytes());
        }
    }
    out
}

fn decode(contents: &[u8]) -> Option<RecordedHoles> {
    let mut fields = Fields(contents);
    let magic: [u8; 4] = fields.array()?;
    let count = fields.u32().filter(|_| magic == MAGIC)?;
    let mut logs = Vec::new();
    for _ in 0..count {
        let log = LogId::from_bytes(fields.array()?);
        let mut ranges = Vec::new();
        for _ in 0..fields.u32()? {
            let mut seq = || fields.u64().filter(|seq| *seq < POSITION_MAX).map(Seq);
            ranges.push((seq()?, seq()?));
        }
        logs.push((log, Holes::try_from(ranges).ok()?));
    }
    let is_sound = fields.0.is_empty() && logs.is_sorted_by(|(a, _), (b, _)| a < b);
    is_sound.then_some(logs)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::{
        ids::Digest,
        vfs::{Memory, OpenMode, read_full, write_full},
    };

    fn holes() -> Vec<(LogId, Holes)> {
        let ranges = |ranges: &[(u64, u64)]| {
            let ranges: Vec<_> = ranges.iter().map(|(first, next)| (Seq(*first), Seq(*next))).collect();
            Holes::try_from(ranges).unwrap()
        };
        vec![
            (LogId::from_bytes([1; 16]), ranges(&[(3, 5), (900, 1 << 40)])),
            (LogId::from_bytes([7; 16]), ranges(&[(0, 1)])),
        ]
    }

    #[test]
    fn the_file_reads_back_and_any_flipped_bit_leaves_the_other_copy() {
        let (vfs, dir) = (Memory::default(), Path::new("s"));
        assert_eq!(read(&vfs, dir).unwrap(), HolesState::Missing);
        write(&vfs, dir, &[]).unwrap();
        assert_eq!(read(&vfs, dir).unwrap(), HolesState::Known(Vec::new()));
        write(&vfs, dir, &holes()).unwrap();
        let file = vfs.open(&dir.join(HOLES_FILE), OpenMode::Write).unwrap();
        let len = file.len().unwrap();
        for byte in 0..len {
            let mut old = [0];
            read_full(&*file, &mut old, byte).unwrap();
            write_full(&*file, &mut [IoSlice::new(&[old[0] ^ 4])], byte).unwrap();
            assert_eq!(read(&vfs, dir).unwrap(), HolesState::Known(holes()), "byte {byte}");
            write_full(&*file, &mut [IoSlice::new(&old)], byte).unwrap();
        }
        for byte in [5, len / 2 + 5] {
            write_full(&*file, &mut [IoSlice::new(&[0xff])], byte).unwrap();
        }
        assert_eq!(read(&vfs, dir).unwrap(), HolesState::Damaged);
        for len in [0, 1, 7, 12] {
            file.set_len(len).unwrap();
            assert_eq!(read(&vfs, dir).unwrap(), HolesState::Damaged, "{len} bytes");
        }
    }

    #[test]
    fn the_bytes_of_the_file_are_fixed_for_ever() {
        let one = encode(&holes()[1..]);
        let golden = [&b"CFH1\x01\0\0\0"[..], &[7; 16], b"\x01\0\0\0", &[0; 8], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(one, golden);
        assert_eq!(
            Digest::of(&twice::with_crc(encode(&holes()))).to_string(),
            "8a5d2fb704bd9ce9f3e3455386646284a3b2a3cdea9f0ebe75bf6a88eca03326"
        );
    }
}
