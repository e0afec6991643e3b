//! What a receipt says, and when.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use counterfoil::{Durability, ErrorKind, Store};

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn pair() -> (Store, Store) {
    (Store::builder().node("practice-12").in_memory().unwrap(), Store::builder().node("hub").in_memory().unwrap())
}

#[test]
fn a_level_that_is_not_reached_in_time_is_said_never_lowered() {
    let store = Store::in_memory().unwrap();
    let receipt = store.own_space().unwrap().append("a").unwrap();
    receipt.wait(Durability::Buffered).unwrap();
    assert!(receipt.wait_timeout(Durability::Local, Duration::from_secs(60)).unwrap() == Durability::Local);
    let reached = receipt.wait_timeout(Durability::Mirrored(1), Duration::from_millis(1)).unwrap();
    assert_eq!(reached, Durability::Local);
    assert!(reached < Durability::Mirrored(1));
}

#[test]
fn without_background_threads_a_record_is_buffered_until_somebody_waits() {
    let store = Store::builder().background(false).in_memory().unwrap();
    let receipt = store.own_space().unwrap().append("a").unwrap();
    assert_eq!(receipt.reached().unwrap(), Durability::Buffered);
    receipt.wait(Durability::Local).unwrap();
    assert_eq!(receipt.reached().unwrap(), Durability::Local);
}

#[test]
fn futures_become_ready_by_the_background_committer_and_by_acks_and_may_be_dropped() {
    let (practice, hub) = pair();
    let space = practice.own_space().unwrap();
    block_on(space.append("a").unwrap().durable(Durability::Local)).unwrap();

    let receipt = space.append("b").unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut dropped = Box::pin(receipt.durable(Durability::Mirrored(1)));
    while receipt.reached().unwrap() < Durability::Local {
        thread::yield_now();
    }
    assert!(dropped.as_mut().poll(&mut cx).is_pending());
    drop(dropped);

    let link = practice.mirror_in_process(&hub).start().unwrap();
    block_on(receipt.durable(Durability::Mirrored(1))).unwrap();
    assert_eq!(receipt.reached().unwrap(), Durability::Mirrored(1));
    link.stop();
}

#[test]
fn mirrored_counts_distinct_nodes() {
    let (practice, hub) = pair();
    let second = Store::builder().node("hub-2").in_memory().unwrap();
    let receipt = practice.own_space().unwrap().append("a").unwrap();
    let _link = practice.mirror_in_process(&hub).start().unwrap();
    receipt.wait(Durability::Mirrored(1)).unwrap();
    let reached = receipt.wait_timeout(Durability::Mirrored(2), Duration::from_millis(20)).unwrap();
    assert_eq!(reached, Durability::Mirrored(1));
    let _other = practice.mirror_in_process(&second).start().unwrap();
    receipt.wait(Durability::Mirrored(2)).unwrap();

    let mut nodes: Vec<_> = practice.acks(receipt.log()).into_iter().map(|ack| ack.node.to_string()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["hub", "hub-2"]);
}

#[test]
fn who_waits_for_a_mirror_is_told_when_the_store_closes() {
    let store = Store::in_memory().unwrap();
    let receipt = store.own_space().unwrap().append("a").unwrap();
    receipt.wait(Durability::Local).unwrap();
    let waiter = thread::spawn(move || receipt.wait(Durability::Mirrored(1)));
    store.close(Duration::ZERO).unwrap();
    assert_eq!(waiter.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
}
