//! Messages to bytes and back.
//!
//! # Bytes
//!
//! | bytes | field |
//! |---|---|
//! | 4 | length of what follows, little-endian |
//! | 1 | kind: 0 control message, 1 batch, 3 batch that mends; 2 says that all further bytes are [compressed](MessageWriter) |
//! | n | the control message in bincode 1.3 (little-endian, variable-length integers), or the batch verbatim |
//!
//! A length beyond the limit of its kind is refused when the five bytes of the prefix are there, before
//! anything is allocated for it. Lists inside control messages are bounded besides.
//!
//! A control message ends where its fields do. `Hello` alone may go on: a later version of the protocol adds to it only at
//! its end, and who does not know what that is still learns which versions the other end speaks.

mod connection;

use bincode::Options;
use bytes::{Buf, BufMut, BytesMut};
use counterfoil_storage::{Batch, BatchError, HEADER_LEN, MAX_BATCH_LEN, MAX_GENESIS_LEN, MAX_NAME_LEN};
use thiserror::Error;

pub(crate) use self::connection::TAKES_ZSTD;
pub use self::connection::{MessageReader, MessageWriter, WINDOW_BYTES};
use crate::message::{Differing, Message, VIA_MAX, Wanted};

/// The longest control message, in bytes.
pub const CONTROL_LEN_MAX: usize = 128 << 10;
/// The most heads in one message.
pub const HEADS_MAX: usize = 1024;
/// The most cells of a sketch, and the most logs that one tells to differ, in one message.
pub const CELLS_MAX: usize = 4096;
/// The most numbers of an estimate.
pub const COUNTERS_MAX: usize = 64;
/// The most frontiers in one heartbeat.
pub const FRONTIERS_MAX: usize = 256;

/// Length of the prefix of each message, in bytes.
pub const PREFIX_LEN: usize = 5;

const KIND_CONTROL: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_COMPRESSED: u8 = 2;
const KIND_MEND_BATCH: u8 = 3;

/// How a `Hello` begins, in every version of the protocol.
const HELLO: u8 = 0;

// A head takes at most 16 + 9 + 32 bytes, a frontier at most a name, its length and 16 bytes.
const _: () = assert!(HEADS_MAX * 64 + FRONTIERS_MAX * (MAX_NAME_LEN + 32) + 64 <= CONTROL_LEN_MAX);
const _: () = assert!(MAX_GENESIS_LEN + 128 <= CONTROL_LEN_MAX);
const _: () = assert!(CELLS_MAX * 24 + MAX_NAME_LEN + 64 <= CONTROL_LEN_MAX);

/// Bytes are not a message. The connection they came from can't be used further.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The length announced is out of bounds.
    #[error("a message of {len_bytes} bytes was announced, the limit is {limit_bytes}")]
    Length {
        /// What was announced.
        len_bytes: u64,
        /// The limit for its kind.
        limit_bytes: u64,
    },
    /// The kind is unknown.
    #[error("a message of unknown kind {0} was announced")]
    Kind(u8),
    /// The bytes of a control message don't decode.
    #[error("a control message does not decode")]
    Control,
    /// A list in a control message is too long.
    #[error("a list of {count} was sent, the limit is {limit}")]
    List {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// Compressed bytes don't decompress, or what they need is beyond the limits.
    #[error("compressed bytes don't decompress")]
    Compressed,
    /// The bytes of a batch are none.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(CONTROL_LEN_MAX as u64)
}

/// Appends a message to `out`.
///
/// # Panics
///
/// If the message breaks a bound of its type's docs, which is its maker's mistake.
pub fn encode(message: &Message, out: &mut BytesMut) {
    match message {
        Message::Batch(batch) => encode_batch(KIND_BATCH, batch, out),
        Message::MendBatch(batch) => encode_batch(KIND_MEND_BATCH, batch, out),
        Message::DamagedBatch { .. } | Message::DamagedMendBatch { .. } => panic!("a damaged batch is never sent"),
        control => {
            let start = out.len();
            out.put_u32_le(0);
            out.put_u8(KIND_CONTROL);
            options()
                .serialize_into((&mut *out).writer(), control)
                .expect("a session keeps its messages within bounds");
            let len = (out.len() - start - 4) as u32;
            out[start..start + 4].copy_from_slice(&len.to_le_bytes());
        }
    }
}

fn encode_batch(kind: u8, batch: &Batch, out: &mut BytesMut) {
    let bytes = batch.bytes();
    out.reserve(PREFIX_LEN + bytes.len());
    out.put_u32_le(bytes.len() as u32 + 1);
    out.put_u8(kind);
    out.put_slice(bytes);
}

/// Takes the message at the front of `buffer`, which may hold more after it.
///
/// `Ok(None)` if more bytes are needed. `batch_len_max_bytes` bounds batches, header included.
/// A batch in an intact frame whose checksum does not match is a [`Message::DamagedBatch`], or a
/// [`Message::DamagedMendBatch`].
pub fn decode(buffer: &mut BytesMut, batch_len_max_bytes: u32) -> Result<Option<Message>, CodecError> {
    let Some((&prefix, _)) = buffer.split_first_chunk::<PREFIX_LEN>() else { return Ok(None) };
    let [a, b, c, d, kind] = prefix;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    let (limit, min) = match kind {
        KIND_CONTROL => (CONTROL_LEN_MAX, 1),
        KIND_BATCH | KIND_MEND_BATCH => ((batch_len_max_bytes as usize).min(MAX_BATCH_LEN), HEADER_LEN),
        unknown => return Err(CodecError::Kind(unknown)),
    };
    if len > limit + 1 || len < min + 1 {
        return Err(CodecError::Length { len_bytes: len as u64, limit_bytes: limit as u64 + 1 });
    }
    if buffer.len() < 4 + len {
        return Ok(None);
    }
    buffer.advance(PREFIX_LEN);
    let bytes = buffer.split_to(len - 1);
    if kind == KIND_CONTROL {
        return decode_control(&bytes).map(Some);
    }
    let len_bytes = bytes.len() as u64;
    match Batch::parse(bytes.freeze()) {
        Ok(batch) if kind == KIND_MEND_BATCH => Ok(Some(Message::MendBatch(batch))),
        Ok(batch) => Ok(Some(Message::Batch(batch))),
        Err(BatchError::Checksum { log, .. }) if kind == KIND_MEND_BATCH => Ok(Some(Message::DamagedMendBatch { log })),
        Err(BatchError::Checksum { log, first_seq }) => Ok(Some(Message::DamagedBatch { log, first_seq, len_bytes })),
        Err(error) => Err(error.into()),
    }
}

fn decode_control(bytes: &[u8]) -> Result<Message, CodecError> {
    let decoded: bincode::Result<Message> = match bytes.first() {
        Some(&HELLO) => options().allow_trailing_bytes().deserialize(bytes),
        _ => options().deserialize(bytes),
    };
    let message = decoded.map_err(|_| CodecError::Control)?;
    let lists = match &message {
        Message::Heads(heads) => [(heads.heads.len(), HEADS_MAX), (0, 0)],
        Message::Heartbeat(beat) => [(beat.heads.len(), HEADS_MAX), (beat.frontiers.len(), FRONTIERS_MAX)],
        Message::Sketch(sketch) => [(sketch.cells.len(), CELLS_MAX), (0, 0)],
        Message::Differing(Differing { wanted: Wanted::Logs(logs), .. }) => [(logs.len(), CELLS_MAX), (0, 0)],
        Message::Differing(Differing { wanted: Wanted::More(estimate), .. }) => {
            [(estimate.len(), COUNTERS_MAX), (0, 0)]
        }
        Message::Ack(ack) => [(ack.via.len(), VIA_MAX), (0, 0)],
        _ => [(0, 0), (0, 0)],
    };
    match lists.into_iter().find(|(count, limit)| count > limit) {
        Some((count, limit)) => Err(CodecError::List { count, limit }),
        None => Ok(message),
    }
}

/// How a genesis travels in a control message: its own bytes.
pub(crate) mod genesis_bytes {
    use counterfoil_storage::Genesis;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(genesis: &Genesis, serializer: S) -> Result<S::Ok, S::Error> {
        genesis.encode().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Genesis, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        Genesis::decode(bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
