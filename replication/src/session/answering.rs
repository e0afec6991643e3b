//! The end that receives says where its logs end: answers offers, and compares again what turns out to differ.

use std::ops::Bound;

use counterfoil_storage::LogId;

use super::{
    Session,
    state::{Answer, Incoming, Inflow, Log, SketchSent},
};
use crate::{
    codec,
    error::PeerMisbehaved,
    event::Event,
    frontier::{FrontierHash, LogHead},
    message::{Ack, Differing, Flow, Heads, Message, Offer, Reconciled, Refusal, Scope, Sketch, Wanted},
    sketch::{CELLS_AT_FIRST, Estimate, LogMark, Salt, Sketched},
};

/// A cell of a sketch takes 24 bytes, a head 49 to 57: with as many cells as there are logs, little is spared, and a sketch
/// may tell nothing.
const CELLS_PER_LOG_MAX: usize = 1;

impl Session {
    pub(super) fn handle_offer(&mut self, offer: Offer) {
        let Some(index) = self.space_or_add(&offer.space) else {
            return self.refuse(offer.space, Flow::Incoming, Refusal::TooManySpaces);
        };
        // The source counts them, too: also those that are refused.
        self.spaces[index].offers = self.spaces[index].offers.saturating_add(1);
        if self.permitted_scope(index).is_none() {
            return self.refuse_inflow(index);
        }
        self.spaces[index].offered = Some(offer);
        self.load(index);
    }

    /// Answers the offer of a space whose logs are here, if there is one.
    pub(super) fn answer_offer(&mut self, index: usize) {
        let Some(scope) = self.permitted_scope(index) else { return };
        let Some(offer) = self.spaces[index].offered.take() else { return };
        self.spaces[index].inflow = Inflow::Open { scope };
        let told = self.told_scope(index, scope);
        let heads = self.heads_of(index, |log| self.target_carries(told, log));
        let Some(answer) = self.short_answer(index, scope, told, &offer, &heads) else {
            return self.answer_with_heads(index);
        };
        self.spaces[index].sketched = matches!(answer, Message::Sketch(_)).then(|| {
            let salt = Salt::of(offer.all);
            SketchSent { salt, is_enlarged: false }
        });
        self.tell_all(index, scope, told, &heads);
        if matches!(answer, Message::Equal(_)) {
            self.events.push_back(Event::CaughtUp { space: offer.space, whole: true });
        } else {
            self.measure_way();
        }
        self.control.push_back(answer);
    }

    /// The heads here, which the peer is being told by one message.
    fn tell_all(&mut self, index: usize, scope: Scope, told: Scope, heads: &[LogHead]) {
        self.tell_holes(index, told);
        self.spaces[index].statements.stated().begin(told);
        for head in heads {
            self.tell_head(head.log, scope, told);
        }
    }

    /// An answer that is one message, if there is one that says as much as all heads do.
    fn short_answer(
        &self,
        index: usize,
        scope: Scope,
        told: Scope,
        offer: &Offer,
        heads: &[LogHead],
    ) -> Option<Message> {
        let hash = FrontierHash::of(heads.iter().copied());
        let space = offer.space.clone();
        if hash == offer.all {
            let offer = self.spaces[index].offers;
            return Some(Message::Equal(Reconciled { space, scope, told, offer }));
        }
        // An offer that repeats one may cross with the answer to that, which must not be taken for the answer to this.
        if self.spaces[index].offers > 1 {
            return None;
        }
        let changed = offer.heard.and_then(|heard| {
            let stated = self.spaces[index].statements.stated();
            if heard == hash { Some(Vec::new()) } else { stated.changed(told, heads, heard) }
        });
        if let Some(heads) = changed.filter(|changed| changed.len() <= codec::HEADS_MAX) {
            let (since_heard, first, last) = (true, true, true);
            return Some(Message::Heads(Heads { space, scope, told, heads, since_heard, first, last }));
        }
        let is_long = heads.len() > self.config.limits.heads_at_once_max;
        let sketched = Sketched::new(Salt::of(offer.all), heads).filter(|_| is_long);
        sketched.map(|sketched| Message::Sketch(Sketch { space, scope, told, cells: sketched.cells(CELLS_AT_FIRST) }))
    }

    /// Begins to say all heads of a space.
    pub(super) fn answer_with_heads(&mut self, index: usize) {
        if let Some(scope) = self.spaces[index].in_scope() {
            let told = self.told_scope(index, scope);
            self.tell_holes(index, told);
            self.spaces[index].statements.stated().begin(told);
        }
        self.measure_way();
        self.spaces[index].sketched = None;
        self.begin_answer_with(index, None);
    }

    fn begin_answer_with(&mut self, index: usize, wanted: Option<Vec<LogId>>) {
        if self.spaces[index].answer.replace(Answer { after: None, wanted }).is_none() {
            self.target.answers.push_back(index);
        }
    }

    /// Nothing is on the way yet: this finds out how long it is.
    fn measure_way(&mut self) {
        self.tell_windows(self.liveness.last_heard, None);
    }

    /// The source says what it has still to be told after a sketch.
    pub(super) fn handle_differing(&mut self, differing: Differing) -> Result<(), PeerMisbehaved> {
        let Differing { space, wanted } = differing;
        let &index = self.space_index.get(&space).ok_or(PeerMisbehaved::UnknownSpace { space })?;
        // The flow has been refused or answered anew meanwhile.
        let (Some(sent), Some(scope)) = (self.spaces[index].sketched.take(), self.spaces[index].in_scope()) else {
            return Ok(());
        };
        if !matches!(wanted, Wanted::Logs(_)) {
            // The source could make nothing of the sketch, and dropped what was passed on after it.
            let ids: Vec<_> = self.spaces[index].logs.iter().copied().collect();
            ids.into_iter().for_each(|id| self.pass_on_again(id));
        }
        match wanted {
            Wanted::Logs(marks) => self.name_wanted(index, sent.salt, &marks)?,
            Wanted::More(estimate) if !sent.is_enlarged => self.enlarge_sketch(index, scope, sent.salt, &estimate),
            Wanted::More(_) | Wanted::All => self.answer_with_heads(index),
        }
        Ok(())
    }

    fn name_wanted(&mut self, index: usize, salt: Salt, marks: &[LogMark]) -> Result<(), PeerMisbehaved> {
        if !marks.is_sorted_by(|one, next| one < next) {
            let (field, value) = ("the order of logs that differ", marks.len() as u64);
            return Err(PeerMisbehaved::OutOfRange { field, value });
        }
        if !marks.is_empty() {
            let logs = self.spaces[index].logs.iter().copied();
            let wanted = logs.filter(|id| marks.binary_search(&salt.mark(*id)).is_ok()).collect();
            self.begin_answer_with(index, Some(wanted));
        }
        Ok(())
    }

    /// A sketch from which so much can be told as differs by the source's estimate; all heads, if they are shorter.
    fn enlarge_sketch(&mut self, index: usize, scope: Scope, salt: Salt, theirs: &Estimate) {
        let told = self.told_scope(index, scope);
        let heads = self.heads_of(index, |log| self.target_carries(told, log));
        let cells_max = codec::CELLS_MAX.min(CELLS_PER_LOG_MAX * heads.len());
        let sketched = Sketched::new(salt, &heads).map(|sketched| (sketched.estimate().cells(theirs), sketched));
        let Some((count, sketched)) = sketched.filter(|(count, _)| (CELLS_AT_FIRST..=cells_max).contains(count)) else {
            return self.answer_with_heads(index);
        };
        self.spaces[index].sketched = Some(SketchSent { salt, is_enlarged: true });
        self.tell_all(index, scope, told, &heads);
        let space = self.spaces[index].name.clone();
        self.control.push_back(Message::Sketch(Sketch { space, scope, told, cells: sketched.cells(count) }));
    }

    /// Says which logs of a space have holes, before an answer lets the source believe that they have not: of all logs that the source is
    /// told of, whether it may stream them or not.
    fn tell_holes(&mut self, index: usize, told: Scope) {
        let ids: Vec<_> = self.spaces[index].logs.iter().copied().collect();
        for id in ids {
            let Some(log) = self.logs.get(&id) else { continue };
            if !log.holes.is_empty() && self.target_carries(told, log) {
                let ack = self.ack_of(id);
                self.control.extend(ack);
            }
        }
    }

    /// What is durable here of a log, which the peer is told now.
    pub(super) fn ack_of(&mut self, id: LogId) -> Option<Message> {
        let log = self.logs.get_mut(&id)?;
        let (head, holes) = (log.head(), log.holes.clone());
        log.told = Some(head);
        log.told_holes.clone_from(&holes);
        log.is_to_be_told = false;
        self.spaces[log.space].statements.stated().note(id, head);
        let (node, incarnation) = (self.config.local.clone(), self.config.incarnation);
        Some(Message::Ack(Ack { log: id, node, incarnation, head, holes, via: Vec::new(), losses: 0 }))
    }

    /// Part of an answer.
    pub(super) fn next_answer(&mut self) -> Option<Message> {
        loop {
            let &index = self.target.answers.front()?;
            let space = &mut self.spaces[index];
            let (Some(answer), Some(scope), true) = (space.answer.take(), space.in_scope(), space.loaded) else {
                self.target.answers.pop_front();
                continue;
            };
            let Answer { after, wanted } = answer;
            let is_second_answer = wanted.is_some();
            let told = self.told_scope(index, scope);
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let space = &mut self.spaces[index];
            let logs = space.logs.range((from, Bound::Unbounded)).copied();
            let logs = logs.filter(|id| wanted.as_ref().is_none_or(|wanted| wanted.binary_search(id).is_ok()));
            let ids: Vec<_> = logs.take(codec::HEADS_MAX).collect();
            let (first, last) = (after.is_none() && wanted.is_none(), ids.len() < codec::HEADS_MAX);
            if last {
                self.target.answers.pop_front();
            } else {
                space.answer = Some(Answer { after: ids.last().copied(), wanted });
            }
            let space = space.name.clone();
            let heads: Vec<_> = ids.into_iter().filter_map(|id| self.tell_head(id, scope, told)).collect();
            if is_second_answer {
                // Of a log that the source had not yet it dropped what was passed on after the first.
                heads.iter().for_each(|head| self.pass_on_again(head.log));
            }
            return Some(Message::Heads(Heads { space, scope, told, heads, since_heard: false, first, last }));
        }
    }

    /// The durable head of a log that the peer is being told, and may continue if the flow carries it.
    fn tell_head(&mut self, id: LogId, scope: Scope, told: Scope) -> Option<LogHead> {
        let log = self.logs.get(&id)?;
        let head = log.head();
        if !self.target_carries(told, log) || !log.has_records() {
            return None;
        }
        self.spaces[log.space].statements.stated().note(id, head);
        let is_carried = self.target_carries(scope, log);
        let log = self.logs.get_mut(&id)?;
        log.told = Some(head);
        if !is_carried {
            return Some(LogHead { log: id, head });
        }
        // What was told of its holes before the answer may not be so any more, and the source may not have had the log then.
        log.is_to_be_told |= !log.holes.is_empty();
        match log.incoming {
            Incoming::Idle => self.open_incoming(id, false),
            // All is compared anew, so what had stopped is tried again.
            Incoming::Parked(_) => self.open_incoming(id, true),
            Incoming::Open { .. } | Incoming::Stalled { .. } => {}
        }
        self.queue_ack(id);
        Some(LogHead { log: id, head })
    }

    /// The source says the hash of what it has sent. If that is not what is here although nothing is under
    /// way and nothing has stopped, the heads are compared again, once for each pair of hashes.
    pub(super) fn compare_frontier(&mut self, index: usize, theirs: FrontierHash) {
        let space = &self.spaces[index];
        let Some(scope) = space.in_scope() else { return };
        let mut logs = space.logs.iter().filter_map(|id| self.logs.get(id));
        let stopped = logs.any(|log| matches!(log.incoming, Incoming::Parked(_) | Incoming::Stalled { .. }));
        // While this end has something that the source lacks they differ, and that is on its way.
        let is_ahead = space.out_scope().is_some() && !space.in_sync;
        let is_answering = space.answer.is_some() || space.sketched.is_some();
        if space.outstanding > 0 || is_answering || stopped || is_ahead {
            return;
        }
        let ours = self.frontier(index, |log: &Log| self.target_carries(scope, log));
        if ours != theirs && self.spaces[index].compared.replace((theirs, ours)) != Some((theirs, ours)) {
            self.answer_with_heads(index);
        }
    }
}
