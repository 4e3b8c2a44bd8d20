//! Decisions as pure functions: what to do next, and why the rest waits.
//!
//! In: a `World` and the time. Out: a `Plan` of actions that `insula-control` carries out, each of
//! which may be repeated. No clock, no I/O, no logging, no randomness. A plan that was applied is
//! followed only by what it has made possible, and soon by nothing; the tests hold that for every
//! scenario.

pub mod action;
mod builds;
mod crew;
mod drain;
pub mod due;
pub mod effect;
pub mod instances;
pub mod nodes;
pub mod placement;
pub mod rollout;
pub mod routes;
pub mod runs;
mod single;
pub mod steady;
pub mod target;
mod verdict;
pub mod why;
pub mod world;

pub use action::{Action, Plan, Wait};
pub use due::{Due, Scope};
pub use world::{Edge, Measured, Presence, Rules, Watched, World};

use std::sync::Arc;

use insula_model::{HostName, Timestamp};

use due::Who;

/// What was seen and decided last, for whoever asks why.
pub type View = Arc<(Arc<World>, Arc<Plan>)>;

/// A view of nothing, before the first pass.
pub fn blank(suffix: HostName) -> View {
    let world = World::new(suffix);
    let nothing = Plan::new(placement::Room::of(&world));
    Arc::new((Arc::new(world), Arc::new(nothing)))
}

/// What to do next, and why the rest waits.
pub fn plan(world: &World, now: Timestamp) -> Plan {
    plan_for(world, &Scope::all(world), now)
}

/// The same, of some apps and nodes: see `due`.
pub fn plan_for(world: &World, scope: &Scope, now: Timestamp) -> Plan {
    let mut plan = Plan::new(placement::Room::of(world));
    for id in &scope.nodes {
        plan.part(Who::Node(*id), |plan| {
            if let Some(node) = world.nodes.get(id) {
                nodes::step(world, node, plan);
            }
        });
    }
    for id in &scope.apps {
        plan.part(Who::App(*id), |plan| {
            if let Some(app) = world.apps.get(id) {
                rollout::step(world, app, now, plan);
                steady::step(world, app, now, plan);
            }
            world.runs_of(*id).for_each(|run| runs::step(world, run, now, plan));
            let instances = world.instances.of_app(*id);
            instances.for_each(|instance| instances::step(world, instance, now, plan));
        });
    }
    plan.room.close();
    plan
}
