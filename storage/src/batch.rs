//! Batches: 1 to n consecutive records of one log, encoded once by the writer and never re-encoded.
//!
//! A batch is the unit of checksum, hash chain, storage, replication and repair. A replica stores
//! the writer's bytes verbatim.
//!
//! # Bytes
//!
//! Little-endian. A header of [`HEADER_LEN`] bytes, then the body:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic and version, `CFB1` |
//! | 4 | 2 | flags: 0 stored as it is, 1 LZ4 (block format), 2 Zstandard; the others are reserved (seal, encryption) |
//! | 6 | 2 | zero |
//! | 8 | 16 | log id |
//! | 24 | 8 | sequence number of the first record |
//! | 32 | 8 | time of the first record (hybrid logical clock) |
//! | 40 | 4 | number of records, at least 1 |
//! | 44 | 4 | stored length of the body |
//! | 48 | 4 | raw length of the body: before it was compressed |
//! | 52 | 32 | digest of the predecessor; of the genesis for the first batch |
//! | 84 | 4 | CRC-32 of bytes 0 to 84 and the body |
//!
//! The body, decompressed, is the records, each: length of its bytes (varint), time since the record before it in
//! clock steps (varint; 0 for the first), its bytes.
//!
//! A record with [attributes](Attributes) has 2^25 added to its length, which alone never exceeds 2^24, and between the
//! time and the bytes: its kind times two, plus one if a time follows (1 byte, not 0), and that time, when it happened
//! (8 bytes, milliseconds since 1970, signed).
//!
//! # Digest
//!
//! BLAKE3 of the stored bytes, header included. A batch of at most 1024 bytes is followed by zeros up to the next
//! multiple of 64 before it is hashed: so many short ones can be hashed side by side. Its length is in its header, so no two
//! batches become the same bytes.

mod digest;
mod records;

use std::{
    fmt, mem,
    sync::{Arc, OnceLock},
};

use bytes::{Bytes, BytesMut};
pub(crate) use digest::SHORT_LEN;
pub use records::{Attributes, Body, Record, RecordKind, RecordRef, RecordRefs, Records};
use thiserror::Error;

use crate::{
    compression::Compression,
    field::Fields,
    ids::{Digest, Head, LogId, Seq},
    time::Hlc,
};

/// Length of a batch's header, in bytes.
pub const HEADER_LEN: usize = 88;

/// The longest record, in bytes: 16 MiB.
pub const MAX_RECORD_LEN: usize = 16 << 20;

/// The longest batch, header included, in bytes: a longest record with its prefix.
pub const MAX_BATCH_LEN: usize = HEADER_LEN + MAX_BODY_LEN;

const MAX_BODY_LEN: usize = MAX_RECORD_LEN + 20;
/// What a batch begins with: magic and version.
pub(crate) const BATCH_MAGIC: [u8; 4] = *b"CFB1";
const CRC_OFFSET: usize = 84;

/// What a batch's header says, apart from its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The log.
    pub log: LogId,
    /// Sequence number of the first record.
    pub first_seq: Seq,
    /// Time of the first record.
    pub time: Hlc,
    /// Number of records, at least 1.
    pub record_count: u32,
    /// Length of the body as stored, in bytes.
    pub stored_len: u32,
    /// Length of the body once decompressed, in bytes.
    pub raw_len: u32,
    /// How the body is stored.
    pub compression: Compression,
    /// Digest of the batch before; of the genesis for the first batch.
    pub previous: Digest,
}

/// Bytes are not a batch, or not the batch that was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end before the batch does, or go on after it.
    #[error("a batch of {expected} bytes was announced where {actual} are")]
    Length {
        /// Length that the header announces, header included.
        expected: usize,
        /// Length of the bytes given.
        actual: usize,
    },
    /// The header is not one of a batch of this version.
    #[error("the header of a batch is damaged or foreign: {0}")]
    Header(&'static str),
    /// The checksum does not match.
    #[error("the checksum of the batch at sequence number {first_seq} of log {log} does not match")]
    Checksum {
        /// The log that the header names; it may be what is damaged.
        log: LogId,
        /// The sequence number that the header names.
        first_seq: Seq,
    },
    /// The body is compressed in a way that this build can't read: it lacks a feature.
    #[error(
        "the batch at sequence number {first_seq} of log {log} is compressed with {compression}, which this build lacks"
    )]
    Compression {
        /// The log.
        log: LogId,
        /// Sequence number of the first record of the batch.
        first_seq: Seq,
        /// How it is compressed.
        compression: Compression,
    },
    /// The checksum matches but the records don't fit the header: a faulty or hostile writer.
    #[error("the records of the batch at sequence number {first_seq} of log {log} don't fit its header")]
    Records {
        /// The log.
        log: LogId,
        /// Sequence number of the first record of the batch.
        first_seq: Seq,
    },
}

impl BatchHeader {
    /// Length of the batch, header included, in bytes.
    pub fn batch_len(&self) -> usize {
        HEADER_LEN + self.stored_len as usize
    }

    /// Sequence number after the last record.
    pub fn next_seq(&self) -> Seq {
        Seq(self.first_seq.0 + u64::from(self.record_count))
    }

    /// Reads a header from the front of `bytes` without looking at the checksum or the body.
    ///
    /// What it says is bounded ([`MAX_BATCH_LEN`], sequence numbers that don't overflow) but not yet believed.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let mut fields =
            Fields(bytes.get(..HEADER_LEN).ok_or(BatchError::Length { expected: HEADER_LEN, actual: bytes.len() })?);
        Self::read(&mut fields).unwrap_or(Err(BatchError::Header("cut short")))
    }

    fn read(fields: &mut Fields<'_>) -> Option<Result<Self, BatchError>> {
        if fields.array()? != BATCH_MAGIC {
            return Some(Err(BatchError::Header("no magic number")));
        }
        let (flags, zero) = (fields.u16()?, fields.u16()?);
        let Some(compression) = Compression::from_flags(flags).filter(|_| zero == 0) else {
            return Some(Err(BatchError::Header("flags that this version does not know")));
        };
        let log = LogId::from_bytes(fields.array()?);
        let first_seq = Seq(fields.u64()?);
        let time = Hlc::from_bits(fields.u64()?);
        let record_count = fields.u32()?;
        let stored_len = fields.u32()?;
        let raw_len = fields.u32()?;
        let previous = Digest::from_bytes(fields.array()?);
        // Each record takes at least two bytes: one of length, one of time.
        let is_plain = compression == Compression::None;
        let is_bounded = if is_plain { stored_len == raw_len } else { stored_len < raw_len };
        if !is_bounded || raw_len as usize > MAX_BODY_LEN || record_count > raw_len / 2 {
            return Some(Err(BatchError::Header("a length is out of bounds")));
        }
        if record_count == 0 || first_seq.0.checked_add(record_count.into()).is_none() {
            return Some(Err(BatchError::Header("a sequence number is out of bounds")));
        }
        Some(Ok(Self { log, first_seq, time, record_count, stored_len, raw_len, compression, previous }))
    }

    fn encode(&self) -> [u8; CRC_OFFSET] {
        let mut out = [0; CRC_OFFSET];
        out[0..4].copy_from_slice(&BATCH_MAGIC);
        out[4..6].copy_from_slice(&self.compression.flags().to_le_bytes());
        out[8..24].copy_from_slice(self.log.as_bytes());
        out[24..32].copy_from_slice(&self.first_seq.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.time.to_bits().to_le_bytes());
        out[40..44].copy_from_slice(&self.record_count.to_le_bytes());
        out[44..48].copy_from_slice(&self.stored_len.to_le_bytes());
        out[48..52].copy_from_slice(&self.raw_len.to_le_bytes());
        out[52..84].copy_from_slice(self.previous.as_bytes());
        out
    }
}

/// A batch whose checksum has been verified. Cheap to clone: all clones share the bytes and the digest.
#[derive(Clone)]
pub struct Batch {
    /// Short batches that were written together share one allocation.
    bundle: Arc<[Content]>,
    place: u32,
}

struct Content {
    header: BatchHeader,
    /// Header and body, exactly [`BatchHeader::batch_len`] bytes.
    bytes: Bytes,
    digest: Kept<Digest>,
    last_time: Kept<Hlc>,
}

/// What is known of a batch since it was made, or found out when it is first asked for.
enum Kept<T> {
    Known(T),
    OnFirstUse(OnceLock<T>),
}

impl<T: Copy> Kept<T> {
    fn get_or_init(&self, find: impl FnOnce() -> T) -> T {
        match self {
            Self::Known(known) => *known,
            Self::OnFirstUse(cell) => *cell.get_or_init(find),
        }
    }
}

impl Batch {
    fn new(header: BatchHeader, bytes: Bytes) -> Self {
        let (digest, last_time) = (Kept::OnFirstUse(OnceLock::new()), Kept::OnFirstUse(OnceLock::new()));
        Self::of(Content { header, bytes, digest, last_time })
    }

    fn of(content: Content) -> Self {
        Self { bundle: Arc::new([content]), place: 0 }
    }

    fn content(&self) -> &Content {
        &self.bundle[self.place as usize]
    }

    /// Takes the bytes of exactly one batch and verifies its checksum.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::decode(&bytes)?;
        if header.batch_len() != bytes.len() {
            return Err(BatchError::Length { expected: header.batch_len(), actual: bytes.len() });
        }
        if stored_crc(&bytes) != crc_of(&bytes) {
            return Err(BatchError::Checksum { log: header.log, first_seq: header.first_seq });
        }
        Ok(Self::new(header, bytes))
    }

    /// What its header says.
    pub fn header(&self) -> &BatchHeader {
        &self.content().header
    }

    /// The log.
    pub fn log(&self) -> LogId {
        self.content().header.log
    }

    /// Sequence number of the first record.
    pub fn first_seq(&self) -> Seq {
        self.content().header.first_seq
    }

    /// Sequence number after the last record.
    pub fn next_seq(&self) -> Seq {
        self.content().header.next_seq()
    }

    /// Its stored bytes, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.content().bytes
    }

    /// Its memory, to be written over, if nobody else has any of it.
    pub(crate) fn into_buffer(mut self) -> Option<BytesMut> {
        let [content] = Arc::get_mut(&mut self.bundle)? else { return None };
        mem::take(&mut content.bytes).try_into_mut().ok()
    }

    /// BLAKE3 of its bytes, padded if they are short; computed on first use.
    pub fn digest(&self) -> Digest {
        let Content { bytes, digest, .. } = self.content();
        digest.get_or_init(|| digest::digest_of(bytes))
    }

    /// The time of its last record; found on first use. Of a body that can't be read, that of the first.
    pub fn last_time(&self) -> Hlc {
        self.content().last_time.get_or_init(|| {
            let body = self.body().ok();
            let last = body.and_then(|body| body.record_refs().map_while(Result::ok).last().map(|record| record.time));
            last.unwrap_or(self.header().time)
        })
    }

    /// Its digest, if that has been computed already.
    pub(crate) fn known_digest(&self) -> Option<Digest> {
        match &self.content().digest {
            Kept::Known(digest) => Some(*digest),
            Kept::OnFirstUse(digest) => digest.get().copied(),
        }
    }

    /// The head of the log once this batch is its last.
    pub fn head(&self) -> Head {
        Head { next_seq: self.next_seq(), digest: self.digest() }
    }

    /// The CRC-32 in its header.
    pub(crate) fn crc(&self) -> u32 {
        stored_crc(&self.content().bytes)
    }

    /// Its body, decompressed if need be.
    pub fn body(&self) -> Result<Body, BatchError> {
        let Content { header, bytes, .. } = self.content();
        let stored = bytes.slice(HEADER_LEN..);
        let BatchHeader { log, first_seq, compression, raw_len, .. } = *header;
        let bytes = match compression {
            Compression::None => stored,
            _ if !compression.is_available() => return Err(BatchError::Compression { log, first_seq, compression }),
            _ => {
                let raw = compression.decompress(&stored, raw_len as usize);
                raw.ok_or(BatchError::Records { log, first_seq })?.into()
            }
        };
        Ok(Body { header: *header, bytes })
    }

    /// Its records in order. Bodies share one buffer: the batch's, if it is not compressed.
    ///
    /// An item is an error where the writer's records don't fit the header; nothing follows it.
    pub fn records(&self) -> Records {
        match self.body() {
            Ok(body) => body.records(),
            Err(error) => Records::failed(&self.content().header, error),
        }
    }

    /// The record with this sequence number; `None` if it is not in this batch, or the records don't fit the header.
    pub fn record(&self, seq: Seq) -> Option<Record> {
        self.body().ok()?.record(seq)
    }

    /// Checks that the records fit the header, which the checksum alone does not say of a foreign writer.
    ///
    /// Of a body that this build can't decompress nothing is known, and nothing is said: it can be stored
    /// and passed on all the same.
    pub fn check_records(&self) -> Result<(), BatchError> {
        match self.body() {
            Ok(body) => {
                let mut last_time = self.header().time;
                body.record_refs().try_for_each(|record| record.map(|record| last_time = record.time))?;
                self.content().last_time.get_or_init(|| last_time);
                Ok(())
            }
            Err(BatchError::Compression { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("header", &self.content().header).finish_non_exhaustive()
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Batch {}

fn stored_crc(bytes: &[u8]) -> u32 {
    bytes.get(CRC_OFFSET..HEADER_LEN).and_then(|crc| crc.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn crc_of(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC_OFFSET]);
    hasher.update(&bytes[HEADER_LEN..]);
    hasher.finalize()
}

/// A batch that its writer is still filling.
///
/// Its header is written by [`seal`](Self::seal), when the predecessor's digest is known.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    /// Room for the header, then the records so far.
    buffer: Vec<u8>,
    first_time: Hlc,
    last_time: Hlc,
    record_count: u32,
    /// Of the body, once it is compressed; else the buffer tells.
    raw_len: u32,
    compression: Compression,
}

impl BatchBuilder {
    /// An empty batch with room for about `capacity` bytes of records.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { buffer: Vec::with_capacity(HEADER_LEN + capacity), ..Self::default() }
    }

    /// Forgets what it holds, but not its memory.
    pub(crate) fn restart(&mut self) {
        self.buffer.clear();
        self.record_count = 0;
        self.compression = Compression::None;
    }

    /// Appends a record without attributes.
    ///
    /// # Panics
    ///
    /// If the body is longer than [`MAX_RECORD_LEN`], the batch would become longer than
    /// [`MAX_BATCH_LEN`], or `time` is before the last record's.
    pub fn push(&mut self, time: Hlc, body: &[u8]) {
        self.push_with(time, Attributes::default(), body);
    }

    /// Appends a record with attributes; otherwise like [`push`](Self::push).
    pub fn push_with(&mut self, time: Hlc, attributes: Attributes, body: &[u8]) {
        assert!(body.len() <= MAX_RECORD_LEN, "the caller checks the length of records");
        if self.record_count == 0 {
            self.buffer.resize(HEADER_LEN, 0);
            self.first_time = time;
            self.last_time = time;
        }
        let step = time.to_bits().checked_sub(self.last_time.to_bits()).expect("time does not go back in a batch");
        attributes.write_prefix(&mut self.buffer, body.len(), step);
        self.buffer.extend_from_slice(body);
        self.last_time = time;
        self.record_count += 1;
        assert!(self.body_len() <= MAX_BODY_LEN, "the caller cuts batches");
    }

    /// Length of the records so far, in bytes.
    pub fn body_len(&self) -> usize {
        self.buffer.len().saturating_sub(HEADER_LEN)
    }

    /// Number of records so far.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Finishes the batch as the one that follows `head` in `log`.
    ///
    /// # Panics
    ///
    /// If it holds no record.
    pub fn seal(mut self, log: LogId, head: Head) -> Batch {
        let header = self.header(log, head);
        self.buffer[..CRC_OFFSET].copy_from_slice(&header.encode());
        let crc = crc_of(&self.buffer);
        self.buffer[CRC_OFFSET..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        let (digest, last_time) = (Kept::OnFirstUse(OnceLock::new()), Kept::Known(self.last_time));
        Batch::of(Content { header, bytes: Bytes::from(self.buffer), digest, last_time })
    }

    /// Room that it has, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Compresses the records, if that makes them shorter. Nothing can be appended afterwards.
    pub(crate) fn compress(&mut self, compression: Compression) {
        if self.buffer.len() > HEADER_LEN
            && let Some(compressed) = compression.compress(&self.buffer[HEADER_LEN..])
        {
            self.raw_len = self.body_len() as u32;
            self.compression = compression;
            self.buffer.truncate(HEADER_LEN);
            self.buffer.extend_from_slice(&compressed);
        }
    }

    fn header(&self, log: LogId, head: Head) -> BatchHeader {
        assert!(self.record_count > 0, "a batch has at least one record");
        let stored_len = self.body_len() as u32;
        BatchHeader {
            log,
            first_seq: head.next_seq,
            time: self.first_time,
            record_count: self.record_count,
            stored_len,
            raw_len: if self.compression == Compression::None { stored_len } else { self.raw_len },
            compression: self.compression,
            previous: head.digest,
        }
    }
}

/// Short batches being sealed that share one buffer, which is written as it is, and one allocation of what is known of
/// them: a commit of many logs' records takes few allocations then. Who keeps one of them keeps all.
#[derive(Debug, Default)]
pub(crate) struct Bundle {
    bytes: Vec<u8>,
    /// With the time of the last record.
    headers: Vec<(BatchHeader, Hlc)>,
}

impl Bundle {
    /// An empty one with room for so many batches of so many bytes in all.
    pub(crate) fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), headers: Vec::with_capacity(count) }
    }

    /// Finishes a batch as the one that follows `head` in `log`.
    pub(crate) fn seal(&mut self, builder: &BatchBuilder, log: LogId, head: Head) {
        let header = builder.header(log, head);
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&builder.buffer);
        self.bytes[begin..begin + CRC_OFFSET].copy_from_slice(&header.encode());
        self.headers.push((header, builder.last_time));
    }

    /// The batches in order, whose digests are known, and the buffer that they share.
    pub(crate) fn finish(mut self) -> (Bytes, impl Iterator<Item = Batch>) {
        // Not while they are sealed: what was just written in small parts is slow to be read in large ones.
        let mut rest = &mut self.bytes[..];
        for (header, _) in &self.headers {
            let (batch, behind) = rest.split_at_mut(header.batch_len());
            let crc = crc_of(batch);
            batch[CRC_OFFSET..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
            rest = behind;
        }
        let bytes = Bytes::from(self.bytes);
        let places = 0..self.headers.len() as u32;
        let digests = digest::digests_of(self.headers.iter().map(|(header, _)| header.batch_len()), &bytes);
        let mut offset = 0;
        let contents = self.headers.into_iter().zip(digests).map(|((header, last_time), digest)| {
            let begin = offset;
            offset += header.batch_len();
            let (digest, last_time) = (Kept::Known(digest), Kept::Known(last_time));
            Content { header, bytes: bytes.slice(begin..offset), digest, last_time }
        });
        let bundle: Arc<[Content]> = contents.collect();
        (bytes, places.map(move |place| Batch { bundle: Arc::clone(&bundle), place }))
    }
}

/// Splits the batch at the front off `buffer`, which may hold more after it.
///
/// `Ok(None)` if more bytes are needed. Lengths are bounded before anything is believed.
pub fn split_batch(buffer: &mut BytesMut) -> Result<Option<Batch>, BatchError> {
    if buffer.len() < HEADER_LEN {
        return Ok(None);
    }
    let len = BatchHeader::decode(buffer)?.batch_len();
    if buffer.len() < len {
        return Ok(None);
    }
    Batch::parse(buffer.split_to(len).freeze()).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn head() -> Head {
        Head { next_seq: Seq(5), digest: Digest::from_bytes([7; 32]) }
    }

    fn log() -> LogId {
        LogId::from_bytes([1; 16])
    }

    fn attributes() -> impl Strategy<Value = Attributes> {
        (0_u8..128, any::<Option<i64>>())
            .prop_map(|(kind, happened_unix_ms)| Attributes { kind: RecordKind::new(kind), happened_unix_ms })
    }

    fn batch_of(bodies: &[Vec<u8>]) -> Batch {
        let mut builder = BatchBuilder::with_capacity(0);
        for (index, body) in bodies.iter().enumerate() {
            builder.push(Hlc::from_bits(1000 + index as u64), body);
        }
        builder.seal(log(), head())
    }

    proptest! {
        #[test]
        fn records_read_back_from_the_stored_bytes(bodies in vec(vec(any::<u8>(), 0..300), 1..40)) {
            let batch = Batch::parse(batch_of(&bodies).bytes().clone()).unwrap();
            let read: Vec<_> = batch.records().map(|record| record.unwrap().body.to_vec()).collect();
            prop_assert_eq!(&read, &bodies);
            prop_assert_eq!(batch.next_seq(), Seq(5 + bodies.len() as u64));
            for (index, record) in batch.records().enumerate() {
                prop_assert_eq!(batch.record(Seq(5 + index as u64)), Some(record.unwrap()));
            }
            let body = batch.body().unwrap();
            let borrowed: Vec<_> = body.record_refs().map(|record| record.unwrap().body.to_vec()).collect();
            prop_assert_eq!(&borrowed, &bodies);
            prop_assert_eq!(batch.record(Seq(4)).or(batch.record(batch.next_seq())), None);
        }

        #[test]
        fn attributes_read_back_and_records_without_them_take_no_byte_more(
            records in vec((vec(any::<u8>(), 0..300), attributes(), 0_u64..1000), 1..40),
        ) {
            let (mut builder, mut time) = (BatchBuilder::with_capacity(0), Hlc::from_bits(1000));
            for (body, attributes, step) in &records {
                time = Hlc::from_bits(time.to_bits() + step);
                builder.push_with(time, *attributes, body);
            }
            let batch = Batch::parse(builder.seal(log(), head()).bytes().clone()).unwrap();
            prop_assert_eq!(batch.last_time(), time);
            let read: Vec<_> = batch.records().map(|record| record.unwrap()).collect();
            for (record, (body, attributes, _)) in read.iter().zip(&records) {
                prop_assert_eq!((&record.body[..], record.attributes), (&body[..], *attributes));
            }
            prop_assert_eq!(read.len(), records.len());
        }

        #[test]
        fn a_compressed_batch_is_verified_and_read_like_any_other(bodies in vec(vec(0_u8..9, 0..300), 1..40)) {
            for compression in [Compression::Lz4, Compression::Zstd] {
                let mut builder = BatchBuilder::with_capacity(0);
                bodies.iter().for_each(|body| builder.push(Hlc::from_bits(1000), body));
                builder.compress(compression);
                let batch = Batch::parse(builder.seal(log(), head()).bytes().clone()).unwrap();
                let read: Vec<_> = batch.records().map(|record| record.unwrap().body.to_vec()).collect();
                prop_assert_eq!(&read, &bodies);
                prop_assert!(batch.bytes().len() <= batch_of(&bodies).bytes().len());
                prop_assert!(batch.check_records().is_ok());
            }
        }

        #[test]
        fn foreign_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..400)) {
            prop_assert!(Batch::parse(bytes.into()).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_of_a_batch_is_noticed() {
        let batch = batch_of(&[b"one".to_vec(), b"two".to_vec()]);
        for bit in 0..batch.bytes().len() * 8 {
            let mut bytes = batch.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Batch::parse(bytes.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn records_that_do_not_fit_the_header_are_an_error_not_a_panic() {
        let batch = batch_of(&[b"one".to_vec(), b"two".to_vec()]);
        for (offset, value) in [(40, 1), (40, 3), (HEADER_LEN, 200), (HEADER_LEN + 1, 1), (HEADER_LEN, 2)] {
            let mut bytes = batch.bytes().to_vec();
            bytes[offset] = value;
            let crc = crc_of(&bytes);
            bytes[CRC_OFFSET..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
            let forged = Batch::parse(bytes.into()).unwrap();
            assert!(forged.check_records().is_err(), "{offset}");
        }
    }

    #[test]
    fn the_bytes_of_attributes_are_fixed_for_ever() {
        let mut builder = BatchBuilder::with_capacity(0);
        let collection = RecordKind::new(1);
        builder.push_with(Hlc::from_bits(9), Attributes { kind: collection, happened_unix_ms: None }, b"a");
        builder.push_with(Hlc::from_bits(11), Attributes { kind: collection, happened_unix_ms: Some(-2) }, b"bc");
        let batch = builder.seal(log(), head());
        let golden = *b"\x81\x80\x80\x10\x00\x02a\x82\x80\x80\x10\x02\x03\xfe\xff\xff\xff\xff\xff\xff\xffbc";
        assert_eq!(batch.bytes()[HEADER_LEN..], golden);
    }

    #[test]
    fn attributes_that_are_announced_and_empty_are_refused() {
        let mut builder = BatchBuilder::with_capacity(0);
        builder.push_with(Hlc::from_bits(9), Attributes { kind: RecordKind::new(1), happened_unix_ms: None }, b"a");
        let mut bytes = builder.seal(log(), head()).bytes().to_vec();
        bytes[HEADER_LEN + 5] = 0;
        let crc = crc_of(&bytes);
        bytes[CRC_OFFSET..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        assert!(Batch::parse(bytes.into()).unwrap().check_records().is_err());
    }

    #[test]
    fn the_bytes_of_a_batch_are_fixed_for_ever() {
        let batch = batch_of(&[b"a".to_vec(), b"bc".to_vec()]);
        let golden = [
            &b"CFB1\0\0\0\0"[..],
            &[1; 16],
            &[5, 0, 0, 0, 0, 0, 0, 0],
            &[0xe8, 3, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0],
            &[7; 32],
        ]
        .concat();
        assert_eq!(batch.bytes()[..CRC_OFFSET], golden);
        assert_eq!(batch.bytes()[HEADER_LEN..], *b"\x01\x00a\x02\x01bc");
        assert_eq!(format!("{:08x}", batch.crc()), "d1b6e873");
        assert_eq!(batch.digest().to_string(), "10e31eb9497737fd258d9c1f955384af4e1fde73d4ba362fab926bd9843431b3");
    }
}
