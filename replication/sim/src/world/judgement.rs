//! What must hold: of every event, and after healing.

use std::{collections::BTreeSet, time::Duration};

use counterfoil_replication::{Direction, Event, ParkReason};
use counterfoil_storage::{Head, LogId, NodeName, Seq, SpaceName};

use super::{Happening, Outcome, World};
use crate::{bugs::Bug, liar::LIAR, machine::Machine, topology::Link};

impl World {
    pub(super) fn judge_event(&mut self, connection: u64, side: usize, event: &Event) -> Outcome {
        let Some(state) = self.connections.get(&connection) else { return Ok(()) };
        let (machine, peer) = (state.ends[side].machine, state.ends[1 - side].machine);
        if self.is_liar(connection, side) {
            return Ok(());
        }
        if let (Some(Bug::OneLogStopsAll), Event::Parked { .. }) = (self.bug, event) {
            self.stopped.insert(machine);
        }
        if self.is_liar(connection, 1 - side) {
            return self.judge_event_of_liar(machine, peer, event);
        }
        self.post(machine, peer, event)?;
        match event {
            Event::Acked { log, node, head, .. } if *node != self.machines[peer].name => {
                self.report.passed_acks += 1;
                self.judge_ack(machine, node, *log, *head)
            }
            Event::Acked { log, node, head, .. } | Event::Holds { log, node, head, .. } => {
                self.report.acks += 1;
                self.judge_ack(machine, node, *log, *head)?;
                let believed = self.believed.entry((machine, *log)).or_default();
                *believed = head.next_seq.max(*believed);
                if let (0, Some(link)) = (side, self.connected.iter().find(|(_, id)| **id == connection)) {
                    self.links[*link.0].failures = 0;
                }
                Ok(())
            }
            // What a mirror got by another way, before this end did.
            Event::Ahead { log, remote, .. } if self.plan.two_ways && self.chains.has_head(*log, *remote) => {
                if self.machines[machine].writes(*log) {
                    return Err(format!("{}: its own log {log} was taken for rewound", self.machines[machine].name));
                }
                Ok(())
            }
            Event::PeerReady { .. } | Event::Stated { .. } | Event::InSync { .. } | Event::StorageFull => Ok(()),
            // Once all is healed it is heard again.
            Event::Forgotten { node, .. } | Event::Restated { node, .. } if *node != self.machines[peer].name => Ok(()),
            // The board judges.
            Event::Withdrawn { node, .. } if *node != self.machines[peer].name => Ok(()),
            // The end that takes a right away says so, and what that stops is told as well.
            Event::Refused { .. } | Event::Unheard { .. } if self.plan.denials > 0 => Ok(()),
            Event::Parked { reason: ParkReason::NoRight { .. }, .. } | Event::CaughtUp { whole: false, .. }
                if self.plan.denials > 0 =>
            {
                Ok(())
            }
            Event::Ahead { log, remote, .. } if self.plan.denials > 0 && self.chains.has_head(*log, *remote) => {
                if self.machines[machine].writes(*log) {
                    return Err(format!("{}: its own log {log} was taken for rewound", self.machines[machine].name));
                }
                Ok(())
            }
            // Histories of the liar's logs part, which is nobody else's trouble.
            Event::Parked { log, .. } | Event::Ahead { log, .. } | Event::Withdrawn { log, .. }
                if self.is_no_trouble(*log) =>
            {
                Ok(())
            }
            Event::CaughtUp { whole: false, .. } if self.liar.is_some() => Ok(()),
            Event::CaughtUp { space, whole: true } => self.judge_caught_up(connection, side, space),
            unexpected => Err(format!("{}: {unexpected:?}", self.machines[machine].name)),
        }
    }

    /// A machine that is told that it has caught up has what the other end had when the connection was made.
    fn judge_caught_up(&self, connection: u64, side: usize, space: &SpaceName) -> Outcome {
        let Some(state) = self.connections.get(&connection) else { return Ok(()) };
        let (machine, peer) = (&self.machines[state.ends[side].machine], &self.machines[state.ends[1 - side].machine]);
        let link = self.connected.iter().find(|(_, id)| **id == connection).map(|(link, _)| &self.links[*link]);
        // From who may not relay come its own logs only.
        let all = side == 0 || link.is_none_or(|link| link.direction != Direction::Both || link.relays);
        let has = machine.heads();
        for (log, head) in &state.ends[1 - side].began_with {
            let is_carried = peer.space_of(*log).as_ref() == Some(space) && (all || peer.writes(*log));
            if is_carried && has.get(log).is_none_or(|has| has.next_seq < head.next_seq) {
                return Err(format!(
                    "{}: has not caught up with log {log} of {}, as it was told",
                    machine.name, peer.name
                ));
            }
        }
        Ok(())
    }

    /// An ack that a machine believes is a promise that the node named has made of its own disk; the node is another
    /// one, and not the writer.
    pub(super) fn judge_ack(&self, machine: usize, node: &NodeName, log: LogId, head: Head) -> Outcome {
        let (name, seq) = (&self.machines[machine].name, head.next_seq);
        let Some(of) = self.machines.iter().find(|machine| machine.name == *node) else {
            return Err(format!("{name}: believed an ack of {node}, which is nobody"));
        };
        // What it says of its own disk is its word; but there is no more than there is.
        if of.is_liar() && self.chains.has_head(log, head) {
            return Ok(());
        }
        if node == name || of.writes(log) {
            return Err(format!("{name}: {node} was counted for log {log}, which one of the two writes"));
        }
        if !of.has_acked(log, seq) {
            return Err(format!("{name}: {node} was believed to have log {log} up to {seq}"));
        }
        if !self.chains.has_head(log, head) {
            return Err(format!("{name}: a head of log {log} at {seq} was believed that never was"));
        }
        Ok(())
    }

    /// Posts what a session tells on its machine's board, has the other sessions there pass it on, and judges what the
    /// board then says.
    pub(super) fn post(&mut self, machine: usize, peer: usize, event: &Event) -> Outcome {
        let name = self.machines[peer].name.clone();
        let changes = self.machines[machine].board.hear(&name, event);
        for change in &changes {
            let is_of_liar = change.ack.node.as_str() == LIAR || self.chains.is_lie(change.ack.log);
            match change.is_withdrawal() {
                // It says that it has less, and where it then ends is looked for next.
                true if is_of_liar => continue,
                true => {
                    return Err(format!("{}: {change:?} although nothing was lost", self.machines[machine].name));
                }
                false if change.is_forgotten && change.ack.head.next_seq == Seq::ZERO => {}
                false => self.judge_ack(machine, &change.ack.node, change.ack.log, change.ack.head)?,
            }
            let known = self.machines[machine].board.of_log(change.ack.log);
            let nodes: BTreeSet<_> = known.iter().map(|ack| &ack.node).collect();
            if nodes.len() != known.len() || nodes.len() >= self.machines.len() {
                return Err(format!("{}: a node was counted twice: {known:?}", self.machines[machine].name));
            }
        }
        if is_of_acks(event) {
            // What changes nothing here may be news to others.
            self.plan_in(Duration::ZERO, Happening::PassOn { machine, life: self.lives[machine] });
        }
        Ok(())
    }

    /// Whether each link's target has what its source has, the source knows it, and knows it of those behind as well.
    pub(super) fn is_equal(&self) -> bool {
        let honest = || self.machines.iter().filter(|machine| !machine.is_liar());
        honest().all(|machine| !machine.commit_planned && machine.journal.is_some())
            && self.flows().all(|(link, flow)| self.differing(link, flow).is_empty())
            && self.unknown_behind().is_empty()
    }

    /// Machines that a log is streamed to, directly or through others, and of which its source does not know that they
    /// have all of it; told by name.
    fn unknown_behind(&self) -> Vec<String> {
        let mut unknown = Vec::new();
        for (index, machine) in self.machines.iter().enumerate().filter(|(_, machine)| !machine.is_liar()) {
            for (log, head) in machine.heads().into_iter().filter(|(log, _)| !self.chains.is_lie(*log)) {
                // Among nodes that sync acks go towards the writer, by whatever ways.
                if self.plan.sync.is_some() && !machine.writes(log) {
                    continue;
                }
                let known = machine.board.of_log(log);
                for behind in self.behind(index, log) {
                    let name = &self.machines[behind].name;
                    if !known.iter().any(|ack| ack.node == *name && ack.head == head) {
                        unknown.push(format!("{} does not know that {name} has log {log}", machine.name));
                    }
                }
            }
        }
        unknown
    }

    /// Machines to which a log flows from this one.
    fn behind(&self, index: usize, log: LogId) -> BTreeSet<usize> {
        let (mut found, mut waiting) = (BTreeSet::new(), vec![index]);
        while let Some(from) = waiting.pop() {
            for (link, (_, to)) in self.flows().filter(|(_, flow)| flow.0 == from) {
                let carries = self.machines[index].space_of(log).is_some_and(|space| link.spaces.contains(&space));
                if carries && to != index && found.insert(to) {
                    waiting.push(to);
                }
            }
        }
        found
    }

    /// Each way that records flow between honest machines, with its link.
    fn flows(&self) -> impl Iterator<Item = (&Link, (usize, usize))> {
        let liar = self.liar_index();
        let honest = self.links.iter().filter(move |link| liar != Some(link.from) && liar != Some(link.to));
        honest.flat_map(|link| link.flows().into_iter().map(move |flow| (link, flow)))
    }

    /// Logs that a flow carries and that are not equal at both ends, or not known to be.
    fn differing(&self, link: &Link, (from, to): (usize, usize)) -> BTreeSet<LogId> {
        let (source, target) = (self.machines[from].heads(), self.machines[to].heads());
        let known = |log: &LogId, seq: Seq| self.believed.get(&(from, *log)).is_some_and(|known| *known >= seq);
        let is_carried =
            |log: &LogId| self.machines[from].space_of(*log).is_some_and(|space| link.spaces.contains(&space));
        // That the writer has its log needs no word.
        let is_silent = |log: &LogId| self.machines[to].writes(*log);
        let differs = |log: &LogId, seq: Seq, equal: bool| !equal || !(is_silent(log) || known(log, seq));
        let logs = source
            .iter()
            .filter(|(log, _)| !self.chains.is_lie(**log))
            .filter(|(log, head)| is_carried(log) && differs(log, head.next_seq, target.get(*log) == Some(*head)));
        logs.map(|(log, _)| *log).collect()
    }

    pub(super) fn differences(&self) -> String {
        let mut lines = Vec::new();
        for (link, (from, to)) in self.flows() {
            let (source, target) = (&self.machines[from], &self.machines[to]);
            for log in self.differing(link, (from, to)) {
                let at = |machine: &Machine| machine.heads().get(&log).map_or(0, |head| head.next_seq.0);
                let known = self.believed.get(&(from, log)).copied().unwrap_or_default();
                let (ours, theirs) = (at(source), at(target));
                let (from, to) = (&source.name, &target.name);
                lines.push(format!("log {log} ends at {ours} on {from}, at {theirs} on {to}, known {known}"));
            }
        }
        lines.extend(self.unknown_behind());
        let planned = self.machines.iter().filter(|machine| machine.commit_planned).count();
        format!("{}; {planned} flushes planned, {} connections", lines.join("; "), self.connections.len())
    }
}

/// Whether a board takes it in.
fn is_of_acks(event: &Event) -> bool {
    matches!(
        event,
        Event::Acked { .. }
            | Event::Holds { .. }
            | Event::Stated { .. }
            | Event::Withdrawn { .. }
            | Event::Forgotten { .. }
            | Event::Restated { .. }
            | Event::PeerReady { .. }
    )
}
