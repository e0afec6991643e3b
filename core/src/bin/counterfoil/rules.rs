//! What may be removed, as options.

use std::time::Duration;

use clap::Args;
use counterfoil::{NodeName, Retention};

use crate::failure::Failure;

/// The longest age that may be given, in days: some three thousand years.
const DAYS_MAX: f64 = 1e6;

const DAY_SECONDS: f64 = 24.0 * 60.0 * 60.0;

/// What may be removed of a space. Nothing, unless one of the first two is given.
#[derive(Debug, Args)]
pub(crate) struct Rules {
    /// Remove records that were recorded so many days ago, once enough other nodes have them
    #[arg(long, value_name = "DAYS", value_parser = days, allow_hyphen_values = true)]
    remove_older_than: Option<Duration>,
    /// Remove the oldest records of the space while it takes more than so many bytes, once enough other nodes have them
    #[arg(long, value_name = "BYTES")]
    remove_beyond: Option<u64>,
    /// How many other nodes must have said that they have a record before it is removed: 1 unless told otherwise. With 0 what
    /// nobody else has is gone for good
    #[arg(long, value_name = "N")]
    mirrors: Option<usize>,
    /// A node that must have said so; given again, others too
    #[arg(long, value_name = "NODE")]
    held_by: Vec<NodeName>,
}

impl Rules {
    /// The policy; `None` if nothing is to be removed.
    pub(crate) fn retention(&self) -> Result<Option<Retention>, Failure> {
        if self.remove_older_than.is_none() && self.remove_beyond.is_none() {
            if self.mirrors.is_some() || !self.held_by.is_empty() {
                let usage = "--mirrors and --held-by say who must have records before they are removed: say which those are, \
                             with --remove-older-than DAYS or --remove-beyond BYTES";
                return Err(Failure::Usage(usage.to_owned()));
            }
            return Ok(None);
        }
        let mut policy = Retention::keep_all().mirrors(self.mirrors()).held_by(self.held_by.iter().cloned());
        if let Some(age) = self.remove_older_than {
            policy = policy.remove_older_than(age);
        }
        if let Some(bytes) = self.remove_beyond {
            policy = policy.remove_beyond(bytes);
        }
        Ok(Some(policy))
    }

    pub(crate) fn mirrors(&self) -> usize {
        self.mirrors.unwrap_or(1)
    }

    pub(crate) fn held_by(&self) -> &[NodeName] {
        &self.held_by
    }

    /// Whether records are removed that no other node may have.
    pub(crate) fn asks_nobody(&self) -> bool {
        self.mirrors() == 0 && self.held_by.is_empty()
    }
}

fn days(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(days) if (0.0..=DAYS_MAX).contains(&days) => Ok(Duration::from_secs_f64(days * DAY_SECONDS)),
        _ => Err(format!("give a number of days from 0 to {DAYS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_number_of_days() {
        assert_eq!(days("30"), Ok(Duration::from_secs(30 * 24 * 60 * 60)));
        assert_eq!(days("0.5"), Ok(Duration::from_secs(12 * 60 * 60)));
        assert!(days("0").is_ok() && days("1e6").is_ok());
        for bad in ["-1", "NaN", "inf", "1e30", "", "30d"] {
            assert_eq!(days(bad), Err("give a number of days from 0 to 1000000".to_owned()), "{bad}");
        }
    }
}
