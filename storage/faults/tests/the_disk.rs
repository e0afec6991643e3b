//! The disk itself: what it loses, keeps and refuses.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use counterfoil_faults::{Fault, FaultVfs, Injection, Operation};
use counterfoil_storage::vfs::{OpenMode, Vfs, VfsFile};

const SEEDS: u64 = 300;

fn path() -> &'static Path {
    Path::new("/store/a")
}

/// A disk with a durable empty file.
fn disk_with_file() -> (FaultVfs, Arc<dyn VfsFile>) {
    let disk = FaultVfs::new(1);
    disk.create_dir(Path::new("/store")).unwrap();
    let file = disk.open(path(), OpenMode::Create).unwrap();
    disk.sync_dir(Path::new("/store")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    (disk, file)
}

fn write(file: &Arc<dyn VfsFile>, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.write_at(&[IoSlice::new(bytes)], offset)
}

#[test]
fn what_was_flushed_survives_every_crash() {
    let (disk, file) = disk_with_file();
    write(&file, &[7; 10_000], 0).unwrap();
    file.sync_data().unwrap();
    write(&file, &[8; 10_000], 10_000).unwrap();
    for seed in 0..SEEDS {
        let after = disk.snapshot().crash(seed);
        assert_eq!(after.content(path()).unwrap()[..10_000], [7; 10_000], "seed {seed}");
    }
}

#[test]
fn of_what_was_not_flushed_anything_may_survive() {
    let (disk, file) = disk_with_file();
    write(&file, &[1; 1000], 0).unwrap();
    write(&file, &[2; 1000], 1000).unwrap();
    let found: BTreeSet<Vec<u8>> =
        (0..SEEDS).map(|seed| disk.snapshot().crash(seed).content(path()).unwrap()).collect();
    let both = [[1; 1000], [2; 1000]].concat();
    assert!(found.contains(&Vec::new()), "all lost");
    assert!(found.contains(&both), "all kept");
    assert!(found.contains(&both[..1000]), "the front kept");
    assert!(found.contains(&[[0; 1000], [2; 1000]].concat()), "the later write kept without the earlier");
    assert!(found.iter().any(|content| !content.is_empty() && content.len() < 1000), "torn");
    assert!(found.iter().any(|content| content.len() == 2000 && content[512..1000] == [0; 488]), "a sector lost");
    assert!(found.len() > 30, "{} outcomes", found.len());
}

#[test]
fn a_cut_that_was_not_flushed_may_be_undone() {
    let (disk, file) = disk_with_file();
    write(&file, b"content", 0).unwrap();
    file.sync_data().unwrap();
    file.set_len(3).unwrap();
    let found: BTreeSet<_> = (0..SEEDS).map(|seed| disk.snapshot().crash(seed).content(path()).unwrap()).collect();
    assert_eq!(found, BTreeSet::from([b"con".to_vec(), b"content".to_vec()]));
    file.set_len(9).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.crash(1).content(path()).unwrap(), b"con\0\0\0\0\0\0");
}

#[test]
fn a_name_that_was_not_flushed_may_be_lost_though_its_bytes_were() {
    let (disk, _file) = disk_with_file();
    let other = Path::new("/store/b");
    let file = disk.open(other, OpenMode::Create).unwrap();
    write(&file, b"b", 0).unwrap();
    file.sync_data().unwrap();
    let found: BTreeSet<_> = (0..SEEDS).map(|seed| disk.snapshot().crash(seed).content(other)).collect();
    assert_eq!(found, BTreeSet::from([None, Some(b"b".to_vec())]));
    disk.sync_dir(Path::new("/store")).unwrap();
    assert!((0..SEEDS).all(|seed| disk.snapshot().crash(seed).content(other).is_some()));
}

#[test]
fn what_is_in_a_directory_that_was_not_flushed_may_be_lost_with_it() {
    let disk = FaultVfs::new(1);
    disk.create_dir(Path::new("/x/y")).unwrap();
    disk.open(Path::new("/x/y/file"), OpenMode::Create).unwrap();
    disk.sync_dir(Path::new("/x/y")).unwrap();
    let lost = (0..SEEDS).filter(|seed| disk.snapshot().crash(*seed).files().is_empty()).count() as u64;
    assert!(lost > 0 && lost < SEEDS, "{lost}");
    disk.sync_dir(Path::new("/x")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    assert!((0..SEEDS).all(|seed| disk.snapshot().crash(seed).files().len() == 1));
}

#[test]
fn a_rename_is_found_whole_or_not_at_all_and_never_before_what_it_needs() {
    let (disk, file) = disk_with_file();
    write(&file, b"old", 0).unwrap();
    file.sync_data().unwrap();
    let draft = Path::new("/store/draft");
    let file = disk.open(draft, OpenMode::Create).unwrap();
    write(&file, b"new", 0).unwrap();
    file.sync_data().unwrap();
    disk.rename(draft, path()).unwrap();
    let found: BTreeSet<_> = (0..SEEDS)
        .map(|seed| {
            let after = disk.snapshot().crash(seed);
            (after.content(path()).unwrap(), after.content(draft))
        })
        .collect();
    let (old, new) = (b"old".to_vec(), b"new".to_vec());
    assert_eq!(found, BTreeSet::from([(old.clone(), None), (old, Some(new.clone())), (new, None)]));
}

#[test]
fn a_file_whose_removal_was_not_flushed_may_be_back() {
    let (disk, file) = disk_with_file();
    write(&file, b"kept", 0).unwrap();
    file.sync_data().unwrap();
    disk.remove(path()).unwrap();
    let found: BTreeSet<_> = (0..SEEDS).map(|seed| disk.snapshot().crash(seed).content(path())).collect();
    assert_eq!(found, BTreeSet::from([None, Some(b"kept".to_vec())]));
}

#[test]
fn after_a_failed_flush_the_next_one_succeeds_and_makes_nothing_durable() {
    let lost = (0..SEEDS)
        .filter(|seed| {
            let disk = FaultVfs::new(*seed);
            let file = disk.open(Path::new("/a"), OpenMode::Create).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            write(&file, b"bytes", 0).unwrap();
            disk.inject(Injection::at(0, Fault::Eio).of(Operation::SyncData));
            assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
            file.sync_data().unwrap();
            assert_eq!(disk.content(Path::new("/a")).unwrap(), b"bytes", "reads return the cache");
            disk.evict();
            let evicted = disk.content(Path::new("/a")).unwrap();
            assert_eq!(disk.crash(0).content(Path::new("/a")).unwrap(), evicted, "the medium");
            evicted != b"bytes"
        })
        .count() as u64;
    assert!(lost > 0 && lost < SEEDS, "{lost}");
}

#[test]
fn a_full_disk_takes_what_fits_and_more_once_space_is_freed() {
    let (disk, file) = disk_with_file();
    disk.set_capacity(Some(3 * 4096));
    assert_eq!(write(&file, &vec![1; 20_000], 0).unwrap(), 3 * 4096);
    assert_eq!(write(&file, &[1; 1], 3 * 4096).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(write(&file, &[2; 4096], 0).unwrap(), 4096, "space that is taken can be written");
    file.set_len(1 << 20).unwrap();
    assert_eq!(disk.used_bytes(), 3 * 4096, "a hole takes none");
    file.set_len(4096).unwrap();
    let other = disk.open(Path::new("/store/b"), OpenMode::Create).unwrap();
    assert_eq!(write(&other, &vec![3; 20_000], 0).unwrap(), 2 * 4096);
    disk.remove(path()).unwrap();
    assert_eq!(write(&other, &vec![3; 20_000], 8192).unwrap(), 4096);
    disk.set_capacity(None);
    assert_eq!(write(&other, &vec![3; 20_000], 0).unwrap(), 20_000);
}

#[test]
fn a_lock_excludes_and_ends_with_its_holder_or_the_power() {
    let (disk, _file) = disk_with_file();
    let lock = Path::new("/store/lock");
    let held = disk.lock(lock).unwrap();
    assert!(held.is_some());
    assert!(disk.lock(lock).unwrap().is_none());
    let after = disk.snapshot().kill();
    assert!(after.lock(lock).unwrap().is_some());
    drop(held);
    assert!(disk.lock(lock).unwrap().is_some());
}

#[test]
fn a_process_that_is_killed_leaves_all_that_it_wrote() {
    let (disk, file) = disk_with_file();
    write(&file, b"unflushed", 0).unwrap();
    let after = disk.kill();
    assert_eq!(after.content(path()).unwrap(), b"unflushed");
    assert!((0..SEEDS).any(|seed| after.snapshot().crash(seed).content(path()).unwrap().is_empty()));
}

#[test]
fn handles_of_the_disk_before_the_crash_fail() {
    let (disk, file) = disk_with_file();
    let after = disk.crash(1);
    assert!(file.len().is_err() && file.sync_data().is_err() && write(&file, b"late", 0).is_err());
    assert!(disk.open(path(), OpenMode::Read).is_err());
    assert_eq!(after.content(path()).unwrap(), b"");
}

#[test]
fn the_power_goes_at_the_operation_that_was_named_and_stays_away() {
    let (disk, file) = disk_with_file();
    disk.inject_ahead(Injection::at(1, Fault::PowerCut));
    write(&file, b"before", 0).unwrap();
    assert!(write(&file, b"during", 100).is_err());
    assert!(file.sync_data().is_err() && !disk.is_powered());
    assert_eq!(disk.struck(), 1);
    let survived = (0..SEEDS).filter(|seed| disk.snapshot().crash(*seed).content(path()).unwrap().len() > 100).count();
    assert!(survived > 0, "the interrupted write may be on the medium");
}

#[test]
fn a_planned_fault_strikes_as_often_as_planned() {
    let (disk, file) = disk_with_file();
    let reads = |count| (0..count).filter(|_| file.read_at(&mut [0; 8], 0).is_err()).count();
    disk.inject(Injection::at(2, Fault::Eio).of(Operation::Read).times(3));
    assert_eq!(reads(10), 3);
    disk.inject(Injection::at(15, Fault::Interrupted).of(Operation::Read).for_ever());
    assert_eq!(reads(10), 5);
    disk.mend();
    assert_eq!(reads(10), 0);
    assert_eq!((disk.counts().of(Operation::Read), disk.struck()), (30, 8));
}

#[test]
fn mischief_makes_reads_and_writes_short_and_interrupted_but_loses_nothing() {
    let (disk, file) = disk_with_file();
    disk.set_mischief(200);
    let (mut short, mut interrupted) = (0, 0);
    for _ in 0..200 {
        match write(&file, &[1; 100], 0) {
            Ok(100) => {}
            Ok(_) => short += 1,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::Interrupted);
                interrupted += 1;
            }
        }
    }
    assert!(short > 10 && interrupted > 10, "{short} {interrupted}");
}

#[test]
fn bits_flip_and_bytes_go_at_rest() {
    let (disk, file) = disk_with_file();
    write(&file, b"ab", 0).unwrap();
    assert!(disk.flip_bit(path(), 9) && !disk.flip_bit(path(), 16));
    assert_eq!(disk.content(path()).unwrap(), b"a`");
    let after = disk.crash(1);
    assert_eq!(after.content(path()).unwrap(), b"a`");
    assert!(after.cut(path(), 1) && !after.cut(path(), 1));
    assert!(after.lose(path()) && !after.lose(path()));
    assert!(after.crash(2).files().is_empty());
}

#[test]
fn a_copy_is_told_from_the_original_and_a_snapshot_is_not() {
    let (disk, file) = disk_with_file();
    let identity = |disk: &FaultVfs| disk.open(path(), OpenMode::Read).unwrap().identity().unwrap();
    assert_eq!(identity(&disk.snapshot()), file.identity().unwrap());
    assert_ne!(identity(&disk.copy()), file.identity().unwrap());
    assert_eq!(identity(&disk.crash(1)), identity(&disk.crash(1).snapshot()));
}

#[test]
fn the_same_seed_leads_to_the_same_disk() {
    let run = |seed| {
        let (disk, file) = disk_with_file();
        for offset in 0..20 {
            write(&file, &[offset as u8 + 1; 700], offset * 700).unwrap();
        }
        disk.crash(seed).content(path()).unwrap()
    };
    assert!((0..20).all(|seed| run(seed) == run(seed)));
    assert_ne!(run(3), run(4));
}
