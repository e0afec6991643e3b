//! A bound to the lines that a peer can cause in the log.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Lines of one kind: 5 at once, then one in 10 s.
const ONE_KIND: Rate = Rate { burst: 5, every: Duration::from_secs(10) };
/// Lines of all kinds together: 200 at once, then 10 in a second.
const ALL_KINDS: Rate = Rate { burst: 200, every: Duration::from_millis(100) };
/// The most kinds that are told apart; all others share one.
const BUCKETS_MAX: usize = 1024;

/// Lets through as many log lines as a person can use, and counts the rest: a token bucket for each kind of line, which
/// says at least whom it is about, so that one who floods hides no other's trouble; and one for all, since there may be
/// any number of kinds.
#[derive(Debug)]
pub struct LogLimit<K> {
    /// `None` until the first line.
    all: Option<Bucket>,
    /// `None`: all kinds that found no place of their own.
    buckets: HashMap<Option<K>, Bucket>,
}

/// How many lines may come.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// At once.
    burst: u32,
    /// After how long one more.
    every: Duration,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl<K> Default for LogLimit<K> {
    fn default() -> Self {
        Self { all: None, buckets: HashMap::new() }
    }
}

impl<K: Eq + Hash> LogLimit<K> {
    /// Something of this kind happened: `Some(n)` if a line is due, which also stands for `n` earlier ones that got none.
    pub fn note(&mut self, now: Instant, kind: K) -> Option<u64> {
        let mut kind = Some(kind);
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(&kind) {
            self.buckets
                .retain(|_, bucket| bucket.suppressed > 0 || now.duration_since(bucket.refilled) < ONE_KIND.every);
            if self.buckets.len() >= BUCKETS_MAX {
                kind = None;
            }
        }
        let all = self.all.get_or_insert(Bucket::full(ALL_KINDS, now));
        all.refill(ALL_KINDS, now);
        let bucket = self.buckets.entry(kind).or_insert(Bucket::full(ONE_KIND, now));
        bucket.refill(ONE_KIND, now);
        if bucket.tokens == 0 || all.tokens == 0 {
            bucket.suppressed += 1;
            return None;
        }
        all.tokens -= 1;
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, refilled: now, suppressed: 0 }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let due = now.duration_since(self.refilled).as_millis() / rate.every.as_millis();
        if due > 0 {
            self.tokens = rate.burst.min(self.tokens.saturating_add(due.try_into().unwrap_or(u32::MAX)));
            self.refilled = now;
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to count from")]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_counted_and_hides_no_other() {
        let (mut log, start) = (LogLimit::default(), Instant::now());
        let lines = (0..1000).filter(|_| log.note(start, "flood").is_some()).count();
        assert_eq!(lines, ONE_KIND.burst as usize);
        assert_eq!(log.note(start, "trouble"), Some(0));
        assert_eq!(log.note(start + ONE_KIND.every, "flood"), Some(1000 - u64::from(ONE_KIND.burst)));
    }

    #[test]
    fn kinds_without_number_can_t_fill_the_log_either() {
        let (mut log, start) = (LogLimit::default(), Instant::now());
        let minute = (0..60_000).filter(|n| log.note(start + Duration::from_millis(1) * *n, *n).is_some());
        assert!((600..=800).contains(&minute.count()), "200 at once, then 10 a second");
        assert!(log.note(start + Duration::from_secs(62), 60_000).is_some(), "there is room for others again");
    }

    #[test]
    fn the_kinds_told_apart_are_bounded() {
        let (mut log, start) = (LogLimit::default(), Instant::now());
        for kind in 0..100_000_u32 {
            log.note(start, kind);
        }
        assert!(log.buckets.len() <= BUCKETS_MAX + 1);
    }
}
