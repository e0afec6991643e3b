//! Frames: what one commit wrote.
//!
//! # Bytes
//!
//! Little-endian. A frame begins at an offset divisible by 8; the bytes between frames are zero.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic and version, `CFF1` |
//! | 4 | 4 | kind: 0 commit, 1 mark, 2 closing mark |
//! | 8 | 4 | length of the frame, this header included |
//! | 12 | 4 | number of entries |
//! | 16 | 8 | commit number |
//! | 24 | 8 | arrival number of the first batch |
//! | 32 | 4 | zero |
//! | 36 | 4 | CRC-32 of the segment's salt, bytes 0 to 36, and the entries' own CRCs |
//!
//! Then the entries, each with a checksum of its own so that nothing is summed twice: batches
//! (see the batch module) and announcements of logs:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic and version, `CFA1` |
//! | 4 | 4 | length of the genesis |
//! | 8 | 4 | CRC-32 of bytes 0 to 8 and the genesis |
//! | 12 | n | the genesis |
//!
//! An announcement is written twice, one right after the other: without it nothing of the log can be served.
//!
//! Frame n+1 is written only after the flush of frame n has returned, so a valid frame proves all
//! frames before it durable. A mark is a frame without entries whose only purpose is that proof.

use bytes::Bytes;

use super::segment::Salt;
use crate::{
    batch::{self, Batch, BatchHeader},
    field::Fields,
    genesis::{Genesis, MAX_GENESIS_LEN},
    ids::{Arrival, CommitNumber},
};

/// Length of a frame's header, in bytes.
pub(crate) const FRAME_HEADER_LEN: usize = 40;

/// The longest frame, in bytes: bounds what is read before a checksum is known to match.
pub(crate) const MAX_FRAME_LEN: usize = 160 << 20;

/// Frames begin at multiples of this.
pub(crate) const FRAME_ALIGNMENT: u64 = 8;

const MAGIC: [u8; 4] = *b"CFF1";
pub(crate) const ANNOUNCEMENT_MAGIC: [u8; 4] = *b"CFA1";
const ANNOUNCEMENT_HEADER_LEN: usize = 12;
const CRC_OFFSET: usize = 36;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Holds what one commit made durable.
    Commit,
    /// Proves the frame before it.
    Mark,
    /// The same, and the store was closed after it.
    ClosingMark,
}

impl FrameKind {
    fn code(self) -> u32 {
        match self {
            Self::Commit => 0,
            Self::Mark => 1,
            Self::ClosingMark => 2,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        [Self::Commit, Self::Mark, Self::ClosingMark].into_iter().find(|kind| kind.code() == code)
    }
}

/// A log made known: its genesis with the bytes that are stored.
#[derive(Debug, Clone)]
pub(crate) struct Announcement {
    pub(crate) genesis: Genesis,
    bytes: Bytes,
}

impl Announcement {
    pub(crate) fn new(genesis: Genesis) -> Self {
        let encoded = genesis.encode();
        let mut bytes = Vec::with_capacity(ANNOUNCEMENT_HEADER_LEN + encoded.len());
        bytes.extend_from_slice(&ANNOUNCEMENT_MAGIC);
        bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        let crc = announcement_crc(&bytes, &encoded);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&encoded);
        Self { genesis, bytes: bytes.into() }
    }

    /// Length of its stored bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn crc(&self) -> u32 {
        announcement_crc(&self.bytes[..8], &self.bytes[ANNOUNCEMENT_HEADER_LEN..])
    }
}

fn announcement_crc(header: &[u8], genesis: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(genesis);
    hasher.finalize()
}

/// One entry of a frame.
#[derive(Debug, Clone)]
pub(crate) enum FrameEntry {
    Announcement(Box<Announcement>),
    Batch(Batch),
    Lost(Lost),
}

/// An entry that is damaged, in a frame of which the rest is whole.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) bytes: Bytes,
    /// It was a batch.
    pub(crate) takes_arrival: bool,
}

impl Lost {
    /// The checksums that it may have borne: the one that it says, and the one of what it is now.
    fn possible_crcs(&self) -> [Option<u32>; 2] {
        if self.takes_arrival {
            batch::possible_crcs(&self.bytes)
        } else {
            let said = self.bytes.get(8..ANNOUNCEMENT_HEADER_LEN).and_then(|crc| crc.try_into().ok());
            let parts = self.bytes.split_at_checked(ANNOUNCEMENT_HEADER_LEN);
            [said.map(u32::from_le_bytes), parts.map(|(header, genesis)| announcement_crc(&header[..8], genesis))]
        }
    }
}

impl FrameEntry {
    /// Its stored bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Self::Announcement(announcement) => &announcement.bytes,
            Self::Batch(batch) => batch.bytes(),
            Self::Lost(lost) => &lost.bytes,
        }
    }

    /// Whether it takes an arrival number.
    pub(crate) fn takes_arrival(&self) -> bool {
        match self {
            Self::Announcement(_) => false,
            Self::Batch(_) => true,
            Self::Lost(lost) => lost.takes_arrival,
        }
    }

    fn crc(&self) -> u32 {
        match self {
            Self::Announcement(announcement) => announcement.crc(),
            Self::Batch(batch) => batch.crc(),
            Self::Lost(lost) => lost.possible_crcs()[0].unwrap_or_default(),
        }
    }

    /// Splits an entry off the front of `bytes`, verifying its checksum.
    pub(crate) fn split(bytes: &mut Bytes) -> Result<Self, &'static str> {
        if bytes.starts_with(&ANNOUNCEMENT_MAGIC) {
            return split_announcement(bytes).map(Box::new).map(Self::Announcement);
        }
        let len =
            BatchHeader::decode(bytes).map_err(|_| "an entry is neither a batch nor an announcement")?.batch_len();
        if len > bytes.len() {
            return Err("a batch is cut short");
        }
        Batch::parse(bytes.split_to(len)).map(Self::Batch).map_err(|_| "the checksum of a batch does not match")
    }
}

fn split_announcement(bytes: &mut Bytes) -> Result<Announcement, &'static str> {
    let mut fields = Fields(bytes);
    let header = fields.array::<8>().ok_or("an announcement is cut short")?;
    let crc = fields.u32().ok_or("an announcement is cut short")?;
    let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if len > MAX_GENESIS_LEN {
        return Err("an announcement is too long");
    }
    let encoded = fields.bytes(len).ok_or("an announcement is cut short")?;
    if announcement_crc(&header, encoded) != crc {
        return Err("the checksum of an announcement does not match");
    }
    let genesis = Genesis::decode(encoded).map_err(|_| "an announcement holds no genesis")?;
    let bytes = bytes.split_to(ANNOUNCEMENT_HEADER_LEN + len);
    Ok(Announcement { genesis, bytes })
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    /// Length of the frame, header included, in bytes.
    pub(crate) len: u32,
    pub(crate) entry_count: u32,
    pub(crate) commit: CommitNumber,
    pub(crate) first_arrival: Arrival,
    crc: u32,
}

impl FrameHeader {
    /// The header of a frame with these entries.
    pub(crate) fn new(
        kind: FrameKind,
        commit: CommitNumber,
        first_arrival: Arrival,
        entries: &[FrameEntry],
        salt: &Salt,
    ) -> Self {
        let len = FRAME_HEADER_LEN + entries.iter().map(|entry| entry.bytes().len()).sum::<usize>();
        assert!(len <= MAX_FRAME_LEN, "the queue's bound keeps frames below their limit");
        let mut header =
            Self { kind, len: len as u32, entry_count: entries.len() as u32, commit, first_arrival, crc: 0 };
        let crcs: Vec<_> = entries.iter().map(FrameEntry::crc).collect();
        header.crc = header.crc_of(&crcs, salt);
        header
    }

    fn crc_of(&self, entry_crcs: &[u32], salt: &Salt) -> u32 {
        let mut bytes = Vec::with_capacity(entry_crcs.len() * 4);
        entry_crcs.iter().for_each(|crc| bytes.extend_from_slice(&crc.to_le_bytes()));
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(salt);
        hasher.update(&self.encode()[..CRC_OFFSET]);
        hasher.update(&bytes);
        hasher.finalize()
    }

    /// Whether the checksum covers these entries, of which one may be lost.
    pub(crate) fn matches(&self, entries: &[FrameEntry], salt: &Salt) -> bool {
        let lost = entries.iter().enumerate().find_map(|(index, entry)| match entry {
            FrameEntry::Lost(lost) => Some((index, lost)),
            _ => None,
        });
        if entries.len() != self.entry_count as usize {
            return false;
        }
        let mut crcs: Vec<_> = entries.iter().map(FrameEntry::crc).collect();
        match lost {
            None => self.crc_of(&crcs, salt) == self.crc,
            Some((index, lost)) => lost.possible_crcs().into_iter().flatten().any(|crc| {
                crcs[index] = crc;
                self.crc_of(&crcs, salt) == self.crc
            }),
        }
    }

    pub(crate) fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0; FRAME_HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.kind.code().to_le_bytes());
        out[8..12].copy_from_slice(&self.len.to_le_bytes());
        out[12..16].copy_from_slice(&self.entry_count.to_le_bytes());
        out[16..24].copy_from_slice(&self.commit.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_arrival.0.to_le_bytes());
        out[CRC_OFFSET..].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    /// Whether these bytes may have been the header of the frame of `commit` before something befell them.
    pub(crate) fn resembles(bytes: &[u8], commit: CommitNumber) -> bool {
        bytes.starts_with(&MAGIC) || bytes.get(16..24) == Some(&commit.0.to_le_bytes()[..])
    }

    /// Reads a header; `None` if these bytes can't be one. The length is bounded, nothing else is believed yet.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.array()? != MAGIC {
            return None;
        }
        let kind = FrameKind::from_code(fields.u32()?)?;
        let len = fields.u32()?;
        let entry_count = fields.u32()?;
        let commit = CommitNumber(fields.u64()?);
        let first_arrival = Arrival(fields.u64()?);
        let zero = fields.u32()?;
        let crc = fields.u32()?;
        let bounded = (FRAME_HEADER_LEN..=MAX_FRAME_LEN).contains(&(len as usize));
        let empty = len as usize == FRAME_HEADER_LEN && entry_count == 0;
        let plausible = bounded && zero == 0 && (kind == FrameKind::Commit) != empty;
        plausible.then_some(Self { kind, len, entry_count, commit, first_arrival, crc })
    }
}

/// A frame whose checksums have all been verified.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) entries: Vec<FrameEntry>,
}

impl Frame {
    /// Takes exactly the bytes of one frame.
    pub(crate) fn parse(header: FrameHeader, mut bytes: Bytes, salt: &Salt) -> Result<Self, &'static str> {
        if bytes.len() != header.len as usize {
            return Err("a frame is cut short");
        }
        let mut entries = Vec::new();
        bytes = bytes.slice(FRAME_HEADER_LEN..);
        while !bytes.is_empty() {
            entries.push(FrameEntry::split(&mut bytes)?);
        }
        if entries.len() != header.entry_count as usize {
            return Err("a frame has another number of entries than its header says");
        }
        if !header.matches(&entries, salt) {
            return Err("the checksum of a frame does not match");
        }
        Ok(Self { header, entries })
    }
}

/// The first offset at or after `offset` where a frame may begin.
pub(crate) fn align(offset: u64) -> u64 {
    offset.next_multiple_of(FRAME_ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::BatchBuilder,
        ids::{NodeName, SpaceName},
        time::Hlc,
    };

    const SALT: Salt = [0x5a; 16];

    fn entries() -> Vec<FrameEntry> {
        let genesis = Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("n").unwrap(), [1; 16]);
        let mut builder = BatchBuilder::with_capacity(16);
        builder.push(Hlc::from_bits(7), b"body");
        let batch = builder.seal(genesis.log_id(), genesis.head());
        vec![FrameEntry::Announcement(Box::new(Announcement::new(genesis))), FrameEntry::Batch(batch)]
    }

    fn frame_bytes() -> Vec<u8> {
        let entries = entries();
        let header = FrameHeader::new(FrameKind::Commit, CommitNumber(3), Arrival(9), &entries, &SALT);
        let mut bytes = header.encode().to_vec();
        entries.iter().for_each(|entry| bytes.extend_from_slice(entry.bytes()));
        bytes
    }

    fn parse(bytes: &[u8], salt: &Salt) -> Option<Frame> {
        Frame::parse(FrameHeader::decode(bytes)?, Bytes::copy_from_slice(bytes), salt).ok()
    }

    #[test]
    fn a_frame_reads_back_and_every_flipped_bit_is_noticed() {
        let bytes = frame_bytes();
        let frame = parse(&bytes, &SALT).unwrap();
        assert_eq!(frame.header.commit, CommitNumber(3));
        assert_eq!(frame.entries.len(), 2);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bytes, &SALT).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_segment_does_not_pass() {
        assert!(parse(&frame_bytes(), &[0; 16]).is_none());
    }

    #[test]
    fn the_bytes_of_a_frame_are_fixed_for_ever() {
        let bytes = frame_bytes();
        let golden = [
            &b"CFF1\0\0\0\0"[..],
            &[0xb6, 0, 0, 0, 2, 0, 0, 0],
            &[3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes[..CRC_OFFSET], golden);
        assert_eq!(bytes[FRAME_HEADER_LEN..][..8], *b"CFA1\x24\0\0\0");
        assert_eq!(Digest::of(&bytes).to_string(), "d929ed488724525de27b3758e5bbcd09897d66628d5d0cb085c17d4e0ce41f4e");
    }

    use crate::ids::Digest;
}
