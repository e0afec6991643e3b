//! Where a peer is, and who it must be.

use std::{fmt, str::FromStr};

use counterfoil_storage::{NameError, NodeName};
use thiserror::Error;

/// A peer, written `NODE@HOST:PORT`: a connection to `HOST:PORT` counts only if `NODE` answers.
///
/// ```
/// let peer: counterfoil::PeerAddress = "hub@hub.example:7400".parse()?;
/// assert_eq!(peer.node().as_str(), "hub");
/// assert_eq!(peer.address(), "hub.example:7400");
/// # Ok::<(), counterfoil::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    node: NodeName,
    address: String,
}

/// A text is not `NODE@HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerAddressError {
    /// A part is missing.
    #[error("{text:?} is not a peer: write NODE@HOST:PORT, such as hub@hub.example:7400")]
    Shape {
        /// The text.
        text: String,
    },
    /// The part before the `@` is not a node's name.
    #[error(transparent)]
    Node(#[from] NameError),
}

impl PeerAddress {
    /// The node that must answer.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.address)
    }
}

impl FromStr for PeerAddress {
    type Err = PeerAddressError;

    fn from_str(text: &str) -> Result<Self, PeerAddressError> {
        let shape = || PeerAddressError::Shape { text: text.chars().take(200).collect() };
        let (node, address) = text.split_once('@').ok_or_else(shape)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(shape)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(shape());
        }
        Ok(Self { node: NodeName::new(node)?, address: address.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_reads_back_what_it_prints_and_says_what_is_missing() {
        for text in ["hub@hub.example:7400", "hub-2@[::1]:1", "h@127.0.0.1:65535"] {
            assert_eq!(text.parse::<PeerAddress>().unwrap().to_string(), text);
        }
        for text in ["", "hub", "hub@host", "hub@:7400", "@host:1", "hub@host:", "hub@host:99999", "h b@host:1"] {
            assert!(text.parse::<PeerAddress>().is_err(), "{text}");
        }
    }
}
