//! A node that a hostile peer talks to, message by message, over a real journal in memory.
//!
//! What must hold, whatever comes: no panic; nothing is stored that the policy does not let the peer bring; nothing
//! leaves that it may not read; nothing is acknowledged that is not durable here; what waits to be sent and to be
//! stored stays within the limits; what is believed of the peer's disk is on the chain here, and of others' disks only what it
//! may say. Rights are taken away and given back meanwhile.

mod hub;

use std::{collections::BTreeMap, sync::OnceLock, time::Instant};

use arbitrary::{Arbitrary, Unstructured};
use bytes::BytesMut;
use counterfoil_replication::{
    Ack, Announce, CaughtUp, Cell, CloseReason, Credit, Differing, Estimate, Flow, FrontierHash, Heads, Heartbeat,
    Hello, LogHead, LogMark, Mend, MendEnd, MendOutcome, Message, Offer, Park, ParkReason, Reconciled, Refusal, Refuse,
    Rewind, Scope, Sketch, Want, Wanted, Window, codec,
};
use counterfoil_storage::{Batch, Digest, Genesis, Head, Holes, Incarnation, LogId, NodeName, Seq, SpaceName};

use self::hub::Hub;
use crate::template;

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

/// What the peer may do: all that it ever may, nothing, only read; and that it is denied.
const POLICIES: [&str; 4] = [
    r#"
[[grant]]
node = "p"
space = "p"
rights = ["read", "write"]
[[grant]]
node = "p"
space = "shared"
rights = ["read", "relay"]
"#,
    "",
    r#"
[[grant]]
node = "p"
space = "p"
rights = ["read"]
[[grant]]
node = "p"
space = "shared"
rights = ["read"]
"#,
    r#"
[[deny]]
node = "p"
"#,
];

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
    Sketch {
        space: u8,
        all: bool,
        cells: Vec<u8>,
    },
    Differing {
        space: u8,
        wanted: Vec<u8>,
    },
}

#[derive(Debug, Arbitrary)]
struct Input {
    /// What this node brings into the session of its own accord.
    brings: [Option<bool>; 4],
    is_reading: bool,
    steps: Vec<Step>,
    /// Before which step which of these comes. Apart, so that inputs that were kept earlier say what they said.
    more: Vec<(u8, More)>,
    /// Whether each session begins with a greeting, and another one follows one that has ended, of the same store.
    again: bool,
}

#[derive(Debug, Clone, Arbitrary)]
enum More {
    /// Not the peer's doing.
    Policy(u8),
    /// Of somebody else's disk.
    PassedAck { log: LogPick, node: u8, life: u8, at: HeadPick, hole: Option<u8>, via: Vec<u8> },
    /// The batch that follows what is here: gets further than one at random.
    Next(LogPick),
    /// All that is here of a log is there.
    TrueAck { space: u8, own: bool },
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

fn offer(number: u8, value: u8) -> Offer {
    let heard = match value % 3 {
        0 => None,
        1 => Some(hash(value / 3)),
        _ => Some(hash(value)),
    };
    Offer { space: space(number), all: hash(value), heard }
}

/// The same of those that offer and answer.
fn of_frontiers(step: &Step) -> Option<Message> {
    Some(match step {
        // With the same bytes as before there was the other.
        Step::Offer { space: number @ 0x80.., hash: value } => Message::Exchange(offer(*number, *value)),
        Step::Offer { space: number, hash: value } => Message::Offer(offer(*number, *value)),
        Step::Equal { space: number, all } => {
            Message::Equal(Reconciled { space: space(*number), scope: scope(*all), told: scope(*all), offer: 1 })
        }
        Step::Heads { space: number, all, heads: choices, first, last } => Message::Heads(Heads {
            space: space(*number),
            scope: scope(*all),
            told: scope(*all),
            heads: heads(choices),
            since_heard: choices.len() == 1 && *first && *last,
            first: *first,
            last: *last,
        }),
        Step::Sketch { space: number, all, cells } => Message::Sketch(Sketch {
            space: space(*number),
            scope: scope(*all),
            told: scope(*all),
            cells: cells.iter().map(|value| Cell::from_bytes([*value; 24])).collect(),
        }),
        Step::Differing { space: number, wanted } => {
            let wanted = match wanted.split_first() {
                None => Wanted::All,
                Some((0x80.., numbers)) => {
                    Wanted::More(Estimate::of(numbers.iter().take(64).map(|by| i32::from(*by)).collect()))
                }
                Some(_) => Wanted::Logs(wanted.iter().map(|value| LogMark::from_bytes([*value; 8])).collect()),
            };
            Message::Differing(Differing { space: space(*number), wanted })
        }
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
        Step::Offer { .. } | Step::Equal { .. } | Step::Heads { .. } | Step::Sketch { .. } | Step::Differing { .. } => {
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
            losses: 0,
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

/// Takes bytes as what a peer says and when.
pub fn run(bytes: &[u8]) {
    let _: usize = steps_of(bytes);
}

/// The same; how many steps were taken.
pub fn steps_of(bytes: &[u8]) -> usize {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(bytes)) else { return 0 };
    let mut hub = Hub::new(input.brings);
    let mut steps = 0;
    let mut goes_on = |hub: &mut Hub, goes_on: bool| {
        steps += 1;
        if !goes_on && input.again {
            hub.meet_again();
        }
        goes_on || input.again
    };
    if input.again {
        hub.meet_again();
    }
    'steps: for (number, step) in input.steps.iter().take(STEPS_MAX).enumerate() {
        let more = input.more.iter().filter(|(before, _)| usize::from(*before) % STEPS_MAX == number);
        for (_, more) in more.take(STEPS_MAX) {
            let lives = hub.more(more);
            if !goes_on(&mut hub, lives) {
                break 'steps;
            }
        }
        let lives = hub.step(step);
        if !goes_on(&mut hub, lives) {
            break;
        }
        if input.is_reading {
            hub.transmit();
        }
    }
    hub.judge();
    steps
}

/// Bytes that are many steps of all kinds.
pub fn seeds() -> Vec<Vec<u8>> {
    let spread = |factor: usize| (0..400_usize).map(|at| (at.wrapping_mul(factor) >> 3) as u8).collect::<Vec<_>>();
    [7, 11, 37, 101, 251, 997].map(spread).to_vec()
}
