//! The drivers: TLS, a link that reconnects, an acceptor, and the loop around a session.
//!
//! [`dial`] and [`listen`] run on the tokio runtime that they are called in; [`drive`] runs a session over any
//! connection. Nothing of a session is here: see [`Endpoint`](crate::Endpoint).

mod dial;
mod driver;
mod listen;
mod rejection;
mod tls;

pub use dial::{DialConfig, Link, LinkEvent, LinkState, LinkStatus, Target, TargetError, dial};
pub use driver::{Ended, SessionHandle, drive};
pub use listen::{ListenBounds, ListenConfig, ListenError, Listener, Peer, listen};
pub use rejection::Rejection;
pub use tls::{CA_FILE, CERT_FILE, KEY_FILE, NODE_URI_PREFIX, NodeNameError, Tls, TlsError, peer_name};
