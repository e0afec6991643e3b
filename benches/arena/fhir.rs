//! Records as general practices make them: the files beside the workspace, or else generated ones.

use std::{fs, path::Path};

use counterfoil_benches::{Outcome, Pair};
use counterfoil_examples::fhir::Practice;

use crate::turn::Turn;

/// Where the records of real (synthetic) exports are, beside the workspace.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/fhir");

/// At most `count` records, the files taking turns as practices do; and whether they are the files' own.
pub(crate) fn records(count: usize) -> (Vec<Vec<u8>>, bool) {
    match files() {
        Some(files) if !files.is_empty() => (files.concat().into_iter().take(count).collect(), true),
        _ => {
            let mut practice = Practice::new(1);
            let days = std::iter::repeat_with(|| practice.day());
            (days.flatten().map(String::into_bytes).take(count).collect(), false)
        }
    }
}

/// The lines of each file.
fn files() -> Option<Vec<Vec<Vec<u8>>>> {
    let entries = fs::read_dir(FOLDER).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "ndjson")).collect();
    paths.sort();
    let lines = |path: &Path| Some(fs::read(path).ok()?.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect());
    let is_record = |line: &Vec<u8>| !line.is_empty();
    paths.iter().map(|path| lines(path).map(|lines: Vec<_>| lines.into_iter().filter(is_record).collect())).collect()
}

/// Appends record after record, each when the one before it is mirrored; what the line carried to the mirror for each byte
/// of them, with all that TLS adds. What it carried back, acks and all, is told in `found`.
pub(crate) fn on_the_wire(pair: &mut dyn Pair, count: usize, found: &mut Vec<String>) -> Outcome<Turn> {
    let (records, are_of_files) = records(count);
    pair.begin_mirror()?;
    let mut waiter = pair.waiter()?;
    records.iter().try_for_each(|record| waiter.append_mirrored(record))?;
    drop(waiter);
    let (forth, back) = pair.carried().ok_or("the line does not count")?;
    pair.end_mirror()?;
    let bodies: usize = records.iter().map(Vec::len).sum();
    let whose = if are_of_files { "of ../shared/data/fhir" } else { "generated: ../shared/data/fhir is not there" };
    let back = back as f64 / bodies as f64;
    found
        .push(format!("{} records, {bodies} bytes, {whose}; acks and all that comes back: {back:.3} x", records.len()));
    Ok(Turn { figure: forth as f64 / bodies as f64, latencies: Vec::new() })
}
