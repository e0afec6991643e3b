//! The end that streams: offers, finding the target's heads on the chains here, reading ahead, sending
//! within credit in fair rotation, and believing acknowledgements only of what was sent.

use std::{collections::VecDeque, time::Instant};

use counterfoil_storage::{Batch, Head, LogId, Seq};

use super::{
    FetchFailure, FetchRequest, LogState, Session,
    state::{Boundary, IN_FLIGHT_MAX, Local, Log, Outflow, Outgoing, Streaming},
};
use crate::{
    error::PeerMisbehaved,
    event::{By, Event},
    frontier::{FrontierHash, LogHead},
    message::{
        Ack, Announce, Credit, Flow, GapCause, Heads, Message, Offer, Park, ParkReason, Reconciled, Rewind, Scope,
    },
};

/// What is waiting to be read and sent, over all spaces.
#[derive(Debug, Default)]
pub(super) struct SourceQueues {
    /// Bytes that may be sent; one batch may overdraw it.
    pub(super) credit: i64,
    /// Spaces with logs ready to send and credit, in rotation.
    send_order: VecDeque<usize>,
    /// Spaces with logs that want to be read and credit, in rotation.
    fetch_order: VecDeque<usize>,
    /// Logs in which the target's head is to be looked for.
    checks: VecDeque<LogId>,
    /// Reads under way.
    fetches: usize,
    /// Bytes of batches read and not sent.
    ready_bytes: usize,
}

impl Session {
    /// Hash over those logs of a space that `carries` picks.
    pub(super) fn frontier(&self, index: usize, carries: impl Fn(&Log) -> bool) -> FrontierHash {
        let logs = self.spaces[index].logs.iter().filter_map(|id| self.logs.get(id).map(|log| (*id, log)));
        FrontierHash::of(logs.filter(|(_, log)| carries(log)).map(|(log, state)| LogHead { log, head: state.head() }))
    }

    /// Offers a space whose logs are here.
    pub(super) fn offer(&mut self, index: usize) {
        let all = self.frontier(index, |_| true);
        let own = self.frontier(index, |log| self.source_carries(Scope::Own, log));
        let space = &mut self.spaces[index];
        space.offer_due = false;
        space.outflow = Outflow::Offered;
        self.control.push_back(Message::Offer(Offer { space: space.name.clone(), all, own }));
        for id in self.log_ids(index) {
            let offered = self.logs.get(&id).map(Log::head);
            self.set_outgoing(id, Outgoing::Awaiting { offered });
        }
    }

    fn log_ids(&self, index: usize) -> Vec<LogId> {
        self.spaces[index].logs.iter().copied().collect()
    }

    /// The target has what was offered.
    pub(super) fn handle_equal(&mut self, now: Instant, answer: &Reconciled) -> Result<(), PeerMisbehaved> {
        let unexpected = || PeerMisbehaved::UnexpectedAnswer { space: answer.space.clone() };
        let &index = self.space_index.get(&answer.space).ok_or_else(unexpected)?;
        if self.spaces[index].outflow != Outflow::Offered {
            return Err(unexpected());
        }
        self.spaces[index].outflow = Outflow::Answering { scope: answer.scope };
        for id in self.log_ids(index) {
            let Some(log) = self.logs.get(&id) else { continue };
            match log.outgoing {
                Outgoing::Awaiting { offered: Some(head) }
                    if head.next_seq > Seq::ZERO && self.source_carries(answer.scope, log) =>
                {
                    self.stream_from(id, head, false);
                }
                _ => {}
            }
        }
        self.finish_answer(now, index, answer.scope);
        Ok(())
    }

    /// The target says what it has.
    pub(super) fn handle_heads(&mut self, now: Instant, heads: &Heads) -> Result<(), PeerMisbehaved> {
        let unexpected = || PeerMisbehaved::UnexpectedAnswer { space: heads.space.clone() };
        let &index = self.space_index.get(&heads.space).ok_or_else(unexpected)?;
        let scope = heads.scope;
        match self.spaces[index].outflow {
            Outflow::Offered | Outflow::Open { .. } | Outflow::Answering { .. } if heads.first => {}
            // The target refused before and now has been granted the right to accept.
            Outflow::Refused if heads.first && self.spaces[index].loaded => {}
            Outflow::Answering { scope: begun } if begun == scope && !heads.first => {}
            // This end has just stopped the flow: the answer crossed with that.
            Outflow::Refused => return Ok(()),
            _ => return Err(unexpected()),
        }
        if heads.first {
            self.spaces[index].outflow = Outflow::Answering { scope };
            for id in self.log_ids(index) {
                self.set_outgoing(id, Outgoing::Awaiting { offered: None });
            }
        }
        for LogHead { log: id, head } in &heads.heads {
            let Some(log) = self.logs.get(id) else { continue };
            if log.space == index && self.source_carries(scope, log) {
                self.classify(*id, *head);
            }
        }
        if heads.last {
            self.finish_answer(now, index, scope);
        }
        Ok(())
    }

    /// The answer is complete: what it did not name, the target lacks.
    fn finish_answer(&mut self, now: Instant, index: usize, scope: Scope) {
        self.spaces[index].outflow = Outflow::Open { scope };
        for id in self.log_ids(index) {
            let Some(log) = self.logs.get(&id) else { continue };
            if matches!(log.outgoing, Outgoing::Awaiting { .. }) {
                if self.source_carries(scope, log) && log.has_records() {
                    self.stream_from_start(id);
                } else {
                    self.set_outgoing(id, Outgoing::Idle);
                }
            }
        }
        let space = &mut self.spaces[index];
        space.in_sync = false;
        space.behind_since.get_or_insert(now);
        self.check_in_sync(index);
    }

    /// The one decision of where a log stands, given where it ends at the target. Exactly one row matches.
    fn classify(&mut self, id: LogId, remote: Head) {
        let Some(log) = self.logs.get(&id) else { return };
        let (local, origin) = (log.head(), log.origin);
        let first_seq = log.local.map_or(Seq::ZERO, |local| local.first_seq);
        if remote == local {
            self.stream_from(id, remote, false);
        } else if remote.next_seq > local.next_seq {
            self.set_outgoing(id, Outgoing::Ahead { remote });
            self.events.push_back(Event::Ahead { log: id, local, remote });
        } else if remote.next_seq == local.next_seq {
            self.park_outgoing(id, ParkReason::Diverged { source_head: local, target_head: remote });
        } else if remote == origin {
            self.stream_from_start(id);
        } else if remote.next_seq == Seq::ZERO {
            self.park_outgoing(id, ParkReason::Diverged { source_head: local, target_head: remote });
        } else if remote.next_seq < first_seq {
            let gap = ParkReason::Gap { first_seq: remote.next_seq, next_seq: first_seq, cause: GapCause::Trimmed };
            self.park_outgoing(id, gap);
        } else {
            self.set_outgoing(id, Outgoing::Checking { remote, fetching: false });
            self.want_check(id);
        }
    }

    /// Puts a log in the list of those in which the target's head is to be looked for.
    fn want_check(&mut self, id: LogId) {
        if let Some(log) = self.logs.get_mut(&id)
            && !std::mem::replace(&mut log.in_checks, true)
        {
            self.source.checks.push_back(id);
        }
    }

    /// Streams a log that the target has nothing of.
    fn stream_from_start(&mut self, id: LogId) {
        let Some(log) = self.logs.get(&id) else { return };
        let origin = log.origin;
        let first_seq = log.local.map_or(Seq::ZERO, |local| local.first_seq);
        if first_seq > Seq::ZERO {
            let gap = ParkReason::Gap { first_seq: Seq::ZERO, next_seq: first_seq, cause: GapCause::Trimmed };
            self.park_outgoing(id, gap);
        } else {
            self.stream_from(id, origin, true);
        }
    }

    /// Streams a log from a head of the target's that is on the chain here.
    fn stream_from(&mut self, id: LogId, head: Head, announce: bool) {
        self.set_outgoing(id, Outgoing::Streaming(Streaming::from(head, announce)));
        self.note_peer_head(id, head);
        self.want_fetch(id);
    }

    /// The only way that a log's outgoing state is replaced: what was read ahead is given up.
    pub(super) fn set_outgoing(&mut self, id: LogId, state: Outgoing) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        if let Outgoing::Streaming(streaming) = &log.outgoing {
            self.source.ready_bytes -= streaming.ready_bytes;
        }
        log.outgoing = state;
        log.generation += 1;
    }

    /// Records up to where the peer has a log durable, and tells of it.
    fn note_peer_head(&mut self, id: LogId, head: Head) {
        let (Some(log), Some(peer)) = (self.logs.get_mut(&id), self.peer) else { return };
        let (node, incarnation) = (self.config.peer.clone(), peer.incarnation);
        match log.peer_head.replace(head) {
            Some(from) if head.next_seq < from.next_seq => {
                self.events.push_back(Event::Withdrawn { log: id, node, incarnation, from, to: head });
            }
            Some(from) if head.next_seq == from.next_seq => {}
            None if head.next_seq == Seq::ZERO => {}
            _ => self.events.push_back(Event::Acked { log: id, node, incarnation, head }),
        }
    }

    /// Stops a log at this end and tells both.
    fn park_outgoing(&mut self, id: LogId, reason: ParkReason) {
        self.set_outgoing(id, Outgoing::Parked(reason.clone()));
        self.control.push_back(Message::Park(Park { log: id, flow: Flow::Outgoing, reason: reason.clone() }));
        self.events.push_back(Event::Parked { log: id, reason, by: By::Local });
    }

    /// The peer stopped a log.
    pub(super) fn handle_park(&mut self, park: Park) -> Result<(), PeerMisbehaved> {
        if !self.logs.contains_key(&park.log) {
            // The peer names a log that only it has: nothing flows that could stop.
            self.events.push_back(Event::Parked { log: park.log, reason: park.reason, by: By::Peer });
            return Ok(());
        }
        match park.flow {
            Flow::Incoming => self.set_outgoing(park.log, Outgoing::Parked(park.reason.clone())),
            Flow::Outgoing => self.stop_incoming(park.log, park.reason.clone()),
        }
        self.events.push_back(Event::Parked { log: park.log, reason: park.reason, by: By::Peer });
        Ok(())
    }

    /// Takes a log of a space as it durably is here.
    pub(super) fn update_log(&mut self, now: Instant, index: usize, state: &LogState) {
        let id = state.id;
        if !self.logs.contains_key(&id) && !self.add_log(id, index, &state.genesis) {
            return;
        }
        let Some(log) = self.logs.get_mut(&id) else { return };
        let before = log.head();
        log.local = Some(Local { first_seq: state.first_seq, head: state.durable, bytes: state.bytes });
        if before != state.durable {
            self.advance_outgoing(now, id, index);
        }
        self.advance_incoming(id, before, state.durable);
    }

    /// More of a log is durable here.
    fn advance_outgoing(&mut self, now: Instant, id: LogId, index: usize) {
        let Some(log) = self.logs.get(&id) else { return };
        match log.outgoing {
            Outgoing::Ahead { remote } if log.head().next_seq >= remote.next_seq => self.classify(id, remote),
            Outgoing::Checking { fetching: false, .. } => self.want_check(id),
            Outgoing::Streaming(_) => self.want_fetch(id),
            Outgoing::Idle if log.has_records() => {
                if self.spaces[index].out_scope().is_some_and(|scope| self.source_carries(scope, log)) {
                    self.stream_from_start(id);
                }
            }
            _ => {}
        }
        let Some(scope) = self.spaces[index].out_scope() else { return };
        if self.logs.get(&id).is_some_and(|log| self.source_carries(scope, log) && !log.is_mirrored()) {
            let space = &mut self.spaces[index];
            space.in_sync = false;
            space.behind_since.get_or_insert(now);
        } else {
            self.check_in_sync(index);
        }
    }

    /// The peer has streamed a log that this end might stream to it: no echo.
    pub(super) fn note_received(&mut self, id: LogId, batch: &Batch) {
        let Some(log) = self.logs.get(&id) else { return };
        let Some(scope) = self.spaces[log.space].out_scope() else { return };
        let head = batch.head();
        match &log.outgoing {
            Outgoing::Idle if self.source_carries(scope, log) => {}
            Outgoing::Streaming(streaming) if streaming.sent.next_seq <= batch.first_seq() => {}
            Outgoing::Ahead { remote } if remote.next_seq < head.next_seq => {
                return self.set_outgoing(id, Outgoing::Ahead { remote: head });
            }
            _ => return,
        }
        self.set_outgoing(id, Outgoing::Streaming(Streaming::from(head, false)));
        // Nothing leaves a node before it is durable there, so the peer has it durable.
        self.note_peer_head(id, head);
    }

    pub(super) fn handle_ack(&mut self, ack: &Ack) -> Result<(), PeerMisbehaved> {
        let incarnation = self.peer.map(|peer| peer.incarnation);
        if ack.node != self.config.peer || Some(ack.incarnation) != incarnation {
            return Err(PeerMisbehaved::ForeignAck { node: ack.node.clone() });
        }
        let Some(log) = self.logs.get_mut(&ack.log) else {
            return Err(PeerMisbehaved::UnknownLog { log: ack.log });
        };
        let index = log.space;
        match &mut log.outgoing {
            Outgoing::Streaming(streaming) => {
                if log.peer_head == Some(ack.head) {
                    return Ok(());
                }
                if streaming.acknowledge(ack.head) {
                    self.note_peer_head(ack.log, ack.head);
                    self.want_send(ack.log);
                } else {
                    self.classify(ack.log, ack.head);
                }
            }
            Outgoing::Checking { .. } | Outgoing::Ahead { .. } => self.classify(ack.log, ack.head),
            Outgoing::Idle | Outgoing::Awaiting { .. } | Outgoing::Parked(_) => {}
        }
        self.check_in_sync(index);
        Ok(())
    }

    pub(super) fn handle_rewind(&mut self, rewind: &Rewind) -> Result<(), PeerMisbehaved> {
        let Some(log) = self.logs.get(&rewind.log) else {
            return Err(PeerMisbehaved::UnknownLog { log: rewind.log });
        };
        let index = log.space;
        if matches!(log.outgoing, Outgoing::Streaming(_) | Outgoing::Checking { .. } | Outgoing::Ahead { .. }) {
            self.classify(rewind.log, rewind.head);
            self.check_in_sync(index);
        }
        Ok(())
    }

    pub(super) fn handle_credit(&mut self, credit: &Credit) -> Result<(), PeerMisbehaved> {
        let Some(&index) = self.space_index.get(&credit.space) else {
            return Err(PeerMisbehaved::UnknownSpace { space: credit.space.clone() });
        };
        let Some(peer) = self.peer else { return Err(PeerMisbehaved::NoHello) };
        let overflow = PeerMisbehaved::CreditOverflow { bytes: credit.bytes };
        let bytes = i64::try_from(credit.bytes).map_err(|_| overflow.clone())?;
        let raise = |credit: i64, window: u64| credit.checked_add(bytes).filter(|credit| *credit <= window as i64);
        self.source.credit = raise(self.source.credit, peer.session_window_bytes).ok_or_else(|| overflow.clone())?;
        let space = &mut self.spaces[index];
        space.credit = raise(space.credit, peer.space_window_bytes).ok_or(overflow)?;
        self.enqueue_space(index);
        Ok(())
    }

    /// Puts a space in the rotations that it belongs to.
    fn enqueue_space(&mut self, index: usize) {
        let space = &mut self.spaces[index];
        if space.credit <= 0 {
            return;
        }
        if !space.ready.is_empty() && !std::mem::replace(&mut space.in_send_order, true) {
            self.source.send_order.push_back(index);
        }
        if !space.fetch.is_empty() && !std::mem::replace(&mut space.in_fetch_order, true) {
            self.source.fetch_order.push_back(index);
        }
    }

    /// Puts a log in its space's list of logs to read, if there is something to read.
    fn want_fetch(&mut self, id: LogId) {
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
    fn want_send(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let wants = matches!(&log.outgoing, Outgoing::Streaming(streaming) if streaming.can_send());
        if wants && !std::mem::replace(&mut log.in_ready, true) {
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
        let request = self.next_check().or_else(|| self.next_read())?;
        self.source.fetches += 1;
        Some(request)
    }

    fn next_check(&mut self) -> Option<FetchRequest> {
        while let Some(id) = self.source.checks.pop_front() {
            let bytes_max = self.fetch_bytes_max(0);
            let Some(log) = self.logs.get_mut(&id) else { continue };
            log.in_checks = false;
            if let Outgoing::Checking { remote, fetching } = &mut log.outgoing
                && !std::mem::replace(fetching, true)
            {
                return Some(FetchRequest { log: id, from: remote.next_seq, bytes_max, generation: log.generation });
            }
        }
        None
    }

    fn next_read(&mut self) -> Option<FetchRequest> {
        let watermark = self.config.limits.fetch_bytes / 2;
        while let Some(&index) = self.source.fetch_order.front() {
            let bytes_max = self.fetch_bytes_max(index);
            let space = &mut self.spaces[index];
            let id = if space.credit > 0 { space.fetch.pop_front() } else { None };
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
                self.source.fetch_order.rotate_left(1);
                return Some(FetchRequest { log: id, from: streaming.read.next_seq, bytes_max, generation });
            }
        }
        None
    }

    /// How much to read for a space at present; 0, that is one batch, when enough has been read ahead.
    fn fetch_bytes_max(&self, index: usize) -> usize {
        let limits = &self.config.limits;
        if self.source.ready_bytes >= limits.ready_bytes_max {
            return 0;
        }
        let credit = self.spaces.get(index).map_or(0, |space| usize::try_from(space.credit).unwrap_or(0));
        limits.fetch_bytes.min(credit)
    }

    /// Takes what was read: batches in order, the first of them the one that holds the record asked for;
    /// or why there is none.
    pub fn handle_fetched(&mut self, now: Instant, request: FetchRequest, result: Result<Vec<Batch>, FetchFailure>) {
        self.source.fetches = self.source.fetches.saturating_sub(1);
        self.liveness.flowing(now);
        let Some(log) = self.logs.get_mut(&request.log) else { return };
        if log.generation != request.generation {
            return;
        }
        let index = log.space;
        let source_head = log.head();
        match (&mut log.outgoing, result) {
            (Outgoing::Checking { .. }, Err(failure)) => self.park_outgoing(request.log, failure.into()),
            (Outgoing::Checking { remote, fetching }, Ok(batches)) => {
                let remote = *remote;
                *fetching = false;
                // Nothing yet: looked for again when more is durable.
                let Some(first) = batches.first() else { return };
                if first.first_seq() == remote.next_seq && first.header().previous == remote.digest {
                    self.stream_from(request.log, remote, false);
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
        self.check_in_sync(index);
    }

    /// Makes batches ready to send, as far as they continue the chain.
    fn take_ready(&mut self, id: LogId, batches: Vec<Batch>) {
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
        while self.source.credit > 0 {
            let &index = self.source.send_order.front()?;
            let space = &mut self.spaces[index];
            let id = if space.credit > 0 { space.ready.front().copied() } else { None };
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
        let head = log.head();
        let Outgoing::Streaming(streaming) = &mut log.outgoing else {
            space.ready.pop_front();
            log.in_ready = false;
            return None;
        };
        if streaming.can_send() && std::mem::take(&mut streaming.announce) {
            return Some(Message::Announce(Announce { genesis: (*log.genesis).clone(), head }));
        }
        space.ready.pop_front();
        log.in_ready = false;
        let batch = streaming.send()?;
        let len = batch.bytes().len();
        self.source.ready_bytes -= len;
        self.source.credit -= len as i64;
        space.credit -= len as i64;
        let blocked = if streaming.ready.is_empty() { streaming.blocked.take() } else { None };
        self.source.send_order.rotate_left(1);
        match blocked {
            Some(reason) => self.park_outgoing(id, reason),
            None => {
                self.want_send(id);
                self.want_fetch(id);
            }
        }
        Some(Message::Batch(batch))
    }

    /// Tells when all that is durable here of a space has become durable at the peer.
    fn check_in_sync(&mut self, index: usize) {
        let space = &self.spaces[index];
        let Some(scope) = space.out_scope() else { return };
        if space.in_sync {
            return;
        }
        let logs = space.logs.iter().filter_map(|id| self.logs.get(id));
        let in_sync = logs.filter(|log| log.has_records() && self.source_carries(scope, log)).all(Log::is_mirrored);
        if in_sync {
            let space = &mut self.spaces[index];
            space.in_sync = true;
            space.behind_since = None;
            self.events.push_back(Event::InSync { space: space.name.clone() });
        }
    }
}

impl Log {
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
    fn can_send(&self) -> bool {
        !self.ready.is_empty() && self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// Takes the next batch to send.
    fn send(&mut self) -> Option<Batch> {
        if !self.can_send() {
            return None;
        }
        let batch = self.ready.pop_front()?;
        assert_eq!(batch.header().previous, self.sent.digest, "what is ready continues what was sent");
        let len_bytes = batch.bytes().len() as u64;
        self.ready_bytes -= batch.bytes().len();
        self.sent = batch.head();
        self.in_flight.push_back(Boundary { head: self.sent, len_bytes });
        self.in_flight_bytes += len_bytes;
        Some(batch)
    }

    /// Whether a head is one that was sent and not yet acknowledged: then all up to it is.
    fn acknowledge(&mut self, head: Head) -> bool {
        let found = self.in_flight.binary_search_by_key(&head.next_seq, |boundary| boundary.head.next_seq);
        let Some(position) = found.ok().filter(|position| self.in_flight[*position].head == head) else {
            return false;
        };
        self.in_flight_bytes -= self.in_flight.drain(..=position).map(|boundary| boundary.len_bytes).sum::<u64>();
        true
    }
}

impl From<FetchFailure> for ParkReason {
    fn from(failure: FetchFailure) -> Self {
        Self::Gap { first_seq: failure.first_seq, next_seq: failure.next_seq, cause: failure.cause }
    }
}
