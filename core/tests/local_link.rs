//! The in-process link, and what closing reports.

use std::time::Duration;

use counterfoil::{Durability, Error, ErrorKind, LinkEvent, LinkState, Space, Store};

const LONG: Duration = Duration::from_secs(60);

fn node(name: &str) -> Store {
    Store::builder().node(name).in_memory().unwrap()
}

fn append(space: &Space, count: usize) -> counterfoil::Receipt {
    let receipts: Vec<_> = (0..count).map(|index| space.append(format!("record {index}")).unwrap()).collect();
    let last = receipts.into_iter().last().unwrap();
    last.wait(Durability::Local).unwrap();
    last
}

/// Both ends have the same log, byte for byte: one digest stands for its whole history.
fn assert_equal(one: &Store, other: &Store) {
    let heads = |store: &Store| store.logs().iter().map(|info| (info.id, info.durable)).collect::<Vec<_>>();
    assert_eq!(heads(one), heads(other));
}

#[test]
fn what_is_appended_is_mirrored_and_reads_back_at_the_other_end() {
    let (practice, hub) = (node("practice-12"), node("hub"));
    let link = practice.mirror_in_process(&hub).start().unwrap();
    let space = practice.own_space().unwrap();
    append(&space, 500).wait(Durability::Mirrored(1)).unwrap();
    assert_equal(&practice, &hub);
    let mirrored = hub.space("practice-12").unwrap();
    assert_eq!(mirrored.own_log(), None, "the hub has not written here");
    let there: Vec<_> = mirrored.read(..).unwrap().map(|record| record.unwrap().into_body()).collect();
    let here: Vec<_> = space.read(..).unwrap().map(|record| record.unwrap().into_body()).collect();
    assert_eq!(there, here);
    assert!(link.status().lag.is_zero());
    assert_eq!(link.status().state, LinkState::Connected);
}

#[test]
fn what_is_written_while_the_line_is_cut_arrives_when_it_is_mended() {
    let (practice, hub) = (node("practice-12"), node("hub"));
    let link = practice.mirror_in_process(&hub).start().unwrap();
    let space = practice.own_space().unwrap();
    append(&space, 20).wait(Durability::Mirrored(1)).unwrap();
    for _ in 0..3 {
        link.cut();
        let receipt = append(&space, 20);
        link.heal();
        receipt.wait(Durability::Mirrored(1)).unwrap();
    }
    assert!(link.wait_mirrored(LONG));
    assert_equal(&practice, &hub);
    assert_eq!(hub.space("practice-12").unwrap().read(..).unwrap().count(), 80);
}

#[test]
fn a_cut_line_shows_in_status_and_events() {
    let (practice, hub) = (node("practice-12"), node("hub"));
    let link = practice.mirror_in_process(&hub).start().unwrap();
    let space = practice.own_space().unwrap();
    append(&space, 1).wait(Durability::Mirrored(1)).unwrap();
    let mut events = link.events();
    assert_eq!(events.next(), Some(LinkEvent::Connected));

    link.cut();
    assert!(events.by_ref().any(|event| matches!(event, LinkEvent::Disconnected { .. })));
    append(&space, 3);
    let status = link.status();
    assert_eq!((status.state, status.lag.records), (LinkState::Cut, 3));
    assert!(status.lag.bytes > 0);
    assert!(!link.wait_mirrored(Duration::ZERO));

    link.heal();
    assert!(events.by_ref().any(|event| event == LinkEvent::Connected));
    assert!(link.wait_mirrored(LONG));
    link.stop();
    assert_eq!(link.status().state, LinkState::Stopped);
    assert!(events.all(|event| matches!(event, LinkEvent::InSync { .. })), "what is left is told, then it ends");
}

#[test]
fn closing_reports_what_is_not_mirrored_and_loses_nothing() {
    let vfs = std::sync::Arc::new(counterfoil::vfs::Memory::default());
    let builder = Store::builder().node("practice-12").vfs(vfs);
    let hub = node("hub");
    let practice = builder.clone().create("store").unwrap();
    let link = practice.mirror_in_process(&hub).start().unwrap();
    let space = practice.own_space().unwrap();
    append(&space, 2).wait(Durability::Mirrored(1)).unwrap();
    link.cut();
    append(&space, 3);
    match practice.close(Duration::from_millis(5)) {
        Err(error @ Error::NotMirrored { .. }) => {
            assert_eq!(error.kind(), ErrorKind::NotMirrored);
            assert!(
                error.to_string().contains("hub has not acknowledged 3 records of space practice-12 from 2"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    practice.close(LONG).unwrap();
    assert_eq!(space.append("late").unwrap_err().kind(), ErrorKind::Closed);
    drop((practice, space, link));

    let practice = builder.open("store").unwrap();
    let _link = practice.mirror_in_process(&hub).start().unwrap();
    practice.close(LONG).unwrap();
    assert_eq!(hub.space("practice-12").unwrap().read(..).unwrap().count(), 5);
}

#[test]
fn only_the_spaces_named_are_carried() {
    let (practice, hub) = (node("practice-12"), node("hub"));
    let [shared, private] = ["shared", "private"].map(|name| practice.space(name).unwrap());
    append(&private, 1);
    let link = practice.mirror_in_process(&hub).spaces(["shared"]).start().unwrap();
    append(&shared, 1).wait(Durability::Mirrored(1)).unwrap();
    assert!(link.wait_mirrored(LONG));
    assert!(hub.space("private").unwrap().logs().is_empty());
}

#[test]
fn a_store_whose_handles_are_gone_gives_its_lock_back_though_it_was_linked() {
    let vfs = std::sync::Arc::new(counterfoil::vfs::Memory::default());
    let builder = Store::builder().node("practice-12").vfs(vfs);
    let hub = node("hub");
    let practice = builder.clone().create("store").unwrap();
    append(&practice.own_space().unwrap(), 1);
    let link = practice.mirror_in_process(&hub).start().unwrap();
    assert!(link.wait_mirrored(LONG));
    let events = link.events();
    drop((practice, link));
    // The link's thread lets go a moment later.
    assert!(!events.into_iter().any(|event| matches!(event, LinkEvent::Parked { .. })));
    let reopened = (0..1000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        builder.clone().open("store").ok()
    });
    assert_eq!(reopened.unwrap().own_space().unwrap().read(..).unwrap().count(), 1);
}

#[test]
fn a_space_goes_to_a_node_by_one_link_only() {
    let (practice, hub, second) = (node("practice-12"), node("hub"), node("hub-2"));
    let link = practice.mirror_in_process(&hub).spaces(["a", "b"]).start().unwrap();
    match practice.mirror_in_process(&hub).spaces(["b", "c"]).start() {
        Err(error @ Error::AlreadyLinked { .. }) => {
            assert_eq!(error.to_string().split(':').next(), Some("space b goes to hub by another link already"));
            assert_eq!(error.kind(), ErrorKind::Misuse);
        }
        other => panic!("{other:?}"),
    }
    let other_space = practice.mirror_in_process(&hub).spaces(["c"]).start().unwrap();
    let _other_node = practice.mirror_in_process(&second).spaces(["b"]).start().unwrap();
    other_space.stop();
    link.stop();
    practice.mirror_in_process(&hub).spaces(["b", "c"]).start().unwrap();
}

#[test]
fn a_hub_mirrors_onward_what_it_received() {
    let (practice, hub, second) = (node("practice-12"), node("hub"), node("hub-2"));
    let _first_hop = practice.mirror_in_process(&hub).start().unwrap();
    let onward = hub.mirror_in_process(&second).spaces(["practice-12"]).start().unwrap();
    append(&practice.own_space().unwrap(), 10).wait(Durability::Mirrored(1)).unwrap();
    assert!(onward.wait_mirrored(LONG));
    assert_equal(&practice, &second);
}
