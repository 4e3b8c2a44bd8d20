//! Where blobs are kept. Credentials are in here, so nothing here prints them.

use std::fmt;
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub enum BlobConfig {
    /// A folder of our own on a local file system.
    Directory {
        path: PathBuf,
    },
    S3(S3Config),
}

#[derive(Debug, Clone)]
pub struct S3Config {
    /// Such as `https://s3.eu-central-1.amazonaws.com`.
    pub endpoint: String,
    pub bucket: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: SecretKey,
    /// Plain HTTP, for a server on this machine or in a private network.
    pub allow_http: bool,
    /// `endpoint/bucket/key` in place of `bucket.endpoint/key`.
    pub path_style: bool,
    /// A local folder in which uploads wait until their digest is known.
    pub spool: PathBuf,
}

/// Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(String);

impl SecretKey {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}
