//! Directories: what processes see, what the medium holds, and the changes between.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use crate::{medium::Mercy, rng::Rng};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Directory,
    File(u64),
}

/// A change of a directory that no flush has covered.
#[derive(Debug, Clone)]
enum Change {
    Link { path: PathBuf, entry: Entry },
    Rename { from: PathBuf, to: PathBuf, entry: Entry },
    Unlink { path: PathBuf },
}

/// All names of a disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    current: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    unsynced: Vec<Change>,
}

fn is_root(path: &Path) -> bool {
    path.parent().is_none()
}

impl Change {
    fn paths(&self) -> [&Path; 2] {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } => [path, path],
            Self::Rename { from, to, .. } => [from, to],
        }
    }

    /// Whether a file system that keeps the order of what touches the same names makes `self` before `later`.
    fn comes_before(&self, later: &Self) -> bool {
        self.paths().iter().any(|path| later.paths().contains(path))
    }

    fn is_in(&self, dir: &Path) -> bool {
        self.paths()[1].parent() == Some(dir)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Self::Link { path, entry } => {
                names.insert(path.clone(), *entry);
            }
            Self::Rename { from, to, entry } => {
                names.remove(from);
                names.insert(to.clone(), *entry);
            }
            Self::Unlink { path } => {
                names.remove(path);
            }
        }
    }
}

impl Names {
    pub(crate) fn file(&self, path: &Path) -> Option<u64> {
        match self.current.get(path) {
            Some(Entry::File(inode)) => Some(*inode),
            _ => None,
        }
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        is_root(path) || self.current.get(path) == Some(&Entry::Directory)
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&PathBuf, u64)> {
        self.current.iter().filter_map(|(path, entry)| match entry {
            Entry::File(inode) => Some((path, *inode)),
            Entry::Directory => None,
        })
    }

    /// Inodes that some name stands for, now or after a crash.
    pub(crate) fn reachable(&self) -> impl Iterator<Item = u64> {
        let pending = self.unsynced.iter().filter_map(|change| match change {
            Change::Link { entry, .. } | Change::Rename { entry, .. } => Some(entry),
            Change::Unlink { .. } => None,
        });
        self.current.values().chain(self.durable.values()).chain(pending).filter_map(|entry| match entry {
            Entry::File(inode) => Some(*inode),
            Entry::Directory => None,
        })
    }

    /// Gives every file another inode: its number plus `shift`.
    pub(crate) fn renumber(&mut self, shift: u64) {
        let pending = self.unsynced.iter_mut().filter_map(|change| match change {
            Change::Link { entry, .. } | Change::Rename { entry, .. } => Some(entry),
            Change::Unlink { .. } => None,
        });
        for entry in self.current.values_mut().chain(self.durable.values_mut()).chain(pending) {
            if let Entry::File(inode) = entry {
                *inode += shift;
            }
        }
    }

    pub(crate) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = self.current.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    pub(crate) fn check_new(&self, path: &Path) -> io::Result<()> {
        if self.current.contains_key(path) || is_root(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if path.parent().is_some_and(|parent| self.is_dir(parent)) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    pub(crate) fn link(&mut self, path: &Path, entry: Entry) {
        self.change(Change::Link { path: path.to_owned(), entry });
    }

    pub(crate) fn create_dirs(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.create_dirs(parent);
        }
        if !self.is_dir(path) {
            self.link(path, Entry::Directory);
        }
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.file(from).ok_or(io::ErrorKind::NotFound)?;
        if from.parent() != to.parent() {
            return Err(io::Error::other("this disk renames within one directory only, as the journal promises"));
        }
        if from != to {
            self.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), entry: Entry::File(inode) });
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path).ok_or(io::ErrorKind::NotFound)?;
        self.change(Change::Unlink { path: path.to_owned() });
        Ok(())
    }

    /// A flush of one directory that works.
    pub(crate) fn sync(&mut self, dir: &Path) -> io::Result<()> {
        if !self.is_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        for change in self.unsynced.extract_if(.., |change| change.is_in(dir)) {
            change.apply(&mut self.durable);
        }
        Ok(())
    }

    /// Takes a name away at rest: nothing is left to flush.
    pub(crate) fn lose(&mut self, path: &Path) {
        self.unsynced.drain(..).for_each(|change| change.apply(&mut self.durable));
        self.current.remove(path);
        self.durable.remove(path);
    }

    /// The power went. Any changes that were not flushed are on the medium, but of those that touch
    /// the same name no later one without the earlier; a rename as a whole or not at all.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let changes = std::mem::take(&mut self.unsynced);
        let mut spared: Vec<bool> = match Mercy::choose(rng) {
            Mercy::Nothing => vec![false; changes.len()],
            Mercy::Everything => vec![true; changes.len()],
            Mercy::Front => {
                let end = rng.below(changes.len() as u64 + 1) as usize;
                (0..changes.len()).map(|index| index < end).collect()
            }
            Mercy::Any => changes.iter().map(|_| rng.chance(1, 2)).collect(),
        };
        for later in (0..changes.len()).rev() {
            for earlier in 0..later {
                spared[earlier] |= spared[later] && changes[earlier].comes_before(&changes[later]);
            }
        }
        for (change, _) in changes.iter().zip(&spared).filter(|(_, spared)| **spared) {
            change.apply(&mut self.durable);
        }
        // What is in a directory that was lost is lost. A parent sorts before what is in it.
        let mut kept: BTreeMap<PathBuf, Entry> = BTreeMap::new();
        for (path, entry) in std::mem::take(&mut self.durable) {
            let parent = path.parent().unwrap_or(Path::new(""));
            if is_root(parent) || kept.get(parent) == Some(&Entry::Directory) {
                kept.insert(path, entry);
            }
        }
        self.current.clone_from(&kept);
        self.durable = kept;
    }
}
