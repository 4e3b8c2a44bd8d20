//! A fleet's authority for tests: it gives a certificate to whoever has the token.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use insula_kit::clock::{Clock, SystemClock};
use insula_kit::pki::{
    Authority, Identity, Invitation, KeyPair, MEMBER_LIFE_MS, PublicKey, Subject, Validity,
};
use insula_kit::random::SystemRandom;
use insula_kit::tls::{ALPN_H2, Acceptor, ClientCertificates, Credentials, Peer, ServerStream};
use insula_kit::token::Token;
use insula_wire::node as wire;
use insula_wire::node::join_server::Join;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// Clones are the same fleet.
#[derive(Clone)]
pub struct Fleet {
    authority: Arc<Authority>,
    /// Of what a token brings.
    first_life_ms: i64,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    serial: u64,
    renewed: u32,
    tokens: Vec<String>,
    servers: Vec<String>,
}

impl Fleet {
    pub fn new() -> Self {
        Self::whose_first_certificates_live(MEMBER_LIFE_MS)
    }

    pub fn whose_first_certificates_live(first_life_ms: i64) -> Self {
        let authority = Authority::generate(SystemClock.now_ms()).unwrap();
        Self { authority: Arc::new(authority), first_life_ms, state: Arc::default() }
    }

    /// Good for so many.
    pub fn token(&self, times: usize) -> String {
        let secret = Token::generate("insj", &SystemRandom::new());
        let tokens = std::iter::repeat_n(secret.expose().to_owned(), times);
        self.state.lock().unwrap().tokens.extend(tokens);
        Invitation { secret, authority: self.authority.fingerprint() }.expose().to_string()
    }

    pub fn name_server(&self, address: SocketAddr) {
        self.state.lock().unwrap().servers.push(address.to_string());
    }

    pub fn acceptor(&self) -> Acceptor {
        let key = KeyPair::generate();
        let subject = Subject::new("server", "srv_1").unwrap();
        let reply = self.issue(&subject, &key.public_key(), MEMBER_LIFE_MS);
        let (certificate, authorities) = (reply.certificate, reply.authorities);
        let identity = Identity { key, certificate, authorities };
        let credentials = Credentials::new(&identity, Arc::new(SystemClock)).unwrap();
        Acceptor::new(&credentials, ClientCertificates::Optional, ALPN_H2)
    }

    /// How many certificates it has given to those who had one.
    pub fn renewed(&self) -> u32 {
        self.state.lock().unwrap().renewed
    }

    fn issue(&self, subject: &Subject, key: &PublicKey, life_ms: i64) -> wire::EnrolReply {
        let mut state = self.state.lock().unwrap();
        state.serial += 1;
        let now_ms = SystemClock.now_ms();
        let validity = Validity { not_after_ms: now_ms + life_ms, ..Validity::of_member(now_ms) };
        let certificate = self.authority.issue(key, subject, state.serial, validity).unwrap();
        wire::EnrolReply {
            certificate,
            authorities: vec![self.authority.certificate().to_vec()],
            servers: state.servers.clone(),
            not_after_ms: validity.not_after_ms,
            name: "blue".into(),
        }
    }
}

#[tonic::async_trait]
impl Join for Fleet {
    async fn enrol(
        &self,
        request: Request<wire::EnrolRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        let asked = request.into_inner();
        {
            let mut state = self.state.lock().unwrap();
            let token = state.tokens.iter().position(|token| *token == asked.token);
            let token = token.ok_or_else(|| Status::permission_denied("the token was used"))?;
            state.tokens.remove(token);
        }
        let key = PublicKey::from_bytes(&asked.public_key).unwrap();
        let subject = Subject::new(&asked.role, &asked.id).unwrap();
        Ok(Response::new(self.issue(&subject, &key, self.first_life_ms)))
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::EnrolReply>, Status> {
        let peer = request.extensions().get::<Option<Peer>>().cloned().flatten();
        let subject = peer.ok_or_else(|| Status::unauthenticated("a stranger"))?.subject;
        let asked = request.into_inner();
        let key = PublicKey::from_bytes(&asked.public_key).unwrap();
        if !key.verify(&wire::renew_proof(subject.id()), &asked.proof) {
            return Err(Status::permission_denied("somebody else's key"));
        }
        let reply = self.issue(&subject, &key, MEMBER_LIFE_MS);
        self.state.lock().unwrap().renewed += 1;
        Ok(Response::new(reply))
    }
}

/// A connection, and who made it.
pub struct Caller {
    pub stream: ServerStream<TcpStream>,
    pub peer: Option<Peer>,
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
