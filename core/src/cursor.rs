//! Cursors: where a follower stands.

use std::collections::BTreeMap;

use counterfoil_storage::{LogId, Seq};
use serde::{Deserialize, Serialize};

use crate::token::{self, Magic, TokenError, token_text};

const MAGIC: Magic = *b"CFC1";

/// A place to go on following from. The default is the start of everything.
///
/// Keep it as text ([`to_string`](ToString::to_string), [`parse`](str::parse)), as bytes
/// ([`to_bytes`](Self::to_bytes), [`from_bytes`](Self::from_bytes)) or with serde, to go on after a restart. It names
/// a place in each log, not in this store's files: so it means the same at every replica of the space, and stands
/// whatever a store drops, moves or mends. It takes 24 bytes a log, twice that as text.
///
/// ```
/// use counterfoil::{Cursor, Store};
///
/// let store = Store::in_memory()?;
/// let space = store.own_space()?;
/// space.append_all(&["a", "b"])?;
/// store.commit()?;
/// let mut records = space.follow(Cursor::start());
/// assert_eq!(records.next().unwrap()?.body(), "a");
/// let kept = records.cursor().to_string();
///
/// let mut records = space.follow(kept.parse().expect("nobody changed it"));
/// assert_eq!(records.next().unwrap()?.body(), "b");
/// # Ok::<(), counterfoil::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    next: BTreeMap<LogId, Seq>,
}

impl Cursor {
    /// The start: before all records of all logs.
    pub fn start() -> Self {
        Self::default()
    }

    /// The sequence number that comes next in a log.
    pub fn next_seq(&self, log: LogId) -> Seq {
        self.next.get(&log).copied().unwrap_or_default()
    }

    /// Sets what comes next in a log.
    pub fn set(&mut self, log: LogId, next_seq: Seq) {
        self.next.insert(log, next_seq);
    }

    /// As bytes: `CFC1`, for each log its id (16 bytes) and the sequence number that comes next (8, little-endian),
    /// ascending by id, and 4 bytes that check them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let entries = self.next.iter().map(|(log, next_seq)| [&log.as_bytes()[..], &next_seq.0.to_le_bytes()].concat());
        token::seal(MAGIC, &entries.collect::<Vec<_>>().concat())
    }

    /// From what [`to_bytes`](Self::to_bytes) made.
    ///
    /// # Errors
    ///
    /// The bytes are not those of a cursor, or were changed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenError> {
        let malformed = || TokenError::new("cursor", "its logs are not in order");
        let (entries, rest) = token::open("cursor", MAGIC, bytes)?.as_chunks::<{ LogId::LEN + 8 }>();
        if !rest.is_empty() || !entries.is_sorted_by_key(|entry| &entry[..LogId::LEN]) {
            return Err(malformed());
        }
        let parse = |entry: &[u8; LogId::LEN + 8]| {
            let (log, next_seq) = entry.split_first_chunk()?;
            Some((LogId::from_bytes(*log), Seq(u64::from_le_bytes(*next_seq.first_chunk()?))))
        };
        let next: BTreeMap<_, _> = entries.iter().map(parse).collect::<Option<_>>().ok_or_else(malformed)?;
        if next.len() == entries.len() { Ok(Self { next }) } else { Err(malformed()) }
    }
}

token_text!(Cursor, "cursor");

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(places: &[(u8, u64)]) -> Cursor {
        let mut cursor = Cursor::start();
        places.iter().for_each(|(log, seq)| cursor.set(LogId::from_bytes([*log; 16]), Seq(*seq)));
        cursor
    }

    #[test]
    fn a_cursor_reads_back_from_text_and_bytes() {
        for cursor in [Cursor::start(), cursor(&[(1, 0)]), cursor(&[(9, u64::MAX), (2, 1 << 40)])] {
            assert_eq!(Cursor::from_bytes(&cursor.to_bytes()), Ok(cursor.clone()));
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn bytes_of_something_else_are_refused() {
        let entry = |log: u8| [[log; 24]];
        for entries in [vec![entry(2), entry(1)], vec![entry(1), entry(1)]] {
            let bytes = token::seal(MAGIC, &entries.concat().concat());
            assert!(Cursor::from_bytes(&bytes).is_err());
        }
        assert!(Cursor::from_bytes(&token::seal(MAGIC, &[0; 23])).is_err());
        assert!("".parse::<Cursor>().is_err());
    }

    #[test]
    fn the_text_of_a_cursor_is_fixed_for_ever() {
        let golden = "43464331070707070707070707070707070707070201000000000000";
        let text = cursor(&[(7, 258)]).to_string();
        assert_eq!(text[..golden.len()], *golden);
        assert_eq!(text.len(), golden.len() + 8);
    }
}
