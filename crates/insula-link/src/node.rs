//! The `Node` service: one session per agent, and blobs both ways.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use insula_model::limits::REPORT_INSTANCES_MAX;
use insula_model::observed::NodeReport;
use insula_model::{Digest, NodeId, OrgId};
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as FromAgent;
use insula_wire::node::server_message::Message as ToAgent;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::blobs::{BlobError, BlobKind, BlobStore};
use crate::hub::{Hub, Inbound};

/// Messages to one agent that wait: log requests mostly. A session that is this far behind ends.
const MESSAGES_WAITING_MAX: usize = 256;

pub(crate) struct NodeService {
    pub(crate) hub: Hub,
    pub(crate) blobs: Arc<dyn BlobStore>,
}

#[tonic::async_trait]
impl wire::node_server::Node for NodeService {
    type SessionStream = ReceiverStream<Result<wire::ServerMessage, Status>>;
    type GetBlobStream = BoxStream<'static, Result<wire::BlobChunk, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|m| m.message);
        let Some(FromAgent::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first message of a session is Hello"));
        };
        let greeting = Greeting::read(hello)?;
        let (outgoing, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        tokio::spawn(session(self.hub.clone(), greeting, incoming, outgoing));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_blob(
        &self,
        request: Request<wire::BlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let wanted = request.into_inner();
        let (org, kind) = place(&wanted.org, &wanted.kind)?;
        let digest: Digest = parse(&wanted.digest)?;
        let content = self.blobs.get(org, kind, digest).await.map_err(status)?;
        let chunks = content.map_err(status).flat_map(|piece| match piece {
            Ok(piece) => futures_util::stream::iter(split(piece)).boxed(),
            Err(error) => futures_util::stream::iter([Err(error)]).boxed(),
        });
        Ok(Response::new(chunks.boxed()))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<wire::BlobChunk>>,
    ) -> Result<Response<wire::BlobReceipt>, Status> {
        let mut incoming = request.into_inner();
        let Some(first) = incoming.message().await? else {
            return Err(Status::invalid_argument("a blob begins with its org and kind"));
        };
        let (org, kind) = place(&first.org, &first.kind)?;
        let digest = match first.digest.as_str() {
            "" => None,
            text => Some(parse(text)?),
        };
        let head = futures_util::stream::iter([Ok(Bytes::from(first.data))]);
        let rest = incoming
            .map_ok(|chunk| Bytes::from(chunk.data))
            .map_err(|status| BlobError::Failed(Box::new(status)));
        let put = self.blobs.put(org, kind, digest, head.chain(rest).boxed());
        let (digest, size) = put.await.map_err(status)?;
        Ok(Response::new(wire::BlobReceipt { digest: digest.to_string(), size }))
    }
}

fn split(piece: Bytes) -> Vec<Result<wire::BlobChunk, Status>> {
    let parts = piece.chunks(wire::BLOB_CHUNK_LEN);
    parts.map(|data| Ok(wire::BlobChunk { data: data.to_vec(), ..Default::default() })).collect()
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Status> {
    text.parse().map_err(|error: T::Err| Status::invalid_argument(error.to_string()))
}

fn place(org: &str, kind: &str) -> Result<(OrgId, BlobKind), Status> {
    let kind = BlobKind::parse(kind)
        .ok_or_else(|| Status::invalid_argument("a blob is a chunk, a manifest or an artifact"))?;
    Ok((parse(org)?, kind))
}

fn status(error: BlobError) -> Status {
    match &error {
        BlobError::NotFound => Status::not_found(error.to_string()),
        BlobError::TooLarge { .. } => Status::resource_exhausted(error.to_string()),
        BlobError::Mismatch { .. } => Status::data_loss(error.to_string()),
        BlobError::Failed(source) => Status::unavailable(format!("{error}: {source}")),
    }
}

struct Greeting {
    node: NodeId,
    hello: Inbound,
    facts: insula_wire::facts::NodeFacts,
}

impl Greeting {
    fn read(hello: wire::Hello) -> Result<Self, Status> {
        if hello.protocol == 0 || hello.protocol > wire::PROTOCOL {
            let words = format!(
                "this server speaks protocol 1 to {}, the agent {} speaks {}: upgrade the server first",
                wire::PROTOCOL,
                hello.version,
                hello.protocol
            );
            return Err(Status::failed_precondition(words));
        }
        let node = parse(&hello.node)?;
        let facts: insula_wire::facts::NodeFacts = serde_json::from_str(&hello.facts)
            .map_err(|error| Status::invalid_argument(format!("facts: {error}")))?;
        let name = parse(&hello.name)?;
        let told = facts.clone();
        let hello = Inbound::NodeHello { node, name, version: hello.version, facts: told };
        Ok(Self { node, hello, facts })
    }
}

type Outgoing = mpsc::Sender<Result<wire::ServerMessage, Status>>;

/// Carries messages until either side ends.
async fn session(
    hub: Hub,
    greeting: Greeting,
    incoming: impl Stream<Item = Result<wire::AgentMessage, Status>> + Send + Unpin,
    outgoing: Outgoing,
) {
    let node = greeting.node;
    let (messages, queue) = mpsc::channel(MESSAGES_WAITING_MAX);
    let welcome = ToAgent::Welcome(wire::Welcome {
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        heartbeat_ms: wire::HEARTBEAT_MS,
        ack_every: 1,
    });
    if outgoing.send(Ok(message(welcome))).await.is_err() {
        return;
    }
    let (number, target) = hub.node_joined(node, greeting.facts, messages);
    info!(%node, "a node is connected");
    hub.tell(greeting.hello).await;
    tokio::select! {
        () = read(&hub, node, incoming, &outgoing) => {}
        () = write(queue, target, &outgoing) => {}
    }
    hub.logs_streams().node_left(node);
    if hub.node_left(node, number) {
        info!(%node, "a node is gone");
        hub.tell(Inbound::NodeGone { node }).await;
    }
}

async fn write(
    mut queue: mpsc::Receiver<wire::ServerMessage>,
    mut target: tokio::sync::watch::Receiver<Option<Arc<wire::Target>>>,
    outgoing: &Outgoing,
) {
    loop {
        let next = tokio::select! {
            changed = target.changed() => match changed {
                Ok(()) => match target.borrow_and_update().clone() {
                    Some(newest) => message(ToAgent::Target((*newest).clone())),
                    None => continue,
                },
                // A newer session of the same node has taken over.
                Err(_) => return,
            },
            queued = queue.recv() => match queued {
                Some(queued) => queued,
                None => return,
            },
        };
        if outgoing.send(Ok(next)).await.is_err() {
            return;
        }
    }
}

async fn read(
    hub: &Hub,
    node: NodeId,
    mut incoming: impl Stream<Item = Result<wire::AgentMessage, Status>> + Unpin,
    outgoing: &Outgoing,
) {
    while let Some(Ok(received)) = incoming.next().await {
        match received.message {
            Some(FromAgent::Report(report)) => match read_report(&report.document) {
                Ok(report) => hub.tell(Inbound::NodeReport { node, report }).await,
                Err(error) => {
                    warn!(%node, error, "a report was refused");
                    return;
                }
            },
            Some(FromAgent::Heartbeat(beat)) => {
                let ack = ToAgent::HeartbeatAck(wire::HeartbeatAck {
                    sequence: beat.sequence,
                    clock_ms: 0,
                });
                if outgoing.send(Ok(message(ack))).await.is_err() {
                    return;
                }
            }
            Some(FromAgent::Log(chunk)) => {
                let stream = chunk.stream;
                if !hub.logs_streams().take(node, chunk) {
                    let cancel = ToAgent::LogCancel(wire::LogCancel { stream });
                    if outgoing.send(Ok(message(cancel))).await.is_err() {
                        return;
                    }
                }
            }
            Some(FromAgent::Usage(usage)) => hub.note_usage(&usage),
            // A message of a later version, or a greeting twice: nothing to do with it.
            Some(FromAgent::Hello(_)) | None => {}
        }
    }
}

fn read_report(document: &str) -> Result<NodeReport, String> {
    let report: NodeReport = serde_json::from_str(document).map_err(|e| e.to_string())?;
    if report.instances.len() > REPORT_INSTANCES_MAX {
        let count = report.instances.len();
        return Err(format!("{count} instances are more than {REPORT_INSTANCES_MAX}"));
    }
    Ok(report)
}

fn message(message: ToAgent) -> wire::ServerMessage {
    wire::ServerMessage { message: Some(message) }
}
