//! Who goes when there are too many, and whose turn it is.

use std::{cell::Cell, time::Duration};

use tokio::task::yield_now;

use super::*;

fn bounds(handshakes_max: usize, handshakes_per_address_max: usize) -> ListenBounds {
    ListenBounds { handshakes_max, handshakes_per_address_max, ..ListenBounds::default() }
}

/// Connections waiting, by their last number: who has said something is marked.
fn waiting(connections: &[(&str, bool)]) -> Vec<Pending> {
    let numbered = connections.iter().zip(0..);
    let pending = |((address, is_promising), id): (&(&str, bool), u16)| Pending {
        id: id.into(),
        address: (address.parse::<IpAddr>().unwrap(), id).into(),
        task: tokio::spawn(std::future::pending::<()>()).abort_handle(),
        is_promising: *is_promising,
    };
    numbered.map(pending).collect()
}

/// Which of those that wait goes when one more comes.
fn displaced(pending: &mut Vec<Pending>, newcomer: &str, bounds: &ListenBounds) -> Option<u16> {
    make_room(pending, newcomer.parse().unwrap(), bounds).map(|address| address.port())
}

#[tokio::test]
async fn nobody_goes_while_there_is_room() {
    let mut pending = waiting(&[("10.0.0.1", false), ("10.0.0.2", false)]);
    assert_eq!(displaced(&mut pending, "10.0.0.3", &bounds(3, 2)), None);
    assert_eq!(pending.len(), 2);
}

#[tokio::test]
async fn of_an_origin_that_is_crowded_the_oldest_that_has_said_nothing_goes() {
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    let mut pending = waiting(&[(b, false), (a, true), (a, false), (a, false)]);
    assert_eq!(displaced(&mut pending, a, &bounds(9, 3)), Some(2));
    pending.retain(|pending| pending.is_promising);
    assert_eq!(displaced(&mut pending, a, &bounds(9, 1)), Some(1), "if all have said something, the oldest");
}

#[tokio::test]
async fn when_all_places_are_taken_one_of_the_crowd_goes_and_not_who_came_alone() {
    let (crowd, alone) = ("10.0.0.1", "10.0.0.2");
    let mut pending = waiting(&[(alone, false), (crowd, false), (crowd, false)]);
    assert_eq!(displaced(&mut pending, "10.0.0.3", &bounds(3, 3)), Some(1));
}

#[tokio::test]
async fn silence_from_everywhere_does_not_displace_a_handshake() {
    let addresses: Vec<_> = (1..=64).map(|n| format!("10.0.0.{n}")).collect();
    let silent: Vec<_> = addresses.iter().map(|address| (address.as_str(), false)).collect();
    let mut pending = waiting(&[&[("10.9.9.9", true)][..], &silent[1..]].concat());
    for n in 0..1000 {
        let newcomer = format!("10.1.{}.{}", n / 250, n % 250 + 1);
        assert!(displaced(&mut pending, &newcomer, &bounds(64, 16)).is_some_and(|port| port != 0));
        pending.extend(waiting(&[(&newcomer, false)]));
        if let Some(last) = pending.last_mut() {
            last.address.set_port(n + 100);
        }
        assert_eq!(pending.len(), 64);
    }
    assert!(pending[0].is_promising);
}

#[tokio::test]
async fn a_turn_is_one_step_and_nobody_else_s_at_the_same_time() {
    let (turns, steps) = (Semaphore::new(1), Cell::new(0));
    let handshake = async |count: u32| {
        for _ in 0..count {
            assert_eq!(turns.available_permits(), 0, "in a turn");
            steps.set(steps.get() + 1);
            yield_now().await;
        }
    };
    let stuck = in_turn(&turns, std::future::pending::<()>());
    let both = async { tokio::join!(in_turn(&turns, handshake(3)), in_turn(&turns, handshake(5))) };
    tokio::select! {
        () = stuck => panic!("it never ends"),
        _ = both => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("who waits for its peer keeps its turn"),
    }
    assert_eq!(steps.get(), 8);
}
