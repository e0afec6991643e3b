//! What a seed decides before a history begins.

use std::time::Duration;

use counterfoil_faults::Rng;

/// How nodes that sync are linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Each with the next; two are a pair.
    Chain,
    /// All with one, which need not let them relay.
    Star,
    /// A chain whose ends are linked.
    Ring,
    /// All hang together, by any ways.
    Random,
}

/// Nodes that sync instead of practices that mirror.
#[derive(Debug, Clone)]
pub struct Sync {
    /// How many; 2 to 8.
    pub nodes: usize,
    /// How they are linked.
    pub shape: Shape,
    /// Whether there is a space that only some of them hold.
    pub partial: bool,
}

/// Where a liar stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lies {
    /// It mirrors a space of its own to the hub, and may read the first practice's. Among nodes that sync it is a member of
    /// the space that all hold.
    Practice,
    /// The first practice mirrors to it. Among nodes that sync it is a member that two of them know.
    Mirror,
}

/// How often things happen, per 1000 simulated seconds unless said otherwise, and how long they last.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each shape with or without each of the others")]
pub struct Plan {
    /// If there is one, it replaces all practices and hubs.
    pub sync: Option<Sync>,
    /// Practices that mirror to the hub, each its own space.
    pub practices: usize,
    /// Whether the first practice also relays two logs of other writers.
    pub relays: bool,
    /// Whether the hub mirrors all onward to a second hub.
    pub second_hub: bool,
    /// Whether the second hub, if there is one, mirrors all onward to a third.
    pub third_hub: bool,
    /// Whether the practices also mirror to the second hub, if there is one, themselves.
    pub two_ways: bool,
    /// How long faults last before everything is mended.
    pub faulty: Duration,
    /// Time between two appends of a practice, at most.
    pub append_pause: Duration,
    /// Records in an append, at most.
    pub append_records: u64,
    /// Bytes of a record, at most.
    pub record_bytes: u64,
    /// One-way delay of a link, at most.
    pub latency: Duration,
    /// Time that a flush takes, at most.
    pub flush: Duration,
    /// Connections that are cut.
    pub cuts: u64,
    /// Connections of which one or both directions fall silent.
    pub silences: u64,
    /// Connections whose bytes are corrupted, which ends them as TLS would.
    pub corruptions: u64,
    /// Processes killed; what was written stays.
    pub kills: u64,
    /// Machines that lose power; what was not flushed is lost, torn or kept.
    pub crashes: u64,
    /// Flushes that fail.
    pub disk_errors: u64,
    /// Disks that run full for a while.
    pub full_disks: u64,
    /// Ends that stop reading for a while.
    pub stalls: u64,
    /// Links of which the end that is dialled takes back all rights, or denies the dialler, for a while.
    pub denials: u64,
    /// Whether one of the links breaks every other second.
    pub flaps: bool,
    /// What a peer that lies may do, if there is one.
    pub liar: Option<Lies>,
    /// Window of a session and of a space, in bytes.
    pub windows: (u64, u64),
    /// In spaces of more logs than this not all heads are told at once.
    pub heads_at_once_max: usize,
    /// Whether they follow what is measured, between a sixteenth and 16 times of that.
    pub windows_vary: bool,
}

impl Plan {
    /// Draws one. Some plans have no fault of a kind, some have many.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut rate = |highest: u64| if rng.chance(1, 3) { 0 } else { rng.below(highest + 1) };
        let (cuts, silences, corruptions) = (rate(500), rate(100), rate(200));
        let (kills, crashes, disk_errors, full_disks) = (rate(200), rate(200), rate(60), rate(100));
        let (stalls, denials) = (rate(100), rate(200));
        let window = 1 << (8 + rng.below(12));
        Self {
            sync: None,
            practices: 1 + rng.below(3) as usize,
            relays: rng.chance(1, 3),
            second_hub: rng.chance(1, 2),
            third_hub: rng.chance(1, 3),
            two_ways: rng.chance(1, 3),
            faulty: Duration::from_secs(10 + rng.below(50)),
            append_pause: Duration::from_millis(10 + rng.below(1000)),
            append_records: 1 + rng.below(20),
            record_bytes: 1 + rng.below(400),
            latency: Duration::from_micros(50 + rng.below(100_000)),
            flush: Duration::from_micros(100 + rng.below(20_000)),
            cuts,
            silences,
            corruptions,
            kills,
            crashes,
            disk_errors,
            full_disks,
            stalls,
            denials,
            flaps: rng.chance(1, 4),
            liar: if rng.chance(1, 4) { Some([Lies::Practice, Lies::Mirror][rng.below(2) as usize]) } else { None },
            windows: (window, 1 << (8 + rng.below(12))),
            windows_vary: rng.chance(1, 2),
            heads_at_once_max: if rng.chance(1, 2) { 256 } else { rng.below(4) as usize },
        }
    }

    /// Draws one of nodes that sync.
    pub fn draw_sync(rng: &mut Rng) -> Self {
        let mut plan = Self::draw(rng);
        let shapes = [Shape::Chain, Shape::Star, Shape::Ring, Shape::Random];
        let sync =
            Sync { nodes: 2 + rng.below(7) as usize, shape: shapes[rng.below(4) as usize], partial: rng.chance(1, 2) };
        // Many nodes have many links, on each of which everything goes wrong: shorter, so that a history takes as long.
        plan.faulty = plan.faulty.min(Duration::from_secs(5 + 60 / sync.nodes as u64));
        plan.append_pause = plan.append_pause.max(Duration::from_millis(20 * sync.nodes as u64));
        plan.sync = Some(sync);
        plan
    }
}
