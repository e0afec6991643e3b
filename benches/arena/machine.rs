//! On what it was measured, and when.

use std::{fs, path::Path, process::Command, thread};

/// A description for people.
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) description: String,
}

impl Machine {
    /// Of this machine, and of the file system that holds a folder.
    pub(crate) fn describe(folder: &Path) -> Self {
        let processor = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_owned());
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_gib = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0_u64) >> 20;
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        let load = read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
        let file_system = file_system(folder);
        let compiler = output("rustc", &["--version"]);
        let description = format!(
            "{cores} cores of {processor}, {memory_gib} GiB; Linux {kernel}; {file_system}; {compiler}; load at the end {load}"
        );
        Self { date: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]), description }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Type, device and options of the longest mount point that a folder lies below.
fn file_system(folder: &Path) -> String {
    let mounts = read("/proc/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [device, point, kind, options, ..] = fields[..] else { return None };
        folder.starts_with(point).then(|| (point.len(), format!("{kind} on {device} ({options})")))
    });
    mounts.max_by_key(|(len, _)| *len).map_or_else(|| "unknown file system".to_owned(), |(_, text)| text)
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| format!("{program} unknown"),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
