//! Rows of keys in packs, of which each fills a page of the index's file.
//!
//! A layer of keys in no order has some for nearly every page of the tree. Row by row, redb would look each up from the root
//! and move those behind it. Packed, a page is read, merged and written once, whatever number of its rows has changed; and
//! next to each other rows need not repeat what their keys begin with, so that more of the tree stays in memory.
//!
//! A table of packs has each under its last key: so a key is in the first pack whose own key is not below it, or nowhere. (Under the
//! first one, redb would mostly go to the page behind the right one before it: a branch has the last keys of pages, see [`PackKey`].)
//!
//! # A pack
//!
//! Rows, ascending by key, none of them twice, each:
//!
//! | bytes | field |
//! |---|---|
//! | varint | number of bytes that the key begins with as the one before it does, 0 in the first |
//! | varint + n | number of its other bytes, and they |
//! | varint + n | twice the row's length, and 1 if the key is in conflict; the row |

use std::{borrow::Cow, cmp::Ordering, ops::Range};

use counterfoil_storage::{read_varint, write_varint};
use redb::TypeName;

/// The key of a pack, to redb: bytes, but not shortened in branches as those are, unless they are long. What a page of one pack lacks is between its
/// key and the next one, and is looked for in the page that the whole key leads to.
#[derive(Debug)]
pub(super) struct PackKey;

impl redb::Value for PackKey {
    type SelfType<'a> = &'a [u8];
    type AsBytes<'a> = &'a [u8];

    fn fixed_width() -> Option<usize> {
        None
    }

    fn from_bytes<'a>(data: &'a [u8]) -> &'a [u8]
    where
        Self: 'a,
    {
        data
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8]) -> &'a [u8]
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        TypeName::new("counterfoil::PackKey")
    }
}

impl redb::Key for PackKey {
    fn compare(one: &[u8], other: &[u8]) -> Ordering {
        one.cmp(other)
    }

    fn separator<'a>(left: &'a [u8], right: &'a [u8]) -> Cow<'a, [u8]> {
        // Few long keys fit into a branch: then reading two pages costs less than a deeper tree.
        if left.len() <= WHOLE_LEN_MAX { Cow::Borrowed(left) } else { <&[u8] as redb::Key>::separator(left, right) }
    }
}

/// So long keys are kept whole in branches, of which each has a hundred of them at least.
const WHOLE_LEN_MAX: usize = 32;

/// A pack does not hold what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DamagedPack;

/// Next to what redb adds to the only entry of a page of 4 KiB, of which the key takes some too.
pub(super) const PACK_LEN: usize = 4096 - 12;

/// A key's row as it is in a pack.
#[derive(Debug, Clone, Copy)]
struct Packed<'a> {
    shared: usize,
    rest: &'a [u8],
    row: &'a [u8],
    is_conflict: bool,
}

impl<'a> Packed<'a> {
    /// Splits it off what is left of a pack.
    #[inline]
    fn split_off(pack: &mut &'a [u8]) -> Result<Self, DamagedPack> {
        let shared = split_number(pack)?;
        let rest_len = split_number(pack)?;
        let rest = split_bytes(pack, rest_len)?;
        let row_len = split_number(pack)?;
        let row = split_bytes(pack, row_len / 2)?;
        Ok(Self { shared, rest, row, is_conflict: row_len % 2 == 1 })
    }
}

fn split_number(bytes: &mut &[u8]) -> Result<usize, DamagedPack> {
    let (number, len) = read_varint(bytes).ok_or(DamagedPack)?;
    *bytes = &bytes[len..];
    usize::try_from(number).map_err(|_| DamagedPack)
}

fn split_bytes<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], DamagedPack> {
    let (split, rest) = bytes.split_at_checked(len).ok_or(DamagedPack)?;
    *bytes = rest;
    Ok(split)
}

/// How many bytes two slices begin with alike.
fn shared_len(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// The row of a key, if it is in a pack.
pub(super) fn find<'a>(mut pack: &'a [u8], key: &[u8]) -> Result<Option<&'a [u8]>, DamagedPack> {
    // So many bytes of the key does the one before begin with, which comes before it.
    let mut matched = 0;
    while !pack.is_empty() {
        let packed = Packed::split_off(&mut pack)?;
        if packed.shared > matched {
            // It differs from the key where the one before does.
            continue;
        }
        let wanted = &key[matched..];
        let alike = shared_len(packed.rest, wanted);
        if packed.shared < matched || packed.rest.get(alike) > wanted.get(alike) {
            return Ok(None);
        }
        if alike == wanted.len() && alike == packed.rest.len() {
            return Ok(Some(packed.row));
        }
        matched += alike;
    }
    Ok(None)
}

/// Reads a pack from its beginning.
#[derive(Debug)]
pub(super) struct PackReader<'a> {
    rest: &'a [u8],
    key: Vec<u8>,
    is_first: bool,
}

/// A key's row, whose key the reader has.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedRow<'a> {
    pub(super) row: &'a [u8],
    pub(super) is_conflict: bool,
}

impl<'a> PackReader<'a> {
    pub(super) fn new(pack: &'a [u8]) -> Self {
        Self { rest: pack, key: Vec::new(), is_first: true }
    }

    /// The key of the row last read.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The next row; `None` at the end.
    pub(super) fn advance(&mut self) -> Result<Option<PackedRow<'a>>, DamagedPack> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let packed = Packed::split_off(&mut self.rest)?;
        // Keys ascend.
        if packed.shared > self.key.len() || (packed.rest <= &self.key[packed.shared..] && !self.is_first) {
            return Err(DamagedPack);
        }
        self.is_first = false;
        self.key.truncate(packed.shared);
        self.key.extend_from_slice(packed.rest);
        Ok(Some(PackedRow { row: packed.row, is_conflict: packed.is_conflict }))
    }
}

/// Makes packs of rows that come in order.
///
/// Rows are kept back until it is known whether what is left fills two packs: so none is less than half full but a single one.
#[derive(Debug, Default)]
pub(super) struct Packer {
    /// Keys and rows that are in no pack yet.
    bytes: Vec<u8>,
    pending: Vec<Pending>,
    /// What they take in one pack.
    pending_len: usize,
    pack: Vec<u8>,
}

/// Where a key and its row are, one behind the other.
#[derive(Debug)]
struct Pending {
    key: Range<usize>,
    row_end: usize,
    is_conflict: bool,
    /// With the key before it.
    shared: usize,
    packed_len: usize,
}

impl Packer {
    /// Adds a row whose key is above all before it, and hands over a pack if one is full: its last key and its bytes.
    pub(super) fn push<E>(
        &mut self,
        key: &[u8],
        row: &[u8],
        is_conflict: bool,
        mut store: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.pending.last().map_or(&[][..], |last| &self.bytes[last.key.clone()]);
        debug_assert!(self.pending.is_empty() || before < key);
        let shared = shared_len(before, key);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(row);
        let packed_len = packed_len(shared, key.len(), row.len());
        self.pending.push(Pending {
            key: start..start + key.len(),
            row_end: self.bytes.len(),
            is_conflict,
            shared,
            packed_len,
        });
        self.pending_len += packed_len;
        while self.pending_len > 2 * PACK_LEN && self.pending.len() > 1 {
            let count = self.pack_up_to(PACK_LEN, &mut store)?;
            self.forget(count);
        }
        Ok(())
    }

    /// Hands over what is left.
    pub(super) fn finish<E>(&mut self, mut store: impl FnMut(&[u8], &[u8]) -> Result<(), E>) -> Result<(), E> {
        while let Some(last) = self.pending.last() {
            let fits = last.key.len() + self.pending_len <= PACK_LEN;
            let half = last.key.len() + self.pending_len / 2;
            let count = self.pack_up_to(if fits { PACK_LEN } else { half.min(PACK_LEN) }, &mut store)?;
            self.forget(count);
        }
        Ok(())
    }

    /// Packs as many rows as fit into `len` bytes with the pack's key, at least one.
    fn pack_up_to<E>(&mut self, len: usize, store: &mut impl FnMut(&[u8], &[u8]) -> Result<(), E>) -> Result<usize, E> {
        self.pack.clear();
        let mut count = 0;
        for pending in &self.pending {
            let shared = if count == 0 { 0 } else { pending.shared };
            if count > 0 && pending.key.len() + self.pack.len() + pending.packed_len > len {
                break;
            }
            let row = &self.bytes[pending.key.end..pending.row_end];
            write_varint(&mut self.pack, shared as u64);
            write_varint(&mut self.pack, (pending.key.len() - shared) as u64);
            self.pack.extend_from_slice(&self.bytes[pending.key.start + shared..pending.key.end]);
            write_varint(&mut self.pack, 2 * row.len() as u64 + u64::from(pending.is_conflict));
            self.pack.extend_from_slice(row);
            count += 1;
        }
        if let Some(last) = self.pending[..count].last() {
            store(&self.bytes[last.key.clone()], &self.pack)?;
        }
        Ok(count)
    }

    /// Forgets the first rows, which are packed.
    fn forget(&mut self, count: usize) {
        let end = self.pending[..count].last().map_or(0, |last| last.row_end);
        self.bytes.drain(..end);
        self.pending.drain(..count);
        for pending in &mut self.pending {
            pending.key = pending.key.start - end..pending.key.end - end;
            pending.row_end -= end;
        }
        // The first of a pack shares nothing.
        if let Some(first) = self.pending.first_mut() {
            first.packed_len = packed_len(0, first.key.len(), first.row_end - first.key.end);
            first.shared = 0;
        }
        self.pending_len = self.pending.iter().map(|pending| pending.packed_len).sum();
    }
}

/// At most what a row takes in a pack.
fn packed_len(shared: usize, key_len: usize, row_len: usize) -> usize {
    let number_len = |number: usize| if number < 0x80 { 1 } else { 1 + number.ilog2() as usize / 7 };
    number_len(shared) + number_len(key_len - shared) + (key_len - shared) + number_len(2 * row_len + 1) + row_len
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, convert::Infallible};

    use proptest::{
        collection::{btree_map, vec},
        prelude::*,
    };

    use super::*;

    type Model = BTreeMap<Vec<u8>, (Vec<u8>, bool)>;

    /// Some keys begin alike, some are of any length, and some are longer than a pack.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let long =
            (vec(0_u8..2, 0..3), 4000_usize..4225).prop_map(|(end, len)| [vec![7; len - end.len()], end].concat());
        prop_oneof![8 => vec(0_u8..3, 0..9), 4 => vec(any::<u8>(), 0..30), 1 => long]
    }

    fn rows(count: usize) -> impl Strategy<Value = Model> {
        btree_map(key(), (vec(any::<u8>(), 0..200), any::<bool>()), 0..count)
    }

    /// The packs of rows, each under its last key.
    fn packed(rows: &Model) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (mut packs, mut packer) = (Vec::new(), Packer::default());
        let mut store = |key: &[u8], pack: &[u8]| {
            packs.push((key.to_vec(), pack.to_vec()));
            Ok::<_, Infallible>(())
        };
        for (key, (row, is_conflict)) in rows {
            packer.push(key, row, *is_conflict, &mut store).unwrap();
        }
        packer.finish(&mut store).unwrap();
        packs
    }

    proptest! {
        #[test]
        fn packs_hold_the_rows_that_were_packed_and_no_others(model in rows(300), others in vec(key(), 0..50)) {
            let packs = packed(&model);
            let mut found = Model::new();
            for (last, pack) in &packs {
                let mut reader = PackReader::new(pack);
                let (mut keys, mut bytes) = (Vec::new(), 0);
                while let Some(row) = reader.advance().unwrap() {
                    keys.push(reader.key().to_vec());
                    bytes += reader.key().len() + row.row.len();
                    found.insert(reader.key().to_vec(), (row.row.to_vec(), row.is_conflict));
                }
                prop_assert_eq!(Some(last), keys.last());
                prop_assert!(keys.is_sorted());
                prop_assert!(last.len() + pack.len() <= PACK_LEN || keys.len() == 1, "{} bytes", bytes);
                for key in model.keys().chain(&others) {
                    let expected = keys.contains(key).then(|| &model[key].0[..]);
                    prop_assert_eq!(find(pack, key).unwrap(), expected);
                }
            }
            prop_assert_eq!(found, model);
        }

        #[test]
        fn bytes_that_are_no_pack_are_refused_or_read_but_break_nothing(
            model in rows(20), cut: prop::sample::Index, change: (prop::sample::Index, u8), sought in key(),
        ) {
            for (_, mut pack) in packed(&model) {
                pack.truncate(cut.index(pack.len() + 1));
                if !pack.is_empty() {
                    let index = change.0.index(pack.len());
                    pack[index] = change.1;
                }
                _ = find(&pack, &sought);
                let mut reader = PackReader::new(&pack);
                while let Ok(Some(_)) = reader.advance() {}
            }
        }
    }

    #[test]
    fn rows_out_of_order_are_no_pack() {
        let row = |shared: u8, rest: &[u8]| [&[shared, rest.len() as u8][..], rest, &[2, 7]].concat();
        let read = |rows: &[Vec<u8>]| {
            let pack = rows.concat();
            let mut reader = PackReader::new(&pack);
            while reader.advance()?.is_some() {}
            Ok(())
        };
        assert_eq!(read(&[row(0, b""), row(0, b"a"), row(1, b"b"), row(0, b"b")]), Ok(()));
        for wrong in [[row(0, b"b"), row(0, b"a")], [row(0, b"ab"), row(1, b"b")], [row(0, b"ab"), row(1, b"")]] {
            assert_eq!(read(&wrong), Err(DamagedPack), "{wrong:?}");
        }
    }

    #[test]
    fn only_long_keys_are_shortened_in_branches() {
        use redb::Key as _;
        let (short, long) = ([1; 32], [1; 33]);
        assert_eq!(&PackKey::separator(&short, &[2; 40])[..], short);
        assert_eq!(&PackKey::separator(&long, &[2; 40])[..], [2]);
        assert_eq!(&PackKey::separator(&long, &[&long[..], &[0]].concat())[..], long);
    }

    #[test]
    fn packs_of_small_rows_are_full_but_the_last_two_which_are_more_than_half_full() {
        for count in [300_u32, 1_000, 5_000, 5_050] {
            let model = (0..count).map(|key| (key.to_be_bytes().to_vec(), (vec![7; 22], false))).collect();
            let lens: Vec<_> = packed(&model).iter().map(|(_, pack)| pack.len()).collect();
            let (full, last) = lens.split_at(lens.len().saturating_sub(2));
            assert!(full.iter().all(|len| *len > PACK_LEN - 100), "{count}: {lens:?}");
            assert!(last.iter().all(|len| *len > PACK_LEN / 2 - 100), "{count}: {lens:?}");
        }
    }
}
