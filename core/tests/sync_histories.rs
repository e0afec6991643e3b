//! Random histories of nodes that write to the same keys and sync in pairs, in any order and as often as they like, against
//! a model that knows what each write knew of.
#![cfg(feature = "collections")]

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use counterfoil::{Collection, Store, Versions};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

const NODES: usize = 4;
const KEYS: u32 = 3;
const SPACE: &str = "ward";

#[derive(Debug, Clone, Copy)]
enum Step {
    Put {
        node: usize,
        key: u32,
    },
    Delete {
        node: usize,
        key: u32,
    },
    /// Several keys in one transaction.
    PutAll {
        node: usize,
    },
    Sync {
        one: usize,
        other: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (node, key) = (0..NODES, 0..KEYS);
    prop_oneof![
        4 => (node.clone(), key.clone()).prop_map(|(node, key)| Step::Put { node, key }),
        1 => (node.clone(), key).prop_map(|(node, key)| Step::Delete { node, key }),
        1 => node.clone().prop_map(|node| Step::PutAll { node }),
        4 => (node.clone(), node).prop_map(|(one, other)| Step::Sync { one, other }),
    ]
}

/// A write: which one it is of all, counted from the first.
type WriteId = usize;

/// What a write put, and which writes to its key its node knew of.
#[derive(Debug)]
struct Made {
    key: u32,
    /// None if it deleted.
    value: Option<String>,
    past: BTreeSet<WriteId>,
}

/// Nodes, and beside each what by the model it knows of.
struct History {
    stores: Vec<Store>,
    known: Vec<BTreeSet<WriteId>>,
    made: Vec<Made>,
}

impl History {
    fn new() -> Self {
        let store = |node| Store::builder().node(format!("node-{node}")).in_memory().unwrap();
        Self { stores: (0..NODES).map(store).collect(), known: vec![BTreeSet::new(); NODES], made: Vec::new() }
    }

    fn beds(&self, node: usize) -> Collection<u32, String> {
        self.stores[node].space(SPACE).unwrap().collection("beds").unwrap()
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Put { node, key } => {
                let value = self.note(node, key, true);
                self.beds(node).put(&key, &value.unwrap_or_default()).unwrap();
            }
            Step::Delete { node, key } => {
                self.note(node, key, false);
                self.beds(node).delete(&key).unwrap();
            }
            Step::PutAll { node } => {
                let beds = self.beds(node);
                let mut transaction = self.stores[node].space(SPACE).unwrap().transaction();
                for key in 0..KEYS {
                    let value = self.note(node, key, true).unwrap_or_default();
                    transaction.put(&beds, &key, &value).unwrap();
                }
                transaction.commit().unwrap();
            }
            Step::Sync { one, other } if one != other => self.sync(one, other),
            Step::Sync { .. } => {}
        }
    }

    /// Takes a write into the model; the value that it puts.
    fn note(&mut self, node: usize, key: u32, is_put: bool) -> Option<String> {
        let id = self.made.len();
        let past = self.known[node].iter().copied().filter(|known| self.made[*known].key == key).collect();
        let value = is_put.then(|| format!("{id} of node {node}"));
        self.made.push(Made { key, value: value.clone(), past });
        self.known[node].insert(id);
        value
    }

    fn sync(&mut self, one: usize, other: usize) {
        [one, other].iter().for_each(|node| self.stores[*node].commit().unwrap());
        let link = self.stores[one].sync_in_process(&self.stores[other]).spaces([SPACE]).start().unwrap();
        assert!(link.wait_synced(Duration::from_secs(60)), "node {one} and node {other} do not become equal");
        link.stop();
        let all: BTreeSet<_> = self.known[one].union(&self.known[other]).copied().collect();
        self.known[one].clone_from(&all);
        self.known[other] = all;
    }

    /// By the model: the values of a key that no write known to the node knew of, deletions as `None`.
    fn expected(&self, node: usize, key: u32) -> BTreeSet<Option<String>> {
        let of_key = || self.known[node].iter().filter(|id| self.made[**id].key == key);
        let is_live = |id: &&WriteId| !of_key().any(|other| self.made[*other].past.contains(*id));
        let live: BTreeSet<_> = of_key().filter(is_live).map(|id| self.made[*id].value.clone()).collect();
        // A deletion alone reads as nothing.
        if live.len() == 1 && live.contains(&None) && of_key().filter(is_live).count() == 1 {
            BTreeSet::new()
        } else {
            live
        }
    }

    fn check(&self, node: usize) -> Result<(), TestCaseError> {
        let beds = self.beds(node);
        for key in 0..KEYS {
            let found: Versions<String> = beds.get(&key).unwrap();
            let values: BTreeSet<_> = found.all().iter().map(|version| version.value().cloned()).collect();
            prop_assert_eq!(values, self.expected(node, key), "key {} at node {}", key, node);
        }
        Ok(())
    }
}

/// What must be the same at all nodes in the end: heads, records in merged order, values, history.
fn whole(store: &Store) -> (Vec<String>, Vec<String>, BTreeMap<u32, String>) {
    store.commit().unwrap();
    let space = store.space(SPACE).unwrap();
    let heads = space.logs().iter().map(|info| format!("{} {:?}", info.id, info.durable)).collect();
    let records = space.read(..).unwrap().map(|record| {
        let record = record.unwrap();
        format!("{} {} {:?} {:?}", record.log(), record.seq(), record.time(), record.body())
    });
    let beds = space.collection::<u32, String>("beds").unwrap();
    let history = |key: &u32| format!("{:?} {:?}", beds.get(key).unwrap(), beds.history(key).unwrap());
    (heads, records.collect(), (0..KEYS).map(|key| (key, history(&key))).collect())
}

fn cases() -> u32 {
    let factor = std::env::var("COUNTERFOIL_EXPLORE").ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(1);
    200 * factor
}

#[test]
fn whatever_the_order_grouping_and_repetition_of_syncs_conflicts_are_exactly_the_concurrent_writes_and_all_end_equal() {
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let (mut histories, mut writes, mut conflicts) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let inputs = (vec(step(), 1..30), Just((0..NODES).collect::<Vec<_>>()).prop_shuffle());
    let outcome = TestRunner::new(config).run(&inputs, |(steps, last)| {
        let history = play(&steps, &last)?;
        histories.set(histories.get() + 1);
        writes.set(writes.get() + history.made.len());
        conflicts.set(conflicts.get() + (0..KEYS).filter(|key| history.expected(0, *key).len() > 1).count());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let counts = [&mut histories, &mut writes, &mut conflicts].map(|count| *count.get_mut());
    println!(
        "sync histories: {} of {NODES} stores, {} writes, {} conflicts at the end",
        counts[0], counts[1], counts[2]
    );
    assert!(counts[2] > 0, "some writes must be concurrent");
}

fn play(steps: &[Step], last: &[usize]) -> Result<History, TestCaseError> {
    let mut history = History::new();
    for step in steps {
        history.play(*step);
        match *step {
            Step::Put { node, .. } | Step::Delete { node, .. } | Step::PutAll { node } => history.check(node)?,
            Step::Sync { one, other } => [one, other].iter().try_for_each(|node| history.check(*node))?,
        }
    }
    // Along a chain and back, in any order of the nodes; once again what is equal already.
    for pair in last.windows(2).chain(last.windows(2).rev()).chain(last.windows(2).take(1)) {
        history.sync(pair[0], pair[1]);
    }
    let first = whole(&history.stores[0]);
    for node in 0..NODES {
        history.check(node)?;
        prop_assert_eq!(&whole(&history.stores[node]), &first, "node {}", node);
    }
    // Nothing of what was acknowledged is missing anywhere, and each came once.
    let logs = history.stores[0].space(SPACE).unwrap().logs();
    prop_assert_eq!(first.1.len() as u64, logs.iter().map(|info| info.durable.next_seq.0).sum::<u64>());
    Ok(history)
}
