//! Retention as an application sees it.
//!
//! `COUNTERFOIL_TRIMS=n` appends and trims for `n` rounds.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use counterfoil::{
    Builder, Collection, Durability, Error, ErrorKind, Held, LinkEvent, NodeName, ReadError, Retention, Seq, Store,
    WallClock,
    vfs::{Memory, OpenMode, Vfs as _},
};

const LONG: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DIR: &str = "practice.store";

/// A clock that stands until it is set.
#[derive(Debug)]
struct Clock(AtomicU64);

impl Clock {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_800_000_000_000)))
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl WallClock for Clock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A store without threads of its own, in small segments and batches.
fn builder(vfs: &Memory, clock: &Arc<Clock>) -> Builder {
    let builder = Store::builder().node("practice-12").vfs(Arc::new(vfs.clone())).clock(Arc::<Clock>::clone(clock));
    builder.background(false).ring_bytes(0).batch_bytes(1 << 10).segment_bytes(16 << 10, 32 << 10)
}

fn hub() -> Store {
    Store::builder().node("hub").in_memory().unwrap()
}

fn old() -> Retention {
    Retention::keep_all().remove_older_than(30 * DAY)
}

/// Appends records that tell their number, each committed by itself.
fn append(store: &Store, space: &str, numbers: std::ops::Range<u64>) {
    let space = store.space(space).unwrap();
    for number in numbers {
        space.append(number.to_le_bytes().repeat(20)).unwrap();
        store.commit().unwrap();
    }
}

/// The numbers of a space's records, and how many ranges are told to be kept no more.
fn read(store: &Store, space: &str) -> (Vec<u64>, usize) {
    let (mut numbers, mut trimmed) = (Vec::new(), 0);
    for record in store.space(space).unwrap().read(..).unwrap() {
        match record {
            Ok(record) => numbers.push(u64::from_le_bytes(*record.body().first_chunk().unwrap())),
            Err(error) if error.kind() == ErrorKind::Trimmed => trimmed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (numbers, trimmed)
}

fn floor(store: &Store, space: &str) -> u64 {
    store.space(space).unwrap().logs()[0].first_seq.0
}

#[test]
fn by_default_everything_is_kept_for_ever() {
    let (vfs, clock) = (Memory::default(), Clock::new());
    let store = builder(&vfs, &clock).open_or_create(DIR).unwrap();
    let hub = hub();
    append(&store, "practice-12", 0..200);
    store.mirror_in_process(&hub).start().unwrap();
    assert!(store.links()[0].lag.records <= 200);
    clock.advance(10_000 * DAY);
    assert!(store.space("practice-12").unwrap().retention().keeps_all());
    assert_eq!(store.trim().unwrap().records(), 0);
    assert_eq!(read(&store, "practice-12").0.len(), 200);
}

#[test]
fn what_is_old_is_removed_once_a_mirror_has_it_and_after_a_restart_once_it_says_so_again() {
    let (vfs, clock, hub) = (Memory::default(), Clock::new(), hub());
    let open = || builder(&vfs, &clock).retention(old()).open_or_create(DIR).unwrap();
    let store = open();
    append(&store, "practice-12", 0..100);
    clock.advance(31 * DAY);
    let held = store.trim().unwrap();
    assert_eq!((held.records(), held.logs.len()), (0, 1));
    assert_eq!((held.logs[0].held.clone(), held.logs[0].due), (Some(Held::NotMirrored { from: Seq(0) }), Seq(100)));
    assert_eq!(store.stats().retention.held_logs, 1);
    let link = store.mirror_in_process(&hub).start().unwrap();
    assert!(link.wait_mirrored(LONG));
    append(&store, "practice-12", 100..110);
    let planned = store.trim_plan();
    assert_eq!((planned.records(), floor(&store, "practice-12")), (100, 0), "a plan changes nothing");
    let trimmed = store.trim().unwrap();
    assert_eq!(planned.logs, trimmed.logs);
    assert!(trimmed.freed_segments > 0 && trimmed.bytes() > 100 * 160, "{trimmed:?}");
    assert_eq!(read(&store, "practice-12"), ((100..110).collect(), 1));
    let stats = store.stats();
    assert_eq!(
        (stats.retention.trimmed_records, stats.spaces[0].trimmed_records, stats.spaces[0].records),
        (100, 100, 10)
    );
    // The hub keeps all: it was told nothing else.
    assert!(link.wait_mirrored(LONG));
    assert_eq!(read(&hub, "practice-12").0, (0..110).collect::<Vec<_>>());
    store.close(LONG).unwrap();

    let store = open();
    append(&store, "practice-12", 110..120);
    clock.advance(31 * DAY);
    assert_eq!(store.trim().unwrap().records(), 0, "who has what is not known yet");
    assert!(store.mirror_in_process(&hub).start().unwrap().wait_mirrored(LONG));
    assert_eq!(store.trim().unwrap().records(), 20);
    assert_eq!(read(&store, "practice-12"), (vec![], 1));
    // It goes on where it was.
    append(&store, "practice-12", 120..125);
    assert_eq!(read(&store, "practice-12"), ((120..125).collect(), 1));
}

#[test]
fn an_ack_that_is_taken_back_holds_what_is_not_removed_yet() {
    let (vfs, clock, hub) = (Memory::default(), Clock::new(), hub());
    let policy = old().held_by([NodeName::new("hub").unwrap()]);
    let store = builder(&vfs, &clock).retention(policy).open_or_create(DIR).unwrap();
    append(&store, "practice-12", 0..100);
    let link = store.mirror_in_process(&hub).start().unwrap();
    assert!(link.wait_mirrored(LONG));
    link.stop();
    drop((link, hub));
    // The hub has burnt; an empty one takes its place.
    let empty = self::hub();
    clock.advance(31 * DAY);
    let link = store.mirror_in_process(&empty).spaces(["another"]).start().unwrap();
    let mut events = link.events();
    while events.next_timeout(LONG).expect("they get in touch") != LinkEvent::Connected {}
    let held = store.trim().unwrap();
    assert_eq!((held.records(), held.logs[0].held.clone()), (0, Some(Held::NotMirrored { from: Seq(0) })));
}

#[test]
fn a_mirror_that_joins_after_records_were_removed_is_told_and_the_other_logs_go_on() {
    let (vfs, clock, hub, late) =
        (Memory::default(), Clock::new(), hub(), Store::builder().node("late").in_memory().unwrap());
    let store = builder(&vfs, &clock).retention_of("trimmed", old()).open_or_create(DIR).unwrap();
    append(&store, "trimmed", 0..50);
    append(&store, "whole", 0..50);
    let link = store.mirror_in_process(&hub).spaces(["trimmed", "whole"]).start().unwrap();
    assert!(link.wait_mirrored(LONG));
    clock.advance(31 * DAY);
    assert_eq!(store.trim().unwrap().records(), 50);
    append(&store, "trimmed", 50..60);

    let joined = store.mirror_in_process(&late).spaces(["trimmed", "whole"]).start().unwrap();
    let mut events = joined.events();
    let reason = loop {
        if let LinkEvent::Parked { log, reason } = events.next_timeout(LONG).expect("it is told") {
            assert_eq!(log, store.space("trimmed").unwrap().logs()[0].id);
            break reason;
        }
    };
    let expected = "the source can't serve 0 to before 50: retention removed them; another replica may";
    assert!(reason.contains(expected), "{reason}");
    // What is of the other log comes in its time.
    let mut waits = 0..60_000;
    while joined.status().lag.records != 60 && waits.next().is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!joined.wait_mirrored(Duration::from_millis(20)));
    let status = joined.status();
    assert_eq!((status.parked.len(), status.lag.records), (1, 60), "{status:?}");
    // What is of another log flows on.
    append(&store, "whole", 50..60);
    let whole = || late.space("whole").unwrap().logs().first().map(|info| info.durable.next_seq);
    let mut waits = 0..60_000;
    while whole() != Some(Seq(60)) && waits.next().is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(read(&late, "whole").0, (0..60).collect::<Vec<_>>());
    assert!(read(&late, "trimmed").0.is_empty(), "it does not begin in the middle");
    // So does the mirror that has it all.
    assert!(link.wait_mirrored(LONG));

    // Another replica that has it does what the reason says; then the first goes on.
    let other = hub.mirror_in_process(&late).spaces(["trimmed"]).start().unwrap();
    assert!(other.wait_mirrored(LONG));
    append(&store, "trimmed", 60..70);
    assert!(joined.wait_mirrored(LONG), "{:?}", joined.status());
    assert_eq!(read(&late, "trimmed").0, (0..70).collect::<Vec<_>>());
    assert!(joined.status().parked.is_empty());
}

#[test]
fn a_thread_removes_what_may_go_tells_of_it_and_ends_with_the_store() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let builder = Store::builder().node("practice-12").retention_interval(Duration::from_millis(1));
    let builder = builder.on_trimmed(move |trimmed| tell.lock().unwrap().push(trimmed.clone()));
    let store = builder.segment_bytes(16 << 10, 16 << 10).in_memory().unwrap();
    append(&store, "kept", 0..100);
    append(&store, "small", 0..100);
    store.space("small").unwrap().set_retention(Retention::keep_all().remove_beyond(2_000).mirrors(0)).unwrap();
    let mut waits = 0..60_000;
    while floor(&store, "small") == 0 && waits.next().is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
    store.close(Duration::ZERO).unwrap();
    let floor = floor(&store, "small");
    assert!(floor > 80, "{floor}");
    assert_eq!(read(&store, "kept"), ((0..100).collect(), 0));
    let told = told.lock().unwrap();
    assert_eq!(told.iter().map(counterfoil::Trimmed::records).sum::<u64>(), floor);
    let stats = store.stats().retention;
    assert_eq!((stats.trimmed_records, stats.last_error), (floor, None));
    assert!(stats.trimmed_bytes > 0 && stats.runs > 0);
}

#[test]
fn a_store_that_appends_and_trims_keeps_its_size() {
    let rounds: u64 = std::env::var("COUNTERFOIL_TRIMS").map_or(300, |rounds| rounds.parse().expect("a number"));
    let (vfs, clock) = (Memory::default(), Clock::new());
    let policy = Retention::keep_all().remove_older_than(3 * DAY).mirrors(0);
    let open = || {
        builder(&vfs, &clock).retention(policy.clone()).retention_of("kept", Retention::keep_all()).open_or_create(DIR)
    };
    let mut store = open().unwrap();
    let (mut most, mut most_later, mut records) = (0, 0, 0);
    // A record that is kept for ever, now and then, in the first part; what comes after must not pay for it.
    for round in 0..rounds {
        append(&store, "readings", records..records + 40);
        records += 40;
        if round < 20 {
            append(&store, "kept", round..round + 1);
        }
        clock.advance(DAY);
        store.trim().unwrap();
        let bytes = segment_bytes(&vfs);
        if round < rounds / 2 {
            most = bytes.max(most);
        } else {
            most_later = bytes.max(most_later);
        }
        if round % 37 == 5 {
            store.close(Duration::ZERO).unwrap();
            drop(store);
            store = open().unwrap();
        }
    }
    let stats = store.stats();
    // How full the last segment is when one is given back depends on how often the store was opened meanwhile.
    assert!(most_later <= most + (32 << 10), "{most_later} bytes after {most}: it grows");
    // Twice what is kept, and segments that are not full.
    assert!(most <= 2 * stats.batch_bytes + 6 * (32 << 10), "{most} bytes for {}", stats.batch_bytes);
    let (numbers, trimmed) = read(&store, "readings");
    let first = *numbers.first().unwrap();
    assert_eq!((numbers, trimmed), ((first..records).collect(), 1));
    assert!((80..=160).contains(&(records - first)), "{first} of {records}");
    assert_eq!(read(&store, "kept"), ((0..20).collect(), 0));
    store.close(Duration::ZERO).unwrap();
    let mut options = counterfoil_storage::Options::default();
    options.vfs = Arc::new(vfs.clone());
    assert_eq!(counterfoil_storage::verify(Path::new(DIR), &options, |_, _| {}).unwrap().damage, []);
    println!("retention: {rounds} rounds of appends and trims, {records} records, {most} bytes of segments at most");
}

fn segment_bytes(vfs: &Memory) -> u64 {
    let mut names = vfs.list(Path::new(DIR)).unwrap();
    names.retain(|name| Path::new(name).extension().is_some_and(|extension| extension == "seg"));
    names.iter().map(|name| vfs.open(&Path::new(DIR).join(name), OpenMode::Read).unwrap().len().unwrap()).sum()
}

#[test]
fn nothing_but_nothing_is_removed_from_a_store_that_is_only_read_and_a_plan_can_be_made_of_it() {
    let (vfs, clock) = (Memory::default(), Clock::new());
    let store = builder(&vfs, &clock).open_or_create(DIR).unwrap();
    append(&store, "practice-12", 0..50);
    store.close(Duration::ZERO).unwrap();
    drop(store);
    clock.advance(31 * DAY);
    let beside = builder(&vfs, &clock).retention(old().mirrors(0)).open_read_only(DIR).unwrap();
    assert_eq!(beside.trim().unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(beside.trim_plan().records(), 50);
    assert_eq!(read(&beside, "practice-12").0.len(), 50);
}

type Beds = Collection<u32, String>;

fn beds(store: &Store) -> Beds {
    store.space("ward").unwrap().collection("beds").unwrap()
}

fn contents(beds: &Beds) -> BTreeMap<u32, Vec<String>> {
    let entry = |entry: Result<(u32, counterfoil::Versions<String>), Error>| {
        let (key, versions) = entry.unwrap();
        (key, versions.all().iter().filter_map(|version| version.value().cloned()).collect())
    };
    beds.range(..).unwrap().map(entry).collect()
}

#[test]
fn a_present_version_of_a_key_is_never_removed_and_the_log_is_kept_from_the_oldest_on() {
    let (vfs, clock) = (Memory::default(), Clock::new());
    let policy = Retention::keep_all().remove_beyond(0).mirrors(0);
    let open = || builder(&vfs, &clock).retention(policy.clone()).open_or_create(DIR).unwrap();
    let store = open();
    let put = |store: &Store, key, value: &str| {
        beds(store).put(&key, &value.to_owned()).unwrap();
        store.commit().unwrap();
    };
    for number in 0..40 {
        put(&store, number % 3, &format!("patient {number}"));
    }
    beds(&store).delete(&0).unwrap().wait(Durability::Local).unwrap();
    let trimmed = store.trim().unwrap();
    // Key 1 was last put by record 37, key 2 by 38, key 0 deleted by 40.
    assert_eq!((trimmed.logs[0].to, trimmed.logs[0].held.clone()), (Seq(37), Some(Held::LiveVersion { seq: Seq(37) })));
    let expected = BTreeMap::from([(1, vec!["patient 37".to_owned()]), (2, vec!["patient 38".to_owned()])]);
    assert_eq!(contents(&beds(&store)), expected);
    let history = beds(&store).history(&1).unwrap();
    assert_eq!((history.versions.len(), history.missing.len()), (1, 1), "it reaches back as far as the log does");
    assert_eq!(store.trim().unwrap().records(), 0);
    // What is superseded and not durable yet may still be what there is in the end.
    beds(&store).put(&1, &"queued".into()).unwrap();
    assert_eq!(store.trim().unwrap().records(), 0);
    store.commit().unwrap();
    assert_eq!(store.trim().unwrap().logs[0].to, Seq(38));
    // So it is for an index that is made anew from what is kept.
    store.close(Duration::ZERO).unwrap();
    drop(store);
    vfs.remove(&Path::new(DIR).join("collections.redb")).unwrap();
    let store = open();
    let expected = BTreeMap::from([(1, vec!["queued".to_owned()]), (2, vec!["patient 38".to_owned()])]);
    assert_eq!(contents(&beds(&store)), expected);
    assert_eq!(beds(&store).missing().unwrap(), [], "what was removed is not missing");
    assert!(beds(&store).get(&0).unwrap().all().is_empty(), "what is deleted stays so");
    put(&store, 2, "last");
    put(&store, 0, "again");
    assert_eq!(store.trim().unwrap().logs[0].to, Seq(41));
}

/// Gives each of two nodes what the other has of the ward.
fn sync(store: &Store, other: &Store) {
    let link = loop {
        match store.sync_in_process(other).spaces(["ward"]).start() {
            // The other end of the last one is still ending.
            Err(Error::AlreadyLinked { .. }) => std::thread::yield_now(),
            started => break started.unwrap(),
        }
    };
    assert!(link.wait_synced(LONG), "{:?}", link.status());
    link.stop();
}

/// Two nodes write the same keys, now and then sync, and one of them trims as much as it may and is opened anew, with its
/// index or without. The model: the other one, which keeps everything.
#[test]
fn what_keys_hold_is_the_same_with_and_without_what_was_removed() {
    let mut removed = 0;
    for seed in 0..40_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let (vfs, clock) = (Memory::default(), Clock::new());
        let policy = Retention::keep_all().remove_beyond(0);
        // What comes by a link is committed by a thread; that of retention sleeps.
        let builder = || builder(&vfs, &clock).background(true).retention_interval(1000 * DAY);
        let open = || builder().retention(policy.clone()).open_or_create(DIR).unwrap();
        let mut store = open();
        let trim = |store: &Store, policy: &Retention| {
            store.space("ward").unwrap().set_retention(policy.clone()).unwrap();
            store.trim().unwrap().records()
        };
        let other = Store::builder().node("other").in_memory().unwrap();
        for number in 0..60 {
            let writer = if below(3) == 0 { &other } else { &store };
            let key = below(5) as u32;
            match below(8) {
                0 => drop(beds(writer).delete(&key).unwrap()),
                _ => drop(beds(writer).put(&key, &format!("value {number}")).unwrap()),
            }
            writer.commit().unwrap();
            clock.advance(Duration::from_millis(1));
            if below(4) == 0 {
                sync(&store, &other);
                // Now the other one has all: its own log too, which no ack of its own tells.
                removed += trim(&store, &policy.clone().mirrors(0));
            }
            if below(3) == 0 {
                removed += trim(&store, &policy);
            }
            if below(10) == 0 {
                store.close(Duration::ZERO).unwrap();
                drop(store);
                if below(2) == 0 {
                    // It may not have been made yet.
                    let _ = vfs.remove(&Path::new(DIR).join("collections.redb"));
                }
                store = open();
            }
        }
        sync(&store, &other);
        removed += trim(&store, &policy.clone().mirrors(0));
        assert_eq!(contents(&beds(&store)), contents(&beds(&other)), "seed {seed}");
        store.close(LONG).unwrap();
        drop(store);
        vfs.remove(&Path::new(DIR).join("collections.redb")).unwrap();
        assert_eq!(contents(&beds(&open())), contents(&beds(&other)), "seed {seed}, made anew");
    }
    println!("retention: 40 programs of two nodes with collections, {removed} records removed");
    assert!(removed > 200, "{removed}");
}

#[test]
fn the_node_that_writes_a_log_is_no_mirror_of_it() {
    let (vfs, clock) = (Memory::default(), Clock::new());
    let practice = builder(&vfs, &clock).open_or_create(DIR).unwrap();
    let hub = Store::builder().node("hub").clock(Arc::<Clock>::clone(&clock)).retention(old()).in_memory().unwrap();
    append(&practice, "practice-12", 0..20);
    // Each has all of it, and hears so of the other.
    let link = practice.sync_in_process(&hub).start().unwrap();
    assert!(link.wait_synced(LONG));
    clock.advance(31 * DAY);
    let held = hub.trim().unwrap();
    assert_eq!((held.records(), held.logs[0].held.clone()), (0, Some(Held::NotMirrored { from: Seq(0) })));
    let second = Store::builder().node("hub-2").in_memory().unwrap();
    assert!(hub.mirror_in_process(&second).spaces(["practice-12"]).start().unwrap().wait_mirrored(LONG));
    assert_eq!(hub.trim().unwrap().records(), 20);
}

#[test]
fn a_follower_that_retention_overtakes_is_told_what_it_missed_and_so_is_one_that_goes_on_from_its_cursor() {
    let (vfs, clock) = (Memory::default(), Clock::new());
    let open = || builder(&vfs, &clock).retention(old().mirrors(0)).open_or_create(DIR).unwrap();
    let store = open();
    append(&store, "practice-12", 0..100);
    let seq = |follow: &mut counterfoil::Follow| follow.next_timeout(Duration::ZERO).unwrap().unwrap().seq().0;
    let overtaken = |follow: &mut counterfoil::Follow| {
        let told = follow.next_timeout(Duration::ZERO).unwrap_err();
        let range = match told {
            Error::Read(ReadError::Trimmed { first_seq, first_available, .. }) => (first_seq.0, first_available.0),
            error => panic!("{error}"),
        };
        (range, seq(follow))
    };
    let mut live = store.space("practice-12").unwrap().follow(counterfoil::Cursor::start());
    (0..5).for_each(|number| assert_eq!(seq(&mut live), number));
    let cursor = live.cursor().to_string();
    clock.advance(31 * DAY);
    append(&store, "practice-12", 100..110);
    assert_eq!(store.trim().unwrap().records(), 100);
    assert_eq!(overtaken(&mut live), ((5, 100), 100));
    (101..110).for_each(|number| assert_eq!(seq(&mut live), number));
    // It is told again until a record behind it has been given out: nothing is passed over because somebody did not listen.
    for _ in 0..2 {
        let mut resumed = store.space("practice-12").unwrap().follow(cursor.parse().unwrap());
        assert_eq!(resumed.next_timeout(Duration::ZERO).unwrap_err().kind(), ErrorKind::Trimmed);
        assert_eq!(resumed.cursor().to_string(), cursor);
    }
    store.close(Duration::ZERO).unwrap();
    drop((store, live));
    let mut resumed = open().space("practice-12").unwrap().follow(cursor.parse().unwrap());
    assert_eq!(overtaken(&mut resumed), ((5, 100), 100));
    assert_ne!(resumed.cursor().to_string(), cursor);
}

/// What a follower is given until it has record `last`: the records, and the ranges that it is told are gone, in order.
fn follow_until(store: &Store, last: u64) -> Vec<std::ops::Range<u64>> {
    let mut follow = store.space("practice-12").unwrap().follow(counterfoil::Cursor::start());
    let mut given = Vec::new();
    while given.last().is_none_or(|range: &std::ops::Range<u64>| range.end <= last) {
        given.push(match follow.next_timeout(LONG) {
            Ok(record) => {
                let record = record.expect("the last one is kept");
                let seq = record.seq().0;
                assert_eq!(*record.body().first_chunk().unwrap(), seq.to_le_bytes());
                seq..seq + 1
            }
            Err(Error::Read(ReadError::Trimmed { first_seq, first_available, .. })) => first_seq.0..first_available.0,
            Err(error) => panic!("{error}"),
        });
    }
    given
}

#[test]
fn whoever_follows_while_records_are_removed_gets_each_or_is_told_and_the_mirror_has_them_all() {
    const COUNT: u64 = 3000;
    let hub = hub();
    let builder = Store::builder().node("practice-12").ring_bytes(4 << 10).batch_bytes(1 << 10);
    let builder = builder.retention(Retention::keep_all().remove_beyond(20_000));
    let builder = builder.retention_interval(Duration::from_millis(1)).segment_bytes(16 << 10, 32 << 10);
    let store = builder.in_memory().unwrap();
    let link = store.mirror_in_process(&hub).start().unwrap();
    let given = std::thread::scope(|scope| {
        let followers = [(); 3].map(|()| scope.spawn(|| follow_until(&store, COUNT - 1)));
        for numbers in (0..COUNT).collect::<Vec<_>>().chunks(20) {
            append(&store, "practice-12", numbers[0]..numbers[0] + 20);
            // So that there is something to remove while others read.
            assert!(link.wait_mirrored(LONG));
        }
        followers.map(|follower| follower.join().unwrap())
    });
    for given in given {
        let mut next = 0;
        for range in given {
            assert_eq!(range.start, next, "nothing is left out, nothing comes twice");
            next = range.end;
        }
        assert_eq!(next, COUNT);
    }
    assert_eq!(read(&hub, "practice-12").0, (0..COUNT).collect::<Vec<_>>());
    let mut waits = 0..60_000;
    while (floor(&store, "practice-12") < COUNT / 2 || store.stats().retention.freed_segments == 0)
        && waits.next().is_some()
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    store.close(LONG).unwrap();
    let stats = store.stats().retention;
    assert!(stats.trimmed_records >= COUNT / 2 && stats.freed_segments > 0, "{stats:?}");
    assert_eq!(stats.last_error, None);
}

#[test]
fn who_asks_for_what_was_removed_is_told_where_the_log_begins() {
    let (vfs, clock) = (Memory::default(), Clock::new());
    let store = builder(&vfs, &clock).retention(old().mirrors(0)).open_or_create(DIR).unwrap();
    append(&store, "practice-12", 0..50);
    let then = store.space("practice-12").unwrap().frontier();
    clock.advance(31 * DAY);
    append(&store, "practice-12", 50..60);
    store.trim().unwrap();
    let space = store.space("practice-12").unwrap();
    let told = space.read(Seq(7)..Seq(20)).unwrap().next().unwrap().unwrap_err();
    assert!(
        matches!(told, Error::Read(ReadError::Trimmed { first_available: Seq(50), first_seq: Seq(7), .. })),
        "{told}"
    );
    assert_eq!(space.as_of(&then).unwrap_err().kind(), ErrorKind::Trimmed);
    let mut follow = space.follow(counterfoil::Cursor::start());
    assert_eq!(follow.next_timeout(Duration::ZERO).unwrap_err().kind(), ErrorKind::Trimmed);
    assert_eq!(follow.next_timeout(Duration::ZERO).unwrap().unwrap().seq(), Seq(50));
}
