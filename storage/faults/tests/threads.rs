//! The journal with its threads, several writers at once, and the power going at any moment.
//!
//! What happens when is up to the scheduler; what must hold is not.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use counterfoil_faults::{Fault, FaultVfs, Injection, Ledger, Operation, Rng, STORE, options_on};
use counterfoil_storage::{
    AppendError, Genesis, Journal, LogId, NodeName, Options, ReadError, Receipt, Seq, SpaceName,
};

const WRITERS: u64 = 4;

/// A writer meets the fault long before it has appended so often.
const APPENDS_MAX: usize = 5000;

fn options(disk: &FaultVfs) -> Options {
    let mut options = options_on(disk);
    options.background = true;
    options.ring_bytes = 8 << 10;
    options.queue_bytes = 64 << 10;
    options.commit_delay = Duration::from_micros(200);
    options.mark_delay = Duration::from_micros(300);
    options
}

/// Appends until the journal refuses, sometimes waiting, sometimes not.
fn write(journal: &Journal, log: LogId, ledger: &Mutex<Ledger>, seed: u64) {
    let ledger = || ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = Rng::new(seed);
    let Ok(writer) = journal.writer(log) else { return };
    let mut next = 0;
    let mut receipts: Vec<Receipt> = Vec::new();
    for _ in 0..APPENDS_MAX {
        let bodies: Vec<Vec<u8>> =
            (0..=rng.below(5)).map(|_| vec![rng.next_u64() as u8; rng.below(900) as usize]).collect();
        // Before the append: its records may be found even if it is never heard of.
        ledger().queued(log, counterfoil_storage::Seq(next), &bodies).unwrap();
        let Ok(receipt) = writer.append_all(&bodies) else { return };
        if receipt.first_seq().0 != next {
            // A full disk drops what waits behind the group that met it, and says so to whoever asks.
            let told = |earlier: &Receipt| matches!(earlier.is_durable(), Err(AppendError::StorageFull));
            let dropped = receipts.iter().filter(|earlier| earlier.next_seq() > receipt.first_seq());
            assert!(
                receipt.first_seq().0 < next && dropped.clone().count() > 0 && dropped.clone().all(told),
                "{receipt:?}"
            );
            ledger().queued(log, receipt.first_seq(), &bodies).unwrap();
        }
        next = receipt.next_seq().0;
        receipts.push(receipt.clone());
        if rng.chance(1, 3) {
            if receipt.wait().is_err() {
                return;
            }
            ledger().acknowledged(log, receipt.next_seq());
        }
    }
}

/// Keeps little of all logs but the last, and gives back segments, while there are writers; how many were given back.
fn give_back(journal: &Journal, logs: &[LogId], ledger: &Mutex<Ledger>, seed: u64, writers: &AtomicU64) -> u64 {
    let ledger = || ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = Rng::new(seed);
    let mut segments = 0;
    while writers.load(Ordering::Relaxed) > 0 {
        let log = logs[rng.below(WRITERS - 1) as usize];
        let Some(info) = journal.log(log) else { continue };
        let wanted = Seq(info.durable.next_seq.0 * rng.below(1000) / 1000);
        ledger().trimming(log, wanted);
        let Ok(reached) = journal.trim(&[(log, wanted)]) else { break };
        ledger().trimmed(log, reached[0]);
        let Ok(freed) = journal.free() else { break };
        segments += freed.segments;
    }
    segments
}

/// Reads all logs again and again while there are writers: nothing is ever missing but what was trimmed.
fn read(journal: &Journal, logs: &[LogId], writers: &AtomicU64) {
    while writers.load(Ordering::Relaxed) > 0 {
        for log in logs {
            for item in journal.read(*log, Seq::ZERO) {
                match item {
                    Ok(_) | Err(ReadError::Trimmed { .. }) => {}
                    Err(ReadError::Disk { .. } | ReadError::UnknownLog { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(journal.log(*log).is_none_or(|info| info.holes.is_empty()), "{log}: a hole that is none");
        }
    }
}

/// Runs writers until `fault` strikes, then judges what is found on the disk that `fate` makes of it.
fn run(seed: u64, fault: Injection, fate: impl Fn(&FaultVfs) -> FaultVfs) {
    run_with(false, seed, fault, fate);
}

/// The same, beside somebody who gives back segments and somebody who reads, if so wished; how many were given back.
fn run_with(gives_back: bool, seed: u64, fault: Injection, fate: impl Fn(&FaultVfs) -> FaultVfs) -> u64 {
    let disk = FaultVfs::new(seed);
    let node = NodeName::new("own").unwrap();
    let journal = Journal::create(Path::new(STORE), node.clone(), options(&disk)).unwrap();
    let nonce = *journal.identity().incarnation.as_bytes();
    let mut ledger = Ledger::default();
    let mut logs = Vec::new();
    for number in 0..WRITERS {
        let genesis = Genesis::new(SpaceName::new(&format!("space-{number}")).unwrap(), node.clone(), nonce);
        logs.push(journal.create_log(genesis.clone()).unwrap());
        ledger.created(&genesis);
    }
    disk.inject_ahead(fault);
    let ledger = Mutex::new(ledger);
    let writers = AtomicU64::new(WRITERS);
    let freed = thread::scope(|scope| {
        for (log, number) in logs.iter().zip(0..) {
            let (journal, ledger, writers) = (&journal, &ledger, &writers);
            scope.spawn(move || {
                write(journal, *log, ledger, seed * WRITERS + number);
                writers.fetch_sub(1, Ordering::Relaxed);
            });
        }
        if !gives_back {
            return 0;
        }
        scope.spawn(|| read(&journal, &logs, &writers));
        give_back(&journal, &logs, &ledger, seed, &writers)
    });
    assert!(disk.struck() > 0, "seed {seed}: the fault never struck");
    let mut ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    let proven = ledger.proven_records();
    let after = fate(&disk);
    drop(journal);
    let (journal, recovery) = Journal::open(Path::new(STORE), options(&after)).unwrap();
    assert_eq!(recovery.damage().next(), None, "seed {seed}");
    assert_eq!(ledger.judge_reopened(&journal), Ok(()), "seed {seed}: {proven} records were acknowledged");
    // What was served now survives, too.
    let after = after.crash(seed);
    let (journal, _) = Journal::open(Path::new(STORE), options(&after)).unwrap();
    assert_eq!(ledger.judge_reopened(&journal), Ok(()), "seed {seed}, crashed again");
    journal.close().unwrap();
    freed
}

fn told(what: &str, runs: u64) {
    println!("{WRITERS} threads: {what}: {runs} runs, each opened twice");
}

fn seeds(usual: u64) -> std::ops::Range<u64> {
    let factor = std::env::var("COUNTERFOIL_EXPLORE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    0..usual * factor
}

#[test]
fn the_power_may_go_at_any_moment_while_many_append() {
    for seed in seeds(60) {
        let fault = Injection::at(Rng::new(seed).below(600), Fault::PowerCut);
        run(seed, fault, |disk| disk.crash(seed));
        run(seed, fault, FaultVfs::kill);
    }
    told("power cut or kill at any moment", 2 * seeds(60).end);
}

#[test]
fn the_power_may_go_at_any_moment_while_many_append_and_segments_are_given_back() {
    let mut freed = 0;
    for seed in seeds(30) {
        let fault = Injection::at(Rng::new(seed).below(6000), Fault::PowerCut);
        freed += run_with(true, seed, fault, |disk| disk.crash(seed));
        freed += run_with(true, seed, fault, FaultVfs::kill);
    }
    println!("{freed} segments were given back");
    assert!(freed > seeds(30).end, "{freed} segments were given back");
    told("power cut or kill at any moment, beside retention", 2 * seeds(30).end);
}

/// From one of the next 60 operations of its kind on, all of them fail.
fn lasting(fault: Fault, operation: Operation, seed: u64) -> Injection {
    Injection::at(Rng::new(seed).below(60), fault).of(operation).for_ever()
}

#[test]
fn a_flush_or_a_write_may_fail_at_any_moment_while_many_append() {
    for seed in seeds(30) {
        for operation in [Operation::SyncData, Operation::Write] {
            run(seed, lasting(Fault::Eio, operation, seed), |disk| disk.crash(seed));
            run(seed, lasting(Fault::Eio, operation, seed), FaultVfs::kill);
        }
    }
    told("a flush or a write fails", 4 * seeds(30).end);
}

#[test]
fn a_full_disk_refuses_many_writers_and_loses_nothing() {
    for seed in seeds(30) {
        run(seed, lasting(Fault::NoSpace, Operation::Write, seed), |disk| disk.crash(seed));
    }
    told("a full disk", seeds(30).end);
}
