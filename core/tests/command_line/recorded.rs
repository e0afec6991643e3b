//! The real command under `strace`: what it asked of the kernel, replayed into the states that a power cut may leave.
//!
//! The disk of the fault explorer takes the recorded operations instead of the journal's own: what its model of a
//! journal forgets, such as an operation that bypasses the `Vfs`, shows here. `COUNTERFOIL_REPLAYS` sets how many
//! states are opened. Without `strace` the test is skipped, and says so.

mod replay;
mod trace;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use counterfoil_storage::vfs::FileIdentity;

use self::{
    replay::{Replay, Syncs},
    trace::{Call, parse},
};
use crate::sandbox::{Sandbox, count_from_env, eventually};

/// The operations that can change a disk, and what tells of acks.
const TRACED: &str = "trace=openat,open,creat,pwrite64,pwritev,pwritev2,write,writev,fdatasync,fsync,sync_file_range,\
ftruncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,linkat,symlink,symlinkat";

/// A record by its number: long enough that a few thousand fill several segments.
fn record(number: u64) -> String {
    format!("record {number} {}", "x".repeat(400 + (number as usize * 37) % 500))
}

/// Starts the command under `strace`, which writes to `trace`.
fn start(sandbox: &Sandbox, trace: &str, words: &str) -> Child {
    Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "67108864", "-e", "abbrev=none", "-e", TRACED, "-o", trace, "--"])
        .arg(env!("CARGO_BIN_EXE_counterfoil"))
        .args(words.split_whitespace())
        .current_dir(sandbox.path("."))
        .env_remove("COUNTERFOIL_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Appends records in small groups; kills the command with SIGKILL after them, or closes its input.
fn append(sandbox: &Sandbox, trace: &str, numbers: std::ops::Range<u64>, is_killed: bool) {
    let mut child = start(sandbox, trace, "append practice.store --ack");
    let mut stdin = child.stdin.take().unwrap();
    for number in numbers {
        writeln!(stdin, "{}", record(number)).unwrap();
        if number.is_multiple_of(23) {
            thread::sleep(Duration::from_millis(2));
        }
    }
    if is_killed {
        let path = sandbox.path(trace);
        // The first to be traced is the command's main thread.
        let first = eventually(|| fs::read_to_string(&path).ok()?.split_once(' ').map(|(pid, _)| pid.to_owned()));
        let killed = Command::new("kill").args(["-KILL", &first.expect("a trace")]).status().unwrap();
        assert!(killed.success());
    }
    drop(stdin);
    let status = eventually(|| child.try_wait().unwrap()).expect("the command ends");
    assert_eq!(status.success(), !is_killed, "{status}");
}

/// The command's calls in several lives: made, filled over several segments, killed, recovered, closed.
fn record_lives(sandbox: &Sandbox) -> Vec<Vec<Call>> {
    let take = |trace: &str| parse(&fs::read_to_string(sandbox.path(trace)).unwrap());
    start(sandbox, "init.trace", "init practice.store --node practice-1").wait().unwrap();
    let mut lives = vec![take("init.trace")];
    let mut first = 0;
    for (trace, count, is_killed) in
        [("one.trace", 3000, false), ("two.trace", 1900, true), ("three.trace", 300, true), ("four.trace", 200, false)]
    {
        append(sandbox, trace, first..first + count, is_killed);
        lives.push(take(trace));
        let printed = String::from_utf8(sandbox.cat("practice.store")).unwrap();
        first = printed.lines().count() as u64;
    }
    lives
}

/// What tells the store's identity file from a copy.
fn identity_of(path: &Path) -> FileIdentity {
    let metadata = fs::metadata(path).unwrap();
    let birth = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    FileIdentity { inode: metadata.ino(), birth_ns: birth.map_or(0, |since| since.as_nanos() as u64) }
}

fn has_strace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = traced.is_ok_and(|status| status.success());
    if !works {
        println!("SKIPPED: strace is missing or may not trace here; install it to replay what the kernel was asked");
    }
    works
}

#[test]
fn what_the_kernel_was_asked_leaves_all_acknowledged_records_whenever_the_power_goes() {
    if !has_strace() {
        return;
    }
    let sandbox = Sandbox::new();
    let lives = record_lives(&sandbox);
    let store = sandbox.path("practice.store");
    let root = fs::canonicalize(sandbox.path(".")).unwrap();
    let identity = identity_of(&store.join("identity"));

    let states = count_from_env("COUNTERFOIL_REPLAYS", 250);
    let mut replay = Replay::new(&root, identity, Syncs::Kept);
    let outcome = replay.play(&lives, states);
    assert_eq!(outcome, Ok(()));
    replay.expect_files(&store);
    println!("recorded truth: {}", replay.counts);
    assert!(replay.counts.acked > 3000, "{} records were acknowledged", replay.counts.acked);
    assert!(replay.counts.segments >= 3, "{} segments were begun", replay.counts.segments);

    // Were the flushes of data, or those of folders, left out, it would be seen.
    for without in [Syncs::WithoutData, Syncs::WithoutFolders] {
        let outcome = Replay::new(&root, identity, without).play(&lives, states.min(250));
        println!("{without:?}: {}", outcome.clone().expect_err("a loss is seen"));
    }
}
