//! Reading a segment frame by frame, as recovery and verification do.

use std::{io, sync::Arc};

use super::{
    frame::{FRAME_ALIGNMENT, FRAME_HEADER_LEN, Frame, FrameHeader, MAX_FRAME_LEN, align},
    salvage::{Between, salvage, salvage_first},
    segment::{FRAMES_OFFSET, SegmentHeader, Window},
};
use crate::{
    ids::{Arrival, CommitNumber},
    vfs::VfsFile,
};

/// Bytes read at a time.
const READ_AHEAD: usize = 1 << 20;

/// So many zeros are where nothing was written yet; fewer may be what became of the beginning of a frame.
const BLANK_LEN: u64 = 64 << 10;

/// What lies at an offset where a frame may begin.
#[derive(Debug)]
pub(crate) enum FrameAt {
    /// A valid frame.
    Frame(Frame),
    /// Zeros, as many as no damage is likely to leave, or the end of the file or of what counts of it.
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
    /// Frames were durable up to here, at least.
    durable_end: u64,
    /// Nobody writes meanwhile.
    is_at_rest: bool,
}

/// What comes behind a place where there is no valid frame.
#[derive(Debug)]
pub(crate) struct Resumed {
    /// What is whole of the frame that was there, if it is proven that it was one.
    pub(crate) salvaged: Option<Frame>,
    /// The next valid frame, and its offset. None if there is none, or what comes right behind is to be looked at first:
    /// if something was salvaged the scan goes on either way.
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
            durable_end: 0,
            is_at_rest: false,
        })
    }

    /// Tells what the segment after this one begins with.
    pub(crate) fn before(mut self, next: &SegmentHeader) -> Self {
        self.successor = Some((next.first_commit, next.first_arrival));
        self.durable_end = self.limit;
        self
    }

    /// Tells how far frames are on record to have been durable.
    pub(crate) fn reaching(mut self, durable_end: Option<u64>) -> Self {
        self.durable_end = self.durable_end.max(durable_end.unwrap_or(0));
        self
    }

    /// Tells whether nobody writes meanwhile: what is read was all there at one time then.
    pub(crate) fn at_rest(mut self, is_at_rest: bool) -> Self {
        self.is_at_rest = is_at_rest;
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
                if let Some(salvaged) = self.salvage(candidate, (frame.header.commit, frame.header.first_arrival))? {
                    self.offset = candidate;
                    self.advance(&frame);
                    return Ok(Resumed { salvaged: Some(salvaged), next: Some((frame, candidate)) });
                }
                // Perhaps several frames are damaged.
                if let Some(salvaged) = self.salvage_first(candidate)? {
                    return Ok(Resumed { salvaged: Some(salvaged), next: None });
                }
                self.offset = candidate;
                self.advance(&frame);
                return Ok(Resumed { salvaged: None, next: Some((frame, candidate)) });
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
            return Ok(Resumed { salvaged, next: None });
        }
        let durable_end = self.durable_end.min(self.limit).max(self.end_before_bytes()?);
        let salvaged = self.salvage_first(durable_end)?;
        Ok(Resumed { salvaged, next: None })
    }

    /// Where the frame at the current offset ends, if its header is whole and something stands right behind it: that was
    /// written after the frame had been flushed.
    fn end_before_bytes(&mut self) -> io::Result<u64> {
        if !self.is_at_rest {
            return Ok(0);
        }
        let bytes = self.window.slice(self.offset, FRAME_HEADER_LEN, READ_AHEAD)?;
        let header = FrameHeader::decode(&bytes, &self.header.salt).filter(|header| header.commit == self.next_commit);
        let Some(header) = header else { return Ok(0) };
        let end = self.offset + u64::from(header.len);
        let left = self.limit.saturating_sub(align(end)).min(FRAME_HEADER_LEN as u64);
        let behind = self.window.slice(align(end), left as usize, READ_AHEAD)?;
        Ok(if behind.iter().any(|&byte| byte != 0) { end } else { 0 })
    }

    /// What is whole of the frame at the current offset, which was durable since frames were up to `end`. The scan goes
    /// on behind it.
    fn salvage_first(&mut self, end: u64) -> io::Result<Option<Frame>> {
        let len = end.saturating_sub(self.offset).min(MAX_FRAME_LEN as u64);
        let bytes = self.window.slice(self.offset, len as usize, 0)?;
        let frame = salvage_first(&bytes, self.next_commit, self.next_arrival, &self.header.salt);
        if let Some(frame) = &frame {
            self.advance(frame);
        }
        Ok(frame)
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
            let is_blank = self.is_blank(offset)?;
            return Ok(if is_blank {
                FrameAt::Nothing
            } else {
                FrameAt::Invalid("there are zeros before other bytes")
            });
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

    /// Whether zeros stand there as far as it is looked.
    fn is_blank(&mut self, offset: u64) -> io::Result<bool> {
        let len = self.limit.saturating_sub(offset).min(BLANK_LEN) as usize;
        Ok(self.window.slice(offset, len, READ_AHEAD)?.iter().all(|&byte| byte == 0))
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
