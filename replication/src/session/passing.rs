//! Acks of other nodes' disks: the target passes on those that its node has heard, the source believes what is on its
//! own chain.
//!
//! They go towards the writer: against the stream, from target to source. Nobody is told of its own disk or of what it
//! told itself or came through it, and the writer of a log is never among those who hold it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use counterfoil_storage::{Batch, Head, Holes, Incarnation, LogId, NodeName, Seq};

use super::{
    FetchFailure, FetchRequest, Purpose, Session,
    state::{Incoming, Log},
};
use crate::{
    config::Direction,
    error::PeerMisbehaved,
    event::Event,
    message::{Ack, Message},
};

/// Other nodes of which the acks of one log are heard in a session; what is said of more of them is dropped.
const WITNESSES_MAX: usize = 16;

/// What waits to be passed on and to be judged.
#[derive(Debug, Default)]
pub(super) struct PassingQueues {
    /// Logs with acks to pass on.
    out: VecDeque<LogId>,
    /// Logs in which heads that were passed on are to be looked for.
    judgements: VecDeque<LogId>,
    /// Logs whose flow towards this end has opened: their acks are to be passed on.
    opened: VecDeque<LogId>,
}

/// The acks of other nodes for one log.
#[derive(Debug, Default)]
pub(super) struct Passing {
    /// To be passed on; by node.
    out: BTreeMap<NodeName, Ack>,
    in_out: bool,
    /// Passed on in this session, as it stands.
    told: BTreeMap<NodeName, Ack>,
    /// Of whom the peer may not have taken what it was told: it is told again, if anything is known then.
    unsure: BTreeSet<NodeName>,
    /// What the peer has passed on; at most [`WITNESSES_MAX`].
    witnesses: BTreeMap<NodeName, Witness>,
    in_judgements: bool,
    /// What is being looked for on the chain.
    judging: Option<(NodeName, Incarnation, Head)>,
    is_opened: bool,
}

/// A node that is said to hold a log.
#[derive(Debug)]
struct Witness {
    incarnation: Incarnation,
    /// Up to here, on this end's chain; at 0 if nothing is believed.
    believed: Head,
    /// What it is said to have lost: that needs no proof.
    holes: Holes,
    /// Through whom the peer has it.
    via: Vec<NodeName>,
    /// How often the peer has known it to take something back.
    losses: u32,
    /// What is said and has not been judged.
    claimed: Option<Head>,
}

impl Session {
    /// A log whose flow towards this end has opened since this was last asked: acks of other nodes for it are to be
    /// given to [`handle_acked_elsewhere`](Self::handle_acked_elsewhere), now and when they change.
    pub fn poll_opened(&mut self) -> Option<LogId> {
        self.passing.opened.pop_front()
    }

    /// The flow of a log towards this end is open.
    pub(super) fn note_opened(&mut self, id: LogId) {
        if let Some(log) = self.logs.get_mut(&id)
            && !std::mem::replace(&mut log.passing.is_opened, true)
        {
            self.passing.opened.push_back(id);
        }
    }

    /// The peer has nothing of what was passed on to it: all of it is to be given anew.
    pub(super) fn pass_on_anew(&mut self, id: LogId) {
        if let Some(log) = self.logs.get_mut(&id) {
            log.passing.told.clear();
            log.passing.unsure.clear();
            log.passing.is_opened = false;
        }
        self.note_opened(id);
    }

    /// The peer may have taken nothing of what was passed on to it: all of it is to be given anew.
    pub(super) fn pass_on_again(&mut self, id: LogId) {
        self.note_stopped(id);
        if self.logs.get(&id).is_some_and(Log::flows_in) {
            self.note_opened(id);
        }
    }

    /// The flow of a log towards this end has stopped: once it opens again all is to be given anew. The peer may have dropped
    /// what it was told last.
    pub(super) fn note_stopped(&mut self, id: LogId) {
        if let Some(log) = self.logs.get_mut(&id) {
            let Passing { told, unsure, is_opened, .. } = &mut log.passing;
            unsure.extend(told.keys().cloned());
            *is_opened = false;
        }
    }

    /// Another node has acknowledged a log, or taken back what it had: told to the peer if it streams the log.
    pub fn handle_acked_elsewhere(&mut self, ack: &Ack) {
        let Some(log) = self.logs.get_mut(&ack.log) else { return };
        let is_nobody_s = ack.node == self.config.peer || ack.node == self.config.local || ack.node == *log.writer();
        if is_nobody_s || !log.flows_in() {
            return;
        }
        let Passing { told, unsure, .. } = &log.passing;
        let (told, is_unsure) = (told.get(&ack.node), unsure.contains(&ack.node));
        // That nothing is known is worth saying only of whom something was said. What was taken back may have been said in an earlier session.
        let is_unsaid = ack.via.contains(&self.config.peer);
        if (told == Some(ack) && !is_unsure) || (told.is_none() && is_unsaid) {
            log.passing.out.remove(&ack.node);
            return;
        }
        log.passing.out.insert(ack.node.clone(), ack.clone());
        if !std::mem::replace(&mut log.passing.in_out, true) {
            self.passing.out.push_back(ack.log);
        }
    }

    /// The next ack to pass on.
    pub(super) fn next_passed_ack(&mut self) -> Option<Message> {
        loop {
            let id = self.passing.out.pop_front()?;
            let Some(log) = self.logs.get_mut(&id) else { continue };
            let flows_in = log.flows_in();
            let Some((node, ack)) = log.passing.out.pop_first().filter(|_| flows_in) else {
                log.passing.in_out = false;
                continue;
            };
            log.passing.unsure.remove(&node);
            log.passing.told.insert(node, ack.clone());
            self.passing.out.push_back(id);
            return Some(Message::Ack(ack));
        }
    }

    /// The peer passes on an ack.
    pub(super) fn handle_passed_ack(&mut self, ack: &Ack) -> Result<(), PeerMisbehaved> {
        let Some(log) = self.logs.get(&ack.log) else { return self.check_unknown_ack(ack.log) };
        let carried = self.spaces[log.space].answered_scope().is_some_and(|scope| self.source_carries(scope, log));
        // Who may only read could say anything of others' disks: it is this node that chose to send to the peer, or
        // the policy that lets the peer relay.
        let is_relay = self.spaces[log.space].brought.is_some_and(Direction::sends) || self.rights(log.space).relay;
        // This node knows best what it holds itself.
        if !carried || !is_relay || ack.node == self.config.local || ack.node == *log.writer() {
            return Ok(());
        }
        // What came through this node itself is nothing to it: the peer has heard nothing else, or no more.
        let is_unsaid = ack.via.contains(&self.config.local);
        let said = if is_unsaid { Seq::ZERO } else { ack.head.next_seq };
        let Some(log) = self.logs.get_mut(&ack.log) else { return Ok(()) };
        let origin = log.origin;
        let witnesses = &mut log.passing.witnesses;
        let is_of_life = |witness: &Witness| witness.incarnation == ack.incarnation;
        if is_unsaid && witnesses.get(&ack.node).is_none_or(is_of_life) {
            let known = witnesses.remove(&ack.node);
            let (log, node, incarnation) = (ack.log, ack.node.clone(), ack.incarnation);
            self.events.extend(known.map(|_| Event::Forgotten { log, node, incarnation }));
            return Ok(());
        }
        let known = witnesses.get(&ack.node);
        if known.is_none_or(|witness| witness.believed.next_seq == Seq::ZERO) {
            // What the peer said of the node in an earlier session is not known here. Less than that needs no proof.
            let Ack { log, node, incarnation, head, holes, losses, .. } = ack.clone();
            self.events.push_back(Event::Restated { log, node, incarnation, head, holes, losses });
        }
        if known.is_none() && (said == Seq::ZERO || witnesses.len() >= WITNESSES_MAX) {
            return Ok(());
        }
        let witness = witnesses.entry(ack.node.clone()).or_insert(Witness {
            incarnation: ack.incarnation,
            believed: origin,
            holes: Holes::default(),
            via: ack.via.clone(),
            losses: ack.losses,
            claimed: None,
        });
        let lost = witness.incarnation != ack.incarnation || said < witness.believed.next_seq;
        witness.incarnation = ack.incarnation;
        let has_lost = !ack.holes.are_within(&witness.holes);
        let has_changed = ack.holes != witness.holes || ack.via != witness.via || ack.losses != witness.losses;
        witness.holes.clone_from(&ack.holes);
        witness.via.clone_from(&ack.via);
        witness.losses = ack.losses;
        witness.claimed = Some(ack.head).filter(|_| said > Seq::ZERO);
        if lost && witness.believed.next_seq > Seq::ZERO {
            // It counts for nothing until it is found on the chain.
            let from = std::mem::replace(&mut witness.believed, origin);
            let Ack { log, node, incarnation, losses, .. } = ack.clone();
            let (to, holes) = (origin, Holes::default());
            self.events.push_back(Event::Withdrawn { log, node, incarnation, from, to, holes, losses });
        } else if has_changed && witness.believed.next_seq > Seq::ZERO {
            let Ack { log, node, incarnation, holes, via, losses, .. } = ack.clone();
            let head = witness.believed;
            self.events.push_back(if has_lost {
                Event::Withdrawn { log, node, incarnation, from: head, to: head, holes, losses }
            } else {
                Event::Acked { log, node, incarnation, head, holes, via, losses }
            });
        }
        self.judge_claims(ack.log);
        Ok(())
    }

    /// Judges what can be judged without a read, and has the rest looked for.
    pub(super) fn judge_claims(&mut self, id: LogId) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let (local, peer_head) = (log.head(), log.peer_head);
        let mut believed = Vec::new();
        let mut is_open = false;
        for (node, witness) in &mut log.passing.witnesses {
            let Some(claimed) = witness.claimed else { continue };
            if claimed == local || Some(claimed) == peer_head {
                believed.push((node.clone(), claimed));
            } else if claimed.next_seq == local.next_seq {
                witness.claimed = None;
            } else {
                // Beyond this end's log it waits until there is more of it.
                is_open |= claimed.next_seq < local.next_seq;
            }
        }
        if is_open && log.passing.judging.is_none() && !std::mem::replace(&mut log.passing.in_judgements, true) {
            self.passing.judgements.push_back(id);
        }
        for (node, head) in believed {
            self.believe(id, &node, head);
        }
    }

    /// A head that was passed on is on this end's chain.
    fn believe(&mut self, id: LogId, node: &NodeName, head: Head) {
        let witness = self.logs.get_mut(&id).and_then(|log| log.passing.witnesses.get_mut(node));
        let Some(witness) = witness else { return };
        if witness.claimed == Some(head) {
            witness.claimed = None;
        }
        if witness.believed.next_seq < head.next_seq {
            witness.believed = head;
            let (node, incarnation, holes) = (node.clone(), witness.incarnation, witness.holes.clone());
            let (via, losses) = (witness.via.clone(), witness.losses);
            self.events.push_back(Event::Acked { log: id, node, incarnation, head, holes, via, losses });
        }
    }

    /// The next read by which a head is looked for: one batch, the one that follows it.
    pub(super) fn next_judgement(&mut self) -> Option<FetchRequest> {
        loop {
            let id = self.passing.judgements.pop_front()?;
            let Some(log) = self.logs.get_mut(&id) else { continue };
            log.passing.in_judgements = false;
            let (local, generation) = (log.head(), log.generation);
            let witnesses = log.passing.witnesses.iter();
            let mut claims =
                witnesses.filter_map(|(node, witness)| Some((node, witness.incarnation, witness.claimed?)));
            let Some((node, life, head)) = claims.find(|(.., head)| head.next_seq < local.next_seq) else { continue };
            log.passing.judging = Some((node.clone(), life, head));
            let purpose = Purpose::Judge;
            return Some(FetchRequest {
                log: id,
                from: head.next_seq,
                before: None,
                bytes_max: 0,
                generation,
                purpose,
            });
        }
    }

    /// Takes what was read to judge a claim. What can't be read is not believed.
    pub(super) fn handle_judged(&mut self, id: LogId, result: &Result<Vec<Batch>, FetchFailure>) {
        let Some(log) = self.logs.get_mut(&id) else { return };
        let Some((node, life, head)) = log.passing.judging.take() else { return };
        let next = result.as_ref().ok().and_then(|batches| batches.first());
        let follows = |batch: &Batch| batch.first_seq() == head.next_seq && batch.header().previous == head.digest;
        // It may have been taken back while it was looked for.
        let still_said = |witness: &Witness| {
            witness.incarnation == life && witness.claimed.is_some_and(|claimed| claimed.next_seq >= head.next_seq)
        };
        if next.is_some_and(follows) {
            if log.passing.witnesses.get(&node).is_some_and(still_said) {
                self.believe(id, &node, head);
            }
        } else if let Some(witness) = log.passing.witnesses.get_mut(&node)
            && witness.claimed == Some(head)
        {
            witness.claimed = None;
        }
        self.judge_claims(id);
    }
}

impl Log {
    /// Whether the peer streams it.
    pub(super) fn flows_in(&self) -> bool {
        matches!(self.incoming, Incoming::Open { .. } | Incoming::Stalled { .. })
    }
}
