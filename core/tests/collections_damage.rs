//! Collections of a store that has lost records: what is missing is named, the rest is served, and what was mended counts at once.
#![cfg(feature = "collections")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use counterfoil::{Builder, Collection, ErrorKind, LogId, MissingRange, NewestByClock, Seq, Store};
use counterfoil_storage::{Batch, Journal, NodeName, Options};

#[path = "disk/mod.rs"]
mod disk;

type Names = Collection<u32, String>;

const KEYS: u32 = 300;

fn names(store: &Store) -> Names {
    store.space("ward").unwrap().collection("names").unwrap()
}

fn value(key: u32) -> String {
    format!("value {key:05} {}", "of a practice ".repeat(60))
}

/// What each key holds, as far as it can be read.
fn held(names: &Names) -> BTreeMap<u32, String> {
    let entries = names.range(..).unwrap().filter_map(Result::ok);
    entries.map(|(key, versions)| (key, versions.value().unwrap().clone())).collect()
}

fn expected() -> BTreeMap<u32, String> {
    (0..KEYS).map(|key| (key, value(key))).collect()
}

/// Small segments, so that there are several.
fn builder() -> Builder {
    Store::builder().node("a").segment_bytes(1 << 16, 1 << 16)
}

/// The only log of the space.
fn log(store: &Store) -> LogId {
    let [only] = &store.space("ward").unwrap().logs()[..] else { panic!("one log") };
    only.id
}

/// A store in `path` with all keys, each put durably one by one, and another node's store that has mirrored them.
fn mirrored(path: &Path) -> Store {
    let store = builder().create(path).unwrap();
    let names = names(&store);
    for key in 0..KEYS {
        names.put(&key, &value(key)).unwrap();
        store.commit().unwrap();
    }
    let mirror = Store::builder().node("b").in_memory().unwrap();
    let link = store.mirror_in_process(&mirror).spaces(["ward"]).start().unwrap();
    assert!(link.wait_mirrored(Duration::from_secs(60)));
    link.stop();
    store.close(Duration::ZERO).unwrap();
    mirror
}

/// Flips a bit of what a key holds, wherever it is.
fn flip(path: &Path, key: u32) {
    let text = format!("value {key:05} ");
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let segments = files.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    let is_hit = |segment: &PathBuf| {
        let mut bytes = fs::read(segment).unwrap();
        let Some(offset) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) else { return false };
        bytes[offset] ^= 1;
        fs::write(segment, bytes).unwrap();
        true
    };
    assert!(segments.collect::<Vec<_>>().iter().any(is_hit), "{text} is in no segment");
}

/// Has `store` get back of `mirror` what it lacks.
fn mend(store: &Store, mirror: &Store) {
    let link = mirror.mirror_in_process(store).spaces(["ward"]).start().unwrap();
    let is_whole = || store.space("ward").unwrap().logs().iter().all(|info| info.holes.is_empty());
    while !is_whole() {
        std::thread::sleep(Duration::from_millis(2));
    }
    link.stop();
}

fn ranges(missing: &[MissingRange]) -> Vec<(Seq, Seq)> {
    missing.iter().map(|range| (range.first_seq, range.next_seq)).collect()
}

#[test]
fn what_is_missing_is_named_and_what_was_mended_counts_without_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    let mirror = mirrored(&path);
    [20, 21, 150].into_iter().for_each(|key| flip(&path, key));
    fs::remove_file(path.join("collections.redb")).unwrap();

    let store = builder().open(&path).unwrap();
    let names = names(&store);
    let missing = names.missing().unwrap();
    assert!(missing.iter().all(|range| range.log == log(&store)), "{missing:?}");
    assert_eq!(ranges(&missing), [(Seq(20), Seq(22)), (Seq(150), Seq(151))]);
    assert_eq!(missing.iter().map(MissingRange::records).sum::<u64>(), 3);
    assert!(missing[0].to_string().starts_with("20 to before 22 of log "), "{}", missing[0]);
    assert_eq!(held(&names).len(), KEYS as usize - 3, "the rest is served");

    mend(&store, &mirror);
    assert_eq!(held(&names), expected());
    assert_eq!(names.missing().unwrap(), []);
    store.close(Duration::ZERO).unwrap();
    let store = builder().open(&path).unwrap();
    assert_eq!(self::names(&store).missing().unwrap(), []);
}

#[test]
fn a_segment_that_was_lost_is_missing_until_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    let mirror = mirrored(&path);
    let files = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect();
    segments.sort();
    fs::remove_file(&segments[1]).unwrap();
    fs::remove_file(path.join("collections.redb")).unwrap();
    let store = builder().open(&path).unwrap();
    let names = names(&store);
    let missing: u64 = names.missing().unwrap().iter().map(MissingRange::records).sum();
    assert_eq!(held(&names).len() as u64 + missing, u64::from(KEYS));
    assert!(missing > 20, "{missing}");
    mend(&store, &mirror);
    assert_eq!((held(&names), names.missing().unwrap()), (expected(), Vec::new()));
}

#[test]
fn what_rotted_after_it_was_taken_in_is_missing_once_it_is_met() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    mirrored(&path);
    flip(&path, 20);
    let store = builder().open(&path).unwrap();
    let names = names(&store);
    assert_eq!(names.get(&20).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(ranges(&names.missing().unwrap()), [(Seq(20), Seq(21))]);
    let error = names.range(20..).unwrap().next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(names.range(20..22).unwrap().filter_map(Result::ok).count(), 1, "the key behind it");
}

#[test]
fn a_disk_that_refuses_while_gaps_are_read_again_makes_none_of_them_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    let mirror = mirrored(&path);
    [20, 150, 250].into_iter().for_each(|key| flip(&path, key));
    fs::remove_file(path.join("collections.redb")).unwrap();

    let disk = disk::Disk::over(counterfoil::vfs::Disk);
    let store = builder().vfs(Arc::new(disk.clone())).open(&path).unwrap();
    let names = names(&store);
    let all = names.missing().unwrap();
    assert_eq!(ranges(&all), [20, 150, 250].map(|seq| (Seq(seq), Seq(seq + 1))));
    mend(&store, &mirror);
    disk.refuses_reads.store(true, Ordering::Relaxed);
    assert_eq!(names.missing().unwrap_err().kind(), ErrorKind::Disk);
    disk.refuses_reads.store(false, Ordering::Relaxed);
    assert_eq!(names.missing().unwrap(), []);
    assert_eq!(held(&names), expected(), "what was not read again then is now");
}

#[test]
fn what_follows_an_unreadable_record_in_its_batch_is_missing_and_what_is_before_it_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let (path, forged) = (folder.path().join("a.store"), folder.path().join("d.store"));
    let store = builder().create(&path).unwrap();
    for key in 0..4 {
        names(&store).put(&key, &format!("value {key}")).unwrap();
    }
    store.close(Duration::ZERO).unwrap();
    let mut read_only = Options::default();
    read_only.read_only = true;
    let (source, _) = Journal::open(&path, read_only).unwrap();
    let [info] = &source.logs(None)[..] else { panic!("one log") };
    let batch = source.read(info.id, Seq::ZERO).next().unwrap().unwrap();
    assert_eq!(batch.next_seq(), Seq(4), "all in one batch");

    let target = Journal::create(&forged, NodeName::new("d").unwrap(), Options::default()).unwrap();
    let log = target.create_log((*info.genesis).clone()).unwrap();
    target.store(without_sense_from(&batch, Seq(2))).unwrap();
    target.close().unwrap();
    let store = Store::open(&forged).unwrap();
    let names = names(&store);
    assert_eq!(held(&names).into_keys().collect::<Vec<_>>(), [0, 1]);
    let missing = names.missing().unwrap();
    assert_eq!((missing[0].log, ranges(&missing)), (log, vec![(Seq(2), Seq(4))]));
    assert_eq!(names.unreadable().unwrap(), [], "what they are can't be told");
}

/// The batch with bytes that are no records from one on, as a faulty writer would seal it.
fn without_sense_from(batch: &Batch, seq: Seq) -> Batch {
    let mut bytes = batch.bytes().to_vec();
    let last = batch.record(Seq(seq.0 - 1)).unwrap().body;
    let begin = last.as_ptr().addr() + last.len() - batch.bytes().as_ptr().addr();
    bytes[begin..].fill(0xff);
    // The header ends with a CRC-32 of itself and the body.
    let crc = bytes[..84].iter().chain(&bytes[88..]).fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    bytes[84..88].copy_from_slice(&(!crc).to_le_bytes());
    Batch::parse(bytes.into()).unwrap()
}

#[test]
fn rules_decide_all_conflicts_but_those_that_can_t_be_read_which_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    let (a, b) = (builder().create(&path).unwrap(), Store::builder().node("b").in_memory().unwrap());
    for key in 0..5 {
        names(&a).put(&key, &value(key)).unwrap();
        a.commit().unwrap();
        names(&b).put(&key, &"of b".into()).unwrap();
    }
    b.commit().unwrap();
    let link = b.mirror_in_process(&a).spaces(["ward"]).start().unwrap();
    assert!(link.wait_mirrored(Duration::from_secs(60)));
    link.stop();
    assert_eq!(names(&a).conflicts().unwrap().count(), 5);
    a.close(Duration::ZERO).unwrap();
    flip(&path, 1);

    let store = builder().open(&path).unwrap();
    let settled = names(&store).settle(&NewestByClock).unwrap();
    assert_eq!((settled.decided, settled.kept, settled.unread.len()), (4, 0, 1));
    let told = settled.unread[0].to_string();
    assert_eq!(settled.unread[0].kind(), ErrorKind::Damaged);
    assert!(told.contains("of collection names holds can't be read: log ") && told.contains("a mirror may"), "{told}");
}
