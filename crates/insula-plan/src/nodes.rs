//! How nodes fare: lost, welcomed back, and the one word that says it.
//!
//! A node counts as lost when it has been silent for a few heartbeats; nothing here moves its
//! instances (see `steady`), and nothing stops them.

use insula_model::node::{Duty, Node, NodeState};
use insula_model::{Millis, limits};

use crate::action::{Action, Plan};
use crate::world::{Presence, World};

pub(crate) fn step(world: &World, node: &Node, plan: &mut Plan) {
    match (world.presence(node.id), node.lost) {
        (Presence::Silent { span }, None) if span >= patience(world) => {
            plan.act(Action::Lose { node: node.id });
        }
        (Presence::Here, Some(_)) => plan.act(Action::Welcome { node: node.id }),
        (Presence::Here, None) | (Presence::Silent { .. }, _) => {}
    }
}

/// How long a node may be silent before it is given up.
fn patience(world: &World) -> Millis {
    Millis(world.rules.heartbeat.0 * u64::from(limits::HEARTBEATS_MISSED_MAX))
}

/// The gravest thing that can be said of a node.
pub fn state(world: &World, node: &Node) -> NodeState {
    if node.lost.is_some() {
        return NodeState::Lost;
    }
    let silent = !world.is_here(node.id);
    match node.duty {
        Duty::Drain { .. } if world.instances.count_on(node.id) == 0 => NodeState::Drained,
        Duty::Drain { .. } => NodeState::Draining,
        Duty::Cordon { .. } => NodeState::Cordoned,
        Duty::Serve if silent => NodeState::Suspect,
        Duty::Serve if !node.ailments.is_empty() => NodeState::Degraded,
        Duty::Serve => NodeState::Ready,
    }
}
