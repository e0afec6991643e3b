//! Rows of keys that have changed and are not in the index yet, or are being written to it.
//!
//! Rows lie one behind the other as they came, and are found by hash: most keys that are looked for in a layer are not there, which
//! is found out in one step, and no row costs an allocation. They are put in order when somebody asks for that, at the
//! latest whoever writes them to the index.

use std::{
    hash::{BuildHasher as _, RandomState},
    mem,
    ops::{Bound, Range, RangeBounds},
    sync::Mutex,
};

use hashbrown::HashTable;

use super::state::{KeyState, LogNumbers};
use crate::store::lock;

/// About what an entry takes besides its bytes: its place, by hash and in the order.
const ENTRY_BYTES: usize = 24;

/// Entries are kept in pieces of up to as many bytes, but for longer ones.
const PIECE_LEN: usize = 256 << 10;

/// Rows by key.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pieces: Vec<Vec<u8>>,
    /// Of entries, by their numbers, which they have in the order in which they came.
    places: Vec<Place>,
    /// Numbers by the hash of the key.
    by_key: HashTable<u32>,
    seed: RandomState,
    order: Order,
    bytes: usize,
    /// In which an entry is made.
    buffer: Vec<u8>,
}

/// Where an entry is: in which piece, and from which byte on.
#[derive(Debug, Clone, Copy)]
struct Place {
    piece: u32,
    start: u32,
}

/// The first numbers of entries, in the order of their keys: as many as there were when somebody last asked.
#[derive(Debug, Default)]
struct Order(Mutex<Vec<u32>>);

impl Clone for Order {
    fn clone(&self) -> Self {
        Self(Mutex::new(lock(&self.0).clone()))
    }
}

impl Layer {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many keys it holds.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn row(&self, key: &[u8]) -> Option<&[u8]> {
        let hash = self.seed.hash_one(key);
        let number = self.by_key.find(hash, |number| self.entry(*number).key() == key)?;
        Some(self.entry(*number).row())
    }

    /// Sets the state of a key.
    pub(super) fn insert(&mut self, key: &[u8], state: &KeyState, numbers: &mut impl LogNumbers) {
        let mut buffer = mem::take(&mut self.buffer);
        Entry::encode(key, state, numbers, &mut buffer);
        self.replace(Entry(&buffer));
        self.buffer = buffer;
    }

    fn replace(&mut self, entry: Entry<'_>) {
        let key = entry.key();
        let hash = self.seed.hash_one(key);
        let Self { pieces, places, .. } = &*self;
        match self.by_key.find(hash, |number| entry_at(pieces, places[*number as usize]).key() == key) {
            Some(&number) => {
                let place = self.places[number as usize];
                let len = self.entry(number).len();
                if len == entry.len() {
                    let start = place.start as usize;
                    self.pieces[place.piece as usize][start..start + len].copy_from_slice(entry.bytes());
                } else {
                    // What it was stays where it is, and counts, until all of the layer is written: mostly the length is the same.
                    self.places[number as usize] = self.store(entry);
                }
            }
            None => {
                let place = self.store(entry);
                self.places.push(place);
                self.bytes += ENTRY_BYTES;
                let Self { pieces, places, by_key, seed, .. } = self;
                // So many entries would take more than 128 GiB.
                let number = places.len() as u32 - 1;
                by_key.insert_unique(hash, number, |number| {
                    seed.hash_one(entry_at(pieces, places[*number as usize]).key())
                });
            }
        }
    }

    fn store(&mut self, entry: Entry<'_>) -> Place {
        let is_full = |piece: &Vec<u8>| piece.capacity() - piece.len() < entry.len();
        self.bytes += entry.len();
        if self.pieces.last().is_none_or(is_full) {
            let len = self.pieces.last().map_or(4096, |last| (2 * last.capacity()).min(PIECE_LEN));
            self.pieces.push(Vec::with_capacity(len.max(entry.len())));
        }
        let piece = self.pieces.len() - 1;
        let start = self.pieces[piece].len();
        self.pieces[piece].extend_from_slice(entry.bytes());
        Place { piece: piece as u32, start: start as u32 }
    }

    fn entry(&self, number: u32) -> Entry<'_> {
        entry_at(&self.pieces, self.places[number as usize])
    }

    /// Takes in what a newer layer holds.
    pub(super) fn extend(&mut self, newer: &Self) {
        (0..newer.len() as u32).for_each(|number| self.replace(newer.entry(number)));
    }

    /// Each key with its row and whether it is in conflict, ascending.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&[u8], &[u8], bool)> {
        let numbers = self.with_order(<[u32]>::to_vec);
        numbers.into_iter().map(move |number| {
            let entry = self.entry(number);
            (entry.key(), entry.row(), entry.is_conflict())
        })
    }

    /// Up to `limit` keys in a range, or of those of them that are in conflict, ascending.
    pub(super) fn keys(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
        only_conflicts: bool,
    ) -> Vec<Box<[u8]>> {
        let (start, end) = ((range.0, Bound::Unbounded), (Bound::Unbounded, range.1));
        let is_in = |range, number: &u32| RangeBounds::<[u8]>::contains::<[u8]>(&range, self.entry(*number).key());
        self.with_order(|order| {
            let first = order.partition_point(|number| !is_in(start, number));
            let numbers = order[first..].iter().take_while(|number| is_in(end, number));
            let entries = numbers.map(|number| self.entry(*number));
            let asked_for = entries.filter(|entry| !only_conflicts || entry.is_conflict());
            asked_for.take(limit).map(|entry| entry.key().into()).collect()
        })
    }

    /// Shows the numbers of all entries, in the order of their keys.
    fn with_order<T>(&self, look: impl FnOnce(&[u32]) -> T) -> T {
        let mut order = lock(&self.order.0);
        let old = order.len();
        if old < self.places.len() {
            let new = self.sorted(old as u32..self.places.len() as u32);
            order.resize(self.places.len(), 0);
            let mut end = old;
            // From the back, so that each is moved once at most.
            for (count, number) in new.into_iter().enumerate().rev() {
                let key = self.entry(number).key();
                let place = order[..end].partition_point(|other| self.entry(*other).key() < key);
                order.copy_within(place..end, place + count + 1);
                order[place + count] = number;
                end = place;
            }
        }
        look(&order)
    }

    /// Numbers in the order of their keys.
    fn sorted(&self, numbers: Range<u32>) -> Vec<u32> {
        let key = |number: u32| self.entry(number).key();
        let first = key(numbers.start);
        let alike = |number| first.iter().zip(key(number)).take_while(|(one, other)| one == other).count();
        let shared = numbers.clone().map(alike).min().unwrap_or(0);
        // What follows that tells most keys apart without a look at where they are.
        let head = |number: u32| {
            let rest = &key(number)[shared..];
            let mut head = [0; 8];
            head[..rest.len().min(8)].copy_from_slice(&rest[..rest.len().min(8)]);
            (u64::from_be_bytes(head), number)
        };
        let mut heads: Vec<_> = numbers.map(head).collect();
        heads.sort_unstable_by(|(head, number), (other_head, other)| {
            head.cmp(other_head).then_with(|| key(*number).cmp(key(*other)))
        });
        heads.into_iter().map(|(_, number)| number).collect()
    }
}

fn entry_at(pieces: &[Vec<u8>], place: Place) -> Entry<'_> {
    Entry(&pieces[place.piece as usize][place.start as usize..])
}

/// A key and its row: the length of the key, with [`Entry::CONFLICT`] if it is in conflict (2 bytes), and of the row (4), the key, the
/// row. Whatever follows is no part of it.
#[derive(Debug, Clone, Copy)]
struct Entry<'a>(&'a [u8]);

impl<'a> Entry<'a> {
    const HEAD_LEN: usize = 6;

    /// Above any length: a key has 4225 bytes at most, with its collection.
    const CONFLICT: u16 = 1 << 15;

    fn encode(key: &[u8], state: &KeyState, numbers: &mut impl LogNumbers, out: &mut Vec<u8>) {
        let key_len = key.len() as u16 | if state.is_conflict() { Self::CONFLICT } else { 0 };
        out.clear();
        out.extend_from_slice(&key_len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(key);
        state.encode(out, numbers);
        let row_len = out.len() - Self::HEAD_LEN - key.len();
        out[2..Self::HEAD_LEN].copy_from_slice(&(row_len as u32).to_le_bytes());
    }

    fn head(self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }

    fn is_conflict(self) -> bool {
        self.head() & Self::CONFLICT != 0
    }

    fn row_start(self) -> usize {
        Self::HEAD_LEN + usize::from(self.head() & !Self::CONFLICT)
    }

    fn len(self) -> usize {
        let row_len = u32::from_le_bytes([self.0[2], self.0[3], self.0[4], self.0[5]]);
        self.row_start() + row_len as usize
    }

    fn bytes(self) -> &'a [u8] {
        &self.0[..self.len()]
    }

    fn key(self) -> &'a [u8] {
        &self.0[Self::HEAD_LEN..self.row_start()]
    }

    fn row(self) -> &'a [u8] {
        &self.0[self.row_start()..self.len()]
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
            start in vec(0_u8..3, 0..4), end in vec(0_u8..3, 0..4), only_conflicts: bool, limit in 0_usize..50,
            looks in vec(0_usize..200, 0..4),
        ) {
            let (mut numbers, mut model) = (Numbers::default(), BTreeMap::new());
            let mut filled = |steps: &[(Vec<u8>, u8)]| {
                let mut layer = Layer::default();
                for (index, (key, logs)) in steps.iter().enumerate() {
                    layer.insert(key, &state(*logs), &mut numbers);
                    model.insert(key.clone(), state(*logs));
                    if looks.contains(&index) {
                        // From then on those before are in order.
                        assert!(layer.rows().map(|(key, ..)| key).is_sorted());
                    }
                }
                layer
            };
            let mut layer = filled(&steps);
            let newer_layer = filled(&newer);
            layer.extend(&newer_layer);
            let rows: Vec<_> = layer.rows().map(|(key, row, is_conflict)| {
                (key.to_vec(), KeyState::decode(row, numbers.logs()).unwrap(), is_conflict)
            }).collect();
            let expected: Vec<_> =
                model.iter().map(|(key, state)| (key.clone(), state.clone(), state.is_conflict())).collect();
            prop_assert_eq!(&rows, &expected);
            let keys = layer.keys((Bound::Excluded(&start), Bound::Included(&end)), limit, only_conflicts);
            let asked_for = expected.iter().filter(|(key, _, is_conflict)| {
                *key > start && *key <= end && (!only_conflicts || *is_conflict)
            });
            prop_assert!(keys.iter().map(|key| &key[..]).eq(asked_for.take(limit).map(|(key, ..)| &key[..])));
            prop_assert_eq!(layer.is_empty(), expected.is_empty());
            // With what was replaced by rows of another length.
            let bytes = layer.pieces.iter().map(Vec::len).sum::<usize>() + layer.len() * ENTRY_BYTES;
            prop_assert_eq!(layer.bytes(), bytes);
            let live = layer.rows().map(|(key, row, _)| Entry::HEAD_LEN + key.len() + row.len() + ENTRY_BYTES).sum::<usize>();
            prop_assert!(live <= bytes);
            for (key, _) in steps.iter().chain(&newer) {
                prop_assert_eq!(layer.row(key).and_then(|row| KeyState::decode(row, numbers.logs())), model.get(key).cloned());
                let longer = [&key[..], b"x"].concat();
                prop_assert_eq!(layer.row(&longer), None);
            }
        }
    }

    #[test]
    fn a_key_that_changes_over_and_over_takes_no_more_room() {
        let (mut numbers, mut layer) = (Numbers::default(), Layer::default());
        layer.insert(b"key", &state(1), &mut numbers);
        let bytes = layer.bytes();
        (0..1_000).for_each(|_| layer.insert(b"key", &state(1), &mut numbers));
        assert_eq!((layer.len(), layer.bytes()), (1, bytes));
        assert_eq!(bytes, Entry(&layer.pieces[0]).len() + ENTRY_BYTES);
    }
}
