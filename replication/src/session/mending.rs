//! Mending: what this node has lost is asked of the peer, and what the peer has lost is sent back.
//!
//! A hole is asked for backwards from its end, whose digest is known; so each batch is known by its digest before it
//! comes, and is durable before the one before it is asked for. Each end asks for one range at a time, and answers one.
//! What is not that batch ends the mending of its log in this session, and nothing else.

use std::collections::VecDeque;

use counterfoil_storage::{Batch, Head, Hole, LogId, Seq, SpaceName};

use super::{FetchFailure, FetchRequest, LogState, Purpose, Session};
use crate::{
    error::PeerMisbehaved,
    event::{Event, NotMended},
    message::{GapCause, Mend, MendEnd, MendOutcome, Message},
};

/// What is done for one log's holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mending {
    /// Nothing: none is known.
    Whole,
    /// They are, or will be, asked for.
    Wanted,
    /// The peer can't mend them at present.
    Stopped(NotMended),
}

/// What is asked, and what is answered.
#[derive(Debug, Default)]
pub(super) struct MendingQueues {
    /// Logs with holes to be asked for.
    wanted: VecDeque<LogId>,
    asking: Asking,
    answering: Answering,
    /// The log to be looked up for it.
    lookup: Option<LogId>,
    /// The answer, as far as it has been read; its batches are within [`Limits::ready_bytes_max`](crate::Limits), and one more.
    answer: VecDeque<Message>,
}

/// What this end asks for.
#[derive(Debug, Default)]
enum Asking {
    #[default]
    Nothing,
    /// Where the holes of a log end, of its own store.
    Ends { log: LogId },
    /// A hole of the peer.
    Asked {
        log: LogId,
        hole: Hole,
        /// What has come, newest first.
        taken: Vec<Batch>,
        taken_bytes: usize,
        /// After the batch that comes next.
        next: Head,
    },
    /// What is left of an answer that is of no use.
    Draining { log: LogId, end: Head },
    /// That what has come is stored; `batches` is `None` once the store has them.
    Storing { log: LogId, first_seq: Seq, next_seq: Seq, batches: Option<Vec<Batch>> },
}

/// What this end answers.
#[derive(Debug, Default)]
enum Answering {
    #[default]
    Nothing,
    /// The log is looked up.
    LookingUp(Mend),
    /// The batches are read.
    Reading { mend: Mend, space: SpaceName, given: bool },
    /// They are sent.
    Sending { mend: Mend, space: SpaceName },
    /// There is nothing to send but that, which has not left yet.
    Ending,
}

/// Work for the store on its own holes. It may block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MendingRequest {
    /// Where the holes of a log end: [`Journal::holes`](counterfoil_storage::Journal::holes).
    Ends(LogId),
    /// To fill a hole from its end with these, newest first: [`Journal::mend`](counterfoil_storage::Journal::mend).
    Store {
        /// The log.
        log: LogId,
        /// What to fill it with.
        batches: Vec<Batch>,
    },
}

/// The answer to a [`MendingRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MendingResult {
    /// The holes; `None` if the disk did not tell.
    Ends(LogId, Option<Vec<Hole>>),
    /// Whether the batches are durable now.
    Stored(LogId, bool),
}

impl Session {
    /// Has the holes of a log asked for, if it has any and the peer is not known to be of no use.
    pub(super) fn want_mending(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        if log.holes.is_empty() {
            log.mending = Mending::Whole;
        } else if log.mending == Mending::Whole {
            log.mending = Mending::Wanted;
            self.mending.wanted.push_back(id);
        }
    }

    /// Asks again for what the peer did not have, or did not let this node read: that may have changed.
    pub(super) fn retry_mending(&mut self) {
        for (id, log) in &self.logs {
            if let Mending::Stopped(NotMended::Refused | NotMended::Lacking(_) | NotMended::NotStored) = log.mending
                && !self.mending.wanted.contains(id)
            {
                self.mending.wanted.push_back(*id);
            }
        }
    }

    /// Work for the store; answer with [`handle_mending`](Self::handle_mending).
    pub fn poll_mending(&mut self) -> Option<MendingRequest> {
        self.peer?;
        match &mut self.mending.asking {
            Asking::Storing { log, batches, .. } => {
                let (log, batches) = (*log, batches.take()?);
                return Some(MendingRequest::Store { log, batches });
            }
            Asking::Nothing => {}
            _ => return None,
        }
        while let Some(id) = self.mending.wanted.pop_front() {
            if self.logs.get(&id).is_some_and(|log| !log.holes.is_empty()) {
                self.mending.asking = Asking::Ends { log: id };
                return Some(MendingRequest::Ends(id));
            }
        }
        None
    }

    /// Takes what became of work that [`poll_mending`](Self::poll_mending) gave.
    pub fn handle_mending(&mut self, result: MendingResult) {
        match (&self.mending.asking, result) {
            (Asking::Ends { log }, MendingResult::Ends(of, holes)) if *log == of => self.ask(of, holes),
            (Asking::Storing { log, first_seq, next_seq, .. }, MendingResult::Stored(of, is_durable)) if *log == of => {
                let (log, first_seq, next_seq) = (*log, *first_seq, *next_seq);
                self.mending.asking = Asking::Nothing;
                if is_durable {
                    self.events.push_back(Event::Mended { log, first_seq, next_seq });
                    self.set_mending(of, Mending::Whole);
                    // There may be more, further down.
                    self.want_mending(of);
                } else {
                    self.stop_mending(of, NotMended::NotStored);
                }
            }
            _ => {}
        }
    }

    /// Asks the peer for a hole.
    fn ask(&mut self, id: LogId, holes: Option<Vec<Hole>>) {
        self.mending.asking = Asking::Nothing;
        let Some(holes) = holes else { return self.stop_mending(id, NotMended::NotStored) };
        let Some(hole) = holes.first().copied() else { return self.set_mending(id, Mending::Whole) };
        let bytes_max = self.mend_bytes_max() as u32;
        self.control.push_back(Message::Mend(Mend { log: id, first_seq: hole.first_seq, end: hole.end, bytes_max }));
        self.mending.asking = Asking::Asked { log: id, hole, taken: Vec::new(), taken_bytes: 0, next: hole.end };
    }

    fn mend_bytes_max(&self) -> usize {
        self.config.limits.ready_bytes_max.min(u32::MAX as usize)
    }

    fn set_mending(&mut self, id: LogId, mending: Mending) {
        if let Some(log) = self.logs.get_mut(&id) {
            log.mending = mending;
            log.not_mended = None;
        }
    }

    /// The peer is of no use for a log's holes.
    fn stop_mending(&mut self, id: LogId, reason: NotMended) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        log.mending = Mending::Stopped(reason);
        if log.not_mended.replace(reason) != Some(reason) {
            self.events.push_back(Event::NotMended { log: id, reason });
        }
    }

    /// The peer sends a batch that was asked for, or pretends to.
    pub(super) fn handle_mend_batch(&mut self, batch: Batch) {
        let (id, bytes_max) = (batch.log(), self.mend_bytes_max());
        match &mut self.mending.asking {
            Asking::Asked { log, hole, taken, taken_bytes, next } if *log == id => {
                let is_meant = batch.head() == *next && batch.first_seq() >= hole.first_seq && *taken_bytes < bytes_max;
                if is_meant {
                    *next = Head { next_seq: batch.first_seq(), digest: batch.header().previous };
                    *taken_bytes += batch.bytes().len();
                    taken.push(batch);
                } else {
                    let (log, end) = (*log, hole.end);
                    self.mending.asking = Asking::Draining { log, end };
                    self.stop_mending(id, NotMended::Wrong);
                }
            }
            // The rest of an answer that was found wrong.
            Asking::Draining { log, .. } if *log == id => {}
            // Nobody asked for it.
            _ => self.stop_mending(id, NotMended::Wrong),
        }
    }

    /// A batch that was asked for is damaged.
    pub(super) fn handle_damaged_mend_batch(&mut self, id: LogId) {
        match &self.mending.asking {
            Asking::Asked { log, hole, .. } => {
                let (log, end) = (*log, hole.end);
                self.mending.asking = Asking::Draining { log, end };
                // Which log its header names is not to be believed.
                self.stop_mending(log, NotMended::Damaged);
            }
            Asking::Draining { .. } => {}
            _ => self.stop_mending(id, NotMended::Damaged),
        }
    }

    /// The peer has sent all that it will.
    pub(super) fn handle_mend_end(&mut self, answer: MendEnd) {
        let MendEnd { log: id, end, outcome } = answer;
        match &mut self.mending.asking {
            Asking::Asked { log, hole, taken, .. } if *log == id && hole.end == end => {
                if let Some(last) = taken.last() {
                    let first_seq = last.first_seq();
                    let batches = Some(std::mem::take(taken));
                    self.mending.asking = Asking::Storing { log: id, first_seq, next_seq: end.next_seq, batches };
                    return;
                }
                self.mending.asking = Asking::Nothing;
                self.stop_mending(
                    id,
                    match outcome {
                        MendOutcome::Sent => NotMended::Wrong,
                        MendOutcome::Lacking(cause) => NotMended::Lacking(cause),
                        MendOutcome::Refused => NotMended::Refused,
                    },
                );
            }
            Asking::Draining { log, end: drained } if *log == id && *drained == end => {
                self.mending.asking = Asking::Nothing;
            }
            // Nobody asked.
            _ => self.stop_mending(id, NotMended::Wrong),
        }
    }

    /// The peer has lost records.
    pub(super) fn handle_mend(&mut self, mend: Mend) -> Result<(), PeerMisbehaved> {
        if mend.first_seq >= mend.end.next_seq {
            return Err(PeerMisbehaved::OutOfRange { field: "the first record to mend", value: mend.first_seq.0 });
        }
        if !matches!(self.mending.answering, Answering::Nothing) {
            return Err(PeerMisbehaved::Flood { limit: 1 });
        }
        self.mending.answering = Answering::LookingUp(mend);
        self.mending.lookup = Some(mend.log);
        Ok(())
    }

    /// A log of which the session must know whether it is here: answer with [`handle_lookup`](Self::handle_lookup).
    pub fn poll_lookup(&mut self) -> Option<LogId> {
        self.mending.lookup.take()
    }

    /// Takes the log that [`poll_lookup`](Self::poll_lookup) named, if it is here.
    pub fn handle_lookup(&mut self, id: LogId, state: Option<&LogState>) {
        let Answering::LookingUp(mend) = self.mending.answering else { return };
        if mend.log != id {
            return;
        }
        let space = state.map(|state| &state.genesis.space).filter(|space| self.may_read(space)).cloned();
        match space {
            Some(space) => self.mending.answering = Answering::Reading { mend, space, given: false },
            None => self.end_answer(mend, MendOutcome::Refused),
        }
    }

    /// The read that answers the peer.
    pub(super) fn next_mend_read(&mut self) -> Option<FetchRequest> {
        let most = self.mend_bytes_max();
        let Answering::Reading { mend, given, .. } = &mut self.mending.answering else { return None };
        if std::mem::replace(given, true) {
            return None;
        }
        let Mend { log, first_seq: from, end, bytes_max } = *mend;
        let bytes_max = most.min(bytes_max as usize);
        Some(FetchRequest { log, from, before: Some(end), bytes_max, generation: 0, purpose: Purpose::Mend })
    }

    /// Takes what was read to answer the peer: batches, newest first, or why there is none.
    pub(super) fn handle_mend_read(&mut self, request: &FetchRequest, result: Result<Vec<Batch>, FetchFailure>) {
        let limit_bytes = self.peer.map_or(0, |peer| peer.batch_len_max_bytes as usize);
        let Answering::Reading { mend, space, .. } = &self.mending.answering else { return };
        let (mend, space) = (*mend, space.clone());
        if Some(mend.end) != request.before || mend.log != request.log {
            return;
        }
        match result {
            _ if !self.may_read(&space) => self.end_answer(mend, MendOutcome::Refused),
            Err(failure) => self.end_answer(mend, MendOutcome::Lacking(failure.cause)),
            Ok(batches) => {
                let fitting = batches.into_iter().take_while(|batch| batch.bytes().len() <= limit_bytes);
                self.mending.answer.extend(fitting.map(Message::MendBatch));
                let is_any = !self.mending.answer.is_empty();
                let outcome = if is_any { MendOutcome::Sent } else { MendOutcome::Lacking(GapCause::Unreadable) };
                self.mending.answering = Answering::Sending { mend, space };
                self.push_end(mend, outcome);
            }
        }
    }

    fn end_answer(&mut self, mend: Mend, outcome: MendOutcome) {
        self.mending.answering = Answering::Ending;
        self.push_end(mend, outcome);
    }

    fn push_end(&mut self, mend: Mend, outcome: MendOutcome) {
        let Mend { log, end, .. } = mend;
        self.mending.answer.push_back(Message::MendEnd(MendEnd { log, end, outcome }));
    }

    /// The policy has changed: an answer that the peer may not have any more ends here.
    pub(super) fn recheck_answer(&mut self) {
        if let Answering::Sending { mend, space } = &self.mending.answering {
            let (mend, is_permitted) = (*mend, self.may_read(space));
            if !is_permitted {
                self.mending.answer.clear();
                self.end_answer(mend, MendOutcome::Refused);
            }
        }
    }

    /// Part of the answer.
    pub(super) fn next_mend_message(&mut self) -> Option<Message> {
        let message = self.mending.answer.pop_front()?;
        if matches!(message, Message::MendEnd(_)) {
            // Only who has this may ask again.
            self.mending.answering = Answering::Nothing;
        }
        Some(message)
    }
}
