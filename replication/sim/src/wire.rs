//! Connections: two ordered streams of bytes that can be slow, silent, cut or corrupted.

use std::{collections::BTreeMap, time::Duration};

use bytes::BytesMut;
use counterfoil_replication::{Endpoint, Message, codec};
use counterfoil_storage::{Head, LogId, Seq, SpaceName};

/// Bytes that may be under way in one direction: what the two kernels' buffers would hold.
pub(crate) const UNDER_WAY_MAX: usize = 64 << 10;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct End {
    /// The machine that it is on.
    pub(crate) machine: usize,
    /// `None` once it is closed.
    pub(crate) endpoint: Option<Endpoint>,
    /// Received and not yet decoded.
    inbox: BytesMut,
    /// Bytes from this end that have not arrived.
    pub(crate) under_way: usize,
    /// When the last of them arrives: a stream keeps its order.
    pub(crate) last_arrival: Duration,
    /// What arrives is not read, and kept.
    pub(crate) unread: Option<Vec<u8>>,
    /// What is sent from here is lost without a word.
    pub(crate) silenced: bool,
    /// The timer that has been set.
    pub(crate) timer_at: Option<Duration>,
    /// What its machine had when the connection was made.
    pub(crate) began_with: BTreeMap<LogId, Head>,
    /// How often the other end has offered each space.
    pub(crate) offers: BTreeMap<SpaceName, u32>,
    /// How far the other end has sent each log.
    pub(crate) received: BTreeMap<LogId, Seq>,
}

impl End {
    pub(crate) fn new(machine: usize, endpoint: Endpoint, began_with: BTreeMap<LogId, Head>) -> Self {
        Self {
            machine,
            endpoint: Some(endpoint),
            inbox: BytesMut::new(),
            under_way: 0,
            last_arrival: Duration::ZERO,
            unread: None,
            silenced: false,
            timer_at: None,
            began_with,
            offers: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
    }

    /// The next message that has arrived whole.
    pub(crate) fn next_message(&mut self) -> Result<Option<Message>, String> {
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        codec::decode(&mut self.inbox, endpoint.batch_len_max_bytes()).map_err(|error| error.to_string())
    }
}

/// A connection; its first end dialled.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: [End; 2],
    pub(crate) latency: Duration,
    /// Nothing that is under way arrives any more.
    pub(crate) is_cut: bool,
}
