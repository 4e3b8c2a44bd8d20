//! Where a data folder's state is kept, if not in the folder itself.
//!
//! `insula migrate` writes it; the server, the backup and the keys' chores read it. What a command
//! line says comes before it, so the server notes which places it uses: a chore whose command line
//! does not say the same would find what was left there long ago, or nothing.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use insula_kit::files::{self, Access};
use insula_store::{PostgresUrl, StoreConfig};
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::role::server::DATABASE;

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

    /// What a chore works on: what its own command line says, else what the folder says, unless the
    /// server was told otherwise when it last started. The chore must name a place that holds state.
    pub fn of_chore(
        data: &Data,
        database: Option<String>,
        blobs: Option<KeptBlobs>,
    ) -> anyhow::Result<Self> {
        let kept = Self::read(data)?;
        let used = Used::read(data)?.unwrap_or(kept.used()?);
        let root = data.root().display();
        if database.is_none() && used.database != kept.used()?.database {
            bail!(
                "the server of {root} last started with its state in {}, and what lies in the folder \
                 is not that: give the same --database, or set {DATABASE}",
                used.database.as_deref().unwrap_or("the folder itself")
            );
        }
        if blobs.is_none() && used.blobs != kept.used()?.blobs {
            bail!(
                "the server of {root} last started with its blobs in {}, and those in the folder are \
                 others: give the same --blobs or --s3-bucket, or set the same variables",
                used.blobs.as_deref().unwrap_or("the folder itself")
            );
        }
        let kept = Self { database: database.or(kept.database), blobs: blobs.or(kept.blobs) };
        if kept.database.is_none() && !data.database().exists() {
            bail!(
                "{root} holds no state of Insula; if a server was started with --database, give the \
                 same here, or set {DATABASE}"
            );
        }
        Ok(kept)
    }

    /// By the server, once these places have answered.
    pub fn note_used(&self, data: &Data) -> anyhow::Result<()> {
        let used = self.used()?;
        // A full disk keeps nobody from starting again.
        if Used::read(data).is_ok_and(|before| before.as_ref() == Some(&used)) {
            return Ok(());
        }
        let path = data.used();
        files::write_json(&path, &used, Access::Private)
            .with_context(|| format!("write {}", path.display()))
    }

    fn used(&self) -> anyhow::Result<Used> {
        let database = self.database.as_deref().map(parse_url).transpose()?;
        Ok(Used {
            database: database.map(|url| url.to_string()),
            blobs: self.blobs.as_ref().map(ToString::to_string),
        })
    }

    pub fn store(&self, data: &Data) -> anyhow::Result<StoreConfig> {
        Ok(match &self.database {
            None => StoreConfig::new(data.database()),
            Some(url) => StoreConfig::postgres(parse_url(url)?),
        })
    }
}

/// Where the server has had its state since it last started, without passwords and keys.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Used {
    /// Nothing: SQLite in the data folder.
    database: Option<String>,
    /// Nothing: a directory of the data folder.
    blobs: Option<String>,
}

impl Used {
    /// Nothing before a server has started that notes it.
    fn read(data: &Data) -> anyhow::Result<Option<Self>> {
        match files::read_json(&data.used()) {
            Ok(used) => Ok(Some(used)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Display for KeptBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path } => path.display().fmt(f),
            Self::S3(s3) => write!(f, "the bucket {} at {}", s3.bucket, s3.endpoint),
        }
    }
}

/// A URL is not repeated in an error: it may hold a password.
pub fn parse_url(url: &str) -> anyhow::Result<PostgresUrl> {
    url.parse().context("the database's URL (postgres://user@host/name)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "postgres://insula:secret@db/insula";

    fn folder() -> (tempfile::TempDir, Data) {
        let folder = tempfile::tempdir().unwrap();
        let data = Data::at(&folder.path().join("data")).unwrap();
        data.prepare().unwrap();
        (folder, data)
    }

    fn refused(data: &Data, database: Option<&str>) -> String {
        let refused = Kept::of_chore(data, database.map(str::to_owned), None);
        format!("{:#}", refused.err().expect("it is refused"))
    }

    #[test]
    fn a_chore_never_works_on_what_a_server_has_left_behind() {
        let (_folder, data) = folder();
        assert!(refused(&data, None).contains("holds no state"));
        std::fs::write(data.database(), "of long ago").unwrap();
        // A build that did not note it.
        assert!(Kept::of_chore(&data, None, None).unwrap().database.is_none());
        let told = Kept { database: Some(URL.into()), blobs: None };
        told.note_used(&data).unwrap();
        let said = refused(&data, None);
        assert!(said.contains("postgres://insula@db/insula") && !said.contains("secret"), "{said}");
        let kept = Kept::of_chore(&data, Some(URL.into()), None).unwrap();
        assert_eq!(kept.database.as_deref(), Some(URL));
        assert!(!std::fs::read_to_string(data.used()).unwrap().contains("secret"));
        // What was moved is remembered, with the password of today.
        let moved = "postgres://insula:another@db/insula";
        Kept { database: Some(moved.into()), blobs: None }.write(&data).unwrap();
        let kept = Kept::of_chore(&data, None, None).unwrap();
        assert_eq!(kept.database.as_deref(), Some(moved));
    }

    #[test]
    fn nor_on_blobs_that_are_elsewhere_by_now() {
        let (_folder, data) = folder();
        std::fs::write(data.database(), "state").unwrap();
        let elsewhere = || Some(KeptBlobs::Directory { path: "/mnt/blobs".into() });
        Kept { database: None, blobs: elsewhere() }.note_used(&data).unwrap();
        assert!(refused(&data, None).contains("its blobs in /mnt/blobs"));
        assert!(Kept::of_chore(&data, None, elsewhere()).unwrap().blobs.is_some());
        Kept::default().note_used(&data).unwrap();
        assert!(Kept::of_chore(&data, None, None).unwrap().blobs.is_none());
    }
}
