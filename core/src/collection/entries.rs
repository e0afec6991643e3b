//! Walking along the keys of a collection.

use std::{
    collections::VecDeque,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use super::{
    Collection, Engine, Key, encode_key,
    engine::{FullKey, prefix_of},
    state::KeyState,
    versions::Versions,
};
use crate::error::{Error, ErrorKind, Result};

/// How many keys are looked up at a time.
const PAGE_KEYS: usize = 256;

/// The first key after all that begin with a prefix, whose first byte is a length of at most 128.
pub(super) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut after = prefix.to_vec();
    // Names are ASCII, so their last byte can be counted up.
    if let Some(last) = after.last_mut() {
        *last += 1;
    }
    after
}

impl<K: Key, V> Collection<K, V> {
    pub(super) fn pages(&self, range: impl RangeBounds<K>, only_conflicts: bool) -> Result<Pages> {
        let prefix = prefix_of(self.name());
        let full = |key: &K| Ok::<_, Error>([&prefix[..], &encode_key(key)?].concat());
        let start = match range.start_bound() {
            Bound::Included(key) => Bound::Included(full(key)?),
            Bound::Excluded(key) => Bound::Excluded(full(key)?),
            Bound::Unbounded => Bound::Included(prefix.clone()),
        };
        let end = match range.end_bound() {
            Bound::Included(key) => Bound::Included(full(key)?),
            Bound::Excluded(key) => Bound::Excluded(full(key)?),
            Bound::Unbounded => Bound::Excluded(after_prefix(&prefix)),
        };
        Ok(Pages { start: Some(start), end, only_conflicts, page: VecDeque::new() })
    }

    fn decode_key(&self, key: &FullKey) -> Result<K> {
        let not_of_type = || Error::NotAKey { collection: self.name().to_owned(), key: self.shown(key) };
        K::decode(self.without_prefix(key)).ok_or_else(not_of_type)
    }

    fn without_prefix<'a>(&self, key: &'a FullKey) -> &'a [u8] {
        &key[1 + self.name().len()..]
    }

    fn shown(&self, key: &FullKey) -> String {
        String::from_utf8_lossy(self.without_prefix(key)).into_owned()
    }

    /// An error of reading what a key holds, with the key.
    fn of_key(&self, key: &FullKey, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Damaged => {
                Error::Unread { collection: self.name().to_owned(), key: self.shown(key), error: Box::new(error) }
            }
            _ => error,
        }
    }
}

/// Keys of the index, some at a time.
#[derive(Debug)]
pub(super) struct Pages {
    /// Where the next page begins; `None` after the last.
    start: Option<Bound<Vec<u8>>>,
    end: Bound<Vec<u8>>,
    only_conflicts: bool,
    page: VecDeque<(FullKey, KeyState)>,
}

impl Pages {
    /// The next key that holds something.
    fn next(&mut self, engine: &Arc<Engine>) -> Option<Result<FullKey>> {
        loop {
            while let Some((key, state)) = self.page.pop_front() {
                let is_shown = match state.live() {
                    [] => false,
                    [only] => !self.only_conflicts && !only.is_deleted,
                    _ => true,
                };
                if is_shown {
                    return Some(Ok(key));
                }
            }
            let start = self.start.take()?;
            let bounds = (start.as_ref().map(Vec::as_slice), self.end.as_ref().map(Vec::as_slice));
            if is_empty(bounds) {
                return None;
            }
            match engine.keys(bounds, PAGE_KEYS, self.only_conflicts) {
                Ok((page, is_more)) => {
                    let last = page.last().map(|(key, _)| Bound::Excluded(key.to_vec()));
                    self.start = last.filter(|_| is_more);
                    self.page = page.into();
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Whether no key can be between the bounds; ranges of maps and tables panic where the end is before the start.
fn is_empty((start, end): (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start >= end,
        _ => false,
    }
}

/// Iterator over keys and what they hold.
#[derive(Debug)]
pub struct Entries<K, V> {
    pub(super) pages: Pages,
    pub(super) collection: Collection<K, V>,
}

impl<K: Key, V> Iterator for Entries<K, V> {
    type Item = Result<(K, Versions<V>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { pages, collection } = self;
        let entry = pages.next(&collection.engine)?.and_then(|key| {
            let found = collection.decode_key(&key)?;
            let versions = collection.get(&found).map_err(|error| collection.of_key(&key, error))?;
            Ok((found, versions))
        });
        Some(entry)
    }
}

/// Iterator over keys.
#[derive(Debug)]
pub struct Keys<K, V> {
    pub(super) pages: Pages,
    pub(super) collection: Collection<K, V>,
}

impl<K: Key, V> Iterator for Keys<K, V> {
    type Item = Result<K>;

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.pages.next(&self.collection.engine)?;
        Some(key.and_then(|key| self.collection.decode_key(&key)))
    }
}
