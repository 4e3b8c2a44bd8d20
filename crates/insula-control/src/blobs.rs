//! Lends the blob store to the node protocol.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use insula_blobs::{BlobError as Failure, Blobs, Kind, Shelf};
use insula_link::blobs::{Answer, BlobError, BlobKind, BlobStore, BlobStream};
use insula_model::{Digest, OrgId, limits};

/// The server's blobs, as nodes may fetch and bring them.
#[derive(Debug, Clone)]
pub struct NodeBlobs(pub Blobs);

fn shelf(org: OrgId, kind: BlobKind) -> Shelf {
    let kind = match kind {
        BlobKind::Chunk => Kind::Chunk,
        BlobKind::Manifest => Kind::Manifest,
        BlobKind::Artifact => Kind::Artifact,
    };
    Shelf::new(org, kind)
}

fn failure(error: Failure) -> BlobError {
    match error {
        Failure::Missing { .. } => BlobError::NotFound,
        Failure::TooLarge { max } => BlobError::TooLarge { most: max.0 },
        Failure::Mismatch { want, got } => BlobError::Mismatch { want, got },
        other => BlobError::Failed(Box::new(other)),
    }
}

impl BlobStore for NodeBlobs {
    fn get(&self, org: OrgId, kind: BlobKind, digest: Digest) -> Answer<'_, BlobStream> {
        Box::pin(async move {
            let stream = self.0.get_stream(shelf(org, kind), digest).await.map_err(failure)?;
            Ok(stream.map_err(failure).boxed())
        })
    }

    fn put(
        &self,
        org: OrgId,
        kind: BlobKind,
        digest: Option<Digest>,
        content: BlobStream,
    ) -> Answer<'_, (Digest, u64)> {
        Box::pin(async move {
            let content = content.map_ok(|piece: Bytes| piece);
            let max = limits::BUILD_OUTPUT_MAX;
            let put = self.0.put_stream(shelf(org, kind), content, digest, max);
            let stored = put.await.map_err(failure)?;
            Ok((stored.digest, stored.size.0))
        })
    }
}
