//! Merges rows that have changed into the packs of a table.

use std::{iter::Peekable, ops::Bound};

use redb::{ReadableTable, StorageError};

use super::{
    IndexError,
    packs::{DamagedPack, PackKey, PackReader, Packer},
};

type Table<'a> = redb::Table<'a, PackKey, &'static [u8]>;

/// A key, its row, and whether it is in conflict.
type Row<'a> = (&'a [u8], &'a [u8], bool);

impl From<DamagedPack> for IndexError {
    fn from(_: DamagedPack) -> Self {
        Self::Row
    }
}

/// Rows to be set, and who is told of what.
pub(super) struct Merge<Rows: Iterator, Turned, Packed> {
    rows: Peekable<Rows>,
    /// Whether packs are written anew too to which no row belongs.
    all: bool,
    turned: Turned,
    packed: Packed,
}

impl<'a, Rows, Turned, Packed> Merge<Rows, Turned, Packed>
where
    Rows: Iterator<Item = Row<'a>>,
    Turned: FnMut(&[u8], bool) -> Result<(), IndexError>,
    Packed: FnMut(&[u8]),
{
    /// Of rows whose keys ascend. `turned` is told of those that come into a conflict (`true`) or out of one (`false`), `packed`
    /// of each that is written: of `all` that there are, if that is wanted.
    pub(super) fn new(rows: Rows, all: bool, turned: Turned, packed: Packed) -> Self {
        Self { rows: rows.peekable(), all, turned, packed }
    }

    /// Sets the rows in a table.
    pub(super) fn into_table(mut self, table: &mut Table<'_>) -> Result<(), IndexError> {
        let mut packer = Packer::default();
        while let Some((key, ..)) = self.rows.peek() {
            let first = if self.all { &[] } else { *key };
            self.neighbours(table, first, &mut packer)?;
        }
        Ok(())
    }

    /// Merges rows into the pack that a key belongs to, and into the next ones up to one that no row belongs to.
    ///
    /// They are packed anew together, so that all but the last two are full: of keys in no order a layer may have some for every
    /// pack there is. A pack between others that do not change is split in halves when it gets too long.
    fn neighbours(&mut self, table: &mut Table<'_>, key: &[u8], packer: &mut Packer) -> Result<(), IndexError> {
        let mut holder = key_from(table, Bound::Included(key))?;
        if holder.is_none() {
            // Above all that there are, it belongs to the last.
            holder = table.last()?.map(|(key, _)| key.value().to_vec());
        }
        let store = |table: &mut Table<'_>, key: &[u8], pack: &[u8]| table.insert(key, pack).map(drop);
        loop {
            let (mut pack, mut next) = (Vec::new(), None);
            if let Some(holder) = &holder {
                pack = table.remove(&holder[..])?.ok_or(IndexError::Row)?.value().to_vec();
                next = key_from(table, Bound::Excluded(holder))?;
            }
            let end = holder.filter(|_| next.is_some());
            self.pack(&pack, end.as_deref(), |key, row, is_conflict| {
                packer.push(key, row, is_conflict, |key, pack| store(table, key, pack))
            })?;
            let Some(last) = next else { break };
            let is_changed = match self.rows.peek() {
                Some((key, ..)) => *key <= &last[..] || key_from(table, Bound::Excluded(&last))?.is_none(),
                None => false,
            };
            if !self.all && !is_changed {
                break;
            }
            holder = Some(last);
        }
        packer.finish(|key, pack| store(table, key, pack))?;
        Ok(())
    }

    /// Hands on the rows of a pack, and in their places those that are to be set, up to and with `end`.
    fn pack(
        &mut self,
        pack: &[u8],
        end: Option<&[u8]>,
        mut push: impl FnMut(&[u8], &[u8], bool) -> Result<(), StorageError>,
    ) -> Result<(), IndexError> {
        let mut reader = PackReader::new(pack);
        let mut old = reader.advance()?;
        loop {
            let is_next = |key: &[u8]| end.is_none_or(|end| key <= end) && (old.is_none() || key <= reader.key());
            match (self.rows.next_if(|(key, ..)| is_next(key)), old) {
                (Some((key, row, is_conflict)), old_row) => {
                    let replaced = old_row.filter(|_| reader.key() == key);
                    if replaced.is_some_and(|replaced| replaced.is_conflict) != is_conflict {
                        (self.turned)(key, is_conflict)?;
                    }
                    (self.packed)(key);
                    push(key, row, is_conflict)?;
                    if replaced.is_some() {
                        old = reader.advance()?;
                    }
                }
                (None, Some(row)) => {
                    (self.packed)(reader.key());
                    push(reader.key(), row.row, row.is_conflict)?;
                    old = reader.advance()?;
                }
                (None, None) => return Ok(()),
            }
        }
    }
}

/// The key of the first pack from a bound on.
fn key_from(table: &Table<'_>, bound: Bound<&[u8]>) -> Result<Option<Vec<u8>>, StorageError> {
    let next = table.lower_bound(bound)?.peek_next()?;
    Ok(next.map(|(key, _)| key.value().to_vec()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{
        collection::{btree_map, vec},
        prelude::*,
    };
    use redb::{Database, TableDefinition, backends::InMemoryBackend};

    use super::*;

    type Model = BTreeMap<Vec<u8>, (Vec<u8>, bool)>;

    const KEYS: TableDefinition<'_, PackKey, &[u8]> = TableDefinition::new("keys");

    fn database() -> Database {
        Database::builder().create_with_backend(InMemoryBackend::new()).unwrap()
    }

    /// Sets rows; which keys have come into a conflict or out of one, and which were packed.
    fn set(database: &Database, rows: &Model, all: bool) -> (BTreeMap<Vec<u8>, bool>, Vec<Vec<u8>>) {
        let (mut turned, mut packed) = (BTreeMap::new(), Vec::new());
        let transaction = database.begin_write().unwrap();
        let layer = rows.iter().map(|(key, (row, is_conflict))| (&key[..], &row[..], *is_conflict));
        let turn = |key: &[u8], is_conflict| {
            assert_eq!(turned.insert(key.to_vec(), is_conflict), None);
            Ok(())
        };
        let merge = Merge::new(layer, all, turn, |key: &[u8]| packed.push(key.to_vec()));
        merge.into_table(&mut transaction.open_table(KEYS).unwrap()).unwrap();
        transaction.commit().unwrap();
        (turned, packed)
    }

    /// All rows, and how long each pack is with its key.
    fn held(database: &Database) -> (Model, Vec<usize>) {
        use redb::ReadableDatabase as _;
        let table = database.begin_read().unwrap().open_table(KEYS).unwrap();
        let (mut rows, mut lens) = (Model::new(), Vec::new());
        for pack in table.iter().unwrap() {
            let (last, pack) = pack.unwrap();
            let mut reader = PackReader::new(pack.value());
            while let Some(row) = reader.advance().unwrap() {
                assert_eq!(rows.insert(reader.key().to_vec(), (row.row.to_vec(), row.is_conflict)), None);
                let holder = table.lower_bound(Bound::Included(reader.key())).unwrap().peek_next().unwrap().unwrap().0;
                assert_eq!(holder.value(), last.value());
            }
            assert_eq!(reader.key(), last.value());
            lens.push(last.value().len() + pack.value().len());
        }
        (rows, lens)
    }

    fn layer() -> impl Strategy<Value = Model> {
        let key = prop_oneof![8 => vec(0_u8..5, 0..6), 1 => vec(any::<u8>(), 0..4200)];
        let of = |count| btree_map(key.clone(), (vec(any::<u8>(), 0..300), any::<bool>()), 0..count);
        prop_oneof![of(4), of(200)]
    }

    proptest! {
        /// The model is a map.
        #[test]
        fn a_table_of_packs_holds_the_last_row_of_each_key(layers in vec((layer(), any::<bool>()), 1..8)) {
            let (database, mut model) = (database(), Model::new());
            for (layer, all) in layers {
                let mut expected = BTreeMap::new();
                for (key, (row, is_conflict)) in &layer {
                    let replaced = model.insert(key.clone(), (row.clone(), *is_conflict));
                    if replaced.is_some_and(|(_, was_conflict)| was_conflict) != *is_conflict {
                        expected.insert(key.clone(), *is_conflict);
                    }
                }
                let (turned, packed) = set(&database, &layer, all);
                prop_assert_eq!(turned, expected);
                prop_assert!(packed.is_sorted());
                if all && !layer.is_empty() {
                    prop_assert!(packed.iter().eq(model.keys()));
                } else {
                    prop_assert!(layer.keys().all(|key| packed.contains(key)));
                }
                prop_assert_eq!(&held(&database).0, &model);
            }
        }
    }

    #[test]
    fn packs_are_full_after_keys_in_no_order_and_half_full_at_least_after_lone_ones() {
        let (database, mut model) = (database(), Model::new());
        let row = (vec![7; 22], false);
        let scattered = |number: u64| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec(), row.clone());
        for layer in 0..5 {
            let layer: Model = (layer * 4_000..(layer + 1) * 4_000).map(scattered).collect();
            set(&database, &layer, false);
            model.extend(layer);
        }
        let (rows, lens) = held(&database);
        assert_eq!(rows, model);
        assert!(lens.len() * 4_000 < lens.iter().sum::<usize>() + 2 * 4_000, "{lens:?}");
        for number in 20_000..23_000 {
            set(&database, &Model::from([scattered(number)]), false);
        }
        let (_, lens) = held(&database);
        let small = lens.iter().filter(|len| **len < 1_900).count();
        assert!(small <= 2, "{lens:?}");
    }
}
