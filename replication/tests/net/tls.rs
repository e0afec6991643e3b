//! Who gets through the handshake, and what the others are told.

use std::{fs, sync::Arc, time::Duration};

use crate::authority::{Authority, DAY, now, uri};
use counterfoil_replication::net::{CA_FILE, CERT_FILE, KEY_FILE, NodeNameError, Rejection, Tls, TlsError};
use counterfoil_storage::NodeName;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, SanType};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

fn name(node: &str) -> NodeName {
    NodeName::new(node).unwrap()
}

/// Both ends' view of one handshake: what the dialler, which expects `expected`, and the acceptor came to. In TLS 1.3
/// the dialler hears of the acceptor's judgement with its first read.
async fn handshake(
    dialler: &Tls,
    expected: &str,
    acceptor: &Tls,
) -> (Result<(), Rejection>, Result<NodeName, Rejection>) {
    let (near, far) = duplex(64 << 10);
    let dial = async {
        let mut stream = dialler.connect(near, &name(expected)).await?;
        stream.write_all(b"?").await?;
        stream.read_exact(&mut [0]).await?;
        Ok(())
    };
    let accept = async {
        let (peer, mut stream) = acceptor.accept(far).await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"!").await?;
        stream.shutdown().await?;
        Ok(peer)
    };
    tokio::join!(dial, accept)
}

#[tokio::test]
async fn two_nodes_of_one_authority_know_each_other_s_names() {
    let authority = Authority::new();
    for node in ["practice-12", "A.b_c-d", "9", &"x".repeat(128)] {
        let (dialled, accepted) = handshake(&authority.tls(node), "hub", &authority.tls("hub")).await;
        assert!(dialled.is_ok(), "{dialled:?}");
        assert_eq!(accepted.unwrap(), name(node));
    }
}

#[tokio::test]
async fn a_dialler_refuses_another_node_than_the_one_it_dialled() {
    let authority = Authority::new();
    let (dialled, accepted) = handshake(&authority.tls("a"), "hub", &authority.tls("hub-2")).await;
    assert_eq!(dialled.unwrap_err().to_string(), "it is the node hub-2, not hub");
    assert!(matches!(accepted, Err(Rejection::RefusedUs(_))), "{accepted:?}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_at_either_end() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (dialled, accepted) = handshake(&theirs.tls("a"), "hub", &ours.tls("hub")).await;
    assert!(matches!(dialled, Err(Rejection::UnknownAuthority)), "{dialled:?}");
    assert!(matches!(accepted, Err(Rejection::RefusedUs(_))), "{accepted:?}");

    // A dialler that believes both, so that the acceptor has to decide.
    let folder = theirs.folder("a");
    fs::write(folder.join(CA_FILE), format!("{}{}", ours.ca_pem(), theirs.ca_pem())).unwrap();
    let (dialled, accepted) = handshake(&Tls::from_dir(&folder).unwrap(), "hub", &ours.tls("hub")).await;
    assert!(matches!(dialled, Err(Rejection::RefusedUs(_))), "{dialled:?}");
    assert!(matches!(accepted, Err(Rejection::UnknownAuthority)), "{accepted:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_at_either_end() {
    let authority = Authority::new();
    let (dialled, accepted) = handshake(&authority.expired("a"), "hub", &authority.tls("hub")).await;
    assert!(matches!(dialled, Err(Rejection::RefusedUs("it has expired, or is not valid yet"))), "{dialled:?}");
    assert!(matches!(accepted, Err(Rejection::Expired)), "{accepted:?}");
    let (dialled, _) = handshake(&authority.tls("a"), "hub", &authority.expired("hub")).await;
    assert!(matches!(dialled, Err(Rejection::Expired)), "{dialled:?}");
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_refused() {
    let authority = Authority::new();
    let early = authority.tls_with("a", |params| params.not_before = (now() + DAY / 2).into()).unwrap();
    let (_, accepted) = handshake(&early, "hub", &authority.tls("hub")).await;
    assert!(matches!(accepted, Err(Rejection::NotValidYet)), "{accepted:?}");
}

#[tokio::test]
async fn a_certificate_for_servers_only_can_t_dial() {
    let authority = Authority::new();
    let server_only = authority
        .tls_with("a", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])
        .unwrap();
    let (_, accepted) = handshake(&server_only, "hub", &authority.tls("hub")).await;
    assert!(matches!(accepted, Err(Rejection::BadCertificate(_))), "{accepted:?}");
}

#[tokio::test]
async fn who_has_no_certificate_is_refused() {
    let authority = Authority::new();
    let (near, far) = duplex(64 << 10);
    let dial = plain_client(&authority, &[&rustls::version::TLS13]).connect(server_name(), near);
    let hub = hub_with_dns_name(&authority);
    let (_, accepted) = tokio::join!(dial, hub.accept(far));
    assert!(matches!(accepted, Err(Rejection::NoCertificate)));
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let authority = Authority::new();
    let (near, far) = duplex(64 << 10);
    let dial = plain_client(&authority, &[&rustls::version::TLS12]).connect(server_name(), near);
    let hub = hub_with_dns_name(&authority);
    let (dialled, accepted) = tokio::join!(dial, hub.accept(far));
    assert!(dialled.is_err());
    assert!(matches!(accepted, Err(Rejection::Incompatible(_))));
}

#[tokio::test]
async fn what_is_not_tls_is_refused_without_waiting_for_more() {
    let authority = Authority::new();
    let hub = authority.tls("hub");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &(1_u32 << 30).to_le_bytes().repeat(4), &[0; 16], &[0xff; 16]] {
        let (mut near, far) = duplex(64 << 10);
        near.write_all(bytes).await.unwrap();
        let accepted = hub.accept(far).await;
        assert!(matches!(accepted, Err(Rejection::NotTls)), "{bytes:?}");
    }
}

#[tokio::test]
async fn nothing_of_one_connection_helps_to_make_the_next() {
    let authority = Authority::new();
    let (hub, node) = (authority.tls("hub"), authority.tls("a"));
    for _ in 0..2 {
        let (near, far) = duplex(64 << 10);
        let dial = async {
            let mut stream = node.connect(near, &name("hub")).await.unwrap();
            // Tickets would come with the first bytes.
            stream.read_exact(&mut [0]).await.unwrap();
            let (_, connection) = stream.get_ref();
            assert_eq!(connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
            let tokio_rustls::TlsStream::Client(stream) = stream else { unreachable!() };
            assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
        };
        let accept = async {
            let (_, mut stream) = hub.accept(far).await.unwrap();
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
        };
        tokio::join!(dial, accept);
    }
}

#[test]
fn a_name_that_is_missing_or_ambiguous_is_none() {
    let authority = Authority::new();
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let named = |names: Vec<SanType>| {
        authority.tls_with("a", |params| params.subject_alt_names = names).map(|tls| tls.node().clone())
    };
    assert_eq!(named(vec![dns("practice-12")]).unwrap(), name("practice-12"), "one DNS name will do");
    assert_eq!(named(vec![dns("a"), dns("b"), uri("c")]).unwrap(), name("c"), "a URI outweighs DNS names");
    for (names, expected) in [
        (vec![], NodeNameError::None),
        (vec![SanType::URI("https:a".try_into().unwrap())], NodeNameError::None),
        (vec![uri("a"), uri("b")], NodeNameError::Several),
        (vec![dns("a"), dns("b")], NodeNameError::Several),
        (vec![uri("a/b")], NodeNameError::NotAName("a/b".into())),
        (vec![dns("*.example")], NodeNameError::NotAName("*.example".into())),
    ] {
        assert!(matches!(named(names), Err(TlsError::Name(_, error)) if error == expected));
    }
}

#[test]
fn a_folder_that_can_t_be_used_says_which_file_and_what_to_do() {
    let (authority, other) = (Authority::new(), Authority::new());
    let fails = |folder: &std::path::Path, expected: &str| {
        let error = Tls::from_dir(folder).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("counterfoil cert"), "{error}");
    };
    fails(&authority.folder("a").join("nowhere"), "ca.pem");
    for (file, bytes) in [(CA_FILE, ""), (CERT_FILE, "junk"), (KEY_FILE, "junk")] {
        let folder = authority.folder("a");
        fs::write(folder.join(file), bytes).unwrap();
        fails(&folder, file);
    }
    let folder = authority.folder("a");
    fs::copy(other.folder("a").join(KEY_FILE), folder.join(KEY_FILE)).unwrap();
    fails(&folder, "cert.pem is not usable");
    fs::copy(other.folder("a").join(CA_FILE), folder.join(CA_FILE)).unwrap();
    fails(&folder, "was not issued by ca.pem");
    let authority_as_node =
        authority.tls_with("a", |params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert!(authority_as_node.is_err(), "an authority is no node");
}

#[test]
fn a_renewed_certificate_is_loaded_and_the_old_one_stays_usable_until_then() {
    let authority = Authority::new();
    let tls = authority.tls("a");
    let left = tls.not_after().duration_since(now()).unwrap();
    assert!(left <= DAY && left + Duration::from_secs(60) > DAY);
    authority.folder("a");
    let renewed = tls.reload().unwrap();
    assert_eq!(renewed.node(), tls.node());
    assert!(matches!(renewed.check_node(&name("b")), Err(TlsError::OtherNode { .. })));
}

/// A client of TLS that trusts the authority and has no certificate.
fn plain_client(
    authority: &Authority,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config).into()
}

/// A hub whose certificate also has the DNS name that ordinary clients look for.
fn hub_with_dns_name(authority: &Authority) -> Tls {
    let dns = SanType::DnsName("hub".try_into().unwrap());
    authority.tls_with("hub", |params| params.subject_alt_names.push(dns)).unwrap()
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("hub").unwrap()
}
