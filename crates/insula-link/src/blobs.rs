//! What nodes fetch and bring. The hub does not know where blobs are kept; who starts it does.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use insula_model::{Digest, OrgId};

/// What a blob is part of: its place under the org's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    Chunk,
    Manifest,
    Artifact,
}

impl BlobKind {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "chunk" => Some(Self::Chunk),
            "manifest" => Some(Self::Manifest),
            "artifact" => Some(Self::Artifact),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::Manifest => "manifest",
            Self::Artifact => "artifact",
        }
    }
}

#[derive(Debug)]
pub enum BlobError {
    NotFound,
    TooLarge { most: u64 },
    Mismatch { want: Digest, got: Digest },
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("the blob is not here"),
            Self::TooLarge { most } => write!(f, "the blob is larger than {most} bytes"),
            Self::Mismatch { want, got } => write!(f, "the blob is {got}, not {want}"),
            Self::Failed(_) => f.write_str("the blob store failed"),
        }
    }
}

impl std::error::Error for BlobError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(source) => Some(source.as_ref()),
            Self::NotFound | Self::TooLarge { .. } | Self::Mismatch { .. } => None,
        }
    }
}

pub type BlobStream = BoxStream<'static, Result<Bytes, BlobError>>;
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BlobError>> + Send + 'a>>;

/// A store of blobs, seen from the protocol. A trait, because this crate must not know
/// `insula-blobs`: the arrow would let a session reach more than it needs.
pub trait BlobStore: Send + Sync + 'static {
    fn get(&self, org: OrgId, kind: BlobKind, digest: Digest) -> Answer<'_, BlobStream>;
    /// Durable once it answers. Refuses content that is not what `digest` says.
    fn put(
        &self,
        org: OrgId,
        kind: BlobKind,
        digest: Option<Digest>,
        content: BlobStream,
    ) -> Answer<'_, (Digest, u64)>;
}
