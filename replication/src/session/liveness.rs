//! Timers: one enum, one table.

use std::time::{Duration, Instant};

use counterfoil_storage::LogId;

use super::{Session, state::Outgoing};
use crate::{
    codec,
    config::Limits,
    error::PeerMisbehaved,
    frontier::LogHead,
    message::{Heartbeat, Message},
};

/// What can come due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The peer has not said hello.
    Handshake,
    /// The peer has not spoken.
    Silence,
    /// This end is to speak.
    Heartbeat,
    /// What could not be stored is asked for again.
    Retry,
}

const TIMERS: [Timer; 4] = [Timer::Handshake, Timer::Silence, Timer::Heartbeat, Timer::Retry];

/// What a peer may promise as its interval, in milliseconds.
const INTERVAL_MS: std::ops::RangeInclusive<u32> = 10..=120_000;

/// After how many promised intervals without a word a peer counts as gone.
const SILENT_INTERVALS: u32 = 3;

/// Who has to speak when.
#[derive(Debug)]
pub(super) struct Liveness {
    deadlines: [Option<Instant>; TIMERS.len()],
    busy: Duration,
    idle: Duration,
    /// Within what time this end speaks again.
    interval: Duration,
    /// Whether records have flowed since the last heartbeat.
    active: bool,
    pub(super) last_heard: Instant,
    /// Within what time the peer promised to speak again.
    peer_interval: Duration,
}

impl Liveness {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        let [busy, idle] = [limits.heartbeat_busy, limits.heartbeat_idle].map(|interval| {
            let (least, most) = (*INTERVAL_MS.start(), *INTERVAL_MS.end());
            interval.clamp(Duration::from_millis(least.into()), Duration::from_millis(most.into()))
        });
        let mut liveness = Self {
            deadlines: [None; TIMERS.len()],
            busy,
            idle,
            interval: busy,
            active: false,
            last_heard: now,
            peer_interval: limits.handshake_timeout,
        };
        liveness.set(Timer::Handshake, Some(now + limits.handshake_timeout));
        liveness.set(Timer::Heartbeat, Some(now + busy));
        liveness
    }

    fn set(&mut self, timer: Timer, at: Option<Instant>) {
        self.deadlines[timer as usize] = at;
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// A timer that has come, which is thereby unset.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Timer> {
        let timer =
            TIMERS.into_iter().find(|timer| self.deadlines[*timer as usize].is_some_and(|deadline| deadline <= now))?;
        self.set(timer, None);
        Some(timer)
    }

    pub(super) fn interval_ms(&self) -> u32 {
        self.interval.as_millis() as u32
    }

    pub(super) fn silence_limit(&self) -> Duration {
        self.peer_interval * SILENT_INTERVALS
    }

    /// The peer has spoken.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        if self.deadlines[Timer::Silence as usize].is_some() {
            self.set(Timer::Silence, Some(now + self.silence_limit()));
        }
    }

    /// The peer has promised when it speaks again.
    pub(super) fn promised(&mut self, now: Instant, next_ms: u32) -> Result<(), PeerMisbehaved> {
        if !INTERVAL_MS.contains(&next_ms) {
            return Err(PeerMisbehaved::OutOfRange { field: "heartbeat interval", value: next_ms.into() });
        }
        self.peer_interval = Duration::from_millis(next_ms.into());
        self.set(Timer::Silence, Some(now + self.silence_limit()));
        Ok(())
    }

    /// The peer has said hello.
    pub(super) fn greeted(&mut self) {
        self.set(Timer::Handshake, None);
    }

    /// Records flow: heartbeats come more often.
    pub(super) fn flowing(&mut self, now: Instant) {
        self.active = true;
        let soon = now + self.busy;
        if self.deadlines[Timer::Heartbeat as usize].is_none_or(|deadline| deadline > soon) {
            self.set(Timer::Heartbeat, Some(soon));
        }
    }

    pub(super) fn retry_at(&mut self, at: Instant) {
        if self.deadlines[Timer::Retry as usize].is_none() {
            self.set(Timer::Retry, Some(at));
        }
    }

    /// A heartbeat is sent: the time until the next one, in milliseconds.
    fn beat(&mut self, now: Instant) -> u32 {
        self.interval = if std::mem::take(&mut self.active) { self.busy } else { (self.interval * 2).min(self.idle) };
        self.set(Timer::Heartbeat, Some(now + self.interval));
        self.interval_ms()
    }
}

impl Session {
    pub(super) fn heartbeat(&mut self, now: Instant) {
        let next_ms = self.liveness.beat(now);
        // A peer that does not read needs no further heartbeats to be queued for it.
        if self.peer.is_none() || self.control.iter().any(|message| matches!(message, Message::Heartbeat(_))) {
            return;
        }
        let mut heartbeat = Heartbeat { next_ms, frontiers: Vec::new(), heads: Vec::new() };
        for index in 0..self.spaces.len() {
            self.describe_flow(index, &mut heartbeat);
        }
        self.control.push_back(Message::Heartbeat(heartbeat));
    }

    /// Says of one space that this end streams how far it is, as far as there is room.
    fn describe_flow(&mut self, index: usize, heartbeat: &mut Heartbeat) {
        let space = &self.spaces[index];
        let Some(scope) = space.out_scope() else { return };
        let mut all_sent = true;
        for id in &space.logs {
            let Some(log) = self.logs.get(id) else { continue };
            let unsent = match &log.outgoing {
                Outgoing::Streaming(streaming) => streaming.sent.next_seq < log.head().next_seq,
                Outgoing::Placing { .. } | Outgoing::Checking { .. } | Outgoing::Awaiting { .. } => true,
                Outgoing::Idle | Outgoing::Ahead { .. } | Outgoing::Parked(_) => false,
            };
            all_sent &= !unsent;
            if unsent && heartbeat.heads.len() < codec::HEADS_MAX {
                heartbeat.heads.push(LogHead { log: *id, head: log.head() });
            }
        }
        if !all_sent || heartbeat.frontiers.len() >= codec::FRONTIERS_MAX {
            return;
        }
        let hash = self.frontier(index, |log| self.source_carries(scope, log));
        let space = &mut self.spaces[index];
        if space.said.replace(hash) != Some(hash) {
            heartbeat.frontiers.push((space.name.clone(), hash));
        }
    }

    pub(super) fn handle_heartbeat(&mut self, heartbeat: &Heartbeat) -> Result<(), PeerMisbehaved> {
        let now = self.liveness.last_heard;
        self.liveness.promised(now, heartbeat.next_ms)?;
        for LogHead { log, head } in &heartbeat.heads {
            self.note_source_head(*log, *head);
        }
        for (space, hash) in &heartbeat.frontiers {
            let index =
                *self.space_index.get(space).ok_or_else(|| PeerMisbehaved::UnknownSpace { space: space.clone() })?;
            self.compare_frontier(index, *hash);
        }
        Ok(())
    }

    fn note_source_head(&mut self, id: LogId, head: counterfoil_storage::Head) {
        if let Some(log) = self.logs.get_mut(&id) {
            log.source_next_seq = head.next_seq;
        }
    }
}
