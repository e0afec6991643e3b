//! Three nodes and the lines between them.

use std::{fmt, time::Duration};

use counterfoil::{Collection, Error, LocalLink, Store};
use serde::{Deserialize, Serialize};

/// What is known of a patient.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Patient {
    pub(crate) name: String,
    pub(crate) phone: String,
    pub(crate) address: String,
    pub(crate) note: String,
}

impl Patient {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

impl fmt::Display for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [&self.name, &self.phone, &self.address, &self.note];
        let filled: Vec<_> = fields.into_iter().filter(|field| !field.is_empty()).map(String::as_str).collect();
        f.write_str(&filled.join(", "))
    }
}

pub(crate) type Patients = Collection<u64, Patient>;

/// A node with its patients.
pub(crate) struct Node {
    pub(crate) patients: Patients,
    store: Store,
    /// Between it and the hub, both ways; none of the hub's own.
    lines: Vec<LocalLink>,
}

impl Node {
    fn new(name: &str) -> Result<Self, Error> {
        let store = Store::builder().node(name).in_memory()?;
        let patients = store.space(SPACE)?.collection("patients")?;
        Ok(Self { patients, store, lines: Vec::new() })
    }

    pub(crate) fn cut(&self) {
        self.lines.iter().for_each(LocalLink::cut);
    }

    pub(crate) fn heal(&self) {
        self.lines.iter().for_each(LocalLink::heal);
    }

    fn is_cut(&self) -> bool {
        self.lines.iter().any(|line| line.status().state == counterfoil::LinkState::Cut)
    }
}

const SPACE: &str = "surgeries";

/// Long enough for a few records in one process, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Two surgeries that never meet, and the hub between them.
pub(crate) struct Nodes {
    pub(crate) north: Node,
    pub(crate) south: Node,
    pub(crate) hub: Node,
}

impl Nodes {
    pub(crate) fn new() -> Result<Self, Error> {
        let (mut north, mut south, hub) = (Node::new("north")?, Node::new("south")?, Node::new("hub")?);
        for node in [&mut north, &mut south] {
            for (from, to) in [(&node.store, &hub.store), (&hub.store, &node.store)] {
                node.lines.push(from.mirror_in_process(to).spaces([SPACE]).start()?);
            }
        }
        Ok(Self { north, south, hub })
    }

    /// Waits until what is there has gone wherever a line is up.
    pub(crate) fn catch_up(&self) -> Result<(), String> {
        let surgeries = [&self.north, &self.south];
        for node in surgeries.into_iter().chain([&self.hub]) {
            node.store.commit().map_err(|error| error.to_string())?;
        }
        let up: Vec<_> = surgeries.into_iter().filter(|node| !node.is_cut()).collect();
        // First to the hub, then from there.
        for direction in [0, 1] {
            if !up.iter().all(|node| node.lines[direction].wait_mirrored(PATIENCE)) {
                return Err("a line that is up carries nothing".to_owned());
            }
        }
        Ok(())
    }

    pub(crate) fn frontiers_are_equal(&self) -> bool {
        let frontier = |node: &Node| node.patients.space().frontier();
        frontier(&self.north) == frontier(&self.hub) && frontier(&self.south) == frontier(&self.hub)
    }
}
