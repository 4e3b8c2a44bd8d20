//! What is written down about an instance, for the next agent: `state/<instance id>.json`.
//!
//! Replaced at once and not synced: a record tells of processes, and a power cut ends them all. Only
//! that a run was started must survive one, because it must not be started twice.

use std::io;
use std::path::{Path, PathBuf};

use insula_kit::files::{self, Access, FileError};
use insula_model::InstanceId;
use insula_model::target::InstanceTarget;
use insula_sandbox::SandboxId;
use serde::{Deserialize, Serialize};

use super::life::{Life, Rules};
use crate::layout::Layout;
use crate::places::Place;

pub const RECORD_SCHEMA: u32 = 1;
/// A target with all its variables is the most of it.
const RECORD_BYTES_MAX: u64 = 8 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    pub schema: u32,
    /// As it was last wanted.
    pub target: InstanceTarget,
    pub life: Life,
    /// Counts its sandboxes; each has a name of its own.
    pub attempt: u32,
    /// Once a launch has begun, until everything of it is removed.
    pub sandbox: Option<SandboxId>,
    pub place: Option<Place>,
    /// Where it listens, if not where `PORT` says.
    pub found_port: Option<u16>,
}

impl InstanceRecord {
    pub fn new(target: InstanceTarget, life: Life) -> Self {
        Self {
            schema: RECORD_SCHEMA,
            target,
            life,
            attempt: 0,
            sandbox: None,
            place: None,
            found_port: None,
        }
    }

    pub fn id(&self) -> InstanceId {
        self.target.id
    }

    /// It was started and must not be started again.
    pub fn is_spent(&self) -> bool {
        Rules::of(&self.target).once && self.life.started.is_some()
    }

    /// What `PORT` says inside.
    pub fn port(&self) -> Option<u16> {
        let promised = self.place.as_ref().and_then(|place| place.port);
        self.target.port.map(|port| promised.unwrap_or(port))
    }

    pub fn store(&self, layout: &Layout, durable: bool) -> Result<(), FileError> {
        let path = layout.state(self.id());
        if durable {
            return files::write_json(&path, self, Access::Private);
        }
        let failed = |source| FileError::Io { doing: "write", path: path.clone(), source };
        let bytes = serde_json::to_vec(self)
            .map_err(|source| FileError::Json { path: path.clone(), source })?;
        replace(&path, &bytes).map_err(failed)
    }

    pub fn remove(layout: &Layout, id: InstanceId) -> io::Result<()> {
        match std::fs::remove_file(layout.state(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub fn load(layout: &Layout, id: InstanceId) -> Option<Self> {
        read(&layout.state(id))
    }

    /// All that can be read, and what cannot: a record of a later version, or a damaged one.
    pub fn load_all(layout: &Layout) -> io::Result<(Vec<Self>, Vec<PathBuf>)> {
        let (mut records, mut foreign) = (Vec::new(), Vec::new());
        let entries = match std::fs::read_dir(layout.states()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((records, foreign)),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|end| end != "json") {
                continue;
            }
            match read(&path) {
                Some(record) => records.push(record),
                None => foreign.push(path),
            }
        }
        records.sort_by_key(Self::id);
        Ok((records, foreign))
    }
}

fn read(path: &Path) -> Option<InstanceRecord> {
    let bytes = files::read(path, RECORD_BYTES_MAX).ok()?;
    let record: InstanceRecord = serde_json::from_slice(&bytes).ok()?;
    (record.schema == RECORD_SCHEMA).then_some(record)
}

/// A variable may hold what is not for everybody, so the file is its owner's alone.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    std::fs::rename(&beside, path)
}
