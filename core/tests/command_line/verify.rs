//! `counterfoil verify`, and what damaged stores give back.

use std::{fs, path::PathBuf};

use crate::sandbox::{Sandbox, count_from_env};

fn segments(sandbox: &Sandbox) -> Vec<PathBuf> {
    segments_of(sandbox, "practice.store")
}

/// Segment files of a store, in order.
fn segments_of(sandbox: &Sandbox, store: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(sandbox.path(store)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect();
    files.sort();
    files
}

fn records() -> Vec<u8> {
    (0..400).flat_map(|number| format!("record number {number:04} of a small store\n").into_bytes()).collect()
}

fn small_store() -> Sandbox {
    let sandbox = Sandbox::with_practice();
    let records = records();
    // Several commits, so that there are several frames.
    for some in records.chunks(records.len() / 10) {
        sandbox.run_with("append practice.store", some).expect_status(0);
    }
    sandbox
}

#[test]
fn a_sound_store_has_nothing_to_tell() {
    let sandbox = small_store();
    let ended = sandbox.run("verify practice.store").expect_status(0);
    assert!(ended.stdout.is_empty());
    assert!(ended.only_error().contains("400 records") && ended.stderr.contains("0 damaged places"), "{ended:?}");
}

#[test]
fn an_unfinished_commit_is_a_note_and_no_bad_news() {
    let sandbox = small_store();
    let is_used = |path: &PathBuf| fs::read(path).unwrap().starts_with(b"CFS1");
    let path = segments(&sandbox).into_iter().rfind(is_used).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let end = (bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1).next_multiple_of(8);
    bytes.resize(bytes.len().max(end + 200), 0);
    // As a kill leaves them, behind the last commit.
    bytes[end..end + 100].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let ended = sandbox.run("verify practice.store").expect_status(0);
    assert!(ended.stdout.is_empty(), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("an unfinished commit") && lines[1].contains("0 damaged places"));
    sandbox.run_with("append practice.store", b"one more\n").expect_status(0);
    let ended = sandbox.run("verify practice.store").expect_status(0);
    assert!(ended.only_error().contains("0 damaged places"), "{ended:?}");
}

#[test]
fn damage_is_told_with_its_place_and_is_bad_news() {
    let sandbox = small_store();
    let text = b"record number 0200";
    for segment in segments(&sandbox) {
        let mut bytes = fs::read(&segment).unwrap();
        if let Some(offset) = bytes.windows(text.len()).position(|window| window == text) {
            bytes[offset] ^= 1;
            fs::write(&segment, bytes).unwrap();
        }
    }

    let ended = sandbox.run("verify practice.store").expect_status(1);
    let json = sandbox.run("verify practice.store --json").expect_status(1);
    assert_eq!(json.text().lines().count(), ended.text().lines().count(), "{}", ended.text());
    let damage: serde_json::Value = serde_json::from_str(json.text().lines().next().unwrap()).unwrap();
    let log = sandbox.run("status practice.store --json");
    let status: serde_json::Value = serde_json::from_slice(&log.stdout).unwrap();
    assert_eq!(damage["log"], status["logs"][0]["id"]);
    let range = damage["first_seq"].as_u64().unwrap()..=damage["last_seq"].as_u64().unwrap();
    assert!(range.contains(&200), "{damage}");
    assert!(damage["segment"].is_u64() && damage["offset"].is_u64() && damage["what"].is_string(), "{damage}");

    let cat = sandbox.run("cat practice.store").expect_status(1);
    assert!(cat.stdout.len() < records().len() && records().starts_with(&cat.stdout));
    let line = cat.only_error();
    let log = damage["log"].as_str().unwrap();
    let next_seq = range.end() + 1;
    assert!(
        line.contains(&format!("log {log}")) && line.contains(&format!("from {} to before", range.start())),
        "{line}"
    );
    assert!(line.contains("a mirror may have"), "{line}");
    assert!(line.ends_with(&format!("`--log {log} --from {next_seq}` goes on after it")), "{line}");
    // What is sound behind it is still there; that something is damaged is said again.
    let after = sandbox.run(&format!("cat practice.store --log {log} --from {next_seq}"));
    assert!(records().ends_with(&after.stdout) && !after.stdout.is_empty());
    let follow = sandbox.run("cat practice.store --follow").expect_status(1);
    assert_eq!((follow.stdout.clone(), follow.only_error()), (cat.stdout.clone(), line));
}

#[test]
fn damage_in_one_log_does_not_keep_the_others_of_its_space_from_being_read() {
    let sandbox = Sandbox::with_practice_and_hub();
    let grant = "[[grant]]\nnode = \"practice-1\"\nspace = \"shared\"\nrights = [\"write\"]\n";
    sandbox.write("policy.toml", grant);
    for number in 0..3 {
        let record = format!("of the hub itself {number}\n");
        sandbox.run_with("append hub.store --space shared", record.as_bytes()).expect_status(0);
    }
    let (hub, address) = sandbox.serve("127.0.0.1:0", "--policy policy.toml");
    let mirror = format!("--mirror-to hub@{address} --tls tls-practice-1 --durability mirrored");
    let append = format!("append practice.store --space shared {mirror}");
    for number in 0..3 {
        sandbox.run_with(&append, format!("of the practice {number}\n").as_bytes()).expect_status(0);
    }
    hub.signal("TERM");
    hub.finish().expect_status(0);
    let both = sandbox.run("cat hub.store --space shared").expect_status(0);
    assert_eq!(both.text().lines().count(), 6);
    for text in ["of the hub itself 1", "of the practice 1"] {
        let flip = || {
            for segment in segments_of(&sandbox, "hub.store") {
                let mut bytes = fs::read(&segment).unwrap();
                if let Some(offset) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
                    bytes[offset] ^= 1;
                    fs::write(&segment, bytes).unwrap();
                    return;
                }
            }
            panic!("{text} is in no segment");
        };
        let sound: Vec<_> = segments_of(&sandbox, "hub.store").iter().map(|path| fs::read(path).unwrap()).collect();
        flip();
        for words in ["", "--json"] {
            let ended = sandbox.run(&format!("cat hub.store --space shared {words}")).expect_status(1);
            assert_eq!(ended.text().lines().count(), 4, "the other log's, and what comes before: {ended:?}");
            assert!(!ended.text().contains(text), "{ended:?}");
            assert!(ended.only_error().contains("--log"), "{ended:?}");
        }
        for (path, bytes) in segments_of(&sandbox, "hub.store").iter().zip(sound) {
            fs::write(path, bytes).unwrap();
        }
    }
}

#[test]
fn a_store_whose_identity_is_damaged_is_verify_s_answer_and_every_other_command_s_error() {
    let sandbox = Sandbox::with_practice_and_hub();
    sandbox.run_with("append practice.store", b"one\n").expect_status(0);
    let identity = sandbox.path("practice.store/identity");
    let sound = fs::read(&identity).unwrap();
    fs::write(&identity, vec![0; sound.len()]).unwrap();
    let json = sandbox.run("verify practice.store --json").expect_status(1);
    let damage: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(damage["segment"].is_null() && damage["what"].as_str().unwrap().contains("identity"), "{damage}");
    let text = sandbox.run("verify practice.store").expect_status(1);
    assert!(text.text().contains("both copies of the identity are damaged"), "{text:?}");
    text.only_error();
    for words in [
        "append practice.store",
        "cat practice.store",
        "status practice.store",
        "mirror practice.store --to hub@127.0.0.1:1 --tls tls-practice-1",
        "serve practice.store --listen 127.0.0.1:0 --tls tls-practice-1",
    ] {
        let ended = sandbox.run(words).expect_status(2);
        assert!(ended.only_error().contains("both copies of the identity are damaged"), "{words}: {}", ended.stderr);
        assert!(ended.stdout.is_empty());
    }
    fs::remove_file(&identity).unwrap();
    sandbox.run("verify practice.store").expect_status(1);
    sandbox.run("status practice.store").expect_status(2);
    fs::write(&identity, sound).unwrap();
    sandbox.run("verify practice.store").expect_status(0);
}

#[test]
fn a_flipped_bit_anywhere_is_named_or_harmless_and_never_wrong_data() {
    let sandbox = small_store();
    let records = records();
    let flips = count_from_env("COUNTERFOIL_FLIPS", 60);
    for segment in segments(&sandbox) {
        let sound = fs::read(&segment).unwrap();
        let used = sound.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for flip in 0..flips.min(used * 8) {
            // Spread over the used part, a different bit each time.
            let bit = flip * (used * 8) / flips + flip % 8;
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&segment, &bytes).unwrap();
            let verify = sandbox.run("verify practice.store");
            let cat = sandbox.run("cat practice.store");
            assert!(records.starts_with(&cat.stdout), "bit {bit}: wrong data");
            assert!(matches!(cat.status, Some(0..=2)), "bit {bit}: {cat:?}");
            assert!(matches!(verify.status, Some(0..=2)), "bit {bit}: {verify:?}");
            let is_whole = cat.status == Some(0) && cat.stdout == records;
            assert!(is_whole || verify.status != Some(0), "bit {bit}: lost and not named: {cat:?} {verify:?}");
        }
        fs::write(&segment, &sound).unwrap();
    }
}

#[test]
fn a_file_cut_anywhere_is_named_or_harmless_and_never_wrong_data() {
    let sandbox = small_store();
    let records = records();
    for segment in segments(&sandbox) {
        let sound = fs::read(&segment).unwrap();
        for cut in 0..20 {
            fs::write(&segment, &sound[..sound.len() * cut / 20]).unwrap();
            let verify = sandbox.run("verify practice.store");
            let cat = sandbox.run("cat practice.store");
            assert!(records.starts_with(&cat.stdout), "cut {cut}: wrong data");
            let is_whole = cat.status == Some(0) && cat.stdout == records;
            assert!(matches!(verify.status, Some(0..=2)), "cut {cut}: {verify:?}");
            assert!(is_whole || verify.status != Some(0), "cut {cut}: lost and not named: {cat:?} {verify:?}");
        }
        fs::write(&segment, &sound).unwrap();
    }
}
