//! Running a scenario under many schedules, or one again.

use std::{env, path::PathBuf, thread};

use shuttle::{
    Config, FailurePersistence, Runner,
    scheduler::{PctScheduler, RandomScheduler, ReplayScheduler},
};

/// How many points PCT picks at which a thread is made the last in order: bugs that need so many are found.
const DEPTHS: [usize; 3] = [2, 3, 5];

/// The command that runs a scenario again.
struct Hint(&'static str);

impl Drop for Hint {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "to run this schedule again: COUNTERFOIL_SCHEDULE=FILE RUSTFLAGS=\"--cfg shuttle\" cargo test \
                 --target-dir target/shuttle -p counterfoil-faults --test schedules -- --nocapture {}",
                self.0
            );
        }
    }
}

fn config() -> Config {
    let mut config = Config::new();
    // Opening a store takes more than a thread's stack is by default.
    config.stack_size = 512 << 10;
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::File(Some(env::temp_dir()));
    config
}

/// Runs `scenario` under `schedules` random schedules, and half as many of PCT, times `COUNTERFOIL_EXPLORE`.
/// `name` is its test's.
pub(crate) fn explore(name: &'static str, schedules: usize, scenario: fn()) {
    let _hint = Hint(name);
    if let Some(file) = env::var_os("COUNTERFOIL_SCHEDULE") {
        let scheduler = ReplayScheduler::new_from_file(PathBuf::from(file)).expect("the file of a schedule");
        Runner::new(scheduler, config()).run(scenario);
        return;
    }
    let factor = env::var("COUNTERFOIL_EXPLORE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let random = schedules * factor;
    let mut done = Runner::new(RandomScheduler::new_from_seed(1, random), config()).run(scenario);
    for (depth, seed) in DEPTHS.into_iter().zip(2..) {
        let schedules = random.div_ceil(2 * DEPTHS.len());
        done += Runner::new(PctScheduler::new_from_seed(seed, depth, schedules), config()).run(scenario);
    }
    println!("schedules: {name}: {done}");
}
