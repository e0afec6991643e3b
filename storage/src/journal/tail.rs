//! The end of the journal: where frames are written and flushed, and segments roll over.

use std::{
    io::{self, IoSlice},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    error::DiskError,
    fill::Filler,
    frame::{Frame, FrameEntry, FrameHeader, FrameKind, align, frame_len},
    identity::{Extent, Raising},
    seal::Sealer,
    segment::{self, FRAMES_OFFSET, Salt, SegmentHeader},
};
use crate::{
    ids::{Arrival, CommitNumber, SegmentNumber, StoreId, random_bytes},
    vfs::{OpenMode, Vfs, VfsFile, write_full},
};

/// A frame could not be made durable.
#[derive(Debug, Clone)]
pub(crate) enum WriteError {
    /// No space; nothing of the frame counts, and it may be tried again.
    Full,
    /// The disk failed; what it holds is not known.
    Disk(DiskError),
}

impl WriteError {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Full,
            _ => Self::Disk(error.into()),
        }
    }
}

/// A segment that has been begun.
#[derive(Debug, Clone)]
pub(crate) struct NewSegment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn VfsFile>,
}

/// A frame that is durable.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) frame: Frame,
    /// Where it begins in its segment.
    pub(crate) offset: u64,
    /// The segment, if it is the first frame in it.
    pub(crate) begun: Option<NewSegment>,
}

/// The segment that is written.
#[derive(Debug)]
struct Current {
    segment: NewSegment,
    /// Where the last frame ends.
    offset: u64,
    /// Beyond this, a further frame goes into the next segment.
    capacity: u64,
    /// Both copies of the header, until they are durable.
    header_block: Option<Bytes>,
    /// The directory entry is not known to be durable.
    entry_unsynced: bool,
}

impl Current {
    /// A frame could not be written at `offset`. If there was no space, the part that was is taken back: a
    /// shorter frame may come next, and what would be left behind it would look like damage.
    fn give_up(&mut self, offset: u64, error: io::Error) -> WriteError {
        let error = WriteError::of(error);
        if matches!(error, WriteError::Full) {
            let start = if self.header_block.is_some() { 0 } else { offset };
            let file = &self.segment.file;
            let cut = file.len().and_then(|len| if len > start { file.set_len(start) } else { Ok(()) });
            if let Err(error) = cut {
                return WriteError::Disk(error.into());
            }
        }
        error
    }
}

/// The end of the journal. Whoever leads a commit holds it.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) dir: PathBuf,
    pub(crate) raising: Raising,
    pub(crate) store: StoreId,
    pub(crate) next_commit: CommitNumber,
    pub(crate) next_arrival: Arrival,
    /// The last frame is not yet proven durable by a later one.
    pub(crate) uncovered: bool,
    pub(crate) sealer: Sealer,
    /// How far the journal reaches has been recorded since it was opened. Needed before a second segment is begun.
    pub(crate) has_extent: bool,
    current: Option<Current>,
    /// Where the frames of the segment before the first one begun here end.
    previous_end: u64,
    /// Number that the next segment gets.
    next_segment: SegmentNumber,
    segment_bytes_min: u64,
    segment_bytes_max: u64,
    /// Bytes in segments so far, for the size of the next.
    journal_bytes: u64,
    /// Whether files are filled ahead in the background.
    filler: Option<Arc<Filler>>,
}

/// What recovery found out about the end of the journal.
#[derive(Debug)]
pub(crate) struct TailStart {
    pub(crate) next_commit: CommitNumber,
    pub(crate) next_arrival: Arrival,
    pub(crate) next_segment: SegmentNumber,
    pub(crate) journal_bytes: u64,
    /// Where the frames of the last segment end, if writing goes on in a new one.
    pub(crate) previous_end: u64,
    /// A segment to go on in, and where its frames end.
    pub(crate) current: Option<(NewSegment, u64)>,
}

impl Tail {
    pub(crate) fn new(
        vfs: Arc<dyn Vfs>,
        dir: PathBuf,
        raising: Raising,
        store: StoreId,
        start: TailStart,
        segment_bytes: (u64, u64),
        filler: Option<Arc<Filler>>,
    ) -> io::Result<Self> {
        let mut tail = Self {
            vfs,
            dir,
            raising,
            store,
            next_commit: start.next_commit,
            next_arrival: start.next_arrival,
            // Recovery has copied the last frame there, or a mark is about to be written.
            uncovered: start.current.is_some(),
            has_extent: false,
            sealer: Sealer::new(crate::compression::Compression::None),
            current: None,
            previous_end: start.previous_end,
            next_segment: start.next_segment,
            segment_bytes_min: segment_bytes.0,
            segment_bytes_max: segment_bytes.1,
            journal_bytes: start.journal_bytes,
            filler,
        };
        if let Some((segment, offset)) = start.current {
            // What is filled already, or what it may grow to.
            let capacity = segment.file.len()?.max(tail.segment_bytes());
            tail.current = Some(Current { segment, offset, capacity, header_block: None, entry_unsynced: false });
        }
        tail.request_spare();
        Ok(tail)
    }

    /// Where the journal durably ends: segment and offset; none if its last segment has been begun only.
    pub(crate) fn position(&self) -> Option<(SegmentNumber, u64)> {
        let durable = self.current.as_ref().filter(|current| current.header_block.is_none())?;
        Some((durable.segment.header.number, durable.offset))
    }

    /// Records how far the journal reaches; without the record the loss of its end would go unnoticed.
    pub(crate) fn record_extent(&mut self) -> io::Result<()> {
        let Some((segment, end)) = self.position() else { return Ok(()) };
        Extent { segment, end }.raise(&self.raising, &*self.vfs, &self.dir)?;
        self.has_extent = true;
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        let grown = self.journal_bytes.checked_next_power_of_two().unwrap_or(u64::MAX);
        grown.clamp(self.segment_bytes_min, self.segment_bytes_max)
    }

    fn request_spare(&self) {
        if let Some(filler) = &self.filler {
            filler.request_spare(self.next_segment, self.segment_bytes());
        }
    }

    /// Writes a frame, flushes it, and only then returns. `pieces` are the bytes of its entries in order.
    ///
    /// **Durability**: on `Ok` the frame, and all that is needed to find it, survives power loss.
    pub(crate) fn write(
        &mut self,
        kind: FrameKind,
        entries: Vec<FrameEntry>,
        pieces: &[Bytes],
    ) -> Result<Written, WriteError> {
        if self.next_commit == CommitNumber(1) && !self.has_extent {
            // It was tried behind the first frame. Without the record a damaged second one would pass for one that was
            // never finished.
            self.record_extent().map_err(WriteError::of)?;
        }
        let len = frame_len(&entries);
        let current = self.current_with_room(len as u64)?;
        let offset = align(current.offset);
        let salt = current.segment.header.salt;
        let header_block = current.header_block.clone();
        let (header, front) = FrameHeader::new(kind, self.next_commit, self.next_arrival, &entries, &salt);
        let frame = Frame { header, entries };
        let current = self.current.as_mut().expect("a segment was just found or made");
        debug_assert_eq!(front.len() + pieces.iter().map(Bytes::len).sum::<usize>(), len, "the pieces are the entries");
        let written = write_frame(&*current.segment.file, offset, header_block.as_ref(), &front, pieces);
        written.map_err(|error| current.give_up(offset, error))?;
        current.segment.file.sync_data().map_err(|error| WriteError::Disk(error.into()))?;
        if current.entry_unsynced {
            self.vfs.sync_dir(&self.dir).map_err(|error| WriteError::Disk(error.into()))?;
            current.entry_unsynced = false;
        }
        let begun = current.header_block.take().map(|_| current.segment.clone());
        current.offset = offset + len as u64;
        if let Some(filler) = &self.filler {
            filler.note_written(len as u64, current.offset, current.capacity);
        }
        self.next_commit.0 += 1;
        self.next_arrival.0 += frame.batch_count();
        self.uncovered = kind == FrameKind::Commit;
        Ok(Written { frame, offset, begun })
    }

    /// The current segment if it has room for a frame of `len` bytes, else a new one.
    ///
    /// Once a new segment has been begun the old one is never written again: the new one's header,
    /// which says where the old one ends, may be on disk even if writing it failed.
    fn current_with_room(&mut self, len: u64) -> Result<&mut Current, WriteError> {
        let fits = |current: &Current| {
            let start = align(current.offset);
            start == FRAMES_OFFSET || start + len <= current.capacity
        };
        if !self.current.as_ref().is_some_and(fits) {
            let next = self.begin_segment(len).map_err(WriteError::of)?;
            self.current = Some(next);
            self.request_spare();
        }
        Ok(self.current.as_mut().expect("was just set"))
    }

    /// Begins a segment that has room for a frame of `len` bytes.
    fn begin_segment(&mut self, len: u64) -> io::Result<Current> {
        let number = self.next_segment;
        let previous_end = self.current.as_ref().map_or(self.previous_end, |current| current.offset);
        if number > SegmentNumber::ZERO && !self.has_extent {
            // Without the record, the loss of this segment would go unnoticed.
            let extent = Extent { segment: SegmentNumber(number.0 - 1), end: previous_end };
            extent.raise(&self.raising, &*self.vfs, &self.dir)?;
            self.has_extent = true;
        }
        let salt: Salt = random_bytes()?;
        let spare = self.filler.as_ref().and_then(|filler| filler.take_spare(number));
        let entry_unsynced = spare.is_none();
        let (file, capacity) = match spare {
            Some(spare) => spare,
            None => {
                let path = segment::path(&self.dir, number);
                let file = match self.vfs.open(&path, OpenMode::Create) {
                    // Left by an attempt that found no space for its content, or by a recovery that was cut short.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        let file = self.vfs.open(&path, OpenMode::Write)?;
                        segment::check_unused(&*file)?;
                        // What is left in it would look like damage behind what is written now.
                        file.set_len(0)?;
                        file
                    }
                    opened => opened?,
                };
                let capacity = reserve(&*file, self.segment_bytes(), FRAMES_OFFSET + len)?;
                (file, capacity)
            }
        };
        let header = SegmentHeader {
            store: self.store,
            number,
            salt,
            first_commit: self.next_commit,
            first_arrival: self.next_arrival,
            previous_end,
        };
        self.next_segment.0 += 1;
        self.journal_bytes += previous_end;
        Ok(Current {
            segment: NewSegment { header, file },
            offset: FRAMES_OFFSET,
            capacity,
            header_block: Some(header.encode_block()),
            entry_unsynced,
        })
    }
}

impl Frame {
    /// How many arrival numbers it takes.
    pub(crate) fn batch_count(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.takes_arrival()).count() as u64
    }
}

/// Reserves `wanted` bytes for a segment, or less where the disk is nearly full, but at least `needed`.
fn reserve(file: &dyn VfsFile, wanted: u64, needed: u64) -> io::Result<u64> {
    let mut len = wanted.max(needed);
    loop {
        match file.reserve(len) {
            Ok(()) => return Ok(len),
            Err(error) if error.kind() == io::ErrorKind::StorageFull && len > needed => len = (len / 2).max(needed),
            Err(error) => return Err(error),
        }
    }
}

/// Writes a frame, behind the header of its segment if that is not written yet.
fn write_frame(
    file: &dyn VfsFile,
    offset: u64,
    header_block: Option<&Bytes>,
    front: &[u8],
    pieces: &[Bytes],
) -> io::Result<()> {
    let mut slices = Vec::with_capacity(pieces.len() + 2);
    let mut start = offset;
    if let Some(block) = header_block {
        debug_assert_eq!(offset, block.len() as u64, "the first frame follows the header");
        slices.push(IoSlice::new(block));
        start = 0;
    }
    slices.push(IoSlice::new(front));
    slices.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
    write_full(file, &mut slices, start)
}
