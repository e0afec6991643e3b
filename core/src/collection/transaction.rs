//! Writes to several keys that are made together.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;
use counterfoil_storage::{AppendError, SpaceName};

use super::{Collection, Key, encode_key, engine::NewWrite};
use crate::{
    error::{Error, Result},
    receipt::Receipt,
    space::Space,
    time,
};

/// Writes to several keys, of one or more collections of a space, that are made together or not at all: here, after a
/// crash, and at every other node. From [`Space::transaction`].
///
/// What is put or deleted last of a key counts. It is all one record, so at most 16 MiB.
///
/// ```
/// use counterfoil::{Durability, Store};
///
/// let space = Store::in_memory()?.own_space()?;
/// let (beds, patients) = (space.collection::<u32, String>("beds")?, space.collection::<String, u32>("patients")?);
/// let mut transaction = space.transaction();
/// transaction.put(&beds, &7, &"Ann".into())?;
/// transaction.put(&patients, &"Ann".into(), &7)?;
/// transaction.commit()?.wait(Durability::Local)?;
/// assert_eq!(beds.get(&7)?.value().map(String::as_str), Some("Ann"));
/// # Ok::<(), counterfoil::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is written before `commit`"]
pub struct Transaction {
    space: Space,
    writes: BTreeMap<(SpaceName, Vec<u8>), Option<Bytes>>,
    happened_at: Option<SystemTime>,
}

impl Transaction {
    pub(crate) fn new(space: Space) -> Self {
        Self { space, writes: BTreeMap::new(), happened_at: None }
    }

    /// Puts a value.
    ///
    /// # Errors
    ///
    /// The value can't be encoded, or the key is too long. The transaction stays as it was.
    pub fn put<K: Key, V>(&mut self, collection: &Collection<K, V>, key: &K, value: &V) -> Result<()> {
        let (key, value) = (encode_key(key)?, collection.encode_value(value)?);
        self.writes.insert((collection.name.clone(), key), Some(value));
        Ok(())
    }

    /// Deletes a key.
    ///
    /// # Errors
    ///
    /// The key is too long. The transaction stays as it was.
    pub fn delete<K: Key, V>(&mut self, collection: &Collection<K, V>, key: &K) -> Result<()> {
        self.writes.insert((collection.name.clone(), encode_key(key)?), None);
        Ok(())
    }

    /// Says when it happened, if that is not now; see [`Space::append_at`].
    pub fn happened_at(mut self, time: SystemTime) -> Self {
        self.happened_at = Some(time);
        self
    }

    /// Whether nothing was put or deleted so far.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Makes the writes. Each supersedes all versions of its key that are known here, those in conflict included.
    ///
    /// **Durability**: none until the receipt says so; they are read at once in this process.
    ///
    /// # Errors
    ///
    /// Nothing was written, as for [`Space::append`]; nothing was put or deleted ([`Error::EmptyTransaction`](crate::Error::EmptyTransaction)).
    pub fn commit(self) -> Result<Receipt> {
        let write = |((collection, key), value)| NewWrite { collection, key, value, expected: None };
        let writes: Vec<_> = self.writes.into_iter().map(write).collect();
        write_all(&self.space, &writes, self.happened_at)
    }
}

/// Makes writes in one record.
pub(super) fn write_all(space: &Space, writes: &[NewWrite], happened_at: Option<SystemTime>) -> Result<Receipt> {
    if writes.is_empty() {
        return Err(crate::Error::EmptyTransaction);
    }
    let engine = space.engine()?;
    loop {
        let own = space.own_log_to_write()?;
        let append = |body: &[u8]| space.append_to(own, crate::read::COLLECTION, happened_at, body);
        match engine.write(own, writes, append, happened_at.map(time::to_unix_ms)) {
            // This node has begun a new life meanwhile, and writes another log.
            Err(Error::Append(AppendError::LogEnded { .. } | AppendError::ForeignLog { .. })) => {}
            result => return result,
        }
    }
}
