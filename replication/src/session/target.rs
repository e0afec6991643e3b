//! The end that receives: checking each batch, acknowledging what is durable, returning credit.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use counterfoil_storage::{Batch, Genesis, Head, LogId, Seq};

use super::{
    Session, StoreFailure, StoreRequest,
    state::{Incoming, Inflow, Log, Unsettled},
    window::Windows,
};
use crate::{
    error::PeerMisbehaved,
    event::{By, Event},
    message::{Announce, CaughtUp, Credit, Flow, Message, Park, ParkReason, Rewind, Scope, Window},
};

/// Credit is returned when a quarter of a window has come together: the source then still has half of it.
const CREDIT_PARTS: u64 = 4;

/// What is waiting to be stored and said, over all spaces.
#[derive(Debug, Default)]
pub(super) struct TargetQueues {
    /// Batches to store; their bytes are within the windows.
    stores: VecDeque<StoreRequest>,
    /// Bytes received that are neither durable nor dropped.
    outstanding: u64,
    /// Bytes of credit to be returned.
    credit_due: u64,
    /// Logs whose durable head the peer is to be told.
    acks: VecDeque<LogId>,
    /// Spaces whose credit is to be returned now.
    credits: VecDeque<usize>,
    /// Spaces whose answer is being sent.
    pub(super) answers: VecDeque<usize>,
    /// Logs that are stalled.
    stalled: Vec<LogId>,
    /// Logs that were announced and are not taken.
    pub(super) unwanted: usize,
}

impl Session {
    /// Makes a log known to the session; false if it has as many as it may.
    pub(super) fn add_log(&mut self, id: LogId, index: usize, genesis: &Arc<Genesis>) -> bool {
        if self.logs.len() >= self.config.limits.logs_max {
            return false;
        }
        self.spaces[index].logs.insert(id);
        self.logs.insert(id, Log::new(index, Arc::clone(genesis)));
        true
    }

    /// The source says that this end has all.
    pub(super) fn handle_caught_up(&mut self, caught_up: CaughtUp) -> Result<(), PeerMisbehaved> {
        let CaughtUp { space, whole } = caught_up;
        let unknown_space = || PeerMisbehaved::UnknownSpace { space: space.clone() };
        let &index = self.space_index.get(&space).ok_or_else(unknown_space)?;
        // A flow that was refused meanwhile has not caught up.
        if matches!(self.spaces[index].inflow, Inflow::Open { .. }) {
            self.events.push_back(Event::CaughtUp { space, whole });
        }
        Ok(())
    }

    pub(super) fn handle_announce(&mut self, announce: Announce) -> Result<(), PeerMisbehaved> {
        let name = &announce.genesis.space;
        let unknown_space = || PeerMisbehaved::UnknownSpace { space: name.clone() };
        let &index = self.space_index.get(name).ok_or_else(unknown_space)?;
        if matches!(self.spaces[index].inflow, Inflow::Closed | Inflow::Asked) {
            return Err(unknown_space());
        }
        let id = announce.genesis.log_id();
        let genesis = Arc::new(announce.genesis);
        if !self.logs.contains_key(&id) && !self.add_log(id, index, &genesis) {
            return Err(PeerMisbehaved::TooManyLogs { limit: self.config.limits.logs_max });
        }
        let Some(log) = self.logs.get_mut(&id) else { return Ok(()) };
        log.source_next_seq = announce.head.next_seq;
        if matches!(
            log.incoming,
            Incoming::Idle | Incoming::Parked(ParkReason::Gap { .. } | ParkReason::NoRight { .. })
        ) {
            // It begins, or the source has again what it could not serve, or the right to it was given back.
            let Some(scope) = self.spaces[index].in_scope() else {
                self.drop_incoming(id);
                return Ok(());
            };
            log.told = Some(log.origin);
            let was_refused = matches!(log.incoming, Incoming::Parked(ParkReason::NoRight { .. }));
            self.open_incoming(id, was_refused);
            self.check_right(id, index, scope);
            self.note_unwanted(id)?;
            // Also of an own log: the peer believes that this end has nothing of it.
            self.queue_ack(id);
        } else if log.flows_in() {
            // So it does if it was told before it had the log itself; what was passed on then was dropped as well.
            log.told = Some(log.origin);
            self.pass_on_anew(id);
            self.queue_ack(id);
        }
        Ok(())
    }

    fn check_right(&mut self, id: LogId, index: usize, scope: Scope) {
        let Some(log) = self.logs.get(&id) else { return };
        if self.target_carries(scope, log) {
            self.keep_or_park(id);
        } else {
            let (writer, space) = (log.writer().clone(), self.spaces[index].name.clone());
            self.park_incoming(id, ParkReason::NoRight { writer, space });
        }
    }

    /// Takes batches of a log that follow its durable head.
    pub(super) fn open_incoming(&mut self, id: LogId, resuming: bool) {
        if let Some(log) = self.logs.get_mut(&id) {
            log.incoming = Incoming::Open { tail: log.head(), resuming };
        }
        self.note_opened(id);
    }

    /// The flow of a log's space has been closed by the peer, after all that it sent.
    pub(super) fn close_incoming(&mut self, id: LogId) {
        self.release_stalled(id);
        self.note_stopped(id);
        if let Some(log) = self.logs.get_mut(&id) {
            log.incoming = Incoming::Idle;
            log.told = None;
        }
    }

    /// The flow of a log's space is refused: what the peer sent before it heard of that is dropped, also if it comes when
    /// the flow has been opened again.
    pub(super) fn drop_incoming(&mut self, id: LogId) {
        self.close_incoming(id);
        if let Some(log) = self.logs.get_mut(&id) {
            let (writer, space) = (log.writer().clone(), log.genesis.space.clone());
            log.incoming = Incoming::Parked(ParkReason::NoRight { writer, space });
        }
    }

    /// Stops a log because this end must, and tells both.
    pub(super) fn park_incoming(&mut self, id: LogId, reason: ParkReason) {
        self.control.push_back(Message::Park(Park { log: id, flow: Flow::Incoming, reason: reason.clone() }));
        self.events.push_back(Event::Parked { log: id, reason: reason.clone(), by: By::Local });
        self.stop_incoming(id, reason);
    }

    /// Stops a log.
    pub(super) fn stop_incoming(&mut self, id: LogId, reason: ParkReason) {
        self.release_stalled(id);
        self.note_stopped(id);
        if let Some(log) = self.logs.get_mut(&id) {
            log.incoming = Incoming::Parked(reason);
        }
    }

    /// Accounts for a batch before it is looked at. `None`: the flow it belongs to was refused, it is dropped.
    fn admit(&mut self, id: LogId, len_bytes: u64) -> Result<Option<usize>, PeerMisbehaved> {
        let unknown = PeerMisbehaved::UnknownLog { log: id };
        let Some(log) = self.logs.get(&id) else { return Err(unknown) };
        let index = log.space;
        let allowed = self.window.allowed();
        let space = &mut self.spaces[index];
        if matches!(space.inflow, Inflow::Closed | Inflow::Asked) {
            return Err(PeerMisbehaved::UnknownSpace { space: space.name.clone() });
        }
        for (outstanding, window_bytes) in
            [(self.target.outstanding, allowed.session_bytes), (space.outstanding, allowed.space_bytes)]
        {
            if outstanding >= window_bytes {
                return Err(PeerMisbehaved::CreditOverdrawn { window_bytes });
            }
        }
        self.target.outstanding += len_bytes;
        space.outstanding += len_bytes;
        if space.inflow == Inflow::Refused {
            self.settle(index, len_bytes);
            return Ok(None);
        }
        if matches!(log.incoming, Incoming::Idle) { Err(unknown) } else { Ok(Some(index)) }
    }

    pub(super) fn handle_batch(&mut self, now: Instant, batch: Batch) -> Result<(), PeerMisbehaved> {
        let id = batch.log();
        let len_bytes = batch.bytes().len() as u64;
        let Some(index) = self.admit(id, len_bytes)? else { return Ok(()) };
        self.liveness.flowing(now);
        self.measure(now, len_bytes);
        let is_own = self.logs.get(&id).is_some_and(|log| self.is_own(log));
        let Some(log) = self.logs.get_mut(&id) else { return Ok(()) };
        let (tail, resuming) = match &mut log.incoming {
            Incoming::Open { tail, resuming } => (*tail, *resuming),
            Incoming::Stalled { dropped_bytes } => {
                *dropped_bytes += len_bytes;
                self.note_untaken(id, batch.head());
                return Ok(());
            }
            Incoming::Idle | Incoming::Parked(_) => {
                self.settle(index, len_bytes);
                return Ok(());
            }
        };
        let first_seq = batch.first_seq();
        let own = log.local.is_some() && is_own;
        let echo = own && batch.next_seq() <= log.head().next_seq;
        // What was sent before the source heard that it is to begin again, or that this end has it.
        if echo || (resuming && first_seq > tail.next_seq) {
            self.settle(index, len_bytes);
            self.note_untaken(id, batch.head());
            return Ok(());
        }
        let wrong = if own {
            Some(ParkReason::Rewound { first_seq, target_head: log.head() })
        } else {
            check_batch(&batch, tail)
        };
        if let Some(reason) = wrong {
            if matches!(reason, ParkReason::Rewound { .. }) {
                self.note_claim(id, batch.head());
            }
            self.settle(index, len_bytes);
            self.park_incoming(id, reason);
            return Ok(());
        }
        if first_seq == tail.next_seq {
            log.incoming = Incoming::Open { tail: batch.head(), resuming: false };
        }
        let genesis = Arc::clone(&log.genesis);
        log.source_next_seq = log.source_next_seq.max(batch.next_seq());
        log.unsettled.push_back(Unsettled { next_seq: batch.next_seq(), len_bytes, arrived: now });
        self.note_received(id, &batch);
        self.target.stores.push_back(StoreRequest { genesis, batch });
        self.settle_durable(now, id);
        Ok(())
    }

    /// Batches came in: the windows follow the rate.
    fn measure(&mut self, now: Instant, len_bytes: u64) {
        let windows = self.window.received(now, len_bytes);
        self.tell_windows(now, windows);
    }

    pub(super) fn handle_echo(&mut self, now: Instant, number: u32) -> Result<(), PeerMisbehaved> {
        let windows = self.window.echoed(now, number).map_err(|()| PeerMisbehaved::UnaskedEcho)?;
        self.tell_windows(now, windows);
        Ok(())
    }

    /// Tells what the windows are if they have changed, then asks how long the way is if that is due.
    pub(super) fn tell_windows(&mut self, now: Instant, windows: Option<Windows>) {
        if let Some(Windows { session_bytes, space_bytes }) = windows {
            self.control.push_back(Message::Window(Window { session_bytes, space_bytes }));
            // What was too little to return may be more than all of a window that has shrunk; nothing else would return it.
            (0..self.spaces.len()).for_each(|index| self.return_credit(index));
        }
        if let Some(number) = self.window.probe(now) {
            self.control.push_back(Message::Probe(number));
        }
    }

    pub(super) fn handle_damaged_batch(
        &mut self,
        id: LogId,
        first_seq: Seq,
        len_bytes: u64,
    ) -> Result<(), PeerMisbehaved> {
        if let Some(index) = self.admit(id, len_bytes)? {
            self.settle(index, len_bytes);
            if self.logs.get(&id).is_some_and(|log| !matches!(log.incoming, Incoming::Parked(_))) {
                self.park_incoming(id, ParkReason::Checksum { first_seq });
            }
        }
        Ok(())
    }

    /// The next batch to store. Queue it in the journal; say [`handle_store_failed`](Self::handle_store_failed)
    /// if it is refused, and [`handle_logs`](Self::handle_logs) once it is durable.
    pub fn poll_store(&mut self) -> Option<StoreRequest> {
        self.target.stores.pop_front()
    }

    /// A batch of a log was refused by the journal, or did not become durable.
    pub fn handle_store_failed(&mut self, now: Instant, id: LogId, failure: StoreFailure) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        match failure {
            StoreFailure::Retry => {
                if matches!(log.incoming, Incoming::Open { .. }) {
                    log.incoming = Incoming::Stalled { dropped_bytes: 0 };
                    self.target.stalled.push(id);
                    self.events.push_back(Event::StorageFull);
                } else if !matches!(log.incoming, Incoming::Stalled { .. }) {
                    // Nobody asks for it again, now that its flow is closed.
                    self.release_unsettled(id);
                }
                self.liveness.retry_at(now + self.config.limits.full_retry);
            }
            StoreFailure::Diverged { first_seq, local } => {
                self.doubt_received(id, local);
                self.park_stored(id, ParkReason::Chain { first_seq, target_head: local });
            }
            StoreFailure::Forged => {
                let (writer, space) = (log.writer().clone(), log.genesis.space.clone());
                self.park_stored(id, ParkReason::NoRight { writer, space });
            }
            StoreFailure::Unsound { first_seq } => self.park_stored(id, ParkReason::Records { first_seq }),
        }
    }

    /// Stops a log whose batches the journal refuses: what it was given may never become durable.
    fn park_stored(&mut self, id: LogId, reason: ParkReason) {
        self.release_unsettled(id);
        if self
            .logs
            .get(&id)
            .is_some_and(|log| matches!(log.incoming, Incoming::Open { .. } | Incoming::Stalled { .. }))
        {
            self.park_incoming(id, reason);
        }
    }

    /// Asks for what could not be stored again.
    pub(super) fn rewind_stalled(&mut self) {
        for id in std::mem::take(&mut self.target.stalled) {
            let Some(log) = self.logs.get(&id) else { continue };
            if !matches!(log.incoming, Incoming::Stalled { .. }) {
                continue;
            }
            let head = log.head();
            self.release_stalled(id);
            self.open_incoming(id, true);
            if let Some(log) = self.logs.get_mut(&id) {
                log.told = Some(head);
                self.spaces[log.space].statements.stated().note(id, head);
            }
            self.control.push_back(Message::Rewind(Rewind { log: id, head }));
        }
    }

    /// Returns the credit of what a stalled log has dropped, and of what its store did not take.
    fn release_stalled(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        if let Incoming::Stalled { dropped_bytes } = &mut log.incoming {
            let (index, bytes) = (log.space, std::mem::take(dropped_bytes));
            self.settle(index, bytes);
            self.release_unsettled(id);
        }
    }

    /// Returns the credit of batches that may never become durable.
    fn release_unsettled(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let bytes = log.unsettled.drain(..).map(|batch| batch.len_bytes).sum();
        let index = log.space;
        self.settle(index, bytes);
    }

    /// More, or less, of a log is durable here.
    pub(super) fn advance_incoming(&mut self, now: Instant, id: LogId, before: Head, durable: Head) {
        let is_own = self.logs.get(&id).is_some_and(|log| self.is_own(log));
        let Some(log) = self.logs.get_mut(&id) else { return };
        if let Incoming::Open { tail, resuming } = &mut log.incoming {
            // Another session brought more, or what was durable is not any more.
            if durable.next_seq < before.next_seq {
                (*tail, *resuming) = (durable, true);
            } else if tail.next_seq < durable.next_seq {
                *tail = durable;
            }
        }
        self.settle_durable(now, id);
        self.pass_gap(id, durable);
        // One of an earlier life that comes back is acknowledged like anybody's.
        if !is_own {
            self.queue_ack(id);
        }
    }

    /// Asks the source to go on with a log that it had stopped for want of records which are here by now: another replica had
    /// them.
    fn pass_gap(&mut self, id: LogId, durable: Head) {
        let Some(log) = self.logs.get(&id) else { return };
        let is_passed =
            matches!(log.incoming, Incoming::Parked(ParkReason::Gap { next_seq, .. }) if durable.next_seq >= next_seq);
        let scope = self.spaces[log.space].in_scope();
        // Who may not stream it could have stopped it all the same.
        if !is_passed || self.is_own(log) || !scope.is_some_and(|scope| self.target_carries(scope, log)) {
            return;
        }
        self.open_incoming(id, true);
        if let Some(log) = self.logs.get_mut(&id) {
            log.told = Some(durable);
        }
        self.control.push_back(Message::Rewind(Rewind { log: id, head: durable }));
    }

    /// Returns the credit of batches that are durable.
    fn settle_durable(&mut self, now: Instant, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let durable = log.head().next_seq;
        let mut bytes = 0;
        while let Some(batch) = log.unsettled.front().copied()
            && batch.next_seq <= durable
        {
            bytes += batch.len_bytes;
            log.unsettled.pop_front();
            self.window.stored(now, batch.arrived);
        }
        let index = log.space;
        self.settle(index, bytes);
    }

    /// Bytes are outstanding no more: their credit is due.
    fn settle(&mut self, index: usize, bytes: u64) {
        let space = &mut self.spaces[index];
        space.outstanding -= bytes;
        space.credit_due += bytes;
        self.target.outstanding -= bytes;
        self.target.credit_due += bytes;
        self.return_credit(index);
    }

    /// Returns the credit of a space to the source, a good part of a window at a time.
    fn return_credit(&mut self, index: usize) {
        let told = self.window.told();
        if self.target.credit_due >= told.session_bytes.div_ceil(CREDIT_PARTS) {
            for index in 0..self.spaces.len() {
                self.queue_credit(index);
            }
        } else if self.spaces[index].credit_due >= told.space_bytes.div_ceil(CREDIT_PARTS) {
            self.queue_credit(index);
        }
    }

    /// Bytes received that are neither durable nor dropped.
    pub(super) fn target_outstanding(&self) -> u64 {
        self.target.outstanding
    }

    fn queue_credit(&mut self, index: usize) {
        let space = &mut self.spaces[index];
        if space.credit_due > 0 && !std::mem::replace(&mut space.in_credit_queue, true) {
            self.target.credits.push_back(index);
        }
    }

    pub(super) fn next_credit(&mut self) -> Option<Message> {
        let space = &mut self.spaces[self.target.credits.pop_front()?];
        space.in_credit_queue = false;
        let bytes = std::mem::take(&mut space.credit_due);
        self.target.credit_due -= bytes;
        Some(Message::Credit(Credit { space: space.name.clone(), bytes }))
    }

    /// Queues an acknowledgement if the peer does not know what is durable here.
    pub(super) fn queue_ack(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        if log.is_untold() && !std::mem::replace(&mut log.in_ack_queue, true) {
            self.target.acks.push_back(id);
        }
    }

    pub(super) fn next_ack(&mut self) -> Option<Message> {
        loop {
            let id = self.target.acks.pop_front()?;
            let Some(log) = self.logs.get_mut(&id) else { continue };
            log.in_ack_queue = false;
            if log.is_untold() {
                return self.ack_of(id);
            }
        }
    }
}

impl Log {
    /// Whether the peer streams it, or did, and does not know what is durable here. Of a log that was stopped, or that it may not stream
    /// and was told of all the same, it must hear what is lost.
    fn is_untold(&self) -> bool {
        let is_streamed = self.flows_in() || matches!(self.incoming, Incoming::Parked(_));
        let is_news = |told| is_streamed && (self.is_to_be_told || told != self.head());
        self.told.is_some_and(|told| is_news(told) || self.told_holes != self.holes)
    }
}

/// What is wrong with a batch that comes after `tail`; one that comes before it is left to the journal,
/// which tells a duplicate from another history.
fn check_batch(batch: &Batch, tail: Head) -> Option<ParkReason> {
    let first_seq = batch.first_seq();
    if first_seq > tail.next_seq || (first_seq == tail.next_seq && batch.header().previous != tail.digest) {
        return Some(ParkReason::Chain { first_seq, target_head: tail });
    }
    batch.check_records().err().map(|_| ParkReason::Records { first_seq })
}
