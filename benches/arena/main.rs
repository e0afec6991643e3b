//! Counterfoil, what a hand-written program reaches, and what one could choose instead, at the same work.
//!
//! `cargo bench -p counterfoil-benches --features peers --bench arena`; without the feature there are no peers.
//! The options are in [`arguments::USAGE`]. Besides the table it leaves `arena/report.json` and a chart for each
//! workload in the target folder.

mod alone;
mod arguments;
mod chart;
mod effort;
mod fhir;
mod holes;
mod keyed;
mod machine;
mod pair_run;
#[cfg(feature = "peers")]
mod peers;
mod progress;
mod report;
mod run;
mod sync_cost;
mod table;
mod turn;
mod ways;

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use counterfoil_benches::{
    Contender, Counterfoil, LeastReconciling, Limit, OurReconciling, Pairing, Reconciler, RemoteLimit, Workload,
};

use arguments::{Arguments, USAGE};
use machine::Machine;
use report::{Chapter, Row};

/// With more, durable appends show the scheduler's tick of 4 ms rather than the disk.
const LOAD_MAX: f64 = 0.5;

fn main() -> ExitCode {
    match alone::obey() {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("arena: {error}");
            return ExitCode::FAILURE;
        }
    }
    let arguments = match Arguments::parse(env::args().skip(1)) {
        Ok(arguments) if arguments.wants_help => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("arena: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("arena: {error}");
            ExitCode::FAILURE
        }
    }
}

fn lineup() -> Vec<&'static dyn Contender> {
    let both: [&dyn Contender; 2] = [&Counterfoil, &Limit];
    #[cfg(feature = "peers")]
    return both.into_iter().chain(peers::ALL).collect();
    #[cfg(not(feature = "peers"))]
    both.to_vec()
}

fn lineup_of_pairs() -> Vec<&'static dyn Pairing> {
    let own: [&dyn Pairing; 3] = [&Counterfoil, &RemoteLimit::Tls, &RemoteLimit::Plain];
    #[cfg(feature = "peers")]
    return own.into_iter().chain(peers::PAIRS).collect();
    #[cfg(not(feature = "peers"))]
    own.to_vec()
}

fn lineup_of_reconcilers() -> Vec<&'static dyn Reconciler> {
    let own: [&dyn Reconciler; 3] = [&OurReconciling::Strangers, &OurReconciling::Met, &LeastReconciling];
    #[cfg(feature = "peers")]
    return own.into_iter().chain(peers::RECONCILERS).collect();
    #[cfg(not(feature = "peers"))]
    own.to_vec()
}

/// What each system means by durable.
fn meanings(lineup: &[&'static dyn Contender], pairs: &[&'static dyn Pairing]) -> Vec<(&'static str, &'static str)> {
    let alone = lineup.iter().map(|contender| (contender.name(), contender.durability()));
    alone.chain(pairs.iter().map(|pairing| (pairing.name(), pairing.durability()))).collect()
}

/// Whether every system did what it can do.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let (lineup, pairs) = (lineup(), lineup_of_pairs());
    let folder = target_folder()?.join("arena");
    let machine = Machine::describe(&folder);
    if machine.load > LOAD_MAX {
        eprintln!("arena: the machine is busy (load {}): who waits for a flush then waits for a core", machine.load);
    }
    let mut arena = run::Arena {
        lineup: &lineup,
        effort: arguments.effort,
        bodies: turn::Bodies::new(),
        progress: progress::Progress::new(),
        archives: BTreeMap::new(),
        keyed: None,
        chain: None,
        far_disk: None,
    };
    let mut chapters = Vec::new();
    for workload in &arguments.workloads {
        let results = if let Workload::S(case) = *workload {
            sync_cost::run(&lineup_of_reconcilers(), case, arguments.effort.synced_records, &arena.progress)
        } else if workload.is_of_pair() {
            let (effort, bodies, progress) = (arguments.effort, &arena.bodies, &arena.progress);
            pair_run::PairArena { lineup: &pairs, effort, bodies, progress }.run(*workload)
        } else {
            arena.run(*workload)
        };
        let chapter = Chapter::new(*workload, results);
        arena.progress.print(&table::terminal(&chapter));
        chapters.push(chapter);
    }
    arena.progress.finish();
    save(&chapters, &folder)?;
    println!("{}, {}\n\n{}", machine.date, machine.description, table::summary(&chapters));
    println!("{}", folder.join("report.json").display());
    if let Some(kept) = &arguments.save {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the package is not in a workspace")?;
        let kept = workspace.join(kept);
        save(&chapters, &kept)?;
        fs::write(
            kept.join("README.md"),
            table::markdown(&chapters, &meanings(&lineup, &pairs), &machine, &command()),
        )?;
        println!("{}", kept.join("README.md").display());
    }
    Ok(chapters.iter().all(|chapter| chapter.absent.iter().all(|(_, reason)| !reason.starts_with("failed"))))
}

fn save(chapters: &[Chapter], folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let rows: Vec<&Row> = chapters.iter().flat_map(|chapter| &chapter.rows).collect();
    fs::write(folder.join("report.json"), serde_json::to_string_pretty(&rows)? + "\n")?;
    for chapter in chapters.iter().filter(|chapter| !chapter.rows.is_empty()) {
        chart::draw(chapter, &folder.join(format!("{}.svg", chapter.workload.letter())))?;
    }
    Ok(())
}

/// Cargo's target folder: this program is in `<target>/<profile>/deps`.
fn target_folder() -> Result<PathBuf, Box<dyn Error>> {
    let program = env::current_exe()?;
    Ok(program.ancestors().nth(3).ok_or("the program is not in a target folder")?.to_owned())
}

/// The command that this run was started with.
fn command() -> String {
    let peers = if cfg!(feature = "peers") { " --features peers" } else { "" };
    let options: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let options = if options.is_empty() { String::new() } else { format!(" -- {}", options.join(" ")) };
    format!("cargo bench -p counterfoil-benches{peers} --bench arena{options}")
}
