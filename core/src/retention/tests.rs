//! The policy against a model that knows every record, who has it, and when it was recorded.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use counterfoil_replication::{Event, Subscription};
use counterfoil_storage::{
    Batch, BatchBuilder, Genesis, Head, Hlc, Holes, Incarnation, LogId, NodeName, Seq, SpaceName, WallClock,
    vfs::{Memory, OpenMode, Vfs as _},
};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use super::{keeper::Turn, *};
use crate::Store;

const DIR: &str = "hub.store";
const NODES: [&str; 3] = ["hub-2", "hub-3", "hub-4"];
/// Writers of the logs of the space; the first is this node.
const WRITERS: [&str; 3] = ["hub", "a", "b"];

#[derive(Debug)]
struct Clock(AtomicU64);

impl WallClock for Clock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// One thing that happens. Logs, nodes and batches are named by numbers, taken modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    /// So many records in one batch of a log, the last of them stamped so many milliseconds ago.
    Append(usize, usize, u64),
    Tick(u64),
    /// A node says that it has so many thousandths of a log.
    Ack(usize, usize, u64),
    /// A node was rolled back to so many thousandths of what it had.
    RollBack(usize, usize, u64),
    /// A node has lost a batch of a log.
    Lose(usize, usize, usize),
    /// It has got back all that it had lost.
    Regain(usize, usize),
    /// Another one has taken a node's place.
    NewLife(usize),
    /// The session with a node ends.
    Part(usize),
    SetPolicy(usize),
    Trim,
    /// A batch rots on this disk.
    Rot(usize, usize),
    /// What has rotted is mended.
    Mend,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let (log, peer) = (0..WRITERS.len(), 0..NODES.len());
    prop_oneof![
        8 => (log.clone(), 1_usize..5, 0_u64..3_000).prop_map(|(log, count, ago)| Step::Append(log, count, ago)),
        4 => (1_u64..4_000).prop_map(Step::Tick),
        8 => (peer.clone(), log.clone(), 0_u64..=1000).prop_map(|(peer, log, share)| Step::Ack(peer, log, share)),
        1 => (peer.clone(), log.clone(), 0_u64..1000).prop_map(|(peer, log, share)| Step::RollBack(peer, log, share)),
        1 => (peer.clone(), log.clone(), 0_usize..30).prop_map(|(peer, log, batch)| Step::Lose(peer, log, batch)),
        1 => (peer.clone(), log.clone()).prop_map(|(peer, log)| Step::Regain(peer, log)),
        1 => peer.clone().prop_map(Step::NewLife),
        1 => peer.prop_map(Step::Part),
        1 => (0..policies().len()).prop_map(Step::SetPolicy),
        6 => Just(Step::Trim),
        1 => (log, 0_usize..30).prop_map(|(log, batch)| Step::Rot(log, batch)),
        1 => Just(Step::Mend),
        1 => Just(Step::Reopen),
    ]
}

fn policies() -> Vec<Retention> {
    let all = Retention::keep_all;
    let second = Duration::from_secs(1);
    vec![
        all(),
        all().remove_older_than(2 * second),
        all().remove_older_than(2 * second).mirrors(2),
        all().remove_older_than(second).mirrors(0),
        all().remove_beyond(2_000),
        all().remove_beyond(1_000).mirrors(0),
        all().remove_older_than(5 * second).remove_beyond(3_000).held_by([node("hub-3")]),
        all().remove_beyond(0).mirrors(2).held_by([node("hub-2"), node("hub-4")]),
    ]
}

/// What a node really has of a log, if this node has heard of it.
#[derive(Debug, Clone, Default)]
struct Held {
    /// In batches.
    until: usize,
    lost: Vec<usize>,
}

/// What is known of a log.
#[derive(Debug, Default)]
struct Model {
    batches: Vec<Batch>,
    /// Batches before are removed.
    floor: usize,
    /// Batches before are due.
    due: usize,
    rotten: Vec<usize>,
    held: BTreeMap<usize, Held>,
}

impl Model {
    /// Whether a node has all batches that are kept up to this one.
    fn has(&self, peer: usize, batch: usize) -> bool {
        let held = self.held.get(&peer);
        held.is_some_and(|held| batch < held.until && (self.floor..=batch).all(|earlier| !held.lost.contains(&earlier)))
    }

    /// Where the floor must be after a trim with this policy: not one batch later, not one earlier.
    fn expected(&self, policy: &Retention) -> usize {
        let is_free = |batch: &usize| {
            let holders = (0..NODES.len()).filter(|peer| self.has(*peer, *batch)).count();
            let is_named = |name: &&NodeName| {
                !NODES.iter().position(|n| *n == name.as_str()).is_some_and(|peer| self.has(peer, *batch))
            };
            *batch < self.due && holders >= policy.mirrors && policy.held_by.iter().find(is_named).is_none()
        };
        let is_sound = |batch: &usize| !self.rotten.contains(batch);
        let end =
            (self.floor..self.batches.len()).take_while(|batch| is_free(batch) && is_sound(batch)).count() + self.floor;
        // A floor needs a batch behind it that can be read.
        if end > self.floor && !is_sound(&end) { end - 1 } else { end }
    }

    fn due_bytes(&self) -> u64 {
        self.batches[..self.due].iter().map(|batch| batch.bytes().len() as u64).sum()
    }
}

struct World {
    vfs: Memory,
    clock: Arc<Clock>,
    store: Store,
    logs: Vec<(LogId, Model)>,
    policy: Retention,
    lives: [u8; NODES.len()],
    /// Those that live.
    sessions: RefCell<BTreeMap<usize, Subscription>>,
    removed: usize,
    /// Bytes that have rotted, ever: a commit that was damaged is not counted any more.
    rotten_bytes: u64,
}

fn open(vfs: &Memory, clock: &Arc<Clock>, policy: &Retention) -> Store {
    let builder = Store::builder().node("hub").vfs(Arc::new(vfs.clone())).clock(Arc::<Clock>::clone(clock));
    let builder = builder.background(false).ring_bytes(0).segment_bytes(16 << 10, 16 << 10);
    builder.retention_of("s", policy.clone()).open_or_create(DIR).unwrap()
}

impl World {
    fn new() -> Self {
        let (vfs, clock, policy) =
            (Memory::default(), Arc::new(Clock(AtomicU64::new(1_000_000))), Retention::keep_all());
        let store = open(&vfs, &clock, &policy);
        let incarnation = *store.incarnation().as_bytes();
        let mut logs = Vec::new();
        for name in WRITERS {
            let genesis = Genesis::new(SpaceName::new("s").unwrap(), node(name), incarnation);
            // Batches of all are made here, so that their times are the test's.
            let genesis = if name == "hub" { Genesis { nonce: [7; 16], ..genesis } } else { genesis };
            logs.push((store.inner.journal.create_log(genesis).unwrap(), Model::default()));
        }
        // One of another space, which has no policy.
        store.space("other").unwrap().append_all(&[[1; 300]; 40]).unwrap();
        store.commit().unwrap();
        let (lives, sessions) = ([1; NODES.len()], RefCell::default());
        Self { vfs, clock, store, logs, policy, lives, sessions, removed: 0, rotten_bytes: 0 }
    }

    fn head(&self, log: usize, batches: usize) -> Head {
        let (id, model) = &self.logs[log];
        match batches.checked_sub(1) {
            Some(last) => model.batches[last].head(),
            None => self.store.inner.journal.log(*id).unwrap().genesis.head(),
        }
    }

    fn batch_has_more(&self, log: usize, batch: usize) -> bool {
        self.logs[log].1.batches.get(batch).is_some_and(|batch| batch.header().record_count > 1)
    }

    /// What a node says of a log: that it has it, or has less of it.
    fn say(&self, peer: usize, log: usize, is_withdrawal: bool) {
        let (id, model) = &self.logs[log];
        let held = model.held.get(&peer).cloned().unwrap_or_default();
        let lost = held.lost.iter().filter(|lost| **lost < held.until).map(|lost| &model.batches[*lost]);
        let mut ranges: Vec<(Seq, Seq)> = Vec::new();
        for batch in lost {
            match ranges.last_mut() {
                Some(last) if last.1 == batch.first_seq() => last.1 = batch.next_seq(),
                _ => ranges.push((batch.first_seq(), batch.next_seq())),
            }
        }
        let holes = Holes::try_from(ranges).unwrap();
        let mut head = self.head(log, held.until);
        // Some have a record more, of a batch with more of them.
        head.next_seq.0 += u64::from(peer == 1 && self.batch_has_more(log, held.until));
        let (log, node) = (*id, node(NODES[peer]));
        let incarnation = Incarnation::from_bytes([self.lives[peer]; 16]);
        let event = if is_withdrawal {
            Event::Withdrawn { log, node: node.clone(), incarnation, from: head, to: head, holes, losses: 0 }
        } else {
            Event::Acked { log, node: node.clone(), incarnation, head, holes, via: Vec::new(), losses: 0 }
        };
        self.meet(peer);
        self.sessions.borrow()[&peer].note(&event);
        self.store.inner.acks.hear(&node, event);
    }

    /// A session with a node lives.
    fn meet(&self, peer: usize) {
        let session = || self.store.inner.acks.board().subscribe(node(NODES[peer]));
        self.sessions.borrow_mut().entry(peer).or_insert_with(session);
    }

    /// It has ended: what the node has said counts no more until it says it again.
    fn part(&mut self, peer: usize) {
        self.sessions.borrow_mut().remove(&peer);
        self.logs.iter_mut().for_each(|(_, model)| drop(model.held.remove(&peer)));
    }

    fn append(&mut self, log: usize, count: usize, ago_ms: u64) {
        let head = self.head(log, self.logs[log].1.batches.len());
        let (id, model) = &mut self.logs[log];
        let time = Hlc::from_unix_ms(self.clock.unix_ms() - ago_ms);
        let time = model.batches.last().map_or(time, |last| time.max(last.last_time()));
        let mut builder = BatchBuilder::with_capacity(64);
        for number in 0..count as u64 {
            builder.push(Hlc::from_unix_ms(time.unix_ms() + 400 * number), &[number as u8; 90]);
        }
        let batch = builder.seal(*id, head);
        self.store.inner.journal.store(batch.clone()).unwrap();
        self.store.commit().unwrap();
        model.batches.push(batch);
    }

    /// Finds out naively what is due.
    fn find_due(&mut self) {
        let now = self.clock.unix_ms();
        let age = self.policy.older_than.map(|age| age.as_millis() as u64);
        let can_pass = |model: &Model| model.due < model.batches.len() && !model.rotten.contains(&model.due);
        for (_, model) in &mut self.logs {
            while can_pass(model) && age.is_some_and(|age| model.batches[model.due].last_time().unix_ms() + age <= now)
            {
                model.due += 1;
            }
        }
        let Some(bytes_max) = self.policy.beyond_bytes else { return };
        // What a damaged commit held counts no more.
        let ever = |id| self.store.inner.journal.log(id).map_or(0, |info| info.bytes + info.trimmed_bytes);
        let all: u64 = self.logs.iter().map(|(id, _)| ever(*id)).sum();
        while all.saturating_sub(self.logs.iter().map(|(_, model)| model.due_bytes()).sum()) > bytes_max {
            let next = self.logs.iter_mut().filter(|(_, model)| can_pass(model));
            let Some((_, oldest)) = next.min_by_key(|(id, model)| (model.batches[model.due].last_time(), *id)) else {
                return;
            };
            oldest.due += 1;
        }
    }

    fn trim(&mut self) {
        self.find_due();
        let planned = self.store.trim_plan();
        let trimmed = self.store.trim().unwrap();
        let floors = |trimmed: &Trimmed| {
            trimmed.logs.iter().map(|log| (log.log, log.from, log.to, log.bytes)).collect::<Vec<_>>()
        };
        assert_eq!(floors(&planned), floors(&trimmed), "what is planned is done");
        let policy = self.policy.clone();
        for (id, model) in &mut self.logs {
            let expected = model.expected(&policy);
            self.removed += expected - model.floor;
            let bytes: usize = model.batches[model.floor..expected].iter().map(|batch| batch.bytes().len()).sum();
            let told: u64 = trimmed.logs.iter().filter(|log| log.log == *id).map(|log| log.bytes).sum();
            assert_eq!(told, bytes as u64);
            model.floor = expected;
            model.due = model.due.max(expected);
        }
        self.check();
    }

    /// The store keeps what the model says, all of it and no more.
    fn check(&self) {
        for (id, model) in &self.logs {
            let info = self.store.inner.journal.log(*id).unwrap();
            let floor = model.batches.get(model.floor).map_or(info.durable.next_seq, Batch::first_seq);
            assert_eq!(info.first_seq, floor, "{model:?} by {}", self.policy);
            for (number, batch) in model.batches.iter().enumerate().skip(model.floor) {
                let read = self.store.inner.journal.read_batch(*id, batch.first_seq());
                if !model.rotten.contains(&number) {
                    assert_eq!(read.unwrap().as_ref(), Some(batch));
                }
            }
        }
        let other = self.store.space("other").unwrap();
        assert_eq!(other.read(..).unwrap().flatten().count(), 40);
    }

    fn reopen(&mut self) {
        self.store.close(Duration::ZERO).unwrap();
        self.sessions.borrow_mut().clear();
        self.store = open(&self.vfs, &self.clock, &self.policy);
        for (_, model) in &mut self.logs {
            // What others have is to be heard anew, and what is due found anew.
            model.held.clear();
            model.due = model.floor;
        }
    }

    fn rot(&mut self, log: usize, batch: usize) {
        let model = &mut self.logs[log].1;
        // What is lost at the end of a log is no hole.
        let kept = (model.batches.len() - model.floor).saturating_sub(1);
        let Some(number) = batch.checked_rem(kept).map(|batch| batch + model.floor) else { return };
        if model.rotten.contains(&number) {
            return;
        }
        model.rotten.push(number);
        let bytes = model.batches[number].bytes().clone();
        self.rotten_bytes += bytes.len() as u64;
        self.store.close(Duration::ZERO).unwrap();
        let mut names = self.vfs.list(Path::new(DIR)).unwrap();
        names.retain(|name| name.strip_suffix(".seg").is_some());
        for name in names {
            let file = self.vfs.open(&PathBuf::from(DIR).join(name), OpenMode::Write).unwrap();
            let mut content = vec![0; file.len().unwrap() as usize];
            file.read_at(&mut content, 0).unwrap();
            if let Some(at) = content.windows(bytes.len()).position(|window| window == &bytes[..]) {
                let last = at + bytes.len() - 1;
                file.write_at(&[IoSlice::new(&[content[last] ^ 1])], last as u64).unwrap();
            }
        }
        self.sessions.borrow_mut().clear();
        self.store = open(&self.vfs, &self.clock, &self.policy);
        for (_, model) in &mut self.logs {
            model.held.clear();
            model.due = model.floor;
        }
        self.store.inner.journal.find_holes(|_, _| {}).unwrap();
    }

    fn mend(&mut self) {
        for (_, model) in &mut self.logs {
            model.rotten.sort_unstable_by(|a, b| b.cmp(a));
            for number in std::mem::take(&mut model.rotten) {
                self.store.inner.journal.mend(&model.batches[number..=number]).unwrap();
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append(log, count, ago) => self.append(log, count, ago),
            Step::Tick(ms) => drop(self.clock.0.fetch_add(ms, Ordering::Relaxed)),
            Step::Ack(peer, log, share) => {
                let model = &mut self.logs[log].1;
                let until = model.batches.len() * share as usize / 1000;
                let held = model.held.entry(peer).or_default();
                if until > held.until {
                    held.until = until;
                    self.say(peer, log, false);
                }
            }
            Step::RollBack(peer, log, share) => {
                if let Some(held) = self.logs[log].1.held.get_mut(&peer) {
                    held.until = held.until * share as usize / 1000;
                    held.lost.retain(|lost| *lost < held.until);
                    self.say(peer, log, true);
                }
            }
            Step::Lose(peer, log, batch) => {
                if let Some(held) = self.logs[log].1.held.get_mut(&peer).filter(|held| held.until > 0) {
                    let lost = batch % held.until;
                    if !held.lost.contains(&lost) && held.lost.len() < 8 {
                        held.lost.push(lost);
                        held.lost.sort_unstable();
                        self.say(peer, log, true);
                    }
                }
            }
            Step::Regain(peer, log) => {
                if let Some(held) = self.logs[log].1.held.get_mut(&peer) {
                    held.lost.clear();
                    self.say(peer, log, false);
                }
            }
            Step::Part(peer) => self.part(peer),
            Step::NewLife(peer) => {
                self.part(peer);
                self.meet(peer);
                self.lives[peer] += 1;
                let (node, incarnation) = (node(NODES[peer]), Incarnation::from_bytes([self.lives[peer]; 16]));
                let met = Event::PeerReady { node: node.clone(), incarnation, protocol: 1 };
                self.store.inner.acks.hear(&node, met);
            }
            Step::SetPolicy(policy) => {
                let policy = policies()[policy].clone();
                if policy != self.policy {
                    self.logs.iter_mut().for_each(|(_, model)| model.due = model.floor);
                }
                self.store.space("s").unwrap().set_retention(policy.clone()).unwrap();
                self.policy = policy;
            }
            Step::Trim => self.trim(),
            Step::Rot(log, batch) => self.rot(log, batch),
            Step::Mend => self.mend(),
            Step::Reopen => self.reopen(),
        }
    }
}

/// Plays a program to its end, and then lets all go that may; how many batches were removed.
fn play(policy: usize, steps: &[Step]) -> usize {
    let mut world = World::new();
    world.step(&Step::SetPolicy(policy));
    steps.iter().for_each(|step| world.step(step));
    world.trim();
    // Once all is mirrored, mended and old, nothing is left but for what no rule makes due.
    world.mend();
    for (peer, log) in (0..NODES.len()).flat_map(|peer| (0..WRITERS.len()).map(move |log| (peer, log))) {
        world.step(&Step::Regain(peer, log));
        world.step(&Step::Ack(peer, log, 1000));
    }
    world.step(&Step::Tick(1_000_000));
    world.trim();
    let kept = world.logs.iter().flat_map(|(_, model)| &model.batches[model.floor..]);
    let kept_bytes: u64 = kept.map(|batch| batch.bytes().len() as u64).sum();
    if world.policy.older_than.is_some() {
        assert_eq!(kept_bytes, 0);
    } else if let Some(bytes_max) = world.policy.beyond_bytes {
        assert!(kept_bytes <= bytes_max + world.rotten_bytes, "{kept_bytes}");
    }
    world.reopen();
    world.check();
    world.removed
}

/// `COUNTERFOIL_TRIMS` sets how many programs are tried.
#[test]
fn what_is_removed_is_all_that_is_due_and_held_elsewhere_and_nothing_else() {
    let cases = std::env::var("COUNTERFOIL_TRIMS").map_or(200, |count| count.parse().expect("a number"));
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    let removed = Cell::new(0);
    let programs = (1..policies().len(), vec(step(), 1..80));
    let played = runner.run(&programs, |(policy, steps)| {
        removed.set(removed.get() + play(policy, &steps));
        Ok(())
    });
    played.unwrap_or_else(|error| panic!("{error}"));
    println!("retention: {cases} programs, {} batches removed", removed.get());
    assert!(removed.get() > cases as usize);
}

/// A world in which all of a log may go.
fn all_may_go() -> World {
    let mut world = World::new();
    (0..3).for_each(|_| world.append(1, 2, 0));
    world.step(&Step::SetPolicy(1));
    world.step(&Step::Tick(1_000_000));
    world.step(&Step::Ack(0, 1, 1000));
    world
}

#[test]
fn once_a_policy_is_set_nothing_is_removed_by_the_one_before_however_far_that_had_come() {
    let world = all_may_go();
    let planned = world.store.plan(&mut Turn::default());
    assert_eq!(planned.len(), 1);
    world.store.space("s").unwrap().set_retention(Retention::keep_all()).unwrap();
    assert_eq!(world.store.advance(planned).unwrap(), []);
    world.check();
}

#[test]
fn an_ack_that_is_taken_back_while_it_is_looked_counts_no_more() {
    let mut world = all_may_go();
    let planned = world.store.plan(&mut Turn::default());
    world.step(&Step::NewLife(0));
    assert_eq!(world.store.advance(planned).unwrap(), []);
    world.check();
    world.step(&Step::Ack(0, 1, 1000));
    world.trim();
    assert_eq!(world.removed, 3);
}

#[test]
fn a_look_ends_once_the_store_is_being_closed() {
    let world = all_may_go();
    world.store.inner.keeper.begin_stopping();
    assert_eq!(world.store.trim().unwrap().records(), 0);
    world.check();
}
