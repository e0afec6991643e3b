//! `counterfoil status`

use std::{fs, io, path::PathBuf};

use clap::Args;
use counterfoil::{LogInfo, Store};
use serde::Serialize;

use crate::{
    failure::{Answer, Failure},
    open::open_to_read,
    output::{Output, count},
};

/// Show what a store holds
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Folder of the store; another process may be writing it
    store: PathBuf,
    /// One JSON object on one line
    #[arg(long)]
    json: bool,
}

/// What is shown. The names of the fields stay as they are.
#[derive(Serialize)]
struct Report {
    node: String,
    store: String,
    incarnation: String,
    spaces: Vec<SpaceReport>,
    logs: Vec<LogReport>,
    /// What the store's files take on the disk.
    disk_bytes: u64,
    recovery: RecoveryReport,
}

#[derive(Serialize)]
struct SpaceReport {
    space: String,
    logs: u64,
    records: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct LogReport {
    id: String,
    node: String,
    space: String,
    first_seq: u64,
    next_seq: u64,
    /// Records from `first_seq` on that are known to be missing or damaged here.
    missing: u64,
    bytes: u64,
    digest: String,
    /// Digest of the batch before `first_seq`, or of the genesis.
    first_digest: String,
    /// Bytes of batches before `first_seq`, which retention removed.
    trimmed_bytes: u64,
}

impl From<&LogInfo> for LogReport {
    fn from(info: &LogInfo) -> Self {
        Self {
            id: info.id.to_string(),
            node: info.genesis.node.to_string(),
            space: info.genesis.space.to_string(),
            first_seq: info.first_seq.0,
            next_seq: info.durable.next_seq.0,
            missing: info.missing_records(),
            bytes: info.bytes,
            digest: info.durable.digest.to_string(),
            first_digest: info.first_digest.to_string(),
            trimmed_bytes: info.trimmed_bytes,
        }
    }
}

/// What opening the store just now found.
#[derive(Serialize)]
struct RecoveryReport {
    /// The store had been closed, or was new, and nothing is damaged.
    clean: bool,
    findings: Vec<String>,
}

/// Whether nothing is known to be damaged or missing.
fn is_whole(store: &Store) -> bool {
    store.recovery().damage().next().is_none() && store.logs().iter().all(|info| info.missing_records() == 0)
}

impl Status {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let store = open_to_read(&self.store)?;
        let report = self.report(&store)?;
        let mut output = Output::new();
        if self.json {
            output.json(&report)?;
        } else {
            report.print(&mut output)?;
        }
        output.flush()?;
        Ok(if is_whole(&store) { Answer::Done } else { Answer::BadNews(None) })
    }

    fn report(&self, store: &Store) -> Result<Report, Failure> {
        let stats = store.stats();
        let spaces = stats.spaces.iter().map(|space| SpaceReport {
            space: space.space.to_string(),
            logs: space.logs,
            records: space.records,
            bytes: space.bytes,
        });
        Ok(Report {
            node: store.node().to_string(),
            store: store.id().to_string(),
            incarnation: store.incarnation().to_string(),
            spaces: spaces.collect(),
            logs: store.logs().iter().map(LogReport::from).collect(),
            disk_bytes: self.disk_bytes().map_err(|error| Failure::File {
                operation: "reading the folder",
                path: self.store.clone(),
                error,
            })?,
            recovery: RecoveryReport {
                clean: store.recovery().clean && is_whole(store),
                findings: store.recovery().findings.iter().map(ToString::to_string).collect(),
            },
        })
    }

    fn disk_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(&self.store)? {
            bytes += match entry?.metadata() {
                Ok(metadata) => allocated_bytes(&metadata),
                // Another process may remove files meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            };
        }
        Ok(bytes)
    }
}

#[cfg(unix)]
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

impl Report {
    fn print(&self, output: &mut Output) -> Result<(), Failure> {
        output.line(format!("node {}", self.node))?;
        output.line(format!("store {}, incarnation {}", self.store, self.incarnation))?;
        output.line(format!("{} on disk", count(self.disk_bytes, "bytes")))?;
        for space in &self.spaces {
            let SpaceReport { space: name, logs, records, bytes } = space;
            let (logs, records) = (count(*logs, "logs"), count(*records, "records"));
            output.line(format!("space {name}: {logs}, {records}, {}", count(*bytes, "bytes")))?;
            for log in self.logs.iter().filter(|log| log.space == *name) {
                let LogReport { id, node, first_seq, next_seq, missing, bytes, digest, .. } = log;
                let bytes = count(*bytes, "bytes");
                let missing =
                    if *missing > 0 { format!(", {} missing", count(*missing, "records")) } else { String::new() };
                output.line(format!("  log {id} of {node}: seq {first_seq} to before {next_seq}{missing}, {bytes}"))?;
                output.line(format!("    digest {digest}"))?;
                if *first_seq > 0 {
                    let removed = format!("seq 0 to before {first_seq}, {}", count(log.trimmed_bytes, "bytes"));
                    output.line(format!("    removed: {removed}; their last digest {}", log.first_digest))?;
                }
            }
        }
        for finding in &self.recovery.findings {
            output.line(format!("found: {finding}"))?;
        }
        Ok(())
    }
}
