//! Mutual TLS 1.3 between the members of a fleet.
//!
//! Both sides show a certificate of the fleet's authority; who somebody is stands in it and nowhere
//! else (see `pki`). Nothing about names or addresses is asked of the network. Sessions are resumed,
//! and what a resumed session says of its peer is examined again, so that an expiry is an end.
//! Who was removed from the fleet is not known here: that is for whoever takes a `Peer`.

mod connect;
mod credentials;
mod peer;
mod verify;

pub use connect::{
    Acceptor, ClientCertificates, Connector, HANDSHAKE_TIME_MAX, HANDSHAKES_MAX,
    HANDSHAKES_PER_ADDRESS_MAX, is_resumed,
};
pub use credentials::Credentials;
pub use peer::Peer;
pub use tokio_rustls::{client::TlsStream as ClientStream, server::TlsStream as ServerStream};

use crate::pki::{PkiError, Subject, Whom};

/// What gRPC needs to be said.
pub const ALPN_H2: &[u8] = b"h2";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the handshake took too long")]
    TimedOut,
    #[error("no more handshakes are made here")]
    Busy,
    #[error("speak TLS")]
    Handshake(#[source] std::io::Error),
    #[error("the certificate is not one of this fleet")]
    NotOfThisFleet(#[source] rustls::Error),
    #[error("the certificate is of {got}; expected {want}")]
    SomebodyElse { got: Subject, want: Whom },
    #[error("the certificate cannot be used")]
    Certificate(#[from] PkiError),
}
