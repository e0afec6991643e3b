//! Whose word it is that counts when a node's own log is longer elsewhere.

use super::{
    super::rewound,
    sync::{append_own, member_and_hub},
    *,
};

/// A peer that has more of a log than the node that writes it: what of that the node is to look at.
fn claims(mut member: Node, mut hub: Node) -> Vec<(LogId, Head)> {
    let log = append_own(&mut member, "p", &["1"]);
    append_own(&mut hub, "p", &["1"]);
    append_own(&mut hub, "p", &["2"]);
    run(start(), &mut member, &mut hub);
    let claims: Vec<_> = std::iter::from_fn(|| member.session.poll_claim()).collect();
    assert!(claims.iter().all(|(id, head)| *id == log && head.next_seq == Seq(2)), "{claims:?}");
    assert!(claims.len() <= rewound::CLAIMS_MAX);
    claims
}

#[test]
fn the_word_of_a_node_counts_that_this_one_dialled_or_lets_relay_and_of_no_other() {
    let (member, hub) = member_and_hub();
    assert!(!claims(member, hub).is_empty(), "it dialled");
    for (rights, counts) in [("\"read\"", false), ("\"read\", \"write\"", false), ("\"read\", \"relay\"", true)] {
        let policy = format!("[[grant]]\nnode = \"hub\"\nspace = \"s\"\nrights = [{rights}]");
        let policy = Policy::parse(&policy).unwrap();
        let member = Node::with("p", "hub", &[], policy, Limits::default());
        let hub = Node::new("hub", "p", &[("s", Direction::Both)]);
        assert_eq!(!claims(member, hub).is_empty(), counts, "{rights}");
    }
}
