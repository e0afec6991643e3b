//! Where what is kept of a log begins, and the entry of a frame that says so. See the module `retention`.
//!
//! # Bytes of a floor
//!
//! Little-endian, an entry of a frame. It is written twice, like an announcement:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic and version, `CFT1` |
//! | 4 | 4 | CRC-32 of bytes 8 to 80 |
//! | 8 | 16 | log |
//! | 24 | 8 | first sequence number that is kept |
//! | 32 | 32 | digest of the batch before it, or of the genesis |
//! | 64 | 8 | bytes of the batches below it |
//! | 72 | 8 | time of the last record below it, or a later one in the log |

use bytes::Bytes;

use super::index::POSITION_MAX;
use crate::{
    field::Fields,
    ids::{Digest, Head, LogId, Seq},
    time::Hlc,
};

pub(crate) const FLOOR_MAGIC: [u8; 4] = *b"CFT1";
const FLOOR_LEN: usize = 80;
const SUMMED_OFFSET: usize = 8;

/// Where what is kept of a log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) head: Head,
    /// Bytes of all batches below it.
    pub(crate) bytes: u64,
}

impl Floor {
    /// Of a log of which everything is kept.
    pub(crate) fn of_all(origin: Head) -> Self {
        Self { head: origin, bytes: 0 }
    }
}

/// A floor as an entry of a frame.
#[derive(Debug, Clone)]
pub(crate) struct FloorEntry {
    pub(crate) log: LogId,
    pub(crate) floor: Floor,
    /// No record below the floor is younger.
    pub(crate) time: Hlc,
    bytes: Bytes,
}

impl FloorEntry {
    pub(crate) fn new(log: LogId, floor: Floor, time: Hlc) -> Self {
        let mut bytes = Vec::with_capacity(FLOOR_LEN);
        bytes.extend_from_slice(&FLOOR_MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(log.as_bytes());
        bytes.extend_from_slice(&floor.head.next_seq.0.to_le_bytes());
        bytes.extend_from_slice(floor.head.digest.as_bytes());
        bytes.extend_from_slice(&floor.bytes.to_le_bytes());
        bytes.extend_from_slice(&time.to_bits().to_le_bytes());
        let crc = crc32fast::hash(&bytes[SUMMED_OFFSET..]);
        bytes[4..SUMMED_OFFSET].copy_from_slice(&crc.to_le_bytes());
        Self { log, floor, time, bytes: bytes.into() }
    }

    /// Its stored bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn crc(&self) -> u32 {
        crc32fast::hash(&self.bytes[SUMMED_OFFSET..])
    }

    /// Splits an entry off the front of `bytes`, verifying its checksum.
    pub(crate) fn split(bytes: &mut Bytes) -> Result<Self, &'static str> {
        let entry = bytes.get(..FLOOR_LEN).and_then(Self::decode).ok_or("a floor is damaged")?;
        *bytes = bytes.slice(FLOOR_LEN..);
        Ok(entry)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let magic: [u8; 4] = fields.array()?;
        if magic != FLOOR_MAGIC || fields.u32()? != crc32fast::hash(fields.0) {
            return None;
        }
        let log = LogId::from_bytes(fields.array()?);
        let next_seq = Seq(fields.u64().filter(|seq| *seq < POSITION_MAX)?);
        let digest = Digest::from_bytes(fields.array()?);
        let below = fields.u64().filter(|bytes| *bytes < POSITION_MAX)?;
        let time = Hlc::from_bits(fields.u64()?);
        let floor = Floor { head: Head { next_seq, digest }, bytes: below };
        Some(Self { log, floor, time, bytes: Bytes::copy_from_slice(bytes) })
    }
}
