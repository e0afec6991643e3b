//! The hub: one store for all practices.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use counterfoil::{Server, Store, Tls};

use crate::Result;

/// The hub's name as a node.
pub(crate) const NODE: &str = "hub";

/// A hub that can be stopped and started at the same address.
#[derive(Debug)]
pub(crate) struct Hub {
    folder: PathBuf,
    tls: PathBuf,
    address: SocketAddr,
    running: Option<(Store, Server)>,
}

impl Hub {
    /// Makes the hub's store and begins to listen.
    pub(crate) fn new(folder: PathBuf, tls: PathBuf) -> Result<Self> {
        Store::builder().node(NODE).create(&folder)?.close(Duration::ZERO)?;
        let mut hub = Self { folder, tls, address: "127.0.0.1:0".parse()?, running: None };
        hub.start()?;
        Ok(hub)
    }

    /// Where it listens, or will again.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        let store = Store::open(&self.folder)?;
        // Without a policy each node may write the space that bears its own name, and nothing else.
        let server = store.serve(self.address.to_string(), Tls::from_dir(&self.tls)?).start()?;
        self.address = server.local_addr();
        self.running = Some((store, server));
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some((store, server)) = self.running.take() {
            server.stop();
            store.close(Duration::ZERO)?;
        }
        Ok(())
    }
}
