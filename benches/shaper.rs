//! A line between two programs of one machine: loopback TCP with a bandwidth and a delay of its own, and a counter.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

/// What a line can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// For a byte there and one back.
    pub round_trip: Duration,
    /// Each way; without a limit if 0.
    pub bits_per_second: u64,
}

impl Line {
    /// Loopback as it is: bytes are only counted.
    pub const LOOPBACK: Self = Self { round_trip: Duration::ZERO, bits_per_second: 0 };

    /// How long it takes to put bytes on it.
    fn time_of(self, bytes: usize) -> Duration {
        Duration::from_nanos((bytes as u64 * 8 * 1_000_000_000).checked_div(self.bits_per_second).unwrap_or(0))
    }

    /// So many bytes go on it together: about a millisecond's.
    fn chunk_bytes(self) -> usize {
        match self.bits_per_second {
            0 => CHUNK_BYTES_MAX,
            bits => (bits as usize / 8000).clamp(512, CHUNK_BYTES_MAX),
        }
    }
}

const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Chunks between the two ends of a direction; beyond them the line takes no more.
const CHUNKS_MAX: usize = 4096;
/// What the kernel may hold at either end of a slow line, in bytes: what waits there is not on the line.
const SOCKET_BYTES: usize = 64 << 10;
/// How far ahead a slow line is booked, as the queue of a router would be.
const BOOKED_AHEAD: Duration = Duration::from_millis(20);

/// Listens, and carries each connection to one address over a [`Line`].
///
/// Ends with its last connection after it is dropped.
#[derive(Debug)]
pub struct Shaper {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    /// Carried from those who connect, and to them.
    forth: AtomicU64,
    back: AtomicU64,
}

/// Bytes on their way.
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

#[expect(clippy::disallowed_methods, reason = "a line has the delay that really passes")]
fn now() -> Instant {
    Instant::now()
}

impl Shaper {
    /// Begins to listen on a free port.
    pub fn to(target: SocketAddr, line: Line) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        if line.bits_per_second > 0 {
            // Inherited by what it accepts.
            set_socket_recv_buffer_size(&listener, SOCKET_BYTES)?;
        }
        let (address, shared) = (listener.local_addr()?, Arc::<Shared>::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                // A target that is not there hangs up.
                let _ = carry(&near, target, line, &accepting);
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes carried so far: from those who connected, and to them.
    pub fn carried(&self) -> (u64, u64) {
        (self.shared.forth.load(Ordering::Relaxed), self.shared.back.load(Ordering::Relaxed))
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // So that it is noticed.
        let _ = TcpStream::connect(self.address);
    }
}

fn carry(near: &TcpStream, target: SocketAddr, line: Line, shared: &Arc<Shared>) -> io::Result<()> {
    let far = TcpStream::connect(target)?;
    for stream in [near, &far] {
        stream.set_nodelay(true)?;
        if line.bits_per_second > 0 {
            set_socket_send_buffer_size(stream, SOCKET_BYTES)?;
        }
    }
    for (from, to, counts_forth) in [(near, &far, true), (&far, near, false)] {
        let (from, to, shared) = (from.try_clone()?, to.try_clone()?, Arc::clone(shared));
        let (sender, receiver) = mpsc::sync_channel(CHUNKS_MAX);
        thread::spawn(move || put_on(from, line, &sender, if counts_forth { &shared.forth } else { &shared.back }));
        thread::spawn(move || take_off(to, &receiver));
    }
    Ok(())
}

/// Takes bytes as fast as the line does.
fn put_on(mut from: TcpStream, line: Line, sender: &SyncSender<Chunk>, count: &AtomicU64) {
    let mut buffer = vec![0; line.chunk_bytes()];
    let mut free_at = now();
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(len) => len,
        };
        count.fetch_add(len as u64, Ordering::Relaxed);
        free_at = free_at.max(now()) + line.time_of(len);
        if sender.send(Chunk { due: free_at + line.round_trip / 2, bytes: buffer[..len].to_vec() }).is_err() {
            return;
        }
        thread::sleep(free_at.saturating_duration_since(now()).saturating_sub(BOOKED_AHEAD));
    }
}

/// Gives bytes to the other end when they have arrived.
fn take_off(mut to: TcpStream, receiver: &Receiver<Chunk>) {
    for Chunk { due, bytes } in receiver {
        thread::sleep(due.saturating_duration_since(now()));
        if to.write_all(&bytes).is_err() {
            // Whoever still sends has nobody to send to.
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `len` bytes over a line and back; how long that took.
    fn echo(line: Line, len: usize) -> (Duration, (u64, u64)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shaper = Shaper::to(listener.local_addr().unwrap(), line).unwrap();
        let echoing = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; len];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let sent: Vec<u8> = (0..len).map(|number| number as u8).collect();
        let mut stream = TcpStream::connect(shaper.address()).unwrap();
        let begun = now();
        stream.write_all(&sent).unwrap();
        let mut heard = vec![0; len];
        stream.read_exact(&mut heard).unwrap();
        echoing.join().unwrap();
        assert_eq!(sent, heard);
        (begun.elapsed(), shaper.carried())
    }

    #[test]
    fn a_line_has_its_delay_its_bandwidth_and_counts() {
        let delayed = Line { round_trip: Duration::from_millis(40), bits_per_second: 0 };
        let (time, carried) = echo(delayed, 1);
        assert!(time >= Duration::from_millis(40), "{time:?}");
        assert_eq!(carried, (1, 1));
        // 100 kB each way, one after the other.
        let narrow = Line { round_trip: Duration::ZERO, bits_per_second: 8_000_000 };
        let (time, carried) = echo(narrow, 100_000);
        assert!(time >= Duration::from_millis(200 - 25), "{time:?}");
        assert_eq!(carried, (100_000, 100_000));
    }
}
