//! Where blobs are kept: a directory of the data folder or another one, or an S3.

use std::path::PathBuf;

use anyhow::Context;
use insula_blobs::{BlobConfig, S3Config, SecretKey};

use crate::data::Data;
use crate::kept::{KeptBlobs, KeptS3};

/// An S3 is chosen by naming its bucket. The keys come from the environment alone, where a list of
/// processes does not show them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct BlobArgs {
    /// Keep blobs in this folder, which all servers share, instead of the data folder
    #[arg(long, env = "INSULA_BLOBS", value_name = "DIR", conflicts_with = "s3_bucket")]
    blobs: Option<PathBuf>,
    /// Keep blobs in this S3 bucket instead of the data folder
    #[arg(long, env = "INSULA_S3_BUCKET", value_name = "BUCKET")]
    s3_bucket: Option<String>,
    /// The S3 server's address, such as https://s3.example.org
    #[arg(long, env = "INSULA_S3_ENDPOINT", value_name = "URL", requires = "s3_bucket")]
    s3_endpoint: Option<String>,
    /// The S3 region
    #[arg(long, env = "INSULA_S3_REGION", value_name = "REGION", default_value = "us-east-1")]
    s3_region: String,
}

/// Read from the environment, never from an argument.
const ACCESS_KEY: &str = "INSULA_S3_ACCESS_KEY";
const SECRET_KEY: &str = "INSULA_S3_SECRET_KEY";

/// What only the server needs to know.
pub const CREDENTIALS: [&str; 5] = [
    ACCESS_KEY,
    SECRET_KEY,
    super::server::DATABASE,
    super::server::JOIN_TOKEN,
    super::migrate::TO,
];

impl BlobArgs {
    /// What was asked for, if anything was.
    pub fn asked(self) -> anyhow::Result<Option<KeptBlobs>> {
        if let Some(path) = self.blobs {
            let path = std::path::absolute(&path)
                .with_context(|| format!("find the folder {}", path.display()))?;
            return Ok(Some(KeptBlobs::Directory { path }));
        }
        let Some(bucket) = self.s3_bucket else { return Ok(None) };
        let endpoint = self.s3_endpoint.context("--s3-bucket needs --s3-endpoint")?;
        let variable = |name: &str| {
            std::env::var(name)
                .with_context(|| format!("an S3 bucket needs {name} in the environment"))
        };
        Ok(Some(KeptBlobs::S3(KeptS3 {
            endpoint,
            bucket,
            region: self.s3_region,
            access_key: variable(ACCESS_KEY)?,
            secret_key: variable(SECRET_KEY)?,
        })))
    }
}

/// The data folder's own directory unless it says otherwise.
pub fn config(data: &Data, kept: Option<KeptBlobs>) -> BlobConfig {
    match kept {
        None => BlobConfig::Directory { path: data.blobs() },
        Some(KeptBlobs::Directory { path }) => BlobConfig::Directory { path },
        Some(KeptBlobs::S3(s3)) => BlobConfig::S3(S3Config {
            allow_http: s3.endpoint.starts_with("http://"),
            endpoint: s3.endpoint,
            bucket: s3.bucket,
            region: s3.region,
            access_key: s3.access_key,
            secret_key: SecretKey::new(s3.secret_key),
            // Understood by every S3 that is not Amazon's, and by Amazon's too.
            path_style: true,
            spool: data.blobs().join("spool"),
        }),
    }
}
