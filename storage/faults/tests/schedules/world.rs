//! A store, those who use it, and what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use counterfoil_faults::{STORE, small_options};
use counterfoil_storage::{AppendError, Genesis, Journal, LogId, NodeName, Options, Receipt, Seq, SpaceName};

use crate::disk::{Disk, MARK, number_of};

/// So long a wait never ends by itself: see `storage/src/sync/explored.rs`.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// So short a wait may end at any moment.
pub(crate) const SOON: Duration = Duration::from_millis(1);

/// Which threads a journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// None of its own: whoever waits leads.
    None,
    /// Its own, which do nothing before they are told.
    Told,
    /// Its own, whose delays may end at any moment.
    Hasty,
}

/// A store on a watched disk. Clones are one.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) disk: Disk,
    pub(crate) journal: Journal,
    pub(crate) logs: Vec<LogId>,
    next_number: Arc<AtomicU64>,
    given: Arc<Mutex<Vec<Given>>>,
}

/// An append as its writer knows it.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) numbers: Vec<u64>,
    pub(crate) receipt: Receipt,
}

pub(crate) fn options(disk: &Disk, threads: Threads) -> Options {
    let mut options = small_options();
    options.vfs = Arc::new(disk.clone());
    options.background = threads != Threads::None;
    let delay = if threads == Threads::Hasty { SOON } else { NEVER };
    (options.commit_delay, options.mark_delay) = (delay, delay);
    options
}

impl World {
    /// A new store with `logs` logs, each in a space of its own.
    pub(crate) fn new(logs: usize, threads: Threads, change: impl FnOnce(&mut Options)) -> Self {
        let disk = Disk::new();
        let mut options = options(&disk, threads);
        change(&mut options);
        let node = NodeName::new("own").unwrap();
        let journal = Journal::create(Path::new(STORE), node.clone(), options).unwrap();
        let nonce = *journal.identity().incarnation.as_bytes();
        let space = |number| SpaceName::new(&format!("space-{number}")).unwrap();
        let genesis = |number| Genesis::new(space(number), node.clone(), nonce);
        let logs = (0..logs).map(|number| journal.create_log(genesis(number)).unwrap()).collect();
        Self { disk, journal, logs, next_number: Arc::default(), given: Arc::default() }
    }

    /// Appends `count` records of `len` bytes.
    pub(crate) fn append(&self, log: usize, count: usize, len: usize) -> Result<Given, AppendError> {
        self.append_or(log, count, len, true)
    }

    pub(crate) fn append_or(&self, log: usize, count: usize, len: usize, wait: bool) -> Result<Given, AppendError> {
        let first = self.next_number.fetch_add(count as u64, Ordering::Relaxed);
        let numbers: Vec<u64> = (first..first + count as u64).collect();
        let bodies: Vec<Vec<u8>> = numbers.iter().map(|number| body(*number, len)).collect();
        let writer = self.journal.writer(self.logs[log])?;
        let receipt = if wait { writer.append_all(&bodies) } else { writer.try_append_all(&bodies) }?;
        assert_eq!(receipt.next_seq().0 - receipt.first_seq().0, count as u64);
        let given = Given { numbers, receipt };
        self.given.lock().unwrap_or_else(PoisonError::into_inner).push(given.clone());
        Ok(given)
    }

    /// What `outcome` says of an append is so.
    pub(crate) fn check(&self, given: &Given, outcome: &Result<(), AppendError>) {
        match outcome {
            Ok(()) => given.numbers.iter().for_each(|number| {
                assert!(self.disk.has(*number), "record {number} was acknowledged before it was durable");
            }),
            Err(AppendError::StorageFull) => given.numbers.iter().for_each(|number| {
                assert!(!self.disk.has(*number), "record {number} is durable, and was said not to be kept");
            }),
            Err(_) => {}
        }
    }

    /// What is shown of a log from `from` on: the numbers of its records. All of it is durable.
    pub(crate) fn shown(&self, log: usize, from: Seq) -> Vec<u64> {
        let numbers = numbers_from(&self.journal, self.logs[log], from);
        for number in &numbers {
            assert!(self.disk.has(*number), "record {number} is shown before it is durable");
        }
        numbers
    }

    /// Judges the store once all is over: each receipt was told an outcome, and what is found after a crash is what
    /// was acknowledged, in order, once.
    pub(crate) fn judge(self) {
        let Self { disk, journal, logs, given, .. } = self;
        let given = given.lock().unwrap_or_else(PoisonError::into_inner);
        let durable = |given: &Given| match given.receipt.is_durable() {
            Ok(false) => panic!("{:?} was told no outcome", given.receipt),
            outcome => outcome.is_ok(),
        };
        let acknowledged: Vec<&Given> = given.iter().filter(|given| durable(given)).collect();
        let known: BTreeSet<u64> = given.iter().flat_map(|given| given.numbers.iter().copied()).collect();
        drop(journal);
        let mut after = disk.clone();
        after.faults = disk.faults.crash(1);
        let (journal, recovery) = Journal::open(Path::new(STORE), options(&after, Threads::None)).unwrap();
        assert_eq!(recovery.damage().next(), None);
        let mut found: BTreeMap<LogId, Vec<u64>> = BTreeMap::new();
        for log in logs {
            let numbers = numbers_from(&journal, log, Seq::ZERO);
            let once: BTreeSet<u64> = numbers.iter().copied().collect();
            assert_eq!(once.len(), numbers.len(), "no record twice");
            assert!(once.is_subset(&known), "no record that nobody gave");
            found.insert(log, numbers);
        }
        let refused = given.iter().filter(|given| matches!(given.receipt.is_durable(), Err(AppendError::StorageFull)));
        for number in refused.flat_map(|given| &given.numbers) {
            assert!(!found.values().flatten().any(|found| found == number), "{number} was said not to be kept");
        }
        for given in acknowledged {
            let receipt = &given.receipt;
            let (first, next) = (receipt.first_seq().0 as usize, receipt.next_seq().0 as usize);
            assert_eq!(found[&receipt.log()].get(first..next), Some(&given.numbers[..]), "{receipt:?}");
        }
    }
}

/// The body of a record.
pub(crate) fn body(number: u64, len: usize) -> Vec<u8> {
    let mut body = [MARK, &number.to_le_bytes()].concat();
    body.resize(len.max(body.len()), 0);
    body
}

/// The numbers of a log's records from `from` on; none if nothing of the log is durable yet.
fn numbers_from(journal: &Journal, log: LogId, from: Seq) -> Vec<u64> {
    if journal.log(log).is_none() {
        return Vec::new();
    }
    let batches = journal.read(log, from).map(Result::unwrap);
    let records = batches.flat_map(|batch| batch.records().map(Result::unwrap).collect::<Vec<_>>());
    let numbers = records.filter(|record| record.seq >= from).map(|record| number_of(&record.body));
    numbers.map(|number| number.expect("a record of this test's")).collect()
}
