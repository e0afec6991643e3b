use counterfoil_storage::{Batch, BatchBuilder, Digest, Head, Hlc, LogId, MAX_BATCH_LEN, Seq, SpaceName};

use super::*;
use crate::message::{CloseReason, Credit, Want};

const LIMIT: u32 = MAX_BATCH_LEN as u32;

fn batch(body: &[u8]) -> Batch {
    let mut builder = BatchBuilder::with_capacity(16);
    builder.push(Hlc::from_bits(7), body);
    builder.seal(LogId::from_bytes([0xaa; 16]), Head { next_seq: Seq(300), digest: Digest::from_bytes([0xbb; 32]) })
}

fn messages() -> Vec<Message> {
    let space = SpaceName::new("s").unwrap();
    vec![
        Message::Want(Want { space: space.clone() }),
        Message::Batch(batch(&[b'x'; 20_000])),
        Message::Credit(Credit { space, bytes: 250 }),
        Message::Batch(batch(&(0..150_000_u32).map(|n| (n.wrapping_mul(n) >> 3) as u8).collect::<Vec<_>>())),
        Message::Close(CloseReason::Shutdown),
    ]
}

/// What a compressed direction consists of.
fn compressed(messages: &[Message]) -> BytesMut {
    let (mut writer, mut out) = (MessageWriter::default(), BytesMut::new());
    writer.compress(&mut out).unwrap();
    for message in messages {
        writer.push(message, &mut out).unwrap();
        writer.flush(&mut out).unwrap();
    }
    out
}

/// Bytes of a stream that decompress to these, as any compressor may make them.
fn stream_of(plain: &[u8]) -> BytesMut {
    let mut compressor = Compressor::new().unwrap();
    let mut out = BytesMut::from(&BEGIN[..]);
    compressor.plain.extend_from_slice(plain);
    compressor.flush(&mut out).unwrap();
    out
}

/// `Want` as it is, then compressed: `Want`, `Credit` and a batch of 20,000 equal bytes, each flushed.
const GOLDEN: &str = "040000000001017302000000020128b52ffd004040000004000000000101734800000500000000080173faac010034027d4e\
    0000014346423100000000aa2c0100070001000000244ebb6c97a033a09c01007806001c0ed80fd7ee6e1430185c430794";

#[test]
fn the_bytes_of_a_compressed_direction_are_read_for_ever() {
    let wanted: Vec<Message> = [0, 0, 2, 1].map(|number| messages().remove(number)).into();
    let (mut writer, mut out) = (MessageWriter::default(), BytesMut::new());
    for (number, message) in wanted.iter().enumerate() {
        if number == 1 {
            writer.compress(&mut out).unwrap();
        }
        writer.push(message, &mut out).unwrap();
        writer.flush(&mut out).unwrap();
    }
    // Another version of Zstandard may compress otherwise; what it reads stays.
    println!("made now: {out:x}");
    let mut reader = MessageReader::default();
    let mut found = Vec::new();
    for place in (0..GOLDEN.len()).step_by(2) {
        reader.arrived().extend_from_slice(&[u8::from_str_radix(&GOLDEN[place..place + 2], 16).unwrap()]);
        found.extend(std::iter::from_fn(|| reader.next(LIMIT).unwrap()));
    }
    assert_eq!(found, wanted);
}

#[test]
fn every_message_can_be_taken_as_soon_as_it_was_flushed_however_the_bytes_come() {
    let messages = messages();
    let (mut writer, mut reader) = (MessageWriter::default(), MessageReader::default());
    let mut out = BytesMut::new();
    for (number, message) in messages.iter().cycle().take(20).enumerate() {
        if number == 3 {
            writer.compress(&mut out).unwrap();
        }
        writer.push(message, &mut out).unwrap();
        writer.flush(&mut out).unwrap();
        for piece in out.split().chunks(1 + number * 777) {
            assert_eq!(reader.next(LIMIT), Ok(None), "it is not all there");
            reader.arrived().extend_from_slice(piece);
        }
        assert_eq!(reader.next(LIMIT).unwrap().as_ref(), Some(message));
    }
    assert_eq!(reader.next(LIMIT), Ok(None));
}

#[test]
fn what_repeats_takes_few_bytes_and_a_flush_of_nothing_none() {
    let (mut writer, mut out) = (MessageWriter::default(), BytesMut::new());
    writer.compress(&mut out).unwrap();
    let message = Message::Batch(batch(&(0..2000_u32).map(|n| (n.wrapping_mul(n) >> 3) as u8).collect::<Vec<_>>()));
    for is_first in [true, false] {
        let before = out.len();
        assert!(writer.push(&message, &mut out).unwrap() > 2000);
        writer.flush(&mut out).unwrap();
        assert_eq!(out.len() - before < 100, !is_first, "{}", out.len() - before);
    }
    let before = out.len();
    writer.flush(&mut out).unwrap();
    assert_eq!(out.len(), before);
}

#[test]
fn bytes_that_do_not_decompress_end_the_connection() {
    let good = compressed(&messages());
    let garbage = [&BEGIN[..], b"no stream of Zstandard"].concat();
    let mut flipped = good.to_vec();
    flipped[BEGIN.len() + 40] ^= 0xff;
    // A frame that refers further back than is kept: a window of 2 MiB.
    let wide = [&BEGIN[..], &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 11 << 3, 1, 0, 0]].concat();
    for (bytes, name) in [(garbage, "garbage"), (wide, "wide")] {
        let mut reader = MessageReader::default();
        reader.arrived().extend_from_slice(&bytes);
        assert_eq!(reader.next(LIMIT), Err(CodecError::Compressed), "{name}");
    }
    let mut reader = MessageReader::default();
    reader.arrived().extend_from_slice(&flipped);
    let mut taken = Vec::new();
    while let Ok(Some(message)) = reader.next(LIMIT) {
        taken.push(message);
    }
    assert_ne!(taken, messages(), "TLS would have refused it before");
}

#[test]
fn only_one_message_and_a_piece_are_decompressed_at_a_time() {
    // 64 MiB of zeros behind one message, in a few kilobytes.
    let mut plain = BytesMut::new();
    encode(&messages()[0], &mut plain);
    plain.resize(64 << 20, 0);
    let bomb = stream_of(&plain);
    assert!(bomb.len() < 64 << 10);
    let mut reader = MessageReader::default();
    reader.arrived().extend_from_slice(&bomb);
    assert_eq!(reader.next(LIMIT).unwrap(), Some(messages().remove(0)));
    let decompressor = reader.decompressor.as_ref().unwrap();
    assert!(decompressor.plain.len() <= PIECE_BYTES, "{decompressor:?}");
    assert!(matches!(reader.next(LIMIT), Err(CodecError::Length { .. })), "zeros are no message");
    assert!(reader.decompressor.unwrap().plain.capacity() <= 2 * PIECE_BYTES);
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_more_is_decompressed() {
    let mut plain = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
    plain.resize(32 << 20, 1);
    let mut reader = MessageReader::default();
    reader.arrived().extend_from_slice(&stream_of(&plain));
    assert!(matches!(reader.next(LIMIT), Err(CodecError::Length { .. })));
    assert!(reader.decompressor.unwrap().plain.len() <= PIECE_BYTES);
}

#[test]
fn a_direction_begins_to_be_compressed_once() {
    let mut plain = BytesMut::new();
    encode(&messages()[0], &mut plain);
    plain.extend_from_slice(&BEGIN);
    let mut reader = MessageReader::default();
    reader.arrived().extend_from_slice(&stream_of(&plain));
    assert!(reader.next(LIMIT).unwrap().is_some());
    assert_eq!(reader.next(LIMIT), Err(CodecError::Kind(KIND_COMPRESSED)));
}
