//! Saving what is whole of a damaged frame that a later frame proves to have been durable.
//!
//! One flipped bit must cost one batch, not the commit of hundreds of practices around it. Each entry
//! has a checksum of its own, and the frame's table says where each begins. So a frame is believed without
//! those of its entries that don't match; without its header if the table is whole; and without its table
//! if all entries match. The later frame says how many batches there must be.
//!
//! Nothing is searched for in what entries hold: a record may contain whatever its writer likes.

use bytes::Bytes;

use super::{
    frame::{
        FRAME_ALIGNMENT, FRAME_HEADER_LEN, Frame, FrameEntry, FrameHeader, FrameKind, Lost, TableRow, entries_offset,
        find_table, read_table,
    },
    segment::Salt,
};
use crate::ids::{Arrival, CommitNumber};

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
    let table = match header {
        Some(header) => read_table(bytes, header.entry_count as usize, salt),
        None if is_end(bytes, FRAME_HEADER_LEN) => Some(Vec::new()),
        None => find_table(bytes, salt),
    };
    let entries = match (table, header) {
        (Some(table), _) => by_table(bytes, &table)?,
        (None, Some(header)) => one_by_one(bytes, header.entry_count as usize)?,
        (None, None) => return None,
    };
    if batch_count(&entries) != batches {
        return None;
    }
    let header = header.unwrap_or_else(|| {
        let kind = if entries.is_empty() { FrameKind::Mark } else { FrameKind::Commit };
        FrameHeader::new(kind, between.commit, between.first_arrival, &entries, salt).0
    });
    Some(Frame { header, entries })
}

/// The entries where the table says that they are.
fn by_table(bytes: &Bytes, table: &[TableRow]) -> Option<Vec<FrameEntry>> {
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
    is_end(bytes, at).then_some(entries)
}

/// The entries, of which all must match.
fn one_by_one(bytes: &Bytes, count: usize) -> Option<Vec<FrameEntry>> {
    let mut rest = bytes.get(entries_offset(count)..).map(|_| bytes.slice(entries_offset(count)..))?;
    let entries: Result<Vec<_>, _> = (0..count).map(|_| FrameEntry::split(&mut rest)).collect();
    entries.ok().filter(|_| is_end(bytes, bytes.len() - rest.len()))
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
}
