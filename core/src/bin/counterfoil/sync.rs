//! `counterfoil sync`

use std::{path::PathBuf, time::Duration};

use clap::Args;
use counterfoil::{Error, LinkStatus};

use crate::{
    failure::{Answer, Failure, tell},
    mirror::{self, Target},
    open::{open_to_write, space_of},
    rules::Rules,
    seconds::{SECONDS_DEFAULT, seconds},
    signals,
};

/// Keep a space here and at another node equal, both ways
#[derive(Debug, Args)]
#[command(after_long_help = "\
Each end streams what the other lacks. The other end is `counterfoil serve`; its policy must grant this node:
  rights = [\"read\", \"write\"]   to get all logs of the space, and to stream logs of its own
  rights = [\"read\", \"relay\"]   also to stream logs of others that it got elsewhere
This node grants all of that, on this space, to the node that it dials.")]
pub(crate) struct Sync {
    /// Folder of the store
    store: PathBuf,
    /// The node at the other end, and where it listens
    #[arg(long, value_name = "NODE@ADDR")]
    with: String,
    /// Folder with ca.pem, cert.pem and key.pem
    #[arg(long, value_name = "DIR")]
    tls: PathBuf,
    /// Space to sync, which either end may not have yet; the node's own name unless given
    #[arg(long, value_name = "S")]
    space: Option<String>,
    /// Compress what is sent; not where others who may have records carried on this link, and see the line, must not
    /// guess at these
    #[arg(long)]
    compress: bool,
    #[command(flatten)]
    rules: Rules,
    /// End once all that was there at the start at either end is durable at the other, or can't get there: with 1 then
    #[arg(long, conflicts_with_all = ["remove_older_than", "remove_beyond"])]
    once: bool,
    /// With --once: end, with 1, after so long without progress
    #[arg(long, value_name = "SECS", default_value_t = SECONDS_DEFAULT, value_parser = seconds, requires = "once", allow_hyphen_values = true)]
    timeout: f64,
}

impl Sync {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let target = Target::new(&self.with, &self.tls)?.compress(self.compress);
        let policy = self.rules.retention()?;
        let store = open_to_write(&self.store)?;
        let space = space_of(&store, self.space.as_deref())?;
        policy.map(|policy| space.set_retention(policy)).transpose()?;
        let signals = signals::receive(false)?;
        let link = target.sync(&store, &space)?;
        let end = mirror::run(&link, &signals, self.once.then(|| Duration::from_secs_f64(self.timeout)));
        let is_synced = end == mirror::End::Synced;
        let mut not_here = self.once.then(|| not_here(&link.status())).flatten();
        let not_there = match store.close(Duration::ZERO) {
            // What has come since, from this very node, is not what was asked about.
            Err(Error::NotMirrored { .. }) if is_synced => return Ok(Answer::Done),
            Err(Error::NotMirrored { unmirrored }) => {
                if unmirrored.iter().any(|missing| !missing.was_reached) {
                    // That it was not reached says all.
                    not_here = None;
                }
                Some(Error::NotMirrored { unmirrored }.to_string())
            }
            closed => closed.map(|()| None)?,
        };
        if is_synced {
            if space.logs().is_empty() {
                tell(&format!("no space {} here or at {}: there was nothing to sync", space.name(), self.with));
            }
            return Ok(Answer::Done);
        }
        let news: Vec<String> = not_there.into_iter().chain(not_here).collect();
        Ok(if news.is_empty() { Answer::Done } else { Answer::BadNews(Some(news.join("; "))) })
    }
}

/// What this store may lack of what the other end had, in words.
fn not_here(status: &LinkStatus) -> Option<String> {
    let (space, reason) = status.catching_up.first()?;
    let reason = reason.as_ref().or(status.last_error.as_ref()).map(|reason| format!(" ({reason})"));
    Some(format!("not all that {} has of space {space} is known to be here{}", status.peer, reason.unwrap_or_default()))
}
