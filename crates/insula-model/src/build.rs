//! Source to artifact.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::deployment::Cause;
use crate::digest::Digest;
use crate::ids::{AppId, BuildId, DeploymentId, NodeId, OrgId};
use crate::spec::Runtime;
use crate::time::Timestamp;
use crate::units::Bytes;

/// What a build will do, decided before it starts. Empty steps mean that the source is the artifact.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BuildPlan {
    pub steps: Vec<BuildStep>,
    /// Things worth telling that do not stop the build ("python 3.14 is not here, using 3.11").
    pub warnings: Vec<String>,
}

/// One command inside the build sandbox. An argument vector: no shell of ours reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildStep {
    /// For people: "install packages".
    pub name: String,
    pub runtime: Runtime,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Relative to `/app`; empty for its top.
    pub dir: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    pub id: BuildId,
    pub org: OrgId,
    pub app: AppId,
    pub deployment: DeploymentId,
    /// The manifest of the source.
    pub source: Digest,
    pub plan: BuildPlan,
    pub state: BuildState,
    /// Of the attempt that runs.
    #[serde(default, skip_serializing_if = "Turn::is_unknown")]
    pub turn: Turn,
    pub created: Timestamp,
    pub updated: Timestamp,
}

/// Whether a node has begun with a build that it was given: builds take turns there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "turn", rename_all = "snake_case")]
pub enum Turn {
    /// The node has not said.
    #[default]
    Unknown,
    Waiting,
    /// What a build's time is counted from.
    Begun {
        at: Timestamp,
    },
}

impl Turn {
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Unknown => true,
            Self::Waiting | Self::Begun { .. } => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum BuildState {
    Queued,
    Running { node: NodeId, attempt: u32 },
    Done { artifact: Artifact },
    Failed { cause: Cause },
    Cancelled,
}

impl BuildState {
    pub fn is_final(&self) -> bool {
        match self {
            Self::Queued | Self::Running { .. } => false,
            Self::Done { .. } | Self::Failed { .. } | Self::Cancelled => true,
        }
    }
}

/// An immutable result, by digest: what `/app` is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Artifact {
    /// The manifest of the source: the lower of the two layers.
    pub source: Digest,
    /// What the build added on top of it: a compressed archive. Nothing if there was no build.
    pub built: Option<Digest>,
    pub size: Bytes,
}
