//! Tells of most keys that are not in the index that they are not, without looking there.
//!
//! Who puts keys that are new looks each up, and would go through the tree for it and mostly read a page from the disk.

use std::hash::{BuildHasher as _, RandomState};

/// Tells of at least 99 in 100 keys that were not added that they were not, as long as no more are added than it is made for.
/// B. Bloom, *Space/Time Trade-offs in Hash Coding with Allowable Errors*, 1970, with the bits of one key in one word.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    /// A power of two of them.
    words: Box<[u64]>,
    seed: RandomState,
    /// How many keys were added that it did not take for added before.
    count: usize,
    /// It takes as much memory as it may.
    is_largest: bool,
}

impl Filter {
    /// So each has 16 to 32 bits.
    const KEYS_PER_WORD: usize = 4;

    /// For so many keys, or as many as `bytes_max` are enough for: of more it tells the less the more they are.
    pub(super) fn for_keys(count: usize, bytes_max: usize) -> Self {
        let words_max = (bytes_max / size_of::<u64>()).checked_ilog2().map_or(1, |log| 1 << log);
        let words = vec![0; count.div_ceil(Self::KEYS_PER_WORD).next_power_of_two().min(words_max)];
        let is_largest = words.len() == words_max;
        Self { words: words.into(), seed: RandomState::new(), count: 0, is_largest }
    }

    /// About how many keys were added.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether it is as good with so many more keys, or can't be made any better.
    pub(super) fn has_room_for(&self, more: usize) -> bool {
        self.is_largest || self.count + more <= self.words.len() * Self::KEYS_PER_WORD
    }

    /// The word of a key and the four bits that it sets there.
    fn place(&self, key: &[u8]) -> (usize, u64) {
        let hash = self.seed.hash_one(key);
        let bits = (0..4).map(|bit| 1 << (hash >> (6 * bit) & 63)).fold(0, |bits, bit: u64| bits | bit);
        // Nothing of the hash is used twice while there are fewer than 2^40.
        ((hash >> 24) as usize & (self.words.len() - 1), bits)
    }

    pub(super) fn may_hold(&self, key: &[u8]) -> bool {
        let (word, bits) = self.place(key);
        self.words[word] & bits == bits
    }

    pub(super) fn add(&mut self, key: &[u8]) {
        let (word, bits) = self.place(key);
        self.count += usize::from(self.words[word] & bits != bits);
        self.words[word] |= bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(keys: u32, bytes_max: usize) -> Filter {
        let mut filter = Filter::for_keys(keys as usize, bytes_max);
        (0..keys).for_each(|key| filter.add(&key.to_be_bytes()));
        assert!((0..keys).all(|key| filter.may_hold(&key.to_be_bytes())));
        filter
    }

    fn taken_for_there(filter: &Filter) -> usize {
        (1_000_000..1_100_000_u32).filter(|number| filter.may_hold(&number.to_be_bytes())).count()
    }

    #[test]
    fn a_filter_tells_of_99_in_100_keys_that_are_not_there_and_of_none_that_is() {
        for keys in [20_000, 1 << 15] {
            let filter = filled(keys, usize::MAX);
            let taken_for_there = taken_for_there(&filter);
            assert!(taken_for_there < 1_000, "{taken_for_there} of 100,000");
            assert!(filter.words.len() * size_of::<u64>() <= keys as usize * 4);
        }
    }

    #[test]
    fn a_filter_takes_no_more_than_it_may_and_tells_less_then() {
        let filter = filled(20_000, 20_000);
        assert_eq!(filter.words.len() * size_of::<u64>(), 16_384);
        assert!((1_000..50_000).contains(&taken_for_there(&filter)));
        assert_eq!(filled(3, 0).words.len(), 1);
        assert!(filter.has_room_for(1_000_000), "it can't be better");
    }

    #[test]
    fn a_filter_knows_how_many_keys_it_has_and_how_many_more_it_is_good_for() {
        let mut filter = filled(20_000, usize::MAX);
        (0..20_000_u32).for_each(|key| filter.add(&key.to_be_bytes()));
        assert!((19_900..=20_000).contains(&filter.count()), "{}", filter.count());
        assert!(filter.has_room_for(12_000) && !filter.has_room_for(13_000));
        assert!(!Filter::for_keys(0, 100).may_hold(b""));
    }
}
