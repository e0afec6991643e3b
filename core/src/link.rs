//! Links over the network: from here to a node elsewhere.

use std::{sync::Arc, time::Duration};

use counterfoil_storage::NodeName;

use crate::{
    address::PeerAddress,
    error::{Error, Result},
    space::names_or_own,
    status::{LinkEvents, LinkShared, LinkStatus},
    store::{Inner, Store},
    tls::Tls,
};

impl Store {
    /// To mirror spaces of this store to a node elsewhere, in real time: `NODE@HOST:PORT`.
    ///
    /// Nothing happens until [`LinkBuilder::start`].
    pub fn mirror_to(&self, peer: impl Into<String>, tls: Tls) -> LinkBuilder {
        LinkBuilder { inner: Arc::clone(&self.inner), peer: peer.into(), tls, spaces: Vec::new() }
    }
}

/// A link to be started.
#[derive(Debug)]
#[must_use = "a link begins with `start`"]
pub struct LinkBuilder {
    inner: Arc<Inner>,
    peer: String,
    tls: Tls,
    spaces: Vec<String>,
}

impl LinkBuilder {
    /// The spaces to carry. Default: the one that bears this node's own name.
    pub fn spaces(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spaces.extend(names.into_iter().map(Into::into));
        self
    }

    /// Starts the link in the background and returns at once, whether or not the peer can be
    /// reached: the link goes on trying until it is stopped.
    ///
    /// # Errors
    ///
    /// The peer or a space is not well named; the peer is this node; the store is closed.
    pub fn start(self) -> Result<Link> {
        let peer: PeerAddress = self.peer.parse()?;
        let own = self.inner.journal.identity().node.clone();
        if *peer.node() == own {
            return Err(Error::SameNode { node: own });
        }
        let spaces = names_or_own(&self.spaces, &own)?;
        let shared = LinkShared::new(peer.node().clone(), spaces);
        let _ = (self.tls, self.inner.runtime.handle()?);
        Ok(Link { inner: self.inner, shared })
    }
}

/// A link that carries records to another node. Cheap to clone.
///
/// It goes on until [`stop`](Self::stop), or until the store is closed; dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Link {
    inner: Arc<Inner>,
    shared: Arc<LinkShared>,
}

impl Link {
    /// The node at the other end.
    pub fn peer(&self) -> &NodeName {
        &self.shared.peer
    }

    /// How it is: in touch or not, and what the peer lacks.
    pub fn status(&self) -> LinkStatus {
        self.inner.link_status(&self.shared)
    }

    /// What has happened on it, and what will.
    pub fn events(&self) -> LinkEvents {
        LinkEvents::new(Arc::clone(&self.shared))
    }

    /// Waits until the peer has durably all that is durable here now; false when `timeout` is over.
    pub fn wait_mirrored(&self, timeout: Duration) -> bool {
        self.inner.wait_link_mirrored(&self.shared, timeout)
    }

    /// Ends it. What the peer lacks stays here and goes with the next link.
    pub fn stop(&self) {
        self.inner.stop_links(|link| std::ptr::eq(link, &raw const *self.shared));
    }
}
