//! A line between a practice and the hub that can be cut and mended, as a digger and a crew would.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use crate::Result;

/// Carries TCP connections from an address of its own to another. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Line {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    is_cut: Mutex<bool>,
    mended: Condvar,
}

impl Line {
    /// A line to `target`, in order.
    pub(crate) fn new(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { target, is_cut: Mutex::new(false), mended: Condvar::new() });
        let carrier = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let carrier = Arc::clone(&carrier);
                thread::spawn(move || carrier.connect(near));
            }
        });
        Ok(Self { address, state })
    }

    /// The near end.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing arrives, and neither end is told: what is sent is on its way until the
    /// line is mended or the ends give up.
    pub(crate) fn cut(&self) {
        *self.state.is_cut.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// What is on its way arrives.
    pub(crate) fn mend(&self) {
        *self.state.is_cut.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.state.mended.notify_all();
    }
}

impl State {
    fn wait_while_cut(&self) {
        let is_cut = self.is_cut.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.mended.wait_while(is_cut, |is_cut| *is_cut).unwrap_or_else(PoisonError::into_inner));
    }

    fn connect(self: Arc<Self>, near: TcpStream) {
        self.wait_while_cut();
        // If the hub is not there, the near end is closed: connection refused, a little late.
        let Ok(far) = TcpStream::connect(self.target) else { return };
        let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else { return };
        let back = Arc::clone(&self);
        thread::spawn(move || back.carry(far_again, near_again));
        self.carry(near, far);
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        // What is small must not wait for more: the ends have decided when to send.
        let _ = to.set_nodelay(true);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let len = from.read(&mut buffer).unwrap_or(0);
            self.wait_while_cut();
            if len == 0 || to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
