//! What a journal was given and what it promised, kept outside it to judge it by.

use std::collections::BTreeMap;

use bytes::Bytes;
use counterfoil_storage::{
    AppendError, Arrival, Batch, Digest, Genesis, Head, Journal, LogId, LogInfo, LogReader, ReadError, Seq,
};

/// How often a reader may fail in a row before a judge gives up on it.
const READ_ERRORS_MAX: usize = 1000;

/// A promise that a journal broke, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err($crate::Violation(format!($($words)+)));
        }
    };
}
pub(crate) use ensure;

/// The other book: every record that a journal was given, and which of them it acknowledged.
///
/// What was acknowledged must be found exactly. Of the rest any front may be found: if a commit
/// failed and other records were given the same sequence numbers after it, either.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    logs: BTreeMap<LogId, LogLedger>,
}

#[derive(Debug, Clone)]
struct LogLedger {
    genesis: Genesis,
    /// Whether the log itself was acknowledged.
    is_proven: bool,
    /// Whether the log itself is queued.
    is_queued: bool,
    /// For each sequence number the bodies given for it; where acknowledged, exactly one.
    bodies: Vec<Vec<Bytes>>,
    /// Sequence number after the last record acknowledged, or served, which promises as much.
    proven: usize,
    /// Sequence number after the last record queued.
    queued: usize,
    /// The first record kept, as the journal said.
    floor: Seq,
    /// How far a floor may have come of which the journal has not said that it is there.
    floor_max: Seq,
    /// Where batches end that were served, with the digests there.
    ends: BTreeMap<Seq, Digest>,
}

/// What a journal serves of one log.
#[derive(Debug, Default)]
pub struct Reading {
    /// In the order in which they were served.
    pub batches: Vec<Batch>,
    /// What was refused.
    pub errors: Vec<ReadError>,
}

impl Reading {
    /// Reads a log from its beginning to its end, or until reading makes no progress.
    pub fn of(reader: LogReader) -> Self {
        let mut reading = Self::default();
        for item in reader {
            match item {
                Ok(batch) => reading.batches.push(batch),
                Err(error) => {
                    let stays = matches!(error, ReadError::Disk { .. } | ReadError::UnknownLog { .. });
                    let is_last = stays || reading.errors.len() > READ_ERRORS_MAX;
                    reading.errors.push(error);
                    if is_last {
                        break;
                    }
                }
            }
        }
        reading
    }
}

/// An acknowledged record that a journal does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its log.
    pub log: LogId,
    /// Its sequence number.
    pub seq: Seq,
    /// Its bytes.
    pub body: Bytes,
    /// Whether reading the log said so at its place.
    pub is_named: bool,
}

/// Whether an error of reading a log says that a record can't be served.
fn names(error: &ReadError, id: LogId, seq: Seq) -> bool {
    match error {
        ReadError::Damaged { log, first_seq, next_seq, .. } | ReadError::Hole { log, first_seq, next_seq } => {
            *log == id && (*first_seq..*next_seq).contains(&seq)
        }
        ReadError::Trimmed { log, first_available, .. } => *log == id && seq < *first_available,
        _ => true,
    }
}

impl Ledger {
    /// The logs given to the journal, ascending.
    pub fn logs(&self) -> impl Iterator<Item = LogId> {
        self.logs.keys().copied()
    }

    /// How many records were acknowledged, or served.
    pub fn proven_records(&self) -> u64 {
        self.logs.values().map(|log| log.proven as u64).sum()
    }

    /// A log was made known.
    pub fn created(&mut self, genesis: &Genesis) {
        let ledger = self.logs.entry(genesis.log_id()).or_insert_with(|| LogLedger {
            genesis: genesis.clone(),
            is_proven: false,
            is_queued: true,
            bodies: Vec::new(),
            proven: 0,
            queued: 0,
            floor: Seq::ZERO,
            floor_max: Seq::ZERO,
            ends: BTreeMap::new(),
        });
        ledger.is_queued = true;
    }

    /// Records were queued from `first_seq` on.
    pub fn queued<B: AsRef<[u8]>>(&mut self, log: LogId, first_seq: Seq, bodies: &[B]) -> Result<(), Violation> {
        let ledger = self.logs.get_mut(&log).ok_or_else(|| Violation(format!("{log} was never created")))?;
        let first = first_seq.0 as usize;
        ensure!(first >= ledger.proven, "{log}: sequence number {first} was given twice, {} are proven", ledger.proven);
        let given = ledger.bodies.len();
        ensure!(first <= given, "{log}: sequence number {first} was given, {given} come before");
        for (index, body) in bodies.iter().enumerate() {
            let body = Bytes::copy_from_slice(body.as_ref());
            match ledger.bodies.get_mut(first + index) {
                Some(candidates) => candidates.push(body),
                None => ledger.bodies.push(vec![body]),
            }
        }
        ledger.queued = first + bodies.len();
        Ok(())
    }

    /// Everything queued was acknowledged.
    pub fn committed(&mut self) {
        for log in self.logs.values_mut() {
            log.is_proven |= log.is_queued || log.queued > log.proven;
            log.prove(log.queued);
        }
    }

    /// A commit failed: of what was queued nothing is known, and another commit does not concern it.
    pub fn commit_failed(&mut self) {
        for log in self.logs.values_mut() {
            log.is_queued = false;
            log.queued = log.proven;
        }
    }

    /// The records of one log before `next_seq` were acknowledged.
    pub fn acknowledged(&mut self, log: LogId, next_seq: Seq) {
        if let Some(log) = self.logs.get_mut(&log) {
            log.is_proven = true;
            log.prove(next_seq.0 as usize);
        }
    }

    /// A floor is about to be advanced to there at most.
    pub fn trimming(&mut self, log: LogId, wanted: Seq) {
        if let Some(log) = self.logs.get_mut(&log) {
            log.floor_max = log.floor_max.max(wanted);
        }
    }

    /// A floor has been advanced.
    pub fn trimmed(&mut self, log: LogId, floor: Seq) {
        if let Some(log) = self.logs.get_mut(&log) {
            log.floor = log.floor.max(floor);
        }
    }

    /// A part of a log goes on behind `head`, and holds what was given; where it ends.
    pub fn check(&self, log: LogId, head: Head, batches: &[Batch]) -> Result<Head, Violation> {
        let ledger = self.logs.get(&log).ok_or_else(|| Violation(format!("{log} was never created")))?;
        ledger.check_chain(log, head, batches)
    }

    /// Batches that were checked were served, which promises them.
    pub fn served(&mut self, log: LogId, batches: &[Batch]) {
        if let Some(ledger) = self.logs.get_mut(&log) {
            ledger.take_batches(batches);
        }
    }

    /// Judges a journal in use: it serves what was acknowledged, and nothing that was not given.
    pub fn judge(&mut self, journal: &Journal) -> Result<(), Violation> {
        let mut batches = 0;
        for info in journal.logs(None) {
            ensure!(self.logs.contains_key(&info.id), "{}: a log that nobody created", info.id);
        }
        for (id, ledger) in &mut self.logs {
            let Some(info) = journal.log(*id) else {
                ensure!(!ledger.is_proven, "{id}: the log is lost");
                continue;
            };
            ensure!(*info.genesis == ledger.genesis, "{id}: another genesis");
            ledger.check_floor(*id, &info)?;
            let reading = Reading::of(journal.read(*id, Seq::ZERO));
            let is_told = |error: &ReadError| {
                matches!(error, ReadError::Trimmed { first_seq: Seq::ZERO, first_available, .. }
                    if *first_available == info.first_seq)
            };
            let trimmed = usize::from(info.first_seq > Seq::ZERO);
            ensure!(reading.errors.iter().take(trimmed).all(is_told), "{id}: {:?}", reading.errors);
            ensure!(reading.errors.len() == trimmed, "{id}: {:?}", reading.errors);
            let begin = Head { next_seq: info.first_seq, digest: info.first_digest };
            let head = ledger.check_chain(*id, begin, &reading.batches)?;
            ensure!(head == info.durable, "{id}: read to {head:?}, said to end at {:?}", info.durable);
            ensure!(
                head.next_seq.0 as usize >= ledger.proven,
                "{id}: ends at {}, not {}",
                head.next_seq,
                ledger.proven
            );
            check_single_reads(journal, &info, &reading.batches)?;
            batches += reading.batches.len();
            ledger.take_served(&info, &reading.batches);
        }
        self.check_arrivals(journal, batches)
    }

    /// Judges a journal that was opened again: as [`judge`](Self::judge), and what it does not have now
    /// is gone for good.
    pub fn judge_reopened(&mut self, journal: &Journal) -> Result<(), Violation> {
        self.judge(journal)?;
        for ledger in self.logs.values_mut() {
            ledger.bodies.truncate(ledger.proven);
            ledger.queued = ledger.proven;
        }
        self.logs.retain(|id, ledger| {
            ledger.is_proven |= journal.log(*id).is_some();
            ledger.is_proven
        });
        Ok(())
    }

    /// Judges a journal on a medium that rots: what it serves is what it was given, in place. Which
    /// acknowledged records it does not serve, and what it says of them.
    pub fn judge_rotten(&self, journal: &Journal) -> Result<Vec<Missing>, Violation> {
        let mut missing = Vec::new();
        for (id, ledger) in &self.logs {
            let reading = Reading::of(journal.read(*id, Seq::ZERO));
            ensure!(reading.errors.len() < READ_ERRORS_MAX, "{id}: reading makes no progress");
            let floor = journal.log(*id).map_or(Seq::ZERO, |info| info.first_seq);
            ensure!(floor <= ledger.floor.max(ledger.floor_max), "{id}: trimmed to {floor}, not {}", ledger.floor_max);
            let mut served = vec![false; ledger.proven];
            let mut end = 0;
            for batch in &reading.batches {
                let range = batch.first_seq().0 as usize..batch.next_seq().0 as usize;
                ensure!(range.start >= end, "{id}: {} was served after {end}", range.start);
                end = range.end;
                ledger.check_bodies(*id, batch)?;
                range.filter(|seq| *seq < ledger.proven).for_each(|seq| served[seq] = true);
            }
            // Single reads say the same or refuse.
            for seq in [0, ledger.proven / 2, ledger.proven.saturating_sub(1)] {
                if let Ok(Some(batch)) = journal.read_batch(*id, Seq(seq as u64)) {
                    ledger.check_bodies(*id, &batch)?;
                }
            }
            let unserved = (0..).zip(served).filter(|(_, is_served)| !is_served).map(|(seq, _)| Seq(seq));
            let unserved = unserved.filter(|seq| *seq >= ledger.floor);
            missing.extend(unserved.map(|seq| Missing {
                log: *id,
                seq,
                body: ledger.bodies[seq.0 as usize][0].clone(),
                is_named: reading.errors.iter().any(|error| names(error, *id, seq)),
            }));
        }
        Ok(missing)
    }

    /// On a medium that rots: none of the logs that can be appended to goes on before its end, or begins again.
    pub fn judge_own(&self, journal: &Journal) -> Result<(), Violation> {
        let identity = journal.identity();
        for (id, ledger) in &self.logs {
            let end = journal.log(*id).map_or(0, |info| info.durable.next_seq.0 as usize);
            let is_open = match journal.writer(*id) {
                Ok(_) => true,
                Err(AppendError::UnknownLog { .. }) => {
                    let genesis = &ledger.genesis;
                    genesis.node == identity.node && genesis.nonce == *identity.incarnation.as_bytes()
                }
                Err(_) => false,
            };
            ensure!(!is_open || end >= ledger.proven, "{id}: goes on at {end}, {} are proven", ledger.proven);
        }
        Ok(())
    }

    fn check_arrivals(&self, journal: &Journal, batches: usize) -> Result<(), Violation> {
        let mut ends: BTreeMap<LogId, Seq> = BTreeMap::new();
        let mut last: Option<Arrival> = None;
        let mut count = 0;
        for item in journal.read_arrivals(Arrival::ZERO) {
            let (arrival, batch) = match item {
                Err(ReadError::TrimmedArrivals { first_arrival, first_available }) => {
                    ensure!(first_arrival < first_available, "nothing was trimmed at {first_arrival}");
                    ensure!(self.logs.values().any(|log| log.floor > Seq::ZERO), "nothing was trimmed");
                    continue;
                }
                item => item.map_err(|error| Violation(format!("by arrival: {error}")))?,
            };
            ensure!(last < Some(arrival), "arrival {arrival} after {last:?}");
            let floor = self.logs.get(&batch.log()).map_or(Seq::ZERO, |ledger| ledger.floor);
            let end = ends.entry(batch.log()).or_insert(floor);
            ensure!(*end == batch.first_seq(), "by arrival, {}: {} after {end}", batch.log(), batch.first_seq());
            *end = batch.next_seq();
            let ledger = self.logs.get(&batch.log()).ok_or_else(|| Violation(format!("{} by arrival", batch.log())))?;
            ledger.check_bodies(batch.log(), &batch)?;
            last = Some(arrival);
            count += 1;
        }
        ensure!(count == batches, "{count} batches by arrival, {batches} by log");
        Ok(())
    }
}

impl LogLedger {
    fn prove(&mut self, next: usize) {
        for candidates in &mut self.bodies[self.proven.min(next)..next] {
            candidates.drain(..candidates.len() - 1);
        }
        self.proven = self.proven.max(next);
    }

    /// The floor is where it was put, and what it says that the first record follows is what was there.
    fn check_floor(&self, id: LogId, info: &LogInfo) -> Result<(), Violation> {
        let LogInfo { first_seq, first_digest, .. } = info;
        ensure!(*first_seq >= self.floor, "{id}: the floor went back from {} to {first_seq}", self.floor);
        ensure!(*first_seq <= self.floor.max(self.floor_max), "{id}: trimmed to {first_seq}, not {}", self.floor_max);
        ensure!(first_seq.0 as usize <= self.bodies.len(), "{id}: trimmed beyond its end");
        let known =
            if *first_seq == Seq::ZERO { Some(self.genesis.head().digest) } else { self.ends.get(first_seq).copied() };
        ensure!(known.is_none_or(|digest| digest == *first_digest), "{id}: {first_seq} follows another digest");
        Ok(())
    }

    /// Each batch follows the one before, the first of them `begin`, and holds what was given.
    fn check_chain(&self, id: LogId, begin: Head, batches: &[Batch]) -> Result<Head, Violation> {
        let mut head = begin;
        for batch in batches {
            let header = batch.header();
            ensure!(header.first_seq == head.next_seq, "{id}: {} follows {}", header.first_seq, head.next_seq);
            ensure!(header.previous == head.digest, "{id}: the chain breaks at {}", header.first_seq);
            self.check_bodies(id, batch)?;
            head = batch.head();
        }
        Ok(head)
    }

    fn check_bodies(&self, id: LogId, batch: &Batch) -> Result<(), Violation> {
        ensure!(batch.log() == id, "{id}: a batch of {} was served", batch.log());
        for record in batch.records() {
            let record = record.map_err(|error| Violation(error.to_string()))?;
            let candidates = self.bodies.get(record.seq.0 as usize);
            let candidates = candidates.ok_or_else(|| Violation(format!("{id}: {} was never given", record.seq)))?;
            ensure!(candidates.contains(&record.body), "{id}: {} is not what was given", record.seq);
        }
        Ok(())
    }

    /// What was served is promised: it must be found ever after.
    fn take_served(&mut self, info: &LogInfo, batches: &[Batch]) {
        // What is below the floor was durable, whether it was acknowledged or not.
        self.floor = info.first_seq;
        self.prove(self.proven.max(info.first_seq.0 as usize));
        self.take_batches(batches);
    }

    fn take_batches(&mut self, batches: &[Batch]) {
        self.ends.extend(batches.iter().map(|batch| (batch.next_seq(), batch.digest())));
        let records = batches.iter().flat_map(Batch::records).flatten();
        for record in records {
            if record.seq.0 as usize >= self.proven {
                self.bodies[record.seq.0 as usize] = vec![record.body];
                self.proven = record.seq.0 as usize + 1;
            }
        }
        self.is_proven |= self.proven > 0;
        self.queued = self.queued.max(self.proven);
    }
}

/// Reading by sequence number finds the same batches.
fn check_single_reads(journal: &Journal, info: &LogInfo, batches: &[Batch]) -> Result<(), Violation> {
    let id = info.id;
    if let Some(below) = info.first_seq.0.checked_sub(1) {
        let answer = journal.read_batch(id, Seq(below));
        ensure!(matches!(answer, Err(ReadError::Trimmed { .. })), "{id}: below the floor {answer:?}");
    }
    let read = |seq| journal.read_batch(id, seq).map_err(|error| Violation(format!("{id} at {seq}: {error}")));
    let stride = batches.len() / 8 + 1;
    for batch in batches.iter().step_by(stride).chain(batches.last()) {
        for seq in [batch.first_seq(), Seq(batch.next_seq().0 - 1)] {
            ensure!(read(seq)?.as_ref() == Some(batch), "{id}: {seq} is read as another batch");
        }
    }
    let end = batches.last().map_or(info.first_seq, Batch::next_seq);
    ensure!(read(end)?.is_none(), "{id}: something is read at the end, {end}");
    Ok(())
}
