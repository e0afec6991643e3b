//! A journal whose last segment holds frames of a hostile writer: frames, announcements, batches in them.

use crate::{
    mend::FRAMES_OFFSET,
    store::check_store,
    template::{self, Files},
};

/// Takes bytes as the frames of the last segment; the lowest bit of the first says whether checksums are mended.
pub fn run(input: &[u8]) {
    let Some((first, frames)) = input.split_first() else { return };
    let mut files = template::files(first & 2 != 0).clone();
    let (name, content) = last_segment(&mut files);
    content.truncate(FRAMES_OFFSET);
    content.extend_from_slice(frames);
    if first & 1 != 0 {
        crate::mend::file(&name, content);
    }
    check_store(&files, first & 1 != 0);
}

fn last_segment(files: &mut Files) -> (String, &mut Vec<u8>) {
    let (name, content) =
        files.iter_mut().rfind(|(name, _)| name.ends_with(".seg")).expect("the template has segments");
    content.resize(content.len().max(FRAMES_OFFSET), 0);
    (name.clone(), content)
}

/// The frames that are there, of a store closed and of one that is not.
pub fn seeds() -> Vec<Vec<u8>> {
    (0..4)
        .map(|first| {
            let mut files = template::files(first & 2 != 0).clone();
            let frames = &last_segment(&mut files).1[FRAMES_OFFSET..];
            [&[first], frames].concat()
        })
        .collect()
}
