//! Why a connection did not come about, in words for the operator of this end; and a log of it that can't be flooded.

use std::{collections::HashMap, io, mem::Discriminant, net::IpAddr, time::Duration, time::Instant};

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

/// How many lines about one reason from one address may come at once.
const BURST: u32 = 5;
/// After how long one more line may come.
const REFILL: Duration = Duration::from_secs(10);
/// The most pairs of address and reason that are told apart; all others share one.
const BUCKETS_MAX: usize = 1024;

/// Lets through as many log lines as a person can use, and counts the rest.
///
/// A token bucket for each address and reason, so that a flood from one address hides no other's trouble.
#[derive(Debug, Default)]
pub(super) struct RejectionLog {
    buckets: HashMap<Key, Bucket>,
}

type Key = Option<(IpAddr, Discriminant<Rejection>)>;

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl RejectionLog {
    /// A rejection happened: `Some(n)` if a line is due, which also stands for `n` earlier ones that got none.
    pub(super) fn note(&mut self, now: Instant, address: IpAddr, rejection: &Rejection) -> Option<u64> {
        let mut key: Key = Some((address, std::mem::discriminant(rejection)));
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(&key) {
            self.buckets.retain(|_, bucket| bucket.suppressed > 0 || now.duration_since(bucket.refilled) < REFILL);
            if self.buckets.len() >= BUCKETS_MAX {
                key = None;
            }
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: BURST, refilled: now, suppressed: 0 });
        bucket.refill(now);
        if bucket.tokens == 0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let due = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if due > 0 {
            self.tokens = BURST.min(self.tokens.saturating_add(due.try_into().unwrap_or(u32::MAX)));
            self.refilled = now;
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to count from")]
mod tests {
    use super::*;

    #[test]
    fn a_flood_from_one_address_is_counted_and_hides_no_other_s_trouble() {
        let (mut log, start) = (RejectionLog::default(), Instant::now());
        let [hostile, honest] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let lines = (0..1000).filter(|_| log.note(start, hostile, &Rejection::NotTls).is_some()).count();
        assert_eq!(lines, BURST as usize);
        assert_eq!(log.note(start, hostile, &Rejection::NoCertificate), Some(0));
        assert_eq!(log.note(start, honest, &Rejection::NotTls), Some(0));
        assert_eq!(log.note(start + REFILL, hostile, &Rejection::NotTls), Some(1000 - u64::from(BURST)));
    }

    #[test]
    fn the_log_of_rejections_is_bounded_however_many_addresses_come() {
        let (mut log, start) = (RejectionLog::default(), Instant::now());
        for n in 0..100_000_u32 {
            log.note(start, IpAddr::from(n.to_be_bytes()), &Rejection::NotTls);
        }
        assert!(log.buckets.len() <= BUCKETS_MAX + 1);
    }
}
