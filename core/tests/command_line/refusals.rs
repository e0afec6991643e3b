//! Whom `counterfoil serve` turns away, and that nobody else notices.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use counterfoil::{NodeName, SpaceName, Tls, certificates};
use counterfoil_replication::{CloseReason, Hello, Message, Want, codec};
use counterfoil_storage::Incarnation;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::sandbox::{PATIENCE, Running, Sandbox};

/// A hub, and a mirror that stays connected to it.
pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    pub(crate) hub: Running,
    pub(crate) address: String,
    mirror: Running,
    seq: u64,
}

/// What a test panics with if the hub or the mirror took the other for dead, which said nothing for 3 s.
struct Silent;

/// Plays a test; twice more if one end took the other for dead meanwhile, since the machine may have stood still. What a
/// hub does wrong it does each time.
pub(crate) fn in_scene(test: impl Fn(Scene)) {
    for _ in 0..2 {
        match panic::catch_unwind(AssertUnwindSafe(|| test(Scene::new()))) {
            Ok(()) => return,
            Err(cause) if cause.is::<Silent>() => {}
            Err(cause) => panic::resume_unwind(cause),
        }
    }
    test(Scene::new());
}

impl Scene {
    fn new() -> Self {
        let sandbox = Sandbox::with_practice_and_hub();
        let (hub, address) = sandbox.serve("127.0.0.1:0", "");
        let to = format!("--mirror-to hub@{address} --tls tls-practice-1 --timeout 600");
        let mirror = sandbox.start(&format!("append practice.store --ack --durability mirrored {to}"));
        let mut scene = Self { sandbox, hub, address, mirror, seq: 0 };
        scene.expect_nobody_noticed();
        scene
    }

    pub(crate) fn expect_nobody_noticed(&mut self) {
        self.mirror.write("still here\n");
        assert_eq!(self.mirror.read_line(), format!("ack {}", self.seq));
        let errors = self.mirror.errors();
        if errors.contains("silent for") {
            println!("the mirror noticed something, or the machine stood still: {errors}");
            panic::panic_any(Silent);
        }
        assert_eq!(errors, "");
        self.seq += 1;
    }

    /// Waits for a line in the hub's log; a refusal is one line and no more.
    fn expect_one_line(&mut self, text: &str) {
        self.hub.wait_for_error(text);
        assert_eq!(self.hub.errors().lines().filter(|line| line.contains(text)).count(), 1, "{}", self.hub.errors());
        self.expect_nobody_noticed();
    }

    /// A new node mirrors a record of its own.
    pub(crate) fn expect_mirror(&self, node: &str) {
        self.sandbox.certify(node);
        self.sandbox.run(&format!("init {node}.store --node {node}")).expect_status(0);
        let to = format!("--mirror-to hub@{} --tls tls-{node} --durability mirrored --ack --timeout 600", self.address);
        let ended = self.sandbox.run_with(&format!("append {node}.store {to}"), b"x\n").expect_status(0);
        assert_eq!(ended.text(), "ack 0\n");
    }

    /// Both processes end well, and their stores are whole and equal.
    pub(crate) fn end(self) {
        self.mirror.finish().expect_status(0);
        self.hub.signal("TERM");
        self.hub.finish().expect_status(0);
        for store in ["practice.store", "hub.store"] {
            self.sandbox.run(&format!("verify {store}")).expect_status(0);
        }
        assert_eq!(self.sandbox.head("hub.store", "practice-1"), self.sandbox.head("practice.store", "practice-1"));
    }

    /// A new store of a node, whose certificates are in `tls-NODE`, tries to mirror a space and is not let in: the hub
    /// says why. What the node is told.
    fn expect_no_mirror(&self, peer: &str, node: &str, space: &str, why: &str) -> String {
        let store = format!("{node}.store");
        self.sandbox.run(&format!("init {store} --node {node}")).expect_status(0);
        let to =
            format!("--mirror-to {peer}@{} --tls tls-{node} --durability mirrored --ack --timeout 600", self.address);
        let append =
            self.sandbox.start_unmirrored(&format!("append {store} --space {space} {to}"), &store, space, "x\n");
        self.hub.wait_for_error(why);
        append.wait_for_error("WARN");
        append.signal("TERM");
        let ended = append.finish().expect_status(1);
        assert!(ended.stdout.is_empty());
        ended.stderr
    }
}

#[test]
fn a_certificate_of_another_authority_is_turned_away() {
    in_scene(|mut scene| {
        scene.sandbox.run("cert ca other-ca").expect_status(0);
        scene.sandbox.run("cert node other-ca --node stranger --out tls-stranger").expect_status(0);
        // It would trust the hub, if the hub trusted it.
        fs::copy(scene.sandbox.path("ca/ca.pem"), scene.sandbox.path("tls-stranger/ca.pem")).unwrap();
        // Its certificates don't fit together, which it is told itself; or the hub turns it away.
        scene.sandbox.run("init stranger.store --node stranger").expect_status(0);
        let to = format!("--mirror-to hub@{} --tls tls-stranger --durability mirrored --timeout 1", scene.address);
        let ended = scene.sandbox.run_with(&format!("append stranger.store {to}"), b"x\n");
        assert!(matches!(ended.status, Some(1 | 2)), "{ended:?}");
        if ended.status == Some(1) {
            scene.hub.wait_for_error("not issued by this node's authority");
        }
        scene.expect_nobody_noticed();
    });
}

#[test]
fn an_expired_certificate_is_turned_away() {
    in_scene(|mut scene| {
        let day = Duration::from_secs(24 * 60 * 60);
        let yesterday = now() - day;
        let (ca, out) = (scene.sandbox.path("ca"), scene.sandbox.path("tls-late"));
        certificates::issue_for(&ca, &NodeName::new("late").unwrap(), &out, yesterday - day..yesterday).unwrap();
        scene.expect_no_mirror("hub", "late", "late", "has expired");
        scene.expect_nobody_noticed();
    });
}

#[test]
fn a_node_that_expects_another_name_hangs_up_and_both_say_so() {
    in_scene(|mut scene| {
        scene.sandbox.certify("visitor");
        let told = scene.expect_no_mirror("other-hub", "visitor", "visitor", "it names another node than expected");
        assert!(told.contains("it is the node hub, not other-hub"), "{told}");
        scene.expect_nobody_noticed();
    });
}

#[test]
fn certificates_of_another_node_than_the_store_s_are_refused_at_the_start() {
    let sandbox = Sandbox::with_practice_and_hub();
    let ended = sandbox.run_with("append practice.store --mirror-to hub@127.0.0.1:1 --tls tls-hub", b"");
    assert!(ended.expect_status(2).only_error().contains("hub"));
    let ended = sandbox.run("serve practice.store --listen 127.0.0.1:0 --tls tls-hub").expect_status(2);
    assert!(ended.only_error().contains("practice-1"), "{}", ended.stderr);
}

#[test]
fn a_space_without_a_grant_is_refused_and_nothing_of_it_is_stored() {
    in_scene(|mut scene| {
        scene.sandbox.certify("nosy");
        scene.expect_no_mirror("hub", "nosy", "practice-1", "space refused");
        scene.expect_one_line("space refused");
        let logs = scene.sandbox.status("hub.store")["logs"].as_array().unwrap().len();
        assert_eq!(logs, 1);
    });
}

#[test]
fn a_node_without_a_certificate_is_turned_away() {
    in_scene(|mut scene| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(&scene.address).await.unwrap();
            let name = ServerName::try_from("hub").unwrap();
            // In TLS 1.3 a client is done before the server has judged it; the verdict comes with the first read.
            let mut stream = nobody().connect(name, stream).await.unwrap();
            stream.write_all(b"let me in").await.unwrap();
            let mut answer = Vec::new();
            let refused =
                tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the hub hangs up");
            assert!(refused.is_err() && answer.is_empty(), "{refused:?}");
        });
        scene.expect_one_line("it presented no certificate");
        let logs = scene.sandbox.status("hub.store")["logs"].as_array().unwrap().len();
        assert_eq!(logs, 1);
    });
}

/// A client of TLS 1.3 that believes anybody and has no certificate.
pub(crate) fn nobody() -> tokio_rustls::TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"counterfoil".to_vec()];
    Arc::new(config).into()
}

#[derive(Debug)]
struct Credulous(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("this is TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn plain_text_is_turned_away() {
    in_scene(|mut scene| {
        let mut client = TcpStream::connect(&scene.address).unwrap();
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        expect_end(&mut client);
        scene.expect_one_line("it does not speak TLS");
    });
}

#[test]
fn silence_is_timed_out() {
    in_scene(|mut scene| {
        let mut client = TcpStream::connect(&scene.address).unwrap();
        expect_end(&mut client);
        scene.expect_one_line("did not complete the handshake");
    });
}

/// The other end closes within a bounded time.
fn expect_end(client: &mut TcpStream) {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    match client.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn a_length_of_1_gb_is_refused_before_anything_is_allocated() {
    in_scene(|mut scene| {
        scene.sandbox.certify("flooder");
        talk(&scene.sandbox.path("tls-flooder"), &scene.address, &[0, 0, 0, 0x40, 1]);
        scene.expect_one_line("flooder broke the protocol");
        #[cfg(target_os = "linux")]
        assert!(memory_kib(&scene.hub) < 256 << 10, "{} KiB", memory_kib(&scene.hub));
    });
}

#[test]
fn garbage_from_a_known_node_ends_its_own_session_only() {
    in_scene(|mut scene| {
        scene.sandbox.certify("babbler");
        talk(
            &scene.sandbox.path("tls-babbler"),
            &scene.address,
            &[9, 0, 0, 0, 1, 255, 255, 255, 255, 255, 255, 255, 255],
        );
        scene.expect_one_line("babbler broke the protocol");
    });
}

#[test]
fn a_known_node_can_t_fill_the_log_by_asking_again_and_again() {
    in_scene(|mut scene| {
        scene.sandbox.certify("pest");
        let mut bytes = BytesMut::new();
        let hello = Hello {
            protocol_min: 1,
            protocol_max: 1,
            incarnation: Incarnation::from_bytes([9; 16]),
            session_window_bytes: 1 << 20,
            space_window_bytes: 1 << 20,
            batch_len_max_bytes: 1 << 20,
            next_ms: 1000,
            takes_zstd: false,
        };
        codec::encode(&Message::Hello(hello), &mut bytes);
        for number in 0..500 {
            let space = SpaceName::new(&format!("space-{number}")).unwrap();
            codec::encode(&Message::Want(Want { space }), &mut bytes);
        }
        codec::encode(&Message::Close(CloseReason::Shutdown), &mut bytes);
        let began_at = now();
        talk(&scene.sandbox.path("tls-pest"), &scene.address, &bytes);
        scene.hub.wait_for_error("session ended");
        let lines = scene.hub.errors().lines().filter(|line| line.contains("space refused")).count();
        // And one more in 10 s.
        let lines_max = 5 + now().duration_since(began_at).unwrap().as_secs() as usize / 10;
        assert!((1..=lines_max).contains(&lines), "{lines} lines");
        scene.expect_nobody_noticed();
    });
}

/// Connects as the node whose certificates are in `tls` and says these bytes; returns when the hub hangs up.
fn talk(tls: &Path, address: &str, bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let talk = async {
        let tls = Tls::from_dir(tls).unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut stream = tls.connect(stream, &NodeName::new("hub").unwrap()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, talk).await }).expect("the hub hangs up");
}

#[cfg(target_os = "linux")]
fn memory_kib(process: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a certificate that has expired by the clock that the hub looks at")]
fn now() -> SystemTime {
    SystemTime::now()
}
