//! Where blobs are kept: a directory of the data folder, or an S3 by configuration.

use anyhow::Context;
use insula_blobs::{BlobConfig, S3Config, SecretKey};

use crate::data::Data;

/// An S3 is chosen by naming its bucket. The keys come from the environment alone, where a list of
/// processes does not show them.
#[derive(Debug, clap::Args)]
pub struct BlobArgs {
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
pub const CREDENTIALS: [&str; 2] = [ACCESS_KEY, SECRET_KEY];

impl BlobArgs {
    pub fn config(self, data: &Data) -> anyhow::Result<BlobConfig> {
        let Some(bucket) = self.s3_bucket else {
            return Ok(BlobConfig::Directory { path: data.blobs() });
        };
        let endpoint = self.s3_endpoint.context("--s3-bucket needs --s3-endpoint")?;
        let variable = |name: &str| {
            std::env::var(name)
                .with_context(|| format!("an S3 bucket needs {name} in the environment"))
        };
        Ok(BlobConfig::S3(S3Config {
            allow_http: endpoint.starts_with("http://"),
            endpoint,
            bucket,
            region: self.s3_region,
            access_key: variable(ACCESS_KEY)?,
            secret_key: SecretKey::new(variable(SECRET_KEY)?),
            // Understood by every S3 that is not Amazon's, and by Amazon's too.
            path_style: true,
            spool: data.blobs().join("spool"),
        }))
    }
}
