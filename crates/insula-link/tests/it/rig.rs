//! A fleet's port with real TLS on loopback, and those who call it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use insula_kit::clock::TestClock;
use insula_kit::pki::{Authority, Identity, KeyPair, PublicKey, Subject, Validity, Whom};
use insula_kit::tls::{ALPN_H2, Connector, Credentials};
use insula_kit::token::TokenHash;
use insula_link::apart;
use insula_link::registry::{Admission, Newcomer, Refusal, Registry, Verdict, Voucher, Why};
use insula_link::serve::Fleet;
use insula_link::{Answer, Answering, Answers, Hub, Inbound, Inbox, Leader, Question};
use insula_model::fleet::{Member, Serial};
use insula_model::{GatewayId, NodeId, ServerId, Timestamp};
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as FromAgent;
use insula_wire::node::gateway_message::Message as FromGateway;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::{Agent, PATIENCE, Shelf, agent_message, hello};

pub const NOW: i64 = 1_790_000_000_000;

pub fn node(n: u8) -> NodeId {
    NodeId::from_parts(Timestamp::from_millis(1), [n; 10])
}

pub fn gateway(n: u8) -> GatewayId {
    GatewayId::from_parts(Timestamp::from_millis(1), [n; 10])
}

pub fn server(n: u8) -> ServerId {
    ServerId::from_parts(Timestamp::from_millis(1), [n; 10])
}

/// The members of a fleet in memory: a registry of the protocol's own kind, for the protocol alone.
pub struct Book {
    pub authority: Authority,
    pub clock: TestClock,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    tokens: BTreeMap<[u8; 32], Option<Member>>,
    /// Newest and used.
    serials: BTreeMap<Member, (u64, u64)>,
    revoked: BTreeSet<Member>,
}

fn refuse<T>(why: Why, words: &str) -> Result<T, Refusal> {
    Err(Refusal { why, words: words.to_owned() })
}

impl Book {
    pub fn allow(&self, token: TokenHash) {
        self.entries.lock().unwrap().tokens.insert(*token.as_bytes(), None);
    }

    pub fn revoke(&self, member: Member) {
        self.entries.lock().unwrap().revoked.insert(member);
    }

    pub fn identity(&self, member: Member) -> Identity {
        let key = KeyPair::generate();
        let certificate = self.issue(member, &key.public_key()).certificate;
        Identity { key, certificate, authorities: vec![self.authority.certificate().to_vec()] }
    }

    fn issue(&self, member: Member, key: &PublicKey) -> Admission {
        let mut entries = self.entries.lock().unwrap();
        let (newest, _) = entries.serials.entry(member).or_default();
        *newest += 1;
        let subject = Subject::new(member.role(), &member.to_string()).unwrap();
        let validity = Validity::of_member(insula_kit::clock::Clock::now_ms(&self.clock));
        Admission {
            certificate: self.authority.issue(key, &subject, *newest, validity).unwrap(),
            authorities: vec![self.authority.certificate().to_vec()],
            not_after: Timestamp::from_millis(validity.not_after_ms),
            name: None,
        }
    }
}

impl Registry for Book {
    fn admit(&self, newcomer: Newcomer) -> Verdict<'_, Admission> {
        Box::pin(async move {
            if let Voucher::Token(token) = newcomer.voucher {
                match self.entries.lock().unwrap().tokens.get_mut(token.as_bytes()) {
                    None => return refuse(Why::Unknown, "there is no such join token"),
                    Some(Some(_)) => return refuse(Why::Denied, "the join token was used"),
                    Some(used) => *used = Some(newcomer.member),
                }
            }
            Ok(self.issue(newcomer.member, &newcomer.key))
        })
    }

    fn renew(&self, member: Member, key: PublicKey) -> Verdict<'_, Admission> {
        Box::pin(async move { Ok(self.issue(member, &key)) })
    }

    fn check(&self, member: Member, serial: Serial) -> Verdict<'_, ()> {
        let mut entries = self.entries.lock().unwrap();
        let verdict = if entries.revoked.contains(&member) {
            refuse(Why::Removed, "removed from this fleet")
        } else {
            match entries.serials.get_mut(&member) {
                Some((_, used)) if serial.0 >= *used => {
                    *used = serial.0;
                    Ok(())
                }
                Some(_) => refuse(Why::Denied, "a newer certificate was used"),
                None => refuse(Why::Unknown, "never joined"),
            }
        };
        Box::pin(std::future::ready(verdict))
    }
}

/// Says what it was asked.
struct Echo;

impl Answers for Echo {
    fn answer(&self, from: ServerId, question: Question) -> Answering<'_> {
        Box::pin(async move {
            let line = format!("{from} {} {}", question.method, question.path);
            let body = [Ok(line.into()), Ok(question.body)];
            Answer {
                status: 202,
                headers: question.headers,
                body: Box::pin(futures_util::stream::iter(body)),
            }
        })
    }
}

/// One server of a fleet.
pub struct Port {
    pub hub: Hub,
    pub inbound: Inbox,
    pub address: SocketAddr,
    pub connector: Connector,
    pub book: Arc<Book>,
    /// Dropped: the port closes.
    _stop: oneshot::Sender<()>,
}

pub fn book() -> Arc<Book> {
    let authority = Authority::generate(NOW).unwrap();
    Arc::new(Book { authority, clock: TestClock::new(NOW), entries: Mutex::default() })
}

impl Port {
    pub async fn open() -> Self {
        Self::of(&book(), 1).await
    }

    pub async fn of(book: &Arc<Book>, n: u8) -> Self {
        let clock = Arc::new(book.clock.clone());
        let identity = book.identity(Member::Server(server(n)));
        let credentials = Credentials::new(&identity, clock.clone()).unwrap();
        let (hub, inbound) = Hub::with_clock(clock);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fleet = Fleet {
            hub: hub.clone(),
            blobs: Arc::new(Shelf::default()),
            registry: book.clone(),
            credentials: credentials.clone(),
            answers: Some(Arc::new(Echo)),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(apart::fleet(fleet, listener, async { drop(stopped.await) }));
        let connector = Connector::new(&credentials, ALPN_H2);
        Self { hub, inbound, address, connector, book: book.clone(), _stop: stop }
    }

    pub async fn next(&mut self) -> Inbound {
        tokio::time::timeout(PATIENCE, self.inbound.recv()).await.unwrap().unwrap()
    }

    /// A channel of a member with a fresh certificate.
    pub async fn member(&self, member: Member) -> Channel {
        self.with(&self.book.identity(member)).await
    }

    pub async fn with(&self, identity: &Identity) -> Channel {
        let clock = Arc::new(self.book.clock.clone());
        let credentials = Credentials::new(identity, clock).unwrap();
        channel(self.address, Connector::new(&credentials, ALPN_H2)).await
    }

    /// A channel of somebody without a certificate.
    pub async fn nobody(&self) -> Channel {
        let clock = Arc::new(self.book.clock.clone());
        let authority = self.book.authority.fingerprint();
        channel(self.address, Connector::pinned(authority, clock)).await
    }

    pub async fn agent(&self, n: u8) -> Agent {
        let channel = self.member(Member::Node(node(n))).await;
        session(channel, n).await.unwrap()
    }

    pub fn leader(&self, follower: &Port, n: u8) -> Leader {
        Leader::new(server(n), self.address, &follower.connector)
    }
}

pub async fn channel(address: SocketAddr, connector: Connector) -> Channel {
    let dial = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let whom = Whom::any("server").unwrap();
            let connected = connector.connect(stream, &whom).await;
            let (stream, _) = connected.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://insula").connect_with_connector(dial).await.unwrap()
}

pub fn hello_of(n: u8) -> wire::Hello {
    wire::Hello { node: node(n).to_string(), name: format!("node-{n}"), ..hello() }
}

pub async fn session(channel: Channel, n: u8) -> Result<Agent, Status> {
    greet(channel, hello_of(n)).await
}

pub async fn greet(channel: Channel, hello: wire::Hello) -> Result<Agent, Status> {
    let mut client = wire::node_client::NodeClient::new(channel);
    let (sender, receiver) = mpsc::channel(16);
    sender.send(agent_message(FromAgent::Hello(hello))).await.unwrap();
    let answers = client.session(ReceiverStream::new(receiver)).await?.into_inner();
    Ok(Agent { sender, answers })
}

pub struct Edge {
    pub sender: mpsc::Sender<wire::GatewayMessage>,
    pub tables: Streaming<wire::RouteMessage>,
}

pub async fn edge(channel: Channel, n: u8) -> Result<Edge, Status> {
    let mut client = wire::edge_client::EdgeClient::new(channel);
    let hello = wire::GatewayHello {
        gateway: gateway(n).to_string(),
        version: "0".into(),
        protocol: wire::PROTOCOL,
        generation: 0,
    };
    let (sender, receiver) = mpsc::channel(16);
    let message = wire::GatewayMessage { message: Some(FromGateway::Hello(hello)) };
    sender.send(message).await.unwrap();
    let tables = client.routes(ReceiverStream::new(receiver)).await?.into_inner();
    Ok(Edge { sender, tables })
}

/// How a session ends, once everything that was said before was heard.
pub async fn end<T>(answers: &mut Streaming<T>) -> Option<Status> {
    loop {
        match tokio::time::timeout(PATIENCE, answers.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(status) => return Some(status),
        }
    }
}
