//! What a drain would do, said before it is done.

use std::sync::Arc;

use insula_model::instance::{Instance, Intent};
use insula_model::node::Duty;
use insula_model::{InstanceId, NodeId, Timestamp};

use crate::placement::{Ask, Kin, NoRoom, Room};
use crate::rollout::spec_of;
use crate::world::World;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainPreview {
    /// Started elsewhere first, then drained here.
    pub moves: Vec<InstanceId>,
    /// What stays, and why.
    pub cannot: Vec<(InstanceId, String)>,
    /// Stopped here first, then started elsewhere: there may never be two.
    pub singles: Vec<InstanceId>,
}

/// As things stand now: what would move from a node, and what could not.
pub fn drain_preview(world: &World, node: NodeId) -> DrainPreview {
    let mut drained = world.clone();
    if let Some(row) = drained.nodes.get_mut(&node) {
        Arc::make_mut(row).duty = Duty::Drain { since: Timestamp::from_millis(0) };
    }
    let mut room = Room::of(&drained);
    let mut preview = DrainPreview::default();
    for one in world.instances.of_node(node).filter(|i| i.intent == Intent::Run) {
        match destiny(world, one, &mut room) {
            Ok(true) => preview.singles.push(one.id),
            Ok(false) => preview.moves.push(one.id),
            Err(why) => preview.cannot.push((one.id, why)),
        }
    }
    preview
}

/// Whether it would move as a single one, or why it would not move.
fn destiny(world: &World, one: &Instance, room: &mut Room) -> Result<bool, String> {
    if one.run.is_some() {
        return Err("it is a run: it goes on to its end".into());
    }
    if crate::nodes::is_lost(world, one.node) {
        return Err("its node is lost: nothing there can be told to end".into());
    }
    if !world.is_here(one.node) {
        return Err("its node is not heard: it moves once that answers".into());
    }
    let Some(spec) = spec_of(world, one) else { return Err("its release is not kept".into()) };
    let kin = Kin::new(one.app, &one.component);
    match room.place(&Ask::of(spec, one.org), Some(&kin)) {
        Ok(_) => Ok(spec.single),
        Err(no) => Err(NoRoom::to_string(&no)),
    }
}
