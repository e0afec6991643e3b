//! The command line.

use std::path::PathBuf;

use counterfoil_benches::Workload;

use crate::effort::Effort;

pub(crate) const USAGE: &str = "\
cargo bench -p counterfoil-benches --features peers --bench arena [-- OPTIONS]
  --quick       fewer and shorter rounds
  --test        everything once, to see that it works
  --only A,D    these workloads; S: all of its cases
  --save DIR    also write the table, the charts and report.json there (seen from the workspace), to be committed";

#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) effort: Effort,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) save: Option<PathBuf>,
    pub(crate) wants_help: bool,
}

impl Arguments {
    /// Those behind the program's name. Cargo adds `--bench` when it benches and nothing when it tests.
    pub(crate) fn parse(given: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self { effort: Effort::FULL, workloads: Vec::new(), save: None, wants_help: false };
        let (mut is_bench, mut is_quick, mut is_test) = (false, false, false);
        let mut given = given.into_iter();
        while let Some(argument) = given.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let mut value = || {
                let value = value.clone().or_else(|| given.next()).filter(|value| !value.starts_with("--"));
                value.ok_or(format!("{name} needs a value"))
            };
            match name {
                "--bench" => is_bench = true,
                "--quick" => is_quick = true,
                "--test" => is_test = true,
                "--help" => parsed.wants_help = true,
                "--save" => parsed.save = Some(value()?.into()),
                "--only" => parsed.workloads = workloads(&value()?)?,
                _ => return Err(format!("unknown argument {argument}; there are --quick, --test, --only and --save")),
            }
        }
        if is_test || !(is_bench || is_quick) {
            parsed.effort = Effort::TEST;
        } else if is_quick {
            parsed.effort = Effort::QUICK;
        }
        if parsed.workloads.is_empty() {
            parsed.workloads = Workload::ALL.to_vec();
        }
        Ok(parsed)
    }
}

fn workloads(letters: &str) -> Result<Vec<Workload>, String> {
    let parse = |letter: &str| {
        let known = || Workload::ALL.map(Workload::letter).join(", ");
        let meant = Workload::parse(letter.trim());
        if meant.is_empty() { Err(format!("no workload {letter}; there are {}", known())) } else { Ok(meant) }
    };
    let mut workloads = letters.split(',').map(parse).collect::<Result<Vec<_>, _>>()?.concat();
    workloads.sort_unstable();
    workloads.dedup();
    Ok(workloads)
}
