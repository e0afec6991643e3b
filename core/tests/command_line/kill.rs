//! Processes killed with SIGKILL at random moments: what was acknowledged is there, in order, once.
//!
//! `COUNTERFOIL_KILLS` sets how often, for longer exploration.

use std::{
    io::{BufRead as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::sandbox::{Running, Sandbox, count_from_env, eventually};

/// A pause of up to `bound_ms`, spread over the rounds.
fn pause(round: usize, bound_ms: u64) {
    let micros = (round as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (bound_ms * 1000);
    thread::sleep(Duration::from_micros(micros));
}

fn line(number: u64) -> String {
    format!("record {number} {}\n", "x".repeat(number as usize % 97))
}

/// Feeds lines from `first` on, and counts the acks that come back.
struct Feed {
    is_ended: Arc<AtomicBool>,
    fed: thread::JoinHandle<()>,
    acked: Arc<AtomicU64>,
    heard: thread::JoinHandle<()>,
}

impl Feed {
    fn begin(append: &mut Running, first: u64, pause: Duration) -> Self {
        let is_ended = Arc::new(AtomicBool::new(false));
        let mut stdin = append.stdin.take().unwrap();
        let feeding = Arc::clone(&is_ended);
        let fed = thread::spawn(move || {
            let mut number = first;
            while !feeding.load(Ordering::Relaxed) && stdin.write_all(line(number).as_bytes()).is_ok() {
                number += 1;
                if number.is_multiple_of(8) {
                    thread::sleep(pause);
                }
            }
        });
        let acked = Arc::new(AtomicU64::new(first));
        let counting = Arc::clone(&acked);
        let stdout = append.take_stdout();
        let heard = thread::spawn(move || {
            for ack in stdout.lines().map_while(Result::ok) {
                let next = counting.load(Ordering::Relaxed);
                // A killed process may leave half a line.
                if ack != format!("ack {next}") {
                    assert!(format!("ack {next}").starts_with(&ack), "{ack:?} where {next} was due");
                    return;
                }
                counting.store(next + 1, Ordering::Relaxed);
            }
        });
        Self { is_ended, fed, acked, heard }
    }

    fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Stops feeding and hears the last ack; how many records are acknowledged.
    fn end(self) -> u64 {
        self.is_ended.store(true, Ordering::Relaxed);
        self.fed.join().unwrap();
        self.heard.join().unwrap();
        self.acked.load(Ordering::Relaxed)
    }
}

/// How many records a store holds of a space, each checked.
fn check(sandbox: &Sandbox, words: &str) -> u64 {
    let printed = String::from_utf8(sandbox.cat(words)).unwrap();
    let mut count = 0;
    for record in printed.lines() {
        assert!(line(count).trim_end_matches('\n') == record, "{record:?} at {count} of {words}");
        count += 1;
    }
    count
}

#[test]
fn what_was_acknowledged_survives_kill_9_of_the_writer() {
    let kills = count_from_env("COUNTERFOIL_KILLS", 6);
    let sandbox = Sandbox::with_practice();
    let mut length = 0;
    for round in 0..kills {
        let mut append = sandbox.start("append practice.store --ack");
        let feed = Feed::begin(&mut append, length, Duration::from_millis(1));
        pause(round, 150);
        append.kill();
        let acked = feed.end();
        // Opening for writing recovers.
        sandbox.run("append practice.store").expect_status(0);
        length = check(&sandbox, "practice.store");
        assert!(length >= acked, "round {round}: {acked} were acknowledged, {length} are there");
    }
    sandbox.run("verify practice.store").expect_status(0);
    println!("{kills} kills of the writer, {length} records");
}

/// How often the hub is killed in the life of one writer, which is killed then, too. Not more, since
/// a writer that meets a hub that does not last waits longer and longer before it tries again.
const KILLS_PER_WRITER: usize = 4;

#[test]
fn what_was_acknowledged_as_mirrored_survives_kill_9_of_the_hub() {
    let kills = count_from_env("COUNTERFOIL_KILLS", 6);
    let sandbox = Sandbox::with_practice_and_hub();
    let (mut hub, address) = sandbox.serve("127.0.0.1:0", "");
    let mirror = format!("--mirror-to hub@{address} --tls tls-practice-1 --timeout 60");
    let mut length = 0;
    for writer in 0..kills.div_ceil(KILLS_PER_WRITER) {
        let mut append = sandbox.start(&format!("append practice.store --ack --durability mirrored {mirror}"));
        let feed = Feed::begin(&mut append, length, Duration::from_millis(2));
        for round in (writer * KILLS_PER_WRITER..kills).take(KILLS_PER_WRITER) {
            let acked_before = feed.acked();
            eventually(|| (feed.acked() > acked_before).then_some(())).expect("records are mirrored");
            pause(round, 50);
            hub.kill();
            let acked = feed.acked();
            // Opening for writing recovers.
            sandbox.run("append hub.store").expect_status(0);
            let at_hub = check(&sandbox, "hub.store --space practice-1");
            assert!(at_hub >= acked, "round {round}: {acked} were acknowledged, {at_hub} are on the hub's disk");
            hub = sandbox.serve(&address, "").0;
        }
        append.kill();
        let acked = feed.end();
        sandbox.run("append practice.store").expect_status(0);
        length = check(&sandbox, "practice.store");
        assert!(length >= acked, "writer {writer}: {acked} were acknowledged, {length} are there");
    }
    let once = format!("mirror practice.store --to hub@{address} --tls tls-practice-1 --once");
    sandbox.run(&once).expect_status(0);
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_eq!(check(&sandbox, "hub.store --space practice-1"), length);
    assert_eq!(sandbox.head("hub.store", "practice-1"), sandbox.head("practice.store", "practice-1"));
    println!("{kills} kills of the hub, {length} records");
}
