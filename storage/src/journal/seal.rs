//! Sealing what was queued: records become batches that continue their logs, announcements and batches
//! become the entries of a frame.

use bytes::BytesMut;

use super::{
    frame::FrameEntry,
    queue::{Item, SealedHead},
};
use crate::{
    batch::{BatchBuilder, HEADER_LEN},
    compression::Compression,
    ids::Head,
};

/// Batches up to this length, in bytes, share a buffer: a commit of many practices' records then takes few
/// allocations. Whoever keeps one of their records keeps at most [`ARENA_LEN`] bytes alive.
const SMALL_BATCH_LEN: usize = 4 << 10;

const ARENA_LEN: usize = 64 << 10;

/// The entries of a frame to be.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    pub(crate) entries: Vec<FrameEntry>,
    /// The slot of each entry's log.
    pub(crate) slots: Vec<usize>,
    /// Slot and entry of the last batch of each log that was sealed here.
    pub(crate) last: Vec<(usize, usize)>,
    /// Emptied, to be filled again.
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
}

/// Seals one group after the other.
#[derive(Debug)]
pub(crate) struct Sealer {
    compression: Compression,
    arena: BytesMut,
    /// By slot, while a group is sealed: its last entry + 1, or 0.
    last_entry: Vec<u32>,
}

impl Sealer {
    pub(crate) fn new(compression: Compression) -> Self {
        Self { compression, arena: BytesMut::new(), last_entry: Vec::new() }
    }

    /// Seals what was queued. `heads` says for each item where its log durably ends, if it is known.
    pub(crate) fn seal(&mut self, items: Vec<Item>, heads: &[Option<Head>]) -> Sealed {
        let mut sealed = Sealed {
            entries: Vec::with_capacity(items.len()),
            slots: Vec::with_capacity(items.len()),
            ..Sealed::default()
        };
        for (item, durable) in items.into_iter().zip(heads) {
            let slot = item.slot();
            let is_in_order = !matches!(item, Item::OutOfOrder { .. });
            let head = if is_in_order { self.advance(slot, &sealed.entries, *durable) } else { None };
            sealed.slots.push(slot);
            sealed.entries.push(match item {
                Item::Announcement { announcement, .. } => FrameEntry::Announcement(announcement),
                Item::OutOfOrder { entry, .. } => entry,
                Item::Batch { batch, .. } => {
                    let follows = Head { next_seq: batch.first_seq(), digest: batch.header().previous };
                    assert_eq!(head, Some(follows), "a batch continues its log");
                    FrameEntry::Batch(batch)
                }
                Item::Open { log, mut builder, .. } => {
                    let head = head.expect("a log is announced before its first batch");
                    sealed.last.push((slot, sealed.entries.len()));
                    builder.compress(self.compression);
                    FrameEntry::Batch(if HEADER_LEN + builder.body_len() > SMALL_BATCH_LEN {
                        builder.seal(log, head)
                    } else {
                        if self.arena.capacity() < HEADER_LEN + builder.body_len() {
                            self.arena = BytesMut::with_capacity(ARENA_LEN);
                        }
                        let batch = builder.seal_in(&mut self.arena, log, head);
                        if builder.capacity() <= SMALL_BATCH_LEN {
                            sealed.builders.push(builder);
                        }
                        batch
                    })
                }
            });
        }
        for slot in &sealed.slots {
            // One with nothing but what is out of order need not have a place.
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

    /// The head of a log after its last entry in this group, or as far as it is durable. The next entry
    /// is the log's last from here on.
    fn advance(&mut self, slot: usize, entries: &[FrameEntry], durable: Option<Head>) -> Option<Head> {
        if self.last_entry.len() <= slot {
            self.last_entry.resize(slot + 1, 0);
        }
        let last = std::mem::replace(&mut self.last_entry[slot], entries.len() as u32 + 1);
        match last.checked_sub(1).map(|index| &entries[index as usize]) {
            Some(FrameEntry::Announcement(announcement)) => Some(announcement.genesis.head()),
            Some(FrameEntry::Batch(batch)) => Some(batch.head()),
            Some(FrameEntry::Rewritten(_) | FrameEntry::Floor(_) | FrameEntry::Lost(_)) | None => durable,
        }
    }
}
