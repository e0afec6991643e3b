//! The first thing in a log: who writes it, for which space, and what it continues.
//!
//! # Bytes
//!
//! Little-endian, at most [`MAX_GENESIS_LEN`] bytes:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic and version, `CFG1` |
//! | 2 | flags: bit 0 parent follows, bit 1 public key follows; the rest zero |
//! | 2 | number of heads in the base frontier |
//! | 8 | term |
//! | 16 | nonce |
//! | 1 + n | space: length and name |
//! | 1 + n | node: length and name |
//! | 56 each | base frontier: log id (16), next sequence number (8), digest (32), ascending by log id |
//! | 56 | parent, if flagged: log id (16), sequence number (8), digest (32) |
//! | 32 | public key, if flagged |

use thiserror::Error;

use crate::{
    field::Fields,
    ids::{Digest, Head, LogId, NodeName, Seq, SpaceName, Term},
};

/// The longest encoded genesis, in bytes.
pub const MAX_GENESIS_LEN: usize = 4 * 1024;

const MAGIC: [u8; 4] = *b"CFG1";
const HAS_PARENT: u16 = 1;
const HAS_PUBLIC_KEY: u16 = 2;

/// What a log continues or forks: a position in another log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Parent {
    /// The log continued.
    pub log: LogId,
    /// Where it ended for the one who continues it.
    pub head: Head,
}

/// The first thing in a log. Its hash names the log and starts the chain of digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// The space that the log belongs to.
    pub space: SpaceName,
    /// The node that writes the log, and no other ever does.
    pub node: NodeName,
    /// Makes the log different from others of the same writer; the writer's incarnation by custom.
    pub nonce: [u8; 16],
    /// Generation of the writer of an exclusive space; 0 in a shared one.
    pub term: Term,
    /// Heads of the other logs of the space that a takeover builds on; ascending by log id.
    pub base: Vec<(LogId, Head)>,
    /// The log that this one continues, if any.
    pub parent: Option<Parent>,
    /// Reserved for writers that sign their batches.
    pub public_key: Option<[u8; 32]>,
}

/// Bytes are not a genesis.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a genesis: {what}")]
pub struct GenesisError {
    what: &'static str,
}

impl Genesis {
    /// A genesis of a shared space's log that continues nothing.
    pub fn new(space: SpaceName, node: NodeName, nonce: [u8; 16]) -> Self {
        Self { space, node, nonce, term: Term::ZERO, base: Vec::new(), parent: None, public_key: None }
    }

    /// Its bytes; see the module's table.
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(self.base.is_sorted_by(|(a, _), (b, _)| a < b), "base frontier in ascending order");
        let mut out = Vec::with_capacity(128);
        let flags = if self.parent.is_some() { HAS_PARENT } else { 0 }
            | if self.public_key.is_some() { HAS_PUBLIC_KEY } else { 0 };
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&(self.base.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.term.0.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        for name in [self.space.as_str(), self.node.as_str()] {
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
        for (log, head) in &self.base {
            write_position(&mut out, *log, *head);
        }
        if let Some(parent) = &self.parent {
            write_position(&mut out, parent.log, parent.head);
        }
        if let Some(key) = &self.public_key {
            out.extend_from_slice(key);
        }
        out
    }

    /// Reads a genesis; every byte must belong to it.
    pub fn decode(bytes: &[u8]) -> Result<Self, GenesisError> {
        let fail = |what| GenesisError { what };
        if bytes.len() > MAX_GENESIS_LEN {
            return Err(fail("too long"));
        }
        let mut fields = Fields(bytes);
        let genesis = Self::read(&mut fields).ok_or(fail("cut short, or a field is out of range"))?;
        if !fields.0.is_empty() {
            return Err(fail("bytes are left over"));
        }
        if !genesis.base.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(fail("base frontier is not in ascending order"));
        }
        Ok(genesis)
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        if fields.array()? != MAGIC {
            return None;
        }
        let flags = fields.u16()?;
        if flags & !(HAS_PARENT | HAS_PUBLIC_KEY) != 0 {
            return None;
        }
        let base_len = fields.u16()?;
        let term = Term(fields.u64()?);
        let nonce = fields.array()?;
        let space = SpaceName::new(read_name(fields)?).ok()?;
        let node = NodeName::new(read_name(fields)?).ok()?;
        let base = (0..base_len).map(|_| read_position(fields)).collect::<Option<_>>()?;
        let parent = if flags & HAS_PARENT == 0 {
            None
        } else {
            let (log, head) = read_position(fields)?;
            Some(Parent { log, head })
        };
        let public_key = if flags & HAS_PUBLIC_KEY == 0 { None } else { Some(fields.array()?) };
        Some(Self { space, node, nonce, term, base, parent, public_key })
    }

    /// BLAKE3 of its bytes: the digest before the first batch.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The log's name: the first 16 bytes of the digest.
    pub fn log_id(&self) -> LogId {
        log_id_of(self.digest())
    }

    /// The head of the log while it holds no record.
    pub fn head(&self) -> Head {
        Head { next_seq: Seq::ZERO, digest: self.digest() }
    }
}

/// The log's name, from the digest of its genesis.
fn log_id_of(digest: Digest) -> LogId {
    let mut id = [0; LogId::LEN];
    id.copy_from_slice(&digest.as_bytes()[..LogId::LEN]);
    LogId::from_bytes(id)
}

fn write_position(out: &mut Vec<u8>, log: LogId, head: Head) {
    out.extend_from_slice(log.as_bytes());
    out.extend_from_slice(&head.next_seq.0.to_le_bytes());
    out.extend_from_slice(head.digest.as_bytes());
}

fn read_position(fields: &mut Fields<'_>) -> Option<(LogId, Head)> {
    let log = LogId::from_bytes(fields.array()?);
    let next_seq = Seq(fields.u64()?);
    let digest = Digest::from_bytes(fields.array()?);
    Some((log, Head { next_seq, digest }))
}

fn read_name<'a>(fields: &mut Fields<'a>) -> Option<&'a str> {
    let len = fields.u8()?;
    std::str::from_utf8(fields.bytes(len.into())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Genesis {
        let head = Head { next_seq: Seq(7), digest: Digest::from_bytes([3; 32]) };
        Genesis {
            space: SpaceName::new("practice-12").unwrap(),
            node: NodeName::new("hub").unwrap(),
            nonce: [9; 16],
            term: Term(2),
            base: vec![(LogId::from_bytes([1; 16]), head), (LogId::from_bytes([2; 16]), head)],
            parent: Some(Parent { log: LogId::from_bytes([1; 16]), head }),
            public_key: Some([5; 32]),
        }
    }

    #[test]
    fn a_genesis_reads_back_from_its_bytes_and_no_other_length_does() {
        let genesis = full();
        let bytes = genesis.encode();
        assert_eq!(Genesis::decode(&bytes), Ok(genesis));
        for len in 0..bytes.len() {
            assert!(Genesis::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(Genesis::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn the_bytes_and_the_name_of_a_genesis_are_fixed_for_ever() {
        let genesis = Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("n").unwrap(), [0xaa; 16]);
        let golden = [&b"CFG1"[..], &[0; 4], &[0; 8], &[0xaa; 16], b"\x01s\x01n"].concat();
        assert_eq!(genesis.encode(), golden);
        assert_eq!(genesis.log_id().as_bytes()[..], genesis.digest().as_bytes()[..16]);
        assert_eq!(genesis.log_id().to_string(), "a2204af3de30df9370422b54656bb3f9");
    }
}
