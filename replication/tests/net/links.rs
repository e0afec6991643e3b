//! Links and listeners over TLS on this machine: from cut to mended, and what a reload changes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use counterfoil_replication::{
    AckBoard, Direction, Event, Limits, Policy,
    net::{DialConfig, Link, LinkEvent, LinkState, Tls, TlsError, dial},
};
use counterfoil_storage::Head;

use crate::{
    authority::{Authority, DAY, now},
    node::{Node, PATIENCE, link, link_telling, listen_as, name, space, until},
};

fn own_space_only() -> Policy {
    Policy::own_space_only()
}

#[tokio::test]
async fn a_link_mirrors_a_node_and_both_ends_know_who_the_other_is() {
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let (link, acked) = link(&node, authority.tls("a"), "hub", listener.local_addr().port());
    for _ in 0..3 {
        let head = node.append(100);
        until("acknowledged", || acked.lock().unwrap().contains(&head)).await;
        assert_eq!(hub.head(node.log), Some(head));
    }
    assert_eq!(hub.bodies(node.log), node.bodies(node.log));
    let status = link.status();
    assert!(matches!(status.state, LinkState::Connected { .. }), "{status:?}");
    assert_eq!(status.session.unwrap().peer, name("hub"));
    assert_eq!(listener.peers().iter().map(|peer| peer.node.clone()).collect::<Vec<_>>(), [name("a")]);
}

#[tokio::test]
async fn a_link_outlives_the_hub_and_goes_on_where_it_was() {
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let address = listener.local_addr();
    let (link, acked) = link(&node, authority.tls("a"), "hub", address.port());
    let head = node.append(10);
    until("acknowledged", || acked.lock().unwrap().contains(&head)).await;

    assert!(listener.shutdown(PATIENCE).await);
    drop(listener);
    until("noticed", || link.status().last_error.is_some()).await;
    let head = node.append(10);

    let _listener = listen_as(&hub, &authority, &address.to_string(), own_space_only()).await;
    link.retry_now();
    until("acknowledged", || acked.lock().unwrap().contains(&head)).await;
    assert_eq!(hub.bodies(node.log), node.bodies(node.log));
    assert_eq!(link.status().sessions, 2);
    assert_eq!(link.status().last_error, None);
}

#[tokio::test]
async fn the_address_of_a_listener_that_is_closed_is_free_at_once() {
    let (authority, hub) = (Authority::new(), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let address = listener.local_addr();
    assert!(std::net::TcpListener::bind(address).is_err());
    // No task of the runtime gets to run in between.
    listener.close();
    std::net::TcpListener::bind(address).unwrap();
}

#[tokio::test]
async fn a_link_says_why_there_is_none() {
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let port = listener.local_addr().port();
    let says = async |link: Link, expected: &str| {
        let said = || link.status().last_error.is_some_and(|error| error.contains(expected));
        until(expected, said).await;
        assert_eq!(link.status().sessions, 0);
    };
    says(link(&node, authority.tls("a"), "hub-2", port).0, "it is the node hub, not hub-2").await;
    says(link(&node, Authority::new().tls("a"), "hub", port).0, "not issued by this node's authority").await;
    says(link(&node, authority.expired("a"), "hub", port).0, "it has expired").await;
    listener.set_policy(&Arc::new(Policy::parse("[[deny]]\nnode = \"a\"").unwrap()));
    says(link(&node, authority.tls("a"), "hub", port).0, "denied there").await;
    drop(listener);
    says(link(&node, authority.tls("a"), "hub", port).0, "it can't be reached").await;
}

#[tokio::test]
async fn a_reloaded_policy_ends_the_sessions_of_those_it_denies_and_no_others() {
    let (authority, a, b, hub) = (Authority::new(), Node::new("a"), Node::new("b"), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let port = listener.local_addr().port();
    let (link_a, _) = link(&a, authority.tls("a"), "hub", port);
    let (link_b, acked_b) = link(&b, authority.tls("b"), "hub", port);
    until("linked", || link_a.status().sessions == 1 && link_b.status().sessions == 1).await;

    listener.set_policy(&Arc::new(Policy::parse("[[deny]]\nnode = \"a\"").unwrap()));
    until("told", || link_a.status().last_error.is_some_and(|error| error.contains("denied there"))).await;
    let head = b.append(1);
    until("acknowledged", || acked_b.lock().unwrap().contains(&head)).await;
    assert_eq!(link_b.status().sessions, 1);
    assert!(listener.peers().iter().all(|peer| peer.node == name("b")));

    listener.set_policy(&Arc::new(own_space_only()));
    link_a.retry_now();
    until("linked again", || link_a.status().sessions == 2).await;
}

#[tokio::test]
async fn certificates_that_are_replaced_while_a_hub_runs_count_from_then_on() {
    let (old, new, node, hub) = (Authority::new(), Authority::new(), Node::new("a"), Node::new("hub"));
    let listener = listen_as(&hub, &old, "127.0.0.1:0", own_space_only()).await;
    let (link, acked) = link(&node, old.tls("a"), "hub", listener.local_addr().port());
    until("linked", || link.status().sessions == 1).await;

    listener.set_tls(old.tls("hub")).unwrap();
    let head = node.append(1);
    until("acknowledged", || acked.lock().unwrap().contains(&head)).await;
    assert_eq!(link.status().sessions, 1, "a renewed certificate of the same authority disturbs nobody");
    link.set_tls(old.tls("a")).unwrap();
    let head = node.append(1);
    until("acknowledged", || acked.lock().unwrap().contains(&head)).await;
    assert_eq!(link.status().sessions, 1, "nor at the end that dials");

    assert!(matches!(listener.set_tls(old.tls("b")), Err(TlsError::OtherNode { .. })));
    listener.set_tls(new.tls("hub")).unwrap();
    until("ended", || link.status().last_error.is_some()).await;
    link.set_tls(new.tls("a")).unwrap();
    until("linked again", || link.status().sessions == 2).await;
}

#[tokio::test]
async fn a_link_takes_up_a_certificate_that_was_renewed_in_its_folder() {
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let folder = authority.folder_with("a", "a", |params| params.not_after = (now() - DAY / 2).into());
    let tls = Tls::from_dir(&folder).unwrap();
    let (link, _) = link(&node, tls, "hub", listener.local_addr().port());
    until("refused", || link.status().last_error.is_some_and(|error| error.contains("expired"))).await;
    authority.folder("a");
    until("linked", || link.status().sessions == 1).await;
}

#[tokio::test]
async fn a_link_that_is_stopped_leaves_at_once_and_stays_away() {
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let (link, _) = link(&node, authority.tls("a"), "hub", listener.local_addr().port());
    until("linked", || listener.peers().len() == 1).await;
    link.stop();
    assert_eq!(link.status().state, LinkState::Stopped);
    link.stopped().await;
    until("gone", || listener.peers().is_empty()).await;
}

#[tokio::test]
async fn a_store_does_not_dial_with_another_node_s_certificate() {
    let (authority, node) = (Authority::new(), Node::new("a"));
    let config = DialConfig {
        target: "hub@127.0.0.1:1".parse().unwrap(),
        journal: node.journal.clone(),
        tls: authority.tls("b"),
        spaces: vec![(space("a"), Direction::Send)],
        policy: Arc::new(Policy::nothing()),
        limits: Limits::default(),
        acks: AckBoard::new(name("a")),
        compress: false,
    };
    let error = dial(config, |_| {}).unwrap_err().to_string();
    assert!(error.contains("is for the node b, but the store is of a"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_expires_during_a_session_ends_it_at_either_end() {
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let port = listener.local_addr().port();
    let lasting = |name: &str, lifetime: Duration| {
        authority.tls_with(name, |params| params.not_after = (now() + lifetime).into()).unwrap()
    };
    // Within the first of these times a busy machine may not come to a session.
    let lifetimes = [2, 10, 60].map(Duration::from_secs);

    let mut is_cut_off = false;
    for lifetime in lifetimes {
        let begun_at = now();
        let link = Watched::begin(&node, lasting("a", lifetime), port);
        if !link.acks(node.append(1)).await {
            continue;
        }
        until("the listener cuts off who dialled", || link.said("not accepted there any more")).await;
        // A certificate counts whole seconds.
        let lasted = now().duration_since(begun_at).unwrap();
        assert!(lasted + Duration::from_secs(1) > lifetime, "not before its end");
        is_cut_off = true;
        break;
    }
    assert!(is_cut_off);

    is_cut_off = false;
    for lifetime in lifetimes {
        listener.set_tls(lasting("hub", lifetime)).unwrap();
        let link = Watched::begin(&node, authority.tls("a"), port);
        if !link.acks(node.append(1)).await {
            continue;
        }
        until("the dialler cuts off who listens", || link.said("its certificate has expired")).await;
        until("the listener is told", || listener.peers().is_empty()).await;
        is_cut_off = true;
        break;
    }
    assert!(is_cut_off);
}

/// A link, and all that was acknowledged on it and said of why there is none.
struct Watched {
    _link: Link,
    acked: Arc<Mutex<Vec<Head>>>,
    reasons: Arc<Mutex<Vec<Arc<str>>>>,
}

impl Watched {
    fn begin(node: &Node, tls: Tls, port: u16) -> Self {
        let (acked, reasons) = (Arc::<Mutex<Vec<Head>>>::default(), Arc::<Mutex<Vec<Arc<str>>>>::default());
        let (acks, said) = (acked.clone(), reasons.clone());
        let link = link_telling(node, tls, "hub", port, move |event| match event {
            LinkEvent::Session(Event::Acked { head, .. }) => acks.lock().unwrap().push(head),
            LinkEvent::State(LinkState::Waiting { reason, .. }) => said.lock().unwrap().push(reason),
            _ => {}
        });
        Self { _link: link, acked, reasons }
    }

    fn said(&self, what: &str) -> bool {
        self.reasons.lock().unwrap().iter().any(|reason| reason.contains(what))
    }

    /// Waits until a head is acknowledged; false if the link comes to nothing first.
    async fn acks(&self, head: Head) -> bool {
        let has = || self.acked.lock().unwrap().contains(&head);
        until("acknowledged, or no link", || has() || !self.reasons.lock().unwrap().is_empty()).await;
        has()
    }
}
