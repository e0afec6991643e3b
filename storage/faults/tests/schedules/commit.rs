//! Group commit: who waits, by blocking or as a future, is told once, in time and not too early.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use counterfoil_storage::AppendError;
use shuttle::{future::block_on, thread};

use crate::{
    explore::explore,
    world::{NEVER, SOON, Threads, World},
};

/// Runs `work` in `count` threads, each with its number, and waits for them.
pub(crate) fn side_by_side(count: usize, work: impl Fn(usize) + Clone + Send + 'static) {
    let threads: Vec<_> = (0..count)
        .map(|number| {
            let work = work.clone();
            thread::spawn(move || work(number))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Appends and waits, one after the other.
fn append_and_wait(world: &World, log: usize, appends: usize) {
    for count in 1..=appends {
        let given = world.append(log, count, 40).unwrap();
        let outcome = given.receipt.wait();
        assert!(outcome.is_ok(), "{outcome:?}");
        world.check(&given, &outcome);
    }
}

/// Appends all, then waits for them in the order `last_first`.
fn append_then_wait(world: &World, log: usize, appends: usize, last_first: bool) {
    let mut given: Vec<_> = (0..appends).map(|_| world.append(log, 1, 300).unwrap()).collect();
    if last_first {
        given.reverse();
    }
    for given in given {
        let outcome = given.receipt.wait();
        assert!(outcome.is_ok(), "{outcome:?}");
        world.check(&given, &outcome);
    }
}

fn writers(threads: Threads) {
    let world = World::new(2, threads, |_| {});
    let writers = world.clone();
    side_by_side(4, move |number| {
        // Two share a log.
        let log = number / 2;
        if number % 2 == 0 { append_and_wait(&writers, log, 3) } else { append_then_wait(&writers, log, 3, true) }
    });
    world.journal.close().unwrap();
    world.judge();
}

#[test]
fn those_who_wait_lead_for_each_other() {
    explore("those_who_wait_lead_for_each_other", 3000, || writers(Threads::None));
}

#[test]
fn those_who_wait_need_no_timer() {
    explore("those_who_wait_need_no_timer", 2000, || writers(Threads::Told));
}

#[test]
fn the_committer_may_come_first() {
    explore("the_committer_may_come_first", 2000, || writers(Threads::Hasty));
}

#[test]
fn records_of_one_writer_keep_their_order() {
    explore("records_of_one_writer_keep_their_order", 1000, || {
        let world = World::new(1, Threads::Hasty, |_| {});
        let writers = world.clone();
        side_by_side(3, move |_| {
            let mut next = 0;
            for _ in 0..4 {
                let receipt = writers.append(0, 2, 30).unwrap().receipt;
                assert!(receipt.first_seq().0 >= next, "{receipt:?} comes after {next}");
                next = receipt.next_seq().0;
            }
        });
        world.journal.commit().unwrap();
        assert_eq!(world.shown(0, counterfoil_storage::Seq::ZERO).len(), 24);
        world.journal.close().unwrap();
        world.judge();
    });
}

#[test]
fn a_wait_with_a_limit_says_only_what_is_so() {
    explore("a_wait_with_a_limit_says_only_what_is_so", 2000, || {
        let world = World::new(1, Threads::Hasty, |_| {});
        let writers = world.clone();
        side_by_side(3, move |number| {
            for _ in 0..2 {
                let given = writers.append(0, 1, 30).unwrap();
                let limit = if number == 0 { NEVER } else { SOON };
                let reached = given.receipt.wait_timeout(limit).unwrap();
                assert!(reached || limit == SOON, "only a limit ends a wait early");
                if reached {
                    writers.check(&given, &Ok(()));
                }
            }
        });
        world.journal.close().unwrap();
        world.judge();
    });
}

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn futures_are_woken_beside_threads_without_a_timer() {
    explore("futures_are_woken_beside_threads_without_a_timer", 2000, || {
        let world = World::new(2, Threads::Told, |_| {});
        let writers = world.clone();
        side_by_side(4, move |number| {
            for _ in 0..2 {
                let given = writers.append(number % 2, 1, 30).unwrap();
                let outcome = if number < 3 {
                    block_on(poll_fn(|cx| given.receipt.poll_durable(cx)))
                } else {
                    given.receipt.wait()
                };
                assert!(outcome.is_ok(), "{outcome:?}");
                writers.check(&given, &outcome);
            }
        });
        world.journal.close().unwrap();
        world.judge();
    });
}

#[test]
fn a_future_that_is_dropped_leaves_nothing_behind() {
    explore("a_future_that_is_dropped_leaves_nothing_behind", 2000, || {
        let world = World::new(1, Threads::Told, |_| {});
        let count = Arc::new(Count::default());
        let (writers, counted) = (world.clone(), Arc::clone(&count));
        side_by_side(3, move |number| {
            let given = writers.append(0, 1, 30).unwrap();
            if number == 0 {
                assert!(given.receipt.wait().is_ok());
                return;
            }
            // Polled, and then given up.
            let waker = Waker::from(Arc::clone(&counted));
            let polled = given.receipt.poll_durable(&mut Context::from_waker(&waker));
            if let Poll::Ready(outcome) = &polled {
                writers.check(&given, outcome);
            }
        });
        world.journal.close().unwrap();
        assert_eq!(Arc::strong_count(&count), 1, "a waker is kept though its group is done");
        world.judge();
    });
}

#[test]
fn the_queue_keeps_its_bound_and_lets_all_in_at_last() {
    const QUEUE_BYTES: usize = 600;
    explore("the_queue_keeps_its_bound_and_lets_all_in_at_last", 2000, || {
        let world = World::new(2, Threads::Told, |options| options.queue_bytes = QUEUE_BYTES);
        let writers = world.clone();
        side_by_side(4, move |number| {
            for _ in 0..3 {
                match writers.append_or(number % 2, 1, 400, number != 3) {
                    Ok(_) => {}
                    Err(AppendError::WouldBlock { .. }) if number == 3 => writers.journal.nudge(),
                    Err(error) => panic!("{error}"),
                }
                // What was let in last may exceed the bound, with what announces its log.
                assert!(writers.journal.stats().queued_bytes < (QUEUE_BYTES + 400 + 500) as u64);
            }
        });
        world.journal.close().unwrap();
        world.judge();
    });
}

#[test]
fn a_bulk_load_seals_beside_the_one_who_leads() {
    explore("a_bulk_load_seals_beside_the_one_who_leads", 1000, || {
        let world = World::new(1, Threads::Hasty, |options| options.queue_bytes = 12 << 10);
        let writers = world.clone();
        side_by_side(2, move |_| {
            for _ in 0..4 {
                // Batches of 1 KiB: a group has more than eight, as a bulk load's has.
                writers.append(0, 10, 500).unwrap();
            }
        });
        world.journal.close().unwrap();
        world.judge();
    });
}

#[test]
fn digests_computed_beside_complete_every_head() {
    const LOGS: usize = 70;
    explore("digests_computed_beside_complete_every_head", 200, || {
        let world = World::new(LOGS, Threads::Told, |_| {});
        let (writer, reader) = (world.clone(), world.clone());
        let writing = thread::spawn(move || {
            for _ in 0..2 {
                let given: Vec<_> = (0..LOGS).map(|log| writer.append(log, 1, 20).unwrap()).collect();
                given.iter().for_each(|given| assert!(given.receipt.wait().is_ok()));
            }
        });
        let reading = thread::spawn(move || {
            for log in [0, LOGS / 2, LOGS - 1, 0] {
                let Some(info) = reader.journal.log(reader.logs[log]) else { continue };
                let Some(last) = info.durable.next_seq.0.checked_sub(1) else { continue };
                let batch = reader.journal.read_batch(info.id, counterfoil_storage::Seq(last)).unwrap().unwrap();
                assert_eq!(batch.head(), info.durable, "a head is told with the digest of its last batch");
            }
        });
        writing.join().unwrap();
        reading.join().unwrap();
        world.journal.close().unwrap();
        world.judge();
    });
}
