//! Collections: values under keys, which several nodes may write at once without losing anything.

mod changes;
mod engine;
mod entries;
mod filter;
mod gaps;
mod index;
mod key;
mod layer;
mod layers;
mod needed;
mod opening;
mod record;
mod resolver;
mod state;
mod taking;
mod transaction;
mod versions;

use std::{any::type_name, fmt, marker::PhantomData, ops::RangeBounds, sync::Arc, time::SystemTime};

use bytes::Bytes;
use counterfoil_storage::{NodeName, SpaceName};

pub use changes::{Change, ChangeStream, Changes};
pub use engine::IndexProgress;
pub(crate) use engine::{Engine, OnProgress};
use engine::{NewWrite, RawVersion};
pub use entries::{Entries, Keys};
pub use gaps::MissingRange;
pub use key::Key;
pub(crate) use opening::{CollectionOptions, Collections};
pub use record::MAX_KEY_LEN;
pub use resolver::{KeepBoth, NewestByClock, Resolution, Resolver};
pub use transaction::Transaction;
use versions::Content;
pub use versions::{History, ParseVersionError, Version, VersionId, Versions};

use crate::{
    codec::{CodecError, Envelope},
    cursor::Cursor,
    error::{Error, ErrorKind, Result},
    read::Record,
    receipt::Receipt,
    space::Space,
};

/// Makes bytes of a collection's values and reads them back, with the envelope of typed values before them.
pub(crate) trait Values<V>: Send + Sync {
    /// Appends the value.
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()>;

    /// The value and the schema version that it was written with.
    fn decode(&self, body: Bytes) -> Result<(V, u16), CodecError>;
}

/// Values that are bytes.
pub(crate) struct Verbatim;

impl Values<Bytes> for Verbatim {
    fn encode(&self, value: &Bytes, out: &mut Vec<u8>) -> Result<()> {
        out.reserve_exact(Envelope::LEN + value.len());
        Envelope::VERBATIM.write(out);
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, body: Bytes) -> Result<(Bytes, u16), CodecError> {
        let (envelope, value) = Envelope::split(&body)?;
        Ok((body.slice_ref(value), envelope.schema))
    }
}

/// A write to a collection, as a record holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedWrite {
    /// The collection.
    pub collection: String,
    /// The key's bytes.
    pub key: Bytes,
    /// The value as its codec made it; `None` if it deletes.
    pub value: Option<Bytes>,
}

impl Record {
    /// The writes to collections that it holds; `None` if it holds none, or this program can't read them.
    pub fn writes(&self) -> Option<Vec<RecordedWrite>> {
        let writes = self.is_of_collection().then(|| record::decode(self.body()).ok())??;
        let recorded = |write: record::Write<'_>| RecordedWrite {
            collection: write.collection.to_owned(),
            key: self.body().slice_ref(write.key),
            value: write
                .value
                .map(|value| self.body().slice_ref(Envelope::split(value).map_or(value, |(_, value)| value))),
        };
        Some(writes.into_iter().map(recorded).collect())
    }
}

/// Values of type `V` under keys of type `K`, in a space. Cheap to clone. From [`Space::collection`], or with another
/// codec, schema versions and upgrades from [`Typed::collection`](crate::Typed::collection).
///
/// Each write is a record of this node's log in the space and names the versions that it supersedes: all that are known
/// here. So writes of two nodes that did not know of each other are recognised exactly, whatever their clocks say: both
/// versions stay, and are shown as a conflict, until a write supersedes them all. Which versions are live depends on
/// nothing but the set of writes that have arrived, not on their order or on who passed them on.
///
/// Where they are is kept in an index beside the store, which is made anew from the logs whenever it is in doubt. In a
/// store opened to read only it is made in memory, from all of the space's logs, when the first collection of the space
/// is opened.
///
/// ```
/// use counterfoil::{Store, Versions};
///
/// let (a, b) = (Store::builder().node("a").in_memory()?, Store::builder().node("b").in_memory()?);
/// let here = a.space("ward")?.collection::<u32, String>("beds")?;
/// let there = b.space("ward")?.collection::<u32, String>("beds")?;
/// here.put(&7, &"Ann".into())?;
/// there.put(&7, &"Bob".into())?;
/// a.commit()?;
/// a.mirror_in_process(&b).spaces(["ward"]).start()?.wait_mirrored(std::time::Duration::from_secs(5));
///
/// let found = there.get(&7)?;
/// assert!(found.is_conflict());
/// there.resolve(&7, &found, Some(&"Ann, Bob waits".into()))?;
/// assert_eq!(there.get(&7)?.value().map(String::as_str), Some("Ann, Bob waits"));
/// # Ok::<(), counterfoil::Error>(())
/// ```
pub struct Collection<K, V> {
    space: Space,
    engine: Arc<Engine>,
    name: SpaceName,
    values: Arc<dyn Values<V>>,
    keys: PhantomData<fn() -> K>,
}

impl<K, V> Clone for Collection<K, V> {
    fn clone(&self) -> Self {
        let Self { space, engine, name, values, keys } = self;
        let (engine, values) = (Arc::clone(engine), Arc::clone(values));
        Self { space: space.clone(), engine, name: name.clone(), values, keys: *keys }
    }
}

impl<K, V> fmt::Debug for Collection<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Collection");
        debug.field("space", self.space.name()).field("name", &self.name).field("key", &type_name::<K>());
        debug.field("value", &type_name::<V>()).finish_non_exhaustive()
    }
}

impl<K: Key, V> Collection<K, V> {
    pub(crate) fn new(space: Space, name: &str, values: Arc<dyn Values<V>>) -> Result<Self> {
        let engine = space.engine()?;
        Ok(Self { space, engine, name: SpaceName::new(name)?, values, keys: PhantomData })
    }

    /// Its name in the space.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The space that it is in.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Puts a value under a key. It supersedes all versions that are known here, also those in conflict: who wants to
    /// supersede exactly what was read uses [`resolve`](Self::resolve).
    ///
    /// **Durability**: none until the receipt says so. It is read at once in this process; and no more if the commit
    /// fails.
    ///
    /// # Errors
    ///
    /// Nothing was written: as for [`Space::append`] and [`Typed::append`](crate::Typed::append); the key is longer than
    /// [`MAX_KEY_LEN`].
    pub fn put(&self, key: &K, value: &V) -> Result<Receipt> {
        self.write(key, Some(value), None, None)
    }

    /// Puts the value of something that happened at another time; see [`Space::append_at`].
    ///
    /// # Errors
    ///
    /// As of [`put`](Self::put).
    pub fn put_at(&self, key: &K, value: &V, happened_at: SystemTime) -> Result<Receipt> {
        self.write(key, Some(value), None, Some(happened_at))
    }

    /// Deletes a key: a write like any other, which may be in conflict with others.
    ///
    /// **Durability**: as of [`put`](Self::put).
    ///
    /// # Errors
    ///
    /// As of [`put`](Self::put).
    pub fn delete(&self, key: &K) -> Result<Receipt> {
        self.write(key, None, None, None)
    }

    /// Puts a value, or deletes (`None`), on top of exactly the versions that were read.
    ///
    /// # Errors
    ///
    /// [`Error::Changed`] if the key holds other versions by now; nothing was written. Else as of [`put`](Self::put).
    pub fn resolve(&self, key: &K, read: &Versions<V>, value: Option<&V>) -> Result<Receipt> {
        self.write(key, value, Some(read.all()), None)
    }

    fn write(
        &self,
        key: &K,
        value: Option<&V>,
        read: Option<&[Version<V>]>,
        at: Option<SystemTime>,
    ) -> Result<Receipt> {
        let write = NewWrite {
            collection: self.name.clone(),
            key: encode_key(key)?,
            value: value.map(|value| self.encode_value(value)).transpose()?,
            expected: read.map(|read| read.iter().map(|version| (version.id.log, version.id.seq)).collect()),
        };
        transaction::write_all(&self.space, &[write], at)
    }

    /// Takes one version of a key, as it is stored, in place of all that were read.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchVersion`] if it is not one of those read. Else as of [`resolve`](Self::resolve).
    pub fn take(&self, key: &K, read: &Versions<V>, chosen: VersionId) -> Result<Receipt> {
        let ids: Vec<_> = read.all().iter().map(|version| (version.id.log, version.id.seq)).collect();
        if !ids.contains(&(chosen.log, chosen.seq)) {
            return Err(Error::NoSuchVersion { version: chosen.to_string() });
        }
        let encoded = encode_key(key)?;
        // Its bytes, which this program may not be able to read.
        let found = self.engine.versions(self.name(), &encoded)?.into_iter();
        let value = found
            .filter(|version| (version.log, version.seq) == (chosen.log, chosen.seq))
            .find_map(|version| version.value);
        let write = NewWrite { collection: self.name.clone(), key: encoded, value, expected: Some(ids) };
        transaction::write_all(&self.space, &[write], None)
    }

    /// What a key holds, with all that is durable here and all that this process has queued.
    ///
    /// # Errors
    ///
    /// A version can't be read from its log. That other records of the space are missing is no error: see
    /// [`missing`](Self::missing).
    pub fn get(&self, key: &K) -> Result<Versions<V>> {
        let found = self.engine.versions(self.name(), &encode_key(key)?)?;
        Ok(Versions::of(found.into_iter().map(|version| self.version(version)).collect()))
    }

    /// All versions of a key that are here, with what each supersedes. What is queued is committed first.
    ///
    /// # Errors
    ///
    /// The commit of what is queued fails, or the index can't be read. Versions that can't be read are in
    /// [`History::missing`].
    pub fn history(&self, key: &K) -> Result<History<V>> {
        let found = self.engine.history(self.name(), &encode_key(key)?)?;
        let ids = |places: Vec<_>| places.into_iter().map(|(log, seq)| VersionId { log, seq }).collect();
        Ok(History {
            versions: found.versions.into_iter().map(|version| self.version(version)).collect(),
            missing: ids(found.missing),
            live: ids(found.live),
        })
    }

    /// The keys in a range that hold something, ascending, with what they hold.
    ///
    /// They are looked up some at a time: what is written meanwhile may or may not be among them.
    ///
    /// ```
    /// use counterfoil::Store;
    ///
    /// let beds = Store::in_memory()?.own_space()?.collection::<u32, String>("beds")?;
    /// for bed in [3, 1, 2] {
    ///     beds.put(&bed, &format!("bed {bed}"))?;
    /// }
    /// let keys: Vec<_> = beds.range(2..)?.map(|entry| Ok(entry?.0)).collect::<Result<_, counterfoil::Error>>()?;
    /// assert_eq!(keys, [2, 3]);
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A bound is too long for a key, or the index can't be read. While iterating: as of
    /// [`conflicts`](Self::conflicts).
    pub fn range(&self, range: impl RangeBounds<K>) -> Result<Entries<K, V>> {
        Ok(Entries { pages: self.pages(range, false)?, collection: self.clone() })
    }

    /// The keys in a range that hold something, ascending; values are not read.
    ///
    /// # Errors
    ///
    /// As of [`range`](Self::range).
    pub fn keys(&self, range: impl RangeBounds<K>) -> Result<Keys<K, V>> {
        Ok(Keys { pages: self.pages(range, false)?, collection: self.clone() })
    }

    /// The keys that hold several versions, ascending, with them. They are found without looking at the others.
    ///
    /// A key of which a version can't be read is an error that names it, here and in [`range`](Self::range); the next item
    /// is the key that follows.
    ///
    /// # Errors
    ///
    /// A log or the index can't be read.
    pub fn conflicts(&self) -> Result<Entries<K, V>> {
        Ok(Entries { pages: self.pages(.., true)?, collection: self.clone() })
    }

    /// Follows the changes from `cursor` on, as they become durable.
    pub fn changes(&self, cursor: Cursor) -> Changes<K, V> {
        Changes::new(self.clone(), self.space.follow(cursor))
    }

    /// Has a rule decide all conflicts there are: for each that it decides, a write supersedes the versions in conflict. A
    /// key that changes meanwhile is left to the next time.
    ///
    /// Two nodes that do this at once write twice, and are in conflict with what they have decided: let one of them do
    /// it, or do it after the links have caught up.
    ///
    /// A conflict of which a version is damaged or missing here is not decided: see [`Settled::unread`].
    ///
    /// # Errors
    ///
    /// The disk or the index refuses, or nothing can be appended: conflicts before that may be decided.
    pub fn settle(&self, rule: &impl Resolver<K, V>) -> Result<Settled> {
        let mut settled = Settled::default();
        for entry in self.conflicts()? {
            let (key, versions) = match entry {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    settled.unread.push(error);
                    continue;
                }
                entry => entry?,
            };
            let outcome = match rule.resolve(&key, versions.all()) {
                Resolution::KeepBoth => None,
                Resolution::Take(index) => {
                    versions.all().get(index).map(|chosen| self.take(&key, &versions, chosen.id))
                }
                Resolution::Put(value) => Some(self.resolve(&key, &versions, Some(&value))),
                Resolution::Delete => Some(self.resolve(&key, &versions, None)),
            };
            match outcome {
                Some(Ok(receipt)) => {
                    settled.decided += 1;
                    settled.receipt = Some(receipt);
                }
                Some(Err(Error::Changed { .. })) | None => settled.kept += 1,
                // It rotted since it was read.
                Some(Err(error)) if error.kind() == ErrorKind::Damaged => settled.unread.push(error),
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(settled)
    }

    /// Records of the space that are missing here or can't be read, as far as that is known; ascending. As long as there are any, all that
    /// this collection answers is of the rest: a key may hold something else, or nothing, or be in conflict, by what they
    /// hold. Empty if nothing is known to be missing.
    ///
    /// Damage is known once it was met: by making the index, by reading, or by [`Store::repair_from`](crate::Store::repair_from),
    /// which gets back what another node has. What was mended, by that or by a link, is taken in by the next call of any
    /// kind. What retention removed is not missing.
    ///
    /// ```
    /// use counterfoil::Store;
    ///
    /// let beds = Store::in_memory()?.own_space()?.collection::<u32, String>("beds")?;
    /// let (found, missing) = (beds.get(&7)?, beds.missing()?);
    /// if !missing.is_empty() {
    ///     eprintln!("bed 7 may hold something else than {found:?}: {} are missing", missing.len());
    /// }
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A log or the index can't be read.
    pub fn missing(&self) -> Result<Vec<MissingRange>> {
        self.engine.missing()
    }

    /// Writes to collections of this space that this program can't read, because a later version of this library made
    /// them (or a faulty one): their places. They are kept and replicated, and are taken in by a program that can.
    ///
    /// # Errors
    ///
    /// A log or the index can't be read.
    pub fn unreadable(&self) -> Result<Vec<VersionId>> {
        Ok(self.engine.unreadable()?.into_keys().map(|(log, seq)| VersionId { log, seq }).collect())
    }

    fn encode_value(&self, value: &V) -> Result<Bytes> {
        let mut bytes = Vec::new();
        self.values.encode(value, &mut bytes)?;
        Ok(bytes.into())
    }

    fn version(&self, raw: RawVersion) -> Version<V> {
        let node = self.engine.node_of(raw.log);
        self.with_content(raw, node)
    }

    /// The version that a record of the space makes.
    fn version_of(&self, record: &Record, write: &record::Write<'_>) -> Version<V> {
        let raw = RawVersion::of(record.stored(), record.log(), write);
        self.with_content(raw, record.node().clone())
    }

    fn with_content(&self, raw: RawVersion, node: NodeName) -> Version<V> {
        let content = match raw.value {
            None => Content::Deleted,
            Some(body) => match self.values.decode(body) {
                Ok((value, schema)) => Content::Value { value, schema },
                Err(error) => Content::Unreadable(Arc::new(error)),
            },
        };
        Version {
            id: VersionId { log: raw.log, seq: raw.seq },
            node,
            time: raw.time,
            happened_unix_ms: raw.happened_unix_ms,
            supersedes: raw.supersedes.into_iter().map(|(log, seq)| VersionId { log, seq }).collect(),
            content,
        }
    }
}

/// What a rule has decided: see [`Collection::settle`].
#[derive(Debug, Default)]
pub struct Settled {
    /// Conflicts that it decided.
    pub decided: u64,
    /// Conflicts that it kept, or that changed meanwhile.
    pub kept: u64,
    /// Conflicts that it was not asked about, since not all of their versions can be read here: an error for each.
    pub unread: Vec<Error>,
    /// Of the last decision: once that is durable, all are.
    pub receipt: Option<Receipt>,
}

/// The bytes of a key.
fn encode_key<K: Key>(key: &K) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    key.encode(&mut bytes);
    match bytes.len() {
        len if len > MAX_KEY_LEN => Err(Error::KeyTooLong { len }),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests;
