//! `counterfoil repair`

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use counterfoil::{RepairProgress, Tls};
use counterfoil_storage::Options;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    failure::{Answer, Failure},
    open::open_to_write,
    output::{Output, count},
    seconds::{SECONDS_DEFAULT, seconds},
};

/// Get back of another node what the disk has lost
///
/// Reads the whole store, fetches the records that can't be read, checks each by its digest, and verifies the store.
/// Prints a line for each damage that remains.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// Folder of the store
    store: PathBuf,
    /// The node that has what is lost, and where it listens
    #[arg(long, value_name = "NODE@ADDR")]
    from: String,
    /// Folder with ca.pem, cert.pem and key.pem
    #[arg(long, value_name = "DIR")]
    tls: PathBuf,
    /// Give up after so long without progress
    #[arg(long, value_name = "SECS", default_value_t = SECONDS_DEFAULT, value_parser = seconds, allow_hyphen_values = true)]
    timeout: f64,
}

impl Repair {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let tls = Tls::from_dir(&self.tls)?;
        let store = open_to_write(&self.store)?;
        // Drawn on standard error, and only on a terminal.
        let style = ProgressStyle::with_template("{msg} {bar:40} {pos} of {len}");
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let progress = |progress| {
            let (message, done, all) = match progress {
                RepairProgress::Reading { batches, batches_max } => ("reading batches", batches, batches_max),
                RepairProgress::Fetching { records, records_max } => ("fetching records", records, records_max),
                _ => return,
            };
            bar.set_message(message);
            bar.set_length(all);
            bar.set_position(done);
        };
        let repaired = store.repair_from(self.from, tls, Duration::from_secs_f64(self.timeout), progress);
        bar.finish_and_clear();
        let closed = store.close(Duration::ZERO);
        let repair = repaired?;
        closed?;
        let mut output = Output::new();
        for missing in &repair.missing {
            let last = missing.next_seq.0 - 1;
            let (log, first, space) = (missing.log, missing.first_seq, &missing.space);
            output.line(format!(
                "log {log} of space {space}: records {first} to {last} are missing: {}",
                missing.reason
            ))?;
        }
        // What is left besides holes, and that what was mended is whole.
        let verified = counterfoil_storage::verify(&self.store, &Options::default(), |_, _| {})?;
        let is_missing = |damage: &counterfoil_storage::Damage| {
            repair.missing.iter().any(|missing| {
                damage.log == Some(missing.log) && damage.first_seq.is_some_and(|seq| seq < missing.next_seq)
            })
        };
        let other: Vec<_> = verified.damage.iter().filter(|damage| !is_missing(damage)).collect();
        for damage in &other {
            output.line(damage.to_string())?;
        }
        output.flush()?;
        let remains = repair.missing.len() + other.len();
        let sum = format!(
            "mended {} in {}: {} left",
            count(repair.records(), "records"),
            count(repair.mended.len() as u64, "ranges"),
            count(remains as u64, "damaged places")
        );
        // Nobody is left to tell if this fails.
        let _ = writeln!(io::stderr(), "{sum}");
        Ok(if remains == 0 { Answer::Done } else { Answer::BadNews(None) })
    }
}
