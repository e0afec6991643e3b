//! Times of day as records carry them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 (UTC), negative before; what lies beyond is cut to the nearest that can be said.
pub(crate) fn to_unix_ms(time: SystemTime) -> i64 {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => ms(after),
        Err(before) => -ms(before.duration()),
    }
}

/// The other way round; `None` if the operating system's clock can't show it.
pub(crate) fn of_unix_ms(unix_ms: i64) -> Option<SystemTime> {
    let span = Duration::from_millis(unix_ms.unsigned_abs());
    if unix_ms < 0 { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970_read_back_to_the_millisecond() {
        for unix_ms in [0, 1, -1, 1_700_000_000_123, -1_700_000_000_123] {
            assert_eq!(to_unix_ms(of_unix_ms(unix_ms).unwrap()), unix_ms);
        }
        let odd = UNIX_EPOCH + Duration::from_micros(1999);
        assert_eq!(to_unix_ms(odd), 1);
    }
}
