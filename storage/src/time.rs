//! Time that orders records across logs: a hybrid logical clock.
//!
//! Source: S. Kulkarni, M. Demirbas, D. Madappa, B. Avva, M. Leone, *Logical Physical Clocks and
//! Consistent Snapshots in Globally Distributed Databases*, 2014.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// A stamp of the hybrid logical clock: 48 bits of milliseconds since 1970 and a 16-bit counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(u64);

const COUNTER_BITS: u32 = 16;

impl Hlc {
    /// The earliest stamp.
    pub const ZERO: Self = Self(0);

    /// From its 64 bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its 64 bits: the order of stamps is the order of these.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The first stamp of a millisecond since 1970 (UTC).
    pub const fn from_unix_ms(unix_ms: u64) -> Self {
        Self(unix_ms << COUNTER_BITS)
    }

    /// Milliseconds since 1970 (UTC).
    pub const fn unix_ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// As a time of day, to the millisecond.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.unix_ms())
    }

    /// By how many milliseconds it is ahead of a wall clock; 0 if it is not.
    pub const fn ms_ahead_of(self, wall_unix_ms: u64) -> u64 {
        self.unix_ms().saturating_sub(wall_unix_ms)
    }

    /// A clock that stands at `self` once it has seen the stamp `other`, while the wall clock shows `wall_unix_ms`:
    /// what it stamps from then on comes after `other`.
    ///
    /// A stamp that is ahead of the wall clock by more than `ahead_ms_max` changes nothing: one clock that is wrong
    /// must not set all others. What is stamped after such a stamp was seen may then come before it.
    #[must_use]
    pub fn observe(self, other: Self, wall_unix_ms: u64, ahead_ms_max: u64) -> Self {
        if other.ms_ahead_of(wall_unix_ms) > ahead_ms_max { self } else { self.max(other) }
    }

    /// The next stamp of a clock that stands at `self` while the wall clock shows `wall_unix_ms`:
    /// never less than either, always greater than `self`.
    #[must_use]
    pub fn tick(self, wall_unix_ms: u64) -> Self {
        Self(self.0.saturating_add(1).max(wall_unix_ms << COUNTER_BITS))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}+{}", self.unix_ms() / 1000, self.unix_ms() % 1000, self.0 & 0xffff)
    }
}

/// The wall clock, as milliseconds since 1970 (UTC).
pub trait WallClock: Send + Sync + fmt::Debug {
    /// Now. It may jump either way: the hybrid clock above it does not go back.
    fn unix_ms(&self) -> u64;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system for the time of day")]
    fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_never_goes_back_when_the_wall_clock_does() {
        let early = Hlc::from_unix_ms(1_000);
        let late = early.tick(2_000);
        assert_eq!(late.unix_ms(), 2_000);
        assert!(late.tick(500) > late);
        assert_eq!(late.tick(500).unix_ms(), 2_000);
    }

    #[test]
    fn what_is_stamped_after_a_stamp_was_seen_comes_after_it_unless_that_is_too_far_ahead() {
        let (local, remote) = (Hlc::from_unix_ms(1_000), Hlc::from_unix_ms(1_500));
        assert!(local.observe(remote, 1_000, 500).tick(1_000) > remote);
        assert_eq!(local.observe(remote, 1_000, 499), local);
        assert_eq!(remote.observe(local, 1_000, 500), remote);
    }

    #[test]
    fn the_counter_of_a_millisecond_that_overflows_goes_on_in_the_next() {
        let full = Hlc::from_bits(Hlc::from_unix_ms(7).to_bits() | 0xffff);
        assert_eq!(full.tick(7), Hlc::from_unix_ms(8));
    }
}
