//! What a peer sends, before anything of it is believed.

use bytes::BytesMut;
use counterfoil_replication::{
    Ack, Announce, CaughtUp, Cell, CloseReason, Credit, Differing, Estimate, Flow, FrontierHash, GapCause, Heads,
    Heartbeat, Hello, LogHead, LogMark, Mend, MendEnd, MendOutcome, Message, Offer, Park, ParkReason, Reconciled,
    Refusal, Refuse, Rewind, Scope, Sketch, Want, Wanted, Window,
    codec::{self, MessageReader, MessageWriter, PREFIX_LEN},
};
use counterfoil_storage::{Holes, Incarnation, Seq, SpaceName};

use crate::{mend, template};

/// The longest batch taken.
const BATCH_LEN_MAX: u32 = 1 << 20;

/// Takes bytes as a stream that comes in pieces; as one control message; as one batch with its checksum mended.
pub fn run(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    stream(rest, usize::from(*first) + 1);
    connection(rest, usize::from(*first) + 1);
    let framed = |kind: u8, body: &[u8]| {
        let mut out = (body.len() as u32 + 1).to_le_bytes().to_vec();
        out.push(kind);
        out.extend_from_slice(body);
        out
    };
    stream(&framed(0, rest), usize::MAX);
    let mut batch = rest.to_vec();
    mend::batch(&mut batch);
    stream(&framed(1, &batch), usize::MAX);
    stream(&framed(2, &batch), usize::MAX);
}

fn stream(bytes: &[u8], piece: usize) {
    let mut buffer = BytesMut::new();
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match codec::decode(&mut buffer, BATCH_LEN_MAX) {
                Err(_) => return,
                Ok(None) => {
                    assert!(buffer.len() == before, "nothing is taken of a message that is not all there");
                    assert!(before < PREFIX_LEN + BATCH_LEN_MAX as usize, "more is waited for than the limit");
                    break;
                }
                Ok(Some(message)) => {
                    assert!(buffer.len() < before, "a message takes bytes");
                    check(&message);
                }
            }
        }
    }
}

/// The same bytes as a connection, which may go on compressed.
fn connection(bytes: &[u8], piece: usize) {
    let mut reader = MessageReader::default();
    for piece in bytes.chunks(piece) {
        reader.arrived().extend_from_slice(piece);
        loop {
            match reader.next(BATCH_LEN_MAX) {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(message)) => check(&message),
            }
        }
        assert!(reader.arrived().len() < PREFIX_LEN + BATCH_LEN_MAX as usize, "more is waited for than the limit");
    }
}

fn check(message: &Message) {
    if matches!(message, Message::DamagedBatch { .. }) {
        return;
    }
    let mut out = BytesMut::new();
    codec::encode(message, &mut out);
    let again = codec::decode(&mut out, BATCH_LEN_MAX).expect("what was decoded can be encoded");
    assert!(again.as_ref() == Some(message) && out.is_empty());
}

/// One message of every kind.
pub fn messages() -> Vec<Message> {
    let genesis = template::genesis("p", "p");
    let (log, head) = (genesis.log_id(), genesis.head());
    let space = SpaceName::new("p").unwrap();
    let hash = FrontierHash::from_bytes([1; 16]);
    let incarnation = Incarnation::from_bytes([7; 16]);
    let heads = vec![LogHead { log, head }];
    let batch = template::batch(log, head, &[b"one", b"two"]);
    let first_seq = Seq(1);
    let reasons = [
        ParkReason::Diverged { source_head: head, target_head: head },
        ParkReason::Gap { first_seq, next_seq: Seq(2), cause: GapCause::Hole },
        ParkReason::NoRight { writer: genesis.node.clone(), space: space.clone() },
        ParkReason::Rewound { first_seq, target_head: head },
        ParkReason::Chain { first_seq, target_head: head },
        ParkReason::Checksum { first_seq },
        ParkReason::Records { first_seq },
        ParkReason::BatchTooLong { first_seq, len_bytes: 3, limit_bytes: 2 },
        ParkReason::TooManyLogs { limit: 7 },
        ParkReason::TooManyOfWriter { writer: genesis.node.clone(), space: space.clone(), limit: 7 },
    ];
    let parks = reasons.map(|reason| Message::Park(Park { log, flow: Flow::Outgoing, reason }));
    let (cell, mark) = (Cell::from_bytes([7; 24]), LogMark::from_bytes([7; 8]));
    let mut messages = vec![
        Message::Hello(Hello {
            protocol_min: 1,
            protocol_max: 1,
            incarnation,
            session_window_bytes: 1 << 20,
            space_window_bytes: 1 << 20,
            batch_len_max_bytes: 1 << 20,
            next_ms: 1000,
            takes_zstd: true,
        }),
        Message::Want(Want { space: space.clone() }),
        Message::Offer(Offer { space: space.clone(), all: hash, heard: Some(FrontierHash::of([])) }),
        Message::Exchange(Offer { space: space.clone(), all: hash, heard: Some(hash) }),
        Message::Equal(Reconciled { space: space.clone(), scope: Scope::Own, told: Scope::All, offer: 1 }),
        Message::Heads(Heads {
            space: space.clone(),
            scope: Scope::All,
            told: Scope::All,
            heads: heads.clone(),
            since_heard: false,
            first: true,
            last: true,
        }),
        Message::Sketch(Sketch { space: space.clone(), scope: Scope::All, told: Scope::All, cells: vec![cell; 2] }),
        Message::Differing(Differing { space: space.clone(), wanted: Wanted::Logs(vec![mark]) }),
        Message::Differing(Differing { space: space.clone(), wanted: Wanted::More(Estimate::of(vec![1, -1])) }),
        Message::Refuse(Refuse { space: space.clone(), flow: Flow::Incoming, reason: Refusal::NoRightToStream }),
        Message::Announce(Announce { genesis: genesis.clone(), head }),
        Message::Ack(Ack {
            log,
            node: genesis.node.clone(),
            incarnation,
            head,
            holes: Holes::default(),
            via: vec![genesis.node.clone()],
            losses: 0,
        }),
        Message::Credit(Credit { space: space.clone(), bytes: 100 }),
        Message::Window(Window { session_bytes: 1 << 20, space_bytes: 1 << 19 }),
        Message::Probe(1),
        Message::Echo(1),
        Message::Rewind(Rewind { log, head }),
        Message::Heartbeat(Heartbeat { next_ms: 1000, frontiers: vec![(space, hash)], heads }),
        Message::Close(CloseReason::Protocol { min: 1, max: 2 }),
        Message::Mend(Mend { log, first_seq: Seq(0), end: head, bytes_max: 1 << 20 }),
        Message::MendEnd(MendEnd { log, end: head, outcome: MendOutcome::Lacking(GapCause::Hole) }),
        Message::MendBatch(batch.clone()),
        Message::CaughtUp(CaughtUp { space: genesis.space.clone(), whole: true }),
        Message::Batch(batch),
    ];
    messages.extend(parks);
    messages
}

/// Each kind alone as a control message, and all of them in a stream.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut stream = BytesMut::from(&[40_u8][..]);
    let mut seeds = Vec::new();
    for message in messages() {
        codec::encode(&message, &mut stream);
        let mut one = BytesMut::new();
        codec::encode(&message, &mut one);
        seeds.push([&[255], &one[PREFIX_LEN..]].concat());
    }
    seeds.push(stream.to_vec());
    let (mut writer, mut compressed) = (MessageWriter::default(), BytesMut::from(&[40_u8][..]));
    writer.compress(&mut compressed).expect("memory");
    for message in messages() {
        writer.push(&message, &mut compressed).expect("memory");
        writer.flush(&mut compressed).expect("memory");
    }
    seeds.push(compressed.to_vec());
    seeds
}
