//! Closing drains what was queued, tells all, and ends every thread; so does dropping the last handle.

use std::{
    future::poll_fn,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use counterfoil_faults::{Operation, STORE};
use counterfoil_storage::{AppendError, Journal, OpenError};
use shuttle::future::block_on;

use crate::{
    commit::side_by_side,
    explore::explore,
    world::{NEVER, Threads, World, options},
};

/// Some append, one closes; whatever was taken is durable when closing is over.
fn closed_amid_appends(threads: Threads) {
    let world = World::new(2, threads, |_| {});
    let users = world.clone();
    let mut watch = world.journal.watch(None);
    let written = Arc::new(AtomicU64::new(0));
    let written_at_close = Arc::clone(&written);
    side_by_side(4, move |number| {
        if number == 0 {
            users.journal.close().unwrap();
            written_at_close.store(users.disk.faults.counts().of(Operation::Write), Ordering::Relaxed);
            return;
        }
        for _ in 0..3 {
            match users.append(number % 2, 1, 30) {
                Ok(given) if number == 1 => {
                    let outcome = given.receipt.wait();
                    users.check(&given, &outcome);
                    assert!(outcome.is_ok(), "what was taken is committed: {outcome:?}");
                }
                Ok(given) if number == 2 && threads != Threads::None => {
                    let outcome = block_on(poll_fn(|cx| given.receipt.poll_durable(cx)));
                    assert!(outcome.is_ok(), "what was taken is committed: {outcome:?}");
                }
                Ok(_) => {}
                Err(error) => assert!(matches!(error, AppendError::Closed), "{error}"),
            }
        }
    });
    let writes = world.disk.faults.counts().of(Operation::Write);
    assert_eq!(writes, written.load(Ordering::Relaxed), "nothing is written once closing is over");
    assert!(watch.wait_timeout(NEVER), "closing is told");
    world.journal.close().unwrap();
    let refused = world.append(0, 1, 30).map(|given| given.receipt);
    assert!(matches!(refused, Err(AppendError::Closed)), "{refused:?}");
    world.judge();
}

#[test]
fn closing_commits_what_was_taken_and_refuses_the_rest() {
    explore("closing_commits_what_was_taken_and_refuses_the_rest", 1500, || closed_amid_appends(Threads::None));
}

#[test]
fn closing_needs_no_timer() {
    explore("closing_needs_no_timer", 1500, || closed_amid_appends(Threads::Told));
}

#[test]
fn closing_meets_the_committer_anywhere() {
    explore("closing_meets_the_committer_anywhere", 1500, || closed_amid_appends(Threads::Hasty));
}

#[test]
fn two_may_close_and_the_store_opens_again() {
    explore("two_may_close_and_the_store_opens_again", 1500, || {
        let world = World::new(1, Threads::Told, |_| {});
        let users = world.clone();
        side_by_side(3, move |number| {
            if let Err(error) = users.append(0, 1, 30) {
                assert!(matches!(error, AppendError::Closed), "{error}");
            }
            if number > 0 {
                users.journal.close().unwrap();
            }
            // One does not wait for the others to close it.
            match Journal::open(Path::new(STORE), options(&users.disk, Threads::Told)) {
                Ok((journal, recovery)) => {
                    assert!(recovery.clean, "it is locked until all is written: {recovery:?}");
                    journal.close().unwrap();
                }
                Err(error) => assert!(matches!(error, OpenError::Locked { .. }), "{error}"),
            }
        });
        world.judge();
    });
}

#[test]
fn dropping_the_last_handle_commits_what_was_queued() {
    explore("dropping_the_last_handle_commits_what_was_queued", 1500, || {
        let world = World::new(1, Threads::Told, |_| {});
        let given = world.append(0, 2, 30).unwrap();
        let World { disk, journal, .. } = world;
        drop(journal);
        // Its receipt still waits for it.
        assert!(given.receipt.wait().is_ok());
        assert!(given.numbers.iter().all(|number| disk.has(*number)));
    });
}
