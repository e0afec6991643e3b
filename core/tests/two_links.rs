//! Two links that carry one space to one node.
#![cfg(feature = "net")]
#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "an attacker's program, kept as it was")]
use std::time::Duration;

use counterfoil::{
    Durability, NodeName, Store, Tls,
    certificates::{self, DAYS_DEFAULT},
};

fn tls(folder: &std::path::Path) -> Tls {
    certificates::create_ca(&folder.join("ca")).unwrap();
    certificates::issue(&folder.join("ca"), &NodeName::new("p").unwrap(), &folder.join("p"), DAYS_DEFAULT).unwrap();
    Tls::from_dir(folder.join("p")).unwrap()
}

#[test]
fn a_link_of_all_spaces_does_not_take_one_that_another_link_carries() {
    let folder = tempfile::tempdir().unwrap();
    let tls = tls(folder.path());
    let store = Store::builder().node("p").in_memory().unwrap();
    let all = store.mirror_to("hub@127.0.0.1:1", tls.clone()).all_spaces().start().unwrap();
    let one = store.mirror_to("hub@127.0.0.1:1", tls).spaces(["later"]).start();
    println!("second link: {:?}", one.as_ref().map(drop));
    store.space("later").unwrap().append(b"x").unwrap().wait(Durability::Local).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    println!("all: {:?}", all.status());
    println!("one: {:?}", one.as_ref().map(|link| link.status()));
    let text = format!("{:?}", all.status());
    assert!(one.is_err() || !text.contains("later"), "both links carry the space `later` to the node hub");
}

#[test]
fn of_two_links_started_at_once_for_one_space_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tls = tls(folder.path());
    let mut both = 0;
    for _ in 0..200 {
        let store = Store::builder().node("p").in_memory().unwrap();
        store.space("s").unwrap().append(b"x").unwrap().wait(Durability::Local).unwrap();
        let barrier = std::sync::Barrier::new(2);
        let started: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (store, tls, barrier) = (&store, tls.clone(), &barrier);
                    scope.spawn(move || {
                        let builder = store.mirror_to("hub@127.0.0.1:1", tls).spaces(["s"]);
                        barrier.wait();
                        usize::from(builder.start().is_ok())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        both += usize::from(started == 2);
    }
    assert_eq!(both, 0, "times of 200 that both links were started");
}
