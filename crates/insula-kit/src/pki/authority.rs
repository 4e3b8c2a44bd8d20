//! The authority of a fleet, and how a newcomer knows it.

use std::fmt;
use std::str::FromStr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
    date_time_ymd,
};
use zeroize::Zeroizing;

use super::{BACKDATED_MS, KeyPair, MEMBER_LIFE_MS, PkiError, PublicKey, Subject};
use crate::digest::{hex, sha256};
use crate::seal::SecretBytes;
use crate::token::Token;

/// An authority is not renewed in silence; it outlives the machines it speaks for.
const AUTHORITY_LIFE_MS: i64 = 30 * 365 * 24 * 3_600_000;
const AUTHORITY_NAME: &str = "insula fleet";
/// Small letters and digits without those that look alike, as in our ids.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 256 bits, five to a letter.
const FINGERPRINT_CHARS: usize = 52;

/// Signs the certificates of a fleet. Its key is never printed; who keeps it seals it.
pub struct Authority {
    key: KeyPair,
    certificate: Vec<u8>,
}

/// From when until when a certificate counts, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before_ms: i64,
    pub not_after_ms: i64,
}

/// SHA-256 of an authority's certificate: how somebody knows it who knows nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// A join token: a secret, and the authority to which alone it may be told.
#[derive(Debug, Clone)]
pub struct Invitation {
    pub secret: Token,
    pub authority: Fingerprint,
}

impl Validity {
    /// Of a member's certificate that is given out now.
    pub fn of_member(now_ms: i64) -> Self {
        Self { not_before_ms: now_ms - BACKDATED_MS, not_after_ms: now_ms + MEMBER_LIFE_MS }
    }
}

impl Authority {
    pub fn generate(now_ms: i64) -> Result<Self, PkiError> {
        let key = KeyPair::generate();
        let mut params = params_of_authority(&key);
        let validity = Validity {
            not_before_ms: now_ms - BACKDATED_MS,
            not_after_ms: now_ms + AUTHORITY_LIFE_MS,
        };
        set_validity(&mut params, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ours = GeneralSubtree::DnsName("insula".to_owned());
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: vec![ours], excluded_subtrees: vec![] });
        let certificate = params.self_signed(&key).map_err(PkiError::Sign)?;
        Ok(Self { key, certificate: certificate.der().to_vec() })
    }

    /// From what `certificate` and `to_pkcs8` gave.
    pub fn from_parts(certificate: Vec<u8>, key: &SecretBytes) -> Result<Self, PkiError> {
        let key = KeyPair::from_pkcs8(key)?;
        let der = rustls::pki_types::CertificateDer::from(certificate.as_slice());
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|_| PkiError::Certificate { reason: "not an authority's" })?;
        // The point is the end of what a certificate says of its key.
        if !anchor.subject_public_key_info.as_ref().ends_with(key.public_key().as_bytes()) {
            return Err(PkiError::OtherKey { subject: "the authority".to_owned() });
        }
        Ok(Self { key, certificate })
    }

    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub fn to_pkcs8(&self) -> SecretBytes {
        self.key.to_pkcs8()
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// A certificate for `subject` and its key. `serial` must grow with each one of a subject.
    pub fn issue(
        &self,
        key: &PublicKey,
        subject: &Subject,
        serial: u64,
        validity: Validity,
    ) -> Result<Vec<u8>, PkiError> {
        let name = subject.dns_name();
        let mut params = CertificateParams::default();
        set_validity(&mut params, validity);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        let san = name.try_into().map_err(PkiError::Sign)?;
        params.subject_alt_names = vec![SanType::DnsName(san)];
        params.serial_number = Some(SerialNumber::from_slice(&subject.serial(serial)));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A node answers other nodes and calls them; the role in the name says who may be what.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::new(params_of_authority(&self.key), &self.key);
        let certificate = params.signed_by(key, &issuer).map_err(PkiError::Sign)?;
        Ok(certificate.der().to_vec())
    }
}

/// Its name says which key it has, so that two authorities are told apart before any signature.
fn params_of_authority(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let of_key = hex(&sha256(key.public_key().as_bytes())[..8]);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{AUTHORITY_NAME} {of_key}"));
    params
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    let moment = |ms: i64| {
        let seconds = std::time::Duration::from_secs(ms.max(0) as u64 / 1_000);
        date_time_ymd(1970, 1, 1) + seconds
    };
    params.not_before = moment(validity.not_before_ms);
    params.not_after = moment(validity.not_after_ms);
}

impl Fingerprint {
    pub fn of(certificate: &[u8]) -> Self {
        Self(sha256(certificate))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut held, mut bits) = (0_u32, 0);
        let mut text = String::with_capacity(FINGERPRINT_CHARS);
        for byte in self.0 {
            held = held << 8 | u32::from(byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                text.push(char::from(ALPHABET[(held >> bits & 31) as usize]));
            }
        }
        text.push(char::from(ALPHABET[(held << (5 - bits) & 31) as usize]));
        f.write_str(&text)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        let parsed = parse_fingerprint(text).ok_or(PkiError::Invitation)?;
        // One fingerprint has one spelling: spare bits at the end are none of ours.
        if parsed.to_string() == text { Ok(parsed) } else { Err(PkiError::Invitation) }
    }
}

fn parse_fingerprint(text: &str) -> Option<Fingerprint> {
    if text.len() != FINGERPRINT_CHARS {
        return None;
    }
    let mut bytes = [0; 32];
    let (mut held, mut bits, mut at) = (0_u32, 0, 0);
    for letter in text.bytes() {
        let digit = ALPHABET.iter().position(|known| *known == letter)?;
        held = (held << 5 | digit as u32) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            *bytes.get_mut(at)? = (held >> bits) as u8;
            at += 1;
        }
    }
    Some(Fingerprint(bytes))
}

impl Invitation {
    /// The text that a person copies: shown once, kept nowhere.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}.{}", self.secret.expose(), self.authority))
    }
}

impl FromStr for Invitation {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        let (secret, authority) = text.trim().split_once('.').ok_or(PkiError::Invitation)?;
        let secret = Token::parse(secret).map_err(|_| PkiError::Invitation)?;
        Ok(Self { secret, authority: authority.parse()? })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({}, hidden)", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SystemRandom;

    #[test]
    fn an_authority_survives_its_parts_and_takes_no_other_key() {
        let authority = Authority::generate(1_790_000_000_000).unwrap();
        let certificate = authority.certificate().to_vec();
        let again = Authority::from_parts(certificate.clone(), &authority.to_pkcs8()).unwrap();
        assert_eq!(again.fingerprint(), authority.fingerprint());
        let other = KeyPair::generate().to_pkcs8();
        let mixed = Authority::from_parts(certificate, &other);
        assert!(matches!(mixed, Err(PkiError::OtherKey { .. })));
        assert!(format!("{authority:?}").contains("hidden"));
    }

    #[test]
    fn an_invitation_comes_back_whole_or_not_at_all() {
        let authority = Authority::generate(1_790_000_000_000).unwrap().fingerprint();
        let secret = Token::generate("insj", &SystemRandom::new());
        let text = Invitation { secret, authority }.expose();
        let again: Invitation = text.parse().unwrap();
        assert_eq!(again.authority, authority);
        assert_eq!(*again.expose(), *text);
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'U' { b'u' } else { b'U' };
            let bent = String::from_utf8(bytes).unwrap();
            assert!(bent.parse::<Invitation>().is_err(), "changed at {at}");
        }
        for wrong in ["", ".", "a.b", &text[..text.len() - 1], &format!("{}0", *text)] {
            assert!(wrong.parse::<Invitation>().is_err(), "{wrong}");
        }
    }
}
