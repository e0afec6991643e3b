//! Links and servers over TCP and TLS, through the public API.
#![cfg(feature = "net")]

use std::{path::Path, time::Duration};

use counterfoil::{
    Durability, ErrorKind, LinkEvent, LinkState, NodeName, Policy, Space, Store, Tls,
    certificates::{self, DAYS_DEFAULT},
};

const LONG: Duration = Duration::from_secs(60);

/// A private authority, and the certificates of some nodes, in one folder.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(nodes: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        certificates::create_ca(&folder.path().join("ca")).unwrap();
        for node in nodes {
            let out = folder.path().join(node);
            let name = NodeName::new(node).unwrap();
            certificates::issue(&folder.path().join("ca"), &name, &out, DAYS_DEFAULT).unwrap();
        }
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn tls(&self, node: &str) -> Tls {
        Tls::from_dir(self.path().join(node)).unwrap()
    }
}

fn node(name: &str) -> Store {
    Store::builder().node(name).in_memory().unwrap()
}

fn append(space: &Space, count: usize) -> counterfoil::Receipt {
    let bodies: Vec<_> = (0..count).map(|index| format!("record {index}")).collect();
    let receipt = space.append_all(&bodies).unwrap();
    receipt.wait(Durability::Local).unwrap();
    receipt
}

#[test]
fn a_space_is_mirrored_over_tls_and_goes_on_when_the_hub_comes_back() {
    let site = Site::new(&["practice-12", "hub"]);
    let (practice, hub) = (node("practice-12"), node("hub"));
    let server = hub.serve("127.0.0.1:0", site.tls("hub")).start().unwrap();
    let address = server.local_addr();
    let link = practice.mirror_to(format!("hub@{address}"), site.tls("practice-12")).start().unwrap();
    let space = practice.own_space().unwrap();
    append(&space, 300).wait(Durability::Mirrored(1)).unwrap();
    let connected: Vec<_> = server.peers().iter().map(|peer| peer.node.to_string()).collect();
    assert_eq!(connected, ["practice-12"]);
    assert_eq!(hub.stats().peers, [practice.node().clone()]);

    server.stop();
    let mut events = link.events();
    assert!(events.by_ref().any(|event| matches!(event, LinkEvent::Disconnected { .. })));
    let receipt = append(&space, 300);
    let reached = receipt.wait_timeout(Durability::Mirrored(1), Duration::from_millis(5)).unwrap();
    assert_eq!(reached, Durability::Local);
    assert_eq!(link.status().lag.records, 300);

    let server = hub.serve(address.to_string(), site.tls("hub")).start().unwrap();
    link.retry_now();
    receipt.wait(Durability::Mirrored(1)).unwrap();
    assert!(link.wait_mirrored(LONG));
    assert_eq!(link.status().state, LinkState::Connected);
    let heads = |store: &Store| store.logs().iter().map(|info| (info.id, info.durable)).collect::<Vec<_>>();
    assert_eq!(heads(&practice), heads(&hub));
    practice.close(LONG).unwrap();
    server.stop();
    hub.close(LONG).unwrap();
}

#[test]
fn a_space_without_a_grant_is_refused_by_name_until_the_policy_grants_it() {
    let site = Site::new(&["practice-12", "hub"]);
    let (practice, hub) = (node("practice-12"), node("hub"));
    let server = hub.serve("127.0.0.1:0", site.tls("hub")).start().unwrap();
    let peer = format!("hub@{}", server.local_addr());
    let space = practice.space("other").unwrap();
    append(&space, 1);
    let link = practice.mirror_to(peer, site.tls("practice-12")).spaces(["other"]).start().unwrap();
    let refused = link.events().find(|event| matches!(event, LinkEvent::Refused { .. } | LinkEvent::Parked { .. }));
    assert!(refused.is_some());
    assert!(hub.logs().is_empty(), "nothing was stored");
    let status = link.status();
    assert!(status.refused.len() + status.parked.len() > 0, "{status:?}");
    let grant = "[[grant]]\nnode = \"practice-12\"\nspace = \"other\"\nrights = [\"read\", \"write\"]\n";
    server.set_policy(Policy::parse(grant).unwrap());
    assert!(link.wait_mirrored(LONG));
}

#[test]
fn closing_does_not_wait_for_what_the_peer_refuses_and_says_why() {
    let site = Site::new(&["practice-12", "hub"]);
    let (practice, hub) = (node("practice-12"), node("hub"));
    let server = hub.serve("127.0.0.1:0", site.tls("hub")).start().unwrap();
    let peer = format!("hub@{}", server.local_addr());
    append(&practice.space("other").unwrap(), 1);
    let _link = practice.mirror_to(peer, site.tls("practice-12")).spaces(["other"]).start().unwrap();
    // An hour is not what this test takes.
    let error = practice.close(Duration::from_secs(3600)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotMirrored);
    assert!(error.to_string().contains("hub says"), "{error}");
}

#[test]
fn a_link_refuses_another_node_and_says_so() {
    let site = Site::new(&["practice-12", "hub"]);
    let (practice, hub) = (node("practice-12"), node("hub"));
    let server = hub.serve("127.0.0.1:0", site.tls("hub")).start().unwrap();
    let peer = format!("hub-2@{}", server.local_addr());
    let link = practice.mirror_to(peer, site.tls("practice-12")).start().unwrap();
    let said = link.events().find_map(|event| match event {
        LinkEvent::Disconnected { reason } => Some(reason),
        _ => None,
    });
    assert!(said.is_some());
    let status = (0..6000).map(|_| link.status()).find(|status| {
        std::thread::sleep(Duration::from_millis(10));
        status.last_error.as_ref().is_some_and(|error| error.contains("hub"))
    });
    assert_eq!(status.unwrap().state, LinkState::Connecting);
}

#[test]
fn misuse_of_names_addresses_and_certificates_is_said_at_the_call() {
    let site = Site::new(&["practice-12", "hub"]);
    let practice = node("practice-12");
    let start = |peer: &str, tls: &str| practice.mirror_to(peer, site.tls(tls)).start().unwrap_err();
    assert_eq!(start("hub", "practice-12").kind(), ErrorKind::Misuse);
    assert_eq!(start("practice-12@127.0.0.1:1", "practice-12").kind(), ErrorKind::Misuse);
    assert_eq!(start("hub@127.0.0.1:1", "hub").kind(), ErrorKind::Security);
    let serve = |address: &str, tls: &str| practice.serve(address, site.tls(tls)).start().unwrap_err();
    assert_eq!(serve("127.0.0.1:0", "hub").kind(), ErrorKind::Security);
    assert_eq!(serve("192.0.2.1:1", "practice-12").kind(), ErrorKind::System);
    let missing: counterfoil::Error = Tls::from_dir(site.path().join("nobody")).unwrap_err().into();
    assert_eq!(missing.kind(), ErrorKind::Security);

    practice.close(Duration::ZERO).unwrap();
    assert_eq!(start("hub@127.0.0.1:1", "practice-12").kind(), ErrorKind::Closed);
}

#[test]
fn all_of_it_works_and_is_dropped_inside_the_applications_own_runtime() {
    let site = Site::new(&["practice-12", "hub"]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (practice, hub) = (node("practice-12"), node("hub"));
        let server = hub.serve("127.0.0.1:0", site.tls("hub")).start().unwrap();
        let peer = format!("hub@{}", server.local_addr());
        let _link = practice.mirror_to(peer, site.tls("practice-12")).start().unwrap();
        let receipt = practice.own_space().unwrap().append("a").unwrap();
        receipt.durable(Durability::Mirrored(1)).await.unwrap();
    });
}

#[test]
fn a_record_counts_as_mirrored_twice_once_the_hub_behind_the_hub_has_it() {
    let site = Site::new(&["practice-12", "hub", "hub-2"]);
    let [practice, hub, second] = ["practice-12", "hub", "hub-2"].map(node);
    let relay = Policy::parse("[[grant]]\nnode = \"hub\"\nspace = \"*\"\nrights = [\"relay\"]").unwrap();
    let behind = second.serve("127.0.0.1:0", site.tls("hub-2")).policy(relay).start().unwrap();
    let onward = hub.mirror_to(format!("hub-2@{}", behind.local_addr()), site.tls("hub")).all_spaces().start().unwrap();
    let front = hub.serve("127.0.0.1:0", site.tls("hub")).start().unwrap();
    let to_hub = format!("hub@{}", front.local_addr());
    let link = practice.mirror_to(to_hub, site.tls("practice-12")).start().unwrap();
    let space = practice.own_space().unwrap();
    for _ in 0..20 {
        append(&space, 10).wait(Durability::Mirrored(2)).unwrap();
    }
    assert!(onward.status().spaces.iter().any(|space| space.as_str() == "practice-12"));
    // The hub behind is gone: the one in front still acknowledges, and nothing is taken for there that is not.
    behind.stop();
    let receipt = append(&space, 10);
    receipt.wait(Durability::Mirrored(1)).unwrap();
    let reached = receipt.wait_timeout(Durability::Mirrored(2), Duration::from_millis(50)).unwrap();
    assert_eq!(reached, Durability::Mirrored(1));
    assert!(link.status().lag.is_zero());
}
