use counterfoil_storage::{
    BatchBuilder, Digest, Genesis, Head, Hlc, Holes, Incarnation, LogId, NodeName, Seq, SpaceName,
};
use proptest::prelude::*;

use super::*;
use crate::{
    frontier::{FrontierHash, LogHead},
    message::{
        Ack, Announce, CaughtUp, CloseReason, Credit, Differing, Flow, GapCause, Heads, Heartbeat, Hello, Mend,
        MendEnd, MendOutcome, Offer, Park, ParkReason, Reconciled, Refusal, Refuse, Rewind, Scope, Sketch, Want,
        Wanted, Window,
    },
    sketch::{Cell, Estimate, LogMark},
};

const LIMIT: u32 = MAX_BATCH_LEN as u32;

fn space() -> SpaceName {
    SpaceName::new("s").unwrap()
}

fn log() -> LogId {
    LogId::from_bytes([0xaa; 16])
}

fn head() -> Head {
    Head { next_seq: Seq(300), digest: Digest::from_bytes([0xbb; 32]) }
}

fn batch() -> Batch {
    let mut builder = BatchBuilder::with_capacity(16);
    builder.push(Hlc::from_bits(7), b"body");
    builder.seal(log(), head())
}

/// One of each kind, with the hexadecimal form that it has for ever.
fn golden() -> Vec<(Message, String)> {
    [golden_but_acks_and_sketches(), golden_acks(), golden_sketches()].concat()
}

fn golden_sketches() -> Vec<(Message, String)> {
    let differing = |wanted| Message::Differing(Differing { space: space(), wanted });
    let cells = vec![Cell::from_bytes([0xcc; 24]); 2];
    vec![
        (
            Message::Sketch(Sketch { space: space(), scope: Scope::All, told: Scope::All, cells }),
            format!("130173010102{}", "cc".repeat(48)),
        ),
        (
            differing(Wanted::Logs(vec![LogMark::from_bytes([1; 8]), LogMark::from_bytes([2; 8])])),
            format!("1401730002{}{}", "01".repeat(8), "02".repeat(8)),
        ),
        (differing(Wanted::More(Estimate::of(vec![1, -1, 200]))), "14017301030201fb9001".into()),
        (differing(Wanted::All), "14017302".into()),
    ]
}

fn golden_acks() -> Vec<(Message, String)> {
    let (id, digest) = ("aa".repeat(16), "bb".repeat(32));
    let (node, head_hex) = (NodeName::new("n").unwrap(), format!("fb2c01{digest}"));
    let (log, incarnation) = (log(), Incarnation::from_bytes([0xdd; 16]));
    let holes = Holes::try_from(vec![(Seq(3), Seq(5)), (Seq(250), Seq(300))]).unwrap();
    vec![
        (
            Message::Ack(Ack {
                log,
                node: node.clone(),
                incarnation,
                head: head(),
                holes: Holes::default(),
                via: Vec::new(),
                losses: 0,
            }),
            format!("07{id}016e{}{head_hex}000000", "dd".repeat(16)),
        ),
        (
            Message::Ack(Ack {
                log,
                node,
                incarnation,
                head: head(),
                holes,
                via: vec![NodeName::new("hub").unwrap()],
                losses: 300,
            }),
            format!("07{id}016e{}{head_hex}020305fafb2c010103687562fb2c01", "dd".repeat(16)),
        ),
    ]
}

fn golden_but_acks_and_sketches() -> Vec<(Message, String)> {
    let hash = FrontierHash::from_bytes([0xcc; 16]);
    let (id, digest, hash_hex) = ("aa".repeat(16), "bb".repeat(32), "cc".repeat(16));
    let incarnation = Incarnation::from_bytes([0xdd; 16]);
    let head_hex = format!("fb2c01{digest}");
    let genesis = Genesis::new(space(), NodeName::new("n").unwrap(), [0xee; 16]);
    // 36 bytes: magic, flags, base, term; nonce; space; node.
    let genesis_hex = format!("2443464731{}{}0173016e", "00".repeat(12), "ee".repeat(16));
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        incarnation,
        session_window_bytes: 8 << 20,
        space_window_bytes: 4 << 20,
        batch_len_max_bytes: 1 << 20,
        next_ms: 1000,
        takes_zstd: true,
    };
    let log = log();
    let diverged = ParkReason::Diverged { source_head: head(), target_head: head() };
    let gap = ParkReason::Gap { first_seq: Seq(1), next_seq: Seq(2), cause: GapCause::Hole };
    let heads = vec![LogHead { log, head: head() }];
    vec![
        (Message::Hello(hello), format!("000101{}fc00008000fc00004000fc00001000fbe80301", "dd".repeat(16))),
        (Message::Want(Want { space: space() }), "010173".into()),
        (Message::Offer(Offer { space: space(), all: hash, heard: None }), format!("020173{hash_hex}00")),
        (Message::Offer(Offer { space: space(), all: hash, heard: Some(hash) }), format!("020173{hash_hex}01")),
        (
            Message::Offer(Offer { space: space(), all: hash, heard: Some(FrontierHash::from_bytes([0xbb; 16])) }),
            format!("020173{hash_hex}02{}", "bb".repeat(16)),
        ),
        (Message::Exchange(Offer { space: space(), all: hash, heard: Some(hash) }), format!("150173{hash_hex}01")),
        (
            Message::Equal(Reconciled { space: space(), scope: Scope::Own, told: Scope::All, offer: 300 }),
            "0301730001fb2c01".into(),
        ),
        (
            Message::Heads(Heads {
                space: space(),
                scope: Scope::Own,
                told: Scope::All,
                heads: heads.clone(),
                since_heard: false,
                first: true,
                last: false,
            }),
            format!("040173000101{id}{head_hex}000100"),
        ),
        (
            Message::Refuse(Refuse { space: space(), flow: Flow::Incoming, reason: Refusal::NoRightToRead }),
            "0501730001".into(),
        ),
        (Message::Announce(Announce { genesis, head: head() }), format!("06{genesis_hex}{head_hex}")),
        (Message::Credit(Credit { space: space(), bytes: 250 }), "080173fa".into()),
        (Message::Rewind(Rewind { log, head: head() }), format!("09{id}{head_hex}")),
        (
            Message::Park(Park { log, flow: Flow::Outgoing, reason: diverged }),
            format!("0a{id}0100{head_hex}{head_hex}"),
        ),
        (Message::Park(Park { log, flow: Flow::Incoming, reason: gap }), format!("0a{id}0001010201")),
        (
            Message::Heartbeat(Heartbeat { next_ms: 15_000, frontiers: vec![(space(), hash)], heads }),
            format!("0bfb983a010173{hash_hex}01{id}{head_hex}"),
        ),
        (Message::Close(CloseReason::Shutdown), "0c00".into()),
        (Message::Close(CloseReason::Protocol { min: 1, max: 2 }), "0c020102".into()),
        (Message::Close(CloseReason::Certificate), "0c06".into()),
        (Message::Window(Window { session_bytes: 2, space_bytes: 1 << 20 }), "0d02fc00001000".into()),
        (Message::Probe(7), "0e07".into()),
        (Message::Echo(7), "0f07".into()),
        (Message::CaughtUp(CaughtUp { space: space(), whole: true }), "10017301".into()),
        (
            Message::Mend(Mend { log, first_seq: Seq(250), end: head(), bytes_max: 1 << 20 }),
            format!("11{id}fa{head_hex}fc00001000"),
        ),
        (Message::MendEnd(MendEnd { log, end: head(), outcome: MendOutcome::Sent }), format!("12{id}{head_hex}00")),
        (
            Message::MendEnd(MendEnd { log, end: head(), outcome: MendOutcome::Lacking(GapCause::Absent) }),
            format!("12{id}{head_hex}0104"),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

fn encoded(message: &Message) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(message, &mut bytes);
    bytes
}

#[test]
fn the_bytes_of_every_message_are_fixed_for_ever() {
    for (message, golden) in golden() {
        let bytes = encoded(&message);
        let prefix = format!("{:08x}", (golden.len() as u32 / 2 + 1).swap_bytes());
        assert_eq!(hex(&bytes), format!("{prefix}00{golden}"), "{message:?}");
        assert_eq!(decode(&mut bytes.clone(), LIMIT), Ok(Some(message)));
    }
    let bytes = encoded(&Message::Batch(batch()));
    assert_eq!(bytes[..5], [95, 0, 0, 0, 1], "length of kind and batch, then kind");
    assert_eq!(bytes[5..], batch().bytes()[..], "verbatim");
    let mends = encoded(&Message::MendBatch(batch()));
    assert_eq!((&mends[..5], &mends[5..]), (&[95, 0, 0, 0, 3][..], &bytes[5..]));
    assert_eq!(decode(&mut mends.clone(), LIMIT), Ok(Some(Message::MendBatch(batch()))));
    let mut damaged = mends;
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(decode(&mut damaged, LIMIT), Ok(Some(Message::DamagedMendBatch { log: log() })));
}

#[test]
fn a_message_is_taken_once_it_is_whole_and_not_before() {
    for message in golden().into_iter().map(|(message, _)| message).chain([Message::Batch(batch())]) {
        let bytes = encoded(&message);
        for len in 0..bytes.len() {
            assert_eq!(decode(&mut BytesMut::from(&bytes[..len]), LIMIT), Ok(None), "{len} bytes of {message:?}");
        }
        let mut two = BytesMut::from(&[&bytes[..], &bytes[..]].concat()[..]);
        assert_eq!(decode(&mut two, LIMIT), Ok(Some(message)));
        assert_eq!(two, bytes);
    }
}

#[test]
fn a_hello_may_go_on_within_the_limit_and_nothing_else_may() {
    for (message, _) in golden() {
        let mut longer = encoded(&message);
        longer.extend_from_slice(&[7; 100]);
        let len = (longer.len() - 4) as u32;
        longer[..4].copy_from_slice(&len.to_le_bytes());
        let is_hello = matches!(message, Message::Hello(_));
        let expected = if is_hello { Ok(Some(message)) } else { Err(CodecError::Control) };
        assert_eq!(decode(&mut longer, LIMIT), expected);
    }
    let mut endless = encoded(&golden()[0].0);
    endless[..4].copy_from_slice(&(CONTROL_LEN_MAX as u32 + 2).to_le_bytes());
    let limit = CONTROL_LEN_MAX as u64 + 1;
    assert_eq!(decode(&mut endless, LIMIT), Err(CodecError::Length { len_bytes: limit + 1, limit_bytes: limit }));
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
    for (kind, len, limit) in [
        (0, 1 << 30, CONTROL_LEN_MAX as u64 + 1),
        (0, CONTROL_LEN_MAX as u32 + 2, CONTROL_LEN_MAX as u64 + 1),
        (0, 1, CONTROL_LEN_MAX as u64 + 1),
        (1, u32::MAX, 1001),
        (1, 1002, 1001),
        (1, 10, 1001),
    ] {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(len);
        bytes.put_u8(kind);
        let expected = CodecError::Length { len_bytes: len.into(), limit_bytes: limit };
        assert_eq!(decode(&mut bytes, 1000), Err(expected));
    }
    assert_eq!(decode(&mut BytesMut::from(&b"GET / HTTP/1.1"[..]), LIMIT), Err(CodecError::Kind(b'/')));
}

#[test]
fn a_list_beyond_the_limit_is_refused() {
    let heads = vec![LogHead { log: log(), head: head() }; HEADS_MAX + 1];
    let heads = Heads {
        space: space(),
        scope: Scope::All,
        told: Scope::All,
        heads,
        since_heard: false,
        first: true,
        last: true,
    };
    let cells = vec![Cell::default(); CELLS_MAX + 1];
    let sketch = Sketch { space: space(), scope: Scope::All, told: Scope::All, cells };
    let differing = |wanted| Message::Differing(Differing { space: space(), wanted });
    let marks = vec![LogMark::from_bytes([1; 8]); CELLS_MAX + 1];
    for (message, limit) in [
        (Message::Heads(heads), HEADS_MAX),
        (Message::Sketch(sketch), CELLS_MAX),
        (differing(Wanted::Logs(marks)), CELLS_MAX),
        (differing(Wanted::More(Estimate::of(vec![1; COUNTERS_MAX + 1]))), COUNTERS_MAX),
    ] {
        assert_eq!(decode(&mut encoded(&message), LIMIT), Err(CodecError::List { count: limit + 1, limit }));
    }
}

#[test]
fn the_longest_messages_within_bounds_can_be_sent() {
    let space = SpaceName::new(&"s".repeat(MAX_NAME_LEN)).unwrap();
    let far = Head { next_seq: Seq(u64::MAX), ..head() };
    let heads = vec![LogHead { log: log(), head: far }; HEADS_MAX];
    let frontiers = vec![(space.clone(), FrontierHash::from_bytes([1; 16])); FRONTIERS_MAX];
    let beat = Message::Heartbeat(Heartbeat { next_ms: u32::MAX, frontiers, heads });
    let long_space = space.clone();
    let mut genesis = Genesis::new(space, NodeName::new(&"n".repeat(MAX_NAME_LEN)).unwrap(), [1; 16]);
    genesis.base = (0..60_u16).map(|index| (log_of(index), far)).collect();
    assert!(genesis.encode().len() > MAX_GENESIS_LEN - 1000, "{}", genesis.encode().len());
    let cells = vec![Cell::default(); CELLS_MAX];
    let sketch = Sketch { space: long_space.clone(), scope: Scope::All, told: Scope::All, cells };
    let wanted = Wanted::Logs(vec![LogMark::from_bytes([1; 8]); CELLS_MAX]);
    let differing = Message::Differing(Differing { space: long_space, wanted });
    for message in [beat, Message::Announce(Announce { genesis, head: far }), Message::Sketch(sketch), differing] {
        assert_eq!(decode(&mut encoded(&message), LIMIT), Ok(Some(message)));
    }
}

fn log_of(index: u16) -> LogId {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&index.to_be_bytes());
    LogId::from_bytes(bytes)
}

#[test]
fn a_changed_bit_of_a_batch_is_named_and_the_stream_goes_on() {
    let whole = encoded(&Message::Batch(batch()));
    for bit in 0..(whole.len() - PREFIX_LEN) * 8 {
        let mut bytes = whole.clone();
        bytes[PREFIX_LEN + bit / 8] ^= 1 << (bit % 8);
        bytes.extend_from_slice(&encoded(&Message::Close(CloseReason::Shutdown)));
        match decode(&mut bytes, LIMIT) {
            Ok(Some(Message::DamagedBatch { len_bytes, .. })) => {
                assert_eq!(len_bytes, batch().bytes().len() as u64);
                assert_eq!(decode(&mut bytes, LIMIT), Ok(Some(Message::Close(CloseReason::Shutdown))));
            }
            Err(CodecError::Batch(_)) => {}
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

fn golden_ack() -> Message {
    let mut messages = golden().into_iter().map(|(message, _)| message);
    messages.find(|message| matches!(message, Message::Ack(_))).unwrap()
}

#[test]
fn an_ack_that_came_through_too_many_hands_is_refused() {
    let via = |count| {
        let Message::Ack(ack) = golden_ack() else { unreachable!() };
        let via = vec![ack.node.clone(); count];
        decode(&mut encoded(&Message::Ack(Ack { via, ..ack })), LIMIT)
    };
    assert!(matches!(via(VIA_MAX), Ok(Some(Message::Ack(_)))));
    assert_eq!(via(VIA_MAX + 1), Err(CodecError::List { count: VIA_MAX + 1, limit: VIA_MAX }));
}

#[test]
fn what_was_heard_is_written_in_one_way_only() {
    let offer = Offer { space: space(), all: FrontierHash::from_bytes([0xcc; 16]), heard: None };
    let heard = |hash: [u8; 16]| {
        let other = FrontierHash::from_bytes([0xbb; 16]);
        let mut bytes = encoded(&Message::Offer(Offer { heard: Some(other), ..offer.clone() }));
        let at = bytes.len() - 16;
        bytes[at..].copy_from_slice(&hash);
        decode(&mut bytes, LIMIT)
    };
    assert!(matches!(heard([0xaa; 16]), Ok(Some(Message::Offer(_)))));
    assert_eq!(heard([0xcc; 16]), Err(CodecError::Control));
}

#[test]
fn holes_that_are_none_are_refused() {
    let holes = |ranges: &[u8]| {
        let mut bytes = encoded(&golden_ack());
        let len = bytes.len() - 3;
        bytes.truncate(len);
        bytes.extend_from_slice(ranges);
        bytes.extend_from_slice(&[0, 0]);
        let len = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        decode(&mut bytes, LIMIT)
    };
    assert!(matches!(holes(&[1, 3, 5]), Ok(Some(Message::Ack(_)))));
    let many: Vec<u8> = [17].into_iter().chain((0..17).flat_map(|n| [3 * n, 3 * n + 1])).collect();
    for wrong in [&[1, 5, 5][..], &[1, 6, 5], &[2, 3, 5, 5, 6], &[2, 8, 9, 3, 5], &many] {
        assert_eq!(holes(wrong), Err(CodecError::Control), "{wrong:?}");
    }
}

#[test]
fn a_genesis_that_is_none_is_refused() {
    let bytes = encoded(&golden()[7].0);
    for position in 7..11 {
        let mut bytes = bytes.clone();
        bytes[position] ^= 0xff;
        assert_eq!(decode(&mut bytes, LIMIT), Err(CodecError::Control), "byte {position}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decode(&mut buffer, LIMIT) {}
    }

    #[test]
    fn random_control_messages_never_panic_and_what_decodes_is_within_bounds(
        bytes in prop::collection::vec(any::<u8>(), 1..400),
        kind in 0_u8..21,
    ) {
        let mut buffer = BytesMut::new();
        buffer.put_u32_le(bytes.len() as u32 + 1);
        buffer.put_u8(KIND_CONTROL);
        buffer.put_u8(kind);
        buffer.put_slice(&bytes[1..]);
        if let Ok(Some(message)) = decode(&mut buffer, LIMIT) {
            let again = encoded(&message);
            prop_assert_eq!(decode(&mut again.clone(), LIMIT), Ok(Some(message)));
        }
    }

    #[test]
    fn messages_with_changed_bytes_never_panic(
        pick in 0_usize..26,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encoded(&golden()[pick].0);
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let _ = decode(&mut bytes, LIMIT);
    }

    #[test]
    fn batches_of_any_content_read_back(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..10)) {
        let mut builder = BatchBuilder::with_capacity(16);
        bodies.iter().for_each(|body| builder.push(Hlc::from_bits(7), body));
        let batch = builder.seal(log(), head());
        let mut bytes = encoded(&Message::Batch(batch.clone()));
        prop_assert_eq!(decode(&mut bytes, LIMIT), Ok(Some(Message::Batch(batch))));
    }
}

#[test]
fn claims_of_huge_lists_and_names_allocate_nothing_for_them() {
    // Variant 4 (heads), a space, a scope, then a claim of 2^63 heads; variant 1 with a name of 2^63 bytes.
    let huge = [0xfd_u8, 0, 0, 0, 0, 0, 0, 0, 0x80];
    for start in [&[4_u8, 1, b's', 0][..], &[1]] {
        let body = [start, &huge].concat();
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(body.len() as u32 + 1);
        bytes.put_u8(KIND_CONTROL);
        bytes.put_slice(&body);
        assert_eq!(decode(&mut bytes, LIMIT), Err(CodecError::Control));
    }
}
