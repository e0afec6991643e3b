//! Links over the network: from here to a node elsewhere.

use std::{
    future::poll_fn,
    sync::{Arc, Weak},
    time::Duration,
};

use counterfoil_replication::{
    Direction, Limits, Policy,
    net::{self, DialConfig, Target, Tls},
};
use counterfoil_storage::{Journal, NodeName};

use crate::{
    error::{Error, Result},
    space::names_or_own,
    status::{LinkEvent, LinkEvents, LinkShared, LinkState, LinkStatus},
    store::{Inner, LinkHandle, Store, lock},
};

impl Store {
    /// To mirror spaces of this store to a node elsewhere, in real time: `NODE@HOST:PORT`.
    ///
    /// Nothing happens until [`LinkBuilder::start`].
    pub fn mirror_to(&self, peer: impl Into<String>, tls: Tls) -> LinkBuilder {
        self.link_to(peer.into(), tls, Direction::Send)
    }

    /// To keep spaces of this store and of a node elsewhere (`NODE@HOST:PORT`) equal, in real time: each end streams
    /// what the other lacks, its own logs and those of others, over one connection. Logs of this node that a fire or an
    /// old backup cost it come back, too; it goes on writing in new ones.
    ///
    /// The policy of the node there must grant this one `read`, and `write` for its own logs; and `relay`, if it may
    /// have logs of others that the node there lacks. This node grants all of that to the node that it dials.
    ///
    /// Nothing happens until [`LinkBuilder::start`].
    ///
    /// ```no_run
    /// # use counterfoil::{Store, Tls};
    /// # use std::time::Duration;
    /// let store = Store::open("surgery-1.store")?;
    /// let link = store.sync_with("hub@hub.example:7400", Tls::from_dir("tls")?).spaces(["patients"]).start()?;
    /// if !link.wait_synced(Duration::from_secs(30)) {
    ///     eprintln!("the hub lacks {}, this store {} records", link.status().lag, link.status().behind_records);
    /// }
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    pub fn sync_with(&self, peer: impl Into<String>, tls: Tls) -> LinkBuilder {
        self.link_to(peer.into(), tls, Direction::Both)
    }

    fn link_to(&self, peer: String, tls: Tls, direction: Direction) -> LinkBuilder {
        let (inner, spaces) = (Arc::clone(&self.inner), Spaces::Named(Vec::new()));
        LinkBuilder { inner, peer, tls, direction, spaces, compress: false }
    }
}

/// A link to be started.
#[derive(Debug)]
#[must_use = "a link begins with `start`"]
pub struct LinkBuilder {
    inner: Arc<Inner>,
    peer: String,
    tls: Tls,
    direction: Direction,
    spaces: Spaces,
    compress: bool,
}

/// What a link carries.
#[derive(Debug)]
enum Spaces {
    /// These; the one that bears the node's own name if there is none.
    Named(Vec<String>),
    /// All that the store has and will have.
    All,
}

impl LinkBuilder {
    /// The spaces to carry. Default: the one that bears this node's own name.
    pub fn spaces(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names = names.into_iter().map(Into::into);
        self.spaces = match self.spaces {
            Spaces::Named(named) => Spaces::Named(named.into_iter().chain(names).collect()),
            Spaces::All => Spaces::Named(names.collect()),
        };
        self
    }

    /// To carry all spaces of the store, also those that come into being while the link lives: a hub that mirrors onward
    /// what others stream to it. Of what only the node at the other end has, no space is asked for: name it. Replaces
    /// what [`spaces`](Self::spaces) named.
    pub fn all_spaces(mut self) -> Self {
        self.spaces = Spaces::All;
        self
    }

    /// Compresses what is said to the peer, if that takes it: one Zstandard stream for the whole connection. Default: not.
    ///
    /// What was said together is sent at once all the same. FHIR records that are mirrored one by one take a fifth of
    /// their bytes, TLS and all; on a fast network it costs more than it saves. What comes back is the peer's to
    /// compress: see [`ServerBuilder::compress`](crate::ServerBuilder::compress).
    ///
    /// **Secrets**: who sees the *lengths* of what goes over the line, and can have records of their choice mirrored on the
    /// same link, can guess at what else went over it shortly before or after (as CRIME and BREACH do for the web). Where a
    /// link carries the records of some who must not know those of others, leave it off, or give each a link.
    #[cfg(feature = "zstd")]
    pub fn compress(mut self) -> Self {
        self.compress = true;
        self
    }

    /// Starts the link in the background and returns at once, whether or not the peer can be
    /// reached: the link goes on trying until it is stopped.
    ///
    /// # Errors
    ///
    /// The peer or a space is not well named; the peer is this node; another link carries one of the spaces to it; the
    /// certificate is another node's; the store is closed.
    pub fn start(self) -> Result<Link> {
        let target: Target = self.peer.parse()?;
        let own = self.inner.journal.identity().node.clone();
        if target.node == own {
            return Err(Error::SameNode { node: own });
        }
        let spaces = match &self.spaces {
            Spaces::Named(names) => names_or_own(names, &own)?,
            Spaces::All => self.inner.journal.spaces(),
        };
        let all_spaces = matches!(self.spaces, Spaces::All);
        let linking = lock(&self.inner.linking);
        self.inner.check_unlinked(&target.node, &spaces, all_spaces)?;
        let direction = self.direction;
        let shared = LinkShared::new(target.node.clone(), spaces.clone(), direction);
        let config = DialConfig {
            target,
            journal: self.inner.journal.clone(),
            tls: self.tls,
            spaces: spaces.into_iter().map(|space| (space, direction)).collect(),
            policy: Arc::new(Policy::nothing()),
            limits: Limits::default(),
            acks: Arc::clone(self.inner.acks.board()),
            compress: self.compress,
        };
        let dialling = dial(&self.inner, config, &shared)?;
        let link = Arc::downgrade(&dialling);
        shared.measure_behind(move || link.upgrade().map_or(0, |link| behind_records(&link)));
        if all_spaces {
            let (journal, link) = (self.inner.journal.clone(), Arc::downgrade(&dialling));
            self.inner.runtime.handle()?.spawn(bring_new_spaces(journal, link, Arc::clone(&shared)));
        }
        let stop = {
            let dialling = Arc::clone(&dialling);
            Box::new(move || dialling.stop())
        };
        self.inner.add_link(LinkHandle { shared: Arc::clone(&shared), is_source: true, all_spaces, stop });
        drop(linking);
        Ok(Link { inner: self.inner, shared, dialling })
    }
}

/// Starts the driver. It holds parts of the store, never the store.
fn dial(inner: &Inner, config: DialConfig, shared: &Arc<LinkShared>) -> Result<Arc<net::Link>> {
    let (acks, shared) = (Arc::clone(&inner.acks), Arc::clone(shared));
    let target = config.target.clone();
    let runtime = inner.runtime.handle()?;
    let _in_runtime = runtime.enter();
    let link = net::dial(config, move |event| match event {
        net::LinkEvent::Session(event) => {
            for event in acks.hear(&shared.peer, event) {
                if shared.hear(event) {
                    acks.touch();
                }
            }
        }
        net::LinkEvent::State(net::LinkState::Waiting { reason, is_lasting, .. }) => {
            shared.set_state(LinkState::Connecting);
            // Whose certificate, for one, must be told: the reason speaks of the peer as "it".
            shared.tell(LinkEvent::Disconnected { reason: format!("{target}: {reason}") });
            if is_lasting {
                shared.set_stuck();
                acks.touch();
            }
        }
        net::LinkEvent::Silent => {
            shared.set_silent(format!("{target}: it accepts the connection but does not answer"));
        }
        // `Connected` comes with the session's own event, `Stopped` from the store.
        _ => {}
    })?;
    Ok(Arc::new(link))
}

/// Records that the peer says it has and this store has not.
fn behind_records(link: &net::Link) -> u64 {
    let spaces = link.status().session.map(|session| session.spaces);
    spaces.into_iter().flatten().map(|space| space.behind_records).sum()
}

/// Has a link carry each space that comes into being, as long as there is the link.
async fn bring_new_spaces(journal: Journal, link: Weak<net::Link>, shared: Arc<LinkShared>) {
    let mut watch = journal.watch(None);
    let mut known = None;
    while let Some(link) = link.upgrade().filter(|_| shared.state() != LinkState::Stopped) {
        // A space is new only if a log is; nearly all that is told is growth of logs that are there.
        let logs = Some(journal.stats().logs);
        if logs != std::mem::replace(&mut known, logs) {
            for space in journal.spaces().iter().filter(|space| shared.add_space(space)) {
                link.bring(space, shared.direction);
            }
        }
        drop(link);
        poll_fn(|cx| watch.poll_changed(cx)).await;
    }
}

/// A link that carries records to another node. Cheap to clone.
///
/// It goes on until [`stop`](Self::stop), or until the store is closed; dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Link {
    inner: Arc<Inner>,
    shared: Arc<LinkShared>,
    dialling: Arc<net::Link>,
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

    /// Waits until the peer has durably all that is durable here now, and this store all that the peer had durable when
    /// the two ends got in touch; false when `timeout` is over. On a mirror, the same as
    /// [`wait_mirrored`](Self::wait_mirrored).
    pub fn wait_synced(&self, timeout: Duration) -> bool {
        self.inner.wait_link_synced(&self.shared, timeout)
    }

    /// Whether all that the link is for is done, or may still get on: false if all that is lacking at either end is of
    /// logs that are parked and spaces that are refused, or if the link [is stuck](LinkStatus::is_stuck).
    pub fn is_moving(&self) -> bool {
        self.inner.is_link_moving(&self.shared)
    }

    /// Tries again at once if it is pausing: the network is back.
    pub fn retry_now(&self) {
        self.dialling.retry_now();
    }

    /// Uses another certificate from the next connection on.
    ///
    /// # Errors
    ///
    /// It is another node's.
    pub fn set_tls(&self, tls: Tls) -> Result<()> {
        Ok(self.dialling.set_tls(tls)?)
    }

    /// Ends it. What the peer lacks stays here and goes with the next link.
    pub fn stop(&self) {
        self.inner.stop_links(|link| std::ptr::eq(link, &raw const *self.shared));
    }
}
