//! The command `counterfoil`: for operators, scripts and black-box tests.
//!
//! Data go to standard output, everything else to standard error. Exit status: 0 done; 1 the command
//! did its work and the answer is bad news; 2 it could not do its work. An error is one line: what,
//! where, what to do.

mod append;
mod cat;
mod cert;
mod collection;
mod failure;
mod init;
mod lines;
mod metrics;
mod mirror;
mod open;
mod output;
mod pointer;
mod progress;
mod repair;
mod rules;
mod seconds;
mod serve;
mod signals;
mod status;
mod sync;
mod trim;
mod usage;
mod verify;
mod when;

use std::{io, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use failure::{Answer, Failure};

/// Records in an append-only log on your own disk, mirrored in real time to other machines.
#[derive(Debug, Parser)]
#[command(
    name = "counterfoil",
    bin_name = "counterfoil",
    version,
    subcommand_required = true,
    arg_required_else_help = false
)]
#[command(after_help = "\
Data go to standard output, everything else to standard error.
Exit status:
  0  done
  1  the work was done and the answer is bad news: damage or missing records found, not mirrored (in time),
     nothing under a key, versions in conflict, records that should go and must stay
  2  the work could not be done: wrong usage, or an error; also a store that can't be opened because the file
     that says whose it is is damaged, except for `verify`, whose answer (1) that is
COUNTERFOIL_LOG=error|warn|info|debug|trace sets how much is logged.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Append(append::Append),
    Put(collection::Put),
    Get(collection::Get),
    Delete(collection::Delete),
    Keys(collection::Keys),
    Conflicts(collection::Conflicts),
    Resolve(collection::Resolve),
    History(collection::History),
    Cat(cat::Cat),
    Status(status::Status),
    Verify(verify::Verify),
    Repair(repair::Repair),
    Trim(trim::Trim),
    #[command(subcommand)]
    Cert(cert::Cert),
    Serve(serve::Serve),
    Mirror(mirror::Mirror),
    Sync(sync::Sync),
}

impl Command {
    fn run(self) -> Result<Answer, Failure> {
        match self {
            Self::Init(init) => init.run(),
            Self::Append(append) => append.run(),
            Self::Put(put) => put.run(),
            Self::Get(get) => get.run(),
            Self::Delete(delete) => delete.run(),
            Self::Keys(keys) => keys.run(),
            Self::Conflicts(conflicts) => conflicts.run(),
            Self::Resolve(resolve) => resolve.run(),
            Self::History(history) => history.run(),
            Self::Cat(cat) => cat.run(),
            Self::Status(status) => status.run(),
            Self::Verify(verify) => verify.run(),
            Self::Repair(repair) => repair.run(),
            Self::Trim(trim) => trim.run(),
            Self::Cert(cert) => cert.run(),
            Self::Serve(serve) => serve.run(),
            Self::Mirror(mirror) => mirror.run(),
            Self::Sync(sync) => sync.run(),
        }
    }

    /// What is logged unless `COUNTERFOIL_LOG` says otherwise: those that run for long say what
    /// happens; those that read say themselves what they found.
    fn log_level(&self) -> LevelFilter {
        match self {
            Self::Serve(_) | Self::Mirror(_) | Self::Sync(_) => LevelFilter::INFO,
            Self::Cat(_)
            | Self::Get(_)
            | Self::Keys(_)
            | Self::Conflicts(_)
            | Self::History(_)
            | Self::Status(_)
            | Self::Verify(_)
            | Self::Repair(_)
            | Self::Trim(_) => LevelFilter::ERROR,
            _ => LevelFilter::WARN,
        }
    }
}

/// The level of the environment; one that is none is told and left alone.
fn log_level_wanted() -> Option<LevelFilter> {
    let wanted = std::env::var("COUNTERFOIL_LOG").ok().filter(|wanted| !wanted.is_empty())?;
    let level = wanted.parse().ok();
    if level.is_none() {
        let levels = "off, error, warn, info, debug, trace";
        failure::tell(&format!("COUNTERFOIL_LOG={wanted} is not understood and not heeded: use one of {levels}"));
    }
    level
}

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return usage::explain(&error, &Cli::command()),
    };
    let level = log_level_wanted();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_max_level(level.unwrap_or(command.log_level()))
        .with_target(false)
        .init();
    let answer = command.run();
    let status = match &answer {
        Ok(Answer::Done) => 0,
        // Whoever reads has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Ok(Answer::BadNews(_)) => 1,
        Err(failure) if failure.is_bad_news() => 1,
        Err(_) => 2,
    };
    let message = match answer {
        Ok(Answer::BadNews(news)) => news,
        Err(failure) if status != 0 => Some(failure.to_string()),
        _ => None,
    };
    if let Some(message) = message {
        failure::tell(&message);
    }
    ExitCode::from(status)
}
