//! How much the peer may have outstanding: as much as the way to this end's disk holds, measured; so there is no setting.
//!
//! A window that is smaller than what comes in while a byte of credit goes there and its batch comes back leaves the line
//! idle; a larger one fills the queues on the way, and what is urgent waits behind it. So
//!
//! ```text
//! window = rate × (2 × (round trip + store) + SLACK)
//! ```
//!
//! with the highest rate at which bytes came in lately, the round trip of an empty line, and the shortest time lately from
//! arriving to being durable. Twice the way: a window that holds it just so could not grow with the rate. While the window
//! is what limits the rate, it doubles with each round trip; when the line does, it stays at about twice what that holds.
//!
//! Then the line is never empty, and a round trip measured again would be that of its queue. So now and then the window is
//! a quarter for a moment: the first echo says that the peer has heard that, and since it comes behind all that was sent
//! before, the next one comes over a line without a queue.
//!
//! Source: the model of bandwidth and delay, and that the line is emptied to measure it, are those of N. Cardwell et al.,
//! *BBR: Congestion-Based Congestion Control*, 2016; that the receiver fits its window to them, that of M. Fisk and W. Feng,
//! *Dynamic Right-Sizing in TCP*, 2001.

use std::time::{Duration, Instant};

use super::WINDOW_BYTES_MAX;
use crate::config::Limits;

const NANOS: u128 = 1_000_000_000;

/// For what is not steady: threads that get their turn late, flushes that take longer.
const SLACK: Duration = Duration::from_millis(20);
/// For how long a rate or a time of storing counts, and for as long again at most.
const MEMORY: Duration = Duration::from_secs(5);
/// How old a round trip gets before it is measured again.
const ROUND_TRIP_AGE: Duration = Duration::from_secs(10);
/// Over so long, at least, and a quarter of a window, the rate is taken.
const SAMPLE_MIN: Duration = Duration::from_millis(10);
/// Time between two probes of the round trip while it is not old.
const PROBE_PAUSE: Duration = Duration::from_millis(250);
/// A window changes when it would become at most this part of what it is, or at least that.
const SHRINKS_TO_PERCENT: u64 = 60;
const GROWS_TO_PERCENT: u64 = 125;
/// The part of a window that empties the line.
const DRAINED: u64 = 4;

/// Bytes that may be outstanding in a session, and in each of its spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    pub(super) session_bytes: u64,
    pub(super) space_bytes: u64,
}

/// Measures, and says what windows should be.
#[derive(Debug)]
pub(super) struct WindowMeter {
    /// What the peer has been told.
    told: Windows,
    /// What it may still believe: more than `told` after they shrank, until an echo says that it has heard that.
    allowed: Windows,
    /// The probe with whose echo it has.
    settles_with: Option<u32>,
    /// The first windows: the session's stays as many times a space's.
    first: Windows,
    space_bytes_min: u64,
    space_bytes_max: u64,

    /// In bytes per second.
    rate: Recent<u64>,
    /// From arriving to being durable.
    store: Recent<Duration>,
    /// `None` until the first echo.
    round_trip: Option<Duration>,
    /// When it is to be measured again.
    measure_at: Option<Instant>,
    measuring: Measuring,
    sample: Option<Sample>,
    probe: Option<Probe>,
    next_probe: u32,
}

/// How far it is with measuring the round trip again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measuring {
    Not,
    /// The peer has been told of a small window: it has heard that with the echo of this probe.
    Telling(u32),
    /// The line is empty: the echo of this probe tells the round trip.
    Probing(u32),
}

/// Bytes that came in since a moment.
#[derive(Debug)]
struct Sample {
    since: Instant,
    bytes: u64,
}

/// The last probe.
#[derive(Debug)]
struct Probe {
    number: u32,
    sent: Instant,
    is_answered: bool,
}

impl WindowMeter {
    pub(super) fn new(limits: &Limits) -> Self {
        let told = Windows { session_bytes: limits.session_window_bytes, space_bytes: limits.space_window_bytes };
        Self {
            told,
            allowed: told,
            settles_with: None,
            first: told,
            space_bytes_min: limits.space_window_bytes_min.min(told.space_bytes),
            space_bytes_max: limits.space_window_bytes_max.max(told.space_bytes),
            rate: Recent::new(u64::max),
            store: Recent::new(Duration::min),
            round_trip: None,
            measure_at: None,
            measuring: Measuring::Not,
            sample: None,
            probe: None,
            next_probe: 0,
        }
    }

    /// What the peer has been told.
    pub(super) fn told(&self) -> Windows {
        self.told
    }

    /// What the peer may believe.
    pub(super) fn allowed(&self) -> Windows {
        self.allowed
    }

    /// The number of a probe, if one is due. Ask after each change: the probe must follow what was told.
    pub(super) fn probe(&mut self, now: Instant) -> Option<u32> {
        let is_awaited = self.settles_with.is_some() || self.measuring != Measuring::Not;
        let is_due = |probe: &Probe| probe.is_answered && (is_awaited || now.duration_since(probe.sent) >= PROBE_PAUSE);
        if !self.probe.as_ref().is_none_or(is_due) {
            return None;
        }
        let number = self.next_probe;
        self.next_probe = number.wrapping_add(1);
        self.probe = Some(Probe { number, sent: now, is_answered: false });
        Some(number)
    }

    /// The peer has echoed a probe: what it is to be told. An error if there was none of this number, or one echo before.
    pub(super) fn echoed(&mut self, now: Instant, number: u32) -> Result<Option<Windows>, ()> {
        let probe = self.probe.as_mut().filter(|probe| probe.number == number && !probe.is_answered).ok_or(())?;
        probe.is_answered = true;
        let took = now.duration_since(probe.sent);
        if self.settles_with == Some(number) {
            self.settles_with = None;
            self.allowed = self.told;
        }
        match self.measuring {
            Measuring::Telling(telling) if telling == number => self.measuring = Measuring::Probing(self.next_probe),
            Measuring::Probing(probing) if probing == number => {
                self.measuring = Measuring::Not;
                self.round_trip = Some(took);
                self.measure_at = Some(now + ROUND_TRIP_AGE);
                return Ok(self.wanted().map(|wanted| self.tell(wanted)));
            }
            _ if self.round_trip.is_none_or(|shortest| took <= shortest) => {
                self.round_trip = Some(took);
                self.measure_at = Some(now + ROUND_TRIP_AGE);
            }
            _ => {}
        }
        Ok(None)
    }

    /// A batch that arrived then is durable now.
    pub(super) fn stored(&mut self, now: Instant, arrived: Instant) {
        self.store.note(now, now.duration_since(arrived));
    }

    /// Bytes came in: what the peer is to be told.
    pub(super) fn received(&mut self, now: Instant, bytes: u64) -> Option<Windows> {
        let sample = self.sample.get_or_insert(Sample { since: now, bytes: 0 });
        sample.bytes += bytes;
        let elapsed = now.duration_since(sample.since);
        let least = self.round_trip?.max(SAMPLE_MIN);
        if elapsed < least || sample.bytes < self.told.space_bytes / 4 {
            return None;
        }
        let rate = u128::from(sample.bytes) * NANOS / elapsed.as_nanos();
        self.rate.note(now, rate.try_into().unwrap_or(u64::MAX));
        self.sample = Some(Sample { since: now, bytes: 0 });
        if self.measuring != Measuring::Not {
            return None;
        }
        let wanted = self.wanted()?;
        if self.measure_at.is_some_and(|at| at <= now) {
            self.measuring = Measuring::Telling(self.next_probe);
            return Some(self.tell(wanted / DRAINED));
        }
        let percent = wanted.saturating_mul(100) / self.told.space_bytes;
        let reaches_most = wanted == self.space_bytes_max && wanted != self.told.space_bytes;
        let changes = percent <= SHRINKS_TO_PERCENT || percent >= GROWS_TO_PERCENT || reaches_most;
        changes.then(|| self.tell(wanted))
    }

    /// A space's window by what was measured.
    fn wanted(&self) -> Option<u64> {
        let way = 2 * (self.round_trip? + self.store.get().unwrap_or_default()) + SLACK;
        let bytes = u128::from(self.rate.get()?) * way.as_nanos() / NANOS;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Some(bytes.clamp(self.space_bytes_min, self.space_bytes_max))
    }

    fn tell(&mut self, space_bytes: u64) -> Windows {
        let space_bytes = space_bytes.max(1);
        let [space, session, first] =
            [space_bytes, self.first.session_bytes, self.first.space_bytes.max(1)].map(u128::from);
        let session_bytes = (space * session / first).clamp(1, u128::from(WINDOW_BYTES_MAX)) as u64;
        self.told = Windows { session_bytes, space_bytes };
        self.allowed.session_bytes = self.allowed.session_bytes.max(session_bytes);
        self.allowed.space_bytes = self.allowed.space_bytes.max(space_bytes);
        // A probe that is under way was sent before: the next one comes after what is told.
        self.settles_with = Some(self.next_probe);
        self.told
    }
}

/// The greatest, or the least, of what was measured lately.
#[derive(Debug)]
struct Recent<T> {
    pick: fn(T, T) -> T,
    /// Of the time before the last turn, and since.
    before: Option<T>,
    since: Option<T>,
    turns_at: Option<Instant>,
}

impl<T: Copy> Recent<T> {
    fn new(pick: fn(T, T) -> T) -> Self {
        Self { pick, before: None, since: None, turns_at: None }
    }

    fn note(&mut self, now: Instant, value: T) {
        if *self.turns_at.get_or_insert(now + MEMORY) <= now {
            self.before = self.since.take();
            self.turns_at = Some(now + MEMORY);
        }
        self.since = Some(self.since.map_or(value, |other| (self.pick)(other, value)));
    }

    fn get(&self) -> Option<T> {
        match (self.before, self.since) {
            (Some(before), Some(since)) => Some((self.pick)(before, since)),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests;
