//! Windows over a line in virtual time: it has a bandwidth, a delay and a queue without end.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::*;

const BATCH_BYTES: u64 = 8300;

/// What a seed decides.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// Bytes per second.
    rate: f64,
    round_trip: Duration,
    store: Duration,
}

impl Line {
    /// What it and the store behind it hold.
    fn holds(&self) -> f64 {
        self.rate * (self.round_trip + self.store).as_secs_f64()
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrives { sent_at: Duration },
    Durable { arrived: Duration },
    Credited,
    Told { space_bytes: u64 },
    Probed(u32),
    Echoed(u32),
}

/// A source that always has more to send, and a target that measures.
struct World {
    line: Line,
    epoch: Instant,
    now: Duration,
    planned: BinaryHeap<Reverse<(Duration, u64, Happening)>>,
    number: u64,
    meter: WindowMeter,
    /// The source's: what it believes, what is outstanding, when the line takes more.
    window: u64,
    outstanding: u64,
    free_at: Duration,
    /// Received and not durable.
    held: u64,
    arrived: u64,
    /// How long batches were under way lately.
    delays: VecDeque<Duration>,
}

#[expect(clippy::disallowed_methods, reason = "virtual time counts from some moment")]
fn epoch() -> Instant {
    Instant::now()
}

impl World {
    fn new(line: Line) -> Self {
        let limits = Limits::default();
        let mut world = Self {
            line,
            epoch: epoch(),
            now: Duration::ZERO,
            planned: BinaryHeap::new(),
            number: 0,
            meter: WindowMeter::new(&limits),
            window: limits.space_window_bytes,
            outstanding: 0,
            free_at: Duration::ZERO,
            held: 0,
            arrived: 0,
            delays: VecDeque::new(),
        };
        world.probe();
        // The way is measured before anything is sent over it, as a session does.
        world.run_until(line.round_trip * 2);
        world.send();
        world
    }

    fn plan(&mut self, at: Duration, happening: Happening) {
        self.number += 1;
        self.planned.push(Reverse((at, self.number, happening)));
    }

    /// Puts bytes on the line from the source; when they arrive.
    fn put(&mut self, bytes: u64) -> Duration {
        let takes = Duration::from_secs_f64(bytes as f64 / self.line.rate);
        self.free_at = self.free_at.max(self.now) + takes;
        self.free_at + self.line.round_trip / 2
    }

    fn send(&mut self) {
        while self.outstanding < self.window {
            self.outstanding += BATCH_BYTES;
            let (at, sent_at) = (self.put(BATCH_BYTES), self.now);
            self.plan(at, Happening::Arrives { sent_at });
        }
    }

    fn probe(&mut self) {
        if let Some(number) = self.meter.probe(self.epoch + self.now) {
            self.plan(self.now + self.line.round_trip / 2, Happening::Probed(number));
        }
    }

    fn tell(&mut self, windows: Option<Windows>) {
        if let Some(windows) = windows {
            let space_bytes = windows.space_bytes;
            self.plan(self.now + self.line.round_trip / 2, Happening::Told { space_bytes });
        }
        self.probe();
    }

    fn run_until(&mut self, end: Duration) {
        while let Some(Reverse((at, ..))) = self.planned.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, happening))) = self.planned.pop() else { return };
            self.now = at;
            let now = self.epoch + at;
            match happening {
                Happening::Arrives { sent_at } => {
                    assert!(self.held < self.meter.allowed().space_bytes, "an honest source overdraws");
                    self.held += BATCH_BYTES;
                    self.arrived += BATCH_BYTES;
                    self.delays.push_back(at.saturating_sub(sent_at));
                    self.plan(at + self.line.store, Happening::Durable { arrived: at });
                    let windows = self.meter.received(now, BATCH_BYTES);
                    self.tell(windows);
                }
                Happening::Durable { arrived } => {
                    self.held -= BATCH_BYTES;
                    self.meter.stored(now, self.epoch + arrived);
                    self.plan(at + self.line.round_trip / 2, Happening::Credited);
                }
                Happening::Credited => {
                    self.outstanding -= BATCH_BYTES;
                    self.send();
                }
                Happening::Told { space_bytes } => {
                    self.window = space_bytes;
                    self.send();
                }
                Happening::Probed(number) => {
                    let at = self.put(0);
                    self.plan(at, Happening::Echoed(number));
                }
                Happening::Echoed(number) => {
                    let windows = self.meter.echoed(now, number).expect("it was asked");
                    self.tell(windows);
                }
            }
        }
        self.now = end;
    }

    /// Bytes per second from now on for a while.
    fn rate_over(&mut self, time: Duration) -> f64 {
        let before = self.arrived;
        self.run_until(self.now + time);
        (self.arrived - before) as f64 / time.as_secs_f64()
    }
}

/// `SplitMix64`: G. Steele et al., *Fast Splittable Pseudorandom Number Generators*, 2014.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
}

fn draw(seed: u64) -> Line {
    let mut state = seed;
    // 1 to 800 Mbit/s, 100 µs to 300 ms, 100 µs to 20 ms, in equal parts of their logarithms.
    let [rate, round_trip, store] = [(125e3, 800.0), (1e-4, 3000.0), (1e-4, 200.0)]
        .map(|(least, times): (f64, f64)| least * times.powf(random(&mut state)));
    Line { rate, round_trip: Duration::from_secs_f64(round_trip), store: Duration::from_secs_f64(store) }
}

#[test]
fn a_line_of_any_kind_is_soon_full_and_its_queue_stays_short() {
    let limits = Limits::default();
    let mut judged = 0;
    for seed in 0..60 {
        let line = draw(seed);
        if 1.25 * line.holds() > limits.space_window_bytes_max as f64 {
            continue;
        }
        judged += 1;
        let mut world = World::new(line);
        world.run_until(Duration::from_secs(2) + 12 * line.round_trip);
        // Long enough for the round trip to be measured again, twice.
        let rate = world.rate_over(Duration::from_secs(24));
        assert!(rate > 0.93 * line.rate, "seed {seed}: {rate} over {line:?}, told {:?}", world.meter.told());
        let wanted = 2.0 * line.holds() + line.rate * SLACK.as_secs_f64();
        let bound = (limits.space_window_bytes_min as f64).max(1.05 * wanted * 100.0 / SHRINKS_TO_PERCENT as f64);
        let told = world.meter.told().space_bytes as f64;
        assert!(told <= bound, "seed {seed}: told {told}, not {bound}, over {line:?}");
    }
    assert!(judged > 40, "{judged}");
}

#[test]
fn a_line_that_becomes_longer_or_narrower_is_measured_again() {
    let first = Line { rate: 12.5e6, round_trip: Duration::from_millis(20), store: Duration::from_millis(1) };
    let longer = Line { round_trip: Duration::from_millis(200), ..first };
    let narrower = Line { rate: 1.25e6, ..first };
    for line in [longer, narrower] {
        let mut world = World::new(first);
        world.run_until(Duration::from_secs(5));
        world.line = line;
        world.run_until(Duration::from_secs(40));
        let rate = world.rate_over(Duration::from_secs(10));
        assert!(rate > 0.93 * line.rate, "{rate} over {line:?}");
        let late = world.delays.iter().rev().take(100).max().copied().unwrap_or_default();
        assert!(late < line.round_trip * 3 + Duration::from_millis(300), "{late:?} over {line:?}");
    }
}

#[test]
fn a_window_that_shrank_is_held_to_only_when_the_peer_has_heard_of_it() {
    let limits = Limits::default();
    let mut meter = WindowMeter::new(&limits);
    let start = epoch();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let first = meter.probe(at(0)).unwrap();
    assert_eq!(meter.echoed(at(1), first), Ok(None));
    assert_eq!(meter.echoed(at(1), first), Err(()), "once");
    assert_eq!(meter.echoed(at(1), first + 1), Err(()), "not sent");
    // A probe that is under way when the window shrinks says nothing about it.
    let early = meter.probe(at(300)).unwrap();
    assert_eq!(meter.received(at(300), 1), None);
    let told = meter.received(at(3000), 300 << 10).expect("a tenth of a megabyte a second");
    assert_eq!(told.space_bytes, limits.space_window_bytes_min);
    assert_eq!(meter.allowed().space_bytes, limits.space_window_bytes);
    assert_eq!(meter.probe(at(3000)), None, "one at a time");
    assert_eq!(meter.echoed(at(3001), early), Ok(None));
    assert_eq!(meter.allowed().space_bytes, limits.space_window_bytes);
    let late = meter.probe(at(3001)).expect("at once");
    assert_eq!(meter.echoed(at(3002), late), Ok(None));
    assert_eq!(meter.allowed(), told);
}

#[test]
fn no_rate_lifts_a_window_above_its_bound() {
    let limits = Limits::default();
    let mut meter = WindowMeter::new(&limits);
    let start = epoch();
    let probe = meter.probe(start).unwrap();
    assert_eq!(meter.echoed(start + Duration::from_secs(1), probe), Ok(None));
    let mut told = None;
    for second in 2..20 {
        told = meter.received(start + Duration::from_secs(second), 1 << 40).or(told);
    }
    let session_bytes = limits.session_window_bytes / limits.space_window_bytes * limits.space_window_bytes_max;
    let most = Windows { session_bytes, space_bytes: limits.space_window_bytes_max };
    assert_eq!(meter.allowed(), most);
    assert!(told.is_some());
}
