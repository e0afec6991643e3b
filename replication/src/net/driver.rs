//! The loop around a session: moves bytes, time and the journal's news into an [`Endpoint`] and its messages out.
//!
//! One task per session and no queue beside the endpoint's own. Reading never waits for writing: in every round
//! everything that can be ready is asked once, until nothing is.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Buf as _, BytesMut};
use counterfoil_storage::{SpaceName, SystemClock, WallClock as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    task::JoinSet,
    time::{Sleep, sleep, sleep_until, timeout},
};

use super::rejection::Rejection;
use crate::{
    Direction, Endpoint, Event, Fetched, Message, PeerMisbehaved, Policy, SessionError, SessionStatus,
    codec::{CodecError, MessageReader, MessageWriter},
    message::CloseReason,
};

/// Messages are taken from the endpoint until this many bytes wait to be written.
const OUTPUT_BYTES: usize = 256 << 10;
/// The least and the most room that is made before reading, in bytes. It grows while the peer fills it, so that an
/// idle session costs little; a longer message makes as much room as it has bytes *arrived*.
const READ_BYTES_MIN: usize = 8 << 10;
const READ_BYTES_MAX: usize = 256 << 10;
/// Reads of the journal that run beside the session at once.
const FETCHES_MAX: usize = 2;
/// How often everything is asked in one go before other tasks get their turn.
const ROUNDS_MAX: usize = 8;
/// How long the peer may take to hear why the session ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a session is over. Everything acknowledged stays so.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Ended {
    /// [`SessionHandle::stop`] was called.
    Stopped,
    /// The peer closed the connection without a word: it crashed, or was cut off.
    HungUp,
    /// The session's own rules ended it, at this end or at the other.
    Failed(SessionError),
    /// The connection broke, or the peer does not accept this node's certificate.
    Broken(Rejection),
    /// The peer's certificate is not good any more: it has expired, or the authorities here were replaced.
    CutOff(Rejection),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("this end stopped"),
            Self::HungUp => f.write_str("the peer hung up"),
            Self::Failed(error) => error.fmt(f),
            Self::Broken(rejection) => write!(f, "the connection broke: {rejection}"),
            Self::CutOff(rejection) => write!(f, "the peer was cut off: {rejection}"),
        }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        match Rejection::from(error) {
            Rejection::HungUp => Self::HungUp,
            rejection => Self::Broken(rejection),
        }
    }
}

impl Ended {
    /// Whether another session would end likewise until somebody changes something at one of the two ends.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Broken(rejection) | Self::CutOff(rejection) => rejection.is_lasting(),
            Self::Failed(SessionError::ClosedByPeer { reason, .. }) => {
                matches!(reason, CloseReason::Denied | CloseReason::Protocol { .. } | CloseReason::Certificate)
            }
            Self::Failed(error) => {
                matches!(error, SessionError::NoCommonProtocol { .. } | SessionError::Denied { .. })
            }
            Self::Stopped | Self::HungUp => false,
        }
    }

    /// What the peer should hear before the connection is closed.
    fn close_reason(&self) -> Option<CloseReason> {
        match self {
            Self::Stopped => Some(CloseReason::Shutdown),
            Self::Failed(error) => error.close_reason(),
            Self::CutOff(_) => Some(CloseReason::Certificate),
            Self::HungUp | Self::Broken(_) => None,
        }
    }
}

/// Steers a session that runs, from any thread. Cheap to clone.
#[derive(Clone)]
pub struct SessionHandle(Arc<Mutex<Steered>>);

struct Steered {
    endpoint: Endpoint,
    /// Why the session must end, if somebody outside of its task decided so.
    end: Option<Ended>,
    /// The task, to be woken after a change from outside.
    task: Option<Waker>,
}

impl SessionHandle {
    /// How the session stands; as it stood at its end once it is over.
    pub fn status(&self) -> SessionStatus {
        self.lock().endpoint.status()
    }

    /// Applies a new policy, which ends the session if it denies the peer.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        let mut steered = self.lock();
        let result = steered.endpoint.handle_policy(now(), policy);
        steered.finish(result.err().map(Ended::Failed));
    }

    /// Brings another space into the session.
    pub(super) fn bring(&self, space: &SpaceName, direction: Direction) {
        let mut steered = self.lock();
        steered.endpoint.bring(now(), space, direction);
        steered.finish(None);
    }

    /// Ends the session: the peer is told, then the connection is closed. Does not wait for that.
    pub fn stop(&self) {
        self.end(Ended::Stopped);
    }

    /// Ends the session for a reason. The first reason stays.
    pub(super) fn end(&self, ended: Ended) {
        self.lock().finish(Some(ended));
    }

    fn lock(&self) -> MutexGuard<'_, Steered> {
        // A panic elsewhere does not make the status unreadable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Steered {
    fn finish(&mut self, ended: Option<Ended>) {
        if self.end.is_none() {
            self.end = ended;
        }
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle").finish_non_exhaustive()
    }
}

/// A connection, for as long as there is one: whoever keeps the handle for longer keeps only what the session was.
struct Connected(SessionHandle);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.lock().endpoint.hang_up();
    }
}

/// Runs a session over a connection that has proved who is there. The future ends with the session.
///
/// `events` is called from the session's task: it must
/// not block. Dropping the future drops the connection without a word, which the peer survives like a cut.
pub fn drive<S, E>(
    stream: S,
    endpoint: Endpoint,
    events: E,
) -> (SessionHandle, impl Future<Output = Ended> + Send + use<S, E>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    E: FnMut(Event) + Send,
{
    let handle = SessionHandle(Arc::new(Mutex::new(Steered { endpoint, end: None, task: None })));
    let driver = Driver {
        connected: Connected(handle.clone()),
        handle: handle.clone(),
        stream,
        events,
        timer: None,
        fetches: JoinSet::new(),
        reader: MessageReader::default(),
        read_bytes: READ_BYTES_MIN,
        writer: MessageWriter::default(),
        output: BytesMut::new(),
        flushed: true,
    };
    (handle, driver.run())
}

struct Driver<S, E> {
    connected: Connected,
    handle: SessionHandle,
    stream: S,
    events: E,
    /// Armed at or before the endpoint's next timeout: one that moved later costs nothing until the old one is due.
    timer: Option<Pin<Box<Sleep>>>,
    /// At most [`FETCHES_MAX`].
    fetches: JoinSet<Fetched>,
    /// Holds what was read and is not a whole message yet: bounded by the codec's limits.
    reader: MessageReader,
    read_bytes: usize,
    writer: MessageWriter,
    /// Bytes to be written: at most [`OUTPUT_BYTES`] and one message.
    output: BytesMut,
    /// Whether all that was written has left the stream's own buffers.
    flushed: bool,
}

impl<S, E> Driver<S, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: FnMut(Event),
{
    async fn run(mut self) -> Ended {
        let ended = poll_fn(|cx| self.poll_ended(cx)).await;
        self.deliver_events();
        drop(self.connected);
        if let Some(reason) = ended.close_reason() {
            say_goodbye(self.stream, self.writer, self.output, reason).await;
        }
        ended
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.handle.lock().task = Some(cx.waker().clone());
        for _ in 0..ROUNDS_MAX {
            match self.round(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(ended) => return Poll::Ready(ended),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Asks everything that can be ready; whether anything was. If not, everything knows whom to wake.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        if let Some(ended) = self.handle.lock().end.clone() {
            return Err(ended);
        }
        let mut busy = self.poll_read(cx)?;
        self.commit();
        busy |= self.poll_journal(cx)?;
        busy |= self.poll_timer(cx)?;
        self.commit();
        busy |= self.start_fetches()?;
        self.deliver_events();
        self.input(|endpoint, _| endpoint.check_rewound())?;
        self.fill_output()?;
        busy |= self.poll_write(cx)?;
        Ok(busy)
    }

    /// Lets the endpoint handle an input, now.
    fn input<T>(&self, handle: impl FnOnce(&mut Endpoint, Instant) -> Result<T, SessionError>) -> Result<T, Ended> {
        handle(&mut self.handle.lock().endpoint, now()).map_err(Ended::Failed)
    }

    /// Reads what is there and handles the messages in it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let arrived = self.reader.arrived();
        if arrived.capacity() - arrived.len() < READ_BYTES_MIN / 2 {
            arrived.reserve(self.read_bytes);
        }
        let room = arrived.capacity() - arrived.len();
        let read = pin!(self.stream.read_buf(arrived)).poll(cx);
        match read {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Err(Ended::HungUp),
            Poll::Ready(Ok(count)) if count == room => self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Err(Ended::from(error)),
        }
        let mut steered = self.handle.lock();
        let batch_len_max = steered.endpoint.batch_len_max_bytes();
        let now = now();
        loop {
            match self.reader.next(batch_len_max) {
                Ok(Some(message)) => steered.endpoint.handle_message(now, message).map_err(Ended::Failed)?,
                Ok(None) => break,
                Err(error) => return Err(Ended::Failed(misbehaved(&steered.endpoint, error))),
            }
        }
        drop(steered);
        // What is left of a buffer whose batches live on elsewhere is of no use.
        if self.reader.shrink(READ_BYTES_MIN / 2) {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        Ok(true)
    }

    /// Has what was stored committed.
    ///
    /// While little comes, latency counts: committed here it saves two thread switches. One thread at most is in a flush of
    /// the journal, so the runtime's other threads go on with the other sessions. When much comes, the journal's own thread
    /// flushes while this one receives.
    fn commit(&self) {
        let commit = self.handle.lock().endpoint.poll_commit();
        match commit {
            Some(commit) if commit.is_urgent => commit.run(),
            Some(commit) => commit.nudge(),
            None => {}
        }
    }

    /// Takes the journal's news, and the reads that are done.
    fn poll_journal(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut busy = false;
        let news = self.handle.lock().endpoint.poll_journal(cx);
        if news.is_ready() {
            self.input(Endpoint::handle_journal)?;
            busy = true;
        }
        while let Poll::Ready(Some(fetched)) = self.fetches.poll_join_next(cx) {
            match fetched {
                Ok(fetched) => self.input(|endpoint, now| endpoint.handle_fetched(now, fetched))?,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is shutting down.
                    Err(_) => return Err(Ended::Stopped),
                },
            }
            busy = true;
        }
        Ok(busy)
    }

    /// Tells the endpoint when its time has come, and arms the timer.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut busy = false;
        loop {
            let deadline = self.handle.lock().endpoint.poll_timeout().map(tokio::time::Instant::from_std);
            let Some(deadline) = deadline else { return Ok(busy) };
            if deadline <= tokio::time::Instant::now() {
                // Once a round: an endpoint whose time stands still must not hold up the rest.
                if !busy {
                    self.input(Endpoint::handle_timeout)?;
                    busy = true;
                    continue;
                }
                return Ok(true);
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if timer.deadline() > deadline || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(busy);
            }
        }
    }

    /// Starts the reads that the endpoint asks for.
    ///
    /// While nothing is on its way, latency counts, and what is asked for is nearly always the newest batch, which
    /// the journal has in memory: read here, it saves two thread switches. Else reads run beside the writing.
    fn start_fetches(&mut self) -> Result<bool, Ended> {
        let mut busy = false;
        while self.fetches.len() < FETCHES_MAX {
            let Some(fetch) = self.handle.lock().endpoint.poll_fetch() else { break };
            if self.output.is_empty() && self.fetches.is_empty() && !busy {
                let fetched = fetch.run();
                self.input(|endpoint, now| endpoint.handle_fetched(now, fetched))?;
            } else {
                self.fetches.spawn_blocking(move || fetch.run());
            }
            busy = true;
        }
        Ok(busy)
    }

    fn deliver_events(&mut self) {
        loop {
            // Not held while the application has the event: it may ask for the session's status.
            let event = self.handle.lock().endpoint.poll_event();
            match event {
                Some(event) => (self.events)(event),
                None => return,
            }
        }
    }

    /// Takes messages until the endpoint has no more or enough wait: many small ones make one write.
    fn fill_output(&mut self) -> Result<(), Ended> {
        let mut steered = self.handle.lock();
        if !self.writer.is_compressing() && steered.endpoint.is_to_compress() {
            self.writer.compress(&mut self.output)?;
        }
        let mut room = OUTPUT_BYTES.saturating_sub(self.output.len());
        while room > 0 {
            let Some(message) = steered.endpoint.poll_transmit() else { break };
            room = room.saturating_sub(self.writer.push(&message, &mut self.output)?);
        }
        drop(steered);
        Ok(self.writer.flush(&mut self.output)?)
    }

    /// Writes what the connection takes, and flushes when there is no more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut busy = false;
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Pending => return Ok(busy),
                Poll::Ready(Ok(0)) => return Err(Ended::HungUp),
                Poll::Ready(Ok(count)) => self.output.advance(count),
                Poll::Ready(Err(error)) => return Err(self.last_words(cx, error)),
            }
            self.flushed = false;
            busy = true;
        }
        if self.output.capacity() > 2 * OUTPUT_BYTES {
            self.output = BytesMut::new();
        }
        if !self.flushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => return Err(self.last_words(cx, error)),
            }
        }
        Ok(busy)
    }

    /// A peer that no longer takes anything may have said why.
    fn last_words(&mut self, cx: &mut Context<'_>, error: io::Error) -> Ended {
        self.poll_read(cx).err().unwrap_or_else(|| Ended::from(error))
    }
}

/// Runs a session to its end, which comes at the latest when the peer's certificate expires.
///
/// A session machine knows no wall time, and a timer no clock that is set meanwhile: so the driver looks at the wall
/// clock itself, now and then and at the very moment.
pub(super) async fn run_until_expiry(
    handle: &SessionHandle,
    session: impl Future<Output = Ended>,
    expires_at: Option<SystemTime>,
) -> Ended {
    // A future of some size, which would be in this one twice.
    let mut session = Box::pin(session);
    tokio::select! {
        ended = &mut session => return ended,
        () = expiry(expires_at) => handle.end(Ended::CutOff(Rejection::Expired)),
    }
    session.await
}

/// Comes with the first second in which a certificate with this end is not valid any more.
async fn expiry(expires_at: Option<SystemTime>) {
    let Some(expires_at) = expires_at else { return std::future::pending().await };
    let end = expires_at + Duration::from_secs(1);
    loop {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(SystemClock.unix_ms());
        match end.duration_since(now) {
            Ok(left) if !left.is_zero() => sleep(left.min(EXPIRY_GLANCE)).await,
            _ => return,
        }
    }
}

/// How often the wall clock is looked at for the end of a certificate.
const EXPIRY_GLANCE: Duration = Duration::from_secs(60);

/// Tells the peer why, after what is still to be written, and gives it a moment to hear it.
pub(super) async fn say_goodbye<S>(mut stream: S, mut writer: MessageWriter, mut output: BytesMut, reason: CloseReason)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let said = writer.push(&Message::Close(reason), &mut output).and_then(|_| writer.flush(&mut output));
    if said.is_err() {
        return;
    }
    let told = async {
        if stream.write_all_buf(&mut output).await.is_ok() {
            hang_up(stream).await;
        }
    };
    // A peer that does not listen has been told all the same.
    let _ = timeout(GOODBYE, told).await;
}

/// Closes this end and waits a moment until the peer closes its own: to drop a connection on which bytes still arrive
/// would reset it, and take back the last words.
pub(super) async fn hang_up<S>(mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let closed = async {
        let mut ignored = [0; 4096];
        if stream.shutdown().await.is_ok() {
            while stream.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
        }
    };
    let _ = timeout(GOODBYE, closed).await;
}

fn misbehaved(endpoint: &Endpoint, error: CodecError) -> SessionError {
    SessionError::PeerMisbehaved { node: endpoint.status().peer, what: PeerMisbehaved::Codec(error) }
}

/// The clock of the runtime, which tests can stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
