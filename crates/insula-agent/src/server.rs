//! What an agent says to a server, whichever it is: its session and blobs, over one uplink.
//!
//! Contents are checked against their digest while they arrive, and written by the caller.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use insula_member::Uplink;
use insula_model::{Digest, OrgId};
use insula_wire::node::node_client::NodeClient;
use insula_wire::node::{self as wire, BLOB_CHUNK_LEN, MESSAGE_LEN_MAX};
use ring::digest::{Context, SHA256};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Between two pieces of a blob; a server that is silent for longer is gone.
const PIECE_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("the server does not have {kind} {digest}")]
    Missing { kind: &'static str, digest: Digest },
    /// It may come back.
    #[error("{doing} {kind} {digest}")]
    Away {
        doing: &'static str,
        kind: &'static str,
        digest: String,
        #[source]
        source: Box<Status>,
    },
    /// It will not take it another time either.
    #[error("{doing} {kind} {digest}")]
    Refused {
        doing: &'static str,
        kind: &'static str,
        digest: String,
        #[source]
        source: Box<Status>,
    },
    #[error("the server fell silent while it sent {kind} {digest}")]
    Silent { kind: &'static str, digest: Digest },
    #[error("{kind} {digest} is larger than the {max} bytes that it may have")]
    TooLarge { kind: &'static str, digest: Digest, max: u64 },
    #[error("what the server sent as {kind} {digest} is something else")]
    NotIt { kind: &'static str, digest: Digest },
    #[error("write {kind} {digest} to disk")]
    Disk {
        kind: &'static str,
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error("the server stored {got} instead of {sent}")]
    Receipt { sent: Digest, got: String },
}

impl BlobError {
    fn of(doing: &'static str, kind: &'static str, digest: Digest, status: Status) -> Self {
        let refused = match status.code() {
            Code::NotFound => return Self::Missing { kind, digest },
            Code::InvalidArgument
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => true,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => false,
        };
        let (digest, source) = (digest.to_string(), Box::new(status));
        if refused {
            Self::Refused { doing, kind, digest, source }
        } else {
            Self::Away { doing, kind, digest, source }
        }
    }

    /// The org has used up what it may store.
    pub fn is_quota(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.code() == Code::ResourceExhausted)
    }

    /// The server is away, and will be back.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Silent { .. } => true,
            Self::Missing { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::NotIt { .. }
            | Self::Disk { .. }
            | Self::Receipt { .. } => false,
        }
    }
}

/// Of what the protocol calls a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    Chunk,
    Manifest,
    Artifact,
}

impl BlobKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::Manifest => "manifest",
            Self::Artifact => "artifact",
        }
    }
}

/// Clones share the uplink.
#[derive(Debug, Clone)]
pub struct Server {
    pub uplink: Uplink,
}

impl Server {
    pub fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.uplink.channel())
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(MESSAGE_LEN_MAX)
    }

    /// Hands each piece to `write`; says how many bytes there were. What was handed out before an
    /// error is not to be used.
    pub async fn fetch(
        &self,
        org: OrgId,
        kind: BlobKind,
        digest: Digest,
        max: u64,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<u64, BlobError> {
        let kind_text = kind.as_str();
        let request = wire::BlobRequest {
            org: org.to_string(),
            kind: kind_text.into(),
            digest: digest.to_string(),
        };
        let answer = self.client().get_blob(request).await;
        let failed = |doing| move |status| BlobError::of(doing, kind_text, digest, status);
        let mut pieces = answer.map_err(failed("ask for"))?.into_inner();
        let (mut hash, mut size) = (Context::new(&SHA256), 0u64);
        loop {
            let piece = tokio::time::timeout(PIECE_TIME_MAX, pieces.message())
                .await
                .map_err(|_| BlobError::Silent { kind: kind_text, digest })?;
            let Some(piece) = piece.map_err(failed("fetch"))? else { break };
            let data = piece.data;
            size += data.len() as u64;
            if size > max {
                return Err(BlobError::TooLarge { kind: kind_text, digest, max });
            }
            hash.update(&data);
            write(&data).map_err(|source| BlobError::Disk { kind: kind_text, digest, source })?;
        }
        if hash.finish().as_ref() != digest.as_bytes() {
            return Err(BlobError::NotIt { kind: kind_text, digest });
        }
        Ok(size)
    }

    pub async fn fetch_small(
        &self,
        org: OrgId,
        kind: BlobKind,
        digest: Digest,
        max: u64,
    ) -> Result<Vec<u8>, BlobError> {
        let mut bytes = Vec::new();
        self.fetch(org, kind, digest, max, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        Ok(bytes)
    }

    /// Stores what `pieces` gives; durable when it returns.
    pub async fn store(
        &self,
        org: OrgId,
        kind: BlobKind,
        digest: Digest,
        pieces: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<(), BlobError> {
        use futures_util::StreamExt;
        let head = wire::BlobChunk {
            org: org.to_string(),
            kind: kind.as_str().into(),
            digest: digest.to_string(),
            data: Vec::new(),
        };
        let rest = pieces.map(|data| wire::BlobChunk { data: data.into(), ..Default::default() });
        let chunks = futures_util::stream::once(async { head }).chain(rest);
        let receipt = self
            .client()
            .put_blob(chunks)
            .await
            .map_err(|status| BlobError::of("store", kind.as_str(), digest, status))?
            .into_inner();
        if receipt.digest != digest.to_string() {
            return Err(BlobError::Receipt { sent: digest, got: receipt.digest });
        }
        Ok(())
    }
}

/// The bytes of a file in pieces of the protocol's size, read on a thread that may block.
pub fn pieces_of(mut file: std::fs::File) -> impl Stream<Item = Bytes> + Send + 'static {
    use std::io::Read;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; BLOB_CHUNK_LEN];
            let read = match file.read(&mut piece) {
                // A read that fails ends the stream early: the digest does not fit, and the server
                // refuses it.
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            piece.truncate(read);
            if sender.blocking_send(Bytes::from(piece)).is_err() {
                return;
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}
