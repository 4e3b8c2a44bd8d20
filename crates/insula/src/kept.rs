//! Where a data folder's state is kept, if not in the folder itself.
//!
//! `insula migrate` writes it; the server, the backup and the keys' chores read it. What a command
//! line says comes before it.

use std::path::PathBuf;

use anyhow::Context;
use insula_kit::files::{self, Access};
use insula_store::{PostgresUrl, StoreConfig};
use serde::{Deserialize, Serialize};

use crate::data::Data;

/// A URL, a few names and two keys.
const KEPT_BYTES_MAX: u64 = 16_384;

/// For its owner alone: it may hold the password of a database and the keys of an S3.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Nothing: SQLite in the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Nothing: a directory of the data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blobs: Option<KeptBlobs>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum KeptBlobs {
    Directory { path: PathBuf },
    S3(KeptS3),
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptS3 {
    pub endpoint: String,
    pub bucket: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Kept {
    pub fn read(data: &Data) -> anyhow::Result<Self> {
        let path = data.kept();
        match files::read_private(&path, KEPT_BYTES_MAX) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))
            }
            Err(error) if error.is_missing() => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn write(&self, data: &Data) -> anyhow::Result<()> {
        let path = data.kept();
        files::write_json(&path, self, Access::Private)
            .with_context(|| format!("write {}", path.display()))
    }

    pub fn store(&self, data: &Data) -> anyhow::Result<StoreConfig> {
        Ok(match &self.database {
            None => StoreConfig::new(data.database()),
            Some(url) => StoreConfig::postgres(parse_url(url)?),
        })
    }
}

/// A URL is not repeated in an error: it may hold a password.
pub fn parse_url(url: &str) -> anyhow::Result<PostgresUrl> {
    url.parse().context("the database's URL (postgres://user@host/name)")
}
