//! `counterfoil verify`

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Args;
use counterfoil_storage::{Damage, OpenError, Options};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    failure::{Answer, Failure},
    output::{Output, count},
};

/// Read everything and check every checksum and chain
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Folder of the store; another process may be writing it
    store: PathBuf,
    /// One JSON object a line for each damage
    #[arg(long)]
    json: bool,
}

/// A damage as `--json` shows it. The names of the fields stay as they are.
#[derive(Serialize)]
struct Line<'a> {
    /// None if it is the identity.
    segment: Option<u64>,
    offset: u64,
    log: Option<String>,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    what: &'a str,
}

impl<'a> Line<'a> {
    fn of_identity(what: &'a str) -> Self {
        Self { segment: None, offset: 0, log: None, first_seq: None, last_seq: None, what }
    }
}

impl<'a> From<&'a Damage> for Line<'a> {
    fn from(damage: &'a Damage) -> Self {
        Self {
            segment: damage.segment.map(|segment| segment.0),
            offset: damage.offset,
            log: damage.log.map(|log| log.to_string()),
            first_seq: damage.first_seq.map(|seq| seq.0),
            last_seq: damage.last_seq.map(|seq| seq.0),
            what: &damage.what,
        }
    }
}

impl Verify {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        // Drawn on standard error, and only on a terminal.
        let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let progress = |done_bytes, total_bytes| {
            bar.set_length(total_bytes);
            bar.set_position(done_bytes);
        };
        let verified = counterfoil_storage::verify(&self.store, &Options::default(), progress);
        bar.finish_and_clear();
        let mut output = Output::new();
        let report = match verified {
            // To look for damage is what was asked for, and this is where looking ends.
            Err(error @ (OpenError::Identity { .. } | OpenError::IdentityMissing { .. })) => {
                if self.json {
                    output.json(&Line::of_identity(&error.to_string()))?;
                } else {
                    output.line(error.to_string())?;
                }
                output.flush()?;
                return Ok(Answer::BadNews(Some("nothing else was verified: whose store it is can't be told".into())));
            }
            verified => verified?,
        };
        for damage in &report.damage {
            if self.json {
                output.json(&Line::from(damage))?;
            } else {
                output.line(damage.to_string())?;
            }
        }
        output.flush()?;
        for unfinished in &report.unfinished {
            // No damage: nothing of it was acknowledged, as far as can be told.
            let _ = writeln!(io::stderr(), "{unfinished}; the next opening for writing keeps it aside");
        }
        let mended = match report.mended.len() as u64 {
            0 => String::new(),
            mended => format!(" (not counting {}, of which nothing is missing)", count(mended, "mended places")),
        };
        let sum = format!(
            "verified {}, {}, {}, {}: {}{mended}",
            count(report.segments, "segments"),
            count(report.batches, "batches"),
            count(report.records, "records"),
            count(report.bytes, "bytes"),
            count(report.damage.len() as u64, "damaged places")
        );
        // Nobody is left to tell if this fails.
        let _ = writeln!(io::stderr(), "{sum}");
        Ok(if report.damage.is_empty() { Answer::Done } else { Answer::BadNews(None) })
    }
}
