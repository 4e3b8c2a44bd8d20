//! A host with an agent: what it offers, what the operator wants of it, and how it fares.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::limits;
use crate::names::{LabelName, LabelValue, NodeName, PoolName, ZoneName};
use crate::spec::{Isolation, Runtime};
use crate::time::Timestamp;
use crate::units::{Bytes, MilliCpu};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub name: NodeName,
    pub offer: Offer,
    pub site: Site,
    pub agent_version: String,
    pub joined: Timestamp,
    /// The last time its agent opened a session; heartbeats are not stored.
    pub hello: Timestamp,
    /// What the operator wants of it.
    pub duty: Duty,
    /// Since when it has been given up: its instances are replaced elsewhere, and it gets nothing
    /// until it has come back and said what it holds.
    pub lost: Option<Timestamp>,
    /// What it said is wrong with it. Anything here keeps new instances away.
    pub ailments: Vec<Ailment>,
    /// Where its relay answers other nodes and gateways; nothing for a node that is alone.
    pub relay: Option<SocketAddr>,
}

/// What a host has, as its agent found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub capacity: Capacity,
    pub mode: NodeMode,
    pub runtimes: Vec<RuntimeFound>,
    #[serde(default)]
    pub architecture: Architecture,
    /// Every level that its agent can put an instance into.
    #[serde(default = "standard_only")]
    pub isolation: BTreeSet<Isolation>,
}

fn standard_only() -> BTreeSet<Isolation> {
    BTreeSet::from([Isolation::Standard])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    pub cpu: MilliCpu,
    pub memory: Bytes,
    pub instances: u32,
    #[serde(default = "pids_unknown")]
    pub pids: u32,
    #[serde(default = "disk_unknown")]
    pub disk: Bytes,
}

/// What is assumed of an agent that does not say: the kernel's own bound.
fn pids_unknown() -> u32 {
    limits::NODE_PIDS_UNKNOWN
}

fn disk_unknown() -> Bytes {
    limits::NODE_DISK_UNKNOWN
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            cpu: MilliCpu(0),
            memory: Bytes(0),
            instances: 0,
            pids: pids_unknown(),
            disk: disk_unknown(),
        }
    }
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

#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// An agent that does not say, or one that we do not know.
    #[default]
    Unknown,
    #[serde(rename = "x86_64")]
    X86,
    #[serde(rename = "aarch64")]
    Arm,
}

impl Architecture {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::X86 => "x86_64",
            Self::Arm => "aarch64",
        }
    }

    /// As Rust and the kernel name it.
    pub fn parse(text: &str) -> Self {
        match text {
            "x86_64" => Self::X86,
            "aarch64" => Self::Arm,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a node belongs, as the operator said when it joined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Nothing for the common pool. Instances come to a pool only when they ask for it.
    pub pool: Option<PoolName>,
    /// Nothing for a node whose zone nobody named: it is a zone of its own.
    pub zone: Option<ZoneName>,
    pub labels: BTreeMap<LabelName, LabelValue>,
}

/// What the operator wants of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "duty", rename_all = "snake_case")]
pub enum Duty {
    #[default]
    Serve,
    /// Keeps what it has, gets nothing new.
    Cordon { since: Timestamp },
    /// Gives what it has to others, one after the other, and gets nothing new.
    Drain { since: Timestamp },
}

/// Something that is wrong with a node, as it said itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ailment {
    pub kind: AilmentKind,
    /// For people: what is wrong, and with what.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AilmentKind {
    /// The disk is nearly full, or does not take writes.
    Disk,
    /// Its clock is away from the server's.
    Clock,
    /// Kernel rules that are ours were changed by somebody else.
    Rules,
    /// The way to the server or to other nodes became bad.
    Network,
    /// Something else that its agent needs: the keeper, cgroups.
    Host,
}

impl AilmentKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Clock => "clock",
            Self::Rules => "rules",
            Self::Network => "network",
            Self::Host => "host",
        }
    }
}

/// How a node fares, in one word: what `insula nodes` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Ready,
    /// Missed a heartbeat; nothing follows from it yet, but it gets nothing new.
    Suspect,
    /// Answers, and says that something is wrong with it.
    Degraded,
    /// Missed so many that its instances are replaced elsewhere.
    Lost,
    Cordoned,
    Draining,
    /// Drained: it holds nothing any more, and may go.
    Drained,
}

impl NodeState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Suspect => "suspect",
            Self::Degraded => "degraded",
            Self::Lost => "lost",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
