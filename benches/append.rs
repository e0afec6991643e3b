//! Appending: A durable each, B 32 writers, C not waiting, D a thousand a call, E 600 logs a commit.

use std::{path::Path, thread, time::Duration};

use counterfoil_benches::{
    Contest, ExtendingFile, FilledFile, GroupCommit, Measure, Payload, RECORD_BYTES, Ratios, Segments, Target, folder,
    stopwatch, store,
};
use criterion::Criterion;

const MIB: u64 = 1 << 20;
const WRITERS: usize = 32;
const DISK: &str = "the disk of the bench works";

/// A filled file in a folder of its own.
fn filled(folder: &Path, len: u64) -> FilledFile {
    FilledFile::create(&folder.join("limit"), len).expect(DISK)
}

fn durable_each(criterion: &mut Criterion, ratios: &mut Ratios) {
    const RECORDS: usize = 300;
    let contest = Contest {
        name: "A one writer, durable each",
        operations: RECORDS as u64,
        measure: Measure::Rate,
        target: Target::OfLimit(0.8),
    };
    ratios.compare(criterion, contest, || {
        let payload = Payload::new(RECORDS);
        let (folder, _journal, writers) = store(1);
        let mut limit = filled(folder.path(), 4 * MIB);
        let records = payload.records().to_vec();
        let ours = move || {
            let _kept = &folder;
            stopwatch(|| {
                for record in &records {
                    writers[0].append(record).and_then(|receipt| receipt.wait()).expect(DISK);
                }
            })
        };
        let limit = move || {
            limit.touch().expect(DISK);
            stopwatch(|| {
                for record in payload.records() {
                    limit.write(record).expect(DISK);
                    limit.sync().expect(DISK);
                }
            })
        };
        (ours, limit)
    });
}

/// The time that all writers together take.
fn race(append: impl Fn(usize, &[u8]) + Sync, payload: &Payload) -> Duration {
    stopwatch(|| {
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let append = &append;
                scope.spawn(move || payload.records().iter().for_each(|record| append(writer, record)));
            }
        });
    })
}

fn many_writers(criterion: &mut Criterion, ratios: &mut Ratios) {
    const RECORDS: usize = 100;
    let contest = Contest {
        name: "B 32 writers, durable each",
        operations: (WRITERS * RECORDS) as u64,
        measure: Measure::Rate,
        target: Target::None,
    };
    ratios.compare(criterion, contest, || {
        let (folder, _journal, writers) = store(1);
        let group = GroupCommit::new(Segments::create(&folder.path().join("limit")).expect(DISK));
        let ours = move || {
            let _kept = &folder;
            race(|_, record| writers[0].append(record).and_then(|r| r.wait()).expect(DISK), &Payload::new(RECORDS))
        };
        let limit = move || race(|_, record| group.append(record).expect(DISK), &Payload::new(RECORDS));
        (ours, limit)
    });
}

fn not_waiting(criterion: &mut Criterion, ratios: &mut Ratios) {
    const RECORDS: usize = 200_000;
    let contest = Contest {
        name: "C one record a call, not waiting",
        operations: RECORDS as u64,
        measure: Measure::Rate,
        target: Target::PerSecond(1e6),
    };
    ratios.compare(criterion, contest, || {
        let payload = Payload::new(1000);
        let ours = move || {
            let (_folder, journal, writers) = store(1);
            let time = stopwatch(|| {
                for _ in 0..RECORDS / 1000 {
                    for record in payload.records() {
                        writers[0].append(record).expect(DISK);
                    }
                }
            });
            journal.commit().expect(DISK);
            time
        };
        let payload = Payload::new(1000);
        let folder = folder().expect(DISK);
        let mut file = filled(folder.path(), (RECORDS * RECORD_BYTES) as u64);
        let limit = move || {
            let _kept = &folder;
            file.touch().expect(DISK);
            let time = stopwatch(|| {
                for _ in 0..RECORDS / 1000 {
                    payload.records().iter().for_each(|record| file.write(record).expect(DISK));
                }
            });
            file.sync().expect(DISK);
            time
        };
        (ours, limit)
    });
}

/// Where the limit of the bulk load writes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Filled,
    Extending,
}

fn bulk(criterion: &mut Criterion, ratios: &mut Ratios, space: Space) {
    const RECORDS: usize = 400_000;
    let contest = Contest {
        name: match space {
            Space::Filled => "D 1000 a call, one flush (limit: filled)",
            Space::Extending => "D 1000 a call, one flush (limit: extending)",
        },
        operations: RECORDS as u64,
        measure: Measure::Rate,
        target: Target::OfLimit(0.4),
    };
    ratios.compare(criterion, contest, || {
        let payload = Payload::new(1000);
        let ours = move || {
            let (_folder, journal, writers) = store(1);
            stopwatch(|| {
                for _ in 0..RECORDS / 1000 {
                    writers[0].append_all(payload.records()).expect(DISK);
                }
                journal.commit().expect(DISK);
            })
        };
        let payload = Payload::new(1000);
        let folder = folder().expect(DISK);
        let mut file = (space == Space::Filled).then(|| filled(folder.path(), (RECORDS * RECORD_BYTES) as u64));
        let path = folder.path().join("extending");
        let limit = move || {
            let _kept = &folder;
            if let Some(file) = &mut file {
                file.touch().expect(DISK);
                return stopwatch(|| {
                    (0..RECORDS / 1000).for_each(|_| file.write(payload.bytes()).expect(DISK));
                    file.sync().expect(DISK);
                });
            }
            let mut file = ExtendingFile::create(&path).expect(DISK);
            let time = stopwatch(|| {
                (0..RECORDS / 1000).for_each(|_| file.write(payload.bytes()).expect(DISK));
                file.sync().expect(DISK);
            });
            std::fs::remove_file(&path).expect(DISK);
            time
        };
        (ours, limit)
    });
}

fn many_logs(criterion: &mut Criterion, ratios: &mut Ratios) {
    const LOGS: usize = 600;
    const COMMITS: usize = 50;
    let contest = Contest {
        name: "E 600 logs, one record each, a commit",
        operations: (LOGS * COMMITS) as u64,
        measure: Measure::Rate,
        target: Target::OfLimit(0.4),
    };
    ratios.compare(criterion, contest, || {
        let payload = Payload::new(LOGS);
        let (folder, journal, writers) = store(LOGS as u64);
        let mut file = filled(folder.path(), 4 * MIB);
        let records = payload.records().to_vec();
        let ours = move || {
            let _kept = &folder;
            stopwatch(|| {
                for _ in 0..COMMITS {
                    for (writer, record) in writers.iter().zip(&records) {
                        writer.append(record).expect(DISK);
                    }
                    journal.commit().expect(DISK);
                }
            })
        };
        let limit = move || {
            let mut buffer = Vec::new();
            file.touch().expect(DISK);
            stopwatch(|| {
                for _ in 0..COMMITS {
                    buffer.clear();
                    for record in payload.records() {
                        buffer.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
                        buffer.extend_from_slice(record);
                    }
                    file.write(&buffer).expect(DISK);
                    file.sync().expect(DISK);
                }
            })
        };
        (ours, limit)
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut ratios = Ratios::default();
    durable_each(&mut criterion, &mut ratios);
    many_writers(&mut criterion, &mut ratios);
    not_waiting(&mut criterion, &mut ratios);
    bulk(&mut criterion, &mut ratios, Space::Filled);
    bulk(&mut criterion, &mut ratios, Space::Extending);
    many_logs(&mut criterion, &mut ratios);
    criterion.final_summary();
    ratios.print();
}
