//! Why a connection did not come about, in words for the operator of this end.

use std::{
    io,
    mem::{self, Discriminant},
    net::IpAddr,
    time::Duration,
};

use counterfoil_storage::NodeName;
use rustls::{AlertDescription, CertificateError};
use thiserror::Error;

use super::tls::{CA_FILE, NodeNameError};

/// Why a peer was not let in, or did not let this node in. "It" is the peer.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Rejection {
    /// What it sent is not TLS.
    #[error("it does not speak TLS")]
    NotTls,
    /// Its TLS has nothing in common with ours: an older version, another protocol, other algorithms.
    #[error("it does not speak TLS 1.3 for Counterfoil ({0})")]
    Incompatible(String),
    /// It did not say who it is.
    #[error("it presented no certificate")]
    NoCertificate,
    /// Its certificate is from somewhere else.
    #[error("its certificate was not issued by this node's authority ({CA_FILE})")]
    UnknownAuthority,
    /// Its certificate is past its time.
    #[error("its certificate has expired; issue it a new one with `counterfoil cert node`")]
    Expired,
    /// Its certificate is before its time.
    #[error("its certificate is not valid yet; compare both clocks")]
    NotValidYet,
    /// Its certificate or signature is wrong in another way.
    #[error("its certificate is not acceptable ({0})")]
    BadCertificate(String),
    /// Its certificate is good but does not say which node it belongs to.
    #[error("its certificate {0}")]
    NoName(#[from] NodeNameError),
    /// It proved to be another node than the one that was dialled.
    #[error("it is the node {found}, not {expected}")]
    OtherNode {
        /// The node that was dialled.
        expected: NodeName,
        /// The node that answered.
        found: NodeName,
    },
    /// The policy denies this node.
    #[error("the policy denies {0}")]
    Denied(NodeName),
    /// It does not accept this node's certificate.
    #[error("it refused this node's certificate ({0})")]
    RefusedUs(&'static str),
    /// It took too long to prove who it is.
    #[error("it did not complete the handshake within {} s", .0.as_secs_f32())]
    TooSlow(Duration),
    /// It had not proved who it is when its place was needed: of too many handshakes the oldest goes.
    #[error("it had not completed the handshake when its place was needed for another")]
    Displaced,
    /// As many sessions as allowed are there.
    #[error("{0} sessions are there, the most allowed")]
    Full(usize),
    /// It proved who it is, but the session failed: it broke the protocol or fell silent, or the store here failed.
    #[error("{0}")]
    SessionFailed(String),
    /// It ended the connection before the handshake was complete.
    #[error("it hung up during the handshake")]
    HungUp,
    /// It broke the rules of TLS.
    #[error("it broke the rules of TLS ({0})")]
    BrokenTls(String),
    /// It can't be reached, or the connection broke.
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for Rejection {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};

        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::from(tls.clone()),
            None if matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe) => {
                Self::HungUp
            }
            None => Self::Io(error.to_string()),
        }
    }
}

impl From<rustls::Error> for Rejection {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error;

        match error {
            Error::InvalidMessage(_) => Self::NotTls,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible(error.to_string()),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(error) => Self::from(error),
            Error::AlertReceived(alert) => Self::from_alert(alert),
            error => Self::BrokenTls(error.to_string()),
        }
    }
}

impl From<CertificateError> for Rejection {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotValidYet,
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::BadSignature => Self::BadCertificate("a signature is wrong".into()),
            CertificateError::BadEncoding => Self::BadCertificate("it can't be read".into()),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::BadCertificate("it was issued for another purpose".into())
            }
            CertificateError::Other(other) => match other.0.downcast_ref::<Self>() {
                Some(own) => own.clone(),
                None => Self::BadCertificate(other.to_string()),
            },
            error => Self::BadCertificate(error.to_string()),
        }
    }
}

impl Rejection {
    fn from_alert(alert: AlertDescription) -> Self {
        Self::RefusedUs(match alert {
            AlertDescription::UnknownCA => "it is from another authority",
            AlertDescription::CertificateExpired => "it has expired, or is not valid yet",
            AlertDescription::CertificateRequired => "there was none",
            AlertDescription::CertificateUnknown => "it names another node than expected",
            AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => "it is not acceptable",
            AlertDescription::AccessDenied => "access denied",
            alert => return Self::BrokenTls(format!("it sent the alert {alert:?}")),
        })
    }
}

/// What is told apart in the log of rejections: a flood from one origin hides no other's trouble.
pub(super) type Reason = (IpAddr, Discriminant<Rejection>);

impl Rejection {
    /// Whether trying again can't help until somebody changes a certificate, an authority, a name, a clock or a program.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Incompatible(_)
            | Self::NoCertificate
            | Self::UnknownAuthority
            | Self::Expired
            | Self::NotValidYet
            | Self::BadCertificate(_)
            | Self::NoName(_)
            | Self::OtherNode { .. }
            | Self::Denied(_)
            | Self::RefusedUs(_) => true,
            Self::NotTls
            | Self::TooSlow(_)
            | Self::Displaced
            | Self::Full(_)
            | Self::SessionFailed(_)
            | Self::HungUp
            | Self::BrokenTls(_)
            | Self::Io(_) => false,
        }
    }

    /// What it is to the log when it concerns `address`.
    pub(super) fn reason(&self, address: IpAddr) -> Reason {
        (origin(address), mem::discriminant(self))
    }
}

/// Who is taken for one: an address, or all of an IPv6 network of 64 bits, which is what one host is usually given.
pub(super) fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_is_to_the_log_what_it_says_and_whom_it_concerns() {
        let [hostile, honest] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let denied = |node: &str| Rejection::Denied(NodeName::new(node).unwrap());
        assert_eq!(denied("a").reason(hostile), denied("b").reason(hostile));
        assert_ne!(denied("a").reason(hostile), denied("a").reason(honest));
        assert_ne!(denied("a").reason(hostile), Rejection::NotTls.reason(hostile));
    }

    #[test]
    fn all_addresses_of_one_ipv6_network_are_taken_for_one() {
        let [a, b, other, v4, mapped] =
            ["2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1", "10.0.0.1", "::ffff:10.0.0.1"]
                .map(|address| origin(address.parse().unwrap()));
        assert_eq!(a, b);
        assert_ne!(a, other);
        assert_eq!(v4, mapped);
        let turned_away = Rejection::NotTls;
        let [a, b] = ["2001:db8::1", "2001:db8::2:3"].map(|address| turned_away.reason(address.parse().unwrap()));
        assert_eq!(a, b, "nor can a host fill the log by changing its address");
    }
}
