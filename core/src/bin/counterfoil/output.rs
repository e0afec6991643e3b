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
        self.0.write_all(bytes.as_ref()).and_then(|()| self.0.write_all(b"\n")).map_err(Failure::Output)
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
