//! Making, opening and closing stores, and errors: they say what, where and what to do, on one line, and can be decided by.

use std::time::Duration;

use counterfoil::{Durability, Error, ErrorKind, Store};

fn one_line(error: &Error) -> String {
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

#[test]
fn a_store_that_is_not_there_says_how_to_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("practice.store");
    for result in [Store::open(&path), Store::open_read_only(&path)] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoStore);
        assert!(one_line(&error).contains("practice.store"), "{error}");
    }
    let error = Store::builder().create(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(one_line(&error).contains("node"), "{error}");
}

#[test]
fn a_store_is_made_once_and_opened_by_its_own_node() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let builder = Store::builder().node("practice-12");
    let store = builder.clone().open_or_create(&path).unwrap();
    let receipt = store.own_space().unwrap().append("a").unwrap();
    receipt.wait(Durability::Local).unwrap();
    assert_eq!(builder.clone().open(&path).unwrap_err().kind(), ErrorKind::Locked);
    // What is proven durable is served beside the writer: the last commit once its mark is written.
    let count_beside = || Store::open_read_only(&path).unwrap().own_space().unwrap().read(..).unwrap().count();
    while count_beside() < 1 {
        std::thread::yield_now();
    }
    store.close(Duration::ZERO).unwrap();
    drop(store);

    assert_eq!(builder.clone().create(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let error = Store::builder().node("practice-13").open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(one_line(&error).contains("practice-12"), "{error}");
    let store = builder.open_or_create(&path).unwrap();
    assert_eq!(store.own_space().unwrap().read(..).unwrap().count(), 1);
    assert_eq!(store.own_space().unwrap().append("b").unwrap().first_seq().0, 1, "the log goes on");
}

#[test]
fn a_read_only_store_refuses_appends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    Store::builder().node("practice-12").create(&path).unwrap().close(Duration::ZERO).unwrap();
    let store = Store::open_read_only(&path).unwrap();
    assert_eq!(store.own_space().unwrap().append("a").unwrap_err().kind(), ErrorKind::ReadOnly);
    store.close(Duration::ZERO).unwrap();
}

#[test]
fn what_can_not_be_is_misuse() {
    let store = Store::in_memory().unwrap();
    for error in [
        store.space("").unwrap_err(),
        store.space("../etc").unwrap_err(),
        Store::builder().node("no blanks").in_memory().unwrap_err(),
        store.mirror_in_process(&store).start().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        one_line(&error);
    }
}

#[test]
fn a_record_beyond_the_limit_is_refused_and_the_store_goes_on() {
    let store = Store::builder().record_bytes_max(100).in_memory().unwrap();
    let space = store.own_space().unwrap();
    assert_eq!(space.append([0; 101]).unwrap_err().kind(), ErrorKind::TooLong);
    space.append([0; 100]).unwrap().wait(Durability::Local).unwrap();
}

#[test]
fn appending_without_waiting_is_refused_while_the_queue_is_full() {
    let store = Store::builder().background(false).queue_bytes(1000).in_memory().unwrap();
    let space = store.own_space().unwrap();
    let error = (0..1000).find_map(|_| space.try_append([0; 100]).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    store.commit().unwrap();
    space.try_append([0; 100]).unwrap();
}

#[test]
fn a_copy_of_a_store_writes_a_new_log_that_names_the_one_it_continues() {
    let folder = tempfile::tempdir().unwrap();
    let (original, copy) = (folder.path().join("original"), folder.path().join("copy"));
    let store = Store::builder().node("practice-12").create(&original).unwrap();
    let receipt = store.own_space().unwrap().append("a").unwrap();
    store.close(Duration::ZERO).unwrap();
    let incarnation = store.incarnation();
    let head = store.logs()[0].durable;

    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(&original).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let copy = Store::open(&copy).unwrap();
    assert_ne!(copy.incarnation(), incarnation);
    let space = copy.own_space().unwrap();
    let second = space.append("b").unwrap();
    second.wait(Durability::Local).unwrap();
    assert_ne!(second.log(), receipt.log());
    assert_eq!(second.first_seq().0, 0);
    let log = space.logs().into_iter().find(|info| info.id == second.log()).unwrap();
    let parent = log.genesis.parent.unwrap();
    assert_eq!((parent.log, parent.head), (receipt.log(), head));
    let bodies = |read: counterfoil::Read| read.map(|record| record.unwrap().into_body()).collect::<Vec<_>>();
    assert_eq!(bodies(space.read(..).unwrap()), ["a", "b"], "all of the space");
    assert_eq!(bodies(space.read(counterfoil::Seq::ZERO..).unwrap()), ["b"], "of the own log");
    assert_eq!(bodies(space.read_log(receipt.log(), ..).unwrap()), ["a"]);
}

#[test]
fn a_follower_beside_the_writer_sees_what_it_writes_and_verify_finds_it_sound() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let writer = Store::builder().node("practice-12").create(&path).unwrap();
    let beside = Store::open_read_only(&path).unwrap();
    let mut follower = beside.own_space().unwrap().follow(counterfoil::Cursor::start());
    for body in ["a", "b", "c"] {
        writer.own_space().unwrap().append(body).unwrap().wait(Durability::Local).unwrap();
        assert_eq!(follower.next().unwrap().unwrap().into_body(), body);
    }
    writer.close(Duration::ZERO).unwrap();
    let report = Store::verify(&path, |_, _| {}).unwrap();
    assert_eq!((report.records, report.damage.len()), (3, 0));
    beside.close(Duration::ZERO).unwrap();
    assert!(follower.next().is_none());
}
