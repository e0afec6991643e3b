//! How links are: state, lag, events.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use counterfoil_replication::{By, Direction, Event, Flow};
use counterfoil_storage::{Head, Holes, LogId, NodeName, Seq, SpaceName};

/// What this node has durable and a peer has not acked.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Lag {
    /// Records.
    pub records: u64,
    /// Bytes of batches. While the peer can't be asked, an estimate from the logs' average record.
    pub bytes: u64,
    /// Age of the oldest of these records, in seconds.
    pub seconds: f64,
}

impl Lag {
    /// Whether the peer has everything.
    pub fn is_zero(&self) -> bool {
        self.records == 0
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = if self.records == 1 { "record" } else { "records" };
        write!(f, "{} {records}, {} bytes, {:.1} s", self.records, self.bytes, self.seconds)
    }
}

/// Whether a link's two ends are in touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkState {
    /// Getting in touch, for the first time or again. It never gives up.
    Connecting,
    /// In touch: records are carried as they become durable.
    Connected,
    /// Cut on purpose, until healed: in-process links only.
    Cut,
    /// Stopped by the application, or by closing the store.
    Stopped,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Cut => "cut",
            Self::Stopped => "stopped",
        })
    }
}

/// A link as it stands.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LinkStatus {
    /// The node at the other end.
    pub peer: NodeName,
    /// The spaces that it carries.
    pub spaces: Vec<SpaceName>,
    /// Whether the two ends are in touch.
    pub state: LinkState,
    /// What the peer lacks.
    pub lag: Lag,
    /// Records that the peer says it has durable and that are not durable here; 0 on a mirror, which carries none here.
    pub behind_records: u64,
    /// Of a sync: the spaces of which this store may not yet have what the peer had when the two ends got in touch, each
    /// with what is in the way and what to do, if anything is known to be.
    pub catching_up: Vec<(SpaceName, Option<String>)>,
    /// Why the last connection was not made, or ended, or is not made yet.
    pub last_error: Option<String>,
    /// What `last_error` says does not pass by itself: a certificate, an authority or a name must be changed. The link
    /// goes on trying, since it may be.
    pub is_stuck: bool,
    /// The logs that stay where they are, each with the reason and what to do. The others go on.
    pub parked: Vec<(LogId, String)>,
    /// The spaces that are not permitted, each with the reason and what to do.
    pub refused: Vec<(SpaceName, String)>,
}

/// Something that happened on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEvent {
    /// The two ends are in touch.
    Connected,
    /// They are no longer, or not yet; the link goes on trying.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The peer has all of a space that was durable here.
    InSync {
        /// The space.
        space: SpaceName,
    },
    /// This store has what the peer had of a space when the two ends got in touch.
    CaughtUp {
        /// The space.
        space: SpaceName,
        /// Whether it is all: false while logs are parked.
        is_whole: bool,
    },
    /// One log is not carried any further; the others are.
    Parked {
        /// The log.
        log: LogId,
        /// Why, and what to do.
        reason: String,
    },
    /// The peer durably holds more of a log than this node: for an own log it means that this store was
    /// rewound, to an old backup for instance. The peer's records are not lost, and not overwritten.
    Ahead {
        /// The log.
        log: LogId,
        /// Where it ends here.
        local: Head,
        /// Where it ends at the peer.
        remote: Head,
    },
    /// One direction of a space is not permitted, or no more.
    Refused {
        /// The space.
        space: SpaceName,
        /// The direction, as seen from here.
        flow: Flow,
        /// Why, by whom, and what to do.
        reason: String,
    },
    /// This node's disk is full: what the peer sends is asked for again when there is room.
    StorageFull,
    /// A node has lost what it had said was durable.
    AckWithdrawn {
        /// The log.
        log: LogId,
        /// The node.
        node: NodeName,
        /// Where the log durably ends there now.
        head: Head,
        /// What was there before that and is lost: its disk is damaged.
        holes: Holes,
    },
    /// Records that this store had lost are here again, as they were: the peer had them.
    Mended {
        /// The log.
        log: LogId,
        /// The first record that is here again.
        first_seq: Seq,
        /// After the last.
        next_seq: Seq,
    },
    /// Records that this store has lost can't be had of the peer, at least now.
    NotMended {
        /// The log.
        log: LogId,
        /// Why.
        reason: String,
    },
    /// So many events happened unseen and were dropped.
    Missed {
        /// How many.
        count: u64,
    },
}

/// What a peer has not acknowledged of one log: it may have it all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unmirrored {
    /// The peer.
    pub peer: NodeName,
    /// The space.
    pub space: SpaceName,
    /// The log.
    pub log: LogId,
    /// First sequence number that the peer has not acked; 0 also if it has not been reached.
    pub first_seq: Seq,
    /// Where the log durably ends here.
    pub next_seq: Seq,
    /// Whether the peer has been reached since the link was started: else nothing is known of what it has.
    pub was_reached: bool,
    /// What is in the way, and what to do, if anything is known to be.
    pub reason: Option<String>,
}

impl Unmirrored {
    /// How many records the peer has not acknowledged.
    pub fn records(&self) -> u64 {
        self.next_seq.0 - self.first_seq.0
    }
}

impl fmt::Display for Unmirrored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, space, first_seq, .. } = self;
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        if !self.was_reached {
            return write!(f, "{peer} has not been reached{reason}; nothing is known of what it has of space {space}");
        }
        let records = match self.records() {
            1 => "1 record".to_owned(),
            count => format!("{count} records"),
        };
        write!(f, "{peer} has not acknowledged {records} of space {space} from {first_seq}{reason}")
    }
}

/// Events kept for those who have not looked yet.
const EVENTS_MAX: usize = 256;

/// What a link's driver tells and its handles show.
#[derive(Debug)]
pub(crate) struct LinkShared {
    pub(crate) peer: NodeName,
    pub(crate) direction: Direction,
    now: Mutex<Now>,
    changed: Condvar,
    behind: OnceLock<Measure>,
}

/// Counts the records that a store lacks.
struct Measure(Box<dyn Fn() -> u64 + Send + Sync>);

impl fmt::Debug for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Measure")
    }
}

/// Whether what one end lacks gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It lacks nothing.
    Done,
    /// Nothing is known to be in the way of all of it.
    Moving,
    /// All of it is held up by something that does not pass by itself.
    Stopped,
}

#[derive(Debug)]
struct Now {
    /// In the order in which they were named or found.
    spaces: Vec<SpaceName>,
    state: LinkState,
    last_error: Option<String>,
    /// What `last_error` says does not pass by itself.
    is_stuck: bool,
    /// The two ends have been in touch.
    was_reached: bool,
    /// Of the present session, or the last one.
    parked: BTreeMap<LogId, String>,
    /// Logs of which the peer has more, until it acknowledges what is here.
    ahead: BTreeMap<LogId, String>,
    refused: BTreeMap<(SpaceName, Flow), String>,
    /// The spaces of which this end has what the peer had, in the present session or the last one; whether all.
    caught_up: BTreeMap<SpaceName, bool>,
    events: VecDeque<LinkEvent>,
    /// Number of the event at the front of `events`, counted over the life of the link.
    first_event: u64,
}

impl LinkShared {
    pub(crate) fn new(peer: NodeName, spaces: Vec<SpaceName>, direction: Direction) -> Arc<Self> {
        let now = Now {
            spaces,
            state: LinkState::Connecting,
            last_error: None,
            is_stuck: false,
            was_reached: false,
            parked: BTreeMap::new(),
            ahead: BTreeMap::new(),
            refused: BTreeMap::new(),
            caught_up: BTreeMap::new(),
            events: VecDeque::new(),
            first_event: 0,
        };
        let (now, changed, behind) = (Mutex::new(now), Condvar::new(), OnceLock::new());
        Arc::new(Self { peer, direction, now, changed, behind })
    }

    /// How the records that this end lacks are counted. It must not hold the link or the store.
    pub(crate) fn measure_behind(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        // There is one way to count them.
        drop(self.behind.set(Measure(Box::new(count))));
    }

    /// Records that the peer says it has and this end has not.
    pub(crate) fn behind_records(&self) -> u64 {
        let count = self.behind.get().filter(|_| self.direction.receives());
        count.map_or(0, |measure| measure.0())
    }

    /// Whether this end gets what it lacked when the two got in touch.
    pub(crate) fn inward(&self) -> Progress {
        let catching_up = self.catching_up();
        match catching_up.iter().filter(|(_, obstacle)| obstacle.is_some()).count() {
            0 if catching_up.is_empty() => Progress::Done,
            stopped if stopped == catching_up.len() => Progress::Stopped,
            _ => Progress::Moving,
        }
    }

    /// The spaces of which this end may not have what the peer had, with what is in the way, if that lasts.
    pub(crate) fn catching_up(&self) -> Vec<(SpaceName, Option<String>)> {
        let now = self.now();
        let spaces =
            now.spaces.iter().filter(|space| self.direction.receives() && now.caught_up.get(space) != Some(&true));
        let stuck = now.last_error.as_ref().filter(|_| now.is_stuck);
        let obstacle = |space: &SpaceName| {
            let refused = now.refused.get(&(space.clone(), Flow::Incoming));
            let parked = || {
                now.caught_up.get(space)?;
                let of_a_log = now.parked.values().next().cloned();
                Some(of_a_log.unwrap_or_else(|| format!("{} can't send all of it", self.peer)))
            };
            refused.or(stuck).cloned().or_else(parked)
        };
        spaces.map(|space| (space.clone(), obstacle(space))).collect()
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> LinkState {
        self.now().state
    }

    /// The spaces that it carries.
    pub(crate) fn spaces(&self) -> Vec<SpaceName> {
        self.now().spaces.clone()
    }

    /// It carries one more space from now on; false if it does already.
    #[cfg(feature = "net")]
    pub(crate) fn add_space(&self, space: &SpaceName) -> bool {
        let mut now = self.now();
        let is_new = !now.spaces.contains(space);
        if is_new {
            now.spaces.push(space.clone());
        }
        is_new
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.now().last_error.clone()
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.now().is_stuck
    }

    /// What was told last as the reason of a disconnection lasts, until the ends are in touch.
    #[cfg(feature = "net")]
    pub(crate) fn set_stuck(&self) {
        self.now().is_stuck = true;
    }

    /// Why the ends are not in touch, though an attempt goes on.
    #[cfg(feature = "net")]
    pub(crate) fn set_silent(&self, reason: String) {
        self.now().last_error = Some(reason);
    }

    pub(crate) fn was_reached(&self) -> bool {
        self.now().was_reached
    }

    /// The logs that do not go on, but for those that `is_mirrored` all the same.
    pub(crate) fn parked(&self, is_mirrored: impl Fn(LogId) -> bool) -> Vec<(LogId, String)> {
        let now = self.now();
        let mut parked = now.ahead.clone();
        parked.extend(now.parked.clone());
        drop(now);
        parked.into_iter().filter(|(log, _)| !is_mirrored(*log)).collect()
    }

    pub(crate) fn refused(&self) -> Vec<(SpaceName, String)> {
        self.now().refused.iter().map(|((space, _), reason)| (space.clone(), reason.clone())).collect()
    }

    /// Why a log is not carried any further, though the ends may be in touch.
    pub(crate) fn stopped_by(&self, log: LogId, space: &SpaceName) -> Option<String> {
        let now = self.now();
        let stuck = now.last_error.as_ref().filter(|_| now.is_stuck);
        let refused = now.refused.get(&(space.clone(), Flow::Outgoing));
        now.parked.get(&log).or_else(|| now.ahead.get(&log)).or(refused).or(stuck).cloned()
    }

    /// Sets the state, unless the link was stopped: that is final.
    pub(crate) fn set_state(&self, state: LinkState) {
        let mut now = self.now();
        if now.state != LinkState::Stopped {
            now.state = state;
        }
        drop(now);
        self.changed.notify_all();
    }

    /// Has those who wait for the state look again.
    pub(crate) fn touch(&self) {
        drop(self.now());
        self.changed.notify_all();
    }

    /// Waits while the state is such.
    pub(crate) fn wait_while(&self, mut is_such: impl FnMut(LinkState) -> bool) {
        let is_such = |now: &mut Now| is_such(now.state);
        drop(self.changed.wait_while(self.now(), is_such).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn tell(&self, event: LinkEvent) {
        let mut now = self.now();
        match &event {
            LinkEvent::Connected => {
                now.last_error = None;
                (now.is_stuck, now.was_reached) = (false, true);
                now.parked.clear();
                now.ahead.clear();
                now.refused.clear();
                now.caught_up.clear();
            }
            LinkEvent::CaughtUp { space, is_whole } => {
                now.refused.remove(&(space.clone(), Flow::Incoming));
                now.caught_up.insert(space.clone(), *is_whole);
            }
            LinkEvent::InSync { space } => {
                now.refused.remove(&(space.clone(), Flow::Outgoing));
                if now.spaces.len() == 1 {
                    now.parked.clear();
                }
            }
            LinkEvent::Ahead { log, local, remote } => {
                let (here, there) = (local.next_seq, remote.next_seq);
                let reason = format!(
                    "the peer holds more of log {log}, up to {there}, than this store, up to {here}: was it restored?"
                );
                now.ahead.insert(*log, reason);
            }
            LinkEvent::Parked { log, reason } => drop(now.parked.insert(*log, reason.clone())),
            LinkEvent::Refused { space, flow, reason } => {
                now.refused.insert((space.clone(), *flow), reason.clone());
            }
            LinkEvent::Disconnected { reason } => {
                now.last_error = Some(reason.clone());
                now.is_stuck = false;
            }
            _ => {}
        }
        if now.events.len() == EVENTS_MAX {
            now.events.pop_front();
            now.first_event += 1;
        }
        now.events.push_back(event);
        drop(now);
        self.changed.notify_all();
    }

    /// Takes in what a session tells, as far as a link's user may want to know it; whether it was.
    pub(crate) fn hear(&self, event: Event) -> bool {
        if let Event::Acked { log, .. } = &event {
            self.now().ahead.remove(log);
        }
        let Some(event) = LinkEvent::of_session(event, &self.peer) else { return false };
        event.log(&self.peer);
        if event == LinkEvent::Connected {
            self.set_state(LinkState::Connected);
        }
        self.tell(event);
        true
    }
}

impl LinkEvent {
    /// What an operator must see though nobody asked: something does not go on.
    pub(crate) fn log(&self, peer: &NodeName) {
        match self {
            Self::Parked { log, reason } => tracing::warn!(%peer, %log, reason, "log parked"),
            Self::Refused { space, reason, .. } => tracing::warn!(%peer, %space, reason, "space refused"),
            Self::Ahead { log, local, remote } => {
                tracing::warn!(%peer, %log, here = %local.next_seq, there = %remote.next_seq, "peer holds more of a log");
            }
            Self::AckWithdrawn { log, node, head, holes } => {
                let holes: Vec<_> = holes.iter().map(|(first, next)| format!("{first}..{next}")).collect();
                let next_seq = head.next_seq;
                tracing::warn!(%peer, %log, %node, %next_seq, ?holes, "node lost what it had acknowledged");
            }
            Self::NotMended { log, reason } => tracing::warn!(%peer, %log, reason, "what is lost here is not mended"),
            Self::StorageFull => tracing::warn!(%peer, "no space left for what the peer sends"),
            _ => {}
        }
    }

    /// What a session with `peer` tells, as far as a link's user may want to know it: acks are
    /// counted in the store's table.
    pub(crate) fn of_session(event: Event, peer: &NodeName) -> Option<Self> {
        let says = |by, reason: &dyn fmt::Display| match by {
            By::Local => reason.to_string(),
            By::Peer => format!("{peer} says: {reason}"),
        };
        Some(match event {
            Event::PeerReady { .. } => Self::Connected,
            Event::Withdrawn { log, node, to, holes, .. } => Self::AckWithdrawn { log, node, head: to, holes },
            Event::InSync { space } => Self::InSync { space },
            Event::CaughtUp { space, whole } => Self::CaughtUp { space, is_whole: whole },
            Event::Ahead { log, local, remote } => Self::Ahead { log, local, remote },
            Event::Parked { log, reason, by } => Self::Parked { log, reason: says(by, &reason) },
            Event::Refused { space, flow, reason, by } => Self::Refused { space, flow, reason: says(by, &reason) },
            Event::StorageFull => Self::StorageFull,
            Event::Mended { log, first_seq, next_seq } => Self::Mended { log, first_seq, next_seq },
            Event::NotMended { log, reason } => Self::NotMended { log, reason: format!("{peer}: {reason}") },
            _ => return None,
        })
    }
}

/// Blocking iterator over a link's events, from the oldest kept; ends when the link is stopped.
#[derive(Debug)]
pub struct LinkEvents {
    link: Arc<LinkShared>,
    /// Number of the event that comes next.
    next: u64,
}

impl LinkEvents {
    pub(crate) fn new(link: Arc<LinkShared>) -> Self {
        Self { link, next: 0 }
    }

    /// The next event without waiting: `None` if there is none yet.
    pub fn try_next(&mut self) -> Option<LinkEvent> {
        let link = Arc::clone(&self.link);
        self.pop(&link.now())
    }

    /// Waits for the next event, but no longer than `timeout`.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<LinkEvent> {
        let link = Arc::clone(&self.link);
        let is_quiet = |now: &mut Now| now.state != LinkState::Stopped && self.next >= now.end();
        let (now, _) =
            link.changed.wait_timeout_while(link.now(), timeout, is_quiet).unwrap_or_else(PoisonError::into_inner);
        self.pop(&now)
    }

    fn pop(&mut self, now: &Now) -> Option<LinkEvent> {
        if self.next < now.first_event {
            let count = now.first_event - self.next;
            self.next = now.first_event;
            return Some(LinkEvent::Missed { count });
        }
        let event = now.events.get((self.next - now.first_event) as usize)?;
        self.next += 1;
        Some(event.clone())
    }
}

impl Now {
    fn end(&self) -> u64 {
        self.first_event + self.events.len() as u64
    }
}

impl Iterator for LinkEvents {
    type Item = LinkEvent;

    fn next(&mut self) -> Option<Self::Item> {
        let link = Arc::clone(&self.link);
        let is_quiet = |now: &mut Now| now.state != LinkState::Stopped && self.next >= now.end();
        let now = link.changed.wait_while(link.now(), is_quiet).unwrap_or_else(PoisonError::into_inner);
        self.pop(&now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_nobody_fetched_are_dropped_by_count_never_silently() {
        let link = LinkShared::new(NodeName::new("hub").unwrap(), Vec::new(), Direction::Send);
        let mut events = LinkEvents::new(Arc::clone(&link));
        assert_eq!(events.try_next(), None);
        for _ in 0..EVENTS_MAX + 3 {
            link.tell(LinkEvent::Connected);
        }
        assert_eq!(events.try_next(), Some(LinkEvent::Missed { count: 3 }));
        assert_eq!(events.by_ref().take(EVENTS_MAX).count(), EVENTS_MAX);
        link.set_state(LinkState::Stopped);
        assert_eq!(events.next(), None);
    }
}
