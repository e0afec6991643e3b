//! Those who wait for another node's ack: of the commit they are told if it fails or if they are to lead it, and nothing
//! else of it; whatever comes, nobody waits for ever.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use counterfoil_faults::{Fault, Injection, Operation};
use counterfoil_storage::{AppendError, Receipt, Seq};
use shuttle::{
    future::block_on,
    rand::{Rng, thread_rng},
    sync::Mutex,
    thread::{self, Thread},
};

use crate::{
    commit::side_by_side,
    explore::explore,
    world::{NEVER, Threads, World},
};

/// What another node has said, and who waits for it to say more.
#[derive(Default)]
struct Board(Mutex<(Vec<Seq>, Vec<Waker>)>);

impl Board {
    fn poll(&self, log: usize, receipt: &Receipt, waker: &Waker) -> Poll<()> {
        let mut board = self.0.lock().unwrap();
        if board.0[log] >= receipt.next_seq() {
            return Poll::Ready(());
        }
        board.1.push(waker.clone());
        Poll::Pending
    }

    /// The other node gets what is durable here, and says that it has it.
    fn mirror(&self, world: &World) {
        let mut board = self.0.lock().unwrap();
        board.0 = world
            .logs
            .iter()
            .map(|log| world.journal.log(*log).map_or(Seq::ZERO, |log| log.durable.next_seq))
            .collect();
        let woken = std::mem::take(&mut board.1);
        drop(board);
        woken.into_iter().for_each(Waker::wake);
    }
}

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// Waits as a thread does.
fn wait(board: &Board, log: usize, receipt: &Receipt) -> Result<(), AppendError> {
    let unpark = Arc::new(Unpark { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    loop {
        if let Poll::Ready(outcome) = receipt.lead_or_watch(&waker) {
            outcome?;
        }
        if board.poll(log, receipt, &waker).is_ready() {
            return Ok(());
        }
        while !unpark.woken.swap(false, Ordering::SeqCst) {
            thread::park();
        }
    }
}

/// Waits as a task does.
fn wait_in_a_task(board: &Board, log: usize, receipt: &Receipt) -> Result<(), AppendError> {
    block_on(poll_fn(|cx: &mut Context<'_>| {
        if board.poll(log, receipt, cx.waker()).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match receipt.poll_failed(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    }))
}

/// Some append and wait until another node has it, beside one who waits for the own disk only.
fn mirrored(threads: Threads, fault: Option<Fault>) {
    let world = World::new(2, threads, |_| {});
    if let Some(fault) = fault {
        let number = thread_rng().gen_range(0..6);
        world.disk.faults.inject_ahead(Injection::at(number, fault).of(Operation::SyncData).for_ever());
    }
    let board = Arc::new(Board(Mutex::new((vec![Seq::ZERO; 2], Vec::new()))));
    let mut watch = world.journal.watch(None);
    let is_over = Arc::new(AtomicBool::new(false));
    let (mirrored, told, over) = (world.clone(), Arc::clone(&board), Arc::clone(&is_over));
    let mirror = thread::spawn(move || {
        // Closing is told as well.
        while !over.load(Ordering::SeqCst) {
            assert!(watch.wait_timeout(NEVER));
            told.mirror(&mirrored);
        }
    });
    let writers = world.clone();
    side_by_side(4, move |number| {
        let log = number % 2;
        for _ in 0..3 {
            let Ok(given) = writers.append(log, 1, 40) else { break };
            let outcome = match number {
                0 => given.receipt.wait(),
                1 if threads != Threads::None => wait_in_a_task(&board, log, &given.receipt),
                _ => wait(&board, log, &given.receipt),
            };
            assert!(outcome.is_ok() || fault.is_some(), "{outcome:?}");
            writers.check(&given, &outcome);
        }
    });
    is_over.store(true, Ordering::SeqCst);
    // It fails if the journal met the fault.
    let closed = world.journal.close();
    assert!(closed.is_ok() || fault.is_some(), "{closed:?}");
    mirror.join().unwrap();
    world.judge();
}

#[test]
fn those_who_wait_for_an_ack_lead_for_each_other() {
    explore("those_who_wait_for_an_ack_lead_for_each_other", 2000, || mirrored(Threads::None, None));
}

#[test]
fn those_who_wait_for_an_ack_need_no_timer() {
    explore("those_who_wait_for_an_ack_need_no_timer", 2000, || mirrored(Threads::Told, None));
}

#[test]
fn those_who_wait_for_an_ack_meet_the_committer_anywhere() {
    explore("those_who_wait_for_an_ack_meet_the_committer_anywhere", 1500, || mirrored(Threads::Hasty, None));
}

#[test]
fn a_failed_flush_is_told_to_those_who_wait_for_an_ack() {
    let name = "a_failed_flush_is_told_to_those_who_wait_for_an_ack";
    explore(name, 1500, || mirrored(Threads::Told, Some(Fault::Eio)));
}

#[test]
fn a_failed_flush_is_told_where_those_who_wait_for_an_ack_lead() {
    let name = "a_failed_flush_is_told_where_those_who_wait_for_an_ack_lead";
    explore(name, 1500, || mirrored(Threads::None, Some(Fault::Eio)));
}
