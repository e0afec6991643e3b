//! Reading everything and checking every checksum and chain.

mod chain;

use std::{
    collections::{BTreeMap, HashSet},
    io,
    ops::Range,
    path::Path,
    sync::Arc,
};

use self::chain::LogCheck;
use super::{
    Options,
    error::{OpenError, Place},
    frame::{COMMIT_LEN_MIN, FRAME_HEADER_LEN, Frame, FrameEntry, FrameHeader, align},
    holes_file,
    identity::{Extent, IDENTITY_FILE, IdentityState},
    logs_file,
    read::read_footer,
    recovery::{missing_ranges, missing_text, read_identity, writer_at_work},
    report::{Damage, VerifyReport},
    scan::{FrameAt, Resumed, Scanner},
    segment::{self, HeaderState, SegmentHeader},
};
use crate::{
    batch::{BATCH_MAGIC, Batch, BatchHeader},
    ids::{CommitNumber, LogId, SegmentNumber, Seq, StoreId},
    vfs::{OpenMode, Vfs, VfsFile, read_full},
};

/// Reads the whole store in `dir` and checks every checksum and every chain. Never changes a byte.
///
/// May run beside a writer: what it is writing at that moment is not judged. `progress` is told
/// bytes read and bytes in all. Memory: the heads of all logs, and one frame at a time.
pub fn verify(dir: &Path, options: &Options, progress: impl FnMut(u64, u64)) -> Result<VerifyReport, OpenError> {
    let vfs = &*options.vfs;
    let mut report = VerifyReport::default();
    let (_, state) = read_identity(vfs, dir, OpenMode::Read)?;
    let path = dir.join(IDENTITY_FILE);
    let store = match state {
        IdentityState::Whole(bound) => bound.identity.store,
        IdentityState::OneCopy(bound) => {
            report.damage.push(Damage::of_identity("one of two copies is damaged"));
            bound.identity.store
        }
        IdentityState::Unreadable => return Err(OpenError::Identity { path }),
        IdentityState::Format(found) => return Err(OpenError::Format { path, found, known: 1 }),
    };
    let verification = Verification {
        dir,
        vfs,
        store,
        logs: BTreeMap::new(),
        first_segment: SegmentNumber::ZERO,
        last_segment: None,
        lost: HashSet::new(),
        unmended: BTreeMap::new(),
        mended: HashSet::new(),
        census: Census::default(),
        report,
        progress,
        bytes_total: 0,
    };
    verification.run()
}

/// Of fewer bytes than a commit takes.
const NO_RECORDS: &str = "marks are damaged or missing: they held no records";

struct Verification<'a, P> {
    dir: &'a Path,
    vfs: &'a dyn Vfs,
    store: StoreId,
    logs: BTreeMap<LogId, LogCheck>,
    /// Those before it have been freed.
    first_segment: SegmentNumber,
    /// The last one that has a header.
    last_segment: Option<SegmentNumber>,
    /// Logs with the ends of their batches that are lost.
    lost: HashSet<(LogId, Seq)>,
    /// Batches that are damaged where they stand, and of which no sound copy has been met behind that: which damages of
    /// the report tell of them.
    unmended: BTreeMap<(LogId, Seq), Vec<usize>>,
    /// Damages of the report of which nothing is missing.
    mended: HashSet<usize>,
    census: Census,
    report: VerifyReport,
    progress: P,
    bytes_total: u64,
}

/// Counts batches: of a commit that can't be read nothing else tells whether all that it held is stored elsewhere.
#[derive(Debug, Default)]
struct Census {
    /// The arrival number after the last one given.
    next_arrival: u64,
    /// Arrival numbers that a whole batch bears where it stands.
    borne: u64,
    /// Batches that are stored anew and were met nowhere before.
    filled: u64,
    /// Damages of the report that tell of such commits.
    commits: Vec<usize>,
}

impl Census {
    fn count(&mut self, frame: &Frame) {
        let is_borne = |entry: &&FrameEntry| entry.takes_arrival() && !matches!(entry, FrameEntry::Lost(_));
        self.borne += frame.entries.iter().filter(is_borne).count() as u64;
        self.next_arrival = self.next_arrival.max(frame.header.first_arrival.0 + frame.batch_count());
    }

    /// Whether there is a batch for each arrival number, where it stood or stored anew.
    fn is_complete(&self) -> bool {
        self.borne + self.filled == self.next_arrival
    }
}

/// A segment file with what its header says.
struct Segment {
    number: SegmentNumber,
    file: Arc<dyn VfsFile>,
    state: HeaderState,
}

impl<P: FnMut(u64, u64)> Verification<'_, P> {
    fn run(mut self) -> Result<VerifyReport, OpenError> {
        let disk = |error| OpenError::Disk { operation: "reading", path: self.dir.to_owned(), error };
        // Before the segments: a writer beside may go on to the next one meanwhile.
        let extent_state = Extent::read(self.vfs, self.dir).map_err(disk)?;
        let extent = extent_state.recorded();
        self.first_segment = extent_state.first_segment();
        let mut segments = self.segments().map_err(disk)?;
        // A writer beside may have freed some meanwhile.
        self.first_segment = Extent::read(self.vfs, self.dir).map_err(disk)?.first_segment().max(self.first_segment);
        segments.retain(|segment| segment.number >= self.first_segment);
        self.known_logs(extent.is_some()).map_err(disk)?;
        let used: Vec<_> = segments.iter().filter(|segment| header_of(segment.state).is_some()).collect();
        let last = used.last().map(|segment| segment.number);
        self.last_segment = last;
        let known_end = last.max(extent.map(|extent| extent.segment));
        let present: Vec<_> = segments.iter().map(|segment| segment.number).collect();
        let end = SegmentNumber(known_end.map_or(0, |end| end.0 + 1));
        for missing in missing_ranges(&present, self.first_segment..end) {
            self.damage(SegmentNumber(missing.start), 0, missing_text(&missing));
        }
        for segment in segments.iter().filter(|segment| known_end.is_some_and(|end| segment.number <= end)) {
            match segment.state {
                HeaderState::Whole(_) => {}
                HeaderState::OneCopy(_) => {
                    self.damage(segment.number, 0, "one of two copies of the segment's header is damaged");
                }
                HeaderState::Unused | HeaderState::Unreadable => {
                    self.damage(segment.number, 0, "both copies of the segment's header are damaged");
                }
            }
        }
        for (index, segment) in used.iter().enumerate() {
            let next = used.get(index + 1).and_then(|next| header_of(next.state));
            // Of one that is gone nothing tells where it ended.
            let next = next.filter(|next| next.number.0 == segment.number.0 + 1);
            let end = next.map(|next| next.previous_end);
            let known_end = extent.filter(|extent| extent.segment == segment.number).map(|extent| extent.end);
            // The last segment has a footer if the store was closed when it was large.
            let has_footer = |end: &u64| read_footer(&*segment.file, *end).is_ok_and(|footer| footer.is_some());
            let end = end.or(known_end.filter(has_footer));
            self.segment(segment, end, known_end, next).map_err(|error| OpenError::Disk {
                operation: "reading",
                path: segment::path(self.dir, segment.number),
                error,
            })?;
        }
        self.set_aside_mended();
        for (log, check) in std::mem::take(&mut self.logs) {
            self.report.records += check.records();
            self.report.damage.extend(check.finish(log, &self.lost));
        }
        let of_holes = holes_file::read(self.vfs, self.dir).map_err(disk)?.damage();
        // As when opening: not the number of segments.
        let is_used = self.report.commits + self.report.unfinished.len() as u64 > 1;
        // A writer beside may have made it since.
        let extent_state = Extent::read(self.vfs, self.dir).map_err(disk)?;
        let of_files = extent_state.damage(is_used).into_iter().chain(of_holes);
        self.report.damage.extend(of_files.map(Damage::of_store));
        Ok(self.report)
    }

    /// Takes in the logs that were announced in segments which have been freed. Without an extent nothing else tells
    /// whether there are such.
    fn known_logs(&mut self, has_extent: bool) -> io::Result<()> {
        let has_freed = self.first_segment > SegmentNumber::ZERO;
        if has_freed || !has_extent {
            let state = logs_file::read(self.vfs, self.dir)?;
            for genesis in state.known() {
                self.logs.entry(genesis.log_id()).or_default().announce(genesis.head());
            }
            self.report.damage.extend(state.damage(has_freed).map(Damage::of_store));
        }
        Ok(())
    }

    fn damage(&mut self, segment: SegmentNumber, offset: u64, what: impl Into<String>) {
        self.report.damage.push(Damage::new(Place { segment, offset }, what));
    }

    /// Takes down damage that is none any more once what it names is met elsewhere.
    fn damaged(&mut self, damage: Damage) {
        if let (Some(log), Some(first_seq)) = (damage.log, damage.first_seq) {
            self.unmended.entry((log, first_seq)).or_default().push(self.report.damage.len());
        }
        self.report.damage.push(damage);
    }

    /// A sound copy of a batch was met: it is the one that is served, and what stood before it is not missed.
    fn met_copy(&mut self, batch: &Batch) {
        let batches = (batch.log(), batch.first_seq())..(batch.log(), batch.next_seq());
        let here: Vec<_> = self.unmended.range(batches).map(|(place, _)| *place).collect();
        let damages = here.iter().filter_map(|place| self.unmended.remove(place)).flatten();
        self.mended.extend(damages);
    }

    /// Tells apart the damage of which nothing is missing: a copy was met, or the batch lies below its log's floor.
    fn set_aside_mended(&mut self) {
        // What was given back takes batches along that were stored anew for others.
        if self.first_segment == SegmentNumber::ZERO && self.census.is_complete() {
            self.mended.extend(std::mem::take(&mut self.census.commits));
        }
        for ((log, _), damages) in std::mem::take(&mut self.unmended) {
            let floor = self.logs.get(&log).map_or(Seq::ZERO, LogCheck::floor);
            let is_below = |index: &usize| self.report.damage[*index].last_seq.is_some_and(|last_seq| last_seq < floor);
            self.mended.extend(damages.into_iter().filter(is_below));
        }
        let all = std::mem::take(&mut self.report.damage).into_iter().enumerate();
        let (mended, damage): (Vec<_>, Vec<_>) = all.partition(|(index, _)| self.mended.contains(index));
        self.report.damage = damage.into_iter().map(|(_, damage)| damage).collect();
        self.report.mended.extend(mended.into_iter().map(|(_, damage)| damage));
    }

    fn segments(&mut self) -> io::Result<Vec<Segment>> {
        let names = self.vfs.list(self.dir)?;
        let numbers = names.iter().filter_map(|name| segment::number_of(name));
        let mut numbers: Vec<_> = numbers.filter(|number| *number >= self.first_segment).collect();
        numbers.sort_unstable();
        let mut segments = Vec::new();
        for number in numbers {
            let file = match self.vfs.open(&segment::path(self.dir, number), OpenMode::Read) {
                // Freed a moment ago, or missing: that is seen by its number.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            self.bytes_total += file.len()?;
            let state = SegmentHeader::read(&*file, self.store, number)?;
            segments.push(Segment { number, file, state });
        }
        Ok(segments)
    }

    /// Reads one segment; `end` is where its frames end, if a later segment says so; they are known to
    /// have ended at `known_end` or later. `behind` is the segment right after it.
    fn segment(
        &mut self,
        segment: &Segment,
        end: Option<u64>,
        known_end: Option<u64>,
        behind: Option<SegmentHeader>,
    ) -> io::Result<()> {
        let Some(header) = header_of(segment.state) else { return Ok(()) };
        let number = segment.number;
        let bytes_before = self.report.bytes;
        let scanner = Scanner::new(Arc::clone(&segment.file), header, end)?.reaching(known_end);
        let mut scanner = scanner.at_rest(!writer_at_work(self.vfs, self.dir));
        if let Some(behind) = &behind {
            scanner = scanner.before(behind);
        }
        // What stands behind the last frame, if that is no frame.
        let mut torn_at = None;
        while torn_at.is_none() {
            let (offset, next_arrival) = (scanner.offset, scanner.next_arrival);
            let what = match scanner.next_frame()? {
                FrameAt::Frame(frame) => {
                    self.frame(number, offset, &frame);
                    self.report.bytes = bytes_before + scanner.offset;
                    (self.progress)(self.report.bytes, self.bytes_total);
                    continue;
                }
                FrameAt::Nothing => break,
                FrameAt::Invalid(what) => what,
            };
            let Resumed { salvaged, next } = scanner.resume()?;
            match (&salvaged, &next) {
                (Some(frame), _) => self.salvaged(Place { segment: number, offset }, what, frame, behind.is_some()),
                (None, Some((frame, resumed))) => {
                    let batches = frame.header.first_arrival.0.checked_sub(next_arrival.0);
                    self.bad_frame(number, offset..*resumed, what, batches, &*segment.file)?;
                }
                (None, None) if end.is_none() && read_footer(&*segment.file, offset)?.is_some() => break,
                // What a writer beside is writing at this moment.
                (None, None) if end.is_none() && writer_at_work(self.vfs, self.dir) => break,
                (None, None) => {
                    let reached = end.unwrap_or(scanner.limit);
                    let what = format!("{what}: an unfinished commit, or damage to the last one");
                    if end.is_none() && self.is_unfinished(number, offset, known_end) {
                        self.report.unfinished.push(Damage::new(Place { segment: number, offset }, what));
                    } else if behind.is_none() || !self.are_marks(Place { segment: number, offset }, reached) {
                        let batches = behind.and_then(|it| it.first_arrival.0.checked_sub(next_arrival.0));
                        self.bad_frame(number, offset..reached, &what, batches, &*segment.file)?;
                    }
                    scanner.offset = reached;
                    torn_at = Some(offset);
                }
            }
            if let Some((frame, resumed)) = next {
                self.frame(number, resumed, &frame);
            }
        }
        if let Some(end) = end {
            let place = Place { segment: number, offset: scanner.offset };
            if align(place.offset) < align(end) && (behind.is_none() || !self.are_marks(place, align(end))) {
                self.damage(number, place.offset, format!("frames are missing up to offset {end}"));
            }
            self.footer(number, &*segment.file, end, scanner.next_commit)?;
        } else if let Some(known_end) = known_end {
            let offset = torn_at.unwrap_or(scanner.offset);
            if offset < known_end {
                let what = format!("frames once ended at {known_end}: what is missing was cut off or overwritten");
                self.damage(number, offset, what);
            }
        }
        self.report.segments += 1;
        self.report.bytes = bytes_before + segment.file.len()?;
        (self.progress)(self.report.bytes, self.bytes_total);
        Ok(())
    }

    /// Tells of a damaged frame of which something is whole. A mark is needed until a segment is begun behind it.
    fn salvaged(&mut self, place: Place, what: &str, frame: &Frame, is_sealed: bool) {
        if frame.entries.is_empty() && is_sealed {
            self.report.mended.push(Damage::new(place, NO_RECORDS));
        } else {
            frame.damage(place, what).into_iter().for_each(|damage| self.damaged(damage));
        }
        self.frame(place.segment, place.offset, frame);
    }

    /// Whether nothing but marks can have stood from `place` up to `end`, in a segment that another one follows: then nothing
    /// is missing, and that is said.
    fn are_marks(&mut self, place: Place, end: u64) -> bool {
        let are_marks = end.saturating_sub(place.offset) < COMMIT_LEN_MIN as u64;
        if are_marks {
            self.report.mended.push(Damage::new(place, NO_RECORDS));
        }
        are_marks
    }

    /// Whether bytes that are no frame, at the end of a segment, may be those of a commit that was never finished.
    fn is_unfinished(&self, number: SegmentNumber, offset: u64, known_end: Option<u64>) -> bool {
        self.last_segment == Some(number) && known_end.is_none_or(|known_end| known_end <= offset)
    }

    /// Tells of a footer that is damaged. The frame of `next_commit` is none: it was copied to the next segment, or was never
    /// finished and is kept aside, and its bytes stand there until the footer is written.
    fn footer(
        &mut self,
        number: SegmentNumber,
        file: &dyn VfsFile,
        end: u64,
        next_commit: CommitNumber,
    ) -> io::Result<()> {
        let mut start = [0; FRAME_HEADER_LEN];
        let count = read_full(file, &mut start, align(end))?;
        let is_left_over = FrameHeader::resembles(&start[..count], next_commit);
        if !is_left_over && read_footer(file, end)?.is_none() && !writer_at_work(self.vfs, self.dir) {
            self.damage(number, align(end), "the segment's footer is damaged; it is rebuilt when the store is opened");
        }
        Ok(())
    }

    fn frame(&mut self, number: SegmentNumber, offset: u64, frame: &Frame) {
        self.report.commits += 1;
        self.census.count(frame);
        let mut offset = offset + frame.header.entries_offset() as u64;
        for entry in &frame.entries {
            match entry {
                FrameEntry::Announcement(announcement) => {
                    let genesis = &announcement.genesis;
                    self.logs.entry(genesis.log_id()).or_default().announce(genesis.head());
                }
                FrameEntry::Batch(batch) => {
                    // One that was at the end of its log when it was lost, and that its writer has sent again.
                    if self.batch(number, offset, batch) {
                        self.met_copy(batch);
                    }
                }
                FrameEntry::Rewritten(rewritten) => {
                    let (log, first_seq) = (rewritten.batch().log(), rewritten.batch().first_seq());
                    let is_new = self.logs.get(&log).is_none_or(|check| !check.holds(first_seq));
                    self.census.filled += u64::from(is_new);
                    if self.batch(number, offset, rewritten.batch()) {
                        self.met_copy(rewritten.batch());
                    }
                }
                FrameEntry::Floor(entry) => self.logs.entry(entry.log).or_default().trim(entry.floor.head),
                FrameEntry::Lost(lost) => {
                    // That what follows does not continue the log here is no further damage.
                    self.lost.extend(lost.header().map(|header| (header.log, header.next_seq())));
                }
            }
            offset += entry.bytes().len() as u64;
        }
    }

    /// Takes in a batch whose checksum matches; whether it is sound otherwise, too.
    fn batch(&mut self, segment: SegmentNumber, offset: u64, batch: &Batch) -> bool {
        self.report.batches += 1;
        let place = Place { segment, offset };
        let (log, first, next) = (batch.log(), batch.first_seq(), batch.next_seq());
        let misplaced = self.logs.entry(log).or_default().add(batch, place).map(str::to_owned);
        let wrong = misplaced.or_else(|| batch.check_records().err().map(|error| error.to_string()));
        let is_sound = wrong.is_none();
        let damage = wrong.map(|what| Damage::of_records(place, log, first, next, what));
        self.report.damage.extend(damage);
        is_sound
    }

    /// A bad frame, which held so many batches: names those in it whose own checksums tell which is damaged, where they can
    /// be told; of others nothing tells here whether they are served.
    fn bad_frame(
        &mut self,
        segment: SegmentNumber,
        place: Range<u64>,
        what: &str,
        batches: Option<u64>,
        file: &dyn VfsFile,
    ) -> io::Result<()> {
        let before = self.report.damage.len();
        let len = (place.end.saturating_sub(place.start)).min(super::frame::MAX_FRAME_LEN as u64) as usize;
        let mut bytes = vec![0; len];
        let count = read_full(file, &mut bytes, place.start)?;
        let bytes = bytes::Bytes::from(bytes).slice(..count);
        let begins = |at: &usize| bytes[*at..].starts_with(&BATCH_MAGIC);
        let mut at = (FRAME_HEADER_LEN.min(count)..count).find(begins).unwrap_or(count);
        while let Ok(header) = BatchHeader::decode(&bytes[at..]) {
            let stop = at.saturating_add(header.batch_len());
            if stop > count {
                break;
            }
            if let Err(error) = Batch::parse(bytes.slice(at..stop)) {
                let place = Place { segment, offset: place.start + at as u64 };
                let (first, next) = (header.first_seq, header.next_seq());
                self.damaged(Damage::of_records(place, header.log, first, next, error.to_string()));
            }
            at = stop;
        }
        let named = (self.report.damage.len() - before) as u64;
        if named == 0 || batches.is_some_and(|batches| named < batches) {
            self.census.commits.extend(batches.filter(|batches| *batches > 0).map(|_| self.report.damage.len()));
            self.damage(segment, place.start, format!("{what} (up to offset {})", place.end));
        }
        Ok(())
    }
}

fn header_of(state: HeaderState) -> Option<SegmentHeader> {
    match state {
        HeaderState::Whole(header) | HeaderState::OneCopy(header) => Some(header),
        HeaderState::Unused | HeaderState::Unreadable => None,
    }
}
