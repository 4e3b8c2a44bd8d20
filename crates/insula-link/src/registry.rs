//! Who belongs to the fleet, as the protocol needs to know it. The hub does not know where that is
//! kept; who starts it does.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use insula_kit::pki::PublicKey;
use insula_kit::token::TokenHash;
use insula_model::fleet::{Member, Serial};
use insula_model::{NodeName, Timestamp};
use insula_wire::node::{REFUSAL_METADATA, REFUSED_REMOVED};
use tonic::Code;
use tonic::metadata::{MetadataMap, MetadataValue};

/// Somebody who has proved to hold the key, and whom something speaks for.
#[derive(Debug, Clone)]
pub struct Newcomer {
    pub voucher: Voucher,
    pub member: Member,
    /// Of a node: what it would like to be called.
    pub name: Option<NodeName>,
    pub version: String,
    pub key: PublicKey,
}

/// Why a newcomer is believed.
#[derive(Debug, Clone)]
pub enum Voucher {
    Token(TokenHash),
    /// It came in by a socket of the server's own machine, which only those may open who belong.
    Machine,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// DER.
    pub certificate: Vec<u8>,
    /// DER; who else is to be believed.
    pub authorities: Vec<Vec<u8>>,
    pub not_after: Timestamp,
    /// Of a node: the one that counts.
    pub name: Option<NodeName>,
}

/// Why somebody is not let in. The words are for the one who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub why: Why,
    pub words: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nobody knows the token or the member.
    Unknown,
    /// Expired, used, superseded, or for another role.
    Denied,
    /// Removed from the fleet, for ever.
    Removed,
    /// The member is here already.
    Present,
    /// It could not be found out now: asking again may help.
    Failed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Refusal {}

pub type Verdict<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// A trait, because this crate must not know the store.
pub trait Registry: Send + Sync + 'static {
    /// Uses the token up exactly if it answers with a certificate.
    fn admit(&self, newcomer: Newcomer) -> Verdict<'_, Admission>;
    /// The next certificate of a member whose last one was checked just now.
    fn renew(&self, member: Member, key: PublicKey) -> Verdict<'_, Admission>;
    /// Whether this certificate counts. The first use of one ends those before it.
    fn check(&self, member: Member, serial: Serial) -> Verdict<'_, ()>;
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        match refusal.why {
            Why::Unknown => Self::unauthenticated(refusal.words),
            Why::Denied => Self::permission_denied(refusal.words),
            Why::Removed => {
                let mut metadata = MetadataMap::new();
                metadata.insert(REFUSAL_METADATA, MetadataValue::from_static(REFUSED_REMOVED));
                Self::with_metadata(Code::PermissionDenied, refusal.words, metadata)
            }
            Why::Present => Self::already_exists(refusal.words),
            Why::Failed => Self::unavailable(refusal.words),
        }
    }
}
