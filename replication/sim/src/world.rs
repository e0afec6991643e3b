//! The loop of a history: events in the order of virtual time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use counterfoil_faults::{Fault, Injection, Operation, Rng};
use counterfoil_replication::{
    Direction, Endpoint, Event, Fetched, Limits, Message, Policy, SessionConfig, SessionError, codec,
};
use counterfoil_storage::{LogId, Seq, SpaceName};

use crate::{
    machine::{Chains, Machine, RELAYED_SPACE},
    plan::Plan,
    wire::{Connection, End, UNDER_WAY_MAX},
};

/// How long after healing all copies must be equal: a silent connection is noticed after three idle
/// intervals of 15 s, then the dialler waits at most 10 s, and a full disk is tried again after 1 s.
const HEALING: Duration = Duration::from_secs(120);

/// A promise was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The history.
    pub seed: u64,
    /// When in it.
    pub at: Duration,
    /// What.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, what } = self;
        write!(f, "at {at:?} of seed {seed}: {what}\nreplay: COUNTERFOIL_SEED={seed} cargo test -p counterfoil-sim")
    }
}

/// What a history held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// A hash over all that happened: equal for equal seeds.
    pub trace: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Messages delivered.
    pub messages: u64,
    /// Bytes delivered.
    pub bytes: u64,
    /// Records appended.
    pub records: u64,
    /// Acknowledgements that a source believed.
    pub acks: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections cut, silenced or corrupted.
    pub cuts: u64,
    /// Machines killed or crashed.
    pub crashes: u64,
    /// Disks that failed or ran full.
    pub disk_faults: u64,
}

impl Report {
    /// Adds up histories; of the traces nothing meaningful remains.
    pub fn add(&mut self, other: &Self) {
        self.trace ^= other.trace;
        self.simulated += other.simulated;
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.records += other.records;
        self.acks += other.acks;
        self.connections += other.connections;
        self.cuts += other.cuts;
        self.crashes += other.crashes;
        self.disk_faults += other.disk_faults;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} simulated seconds, {} messages ({} bytes), {} records, {} acks, {} connections, {} cuts, {} crashes, \
             {} disk faults",
            self.simulated.as_secs(),
            self.messages,
            self.bytes,
            self.records,
            self.acks,
            self.connections,
            self.cuts,
            self.crashes,
            self.disk_faults
        )
    }
}

/// Lives through the history of a seed.
pub fn explore(seed: u64) -> Result<Report, Violation> {
    let mut world = World::new(seed).map_err(|what| Violation { seed, at: Duration::ZERO, what })?;
    match world.live() {
        Ok(()) => Ok(world.report),
        Err(what) => Err(Violation { seed, at: world.now, what }),
    }
}

/// A dialler and whom it dials.
#[derive(Debug)]
struct Link {
    from: usize,
    to: usize,
    spaces: Vec<SpaceName>,
    policy: Arc<Policy>,
    /// Connections refused or lost in a row.
    failures: u32,
}

#[derive(Debug)]
enum Happening {
    Append { machine: usize },
    Commit { machine: usize, life: u64 },
    Poisoned { machine: usize, life: u64 },
    Arrive { connection: u64, to: usize, bytes: Vec<u8> },
    Gone { connection: u64, side: usize },
    Timer { connection: u64, side: usize },
    Fetched { connection: u64, side: usize, fetched: Box<Fetched> },
    Dial { link: usize },
    Misfortune,
    Start { machine: usize },
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
}

type Outcome<T = ()> = Result<T, String>;

impl World {
    fn new(seed: u64) -> Outcome<Self> {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let text = |error: &dyn fmt::Display| error.to_string();
        let names: Vec<String> = (0..plan.practices).map(|index| format!("practice-{index}")).collect();
        let mut machines = Vec::new();
        let mut links = Vec::new();
        let hub = names.len();
        let nothing = Arc::new(Policy::nothing());
        for (index, name) in names.iter().enumerate() {
            let relays = if plan.relays && index == 0 { &["writer-1", "writer-2"][..] } else { &[] };
            machines.push(Machine::new(name, Some(name), relays, rng.next_u64())?);
            let mut spaces = vec![name.as_str()];
            spaces.extend((!relays.is_empty()).then_some(RELAYED_SPACE));
            let spaces = spaces.into_iter().map(SpaceName::new).collect::<Result<_, _>>();
            let spaces = spaces.map_err(|error| text(&error))?;
            links.push(Link { from: index, to: hub, spaces, policy: Arc::clone(&nothing), failures: 0 });
        }
        machines.push(Machine::new("hub", None, &[], rng.next_u64())?);
        if plan.second_hub {
            machines.push(Machine::new("hub-2", None, &[], rng.next_u64())?);
            let spaces = links.iter().flat_map(|link| link.spaces.clone()).collect();
            links.push(Link { from: hub, to: hub + 1, spaces, policy: nothing, failures: 0 });
        }
        let lives = vec![0; machines.len()];
        Ok(Self {
            plan,
            rng,
            epoch: epoch(),
            now: Duration::ZERO,
            planned: BinaryHeap::new(),
            next_number: 0,
            machines,
            lives,
            links,
            connections: BTreeMap::new(),
            connected: BTreeMap::new(),
            next_connection: 0,
            chains: Chains::default(),
            believed: BTreeMap::new(),
            healed: false,
            report: Report::default(),
        })
    }

    /// Faults, then healing, then equality.
    fn live(&mut self) -> Outcome {
        for machine in 0..self.plan.practices {
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
            Happening::Commit { .. } | Happening::Poisoned { .. } => Ok(()),
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
                self.misfortune();
                Ok(())
            }
            Happening::Start { machine } => self.start(machine),
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

    fn dial(&mut self, index: usize) -> Outcome {
        let link = &self.links[index];
        let (from, to) = (link.from, link.to);
        let (Some(ours), Some(theirs)) = (&self.machines[from].journal, &self.machines[to].journal) else {
            self.dial_later(index);
            return Ok(());
        };
        let (session_window_bytes, space_window_bytes) = self.plan.windows;
        let mut limits = Limits::default();
        limits.session_window_bytes = session_window_bytes;
        limits.space_window_bytes = space_window_bytes;
        let names = (self.machines[from].name.clone(), self.machines[to].name.clone());
        let config = SessionConfig {
            local: names.0.clone(),
            incarnation: ours.identity().incarnation,
            peer: names.1.clone(),
            spaces: link.spaces.iter().map(|space| (space.clone(), Direction::Send)).collect(),
            policy: Arc::clone(&link.policy),
            limits: limits.clone(),
        };
        let grants = link.spaces.iter().map(|space| {
            let right = if space.as_str() == names.0.as_str() { "write" } else { "relay" };
            format!("[[grant]]\nnode = \"{}\"\nspace = \"{space}\"\nrights = [\"{right}\"]\n", names.0)
        });
        let policy = Policy::parse(&grants.collect::<String>()).map_err(|error| error.to_string())?;
        let answering = SessionConfig {
            local: names.1,
            incarnation: theirs.identity().incarnation,
            peer: names.0,
            spaces: Vec::new(),
            policy: Arc::new(policy),
            limits,
        };
        let ends = [
            End::new(from, Endpoint::new(ours.clone(), config, self.instant())),
            End::new(to, Endpoint::new(theirs.clone(), answering, self.instant())),
        ];
        let id = self.next_connection;
        self.next_connection += 1;
        let latency = self.below(self.plan.latency);
        self.connections.insert(id, Connection { ends, latency, is_cut: false });
        self.connected.insert(index, id);
        self.report.connections += 1;
        self.trace(3, index as u64);
        self.drive(id, 0)?;
        self.drive(id, 1)
    }

    /// Full jitter, from 100 ms to 10 s.
    fn dial_later(&mut self, index: usize) {
        let link = &mut self.links[index];
        let limit = Duration::from_millis(100 << link.failures.min(7)).min(Duration::from_secs(10));
        link.failures += 1;
        let delay = self.below(limit);
        self.plan_in(delay, Happening::Dial { link: index });
    }

    /// Hands an endpoint something, then does what it wants.
    fn with_endpoint(
        &mut self,
        connection: u64,
        side: usize,
        act: impl FnOnce(&mut Endpoint, Instant) -> Result<(), SessionError>,
    ) -> Outcome {
        let now = self.instant();
        let Some(endpoint) = self.endpoint(connection, side) else { return Ok(()) };
        match act(endpoint, now) {
            Ok(()) => self.drive(connection, side),
            Err(error) => self.fail(connection, side, &error),
        }
    }

    fn endpoint(&mut self, connection: u64, side: usize) -> Option<&mut Endpoint> {
        self.connections.get_mut(&connection)?.ends[side].endpoint.as_mut()
    }

    /// An endpoint has ended its session. Between honest ends only silence, a goodbye or a failed disk may do so.
    fn fail(&mut self, connection: u64, side: usize, error: &SessionError) -> Outcome {
        match error {
            SessionError::Silent { .. }
            | SessionError::HandshakeTimeout { .. }
            | SessionError::Store(_)
            | SessionError::ClosedByPeer { .. } => {}
            unexpected => return Err(format!("an honest end was accused: {unexpected}")),
        }
        self.trace(4, side as u64);
        if let (SessionError::Store(_), Some(state)) = (error, self.connections.get(&connection)) {
            let machine = state.ends[side].machine;
            let life = self.lives[machine];
            self.plan_in(Duration::ZERO, Happening::Poisoned { machine, life });
        }
        if let Some(reason) = error.close_reason() {
            self.send(connection, side, &Message::Close(reason));
        }
        self.close(connection, side);
        Ok(())
    }

    /// Does what an endpoint wants: events, reads, messages, timers.
    fn drive(&mut self, connection: u64, side: usize) -> Outcome {
        while let Some(event) = self.endpoint(connection, side).and_then(Endpoint::poll_event) {
            self.judge_event(connection, side, &event)?;
        }
        while let Some(fetch) = self.endpoint(connection, side).and_then(Endpoint::poll_fetch) {
            let fetched = Box::new(fetch.run());
            let delay = self.below(Duration::from_micros(500));
            self.plan_in(delay, Happening::Fetched { connection, side, fetched });
        }
        loop {
            let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
            let end = &mut state.ends[side];
            if end.under_way >= UNDER_WAY_MAX {
                break;
            }
            let Some(message) = end.endpoint.as_mut().and_then(Endpoint::poll_transmit) else { break };
            let machine = end.machine;
            self.machines[machine].judge_sent(&message, &self.chains)?;
            self.send(connection, side, &message);
        }
        self.set_timer(connection, side);
        let Some(state) = self.connections.get(&connection) else { return Ok(()) };
        let machine = state.ends[side].machine;
        self.settle(machine)
    }

    fn set_timer(&mut self, connection: u64, side: usize) {
        let epoch = self.epoch;
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let end = &mut state.ends[side];
        let at = end.endpoint.as_ref().and_then(Endpoint::poll_timeout).map(|at| at.duration_since(epoch));
        if let Some(at) = at.filter(|at| end.timer_at != Some(*at)) {
            end.timer_at = Some(at);
            self.plan_at(at.max(self.now), Happening::Timer { connection, side });
        }
    }

    fn timer(&mut self, connection: u64, side: usize) -> Outcome {
        let now = self.now;
        let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
        let end = &mut state.ends[side];
        // A timer that was set again since is void.
        if end.timer_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        end.timer_at = None;
        self.with_endpoint(connection, side, Endpoint::handle_timeout)
    }

    /// Sends bytes, in pieces that need not be whole messages.
    fn send(&mut self, connection: u64, side: usize, message: &Message) {
        let mut bytes = BytesMut::new();
        codec::encode(message, &mut bytes);
        self.trace(5, bytes.len() as u64);
        while !bytes.is_empty() {
            let len = 1 + self.rng.below(bytes.len() as u64) as usize;
            let piece = bytes.split_to(len).to_vec();
            let jitter = self.below(Duration::from_micros(200));
            let Some(state) = self.connections.get_mut(&connection) else { return };
            let end = &mut state.ends[side];
            end.last_arrival = end.last_arrival.max(self.now + state.latency) + jitter;
            end.under_way += piece.len();
            let at = end.last_arrival;
            self.plan_at(at, Happening::Arrive { connection, to: 1 - side, bytes: piece });
        }
    }

    fn arrive(&mut self, connection: u64, to: usize, bytes: &[u8]) -> Outcome {
        let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
        let sender = &mut state.ends[1 - to];
        if state.is_cut || sender.silenced {
            return Ok(());
        }
        sender.under_way -= bytes.len();
        let end = &mut state.ends[to];
        if end.endpoint.is_none() {
            return Ok(());
        }
        end.receive(bytes);
        self.report.bytes += bytes.len() as u64;
        loop {
            let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
            let Some(message) = state.ends[to].next_message()? else { break };
            self.report.messages += 1;
            self.with_endpoint(connection, to, |endpoint, now| endpoint.handle_message(now, message))?;
        }
        self.drive(connection, 1 - to)
    }

    /// One end closes; the other hears of it after what is under way to it.
    fn close(&mut self, connection: u64, side: usize) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        if state.ends[side].endpoint.take().is_none() {
            return;
        }
        let end = &state.ends[side];
        let other_is_open = state.ends[1 - side].endpoint.is_some();
        let at = end.last_arrival.max(self.now + state.latency);
        if other_is_open && !end.silenced {
            self.plan_at(at, Happening::Gone { connection, side: 1 - side });
        }
        if !other_is_open {
            self.connections.remove(&connection);
        }
        if side == 0 {
            let link = self.connected.iter().find(|(_, id)| **id == connection).map(|(link, _)| *link);
            if let Some(link) = link {
                self.connected.remove(&link);
                self.dial_later(link);
            }
        }
    }

    fn judge_event(&mut self, connection: u64, side: usize, event: &Event) -> Outcome {
        let Some(state) = self.connections.get(&connection) else { return Ok(()) };
        let (machine, peer) = (state.ends[side].machine, state.ends[1 - side].machine);
        match event {
            Event::Acked { log, node, head, .. } => {
                self.report.acks += 1;
                let equal_at_offer = self.machines[peer].heads().get(log).is_some_and(|h| h.next_seq >= head.next_seq);
                if *node != self.machines[peer].name || *node == self.machines[machine].name {
                    return Err(format!("an ack of {node} was believed of {}", self.machines[peer].name));
                }
                if !self.machines[peer].has_acked(*log, head.next_seq) && !equal_at_offer {
                    return Err(format!("{node} was believed to have log {log} up to {}", head.next_seq));
                }
                if !self.chains.has_head(*log, *head) {
                    return Err(format!("a head of log {log} was believed that never was"));
                }
                let believed = self.believed.entry((machine, *log)).or_default();
                *believed = head.next_seq.max(*believed);
                if let (0, Some(link)) = (side, self.connected.iter().find(|(_, id)| **id == connection)) {
                    self.links[*link.0].failures = 0;
                }
                Ok(())
            }
            Event::PeerReady { .. } | Event::InSync { .. } | Event::StorageFull => Ok(()),
            unexpected => Err(format!("{}: {unexpected:?}", self.machines[machine].name)),
        }
    }

    /// Draws what goes wrong in this second.
    fn misfortune(&mut self) {
        if self.healed {
            return;
        }
        self.plan_in(Duration::from_secs(1), Happening::Misfortune);
        let plan = self.plan.clone();
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for connection in open {
            if self.rng.chance(plan.cuts, 1000) {
                self.cut(connection);
            } else if self.rng.chance(plan.silences, 1000) {
                self.silence(connection);
            } else if self.rng.chance(plan.corruptions, 1000) {
                // TLS finds the first changed byte: that end gives up, the other hears of it.
                let side = self.rng.below(2) as usize;
                self.report.cuts += 1;
                self.close(connection, side);
            }
        }
        for index in 0..self.machines.len() {
            if self.machines[index].journal.is_none() {
                continue;
            }
            if self.rng.chance(plan.kills, 1000) {
                self.stop(index, true);
            } else if self.rng.chance(plan.crashes, 1000) {
                self.stop(index, false);
            } else if self.rng.chance(plan.disk_errors, 1000) {
                let disk = &self.machines[index].disk;
                let number = disk.counts().of(Operation::SyncData) + self.rng.below(20);
                disk.inject(Injection::at(number, Fault::Eio).of(Operation::SyncData));
                self.report.disk_faults += 1;
            } else if self.rng.chance(plan.full_disks, 1000) {
                let disk = &self.machines[index].disk;
                disk.set_capacity(Some(disk.used_bytes() + self.rng.below(20_000)));
                self.report.disk_faults += 1;
                let delay = self.below(Duration::from_secs(10));
                self.plan_in(delay, Happening::FreeDisk { machine: index });
            }
        }
    }

    /// A connection breaks: what is under way is lost, whole or in the middle of a message.
    fn cut(&mut self, connection: u64) {
        self.report.cuts += 1;
        let hears = (self.rng.chance(4, 5), self.rng.chance(4, 5));
        self.trace(6, u64::from(hears.0) + 2 * u64::from(hears.1));
        let Some(state) = self.connections.get_mut(&connection) else { return };
        state.is_cut = true;
        // An end that does not hear of it has a half-open connection.
        for (side, hears) in [(0, hears.0), (1, hears.1)] {
            if hears {
                self.plan_in(Duration::ZERO, Happening::Gone { connection, side });
            }
        }
    }

    /// One or both directions swallow everything.
    fn silence(&mut self, connection: u64) {
        self.report.cuts += 1;
        let which = 1 + self.rng.below(3);
        let Some(state) = self.connections.get_mut(&connection) else { return };
        for (side, end) in state.ends.iter_mut().enumerate() {
            end.silenced |= which & (1 << side) != 0;
        }
    }

    /// A process dies (`is_kill`) or its machine loses power. It comes back after a while.
    fn stop(&mut self, index: usize, is_kill: bool) {
        self.report.crashes += 1;
        self.trace(7, index as u64);
        self.lives[index] += 1;
        let dying: Vec<(u64, usize)> = self.connections.keys().flat_map(|id| [(*id, 0), (*id, 1)]).collect();
        for (connection, side) in dying {
            let on_it = self.connections.get(&connection).is_some_and(|state| state.ends[side].machine == index);
            if on_it {
                // A killed process's kernel says goodbye, a dead machine does not.
                if let Some(state) = self.connections.get_mut(&connection).filter(|_| !is_kill) {
                    state.ends[side].silenced = true;
                }
                self.close(connection, side);
            }
        }
        let seed = self.rng.next_u64();
        let machine = &mut self.machines[index];
        machine.stop();
        machine.disk = if is_kill { machine.disk.kill() } else { machine.disk.crash(seed) };
        if !self.healed {
            let delay = self.below(Duration::from_secs(5));
            self.plan_in(delay, Happening::Start { machine: index });
        }
    }

    fn start(&mut self, index: usize) -> Outcome {
        if self.machines[index].journal.is_some() {
            return Ok(());
        }
        self.trace(8, index as u64);
        // An administrator makes room first: a journal needs some to recover.
        self.machines[index].disk.set_capacity(None);
        self.machines[index].start(&mut self.chains)?;
        self.settle(index)
    }

    fn restart_after(&mut self, index: usize, change: impl FnOnce(&mut Machine)) -> Outcome {
        self.connections.clear();
        self.connected.clear();
        self.machines[index].stop();
        change(&mut self.machines[index]);
        self.machines[index].start(&mut self.chains)
    }

    /// No faults from here on. What is silent stays so: the ends have to notice.
    fn heal(&mut self) -> Outcome {
        self.healed = true;
        self.plan.latency = Duration::from_millis(1);
        self.plan.flush = Duration::from_millis(1);
        for connection in self.connections.values_mut() {
            connection.latency = connection.latency.min(self.plan.latency);
        }
        for index in 0..self.machines.len() {
            self.machines[index].disk.mend();
            self.machines[index].disk.set_capacity(None);
            self.start(index)?;
        }
        Ok(())
    }

    /// Whether each link's target has what its source has, and the source knows it.
    fn is_equal(&self) -> bool {
        self.machines.iter().all(|machine| !machine.commit_planned && machine.journal.is_some())
            && self.links.iter().all(|link| self.differing(link).is_empty())
    }

    fn differing(&self, link: &Link) -> BTreeSet<LogId> {
        let (source, target) = (self.machines[link.from].heads(), self.machines[link.to].heads());
        let known = |log: &LogId, seq: Seq| self.believed.get(&(link.from, *log)).is_some_and(|known| *known >= seq);
        let differs = |log: &LogId, seq: Seq, equal: bool| !equal || !known(log, seq);
        let logs = source.iter().filter(|(log, head)| differs(log, head.next_seq, target.get(*log) == Some(*head)));
        logs.map(|(log, _)| *log).collect()
    }

    fn differences(&self) -> String {
        let mut lines = Vec::new();
        for link in &self.links {
            let (source, target) = (&self.machines[link.from], &self.machines[link.to]);
            for log in self.differing(link) {
                let at = |machine: &Machine| machine.heads().get(&log).map_or(0, |head| head.next_seq.0);
                let known = self.believed.get(&(link.from, log)).copied().unwrap_or_default();
                let (ours, theirs) = (at(source), at(target));
                let (from, to) = (&source.name, &target.name);
                lines.push(format!("log {log} ends at {ours} on {from}, at {theirs} on {to}, known {known}"));
            }
        }
        let planned = self.machines.iter().filter(|machine| machine.commit_planned).count();
        format!("{}; {planned} flushes planned, {} connections", lines.join("; "), self.connections.len())
    }
}

#[expect(clippy::disallowed_methods, reason = "virtual time counts from some moment; which one does not matter")]
fn epoch() -> Instant {
    Instant::now()
}
