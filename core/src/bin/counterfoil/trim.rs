//! `counterfoil trim`

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use counterfoil::{Error, Held, Link, Space, Store, Trimmed, TrimmedLog};
use serde::Serialize;

use crate::{
    failure::{Answer, Failure},
    mirror::{self, Target},
    open::{open_with, space_there},
    output::{Output, count},
    rules::Rules,
    seconds::{SECONDS_DEFAULT, seconds},
};

/// Remove records that are old, or too many, and that other nodes have; give back the space that they took
///
/// Prints a line for each log. From each log the oldest records go first, by whole batches; never a key's present version, nor
/// what comes after a damaged place.
#[derive(Debug, Args)]
#[command(after_long_help = "\
What other nodes have is heard of them while a link lives, and not kept: --to makes one for as long as it takes. A hub passes
on what those say that it mirrors to. To have it done while a store is in use:
  counterfoil serve … --mirror-to NODE@ADDR --remove-older-than DAYS     each space of a hub
  counterfoil mirror … --remove-older-than DAYS                          a space that is mirrored
  counterfoil sync … --remove-older-than DAYS                            a space that is synced
Exit status: 1 if records are due and stay since they are not known to be elsewhere, or can't be read.")]
pub(crate) struct Trim {
    /// Folder of the store
    store: PathBuf,
    /// Space of which records are removed; the node's own name unless given
    #[arg(long, value_name = "S")]
    space: Option<String>,
    #[command(flatten)]
    rules: Rules,
    /// Ask this node what it has, and mirror to it what it lacks; given again, others too
    #[arg(long, value_name = "NODE@ADDR", requires = "tls")]
    to: Vec<String>,
    /// Folder with ca.pem, cert.pem and key.pem
    #[arg(long, value_name = "DIR", requires = "to")]
    tls: Option<PathBuf>,
    /// Remove nothing, and print what would be; without --to another process may be writing the store
    #[arg(long)]
    dry_run: bool,
    /// One JSON object a line: each log, then the sum
    #[arg(long)]
    json: bool,
    /// With --to: how long to wait without progress
    #[arg(long, value_name = "SECS", default_value_t = SECONDS_DEFAULT, value_parser = seconds, requires = "to", allow_hyphen_values = true)]
    timeout: f64,
}

/// How often it is looked whether nodes behind a mirror have said what they have.
const GLANCE: Duration = Duration::from_millis(50);

impl Trim {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let usage = |what: &str| Err(Failure::Usage(what.to_owned()));
        let Some(policy) = self.rules.retention()? else {
            return usage("say what is to be removed: --remove-older-than DAYS, or --remove-beyond BYTES");
        };
        if self.to.is_empty() && !self.rules.asks_nobody() && !self.dry_run {
            return usage(
                "what other nodes have is heard of them: name one with --to NODE@ADDR --tls DIR; or have what nobody else may have \
                 removed, for good, with --mirrors 0",
            );
        }
        // Once, when everything has been heard that can be.
        let builder = Store::builder().retention_interval(Duration::MAX);
        let store = if self.dry_run && self.to.is_empty() {
            builder.open_read_only(&self.store)?
        } else {
            open_with(builder, &self.store)?
        };
        let space = space_there(&store, &self.store, self.space.as_deref())?;
        space.set_retention(policy)?;
        if let Some(tls) = &self.tls {
            self.ask(tls, &store, &space)?;
        }
        let trimmed = if self.dry_run { store.trim_plan() } else { store.trim()? };
        self.print(&trimmed)?;
        let not_mirrored = match store.close(Duration::ZERO) {
            Err(error @ Error::NotMirrored { .. }) => Some(error.to_string()),
            closed => closed.map(|()| None)?,
        };
        let Some(news) = bad_news(&trimmed) else { return Ok(Answer::Done) };
        Ok(Answer::BadNews(Some([Some(news), not_mirrored].into_iter().flatten().collect::<Vec<_>>().join("; "))))
    }

    /// Hears of the nodes named what they have, and of those behind them as far as they are needed.
    fn ask(&self, tls: &Path, store: &Store, space: &Space) -> Result<(), Failure> {
        let start = |to: &String| Target::new(to, tls)?.mirror(store, space);
        let links = self.to.iter().map(start).collect::<Result<Vec<Link>, Failure>>()?;
        let timeout = Duration::from_secs_f64(self.timeout);
        // A signal ends the process at once, here and later: whatever has been removed by then, the store is whole.
        let (_no_signal, signals) = mpsc::channel();
        for link in &links {
            mirror::run(link, &signals, Some(timeout));
        }
        let is_asked = |node: &counterfoil::NodeName| links.iter().any(|link| link.status().peer == *node);
        if self.rules.mirrors() <= links.len() && self.rules.held_by().iter().all(is_asked) {
            return Ok(());
        }
        let began_at = now();
        while !self.have_all(store, space) && began_at.elapsed() < timeout {
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Whether enough nodes have said that they have everything.
    fn have_all(&self, store: &Store, space: &Space) -> bool {
        space.logs().iter().all(|info| {
            let mut acks = store.acks(info.id);
            acks.retain(|ack| ack.whole_until() >= info.durable.next_seq);
            let has_it = |node: &counterfoil::NodeName| acks.iter().any(|ack| ack.node == *node);
            acks.len() >= self.rules.mirrors() && self.rules.held_by().iter().all(has_it)
        })
    }

    fn print(&self, trimmed: &Trimmed) -> Result<(), Failure> {
        let mut output = Output::new();
        for log in &trimmed.logs {
            if self.json {
                output.json(&LogLine::of(log))?;
            } else {
                output.line(self.line(log))?;
            }
        }
        let (records, bytes) = (trimmed.records(), trimmed.bytes());
        let freed = (!self.dry_run).then(|| GivenBack::of(trimmed));
        if self.json {
            output.json(&SumLine { records, bytes, freed })?;
        } else {
            let sum = format!("{}, {}", self.records(records), count(bytes, "bytes"));
            let given_back = freed.map(|freed| {
                let (segments, bytes) = (count(freed.freed_segments, "segments"), count(freed.freed_bytes, "bytes"));
                format!("; {segments} given back, {bytes}, of which {} copied forward", freed.copied_bytes)
            });
            output.line(sum + &given_back.unwrap_or_default())?;
        }
        output.flush()
    }

    fn records(&self, records: u64) -> String {
        let done = if self.dry_run { "would be removed" } else { "removed" };
        format!("{} {done}", count(records, "records"))
    }

    fn line(&self, log: &TrimmedLog) -> String {
        let TrimmedLog { log: id, node, from, to, due, .. } = log;
        let what = match log.records() {
            0 => "nothing removed".to_owned(),
            records => format!("{}, seq {from} to before {to}", self.records(records)),
        };
        let held = log.held.as_ref().map(|held| format!("; all before {due} is due, but {held}"));
        format!("log {id} of {node}: {what}{}", held.unwrap_or_default())
    }
}

/// What of it an operator should look after: a key's present version is no mishap.
fn bad_news(trimmed: &Trimmed) -> Option<String> {
    let is_mishap = |log: &&TrimmedLog| log.held.as_ref().is_some_and(|held| !matches!(held, Held::LiveVersion { .. }));
    let held = trimmed.logs.iter().filter(is_mishap).count() as u64;
    let held = (held > 0).then(|| format!("records are due and stay in {}", count(held, "logs")));
    let news: Vec<String> = held.into_iter().chain(trimmed.not_freed.clone()).collect();
    (!news.is_empty()).then(|| news.join("; "))
}

#[expect(clippy::disallowed_methods, reason = "other nodes are given a time to say what they have")]
fn now() -> Instant {
    Instant::now()
}

/// A log as `--json` shows it. The names of the fields stay as they are.
#[derive(Serialize)]
struct LogLine<'a> {
    log: String,
    node: &'a str,
    space: &'a str,
    /// Its first record before.
    from: u64,
    /// Its first record from now on.
    to: u64,
    /// The first record that is not due.
    due: u64,
    records: u64,
    bytes: u64,
    /// Why not all that is due is removed; left out if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<HeldLine>,
}

#[derive(Serialize)]
struct HeldLine {
    by: &'static str,
    reason: String,
}

impl<'a> LogLine<'a> {
    fn of(log: &'a TrimmedLog) -> Self {
        let by = |held: &Held| match held {
            Held::NotMirrored { .. } => "not_mirrored",
            Held::LiveVersion { .. } => "live_version",
            Held::Hole { .. } => "hole",
            _ => "failed",
        };
        Self {
            log: log.log.to_string(),
            node: log.node.as_str(),
            space: log.space.as_str(),
            from: log.from.0,
            to: log.to.0,
            due: log.due.0,
            records: log.records(),
            bytes: log.bytes,
            held: log.held.as_ref().map(|held| HeldLine { by: by(held), reason: held.to_string() }),
        }
    }
}

#[derive(Serialize)]
struct SumLine {
    records: u64,
    bytes: u64,
    /// Left out of a dry run.
    #[serde(flatten)]
    freed: Option<GivenBack>,
}

#[derive(Serialize)]
struct GivenBack {
    freed_segments: u64,
    freed_bytes: u64,
    copied_bytes: u64,
}

impl GivenBack {
    fn of(trimmed: &Trimmed) -> Self {
        let Trimmed { freed_segments, freed_bytes, copied_bytes, .. } = *trimmed;
        Self { freed_segments, freed_bytes, copied_bytes }
    }
}
