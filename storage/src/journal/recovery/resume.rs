//! Deciding where writing goes on, and keeping aside what nothing proves.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use super::{Found, Frontier, Opening, TORN_TAILS_KEPT, failed, writer_at_work};
use crate::{
    ids::{SegmentNumber, random_bytes},
    journal::{
        commit::begin_active,
        error::{OpenError, Place},
        frame::{Frame, FrameEntry, FrameHeader, FrameKind, MAX_FRAME_LEN},
        report::Finding,
        segment::{self, FRAMES_OFFSET, SegmentHeader},
        tail::{NewSegment, TailStart},
    },
    vfs::{OpenMode, replace_file, write_full},
};

impl Opening<'_> {
    /// Where writing goes on: behind a closing mark, or in a new segment.
    ///
    /// If frames are missing before `lost_end`, the new segment's header records that they were there.
    pub(super) fn resume_writing(
        &mut self,
        last: &Found,
        frontier: Frontier,
        lost_end: Option<u64>,
    ) -> Result<TailStart, OpenError> {
        let Frontier { scanner, unproven } = frontier;
        let mut start = TailStart {
            next_commit: scanner.next_commit,
            next_arrival: self.view.next_arrival,
            next_segment: self.next_segment,
            journal_bytes: self.view.sealed.iter().map(|segment| segment.end).sum(),
            previous_end: scanner.offset,
            current: None,
        };
        if let Some(end) = lost_end {
            // Frames behind it were flushed, so the last one that is left is proven.
            if let Some((frame, offset)) = unproven {
                self.view.apply(frame, offset);
            }
            start.next_arrival = self.view.next_arrival;
            start.previous_end = end;
            return Ok(start);
        }
        let Some((frame, offset)) = unproven else { return Ok(start) };
        start.previous_end = offset + u64::from(frame.header.len);
        match frame.header.kind {
            // After damage a new segment is begun, so that this one gets a footer and is not judged again.
            FrameKind::ClosingMark if self.recovery.clean && !self.frames_lost => {
                self.view.apply(frame, offset);
                let segment = NewSegment { header: last.header, file: Arc::clone(&last.file) };
                start.current = Some((segment, start.previous_end));
            }
            FrameKind::Mark | FrameKind::ClosingMark => self.view.apply(frame, offset),
            FrameKind::Commit => {
                let (segment, end) = self.copy_unproven(&frame, offset)?;
                let place = Place { segment: last.header.number, offset };
                self.recovery.findings.push(Finding::CopiedLastFrame { place });
                if let Some(job) = begin_active(&mut self.view, segment.clone()) {
                    self.seals.push(job);
                }
                self.view.apply(frame, FRAMES_OFFSET);
                start.next_arrival = self.view.next_arrival;
                start.next_segment = SegmentNumber(segment.header.number.0 + 1);
                start.current = Some((segment, end));
            }
        }
        Ok(start)
    }

    /// Writes an unproven frame to a new segment: first the frame, flushed; then the header, which
    /// says that the segment before ends where the frame was.
    pub(super) fn copy_unproven(&mut self, frame: &Frame, offset: u64) -> Result<(NewSegment, u64), OpenError> {
        let number = self.next_segment;
        let path = segment::path(self.dir, number);
        let salt = random_bytes().map_err(failed("asking for random bytes for", &path))?;
        let FrameHeader { kind, commit, first_arrival, .. } = frame.header;
        let header = SegmentHeader {
            store: self.bound.identity.store,
            number,
            salt,
            first_commit: commit,
            first_arrival,
            previous_end: offset,
        };
        let (copy, front) = FrameHeader::new(kind, commit, first_arrival, &frame.entries, &salt);
        let create = || match self.vfs.open(&path, OpenMode::Create) {
            // Left by a recovery that was cut short: what is in it would look like damage behind what is written now.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = self.vfs.open(&path, OpenMode::Write)?;
                file.set_len(0)?;
                Ok(file)
            }
            opened => opened,
        };
        let file = create().map_err(failed("creating", &path))?;
        let mut slices = vec![IoSlice::new(&front)];
        slices.extend(frame.entries.iter().map(FrameEntry::bytes).map(|bytes| IoSlice::new(bytes)));
        write_full(&*file, &mut slices, FRAMES_OFFSET).map_err(failed("writing", &path))?;
        file.sync_data().map_err(failed("flushing", &path))?;
        write_full(&*file, &mut [IoSlice::new(&header.encode_block())], 0).map_err(failed("writing", &path))?;
        file.sync_data().map_err(failed("flushing", &path))?;
        self.vfs.sync_dir(self.dir).map_err(failed("flushing", self.dir))?;
        Ok((NewSegment { header, file }, FRAMES_OFFSET + u64::from(copy.len)))
    }

    /// Copies the bytes that nothing proves to a file of their own.
    pub(super) fn keep_torn_tail(&mut self, frontier: &mut Frontier) -> Result<(), OpenError> {
        let number = frontier.scanner.header.number;
        if self.options.read_only && writer_at_work(self.vfs, self.dir) {
            // What it is writing at this moment.
            return Ok(());
        }
        let path = segment::path(self.dir, number);
        let begin = frontier.scanner.offset;
        let end = frontier.scanner.last_byte_end().map_err(failed("reading", &path))?.unwrap_or(begin);
        let len = (end - begin).min(MAX_FRAME_LEN as u64) as usize;
        let bytes = frontier.scanner.bytes(begin, len).map_err(failed("reading", &path))?;
        let next_commit = frontier.scanner.next_commit;
        let possibly_acknowledged = self.frames_lost || FrameHeader::resembles(&bytes, next_commit);
        let kept_in = if self.options.read_only { None } else { Some(self.write_torn_tail(number, begin, &bytes)?) };
        let place = Place { segment: number, offset: begin };
        let len_bytes = end - begin;
        self.recovery.findings.push(Finding::TornTail { place, len_bytes, kept_in, possibly_acknowledged });
        Ok(())
    }

    pub(super) fn write_torn_tail(
        &self,
        number: SegmentNumber,
        offset: u64,
        bytes: &[u8],
    ) -> Result<String, OpenError> {
        let name = format!("torn-{:016x}-{offset:016x}", number.0);
        let path = self.dir.join(&name);
        match self.vfs.open(&path, OpenMode::Read) {
            // A recovery before this one came as far as this, and was not finished. Under its name a copy is whole.
            Ok(_) => self.vfs.sync_dir(self.dir).map_err(failed("flushing", self.dir))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                replace_file(self.vfs, self.dir, &name, &mut [IoSlice::new(bytes)])
                    .map_err(failed("writing", &path))?;
            }
            Err(error) => return Err(failed("opening", &path)(error)),
        }
        let mut kept = self.vfs.list(self.dir).map_err(failed("listing", self.dir))?;
        kept.retain(|name| name.starts_with("torn-") && name.strip_suffix(".new").is_none());
        kept.sort_unstable();
        for old in &kept[..kept.len().saturating_sub(TORN_TAILS_KEPT)] {
            let path = self.dir.join(old);
            self.vfs.remove(&path).map_err(failed("removing", &path))?;
        }
        Ok(name)
    }
}
