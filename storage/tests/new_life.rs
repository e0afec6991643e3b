//! A node that turns out to have been rolled back: its logs end, and it goes on in new ones.

use std::{path::Path, sync::Arc, thread};

use counterfoil_storage::{
    AppendError, Batch, Genesis, Journal, LogId, LogWriter, NewLifeError, NodeName, Options, Seq, SpaceName, Stored,
    vfs::Memory,
};

const DIR: &str = "store";

fn node() -> NodeName {
    NodeName::new("practice-12").unwrap()
}

fn options(vfs: &Memory, background: bool) -> Options {
    let mut options = Options::default();
    (options.vfs, options.background) = (Arc::new(vfs.clone()), background);
    options
}

fn own_log(journal: &Journal, space: &str) -> LogWriter {
    let nonce = *journal.identity().incarnation.as_bytes();
    let log = journal.create_log(Genesis::new(SpaceName::new(space).unwrap(), node(), nonce)).unwrap();
    journal.writer(log).unwrap()
}

fn batches(journal: &Journal, log: LogId) -> Vec<Batch> {
    journal.read(log, Seq::ZERO).map(Result::unwrap).collect()
}

#[test]
fn own_logs_end_with_what_was_queued_and_are_taken_of_others_from_then_on_also_after_a_restart() {
    let (vfs, elsewhere) = (Memory::default(), Memory::default());
    let journal = Journal::create(Path::new(DIR), node(), options(&vfs, false)).unwrap();
    let (first, silent) = (own_log(&journal, "a"), own_log(&journal, "b"));
    first.append(b"durable").unwrap().wait().unwrap();
    // What another node has of the log beyond this: as this very node wrote it before it was rolled back.
    let copy = Journal::create(Path::new(DIR), node(), options(&elsewhere, false)).unwrap();
    copy.create_log((*journal.log(first.log()).unwrap().genesis).clone()).unwrap();
    copy.store(batches(&journal, first.log()).remove(0)).unwrap();
    copy.commit().unwrap();

    let receipt = first.append(b"queued").unwrap();
    let old = journal.identity().incarnation;
    journal.begin_new_life(old).unwrap();
    assert!(receipt.is_durable().unwrap());
    assert!(first.has_ended() && silent.has_ended());
    for writer in [&first, &silent] {
        assert!(matches!(writer.append(b"more"), Err(AppendError::LogEnded { log }) if log == writer.log()));
        assert!(matches!(journal.writer(writer.log()), Err(AppendError::ForeignLog { .. })));
    }
    let present = journal.identity().incarnation;
    assert_ne!(present, old);
    // Of the old life: it has been done.
    journal.begin_new_life(old).unwrap();
    assert_eq!(journal.identity().incarnation, present);

    let second = own_log(&journal, "a");
    assert_ne!(second.log(), first.log());
    second.append(b"goes on").unwrap().wait().unwrap();
    journal.close().unwrap();
    drop(journal);

    let (journal, _) = Journal::open(Path::new(DIR), options(&vfs, false)).unwrap();
    assert_eq!(journal.identity().incarnation, present);
    assert!(matches!(journal.writer(first.log()), Err(AppendError::ForeignLog { .. })));
    own_log(&journal, "a").append(b"and on").unwrap().wait().unwrap();
    assert_eq!(journal.log(second.log()).unwrap().durable.next_seq, Seq(2));
}

#[test]
fn what_others_have_of_an_ended_log_is_stored_at_once() {
    let vfs = Memory::default();
    let journal = Journal::create(Path::new(DIR), node(), options(&vfs, false)).unwrap();
    let writer = own_log(&journal, "a");
    writer.append(b"1").unwrap().wait().unwrap();
    let earlier = journal.log(writer.log()).unwrap().durable;
    let mut lost = counterfoil_storage::BatchBuilder::with_capacity(16);
    lost.push(counterfoil_storage::Hlc::from_bits(1 << 40), b"lost");
    let lost = lost.seal(writer.log(), earlier);
    assert!(journal.store(lost.clone()).is_err(), "as long as it is this node's to write");
    journal.begin_new_life(journal.identity().incarnation).unwrap();
    assert!(matches!(journal.store(lost.clone()).unwrap(), Stored::Queued(_)));
    journal.commit().unwrap();
    assert_eq!(batches(&journal, writer.log())[1], lost);
}

#[test]
fn those_who_append_meanwhile_lose_nothing_and_hear_of_it_once() {
    let vfs = Memory::default();
    let journal = Journal::create(Path::new(DIR), node(), options(&vfs, true)).unwrap();
    let old = own_log(&journal, "a");
    let appender = |number: u32| {
        let (journal, old) = (journal.clone(), old.clone());
        move || {
            let mut writer = old.clone();
            let mut receipts = Vec::new();
            for round in 0..2_000_u32 {
                receipts.push(loop {
                    match writer.append(&(number * 10_000 + round).to_le_bytes()) {
                        Err(AppendError::LogEnded { .. }) => {
                            let _life = journal.hold_life();
                            writer = own_log(&journal, "a");
                        }
                        receipt => break receipt.unwrap(),
                    }
                });
            }
            receipts.into_iter().for_each(|receipt| receipt.wait().unwrap());
        }
    };
    let threads: Vec<_> = (0..4).map(|number| thread::spawn(appender(number))).collect();
    for _ in 0..3 {
        thread::yield_now();
        journal.begin_new_life(journal.identity().incarnation).unwrap();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let logs = journal.logs(None);
    let records = logs.iter().flat_map(|info| batches(&journal, info.id));
    let mut found: Vec<_> = records.flat_map(|batch| batch.records().collect::<Vec<_>>()).collect();
    assert_eq!(found.len(), 8_000);
    let mut bodies: Vec<_> = found.drain(..).map(|record| record.unwrap().body.to_vec()).collect();
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), 8_000, "each once");
    journal.close().unwrap();
}

#[test]
fn who_says_again_and_again_that_it_was_rolled_back_is_not_believed_for_ever() {
    let vfs = Memory::default();
    let open = || Journal::open(Path::new(DIR), options(&vfs, false)).unwrap().0;
    let mut journal = Journal::create(Path::new(DIR), node(), options(&vfs, false)).unwrap();
    let mut lives = 0;
    loop {
        own_log(&journal, "a").append(b"x").unwrap().wait().unwrap();
        match journal.begin_new_life(journal.identity().incarnation) {
            Ok(()) => lives += 1,
            Err(NewLifeError::TooOften) => {
                journal.close().unwrap();
                drop(journal);
                journal = open();
            }
            Err(error) => {
                assert!(matches!(error, NewLifeError::TooManyLogs { .. }), "{error}");
                break;
            }
        }
    }
    assert_eq!((lives, journal.logs(None).len()), (127, 128));
    own_log(&journal, "a").append(b"goes on").unwrap().wait().unwrap();
}
