//! `counterfoil verify`, and what damaged stores give back.

use std::{fs, path::PathBuf};

use crate::sandbox::{Sandbox, count_from_env};

/// Segment files of a store, in any order.
fn segments(sandbox: &Sandbox) -> Vec<PathBuf> {
    let files = fs::read_dir(sandbox.path("practice.store")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
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
    assert!(cat.only_error().contains("repair it from a mirror"), "{}", cat.stderr);
    // What is sound behind it is still there; that something is damaged is said again.
    let after = sandbox.run(&format!("cat practice.store --from {}", range.end() + 1)).expect_status(1);
    assert!(records().ends_with(&after.stdout) && !after.stdout.is_empty());
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
