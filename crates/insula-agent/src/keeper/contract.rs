//! The files between the agent, the init of a sandbox and the keeper, all in `<data>/run/<id>/`.
//!
//! | file | written by | when |
//! |---|---|---|
//! | `out`, `err` | sandbox | FIFOs, before the app starts |
//! | `record.json` | sandbox | durable before the app starts |
//! | `exit` | init | at the end of the app |
//! | `log.json` | agent | before the app starts: whose logs these are, and their limits |
//! | `kept.json` | keeper | durable, once the sandbox has ended and all it wrote is in the log |
//!
//! Every document carries a schema; what an older build wrote stays readable.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use insula_model::{AppId, ComponentName, InstanceId, OrgId, ReleaseId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::log::Bound;

pub const LOG_SCHEMA: u32 = 1;
const LOG_FILE: &str = "log.json";
const KEPT_FILE: &str = "kept.json";

/// Whose logs these are, and how much they may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    pub schema: u32,
    pub org: OrgId,
    pub app: AppId,
    pub component: ComponentName,
    pub release: ReleaseId,
    pub instance: InstanceId,
    /// What may be written for long; beyond the burst, the rest is dropped and counted.
    pub rate_bytes_per_s: u64,
    pub burst_bytes: u64,
    /// What is kept of the whole app.
    pub keep: Bound,
    /// Of what may run only in contact with a server: what it is granted beyond its lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_grace_ms: Option<u64>,
}

/// How the log of a sandbox ended. Its presence means that everything is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRecord {
    pub schema: u32,
    pub instance: InstanceId,
    /// When the keeper noticed.
    pub noticed: Timestamp,
    /// None if the sandbox was ended before its init could say how.
    pub exit: Option<Exit>,
    /// Dropped by this keeper over the rate, for want of disk space, and by the init because no
    /// keeper was there for long.
    pub over_rate_bytes: u64,
    pub disk_full_bytes: u64,
    pub unread_bytes: u64,
}

/// What the init said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(u8),
    Signal(i32),
    NotStarted { errno: i32 },
}

#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a document that this build understands")]
    Foreign {
        path: PathBuf,
        #[source]
        source: Option<serde_json::Error>,
    },
}

impl LogSpec {
    /// Writes `log.json` into the folder of a sandbox. Call it before the app starts.
    pub fn store(&self, sandbox: &Path) -> Result<(), ContractError> {
        store(sandbox, LOG_FILE, self, Durable::No)
    }

    pub fn load(sandbox: &Path) -> Result<Option<Self>, ContractError> {
        let found: Option<Self> = load(sandbox, LOG_FILE)?;
        known(sandbox, LOG_FILE, found, |spec| spec.schema)
    }
}

impl KeptRecord {
    /// `None` while the sandbox lives or something it wrote is not yet in the log.
    pub fn load(sandbox: &Path) -> Result<Option<Self>, ContractError> {
        let found: Option<Self> = load(sandbox, KEPT_FILE)?;
        known(sandbox, KEPT_FILE, found, |kept| kept.schema)
    }

    pub(crate) fn store(&self, sandbox: &Path) -> Result<(), ContractError> {
        store(sandbox, KEPT_FILE, self, Durable::Yes)
    }

    pub(crate) fn exists(sandbox: &Path) -> bool {
        sandbox.join(KEPT_FILE).exists()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Yes,
    No,
}

fn known<T>(
    dir: &Path,
    name: &str,
    found: Option<T>,
    schema: impl Fn(&T) -> u32,
) -> Result<Option<T>, ContractError> {
    match found {
        Some(it) if schema(&it) != LOG_SCHEMA => {
            Err(ContractError::Foreign { path: dir.join(name), source: None })
        }
        found => Ok(found),
    }
}

fn load<T: serde::de::DeserializeOwned>(
    dir: &Path,
    name: &str,
) -> Result<Option<T>, ContractError> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| ContractError::Foreign { path, source: Some(source) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ContractError::Read { path, source }),
    }
}

/// Writes beside, then renames, so that nobody ever reads half a document.
fn store<T: Serialize>(
    dir: &Path,
    name: &str,
    it: &T,
    durable: Durable,
) -> Result<(), ContractError> {
    let path = dir.join(name);
    let write = || -> io::Result<()> {
        let beside = dir.join(format!("{name}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec(it)?)?;
        if durable == Durable::Yes {
            file.sync_all()?;
        }
        std::fs::rename(&beside, &path)?;
        if durable == Durable::Yes {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| ContractError::Write { path: path.clone(), source })
}
