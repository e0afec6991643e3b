//! The main job: practices that never wait for the network, and a hub that has their records
//! moments later, through cuts, stops and kills.
//!
//! ```sh
//! cargo run --release --example practice
//! cargo run --release --example practice -- --practices 5 --days 30 --seed 7
//! cargo run --release --example practice -- --input records.ndjson
//! ```
//!
//! Each practice is a process of its own (this program, started again) with a store in a folder. It
//! appends its records one by one, each durable before the next, and mirrors them over TLS to the
//! hub, whose store this process holds. Meanwhile, to the first practice: its line is cut and
//! mended, and its process is killed (SIGKILL) and started again; and to all: the hub is stopped
//! and started. In the end both halves of every record are compared.
//!
//! On the screen: a progress bar, then two tables. The first shows that the time an append takes
//! does not depend on the line or the hub, beside bare writes that the store has no part in, so that
//! a busy machine is not taken for a broken promise; the second that both ends hold the same records.
//! The exit status is 0 only if they do and nothing that was acknowledged is missing.
//!
//! Not to copy: certificates and keys made on the spot and thrown away, a line that can be cut, and
//! an authority's key beside a node's. See `counterfoil cert --help`.

mod hub;
mod ledger;
mod line;
mod outcome;
mod records;
mod run;
mod site;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Mirror made-up practices to a hub, with faults
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    /// How many practices
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    practices: u8,
    /// How many days each practice makes records of
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    days: u16,
    /// Other records for another seed, the same for the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// One practice that appends the lines of this file instead of made-up records
    #[arg(long, value_name = "FILE.ndjson", conflicts_with_all = ["practices", "days", "seed"])]
    input: Option<PathBuf>,
    /// How long the days take
    #[arg(long, value_name = "SECS", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// Keep stores and certificates in this folder, to look at them
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    process: Option<Process>,
}

/// What this program is when it starts itself.
#[derive(Debug, Subcommand)]
enum Process {
    /// A practice's process
    #[command(hide = true)]
    Site(site::Site),
}

/// Any error ends an example: it is shown to a person.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    let done = match cli.process.take() {
        Some(Process::Site(site)) => site.run().map(|()| true),
        None => run::run(&cli),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("practice: {error}");
            ExitCode::from(2)
        }
    }
}
