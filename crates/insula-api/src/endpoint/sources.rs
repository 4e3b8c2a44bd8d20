//! Sources on their way: what the server lacks, and the chunks themselves.

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use insula_blobs::{Blobs, Kind, Shelf};
use insula_kit::digest::sha256;
use insula_model::limits::SOURCE_FILE_MAX;
use insula_model::{Bytes as Size, Digest, OrgId};
use insula_store::quotas;
use insula_wire::problem::Code;
use insula_wire::rest::source::{
    CHUNKS_MEDIA_TYPE, ChunksStored, FRAME_HEADER_LEN, FindMissing, Missing, read_frame_header,
};

use crate::context::{Cx, shown};
use crate::dispatch::next_piece;
use crate::endpoint::quota;
use crate::error::ApiError;
use crate::limits;
use crate::reply::Reply;
use crate::route::{DEVELOPER, Route, post, put};
use crate::state::Api;

pub fn routes() -> Vec<Route> {
    vec![
        post("/v1/orgs/{org}/sources/missing", "find_missing_chunks", DEVELOPER, missing)
            .about("Which of these chunks the server lacks")
            .harmless()
            .takes_up_to::<FindMissing>(limits::MISSING_BODY_BYTES_MAX)
            .answers::<Missing>(200),
        put("/v1/orgs/{org}/sources/chunks", "upload_chunks", DEVELOPER, upload)
            .about(
                "Stores chunks: a row of frames, each 32 bytes of SHA-256, eight bytes of length \
                 (the highest first), and the bytes",
            )
            .harmless()
            .takes_stream(&[CHUNKS_MEDIA_TYPE])
            .answers::<ChunksStored>(200),
    ]
}

async fn missing(cx: Cx) -> Result<Reply, ApiError> {
    let asked: FindMissing = cx.json()?;
    if asked.chunks.len() > limits::MISSING_CHUNKS_MAX {
        let max = limits::MISSING_CHUNKS_MAX;
        return Err(ApiError::new(
            Code::SourceTooLarge,
            format!("a source has {max} chunks at most"),
        ));
    }
    let shelf = Shelf::new(cx.org_id()?, Kind::Chunk);
    let there = cx.api.state.blobs.has_many(shelf, &asked.chunks).await?;
    let lacking = asked.chunks.iter().zip(there).filter(|(_, there)| !there);
    shown(&Missing { missing: lacking.map(|(digest, _)| *digest).collect() })
}

async fn upload(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org()?.clone();
    let used = cx.read(move |tx| Ok(quotas::usage(tx, org.id)?.disk)).await?;
    quota::disk_fits(cx.org()?, used, Size(1))?;
    let body = cx.body.take_stream()?;
    let shelf = Shelf::new(cx.org_id()?, Kind::Chunk);
    let mut frames = Frames { body, held: BytesMut::new() };
    let mut batch =
        Batch { blobs: cx.api.state.blobs.clone(), shelf, waiting: Vec::new(), bytes: 0 };
    let mut stored = ChunksStored { chunks: 0, bytes: 0 };
    while let Some((digest, len)) = frames.header().await? {
        if len > SOURCE_FILE_MAX.0 {
            let max = SOURCE_FILE_MAX;
            return Err(ApiError::new(Code::SourceTooLarge, format!("a chunk may have {max}")));
        }
        within_uploads(&cx.api, shelf.org, len)?;
        if len as usize > limits::CHUNK_BATCH_BYTES {
            batch.flush().await?;
            frames.large(&cx.api.state.blobs, shelf, digest, len).await?;
        } else {
            let bytes = frames.take(len as usize).await?;
            // Compared here as well, so that the refusal names the chunk that was announced.
            let got = Digest::from_sha256(sha256(&bytes));
            if got != digest {
                batch.flush().await?;
                return Err(corrupt(digest, got));
            }
            batch.add(bytes).await?;
        }
        stored.chunks += 1;
        stored.bytes += len;
    }
    batch.flush().await?;
    shown(&stored)
}

/// Refuses an org that sends more than it could deploy in a day.
pub fn within_uploads(api: &Api, org: OrgId, bytes: u64) -> Result<(), ApiError> {
    let now = api.state.clock.now_ms();
    api.uploads.take_some(org, bytes as f64, now).map_err(|seconds| {
        ApiError::new(Code::RateLimited, "the org has sent more of sources than it may in a day")
            .hint("send only what sources/missing names")
            .retry_after_s(seconds)
    })
}

fn corrupt(want: Digest, got: Digest) -> ApiError {
    ApiError::new(Code::ChunkCorrupt, format!("announced as {want}, but what came is {got}"))
        .hint("the file may have changed meanwhile: read it again")
}

fn cut_off() -> ApiError {
    ApiError::new(Code::ChunkCorrupt, "the body ends in the middle of a chunk")
}

/// Small chunks that are written together.
struct Batch {
    blobs: Blobs,
    shelf: Shelf,
    waiting: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    async fn add(&mut self, chunk: Bytes) -> Result<(), ApiError> {
        self.bytes += chunk.len();
        self.waiting.push(chunk);
        let full = self.bytes >= limits::CHUNK_BATCH_BYTES;
        if full || self.waiting.len() >= limits::CHUNK_BATCH_COUNT {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ApiError> {
        if !self.waiting.is_empty() {
            self.blobs.put_many(self.shelf, std::mem::take(&mut self.waiting)).await?;
        }
        self.bytes = 0;
        Ok(())
    }
}

/// The body, cut into frames.
struct Frames {
    body: Body,
    held: BytesMut,
}

impl Frames {
    async fn header(&mut self) -> Result<Option<(Digest, u64)>, ApiError> {
        while self.held.len() < FRAME_HEADER_LEN {
            match next_piece(&mut self.body).await? {
                Some(piece) => self.held.extend_from_slice(&piece),
                None if self.held.is_empty() => return Ok(None),
                None => return Err(cut_off()),
            }
        }
        let mut header = [0; FRAME_HEADER_LEN];
        self.held.copy_to_slice(&mut header);
        Ok(Some(read_frame_header(&header)))
    }

    async fn take(&mut self, len: usize) -> Result<Bytes, ApiError> {
        while self.held.len() < len {
            let piece = next_piece(&mut self.body).await?.ok_or_else(cut_off)?;
            self.held.extend_from_slice(&piece);
        }
        Ok(self.held.split_to(len).freeze())
    }

    /// A chunk too large to be held in memory.
    async fn large(
        &mut self,
        blobs: &Blobs,
        shelf: Shelf,
        digest: Digest,
        len: u64,
    ) -> Result<(), ApiError> {
        let pieces = stream::try_unfold((self, len), |(frames, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            if frames.held.is_empty() {
                let piece = next_piece(&mut frames.body).await.map_err(Lost::from)?;
                frames.held.extend_from_slice(&piece.ok_or_else(|| Lost::from(cut_off()))?);
            }
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(frames.held.len());
            let piece = frames.held.split_to(now).freeze();
            Ok::<_, Lost>(Some((piece, (frames, left - now as u64))))
        });
        blobs.put_stream(shelf, pieces, Some(digest), SOURCE_FILE_MAX).await?;
        Ok(())
    }
}

/// A body that broke off, as an error of a stream.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Lost(String);

impl From<ApiError> for Lost {
    fn from(error: ApiError) -> Self {
        Self(error.problem().detail.clone())
    }
}
