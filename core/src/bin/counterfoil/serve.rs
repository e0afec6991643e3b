//! `counterfoil serve`

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use counterfoil::{Error, Link, Policy, Server, Tls};

use crate::{
    failure::{Answer, Failure, one_line},
    metrics,
    open::open_to_write,
    output::Output,
    signals::{self, Signal},
};

/// Let other nodes mirror to this store: be their hub
#[derive(Debug, Args)]
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
    /// Mirror all spaces onward to this node, also those that come (it must grant this one `relay` on `*`)
    #[arg(long, value_name = "NODE@ADDR")]
    mirror_to: Option<String>,
}

impl Serve {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let tls = Tls::from_dir(&self.tls)?;
        let policy = self.policy.as_deref().map_or_else(|| Ok(Policy::own_space_only()), read_policy)?;
        let store = open_to_write(&self.store)?;
        let signals = signals::receive(true)?;
        if let Some(address) = &self.metrics {
            tracing::info!("metrics at http://{}/metrics", metrics::serve(address, store.clone())?);
        }
        let onward =
            self.mirror_to.as_ref().map(|to| store.mirror_to(to, tls.clone()).all_spaces().start()).transpose()?;
        let server = store.serve(&self.listen, tls).policy(policy).start()?;
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

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::File {
        operation: "reading the policy",
        path: path.to_owned(),
        error,
    })?;
    Policy::parse(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}
