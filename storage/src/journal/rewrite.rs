//! Rewritten batches: batches of a log that are stored a second time, later in the journal than they belong.
//!
//! A batch is written anew where the place that it has can't be read (a hole, damage: its verbatim bytes come from a
//! replica), or is to be given up (retention frees whole segments, and copies forward what quiet logs left in them).
//! Its bytes stay what the log's writer made of them; it says by itself where in its log it belongs.
//!
//! # How one is written
//!
//! As an entry of a commit's frame: [`Shared::rewrite`] queues it beside what others append, and the group that it
//! returns tells when it is durable. It leaves the head of its log as it is.
//!
//! # How one is found
//!
//! - A segment's index keeps its rewritten batches apart from its runs, by log and sequence number
//!   ([`SegmentIndex::rewritten_from`]) and by arrival.
//! - A log's row says in which segment which range of its records has been rewritten: [`Rewrites`]. Whoever looks for a
//!   record asks it first, then follows the log's runs. So what was rewritten shadows whatever stands at the place that
//!   the record had, and an earlier rewriting of it.
//! - Read by arrival, a batch is served once: where its *current* copy's number is. What was damaged and is mended
//!   arrives again, so that who reads on by arrival gets it.
//!
//! After a crash the ranges come from the footer that lists all logs; footers behind it add what their segments hold,
//! frames what they do. One range takes 24 bytes of memory; there are as many as stretches of rewritten records that lie
//! in one segment: usually one for each log and segment that holds rewritten batches of it.
//!
//! # Bytes
//!
//! Little-endian. An entry of a frame:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic and version, `CFR1` |
//! | 4 | 4 | 0: the batch keeps its arrival number; 1: it takes the next of its frame, as a batch in order does |
//! | 8 | 8 | the arrival number that it keeps, else 0 |
//! | 16 | 4 | CRC-32 of bytes 0 to 16 and of the batch's own CRC |
//! | 20 | n | the batch |

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

#[cfg(doc)]
use super::index::SegmentIndex;
use super::{commit::Shared, error::AppendError, frame::FrameEntry, index::POSITION_MAX, queue::Group};
use crate::{
    batch::{Batch, BatchHeader},
    field::Fields,
    ids::{Arrival, LogId, SegmentNumber, Seq},
};

pub(crate) const REWRITTEN_MAGIC: [u8; 4] = *b"CFR1";

/// How far behind the beginning of its entry a rewritten batch begins, in bytes.
pub(crate) const REWRITTEN_HEADER_LEN: usize = 20;

/// Bytes written out of order in one frame: few, since appends may have to wait for it.
pub(crate) const WRITTEN_AT_ONCE: usize = 256 << 10;

const CRC_OFFSET: usize = 16;
const KEEPS_ARRIVAL: u32 = 0;
const TAKES_ARRIVAL: u32 = 1;

/// A rewritten batch with the bytes of its entry.
#[derive(Debug, Clone)]
pub(crate) struct Rewritten {
    batch: Batch,
    kept_arrival: Option<Arrival>,
    bytes: Bytes,
}

impl Rewritten {
    /// A batch that keeps its arrival number.
    pub(crate) fn relocated(batch: Batch, arrival: Arrival) -> Self {
        Self::new(batch, Some(arrival))
    }

    /// A batch that has arrived again, and gets a new arrival number.
    pub(crate) fn restored(batch: Batch) -> Self {
        Self::new(batch, None)
    }

    fn new(batch: Batch, kept_arrival: Option<Arrival>) -> Self {
        let mut bytes = Vec::with_capacity(REWRITTEN_HEADER_LEN + batch.bytes().len());
        bytes.extend_from_slice(&REWRITTEN_MAGIC);
        let kind = if kept_arrival.is_some() { KEEPS_ARRIVAL } else { TAKES_ARRIVAL };
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&kept_arrival.unwrap_or(Arrival::ZERO).0.to_le_bytes());
        let crc = entry_crc(&bytes, batch.crc());
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(batch.bytes());
        Self { batch, kept_arrival, bytes: bytes.into() }
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The arrival number that it keeps; none if it takes the next.
    pub(crate) fn kept_arrival(&self) -> Option<Arrival> {
        self.kept_arrival
    }

    /// Its entry's stored bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The checksum of the entry, which covers the batch's.
    pub(crate) fn crc(&self) -> u32 {
        entry_crc(&self.bytes[..CRC_OFFSET], self.batch.crc())
    }

    /// Splits an entry off the front of `bytes`, verifying its checksums.
    pub(crate) fn split(bytes: &mut Bytes) -> Result<Self, &'static str> {
        let (kept_arrival, crc) = decode_header(bytes).ok_or("the header of a rewritten batch is damaged")?;
        let header = BatchHeader::decode(&bytes[REWRITTEN_HEADER_LEN..]);
        let len = REWRITTEN_HEADER_LEN + header.map_err(|_| "a rewritten batch is none")?.batch_len();
        if len > bytes.len() {
            return Err("a rewritten batch is cut short");
        }
        let entry = bytes.slice(..len);
        let batch = Batch::parse(entry.slice(REWRITTEN_HEADER_LEN..));
        let batch = batch.map_err(|_| "the checksum of a rewritten batch does not match")?;
        if entry_crc(&entry[..CRC_OFFSET], batch.crc()) != crc {
            return Err("the checksum of a rewritten batch's entry does not match");
        }
        *bytes = bytes.slice(len..);
        Ok(Self { batch, kept_arrival, bytes: entry })
    }
}

/// The arrival number that is kept, and the checksum; `None` if a field is out of range.
fn decode_header(bytes: &[u8]) -> Option<(Option<Arrival>, u32)> {
    let mut fields = Fields(bytes);
    let magic: [u8; 4] = fields.array()?;
    let kind = fields.u32()?;
    let arrival = fields.u64().filter(|arrival| *arrival < POSITION_MAX)?;
    let crc = fields.u32()?;
    let kept = match (kind, arrival) {
        (KEEPS_ARRIVAL, arrival) => Some(Arrival(arrival)),
        (TAKES_ARRIVAL, 0) => None,
        _ => return None,
    };
    (magic == REWRITTEN_MAGIC).then_some((kept, crc))
}

fn entry_crc(header: &[u8], batch_crc: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(&batch_crc.to_le_bytes());
    hasher.finalize()
}

/// Records of a log that are to be read from rewritten batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RewriteRange {
    pub(crate) first_seq: Seq,
    pub(crate) next_seq: Seq,
    /// Where the rewritten batches are.
    pub(crate) segment: SegmentNumber,
}

/// Where the records of one log are that have been rewritten. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rewrites {
    /// Ascending, apart from each other, none empty; none while nothing was rewritten, as is usual.
    ranges: Option<Arc<Vec<RewriteRange>>>,
}

impl Rewrites {
    /// From ranges as they are stored; `None` if they are not ascending.
    pub(crate) fn from_ranges(ranges: Vec<RewriteRange>) -> Option<Self> {
        let is_sound = ranges.iter().all(|range| range.first_seq < range.next_seq)
            && ranges.is_sorted_by(|a, b| a.next_seq <= b.first_seq);
        is_sound.then(|| Self { ranges: (!ranges.is_empty()).then(|| Arc::new(ranges)) })
    }

    pub(crate) fn ranges(&self) -> &[RewriteRange] {
        self.ranges.as_ref().map_or(&[], |ranges| ranges)
    }

    /// The range that holds `seq`, else the first one behind it.
    pub(crate) fn at_or_after(&self, seq: Seq) -> Option<RewriteRange> {
        let ranges = self.ranges();
        ranges.get(ranges.partition_point(|range| range.next_seq <= seq)).copied()
    }

    /// The segment in which `seq` is to be read.
    pub(crate) fn segment_of(&self, seq: Seq) -> Option<SegmentNumber> {
        self.at_or_after(seq).filter(|range| range.first_seq <= seq).map(|range| range.segment)
    }

    /// Takes note that these records are to be read there from now on.
    pub(crate) fn insert(&mut self, new: RewriteRange) {
        if new.first_seq >= new.next_seq {
            return;
        }
        let ranges = Arc::make_mut(self.ranges.get_or_insert_default());
        let from = ranges.partition_point(|range| range.next_seq < new.first_seq);
        let to = from + ranges[from..].partition_point(|range| range.first_seq <= new.next_seq);
        let mut new = new;
        let mut between = Vec::with_capacity(3);
        let mut behind = None;
        for old in ranges[from..to].iter().copied() {
            if old.segment == new.segment {
                // They touch or overlap, and are one.
                new.first_seq = new.first_seq.min(old.first_seq);
                new.next_seq = new.next_seq.max(old.next_seq);
                continue;
            }
            if old.first_seq < new.first_seq {
                between.push(RewriteRange { next_seq: old.next_seq.min(new.first_seq), ..old });
            }
            if old.next_seq > new.next_seq {
                behind = Some(RewriteRange { first_seq: old.first_seq.max(new.next_seq), ..old });
            }
        }
        between.push(new);
        between.extend(behind);
        ranges.splice(from..to, between);
    }

    /// Forgets what comes before `floor`.
    pub(crate) fn trim(&mut self, floor: Seq) {
        if self.ranges().first().is_none_or(|first| first.first_seq >= floor) {
            return;
        }
        let kept = self.ranges().iter().filter(|range| range.next_seq > floor).copied();
        let kept: Vec<_> = kept.map(|range| RewriteRange { first_seq: range.first_seq.max(floor), ..range }).collect();
        self.ranges = (!kept.is_empty()).then(|| Arc::new(kept));
    }
}

impl Shared {
    /// Queues rewritten batches of logs that are known here; the group tells when they are durable.
    ///
    /// That each belongs to its log, where it says, is the caller's to know.
    pub(crate) fn rewrite(&self, batches: Vec<Rewritten>) -> Result<Arc<Group>, AppendError> {
        let entry = |rewritten: Rewritten| (rewritten.batch().log(), FrameEntry::Rewritten(Box::new(rewritten)));
        self.queue_out_of_order(batches.into_iter().map(entry).collect())
    }

    /// Queues entries that leave the heads of their logs as they are.
    pub(crate) fn queue_out_of_order(&self, entries: Vec<(LogId, FrameEntry)>) -> Result<Arc<Group>, AppendError> {
        let mut queue = self.make_room(self.queue(), None, true)?;
        for (log, entry) in entries {
            let slot = queue.slot(log).ok_or(AppendError::UnknownLog { log })?;
            queue.push_out_of_order(slot, entry);
        }
        self.queued(queue)
    }
}

/// Splits what is to be written out of order, so that what goes into one frame is bounded: each part but the last has
/// [`WRITTEN_AT_ONCE`] bytes, and one item more at most.
pub(crate) fn in_chunks<T>(items: Vec<T>, len: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut chunks: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let item_len = len(&item);
        match chunks.last_mut().filter(|_| room > 0) {
            Some(chunk) => chunk.push(item),
            None => {
                room = WRITTEN_AT_ONCE;
                chunks.push(vec![item]);
            }
        }
        room = room.saturating_sub(item_len);
    }
    chunks
}

/// The segments that hold rewritten batches which are in use.
pub(crate) fn segments_of<'a>(all: impl Iterator<Item = &'a Rewrites>) -> BTreeSet<SegmentNumber> {
    all.flat_map(Rewrites::ranges).map(|range| range.segment).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        batch::BatchBuilder,
        genesis::Genesis,
        ids::{NodeName, SpaceName},
        time::Hlc,
    };

    fn batch() -> Batch {
        let genesis = Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("n").unwrap(), [1; 16]);
        let mut builder = BatchBuilder::with_capacity(16);
        builder.push(Hlc::from_bits(7), b"body");
        builder.seal(genesis.log_id(), genesis.head())
    }

    #[test]
    fn an_entry_reads_back_and_every_flipped_bit_is_noticed() {
        for rewritten in [Rewritten::relocated(batch(), Arrival(9)), Rewritten::restored(batch())] {
            let mut bytes = rewritten.bytes().clone();
            let read = Rewritten::split(&mut bytes).unwrap();
            assert!(bytes.is_empty());
            assert_eq!((read.batch(), read.kept_arrival()), (&batch(), rewritten.kept_arrival()));
            assert_eq!(read.crc(), rewritten.crc());
            for bit in 0..rewritten.bytes().len() * 8 {
                let mut damaged = rewritten.bytes().to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Rewritten::split(&mut damaged.into()).is_err(), "bit {bit}");
            }
            for len in 0..rewritten.bytes().len() {
                assert!(Rewritten::split(&mut rewritten.bytes().slice(..len)).is_err(), "{len} bytes");
            }
        }
    }

    #[test]
    fn the_bytes_of_an_entry_are_fixed_for_ever() {
        let header = |rewritten: Rewritten| rewritten.bytes()[..REWRITTEN_HEADER_LEN].to_vec();
        let relocated = header(Rewritten::relocated(batch(), Arrival(9)));
        assert_eq!(relocated[..CRC_OFFSET], *b"CFR1\0\0\0\0\x09\0\0\0\0\0\0\0");
        let restored = header(Rewritten::restored(batch()));
        assert_eq!(restored[..CRC_OFFSET], *b"CFR1\x01\0\0\0\0\0\0\0\0\0\0\0");
        let summed = [&restored[..CRC_OFFSET], &batch().crc().to_le_bytes()].concat();
        assert_eq!(restored[CRC_OFFSET..], crc32fast::hash(&summed).to_le_bytes());
    }

    proptest! {
        /// The model: for each record the segment that it was last rewritten to.
        #[test]
        fn ranges_say_of_each_record_where_it_was_last_rewritten(
            steps in proptest::collection::vec((0_u64..60, 0_u64..20, 0_u64..4), 1..40),
        ) {
            let mut rewrites = Rewrites::default();
            let mut model = BTreeMap::new();
            for (first, len, segment) in steps {
                let (first_seq, next_seq) = (Seq(first), Seq(first + len));
                let segment = SegmentNumber(segment);
                rewrites.insert(RewriteRange { first_seq, next_seq, segment });
                model.extend((first..first + len).map(|seq| (seq, segment)));
                for seq in 0..100 {
                    prop_assert_eq!(rewrites.segment_of(Seq(seq)), model.get(&seq).copied(), "record {}", seq);
                }
                let ranges = rewrites.ranges().to_vec();
                let apart = ranges.windows(2).all(|two| two[0].next_seq < two[1].first_seq || two[0].segment != two[1].segment);
                prop_assert!(apart, "{:?}", ranges);
                prop_assert_eq!(Rewrites::from_ranges(ranges), Some(rewrites.clone()));
            }
        }
    }
}
