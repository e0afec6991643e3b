//! What a session is told when it begins.

use std::{sync::Arc, time::Duration};

use counterfoil_storage::{Incarnation, MAX_BATCH_LEN, NodeName, SpaceName};

use crate::policy::Policy;

/// Which way the records of a space flow, seen from this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From here to the peer: this end is mirrored.
    Send,
    /// From the peer to here: this end is a mirror.
    Receive,
    /// Both ways: sync.
    Both,
    /// Neither way: what was lost here is asked for, no more.
    Mend,
}

impl Direction {
    /// Whether records leave this end.
    pub fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }

    /// Whether records come to this end.
    pub fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }
}

/// What a session is told when it begins.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// This node.
    pub local: NodeName,
    /// This life of this node.
    pub incarnation: Incarnation,
    /// The node at the other end, as its certificate proved.
    pub peer: NodeName,
    /// Spaces that this end brings into the session, with what it wants of each. Each grants the peer
    /// what that direction needs. Empty at an accepting end, which serves what the policy grants.
    pub spaces: Vec<(SpaceName, Direction)>,
    /// What the peer may do besides.
    pub policy: Arc<Policy>,
    /// Bounds.
    pub limits: Limits,
}

/// The bounds of a session. Each default is stated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Spaces in one session, both flows of a space counting once. Default: 4096.
    pub spaces_max: usize,
    /// Logs in one session, known here or announced by the peer. Default: 65,536, about 600 bytes each.
    pub logs_max: usize,
    /// Logs of one writer in one space that this end keeps, those included that it has: of more that the peer announces
    /// nothing is stored. A node begins a log in each of its lives. Default: 256.
    pub logs_per_writer_max: usize,
    /// Bytes of batches that the peer may have outstanding at first, and that this end holds for it. Any positive
    /// credit admits one batch, so one longest batch more may be held. Grows and shrinks with the window of a space.
    /// Default: 2 MiB.
    pub session_window_bytes: u64,
    /// The same for one space. Default: 1 MiB.
    pub space_window_bytes: u64,
    /// A space's window grows to what the way to this end's disk holds, measured, but not beyond this; the session's
    /// with it, in proportion: 64 MiB. Default: 32 MiB, which 1 Gbit/s over 125 ms and back needs.
    pub space_window_bytes_max: u64,
    /// And it does not shrink below this. Default: 256 KiB.
    pub space_window_bytes_min: u64,
    /// The longest batch taken, in bytes. Default: [`MAX_BATCH_LEN`].
    pub batch_len_max_bytes: u32,
    /// Bytes of batches of one read of the journal; a batch that is longer is read alone. Default: 256 KiB.
    pub fetch_bytes: usize,
    /// Reads of the journal under way at once. Default: 4.
    pub fetches_max: usize,
    /// Control messages that wait to be sent; a peer that causes more is not reading. Default: 16,384.
    pub control_max: usize,
    /// Bytes of batches read ahead of sending them. Beyond it each log may hold one batch more. Default: 1 MiB.
    pub ready_bytes_max: usize,
    /// Of a space with more logs than this the peer is not told all heads, unless few are alike, but a sketch of them, from
    /// which it can tell which of its own differ: one more round trip if those are many. Default: 32, whose heads take
    /// three times what the sketch does.
    pub heads_at_once_max: usize,
    /// How long the peer may take to say `Hello`. Default: 10 s.
    pub handshake_timeout: Duration,
    /// Time between heartbeats while records flow; 10 ms to 2 minutes. Default: 1 s.
    pub heartbeat_busy: Duration,
    /// Time between heartbeats while nothing flows; 10 ms to 2 minutes. Default: 15 s.
    pub heartbeat_idle: Duration,
    /// How long to wait before a full store is tried again. Default: 1 s.
    pub full_retry: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            spaces_max: 4096,
            logs_max: 65_536,
            logs_per_writer_max: 256,
            session_window_bytes: 2 << 20,
            space_window_bytes: 1 << 20,
            space_window_bytes_max: 32 << 20,
            space_window_bytes_min: 256 << 10,
            batch_len_max_bytes: MAX_BATCH_LEN as u32,
            fetch_bytes: 256 << 10,
            fetches_max: 4,
            control_max: 16_384,
            ready_bytes_max: 1 << 20,
            heads_at_once_max: 32,
            handshake_timeout: Duration::from_secs(10),
            heartbeat_busy: Duration::from_secs(1),
            heartbeat_idle: Duration::from_secs(15),
            full_retry: Duration::from_secs(1),
        }
    }
}
