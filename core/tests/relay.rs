//! Hubs that mirror onward: whose disks count, and that they count once.

use std::time::Duration;

use counterfoil::{Durability, LinkEvent, LocalLink, LogId, Receipt, Store};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

fn node(name: &str) -> Store {
    Store::builder().node(name).in_memory().unwrap()
}

fn link(source: &Store, target: &Store) -> LocalLink {
    source.mirror_in_process(target).spaces(["practice-12"]).start().unwrap()
}

fn append(store: &Store, bodies: &[&str]) -> Receipt {
    store.own_space().unwrap().append_all(bodies).unwrap()
}

/// Who has the log, as far as `store` knows, and how much of it.
fn holders(store: &Store, log: LogId) -> Vec<(String, u64)> {
    store.acks(log).iter().map(|ack| (ack.node.to_string(), ack.head.next_seq.0)).collect()
}

fn reached(receipt: &Receipt, nodes: usize, timeout: Duration) -> Durability {
    receipt.wait_timeout(Durability::Mirrored(nodes), timeout).unwrap()
}

#[test]
fn each_hub_of_a_chain_counts_at_the_far_end_of_it() {
    let [practice, hub, second, third] = ["practice-12", "hub", "hub-2", "hub-3"].map(node);
    let _links = [link(&practice, &hub), link(&hub, &second), link(&second, &third)];
    for round in 1..=20 {
        let receipt = append(&practice, &["one", "two"]);
        assert_eq!(reached(&receipt, 3, LONG), Durability::Mirrored(3));
        let all = ["hub", "hub-2", "hub-3"].map(|node| (node.to_owned(), 2 * round));
        assert_eq!(holders(&practice, receipt.log()), all);
    }
    let receipt = append(&practice, &["one"]);
    assert_eq!(reached(&receipt, 4, SHORT), Durability::Mirrored(3), "the writer is none of them");
    let at_hub = holders(&hub, receipt.log());
    assert_eq!(at_hub.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["hub-2", "hub-3"]);
}

#[test]
fn a_node_that_is_reached_by_two_ways_counts_once() {
    let [practice, hub, second] = ["practice-12", "hub", "hub-2"].map(node);
    let links = [link(&practice, &hub), link(&practice, &second), link(&hub, &second), link(&second, &hub)];
    let receipt = append(&practice, &["one"]);
    assert_eq!(reached(&receipt, 2, LONG), Durability::Mirrored(2));
    assert!(links.iter().all(|link| link.wait_mirrored(LONG)));
    assert_eq!(reached(&receipt, 3, SHORT), Durability::Mirrored(2));
}

#[test]
fn what_was_there_before_the_links_counts_too() {
    let [practice, hub, second] = ["practice-12", "hub", "hub-2"].map(node);
    let receipt = append(&practice, &["one", "two", "three"]);
    let first_hop = link(&practice, &hub);
    assert!(first_hop.wait_mirrored(LONG));
    first_hop.stop();
    let second_hop = link(&hub, &second);
    assert!(second_hop.wait_mirrored(LONG));
    // The hub has heard of it before anybody asks it to pass it on.
    let _first_hop = link(&practice, &hub);
    assert_eq!(reached(&receipt, 2, LONG), Durability::Mirrored(2));
}

#[test]
fn a_far_hub_that_is_replaced_by_an_empty_one_withdraws_its_ack_with_an_event() {
    let [practice, hub, second] = ["practice-12", "hub", "hub-2"].map(node);
    let (first_hop, second_hop) = (link(&practice, &hub), link(&hub, &second));
    let receipt = append(&practice, &["one", "two"]);
    assert_eq!(reached(&receipt, 2, LONG), Durability::Mirrored(2));
    let mut events = first_hop.events();

    // It has burnt; an empty one of its name takes its place, and may not have the space yet.
    second_hop.stop();
    drop(second);
    let replacement = node("hub-2");
    let unrelated = hub.mirror_in_process(&replacement).spaces(["another"]).start().unwrap();
    let withdrawn = events.find(|event| matches!(event, LinkEvent::AckWithdrawn { .. })).unwrap();
    let LinkEvent::AckWithdrawn { log, node, head, .. } = withdrawn else { unreachable!() };
    assert_eq!((log, node.as_str(), head.next_seq.0), (receipt.log(), "hub-2", 0));
    assert_eq!(holders(&practice, log), [("hub".to_owned(), 2)]);
    assert_eq!(reached(&receipt, 2, SHORT), Durability::Mirrored(1));

    let _second_hop = link(&hub, &replacement);
    assert_eq!(reached(&receipt, 2, LONG), Durability::Mirrored(2), "once it has it again");
    unrelated.stop();
}

#[test]
fn what_a_far_hub_lost_while_the_link_to_the_near_one_was_cut_is_heard_once_it_is_healed() {
    let [practice, hub, second] = ["practice-12", "hub", "hub-2"].map(node);
    let (first_hop, second_hop) = (link(&practice, &hub), link(&hub, &second));
    let receipt = append(&practice, &["one", "two"]);
    assert_eq!(reached(&receipt, 2, LONG), Durability::Mirrored(2));
    let mut events = first_hop.events();

    first_hop.cut();
    second_hop.stop();
    drop(second);
    let replacement = node("hub-2");
    let _unrelated = hub.mirror_in_process(&replacement).spaces(["another"]).start().unwrap();
    let has_heard = |_: &u32| {
        std::thread::sleep(Duration::from_millis(2));
        holders(&hub, receipt.log()).iter().all(|(node, seq)| node != "hub-2" || *seq == 0)
    };
    (0..30_000).find(has_heard).expect("the near hub hears of it");
    let known = holders(&practice, receipt.log());
    assert!(known.contains(&("hub-2".to_owned(), 2)), "nobody could tell it yet: {known:?}");
    first_hop.heal();
    let withdrawn = events.find(|event| matches!(event, LinkEvent::AckWithdrawn { .. })).unwrap();
    let LinkEvent::AckWithdrawn { log, node, head, .. } = withdrawn else { unreachable!() };
    assert_eq!((log, node.as_str(), head.next_seq.0), (receipt.log(), "hub-2", 0));
    assert_eq!(holders(&practice, log), [("hub".to_owned(), 2)]);
}

#[test]
fn two_hubs_side_by_side_both_count() {
    let [practice, hub, second] = ["practice-12", "hub", "hub-2"].map(node);
    let to_second = link(&practice, &second);
    let _to_hub = link(&practice, &hub);
    assert_eq!(reached(&append(&practice, &["one"]), 2, LONG), Durability::Mirrored(2));
    to_second.cut();
    let receipt = append(&practice, &["two"]);
    assert_eq!(reached(&receipt, 1, LONG), Durability::Mirrored(1));
    assert_eq!(reached(&receipt, 2, SHORT), Durability::Mirrored(1));
    to_second.heal();
    assert_eq!(reached(&receipt, 2, LONG), Durability::Mirrored(2));
}
