//! Reading: F a scan with checksums, G one record at random. Both from the page cache, not from memory.

use std::time::Duration;

use counterfoil_benches::{
    Contest, Measure, Payload, RECORD_BYTES, Ratios, ScannedFile, Target, checked_random_read, stopwatch, store,
};
use counterfoil_storage::{Journal, LogId, Seq};
use criterion::Criterion;
use tempfile::TempDir;

const RECORDS: u64 = 800_000;
const READS: u64 = 20_000;
const DISK: &str = "the disk of the bench works";

/// A store of about 200 MB, in which the ring in memory holds a small part.
fn full_store() -> (TempDir, Journal, LogId) {
    let (folder, journal, writers) = store(1);
    let payload = Payload::new(1000);
    let mut log = None;
    for _ in 0..RECORDS / 1000 {
        log = Some(writers[0].append_all(payload.records()).expect(DISK).log());
    }
    journal.commit().expect(DISK);
    (folder, journal, log.expect("records were appended"))
}

fn scanned_file(folder: &TempDir) -> ScannedFile {
    let payload = Payload::new(1000);
    let len = RECORDS * RECORD_BYTES as u64;
    ScannedFile::create(&folder.path().join("limit"), payload.bytes(), len).expect(DISK)
}

fn scan(criterion: &mut Criterion, ratios: &mut Ratios) {
    let contest = Contest {
        name: "F sequential scan with checksum",
        operations: RECORDS,
        measure: Measure::Rate,
        target: Target::OfLimit(0.4),
    };
    ratios.compare(criterion, contest, || {
        let (folder, journal, log) = full_store();
        let file = scanned_file(&folder);
        let ours = move || {
            let _kept = &folder;
            stopwatch(|| {
                let batches = journal.read(log, Seq::ZERO).map(|batch| batch.expect(DISK));
                let bytes: usize = batches.flat_map(|b| b.records()).map(|r| r.expect("sound").body.len()).sum();
                assert_eq!(bytes as u64, RECORDS * RECORD_BYTES as u64);
            })
        };
        (ours, move || stopwatch(|| file.scan().expect(DISK)))
    });
}

/// Numbers below `RECORDS` in an order that no cache foresees.
fn places() -> impl Iterator<Item = u64> {
    (0..READS).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).map(|number| number % RECORDS)
}

fn random(criterion: &mut Criterion, ratios: &mut Ratios) {
    let contest = Contest {
        name: "G random read of one record",
        operations: READS,
        measure: Measure::Time,
        target: Target::AtMost(Duration::from_micros(5)),
    };
    ratios.compare(criterion, contest, || {
        let (folder, journal, log) = full_store();
        let file = scanned_file(&folder);
        assert_eq!(file.len_bytes(), RECORDS * RECORD_BYTES as u64);
        let ours = move || {
            let _kept = &folder;
            stopwatch(|| {
                for seq in places() {
                    let batch = journal.read_batch(log, Seq(seq)).expect(DISK).expect("a record");
                    let record = batch.records().nth((seq - batch.first_seq().0) as usize).expect("in the batch");
                    assert_eq!(record.expect("sound").seq, Seq(seq));
                }
            })
        };
        let limit = move || {
            stopwatch(|| {
                for place in places() {
                    std::hint::black_box(checked_random_read(&file, place * RECORD_BYTES as u64).expect(DISK));
                }
            })
        };
        (ours, limit)
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut ratios = Ratios::default();
    scan(&mut criterion, &mut ratios);
    random(&mut criterion, &mut ratios);
    criterion.final_summary();
    ratios.print();
}
