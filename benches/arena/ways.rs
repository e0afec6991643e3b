//! More than one way, and more than one hop: bounds of issue 5 that hold whatever others reach.

use std::{fs, time::Duration};

use counterfoil::{Durability, Link, NodeName, Policy, Server, Space, Store, Tls, certificates};
use counterfoil_benches::{Outcome, RECORDS_A_CALL, RemoteDisk, folder};
use tempfile::TempDir;

use crate::turn::{Bodies, Turn, median_of, nanoseconds, now};

const SPACE: &str = "shared";
/// Long enough for any turn.
const PATIENCE: Duration = Duration::from_secs(120);

/// Nodes that may do everything in the space, with certificates of one authority.
struct Nodes(TempDir);

/// A node with its store.
struct Node {
    store: Store,
    space: Space,
    tls: Tls,
}

impl Nodes {
    fn new() -> Outcome<Self> {
        let folder = folder()?;
        certificates::create_ca(&folder.path().join("ca"))?;
        Ok(Self(folder))
    }

    fn node(&self, name: &str) -> Outcome<Node> {
        let (ca, tls) = (self.0.path().join("ca"), self.0.path().join(name));
        if !tls.exists() {
            certificates::issue(&ca, &NodeName::new(name)?, &tls, certificates::DAYS_DEFAULT)?;
        }
        let dir = self.0.path().join(format!("{name}.store"));
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        let store = Store::builder().node(name).create(dir)?;
        let space = store.space(SPACE)?;
        Ok(Node { store, space, tls: Tls::from_dir(tls)? })
    }
}

impl Node {
    fn append(&self, records: usize, bodies: &Bodies) -> Outcome<()> {
        for group in bodies.groups(RECORDS_A_CALL).take(records / RECORDS_A_CALL) {
            self.space.append_all(group)?;
        }
        Ok(self.store.commit()?)
    }

    fn serve(&self, dialler: &str) -> Outcome<Server> {
        let rights = "rights = [\"read\", \"write\", \"relay\"]";
        let policy = format!("[[grant]]\nnode = \"{dialler}\"\nspace = \"*\"\n{rights}\n");
        Ok(self.store.serve("127.0.0.1:0", self.tls.clone()).policy(Policy::parse(&policy)?).start()?)
    }

    fn address(&self, server: &Server) -> String {
        format!("{}@{}", self.store.node(), server.local_addr())
    }
}

/// What two nodes that have half of the records each carry both ways in a second, of what they carry one way when one of
/// them has all.
pub(crate) fn both_ways(records: usize, bodies: &Bodies) -> Outcome<Turn> {
    let nodes = Nodes::new()?;
    let seconds = |here: usize, there: usize| -> Outcome<f64> {
        let (a, b) = (nodes.node("a")?, nodes.node("b")?);
        a.append(here, bodies)?;
        b.append(there, bodies)?;
        let server = b.serve("a")?;
        let start = now();
        let link = a.store.sync_with(b.address(&server), a.tls.clone()).spaces([SPACE]).start()?;
        if !link.wait_synced(PATIENCE) {
            return Err("the two nodes did not become equal".into());
        }
        let seconds = start.elapsed().as_secs_f64();
        link.stop();
        server.stop();
        a.store.close(Duration::ZERO)?;
        b.store.close(Duration::ZERO)?;
        Ok(seconds)
    };
    let one_way = seconds(records, 0)?;
    let both_ways = seconds(records / 2, records / 2)?;
    Ok(Turn { figure: one_way / both_ways, latencies: Vec::new() })
}

/// A practice, the hub that it mirrors to, and a hub that this one mirrors to.
pub(crate) struct Chain {
    practice: Node,
    links: [Link; 2],
    servers: [Server; 2],
    hubs: [Node; 2],
    _nodes: Nodes,
}

impl Chain {
    pub(crate) fn new() -> Outcome<Self> {
        let nodes = Nodes::new()?;
        let (practice, near, far) = (nodes.node("practice")?, nodes.node("near")?, nodes.node("far")?);
        let (at_near, at_far) = (near.serve("practice")?, far.serve("near")?);
        let onward = near.store.mirror_to(far.address(&at_far), near.tls.clone()).all_spaces().start()?;
        let link = practice.store.mirror_to(near.address(&at_near), practice.tls.clone()).spaces([SPACE]).start()?;
        let chain =
            Self { practice, links: [link, onward], servers: [at_near, at_far], hubs: [near, far], _nodes: nodes };
        chain.wait(&Bodies::new(), Durability::Mirrored(2), 20)?;
        Ok(chain)
    }

    /// Microseconds by which a record is longer on its way to the second hub than to the first, by the median of each.
    pub(crate) fn take(&self, waits: usize, bodies: &Bodies) -> Outcome<Turn> {
        let mut near = self.wait(bodies, Durability::Mirrored(1), waits)?;
        let mut far = self.wait(bodies, Durability::Mirrored(2), waits)?;
        let added = median_of(&mut far) - median_of(&mut near);
        Ok(Turn { figure: added / 1e3, latencies: Vec::new() })
    }

    fn wait(&self, bodies: &Bodies, asked: Durability, waits: usize) -> Outcome<Vec<u32>> {
        let mut latencies = Vec::with_capacity(waits);
        for body in bodies.each().take(waits) {
            let before = now();
            let receipt = self.practice.space.append(body)?;
            if receipt.wait_timeout(asked, PATIENCE)? < asked {
                return Err("a record was not mirrored".into());
            }
            latencies.push(nanoseconds(before.elapsed()));
            // What goes on to the second hub meanwhile is not to be in the next one's way.
            receipt.wait_timeout(Durability::Mirrored(2), PATIENCE)?;
        }
        Ok(latencies)
    }

    pub(crate) fn end(self) -> Outcome<()> {
        self.links.iter().for_each(Link::stop);
        self.servers.iter().for_each(Server::stop);
        self.practice.store.close(Duration::ZERO)?;
        self.hubs.iter().try_for_each(|hub| hub.store.close(Duration::ZERO))?;
        Ok(())
    }
}

/// What a hand-written hub adds: one round trip to a disk elsewhere and the flush there, between a thread that waits here and
/// one that waits there.
pub(crate) struct FarDisk {
    disk: RemoteDisk,
    _folder: TempDir,
}

impl FarDisk {
    pub(crate) fn new() -> Outcome<Self> {
        let folder = folder()?;
        Ok(Self { disk: RemoteDisk::within(folder.path())?, _folder: folder })
    }

    /// Microseconds from when a record is durable here until it is known to be durable there, by the median.
    pub(crate) fn take(&mut self, waits: usize, bodies: &Bodies) -> Outcome<Turn> {
        let mut latencies = Vec::with_capacity(waits);
        for body in bodies.each().take(waits) {
            self.disk.keep(body)?;
            let before = now();
            self.disk.pass_on(body)?;
            latencies.push(nanoseconds(before.elapsed()));
        }
        Ok(Turn { figure: median_of(&mut latencies) / 1e3, latencies: Vec::new() })
    }
}
