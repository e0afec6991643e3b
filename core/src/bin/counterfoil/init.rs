//! `counterfoil init`

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use counterfoil::Store;

use crate::failure::{Answer, Failure};

/// What may be in the folder of a new store: an attempt that was cut short, what a file system keeps.
const NOT_FOREIGN: [&str; 2] = ["lock", "lost+found"];

/// Make a store for a node
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Folder of the store: made if need be, else it must be empty
    store: PathBuf,
    /// Name of the node: 1 to 128 of a-z A-Z 0-9 . _ -
    #[arg(long, value_name = "NAME")]
    node: String,
}

impl Init {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        self.check_folder()?;
        Store::builder().node(self.node).create(&self.store)?.close(Duration::ZERO)?;
        Ok(Answer::Done)
    }
    /// Refuses a folder with files of something else: most likely it is not the one that was meant.
    fn check_folder(&self) -> Result<(), Failure> {
        // What is wrong with a folder that can't be listed is told when the store is made.
        let names = fs::read_dir(&self.store).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        // A store is refused by its own words.
        let is_segment = |name: &str| Path::new(name).extension().is_some_and(|extension| extension == "seg");
        if names.iter().any(|name| name == "identity" || is_segment(name)) {
            return Ok(());
        }
        names.retain(|name| !NOT_FOREIGN.contains(&name.as_str()));
        names.sort();
        let path = self.store.display();
        names.first().map_or(Ok(()), |name| {
            Err(Failure::Usage(format!("{path} holds other files ({name}): choose an empty folder, or a new one")))
        })
    }
}
