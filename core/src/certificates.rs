//! Makes the certificates by which nodes know each other: a private authority, and one certificate for each node.
//!
//! A node's name stands in its certificate as the URI `counterfoil:NAME` in the subject alternative names. A DNS
//! name could not carry every node name (no `_`, labels of at most 63 bytes); a URI of an own scheme carries any,
//! and no certificate that was issued for another purpose has one.
//!
//! Who holds `ca.key` can become any node. It is needed for [`issue`] only: keep it off the machines that serve.

use std::{
    fs, io,
    io::Write as _,
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use counterfoil_replication::net::{CA_FILE, CERT_FILE, KEY_FILE, NODE_URI_PREFIX, Tls};
use counterfoil_storage::{NodeName, SystemClock, WallClock as _};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use thiserror::Error;

/// File name of the authority's private key, in PKCS #8 PEM.
pub const CA_KEY_FILE: &str = "ca.key";
/// How long a node's certificate is valid unless told otherwise, in days.
pub const DAYS_DEFAULT: u32 = 730;
/// The longest validity of a node's certificate, in days.
pub const DAYS_MAX: u32 = 36_500;

/// How long an authority is valid, in days: 50 years, since to replace it means to visit every node.
const CA_DAYS: u32 = 18_262;
/// Certificates begin to be valid this long before they are made, for nodes whose clocks are slow.
const BACKDATE: Duration = Duration::from_secs(DAY.as_secs());
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest common name that X.509 allows, in bytes.
const COMMON_NAME_LEN_MAX: usize = 64;

/// Why no certificate was made. Nothing that existed has been changed, unless the error is [`File`](Self::File).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The folder holds an authority, which is never written over.
    #[error("{} exists: a new authority would cut off every node of the old one; choose another folder", .0.display())]
    AuthorityExists(PathBuf),
    /// The folder holds no authority that can issue.
    #[error("{} can't issue certificates ({reason}); make an authority with `counterfoil cert ca DIR`", folder.display())]
    NoAuthority {
        /// The folder that was to hold it.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder holds another node's certificate, which may be in use.
    #[error("{} holds the certificate of node {found}, not of {node}: choose another folder, or remove its files", folder.display())]
    OtherNode {
        /// The folder that was to get the certificate.
        folder: PathBuf,
        /// The node whose certificate it holds.
        found: NodeName,
        /// The node to be certified.
        node: NodeName,
    },
    /// The folder that was to get a node's files is an authority's, whose key no node needs.
    #[error("{} holds an authority's key, which stays at home: choose another folder for the node's files", .0.display())]
    AuthoritysFolder(PathBuf),
    /// The validity asked for is not possible.
    #[error("a certificate can't be valid for {0} days; choose 1 to {DAYS_MAX}")]
    Days(u32),
    /// A file could not be read or written.
    #[error("can't {action} {}: {source}; check the folder, its permissions and free space", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The key or certificate could not be made.
    #[error("can't make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Makes a private certificate authority in `folder` (created if need be): `ca.pem`, and `ca.key` with mode 0600.
///
/// An authority that exists is never written over.
///
/// **Durability**: on `Ok` both files survive power loss.
///
/// # Example
/// ```
/// use counterfoil::{NodeName, certificates};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// certificates::create_ca(&folder.join("ca"))?;
/// let node = NodeName::new("practice-12")?;
/// certificates::issue(&folder.join("ca"), &node, &folder.join("tls"), certificates::DAYS_DEFAULT)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`CertificateError`]: there is an authority in the folder, or a file can't be written.
pub fn create_ca(folder: &Path) -> Result<(), CertificateError> {
    for name in [CA_KEY_FILE, CA_FILE] {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(CertificateError::AuthorityExists(path));
        }
    }
    let key = KeyPair::generate()?;
    let distinction = key.public_key_raw().last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let certificate = ca_params(now(), distinction).self_signed(&key)?;
    fs::create_dir_all(folder).map_err(failed("create", folder))?;
    // The key first, and only if there is none: of two that run at once, one is told.
    write_new(&folder.join(CA_KEY_FILE), key.serialize_pem().as_bytes(), Secrecy::Private)?;
    write_new(&folder.join(CA_FILE), certificate.pem().as_bytes(), Secrecy::Public)?;
    sync_folder(folder)
}

/// Issues a certificate for `node`, valid for `days` from now (1 to [`DAYS_MAX`]), by the authority in `ca_folder`.
///
/// Writes `ca.pem`, `cert.pem` and `key.pem` (mode 0600) into `out_folder`, created if need be; each file replaces
/// an older one whole, so that a node's certificate can be renewed while the node runs. Another node's certificate is
/// never replaced; one that can't be read is.
///
/// **Durability**: on `Ok` the files survive power loss. On an error some may be new and others old; issue again.
///
/// # Errors
///
/// [`CertificateError`]: which names each way that this can fail.
pub fn issue(ca_folder: &Path, node: &NodeName, out_folder: &Path, days: u32) -> Result<(), CertificateError> {
    if days == 0 || days > DAYS_MAX {
        return Err(CertificateError::Days(days));
    }
    let now = now();
    issue_for(ca_folder, node, out_folder, now - BACKDATE..now + DAY * days)
}

/// Like [`issue`], valid for a given time, past or future: to test what becomes of certificates that are not valid.
///
/// # Errors
///
/// As of [`issue`].
pub fn issue_for(
    ca_folder: &Path,
    node: &NodeName,
    out_folder: &Path,
    validity: Range<SystemTime>,
) -> Result<(), CertificateError> {
    if let Ok(found) = Tls::node_in(out_folder)
        && found != *node
    {
        return Err(CertificateError::OtherNode { folder: out_folder.into(), found, node: node.clone() });
    }
    if out_folder.join(CA_KEY_FILE).symlink_metadata().is_ok() {
        return Err(CertificateError::AuthoritysFolder(out_folder.into()));
    }
    let ca_pem = read(ca_folder, CA_FILE)?;
    let ca_key = read(ca_folder, CA_KEY_FILE)?;
    let no_authority =
        |error: rcgen::Error| CertificateError::NoAuthority { folder: ca_folder.into(), reason: error.to_string() };
    let ca_key = KeyPair::from_pem(&ca_key).map_err(no_authority)?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(no_authority)?;

    let key = KeyPair::generate()?;
    let certificate = node_params(node, validity)?.signed_by(&key, &issuer)?;
    fs::create_dir_all(out_folder).map_err(failed("create", out_folder))?;
    replace(&out_folder.join(KEY_FILE), key.serialize_pem().as_bytes(), Secrecy::Private)?;
    replace(&out_folder.join(CERT_FILE), certificate.pem().as_bytes(), Secrecy::Public)?;
    replace(&out_folder.join(CA_FILE), ca_pem.as_bytes(), Secrecy::Public)?;
    sync_folder(out_folder)
}

/// What the authority's own certificate says: it may sign nodes' certificates, but no further authority. Without a
/// distinction in the name, a certificate of another authority would look like a forgery of this one's.
fn ca_params(now: SystemTime, distinction: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Counterfoil authority {distinction:016x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + DAY * CA_DAYS).into();
    params
}

/// What a node's certificate says: its name, and that it may both dial and accept.
fn node_params(node: &NodeName, validity: Range<SystemTime>) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if node.as_str().len() <= COMMON_NAME_LEN_MAX {
        params.distinguished_name.push(DnType::CommonName, node.as_str());
    }
    params.subject_alt_names = vec![SanType::URI(format!("{NODE_URI_PREFIX}{node}").try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = validity.start.into();
    params.not_after = validity.end.into();
    Ok(params)
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(SystemClock.unix_ms())
}

/// Who may read a file.
#[derive(Clone, Copy)]
enum Secrecy {
    /// The owner alone.
    Private,
    /// Whom the process's umask lets.
    Public,
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CertificateError + use<'a> {
    move |source| CertificateError::File { action, path: path.into(), source }
}

fn read(ca_folder: &Path, name: &str) -> Result<String, CertificateError> {
    let path = ca_folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(CertificateError::NoAuthority { folder: ca_folder.into(), reason: format!("it holds no {name}") })
        }
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// Writes a file that must not exist yet; with its final permissions from the first moment.
fn write_new(path: &Path, bytes: &[u8], secrecy: Secrecy) -> Result<(), CertificateError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if matches!(secrecy, Secrecy::Private) {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = secrecy;
    let written = options.open(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(CertificateError::AuthorityExists(path.into()))
        }
        written => written.map_err(failed("write", path)),
    }
}

/// Puts a new file in the place of an old one: a reader sees either whole.
fn replace(path: &Path, bytes: &[u8], secrecy: Secrecy) -> Result<(), CertificateError> {
    let draft = path.with_extension("pem.new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace", &draft)(error)),
        _ => {}
    }
    write_new(&draft, bytes, secrecy)?;
    fs::rename(&draft, path).map_err(failed("replace", path))
}

/// Makes new names in a folder durable. Only Unix can; elsewhere the file system sees to it.
fn sync_folder(folder: &Path) -> Result<(), CertificateError> {
    #[cfg(unix)]
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_certificate_carries_any_name_a_node_can_have() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca");
        create_ca(&ca).unwrap();
        for name in ["practice-12", "A.b_c-d", "9", &"x".repeat(128)] {
            let (node, out) = (NodeName::new(name).unwrap(), folder.path().join(name));
            issue(&ca, &node, &out, DAYS_DEFAULT).unwrap();
            assert_eq!(Tls::from_dir(&out).unwrap().node(), &node);
        }
    }

    #[test]
    fn a_certificate_is_renewed_in_place_but_not_replaced_by_another_node_s() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, out) = (folder.path().join("ca"), folder.path().join("tls"));
        create_ca(&ca).unwrap();
        let [hub, other] = ["hub", "other"].map(|name| NodeName::new(name).unwrap());
        issue(&ca, &hub, &out, 30).unwrap();
        let files = || [CERT_FILE, KEY_FILE].map(|name| fs::read(out.join(name)).unwrap());
        let before = files();
        let error = issue(&ca, &other, &out, 30).unwrap_err();
        assert!(matches!(&error, CertificateError::OtherNode { found, .. } if *found == hub), "{error}");
        assert_eq!(files(), before);
        issue(&ca, &hub, &out, 30).unwrap();
        assert_ne!(files(), before);
        fs::write(out.join(CERT_FILE), "torn").unwrap();
        issue(&ca, &hub, &out, 30).unwrap();
    }

    #[test]
    fn an_authority_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        create_ca(folder.path()).unwrap();
        let before = fs::read(folder.path().join(CA_KEY_FILE)).unwrap();
        assert!(matches!(create_ca(folder.path()), Err(CertificateError::AuthorityExists(_))));
        fs::remove_file(folder.path().join(CA_FILE)).unwrap();
        assert!(matches!(create_ca(folder.path()), Err(CertificateError::AuthorityExists(_))));
        assert_eq!(fs::read(folder.path().join(CA_KEY_FILE)).unwrap(), before);
    }

    #[test]
    fn what_can_t_be_issued_is_refused_in_one_line_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, out) = (folder.path().join("ca"), folder.path().join("tls"));
        let node = NodeName::new("hub").unwrap();
        let refusals = |expected: &str| {
            let error = issue(&ca, &node, &out, 30).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
            assert!(!out.exists());
        };
        refusals("it holds no ca.pem");
        create_ca(&ca).unwrap();
        fs::write(ca.join(CA_KEY_FILE), "no key").unwrap();
        refusals("can't issue certificates");
        for days in [0, DAYS_MAX + 1] {
            assert!(matches!(issue(&ca, &node, &out, days), Err(CertificateError::Days(_))));
        }
    }

    #[cfg(unix)]
    #[test]
    fn private_keys_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        create_ca(folder.path()).unwrap();
        let out = folder.path().join("tls");
        issue(folder.path(), &NodeName::new("hub").unwrap(), &out, 1).unwrap();
        for key in [folder.path().join(CA_KEY_FILE), out.join(KEY_FILE)] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
