//! Links and listeners over TLS on this machine: from cut to mended, and what a reload changes.

use std::{sync::Arc, time::Duration};

use counterfoil_replication::{
    AckBoard, Direction, Limits, Policy,
    net::{DialConfig, LinkState, TlsError, dial},
};

use crate::{
    authority::{Authority, DAY, now},
    node::{Node, link, listen_as, name, space, until},
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

    assert!(listener.shutdown(Duration::from_secs(5)).await);
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
async fn a_link_says_why_there_is_none() {
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let port = listener.local_addr().port();
    let says = async |link: counterfoil_replication::net::Link, expected: &str| {
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
    let tls = counterfoil_replication::net::Tls::from_dir(&folder).unwrap();
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
    let soon =
        |name: &str| authority.tls_with(name, |params| params.not_after = (now() + Duration::from_secs(2)).into());
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", own_space_only()).await;
    let begun_at = now();
    let (by_listener, acked) = link(&node, soon("a").unwrap(), "hub", listener.local_addr().port());
    let head = node.append(1);
    until("acknowledged", || acked.lock().unwrap().contains(&head)).await;
    let said = || by_listener.status().last_error.is_some_and(|error| error.contains("not accepted there any more"));
    until("the listener cuts off who dialled", said).await;
    assert!(now().duration_since(begun_at).unwrap() > Duration::from_secs(1), "not before its end");
    drop(by_listener);

    listener.set_tls(soon("hub").unwrap()).unwrap();
    let (by_dialler, acked) = link(&node, authority.tls("a"), "hub", listener.local_addr().port());
    let head = node.append(1);
    until("acknowledged", || acked.lock().unwrap().contains(&head)).await;
    let said = || by_dialler.status().last_error.is_some_and(|error| error.contains("its certificate has expired"));
    until("the dialler cuts off who listens", said).await;
    until("the listener is told", || listener.peers().is_empty()).await;
}
