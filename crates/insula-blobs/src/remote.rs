//! Sending a staged file to an S3: whole if it is small, in parts if it is not.
//!
//! Parts become an object only when the upload is completed, so what is torn is never visible.
//! Parts of a process that died stay in the bucket, unseen, until a lifecycle rule
//! (`AbortIncompleteMultipartUpload`) removes them; decision 0006 says so to the operator.

use std::io::{Read, Seek};
use std::sync::Arc;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{
    BackoffConfig, MultipartUpload, ObjectStore, ObjectStoreExt, RetryConfig, UploadPart,
};

use crate::config::S3Config;
use crate::error::{BlobError, remote};
use crate::https::Https;
use crate::staging::{Staged, Staging};

/// Above S3's minimum of 5 MiB; 10,000 parts, its maximum, are then 78 GiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts in flight, in memory: 32 MiB per upload.
const PARTS_AT_ONCE: usize = 4;
/// A store that is restarting is back within this; a caller is not kept longer.
const RETRY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Remote {
    config: S3Config,
    store: Arc<dyn ObjectStore>,
    staging: Staging,
}

impl Remote {
    pub(crate) fn open(config: S3Config) -> Result<Self, BlobError> {
        let refuse = |what: &str| BlobError::Config { what: what.to_owned() };
        match config.endpoint.split_once("://") {
            Some(("https", _)) => {}
            Some(("http", _)) if config.allow_http => {}
            Some(("http", _)) => return Err(refuse("plain HTTP to S3 is not allowed here")),
            Some(_) | None => return Err(refuse("the S3 endpoint must begin with https://")),
        }
        let store = AmazonS3Builder::new()
            .with_endpoint(&config.endpoint)
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            .with_access_key_id(&config.access_key)
            .with_secret_access_key(config.secret_key.expose())
            .with_allow_http(config.allow_http)
            .with_virtual_hosted_style_request(!config.path_style)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: 5,
                retry_timeout: RETRY_TIMEOUT,
            })
            .with_http_connector(Https { allow_http: config.allow_http })
            .build()
            .map_err(|error| remote("configure access", Some(&config), error))?;
        let staging = Staging::open(&config.spool)?;
        Ok(Self { config, store: Arc::new(store), staging })
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub(crate) fn staging(&self) -> &Staging {
        &self.staging
    }

    pub(crate) async fn send(&self, key: &Path, bytes: Bytes) -> Result<(), BlobError> {
        let put = self.store.put(key, bytes.into()).await;
        put.map(|_| ()).map_err(|error| self.failed("put a blob", error))
    }

    pub(crate) async fn send_staged(&self, key: &Path, staged: Staged) -> Result<(), BlobError> {
        let size = staged.size();
        let parts = Parts::of(staged)?;
        if size.0 <= PART_BYTES as u64 {
            let (bytes, _) = parts.next().await?;
            return self.send(key, bytes).await;
        }
        let upload = self.store.put_multipart(key).await;
        let mut upload = upload.map_err(|error| self.failed("begin an upload", error))?;
        let sent = self.send_parts(&mut *upload, parts).await;
        if sent.is_err() {
            // Whatever this says, the parts are unseen; the first error is the one to tell.
            if let Err(error) = upload.abort().await {
                let error = self.failed("abandon an upload", error);
                tracing::warn!(%error, "an upload that failed left parts behind");
            }
        }
        sent
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        mut parts: Parts,
    ) -> Result<(), BlobError> {
        let mut flying: tokio::task::JoinSet<object_store::Result<()>> = Default::default();
        loop {
            let (bytes, rest) = parts.next().await?;
            if bytes.is_empty() {
                break;
            }
            parts = rest;
            if flying.len() >= PARTS_AT_ONCE {
                self.landed(flying.join_next().await)?;
            }
            let part: UploadPart = upload.put_part(bytes.into());
            flying.spawn(part);
        }
        while !flying.is_empty() {
            self.landed(flying.join_next().await)?;
        }
        let done = upload.complete().await;
        done.map(|_| ()).map_err(|error| self.failed("complete an upload", error))
    }

    fn landed(
        &self,
        part: Option<Result<object_store::Result<()>, tokio::task::JoinError>>,
    ) -> Result<(), BlobError> {
        match part {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(self.failed("upload a part", error)),
            Some(Err(_)) => Err(BlobError::Thread),
        }
    }

    pub(crate) fn failed(&self, doing: &'static str, error: object_store::Error) -> BlobError {
        remote(doing, Some(&self.config), error)
    }
}

/// The staged file from its beginning, in pieces of `PART_BYTES`, read off the runtime's threads.
struct Parts {
    staged: Staged,
}

impl Parts {
    fn of(staged: Staged) -> Result<Self, BlobError> {
        staged
            .file()
            .rewind()
            .map_err(BlobError::io("rewind", std::path::Path::new("a staged upload")))?;
        Ok(Self { staged })
    }

    async fn next(self) -> Result<(Bytes, Self), BlobError> {
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::with_capacity(PART_BYTES.min(self.staged.size().0 as usize));
            let read = self.staged.file().take(PART_BYTES as u64).read_to_end(&mut bytes);
            read.map(|_| (bytes.into(), self))
        });
        let read = read.await.map_err(|_| BlobError::Thread)?;
        read.map_err(BlobError::io("read", std::path::Path::new("a staged upload")))
    }
}
