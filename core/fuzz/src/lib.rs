//! What reads bytes that others wrote, as targets for a fuzzer and for the replay of what it kept.
//!
//! Each module is one target: `run` takes any bytes and panics if something that must hold does not; `seeds`
//! are inputs to begin with. The same functions run under libFuzzer (`fuzz_targets`, with `cargo fuzz` on a
//! nightly toolchain) and, over the kept corpus, in the tests of this crate on any toolchain.
//!
//! ```text
//! cargo +nightly fuzz run --fuzz-dir core/fuzz store      explores
//! cargo run -p counterfoil-fuzz --bin store -- FILE…      replays
//! ```
//!
//! Checksums stop a fuzzer at the door, so most targets [`mend`] them after the damage: what comes
//! behind the door must hold against a hostile writer, too.

pub mod batch;
pub mod collection;
pub mod footer;
pub mod frames;
pub mod genesis;
pub mod mend;
pub mod policy;
pub mod session;
pub mod store;
pub mod template;
pub mod text;
pub mod typed;
pub mod wire;

use std::path::PathBuf;

/// A target: its name, what takes the bytes, inputs to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All targets.
pub const TARGETS: [Target; 11] = [
    ("batch", batch::run, batch::seeds),
    ("genesis", genesis::run, genesis::seeds),
    ("frames", frames::run, frames::seeds),
    ("footer", footer::run, footer::seeds),
    ("store", store::run, store::seeds),
    ("wire", wire::run, wire::seeds),
    ("session", session::run, session::seeds),
    ("policy", policy::run, policy::seeds),
    ("text", text::run, text::seeds),
    ("typed", typed::run, typed::seeds),
    ("collection", collection::run, collection::seeds),
];

/// Runs a target on the files that a program's arguments name. `--seeds FOLDER` writes inputs to begin with.
pub fn replay_arguments(run: fn(&[u8])) {
    let arguments: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if let [option, folder] = &arguments[..]
        && option.as_os_str() == "--seeds"
    {
        let (_, _, seeds) =
            TARGETS.into_iter().find(|(_, other, _)| std::ptr::fn_addr_eq(*other, run)).expect("a target");
        for (number, seed) in seeds().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).expect("the folder is there");
        }
        return;
    }
    for path in arguments {
        let input = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        run(&input);
        println!("{}: sound", path.display());
    }
}

/// Makes the program of a target: libFuzzer's under `cargo fuzz`, else one that replays files.
#[macro_export]
macro_rules! program {
    ($run:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|input: &[u8]| $run(input));

        #[cfg(not(fuzzing))]
        fn main() {
            $crate::replay_arguments($run);
        }
    };
}
