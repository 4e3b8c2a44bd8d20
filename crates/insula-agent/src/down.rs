//! Ends what a data folder still runs, with neither server nor agent: sandboxes, networks, control
//! groups, the keeper. For `insula down`, and after Ctrl-C.
//!
//! Level-triggered like everything else: it may be repeated, and ends what it finds. Files that are
//! worth keeping (logs, blobs, the last Target) stay.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use insula_model::Millis;
use insula_model::node::NodeMode;
use insula_model::spec::StopSpec;
use insula_sandbox::net::{NetError, teardown_host};
use insula_sandbox::{Mode, Record};

use crate::error::chain;
use crate::identity::{Identity, IdentityError};
use crate::instance::{InstanceRecord, drained};
use crate::layout::Layout;
use crate::sandbox::{SandboxError, Sandboxes};

/// For what no record speaks for: builds, and what a damaged folder left.
const GRACE_UNKNOWN: Millis = Millis(0);

#[derive(Debug, thiserror::Error)]
pub enum DownError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("find what runs")]
    Sandbox(#[from] SandboxError),
    #[error("read the records of instances")]
    Records(#[source] io::Error),
    #[error("remove {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("stop the keeper")]
    Keeper(#[source] io::Error),
    #[error("take down the network")]
    Network(#[from] NetError),
    #[error("these sandboxes are still there: {}", .0.join("; "))]
    StillThere(Vec<String>),
}

/// What was found and ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DownReport {
    /// Sandboxes whose app was still running.
    pub stopped: usize,
    /// Sandboxes that had ended, or had never quite begun.
    pub removed: usize,
    pub keeper: bool,
}

/// Leaves nothing behind. No agent may run on the folder meanwhile.
pub async fn down(data: &Path) -> Result<DownReport, DownError> {
    let layout = Layout::new(data);
    let mut report = DownReport::default();
    let Some(identity) = Identity::load(&layout)? else { return Ok(report) };
    let sandboxes = open_sandboxes(&layout, &identity)?;
    let (records, _foreign) = InstanceRecord::load_all(&layout).map_err(DownError::Records)?;
    report.keeper = crate::keeper::is_running(data).map_err(DownError::Keeper)?;
    let found = sandboxes.list().await?;
    let ending = found.into_iter().map(|sandbox| {
        let stop = records
            .iter()
            .find(|record| record.sandbox.as_ref() == Some(&sandbox.id))
            .map(|record| record.target.stop.clone());
        let keeper = report.keeper && stop.is_some();
        end(&sandboxes, sandbox, stop, keeper)
    });
    let mut failed = Vec::new();
    for ended in join_all(ending).await {
        match ended {
            Ok(true) => report.stopped += 1,
            Ok(false) => report.removed += 1,
            Err(error) => failed.push(chain(&error)),
        }
    }
    let swept = sandboxes.sweep().await?;
    report.removed += swept.removed.len();
    failed.extend(swept.failed.iter().map(|(id, error)| format!("{id}: {}", chain(error))));
    if !failed.is_empty() {
        return Err(DownError::StillThere(failed));
    }
    // A run that was started is not started again; everything else begins anew at the next start.
    for record in records.iter().filter(|record| !record.is_spent()) {
        InstanceRecord::remove(&layout, record.id()).map_err(DownError::Records)?;
    }
    for path in [layout.builds(), layout.scratch()] {
        crate::tree::remove(&path).map_err(|source| DownError::Remove { path, source })?;
    }
    crate::keeper::stop(data).map_err(DownError::Keeper)?;
    if let Some(net) = &identity.net {
        teardown_host(&net.config().map_err(IdentityError::from)?)?;
    }
    Ok(report)
}

/// Whether its app was still running.
async fn end(
    sandboxes: &Sandboxes,
    sandbox: Record,
    stop: Option<StopSpec>,
    keeper: bool,
) -> Result<bool, SandboxError> {
    let alive = sandboxes.is_alive(&sandbox)?;
    let grace = stop.as_ref().map_or(GRACE_UNKNOWN, |stop| stop.grace);
    if let Some(stop) = stop.filter(|_| alive) {
        sandboxes.signal(&sandbox, stop.signal.number())?;
        let patience: Duration = grace.as_duration();
        // Whether it ended in time or not, what follows ends it.
        let _ = tokio::time::timeout(patience, sandboxes.ended(&sandbox)).await;
    }
    sandboxes.kill(sandbox.clone()).await?;
    if keeper {
        // Its last words are worth the moment.
        drained(sandboxes.dir(&sandbox.id).path()).await;
    }
    sandboxes.destroy(sandbox).await?;
    Ok(alive)
}

pub fn open_sandboxes(layout: &Layout, identity: &Identity) -> Result<Sandboxes, SandboxError> {
    let mode = match identity.mode {
        NodeMode::Full => Mode::Root,
        NodeMode::Development => Mode::User,
    };
    Sandboxes::open(mode, layout.run(), &identity.cgroup_parent())
}
