//! Saving what is whole of a damaged frame that a later frame proves to have been durable.
//!
//! One flipped bit must cost one batch, not the commit of hundreds of practices around it. Each entry
//! has a checksum of its own, and the frame's table says where each begins. So a frame is believed without
//! those of its entries that don't match; without its header if the table is whole; without its table
//! if all entries match; and without both if one checksum of theirs is left and is that of the entries, which all match.
//! The later frame says how many batches there must be.
//!
//! Where no later frame is whole, and the extent tells that frames were durable up to there, or something stands behind the
//! frame, the same goes for a frame whose header, table or sum says where it ends.
//!
//! Nothing is searched for in what entries hold: a record may contain whatever its writer likes, also a batch that would
//! continue the log of another. That entries are what was written as such is told only by sums that take in the segment's
//! salt: the header's, the table's and the frame's.

use bytes::Bytes;

use super::{
    frame::{
        COMMIT_LEN_MIN, FRAME_ALIGNMENT, FRAME_HEADER_LEN, Frame, FrameEntry, FrameHeader, FrameKind, Lost,
        MAX_FRAME_LEN, TableRow, entries_offset, find_table, frame_len, read_table, salted_sums,
    },
    segment::Salt,
};
use crate::ids::{Arrival, CommitNumber};

/// So many marks may stand one behind the other: an idle store's, that of a close, that of the next opening.
const MARKS_MAX: usize = 3;

/// How often as many bytes are summed up as there are, where entries are looked for.
const SUMMED_MAX: usize = 4;

/// Where a damaged frame stood.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Between {
    pub(crate) commit: CommitNumber,
    pub(crate) first_arrival: Arrival,
    /// Of the frame after it.
    pub(crate) next_commit: CommitNumber,
    pub(crate) next_arrival: Arrival,
}

/// What is whole of the frame that took `bytes`, with what is not as lost entries; `None` if that can't
/// be told, or more than one frame is missing.
pub(crate) fn salvage(bytes: &Bytes, between: Between, salt: &Salt) -> Option<Frame> {
    let batches = between.next_arrival.0.checked_sub(between.first_arrival.0)?;
    if between.next_commit.0 != between.commit.0 + 1 || bytes.len() < FRAME_HEADER_LEN {
        return None;
    }
    let header = FrameHeader::decode(bytes, salt)
        .filter(|header| header.commit == between.commit && header.first_arrival == between.first_arrival);
    let (entries, end) = match header {
        None if is_end(bytes, FRAME_HEADER_LEN) => (Vec::new(), FRAME_HEADER_LEN),
        _ => entries_of(bytes, header, (between.commit, between.first_arrival), salt)?,
    };
    if batch_count(&entries) != batches || !is_end(bytes, end) {
        return None;
    }
    Some(frame_of(header, entries, (between.commit, between.first_arrival), salt))
}

/// What is whole of the first of the frames that took `bytes`, all of them durable, with what is not as lost entries; `None`
/// if that can't be told. It is that of `commit`, and its first batch has the arrival number `first_arrival`.
pub(crate) fn salvage_first(bytes: &Bytes, commit: CommitNumber, first_arrival: Arrival, salt: &Salt) -> Option<Frame> {
    if are_marks(bytes) || marks_before(bytes, commit, first_arrival, salt) {
        return Some(frame_of(None, Vec::new(), (commit, first_arrival), salt));
    }
    one_of_several(bytes, commit, first_arrival, salt)
}

/// Whether nothing but marks took `bytes`: they are too few for a commit.
fn are_marks(bytes: &Bytes) -> bool {
    !bytes.is_empty() && bytes.len() < COMMIT_LEN_MIN && bytes.len().is_multiple_of(FRAME_HEADER_LEN)
}

/// Whether marks stand before a frame of which something is whole: it bears a number that tells so.
fn marks_before(bytes: &Bytes, commit: CommitNumber, first_arrival: Arrival, salt: &Salt) -> bool {
    (1..=MARKS_MAX).any(|marks| {
        let behind = bytes.get(marks * FRAME_HEADER_LEN..).map_or_else(Bytes::new, |behind| bytes.slice_ref(behind));
        one_of_several(&behind, CommitNumber(commit.0 + marks as u64), first_arrival, salt).is_some()
    })
}

/// What is whole of a frame that took the first of `bytes`.
fn one_of_several(bytes: &Bytes, commit: CommitNumber, first_arrival: Arrival, salt: &Salt) -> Option<Frame> {
    let header = FrameHeader::decode(bytes, salt);
    let is_another = |header: FrameHeader| (header.commit, header.first_arrival) != (commit, first_arrival);
    if header.is_some_and(|header| is_another(header) || header.len as usize > bytes.len()) {
        return None;
    }
    let (entries, end) = entries_of(bytes, header, (commit, first_arrival), salt)?;
    // Without a header nothing else tells that these bytes were a frame.
    let is_frame = match header {
        Some(header) => header.len as usize == end,
        None => entries.iter().any(|entry| !matches!(entry, FrameEntry::Lost(_))),
    };
    is_frame.then(|| frame_of(header, entries, (commit, first_arrival), salt))
}

/// The entries of a frame, and where they end.
fn entries_of(
    bytes: &Bytes,
    header: Option<FrameHeader>,
    numbers: (CommitNumber, Arrival),
    salt: &Salt,
) -> Option<(Vec<FrameEntry>, usize)> {
    let table = match header {
        Some(header) => read_table(bytes, header.entry_count as usize, salt),
        None => find_table(bytes, salt),
    };
    let found = match (table, header) {
        (Some(table), _) => by_table(bytes, &table),
        (None, Some(header)) => one_by_one(bytes, header.entry_count as usize),
        (None, None) => by_sum(bytes, numbers, salt),
    };
    found.filter(|(_, end)| *end <= MAX_FRAME_LEN)
}

fn frame_of(
    header: Option<FrameHeader>,
    entries: Vec<FrameEntry>,
    (commit, first_arrival): (CommitNumber, Arrival),
    salt: &Salt,
) -> Frame {
    let header = header.unwrap_or_else(|| {
        let kind = if entries.is_empty() { FrameKind::Mark } else { FrameKind::Commit };
        FrameHeader::new(kind, commit, first_arrival, &entries, salt).0
    });
    Frame { header, entries }
}

/// The entries where the table says that they are.
fn by_table(bytes: &Bytes, table: &[TableRow]) -> Option<(Vec<FrameEntry>, usize)> {
    let mut at = entries_offset(table.len());
    let mut entries = Vec::with_capacity(table.len());
    for row in table {
        let end = at.checked_add(row.len).filter(|end| *end <= bytes.len())?;
        let stored = bytes.slice(at..end);
        let mut rest = stored.clone();
        let whole = FrameEntry::split(&mut rest).ok().filter(|entry| entry.kind() == row.kind);
        let lost = FrameEntry::Lost(Lost { bytes: stored, kind: row.kind });
        entries.push(whole.filter(|_| rest.is_empty()).unwrap_or(lost));
        at = end;
    }
    Some((entries, at))
}

/// The entries, of which all must match.
fn one_by_one(bytes: &Bytes, count: usize) -> Option<(Vec<FrameEntry>, usize)> {
    let mut rest = bytes.get(entries_offset(count)..).map(|_| bytes.slice(entries_offset(count)..))?;
    let entries: Result<Vec<_>, _> = (0..count).map(|_| FrameEntry::split(&mut rest)).collect();
    entries.ok().map(|entries| (entries, bytes.len() - rest.len()))
}

/// The entries, of which all must match, where neither header nor table is whole: one of the sums that stand there must be
/// the one that these entries would have.
fn by_sum(
    bytes: &Bytes,
    (commit, first_arrival): (CommitNumber, Arrival),
    salt: &Salt,
) -> Option<(Vec<FrameEntry>, usize)> {
    // What entries hold may look like entries at as many places as its writer likes. Those that are meant come first.
    let mut budget = bytes.len().saturating_mul(SUMMED_MAX);
    let counts = (1..).take_while(|count| entries_offset(*count) < bytes.len());
    for count in counts.filter(|count| FrameEntry::begins(&bytes[entries_offset(*count)..])) {
        if budget == 0 {
            return None;
        }
        let Some(entries) = entries_from(bytes, count, &mut budget) else { continue };
        if frame_len(&entries) > MAX_FRAME_LEN {
            return None;
        }
        let (header, front) = FrameHeader::new(FrameKind::Commit, commit, first_arrival, &entries, salt);
        let stands = salted_sums(&bytes[..front.len()]);
        if salted_sums(&front).iter().zip(stands).any(|(sum, stands)| *sum == stands) {
            return Some((entries, header.len as usize));
        }
    }
    None
}

/// So many entries behind where their table would end, if all match. What is summed up is taken off `budget`.
fn entries_from(bytes: &Bytes, count: usize, budget: &mut usize) -> Option<Vec<FrameEntry>> {
    let mut rest = bytes.slice(entries_offset(count)..);
    let mut entries = Vec::new();
    for _ in 0..count {
        let left = rest.len();
        let entry = FrameEntry::split(&mut rest).ok();
        let summed = if entry.is_some() { left - rest.len() } else { left };
        *budget = budget.saturating_sub(summed);
        entries.push(entry?);
    }
    Some(entries)
}

fn batch_count(entries: &[FrameEntry]) -> u64 {
    entries.iter().filter(|entry| entry.takes_arrival()).count() as u64
}

/// Whether a frame may end at `at`: only zeros up to where the next begins.
fn is_end(bytes: &Bytes, at: usize) -> bool {
    let rest = &bytes[at..];
    rest.len() < FRAME_ALIGNMENT as usize && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::BatchBuilder,
        genesis::Genesis,
        ids::{NodeName, SpaceName},
        journal::{frame::Announcement, rewrite::Rewritten},
        time::Hlc,
    };

    const SALT: Salt = [0x5a; 16];

    fn between(batches: u64) -> Between {
        Between {
            commit: CommitNumber(3),
            first_arrival: Arrival(9),
            next_commit: CommitNumber(4),
            next_arrival: Arrival(9 + batches),
        }
    }

    /// A frame of an announcement, two logs' batches and a body that itself looks like a batch.
    fn entries() -> Vec<FrameEntry> {
        let genesis = Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("n").unwrap(), [1; 16]);
        let victim = Genesis::new(SpaceName::new("victim").unwrap(), NodeName::new("v").unwrap(), [2; 16]);
        let batch = |genesis: &Genesis, bodies: &[&[u8]]| {
            let mut builder = BatchBuilder::with_capacity(16);
            bodies.iter().for_each(|body| builder.push(Hlc::from_bits(7), body));
            builder.seal(genesis.log_id(), genesis.head())
        };
        let forged = batch(&victim, &[b"never written by its node"]);
        vec![
            FrameEntry::Announcement(Box::new(Announcement::new(genesis.clone()))),
            FrameEntry::Batch(batch(&genesis, &[b"one", b"two"])),
            FrameEntry::Batch(batch(&genesis, &[b"hostile", forged.bytes()])),
            FrameEntry::Batch(batch(&victim, &[b"three"])),
            FrameEntry::Rewritten(Box::new(Rewritten::relocated(batch(&genesis, &[b"four"]), Arrival(2)))),
            FrameEntry::Rewritten(Box::new(Rewritten::restored(batch(&genesis, &[b"five"])))),
        ]
    }

    fn encode(entries: &[FrameEntry]) -> Vec<u8> {
        let (_, mut bytes) = FrameHeader::new(FrameKind::Commit, CommitNumber(3), Arrival(9), entries, &SALT);
        entries.iter().for_each(|entry| bytes.extend_from_slice(entry.bytes()));
        bytes.resize(bytes.len().next_multiple_of(FRAME_ALIGNMENT as usize), 0);
        bytes
    }

    #[test]
    fn every_flipped_bit_costs_at_most_the_entry_that_it_hit() {
        let entries = entries();
        let bytes = encode(&entries);
        let mut starts = vec![entries_offset(entries.len())];
        entries.iter().for_each(|entry| starts.push(starts[starts.len() - 1] + entry.bytes().len()));
        for bit in 0..starts[entries.len()] * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let frame = salvage(&damaged.into(), between(4), &SALT).unwrap_or_else(|| panic!("bit {bit}"));
            assert_eq!(frame.entries.len(), entries.len(), "bit {bit}");
            for (index, (found, written)) in frame.entries.iter().zip(&entries).enumerate() {
                let is_hit = (starts[index]..starts[index + 1]).contains(&(bit / 8));
                assert_eq!(matches!(found, FrameEntry::Lost(_)), is_hit, "bit {bit}, entry {index}");
                assert!(is_hit || found.bytes() == written.bytes(), "bit {bit}, entry {index}");
                assert_eq!(found.kind(), written.kind(), "bit {bit}, entry {index}");
            }
        }
    }

    #[test]
    fn a_mark_is_known_by_where_it_stands() {
        let mut bytes = FrameHeader::new(FrameKind::Mark, CommitNumber(3), Arrival(9), &[], &SALT).1;
        bytes[17] ^= 1;
        let frame = salvage(&bytes.into(), between(0), &SALT).unwrap();
        assert_eq!((frame.header.kind, frame.entries.len()), (FrameKind::Mark, 0));
    }

    #[test]
    fn only_zeros_up_to_where_the_next_frame_begins_may_follow_a_frame() {
        let bytes = encode(&entries());
        let end = entries_offset(entries().len()) + entries().iter().map(|entry| entry.bytes().len()).sum::<usize>();
        // Its header damaged, so that it is known by its table; then its table, so that it is known by its entries.
        for damaged in [17, FRAME_HEADER_LEN] {
            let with_tail = |tail: &[u8]| {
                let mut bytes = [&bytes[..end], tail].concat();
                bytes[damaged] ^= 1;
                salvage(&bytes.into(), between(4), &SALT)
            };
            assert!(with_tail(&[0; 7]).is_some());
            assert!(with_tail(&[0, 0, 1]).is_none(), "bytes that nobody wrote");
            assert!(with_tail(&[0; 8]).is_none(), "another frame could stand there");
        }
    }

    #[test]
    fn damage_to_several_entries_costs_those_and_nothing_is_made_of_two_missing_frames() {
        let entries = entries();
        let bytes = encode(&entries);
        let two_missing = Between { next_commit: CommitNumber(5), ..between(4) };
        assert!(salvage(&bytes.clone().into(), two_missing, &SALT).is_none());
        let mut damaged = bytes;
        let first = entries_offset(entries.len()) + entries[0].bytes().len();
        damaged[first] ^= 1;
        damaged[first + entries[1].bytes().len() + 90] ^= 1;
        let frame = salvage(&damaged.clone().into(), between(4), &SALT).unwrap();
        let lost: Vec<_> = frame.entries.iter().map(|entry| matches!(entry, FrameEntry::Lost(_))).collect();
        assert_eq!(lost, [false, true, true, false, false, false]);
        damaged[FRAME_HEADER_LEN] ^= 1;
        assert!(salvage(&damaged.into(), between(4), &SALT).is_none(), "neither table nor entries are whole");
    }

    #[test]
    fn without_header_and_table_a_frame_is_known_by_each_sum_that_is_left_and_by_nothing_else() {
        let entries = entries();
        let bytes = encode(&entries);
        let front = entries_offset(entries.len());
        let sums = [32..36, 36..40, front - 4..front];
        for left in 0..1 << sums.len() {
            let mut damaged = bytes.clone();
            damaged[..front].fill(0);
            for (_, sum) in sums.iter().enumerate().filter(|(index, _)| left >> index & 1 == 1) {
                damaged[sum.clone()].copy_from_slice(&bytes[sum.clone()]);
            }
            let found = salvage(&damaged.clone().into(), between(4), &SALT);
            let first = salvage_first(&damaged.clone().into(), CommitNumber(3), Arrival(9), &SALT);
            for frame in [found, first] {
                let entries_found =
                    frame.map(|frame| frame.entries.iter().map(|entry| entry.bytes().clone()).collect());
                let expected: Vec<_> = entries.iter().map(|entry| entry.bytes().clone()).collect();
                assert_eq!(entries_found, (left != 0).then_some(expected), "{left:03b}");
            }
            damaged[front + 30] ^= 1;
            assert!(salvage(&damaged.clone().into(), between(4), &SALT).is_none(), "{left:03b}, and an entry");
            assert!(salvage_first(&damaged.into(), CommitNumber(3), Arrival(9), &SALT).is_none());
        }
    }

    #[test]
    fn what_a_record_holds_is_not_taken_for_a_frame_whose_front_is_lost_however_well_it_fits() {
        let genesis = Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("n").unwrap(), [1; 16]);
        let victim = Genesis::new(SpaceName::new("victim").unwrap(), NodeName::new("v").unwrap(), [2; 16]);
        let count = 64;
        let mut head = victim.head();
        let mut forged = Vec::new();
        for _ in 0..count {
            let mut builder = BatchBuilder::with_capacity(16);
            builder.push(Hlc::from_bits(7), b"never written by its node");
            let batch = builder.seal(victim.log_id(), head);
            head = batch.head();
            forged.extend_from_slice(batch.bytes());
        }
        // Where a table of so many rows would end.
        let wanted = entries_offset(count);
        let with_pad = |pad: usize| {
            let mut builder = BatchBuilder::with_capacity(16);
            builder.push(Hlc::from_bits(7), &[&vec![0; pad][..], &forged].concat());
            let bytes = encode(&[FrameEntry::Batch(builder.seal(genesis.log_id(), genesis.head()))]);
            let at = bytes.windows(forged.len()).position(|window| window == forged).unwrap();
            (bytes, at)
        };
        let pad = wanted - with_pad(0).1;
        let (mut bytes, at) = with_pad(pad);
        assert_eq!(at, wanted);
        bytes[..at].fill(0);
        assert!(entries_from(&bytes.clone().into(), count, &mut usize::MAX.clone()).is_some(), "it fits");
        assert!(salvage(&bytes.clone().into(), between(count as u64), &SALT).is_none());
        assert!(salvage_first(&bytes.into(), CommitNumber(3), Arrival(9), &SALT).is_none());
    }

    #[test]
    fn a_frame_that_later_ones_or_the_extent_prove_is_known_by_its_header_or_its_table_wherever_it_ends() {
        let entries = entries();
        let whole = encode(&entries);
        let first_at = entries_offset(entries.len());
        for (damaged, behind) in [(17, 0), (FRAME_HEADER_LEN, 7), (first_at + 30, 40), (first_at + 30, 4000)] {
            let mut bytes = [&whole[..], &vec![0x5a; behind]].concat();
            bytes[damaged] ^= 1;
            let frame = salvage_first(&bytes.clone().into(), CommitNumber(3), Arrival(9), &SALT).unwrap();
            let is_lost = |entry: &FrameEntry| matches!(entry, FrameEntry::Lost(_));
            assert_eq!(frame.entries.iter().filter(|entry| is_lost(entry)).count(), usize::from(damaged >= first_at));
            // Not as another commit, nor from another place, nor if it would not have fitted.
            let is_by_header = damaged != 17;
            assert_eq!(
                salvage_first(&bytes.clone().into(), CommitNumber(4), Arrival(9), &SALT).is_none(),
                is_by_header
            );
            assert_eq!(
                salvage_first(&bytes.clone().into(), CommitNumber(3), Arrival(8), &SALT).is_none(),
                is_by_header
            );
            bytes.truncate(whole.len() - 9);
            assert!(salvage_first(&bytes.into(), CommitNumber(3), Arrival(9), &SALT).is_none());
        }
    }

    #[test]
    fn marks_are_known_by_what_they_leave_no_room_for_or_by_the_number_of_what_is_behind_them() {
        let is_mark = |bytes: Vec<u8>| {
            let frame = salvage_first(&bytes.into(), CommitNumber(3), Arrival(9), &SALT);
            frame.map(|frame| (frame.header.kind, frame.header.commit))
        };
        let mark = Some((FrameKind::Mark, CommitNumber(3)));
        assert_eq!([40, 80, 120].map(|len| is_mark(vec![0; len])), [mark; 3]);
        assert_eq!([0, 39, 41, 136, 160].map(|len| is_mark(vec![0; len])), [None; 5]);
        for (marks, is_told) in [(1, true), (3, true), (4, false)] {
            let number = CommitNumber(3 + marks);
            let (_, mut bytes) = FrameHeader::new(FrameKind::Commit, number, Arrival(9), &entries(), &SALT);
            entries().iter().for_each(|entry| bytes.extend_from_slice(entry.bytes()));
            bytes.splice(..0, vec![0; 40 * marks as usize]);
            assert_eq!(is_mark(bytes), mark.filter(|_| is_told), "{marks}");
        }
    }
}
