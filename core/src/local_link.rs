//! A link between two stores of one process: for tests of applications.

use std::{
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Waker},
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use counterfoil_replication::{
    Commit, Direction, Endpoint, Event, Limits, Message, Policy, SessionConfig, SessionError, codec,
};
use counterfoil_storage::{Identity, Journal, NodeName, SpaceName};

use crate::{
    acks::Acks,
    error::{Error, Result},
    receipt::Unpark,
    space::names_or_own,
    status::{LinkEvent, LinkEvents, LinkShared, LinkState, LinkStatus},
    store::{Inner, LinkHandle, Store, lock},
};

impl Store {
    /// To mirror spaces of this store to another store of this process, without a network, by the
    /// same protocol: for tests of applications.
    ///
    /// ```
    /// use std::time::Duration;
    /// use counterfoil::{Durability, Store};
    ///
    /// let practice = Store::builder().node("practice-12").in_memory()?;
    /// let hub = Store::builder().node("hub").in_memory()?;
    /// let link = practice.mirror_in_process(&hub).start()?;
    ///
    /// link.cut();
    /// let receipt = practice.own_space()?.append("while the line was cut")?;
    /// receipt.wait(Durability::Local)?;
    /// let reached = receipt.wait_timeout(Durability::Mirrored(1), Duration::from_millis(5))?;
    /// assert_eq!(reached, Durability::Local);
    /// link.heal();
    /// receipt.wait(Durability::Mirrored(1))?;
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    pub fn mirror_in_process(&self, target: &Store) -> LocalLinkBuilder {
        self.link_in_process(target, Direction::Send)
    }

    /// To keep spaces of this store and of another store of this process equal, like a sync over the network: see
    /// [`mirror_in_process`](Self::mirror_in_process). The link is one of both stores' links.
    ///
    /// ```
    /// use std::time::Duration;
    /// use counterfoil::{Durability, Store};
    ///
    /// let [one, other] = ["surgery-1", "surgery-2"].map(|name| Store::builder().node(name).in_memory());
    /// let (one, other) = (one?, other?);
    /// let link = one.sync_in_process(&other).spaces(["patients"]).start()?;
    ///
    /// link.cut();
    /// one.space("patients")?.append("seen here")?.wait(Durability::Local)?;
    /// other.space("patients")?.append("seen there")?.wait(Durability::Local)?;
    /// link.heal();
    /// assert!(link.wait_synced(Duration::from_secs(60)));
    /// assert_eq!(one.space("patients")?.logs().len(), 2);
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    pub fn sync_in_process(&self, other: &Store) -> LocalLinkBuilder {
        self.link_in_process(other, Direction::Both)
    }

    fn link_in_process(&self, target: &Store, direction: Direction) -> LocalLinkBuilder {
        let (source, target) = (Arc::clone(&self.inner), Arc::clone(&target.inner));
        LocalLinkBuilder { source, target, direction, spaces: Vec::new() }
    }
}

/// An in-process link to be started.
#[derive(Debug)]
#[must_use = "a link begins with `start`"]
pub struct LocalLinkBuilder {
    source: Arc<Inner>,
    target: Arc<Inner>,
    direction: Direction,
    spaces: Vec<String>,
}

impl LocalLinkBuilder {
    /// The spaces to carry. Default: the one that bears the source node's own name.
    pub fn spaces(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spaces.extend(names.into_iter().map(Into::into));
        self
    }

    /// Starts the link, on a thread of its own.
    ///
    /// # Errors
    ///
    /// A space is not well named; both stores are the same node; another link carries one of the spaces to the other
    /// store; no thread can be had.
    pub fn start(self) -> Result<LocalLink> {
        let node = self.source.journal.identity().node.clone();
        let peer = self.target.journal.identity().node.clone();
        if node == peer {
            return Err(Error::SameNode { node });
        }
        let spaces = names_or_own(&self.spaces, &node)?;
        let source = Arc::clone(&self.source);
        let linking = lock(&source.linking);
        self.source.check_unlinked(&peer, &spaces, false)?;
        if self.direction.receives() {
            self.target.check_unlinked(&node, &spaces, false)?;
        }
        let control = Arc::new(Control::default());
        let shareds = [peer, node].map(|peer| LinkShared::new(peer, spaces.clone(), self.direction));
        let inners = [&self.source, &self.target];
        for (shared, [near, far]) in shareds.iter().zip([inners, [inners[1], inners[0]]]) {
            let (near, far) = (near.journal.clone(), Arc::downgrade(far));
            let spaces = spaces.clone();
            shared.measure_behind(move || far.upgrade().map_or(0, |far| behind_records(&near, &far.journal, &spaces)));
        }
        let pump = Pump::new(inners, &shareds, Arc::clone(&control));
        let thread = thread::Builder::new()
            .name("counterfoil-link".to_owned())
            .spawn(move || pump.run())
            .map_err(|error| Error::System { what: "starting the thread of a link".to_owned(), error })?;
        for (inner, (shared, is_source)) in
            inners.into_iter().zip(shareds.iter().zip([true, self.direction.receives()]))
        {
            let control = Arc::clone(&control);
            let stop = Box::new(move || control.set(Wish::Stopped));
            inner.add_link(LinkHandle { shared: Arc::clone(shared), is_source, all_spaces: false, stop });
        }
        drop(linking);
        let ([shared, far_shared], far) = (shareds, Arc::downgrade(&self.target));
        Ok(LocalLink {
            source: self.source,
            shared,
            far,
            far_shared,
            control,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }
}

/// Records of some spaces that are durable at one end and not at the other.
fn behind_records(near: &Journal, far: &Journal, spaces: &[SpaceName]) -> u64 {
    let there = spaces.iter().flat_map(|space| far.logs(Some(space)));
    let lacking = there.map(|info| {
        let here = near.log(info.id).map_or(0, |here| here.durable.next_seq.0);
        info.durable.next_seq.0.saturating_sub(here)
    });
    lacking.sum()
}

/// A link between two stores of one process. Cheap to clone.
///
/// It goes on until [`stop`](Self::stop), or until one of the stores is closed; dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct LocalLink {
    source: Arc<Inner>,
    shared: Arc<LinkShared>,
    /// The other end, which the link does not keep open.
    far: Weak<Inner>,
    far_shared: Arc<LinkShared>,
    control: Arc<Control>,
    /// Until somebody has waited for its end.
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl LocalLink {
    /// Cuts the line: what is on its way is lost, and from the return on nothing goes through until
    /// [`heal`](Self::heal).
    pub fn cut(&self) {
        self.control.set(Wish::Cut);
        let is_up = |state| matches!(state, LinkState::Connecting | LinkState::Connected);
        self.shared.wait_while(|state| is_up(state) && self.control.wish() == Wish::Cut);
    }

    /// Mends the line: both ends begin a new session.
    pub fn heal(&self) {
        self.control.set(Wish::Up);
        self.shared.touch();
    }

    /// How it is: in touch or not, and what the target lacks.
    pub fn status(&self) -> LinkStatus {
        self.source.link_status(&self.shared)
    }

    /// What has happened on it, and what will.
    pub fn events(&self) -> LinkEvents {
        LinkEvents::new(Arc::clone(&self.shared))
    }

    /// Waits until the target has durably all that is durable at the source now; false when
    /// `timeout` is over.
    pub fn wait_mirrored(&self, timeout: Duration) -> bool {
        self.source.wait_link_mirrored(&self.shared, timeout)
    }

    /// Waits until each end has durably all that is durable at the other now; false when `timeout` is over. On a mirror
    /// the same as [`wait_mirrored`](Self::wait_mirrored).
    pub fn wait_synced(&self, timeout: Duration) -> bool {
        let began_at = now();
        if !self.source.wait_link_synced(&self.shared, timeout) {
            return false;
        }
        let left = timeout.saturating_sub(began_at.elapsed());
        let far = self.far.upgrade().filter(|_| self.shared.direction.receives());
        far.is_none_or(|far| far.wait_link_synced(&self.far_shared, left))
    }

    /// Ends it, for both stores: from the return on nothing goes through, and another link may be started. Waits for what it is
    /// doing, which may be a commit.
    pub fn stop(&self) {
        self.control.set(Wish::Stopped);
        // Not for itself, should a waker of an application's have led here.
        if self.control.thread.get().is_none_or(|thread| thread.id() != thread::current().id()) {
            // If it panicked it has ended too, and the panic has been told.
            let _ = lock(&self.thread).take().map(JoinHandle::join);
        }
        self.source.stop_links(|link| std::ptr::eq(link, &raw const *self.shared));
        if let Some(far) = self.far.upgrade() {
            far.stop_links(|link| std::ptr::eq(link, &raw const *self.far_shared));
        }
    }
}

/// What the handles want of the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Wish {
    Up,
    Cut,
    Stopped,
}

#[derive(Debug, Default)]
struct Control {
    /// A [`Wish`].
    wish: AtomicU8,
    thread: OnceLock<Thread>,
}

impl Control {
    /// Sets the wish, unless it is final.
    fn set(&self, wish: Wish) {
        let is_final = |now| now == Wish::Stopped as u8;
        let set = |now| (!is_final(now)).then_some(wish as u8);
        // An error only says that the wish was final.
        let _ = self.wish.fetch_update(Ordering::AcqRel, Ordering::Acquire, set);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn wish(&self) -> Wish {
        match self.wish.load(Ordering::Acquire) {
            up if up == Wish::Up as u8 => Wish::Up,
            cut if cut == Wish::Cut as u8 => Wish::Cut,
            _ => Wish::Stopped,
        }
    }
}

/// After how long a failed session is begun again.
const RETRY: Duration = Duration::from_millis(100);

/// The thread of a link: two endpoints, and what lies between them.
struct Pump {
    ends: [End; 2],
    control: Arc<Control>,
}

/// One end. It holds the journal, not the store: a store whose handles are gone stops the link.
struct End {
    journal: Journal,
    acks: Arc<Acks>,
    config: SessionConfig,
    shared: Arc<LinkShared>,
}

impl End {
    fn new(inner: &Inner, peer: &Identity, shared: &Arc<LinkShared>, direction: Direction) -> Self {
        let identity = inner.journal.identity();
        let config = SessionConfig {
            local: identity.node.clone(),
            incarnation: identity.incarnation,
            peer: peer.node.clone(),
            spaces: shared.spaces().into_iter().map(|space| (space, direction)).collect(),
            policy: Arc::new(Policy::nothing()),
            limits: Limits::default(),
        };
        let journal = inner.journal.clone();
        Self { journal, acks: Arc::clone(&inner.acks), config, shared: Arc::clone(shared) }
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver of two endpoints tells them the time")]
fn now() -> Instant {
    Instant::now()
}

impl Pump {
    fn new([source, target]: [&Arc<Inner>; 2], shareds: &[Arc<LinkShared>; 2], control: Arc<Control>) -> Self {
        let [sender, receiver] = [source.journal.identity(), target.journal.identity()];
        let back = if shareds[0].direction.receives() { Direction::Both } else { Direction::Receive };
        let ends = [
            End::new(source, receiver, &shareds[0], shareds[0].direction),
            End::new(target, sender, &shareds[1], back),
        ];
        Self { ends, control }
    }

    fn set_state(&self, state: LinkState) {
        self.ends.iter().for_each(|end| end.shared.set_state(state));
    }

    fn run(mut self) {
        drop(self.control.thread.set(thread::current()));
        loop {
            match self.control.wish() {
                Wish::Stopped => break,
                Wish::Cut => {
                    self.set_state(LinkState::Cut);
                    thread::park();
                }
                Wish::Up => {
                    self.set_state(LinkState::Connecting);
                    let ended = self.session();
                    let state = match self.control.wish() {
                        Wish::Up => LinkState::Connecting,
                        Wish::Cut => LinkState::Cut,
                        Wish::Stopped => break,
                    };
                    self.set_state(state);
                    let reason = ended.map_or_else(|error| error.to_string(), |()| "the line was cut".to_owned());
                    self.ends
                        .iter()
                        .for_each(|end| end.shared.tell(LinkEvent::Disconnected { reason: reason.clone() }));
                    if self.control.wish() == Wish::Up {
                        thread::park_timeout(RETRY);
                    }
                }
            }
        }
    }

    /// Runs one session until it fails or is not wanted any more.
    fn session(&mut self) -> Result<(), SessionError> {
        let begin = |end: &End| {
            // It may have begun another life since the last session.
            let config = SessionConfig { incarnation: end.journal.identity().incarnation, ..end.config.clone() };
            Endpoint::new(end.journal.clone(), config, now()).with_acks(end.acks.board())
        };
        let mut endpoints = [begin(&self.ends[0]), begin(&self.ends[1])];
        let mut line = BytesMut::new();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        while self.control.wish() == Wish::Up {
            let mut is_busy = false;
            for index in [0, 1] {
                let [near, far] = two(&mut endpoints, index);
                is_busy |= feed(near, &waker)?;
                if let Some(message) = near.poll_transmit() {
                    carry(message, &self.ends[index].config.local, far, &mut line)?;
                    is_busy = true;
                }
                while let Some(event) = near.poll_event() {
                    is_busy = true;
                    self.hear(index, event);
                }
                near.check_rewound()?;
            }
            if !is_busy {
                wait(&endpoints);
            }
        }
        Ok(())
    }

    fn hear(&self, index: usize, event: Event) {
        let End { acks, config, shared, .. } = &self.ends[index];
        for event in acks.hear(&config.peer, event) {
            if shared.hear(event) {
                acks.touch();
            }
        }
    }
}

impl Drop for Pump {
    /// Also if the thread panics: nobody waits for a thread that is gone.
    fn drop(&mut self) {
        self.set_state(LinkState::Stopped);
    }
}

/// The endpoint at `index`, and the other.
fn two(endpoints: &mut [Endpoint; 2], index: usize) -> [&mut Endpoint; 2] {
    let [first, second] = endpoints;
    if index == 0 { [first, second] } else { [second, first] }
}

/// Gives the endpoint what came from its journal and its timers; whether there was anything.
fn feed(endpoint: &mut Endpoint, waker: &Waker) -> Result<bool, SessionError> {
    let mut is_busy = false;
    if endpoint.poll_journal(&mut Context::from_waker(waker)).is_ready() {
        endpoint.handle_journal(now())?;
        is_busy = true;
    }
    if endpoint.poll_timeout().is_some_and(|timeout| timeout <= now()) {
        endpoint.handle_timeout(now())?;
        is_busy = true;
    }
    while let Some(fetch) = endpoint.poll_fetch() {
        endpoint.handle_fetched(now(), fetch.run())?;
        is_busy = true;
    }
    // One thread for both ends: it does not flush itself.
    endpoint.poll_commit().into_iter().for_each(Commit::nudge);
    Ok(is_busy)
}

/// Takes a message to the other end as bytes, like a connection does.
fn carry(message: Message, sender: &NodeName, far: &mut Endpoint, line: &mut BytesMut) -> Result<(), SessionError> {
    codec::encode(&message, line);
    drop(message);
    let misbehaved =
        |error: codec::CodecError| SessionError::PeerMisbehaved { node: sender.clone(), what: error.into() };
    while let Some(message) = codec::decode(line, far.batch_len_max_bytes()).map_err(misbehaved)? {
        far.handle_message(now(), message)?;
        far.poll_commit().into_iter().for_each(Commit::nudge);
    }
    Ok(())
}

/// Parks this thread until a journal, a handle or a timer wakes it.
fn wait(endpoints: &[Endpoint; 2]) {
    match endpoints.iter().filter_map(Endpoint::poll_timeout).min() {
        Some(timeout) => thread::park_timeout(timeout.saturating_duration_since(now())),
        None => thread::park(),
    }
}
