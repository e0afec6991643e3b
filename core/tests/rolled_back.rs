//! Stores that were rolled back in their place, which only another node can tell: they go on in new logs, and nothing that is anywhere
//! is lost.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use counterfoil::{Durability, LocalLink, LogId, Store};

#[path = "roll_back/mod.rs"]
mod roll_back;

use roll_back::roll_back;

const PATIENCE: Duration = Duration::from_secs(60);

fn append(store: &Store, bodies: &[&str]) {
    for body in bodies {
        store.own_space().unwrap().append(body).unwrap().wait(Durability::Local).unwrap();
    }
}

fn bodies(store: &Store) -> BTreeSet<String> {
    let records = store.space("practice").unwrap().read(..).unwrap();
    records.map(|record| String::from_utf8_lossy(&record.unwrap().body()[..]).into_owned()).collect()
}

fn texts(bodies: &[&str]) -> BTreeSet<String> {
    bodies.iter().map(ToString::to_string).collect()
}

fn sync(store: &Store, hub: &Store) -> LocalLink {
    store.sync_in_process(hub).spaces(["practice"]).start().unwrap()
}

/// Waits until the store writes another log than that.
fn wait_new_life(store: &Store, old: LogId) {
    let began_in = store.logs().iter().find(|info| info.id == old).unwrap().genesis.nonce;
    let is_over = |_: &u32| {
        thread::sleep(Duration::from_millis(2));
        *store.incarnation().as_bytes() != began_in
    };
    (0..30_000).find(is_over).expect("the hub holds what this store lost");
}

/// A store in `path` that has synced `lost` and was rolled back to before that, the hub that has it, and the log.
fn rolled_back(path: &Path, lost: &[&str]) -> (Store, Store, LogId) {
    let hub = Store::builder().node("hub").in_memory().unwrap();
    let store = Store::builder().node("practice").create(path).unwrap();
    append(&store, &["before"]);
    store.close(Duration::ZERO).unwrap();
    let aside = path.with_extension("aside");
    roll_back(path, &aside);
    let store = Store::open(path).unwrap();
    append(&store, lost);
    let log = store.own_space().unwrap().own_log().unwrap();
    let link = sync(&store, &hub);
    assert!(link.wait_synced(PATIENCE));
    link.stop();
    store.close(Duration::ZERO).unwrap();
    drop((store, link));
    roll_back(&aside, path);
    let store = Store::open(path).unwrap();
    assert_eq!(bodies(&store), texts(&["before"]));
    assert_eq!(store.own_space().unwrap().own_log(), Some(log), "it can not know");
    (store, hub, log)
}

#[test]
fn what_was_lost_by_it_is_fetched_back_and_a_new_log_is_begun_that_names_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("practice.store");
    let (store, hub, log) = rolled_back(&path, &["lost 1", "lost 2"]);
    let link = sync(&store, &hub);
    wait_new_life(&store, log);
    append(&store, &["after"]);
    assert!(link.wait_synced(PATIENCE));
    let expected = texts(&["before", "lost 1", "lost 2", "after"]);
    assert_eq!((bodies(&store), bodies(&hub)), (expected.clone(), expected));
    let space = store.own_space().unwrap();
    assert_eq!(space.frontier(), hub.space("practice").unwrap().frontier());
    let own = space.own_log().unwrap();
    assert_ne!(own, log);
    let info = space.logs().into_iter().find(|info| info.id == own).unwrap();
    assert_eq!(info.genesis.parent.map(|parent| parent.log), Some(log));
    link.stop();
    let incarnation = store.incarnation();
    store.close(Duration::ZERO).unwrap();
    drop((store, space, link));

    let store = Store::open(&path).unwrap();
    append(&store, &["after a restart"]);
    assert_eq!((store.own_space().unwrap().own_log(), store.incarnation()), (Some(own), incarnation));
    let link = sync(&store, &hub);
    assert!(link.wait_synced(PATIENCE));
    link.stop();
    assert_eq!(store.own_space().unwrap().frontier(), hub.space("practice").unwrap().frontier());
    assert_eq!(store.logs().len(), 2, "once is enough");
}

#[test]
fn both_histories_are_kept_if_it_was_written_to_before_it_was_known_and_what_follows_is_mirrored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("practice.store");
    let (store, hub, log) = rolled_back(&path, &["lost 1", "lost 2", "lost 3"]);
    append(&store, &["in ignorance"]);
    let link = sync(&store, &hub);
    wait_new_life(&store, log);
    append(&store, &["after"]);
    let space = store.own_space().unwrap();
    let own = space.own_log().unwrap();
    assert_ne!(own, log);
    let is_mirrored = |receipt: counterfoil::Receipt| {
        receipt.wait_timeout(Durability::Mirrored(1), PATIENCE).unwrap() == Durability::Mirrored(1)
    };
    assert!(is_mirrored(space.append("and on").unwrap()));
    assert_eq!(bodies(&store), texts(&["before", "in ignorance", "after", "and on"]));
    assert_eq!(bodies(&hub), texts(&["before", "lost 1", "lost 2", "lost 3", "after", "and on"]));
    let parked = link.status().parked;
    assert!(parked.iter().any(|(parked, _)| *parked == log), "{parked:?}");
    link.stop();
    store.close(Duration::ZERO).unwrap();
    drop((store, space, link));

    let store = Store::open(&path).unwrap();
    let link = sync(&store, &hub);
    assert!(is_mirrored(store.own_space().unwrap().append("after a restart").unwrap()));
    assert_eq!(store.own_space().unwrap().own_log(), Some(own));
    assert_eq!(store.logs().len(), 2, "one finding, one new log");
    link.stop();
}

#[test]
fn a_mirror_tells_it_too_and_what_follows_is_mirrored() {
    let folder = tempfile::tempdir().unwrap();
    let (store, hub, log) = rolled_back(&folder.path().join("practice.store"), &["lost 1"]);
    let link = store.mirror_in_process(&hub).spaces(["practice"]).start().unwrap();
    wait_new_life(&store, log);
    let receipt = store.own_space().unwrap().append("after").unwrap();
    assert_eq!(receipt.wait_timeout(Durability::Mirrored(1), PATIENCE).unwrap(), Durability::Mirrored(1));
    assert_eq!(bodies(&hub), texts(&["before", "lost 1", "after"]));
    link.stop();
}

#[test]
fn those_who_append_and_put_while_it_is_found_out_see_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, hub, log) = rolled_back(&folder.path().join("practice.store"), &["lost 1", "lost 2"]);
    let is_over = AtomicBool::new(false);
    let values = store.own_space().unwrap().collection::<u64, u64>("values").unwrap();
    let (appended, put) = thread::scope(|scope| {
        let (is_over, store, values) = (&is_over, &store, &values);
        let appending = scope.spawn(move || {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                append(store, &[&format!("record {count}")]);
                count += 1;
            }
            count
        });
        let putting = scope.spawn(move || {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                values.put(&(count % 7), &count).unwrap().wait(Durability::Local).unwrap();
                count += 1;
            }
            count
        });
        let link = sync(store, &hub);
        wait_new_life(store, log);
        thread::sleep(Duration::from_millis(50));
        is_over.store(true, Ordering::Relaxed);
        let counts = (appending.join().unwrap(), putting.join().unwrap());
        link.stop();
        counts
    });
    let kept = bodies(&store);
    assert!((0..appended).all(|number| kept.contains(&format!("record {number}"))), "{appended}");
    for key in 0..put.min(7) {
        let last = (0..put).rev().find(|count| count % 7 == key).unwrap();
        assert_eq!(values.get(&key).unwrap().value(), Some(&last), "key {key}: no conflict, and what was put last");
    }
    assert_eq!(store.logs().len(), 2);
    store.close(Duration::ZERO).unwrap();
}
