//! Two real processes with a network between them that fails, both of them killed at random: what was acknowledged as
//! mirrored is on the other disk, in order, once; and both become equal when the weather clears.
//!
//! `COUNTERFOIL_STORM` sets for how many seconds, for longer exploration; `COUNTERFOIL_STORM_SEED` which storm.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    kill::{Feed, check, line},
    proxy::{FAIR, Proxy, Weather},
    sandbox::{Running, Sandbox, count_from_env, eventually},
};

/// Draws from a seed.
struct Lots(u64);

impl Lots {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) >> 11) % limit
    }

    fn pause(&mut self, limit_ms: u64) {
        thread::sleep(Duration::from_millis(self.below(limit_ms)));
    }
}

/// What happened so far.
#[derive(Debug, Default)]
struct Book {
    kills_of_writer: u64,
    kills_of_hub: u64,
    cuts: u64,
    half_opens: u64,
    stalls: u64,
    corruptions: u64,
    delays: u64,
}

struct Storm {
    sandbox: Sandbox,
    proxy: Proxy,
    hub: Option<Running>,
    hub_address: String,
    writer: Option<(Running, Feed)>,
    /// Records that the practice's store holds for certain.
    length: u64,
    lots: Lots,
    book: Book,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let sandbox = Sandbox::with_practice_and_hub();
        let (hub, hub_address) = sandbox.serve(&Sandbox::own_address(), "");
        let (proxy, book) = (Proxy::to(&hub_address), Book::default());
        let (hub, writer, lots) = (Some(hub), None, Lots(seed));
        Self { sandbox, proxy, hub, hub_address, writer, length: 0, lots, book }
    }

    /// The writer, which is started if it does not run.
    fn feed(&mut self) -> &Feed {
        let (sandbox, proxy, length) = (&self.sandbox, &self.proxy, self.length);
        let (_, feed) = self.writer.get_or_insert_with(|| {
            let to = format!("--mirror-to hub@{} --tls tls-practice-1 --timeout 600", proxy.address());
            let mut append = sandbox.start(&format!("append practice.store --ack --durability mirrored {to}"));
            let feed = Feed::begin(&mut append, line, length, Duration::from_millis(2));
            (append, feed)
        });
        feed
    }

    /// Waits until more is acknowledged as mirrored.
    fn expect_progress(&mut self) {
        let feed = self.feed();
        let before = feed.acked();
        let is_more = eventually(|| (feed.acked() > before).then_some(()));
        assert!(is_more.is_some(), "nothing is acknowledged any more after {before}: {:?}", self.book);
    }

    fn kill_writer(&mut self) {
        let Some((append, feed)) = self.writer.take() else { return };
        append.kill();
        let acked = feed.end();
        // Opening for writing recovers.
        self.sandbox.run("append practice.store").expect_status(0);
        self.length = check(&self.sandbox, "practice.store");
        assert!(self.length >= acked, "{acked} were acknowledged, {} are there: {:?}", self.length, self.book);
        self.book.kills_of_writer += 1;
    }

    fn kill_hub(&mut self) {
        if let Some(hub) = self.hub.take() {
            hub.kill();
        }
        let acked = self.feed().acked();
        self.sandbox.run("append hub.store").expect_status(0);
        if acked > 0 {
            let at_hub = check(&self.sandbox, "hub.store --space practice-1");
            assert!(at_hub >= acked, "{acked} were acknowledged, {at_hub} are on the hub's disk: {:?}", self.book);
        }
        self.book.kills_of_hub += 1;
        self.lots.pause(100);
        self.hub = Some(self.sandbox.serve(&self.hub_address, "").0);
    }

    /// Something happens, and the weather clears.
    fn strike(&mut self) {
        match self.lots.below(10) {
            0..=2 => self.kill_writer(),
            3..=4 => self.kill_hub(),
            5..=6 => {
                self.proxy.set(Weather::Cut);
                self.lots.pause(300);
                self.book.cuts += 1;
            }
            7 => {
                self.proxy.half_open();
                self.book.half_opens += 1;
            }
            8 => {
                self.proxy.corrupt();
                self.book.corruptions += 1;
            }
            _ if self.lots.below(2) == 0 => {
                self.proxy.set(Weather::Fair { delay: Duration::from_millis(1 + self.lots.below(50)) });
                self.lots.pause(500);
                self.book.delays += 1;
            }
            _ => {
                self.proxy.set(Weather::Stalled);
                self.lots.pause(1000);
                self.book.stalls += 1;
            }
        }
        self.proxy.set(FAIR);
    }

    /// All that there is gets to the hub, and both ends hold the same.
    fn end(mut self) {
        self.kill_writer();
        let once = format!(
            "mirror practice.store --to hub@{} --tls tls-practice-1 --once --timeout 600",
            self.proxy.address()
        );
        self.sandbox.run(&once).expect_status(0);
        let hub = self.hub.take().unwrap();
        hub.signal("TERM");
        hub.finish().expect_status(0);
        assert_eq!(check(&self.sandbox, "hub.store --space practice-1"), self.length);
        assert_eq!(self.sandbox.head("hub.store", "practice-1"), self.sandbox.head("practice.store", "practice-1"));
        for store in ["practice.store", "hub.store"] {
            self.sandbox.run(&format!("verify {store}")).expect_status(0);
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "for how long it storms")]
fn what_was_acknowledged_as_mirrored_survives_kills_of_both_ends_and_a_network_that_fails() {
    let duration = Duration::from_secs(count_from_env("COUNTERFOIL_STORM", 8) as u64);
    let seed = count_from_env("COUNTERFOIL_STORM_SEED", 1) as u64;
    let (began_at, mut storm) = (Instant::now(), Storm::new(seed));
    while began_at.elapsed() < duration {
        storm.expect_progress();
        storm.lots.pause(200);
        storm.strike();
    }
    storm.expect_progress();
    let Book { kills_of_writer, kills_of_hub, cuts, half_opens, stalls, corruptions, delays } = storm.book;
    let (records, bytes) = (storm.feed().acked(), storm.proxy.passed_bytes());
    storm.end();
    println!(
        "storm {seed}, {} s: {kills_of_writer} kills of the writer, {kills_of_hub} of the hub, {cuts} cuts, \
         {half_opens} half-open, {stalls} stalls, {corruptions} corruptions, {delays} delays; \
         {records} records, {bytes} bytes passed",
        began_at.elapsed().as_secs()
    );
}

/// A real hub and a real writer, and a network between them.
struct Link {
    sandbox: Sandbox,
    proxy: Proxy,
    append: Running,
    hub: Running,
    seq: u64,
}

impl Link {
    fn new() -> Self {
        let sandbox = Sandbox::with_practice_and_hub();
        let (hub, address) = sandbox.serve("127.0.0.1:0", "");
        let proxy = Proxy::to(&address);
        let to = format!("--mirror-to hub@{} --tls tls-practice-1 --timeout 600", proxy.address());
        let append = sandbox.start(&format!("append practice.store --ack --durability mirrored {to}"));
        let mut link = Self { sandbox, proxy, append, hub, seq: 0 };
        link.append();
        link.expect_ack();
        link
    }

    fn append(&mut self) {
        self.append.write("a record\n");
    }

    fn expect_ack(&mut self) {
        assert_eq!(self.append.read_line(), format!("ack {}", self.seq));
        self.seq += 1;
    }

    /// What was written is in the practice's own store, acknowledged or not.
    fn expect_local(&self, count: u64) {
        let is_there = || (self.sandbox.status("practice.store")["logs"][0]["next_seq"] == count).then_some(());
        eventually(is_there).unwrap_or_else(|| panic!("{}", self.sandbox.status("practice.store")));
    }
}

#[test]
fn a_stalled_link_is_given_up_and_made_anew_and_meanwhile_the_writer_goes_on() {
    let mut link = Link::new();
    link.proxy.set(Weather::Stalled);
    link.append();
    link.append.wait_for_error("silent");
    link.append();
    link.expect_local(link.seq + 2);
    link.proxy.set(FAIR);
    link.expect_ack();
    link.expect_ack();
}

#[test]
fn a_link_that_only_the_dialler_lost_is_made_anew() {
    let mut link = Link::new();
    for _ in 0..6 {
        // The hub keeps the old sessions for a while, but no more than it may of one node.
        link.proxy.half_open();
        link.append();
        link.expect_ack();
    }
    let are_told = || (link.hub.errors().matches("session begins").count() > 4).then_some(());
    eventually(are_told).unwrap_or_else(|| panic!("{}", link.hub.errors()));
    assert!(!link.hub.errors().contains("hung up"), "the hub heard of it: {}", link.hub.errors());
}

#[test]
fn a_bit_that_the_network_flips_costs_a_connection_and_no_record() {
    let mut link = Link::new();
    for _ in 0..5 {
        link.proxy.corrupt();
        link.append();
        link.expect_ack();
    }
    let broken = |log: &str| log.contains("broke the rules of TLS") || log.contains("the connection broke");
    let is_told = || (broken(&link.hub.errors()) || broken(&link.append.errors())).then_some(());
    eventually(is_told).unwrap_or_else(|| panic!("{}", link.hub.errors()));
    assert!(!link.hub.errors().contains("parked"), "TLS sees it first: {}", link.hub.errors());
}

#[test]
fn a_link_that_is_cut_and_mended_again_and_again_loses_and_doubles_nothing() {
    let mut link = Link::new();
    for _ in 0..5 {
        link.proxy.set(Weather::Cut);
        (0..3).for_each(|_| link.append());
        link.expect_local(link.seq + 3);
        link.proxy.set(FAIR);
        (0..3).for_each(|_| link.expect_ack());
    }
    let (seq, sandbox) = (link.seq, &link.sandbox);
    let has_all = || (sandbox.cat_if_there("hub.store", "practice-1").len() as u64 == seq * 9).then_some(());
    eventually(has_all).expect("each record once");
}
