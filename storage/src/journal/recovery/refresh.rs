//! Reading on beside a writer.

use std::{io, sync::Arc};

use super::{Frontier, failed};
use crate::{
    ids::SegmentNumber,
    journal::{
        commit::{Shared, begin_active},
        error::OpenError,
        frame::Frame,
        identity::Extent,
        scan::{FrameAt, Scanner},
        segment::{self, FRAMES_OFFSET, HeaderState, SegmentHeader},
        tail::NewSegment,
    },
    vfs::OpenMode,
};

/// Takes notice of what a writer beside has made durable since `frontier`; whether there was anything.
pub(crate) fn refresh(shared: &Shared, frontier: &mut Option<Frontier>) -> Result<bool, OpenError> {
    if !shared.options.read_only {
        return Ok(false);
    }
    let arrivals = shared.view().next_arrival;
    let first_kept = first_kept(shared)?;
    match read_on(shared, frontier) {
        // What came after what was read last may have been freed already.
        Err(error) if is_gone(&error) && is_left_behind(shared, frontier.as_ref())? => {
            return reopen(shared, frontier);
        }
        Err(error) => return Err(error),
        Ok(()) if is_left_behind(shared, frontier.as_ref())? => return reopen(shared, frontier),
        // Only now: what was left in them, and the floors, have been read from frames behind.
        Ok(()) => forget_freed(shared, first_kept),
    }
    let view = shared.view();
    let grown = view.next_arrival != arrivals;
    drop(view);
    if grown {
        shared.raise_all();
    }
    Ok(grown)
}

fn first_kept(shared: &Shared) -> Result<SegmentNumber, OpenError> {
    let extent = Extent::read(&*shared.options.vfs, &shared.dir);
    Ok(extent.map_err(failed("reading the extent in", &shared.dir))?.first_segment())
}

/// Whether the writer has freed the segment that was read last.
fn is_left_behind(shared: &Shared, frontier: Option<&Frontier>) -> Result<bool, OpenError> {
    let read_last = frontier.map_or(SegmentNumber::ZERO, |frontier| frontier.scanner.header.number);
    Ok(first_kept(shared)? > read_last)
}

fn is_gone(error: &OpenError) -> bool {
    matches!(error, OpenError::Disk { error, .. } if error.kind() == io::ErrorKind::NotFound)
}

/// Reads the frames written since, over all segments begun since.
fn read_on(shared: &Shared, frontier: &mut Option<Frontier>) -> Result<(), OpenError> {
    let vfs = &*shared.options.vfs;
    loop {
        if let Some(frontier) = frontier.as_mut() {
            read_segment(shared, frontier)?;
        }
        let next = match frontier.as_ref() {
            Some(frontier) => SegmentNumber(frontier.scanner.header.number.0 + 1),
            None => SegmentNumber::ZERO,
        };
        let path = segment::path(&shared.dir, next);
        let file = match vfs.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed("opening", &path))?,
        };
        let state = SegmentHeader::read(&*file, shared.identity().store, next).map_err(failed("reading", &path))?;
        let (HeaderState::Whole(header) | HeaderState::OneCopy(header)) = state else { return Ok(()) };
        if let Some(frontier) = frontier.as_mut() {
            // What was written between the look at the last segment and at this one; then all of it counts.
            read_segment(shared, frontier)?;
            if let Some((frame, offset)) = frontier.unproven.take().filter(|(_, at)| *at < header.previous_end) {
                shared.apply_read(frame, offset);
            }
        }
        let mut scanner = Scanner::new(Arc::clone(&file), header, None).map_err(failed("reading", &path))?;
        // An unproven frame that was served from here has been written anew to the next segment, and flushed
        // before that segment's header was written.
        let is_copied = shared.view().active.as_ref().is_some_and(|active| active.end > header.previous_end);
        let copy = if is_copied { Some(scanner.next_frame().map_err(failed("reading", &path))?) } else { None };
        let mut view = shared.view_mut();
        if let Some(active) = &mut view.active {
            active.index.cut(header.previous_end);
        }
        // The footer is the writer's to write.
        drop(begin_active(&mut view, NewSegment { header, file }));
        if let Some(FrameAt::Frame(frame)) = copy {
            view.apply(frame, FRAMES_OFFSET);
        }
        drop(view);
        *frontier = Some(Frontier { scanner, unproven: None });
    }
}

/// Segments that the writer beside has freed are not read any more.
fn forget_freed(shared: &Shared, first_kept: SegmentNumber) {
    if shared.view_without_digests().first_segment >= first_kept {
        return;
    }
    let mut view = shared.view_mut();
    view.free(first_kept);
    shared.retention.note_change();
    drop(view);
    shared.cache().remove_before(first_kept);
}

/// Looks at everything anew.
fn reopen(shared: &Shared, frontier: &mut Option<Frontier>) -> Result<bool, OpenError> {
    let opened = super::open(&shared.dir, &shared.options)?;
    let mut view = shared.view_mut();
    let first_kept = opened.view.first_segment;
    view.replace(opened.view);
    shared.retention.note_change();
    drop(view);
    shared.cache().remove_before(first_kept);
    shared.count_kept();
    *frontier = opened.frontier;
    shared.raise_all();
    Ok(true)
}

/// Reads the frames written since; the last one is held back until a later one proves it.
fn read_segment(shared: &Shared, frontier: &mut Frontier) -> Result<(), OpenError> {
    let path = segment::path(&shared.dir, frontier.scanner.header.number);
    let file = shared.options.vfs.open(&path, OpenMode::Read).map_err(failed("opening", &path))?;
    frontier.scanner.refresh(file).map_err(failed("reading", &path))?;
    loop {
        let offset = frontier.scanner.offset;
        // A frame that is being written looks damaged; it is looked at again the next time.
        let FrameAt::Frame(frame) = frontier.scanner.next_frame().map_err(failed("reading", &path))? else {
            return Ok(());
        };
        if let Some((proven, at)) = frontier.unproven.replace((frame, offset)) {
            shared.apply_read(proven, at);
        }
    }
}

impl Shared {
    /// Shows what a writer beside has made durable; with it floors may have advanced.
    fn apply_read(&self, frame: Frame, offset: u64) {
        let mut view = self.view_mut();
        view.apply(frame, offset);
        self.retention.note_change();
    }
}
