//! A time limit as it is given on the command line.

/// The longest time that may be given, in seconds: some thirty years, so that no deadline overflows.
const SECONDS_MAX: f64 = 1e9;

/// How long is waited for a mirror unless told otherwise, in seconds.
pub(crate) const SECONDS_DEFAULT: f64 = 30.0;

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(seconds),
        _ => Err(format!("give a number of seconds from 0 to {SECONDS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_number_of_seconds_that_can_be_waited_for() {
        for good in ["0", "0.25", "1e9", "30"] {
            assert!(seconds(good).is_ok(), "{good}");
        }
        for bad in ["-1", "NaN", "inf", "-inf", "1e30", "", "30s"] {
            assert_eq!(seconds(bad), Err("give a number of seconds from 0 to 1000000000".to_owned()), "{bad}");
        }
    }
}
