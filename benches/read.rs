//! Reading: F a scan with checksums, G one record at random. Both from the page cache, not from memory.
//!
//! The arena measures these and more beside other systems; this is for watching one change with criterion.

use std::time::Duration;

use counterfoil_benches::{
    Contender, Contest, Counterfoil, Limit, Measure, Payload, RECORD_BYTES, RECORDS_A_CALL, Ratios, Reader, Target,
    folder, stopwatch,
};
use criterion::Criterion;

const RECORDS: u64 = 800_000;
const READS: u64 = 20_000;
const DISK: &str = "the disk of the bench works";

/// Turns at a store of about 200 MB, in which the ring in memory holds a small part.
fn turns(contender: &dyn Contender, work: impl Fn(&mut dyn Reader)) -> impl FnMut() -> Duration {
    let folder = folder().expect(DISK);
    let system = contender.create(folder.path(), 1).expect(DISK);
    let payload = Payload::new(RECORDS_A_CALL);
    for _ in 0..RECORDS / RECORDS_A_CALL as u64 {
        system.append_many(0, payload.records()).expect(DISK);
    }
    system.flush().expect(DISK);
    move || {
        let _kept = &folder;
        let mut reader = system.reader(0).expect(DISK);
        stopwatch(|| work(&mut *reader))
    }
}

fn compare(criterion: &mut Criterion, ratios: &mut Ratios, contest: Contest, work: impl Fn(&mut dyn Reader) + Copy) {
    ratios.compare(criterion, contest, || (turns(&Counterfoil, work), turns(&Limit, work)));
}

/// Numbers below `RECORDS` in an order that no cache foresees.
fn places() -> impl Iterator<Item = u64> {
    (0..READS).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).map(|number| number % RECORDS)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut ratios = Ratios::default();
    let scan = Contest {
        name: "F sequential scan with checksum",
        operations: RECORDS,
        measure: Measure::Rate,
        target: Target::OfLimit(0.7),
    };
    compare(&mut criterion, &mut ratios, scan, |reader| assert_eq!(reader.scan().expect(DISK), RECORDS));
    let random = Contest {
        name: "G random read of one record",
        operations: READS,
        measure: Measure::Time,
        target: Target::AtMost(Duration::from_nanos(2500)),
    };
    compare(&mut criterion, &mut ratios, random, |reader| {
        places().for_each(|place| assert_eq!(reader.read(place).expect(DISK), RECORD_BYTES));
    });
    criterion.final_summary();
    ratios.print();
}
