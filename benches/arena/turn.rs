//! One turn of one system at one workload.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use counterfoil_benches::{
    Body, IN_FLIGHT, LOGS_A_COMMIT, MANY_LOGS, Outcome, Payload, RECORD_BYTES, RECORDS_A_CALL, System, WRITERS,
    Workload,
};

use crate::effort::Effort;

/// Single appends between two bulk ones in At, so that segments fill up while latencies are taken.
const APPENDS_A_BULK: usize = 15;
/// Reads of one latency in Gc, where looking at the clock would take as long as reading.
const CACHED_READS: usize = 32;

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// In the workload's unit.
    pub(crate) figure: f64,
    /// Of single operations, in nanoseconds, where there are such.
    pub(crate) latencies: Vec<u32>,
}

#[expect(clippy::disallowed_methods, reason = "a bench measures the time that really passes")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn nanoseconds(time: Duration) -> u32 {
    time.as_nanos().try_into().unwrap_or(u32::MAX)
}

pub(crate) fn median_of(latencies: &mut [u32]) -> f64 {
    if latencies.is_empty() {
        return f64::NAN;
    }
    let middle = latencies.len() / 2;
    f64::from(*latencies.select_nth_unstable(middle).1)
}

/// The records that all workloads write.
pub(crate) struct Bodies(Payload);

impl Bodies {
    pub(crate) fn new() -> Self {
        Self(Payload::new(16 * RECORDS_A_CALL))
    }

    fn all(&self) -> &[Body] {
        self.0.records()
    }

    /// Without end.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Body> {
        self.all().iter().cycle()
    }

    pub(crate) fn groups(&self, len: usize) -> impl Iterator<Item = &[Body]> {
        self.all().chunks_exact(len).cycle()
    }
}

/// Fills a store before any round of its workload.
pub(crate) fn load(system: &dyn System, workload: Workload, effort: &Effort, bodies: &Bodies) -> Outcome<()> {
    match workload {
        Workload::F2 => {
            let mut groups = bodies.groups(LOGS_A_COMMIT).take(effort.interleaved_records);
            groups.try_for_each(|group| system.load_interleaved(group))
        }
        Workload::At => append_bulk(system, effort.bulk_records / 8, bodies),
        workload if workload.archive().is_some() => {
            if workload.logs() > MANY_LOGS {
                let firsts = (1..workload.logs()).step_by(LOGS_A_COMMIT);
                let mut groups = firsts.zip(bodies.groups(LOGS_A_COMMIT));
                groups.try_for_each(|(first, group)| system.append_across(first, group))?;
            }
            append_bulk(system, effort.archive_records, bodies)
        }
        // What a system does when it is first used is not what is measured.
        Workload::C | Workload::D => append_bulk(system, RECORDS_A_CALL, bodies),
        _ => {
            let short = Effort { turn: effort.turn / 4, ..*effort };
            take(system, workload, &short, bodies).map(drop)
        }
    }
}

fn append_bulk(system: &dyn System, records: usize, bodies: &Bodies) -> Outcome<()> {
    let groups = bodies.groups(RECORDS_A_CALL).take(records / RECORDS_A_CALL);
    for group in groups {
        system.append_many(0, group)?;
    }
    system.flush()
}

/// One turn at a workload that works on an open system.
pub(crate) fn take(system: &dyn System, workload: Workload, effort: &Effort, bodies: &Bodies) -> Outcome<Turn> {
    match workload {
        Workload::A => durable_each(system, 0, effort.turn, bodies),
        Workload::At => durable_beside_a_reader(system, effort.long_turn, bodies),
        Workload::B => many_writers(system, effort.turn, bodies),
        Workload::B2 => in_flight(system, effort.turn, bodies),
        Workload::C => unflushed(system, effort, bodies),
        Workload::D => rate(effort.bulk_records, || append_bulk(system, effort.bulk_records, bodies)),
        Workload::E | Workload::E10k => across_logs(system, workload, effort.turn, bodies),
        Workload::F2 => one_of_many(system, effort),
        Workload::F => {
            let mut reader = system.reader(0)?;
            rate(effort.archive_records, || expect_count(reader.scan()?, effort.archive_records))
        }
        Workload::G | Workload::G1e5 => random_reads(system, effort),
        Workload::Gc => cached_reads(system, effort),
        _ => Err("it works on a closed system, or on two".into()),
    }
}

fn rate(records: usize, work: impl FnOnce() -> Outcome<()>) -> Outcome<Turn> {
    let start = now();
    work()?;
    Ok(Turn { figure: records as f64 / start.elapsed().as_secs_f64(), latencies: Vec::new() })
}

fn expect_count(found: u64, wanted: usize) -> Outcome<()> {
    if found == wanted as u64 { Ok(()) } else { Err(format!("{found} records instead of {wanted}").into()) }
}

fn durable_each(system: &dyn System, log: u32, time: Duration, bodies: &Bodies) -> Outcome<Turn> {
    let mut latencies = Vec::with_capacity(100_000);
    let start = now();
    let mut before = start;
    for body in bodies.each() {
        system.append_durable(log, body)?;
        let after = now();
        latencies.push(nanoseconds(after - before));
        before = after;
        if after - start >= time {
            break;
        }
    }
    Ok(Turn { figure: latencies.len() as f64 / (before - start).as_secs_f64(), latencies })
}

fn durable_beside_a_reader(system: &dyn System, time: Duration, bodies: &Bodies) -> Outcome<Turn> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scanning = scope.spawn(|| -> Outcome<()> {
            while !is_over.load(Ordering::Relaxed) {
                system.reader(0)?.scan()?;
            }
            Ok(())
        });
        let latencies = singles_and_bulks(system, time, bodies);
        is_over.store(true, Ordering::Relaxed);
        scanning.join().map_err(|_| "the reader panicked")??;
        let mut latencies = latencies?;
        Ok(Turn { figure: median_of(&mut latencies) / 1e3, latencies })
    })
}

fn singles_and_bulks(system: &dyn System, time: Duration, bodies: &Bodies) -> Outcome<Vec<u32>> {
    let mut latencies = Vec::with_capacity(100_000);
    let mut each = bodies.each();
    let start = now();
    for group in bodies.groups(RECORDS_A_CALL) {
        for body in each.by_ref().take(APPENDS_A_BULK) {
            let before = now();
            system.append_durable(0, body)?;
            latencies.push(nanoseconds(before.elapsed()));
        }
        system.append_many(0, group)?;
        system.flush()?;
        if start.elapsed() >= time {
            break;
        }
    }
    Ok(latencies)
}

fn many_writers(system: &dyn System, time: Duration, bodies: &Bodies) -> Outcome<Turn> {
    let start = now();
    let turns: Vec<Outcome<Turn>> = thread::scope(|scope| {
        let append = |writer| durable_each(system, system.log_of_writer(writer), time, bodies);
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || append(writer))).collect();
        writers.into_iter().map(|writer| writer.join().map_err(|_| "a writer panicked")?).collect()
    });
    let elapsed = start.elapsed().as_secs_f64();
    let mut latencies = Vec::new();
    for turn in turns {
        latencies.append(&mut turn?.latencies);
    }
    Ok(Turn { figure: latencies.len() as f64 / elapsed, latencies })
}

fn in_flight(system: &dyn System, time: Duration, bodies: &Bodies) -> Outcome<Turn> {
    let start = now();
    let mut count = 0;
    // Long groups: the end of each waits for all of it.
    for group in bodies.groups(32 * IN_FLIGHT) {
        system.append_pipelined(group, IN_FLIGHT)?;
        count += group.len();
        if start.elapsed() >= time {
            break;
        }
    }
    Ok(Turn { figure: count as f64 / start.elapsed().as_secs_f64(), latencies: Vec::new() })
}

fn unflushed(system: &dyn System, effort: &Effort, bodies: &Bodies) -> Outcome<Turn> {
    let mut each = bodies.each();
    let start = now();
    let mut count = 0;
    while count < effort.unflushed_records && start.elapsed() < effort.unflushed_turn {
        for body in each.by_ref().take(RECORDS_A_CALL) {
            system.append_unflushed(0, body)?;
        }
        count += RECORDS_A_CALL;
    }
    Ok(Turn { figure: count as f64 / start.elapsed().as_secs_f64(), latencies: Vec::new() })
}

fn across_logs(system: &dyn System, workload: Workload, time: Duration, bodies: &Bodies) -> Outcome<Turn> {
    let start = now();
    let mut count = 0;
    for (number, group) in bodies.groups(LOGS_A_COMMIT).enumerate() {
        let first = number as u32 * LOGS_A_COMMIT as u32 % workload.logs();
        system.append_across(first, group)?;
        count += group.len();
        if start.elapsed() >= time {
            break;
        }
    }
    Ok(Turn { figure: count as f64 / start.elapsed().as_secs_f64(), latencies: Vec::new() })
}

fn one_of_many(system: &dyn System, effort: &Effort) -> Outcome<Turn> {
    let logs = Workload::F2.logs();
    let mut readers: Vec<_> =
        (0..effort.interleaved_logs).map(|log| system.reader(log * 6 % logs)).collect::<Outcome<_>>()?;
    let count = effort.interleaved_records * readers.len();
    rate(count, || readers.iter_mut().try_for_each(|reader| expect_count(reader.scan()?, effort.interleaved_records)))
}

/// Numbers below `end` in an order that no cache foresees.
fn places(count: usize, end: usize) -> impl Iterator<Item = u64> {
    let end = end as u64;
    (0..count as u64).map(move |number| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % end)
}

fn random_reads(system: &dyn System, effort: &Effort) -> Outcome<Turn> {
    let mut reader = system.reader(0)?;
    let mut latencies = Vec::with_capacity(effort.reads);
    let end = effort.archive_records / RECORDS_A_CALL * RECORDS_A_CALL;
    let start = now();
    for place in places(effort.reads, end) {
        let before = now();
        let len = reader.read(place)?;
        latencies.push(nanoseconds(before.elapsed()));
        expect_count(len as u64, RECORD_BYTES)?;
        // A slow one is done once it has been seen often enough.
        if start.elapsed() > effort.long_turn {
            break;
        }
    }
    Ok(Turn { figure: median_of(&mut latencies) / 1e3, latencies })
}

fn cached_reads(system: &dyn System, effort: &Effort) -> Outcome<Turn> {
    let mut reader = system.reader(0)?;
    let first = effort.archive_records as u64 / 3;
    let mut latencies = Vec::with_capacity(effort.reads / CACHED_READS);
    (0..CACHED_READS as u64).try_for_each(|place| reader.read(first + place).map(drop))?;
    let start = now();
    for _ in 0..effort.reads / CACHED_READS {
        let before = now();
        for place in places(CACHED_READS, CACHED_READS) {
            std::hint::black_box(reader.read(first + place)?);
        }
        latencies.push(nanoseconds(before.elapsed()) / CACHED_READS as u32);
        if start.elapsed() > effort.long_turn {
            break;
        }
    }
    Ok(Turn { figure: median_of(&mut latencies) / 1e3, latencies })
}
