//! `counterfoil mirror`

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use clap::Args;
use counterfoil::{Error, Link, Space, Store, Tls};

use crate::{
    failure::{Answer, Failure},
    open::{open_to_write, space_there},
    rules::Rules,
    seconds::{SECONDS_DEFAULT, seconds},
    signals::{self, Signal},
};

/// Mirror a space to another node, one way
#[derive(Debug, Args)]
pub(crate) struct Mirror {
    /// Folder of the store
    store: PathBuf,
    /// The node that gets it, and where it listens
    #[arg(long, value_name = "NODE@ADDR")]
    to: String,
    /// Folder with ca.pem, cert.pem and key.pem
    #[arg(long, value_name = "DIR")]
    tls: PathBuf,
    /// Space to mirror; the node's own name unless given
    #[arg(long, value_name = "S")]
    space: Option<String>,
    /// Compress what is sent; not where others who may have records mirrored on this link, and see the line, must not
    /// guess at these
    #[arg(long)]
    compress: bool,
    #[command(flatten)]
    rules: Rules,
    /// End once all that was there at the start is durable at the far end, or can't get there: with 1 then
    #[arg(long, conflicts_with_all = ["remove_older_than", "remove_beyond"])]
    once: bool,
    /// With --once: end, with 1, after so long without progress
    #[arg(long, value_name = "SECS", default_value_t = SECONDS_DEFAULT, value_parser = seconds, requires = "once", allow_hyphen_values = true)]
    timeout: f64,
}

/// Where to mirror to, and who this node is.
#[derive(Debug)]
pub(crate) struct Target {
    peer: String,
    tls: Tls,
    compress: bool,
}

impl Target {
    pub(crate) fn new(peer: &str, tls: &Path) -> Result<Self, Failure> {
        Ok(Self { peer: peer.to_owned(), tls: Tls::from_dir(tls)?, compress: false })
    }

    /// Has what is sent compressed.
    pub(crate) fn compress(mut self, compress: bool) -> Self {
        self.compress = compress;
        self
    }

    /// Starts a link for one space; what goes wrong on it is logged by the library.
    pub(crate) fn mirror(self, store: &Store, space: &Space) -> Result<Link, Failure> {
        let link = store.mirror_to(self.peer, self.tls).spaces([space.name().as_str()]);
        Ok(if self.compress { link.compress().start()? } else { link.start()? })
    }

    /// The same both ways.
    pub(crate) fn sync(self, store: &Store, space: &Space) -> Result<Link, Failure> {
        let link = store.sync_with(self.peer, self.tls).spaces([space.name().as_str()]);
        Ok(if self.compress { link.compress().start()? } else { link.start()? })
    }
}

/// How often the far end's acks are looked at.
const GLANCE: Duration = Duration::from_millis(50);

impl Mirror {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let target = Target::new(&self.to, &self.tls)?.compress(self.compress);
        let policy = self.rules.retention()?;
        let store = open_to_write(&self.store)?;
        let space = space_there(&store, &self.store, self.space.as_deref())?;
        policy.map(|policy| space.set_retention(policy)).transpose()?;
        let signals = signals::receive(false)?;
        let link = target.mirror(&store, &space)?;
        run(&link, &signals, self.once.then(|| Duration::from_secs_f64(self.timeout)));
        match store.close(Duration::ZERO) {
            Err(error @ Error::NotMirrored { .. }) => Ok(Answer::BadNews(Some(error.to_string()))),
            closed => Ok(closed.map(|()| Answer::Done)?),
        }
    }
}

/// Lets a link go on until a signal comes. With a time limit: until both ends have all that was there at the start, or
/// can't get it, or get no nearer to it for so long.
pub(crate) fn run(link: &Link, signals: &Receiver<Signal>, once: Option<Duration>) -> End {
    let is_stopped = |wait| !matches!(signals.recv_timeout(wait), Err(RecvTimeoutError::Timeout));
    let Some(timeout) = once else {
        while !is_stopped(Duration::from_secs(3600)) {}
        return End::Stopped;
    };
    let mut watch = Watch::new(link, timeout);
    // Nothing is appended here meanwhile: all that is there now is all that was there at the start, or came by the link.
    while !link.wait_synced(GLANCE) {
        if is_stopped(Duration::ZERO) {
            return End::Stopped;
        }
        if !link.is_moving() || watch.is_over(link) {
            return End::Lacking;
        }
    }
    End::Synced
}

/// Why a link is not waited for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A signal came.
    Stopped,
    /// Both ends had all that was there at the start.
    Synced,
    /// They had not, and don't get nearer to it.
    Lacking,
}

/// Whether the two ends still get nearer to having everything.
struct Watch {
    records_lacking: u64,
    progressed_at: Instant,
    timeout: Duration,
}

impl Watch {
    fn new(link: &Link, timeout: Duration) -> Self {
        Self { records_lacking: Self::records_lacking(link), progressed_at: now(), timeout }
    }

    fn records_lacking(link: &Link) -> u64 {
        let status = link.status();
        status.lag.records + status.behind_records
    }

    /// Whether it has not for as long as may be waited.
    fn is_over(&mut self, link: &Link) -> bool {
        let records = Self::records_lacking(link);
        if records != self.records_lacking {
            self.progressed_at = now();
        }
        self.records_lacking = records;
        self.progressed_at.elapsed() >= self.timeout
    }
}

#[expect(clippy::disallowed_methods, reason = "the far end is given a time to make progress")]
fn now() -> Instant {
    Instant::now()
}
