//! Rounds of those workloads that take two nodes: each pair is started once for a workload, then they take turns.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, thread};

use counterfoil_benches::{Body, Outcome, Pair, Pairing, RECORD_BYTES, RECORDS_A_CALL, WRITERS, Workload, folder};
use tempfile::TempDir;

use crate::{
    effort::Effort,
    fhir,
    progress::Progress,
    report::{Entry, Results, Series},
    turn::{Bodies, Turn, median_of, nanoseconds, now},
};

pub(crate) struct PairArena<'a> {
    pub(crate) lineup: &'a [&'a dyn Pairing],
    pub(crate) effort: Effort,
    pub(crate) bodies: &'a Bodies,
    pub(crate) progress: &'a Progress,
}

/// A pair that runs, and its folder. The order matters: the folder goes last.
struct Stand {
    pair: Box<dyn Pair>,
    /// Records appended so far.
    appended: u64,
    _folder: TempDir,
}

impl PairArena<'_> {
    pub(crate) fn run(&self, workload: Workload) -> Results {
        let mut results = Results::default();
        let mut stands = BTreeMap::new();
        for (place, pairing) in self.lineup.iter().enumerate() {
            self.progress.say(workload, pairing.name(), "made ready");
            if let Some(reason) = pairing.cannot(workload) {
                results.absent.push((pairing.name(), reason));
                continue;
            }
            match self.make_ready(*pairing, workload) {
                Ok(stand) => drop(stands.insert(place, stand)),
                Err(error) => results.absent.push((pairing.name(), format!("failed: {error}"))),
            }
        }
        let mut turns: BTreeMap<usize, Vec<Turn>> = BTreeMap::new();
        for round in 0..self.effort.pair_rounds(workload) {
            let mut order: Vec<usize> = stands.keys().copied().collect();
            let start = round % order.len().max(1);
            order.rotate_left(start);
            for place in order {
                let name = self.lineup[place].name();
                self.progress.say(workload, name, &format!("round {}", round + 1));
                thread::sleep(self.effort.pause);
                let Some(stand) = stands.get_mut(&place) else { continue };
                match self.take(stand, workload, &mut results.found) {
                    Ok(turn) => turns.entry(place).or_default().push(turn),
                    Err(error) => {
                        results.absent.push((name, format!("failed: {error}")));
                        stands.remove(&place);
                        turns.remove(&place);
                    }
                }
            }
        }
        for (place, stand) in stands {
            if let Err(error) = stand.pair.stop() {
                results.absent.push((self.lineup[place].name(), format!("failed: {error}")));
            }
        }
        for (place, turns) in turns {
            let pairing = self.lineup[place];
            let entry = Entry { system: pairing.name(), remark: pairing.remark(workload) };
            results.series.push(Series::new(entry, turns));
        }
        results
    }

    fn make_ready(&self, pairing: &dyn Pairing, workload: Workload) -> Outcome<Stand> {
        let folder = folder()?;
        // A server may have a user of its own.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711))?;
        let pair = pairing.start(folder.path(), workload)?;
        let mut stand = Stand { pair, appended: 0, _folder: folder };
        match workload {
            Workload::N => self.append(&mut stand, self.effort.catch_up_records(pairing.name()))?,
            Workload::U => {}
            // What is done when a pair first meets is not what is measured.
            Workload::O | Workload::P => {
                stand.pair.begin_mirror()?;
                let mut waiter = stand.pair.waiter()?;
                self.bodies.each().take(10).try_for_each(|body| waiter.append_mirrored(body))?;
                drop(waiter);
            }
            _ => {
                stand.pair.begin_mirror()?;
                self.append(&mut stand, RECORDS_A_CALL)?;
                stand.pair.wait_mirrored(stand.appended)?;
            }
        }
        Ok(stand)
    }

    fn append(&self, stand: &mut Stand, records: usize) -> Outcome<()> {
        stand.appended += append(&*stand.pair, self.bodies, records)?;
        Ok(())
    }

    fn take(&self, stand: &mut Stand, workload: Workload, found: &mut Vec<String>) -> Outcome<Turn> {
        match workload {
            Workload::M => {
                let start = now();
                self.append(stand, self.effort.mirrored_records)?;
                stand.pair.wait_mirrored(stand.appended)?;
                Ok(rate(self.effort.mirrored_records, start.elapsed().as_secs_f64()))
            }
            Workload::N => {
                let start = now();
                stand.pair.begin_mirror()?;
                stand.pair.wait_mirrored(stand.appended)?;
                let seconds = start.elapsed().as_secs_f64();
                stand.pair.end_mirror()?;
                Ok(rate(stand.appended as usize, seconds))
            }
            Workload::O => self.wait_for_each(&*stand.pair),
            Workload::P => self.many_wait(&*stand.pair),
            Workload::U => fhir::on_the_wire(&mut *stand.pair, self.effort.fhir_records, found),
            Workload::V20 => self.over_a_line(stand, self.effort.line_records[0]),
            Workload::V200 => self.over_a_line(stand, self.effort.line_records[1]),
            _ => Err("it takes one node".into()),
        }
    }

    fn wait_for_each(&self, pair: &dyn Pair) -> Outcome<Turn> {
        let mut waiter = pair.waiter()?;
        let mut latencies = Vec::new();
        let start = now();
        for body in self.bodies.each() {
            let before = now();
            waiter.append_mirrored(body)?;
            latencies.push(nanoseconds(before.elapsed()));
            if start.elapsed() >= self.effort.turn {
                break;
            }
        }
        Ok(Turn { figure: median_of(&mut latencies) / 1e3, latencies })
    }

    fn many_wait(&self, pair: &dyn Pair) -> Outcome<Turn> {
        let mut waiters = (0..WRITERS).map(|_| pair.waiter()).collect::<Outcome<Vec<_>>>()?;
        let start = now();
        let counts: Vec<Outcome<usize>> = thread::scope(|scope| {
            let write = |waiter: &mut Box<dyn counterfoil_benches::Waiter + '_>| {
                let mut count = 0;
                for body in self.bodies.each() {
                    waiter.append_mirrored(body)?;
                    count += 1;
                    if start.elapsed() >= self.effort.turn {
                        break;
                    }
                }
                Ok(count)
            };
            let writers: Vec<_> = waiters.iter_mut().map(|waiter| scope.spawn(move || write(waiter))).collect();
            writers.into_iter().map(|writer| writer.join().map_err(|_| "a writer panicked")?).collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        Ok(rate(counts.into_iter().sum::<Outcome<usize>>()?, seconds))
    }

    /// What a line carries once it is busy: the clock starts when the first part has been mirrored.
    fn over_a_line(&self, stand: &mut Stand, records: usize) -> Outcome<Turn> {
        let warm = stand.appended + records as u64 / 4;
        let all = stand.appended + records as u64;
        stand.appended = all;
        let pair = &*stand.pair;
        let seconds = thread::scope(|scope| -> Outcome<f64> {
            let appending = scope.spawn(|| append(pair, self.bodies, records));
            pair.wait_mirrored(warm)?;
            let start = now();
            pair.wait_mirrored(all)?;
            let seconds = start.elapsed().as_secs_f64();
            appending.join().map_err(|_| "the writer panicked")??;
            Ok(seconds)
        })?;
        let bits = (all - warm) as f64 * RECORD_BYTES as f64 * 8.0;
        Ok(Turn { figure: bits / seconds / 1e6, latencies: Vec::new() })
    }
}

fn rate(records: usize, seconds: f64) -> Turn {
    Turn { figure: records as f64 / seconds, latencies: Vec::new() }
}

fn append(pair: &dyn Pair, bodies: &Bodies, records: usize) -> Outcome<u64> {
    let groups: Vec<&[Body]> = bodies.groups(RECORDS_A_CALL).take(records / RECORDS_A_CALL).collect();
    groups.iter().try_for_each(|group| pair.append_many(group))?;
    Ok((groups.len() * RECORDS_A_CALL) as u64)
}
