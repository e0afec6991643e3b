//! Who dials whom, for which spaces, and which way their records flow.

use std::sync::Arc;

use counterfoil_faults::Rng;
use counterfoil_replication::{Direction, Policy};
use counterfoil_storage::{NodeName, SpaceName};

use crate::{
    liar::LIAR,
    machine::{Machine, RELAYED_SPACE},
    plan::{Lies, Plan, Shape, Sync},
};

/// A dialler and whom it dials.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) spaces: Vec<SpaceName>,
    pub(crate) direction: Direction,
    /// Whether the one that is dialled takes logs of others than the dialler, too.
    pub(crate) relays: bool,
    /// What the one that is dialled does not grant at present.
    pub(crate) denial: Option<Denial>,
    pub(crate) policy: Arc<Policy>,
    /// Connections refused or lost in a row.
    pub(crate) failures: u32,
}

impl Link {
    fn new(from: usize, to: usize, spaces: Vec<SpaceName>, direction: Direction) -> Self {
        Self {
            from,
            to,
            spaces,
            direction,
            relays: true,
            denial: None,
            policy: Arc::new(Policy::nothing()),
            failures: 0,
        }
    }

    /// The ends between which records flow, each with the end that they flow to.
    pub(crate) fn flows(&self) -> Vec<(usize, usize)> {
        let back = self.direction.receives().then_some((self.to, self.from));
        [(self.from, self.to)].into_iter().chain(back).collect()
    }

    /// The policy of the one that is dialled.
    pub(crate) fn answering(&self, dialler: &NodeName) -> Result<Policy, String> {
        let text = match self.denial {
            Some(Denial::Rights) => String::new(),
            Some(Denial::Node) => format!("[[deny]]\nnode = \"{dialler}\""),
            None => {
                let grants = self.spaces.iter().map(|space| {
                    let rights = self.rights(dialler.as_str(), space);
                    format!("[[grant]]\nnode = \"{dialler}\"\nspace = \"{space}\"\nrights = [{rights}]\n")
                });
                grants.collect()
            }
        };
        Policy::parse(&text).map_err(|error| error.to_string())
    }

    fn rights(&self, dialler: &str, space: &SpaceName) -> &'static str {
        match self.direction {
            _ if dialler == LIAR && space.as_str() != LIAR && space.as_str() != SHARED => "\"read\"",
            Direction::Both if self.relays => "\"read\", \"relay\"",
            Direction::Both => "\"read\", \"write\"",
            _ if space.as_str() == dialler => "\"write\"",
            _ => "\"relay\"",
        }
    }
}

/// What is taken away for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// All rights.
    Rights,
    /// The node.
    Node,
}

/// Machines and their links.
pub(crate) struct Topology {
    pub(crate) machines: Vec<Machine>,
    pub(crate) links: Vec<Link>,
    /// Those that append.
    pub(crate) writers: usize,
}

/// The space that all nodes of a sync hold.
const SHARED: &str = "shared";
/// The space that some of them hold.
const PART: &str = "part";

fn spaces(names: &[&str]) -> Result<Vec<SpaceName>, String> {
    names.iter().map(|name| SpaceName::new(name).map_err(|error| error.to_string())).collect()
}

impl Topology {
    pub(crate) fn of(plan: &Plan, rng: &mut Rng) -> Result<Self, String> {
        match &plan.sync {
            Some(sync) => Self::sync(sync, plan.liar, rng),
            None => Self::mirrors(plan, rng),
        }
    }

    /// Practices, each its own space, and hubs one behind the other.
    fn mirrors(plan: &Plan, rng: &mut Rng) -> Result<Self, String> {
        let names: Vec<String> = (0..plan.practices).map(|index| format!("practice-{index}")).collect();
        let (mut machines, mut links, hub) = (Vec::new(), Vec::new(), names.len());
        for (index, name) in names.iter().enumerate() {
            let relays = if plan.relays && index == 0 { &["writer-1", "writer-2"][..] } else { &[] };
            machines.push(Machine::new(name, spaces(&[name])?, relays, rng.next_u64())?);
            let relayed = (!relays.is_empty()).then_some(RELAYED_SPACE);
            let carried: Vec<&str> = [name.as_str()].into_iter().chain(relayed).collect();
            links.push(Link::new(index, hub, spaces(&carried)?, Direction::Send));
        }
        machines.push(Machine::new("hub", Vec::new(), &[], rng.next_u64())?);
        let all: Vec<SpaceName> = links.iter().flat_map(|link| link.spaces.clone()).collect();
        let onward = ["hub-2", "hub-3"].into_iter().zip([plan.second_hub, plan.second_hub && plan.third_hub]);
        for (name, _) in onward.filter(|(_, is_there)| *is_there) {
            let (from, to) = (machines.len() - 1, machines.len());
            machines.push(Machine::new(name, Vec::new(), &[], rng.next_u64())?);
            links.push(Link::new(from, to, all.clone(), Direction::Send));
        }
        if plan.second_hub && plan.two_ways {
            let direct = links[..plan.practices].iter().map(|link| Link { to: hub + 1, ..link.clone() });
            links.extend(direct.collect::<Vec<_>>());
        }
        if let Some(lies) = plan.liar {
            let liar = machines.len();
            machines.push(Machine::new(LIAR, spaces(&[LIAR])?, &[], rng.next_u64())?);
            let mut link = match lies {
                Lies::Practice => Link::new(liar, hub, spaces(&[LIAR, "practice-0"])?, Direction::Both),
                Lies::Mirror => Link::new(0, liar, spaces(&["practice-0"])?, Direction::Send),
            };
            link.relays = false;
            links.push(link);
        }
        Ok(Self { machines, links, writers: plan.practices })
    }

    /// Nodes that all write to a space that all hold, and some to one that some hold.
    fn sync(sync: &Sync, liar: Option<Lies>, rng: &mut Rng) -> Result<Self, String> {
        let mut machines = Vec::new();
        let holds: Vec<bool> = (0..sync.nodes).map(|_| sync.partial && rng.chance(2, 3)).collect();
        for (index, holds) in holds.iter().enumerate() {
            let own = if *holds { &[SHARED, PART][..] } else { &[SHARED] };
            machines.push(Machine::new(&format!("node-{index}"), spaces(own)?, &[], rng.next_u64())?);
        }
        let mut links = Vec::new();
        for (one, other) in edges(sync, rng) {
            let carried = if holds[one] && holds[other] { &[SHARED, PART][..] } else { &[SHARED] };
            // In a star the leaves dial the centre, which is all that they know.
            let (from, to) = if sync.shape == Shape::Star || rng.chance(1, 2) { (other, one) } else { (one, other) };
            let mut link = Link::new(from, to, spaces(carried)?, Direction::Both);
            link.relays = sync.shape != Shape::Star || rng.chance(1, 2);
            links.push(link);
        }
        if let Some(lies) = liar {
            let index = machines.len();
            machines.push(Machine::new(LIAR, spaces(&[SHARED])?, &[], rng.next_u64())?);
            for to in 0..if lies == Lies::Mirror { 2 } else { 1 } {
                let mut link = Link::new(index, to, spaces(&[SHARED])?, Direction::Both);
                link.relays = false;
                links.push(link);
            }
        }
        Ok(Self { machines, links, writers: sync.nodes })
    }
}

/// Pairs of nodes that are linked; no pair twice, and all nodes hang together.
fn edges(sync: &Sync, rng: &mut Rng) -> Vec<(usize, usize)> {
    let nodes = sync.nodes;
    let mut edges: Vec<(usize, usize)> = match sync.shape {
        Shape::Chain => (1..nodes).map(|index| (index - 1, index)).collect(),
        Shape::Star => (1..nodes).map(|index| (0, index)).collect(),
        Shape::Ring => (0..nodes).map(|index| (index, (index + 1) % nodes)).collect(),
        Shape::Random => {
            let tree: Vec<_> = (1..nodes).map(|index| (rng.below(index as u64) as usize, index)).collect();
            let more = (0..rng.below(nodes as u64)).map(|_| {
                let pair = [rng.below(nodes as u64), rng.below(nodes as u64)];
                (pair[0].min(pair[1]) as usize, pair[0].max(pair[1]) as usize)
            });
            let more: Vec<_> = more.collect();
            tree.into_iter().chain(more).collect()
        }
    };
    edges.iter_mut().for_each(|(one, other)| (*one, *other) = ((*one).min(*other), (*one).max(*other)));
    edges.sort_unstable();
    edges.dedup();
    edges.retain(|(one, other)| one != other);
    edges
}
