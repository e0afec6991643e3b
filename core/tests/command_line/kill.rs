//! Processes killed with SIGKILL at random moments: what was acknowledged is there, in order, once.
//!
//! `COUNTERFOIL_KILLS` sets how often in each test, for longer exploration.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use counterfoil::{Store, Versions};

use crate::sandbox::{Running, Sandbox, count_from_env, eventually};

/// A pause of up to `bound_ms`, spread over the rounds.
fn pause(round: usize, bound_ms: u64) {
    let micros = (round as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (bound_ms * 1000);
    thread::sleep(Duration::from_micros(micros));
}

/// A record by its number, with its LF.
pub(crate) type Line = fn(u64) -> String;

pub(crate) fn line(number: u64) -> String {
    format!("record {number} {}\n", "x".repeat(number as usize % 97))
}

/// Long enough that some dozens fill a segment.
fn long_line(number: u64) -> String {
    format!("record {number} {}\n", "x".repeat(9_000 + (number as usize * 7919) % 30_000))
}

/// Feeds lines from `first` on, and counts the acks that come back.
pub(crate) struct Feed {
    is_ended: Arc<AtomicBool>,
    fed: thread::JoinHandle<()>,
    acked: Arc<AtomicU64>,
    heard: thread::JoinHandle<()>,
}

impl Feed {
    pub(crate) fn begin(append: &mut Running, line: Line, first: u64, pause: Duration) -> Self {
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

    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Stops feeding and hears the last ack; how many records are acknowledged.
    pub(crate) fn end(self) -> u64 {
        self.is_ended.store(true, Ordering::Relaxed);
        self.fed.join().unwrap();
        self.heard.join().unwrap();
        self.acked.load(Ordering::Relaxed)
    }
}

/// How many records a store holds of a space, each checked.
pub(crate) fn check(sandbox: &Sandbox, words: &str) -> u64 {
    check_lines(sandbox, words, line)
}

fn check_lines(sandbox: &Sandbox, words: &str, line: Line) -> u64 {
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
        let feed = Feed::begin(&mut append, line, length, Duration::from_millis(1));
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

/// Segments grow with a store: another one is begun after so many rounds, so that they stay small and roll over often.
const ROUNDS_PER_STORE: usize = 12;

/// What changes in a store's folder when a segment is made ready, begun, or left behind.
fn names_in(folder: &Path) -> (usize, u64) {
    let segments = fs::read_dir(folder).map_or(0, Iterator::count);
    (segments, fs::metadata(folder.join("extent")).map_or(0, |extent| extent.ino()))
}

/// How often was killed, by what the kill was aimed at.
#[derive(Debug, Default)]
struct Kills {
    roll_over: usize,
    opening: usize,
    recovery: usize,
    /// Segments that the stores had in the end.
    segments: usize,
}

impl Kills {
    fn all(&self) -> usize {
        self.roll_over + self.opening + self.recovery
    }
}

/// Opens the store to write, and kills the process at a random moment of it.
fn kill_while_opening(sandbox: &Sandbox, round: usize, opening: Duration) {
    let append = sandbox.start("append practice.store --ack");
    pause(round, (opening.as_millis() as u64).max(1));
    append.kill();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long opening takes, to aim at it")]
fn what_was_acknowledged_survives_kill_9_at_roll_over_while_opening_and_while_recovering() {
    let aim = count_from_env("COUNTERFOIL_KILLS", 12);
    let mut kills = Kills::default();
    let mut round = 0;
    while kills.all() < aim {
        let sandbox = Sandbox::with_practice();
        let store = sandbox.path("practice.store");
        // The other book: neither what was acknowledged nor what was once served may be missing.
        let mut length = 0;
        for _ in 0..ROUNDS_PER_STORE {
            round += 1;
            let starting = Instant::now();
            let mut append = sandbox.start("append practice.store --ack");
            let feed = Feed::begin(&mut append, long_line, length, Duration::from_micros(300));
            let began = eventually(|| (feed.acked() > length).then(|| names_in(&store)));
            // From the start to the first ack, so most of it is opening.
            let opening = starting.elapsed();
            let began = began.unwrap_or_else(|| panic!("nothing is acknowledged: {}", append.errors()));
            eventually(|| (names_in(&store) != began).then_some(())).expect("a segment rolls over");
            pause(round, 6);
            append.kill();
            kills.roll_over += 1;
            length = length.max(feed.end());

            // After each kill opening is recovery; a recovery that was killed is recovered from.
            if round.is_multiple_of(2) {
                sandbox.run("append practice.store").expect_status(0);
            } else {
                for again in 0..3 {
                    kill_while_opening(&sandbox, round * 3 + again, opening);
                    kills.recovery += 1;
                }
                sandbox.run("append practice.store").expect_status(0);
            }
            let found = check_lines(&sandbox, "practice.store", long_line);
            assert!(found >= length, "round {round}: {length} were promised, {found} are there; {kills:?}");
            length = found;

            // Closed well: opening has nothing to recover.
            kill_while_opening(&sandbox, round, opening);
            kills.opening += 1;
            if kills.all() >= aim {
                break;
            }
        }
        sandbox.run("append practice.store").expect_status(0);
        let found = check_lines(&sandbox, "practice.store", long_line);
        assert!(found >= length, "{length} were promised, {found} are there; {kills:?}");
        sandbox.run("verify practice.store").expect_status(0);
        let names = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path());
        kills.segments += names.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).count();
    }
    println!(
        "{} kills: {} at roll-over, {} while recovering, {} while opening; {} segments",
        kills.all(),
        kills.roll_over,
        kills.recovery,
        kills.opening,
        kills.segments
    );
}

/// Of a store's only log: where what is kept begins, and where it ends.
fn kept(sandbox: &Sandbox) -> (u64, u64) {
    let status = sandbox.status("practice.store");
    let number = |name: &str| status["logs"][0][name].as_u64().unwrap();
    (number("first_seq"), number("next_seq"))
}

#[test]
fn what_is_kept_survives_kill_9_while_records_are_removed_and_their_space_is_given_back() {
    let kills = count_from_env("COUNTERFOIL_KILLS", 8);
    let trim = "trim practice.store --remove-beyond 1000000 --mirrors 0";
    let sandbox = Sandbox::with_practice();
    let (mut floor, mut length, mut killed) = (0, 0, 0);
    while killed < kills {
        let mut append = sandbox.start("append practice.store --ack");
        let feed = Feed::begin(&mut append, long_line, length, Duration::from_micros(300));
        eventually(|| (feed.acked() > length + 100).then_some(())).expect("records are acknowledged");
        append.kill();
        let acked = feed.end();
        for _ in 0..3 {
            let trim = sandbox.start(trim);
            pause(killed, 50);
            trim.kill();
            killed += 1;
        }
        // Opening for writing recovers.
        sandbox.run("append practice.store").expect_status(0);
        let (first, next) = kept(&sandbox);
        assert!(
            first >= floor && next >= acked,
            "{killed}: {first}..{next} where {acked} were acknowledged, from {floor}"
        );
        (floor, length) = (first, next);
        let printed = String::from_utf8(sandbox.cat(&format!("practice.store --from {floor}"))).unwrap();
        let mut number = floor;
        for record in printed.lines() {
            assert!(long_line(number).trim_end_matches('\n') == record, "{record:?} at {number}");
            number += 1;
        }
        assert_eq!(number, length, "after {killed} kills");
    }
    sandbox.run(trim).expect_status(0);
    sandbox.run("verify practice.store").expect_status(0);
    let (first, _) = kept(&sandbox);
    assert!(first > 0 && !sandbox.path("practice.store/0000000000000000.seg").exists(), "kept from {first}");
    println!("{killed} kills while records were removed, {length} records, kept from {first}");
}

/// How often the hub is killed in the life of one writer, which is killed then, too. Not more, since
/// a writer that meets a hub that does not last waits longer and longer before it tries again.
const KILLS_PER_WRITER: usize = 4;

#[test]
fn what_was_acknowledged_as_mirrored_survives_kill_9_of_the_hub() {
    let kills = count_from_env("COUNTERFOIL_KILLS", 6);
    let sandbox = Sandbox::with_practice_and_hub();
    let (mut hub, address) = sandbox.serve(&Sandbox::own_address(), "");
    let mirror = format!("--mirror-to hub@{address} --tls tls-practice-1 --timeout 600");
    let mut length = 0;
    for writer in 0..kills.div_ceil(KILLS_PER_WRITER) {
        let mut append = sandbox.start(&format!("append practice.store --ack --durability mirrored {mirror}"));
        let feed = Feed::begin(&mut append, line, length, Duration::from_millis(2));
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
    let once = format!("mirror practice.store --to hub@{address} --tls tls-practice-1 --once --timeout 600");
    sandbox.run(&once).expect_status(0);
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_eq!(check(&sandbox, "hub.store --space practice-1"), length);
    assert_eq!(sandbox.head("hub.store", "practice-1"), sandbox.head("practice.store", "practice-1"));
    println!("{kills} kills of the hub, {length} records");
}

/// A value for one of a few keys.
fn keyed_line(number: u64) -> String {
    format!("{{\"id\":\"{}\",\"number\":{number},\"text\":\"{}\"}}\n", number % 20, "x".repeat(number as usize % 97))
}

/// How many records of the log that a node writes in the space `s` a store holds, each checked.
fn check_log(sandbox: &Sandbox, store: &str, node: &str, line: Line) -> u64 {
    let status = sandbox.status(store);
    let logs = status["logs"].as_array().unwrap().iter().filter(|log| log["space"] == "s" && log["node"] == node);
    let ids: Vec<&str> = logs.map(|log| log["id"].as_str().unwrap()).collect();
    assert!(ids.len() <= 1, "a process that was killed goes on in its log: {status}");
    ids.first().map_or(0, |id| check_lines(sandbox, &format!("{store} --space s --log {id}"), line))
}

#[test]
fn what_was_acknowledged_survives_kill_9_of_any_process_of_a_sync_and_gets_everywhere() {
    let (kills, records) = kill_processes_of_a_sync(&Sandbox::with_members_and_hub(), line, "");
    println!("{kills} kills in a sync, {records} records");
}

#[test]
fn collections_and_their_indexes_are_equal_after_kill_9_of_any_process_of_a_sync() {
    let sandbox = Sandbox::with_members_and_hub();
    let (kills, records) = kill_processes_of_a_sync(&sandbox, keyed_line, "--collection c --key-pointer /id");
    let ask =
        |words: &str, store: &str| sandbox.run(&words.replace("STORE", &format!("{store} --space s --collection c")));
    let conflicts = ask("conflicts STORE", "hub.store").stdout;
    let held = held_by_index(&sandbox, "hub.store");
    for store in ["a.store", "b.store", "hub.store"] {
        assert_eq!(held_by_index(&sandbox, store), held, "{store}");
        assert_eq!(ask("conflicts STORE", store).stdout, conflicts, "{store}");
        // Without the index, which only a process that writes has: made anew from the logs.
        for (key, versions) in &held {
            let got = ask(&format!("get STORE {key} --json"), store);
            let shown = got.text().lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let shown = shown.map(|version| format!("{}:{}", version["log"].as_str().unwrap(), version["seq"]));
            assert_eq!(shown.collect::<Vec<_>>(), *versions, "{key} of {store}");
        }
    }
    println!("{kills} kills in a sync of a collection, {records} writes, {} keys", held.len());
}

/// The versions that each key holds by the index on the disk, which went through all the kills.
fn held_by_index(sandbox: &Sandbox, store: &str) -> BTreeMap<String, Vec<String>> {
    let store = Store::open(sandbox.path(store)).unwrap();
    let values = store.space("s").unwrap().collection_of_bytes::<String>("c").unwrap();
    let entries = values.range(..).unwrap().map(Result::unwrap);
    let ids = |versions: &Versions<_>| versions.all().iter().map(|version| version.id().to_string()).collect();
    let held = entries.map(|(key, versions)| (key, ids(&versions))).collect();
    store.close(Duration::ZERO).unwrap();
    held
}

/// Kills writers, syncs and the hub in turn; how often, and how many records there were in the end, equal on all three.
fn kill_processes_of_a_sync(sandbox: &Sandbox, line: Line, how: &str) -> (usize, u64) {
    let kills = count_from_env("COUNTERFOIL_KILLS", 6);
    let (mut hub, address) = sandbox.serve(&Sandbox::own_address(), "--policy policy.toml");
    let sync = |name: &str| format!("sync {name}.store --with hub@{address} --tls tls-{name} --space s");
    let members = ["a", "b"];
    // The other book.
    let mut acked = [0, 0];
    for round in 0..kills {
        for (name, acked) in members.into_iter().zip(&mut acked) {
            let store = format!("{name}.store");
            let mut append = sandbox.start(&format!("append {store} --space s --ack {how}"));
            let feed = Feed::begin(&mut append, line, *acked, Duration::from_millis(1));
            pause(round, 80);
            append.kill();
            let told = feed.end();
            // Opening for writing recovers.
            sandbox.run(&format!("append {store} --space s")).expect_status(0);
            *acked = check_log(sandbox, &store, name, line);
            assert!(*acked >= told, "round {round}: {told} were acknowledged, {acked} are there");
        }
        let mut syncs = members.map(|name| Some(sandbox.start(&sync(name))));
        pause(round, 150);
        match round % 3 {
            2 => {
                hub.kill();
                hub = sandbox.serve(&address, "--policy policy.toml").0;
            }
            member => drop(syncs[member].take().map(Running::kill)),
        }
        pause(round + 1, 150);
        syncs.into_iter().flatten().for_each(|sync| drop(sync.kill()));
    }
    for name in ["a", "b", "a"] {
        sandbox.run(&format!("{} --once --timeout 600", sync(name))).expect_status(0);
    }
    hub.signal("TERM");
    hub.finish().expect_status(0);
    for store in ["a.store", "b.store", "hub.store"] {
        let held = members.map(|name| check_log(sandbox, store, name, line));
        assert_eq!(held, acked, "{store}");
        assert_eq!(sandbox.heads(store, "s"), sandbox.heads("hub.store", "s"));
        sandbox.run(&format!("verify {store}")).expect_status(0);
    }
    (kills, acked[0] + acked[1])
}
