//! Following the changes to a collection.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{Collection, Key, VersionId, record, versions::Version};
use crate::{
    cursor::Cursor,
    error::Result,
    follow::{Follow, FollowStream},
    read::Record,
};

/// The writes of one transaction to a collection.
#[derive(Debug, Clone)]
pub struct Change<K, V> {
    /// Which record holds it.
    pub id: VersionId,
    /// The keys and what was written to each. A key that is none of this type is left out.
    pub writes: Vec<(K, Version<V>)>,
}

/// Blocking iterator over the changes to a collection, its own included, in the order in which they become durable here;
/// see [`Follow`]. None is left out and none comes twice; that a version is superseded already, by something that
/// came before it, changes nothing about that.
#[derive(Debug)]
pub struct Changes<K, V> {
    collection: Collection<K, V>,
    records: Follow,
}

impl<K: Key, V> Changes<K, V> {
    pub(super) fn new(collection: Collection<K, V>, records: Follow) -> Self {
        Self { collection, records }
    }

    /// Where it stands: after the last change it gave. Records of others than the collection are passed over.
    pub fn cursor(&self) -> &Cursor {
        self.records.cursor()
    }

    /// Waits for the next change, but no longer than `timeout`; see [`Follow::next_timeout`].
    ///
    /// # Errors
    ///
    /// As of [`Follow::next_timeout`](crate::Follow::next_timeout).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Change<K, V>>> {
        let collection = &self.collection;
        let record = self.records.next_timeout_of(timeout, |record| is_change(collection, record))?;
        Ok(record.map(|record| change(collection, &record)))
    }

    /// The same as a [`Stream`](futures_core::Stream), for async code.
    pub fn into_stream(self) -> ChangeStream<K, V> {
        ChangeStream { collection: self.collection, records: self.records.into_stream() }
    }
}

impl<K: Key, V> Iterator for Changes<K, V> {
    type Item = Result<Change<K, V>>;

    fn next(&mut self) -> Option<Self::Item> {
        let collection = &self.collection;
        let is_wanted = |item: &Result<Record>| item.as_ref().map_or(true, |record| is_change(collection, record));
        let item = self.records.by_ref().find(is_wanted)?;
        Some(item.map(|record| change(collection, &record)))
    }
}

/// Stream over the changes to a collection. Cancel-safe.
#[derive(Debug)]
pub struct ChangeStream<K, V> {
    collection: Collection<K, V>,
    records: FollowStream,
}

impl<K, V> ChangeStream<K, V> {
    /// Where it stands: after the last change it gave.
    pub fn cursor(&self) -> &Cursor {
        self.records.cursor()
    }
}

impl<K: Key, V> futures_core::Stream for ChangeStream<K, V> {
    type Item = Result<Change<K, V>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match ready!(Pin::new(&mut this.records).poll_next(cx)) {
                Some(Ok(record)) if !is_change(&this.collection, &record) => {}
                item => return Poll::Ready(item.map(|record| record.map(|record| change(&this.collection, &record)))),
            }
        }
    }
}

/// Whether a record writes to the collection.
fn is_change<K, V>(collection: &Collection<K, V>, record: &Record) -> bool {
    let is_here = |write: &record::Write<'_>| write.collection == collection.name.as_str();
    record.is_of_collection() && record::decode(record.body()).is_ok_and(|writes| writes.iter().any(is_here))
}

fn change<K: Key, V>(collection: &Collection<K, V>, record: &Record) -> Change<K, V> {
    // It was decoded a moment ago.
    let writes = record::decode(record.body()).unwrap_or_default();
    let here = writes.into_iter().filter(|write| write.collection == collection.name.as_str());
    let with_key = |write: record::Write<'_>| {
        let key = K::decode(write.key)?;
        Some((key, collection.version_of(record, &write)))
    };
    Change { id: VersionId { log: record.log(), seq: record.seq() }, writes: here.filter_map(with_key).collect() }
}
