//! What is asked of Counterfoil alone: bounds that hold whatever others reach. Some of it is done by another process
//! of this program, to be killed, or to have its memory looked at.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio, abort},
    sync::Arc,
};

use counterfoil_benches::{Contender, Counterfoil, LOGS_A_COMMIT, Outcome, store_with};
use counterfoil_storage::Options;

use crate::{
    holes::Holes,
    keyed,
    turn::{Bodies, now},
};

/// What the other process is to do, and in which folder.
const ORDER: &str = "COUNTERFOIL_ARENA_ORDER";
const FOLDER: &str = "COUNTERFOIL_ARENA_FOLDER";
const KILLED: &str = "killed";
const MEMORY: &str = "memory";
const MEMORY_OF_KEYS: &str = "memory of keys: ";

/// Segments have grown to 64 MiB by then, and the last of them is nearly full.
const KILLED_BYTES: u64 = 126 << 20;

/// What a process may take by default (DESIGN.md section 5), in KiB.
const MEMORY_BUDGET_KIB: f64 = 64.0 * 1024.0;

/// Records of zeros, of this length, fill segments without room on the disk.
const HOLE_LEN: usize = 4 << 20;

/// Does what another process of this program was told to; whether there was anything.
pub(crate) fn obey() -> Outcome<bool> {
    let (Some(order), Some(folder)) = (env::var_os(ORDER), env::var_os(FOLDER)) else { return Ok(false) };
    let folder = Path::new(&folder);
    let order = order.to_str().unwrap_or_default();
    match (order, order.strip_prefix(MEMORY_OF_KEYS)) {
        (KILLED, _) => fill_and_die(folder)?,
        (_, Some(keys)) => keyed::use_much(folder, keys.parse()?)?,
        (MEMORY, _) => use_much(folder)?,
        _ => return Err("an unknown order".into()),
    }
    Ok(true)
}

fn other_process(order: &str, folder: &Path) -> Outcome<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.env(ORDER, order).env(FOLDER, folder).stdout(Stdio::piped());
    Ok(command)
}

/// Milliseconds that opening takes after a kill with a full active segment.
pub(crate) fn reopen_killed() -> Outcome<f64> {
    let folder = counterfoil_benches::folder()?;
    if other_process(KILLED, folder.path())?.status()?.success() {
        return Err("the other process was to die".into());
    }
    let start = now();
    let system = Counterfoil.reopen(folder.path())?;
    system.reader(0)?.read(0)?;
    let figure = start.elapsed().as_secs_f64() * 1e3;
    system.close()?;
    Ok(figure)
}

fn fill_and_die(folder: &Path) -> Outcome<()> {
    let (journal, writers) = store_with(Options::default(), folder, LOGS_A_COMMIT as u64);
    let bodies = Bodies::new();
    let mut groups = bodies.groups(LOGS_A_COMMIT);
    while journal.stats().batch_bytes < KILLED_BYTES {
        let Some(group) = groups.next() else { break };
        for (writer, body) in writers.iter().zip(group) {
            writer.append(body)?;
        }
        journal.commit()?;
    }
    abort()
}

/// The greatest memory of a process that opens a store, scans it, reads at random and appends; of what it may take.
pub(crate) fn peak_memory(folder: &Path) -> Outcome<f64> {
    Ok(peak_memory_kib(MEMORY, folder)? / MEMORY_BUDGET_KIB)
}

/// The same of a process that works on a collection of many keys.
pub(crate) fn peak_memory_of_keys(folder: &Path, keys: usize) -> Outcome<f64> {
    Ok(peak_memory_kib(&format!("{MEMORY_OF_KEYS}{keys}"), folder)? / keyed::MEMORY_BUDGET_KIB)
}

fn peak_memory_kib(order: &str, folder: &Path) -> Outcome<f64> {
    let output = other_process(order, folder)?.output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the other process failed")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

fn use_much(folder: &Path) -> Outcome<()> {
    let system = Counterfoil.reopen(folder)?;
    let mut reader = system.reader(0)?;
    let count = reader.scan()?;
    for place in 0..20_000_u64 {
        reader.read(place.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count)?;
    }
    drop(reader);
    let bodies = Bodies::new();
    bodies.groups(1000).take(400).try_for_each(|group| system.append_many(0, group))?;
    system.close()?;
    print!("{}", fs::read_to_string("/proc/self/status")?);
    Ok(())
}

/// Makes a closed store of so many GiB, nearly all of them holes, in sealed segments of the usual size.
pub(crate) fn fill_with_holes(folder: &Path, gib: u64) -> Outcome<()> {
    let mut options = Options::default();
    options.vfs = Arc::new(Holes);
    let (journal, writers) = store_with(options, folder, LOGS_A_COMMIT as u64);
    let bodies = Bodies::new();
    let hole = vec![0; HOLE_LEN];
    let mut groups = bodies.groups(LOGS_A_COMMIT);
    while journal.stats().batch_bytes < gib << 30 {
        let Some(group) = groups.next() else { break };
        for (writer, body) in writers.iter().zip(group) {
            writer.append(body)?;
        }
        for _ in 0..64 {
            writers[0].append(&hole)?;
        }
    }
    Ok(journal.close()?)
}
