//! Names and positions: one newtype for each thing that could be mistaken for another.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Writes bytes as lower-case hexadecimal.
fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads exactly `N` bytes of hexadecimal.
fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        if pair.starts_with('+') {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// The text was not the hexadecimal form of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not {digits} hexadecimal digits; copy the identifier as `status` prints it")]
pub struct ParseIdError {
    text: String,
    digits: usize,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// From its bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text)
                    .map(Self)
                    .ok_or_else(|| ParseIdError { text: text.chars().take(80).collect(), digits: 2 * $len })
            }
        }
    };
}

hex_id! {
    /// Names a log: the first 16 bytes of the BLAKE3 hash of its genesis.
    ///
    /// Since the hash covers space, node and nonce, a log can't be claimed by another space or node.
    LogId, 16
}

hex_id! {
    /// BLAKE3 of a batch's stored bytes, which contain the predecessor's digest; before the first
    /// batch, BLAKE3 of the genesis. So one digest stands for the whole history up to it.
    Digest, 32
}

hex_id! {
    /// A random number that tells two lives of one node apart: new when an identity is restored or copied.
    Incarnation, 16
}

hex_id! {
    /// A random number that names one store.
    StoreId, 16
}

impl Digest {
    /// BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl Incarnation {
    /// A new random incarnation.
    pub fn random() -> std::io::Result<Self> {
        random_bytes().map(Self)
    }
}

impl StoreId {
    /// A new random store id.
    pub fn random() -> std::io::Result<Self> {
        random_bytes().map(Self)
    }
}

/// Bytes of the operating system's random source.
pub(crate) fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The first one.
            pub const ZERO: Self = Self(0);
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

position! {
    /// Sequence number of a record in its log: 0, 1, 2, … without holes.
    Seq
}
position! {
    /// Store-wide number of a batch, given when it arrives and kept when it is relocated.
    Arrival
}
position! {
    /// Number of a commit, counted over the life of the store.
    CommitNumber
}
position! {
    /// Number of a segment file, counted over the life of the store.
    SegmentNumber
}
position! {
    /// Generation of the writer of an exclusive space; 0 in a shared space.
    Term
}

/// A name was not usable for a node or a space.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} can't be a name: use 1 to {MAX_NAME_LEN} of a-z A-Z 0-9 . _ - and begin with a letter or digit")]
pub struct NameError {
    name: String,
}

/// The longest name of a node or a space, in bytes.
pub const MAX_NAME_LEN: usize = 128;

fn check_name(name: &str) -> Result<Arc<str>, NameError> {
    let begins_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let all_allowed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if begins_well && all_allowed && name.len() <= MAX_NAME_LEN {
        Ok(name.into())
    } else {
        Err(NameError { name: name.chars().take(MAX_NAME_LEN).collect() })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to 128 bytes of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit. Cheap to clone.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check_name(name).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name! {
    /// Name of a node: one store with one identity.
    NodeName
}
name! {
    /// Name of a space: a set of logs that replicate together.
    SpaceName
}

/// Where a log ends: its length and the digest of its last batch.
///
/// Two heads are equal only if the whole histories behind them are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// Sequence number that the next record will get; the log's length.
    pub next_seq: Seq,
    /// Digest of the last batch; of the genesis while the log is empty.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints_and_refuses_the_rest() {
        let id = LogId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "ab", &"ab".repeat(17), &"+a".repeat(16), &"zz".repeat(16), &"é".repeat(16)] {
            assert!(text.parse::<LogId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_plain_text_that_can_be_a_file_name() {
        for good in ["practice-12", "a", "9", "A.b_c-d", &"x".repeat(128)] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "-a", "a/b", "a b", "é", &"x".repeat(129)] {
            assert!(SpaceName::new(bad).is_err(), "{bad}");
        }
    }
}
