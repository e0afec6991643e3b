//! Saving what is whole of a damaged frame that a later frame proves to have been durable.
//!
//! One flipped bit must cost one batch, not the commit of hundreds of practices around it. Each entry
//! has a checksum of its own, the frame's covers those, and the later frame says how many batches came
//! before it. So a frame is believed without one of its entries if its own checksum, over what the
//! entries' checksums are or say, still matches; and without its header if all its entries match.

use bytes::Bytes;

use super::{
    frame::{ANNOUNCEMENT_MAGIC, FRAME_ALIGNMENT, FRAME_HEADER_LEN, Frame, FrameEntry, FrameHeader, FrameKind, Lost},
    segment::Salt,
};
use crate::{
    batch::{BATCH_MAGIC, BatchHeader},
    ids::{Arrival, CommitNumber},
};

/// In how many places the entry after a damaged one is looked for.
const CANDIDATES_MAX: usize = 1000;

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
    let whole = whole_entries(bytes, FRAME_HEADER_LEN);
    if is_end(bytes, whole.end) {
        return without_header(whole.entries, batches, between, salt);
    }
    let header = FrameHeader::decode(bytes)
        .filter(|header| header.commit == between.commit && header.first_arrival == between.first_arrival)?;
    let frame_end = header.len as usize;
    candidates(bytes, whole.end).find_map(|resumed| {
        let behind = whole_entries(bytes, resumed);
        let lost = bytes.slice(whole.end..resumed);
        let mut entries = whole.entries.clone();
        let known_batches = batch_count(&entries) + batch_count(&behind.entries);
        let takes_arrival = match batches.checked_sub(known_batches)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        entries.push(FrameEntry::Lost(Lost { bytes: lost, takes_arrival }));
        entries.extend(behind.entries);
        let is_whole = behind.end == frame_end && is_end(bytes, behind.end);
        (is_whole && header.matches(&entries, salt)).then_some(Frame { header, entries })
    })
}

/// The entries all match: only the header is damaged.
fn without_header(entries: Vec<FrameEntry>, batches: u64, between: Between, salt: &Salt) -> Option<Frame> {
    let kind = if entries.is_empty() { FrameKind::Mark } else { FrameKind::Commit };
    (batch_count(&entries) == batches).then(|| {
        let header = FrameHeader::new(kind, between.commit, between.first_arrival, &entries, salt);
        Frame { header, entries }
    })
}

fn batch_count(entries: &[FrameEntry]) -> u64 {
    entries.iter().filter(|entry| entry.takes_arrival()).count() as u64
}

struct Whole {
    entries: Vec<FrameEntry>,
    /// Where they end.
    end: usize,
}

/// The entries from `at` on whose checksums match.
fn whole_entries(bytes: &Bytes, at: usize) -> Whole {
    let mut rest = bytes.slice(at..);
    let mut entries = Vec::new();
    loop {
        let end = bytes.len() - rest.len();
        let mut attempt = rest.clone();
        match FrameEntry::split(&mut attempt) {
            Ok(entry) => entries.push(entry),
            Err(_) => return Whole { entries, end },
        }
        rest = attempt;
    }
}

/// Whether a frame may end at `at`: only zeros up to where the next begins.
fn is_end(bytes: &Bytes, at: usize) -> bool {
    let rest = &bytes[at..];
    rest.len() < FRAME_ALIGNMENT as usize && rest.iter().all(|byte| *byte == 0)
}

/// Where the entry behind the damaged one at `at` may begin: where its header says, else wherever one could.
fn candidates(bytes: &Bytes, at: usize) -> impl Iterator<Item = usize> + '_ {
    let said = BatchHeader::decode(&bytes[at..]).ok().map(|header| at + header.batch_len());
    let magic = move |index: &usize| {
        bytes[*index..].starts_with(&BATCH_MAGIC) || bytes[*index..].starts_with(&ANNOUNCEMENT_MAGIC)
    };
    let searched = (at + 1..bytes.len()).filter(magic).take(CANDIDATES_MAX);
    // The damaged entry may be the last.
    let last = (bytes.len().saturating_sub(FRAME_ALIGNMENT as usize - 1)..=bytes.len()).filter(move |end| *end > at);
    said.into_iter().filter(|end| *end <= bytes.len()).chain(searched).chain(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::BatchBuilder,
        genesis::Genesis,
        ids::{NodeName, SpaceName},
        journal::frame::Announcement,
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
        ]
    }

    fn encode(entries: &[FrameEntry]) -> Vec<u8> {
        let header = FrameHeader::new(FrameKind::Commit, CommitNumber(3), Arrival(9), entries, &SALT);
        let mut bytes = header.encode().to_vec();
        entries.iter().for_each(|entry| bytes.extend_from_slice(entry.bytes()));
        bytes.resize(bytes.len().next_multiple_of(FRAME_ALIGNMENT as usize), 0);
        bytes
    }

    #[test]
    fn every_flipped_bit_costs_at_most_the_entry_that_it_hit() {
        let entries = entries();
        let bytes = encode(&entries);
        let mut starts = vec![FRAME_HEADER_LEN];
        entries.iter().for_each(|entry| starts.push(starts[starts.len() - 1] + entry.bytes().len()));
        for bit in 0..starts[entries.len()] * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let frame = salvage(&damaged.into(), between(3), &SALT).unwrap_or_else(|| panic!("bit {bit}"));
            assert_eq!(frame.entries.len(), entries.len(), "bit {bit}");
            for (index, (found, written)) in frame.entries.iter().zip(&entries).enumerate() {
                let is_hit = (starts[index]..starts[index + 1]).contains(&(bit / 8));
                assert_eq!(matches!(found, FrameEntry::Lost(_)), is_hit, "bit {bit}, entry {index}");
                assert!(is_hit || found.bytes() == written.bytes(), "bit {bit}, entry {index}");
                assert_eq!(found.takes_arrival(), index > 0, "bit {bit}, entry {index}");
            }
        }
    }

    #[test]
    fn a_mark_is_known_by_where_it_stands() {
        let mut bytes = FrameHeader::new(FrameKind::Mark, CommitNumber(3), Arrival(9), &[], &SALT).encode().to_vec();
        bytes[17] ^= 1;
        let frame = salvage(&bytes.into(), between(0), &SALT).unwrap();
        assert_eq!((frame.header.kind, frame.entries.len()), (FrameKind::Mark, 0));
    }

    #[test]
    fn only_zeros_up_to_where_the_next_frame_begins_may_follow_a_frame() {
        // Whole but for its header, so that it is known by its entries and its end alone.
        let mut bytes = encode(&entries());
        bytes[17] ^= 1;
        let end = FRAME_HEADER_LEN + entries().iter().map(|entry| entry.bytes().len()).sum::<usize>();
        let with_tail = |tail: &[u8]| Bytes::from([&bytes[..end], tail].concat());
        assert!(salvage(&with_tail(&[0; 7]), between(3), &SALT).is_some());
        assert!(salvage(&with_tail(&[0, 0, 1]), between(3), &SALT).is_none(), "bytes that nobody wrote");
        assert!(salvage(&with_tail(&[0; 8]), between(3), &SALT).is_none(), "another frame could stand there");
    }

    #[test]
    fn nothing_is_made_of_two_missing_frames_or_of_more_damage_than_can_be_told() {
        let entries = entries();
        let bytes = encode(&entries);
        let two_missing = Between { next_commit: CommitNumber(5), ..between(3) };
        assert!(salvage(&bytes.clone().into(), two_missing, &SALT).is_none());
        let mut damaged = bytes;
        let first = FRAME_HEADER_LEN + entries[0].bytes().len();
        damaged[first] ^= 1;
        damaged[first + entries[1].bytes().len() + 90] ^= 1;
        assert!(salvage(&damaged.into(), between(3), &SALT).is_none());
    }
}
