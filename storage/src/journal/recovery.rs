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
//! | bytes, and a valid frame behind them, or the extent says that frames were durable there | | damage: what is whole of the frame is taken (see the module `salvage`), the scan goes on behind it; then as above |
//! | bytes, and none behind | | torn tail: kept aside, reported; then as for zeros |
//!
//! Zeros are 64 KiB of them, or all there is: fewer before other bytes are damage, or a torn tail, like any bytes.
//!
//! Segments before the first one that the extent file says is kept have been freed: what is left of their files is removed.
//! Where no footer that lists all logs is left, those announced in them are known from the file `logs`; if that can't be
//! read, damage.
//!
//! An extent file that is damaged, or missing where there is more than a first frame: damage, and written anew; where own
//! logs end is not proven then. Files shorter than
//! the extent file records, or frames that end before: damage; writing goes on in a
//! new segment, whose header records where the frames once ended. Damage to frames read here, a lost extent, or an identity
//! file that is not the one it was bound to: a new incarnation, since own logs may go on elsewhere.
//! A crash during any of this leaves the same table to be applied again: the copy of an unproven
//! frame is flushed before the header that makes it count is written.

mod refresh;
mod resume;
mod sealed;
mod segments;

use std::{io, path::Path, sync::Arc};

pub(crate) use refresh::refresh;
pub(crate) use segments::{missing_ranges, missing_text};

use super::{
    LOCK_FILE, Options,
    commit::begin_active,
    error::{OpenError, Place},
    fill::SealJob,
    frame::{FRAME_HEADER_LEN, Frame, FrameEntry, FrameHeader, FrameKind},
    holes_file::{self, HolesState, RecordedHoles},
    identity::{BoundIdentity, Extent, ExtentState, IDENTITY_FILE, Identity, IdentityState, Raising},
    index::Footer,
    read::read_footer,
    report::{Damage, Finding, Recovery},
    scan::{FrameAt, Resumed, Scanner},
    segment::{self, FRAMES_OFFSET, SegmentHeader, Window},
    tail::{NewSegment, TailStart},
    view::View,
};
use crate::{
    ids::{Arrival, CommitNumber, SegmentNumber, StoreId},
    vfs::{OpenMode, Vfs, VfsFile},
};

/// How often the segments are looked for anew while a writer beside frees some.
const LOOKS_MAX: u32 = 100;

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
    /// Segments or frames are missing: what they held of each log is to be looked for.
    pub(crate) has_gaps: bool,
    /// What the file of holes says; none if it can't be read.
    pub(crate) recorded_holes: Option<RecordedHoles>,
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

/// Begins an opening with what there is. A writer beside may free segments meanwhile: then it is looked for again.
fn look_around<'a>(dir: &'a Path, options: &'a Options) -> Result<(Opening<'a>, ExtentState, Vec<Found>), OpenError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut opening = Opening::begin(dir, options)?;
        // Before the segments are looked for: a writer beside may go on to the next one meanwhile.
        let extent_state = Extent::read(opening.vfs, dir).map_err(failed("reading the extent in", dir))?;
        opening.view.first_segment = extent_state.first_segment();
        let found = opening.find_segments();
        if !options.read_only || attempts > LOOKS_MAX {
            return Ok((opening, extent_state, found?));
        }
        let now = Extent::read(opening.vfs, dir).map_err(failed("reading the extent in", dir))?;
        let is_gone = |error: &OpenError| matches!(error, OpenError::Disk { error, .. } if error.kind() == io::ErrorKind::NotFound);
        if now.first_segment() == extent_state.first_segment() && !found.as_ref().is_err_and(is_gone) {
            return Ok((opening, extent_state, found?));
        }
    }
}

/// Applies the decision table.
pub(crate) fn open(dir: &Path, options: &Options) -> Result<Opened, OpenError> {
    let (mut opening, extent_state, found) = look_around(dir, options)?;
    let extent = extent_state.recorded();
    if let Some(extent) = extent {
        opening.check_extent(extent, &found)?;
    }
    let mut opened = opening.restore(&found, extent)?;
    opened.restore_holes(dir, options)?;
    Ok(opened)
}

impl Opened {
    /// Takes in what an earlier life of the store knew to be missing.
    fn restore_holes(&mut self, dir: &Path, options: &Options) -> Result<(), OpenError> {
        let state = holes_file::read(&*options.vfs, dir).map_err(failed("reading the file of holes in", dir))?;
        if let Some(what) = state.damage() {
            let damage = Damage::of_store(what);
            tracing::warn!(dir = %dir.display(), %damage, "damage found while opening");
            self.recovery.findings.push(Finding::Damage(damage));
        }
        self.recorded_holes = match state {
            HolesState::Missing => Some(Vec::new()),
            HolesState::Known(holes) => Some(holes),
            HolesState::Damaged => None,
        };
        self.recorded_holes.iter().flatten().for_each(|(log, holes)| self.view.restore_holes(*log, holes));
        Ok(())
    }
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
    /// Segments whose frames are missing; of several in a row the last.
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

    /// Makes of the segments found what they hold.
    fn restore(mut self, found: &[Found], extent: Option<Extent>) -> Result<Opened, OpenError> {
        let Some((last, sealed)) = found.split_last() else { return self.finish_empty() };
        for half in sealed.iter().filter(|found| found.has_one_copy) {
            self.damage(half.header.number, 0, "one of two copies of the segment's header is damaged");
            self.mend_header(half)?;
        }
        self.restore_sealed(sealed, last)?;
        let known_end = extent.filter(|extent| extent.segment == last.header.number).map(|extent| extent.end);
        self.finish(last, known_end)
    }

    fn damage(&mut self, segment: SegmentNumber, offset: u64, what: impl Into<String>) {
        let damage = Damage::new(Place { segment, offset }, what);
        tracing::warn!(dir = %self.dir.display(), %damage, "damage found while opening");
        self.recovery.findings.push(Finding::Damage(damage));
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
                    let Some(next) = next else { continue };
                    next
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

    /// Without the record of how far the journal reached, where own logs end is not proven: what is found may be all that
    /// there was, or what damage left of it.
    fn judge_extent(&mut self, is_used: bool, has_torn_tail: bool) -> Result<(), OpenError> {
        if self.extent.is_some() {
            return Ok(());
        }
        // A writer beside may have made it since it was looked for.
        let state = Extent::read(self.vfs, self.dir).map_err(failed("reading the extent in", self.dir))?;
        if let Some(what) = state.damage(is_used) {
            let damage = Damage::of_store(what);
            tracing::warn!(dir = %self.dir.display(), %damage, "damage found while opening");
            self.recovery.findings.push(Finding::Damage(damage));
            self.frames_lost = true;
        }
        // Most likely the first commit was never finished. Then this costs nothing: there are no logs yet.
        self.frames_lost |= has_torn_tail && state.recorded().is_none();
        Ok(())
    }

    fn finish_empty(mut self) -> Result<Opened, OpenError> {
        self.frames_lost |= !self.lost.is_empty();
        let has_torn_tail = self.recovery.findings.iter().any(|finding| matches!(finding, Finding::TornTail { .. }));
        self.judge_extent(false, has_torn_tail)?;
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
        let scanner = scanner.reaching(known_end).at_rest(!self.options.read_only);
        self.begin_segment(last);
        let mut frontier = Frontier { scanner, unproven: None };
        let torn = self.scan(&mut frontier)?;
        let frames = frontier.scanner.next_commit.0 + u64::from(torn);
        // Not the number of segments: the only frame may have been copied to another one.
        self.judge_extent(frames > 1, torn)?;
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
        // Its last frame is damaged, and that there were none behind is not proven.
        self.frames_lost |= frontier.unproven.is_none() && frontier.scanner.offset > FRAMES_OFFSET;
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
        if self.extent.is_none() {
            // Before there can be another segment: from then on a store without this record has lost it.
            let end = frontier.unproven.as_ref().map_or(frontier.scanner.offset, |(_, offset)| *offset);
            let extent = Extent { segment: last.header.number, end };
            let recorded = extent.raise(&Raising::default(), self.vfs, self.dir);
            recorded.map_err(failed("recording the extent in", self.dir))?;
        }
        let tail = self.resume_writing(last, frontier, lost_end)?;
        Ok(self.opened(Some(tail), None))
    }

    /// The footer and the closing mark of a last segment that was sealed when the store was closed.
    fn sealed_at_close(&self, last: &Found) -> io::Result<Option<(Footer, FrameHeader, u64)>> {
        let Some(extent) = self.extent.filter(|extent| extent.segment == last.header.number) else { return Ok(None) };
        let Some(footer) = read_footer(&*last.file, extent.end)? else { return Ok(None) };
        let offset = extent.end.saturating_sub(FRAME_HEADER_LEN as u64);
        let bytes = Window::new(Arc::clone(&last.file)).slice(offset, FRAME_HEADER_LEN, 0)?;
        let mark = FrameHeader::decode(&bytes, &last.header.salt).filter(|mark| {
            mark.kind == FrameKind::ClosingMark && Frame::parse(*mark, &bytes, &last.header.salt).is_ok()
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
        self.view.restore(last.header.number, footer);
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
            self.options.lives.next().map_err(failed("asking for random bytes for", &path))?;
        self.bound.write(&*self.identity_file).map_err(failed("writing", &path))?;
        self.recovery.findings.push(Finding::NewIncarnation { why });
        Ok(())
    }

    fn opened(self, tail: Option<TailStart>, frontier: Option<Frontier>) -> Opened {
        let Self { view, recovery, bound, seals, lost, frames_lost, .. } = self;
        let has_gaps = frames_lost || !lost.is_empty();
        let identity = bound.identity;
        Opened { view, recovery, identity, seals, tail, frontier, has_gaps, recorded_holes: None }
    }
}

/// Whether another has the store open for writing. To learn this may be in the way of who opens it, so it is asked only
/// where it decides what a tail of unproven bytes means.
pub(crate) fn writer_at_work(vfs: &dyn Vfs, dir: &Path) -> bool {
    vfs.is_locked(&dir.join(LOCK_FILE)).unwrap_or(false)
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
