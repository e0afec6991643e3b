//! How a command ends.

use std::{io, path::PathBuf};

use counterfoil::{ErrorKind, TlsError, certificates::CertificateError};
use thiserror::Error;

/// What a command that did its work has to say.
#[derive(Debug)]
pub(crate) enum Answer {
    /// All is well.
    Done,
    /// The work was done and the answer is bad news; a line of it, if it has not been told yet.
    BadNews(Option<String>),
}

/// Why a command could not do its work, on one line.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Counterfoil(#[from] counterfoil::Error),
    #[error(transparent)]
    Open(#[from] counterfoil_storage::OpenError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The options don't go together, or name something that is not there.
    #[error("{0}")]
    Usage(String),
    #[error("standard input can't be read: {0}")]
    Input(#[source] io::Error),
    #[error("standard output can't be written: {0}")]
    Output(#[source] io::Error),
    #[error("line {line} is longer than {limit} bytes, the limit of a record: split it")]
    LineTooLong { line: u64, limit: usize },
    #[error("{path}: {operation} failed: {error}")]
    File { operation: &'static str, path: PathBuf, error: io::Error },
    #[error("{what} failed: {error}")]
    System { what: String, error: io::Error },
}

impl Failure {
    /// Whether stored records can't be served, which is an answer.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Counterfoil(error) if error.kind() == ErrorKind::Damaged)
    }
}

/// Folds a message onto one line, however it came to have more.
pub(crate) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
