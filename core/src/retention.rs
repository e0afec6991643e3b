//! Retention: what of a space may be removed from this store, and when.

mod due;
mod guard;
mod keeper;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, time::Duration};

use counterfoil_storage::{Hlc, LogId, NodeName, Seq, SpaceName};

use crate::acks::Ack;
pub(crate) use keeper::{Keeper, KeeperOptions};

/// What of a space may be removed from this store, and when. The default is nothing, ever.
///
/// A record is removed once a rule says that it is due ([`remove_older_than`](Self::remove_older_than) or
/// [`remove_beyond`](Self::remove_beyond), whichever comes first) *and* enough other nodes have said that it is durable on their
/// disks: [`mirrors`](Self::mirrors), one unless told otherwise, and all those [named](Self::held_by). From each log the oldest records go first, by
/// whole batches; reading below what is left is [`Trimmed`](crate::ErrorKind::Trimmed), and the chain of what is left
/// still verifies.
///
/// A node counts by what it says of its own disk in a session with this store that lives: it must be linked, and have said it since
/// then. What others say of it does not count here, though it counts for [`Durability::Mirrored`](crate::Durability): so a node behind
/// a hub never does. One that takes an ack back, or has a hole, counts no further than what it still has whole.
/// The node that writes a log never counts as a mirror of it.
///
/// An ack says that a node has made records durable, not that it will keep them: what its own retention removes is gone there, and
/// no ack tells that. Two nodes with policies may each count on the other. So let one node keep all, and
/// [name it](Self::held_by) in the policy of every other.
///
/// Age is by this node's wall clock: if that is ahead, records are due early, though not before others have them.
///
/// A log of which something was removed can't be mirrored from here to a node that has nothing of it: both ends are told of the gap, and the node
/// gets the log of another one that has all of it. If there is none, it never gets it. So with one mirror only, whoever removes depends on that
/// one; with two ([`mirrors(2)`](Self::mirrors)) the loss of one is made up for by the other.
///
/// Never removed, whatever the rules say: what is not durable here; a record with a version of a collection's key that no other
/// version has superseded, deletions included, and so all that came after it in its log (history reaches back as far as
/// the log does, no further); what comes after a hole in the log, until that is mended.
///
/// ```
/// use std::time::Duration;
/// use counterfoil::{Retention, Store};
///
/// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
///
/// let store = Store::builder().retention(Retention::keep_all().remove_older_than(365 * DAY)).in_memory()?;
/// let readings = store.space("readings")?;
/// readings.set_retention(Retention::keep_all().remove_older_than(30 * DAY).remove_beyond(1 << 30).mirrors(2));
/// assert!(store.trim()?.logs.is_empty(), "nobody has mirrored anything yet");
/// # Ok::<(), counterfoil::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    older_than: Option<Duration>,
    beyond_bytes: Option<u64>,
    mirrors: usize,
    held_by: BTreeSet<NodeName>,
}

impl Default for Retention {
    fn default() -> Self {
        Self::keep_all()
    }
}

impl Retention {
    /// Nothing is removed, ever.
    pub const fn keep_all() -> Self {
        Self { older_than: None, beyond_bytes: None, mirrors: 1, held_by: BTreeSet::new() }
    }

    /// Records are due that were recorded so long ago: by their writers' stamps, and this node's wall clock.
    ///
    /// A stamp that is ahead is young until then, and keeps what comes after it in its log. A node whose clock is far behind stamps what
    /// is due at once.
    #[must_use]
    pub fn remove_older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// While this store holds more than so many bytes of the space, its oldest records are due, of whatever log. Bytes are those of
    /// batches, as in [`SpaceStats`](crate::SpaceStats); what the disk holds of them is at most twice that, and segments
    /// that are not full.
    #[must_use]
    pub fn remove_beyond(mut self, bytes: u64) -> Self {
        self.beyond_bytes = Some(bytes);
        self
    }

    /// How many other nodes must have a record durably before it is removed. Default: 1. With 0 records are removed that
    /// nobody else has: they are gone for good.
    #[must_use]
    pub fn mirrors(mut self, nodes: usize) -> Self {
        self.mirrors = nodes;
        self
    }

    /// Nodes that must each have a record durably before it is removed, besides; they are among those that
    /// [`mirrors`](Self::mirrors) counts.
    #[must_use]
    pub fn held_by(mut self, nodes: impl IntoIterator<Item = NodeName>) -> Self {
        self.held_by.extend(nodes);
        self
    }

    /// Whether nothing is ever removed.
    pub fn keeps_all(&self) -> bool {
        self.older_than.is_none() && self.beyond_bytes.is_none()
    }

    /// Whether a record with that stamp is old enough to go.
    fn is_old(&self, time: Hlc, now_unix_ms: u64) -> bool {
        let age = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.older_than.is_some_and(|old| time.unix_ms().saturating_add(age(old)) <= now_unix_ms)
    }

    /// Up to where enough other nodes hold all of a log from `floor` on that durably ends at `end` here.
    fn mirrored_until(&self, acks: &[Ack], floor: Seq, end: Seq) -> Seq {
        let mut held: Vec<_> = acks.iter().map(|ack| ack.whole_from(floor)).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let by_enough = match self.mirrors.checked_sub(1) {
            Some(last) => held.get(last).copied().unwrap_or_default(),
            None => end,
        };
        let by_node =
            |node: &NodeName| acks.iter().find(|ack| ack.node == *node).map_or(Seq::ZERO, |ack| ack.whole_from(floor));
        self.held_by.iter().map(by_node).fold(by_enough.min(end), Seq::min)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keeps_all() {
            return f.write_str("keep all");
        }
        let age = self.older_than.map(|age| format!("older than {} s", age.as_secs()));
        let size = self.beyond_bytes.map(|bytes| format!("beyond {bytes} bytes"));
        let rules: Vec<_> = age.into_iter().chain(size).collect();
        write!(f, "remove what is {}", rules.join(", or "))?;
        match self.mirrors {
            0 => f.write_str(", though nobody else may have it")?,
            1 => f.write_str(", once it is mirrored to 1 node")?,
            nodes => write!(f, ", once it is mirrored to {nodes} nodes")?,
        }
        let named: Vec<_> = self.held_by.iter().map(NodeName::as_str).collect();
        if named.is_empty() { Ok(()) } else { write!(f, ", among them {}", named.join(", ")) }
    }
}

/// Why records that are due are not removed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Held {
    /// Not enough other nodes are known to have what comes from here on.
    NotMirrored {
        /// The first record that too few have.
        from: Seq,
    },
    /// A key of a collection still has the version that this record holds; or it holds one that this program can't read.
    LiveVersion {
        /// The record.
        seq: Seq,
    },
    /// Records from here on are missing or damaged on this disk: what they were can't be told.
    Hole {
        /// The first of them.
        from: Seq,
    },
    /// Something failed; it is tried again.
    Failed {
        /// What.
        what: String,
    },
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMirrored { from } => write!(f, "too few other nodes are known to have record {from}"),
            Self::LiveVersion { seq } => write!(f, "record {seq} is the present version of a collection's key"),
            Self::Hole { from } => write!(f, "record {from} can't be read here: a mirror, or `repair`, mends it"),
            Self::Failed { what } => f.write_str(what),
        }
    }
}

/// What was removed of a log, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrimmedLog {
    /// The log.
    pub log: LogId,
    /// Its space.
    pub space: SpaceName,
    /// The node that writes it.
    pub node: NodeName,
    /// Its first record before.
    pub from: Seq,
    /// Its first record from now on.
    pub to: Seq,
    /// The first record that no rule of age or size says is due.
    pub due: Seq,
    /// Bytes of the batches removed.
    pub bytes: u64,
    /// Why no more was removed, if something is in the way.
    pub held: Option<Held>,
}

impl TrimmedLog {
    /// How many records were removed.
    pub fn records(&self) -> u64 {
        self.to.0 - self.from.0
    }
}

/// What retention did in one go, or would do: see [`Store::trim`](crate::Store::trim).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trimmed {
    /// The logs of which something was removed, or in which something is in the way.
    pub logs: Vec<TrimmedLog>,
    /// Segment files given back.
    pub freed_segments: u64,
    /// Bytes of what was in them.
    pub freed_bytes: u64,
    /// Bytes that were copied forward out of them, since they are kept.
    pub copied_bytes: u64,
    /// Why not all that nobody needs was given back, if something can't be read that would have to be copied: it stays where
    /// it is until it is mended, and so does what came later.
    pub not_freed: Option<String>,
}

impl Trimmed {
    /// How many records were removed.
    pub fn records(&self) -> u64 {
        self.logs.iter().map(TrimmedLog::records).sum()
    }

    /// Bytes of the batches removed.
    pub fn bytes(&self) -> u64 {
        self.logs.iter().map(|log| log.bytes).sum()
    }
}

/// What retention has done since the store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionStats {
    /// How often it has looked.
    pub runs: u64,
    /// Records removed.
    pub trimmed_records: u64,
    /// Bytes of their batches.
    pub trimmed_bytes: u64,
    /// Segment files given back.
    pub freed_segments: u64,
    /// Bytes of what was in them.
    pub freed_bytes: u64,
    /// Bytes copied forward out of them.
    pub copied_bytes: u64,
    /// Logs of which something is due and held, as of the last look.
    pub held_logs: u64,
    /// Why the last look failed, if it did.
    pub last_error: Option<String>,
}
