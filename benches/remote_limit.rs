//! What a hand-written program reaches over loopback: bytes copied to another disk, and records confirmed by it.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};

use crate::{
    pair::{Pair, Pairing, Waiter, line_of},
    payload::RECORD_BYTES,
    segments::{Frames, Segments},
    shaper::{Line, Shaper},
    system::{Body, Outcome},
    workload::Workload,
};

const FLUSH_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// Says in the place of a length that all before it is to be flushed.
const FLUSH: u32 = 0;

/// The limit of those that copy is the same bytes through one connection, hashed there and flushed every MiB; of those
/// that wait, a flush here, a flush there and the way between.
#[derive(Debug)]
pub enum RemoteLimit {
    /// As Counterfoil does it: over TLS.
    Tls,
    /// Over TCP as it is.
    Plain,
}

impl Pairing for RemoteLimit {
    fn name(&self) -> &'static str {
        match self {
            Self::Tls => "limit",
            Self::Plain => "limit-plain",
        }
    }

    fn durability(&self) -> &'static str {
        match self {
            Self::Tls => {
                "M, N, V: bytes through TLS to a file, hashed by BLAKE3 and flushed every MiB there; O: flushed here, sent, flushed there, confirmed"
            }
            Self::Plain => "M, N: the same through TCP without TLS",
        }
    }

    fn cannot(&self, workload: Workload) -> Option<String> {
        let reason = match (self, workload) {
            (_, Workload::U) => "how small bytes get is no question of speed",
            (_, Workload::P) => "what groups 32 writers at two nodes is no longer a few lines",
            (Self::Tls, _) | (Self::Plain, Workload::M | Workload::N) => return None,
            (Self::Plain, Workload::O) => "the limit has no TLS there",
            (Self::Plain, _) => "the line is slower than either",
        };
        Some(reason.to_owned())
    }

    fn start(&self, dir: &Path, workload: Workload) -> Outcome<Box<dyn Pair>> {
        let disk = if workload == Workload::O { Some(Mutex::new(RemoteDisk::within(dir)?)) } else { None };
        let certificates = matches!(self, Self::Tls).then(Certificates::new).transpose()?;
        let (dir, line) = (dir.to_owned(), line_of(workload));
        Ok(Box::new(Running { certificates, dir, line, disk, stock: Mutex::default(), copy: None, copies: 0 }))
    }
}

struct Running {
    certificates: Option<Certificates>,
    dir: PathBuf,
    line: Option<Line>,
    /// Of O.
    disk: Option<Mutex<RemoteDisk>>,
    stock: Mutex<Stock>,
    copy: Option<RemoteCopy>,
    copies: u32,
}

/// What was appended.
#[derive(Default)]
struct Stock {
    /// Of the first call: all others are taken for the same.
    bytes: Vec<u8>,
    calls: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pair for Running {
    fn begin_mirror(&mut self) -> Outcome<()> {
        if self.disk.is_some() {
            return Ok(());
        }
        self.copies += 1;
        let file = self.dir.join(format!("copy-{}", self.copies));
        let copy = RemoteCopy::begin(self.certificates.as_ref(), &file, self.line)?;
        let stock = lock(&self.stock);
        for _ in 0..stock.calls {
            copy.send(&stock.bytes)?;
        }
        drop(stock);
        self.copy = Some(copy);
        Ok(())
    }

    fn end_mirror(&mut self) -> Outcome<()> {
        if let Some(copy) = self.copy.take() {
            std::fs::remove_file(copy.end()?)?;
        }
        Ok(())
    }

    fn append_many(&self, bodies: &[Body]) -> Outcome<()> {
        let mut stock = lock(&self.stock);
        if stock.calls == 0 {
            stock.bytes = bodies.as_flattened().to_vec();
        }
        stock.calls += 1;
        drop(stock);
        self.copy.as_ref().map_or(Ok(()), |copy| Ok(copy.send(bodies.as_flattened())?))
    }

    fn wait_mirrored(&self, count: u64) -> Outcome<()> {
        let copy = self.copy.as_ref().ok_or("no mirror")?;
        Ok(copy.wait_for(count * RECORD_BYTES as u64)?)
    }

    fn waiter(&self) -> Outcome<Box<dyn Waiter + '_>> {
        Ok(Box::new(self.disk.as_ref().ok_or("it copies")?))
    }

    fn stop(mut self: Box<Self>) -> Outcome<()> {
        self.end_mirror()
    }
}

impl Waiter for &Mutex<RemoteDisk> {
    fn append_mirrored(&mut self, body: &[u8]) -> Outcome<()> {
        Ok(lock(self).append(body)?)
    }
}

/// Who the two ends are, made for the occasion.
struct Certificates {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Certificates {
    fn new() -> Outcome<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions)?;
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions)?;
        let server = server.with_no_client_auth().with_single_cert(vec![certificate], key)?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Copies bytes to a file, whose writer hashes them and flushes every MiB.
struct RemoteCopy {
    sending: Mutex<Box<dyn Stream>>,
    confirmations: Mutex<Confirmations>,
    receiver: thread::JoinHandle<io::Result<()>>,
    file: PathBuf,
    _shaper: Option<Shaper>,
}

struct Confirmations {
    stream: TcpStream,
    /// Bytes confirmed.
    durable: u64,
}

impl RemoteCopy {
    fn begin(certificates: Option<&Certificates>, file: &Path, line: Option<Line>) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let shaper = line.map(|line| Shaper::to(listener.local_addr()?, line)).transpose()?;
        let address = shaper.as_ref().map_or(listener.local_addr()?, Shaper::address);
        let (server, target) = (certificates.map(|both| Arc::clone(&both.server)), file.to_owned());
        let receiver = thread::spawn(move || receive(&listener, server, &target));
        let stream = connect(address)?;
        let sending: Box<dyn Stream> = match certificates {
            Some(both) => {
                let name = ServerName::try_from("localhost")?;
                Box::new(StreamOwned::new(ClientConnection::new(Arc::clone(&both.client), name)?, stream))
            }
            None => Box::new(stream),
        };
        let confirmations = Mutex::new(Confirmations { stream: connect(address)?, durable: 0 });
        Ok(Self { sending: Mutex::new(sending), confirmations, receiver, file: file.to_owned(), _shaper: shaper })
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut sending = lock(&self.sending);
        for chunk in bytes.chunks(CHUNK_BYTES) {
            sending.write_all(&(chunk.len() as u32).to_le_bytes())?;
            sending.write_all(chunk)?;
        }
        // What is not a whole MiB waits for nothing either.
        sending.write_all(&FLUSH.to_le_bytes())?;
        sending.flush()
    }

    fn wait_for(&self, bytes: u64) -> io::Result<()> {
        let mut confirmations = lock(&self.confirmations);
        while confirmations.durable < bytes {
            let mut durable = [0; 8];
            confirmations.stream.read_exact(&mut durable)?;
            confirmations.durable = u64::from_le_bytes(durable);
        }
        Ok(())
    }

    /// Hangs up; the file.
    fn end(self) -> Outcome<PathBuf> {
        drop(self.sending);
        // It may have been in the middle of something.
        let _ = self.receiver.join().map_err(|_| "the receiver panicked")?;
        Ok(self.file)
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn receive(listener: &TcpListener, config: Option<Arc<ServerConfig>>, target: &Path) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let (mut confirmations, _) = listener.accept()?;
    confirmations.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match config {
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, stream)),
        None => Box::new(stream),
    };
    let mut file = File::create_new(target)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut received, mut unflushed) = (0_u64, 0);
    let mut len = [0; 4];
    while stream.read_exact(&mut len).is_ok() {
        let len = u32::from_le_bytes(len) as usize;
        let bytes = buffer.get_mut(..len).ok_or(io::ErrorKind::InvalidData)?;
        stream.read_exact(bytes)?;
        hasher.update(bytes);
        file.write_all(bytes)?;
        received += len as u64;
        unflushed += len;
        if unflushed >= FLUSH_BYTES || (len == FLUSH as usize && unflushed > 0) {
            file.sync_data()?;
            unflushed = 0;
            confirmations.write_all(&received.to_le_bytes())?;
        }
    }
    std::hint::black_box(hasher.finalize());
    Ok(())
}

/// Two disks with a connection between: a record is flushed here, sent, flushed there, and confirmed.
#[derive(Debug)]
pub struct RemoteDisk {
    stream: TcpStream,
    segments: Segments,
    frames: Frames,
}

impl RemoteDisk {
    /// Keeps records in the folder `here` of `dir`, and in `there` beyond a TCP connection.
    pub fn within(dir: &Path) -> io::Result<Self> {
        let [here, there] = ["here", "there"].map(|name| Segments::create(&dir.join(name)));
        let (here, there) = (here?, there?);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = connect(listener.local_addr()?)?;
        let (accepted, _) = listener.accept()?;
        accepted.set_nodelay(true)?;
        thread::spawn(move || confirm(accepted, there));
        Ok(Self { stream, segments: here, frames: Frames::default() })
    }

    /// Returns once `record` is durable on both.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.keep(record)?;
        self.pass_on(record)
    }

    /// Returns once `record` is durable here.
    pub fn keep(&mut self, record: &[u8]) -> io::Result<()> {
        self.frames.push(record);
        self.segments.write(&mut self.frames)?;
        self.segments.sync()
    }

    /// Returns once `record` is durable there.
    pub fn pass_on(&mut self, record: &[u8]) -> io::Result<()> {
        self.stream.write_all(record)?;
        self.stream.read_exact(&mut [0])
    }
}

/// Ends with the connection.
fn confirm(mut stream: TcpStream, mut segments: Segments) -> io::Result<()> {
    let mut record = [0; RECORD_BYTES];
    let mut frames = Frames::default();
    loop {
        stream.read_exact(&mut record)?;
        frames.push(&record);
        segments.write(&mut frames)?;
        segments.sync()?;
        stream.write_all(&[1])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_before_and_after_the_copy_began_arrives_whole_also_over_a_line() {
        for (limit, workload) in
            [(RemoteLimit::Tls, Workload::N), (RemoteLimit::Plain, Workload::N), (RemoteLimit::Tls, Workload::V20)]
        {
            let folder = tempfile::tempdir().unwrap();
            let bodies: Vec<Body> = (0..100).map(|number| [number; RECORD_BYTES]).collect();
            let mut pair = limit.start(folder.path(), workload).unwrap();
            pair.append_many(&bodies).unwrap();
            pair.begin_mirror().unwrap();
            pair.append_many(&bodies).unwrap();
            pair.wait_mirrored(200).unwrap();
            let copied = std::fs::read(folder.path().join("copy-1")).unwrap();
            assert_eq!(copied, bodies.as_flattened().repeat(2));
            pair.stop().unwrap();
        }
    }

    #[test]
    fn a_record_is_on_both_disks_once_it_is_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let pair = RemoteLimit::Tls.start(folder.path(), Workload::O).unwrap();
        pair.waiter().unwrap().append_mirrored(&[7; RECORD_BYTES]).unwrap();
        for name in ["here", "there"] {
            let written = std::fs::read(folder.path().join(name).join("00000000")).unwrap();
            assert!(written.windows(RECORD_BYTES).any(|window| window == [7; RECORD_BYTES]));
        }
    }
}
