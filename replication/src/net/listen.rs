//! The acceptor: lets peers in who prove who they are, and keeps the others from costing anybody anything.

use std::{
    collections::HashMap,
    fmt,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use counterfoil_storage::{Journal, NodeName};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsStream;

use super::{
    driver::{Ended, SessionHandle, drive, hang_up, now, run_until_expiry, say_goodbye},
    rejection::{Reason, Rejection, origin},
    tls::{Tls, TlsError, expires_at},
};
use crate::{
    AckBoard, Endpoint, Event, Limits, LogLimit, Policy, SessionConfig, SessionError, SessionStatus,
    codec::MessageWriter, message::CloseReason,
};

/// How long to wait after the operating system refused to accept a connection: it is out of file handles or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Handshakes that are worked on at the same moment. So whoever begins them in whatever number takes one processor at
/// most, and no session waits for more than one step of one of them.
const HANDSHAKES_AT_WORK: usize = 1;

/// What a listener serves, and within which bounds.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// The store.
    pub journal: Journal,
    /// What this node proves itself with, and whom it believes.
    pub tls: Tls,
    /// Who may do what.
    pub policy: Arc<Policy>,
    /// Bounds of each session.
    pub limits: Limits,
    /// Bounds of the listener.
    pub bounds: ListenBounds,
    /// Where the sessions of the store hear of each other's acks, to pass them on. What the listener's own sessions hear
    /// is posted there by whoever gets their events.
    pub acks: Arc<AckBoard>,
    /// Whether what is said to peers is compressed, where they take that. It needs the feature `zstd`.
    pub compress: bool,
}

/// The bounds of a listener. Each default is stated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenBounds {
    /// How long a peer may take to prove who it is. Default: 10 s.
    pub handshake_timeout: Duration,
    /// Connections that have not proved yet who they are. When one more comes, one goes: of those that have said
    /// nothing, if there are any, the oldest of the address that has most of them. Each may hold some 100 KiB. Default: 256.
    pub handshakes_max: usize,
    /// The same of one address, of which one goes likewise. Default: 32.
    pub handshakes_per_address_max: usize,
    /// Sessions; who comes when all places are taken is turned away. Never more than half of the file handles that this
    /// process may have when it begins to listen, since the store needs some, too. Default: 4096.
    pub sessions_max: usize,
    /// Sessions of one node, whose own oldest ends: it is most likely one that the node has lost. As many may be
    /// saying goodbye; of more the oldest is cut without a word. Default: 4.
    pub sessions_per_node_max: usize,
}

impl Default for ListenBounds {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            handshakes_max: 256,
            handshakes_per_address_max: 32,
            sessions_max: 4096,
            sessions_per_node_max: 4,
        }
    }
}

/// Why nothing listens.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}{}", advice(source))]
    Bind {
        /// The address asked for.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The certificate is not the store's.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What may be done about an address that can't be listened on.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there: stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "; it is no address of this machine",
        io::ErrorKind::PermissionDenied => "; choose a port from 1024 on, or run it with the right to",
        io::ErrorKind::InvalidInput => "; give HOST:PORT, as in 0.0.0.0:7400",
        _ => "; check the name or address",
    }
}

/// A peer that is in session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Peer {
    /// Its name, as its certificate proved.
    pub node: NodeName,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Since when.
    pub since: Instant,
    /// How the session stands.
    pub status: SessionStatus,
}

/// Accepts sessions until it is shut down or dropped; neither blocks.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    acceptor: AbortHandle,
}

type Events = Box<dyn Fn(&NodeName, Event) + Send + Sync>;

struct Shared {
    journal: Journal,
    limits: Limits,
    bounds: ListenBounds,
    acks: Arc<AckBoard>,
    compress: bool,
    events: Events,
    places: Mutex<Places>,
    log: Mutex<LogLimit<Reason>>,
    /// Of sessions that begin and end, by node.
    session_log: Mutex<LogLimit<NodeName>>,
    /// Whose turn it is to take a step in its handshake.
    turns: Semaphore,
    /// Notified when a session has ended.
    left: Notify,
    /// Where connections come in; none once nobody is let in any more.
    door: Mutex<Option<TcpListener>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

/// Who is here, and by which rules.
struct Places {
    tls: Tls,
    policy: Arc<Policy>,
    /// Nobody is let in any more.
    closed: bool,
    next_id: u64,
    /// Connections that have not proved who they are, oldest first: at most `handshakes_max`.
    pending: Vec<Pending>,
    /// Sessions, oldest first: at most `sessions_max`.
    sessions: Vec<Session>,
}

struct Pending {
    id: u64,
    address: SocketAddr,
    task: AbortHandle,
    /// It has said something, and has not been turned away for it: it may become a session.
    is_promising: bool,
}

struct Session {
    id: u64,
    node: NodeName,
    address: SocketAddr,
    since: Instant,
    handle: SessionHandle,
    task: AbortHandle,
    /// To ask again whether it may be here when the authority changes.
    certificates: Vec<CertificateDer<'static>>,
}

/// Listens on `address` (`host:port`; port 0 picks one), on the tokio runtime that this is called in.
///
/// `events` gets what the sessions say, with the peer's name. It is called from their tasks: it must not block.
pub async fn listen(
    address: &str,
    config: ListenConfig,
    events: impl Fn(&NodeName, Event) + Send + Sync + 'static,
) -> Result<Listener, ListenError> {
    let ListenConfig { journal, tls, policy, limits, mut bounds, acks, compress } = config;
    bounds.sessions_max = bounds.sessions_max.min(file_handles_max() / 2);
    tls.check_node(&journal.identity().node)?;
    tls.warn_of_date();
    let bind = |source| ListenError::Bind { address: address.to_string(), source };
    let tcp = TcpListener::bind(address).await.map_err(bind)?;
    let local_addr = tcp.local_addr().map_err(bind)?;
    let places = Places { tls, policy, closed: false, next_id: 0, pending: Vec::new(), sessions: Vec::new() };
    let shared = Arc::new(Shared {
        journal,
        limits,
        bounds,
        acks,
        compress,
        events: Box::new(events),
        places: Mutex::new(places),
        log: Mutex::default(),
        session_log: Mutex::default(),
        turns: Semaphore::new(HANDSHAKES_AT_WORK),
        left: Notify::new(),
        door: Mutex::new(Some(tcp)),
    });
    let acceptor = tokio::spawn(shared.clone().accept()).abort_handle();
    Ok(Listener { shared, local_addr, acceptor })
}

/// How many files and connections this process may have open.
fn file_handles_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX))
}

impl Listener {
    /// Where it listens: the port that was picked if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Who is in session.
    pub fn peers(&self) -> Vec<Peer> {
        let places = self.shared.places();
        let peers: Vec<_> = places
            .sessions
            .iter()
            .map(|session| (session.node.clone(), session.address, session.since, session.handle.clone()))
            .collect();
        drop(places);
        peers
            .into_iter()
            .map(|(node, address, since, handle)| Peer { node, address, since, status: handle.status() })
            .collect()
    }

    /// Applies a new policy, to the sessions that are there too: what it no longer grants stops, and sessions of
    /// nodes that it denies end.
    pub fn set_policy(&self, policy: &Arc<Policy>) {
        let mut places = self.shared.places();
        places.policy = policy.clone();
        let handles: Vec<_> = places.sessions.iter().map(|session| session.handle.clone()).collect();
        drop(places);
        for handle in handles {
            handle.set_policy(policy.clone());
        }
    }

    /// Uses other certificates for connections from now on, and ends the sessions of peers that they would not let in.
    pub fn set_tls(&self, tls: Tls) -> Result<(), TlsError> {
        tls.check_node(&self.shared.journal.identity().node)?;
        tls.warn_of_date();
        let mut places = self.shared.places();
        for session in &places.sessions {
            if let Err(rejection) = tls.check_peer(&session.certificates) {
                session.handle.end(Ended::CutOff(rejection));
            }
        }
        places.tls = tls;
        Ok(())
    }

    /// Lets nobody in any more and ends all sessions; waits at most `within` until they have closed.
    ///
    /// Whether all had.
    pub async fn shutdown(&self, within: Duration) -> bool {
        self.close();
        let all_left = async {
            loop {
                let left = self.shared.left.notified();
                if self.shared.places().sessions.is_empty() {
                    return;
                }
                left.await;
            }
        };
        timeout(within, all_left).await.is_ok()
    }

    /// Lets nobody in any more and ends all sessions, without waiting for them. Its address is free at once.
    pub fn close(&self) {
        // The acceptor's task, which sees its end when the runtime comes to it, does not hold the socket.
        self.shared.door().take();
        self.acceptor.abort();
        let mut places = self.shared.places();
        places.closed = true;
        places.pending.drain(..).for_each(|pending| pending.task.abort());
        places.sessions.iter().for_each(|session| session.handle.stop());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn door(&self) -> MutexGuard<'_, Option<TcpListener>> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next connection, or none once the door is closed.
    async fn next_stream(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        poll_fn(|cx| match &*self.door() {
            Some(tcp) => tcp.poll_accept(cx).map(Some),
            None => Poll::Ready(None),
        })
        .await
    }

    /// Writes a line about a connection that came to nothing, unless there were too many alike.
    fn reject(&self, peer: SocketAddr, rejection: &Rejection) {
        let line = self.log.lock().unwrap_or_else(PoisonError::into_inner).note(now(), rejection.reason(peer.ip()));
        match line {
            Some(0) => tracing::warn!(%peer, reason = %rejection, "turned away"),
            Some(unlogged) => tracing::warn!(%peer, reason = %rejection, unlogged, "turned away"),
            None => {}
        }
    }

    async fn accept(self: Arc<Self>) {
        while let Some(accepted) = self.next_stream().await {
            match accepted {
                Ok((stream, address)) => self.admit(stream, address),
                Err(error) => {
                    self.reject(([0; 4], 0).into(), &Rejection::Io(format!("can't accept: {error}")));
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Gives a new connection a place among those that have not proved who they are.
    fn admit(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let mut places = self.places();
        if places.closed {
            return;
        }
        let displaced = make_room(&mut places.pending, address.ip(), &self.bounds);
        let id = places.next_id;
        places.next_id += 1;
        let task = tokio::spawn(self.clone().welcome(stream, address, id)).abort_handle();
        places.pending.push(Pending { id, address, task, is_promising: false });
        drop(places);
        if let Some(displaced) = displaced {
            self.reject(displaced, &Rejection::Displaced);
        }
    }

    /// One connection from its first byte to its last.
    async fn welcome(self: Arc<Self>, stream: TcpStream, address: SocketAddr, id: u64) {
        let _place = Place { shared: self.clone(), id };
        let limit = self.bounds.handshake_timeout;
        let tls = self.places().tls.clone();
        // Small messages go at once; where that can't be had, they go a little later.
        let _ = stream.set_nodelay(true);
        let handshake = async {
            // Whatever comes, an end or an error too, TLS meets it next.
            let _ = stream.peek(&mut [0]).await;
            self.places().judge(id, true);
            in_turn(&self.turns, tls.accept_or_return(stream)).await
        };
        match timeout(limit, handshake).await {
            Ok(Ok((node, stream))) => self.serve(node, stream, address, id).await,
            Ok(Err((rejection, stream))) => {
                self.places().judge(id, false);
                self.reject(address, &rejection);
                // It may still have to read why.
                hang_up(stream).await;
            }
            Err(_) => self.reject(address, &Rejection::TooSlow(limit)),
        }
    }

    /// The session of a peer that has proved who it is.
    async fn serve(self: &Arc<Self>, node: NodeName, stream: TlsStream<TcpStream>, address: SocketAddr, id: u64) {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let policy = self.places().policy.clone();
        if policy.is_denied(&node) {
            self.places().judge(id, false);
            self.reject(address, &Rejection::Denied(node));
            return say_goodbye(stream, MessageWriter::default(), BytesMut::new(), CloseReason::Denied).await;
        }
        let config = self.session_config(&node, &policy);
        let endpoint = Endpoint::new(self.journal.clone(), config, now());
        let endpoint = endpoint.with_acks(&self.acks).compressing(self.compress);
        let (shared, peer) = (self.clone(), node.clone());
        let (handle, session) = drive(stream, endpoint, move |event| (shared.events)(&peer, event));
        let expires_at = expires_at(&certificates);
        let entrant = Entrant { id, node: node.clone(), handle: handle.clone(), certificates };
        let entered = self.places().enter(entrant, &policy, &self.bounds);
        if let Err(rejection) = entered {
            return self.reject(address, &rejection);
        }
        let is_told = self.tell_session(&node, address);
        match run_until_expiry(&handle, session, expires_at).await {
            ended @ (Ended::Stopped | Ended::HungUp | Ended::Failed(SessionError::ClosedByPeer { .. })) => {
                if is_told {
                    tracing::info!(%node, %address, reason = %ended, "session ended");
                }
            }
            Ended::Failed(SessionError::Denied { node }) => self.reject(address, &Rejection::Denied(node)),
            Ended::Failed(error) => self.reject(address, &Rejection::SessionFailed(error.to_string())),
            Ended::Broken(rejection) | Ended::CutOff(rejection) => self.reject(address, &rejection),
        }
    }

    /// Writes a line about a session that begins, unless the node had too many; whether the end deserves one.
    fn tell_session(&self, node: &NodeName, address: SocketAddr) -> bool {
        let line = self.session_log.lock().unwrap_or_else(PoisonError::into_inner).note(now(), node.clone());
        match line {
            Some(0) => tracing::info!(%node, %address, "session begins"),
            Some(unlogged) => tracing::info!(%node, %address, unlogged, "session begins"),
            None => {}
        }
        line.is_some()
    }

    fn session_config(&self, peer: &NodeName, policy: &Arc<Policy>) -> SessionConfig {
        let identity = self.journal.identity();
        SessionConfig {
            local: identity.node.clone(),
            incarnation: identity.incarnation,
            peer: peer.clone(),
            spaces: Vec::new(),
            policy: policy.clone(),
            limits: self.limits.clone(),
        }
    }
}

/// A session that wants a place.
struct Entrant {
    id: u64,
    node: NodeName,
    handle: SessionHandle,
    certificates: Vec<CertificateDer<'static>>,
}

impl Places {
    /// Notes whether a connection may become a session.
    fn judge(&mut self, id: u64, is_promising: bool) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.id == id) {
            pending.is_promising = is_promising;
        }
    }

    /// Moves a connection to the sessions, unless its place was taken meanwhile, there are as many as may be, or its
    /// handshake began under certificates that were replaced since by others which don't let it in.
    fn enter(&mut self, entrant: Entrant, policy: &Arc<Policy>, bounds: &ListenBounds) -> Result<(), Rejection> {
        let Entrant { id, node, handle, certificates } = entrant;
        let pending = self.pending.iter().position(|pending| pending.id == id).ok_or(Rejection::Displaced)?;
        let Pending { address, task, .. } = self.pending.remove(pending);
        self.tls.check_peer(&certificates)?;
        self.displace(&node, bounds.sessions_per_node_max.max(1));
        if self.sessions.len() >= bounds.sessions_max {
            return Err(Rejection::Full(bounds.sessions_max));
        }
        if !Arc::ptr_eq(policy, &self.policy) {
            handle.set_policy(self.policy.clone());
        }
        self.sessions.push(Session { id, node, address, since: now(), handle, task, certificates });
        Ok(())
    }

    /// Makes room for one more session of a node.
    fn displace(&mut self, node: &NodeName, limit: usize) {
        let of_node = |session: &&Session| session.node == *node;
        while self.sessions.iter().filter(of_node).count() >= 2 * limit
            && let Some(oldest) = self.sessions.iter().position(|session| session.node == *node)
        {
            self.sessions.remove(oldest).task.abort();
        }
        let surplus = (self.sessions.iter().filter(of_node).count() + 1).saturating_sub(limit);
        self.sessions.iter().filter(of_node).take(surplus).for_each(|oldest| oldest.handle.stop());
    }
}

/// Ends a handshake if there are too many of the newcomer's origin, or at all; whose it was.
fn make_room(pending: &mut Vec<Pending>, newcomer: IpAddr, bounds: &ListenBounds) -> Option<SocketAddr> {
    let newcomer = origin(newcomer);
    let own = pending.iter().filter(|pending| pending.origin() == newcomer).count();
    let is_crowded = own >= bounds.handshakes_per_address_max;
    if !is_crowded && pending.len() < bounds.handshakes_max {
        return None;
    }
    let displaced = pending.remove(least_promising(pending, is_crowded.then_some(newcomer))?);
    displaced.task.abort();
    Some(displaced.address)
}

/// Position of the handshake to be given up, of one origin or of all: one that promises nothing if there is such a one,
/// of the origin that has most of them, the oldest.
fn least_promising(pending: &[Pending], of: Option<IpAddr>) -> Option<usize> {
    let all = pending.iter().enumerate().filter(|(_, pending)| of.is_none_or(|of| pending.origin() == of));
    let has_idle = all.clone().any(|(_, pending)| !pending.is_promising);
    let candidates = all.filter(|(_, pending)| !(has_idle && pending.is_promising));
    let mut counts = HashMap::<IpAddr, usize>::new();
    candidates.clone().for_each(|(_, pending)| *counts.entry(pending.origin()).or_default() += 1);
    // Of equals the last in this order, which is the oldest, so that a new one gets the time it needs.
    candidates.rev().max_by_key(|(_, pending)| counts.get(&pending.origin())).map(|(position, _)| position)
}

impl Pending {
    fn origin(&self) -> IpAddr {
        origin(self.address.ip())
    }
}

/// Takes the steps of a future one by one, each in a turn of its own.
async fn in_turn<F: Future>(turns: &Semaphore, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        // Nobody closes it.
        let turn = turns.acquire().await;
        let step = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        drop(turn);
        if let Poll::Ready(output) = step {
            return output;
        }
        // Until the future wakes this task.
        let mut has_waited = false;
        poll_fn(|_| if std::mem::replace(&mut has_waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// A connection's place, which is free again however its task ends.
struct Place {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.shared.places();
        places.pending.retain(|pending| pending.id != self.id);
        places.sessions.retain(|session| session.id != self.id);
        drop(places);
        self.shared.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
