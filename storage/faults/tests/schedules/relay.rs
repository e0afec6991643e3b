//! Another node's batches, which two connections deliver at once.

use counterfoil_storage::{
    AppendError, Batch, BatchBuilder, Genesis, Hlc, NodeName, Receipt, Seq, SpaceName, StoreError, Stored,
};

use crate::{
    commit::side_by_side,
    disk::number_of,
    explore::explore,
    world::{NEVER, Threads, World, body},
};

/// A log of another node's, and its batches of one record each.
fn other_log(batches: u64) -> (Genesis, Vec<Batch>) {
    let genesis = Genesis::new(SpaceName::new("space").unwrap(), NodeName::new("other").unwrap(), [7; 16]);
    let mut head = genesis.head();
    let sealed = (0..batches).map(|number| {
        let mut builder = BatchBuilder::with_capacity(0);
        builder.push(Hlc::from_bits(number << 16), &body(number, 200));
        let batch = builder.seal(genesis.log_id(), head);
        head = batch.head();
        batch
    });
    let batches = sealed.collect();
    (genesis, batches)
}

fn check_durable(world: &World, batch: &Batch) {
    for record in batch.records() {
        let number = number_of(&record.unwrap().body).unwrap();
        assert!(world.disk.has(number), "record {number} is told to be here before it is durable");
    }
}

/// Stores a batch, which may be here already.
fn store(world: &World, batch: &Batch) -> Option<Receipt> {
    match world.journal.store(batch.clone()).unwrap() {
        Stored::Queued(receipt) => Some(receipt),
        Stored::Duplicate => {
            check_durable(world, batch);
            None
        }
    }
}

/// Stores a batch without ever waiting in the call, as a session does.
fn store_told_by_a_watch(world: &World, batch: &Batch) {
    let mut watch = world.journal.watch(None);
    loop {
        match world.journal.try_store(batch.clone()) {
            Ok(Stored::Queued(_)) | Err(StoreError::Append(AppendError::WouldBlock { .. })) => world.journal.nudge(),
            Ok(Stored::Duplicate) => return check_durable(world, batch),
            Err(error) => panic!("{error}"),
        }
        assert!(watch.wait_timeout(NEVER), "a commit is told");
    }
}

#[test]
fn what_two_deliver_is_kept_once_and_told_once_it_is_durable() {
    explore("what_two_deliver_is_kept_once_and_told_once_it_is_durable", 1500, || {
        let world = World::new(0, Threads::Told, |options| options.queue_bytes = 600);
        let (genesis, batches) = other_log(4);
        let log = world.journal.create_log(genesis).unwrap();
        let relay = world.clone();
        let delivered = batches.clone();
        side_by_side(3, move |number| {
            for batch in &delivered {
                if number == 2 {
                    store_told_by_a_watch(&relay, batch);
                } else if let Some(receipt) = store(&relay, batch)
                    && number == 1
                {
                    receipt.wait().unwrap();
                    check_durable(&relay, batch);
                }
            }
        });
        world.journal.close().unwrap();
        let kept: Vec<_> = world.journal.read(log, Seq::ZERO).map(Result::unwrap).collect();
        assert_eq!(kept, batches);
    });
}
