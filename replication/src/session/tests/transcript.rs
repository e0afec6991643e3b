//! Every byte of a small session, both ways, as version 1 of the protocol has it for ever.

use super::*;
use crate::message::CloseReason;

const GOLDEN: &str = include_str!("transcript.txt");

const MEMBER: &str = "[[grant]]\nnode = \"p\"\nspace = \"s\"\nrights = [\"read\", \"write\"]";

/// What has been said, a line a message: who, what, and its bytes in hexadecimal form.
#[derive(Default)]
struct Transcript(Vec<String>);

impl Transcript {
    fn note(&mut self, speaker: &str, message: &Message) {
        let mut message = message.clone();
        if let Message::Hello(hello) = &mut message {
            // Whether this is built with Zstandard is no part of the protocol.
            hello.takes_zstd = false;
        }
        let mut bytes = BytesMut::new();
        codec::encode(&message, &mut bytes);
        let text = format!("{message:?}");
        let kind = text.split(['(', ' ']).next().unwrap();
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let hex: String = digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
        self.0.push(format!("{speaker} {kind} {hex}"));
    }

    fn title(&mut self, title: &str) {
        self.0.push(format!("# {title}"));
    }

    /// Like [`run`]: what each end says, in turn.
    fn run(&mut self, now: Instant, member: &mut Node, hub: &mut Node) {
        let (mut of_member, mut of_hub) = (member.sent.len(), hub.sent.len());
        run(now, member, hub);
        while of_member < member.sent.len() || of_hub < hub.sent.len() {
            for (name, node, next) in [("p", &*member, &mut of_member), ("h", &*hub, &mut of_hub)] {
                if let Some(message) = node.sent.get(*next) {
                    self.note(name, message);
                    *next += 1;
                }
            }
        }
    }

    fn close(&mut self, member: Node, hub: &mut Node, now: Instant) {
        let close = Message::Close(CloseReason::Shutdown);
        self.note("p", &close);
        drop(member);
        assert!(matches!(hub.session.handle_message(now, close), Err(SessionError::ClosedByPeer { .. })));
    }
}

fn member() -> Node {
    Node::new("p", "hub", &[("s", Direction::Both)])
}

/// Two nodes that sync a space, live for a few seconds, part, and meet again.
fn transcript() -> Vec<String> {
    let mut said = Transcript::default();
    let mut limits = Limits::default();
    // So small that credit is returned.
    (limits.space_window_bytes, limits.space_window_bytes_min) = (512, 512);
    let mut hub = Node::with("hub", "p", &[], Policy::parse(MEMBER).unwrap(), limits);
    let mut member = member();
    let now = start();
    said.title("they meet");
    member.append("s", "p", &["of the member", "twice"]);
    let of_hub = hub.append("s", "hub", &["of the hub"]);
    let of_other = hub.append("s", "q", &["of another member"]);
    hub.append("s", "q", &["more of it"]);
    said.run(now, &mut member, &mut hub);
    said.title("records that come while they are linked");
    let own = member.append("s", "p", &[&"long enough for credit ".repeat(20)]);
    hub.append("s", "hub", &["and back"]);
    said.run(now, &mut member, &mut hub);
    said.title("a second later");
    for node in [&mut member, &mut hub] {
        node.session.handle_timeout(now + SECOND).unwrap();
    }
    said.run(now + SECOND, &mut member, &mut hub);
    said.title("the member has lost a record, and gets it back");
    member.rot(of_other, [0]);
    said.run(now + SECOND, &mut member, &mut hub);
    for (node, other) in [(&member, &hub), (&hub, &member)] {
        assert!([own, of_hub, of_other].iter().all(|log| node.bodies(*log) == other.bodies(*log)));
        assert!(node.session.status().spaces[0].in_sync);
    }
    let logs = std::mem::take(&mut member.logs);
    said.close(member, &mut hub, now + SECOND);

    said.title("they meet again and are equal");
    let mut member = self::member();
    member.logs = logs;
    hub.reconnect();
    said.run(now, &mut member, &mut hub);
    said.close(member, &mut hub, now);
    said.0
}

#[test]
fn the_bytes_of_a_whole_session_are_fixed_for_ever() {
    let said = transcript();
    let golden: Vec<_> = GOLDEN.lines().collect();
    let differs = said.iter().zip(&golden).position(|(said, golden)| said != golden);
    assert!(said == golden, "another session from line {:?} on:\n{}", differs.map(|line| line + 1), said.join("\n"));
}

#[test]
fn an_end_that_is_told_what_one_was_told_then_answers_as_one_did_then() {
    let lines = GOLDEN.lines().take_while(|line| !line.contains("records that come"));
    let mut member = member();
    member.append("s", "p", &["of the member", "twice"]);
    let (now, mut said) = (start(), Vec::new());
    for line in lines.clone() {
        let mut words = line.split(' ');
        if words.next() == Some("h") {
            let mut bytes: BytesMut = bytes_of(words.nth(1).unwrap());
            let message = codec::decode(&mut bytes, MAX_BATCH_LEN as u32).unwrap().unwrap();
            member.handle(now, message).unwrap();
        }
        while let Some(message) = member.transmit() {
            said.push(message);
            member.serve(now);
        }
    }
    let golden: Vec<_> = lines.filter(|line| line.starts_with("p ")).collect();
    let mut spoken = Transcript::default();
    said.iter().for_each(|message| spoken.note("p", message));
    assert!(golden.len() > 5, "it is not empty");
    // What does not wait for the other end may be said earlier.
    let (mut spoken, mut golden) = (spoken.0, golden);
    spoken.sort_unstable();
    golden.sort_unstable();
    assert_eq!(spoken, golden);
}

fn bytes_of(hex: &str) -> BytesMut {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect::<Vec<_>>()[..].into()
}
