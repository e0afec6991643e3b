//! Reading a segment frame by frame, as recovery and verification do.

use std::{io, sync::Arc};

use super::{
    frame::{FRAME_ALIGNMENT, FRAME_HEADER_LEN, Frame, FrameHeader, MAX_FRAME_LEN, align},
    salvage::{Between, salvage},
    segment::{FRAMES_OFFSET, SegmentHeader, Window},
};
use crate::{
    ids::{Arrival, CommitNumber},
    vfs::VfsFile,
};

/// Bytes read at a time.
const READ_AHEAD: usize = 1 << 20;

/// What lies at an offset where a frame may begin.
#[derive(Debug)]
pub(crate) enum FrameAt {
    /// A valid frame.
    Frame(Frame),
    /// Zeros, or the end of the file or of what counts of it.
    Nothing,
    /// Bytes that are no valid frame.
    Invalid(&'static str),
}

/// Reads the frames of one segment in order.
#[derive(Debug)]
pub(crate) struct Scanner {
    window: Window,
    pub(crate) header: SegmentHeader,
    /// Where the next frame may begin.
    pub(crate) offset: u64,
    /// Nothing counts from here on.
    pub(crate) limit: u64,
    /// Commit number that the next frame must bear, if none is missing.
    pub(crate) next_commit: CommitNumber,
    /// Arrival number of the batch that comes next, if no frame is missing.
    pub(crate) next_arrival: Arrival,
    /// First commit and first arrival number of the segment after this one, if `limit` is where the frames end.
    successor: Option<(CommitNumber, Arrival)>,
}

/// What comes behind a place where there is no valid frame.
#[derive(Debug)]
pub(crate) struct Resumed {
    /// What is whole of the frame that was there, if later frames prove that it was one.
    pub(crate) salvaged: Option<Frame>,
    /// The next valid frame, and its offset.
    pub(crate) next: Option<(Frame, u64)>,
}

impl Scanner {
    /// From the first frame of a segment up to `limit` or the end of the file.
    pub(crate) fn new(file: Arc<dyn VfsFile>, header: SegmentHeader, limit: Option<u64>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self {
            window: Window::new(file),
            header,
            offset: FRAMES_OFFSET,
            limit: limit.map_or(len, |limit| limit.min(len)),
            next_commit: header.first_commit,
            next_arrival: header.first_arrival,
            successor: None,
        })
    }

    /// Tells what the segment after this one begins with.
    pub(crate) fn before(mut self, next: &SegmentHeader) -> Self {
        self.successor = Some((next.first_commit, next.first_arrival));
        self
    }

    /// Forgets what was read ahead, and takes the file's present length for the limit.
    pub(crate) fn refresh(&mut self, file: Arc<dyn VfsFile>) -> io::Result<()> {
        self.limit = file.len()?;
        self.window = Window::new(file);
        Ok(())
    }

    /// The frame at the current offset, which is moved behind it if it is valid.
    pub(crate) fn next_frame(&mut self) -> io::Result<FrameAt> {
        let at = self.frame_at(self.offset, Some(self.next_commit))?;
        if let FrameAt::Frame(frame) = &at {
            self.advance(frame);
        }
        Ok(at)
    }

    fn advance(&mut self, frame: &Frame) {
        self.offset = align(self.offset + u64::from(frame.header.len));
        self.next_commit = CommitNumber(frame.header.commit.0 + 1);
        self.next_arrival = Arrival(frame.header.first_arrival.0 + frame.batch_count());
    }

    /// Finds what comes behind an invalid frame; the scan goes on behind that.
    pub(crate) fn resume(&mut self) -> io::Result<Resumed> {
        let mut offset = self.offset + FRAME_ALIGNMENT;
        while let Some(candidate) = self.find_magic(offset)? {
            if let FrameAt::Frame(frame) = self.frame_at(candidate, None)?
                && frame.header.commit >= self.next_commit
            {
                let salvaged = self.salvage(candidate, (frame.header.commit, frame.header.first_arrival))?;
                self.offset = candidate;
                self.advance(&frame);
                return Ok(Resumed { salvaged, next: Some((frame, candidate)) });
            }
            offset = candidate + FRAME_ALIGNMENT;
        }
        let salvaged = match self.successor {
            Some(next) => self.salvage(self.limit, next)?,
            None => None,
        };
        if let Some(frame) = &salvaged {
            self.offset = self.limit;
            self.next_commit = CommitNumber(frame.header.commit.0 + 1);
        }
        Ok(Resumed { salvaged, next: None })
    }

    /// What is whole of the frame between the current offset and `end`, where the next one begins.
    fn salvage(&mut self, end: u64, next: (CommitNumber, Arrival)) -> io::Result<Option<Frame>> {
        let len = end - self.offset;
        if len > MAX_FRAME_LEN as u64 + FRAME_ALIGNMENT {
            return Ok(None);
        }
        let between = Between {
            commit: self.next_commit,
            first_arrival: self.next_arrival,
            next_commit: next.0,
            next_arrival: next.1,
        };
        let bytes = self.window.slice(self.offset, len as usize, 0)?;
        Ok(salvage(&bytes, between, &self.header.salt))
    }

    fn frame_at(&mut self, offset: u64, commit: Option<CommitNumber>) -> io::Result<FrameAt> {
        let len = self.limit.saturating_sub(offset).min(FRAME_HEADER_LEN as u64) as usize;
        let bytes = self.window.slice(offset, len, READ_AHEAD)?;
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(FrameAt::Nothing);
        }
        if bytes.len() < FRAME_HEADER_LEN {
            return Ok(FrameAt::Invalid("a frame is cut short"));
        }
        let Some(header) = FrameHeader::decode(&bytes, &self.header.salt) else {
            return Ok(FrameAt::Invalid("there are bytes that are no frame"));
        };
        if commit.is_some_and(|commit| commit != header.commit) {
            return Ok(FrameAt::Invalid("a frame bears the wrong commit number"));
        }
        if offset + u64::from(header.len) > self.limit {
            return Ok(FrameAt::Invalid("a frame is cut short"));
        }
        let bytes = self.window.slice(offset, header.len as usize, READ_AHEAD)?;
        Ok(match Frame::parse(header, &bytes, &self.header.salt) {
            Ok(frame) => FrameAt::Frame(frame),
            Err(what) => FrameAt::Invalid(what),
        })
    }

    /// The first aligned offset from `offset` on where a frame's magic number stands. What is at hand is searched
    /// before more is read: records may hold as many of these numbers as their writers like.
    fn find_magic(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        let step = FRAME_ALIGNMENT as usize;
        while offset < self.limit {
            let most = (self.limit - offset).min(READ_AHEAD as u64) as usize;
            let chunk = self.window.some(offset, step.min(most), most)?;
            if let Some(index) = chunk.chunks(step).position(|bytes| bytes.starts_with(b"CFF1")) {
                return Ok(Some(offset + (index * step) as u64));
            }
            let whole_steps = chunk.len() / step * step;
            if whole_steps == 0 {
                return Ok(None);
            }
            offset += whole_steps as u64;
        }
        Ok(None)
    }

    /// The end of the last byte that is not zero, from the current offset on; `None` if all are zero.
    pub(crate) fn last_byte_end(&mut self) -> io::Result<Option<u64>> {
        let mut offset = self.offset;
        let mut end = None;
        while offset < self.limit {
            let len = (self.limit - offset).min(READ_AHEAD as u64) as usize;
            let chunk = self.window.slice(offset, len, READ_AHEAD)?;
            if let Some(index) = chunk.iter().rposition(|&byte| byte != 0) {
                end = Some(offset + index as u64 + 1);
            }
            if chunk.len() < len {
                break;
            }
            offset += len as u64;
        }
        Ok(end)
    }

    /// Bytes of the segment, as they are.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<bytes::Bytes> {
        self.window.slice(offset, len, 0)
    }
}
