//! Versions of the value of a key.

use std::{fmt, str::FromStr, time::SystemTime};

use counterfoil_storage::{Hlc, LogId, NodeName, Seq};
use thiserror::Error;

use crate::{codec::CodecError, time};

/// Which version: the place of the record that made it. Written as `LOG:SEQ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId {
    /// The log.
    pub log: LogId,
    /// The record.
    pub seq: Seq,
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.log, self.seq)
    }
}

/// A text does not name a version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a version: it is written LOG:SEQ, as `get --json` and `conflicts` show it")]
pub struct ParseVersionError {
    text: String,
}

impl FromStr for VersionId {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let parse = || {
            let (log, seq) = text.split_once(':')?;
            Some(Self { log: log.parse().ok()?, seq: Seq(seq.parse().ok()?) })
        };
        parse().ok_or_else(|| ParseVersionError { text: text.chars().take(80).collect() })
    }
}

/// One version of the value of a key, or of its deletion.
#[derive(Debug, Clone)]
pub struct Version<V> {
    pub(super) id: VersionId,
    pub(super) node: NodeName,
    pub(super) time: Hlc,
    pub(super) happened_unix_ms: Option<i64>,
    pub(super) supersedes: Vec<VersionId>,
    pub(super) content: Content<V>,
}

#[derive(Debug, Clone)]
pub(super) enum Content<V> {
    Value {
        value: V,
        schema: u16,
    },
    Deleted,
    /// It is kept and replicated; a program that knows its schema version can read it.
    Unreadable(std::sync::Arc<CodecError>),
}

impl<V> Version<V> {
    /// Which one.
    pub fn id(&self) -> VersionId {
        self.id
    }

    /// The node that wrote it.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// When its writer recorded it, as the stamp that orders it among other versions.
    pub fn time(&self) -> Hlc {
        self.time
    }

    /// When its writer recorded it, by the writer's clock.
    pub fn recorded_at(&self) -> SystemTime {
        self.time.to_system_time()
    }

    /// When it happened, if that was not when it was recorded.
    pub fn happened_at(&self) -> Option<SystemTime> {
        self.happened_unix_ms.and_then(time::of_unix_ms)
    }

    /// The last version in each log that it supersedes; those before them in their logs are superseded too.
    pub fn supersedes(&self) -> &[VersionId] {
        &self.supersedes
    }

    /// The value; `None` if this is a deletion, or can't be read.
    pub fn value(&self) -> Option<&V> {
        match &self.content {
            Content::Value { value, .. } => Some(value),
            Content::Deleted | Content::Unreadable(_) => None,
        }
    }

    /// Takes the value out.
    pub fn into_value(self) -> Option<V> {
        match self.content {
            Content::Value { value, .. } => Some(value),
            Content::Deleted | Content::Unreadable(_) => None,
        }
    }

    /// The schema version that it was written with, if it has a value that can be read.
    pub fn schema_version(&self) -> Option<u16> {
        match &self.content {
            Content::Value { schema, .. } => Some(*schema),
            Content::Deleted | Content::Unreadable(_) => None,
        }
    }

    /// Whether it deletes the key.
    pub fn is_deleted(&self) -> bool {
        matches!(self.content, Content::Deleted)
    }

    /// Why its value can't be read: written with a schema version or codec that this program does not know. The version
    /// stands all the same.
    pub fn unreadable(&self) -> Option<&CodecError> {
        match &self.content {
            Content::Unreadable(error) => Some(error),
            Content::Value { .. } | Content::Deleted => None,
        }
    }
}

/// What a key holds.
#[derive(Debug, Clone)]
pub enum Versions<V> {
    /// Nothing: it was never written, or is deleted.
    None,
    /// One version. Its value may be [unreadable](Version::unreadable) for this program.
    One(Version<V>),
    /// Versions that were written without knowledge of each other, in merged order; some may be deletions. They stay until a write
    /// supersedes them all.
    Conflict(Vec<Version<V>>),
}

impl<V> Versions<V> {
    /// Of live versions in any order.
    pub(super) fn of(mut live: Vec<Version<V>>) -> Self {
        live.sort_unstable_by_key(|version| (version.time, version.id));
        match live.len() {
            0 => Self::None,
            1 => live.pop().filter(|only| !only.is_deleted()).map_or(Self::None, Self::One),
            _ => Self::Conflict(live),
        }
    }

    /// All of them: none, one, or those in conflict.
    pub fn all(&self) -> &[Version<V>] {
        match self {
            Self::None => &[],
            Self::One(version) => std::slice::from_ref(version),
            Self::Conflict(versions) => versions,
        }
    }

    /// The one that was recorded last, by the stamps of the writers' clocks.
    pub fn newest(&self) -> Option<&Version<V>> {
        self.all().last()
    }

    /// Whether there are several.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// The value, if there is exactly one version and it can be read.
    pub fn value(&self) -> Option<&V> {
        match self {
            Self::One(version) => version.value(),
            Self::None | Self::Conflict(_) => None,
        }
    }
}

/// All versions of a key that are here.
#[derive(Debug, Clone)]
pub struct History<V> {
    /// In merged order: oldest first.
    pub versions: Vec<Version<V>>,
    /// Versions that others supersede and that are not here: they have not arrived, are no longer kept, or are damaged.
    pub missing: Vec<VersionId>,
    /// Those that no write supersedes, a deletion among them.
    pub live: Vec<VersionId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_written_as_it_is_read() {
        let id = VersionId { log: LogId::from_bytes([0xab; 16]), seq: Seq(7) };
        assert_eq!(id.to_string(), "abababababababababababababababab:7");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", ":", "ab:7", "abababababababababababababababab", "abababababababababababababababab:-1"] {
            assert!(text.parse::<VersionId>().is_err(), "{text}");
        }
    }
}
