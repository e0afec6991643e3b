//! Those who follow see all of it, in order, and nothing before it is durable.

use std::{future::poll_fn, path::Path};

use counterfoil_faults::STORE;
use counterfoil_storage::{Arrival, Journal, Seq, SpaceName};
use shuttle::{future::block_on, thread};

use crate::{
    commit::side_by_side,
    explore::explore,
    world::{NEVER, Threads, World, options},
};

const APPENDS: usize = 4;

/// Follows a log until it has `records`, woken by nobody but the journal.
fn follow(world: &World, log: usize, records: usize, as_future: bool) {
    let space = SpaceName::new(&format!("space-{log}")).unwrap();
    let mut watch = world.journal.watch((log == 0).then_some(&space));
    let mut seen = 0;
    loop {
        seen += world.shown(log, Seq(seen as u64)).len();
        if seen == records {
            break;
        }
        if as_future {
            block_on(poll_fn(|cx| watch.poll_changed(cx)));
        } else {
            assert!(watch.wait_timeout(NEVER));
        }
    }
}

fn followed(threads: Threads, ring_bytes: usize, len: usize) {
    let world = World::new(2, threads, |options| options.ring_bytes = ring_bytes);
    let users = world.clone();
    side_by_side(4, move |number| {
        if number >= 2 {
            follow(&users, number - 2, 2 * APPENDS, number == 3);
        } else {
            for append in 0..APPENDS {
                // Each writes to both logs.
                for log in 0..2 {
                    let given = users.append(log, 1, len).unwrap();
                    if append == APPENDS - 1 || number == 0 {
                        assert!(given.receipt.wait().is_ok());
                    }
                }
            }
        }
    });
    world.journal.close().unwrap();
    world.judge();
}

#[test]
fn followers_of_the_ring_miss_nothing() {
    explore("followers_of_the_ring_miss_nothing", 1500, || followed(Threads::Told, 8 << 10, 100));
}

#[test]
fn followers_of_the_disk_miss_nothing_while_segments_roll_over() {
    let name = "followers_of_the_disk_miss_nothing_while_segments_roll_over";
    explore(name, 500, || followed(Threads::Hasty, 2 << 10, 3000));
}

#[test]
fn what_arrives_is_read_in_order_while_segments_are_sealed() {
    explore("what_arrives_is_read_in_order_while_segments_are_sealed", 500, || {
        let world = World::new(2, Threads::Told, |_| {});
        let writers = world.clone();
        let writing = thread::spawn(move || {
            for append in 0..8 {
                assert!(writers.append(append % 2, 2, 3000).unwrap().receipt.wait().is_ok());
            }
        });
        let mut next = Arrival::ZERO;
        for _ in 0..4 {
            for item in world.journal.read_arrivals(next) {
                let (arrival, _) = item.unwrap();
                assert_eq!(arrival, next, "no arrival is left out");
                next.0 += 1;
            }
        }
        writing.join().unwrap();
        world.journal.close().unwrap();
        world.judge();
    });
}

#[test]
fn a_reader_of_another_process_sees_only_what_is_durable() {
    explore("a_reader_of_another_process_sees_only_what_is_durable", 500, || {
        let mut world = World::new(1, Threads::Hasty, |_| {});
        let writers = world.clone();
        let mut beside = options(&world.disk, Threads::None);
        beside.read_only = true;
        world.journal.commit().unwrap();
        let (reader, _) = Journal::open(Path::new(STORE), beside).unwrap();
        let writing = thread::spawn(move || {
            for _ in 0..3 {
                assert!(writers.append(0, 1, 3000).unwrap().receipt.wait().is_ok());
            }
            writers.journal
        });
        world.journal = reader;
        for _ in 0..3 {
            world.journal.refresh().unwrap();
            world.shown(0, Seq::ZERO);
        }
        world.journal = writing.join().unwrap();
        world.journal.close().unwrap();
        world.judge();
    });
}
