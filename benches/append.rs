//! Appending: A durable each, B 32 writers, C not waiting, D a thousand a call, E 600 logs a commit.
//!
//! The arena measures these and more beside other systems; this is for watching one change with criterion.

use std::{thread, time::Duration};

use counterfoil_benches::{
    Contender, Contest, Counterfoil, LOGS_A_COMMIT, Limit, Measure, Payload, RECORDS_A_CALL, Ratios, System, Target,
    WRITERS, folder, stopwatch,
};
use criterion::Criterion;
use tempfile::TempDir;

const DISK: &str = "the disk of the bench works";

/// A new store, gone when dropped.
struct Stand {
    system: Box<dyn System>,
    _folder: TempDir,
}

fn stand(contender: &dyn Contender, logs: u32) -> Stand {
    let folder = folder().expect(DISK);
    Stand { system: contender.create(folder.path(), logs).expect(DISK), _folder: folder }
}

/// Both at the same work in stores that stay.
fn compare(
    criterion: &mut Criterion,
    ratios: &mut Ratios,
    contest: Contest,
    logs: u32,
    work: impl Fn(&dyn System) + Copy,
) {
    ratios.compare(criterion, contest, || {
        let turn = move |contender: &dyn Contender| {
            let stand = stand(contender, logs);
            move || stopwatch(|| work(&*stand.system))
        };
        (turn(&Counterfoil), turn(&Limit))
    });
}

/// Both at the same work, in a new store each time.
fn compare_afresh(criterion: &mut Criterion, ratios: &mut Ratios, contest: Contest, work: impl Fn(&dyn System) + Copy) {
    fn turn(contender: &dyn Contender, work: impl Fn(&dyn System)) -> Duration {
        let stand = stand(contender, 1);
        let time = stopwatch(|| work(&*stand.system));
        stand.system.close().expect(DISK);
        time
    }
    ratios.compare(criterion, contest, || (move || turn(&Counterfoil, work), move || turn(&Limit, work)));
}

fn contest(name: &'static str, operations: usize, target: Target) -> Contest {
    Contest { name, operations: operations as u64, measure: Measure::Rate, target }
}

fn main() {
    const DURABLE: usize = 300;
    const RACED: usize = 100;
    const UNFLUSHED: usize = 200_000;
    const BULK: usize = 400_000;
    const COMMITS: usize = 50;
    let mut criterion = Criterion::default().configure_from_args();
    let mut ratios = Ratios::default();
    let payload = Payload::new(RECORDS_A_CALL);
    let records = payload.records();

    let durable = contest("A one writer, durable each", DURABLE, Target::OfLimit(0.95));
    compare(&mut criterion, &mut ratios, durable, 1, |system| {
        records[..DURABLE].iter().for_each(|record| system.append_durable(0, record).expect(DISK));
    });
    let raced = contest("B 32 writers, durable each", WRITERS as usize * RACED, Target::OfLimit(0.8));
    compare(&mut criterion, &mut ratios, raced, 1, |system| {
        let write = || records[..RACED].iter().for_each(|record| system.append_durable(0, record).expect(DISK));
        thread::scope(|scope| (0..WRITERS).for_each(|_| drop(scope.spawn(write))));
    });
    let unflushed = contest("C one record a call, not waiting", UNFLUSHED, Target::PerSecond(1e6));
    compare_afresh(&mut criterion, &mut ratios, unflushed, |system| {
        let records = records.iter().cycle().take(UNFLUSHED);
        records.for_each(|record| system.append_unflushed(0, record).expect(DISK));
    });
    let bulk = contest("D 1000 a call, one flush", BULK, Target::OfLimit(0.7));
    compare_afresh(&mut criterion, &mut ratios, bulk, |system| {
        (0..BULK / RECORDS_A_CALL).for_each(|_| system.append_many(0, records).expect(DISK));
        system.flush().expect(DISK);
    });
    let across = contest("E 600 logs, one record each, a commit", LOGS_A_COMMIT * COMMITS, Target::OfLimit(0.8));
    compare(&mut criterion, &mut ratios, across, LOGS_A_COMMIT as u32, |system| {
        (0..COMMITS).for_each(|_| system.append_across(0, &records[..LOGS_A_COMMIT]).expect(DISK));
    });
    criterion.final_summary();
    ratios.print();
}
