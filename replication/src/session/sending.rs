//! Reading ahead and sending: within credit, in fair rotation over spaces and their logs.

use std::{collections::VecDeque, time::Instant};

use counterfoil_storage::{Batch, LogId};

use super::{
    FetchFailure, FetchRequest, Purpose, Session, check_windows,
    state::{Log, Outgoing, Streaming},
};
use crate::{
    error::PeerMisbehaved,
    message::{Announce, Credit, Message, ParkReason, Window},
};

/// What is waiting to be read and sent, over all spaces.
#[derive(Debug, Default)]
pub(super) struct SourceQueues {
    /// Bytes sent whose credit has not been returned; sending begins only below the peer's window.
    used_bytes: u64,
    /// Spaces with logs ready to send and credit, in rotation.
    send_order: VecDeque<usize>,
    /// Spaces with logs that want to be read and credit, in rotation.
    fetch_order: VecDeque<usize>,
    /// Logs in which the target's head is to be looked for.
    pub(super) checks: VecDeque<LogId>,
    /// Reads under way.
    fetches: usize,
    /// What those of them bring that are to be sent, a batch each aside.
    fetching_bytes: usize,
    /// Bytes of batches read and not sent.
    pub(super) ready_bytes: usize,
    /// Spaces of which the target has told a sketch that is being made use of.
    pub(super) placing: Vec<usize>,
}

impl Session {
    pub(super) fn handle_credit(&mut self, credit: &Credit) -> Result<(), PeerMisbehaved> {
        let Some(&index) = self.space_index.get(&credit.space) else {
            return Err(PeerMisbehaved::UnknownSpace { space: credit.space.clone() });
        };
        let overflow = || PeerMisbehaved::CreditOverflow { bytes: credit.bytes };
        let space = &mut self.spaces[index];
        space.used_bytes = space.used_bytes.checked_sub(credit.bytes).ok_or_else(overflow)?;
        self.source.used_bytes = self.source.used_bytes.checked_sub(credit.bytes).ok_or_else(overflow)?;
        self.enqueue_space(index);
        Ok(())
    }

    /// The peer says how much may be outstanding from now on.
    pub(super) fn handle_window(&mut self, window: Window) -> Result<(), PeerMisbehaved> {
        check_windows(window.session_bytes, window.space_bytes)?;
        if let Some(peer) = &mut self.peer {
            peer.session_window_bytes = window.session_bytes;
            peer.space_window_bytes = window.space_bytes;
        }
        for index in 0..self.spaces.len() {
            self.enqueue_space(index);
        }
        Ok(())
    }

    /// Bytes that may still be sent in a space; any positive number admits one batch.
    fn space_credit(&self, index: usize) -> u64 {
        self.peer.map_or(0, |peer| peer.space_window_bytes.saturating_sub(self.spaces[index].used_bytes))
    }

    /// Whether anything may be sent in the session at present.
    fn has_credit(&self) -> bool {
        self.peer.is_some_and(|peer| self.source.used_bytes < peer.session_window_bytes)
    }

    /// Puts a space in the rotations that it belongs to.
    fn enqueue_space(&mut self, index: usize) {
        if self.space_credit(index) == 0 {
            return;
        }
        let space = &mut self.spaces[index];
        if !space.ready.is_empty() && !std::mem::replace(&mut space.in_send_order, true) {
            self.source.send_order.push_back(index);
        }
        if !space.fetch.is_empty() && !std::mem::replace(&mut space.in_fetch_order, true) {
            self.source.fetch_order.push_back(index);
        }
    }

    /// Puts a log in its space's list of logs to read, if there is something to read.
    pub(super) fn want_fetch(&mut self, id: LogId) {
        let watermark = self.config.limits.fetch_bytes / 2;
        let Some(log) = self.logs.get_mut(&id) else { return };
        let wants = log.wants_fetch(watermark);
        if wants && !std::mem::replace(&mut log.in_fetch, true) {
            let index = log.space;
            self.spaces[index].fetch.push_back(id);
            self.enqueue_space(index);
        }
    }

    /// Puts a log in its space's list of logs ready to send, if it is.
    pub(super) fn want_send(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        if log.can_send() && !std::mem::replace(&mut log.in_ready, true) {
            let index = log.space;
            self.spaces[index].ready.push_back(id);
            self.enqueue_space(index);
        }
    }

    /// The next range to be read; give the result to [`handle_fetched`](Self::handle_fetched).
    pub fn poll_fetch(&mut self) -> Option<FetchRequest> {
        if self.source.fetches >= self.config.limits.fetches_max {
            return None;
        }
        let request = self
            .next_check()
            .or_else(|| self.next_judgement())
            .or_else(|| self.next_mend_read())
            .or_else(|| self.next_read())?;
        self.source.fetches += 1;
        Some(request)
    }

    fn next_check(&mut self) -> Option<FetchRequest> {
        while let Some(id) = self.source.checks.pop_front() {
            let Some(index) = self.logs.get(&id).map(|log| log.space) else { continue };
            let bytes_max = self.fetch_bytes_max(index);
            let Some(log) = self.logs.get_mut(&id) else { continue };
            log.in_checks = false;
            let (from, fetching) = match &mut log.outgoing {
                Outgoing::Checking { remote, fetching } => (remote.next_seq, fetching),
                Outgoing::Placing { marked, fetching } => (marked.next_seq, fetching),
                _ => continue,
            };
            if !std::mem::replace(fetching, true) {
                let (generation, purpose) = (log.generation, Purpose::Stream);
                self.source.fetching_bytes += bytes_max;
                return Some(FetchRequest { log: id, from, before: None, bytes_max, generation, purpose });
            }
        }
        None
    }

    fn next_read(&mut self) -> Option<FetchRequest> {
        let watermark = self.config.limits.fetch_bytes / 2;
        while let Some(&index) = self.source.fetch_order.front() {
            let bytes_max = self.fetch_bytes_max(index);
            let has_credit = self.space_credit(index) > 0;
            let space = &mut self.spaces[index];
            let id = if has_credit { space.fetch.pop_front() } else { None };
            let Some(id) = id else {
                space.in_fetch_order = false;
                self.source.fetch_order.pop_front();
                continue;
            };
            let Some(log) = self.logs.get_mut(&id) else { continue };
            log.in_fetch = false;
            if !log.wants_fetch(watermark) {
                continue;
            }
            let generation = log.generation;
            if let Outgoing::Streaming(streaming) = &mut log.outgoing {
                if bytes_max == 0 && !streaming.ready.is_empty() {
                    // Over the budget: it is read again once it has sent what it has.
                    continue;
                }
                streaming.fetching = true;
                self.source.fetching_bytes += bytes_max;
                self.source.fetch_order.rotate_left(1);
                let (from, purpose) = (streaming.read.next_seq, Purpose::Stream);
                return Some(FetchRequest { log: id, from, before: None, bytes_max, generation, purpose });
            }
        }
        None
    }

    /// How much to read for a space at present; 0, that is one batch, when enough has been read ahead.
    fn fetch_bytes_max(&self, index: usize) -> usize {
        let limits = &self.config.limits;
        let left = limits.ready_bytes_max.saturating_sub(self.source.ready_bytes + self.source.fetching_bytes);
        limits.fetch_bytes.min(left).min(usize::try_from(self.space_credit(index)).unwrap_or(usize::MAX))
    }

    /// Takes what was read: batches in order, the first of them the one that holds the record asked for;
    /// or why there is none.
    pub fn handle_fetched(&mut self, now: Instant, request: FetchRequest, result: Result<Vec<Batch>, FetchFailure>) {
        self.source.fetches = self.source.fetches.saturating_sub(1);
        if request.purpose == Purpose::Judge {
            return self.handle_judged(request.log, &result);
        }
        if request.purpose == Purpose::Mend {
            return self.handle_mend_read(&request, result);
        }
        self.source.fetching_bytes -= request.bytes_max;
        self.liveness.flowing(now);
        let Some(log) = self.logs.get_mut(&request.log) else { return };
        if log.generation != request.generation {
            return;
        }
        let index = log.space;
        let source_head = log.head();
        match (&mut log.outgoing, result) {
            (Outgoing::Placing { .. }, Err(_)) => self.unplace(request.log),
            (Outgoing::Placing { .. }, Ok(batches)) => self.place(request.log, batches),
            (Outgoing::Checking { .. }, Err(failure)) => self.park_outgoing(request.log, failure.into()),
            (Outgoing::Checking { remote, fetching }, Ok(batches)) => {
                let remote = *remote;
                *fetching = false;
                // Nothing yet: looked for again when more is durable.
                let Some(first) = batches.first() else { return };
                if first.first_seq() == remote.next_seq && first.header().previous == remote.digest {
                    self.stream_from(request.log, remote);
                    self.take_ready(request.log, batches);
                } else {
                    let reason = ParkReason::Diverged { source_head, target_head: remote };
                    self.park_outgoing(request.log, reason);
                }
            }
            (Outgoing::Streaming(streaming), Err(failure)) => {
                streaming.fetching = false;
                self.block(request.log, failure.into());
            }
            (Outgoing::Streaming(streaming), Ok(batches)) => {
                streaming.fetching = false;
                self.take_ready(request.log, batches);
            }
            _ => {}
        }
        self.ask_for_unplaced(now);
        self.check_in_sync(index);
    }

    /// Makes batches ready to send, as far as they continue the chain.
    pub(super) fn take_ready(&mut self, id: LogId, batches: Vec<Batch>) {
        let limit_bytes = self.peer.map_or(0, |peer| u64::from(peer.batch_len_max_bytes));
        let Some(Log { outgoing: Outgoing::Streaming(streaming), .. }) = self.logs.get_mut(&id) else { return };
        let mut blocked = None;
        let taken_any = !batches.is_empty();
        for batch in batches {
            let (first_seq, len_bytes) = (batch.first_seq(), batch.bytes().len() as u64);
            if first_seq != streaming.read.next_seq || batch.header().previous != streaming.read.digest {
                blocked = Some(ParkReason::Chain { first_seq, target_head: streaming.read });
            } else if len_bytes > limit_bytes {
                blocked = Some(ParkReason::BatchTooLong { first_seq, len_bytes, limit_bytes });
            }
            if blocked.is_some() {
                break;
            }
            streaming.read = batch.head();
            streaming.ready_bytes += batch.bytes().len();
            self.source.ready_bytes += batch.bytes().len();
            streaming.ready.push_back(batch);
        }
        self.want_send(id);
        if let Some(reason) = blocked {
            self.block(id, reason);
        } else if taken_any {
            self.want_fetch(id);
        }
    }

    /// Stops a log once what is ready has been sent.
    fn block(&mut self, id: LogId, reason: ParkReason) {
        let Some(Log { outgoing: Outgoing::Streaming(streaming), .. }) = self.logs.get_mut(&id) else { return };
        if streaming.ready.is_empty() {
            self.park_outgoing(id, reason);
        } else {
            streaming.blocked = Some(reason);
        }
    }

    /// The next batch, or the announcement of its log, as far as there is credit.
    pub(super) fn next_batch(&mut self) -> Option<Message> {
        while self.has_credit() {
            let &index = self.source.send_order.front()?;
            let has_credit = self.space_credit(index) > 0;
            let space = &mut self.spaces[index];
            let id = if has_credit { space.ready.front().copied() } else { None };
            let Some(id) = id else {
                space.in_send_order = false;
                self.source.send_order.pop_front();
                continue;
            };
            if let Some(message) = self.send_from(index, id) {
                return Some(message);
            }
        }
        None
    }

    /// One message of a log that is at the front of its space's list; `None` if it leaves the list without.
    fn send_from(&mut self, index: usize, id: LogId) -> Option<Message> {
        let space = &mut self.spaces[index];
        let log = self.logs.get_mut(&id)?;
        let (head, can_send) = (log.head(), log.can_send());
        if can_send && !std::mem::replace(&mut log.is_announced, true) {
            return Some(Message::Announce(Announce { genesis: (*log.genesis).clone(), head }));
        }
        let Some(streaming) = log.streaming().filter(|_| can_send) else {
            space.ready.pop_front();
            log.in_ready = false;
            return None;
        };
        let batch = streaming.send()?;
        let blocked = if streaming.ready.is_empty() { streaming.blocked.take() } else { None };
        let len = batch.bytes().len();
        log.in_flight.push(batch.head(), len as u64);
        log.in_ready = false;
        space.ready.pop_front();
        self.source.ready_bytes -= len;
        self.source.used_bytes += len as u64;
        space.used_bytes += len as u64;
        self.source.send_order.rotate_left(1);
        if let Some(reason) = blocked {
            self.park_outgoing(id, reason);
        } else {
            self.want_send(id);
            self.want_fetch(id);
        }
        Some(Message::Batch(batch))
    }
}

impl Log {
    fn streaming(&mut self) -> Option<&mut Streaming> {
        if let Outgoing::Streaming(streaming) = &mut self.outgoing { Some(streaming) } else { None }
    }

    fn can_send(&self) -> bool {
        matches!(&self.outgoing, Outgoing::Streaming(streaming) if !streaming.ready.is_empty())
            && !self.in_flight.is_full()
    }

    /// Whether more of it should be read, given how many bytes ready to send are enough.
    fn wants_fetch(&self, watermark: usize) -> bool {
        matches!(&self.outgoing, Outgoing::Streaming(streaming)
            if !streaming.fetching
                && streaming.blocked.is_none()
                && streaming.ready_bytes <= watermark
                && streaming.read.next_seq < self.head().next_seq)
    }
}

impl Streaming {
    /// Takes the next batch to send.
    fn send(&mut self) -> Option<Batch> {
        let batch = self.ready.pop_front()?;
        assert_eq!(batch.header().previous, self.sent.digest, "what is ready continues what was sent");
        self.ready_bytes -= batch.bytes().len();
        self.sent = batch.head();
        Some(batch)
    }
}

impl From<FetchFailure> for ParkReason {
    fn from(failure: FetchFailure) -> Self {
        Self::Gap { first_seq: failure.first_seq, next_seq: failure.next_seq, cause: failure.cause }
    }
}
