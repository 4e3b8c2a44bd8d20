//! Releases: what was cut, and of what.

use std::collections::BTreeMap;

use insula_model::release::{self, ReleaseNumber};
use insula_model::spec::{AppSpec, ComponentSpec};
use insula_model::{
    AppId, ComponentName, DeploymentId, Digest, ReleaseId, Timestamp, VariableName,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    #[schema(value_type = String)]
    pub id: ReleaseId,
    #[schema(value_type = String)]
    pub app: AppId,
    /// 3 for `v3`.
    #[schema(value_type = u32)]
    pub number: ReleaseNumber,
    /// Whether it serves now.
    pub live: bool,
    /// Whether its files are still there, so that one can go back to it.
    pub kept: bool,
    #[schema(value_type = String)]
    pub deployment: DeploymentId,
    #[schema(value_type = String)]
    pub source: Digest,
    /// What the build added to the source.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built: Option<Digest>,
    pub size_bytes: u64,
    pub components: Vec<Component>,
    /// As they were when it was cut.
    #[schema(value_type = BTreeMap<String, String>)]
    pub variables: BTreeMap<VariableName, String>,
    /// Names only: what runs gets the newest values.
    #[schema(value_type = Vec<String>)]
    pub secrets: Vec<VariableName>,
    pub actor: String,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

/// A component as its release describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Component {
    #[schema(value_type = String)]
    pub name: ComponentName,
    /// `service`, `worker`, `job` or `static`.
    pub kind: String,
    /// `python`, `node`, `files` or `host`.
    pub runtime: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    pub root: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub instances: u32,
    pub cpu_millis: u32,
    pub memory_bytes: u64,
    pub pids: u32,
    pub disk_bytes: u64,
    pub routes: Vec<ComponentRoute>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    pub startup_ms: u64,
    pub single: bool,
    pub drain_ms: u64,
    pub stop_signal: String,
    pub grace_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComponentRoute {
    pub path: String,
    /// Whether the app sees the prefix.
    pub preserve: bool,
}

impl Component {
    pub fn new(name: &ComponentName, spec: &ComponentSpec) -> Self {
        let routes = spec.routes.iter();
        Self {
            name: name.clone(),
            kind: spec.kind.as_str().into(),
            runtime: spec.runtime.as_str().into(),
            run: spec.run.clone(),
            root: spec.root.clone(),
            port: spec.kind.listens().then_some(spec.port),
            instances: spec.instances,
            cpu_millis: spec.cpu.0,
            memory_bytes: spec.memory.0,
            pids: spec.pids,
            disk_bytes: spec.disk.0,
            routes: routes
                .map(|route| ComponentRoute { path: route.path.clone(), preserve: route.preserve })
                .collect(),
            health_path: spec.health.path.clone(),
            startup_ms: spec.health.startup.0,
            single: spec.single,
            drain_ms: spec.drain.0,
            stop_signal: spec.stop.signal.as_str().into(),
            grace_ms: spec.stop.grace.0,
        }
    }

    pub fn all(spec: &AppSpec) -> Vec<Self> {
        spec.components.iter().map(|(name, component)| Self::new(name, component)).collect()
    }
}

impl Release {
    pub fn new(release: &release::Release, live: bool, kept: bool) -> Self {
        Self {
            id: release.id,
            app: release.app,
            number: release.number,
            live,
            kept,
            deployment: release.deployment,
            source: release.artifact.source,
            built: release.artifact.built,
            size_bytes: release.artifact.size.0,
            components: Component::all(&release.spec),
            variables: release.variables.clone(),
            secrets: release.secrets.iter().cloned().collect(),
            actor: release.actor.to_string(),
            created: release.created,
        }
    }
}
