//! `counterfoil put`, `get`, `delete`, `keys`, `conflicts`, `resolve`, `history`, and `append --collection`.

use std::{process::Command, time::Duration};

use counterfoil::Store;
use serde_json::Value;

use crate::sandbox::{Ended, Sandbox};

/// With a second store, `other.store`, of the node `other`; both write to the space `shared`.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_practice();
    sandbox.run("init other.store --node other").expect_status(0);
    sandbox
}

/// Brings each store what the other wrote.
fn sync(sandbox: &Sandbox) {
    let [practice, other] = ["practice.store", "other.store"].map(|name| Store::open(sandbox.path(name)).unwrap());
    for (from, to) in [(&practice, &other), (&other, &practice)] {
        let link = from.mirror_in_process(to).spaces(["shared"]).start().unwrap();
        assert!(link.wait_mirrored(Duration::from_secs(60)));
        link.stop();
    }
    practice.close(Duration::ZERO).unwrap();
    other.close(Duration::ZERO).unwrap();
}

fn put(sandbox: &Sandbox, store: &str, key: &str, value: &str) -> String {
    let words = format!("put {store}.store --space shared --collection c {key}");
    let ended = sandbox.run_with(&words, value.as_bytes()).expect_status(0);
    ended.text().trim_end().to_owned()
}

fn run(sandbox: &Sandbox, command: &str, more: &str) -> Ended {
    sandbox.run(&format!("{command} practice.store --space shared --collection c {more}"))
}

fn lines(ended: &Ended) -> Vec<Value> {
    ended.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_value_is_put_got_and_deleted() {
    let sandbox = sandbox();
    let version = put(&sandbox, "practice", "7", "Ann\n");
    let (log, seq) = version.split_once(':').unwrap();
    assert_eq!((log.len(), seq), (32, "0"), "LOG:SEQ");
    let got = run(&sandbox, "get", "7").expect_status(0);
    assert_eq!((got.text(), got.stderr.as_str()), ("Ann\n", ""), "one LF at the end of the input does not count");
    let [shown] = &lines(&run(&sandbox, "get", "7 --json").expect_status(0))[..] else { panic!("one line") };
    assert_eq!(
        (&shown["log"], &shown["seq"], &shown["node"], &shown["body"]),
        (&log.into(), &0.into(), &"practice-1".into(), &"Ann".into())
    );
    assert!(shown["recorded_at"].as_str().unwrap().ends_with('Z'), "{shown}");

    let nothing = run(&sandbox, "get", "8").expect_status(1);
    assert_eq!((nothing.text(), nothing.only_error()), ("", "counterfoil: nothing under 8"));
    assert_eq!(run(&sandbox, "delete", "7").expect_status(0).text(), format!("{log}:1\n"));
    assert_eq!(run(&sandbox, "get", "7").expect_status(1).text(), "");
    run(&sandbox, "delete", "7").expect_status(1);
    let history = lines(&run(&sandbox, "history", "7").expect_status(0));
    assert_eq!(history.len(), 2);
    assert_eq!((&history[0]["body"], &history[0]["live"]), (&"Ann".into(), &false.into()));
    assert_eq!((&history[1]["deleted"], &history[1]["supersedes"]), (&true.into(), &serde_json::json!([version])));
    assert_eq!(history[1]["live"], true, "no write supersedes the deletion");
}

#[test]
fn the_only_version_of_a_key_may_be_a_deletion_which_is_live() {
    let sandbox = sandbox();
    let store = Store::open(sandbox.path("practice.store")).unwrap();
    store.space("shared").unwrap().collection_of_bytes::<Vec<u8>>("c").unwrap().delete(&b"7".to_vec()).unwrap();
    store.close(Duration::ZERO).unwrap();
    let [only] = &lines(&run(&sandbox, "history", "7").expect_status(0))[..] else { panic!("one version") };
    assert_eq!(
        (&only["deleted"], &only["live"], &only["supersedes"]),
        (&true.into(), &true.into(), &Value::Array(vec![]))
    );
    assert!(only.get("body").is_none(), "{only}");
    assert_eq!(run(&sandbox, "get", "7").expect_status(1).only_error(), "counterfoil: nothing under 7");
}

#[test]
fn a_value_is_put_and_got_byte_for_byte_if_asked_and_else_as_a_line() {
    let sandbox = sandbox();
    let words = |command: &str, more: &str| format!("{command} practice.store --space shared --collection c 7 {more}");
    for (value, raw_put, raw_get, printed) in [
        (&b"a\n\n"[..], "", "", &b"a\n\n"[..]),
        (b"a\n\n", "", "--raw", b"a\n"),
        (b"a\n", "--raw", "--raw", b"a\n"),
        (b"a\n", "--raw", "", b"a\n\n"),
        (b"\xff\0", "--raw", "--raw", b"\xff\0"),
        (b"", "--raw", "--raw", b""),
        (b"\n", "", "--raw", b""),
    ] {
        sandbox.run_with(&words("put", raw_put), value).expect_status(0);
        let got = sandbox.run(&words("get", raw_get)).expect_status(0);
        assert_eq!(got.stdout, printed, "{value:?} {raw_put} {raw_get}");
    }
    sandbox.run_with(&words("resolve", "--with - --raw"), b"b\n").expect_status(0);
    assert_eq!(sandbox.run(&words("get", "--raw")).expect_status(0).stdout, b"b\n");
    sandbox.run(&words("get", "--raw --json")).expect_status(2);
}

#[test]
fn keys_that_are_no_text_or_hold_nul_are_given_and_shown_in_base64() {
    let sandbox = sandbox();
    // 0xff 0x00; "a", NUL, LF.
    for (base64, value) in [("/wA=", "no text"), ("YQAK", "text")] {
        let words = format!("put practice.store --space shared --collection c --key-base64 {base64}");
        sandbox.run_with(&words, value.as_bytes()).expect_status(0);
        assert_eq!(
            run(&sandbox, "get", &format!("--key-base64 {base64}")).expect_status(0).text(),
            format!("{value}\n")
        );
        let history = lines(&run(&sandbox, "history", &format!("{base64} --key-base64")).expect_status(0));
        assert_eq!(history[0]["body"], value);
    }
    let shown = lines(&run(&sandbox, "keys", "--json").expect_status(0));
    assert_eq!(shown, [serde_json::json!({"key": "a\0\n"}), serde_json::json!({"key_base64": "/wA="})]);
    let from = run(&sandbox, "keys", "--json --from /wA= --key-base64").expect_status(0);
    assert_eq!(lines(&from).len(), 1);
    assert_eq!(run(&sandbox, "keys", "--from b").expect_status(0).stdout, b"\xff\0\n", "as they are, without --json");
    run(&sandbox, "delete", "--key-base64 /wA=").expect_status(0);
    let nothing = run(&sandbox, "get", "--key-base64 /wA=").expect_status(1);
    assert_eq!(nothing.only_error(), "counterfoil: nothing under /wA=");
    let error = run(&sandbox, "get", "--key-base64 %").expect_status(2);
    assert!(error.only_error().contains("the key \"%\" is not base64"), "{}", error.only_error());
}

#[test]
fn keys_are_listed_in_order_from_one_on_up_to_a_number() {
    let sandbox = sandbox();
    for key in ["b", "a", "c"] {
        put(&sandbox, "practice", key, key);
    }
    for (words, expected) in [("", "a\nb\nc\n"), ("--from b", "b\nc\n"), ("--limit 2", "a\nb\n"), ("--from d", "")] {
        assert_eq!(run(&sandbox, "keys", words).expect_status(0).text(), expected, "{words}");
    }
}

#[test]
fn versions_in_conflict_are_shown_and_one_is_taken_or_another_put_in_their_place() {
    let sandbox = sandbox();
    assert_eq!(put(&sandbox, "practice", "1", "common").rsplit(':').next(), Some("0"));
    sync(&sandbox);
    for key in ["1", "2"] {
        put(&sandbox, "practice", key, "Ann");
        put(&sandbox, "other", key, "Bob");
    }
    sync(&sandbox);
    let conflict = run(&sandbox, "get", "1").expect_status(1);
    let versions = lines(&conflict);
    let mut bodies: Vec<_> = versions.iter().map(|version| version["body"].as_str().unwrap()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, ["Ann", "Bob"]);
    assert!(conflict.only_error().contains("2 versions of 1 in conflict"));
    let listed = lines(&run(&sandbox, "conflicts", "").expect_status(1));
    assert_eq!(listed.iter().map(|line| &line["key"]).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(listed[0]["versions"], Value::Array(versions.clone()));

    let bob = versions.iter().find(|version| version["body"] == "Bob").unwrap();
    let id = format!("{}:{}", bob["log"].as_str().unwrap(), bob["seq"]);
    run(&sandbox, "resolve", &format!("1 --take {id}")).expect_status(0);
    let words = "resolve practice.store --space shared --collection c 2 --with -";
    sandbox.run_with(words, b"both\n").expect_status(0);
    assert_eq!(run(&sandbox, "get", "1").expect_status(0).text(), "Bob\n");
    assert_eq!(run(&sandbox, "get", "2").expect_status(0).text(), "both\n");
    assert_eq!(run(&sandbox, "conflicts", "").expect_status(0).text(), "");
    sync(&sandbox);
    let there = sandbox.run("get other.store --space shared --collection c 2").expect_status(0);
    assert_eq!(there.text(), "both\n");
    let merged = |store: &str| sandbox.cat(&format!("{store} --space shared --merged --json"));
    assert_eq!(merged("practice.store"), merged("other.store"));

    let error = run(&sandbox, "resolve", &format!("1 --take {id}")).expect_status(2);
    assert!(error.only_error().contains("does not hold version"), "{}", error.only_error());
    let error = run(&sandbox, "resolve", "1").expect_status(2);
    let line = error.only_error();
    assert!(line.contains("--take LOG:SEQ") && line.contains("--with -"), "{line}");
    run(&sandbox, "resolve", "1 --take nonsense").expect_status(2);
}

#[test]
fn a_slip_in_the_collection_s_name_is_told_with_those_that_are_there() {
    let sandbox = sandbox();
    let words = |command: &str| format!("{command} practice.store --space practice-1 --collection c");
    put(&sandbox, "practice", "1", "x");
    sandbox.run_with("append practice.store", b"no collection\n").expect_status(0);
    assert_eq!(sandbox.run(&words("keys")).expect_status(0).text(), "", "there is none yet");
    sandbox.run_with("put practice.store --space shared --collection dd 1", b"y").expect_status(0);
    for (command, key) in
        [("get", "1"), ("keys", ""), ("conflicts", ""), ("history", "1"), ("delete", "1"), ("resolve", "1 --with -")]
    {
        let ended = sandbox.run(&format!("{command} practice.store --space shared --collection d {key}"));
        let ended = ended.expect_status(1);
        assert_eq!(
            (ended.text(), ended.only_error()),
            ("", "counterfoil: no collection d in space shared; it has: c, dd"),
            "{command}"
        );
    }
    assert_eq!(run(&sandbox, "keys", "").expect_status(0).text(), "1\n");
}

#[test]
fn a_slip_in_a_key_to_be_resolved_makes_no_key() {
    let sandbox = sandbox();
    put(&sandbox, "practice", "1", "x");
    let ended = sandbox.run_with("resolve practice.store --space shared --collection c 11 --with -", b"y");
    assert_eq!(
        ended.expect_status(1).only_error(),
        "counterfoil: nothing under 11: `counterfoil put` puts a value there"
    );
    assert_eq!(run(&sandbox, "keys", "").expect_status(0).text(), "1\n");
}

#[test]
fn a_write_whose_place_can_t_be_printed_is_made_and_that_is_said() {
    let sandbox = sandbox();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_counterfoil"))
        .args(["put", "practice.store", "--collection", "c", "1"])
        .current_dir(sandbox.path(""))
        .stdin(std::process::Stdio::null())
        .stdout(full)
        .output()
        .unwrap();
    let line = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        line.contains("No space left on device") && line.contains("it is in the store all the same, as "),
        "{line}"
    );
    sandbox.run("get practice.store --collection c 1").expect_status(0);
}

#[test]
fn a_value_that_is_too_long_is_refused_with_what_to_do_instead() {
    let sandbox = sandbox();
    let ended = sandbox.run_with("put practice.store --collection c 1", &vec![b'x'; 17 << 20]).expect_status(2);
    assert!(ended.only_error().contains("bytes, the limit: keep it in a file"), "{}", ended.stderr);
}

#[cfg(unix)]
#[test]
fn an_index_without_space_is_told_with_what_to_do_and_made_once_there_is_some() {
    let sandbox = sandbox();
    sandbox.run_with("put practice.store --collection c 1", b"one").expect_status(0);
    std::fs::remove_file(sandbox.path("practice.store/collections.redb")).unwrap();
    sandbox.write("two", "two");
    for (words, status) in
        [("put practice.store --collection c 1 <two", 2), ("trim practice.store --remove-beyond 0 --mirrors 0", 1)]
    {
        // No file may grow over 32 KiB: to the command it is a full disk.
        let ended = Command::new("sh")
            .args(["-c", &format!("trap '' XFSZ; ulimit -f 64; exec \"$0\" {words} 2>&1")])
            .arg(env!("CARGO_BIN_EXE_counterfoil"))
            .current_dir(sandbox.path(""))
            .output()
            .unwrap();
        let told = String::from_utf8(ended.stdout).unwrap();
        assert_eq!(ended.status.code(), Some(status), "{words}: {told}");
        assert!(
            told.contains("no space left for the index of collections: free some, then try again"),
            "{words}: {told}"
        );
    }
    sandbox.run_with("put practice.store --collection c 1", b"three").expect_status(0);
    assert_eq!(sandbox.run("get practice.store --collection c 1").expect_status(0).text(), "three\n");
}

#[test]
fn lines_of_json_are_put_under_the_keys_that_they_hold() {
    let sandbox = sandbox();
    let words = "append practice.store --space shared --collection c --key-pointer /type --key-pointer /id --ack";
    let first = "{\"type\":\"Patient\",\"id\":\"7\", \"name\":\"Ann\"}";
    let input = format!("{first}\n{{\"type\":\"Visit\",\"id\":8}}\n{{\"type\":\"Patient\",\"id\":\"7\"}}\n");
    let ended = sandbox.run_with(words, input.as_bytes()).expect_status(0);
    assert_eq!(ended.text(), "ack 0\nack 1\nack 2\n");
    assert!(ended.stderr.contains("appended 3 records"), "{}", ended.stderr);
    assert_eq!(run(&sandbox, "keys", "").expect_status(0).text(), "Patient/7\nVisit/8\n");
    assert_eq!(run(&sandbox, "get", "Patient/7").expect_status(0).text(), "{\"type\":\"Patient\",\"id\":\"7\"}\n");
    let history = lines(&run(&sandbox, "history", "Patient/7").expect_status(0));
    assert_eq!(history[0]["body"].as_str(), Some(first), "as it was, byte for byte");
    let shown = lines(&sandbox.run("cat practice.store --space shared --json --limit 1").expect_status(0));
    let write = &shown[0]["writes"][0];
    assert_eq!(
        (&write["collection"], &write["key"], &write["body"]),
        (&"c".into(), &"Patient/7".into(), &first.into())
    );
    assert_eq!(sandbox.cat("practice.store --space shared"), input.as_bytes());

    let ended =
        sandbox.run_with(words, b"{\"type\":\"Patient\",\"id\":\"9\"}\n{\"type\":\"Patient\"}\n").expect_status(2);
    assert!(ended.stderr.contains("line 2 has nothing at \"/id\""), "{}", ended.stderr);
    assert_eq!(run(&sandbox, "keys", "--from Patient/8 --limit 1").expect_status(0).text(), "Patient/9\n");
    sandbox.run("append practice.store --collection c").expect_status(2);
    sandbox.run("append practice.store --collection c --key-pointer id").expect_status(2);
}

#[test]
fn a_number_and_the_text_that_it_is_written_as_are_one_key_and_help_says_so() {
    let sandbox = sandbox();
    let words = "append practice.store --space shared --collection c --key-pointer /id";
    sandbox.run_with(words, b"{\"id\":5}\n{\"id\":\"5\",\"by\":\"another program\"}\n").expect_status(0);
    assert_eq!(run(&sandbox, "keys", "").expect_status(0).text(), "5\n");
    assert_eq!(lines(&run(&sandbox, "history", "5").expect_status(0)).len(), 2, "neither is lost");
    let help = sandbox.run("append --help").expect_status(0).text().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("5 and \"5\" are one key"), "{help}");
}

#[test]
fn what_is_read_beside_a_running_writer_is_what_it_has_made_durable() {
    let sandbox = sandbox();
    let mut append = sandbox.start("append practice.store --space shared --collection c --key-pointer /id --ack");
    for round in 0..3 {
        append.write(format!("{{\"id\":\"{round}\"}}\n"));
        assert_eq!(append.read_line(), format!("ack {round}"));
        let is_there = || (run(&sandbox, "get", &round.to_string()).status == Some(0)).then_some(());
        crate::sandbox::eventually(is_there).expect("what is proven durable is served");
    }
    append.finish().expect_status(0);
    assert_eq!(run(&sandbox, "keys", "").expect_status(0).text(), "0\n1\n2\n");
}
