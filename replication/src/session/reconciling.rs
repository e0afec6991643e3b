//! The end that streams finds out where each log ends at the target: offers a space, and takes the answer.
//!
//! An answer comes in one of four forms, of which the target takes the first that applies. All is equal; or what has
//! changed since the target last said it; or, of many logs, a sketch of its frontier, which tells this end which of them
//! differ and where they end there; or all heads. Whichever it is, afterwards this end knows of each log
//! what it would know if all heads had been named.

use std::time::Instant;

use counterfoil_storage::{Batch, Head, LogId, Seq};

use super::{
    Session,
    state::{Asked, LastOffer, Log, Outflow, Outgoing, Placing},
};
use crate::{
    error::PeerMisbehaved,
    event::{By, Event},
    frontier::{FrontierHash, LogHead},
    message::{Differing, Heads, Message, Offer, ParkReason, Reconciled, Scope, Sketch, Wanted},
    sketch::{MarkedHead, Salt, Sketched},
};

impl Session {
    /// Hash over those logs of a space that `carries` picks.
    pub(super) fn frontier(&self, index: usize, carries: impl Fn(&Log) -> bool) -> FrontierHash {
        FrontierHash::of(self.heads_of(index, carries))
    }

    /// Heads of those logs of a space that `carries` picks and that have records, ascending.
    pub(super) fn heads_of(&self, index: usize, carries: impl Fn(&Log) -> bool) -> Vec<LogHead> {
        let logs = self.spaces[index].logs.iter().filter_map(|id| self.logs.get(id).map(|log| (*id, log)));
        let logs = logs.filter(|(_, log)| log.has_records() && carries(log));
        logs.map(|(log, state)| LogHead { log, head: state.head() }).collect()
    }

    /// Offers a space whose logs are here.
    pub(super) fn offer(&mut self, index: usize) {
        let all = self.frontier(index, |_| true);
        let space = &mut self.spaces[index];
        space.offer_due = false;
        let number = space.last_offer.map_or(0, |last| last.number).saturating_add(1);
        space.last_offer = Some(LastOffer { all, number });
        space.outflow = Outflow::Offered;
        space.base = space.statements.heard().base();
        let heard = space.base.as_ref().map(|base| base.hash);
        let offer = Offer { space: space.name.clone(), all, heard };
        let asks = std::mem::take(&mut space.want_due);
        self.control.push_back(if asks { Message::Exchange(offer) } else { Message::Offer(offer) });
        for id in self.log_ids(index) {
            let offered = self.logs.get(&id).map(Log::head);
            self.await_answer(id, offered);
        }
    }

    /// The same offer, which has not left yet, with what is remembered since.
    pub(super) fn recall_offer(&mut self, index: usize) {
        let space = &mut self.spaces[index];
        space.base = space.statements.heard().base();
        let heard = space.base.as_ref().map(|base| base.hash);
        for message in &mut self.control {
            if let Message::Offer(offer) | Message::Exchange(offer) = message
                && offer.space == space.name
            {
                offer.heard = heard;
            }
        }
    }

    fn await_answer(&mut self, id: LogId, offered: Option<Head>) {
        self.set_outgoing(id, Outgoing::Awaiting { offered, streamed: None });
        if let Some(log) = self.logs.get_mut(&id) {
            log.is_announced = false;
        }
    }

    fn log_ids(&self, index: usize) -> Vec<LogId> {
        self.spaces[index].logs.iter().copied().collect()
    }

    /// The target has what was offered.
    pub(super) fn handle_equal(&mut self, now: Instant, answer: &Reconciled) -> Result<(), PeerMisbehaved> {
        let unexpected = || PeerMisbehaved::UnexpectedAnswer { space: answer.space.clone() };
        let &index = self.space_index.get(&answer.space).ok_or_else(unexpected)?;
        let offer = self.spaces[index].last_offer.ok_or_else(unexpected)?;
        if self.spaces[index].outflow != Outflow::Offered || answer.offer != offer.number {
            // It crossed with this end's refusal, or answers an offer before that.
            let has_crossed = answer.offer < offer.number || self.spaces[index].outflow == Outflow::Refused;
            return if has_crossed { Ok(()) } else { Err(unexpected()) };
        }
        self.spaces[index].outflow = Outflow::Answering { scope: answer.scope };
        self.spaces[index].base = None;
        self.spaces[index].statements.heard().begin(answer.told);
        for id in self.log_ids(index) {
            let Some(log) = self.logs.get(&id) else { continue };
            let Outgoing::Awaiting { offered: Some(head), .. } = log.outgoing else { continue };
            if head.next_seq == Seq::ZERO || !self.source_carries(answer.told, log) {
                continue;
            }
            self.spaces[index].statements.heard().note(id, head);
            if self.source_carries(answer.scope, log) {
                if !log.peer_holes.is_empty() {
                    // It may have acknowledged them in an earlier session.
                    self.note_statement(id, head);
                }
                self.note_announced(id);
                self.stream_from(id, head);
            } else {
                self.note_peer_head(id, head);
            }
        }
        // The target knows.
        self.spaces[index].caught_up = Some(true);
        self.finish_answer(now, index, answer.scope);
        Ok(())
    }

    /// The target says what it has, or, once this end has asked for some logs after a sketch, where these end.
    pub(super) fn handle_heads(&mut self, now: Instant, heads: Heads) -> Result<(), PeerMisbehaved> {
        let unexpected = || PeerMisbehaved::UnexpectedAnswer { space: heads.space.clone() };
        let &index = self.space_index.get(&heads.space).ok_or_else(unexpected)?;
        let Heads { scope, told, .. } = heads;
        let is_first_offer = self.is_first_offer(index);
        let is_first_answer = match self.spaces[index].outflow {
            // It answers the offer before this one.
            Outflow::Offered if !is_first_offer && (heads.since_heard || !heads.first) => return Ok(()),
            Outflow::Offered if heads.first => true,
            Outflow::Open { .. } | Outflow::Answering { .. } if heads.first => false,
            // The target refused before and now has been granted the right to accept. If it was this end that
            // refused, nothing that the peer says begins the flow.
            Outflow::Refused if heads.first && self.spaces[index].loaded && self.rights(index).read => false,
            Outflow::Answering { scope: begun } if begun == scope && !heads.first => false,
            // This end has just stopped the flow: the answer crossed with that.
            Outflow::Refused => return Ok(()),
            _ => return Err(unexpected()),
        };
        let base = self.spaces[index].base.take();
        let named = if heads.since_heard {
            let base = base.filter(|_| is_first_answer && heads.last).ok_or_else(unexpected)?;
            base.with(heads.heads)
        } else {
            heads.heads
        };
        if heads.first {
            self.begin_answer(index, scope, told);
        }
        for head in named {
            self.take_head(index, scope, head);
        }
        if heads.last {
            self.note_unnamed(index, scope, told);
            self.finish_answer(now, index, scope);
        }
        Ok(())
    }

    /// The target tells a sketch of what it has: what it has as it is here, and where the other logs end there, as far as that
    /// can be found on the chains here. Of the rest it is to name the heads.
    pub(super) fn handle_sketch(&mut self, now: Instant, sketch: Sketch) -> Result<(), PeerMisbehaved> {
        let unexpected = || PeerMisbehaved::UnexpectedAnswer { space: sketch.space.clone() };
        let &index = self.space_index.get(&sketch.space).ok_or_else(unexpected)?;
        let asked = self.spaces[index].asked;
        match self.spaces[index].outflow {
            // It answers the offer before this one.
            _ if !self.is_first_offer(index) => return Ok(()),
            Outflow::Offered if !asked.is_all => {}
            // This end has just stopped the flow: the answer crossed with that.
            Outflow::Refused => return Ok(()),
            _ => return Err(unexpected()),
        }
        let Sketch { space, scope, told, cells } = sketch;
        let Some(offer) = self.spaces[index].last_offer else { return Ok(()) };
        let salt = Salt::of(offer.all);
        let here = self.heads_of(index, |log| self.source_carries(told, log));
        let sketched = Sketched::new(salt, &here);
        let Some(difference) = sketched.as_ref().and_then(|sketched| sketched.difference(&cells)) else {
            let estimate = sketched.filter(|_| !asked.is_more).map(|sketched| sketched.estimate());
            let wanted = estimate.map_or(Wanted::All, Wanted::More);
            self.spaces[index].asked = Asked { is_more: true, is_all: wanted == Wanted::All };
            self.control.push_back(Message::Differing(Differing { space, wanted }));
            return Ok(());
        };
        self.begin_answer(index, scope, told);
        self.spaces[index].base = None;
        self.spaces[index].placing = Some(Placing { salt, scope, told, open: 0, unplaced: difference.only_there });
        for (position, head) in here.into_iter().enumerate() {
            match difference.changed.get(&position) {
                None => self.take_head(index, scope, head),
                Some(Some(marked)) => self.begin_placing(head.log, scope, *marked),
                // What is not named it lacks.
                Some(None) => {}
            }
        }
        self.source.placing.push(index);
        self.ask_for_unplaced(now);
        Ok(())
    }

    /// Has a head of the target's looked for on the chain here, if it may be there.
    fn begin_placing(&mut self, id: LogId, scope: Scope, marked: MarkedHead) {
        let Some(log) = self.logs.get(&id) else { return };
        let first_seq = log.local.map_or(Seq::ZERO, |local| local.first_seq).max(Seq(1));
        let is_behind = (first_seq..log.head().next_seq).contains(&marked.next_seq);
        let is_placing = is_behind && self.source_carries(scope, log);
        let Some(placing) = &mut self.spaces[log.space].placing else { return };
        if !is_placing {
            return placing.unplaced.push(placing.salt.mark(id));
        }
        placing.open += 1;
        self.set_outgoing(id, Outgoing::Placing { marked, fetching: false });
        self.want_check(id);
    }

    /// A log was read from where it ends at the target, as a sketch told: that is known now, or the target has another history.
    pub(super) fn place(&mut self, id: LogId, batches: Vec<Batch>) {
        let Some(Log { outgoing: Outgoing::Placing { marked, .. }, space, .. }) = self.logs.get(&id) else { return };
        let (marked, index) = (*marked, *space);
        let at = batches.first().map(|next| Head { next_seq: next.first_seq(), digest: next.header().previous });
        let Some(head) = at.filter(|head| marked.is(LogHead { log: id, head: *head })) else {
            return self.unplace(id);
        };
        self.spaces[index].statements.heard().note(id, head);
        self.note_statement(id, head);
        self.note_announced(id);
        self.stream_from(id, head);
        self.take_ready(id, batches);
    }

    /// Where a log ends at the target can't be told from here, or may be elsewhere by now: the target is to name it.
    pub(super) fn unplace(&mut self, id: LogId) {
        let Some(Log { outgoing: Outgoing::Placing { .. }, space, .. }) = self.logs.get(&id) else { return };
        if let Some(placing) = &mut self.spaces[*space].placing {
            placing.unplaced.push(placing.salt.mark(id));
        }
        self.await_answer(id, None);
    }

    /// Asks, once all that can be has been found here, for what could not; if that is nothing the answer is complete.
    pub(super) fn ask_for_unplaced(&mut self, now: Instant) {
        for index in std::mem::take(&mut self.source.placing) {
            let space = &mut self.spaces[index];
            let Some(placing) = space.placing.take_if(|placing| placing.open == 0) else {
                if space.placing.is_some() {
                    self.source.placing.push(index);
                }
                continue;
            };
            let Placing { scope, told, mut unplaced, .. } = placing;
            let is_complete = unplaced.is_empty();
            unplaced.sort_unstable();
            let (space, wanted) = (space.name.clone(), Wanted::Logs(unplaced));
            self.control.push_back(Message::Differing(Differing { space, wanted }));
            if is_complete {
                self.note_unnamed(index, scope, told);
                self.finish_answer(now, index, scope);
            }
        }
    }

    /// Whether a space was not offered more than once: else an answer may be to the offer before, and all that is taken for one to
    /// the last is an answer that holds whatever was offered.
    fn is_first_offer(&self, index: usize) -> bool {
        self.spaces[index].last_offer.is_none_or(|offer| offer.number == 1)
    }

    /// An answer begins, by which all is compared anew.
    fn begin_answer(&mut self, index: usize, scope: Scope, told: Scope) {
        let space = &mut self.spaces[index];
        space.outflow = Outflow::Answering { scope };
        space.placing = None;
        space.caught_up = None;
        space.statements.heard().begin(told);
        for id in self.log_ids(index) {
            self.await_answer(id, None);
        }
    }

    /// The target says, in whichever way, where a log ends there.
    fn take_head(&mut self, index: usize, scope: Scope, LogHead { log: id, head }: LogHead) {
        self.spaces[index].statements.heard().note(id, head);
        let Some(log) = self.logs.get(&id).filter(|log| log.space == index) else { return };
        let (is_carried, is_equal) = (self.source_carries(scope, log), head == log.head());
        self.note_statement(id, head);
        if is_carried {
            self.note_announced(id);
            self.classify(id, head);
        } else if is_equal {
            self.note_peer_head(id, head);
        }
    }

    /// The peer has named all that it has: of the other logs it has nothing. `Equal` says nothing of the kind: what came
    /// after the offer was not compared, and of the rest no more was ever acknowledged than was offered. What was told counts, whether
    /// this end may stream it or not.
    fn note_unnamed(&mut self, index: usize, scope: Scope, told: Scope) {
        for id in self.log_ids(index) {
            let Some(log) = self.logs.get(&id) else { continue };
            let Outgoing::Awaiting { streamed, .. } = log.outgoing else { continue };
            // Of a log that the flow does not carry it may have been named where it ends.
            if self.source_carries(scope, log) || (self.source_carries(told, log) && !log.stated) {
                self.note_statement(id, streamed.unwrap_or(log.origin));
            }
        }
    }

    /// The answer is complete: what it did not name, the target lacks.
    fn finish_answer(&mut self, now: Instant, index: usize, scope: Scope) {
        self.spaces[index].outflow = Outflow::Open { scope };
        for id in self.log_ids(index) {
            let Some(log) = self.logs.get(&id) else { continue };
            // Also those that came after the offer.
            if matches!(log.outgoing, Outgoing::Awaiting { .. } | Outgoing::Idle) {
                if let Outgoing::Awaiting { streamed: Some(head), .. } = log.outgoing
                    && self.source_carries(scope, log)
                {
                    self.classify(id, head);
                } else if self.source_carries(scope, log) && log.has_records() {
                    self.stream_from_start(id);
                } else {
                    self.set_outgoing(id, Outgoing::Idle);
                    self.tell_uncarried(id, scope);
                }
            }
        }
        let space = &mut self.spaces[index];
        space.in_sync = false;
        space.behind_since.get_or_insert(now);
        self.check_in_sync(index);
    }

    /// Tells of a log that the peer may lack something of, and does not let this end stream.
    fn tell_uncarried(&mut self, id: LogId, scope: Scope) {
        let Some(log) = self.logs.get(&id) else { return };
        // More than is here is no less, though it may be another history: then the log stops where it is carried.
        let known = log.peer_head.into_iter().chain(log.stated_head).map(|head| head.next_seq).max();
        let is_there = *log.writer() == self.config.peer || known.is_some_and(|known| known >= log.head().next_seq);
        if log.has_records() && !is_there && !self.source_carries(scope, log) {
            let (writer, space) = (log.writer().clone(), self.spaces[log.space].name.clone());
            let reason = ParkReason::NoRight { writer, space };
            self.events.push_back(Event::Parked { log: id, reason, by: By::Peer });
        }
    }

    /// The peer has streamed a log of which its answer, which is coming in, may say nothing any more: it got it meanwhile.
    pub(super) fn note_streamed(&mut self, id: LogId, head: Head) {
        let Some(log) = self.logs.get(&id) else { return };
        if !matches!(self.spaces[log.space].outflow, Outflow::Answering { .. }) {
            return;
        }
        let before = match log.outgoing {
            Outgoing::Awaiting { streamed, .. } => streamed,
            Outgoing::Idle => None,
            _ => return,
        };
        if before.is_none_or(|before| before.next_seq < head.next_seq) {
            self.set_outgoing(id, Outgoing::Awaiting { offered: None, streamed: Some(head) });
        }
    }

    /// The peer has said where a log ends there, otherwise than by an answer.
    pub(super) fn note_heard(&self, id: LogId, head: Head) {
        if let Some(log) = self.logs.get(&id) {
            self.spaces[log.space].statements.heard().note(id, head);
        }
    }
}
