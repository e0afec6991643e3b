//! Tests of an index in which something wrong was written, as it was meant to be: no checksum tells.

use crate::{Collection, Store};

type Values = Collection<u64, u64>;

const KEYS: u64 = 4_000;

/// A store with keys in its index, of which the last pack is none.
fn spoilt() -> (Store, Values) {
    let store = Store::builder().node("a").background(false).collection_bytes(64 << 10).in_memory().unwrap();
    let values: Values = store.own_space().unwrap().collection("values").unwrap();
    put(&store, &values, 0..KEYS);
    assert_eq!(values.get(&1).unwrap().value(), Some(&1));
    let state = values.engine.state.lock().unwrap();
    state.index.as_ref().unwrap().space.spoil();
    drop(state);
    (store, values)
}

fn put(store: &Store, values: &Values, keys: std::ops::Range<u64>) {
    for key in keys {
        values.put(&key, &key).unwrap();
    }
    store.commit().unwrap();
}

fn assert_whole(values: &Values, keys: u64) {
    assert!((0..keys).all(|key| values.get(&key).unwrap().value() == Some(&key)));
    let held: Vec<_> = values.range(..).unwrap().map(|entry| entry.unwrap().0).collect();
    assert_eq!(held, (0..keys).collect::<Vec<_>>());
}

fn is_unsound(values: &Values) -> bool {
    values.engine.state.lock().unwrap().is_unsound
}

#[test]
fn an_index_that_reads_as_it_was_written_and_is_wrong_is_made_anew() {
    let (_store, values) = spoilt();
    // As after an opening: what was in use before does not see it.
    let engine = &values.engine;
    drop(engine.index_again(engine.state.lock().unwrap(), "a test wants it").unwrap());
    assert_whole(&values, KEYS);
    assert!(!is_unsound(&values));
}

#[test]
fn so_is_one_into_which_nothing_can_be_merged() {
    let (store, values) = spoilt();
    put(&store, &values, KEYS..2 * KEYS);
    assert_whole(&values, 2 * KEYS);
    assert!(!is_unsound(&values));
    let state = values.engine.state.lock().unwrap();
    assert!(state.flush_at_bytes <= 64 << 10, "it is written to again");
}
