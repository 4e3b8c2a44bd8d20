//! Key pairs and the proof that somebody holds one.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use zeroize::Zeroizing;

use super::PkiError;
use crate::digest::hex;
use crate::seal::SecretBytes;

/// An uncompressed point: `04`, x, y.
const POINT_BYTES: usize = 65;

/// Half of a pair that may be shown to anybody. Whether the point lies on the curve is found out
/// when a signature is held against it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; POINT_BYTES]);

/// A private key. Never printed. Its randomness is the kernel's, whatever `Random` a caller holds:
/// ring makes keys from nothing else.
pub struct KeyPair {
    pkcs8: Zeroizing<Vec<u8>>,
    ring: EcdsaKeyPair,
    public: PublicKey,
}

impl PublicKey {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PkiError> {
        match <[u8; POINT_BYTES]>::try_from(bytes) {
            Ok(point) if point[0] == 4 => Ok(Self(point)),
            Ok(_) | Err(_) => Err(PkiError::PublicKey { bytes: bytes.len() }),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether `signature` was made over `message` by the holder of the other half.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(message, signature).is_ok()
    }
}

impl KeyPair {
    pub fn generate() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .expect("the kernel gives random bytes");
        Self::from_pkcs8(&SecretBytes::new(pkcs8.as_ref().to_vec()))
            .expect("ring reads what it wrote")
    }

    pub fn from_pkcs8(secret: &SecretBytes) -> Result<Self, PkiError> {
        let pkcs8 = Zeroizing::new(secret.expose().to_vec());
        let random = SystemRandom::new();
        let ring = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random)
            .map_err(|_| PkiError::PrivateKey)?;
        let public = PublicKey::from_bytes(ring.public_key().as_ref())?;
        Ok(Self { pkcs8, ring, public })
    }

    pub fn to_pkcs8(&self) -> SecretBytes {
        SecretBytes::new(self.pkcs8.to_vec())
    }

    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.ring.sign(&SystemRandom::new(), message);
        signature.expect("the kernel gives random bytes").as_ref().to_vec()
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        &self.public.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.sign(message))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}…)", hex(&self.0[1..5]))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?}, hidden)", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_counts_for_its_key_and_its_words_alone() {
        let (ours, other) = (KeyPair::generate(), KeyPair::generate());
        let proof = ours.sign(b"insula join\n");
        assert!(ours.public_key().verify(b"insula join\n", &proof));
        assert!(!ours.public_key().verify(b"insula renew\n", &proof));
        assert!(!other.public_key().verify(b"insula join\n", &proof));
        assert!(!ours.public_key().verify(b"insula join\n", &[]));
        let mut bent = proof.clone();
        let last = bent.len() - 1;
        bent[last] ^= 1;
        assert!(!ours.public_key().verify(b"insula join\n", &bent));
    }

    #[test]
    fn a_point_that_is_none_proves_nothing() {
        assert!(PublicKey::from_bytes(&[4; 64]).is_err());
        assert!(PublicKey::from_bytes(&[4; 66]).is_err());
        assert!(PublicKey::from_bytes(&[2; 65]).is_err());
        // The right form, but off the curve.
        let off = PublicKey::from_bytes(&[4; 65]).unwrap();
        assert!(!off.verify(b"x", &KeyPair::generate().sign(b"x")));
    }

    #[test]
    fn a_pair_survives_its_bytes_and_is_never_printed() {
        let pair = KeyPair::generate();
        let again = KeyPair::from_pkcs8(&pair.to_pkcs8()).unwrap();
        assert_eq!(again.public_key(), pair.public_key());
        let printed = format!("{pair:?}");
        assert!(printed.len() < 60 && printed.contains("hidden"), "{printed}");
        assert!(KeyPair::from_pkcs8(&SecretBytes::new(vec![1; 138])).is_err());
    }
}
