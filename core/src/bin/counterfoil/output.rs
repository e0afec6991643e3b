//! Standard output: through a big buffer, and with errors told apart from the store's.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

use crate::failure::Failure;

const BUFFER_BYTES: usize = 256 << 10;

/// Standard output, buffered.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    pub(crate) fn new() -> Self {
        Self(BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock()))
    }

    /// Writes a line of any bytes.
    pub(crate) fn line(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.bytes(bytes).and_then(|()| self.bytes(b"\n"))
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.0.write_all(bytes.as_ref()).map_err(Failure::Output)
    }

    /// Writes a line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let written = serde_json::to_writer(&mut self.0, value).map_err(io::Error::from);
        written.and_then(|()| self.0.write_all(b"\n")).map_err(Failure::Output)
    }

    /// Hands over what is buffered.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(Failure::Output)
    }
}

/// Whether nobody reads standard output any more: the other end of the pipe is closed.
#[cfg(unix)]
pub(crate) fn is_closed() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    // Errors and hang-ups are told without being asked for.
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).is_ok()
        && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
}

/// Elsewhere it is noticed when something is written.
#[cfg(not(unix))]
pub(crate) fn is_closed() -> bool {
    false
}

/// A number and what is counted, which is spelled for many.
pub(crate) fn count(number: u64, many: &str) -> String {
    let one = match many.strip_suffix("ches") {
        Some(stem) => format!("{stem}ch"),
        None => many.strip_suffix('s').unwrap_or(many).to_owned(),
    };
    format!("{number} {}", if number == 1 { &one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        for (number, many, expected) in
            [(0, "logs", "0 logs"), (1, "logs", "1 log"), (2, "logs", "2 logs"), (1, "batches", "1 batch")]
        {
            assert_eq!(count(number, many), expected);
        }
        assert_eq!(count(1, "damaged places"), "1 damaged place");
    }
}
