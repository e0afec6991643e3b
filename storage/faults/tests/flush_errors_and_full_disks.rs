//! A flush that fails, and a disk that is full: what is said, what goes on, what is found afterwards.

use std::{path::Path, sync::Arc};

use counterfoil_faults::{Fault, FaultVfs, Injection, Operation, Player, STORE, Step, small_options};
use counterfoil_storage::{AppendError, Journal};

fn player_with_records(seed: u64) -> Player {
    let mut player = Player::new(FaultVfs::new(seed), small_options());
    let steps = [
        Step::CreateLog,
        Step::CreateForeignLog,
        Step::AppendAll(0, vec![100; 20]),
        Step::Store(0, 5),
        Step::Commit,
        Step::Append(0, 50),
        Step::Commit,
    ];
    assert_eq!(player.play(&steps), Ok(()));
    player
}

fn journal_of(player: &Player) -> Journal {
    player.journal.clone().expect("the store is open")
}

/// The next flush of a file fails, once.
fn fail_next_flush(disk: &FaultVfs, fault: Fault) {
    disk.inject_ahead(Injection::at(0, fault).of(Operation::SyncData));
}

#[test]
fn after_a_failed_flush_appends_fail_reads_go_on_and_reopening_has_all_acknowledged() {
    for seed in 0..60 {
        for fault in [Fault::Eio, Fault::NoSpace] {
            let mut player = player_with_records(seed);
            let journal = journal_of(&player);
            let proven = player.ledger.proven_records();
            fail_next_flush(&player.disk, fault);
            let log = player.ledger.logs().find_map(|log| journal.writer(log).ok()).expect("an own log");
            let receipt = log.append(b"unknown").unwrap();
            player.ledger.queued(receipt.log(), receipt.first_seq(), &[b"unknown"]).unwrap();

            let error = journal.commit().unwrap_err();
            assert!(matches!(error, AppendError::Poisoned { .. }), "{error:?}");
            assert!(receipt.wait().is_err(), "no acknowledgement after a failed flush");
            for _ in 0..3 {
                assert!(matches!(log.append(b"more"), Err(AppendError::Poisoned { .. })));
                assert!(matches!(journal.commit(), Err(AppendError::Poisoned { .. })));
            }
            assert!(receipt.is_durable().is_err());
            player.disk.evict();
            assert_eq!(player.ledger.judge(&journal), Ok(()), "reads go on");
            assert_eq!(player.ledger.proven_records(), proven, "nothing unproven is served");
            assert!(journal.close().is_err(), "closing does not pretend");

            // The same machine, whose kernel reads back what it failed to write.
            let after = player.disk.snapshot().kill();
            assert_eq!(player.on_disk(after.clone()).prove_sound(after), Ok(()), "seed {seed}, killed");
            let after = player.disk.crash(seed);
            assert_eq!(player.on_disk(after.clone()).prove_sound(after), Ok(()), "seed {seed}, crashed");
        }
    }
}

#[test]
fn a_failed_write_of_a_commit_is_never_acknowledged() {
    for seed in 0..60 {
        let mut player = player_with_records(seed);
        let journal = journal_of(&player);
        player.disk.inject_ahead(Injection::at(0, Fault::Eio).of(Operation::Write));
        player.step(&Step::AppendAll(0, vec![300; 10])).unwrap();
        let error = journal.commit().unwrap_err();
        assert!(matches!(error, AppendError::Poisoned { .. }), "{error:?}");
        assert_eq!(player.ledger.judge(&journal), Ok(()));
        let after = player.disk.crash(seed);
        assert_eq!(player.prove_sound(after), Ok(()), "seed {seed}");
    }
}

#[test]
fn a_full_disk_refuses_appends_and_takes_them_again_once_space_returns() {
    for blocks in 0..12 {
        let mut player = player_with_records(blocks);
        let journal = journal_of(&player);
        player.disk.set_capacity(Some(player.disk.used_bytes() + blocks * 4096));
        let mut refusals = 0;
        for round in 0..200 {
            player.step(&Step::AppendAll(0, vec![600; 5])).unwrap();
            player.step(&Step::Commit).unwrap();
            if player.errors > refusals {
                refusals = player.errors;
                assert_eq!(player.ledger.judge(&journal), Ok(()), "reads go on, round {round}");
            }
        }
        assert!(refusals > 10, "{refusals} refusals on a disk with {blocks} blocks left");
        assert!(matches!(journal.commit(), Ok(()) | Err(AppendError::StorageFull)));

        player.disk.set_capacity(None);
        let before = player.ledger.proven_records();
        player.errors = 0;
        for _ in 0..20 {
            player.step(&Step::AppendAll(0, vec![600; 5])).unwrap();
            player.step(&Step::Commit).unwrap();
        }
        assert_eq!(player.errors, 0, "the same journal takes appends again");
        assert!(player.ledger.proven_records() >= before + 100);
        player.step(&Step::Judge).unwrap();
        let after = player.disk.crash(blocks);
        assert_eq!(player.prove_sound(after), Ok(()), "{blocks} blocks");
    }
}

#[test]
fn a_store_that_was_full_can_be_read_on_the_full_disk_and_opened_once_it_has_room() {
    for blocks in 0..12 {
        let mut player = player_with_records(blocks);
        player.disk.set_capacity(Some(player.disk.used_bytes() + blocks * 4096));
        for _ in 0..60 {
            player.step(&Step::AppendAll(0, vec![600; 5])).unwrap();
            player.step(&Step::Commit).unwrap();
        }
        let acknowledged = player.ledger.proven_records();
        let closed = journal_of(&player).close();
        assert!(matches!(closed, Ok(()) | Err(AppendError::StorageFull)), "{closed:?}");
        player.journal = None;
        let mut options = small_options();
        options.vfs = Arc::new(player.disk.clone());
        options.read_only = true;
        let (reader, _) = Journal::open(Path::new(STORE), options).unwrap();
        let served: u64 = reader.logs(None).iter().map(|log| log.durable.next_seq.0).sum();
        assert!(served + 6 > acknowledged, "all but the last commit, which nothing proves yet");
        let after = player.disk.crash(blocks);
        assert_eq!(player.prove_sound(after), Ok(()));
    }
}

#[test]
fn a_store_can_be_made_once_the_disk_has_room() {
    for blocks in 0..20 {
        let disk = FaultVfs::new(blocks);
        disk.set_capacity(Some(blocks * 4096));
        let mut player = Player::new(disk, small_options());
        assert_eq!(player.play(&[Step::CreateLog, Step::Append(0, 10), Step::Commit]), Ok(()));
        let after = player.disk.snapshot().kill();
        assert_eq!(player.prove_sound(after), Ok(()), "{blocks} blocks");
    }
}

#[test]
fn a_second_opener_is_told_at_once_and_a_reader_beside_the_writer_changes_nothing() {
    let mut player = player_with_records(1);
    let mut options = small_options();
    options.vfs = Arc::new(player.disk.clone());
    let second = Journal::open(Path::new(STORE), options.clone());
    assert!(matches!(second, Err(counterfoil_storage::OpenError::Locked { .. })), "{second:?}");
    options.read_only = true;
    let files: Vec<_> = player.disk.files().iter().map(|path| player.disk.content(path)).collect();
    let (reader, _) = Journal::open(Path::new(STORE), options).unwrap();
    let served: u64 = reader.logs(None).iter().map(|log| log.durable.next_seq.0).sum();
    assert_eq!(served + 1, player.ledger.proven_records(), "all but the last commit, which nothing proves yet");
    assert_eq!(files, player.disk.files().iter().map(|path| player.disk.content(path)).collect::<Vec<_>>());
    player.step(&Step::Append(0, 10)).unwrap();
    player.step(&Step::Commit).unwrap();
    player.step(&Step::Judge).unwrap();
}
