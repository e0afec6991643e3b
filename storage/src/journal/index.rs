//! The index of one segment: where each batch is, by log and by arrival; and its form on disk, the footer.
//!
//! A *run* is the batches of one log in one segment. Runs of a log are linked backwards: each knows
//! the run before it and a *path* of earlier runs whose depths clear one low bit after the other
//! (depth 13 = 1101₂ → 12 → 8 → 0), so that a record is found in logarithmically many steps
//! however many segments there are, without any index that grows with the store.
//!
//! # Bytes of a footer
//!
//! Little-endian, at the first multiple of 8 after the last frame of a sealed segment:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic and version, `CFI1` |
//! | 4 | flags: bit 0, the rows are all logs of the store (else those of this segment) |
//! | 8 | length of the footer |
//! | 4 | number of rows |
//! | 4 | number of entries |
//! | 4 | number of rewritten batches |
//! | 4 | CRC-32 of the footer with these four bytes zero |
//!
//! Then the rows, ascending by log id: length of the genesis (4), genesis, next sequence number (8),
//! digest (32), time of the last record (8), bytes in the store (8), number of entries here (4),
//! segment of the run before + 1 or 0 (8), nodes of the path (4), each: depth (4), segment (8),
//! first sequence number (8); number of ranges rewritten (4), each: first sequence number (8), first one behind it (8),
//! segment (8); where what is kept begins: first sequence number (8), digest that it follows (32), bytes below it (8), the
//! segment whose frames say so last (8); the segment that it is announced in (8). Only a footer of all logs has ranges: one of some logs is preceded by one that has.
//! Then the entries in order of arrival, each: row (4), number of
//! records (4), first sequence number (8), arrival number (8), offset (8), length (4). Then the rewritten batches (see the
//! module `rewrite`), ascending by log and sequence number, likewise.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{
    floor::Floor,
    frame::{Frame, FrameEntry},
    rewrite::{REWRITTEN_HEADER_LEN, RewriteRange, Rewrites},
};
use crate::{
    batch::{BatchHeader, HEADER_LEN, MAX_BATCH_LEN},
    field::Fields,
    genesis::{Genesis, MAX_GENESIS_LEN},
    ids::{Arrival, Digest, Head, LogId, SegmentNumber, Seq},
    time::Hlc,
};

const MAGIC: [u8; 4] = *b"CFI1";
const FOOTER_HEADER_LEN: usize = 32;
const CRC_OFFSET: usize = 28;
const ENTRY_LEN: usize = 36;
const FLAG_ALL_LOGS: u32 = 1;

/// About the memory that the index of one rewritten batch takes, in bytes.
const REWRITTEN_BYTES: usize = 2 * (size_of::<Entry>() + 2 * (size_of::<LogId>() + size_of::<Seq>()));

/// Positions and sums at or above this, an exabyte, are taken for damage, so that adding to one can't overflow.
pub(crate) const POSITION_MAX: u64 = 1 << 60;

/// The longest footer, in bytes: bounds what is read before the checksum is known to match.
pub(crate) const MAX_FOOTER_LEN: usize = 256 << 20;

/// Where one batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Index of its run; of a rewritten batch, which is in none, 0.
    run: u32,
    pub(crate) record_count: u32,
    pub(crate) first_seq: Seq,
    pub(crate) arrival: Arrival,
    /// Bytes from the start of the segment.
    pub(crate) offset: u64,
    /// Length of the batch, in bytes.
    pub(crate) len: u32,
}

impl Entry {
    pub(crate) fn next_seq(&self) -> Seq {
        Seq(self.first_seq.0 + u64::from(self.record_count))
    }
}

/// A run on the path of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathNode {
    /// How many runs of the log came before.
    pub(crate) depth: u32,
    pub(crate) segment: SegmentNumber,
    pub(crate) first_seq: Seq,
}

/// Where a run stands among the runs of its log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RunLinks {
    /// The run itself first, then ever earlier ones. Empty: the log has no run yet.
    pub(crate) path: Arc<[PathNode]>,
    /// The segment of the run right before.
    pub(crate) previous: Option<SegmentNumber>,
}

impl RunLinks {
    /// The links of the run that begins in `segment` with `first_seq`, after this one.
    pub(crate) fn next(&self, segment: SegmentNumber, first_seq: Seq) -> Self {
        let Some(last) = self.path.first() else {
            return Self { path: [PathNode { depth: 0, segment, first_seq }].into(), previous: None };
        };
        let depth = last.depth + 1;
        let jump = depth & (depth - 1);
        let earlier = self.path.iter().skip_while(|node| node.depth > jump).copied();
        let path = std::iter::once(PathNode { depth, segment, first_seq }).chain(earlier).collect();
        Self { path, previous: Some(last.segment) }
    }
}

/// The batches of one log in one segment.
#[derive(Debug, Clone)]
struct Run {
    log: LogId,
    links: RunLinks,
    /// Indices of entries, ascending by sequence number.
    entries: Vec<u32>,
}

/// What the index says of a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The batch that holds it.
    Found(Entry),
    /// Not in this segment's run, which goes on at this sequence number after it, if at all.
    Missing { resumes_at: Option<Seq> },
}

/// The index of one segment.
#[derive(Debug, Clone, Default)]
pub(crate) struct SegmentIndex {
    entries: Vec<Entry>,
    runs: Vec<Run>,
    by_log: HashMap<LogId, u32, RandomState>,
    /// By where they belong. Of one that was rewritten here twice, the later.
    rewritten: BTreeMap<(LogId, Seq), Entry>,
    /// The same by arrival.
    rewritten_by_arrival: BTreeMap<Arrival, (LogId, Seq)>,
}

impl SegmentIndex {
    /// The links of a log's run here, if it has one.
    pub(crate) fn links(&self, log: LogId) -> Option<&RunLinks> {
        self.by_log.get(&log).map(|&run| &self.runs[run as usize].links)
    }

    /// Begins a log's run; its number.
    pub(crate) fn begin_run(&mut self, log: LogId, links: RunLinks) -> u32 {
        let run = self.runs.len() as u32;
        let known = self.by_log.insert(log, run);
        debug_assert!(known.is_none(), "one run of a log in a segment");
        self.runs.push(Run { log, links, entries: Vec::new() });
        run
    }

    /// Adds a batch to a run; batches come in order of arrival.
    pub(crate) fn push(
        &mut self,
        run: u32,
        first_seq: Seq,
        record_count: u32,
        arrival: Arrival,
        offset: u64,
        len: u32,
    ) {
        self.runs[run as usize].entries.push(self.entries.len() as u32);
        self.entries.push(Entry { run, record_count, first_seq, arrival, offset, len });
    }

    /// Adds the batches of a frame that lies at `offset`.
    pub(crate) fn add_frame(&mut self, frame: &Frame, offset: u64) {
        let mut arrival = frame.header.first_arrival;
        let mut offset = offset + frame.header.entries_offset() as u64;
        for entry in &frame.entries {
            let len = entry.bytes().len() as u32;
            match entry {
                FrameEntry::Batch(batch) => {
                    let header = batch.header();
                    let run = self.run_of(header.log);
                    self.push(run, header.first_seq, header.record_count, arrival, offset, len);
                }
                FrameEntry::Rewritten(rewritten) => {
                    let arrival = rewritten.kept_arrival().unwrap_or(arrival);
                    self.push_rewritten(rewritten.batch().header(), arrival, offset);
                }
                FrameEntry::Announcement(_) | FrameEntry::Floor(_) | FrameEntry::Lost(_) => {}
            }
            arrival.0 += u64::from(entry.takes_arrival());
            offset += u64::from(len);
        }
    }

    /// Adds a rewritten batch whose entry lies at `offset`.
    pub(crate) fn push_rewritten(&mut self, header: &BatchHeader, arrival: Arrival, offset: u64) {
        let BatchHeader { log, first_seq, record_count, .. } = *header;
        let (offset, len) = (offset + REWRITTEN_HEADER_LEN as u64, header.batch_len() as u32);
        self.insert_rewritten(log, Entry { run: 0, record_count, first_seq, arrival, offset, len });
    }

    fn insert_rewritten(&mut self, log: LogId, entry: Entry) {
        let place = (log, entry.first_seq);
        if let Some(earlier) = self.rewritten.insert(place, entry) {
            self.rewritten_by_arrival.remove(&earlier.arrival);
        }
        self.rewritten_by_arrival.insert(entry.arrival, place);
    }

    /// Up to `limit` rewritten batches of `log` from the one that holds `seq`.
    pub(crate) fn rewritten_from(&self, log: LogId, seq: Seq, limit: usize) -> Vec<Entry> {
        let holds = |(_, entry): &(&(LogId, Seq), &Entry)| entry.next_seq() > seq;
        let before = self.rewritten.range((log, Seq::ZERO)..=(log, seq)).next_back().filter(holds);
        let behind = (Bound::Excluded((log, seq)), Bound::Included((log, Seq(u64::MAX))));
        before.into_iter().chain(self.rewritten.range(behind)).take(limit).map(|(_, entry)| *entry).collect()
    }

    /// Up to `limit` rewritten batches with their logs, from `arrival` on.
    pub(crate) fn rewritten_arrivals_from(&self, arrival: Arrival, limit: usize) -> Vec<(LogId, Entry)> {
        let places = self.rewritten_by_arrival.range(arrival..).take(limit);
        places.filter_map(|(_, place)| Some((place.0, *self.rewritten.get(place)?))).collect()
    }

    /// The batches in runs with their logs, by arrival.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (LogId, Entry)> {
        self.entries.iter().map(|entry| (self.runs[entry.run as usize].log, *entry))
    }

    /// The rewritten batches with their logs, by where they belong.
    pub(crate) fn rewritten(&self) -> impl Iterator<Item = (LogId, &Entry)> {
        self.rewritten.iter().map(|((log, _), entry)| (*log, entry))
    }

    /// The first and the last arrival number of the rewritten batches; none if there are none.
    pub(crate) fn rewritten_arrivals(&self) -> Option<(Arrival, Arrival)> {
        let (first, _) = self.rewritten_by_arrival.first_key_value()?;
        let (last, _) = self.rewritten_by_arrival.last_key_value()?;
        Some((*first, *last))
    }

    /// The run of a log; one without links is begun if there is none.
    fn run_of(&mut self, log: LogId) -> u32 {
        match self.by_log.get(&log) {
            Some(run) => *run,
            None => self.begin_run(log, RunLinks::default()),
        }
    }

    /// Forgets the batches that lie at `end` or behind.
    pub(crate) fn cut(&mut self, end: u64) {
        let kept = self.entries.partition_point(|entry| entry.offset < end);
        self.entries.truncate(kept);
        for run in &mut self.runs {
            run.entries.retain(|entry| (*entry as usize) < kept);
        }
        self.rewritten.retain(|_, entry| entry.offset < end);
        let rewritten = &self.rewritten;
        self.rewritten_by_arrival.retain(|_, place| rewritten.contains_key(place));
    }

    /// The batch of `log` that holds `seq`.
    pub(crate) fn find(&self, log: LogId, seq: Seq) -> Lookup {
        let Some(&run) = self.by_log.get(&log) else { return Lookup::Missing { resumes_at: None } };
        let entries = &self.runs[run as usize].entries;
        let after = self.entries_up_to(entries, seq);
        if let Some(before) = after.checked_sub(1) {
            let entry = self.entries[entries[before] as usize];
            if seq < entry.next_seq() {
                return Lookup::Found(entry);
            }
        }
        Lookup::Missing { resumes_at: entries.get(after).map(|&entry| self.entries[entry as usize].first_seq) }
    }

    /// The batch of `log` that holds `seq`, among the rewritten ones or in its run.
    pub(crate) fn find_in(&self, rewritten: bool, log: LogId, seq: Seq) -> Option<Entry> {
        if rewritten {
            return self.rewritten_from(log, seq, 1).first().filter(|entry| entry.first_seq <= seq).copied();
        }
        match self.find(log, seq) {
            Lookup::Found(entry) => Some(entry),
            Lookup::Missing { .. } => None,
        }
    }

    /// How many entries of a run begin at or before `seq`.
    ///
    /// Sequence numbers grow about evenly, so the place is guessed and then searched around: in a large
    /// index each look costs a cache miss.
    fn entries_up_to(&self, entries: &[u32], seq: Seq) -> usize {
        let first_seq = |index: usize| self.entries[entries[index] as usize].first_seq;
        let Some(last) = entries.len().checked_sub(1).filter(|_| first_seq(0) <= seq) else { return 0 };
        if first_seq(last) <= seq {
            return entries.len();
        }
        let (begin, end) = (first_seq(0).0, first_seq(last).0);
        let guess = (u128::from(seq.0 - begin) * last as u128 / u128::from(end - begin)) as usize;
        let (mut low, mut high, mut step) = (0, last, 1);
        if first_seq(guess) <= seq {
            low = guess;
            while low + step < high && first_seq(low + step) <= seq {
                low += step;
                step *= 2;
            }
            high = high.min(low + step);
        } else {
            high = guess;
            while high > low + step && first_seq(high - step) > seq {
                high -= step;
                step *= 2;
            }
            low = low.max(high.saturating_sub(step));
        }
        low + entries[low..high].partition_point(|&entry| self.entries[entry as usize].first_seq <= seq)
    }

    /// Up to `limit` batches of `log` from the one that holds `seq`.
    pub(crate) fn run_from(&self, log: LogId, seq: Seq, limit: usize) -> Vec<Entry> {
        let Some(&run) = self.by_log.get(&log) else { return Vec::new() };
        let entries = &self.runs[run as usize].entries;
        let after = self.entries_up_to(entries, seq);
        let holds = |before: &usize| self.entries[entries[*before] as usize].next_seq() > seq;
        let from = after.checked_sub(1).filter(holds).unwrap_or(after);
        entries[from..].iter().take(limit).map(|&entry| self.entries[entry as usize]).collect()
    }

    /// Up to `limit` batches with their logs, from `arrival` on.
    pub(crate) fn arrivals_from(&self, arrival: Arrival, limit: usize) -> Vec<(LogId, Entry)> {
        let from = self.entries.partition_point(|entry| entry.arrival < arrival);
        let entries = self.entries[from..].iter().take(limit);
        entries.map(|entry| (self.runs[entry.run as usize].log, *entry)).collect()
    }

    /// Memory that it takes, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.entries.len() * (size_of::<Entry>() + 4)
            + self.runs.len() * (size_of::<Run>() + 160)
            + self.rewritten.len() * REWRITTEN_BYTES
            + 256
    }
}

/// A log as of the end of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogRow {
    pub(crate) genesis: Arc<Genesis>,
    pub(crate) head: Head,
    pub(crate) last_time: Hlc,
    pub(crate) bytes: u64,
    pub(crate) links: RunLinks,
    /// Which of its records are to be read from rewritten batches.
    pub(crate) rewrites: Rewrites,
    /// Where what is kept of it begins.
    pub(crate) floor: Floor,
    /// The segment that says so last; the first one if nothing of the log has been trimmed.
    pub(crate) floor_in: SegmentNumber,
    /// The segment that it is announced in; the first one if the file of logs has it.
    pub(crate) announced_in: SegmentNumber,
}

/// What a sealed segment ends in.
#[derive(Debug, Clone)]
pub(crate) struct Footer {
    /// The rows are all logs of the store, not only those of this segment.
    pub(crate) all_logs: bool,
    pub(crate) rows: Vec<(LogId, LogRow)>,
    pub(crate) index: Arc<SegmentIndex>,
}

impl Footer {
    /// The length that a footer announces, given its first bytes; `None` if they can't begin a footer.
    pub(crate) fn announced_len(bytes: &[u8]) -> Option<usize> {
        let mut fields = Fields(bytes);
        let magic = fields.array()?;
        let _flags = fields.u32()?;
        let len = usize::try_from(fields.u64()?).ok()?;
        (magic == MAGIC && (FOOTER_HEADER_LEN..=MAX_FOOTER_LEN).contains(&len)).then_some(len)
    }

    /// How many bytes [`announced_len`](Self::announced_len) needs.
    pub(crate) const PREFIX_LEN: usize = 16;

    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert!(self.rows.is_sorted_by(|(a, _), (b, _)| a < b), "rows ascend by log");
        let mut out = vec![0; FOOTER_HEADER_LEN];
        let mut row_of_run = vec![0_u32; self.index.runs.len()];
        for (number, (log, row)) in self.rows.iter().enumerate() {
            let run = self.index.by_log.get(log).copied();
            if let Some(run) = run {
                row_of_run[run as usize] = number as u32;
            }
            let entries = run.map_or(0, |run| self.index.runs[run as usize].entries.len());
            encode_row(&mut out, row, entries as u32, self.all_logs);
        }
        for entry in &self.index.entries {
            encode_entry(&mut out, row_of_run[entry.run as usize], entry);
        }
        let mut rewritten_count = 0_u32;
        for (log, entry) in self.index.rewritten() {
            let row = self.rows.binary_search_by_key(&log, |(log, _)| *log);
            debug_assert!(row.is_ok(), "a log that has anything here has a row");
            if let Ok(row) = row {
                encode_entry(&mut out, row as u32, entry);
                rewritten_count += 1;
            }
        }
        let len = out.len() as u64;
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&if self.all_logs { FLAG_ALL_LOGS } else { 0 }.to_le_bytes());
        out[8..16].copy_from_slice(&len.to_le_bytes());
        out[16..20].copy_from_slice(&(self.rows.len() as u32).to_le_bytes());
        out[20..24].copy_from_slice(&(self.index.entries.len() as u32).to_le_bytes());
        out[24..28].copy_from_slice(&rewritten_count.to_le_bytes());
        let crc = crc32fast::hash(&out);
        out[CRC_OFFSET..FOOTER_HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a footer; `None` if any byte of it is not as it was written.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(FOOTER_HEADER_LEN)?;
        let crc = u32::from_le_bytes(header[CRC_OFFSET..].try_into().ok()?);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header[..CRC_OFFSET]);
        hasher.update(&[0; 4]);
        hasher.update(rest);
        if Self::announced_len(header)? != bytes.len() || hasher.finalize() != crc {
            return None;
        }
        let mut fields = Fields(&header[4..]);
        let flags = fields.u32()?;
        let _len = fields.u64()?;
        let row_count = fields.u32()?;
        let entry_count = fields.u32()? as usize;
        let rewritten_count = fields.u32()? as usize;
        let mut fields = Fields(rest);
        let mut rows: Vec<(LogId, LogRow)> = Vec::new();
        let mut index = SegmentIndex::default();
        let mut run_of_row = Vec::new();
        // Of each run, where its batches end so far, and where its log does.
        let mut ends: Vec<(Seq, Seq)> = Vec::new();
        for _ in 0..row_count {
            let (row, entries) = decode_row(&mut fields)?;
            let log = row.genesis.log_id();
            if rows.last().is_some_and(|(before, _)| *before >= log) {
                return None;
            }
            run_of_row.push((entries > 0).then_some(index.runs.len() as u32));
            if entries > 0 {
                index.begin_run(log, row.links.clone());
                ends.push((Seq::ZERO, row.head.next_seq));
            }
            rows.push((log, row));
        }
        if fields.0.len() != entry_count.checked_add(rewritten_count)?.checked_mul(ENTRY_LEN)? {
            return None;
        }
        index.entries.reserve_exact(entry_count);
        for number in 0..entry_count {
            let run = (*run_of_row.get(fields.u32()? as usize)?)?;
            let entry = decode_entry(run, &mut fields)?;
            let head = &mut ends[run as usize];
            let follows =
                index.entries.last().is_none_or(|last| last.arrival < entry.arrival && last.offset < entry.offset);
            if !follows || entry.first_seq < head.0 || entry.next_seq() > head.1 {
                // It would send whoever reads the log to where it never was.
                return None;
            }
            head.0 = entry.next_seq();
            index.runs[run as usize].entries.push(number as u32);
            index.entries.push(entry);
        }
        for _ in 0..rewritten_count {
            let (log, row) = rows.get(fields.u32()? as usize)?;
            let entry = decode_entry(0, &mut fields)?;
            let last = index.rewritten.last_key_value().map(|((log, _), last)| (*log, last.next_seq()));
            let follows = last.is_none_or(|(last, end)| last < *log || (last == *log && end <= entry.first_seq));
            if !follows || entry.next_seq() > row.head.next_seq {
                return None;
            }
            index.insert_rewritten(*log, entry);
        }
        Some(Self { all_logs: flags & FLAG_ALL_LOGS != 0, rows, index: Arc::new(index) })
    }
}

fn encode_entry(out: &mut Vec<u8>, row: u32, entry: &Entry) {
    out.extend_from_slice(&row.to_le_bytes());
    out.extend_from_slice(&entry.record_count.to_le_bytes());
    out.extend_from_slice(&entry.first_seq.0.to_le_bytes());
    out.extend_from_slice(&entry.arrival.0.to_le_bytes());
    out.extend_from_slice(&entry.offset.to_le_bytes());
    out.extend_from_slice(&entry.len.to_le_bytes());
}

fn encode_row(out: &mut Vec<u8>, row: &LogRow, entries: u32, all_logs: bool) {
    let genesis = row.genesis.encode();
    out.extend_from_slice(&(genesis.len() as u32).to_le_bytes());
    out.extend_from_slice(&genesis);
    out.extend_from_slice(&row.head.next_seq.0.to_le_bytes());
    out.extend_from_slice(row.head.digest.as_bytes());
    out.extend_from_slice(&row.last_time.to_bits().to_le_bytes());
    out.extend_from_slice(&row.bytes.to_le_bytes());
    out.extend_from_slice(&entries.to_le_bytes());
    out.extend_from_slice(&row.links.previous.map_or(0, |segment| segment.0 + 1).to_le_bytes());
    out.extend_from_slice(&(row.links.path.len() as u32).to_le_bytes());
    for node in row.links.path.iter() {
        out.extend_from_slice(&node.depth.to_le_bytes());
        out.extend_from_slice(&node.segment.0.to_le_bytes());
        out.extend_from_slice(&node.first_seq.0.to_le_bytes());
    }
    let rewrites = if all_logs { row.rewrites.ranges() } else { &[] };
    out.extend_from_slice(&(rewrites.len() as u32).to_le_bytes());
    for range in rewrites {
        out.extend_from_slice(&range.first_seq.0.to_le_bytes());
        out.extend_from_slice(&range.next_seq.0.to_le_bytes());
        out.extend_from_slice(&range.segment.0.to_le_bytes());
    }
    out.extend_from_slice(&row.floor.head.next_seq.0.to_le_bytes());
    out.extend_from_slice(row.floor.head.digest.as_bytes());
    out.extend_from_slice(&row.floor.bytes.to_le_bytes());
    out.extend_from_slice(&row.floor_in.0.to_le_bytes());
    out.extend_from_slice(&row.announced_in.0.to_le_bytes());
}

fn decode_row(fields: &mut Fields<'_>) -> Option<(LogRow, u32)> {
    let len = fields.u32()? as usize;
    if len > MAX_GENESIS_LEN {
        return None;
    }
    let genesis = Arc::new(Genesis::decode(fields.bytes(len)?).ok()?);
    let next_seq = Seq(fields.u64().filter(|seq| *seq < POSITION_MAX)?);
    let digest = Digest::from_bytes(fields.array()?);
    let last_time = Hlc::from_bits(fields.u64()?);
    let bytes = fields.u64().filter(|bytes| *bytes < POSITION_MAX)?;
    let entries = fields.u32()?;
    let previous = fields.u64()?.checked_sub(1).map(SegmentNumber);
    let path_len = fields.u32()?;
    let path = (0..path_len)
        .map(|_| {
            let depth = fields.u32().filter(|depth| *depth < u32::MAX)?;
            let segment = SegmentNumber(fields.u64()?);
            let first_seq = Seq(fields.u64()?);
            Some(PathNode { depth, segment, first_seq })
        })
        .collect::<Option<Vec<_>>>()?;
    let links = RunLinks { path: path.into(), previous };
    let range_count = fields.u32()?;
    let ranges = (0..range_count)
        .map(|_| {
            let (first, next, segment) = (fields.u64()?, fields.u64()?, fields.u64()?);
            let is_bounded = next <= next_seq.0 && segment < POSITION_MAX;
            is_bounded.then_some(RewriteRange {
                first_seq: Seq(first),
                next_seq: Seq(next),
                segment: SegmentNumber(segment),
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let rewrites = Rewrites::from_ranges(ranges)?;
    let floor_seq = Seq(fields.u64().filter(|seq| *seq <= next_seq.0)?);
    let floor_head = Head { next_seq: floor_seq, digest: Digest::from_bytes(fields.array()?) };
    let floor = Floor { head: floor_head, bytes: fields.u64().filter(|bytes| *bytes < POSITION_MAX)? };
    let floor_in = SegmentNumber(fields.u64().filter(|segment| *segment < POSITION_MAX)?);
    let announced_in = SegmentNumber(fields.u64().filter(|segment| *segment < POSITION_MAX)?);
    let head = Head { next_seq, digest };
    Some((LogRow { genesis, head, last_time, bytes, links, rewrites, floor, floor_in, announced_in }, entries))
}

fn decode_entry(run: u32, fields: &mut Fields<'_>) -> Option<Entry> {
    let record_count = fields.u32()?;
    let first_seq = Seq(fields.u64()?);
    let arrival = Arrival(fields.u64()?);
    let offset = fields.u64()?;
    let len = fields.u32()?;
    let is_bounded =
        first_seq.0.max(arrival.0).max(offset) < POSITION_MAX && (HEADER_LEN..=MAX_BATCH_LEN).contains(&(len as usize));
    is_bounded.then_some(Entry { run, record_count, first_seq, arrival, offset, len })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{NodeName, SpaceName};

    fn genesis(number: u8) -> Arc<Genesis> {
        Arc::new(Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("n").unwrap(), [number; 16]))
    }

    fn rewrites(number: u8) -> Rewrites {
        let mut rewrites = Rewrites::default();
        if number == 1 {
            rewrites.insert(RewriteRange { first_seq: Seq(0), next_seq: Seq(6), segment: SegmentNumber(5) });
        }
        rewrites
    }

    fn floor_head(number: u8) -> Head {
        Head { next_seq: Seq::ZERO, digest: Digest::from_bytes([number; 32]) }
    }

    fn footer() -> Footer {
        let mut rows: Vec<_> = (0..3)
            .map(|number| {
                let genesis = genesis(number);
                let links =
                    if number == 2 { RunLinks::default() } else { RunLinks::default().next(SegmentNumber(4), Seq(0)) };
                (
                    genesis.log_id(),
                    LogRow {
                        head: genesis.head(),
                        genesis,
                        last_time: Hlc::from_bits(9),
                        bytes: 77,
                        links,
                        rewrites: rewrites(number),
                        floor: Floor { head: floor_head(number), bytes: 40 * u64::from(number) },
                        floor_in: SegmentNumber(3),
                        announced_in: SegmentNumber(2),
                    },
                )
            })
            .collect();
        rows.sort_by_key(|(log, _)| *log);
        let mut index = SegmentIndex::default();
        for (log, row) in rows.iter().filter(|(_, row)| !row.links.path.is_empty()) {
            index.begin_run(*log, row.links.clone());
        }
        for number in 0..10_u64 {
            let log = genesis((number % 2) as u8).log_id();
            index.push(index.by_log[&log], Seq(number / 2 * 3), 3, Arrival(100 + number), 8192 + number * 400, 400);
        }
        for first_seq in [3, 0] {
            let (log, offset) = (genesis(1).log_id(), 20_000 + first_seq * 300);
            let entry = Entry {
                run: 0,
                record_count: 3,
                first_seq: Seq(first_seq),
                arrival: Arrival(first_seq),
                offset,
                len: 300,
            };
            index.insert_rewritten(log, entry);
        }
        Footer { all_logs: true, rows, index: Arc::new(index) }
    }

    /// A footer whose logs reach as far as its batches do.
    fn sound_footer() -> Footer {
        let mut footer = footer();
        footer.rows.iter_mut().for_each(|(_, row)| row.head.next_seq = Seq(15));
        footer
    }

    #[test]
    fn rewritten_batches_are_found_by_place_and_by_arrival_apart_from_the_runs() {
        let log = genesis(1).log_id();
        let read = Footer::decode(&sound_footer().encode()).unwrap();
        for index in [&sound_footer().index, &read.index] {
            let offsets =
                |seq| index.rewritten_from(log, Seq(seq), 9).iter().map(|entry| entry.offset).collect::<Vec<_>>();
            assert_eq!(
                (offsets(0), offsets(2), offsets(4), offsets(6)),
                (vec![20_000, 20_900], vec![20_000, 20_900], vec![20_900], vec![])
            );
            assert!(index.rewritten_from(genesis(0).log_id(), Seq(0), 9).is_empty());
            assert_eq!(index.rewritten_arrivals(), Some((Arrival(0), Arrival(3))));
            let arrivals = index.rewritten_arrivals_from(Arrival(1), 9);
            assert_eq!(arrivals.iter().map(|(_, entry)| entry.first_seq).collect::<Vec<_>>(), [Seq(3)]);
            assert_eq!(index.run_from(log, Seq(0), 1)[0].offset, 8592, "what stands in order is found as before");
        }
        let mut cut = SegmentIndex::clone(&read.index);
        cut.cut(20_900);
        assert_eq!(
            (cut.rewritten_from(log, Seq(0), 9).len(), cut.rewritten_arrivals()),
            (1, Some((Arrival(0), Arrival(0))))
        );
    }

    #[test]
    fn a_footer_of_some_logs_leaves_out_what_one_of_all_logs_has_said() {
        let some = Footer { all_logs: false, ..sound_footer() };
        let read = Footer::decode(&some.encode()).unwrap();
        assert!(read.rows.iter().all(|(_, row)| row.rewrites.ranges().is_empty()));
        assert_eq!(read.index.rewritten().count(), 2);
    }

    #[test]
    fn a_footer_reads_back_and_every_flipped_bit_is_noticed() {
        let footer = sound_footer();
        let bytes = footer.encode();
        let read = Footer::decode(&bytes).unwrap();
        assert_eq!(read.rows, footer.rows);
        assert!(read.all_logs);
        let log = genesis(1).log_id();
        for seq in 0..15 {
            assert_eq!(
                format!("{:?}", read.index.run_from(log, Seq(seq), 1)[0].offset),
                format!("{:?}", footer.index.run_from(log, Seq(seq), 1)[0].offset)
            );
        }
        assert_eq!(read.index.find(log, Seq(15)), Lookup::Missing { resumes_at: None });
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::decode(&bytes).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_footer_with_a_matching_checksum_that_lists_a_log_twice_or_a_batch_out_of_bounds_is_refused() {
        let sound = sound_footer();
        assert!(Footer::decode(&sound.encode()).is_some());
        let mut twice = sound.encode();
        let [one, other] = [0, 1].map(|row| sound.rows[row].1.genesis.encode());
        let at = twice.windows(other.len()).position(|bytes| bytes == other).expect("it is a row");
        twice[at..at + one.len()].copy_from_slice(&one);
        twice[CRC_OFFSET..FOOTER_HEADER_LEN].fill(0);
        let crc = crc32fast::hash(&twice);
        twice[CRC_OFFSET..FOOTER_HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        assert!(Footer::decode(&twice).is_none());
        for len in [0, HEADER_LEN - 1, MAX_BATCH_LEN + 1, u32::MAX as usize] {
            let mut forged = sound_footer();
            Arc::make_mut(&mut forged.index).entries[3].len = len as u32;
            assert!(Footer::decode(&forged.encode()).is_none(), "{len}");
        }
    }

    #[test]
    fn a_footer_whose_batches_go_back_or_beyond_their_log_is_refused() {
        let forge = |change: fn(&mut Entry)| {
            let mut forged = sound_footer();
            change(&mut Arc::make_mut(&mut forged.index).entries[4]);
            Footer::decode(&forged.encode())
        };
        assert!(forge(|_| {}).is_some());
        assert!(forge(|entry| entry.first_seq = Seq(5)).is_none(), "within the batch before");
        assert!(forge(|entry| entry.record_count += 7).is_none(), "beyond the log's end");
        assert!(forge(|entry| entry.first_seq = Seq(262)).is_none(), "far beyond it");
        assert!(forge(|entry| entry.arrival = Arrival(103)).is_none(), "arrived with the one before");
        assert!(forge(|entry| entry.offset = 8192).is_none(), "before the one before");
    }

    #[test]
    fn the_bytes_of_a_footer_are_fixed_for_ever() {
        assert_eq!(
            Digest::of(&footer().encode()).to_string(),
            "9036e66b7c876d7fb6c245a9e06421365a5389681b4824f7355a189b26ccd102"
        );
    }

    #[test]
    fn the_path_of_a_run_is_logarithmically_long_and_clears_one_bit_a_step() {
        let mut links = RunLinks::default();
        for depth in 0..1000_u32 {
            links = links.next(SegmentNumber(u64::from(depth)), Seq(u64::from(depth) * 10));
            let mut expected = vec![depth];
            while let Some(&last) = expected.last().filter(|&&last| last > 0) {
                expected.push(last & (last - 1));
            }
            assert_eq!(links.path.iter().map(|node| node.depth).collect::<Vec<_>>(), expected);
            assert_eq!(links.previous, depth.checked_sub(1).map(|depth| SegmentNumber(u64::from(depth))));
        }
    }

    proptest! {
        #[test]
        fn the_guess_finds_what_a_plain_search_finds(
            steps in proptest::collection::vec((1_u32..50, 0_u64..3, 0_u64..1000), 1..200),
            seq in 0_u64..20_000,
        ) {
            let mut index = SegmentIndex::default();
            let log = genesis(1).log_id();
            let run = index.begin_run(log, RunLinks::default());
            let mut next = 0;
            for (number, (records, is_gap, gap)) in steps.iter().enumerate() {
                next += if *is_gap == 0 { *gap } else { 0 };
                index.push(run, Seq(next), *records, Arrival(number as u64), 0, 1);
                next += u64::from(*records);
            }
            let expected = index.entries.iter().position(|entry| entry.next_seq().0 > seq);
            let found = index.run_from(log, Seq(seq), 1).first().map(|entry| entry.arrival.0 as usize);
            prop_assert_eq!(found, expected);
            let holds = expected.filter(|entry| index.entries[*entry].first_seq.0 <= seq);
            let found = match index.find(log, Seq(seq)) {
                Lookup::Found(entry) => Some(entry.arrival.0 as usize),
                Lookup::Missing { .. } => None,
            };
            prop_assert_eq!(found, holds);
        }
    }
}
