//! Chooses a node for each instance that has none.
//!
//! In: what the nodes have and what is reserved on them. Out: a node, or the reason of every node
//! that was refused. Never moves a placed instance and never looks at health: placement that
//! reacts to health moves load exactly when the fleet is weakest.

use std::collections::BTreeMap;
use std::fmt;

use insula_model::build::BuildState;
use insula_model::node::{Capacity, Node};
use insula_model::spec::Runtime;
use insula_model::{Bytes, MilliCpu, NodeId, NodeName, limits};

use crate::world::World;

/// How often a core is promised. An instance's cpu is a ceiling, and most are idle most of the time;
/// memory is promised once, because what is over it dies.
const CPU_OVERCOMMIT: u32 = 16;

/// What is left on each node while a plan is being made.
#[derive(Debug, Clone, PartialEq)]
pub struct Room {
    nodes: BTreeMap<NodeId, NodeRoom>,
}

#[derive(Debug, Clone, PartialEq)]
struct NodeRoom {
    name: NodeName,
    connected: bool,
    capacity: Capacity,
    runtimes: Vec<Runtime>,
    cpu: MilliCpu,
    memory: Bytes,
    instances: u32,
}

/// What an instance or a build asks of a node.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub cpu: MilliCpu,
    pub memory: Bytes,
    pub runtime: Runtime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Away,
    Memory { free: Bytes },
    Cpu { free: MilliCpu },
    Instances { most: u32 },
    Runtime { missing: Runtime },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => f.write_str("is not connected"),
            Self::Memory { free } => write!(f, "has {free} of memory free"),
            Self::Cpu { free } => write!(f, "has {free} cores free"),
            Self::Instances { most } => write!(f, "runs {most} instances already"),
            Self::Runtime { missing } => write!(f, "has no {missing}"),
        }
    }
}

/// Every node, with why it was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    pub refused: Vec<(NodeName, Refusal)>,
}

impl NoRoom {
    /// Whether a node that is away could take it once it is back.
    pub fn may_pass(&self) -> bool {
        self.refused.is_empty() || self.refused.iter().any(|(_, r)| *r == Refusal::Away)
    }
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.refused.is_empty() {
            return f.write_str("there is no node");
        }
        for (i, (node, refusal)) in self.refused.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{node} {refusal}")?;
        }
        Ok(())
    }
}

impl Room {
    pub fn of(world: &World) -> Self {
        let mut nodes: BTreeMap<NodeId, NodeRoom> = world
            .nodes
            .values()
            .map(|node| (node.id, NodeRoom::of(node, world.is_here(node.id))))
            .collect();
        for instance in world.instances.values() {
            if let Some(node) = nodes.get_mut(&instance.node) {
                node.take(instance.cpu, instance.memory);
            }
        }
        for build in world.builds.values() {
            if let BuildState::Running { node, .. } = &build.state
                && let Some(node) = nodes.get_mut(node)
            {
                node.take(limits::CPU_DEFAULT, limits::MEMORY_DEFAULT);
            }
        }
        Self { nodes }
    }

    /// Takes the least burdened node that fits.
    pub fn place(&mut self, ask: Ask) -> Result<NodeId, NoRoom> {
        let mut refused = Vec::new();
        let mut best: Option<(u64, NodeId)> = None;
        for (id, node) in &self.nodes {
            match node.refusal(ask) {
                Some(refusal) => refused.push((node.name.clone(), refusal)),
                None => {
                    let burden = node.burden(ask);
                    // The order of ids settles a tie, so the same world gives the same plan.
                    if best.is_none_or(|(least, _)| burden < least) {
                        best = Some((burden, *id));
                    }
                }
            }
        }
        let Some((_, id)) = best else { return Err(NoRoom { refused }) };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.take(ask.cpu, ask.memory);
        }
        Ok(id)
    }
}

impl NodeRoom {
    fn of(node: &Node, connected: bool) -> Self {
        Self {
            name: node.name.clone(),
            connected,
            capacity: Capacity {
                cpu: MilliCpu(node.offer.capacity.cpu.0.saturating_mul(CPU_OVERCOMMIT)),
                ..node.offer.capacity
            },
            runtimes: node.offer.runtimes.iter().map(|r| r.runtime).collect(),
            cpu: MilliCpu(0),
            memory: Bytes(0),
            instances: 0,
        }
    }

    fn take(&mut self, cpu: MilliCpu, memory: Bytes) {
        self.cpu.0 = self.cpu.0.saturating_add(cpu.0);
        self.memory.0 = self.memory.0.saturating_add(memory.0);
        self.instances += 1;
    }

    fn refusal(&self, ask: Ask) -> Option<Refusal> {
        let has_runtime = match ask.runtime {
            Runtime::Python | Runtime::Node => self.runtimes.contains(&ask.runtime),
            Runtime::Files | Runtime::Host => true,
        };
        let free_memory = Bytes(self.capacity.memory.0.saturating_sub(self.memory.0));
        let free_cpu = MilliCpu(self.capacity.cpu.0.saturating_sub(self.cpu.0));
        if !self.connected {
            Some(Refusal::Away)
        } else if !has_runtime {
            Some(Refusal::Runtime { missing: ask.runtime })
        } else if ask.memory > free_memory {
            Some(Refusal::Memory { free: free_memory })
        } else if ask.cpu > free_cpu {
            Some(Refusal::Cpu { free: free_cpu })
        } else if self.instances >= self.capacity.instances {
            Some(Refusal::Instances { most: self.capacity.instances })
        } else {
            None
        }
    }

    /// Share of the processor that would be reserved, then of the memory, in one number.
    fn burden(&self, ask: Ask) -> u64 {
        let parts = |used: u64, more: u64, all: u64| (used + more) * 10_000 / all.max(1);
        let cpu = parts(self.cpu.0.into(), ask.cpu.0.into(), self.capacity.cpu.0.into());
        let memory = parts(self.memory.0 >> 10, ask.memory.0 >> 10, self.capacity.memory.0 >> 10);
        (cpu << 32) | memory.min(u64::from(u32::MAX))
    }
}
