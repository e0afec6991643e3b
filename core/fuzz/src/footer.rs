//! A journal with a sealed segment whose footer a hostile writer made.

use crate::{mend, store::check_store, template};

/// Takes bytes as the footer of a sealed segment; the lowest bit of the first says whether its checksum is mended.
pub fn run(input: &[u8]) {
    let Some((first, footer)) = input.split_first() else { return };
    let mut files = template::files(first & 2 != 0).clone();
    let (name, at) = footer_of(&files, usize::from(first >> 2));
    let content = files.get_mut(&name).expect("it was found there");
    content.truncate(at);
    content.extend_from_slice(footer);
    if first & 1 != 0 {
        mend::footer(&mut content[at..]);
    }
    check_store(&files, first & 1 != 0);
}

/// A segment with a footer, and where it begins.
fn footer_of(files: &template::Files, pick: usize) -> (String, usize) {
    let sealed: Vec<_> = files
        .iter()
        .filter_map(|(name, content)| {
            let at = (mend::FRAMES_OFFSET..content.len()).step_by(8).find(|at| content[*at..].starts_with(b"CFI1"))?;
            Some((name.clone(), at))
        })
        .collect();
    sealed[pick % sealed.len()].clone()
}

/// The footers that are there.
pub fn seeds() -> Vec<Vec<u8>> {
    (0..8)
        .map(|first: u8| {
            let files = template::files(first & 2 != 0);
            let (name, at) = footer_of(files, usize::from(first >> 2));
            [&[first], &files[&name][at..]].concat()
        })
        .collect()
}
