//! Where a practice's records come from.

use std::{fs, path::PathBuf};

use clap::Args;
use counterfoil_examples::fhir;

use crate::Result;

/// The records of one practice: the same ones whenever they are asked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Records {
    /// Seed of the made-up records
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Days of the made-up records
    #[arg(long, default_value_t = 1)]
    pub(crate) days: u16,
    /// File whose lines are the records instead
    #[arg(long)]
    pub(crate) input: Option<PathBuf>,
}

impl Records {
    /// All of them, in order.
    pub(crate) fn all(&self) -> Result<Vec<Vec<u8>>> {
        let Some(input) = &self.input else {
            let mut practice = fhir::Practice::new(self.seed);
            let days = (0..self.days).flat_map(|_| practice.day());
            return Ok(days.map(String::into_bytes).collect());
        };
        let text = fs::read(input).map_err(|error| format!("{} can't be read: {error}", input.display()))?;
        let mut lines: Vec<_> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        if lines.is_empty() {
            return Err(format!("{} holds no record", input.display()).into());
        }
        Ok(lines)
    }

    /// The options by which another process gets the same records.
    pub(crate) fn to_args(&self) -> Vec<std::ffi::OsString> {
        let mut args =
            vec!["--seed".into(), self.seed.to_string().into(), "--days".into(), self.days.to_string().into()];
        if let Some(input) = &self.input {
            args.extend(["--input".into(), input.into()]);
        }
        args
    }
}
