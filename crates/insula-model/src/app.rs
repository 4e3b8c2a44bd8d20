//! Projects, environments, apps, and what is configured on them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{AppId, DeploymentId, DomainId, EnvironmentId, OrgId, ProjectId, ReleaseId};
use crate::names::{AppName, ComponentName, EnvironmentName, HostName, ProjectName, VariableName};
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    pub id: ProjectId,
    pub org: OrgId,
    pub name: ProjectName,
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    pub id: EnvironmentId,
    pub org: OrgId,
    pub project: ProjectId,
    pub name: EnvironmentName,
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    pub id: AppId,
    pub org: OrgId,
    pub project: ProjectId,
    pub environment: EnvironmentId,
    pub name: AppName,
    pub created: Timestamp,
    /// Whether its instances should run at all (`insula stop` and `start`).
    pub running: bool,
    /// Instances asked for by `insula scale`, instead of what the spec says.
    pub scale: BTreeMap<ComponentName, u32>,
    /// What serves now, once something has.
    pub live: Option<Live>,
}

/// The release that proved itself last, and the deployment that made it so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    pub release: ReleaseId,
    pub deployment: DeploymentId,
    pub since: Timestamp,
}

impl App {
    /// The host that every app has: its name and six characters of its id, under the suffix.
    pub fn default_host(&self, suffix: &HostName) -> Option<HostName> {
        format!("{}-{}.{suffix}", self.name, self.id.short()).parse().ok()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    pub id: DomainId,
    pub org: OrgId,
    pub app: AppId,
    pub host: HostName,
    pub created: Timestamp,
}

/// Where a variable or a secret is set. The narrower scope wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "scope", content = "id", rename_all = "snake_case")]
pub enum ConfigScope {
    Project(ProjectId),
    Environment(EnvironmentId),
    App(AppId),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    pub org: OrgId,
    pub scope: ConfigScope,
    pub name: VariableName,
    pub value: String,
    pub updated: Timestamp,
}

/// What is shown of a secret: everything but its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    pub org: OrgId,
    pub scope: ConfigScope,
    pub name: VariableName,
    /// Counts the values it has had.
    pub version: u32,
    pub updated: Timestamp,
}
