//! A server: sends Targets, keeps reports, and has the blobs that it was given.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use insula_kit::clock::{Clock, SystemClock};
use insula_kit::digest::sha256;
use insula_kit::uds::{SocketAccess, bind};
use insula_model::Digest;
use insula_model::observed::NodeReport;
use insula_wire::node::agent_message::Message as Up;
use insula_wire::node::join_server::JoinServer;
use insula_wire::node::node_server::{Node, NodeServer};
use insula_wire::node::server_message::Message as Down;
use insula_wire::node::{self as wire};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::fleet::{Caller, Fleet};

/// By kind and digest.
type Blobs = HashMap<(String, String), Vec<u8>>;

/// Survives the server, as a database does.
#[derive(Debug, Clone)]
pub struct State {
    pub target: watch::Sender<Option<wire::Target>>,
    pub report: watch::Sender<Option<NodeReport>>,
    pub logs: broadcast::Sender<wire::LogChunk>,
    pub requests: broadcast::Sender<Down>,
    pub hellos: watch::Sender<Vec<wire::Hello>>,
    pub usage: watch::Sender<Option<wire::UsageReport>>,
    /// What is answered to whoever begins a session, if anything but a welcome.
    pub refusal: watch::Sender<Option<Status>>,
    pub refused: watch::Sender<u32>,
    /// Heartbeats are heard and not answered.
    pub mute: watch::Sender<bool>,
    /// How far its clock is ahead.
    pub clock_ahead_ms: watch::Sender<i64>,
    blobs: Arc<Mutex<Blobs>>,
}

impl State {
    pub fn new() -> Self {
        Self {
            target: watch::Sender::new(None),
            report: watch::Sender::new(None),
            logs: broadcast::Sender::new(1_024),
            requests: broadcast::Sender::new(16),
            hellos: watch::Sender::new(vec![]),
            usage: watch::Sender::new(None),
            refusal: watch::Sender::new(None),
            refused: watch::Sender::new(0),
            mute: watch::Sender::new(false),
            clock_ahead_ms: watch::Sender::new(0),
            blobs: Arc::default(),
        }
    }

    pub fn put(&self, kind: &str, bytes: Vec<u8>) -> Digest {
        let digest = Digest::from_sha256(sha256(&bytes));
        self.blobs.lock().unwrap().insert((kind.into(), digest.to_string()), bytes);
        digest
    }

    pub fn blob(&self, kind: &str, digest: Digest) -> Option<Vec<u8>> {
        self.blobs.lock().unwrap().get(&(kind.into(), digest.to_string())).cloned()
    }
}

/// Gone when dropped, with all its connections: it runs in a runtime of its own.
#[derive(Debug)]
pub struct Server {
    runtime: Option<tokio::runtime::Runtime>,
    /// Of one that is of a fleet.
    pub address: Option<SocketAddr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    pub async fn start(state: State, socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = NodeServer::new(Service(state)).max_decoding_message_size(64 << 20);
        let (socket, (bound, is_bound)) = (socket.to_owned(), oneshot::channel());
        runtime.spawn(async move {
            let listener = bind(&socket, SocketAccess::PRIVATE).await.unwrap();
            bound.send(()).unwrap();
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        is_bound.await.unwrap();
        Self { runtime: Some(runtime), address: None }
    }

    /// One of a fleet: the same, over mutual TLS.
    pub async fn start_in(fleet: &Fleet, state: State, port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let node = NodeServer::new(Service(state)).max_decoding_message_size(64 << 20);
        let join = JoinServer::new(fleet.clone());
        let acceptor = fleet.acceptor();
        let (bound, is_bound) = oneshot::channel();
        runtime.spawn(async move {
            let listener = loop {
                match TcpListener::bind(("127.0.0.1", port)).await {
                    Ok(listener) => break listener,
                    // The one before it is still going.
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            bound.send(listener.local_addr().unwrap()).unwrap();
            let (accepted, incoming) = mpsc::channel(8);
            tokio::spawn(async move {
                while let Ok((stream, from)) = listener.accept().await {
                    if let Ok((stream, peer)) = acceptor.accept(stream, from.ip()).await {
                        let caller = Caller { stream, peer };
                        let _ = accepted.send(Ok::<_, std::io::Error>(caller)).await;
                    }
                }
            });
            tonic::transport::Server::builder()
                .add_service(node)
                .add_service(join)
                .serve_with_incoming(ReceiverStream::new(incoming))
                .await
                .unwrap();
        });
        let address = is_bound.await.unwrap();
        Self { runtime: Some(runtime), address: Some(address) }
    }
}

struct Service(State);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Service {
    type SessionStream = Answers<wire::ServerMessage>;
    type GetBlobStream = Answers<wire::BlobChunk>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let state = self.0.clone();
        if let Some(refusal) = state.refusal.borrow().clone() {
            state.refused.send_modify(|refused| *refused += 1);
            return Err(refusal);
        }
        let mut inbound = request.into_inner();
        let (out, answers) = mpsc::channel(16);
        tokio::spawn(async move {
            let say = |message| {
                let message = wire::ServerMessage { message: Some(message) };
                let out = out.clone();
                async move { out.send(Ok(message)).await }
            };
            let mut targets = state.target.subscribe();
            targets.mark_changed();
            let mut requests = state.requests.subscribe();
            loop {
                let sent = tokio::select! {
                    message = inbound.next() => match message.and_then(Result::ok).and_then(|m| m.message) {
                        Some(Up::Hello(hello)) => {
                            state.hellos.send_modify(|all| all.push(hello));
                            say(Down::Welcome(wire::Welcome {
                                server_version: "test".into(),
                                heartbeat_ms: 200,
                                ack_every: 1,
                            })).await
                        }
                        Some(Up::Heartbeat(beat)) => {
                            if *state.mute.borrow() {
                                continue;
                            }
                            let clock_ms = SystemClock.now_ms() + *state.clock_ahead_ms.borrow();
                            let ack = wire::HeartbeatAck { sequence: beat.sequence, clock_ms };
                            say(Down::HeartbeatAck(ack)).await
                        }
                        Some(Up::Report(report)) => {
                            let report = serde_json::from_str(&report.document).unwrap();
                            state.report.send_replace(Some(report));
                            Ok(())
                        }
                        Some(Up::Log(chunk)) => {
                            let _ = state.logs.send(chunk);
                            Ok(())
                        }
                        Some(Up::Usage(usage)) => {
                            state.usage.send_replace(Some(usage));
                            Ok(())
                        }
                        None => return,
                    },
                    Ok(()) = targets.changed() => {
                        let target = targets.borrow_and_update().clone();
                        match target {
                            Some(target) => say(Down::Target(target)).await,
                            None => Ok(()),
                        }
                    }
                    Ok(request) = requests.recv() => say(request).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn get_blob(
        &self,
        request: Request<wire::BlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let request = request.into_inner();
        let digest = request.digest.parse().map_err(|_| Status::invalid_argument("digest"))?;
        let bytes = self.0.blob(&request.kind, digest).ok_or_else(|| Status::not_found("blob"))?;
        let chunks: Vec<_> = bytes
            .chunks(wire::BLOB_CHUNK_LEN)
            .map(|data| Ok(wire::BlobChunk { data: data.into(), ..Default::default() }))
            .collect();
        Ok(Response::new(Box::pin(futures_util::stream::iter(chunks))))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<wire::BlobChunk>>,
    ) -> Result<Response<wire::BlobReceipt>, Status> {
        let mut chunks = request.into_inner();
        let (mut kind, mut named, mut bytes) = (String::new(), String::new(), Vec::new());
        while let Some(chunk) = chunks.message().await? {
            if kind.is_empty() {
                (kind, named) = (chunk.kind, chunk.digest);
            }
            bytes.extend_from_slice(&chunk.data);
        }
        let size = bytes.len() as u64;
        let digest = self.0.put(&kind, bytes).to_string();
        if digest != named {
            return Err(Status::invalid_argument("not what was announced"));
        }
        Ok(Response::new(wire::BlobReceipt { digest, size }))
    }
}
