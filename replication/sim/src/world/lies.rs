//! The one who lies, rights that are taken away, and ends that do not read.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::BytesMut;
use counterfoil_replication::{Endpoint, Event, Message};
use counterfoil_storage::{LogId, NodeName, SpaceName};

use super::{Happening, Outcome, World};
use crate::{
    bugs::Bug,
    liar::{Known, Said},
    topology::Denial,
};

/// What an end may hold beyond its window: one batch. Machines here make none that is longer.
const BATCH_BYTES_MAX: u64 = 16 << 10;

impl World {
    pub(super) fn liar_index(&self) -> Option<usize> {
        self.liar.as_ref().map(|(index, _)| *index)
    }

    /// Whether an end of a connection is the liar's.
    pub(super) fn is_liar(&self, connection: u64, side: usize) -> bool {
        let machine = self.connections.get(&connection).map(|state| state.ends[side].machine);
        machine.is_some() && machine == self.liar_index()
    }

    /// The liar says something instead of a message.
    pub(super) fn lie(&mut self, connection: u64, side: usize, message: Message) {
        let (Some((index, mut liar)), Some(state)) = (self.liar.take(), self.connections.get(&connection)) else {
            return;
        };
        let names: Vec<NodeName> = self.machines.iter().map(|machine| machine.name.clone()).collect();
        let mut spaces: Vec<SpaceName> = self.links.iter().flat_map(|link| link.spaces.clone()).collect();
        spaces.sort_unstable();
        spaces.dedup();
        let offers: &BTreeMap<_, _> = &state.ends[side].offers;
        let is_trusted = side == 1;
        let own = self.machines[index].own_logs();
        let known = Known { chains: &self.chains, names: &names, spaces: &spaces, own: &own, offers, is_trusted };
        let (said, lies) = liar.say(message, &known);
        self.liar = Some((index, liar));
        self.report.lies += lies;
        for said in said {
            match said {
                Said::Message(message) => self.send(connection, side, &message),
                Said::Garbage(bytes) => self.send_bytes(connection, side, BytesMut::from(&bytes[..])),
            }
        }
    }

    /// What the session with the liar tells an honest machine: it may be anything but that somebody else holds what it
    /// does not, or that there is what there never was.
    pub(super) fn judge_event_of_liar(&mut self, machine: usize, liar: usize, event: &Event) -> Outcome {
        self.post(machine, liar, event)?;
        let name = &self.machines[machine].name;
        match event {
            Event::Acked { log, node, head, .. } | Event::Holds { log, node, head, .. } => {
                if *node != self.machines[liar].name {
                    return self.judge_ack(machine, node, *log, *head);
                }
                if !self.chains.has_head(*log, *head) {
                    return Err(format!(
                        "{name}: the liar was believed to have log {log} at {}, which never was",
                        head.next_seq
                    ));
                }
                Ok(())
            }
            Event::Mended { log, .. } => Err(format!("{name}: log {log} was mended, and nothing was lost")),
            _ => Ok(()),
        }
    }

    /// What an end holds in memory is within its limits.
    pub(super) fn judge_memory(&self, connection: u64, side: usize) -> Outcome {
        let Some(state) = self.connections.get(&connection) else { return Ok(()) };
        let end = &state.ends[side];
        let Some(held) = end.endpoint.as_ref().map(Endpoint::held) else { return Ok(()) };
        let (session, _) = self.plan.windows;
        let scope = if self.plan.windows_vary { 16 } else { 1 };
        // A batch a log may be read whatever has been read.
        let logs = self.machines[end.machine].journal.as_ref().map_or(0, |journal| journal.logs(None).len() as u64);
        let received_max = session.max(self.plan.windows.1) * 2 * scope + BATCH_BYTES_MAX;
        let read_max = (1 << 20) + (logs + 1) * BATCH_BYTES_MAX;
        if held.received_bytes > received_max || held.read_bytes > read_max {
            let name = &self.machines[end.machine].name;
            return Err(format!("{name}: holds {held:?}, beyond {received_max} received and {read_max} read"));
        }
        Ok(())
    }

    /// Whether a log's trouble is nobody's fault but the liar's, or comes of a right that was taken away.
    pub(super) fn is_no_trouble(&self, log: LogId) -> bool {
        self.chains.is_lie(log) || (self.bug == Some(Bug::OneLogStopsAll) && !self.stopped.is_empty())
    }

    /// The end that is dialled takes something away, or gives all back.
    pub(super) fn change_rights(&mut self, index: usize, denial: Option<Denial>) -> Outcome {
        let link = &mut self.links[index];
        link.denial = denial;
        let link = link.clone();
        let policy = Arc::new(self.answering(&link, &self.machines[link.from].name)?);
        let Some(&connection) = self.connected.get(&index) else { return Ok(()) };
        self.trace(9, index as u64);
        self.with_endpoint(connection, 1, |endpoint, now| endpoint.handle_policy(now, policy))
    }

    /// Now and then a right is taken away, for a while that may be shorter than the way.
    pub(super) fn deny_something(&mut self) -> Outcome {
        for index in 0..self.links.len() {
            if self.links[index].denial.is_some() || !self.rng.chance(self.plan.denials, 1000) {
                continue;
            }
            self.report.denials += 1;
            let denial = if self.rng.chance(1, 4) { Denial::Node } else { Denial::Rights };
            let limit = if self.rng.chance(1, 2) { self.plan.latency * 2 } else { Duration::from_secs(3) };
            let delay = self.below(limit);
            self.plan_in(delay, Happening::Grant { link: index });
            self.change_rights(index, Some(denial))?;
        }
        Ok(())
    }

    /// An end stops reading for a while.
    pub(super) fn stall(&mut self, connection: u64) {
        let side = self.rng.below(2) as usize;
        let delay = self.below(Duration::from_secs(20));
        let Some(state) = self.connections.get_mut(&connection) else { return };
        if state.ends[side].unread.is_none() {
            state.ends[side].unread = Some(Vec::new());
            self.report.stalls += 1;
            self.plan_in(delay, Happening::Resume { connection, side });
        }
    }

    /// An end reads again, first what came meanwhile.
    pub(super) fn resume(&mut self, connection: u64, side: usize) -> Outcome {
        let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
        match state.ends[side].unread.take() {
            Some(bytes) if !bytes.is_empty() => self.arrive(connection, side, &bytes),
            _ => Ok(()),
        }
    }
}
