//! How a command ends.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use counterfoil::{Error, TlsError, certificates::CertificateError};
use counterfoil_storage::ReadError;
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
    /// An input was appended in part: why, how far, and how to go on.
    #[error("{0}")]
    CutShort(String),
    /// A thread panicked, and has said so itself.
    #[error("a part of this command failed (a bug); what was acknowledged is kept")]
    Bug,
    #[error("{what} failed: {error}")]
    System { what: String, error: io::Error },
}

impl Failure {
    /// Whether it is an answer all the same: the store was opened, and records in it are damaged or missing. A store
    /// that can't be opened, whatever the reason, is one on which the command could not do its work.
    pub(crate) fn is_bad_news(&self) -> bool {
        use ReadError::{Damaged, Hole};

        let is_damage = |error: &Error| matches!(error, Error::Read(Damaged { .. } | Hole { .. }) | Error::Batch(_));
        match self {
            Self::Counterfoil(Error::Unread { error, .. }) => is_damage(error),
            Self::Counterfoil(error) => is_damage(error),
            _ => false,
        }
    }
}

/// Writes a line on standard error.
pub(crate) fn tell(message: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "counterfoil: {}", one_line(message));
}

/// Folds a message onto one line, however it came to have more.
pub(crate) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
