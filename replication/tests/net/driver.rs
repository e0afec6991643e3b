//! The loop around a session, over connections in memory and with a clock that only the tests move.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use counterfoil_replication::{
    AckBoard, Direction, Endpoint, Event, Hello, Message, PROTOCOL_MAX, PROTOCOL_MIN, PeerMisbehaved, Policy,
    SessionError, codec,
    net::{Ended, SessionHandle, drive},
};
use counterfoil_storage::{Genesis, Incarnation};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::node::{Node, name, space};

/// A session that runs, and what it has said so far.
struct Running {
    handle: SessionHandle,
    task: JoinHandle<Ended>,
    events: Arc<Mutex<Vec<Event>>>,
}

fn run(endpoint: Endpoint, stream: DuplexStream) -> Running {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = events.clone();
    let (handle, session) = drive(stream, endpoint, move |event| sink.lock().unwrap().push(event));
    Running { handle, task: tokio::spawn(session), events }
}

impl Running {
    fn said(&self, mut wanted: impl FnMut(&Event) -> bool) -> bool {
        self.events.lock().unwrap().iter().any(&mut wanted)
    }
}

/// Both ends of a session in which `source` is mirrored to `target`, over a connection that holds `room` bytes.
fn mirror(source: &Node, target: &Node, room: usize) -> (Running, Running) {
    let (near, far) = duplex(room);
    let (from, to) = (&source.journal.identity().node, &target.journal.identity().node);
    let endpoint = source.endpoint(to.as_str(), &[(from.as_str(), Direction::Send)], Policy::nothing());
    let sender = run(endpoint, near);
    let receiver = run(target.endpoint(from.as_str(), &[], Policy::own_space_only()), far);
    (sender, receiver)
}

/// Lets the sessions go on, and the stores commit, until something holds.
async fn until(nodes: &[&Node], mut holds: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
        for node in nodes {
            node.journal.commit().unwrap();
        }
    }
    panic!("it did not come about within 10 s of the tests' clock");
}

#[tokio::test(start_paused = true)]
async fn what_is_durable_reaches_the_other_disk_and_its_acknowledgement_comes_back() {
    let (source, target) = (Node::by_hand("a"), Node::by_hand("hub"));
    let before = source.append(100);
    let (sender, receiver) = mirror(&source, &target, 64 << 10);
    let acked = |wanted| sender.said(|event| matches!(event, Event::Acked { head, .. } if *head == wanted));
    until(&[&target], || acked(before)).await;
    let after = source.append(1);
    until(&[&target], || acked(after)).await;

    assert_eq!(target.head(source.log), Some(after));
    assert_eq!(target.bodies(source.log), source.bodies(source.log));
    assert!(receiver.said(|event| matches!(event, Event::PeerReady { node, .. } if *node == name("a"))));
    assert_eq!(sender.handle.status().spaces[0].lag_records, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_said_first_hand_counts_until_the_connection_is_gone_and_not_for_as_long_as_somebody_keeps_the_handle()
 {
    let (source, target) = (Node::by_hand("a"), Node::by_hand("hub"));
    let head = source.append(1);
    let board = AckBoard::new(name("a"));
    let (near, far) = duplex(64 << 10);
    let endpoint = source.endpoint("hub", &[("a", Direction::Send)], Policy::nothing()).with_acks(&board);
    let sender = run(endpoint, near);
    let receiver = run(target.endpoint("a", &[], Policy::own_space_only()), far);
    let first_hand = || board.first_hand(source.log).iter().any(|ack| ack.head == head && ack.node == name("hub"));
    until(&[&target], first_hand).await;
    receiver.task.abort();
    assert!(matches!(sender.task.await, Ok(Ended::HungUp)));
    assert!(!first_hand(), "it can't take that back");
    assert_eq!(sender.handle.status().spaces[0].lag_records, 0, "the session can still be looked at");
}

#[tokio::test(start_paused = true)]
async fn two_ends_that_write_at_once_into_a_narrow_connection_do_not_wait_for_each_other() {
    let (a, b) = (Node::by_hand("a"), Node::by_hand("b"));
    let (head_a, head_b) = (a.append(2000), b.append(2000));
    let (near, far) = duplex(64);
    let spaces = [("a", Direction::Send), ("b", Direction::Receive)];
    let near = run(a.endpoint("b", &spaces, Policy::nothing()), near);
    let spaces = [("a", Direction::Receive), ("b", Direction::Send)];
    let far = run(b.endpoint("a", &spaces, Policy::nothing()), far);
    until(&[&a, &b], || a.head(b.log) == Some(head_b) && b.head(a.log) == Some(head_a)).await;
    drop((near, far));
}

#[tokio::test(start_paused = true)]
async fn a_session_of_many_spaces_hears_of_each() {
    let (source, target) = (Node::by_hand("a"), Node::by_hand("hub"));
    let spaces: Vec<_> = (0..40).map(|n| format!("space-{n}")).collect();
    let nonce = *source.journal.identity().incarnation.as_bytes();
    let logs: Vec<_> = spaces
        .iter()
        .map(|own| source.journal.create_log(Genesis::new(space(own), name("a"), nonce)).unwrap())
        .collect();
    let policy = "[[grant]]\nnode = \"a\"\nspace = \"*\"\nrights = [\"write\"]";
    let offered: Vec<_> = spaces.iter().map(|own| (own.as_str(), Direction::Send)).collect();
    let (near, far) = duplex(64 << 10);
    let _sender = run(source.endpoint("hub", &offered, Policy::nothing()), near);
    let _receiver = run(target.endpoint("a", &[], Policy::parse(policy).unwrap()), far);
    for _ in 0..2 {
        for log in &logs {
            source.journal.writer(*log).unwrap().append(b"x").unwrap();
            source.journal.commit().unwrap();
            until(&[&target], || target.head(*log) == source.head(*log)).await;
        }
    }
}

/// A connection that carries `bytes_per_second` each way, with a delay, and counts what goes from its first end.
fn line(bytes_per_second: u64, delay: Duration) -> (DuplexStream, DuplexStream, Arc<AtomicU64>) {
    const CHUNK: usize = 16 << 10;
    let ((near, near_inside), (far, far_inside)) = (duplex(4 * CHUNK), duplex(4 * CHUNK));
    let ((near_read, near_write), (far_read, far_write)) = (split(near_inside), split(far_inside));
    let (forth, back) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for (mut from, mut to, count) in [(near_read, far_write, forth.clone()), (far_read, near_write, back)] {
        let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
        tokio::spawn(async move {
            let (mut buffer, mut free_at) = (vec![0; CHUNK], Instant::now());
            while let Ok(len @ 1..) = from.read(&mut buffer).await {
                count.fetch_add(len as u64, Ordering::Relaxed);
                free_at =
                    free_at.max(Instant::now()) + Duration::from_nanos(len as u64 * 1_000_000_000 / bytes_per_second);
                if sender.send((free_at + delay, buffer[..len].to_vec())).is_err() {
                    return;
                }
                // A timer has milliseconds: shorter times add up.
                sleep_until(free_at - Duration::from_millis(5)).await;
            }
        });
        tokio::spawn(async move {
            while let Some((due, bytes)) = receiver.recv().await {
                sleep_until(due).await;
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
    }
    (near, far, forth)
}

#[tokio::test(start_paused = true)]
async fn a_long_fast_line_is_filled_without_any_setting() {
    const BYTES_PER_SECOND: u64 = 12_500_000;
    let (source, target) = (Node::by_hand("a"), Node::by_hand("hub"));
    let (near, far, _) = line(BYTES_PER_SECOND, Duration::from_millis(100));
    let sender = run(source.endpoint("hub", &[("a", Direction::Send)], Policy::nothing()), near);
    let _receiver = run(target.endpoint("a", &[], Policy::own_space_only()), far);
    let acked = |wanted| sender.said(|event| matches!(event, Event::Acked { head, .. } if *head == wanted));
    // It begins with a window of a tenth of a second, and fills the line within two.
    let first = source.append(12_000);
    let last = source.append(48_000);
    until(&[&target], || target.head(source.log).is_some_and(|head| head.next_seq >= first.next_seq)).await;
    let begun = Instant::now();
    until(&[&target], || acked(last)).await;
    let bytes = (last.next_seq.0 - first.next_seq.0) * 1024;
    let rate = bytes as f64 / begun.elapsed().as_secs_f64();
    assert!(rate > 0.9 * BYTES_PER_SECOND as f64, "{rate} bytes per second");
}

#[cfg(feature = "zstd")]
#[tokio::test(start_paused = true)]
async fn a_compressed_session_carries_the_same_in_fewer_bytes_and_only_to_who_takes_it() {
    let mut carried = Vec::new();
    for compresses in [false, true] {
        let (source, target) = (Node::by_hand("a"), Node::by_hand("hub"));
        let (near, far, forth) = line(1 << 30, Duration::from_millis(1));
        let endpoint = source.endpoint("hub", &[("a", Direction::Send)], Policy::nothing()).compressing(compresses);
        let sender = run(endpoint, near);
        let receiver = run(target.endpoint("a", &[], Policy::own_space_only()).compressing(true), far);
        for count in [100, 1, 1] {
            let head = source.append(count);
            // One at a time: nothing waits for a block to fill.
            let acked = |wanted| sender.said(|event| matches!(event, Event::Acked { head, .. } if *head == wanted));
            until(&[&target], || acked(head)).await;
        }
        assert_eq!(target.bodies(source.log), source.bodies(source.log));
        sender.handle.stop();
        let ended = receiver.task.await.unwrap();
        assert!(matches!(ended, Ended::Failed(SessionError::ClosedByPeer { .. })), "also the last word: {ended}");
        carried.push(forth.load(Ordering::Relaxed));
    }
    assert!(carried[1] * 10 < carried[0], "{carried:?}");

    let node = Node::by_hand("a");
    let (near, mut far) = duplex(64 << 10);
    let session = run(node.endpoint("hub", &[("a", Direction::Send)], Policy::nothing()).compressing(true), near);
    far.write_all(&hello()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    session.handle.stop();
    let mut heard = BytesMut::new();
    while far.read_buf(&mut heard).await.unwrap() > 0 {}
    while codec::decode(&mut heard, u32::MAX).unwrap().is_some() {}
    assert!(heard.is_empty(), "a peer that did not say so is not to decompress");
}

#[tokio::test(start_paused = true)]
async fn stopping_one_end_tells_the_other() {
    let (source, target) = (Node::by_hand("a"), Node::by_hand("hub"));
    let (sender, receiver) = mirror(&source, &target, 64 << 10);
    sleep(Duration::from_secs(1)).await;
    receiver.handle.stop();
    assert!(matches!(receiver.task.await.unwrap(), Ended::Stopped));
    let ended = sender.task.await.unwrap();
    assert!(matches!(ended, Ended::Failed(SessionError::ClosedByPeer { .. })), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_cut_ends_both_sessions_and_the_next_one_goes_on_from_there() {
    let (source, target) = (Node::by_hand("a"), Node::by_hand("hub"));
    source.append(500);
    let (sender, receiver) = mirror(&source, &target, 1 << 10);
    until(&[&target], || target.head(source.log).is_some_and(|head| head.next_seq.0 > 0)).await;
    sender.task.abort();
    let ended = receiver.task.await.unwrap();
    assert!(matches!(ended, Ended::HungUp), "{ended}");

    let head = source.append(500);
    let (_sender, _receiver) = mirror(&source, &target, 64 << 10);
    until(&[&target], || target.head(source.log) == Some(head)).await;
    assert_eq!(target.bodies(source.log), source.bodies(source.log));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_comes_to_deny_the_peer_ends_the_session() {
    let (source, target) = (Node::by_hand("a"), Node::by_hand("hub"));
    let (sender, receiver) = mirror(&source, &target, 64 << 10);
    sleep(Duration::from_secs(1)).await;
    receiver.handle.set_policy(Arc::new(Policy::parse("[[deny]]\nnode = \"a\"").unwrap()));
    let ended = receiver.task.await.unwrap();
    assert!(matches!(ended, Ended::Failed(SessionError::Denied { .. })), "{ended}");
    let ended = sender.task.await.unwrap();
    assert_eq!(ended.to_string(), "hub ended the session: this node is denied there");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_given_up() {
    let node = Node::by_hand("hub");
    let (near, _silent) = duplex(64 << 10);
    let begun = Instant::now();
    let session = run(node.endpoint("a", &[], Policy::own_space_only()), near);
    let ended = session.task.await.unwrap();
    assert!(matches!(ended, Ended::Failed(SessionError::HandshakeTimeout { .. })), "{ended}");
    assert!(begun.elapsed() >= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_is_given_up_although_the_connection_stands() {
    let node = Node::by_hand("hub");
    let (near, mut far) = duplex(1 << 20);
    let session = run(node.endpoint("a", &[], Policy::own_space_only()), near);
    far.write_all(&hello()).await.unwrap();
    let ended = session.task.await.unwrap();
    assert!(matches!(ended, Ended::Failed(SessionError::Silent { .. })), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_message_end_the_session_at_once_and_the_peer_is_told() {
    let node = Node::by_hand("hub");
    let oversized = [&(1_u32 << 30).to_le_bytes()[..], &[1]].concat();
    let unknown_kind = vec![1, 0, 0, 0, 77];
    let compressed_garbage = [&[2, 0, 0, 0, 2, 1][..], b"this is no stream of Zstandard"].concat();
    for bytes in [oversized, unknown_kind, compressed_garbage] {
        let (near, mut far) = duplex(64 << 10);
        let session = run(node.endpoint("a", &[], Policy::own_space_only()), near);
        far.write_all(&hello()).await.unwrap();
        far.write_all(&bytes).await.unwrap();
        let mut heard = BytesMut::new();
        while far.read_buf(&mut heard).await.unwrap() > 0 {}
        let mut last = None;
        while let Some(message) = codec::decode(&mut heard, u32::MAX).unwrap() {
            last = Some(message);
        }
        assert!(matches!(last, Some(Message::Close(_))), "{last:?}");
        drop(far);
        let ended = session.task.await.unwrap();
        let Ended::Failed(SessionError::PeerMisbehaved { what: PeerMisbehaved::Codec(_), .. }) = ended else {
            panic!("{ended}");
        };
    }
}

fn hello() -> BytesMut {
    let mut bytes = BytesMut::new();
    let hello = Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        incarnation: Incarnation::random().unwrap(),
        session_window_bytes: 1 << 20,
        space_window_bytes: 1 << 20,
        batch_len_max_bytes: 1 << 20,
        next_ms: 15_000,
        takes_zstd: false,
    };
    codec::encode(&Message::Hello(hello), &mut bytes);
    bytes
}
