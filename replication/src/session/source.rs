//! The end that streams: where each log stands at the target, finding the target's heads on the chains here, and believing
//! acknowledgements only of what was sent.

use std::time::Instant;

use counterfoil_storage::{Batch, Head, Holes, Incarnation, LogId, NodeName, Seq};

use super::{
    LogState, Session,
    state::{InFlight, Incoming, Local, Log, Outflow, Outgoing, Streaming},
};
use crate::{
    error::PeerMisbehaved,
    event::{By, Event},
    message::{Ack, Announce, CaughtUp, Flow, GapCause, Message, Park, ParkReason, Rewind},
};

impl Session {
    /// The target has named a log that the flow carries.
    pub(super) fn note_announced(&mut self, id: LogId) {
        if let Some(log) = self.logs.get_mut(&id) {
            log.is_announced = true;
        }
    }

    /// The one decision of where a log stands, given where it ends at the target. Exactly one row matches.
    pub(super) fn classify(&mut self, id: LogId, remote: Head) {
        let Some(log) = self.logs.get(&id) else { return };
        let (local, origin) = (log.head(), log.origin);
        let first_seq = log.local.map_or(Seq::ZERO, |local| local.first_seq);
        if remote == local {
            self.stream_from(id, remote);
        } else if remote.next_seq > local.next_seq {
            let is_awaited = self.is_awaited(log);
            self.set_outgoing(id, Outgoing::Ahead { remote });
            if !is_awaited {
                self.note_claim(id, remote);
                self.events.push_back(Event::Ahead { log: id, local, remote });
            }
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
    pub(super) fn want_check(&mut self, id: LogId) {
        if let Some(log) = self.logs.get_mut(&id)
            && !std::mem::replace(&mut log.in_checks, true)
        {
            self.source.checks.push_back(id);
        }
    }

    /// Streams a log that the target has nothing of.
    pub(super) fn stream_from_start(&mut self, id: LogId) {
        let Some(log) = self.logs.get(&id) else { return };
        let origin = log.origin;
        let first_seq = log.local.map_or(Seq::ZERO, |local| local.first_seq);
        if first_seq > Seq::ZERO {
            if !log.is_announced {
                // So that the target knows what it is to ask for once it has got it of another.
                let (genesis, head) = ((*log.genesis).clone(), log.head());
                self.control.push_back(Message::Announce(Announce { genesis, head }));
                self.note_announced(id);
            }
            let gap = ParkReason::Gap { first_seq: Seq::ZERO, next_seq: first_seq, cause: GapCause::Trimmed };
            self.park_outgoing(id, gap);
        } else {
            self.stream_from(id, origin);
        }
    }

    /// Streams a log from a head of the target's that is on the chain here.
    pub(super) fn stream_from(&mut self, id: LogId, head: Head) {
        self.set_outgoing(id, Outgoing::Streaming(Streaming::from(head)));
        self.note_peer_head(id, head);
        self.want_fetch(id);
    }

    /// The only way that a log's outgoing state is replaced: what was read ahead is given up.
    pub(super) fn set_outgoing(&mut self, id: LogId, state: Outgoing) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        match &log.outgoing {
            Outgoing::Streaming(streaming) => self.source.ready_bytes -= streaming.ready_bytes,
            Outgoing::Placing { .. } => {
                if let Some(placing) = &mut self.spaces[log.space].placing {
                    placing.open = placing.open.saturating_sub(1);
                }
            }
            _ => {}
        }
        if !matches!(state, Outgoing::Parked(_)) {
            log.in_flight = InFlight::default();
        }
        log.outgoing = state;
        log.generation += 1;
    }

    /// Tells where the peer first says in this session that a log ends there. Only this may take back what it
    /// acknowledged in an earlier session: what comes later can be overtaken by another session's.
    pub(super) fn note_statement(&mut self, id: LogId, head: Head) {
        let (Some(log), Some(peer)) = (self.logs.get_mut(&id), self.peer) else { return };
        log.stated_head = Some(head);
        if !std::mem::replace(&mut log.stated, true) && *log.writer() != self.config.peer {
            let (node, incarnation) = (self.config.peer.clone(), peer.incarnation);
            let holes = log.peer_holes.clone();
            self.events.push_back(Event::Stated { log: id, node, incarnation, head, holes });
        }
    }

    /// Records up to where the peer has a log durable, and tells of it.
    pub(super) fn note_peer_head(&mut self, id: LogId, head: Head) {
        let (Some(log), Some(peer)) = (self.logs.get_mut(&id), self.peer) else { return };
        log.stated = true;
        self.change_peer_head(id, head, peer.incarnation, |log, node, incarnation, head, holes| Event::Acked {
            log,
            node,
            incarnation,
            head,
            holes,
            via: Vec::new(),
            losses: 0,
        });
    }

    /// Records that the peer has a log durable at least up to there, since it sent it. It may have more.
    fn note_held(&mut self, id: LogId, head: Head) {
        let Some(peer) = self.peer else { return };
        if self.logs.get(&id).is_some_and(|log| log.peer_head.is_none_or(|known| known.next_seq < head.next_seq)) {
            self.change_peer_head(id, head, peer.incarnation, |log, node, incarnation, head, _| Event::Holds {
                log,
                node,
                incarnation,
                head,
            });
        }
    }

    /// A log flows to the peer no more, and the peer says nothing of it until it does again: then all that it says is news.
    pub(super) fn note_unheard(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        log.is_announced = false;
        let has_said = std::mem::take(&mut log.stated);
        if (log.peer_head.take().is_some() || has_said) && *log.writer() != self.config.peer {
            self.events.push_back(Event::Unheard { log: id, node: self.config.peer.clone() });
        }
    }

    fn change_peer_head(
        &mut self,
        id: LogId,
        head: Head,
        incarnation: Incarnation,
        event: impl FnOnce(LogId, NodeName, Incarnation, Head, Holes) -> Event,
    ) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let node = self.config.peer.clone();
        let holes = log.peer_holes.clone();
        let known = std::mem::replace(&mut log.peer_holes_told, holes.clone());
        let before = log.peer_head.replace(head);
        if *log.writer() == node {
            // Nobody's log is held by its writer on behalf of others.
            return;
        }
        match before {
            Some(from) if head.next_seq < from.next_seq || !holes.are_within(&known) => {
                let space = &mut self.spaces[log.space];
                space.in_sync = false;
                space.behind_since.get_or_insert(self.liveness.last_heard);
                let losses = 0;
                self.events.push_back(Event::Withdrawn { log: id, node, incarnation, from, to: head, holes, losses });
            }
            Some(from) if head.next_seq == from.next_seq && holes == known => {}
            None if head.next_seq == Seq::ZERO => {}
            _ => self.events.push_back(event(id, node, incarnation, head, holes)),
        }
    }

    /// Stops a log at this end and tells both.
    pub(super) fn park_outgoing(&mut self, id: LogId, reason: ParkReason) {
        if let Some(log) = self.logs.get_mut(&id) {
            log.stopped_at = match log.outgoing {
                Outgoing::Checking { remote, .. } => Some(remote),
                _ => log.peer_head,
            };
        }
        if let ParkReason::Diverged { target_head, .. } = reason {
            self.disbelieve(id);
            self.note_claim(id, target_head);
        }
        self.set_outgoing(id, Outgoing::Parked(reason.clone()));
        self.control.push_back(Message::Park(Park { log: id, flow: Flow::Outgoing, reason: reason.clone() }));
        self.events.push_back(Event::Parked { log: id, reason, by: By::Local });
    }

    /// The peer stopped a log.
    pub(super) fn handle_park(&mut self, park: Park) {
        // A log that only the peer has is not known here: then there is nothing to stop.
        match park.flow {
            Flow::Incoming => self.set_outgoing(park.log, Outgoing::Parked(park.reason.clone())),
            Flow::Outgoing => {
                // This end's own reason stays: the peer's word takes nothing of it back.
                let has_stopped = |log: &Log| matches!(log.incoming, Incoming::Parked(_));
                if !self.logs.get(&park.log).is_some_and(has_stopped) {
                    self.stop_incoming(park.log, park.reason.clone());
                }
            }
        }
        self.events.push_back(Event::Parked { log: park.log, reason: park.reason, by: By::Peer });
    }

    /// Takes a log of a space as it durably is here.
    pub(super) fn update_log(&mut self, now: Instant, index: usize, state: &LogState) {
        let id = state.id;
        if !self.logs.contains_key(&id) && !self.add_log(id, index, &state.genesis) {
            return self.tell_overflow(id);
        }
        let Some(log) = self.logs.get_mut(&id) else { return };
        let before = log.head();
        log.local = Some(Local { first_seq: state.first_seq, head: state.durable, bytes: state.bytes });
        let has_news = log.holes != state.holes;
        if has_news {
            log.holes.clone_from(&state.holes);
        }
        self.note_kept(id);
        if has_news {
            self.want_mending(id);
            self.resume_mended(id);
        }
        if before != state.durable {
            self.advance_outgoing(now, id, index);
            self.judge_claims(id);
        }
        self.advance_incoming(now, id, before, state.durable);
    }

    /// A log that stopped for want of records which are here again goes on.
    fn resume_mended(&mut self, id: LogId) {
        let Some(log) = self.logs.get(&id) else { return };
        let Outgoing::Parked(ParkReason::Gap { first_seq, next_seq, cause: GapCause::Hole | GapCause::Damaged }) =
            log.outgoing
        else {
            return;
        };
        if let Some(remote) = log.stopped_at.filter(|_| !log.holes.meet(first_seq, next_seq)) {
            // The target dropped what came meanwhile, until it hears of the log again.
            let (genesis, head) = ((*log.genesis).clone(), log.head());
            self.control.push_back(Message::Announce(Announce { genesis, head }));
            self.note_announced(id);
            self.classify(id, remote);
        }
    }

    /// A log here finds no place in the session. Told once: there may be many.
    fn tell_overflow(&mut self, id: LogId) {
        if !std::mem::replace(&mut self.overflow_told, true) {
            let reason = ParkReason::TooManyLogs { limit: self.config.limits.logs_max as u32 };
            self.events.push_back(Event::Parked { log: id, reason, by: By::Local });
        }
    }

    /// More of a log is durable here.
    fn advance_outgoing(&mut self, now: Instant, id: LogId, index: usize) {
        let Some(log) = self.logs.get(&id) else { return };
        match log.outgoing {
            Outgoing::Ahead { remote } if log.head().next_seq >= remote.next_seq => self.classify(id, remote),
            Outgoing::Checking { fetching: false, .. } => self.want_check(id),
            Outgoing::Streaming(_) => self.want_fetch(id),
            Outgoing::Idle
                if log.has_records()
                    && self.spaces[index].out_scope().is_some_and(|scope| self.source_carries(scope, log)) =>
            {
                self.stream_from_start(id);
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
        self.unplace(id);
        let Some(log) = self.logs.get(&id) else { return };
        let scope = self.spaces[log.space].out_scope();
        let head = batch.head();
        // Nothing leaves a node before it is durable there, so the peer has it durable.
        match &log.outgoing {
            Outgoing::Idle if scope.is_some_and(|scope| self.source_carries(scope, log)) => {}
            Outgoing::Idle | Outgoing::Awaiting { .. } => {
                self.note_streamed(id, head);
                return self.note_held(id, head);
            }
            Outgoing::Streaming(streaming) if streaming.sent.next_seq <= batch.first_seq() => {}
            // It need not be looked for any more.
            Outgoing::Checking { remote, .. } if remote.next_seq < head.next_seq => {}
            Outgoing::Ahead { remote } if remote.next_seq < head.next_seq => {
                return self.set_outgoing(id, Outgoing::Ahead { remote: head });
            }
            _ => return,
        }
        self.set_outgoing(id, Outgoing::Streaming(Streaming::from(head)));
        self.note_held(id, head);
    }

    /// The peer has streamed what this end did not take, because it has it or can't: it is not sent back there, whether or
    /// not it turns out to be on this end's chain.
    pub(super) fn note_untaken(&mut self, id: LogId, head: Head) {
        self.unplace(id);
        self.note_streamed(id, head);
        let Some(log) = self.logs.get(&id) else { return };
        let is_news = match &log.outgoing {
            Outgoing::Idle => self.spaces[log.space].out_scope().is_some_and(|scope| self.source_carries(scope, log)),
            Outgoing::Streaming(streaming) => streaming.sent.next_seq < head.next_seq,
            Outgoing::Checking { remote, .. } | Outgoing::Ahead { remote } => remote.next_seq < head.next_seq,
            Outgoing::Awaiting { .. } | Outgoing::Placing { .. } | Outgoing::Parked(_) => false,
        };
        if is_news {
            self.classify(id, head);
        }
    }

    /// What the peer streamed turns out to be another history than this end's: what was taken for the peer's head on
    /// this end's chain is not on it.
    pub(super) fn doubt_received(&mut self, id: LogId, local: Head) {
        let Some(log) = self.logs.get(&id) else { return };
        match (&log.outgoing, log.peer_head) {
            (Outgoing::Streaming(_), Some(target_head)) => {
                self.park_outgoing(id, ParkReason::Diverged { source_head: local, target_head });
            }
            _ => self.disbelieve(id),
        }
    }

    /// The peer has another history of a log than this end: nothing that it says it holds counts.
    fn disbelieve(&mut self, id: LogId) {
        let (Some(log), Some(peer)) = (self.logs.get_mut(&id), self.peer) else { return };
        let (node, incarnation, to) = (self.config.peer.clone(), peer.incarnation, log.origin);
        let from = log.peer_head.take().or(log.stated_head).unwrap_or(to);
        if *log.writer() != node {
            let (holes, losses) = (Holes::default(), 0);
            self.events.push_back(Event::Withdrawn { log: id, node, incarnation, from, to, holes, losses });
        }
    }

    pub(super) fn handle_ack(&mut self, ack: &Ack) -> Result<(), PeerMisbehaved> {
        if ack.node != self.config.peer {
            return self.handle_passed_ack(ack);
        }
        if Some(ack.incarnation) != self.peer.map(|peer| peer.incarnation) {
            return Err(PeerMisbehaved::ForeignAck { node: ack.node.clone() });
        }
        self.note_heard(ack.log, ack.head);
        self.unplace(ack.log);
        let Some(log) = self.logs.get_mut(&ack.log) else { return self.check_unknown_ack(ack.log) };
        log.is_announced = true;
        let index = log.space;
        log.peer_holes.clone_from(&ack.holes);
        if log.peer_head == Some(ack.head) {
            if log.peer_holes != log.peer_holes_told {
                self.note_peer_head(ack.log, ack.head);
                self.check_in_sync(index);
            }
            return Ok(());
        }
        if log.in_flight.acknowledge(ack.head) {
            self.note_peer_head(ack.log, ack.head);
            self.want_send(ack.log);
        } else {
            let is_news = match log.outgoing {
                Outgoing::Streaming(_) => true,
                Outgoing::Checking { remote, .. } | Outgoing::Ahead { remote } => remote != ack.head,
                Outgoing::Idle | Outgoing::Awaiting { .. } | Outgoing::Placing { .. } | Outgoing::Parked(_) => false,
            };
            if is_news {
                // The peer got it, or lost it, otherwise than by this session.
                self.classify(ack.log, ack.head);
            }
        }
        self.take_back_new_holes(ack);
        self.check_in_sync(index);
        Ok(())
    }

    /// Whatever becomes of a log: what its peer has lost of it is taken back at once.
    fn take_back_new_holes(&mut self, ack: &Ack) {
        let Some(log) = self.logs.get(&ack.log).filter(|log| !log.peer_holes.are_within(&log.peer_holes_told)) else {
            return;
        };
        if let Some(known) = log.peer_head {
            let left = if ack.head.next_seq < known.next_seq { ack.head } else { known };
            self.note_peer_head(ack.log, left);
        }
    }

    /// A target speaks of all logs that it has of a space that this end offered, also of those that it got by another way
    /// and that this end has not yet: they are of no use here. Where nothing was offered there is nothing to speak of.
    pub(super) fn check_unknown_ack(&self, log: LogId) -> Result<(), PeerMisbehaved> {
        let has_offered = self.spaces.iter().any(|space| space.outflow != Outflow::Closed);
        if has_offered { Ok(()) } else { Err(PeerMisbehaved::UnknownLog { log }) }
    }

    pub(super) fn handle_rewind(&mut self, rewind: &Rewind) -> Result<(), PeerMisbehaved> {
        let Some(log) = self.logs.get(&rewind.log) else {
            return Err(PeerMisbehaved::UnknownLog { log: rewind.log });
        };
        let index = log.space;
        self.unplace(rewind.log);
        let Some(log) = self.logs.get(&rewind.log) else { return Ok(()) };
        let goes_on = match &log.outgoing {
            Outgoing::Streaming(_) | Outgoing::Checking { .. } | Outgoing::Ahead { .. } => true,
            // Another replica gave it what this end can't.
            Outgoing::Parked(ParkReason::Gap { next_seq, .. }) => rewind.head.next_seq >= *next_seq,
            _ => false,
        };
        self.note_heard(rewind.log, rewind.head);
        if goes_on {
            if rewind.head.next_seq > Seq::ZERO {
                // It has some of it. Of one that it has nothing of it may not know.
                self.note_announced(rewind.log);
            }
            self.classify(rewind.log, rewind.head);
            self.check_in_sync(index);
        }
        Ok(())
    }

    /// Tells when all that is durable here of a space has become durable at the peer: the application, and once the peer.
    pub(super) fn check_in_sync(&mut self, index: usize) {
        let space = &self.spaces[index];
        let Some(scope) = space.out_scope() else { return };
        let lacks = |log: &Log| log.has_records() && self.source_carries(scope, log) && !log.is_mirrored();
        // There may be many logs, and this is asked with each ack.
        if space.in_sync || space.lacking.and_then(|id| self.logs.get(&id)).is_some_and(|log| lacks(log) && log.moves())
        {
            return;
        }
        // From the one on that was lacking: they are sent in rotation, so those before it are the last to lack something again.
        let from = space.lacking.unwrap_or(LogId::from_bytes([0; 16]));
        let ids = || space.logs.range(from..).chain(space.logs.range(..from));
        let logs = || ids().filter_map(|id| self.logs.get(id).map(|log| (*id, log)));
        let lacking = logs().find(|(_, log)| lacks(log) && log.moves()).map(|(id, _)| id);
        let in_sync = lacking.is_none() && !logs().any(|(_, log)| lacks(log));
        // What the peer has more of, it does not lack.
        let whole =
            lacking.is_none() && !logs().any(|(_, log)| lacks(log) && !matches!(log.outgoing, Outgoing::Ahead { .. }));
        let space = &mut self.spaces[index];
        space.lacking = lacking;
        let name = space.name.clone();
        if in_sync {
            space.in_sync = true;
            space.behind_since = None;
            self.events.push_back(Event::InSync { space: name.clone() });
        }
        if lacking.is_none()
            && space.caught_up.is_none_or(|told| !told && whole)
            && space.caught_up.replace(whole) != Some(whole)
        {
            self.control.push_back(Message::CaughtUp(CaughtUp { space: name, whole }));
        }
    }
}
