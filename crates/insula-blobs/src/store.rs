//! `Blobs`: the store itself, over a directory or an S3.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use insula_model::{Bytes as Size, Digest, Timestamp};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::config::BlobConfig;
use crate::directory::Directory;
use crate::error::{BlobError, remote};
use crate::key::Shelf;
use crate::read::{self, BlobStream};
use crate::remote::Remote;
use crate::staging::{Hasher, Staged};

/// Requests in flight for one batch: enough to hide the round trip to an S3, few enough to leave
/// it to others too.
const AT_ONCE: usize = 16;
/// A batch is held in memory and in staging; larger ones gain nothing.
pub const BATCH_BLOBS_MAX: usize = 4_096;
pub const BATCH_SIZE_MAX: Size = Size::mib(128);
/// Written to disk at a time, so that a sender of tiny pieces does not cost a thread hop each.
const WRITE_BYTES: usize = 256 * 1024;
/// A sender that pauses longer is gone. The edge has a shorter limit of its own.
const SENDER_SILENCE_MAX: Duration = Duration::from_secs(120);

/// Clones are handles on the same store.
#[derive(Debug, Clone)]
pub struct Blobs {
    backend: Backend,
    objects: Arc<dyn ObjectStore>,
}

#[derive(Debug, Clone)]
enum Backend {
    Directory(Arc<Directory>),
    S3(Arc<Remote>),
}

/// What a put has made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub digest: Digest,
    pub size: Size,
}

/// What a shelf holds, for those who count and clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub digest: Digest,
    pub size: Size,
    /// A blob younger than the mutation that will refer to it must not be collected.
    pub modified: Timestamp,
}

impl Blobs {
    /// Opens the store; does not reach out to an S3 (see `probe`).
    pub fn open(config: BlobConfig) -> Result<Self, BlobError> {
        match config {
            BlobConfig::Directory { path } => {
                let directory = Directory::open(&path)?;
                let objects = LocalFileSystem::new_with_prefix(directory.root())
                    .map_err(|error| remote("open the directory", None, error))?;
                let objects = Arc::new(objects);
                Ok(Self { backend: Backend::Directory(Arc::new(directory)), objects })
            }
            BlobConfig::S3(config) => {
                let remote = Remote::open(config)?;
                let objects = Arc::clone(remote.store());
                Ok(Self { backend: Backend::S3(Arc::new(remote)), objects })
            }
        }
    }

    /// Asks the store something small, so that a wrong key, bucket or address is told at the start.
    pub async fn probe(&self) -> Result<(), BlobError> {
        // A listing, because the answer to a question about one object does not tell a bucket that
        // is missing from an object that is.
        let nothing = object_store::path::Path::from("insula-probe");
        match self.objects.list(Some(&nothing)).next().await {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(self.failed("look", error)),
        }
    }

    pub async fn put_bytes(&self, shelf: Shelf, bytes: Bytes) -> Result<Stored, BlobError> {
        let size = Size(bytes.len() as u64);
        if let Backend::S3(remote) = &self.backend {
            // In memory already, so it need not be staged.
            let digest = Hasher::of(&bytes);
            if !self.holds(shelf, digest, size).await? {
                remote.send(&shelf.key(digest), bytes).await?;
            }
            return Ok(Stored { digest, size });
        }
        let staged = self.staged().await?;
        let staged = write(staged, bytes, size).await?;
        self.place(shelf, staged).await
    }

    /// Takes what `stream` brings, at most `max`. With `want`, other bytes are refused.
    pub async fn put_stream<S, E>(
        &self,
        shelf: Shelf,
        stream: S,
        want: Option<Digest>,
        max: Size,
    ) -> Result<Stored, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut stream = std::pin::pin!(stream);
        let mut staged = self.staged().await?;
        let mut waiting: Vec<u8> = Vec::new();
        loop {
            let piece = tokio::time::timeout(SENDER_SILENCE_MAX, stream.next())
                .await
                .map_err(|late| BlobError::Sender { source: late.into() })?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|error| BlobError::Sender { source: error.into() })?;
            if piece.len() >= WRITE_BYTES && waiting.is_empty() {
                staged = write(staged, piece, max).await?;
                continue;
            }
            waiting.extend_from_slice(&piece);
            if waiting.len() >= WRITE_BYTES {
                staged = write(staged, std::mem::take(&mut waiting).into(), max).await?;
            }
        }
        if !waiting.is_empty() {
            staged = write(staged, waiting.into(), max).await?;
        }
        let got = staged.digest();
        match want {
            Some(want) if want != got => Err(BlobError::Mismatch { want, got }),
            Some(_) | None => self.place(shelf, staged).await,
        }
    }

    /// Many small blobs at once, in the order given: far cheaper than one by one, because the disk
    /// is waited for a few times in all.
    pub async fn put_many(
        &self,
        shelf: Shelf,
        blobs: Vec<Bytes>,
    ) -> Result<Vec<Stored>, BlobError> {
        let size = Size(blobs.iter().map(|blob| blob.len() as u64).sum());
        if blobs.len() > BATCH_BLOBS_MAX || size > BATCH_SIZE_MAX {
            return Err(BlobError::BatchTooLarge {
                blobs: blobs.len(),
                size,
                blobs_max: BATCH_BLOBS_MAX,
                size_max: BATCH_SIZE_MAX,
            });
        }
        match &self.backend {
            Backend::Directory(directory) => {
                let directory = Arc::clone(directory);
                on_thread(move || directory.put_many(shelf, &blobs)).await
            }
            Backend::S3(_) => {
                let puts = stream::iter(blobs).map(|blob| self.put_bytes(shelf, blob));
                puts.buffered(AT_ONCE).try_collect().await
            }
        }
    }

    /// The bytes, compared with the digest as they pass.
    pub async fn get_stream(&self, shelf: Shelf, digest: Digest) -> Result<BlobStream, BlobError> {
        let found = self.objects.get(&shelf.key(digest)).await;
        let found = found.map_err(|error| self.lost(shelf, digest, error))?;
        let failed = {
            let blobs = self.clone();
            move |error| blobs.failed("read a blob", error)
        };
        Ok(read::verified(digest, read::payload(found.payload, failed)))
    }

    /// The whole blob in memory, unless it is larger than `max`.
    pub async fn get_bytes(
        &self,
        shelf: Shelf,
        digest: Digest,
        max: Size,
    ) -> Result<Bytes, BlobError> {
        let mut stream = self.get_stream(shelf, digest).await?;
        let mut first = None;
        let mut all = Vec::new();
        while let Some(piece) = stream.try_next().await? {
            let held = first.as_ref().map_or(all.len(), Bytes::len);
            if (held + piece.len()) as u64 > max.0 {
                return Err(BlobError::TooLarge { max });
            }
            // A small blob is one piece, and is not copied.
            match first.take() {
                None if all.is_empty() => first = Some(piece),
                None => all.extend_from_slice(&piece),
                Some(first) => {
                    all.extend_from_slice(&first);
                    all.extend_from_slice(&piece);
                }
            }
        }
        Ok(first.unwrap_or_else(|| all.into()))
    }

    /// A part of a blob, which cannot be compared with the digest of the whole.
    pub async fn get_range(
        &self,
        shelf: Shelf,
        digest: Digest,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, BlobError> {
        let got = self.objects.get_range(&shelf.key(digest), range).await;
        got.map_err(|error| self.lost(shelf, digest, error))
    }

    /// Which of these are there, in the order given.
    pub async fn has_many(&self, shelf: Shelf, digests: &[Digest]) -> Result<Vec<bool>, BlobError> {
        match &self.backend {
            Backend::Directory(directory) => {
                let (directory, digests) = (Arc::clone(directory), digests.to_vec());
                on_thread(move || directory.has_many(shelf, &digests)).await
            }
            Backend::S3(_) => {
                let digests = stream::iter(digests.iter().copied());
                let asked = digests.map(|digest| self.size_of(shelf, digest));
                asked.buffered(AT_ONCE).map_ok(|size| size.is_some()).try_collect().await
            }
        }
    }

    pub async fn size_of(&self, shelf: Shelf, digest: Digest) -> Result<Option<Size>, BlobError> {
        match self.objects.head(&shelf.key(digest)).await {
            Ok(found) => Ok(Some(Size(found.size))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look for a blob", error)),
        }
    }

    /// A blob that is not there is as good as deleted. Not synced: what comes back after a power
    /// cut is collected again.
    pub async fn delete(&self, shelf: Shelf, digest: Digest) -> Result<(), BlobError> {
        match self.objects.delete(&shelf.key(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete a blob", error)),
        }
    }

    /// All of a shelf, in no order; names that are not ours are passed over.
    pub fn list(
        &self,
        shelf: Shelf,
    ) -> impl Stream<Item = Result<Listed, BlobError>> + Send + use<> {
        let blobs = self.clone();
        self.objects.list(Some(&shelf.prefix())).filter_map(move |found| {
            let listed = match found {
                Ok(found) => shelf.digest_of(&found.location).map(|digest| {
                    let modified = Timestamp::from_millis(found.last_modified.timestamp_millis());
                    Ok(Listed { digest, size: Size(found.size), modified })
                }),
                Err(error) => Some(Err(blobs.failed("list blobs", error))),
            };
            std::future::ready(listed)
        })
    }

    /// Reads a blob through and says how large it is, or that it is damaged.
    pub async fn verify(&self, shelf: Shelf, digest: Digest) -> Result<Size, BlobError> {
        let stream = self.get_stream(shelf, digest).await?;
        stream.try_fold(Size(0), async |sum, piece| Ok(Size(sum.0 + piece.len() as u64))).await
    }

    async fn holds(&self, shelf: Shelf, digest: Digest, size: Size) -> Result<bool, BlobError> {
        Ok(self.size_of(shelf, digest).await? == Some(size))
    }

    async fn staged(&self) -> Result<Staged, BlobError> {
        match &self.backend {
            Backend::Directory(directory) => {
                let directory = Arc::clone(directory);
                on_thread(move || directory.staging().create()).await
            }
            Backend::S3(remote) => {
                let remote = Arc::clone(remote);
                on_thread(move || remote.staging().create()).await
            }
        }
    }

    async fn place(&self, shelf: Shelf, staged: Staged) -> Result<Stored, BlobError> {
        let stored = Stored { digest: staged.digest(), size: staged.size() };
        match &self.backend {
            Backend::Directory(directory) => {
                let directory = Arc::clone(directory);
                on_thread(move || directory.place_all(shelf, vec![staged])).await?;
            }
            Backend::S3(remote) => {
                if !self.holds(shelf, stored.digest, stored.size).await? {
                    remote.send_staged(&shelf.key(stored.digest), staged).await?;
                }
            }
        }
        Ok(stored)
    }

    fn lost(&self, shelf: Shelf, digest: Digest, error: object_store::Error) -> BlobError {
        match error {
            object_store::Error::NotFound { .. } => BlobError::Missing { shelf, digest },
            error => self.failed("read a blob", error),
        }
    }

    fn failed(&self, doing: &'static str, error: object_store::Error) -> BlobError {
        match &self.backend {
            Backend::Directory(_) => remote(doing, None, error),
            Backend::S3(store) => store.failed(doing, error),
        }
    }
}

/// Disk work, away from the threads that serve everybody.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(BlobError::Thread))
}

async fn write(mut staged: Staged, bytes: Bytes, max: Size) -> Result<Staged, BlobError> {
    on_thread(move || {
        staged.write(&bytes, max)?;
        Ok(staged)
    })
    .await
}
