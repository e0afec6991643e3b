//! What a hand-written program reaches over loopback: bytes copied to another disk, and records confirmed by it.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};

use crate::segments::{Frames, Segments};

const FLUSH_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 64 << 10;

/// Copies bytes over TLS to a file, whose writer hashes them and flushes every MiB.
#[derive(Debug)]
pub struct RemoteCopy {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl RemoteCopy {
    /// With a certificate made for the occasion.
    ///
    /// # Panics
    ///
    /// If none can be made.
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("our own certificate");
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions);
        let client = client.expect("TLS 1.3").with_root_certificates(roots).with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let server = server.expect("TLS 1.3").with_no_client_auth().with_single_cert(vec![certificate], key);
        Self { client: Arc::new(client), server: Arc::new(server.expect("a key that fits")) }
    }

    /// Sends `times` × `bytes` and returns once the other side has confirmed its last flush.
    pub fn run(&self, bytes: &[u8], times: usize, target: PathBuf) -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let server = Arc::clone(&self.server);
        let receiver = thread::spawn(move || receive(&listener, server, &target));
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let client = ClientConnection::new(Arc::clone(&self.client), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(client, stream);
        stream.write_all(&((bytes.len() * times) as u64).to_le_bytes())?;
        for _ in 0..times {
            bytes.chunks(CHUNK_BYTES).try_for_each(|chunk| stream.write_all(chunk))?;
        }
        stream.flush()?;
        stream.read_exact(&mut [0])?;
        receiver.join().map_err(|_| io::Error::other("the receiver panicked"))?
    }
}

impl Default for RemoteCopy {
    fn default() -> Self {
        Self::new()
    }
}

fn receive(listener: &TcpListener, config: Arc<ServerConfig>, target: &std::path::Path) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut stream = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, stream);
    let mut file = File::create_new(target)?;
    let mut len = [0; 8];
    stream.read_exact(&mut len)?;
    let mut missing = u64::from_le_bytes(len) as usize;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut unflushed = 0;
    while missing > 0 {
        let count = stream.read(&mut buffer[..CHUNK_BYTES.min(missing)])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count])?;
        missing -= count;
        unflushed += count;
        if unflushed >= FLUSH_BYTES || missing == 0 {
            file.sync_data()?;
            unflushed = 0;
        }
    }
    std::hint::black_box(hasher.finalize());
    stream.write_all(&[1])?;
    stream.flush()
}

/// Two disks with a connection between: a record is flushed here, sent, flushed there, and confirmed.
#[derive(Debug)]
pub struct RemoteDisk {
    stream: TcpStream,
    segments: Segments,
    frames: Frames,
}

impl RemoteDisk {
    /// Keeps records in `here`, and in `there` beyond a TCP connection.
    pub fn connect(here: Segments, there: Segments) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        stream.set_nodelay(true)?;
        let (accepted, _) = listener.accept()?;
        accepted.set_nodelay(true)?;
        thread::spawn(move || confirm(accepted, there));
        Ok(Self { stream, segments: here, frames: Frames::default() })
    }

    /// Returns once `record` is durable on both.
    pub fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.frames.push(record);
        self.segments.write(&mut self.frames)?;
        self.segments.sync()?;
        self.stream.write_all(record)?;
        self.stream.read_exact(&mut [0])
    }
}

/// Ends with the connection.
fn confirm(mut stream: TcpStream, mut segments: Segments) -> io::Result<()> {
    let mut record = [0; crate::RECORD_BYTES];
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
    fn a_copy_over_tls_arrives_whole() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
        RemoteCopy::new().run(&bytes, 5, folder.path().join("copy")).unwrap();
        assert_eq!(std::fs::read(folder.path().join("copy")).unwrap(), bytes.repeat(5));
    }

    #[test]
    fn a_record_is_on_both_disks_once_it_is_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let [here, there] = ["here", "there"].map(|name| Segments::create(&folder.path().join(name)).unwrap());
        let mut disk = RemoteDisk::connect(here, there).unwrap();
        disk.append(&[7; crate::RECORD_BYTES]).unwrap();
        for name in ["here", "there"] {
            let written = std::fs::read(folder.path().join(name).join("00000000")).unwrap();
            assert!(written.windows(crate::RECORD_BYTES).any(|window| window == [7; crate::RECORD_BYTES]));
        }
    }
}
