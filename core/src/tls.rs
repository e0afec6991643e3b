//! PLACEHOLDER until replication::net lands.

use std::path::Path;

use crate::error::Result;

/// Certificates and key of this node.
#[derive(Debug, Clone)]
pub struct Tls;

impl Tls {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` from a folder.
    pub fn from_dir(_folder: impl AsRef<Path>) -> Result<Self> {
        Ok(Self)
    }
}
