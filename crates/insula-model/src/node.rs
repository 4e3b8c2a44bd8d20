//! A host with an agent.

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::names::NodeName;
use crate::spec::Runtime;
use crate::time::Timestamp;
use crate::units::{Bytes, MilliCpu};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub name: NodeName,
    pub capacity: Capacity,
    pub mode: NodeMode,
    pub runtimes: Vec<RuntimeFound>,
    pub agent_version: String,
    pub joined: Timestamp,
    /// The last time its agent opened a session; heartbeats are not stored.
    pub hello: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    pub cpu: MilliCpu,
    pub memory: Bytes,
    pub instances: u32,
}

/// What a node's agent is allowed to do on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeMode {
    /// As root: own networks, hard limits.
    Full,
    /// As an ordinary user: namespaces only. One org.
    Development,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeFound {
    pub runtime: Runtime,
    /// As it names itself: `3.11.2`.
    pub version: String,
    pub path: String,
}
