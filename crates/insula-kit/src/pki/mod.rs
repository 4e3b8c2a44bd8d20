//! Who is who on the wire: an authority, the certificates it gives out, and the keys they are for.
//!
//! Keys are ECDSA P-256. A certificate names one subject, a role and an id, as one DNS name; the
//! authority may name nothing else. Nobody's request is parsed: a caller brings the raw point of
//! its key and a signature that proves it holds the other half. What a role means, who is revoked
//! and how long a certificate counts beyond its dates is for those who know the fleet.

mod authority;
pub(crate) mod der;
mod identity;
mod key;
mod subject;

pub use authority::{Authority, Fingerprint, Invitation, Validity};
pub use identity::Identity;
pub use key::{KeyPair, PublicKey};
pub(crate) use subject::SERIAL_BYTES;
pub use subject::{Subject, Whom};

use crate::files::FileError;

/// How long a member's certificate counts: long enough that a weekend without any server ends
/// nothing.
pub const MEMBER_LIFE_MS: i64 = 72 * 3_600_000;
/// The age at which a member asks for the next one: two thirds of the life remain for trying.
pub const RENEW_AFTER_MS: i64 = 24 * 3_600_000;
/// How far back a certificate's beginning is set: a machine whose clock is an hour off must be
/// able to join and say so, and one zone's summer time fits as well.
pub const BACKDATED_MS: i64 = 2 * 3_600_000;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("`{text}` is not a subject: lower-case letters, digits and `_` name a role and an id")]
    Subject { text: String },
    #[error("a public key of {bytes} bytes: expected an uncompressed point of P-256")]
    PublicKey { bytes: usize },
    #[error("read a private key of P-256")]
    PrivateKey,
    #[error("sign a certificate")]
    Sign(#[source] rcgen::Error),
    #[error("read a certificate: {reason}")]
    Certificate { reason: &'static str },
    #[error("the certificate of {subject} is for another key")]
    OtherKey { subject: String },
    #[error("not a join token: expected a secret, `.` and the fingerprint of an authority")]
    Invitation,
    #[error("keep or read an identity")]
    File(#[from] FileError),
    #[error("{path} is not an identity of this program")]
    Form { path: String },
}
