//! A store that is set back in its place.

use std::{fs, path::Path};

/// Copies a folder's files into another one, in which they replace the bytes of those that are there: the files stay the
/// same ones to the file system, as those of a machine that is set back do.
pub(crate) fn roll_back(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(to).unwrap() {
        let path = entry.unwrap().path();
        if !from.join(path.file_name().unwrap()).exists() {
            fs::remove_file(path).unwrap();
        }
    }
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::write(to.join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
    }
}
