//! One file: what processes see of it, what the medium holds, and the writes between.

use std::{ops::Range, sync::Arc};

use crate::rng::Rng;

/// Space is given out in blocks of this many bytes; the kernel writes back whole ones.
pub(crate) const BLOCK_BYTES: u64 = 4096;
const SECTOR_BYTES: usize = 512;

/// A change that no flush has covered.
#[derive(Debug, Clone)]
enum Unsynced {
    Write { offset: usize, bytes: Arc<[u8]> },
    SetLen(usize),
}

/// A file, apart from its names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Medium {
    /// What reads return.
    cached: Arc<Vec<u8>>,
    /// What the medium holds for certain.
    durable: Arc<Vec<u8>>,
    /// In the order in which they were made.
    unsynced: Vec<Unsynced>,
    /// For each block whether space is taken for it; a hole takes none.
    allocated: Vec<bool>,
}

/// How much of what was not flushed a crash spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mercy {
    Nothing,
    Everything,
    /// The first changes in order, the last of them torn.
    Front,
    /// Any changes, each torn, in any order.
    Any,
}

impl Mercy {
    pub(crate) fn choose(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::Front,
            _ => Self::Any,
        }
    }
}

fn blocks_of(range: Range<u64>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    (range.start / BLOCK_BYTES) as usize..range.end.div_ceil(BLOCK_BYTES) as usize
}

fn write_into(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Medium {
    pub(crate) fn len(&self) -> u64 {
        self.cached.len() as u64
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.cached
    }

    /// Bytes of the disk that it takes.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.allocated.iter().filter(|taken| **taken).count() as u64 * BLOCK_BYTES
    }

    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.cached.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        count
    }

    /// Takes space for a write of `len` bytes at `offset`, at most `free` bytes of it; how many bytes can be written.
    pub(crate) fn allocate(&mut self, offset: u64, len: u64, mut free: u64) -> u64 {
        let blocks = blocks_of(offset..offset + len);
        if self.allocated.len() < blocks.end {
            self.allocated.resize(blocks.end, false);
        }
        for block in blocks {
            if !self.allocated[block] {
                if free < BLOCK_BYTES {
                    return (block as u64 * BLOCK_BYTES).saturating_sub(offset);
                }
                free -= BLOCK_BYTES;
                self.allocated[block] = true;
            }
        }
        len
    }

    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        write_into(Arc::make_mut(&mut self.cached), offset, bytes);
        self.unsynced.push(Unsynced::Write { offset, bytes: bytes.into() });
    }

    pub(crate) fn set_len(&mut self, len: usize) {
        Arc::make_mut(&mut self.cached).resize(len, 0);
        self.allocated.truncate((len as u64).div_ceil(BLOCK_BYTES) as usize);
        self.unsynced.push(Unsynced::SetLen(len));
    }

    /// A flush that works: the kernel writes back every dirty block, whole.
    pub(crate) fn sync(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        let cached = &self.cached[..];
        let durable = Arc::make_mut(&mut self.durable);
        durable.resize(cached.len(), 0);
        for change in self.unsynced.drain(..) {
            let dirty = match change {
                Unsynced::Write { offset, bytes } => {
                    let blocks = blocks_of(offset as u64..(offset + bytes.len()) as u64);
                    blocks.start * BLOCK_BYTES as usize..blocks.end * BLOCK_BYTES as usize
                }
                Unsynced::SetLen(len) => len..usize::MAX,
            };
            let dirty = dirty.start.min(cached.len())..dirty.end.min(cached.len());
            durable[dirty.clone()].copy_from_slice(&cached[dirty]);
        }
    }

    /// A flush that fails: what was dirty is taken for clean, and is on the medium or not.
    pub(crate) fn fail_sync(&mut self, rng: &mut Rng) {
        self.settle(rng);
    }

    /// The cache is dropped: reads return what the medium holds, and what is dirty still.
    pub(crate) fn evict(&mut self) {
        let mut content = Vec::clone(&self.durable);
        for change in &self.unsynced {
            match change {
                Unsynced::Write { offset, bytes } => write_into(&mut content, *offset, bytes),
                Unsynced::SetLen(len) => content.resize(*len, 0),
            }
        }
        self.cached = Arc::new(content);
    }

    /// The power went: reads return what the medium holds.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        self.settle(rng);
        self.cached = Arc::clone(&self.durable);
        self.allocated.resize(self.len().div_ceil(BLOCK_BYTES) as usize, true);
    }

    /// Changes the bytes at rest: nothing is left to flush.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        self.sync();
        change(Arc::make_mut(&mut self.cached));
        self.durable = Arc::clone(&self.cached);
        self.allocated.resize(self.len().div_ceil(BLOCK_BYTES) as usize, true);
    }

    /// Decides of each change that was not flushed whether, and how much of it, is on the medium.
    fn settle(&mut self, rng: &mut Rng) {
        let mut changes = std::mem::take(&mut self.unsynced);
        if changes.is_empty() {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        match Mercy::choose(rng) {
            Mercy::Nothing => {}
            Mercy::Everything => changes.iter().for_each(|change| apply(durable, change)),
            Mercy::Front => {
                let whole = rng.below(changes.len() as u64) as usize;
                changes[..whole].iter().for_each(|change| apply(durable, change));
                apply_torn(durable, &changes[whole], rng);
            }
            Mercy::Any => {
                rng.shuffle(&mut changes);
                for change in &changes {
                    if rng.chance(2, 3) {
                        apply_torn(durable, change, rng);
                    }
                }
            }
        }
    }
}

fn apply(content: &mut Vec<u8>, change: &Unsynced) {
    match change {
        Unsynced::Write { offset, bytes } => write_into(content, *offset, bytes),
        Unsynced::SetLen(len) => content.resize(*len, 0),
    }
}

/// Like [`apply`], but a write may arrive in part.
fn apply_torn(content: &mut Vec<u8>, change: &Unsynced, rng: &mut Rng) {
    let Unsynced::Write { offset, bytes } = change else { return apply(content, change) };
    let cut = rng.below(bytes.len() as u64 + 1) as usize;
    match rng.below(8) {
        0..4 => apply(content, change),
        4 => write_into(content, *offset, &bytes[..cut]),
        5 => write_into(content, offset + cut, &bytes[cut..]),
        // The length arrived before the bytes did.
        6 => content.resize(content.len().max(offset + cut), 0),
        _ => {
            let mut at = 0;
            while at < bytes.len() {
                let end = ((offset + at) / SECTOR_BYTES + 1) * SECTOR_BYTES - offset;
                let end = end.min(bytes.len());
                if rng.chance(1, 2) {
                    write_into(content, offset + at, &bytes[at..end]);
                }
                at = end;
            }
        }
    }
}
