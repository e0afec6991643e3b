//! `counterfoil sync`

use crate::{
    roll_back::roll_back,
    sandbox::{Ended, Sandbox, eventually},
};

/// `sync STORE --with …` as the node `name`.
fn sync(name: &str, address: &str) -> String {
    format!("sync {name}.store --with hub@{address} --tls tls-{name} --space s")
}

fn append(sandbox: &Sandbox, name: &str, input: &str) {
    sandbox.run_with(&format!("append {name}.store --space s"), input.as_bytes()).expect_status(0);
}

/// All three stores hold the same logs of the space, so many; byte for byte, since a digest stands for a whole history.
fn assert_equal(sandbox: &Sandbox, logs: usize) {
    let heads = sandbox.heads("hub.store", "s");
    assert_eq!(heads.len(), logs);
    for store in ["a.store", "b.store"] {
        assert_eq!(sandbox.heads(store, "s"), heads, "{store}");
    }
}

#[test]
fn two_members_that_never_meet_end_equal_through_the_hub() {
    let sandbox = Sandbox::with_members_and_hub();
    append(&sandbox, "a", "one\ntwo\n");
    append(&sandbox, "b", "three\n");
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    for name in ["a", "b", "a"] {
        let ended = sandbox.run(&format!("{} --once", sync(name, &address))).expect_status(0);
        assert!(ended.stdout.is_empty());
    }
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_equal(&sandbox, 2);
    let lines = String::from_utf8(sandbox.cat("b.store --space s")).unwrap();
    let mut lines: Vec<_> = lines.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "three", "two"]);
    for store in ["a.store", "b.store", "hub.store"] {
        sandbox.run(&format!("verify {store}")).expect_status(0);
    }
}

#[test]
fn a_sync_that_runs_carries_what_comes_both_ways_until_a_signal() {
    let sandbox = Sandbox::with_members_and_hub();
    append(&sandbox, "a", "one\n");
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    let running = sandbox.start(&sync("a", &address));
    append(&sandbox, "b", "two\n");
    sandbox.run(&format!("{} --once", sync("b", &address))).expect_status(0);
    // Beside the process that writes it, once it is proven durable.
    eventually(|| (sandbox.heads("a.store", "s").len() == 2).then_some(())).expect("what b gave the hub comes to a");
    running.signal("TERM");
    running.finish().expect_status(0);
    sandbox.run(&format!("{} --once", sync("b", &address))).expect_status(0);
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_equal(&sandbox, 2);
}

#[test]
fn a_store_that_was_set_back_gets_back_what_it_lost_and_writes_on_in_a_new_log() {
    let sandbox = Sandbox::with_members_and_hub();
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    let sync = || sandbox.run(&format!("{} --once", sync("a", &address)));
    append(&sandbox, "a", "one\ntwo\n");
    sync().expect_status(0);
    let (store, aside) = (sandbox.path("a.store"), sandbox.path("a.aside"));
    roll_back(&store, &aside);
    append(&sandbox, "a", "three\n");
    sync().expect_status(0);
    roll_back(&aside, &store);
    let incarnation = sandbox.status("a.store")["incarnation"].clone();
    sync().expect_status(0);
    assert_ne!(sandbox.status("a.store")["incarnation"], incarnation);
    append(&sandbox, "a", "four\n");
    sync().expect_status(0);
    hub.signal("TERM");
    hub.finish().expect_status(0);
    let heads = sandbox.heads("hub.store", "s");
    assert_eq!((heads.len(), sandbox.heads("a.store", "s")), (2, heads));
    for store in ["a.store", "hub.store"] {
        let lines = String::from_utf8(sandbox.cat(&format!("{store} --space s --merged"))).unwrap();
        assert_eq!(lines, "one\ntwo\nthree\nfour\n", "{store}");
    }
}

#[test]
fn sync_once_does_not_answer_for_what_came_after_it_had_all() {
    let sandbox = Sandbox::with_members_and_hub();
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    let mut other = sandbox.start(&format!("append b.store --space s --ack --mirror-to hub@{address} --tls tls-b"));
    append(&sandbox, "a", "one\n");
    // What the hub relays meanwhile comes in at any moment, also between a's last look and its end.
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                other.write("two\n");
                other.read_line();
            }
        });
        let ended: Vec<_> = (0..40).map(|_| sandbox.run(&format!("{} --once", sync("a", &address)))).collect();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        for ended in ended {
            ended.expect_status(0);
        }
    });
    other.finish().expect_status(0);
    hub.signal("TERM");
    hub.finish().expect_status(0);
}

#[test]
fn a_node_that_was_replaced_by_an_empty_one_gets_its_records_back_and_writes_on() {
    let sandbox = Sandbox::with_members_and_hub();
    append(&sandbox, "a", "before\n");
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    sandbox.run(&format!("{} --once", sync("a", &address))).expect_status(0);
    std::fs::remove_dir_all(sandbox.path("a.store")).unwrap();
    sandbox.run("init a.store --node a").expect_status(0);
    sandbox.run(&format!("{} --once", sync("a", &address))).expect_status(0);
    assert_eq!(sandbox.cat("a.store --space s"), b"before\n");
    append(&sandbox, "a", "after\n");
    assert_eq!(sandbox.cat("a.store --space s"), b"before\nafter\n", "the new log continues the old one");
    for name in ["a", "b"] {
        sandbox.run(&format!("{} --once", sync(name, &address))).expect_status(0);
    }
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_equal(&sandbox, 2);
}

#[test]
fn sync_once_names_the_right_that_is_missing_and_ends_with_bad_news() {
    for (rights, what) in [
        ("\"read\"", "no right to stream this space: grant `write`, or `relay` for logs of others"),
        (
            "\"write\"",
            "not all that hub has of space s is known to be here (hub says: no right to get this space: grant `read`",
        ),
    ] {
        let sandbox = Sandbox::with_members_and_hub();
        let policy = format!("[[grant]]\nnode = \"a\"\nspace = \"s\"\nrights = [{rights}]\n");
        sandbox.write("policy.toml", policy);
        append(&sandbox, "a", "one\n");
        append(&sandbox, "hub", "two\n");
        let (_hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
        // Longer than this test waits for a command.
        let ended = sandbox.run(&format!("{} --once --timeout 1000", sync("a", &address))).expect_status(1);
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.contains(what), "{last}");
    }
}

#[test]
fn a_space_that_neither_end_has_is_told() {
    let sandbox = Sandbox::with_members_and_hub();
    let (_hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    let ended = sandbox.run(&format!("{} --once", sync("a", &address))).expect_status(0);
    let last = ended.stderr.lines().last().unwrap();
    assert_eq!(last, format!("counterfoil: no space s here or at hub@{address}: there was nothing to sync"));
}

#[test]
fn sync_once_without_the_other_end_says_that_nothing_is_known() {
    let sandbox = Sandbox::with_members_and_hub();
    let words = format!("{} --once --timeout SECS", sync("a", "127.0.0.1:1"));
    let why = "counterfoil: not all that hub has of space s is known to be here (hub@";
    let says_why = |ended: &Ended| ended.stderr.contains(why);
    let ended = sandbox.run_within(&["0.5", "5", "60"], &words, says_why).expect_status(1);
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.starts_with(why), "{last}");
}

#[test]
fn sync_with_another_node_than_meant_says_so_once_however_many_logs_there_are() {
    let sandbox = Sandbox::with_members_and_hub();
    append(&sandbox, "a", "one\n");
    append(&sandbox, "b", "two\n");
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    for name in ["a", "b", "a"] {
        sandbox.run(&format!("{} --once", sync(name, &address))).expect_status(0);
    }
    assert_eq!(sandbox.heads("a.store", "s").len(), 2);
    let words = format!("sync a.store --with other@{address} --tls tls-a --space s --once");
    let ended = sandbox.run(&words).expect_status(1);
    let last = ended.stderr.lines().last().unwrap();
    assert_eq!(last.matches("it is the node hub, not other").count(), 1, "{last}");
    assert!(
        last.contains("other has not been reached (") && last.contains("nothing is known of what it has"),
        "{last}"
    );
    hub.signal("TERM");
    hub.finish().expect_status(0);
}

#[test]
fn a_hub_that_serves_syncs_all_that_it_has_and_gets_with_another() {
    let sandbox = Sandbox::with_members_and_hub();
    sandbox.run("init far.store --node far").expect_status(0);
    sandbox.certify("far");
    sandbox.write("far.toml", "[[grant]]\nnode = \"hub\"\nspace = \"*\"\nrights = [\"read\", \"relay\"]\n");
    let (far, far_address) = sandbox.serve_as("far", "127.0.0.1:0", "--policy far.toml");
    let onward = format!("--policy policy.toml --sync-with far@{far_address}");
    let (hub, address) = sandbox.serve("127.0.0.1:0", &onward);
    append(&sandbox, "a", "one\n");
    sandbox.run(&format!("{} --once", sync("a", &address))).expect_status(0);
    eventually(|| (sandbox.cat_if_there("far.store", "s") == b"one\n").then_some(()))
        .expect("it goes on to the far hub");
    for running in [hub, far] {
        running.signal("TERM");
        running.finish().expect_status(0);
    }
    append(&sandbox, "far", "two\n");
    let (far, far_address) = sandbox.serve_as("far", "127.0.0.1:0", "--policy far.toml");
    let onward = format!("--policy policy.toml --sync-with far@{far_address}");
    let (hub, address) = sandbox.serve("127.0.0.1:0", &onward);
    // What the far hub has comes the same way back.
    let synced = || {
        sandbox.run(&format!("{} --once", sync("a", &address))).expect_status(0);
        (sandbox.heads("a.store", "s").len() == 2).then_some(())
    };
    eventually(synced).expect("it comes from the far hub");
    for running in [hub, far] {
        running.signal("TERM");
        running.finish().expect_status(0);
    }
}

#[test]
fn a_peer_that_accepts_the_connection_and_is_silent_is_told_as_such() {
    let sandbox = Sandbox::with_members_and_hub();
    append(&sandbox, "a", "one\n");
    // As the kernel does for a process that is stopped.
    let stopped = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stopped.local_addr().unwrap().to_string();
    let mirror = format!("mirror a.store --to hub@{address} --tls tls-a --space s");
    for words in [sync("a", &address), mirror] {
        let why = format!("hub@{address}: it accepts the connection but does not answer");
        // Before 10 s are over, after which the attempt counts as failed.
        let words = format!("{words} --once --timeout SECS");
        let ended = sandbox.run_within(&["2", "5", "9"], &words, |ended| ended.stderr.contains(&why)).expect_status(1);
        let line = ended.only_error();
        assert!(line.contains(&why), "{line}");
    }
}
