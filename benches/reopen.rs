//! H: opening a store of 512 MB, after a clean close and after a kill. The limit opens a file as long as
//! the longest segment and reads it through, as recovery does.
//!
//! `COUNTERFOIL_BENCH_REOPEN_MB=4096` measures another size, and prints the greatest memory of the process.

use std::{
    path::Path,
    process::{Command, abort},
    time::Duration,
};

use counterfoil_benches::{Contest, Measure, Payload, RECORD_BYTES, Ratios, ScannedFile, Target, stopwatch, store};
use counterfoil_storage::{Journal, Options};
use criterion::Criterion;
use tempfile::TempDir;

const DISK: &str = "the disk of the bench works";
/// Tells this program to write to the store in the folder it names, and to die.
const KILLED: &str = "COUNTERFOIL_BENCH_KILLED";

fn megabytes() -> u64 {
    std::env::var("COUNTERFOIL_BENCH_REOPEN_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(512)
}

/// A closed store of so many megabytes.
fn closed_store() -> TempDir {
    let (folder, journal, writers) = store(1);
    let payload = Payload::new(1000);
    for _ in 0..megabytes() * 1_000_000 / (1000 * RECORD_BYTES as u64) {
        writers[0].append_all(payload.records()).expect(DISK);
    }
    journal.close().expect(DISK);
    folder
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
        name: if is_killed { "H reopen 512 MB after a kill" } else { "H reopen 512 MB after a close" },
        operations: 1,
        measure: Measure::Time,
        target: Target::AtMost(if is_killed { Duration::from_secs(1) } else { Duration::from_millis(100) }),
    };
    ratios.compare(criterion, contest, || {
        let folder = closed_store();
        let ours = move || {
            if is_killed {
                let program = std::env::current_exe().expect("this program");
                let died = Command::new(program).env(KILLED, folder.path()).status().expect("a child");
                assert!(!died.success(), "the child dies of itself");
            }
            let mut journal = None;
            let time = stopwatch(|| journal = Some(open(&folder)));
            journal.expect("open").close().expect(DISK);
            time
        };
        let folder = counterfoil_benches::folder().expect(DISK);
        let payload = Payload::new(1000);
        let file = ScannedFile::create(&folder.path().join("limit"), payload.bytes(), 64 << 20).expect(DISK);
        let limit = move || {
            let _kept = &folder;
            stopwatch(|| file.scan().expect(DISK))
        };
        (ours, limit)
    });
}

fn main() {
    if let Some(folder) = std::env::var_os(KILLED) {
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
        println!("{line}, of which what the setup took to fill the store");
    }
}
