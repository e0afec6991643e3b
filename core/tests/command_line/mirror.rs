//! `counterfoil serve`, `counterfoil mirror` and `counterfoil append --mirror-to`

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::sandbox::{Sandbox, eventually};

#[test]
fn what_is_appended_is_on_the_hub_s_disk_when_the_command_ends() {
    let sandbox = Sandbox::with_practice_and_hub();
    let (hub, address) = sandbox.serve("127.0.0.1:0", "");
    let mirror = format!("--mirror-to hub@{address} --tls tls-practice-1");
    sandbox.run_with(&format!("append practice.store {mirror}"), b"one\ntwo\n").expect_status(0);
    // Beside the hub's process, which proves its last commit durable within milliseconds.
    let is_there = || (sandbox.cat_if_there("hub.store", "practice-1") == b"one\ntwo\n").then_some(());
    eventually(is_there).expect("what is proven durable is served");
    assert_eq!(sandbox.head("hub.store", "practice-1"), sandbox.head("practice.store", "practice-1"));
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_eq!(sandbox.cat("hub.store --space practice-1"), b"one\ntwo\n");
    assert_eq!(sandbox.cat("practice.store"), b"one\ntwo\n");
}

#[test]
fn mirrored_acks_come_while_input_is_open() {
    let sandbox = Sandbox::with_practice_and_hub();
    let (_hub, address) = sandbox.serve("127.0.0.1:0", "");
    let mirror = format!("--mirror-to hub@{address} --tls tls-practice-1");
    let mut append = sandbox.start(&format!("append practice.store --ack --durability mirrored {mirror}"));
    for seq in 0..5 {
        append.write(format!("record {seq}\n"));
        assert_eq!(append.read_line(), format!("ack {seq}"));
    }
    append.finish().expect_status(0);
}

#[test]
fn mirror_once_ends_when_all_is_there_and_a_hub_holds_many_spaces() {
    let sandbox = Sandbox::with_practice_and_hub();
    let (hub, address) = sandbox.serve("127.0.0.1:0", "");
    for number in 1..=3 {
        let node = format!("practice-{number}");
        if number > 1 {
            sandbox.run(&format!("init {node}.store --node {node}")).expect_status(0);
            sandbox.certify(&node);
        }
        let store = if number == 1 { "practice.store".to_owned() } else { format!("{node}.store") };
        let input = format!("of {node}\n").repeat(1000);
        sandbox.run_with(&format!("append {store}"), input.as_bytes()).expect_status(0);
        let mirror = format!("mirror {store} --to hub@{address} --tls tls-{node} --once");
        for _ in 0..2 {
            sandbox.run(&mirror).expect_status(0);
        }
        let at_hub = || (sandbox.cat_if_there("hub.store", &node) == input.as_bytes()).then_some(());
        eventually(at_hub).expect("byte for byte");
    }
    hub.signal("INT");
    hub.finish().expect_status(0);
    assert_eq!(sandbox.status("hub.store")["spaces"].as_array().unwrap().len(), 3);
}

#[test]
fn a_mirror_goes_on_until_a_signal_and_through_restarts_of_the_hub() {
    let sandbox = Sandbox::with_practice_and_hub();
    sandbox.run_with("append practice.store", b"one\n").expect_status(0);
    let (hub, address) = sandbox.serve(&Sandbox::own_address(), "");
    let mirror = sandbox.start(&format!("mirror practice.store --to hub@{address} --tls tls-practice-1"));
    eventually(|| (sandbox.cat_if_there("hub.store", "practice-1") == b"one\n").then_some(())).expect("mirrored");
    hub.signal("TERM");
    hub.finish().expect_status(0);
    let (hub, _) = sandbox.serve(&address, "");
    hub.wait_for_error("practice-1");
    mirror.signal("TERM");
    mirror.finish().expect_status(0);
}

#[test]
fn a_policy_is_read_again_on_sighup_while_sessions_live() {
    let sandbox = Sandbox::with_practice_and_hub();
    let grant = |space: &str| {
        let policy = format!("[[grant]]\nnode = \"practice-1\"\nspace = \"{space}\"\nrights = [\"read\", \"write\"]\n");
        sandbox.write("policy.toml", policy);
    };
    grant("shared");
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    let mirror = format!("--mirror-to hub@{address} --tls tls-practice-1 --durability mirrored --ack");
    let granted = format!("append practice.store --space shared {mirror}");
    sandbox.run_with(&granted, b"one\n").expect_status(0);
    let to_own = format!("append practice.store --space practice-1 {mirror}");
    let append = sandbox.start_unmirrored(&format!("{to_own} --timeout 600"), "practice.store", "practice-1", "two\n");
    append.wait_for_error("no right to stream this space: grant `write`");
    append.signal("TERM");
    assert!(append.finish().expect_status(1).stdout.is_empty());

    grant("practice-1");
    hub.signal("HUP");
    hub.wait_for_error("read again");
    sandbox.run_with(&to_own, b"three\n").expect_status(0);

    sandbox.write("policy.toml", "[[grant]]\nnode = 7\n");
    hub.signal("HUP");
    let line = hub.wait_for_error("nothing reloaded");
    assert!(line.contains("policy.toml"), "{line}");
    sandbox.run_with(&to_own, b"four\n").expect_status(0);

    sandbox.write("policy.toml", "[[deny]]\nnode = \"practice-1\"\n");
    hub.signal("HUP");
    eventually(|| (hub.errors().matches("read again").count() == 2).then_some(())).unwrap();
    sandbox.run_with(&format!("{to_own} --timeout 1"), b"five\n").expect_status(1);
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_eq!(sandbox.cat("hub.store --space practice-1"), b"two\nthree\nfour\n");
}

#[test]
fn a_denial_that_is_reloaded_ends_the_session_at_once_and_nobody_else_s() {
    let sandbox = Sandbox::with_practice_and_hub();
    sandbox.run("init practice-2.store --node practice-2").expect_status(0);
    sandbox.certify("practice-2");
    sandbox.write("policy.toml", "");
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    let append = |store: &str, node: &str| {
        let mirror = format!("--mirror-to hub@{address} --tls tls-{node} --durability mirrored --ack");
        sandbox.start(&format!("append {store} {mirror}"))
    };
    let (mut denied, mut other) = (append("practice.store", "practice-1"), append("practice-2.store", "practice-2"));
    for append in [&mut denied, &mut other] {
        append.write("before\n");
        assert_eq!(append.read_line(), "ack 0");
    }
    sandbox.write("policy.toml", "[[deny]]\nnode = \"practice-1\"\n");
    hub.signal("HUP");
    // Nothing is sent meanwhile: it ends because of the denial, not because of what comes next.
    hub.wait_for_error("the policy denies practice-1");
    denied.wait_for_error("this node is denied there");
    denied.write("after\n");
    other.write("after\n");
    assert_eq!(other.read_line(), "ack 1");
    assert_eq!(sandbox.cat("hub.store --space practice-1"), b"before\n");
    other.finish().expect_status(0);

    sandbox.write("policy.toml", "");
    hub.signal("HUP");
    assert_eq!(denied.read_line(), "ack 1", "it goes on by itself once it may");
    denied.finish().expect_status(0);
}

#[test]
fn certificates_are_renewed_at_both_ends_without_dropping_the_link() {
    let sandbox = Sandbox::with_practice_and_hub();
    let (hub, address) = sandbox.serve(&Sandbox::own_address(), "");
    let mirror = format!("--mirror-to hub@{address} --tls tls-practice-1 --durability mirrored --ack");
    let mut append = sandbox.start(&format!("append practice.store {mirror}"));
    append.write("one\n");
    assert_eq!(append.read_line(), "ack 0");
    for node in ["hub", "practice-1"] {
        sandbox.certify(node);
    }
    hub.signal("HUP");
    hub.wait_for_error("read again");
    append.write("two\n");
    assert_eq!(append.read_line(), "ack 1");
    assert_eq!(hub.errors().matches("session begins").count(), 1, "{}", hub.errors());
    // The next connection is made with the new ones.
    hub.signal("TERM");
    hub.finish().expect_status(0);
    let (_hub, _) = sandbox.serve(&address, "");
    append.write("three\n");
    assert_eq!(append.read_line(), "ack 2");
    append.finish().expect_status(0);
}

#[test]
fn a_grant_that_gives_nothing_is_told_with_its_line() {
    let sandbox = Sandbox::with_practice_and_hub();
    let grant = |rights| format!("[[grant]]\nnode = \"practice-1\"\nspace = \"*\"\nrights = [{rights}]\n");
    sandbox.write("policy.toml", grant(""));
    let ended = sandbox.run("serve hub.store --listen 127.0.0.1:0 --tls tls-hub --policy policy.toml").expect_status(2);
    let line = ended.only_error();
    assert!(
        line.contains("policy.toml") && line.contains("line 4 grants practice-1 no rights on *: name some of"),
        "{line}"
    );
    sandbox.write("policy.toml", grant("\"read\", \"takeover\""));
    let (hub, _) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    let told = hub.wait_for_error("takeover, which nothing asks for yet");
    assert!(told.contains("line=4") && told.contains("practice-1"), "{told}");
}

#[test]
fn a_policy_that_can_t_be_read_is_refused_at_the_start() {
    let sandbox = Sandbox::with_practice_and_hub();
    sandbox.write("policy.toml", "[[grant]]\nnode = \"a\"\nspace = \"b\"\nrights = [\"everything\"]\n");
    for policy in ["policy.toml", "nowhere.toml"] {
        let words = format!("serve hub.store --listen 127.0.0.1:0 --tls tls-hub --policy {policy}");
        let ended = sandbox.run(&words).expect_status(2);
        assert!(ended.only_error().contains(policy), "{}", ended.stderr);
    }
    let ended = sandbox.run("serve hub.store --listen 127.0.0.1:99999 --tls tls-hub").expect_status(2);
    assert!(ended.only_error().contains("127.0.0.1:99999"), "{}", ended.stderr);
}

#[test]
fn metrics_are_there_for_prometheus() {
    let sandbox = Sandbox::with_practice_and_hub();
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--metrics 127.0.0.1:0");
    let mirror = format!("--mirror-to hub@{address} --tls tls-practice-1");
    sandbox.run_with(&format!("append practice.store {mirror}"), b"one\ntwo\n").expect_status(0);
    let line = hub.wait_for_error("metrics at http://");
    let place = line.split_once("http://").unwrap().1.split('/').next().unwrap();
    let ask = |request: &str| {
        let mut client = TcpStream::connect(place).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    // The hub may not have noticed yet that the command has ended.
    let has_left = |answer: &String| answer.contains("counterfoil_peers{node=\"hub\"} 0\n");
    eventually(|| Some(ask("GET /metrics HTTP/1.1\r\n\r\n")).filter(has_left)).expect("nobody is connected");
    let answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("counterfoil_records{node=\"hub\",space=\"practice-1\"} 2\n"), "{answer}");
    for healthy in ["poisoned", "storage_full", "damaged_places", "peers"] {
        assert!(answer.contains(&format!("counterfoil_{healthy}{{node=\"hub\"}} 0\n")), "{healthy}: {answer}");
    }
    assert!(ask("GET /metrics?name=x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.0 200 OK"));
    let head = ask("HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.0 200 OK") && head.ends_with("\r\n\r\n"), "no body: {head}");
    assert!(ask("GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 404"));
    assert!(ask("GET /metricsx HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 404"));
    assert!(ask("nonsense\r\n\r\n").starts_with("HTTP/1.0 405"));
    hub.signal("TERM");
    hub.finish().expect_status(0);
}

#[test]
fn a_space_that_is_not_there_can_t_be_mirrored() {
    let sandbox = Sandbox::with_practice_and_hub();
    let mirror = "mirror practice.store --to hub@127.0.0.1:1 --tls tls-practice-1";
    let ended = sandbox.run(&format!("{mirror} --once --space other")).expect_status(2);
    assert_eq!(ended.only_error(), "counterfoil: no space other in practice.store; it has none yet");
    sandbox.run_with("append practice.store", b"one\n").expect_status(0);
    for words in ["--once", ""] {
        let ended = sandbox.run(&format!("{mirror} {words} --space other")).expect_status(2);
        assert_eq!(ended.only_error(), "counterfoil: no space other in practice.store; it has: practice-1");
    }
}

#[test]
fn mirror_once_that_is_refused_or_interrupted_says_what_was_not_acknowledged() {
    let sandbox = Sandbox::with_practice_and_hub();
    sandbox.run_with("append practice.store --space other", b"one\n").expect_status(0);
    let (hub, address) = sandbox.serve("127.0.0.1:0", "");
    let mirror = format!("mirror practice.store --to hub@{address} --tls tls-practice-1 --once --space other");
    let ended = sandbox.run(&mirror).expect_status(1);
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.contains("hub has not acknowledged 1 record of space other from 0 (hub says: no right"), "{last}");
    assert_eq!(ended.stderr.matches("space refused").count(), 1, "said once: {}", ended.stderr);
    hub.signal("TERM");
    hub.finish().expect_status(0);

    let mirror = sandbox.start(&mirror);
    mirror.wait_for_error("no link");
    mirror.signal("TERM");
    let ended = mirror.finish().expect_status(1);
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.contains("hub has not been reached (hub@"), "{last}");
    assert!(last.contains("nothing is known of what it has of space other"), "{last}");
}

#[test]
fn mirror_once_ends_with_bad_news_when_it_makes_no_progress() {
    let sandbox = Sandbox::with_practice_and_hub();
    sandbox.run_with("append practice.store", b"one\n").expect_status(0);
    for address in ["127.0.0.1:1", "no-such-host.invalid:7400"] {
        let mirror = format!("mirror practice.store --to hub@{address} --tls tls-practice-1 --once --timeout 0.5");
        let ended = sandbox.run(&mirror).expect_status(1);
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.starts_with("counterfoil: ") && last.contains("hub has not been reached"), "{last}");
    }
}

#[test]
fn mirror_once_ends_at_once_where_trying_again_can_t_help() {
    let sandbox = Sandbox::with_practice_and_hub();
    sandbox.run_with("append practice.store", b"one\n").expect_status(0);
    let (_hub, address) = sandbox.serve("127.0.0.1:0", "");
    sandbox.run("cert ca other-ca").expect_status(0);
    sandbox.run("cert node other-ca --node practice-1 --out tls-other").expect_status(0);
    sandbox.certify_expired("practice-1", "tls-expired");
    for (to, tls, expected) in [
        ("hub", "tls-other", "its certificate was not issued by this node's authority"),
        ("hub-2", "tls-practice-1", "it is the node hub, not hub-2"),
        ("hub", "tls-expired", "it refused this node's certificate"),
    ] {
        // Longer than this test waits for a command.
        let mirror = format!("mirror practice.store --to {to}@{address} --tls {tls} --once --timeout 1000");
        let ended = sandbox.run(&mirror).expect_status(1);
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.contains(&format!("({to}@{address}: ")) && last.contains(expected), "{last}");
    }
}

#[test]
fn an_own_certificate_that_has_expired_is_told_once_in_words_and_nothing_is_served_with_it() {
    let sandbox = Sandbox::with_practice_and_hub();
    sandbox.certify_expired("practice-1", "tls-practice-1");
    let to = "--mirror-to hub@127.0.0.1:1 --tls tls-practice-1 --durability mirrored --timeout 2";
    let ended = sandbox.run_with(&format!("append practice.store {to}"), b"one\n").expect_status(1);
    let warnings: Vec<_> =
        ended.stderr.lines().filter(|line| line.contains("WARN") && line.contains("expired")).collect();
    assert_eq!(warnings.len(), 1, "{}", ended.stderr);
    assert!(warnings[0].contains("tls-practice-1/cert.pem expired 24 hours ago"), "{}", warnings[0]);

    sandbox.certify_expired("hub", "tls-hub");
    let ended = sandbox.run("serve hub.store --listen 127.0.0.1:0 --tls tls-hub").expect_status(2);
    assert!(ended.only_error().contains("tls-hub/cert.pem expired"), "{}", ended.stderr);
}

#[test]
fn a_hub_that_serves_mirrors_onward_all_that_it_has_and_gets() {
    let sandbox = Sandbox::with_practice_and_hub();
    for node in ["practice-2", "hub-2"] {
        sandbox.run(&format!("init {node}.store --node {node}")).expect_status(0);
        sandbox.certify(node);
    }
    sandbox.write("hub-2.toml", "[[grant]]\nnode = \"hub\"\nspace = \"*\"\nrights = [\"relay\"]\n");
    let (second, second_address) = sandbox.serve_as("hub-2", "127.0.0.1:0", "--policy hub-2.toml");
    let onward = format!("--mirror-to hub-2@{second_address}");
    let append = |address: &str, store: &str, node: &str, input: &[u8]| {
        let mirror = format!("--mirror-to hub@{address} --tls tls-{node} --durability mirrored");
        sandbox.run_with(&format!("append {store} {mirror}"), input).expect_status(0);
    };
    let at_second = |node: &str, expected: &[u8]| {
        let is_there = || (sandbox.cat_if_there("hub-2.store", node) == expected).then_some(());
        eventually(is_there).unwrap_or_else(|| panic!("{node}: {}", second.errors()));
    };
    // What is there before the link, a space that comes while it lives, and what comes after a restart.
    let (hub, address) = sandbox.serve("127.0.0.1:0", "");
    append(&address, "practice.store", "practice-1", b"one\n");
    hub.signal("TERM");
    hub.finish().expect_status(0);
    let (hub, address) = sandbox.serve("127.0.0.1:0", &onward);
    at_second("practice-1", b"one\n");
    append(&address, "practice-2.store", "practice-2", b"two\n");
    at_second("practice-2", b"two\n");
    hub.signal("HUP");
    hub.wait_for_error("read again");
    append(&address, "practice.store", "practice-1", b"three\n");
    at_second("practice-1", b"one\nthree\n");
    assert_eq!(second.errors().matches("session begins").count(), 1, "one session for all: {}", second.errors());
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_eq!(sandbox.head("hub-2.store", "practice-1"), sandbox.head("practice.store", "practice-1"));
}
