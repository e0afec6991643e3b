//! The bytes of a transaction: the body of a record of a collection.
//!
//! # Bytes
//!
//! Numbers marked `varint` are LEB128 in their shortest form; others are little-endian. The record's kind (see the
//! attributes of records in a batch) is 1.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | varint | number of writes, at least 1 |
//! | | the writes, each: |
//! | 1 | flags: 1 puts a value (else it deletes), 2 same collection as the write before |
//! | 1 + n | unless the same: length and name of the collection, 1 to 128 bytes as of a space's name |
//! | varint + n | length and bytes of the key, at most 4096 |
//! | varint | the last version of the key in the record's own log that it supersedes: sequence number + 1, or 0 |
//! | varint | number of versions in other logs that it supersedes; for each, ascending by log: |
//! | 16, varint, 8 | log, sequence number, first bytes of the digest of the version's batch |
//! | varint + n | if it puts: length and bytes of the value, which begin with the envelope of a typed value |
//!
//! Naming the last version in a log names those before it in that log, whether or not they have arrived here. Of the
//! own log no digest is needed: the chain of digests up to the record itself pins all that is before it.
//!
//! No key of a collection is written twice in one transaction, and nothing follows the last write.

use std::collections::HashSet;

use counterfoil_storage::{Digest, Hlc, LogId, Seq, SpaceName, read_varint, write_varint};

/// Length of the longest key, in bytes.
pub const MAX_KEY_LEN: usize = 4096;

const VERSION: u8 = 1;
const PUTS: u8 = 1;
const SAME_COLLECTION: u8 = 2;
const REFERENCE_LEN_MIN: usize = LogId::LEN + 1 + Prefix::LEN;

/// The first bytes of a batch's digest, by which a reference to one of its records is known not to mean another
/// history of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix(pub(crate) [u8; Self::LEN]);

impl Prefix {
    pub(crate) const LEN: usize = 8;

    pub(crate) fn of(digest: &Digest) -> Self {
        let mut prefix = [0; Self::LEN];
        prefix.copy_from_slice(&digest.as_bytes()[..Self::LEN]);
        Self(prefix)
    }
}

/// A place in a log up to which somebody has seen the versions of a key there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) log: LogId,
    pub(crate) seq: Seq,
    /// Not known of a version in the own log, which needs none, before it is durable.
    pub(crate) prefix: Option<Prefix>,
    /// Of the write that says so; of the version itself, if that is here. Not a part of the bytes of a reference.
    pub(crate) time: Hlc,
}

/// One write to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write<'a> {
    pub(crate) collection: &'a str,
    pub(crate) key: &'a [u8],
    /// The last version of the key in the own log that it supersedes.
    pub(crate) own: Option<Seq>,
    /// The same of other logs, ascending, with their prefixes.
    pub(crate) others: Vec<Seen>,
    /// `None` deletes.
    pub(crate) value: Option<&'a [u8]>,
}

/// Why bytes are no transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// A later version of this library wrote it.
    Version(u8),
    /// Its writer was faulty.
    Malformed,
}

pub(crate) fn encode<'a>(writes: impl ExactSizeIterator<Item = Write<'a>>) -> Vec<u8> {
    // Enough for most, so that it need not grow.
    let mut out = Vec::with_capacity(512);
    out.push(VERSION);
    write_varint(&mut out, writes.len() as u64);
    let mut collection = None;
    for write in writes {
        let is_same = collection.replace(write.collection) == Some(write.collection);
        let puts = if write.value.is_some() { PUTS } else { 0 };
        out.push(puts | if is_same { SAME_COLLECTION } else { 0 });
        if !is_same {
            out.push(write.collection.len() as u8);
            out.extend_from_slice(write.collection.as_bytes());
        }
        write_bytes(&mut out, write.key);
        write_varint(&mut out, write.own.map_or(0, |seq| seq.0.saturating_add(1)));
        write_varint(&mut out, write.others.len() as u64);
        for Seen { log, seq, prefix, .. } in &write.others {
            out.extend_from_slice(log.as_bytes());
            write_varint(&mut out, seq.0);
            out.extend(prefix.map_or([0; Prefix::LEN], |prefix| prefix.0));
        }
        if let Some(value) = write.value {
            write_bytes(&mut out, value);
        }
    }
    out
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The writes of a transaction, all of them checked.
pub(crate) fn decode(body: &[u8]) -> Result<Vec<Write<'_>>, Unreadable> {
    match body.split_first() {
        Some((&VERSION, rest)) => decode_writes(Parser(rest)).ok_or(Unreadable::Malformed),
        Some((&version, _)) if version > VERSION => Err(Unreadable::Version(version)),
        _ => Err(Unreadable::Malformed),
    }
}

fn decode_writes(mut parser: Parser<'_>) -> Option<Vec<Write<'_>>> {
    let count = parser.count(4)?;
    let mut writes: Vec<Write<'_>> = Vec::with_capacity(count);
    // Mostly there is one write, of which nothing has to be remembered.
    let mut keys = HashSet::new();
    for _ in 0..count {
        let write = parser.write(writes.last().map(|write| write.collection))?;
        (count == 1 || keys.insert((write.collection, write.key))).then_some(())?;
        writes.push(write);
    }
    (count > 0 && parser.0.is_empty()).then_some(writes)
}

struct Parser<'a>(&'a [u8]);

impl<'a> Parser<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn varint(&mut self) -> Option<u64> {
        let (value, len) = read_varint(self.0)?;
        self.0 = &self.0[len..];
        Some(value)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.varint()?;
        self.take(usize::try_from(len).ok()?)
    }

    /// A number of things that take at least `len_min` bytes each, so that there are not more than there is room for.
    fn count(&mut self, len_min: usize) -> Option<usize> {
        let count = usize::try_from(self.varint()?).ok()?;
        (count <= self.0.len() / len_min).then_some(count)
    }

    fn write(&mut self, previous: Option<&'a str>) -> Option<Write<'a>> {
        let [flags] = self.array()?;
        if flags & !(PUTS | SAME_COLLECTION) != 0 {
            return None;
        }
        let collection = if flags & SAME_COLLECTION != 0 { previous? } else { self.collection(previous)? };
        let key = self.bytes().filter(|key| key.len() <= MAX_KEY_LEN)?;
        let own = self.varint()?.checked_sub(1).map(Seq);
        let mut others: Vec<Seen> = Vec::with_capacity(self.count(REFERENCE_LEN_MIN)?);
        for _ in 0..others.capacity() {
            let (log, seq) = (LogId::from_bytes(self.array()?), Seq(self.varint()?));
            others.last().is_none_or(|last| last.log < log).then_some(())?;
            others.push(Seen { log, seq, prefix: Some(Prefix(self.array()?)), time: Hlc::ZERO });
        }
        let value = if flags & PUTS != 0 { Some(self.bytes()?) } else { None };
        Some(Write { collection, key, own, others, value })
    }

    fn collection(&mut self, previous: Option<&str>) -> Option<&'a str> {
        let [len] = self.array()?;
        let name = std::str::from_utf8(self.take(len.into())?).ok()?;
        (SpaceName::new(name).is_ok() && previous != Some(name)).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn seen() -> impl Strategy<Value = Seen> {
        (any::<[u8; 16]>(), any::<u64>(), any::<[u8; 8]>()).prop_map(|(log, seq, prefix)| Seen {
            log: LogId::from_bytes(log),
            seq: Seq(seq),
            prefix: Some(Prefix(prefix)),
            time: Hlc::ZERO,
        })
    }

    type Parts = (bool, Vec<u8>, Option<u64>, Vec<Seen>, Option<Vec<u8>>);

    fn parts() -> impl Strategy<Value = Parts> {
        let others = vec(seen(), 0..4).prop_map(|mut others| {
            others.sort_by_key(|seen| seen.log);
            others.dedup_by_key(|seen| seen.log);
            others
        });
        let bytes = || vec(any::<u8>(), 0..40);
        (any::<bool>(), bytes(), option::of(0..u64::MAX), others, option::of(bytes()))
    }

    proptest! {
        #[test]
        fn transactions_read_back_from_their_bytes(parts in vec(parts(), 1..6)) {
            let mut writes: Vec<_> = parts.iter().map(|(is_other, key, own, others, value)| Write {
                collection: if *is_other { "other" } else { "patients" },
                key,
                own: own.map(Seq),
                others: others.clone(),
                value: value.as_deref(),
            }).collect();
            let mut keys = HashSet::new();
            writes.retain(|write| keys.insert((write.collection, write.key)));
            let bytes = encode(writes.iter().cloned());
            prop_assert_eq!(decode(&bytes), Ok(writes));
            let longer = [&bytes[..], b"x"].concat();
            prop_assert_eq!(decode(&longer), Err(Unreadable::Malformed));
            prop_assert_eq!(decode(&bytes[..bytes.len() - 1]), Err(Unreadable::Malformed));
        }

        #[test]
        fn foreign_bytes_are_refused_or_read_without_a_panic_and_what_is_read_has_these_bytes(
            bytes in vec(prop_oneof![0_u8..4, any::<u8>()], 0..200),
        ) {
            let bytes = [&[VERSION][..], &bytes].concat();
            if let Ok(writes) = decode(&bytes) {
                let again = encode(writes.iter().cloned());
                prop_assert_eq!(decode(&again), Ok(writes));
            }
        }
    }

    #[test]
    fn the_bytes_of_a_transaction_are_fixed_for_ever() {
        let others = vec![Seen {
            log: LogId::from_bytes([7; 16]),
            seq: Seq(300),
            prefix: Some(Prefix([9; 8])),
            time: Hlc::ZERO,
        }];
        let put = Write { collection: "c", key: b"ab", own: Some(Seq(4)), others, value: Some(b"\x01\x02\x01\x00{}") };
        let delete = Write { collection: "c", key: b"", own: None, others: Vec::new(), value: None };
        let golden = [
            &b"\x01\x02"[..],
            b"\x01\x01c\x02ab\x05\x01",
            &[7; 16],
            b"\xac\x02",
            &[9; 8],
            b"\x06\x01\x02\x01\x00{}",
            b"\x02\x00\x00\x00",
        ]
        .concat();
        assert_eq!(encode([put, delete].into_iter()), golden);
    }

    #[test]
    fn what_no_writer_writes_is_refused() {
        let two = |first: &[u8], second: &[u8]| [b"\x01\x02", first, second].concat();
        assert_eq!(decode(b""), Err(Unreadable::Malformed));
        assert_eq!(decode(b"\x00"), Err(Unreadable::Malformed));
        assert_eq!(decode(b"\x02anything"), Err(Unreadable::Version(2)));
        assert_eq!(decode(b"\x01\x00"), Err(Unreadable::Malformed), "no write");
        assert_eq!(
            decode(b"\x01\x01\x02\x01a\x00\x00"),
            Err(Unreadable::Malformed),
            "the collection of no write before"
        );
        let (a, again) = (b"\x00\x01c\x01a\x00\x00", b"\x02\x01a\x00\x00");
        assert_eq!(decode(&two(a, again)), Err(Unreadable::Malformed), "a key twice");
        assert!(decode(&two(a, b"\x02\x01b\x00\x00")).is_ok());
        assert_eq!(decode(&two(a, b"\x06\x01b\x00\x00")), Err(Unreadable::Malformed), "an unknown flag");
        let huge = [&b"\x01"[..], &[0xff, 0xff, 0xff, 0xff, 0x0f], b"\x00"].concat();
        assert_eq!(decode(&huge), Err(Unreadable::Malformed), "more writes than bytes");
    }
}
