//! The folder of a sandbox and what is written down about it.
//!
//! `plan.json` holds the same document before anything is made, without the init; it is what a
//! clean-up goes by when a launch was cut off. `record.json` is there before the app
//! starts. Both are about this boot only: they outlive every process, which is all that is asked.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::id::SandboxId;
use crate::identity::ProcessIdentity;
use crate::spec::{Mode, Network};

/// Version of `plan.json` and `record.json`. Older ones stay readable: instances outlive upgrades.
pub const RECORD_SCHEMA: u32 = 1;

const RECORD_FILE: &str = "record.json";
const PLAN_FILE: &str = "plan.json";

/// Everything that is needed to find, end and remove a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub schema: u32,
    pub id: SandboxId,
    pub driver: Driver,
    pub mode: Mode,
    /// The first process of the sandbox; absent in a plan.
    pub init: Option<ProcessIdentity>,
    pub cgroups: Vec<Group>,
    pub network: Network,
    pub uid_base: u32,
    /// Wall clock, milliseconds since 1970.
    pub created_ms: u64,
}

/// What isolates an instance. Closed: a new driver must decide every question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Own namespaces on the host's `/usr`.
    Embedded,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a sandbox record that this build understands")]
    Foreign {
        path: PathBuf,
        #[source]
        source: Option<serde_json::Error>,
    },
}

/// A lock on the run folder itself: shared by those who make a sandbox's folder and its lock, alone
/// for who looks for folders without one. Gone with the descriptor.
pub(crate) fn lock_run_dir(run_dir: &Path, operation: FlockOperation) -> io::Result<OwnedFd> {
    let folder: OwnedFd = File::open(run_dir)?.into();
    rustix::io::retry_on_intr(|| rustix::fs::flock(&folder, operation))?;
    Ok(folder)
}

/// The files of one sandbox.
#[derive(Debug, Clone)]
pub struct SandboxDir {
    path: PathBuf,
}

impl SandboxDir {
    pub fn new(run_dir: &Path, id: &SandboxId) -> Self {
        Self { path: run_dir.join(id.as_str()) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// FIFO of the app's standard output; a keeper opens it for reading.
    pub fn out(&self) -> PathBuf {
        self.path.join("out")
    }

    /// FIFO of the app's standard error.
    pub fn err(&self) -> PathBuf {
        self.path.join("err")
    }

    /// The init's record of the end.
    pub fn exit(&self) -> PathBuf {
        self.path.join("exit")
    }

    /// Held locked by a launcher and by the sandbox until the init runs.
    pub(crate) fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Mount point of the new root, in the sandbox's own mount namespace only.
    pub(crate) fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    pub(crate) fn store_plan(&self, plan: &Record) -> io::Result<()> {
        write_whole(&self.path, PLAN_FILE, plan, false)
    }

    pub(crate) fn store_record(&self, record: &Record) -> io::Result<()> {
        write_whole(&self.path, RECORD_FILE, record, true)
    }

    pub(crate) fn plan(&self) -> Result<Option<Record>, RecordError> {
        read(&self.path.join(PLAN_FILE))
    }

    pub(crate) fn record(&self) -> Result<Option<Record>, RecordError> {
        read(&self.path.join(RECORD_FILE))
    }
}

impl Record {
    /// The record of a sandbox whose init has been made; `None` when there is none.
    pub fn load(run_dir: &Path, id: &SandboxId) -> Result<Option<Self>, RecordError> {
        SandboxDir::new(run_dir, id).record()
    }

    /// All records, by id. Folders without one are half-made: see `Runtime::sweep`.
    pub fn list(run_dir: &Path) -> Result<Vec<Self>, RecordError> {
        let mut records = Vec::new();
        for id in sandbox_ids(run_dir)? {
            records.extend(Self::load(run_dir, &id)?);
        }
        Ok(records)
    }
}

pub(crate) fn sandbox_ids(run_dir: &Path) -> Result<Vec<SandboxId>, RecordError> {
    let failed = |source| RecordError::Read { path: run_dir.to_path_buf(), source };
    let entries = match fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        ids.extend(name.into_string().ok().and_then(|name| SandboxId::new(name).ok()));
    }
    ids.sort();
    Ok(ids)
}

fn read(path: &Path) -> Result<Option<Record>, RecordError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RecordError::Read { path: path.to_path_buf(), source }),
    };
    let foreign = |source| RecordError::Foreign { path: path.to_path_buf(), source };
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| foreign(Some(e)))?;
    if record.schema != RECORD_SCHEMA {
        return Err(foreign(None));
    }
    Ok(Some(record))
}

/// Writes beside, then renames, so that nobody ever reads half a document. `whole` keeps that true
/// over a power cut; the name itself may be lost then, and with it nothing that still runs.
fn write_whole(dir: &Path, name: &str, record: &Record, whole: bool) -> io::Result<()> {
    let beside = dir.join(format!("{name}.new"));
    let mut file = File::create(&beside)?;
    let mut bytes = serde_json::to_vec(record)?;
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    if whole {
        file.sync_data()?;
    }
    fs::rename(&beside, dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of version 1. Never change this file.
    const GOLDEN_V1: &str = include_str!("../tests/golden/record-v1.json");

    #[test]
    fn version_one_is_read_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("ins_1")).unwrap();
        fs::write(dir.path().join("ins_1/record.json"), GOLDEN_V1).unwrap();
        let record = Record::load(dir.path(), &SandboxId::new("ins_1").unwrap()).unwrap().unwrap();
        // Writing it again gives the same bytes: nothing was lost in reading.
        assert_eq!(serde_json::to_string(&record).unwrap(), GOLDEN_V1.trim_end());
        assert_eq!(record.init.unwrap().pid, 4242);
    }

    #[test]
    fn a_newer_record_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("ins_1")).unwrap();
        let newer = GOLDEN_V1.replace("\"schema\":1", "\"schema\":2");
        fs::write(dir.path().join("ins_1/record.json"), newer).unwrap();
        let error = Record::load(dir.path(), &SandboxId::new("ins_1").unwrap()).unwrap_err();
        assert!(error.to_string().contains("understands"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_holds_no_sandboxes() {
        assert!(Record::list(Path::new("/nonexistent/insula")).unwrap().is_empty());
    }
}
