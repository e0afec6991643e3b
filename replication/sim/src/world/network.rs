//! Dialling, and the driver of an endpoint in virtual time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use counterfoil_replication::{Endpoint, Limits, Message, Policy, SessionConfig, SessionError, codec};
use counterfoil_storage::{Journal, NodeName};

use super::{Happening, Outcome, World};
use crate::bugs::Bug;
use crate::machine::Machine;
use crate::topology::Link;
use crate::wire::{Connection, End, UNDER_WAY_MAX};

/// Control messages that may wait at an end: more than an honest peer ever causes here.
const CONTROL_MAX: usize = 2048;

impl World {
    /// The policy of the end that is dialled, towards the one that dials.
    pub(super) fn answering(&self, link: &Link, dialler: &NodeName) -> Outcome<Policy> {
        if self.bug == Some(Bug::LetsEverybodyRelay) {
            let all = format!("[[grant]]\nnode = \"{dialler}\"\nspace = \"*\"\nrights = [\"read\", \"relay\"]");
            return Policy::parse(&all).map_err(|error| error.to_string());
        }
        link.answering(dialler)
    }

    pub(super) fn dial(&mut self, index: usize) -> Outcome {
        let link = &self.links[index];
        let (from, to) = (link.from, link.to);
        let (Some(ours), Some(theirs)) = (&self.machines[from].journal, &self.machines[to].journal) else {
            self.dial_later(index);
            return Ok(());
        };
        let (session_window_bytes, space_window_bytes) = self.plan.windows;
        let mut limits = Limits::default();
        limits.control_max = CONTROL_MAX;
        limits.session_window_bytes = session_window_bytes;
        limits.space_window_bytes = space_window_bytes;
        limits.heads_at_once_max = self.plan.heads_at_once_max;
        if self.bug == Some(Bug::TakesAnyAmount) {
            (limits.session_window_bytes, limits.space_window_bytes) = (1 << 30, 1 << 30);
        }
        let scope = if self.plan.windows_vary { 16 } else { 1 };
        limits.space_window_bytes_min = limits.space_window_bytes / scope;
        limits.space_window_bytes_max = limits.space_window_bytes * scope;
        let names = (self.machines[from].name.clone(), self.machines[to].name.clone());
        let config = SessionConfig {
            local: names.0.clone(),
            incarnation: ours.identity().incarnation,
            peer: names.1.clone(),
            spaces: link.spaces.iter().map(|space| (space.clone(), link.direction)).collect(),
            policy: Arc::clone(&link.policy),
            limits: limits.clone(),
        };
        let policy = self.answering(link, &names.0)?;
        let answering = SessionConfig {
            local: names.1,
            incarnation: theirs.identity().incarnation,
            peer: names.0,
            spaces: Vec::new(),
            policy: Arc::new(policy),
            limits,
        };
        let begin = |machine: usize, journal: &Journal, config: SessionConfig| {
            let Machine { board, .. } = &self.machines[machine];
            let endpoint = Endpoint::new(journal.clone(), config, self.instant()).with_acks(board);
            End::new(machine, endpoint, self.machines[machine].heads())
        };
        let ends = [begin(from, ours, config), begin(to, theirs, answering)];
        let id = self.next_connection;
        self.next_connection += 1;
        let latency = self.below(self.plan.latency);
        self.connections.insert(id, Connection { ends, latency, is_cut: false });
        self.connected.insert(index, id);
        self.report.connections += 1;
        self.trace(3, index as u64);
        self.drive(id, 0)?;
        self.drive(id, 1)
    }

    /// Full jitter, from 100 ms to 10 s.
    pub(super) fn dial_later(&mut self, index: usize) {
        if self.bug == Some(Bug::NeverRedials) || self.stopped.contains(&self.links[index].from) {
            return;
        }
        let link = &mut self.links[index];
        let limit = Duration::from_millis(100 << link.failures.min(7)).min(Duration::from_secs(10));
        link.failures += 1;
        let delay = self.below(limit);
        self.plan_in(delay, Happening::Dial { link: index });
    }

    /// Hands an endpoint something, then does what it wants.
    pub(super) fn with_endpoint(
        &mut self,
        connection: u64,
        side: usize,
        act: impl FnOnce(&mut Endpoint, Instant) -> Result<(), SessionError>,
    ) -> Outcome {
        let now = self.instant();
        let Some(endpoint) = self.endpoint(connection, side) else { return Ok(()) };
        match act(endpoint, now) {
            Ok(()) => {
                self.judge_memory(connection, side)?;
                self.drive(connection, side)
            }
            Err(error) => self.fail(connection, side, &error),
        }
    }

    fn endpoint(&mut self, connection: u64, side: usize) -> Option<&mut Endpoint> {
        self.connections.get_mut(&connection)?.ends[side].endpoint.as_mut()
    }

    /// An endpoint has ended its session. Between honest ends only silence, a goodbye or a failed disk may do so.
    fn fail(&mut self, connection: u64, side: usize, error: &SessionError) -> Outcome {
        match error {
            SessionError::Silent { .. }
            | SessionError::HandshakeTimeout { .. }
            | SessionError::Store(_)
            | SessionError::ClosedByPeer { .. } => {}
            SessionError::Denied { .. } if self.plan.denials > 0 => {}
            _ if self.is_liar(connection, side) => {}
            _ if self.is_liar(connection, 1 - side) => {
                self.report.accused += 1;
                self.sulk(connection, side);
            }
            unexpected => return Err(format!("an honest end was accused: {unexpected}")),
        }
        self.trace(4, side as u64);
        if let (SessionError::Store(_), Some(state)) = (error, self.connections.get(&connection)) {
            let machine = state.ends[side].machine;
            let life = self.lives[machine];
            self.plan_in(Duration::ZERO, Happening::Poisoned { machine, life });
        }
        if let Some(reason) = error.close_reason() {
            self.send(connection, side, &Message::Close(reason));
        }
        self.close(connection, side);
        Ok(())
    }

    /// Does what an endpoint wants: events, reads, messages, timers.
    pub(super) fn drive(&mut self, connection: u64, side: usize) -> Outcome {
        while let Some(event) = self.endpoint(connection, side).and_then(Endpoint::poll_event) {
            self.judge_event(connection, side, &event)?;
        }
        while let Some(fetch) = self.endpoint(connection, side).and_then(Endpoint::poll_fetch) {
            let fetched = Box::new(fetch.run());
            let delay = self.below(Duration::from_micros(500));
            self.plan_in(delay, Happening::Fetched { connection, side, fetched });
        }
        loop {
            let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
            let end = &mut state.ends[side];
            if end.under_way >= UNDER_WAY_MAX {
                break;
            }
            let Some(message) = end.endpoint.as_mut().and_then(Endpoint::poll_transmit) else { break };
            self.say(connection, side, message)?;
        }
        self.set_timer(connection, side);
        let Some(state) = self.connections.get(&connection) else { return Ok(()) };
        let machine = state.ends[side].machine;
        self.settle(machine)
    }

    fn set_timer(&mut self, connection: u64, side: usize) {
        let epoch = self.epoch;
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let end = &mut state.ends[side];
        let at = end.endpoint.as_ref().and_then(Endpoint::poll_timeout).map(|at| at.duration_since(epoch));
        if let Some(at) = at.filter(|at| end.timer_at != Some(*at)) {
            end.timer_at = Some(at);
            self.plan_at(at.max(self.now), Happening::Timer { connection, side });
        }
    }

    pub(super) fn timer(&mut self, connection: u64, side: usize) -> Outcome {
        let now = self.now;
        let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
        let end = &mut state.ends[side];
        // A timer that was set again since is void.
        if end.timer_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        end.timer_at = None;
        if self.bug == Some(Bug::NeverNoticesSilence) {
            return Ok(());
        }
        self.with_endpoint(connection, side, Endpoint::handle_timeout)
    }

    /// Sends a message.
    pub(super) fn send(&mut self, connection: u64, side: usize, message: &Message) {
        let mut bytes = BytesMut::new();
        codec::encode(message, &mut bytes);
        self.spoil(message, &mut bytes);
        self.send_bytes(connection, side, bytes);
    }

    /// Sends bytes, in pieces.
    pub(super) fn send_bytes(&mut self, connection: u64, side: usize, mut bytes: BytesMut) {
        self.trace(5, bytes.len() as u64);
        while !bytes.is_empty() {
            let len = 1 + self.rng.below(bytes.len() as u64) as usize;
            let piece = bytes.split_to(len).to_vec();
            let jitter = self.below(Duration::from_micros(200));
            let Some(state) = self.connections.get_mut(&connection) else { return };
            let end = &mut state.ends[side];
            end.last_arrival = end.last_arrival.max(self.now + state.latency) + jitter;
            end.under_way += piece.len();
            let at = end.last_arrival;
            self.plan_at(at, Happening::Arrive { connection, to: 1 - side, bytes: piece });
        }
    }

    pub(super) fn arrive(&mut self, connection: u64, to: usize, bytes: &[u8]) -> Outcome {
        let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
        let sender = &state.ends[1 - to];
        if state.is_cut || sender.silenced {
            return Ok(());
        }
        if let Some(unread) = &mut state.ends[to].unread {
            // What is not read stays under way.
            unread.extend_from_slice(bytes);
            return Ok(());
        }
        let sender = &mut state.ends[1 - to];
        sender.under_way -= bytes.len();
        let end = &mut state.ends[to];
        if end.endpoint.is_none() {
            return Ok(());
        }
        end.receive(bytes);
        self.report.bytes += bytes.len() as u64;
        loop {
            let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
            let message = match state.ends[to].next_message() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                // Garbage ends a connection, as the driver has it.
                Err(_) if self.is_liar(connection, 1 - to) => {
                    self.report.accused += 1;
                    self.close(connection, to);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            if self.is_left_out(connection, to, &message) {
                continue;
            }
            let from_liar = self.is_liar(connection, 1 - to);
            self.report.messages += 1;
            if let (Message::Batch(batch), Some(state), false) =
                (&message, self.connections.get_mut(&connection), from_liar)
            {
                let received = state.ends[to].received.entry(batch.log()).or_default();
                *received = batch.next_seq().max(*received);
            }
            if let (Message::Offer(offer) | Message::Exchange(offer), Some(state)) =
                (&message, self.connections.get_mut(&connection))
            {
                *state.ends[to].offers.entry(offer.space.clone()).or_default() += 1;
            }
            self.mistake_on_arrival(connection, to, &message)?;
            self.with_endpoint(connection, to, |endpoint, now| endpoint.handle_message(now, message))?;
        }
        self.drive(connection, 1 - to)
    }

    /// One end closes; the other hears of it after what is under way to it.
    pub(super) fn close(&mut self, connection: u64, side: usize) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        if state.ends[side].endpoint.take().is_none() {
            return;
        }
        let end = &state.ends[side];
        let other_is_open = state.ends[1 - side].endpoint.is_some();
        let at = end.last_arrival.max(self.now + state.latency);
        if other_is_open && !end.silenced {
            self.plan_at(at, Happening::Gone { connection, side: 1 - side });
        }
        if !other_is_open {
            self.connections.remove(&connection);
        }
        if side == 0 {
            let link = self.connected.iter().find(|(_, id)| **id == connection).map(|(link, _)| *link);
            if let Some(link) = link {
                self.connected.remove(&link);
                self.dial_later(link);
            }
        }
    }
}
