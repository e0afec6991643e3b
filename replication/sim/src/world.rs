//! The loop of a history: events in the order of virtual time.

mod fortune;
mod judgement;
mod lies;
mod mistakes;
mod network;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

use counterfoil_faults::{FaultVfs, Rng};
use counterfoil_replication::{Endpoint, Fetched};
use counterfoil_storage::{Batch, LogId, Seq};

use crate::{
    bugs::Bug,
    liar::Liar,
    machine::{Chains, Machine},
    plan::{Lies, Plan},
    report::{Report, Violation},
    topology::{Link, Topology},
    wire::Connection,
};

/// How long after healing all copies must be equal: a silent connection is noticed after three idle
/// intervals of 15 s, then the dialler waits at most 10 s, and a full disk is tried again after 1 s.
const HEALING: Duration = Duration::from_secs(120);

/// Lives through the history of a seed, of practices that mirror.
pub fn explore(seed: u64) -> Result<Report, Violation> {
    live(seed, Plan::draw, None)
}

/// Lives through the history of a seed in which every machine makes a mistake.
pub fn explore_with(seed: u64, bug: Bug) -> Result<Report, Violation> {
    live(seed, Plan::draw, Some(bug))
}

/// Lives through the history of a seed, of nodes that sync.
pub fn explore_sync(seed: u64) -> Result<Report, Violation> {
    live(seed, Plan::draw_sync, None)
}

/// Lives through the history of a seed, of nodes that sync, in which every machine makes a mistake.
pub fn explore_sync_with(seed: u64, bug: Bug) -> Result<Report, Violation> {
    live(seed, Plan::draw_sync, Some(bug))
}

fn live(seed: u64, draw: fn(&mut Rng) -> Plan, bug: Option<Bug>) -> Result<Report, Violation> {
    let mut rng = Rng::new(seed);
    let mut plan = draw(&mut rng);
    if bug.is_some_and(|bug| Bug::OF_LIARS.contains(&bug)) {
        plan.liar.get_or_insert(Lies::Practice);
    }
    let world = World::new(plan, rng);
    let mut world = world.map_err(|what| Violation { seed, at: Duration::ZERO, what })?;
    world.bug = bug;
    match world.live() {
        Ok(()) => Ok(world.report),
        Err(what) => Err(Violation { seed, at: world.now, what }),
    }
}

#[derive(Debug)]
enum Happening {
    Append { machine: usize },
    Commit { machine: usize, life: u64 },
    Poisoned { machine: usize, life: u64 },
    PassOn { machine: usize, life: u64 },
    Arrive { connection: u64, to: usize, bytes: Vec<u8> },
    Gone { connection: u64, side: usize },
    Timer { connection: u64, side: usize },
    Fetched { connection: u64, side: usize, fetched: Box<Fetched> },
    Dial { link: usize },
    Misfortune,
    Start { machine: usize },
    Resume { connection: u64, side: usize },
    Grant { link: usize },
    FreeDisk { machine: usize },
}

#[derive(Debug)]
struct Planned {
    at: Duration,
    number: u64,
    happening: Happening,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

struct World {
    plan: Plan,
    rng: Rng,
    /// The real moment that stands for the beginning; only differences to it matter.
    epoch: Instant,
    now: Duration,
    planned: BinaryHeap<Reverse<Planned>>,
    next_number: u64,
    machines: Vec<Machine>,
    /// How often each machine was started: what was planned in an earlier life is void.
    lives: Vec<u64>,
    /// How many of the machines append: the first.
    writers: usize,
    links: Vec<Link>,
    connections: BTreeMap<u64, Connection>,
    /// By link.
    connected: BTreeMap<usize, u64>,
    next_connection: u64,
    chains: Chains,
    /// What each machine believes that others have durable.
    believed: BTreeMap<(usize, LogId), Seq>,
    healed: bool,
    report: Report,
    /// Which machine lies, and how.
    liar: Option<(usize, Liar)>,
    /// The link that breaks all the time.
    flapping: Option<usize>,
    /// The mistake that all machines make.
    bug: Option<Bug>,
    /// Machines that a mistake has stopped.
    stopped: BTreeSet<usize>,
    /// Batches that a mistake holds back, by connection and side.
    held: BTreeMap<(u64, usize), Option<Batch>>,
    /// Disks as they were a while ago, if a mistake needs them; by machine.
    older: BTreeMap<usize, FaultVfs>,
}

type Outcome<T = ()> = Result<T, String>;

impl World {
    fn new(plan: Plan, mut rng: Rng) -> Outcome<Self> {
        let Topology { machines, links, writers } = Topology::of(&plan, &mut rng)?;
        let lives = vec![0; machines.len()];
        let liar = machines.iter().position(Machine::is_liar).map(|index| (index, Liar::new(Rng::new(rng.next_u64()))));
        let flapping = plan.flaps.then(|| rng.below(links.len().max(1) as u64) as usize);
        Ok(Self {
            plan,
            rng,
            epoch: epoch(),
            now: Duration::ZERO,
            planned: BinaryHeap::new(),
            next_number: 0,
            machines,
            lives,
            writers,
            links,
            connections: BTreeMap::new(),
            connected: BTreeMap::new(),
            next_connection: 0,
            chains: Chains::default(),
            believed: BTreeMap::new(),
            healed: false,
            report: Report::default(),
            liar,
            flapping,
            bug: None,
            stopped: BTreeSet::new(),
            held: BTreeMap::new(),
            older: BTreeMap::new(),
        })
    }

    /// Faults, then healing, then equality.
    fn live(&mut self) -> Outcome {
        self.report.liars = u64::from(self.liar.is_some());
        for machine in (0..self.writers).chain(self.liar_index()) {
            self.plan_in(Duration::ZERO, Happening::Append { machine });
        }
        for link in 0..self.links.len() {
            self.plan_in(Duration::ZERO, Happening::Dial { link });
        }
        self.plan_in(Duration::from_secs(1), Happening::Misfortune);
        self.run_until(self.plan.faulty, |_| false)?;
        self.heal()?;
        let deadline = self.now + HEALING;
        self.run_until(deadline, Self::is_equal)?;
        self.report.simulated = self.now;
        if !self.is_equal() {
            return Err(format!("not equal {HEALING:?} after healing: {}", self.differences()));
        }
        for index in 0..self.machines.len() {
            if Some(index) == self.liar_index() {
                continue;
            }
            // Everything once more, from the disk.
            self.restart_after(index, |machine| machine.disk = machine.disk.kill())?;
        }
        Ok(())
    }

    fn run_until(&mut self, end: Duration, done: impl Fn(&Self) -> bool) -> Outcome {
        while let Some(Reverse(next)) = self.planned.pop() {
            if next.at > end {
                self.planned.push(Reverse(next));
                break;
            }
            self.now = next.at;
            self.happen(next.happening)?;
            if done(self) {
                break;
            }
        }
        Ok(())
    }

    fn plan_in(&mut self, delay: Duration, happening: Happening) {
        self.plan_at(self.now + delay, happening);
    }

    fn plan_at(&mut self, at: Duration, happening: Happening) {
        self.next_number += 1;
        self.planned.push(Reverse(Planned { at, number: self.next_number, happening }));
    }

    fn below(&mut self, limit: Duration) -> Duration {
        Duration::from_nanos(self.rng.below(limit.as_nanos() as u64 + 1))
    }

    fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    /// Notes something in the trace. Random names of stores stay out of it.
    fn trace(&mut self, what: u64, detail: u64) {
        let mut mixed = Rng::new(self.report.trace ^ (self.now.as_nanos() as u64) ^ what.rotate_left(56) ^ detail);
        self.report.trace = mixed.next_u64();
    }

    fn happen(&mut self, happening: Happening) -> Outcome {
        match happening {
            Happening::Append { machine } => self.append(machine),
            Happening::Commit { machine, life } if self.lives[machine] == life => self.commit(machine),
            Happening::Poisoned { machine, life } if self.lives[machine] == life => {
                self.stop(machine, false);
                Ok(())
            }
            Happening::PassOn { machine, life } if self.lives[machine] == life => self.tell_endpoints(machine),
            Happening::Commit { .. } | Happening::Poisoned { .. } | Happening::PassOn { .. } => Ok(()),
            Happening::Arrive { connection, to, bytes } => self.arrive(connection, to, &bytes),
            Happening::Gone { connection, side } => {
                self.close(connection, side);
                Ok(())
            }
            Happening::Timer { connection, side } => self.timer(connection, side),
            Happening::Fetched { connection, side, fetched } => {
                self.with_endpoint(connection, side, |endpoint, now| endpoint.handle_fetched(now, *fetched))
            }
            Happening::Dial { link } => self.dial(link),
            Happening::Misfortune => {
                self.remember_disks();
                self.misfortune()
            }
            Happening::Start { machine } => self.start(machine),
            Happening::Resume { connection, side } => self.resume(connection, side),
            Happening::Grant { link } => self.change_rights(link, None),
            Happening::FreeDisk { machine } => {
                self.machines[machine].disk.set_capacity(None);
                Ok(())
            }
        }
    }

    fn append(&mut self, index: usize) -> Outcome {
        if self.healed {
            return Ok(());
        }
        let count = 1 + self.rng.below(self.plan.append_records);
        let to_relayed = self.rng.chance(1, 3);
        let appended = self.machines[index].append(count, self.plan.record_bytes, to_relayed)?;
        self.report.records += appended;
        self.trace(1, appended);
        self.settle(index)?;
        let pause = self.below(self.plan.append_pause);
        self.plan_in(pause, Happening::Append { machine: index });
        Ok(())
    }

    /// After something happened on a machine: plans the flush of what is queued, and tells of what is durable.
    fn settle(&mut self, index: usize) -> Outcome {
        loop {
            if self.machines[index].needs_commit() {
                self.machines[index].commit_planned = true;
                let delay = self.below(self.plan.flush);
                let life = self.lives[index];
                self.plan_in(delay, Happening::Commit { machine: index, life });
            }
            let machine = &mut self.machines[index];
            let arrival = machine.journal.as_ref().map_or(0, |journal| journal.next_arrival().0);
            if arrival == machine.seen_arrival {
                return Ok(());
            }
            machine.seen_arrival = arrival;
            machine.judge(&mut self.chains)?;
            self.tell_endpoints(index)?;
        }
    }

    fn tell_endpoints(&mut self, index: usize) -> Outcome {
        if self.bug == Some(Bug::MissesNews) {
            return Ok(());
        }
        let ends: Vec<(u64, usize)> = self
            .connections
            .iter()
            .flat_map(|(id, connection)| [(*id, 0), (*id, 1)].into_iter().map(move |key| (key, connection)))
            .filter(|((_, side), connection)| connection.ends[*side].machine == index)
            .map(|(key, _)| key)
            .collect();
        for (connection, side) in ends {
            self.with_endpoint(connection, side, Endpoint::handle_journal)?;
        }
        Ok(())
    }

    fn commit(&mut self, index: usize) -> Outcome {
        let goes_on = self.machines[index].commit()?;
        self.trace(2, u64::from(goes_on));
        // Also when it failed: the journal's watch tells of that, too.
        self.settle(index)?;
        self.tell_endpoints(index)?;
        if !goes_on {
            self.stop(index, false);
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "virtual time counts from some moment; which one does not matter")]
fn epoch() -> Instant {
    Instant::now()
}
