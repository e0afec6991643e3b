//! The drivers: TLS, a reconnecting link, an acceptor, and the loop around a session.

mod rejection;
mod tls;

pub use rejection::Rejection;
pub use tls::{CA_FILE, CERT_FILE, KEY_FILE, NODE_URI_PREFIX, NodeNameError, Tls, TlsError, peer_name};
