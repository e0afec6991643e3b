//! A practice's store and its hub, with the default options, as an application gets them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use counterfoil::{Durability, Link, LogId, NodeName, Server, Space, Store, Tls, certificates};

use crate::{
    pair::{Pair, Pairing, Waiter, line_of},
    shaper::{Line, Shaper},
    system::{Body, Contender, Outcome},
    workload::Workload,
};

const PRACTICE: &str = "practice";
const MIRRORED: Duration = Duration::from_secs(120);
/// How often it is looked how far a mirror has come.
const GLANCE: Duration = Duration::from_millis(1);

impl Pairing for crate::Counterfoil {
    fn name(&self) -> &'static str {
        Contender::name(self)
    }

    fn durability(&self) -> &'static str {
        "fdatasync at both ends, the hub's before its ack; TLS 1.3 with both certificates"
    }

    fn cannot(&self, _workload: Workload) -> Option<String> {
        None
    }

    fn start(&self, dir: &Path, workload: Workload) -> Outcome<Box<dyn Pair>> {
        certificates::create_ca(&dir.join("ca"))?;
        issue(dir, PRACTICE)?;
        let store = Store::builder().node(PRACTICE).create(dir.join("practice.store"))?;
        let space = store.own_space()?;
        let mut pair = Running {
            store,
            space,
            dir: dir.to_owned(),
            line: line_of(workload),
            compress: workload == Workload::U,
            hubs: 0,
            next: None,
            hub: None,
            log: OnceLock::new(),
            appended: AtomicU64::new(0),
        };
        pair.prepare()?;
        Ok(Box::new(pair))
    }
}

struct Running {
    store: Store,
    space: Space,
    dir: PathBuf,
    line: Option<Line>,
    compress: bool,
    hubs: u32,
    /// A hub that nobody is linked to yet.
    next: Option<Hub>,
    hub: Option<(Hub, Link)>,
    /// Known with the first record.
    log: OnceLock<LogId>,
    appended: AtomicU64,
}

/// Each has a name of its own: what another acked does not count.
struct Hub {
    name: String,
    dir: PathBuf,
    server: Server,
    store: Store,
    shaper: Option<Shaper>,
}

/// Makes a certificate for a node.
fn issue(dir: &Path, node: &str) -> Outcome<()> {
    certificates::issue(&dir.join("ca"), &NodeName::new(node)?, &dir.join(node), certificates::DAYS_DEFAULT)?;
    Ok(())
}

impl Running {
    /// Sets up the next hub, empty.
    fn prepare(&mut self) -> Outcome<()> {
        let name = format!("hub-{}", self.hubs);
        self.hubs += 1;
        issue(&self.dir, &name)?;
        let dir = self.dir.join(format!("{name}.store"));
        let store = Store::builder().node(&name).create(&dir)?;
        let server = store.serve("127.0.0.1:0", Tls::from_dir(self.dir.join(&name))?);
        let server = if self.compress { server.compress().start()? } else { server.start()? };
        let shaper = self.line.map(|line| Shaper::to(server.local_addr(), line)).transpose()?;
        self.next = Some(Hub { name, dir, server, store, shaper });
        Ok(())
    }

    fn link(&self) -> Outcome<&Link> {
        Ok(&self.hub.as_ref().ok_or("no mirror")?.1)
    }
}

impl Hub {
    fn end(self) -> Outcome<()> {
        self.server.stop();
        self.store.close(Duration::ZERO)?;
        Ok(fs::remove_dir_all(self.dir)?)
    }
}

impl Pair for Running {
    fn begin_mirror(&mut self) -> Outcome<()> {
        let hub = self.next.take().ok_or("no hub")?;
        let address = hub.shaper.as_ref().map_or(hub.server.local_addr(), Shaper::address);
        let tls = Tls::from_dir(self.dir.join(PRACTICE))?;
        let link = self.store.mirror_to(format!("{}@{address}", hub.name), tls);
        let link = if self.compress { link.compress().start()? } else { link.start()? };
        self.hub = Some((hub, link));
        Ok(())
    }

    fn end_mirror(&mut self) -> Outcome<()> {
        if let Some((hub, link)) = self.hub.take() {
            link.stop();
            hub.end()?;
            self.prepare()?;
        }
        Ok(())
    }

    fn append_many(&self, bodies: &[Body]) -> Outcome<()> {
        for body in bodies {
            let receipt = self.space.append(body)?;
            self.log.get_or_init(|| receipt.log());
        }
        self.appended.fetch_add(bodies.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn wait_mirrored(&self, count: u64) -> Outcome<()> {
        let link = self.link()?;
        if count <= self.appended.load(Ordering::Relaxed) {
            // It would be committed soon in any case.
            self.store.commit()?;
        }
        let is_there = || {
            let acks = self.log.get().map(|log| self.store.acks(*log)).unwrap_or_default();
            acks.iter().any(|ack| ack.node == *link.peer() && ack.head.next_seq.0 >= count)
        };
        while !is_there() {
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn waiter(&self) -> Outcome<Box<dyn Waiter + '_>> {
        Ok(Box::new(&self.space))
    }

    fn carried(&self) -> Option<(u64, u64)> {
        Some(self.hub.as_ref()?.0.shaper.as_ref()?.carried())
    }

    fn stop(mut self: Box<Self>) -> Outcome<()> {
        if let Some((hub, link)) = self.hub.take() {
            link.stop();
            hub.end()?;
        }
        self.next.take().map_or(Ok(()), Hub::end)?;
        self.store.close(Duration::ZERO)?;
        Ok(())
    }
}

impl Waiter for &Space {
    fn append_mirrored(&mut self, body: &[u8]) -> Outcome<()> {
        let asked = Durability::Mirrored(1);
        let reached = self.append(body)?.wait_timeout(asked, MIRRORED)?;
        if reached >= asked { Ok(()) } else { Err(format!("only {reached}").into()) }
    }
}
