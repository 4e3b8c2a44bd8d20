//! Keeps what is live as large as it should be, and ends what belongs to nothing.
//!
//! Never touches the instances of a deployment that is under way, nor the components that it is
//! exchanging one by one (see `rollout`).

use insula_model::app::App;
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::instance::{Instance, Intent};
use insula_model::spec::{ComponentSpec, RolloutSpec};
use insula_model::{ComponentName, DeploymentId, ReleaseId, Timestamp};

use crate::action::{Action, Plan};
use crate::crew::{self, Asked, Crew, Pace};
use crate::nodes;
use crate::placement::NoRoom;
use crate::rollout::{self, is_ready, spec_of, wanted};
use crate::single;
use crate::world::World;

pub(crate) fn step(world: &World, app: &App, now: Timestamp, plan: &mut Plan) {
    // The rollout of this very app has just decided that all of them leave.
    if matches!(plan.actions.last(), Some(Action::Shift { deployment, .. })
        if world.deployments.get(deployment).is_some_and(|d| d.app == app.id))
    {
        return;
    }
    let goal = goal(world, app);
    end_strays(world, app, goal.map(|(deployment, _)| deployment), plan);
    let Some((deployment, release)) = goal else { return };
    let Some(release) = world.releases.get(&release) else { return };
    let starting = starting(world, app);
    for (name, spec) in &release.spec.components {
        if starting.is_some_and(|d| rollout::takes_over(world, app, d, name)) {
            continue;
        }
        let want = wanted(app, name, spec) as usize;
        let asked = Asked { app, name, goal: deployment, spec, want };
        if let Some(no) = component(world, &asked, now, plan) {
            plan.wait(app.id, format!("`{name}` cannot be placed: {no}"));
        }
    }
}

fn component(world: &World, asked: &Asked<'_>, now: Timestamp, plan: &mut Plan) -> Option<NoRoom> {
    if single::applies(world, asked.app, asked.name, asked.spec) {
        return single::step(world, asked, &asked.app.id.to_string(), false, plan);
    }
    // What a deployment that failed has left behind serves until the ones before it are back; what
    // one left that was overtaken serves until the next one begins to take its place.
    let coming = next_is_coming(world, asked.app);
    let left = |i: &Instance| !is_under_way(world, i) && is_ready(i) && rolls(world, i).is_some();
    let stays = |i: &Instance| coming && is_overtaken(world, i) && left(i);
    let holding = world.instances_of(asked.app.id).filter(|i| {
        let counts = i.component == *asked.name && i.intent == Intent::Run && stays(i);
        counts && i.deployment != asked.goal && !nodes::is_lost(world, i.node)
    });
    let mut crew = Crew::of(world, asked, |i| left(i) && !stays(i), now, plan);
    crew.held += holding.count();
    if starting(world, asked.app).is_some() {
        await_replacement(asked, &mut crew, plan);
    }
    let pace = crew.old.iter().find_map(|i| rolls(world, i)).unwrap_or(asked.spec.rollout);
    crew::step(world, asked, Pace::of(pace), &crew, now, plan)
}

/// A deployment that is starting takes over from all of these at once, in a moment: what has to leave
/// its node stays until then. Moved now, it would be ended as soon as it was there, and until then
/// take the room of those that replace it. If they do not prove themselves, it moves after that.
fn await_replacement(asked: &Asked<'_>, crew: &mut Crew<'_>, plan: &mut Plan) {
    for one in std::mem::take(&mut crew.evicted) {
        let what = format!("`{}` of {}", asked.name, asked.app.name);
        plan.wait(one.node, format!("{what} waits for the deployment that replaces it"));
        crew.keep.push(one);
    }
}

fn is_overtaken(world: &World, instance: &Instance) -> bool {
    let state = world.deployments.get(&instance.deployment).map(|d| &d.state);
    matches!(state, Some(DeploymentState::Superseded { .. }))
}

/// What should be there: of the deployment that shifts, else of the live one.
fn goal(world: &World, app: &App) -> Option<(DeploymentId, ReleaseId)> {
    let shifting = world.pending(app.id).filter(|d| d.state == DeploymentState::Shifting).last();
    let shifting = shifting.and_then(|d| Some((d.id, d.release?)));
    shifting.or(app.live.as_ref().map(|live| (live.deployment, live.release)))
}

fn starting<'a>(world: &'a World, app: &App) -> Option<&'a Deployment> {
    world.pending(app.id).filter(|d| d.state == DeploymentState::Starting).last()
}

/// Whether a deployment is on its way that will exchange what is there.
fn next_is_coming(world: &World, app: &App) -> bool {
    world.pending(app.id).any(|d| match &d.state {
        DeploymentState::Queued | DeploymentState::Building => true,
        DeploymentState::Starting
        | DeploymentState::Shifting
        | DeploymentState::Live
        | DeploymentState::Failed { .. }
        | DeploymentState::Superseded { .. }
        | DeploymentState::Cancelled { .. } => false,
    })
}

/// Whether its deployment has no verdict yet.
pub(crate) fn is_under_way(world: &World, instance: &Instance) -> bool {
    world.deployments.get(&instance.deployment).is_some_and(|d| !d.state.is_final())
}

/// How an instance is exchanged if it may serve beside those of another release.
pub(crate) fn rolls(world: &World, instance: &Instance) -> Option<RolloutSpec> {
    let spec: &ComponentSpec = spec_of(world, instance)?;
    match spec.rollout {
        RolloutSpec::Rolling { .. } if !spec.single => Some(spec.rollout),
        RolloutSpec::Rolling { .. } | RolloutSpec::BlueGreen => None,
    }
}

/// Ends what belongs neither to the goal nor to a deployment that is under way. Never on a node
/// that is not heard: what is to be done there can be decided when it is back. But what its node has
/// ended by itself is told to stop, or that would begin it once more.
fn end_strays(world: &World, app: &App, goal: Option<DeploymentId>, plan: &mut Plan) {
    let starting = starting(world, app);
    for one in world.instances_of(app.id).filter(|i| i.intent == Intent::Run) {
        let exchanged =
            starting.is_some_and(|d| rollout::takes_over(world, app, d, &one.component));
        if goal == Some(one.deployment) || exchanged || is_under_way(world, one) {
            continue;
        }
        if !world.is_here(one.node) {
            // One that the goal has, too, is fenced there, before the next one is placed.
            if !is_of_goal(world, app, &one.component) {
                single::fence(world, one, plan);
            }
            continue;
        }
        // `component` exchanges these, one by one.
        let replaceable = goal.is_some() && is_ready(one) && rolls(world, one).is_some();
        if replaceable && goes_on(world, app, &one.component) {
            continue;
        }
        let instance = one.id;
        let replaced = world
            .deployments
            .get(&one.deployment)
            .is_some_and(|d| d.state == DeploymentState::Live);
        plan.act(if replaced {
            Action::Drain { instance, why: "another release took over" }
        } else {
            Action::Stop { instance, why: "its deployment did not become live" }
        });
    }
}

/// Whether the goal has such a component, and not as a single one.
fn goes_on(world: &World, app: &App, component: &ComponentName) -> bool {
    let spec = spec_of_goal(world, app, component);
    spec.is_some_and(|spec| !single::applies(world, app, component, spec))
}

fn is_of_goal(world: &World, app: &App, component: &ComponentName) -> bool {
    spec_of_goal(world, app, component).is_some()
}

fn spec_of_goal<'a>(
    world: &'a World,
    app: &App,
    component: &ComponentName,
) -> Option<&'a ComponentSpec> {
    let release = goal(world, app).and_then(|(_, release)| world.releases.get(&release));
    release?.spec.components.get(component)
}
