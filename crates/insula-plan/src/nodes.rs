//! How nodes fare: lost, welcomed back, drained, and the one word that says it.
//!
//! A node counts as lost when it has been silent for a few heartbeats. Nothing here moves its
//! instances (see `crew` and `single`), and nothing anywhere stops them because of its silence.

use insula_model::build::{Build, BuildState};
use insula_model::instance::Intent;
use insula_model::node::{Duty, Node, NodeState};
use insula_model::{Millis, NodeId, Timestamp, limits};

use crate::action::{Action, Plan};
use crate::world::{Presence, World};

pub use crate::drain::{DrainPreview, Ending, drain_preview};

/// After the control plane was cut off from every node, how long those that are not back yet are
/// waited for. Agents redial within moments; the rest is for a network that comes back in parts.
const RETURN_TIME_MAX: Millis = Millis::secs(15);

pub(crate) fn step(world: &World, node: &Node, plan: &mut Plan) {
    match (world.presence(node.id), node.lost) {
        (Presence::Silent { span }, None) if span >= patience(world) => {
            plan.act(Action::Lose { node: node.id });
        }
        (Presence::Here, Some(_)) => plan.act(Action::Welcome { node: node.id }),
        (Presence::Here, None) | (Presence::Silent { .. }, _) => {}
    }
    if matches!(node.duty, Duty::Drain { .. }) {
        tell_what_ends(world, node, plan);
    }
}

/// What a drained node still has and nobody moves: it ends by itself. Builds do, too; who asks why
/// finds them there.
fn tell_what_ends(world: &World, node: &Node, plan: &mut Plan) {
    for one in world.instances.of_node(node.id) {
        let app = world.apps.get(&one.app).map_or("a deleted app", |app| app.name.as_str());
        let what = format!("`{}` of {app}", one.component);
        match one.intent {
            Intent::Run if one.run.is_some() => {
                plan.wait(node.id, format!("{what} is a run: it goes on to its end"));
            }
            Intent::Run => {}
            Intent::Drain { .. } => plan.wait(node.id, format!("{what} finishes its requests")),
            Intent::Stop { .. } => plan.wait(node.id, format!("{what} is ending")),
        }
    }
}

/// How long a node may be silent before it is given up.
fn patience(world: &World) -> Millis {
    Millis(world.rules.heartbeat.0 * u64::from(limits::HEARTBEATS_MISSED_MAX))
}

/// Whether a node was given up and is not back yet, or was removed. One that is here again is being
/// welcomed in this very plan.
pub(crate) fn is_lost(world: &World, node: NodeId) -> bool {
    world.nodes.get(&node).is_none_or(|n| n.lost.is_some() && !world.is_here(node))
}

pub(crate) fn is_draining(world: &World, node: NodeId) -> bool {
    world.nodes.get(&node).is_some_and(|n| matches!(n.duty, Duty::Drain { .. }))
}

pub(crate) fn name(world: &World, node: NodeId) -> String {
    world.nodes.get(&node).map_or_else(|| node.to_string(), |n| n.name.to_string())
}

/// Whether a lost node may be back in a moment, so that what it has is not replaced yet.
///
/// When no node has been heard all the time since this one was lost, it was not the node that was
/// away but this control plane; that the others came back a moment earlier says nothing of it.
pub(crate) fn may_be_back(world: &World, id: NodeId, now: Timestamp, plan: &mut Plan) -> bool {
    let Some(lost) = world.nodes.get(&id).and_then(|node| node.lost) else { return false };
    let Some(witness) = plan.witness(world) else { return false };
    let until = witness.plus(RETURN_TIME_MAX);
    if witness < lost || now >= until {
        return false;
    }
    plan.wake_at(until);
    plan.hold();
    true
}

/// When the session began that has lasted longest, of those that are not lost.
pub(crate) fn oldest_session(world: &World) -> Option<Timestamp> {
    world.nodes.values().filter(|n| !is_lost(world, n.id)).map(|n| n.hello).min()
}

/// The gravest thing that can be said of a node.
pub fn state(world: &World, node: &Node) -> NodeState {
    if node.lost.is_some() {
        return NodeState::Lost;
    }
    let silent = !world.is_here(node.id);
    match node.duty {
        Duty::Drain { .. } if holds_nothing(world, node.id) => NodeState::Drained,
        Duty::Drain { .. } => NodeState::Draining,
        Duty::Cordon { .. } => NodeState::Cordoned,
        Duty::Serve if silent => NodeState::Suspect,
        Duty::Serve if !node.ailments.is_empty() => NodeState::Degraded,
        Duty::Serve => NodeState::Ready,
    }
}

fn holds_nothing(world: &World, id: NodeId) -> bool {
    world.instances.count_on(id) == 0 && builds_on(world, id).next().is_none()
}

/// Builds that were given to a node and have no verdict yet.
pub(crate) fn builds_on(world: &World, id: NodeId) -> impl Iterator<Item = &Build> {
    world.builds_under_way().filter(move |build| match &build.state {
        BuildState::Running { node, .. } => *node == id,
        BuildState::Queued
        | BuildState::Done { .. }
        | BuildState::Failed { .. }
        | BuildState::Cancelled => false,
    })
}
