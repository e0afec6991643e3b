//! A node that a hostile peer talks to, message by message, over a real journal in memory.
//!
//! What must hold, whatever comes: no panic; nothing is stored that the policy does not let the peer bring; nothing
//! leaves that it may not read; nothing is acknowledged that is not durable here; what waits to be sent and to be
//! stored stays within the limits.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use arbitrary::{Arbitrary, Unstructured};
use bytes::BytesMut;
use counterfoil_replication::{
    Ack, Announce, CaughtUp, CloseReason, Credit, Differing, Direction, Endpoint, Flow, FrontierHash, Heads, Heartbeat,
    Hello, Limits, LogHead, Mend, MendEnd, MendOutcome, Message, Offer, Park, ParkReason, Parts, Policy, Reconciled,
    Refusal, Refuse, Rewind, Scope, SessionConfig, Want, Window, codec,
};
use counterfoil_storage::{
    Batch, Digest, Genesis, Head, Holes, Incarnation, Journal, LogId, NodeName, Seq, SpaceName, vfs::Memory,
};

use crate::template::{self, DIR};

/// The spaces: the peer's own, one that it may read and relay into, one that it has no right to, the node's own.
const SPACES: [&str; 4] = ["p", "shared", "secret", "hub"];
/// Who writes: the peer, this node, somebody else.
const WRITERS: [&str; 3] = ["p", "hub", "q"];
/// Batches of each log that the peer can draw on, one following the other.
const CHAIN_LEN: usize = 5;
/// More of them say nothing new.
const STEPS_MAX: usize = 60;
/// What a step may leave unsent before it is given up: answers to one message are bounded by the node's logs.
const CONTROL_MAX: usize = 64;
const WINDOW_BYTES: u64 = 1 << 10;

const POLICY: &str = r#"
[[grant]]
node = "p"
space = "p"
rights = ["read", "write"]
[[grant]]
node = "p"
space = "shared"
rights = ["read", "relay"]
"#;

#[derive(Debug, Clone, Copy, Arbitrary)]
struct LogPick {
    space: u8,
    writer: u8,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum HeadPick {
    OnChain(u8),
    Forked(u8),
    Odd { next_seq: u64, digest: u8 },
}

#[derive(Debug, Clone, Arbitrary)]
enum Step {
    Hello {
        protocol_min: u8,
        protocol_max: u8,
        life: u8,
        session_window: u64,
        space_window: u64,
        len_max: u32,
        next_ms: u32,
    },
    /// One that is taken.
    Greet,
    Want(u8),
    Offer {
        space: u8,
        hash: u8,
    },
    Equal {
        space: u8,
        all: bool,
    },
    Heads {
        space: u8,
        all: bool,
        heads: Vec<(LogPick, HeadPick)>,
        first: bool,
        last: bool,
    },
    Refuse {
        space: u8,
        incoming: bool,
    },
    Announce {
        log: LogPick,
        head: HeadPick,
        nonce: u8,
    },
    Ack {
        log: LogPick,
        node: u8,
        life: u8,
        head: HeadPick,
    },
    Credit {
        space: u8,
        bytes: u64,
    },
    Rewind {
        log: LogPick,
        head: HeadPick,
    },
    Park {
        log: LogPick,
        incoming: bool,
        seq: u8,
    },
    Heartbeat {
        next_ms: u32,
        frontiers: Vec<(u8, u8)>,
        heads: Vec<(LogPick, HeadPick)>,
    },
    Batch {
        log: LogPick,
        number: u8,
    },
    /// One that forks from the chain.
    Fork {
        log: LogPick,
        number: u8,
        body: Vec<u8>,
    },
    Damaged {
        log: LogPick,
        first_seq: u64,
        len_bytes: u64,
    },
    CaughtUp {
        space: u8,
        whole: bool,
    },
    Close,
    Window {
        session: u64,
        space: u64,
    },
    Probe(u32),
    Echo(u32),
    /// Any bytes, as far as they are a message.
    Raw(Vec<u8>),
    /// Not the peer's doing:
    Commit,
    Read,
    Wait(u16),
    Append,
    /// The peer has lost something, or says so.
    Mend {
        log: LogPick,
        first_seq: u64,
        end: HeadPick,
        bytes_max: u32,
    },
    /// It answers what this node has lost, or has not.
    MendBatch {
        log: LogPick,
        number: u8,
    },
    MendEnd {
        log: LogPick,
        end: HeadPick,
        refused: bool,
    },
    /// Of a frontier.
    Parts {
        space: u8,
        all: bool,
        hashes: Vec<u8>,
    },
    Differing {
        space: u8,
        parts: Vec<u8>,
    },
}

#[derive(Debug, Arbitrary)]
struct Input {
    /// What this node brings into the session of its own accord.
    brings: [Option<bool>; 4],
    is_reading: bool,
    steps: Vec<Step>,
}

/// What there is to talk about, the same in every run.
struct World {
    chains: BTreeMap<LogId, Chain>,
    start: Instant,
}

struct Chain {
    genesis: Genesis,
    batches: Vec<Batch>,
}

impl Chain {
    fn head(&self, number: usize) -> Head {
        number.checked_sub(1).map_or_else(|| self.genesis.head(), |last| self.batches[last % CHAIN_LEN].head())
    }
}

fn pick<T: Copy>(of: &[T], number: u8) -> T {
    of[usize::from(number) % of.len()]
}

fn genesis(space: &str, writer: &str) -> Genesis {
    template::genesis(space, writer)
}

fn space(number: u8) -> SpaceName {
    SpaceName::new(pick(&SPACES, number)).unwrap()
}

fn log(choice: LogPick) -> LogId {
    genesis(pick(&SPACES, choice.space), pick(&WRITERS, choice.writer)).log_id()
}

#[allow(clippy::disallowed_methods, reason = "a beginning of time")]
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut chains = BTreeMap::new();
        for space in SPACES {
            for writer in WRITERS {
                let genesis = genesis(space, writer);
                let id = genesis.log_id();
                let mut head = genesis.head();
                let batches = (0..CHAIN_LEN)
                    .map(|number| {
                        let batch = template::batch(id, head, &[&[number as u8; 50], b"x"]);
                        head = batch.head();
                        batch
                    })
                    .collect();
                chains.insert(id, Chain { genesis, batches });
            }
        }
        World { chains, start: Instant::now() }
    })
}

fn head(choice: HeadPick, log: LogId) -> Head {
    let chain = &world().chains[&log];
    match choice {
        HeadPick::OnChain(number) => chain.head(usize::from(number) % (CHAIN_LEN + 1)),
        HeadPick::Forked(number) => {
            let head = chain.head(usize::from(number) % (CHAIN_LEN + 1));
            Head { digest: Digest::from_bytes([number; 32]), ..head }
        }
        HeadPick::Odd { next_seq, digest } => {
            Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([digest; 32]) }
        }
    }
}

fn heads(choices: &[(LogPick, HeadPick)]) -> Vec<LogHead> {
    choices.iter().map(|(choice, at)| LogHead { log: log(*choice), head: head(*at, log(*choice)) }).collect()
}

fn scope(all: bool) -> Scope {
    if all { Scope::All } else { Scope::Own }
}

fn flow(incoming: bool) -> Flow {
    if incoming { Flow::Incoming } else { Flow::Outgoing }
}

fn hash(number: u8) -> FrontierHash {
    if number == 0 { FrontierHash::of([]) } else { FrontierHash::from_bytes([number; 16]) }
}

fn life(number: u8) -> Incarnation {
    Incarnation::from_bytes([number % 3; 16])
}

/// The same of those that offer and answer.
fn of_frontiers(step: &Step) -> Option<Message> {
    Some(match step {
        Step::Offer { space: number, hash: value } => {
            let heard = (value % 2 == 1).then(|| hash(value / 2));
            Message::Offer(Offer { space: space(*number), all: hash(*value), own: hash(*value), heard })
        }
        Step::Equal { space: number, all } => Message::Equal(Reconciled {
            space: space(*number),
            scope: scope(*all),
            told: scope(*all),
            offered: hash(*number),
        }),
        Step::Heads { space: number, all, heads: choices, first, last } => Message::Heads(Heads {
            space: space(*number),
            scope: scope(*all),
            told: scope(*all),
            heads: heads(choices),
            since_heard: choices.len() == 1 && *first && *last,
            first: *first,
            last: *last,
        }),
        Step::Parts { space: number, all, hashes } => Message::Parts(Parts {
            space: space(*number),
            scope: scope(*all),
            told: scope(*all),
            hashes: hashes.iter().map(|value| hash(*value)).collect(),
        }),
        Step::Differing { space: number, parts } => Message::Differing(Differing {
            space: space(*number),
            parts: parts.iter().map(|part| u16::from(part % 8)).collect(),
        }),
        _ => return None,
    })
}

/// The message that a step has the peer say.
fn message(step: &Step) -> Option<Message> {
    Some(match step {
        Step::Hello { protocol_min, protocol_max, life: number, session_window, space_window, len_max, next_ms } => {
            Message::Hello(Hello {
                protocol_min: (*protocol_min).into(),
                protocol_max: (*protocol_max).into(),
                incarnation: life(*number),
                session_window_bytes: *session_window,
                space_window_bytes: *space_window,
                batch_len_max_bytes: *len_max,
                next_ms: *next_ms,
                takes_zstd: false,
            })
        }
        Step::Greet => Message::Hello(Hello {
            protocol_min: 1,
            protocol_max: 1,
            incarnation: life(0),
            session_window_bytes: 1 << 16,
            space_window_bytes: 1 << 16,
            batch_len_max_bytes: 1 << 16,
            next_ms: 10_000,
            takes_zstd: false,
        }),
        Step::Want(number) => Message::Want(Want { space: space(*number) }),
        Step::Offer { .. } | Step::Equal { .. } | Step::Heads { .. } | Step::Parts { .. } | Step::Differing { .. } => {
            return of_frontiers(step);
        }
        Step::Refuse { space: number, incoming } => {
            Message::Refuse(Refuse { space: space(*number), flow: flow(*incoming), reason: Refusal::NoRightToStream })
        }
        Step::Announce { log: choice, head: at, nonce } => {
            let mut genesis = world().chains[&log(*choice)].genesis.clone();
            genesis.nonce[0] = genesis.nonce[0].wrapping_add(*nonce % 4);
            Message::Announce(Announce { genesis, head: head(*at, log(*choice)) })
        }
        Step::Ack { log: choice, node, life: number, head: at } => Message::Ack(Ack {
            log: log(*choice),
            node: NodeName::new(pick(&WRITERS, *node)).unwrap(),
            incarnation: life(*number),
            head: head(*at, log(*choice)),
            holes: Holes::default(),
            via: Vec::new(),
        }),
        Step::Window { session, space } => Message::Window(Window { session_bytes: *session, space_bytes: *space }),
        Step::Probe(number) => Message::Probe(*number),
        Step::Echo(number) => Message::Echo(*number),
        Step::Credit { space: number, bytes } => Message::Credit(Credit { space: space(*number), bytes: *bytes }),
        Step::Rewind { log: choice, head: at } => {
            Message::Rewind(Rewind { log: log(*choice), head: head(*at, log(*choice)) })
        }
        Step::Park { log: choice, incoming, seq } => Message::Park(Park {
            log: log(*choice),
            flow: flow(*incoming),
            reason: ParkReason::Checksum { first_seq: Seq((*seq).into()) },
        }),
        Step::Heartbeat { next_ms, frontiers, heads: choices } => Message::Heartbeat(Heartbeat {
            next_ms: *next_ms,
            frontiers: frontiers.iter().map(|(number, value)| (space(*number), hash(*value))).collect(),
            heads: heads(choices),
        }),
        Step::Batch { log: choice, number } => {
            let chain = &world().chains[&log(*choice)];
            Message::Batch(chain.batches[usize::from(*number) % CHAIN_LEN].clone())
        }
        Step::Fork { log: choice, number, body } => {
            let id = log(*choice);
            let after = world().chains[&id].head(usize::from(*number) % (CHAIN_LEN + 1));
            Message::Batch(template::batch(id, after, &[body]))
        }
        Step::Damaged { log: choice, first_seq, len_bytes } => {
            Message::DamagedBatch { log: log(*choice), first_seq: Seq(*first_seq), len_bytes: *len_bytes }
        }
        Step::Mend { .. } | Step::MendBatch { .. } | Step::MendEnd { .. } => return mending(step),
        Step::CaughtUp { space: number, whole } => Message::CaughtUp(CaughtUp { space: space(*number), whole: *whole }),
        Step::Close => Message::Close(CloseReason::Shutdown),
        Step::Raw(bytes) => {
            let mut framed = BytesMut::new();
            framed.extend_from_slice(&(bytes.len() as u32 + 1).to_le_bytes());
            framed.extend_from_slice(&[0]);
            framed.extend_from_slice(bytes);
            codec::decode(&mut framed, 1 << 16).ok()??
        }
        Step::Commit | Step::Read | Step::Wait(_) | Step::Append => return None,
    })
}

/// What a peer says of holes.
fn mending(step: &Step) -> Option<Message> {
    Some(match step {
        Step::Mend { log: choice, first_seq, end, bytes_max } => Message::Mend(Mend {
            log: log(*choice),
            first_seq: Seq(*first_seq),
            end: head(*end, log(*choice)),
            bytes_max: *bytes_max,
        }),
        Step::MendBatch { log: choice, number } => {
            let chain = &world().chains[&log(*choice)];
            Message::MendBatch(chain.batches[usize::from(*number) % CHAIN_LEN].clone())
        }
        Step::MendEnd { log: choice, end, refused } => {
            let outcome = if *refused { MendOutcome::Refused } else { MendOutcome::Sent };
            Message::MendEnd(MendEnd { log: log(*choice), end: head(*end, log(*choice)), outcome })
        }
        _ => return None,
    })
}

/// The node.
struct Hub {
    journal: Journal,
    endpoint: Endpoint,
    /// What it wrote itself, in spaces of all kinds.
    own: Vec<LogId>,
    /// Logs that were there before the peer came.
    before: Vec<LogId>,
    brings: Vec<(SpaceName, Direction)>,
    /// What it has offered last.
    offers: BTreeMap<SpaceName, Offer>,
    now: Instant,
}

impl Hub {
    fn new(brings: [Option<bool>; 4]) -> Self {
        let disk = Memory::default();
        let node = NodeName::new("hub").unwrap();
        let journal = Journal::create(Path::new(DIR), node.clone(), template::options(&disk)).unwrap();
        let nonce = *journal.identity().incarnation.as_bytes();
        let mut own = Vec::new();
        for space in SPACES {
            let log = journal.create_log(Genesis { nonce, ..genesis(space, "hub") }).unwrap();
            journal.writer(log).unwrap().append(b"of the node itself").unwrap();
            own.push(log);
        }
        // A log of somebody else in each, up to its second batch.
        for space in SPACES {
            let log = journal.create_log(genesis(space, "q")).unwrap();
            for batch in &world().chains[&log].batches[..2] {
                journal.store(batch.clone()).unwrap();
            }
        }
        journal.commit().unwrap();
        let mut limits = Limits::default();
        limits.spaces_max = 6;
        limits.logs_max = 40;
        limits.session_window_bytes = 2 * WINDOW_BYTES;
        limits.space_window_bytes = WINDOW_BYTES;
        limits.batch_len_max_bytes = 4 << 10;
        limits.control_max = CONTROL_MAX;
        limits.heads_at_once_max = 1;
        limits.fetch_bytes = 100;
        let directions =
            brings.iter().map(|both| both.map(|both| if both { Direction::Both } else { Direction::Send }));
        let brings: Vec<_> =
            (0..).zip(directions).filter_map(|(number, direction)| Some((space(number), direction?))).collect();
        let config = SessionConfig {
            local: node,
            incarnation: journal.identity().incarnation,
            peer: NodeName::new("p").unwrap(),
            spaces: brings.clone(),
            policy: Arc::new(Policy::parse(POLICY).unwrap()),
            limits,
        };
        let now = world().start;
        let before = journal.logs(None).into_iter().map(|info| info.id).collect();
        Self {
            endpoint: Endpoint::new(journal.clone(), config, now),
            journal,
            own,
            before,
            brings,
            offers: BTreeMap::new(),
            now,
        }
    }

    fn direction(&self, space: &SpaceName) -> Option<Direction> {
        self.brings.iter().find(|(name, _)| name == space).map(|(_, direction)| *direction)
    }

    /// Whether the peer may have what is in a space.
    fn may_read(&self, space: &SpaceName) -> bool {
        ["p", "shared"].contains(&space.as_str()) || self.direction(space).is_some()
    }

    /// Whether the peer may bring a log.
    fn may_bring(&self, genesis: &Genesis) -> bool {
        let receives = self.direction(&genesis.space).is_some_and(Direction::receives);
        match genesis.space.as_str() {
            "shared" => true,
            "p" => genesis.node.as_str() == "p" || receives,
            _ => receives,
        }
    }

    fn step(&mut self, step: &Step) -> bool {
        let handled = match step {
            Step::Commit => {
                self.journal.commit().unwrap();
                self.endpoint.handle_journal(self.now)
            }
            Step::Read => {
                self.transmit();
                Ok(())
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis((*ms).into());
                match self.endpoint.poll_timeout() {
                    Some(at) if at <= self.now => self.endpoint.handle_timeout(self.now),
                    _ => Ok(()),
                }
            }
            Step::Append => {
                for log in &self.own {
                    self.journal.writer(*log).unwrap().append(b"more").unwrap();
                }
                Ok(())
            }
            said => match message(said).map(|message| self.answering(message)) {
                Some(message) => self.endpoint.handle_message(self.now, message),
                None => Ok(()),
            },
        };
        if handled.is_err() {
            return false;
        }
        while self.endpoint.poll_event().is_some() {}
        while let Some(fetch) = self.endpoint.poll_fetch() {
            if self.endpoint.handle_fetched(self.now, fetch.run()).is_err() {
                return false;
            }
        }
        true
    }

    /// That all is equal is said of the last offer, or of none.
    fn answering(&self, message: Message) -> Message {
        match message {
            Message::Equal(answer) => {
                let offer = self.offers.get(&answer.space);
                let offered = offer.map(|offer| if answer.told == Scope::All { offer.all } else { offer.own });
                Message::Equal(Reconciled { offered: offered.unwrap_or(answer.offered), ..answer })
            }
            message => message,
        }
    }

    /// Takes all that is to be sent, and judges it.
    fn transmit(&mut self) {
        // Two messages a log and space, and what was waiting.
        let bound = 4 * CONTROL_MAX + 1000;
        for count in 0.. {
            assert!(count < bound, "sending has no end");
            let Some(message) = self.endpoint.poll_transmit() else { return };
            match message {
                Message::Batch(batch) | Message::MendBatch(batch) => {
                    let info = self.journal.log(batch.log()).expect("a log of the journal");
                    assert!(self.may_read(&info.genesis.space), "{} leaves", info.genesis.space);
                    assert!(batch.next_seq() <= info.durable.next_seq, "a batch leaves before it is durable");
                }
                Message::Announce(announce) => {
                    assert!(self.may_read(&announce.genesis.space), "{} is announced", announce.genesis.space);
                    let info = self.journal.log(announce.genesis.log_id()).expect("a log of the journal");
                    assert!(announce.head.next_seq <= info.durable.next_seq);
                }
                Message::Heads(heads) => {
                    for said in heads.heads {
                        let info = self.journal.log(said.log).expect("a log of the journal");
                        assert_eq!(info.genesis.space, heads.space, "another space's head is told");
                        assert!(said.head.next_seq <= info.durable.next_seq);
                    }
                }
                Message::Offer(offer) => drop(self.offers.insert(offer.space.clone(), offer)),
                Message::Ack(ack) if ack.node.as_str() == "hub" => {
                    let durable = self.journal.log(ack.log).map_or(Seq::ZERO, |info| info.durable.next_seq);
                    assert!(
                        ack.head.next_seq <= durable,
                        "{} is acknowledged, {durable} is durable",
                        ack.head.next_seq
                    );
                }
                _ => {}
            }
        }
    }

    /// Nothing is there without a right, and what is there is whole.
    fn judge(&mut self) {
        self.transmit();
        let status = self.endpoint.status();
        assert!(status.spaces.len() <= 6, "{} spaces", status.spaces.len());
        self.journal.commit().unwrap();
        for info in self.journal.logs(None) {
            let was_there = self.before.contains(&info.id);
            assert!(was_there || self.may_bring(&info.genesis), "{:?} was stored without a right", info.genesis);
            if was_there && !self.own.contains(&info.id) && !self.may_bring(&info.genesis) {
                assert_eq!(info.durable.next_seq, Seq(4), "{:?} grew without a right", info.genesis);
            }
            let mut head = info.genesis.head();
            for batch in self.journal.read(info.id, Seq::ZERO) {
                let batch = batch.expect("what was stored is whole");
                assert_eq!(
                    (batch.first_seq(), batch.header().previous),
                    (head.next_seq, head.digest),
                    "the chain holds"
                );
                batch.check_records().expect("its records were checked");
                head = batch.head();
            }
            assert_eq!(head, info.durable);
        }
    }
}

/// Takes bytes as what a peer says and when.
pub fn run(bytes: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(bytes)) else { return };
    let mut hub = Hub::new(input.brings);
    for step in input.steps.iter().take(STEPS_MAX) {
        if !hub.step(step) {
            break;
        }
        if input.is_reading {
            hub.transmit();
        }
    }
    hub.judge();
}

/// Bytes that are many steps of all kinds.
pub fn seeds() -> Vec<Vec<u8>> {
    let spread = |factor: usize| (0..400_usize).map(|at| (at.wrapping_mul(factor) >> 3) as u8).collect::<Vec<_>>();
    [7, 11, 37, 101, 251, 997].map(spread).to_vec()
}
