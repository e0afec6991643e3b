//! Many histories, on all processors: a history is one thread's, and knows nothing of others.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use crate::{Report, Violation};

/// The seeds to explore: those that the variable `COUNTERFOIL_SEEDS` names as `n`, the first n, or as `a..b`; `usual` first ones
/// if it is not set.
pub fn seeds(usual: u64) -> Range<u64> {
    let Ok(text) = std::env::var("COUNTERFOIL_SEEDS") else { return 0..usual };
    parse(&text).unwrap_or_else(|| panic!("COUNTERFOIL_SEEDS={text}: not a number, nor two with .. between them"))
}

fn parse(text: &str) -> Option<Range<u64>> {
    match text.split_once("..") {
        Some((first, end)) => Some(first.parse().ok()?..end.parse().ok()?),
        None => Some(0..text.parse().ok()?),
    }
}

/// The histories of `seeds`: what they held in all, and what was broken in them, by seed.
pub fn explore_seeds(
    seeds: Range<u64>,
    explore: impl Fn(u64) -> Result<Report, Violation> + Sync,
) -> (Report, Vec<Violation>) {
    let next = AtomicU64::new(seeds.start);
    let some = || {
        let (mut total, mut violations) = (Report::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return (total, violations);
            }
            match explore(seed) {
                Ok(report) => total.add(&report),
                Err(violation) => violations.push(violation),
            }
        }
    };
    let (mut total, mut violations) = (Report::default(), Vec::new());
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(some)).collect();
        for thread in threads {
            let (report, broken) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            total.add(&report);
            violations.extend(broken);
        }
    });
    violations.sort_by_key(|violation| violation.seed);
    (total, violations)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seeds_are_named_by_how_many_or_from_which_to_which() {
        assert_eq!(parse("300"), Some(0..300));
        assert_eq!(parse("1000..4000"), Some(1000..4000));
        for text in ["", "..", "5..", "many", "1..2..3", "-1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn each_seed_is_explored_once_and_each_violation_told_in_order() {
        let (total, violations) = explore_seeds(1000..2000, |seed| match seed % 100 {
            99 => Err(Violation { seed, at: Duration::ZERO, what: "broken".to_owned() }),
            _ => Ok(Report { messages: seed, records: 1, ..Report::default() }),
        });
        let broken: Vec<u64> = violations.iter().map(|violation| violation.seed).collect();
        assert_eq!(broken, (0..10).map(|hundred| 1000 + hundred * 100 + 99).collect::<Vec<_>>());
        let messages = (1000..2000).sum::<u64>() - broken.iter().sum::<u64>();
        assert_eq!((total.messages, total.records), (messages, 990));
    }
}
