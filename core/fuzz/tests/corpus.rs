//! Everything that fuzzing found worth keeping, through the very functions that were fuzzed.

use std::{fs, path::Path};

use counterfoil_fuzz::{TARGETS, mend, template};

/// The kept inputs of a target.
fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), fs::read(path).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn every_kept_input_of_every_target_is_sound() {
    for (target, run, seeds) in TARGETS {
        seeds().iter().for_each(|seed| run(seed));
        let inputs = kept(target);
        assert!(!inputs.is_empty(), "nothing is kept for {target}");
        for (path, input) in &inputs {
            // Shown should it panic.
            println!("{path}");
            run(input);
        }
        eprintln!("corpus of {target}: {} inputs", inputs.len());
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_no_corpus_lacks_its_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut names: Vec<_> = entries.map(|entry| stem(&entry.unwrap().path())).collect();
        names.sort();
        names
    };
    let mut targets: Vec<_> = TARGETS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    targets.sort();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
}

#[test]
fn mending_what_is_whole_changes_nothing() {
    for is_closed in [true, false] {
        for (name, content) in template::files(is_closed) {
            let mut mended = content.clone();
            mend::file(name, &mut mended);
            assert!(mended == *content, "{name}");
        }
    }
}

#[test]
fn the_template_is_a_sound_store_of_several_segments_the_same_each_time() {
    for is_closed in [true, false] {
        let files = template::files(is_closed);
        assert!(files.keys().filter(|name| name.ends_with(".seg")).count() >= 3, "{:?}", files.keys());
        let disk = template::disk_of(files);
        let dir = std::path::Path::new(template::DIR);
        let report = counterfoil_storage::verify(dir, &template::options(&disk), |_, _| {}).unwrap();
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        assert!(report.records > 60, "{} records", report.records);
    }
}

/// Unguided, but of the right structure: what a toolchain without a fuzzer can do.
#[test]
fn random_sequences_of_what_a_peer_may_say_are_sound() {
    let explore: u64 = std::env::var("COUNTERFOIL_EXPLORE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut state = 0_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    let (count, mut steps) = (1000 * explore, 0);
    for number in 0..count {
        // A list goes on while a byte is odd.
        let len = 200 + next() % 3000;
        let input: Vec<u8> = (0..len).map(|_| next() as u8 | u8::from(next() % 8 != 0)).collect();
        // Shown should it panic.
        println!("sequence {number}");
        steps += counterfoil_fuzz::session::steps_of(&input);
    }
    assert!(steps as u64 > 5 * count, "{steps} steps");
    eprintln!("corpus of session: {count} random sequences, {steps} steps");
}
