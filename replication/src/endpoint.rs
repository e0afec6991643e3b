//! A session tied to a journal.

use std::{sync::Arc, time::Instant};

use counterfoil_storage::Journal;

use crate::{
    config::SessionConfig,
    error::SessionError,
    event::{Event, SessionStatus},
    message::Message,
    policy::Policy,
};

/// A session tied to a journal; still without sockets, clocks and threads.
///
/// After each `handle_…`, drain [`poll_event`](Self::poll_event), [`poll_fetch`](Self::poll_fetch) and
/// [`poll_transmit`](Self::poll_transmit) (as far as the connection takes messages), then wait for whichever
/// comes first: a message, the journal's watch, a fetch that is done, or [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Endpoint;

/// A range to be read from the journal. It may block: run it anywhere.
#[derive(Debug)]
pub struct Fetch;

impl Fetch {
    /// Reads. Blocks while the disk does.
    pub fn run(self) -> Fetched {
        todo!()
    }
}

/// What a [`Fetch`] brought; give it back to the endpoint.
#[derive(Debug)]
pub struct Fetched;

impl Endpoint {
    /// Begins a session over `journal`.
    pub fn new(_journal: Journal, _config: SessionConfig, _now: Instant) -> Self {
        todo!()
    }

    /// Takes a message from the peer. An error ends the session: close the connection after telling
    /// the peer [`SessionError::close_reason`].
    pub fn handle_message(&mut self, _now: Instant, _message: Message) -> Result<(), SessionError> {
        todo!()
    }

    /// Call when the journal's watch says that something became durable, or that the journal failed.
    pub fn handle_journal(&mut self, _now: Instant) -> Result<(), SessionError> {
        todo!()
    }

    /// Call when [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, _now: Instant) -> Result<(), SessionError> {
        todo!()
    }

    /// Call when the policy was reloaded. An error (the peer is denied now) ends the session.
    pub fn handle_policy(&mut self, _now: Instant, _policy: Arc<Policy>) -> Result<(), SessionError> {
        todo!()
    }

    /// Takes what a fetch brought.
    pub fn handle_fetched(&mut self, _now: Instant, _fetched: Fetched) -> Result<(), SessionError> {
        todo!()
    }

    /// The next message to send. Call only when the connection takes one: what can be sent later may be better.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        todo!()
    }

    /// The next range to be read.
    pub fn poll_fetch(&mut self) -> Option<Fetch> {
        todo!()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` once the session has ended.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// The longest batch that this end takes, in bytes: for [`codec::decode`](crate::codec::decode).
    pub fn batch_len_max_bytes(&self) -> u32 {
        todo!()
    }

    /// How the session stands.
    pub fn status(&self) -> SessionStatus {
        todo!()
    }
}
