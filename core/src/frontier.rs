//! Frontiers: how much of each log of a space there is, or was.

use std::collections::BTreeMap;

use counterfoil_storage::{Digest, Head, LogId, Seq};
use serde::{Deserialize, Serialize};

use crate::token::{self, Magic, TokenError, token_text};

const MAGIC: Magic = *b"CFF1";
const ENTRY_LEN: usize = LogId::LEN + 8 + Digest::LEN;

/// The heads of a set of logs: what a space held, and in which history of it.
///
/// Two nodes with equal frontiers of a space hold the same records of it, byte for byte, and read them in the same
/// [merged order](crate::Space::read). Of a frontier that was kept, as text, bytes or with serde, the space can be
/// read [as it was](crate::Space::as_of) then. It takes 56 bytes a log, twice that as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Frontier {
    heads: BTreeMap<LogId, Head>,
}

impl Frontier {
    /// Of nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Where a log ends; `None` if there is nothing of it.
    pub fn head(&self, log: LogId) -> Option<Head> {
        self.heads.get(&log).copied()
    }

    /// Logs and where they end; ascending by id.
    pub fn heads(&self) -> impl Iterator<Item = (LogId, Head)> + '_ {
        self.heads.iter().map(|(log, head)| (*log, *head))
    }

    /// Sets where a log ends; one that has no record is left out.
    pub fn set(&mut self, log: LogId, head: Head) {
        if head.next_seq == Seq::ZERO {
            self.heads.remove(&log);
        } else {
            self.heads.insert(log, head);
        }
    }

    /// As bytes: `CFF1`, for each log its id (16 bytes), its length (8, little-endian) and the digest of its last
    /// batch (32), ascending by id, and 4 bytes that check them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let entry = |(log, head): (LogId, Head)| {
            [&log.as_bytes()[..], &head.next_seq.0.to_le_bytes(), head.digest.as_bytes()].concat()
        };
        token::seal(MAGIC, &self.heads().map(entry).collect::<Vec<_>>().concat())
    }

    /// From what [`to_bytes`](Self::to_bytes) made.
    ///
    /// # Errors
    ///
    /// The bytes are not those of a frontier, or were changed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenError> {
        let malformed = || TokenError::new("frontier", "its logs are not in order");
        let (entries, rest) = token::open("frontier", MAGIC, bytes)?.as_chunks::<ENTRY_LEN>();
        if !rest.is_empty() || !entries.is_sorted_by_key(|entry| &entry[..LogId::LEN]) {
            return Err(malformed());
        }
        let parse = |entry: &[u8; ENTRY_LEN]| {
            let (log, head) = entry.split_first_chunk()?;
            let (next_seq, digest) = head.split_first_chunk()?;
            let next_seq = Seq(u64::from_le_bytes(*next_seq));
            let digest = Digest::from_bytes(*digest.first_chunk()?);
            (next_seq > Seq::ZERO).then_some((LogId::from_bytes(*log), Head { next_seq, digest }))
        };
        let heads: BTreeMap<_, _> = entries.iter().map(parse).collect::<Option<_>>().ok_or_else(malformed)?;
        if heads.len() == entries.len() { Ok(Self { heads }) } else { Err(malformed()) }
    }
}

token_text!(Frontier, "frontier");

#[cfg(test)]
mod tests {
    use super::*;

    fn head(next_seq: u64) -> Head {
        Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([5; 32]) }
    }

    #[test]
    fn a_frontier_reads_back_from_text_and_bytes() {
        let mut frontier = Frontier::empty();
        for (log, next_seq) in [(9, 3), (2, u64::MAX), (4, 0)] {
            frontier.set(LogId::from_bytes([log; 16]), head(next_seq));
        }
        assert_eq!(frontier.heads().count(), 2, "a log without records is not in it");
        for frontier in [frontier, Frontier::empty()] {
            assert_eq!(Frontier::from_bytes(&frontier.to_bytes()), Ok(frontier.clone()));
            assert_eq!(frontier.to_string().parse(), Ok(frontier));
        }
    }

    #[test]
    fn the_bytes_of_a_frontier_are_fixed_for_ever() {
        let mut frontier = Frontier::empty();
        frontier.set(LogId::from_bytes([7; 16]), head(258));
        let bytes = frontier.to_bytes();
        let golden = [&b"CFF1"[..], &[7; 16], &[2, 1, 0, 0, 0, 0, 0, 0], &[5; 32]].concat();
        assert_eq!(bytes[..golden.len()], golden);
        assert_eq!(bytes.len(), golden.len() + 4);
        for len in 0..bytes.len() {
            assert!(Frontier::from_bytes(&bytes[..len]).is_err(), "length {len}");
        }
    }
}
