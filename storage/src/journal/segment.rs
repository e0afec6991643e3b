//! Segments: the files of a journal.
//!
//! A segment is `NNNNNNNNNNNNNNNN.seg`, its number in hexadecimal. It begins with two copies of its
//! header, at offsets 0 and 4096; frames begin at offset 8192; a sealed segment ends in a footer.
//! A segment file whose headers are zero is space made ready for the next segment.
//!
//! # Bytes of a header
//!
//! Little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, `CFS1` |
//! | 4 | 2 | format, 1 |
//! | 6 | 2 | zero |
//! | 8 | 16 | store id |
//! | 24 | 8 | segment number |
//! | 32 | 16 | salt: random, so that old bytes in this space can't pass as frames |
//! | 48 | 8 | number of the first commit in it |
//! | 56 | 8 | first arrival number in it |
//! | 64 | 8 | offset where the frames of the segment before it end; 0 for the first |
//! | 72 | 4 | zero |
//! | 76 | 4 | CRC-32 of bytes 0 to 76 |

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::index::POSITION_MAX;
use crate::{
    field::Fields,
    ids::{Arrival, CommitNumber, SegmentNumber, StoreId},
    vfs::{VfsFile, read_full},
};

/// Random bytes of a segment that go into the checksums of its frames.
pub(crate) type Salt = [u8; 16];

/// Where frames begin.
pub(crate) const FRAMES_OFFSET: u64 = 8192;

const COPY_OFFSET: usize = 4096;
const HEADER_LEN: usize = 80;
const CRC_OFFSET: usize = 76;
const MAGIC: [u8; 4] = *b"CFS1";
const FORMAT: u16 = 1;

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store: StoreId,
    pub(crate) number: SegmentNumber,
    pub(crate) salt: Salt,
    pub(crate) first_commit: CommitNumber,
    pub(crate) first_arrival: Arrival,
    /// Where the frames of the segment before end: what lies behind is a footer or a torn tail.
    pub(crate) previous_end: u64,
}

/// What the first bytes of a segment file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderState {
    /// Both copies agree.
    Whole(SegmentHeader),
    /// One copy is damaged.
    OneCopy(SegmentHeader),
    /// All zero: space made ready, never used.
    Unused,
    /// Neither copy is valid.
    Unreadable,
}

impl SegmentHeader {
    /// Both copies, padded to where the frames begin.
    pub(crate) fn encode_block(&self) -> Bytes {
        let header = self.encode();
        let mut block = vec![0; FRAMES_OFFSET as usize];
        block[..HEADER_LEN].copy_from_slice(&header);
        block[COPY_OFFSET..COPY_OFFSET + HEADER_LEN].copy_from_slice(&header);
        block.into()
    }

    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        out[8..24].copy_from_slice(self.store.as_bytes());
        out[24..32].copy_from_slice(&self.number.0.to_le_bytes());
        out[32..48].copy_from_slice(&self.salt);
        out[48..56].copy_from_slice(&self.first_commit.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.first_arrival.0.to_le_bytes());
        out[64..72].copy_from_slice(&self.previous_end.to_le_bytes());
        let crc = crc32fast::hash(&out[..CRC_OFFSET]);
        out[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let summed = fields.bytes(CRC_OFFSET)?;
        if fields.u32()? != crc32fast::hash(summed) {
            return None;
        }
        let mut fields = Fields(summed);
        if fields.array()? != MAGIC || fields.u16()? != FORMAT || fields.u16()? != 0 {
            return None;
        }
        let header = Self {
            store: StoreId::from_bytes(fields.array()?),
            number: SegmentNumber(fields.u64()?),
            salt: fields.array()?,
            first_commit: CommitNumber(fields.u64()?),
            first_arrival: Arrival(fields.u64()?),
            previous_end: fields.u64()?,
        };
        let positions = [header.number.0, header.first_commit.0, header.first_arrival.0, header.previous_end];
        positions.iter().all(|position| *position < POSITION_MAX).then_some(header)
    }

    /// Reads both copies. A copy of another store or number counts as damaged.
    pub(crate) fn read(file: &dyn VfsFile, store: StoreId, number: SegmentNumber) -> io::Result<HeaderState> {
        let mut block = vec![0; FRAMES_OFFSET as usize];
        read_full(file, &mut block, 0)?;
        let ours = |header: &Self| header.store == store && header.number == number;
        let first = Self::decode(&block).filter(ours);
        let second = Self::decode(&block[COPY_OFFSET..]).filter(ours);
        Ok(match (first, second) {
            (Some(first), Some(second)) if first == second => HeaderState::Whole(first),
            (Some(header), _) | (None, Some(header)) => HeaderState::OneCopy(header),
            (None, None) if block.iter().all(|&byte| byte == 0) => HeaderState::Unused,
            (None, None) => HeaderState::Unreadable,
        })
    }
}

/// Fails if something was written where a segment's headers stand.
pub(crate) fn check_unused(file: &dyn VfsFile) -> io::Result<()> {
    let mut block = vec![0; FRAMES_OFFSET as usize];
    read_full(file, &mut block, 0)?;
    if block.iter().any(|byte| *byte != 0) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the next segment's file holds something already"));
    }
    Ok(())
}

/// The file name of a segment.
pub(crate) fn file_name(number: SegmentNumber) -> String {
    format!("{:016x}.seg", number.0)
}

/// The number of the segment that bears this file name.
pub(crate) fn number_of(file_name: &str) -> Option<SegmentNumber> {
    let digits = file_name.strip_suffix(".seg")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (number < POSITION_MAX && self::file_name(SegmentNumber(number)) == file_name).then_some(SegmentNumber(number))
}

/// The path of a segment in a store's folder.
pub(crate) fn path(dir: &std::path::Path, number: SegmentNumber) -> PathBuf {
    dir.join(file_name(number))
}

/// Reads slices of a file through one buffer that is read ahead.
#[derive(Debug)]
pub(crate) struct Window {
    file: Arc<dyn VfsFile>,
    start: u64,
    bytes: Bytes,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn VfsFile>) -> Self {
        Self { file, start: 0, bytes: Bytes::new() }
    }

    /// `len` bytes at `offset`, fewer at the end of the file; reads `ahead` bytes if it must read.
    pub(crate) fn slice(&mut self, offset: u64, len: usize, ahead: usize) -> io::Result<Bytes> {
        if let Some(slice) = self.buffered(offset, len) {
            return Ok(slice);
        }
        let mut buffer = vec![0; len.max(ahead)];
        let count = read_full(&*self.file, &mut buffer, offset)?;
        buffer.truncate(count);
        self.start = offset;
        self.bytes = Bytes::from(buffer);
        Ok(self.bytes.slice(..len.min(count)))
    }

    /// What is at hand from `offset` on, if that is `least` bytes or more, else what is read ahead; at most `most`.
    pub(crate) fn some(&mut self, offset: u64, least: usize, most: usize) -> io::Result<Bytes> {
        let end = self.start + self.bytes.len() as u64;
        let at_hand = end.saturating_sub(offset).min(most as u64) as usize;
        let len = if offset >= self.start && at_hand >= least { at_hand } else { most };
        self.slice(offset, len, most)
    }

    fn buffered(&self, offset: u64, len: usize) -> Option<Bytes> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store: StoreId::from_bytes([1; 16]),
            number: SegmentNumber(2),
            salt: [3; 16],
            first_commit: CommitNumber(4),
            first_arrival: Arrival(5),
            previous_end: 6,
        }
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_noticed() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header()));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn the_bytes_of_a_header_are_fixed_for_ever() {
        let golden = [
            &b"CFS1\x01\0\0\0"[..],
            &[1; 16],
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[3; 16],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            &[5, 0, 0, 0, 0, 0, 0, 0],
            &[6, 0, 0, 0, 0, 0, 0, 0],
            &[0; 4],
        ]
        .concat();
        assert_eq!(header().encode()[..CRC_OFFSET], golden);
    }

    #[test]
    fn only_the_exact_file_name_is_a_segment() {
        assert_eq!(number_of(&file_name(SegmentNumber(0xabc))), Some(SegmentNumber(0xabc)));
        for name in
            ["1.seg", "000000000000000G.seg", "0000000000000001", "+000000000000001.seg", "000000000000000A.seg"]
        {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
