//! A store in memory with one log, for the tests of the drivers.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use counterfoil_replication::{
    AckBoard, Direction, Endpoint, Event, Limits, Policy, SessionConfig,
    net::{DialConfig, Link, LinkEvent, ListenBounds, ListenConfig, Listener, Target, Tls, dial, listen},
};
use counterfoil_storage::{Genesis, Head, Journal, LogId, LogWriter, NodeName, Options, Seq, SpaceName, vfs::Memory};

use crate::authority::Authority;

pub(crate) fn name(node: &str) -> NodeName {
    NodeName::new(node).unwrap()
}

pub(crate) fn space(space: &str) -> SpaceName {
    SpaceName::new(space).unwrap()
}

/// A store whose node writes to the space that bears its name.
pub(crate) struct Node {
    pub(crate) journal: Journal,
    pub(crate) writer: LogWriter,
    pub(crate) log: LogId,
}

impl Node {
    /// A store that commits by itself.
    pub(crate) fn new(node: &str) -> Self {
        Self::with(node, true)
    }

    /// A store without threads: nothing is durable until [`Journal::commit`] is called.
    pub(crate) fn by_hand(node: &str) -> Self {
        Self::with(node, false)
    }

    fn with(node: &str, background: bool) -> Self {
        let mut options = Options::default();
        options.vfs = Arc::new(Memory::default());
        options.background = background;
        let journal = Journal::create(Path::new("store"), name(node), options).unwrap();
        let nonce = *journal.identity().incarnation.as_bytes();
        let log = journal.create_log(Genesis::new(space(node), name(node), nonce)).unwrap();
        let writer = journal.writer(log).unwrap();
        Self { journal, writer, log }
    }

    /// Appends records of a kilobyte, one commit for all, and makes them durable.
    pub(crate) fn append(&self, count: usize) -> Head {
        let bodies: Vec<_> = (0..count).map(|n| format!("{n:01024}")).collect();
        self.writer.append_all(&bodies).unwrap();
        self.journal.commit().unwrap();
        self.head(self.log).unwrap()
    }

    /// Where a log durably ends here.
    pub(crate) fn head(&self, log: LogId) -> Option<Head> {
        self.journal.log(log).map(|log| log.durable)
    }

    /// Bodies of all records of a log, as read from here.
    pub(crate) fn bodies(&self, log: LogId) -> Vec<Vec<u8>> {
        self.journal
            .read(log, Seq::ZERO)
            .flat_map(|batch| batch.unwrap().records().map(|record| record.unwrap().body.to_vec()).collect::<Vec<_>>())
            .collect()
    }

    /// This end of a session with `peer`.
    pub(crate) fn endpoint(&self, peer: &str, spaces: &[(&str, Direction)], policy: Policy) -> Endpoint {
        let identity = self.journal.identity();
        let config = SessionConfig {
            local: identity.node.clone(),
            incarnation: identity.incarnation,
            peer: name(peer),
            spaces: spaces.iter().map(|(name, direction)| (space(name), *direction)).collect(),
            policy: Arc::new(policy),
            limits: Limits::default(),
        };
        Endpoint::new(self.journal.clone(), config, tokio::time::Instant::now().into_std())
    }
}

/// A test that has not got on after this long hangs: no machine is so busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until something holds; fails if it does not within a time that is long for anything but a mistake.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waited).await.is_ok(), "{what}");
}

/// Limits that end no session because this machine stood still for a while: how many there were is told by the tests.
fn patient() -> Limits {
    let mut limits = Limits::default();
    limits.handshake_timeout = PATIENCE;
    (limits.heartbeat_busy, limits.heartbeat_idle) = (PATIENCE, PATIENCE);
    limits
}

/// A hub that listens on a port of this machine, with a certificate of `authority`.
pub(crate) async fn listen_as(hub: &Node, authority: &Authority, address: &str, policy: Policy) -> Listener {
    listen_within(hub, authority, address, policy, |_| {}).await
}

/// The same with other bounds.
pub(crate) async fn listen_within(
    hub: &Node,
    authority: &Authority,
    address: &str,
    policy: Policy,
    change: impl FnOnce(&mut ListenBounds),
) -> Listener {
    let tls = authority.tls(hub.journal.identity().node.as_str());
    let mut bounds = ListenBounds::default();
    bounds.handshake_timeout = PATIENCE;
    bounds.handshakes_max = 8;
    bounds.handshakes_per_address_max = 4;
    change(&mut bounds);
    let (journal, policy, limits) = (hub.journal.clone(), Arc::new(policy), patient());
    let acks = AckBoard::new(journal.identity().node.clone());
    listen(address, ListenConfig { journal, tls, policy, limits, bounds, acks, compress: false }, |_, _| {})
        .await
        .unwrap()
}

/// A link that mirrors the node's own space to `target`, and the heads that were acknowledged on it.
pub(crate) fn link(node: &Node, tls: Tls, target: &str, port: u16) -> (Link, Arc<Mutex<Vec<Head>>>) {
    let acked = Arc::new(Mutex::new(Vec::new()));
    let sink = acked.clone();
    let link = link_telling(node, tls, target, port, move |event| {
        if let LinkEvent::Session(Event::Acked { head, .. }) = event {
            sink.lock().unwrap().push(head);
        }
    });
    (link, acked)
}

/// A link that mirrors the node's own space to `target` and tells what happens on it.
pub(crate) fn link_telling(
    node: &Node,
    tls: Tls,
    target: &str,
    port: u16,
    tell: impl Fn(LinkEvent) + Send + Sync + 'static,
) -> Link {
    let target: Target = format!("{target}@127.0.0.1:{port}").parse().unwrap();
    let spaces = vec![(space(node.journal.identity().node.as_str()), Direction::Send)];
    let (journal, policy, limits) = (node.journal.clone(), Arc::new(Policy::nothing()), patient());
    let acks = AckBoard::new(journal.identity().node.clone());
    dial(DialConfig { target, journal, tls, spaces, policy, limits, acks, compress: false }, tell).unwrap()
}
