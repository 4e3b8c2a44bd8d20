//! A fleet's side for tests: an authority, tokens, and servers that can be stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use insula_kit::clock::{Clock, TestClock};
use insula_kit::pki::{Authority, Identity, Invitation, KeyPair, PublicKey, Subject, Validity};
use insula_kit::random::SeededRandom;
use insula_kit::tls::{ALPN_H2, Acceptor, ClientCertificates, Credentials, Peer, ServerStream};
use insula_kit::token::Token;
use insula_wire::node::join_server::{Join, JoinServer};
use insula_wire::node::{self as wire, join_proof, renew_proof};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status};

pub const NOW_MS: i64 = 1_790_000_000_000;

/// What every server of it shares. Clones are the same fleet.
#[derive(Clone)]
pub struct Fleet {
    pub clock: TestClock,
    shared: Arc<Shared>,
}

struct Shared {
    authority: Authority,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    serial: u64,
    /// Who used a token, once somebody has: id and key.
    tokens: BTreeMap<String, Option<(String, Vec<u8>)>>,
    /// Answers that get lost on the way.
    lose: u32,
    /// Of each call, who made it: nobody, or the serial of a certificate.
    callers: Vec<Option<u64>>,
    addresses: Vec<String>,
    connections: usize,
    /// Removed for ever; and those whose certificates of before this serial count no more.
    removed: Vec<String>,
    superseded: BTreeMap<String, u64>,
}

impl Fleet {
    pub fn new() -> Self {
        let authority = Authority::generate(NOW_MS).unwrap();
        let shared = Shared { authority, state: Mutex::default() };
        Self { clock: TestClock::new(NOW_MS), shared: Arc::new(shared) }
    }

    pub fn token(&self, seed: u64) -> Invitation {
        let secret = Token::generate("insj", &SeededRandom::new(seed));
        self.state().tokens.insert(secret.expose().to_owned(), None);
        Invitation { secret, authority: self.shared.authority.fingerprint() }
    }

    pub fn lose_answers(&self, count: u32) {
        self.state().lose = count;
    }

    pub fn callers(&self) -> Vec<Option<u64>> {
        self.state().callers.clone()
    }

    /// Those that came, whatever became of them.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    pub fn remove(&self, id: &str) {
        self.state().removed.push(id.to_owned());
    }

    /// As if a copy of the member's folder had renewed.
    pub fn supersede(&self, id: &str) {
        let mut state = self.state();
        state.serial += 1;
        let serial = state.serial;
        state.superseded.insert(id.to_owned(), serial);
    }

    fn refuse_removed(&self, id: &str) -> Result<(), Status> {
        if self.state().removed.iter().any(|removed| removed == id) {
            let mut metadata = MetadataMap::new();
            let removed = MetadataValue::from_static(wire::REFUSED_REMOVED);
            metadata.insert(wire::REFUSAL_METADATA, removed);
            return Err(Status::with_metadata(Code::PermissionDenied, "removed", metadata));
        }
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    fn issue(&self, subject: &Subject, key: &PublicKey) -> wire::EnrolReply {
        let mut state = self.state();
        state.serial += 1;
        let validity = Validity::of_member(self.clock.now_ms());
        let certificate = self.shared.authority.issue(key, subject, state.serial, validity);
        wire::EnrolReply {
            certificate: certificate.unwrap(),
            authorities: vec![self.shared.authority.certificate().to_vec()],
            servers: state.addresses.clone(),
            not_after_ms: validity.not_after_ms,
            name: "as-the-fleet-says".into(),
        }
    }

    /// Another server; it is gone when dropped.
    pub async fn server(&self) -> Server {
        let key = KeyPair::generate();
        let subject = Subject::new("server", "srv_1").unwrap();
        let reply = self.issue(&subject, &key.public_key());
        let (certificate, authorities) = (reply.certificate, reply.authorities);
        let identity = Identity { key, certificate, authorities };
        let credentials = Credentials::new(&identity, Arc::new(self.clock.clone())).unwrap();
        let acceptor = Acceptor::new(&credentials, ClientCertificates::Optional, ALPN_H2);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.state().addresses.push(address.to_string());
        let (accepted, incoming) = mpsc::channel(8);
        let fleet = self.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                fleet.state().connections += 1;
                if let Ok((stream, peer)) = acceptor.accept(stream, from.ip()).await {
                    let caller = Caller { stream, peer };
                    let _ = accepted.send(Ok::<_, std::io::Error>(caller)).await;
                }
            }
        });
        let service = JoinServer::new(Service(self.clone()));
        let serving = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(ReceiverStream::new(incoming)).await.unwrap();
        });
        Server { address, tasks: [accepting, serving] }
    }
}

pub struct Server {
    pub address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Caller {
    stream: ServerStream<TcpStream>,
    peer: Option<Peer>,
}

impl Connected for Caller {
    type ConnectInfo = Option<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Caller {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct Service(Fleet);

impl Service {
    fn note<T>(&self, request: &Request<T>) -> Option<Peer> {
        let peer = request.extensions().get::<Option<Peer>>().cloned().flatten();
        self.0.state().callers.push(peer.as_ref().map(|peer| peer.serial));
        peer
    }

    fn answer(&self, reply: wire::EnrolReply) -> Result<Response<wire::EnrolReply>, Status> {
        let mut state = self.0.state();
        if state.lose > 0 {
            state.lose -= 1;
            return Err(Status::unavailable("lost on the way"));
        }
        Ok(Response::new(reply))
    }
}

#[tonic::async_trait]
impl Join for Service {
    async fn enrol(
        &self,
        request: Request<wire::EnrolRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        self.note(&request);
        let asked = request.into_inner();
        let key = PublicKey::from_bytes(&asked.public_key).unwrap();
        assert!(key.verify(&join_proof(&asked.token, &asked.id), &asked.proof));
        self.0.refuse_removed(&asked.id)?;
        {
            let mut state = self.0.state();
            let used = state.tokens.get_mut(&asked.token);
            let used = used.ok_or_else(|| Status::unauthenticated("no such token"))?;
            let by = (asked.id.clone(), asked.public_key.clone());
            match used {
                Some(before) if *before != by => {
                    return Err(Status::permission_denied("the token was used already"));
                }
                Some(_) => {}
                None => *used = Some(by),
            }
        }
        let subject = Subject::new(&asked.role, &asked.id).unwrap();
        self.answer(self.0.issue(&subject, &key))
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        let peer = self.note(&request);
        let peer = peer.ok_or_else(|| Status::unauthenticated("show a certificate"))?;
        self.0.refuse_removed(peer.subject.id())?;
        let used = self.0.state().superseded.get(peer.subject.id()).copied();
        if used.is_some_and(|used| peer.serial < used) {
            return Err(Status::permission_denied("a newer certificate was used"));
        }
        let asked = request.into_inner();
        let key = PublicKey::from_bytes(&asked.public_key).unwrap();
        assert!(key.verify(&renew_proof(peer.subject.id()), &asked.proof));
        self.answer(self.0.issue(&peer.subject, &key))
    }
}
