//! The merged order of a space, the space as it was, and following by arrival.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use counterfoil::{Cursor, Durability, ErrorKind, Frontier, Hlc, LocalLink, LogId, Record, Seq, Store, WallClock};

const START_MS: u64 = 1_700_000_000_000;

/// A wall clock that the test sets.
#[derive(Debug, Clone)]
struct Set(Arc<AtomicU64>);

impl Set {
    fn new(ahead_ms: u64) -> Self {
        Self(Arc::new(AtomicU64::new(START_MS + ahead_ms)))
    }

    fn set(&self, ms: u64) {
        self.0.store(START_MS + ms, Ordering::Relaxed);
    }
}

impl WallClock for Set {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn store(node: &str, clock: &Set) -> Store {
    Store::builder().node(node).clock(Arc::new(clock.clone())).in_memory().unwrap()
}

fn link(from: &Store, to: &Store) -> LocalLink {
    from.mirror_in_process(to).spaces(["shared"]).start().unwrap()
}

fn append(store: &Store, body: &str, mirrors: usize) {
    let receipt = store.space("shared").unwrap().append(body).unwrap();
    receipt.wait(Durability::Mirrored(mirrors)).unwrap();
}

fn merged(store: &Store) -> Vec<Record> {
    store.space("shared").unwrap().read(..).unwrap().map(Result::unwrap).collect()
}

fn text(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.body().to_vec()).unwrap()).collect()
}

/// The merged order by its definition: the records of each log with the latest time up to there, sorted.
fn by_definition(store: &Store) -> Vec<Record> {
    let space = store.space("shared").unwrap();
    let mut sorted = BTreeMap::new();
    for info in space.logs() {
        let mut latest = Hlc::ZERO;
        for record in space.read_log(info.id, ..).unwrap().map(Result::unwrap) {
            latest = latest.max(record.time());
            sorted.insert((latest, info.id, record.seq()), record);
        }
    }
    sorted.into_values().collect()
}

/// Numbers that look random, the same in every run.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

#[test]
fn two_hubs_that_got_the_logs_in_other_orders_read_one_order_the_one_of_the_definition() {
    for seed in 1..=8 {
        let mut number = numbers(seed);
        let clocks: Vec<_> = (0..3).map(|_| Set::new(0)).collect();
        let sites: Vec<_> = clocks.iter().zip(["a", "b", "c"]).map(|(clock, node)| store(node, clock)).collect();
        let hubs = [store("hub-1", &Set::new(0)), store("hub-2", &Set::new(0))];
        for _ in 0..120 {
            // Clocks jump both ways.
            let site = number(3) as usize;
            clocks[site].set(number(5_000));
            sites[site].space("shared").unwrap().append(number(1000).to_string()).unwrap();
        }
        for site in &sites {
            site.commit().unwrap();
        }
        for (hub, order) in hubs.iter().zip([[0, 1, 2], [2, 0, 1]]) {
            for site in order {
                assert!(link(&sites[site], hub).wait_mirrored(Duration::from_secs(60)));
            }
        }
        let [first, second] = hubs.each_ref().map(merged);
        assert_eq!(first.len(), 120);
        assert_eq!(first, second, "seed {seed}");
        assert_eq!(first, by_definition(&hubs[0]), "seed {seed}");
        assert_eq!(hubs[0].space("shared").unwrap().frontier(), hubs[1].space("shared").unwrap().frontier());
    }
}

#[test]
fn a_reply_comes_after_what_it_replies_to_though_its_clock_is_behind() {
    let (a, b) = (store("a", &Set::new(30_000)), store("b", &Set::new(0)));
    let _link = link(&a, &b);
    append(&a, "question", 1);
    append(&b, "answer", 0);
    assert_eq!(text(&merged(&b)), ["question", "answer"]);
    assert!(b.space("shared").unwrap().clocks_ahead().is_empty(), "half a minute is within the bound");
}

#[test]
fn a_clock_that_is_far_ahead_is_told_and_its_records_are_kept_as_stamped() {
    let (a, b) = (store("a", &Set::new(3_600_000)), store("b", &Set::new(0)));
    let _link = link(&a, &b);
    append(&a, "from the future", 1);
    append(&b, "answer", 0);
    assert_eq!(text(&merged(&b)), ["answer", "from the future"]);
    let ahead = b.space("shared").unwrap().clocks_ahead();
    let [(log, by)] = &ahead[..] else { panic!("{ahead:?}") };
    assert_eq!((log.genesis.node.as_str(), *by), ("a", Duration::from_secs(3600)));
    assert!(merged(&b)[0].recorded_at() < UNIX_EPOCH + Duration::from_millis(START_MS + 60_000));
}

#[test]
fn a_space_reads_as_it_was_at_a_frontier_there_and_where_more_has_come_since() {
    let (a, b) = (store("a", &Set::new(0)), store("b", &Set::new(10)));
    let hub = store("hub", &Set::new(0));
    let _links = [link(&a, &hub), link(&b, &hub)];
    append(&a, "1", 1);
    append(&b, "2", 1);
    let (then, was) = (hub.space("shared").unwrap().frontier(), merged(&hub));
    append(&a, "3", 1);
    append(&b, "4", 1);
    let then: Frontier = then.to_string().parse().unwrap();
    let as_of =
        |store: &Store| store.space("shared").unwrap().as_of(&then).map(|read| read.map(Result::unwrap).collect());
    let seen: Vec<_> = as_of(&hub).unwrap();
    assert_eq!(seen, was);
    assert_eq!(text(&seen), ["1", "2"]);
    assert_eq!(merged(&hub).len(), 4);

    let error = as_of(&a).map(|records: Vec<Record>| records.len()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("is not here"), "{error}");
}

#[test]
fn a_frontier_of_another_history_or_of_more_than_there_is_is_refused() {
    let a = store("a", &Set::new(0));
    append(&a, "1", 0);
    let space = a.space("shared").unwrap();
    let (log, head) = space.frontier().heads().next().unwrap();
    append(&a, "2", 0);
    let refused = |next_seq: u64, digest| {
        let mut frontier = Frontier::empty();
        frontier.set(log, counterfoil::Head { next_seq: Seq(next_seq), digest });
        space.as_of(&frontier).unwrap_err().to_string()
    };
    let other = counterfoil::Digest::from_bytes([7; 32]);
    assert!(refused(1, other).contains("another history"));
    assert!(refused(2, head.digest).contains("another history"), "the digest of the batch before");
    assert!(refused(9, head.digest).contains("not as long"));
    assert!(refused(u64::MAX, head.digest).contains("not as long"));
}

/// A hub to which two sites write in turns, of which some records share a batch; and what came in which order.
fn hub_with_arrivals() -> (Store, Vec<String>) {
    let sites = [store("a", &Set::new(0)), store("b", &Set::new(0))];
    let hub = store("hub", &Set::new(0));
    let _links = sites.each_ref().map(|site| link(site, &hub));
    let mut number = numbers(5);
    let mut arrived = Vec::new();
    for round in 0..40 {
        let bodies: Vec<_> = (0..=number(3)).map(|index| format!("{round}.{index}")).collect();
        let receipt = sites[number(2) as usize].space("shared").unwrap().append_all(&bodies).unwrap();
        receipt.wait(Durability::Mirrored(1)).unwrap();
        arrived.extend(bodies);
    }
    (hub, arrived)
}

#[test]
fn a_follower_gets_records_in_the_order_of_their_arrival() {
    let (hub, arrived) = hub_with_arrivals();
    let follower = hub.space("shared").unwrap().follow(Cursor::start());
    let seen: Vec<_> = follower.take(arrived.len()).map(Result::unwrap).collect();
    assert_eq!(text(&seen), arrived);
}

#[test]
fn a_follower_that_goes_on_from_a_kept_text_skips_and_repeats_nothing_wherever_it_stopped() {
    let (hub, arrived) = hub_with_arrivals();
    let space = hub.space("shared").unwrap();
    let mut cursor = Cursor::start().to_string();
    for expected in &arrived {
        let mut follower = space.follow(cursor.parse().unwrap());
        assert_eq!(text(&[follower.next().unwrap().unwrap()]), [expected.as_str()]);
        cursor = follower.cursor().to_string();
    }
    assert_eq!(space.follow(cursor.parse().unwrap()).next_timeout(Duration::ZERO).unwrap(), None);
    assert_eq!(cursor.parse::<Cursor>().unwrap(), space.end());
}

#[test]
fn a_cursor_stands_when_the_store_is_opened_again_and_at_another_replica() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.store");
    let a = Store::builder().node("a").open_or_create(&path).unwrap();
    let hub = store("hub", &Set::new(0));
    let space = a.space("shared").unwrap();
    space.append_all(&["1", "2"]).unwrap();
    append(&a, "3", 0);
    let mut follower = space.follow(Cursor::start());
    follower.next().unwrap().unwrap();
    let kept = follower.cursor().to_bytes();
    assert!(link(&a, &hub).wait_mirrored(Duration::from_secs(60)));
    drop((follower, space));
    a.close(Duration::ZERO).unwrap();
    for replica in [Store::open(&path).unwrap(), hub] {
        let follower = replica.space("shared").unwrap().follow(Cursor::from_bytes(&kept).unwrap());
        assert_eq!(text(&follower.take(2).map(Result::unwrap).collect::<Vec<_>>()), ["2", "3"]);
    }
}

#[test]
fn when_it_happened_travels_beside_the_bytes() {
    let (a, hub) = (store("a", &Set::new(0)), store("hub", &Set::new(0)));
    let _link = link(&a, &hub);
    let birth = UNIX_EPOCH - Duration::from_millis(1_234_567_890);
    let space = a.space("shared").unwrap();
    space.append_at(b"\x00raw\xff", birth).unwrap();
    append(&a, "plain", 1);
    let seen: Vec<(Vec<u8>, Option<SystemTime>)> =
        merged(&hub).iter().map(|record| (record.body().to_vec(), record.happened_at())).collect();
    assert_eq!(seen, [(b"\x00raw\xff".to_vec(), Some(birth)), (b"plain".to_vec(), None)]);
    let typed = space.typed::<String>();
    typed.append_at(&"typed".to_owned(), birth).unwrap();
    a.commit().unwrap();
    let entry = typed.read_log(space.own_log().unwrap(), Seq(2)..).unwrap().next().unwrap().unwrap();
    assert_eq!((entry.value().as_str(), entry.happened_at()), ("typed", Some(birth)));
}

#[test]
fn a_part_of_a_space_is_a_part_of_the_own_log() {
    let (a, b) = (store("a", &Set::new(0)), store("b", &Set::new(0)));
    let hub = store("hub", &Set::new(0));
    let _links = [link(&a, &b), link(&a, &hub), link(&b, &hub)];
    append(&a, "theirs", 2);
    append(&b, "ours", 1);
    let part =
        |store: &Store| store.space("shared").unwrap().read(Seq(0)..).map(|read| read.map(Result::unwrap).collect());
    let own: Vec<_> = part(&b).unwrap();
    assert_eq!(text(&own), ["ours"]);
    let error = part(&hub).map(|records: Vec<Record>| records.len()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    let logs: Vec<LogId> = hub.space("shared").unwrap().logs().iter().map(|info| info.id).collect();
    assert_eq!(logs.len(), 2);
}
