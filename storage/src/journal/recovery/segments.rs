//! Finding the segment files, and judging their headers and the extent that is recorded.

use std::{io::IoSlice, ops::Range};

use super::{Found, Opening, failed, numbers_of};
use crate::{
    ids::SegmentNumber,
    journal::{
        error::{OpenError, Place},
        identity::{Extent, Raising},
        report::Finding,
        segment::{self, HeaderState, SegmentHeader},
    },
    vfs::{OpenMode, VfsFile, write_full},
};

impl Opening<'_> {
    /// The segments with a usable header, ascending; what is wrong with the others is reported.
    pub(super) fn find_segments(&mut self) -> Result<Vec<Found>, OpenError> {
        let names = self.vfs.list(self.dir).map_err(failed("listing", self.dir))?;
        let mut numbers: Vec<_> = names.iter().filter_map(|name| segment::number_of(name)).collect();
        numbers.sort_unstable();
        let freed = numbers.partition_point(|number| *number < self.view.first_segment);
        self.remove_freed(numbers.drain(..freed));
        let mut found: Vec<Found> = Vec::new();
        let mut unusable = Vec::new();
        for number in numbers {
            let path = segment::path(self.dir, number);
            let mode = if self.options.read_only { OpenMode::Read } else { OpenMode::Write };
            let file = self.vfs.open(&path, mode).map_err(failed("opening", &path))?;
            let state =
                SegmentHeader::read(&*file, self.bound.identity.store, number).map_err(failed("reading", &path))?;
            match state {
                HeaderState::Whole(header) => found.push(Found { header, file, has_one_copy: false }),
                HeaderState::OneCopy(header) => found.push(Found { header, file, has_one_copy: true }),
                HeaderState::Unused => unusable.push((number, None)),
                HeaderState::Unreadable => unusable.push((number, Some(file))),
            }
        }
        let last = found.last().map(|found| found.header.number);
        for (number, file) in unusable {
            if last.is_some_and(|last| number < last) {
                self.damage(number, 0, "both copies of the segment's header are damaged: what it held is missing");
                self.lost.push(number);
            } else if let Some(file) = file {
                self.set_aside(number, &*file)?;
            }
        }
        self.report_missing(&found, &numbers_of(&names));
        self.next_segment = last.map_or(SegmentNumber::ZERO, |last| SegmentNumber(last.0 + 1));
        Ok(found)
    }

    /// Removes what is left of segments that have been freed: whoever freed them was cut short.
    fn remove_freed(&self, numbers: impl ExactSizeIterator<Item = SegmentNumber>) {
        if self.options.read_only || numbers.len() == 0 {
            return;
        }
        // Perhaps before it was flushed that they are freed: what was read says so, and may be gone after power loss.
        let first = self.view.first_segment;
        let freed = Extent { segment: first, end: segment::FRAMES_OFFSET };
        if let Err(error) = freed.raise_first(first, &Raising::default(), self.vfs, self.dir) {
            tracing::warn!(%error, "freed segments stay: recording again that they are freed failed");
            return;
        }
        for number in numbers {
            if let Err(error) = self.vfs.remove(&segment::path(self.dir, number)) {
                tracing::warn!(segment = %number, %error, "removing a freed segment failed");
            }
        }
    }

    /// Writes both copies of a header of which one can't be read.
    pub(super) fn mend_header(&self, found: &Found) -> Result<(), OpenError> {
        if self.options.read_only {
            return Ok(());
        }
        let path = segment::path(self.dir, found.header.number);
        let block = found.header.encode_block();
        write_full(&*found.file, &mut [IoSlice::new(&block)], 0).map_err(failed("writing", &path))?;
        found.file.sync_data().map_err(failed("flushing", &path))?;
        self.vfs.sync_dir(self.dir).map_err(failed("flushing", self.dir))
    }

    pub(super) fn report_missing(&mut self, found: &[Found], present: &[SegmentNumber]) {
        let Some(last) = found.last() else { return };
        for missing in missing_ranges(present, self.view.first_segment..last.header.number) {
            self.damage(SegmentNumber(missing.start), 0, missing_text(&missing));
            self.lost.push(SegmentNumber(missing.end - 1));
        }
    }

    /// The last segment's first write never finished.
    pub(super) fn set_aside(&mut self, number: SegmentNumber, file: &dyn VfsFile) -> Result<(), OpenError> {
        let path = segment::path(self.dir, number);
        let len_bytes = file.len().map_err(failed("reading", &path))?;
        let place = Place { segment: number, offset: 0 };
        let kept_in = if self.options.read_only {
            None
        } else {
            let name = format!("torn-{:016x}-{:016x}", number.0, 0);
            self.vfs.rename(&path, &self.dir.join(&name)).map_err(failed("renaming", &path))?;
            self.vfs.sync_dir(self.dir).map_err(failed("flushing", self.dir))?;
            Some(name)
        };
        self.recovery.findings.push(Finding::TornTail { place, len_bytes, kept_in, possibly_acknowledged: true });
        Ok(())
    }

    /// The journal must reach at least as far as it is recorded to have.
    ///
    /// How far the frames of the last segment reach is seen once they are read: see [`finish`](Self::finish).
    pub(super) fn check_extent(&mut self, extent: Extent, found: &[Found]) -> Result<(), OpenError> {
        self.extent = Some(extent);
        let last = found.last().map(|found| found.header.number);
        let successor = found.iter().find(|found| found.header.number.0 == extent.segment.0 + 1);
        if last.is_none_or(|last| last < extent.segment) {
            self.damage(extent.segment, 0, "the segment file is missing, or both copies of its header are damaged");
            self.frames_lost = true;
            // Its number is not given to another: what it held may turn up again.
            self.next_segment = SegmentNumber(extent.segment.0 + 1);
        } else if last != Some(extent.segment)
            && let Some(found) = found.iter().find(|found| found.header.number == extent.segment)
        {
            let path = segment::path(self.dir, extent.segment);
            let len = found.file.len().map_err(failed("reading", &path))?;
            // A last commit that was copied to the next segment is cut off here: see its header.
            let end = successor.map_or(extent.end, |next| extent.end.min(next.header.previous_end));
            if len < end {
                self.damage(extent.segment, len, format!("the file was cut off: frames once ended at {end}"));
                self.frames_lost = true;
            }
        }
        Ok(())
    }
}

/// Those of `wanted` that are not present. What is present is ascending.
pub(crate) fn missing_ranges(present: &[SegmentNumber], wanted: Range<SegmentNumber>) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut next = wanted.start.0;
    let within = present.iter().filter(|number| wanted.contains(number)).map(|number| number.0);
    for number in within.chain([wanted.end.0]) {
        if next < number {
            ranges.push(next..number);
        }
        next = number + 1;
    }
    ranges
}

pub(crate) fn missing_text(missing: &Range<u64>) -> String {
    match missing.end - missing.start {
        1 => "the segment file is missing".to_owned(),
        count => format!("{count} segment files from this one on are missing"),
    }
}
