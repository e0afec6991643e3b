//! `counterfoil init`

use std::{path::PathBuf, time::Duration};

use clap::Args;
use counterfoil::Store;

use crate::failure::{Answer, Failure};

/// Make a store for a node
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Folder of the store, made if need be
    store: PathBuf,
    /// Name of the node: 1 to 128 of a-z A-Z 0-9 . _ -
    #[arg(long, value_name = "NAME")]
    node: String,
}

impl Init {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        Store::builder().node(self.node).create(&self.store)?.close(Duration::ZERO)?;
        Ok(Answer::Done)
    }
}
