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
use crate::placement::NoRoom;
use crate::rollout::{self, is_ready, spec_of, wanted};
use crate::single;
use crate::world::World;

pub(crate) fn step(world: &World, app: &App, now: Timestamp, plan: &mut Plan) {
    let goal = goal(world, app);
    end_strays(world, app, goal.map(|(deployment, _)| deployment), plan);
    let Some((deployment, release)) = goal else { return };
    let Some(release) = world.releases.get(&release) else { return };
    let starting = starting(world, app);
    for (name, spec) in &release.spec.components {
        if starting.is_some_and(|d| rollout::takes_over(world, d, name)) {
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
    if single::applies(world, asked.app.id, asked.name, asked.spec) {
        return single::step(world, asked, &asked.app.id.to_string(), false, plan);
    }
    // What a deployment that failed has left behind serves until the ones before it are back.
    let is_old = |i: &Instance| !is_under_way(world, i) && is_ready(i) && rolls(world, i).is_some();
    let crew = Crew::of(world, asked, is_old, now, plan);
    let pace = crew.old.iter().find_map(|i| rolls(world, i)).unwrap_or(asked.spec.rollout);
    crew::step(world, asked, Pace::of(pace), &crew, now, plan)
}

/// What should be there: of the deployment that shifts, else of the live one.
fn goal(world: &World, app: &App) -> Option<(DeploymentId, ReleaseId)> {
    let shifting = world.pending(app.id).filter(|d| d.state == DeploymentState::Shifting).last();
    let shifting = shifting.and_then(|d| Some((d.id, d.release?)));
    shifting.or(app.live.as_ref().map(|live| (live.deployment, live.release)))
}

fn starting<'a>(world: &'a World, app: &App) -> Option<&'a Deployment> {
    world.pending(app.id).last().filter(|d| d.state == DeploymentState::Starting)
}

fn is_under_way(world: &World, instance: &Instance) -> bool {
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
/// that is not heard: what is to be done there can be decided when it is back.
fn end_strays(world: &World, app: &App, goal: Option<DeploymentId>, plan: &mut Plan) {
    let starting = starting(world, app);
    for one in world.instances_of(app.id).filter(|i| i.intent == Intent::Run) {
        let exchanged = starting.is_some_and(|d| rollout::takes_over(world, d, &one.component));
        if goal == Some(one.deployment)
            || exchanged
            || is_under_way(world, one)
            || !world.is_here(one.node)
        {
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
    let release = goal(world, app).and_then(|(_, release)| world.releases.get(&release));
    let spec = release.and_then(|r| r.spec.components.get(component));
    spec.is_some_and(|spec| !single::applies(world, app.id, component, spec))
}
