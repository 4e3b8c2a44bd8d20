//! Never too many, never too few, never where it does not fit.

use insula_control::core::mutation::{Mutation, What};
use insula_model::deployment::DeploymentState;
use insula_model::instance::{Instance, Intent};
use insula_model::node::Duty;
use insula_model::spec::{ComponentSpec, RolloutSpec};
use insula_model::{AppId, ComponentName, DeploymentId, NodeId};
use insula_plan::{Action, World};

use super::{Property, is_lost, is_ready, of_component, spec_of, wanted};
use crate::sim::Sim;
use crate::words::short;

impl Sim {
    pub(super) fn places_few_enough(
        &mut self,
        mutation: &Mutation,
        before: &World,
        (app, goal, name): (AppId, DeploymentId, &ComponentName),
    ) {
        self.checked(Property::Surge);
        let (rows, world) = (&self.store.rows, &*mutation.world);
        let release = world.deployments.get(&goal).and_then(|row| row.release);
        let release = release.and_then(|id| world.releases.get(&id));
        let Some(spec) = release.and_then(|row| row.spec.components.get(name)) else { return };
        let want = wanted(world, app, name, spec);
        let (surge, whole) = match spec.rollout {
            _ if spec.single => (0, true),
            RolloutSpec::BlueGreen => (1, false),
            RolloutSpec::Rolling { surge: 0, unavailable: 0 } => (1, true),
            RolloutSpec::Rolling { surge, .. } => (surge, true),
        };
        let there = |row: &&Instance| spec.single || !is_lost(world, row.node);
        let own = of_component(rows, app, name)
            .filter(there)
            .filter(|row| row.deployment == goal && row.intent == Intent::Run)
            .count();
        let others = |row: &&Instance| {
            let old = rows.deployments.get(&row.deployment);
            old.is_none_or(|old| old.state.is_final())
        };
        let all = of_component(rows, app, name)
            .filter(there)
            .filter(|row| row.deployment == goal || others(row))
            .count();
        // Leftovers of several releases are exchanged at the pace of any of them.
        let paces = of_component(before, app, name).filter_map(|row| spec_of(before, row));
        let surge = paces.fold(surge, |surge, other| match other.rollout {
            RolloutSpec::BlueGreen => surge,
            RolloutSpec::Rolling { surge: more, unavailable } => {
                surge.max(more).max(u32::from(more == 0 && unavailable == 0))
            }
        });
        let surge = if spec.single { 0 } else { surge };
        let max = (want + surge) as usize;
        let rolls = whole
            && !spec.single
            && of_component(rows, app, name).all(|row| {
                spec_of(rows, row)
                    .is_some_and(|other| matches!(other.rollout, RolloutSpec::Rolling { .. }))
            });
        if own > max || (rolls && all > max) {
            let said = format!(
                "`{name}`: {own} of the goal and {all} in all, of {want} asked for and {surge} more"
            );
            self.violate(Property::Surge, said);
        }
    }

    pub(super) fn places_where_there_is_room(&mut self, mutation: &Mutation, nodes: &[NodeId]) {
        self.checked(Property::Capacity);
        for id in nodes {
            let Some(row) = mutation.world.nodes.get(id).cloned() else {
                let said = format!("{} is not known", short(&id.to_string()));
                return self.violate(Property::Capacity, said);
            };
            let load = self.store.rows.instances.load(*id);
            if load.memory > row.offer.capacity.memory {
                let said =
                    format!("{} has {} of {}", row.name, load.memory, row.offer.capacity.memory);
                return self.violate(Property::Capacity, said);
            }
            if row.duty != Duty::Serve || row.lost.is_some() || !mutation.world.is_here(*id) {
                let said = format!(
                    "{} ({:?}, lost {:?}) is given something",
                    row.name, row.duty, row.lost
                );
                return self.violate(Property::Capacity, said);
            }
        }
    }

    /// By what the control plane knows: as many others are ready as have to be.
    pub(super) fn leaves_enough(&mut self, mutation: &Mutation, row: &Instance, before: &World) {
        self.checked(Property::Enough);
        let (rows, world) = (&self.store.rows, &*mutation.world);
        let Some(app) = world.apps.get(&row.app).cloned() else { return };
        let moves = |steps: &What| match steps {
            What::Act { steps } => {
                steps.iter().any(|step| matches!(step.action, Action::Shift { .. }))
            }
            What::Greet { .. } | What::Saw { .. } | What::Ail { .. } => false,
        };
        let serves = |row: &Instance, world: &World| {
            is_ready(row)
                && mutation.world.is_here(row.node)
                && world.instances.contains_key(&row.id)
        };
        if !app.running || !before.instances.get(&row.id).is_some_and(|row| serves(row, world)) {
            return;
        }
        let pending = world
            .pending(row.app)
            .any(|it| matches!(it.state, DeploymentState::Starting | DeploymentState::Shifting));
        let shifting = world.pending(row.app).any(|it| it.state == DeploymentState::Shifting);
        // Of what the app has now: what is live, or takes over.
        let Some(live) = app.live.as_ref() else { return };
        let Some(spec) =
            world.releases.get(&live.release).and_then(|it| it.spec.components.get(&row.component))
        else {
            return;
        };
        let own = spec_of(rows, row);
        if spec.single || own.is_none_or(|own| own.single) || moves(&mutation.what) || shifting {
            return;
        }
        if pending
            && own.is_some_and(|own| own.rollout == RolloutSpec::BlueGreen)
            && row.deployment != live.deployment
        {
            return;
        }
        // Of a deployment that did not go live, and cannot serve beside what is.
        if row.deployment != live.deployment
            && !pending
            && own.is_some_and(|own| own.rollout == RolloutSpec::BlueGreen)
        {
            return;
        }
        let unavailable = |spec: &ComponentSpec| match spec.rollout {
            RolloutSpec::BlueGreen => 0,
            RolloutSpec::Rolling { unavailable, .. } => unavailable,
        };
        // Leftovers of several releases go at the pace of any of them, towards what the goal wants.
        let there = of_component(before, row.app, &row.component);
        let there = there.filter_map(|it| spec_of(before, it)).map(unavailable).max().unwrap_or(0);
        let least = |spec: &ComponentSpec| {
            let pace = unavailable(spec).max(there);
            wanted(world, row.app, &row.component, spec).saturating_sub(pace)
        };
        let newest = world
            .pending(row.app)
            .filter_map(|it| it.release)
            .filter_map(|id| world.releases.get(&id));
        let newest =
            newest.filter_map(|it| it.spec.components.get(&row.component)).map(least).min();
        let need = least(spec).min(newest.unwrap_or(u32::MAX)) as usize;
        // A drained node whose replacement had all its time is the one exception, and what leaves
        // beside it in one commit is not to blame for that.
        let drained = |node: &NodeId| {
            world.nodes.get(node).is_some_and(|node| matches!(node.duty, Duty::Drain { .. }))
        };
        let stays = |it: &&Instance| {
            let ran = before.instances.get(&it.id).is_some_and(|it| it.intent == Intent::Run);
            it.intent == Intent::Run || (ran && drained(&it.node))
        };
        let left = of_component(rows, row.app, &row.component)
            .filter(|it| stays(it) && serves(it, world))
            .count();
        // What went with a node that was removed since was ready, as far as could be known.
        let went = of_component(world, row.app, &row.component).filter(|it| {
            let gone = !rows.instances.contains_key(&it.id);
            gone && it.intent == Intent::Run && serves(it, world)
        });
        let left = left + went.count();
        if left < need && !drained(&row.node) {
            let said = format!(
                "{} leaves, and {left} of `{}` are ready of {need} at least",
                short(&row.id.to_string()),
                row.component
            );
            self.violate(Property::Enough, said);
        }
    }
}
