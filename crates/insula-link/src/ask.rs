//! What one server asks another on behalf of its own caller: a request of the API that only the
//! leader can answer, and the answer, piece by piece.
//!
//! Who the caller is was decided by the server that asks; only a server's certificate opens this.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use insula_model::ServerId;
use insula_model::fleet::Member;
use insula_wire::node as wire;
use insula_wire::node::ask_part::Part;
use insula_wire::node::{ASK_LEN_MAX, BLOB_CHUNK_LEN};
use tonic::{Request, Response, Status};

use crate::caller::{Caller, Certified, Door};
use crate::forward::Leader;
use crate::hub::Hub;

/// Names and values, as they were.
pub type Headers = Vec<(String, Vec<u8>)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: Headers,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("ask the leader")]
    Failed(#[source] Box<Status>),
    #[error("the leader's answer has no head")]
    NoHead,
}

impl From<Status> for AskError {
    fn from(status: Status) -> Self {
        Self::Failed(Box::new(status))
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: BoxStream<'static, Result<Bytes, AskError>>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({}, {} headers)", self.status, self.headers.len())
    }
}

pub type Answering<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Answers other servers. It must not pass a question on again: two servers that both believe that
/// the other leads would do so for ever.
pub trait Answers: Send + Sync + 'static {
    fn answer(&self, from: ServerId, question: Question) -> Answering<'_>;
}

impl Leader {
    /// Ends early if the leader goes away; whoever asked decides what that means.
    pub async fn ask(&self, question: Question) -> Result<Answer, AskError> {
        let mut client = wire::peer_client::PeerClient::new(self.channel.clone())
            .max_encoding_message_size(ASK_LEN_MAX);
        let header = |(name, value)| wire::Header { name, value };
        let request = wire::AskRequest {
            method: question.method,
            path: question.path,
            headers: question.headers.into_iter().map(header).collect(),
            body: question.body.to_vec(),
        };
        let mut parts = client.ask(request).await?.into_inner();
        let Some(wire::AskPart { part: Some(Part::Head(head)) }) = parts.message().await? else {
            return Err(AskError::NoHead);
        };
        let body = parts.filter_map(|part| {
            std::future::ready(match part {
                Ok(wire::AskPart { part: Some(Part::Body(bytes)) }) => Some(Ok(Bytes::from(bytes))),
                Ok(wire::AskPart { part: Some(Part::Head(_)) | None }) => None,
                Err(status) => Some(Err(AskError::from(status))),
            })
        });
        Ok(Answer {
            status: u16::try_from(head.status).map_err(|_| AskError::NoHead)?,
            headers: head.headers.into_iter().map(|h| (h.name, h.value)).collect(),
            body: body.boxed(),
        })
    }
}

pub(crate) struct PeerService {
    pub(crate) hub: Hub,
    pub(crate) door: Door,
    pub(crate) answers: Arc<dyn Answers>,
}

#[tonic::async_trait]
impl wire::peer_server::Peer for PeerService {
    type AskStream = BoxStream<'static, Result<wire::AskPart, Status>>;

    async fn ask(
        &self,
        request: Request<wire::AskRequest>,
    ) -> Result<Response<Self::AskStream>, Status> {
        let caller = self.door.caller(&self.hub, &request).await?.expect("server")?;
        let Caller::Certified(Certified { member: Member::Server(from), .. }) = caller else {
            return Err(Status::permission_denied("only servers ask here"));
        };
        let asked = request.into_inner();
        let question = Question {
            method: asked.method,
            path: asked.path,
            headers: asked.headers.into_iter().map(|h| (h.name, h.value)).collect(),
            body: asked.body.into(),
        };
        let answer = self.answers.answer(from, question).await;
        let header = |(name, value)| wire::Header { name, value };
        let head = wire::AskHead {
            status: answer.status.into(),
            headers: answer.headers.into_iter().map(header).collect(),
        };
        let part = |part| wire::AskPart { part: Some(part) };
        let first = futures_util::stream::iter([Ok(part(Part::Head(head)))]);
        let body = answer.body.flat_map(move |piece| {
            let parts: Vec<Result<wire::AskPart, Status>> = match piece {
                Ok(bytes) => {
                    let pieces = bytes.chunks(BLOB_CHUNK_LEN);
                    pieces.map(|piece| Ok(part(Part::Body(piece.to_vec())))).collect()
                }
                Err(AskError::Failed(status)) => vec![Err(*status)],
                Err(AskError::NoHead) => vec![Err(Status::internal("an answer without a head"))],
            };
            futures_util::stream::iter(parts)
        });
        Ok(Response::new(first.chain(body).boxed()))
    }
}
