//! The `Node` service: one session per agent, and blobs both ways.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use insula_model::fleet::Member;
use insula_model::{Digest, NodeId, OrgId};
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as FromAgent;
use tonic::{Request, Response, Status, Streaming};

use crate::blobs::{BlobError, BlobKind, BlobStore};
use crate::caller::{Caller, Certified, Door};
use crate::forward;
use crate::hub::Hub;
use crate::session::{self, Greeting};
use crate::version;

/// Who connects and does not greet is somebody's mistake, or worse.
pub(crate) const HELLO_TIME_MAX: Duration = Duration::from_secs(10);

/// Who brings a blob and falls silent for so long has a broken connection, and brings it again.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);

pub(crate) struct NodeService {
    pub(crate) hub: Hub,
    pub(crate) door: Door,
    pub(crate) blobs: Arc<dyn BlobStore>,
}

/// Which way a blob goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Fetch,
    Bring,
}

#[tonic::async_trait]
impl wire::node_server::Node for NodeService {
    type SessionStream = BoxStream<'static, Result<wire::ServerMessage, Status>>;
    type GetBlobStream = BoxStream<'static, Result<wire::BlobChunk, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = self.door.caller(&self.hub, &request).await?.expect("node")?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIME_MAX, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let Some(FromAgent::Hello(hello)) = first.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("the first message of a session is Hello"));
        };
        version::check("agent", &hello.version, hello.protocol)?;
        let node: NodeId = caller.node(parse(&hello.node)?)?;
        if let Some(leader) = forward::whom(&self.hub, &caller).await? {
            let hello = wire::AgentMessage { message: Some(FromAgent::Hello(hello)) };
            let back = forward::node(&self.hub, &leader, &caller, node, hello, incoming).await?;
            return Ok(Response::new(back));
        }
        let greeting = Greeting::read(node, hello, &caller)?;
        let back = session::begin(&self.hub, &caller, greeting, incoming)?;
        Ok(Response::new(back.boxed()))
    }

    async fn get_blob(
        &self,
        request: Request<wire::BlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let caller = self.door.caller(&self.hub, &request).await?.expect("node")?;
        let wanted = request.into_inner();
        let (org, kind) = place(&wanted.org, &wanted.kind)?;
        self.may(&caller, Way::Fetch, org, kind)?;
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
        let caller = self.door.caller(&self.hub, &request).await?.expect("node")?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(STALL_TIME_MAX, incoming.message()).await;
        let Some(first) = first.map_err(|_| Status::deadline_exceeded("no blob came"))?? else {
            return Err(Status::invalid_argument("a blob begins with its org and kind"));
        };
        let (org, kind) = place(&first.org, &first.kind)?;
        self.may(&caller, Way::Bring, org, kind)?;
        let digest = match first.digest.as_str() {
            "" => None,
            text => Some(parse(text)?),
        };
        let head = futures_util::stream::iter([Ok(Bytes::from(first.data))]);
        let rest = flowing(incoming)
            .map_ok(|chunk| Bytes::from(chunk.data))
            .map_err(|status| BlobError::Failed(Box::new(status)));
        let put = self.blobs.put(org, kind, digest, head.chain(rest).boxed());
        let (digest, size) = put.await.map_err(status)?;
        Ok(Response::new(wire::BlobReceipt { digest: digest.to_string(), size }))
    }
}

impl NodeService {
    /// A node from elsewhere fetches what it runs or builds, and brings what it was told to build.
    fn may(&self, caller: &Caller, way: Way, org: OrgId, kind: BlobKind) -> Result<(), Status> {
        let node = match caller {
            Caller::Local => return Ok(()),
            Caller::Certified(Certified {
                member: Member::Node(node), passed_on: false, ..
            }) => *node,
            Caller::LocalElsewhere { .. } | Caller::Certified(_) => {
                return Err(Status::permission_denied("only nodes fetch and bring blobs"));
            }
        };
        // Its session has just begun, or is another server's.
        let reach = self.hub.reach(node).ok_or_else(|| {
            Status::unavailable("this server does not know yet what the node has to do")
        })?;
        let may = match way {
            Way::Fetch => reach.orgs.contains(&org),
            Way::Bring => reach.builds_for.contains(&org) && kind == BlobKind::Artifact,
        };
        if may {
            return Ok(());
        }
        Err(Status::permission_denied(format!("{node} has nothing to do with that of {org}")))
    }
}

/// The pieces as they come, as long as they come.
fn flowing<T: Send + 'static>(
    incoming: impl Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send {
    futures_util::stream::unfold(Some(incoming), async |incoming| {
        let mut incoming = incoming?;
        match tokio::time::timeout(STALL_TIME_MAX, incoming.next()).await {
            Ok(piece) => Some((piece?, Some(incoming))),
            Err(_) => Some((Err(Status::deadline_exceeded("the blob stalled")), None)),
        }
    })
}

fn split(piece: Bytes) -> Vec<Result<wire::BlobChunk, Status>> {
    let parts = piece.chunks(wire::BLOB_CHUNK_LEN);
    parts.map(|data| Ok(wire::BlobChunk { data: data.to_vec(), ..Default::default() })).collect()
}

pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Status> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_blob_that_stalls_is_given_up_and_one_that_is_slow_is_not() {
        let slow = futures_util::stream::iter(0..5).then(async |piece| {
            tokio::time::sleep(STALL_TIME_MAX - Duration::from_secs(1)).await;
            Ok(piece)
        });
        let stalling = Box::pin(slow.chain(futures_util::stream::pending()));
        let pieces: Vec<Result<i32, Status>> = flowing(stalling).collect().await;
        let (last, whole) = pieces.split_last().unwrap();
        assert_eq!(whole.len(), 5);
        assert_eq!(last.as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
}
