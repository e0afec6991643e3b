//! Frontiers: the heads of a set of logs, and the hash by which two nodes compare them.

use std::fmt;

use counterfoil_storage::{Head, LogId};
use serde::{Deserialize, Serialize};

/// Where one log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// The log.
    pub log: LogId,
    /// Its durable head at the node that says so.
    pub head: Head,
}

/// BLAKE3, cut to 16 bytes, over the heads of the non-empty logs of a set, ascending by log id.
///
/// Two nodes whose hashes are equal hold equal histories of those logs, byte for byte.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontierHash([u8; 16]);

impl FrontierHash {
    /// Of heads in ascending order of their logs; logs without a record don't count.
    ///
    /// # Panics
    ///
    /// In debug builds, if the order is not ascending.
    pub fn of(heads: impl IntoIterator<Item = LogHead>) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut previous: Option<LogId> = None;
        for LogHead { log, head } in heads {
            debug_assert!(previous.replace(log).is_none_or(|previous| previous < log), "logs in ascending order");
            if head.next_seq.0 > 0 {
                hasher.update(log.as_bytes());
                hasher.update(&head.next_seq.0.to_le_bytes());
                hasher.update(head.digest.as_bytes());
            }
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(hash)
    }

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for FrontierHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrontierHash({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use counterfoil_storage::{Digest, Seq};

    use super::*;

    fn at(log: u8, next_seq: u64, digest: u8) -> LogHead {
        let head = Head { next_seq: Seq(next_seq), digest: Digest::from_bytes([digest; 32]) };
        LogHead { log: LogId::from_bytes([log; 16]), head }
    }

    #[test]
    fn a_hash_tells_any_difference_but_that_of_empty_logs() {
        let hash = FrontierHash::of([at(1, 5, 7), at(2, 6, 8)]);
        assert_eq!(hash, FrontierHash::of([at(1, 5, 7), at(2, 6, 8), at(3, 0, 9)]));
        for other in [
            vec![],
            vec![at(1, 5, 7)],
            vec![at(1, 5, 7), at(2, 6, 9)],
            vec![at(1, 5, 7), at(2, 7, 8)],
            vec![at(1, 5, 7), at(3, 6, 8)],
        ] {
            assert_ne!(hash, FrontierHash::of(other));
        }
    }
}
