//! Collections: what they hold, what is in conflict, and that nothing of the index matters.
#![cfg(feature = "collections")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use counterfoil::{
    Collection, Cursor, Durability, ErrorKind, KeepBoth, LocalLink, NewestByClock, Resolution, Store, SystemClock,
    Version, VersionId, Versions, WallClock,
};
use serde::{Deserialize, Serialize};

type Names = Collection<u32, String>;

fn store(node: &str) -> Store {
    Store::builder().node(node).in_memory().unwrap()
}

/// A wall clock that is ahead by ten seconds.
#[derive(Debug)]
struct Ahead;

impl WallClock for Ahead {
    fn unix_ms(&self) -> u64 {
        SystemClock.unix_ms() + 10_000
    }
}

fn names(store: &Store) -> Names {
    store.space("ward").unwrap().collection("names").unwrap()
}

/// Carries what `from` has to `to`; the link has ended then.
fn carry(from: &Store, to: &Store) {
    let link = link(from, to);
    assert!(link.wait_mirrored(Duration::from_secs(60)));
    link.stop();
}

fn link(from: &Store, to: &Store) -> LocalLink {
    from.commit().unwrap();
    from.mirror_in_process(to).spaces(["ward"]).start().unwrap()
}

fn texts(versions: &Versions<String>) -> Vec<&str> {
    versions.all().iter().map(|version| version.value().map_or("deleted", String::as_str)).collect()
}

/// What each key holds, for comparison of nodes.
fn all(names: &Names) -> BTreeMap<u32, Vec<(VersionId, Option<String>)>> {
    let shown = |version: &Version<String>| (version.id(), version.value().cloned());
    let entries = names.range(..).unwrap().map(Result::unwrap);
    entries.map(|(key, versions)| (key, versions.all().iter().map(shown).collect())).collect()
}

#[test]
fn a_key_holds_what_was_put_last_and_nothing_once_it_is_deleted_before_and_after_it_is_durable() {
    let store = store("a");
    let names = names(&store);
    assert!(matches!(names.get(&7).unwrap(), Versions::None));
    for is_durable in [false, true] {
        for text in ["Ann", "Bob"] {
            names.put(&7, &text.to_owned()).unwrap();
            if is_durable {
                store.commit().unwrap();
            }
            assert_eq!(texts(&names.get(&7).unwrap()), [text]);
        }
        names.delete(&7).unwrap();
        if is_durable {
            store.commit().unwrap();
        }
        assert!(matches!(names.get(&7).unwrap(), Versions::None));
        assert_eq!(names.keys(..).unwrap().count(), 0);
    }
}

#[test]
fn writes_that_did_not_know_of_each_other_are_in_conflict_until_one_supersedes_them_all() {
    let (a, b) = (store("a"), store("b"));
    let (here, there) = (names(&a), names(&b));
    here.put(&1, &"first".into()).unwrap();
    carry(&a, &b);
    here.put(&1, &"Ann".into()).unwrap();
    there.put(&1, &"Bob".into()).unwrap();
    carry(&a, &b);
    let found = there.get(&1).unwrap();
    assert!(found.is_conflict());
    let mut shown = texts(&found);
    shown.sort_unstable();
    assert_eq!(shown, ["Ann", "Bob"]);
    assert_eq!(there.conflicts().unwrap().count(), 1);

    there.put(&1, &"Ann and Bob".into()).unwrap();
    assert_eq!(texts(&there.get(&1).unwrap()), ["Ann and Bob"]);
    assert_eq!(there.conflicts().unwrap().count(), 0);
    carry(&b, &a);
    assert_eq!(texts(&here.get(&1).unwrap()), ["Ann and Bob"]);
    assert_eq!(all(&here), all(&there));
}

#[test]
fn a_deletion_that_did_not_know_of_a_value_is_in_conflict_with_it() {
    let (a, b) = (store("a"), store("b"));
    let (here, there) = (names(&a), names(&b));
    here.put(&1, &"first".into()).unwrap();
    carry(&a, &b);
    here.delete(&1).unwrap();
    there.put(&1, &"second".into()).unwrap();
    carry(&b, &a);
    let found = here.get(&1).unwrap();
    let deleted: Vec<_> = found.all().iter().map(Version::is_deleted).collect();
    assert!(found.is_conflict() && deleted.contains(&true) && deleted.contains(&false), "{found:?}");
    assert_eq!(here.keys(..).unwrap().map(Result::unwrap).collect::<Vec<_>>(), [1]);
}

/// A store of node `d` with the logs of these nodes, out of all that `from` holds.
fn with_logs_of(nodes: &[&str], from: &Path, folder: &Path) -> Store {
    use counterfoil_storage::{Journal, NodeName, Options, Seq};

    let mut read_only = Options::default();
    read_only.read_only = true;
    let (source, _) = Journal::open(from, read_only).unwrap();
    let target = Journal::create(folder, NodeName::new("d").unwrap(), Options::default()).unwrap();
    for info in source.logs(None) {
        if nodes.contains(&info.genesis.node.as_str()) {
            let log = target.create_log((*info.genesis).clone()).unwrap();
            source.read(log, Seq::ZERO).for_each(|batch| drop(target.store(batch.unwrap()).unwrap()));
        }
    }
    target.close().unwrap();
    Store::open(folder).unwrap()
}

#[test]
fn a_version_known_through_another_is_no_conflict_though_what_was_between_has_not_come() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (store("a"), store("b"));
    let c = Store::builder().node("c").create(folder.path().join("c")).unwrap();
    names(&a).put(&1, &"of a".into()).unwrap();
    carry(&a, &b);
    names(&b).put(&1, &"of b".into()).unwrap();
    carry(&b, &c);
    names(&c).put(&1, &"of c".into()).unwrap();
    c.close(Duration::ZERO).unwrap();
    let d = with_logs_of(&["a", "c"], &folder.path().join("c"), &folder.path().join("d"));
    assert_eq!(d.space("ward").unwrap().logs().len(), 2, "not that of b");
    assert_eq!(texts(&names(&d).get(&1).unwrap()), ["of c"], "it follows that of a, though that of b is not here");
    let history = names(&d).history(&1).unwrap();
    assert_eq!((history.versions.len(), history.missing.len()), (2, 1));
}

#[test]
fn resolving_what_was_read_is_refused_once_something_else_is_there() {
    let store = store("a");
    let names = names(&store);
    let nothing = names.get(&1).unwrap();
    names.resolve(&1, &nothing, Some(&"first".into())).unwrap();
    let error = names.resolve(&1, &nothing, Some(&"again".into())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed);
    let read = names.get(&1).unwrap();
    names.delete(&1).unwrap();
    assert_eq!(names.take(&1, &read, read.all()[0].id()).unwrap_err().kind(), ErrorKind::Changed);
    let nothing = names.get(&1).unwrap();
    names.resolve(&1, &nothing, Some(&"after the deletion".into())).unwrap();
    assert_eq!(texts(&names.get(&1).unwrap()), ["after the deletion"]);
}

#[test]
fn rules_decide_all_conflicts_or_keep_them() {
    // The clock of b is ahead, so its versions are the newest.
    let (a, b) = (store("a"), Store::builder().node("b").clock(Arc::new(Ahead)).in_memory().unwrap());
    let (here, there) = (names(&a), names(&b));
    for key in 0..6 {
        here.put(&key, &format!("a{key}")).unwrap();
    }
    a.commit().unwrap();
    for key in 0..6 {
        there.put(&key, &format!("b{key}")).unwrap();
    }
    carry(&a, &b);
    let settled = there.settle(&KeepBoth).unwrap();
    assert_eq!((settled.decided, settled.kept), (0, 6));
    let even = |key: &u32, versions: &[Version<String>]| match key {
        0 => Resolution::Delete,
        2 => Resolution::Put(
            versions.iter().filter_map(Version::value).map(String::as_str).collect::<Vec<_>>().join("+"),
        ),
        4 => Resolution::Take(0),
        _ => Resolution::KeepBoth,
    };
    let settled = there.settle(&even).unwrap();
    assert_eq!((settled.decided, settled.kept), (3, 3));
    assert_eq!(there.settle(&NewestByClock).unwrap().decided, 3);
    carry(&b, &a);
    let value = |key| here.get(&key).unwrap().value().cloned();
    assert_eq!([0, 1, 2, 3, 4, 5].map(value).map(Option::unwrap_or_default), ["", "b1", "a2+b2", "b3", "a4", "b5"]);
}

#[test]
fn the_writes_of_a_transaction_come_together_and_the_last_to_a_key_counts() {
    let (a, b) = (store("a"), store("b"));
    let space = a.space("ward").unwrap();
    let (names_here, beds) = (names(&a), space.collection::<String, u32>("beds").unwrap());
    names_here.put(&2, &"to go".into()).unwrap();
    let mut transaction = space.transaction();
    transaction.put(&names_here, &1, &"not this".into()).unwrap();
    transaction.put(&names_here, &1, &"Ann".into()).unwrap();
    transaction.delete(&names_here, &2).unwrap();
    transaction.put(&beds, &"Ann".into(), &1).unwrap();
    let receipt = transaction.happened_at(UNIX_EPOCH).commit().unwrap();
    assert_eq!(receipt.next_seq().0 - receipt.first_seq().0, 1, "one record");
    carry(&a, &b);
    for store in [&a, &b] {
        let found = names(store).get(&1).unwrap();
        assert_eq!(texts(&found), ["Ann"]);
        assert_eq!(found.all()[0].happened_at(), Some(UNIX_EPOCH));
        assert!(matches!(names(store).get(&2).unwrap(), Versions::None));
        let beds = store.space("ward").unwrap().collection::<String, u32>("beds").unwrap();
        assert_eq!(beds.get(&"Ann".into()).unwrap().value(), Some(&1));
    }
    assert_eq!(a.space("ward").unwrap().transaction().commit().unwrap_err().kind(), ErrorKind::Misuse);
}

#[test]
fn ranges_are_in_order_over_what_is_indexed_durable_and_queued() {
    // So little memory that the index is written again and again.
    let store = Store::builder().node("a").collection_bytes(64 << 10).in_memory().unwrap();
    let names = names(&store);
    let mut expected = BTreeMap::new();
    for round in 0..3000_u32 {
        let key = round.wrapping_mul(2_654_435_761) % 1000;
        names.put(&key, &format!("{round}")).unwrap();
        expected.insert(key, format!("{round}"));
        if round % 700 == 0 {
            store.commit().unwrap();
        }
    }
    let read = |range: std::ops::Range<u32>| -> BTreeMap<u32, String> {
        let entries = names.range(range).unwrap().map(Result::unwrap);
        entries.map(|(key, versions)| (key, versions.value().unwrap().clone())).collect()
    };
    assert_eq!(read(0..u32::MAX), expected);
    assert_eq!(read(100..200), expected.range(100..200).map(|(key, value)| (*key, value.clone())).collect());
    let backwards = std::ops::Range { start: 200, end: 100 };
    assert!(read(backwards).is_empty() && read(5..5).is_empty());
    let keys: Vec<_> = names.keys(990..=995).unwrap().map(Result::unwrap).collect();
    assert_eq!(keys, expected.range(990..=995).map(|(key, _)| *key).collect::<Vec<_>>());
    let other = store.space("ward").unwrap().collection::<u32, String>("name").unwrap();
    assert_eq!(other.keys(..).unwrap().count(), 0, "another collection, whose name begins alike");
}

#[test]
fn history_shows_every_version_oldest_first_and_those_that_are_not_here() {
    let (a, b) = (store("a"), store("b"));
    let (here, there) = (names(&a), names(&b));
    here.put(&1, &"1".into()).unwrap();
    here.put(&2, &"something else".into()).unwrap();
    here.put(&1, &"2".into()).unwrap();
    carry(&a, &b);
    there.put(&1, &"3".into()).unwrap();
    there.delete(&1).unwrap();
    let history = there.history(&1).unwrap();
    let shown: Vec<_> = history.versions.iter().map(|version| version.value().map(String::as_str)).collect();
    assert_eq!(shown, [Some("1"), Some("2"), Some("3"), None]);
    let superseded = |index: usize| history.versions[index].supersedes().to_vec();
    let id = |index: usize| history.versions[index].id();
    assert_eq!(superseded(1), [id(0)]);
    assert_eq!(superseded(2), [id(1)]);
    assert_eq!(superseded(3).iter().copied().max_by_key(|version| *version == id(2)), Some(id(2)));
    assert!(history.missing.is_empty());
}

#[test]
fn changes_come_in_the_order_of_arrival_and_go_on_from_a_cursor() {
    let (a, b) = (store("a"), store("b"));
    let here = names(&a);
    let mut changes = here.changes(Cursor::start());
    here.put(&1, &"Ann".into()).unwrap();
    a.space("ward").unwrap().append("no change of a collection").unwrap();
    here.delete(&1).unwrap();
    names(&b).put(&2, &"Bob".into()).unwrap();
    a.commit().unwrap();
    carry(&b, &a);
    let seen: Vec<_> = changes.by_ref().take(2).map(Result::unwrap).collect();
    assert_eq!(seen[0].writes[0].0, 1);
    assert!(seen[1].writes[0].1.is_deleted());
    let mut going_on = here.changes(changes.cursor().to_string().parse().unwrap());
    let third = going_on.next().unwrap().unwrap();
    assert_eq!((third.writes[0].0, third.writes[0].1.node().as_str()), (2, "b"));
    assert!(going_on.next_timeout(Duration::ZERO).unwrap().is_none());
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Patient {
    name: String,
    phone: Option<String>,
}

impl From<String> for Patient {
    fn from(name: String) -> Self {
        Self { name, phone: None }
    }
}

#[test]
fn older_values_are_upgraded_and_newer_ones_are_kept_passed_on_and_told() {
    let (a, b) = (store("a"), store("b"));
    let space = a.space("ward").unwrap();
    names(&a).put(&1, &"Ann".into()).unwrap();
    let patients =
        space.typed::<Patient>().schema_version(2).upgrade_from::<String>(1).collection::<u32>("names").unwrap();
    let found = patients.get(&1).unwrap();
    assert_eq!((found.value().unwrap().name.as_str(), found.all()[0].schema_version()), ("Ann", Some(1)));
    patients.put(&1, &Patient { name: "Ann".into(), phone: Some("5".into()) }).unwrap();
    carry(&a, &b);

    // A program of the time before.
    let old = names(&b);
    let Versions::One(version) = old.get(&1).unwrap() else { panic!("it is there") };
    assert_eq!(version.value(), None);
    assert!(version.unreadable().unwrap().to_string().contains("schema version 2"));
    old.take(&1, &old.get(&1).unwrap(), version.id()).unwrap();
    let typed = b.space("ward").unwrap().typed::<Patient>().schema_version(2);
    let found = typed.collection::<u32>("names").unwrap().get(&1).unwrap();
    assert_eq!(found.value().unwrap().phone.as_deref(), Some("5"), "its bytes stayed as they were");
}

#[test]
fn values_that_are_bytes_stay_as_they_are_and_are_read_by_whoever_knows_what_they_are() {
    let store = store("a");
    let space = store.space("ward").unwrap();
    let bytes = space.collection_of_bytes::<String>("json").unwrap();
    bytes.put(&"1".into(), &Bytes::from_static(br#"{"name":"Ann","phone":null}"#)).unwrap();
    let typed = space.typed_with::<Patient, _>(counterfoil::Json).collection::<String>("json").unwrap();
    assert_eq!(typed.get(&"1".into()).unwrap().value(), Some(&Patient::from("Ann".to_owned())));
    assert_eq!(bytes.get(&"1".into()).unwrap().value().unwrap(), &br#"{"name":"Ann","phone":null}"#[..]);
}

#[test]
fn records_of_others_than_collections_are_left_alone_and_theirs_are_passed_over_by_typed_readers() {
    let store = store("a");
    let space = store.space("ward").unwrap();
    space.typed::<String>().append(&"a value".into()).unwrap();
    names(&store).put(&1, &"Ann".into()).unwrap();
    // The bytes of a collection's record, appended as they are, are an application's bytes.
    store.commit().unwrap();
    let body = space.read(..).unwrap().map(Result::unwrap).find(counterfoil::Record::is_of_collection).unwrap();
    names(&store).delete(&1).unwrap();
    space.append(body.body()).unwrap();
    store.commit().unwrap();
    assert!(matches!(names(&store).get(&1).unwrap(), Versions::None));
    let mut typed = space.typed::<String>().read(..).unwrap();
    assert_eq!(typed.next().unwrap().unwrap().value(), "a value");
}

/// A store on disk with keys 0 to 99, of which some are written twice; what they hold.
fn on_disk(path: &Path) -> BTreeMap<u32, String> {
    let store = Store::builder().node("a").open_or_create(path).unwrap();
    let names = names(&store);
    let mut expected = BTreeMap::new();
    for round in 0..150 {
        names.put(&(round % 100), &format!("{round}")).unwrap();
        expected.insert(round % 100, format!("{round}"));
    }
    store.close(Duration::ZERO).unwrap();
    expected
}

fn held(store: &Store) -> BTreeMap<u32, String> {
    let entries = names(store).range(..).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    entries.into_iter().map(|(key, versions)| (key, versions.value().unwrap().clone())).collect()
}

#[test]
fn an_index_that_is_missing_cut_or_has_a_flipped_bit_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    let expected = on_disk(&path);
    let index = path.join("collections.redb");
    let whole = std::fs::read(&index).unwrap();
    let check = |what: &str| {
        let store = Store::open(&path).unwrap();
        assert_eq!(held(&store), expected, "{what}");
        store.close(Duration::ZERO).unwrap();
    };
    check("whole");
    for len in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&index, &whole[..len]).unwrap();
        check(&format!("cut to {len} bytes"));
    }
    // Every part of the file is hit: with a step that meets every offset within a page sooner or later.
    for offset in (0..whole.len()).step_by(whole.len() / 150 + 7) {
        let mut damaged = whole.clone();
        damaged[offset] ^= 0x10;
        std::fs::write(&index, &damaged).unwrap();
        check(&format!("byte {offset} damaged"));
    }
    std::fs::remove_file(&index).unwrap();
    check("missing");
    std::fs::write(&index, b"something else entirely").unwrap();
    check("foreign");
}

#[test]
fn an_index_that_is_behind_catches_up_and_one_that_is_ahead_of_the_store_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (folder.path().join("a.store"), folder.path().join("aside"));
    on_disk(&path);
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            // In place, so that the store is not taken for a copy.
            std::fs::write(to.join(file.file_name()), std::fs::read(file.path()).unwrap()).unwrap();
        }
    };
    copy(&path, &aside);
    let store = Store::open(&path).unwrap();
    for key in 0..300 {
        names(&store).put(&key, &"later".into()).unwrap();
    }
    store.close(Duration::ZERO).unwrap();
    let (early, late) =
        (std::fs::read(aside.join("collections.redb")).unwrap(), std::fs::read(path.join("collections.redb")).unwrap());

    std::fs::write(path.join("collections.redb"), &early).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(held(&store).len(), 300, "behind");
    store.close(Duration::ZERO).unwrap();

    for file in std::fs::read_dir(&path).unwrap().map(Result::unwrap) {
        if !aside.join(file.file_name()).exists() {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    copy(&aside, &path);
    std::fs::write(path.join("collections.redb"), &late).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(held(&store).len(), 100, "ahead");
}

#[test]
fn a_store_that_is_opened_to_read_only_has_its_collections_beside_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    let expected = on_disk(&path);
    let writer = Store::open(&path).unwrap();
    let theirs = names(&writer);
    let reader = Store::open_read_only(&path).unwrap();
    assert_eq!(held(&reader), expected);
    assert_eq!(names(&reader).put(&1, &"no".into()).unwrap_err().kind(), ErrorKind::ReadOnly);
    theirs.put(&1, &"new".into()).unwrap().wait(Durability::Local).unwrap();
    theirs.put(&2, &"proves it".into()).unwrap().wait(Durability::Local).unwrap();
    reader.refresh().unwrap();
    assert_eq!(texts(&names(&reader).get(&1).unwrap()), ["new"]);
}

#[test]
fn the_making_of_a_large_index_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    let store = Store::builder().node("a").create(&path).unwrap();
    let names = names(&store);
    for key in 0..200_500 {
        names.put(&key, &String::new()).unwrap();
    }
    store.close(Duration::ZERO).unwrap();
    std::fs::remove_file(path.join("collections.redb")).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = {
        let told = Arc::clone(&told);
        move |progress: &counterfoil::IndexProgress| {
            told.lock().unwrap().push((progress.records, progress.records_in_all));
        }
    };
    let store = Store::builder().on_index_progress(tell).open(&path).unwrap();
    let names: Names = store.space("ward").unwrap().collection("names").unwrap();
    assert_eq!(texts(&names.get(&200_499).unwrap()), [""]);
    let told = told.lock().unwrap();
    assert!(told.len() >= 2 && told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&(200_500, 200_500)));
}

#[test]
fn collections_end_with_the_store_and_its_file_can_be_opened_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    for round in 0..5 {
        let store = Store::builder().node("a").open_or_create(&path).unwrap();
        let names = names(&store);
        names.put(&round, &"x".into()).unwrap();
        store.close(Duration::ZERO).unwrap();
        assert_eq!(names.get(&round).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(store.space("another").unwrap().collection::<u32, u32>("c").unwrap_err().kind(), ErrorKind::Closed);
    }
    let store = Store::open(&path).unwrap();
    assert_eq!(names(&store).keys(..).unwrap().count(), 5);
}

#[test]
fn a_key_that_is_too_long_is_refused() {
    let store = store("a");
    let texts = store.space("ward").unwrap().collection::<String, u32>("texts").unwrap();
    texts.put(&"k".repeat(counterfoil::MAX_KEY_LEN), &1).unwrap();
    assert_eq!(texts.put(&"k".repeat(counterfoil::MAX_KEY_LEN + 1), &1).unwrap_err().kind(), ErrorKind::TooLong);
}
