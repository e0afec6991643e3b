//! A link: a session with one peer that is begun anew whenever it ends, for ever.

use std::{
    fmt, io,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use counterfoil_storage::{Journal, NodeName, SpaceName};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    driver::{Ended, SessionHandle, drive, now, run_until_expiry},
    rejection::Rejection,
    tls::{Tls, TlsError, expires_at},
};
use crate::{AckBoard, Direction, Endpoint, Event, Limits, Policy, SessionConfig, SessionStatus};

/// The longest pause before the second attempt; it doubles with each that fails.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A session that was ready at least this long proves that the peer is well: the next pause is short again.
const PROVEN: Duration = Duration::from_secs(1);
/// How often it is said that this node's own certificate is out of date.
const WARNING_EVERY: Duration = Duration::from_secs(60);
/// How long reaching the peer, and the TLS handshake after it, may take, each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that has accepted the connection and says nothing for so long is told to be silent.
const ANSWER_EXPECTED: Duration = Duration::from_millis(500);

/// Whom to dial: `NODE@ADDR`, the peer's name and where it listens (`host:port`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The node that must answer; any other is refused.
    pub node: NodeName,
    /// Host (name or address) and port; a name is looked up at each attempt.
    pub address: String,
}

/// The text was not `NODE@ADDR`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not NODE@HOST:PORT; for example hub@hub.example:7400")]
pub struct TargetError {
    text: String,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let parse = || {
            let (node, address) = text.split_once('@')?;
            let (host, port) = address.rsplit_once(':')?;
            let _: u16 = port.parse().ok()?;
            let address = (!host.is_empty()).then(|| address.to_owned())?;
            Some(Self { node: NodeName::new(node).ok()?, address })
        };
        parse().ok_or_else(|| TargetError { text: text.chars().take(200).collect() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.address)
    }
}

/// What a link is for.
#[derive(Debug, Clone)]
pub struct DialConfig {
    /// The peer.
    pub target: Target,
    /// The store.
    pub journal: Journal,
    /// What this node proves itself with.
    pub tls: Tls,
    /// The spaces of the link, each with the way its records flow. Each grants the peer what that needs.
    pub spaces: Vec<(SpaceName, Direction)>,
    /// What the peer may do besides: usually [`Policy::nothing`].
    pub policy: Arc<Policy>,
    /// Bounds of each session.
    pub limits: Limits,
    /// Where the sessions of the store hear of each other's acks. What the link's own session hears is posted there by
    /// whoever gets its events.
    pub acks: Arc<AckBoard>,
    /// Whether what is said to the peer is compressed, where it takes that. It needs the feature `zstd`.
    pub compress: bool,
}

/// What a link tells the application.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LinkEvent {
    /// The link's state changed.
    State(LinkState),
    /// The session says something.
    Session(Event),
    /// The connection was accepted a while ago, and the peer has not answered: its process hangs or is stopped, or something in
    /// between answers for it. The attempt goes on.
    Silent,
}

/// Where a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkState {
    /// Reaching the peer, or waiting for it to say that it is ready.
    Connecting,
    /// The peer is ready.
    Connected {
        /// Since when.
        since: Instant,
    },
    /// The last attempt failed or the session ended; the next attempt comes soon.
    Waiting {
        /// When.
        until: Instant,
        /// Why there is no session. One line.
        reason: Arc<str>,
        /// It does not pass by itself: a certificate, an authority or a name must be changed. It is tried again all the
        /// same, since that may be done meanwhile.
        is_lasting: bool,
    },
    /// [`Link::stop`] was called, or the link dropped. Final.
    Stopped,
}

/// How a link stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LinkStatus {
    /// Where it is.
    pub state: LinkState,
    /// Why the last attempt or session ended, until the peer is ready again. One line.
    pub last_error: Option<Arc<str>>,
    /// The session that runs, or else the last one, as it stood at its end.
    pub session: Option<SessionStatus>,
    /// How many sessions have been ready.
    pub sessions: u64,
}

/// A link that runs until it is stopped or dropped.
///
/// Neither waits: what is on its way is told to the peer and closed in the background, as long as the runtime runs.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    config: DialConfig,
    events: Box<dyn Fn(LinkEvent) + Send + Sync>,
    current: Mutex<Current>,
    /// Notified when the pause before the next attempt should end, or the link.
    hurry: Notify,
}

struct Current {
    state: LinkState,
    last_error: Option<Arc<str>>,
    /// When it was last warned that this node's own certificate is out of date.
    warned_at: Option<Instant>,
    session: Option<SessionHandle>,
    sessions: u64,
    policy: Arc<Policy>,
    tls: Tls,
    spaces: Vec<(SpaceName, Direction)>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("target", &self.config.target).finish_non_exhaustive()
    }
}

/// Begins a link, on the tokio runtime that this is called in. It never gives up: see [`Link::status`] for what
/// stands in its way.
///
/// `events` is called from the link's task: it must not block.
///
/// Fails only if the certificate is not the store's.
pub fn dial(config: DialConfig, events: impl Fn(LinkEvent) + Send + Sync + 'static) -> Result<Link, TlsError> {
    config.tls.check_node(&config.journal.identity().node)?;
    let current = Current {
        state: LinkState::Connecting,
        last_error: None,
        warned_at: config.tls.warn_of_date().then(now),
        session: None,
        sessions: 0,
        policy: config.policy.clone(),
        tls: config.tls.clone(),
        spaces: config.spaces.clone(),
    };
    let (events, current, hurry) = (Box::new(events), Mutex::new(current), Notify::new());
    let shared = Arc::new(Shared { config, events, current, hurry });
    let task = tokio::spawn(shared.clone().run());
    Ok(Link { shared, task })
}

impl Link {
    /// How it stands now.
    pub fn status(&self) -> LinkStatus {
        let current = self.shared.current();
        let Current { state, last_error, session, sessions, .. } = &*current;
        let (state, last_error, sessions) = (state.clone(), last_error.clone(), *sessions);
        let session = session.clone();
        drop(current);
        LinkStatus { state, last_error, session: session.map(|session| session.status()), sessions }
    }

    /// The peer.
    pub fn target(&self) -> &Target {
        &self.shared.config.target
    }

    /// Applies a new policy to the session that runs and those to come.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        let mut current = self.shared.current();
        current.policy = policy.clone();
        let session = current.session.clone();
        drop(current);
        if let Some(session) = session {
            session.set_policy(policy);
        }
    }

    /// Carries another space too, in the session that runs and those to come. Nothing changes if it does already.
    pub fn bring(&self, space: &SpaceName, direction: Direction) {
        let mut current = self.shared.current();
        if current.spaces.iter().any(|(brought, _)| brought == space) {
            return;
        }
        current.spaces.push((space.clone(), direction));
        // Held on to, so that no session begins in between.
        if let Some(session) = &current.session {
            session.bring(space, direction);
        }
    }

    /// Uses another certificate from the next attempt on.
    ///
    /// Not needed when the files are replaced: after an attempt that failed they are read again.
    pub fn set_tls(&self, tls: Tls) -> Result<(), TlsError> {
        tls.check_node(&self.shared.config.journal.identity().node)?;
        self.shared.current().tls = tls;
        self.shared.hurry.notify_one();
        Ok(())
    }

    /// Ends the pause before the next attempt: the network is back.
    pub fn retry_now(&self) {
        self.shared.hurry.notify_one();
    }

    /// Ends the link: the peer is told, then the connection is closed. Does not wait for that.
    pub fn stop(&self) {
        let mut current = self.shared.current();
        current.state = LinkState::Stopped;
        let session = current.session.clone();
        drop(current);
        if let Some(session) = session {
            session.stop();
        }
        self.shared.hurry.notify_one();
    }

    /// Waits until a stopped link has closed its connection: at most about a second.
    pub async fn stopped(mut self) {
        self.stop();
        // A task that panicked has closed it too.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attempts, sessions and pauses, until the link is stopped.
    async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        while self.enter(LinkState::Connecting) {
            let (reason, is_lasting, ready_for) = match self.connect().await {
                Ok(stream) => {
                    let (ended, ready_for) = self.session(stream).await;
                    (ended.to_string(), ended.is_lasting(), ready_for)
                }
                Err(rejection) => (rejection.to_string(), rejection.is_lasting(), Duration::ZERO),
            };
            let reason: Arc<str> = reason.into();
            let is_news = self.failed(&reason);
            if ready_for >= PROVEN {
                backoff = Backoff::default();
            }
            let pause = backoff.next_pause();
            if !self.enter(LinkState::Waiting { until: now() + pause, reason: reason.clone(), is_lasting }) {
                break;
            }
            // Once it has been told: who sees it in the log can ask for it.
            if is_news {
                tracing::warn!(peer = %self.config.target, %reason, "no link");
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.hurry.notified() => {}
            }
        }
        (self.events)(LinkEvent::State(LinkState::Stopped));
    }

    /// Changes the state and tells it, unless the link is stopped: then false.
    fn enter(&self, state: LinkState) -> bool {
        let mut current = self.current();
        if current.state == LinkState::Stopped {
            return false;
        }
        if current.state != state {
            current.state = state.clone();
            drop(current);
            (self.events)(LinkEvent::State(state));
        }
        true
    }

    /// Notes why there is no session; whether it is to be logged, as each reason is once, however often it comes.
    fn failed(&self, reason: &Arc<str>) -> bool {
        let mut current = self.current();
        if current.state == LinkState::Stopped {
            return false;
        }
        let is_news = current.last_error.replace(reason.clone()).as_ref() != Some(reason);
        let tls = current.tls.clone();
        drop(current);
        // Perhaps the certificate or the authority has been replaced since.
        match tls.reload() {
            Ok(tls) if tls.check_node(&self.config.journal.identity().node).is_ok() => {
                let mut current = self.current();
                let is_due = |warned_at: Instant| now().duration_since(warned_at) >= WARNING_EVERY;
                if current.warned_at.is_none_or(is_due) && tls.warn_of_date() {
                    current.warned_at = Some(now());
                }
                current.tls = tls;
            }
            _ => {}
        }
        is_news
    }

    /// Reaches the peer and makes sure that it is the one.
    async fn connect(&self) -> Result<tokio_rustls::TlsStream<TcpStream>, Rejection> {
        let Target { node, address } = &self.config.target;
        let tls = self.current().tls.clone();
        let attempt = async {
            let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
                .map_err(|error| Rejection::Io(format!("it can't be reached ({error})")))?;
            let handshake = self.answered(timeout(CONNECT_TIMEOUT, tls.connect(tcp, node))).await;
            handshake.unwrap_or(Err(Rejection::TooSlow(CONNECT_TIMEOUT)))
        };
        tokio::select! {
            stream = attempt => stream,
            () = self.until_stopped() => Err(Rejection::HungUp),
        }
    }

    /// Waits for what begins with an answer of the peer's, and tells if that is late.
    async fn answered<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = Box::pin(work);
        tokio::select! {
            done = &mut work => return done,
            () = sleep(ANSWER_EXPECTED) => {}
        }
        if self.current().state == LinkState::Connecting {
            (self.events)(LinkEvent::Silent);
        }
        work.await
    }

    async fn until_stopped(&self) {
        while self.current().state != LinkState::Stopped {
            self.hurry.notified().await;
        }
    }

    /// Runs one session: why it ended, and for how long it was ready.
    async fn session(self: &Arc<Self>, stream: tokio_rustls::TlsStream<TcpStream>) -> (Ended, Duration) {
        let DialConfig { target, journal, limits, compress, .. } = &self.config;
        let identity = journal.identity();
        let (spaces, policy) = self.wanted();
        let config = SessionConfig {
            local: identity.node.clone(),
            incarnation: identity.incarnation,
            peer: target.node.clone(),
            spaces,
            policy,
            limits: limits.clone(),
        };
        let (policy, brought) = (config.policy.clone(), config.spaces.len());
        let expires_at = stream.get_ref().1.peer_certificates().and_then(expires_at);
        let endpoint = Endpoint::new(journal.clone(), config, now());
        let endpoint = endpoint.with_acks(&self.config.acks).compressing(*compress);
        let shared = self.clone();
        let (handle, session) = drive(stream, endpoint, move |event| shared.tell(event));
        self.begin(&handle, &policy, brought);
        let ended = self.answered(run_until_expiry(&handle, session, expires_at)).await;
        let ready_for = match self.current().state {
            LinkState::Connected { since } => now().duration_since(since),
            _ => Duration::ZERO,
        };
        (ended, ready_for)
    }

    /// What a session is to begin with.
    fn wanted(&self) -> (Vec<(SpaceName, Direction)>, Arc<Policy>) {
        let current = self.current();
        (current.spaces.clone(), current.policy.clone())
    }

    /// Makes the session known, and it learn what changed while it was made.
    fn begin(&self, handle: &SessionHandle, policy: &Arc<Policy>, brought: usize) {
        let mut current = self.current();
        current.session = Some(handle.clone());
        for (space, direction) in &current.spaces[brought..] {
            handle.bring(space, *direction);
        }
        let stopped = current.state == LinkState::Stopped;
        let newest = current.policy.clone();
        drop(current);
        if !Arc::ptr_eq(policy, &newest) {
            handle.set_policy(newest);
        }
        if stopped {
            handle.stop();
        }
    }

    fn tell(&self, event: Event) {
        if matches!(event, Event::PeerReady { .. }) {
            let state = LinkState::Connected { since: now() };
            let mut current = self.current();
            current.sessions += 1;
            current.last_error = None;
            drop(current);
            tracing::info!(peer = %self.config.target, "linked");
            self.enter(state);
        }
        (self.events)(LinkEvent::Session(event));
    }
}

/// Pauses with full jitter: anything between nothing and a bound that doubles, so that the practices of a hub that
/// comes back do not all dial at once.
///
/// Source: M. Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn bound(&self) -> Duration {
        PAUSE_MIN.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX)
    }

    fn next_pause(&mut self) -> Duration {
        // Without a random source all practices pause for as long as they may.
        let random = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        let pause = self.bound().mul_f64(random);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_node_and_an_address_with_a_port() {
        for good in ["hub@hub.example:7400", "hub_2@127.0.0.1:1", "h@[::1]:65535"] {
            assert_eq!(good.parse::<Target>().unwrap().to_string(), good);
        }
        for bad in ["", "hub", "hub@", "@a:1", "hub@host", "hub@:1", "hub@host:port", "hub@host:70000", "a b@host:1"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pauses_are_jittered_below_a_bound_that_doubles_up_to_ten_seconds() {
        let mut backoff = Backoff::default();
        for bound_ms in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            assert_eq!(backoff.bound(), Duration::from_millis(bound_ms));
            assert!(backoff.next_pause() <= Duration::from_millis(bound_ms));
        }
        assert_eq!(Backoff { failures: u32::MAX }.bound(), PAUSE_MAX);
    }
}
