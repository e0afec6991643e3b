//! Reading what is durable, by log and sequence number. By arrival: see the module `arrivals`.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, PoisonError},
};

use bytes::{Bytes, BytesMut};
use foldhash::fast::RandomState;

use super::{
    commit::Shared,
    error::{Place, ReadError},
    frame::{Frame, align},
    index::{Entry, Footer, Lookup, RunLinks, SegmentIndex},
    rewrite::RewriteRange,
    ring::Ring,
    scan::{FrameAt, Resumed, Scanner},
    segment::{self, HeaderState, SegmentHeader, Window},
    view::{ActiveSegment, SealedSegment, View},
};
use crate::{
    batch::Batch,
    ids::{Arrival, LogId, SegmentNumber, Seq},
    sync::{Mutex, MutexGuard, RwLockReadGuard},
    vfs::{OpenMode, VfsFile, read_full},
};

/// How many batches are looked up at a time.
pub(super) const LOOKUP_BATCHES: usize = 64;

/// Bytes read ahead where batches lie close together, unless told otherwise.
const READ_AHEAD: usize = 256 << 10;

/// A segment with its index in memory.
#[derive(Debug, Clone)]
pub(crate) struct LoadedSegment {
    pub(super) number: SegmentNumber,
    pub(super) file: Arc<dyn VfsFile>,
    pub(super) index: Arc<SegmentIndex>,
}

/// Segments used of late, with their indexes; bounded in bytes.
#[derive(Debug)]
pub(crate) struct IndexCache {
    segments: HashMap<SegmentNumber, (LoadedSegment, u64), RandomState>,
    bytes: usize,
    bytes_max: usize,
    /// Counts uses, to tell which was longest ago.
    uses: u64,
}

impl IndexCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { segments: HashMap::default(), bytes: 0, bytes_max, uses: 0 }
    }

    /// Forgets segments that have been freed: their files take space as long as they are open.
    pub(crate) fn remove_before(&mut self, first: SegmentNumber) {
        for (_, (removed, _)) in self.segments.extract_if(|number, _| *number < first) {
            self.bytes -= removed.index.size_bytes();
        }
    }

    fn find(&mut self, number: SegmentNumber) -> Option<LoadedSegment> {
        self.uses += 1;
        let (segment, used) = self.segments.get_mut(&number)?;
        *used = self.uses;
        Some(segment.clone())
    }

    fn insert(&mut self, segment: &LoadedSegment) {
        self.bytes += segment.index.size_bytes();
        if let Some((old, _)) = self.segments.insert(segment.number, (segment.clone(), self.uses)) {
            self.bytes -= old.index.size_bytes();
        }
        while self.bytes > self.bytes_max && self.segments.len() > 1 {
            let oldest = self.segments.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
            let Some((removed, _)) = oldest.and_then(|oldest| self.segments.remove(&oldest)) else { break };
            self.bytes -= removed.index.size_bytes();
        }
    }
}

/// Batches read one by one of late, each in the one place that its position in the journal gives it.
#[derive(Debug)]
pub(crate) struct BatchCache {
    places: Vec<Mutex<Option<(Place, Batch)>>>,
}

/// How many batches are kept.
const BATCHES_CACHED: u64 = 256;

/// Longer ones are not kept: so all of them take at most 16 MiB, and usually 2.
const CACHED_LEN_MAX: u32 = 64 << 10;

impl BatchCache {
    pub(crate) fn new() -> Self {
        Self { places: (0..BATCHES_CACHED).map(|_| Mutex::default()).collect() }
    }

    fn place(&self, place: Place) -> MutexGuard<'_, Option<(Place, Batch)>> {
        // Fibonacci hashing: offsets are multiples of few.
        let mixed = (place.offset ^ place.segment.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let index = mixed >> (64 - BATCHES_CACHED.trailing_zeros());
        self.places[index as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, place: Place) -> Option<Batch> {
        self.place(place).as_ref().filter(|(known, _)| *known == place).map(|(_, batch)| batch.clone())
    }

    /// Memory for a batch that is to be read: that of the one which it will replace, if nobody else has that.
    fn buffer(&self, place: Place, len: usize) -> BytesMut {
        let replaced = self.place(place).take();
        let buffer = replaced.and_then(|(_, batch)| batch.into_buffer());
        // A long one would be kept for a short batch.
        let mut buffer = buffer.filter(|buffer| buffer.capacity() <= 2 * len).unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    fn insert(&self, place: Place, batch: &Batch) {
        // What it replaces is freed after the lock is given back.
        let _replaced = self.place(place).replace((place, batch.clone()));
    }
}

/// Some batches of one segment that are to be read next.
#[derive(Debug)]
pub(super) struct Extract {
    pub(super) segment: SegmentNumber,
    pub(super) file: Arc<dyn VfsFile>,
    pub(super) entries: VecDeque<Listed>,
}

/// A batch that is to be read.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) log: LogId,
    pub(super) entry: Entry,
    /// If it is at hand.
    pub(super) batch: Option<Batch>,
    pub(super) standing: Standing,
}

/// What a batch in a segment is to those who read by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Read here.
    Here,
    /// It has been rewritten, and is read where it stands now.
    Elsewhere,
    /// Below its log's floor.
    Trimmed,
}

impl Listed {
    fn new(log: LogId, entry: Entry, batch: Option<Batch>) -> Self {
        Self { log, entry, batch, standing: Standing::Here }
    }
}

/// Where a sequence number is.
#[derive(Debug)]
pub(super) enum Located {
    /// In these batches, or before the first of them.
    Extract(Extract),
    /// In no batch that can be found; the log goes on here.
    Hole { resumes_at: Seq },
    /// It is kept no more; the log goes on here.
    Trimmed { first_available: Seq },
    /// The log durably ends before it.
    End,
}

impl Extract {
    /// Whether the first of its batches begins there.
    pub(super) fn begins_at(&self, seq: Seq) -> bool {
        self.entries.front().is_some_and(|listed| listed.entry.first_seq == seq)
    }
}

impl Located {
    /// What there is before `end`; without any a hole.
    fn of(extract: Extract, end: Seq) -> Self {
        if extract.entries.is_empty() { Self::Hole { resumes_at: end } } else { Self::Extract(extract) }
    }
}

/// Those entries of the segment that grows that begin before `end`.
fn active_extract(ring: &Ring, active: &ActiveSegment, log: LogId, entries: Vec<Entry>, end: Seq) -> Extract {
    let entries = entries.into_iter().take_while(|entry| entry.first_seq < end);
    let entries = entries.map(|entry| Listed::new(log, entry, ring.batch(entry.arrival).cloned())).collect();
    Extract { segment: active.number, file: Arc::clone(&active.file), entries }
}

/// Those entries of a sealed segment that begin before `end`.
fn sealed_extract(segment: LoadedSegment, log: LogId, entries: Vec<Entry>, end: Seq) -> Extract {
    let entries = entries.into_iter().take_while(|entry| entry.first_seq < end);
    let entries = entries.map(|entry| Listed::new(log, entry, None)).collect();
    Extract { segment: segment.number, file: segment.file, entries }
}

impl Shared {
    pub(super) fn disk_error(segment: SegmentNumber, offset: u64, error: io::Error) -> ReadError {
        ReadError::Disk { place: Place { segment, offset }, error: error.into() }
    }

    /// A sealed segment with its index, from the cache or its footer.
    pub(super) fn load(&self, sealed: &SealedSegment) -> Result<LoadedSegment, ReadError> {
        if let Some(loaded) = self.cache().find(sealed.number) {
            return Ok(loaded);
        }
        let loaded = self.load_uncached(sealed).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if self.options.read_only => ReadError::Freed { segment: sealed.number },
            _ => Self::disk_error(sealed.number, 0, error),
        })?;
        self.cache().insert(&loaded);
        Ok(loaded)
    }

    /// The index of a sealed segment.
    pub(crate) fn index_of(&self, sealed: &SealedSegment) -> Result<Arc<SegmentIndex>, ReadError> {
        self.load(sealed).map(|loaded| loaded.index)
    }

    fn load_uncached(&self, sealed: &SealedSegment) -> io::Result<LoadedSegment> {
        let path = segment::path(&self.dir, sealed.number);
        let file = self.options.vfs.open(&path, OpenMode::Read)?;
        let index = match &sealed.pinned {
            Some(index) => Arc::clone(index),
            None => match read_footer(&*file, sealed.end)? {
                Some(footer) => footer.index,
                None => {
                    tracing::warn!(segment = %sealed.number, "the footer is damaged: reading the whole segment");
                    let mut index = SegmentIndex::default();
                    self.scan_sealed(&file, sealed, |frame, offset| index.add_frame(frame, offset))?;
                    Arc::new(index)
                }
            },
        };
        Ok(LoadedSegment { number: sealed.number, file, index })
    }

    /// Reads a sealed segment frame by frame; `take` is given what is whole, and where each frame begins. Whether all of
    /// it was.
    pub(super) fn scan_sealed(
        &self,
        file: &Arc<dyn VfsFile>,
        sealed: &SealedSegment,
        mut take: impl FnMut(&Frame, u64),
    ) -> io::Result<bool> {
        let Some(header) = self.header_in(&**file, sealed.number)? else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "both copies of the segment's header are damaged"));
        };
        let mut scanner = Scanner::new(Arc::clone(file), header, Some(sealed.end))?;
        if let Some(next) = self.header_behind(sealed.number)? {
            scanner = scanner.before(&next);
        }
        let mut is_whole = true;
        loop {
            let offset = scanner.offset;
            match scanner.next_frame()? {
                FrameAt::Frame(frame) => take(&frame, offset),
                FrameAt::Nothing => return Ok(is_whole && scanner.offset >= align(sealed.end)),
                FrameAt::Invalid(_) => {
                    is_whole = false;
                    let Resumed { salvaged, next } = scanner.resume()?;
                    if salvaged.is_none() && next.is_none() {
                        return Ok(false);
                    }
                    salvaged.iter().for_each(|frame| take(frame, offset));
                    next.iter().for_each(|(frame, offset)| take(frame, *offset));
                }
            }
        }
    }

    fn header_in(&self, file: &dyn VfsFile, number: SegmentNumber) -> io::Result<Option<SegmentHeader>> {
        Ok(match SegmentHeader::read(file, self.identity().store, number)? {
            HeaderState::Whole(header) | HeaderState::OneCopy(header) => Some(header),
            HeaderState::Unused | HeaderState::Unreadable => None,
        })
    }

    /// The header of the segment right behind, if there is one.
    fn header_behind(&self, number: SegmentNumber) -> io::Result<Option<SegmentHeader>> {
        let next = SegmentNumber(number.0 + 1);
        match self.options.vfs.open(&segment::path(&self.dir, next), OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => self.header_in(&*opened?, next),
        }
    }

    fn load_number(&self, number: SegmentNumber) -> Result<Option<LoadedSegment>, ReadError> {
        if let Some(loaded) = self.cache().find(number) {
            return Ok(Some(loaded));
        }
        let sealed = self.view_without_digests().sealed_segment(number).cloned();
        sealed.map(|sealed| self.load(&sealed)).transpose()
    }

    /// Up to `limit` batches of `log` from the one that holds `seq`.
    pub(super) fn locate(&self, log: LogId, seq: Seq, limit: usize) -> Result<Located, ReadError> {
        let (links, end, mut resumes_at) = {
            let view = self.view_without_digests();
            let state = view.log(log).ok_or(ReadError::UnknownLog { log })?;
            if seq >= state.row.head.next_seq {
                return Ok(Located::End);
            }
            let first_available = state.row.floor.head.next_seq;
            if seq < first_available {
                return Ok(Located::Trimmed { first_available });
            }
            let rewritten = state.row.rewrites.at_or_after(seq);
            if let Some(range) = rewritten.filter(|range| range.first_seq <= seq) {
                return self.locate_rewritten(view, log, seq, range, limit);
            }
            // What was rewritten is not read where it was.
            let end = rewritten.map_or(state.row.head.next_seq, |range| range.first_seq);
            let mut resumes_at = end;
            if let Some(active) = &view.active {
                let entries = active.index.run_from(log, seq, limit);
                let run_begins_before = active.index.links(log).is_some_and(|links| links.path[0].first_seq <= seq);
                if let Some(first) = entries.first() {
                    if (run_begins_before || first.first_seq <= seq) && first.first_seq < end {
                        return Ok(Located::Extract(active_extract(&view.ring, active, log, entries, end)));
                    }
                    resumes_at = resumes_at.min(first.first_seq);
                }
            }
            (state.row.links.clone(), end, resumes_at)
        };
        // Where a segment on the way can't be read, all are looked at.
        let target = match self.walk(log, seq, links) {
            Ok(Some(found)) => Some(found),
            Ok(None) | Err(_) => self.search(log, seq)?,
        };
        let entries = target.as_ref().map(|segment| segment.index.run_from(log, seq, limit)).unwrap_or_default();
        match target {
            Some(segment) if entries.first().is_some_and(|first| first.first_seq < end) => {
                Ok(Located::Extract(sealed_extract(segment, log, entries, end)))
            }
            _ => {
                if let Some(next) = self.run_after(log, seq) {
                    resumes_at = resumes_at.min(next);
                }
                Ok(Located::Hole { resumes_at })
            }
        }
    }

    /// Up to `limit` batches from the one that holds `seq`, which was rewritten with its `range`.
    fn locate_rewritten(
        &self,
        view: RwLockReadGuard<'_, View>,
        log: LogId,
        seq: Seq,
        range: RewriteRange,
        limit: usize,
    ) -> Result<Located, ReadError> {
        let end = range.next_seq;
        if let Some(active) = view.active.as_ref().filter(|active| active.number == range.segment) {
            let entries = active.index.rewritten_from(log, seq, limit);
            return Ok(Located::of(active_extract(&view.ring, active, log, entries, end), end));
        }
        drop(view);
        let Some(segment) = self.load_number(range.segment)? else { return Ok(Located::Hole { resumes_at: end }) };
        let entries = segment.index.rewritten_from(log, seq, limit);
        Ok(Located::of(sealed_extract(segment, log, entries, end), end))
    }

    /// Follows the links of runs to the last one that begins at or before `seq`.
    fn walk(&self, log: LogId, seq: Seq, mut links: RunLinks) -> Result<Option<LoadedSegment>, ReadError> {
        loop {
            let Some(index) = links.path.iter().position(|node| node.first_seq <= seq) else { return Ok(None) };
            let node = links.path[index];
            let later = index.checked_sub(1).map(|later| links.path[later]);
            let Some(later) = later.filter(|later| later.depth > node.depth + 1) else {
                return self.load_number(node.segment);
            };
            let Some(previous) = self.links_at(log, later.segment)?.and_then(|links| links.previous) else {
                return Ok(None);
            };
            match self.links_at(log, previous)? {
                // Depths fall at every step, so the walk ends.
                Some(found) if found.path.first().is_some_and(|first| first.depth < later.depth) => links = found,
                _ => return Ok(None),
            }
        }
    }

    /// The links of a log's run in a segment, which may be the active one.
    fn links_at(&self, log: LogId, number: SegmentNumber) -> Result<Option<RunLinks>, ReadError> {
        {
            let view = self.view_without_digests();
            if let Some(active) = view.active.as_ref().filter(|active| active.number == number) {
                return Ok(active.index.links(log).cloned());
            }
        }
        Ok(self.load_number(number)?.and_then(|segment| segment.index.links(log).cloned()))
    }

    /// Looks at all sealed segments, newest first, for the last run that begins at or before `seq`.
    fn search(&self, log: LogId, seq: Seq) -> Result<Option<LoadedSegment>, ReadError> {
        let sealed: Vec<_> = self.view_without_digests().sealed.iter().rev().cloned().collect();
        let mut failure = None;
        for segment in sealed {
            match self.load(&segment) {
                Ok(loaded) => {
                    let first = loaded.index.run_from(log, Seq::ZERO, 1);
                    if first.first().is_some_and(|entry| entry.first_seq <= seq) {
                        // What this one lacks, a later one that can't be read may hold.
                        let holds = matches!(loaded.index.find(log, seq), Lookup::Found(_));
                        return failure.filter(|_| !holds).map_or(Ok(Some(loaded)), Err);
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Where the first run behind `seq` begins, among the sealed segments that can be read.
    fn run_after(&self, log: LogId, seq: Seq) -> Option<Seq> {
        let sealed: Vec<_> = self.view_without_digests().sealed.clone();
        let firsts = sealed.iter().filter_map(|segment| {
            let loaded = self.load(segment).ok()?;
            loaded.index.run_from(log, seq, 1).first().map(|entry| entry.first_seq)
        });
        firsts.filter(|first| *first > seq).min()
    }

    /// The file of a segment, if there is one of that number.
    pub(super) fn file_of(&self, number: SegmentNumber) -> Result<Option<Arc<dyn VfsFile>>, ReadError> {
        {
            let view = self.view_without_digests();
            if let Some(active) = view.active.as_ref().filter(|active| active.number == number) {
                return Ok(Some(Arc::clone(&active.file)));
            }
        }
        Ok(self.load_number(number)?.map(|loaded| loaded.file))
    }

    /// The durable batch that holds `seq`.
    pub(crate) fn read_batch(self: &Arc<Self>, log: LogId, seq: Seq) -> Result<Option<Batch>, ReadError> {
        let (in_active, links, rewritten) = {
            let view = self.view_without_digests();
            let state = view.log(log).ok_or(ReadError::UnknownLog { log })?;
            if seq >= state.row.head.next_seq {
                return Ok(None);
            }
            let first_available = state.row.floor.head.next_seq;
            if seq < first_available {
                return Err(ReadError::Trimmed { log, first_seq: seq, first_available });
            }
            let rewritten = state.row.rewrites.segment_of(seq);
            let found = view.active.as_ref().filter(|active| rewritten.is_none_or(|number| number == active.number));
            let found = found.and_then(|active| {
                let entry = active.index.find_in(rewritten.is_some(), log, seq)?;
                Some((active.number, Arc::clone(&active.file), entry, view.ring.batch(entry.arrival).cloned()))
            });
            (found, state.row.links.clone(), rewritten)
        };
        if let Some((segment, file, entry, batch)) = in_active {
            return batch.map_or_else(|| self.read_one(&*file, segment, log, &entry), Ok).map(Some);
        }
        let segment = match rewritten {
            Some(number) => self.load_number(number),
            None => self.walk(log, seq, links),
        };
        if let Ok(Some(segment)) = segment
            && let Some(entry) = segment.index.find_in(rewritten.is_some(), log, seq)
        {
            return self.read_one(&*segment.file, segment.number, log, &entry).map(Some);
        }
        // There is a hole, or a segment on the way can't be read.
        LogReader::new(Arc::clone(self), log, seq).next().transpose()
    }

    /// Where the indexes say that this very batch stands, whether or not it can be read there.
    pub(crate) fn place_of(&self, batch: &Batch) -> Result<Option<Place>, ReadError> {
        let header = batch.header();
        let Located::Extract(extract) = self.locate(header.log, header.first_seq, 1)? else { return Ok(None) };
        let is_meant = |entry: &Entry| {
            (entry.first_seq, entry.record_count, entry.len as usize)
                == (header.first_seq, header.record_count, header.batch_len())
        };
        let entry = extract.entries.front().map(|listed| listed.entry).filter(is_meant);
        Ok(entry.map(|entry| Place { segment: extract.segment, offset: entry.offset }))
    }

    /// Reads one batch alone, from the cache if it was read so of late.
    pub(super) fn read_one(
        &self,
        file: &dyn VfsFile,
        segment: SegmentNumber,
        log: LogId,
        entry: &Entry,
    ) -> Result<Batch, ReadError> {
        let place = Place { segment, offset: entry.offset };
        let is_meant = |batch: &Batch| batch.log() == log && batch.first_seq() == entry.first_seq;
        if let Some(batch) = self.batches.find(place).filter(is_meant) {
            return Ok(batch);
        }
        let (len, is_cached) = (entry.len as usize, entry.len <= CACHED_LEN_MAX);
        let mut buffer = if is_cached { self.batches.buffer(place, len) } else { BytesMut::zeroed(len) };
        let read = read_full(file, &mut buffer, entry.offset).map(|count| {
            buffer.truncate(count);
            buffer.freeze()
        });
        let batch = check_entry(read, segment, log, entry).inspect_err(|error| self.note_hole(error))?;
        if is_cached {
            self.batches.insert(place, &batch);
        }
        Ok(batch)
    }
}

/// The footer behind the frames of a segment; `None` if it is missing or damaged.
pub(crate) fn read_footer(file: &dyn VfsFile, end: u64) -> io::Result<Option<Footer>> {
    let offset = align(end);
    let mut prefix = [0; Footer::PREFIX_LEN];
    read_full(file, &mut prefix, offset)?;
    let Some(len) = Footer::announced_len(&prefix) else { return Ok(None) };
    if file.len()? < offset + len as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    let count = read_full(file, &mut bytes, offset)?;
    Ok(Footer::decode(&bytes[..count]))
}

/// Reads a batch from its segment and checks that it is the one that the index means.
fn read_entry(
    window: &mut Window,
    segment: SegmentNumber,
    log: LogId,
    entry: &Entry,
    ahead: usize,
) -> Result<Batch, ReadError> {
    check_entry(window.slice(entry.offset, entry.len as usize, ahead), segment, log, entry)
}

fn check_entry(read: io::Result<Bytes>, segment: SegmentNumber, log: LogId, entry: &Entry) -> Result<Batch, ReadError> {
    let place = Place { segment, offset: entry.offset };
    let damaged = |what: String| {
        let (first_seq, next_seq) = (entry.first_seq, entry.next_seq());
        ReadError::Damaged { log, first_seq, next_seq, place, what }
    };
    let bytes = read.map_err(|error| ReadError::Disk { place, error: error.into() })?;
    let batch = Batch::parse(bytes).map_err(|error| damaged(error.to_string()))?;
    if batch.log() == log && batch.first_seq() == entry.first_seq {
        Ok(batch)
    } else {
        Err(damaged("another batch is stored there".to_owned()))
    }
}

/// Reads the extracts of a journal one after the other.
#[derive(Debug)]
pub(super) struct Cursor {
    window: Option<(SegmentNumber, Window)>,
    segment: SegmentNumber,
    pub(super) entries: VecDeque<Listed>,
    /// Bytes read ahead where batches lie close together.
    read_ahead: usize,
}

impl Default for Cursor {
    fn default() -> Self {
        let (window, segment, entries) = Default::default();
        Self { window, segment, entries, read_ahead: READ_AHEAD }
    }
}

impl Cursor {
    /// Forgets what it holds, the open file too.
    pub(super) fn clear(&mut self) {
        self.window = None;
        self.entries.clear();
    }

    pub(super) fn fill(&mut self, extract: Extract) {
        let Extract { segment, file, entries } = extract;
        if self.window.as_ref().is_none_or(|(number, _)| *number != segment) {
            self.window = Some((segment, Window::new(file)));
        }
        (self.segment, self.entries) = (segment, entries);
    }

    /// Reads the batch that comes next, and ahead as far as what follows is known to be durable and near.
    pub(super) fn read(&mut self, listed: Listed) -> Result<Batch, ReadError> {
        let Listed { log, entry, batch, .. } = listed;
        if let Some(batch) = batch {
            return Ok(batch);
        }
        let mut end = entry.offset + u64::from(entry.len);
        for Listed { entry: next, .. } in &self.entries {
            let near = next.offset >= end && next.offset < end + 4096;
            if !near || next.offset + u64::from(next.len) > entry.offset + self.read_ahead as u64 {
                break;
            }
            end = next.offset + u64::from(next.len);
        }
        let Some((_, window)) = &mut self.window else {
            return Err(ReadError::UnknownLog { log });
        };
        read_entry(window, self.segment, log, &entry, (end - entry.offset) as usize)
    }
}

/// Iterates over the durable batches of one log, the first of which may begin before what was asked for.
///
/// Owned: it borrows nothing. At the end of the log it returns `None` and may be asked again later:
/// it goes on with what has become durable since. After an error the next item is what follows the
/// range that can't be served, except after [`ReadError::Disk`], which may pass and is tried again.
#[derive(Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
    log: LogId,
    next: Seq,
    cursor: Cursor,
    /// What the journal's count of [changes](super::retention::Retention::changes) was when the cursor was filled.
    changes: u64,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>, log: LogId, from: Seq) -> Self {
        let changes = shared.retention.changes();
        Self { shared, log, next: from, cursor: Cursor::default(), changes }
    }

    /// Whether what the cursor holds may not be where it was any more; it is then forgotten.
    fn forgets(&mut self) -> bool {
        let changes = self.shared.retention.changes();
        if changes == self.changes {
            return false;
        }
        self.changes = changes;
        self.cursor.clear();
        true
    }

    /// Sequence number of the next record that it has not returned.
    pub fn next_seq(&self) -> Seq {
        self.next
    }

    /// Sets how many bytes may be read ahead where batches lie close together. Default: 256 KiB. For those who read
    /// many logs at once.
    pub fn set_read_ahead(&mut self, bytes: usize) {
        self.cursor.read_ahead = bytes;
    }

    /// The arrival number of the batch that comes next, which is not read for that; `None` at the end of the log.
    ///
    /// Where an error comes next, it is that of the first batch of all, so that whoever merges logs by arrival is
    /// told at once.
    pub fn next_arrival(&mut self) -> Option<Arrival> {
        self.forgets();
        if self.cursor.entries.is_empty() {
            match self.shared.locate(self.log, self.next, LOOKUP_BATCHES) {
                Ok(Located::End) => return None,
                Ok(Located::Extract(extract)) => self.cursor.fill(extract),
                Ok(Located::Hole { .. } | Located::Trimmed { .. }) | Err(_) => return Some(Arrival::ZERO),
            }
        }
        let entry = self.cursor.entries.front()?.entry;
        Some(if entry.first_seq > self.next { Arrival::ZERO } else { entry.arrival })
    }

    fn hole_until(&mut self, next_seq: Seq) -> ReadError {
        let first_seq = std::mem::replace(&mut self.next, next_seq);
        ReadError::Hole { log: self.log, first_seq, next_seq }
    }
}

impl Iterator for LogReader {
    type Item = Result<Batch, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.forgets();
        loop {
            let at = self.next;
            let item = self.step()?;
            // What was looked for may have gone elsewhere meanwhile; then it is looked for again, and nothing is missing.
            if item.is_ok() || matches!(item, Err(ReadError::Trimmed { .. })) || !self.forgets() {
                return Some(item.inspect_err(|error| self.shared.note_hole(error)));
            }
            self.next = at;
        }
    }
}

impl LogReader {
    fn step(&mut self) -> Option<Result<Batch, ReadError>> {
        if self.cursor.entries.is_empty() {
            match self.shared.locate(self.log, self.next, LOOKUP_BATCHES) {
                Err(error) => return Some(Err(error)),
                Ok(Located::End) => {
                    // So that the file of a segment that is freed meanwhile takes no space.
                    self.cursor.clear();
                    return None;
                }
                Ok(Located::Trimmed { first_available }) => {
                    let first_seq = std::mem::replace(&mut self.next, first_available);
                    return Some(Err(ReadError::Trimmed { log: self.log, first_seq, first_available }));
                }
                Ok(Located::Hole { resumes_at }) => return Some(Err(self.hole_until(resumes_at))),
                Ok(Located::Extract(extract)) => self.cursor.fill(extract),
            }
        }
        let listed = self.cursor.entries.pop_front()?;
        let (first_seq, next_seq) = (listed.entry.first_seq, listed.entry.next_seq());
        if first_seq > self.next {
            let error = self.hole_until(first_seq);
            self.cursor.entries.push_front(listed);
            return Some(Err(error));
        }
        let result = self.cursor.read(listed);
        if matches!(result, Err(ReadError::Disk { .. })) {
            self.cursor.entries.clear();
        } else {
            self.next = next_seq;
        }
        Some(result)
    }
}
