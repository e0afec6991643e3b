//! Rows of keys that have changed and are not in the index yet, or are being written to it.
//!
//! Most keys that are looked for in a layer are not there, and to find that out in a large one takes as long as to find
//! one: each step down meets a key that the processor has not seen for long. So a filter is asked first.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    ops::Bound,
};

use super::state::{KeyState, LogNumbers};

/// About what an entry takes besides its bytes: its place in the tree, which is two thirds full, what an allocator adds, and the filter.
const ENTRY_BYTES: usize = 48;

/// Rows by key.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    entries: BTreeSet<Entry>,
    filter: Filter,
    bytes: usize,
    /// In which an entry is made.
    buffer: Vec<u8>,
}

impl Layer {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn row(&self, key: &[u8]) -> Option<&[u8]> {
        if self.filter.may_hold(key) { self.entries.get(key).map(Entry::row) } else { None }
    }

    /// Sets the state of a key.
    pub(super) fn insert(&mut self, key: &[u8], state: &KeyState, numbers: &mut impl LogNumbers) {
        let entry = Entry::new(key, state, numbers, &mut self.buffer);
        self.replace(entry);
    }

    fn replace(&mut self, entry: Entry) {
        self.filter.add(entry.key(), self.entries.iter().map(Entry::key), self.entries.len());
        self.bytes += entry.0.len() + ENTRY_BYTES;
        if let Some(replaced) = self.entries.replace(entry) {
            self.bytes -= replaced.0.len() + ENTRY_BYTES;
        }
    }

    /// Takes in what a newer layer holds.
    pub(super) fn extend(&mut self, newer: Self) {
        newer.entries.into_iter().for_each(|entry| self.replace(entry));
    }

    /// Each key with its row and whether it is in conflict, ascending.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
        self.entries.iter().map(|entry| (entry.key(), entry.row(), entry.is_conflict()))
    }

    /// Keys in a range, or those of them that are in conflict, ascending.
    pub(super) fn keys(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        only_conflicts: bool,
    ) -> impl Iterator<Item = &[u8]> {
        let is_asked_for = move |entry: &&Entry| !only_conflicts || entry.is_conflict();
        self.entries.range::<[u8], _>(range).filter(is_asked_for).map(Entry::key)
    }
}

/// A key and its row in one allocation: the length of the key, with [`Entry::CONFLICT`] if it is in conflict (2 bytes), the key, the row.
#[derive(Debug, Clone)]
struct Entry(Box<[u8]>);

impl Entry {
    /// Above any length: a key has 4225 bytes at most, with its collection.
    const CONFLICT: u16 = 1 << 15;

    fn new(key: &[u8], state: &KeyState, numbers: &mut impl LogNumbers, buffer: &mut Vec<u8>) -> Self {
        let head = key.len() as u16 | if state.is_conflict() { Self::CONFLICT } else { 0 };
        buffer.clear();
        buffer.extend_from_slice(&head.to_le_bytes());
        buffer.extend_from_slice(key);
        state.encode(buffer, numbers);
        Self(buffer[..].into())
    }

    fn head(&self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }

    fn is_conflict(&self) -> bool {
        self.head() & Self::CONFLICT != 0
    }

    fn row_start(&self) -> usize {
        2 + usize::from(self.head() & !Self::CONFLICT)
    }

    fn key(&self) -> &[u8] {
        &self.0[2..self.row_start()]
    }

    fn row(&self) -> &[u8] {
        &self.0[self.row_start()..]
    }
}

/// Entries are their keys, to the tree that they are in.
impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

/// Tells of most keys that are not in a layer that they are not: of at least 99 in 100. B. Bloom, *Space/Time Trade-offs in Hash Coding
/// with Allowable Errors*, 1970, with the bits of one key in one word.
#[derive(Debug, Clone, Default)]
struct Filter {
    words: Box<[u64]>,
    seed: RandomState,
}

impl Filter {
    /// So each has 16 bits, and up to twice as many after it has grown.
    const KEYS_PER_WORD: usize = 4;

    /// The word of a key and the four bits that it sets there.
    fn place(&self, key: &[u8]) -> (usize, u64) {
        let hash = self.seed.hash_one(key);
        let bits = (0..4).map(|bit| 1 << (hash >> (6 * bit) & 63)).fold(0, |bits, bit: u64| bits | bit);
        // A power of two; nothing of the hash is used twice while there are fewer than 2^40.
        ((hash >> 24) as usize & (self.words.len() - 1), bits)
    }

    fn may_hold(&self, key: &[u8]) -> bool {
        if self.words.is_empty() {
            return false;
        }
        let (word, bits) = self.place(key);
        self.words[word] & bits == bits
    }

    /// Adds a key to `count` others, which are added again if it has to grow.
    fn add<'a>(&mut self, key: &[u8], others: impl Iterator<Item = &'a [u8]>, count: usize) {
        if count >= self.words.len() * Self::KEYS_PER_WORD {
            self.words = vec![0; (2 * self.words.len()).max(16)].into();
            others.for_each(|other| self.set(other));
        }
        self.set(key);
    }

    fn set(&mut self, key: &[u8]) {
        let (word, bits) = self.place(key);
        self.words[word] |= bits;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use counterfoil_storage::{Hlc, LogId, Seq};
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::collection::{index::Numbers, record::Seen};

    /// The state after writes by as many logs that know nothing of each other.
    fn state(logs: u8) -> KeyState {
        let mut state = KeyState::default();
        for log in 0..logs {
            let place = Seen { log: LogId::from_bytes([log; 16]), seq: Seq(7), prefix: None, time: Hlc::ZERO };
            state.apply(place, [], false);
        }
        state
    }

    proptest! {
        /// The model is a map.
        #[test]
        fn a_layer_holds_the_last_row_of_each_key(
            steps in vec((vec(0_u8..3, 0..4), 1_u8..4), 0..200), newer in vec((vec(0_u8..3, 0..4), 1_u8..4), 0..50),
            start in vec(0_u8..3, 0..4), only_conflicts: bool,
        ) {
            let (mut numbers, mut model) = (Numbers::default(), BTreeMap::new());
            let mut filled = |steps: &[(Vec<u8>, u8)]| {
                let mut layer = Layer::default();
                for (key, logs) in steps {
                    layer.insert(key, &state(*logs), &mut numbers);
                    model.insert(key.clone(), state(*logs));
                }
                layer
            };
            let mut layer = filled(&steps);
            layer.extend(filled(&newer));
            let rows: Vec<_> = layer.rows().map(|(key, row, is_conflict)| {
                (key.to_vec(), KeyState::decode(row, numbers.logs()).unwrap(), is_conflict)
            }).collect();
            let expected: Vec<_> =
                model.iter().map(|(key, state)| (key.clone(), state.clone(), state.is_conflict())).collect();
            prop_assert_eq!(&rows, &expected);
            let keys = layer.keys((Bound::Excluded(&start), Bound::Unbounded), only_conflicts);
            let asked_for = expected.iter().filter(|(key, _, is_conflict)| *key > start && (!only_conflicts || *is_conflict));
            prop_assert!(keys.eq(asked_for.map(|(key, ..)| &key[..])));
            prop_assert_eq!(layer.is_empty(), expected.is_empty());
            let bytes = layer.rows().map(|(key, row, _)| 2 + key.len() + row.len() + ENTRY_BYTES).sum::<usize>();
            prop_assert_eq!(layer.bytes(), bytes);
            for (key, _) in steps.iter().chain(&newer) {
                prop_assert_eq!(layer.row(key).and_then(|row| KeyState::decode(row, numbers.logs())), model.get(key).cloned());
                let longer = [&key[..], b"x"].concat();
                prop_assert_eq!(layer.row(&longer), None);
            }
        }
    }

    #[test]
    fn a_filter_tells_of_99_in_100_keys_that_are_not_there_and_of_none_that_is() {
        let (mut filter, mut keys) = (Filter::default(), Vec::new());
        for number in 0..20_000_u32 {
            let key = number.to_be_bytes();
            filter.add(&key, keys.iter().map(|key: &[u8; 4]| &key[..]), keys.len());
            keys.push(key);
        }
        assert!(keys.iter().all(|key| filter.may_hold(key)));
        let taken_for_there = (20_000..120_000_u32).filter(|number| filter.may_hold(&number.to_be_bytes())).count();
        assert!(taken_for_there < 1_000, "{taken_for_there} of 100,000");
        assert!(filter.words.len() * size_of::<u64>() <= keys.len() * 4);
    }
}
