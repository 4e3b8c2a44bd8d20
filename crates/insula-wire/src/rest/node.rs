//! Nodes, for the operator, and the runtimes that they have, for everybody.

use std::collections::BTreeMap;

use insula_model::node::{self, Duty, NodeMode, NodeState, RuntimeFound};
use insula_model::{
    InstanceId, LabelName, LabelValue, NodeId, NodeName, PoolName, Timestamp, ZoneName,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    #[schema(value_type = String)]
    pub id: NodeId,
    #[schema(value_type = String)]
    pub name: NodeName,
    /// `ready`, `suspect`, `degraded`, `lost`, `cordoned`, `draining` or `drained`.
    pub state: String,
    /// What is wrong with it, as it said itself; or since when it is lost.
    pub notes: Vec<String>,
    /// Whether it is heard now.
    pub connected: bool,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: BTreeMap<LabelName, LabelValue>,
    pub architecture: String,
    /// Levels of isolation that it can give.
    pub isolation: Vec<String>,
    /// Where its relay answers the rest of the fleet.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<std::net::SocketAddr>,
    /// `full` or `development`.
    pub mode: String,
    pub capacity: Capacity,
    /// Reserved by what is placed on it.
    pub reserved: Capacity,
    pub runtimes: Vec<Runtime>,
    pub agent_version: String,
    #[schema(value_type = String, format = DateTime)]
    pub joined: Timestamp,
    /// The last time its agent connected.
    #[schema(value_type = String, format = DateTime)]
    pub hello: Timestamp,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    pub cpu_millis: u32,
    pub memory_bytes: u64,
    pub instances: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Runtime {
    /// `python`, `node`, `files` or `host`.
    pub runtime: String,
    /// As it names itself.
    pub version: String,
    pub path: String,
}

impl Node {
    pub fn new(node: &node::Node, state: NodeState, connected: bool, reserved: Capacity) -> Self {
        let mode = match node.offer.mode {
            NodeMode::Full => "full",
            NodeMode::Development => "development",
        };
        Self {
            id: node.id,
            name: node.name.clone(),
            state: state.as_str().into(),
            notes: notes(node),
            connected,
            pool: node.site.pool.clone(),
            zone: node.site.zone.clone(),
            labels: node.site.labels.clone(),
            architecture: node.offer.architecture.as_str().into(),
            isolation: node.offer.isolation.iter().map(|i| i.as_str().into()).collect(),
            relay: node.relay,
            mode: mode.into(),
            capacity: Capacity {
                cpu_millis: node.offer.capacity.cpu.0,
                memory_bytes: node.offer.capacity.memory.0,
                instances: node.offer.capacity.instances,
            },
            reserved,
            runtimes: node.offer.runtimes.iter().map(Runtime::from).collect(),
            agent_version: node.agent_version.clone(),
            joined: node.joined,
            hello: node.hello,
        }
    }
}

fn notes(node: &node::Node) -> Vec<String> {
    let lost = node.lost.map(|since| format!("not heard of since {since}"));
    let duty = match node.duty {
        Duty::Serve => None,
        Duty::Cordon { since } => Some(format!("cordoned since {since}")),
        Duty::Drain { since } => Some(format!("draining since {since}")),
    };
    let ailments = node.ailments.iter().map(|a| format!("{}: {}", a.kind.as_str(), a.message));
    lost.into_iter().chain(duty).chain(ailments).collect()
}

/// What a drain would do, said beforehand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainPreview {
    /// Replaced elsewhere first, then stopped.
    pub moves: Vec<Moving>,
    /// Stopped before they are there again elsewhere, and why: they are `single`, say.
    pub singles: Vec<Moving>,
    /// These stay for now, and why.
    pub stays: Vec<Moving>,
    /// These are not moved: they end by themselves, and the node is drained when they have.
    #[serde(default)]
    pub goes_on: Vec<Ending>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Moving {
    #[schema(value_type = String)]
    pub instance: InstanceId,
    /// `org/app component`.
    pub what: String,
    /// Why it cannot move, or not like others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What ends by itself on a node that is being drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ending {
    /// The id of an instance or a build.
    pub subject: String,
    /// `org/app component`, or `org/app` of a build.
    pub what: String,
    /// `a run goes on to its end`, say.
    pub how: String,
}

/// What the operator changes about a node. What is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSite {
    /// An empty text takes the node back into the common pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Likewise: no zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// All labels that it shall have.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<LabelName, LabelValue>>,
}

impl From<&RuntimeFound> for Runtime {
    fn from(found: &RuntimeFound) -> Self {
        Self {
            runtime: found.runtime.as_str().into(),
            version: found.version.clone(),
            path: found.path.clone(),
        }
    }
}
