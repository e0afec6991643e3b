//! What a failing or full disk does to those who wait: all are told, and nothing that was promised is lost.

use std::future::poll_fn;

use counterfoil_faults::{Fault, Injection, Operation};
use counterfoil_storage::{AppendError, Seq};
use shuttle::{
    future::block_on,
    rand::{Rng, thread_rng},
    thread,
};

use crate::{
    commit::side_by_side,
    explore::explore,
    world::{NEVER, Threads, World},
};

/// From one of the next `within` operations of its kind on, all of them fail.
fn lasting(world: &World, fault: Fault, operation: Operation, within: u64) {
    let number = thread_rng().gen_range(0..within);
    world.disk.faults.inject_ahead(Injection::at(number, fault).of(operation).for_ever());
}

fn poisoned(operation: Operation, threads: Threads) {
    let world = World::new(2, threads, |_| {});
    lasting(&world, Fault::Eio, operation, 4);
    let mut watch = world.journal.watch(None);
    let watched = world.clone();
    // Nobody tells it but the journal.
    let watcher = thread::spawn(move || {
        while !watched.journal.stats().poisoned {
            assert!(watch.wait_timeout(NEVER));
        }
    });
    let writers = world.clone();
    side_by_side(3, move |number| {
        // Long before the last of them the disk has failed.
        for _ in 0..20 {
            let Ok(given) = writers.append(number % 2, 1, 30) else { break };
            let outcome = if number == 2 && threads != Threads::None {
                block_on(poll_fn(|cx| given.receipt.poll_durable(cx)))
            } else {
                given.receipt.wait()
            };
            writers.check(&given, &outcome);
            if let Err(error) = outcome {
                assert!(matches!(error, AppendError::Poisoned { .. }), "{error}");
            }
        }
        let refused = writers.append(number % 2, 1, 30).map(|given| given.receipt.wait());
        assert!(matches!(refused, Err(AppendError::Poisoned { .. })), "{refused:?}");
    });
    watcher.join().unwrap();
    world.shown(0, Seq::ZERO);
    assert!(matches!(world.journal.close(), Err(AppendError::Poisoned { .. })));
    world.judge();
}

#[test]
fn a_failed_flush_is_told_to_all_who_wait() {
    explore("a_failed_flush_is_told_to_all_who_wait", 1500, || poisoned(Operation::SyncData, Threads::None));
}

#[test]
fn a_failed_flush_is_told_to_futures_and_watches_without_a_timer() {
    let name = "a_failed_flush_is_told_to_futures_and_watches_without_a_timer";
    explore(name, 1500, || poisoned(Operation::SyncData, Threads::Told));
}

#[test]
fn a_failed_write_is_told_whoever_meets_it() {
    explore("a_failed_write_is_told_whoever_meets_it", 1500, || poisoned(Operation::Write, Threads::Hasty));
}

#[test]
fn a_failed_flush_is_told_to_all_who_wait_for_room() {
    explore("a_failed_flush_is_told_to_all_who_wait_for_room", 1500, || {
        let world = World::new(1, Threads::Told, |options| options.queue_bytes = 600);
        lasting(&world, Fault::Eio, Operation::SyncData, 4);
        let writers = world.clone();
        side_by_side(4, move |_| {
            // Nobody waits for a receipt.
            let refused = (0..20).find_map(|_| writers.append(0, 1, 400).err());
            assert!(matches!(refused, Some(AppendError::Poisoned { .. })), "{refused:?}");
        });
        assert!(matches!(world.journal.close(), Err(AppendError::Poisoned { .. })));
        world.judge();
    });
}

#[test]
fn a_flush_that_fails_once_whoever_meets_it_loses_nothing_acknowledged() {
    explore("a_flush_that_fails_once_whoever_meets_it_loses_nothing_acknowledged", 1000, || {
        let world = World::new(2, Threads::Hasty, |_| {});
        let number = thread_rng().gen_range(0..20);
        world.disk.faults.inject_ahead(Injection::at(number, Fault::Eio).of(Operation::SyncData));
        let writers = world.clone();
        side_by_side(2, move |number| {
            // Segments roll over, so that the thread that fills them may meet it.
            for _ in 0..6 {
                let Ok(given) = writers.append(number, 1, 4000) else { return };
                let outcome = given.receipt.wait();
                writers.check(&given, &outcome);
            }
        });
        // It fails if the journal met the fault.
        let _ = world.journal.close();
        world.judge();
    });
}

fn full(threads: Threads) {
    let world = World::new(2, threads, |_| {});
    lasting(&world, Fault::NoSpace, Operation::Write, 4);
    let disk = world.disk.clone();
    let cleaner = thread::spawn(move || {
        for _ in 0..thread_rng().gen_range(0..100) {
            thread::yield_now();
        }
        disk.faults.mend();
    });
    let writers = world.clone();
    side_by_side(3, move |number| {
        for _ in 0..4 {
            let Ok(given) = writers.append(number % 2, 1, 30) else { continue };
            let outcome = given.receipt.wait();
            writers.check(&given, &outcome);
            if let Err(error) = outcome {
                assert!(matches!(error, AppendError::StorageFull), "{error}");
            }
        }
    });
    cleaner.join().unwrap();
    let given = world.append(0, 1, 30).unwrap();
    assert!(given.receipt.wait().is_ok(), "there is space again");
    world.journal.close().unwrap();
    world.judge();
}

#[test]
fn a_full_disk_is_told_and_forgotten_once_there_is_space() {
    explore("a_full_disk_is_told_and_forgotten_once_there_is_space", 1500, || full(Threads::None));
}

#[test]
fn a_full_disk_is_told_and_forgotten_beside_the_committer() {
    explore("a_full_disk_is_told_and_forgotten_beside_the_committer", 1500, || full(Threads::Hasty));
}
