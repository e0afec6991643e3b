//! `counterfoil repair`, and what links mend by themselves.

use std::{fs, path::PathBuf};

use crate::sandbox::{Running, Sandbox, eventually};

/// Segment files of a store, in order.
fn segments(sandbox: &Sandbox, store: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(sandbox.path(store)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect();
    files.sort();
    files
}

/// Records that fill several segments.
fn records() -> Vec<u8> {
    let filler = "of a practice ".repeat(40);
    (0..6000).flat_map(|number| format!("record {number:05} {filler}\n").into_bytes()).collect()
}

/// Where a record is: the segment file, and the offset in it.
fn place(sandbox: &Sandbox, store: &str, record: usize) -> (PathBuf, usize) {
    let text = format!("record {record:05} ");
    let found = segments(sandbox, store).into_iter().find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let offset = bytes.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((path, offset))
    });
    found.unwrap_or_else(|| panic!("{text} is in no segment"))
}

/// Flips a bit of a record, wherever it is; the segment file.
fn flip(sandbox: &Sandbox, store: &str, record: usize) -> PathBuf {
    let (path, offset) = place(sandbox, store, record);
    let mut bytes = fs::read(&path).unwrap();
    bytes[offset] ^= 1;
    fs::write(&path, bytes).unwrap();
    path
}

/// A practice that has mirrored its records to a hub, which serves.
fn mirrored(policy: &str) -> (Sandbox, Running, String) {
    let sandbox = Sandbox::with_practice_and_hub();
    let records = records();
    for some in records.chunks(records.len() / 6) {
        // Cut in the middle of a line: each part ends with a line of its own.
        sandbox.run_with("append practice.store", some).expect_status(0);
    }
    let (hub, address) = sandbox.serve("127.0.0.1:0", policy);
    let mirror = format!("mirror practice.store --to hub@{address} --tls tls-practice-1 --once");
    sandbox.run(&mirror).expect_status(0);
    assert!(segments(&sandbox, "practice.store").len() > 2);
    (sandbox, hub, address)
}

fn repair(address: &str) -> String {
    format!("repair practice.store --from hub@{address} --tls tls-practice-1")
}

#[test]
fn flipped_bits_are_mended_byte_for_byte_and_verify_finds_nothing_any_more() {
    let (sandbox, _hub, address) = mirrored("");
    let whole = sandbox.cat("practice.store");
    let nothing = sandbox.run(&repair(&address)).expect_status(0);
    assert!(nothing.stdout.is_empty() && nothing.only_error().starts_with("mended 0 records"), "{nothing:?}");
    let places: Vec<_> = [10, 11, 900, 3000].map(|record| flip(&sandbox, "practice.store", record)).into();
    assert!(places.iter().max() > places.iter().min(), "{places:?}");
    sandbox.run("verify practice.store").expect_status(1);
    sandbox.run("cat practice.store").expect_status(1);
    let ended = sandbox.run(&repair(&address)).expect_status(0);
    assert!(ended.stdout.is_empty(), "{ended:?}");
    let line = ended.only_error();
    assert!(line.starts_with("mended ") && line.ends_with("in 3 ranges: 0 damaged places left"), "{line}");
    sandbox.run("verify practice.store").expect_status(0);
    assert_eq!(sandbox.cat("practice.store"), whole);
}

#[test]
fn damage_in_the_segment_that_grows_is_mended_too() {
    let (sandbox, _hub, address) = mirrored("");
    let whole = sandbox.cat("practice.store");
    let (last, _) = place(&sandbox, "practice.store", 5999);
    assert_eq!(flip(&sandbox, "practice.store", 5900), last);
    sandbox.run("verify practice.store").expect_status(1);
    let ended = sandbox.run(&repair(&address)).expect_status(0);
    assert!(ended.stdout.is_empty(), "{ended:?}");
    sandbox.run("verify practice.store").expect_status(0);
    assert_eq!(sandbox.cat("practice.store"), whole);
}

#[test]
fn what_is_stored_anew_elsewhere_is_no_damage_any_more_to_verify_and_repair() {
    let (sandbox, _hub, address) = mirrored("");
    // Each a commit, behind the last segment of those before.
    for record in 7000..7003 {
        sandbox.run_with("append practice.store", format!("record {record:05} \n").as_bytes()).expect_status(0);
    }
    sandbox.run(&format!("mirror practice.store --to hub@{address} --tls tls-practice-1 --once")).expect_status(0);
    let whole = sandbox.cat("practice.store");
    // Header and table of the second, and its record: nothing tells where its batch stood.
    let path = flip(&sandbox, "practice.store", 7001);
    let (_, before) = place(&sandbox, "practice.store", 7000);
    let (last, behind) = place(&sandbox, "practice.store", 7002);
    assert_eq!(path, last);
    let mut bytes = fs::read(&path).unwrap();
    let batch = before + bytes[before..behind].windows(4).position(|window| window == b"CFB1").unwrap();
    let frame = bytes[..batch].windows(4).rposition(|window| window == b"CFF1").unwrap();
    bytes[frame..batch].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let found = sandbox.run("verify practice.store").expect_status(1);
    assert!(!found.stdout.is_empty());
    let ended = sandbox.run(&repair(&address)).expect_status(0);
    assert!(ended.only_error().ends_with(": 0 damaged places left"), "{ended:?}");
    assert_eq!(sandbox.cat("practice.store"), whole);
    let found = sandbox.run("verify practice.store").expect_status(0);
    assert!(found.stdout.is_empty() && found.only_error().ends_with("of which nothing is missing)"), "{found:?}");
    assert_eq!(fs::read(&path).unwrap()[frame..batch], vec![0xff; batch - frame], "it stands there as it stood");
}

/// Damages the last batch of the last commit, and all that stands behind it in its segment.
fn lose_the_end(sandbox: &Sandbox) {
    let (path, _) = place(sandbox, "practice.store", 5999);
    let mut bytes = fs::read(&path).unwrap();
    let is_commit = |at: &usize| bytes[*at..].starts_with(b"CFF1\0\0\0\0");
    let commit = (8192..bytes.len() - 12).step_by(8).rfind(is_commit).unwrap();
    let len = u32::from_le_bytes(bytes[commit + 8..commit + 12].try_into().unwrap()) as usize;
    bytes[commit + len - 20..].fill(0);
    fs::write(&path, bytes).unwrap();
}

#[test]
fn the_lost_end_of_a_log_is_told_until_a_sync_has_brought_it_back() {
    let (sandbox, _hub, address) = mirrored("");
    let whole = sandbox.cat("practice.store");
    lose_the_end(&sandbox);
    // It is told by whoever opens it first, and by those who come later.
    for _ in 0..2 {
        sandbox.run("status practice.store").expect_status(1);
        let cat = sandbox.run("cat practice.store").expect_status(1);
        assert!(whole.starts_with(&cat.stdout) && cat.stdout.len() < whole.len());
        sandbox.run("verify practice.store").expect_status(1);
        let ended = sandbox.run(&repair(&address)).expect_status(1);
        assert!(ended.text().contains("they were the end of the log once"), "{ended:?}");
    }
    sandbox.run_with("append practice.store --space other", b"goes on\n").expect_status(0);
    let cat = sandbox.run("cat practice.store").expect_status(1);
    assert!(cat.only_error().contains("were its end once, and are lost"), "{cat:?}");
    let status = sandbox.run("status practice.store --json").expect_status(1);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status["logs"].as_array().unwrap().iter().any(|log| log["missing"].as_u64() > Some(0)), "{status}");
    let sync = format!("sync practice.store --with hub@{address} --tls tls-practice-1 --once");
    sandbox.run(&sync).expect_status(0);
    assert_eq!(sandbox.cat("practice.store"), whole);
    for words in ["status practice.store", "verify practice.store"] {
        sandbox.run(words).expect_status(0);
    }
    sandbox.run(&repair(&address)).expect_status(0);
}

#[test]
fn a_segment_file_that_is_gone_comes_back_from_the_mirror() {
    let (sandbox, _hub, address) = mirrored("");
    let whole = sandbox.cat("practice.store");
    fs::remove_file(&segments(&sandbox, "practice.store")[1]).unwrap();
    sandbox.run("cat practice.store").expect_status(1);
    let ended = sandbox.run(&repair(&address)).expect_status(0);
    assert!(ended.stdout.is_empty() && ended.only_error().ends_with(": 0 damaged places left"), "{ended:?}");
    assert_eq!(sandbox.cat("practice.store"), whole);
    let verified = sandbox.run("verify practice.store").expect_status(0);
    assert!(verified.stdout.is_empty());
    // What is appended now goes on behind it.
    sandbox.run_with("append practice.store", b"after\n").expect_status(0);
    sandbox.run("verify practice.store").expect_status(0);
}

#[test]
fn what_the_peer_lacks_or_does_not_let_this_node_read_is_named_and_bad_news() {
    let sandbox = Sandbox::with_practice_and_hub();
    let records = records();
    for some in records.chunks(records.len() / 3) {
        sandbox.run_with("append practice.store", some).expect_status(0);
    }
    // A hub that has nothing of it.
    let (hub, address) = sandbox.serve("127.0.0.1:0", "");
    flip(&sandbox, "practice.store", 20);
    let ended = sandbox.run(&repair(&address)).expect_status(1);
    let line = ended.text().lines().next().unwrap().to_owned();
    assert!(line.contains("of space practice-1: records ") && line.contains("does not know the log"), "{line}");
    assert_eq!(ended.text().lines().count(), 1, "{ended:?}");
    assert!(ended.only_error().ends_with("0 ranges: 1 damaged place left"), "{}", ended.only_error());
    hub.signal("TERM");
    hub.finish().expect_status(0);
    // One that takes records, and gives none back.
    sandbox.write("policy.toml", "[[grant]]\nnode = \"practice-1\"\nspace = \"practice-1\"\nrights = [\"write\"]\n");
    let (_hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    let ended = sandbox.run(&repair(&address)).expect_status(1);
    assert!(ended.text().contains("does not let this node read it"), "{ended:?}");
    // What can't be known: whether it has them. What is here is still served.
    assert!(sandbox.run("cat practice.store").expect_status(1).stdout.starts_with(b"record 00000"));
}

#[test]
fn a_repair_that_reaches_nobody_or_the_wrong_one_is_an_error() {
    let (sandbox, _hub, address) = mirrored("");
    flip(&sandbox, "practice.store", 20);
    sandbox.certify("practice-9");
    let dead = "repair practice.store --from hub@127.0.0.1:1 --tls tls-practice-1 --timeout 0.3";
    assert!(sandbox.run(dead).expect_status(2).only_error().contains("was not reached"));
    for words in [
        // Another node's certificate; another node at that address; a file that is not there; no address.
        format!("repair practice.store --from hub@{address} --tls tls-practice-9"),
        format!("repair practice.store --from other@{address} --tls tls-practice-1 --timeout 5"),
        format!("repair practice.store --from hub@{address} --tls nowhere"),
        "repair practice.store --from hub --tls tls-practice-1".to_owned(),
        format!("repair nowhere.store --from hub@{address} --tls tls-practice-1"),
    ] {
        let ended = sandbox.run(&words).expect_status(2);
        assert!(ended.stdout.is_empty(), "{words}: {ended:?}");
        ended.only_error();
    }
    // Nothing of all that has harmed it.
    sandbox.run(&repair(&address)).expect_status(0);
    sandbox.run("verify practice.store").expect_status(0);
}

#[test]
fn a_hub_that_finds_a_hole_is_mended_by_the_practice_that_mirrors_to_it() {
    let (sandbox, hub, _) = mirrored("");
    let whole = sandbox.cat("practice.store");
    hub.signal("TERM");
    hub.finish().expect_status(0);
    fs::remove_file(&segments(&sandbox, "hub.store")[1]).unwrap();
    sandbox.run("cat hub.store --space practice-1").expect_status(1);
    let (_hub, address) = sandbox.serve("127.0.0.1:0", "");
    let _mirror = sandbox.start(&format!("mirror practice.store --to hub@{address} --tls tls-practice-1"));
    let cat = || sandbox.run("cat hub.store --space practice-1");
    let is_whole = || Some(cat()).filter(|ended| ended.status == Some(0) && ended.stdout == whole).map(drop);
    eventually(is_whole).expect("the link mends it by itself");
}
