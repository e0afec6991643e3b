//! The replication protocol of Counterfoil.
//!
//! Two ends of one connection each run a [`Session`]: a machine without sockets, clocks, threads or
//! async code. Messages, durability and time go in; messages, batches to store, ranges to read and
//! events come out. One machine serves mirroring and sync: direction is permission. An [`Endpoint`]
//! ties a session to a [`Journal`](counterfoil_storage::Journal); a driver ties an endpoint to a
//! connection. [`codec`] is the only place that sees bytes.
//!
//! What holds of every session:
//!
//! - No batch is sent before it is durable here, no acknowledgement before what it names is durable here.
//! - Batches are stored only with a right to them, in the order of their chain, verbatim.
//! - What is wrong with one log parks that log, by name, at both ends; only a peer that breaks the
//!   protocol loses the session.
//! - Every queue, list and message has a bound: see [`Limits`].

mod acks;
pub mod codec;
mod config;
mod endpoint;
mod error;
mod event;
mod frontier;
mod log_limit;
mod memory;
mod message;
#[cfg(feature = "net")]
pub mod net;
mod policy;
mod session;
mod sketch;

pub use acks::{AckBoard, AckChange, Subscription};
pub use config::{Direction, Limits, SessionConfig};
pub use endpoint::{Commit, Endpoint, Fetch, Fetched};
pub use error::{PeerMisbehaved, SessionError};
pub use event::{By, Event, Held, NotMended, SessionStatus, SpaceStatus};
pub use frontier::{FrontierHash, LogHead};
pub use log_limit::LogLimit;
pub use message::{
    Ack, Announce, CaughtUp, CloseReason, Credit, Differing, Flow, GapCause, Heads, Heartbeat, Hello, Mend, MendEnd,
    MendOutcome, Message, Offer, PROTOCOL_MAX, PROTOCOL_MIN, Park, ParkReason, Reconciled, Refusal, Refuse, Rewind,
    Scope, Sketch, VIA_MAX, Want, Wanted, Window,
};
pub use policy::{Policy, PolicyError, Rights};
pub use session::{
    FetchFailure, FetchRequest, LogState, MendingRequest, MendingResult, Session, StoreFailure, StoreRequest,
};
pub use sketch::{Cell, Estimate, LogMark};
