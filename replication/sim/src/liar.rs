//! A peer with a name of its own and some rights, that says whatever it likes.
//!
//! It runs what honest machines run, over a journal of its own, so that it gets as deep into the protocol as they do; what
//! leaves it is twisted now and then, and now and then something is invented. It knows every log there is.

use std::{collections::BTreeMap, sync::Arc};

use counterfoil_faults::Rng;
use counterfoil_replication::{
    Ack, Announce, CaughtUp, Cell, CloseReason, Credit, Differing, Estimate, Flow, FrontierHash, GapCause, Heads,
    Heartbeat, Hello, LogHead, LogMark, Mend, MendEnd, MendOutcome, Message, Offer, Park, ParkReason, Reconciled,
    Refusal, Refuse, Rewind, Scope, Sketch, VIA_MAX, Want, Wanted, Window,
};
use counterfoil_storage::{
    Batch, BatchBuilder, Digest, Genesis, Head, Hlc, Holes, Incarnation, LogId, NodeName, Seq, SpaceName,
};

use crate::{bugs, machine::Chains};

/// The name of the one who lies.
pub(crate) const LIAR: &str = "liar";

/// One that lies.
#[derive(Debug)]
pub(crate) struct Liar {
    rng: Rng,
    /// It lies once in so many messages.
    seldom: u64,
    /// What it has kept back.
    held: Option<Message>,
}

/// What it knows when it says something.
pub(crate) struct Known<'a> {
    pub(crate) chains: &'a Chains,
    /// Everybody.
    pub(crate) names: &'a [NodeName],
    pub(crate) spaces: &'a [SpaceName],
    pub(crate) own: &'a [Arc<Genesis>],
    /// What it has been offered by the one that it talks to.
    pub(crate) offers: &'a BTreeMap<SpaceName, u32>,
    /// The one that it talks to has chosen to send to it, and so believes what it says of others.
    pub(crate) is_trusted: bool,
}

/// What it says.
pub(crate) enum Said {
    Message(Message),
    Garbage(Vec<u8>),
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

impl Liar {
    pub(crate) fn new(mut rng: Rng) -> Self {
        let seldom = [3, 6, 15, 60][rng.below(4) as usize];
        Self { rng, seldom, held: None }
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.rng.below(of.len() as u64) as usize) }
    }

    /// What it says instead of a message, and how many lies are in it.
    pub(crate) fn say(&mut self, message: Message, known: &Known<'_>) -> (Vec<Said>, u64) {
        let (mut said, mut lies) = (Vec::new(), 0);
        if self.rng.chance(1, 2 * self.seldom) {
            lies += 1;
            said.extend(self.invent(known).map(Said::Message));
        }
        if self.rng.chance(1, 20 * self.seldom) {
            lies += 1;
            let len = self.rng.below(200) as usize;
            said.push(Said::Garbage((0..len).map(|_| self.rng.next_u64() as u8).collect()));
        }
        if self.rng.chance(1, self.seldom) {
            lies += 1;
            said.extend(self.twist(message, known).into_iter().map(Said::Message));
        } else {
            said.push(Said::Message(message));
        }
        (said, lies)
    }

    fn digest(&mut self) -> Digest {
        Digest::from_bytes([self.rng.next_u64() as u8; 32])
    }

    /// Any log: of somebody else, of its own, of nobody.
    fn log(&mut self, known: &Known<'_>) -> LogId {
        let own: Vec<LogId> = known.own.iter().map(|genesis| genesis.log_id()).collect();
        let others: Vec<LogId> = known.chains.logs().map(|(log, _)| log).collect();
        let picked = if self.rng.chance(1, 3) { self.pick(&own) } else { self.pick(&others) };
        match picked {
            Some(log) if !self.rng.chance(1, 20) => *log,
            _ => LogId::from_bytes([self.rng.next_u64() as u8; 16]),
        }
    }

    /// A head of a log: a true one, one beyond all that exists, one of another history, or none at all.
    fn head(&mut self, log: LogId, known: &Known<'_>) -> Head {
        let batches = known.chains.of(log);
        let last =
            batches.last().map_or(Head { next_seq: Seq::ZERO, digest: Digest::from_bytes(expand(log)) }, Batch::head);
        match self.rng.below(6) {
            0 | 1 => self.pick(batches).map_or(last, Batch::head),
            2 => Head { next_seq: Seq(last.next_seq.0 + 1 + self.rng.below(50)), digest: self.digest() },
            3 => Head { digest: self.digest(), ..self.pick(batches).map_or(last, Batch::head) },
            4 => Head { next_seq: Seq(u64::MAX - self.rng.below(2)), digest: self.digest() },
            _ => last,
        }
    }

    fn who(&mut self, known: &Known<'_>) -> NodeName {
        if known.is_trusted || self.rng.chance(1, 2) {
            return node(LIAR);
        }
        self.pick(known.names).cloned().unwrap_or_else(|| node(LIAR))
    }

    fn space(&mut self, known: &Known<'_>) -> SpaceName {
        let nowhere = SpaceName::new("nowhere").expect("a name");
        if self.rng.chance(1, 20) { nowhere } else { self.pick(known.spaces).cloned().unwrap_or(nowhere) }
    }

    fn scope(&mut self) -> Scope {
        if self.rng.chance(1, 2) { Scope::All } else { Scope::Own }
    }

    fn flow(&mut self) -> Flow {
        if self.rng.chance(1, 2) { Flow::Incoming } else { Flow::Outgoing }
    }

    fn ack(&mut self, ack: Ack, known: &Known<'_>) -> Ack {
        match self.rng.below(7) {
            0 => Ack { head: self.head(ack.log, known), ..ack },
            1 => Ack { head: Head { next_seq: Seq(ack.head.next_seq.0 + 1 + self.rng.below(9)), ..ack.head }, ..ack },
            2 => Ack { node: self.who(known), ..ack },
            3 => Ack { incarnation: Incarnation::from_bytes([self.rng.next_u64() as u8; 16]), ..ack },
            4 => Ack { holes: Holes::try_from(vec![(Seq(1), Seq(3))]).unwrap_or_default(), ..ack },
            5 => Ack { via: vec![node(LIAR); VIA_MAX], node: self.who(known), ..ack },
            _ => Ack { log: self.log(known), ..ack },
        }
    }

    /// A log in somebody's name, in any space.
    fn genesis(&mut self, known: &Known<'_>) -> Genesis {
        let existing: Vec<_> = known.chains.logs().map(|(_, genesis)| Arc::clone(genesis)).collect();
        match self.pick(&existing) {
            Some(genesis) if self.rng.chance(1, 3) => (**genesis).clone(),
            _ => {
                let writer = self.pick(known.names).cloned().unwrap_or_else(|| node(LIAR));
                Genesis::new(self.space(known), writer, [self.rng.next_u64() as u8; 16])
            }
        }
    }

    /// A batch of a log that it did not write, or of its own with another history.
    fn forge(&mut self, known: &Known<'_>) -> Batch {
        let log = self.log(known);
        if let Some(batch) = self.pick(known.chains.of(log))
            && self.rng.chance(1, 2)
        {
            return batch.clone();
        }
        let head = self.head(log, known);
        // No log has as many records as that.
        let head = Head { next_seq: Seq(head.next_seq.0.min(1 << 40)), ..head };
        let mut builder = BatchBuilder::with_capacity(64);
        builder.push(Hlc::from_bits(self.rng.next_u64() >> 1), b"forged");
        builder.seal(log, head)
    }

    /// What it makes of something that it was to say.
    fn twist(&mut self, message: Message, known: &Known<'_>) -> Vec<Message> {
        match message {
            Message::Ack(ack) => vec![Message::Ack(self.ack(ack, known))],
            Message::Heads(heads) => self.heads(heads, known),
            Message::Batch(batch) => match self.rng.below(5) {
                0 => Vec::new(),
                1 => vec![Message::Batch(batch.clone()), Message::Batch(batch)],
                2 => vec![Message::Batch(bugs::anew(&batch))],
                3 => self.held.replace(Message::Batch(batch)).into_iter().collect(),
                _ => vec![Message::Batch(self.forge(known)), Message::Batch(batch)],
            },
            Message::Sketch(mut sketch) => {
                match self.rng.below(4) {
                    0 => sketch = self.sketch(sketch.space),
                    1 => sketch.cells.truncate(self.rng.below(24) as usize),
                    // Nothing is there.
                    2 => sketch.cells.iter_mut().for_each(|cell| *cell = Cell::from_bytes([0; 24])),
                    _ => sketch.cells.push(self.cell()),
                }
                vec![Message::Sketch(sketch)]
            }
            Message::Announce(announce) => match self.rng.below(3) {
                0 => Vec::new(),
                1 => {
                    vec![Message::Announce(Announce { head: self.head(announce.genesis.log_id(), known), ..announce })]
                }
                _ => vec![Message::Announce(Announce { genesis: self.genesis(known), ..announce })],
            },
            Message::Credit(credit) => vec![Message::Credit(Credit { bytes: credit.bytes / 2, ..credit })],
            Message::Hello(hello) => vec![Message::Hello(match self.rng.below(3) {
                0 => Hello { session_window_bytes: 1 << 40, space_window_bytes: 1 << 40, ..hello },
                1 => Hello { batch_len_max_bytes: 0, ..hello },
                _ => Hello { incarnation: Incarnation::from_bytes([self.rng.next_u64() as u8; 16]), ..hello },
            })],
            Message::Heartbeat(beat) => {
                let space = self.space(known);
                let hash = FrontierHash::from_bytes([self.rng.next_u64() as u8; 16]);
                vec![Message::Heartbeat(Heartbeat { frontiers: vec![(space, hash)], ..beat })]
            }
            message if self.rng.chance(1, 2) => vec![message.clone(), message],
            _ => Vec::new(),
        }
    }

    fn cell(&mut self) -> Cell {
        let mut bytes = [0; 24];
        bytes.iter_mut().for_each(|byte| *byte = self.rng.next_u64() as u8);
        Cell::from_bytes(bytes)
    }

    fn sketch(&mut self, space: SpaceName) -> Sketch {
        let cells = (0..self.rng.below(100)).map(|_| self.cell()).collect();
        Sketch { space, scope: self.scope(), told: self.scope(), cells }
    }

    fn wanted(&mut self) -> Wanted {
        match self.rng.below(3) {
            0 => Wanted::All,
            1 => Wanted::More(Estimate::of((0..self.rng.below(65)).map(|_| self.rng.next_u64() as i32).collect())),
            _ => {
                let mark = |_| LogMark::from_bytes([self.rng.next_u64() as u8; 8]);
                Wanted::Logs((0..9).map(mark).collect())
            }
        }
    }

    fn heads(&mut self, mut heads: Heads, known: &Known<'_>) -> Vec<Message> {
        let offered = known.offers.get(&heads.space);
        match (self.rng.below(7), offered) {
            (5, _) => heads.since_heard = !heads.since_heard,
            (6, _) => return vec![Message::Sketch(self.sketch(heads.space))],
            (0, Some(&offer)) => {
                let Heads { space, scope, told, .. } = heads;
                return vec![Message::Equal(Reconciled { space, scope, told, offer })];
            }
            (0 | 1, _) => heads.heads.retain(|_| self.rng.chance(1, 2)),
            (2, _) => heads.scope = self.scope(),
            (3, _) => (heads.first, heads.last) = (self.rng.chance(1, 2), self.rng.chance(1, 2)),
            _ => {
                let log = self.log(known);
                heads.heads.push(LogHead { log, head: self.head(log, known) });
            }
        }
        for said in &mut heads.heads {
            if self.rng.chance(1, 3) {
                said.head = self.head(said.log, known);
            }
        }
        vec![Message::Heads(heads)]
    }

    /// Something that nobody asked for.
    fn invent(&mut self, known: &Known<'_>) -> Option<Message> {
        let log = self.log(known);
        let head = self.head(log, known);
        let space = self.space(known);
        let bytes = 1 << self.rng.below(40);
        Some(match self.rng.below(22) {
            0..=3 => {
                let (node, incarnation) = (self.who(known), Incarnation::from_bytes([self.rng.next_u64() as u8; 16]));
                let incarnation = known.chains.life(&node).filter(|_| self.rng.chance(3, 4)).unwrap_or(incarnation);
                Message::Ack(Ack { log, node, incarnation, head, holes: Holes::default(), via: Vec::new(), losses: 0 })
            }
            4..=6 => Message::Batch(self.forge(known)),
            7..=8 => Message::Announce(Announce { genesis: self.genesis(known), head }),
            9 => Message::Rewind(Rewind { log, head }),
            10 => Message::Park(Park {
                log,
                flow: self.flow(),
                reason: ParkReason::Checksum { first_seq: head.next_seq },
            }),
            11 => Message::Credit(Credit { space, bytes }),
            12 => Message::Window(Window { session_bytes: bytes, space_bytes: bytes }),
            13 => Message::Probe(bytes as u32),
            14 => Message::Want(Want { space }),
            15 => {
                let all = FrontierHash::from_bytes([self.rng.next_u64() as u8; 16]);
                let offer = Offer { space, all, heard: self.rng.chance(1, 2).then_some(all) };
                if self.rng.chance(1, 2) { Message::Offer(offer) } else { Message::Exchange(offer) }
            }
            16 => Message::CaughtUp(CaughtUp { space, whole: true }),
            17 => {
                let heads = vec![LogHead { log, head }];
                let (scope, told) = (self.scope(), self.scope());
                Message::Heads(Heads {
                    space,
                    scope,
                    told,
                    heads,
                    since_heard: self.rng.chance(1, 2),
                    first: true,
                    last: self.rng.chance(1, 2),
                })
            }
            18 => {
                let next_ms = if self.rng.chance(1, 5) { 0 } else { 1000 };
                Message::Heartbeat(Heartbeat { next_ms, frontiers: Vec::new(), heads: vec![LogHead { log, head }] })
            }
            19 => Message::Mend(Mend { log, first_seq: Seq::ZERO, end: head, bytes_max: u32::MAX }),
            20 => match self.rng.below(6) {
                4 => Message::Sketch(self.sketch(space)),
                5 => Message::Differing(Differing { space, wanted: self.wanted() }),
                0 => Message::MendBatch(self.forge(known)),
                1 => Message::MendEnd(MendEnd { log, end: head, outcome: MendOutcome::Lacking(GapCause::Hole) }),
                2 => Message::Refuse(Refuse { space, flow: self.flow(), reason: Refusal::NoRightToRead }),
                _ => Message::Close(CloseReason::Shutdown),
            },
            _ => self.held.take()?,
        })
    }
}

fn expand(log: LogId) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(log.as_bytes());
    bytes
}
