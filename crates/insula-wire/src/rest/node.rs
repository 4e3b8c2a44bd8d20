//! Nodes, for the operator, and the runtimes that they have, for everybody.

use insula_model::node::{self, NodeMode, RuntimeFound};
use insula_model::{NodeId, NodeName, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    #[schema(value_type = String)]
    pub id: NodeId,
    #[schema(value_type = String)]
    pub name: NodeName,
    /// Whether its agent is connected now.
    pub connected: bool,
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
    pub fn new(node: &node::Node, connected: bool, reserved: Capacity) -> Self {
        let mode = match node.offer.mode {
            NodeMode::Full => "full",
            NodeMode::Development => "development",
        };
        Self {
            id: node.id,
            name: node.name.clone(),
            connected,
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

impl From<&RuntimeFound> for Runtime {
    fn from(found: &RuntimeFound) -> Self {
        Self {
            runtime: found.runtime.as_str().into(),
            version: found.version.clone(),
            path: found.path.clone(),
        }
    }
}
