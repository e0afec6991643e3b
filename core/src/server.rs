//! Serving other nodes.

use std::{
    fmt,
    mem::{self, Discriminant},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Instant,
};

use counterfoil_replication::{
    LogLimit, Policy,
    net::{self, ListenConfig, Listener, Tls},
};
use counterfoil_storage::{AppendError, NodeName};

use crate::{
    error::Result,
    status::LinkEvent,
    store::{Inner, Store},
};

impl Store {
    /// To let other nodes connect to this store, at `HOST:PORT`; port 0 picks a free one.
    ///
    /// Nothing happens until [`ServerBuilder::start`].
    pub fn serve(&self, address: impl Into<String>, tls: Tls) -> ServerBuilder {
        ServerBuilder {
            inner: Arc::clone(&self.inner),
            address: address.into(),
            tls,
            policy: Policy::own_space_only(),
            on_event: None,
            compress: false,
        }
    }
}

type OnEvent = Box<dyn Fn(&NodeName, LinkEvent) + Send + Sync>;

/// A server to be started.
#[must_use = "a server begins with `start`"]
pub struct ServerBuilder {
    inner: Arc<Inner>,
    address: String,
    tls: Tls,
    policy: Policy,
    on_event: Option<OnEvent>,
    compress: bool,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ServerBuilder {
    /// What other nodes may do. Default: each may read and write the space that bears its own name.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Told what happens with each peer, by the peer's name. It is called from the server's own
    /// threads: it must not wait for anything, nor hold the store, which would keep itself open.
    pub fn on_event(mut self, told: impl Fn(&NodeName, LinkEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Box::new(told));
        self
    }

    /// Compresses what is said to peers, to those that take it: see [`LinkBuilder::compress`](crate::LinkBuilder::compress),
    /// also for when not to. Default: not; what peers say they compress as they like.
    #[cfg(feature = "zstd")]
    pub fn compress(mut self) -> Self {
        self.compress = true;
        self
    }

    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// The address can't be bound; the certificate is another node's; the store is closed.
    pub fn start(self) -> Result<Server> {
        let Self { inner, address, tls, policy, on_event, compress } = self;
        let config = ListenConfig {
            journal: inner.journal.clone(),
            tls: tls.clone(),
            policy: Arc::new(policy),
            limits: counterfoil_replication::Limits::default(),
            bounds: net::ListenBounds::default(),
            acks: Arc::clone(inner.acks.board()),
            compress,
        };
        let acks = Arc::clone(&inner.acks);
        let log = PeerLog::default();
        let events = move |peer: &NodeName, event| {
            let events = acks.hear(peer, event).into_iter();
            for event in events.filter_map(|event| LinkEvent::of_session(event, peer)) {
                log.write(peer, &event);
                if let Some(told) = &on_event {
                    told(peer, event);
                }
            }
        };
        // Not `block_on`: the caller may be a thread of another runtime.
        let (tell, bound) = mpsc::sync_channel(1);
        inner.runtime.handle()?.spawn(async move {
            let listener = net::listen(&address, config, events).await;
            // Nobody to tell: the caller's thread has ended.
            let _ = tell.send(listener);
        });
        let listener = Arc::new(bound.recv().map_err(|mpsc::RecvError| AppendError::Closed)??);
        inner.add_server(Arc::clone(&listener));
        Ok(Server { inner, listener, tls: Arc::new(Mutex::new(tls)) })
    }
}

/// The log of what happens with peers. None of them can fill it: of one kind of trouble of one peer so many lines come,
/// then their number.
#[derive(Debug, Default)]
struct PeerLog(Mutex<LogLimit<(NodeName, Discriminant<LinkEvent>)>>);

impl PeerLog {
    fn write(&self, peer: &NodeName, event: &LinkEvent) {
        let kind = (peer.clone(), mem::discriminant(event));
        let due = self.0.lock().unwrap_or_else(PoisonError::into_inner).note(now(), kind);
        let Some(unlogged) = due else { return };
        if unlogged > 0 {
            tracing::warn!(%peer, unlogged, "lines like the next were left out");
        }
        event.log(peer);
    }
}

#[expect(clippy::disallowed_methods, reason = "lines of a log are rationed by the clock")]
fn now() -> Instant {
    Instant::now()
}

/// A node that is connected to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its name, as its certificate proved.
    pub node: NodeName,
    /// Where it comes from.
    pub address: SocketAddr,
}

/// Lets other nodes connect. Cheap to clone.
///
/// It goes on until [`stop`](Self::stop), or until the store is closed; dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Server {
    inner: Arc<Inner>,
    listener: Arc<Listener>,
    tls: Arc<Mutex<Tls>>,
}

impl Server {
    /// Where it listens: the port that was picked if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// The nodes connected now.
    pub fn peers(&self) -> Vec<Peer> {
        let peers = self.listener.peers().into_iter();
        peers.map(|peer| Peer { node: peer.node, address: peer.address }).collect()
    }

    /// Changes what other nodes may do, also those connected: who is denied now is cut off.
    pub fn set_policy(&self, policy: Policy) {
        self.listener.set_policy(&Arc::new(policy));
    }

    /// Changes certificates and key for the connections to come, and cuts off the nodes that these
    /// would not let in.
    ///
    /// # Errors
    ///
    /// The certificate is another node's; the old one stays in use.
    pub fn set_tls(&self, tls: Tls) -> Result<()> {
        self.listener.set_tls(tls.clone())?;
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
        Ok(())
    }

    /// Reads certificates and key again from the folder they came from: see [`set_tls`](Self::set_tls).
    ///
    /// # Errors
    ///
    /// A file can't be read or used: all stays as it was. Else as of [`set_tls`](Self::set_tls).
    pub fn reload_tls(&self) -> Result<()> {
        let tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner).reload()?;
        self.set_tls(tls)
    }

    /// Stops listening, which leaves the address to others at once, and ends all connections.
    pub fn stop(&self) {
        self.inner.stop_servers(|listener| Arc::ptr_eq(listener, &self.listener));
    }
}
