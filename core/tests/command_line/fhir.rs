//! Real (synthetic) medical records, when they are at hand: `../shared/data/fhir` beside the workspace.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
};

use crate::sandbox::Sandbox;

/// The records' files, each with the name of its practice; empty if they are not there.
fn files() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/fhir");
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("SKIPPED: {} is not there", folder.display());
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    files.sort();
    files
}

#[test]
fn practices_that_mirror_at_the_same_time_are_byte_for_byte_equal_at_both_ends() {
    let files = files();
    if files.is_empty() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.run("cert ca ca").expect_status(0);
    sandbox.run("init hub.store --node hub").expect_status(0);
    sandbox.certify("hub");
    for (practice, _) in &files {
        sandbox.run(&format!("init {practice}.store --node {practice}")).expect_status(0);
        sandbox.certify(practice);
    }
    let (hub, address) = sandbox.serve("127.0.0.1:0", "");
    thread::scope(|scope| {
        for (practice, path) in &files {
            let (sandbox, address) = (&sandbox, &address);
            scope.spawn(move || {
                let mirror =
                    format!("--mirror-to hub@{address} --tls tls-{practice} --durability mirrored --ack --timeout 600");
                let input = fs::read(path).unwrap();
                let ended = sandbox.run_with(&format!("append {practice}.store {mirror}"), &input).expect_status(0);
                let lines = std::str::from_utf8(&input).unwrap().lines().count();
                assert_eq!(ended.text().lines().count(), lines, "acks of {practice}");
            });
        }
    });
    hub.signal("TERM");
    hub.finish().expect_status(0);
    for (practice, path) in &files {
        let expected = fs::read(path).unwrap();
        for store in [format!("{practice}.store"), format!("hub.store --space {practice}")] {
            assert!(sandbox.cat(&store) == expected, "{store}");
        }
        assert_eq!(sandbox.head("hub.store", practice), sandbox.head(&format!("{practice}.store"), practice));
    }
    for store in files.iter().map(|(practice, _)| format!("{practice}.store")).chain(["hub.store".to_owned()]) {
        sandbox.run(&format!("verify {store}")).expect_status(0);
    }
    println!("{} practices, each at both ends", files.len());
}

#[test]
fn compressed_batches_take_a_third_or_a_quarter_of_real_records_and_read_back_byte_for_byte() {
    let files = files();
    if files.is_empty() {
        return;
    }
    for (compression, most) in [("lz4", 0.33), ("zstd", 0.25)] {
        let sandbox = Sandbox::new();
        let (mut raw, mut stored) = (0, 0);
        for (practice, path) in &files {
            let content = fs::read(path).unwrap();
            let store = format!("{practice}.store");
            sandbox.run(&format!("init {store} --node {practice}")).expect_status(0);
            sandbox.run_with(&format!("append {store} --compression {compression}"), &content).expect_status(0);
            assert!(sandbox.cat(&store) == content, "{}", path.display());
            sandbox.run(&format!("verify {store}")).expect_status(0);
            raw += content.len() as u64;
            stored += sandbox.status(&store)["logs"][0]["bytes"].as_u64().unwrap();
        }
        let ratio = stored as f64 / raw as f64;
        println!("{compression}: {ratio:.3} of {raw} bytes");
        assert!(ratio <= most, "{compression}: {ratio:.3}");
    }
}

/// Which log of the space `s` a node writes, as a store has it.
fn log_of(sandbox: &Sandbox, store: &str, node: &str) -> String {
    let status = sandbox.status(store);
    let logs = status["logs"].as_array().unwrap();
    let log = logs.iter().find(|log| log["space"] == "s" && log["node"] == node);
    log.unwrap_or_else(|| panic!("{node} has a log in {status}"))["id"].as_str().unwrap().to_owned()
}

#[test]
fn halves_keyed_at_two_members_while_the_hub_comes_and_goes_end_equal_record_by_record_on_all_three() {
    const ROUNDS: usize = 4;
    let files = files();
    if files.is_empty() {
        return;
    }
    let all: Vec<u8> = files.iter().flat_map(|(_, path)| fs::read(path).unwrap()).collect();
    let lines: Vec<&[u8]> = all.split_inclusive(|byte| *byte == b'\n').collect();
    let half = |which: usize| lines.iter().skip(which).step_by(2).copied().collect::<Vec<_>>();
    let members = [("a", half(0)), ("b", half(1))];

    let sandbox = Sandbox::with_members_and_hub();
    let (mut hub, address) = sandbox.serve(&Sandbox::own_address(), "--policy policy.toml");
    let sync = |name: &str| format!("sync {name}.store --with hub@{address} --tls tls-{name} --space s");
    for round in 0..ROUNDS {
        for (name, lines) in &members {
            let (first, end) = (lines.len() * round / ROUNDS, lines.len() * (round + 1) / ROUNDS);
            let input = lines[first..end].concat();
            let keyed = "--collection records --key-pointer /resourceType --key-pointer /id";
            sandbox.run_with(&format!("append {name}.store --space s {keyed}"), &input).expect_status(0);
        }
        let running = ["a", "b"].map(|name| sandbox.start(&sync(name)));
        for flap in 0..3 {
            // While records cross, wherever they are by then.
            thread::sleep(std::time::Duration::from_millis(20 + 60 * (round as u64 + flap)));
            hub.kill();
            hub = sandbox.serve(&address, "--policy policy.toml").0;
        }
        for process in running {
            process.kill();
        }
    }
    for name in ["a", "b", "a"] {
        sandbox.run(&format!("{} --once --timeout 600", sync(name))).expect_status(0);
    }
    hub.signal("TERM");
    hub.finish().expect_status(0);
    for (name, lines) in &members {
        let (id, expected) = (log_of(&sandbox, &format!("{name}.store"), name), lines.concat());
        for store in ["a.store", "b.store", "hub.store"] {
            assert!(sandbox.cat(&format!("{store} --space s --log {id}")) == expected, "records of {name} on {store}");
        }
    }
    let heads = sandbox.heads("hub.store", "s");
    for store in ["a.store", "b.store", "hub.store"] {
        assert_eq!(sandbox.heads(store, "s"), heads, "{store}");
        sandbox.run(&format!("verify {store}")).expect_status(0);
    }
    let keys = assert_keyed_alike(&sandbox, &lines);
    println!("{} records under {keys} keys at two nodes, on three", lines.len());
}

/// All three stores hold the same keys: those of the lines, each with the last line under it, or, where both nodes wrote
/// to one, with the same versions of it. How many keys there are.
fn assert_keyed_alike(sandbox: &Sandbox, lines: &[&[u8]]) -> usize {
    let key_of = |line: &&[u8]| {
        let record: serde_json::Value = serde_json::from_slice(line).unwrap();
        format!("{}/{}", record["resourceType"].as_str().unwrap(), record["id"].as_str().unwrap())
    };
    let by_key: BTreeMap<String, &[u8]> = lines.iter().map(|line| (key_of(line), *line)).collect();
    let expected: Vec<&str> = by_key.keys().map(String::as_str).collect();
    let ask = |command: &str, store: &str, key: &str| {
        sandbox.run(&format!("{command} {store} --space s --collection records {key}"))
    };
    let conflicts = ask("conflicts", "hub.store", "").stdout;
    for store in ["a.store", "b.store", "hub.store"] {
        let keys = ask("keys", store, "").expect_status(0);
        assert!(keys.text().lines().eq(expected.iter().copied()), "keys of {store}");
        assert!(ask("conflicts", store, "").stdout == conflicts, "conflicts of {store}");
        for (key, line) in by_key.iter().step_by(1 + by_key.len() / 10) {
            if !conflicts.windows(key.len()).any(|part| part == key.as_bytes()) {
                assert!(ask("get", store, key).expect_status(0).stdout == *line, "{key} of {store}");
            }
        }
    }
    by_key.len()
}
