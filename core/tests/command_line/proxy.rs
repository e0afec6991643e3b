//! A proxy of TCP in this process, between two real ones: a network that fails as it is told to.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::watch,
    time::sleep,
};

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// What comes is passed on, each piece so much later.
    Fair { delay: Duration },
    /// Nothing is passed on, either way, and nobody is told.
    Stalled,
    /// No connection is accepted, and those that were are reset.
    Cut,
}

/// Who hears of a connection's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Both,
    /// The end that dialled. The other one's connection stays open, and nothing comes of it.
    Dialler,
}

pub(crate) const FAIR: Weather = Weather::Fair { delay: Duration::ZERO };

/// Passes on connections to one address. Ends all when dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

struct Shared {
    target: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Sent when the connections that are there are to end.
    ended: watch::Sender<Ending>,
    /// Bits still to be flipped in what passes.
    corruptions: AtomicU64,
    passed_bytes: AtomicU64,
}

impl Proxy {
    pub(crate) fn to(target: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            target: target.parse().unwrap(),
            weather: watch::Sender::new(FAIR),
            ended: watch::Sender::new(Ending::Both),
            corruptions: AtomicU64::new(0),
            passed_bytes: AtomicU64::new(0),
        });
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(Arc::clone(&shared).accept(listener));
        Self { address, shared, _runtime: runtime }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
        if weather == Weather::Cut {
            self.shared.ended.send_replace(Ending::Both);
        }
    }

    /// Ends the connections that are there for the end that dialled; the other one hears nothing of it.
    pub(crate) fn half_open(&self) {
        self.shared.ended.send_replace(Ending::Dialler);
    }

    /// Flips a bit in one of the next pieces.
    pub(crate) fn corrupt(&self) {
        self.shared.corruptions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn passed_bytes(&self) -> u64 {
        self.shared.passed_bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        while let Ok((near, _)) = listener.accept().await {
            if *self.weather.borrow() != Weather::Cut {
                tokio::spawn(Arc::clone(&self).connect(near));
            }
        }
    }

    async fn connect(self: Arc<Self>, near: TcpStream) {
        let mut ended = self.ended.subscribe();
        let Ok(far) = TcpStream::connect(self.target).await else { return };
        for stream in [&near, &far] {
            stream.set_nodelay(true).unwrap();
        }
        let (near_in, near_out) = near.into_split();
        let (far_in, far_out) = far.into_split();
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let up = tokio::spawn(Arc::clone(&self).pump(near_in, far_out, Arc::clone(&is_abandoned)));
        let down = tokio::spawn(Arc::clone(&self).pump(far_in, near_out, Arc::default()));
        let (up_abort, down_abort) = (up.abort_handle(), down.abort_handle());
        tokio::select! {
            _ = async { tokio::join!(up, down) } => {}
            _ = ended.changed() => {
                is_abandoned.store(*ended.borrow() == Ending::Dialler, Ordering::Relaxed);
                // Dropping an end's half that writes tells it.
                down_abort.abort();
                if *ended.borrow() == Ending::Both {
                    up_abort.abort();
                }
            }
        }
    }

    /// Passes on one direction until its end.
    ///
    /// One that is abandoned does not tell of its end, and keeps the other one's connection open.
    async fn pump(self: Arc<Self>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_abandoned: Arc<AtomicBool>) {
        let mut weather = self.weather.subscribe();
        let mut piece = vec![0; 16 << 10];
        loop {
            let count = from.read(&mut piece).await.unwrap_or(0);
            loop {
                let now = *weather.borrow_and_update();
                match now {
                    Weather::Fair { delay } => {
                        sleep(delay).await;
                        break;
                    }
                    Weather::Stalled | Weather::Cut => {
                        if weather.changed().await.is_err() {
                            return;
                        }
                    }
                }
            }
            if is_abandoned.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            if count == 0 {
                let _ = to.shutdown().await;
                return;
            }
            let is_due = |left: u64| left.checked_sub(1);
            if self.corruptions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_due).is_ok() {
                piece[count / 2] ^= 0x10;
            }
            self.passed_bytes.fetch_add(count as u64, Ordering::Relaxed);
            if to.write_all(&piece[..count]).await.is_err() {
                return;
            }
        }
    }
}
