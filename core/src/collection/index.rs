//! The index of collections on disk: derived data, in one file of the store's folder.
//!
//! For each space it holds the [state](KeyState) of every key and, in the same transaction, how far each log is taken
//! in. It is written from what is durable only, so it is never ahead of the store, unless the store lost its end or was
//! replaced by an older copy: that is found by comparing digests. A file that is missing, damaged, of another format or of
//! another store is made anew; nothing is lost but the time to read the logs again.
//!
//! # Tables
//!
//! Names end in `:` and the space's name. Numbers in keys are big-endian, so that they sort; others as in a row.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | 0 | format (4 bytes) and id of the store (16) |
//! | `logs` | number (4) | log (16): rows name logs by these numbers |
//! | `taken` | log (16) | how far: length (8) and digest (32) |
//! | `gaps` | log (16), first sequence number (8) | sequence number after a range that could not be read (8) |
//! | `unreadable` | log (16), sequence number (8) | version of the record's format, or 0 if it is malformed (1) |
//! | `keys` | see [`packs`] | [packs] of rows: length and name of the collection and key, state of the key as of [`KeyState::encode`] |
//! | `conflicts` | length and name of the collection, key, of keys with several live versions | nothing |

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, ErrorKind},
    ops::{Bound, RangeBounds},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex},
};

use counterfoil_storage::{
    Digest, Head, LogId, Seq, SpaceName, StoreId,
    vfs::{OpenMode, Vfs, VfsFile},
};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition, TableError,
};
use thiserror::Error;

use super::{
    filter::Filter,
    gaps::Gaps,
    layer::Layer,
    state::{KeyState, LogNumbers},
};
use crate::store::lock;

mod merge;
mod packs;
mod sums;

use merge::Merge;
use packs::{PACK_LEN, PackKey, PackReader};
use sums::{Backend, Place, SummedFile};

/// Counts the changes to what is written here, and to the records it is made of.
const FORMAT: u32 = 4;

const FILE: &str = "collections.redb";

/// Of a short key and one version, in a pack.
const ROW_LEN_LEAST: usize = 27;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;
type Packs = ReadOnlyTable<PackKey, &'static [u8]>;

const META: Table = TableDefinition::new("meta");

/// The index can't be used, which costs time and no record.
#[derive(Debug, Error)]
pub(crate) enum IndexError {
    #[error("{0}")]
    Redb(Box<redb::Error>),
    #[error("the file can't be opened: {0}")]
    File(#[from] io::Error),
    #[error("a row is damaged")]
    Row,
    #[error("it is of another format, or of another store")]
    Foreign,
    /// redb trusts its files further than we do.
    #[error("reading it failed with a panic")]
    Panicked,
}

impl IndexError {
    /// Whether what is written there is wrong, and would be so again if it were read again.
    pub(super) fn is_unsound(&self) -> bool {
        matches!(self, Self::Row | Self::Panicked)
    }

    /// Whether it is for want of space.
    pub(crate) fn is_storage_full(&self) -> bool {
        let error = match self {
            Self::File(error) => error,
            Self::Redb(error) => match &**error {
                redb::Error::Io(error) => error,
                _ => return false,
            },
            _ => return false,
        };
        matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
    }
}

macro_rules! from_redb {
    ($($name:ident),*) => {$(
        impl From<redb::$name> for IndexError {
            fn from(error: redb::$name) -> Self {
                Self::Redb(Box::new(error.into()))
            }
        }
    )*};
}

from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

/// Runs what reads a file that may be damaged.
fn guarded<T>(read: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(IndexError::Panicked))
}

/// The file of a store's index, which may be another one tomorrow.
#[derive(Debug)]
pub(crate) struct IndexFile {
    place: Place,
    cache_bytes: usize,
    open: Mutex<Arc<OpenFile>>,
}

/// The file, open.
#[derive(Debug)]
pub(crate) struct OpenFile {
    database: Database,
    file: Arc<SummedFile>,
}

impl IndexFile {
    /// Opens the store's index, or makes one if there is none that can be used.
    pub(crate) fn open(vfs: Arc<dyn Vfs>, dir: &Path, store: StoreId, cache_bytes: usize) -> Result<Self, IndexError> {
        let place = Place { vfs, dir: dir.to_owned(), store };
        let open = Arc::new(OpenFile::open(&place, cache_bytes)?);
        Ok(Self { place, cache_bytes, open: Mutex::new(open) })
    }

    /// The file as it is in use.
    pub(crate) fn current(&self) -> Arc<OpenFile> {
        Arc::clone(&lock(&self.open))
    }

    /// Opens the file again after it failed, unless another space has seen to that: with what was last written to it, if
    /// it is whole, or empty.
    pub(crate) fn open_again(&self, failed: &Arc<OpenFile>) -> Result<Arc<OpenFile>, IndexError> {
        let mut open = lock(&self.open);
        if Arc::ptr_eq(&open, failed) {
            failed.file.give_up();
            *open = Arc::new(OpenFile::open(&self.place, self.cache_bytes)?);
        }
        Ok(Arc::clone(&open))
    }
}

impl OpenFile {
    fn open(place: &Place, cache_bytes: usize) -> Result<Self, IndexError> {
        let path = place.dir.join(FILE);
        match place.vfs.open(&path, OpenMode::Write) {
            Ok(file) => match guarded(|| Self::in_file(Arc::clone(&file), place.clone(), cache_bytes)) {
                Ok(open) => return Ok(open),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the index of collections is made anew");
                    // Its space is free at once, though it may be open still.
                    file.set_len(0)?;
                    place.vfs.remove(&path)?;
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let file = place.vfs.open(&path, OpenMode::Create)?;
        Self::in_file(file, place.clone(), cache_bytes)
    }

    fn in_file(file: Arc<dyn VfsFile>, place: Place, cache_bytes: usize) -> Result<Self, IndexError> {
        let expected = [&FORMAT.to_le_bytes()[..], place.store.as_bytes()].concat();
        let is_new = file.len()? == 0;
        let (file, is_summed) = SummedFile::new(file, place)?;
        let file = Arc::new(file);
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes).set_check_integrity_on_open(!is_new && !is_summed);
        let database = builder.create_with_backend(Backend(Arc::clone(&file)))?;
        if is_new {
            let transaction = database.begin_write()?;
            transaction.open_table(META)?.insert(&[0][..], &expected[..])?;
            transaction.commit()?;
        } else {
            let found = database.begin_read()?.open_table(META)?.get(&[0][..])?;
            if found.is_none_or(|found| found.value() != expected) {
                return Err(IndexError::Foreign);
            }
        }
        Ok(Self { database, file })
    }
}

/// Records that are writes to collections and can't be read, with the version of their format (0: malformed).
pub(crate) type UnreadableRecords = BTreeMap<(LogId, Seq), u8>;

/// What of a space's logs has been taken into the states of its keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken {
    pub(crate) heads: BTreeMap<LogId, Head>,
    pub(crate) gaps: Gaps,
    pub(crate) unreadable: UnreadableRecords,
}

/// The logs of a space and their numbers in rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    logs: Vec<LogId>,
    by_log: HashMap<LogId, u32>,
}

impl Numbers {
    /// Each at the place that is its number.
    pub(super) fn logs(&self) -> &[LogId] {
        &self.logs
    }
}

impl LogNumbers for Numbers {
    fn number(&mut self, log: LogId) -> u32 {
        *self.by_log.entry(log).or_insert_with(|| {
            self.logs.push(log);
            self.logs.len() as u32 - 1
        })
    }
}

/// Key and value.
type Row = (Vec<u8>, Vec<u8>);

/// The part of the index that is about one space.
#[derive(Debug)]
pub(crate) struct SpaceIndex {
    file: Arc<IndexFile>,
    open: Arc<OpenFile>,
    space: SpaceName,
}

/// The states of keys as one commit of a [`SpaceIndex`] left them.
pub(super) struct Snapshot {
    keys: Option<Packs>,
    conflicts: Option<Rows>,
    /// Has all keys, if it is there: it is made when all packs are written, and grows with each layer from then on.
    filter: Option<Arc<Filter>>,
}

/// What a [`SpaceIndex`] holds.
pub(super) struct Loaded {
    pub(super) taken: Taken,
    pub(super) numbers: Numbers,
    pub(super) snapshot: Snapshot,
}

impl SpaceIndex {
    pub(crate) fn new(file: Arc<IndexFile>, space: SpaceName) -> Self {
        let open = file.current();
        Self { file, open, space }
    }

    /// In the file once it was [opened again](IndexFile::open_again) after it failed.
    pub(crate) fn open_again(&self) -> Result<Self, IndexError> {
        let open = guarded(|| self.file.open_again(&self.open))?;
        Ok(Self { file: Arc::clone(&self.file), open, space: self.space.clone() })
    }

    fn table_name(&self, table: &str) -> String {
        format!("{table}:{}", self.space)
    }

    /// All rows of a small table.
    fn rows(&self, table: &str) -> Result<Vec<Row>, IndexError> {
        let Some(rows): Option<Rows> = self.open(table)? else { return Ok(Vec::new()) };
        let row = |row: Result<_, redb::StorageError>| {
            let (key, value): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>) = row?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        };
        rows.iter()?.map(row).collect()
    }

    fn open<K: redb::Key>(&self, table: &str) -> Result<Option<ReadOnlyTable<K, &'static [u8]>>, IndexError> {
        let name = self.table_name(table);
        match self.open.database.begin_read()?.open_table(TableDefinition::new(&name)) {
            Ok(rows) => Ok(Some(rows)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All that is in it.
    pub(super) fn load(&self) -> Result<Loaded, IndexError> {
        guarded(|| {
            let mut taken = Taken::default();
            for (key, value) in self.rows("taken")? {
                let (log, head) = parse_head(&key, &value).ok_or(IndexError::Row)?;
                taken.heads.insert(log, head);
            }
            for (key, value) in self.rows("gaps")? {
                let next_seq = value.try_into().map(u64::from_be_bytes).map_err(|_| IndexError::Row)?;
                let (log, first_seq) = parse_place(&key).ok_or(IndexError::Row)?;
                taken.gaps.add(log, first_seq, Seq(next_seq));
            }
            for (key, value) in self.rows("unreadable")? {
                let version = *value.first().ok_or(IndexError::Row)?;
                taken.unreadable.insert(parse_place(&key).ok_or(IndexError::Row)?, version);
            }
            let mut numbers = Numbers::default();
            for (_, log) in self.rows("logs")? {
                numbers.number(LogId::from_bytes(log.try_into().map_err(|_| IndexError::Row)?));
            }
            Ok(Loaded { taken, numbers, snapshot: self.snapshot(None)? })
        })
    }

    fn snapshot(&self, filter: Option<Arc<Filter>>) -> Result<Snapshot, IndexError> {
        Ok(Snapshot { keys: self.open("keys")?, conflicts: self.open("conflicts")?, filter })
    }

    /// Forgets all about the space.
    pub(super) fn cleared(&self) -> Result<Loaded, IndexError> {
        guarded(|| {
            let transaction = self.open.database.begin_write()?;
            transaction.delete_table(TableDefinition::<PackKey, &[u8]>::new(&self.table_name("keys")))?;
            for table in ["taken", "gaps", "unreadable", "logs", "conflicts"] {
                let name = self.table_name(table);
                transaction.delete_table(TableDefinition::<&[u8], &[u8]>::new(&name))?;
            }
            Ok(transaction.commit()?)
        })?;
        self.load()
    }

    /// Replaces the rows of keys that have changed, and what has been taken in, in one transaction. The filter is the last snapshot's.
    pub(super) fn commit(
        &self,
        layer: &Layer,
        numbers: &Numbers,
        taken: &Taken,
        filter: Option<Arc<Filter>>,
    ) -> Result<Snapshot, IndexError> {
        guarded(|| {
            let mut transaction = self.open.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            let filter = {
                let (keys, conflicts) = (self.table_name("keys"), self.table_name("conflicts"));
                let mut keys = transaction.open_table(TableDefinition::<PackKey, &[u8]>::new(&keys))?;
                let mut conflicts = transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(&conflicts))?;
                let turn = |key: &[u8], is_conflict| {
                    if is_conflict {
                        conflicts.insert(key, &[][..])?
                    } else {
                        conflicts.remove(key)?
                    };
                    Ok(())
                };
                self.merge(&mut keys, layer, turn, filter)?
            };
            let number = |index: usize| (index as u32).to_be_bytes().to_vec();
            let logs = numbers.logs.iter().enumerate().map(|(index, log)| (number(index), log.as_bytes().to_vec()));
            let heads = taken.heads.iter().map(|(log, head)| (log.as_bytes().to_vec(), head_bytes(head)));
            let gaps = taken.gaps.iter();
            let gaps = gaps.map(|(log, first, next)| (place_bytes(&(log, first)), next.0.to_be_bytes().to_vec()));
            let unreadable = taken.unreadable.iter().map(|(place, version)| (place_bytes(place), vec![*version]));
            self.replace(&transaction, "logs", logs)?;
            self.replace(&transaction, "taken", heads)?;
            self.replace(&transaction, "gaps", gaps)?;
            self.replace(&transaction, "unreadable", unreadable)?;
            transaction.commit()?;
            self.snapshot(filter)
        })
    }

    /// Merges a layer into the table of keys; the filter of all that are there then.
    fn merge(
        &self,
        keys: &mut redb::Table<'_, PackKey, &'static [u8]>,
        layer: &Layer,
        turn: impl FnMut(&[u8], bool) -> Result<(), IndexError>,
        filter: Option<Arc<Filter>>,
    ) -> Result<Option<Arc<Filter>>, IndexError> {
        let packs = keys.len()?;
        let is_enough = filter.as_ref().is_some_and(|filter| filter.has_room_for(layer.len()));
        if is_enough || (filter.is_none() && (layer.len() as u64) < packs) {
            Merge::new(layer.rows(), false, turn, |_: &[u8]| {}).into_table(keys)?;
            let with_layer = |filter: Arc<Filter>| {
                let mut filter = Filter::clone(&filter);
                layer.rows().for_each(|(key, ..)| filter.add(key));
                Arc::new(filter)
            };
            return Ok(filter.map(with_layer));
        }
        // All are written, whatever has changed of them: to make the first filter when there is something new for nearly all, or one
        // twice as large.
        let keys_in_packs = filter.map_or(packs as usize * PACK_LEN / ROW_LEN_LEAST, |filter| filter.count());
        let mut filter = Filter::for_keys(keys_in_packs + layer.len(), self.file.cache_bytes / 8);
        Merge::new(layer.rows(), true, turn, |key: &[u8]| filter.add(key)).into_table(keys)?;
        Ok(Some(Arc::new(filter)))
    }

    /// Writes a pack that is none in the place of another, as if it had been written so.
    #[cfg(test)]
    pub(super) fn spoil(&self) {
        let transaction = self.open.database.begin_write().unwrap();
        let name = self.table_name("keys");
        let mut table = transaction.open_table(TableDefinition::<PackKey, &[u8]>::new(&name)).unwrap();
        let last = table.last().unwrap().unwrap().0.value().to_vec();
        table.insert(&last[..], &[0xff; 9][..]).unwrap();
        drop(table);
        transaction.commit().unwrap();
    }

    /// Writes a small table anew.
    fn replace(
        &self,
        transaction: &redb::WriteTransaction,
        table: &str,
        rows: impl Iterator<Item = Row>,
    ) -> Result<(), IndexError> {
        let name = self.table_name(table);
        transaction.delete_table(TableDefinition::<&[u8], &[u8]>::new(&name))?;
        let mut table = transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(&name))?;
        for (key, value) in rows {
            table.insert(&key[..], &value[..])?;
        }
        Ok(())
    }
}

impl Snapshot {
    pub(super) fn filter(&self) -> Option<Arc<Filter>> {
        self.filter.clone()
    }

    /// The state of a key.
    pub(super) fn state(&self, key: &[u8], numbers: &Numbers) -> Result<Option<KeyState>, IndexError> {
        let Some(keys) = &self.keys else { return Ok(None) };
        if self.filter.as_ref().is_some_and(|filter| !filter.may_hold(key)) {
            return Ok(None);
        }
        guarded(|| {
            let Some((_, pack)) = keys.lower_bound(Bound::Included(key))?.peek_next()? else { return Ok(None) };
            let Some(row) = packs::find(pack.value(), key)? else { return Ok(None) };
            KeyState::decode(row, numbers.logs()).map(Some).ok_or(IndexError::Row)
        })
    }

    /// Up to `limit` keys in a range, or those of them that are in conflict.
    pub(super) fn keys(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        limit: usize,
        only_conflicts: bool,
    ) -> Result<Vec<Box<[u8]>>, IndexError> {
        guarded(|| {
            if !only_conflicts {
                return self.keys.as_ref().map_or(Ok(Vec::new()), |packs| keys_in_packs(packs, range, limit));
            }
            let Some(conflicts) = &self.conflicts else { return Ok(Vec::new()) };
            let key = |row: Result<(redb::AccessGuard<'_, &[u8]>, _), redb::StorageError>| {
                let (key, _): (_, redb::AccessGuard<'_, &[u8]>) = row?;
                Ok(key.value().into())
            };
            conflicts.range::<&[u8]>(range)?.take(limit).map(key).collect()
        })
    }
}

/// The same of a table of packs.
fn keys_in_packs(
    table: &Packs,
    (start, end): (Bound<&[u8]>, Bound<&[u8]>),
    limit: usize,
) -> Result<Vec<Box<[u8]>>, IndexError> {
    let mut keys = Vec::new();
    let mut packs = table.lower_bound(start)?;
    while let Some((_, pack)) = packs.next()? {
        let mut reader = PackReader::new(pack.value());
        while reader.advance()?.is_some() {
            let key = reader.key();
            if keys.len() == limit || !RangeBounds::<[u8]>::contains(&(Bound::Unbounded, end), key) {
                return Ok(keys);
            }
            if RangeBounds::<[u8]>::contains(&(start, Bound::Unbounded), key) {
                keys.push(key.into());
            }
        }
    }
    Ok(keys)
}

fn parse_place(bytes: &[u8]) -> Option<(LogId, Seq)> {
    let (log, seq) = bytes.split_first_chunk()?;
    Some((LogId::from_bytes(*log), Seq(u64::from_be_bytes(seq.try_into().ok()?))))
}

fn place_bytes((log, seq): &(LogId, Seq)) -> Vec<u8> {
    [&log.as_bytes()[..], &seq.0.to_be_bytes()].concat()
}

fn parse_head(log: &[u8], head: &[u8]) -> Option<(LogId, Head)> {
    let (next_seq, digest) = head.split_first_chunk()?;
    let head =
        Head { next_seq: Seq(u64::from_be_bytes(*next_seq)), digest: Digest::from_bytes(digest.try_into().ok()?) };
    Some((LogId::from_bytes(log.try_into().ok()?), head))
}

fn head_bytes(head: &Head) -> Vec<u8> {
    [&head.next_seq.0.to_be_bytes()[..], head.digest.as_bytes()].concat()
}
