//! `counterfoil status`

use crate::sandbox::Sandbox;

#[test]
fn an_empty_store_has_no_logs_and_a_name() {
    let sandbox = Sandbox::with_practice();
    let status = sandbox.status("practice.store");
    assert_eq!(status["node"], "practice-1");
    assert_eq!(status["logs"], serde_json::json!([]));
    assert_eq!(status["spaces"], serde_json::json!([]));
    assert!(status["disk_bytes"].as_u64().unwrap() > 0);
    let text = sandbox.run("status practice.store").expect_status(0);
    assert!(text.text().starts_with("node practice-1\n"), "{}", text.text());
}

#[test]
fn logs_are_shown_with_the_fields_that_scripts_rely_on() {
    let sandbox = Sandbox::with_practice();
    sandbox.run_with("append practice.store", b"one\ntwo\n").expect_status(0);
    sandbox.run_with("append practice.store --space other", b"three\n").expect_status(0);
    let status = sandbox.status("practice.store");
    let logs = status["logs"].as_array().unwrap();
    assert_eq!(logs.len(), 2);
    for log in logs {
        let mut names: Vec<_> = log.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let expected = [
            "bytes",
            "digest",
            "first_digest",
            "first_seq",
            "id",
            "missing",
            "next_seq",
            "node",
            "space",
            "trimmed_bytes",
        ];
        assert_eq!(names, expected);
        assert_eq!(log["id"].as_str().unwrap().len(), 32);
        assert_eq!(log["digest"].as_str().unwrap().len(), 64);
        assert_eq!(log["node"], "practice-1");
        assert_eq!((&log["first_seq"], &log["missing"]), (&0.into(), &0.into()));
        assert_eq!(log["next_seq"], if log["space"] == "other" { 1 } else { 2 });
    }
    let spaces: Vec<_> = status["spaces"].as_array().unwrap().iter().map(|space| &space["space"]).collect();
    assert_eq!(spaces, ["other", "practice-1"]);
    let text = sandbox.run("status practice.store").expect_status(0);
    assert!(text.text().contains("space other: 1 log, 1 record, "), "{}", text.text());
    assert!(text.text().contains("space practice-1: 1 log, 2 records, "), "{}", text.text());
    for log in logs {
        assert!(text.text().contains(log["digest"].as_str().unwrap()));
    }
}
