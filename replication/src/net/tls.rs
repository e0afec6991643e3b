//! Who is there: TLS 1.3 with a certificate at both ends, from a private authority.
//!
//! What a peer says is not read before its certificate has been verified: chain to one of *our* authorities,
//! validity, purpose, and the signature that proves that the peer has the key. Its node name is then taken from the
//! certificate, never from a message. All of this is done by rustls and webpki; the only thing added here is which
//! name is the right one ([`ExpectNode`]).
//!
//! There is no resumption, no ticket and no early data: each connection proves everything anew, so that an expired
//! certificate or a changed authority counts from the next connection on.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use counterfoil_storage::{NodeName, SystemClock, WallClock as _};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::rejection::Rejection;

/// File name of the authorities' certificates, in PEM; one or, while one replaces another, several.
pub const CA_FILE: &str = "ca.pem";
/// File name of a node's certificate, in PEM.
pub const CERT_FILE: &str = "cert.pem";
/// File name of a node's private key, in PEM.
pub const KEY_FILE: &str = "key.pem";
/// What comes before the node's name in the URI among its certificate's subject alternative names.
///
/// A URI without an authority part, as RFC 5280 section 4.2.1.6 asks of one whose host is not a DNS name.
pub const NODE_URI_PREFIX: &str = "counterfoil:";

/// Keeps other protocols that trust the same authority from being taken for this one (RFC 7301).
const ALPN: &[u8] = b"counterfoil";

/// Why a node's certificates can't be used. The first field is the file or folder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {}: {}; a TLS folder holds {CA_FILE}, {CERT_FILE}, {KEY_FILE} (see `counterfoil cert node`)", .0.display(), .1)]
    Read(PathBuf, #[source] std::io::Error),
    /// A file does not hold what its name says.
    #[error("{} is not usable: {}; issue it again with `counterfoil cert node`", .0.display(), .1)]
    Unusable(PathBuf, String),
    /// The certificate is not from the authority beside it.
    #[error("{CERT_FILE} in {} was not issued by {CA_FILE} beside it; issue it again with `counterfoil cert node`", .0.display())]
    ForeignCertificate(PathBuf),
    /// The certificate is another node's.
    #[error("{} is for the node {certificate}, but the store is of {store}; issue one for {store}", path.display())]
    OtherNode {
        /// The certificate's file.
        path: PathBuf,
        /// The name in it.
        certificate: NodeName,
        /// The name of the store.
        store: NodeName,
    },
    /// The certificate names no node, or several.
    #[error("{} {}; issue it again with `counterfoil cert node`", .0.display(), .1)]
    Name(PathBuf, #[source] NodeNameError),
}

/// Why a certificate does not say which node it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NodeNameError {
    /// It is not an X.509 certificate.
    #[error("can't be read as an X.509 certificate")]
    NotX509,
    /// It has no node name.
    #[error("names no node (no URI {NODE_URI_PREFIX}NAME among its alternative names, nor exactly one DNS name)")]
    None,
    /// It has several, so that none is certain.
    #[error("names more than one node")]
    Several,
    /// What stands there can't be a node's name.
    #[error("has {0:?} where a node's name should be")]
    NotAName(String),
}

/// What a node proves itself with, and whom it believes. Cheap to clone; never changes: a reloaded one is another.
#[derive(Clone)]
pub struct Tls(Arc<Material>);

struct Material {
    folder: PathBuf,
    node: NodeName,
    not_before: SystemTime,
    not_after: SystemTime,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    own: Arc<SingleCertAndKey>,
    clients: Arc<dyn ClientCertVerifier>,
    server: Arc<ServerConfig>,
}

impl std::fmt::Debug for Tls {
    /// Leaves out the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Material { folder, node, not_after, .. } = &*self.0;
        f.debug_struct("Tls").field("folder", folder).field("node", node).field("not_after", not_after).finish()
    }
}

impl Tls {
    /// Loads `ca.pem`, `cert.pem` and `key.pem` from a folder.
    ///
    /// A certificate that has expired or is not valid yet is loaded all the same: an application must open its store
    /// whatever the date. Links and servers warn of it in the log; the peers refuse the connection and say why.
    pub fn from_dir(folder: impl AsRef<Path>) -> Result<Self, TlsError> {
        let folder = folder.as_ref();
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(load_roots(&folder.join(CA_FILE))?);
        let cert_path = folder.join(CERT_FILE);
        let chain = load_chain(&cert_path)?;
        let key = load_key(&folder.join(KEY_FILE))?;
        let unusable = |error: rustls::Error| TlsError::Unusable(cert_path.clone(), error.to_string());

        let node = peer_name(&chain).map_err(|error| TlsError::Name(cert_path.clone(), error))?;
        check_own_chain(&chain, &roots, &provider, folder)?;
        // Checks that the key is the certificate's.
        let own = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(unusable)?;
        let own = Arc::new(SingleCertAndKey::from(own));

        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| TlsError::Unusable(folder.join(CA_FILE), error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(clients.clone())
            .with_cert_resolver(own.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;

        let validity = validity(&chain).map_err(|error| TlsError::Name(cert_path, error))?;
        let (not_before, not_after) = (validity.start, validity.end);
        let server = Arc::new(server);
        let folder = folder.into();
        Ok(Self(Arc::new(Material { folder, node, not_before, not_after, provider, roots, own, clients, server })))
    }

    /// The name in this node's own certificate.
    pub fn node(&self) -> &NodeName {
        &self.0.node
    }

    /// When this node's own certificate ends to be valid.
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// Whose certificate `cert.pem` in a folder is, whatever else is wrong with it and the files beside it.
    pub fn node_in(folder: impl AsRef<Path>) -> Result<NodeName, TlsError> {
        let path = folder.as_ref().join(CERT_FILE);
        let chain = load_chain(&path)?;
        peer_name(&chain).map_err(|error| TlsError::Name(path, error))
    }

    /// What is wrong with the dates of this node's own certificate by now, on one line.
    pub fn out_of_date(&self) -> Option<String> {
        let (now, path) = (UNIX_EPOCH + Duration::from_secs(now().as_secs()), self.0.folder.join(CERT_FILE));
        let path = path.display();
        if let Ok(ago) = now.duration_since(self.0.not_after)
            && ago > Duration::ZERO
        {
            let ago = show_age(ago);
            return Some(format!("{path} expired {ago} ago: issue a new one with `counterfoil cert node`"));
        }
        let ahead = self.0.not_before.duration_since(now).ok().filter(|ahead| *ahead > Duration::ZERO)?;
        Some(format!("{path} is not valid for another {}: see that this node's clock is right", show_age(ahead)))
    }

    /// Warns if this node's own certificate is out of date; whether it is.
    pub(super) fn warn_of_date(&self) -> bool {
        let what = self.out_of_date();
        if let Some(what) = &what {
            tracing::warn!("peers refuse this node's certificate: {what}");
        }
        what.is_some()
    }

    /// Fails if the certificate is not that of the node `store`.
    pub fn check_node(&self, store: &NodeName) -> Result<(), TlsError> {
        let certificate = self.node();
        if certificate == store {
            return Ok(());
        }
        let path = self.0.folder.join(CERT_FILE);
        Err(TlsError::OtherNode { path, certificate: certificate.clone(), store: store.clone() })
    }

    /// Loads the same folder again; `self` stays as it is, for use if that fails.
    pub fn reload(&self) -> Result<Self, TlsError> {
        Self::from_dir(&self.0.folder)
    }

    /// Dials: proves to the peer who this is and lets no other than `expected` answer.
    ///
    /// In TLS 1.3 the dialling end is done before the peer has judged its certificate; a rejection by the peer comes
    /// with the first read from the stream.
    pub async fn connect<S>(&self, stream: S, expected: &NodeName) -> Result<TlsStream<S>, Rejection>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::new(self.client_config(expected).map_err(Rejection::from)?);
        // Not sent (no SNI) and not what is verified: rustls wants one, `ExpectNode` looks at the node name.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(stream.into())
    }

    /// Accepts: lets in who has a valid certificate, and tells who it is.
    pub async fn accept<S>(&self, stream: S) -> Result<(NodeName, TlsStream<S>), Rejection>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_or_return(stream).await.map_err(|(rejection, _)| rejection)
    }

    /// Like [`accept`](Self::accept); gives the connection back if it came to nothing.
    pub(super) async fn accept_or_return<S>(&self, stream: S) -> Result<(NodeName, TlsStream<S>), (Rejection, S)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = TlsAcceptor::from(self.0.server.clone()).accept(stream).into_fallible().await;
        let stream = accepted.map_err(|(error, stream)| (error.into(), stream))?;
        match peer_name(stream.get_ref().1.peer_certificates().unwrap_or_default()) {
            Ok(peer) => Ok((peer, stream.into())),
            Err(error) => Err((error.into(), stream.into_inner().0)),
        }
    }

    /// Whether a peer that was let in with this certificate would be now.
    pub(super) fn check_peer(&self, certificates: &[CertificateDer<'_>]) -> Result<(), Rejection> {
        let (end_entity, intermediates) = certificates.split_first().ok_or(Rejection::NoCertificate)?;
        self.0.clients.verify_client_cert(end_entity, intermediates, now())?;
        Ok(())
    }

    fn client_config(&self, expected: &NodeName) -> Result<ClientConfig, rustls::Error> {
        let Material { provider, roots, own, .. } = &*self.0;
        let verifier = ExpectNode { node: expected.clone(), roots: roots.clone(), provider: provider.clone() };
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(own.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.enable_early_data = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// The node that a certificate belongs to. The chain must have been verified: this only reads the name.
///
/// It is the one URI `counterfoil:NAME` among the alternative names; without such a URI, the one DNS name, so that
/// an authority which issues DNS names only can be used too. Anything ambiguous is refused.
pub fn peer_name(chain: &[CertificateDer<'_>]) -> Result<NodeName, NodeNameError> {
    let certificate = parse(chain)?;
    let names = certificate.subject_alternative_name().map_err(|_| NodeNameError::NotX509)?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(NODE_URI_PREFIX),
        _ => None,
    });
    let dns_names = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let name = match (single(uris), single(dns_names)) {
        (Ok(Some(name)), _) | (Ok(None), Ok(Some(name))) => name,
        (Ok(None), Ok(None)) => return Err(NodeNameError::None),
        _ => return Err(NodeNameError::Several),
    };
    NodeName::new(name).map_err(|_| NodeNameError::NotAName(name.chars().take(80).collect()))
}

/// The only one, none, or an error if there are more.
fn single<T>(mut items: impl Iterator<Item = T>) -> Result<Option<T>, ()> {
    let first = items.next();
    if items.next().is_some() { Err(()) } else { Ok(first) }
}

fn parse<'a>(chain: &'a [CertificateDer<'_>]) -> Result<X509Certificate<'a>, NodeNameError> {
    let end_entity = chain.first().ok_or(NodeNameError::None)?;
    match X509Certificate::from_der(end_entity.as_ref()) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(NodeNameError::NotX509),
    }
}

/// When the first of a peer's certificates ends to be valid; `None` if they can't be read, which the handshake excludes.
pub(super) fn expires_at(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    chain.chunks(1).filter_map(|certificate| validity(certificate).ok()).map(|validity| validity.end).min()
}

/// From when until when a certificate is valid.
fn validity(chain: &[CertificateDer<'_>]) -> Result<Range<SystemTime>, NodeNameError> {
    let certificate = parse(chain)?;
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0));
    let validity = certificate.validity();
    Ok(time(validity.not_before.timestamp())..time(validity.not_after.timestamp()))
}

/// A time in the unit that suits it.
fn show_age(age: Duration) -> String {
    let (number, unit) = match age.as_secs() {
        seconds @ 0..120 => (seconds, "second"),
        seconds @ 120..7200 => (seconds / 60, "minute"),
        seconds @ 7200..172_800 => (seconds / 3600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// A server is who it should be: rustls's and webpki's checks of chain, time, purpose and signatures, and then the
/// one thing they can't know, that its certificate names the node that was dialled.
#[derive(Debug)]
struct ExpectNode {
    node: NodeName,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ExpectNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _not_used: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_chain(end_entity, intermediates, &self.roots, &self.provider, now)?;
        let refuse = |rejection: Rejection| CertificateError::Other(OtherError(Arc::new(rejection)));
        let found = peer_name(std::slice::from_ref(end_entity)).map_err(|error| refuse(error.into()))?;
        if found != self.node {
            return Err(refuse(Rejection::OtherNode { expected: self.node.clone(), found }).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn verify_chain(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let end_entity = ParsedCertificate::try_from(end_entity)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&end_entity, roots, intermediates, now, algorithms)
}

/// This node's own certificate must come from its own authority; one that is out of date is [told](Tls::out_of_date).
fn check_own_chain(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    folder: &Path,
) -> Result<(), TlsError> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer};

    let Some((end_entity, intermediates)) = chain.split_first() else {
        return Err(TlsError::Unusable(folder.join(CERT_FILE), "it holds no certificate".into()));
    };
    match verify_chain(end_entity, intermediates, roots, provider, now()) {
        Ok(())
        | Err(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        )) => Ok(()),
        Err(rustls::Error::InvalidCertificate(UnknownIssuer | CertificateError::BadSignature)) => {
            Err(TlsError::ForeignCertificate(folder.into()))
        }
        Err(error) => Err(TlsError::Unusable(folder.join(CERT_FILE), error.to_string())),
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(SystemClock.unix_ms()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Read(path.into(), error))
}

fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unusable = |reason: String| TlsError::Unusable(path.into(), reason);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if chain.is_empty() { Err(unusable("it holds no certificate".into())) } else { Ok(chain) }
}

fn load_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_chain(path)? {
        roots.add(certificate).map_err(|error| TlsError::Unusable(path.into(), error.to_string()))?;
    }
    Ok(roots)
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    #[cfg(unix)]
    if let Ok(metadata) = fs::metadata(path) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "others can use this key; chmod 600 it");
        }
    }
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| TlsError::Unusable(path.into(), error.to_string()))
}
