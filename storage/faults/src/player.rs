//! Plays programs against a journal on a disk that fails, and judges every answer.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use counterfoil_storage::{
    AppendError, Batch, BatchBuilder, Genesis, Head, Hlc, Journal, LogId, NodeName, OpenError, Options, ReadError,
    Receipt, Recovery, Seq, SpaceName, StoreError, Stored, TrimError, WallClock,
};

use crate::{Fault, FaultVfs, Injection, Ledger, Operation, Reading, Rng, Violation, ledger::ensure};

/// One thing that an application does. A log is named by a number, taken modulo how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes a log of this node.
    CreateLog,
    /// Makes a log of another node.
    CreateForeignLog,
    /// Appends a record of so many bytes.
    Append(usize, usize),
    /// Appends records of these lengths together.
    AppendAll(usize, Vec<usize>),
    /// Stores another node's batch of so many records.
    Store(usize, usize),
    /// Waits for all that is queued.
    Commit,
    /// Advances a log's floor to so many thousandths of it.
    Trim(usize, u64),
    /// Gives back segments.
    Free,
    /// Reads everything and judges it.
    Judge,
    /// Reads on in a log where that was done last, by whatever life of the store.
    Follow(usize),
    /// Opens the store beside to read only, or has that reader look for what is new; and reads it all.
    ReadBeside,
    /// From so many operations ahead on something goes wrong, once or for good.
    Fail(Fault, u64, bool),
    /// Leaves so many bytes of space.
    Fill(u64),
    /// Nothing goes wrong any more, and there is space.
    Mend,
    /// Closes the store and opens it again.
    Reopen,
    /// Kills the process and opens the store again.
    Kill,
    /// Cuts the power and opens the store again.
    Crash(u64),
}

/// A clock that always shows the same time: what a journal does must not depend on it.
#[derive(Debug)]
struct StoppedClock;

impl WallClock for StoppedClock {
    fn unix_ms(&self) -> u64 {
        1_800_000_000_000
    }
}

/// A program's player, with the disk, the journal while it is open, and the ledger.
#[derive(Debug)]
pub struct Player {
    /// The disk.
    pub disk: FaultVfs,
    /// What was given and promised.
    pub ledger: Ledger,
    /// The journal, unless it could not be opened.
    pub journal: Option<Journal>,
    options: Options,
    rng: Rng,
    /// A reader of another process, if there is one.
    beside: Option<Journal>,
    /// How far each log was followed.
    followed: BTreeMap<LogId, Head>,
    /// Logs of this node that can be appended to.
    own: Vec<LogId>,
    /// Logs of another node, with their heads there.
    foreign: Vec<(LogId, Head)>,
    next_space: u64,
    /// Whether the store was made: from then on it must open.
    is_made: bool,
    /// Whether the journal refused an append for good.
    is_poisoned: bool,
    /// Errors that were met and explained by a fault.
    pub errors: u64,
    /// Segments that the journal gave back.
    pub freed_segments: u64,
}

/// The folder of the store on the disk.
pub const STORE: &str = "/store";

/// Options for programs that can be repeated: no threads, a stopped clock, small segments and batches,
/// nothing kept in memory that could be read from the disk.
pub fn small_options() -> Options {
    let mut options = Options::default();
    options.background = false;
    options.clock = Arc::new(StoppedClock);
    options.batch_bytes = 512;
    options.ring_bytes = 0;
    options.segment_bytes_min = 16 << 10;
    options.segment_bytes_max = 32 << 10;
    options
}

/// The same, for a store on that disk.
pub fn options_on(disk: &FaultVfs) -> Options {
    let mut options = small_options();
    options.vfs = Arc::new(disk.clone());
    options
}

impl Player {
    /// A player on `disk` whose store is still to be made.
    pub fn new(disk: FaultVfs, options: Options) -> Self {
        Self {
            disk,
            ledger: Ledger::default(),
            journal: None,
            options,
            rng: Rng::new(42),
            beside: None,
            followed: BTreeMap::new(),
            own: Vec::new(),
            foreign: Vec::new(),
            next_space: 0,
            is_made: false,
            is_poisoned: false,
            errors: 0,
            freed_segments: 0,
        }
    }

    /// Makes the store and plays all steps. Errors are taken if a fault explains them.
    pub fn play(&mut self, program: &[Step]) -> Result<(), Violation> {
        self.open()?;
        program.iter().try_for_each(|step| self.step(step))
    }

    /// Plays one step.
    pub fn step(&mut self, step: &Step) -> Result<(), Violation> {
        match step {
            Step::Reopen => return self.reopen(),
            Step::Kill => return self.replace_disk(self.disk.kill()),
            Step::Crash(seed) => return self.replace_disk(self.disk.crash(*seed)),
            Step::ReadBeside => return self.read_beside(),
            Step::Fail(fault, ahead, lasting) => {
                let injection = Injection::at(*ahead, *fault);
                self.disk.inject_ahead(if *lasting { injection.for_ever() } else { injection });
            }
            Step::Fill(free) => self.disk.set_capacity(Some(self.disk.used_bytes() + free)),
            Step::Mend => {
                self.disk.mend();
                self.disk.set_capacity(None);
            }
            _ => {}
        }
        let Some(journal) = self.journal.clone() else { return Ok(()) };
        match step {
            Step::CreateLog => self.create_log(&journal, "own"),
            Step::CreateForeignLog => self.create_log(&journal, "other"),
            Step::Append(log, len) => self.append(&journal, *log, &[*len]),
            Step::AppendAll(log, lens) => self.append(&journal, *log, lens),
            Step::Store(log, records) => self.store(&journal, *log, *records),
            Step::Commit => self.commit(&journal),
            Step::Trim(log, per_mille) => self.trim(&journal, *log, *per_mille),
            Step::Free => self.free(&journal),
            Step::Follow(log) => self.follow(&journal, *log),
            Step::Judge => self.judge(&journal),
            _ => Ok(()),
        }
    }

    /// Puts another disk, usually what a crash left, in the place of this one, and opens the store there.
    pub fn replace_disk(&mut self, disk: FaultVfs) -> Result<(), Violation> {
        // The journal of a dead process is dropped here: that must do no harm either.
        self.journal = None;
        self.beside = None;
        self.disk = disk;
        self.open()
    }

    /// Another player that knows what this one knows, on another disk; the store is still to be opened.
    #[must_use]
    pub fn on_disk(&self, disk: FaultVfs) -> Self {
        Self {
            disk,
            ledger: self.ledger.clone(),
            journal: None,
            options: self.options.clone(),
            rng: self.rng.clone(),
            beside: None,
            followed: self.followed.clone(),
            own: self.own.clone(),
            foreign: self.foreign.clone(),
            ..*self
        }
    }

    /// Closes the journal, if it is open, and opens it again.
    pub fn reopen(&mut self) -> Result<(), Violation> {
        if let Some(journal) = self.journal.take() {
            match journal.close() {
                Ok(()) => self.ledger.committed(),
                Err(error) => self.explain(&error)?,
            }
        }
        self.open()
    }

    /// Opens the store, or makes it. Without faults this must succeed, and serve what was promised.
    pub fn open(&mut self) -> Result<(), Violation> {
        self.open_with_report().map(drop)
    }

    /// Like [`open`](Self::open), with what the journal reported.
    pub fn open_with_report(&mut self) -> Result<Option<Recovery>, Violation> {
        let mut options = self.options.clone();
        options.vfs = Arc::new(self.disk.clone());
        let opened = match Journal::open(Path::new(STORE), options.clone()) {
            Err(OpenError::NoStore { .. }) if !self.is_made => {
                let node = NodeName::new("own").map_err(|error| Violation(error.to_string()))?;
                Journal::create(Path::new(STORE), node, options).map(|journal| (journal, None))
            }
            Err(error) => Err(error),
            Ok((journal, recovery)) => Ok((journal, Some(recovery))),
        };
        self.is_poisoned = false;
        match opened {
            Ok((journal, recovery)) => {
                self.is_made = true;
                if !self.is_faulty() {
                    let damage = recovery.iter().flat_map(Recovery::damage).next();
                    ensure!(damage.is_none(), "damage was found where there is none: {damage:?}");
                }
                self.settle(&journal)?;
                self.journal = Some(journal);
                Ok(recovery)
            }
            Err(error) => {
                ensure!(self.is_faulty(), "the store does not open: {error}");
                self.errors += 1;
                Ok(None)
            }
        }
    }

    /// On `disk`, which has no more faults: the store opens and has what was promised. What it serves then
    /// survives a crash, and it takes more, which survives one too.
    pub fn prove_sound(&mut self, disk: FaultVfs) -> Result<(), Violation> {
        disk.set_capacity(None);
        disk.set_mischief(0);
        self.replace_disk(disk)?;
        let steps = [
            Step::Crash(1),
            Step::CreateLog,
            Step::Append(0, 10),
            Step::Append(1, 700),
            Step::CreateForeignLog,
            Step::Store(0, 3),
            Step::Commit,
            Step::Judge,
            Step::Reopen,
            Step::Append(1, 70),
            Step::Commit,
            Step::Trim(0, 700),
            Step::Free,
            Step::Crash(2),
            Step::Judge,
        ];
        steps.iter().try_for_each(|step| self.step(step))?;
        ensure!(self.journal.is_some(), "the store is not open");
        Ok(())
    }

    /// What was found at opening becomes what there is.
    fn settle(&mut self, journal: &Journal) -> Result<(), Violation> {
        let judged = self.ledger.judge_reopened(journal);
        if !self.is_faulty() {
            judged?;
        }
        self.own.retain(|id| journal.writer(*id).is_ok());
        self.foreign.retain_mut(|(id, head)| {
            let info = journal.log(*id);
            if let Some(info) = &info {
                *head = info.durable;
            }
            info.is_some()
        });
        Ok(())
    }

    /// Whether an error may be put down to the disk.
    fn is_faulty(&self) -> bool {
        self.disk.struck() > 0 || !self.disk.is_powered() || self.disk.is_bounded()
    }

    fn explain(&mut self, error: &AppendError) -> Result<(), Violation> {
        ensure!(self.is_faulty(), "an error without a fault: {error}");
        if matches!(error, AppendError::StorageFull) {
            ensure!(self.disk.is_bounded() || self.disk.struck() > 0, "full without a bound");
        }
        // Whoever met it, the commit of all that was queued has failed.
        self.ledger.commit_failed();
        self.is_poisoned |= matches!(error, AppendError::Poisoned { .. });
        self.errors += 1;
        Ok(())
    }

    fn create_log(&mut self, journal: &Journal, node: &str) -> Result<(), Violation> {
        self.next_space += 1;
        let name = |_| Violation("a name".into());
        let space = SpaceName::new(&format!("space-{}", self.next_space)).map_err(name)?;
        // A log is a node's own if it names the node and its present incarnation.
        let nonce = *journal.identity().incarnation.as_bytes();
        let genesis = Genesis::new(space, NodeName::new(node).map_err(name)?, nonce);
        match journal.create_log(genesis.clone()) {
            Ok(id) => {
                self.ledger.created(&genesis);
                if node == "own" {
                    self.own.push(id);
                } else {
                    self.foreign.push((id, genesis.head()));
                }
                Ok(())
            }
            Err(error) => {
                if matches!(error, AppendError::Poisoned { .. }) {
                    self.ledger.created(&genesis);
                }
                self.explain(&error)
            }
        }
    }

    fn bodies(&mut self, lens: &[usize]) -> Vec<Vec<u8>> {
        lens.iter().map(|len| (0..*len).map(|_| self.rng.next_u64() as u8).collect()).collect()
    }

    fn append(&mut self, journal: &Journal, log: usize, lens: &[usize]) -> Result<(), Violation> {
        if self.own.is_empty() {
            return Ok(());
        }
        let id = self.own[log % self.own.len()];
        let bodies = self.bodies(lens);
        let writer = match journal.writer(id) {
            Ok(writer) => writer,
            Err(error) => return self.explain(&error),
        };
        let next_seq = writer.next_seq();
        match writer.append_all(&bodies) {
            Ok(receipt) => {
                ensure!(!self.is_poisoned, "a poisoned journal took an append");
                self.take_receipt(&receipt, &bodies)
            }
            Err(error) => self.refused(id, next_seq, &bodies, &error),
        }
    }

    /// Records were refused. If the disk failed when it was tried at once, they may be kept all the same.
    fn refused(&mut self, log: LogId, seq: Seq, bodies: &[Vec<u8>], error: &AppendError) -> Result<(), Violation> {
        if matches!(error, AppendError::Poisoned { .. }) && !self.is_poisoned {
            self.ledger.queued(log, seq, bodies)?;
        }
        self.explain(error)
    }

    fn take_receipt(&mut self, receipt: &Receipt, bodies: &[Vec<u8>]) -> Result<(), Violation> {
        let (first, next) = (receipt.first_seq(), receipt.next_seq());
        ensure!(next.0 - first.0 == bodies.len() as u64, "a receipt for {first}..{next} of {}", bodies.len());
        self.ledger.queued(receipt.log(), first, bodies)
    }

    fn store(&mut self, journal: &Journal, log: usize, records: usize) -> Result<(), Violation> {
        if self.foreign.is_empty() {
            return Ok(());
        }
        let slot = log % self.foreign.len();
        let (id, head) = self.foreign[slot];
        let bodies = self.bodies(&vec![30; records]);
        let batch = foreign_batch(id, head, &bodies);
        match journal.store(batch.clone()) {
            Ok(Stored::Queued(receipt)) => {
                ensure!(!self.is_poisoned, "a poisoned journal took a batch");
                self.take_receipt(&receipt, &bodies)?;
                self.foreign[slot].1 = batch.head();
                match journal.store(batch) {
                    Ok(Stored::Duplicate) => Ok(()),
                    Err(StoreError::Append(error)) => self.explain(&error),
                    Err(StoreError::Read(_)) if self.is_faulty() => Ok(()),
                    again => Err(Violation(format!("{id}: a duplicate was not told: {again:?}"))),
                }
            }
            Ok(Stored::Duplicate) => Err(Violation(format!("{id}: a new batch was taken for a duplicate"))),
            Err(StoreError::Append(error)) => self.refused(id, head.next_seq, &bodies, &error),
            Err(error) => {
                // After a failed commit the journal may have let go of batches that this player still counts.
                ensure!(self.errors > 0, "a sound batch was refused: {error}");
                self.foreign[slot].1 = journal.log(id).map_or(head, |info| info.durable);
                Ok(())
            }
        }
    }

    fn commit(&mut self, journal: &Journal) -> Result<(), Violation> {
        match journal.commit() {
            Ok(()) => {
                ensure!(!self.is_poisoned, "a poisoned journal committed");
                self.ledger.committed();
                Ok(())
            }
            Err(error) => self.explain(&error),
        }
    }

    fn trim(&mut self, journal: &Journal, log: usize, per_mille: u64) -> Result<(), Violation> {
        let logs: Vec<_> = self.own.iter().chain(self.foreign.iter().map(|(id, _)| id)).copied().collect();
        let Some(id) = logs.get(log % logs.len().max(1)).copied() else { return Ok(()) };
        // One that is not durable yet has nothing to trim.
        let Some(info) = journal.log(id) else { return Ok(()) };
        let wanted = Seq(info.durable.next_seq.0 * per_mille / 1000);
        self.ledger.trimming(id, wanted);
        match journal.trim(&[(id, wanted)]) {
            Ok(reached) => {
                ensure!(!self.is_poisoned || reached[0] == info.first_seq, "a poisoned journal took a floor");
                ensure!(reached[0] <= wanted.max(info.first_seq), "{id}: trimmed to {}, not {wanted}", reached[0]);
                self.ledger.trimmed(id, reached[0]);
                Ok(())
            }
            Err(error) => self.explain_trim(&error),
        }
    }

    fn free(&mut self, journal: &Journal) -> Result<(), Violation> {
        match journal.free() {
            Ok(freed) => {
                self.freed_segments += freed.segments;
                Ok(())
            }
            Err(error) => self.explain_trim(&error),
        }
    }

    fn explain_trim(&mut self, error: &TrimError) -> Result<(), Violation> {
        if let TrimError::Append(error) = error {
            return self.explain(error);
        }
        ensure!(self.is_faulty(), "an error without a fault: {error}");
        self.errors += 1;
        Ok(())
    }

    fn follow(&mut self, journal: &Journal, log: usize) -> Result<(), Violation> {
        let logs: Vec<LogId> = self.ledger.logs().collect();
        let Some(id) = logs.get(log % logs.len().max(1)).copied() else { return Ok(()) };
        let Some(info) = journal.log(id) else { return Ok(()) };
        let head = self.followed.entry(id).or_insert(info.genesis.head());
        let is_trimmed = head.next_seq < info.first_seq;
        let from = head.next_seq;
        if is_trimmed {
            *head = Head { next_seq: info.first_seq, digest: info.first_digest };
        }
        let struck = self.disk.struck();
        let mut reading = Reading::of(journal.read(id, from));
        if is_trimmed && matches!(reading.errors.first(), Some(ReadError::Trimmed { .. })) {
            reading.errors.remove(0);
        } else if is_trimmed {
            reading.errors.push(ReadError::UnknownLog { log: id });
        }
        *head = self.ledger.check(id, *head, &reading.batches)?;
        self.ledger.served(id, &reading.batches);
        // Reads may fail while faults strike them, but not because of those before.
        let is_excused = self.disk.struck() > struck || !self.disk.is_powered();
        ensure!(is_excused || reading.errors.is_empty(), "{id}, followed: {}", reading.errors[0]);
        ensure!(is_excused || *head == info.durable, "{id}: followed to {head:?}, it ends at {:?}", info.durable);
        Ok(())
    }

    /// What a reader of another process shows beside a writer is as good as acknowledged, and it changes nothing.
    /// Where there is no writer it shows the last commit, too, which may be lost yet, and reports that.
    fn read_beside(&mut self) -> Result<(), Violation> {
        let changes = |disk: &FaultVfs| {
            let changing = Operation::ALL.into_iter().filter(|kind| kind.changes_disk() && *kind != Operation::Lock);
            changing.map(|kind| disk.counts().of(kind)).sum::<u64>()
        };
        let (before, struck) = (changes(&self.disk), self.disk.struck());
        let mut options = self.options.clone();
        options.vfs = Arc::new(self.disk.clone());
        options.read_only = true;
        let opened = match self.beside.take() {
            Some(beside) => beside.refresh().map(|_| beside),
            None => Journal::open(Path::new(STORE), options).map(|(journal, _)| journal),
        };
        let read = match opened {
            Ok(beside) => {
                let read = self.read_all_beside(&beside);
                self.beside = Some(beside);
                read
            }
            Err(OpenError::NoStore { .. }) if !self.is_made => Ok(()),
            Err(error) => Err(Violation(format!("the store does not open beside: {error}"))),
        };
        ensure!(changes(&self.disk) == before, "reading beside changes the disk");
        if self.disk.struck() > struck || !self.disk.is_powered() { Ok(()) } else { read }
    }

    fn read_all_beside(&mut self, beside: &Journal) -> Result<(), Violation> {
        for info in beside.logs(None) {
            let reading = Reading::of(beside.read(info.id, info.first_seq));
            let begin = Head { next_seq: info.first_seq, digest: info.first_digest };
            self.ledger.check(info.id, begin, &reading.batches)?;
            if self.journal.is_some() {
                self.ledger.served(info.id, &reading.batches);
            }
            ensure!(reading.errors.is_empty(), "{}, beside: {}", info.id, reading.errors[0]);
        }
        Ok(())
    }

    fn judge(&mut self, journal: &Journal) -> Result<(), Violation> {
        let struck = self.disk.struck();
        let judged = self.ledger.judge(journal);
        // Reads may fail while faults strike them, but not because of those before.
        if self.disk.struck() == struck && self.disk.is_powered() { judged } else { Ok(()) }
    }
}

/// A batch of another node's.
fn foreign_batch(log: LogId, head: Head, bodies: &[Vec<u8>]) -> Batch {
    let mut builder = BatchBuilder::with_capacity(0);
    for (index, body) in bodies.iter().enumerate() {
        builder.push(Hlc::from_bits((head.next_seq.0 << 16) + index as u64), body);
    }
    builder.seal(log, head)
}
