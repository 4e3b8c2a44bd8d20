//! What rustls asks of us: whom we believe, and what we show.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    DigitallySignedStruct, DistinguishedName, NamedGroup, PeerIncompatible, SignatureScheme,
};

use super::credentials::{Credentials, unix_time};
use super::peer::{self, Side};
use crate::clock::Clock;
use crate::pki::{Fingerprint, Whom};

/// Members that one member calls again and again: its neighbours, at most a fleet's nodes.
const SESSIONS_REMEMBERED_MAX: usize = 1_024;

/// Believes the authorities of our credentials, as they are at that moment.
#[derive(Debug)]
pub(super) struct OfTheFleet {
    pub(super) credentials: Arc<Credentials>,
    pub(super) mandatory: bool,
}

/// Believes one authority by its fingerprint: for somebody who knows nothing else yet.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) authority: Fingerprint,
}

/// Shows what our credentials hold at that moment.
#[derive(Debug)]
pub(super) struct Shown(pub(super) Arc<Credentials>);

#[derive(Debug)]
pub(super) struct Time(pub(super) Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(&*self.0))
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}

/// No configuration here speaks TLS 1.2; nobody can come this far.
fn no_tls12() -> rustls::Error {
    PeerIncompatible::Tls12NotOffered.into()
}

impl ClientCertVerifier for OfTheFleet {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let held = self.credentials.held();
        peer::verify(certificate, &held.anchors, now, Side::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ServerCertVerifier for OfTheFleet {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let held = self.credentials.held();
        let got = peer::verify(certificate, &held.anchors, now, Side::Server)?;
        expect(&got, name)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl Pinned {
    pub(super) fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<peer::Peer, rustls::Error> {
        let ours = others.iter().find(|der| Fingerprint::of(der) == self.authority);
        let ours =
            ours.ok_or_else(|| peer::other("it is not of the fleet that was named to us".into()))?;
        let anchors = peer::anchors(&[ours.to_vec()]).map_err(|e| peer::other(e.to_string()))?;
        peer::verify(certificate, &anchors, now, Side::Server)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        expect(&self.verify(certificate, others, now)?, name)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// The name that a connection was made with says whom it must reach.
fn expect(got: &peer::Peer, name: &ServerName<'_>) -> Result<ServerCertVerified, rustls::Error> {
    let ServerName::DnsName(name) = name else {
        return Err(rustls::CertificateError::NotValidForName.into());
    };
    match Whom::from_server_name(name.as_ref()) {
        Some(want) if want.accepts(&got.subject) => Ok(ServerCertVerified::assertion()),
        Some(want) => Err(peer::other(format!("it is of {}; expected {want}", got.subject))),
        None => Err(rustls::CertificateError::NotValidForName.into()),
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.held().certified.clone())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.held().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Sessions to resume, forgotten when our certificate is exchanged: a resumed session speaks for
/// the certificate that it began with, which would look like an old one that somebody stole.
pub(super) struct Remembered {
    credentials: Arc<Credentials>,
    cache: Mutex<(u64, Arc<ClientSessionMemoryCache>)>,
}

impl Remembered {
    pub(super) fn new(credentials: Arc<Credentials>) -> Self {
        let epoch = credentials.held().epoch;
        Self { credentials, cache: Mutex::new((epoch, empty())) }
    }

    fn cache(&self) -> Arc<ClientSessionMemoryCache> {
        let epoch = self.credentials.held().epoch;
        let mut held: MutexGuard<'_, _> = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0 != epoch {
            *held = (epoch, empty());
        }
        held.1.clone()
    }
}

fn empty() -> Arc<ClientSessionMemoryCache> {
    Arc::new(ClientSessionMemoryCache::new(SESSIONS_REMEMBERED_MAX))
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remembered(hidden)")
    }
}

impl ClientSessionStore for Remembered {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.cache().set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.cache().kx_hint(name)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.cache().insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.cache().take_tls13_ticket(name)
    }
}
