//! What the control plane decided for one node: everything it should hold, and nothing else.
//!
//! A Target never carries a secret's value: it names secrets, and values travel beside it. It is
//! kept on the node's disk and obeyed for as long as the control plane is away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::Generation;
use crate::build::{Artifact, BuildPlan};
use crate::digest::Digest;
use crate::ids::{
    AppId, BuildId, DeploymentId, EnvironmentId, GatewayId, InstanceId, NodeId, OrgId, ReleaseId,
    RunId,
};
use crate::names::{AppName, ComponentName, EnvironmentName, OrgName, ProjectName, VariableName};
use crate::release::ReleaseNumber;
use crate::spec::{
    ComponentKind, Failover, HealthSpec, Isolation, LivenessSpec, Runtime, StopSpec,
};
use crate::units::{Bytes, MilliCpu, Millis};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTarget {
    pub node: NodeId,
    pub generation: Generation,
    pub instances: Vec<InstanceTarget>,
    pub builds: Vec<BuildTarget>,
    /// Who may speak to this node's relay, and what it may reach of others.
    #[serde(default)]
    pub fleet: FleetTarget,
}

/// What a node has to know of the rest of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetTarget {
    /// Gateways that may reach instances through this node's relay. Who is not named is refused,
    /// so what was removed from the fleet is refused as soon as this arrives.
    pub gateways: BTreeSet<GatewayId>,
    /// Nodes that run something of an environment that runs something here: they may reach it
    /// through our relay, and we reach them at theirs.
    pub neighbours: BTreeMap<NodeId, Neighbour>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    pub relay: SocketAddr,
    /// Those that run anything on both nodes, also what has no name: a worker calls others.
    #[serde(default)]
    pub environments: BTreeSet<EnvironmentId>,
    /// What is ready there of environments that run something here, by instance.
    pub instances: BTreeMap<InstanceId, RemoteInstance>,
}

/// An instance on another node, as names need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteInstance {
    pub environment: EnvironmentId,
    pub app: AppName,
    pub component: ComponentName,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceTarget {
    pub id: InstanceId,
    pub place: Place,
    pub component: ComponentName,
    pub kind: ComponentKind,
    pub runtime: Runtime,
    pub release: ReleaseId,
    pub release_number: ReleaseNumber,
    pub deployment: DeploymentId,
    pub run: Option<RunId>,
    pub artifact: Artifact,
    pub command: Command,
    /// Relative to `/app`: where the command runs, or what the file server serves.
    pub root: String,
    /// Nothing for what does not listen.
    pub port: Option<u16>,
    pub variables: BTreeMap<VariableName, String>,
    pub secrets: Vec<VariableName>,
    pub cpu: MilliCpu,
    pub memory: Bytes,
    pub pids: u32,
    pub disk: Bytes,
    pub health: HealthSpec,
    pub liveness: Option<LivenessSpec>,
    pub isolation: Isolation,
    pub stop: StopSpec,
    pub log_rate: Bytes,
    pub intent: InstanceIntent,
    /// Whether any route leads to it. Gateways reach no other: what has no route is reached by name,
    /// from its own environment. An older server does not say; then it may have one.
    #[serde(default = "may_be_routed")]
    pub routed: bool,
    /// Whether its node stops it when the server has been silent for too long.
    #[serde(default)]
    pub failover: Failover,
    pub trace: String,
}

fn may_be_routed() -> bool {
    true
}

/// Where in the order of things an instance belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub org: OrgId,
    pub org_name: OrgName,
    pub project_name: ProjectName,
    pub environment: EnvironmentId,
    pub environment_name: EnvironmentName,
    pub app: AppId,
    pub app_name: AppName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Run by the sandbox's own shell.
    Shell {
        line: String,
    },
    Exec {
        argv: Vec<String>,
    },
    /// Our file server, over `root`.
    Serve,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceIntent {
    /// Started, and started again when it ends; a run is started once.
    Run,
    /// The stop signal, the grace, the end.
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildTarget {
    pub id: BuildId,
    pub place: Place,
    pub deployment: DeploymentId,
    pub source: Digest,
    pub plan: BuildPlan,
    /// Part of the build's environment.
    pub variables: BTreeMap<VariableName, String>,
    /// Whose exact values are redacted in the log; a build does not get them.
    pub secrets: Vec<VariableName>,
    pub time_limit: Millis,
    pub memory: Bytes,
    pub cpu: MilliCpu,
    pub pids: u32,
    pub output_max: Bytes,
    pub attempt: u32,
    pub trace: String,
}

/// A receiver's answer to a Target from the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("generation {offered} is older than {held}, which is held already")]
pub struct Stale {
    pub held: Generation,
    pub offered: Generation,
}

/// Receivers refuse the past. The same generation again is a resend, not a mistake.
pub fn accept(held: Generation, offered: Generation) -> Result<Generation, Stale> {
    if offered < held { Err(Stale { held, offered }) } else { Ok(offered) }
}
