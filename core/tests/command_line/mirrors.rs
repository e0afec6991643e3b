//! What a store believes of the disks of real hubs: `Mirrored(2)` through a chain and side by side, and mirrors that come
//! back with less than they said they had.

use std::{fs, time::Duration};

use counterfoil::{Durability, Link, LinkEvent, Receipt, Store, Tls};

use crate::{
    roll_back::roll_back,
    sandbox::{PATIENCE, Running, Sandbox},
};

/// A practice that is opened by the test, and hubs that are processes.
struct Scene {
    sandbox: Sandbox,
    practice: Store,
}

const RELAY: &str = "[[grant]]\nnode = \"hub\"\nspace = \"*\"\nrights = [\"relay\"]\n\
    [[grant]]\nnode = \"practice-1\"\nspace = \"practice-1\"\nrights = [\"read\", \"write\"]\n";

impl Scene {
    fn new() -> Self {
        let sandbox = Sandbox::with_practice_and_hub();
        sandbox.run("init hub-2.store --node hub-2").expect_status(0);
        sandbox.certify("hub-2");
        sandbox.write("hub-2.toml", RELAY);
        let practice = Store::open(sandbox.path("practice.store")).unwrap();
        Self { sandbox, practice }
    }

    fn serve_second(&self, listen: &str) -> (Running, String) {
        self.sandbox.serve_as("hub-2", listen, "--policy hub-2.toml")
    }

    fn link(&self, peer: &str, address: &str) -> Link {
        let tls = Tls::from_dir(self.sandbox.path("tls-practice-1")).unwrap();
        self.practice.mirror_to(format!("{peer}@{address}"), tls).start().unwrap()
    }

    fn append(&self, body: &str) -> Receipt {
        self.practice.own_space().unwrap().append(body.as_bytes()).unwrap()
    }

    /// Who has the practice's log, and how much of it.
    fn holders(&self, receipt: &Receipt) -> Vec<(String, u64)> {
        self.practice.acks(receipt.log()).iter().map(|ack| (ack.node.to_string(), ack.head.next_seq.0)).collect()
    }
}

#[track_caller]
fn expect_mirrored(receipt: &Receipt, nodes: usize) {
    assert_eq!(receipt.wait_timeout(Durability::Mirrored(nodes), PATIENCE).unwrap(), Durability::Mirrored(nodes));
}

/// The next event by which a node's ack is taken back: whose, and what it still has.
fn withdrawn(events: &mut impl Iterator<Item = LinkEvent>) -> (String, u64) {
    let told = events.find_map(|event| match event {
        LinkEvent::AckWithdrawn { node, head, .. } => Some((node.to_string(), head.next_seq.0)),
        _ => None,
    });
    told.expect("it is told before the link ends")
}

#[test]
fn two_hubs_count_side_by_side_and_in_a_chain() {
    let scene = Scene::new();
    let (_second, second_address) = scene.serve_second("127.0.0.1:0");
    let (hub, address) = scene.sandbox.serve("127.0.0.1:0", &format!("--mirror-to hub-2@{second_address}"));
    let to_hub = scene.link("hub", &address);
    let receipt = scene.append("through a chain");
    expect_mirrored(&receipt, 2);
    assert_eq!(scene.holders(&receipt), [("hub".to_owned(), 1), ("hub-2".to_owned(), 1)]);

    // Reached by both ways the second one still counts once.
    let to_second = scene.link("hub-2", &second_address);
    let receipt = scene.append("by both ways");
    expect_mirrored(&receipt, 2);
    let reached = receipt.wait_timeout(Durability::Mirrored(3), Duration::from_millis(100)).unwrap();
    assert_eq!(reached, Durability::Mirrored(2));

    // The chain is broken; side by side they count as before.
    to_hub.stop();
    hub.signal("TERM");
    hub.finish().expect_status(0);
    let (_hub, address) = scene.sandbox.serve("127.0.0.1:0", "");
    let _to_hub = scene.link("hub", &address);
    expect_mirrored(&scene.append("side by side"), 2);
    drop(to_second);
}

#[test]
fn a_hub_that_is_rolled_back_withdraws_its_ack_and_gets_what_it_lost_again() {
    let scene = Scene::new();
    let (hub, address) = scene.sandbox.serve(&Sandbox::own_address(), "");
    let link = scene.link("hub", &address);
    expect_mirrored(&scene.append("before the backup"), 1);
    hub.signal("TERM");
    hub.finish().expect_status(0);
    let (store, backup) = (scene.sandbox.path("hub.store"), scene.sandbox.path("backup"));
    roll_back(&store, &backup);
    let (hub, _) = scene.sandbox.serve(&address, "");
    let receipt = scene.append("after the backup");
    expect_mirrored(&receipt, 1);

    let mut events = link.events();
    hub.kill();
    roll_back(&backup, &store);
    let before = scene.sandbox.status("hub.store");
    let (hub, _) = scene.sandbox.serve(&address, "");
    assert_eq!(withdrawn(&mut events), ("hub".to_owned(), 1));
    expect_mirrored(&receipt, 1);
    expect_mirrored(&scene.append("and on"), 1);
    hub.signal("TERM");
    hub.finish().expect_status(0);
    let after = scene.sandbox.status("hub.store");
    assert_eq!(before["incarnation"], after["incarnation"], "it could not know that it was rolled back");
    assert_eq!(scene.sandbox.cat("hub.store --space practice-1"), scene.sandbox.cat("practice.store"));
}

#[test]
fn a_far_hub_restored_from_a_backup_withdraws_its_ack_along_the_chain() {
    let scene = Scene::new();
    let (second, second_address) = scene.serve_second(&Sandbox::own_address());
    let (hub, address) = scene.sandbox.serve("127.0.0.1:0", &format!("--mirror-to hub-2@{second_address}"));
    let link = scene.link("hub", &address);
    expect_mirrored(&scene.append("before the backup"), 2);
    second.signal("TERM");
    second.finish().expect_status(0);
    let (store, backup) = (scene.sandbox.path("hub-2.store"), scene.sandbox.path("backup"));
    roll_back(&store, &backup);
    let (second, _) = scene.serve_second(&second_address);
    let receipt = scene.append("after the backup");
    expect_mirrored(&receipt, 2);

    let mut events = link.events();
    second.kill();
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&backup, &store).unwrap();
    let (second, _) = scene.serve_second(&second_address);
    let (node, left) = withdrawn(&mut events);
    assert!(node == "hub-2" && left <= 1, "{node} has {left}");
    expect_mirrored(&receipt, 2);
    assert_eq!(scene.holders(&receipt), [("hub".to_owned(), 2), ("hub-2".to_owned(), 2)]);
    // Those who were asked said so, too.
    hub.wait_for_error("node lost what it had acknowledged");
    second.signal("TERM");
    second.finish().expect_status(0);
    assert_eq!(scene.sandbox.cat("hub-2.store --space practice-1"), scene.sandbox.cat("practice.store"));
}
