//! Peers that speak other versions of the protocol, from their raw bytes.

use std::time::Duration;

use bytes::BytesMut;
use counterfoil_replication::{
    CloseReason, Direction, Event, Message, Policy, SessionError, codec,
    net::{Ended, drive},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::sleep,
};

use crate::node::{Node, name};

/// A `Hello` of a peer that speaks the versions `min` to `max`, all by hand; what follows the fields of version 1 is `more`.
fn hello(min: u8, max: u8, more: &[u8]) -> Vec<u8> {
    let mut body = vec![0, min, max];
    body.extend_from_slice(&[0xdd; 16]);
    for window in [1_u32 << 20, 1 << 20, 1 << 20] {
        // A variable-length integer of four bytes.
        body.push(0xfc);
        body.extend_from_slice(&window.to_le_bytes());
    }
    body.extend_from_slice(&[0xfb, 0x98, 0x3a, 0]);
    body.extend_from_slice(more);
    control(&body)
}

/// A control message, framed.
fn control(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 1).to_le_bytes()[..], &[0], body].concat()
}

/// What a later version might say besides: far more than is known here.
const MORE: [u8; 3000] = [0xff; 3000];

/// The messages that a stream still brings, up to its end.
async fn rest(stream: &mut DuplexStream) -> Vec<Message> {
    let mut heard = BytesMut::new();
    while stream.read_buf(&mut heard).await.unwrap() > 0 {}
    let mut messages = Vec::new();
    while let Some(message) = codec::decode(&mut heard, u32::MAX).unwrap() {
        messages.push(message);
    }
    assert!(heard.is_empty(), "whole messages only");
    messages
}

#[tokio::test(start_paused = true)]
async fn a_newer_peer_with_a_longer_hello_is_spoken_to_in_the_version_that_both_know() {
    let node = Node::by_hand("a");
    node.append(1);
    let (near, mut far) = duplex(64 << 10);
    let mut protocols = Vec::new();
    let endpoint = node.endpoint("hub", &[("a", Direction::Send)], Policy::nothing());
    let (handle, session) = drive(near, endpoint, move |event| {
        if let Event::PeerReady { node, protocol, .. } = event {
            assert_eq!(node, name("hub"));
            protocols.push(protocol);
            assert_eq!(protocols, [1]);
        }
    });
    let session = tokio::spawn(session);
    far.write_all(&hello(1, 9, &MORE)).await.unwrap();
    // In version 1: nothing is held of the space, whose source may stream its own logs.
    far.write_all(&control(&[4, 1, b'a', 0, 0, 0, 0, 1, 1])).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(handle.status().incarnation.map(|life| *life.as_bytes()), Some([0xdd; 16]));
    handle.stop();
    let heard = rest(&mut far).await;
    assert!(
        matches!(&heard[0], Message::Hello(hello) if (hello.protocol_min, hello.protocol_max) == (1, 1)),
        "{heard:?}"
    );
    assert!(heard.iter().any(|message| matches!(message, Message::Batch(_))), "records flow: {heard:?}");
    assert!(matches!(session.await.unwrap(), Ended::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_which_no_version_is_known_is_refused_by_name_and_told_what_is_spoken_here() {
    for (min, max, more) in [(2, 9, &MORE[..]), (2, 2, &[]), (0, 0, &[])] {
        let node = Node::by_hand("a");
        let (near, mut far) = duplex(64 << 10);
        let endpoint = node.endpoint("hub", &[("a", Direction::Send)], Policy::nothing());
        let (_handle, session) = drive(near, endpoint, |event| panic!("nothing comes of it: {event:?}"));
        let session = tokio::spawn(session);
        far.write_all(&hello(min, max, more)).await.unwrap();
        let heard = rest(&mut far).await;
        assert_eq!(heard.last(), Some(&Message::Close(CloseReason::Protocol { min: 1, max: 1 })), "{heard:?}");
        drop(far);
        let ended = session.await.unwrap();
        assert!(ended.is_lasting(), "trying again is of no use");
        let Ended::Failed(SessionError::NoCommonProtocol { node, peer_min, peer_max }) = ended else {
            panic!("{ended}");
        };
        assert_eq!((node, peer_min, peer_max), (name("hub"), min.into(), max.into()));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_by_a_newer_peer_says_which_versions_that_speaks() {
    let node = Node::by_hand("a");
    let (near, mut far) = duplex(64 << 10);
    let endpoint = node.endpoint("hub", &[("a", Direction::Send)], Policy::nothing());
    let (_handle, session) = drive(near, endpoint, |_| {});
    let session = tokio::spawn(session);
    // Its refusal comes without any hello.
    far.write_all(&control(&[0x0c, 2, 2, 9])).await.unwrap();
    let ended = session.await.unwrap();
    assert!(ended.is_lasting());
    assert_eq!(ended.to_string(), "hub ended the session: it speaks versions 2 to 9 of the protocol");
}
