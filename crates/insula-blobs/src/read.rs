//! Reading: from a local file or from the network, always compared with the name at the end.

use std::fs::File;
use std::io::Read;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use insula_model::Digest;
use object_store::GetResultPayload;

use crate::error::BlobError;
use crate::staging::Hasher;

/// The bytes of a blob. The last item is an error if they were not those of its digest, so nothing
/// may be made of them before the end.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, BlobError>> + Send>>;

/// One call to a blocking thread each; larger ones gain nothing.
const READ_BYTES: usize = 256 * 1024;
/// A store that sends nothing for this long has forgotten us.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub(crate) fn verified(digest: Digest, bytes: BlobStream) -> BlobStream {
    let start = Some((bytes, Hasher::new()));
    Box::pin(stream::unfold(start, move |state| async move {
        let (mut bytes, mut hasher) = state?;
        match bytes.next().await {
            Some(Ok(piece)) => {
                hasher.update(&piece);
                Some((Ok(piece), Some((bytes, hasher))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => {
                let got = hasher.digest();
                (got != digest).then_some((Err(BlobError::Damaged { digest, got }), None))
            }
        }
    }))
}

pub(crate) fn payload(
    payload: GetResultPayload,
    failed: impl Fn(object_store::Error) -> BlobError + Send + Sync + 'static,
) -> BlobStream {
    match payload {
        GetResultPayload::File(file, path) => Box::pin(stream::unfold(Some(file), move |file| {
            let path = path.clone();
            async move {
                let file = file?;
                let read = tokio::task::spawn_blocking(move || read_piece(file)).await;
                match read {
                    Ok(Ok((piece, _))) if piece.is_empty() => None,
                    Ok(Ok((piece, file))) => Some((Ok(piece), Some(file))),
                    Ok(Err(error)) => Some((Err(BlobError::io("read", &path)(error)), None)),
                    Err(_) => Some((Err(BlobError::Thread), None)),
                }
            }
        })),
        GetResultPayload::Stream(pieces) => {
            Box::pin(stream::unfold(Some((pieces, failed)), |state| async move {
                let (mut pieces, failed) = state?;
                match tokio::time::timeout(SILENCE_MAX, pieces.next()).await {
                    Ok(Some(Ok(piece))) => Some((Ok(piece), Some((pieces, failed)))),
                    Ok(Some(Err(error))) => Some((Err(failed(error)), None)),
                    Ok(None) => None,
                    Err(_) => {
                        let waited_s = SILENCE_MAX.as_secs();
                        Some((Err(BlobError::Silent { doing: "read a blob", waited_s }), None))
                    }
                }
            }))
        }
    }
}

fn read_piece(mut file: File) -> std::io::Result<(Bytes, File)> {
    let mut piece = Vec::with_capacity(READ_BYTES);
    (&mut file).take(READ_BYTES as u64).read_to_end(&mut piece)?;
    Ok((piece.into(), file))
}
