//! A bound to the lines that a peer can cause in the log.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How many lines of one kind may come at once.
const BURST: u32 = 5;
/// After how long one more line may come.
const REFILL: Duration = Duration::from_secs(10);
/// The most kinds that are told apart; all others share one.
const BUCKETS_MAX: usize = 1024;

/// Lets through as many log lines as a person can use, and counts the rest: a token bucket for each kind of line, which
/// says at least whom it is about, so that one who floods hides no other's trouble.
#[derive(Debug)]
pub struct LogLimit<K> {
    /// `None`: all kinds that found no place of their own.
    buckets: HashMap<Option<K>, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl<K> Default for LogLimit<K> {
    fn default() -> Self {
        Self { buckets: HashMap::new() }
    }
}

impl<K: Eq + Hash> LogLimit<K> {
    /// Something of this kind happened: `Some(n)` if a line is due, which also stands for `n` earlier ones that got none.
    pub fn note(&mut self, now: Instant, kind: K) -> Option<u64> {
        let mut kind = Some(kind);
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(&kind) {
            self.buckets.retain(|_, bucket| bucket.suppressed > 0 || now.duration_since(bucket.refilled) < REFILL);
            if self.buckets.len() >= BUCKETS_MAX {
                kind = None;
            }
        }
        let bucket = self.buckets.entry(kind).or_insert(Bucket { tokens: BURST, refilled: now, suppressed: 0 });
        bucket.refill(now);
        if bucket.tokens == 0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let due = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if due > 0 {
            self.tokens = BURST.min(self.tokens.saturating_add(due.try_into().unwrap_or(u32::MAX)));
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
        assert_eq!(lines, BURST as usize);
        assert_eq!(log.note(start, "trouble"), Some(0));
        assert_eq!(log.note(start + REFILL, "flood"), Some(1000 - u64::from(BURST)));
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
