//! H: opening a store (of 512 MB unless told otherwise), after a clean close and after a kill. The limit opens a file as long as
//! the longest segment and reads it through, as recovery does.
//!
//! `COUNTERFOIL_BENCH_REOPEN_MB=4096` measures another size, and prints the greatest memory of the process.

use std::{
    path::Path,
    process::{Command, abort},
    time::Duration,
};

use counterfoil_benches::{
    Contest, Frames, Measure, Payload, RECORD_BYTES, Ratios, Segments, Target, folder, stopwatch, store_in,
};
use counterfoil_storage::{Journal, Options};
use criterion::Criterion;
use tempfile::TempDir;

const DISK: &str = "the disk of the bench works";
/// Tells this program to fill a store in the folder it names.
const FILL: &str = "COUNTERFOIL_BENCH_FILL";
/// Tells this program to write to the store in the folder it names, and to die.
const DIE: &str = "COUNTERFOIL_BENCH_DIE";

fn megabytes() -> u64 {
    std::env::var("COUNTERFOIL_BENCH_REOPEN_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(512)
}

/// Has another process of this program do something to the store in a folder; whether it ended well.
///
/// So the memory of this process tells what opening takes.
fn have_done(order: &str, folder: &TempDir) -> bool {
    let program = std::env::current_exe().expect("this program");
    Command::new(program).env(order, folder.path()).status().expect("a child").success()
}

/// What the filling process does: it leaves a closed store of so many megabytes.
fn fill(folder: &Path) {
    let (journal, writers) = store_in(folder, 1);
    let payload = Payload::new(1000);
    for _ in 0..megabytes() * 1_000_000 / (1000 * RECORD_BYTES as u64) {
        writers[0].append_all(payload.records()).expect(DISK);
    }
    journal.close().expect(DISK);
}

fn open(folder: &TempDir) -> Journal {
    Journal::open(&folder.path().join("store"), Options::default()).expect("the store opens").0
}

/// What the killed process does: it appends, waits for what it appended, and dies at once.
fn write_and_die(folder: &Path) -> ! {
    let (journal, _) = Journal::open(&folder.join("store"), Options::default()).expect("the store opens");
    let log = journal.logs(None)[0].id;
    let writer = journal.writer(log).expect("an own log");
    let payload = Payload::new(1000);
    for _ in 0..8 {
        writer.append_all(payload.records()).and_then(|receipt| receipt.wait()).expect(DISK);
    }
    abort()
}

fn reopen(criterion: &mut Criterion, ratios: &mut Ratios, is_killed: bool) {
    let contest = Contest {
        name: if is_killed { "H reopen after a kill" } else { "H reopen after a close" },
        operations: 1,
        measure: Measure::Time,
        target: Target::AtMost(if is_killed { Duration::from_secs(1) } else { Duration::from_millis(100) }),
    };
    ratios.compare(criterion, contest, || {
        let [folder, limit_folder] = [folder().expect(DISK), folder().expect(DISK)];
        assert!(have_done(FILL, &folder), "the store is filled");
        let ours = move || {
            if is_killed {
                assert!(!have_done(DIE, &folder), "the child dies of itself");
            }
            let mut journal = None;
            let time = stopwatch(|| journal = Some(open(&folder)));
            journal.expect("open").close().expect(DISK);
            time
        };
        let payload = Payload::new(1000);
        let mut segments = Segments::create(&limit_folder.path().join("limit")).expect(DISK);
        let mut frames = Frames::default();
        for _ in 0..(64 << 20) / (1000 * RECORD_BYTES) {
            for record in payload.records() {
                frames.push(record);
            }
            segments.write(&mut frames).expect(DISK);
        }
        segments.sync().expect(DISK);
        let file = segments.snapshot();
        let limit = move || {
            let _kept = &limit_folder;
            stopwatch(|| file.scan().expect(DISK))
        };
        (ours, limit)
    });
}

fn main() {
    if let Some(folder) = std::env::var_os(FILL) {
        return fill(Path::new(&folder));
    }
    if let Some(folder) = std::env::var_os(DIE) {
        write_and_die(Path::new(&folder));
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut ratios = Ratios::default();
    reopen(&mut criterion, &mut ratios, false);
    reopen(&mut criterion, &mut ratios, true);
    criterion.final_summary();
    ratios.print();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("VmHWM")) {
        println!("{line} (the greatest memory of this process)");
    }
}
