//! Serving other nodes.

use std::{net::SocketAddr, sync::Arc};

use counterfoil_replication::Policy;

use crate::{
    error::Result,
    store::{Inner, Store},
    tls::Tls,
};

impl Store {
    /// To let other nodes connect to this store, at `HOST:PORT`; port 0 picks a free one.
    ///
    /// Nothing happens until [`ServerBuilder::start`].
    pub fn serve(&self, address: impl Into<String>, tls: Tls) -> ServerBuilder {
        ServerBuilder { inner: Arc::clone(&self.inner), address: address.into(), tls, policy: Policy::own_space_only() }
    }
}

/// A server to be started.
#[derive(Debug)]
#[must_use = "a server begins with `start`"]
pub struct ServerBuilder {
    inner: Arc<Inner>,
    address: String,
    tls: Tls,
    policy: Policy,
}

impl ServerBuilder {
    /// What other nodes may do. Default: each may read and write the space that bears its own name.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// The address can't be bound; the store is closed.
    pub fn start(self) -> Result<Server> {
        let _ = (self.address, self.tls, self.policy, self.inner.runtime.handle()?);
        todo!("replication::net")
    }
}

/// Lets other nodes connect. Cheap to clone.
///
/// It goes on until [`stop`](Self::stop), or until the store is closed; dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Server {
    local_addr: SocketAddr,
}

impl Server {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Changes what other nodes may do, also those connected: who is denied now is cut off.
    pub fn set_policy(&self, policy: Policy) {
        drop(policy);
        todo!("replication::net")
    }

    /// Changes certificates and key for the connections to come.
    pub fn set_tls(&self, tls: Tls) {
        drop(tls);
        todo!("replication::net")
    }

    /// Reads certificates and key again from the folder they came from, for the connections to come.
    pub fn reload(&self) -> Result<()> {
        todo!("replication::net")
    }

    /// The nodes connected now, in order.
    pub fn peers(&self) -> Vec<counterfoil_storage::NodeName> {
        todo!("replication::net")
    }

    /// Stops listening and ends all connections.
    pub fn stop(&self) {
        todo!("replication::net")
    }
}
