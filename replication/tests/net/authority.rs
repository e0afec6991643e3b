//! A private authority and the certificates of nodes, good and bad, for the tests of the drivers.

use std::{fs, path::PathBuf, time::Duration, time::SystemTime};

use counterfoil_replication::net::{CA_FILE, CERT_FILE, KEY_FILE, NODE_URI_PREFIX, Tls, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use tempfile::TempDir;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("{:02x?}", &key.public_key_raw()[..8]));
        let ca_pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), ca_pem, folder: tempfile::tempdir().unwrap() }
    }

    /// A folder with a good certificate for a node; used again, the certificate is renewed.
    pub(crate) fn folder(&self, node: &str) -> PathBuf {
        self.folder_with(node, node, |_| {})
    }

    /// A folder with a certificate that says something else.
    pub(crate) fn folder_with(&self, name: &str, node: &str, change: impl FnOnce(&mut CertificateParams)) -> PathBuf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(node)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (now() - DAY).into();
        params.not_after = (now() + DAY).into();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(CA_FILE), &self.ca_pem).unwrap();
        fs::write(folder.join(CERT_FILE), cert.pem()).unwrap();
        fs::write(folder.join(KEY_FILE), key.serialize_pem()).unwrap();
        folder
    }

    pub(crate) fn tls(&self, node: &str) -> Tls {
        Tls::from_dir(self.folder(node)).unwrap()
    }

    pub(crate) fn tls_with(&self, node: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<Tls, TlsError> {
        Tls::from_dir(self.folder_with("changed", node, change))
    }

    pub(crate) fn expired(&self, node: &str) -> Tls {
        self.tls_with(node, |params| params.not_after = (now() - DAY / 2).into()).unwrap()
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
}

pub(crate) fn uri(node: &str) -> SanType {
    SanType::URI(format!("{NODE_URI_PREFIX}{node}").try_into().unwrap())
}

#[expect(clippy::disallowed_methods, reason = "certificates are judged by the operating system's clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
