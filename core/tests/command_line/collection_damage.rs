//! What the commands about keys, and `cat --merged`, say of a store that has lost records.

use std::{fs, time::Duration};

use counterfoil::Store;

use crate::sandbox::{Ended, Sandbox};

/// With `practice.store`, in whose space `shared` keys were put one after the other, each durably: `1` to `5`, of which `2` and
/// `4` were written by another node too, without knowledge of each other.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_practice();
    sandbox.run("init other.store --node other").expect_status(0);
    for (store, keys) in [("other", &["2", "4"][..]), ("practice", &["1", "2", "3", "4", "5"])] {
        for key in keys {
            let words = format!("put {store}.store --space shared --collection c {key}");
            sandbox.run_with(&words, format!("{key} of {store}").as_bytes()).expect_status(0);
        }
    }
    let [practice, other] = ["practice.store", "other.store"].map(|name| Store::open(sandbox.path(name)).unwrap());
    let link = other.mirror_in_process(&practice).spaces(["shared"]).start().unwrap();
    assert!(link.wait_mirrored(Duration::from_secs(60)));
    link.stop();
    practice.close(Duration::ZERO).unwrap();
    other.close(Duration::ZERO).unwrap();
    sandbox
}

/// Flips a bit of a text, wherever it is in the practice's store; again, and it is whole.
fn flip(sandbox: &Sandbox, text: &str) {
    let files = fs::read_dir(sandbox.path("practice.store")).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")) {
        let mut bytes = fs::read(&file).unwrap();
        if let Some(offset) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            bytes[offset] ^= 1;
            fs::write(&file, bytes).unwrap();
            return;
        }
    }
    panic!("{text} is in no segment");
}

fn run(sandbox: &Sandbox, command: &str, more: &str) -> Ended {
    sandbox.run(&format!("{command} practice.store --space shared --collection c {more}"))
}

/// The only line on standard error names record 2 of the practice's log, and what to do.
#[track_caller]
fn assert_names_the_hole(ended: &Ended) {
    let line = ended.only_error();
    assert!(line.contains("missing here, so that this may be wrong: records 2 to before 3 of log "), "{line}");
    assert!(
        line.ends_with("`counterfoil repair practice.store --from NODE@ADDR --tls DIR` gets back what that node has"),
        "{line}"
    );
}

#[test]
fn what_is_found_is_printed_and_what_is_missing_is_named_with_what_to_do() {
    let sandbox = sandbox();
    for (command, more) in [("get", "1"), ("keys", ""), ("history", "1")] {
        run(&sandbox, command, more).expect_status(0);
    }
    flip(&sandbox, "3 of practice");
    let got = run(&sandbox, "get", "1").expect_status(1);
    assert_eq!(got.text(), "1 of practice\n");
    assert_names_the_hole(&got);
    let nothing = run(&sandbox, "get", "3").expect_status(1);
    assert!(nothing.stdout.is_empty() && nothing.stderr.starts_with("counterfoil: nothing under 3; "), "{nothing:?}");
    assert_names_the_hole(&nothing);
    let keys = run(&sandbox, "keys", "").expect_status(1);
    assert_eq!(keys.text(), "1\n2\n4\n5\n");
    assert_names_the_hole(&keys);
    let history = run(&sandbox, "history", "1").expect_status(1);
    assert_eq!(history.text().lines().count(), 1);
    assert_names_the_hole(&history);
    let conflicts = run(&sandbox, "conflicts", "").expect_status(1);
    assert_eq!(conflicts.text().lines().count(), 2);
    assert!(conflicts.stderr.starts_with("counterfoil: 2 keys in conflict: "), "{conflicts:?}");
    assert_names_the_hole(&conflicts);
}

#[test]
fn a_deletion_in_a_store_that_lacks_records_is_made_and_what_is_missing_is_named() {
    let sandbox = sandbox();
    flip(&sandbox, "3 of practice");
    fs::remove_file(sandbox.path("practice.store/collections.redb")).unwrap();
    let last = |ended: &Ended| ended.stderr.lines().last().unwrap_or_default().to_owned();
    let nothing = run(&sandbox, "delete", "3").expect_status(1);
    assert!(nothing.stdout.is_empty(), "{nothing:?}");
    let line = last(&nothing);
    assert!(line.starts_with("counterfoil: nothing under 3; ") && line.contains("records 2 to before 3"), "{line}");
    let deleted = run(&sandbox, "delete", "1").expect_status(1);
    assert_eq!(deleted.text().lines().count(), 1, "the version that it made: {deleted:?}");
    assert!(last(&deleted).contains("records 2 to before 3"), "{deleted:?}");
    let nothing = run(&sandbox, "get", "1").expect_status(1);
    assert!(nothing.stdout.is_empty() && nothing.stderr.contains("nothing under 1"), "{nothing:?}");
}

#[test]
fn merged_records_go_on_behind_a_hole_which_is_named_with_advice_that_can_be_followed() {
    let sandbox = sandbox();
    let whole = sandbox.cat("practice.store --space shared --merged");
    flip(&sandbox, "3 of practice");
    let ended = sandbox.run("cat practice.store --space shared --merged").expect_status(1);
    let rest = String::from_utf8(whole).unwrap().replace("3 of practice\n", "");
    assert_eq!((ended.text(), rest.lines().count()), (&rest[..], 6));
    let line = ended.only_error();
    assert!(line.contains("can't be read from 2 to before 3") || line.contains("a hole from 2 to before 3"), "{line}");
    assert!(line.ends_with("; `counterfoil repair practice.store --from NODE@ADDR --tls DIR` gets it back"), "{line}");
    assert!(!line.contains("--log") && !line.contains("goes on"), "{line}");
    flip(&sandbox, "5 of practice");
    let ended = sandbox.run("cat practice.store --space shared --merged --json").expect_status(1);
    assert_eq!((ended.text().lines().count(), ended.stderr.lines().count()), (5, 2), "{ended:?}");
}

#[test]
fn status_ends_with_bad_news_as_long_as_records_are_known_to_be_missing() {
    let sandbox = sandbox();
    flip(&sandbox, "3 of practice");
    // Whoever opens it to write finds the hole, and goes on behind it.
    sandbox.run_with("put practice.store --space shared --collection c 6", b"x").expect_status(0);
    for _ in 0..2 {
        let ended = sandbox.run("status practice.store --json").expect_status(1);
        let status: serde_json::Value = serde_json::from_str(ended.text()).unwrap();
        let missing: u64 = status["logs"].as_array().unwrap().iter().map(|log| log["missing"].as_u64().unwrap()).sum();
        assert_eq!((missing, &status["recovery"]["clean"]), (1, &false.into()), "{status}");
        assert!(sandbox.run("status practice.store").expect_status(1).text().contains("1 record missing"));
        sandbox.run_with("put practice.store --space shared --collection c 7", b"x").expect_status(0);
    }
}
