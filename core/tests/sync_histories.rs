//! Random histories of 2 to 8 nodes that write to the same keys, sync in pairs over lines that are cut meanwhile, in any order and as
//! often as they like, and lose their power: against a model that knows what each write knew of.
#![cfg(feature = "collections")]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use counterfoil::{Collection, Durability, LogId, Receipt, Seq, Store, Versions};
use counterfoil_faults::{FaultVfs, STORE};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

const NODES_MAX: usize = 8;
const KEYS: u32 = 3;
const SPACE: &str = "ward";

#[derive(Debug, Clone, Copy)]
enum Step {
    /// With a wait until it is durable, or without.
    Put {
        node: usize,
        key: u32,
        waits: bool,
    },
    Delete {
        node: usize,
        key: u32,
    },
    /// Several keys in one transaction.
    PutAll {
        node: usize,
    },
    /// Over a line that is cut so often meanwhile.
    Sync {
        one: usize,
        other: usize,
        cuts: u8,
    },
    /// The power goes: of what was written and not flushed any part may be there.
    Crash {
        node: usize,
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (node, key) = (0..NODES_MAX, 0..KEYS);
    prop_oneof![
        6 => (node.clone(), key.clone(), any::<bool>()).prop_map(|(node, key, waits)| Step::Put { node, key, waits }),
        1 => (node.clone(), key).prop_map(|(node, key)| Step::Delete { node, key }),
        1 => node.clone().prop_map(|node| Step::PutAll { node }),
        6 => (node.clone(), node.clone(), 0_u8..3).prop_map(|(one, other, cuts)| Step::Sync { one, other, cuts }),
        1 => (node, any::<u64>()).prop_map(|(node, seed)| Step::Crash { node, seed }),
    ]
}

/// A write: which one it is of all, counted from the first.
type WriteId = usize;

/// What a write put, and which writes to its key its node knew of.
#[derive(Debug)]
struct Made {
    node: usize,
    key: u32,
    /// None if it deleted.
    value: Option<String>,
    past: BTreeSet<WriteId>,
    /// Where it is, once that is known.
    place: Option<(LogId, Seq)>,
    /// Somebody was told that it is durable.
    is_acked: bool,
}

/// Nodes, and beside each what by the model it knows of.
struct History {
    disks: Vec<FaultVfs>,
    stores: Vec<Store>,
    known: Vec<BTreeSet<WriteId>>,
    made: Vec<Made>,
    crashes: usize,
}

fn open(node: usize, disk: &FaultVfs) -> Store {
    let builder = Store::builder().node(format!("node-{node}")).vfs(Arc::new(disk.clone()));
    builder.open_or_create(STORE).unwrap()
}

impl History {
    fn new(nodes: usize) -> Self {
        let disks: Vec<_> = (0..nodes).map(|node| FaultVfs::new(node as u64)).collect();
        let stores = disks.iter().enumerate().map(|(node, disk)| open(node, disk)).collect();
        Self { disks, stores, known: vec![BTreeSet::new(); nodes], made: Vec::new(), crashes: 0 }
    }

    fn nodes(&self) -> usize {
        self.stores.len()
    }

    fn beds(&self, node: usize) -> Collection<u32, String> {
        self.stores[node].space(SPACE).unwrap().collection("beds").unwrap()
    }

    /// Plays a step; the nodes that it was about.
    fn play(&mut self, step: Step) -> Vec<usize> {
        let nodes = self.nodes();
        match step {
            Step::Put { node, key, waits } => {
                let node = node % nodes;
                let value = self.note(node, key, true);
                let receipt = self.beds(node).put(&key, &value.unwrap_or_default()).unwrap();
                self.note_place(1, &receipt, waits);
                vec![node]
            }
            Step::Delete { node, key } => {
                let node = node % nodes;
                self.note(node, key, false);
                let receipt = self.beds(node).delete(&key).unwrap();
                self.note_place(1, &receipt, false);
                vec![node]
            }
            Step::PutAll { node } => {
                let node = node % nodes;
                let beds = self.beds(node);
                let mut transaction = self.stores[node].space(SPACE).unwrap().transaction();
                for key in 0..KEYS {
                    let value = self.note(node, key, true).unwrap_or_default();
                    transaction.put(&beds, &key, &value).unwrap();
                }
                let receipt = transaction.commit().unwrap();
                self.note_place(KEYS as usize, &receipt, true);
                vec![node]
            }
            Step::Sync { one, other, .. } if one % nodes == other % nodes => Vec::new(),
            Step::Sync { one, other, cuts } => {
                self.sync(one % nodes, other % nodes, cuts);
                vec![one % nodes, other % nodes]
            }
            Step::Crash { node, seed } => {
                self.crash(node % nodes, seed);
                vec![node % nodes]
            }
        }
    }

    /// Takes a write into the model; the value that it puts.
    fn note(&mut self, node: usize, key: u32, is_put: bool) -> Option<String> {
        let id = self.made.len();
        let past = self.known[node].iter().copied().filter(|known| self.made[*known].key == key).collect();
        let value = is_put.then(|| format!("{id} of node {node}"));
        self.made.push(Made { node, key, value: value.clone(), past, place: None, is_acked: false });
        self.known[node].insert(id);
        value
    }

    /// The newest writes are in one record.
    fn note_place(&mut self, count: usize, receipt: &Receipt, waits: bool) {
        if waits {
            receipt.wait(Durability::Local).unwrap();
        }
        for made in self.made.iter_mut().rev().take(count) {
            made.place = Some((receipt.log(), receipt.first_seq()));
            made.is_acked = waits;
        }
    }

    fn sync(&mut self, one: usize, other: usize, cuts: u8) {
        for node in [one, other] {
            self.stores[node].commit().unwrap();
            let own = self.known[node].iter().filter(|id| self.made[**id].node == node).copied().collect::<Vec<_>>();
            own.into_iter().for_each(|id| self.made[id].is_acked = true);
        }
        let link = self.stores[one].sync_in_process(&self.stores[other]).spaces([SPACE]).start().unwrap();
        for cut in 0..cuts {
            std::thread::sleep(Duration::from_micros(150 * u64::from(cut)));
            link.cut();
            link.heal();
        }
        assert!(link.wait_synced(Duration::from_secs(60)), "node {one} and node {other} do not become equal");
        link.stop();
        let all: BTreeSet<_> = self.known[one].union(&self.known[other]).copied().collect();
        self.known[one].clone_from(&all);
        self.known[other] = all;
    }

    /// What is not there after it was never acknowledged, and nobody else has it.
    fn crash(&mut self, node: usize, seed: u64) {
        self.crashes += 1;
        self.disks[node] = self.disks[node].crash(seed);
        // What is left of the old one finds its disk without power.
        self.stores[node] = open(node, &self.disks[node]);
        let space = self.stores[node].space(SPACE).unwrap();
        let ends: BTreeMap<_, _> = space.logs().iter().map(|info| (info.id, info.durable.next_seq)).collect();
        let is_there = |made: &Made| made.place.is_some_and(|(log, seq)| ends.get(&log).is_some_and(|end| seq < *end));
        let lost: Vec<_> = self.known[node].iter().copied().filter(|id| !is_there(&self.made[*id])).collect();
        for id in lost {
            assert!(self.made[id].node == node && !self.made[id].is_acked, "{:?} is lost", self.made[id]);
            assert!(self.known.iter().enumerate().all(|(other, known)| other == node || !known.contains(&id)));
            self.known[node].remove(&id);
        }
    }

    /// By the model: the values of a key that no write known to the node knew of, deletions as `None`.
    fn expected(&self, node: usize, key: u32) -> BTreeSet<Option<String>> {
        let of_key = || self.known[node].iter().filter(|id| self.made[**id].key == key);
        let is_live = |id: &&WriteId| !of_key().any(|other| self.made[*other].past.contains(*id));
        let live: Vec<_> = of_key().filter(is_live).map(|id| self.made[*id].value.clone()).collect();
        // A deletion alone reads as nothing.
        if live == [None] { BTreeSet::new() } else { live.into_iter().collect() }
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
    100 * factor
}

#[test]
fn whatever_the_order_grouping_and_repetition_of_syncs_conflicts_are_exactly_the_concurrent_writes_and_all_end_equal() {
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let counts = RefCell::new([0_usize; 4]);
    let inputs = (2..=NODES_MAX, vec(step(), 1..40), Just((0..NODES_MAX).collect::<Vec<_>>()).prop_shuffle());
    let outcome = TestRunner::new(config).run(&inputs, |(nodes, steps, mut last)| {
        last.retain(|node| *node < nodes);
        let history = play(nodes, &steps, &last)?;
        let conflicts = (0..KEYS).filter(|key| history.expected(0, *key).len() > 1).count();
        let more = [1, history.made.len(), history.crashes, conflicts];
        counts.borrow_mut().iter_mut().zip(more).for_each(|(count, more)| *count += more);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let [histories, writes, crashes, conflicts] = counts.into_inner();
    println!(
        "sync histories: {histories} of 2 to {NODES_MAX} stores, {writes} writes, {crashes} crashes, {conflicts} conflicts at the end"
    );
    assert!(conflicts > 0, "some writes must be concurrent");
}

fn play(nodes: usize, steps: &[Step], last: &[usize]) -> Result<History, TestCaseError> {
    let mut history = History::new(nodes);
    for step in steps {
        let concerned = history.play(*step);
        concerned.into_iter().try_for_each(|node| history.check(node))?;
    }
    // Along a chain and back, in any order of the nodes; once again what is equal already.
    for pair in last.windows(2).chain(last.windows(2).rev()).chain(last.windows(2).take(1)) {
        history.sync(pair[0], pair[1], 0);
    }
    let first = whole(&history.stores[0]);
    for node in 0..nodes {
        history.check(node)?;
        prop_assert_eq!(&whole(&history.stores[node]), &first, "node {}", node);
    }
    // Nothing of what was acknowledged is missing anywhere, and each came once.
    let is_everywhere = |id| history.known.iter().all(|known| known.contains(&id));
    prop_assert!((0..history.made.len()).all(|id| !history.made[id].is_acked || is_everywhere(id)));
    let logs = history.stores[0].space(SPACE).unwrap().logs();
    prop_assert_eq!(first.1.len() as u64, logs.iter().map(|info| info.durable.next_seq.0).sum::<u64>());
    Ok(history)
}
