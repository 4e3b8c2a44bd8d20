//! The move from one release to the next, and its verdict.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::build::BuildPlan;
use crate::digest::Digest;
use crate::ids::{AppId, BuildId, DeploymentId, OrgId, ReleaseId};
use crate::names::ComponentName;
use crate::observed::Exit;
use crate::spec::AppSpec;
use crate::tenancy::Actor;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    pub id: DeploymentId,
    pub org: OrgId,
    pub app: AppId,
    pub source: Source,
    pub state: DeploymentState,
    pub build: Option<BuildId>,
    pub release: Option<ReleaseId>,
    /// What served when it began; what serves again if it fails.
    pub previous: Option<ReleaseId>,
    pub actor: Actor,
    /// 32 hexadecimal digits, the same in every log line and span of this deployment.
    pub trace: String,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub phases: Vec<PhaseMark>,
    /// Told at the end: fields not honoured, a port that was found elsewhere.
    pub warnings: Vec<String>,
}

/// What is to be deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// A folder: its manifest, and what was read from it.
    Folder { manifest: Digest, size: crate::units::Bytes, spec: Box<AppSpec>, plan: BuildPlan },
    /// An earlier release, as it is: rollback and restart.
    Release { release: ReleaseId },
    /// The artifact and spec of an earlier release with today's variables: a new release.
    Reconfigure { release: ReleaseId },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DeploymentState {
    /// Acknowledged; nothing has happened yet.
    Queued,
    Building,
    /// New instances are placed and have to prove themselves.
    Starting,
    /// The gateways are told of the new instances and forget the old ones.
    Shifting,
    Live,
    Failed {
        cause: Box<Cause>,
    },
    /// A later deployment of the same app won.
    Superseded {
        by: DeploymentId,
    },
    Cancelled {
        by: Actor,
    },
}

impl DeploymentState {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Building => "building",
            Self::Starting => "starting",
            Self::Shifting => "shifting",
            Self::Live => "live",
            Self::Failed { .. } => "failed",
            Self::Superseded { .. } => "superseded",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    pub fn is_final(&self) -> bool {
        match self {
            Self::Queued | Self::Building | Self::Starting | Self::Shifting => false,
            Self::Live | Self::Failed { .. } | Self::Superseded { .. } | Self::Cancelled { .. } => {
                true
            }
        }
    }
}

impl fmt::Display for DeploymentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Queue,
    Build,
    Start,
    Shift,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Build => "build",
            Self::Start => "start",
            Self::Shift => "shift",
        }
    }
}

/// When a phase began; it ended when the next one began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseMark {
    pub phase: Phase,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
}

/// Why a deployment failed, for a person who has to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub code: CauseCode,
    pub message: String,
    pub hint: Option<String>,
    pub component: Option<ComponentName>,
    pub exit: Option<Exit>,
    /// The last lines that the build or the app wrote.
    pub tail: Vec<String>,
}

impl Cause {
    pub fn new(code: CauseCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            component: None,
            exit: None,
            tail: vec![],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseCode {
    BuildFailed,
    BuildTimeout,
    BuildInterrupted,
    RuntimeMissing,
    SourceLost,
    StartFailed,
    Exited,
    OutOfMemory,
    NotListening,
    ListensOnLoopback,
    ProbeFailed,
    NoCapacity,
    QuotaExceeded,
    DiskFull,
    Internal,
}

impl CauseCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BuildFailed => "build_failed",
            Self::BuildTimeout => "build_timeout",
            Self::BuildInterrupted => "build_interrupted",
            Self::RuntimeMissing => "runtime_missing",
            Self::SourceLost => "source_lost",
            Self::StartFailed => "start_failed",
            Self::Exited => "exited",
            Self::OutOfMemory => "out_of_memory",
            Self::NotListening => "not_listening",
            Self::ListensOnLoopback => "listens_on_loopback",
            Self::ProbeFailed => "probe_failed",
            Self::NoCapacity => "no_capacity",
            Self::QuotaExceeded => "quota_exceeded",
            Self::DiskFull => "disk_full",
            Self::Internal => "internal",
        }
    }
}
