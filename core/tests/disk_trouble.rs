//! What an application sees when its disk fails or is full.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use counterfoil::{Durability, ErrorKind, Retention, Store};

#[path = "disk/mod.rs"]
mod disk;

use disk::Disk;

#[test]
fn a_flush_that_fails_is_told_and_ends_all_acks_until_the_store_is_opened_again() {
    let disk = Disk::default();
    let builder = Store::builder().node("practice-12").vfs(Arc::new(disk.clone()));
    let store = builder.clone().create("store").unwrap();
    let space = store.own_space().unwrap();
    space.append("acknowledged").unwrap().wait(Durability::Local).unwrap();

    disk.refuses_flushes.store(true, Ordering::Relaxed);
    let receipt = space.append("unknown").unwrap();
    let error = receipt.wait(Durability::Local).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disk);
    assert!(error.to_string().contains("the platter is scratched"), "{error}");
    assert_eq!(receipt.wait_timeout(Durability::Mirrored(1), Duration::ZERO).unwrap_err().kind(), ErrorKind::Disk);
    disk.refuses_flushes.store(false, Ordering::Relaxed);
    assert_eq!(space.append("later").unwrap_err().kind(), ErrorKind::Disk, "only opening again clears it");
    assert!(store.stats().is_poisoned);
    assert_eq!(space.read(..).unwrap().count(), 1, "what is proven is read");
    assert_eq!(store.close(Duration::ZERO).unwrap_err().kind(), ErrorKind::Disk);
    drop((store, space, receipt));

    let store = builder.open("store").unwrap();
    let space = store.own_space().unwrap();
    let first = space.follow(counterfoil::Cursor::start()).next().unwrap().unwrap();
    assert_eq!(first.body(), "acknowledged");
    space.append("again").unwrap().wait(Durability::Local).unwrap();
}

#[test]
fn a_full_disk_is_told_reads_go_on_and_appends_succeed_again_once_there_is_space() {
    let disk = Disk::default();
    let builder = Store::builder().node("practice-12").vfs(Arc::new(disk.clone())).segment_bytes(1 << 16, 1 << 16);
    let store = builder.create("store").unwrap();
    let space = store.own_space().unwrap();
    space.append("acknowledged").unwrap().wait(Durability::Local).unwrap();

    disk.is_full.store(true, Ordering::Relaxed);
    let error = (0..1000)
        .find_map(|_| space.append([7; 1000]).and_then(|receipt| receipt.wait(Durability::Local)).err())
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(space.read(..).unwrap().next().unwrap().unwrap().body(), "acknowledged");

    disk.is_full.store(false, Ordering::Relaxed);
    let again = (0..10_000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        space.append("again").and_then(|receipt| receipt.wait(Durability::Local)).ok()
    });
    assert!(again.is_some());
    let last = space.read(..).unwrap().last().unwrap().unwrap();
    assert_eq!(last.body(), "again");
    store.close(Duration::ZERO).unwrap();
}

#[test]
fn a_disk_that_refuses_to_read_is_told_once_and_ends_the_reading_of_one_log_and_of_several() {
    const RECORDS: usize = 300;
    for others in [0, 1] {
        let disk = Disk::default();
        let builder = Store::builder().node("a").vfs(Arc::new(disk.clone())).segment_bytes(1 << 16, 1 << 16);
        let store = builder.clone().create("store").unwrap();
        // So many that they are read from segments that are full.
        for _ in 0..RECORDS {
            store.space("ward").unwrap().append([7; 1000]).unwrap();
            store.commit().unwrap();
        }
        for _ in 0..others {
            let other = Store::builder().node("b").in_memory().unwrap();
            other.space("ward").unwrap().append("of b").unwrap();
            other.commit().unwrap();
            let link = other.mirror_in_process(&store).spaces(["ward"]).start().unwrap();
            assert!(link.wait_mirrored(Duration::from_secs(60)));
            link.stop();
        }
        store.close(Duration::ZERO).unwrap();
        drop(store);
        let space = builder.open_read_only("store").unwrap().space("ward").unwrap();
        let records = || space.read(..).unwrap().take(2 * RECORDS);
        disk.refuses_reads.store(true, Ordering::Relaxed);
        let told: Vec<_> = records().map(|record| record.unwrap_err().kind()).collect();
        assert_eq!(told, [ErrorKind::Disk], "{others} other logs");
        disk.refuses_reads.store(false, Ordering::Relaxed);
        assert_eq!(records().filter_map(Result::ok).count(), RECORDS + others);
    }
}

#[test]
fn what_retention_can_not_do_is_told_in_the_stats_until_it_is_done() {
    let disk = Disk::default();
    let builder = Store::builder().node("practice-12").vfs(Arc::new(disk.clone())).segment_bytes(1 << 16, 1 << 16);
    let builder = builder.background(false).retention(Retention::keep_all().remove_beyond(0).mirrors(0));
    let store = builder.create("store").unwrap();
    let space = store.own_space().unwrap();
    let append = || space.append([7; 1000]).and_then(|receipt| receipt.wait(Durability::Local));
    (0..300).for_each(|_| append().unwrap());
    let last_error = || store.stats().retention.last_error;

    disk.is_full.store(true, Ordering::Relaxed);
    let full = (0..1000).find_map(|_| append().err()).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    let kept = space.logs()[0].first_seq;
    let error = store.trim().unwrap_err();
    assert_eq!((error.kind(), last_error()), (ErrorKind::StorageFull, Some(error.to_string())));
    assert_eq!(space.logs()[0].first_seq, kept, "nothing is removed in part");
    disk.is_full.store(false, Ordering::Relaxed);
    let trimmed = store.trim().unwrap();
    assert!(trimmed.records() >= 300 && trimmed.freed_segments >= 4, "{trimmed:?}");
    assert_eq!(last_error(), None);

    append().unwrap();
    disk.refuses_flushes.store(true, Ordering::Relaxed);
    let error = store.trim().unwrap_err();
    assert_eq!((error.kind(), last_error()), (ErrorKind::Disk, Some(error.to_string())));
    let stats = store.stats().retention;
    assert_eq!((stats.runs, stats.trimmed_records), (3, trimmed.records()));
}
