//! Both ways over in-process links: who ends with what, by which ways, and what is told meanwhile.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use counterfoil::{Durability, Error, LinkEvent, LinkState, LocalLink, Store, vfs};

const LONG: Duration = Duration::from_secs(60);
const SPACE: &str = "patients";

fn node(name: &str) -> Store {
    Store::builder().node(name).in_memory().unwrap()
}

fn link(one: &Store, other: &Store) -> LocalLink {
    one.sync_in_process(other).spaces([SPACE]).start().unwrap()
}

fn append(store: &Store, bodies: &[&str]) -> counterfoil::Receipt {
    let receipt = store.space(SPACE).unwrap().append_all(bodies).unwrap();
    receipt.wait(Durability::Local).unwrap();
    receipt
}

/// What a store holds of the space: the bodies of each log, by its writer.
fn held(store: &Store) -> BTreeMap<String, Vec<String>> {
    let space = store.space(SPACE).unwrap();
    let mut held = BTreeMap::<_, Vec<String>>::new();
    for info in space.logs() {
        let records = space.read_log(info.id, ..).unwrap();
        let bodies = records.map(|record| String::from_utf8(record.unwrap().into_body().to_vec()).unwrap());
        held.entry(info.genesis.node.to_string()).or_default().extend(bodies);
    }
    held
}

fn assert_equal(stores: &[&Store]) {
    let heads = |store: &Store| store.logs().iter().map(|info| (info.id, info.durable)).collect::<Vec<_>>();
    for store in stores {
        assert_eq!(heads(store), heads(stores[0]), "{} and {}", store.node(), stores[0].node());
    }
}

#[test]
fn each_end_gets_what_the_other_lacks_and_both_know_it() {
    let (one, other) = (node("surgery-1"), node("surgery-2"));
    append(&one, &["1", "2"]);
    append(&other, &["3"]);
    let link = link(&one, &other);
    assert!(link.wait_synced(LONG));
    let receipt = append(&other, &["4"]);
    receipt.wait(Durability::Mirrored(1)).unwrap();
    append(&one, &["5"]).wait(Durability::Mirrored(1)).unwrap();
    assert!(link.wait_synced(LONG));
    assert_equal(&[&one, &other]);
    assert_eq!(held(&one)["surgery-1"], ["1", "2", "5"]);
    assert_eq!(held(&one)["surgery-2"], ["3", "4"]);
    for store in [&one, &other] {
        let status = &store.links()[0];
        assert_eq!(status.state, LinkState::Connected);
        assert!(status.lag.is_zero() && status.behind_records == 0 && status.catching_up.is_empty(), "{status:?}");
    }
    one.close(LONG).unwrap();
    other.close(LONG).unwrap();
}

#[test]
fn what_both_wrote_while_the_line_was_cut_crosses_when_it_is_mended() {
    let (one, other) = (node("surgery-1"), node("surgery-2"));
    let link = link(&one, &other);
    for round in 0..5 {
        link.cut();
        append(&one, &["a"]);
        append(&other, &["b", "c"]);
        let status = link.status();
        assert_eq!((status.lag.records, status.behind_records), (1, 2), "round {round}");
        link.heal();
        assert!(link.wait_synced(LONG));
        assert_equal(&[&one, &other]);
    }
    let mut events = link.events();
    assert!(events.by_ref().any(|event| matches!(event, LinkEvent::CaughtUp { is_whole: true, .. })));
}

#[test]
fn ends_that_never_meet_get_each_other_s_records_through_a_chain_of_hubs() {
    let [one, hub, second, other] = ["surgery-1", "hub", "hub-2", "surgery-2"].map(node);
    let _links = [link(&one, &hub), link(&hub, &second), link(&other, &second)];
    for round in 1..=10 {
        let (from_one, from_other) = (append(&one, &["a"]), append(&other, &["b"]));
        from_one.wait(Durability::Mirrored(3)).unwrap();
        from_other.wait(Durability::Mirrored(3)).unwrap();
        assert_equal(&[&one, &hub, &second, &other]);
        assert_eq!(held(&one)["surgery-2"].len(), round);
    }
}

#[test]
fn a_ring_carries_everything_to_everyone() {
    let nodes = ["a", "b", "c", "d"].map(node);
    let links: Vec<_> = (0..4).map(|index| link(&nodes[index], &nodes[(index + 1) % 4])).collect();
    for store in &nodes {
        append(store, &["1", "2", "3"]);
    }
    for store in &nodes {
        append(store, &["4"]).wait(Durability::Mirrored(3)).unwrap();
    }
    assert!(links.iter().all(|link| link.wait_synced(LONG)));
    assert_equal(&[&nodes[0], &nodes[1], &nodes[2], &nodes[3]]);
    assert_eq!(held(&nodes[0]).len(), 4);
}

#[test]
fn a_node_joins_from_nothing_with_only_the_spaces_that_it_asks_for() {
    let (hub, late) = (node("hub"), node("late"));
    append(&hub, &["1", "2"]);
    hub.space("another").unwrap().append("secret").unwrap().wait(Durability::Local).unwrap();
    let link = link(&late, &hub);
    assert!(link.wait_synced(LONG));
    assert_eq!(held(&late)["hub"], ["1", "2"]);
    assert!(late.space("another").unwrap().logs().is_empty());
}

#[test]
fn a_node_that_lost_its_newest_records_gets_them_back_and_writes_on_in_a_new_log() {
    let disk = Arc::new(vfs::Memory::default());
    let builder = Store::builder().node("surgery-1").vfs(disk);
    let hub = node("hub");
    let store = builder.clone().create("store").unwrap();
    let to_hub = link(&store, &hub);
    append(&store, &["before", "the fire"]).wait(Durability::Mirrored(1)).unwrap();
    let earlier = store.space(SPACE).unwrap().own_log().unwrap();
    to_hub.stop();
    store.close(LONG).unwrap();
    drop((store, to_hub));

    // The disk is gone; an empty store of the same name takes its place.
    let replaced = Store::builder().node("surgery-1").in_memory().unwrap();
    let to_hub = link(&replaced, &hub);
    assert!(to_hub.wait_synced(LONG));
    assert_eq!(held(&replaced)["surgery-1"], ["before", "the fire"]);
    append(&replaced, &["after"]).wait(Durability::Mirrored(1)).unwrap();
    let space = replaced.space(SPACE).unwrap();
    let own = space.own_log().unwrap();
    assert_ne!(own, earlier);
    let parent = space.logs().iter().find(|info| info.id == own).unwrap().genesis.parent.unwrap();
    assert_eq!((parent.log, parent.head.next_seq.0), (earlier, 2), "it continues the one that came back");
    assert_equal(&[&replaced, &hub]);
    replaced.close(LONG).unwrap();
}

#[test]
fn a_space_is_linked_once_whichever_end_began_it() {
    let (one, other) = (node("surgery-1"), node("surgery-2"));
    let _link = link(&one, &other);
    let again = other.sync_in_process(&one).spaces([SPACE]).start();
    assert!(matches!(again, Err(Error::AlreadyLinked { .. })), "{again:?}");
    let mirror = one.mirror_in_process(&other).spaces([SPACE]).start();
    assert!(matches!(mirror, Err(Error::AlreadyLinked { .. })), "{mirror:?}");
}
