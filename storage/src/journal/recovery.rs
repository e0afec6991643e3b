//! Opening a store: what is on disk becomes what readers see, and where writing goes on.
//!
//! # The decision table
//!
//! For each segment file, in order:
//!
//! | header copies | is the last | outcome |
//! |---|---|---|
//! | whole | | used |
//! | one | no | used; damage reported; the other copy written anew |
//! | one | yes | the same, but damage only if its first write is proven by a later frame: else it was cut off |
//! | all zero | yes | space made ready: ignored, taken when needed |
//! | all zero or unreadable | no | damage: what it held is missing, the rest is served |
//! | unreadable | yes | its first write never finished: set aside, reported as torn |
//! | (file missing) | no | damage reported |
//!
//! For each segment but the last, whose end its successor's header records:
//!
//! | footer | outcome |
//! |---|---|
//! | valid | its rows are taken; the segment is not read |
//! | missing or damaged | read frame by frame; a bad frame is damage: never cut, what is whole of it is taken, the scan goes on behind it; the footer is written anew |
//!
//! A last segment that ends, where the extent file says so, in a closing mark and a valid footer was closed
//! cleanly when it was large: its rows are taken, and writing goes on in a new segment. Any other
//! last segment is read frame by frame to the first offset without a valid frame:
//!
//! | there | last valid frame | outcome |
//! |---|---|---|
//! | zeros | closing mark | clean: an opening mark is written, then writing goes on there |
//! | zeros | mark, or none | writing goes on in a new segment |
//! | zeros | commit | the frame is unproven: copied to a new segment and flushed before it is served |
//! | bytes, and a valid frame behind them | | damage: what is whole of the frame is taken (see the module `salvage`), the scan goes on behind it; then as above |
//! | bytes, and none behind | | torn tail: kept aside, reported; then as for zeros |
//!
//! Files shorter than the extent file records, or frames that end before: damage; writing goes on in a
//! new segment, whose header records where the frames once ended. Damage to frames read here, or an identity file
//! that is not the one it was bound to: a new incarnation, since own logs may go on elsewhere.
//! A crash during any of this leaves the same table to be applied again: the copy of an unproven
//! frame is flushed before the header that makes it count is written.

use std::{
    io::{self, IoSlice},
    path::Path,
    sync::Arc,
};

use super::{
    LOCK_FILE, Options,
    commit::{Shared, begin_active, end_active},
    error::{OpenError, Place},
    fill::SealJob,
    frame::{FRAME_HEADER_LEN, Frame, FrameEntry, FrameHeader, FrameKind},
    identity::{BoundIdentity, Extent, IDENTITY_FILE, Identity, IdentityState},
    index::Footer,
    read::read_footer,
    report::{Damage, Finding, Recovery},
    scan::{FrameAt, Resumed, Scanner},
    segment::{self, FRAMES_OFFSET, HeaderState, SegmentHeader, Window},
    tail::{NewSegment, TailStart},
    view::{SealedSegment, View},
};
use crate::{
    ids::{Arrival, CommitNumber, Incarnation, SegmentNumber, StoreId, random_bytes},
    vfs::{OpenMode, Vfs, VfsFile, write_full},
};

/// How many torn tails are kept; older ones are removed.
const TORN_TAILS_KEPT: usize = 8;

/// A segment file with a header that can be used.
#[derive(Debug, Clone)]
struct Found {
    header: SegmentHeader,
    file: Arc<dyn VfsFile>,
    /// Of two copies of the header, one can't be read.
    has_one_copy: bool,
}

/// Where the frames of a segment end.
#[derive(Debug, Clone, Copy)]
enum End {
    /// As the next segment's header says.
    Recorded(u64),
    /// As far as valid frames were found.
    Searched(u64),
}

impl End {
    fn offset(self) -> u64 {
        match self {
            Self::Recorded(offset) | Self::Searched(offset) => offset,
        }
    }
}

/// The end of the scanned part of the last segment.
#[derive(Debug)]
pub(crate) struct Frontier {
    pub(crate) scanner: Scanner,
    /// The last valid frame, while no later one proves it, and its offset.
    pub(crate) unproven: Option<(Frame, u64)>,
}

/// What opening makes of a store's files.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) view: View,
    pub(crate) recovery: Recovery,
    pub(crate) identity: Identity,
    /// Footers that are missing.
    pub(crate) seals: Vec<SealJob>,
    /// Where writing goes on; none when opened to read only.
    pub(crate) tail: Option<TailStart>,
    /// Where reading goes on when opened to read only; none while there is no segment.
    pub(crate) frontier: Option<Frontier>,
}

/// An operation on files under a store's folder, with its name for the error.
fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |error| OpenError::Disk { operation, path: path.to_owned(), error }
}

/// Reads the identity of the store in `dir`.
pub(crate) fn read_identity(
    vfs: &dyn Vfs,
    dir: &Path,
    mode: OpenMode,
) -> Result<(Arc<dyn VfsFile>, IdentityState), OpenError> {
    let path = dir.join(IDENTITY_FILE);
    let file = match vfs.open(&path, mode) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let names = vfs.list(dir).unwrap_or_default();
            return Err(if numbers_of(&names).is_empty() {
                OpenError::NoStore { path: dir.to_owned() }
            } else {
                OpenError::IdentityMissing { path }
            });
        }
        opened => opened.map_err(failed("opening", &path))?,
    };
    let state = BoundIdentity::read(&*file).map_err(failed("reading", &path))?;
    Ok((file, state))
}

/// Applies the decision table.
pub(crate) fn open(dir: &Path, options: &Options) -> Result<Opened, OpenError> {
    let mut opening = Opening::begin(dir, options)?;
    // Before the segments are looked for: a writer beside may go on to the next one meanwhile.
    let extent = Extent::read(opening.vfs, dir).map_err(failed("reading the extent in", dir))?;
    let found = opening.find_segments()?;
    if let Some(extent) = extent {
        opening.check_extent(extent, &found)?;
    }
    let Some((last, sealed)) = found.split_last() else { return opening.finish_empty() };
    for half in sealed.iter().filter(|found| found.has_one_copy) {
        opening.damage(half.header.number, 0, "one of two copies of the segment's header is damaged");
        opening.mend_header(half)?;
    }
    opening.restore_sealed(sealed, last)?;
    let known_end = extent.filter(|extent| extent.segment == last.header.number).map(|extent| extent.end);
    opening.finish(last, known_end)
}

/// An opening under way.
struct Opening<'a> {
    dir: &'a Path,
    options: &'a Options,
    vfs: &'a dyn Vfs,
    identity_file: Arc<dyn VfsFile>,
    bound: BoundIdentity,
    view: View,
    recovery: Recovery,
    seals: Vec<SealJob>,
    /// How far the journal is recorded to have reached.
    extent: Option<Extent>,
    /// Segments whose frames are missing.
    lost: Vec<SegmentNumber>,
    /// Own logs may have been longer than they are now: frames are missing, and nothing later says how
    /// far the logs reached.
    frames_lost: bool,
    next_segment: SegmentNumber,
}

impl<'a> Opening<'a> {
    fn begin(dir: &'a Path, options: &'a Options) -> Result<Self, OpenError> {
        let vfs = &*options.vfs;
        let mode = if options.read_only { OpenMode::Read } else { OpenMode::Write };
        let (identity_file, state) = read_identity(vfs, dir, mode)?;
        let path = dir.join(IDENTITY_FILE);
        let mut recovery = Recovery::default();
        let bound = match state {
            IdentityState::Whole(bound) => bound,
            IdentityState::OneCopy(bound) => {
                if !options.read_only {
                    bound.write(&*identity_file).map_err(failed("writing", &path))?;
                }
                recovery.findings.push(Finding::Damage(Damage::of_identity("one of two copies is damaged")));
                bound
            }
            IdentityState::Unreadable => return Err(OpenError::Identity { path }),
            IdentityState::Format(found) => return Err(OpenError::Format { path, found, known: 1 }),
        };
        let view = View::new(options.ring_bytes);
        let next_segment = SegmentNumber::ZERO;
        let (seals, lost, frames_lost, extent) = (Vec::new(), Vec::new(), false, None);
        Ok(Self {
            dir,
            options,
            vfs,
            identity_file,
            bound,
            view,
            recovery,
            seals,
            extent,
            lost,
            frames_lost,
            next_segment,
        })
    }

    fn damage(&mut self, segment: SegmentNumber, offset: u64, what: impl Into<String>) {
        let damage = Damage::new(Place { segment, offset }, what);
        tracing::warn!(dir = %self.dir.display(), %damage, "damage found while opening");
        self.recovery.findings.push(Finding::Damage(damage));
    }

    /// The segments with a usable header, ascending; what is wrong with the others is reported.
    fn find_segments(&mut self) -> Result<Vec<Found>, OpenError> {
        let names = self.vfs.list(self.dir).map_err(failed("listing", self.dir))?;
        let mut numbers: Vec<_> = names.iter().filter_map(|name| segment::number_of(name)).collect();
        numbers.sort_unstable();
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

    /// Writes both copies of a header of which one can't be read.
    fn mend_header(&self, found: &Found) -> Result<(), OpenError> {
        if self.options.read_only {
            return Ok(());
        }
        let path = segment::path(self.dir, found.header.number);
        let block = found.header.encode_block();
        write_full(&*found.file, &mut [IoSlice::new(&block)], 0).map_err(failed("writing", &path))?;
        found.file.sync_data().map_err(failed("flushing", &path))?;
        self.vfs.sync_dir(self.dir).map_err(failed("flushing", self.dir))
    }

    fn report_missing(&mut self, found: &[Found], present: &[SegmentNumber]) {
        let Some(last) = found.last() else { return };
        for number in (0..last.header.number.0).map(SegmentNumber) {
            if present.binary_search(&number).is_err() {
                self.damage(number, 0, "the segment file is missing");
                self.lost.push(number);
            }
        }
    }

    /// The last segment's first write never finished.
    fn set_aside(&mut self, number: SegmentNumber, file: &dyn VfsFile) -> Result<(), OpenError> {
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
    fn check_extent(&mut self, extent: Extent, found: &[Found]) -> Result<(), OpenError> {
        self.extent = Some(extent);
        let last = found.last().map(|found| found.header.number);
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
            if len < extent.end {
                self.damage(extent.segment, len, format!("the file was cut off: frames once ended at {}", extent.end));
                self.frames_lost = true;
            }
        }
        Ok(())
    }

    /// Restores what all segments but the last hold: from footers where they are valid.
    fn restore_sealed(&mut self, sealed: &[Found], last: &Found) -> Result<(), OpenError> {
        let mut ends = Vec::with_capacity(sealed.len());
        for (found, next) in sealed.iter().zip(sealed.iter().skip(1).chain([last])) {
            ends.push(if next.header.number.0 == found.header.number.0 + 1 {
                End::Recorded(next.header.previous_end)
            } else {
                // Its successor, which records it, is missing.
                End::Searched(self.search_end(found)?)
            });
        }
        // Footers are needed back to one that lists all logs.
        let mut footers = Vec::new();
        for (found, end) in sealed.iter().zip(&ends).rev() {
            let path = segment::path(self.dir, found.header.number);
            let footer = read_footer(&*found.file, end.offset()).map_err(failed("reading", &path))?;
            let all_logs = footer.as_ref().is_some_and(|footer| footer.all_logs);
            footers.push(footer);
            if all_logs {
                break;
            }
        }
        let listed = footers.last().and_then(Option::as_ref).filter(|footer| footer.all_logs);
        let listed_at = listed.map(|_| sealed[sealed.len() - footers.len()].header.number);
        self.frames_lost |= self.lost.iter().any(|lost| listed_at.is_none_or(|listed| *lost > listed));
        footers.resize_with(sealed.len(), || None);
        footers.reverse();
        let all_logs_at = footers.iter().position(|footer| footer.as_ref().is_some_and(|footer| footer.all_logs));
        for (index, ((found, end), footer)) in sealed.iter().zip(ends).zip(footers).enumerate() {
            match footer {
                Some(footer) => {
                    footer.rows.into_iter().for_each(|(id, row)| self.view.restore_log(id, row));
                    self.push_sealed(found, end.offset());
                    self.view.bytes_since_all_logs += end.offset();
                }
                None if all_logs_at.is_some_and(|at| index < at) => self.push_sealed(found, end.offset()),
                None => self.scan_sealed(found, end, sealed.get(index + 1).unwrap_or(last))?,
            }
        }
        if let Some(at) = all_logs_at {
            self.view.bytes_since_all_logs = sealed[at + 1..].iter().map(|found| found.header.previous_end).sum();
        }
        self.view.next_arrival = last.header.first_arrival;
        Ok(())
    }

    fn push_sealed(&mut self, found: &Found, end: u64) {
        let SegmentHeader { number, first_arrival, .. } = found.header;
        self.view.sealed.push(SealedSegment { number, first_arrival, end, pinned: None });
    }

    /// Where the last valid frame of a segment ends, for want of a record.
    fn search_end(&self, found: &Found) -> Result<u64, OpenError> {
        let path = segment::path(self.dir, found.header.number);
        let search = || {
            let mut scanner = Scanner::new(Arc::clone(&found.file), found.header, None)?;
            loop {
                match scanner.next_frame()? {
                    FrameAt::Frame(_) => {}
                    FrameAt::Invalid(_) if scanner.resume()?.next.is_some() => {}
                    FrameAt::Invalid(_) | FrameAt::Nothing => return Ok(scanner.offset),
                }
            }
        };
        search().map_err(failed("reading", &path))
    }

    /// Reads a segment whose footer is missing, and which is followed by `next`.
    fn scan_sealed(&mut self, found: &Found, end: End, next: &Found) -> Result<(), OpenError> {
        let path = segment::path(self.dir, found.header.number);
        let mut scanner = Scanner::new(Arc::clone(&found.file), found.header, Some(end.offset()))
            .map_err(failed("reading", &path))?;
        if matches!(end, End::Recorded(_)) {
            scanner = scanner.before(&next.header);
        }
        self.begin_segment(found);
        let mut frontier = Frontier { scanner, unproven: None };
        let torn = self.scan(&mut frontier)?;
        if let Some((frame, offset)) = frontier.unproven.take() {
            self.view.apply(frame, offset);
        }
        let reached = frontier.scanner.offset;
        if torn || reached < end.offset() {
            let what = format!("frames are damaged or missing up to offset {}", end.offset());
            self.damage(found.header.number, reached, what);
            self.frames_lost = true;
        }
        if let Some(active) = &mut self.view.active {
            active.end = end.offset();
        }
        // What lies behind an end that was searched may be damaged frames: nothing is written over it.
        let next = SegmentNumber(found.header.number.0 + 1);
        if let Some(job) = end_active(&mut self.view, next).filter(|_| matches!(end, End::Recorded(_))) {
            self.seals.push(job);
        }
        Ok(())
    }

    /// Makes a segment the active one of the view; what was active is sealed and gets its footer.
    fn begin_segment(&mut self, found: &Found) {
        let segment = NewSegment { header: found.header, file: Arc::clone(&found.file) };
        if let Some(job) = begin_active(&mut self.view, segment) {
            self.seals.push(job);
        }
    }

    /// Reads frames up to the end, over damaged ones; whether bytes that are no frame stand at the end.
    ///
    /// The last valid frame is held back: nothing proves it yet.
    fn scan(&mut self, frontier: &mut Frontier) -> Result<bool, OpenError> {
        let number = frontier.scanner.header.number;
        let path = segment::path(self.dir, number);
        loop {
            let offset = frontier.scanner.offset;
            let (frame, offset) = match frontier.scanner.next_frame().map_err(failed("reading", &path))? {
                FrameAt::Frame(frame) => (frame, offset),
                FrameAt::Nothing => return Ok(false),
                FrameAt::Invalid(what) => {
                    let Resumed { salvaged, next } = frontier.scanner.resume().map_err(failed("reading", &path))?;
                    match (salvaged, &next) {
                        (Some(frame), _) => {
                            self.report_lost(&frame, Place { segment: number, offset }, what);
                            if let Some((proven, at)) = frontier.unproven.take() {
                                self.view.apply(proven, at);
                            }
                            self.view.apply(frame, offset);
                        }
                        (None, Some((_, resumed))) => {
                            let what = format!("{what}; commits up to offset {resumed} are not served");
                            self.damage(number, offset, what);
                            self.frames_lost = true;
                        }
                        (None, None) => return Ok(true),
                    }
                    match next {
                        Some(next) => next,
                        None => return Ok(false),
                    }
                }
            };
            if let Some((proven, at)) = frontier.unproven.replace((frame, offset)) {
                self.view.apply(proven, at);
            }
        }
    }

    /// Reports what is missing of a frame of which the rest is whole.
    fn report_lost(&mut self, frame: &Frame, place: Place, what: &str) {
        let damage = frame.damage(place, what);
        for damage in damage {
            tracing::warn!(dir = %self.dir.display(), %damage, "damage found while opening");
            self.recovery.findings.push(Finding::Damage(damage));
        }
        self.frames_lost |= frame.entries.iter().any(|entry| matches!(entry, FrameEntry::Lost(_)));
    }

    fn finish_empty(mut self) -> Result<Opened, OpenError> {
        self.frames_lost |= !self.lost.is_empty();
        if !self.options.read_only {
            // Making the store may have failed or been cut off before its folder's own entry was durable.
            self.sync_folders()?;
        }
        self.recovery.clean = self.recovery.findings.is_empty();
        self.renew_incarnation()?;
        let start = TailStart {
            next_commit: CommitNumber::ZERO,
            next_arrival: Arrival::ZERO,
            next_segment: self.next_segment,
            journal_bytes: 0,
            previous_end: 0,
            current: None,
        };
        let tail = (!self.options.read_only).then_some(start);
        Ok(self.opened(tail, None))
    }

    /// Makes the entries of the store's folder durable, and its own entry in the folder above.
    fn sync_folders(&self) -> Result<(), OpenError> {
        self.vfs.sync_dir(self.dir).map_err(failed("flushing", self.dir))?;
        let above = self
            .dir
            .parent()
            .map_or(self.dir, |above| if above.as_os_str().is_empty() { Path::new(".") } else { above });
        self.vfs.sync_dir(above).map_err(failed("flushing the folder above", self.dir))
    }

    /// Reads the last segment, whose frames once ended at `known_end` or later, and decides where writing goes on.
    fn finish(mut self, last: &Found, known_end: Option<u64>) -> Result<Opened, OpenError> {
        let path = segment::path(self.dir, last.header.number);
        if let Some((footer, mark, end)) = self.sealed_at_close(last).map_err(failed("reading", &path))? {
            return self.finish_sealed(last, footer, &mark, end);
        }
        let scanner = Scanner::new(Arc::clone(&last.file), last.header, None).map_err(failed("reading", &path))?;
        self.begin_segment(last);
        let mut frontier = Frontier { scanner, unproven: None };
        let torn = self.scan(&mut frontier)?;
        // A crash during the first write leaves one copy too, so it is damage only if that write is proven.
        if last.has_one_copy && frontier.scanner.next_commit.0 > last.header.first_commit.0 + 1 {
            self.damage(last.header.number, 0, "one of two copies of the segment's header is damaged");
        }
        let lost_end = known_end.filter(|end| frontier.scanner.offset < *end);
        if let Some(end) = lost_end {
            let what = format!("frames once ended at {end}: what is missing was cut off or overwritten");
            self.damage(last.header.number, frontier.scanner.offset, what);
            self.frames_lost = true;
        }
        let kind = frontier.unproven.as_ref().map(|(frame, _)| frame.header.kind);
        self.recovery.clean = !torn && lost_end.is_none() && kind == Some(FrameKind::ClosingMark);
        if last.has_one_copy || !self.recovery.clean {
            // What was written but never flushed may be seen now and lost later; or the flush failed, and
            // the kernel takes for clean what it lost. The frames before the last are proven, the last is copied.
            self.mend_header(last)?;
        }
        if torn {
            self.keep_torn_tail(&mut frontier)?;
        }
        if self.options.read_only {
            if kind == Some(FrameKind::Commit) && !writer_at_work(self.vfs, self.dir) {
                // No later frame will come to prove it, and it may have been acknowledged before a kill.
                // Who opens for writing writes it anew, and it is then met again: see `refresh`.
                if let Some((frame, offset)) = frontier.unproven.take() {
                    self.view.apply(frame, offset);
                    let place = Place { segment: last.header.number, offset };
                    self.recovery.findings.push(Finding::UnprovenLastFrame { place });
                }
            }
            return Ok(self.opened(None, Some(frontier)));
        }
        self.renew_incarnation()?;
        let tail = self.resume_writing(last, frontier, lost_end)?;
        Ok(self.opened(Some(tail), None))
    }

    /// The footer and the closing mark of a last segment that was sealed when the store was closed.
    fn sealed_at_close(&self, last: &Found) -> io::Result<Option<(Footer, FrameHeader, u64)>> {
        let Some(extent) = self.extent.filter(|extent| extent.segment == last.header.number) else { return Ok(None) };
        let Some(footer) = read_footer(&*last.file, extent.end)? else { return Ok(None) };
        let offset = extent.end.saturating_sub(FRAME_HEADER_LEN as u64);
        let bytes = Window::new(Arc::clone(&last.file)).slice(offset, FRAME_HEADER_LEN, 0)?;
        let mark = FrameHeader::decode(&bytes).filter(|mark| {
            mark.kind == FrameKind::ClosingMark && Frame::parse(*mark, bytes, &last.header.salt).is_ok()
        });
        Ok(mark.map(|mark| (footer, mark, extent.end)))
    }

    /// Nothing was written behind the footer: it would have been to a later segment.
    fn finish_sealed(
        mut self,
        last: &Found,
        footer: Footer,
        mark: &FrameHeader,
        end: u64,
    ) -> Result<Opened, OpenError> {
        let path = segment::path(self.dir, last.header.number);
        if last.has_one_copy {
            self.damage(last.header.number, 0, "one of two copies of the segment's header is damaged");
            self.mend_header(last)?;
        }
        self.view.bytes_since_all_logs = if footer.all_logs { 0 } else { self.view.bytes_since_all_logs + end };
        footer.rows.into_iter().for_each(|(id, row)| self.view.restore_log(id, row));
        self.push_sealed(last, end);
        self.view.next_arrival = mark.first_arrival;
        self.recovery.clean = true;
        let next_commit = CommitNumber(mark.commit.0 + 1);
        if self.options.read_only {
            let mut scanner =
                Scanner::new(Arc::clone(&last.file), last.header, Some(end)).map_err(failed("reading", &path))?;
            (scanner.offset, scanner.next_commit) = (end, next_commit);
            return Ok(self.opened(None, Some(Frontier { scanner, unproven: None })));
        }
        self.renew_incarnation()?;
        let start = TailStart {
            next_commit,
            next_arrival: mark.first_arrival,
            next_segment: self.next_segment,
            journal_bytes: self.view.sealed.iter().map(|segment| segment.end).sum(),
            previous_end: end,
            current: None,
        };
        Ok(self.opened(Some(start), None))
    }

    /// Where writing goes on: behind a closing mark, or in a new segment.
    ///
    /// If frames are missing before `lost_end`, the new segment's header records that they were there.
    fn resume_writing(
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
            previous_end: FRAMES_OFFSET,
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
    fn copy_unproven(&mut self, frame: &Frame, offset: u64) -> Result<(NewSegment, u64), OpenError> {
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
        let copy = FrameHeader::new(kind, commit, first_arrival, &frame.entries, &salt);
        let file = match self.vfs.open(&path, OpenMode::Create) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.vfs.open(&path, OpenMode::Write),
            opened => opened,
        };
        let file = file.map_err(failed("creating", &path))?;
        let encoded = copy.encode();
        let mut slices = vec![IoSlice::new(&encoded)];
        slices.extend(frame.entries.iter().map(FrameEntry::bytes).map(|bytes| IoSlice::new(bytes)));
        write_full(&*file, &mut slices, FRAMES_OFFSET).map_err(failed("writing", &path))?;
        file.sync_data().map_err(failed("flushing", &path))?;
        write_full(&*file, &mut [IoSlice::new(&header.encode_block())], 0).map_err(failed("writing", &path))?;
        file.sync_data().map_err(failed("flushing", &path))?;
        self.vfs.sync_dir(self.dir).map_err(failed("flushing", self.dir))?;
        Ok((NewSegment { header, file }, FRAMES_OFFSET + u64::from(copy.len)))
    }

    /// Copies the bytes that nothing proves to a file of their own.
    fn keep_torn_tail(&mut self, frontier: &mut Frontier) -> Result<(), OpenError> {
        let number = frontier.scanner.header.number;
        if self.options.read_only && writer_at_work(self.vfs, self.dir) {
            // What it is writing at this moment.
            return Ok(());
        }
        let path = segment::path(self.dir, number);
        let begin = frontier.scanner.offset;
        let end = frontier.scanner.last_byte_end().map_err(failed("reading", &path))?.unwrap_or(begin);
        let len = (end - begin).min(super::frame::MAX_FRAME_LEN as u64) as usize;
        let bytes = frontier.scanner.bytes(begin, len).map_err(failed("reading", &path))?;
        let next_commit = frontier.scanner.next_commit;
        let possibly_acknowledged = FrameHeader::resembles(&bytes, next_commit);
        let kept_in = if self.options.read_only { None } else { Some(self.write_torn_tail(number, begin, &bytes)?) };
        let place = Place { segment: number, offset: begin };
        let len_bytes = end - begin;
        self.recovery.findings.push(Finding::TornTail { place, len_bytes, kept_in, possibly_acknowledged });
        Ok(())
    }

    fn write_torn_tail(&self, number: SegmentNumber, offset: u64, bytes: &[u8]) -> Result<String, OpenError> {
        let name = format!("torn-{:016x}-{offset:016x}", number.0);
        let path = self.dir.join(&name);
        match self.vfs.open(&path, OpenMode::Create) {
            // A recovery before this one came as far as this; it was not finished.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => {
                let file = opened.map_err(failed("creating", &path))?;
                write_full(&*file, &mut [IoSlice::new(bytes)], 0).map_err(failed("writing", &path))?;
                file.sync_data().map_err(failed("flushing", &path))?;
                self.vfs.sync_dir(self.dir).map_err(failed("flushing", self.dir))?;
            }
        }
        let mut kept = self.vfs.list(self.dir).map_err(failed("listing", self.dir))?;
        kept.retain(|name| name.starts_with("torn-"));
        kept.sort_unstable();
        for old in &kept[..kept.len().saturating_sub(TORN_TAILS_KEPT)] {
            let path = self.dir.join(old);
            self.vfs.remove(&path).map_err(failed("removing", &path))?;
        }
        Ok(name)
    }

    /// Takes a new incarnation where own logs may go on elsewhere than here.
    fn renew_incarnation(&mut self) -> Result<(), OpenError> {
        let path = self.dir.join(IDENTITY_FILE);
        let file = self.identity_file.identity().map_err(failed("reading", &path))?;
        let why = if file != self.bound.file {
            "the store is a copy of another, or was restored from a backup"
        } else if self.frames_lost {
            "commits are damaged, and the newest records of this node's logs may be among them"
        } else {
            return Ok(());
        };
        if self.options.read_only {
            return Ok(());
        }
        self.bound.file = file;
        self.bound.identity.incarnation =
            Incarnation::random().map_err(failed("asking for random bytes for", &path))?;
        self.bound.write(&*self.identity_file).map_err(failed("writing", &path))?;
        self.recovery.findings.push(Finding::NewIncarnation { why });
        Ok(())
    }

    fn opened(self, tail: Option<TailStart>, frontier: Option<Frontier>) -> Opened {
        let Self { view, recovery, bound, seals, .. } = self;
        Opened { view, recovery, identity: bound.identity, seals, tail, frontier }
    }
}

/// Whether another has the store open for writing. The lock is taken for a moment to learn this, so
/// it is asked only where it decides what a tail of unproven bytes means.
pub(crate) fn writer_at_work(vfs: &dyn Vfs, dir: &Path) -> bool {
    matches!(vfs.lock(&dir.join(LOCK_FILE)), Ok(None))
}

fn numbers_of(names: &[String]) -> Vec<SegmentNumber> {
    let mut numbers: Vec<_> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    numbers
}

/// A store's identity file may have been copied while it was open to read only; its id stays.
pub(crate) fn store_id_of(vfs: &dyn Vfs, dir: &Path) -> Result<StoreId, OpenError> {
    match read_identity(vfs, dir, OpenMode::Read)?.1 {
        IdentityState::Whole(bound) | IdentityState::OneCopy(bound) => Ok(bound.identity.store),
        IdentityState::Unreadable => Err(OpenError::Identity { path: dir.join(IDENTITY_FILE) }),
        IdentityState::Format(found) => Err(OpenError::Format { path: dir.join(IDENTITY_FILE), found, known: 1 }),
    }
}

/// Takes notice of what a writer beside has made durable since `frontier`; whether there was anything.
pub(crate) fn refresh(shared: &Shared, frontier: &mut Option<Frontier>) -> Result<bool, OpenError> {
    if !shared.options.read_only {
        return Ok(false);
    }
    let arrivals = shared.view().next_arrival;
    let vfs = &*shared.options.vfs;
    loop {
        if let Some(frontier) = frontier.as_mut() {
            read_on(shared, frontier)?;
        }
        let next = match frontier.as_ref() {
            Some(frontier) => SegmentNumber(frontier.scanner.header.number.0 + 1),
            None => SegmentNumber::ZERO,
        };
        let path = segment::path(&shared.dir, next);
        let file = match vfs.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            opened => opened.map_err(failed("opening", &path))?,
        };
        let state = SegmentHeader::read(&*file, shared.identity.store, next).map_err(failed("reading", &path))?;
        let (HeaderState::Whole(header) | HeaderState::OneCopy(header)) = state else { break };
        if let Some(frontier) = frontier.as_mut() {
            // What was written between the look at the last segment and at this one; then all of it counts.
            read_on(shared, frontier)?;
            if let Some((frame, offset)) = frontier.unproven.take().filter(|(_, at)| *at < header.previous_end) {
                shared.view_mut().apply(frame, offset);
            }
        }
        let scanner = Scanner::new(Arc::clone(&file), header, None).map_err(failed("reading", &path))?;
        let mut view = shared.view_mut();
        if let Some(active) = &mut view.active {
            // An unproven frame that was served from here has been written anew to the next segment.
            active.index.cut(header.previous_end);
        }
        // The footer is the writer's to write.
        drop(begin_active(&mut view, NewSegment { header, file }));
        drop(view);
        *frontier = Some(Frontier { scanner, unproven: None });
    }
    let view = shared.view();
    let grown = view.next_arrival != arrivals;
    drop(view);
    if grown {
        shared.raise_all();
    }
    Ok(grown)
}

/// Reads the frames written since; the last one is held back until a later one proves it.
fn read_on(shared: &Shared, frontier: &mut Frontier) -> Result<(), OpenError> {
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
            shared.view_mut().apply(proven, at);
        }
    }
}
