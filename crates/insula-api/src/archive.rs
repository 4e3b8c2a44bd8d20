//! A source that comes as one archive: spooled, unpacked into chunks, described by a manifest.
//!
//! What may be in an archive is decided by `insula_build::archive`; nothing of a refused one is
//! deployed, and the chunks that it left are cleared away with all that no deployment names.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use axum::body::Body;
use bytes::Bytes;
use insula_blobs::{BlobError, Blobs, Kind as Blob, Manifest, Shelf, Stored};
use insula_build::archive::{self, ArchiveError, FileHead, KIND_LEN, Kind, Limits, Refusal};
use insula_build::entry::{Entry, Node};
use insula_model::limits::SOURCE_FILE_MAX;
use insula_model::{Digest, OrgId};
use insula_wire::problem::{Code, Mistake};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::dispatch::next_piece;
use crate::endpoint::sources::within_uploads;
use crate::error::ApiError;
use crate::limits::{ARCHIVE_BODY_BYTES_MAX, CHUNK_BATCH_BYTES, CHUNK_BATCH_COUNT};
use crate::source::{Checked, check, refuse_manifest};
use crate::state::Api;

/// What an archive may be sent as.
pub const MEDIA_TYPES: &[&str] =
    &["application/gzip", "application/x-gzip", "application/x-tar", "application/zip"];
/// Of a large file, read and handed on at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Such pieces that wait for the disk.
const PIECES_WAITING: usize = 4;

/// Checks a source that is sent as an archive, and keeps it.
pub async fn check_archive(api: &Api, org: OrgId, body: Body) -> Result<Checked, ApiError> {
    let spooled = spool(api, org, body).await?;
    let (blobs, shelf) = (api.state.blobs.clone(), Shelf::new(org, Blob::Chunk));
    let runtime = Handle::current();
    let unpack = move || unpack(spooled, &Keeper { blobs, shelf, runtime });
    let entries = tokio::task::spawn_blocking(unpack).await.map_err(ApiError::internal)??;
    let manifest = Manifest::new(entries).map_err(refuse_manifest)?;
    check(api, org, &manifest).await
}

/// The body in a file without a name, which is gone when it is closed. A `.zip` is read from its
/// end, and what a slow sender sends should not hold a thread meanwhile.
async fn spool(api: &Api, org: OrgId, mut body: Body) -> Result<File, ApiError> {
    let folder = api.config.spool.clone();
    let open = move || tempfile::tempfile_in(folder);
    let mut file = on_disk(open).await?;
    let mut size = 0;
    while let Some(piece) = next_piece(&mut body).await? {
        within_uploads(api, org, piece.len() as u64)?;
        size += piece.len() as u64;
        if size > ARCHIVE_BODY_BYTES_MAX {
            let max = insula_model::Bytes(ARCHIVE_BODY_BYTES_MAX);
            return Err(ApiError::new(Code::BodyTooLarge, format!("an archive may have {max}"))
                .hint("use `insula deploy`, which sends only what is lacking"));
        }
        file = on_disk(move || file.write_all(&piece).map(|()| file)).await?;
    }
    on_disk(move || file.seek(SeekFrom::Start(0)).map(|_| file)).await
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?;
    done.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ApiError::new(Code::DiskFull, "the server's disk is full").log_only(error)
        }
        _ => ApiError::internal(error),
    })
}

fn unpack(mut file: File, keeper: &Keeper) -> Result<Vec<insula_blobs::Entry>, ApiError> {
    let mut start = Vec::with_capacity(KIND_LEN);
    let mut looked = || {
        Read::by_ref(&mut file).take(KIND_LEN as u64).read_to_end(&mut start)?;
        file.seek(SeekFrom::Start(0))
    };
    looked().map_err(ApiError::internal)?;
    let kind = Kind::of(&start).ok_or_else(|| {
        ApiError::new(Code::ArchiveInvalid, "this is neither a .tar.gz nor a .zip")
            .hint("pack with `tar czf` or `zip -r`")
    })?;
    let mut batch = Batch { keeper, waiting: Vec::new(), bytes: 0 };
    let mut sink = |head: FileHead<'_>, contents: &mut dyn Read| batch.take(head, contents);
    let entries = archive::read(kind, file, &Limits::default(), &mut sink).map_err(refuse)?;
    batch.flush().map_err(|source| refuse(ArchiveError::Keep { path: String::new(), source }))?;
    Ok(entries.into_iter().map(as_manifest_entry).collect())
}

fn as_manifest_entry(entry: Entry<Digest>) -> insula_blobs::Entry {
    match entry.node {
        Node::File { size, executable, contents } => {
            insula_blobs::Entry::file(entry.path, contents, size, executable)
        }
        Node::Symlink { target } => insula_blobs::Entry::symlink(entry.path, target),
        Node::Dir => insula_blobs::Entry::dir(entry.path),
    }
}

fn refuse(error: ArchiveError) -> ApiError {
    let code = match error.refusal() {
        Refusal::Invalid => Code::ArchiveInvalid,
        Refusal::Unsafe => Code::ArchiveUnsafe,
        Refusal::TooLarge => Code::SourceTooLarge,
        Refusal::Ours => {
            return match error {
                ArchiveError::Keep { source, .. } => not_kept(source),
                error => ApiError::internal(error),
            };
        }
    };
    let message = error.to_string();
    ApiError::new(code, format!("the archive was refused: {message}"))
        .mistakes(vec![Mistake { message, ..Mistake::default() }])
}

/// The error of the blob store comes back through the reader of archives.
fn not_kept(error: io::Error) -> ApiError {
    match error.downcast::<BlobError>() {
        Ok(error) => error.into(),
        Err(error) => ApiError::internal(error),
    }
}

/// Where contents go, from a thread that may wait.
struct Keeper {
    blobs: Blobs,
    shelf: Shelf,
    runtime: Handle,
}

impl Keeper {
    fn keep_all(&self, chunks: Vec<Bytes>) -> io::Result<()> {
        let kept = self.runtime.block_on(self.blobs.put_many(self.shelf, chunks));
        kept.map(drop).map_err(io::Error::other)
    }

    fn keep_large(&self, contents: &mut dyn Read) -> io::Result<Digest> {
        let (pieces, waiting) = mpsc::channel::<io::Result<Bytes>>(PIECES_WAITING);
        let (blobs, shelf) = (self.blobs.clone(), self.shelf);
        let keeping = self.runtime.spawn(async move {
            blobs.put_stream(shelf, ReceiverStream::new(waiting), None, SOURCE_FILE_MAX).await
        });
        let mut failed = None;
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = match contents.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Told to the keeper, too, so that it throws away what it has.
                    let _ = pieces.blocking_send(Err(io::Error::other("the archive broke off")));
                    failed = Some(error);
                    break;
                }
            };
            piece.truncate(read);
            if pieces.blocking_send(Ok(piece.into())).is_err() {
                // The keeper has given up, and says why below.
                break;
            }
        }
        drop(pieces);
        let kept: Result<Stored, BlobError> =
            self.runtime.block_on(keeping).map_err(io::Error::other)?;
        match failed {
            Some(error) => Err(error),
            None => kept.map(|stored| stored.digest).map_err(io::Error::other),
        }
    }
}

/// Small files that are kept together.
struct Batch<'k> {
    keeper: &'k Keeper,
    waiting: Vec<Bytes>,
    bytes: usize,
}

impl Batch<'_> {
    fn take(&mut self, head: FileHead<'_>, contents: &mut dyn Read) -> io::Result<Digest> {
        if head.size.0 as usize > CHUNK_BATCH_BYTES {
            return self.keeper.keep_large(contents);
        }
        let mut chunk = Vec::with_capacity(head.size.0 as usize);
        contents.read_to_end(&mut chunk)?;
        let digest = Digest::from_sha256(insula_kit::digest::sha256(&chunk));
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.waiting.push(chunk.into());
        }
        if self.bytes >= CHUNK_BATCH_BYTES || self.waiting.len() >= CHUNK_BATCH_COUNT {
            self.flush()?;
        }
        Ok(digest)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.bytes = 0;
        match std::mem::take(&mut self.waiting) {
            none if none.is_empty() => Ok(()),
            chunks => self.keeper.keep_all(chunks),
        }
    }
}
