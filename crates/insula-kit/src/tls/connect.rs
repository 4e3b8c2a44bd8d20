//! Makes connections: bounded in number and in time on the side that is called.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::credentials::{Credentials, unix_time};
use super::peer::{self, Peer, Side};
use super::verify::{OfTheFleet, Pinned, Remembered, Shown, Time};
use super::{ALPN_H2, TlsError};
use crate::clock::Clock;
use crate::pki::{Fingerprint, Whom};

/// Two processors need a millisecond; a bad line needs three round trips.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Handshakes under way at once: each holds some 40 KiB, and a fleet that returns as a whole is
/// served in turn.
pub const HANDSHAKES_MAX: usize = 256;
/// Of those, from one address: somebody who opens connections and says nothing stands in nobody's
/// way but his neighbours'.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;

/// Whether a caller must show a certificate before anything is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    Required,
    /// For newcomers: who shows none has no `Peer`. One that is shown must be right.
    Optional,
}

/// Answers callers. Clones share their bounds.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    credentials: Arc<Credentials>,
    under_way: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, Share>>>,
    time_max: Duration,
}

/// One address's part of the handshakes, while it has any.
struct Share {
    turns: Arc<Semaphore>,
    callers: usize,
}

/// Calls others. Clones share the sessions that they remember.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    trust: Trust,
    time_max: Duration,
}

#[derive(Clone)]
enum Trust {
    Fleet(Arc<Credentials>),
    Pinned(Fingerprint, Arc<dyn Clock>),
}

impl Acceptor {
    /// `alpn` may be empty; for gRPC it is `ALPN_H2`.
    pub fn new(
        credentials: &Arc<Credentials>,
        certificates: ClientCertificates,
        alpn: &[u8],
    ) -> Self {
        Self {
            tls: TlsAcceptor::from(server_config(credentials, certificates, alpn)),
            credentials: credentials.clone(),
            under_way: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            by_address: Arc::default(),
            time_max: HANDSHAKE_TIME_MAX,
        }
    }

    /// With another patience than `HANDSHAKE_TIME_MAX`.
    #[must_use]
    pub fn within(mut self, time_max: Duration) -> Self {
        self.time_max = time_max;
        self
    }

    /// The handshake, and who called. What comes over the bounds waits, as long as a handshake may
    /// take.
    pub async fn accept<S>(
        &self,
        stream: S,
        from: IpAddr,
    ) -> Result<(server::TlsStream<S>, Option<Peer>), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let place = self.place(from);
        let shaken = async {
            // One's own neighbours first: who waits behind them holds up nobody else.
            let _ours = place.turns.acquire().await.map_err(|_| TlsError::Busy)?;
            let _turn = self.under_way.acquire().await.map_err(|_| TlsError::Busy)?;
            self.tls.accept(stream).await.map_err(TlsError::Handshake)
        };
        let stream = timeout(self.time_max, shaken).await.map_err(|_| TlsError::TimedOut)??;
        let peer = match stream.get_ref().1.peer_certificates() {
            None | Some([]) => None,
            Some([first, ..]) => {
                // A full handshake has just verified it; a resumed one relies on an earlier one.
                if is_resumed(stream.get_ref().1) {
                    let (held, now) = (self.credentials.held(), self.credentials.now());
                    peer::verify(first, &held.anchors, now, Side::Client)
                        .map_err(TlsError::NotOfThisFleet)?;
                }
                Some(peer::own(first)?)
            }
        };
        Ok((stream, peer))
    }

    fn place(&self, from: IpAddr) -> Place<'_> {
        let mut shares = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.entry(from).or_insert_with(|| Share {
            turns: Arc::new(Semaphore::new(HANDSHAKES_PER_ADDRESS_MAX)),
            callers: 0,
        });
        share.callers += 1;
        Place { acceptor: self, from, turns: share.turns.clone() }
    }
}

/// Somebody who shakes hands, or waits to.
struct Place<'a> {
    acceptor: &'a Acceptor,
    from: IpAddr,
    turns: Arc<Semaphore>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut shares = self.acceptor.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get_mut(&self.from) {
            share.callers -= 1;
            if share.callers == 0 {
                shares.remove(&self.from);
            }
        }
    }
}

impl Connector {
    /// As ourselves, to other members.
    pub fn new(credentials: &Arc<Credentials>, alpn: &[u8]) -> Self {
        Self::with(client_config(credentials, alpn), Trust::Fleet(credentials.clone()))
    }

    /// As nobody, to whoever that authority signed: for the one call that makes somebody a member.
    pub fn pinned(authority: Fingerprint, clock: Arc<dyn Clock>) -> Self {
        let config = pinned_client_config(authority, clock.clone());
        Self::with(config, Trust::Pinned(authority, clock))
    }

    fn with(config: Arc<ClientConfig>, trust: Trust) -> Self {
        Self { tls: TlsConnector::from(config), trust, time_max: HANDSHAKE_TIME_MAX }
    }

    /// With another patience than `HANDSHAKE_TIME_MAX`.
    #[must_use]
    pub fn within(mut self, time_max: Duration) -> Self {
        self.time_max = time_max;
        self
    }

    /// The handshake, and who answered, which is whom we meant.
    pub async fn connect<S>(
        &self,
        stream: S,
        whom: &Whom,
    ) -> Result<(client::TlsStream<S>, Peer), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(whom.server_name()).expect("a subject is a DNS name");
        let shaken = timeout(self.time_max, self.tls.connect(name, stream)).await;
        let stream = shaken.map_err(|_| TlsError::TimedOut)?.map_err(TlsError::Handshake)?;
        let peer = self.examine(stream.get_ref().1)?;
        if !whom.accepts(&peer.subject) {
            return Err(TlsError::SomebodyElse { got: peer.subject, want: whom.clone() });
        }
        Ok((stream, peer))
    }

    fn examine(&self, connection: &CommonState) -> Result<Peer, TlsError> {
        let chain = connection.peer_certificates().unwrap_or_default();
        let Some((first, others)) = chain.split_first() else {
            let none = rustls::Error::NoCertificatesPresented;
            return Err(TlsError::NotOfThisFleet(none));
        };
        let known = match &self.trust {
            Trust::Fleet(credentials) => {
                let held = credentials.held();
                peer::verify(first, &held.anchors, credentials.now(), Side::Server)
            }
            Trust::Pinned(authority, clock) => {
                let pinned = Pinned { authority: *authority };
                pinned.verify(first, others, unix_time(&**clock))
            }
        };
        known.map_err(TlsError::NotOfThisFleet)
    }
}

/// Whether a connection cost no signature: for those who count.
pub fn is_resumed(connection: &CommonState) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::Resumed)
}

fn server_config(
    credentials: &Arc<Credentials>,
    certificates: ClientCertificates,
    alpn: &[u8],
) -> Arc<ServerConfig> {
    let verifier = OfTheFleet {
        credentials: credentials.clone(),
        mandatory: certificates == ClientCertificates::Required,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let time = Arc::new(Time(credentials.clock()));
    let mut config = ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])
        .expect("ring speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Shown(credentials.clone())));
    // Tickets that only this process can read: nothing to remember per caller.
    config.ticketer = rustls::crypto::ring::Ticketer::new().expect("the kernel gives random bytes");
    config.alpn_protocols = protocols(alpn);
    Arc::new(config)
}

fn client_config(credentials: &Arc<Credentials>, alpn: &[u8]) -> Arc<ClientConfig> {
    let verifier = OfTheFleet { credentials: credentials.clone(), mandatory: true };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let time = Arc::new(Time(credentials.clock()));
    let mut config = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])
        .expect("ring speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Shown(credentials.clone())));
    let remembered = Arc::new(Remembered::new(credentials.clone()));
    config.resumption = Resumption::store(remembered);
    // Whom we call is nobody's business on the wire.
    config.enable_sni = false;
    config.alpn_protocols = protocols(alpn);
    Arc::new(config)
}

fn pinned_client_config(authority: Fingerprint, clock: Arc<dyn Clock>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Time(clock)))
        .with_protocol_versions(&[&TLS13])
        .expect("ring speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { authority }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = protocols(ALPN_H2);
    Arc::new(config)
}

fn protocols(alpn: &[u8]) -> Vec<Vec<u8>> {
    if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Acceptor({:?})", self.credentials)
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.trust {
            Trust::Fleet(credentials) => write!(f, "Connector({credentials:?})"),
            Trust::Pinned(authority, _) => write!(f, "Connector(as nobody, to {authority})"),
        }
    }
}
