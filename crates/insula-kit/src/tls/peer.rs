//! The other side of a connection, as its certificate says.

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::pki::{PkiError, SERIAL_BYTES, Subject, der};

/// 1.3.6.1.5.5.7.3.1 and .2, as DER writes them without tag and length.
const SERVER_AUTH: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 2];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub subject: Subject,
    /// Counts the certificates of this subject.
    pub serial: u64,
    pub not_after_ms: i64,
}

/// Which side of the handshake shows a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

/// Everything that makes a certificate one of the fleet's: signed by an authority, directly, within
/// its dates, for this use, and naming exactly one subject.
pub(super) fn verify(
    certificate: &CertificateDer<'_>,
    anchors: &[TrustAnchor<'_>],
    now: UnixTime,
    side: Side,
) -> Result<Peer, rustls::Error> {
    let parsed = EndEntityCert::try_from(certificate).map_err(refusal)?;
    let usage = match side {
        Side::Server => KeyUsage::required(SERVER_AUTH),
        Side::Client => KeyUsage::required(CLIENT_AUTH),
    };
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    parsed
        .verify_for_usage(algorithms.all, anchors, &[], now, usage, None, None)
        .map_err(refusal)?;
    read(&parsed, certificate).map_err(|error| other(error.to_string()))
}

fn read(parsed: &EndEntityCert<'_>, der: &[u8]) -> Result<Peer, PkiError> {
    let mut names = parsed.valid_dns_names();
    let name = names.next().filter(|_| names.next().is_none());
    let subject = name
        .and_then(Subject::from_dns_name)
        .ok_or(PkiError::Certificate { reason: "it does not name one member" })?;
    let serial: [u8; SERIAL_BYTES] = parsed
        .serial()
        .try_into()
        .map_err(|_| PkiError::Certificate { reason: "its number is not one of ours" })?;
    // The lower half counts.
    let serial = u128::from_be_bytes(serial) as u64;
    Ok(Peer { subject, serial, not_after_ms: der::not_after_ms(der)? })
}

/// What `webpki` says, as TLS tells it to the other side.
fn refusal(error: webpki::Error) -> rustls::Error {
    use rustls::CertificateError;
    use webpki::Error::{
        CertExpired, CertNotValidYet, InvalidSignatureForPublicKey, UnknownIssuer,
    };
    match error {
        CertExpired { .. } => CertificateError::Expired.into(),
        CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        UnknownIssuer => CertificateError::UnknownIssuer.into(),
        InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        error => other(error.to_string()),
    }
}

/// Words that reach our own log; the other side hears only that its certificate was refused.
pub(super) fn other(words: String) -> rustls::Error {
    let words = std::sync::Arc::new(std::io::Error::other(words));
    rustls::CertificateError::Other(rustls::OtherError(words)).into()
}

/// The subset of a root store that is needed here.
pub(super) fn anchors(authorities: &[Vec<u8>]) -> Result<Vec<TrustAnchor<'static>>, PkiError> {
    let mut store = RootCertStore::empty();
    for authority in authorities {
        store
            .add(CertificateDer::from(authority.as_slice()))
            .map_err(|_| PkiError::Certificate { reason: "not an authority's" })?;
    }
    if store.is_empty() {
        return Err(PkiError::Certificate { reason: "there is no authority to believe" });
    }
    Ok(store.roots)
}

/// Reads a certificate that is ours, or was verified already.
pub(super) fn own(certificate: &[u8]) -> Result<Peer, PkiError> {
    let der = CertificateDer::from(certificate);
    let parsed = EndEntityCert::try_from(&der)
        .map_err(|_| PkiError::Certificate { reason: "it is not a certificate" })?;
    read(&parsed, certificate)
}
