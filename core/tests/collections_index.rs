//! The index of collections and its disk: it is not read whole when it is opened, and what rots in it is met all the same.
#![cfg(feature = "collections")]

use std::{
    collections::BTreeMap,
    io::IoSlice,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use counterfoil::{
    Builder, Collection, Durability, ErrorKind, Store,
    vfs::{Memory, OpenMode, Vfs, VfsFile},
};

#[path = "disk/mod.rs"]
mod disk;

use disk::Disk;

const DIR: &str = "a.store";
const BLOCK_LEN: u64 = 4096;

type Values = Collection<u64, Vec<u8>>;

/// A disk in memory, what is in it, and a builder of stores there whose index has next to no cache.
fn small_cache() -> (Disk, Memory, Builder) {
    let memory = Memory::default();
    let disk = Disk::over(memory.clone());
    let builder = Store::builder().node("a").vfs(Arc::new(disk.clone())).background(false).collection_bytes(256 << 10);
    (disk, memory, builder)
}

fn values(store: &Store) -> Values {
    store.own_space().unwrap().collection("values").unwrap()
}

/// A store, closed, whose keys hold a few bytes each.
fn with_keys(builder: &Builder, keys: u64) {
    let store = builder.clone().open_or_create(DIR).unwrap();
    let values = values(&store);
    for key in 0..keys {
        values.put(&key, &key.to_le_bytes().to_vec()).unwrap();
    }
    store.close(Duration::ZERO).unwrap();
}

fn held(values: &Values) -> BTreeMap<u64, Vec<u8>> {
    let entries = values.range(..).unwrap().map(Result::unwrap);
    entries.map(|(key, versions)| (key, versions.value().unwrap().clone())).collect()
}

fn expected(keys: u64) -> BTreeMap<u64, Vec<u8>> {
    (0..keys).map(|key| (key, key.to_le_bytes().to_vec())).collect()
}

fn index(memory: &Memory) -> Arc<dyn VfsFile> {
    memory.open(&Path::new(DIR).join("collections.redb"), OpenMode::Write).unwrap()
}

fn flip(file: &dyn VfsFile, offset: u64) {
    let mut byte = [0];
    file.read_at(&mut byte, offset).unwrap();
    file.write_at(&[IoSlice::new(&[byte[0] ^ 1])], offset).unwrap();
}

#[test]
fn opening_after_a_clean_close_reads_little_of_the_index_and_after_another_end_all_that_is_in_use() {
    const KEYS: u64 = 40_000;
    let (disk, memory, builder) = small_cache();
    with_keys(&builder, KEYS);
    let index_len = index(&memory).len().unwrap();
    let read_by_opening = || {
        disk.index_bytes_read.store(0, Ordering::Relaxed);
        let store = builder.clone().open(DIR).unwrap();
        assert_eq!(values(&store).get(&7).unwrap().value().unwrap(), &7_u64.to_le_bytes());
        (store, disk.index_bytes_read.load(Ordering::Relaxed))
    };
    let (store, read) = read_by_opening();
    assert!(read * 20 < index_len, "{read} of {index_len} bytes");
    store.close(Duration::ZERO).unwrap();
    // Sums of another time are as good as none.
    memory.remove(&Path::new(DIR).join("collections.sums")).unwrap();
    let (store, read) = read_by_opening();
    assert!(read * 6 > index_len, "{read} of {index_len} bytes");
    assert_eq!(held(&values(&store)), expected(KEYS));
}

#[test]
fn what_rots_in_the_index_while_it_is_open_is_never_taken_for_an_answer() {
    const KEYS: u64 = 2_000;
    let (_, memory, builder) = small_cache();
    with_keys(&builder, KEYS);
    let blocks = index(&memory).len().unwrap() / BLOCK_LEN;
    for block in 0..blocks {
        let store = builder.clone().open(DIR).unwrap();
        let values = values(&store);
        flip(&*index(&memory), block * BLOCK_LEN + block * 37 % BLOCK_LEN);
        assert_eq!(held(&values), expected(KEYS), "block {block}");
        values.put(&block, &block.to_le_bytes().to_vec()).unwrap().wait(Durability::Local).unwrap();
        assert_eq!(values.get(&block).unwrap().value().unwrap(), &block.to_le_bytes());
        store.close(Duration::ZERO).unwrap();
    }
    assert_eq!(held(&values(&builder.open(DIR).unwrap())), expected(KEYS));
}

#[test]
fn all_of_an_index_may_rot_while_it_is_open() {
    const KEYS: u64 = 5_000;
    let (_, memory, builder) = small_cache();
    with_keys(&builder, KEYS);
    let store = builder.clone().open(DIR).unwrap();
    let values = values(&store);
    let other = store.space("other").unwrap().collection::<u64, u64>("values").unwrap();
    other.put(&1, &1).unwrap();
    let rotten = index(&memory);
    (0..rotten.len().unwrap() / BLOCK_LEN).for_each(|block| flip(&*rotten, block * BLOCK_LEN + 100));
    assert_eq!((held(&values), other.get(&1).unwrap().value()), (expected(KEYS), Some(&1)));
    store.close(Duration::ZERO).unwrap();
    let store = builder.open(DIR).unwrap();
    assert_eq!(held(&self::values(&store)), expected(KEYS));
    assert_eq!(
        store.space("other").unwrap().collection::<u64, u64>("values").unwrap().get(&1).unwrap().value(),
        Some(&1)
    );
}

#[test]
fn keys_that_come_in_order_have_what_they_take_written_to_the_index_and_not_all_of_it_each_time() {
    let (disk, _, builder) = small_cache();
    let store = builder.create(DIR).unwrap();
    let values = values(&store);
    let put = |keys: std::ops::Range<u64>| {
        let before = disk.index_bytes_written.load(Ordering::Relaxed);
        for key in keys {
            values.put(&key, &key.to_le_bytes().to_vec()).unwrap();
        }
        store.commit().unwrap();
        values.get(&0).unwrap();
        disk.index_bytes_written.load(Ordering::Relaxed) - before
    };
    let (first, _, last) = (put(0..20_000), put(20_000..80_000), put(80_000..100_000));
    assert!(last < 2 * first && last < 20_000 * 200, "{first} bytes for the first 20,000 keys, {last} for the last");
}

#[test]
fn without_space_for_the_index_keys_are_put_and_got_all_the_same_and_it_is_written_once_there_is_some() {
    const KEYS: u64 = 60_000;
    let (disk, memory, builder) = small_cache();
    with_keys(&builder, 3_000);
    let store = builder.clone().open(DIR).unwrap();
    let values = values(&store);
    let len_before = index(&memory).len().unwrap();
    disk.is_full_for_index.store(true, Ordering::Relaxed);
    for key in 0..KEYS {
        values.put(&key, &key.to_le_bytes().to_vec()).unwrap();
        if key % 1_000 == 0 {
            store.commit().unwrap();
            assert_eq!(values.get(&(key / 2)).unwrap().value().unwrap(), &(key / 2).to_le_bytes());
        }
    }
    store.commit().unwrap();
    assert_eq!(held(&values), expected(KEYS));
    assert_eq!(index(&memory).len().unwrap(), len_before, "there was no space");
    disk.is_full_for_index.store(false, Ordering::Relaxed);
    store.close(Duration::ZERO).unwrap();
    assert!(index(&memory).len().unwrap() > len_before);
    assert_eq!(held(&self::values(&builder.open(DIR).unwrap())), expected(KEYS));
}

#[test]
fn an_index_that_can_not_be_made_anew_for_want_of_space_is_told_until_there_is_some() {
    const KEYS: u64 = 5_000;
    let (disk, memory, builder) = small_cache();
    with_keys(&builder, KEYS);
    let store = builder.open(DIR).unwrap();
    let values = values(&store);
    let rotten = index(&memory);
    (0..rotten.len().unwrap() / BLOCK_LEN).for_each(|block| flip(&*rotten, block * BLOCK_LEN + 100));
    disk.is_full_for_index.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let error = values.get(&77).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert!(error.to_string().ends_with("free some, then try again"), "{error}");
    }
    disk.is_full_for_index.store(false, Ordering::Relaxed);
    assert_eq!(held(&values), expected(KEYS));
}

#[test]
fn what_a_put_has_found_in_the_index_is_not_read_again_when_it_has_become_durable() {
    const KEYS: u64 = 20_000;
    let (disk, _, builder) = small_cache();
    with_keys(&builder, KEYS);
    let store = builder.open(DIR).unwrap();
    let values = values(&store);
    let read = || disk.index_bytes_read.load(Ordering::Relaxed);
    let before = read();
    for key in (0..KEYS).step_by(199) {
        values.put(&key, &b"new".to_vec()).unwrap();
    }
    let by_puts = read();
    assert!(by_puts - before > 50 * BLOCK_LEN, "each looks for another part of the index");
    store.commit().unwrap();
    assert_eq!(values.missing().unwrap(), []);
    assert_eq!(read(), by_puts);
    assert_eq!(values.get(&199).unwrap().value().unwrap(), b"new");
}

#[test]
fn what_others_wrote_while_a_put_was_queued_is_in_conflict_with_it_though_the_index_was_written_meanwhile() {
    // Whose log is taken in first is chance.
    for round in 0..8 {
        let (_, _, builder) = small_cache();
        let (here, there) =
            (builder.background(true).open_or_create(DIR).unwrap(), Store::builder().node("b").in_memory().unwrap());
        let of = |store: &Store| store.space("ward").unwrap().collection::<u64, Vec<u8>>("values").unwrap();
        let (ours, theirs) = (of(&here), of(&there));
        ours.put(&7, &b"ours".to_vec()).unwrap();
        // Enough for several layers.
        for key in 0..3_000 {
            theirs.put(&key, &b"theirs".to_vec()).unwrap();
        }
        there.commit().unwrap();
        let link = there.mirror_in_process(&here).spaces(["ward"]).start().unwrap();
        assert!(link.wait_mirrored(Duration::from_secs(20)), "round {round}");
        let found = ours.get(&7).unwrap();
        let mut values: Vec<_> = found.all().iter().map(|version| version.value().unwrap().clone()).collect();
        values.sort_unstable();
        assert_eq!(values, [b"ours".to_vec(), b"theirs".to_vec()], "round {round}");
    }
}
