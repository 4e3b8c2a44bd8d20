//! Artifact, config and spec: immutable, numbered, kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::build::Artifact;
use crate::ids::{AppId, DeploymentId, OrgId, ReleaseId};
use crate::names::VariableName;
use crate::spec::AppSpec;
use crate::tenancy::Actor;
use crate::time::Timestamp;

/// `v1`, `v2`, …: counted in one app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseNumber(pub u32);

impl fmt::Display for ReleaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub id: ReleaseId,
    pub org: OrgId,
    pub app: AppId,
    pub number: ReleaseNumber,
    /// The deployment that cut it.
    pub deployment: DeploymentId,
    pub artifact: Artifact,
    pub spec: AppSpec,
    /// Frozen: of project, environment and app, the narrower winning.
    pub variables: BTreeMap<VariableName, String>,
    /// Named, not frozen: what runs gets the newest value.
    pub secrets: BTreeSet<VariableName>,
    pub actor: Actor,
    pub created: Timestamp,
}
