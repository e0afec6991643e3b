//! `counterfoil serve`

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use counterfoil::{Error, Link, Policy, Server, Store, SystemClock, Tls, WallClock as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    failure::{Answer, Failure, one_line},
    metrics,
    open::open_with,
    output::Output,
    rules::Rules,
    signals::{self, Signal},
};

/// Let other nodes mirror to this store, or sync with it: be their hub
#[derive(Debug, Args)]
#[command(after_long_help = "\
A policy file says who may do what. As soon as it has one grant, nothing is granted but what it says:
  [[grant]]
  node = \"practice-12\"          # a node's name, as in its certificate
  space = \"practice-12\"         # a space's name, or \"*\" for all
  rights = [\"read\", \"write\"]  # read: get its logs; write: stream logs of its own; relay: stream others' logs
  [[deny]]
  node = \"practice-13\"          # is let in no more, whatever is granted
Without the file, or without a grant in it, each node may write and read the space that bears its name.

With --remove-older-than or --remove-beyond records of each space are removed once enough other nodes have said that they have
them: those that it mirrors to or syncs with, and what these pass on. A node that writes records is none of them. Of records that
nobody can read here, and of keys' present versions, none is removed.

SIGHUP has the policy and the certificates read again, also for those who are connected: who is denied now is cut
off. If one of the files can't be used, the log says so and all stays as it was.")]
pub(crate) struct Serve {
    /// Folder of the store
    store: PathBuf,
    /// Where to listen; port 0 picks a free one
    #[arg(long, value_name = "ADDR")]
    listen: String,
    /// Folder with ca.pem, cert.pem and key.pem
    #[arg(long, value_name = "DIR")]
    tls: PathBuf,
    /// Who may do what (TOML); without it, each node has the space that bears its own name
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Where to answer Prometheus: GET /metrics
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// Compress what is said to nodes that take it; see `counterfoil mirror --help` for when not to
    #[arg(long)]
    compress: bool,
    /// Mirror all spaces onward to this node, also those that come (it must grant this one `relay` on `*`)
    #[arg(long, value_name = "NODE@ADDR")]
    mirror_to: Option<String>,
    /// Sync all spaces that are here, also those that come, with this node (it must grant this one `read` and `relay`)
    #[arg(long, value_name = "NODE@ADDR", conflicts_with = "mirror_to")]
    sync_with: Option<String>,
    #[command(flatten)]
    rules: Rules,
}

impl Serve {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let tls = Tls::from_dir(&self.tls)?;
        // One that is not valid yet may be, to others: this node's clock may be slow.
        if let Some(what) = tls.out_of_date().filter(|_| tls.not_after() <= now()) {
            return Err(Failure::Usage(format!("no node would accept this one's certificate: {what}")));
        }
        let policy = self.policy.as_deref().map_or_else(|| Ok(Policy::own_space_only()), read_policy)?;
        let retention = self.rules.retention()?.unwrap_or_default();
        let store = open_with(Store::builder().retention(retention), &self.store)?;
        let signals = signals::receive(true)?;
        raise_file_handles();
        if let Some(address) = &self.metrics {
            tracing::info!("metrics at http://{}/metrics", metrics::serve(address, store.clone())?);
        }
        let mirror = self.mirror_to.as_ref().map(|to| store.mirror_to(to, tls.clone()));
        let sync = self.sync_with.as_ref().map(|with| store.sync_with(with, tls.clone()));
        let onward = mirror.or(sync).map(|link| {
            let link = link.all_spaces();
            if self.compress { link.compress().start() } else { link.start() }
        });
        let onward = onward.transpose()?;
        let server = store.serve(&self.listen, tls).policy(policy);
        let server = if self.compress { server.compress().start()? } else { server.start()? };
        let mut output = Output::new();
        output.line(format!("listening on {}", server.local_addr()))?;
        output.flush()?;
        while signals.recv().is_ok_and(|signal| signal == Signal::Reload) {
            match self.reload(&server, onward.as_ref()) {
                Ok(()) => tracing::info!("policy and certificates read again"),
                Err(failure) => {
                    let why = one_line(&failure.to_string());
                    tracing::error!("nothing reloaded, the old policy and certificates stay: {why}");
                }
            }
        }
        server.stop();
        match store.close(Duration::ZERO) {
            // It goes on when the hub does: to have everything elsewhere at all times is not what a hub is asked for.
            Err(error @ Error::NotMirrored { .. }) => tracing::warn!("{}", one_line(&error.to_string())),
            closed => closed?,
        }
        Ok(Answer::Done)
    }

    /// Both are read before either is changed.
    fn reload(&self, server: &Server, onward: Option<&Link>) -> Result<(), Failure> {
        let tls = Tls::from_dir(&self.tls)?;
        let policy = self.policy.as_deref().map(read_policy).transpose()?;
        server.set_tls(tls.clone())?;
        onward.map(|link| link.set_tls(tls)).transpose()?;
        if let Some(policy) = policy {
            server.set_policy(policy);
        }
        Ok(())
    }
}

/// A hub has a connection for each node, and many systems let a process have 1024 unless it asks for more.
fn raise_file_handles() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        tracing::warn!(%error, "no more file handles than {:?}", limit.current);
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(SystemClock.unix_ms())
}

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let unread =
        |error| Failure::Usage(format!("{}: the policy can't be read: {error}; check the path", path.display()));
    let text = fs::read_to_string(path).map_err(unread)?;
    Policy::parse(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}
