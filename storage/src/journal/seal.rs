//! Sealing what was queued: records become batches that continue their logs, announcements and batches
//! become the entries of a frame.

use bytes::Bytes;

use super::{
    frame::FrameEntry,
    queue::{Item, SealedHead},
};
use crate::{
    batch::{BatchBuilder, Bundle, HEADER_LEN, SHORT_LEN},
    compression::Compression,
    ids::Head,
};

/// Short batches share buffers of at most this length: whoever keeps one of their records keeps no more alive.
const BUNDLE_LEN: usize = 64 << 10;

/// Builders that have grown longer, in bytes, are not kept for the next group.
const BUILDER_CAPACITY_MAX: usize = 4 << 10;

/// The entries of a frame to be.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    pub(crate) entries: Vec<FrameEntry>,
    /// The bytes of the entries in order, in fewer pieces.
    pub(crate) pieces: Vec<Bytes>,
    /// The slot of each entry's log.
    pub(crate) slots: Vec<usize>,
    /// Slot and entry of the last batch of each log that was sealed here.
    pub(crate) last: Vec<(usize, usize)>,
    /// To be filled again.
    pub(crate) builders: Vec<BatchBuilder>,
}

impl Sealed {
    /// Where the logs end whose batches were sealed here. Computes their digests.
    pub(crate) fn heads(&self) -> Vec<SealedHead> {
        let head = |(slot, entry): &(usize, usize)| match &self.entries[*entry] {
            FrameEntry::Batch(batch) => Some((*slot, batch.head())),
            FrameEntry::Announcement(_) | FrameEntry::Rewritten(_) | FrameEntry::Floor(_) | FrameEntry::Lost(_) => None,
        };
        self.last.iter().filter_map(head).collect()
    }

    fn push(&mut self, slot: usize, entry: FrameEntry) {
        self.pieces.push(entry.bytes().clone());
        self.slots.push(slot);
        self.entries.push(entry);
    }
}

/// Seals one group after the other.
#[derive(Debug)]
pub(crate) struct Sealer {
    compression: Compression,
    /// By slot, while a group is sealed: its last entry + 1, or 0.
    last_entry: Vec<u32>,
}

impl Sealer {
    pub(crate) fn new(compression: Compression) -> Self {
        Self { compression, last_entry: Vec::new() }
    }

    /// Seals what was queued. `heads` says for each item where its log durably ends, if it is known.
    pub(crate) fn seal(&mut self, mut items: Vec<Item>, heads: &[Option<Head>]) -> Sealed {
        for item in &mut items {
            if let Item::Open { builder, .. } = item {
                builder.compress(self.compression);
            }
        }
        let mut sealed = Sealed {
            entries: Vec::with_capacity(items.len()),
            slots: Vec::with_capacity(items.len()),
            builders: Vec::with_capacity(items.len()),
            ..Sealed::default()
        };
        let mut rest = items.into_iter();
        while let Some(item) = rest.as_slice().first() {
            let place = sealed.entries.len();
            if short_len(item).is_some() {
                self.seal_short(&mut rest, &heads[place..], &mut sealed);
            } else if let Some(item) = rest.next() {
                self.seal_one(item, heads[place], &mut sealed);
            }
        }
        for slot in &sealed.slots {
            // One with nothing but entries out of order need not have a place.
            if let Some(last) = self.last_entry.get_mut(*slot) {
                *last = 0;
            }
        }
        // Of a log with several batches sealed here, the last counts.
        sealed.last.reverse();
        sealed.last.sort_by_key(|(slot, _)| *slot);
        sealed.last.dedup_by_key(|(slot, _)| *slot);
        sealed
    }

    fn seal_one(&mut self, item: Item, durable: Option<Head>, sealed: &mut Sealed) {
        let (slot, place) = (item.slot(), sealed.entries.len());
        let is_in_order = match &item {
            Item::OutOfOrder { .. } => false,
            // Of a log that is durable it is a second one, which says nothing of where the log ends.
            Item::Announcement { .. } => durable.is_none(),
            Item::Batch { .. } | Item::Open { .. } => true,
        };
        let head = is_in_order.then(|| self.last_head(slot, &sealed.entries, durable)).flatten();
        if is_in_order {
            self.last_entry[slot] = place as u32 + 1;
        }
        let entry = match item {
            Item::OutOfOrder { entry, .. } => entry,
            Item::Announcement { announcement, .. } => FrameEntry::Announcement(announcement),
            Item::Batch { batch, .. } => {
                let follows = Head { next_seq: batch.first_seq(), digest: batch.header().previous };
                assert_eq!(head, Some(follows), "a batch continues its log");
                FrameEntry::Batch(batch)
            }
            Item::Open { log, builder, .. } => {
                let head = head.expect("a log is announced before its first batch");
                sealed.last.push((slot, place));
                FrameEntry::Batch(builder.seal(log, head))
            }
        };
        sealed.push(slot, entry);
    }

    /// Seals the short batches at the front of `rest`, as far as they fit into one bundle and none continues another.
    fn seal_short(&mut self, rest: &mut std::vec::IntoIter<Item>, heads: &[Option<Head>], sealed: &mut Sealed) {
        let begin = sealed.entries.len();
        let (mut count, mut bundle_len) = (0, 0);
        for len in rest.as_slice().iter().map_while(short_len) {
            if count > 0 && bundle_len + len > BUNDLE_LEN {
                break;
            }
            (count, bundle_len) = (count + 1, bundle_len + len);
        }
        let mut bundle = Bundle::with_capacity(count, bundle_len);
        for (place, durable) in (begin..begin + count).zip(heads) {
            let continues_another =
                |item: &Item| self.last_entry.get(item.slot()).is_some_and(|last| *last as usize > begin);
            if rest.as_slice().first().is_none_or(continues_another) {
                break;
            }
            let Some(Item::Open { slot, log, builder }) = rest.next() else { break };
            let head =
                self.last_head(slot, &sealed.entries, *durable).expect("a log is announced before its first batch");
            self.last_entry[slot] = place as u32 + 1;
            bundle.seal(&builder, log, head);
            sealed.slots.push(slot);
            sealed.last.push((slot, place));
            if builder.capacity() <= BUILDER_CAPACITY_MAX {
                sealed.builders.push(builder);
            }
        }
        let (bytes, batches) = bundle.finish();
        sealed.pieces.push(bytes);
        sealed.entries.extend(batches.map(FrameEntry::Batch));
    }

    /// The head of a log after its last entry in this group, or as far as it is durable.
    fn last_head(&mut self, slot: usize, entries: &[FrameEntry], durable: Option<Head>) -> Option<Head> {
        if self.last_entry.len() <= slot {
            self.last_entry.resize(slot + 1, 0);
        }
        match self.last_entry[slot].checked_sub(1).map(|last| &entries[last as usize]) {
            Some(FrameEntry::Announcement(announcement)) => Some(announcement.genesis.head()),
            Some(FrameEntry::Batch(batch)) => Some(batch.head()),
            Some(FrameEntry::Rewritten(_) | FrameEntry::Floor(_) | FrameEntry::Lost(_)) | None => durable,
        }
    }
}

/// The length of the batch if it will be a short one.
fn short_len(item: &Item) -> Option<usize> {
    match item {
        Item::Open { builder, .. } => Some(HEADER_LEN + builder.body_len()).filter(|len| *len <= SHORT_LEN),
        Item::Announcement { .. } | Item::Batch { .. } | Item::OutOfOrder { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        genesis::Genesis,
        ids::{Digest, LogId, NodeName, Seq, SpaceName},
        journal::frame::Announcement,
        time::Hlc,
    };

    fn open(slot: usize, bodies: &[&[u8]]) -> Item {
        let mut builder = BatchBuilder::with_capacity(0);
        bodies.iter().for_each(|body| builder.push(Hlc::from_bits(7), body));
        Item::Open { slot, log: LogId::from_bytes([slot as u8; 16]), builder }
    }

    #[test]
    fn batches_continue_their_logs_however_they_share_buffers() {
        let durable = Head { next_seq: Seq(5), digest: Digest::from_bytes([1; 32]) };
        // Short ones of different logs, of the same log, long ones between, and more than a bundle holds.
        let mut items = vec![open(0, &[b"a"]), open(1, &[b"b"]), open(0, &[b"c", b"d"]), open(1, &[&[7; 5000]])];
        items.extend((0..200).map(|slot| open(slot, &[&[slot as u8; 600]])));
        let slots: Vec<_> = items.iter().map(Item::slot).collect();
        let mut sealer = Sealer::new(Compression::None);
        let sealed = sealer.seal(items, &vec![Some(durable); slots.len()]);
        assert_eq!(sealed.slots, slots);
        let mut heads = vec![durable; 200];
        for (entry, slot) in sealed.entries.iter().zip(slots) {
            let FrameEntry::Batch(batch) = entry else { panic!("only batches were queued") };
            let head = Head { next_seq: batch.first_seq(), digest: batch.header().previous };
            assert_eq!(head, heads[slot], "slot {slot}");
            let reread = crate::batch::Batch::parse(batch.bytes().clone()).unwrap();
            assert_eq!(batch.digest(), reread.digest());
            heads[slot] = batch.head();
        }
        assert_eq!(sealed.heads(), heads.into_iter().enumerate().collect::<Vec<_>>());
        let entries: Vec<_> = sealed.entries.iter().map(|entry| entry.bytes().to_vec()).collect();
        assert_eq!(sealed.pieces.concat(), entries.concat());
        assert!(sealed.pieces.len() < 10, "{} pieces", sealed.pieces.len());
        assert!(sealed.pieces.iter().all(|piece| piece.len() <= BUNDLE_LEN));
        assert!(sealer.last_entry.iter().all(|last| *last == 0), "it is ready for the next group");
    }

    fn batch_of(entry: &FrameEntry) -> Option<&crate::batch::Batch> {
        if let FrameEntry::Batch(batch) = entry { Some(batch) } else { None }
    }

    #[test]
    fn a_log_that_is_announced_again_goes_on_where_it_ends() {
        let genesis = Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("n").unwrap(), [1; 16]);
        let announcement =
            || Item::Announcement { slot: 0, announcement: Box::new(Announcement::new(genesis.clone())) };
        let durable = Head { next_seq: Seq(5), digest: Digest::from_bytes([1; 32]) };
        for (head, expected) in [(Some(durable), durable), (None, genesis.head())] {
            let items = vec![announcement(), open(0, &[b"a"]), announcement(), open(0, &[b"b"])];
            let sealed = Sealer::new(Compression::None).seal(items, &[head; 4]);
            let batches: Vec<_> = sealed.entries.iter().filter_map(batch_of).collect();
            assert_eq!(batches[0].header().previous, expected.digest);
            if head.is_some() {
                assert_eq!((batches[0].first_seq(), batches[1].first_seq()), (Seq(5), Seq(6)));
                assert_eq!(batches[1].header().previous, batches[0].digest());
            }
        }
    }
}
