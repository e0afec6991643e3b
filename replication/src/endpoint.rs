//! A session tied to a journal.

mod news;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use counterfoil_storage::{
    AppendError, Batch, Genesis, Head, Journal, LogId, LogInfo, LogReader, ReadError, Receipt, Seq, SpaceName,
    StoreError, Stored,
};

use self::news::{Changed, News};
use crate::{
    acks::{AckBoard, Subscription},
    codec,
    config::{Direction, SessionConfig},
    error::SessionError,
    event::{Event, Held, SessionStatus},
    message::{GapCause, Message},
    policy::Policy,
    session::{
        FetchFailure, FetchRequest, LogState, MendingRequest, MendingResult, Session, StoreFailure, StoreRequest,
    },
};

/// Readers kept between fetches, so that following a log does not look up its place each time.
const READERS_MAX: usize = 64;

/// How long to wait before a full queue is tried again, should the journal's watch say nothing.
const QUEUE_RETRY: Duration = Duration::from_millis(20);

/// A session tied to a journal; still without sockets, clocks and threads.
///
/// After each `handle_…`, drain [`poll_commit`](Self::poll_commit), [`poll_event`](Self::poll_event), [`poll_fetch`](Self::poll_fetch) and
/// [`poll_transmit`](Self::poll_transmit) (as far as the connection takes messages), then wait for whichever
/// comes first: a message, the journal's watch, a fetch that is done, or [`poll_timeout`](Self::poll_timeout).
/// An error ends the session: tell the peer [`SessionError::close_reason`], close the connection, drop the endpoint.
///
/// **Durability**: what the peer streams is queued in the journal and acknowledged once
/// [`handle_journal`](Self::handle_journal) finds it durable. Dropping an endpoint loses nothing that was acknowledged.
#[derive(Debug)]
pub struct Endpoint {
    session: Session,
    journal: Journal,
    /// Batches that the journal's queue had no room for, in order; their bytes are within the session's window.
    waiting: VecDeque<StoreRequest>,
    /// When to try `waiting` again.
    retry_at: Option<Instant>,
    /// Promises for batches queued and not yet seen durable, in order; within the session's window.
    receipts: VecDeque<(LogId, Receipt)>,
    /// Where earlier fetches stopped; at most [`READERS_MAX`].
    readers: HashMap<LogId, Reader>,
    news: News,
    /// Where acks of other nodes are heard of, to be passed on.
    acks: Option<Subscription>,
    /// What is said is to be compressed once the peer takes that.
    compresses: bool,
    /// What has been queued in the journal since a commit was last taken.
    queued: Queued,
}

/// What has been queued and for how much of it a commit is to be had.
#[derive(Debug, Clone, Copy, Default)]
struct Queued {
    batches: usize,
    bytes: usize,
}

/// A commit that somebody is to have made, of what an endpoint has queued in its journal.
#[derive(Debug)]
#[must_use = "nothing else has it committed soon"]
pub struct Commit {
    journal: Journal,
    /// It is little, and nothing else of the session is under way: its latency counts.
    pub is_urgent: bool,
}

impl Commit {
    /// Makes it here, which blocks while the disk does, unless the journal is busy with another: then that one is
    /// followed by it at once.
    pub fn run(self) {
        self.journal.commit_if_idle();
    }

    /// Has the journal's own thread make it. Never blocks.
    pub fn nudge(self) {
        self.journal.nudge();
    }
}

/// So many bytes are little: they are written in a fraction of the time that flushing them takes.
const URGENT_BYTES_MAX: usize = 32 << 10;

/// A reader and the place at which it goes on.
#[derive(Debug)]
struct Reader {
    at: Seq,
    reader: Box<LogReader>,
}

/// Work for the journal: a range to be read, or a hole to be looked up or filled. It may block: run it anywhere.
#[derive(Debug)]
pub struct Fetch(Work);

#[derive(Debug)]
enum Work {
    Read {
        request: FetchRequest,
        reader: Box<LogReader>,
    },
    /// Backwards from a head.
    ReadBack {
        request: FetchRequest,
        before: Head,
        journal: Journal,
    },
    Mend {
        request: MendingRequest,
        journal: Journal,
    },
}

/// What a [`Fetch`] brought; give it back to the endpoint.
#[derive(Debug)]
pub struct Fetched(Outcome);

#[derive(Debug)]
enum Outcome {
    Read {
        request: FetchRequest,
        result: Result<Vec<Batch>, FetchFailure>,
        /// The reader that it leaves, unless reading failed.
        reader: Option<Box<LogReader>>,
    },
    Mended(MendingResult),
}

impl Fetch {
    /// Does the work. Blocks while the disk does.
    pub fn run(self) -> Fetched {
        Fetched(match self.0 {
            Work::Read { request, reader } => read(request, reader),
            Work::ReadBack { request, before, journal } => {
                let result = read_back(&journal, &request, before);
                Outcome::Read { request, result, reader: None }
            }
            Work::Mend { request, journal } => Outcome::Mended(mend(&journal, request)),
        })
    }
}

fn read(request: FetchRequest, mut reader: Box<LogReader>) -> Outcome {
    let mut batches = Vec::new();
    let mut bytes = 0;
    let mut failure = None;
    loop {
        match reader.next() {
            Some(Ok(batch)) => {
                bytes += batch.bytes().len();
                batches.push(batch);
                if bytes >= request.bytes_max {
                    break;
                }
            }
            Some(Err(error)) => {
                failure = Some(failure_of(&error, request.from));
                break;
            }
            None => break,
        }
    }
    let reader = failure.is_none().then_some(reader);
    // What was read before the failure is of use; the next fetch meets the failure first.
    let result = match failure {
        Some(failure) if batches.is_empty() => Err(failure),
        _ => Ok(batches),
    };
    Outcome::Read { request, result, reader }
}

/// Reads batches back from the one that ends in `before`, as far as each is the one whose digest the last one names.
fn read_back(journal: &Journal, request: &FetchRequest, mut before: Head) -> Result<Vec<Batch>, FetchFailure> {
    let mut batches = Vec::new();
    let mut bytes = 0;
    let mut failure = None;
    while before.next_seq > request.from && (batches.is_empty() || bytes < request.bytes_max) {
        let last = Seq(before.next_seq.0 - 1);
        match journal.read_batch(request.log, last) {
            Ok(Some(batch)) if batch.head() == before => {
                before = Head { next_seq: batch.first_seq(), digest: batch.header().previous };
                bytes += batch.bytes().len();
                batches.push(batch);
            }
            Ok(_) => {
                let cause = GapCause::Absent;
                failure = Some(FetchFailure { first_seq: request.from, next_seq: before.next_seq, cause });
                break;
            }
            Err(error) => {
                failure = Some(failure_of(&error, last));
                break;
            }
        }
    }
    failure.filter(|_| batches.is_empty()).map_or(Ok(batches), Err)
}

/// Looks holes up, or fills one.
fn mend(journal: &Journal, request: MendingRequest) -> MendingResult {
    match request {
        MendingRequest::Ends(log) => {
            let holes = journal.holes(log);
            let holes = holes.inspect_err(|error| tracing::warn!(%log, %error, "holes can't be looked up"));
            MendingResult::Ends(log, holes.ok())
        }
        MendingRequest::Store { log, batches } => {
            let mended = journal.mend(&batches);
            let mended = mended.inspect_err(|error| tracing::warn!(%log, %error, "a hole can't be filled"));
            MendingResult::Stored(log, mended.is_ok())
        }
    }
}

fn failure_of(error: &ReadError, from: Seq) -> FetchFailure {
    match error {
        ReadError::Damaged { first_seq, next_seq, .. } => {
            FetchFailure { first_seq: *first_seq, next_seq: *next_seq, cause: GapCause::Damaged }
        }
        ReadError::Hole { first_seq, next_seq, .. } => {
            FetchFailure { first_seq: *first_seq, next_seq: *next_seq, cause: GapCause::Hole }
        }
        ReadError::Trimmed { first_seq, first_available, .. } => {
            FetchFailure { first_seq: *first_seq, next_seq: *first_available, cause: GapCause::Trimmed }
        }
        _ => FetchFailure { first_seq: from, next_seq: Seq(from.0.saturating_add(1)), cause: GapCause::Unreadable },
    }
}

/// Whether a log that ends there elsewhere is longer than here, or has another history.
fn is_rewound(journal: &Journal, log: LogId, remote: Head) -> bool {
    let Some(last) = remote.next_seq.0.checked_sub(1) else { return false };
    match journal.log(log) {
        Some(info) if info.durable.next_seq >= remote.next_seq => {
            matches!(journal.read_batch(log, Seq(last)), Ok(Some(batch)) if batch.head() != remote)
        }
        _ => true,
    }
}

impl Endpoint {
    /// Begins a session over `journal`.
    pub fn new(journal: Journal, config: SessionConfig, now: Instant) -> Self {
        let mut endpoint = Self {
            session: Session::new(config, now),
            news: News::of(journal.clone()),
            journal,
            waiting: VecDeque::new(),
            retry_at: None,
            receipts: VecDeque::new(),
            readers: HashMap::new(),
            acks: None,
            compresses: false,
            queued: Queued::default(),
        };
        endpoint.load(now);
        endpoint
    }

    /// Passes on, of the logs that flow in, the acks that the sessions of this store hear, and goes on from what was said in
    /// earlier sessions: give it the store's board, before anything was sent.
    #[must_use]
    pub fn with_acks(mut self, board: &Arc<AckBoard>) -> Self {
        self.acks = Some(board.subscribe(self.session.config().peer.clone()));
        self.session.remember_in(board.memory());
        self
    }

    /// Has the driver compress what is said, as soon as the peer says that it takes that.
    #[must_use]
    pub fn compressing(mut self, compresses: bool) -> Self {
        self.compresses = compresses;
        self
    }

    /// Whether what is said from now on is to be compressed.
    pub fn is_to_compress(&self) -> bool {
        self.compresses && codec::TAKES_ZSTD && self.session.peer_takes_zstd()
    }

    /// Brings another space into the session.
    pub fn bring(&mut self, now: Instant, space: &SpaceName, direction: Direction) {
        self.session.bring(space, direction);
        self.load(now);
    }

    /// Takes a message from the peer.
    pub fn handle_message(&mut self, now: Instant, message: Message) -> Result<(), SessionError> {
        self.session.handle_message(now, message)?;
        self.load(now);
        self.note_opened();
        self.store(now)
    }

    /// Ready when the journal, or the board of acks, has news for this session since it was last ready, else the task is woken by the next:
    /// call [`handle_journal`](Self::handle_journal). For drivers that have no watch of their own.
    pub fn poll_journal(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Both are asked, so that both know whom to wake.
        let acks = self.acks.as_ref().map_or(Poll::Pending, |acks| acks.poll(cx));
        if self.news.poll(cx).is_ready() { Poll::Ready(()) } else { acks }
    }

    /// Call when the journal's watch says that something became durable, or that the journal failed, and when there are
    /// acks to pass on.
    pub fn handle_journal(&mut self, now: Instant) -> Result<(), SessionError> {
        self.check_life()?;
        match self.news.take(self.session.spaces()) {
            Changed::Spaces(spaces) => spaces.iter().for_each(|space| self.update(now, space)),
            Changed::Logs(logs) => logs.into_iter().for_each(|log| self.update_log(now, log)),
        }
        self.note_opened();
        self.pass_on();
        self.check_receipts(now)?;
        self.store(now)
    }

    /// Call when [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        self.check_life()?;
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.store(now)?;
        }
        self.session.handle_timeout(now)
    }

    /// Call after events were taken: if the peer's word shows that this node was rolled back, its store begins a new life, and the
    /// session ends, so that the next one is of that life. Drivers that never call it only tell what they see. It blocks then,
    /// while the disk does.
    pub fn check_rewound(&mut self) -> Result<(), SessionError> {
        while let Some((log, remote)) = self.session.poll_claim() {
            if !is_rewound(&self.journal, log, remote) {
                continue;
            }
            let peer = &self.session.config().peer;
            tracing::warn!(%log, %peer, next_seq = %remote.next_seq, "a peer holds what this node wrote and does not have: it was rolled back");
            match self.journal.begin_new_life(self.session.config().incarnation) {
                Ok(()) => return Err(SessionError::NewLife),
                Err(error) => {
                    tracing::warn!(%log, %error, "this node goes on in the same logs though it was rolled back");
                }
            }
        }
        Ok(())
    }

    /// The session of an earlier life of this node ends.
    fn check_life(&self) -> Result<(), SessionError> {
        if self.journal.identity().incarnation == self.session.config().incarnation {
            Ok(())
        } else {
            Err(SessionError::NewLife)
        }
    }

    /// Call when the policy was reloaded. An error (the peer is denied now) ends the session.
    pub fn handle_policy(&mut self, now: Instant, policy: Arc<Policy>) -> Result<(), SessionError> {
        self.session.handle_policy(policy)?;
        self.load(now);
        Ok(())
    }

    /// Takes what a fetch brought.
    pub fn handle_fetched(&mut self, now: Instant, fetched: Fetched) -> Result<(), SessionError> {
        let (request, result, reader) = match fetched.0 {
            Outcome::Read { request, result, reader } => (request, result, reader),
            Outcome::Mended(result) => {
                self.session.handle_mending(result);
                return Ok(());
            }
        };
        if let (Some(reader), Ok(batches)) = (reader.filter(|_| request.is_stream()), &result) {
            let at = batches.last().map_or(request.from, Batch::next_seq);
            if self.readers.len() >= READERS_MAX {
                self.readers.clear();
            }
            self.readers.insert(request.log, Reader { at, reader });
        }
        self.session.handle_fetched(now, request, result);
        Ok(())
    }

    /// The next message to send. Call only when the connection takes one: what can be sent later may be better.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        let message = self.session.poll_transmit();
        if matches!(message, Some(Message::Heads(_))) {
            // With the answer to an offer, the flows of the logs that it names are open.
            self.note_opened();
        }
        message
    }

    /// The next work for the journal. Several may be run at once.
    pub fn poll_fetch(&mut self) -> Option<Fetch> {
        let Some(request) = self.session.poll_fetch() else {
            let request = self.session.poll_mending()?;
            return Some(Fetch(Work::Mend { request, journal: self.journal.clone() }));
        };
        if let Some(before) = request.before {
            return Some(Fetch(Work::ReadBack { request, before, journal: self.journal.clone() }));
        }
        let kept = if request.is_stream() { self.readers.remove(&request.log) } else { None };
        let kept = kept.filter(|kept| kept.at == request.from);
        let reader = kept.map_or_else(|| Box::new(self.journal.read(request.log, request.from)), |kept| kept.reader);
        Some(Fetch(Work::Read { request, reader }))
    }

    /// What has been queued since this was last asked is to be committed: nobody blocks on it, so it would wait until the
    /// journal does so by itself.
    pub fn poll_commit(&mut self) -> Option<Commit> {
        let Queued { batches, bytes } = std::mem::take(&mut self.queued);
        let is_urgent = bytes <= URGENT_BYTES_MAX && self.receipts.len() <= batches && self.waiting.is_empty();
        (batches > 0).then(|| Commit { journal: self.journal.clone(), is_urgent })
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.session.poll_event()?;
        self.acks.iter().for_each(|acks| acks.note(&event));
        Some(event)
    }

    /// The connection is gone: from now on the peer can't take back what it said, so nothing of that counts first-hand. Nothing is passed on any more.
    pub fn hang_up(&mut self) {
        self.acks = None;
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.session.poll_timeout(), self.retry_at].into_iter().flatten().min()
    }

    /// The longest batch that this end takes, in bytes: for [`codec::decode`](crate::codec::decode).
    pub fn batch_len_max_bytes(&self) -> u32 {
        self.session.config().limits.batch_len_max_bytes
    }

    /// How the session stands.
    pub fn status(&self) -> SessionStatus {
        self.session.status()
    }

    /// What the session holds in memory.
    pub fn held(&self) -> Held {
        self.session.held()
    }

    /// Has acks passed on of the logs whose flow towards this end has opened.
    fn note_opened(&mut self) {
        let mut has_any = false;
        while let Some(log) = self.session.poll_opened() {
            self.acks.iter().for_each(|acks| acks.add(log));
            has_any = true;
        }
        // The board is asked only when it has something: it is shared, and messages are many.
        if has_any {
            self.pass_on();
        }
    }

    /// Gives the session the acks that it is to pass on.
    fn pass_on(&mut self) {
        let Some(acks) = &self.acks else { return };
        for ack in acks.take() {
            self.session.handle_acked_elsewhere(&ack);
        }
    }

    /// Tells the session of the logs that it asks for.
    fn load(&mut self, now: Instant) {
        while let Some(log) = self.session.poll_lookup() {
            let state = self.journal.log(log).map(LogState::from);
            self.session.handle_lookup(log, state.as_ref());
        }
        while let Some(space) = self.session.poll_load() {
            // Before its logs are looked at, so that no change comes between.
            self.news.watch(&space);
            self.update(now, &space);
        }
    }

    fn update(&mut self, now: Instant, space: &SpaceName) {
        let logs: Vec<LogState> = self.journal.logs(Some(space)).into_iter().map(LogState::from).collect();
        self.session.handle_logs(now, space, &logs);
    }

    fn update_log(&mut self, now: Instant, log: LogId) {
        let Some(info) = self.journal.log(log) else { return };
        // A space that the session has not asked for is told whole when it does.
        if self.session.has_asked_for(&info.genesis.space) {
            let space = info.genesis.space.clone();
            self.session.handle_logs(now, &space, &[info.into()]);
        }
    }

    /// Queues what the session gives to store, as far as the journal's queue takes it.
    fn store(&mut self, now: Instant) -> Result<(), SessionError> {
        while let Some(request) = self.session.poll_store() {
            self.waiting.push_back(request);
        }
        if self.waiting.is_empty() {
            return Ok(());
        }
        while let Some(request) = self.waiting.pop_front() {
            let bytes = request.batch.bytes().len();
            if let Err(AppendError::WouldBlock { .. }) = self.store_one(now, &request)? {
                self.waiting.push_front(request);
                self.retry_at = Some(now + QUEUE_RETRY);
                break;
            }
            self.queued = Queued { batches: self.queued.batches + 1, bytes: self.queued.bytes + bytes };
        }
        Ok(())
    }

    /// Whether a log is one that this node writes in its present life.
    fn is_own(&self, genesis: &Genesis) -> bool {
        let identity = self.journal.identity();
        genesis.node == identity.node && genesis.nonce == *identity.incarnation.as_bytes()
    }

    /// The inner error is one after which the batch is to be tried again.
    fn store_one(&mut self, now: Instant, request: &StoreRequest) -> Result<Result<(), AppendError>, SessionError> {
        let (log, first_seq) = (request.batch.log(), request.batch.first_seq());
        let stored = match self.journal.log(log) {
            Some(_) => Ok(log),
            // Nobody but this node begins its logs: one that it does not know is not to become its own.
            None if self.is_own(&request.genesis) => {
                self.session.note_claim(log, request.batch.head());
                self.session.handle_store_failed(now, log, StoreFailure::Forged);
                return Ok(Ok(()));
            }
            None => self.journal.create_log((*request.genesis).clone()),
        };
        let stored = stored.map_err(StoreError::from).and_then(|_| self.journal.try_store(request.batch.clone()));
        let failure = match stored {
            Ok(Stored::Queued(receipt)) => {
                self.receipts.push_back((log, receipt));
                return Ok(Ok(()));
            }
            Ok(Stored::Duplicate) => return Ok(Ok(())),
            Err(StoreError::Read(error)) => {
                // It was stored once; that it can't be read now is for verification and repair to mend.
                tracing::warn!(%error, "a batch that came again can't be compared with what is stored");
                return Ok(Ok(()));
            }
            Err(StoreError::Append(error @ AppendError::WouldBlock { .. })) => return Ok(Err(error)),
            Err(StoreError::Append(error)) => return self.fail(now, log, error).map(Ok),
            Err(StoreError::Gap { .. }) => StoreFailure::Retry,
            Err(StoreError::Diverged { local, .. }) => StoreFailure::Diverged { first_seq, local },
            Err(_) => StoreFailure::Unsound { first_seq },
        };
        self.session.handle_store_failed(now, log, failure);
        Ok(Ok(()))
    }

    /// Learns which of the queued batches did not become durable.
    fn check_receipts(&mut self, now: Instant) -> Result<(), SessionError> {
        while let Some((log, receipt)) = self.receipts.front() {
            let log = *log;
            match receipt.is_durable() {
                Ok(false) => break,
                Ok(true) => drop(self.receipts.pop_front()),
                Err(error) => {
                    self.receipts.pop_front();
                    self.fail(now, log, error)?;
                }
            }
        }
        Ok(())
    }

    /// A full disk holds back one log until there is room; any other failure of the journal ends the session.
    fn fail(&mut self, now: Instant, log: LogId, error: AppendError) -> Result<(), SessionError> {
        match error {
            AppendError::StorageFull => {
                self.session.handle_store_failed(now, log, StoreFailure::Retry);
                Ok(())
            }
            error => Err(SessionError::Store(error)),
        }
    }
}

impl From<LogInfo> for LogState {
    fn from(info: LogInfo) -> Self {
        let LogInfo { id, genesis, first_seq, durable, bytes, holes, .. } = info;
        Self { id, genesis, first_seq, durable, bytes, holes }
    }
}

#[cfg(test)]
mod tests;
