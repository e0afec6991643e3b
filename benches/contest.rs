//! Rounds that alternate, and the table of what came out.

use std::{
    fmt,
    time::{Duration, Instant},
};

use criterion::{Criterion, SamplingMode, Throughput};

/// How long `work` takes.
#[expect(clippy::disallowed_methods, reason = "a bench measures the time that really passes")]
pub fn stopwatch<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed()
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Operations per second: more is better.
    Rate,
    /// Time for one operation: less is better.
    Time,
}

/// What issues 2 and 3 ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// At least this part of the limit.
    OfLimit(f64),
    /// At least so many operations per second.
    PerSecond(f64),
    /// At most this time for one operation.
    AtMost(Duration),
    /// At most so many times the limit's time.
    TimesLimit(f64),
    /// Nothing in particular.
    None,
}

/// A workload, in which each round does `operations`.
#[derive(Debug, Clone, Copy)]
pub struct Contest {
    /// Its letter and name, as in DESIGN.md section 11.
    pub name: &'static str,
    /// What one round does.
    pub operations: u64,
    /// What is compared.
    pub measure: Measure,
    /// What is asked for.
    pub target: Target,
}

/// The results of one run.
#[derive(Debug, Default)]
pub struct Ratios {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    contest: Contest,
    /// Seconds of a round, of the journal and of the limit, in the order of the rounds.
    rounds: Vec<[f64; 2]>,
}

impl Ratios {
    /// Runs a contest: each iteration is a round of `ours` and a round of `limit`, which return what they
    /// took. Which goes first alternates. Criterion is given ours. `prepare` runs only if the bench does.
    pub fn compare<O, L>(&mut self, criterion: &mut Criterion, contest: Contest, prepare: impl FnOnce() -> (O, L))
    where
        O: FnMut() -> Duration,
        L: FnMut() -> Duration,
    {
        let mut rounds = Vec::new();
        let mut prepare = Some(prepare);
        let mut both = None;
        let mut group = criterion.benchmark_group("counterfoil");
        group.throughput(Throughput::Elements(contest.operations)).sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(5));
        group.bench_function(contest.name, |bencher| {
            if let Some(prepare) = prepare.take() {
                both = Some(prepare());
            }
            let Some((ours, limit)) = &mut both else { return };
            bencher.iter_custom(|iterations| {
                let mut sum = Duration::ZERO;
                for _ in 0..iterations {
                    let pair = if rounds.len() % 2 == 0 {
                        let first = ours();
                        [first, limit()]
                    } else {
                        let first = limit();
                        [ours(), first]
                    };
                    sum += pair[0];
                    rounds.push(pair.map(|time| time.as_secs_f64()));
                }
                sum
            });
        });
        group.finish();
        if !rounds.is_empty() {
            let row = Row { contest, rounds };
            println!("{row}\n");
            self.rows.push(row);
        }
    }

    /// Prints the table.
    pub fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        println!("{:<44} {:>12} {:>12} {:>7}  target", "ratios: workload", "counterfoil", "limit", "ratio");
        for row in &self.rows {
            println!("{row}");
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Row {
    /// Medians of the rounds: seconds for one operation, of the journal and of the limit.
    fn seconds(&self) -> [f64; 2] {
        [0, 1].map(|side| median(self.rounds.iter().map(|round| round[side])) / self.contest.operations as f64)
    }

    /// Speed or time of the journal in terms of the limit's: the median of the rounds' ratios.
    fn ratio(&self) -> f64 {
        let ratio = median(self.rounds.iter().map(|[ours, limit]| limit / ours));
        if self.contest.measure == Measure::Rate { ratio } else { 1.0 / ratio }
    }

    fn verdict(&self) -> (String, bool) {
        let [ours, _] = self.seconds();
        match self.contest.target {
            Target::OfLimit(part) => (format!("at least {part} of the limit"), self.ratio() >= part),
            Target::PerSecond(rate) => (format!("at least {}", Rate(rate)), ours.recip() >= rate),
            Target::AtMost(time) => (format!("at most {}", Time(time.as_secs_f64())), ours <= time.as_secs_f64()),
            Target::TimesLimit(times) => (format!("at most {times} times the limit"), self.ratio() <= times),
            Target::None => (String::new(), true),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ours, limit] = self.seconds().map(|seconds| match self.contest.measure {
            Measure::Rate => Rate(seconds.recip()).to_string(),
            Measure::Time => Time(seconds).to_string(),
        });
        let (target, is_met) = self.verdict();
        let missed = if is_met { "" } else { "  MISSED" };
        write!(f, "{:<44} {ours:>12} {limit:>12} {:>7.2}  {target}{missed}", self.contest.name, self.ratio())
    }
}

/// Operations per second, for a person.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rate if rate >= 1e6 => write!(f, "{:.2} M/s", rate / 1e6),
            rate if rate >= 1e4 => write!(f, "{:.0} k/s", rate / 1e3),
            rate => write!(f, "{rate:.0} /s"),
        }
    }
}

/// A time in seconds, for a person.
struct Time(f64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            time if time >= 1e-3 => write!(f, "{:.2} ms", time * 1e3),
            time => write!(f, "{:.2} µs", time * 1e6),
        }
    }
}
