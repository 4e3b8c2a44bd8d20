//! Mutual TLS end to end, one test per attack.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use insula_kit::clock::TestClock;
use insula_kit::pki::{Authority, BACKDATED_MS, Identity, KeyPair, Subject, Validity, Whom};
use insula_kit::tls::{
    Acceptor, ClientCertificates, ClientStream, Connector, Credentials, HANDSHAKES_PER_ADDRESS_MAX,
    Peer, ServerStream, TlsError, is_resumed,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const NOW: i64 = 1_790_000_000_000;
const HOUR: i64 = 3_600_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Fleet {
    authority: Authority,
    clock: TestClock,
}

impl Fleet {
    fn new() -> Self {
        Self { authority: Authority::generate(NOW).unwrap(), clock: TestClock::new(NOW) }
    }

    fn identity(&self, role: &str, id: &str, serial: u64, validity: Validity) -> Identity {
        let key = KeyPair::generate();
        let subject = Subject::new(role, id).unwrap();
        let certificate =
            self.authority.issue(&key.public_key(), &subject, serial, validity).unwrap();
        Identity { key, certificate, authorities: vec![self.authority.certificate().to_vec()] }
    }

    fn credentials(&self, identity: &Identity) -> Arc<Credentials> {
        Credentials::new(identity, Arc::new(self.clock.clone())).unwrap()
    }

    fn member(&self, role: &str, id: &str) -> Arc<Credentials> {
        self.credentials(&self.identity(role, id, 1, Validity::of_member(NOW)))
    }

    fn server(&self) -> Acceptor {
        acceptor(&self.member("server", "srv_1"))
    }
}

fn acceptor(credentials: &Arc<Credentials>) -> Acceptor {
    Acceptor::new(credentials, ClientCertificates::Required, b"")
}

fn any_server() -> Whom {
    Whom::any("server").unwrap()
}

type Called = Result<(ServerStream<DuplexStream>, Option<Peer>), TlsError>;
type Caller = Result<(ClientStream<DuplexStream>, Peer), TlsError>;

async fn meet(acceptor: &Acceptor, connector: &Connector, whom: &Whom) -> (Called, Caller) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::join!(acceptor.accept(ours, HERE), connector.connect(theirs, whom))
}

/// The words of everything that went wrong on a side.
fn words<T>(result: Result<T, TlsError>) -> String {
    let Err(error) = result else { return "it was let in".to_owned() };
    let mut words = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        words += &format!(": {inner}");
        source = inner.source();
    }
    words
}

#[tokio::test]
async fn two_members_know_each_other() {
    let fleet = Fleet::new();
    let node = fleet.credentials(&fleet.identity("node", "node_7", 3, Validity::of_member(NOW)));
    let connector = Connector::new(&node, b"");
    let (called, caller) = meet(&fleet.server(), &connector, &any_server()).await;
    let (mut to_node, peer) = called.unwrap();
    let (mut to_server, server) = caller.unwrap();
    let peer = peer.unwrap();
    assert_eq!((peer.subject.role(), peer.subject.id(), peer.serial), ("node", "node_7", 3));
    assert_eq!(peer.not_after_ms, NOW + 72 * HOUR);
    assert_eq!(server.subject, Subject::new("server", "srv_1").unwrap());
    to_server.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    to_node.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn another_authority_is_refused_on_both_sides() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let stranger = Connector::new(&other.member("node", "node_7"), b"");
    let (called, caller) = meet(&fleet.server(), &stranger, &any_server()).await;
    assert!(words(caller).contains("UnknownIssuer"));
    assert!(called.is_err());
    // Somebody who believes anybody, but was signed by somebody else.
    let mut mixed = other.identity("node", "node_7", 1, Validity::of_member(NOW));
    mixed.authorities = vec![fleet.authority.certificate().to_vec()];
    let stranger = Connector::new(&fleet.credentials(&mixed), b"");
    let (called, _) = meet(&fleet.server(), &stranger, &any_server()).await;
    assert!(words(called).contains("UnknownIssuer"));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_also_when_a_session_is_resumed() {
    let fleet = Fleet::new();
    let server = fleet.identity(
        "server",
        "srv_1",
        1,
        Validity { not_before_ms: NOW, not_after_ms: NOW * 2 },
    );
    let acceptor = acceptor(&fleet.credentials(&server));
    let connector = Connector::new(&fleet.member("node", "node_7"), b"");
    let (called, caller) = meet(&acceptor, &connector, &any_server()).await;
    let (mut to_node, _) = called.unwrap();
    let (mut to_server, _) = caller.unwrap();
    // The ticket comes with the first bytes.
    to_node.write_all(b"x").await.unwrap();
    to_server.read_exact(&mut [0]).await.unwrap();
    let (called, caller) = meet(&acceptor, &connector, &any_server()).await;
    assert!(is_resumed(called.unwrap().0.get_ref().1), "the second session costs no signature");
    assert!(is_resumed(caller.unwrap().0.get_ref().1));
    fleet.clock.advance_ms(73 * HOUR);
    let (called, _) = meet(&acceptor, &connector, &any_server()).await;
    assert!(words(called).contains("Expired"));
    let fresh = Connector::new(&fleet.member("node", "node_7"), b"");
    let (called, _) = meet(&acceptor, &fresh, &any_server()).await;
    assert!(words(called).contains("Expired"));
}

#[tokio::test]
async fn an_expired_server_is_refused_by_its_caller() {
    let fleet = Fleet::new();
    let old = Validity { not_before_ms: NOW - 9 * HOUR, not_after_ms: NOW - HOUR };
    let acceptor = acceptor(&fleet.credentials(&fleet.identity("server", "srv_1", 1, old)));
    let connector = Connector::new(&fleet.member("node", "node_7"), b"");
    let (_, caller) = meet(&acceptor, &connector, &any_server()).await;
    assert!(words(caller).contains("Expired"));
}

#[tokio::test]
async fn a_clock_may_be_as_far_behind_as_certificates_are_backdated_and_no_further() {
    let fleet = Fleet::new();
    let node = fleet.identity("node", "node_7", 1, Validity::of_member(NOW));
    let server = fleet.server();
    let connector = Connector::new(&fleet.credentials(&node), b"");
    fleet.clock.set_ms(NOW - BACKDATED_MS + 60_000);
    let (called, caller) = meet(&server, &connector, &any_server()).await;
    assert!(called.is_ok() && caller.is_ok());
    fleet.clock.set_ms(NOW - BACKDATED_MS - 60_000);
    let fresh = Connector::new(&fleet.credentials(&node), b"");
    let (_, caller) = meet(&server, &fresh, &any_server()).await;
    assert!(words(caller).contains("NotValidYet"));
}

#[tokio::test]
async fn a_nodes_certificate_does_not_make_a_server() {
    let fleet = Fleet::new();
    let impostor = acceptor(&fleet.member("node", "node_7"));
    let connector = Connector::new(&fleet.member("gateway", "gw_1"), b"");
    let (_, caller) = meet(&impostor, &connector, &any_server()).await;
    let words = words(caller);
    assert!(words.contains("it is of node node_7; expected a server"), "{words}");
}

#[tokio::test]
async fn another_node_does_not_stand_in_for_the_one_that_was_meant() {
    let fleet = Fleet::new();
    let other = acceptor(&fleet.member("node", "node_8"));
    let connector = Connector::new(&fleet.member("gateway", "gw_1"), b"");
    let meant = Whom::one("node", "node_7").unwrap();
    let (_, caller) = meet(&other, &connector, &meant).await;
    let words = words(caller);
    assert!(words.contains("it is of node node_8; expected node node_7"), "{words}");
    // The right one answers to the same call, and to nobody's role but its own.
    let right = acceptor(&fleet.member("node", "node_7"));
    assert!(meet(&right, &connector, &meant).await.1.is_ok());
    assert!(meet(&right, &connector, &Whom::one("gateway", "node_7").unwrap()).await.1.is_err());
}

#[tokio::test]
async fn who_shows_no_certificate_is_refused_unless_newcomers_are_welcome() {
    let fleet = Fleet::new();
    let clock = Arc::new(fleet.clock.clone());
    let nobody = Connector::pinned(fleet.authority.fingerprint(), clock.clone());
    let credentials = fleet.member("server", "srv_1");
    let strict = Acceptor::new(&credentials, ClientCertificates::Required, b"h2");
    let (called, _) = meet(&strict, &nobody, &any_server()).await;
    assert!(words(called).contains("certificate"));
    let open = Acceptor::new(&credentials, ClientCertificates::Optional, b"h2");
    let (called, caller) = meet(&open, &nobody, &any_server()).await;
    assert_eq!(called.unwrap().1, None);
    assert_eq!(caller.unwrap().1.subject.id(), "srv_1");
}

#[tokio::test]
async fn a_newcomer_believes_the_pinned_authority_and_only_its_servers() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let clock = Arc::new(fleet.clock.clone());
    let newcomer = Connector::pinned(fleet.authority.fingerprint(), clock);
    let open = |credentials| Acceptor::new(credentials, ClientCertificates::Optional, b"h2");
    let impostor = other.member("server", "srv_1");
    let stranger = open(&impostor);
    let refused = words(meet(&stranger, &newcomer, &any_server()).await.1);
    assert!(refused.contains("not of the fleet that was named to us"), "{refused}");
    // It shows our authority's certificate, which anybody may have, under its own.
    let mut mixed = other.identity("server", "srv_1", 1, Validity::of_member(NOW));
    mixed.authorities.push(fleet.authority.certificate().to_vec());
    let impostor = other.credentials(&mixed);
    let stranger = open(&impostor);
    assert!(meet(&stranger, &newcomer, &any_server()).await.1.is_err());
    let member = fleet.member("node", "node_7");
    let node = open(&member);
    assert!(words(meet(&node, &newcomer, &any_server()).await.1).contains("expected a server"));
}

#[tokio::test]
async fn who_signs_for_himself_is_refused() {
    let fleet = Fleet::new();
    let key = KeyPair::generate();
    let name = Subject::new("node", "node_7").unwrap().dns_name();
    let mut params = rcgen::CertificateParams::new(vec![name]).unwrap();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x41; 16]));
    let mut identity = fleet.identity("node", "node_7", 1, Validity::of_member(NOW));
    identity.certificate = params.self_signed(&key).unwrap().der().to_vec();
    identity.key = key;
    let signed = Connector::new(&fleet.credentials(&identity), b"");
    let (called, _) = meet(&fleet.server(), &signed, &any_server()).await;
    assert!(words(called).contains("invalid peer certificate"));
    // A member that signs another's certificate with its own key is no authority.
    let member = fleet.identity("node", "node_7", 1, Validity::of_member(NOW));
    let made = Authority::from_parts(member.certificate.clone(), &member.key.to_pkcs8());
    let forger = made.unwrap();
    let victim = Subject::new("server", "srv_1").unwrap();
    let key = KeyPair::generate();
    let certificate =
        forger.issue(&key.public_key(), &victim, 9, Validity::of_member(NOW)).unwrap();
    let authorities = vec![fleet.authority.certificate().to_vec(), member.certificate];
    let forged = fleet.credentials(&Identity { key, certificate, authorities });
    let (called, _) = meet(&fleet.server(), &Connector::new(&forged, b""), &any_server()).await;
    assert!(called.is_err());
    let connector = Connector::new(&fleet.member("node", "node_8"), b"");
    let (_, caller) = meet(&acceptor(&forged), &connector, &any_server()).await;
    assert!(caller.is_err());
}

#[tokio::test]
async fn a_bent_certificate_is_refused_wherever_it_was_bent() {
    let fleet = Fleet::new();
    let honest = fleet.identity("node", "node_7", 1, Validity::of_member(NOW));
    let find = |needle: &[u8]| {
        honest.certificate.windows(needle.len()).position(|window| window == needle).unwrap()
    };
    let (name, end) = (find(b"node-7.node.insula") + 5, honest.certificate.len() - 1);
    let server = fleet.server();
    for at in [name, end] {
        let mut certificate = honest.certificate.clone();
        certificate[at] ^= 1;
        let key = KeyPair::from_pkcs8(&honest.key.to_pkcs8()).unwrap();
        let authorities = honest.authorities.clone();
        let bent = fleet.credentials(&Identity { key, certificate, authorities });
        let (called, _) = meet(&server, &Connector::new(&bent, b""), &any_server()).await;
        assert!(words(called).contains("BadSignature"), "byte {at}");
    }
}

#[tokio::test]
async fn a_caller_that_speaks_tls_1_2_is_refused() {
    let fleet = Fleet::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(fleet.authority.certificate().to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(old));
    let name = "srv-1.server.insula".try_into().unwrap();
    let server = fleet.server();
    let (called, caller) = tokio::join!(server.accept(ours, HERE), connector.connect(name, theirs));
    assert!(words(called).contains("Tls12") || caller.is_err());
    assert!(caller.is_err());
}

#[tokio::test]
async fn a_renewal_needs_no_restart_and_old_sessions_are_not_resumed_with_it() {
    let fleet = Fleet::new();
    let node = fleet.member("node", "node_7");
    let (server, connector) = (fleet.server(), Connector::new(&node, b""));
    let (called, caller) = meet(&server, &connector, &any_server()).await;
    let (mut to_node, peer) = called.unwrap();
    assert_eq!(peer.unwrap().serial, 1);
    to_node.write_all(b"x").await.unwrap();
    caller.unwrap().0.read_exact(&mut [0]).await.unwrap();
    assert!(!node.renewal_is_due());
    fleet.clock.advance_ms(24 * HOUR);
    assert!(node.renewal_is_due());
    let next = Validity::of_member(NOW + 24 * HOUR);
    node.replace(&fleet.identity("node", "node_7", 2, next)).unwrap();
    assert!(!node.renewal_is_due());
    let (called, _) = meet(&server, &connector, &any_server()).await;
    let (stream, peer) = called.unwrap();
    assert_eq!(peer.unwrap().serial, 2);
    assert!(!is_resumed(stream.get_ref().1));
}

#[tokio::test]
async fn who_says_nothing_fills_only_his_own_places() {
    let fleet = Fleet::new();
    let server = fleet.server();
    let mut silent = Vec::new();
    let mut waiting = Vec::new();
    for _ in 0..HANDSHAKES_PER_ADDRESS_MAX {
        let (ours, theirs) = tokio::io::duplex(1_024);
        silent.push(theirs);
        let server = server.clone();
        waiting.push(tokio::spawn(async move { server.accept(ours, HERE).await.map(|_| ()) }));
    }
    for _ in 0..HANDSHAKES_PER_ADDRESS_MAX {
        tokio::task::yield_now().await;
    }
    let (ours, _theirs) = tokio::io::duplex(1_024);
    let hasty = server.clone().within(Duration::from_millis(1));
    assert!(matches!(hasty.accept(ours, HERE).await, Err(TlsError::TimedOut)));
    let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let connector = Connector::new(&fleet.member("node", "node_7"), b"");
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let whom = any_server();
    let (called, caller) =
        tokio::join!(server.accept(ours, elsewhere), connector.connect(theirs, &whom));
    assert!(called.is_ok() && caller.is_ok());
    drop(silent);
    for task in waiting {
        assert!(matches!(task.await.unwrap(), Err(TlsError::Handshake(_))));
    }
    // Their places are free again.
    assert!(meet(&server, &connector, &any_server()).await.0.is_ok());
}

#[tokio::test]
async fn who_says_nothing_for_too_long_is_cut_off() {
    let fleet = Fleet::new();
    let (ours, _theirs) = tokio::io::duplex(1_024);
    let hasty = fleet.server().within(Duration::from_millis(1));
    assert!(matches!(hasty.accept(ours, HERE).await, Err(TlsError::TimedOut)));
    let (ours, _theirs) = tokio::io::duplex(1_024);
    let node = fleet.member("node", "node_7");
    let hasty = Connector::new(&node, b"").within(Duration::from_millis(1));
    assert!(matches!(hasty.connect(ours, &any_server()).await, Err(TlsError::TimedOut)));
}
