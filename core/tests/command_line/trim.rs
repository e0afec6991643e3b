//! `counterfoil trim`, and retention by the commands that run for long.

use crate::sandbox::{Ended, Running, Sandbox, eventually};

/// A practice of so many records, and a hub that serves.
fn scene(records: usize) -> (Sandbox, Running, String) {
    let sandbox = Sandbox::with_practice_and_hub();
    append(&sandbox, 0..records);
    let (hub, address) = sandbox.serve("127.0.0.1:0", "");
    (sandbox, hub, address)
}

fn append(sandbox: &Sandbox, numbers: std::ops::Range<usize>) {
    sandbox.run_with("append practice.store", &lines(numbers)).expect_status(0);
}

fn lines(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

fn first_seq(sandbox: &Sandbox, store: &str) -> u64 {
    sandbox.status(store)["logs"][0]["first_seq"].as_u64().unwrap()
}

fn json_lines(stdout: &[u8]) -> Vec<serde_json::Value> {
    stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect()
}

#[test]
fn what_the_mirror_has_is_removed_and_the_mirror_keeps_it() {
    let (sandbox, hub, address) = scene(20);
    let trim = format!("trim practice.store --remove-older-than 0 --to hub@{address} --tls tls-practice-1");
    let planned = sandbox.run(&format!("{trim} --dry-run")).expect_status(0);
    assert!(planned.text().contains("20 records would be removed, seq 0 to before 20"), "{planned:?}");
    assert_eq!(first_seq(&sandbox, "practice.store"), 0);
    let whole = sandbox.head("practice.store", "practice-1");

    let done = sandbox.run(&trim).expect_status(0);
    assert!(
        done.text().contains(" of practice-1: 20 records removed, seq 0 to before 20\n20 records removed, "),
        "{done:?}"
    );
    assert!(done.stderr.is_empty(), "{done:?}");
    assert_eq!(sandbox.head("practice.store", "practice-1"), whole);
    sandbox.run("verify practice.store").expect_status(0);

    // It goes on where it was, and the hub with it.
    append(&sandbox, 20..25);
    let again = sandbox.run(&format!("{trim} --json")).expect_status(0);
    let [log, sum] = &json_lines(&again.stdout)[..] else { panic!("{again:?}") };
    assert_eq!((&log["node"], &log["space"]), (&"practice-1".into(), &"practice-1".into()));
    let number = |name: &str| log[name].as_u64().unwrap();
    assert_eq!((number("from"), number("to"), number("due"), number("records")), (20, 25, 25, 5));
    assert_eq!((sum["records"].as_u64(), &log["bytes"]), (Some(5), &sum["bytes"]));
    assert!(log.get("held").is_none() && sum["freed_segments"].is_u64(), "{log} {sum}");
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_eq!(sandbox.cat("hub.store --space practice-1"), lines(0..25));
    assert_eq!(sandbox.head("practice.store", "practice-1"), sandbox.head("hub.store", "practice-1"));
}

#[test]
fn what_nobody_is_known_to_have_stays_and_that_is_bad_news() {
    let sandbox = Sandbox::with_practice_and_hub();
    append(&sandbox, 0..10);
    let refused = sandbox.run("trim practice.store --remove-older-than 0").expect_status(2);
    assert!(refused.only_error().contains("--to NODE@ADDR --tls DIR") && refused.only_error().contains("--mirrors 0"));
    // Nobody listens there.
    let trim =
        "trim practice.store --remove-older-than 0 --to hub@127.0.0.1:1 --tls tls-practice-1 --timeout SECS --json";
    let why = "counterfoil: records are due and stay in 1 log; not all of it is known to be mirrored: hub has not been reached (";
    let says_why = |ended: &Ended| ended.stderr.contains(why);
    let held = sandbox.run_within(&["0.2", "5", "60"], trim, says_why).expect_status(1);
    assert!(held.only_error().starts_with(why), "{held:?}");
    let log = &json_lines(&held.stdout)[0];
    assert_eq!((&log["records"], &log["due"], &log["held"]["by"]), (&0.into(), &10.into(), &"not_mirrored".into()));
    // A dry run beside a writer asks nobody, and says what is due.
    let mut writer = sandbox.start("append practice.store --ack");
    writer.write("10\n");
    assert_eq!(writer.read_line(), "ack 10");
    let planned = sandbox.run("trim practice.store --remove-older-than 0 --dry-run").expect_status(1);
    assert!(planned.text().contains("nothing removed; all before 1") && planned.text().contains("too few other nodes"));
    writer.finish().expect_status(0);
    assert_eq!(sandbox.cat("practice.store"), lines(0..11));

    let (hub, address) = sandbox.serve("127.0.0.1:0", "");
    let two = format!(
        "trim practice.store --remove-older-than 0 --mirrors 2 --to hub@{address} --tls tls-practice-1 --timeout 0.2"
    );
    sandbox.run(&two).expect_status(1);
    let named = two.replace("--mirrors 2", "--held-by hub-2");
    sandbox.run(&named).expect_status(1);
    assert_eq!(first_seq(&sandbox, "practice.store"), 0);
    drop(hub);
    let gone = sandbox.run("trim practice.store --remove-older-than 0 --mirrors 0").expect_status(0);
    assert!(gone.text().contains("11 records removed"), "{gone:?}");
}

#[test]
fn only_what_is_old_or_too_much_of_the_space_named_goes() {
    let sandbox = Sandbox::with_practice();
    let input: Vec<_> = (0..400).flat_map(|number| format!("{number:0250}\n").into_bytes()).collect();
    sandbox.run_with("append practice.store", &input).expect_status(0);
    sandbox.run_with("append practice.store --space other", b"kept\n").expect_status(0);
    let young = sandbox.run("trim practice.store --remove-older-than 1 --mirrors 0").expect_status(0);
    assert_eq!(young.text(), "0 records removed, 0 bytes; 0 segments given back, 0 bytes, of which 0 copied forward\n");
    let bytes = sandbox.status("practice.store")["spaces"][1]["bytes"].as_u64().unwrap();
    sandbox.run(&format!("trim practice.store --remove-beyond {} --mirrors 0", bytes / 2)).expect_status(0);
    let log = sandbox.status("practice.store")["logs"]
        .as_array()
        .unwrap()
        .iter()
        .find(|log| log["space"] != "other")
        .unwrap()
        .clone();
    let (first, kept) = (log["first_seq"].as_u64().unwrap(), log["bytes"].as_u64().unwrap());
    assert!((200..=250).contains(&first) && kept <= bytes / 2 && kept > bytes / 3, "{log}");
    assert_eq!(log["trimmed_bytes"].as_u64().unwrap() + kept, bytes);
    assert_eq!(sandbox.cat("practice.store --space other"), b"kept\n");
    for words in
        ["trim practice.store", "trim practice.store --mirrors 0", "trim practice.store --held-by hub --mirrors 0"]
    {
        assert!(sandbox.run(words).expect_status(2).only_error().contains("--remove-older-than DAYS"), "{words}");
    }
    let typo = sandbox.run("trim practice.store --remove-older-than 30d").expect_status(2);
    assert!(typo.only_error().contains("give a number of days"), "{typo:?}");
    assert!(
        sandbox
            .run("trim practice.store --space oter --remove-older-than 0 --mirrors 0")
            .expect_status(2)
            .only_error()
            .contains("it has: other")
    );
}

#[test]
fn status_and_cat_say_what_was_removed_and_where_the_log_begins() {
    let sandbox = Sandbox::with_practice();
    append(&sandbox, 0..10);
    let digest = sandbox.head("practice.store", "practice-1").0;
    sandbox.run("trim practice.store --remove-older-than 0 --mirrors 0").expect_status(0);
    let status = sandbox.status("practice.store");
    let log = &status["logs"][0];
    let id = log["id"].as_str().unwrap();
    assert_eq!(
        (&log["first_seq"], &log["first_digest"], &log["bytes"]),
        (&10.into(), &digest.as_str().into(), &0.into())
    );
    append(&sandbox, 10..15);
    let text = sandbox.run("status practice.store").expect_status(0);
    let removed =
        format!("    removed: seq 0 to before 10, {} bytes; their last digest {digest}\n", log["trimmed_bytes"]);
    assert!(text.text().contains(&removed) && text.text().contains(": seq 10 to before 15, "), "{}", text.text());

    let told =
        format!("counterfoil: log {id} is kept from 10 on: retention removed 0 to before that; a mirror may have them");
    for words in ["", "--merged", "--follow --limit 5", "--json"] {
        let ended = sandbox.run(&format!("cat practice.store {words}")).expect_status(0);
        assert_eq!(ended.only_error(), told, "{words}");
        assert!(words == "--json" || ended.stdout == lines(10..15), "{words}: {ended:?}");
    }
    for words in ["--from 3", "--from 0", "--from 3 --follow"] {
        let ended = sandbox.run(&format!("cat practice.store {words}")).expect_status(1);
        let goes_on = format!("; `--log {id} --from 10` goes on after it");
        assert!(ended.only_error().ends_with(&goes_on) && ended.stdout.is_empty(), "{words}: {ended:?}");
    }
    assert_eq!(sandbox.cat("practice.store --from 10"), lines(10..15));
    // A follower that knows where the log begins is told once.
    let mut follow = sandbox.start("cat practice.store --follow");
    assert_eq!(follow.read_line(), "10");
    append(&sandbox, 15..16);
    (11..16).for_each(|number| assert_eq!(follow.read_line(), number.to_string()));
    follow.signal("INT");
    assert_eq!(follow.finish().expect_status(0).only_error(), told);
}

#[test]
fn a_follower_that_is_overtaken_by_retention_ends_and_says_what_it_missed() {
    let sandbox = Sandbox::with_practice();
    append(&sandbox, 0..5);
    let mut follow = sandbox.start("cat practice.store --follow");
    (0..5).for_each(|number| assert_eq!(follow.read_line(), number.to_string()));
    follow.signal("STOP");
    append(&sandbox, 5..10);
    sandbox.run("trim practice.store --remove-older-than 0 --mirrors 0").expect_status(0);
    append(&sandbox, 10..12);
    follow.signal("CONT");
    let ended = follow.finish().expect_status(1);
    assert!(ended.only_error().contains("is kept from 10 on: retention removed 5 to before that"), "{ended:?}");
}

#[test]
fn a_mirror_that_runs_removes_what_the_hub_has_and_the_hub_what_its_own_mirror_has() {
    let sandbox = Sandbox::with_practice_and_hub();
    sandbox.run("init hub-2.store --node hub-2").expect_status(0);
    sandbox.certify("hub-2");
    sandbox.write("hub-2.toml", "[[grant]]\nnode = \"hub\"\nspace = \"*\"\nrights = [\"relay\"]\n");
    append(&sandbox, 0..30);
    let (second, onward) = sandbox.serve_as("hub-2", "127.0.0.1:0", "--policy hub-2.toml");
    let rules = "--remove-older-than 0";
    let (first, address) = sandbox.serve("127.0.0.1:0", &format!("--mirror-to hub-2@{onward} {rules} --held-by hub-2"));
    let mirror = format!("mirror practice.store --to hub@{address} --tls tls-practice-1 {rules}");
    let twice = sandbox.run(&format!("{mirror} --once")).expect_status(2);
    assert!(twice.only_error().contains("--once"), "{twice:?}");
    let running = sandbox.start(&mirror);
    for store in ["practice.store", "hub.store"] {
        eventually(|| (first_seq(&sandbox, store) == 30).then_some(())).unwrap_or_else(|| panic!("{store} keeps all"));
    }
    running.wait_for_error("records removed");
    for process in [running, first, second] {
        process.signal("TERM");
        process.finish().expect_status(0);
    }
    assert_eq!(sandbox.cat("hub-2.store --space practice-1"), lines(0..30));
    for store in ["practice.store", "hub.store", "hub-2.store"] {
        sandbox.run(&format!("verify {store}")).expect_status(0);
        assert_eq!(sandbox.head(store, "practice-1"), sandbox.head("hub-2.store", "practice-1"));
    }
}

#[test]
fn a_signal_ends_it_at_once_and_the_store_is_whole() {
    let sandbox = Sandbox::with_practice_and_hub();
    append(&sandbox, 0..10);
    // Somebody who takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let trim =
        format!("trim practice.store --remove-older-than 0 --to hub@{address} --tls tls-practice-1 --timeout 600");
    let running = sandbox.start(&trim);
    silent.accept().unwrap();
    running.signal("TERM");
    assert_eq!(running.finish().status, None, "it was ended by the signal");
    assert_eq!(sandbox.cat("practice.store"), lines(0..10));
    append(&sandbox, 10..12);
    sandbox.run("verify practice.store").expect_status(0);
}

#[test]
fn a_mirror_that_joins_later_is_refused_the_log_with_the_reason_until_it_has_it_of_one_that_has_all() {
    let (sandbox, hub, address) = scene(20);
    sandbox.run("init late.store --node late").expect_status(0);
    sandbox.certify("late");
    let grants = ["hub", "practice-1"]
        .map(|node| format!("[[grant]]\nnode = \"{node}\"\nspace = \"practice-1\"\nrights = [\"read\", \"relay\"]\n"));
    sandbox.write("late.toml", grants.concat());
    let trim = format!("trim practice.store --remove-older-than 0 --to hub@{address} --tls tls-practice-1");
    sandbox.run(&trim).expect_status(0);
    append(&sandbox, 20..25);
    let (late, late_address) = sandbox.serve_as("late", "127.0.0.1:0", "--policy late.toml");
    let mirror = format!("mirror practice.store --to late@{late_address} --tls tls-practice-1 --once");
    let refused = sandbox.run(&mirror).expect_status(1);
    let gap = "the source can't serve 0 to before 20: retention removed them; another replica may";
    assert!(refused.stderr.contains(gap), "{refused:?}");
    late.wait_for_error(gap);
    // Nor is anything more removed for its sake.
    let held = sandbox.run(&trim.replace(&format!("hub@{address}"), &format!("late@{late_address}"))).expect_status(1);
    assert!(held.only_error().contains(gap) && held.text().contains("nothing removed"), "{held:?}");
    hub.signal("TERM");
    hub.finish().expect_status(0);
    let from_hub = format!("mirror hub.store --space practice-1 --to late@{late_address} --tls tls-hub --once");
    sandbox.run(&from_hub).expect_status(0);
    sandbox.run(&mirror).expect_status(0);
    late.signal("TERM");
    late.finish().expect_status(0);
    assert_eq!(sandbox.cat("late.store --space practice-1"), lines(0..25));
}

#[test]
fn history_reaches_back_as_far_as_the_log_and_says_so_which_is_no_bad_news() {
    let sandbox = Sandbox::with_practice();
    for value in ["one", "two", "three"] {
        sandbox.run_with("put practice.store --collection c 7", value.as_bytes()).expect_status(0);
    }
    sandbox.run("trim practice.store --remove-beyond 0 --mirrors 0").expect_status(0);
    let history = sandbox.run("history practice.store --collection c 7").expect_status(0);
    assert_eq!(history.text().lines().count(), 1, "{history:?}");
    assert!(history.only_error().contains("versions of 7 that retention has removed: "), "{}", history.stderr);
    assert_eq!(sandbox.run("get practice.store --collection c 7").expect_status(0).text(), "three\n");
}
