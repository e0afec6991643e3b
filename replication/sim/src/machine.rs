//! A machine: a journal on a faulty disk, and the other book in which its promises are kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use counterfoil_faults::{FaultVfs, Rng, STORE, small_options};
use counterfoil_replication::{AckBoard, Heads, Message, Reconciled, Sketch};
use counterfoil_storage::{
    AppendError, Batch, BatchBuilder, Genesis, Head, Hlc, Incarnation, Journal, Lives, LogId, LogWriter, NodeName,
    Options, Receipt, Seq, SpaceName,
};

use crate::liar::LIAR;

/// The one true history of each log: what was seen durable where it is written.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    batches: BTreeMap<LogId, Vec<Batch>>,
    geneses: BTreeMap<LogId, Arc<Genesis>>,
    /// Logs of the one who lies, of which there may be many histories.
    lies: BTreeSet<LogId>,
}

impl Chains {
    /// Judges a durable batch: at the log's origin it extends the history, elsewhere it must be part of it.
    fn judge(&mut self, batch: &Batch, is_origin: bool) -> Result<(), String> {
        let (log, seq) = (batch.log(), batch.first_seq());
        let batches = self.batches.entry(log).or_default();
        match batches.binary_search_by_key(&seq, Batch::first_seq) {
            Ok(position) if batches[position] == *batch => Ok(()),
            Ok(_) => Err(format!("log {log} holds other bytes at {seq} than its origin")),
            Err(position) => {
                let end = batches.last().map_or(Seq::ZERO, Batch::next_seq);
                let follows = batches.last().is_none_or(|last| last.digest() == batch.header().previous);
                if !is_origin || position != batches.len() || seq != end || !follows {
                    return Err(format!(
                        "log {log} holds a batch at {seq} that its origin does not, which ends at {end}"
                    ));
                }
                batches.push(batch.clone());
                Ok(())
            }
        }
    }

    fn note(&mut self, log: LogId, genesis: &Arc<Genesis>) {
        if self.geneses.contains_key(&log) {
            return;
        }
        self.geneses.insert(log, Arc::clone(genesis));
        if genesis.node.as_str() == LIAR {
            self.lies.insert(log);
        }
    }

    /// Whether a log is of the one who lies.
    pub(crate) fn is_lie(&self, log: LogId) -> bool {
        self.lies.contains(&log)
    }

    /// All logs that are somewhere.
    pub(crate) fn logs(&self) -> impl Iterator<Item = (LogId, &Arc<Genesis>)> {
        self.geneses.iter().map(|(log, genesis)| (*log, genesis))
    }

    /// The true batches of a log.
    pub(crate) fn of(&self, log: LogId) -> &[Batch] {
        self.batches.get(&log).map_or(&[][..], Vec::as_slice)
    }

    /// A life of a node that wrote something in it.
    pub(crate) fn life(&self, node: &NodeName) -> Option<Incarnation> {
        let genesis = self.geneses.values().find(|genesis| genesis.node == *node)?;
        Some(Incarnation::from_bytes(genesis.nonce))
    }

    /// Whether a log's history has a batch that ends in this head; of one of the liar's it may be any.
    pub(crate) fn has_head(&self, log: LogId, head: Head) -> bool {
        let batches = self.of(log);
        head.next_seq == Seq::ZERO
            || self.is_lie(log)
            || batches
                .binary_search_by_key(&head.next_seq, Batch::next_seq)
                .is_ok_and(|position| batches[position].digest() == head.digest)
    }
}

/// A log of another writer that a practice got by another way and relays.
#[derive(Debug)]
struct Relayed {
    genesis: Genesis,
    head: Head,
}

/// What a machine has promised; all of it must hold after every crash.
#[derive(Debug, Default)]
struct Promises {
    /// To its application.
    local: BTreeMap<LogId, Seq>,
    /// To its peers: acknowledgements and heads.
    acked: BTreeMap<LogId, Head>,
    /// By sending it.
    sent: BTreeMap<LogId, Seq>,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: NodeName,
    pub(crate) disk: FaultVfs,
    lives: Arc<SeededLives>,
    /// `None` while it is down.
    pub(crate) journal: Option<Journal>,
    /// What its process has heard of others' disks.
    pub(crate) board: Arc<AckBoard>,
    /// One for each of the spaces that it writes to, or none.
    writers: Vec<LogWriter>,
    own_spaces: Vec<SpaceName>,
    relayed: Vec<Relayed>,
    /// Appends whose outcome is awaited.
    receipts: Vec<Receipt>,
    promises: Promises,
    /// How far each log has been judged since the machine was last started.
    judged: BTreeMap<LogId, Seq>,
    /// How much was durable when endpoints were last told.
    pub(crate) seen_arrival: u64,
    /// A commit is planned.
    pub(crate) commit_planned: bool,
    records: u64,
}

/// Lives named by a seed and a count: the order of logs, which are named by them, is part of a history.
#[derive(Debug)]
struct SeededLives(Mutex<Rng>);

impl Lives for SeededLives {
    fn next(&self) -> io::Result<Incarnation> {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut name = [0; 16];
        name[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
        name[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
        Ok(Incarnation::from_bytes(name))
    }
}

fn options(disk: &FaultVfs, lives: &Arc<SeededLives>) -> Options {
    let mut options = small_options();
    options.vfs = Arc::new(disk.clone());
    options.lives = Arc::clone(lives) as Arc<dyn Lives>;
    options.ring_bytes = 4 << 10;
    options.queue_bytes = 2 << 10;
    options
}

impl Machine {
    pub(crate) fn new(name: &str, own_spaces: Vec<SpaceName>, relays: &[&str], seed: u64) -> Result<Self, String> {
        let name = NodeName::new(name).map_err(|error| error.to_string())?;
        let relayed = relays.iter().map(|writer| {
            let writer = NodeName::new(writer).map_err(|error| error.to_string())?;
            let space = SpaceName::new(RELAYED_SPACE).map_err(|error| error.to_string())?;
            let genesis = Genesis::new(space, writer, [5; 16]);
            Ok(Relayed { head: genesis.head(), genesis })
        });
        let relayed = relayed.collect::<Result<_, String>>()?;
        let (disk, lives) = (FaultVfs::new(seed), Arc::new(SeededLives(Mutex::new(Rng::new(!seed)))));
        let journal = Journal::create(Path::new(STORE), name.clone(), options(&disk, &lives));
        let journal = journal.map_err(|error| error.to_string())?;
        let mut machine = Self {
            board: AckBoard::new(name.clone()),
            name,
            disk,
            lives,
            journal: Some(journal),
            writers: Vec::new(),
            own_spaces,
            relayed,
            receipts: Vec::new(),
            promises: Promises::default(),
            judged: BTreeMap::new(),
            seen_arrival: 0,
            commit_planned: false,
            records: 0,
        };
        machine.begin_writing();
        Ok(machine)
    }

    /// Stops the process at once. The disk must then be crashed or killed.
    pub(crate) fn stop(&mut self) {
        self.journal = None;
        self.board = AckBoard::new(self.name.clone());
        self.writers.clear();
        self.receipts.clear();
        self.commit_planned = false;
    }

    /// Starts the process on the disk as it is, and judges what it finds.
    pub(crate) fn start(&mut self, chains: &mut Chains) -> Result<(), String> {
        let (journal, _) =
            Journal::open(Path::new(STORE), options(&self.disk, &self.lives)).map_err(|error| error.to_string())?;
        self.seen_arrival = journal.next_arrival().0;
        self.judged.clear();
        self.journal = Some(journal);
        self.begin_writing();
        for relayed in &mut self.relayed {
            let id = relayed.genesis.log_id();
            let known = self.journal.as_ref().and_then(|journal| journal.log(id));
            relayed.head = known.map_or_else(|| relayed.genesis.head(), |log| log.durable);
        }
        self.judge(chains)?;
        self.judge_promises(chains)
    }

    fn begin_writing(&mut self) {
        let Some(journal) = &self.journal else { return };
        let nonce = *journal.identity().incarnation.as_bytes();
        let begin = |space: &SpaceName| {
            let log = journal.create_log(Genesis::new(space.clone(), self.name.clone(), nonce));
            log.and_then(|log| journal.writer(log)).ok()
        };
        self.writers = self.own_spaces.iter().map(begin).collect::<Option<_>>().unwrap_or_default();
    }

    /// Whether this is where a log is written, or got from outside the simulation.
    fn is_origin(&self, log: &Genesis) -> bool {
        log.node == self.name || self.relayed.iter().any(|relayed| relayed.genesis == *log)
    }

    /// Judges what has become durable since the last time.
    pub(crate) fn judge(&mut self, chains: &mut Chains) -> Result<(), String> {
        let Some(journal) = self.journal.as_ref().filter(|_| !self.is_liar()) else { return Ok(()) };
        for log in journal.logs(None) {
            let from = self.judged.get(&log.id).copied().unwrap_or_default();
            if from >= log.durable.next_seq {
                continue;
            }
            let is_origin = self.is_origin(&log.genesis);
            chains.note(log.id, &log.genesis);
            if chains.is_lie(log.id) {
                // Which history came here is the liar's business; that it is one is not.
                let end = whole(journal, &log.genesis).map_err(|error| format!("{}: {error}", self.name))?;
                if end != log.durable {
                    return Err(format!("{}: log {} does not end where it says", self.name, log.id));
                }
                self.judged.insert(log.id, end.next_seq);
                continue;
            }
            for batch in journal.read(log.id, from) {
                let batch = batch.map_err(|error| format!("{}: {error}", self.name))?;
                chains.judge(&batch, is_origin).map_err(|error| format!("{}: {error}", self.name))?;
                self.judged.insert(log.id, batch.next_seq());
            }
            if self.judged.get(&log.id) != Some(&log.durable.next_seq) || !chains.has_head(log.id, log.durable) {
                return Err(format!("{}: log {} does not end where it says", self.name, log.id));
            }
        }
        Ok(())
    }

    /// Whether it is the one who lies: what it holds and says is not judged.
    pub(crate) fn is_liar(&self) -> bool {
        self.name.as_str() == LIAR
    }

    /// What its own logs began with.
    pub(crate) fn own_logs(&self) -> Vec<Arc<Genesis>> {
        let logs = self.journal.as_ref().map(|journal| journal.logs(None)).unwrap_or_default();
        logs.into_iter().filter(|log| log.genesis.node == self.name).map(|log| log.genesis).collect()
    }

    fn judge_promises(&self, chains: &Chains) -> Result<(), String> {
        let Some(journal) = self.journal.as_ref().filter(|_| !self.is_liar()) else { return Ok(()) };
        let acked = self.promises.acked.iter().map(|(log, head)| (*log, head.next_seq, "acknowledged"));
        let local = self.promises.local.iter().map(|(log, seq)| (*log, *seq, "told its application"));
        let sent = self.promises.sent.iter().map(|(log, seq)| (*log, *seq, "sent"));
        for (log, promised, how) in acked.chain(local).chain(sent) {
            let durable = journal.log(log).map_or(Seq::ZERO, |log| log.durable.next_seq);
            if durable < promised {
                return Err(format!(
                    "{}: {how} log {log} up to {promised}, after a crash it ends at {durable}",
                    self.name
                ));
            }
        }
        match self.promises.acked.iter().find(|(log, head)| !chains.has_head(**log, **head)) {
            Some((log, _)) => Err(format!("{}: acknowledged a head of log {log} that never was", self.name)),
            None => Ok(()),
        }
    }

    /// Judges a message that leaves this machine, and keeps what it promises.
    pub(crate) fn judge_sent(&mut self, message: &Message, chains: &Chains) -> Result<(), String> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let durable = |log: LogId| journal.log(log).map_or(Seq::ZERO, |log| log.durable.next_seq);
        let promised: Vec<(LogId, Head)> = match message {
            // Another node's promise, passed on: judged by what that node has promised.
            Message::Ack(ack) if ack.node != self.name => return Ok(()),
            Message::Ack(ack) => vec![(ack.log, ack.head)],
            // All of the space that is there was offered as it is, or a sketch of it was told, or it is as was told before but
            // for what is named.
            Message::Equal(Reconciled { space, .. })
            | Message::Sketch(Sketch { space, .. })
            | Message::Heads(Heads { space, since_heard: true, .. }) => {
                let logs = journal.logs(Some(space)).into_iter();
                logs.map(|log| (log.id, log.durable)).collect()
            }
            Message::Heads(heads) => heads.heads.iter().map(|head| (head.log, head.head)).collect(),
            Message::Batch(batch) => {
                if durable(batch.log()) < batch.next_seq() {
                    return Err(format!("{}: sent {batch:?}, which is not durable there", self.name));
                }
                let sent = self.promises.sent.entry(batch.log()).or_default();
                *sent = batch.next_seq().max(*sent);
                return Ok(());
            }
            _ => return Ok(()),
        };
        for (log, head) in promised {
            if durable(log) < head.next_seq || !chains.has_head(log, head) {
                return Err(format!("{}: acknowledged log {log} at {}, not durable there", self.name, head.next_seq));
            }
            let best = self.promises.acked.entry(log).or_insert(head);
            if best.next_seq < head.next_seq {
                *best = head;
            }
        }
        Ok(())
    }

    /// Whether it is the writer of a log.
    pub(crate) fn writes(&self, log: LogId) -> bool {
        let known = self.journal.as_ref().and_then(|journal| journal.log(log));
        known.is_some_and(|log| log.genesis.node == self.name)
    }

    /// The space of a log that it has.
    pub(crate) fn space_of(&self, log: LogId) -> Option<SpaceName> {
        Some(self.journal.as_ref()?.log(log)?.genesis.space.clone())
    }

    /// Whether this machine ever acknowledged a log up to there, or sent it, which says as much.
    pub(crate) fn has_acked(&self, log: LogId, seq: Seq) -> bool {
        self.promises.acked.get(&log).is_some_and(|head| head.next_seq >= seq)
            || self.promises.sent.get(&log).is_some_and(|sent| *sent >= seq)
    }

    /// Appends records to its own log, and now and then to those it relays; how many.
    pub(crate) fn append(&mut self, count: u64, bytes: u64, to_relayed: bool) -> Result<u64, String> {
        let Some(journal) = &self.journal else { return Ok(0) };
        let first = self.records;
        let bodies: Vec<Vec<u8>> = (first..first + count).map(|number| body(number, bytes)).collect();
        self.records += count;
        if to_relayed && !self.relayed.is_empty() {
            let position = (first % self.relayed.len() as u64) as usize;
            let relayed = &mut self.relayed[position];
            let mut builder = BatchBuilder::with_capacity(64);
            bodies.iter().for_each(|body| builder.push(Hlc::from_bits(first), body));
            let batch = builder.seal(relayed.genesis.log_id(), relayed.head);
            let stored = journal.create_log(relayed.genesis.clone()).map_err(Into::into);
            match stored.and_then(|_| journal.try_store(batch.clone())) {
                Ok(_) => relayed.head = batch.head(),
                Err(counterfoil_storage::StoreError::Append(_)) => {}
                // A full disk dropped what was queued: the log goes on where it durably ends.
                Err(counterfoil_storage::StoreError::Gap { log, .. }) => {
                    relayed.head = journal.log(log).map_or(relayed.genesis.head(), |info| info.durable);
                }
                Err(error) => return Err(format!("{}: relaying: {error}", self.name)),
            }
            return Ok(count);
        }
        if self.writers.is_empty() {
            self.begin_writing();
            return Ok(0);
        }
        let writer = &self.writers[(first % self.writers.len() as u64) as usize];
        // A full or failed disk refuses: nothing is promised then.
        if let Ok(receipt) = writer.try_append_all(&bodies) {
            self.receipts.push(receipt);
        }
        Ok(count)
    }

    /// Flushes what is queued. Whether the journal can go on.
    pub(crate) fn commit(&mut self) -> Result<bool, String> {
        self.commit_planned = false;
        let Some(journal) = &self.journal else { return Ok(true) };
        let committed = journal.commit();
        let before = self.receipts.len();
        for receipt in self.receipts.drain(..) {
            match receipt.is_durable() {
                Ok(true) => {
                    let local = self.promises.local.entry(receipt.log()).or_default();
                    *local = receipt.next_seq().max(*local);
                }
                Ok(false) => return Err(format!("{}: a commit of {before} appends left one open", self.name)),
                Err(_) => {}
            }
        }
        match committed {
            Ok(()) => Ok(true),
            Err(AppendError::StorageFull) => {
                for relayed in &mut self.relayed {
                    let known = journal.log(relayed.genesis.log_id());
                    relayed.head = known.map_or_else(|| relayed.genesis.head(), |log| log.durable);
                }
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// Whether something is queued that nobody has planned to flush.
    pub(crate) fn needs_commit(&self) -> bool {
        !self.commit_planned && self.journal.as_ref().is_some_and(|journal| journal.stats().queued_bytes > 0)
    }

    /// Durable heads of its logs that are not empty.
    pub(crate) fn heads(&self) -> BTreeMap<LogId, Head> {
        let logs = self.journal.as_ref().map(|journal| journal.logs(None)).unwrap_or_default();
        logs.into_iter().filter(|log| log.durable.next_seq > Seq::ZERO).map(|log| (log.id, log.durable)).collect()
    }
}

/// Where a log ends, if its batches follow each other.
fn whole(journal: &Journal, genesis: &Genesis) -> Result<Head, String> {
    let mut head = genesis.head();
    for batch in journal.read(genesis.log_id(), Seq::ZERO) {
        let batch = batch.map_err(|error| error.to_string())?;
        if batch.first_seq() != head.next_seq
            || batch.header().previous != head.digest
            || batch.check_records().is_err()
        {
            return Err(format!("log {} is broken at {}", genesis.log_id(), batch.first_seq()));
        }
        head = batch.head();
    }
    Ok(head)
}

/// The space of the logs that a practice relays.
pub(crate) const RELAYED_SPACE: &str = "relayed";

fn body(number: u64, bytes_max: u64) -> Vec<u8> {
    let mut body = format!("record {number} ").into_bytes();
    let len = (number.wrapping_mul(2_654_435_761) % bytes_max.max(1)) as usize;
    body.resize(body.len().max(len), b'.');
    body
}
