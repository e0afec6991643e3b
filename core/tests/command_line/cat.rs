//! `counterfoil cat`

use std::io::BufRead as _;

use serde_json::json;

use crate::sandbox::{Sandbox, eventually};

fn sandbox_with(input: &[u8]) -> Sandbox {
    let sandbox = Sandbox::with_practice();
    sandbox.run_with("append practice.store", input).expect_status(0);
    sandbox
}

#[test]
fn a_range_is_asked_for_by_sequence_number_and_count() {
    let sandbox = sandbox_with(b"0\n1\n2\n3\n");
    for (words, expected) in [
        ("--from 1", "1\n2\n3\n"),
        ("--limit 2", "0\n1\n"),
        ("--from 2 --limit 1", "2\n"),
        ("--from 4", ""),
        ("--from 18446744073709551615", ""),
        ("--limit 0", ""),
        ("--limit 9", "0\n1\n2\n3\n"),
    ] {
        assert_eq!(sandbox.cat(&format!("practice.store {words}")), expected.as_bytes(), "{words}");
    }
    let log = sandbox.status("practice.store")["logs"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(sandbox.cat(&format!("practice.store --log {log} --from 3")), b"3\n");
}

#[test]
fn json_shows_place_and_time_and_bytes_that_are_not_text_as_base64() {
    let sandbox = sandbox_with(b"plain \"text\"\n\xff\xfe\n");
    let log = sandbox.status("practice.store")["logs"][0]["id"].clone();
    let printed = sandbox.cat("practice.store --json");
    let lines: Vec<serde_json::Value> =
        printed.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (seq, line) in lines.iter().enumerate() {
        let time_ms = line["time_ms"].as_u64().unwrap();
        assert!(time_ms > 1_700_000_000_000, "{line}");
        let mut expected = json!({
            "log": log, "node": "practice-1", "space": "practice-1", "seq": seq, "time_ms": time_ms,
        });
        let (key, body) = [("body", "plain \"text\""), ("body_base64", "//4=")][seq];
        expected[key] = body.into();
        expected["recorded_at"] = line["recorded_at"].clone();
        let recorded_at = line["recorded_at"].as_str().unwrap();
        assert!(recorded_at.starts_with("20") && recorded_at.ends_with(&format!(".{:03}Z", time_ms % 1000)), "{line}");
        assert_eq!(*line, expected);
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let sandbox = sandbox_with(&b"a line of some length that is there very often\n".repeat(100_000));
    let mut cat = sandbox.start("cat practice.store");
    let mut stdout = cat.take_stdout();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("a line"));
    drop(stdout);
    let ended = cat.finish().expect_status(0);
    assert_eq!(ended.stderr, "");
}

#[test]
fn it_reads_beside_a_running_writer() {
    let sandbox = Sandbox::with_practice();
    let mut append = sandbox.start("append practice.store --ack");
    for count in 1..=3 {
        append.write("record\n");
        assert_eq!(append.read_line(), format!("ack {}", count - 1));
        let is_there = || (sandbox.cat("practice.store") == b"record\n".repeat(count)).then_some(());
        eventually(is_there).expect("what is proven durable is served");
    }
    append.finish().expect_status(0);
}

#[test]
fn following_shows_what_is_appended_meanwhile_until_ctrl_c() {
    let sandbox = sandbox_with(b"before\n");
    let mut follow = sandbox.start("cat practice.store --follow");
    assert_eq!(follow.read_line(), "before");
    for round in 0..3 {
        let mut append = sandbox.start("append practice.store --ack");
        append.write(format!("round {round}\n"));
        append.read_line();
        assert_eq!(follow.read_line(), format!("round {round}"));
        append.finish().expect_status(0);
    }
    follow.signal("INT");
    follow.finish().expect_status(0);

    let limited = sandbox.start("cat practice.store --follow --from 1 --limit 2").finish().expect_status(0);
    assert_eq!(limited.text(), "round 0\nround 1\n");
}

#[test]
fn a_space_that_is_not_there_is_named_with_those_that_are() {
    let sandbox = sandbox_with(b"own\n");
    sandbox.run_with("append practice.store --space other", b"other\n").expect_status(0);
    for words in ["cat practice.store --space oter", "cat practice.store --space oter --follow"] {
        let ended = sandbox.run(words).expect_status(2);
        let expected = "counterfoil: no space oter in practice.store; it has: other, practice-1";
        assert_eq!(ended.only_error(), expected, "{words}");
    }
    let empty = Sandbox::with_practice();
    assert_eq!(empty.cat("practice.store"), b"");
    let ended = empty.run("cat practice.store --space own").expect_status(2);
    assert_eq!(ended.only_error(), "counterfoil: no space own in practice.store; it has none yet");
}

#[cfg(unix)]
#[test]
fn following_into_a_pipe_that_closes_ends_without_waiting_for_a_record() {
    let sandbox = sandbox_with(b"only\n");
    let mut follow = sandbox.start("cat practice.store --follow");
    let mut stdout = follow.take_stdout();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "only\n");
    drop(stdout);
    let ended = follow.finish().expect_status(0);
    assert_eq!(ended.stderr, "");
}

#[test]
fn merged_shows_all_logs_by_time_and_what_happened_when() {
    use std::time::{Duration, UNIX_EPOCH};

    use counterfoil::{Durability, Store};

    let sandbox = Sandbox::with_practice();
    let practice = Store::open(sandbox.path("practice.store")).unwrap();
    let other = Store::builder().node("other").in_memory().unwrap();
    let links = [(&practice, &other), (&other, &practice)];
    let _links = links.map(|(from, to)| from.mirror_in_process(to).spaces(["shared"]).start().unwrap());
    for (round, store) in [&practice, &other, &practice, &other].into_iter().enumerate() {
        let happened_at = UNIX_EPOCH + Duration::from_millis(round as u64);
        let receipt = store.space("shared").unwrap().append_at(format!("round {round}"), happened_at).unwrap();
        receipt.wait(Durability::Mirrored(1)).unwrap();
    }
    practice.close(Duration::from_secs(60)).unwrap();
    let printed = sandbox.cat("practice.store --space shared --merged");
    assert_eq!(String::from_utf8(printed).unwrap(), "round 0\nround 1\nround 2\nround 3\n");
    let printed = sandbox.cat("practice.store --space shared --merged --limit 2 --json");
    let lines: Vec<serde_json::Value> =
        printed.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line["node"].as_str().unwrap(), &line["happened_at"])).collect();
    let at = |ms: u64| json!(format!("1970-01-01T00:00:00.00{ms}Z"));
    assert_eq!(seen, [("practice-1", &at(0)), ("other", &at(1))]);
    sandbox.run("cat practice.store --merged --from 3").expect_status(2);
}
