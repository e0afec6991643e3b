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
//! | 32 | 4 | CRC-32 of the segment's salt and bytes 0 to 36, these four zero |
//! | 36 | 4 | CRC-32 of the salt, bytes 0 to 36, the table, and the entries' own CRCs |
//!
//! Then, unless there are no entries, a table: for each entry its length (4; the four highest bits say what it is:
//! 0 a batch, 1 a rewritten batch that keeps its arrival number, 2 one that takes a new number, 3 a floor,
//! 8 an announcement),
//! and a CRC-32 (4) of the salt and the table. So where entries begin is told by bytes that no
//! writer of records has a say in, and the salt, which nobody but this store knows, keeps what is written in
//! records from passing for a frame.
//!
//! Then the entries, each with a checksum of its own so that nothing is summed twice: batches
//! (see the batch module), rewritten batches (see the module `rewrite`), floors (see the module `retention`) and announcements of logs:
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

use super::{
    floor::{FLOOR_MAGIC, FloorEntry},
    rewrite::{REWRITTEN_HEADER_LEN, REWRITTEN_MAGIC, Rewritten},
    segment::Salt,
};
use crate::{
    batch::{BATCH_MAGIC, Batch, BatchHeader, HEADER_LEN},
    field::Fields,
    genesis::{Genesis, MAX_GENESIS_LEN},
    ids::{Arrival, CommitNumber},
};

/// Length of a frame's header, in bytes.
pub(crate) const FRAME_HEADER_LEN: usize = 40;

/// The longest frame, in bytes: bounds what is read before a checksum is known to match.
pub(crate) const MAX_FRAME_LEN: usize = 160 << 20;

/// No commit's frame is shorter: what stands in fewer bytes are marks. All that is no batch is written twice.
pub(crate) const COMMIT_LEN_MIN: usize = FRAME_HEADER_LEN + 8 + HEADER_LEN;

/// Frames begin at multiples of this.
pub(crate) const FRAME_ALIGNMENT: u64 = 8;

const MAGIC: [u8; 4] = *b"CFF1";
pub(crate) const ANNOUNCEMENT_MAGIC: [u8; 4] = *b"CFA1";
const ANNOUNCEMENT_HEADER_LEN: usize = 12;
const HEADER_CRC_OFFSET: usize = 32;
const CRC_OFFSET: usize = 36;

/// In the table of lengths: the bits below those that say what the entry is. No frame is as long.
const ENTRY_LEN_MASK: u32 = (1 << ENTRY_KIND_SHIFT) - 1;
const ENTRY_KIND_SHIFT: u32 = 28;
const _: () = assert!(MAX_FRAME_LEN <= ENTRY_LEN_MASK as usize);

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
    /// A batch that belongs elsewhere in its log, see the module `rewrite`.
    Rewritten(Box<Rewritten>),
    /// Where what is kept of a log begins.
    Floor(Box<FloorEntry>),
    Lost(Lost),
}

/// What an entry is, as the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Batch,
    /// A rewritten batch that keeps its arrival number.
    Relocated,
    /// A rewritten batch that takes a new arrival number.
    Restored,
    Floor,
    Announcement,
}

impl EntryKind {
    fn code(self) -> u32 {
        match self {
            Self::Batch => 0,
            Self::Relocated => 1,
            Self::Restored => 2,
            Self::Floor => 3,
            Self::Announcement => 8,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        let all = [Self::Batch, Self::Relocated, Self::Restored, Self::Floor, Self::Announcement];
        all.into_iter().find(|kind| kind.code() == code)
    }

    /// Whether it takes an arrival number.
    fn takes_arrival(self) -> bool {
        matches!(self, Self::Batch | Self::Restored)
    }
}

/// An entry that is damaged, in a frame of which the rest is whole.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) bytes: Bytes,
    pub(crate) kind: EntryKind,
}

impl Lost {
    /// The header of the batch that it was, as far as it can be told.
    pub(crate) fn header(&self) -> Option<BatchHeader> {
        let bytes = match self.kind {
            EntryKind::Batch => &self.bytes,
            EntryKind::Relocated | EntryKind::Restored => self.bytes.get(REWRITTEN_HEADER_LEN..)?,
            EntryKind::Floor | EntryKind::Announcement => return None,
        };
        BatchHeader::decode(bytes).ok()
    }
}

impl FrameEntry {
    /// Its stored bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Self::Announcement(announcement) => &announcement.bytes,
            Self::Batch(batch) => batch.bytes(),
            Self::Rewritten(rewritten) => rewritten.bytes(),
            Self::Floor(floor) => floor.bytes(),
            Self::Lost(lost) => &lost.bytes,
        }
    }

    /// The batch that it is, in its place or rewritten.
    pub(crate) fn batch(&self) -> Option<&Batch> {
        match self {
            Self::Batch(batch) => Some(batch),
            Self::Rewritten(rewritten) => Some(rewritten.batch()),
            Self::Announcement(_) | Self::Floor(_) | Self::Lost(_) => None,
        }
    }

    /// What it is, or was.
    pub(crate) fn kind(&self) -> EntryKind {
        match self {
            Self::Announcement(_) => EntryKind::Announcement,
            Self::Batch(_) => EntryKind::Batch,
            Self::Rewritten(rewritten) if rewritten.kept_arrival().is_some() => EntryKind::Relocated,
            Self::Rewritten(_) => EntryKind::Restored,
            Self::Floor(_) => EntryKind::Floor,
            Self::Lost(lost) => lost.kind,
        }
    }

    /// Whether it takes an arrival number.
    pub(crate) fn takes_arrival(&self) -> bool {
        self.kind().takes_arrival()
    }

    fn crc(&self) -> u32 {
        match self {
            Self::Announcement(announcement) => announcement.crc(),
            Self::Batch(batch) => batch.crc(),
            Self::Rewritten(rewritten) => rewritten.crc(),
            Self::Floor(floor) => floor.crc(),
            // Frames with lost entries are never written.
            Self::Lost(_) => 0,
        }
    }

    /// Whether `bytes` begin as an entry does.
    pub(crate) fn begins(bytes: &[u8]) -> bool {
        [BATCH_MAGIC, ANNOUNCEMENT_MAGIC, REWRITTEN_MAGIC, FLOOR_MAGIC].iter().any(|magic| bytes.starts_with(magic))
    }

    /// Splits an entry off the front of `bytes`, verifying its checksum.
    pub(crate) fn split(bytes: &mut Bytes) -> Result<Self, &'static str> {
        if bytes.starts_with(&ANNOUNCEMENT_MAGIC) {
            return split_announcement(bytes).map(Box::new).map(Self::Announcement);
        }
        if bytes.starts_with(&REWRITTEN_MAGIC) {
            return Rewritten::split(bytes).map(Box::new).map(Self::Rewritten);
        }
        if bytes.starts_with(&FLOOR_MAGIC) {
            return FloorEntry::split(bytes).map(Box::new).map(Self::Floor);
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

/// What the table says of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableRow {
    pub(crate) len: usize,
    pub(crate) kind: EntryKind,
}

impl TableRow {
    fn of(entry: &FrameEntry) -> Self {
        Self { len: entry.bytes().len(), kind: entry.kind() }
    }

    fn encode(self) -> [u8; 4] {
        (self.len as u32 | self.kind.code() << ENTRY_KIND_SHIFT).to_le_bytes()
    }

    /// `None` if it says what no version of this knows: the table is taken for damaged then.
    fn decode(bytes: [u8; 4]) -> Option<Self> {
        let word = u32::from_le_bytes(bytes);
        let kind = EntryKind::from_code(word >> ENTRY_KIND_SHIFT)?;
        Some(Self { len: (word & ENTRY_LEN_MASK) as usize, kind })
    }
}

/// Where the entries begin in a frame that has `count`.
pub(crate) fn entries_offset(count: usize) -> usize {
    FRAME_HEADER_LEN + if count == 0 { 0 } else { 4 * count + 4 }
}

/// The table at the front of a frame's bytes that has `count` rows; `None` if it is damaged.
pub(crate) fn read_table(bytes: &[u8], count: usize, salt: &Salt) -> Option<Vec<TableRow>> {
    let table = bytes.get(FRAME_HEADER_LEN..entries_offset(count))?;
    let Some((rows, crc)) = table.split_last_chunk::<4>() else { return Some(Vec::new()) };
    if salted_crc(salt, &[rows]) == u32::from_le_bytes(*crc) { rows_of(rows) } else { None }
}

/// The same where the header, which says how many rows there are, is damaged.
pub(crate) fn find_table(bytes: &[u8], salt: &Salt) -> Option<Vec<TableRow>> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(salt);
    let words = bytes.get(FRAME_HEADER_LEN..)?;
    for count in 1..words.len() / 4 {
        hasher.update(&words[4 * count - 4..4 * count]);
        if hasher.clone().finalize().to_le_bytes() == words[4 * count..4 * count + 4] {
            return rows_of(&words[..4 * count]);
        }
    }
    None
}

fn rows_of(bytes: &[u8]) -> Option<Vec<TableRow>> {
    bytes.as_chunks().0.iter().map(|word| TableRow::decode(*word)).collect()
}

fn salted_crc(salt: &Salt, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(salt);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// The sums at the front of a commit's frame that take in the salt: of its header, of the whole frame, of its table.
pub(crate) fn salted_sums(front: &[u8]) -> [&[u8]; 3] {
    [HEADER_CRC_OFFSET, CRC_OFFSET, front.len() - 4].map(|at| &front[at..at + 4])
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
    /// Of the fields before.
    header_crc: u32,
    crc: u32,
}

impl FrameHeader {
    /// The header of a frame with these entries, and all that stands before them: it and the table.
    pub(crate) fn new(
        kind: FrameKind,
        commit: CommitNumber,
        first_arrival: Arrival,
        entries: &[FrameEntry],
        salt: &Salt,
    ) -> (Self, Vec<u8>) {
        let len = frame_len(entries);
        assert!(len <= MAX_FRAME_LEN, "the queue's bound keeps frames below their limit");
        let entry_count = entries.len() as u32;
        let mut header = Self { kind, len: len as u32, entry_count, commit, first_arrival, header_crc: 0, crc: 0 };
        header.header_crc = salted_crc(salt, &[&header.encode()[..CRC_OFFSET]]);
        let mut front = Vec::with_capacity(entries_offset(entries.len()));
        front.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        entries.iter().for_each(|entry| front.extend_from_slice(&TableRow::of(entry).encode()));
        if !entries.is_empty() {
            let crc = salted_crc(salt, &[&front[FRAME_HEADER_LEN..]]);
            front.extend_from_slice(&crc.to_le_bytes());
        }
        header.crc = header.crc_of(&front[FRAME_HEADER_LEN..], entries, salt);
        front[..FRAME_HEADER_LEN].copy_from_slice(&header.encode());
        (header, front)
    }

    fn crc_of(&self, table: &[u8], entries: &[FrameEntry], salt: &Salt) -> u32 {
        let mut crcs = Vec::with_capacity(entries.len() * 4);
        entries.iter().for_each(|entry| crcs.extend_from_slice(&entry.crc().to_le_bytes()));
        salted_crc(salt, &[&self.encode()[..CRC_OFFSET], table, &crcs])
    }

    fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0; FRAME_HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.kind.code().to_le_bytes());
        out[8..12].copy_from_slice(&self.len.to_le_bytes());
        out[12..16].copy_from_slice(&self.entry_count.to_le_bytes());
        out[16..24].copy_from_slice(&self.commit.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_arrival.0.to_le_bytes());
        out[HEADER_CRC_OFFSET..CRC_OFFSET].copy_from_slice(&self.header_crc.to_le_bytes());
        out[CRC_OFFSET..].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    /// Whether these bytes may have been the header of the frame of `commit` before something befell them.
    pub(crate) fn resembles(bytes: &[u8], commit: CommitNumber) -> bool {
        let is_blank = bytes.iter().take(FRAME_HEADER_LEN).all(|byte| *byte == 0);
        is_blank || bytes.starts_with(&MAGIC) || bytes.get(16..24) == Some(&commit.0.to_le_bytes()[..])
    }

    /// Reads a header; `None` if these bytes are none of this segment's. The lengths are bounded.
    pub(crate) fn decode(bytes: &[u8], salt: &Salt) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.array()? != MAGIC {
            return None;
        }
        let kind = FrameKind::from_code(fields.u32()?)?;
        let len = fields.u32()?;
        let entry_count = fields.u32()?;
        let commit = CommitNumber(fields.u64()?);
        let first_arrival = Arrival(fields.u64()?);
        let header_crc = fields.u32()?;
        let crc = fields.u32()?;
        let header = Self { kind, len, entry_count, commit, first_arrival, header_crc, crc };
        let unsummed = Self { header_crc: 0, ..header };
        let is_whole = salted_crc(salt, &[&unsummed.encode()[..CRC_OFFSET]]) == header_crc;
        let bounded = len as usize <= MAX_FRAME_LEN
            && commit.0 < u64::MAX
            && first_arrival.0.checked_add(entry_count.into()).is_some()
            && u64::from(len) >= FRAME_HEADER_LEN as u64 + 4 * u64::from(entry_count);
        let is_empty = len as usize == FRAME_HEADER_LEN && entry_count == 0;
        (is_whole && bounded && (kind == FrameKind::Commit) != is_empty).then_some(header)
    }

    /// Where the entries begin, in bytes from the start of the frame.
    pub(crate) fn entries_offset(&self) -> usize {
        entries_offset(self.entry_count as usize)
    }
}

/// The length of a frame with these entries, in bytes.
pub(crate) fn frame_len(entries: &[FrameEntry]) -> usize {
    entries_offset(entries.len()) + entries.iter().map(|entry| entry.bytes().len()).sum::<usize>()
}

/// A frame whose checksums have all been verified, apart from entries that are lost.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) entries: Vec<FrameEntry>,
}

impl Frame {
    /// Takes exactly the bytes of one frame.
    pub(crate) fn parse(header: FrameHeader, bytes: &Bytes, salt: &Salt) -> Result<Self, &'static str> {
        if bytes.len() != header.len as usize {
            return Err("a frame is cut short");
        }
        let count = header.entry_count as usize;
        let table = read_table(bytes, count, salt).ok_or("the checksum of a frame's table does not match")?;
        let mut rest = bytes.slice(header.entries_offset()..);
        let mut entries = Vec::with_capacity(count);
        for row in table {
            let entry = FrameEntry::split(&mut rest)?;
            if TableRow::of(&entry) != row {
                return Err("an entry has another length than its frame says");
            }
            entries.push(entry);
        }
        if !rest.is_empty() {
            return Err("a frame is longer than its entries");
        }
        let table = &bytes[FRAME_HEADER_LEN..header.entries_offset()];
        if header.crc_of(table, &entries, salt) != header.crc {
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
        let rewritten = [Rewritten::relocated(batch.clone(), Arrival(2)), Rewritten::restored(batch.clone())];
        let mut entries =
            vec![FrameEntry::Announcement(Box::new(Announcement::new(genesis))), FrameEntry::Batch(batch)];
        entries.extend(rewritten.map(Box::new).map(FrameEntry::Rewritten));
        entries
    }

    fn frame_bytes() -> Vec<u8> {
        let entries = entries();
        let (_, mut bytes) = FrameHeader::new(FrameKind::Commit, CommitNumber(3), Arrival(9), &entries, &SALT);
        entries.iter().for_each(|entry| bytes.extend_from_slice(entry.bytes()));
        bytes
    }

    fn parse(bytes: &[u8], salt: &Salt) -> Option<Frame> {
        Frame::parse(FrameHeader::decode(bytes, salt)?, &Bytes::copy_from_slice(bytes), salt).ok()
    }

    #[test]
    fn a_frame_reads_back_and_every_flipped_bit_is_noticed() {
        let bytes = frame_bytes();
        let frame = parse(&bytes, &SALT).unwrap();
        assert_eq!(frame.header.commit, CommitNumber(3));
        assert_eq!(frame.entries.len(), 4);
        assert_eq!(frame.batch_count(), 2, "one that is relocated takes no number");
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
        let golden =
            [&b"CFF1\0\0\0\0"[..], &[0xae, 1, 0, 0, 4, 0, 0, 0], &[3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]]
                .concat();
        assert_eq!(bytes[..HEADER_CRC_OFFSET], golden);
        assert_eq!(bytes[FRAME_HEADER_LEN..][..16], *b"\x30\0\0\x80\x5e\0\0\0\x72\0\0\x10\x72\0\0\x20");
        assert_eq!(bytes[FRAME_HEADER_LEN + 20..][..8], *b"CFA1\x24\0\0\0");
        assert_eq!(Digest::of(&bytes).to_string(), "dd65661cf566e59d941d0d736c6d578d443dc9a91909cd5653b55d6a1952946a");
    }

    use crate::ids::Digest;
}
