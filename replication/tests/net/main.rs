//! The drivers: handshakes, sessions over a connection, links and listeners, and what hostile peers get.
#![cfg(feature = "net")]

mod authority;
mod driver;
mod hostile;
mod links;
mod node;
mod tls;
mod versions;
