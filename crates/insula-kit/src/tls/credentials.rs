//! Our own side: key, certificate and whom we believe, exchanged while connections go on.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor, UnixTime};
use rustls::sign::CertifiedKey;

use super::peer::{self, Peer};
use crate::clock::Clock;
use crate::pki::{Identity, MEMBER_LIFE_MS, PkiError, RENEW_AFTER_MS, Subject};

/// What every configuration of TLS here looks into at each handshake.
pub struct Credentials {
    clock: Arc<dyn Clock>,
    held: RwLock<Arc<Held>>,
}

/// What was put in last.
pub(super) struct Held {
    /// Grows with each exchange: what was remembered under an older one is not used again.
    pub(super) epoch: u64,
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    authorities: Vec<Vec<u8>>,
    own: Peer,
}

impl Credentials {
    pub fn new(identity: &Identity, clock: Arc<dyn Clock>) -> Result<Arc<Self>, PkiError> {
        let held = RwLock::new(Arc::new(Held::read(identity, 0)?));
        Ok(Arc::new(Self { clock, held }))
    }

    /// From now on, for every handshake: a renewal without a restart.
    pub fn replace(&self, identity: &Identity) -> Result<(), PkiError> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(Held::read(identity, held.epoch + 1)?);
        Ok(())
    }

    pub fn subject(&self) -> Subject {
        self.held().own.subject.clone()
    }

    pub fn serial(&self) -> u64 {
        self.held().own.serial
    }

    pub fn not_after_ms(&self) -> i64 {
        self.held().own.not_after_ms
    }

    /// DER, as given.
    pub fn authorities(&self) -> Vec<Vec<u8>> {
        self.held().authorities.clone()
    }

    /// Whether it is time to ask for the next certificate.
    pub fn renewal_is_due(&self) -> bool {
        self.clock.now_ms() >= self.not_after_ms() - (MEMBER_LIFE_MS - RENEW_AFTER_MS)
    }

    pub(super) fn held(&self) -> Arc<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    pub(super) fn now(&self) -> UnixTime {
        unix_time(&*self.clock)
    }
}

impl Held {
    fn read(identity: &Identity, epoch: u64) -> Result<Self, PkiError> {
        let own = peer::own(&identity.certificate)?;
        // The authority travels along, so that a newcomer can know it by its fingerprint.
        let chain = std::iter::once(&identity.certificate).chain(&identity.authorities);
        let chain = chain.map(|der| CertificateDer::from(der.clone())).collect();
        let secret = identity.key.to_pkcs8();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(secret.expose()));
        let key =
            rustls::crypto::ring::sign::any_ecdsa_type(&key).map_err(|_| PkiError::PrivateKey)?;
        let certified = CertifiedKey::new(chain, key);
        certified
            .keys_match()
            .map_err(|_| PkiError::OtherKey { subject: own.subject.to_string() })?;
        Ok(Self {
            epoch,
            certified: Arc::new(certified),
            anchors: peer::anchors(&identity.authorities)?,
            authorities: identity.authorities.clone(),
            own,
        })
    }
}

pub(super) fn unix_time(clock: &dyn Clock) -> UnixTime {
    let ms = clock.now_ms().max(0) as u64;
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(ms))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held();
        write!(f, "Credentials({}, serial {}, hidden)", held.own.subject, held.own.serial)
    }
}
