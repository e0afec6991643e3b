//! What it costs two nodes that hold nearly the same to find out what differs: bytes on the wire and round trips.

use std::{path::Path, sync::Arc, time::Instant};

use bytes::BytesMut;
use counterfoil_replication::{AckBoard, Direction, Endpoint, Limits, Message, Policy, SessionConfig, codec};
use counterfoil_storage::{Genesis, Journal, LogWriter, NodeName, Options, SpaceName, Term, vfs::Memory};

use crate::{system::Outcome, workload::SyncCase};

/// What it cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// To find out what differs, both ways.
    pub bytes: f64,
    /// Until the first record that was lacking leaves, or, if nothing differs, until it is known.
    pub round_trips: f64,
    /// What else was said, besides the records' own bytes, until all is durable at both ends; where records are sent at all.
    pub rest_bytes: Option<u64>,
}

/// A way to find out what differs between two nodes.
pub trait Reconciler: Sync {
    /// As in the report.
    fn name(&self) -> &'static str;

    /// Two nodes of so many records, of which those that differ are the newest, half of them at each.
    fn find_out(&self, case: SyncCase, records: usize) -> Outcome<Cost>;
}

/// Counterfoil's sessions, both ways, over journals in memory.
#[derive(Debug, Clone, Copy)]
pub enum OurReconciling {
    /// The processes know nothing of each other.
    Strangers,
    /// They have been linked before.
    Met,
}

impl Reconciler for OurReconciling {
    fn name(&self) -> &'static str {
        match self {
            Self::Strangers => "counterfoil",
            Self::Met => "counterfoil-met",
        }
    }

    fn find_out(&self, case: SyncCase, records: usize) -> Outcome<Cost> {
        let mut nodes = [Node::new("a", "b", case.logs.div_ceil(2))?, Node::new("b", "a", case.logs / 2)?];
        let each = records / case.logs as usize;
        for node in &nodes {
            node.writers.iter().try_for_each(|writer| append(writer, each))?;
            node.journal.commit()?;
        }
        meet(&mut nodes)?;
        for number in 0..case.differing {
            let node = &nodes[number as usize % nodes.len().min(case.logs as usize)];
            append(&node.writers[number as usize / 2 % node.writers.len()], 1)?;
        }
        for node in &mut nodes {
            node.journal.commit()?;
            if matches!(self, Self::Strangers) {
                node.board = AckBoard::new(node.name.clone());
            }
        }
        meet(&mut nodes)
    }
}

/// The least that can tell one node, which knows that the other's logs are as its own or shorter, how long each is: so many of so
/// many logs, each of any length; and 16 bytes, so that it is sure.
#[derive(Debug, Clone, Copy)]
pub struct LeastReconciling;

impl Reconciler for LeastReconciling {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn find_out(&self, case: SyncCase, records: usize) -> Outcome<Cost> {
        let logs = f64::from(case.logs);
        let changed = case.differing.min(case.logs);
        let which: f64 = (0..changed).map(|number| ((logs - f64::from(number)) / f64::from(number + 1)).log2()).sum();
        let how_long = f64::from(changed) * (records as f64 / logs + 1.0).log2();
        let bytes = ((which + how_long) / 8.0).ceil() + 16.0;
        let round_trips = if case.differing == 0 { 0.5 } else { 1.0 };
        Ok(Cost { bytes, round_trips, rest_bytes: None })
    }
}

struct Node {
    name: NodeName,
    peer: NodeName,
    journal: Journal,
    writers: Vec<LogWriter>,
    board: Arc<AckBoard>,
}

fn space() -> Outcome<SpaceName> {
    Ok(SpaceName::new("practice")?)
}

fn append(writer: &LogWriter, records: usize) -> Outcome<()> {
    let bodies: Vec<[u8; 8]> = (0..records as u64).map(u64::to_le_bytes).collect();
    writer.append_all(&bodies)?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the driver of two endpoints tells them the time")]
fn now() -> Instant {
    Instant::now()
}

impl Node {
    fn new(name: &str, peer: &str, logs: u32) -> Outcome<Self> {
        let (name, peer) = (NodeName::new(name)?, NodeName::new(peer)?);
        let mut options = Options::default();
        options.vfs = Arc::new(Memory::default());
        options.background = false;
        let journal = Journal::create(Path::new("store"), name.clone(), options)?;
        let nonce = *journal.identity().incarnation.as_bytes();
        let begin = |number: u32| -> Outcome<LogWriter> {
            let mut genesis = Genesis::new(space()?, name.clone(), nonce);
            // A node has one log in each of its lives: these have that of another term each.
            genesis.term = Term(number.into());
            Ok(journal.writer(journal.create_log(genesis)?)?)
        };
        let writers = (0..logs).map(begin).collect::<Outcome<_>>()?;
        let board = AckBoard::new(name.clone());
        Ok(Self { name, peer, journal, writers, board })
    }

    fn endpoint(&self) -> Outcome<Endpoint> {
        let mut limits = Limits::default();
        limits.logs_per_writer_max = limits.logs_max;
        let config = SessionConfig {
            local: self.name.clone(),
            incarnation: self.journal.identity().incarnation,
            peer: self.peer.clone(),
            spaces: vec![(space()?, Direction::Both)],
            policy: Arc::new(Policy::nothing()),
            limits,
        };
        Ok(Endpoint::new(self.journal.clone(), config, now()).with_acks(&self.board))
    }

    /// Does what an endpoint wants of its journal.
    fn serve(&self, endpoint: &mut Endpoint) -> Outcome<()> {
        loop {
            let mut is_idle = true;
            while let Some(fetch) = endpoint.poll_fetch() {
                endpoint.handle_fetched(now(), fetch.run())?;
                is_idle = false;
            }
            let is_queued = endpoint.poll_commit().is_some() || self.journal.stats().queued_bytes > 0;
            if is_queued {
                self.journal.commit()?;
                endpoint.handle_journal(now())?;
                is_idle = false;
            }
            while endpoint.poll_event().is_some() {}
            if is_idle {
                return Ok(());
            }
        }
    }
}

/// A session until both have all. Time passes in halves of a round trip: whatever an end has to say leaves at once, and arrives
/// at the end of it.
fn meet(nodes: &mut [Node; 2]) -> Outcome<Cost> {
    let mut ends = [nodes[0].endpoint()?, nodes[1].endpoint()?];
    let (mut cost, mut rest, mut first_record, mut known) = (Cost::default(), 0, None, 0.0);
    for half in 0_u32.. {
        let passed = f64::from(half) / 2.0;
        let mut said = [Vec::new(), Vec::new()];
        for ((node, end), said) in nodes.iter().zip(&mut ends).zip(&mut said) {
            node.serve(end)?;
            said.extend(std::iter::from_fn(|| end.poll_transmit()));
        }
        if said.iter().all(Vec::is_empty) {
            break;
        }
        for message in said.iter().flatten() {
            let bytes = len_of(message);
            match message {
                Message::Hello(_) => {}
                Message::Batch(batch) => {
                    first_record.get_or_insert(passed);
                    let bodies: u64 = batch.records().flatten().map(|record| record.body.len() as u64).sum();
                    rest += bytes - bodies;
                }
                Message::Want(_) | Message::Offer(_) | Message::Exchange(_) => cost.bytes += bytes as f64,
                Message::Equal(_) | Message::Heads(_) | Message::Sketch(_) | Message::Differing(_) => {
                    cost.bytes += bytes as f64;
                    known = passed;
                }
                _ => rest += bytes,
            }
        }
        let [of_first, of_second] = said;
        for (end, messages) in ends.iter_mut().zip([of_second, of_first]) {
            messages.into_iter().try_for_each(|message| end.handle_message(now(), message))?;
        }
    }
    let heads = |node: &Node| -> Vec<_> {
        let logs = node.journal.logs(None).into_iter();
        let mut heads: Vec<_> = logs.map(|log| (log.id, log.durable)).collect();
        heads.sort_by_key(|(log, _)| *log);
        heads
    };
    if heads(&nodes[0]) != heads(&nodes[1]) {
        return Err("the two nodes did not become equal".into());
    }
    Ok(Cost { round_trips: first_record.unwrap_or(known), rest_bytes: Some(rest), ..cost })
}

fn len_of(message: &Message) -> u64 {
    let mut bytes = BytesMut::new();
    codec::encode(message, &mut bytes);
    bytes.len() as u64
}
