//! What a drain would do, said before it is done.
//!
//! Never decides anything: who leaves and when is `crew`'s and `single`'s, and the tests hold each
//! preview against the drain that then happens.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::instance::{Instance, Intent};
use insula_model::node::Duty;
use insula_model::spec::{ComponentSpec, RolloutSpec};
use insula_model::{AppId, BuildId, ComponentName, InstanceId, NodeId, Timestamp};

use crate::crew::serves;
use crate::nodes::builds_on;
use crate::placement::{Ask, Kin, NoRoom, Room};
use crate::rollout::spec_of;
use crate::world::World;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainPreview {
    /// Started elsewhere first, then drained here.
    pub moves: Vec<InstanceId>,
    /// Stopped here before they are there again elsewhere, and why.
    pub leave_first: Vec<(InstanceId, String)>,
    /// What stays for now, and why.
    pub cannot: Vec<(InstanceId, String)>,
    /// What is not moved, and ends by itself here, and how.
    pub goes_on: Vec<(Ending, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Instance(InstanceId),
    Build(BuildId),
}

/// What becomes of an instance.
enum Destiny {
    Moves,
    LeavesFirst(String),
    Stays(String),
    GoesOn(&'static str),
}

/// As things stand now: what would move from a node, and what could not.
pub fn drain_preview(world: &World, node: NodeId) -> DrainPreview {
    let mut drained = world.clone();
    if let Some(row) = drained.nodes.get_mut(&node) {
        Arc::make_mut(row).duty = Duty::Drain { since: Timestamp::from_millis(0) };
    }
    let mut room = Room::of(&drained);
    let mut preview = DrainPreview::default();
    for one in in_turn(world, node) {
        match destiny(world, one, &mut room) {
            Destiny::Moves => preview.moves.push(one.id),
            Destiny::LeavesFirst(why) => preview.leave_first.push((one.id, why)),
            Destiny::Stays(why) => preview.cannot.push((one.id, why)),
            Destiny::GoesOn(how) => preview.goes_on.push((Ending::Instance(one.id), how)),
        }
    }
    let builds = builds_on(world, node);
    let how = "a build goes on to its end";
    preview.goes_on.extend(builds.map(|build| (Ending::Build(build.id), how)));
    preview
}

/// In the order in which they would leave: one after the other of each component, those that have
/// proved themselves least first. Where there is room for some, it is those that move.
fn in_turn(world: &World, node: NodeId) -> Vec<&Instance> {
    let mut crews: BTreeMap<(AppId, &ComponentName), Vec<&Instance>> = BTreeMap::new();
    for one in world.instances.of_node(node) {
        crews.entry((one.app, &one.component)).or_default().push(one);
    }
    let mut all = Vec::new();
    for (number, mut crew) in crews.into_values().enumerate() {
        crew.sort_by_key(|one| (serves(world, one), Reverse(one.id)));
        all.extend(crew.into_iter().enumerate().map(|(turn, one)| (turn, number, one)));
    }
    all.sort_by_key(|(turn, number, _)| (*turn, *number));
    all.into_iter().map(|(_, _, one)| one).collect()
}

fn destiny(world: &World, one: &Instance, room: &mut Room) -> Destiny {
    let stays = |why: &str| Destiny::Stays(why.to_owned());
    match one.intent {
        Intent::Drain { .. } => return Destiny::GoesOn("it finishes its requests"),
        Intent::Stop { .. } => return Destiny::GoesOn("it is ending"),
        Intent::Run if one.run.is_some() => return Destiny::GoesOn("a run goes on to its end"),
        Intent::Run => {}
    }
    if crate::nodes::is_lost(world, one.node) {
        return stays("its node is lost: nothing there can be told to end");
    }
    if !world.is_here(one.node) {
        return stays("its node is not heard: it moves once that answers");
    }
    if let Some(next) = replaces(world, one) {
        return Destiny::Stays(format!("it waits for {}, which is about to replace it", next.id));
    }
    let Some(spec) = spec_of(world, one) else { return stays("its release is not kept") };
    let kin = Kin::new(one.app, &one.component);
    match room.place(&Ask::of(spec, one.org), Some(&kin)) {
        Ok(_) => start_first(spec),
        Err(no) => Destiny::Stays(NoRoom::to_string(&no)),
    }
}

/// The deployment that is starting and takes over from an instance, if there is one.
fn replaces<'a>(world: &'a World, one: &Instance) -> Option<&'a Deployment> {
    let next = world.pending(one.app).filter(|d| d.state == DeploymentState::Starting).last();
    next.filter(|next| next.id != one.deployment)
}

fn start_first(spec: &ComponentSpec) -> Destiny {
    if spec.single {
        return Destiny::LeavesFirst("there may never be two of it".to_owned());
    }
    match spec.rollout {
        RolloutSpec::Rolling { unavailable, .. } if unavailable > 0 => {
            Destiny::LeavesFirst(format!("{unavailable} of its component may be unavailable"))
        }
        RolloutSpec::Rolling { .. } | RolloutSpec::BlueGreen => Destiny::Moves,
    }
}
