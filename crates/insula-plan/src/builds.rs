//! The build of a deployment: begun, watched, and begun again elsewhere when its node is gone.

use insula_model::build::{Build, BuildPlan, BuildState, Turn};
use insula_model::deployment::{Cause, CauseCode, Deployment, Phase};
use insula_model::spec::Runtime;
use insula_model::{Millis, Timestamp, limits};

use crate::action::{Action, Plan};
use crate::nodes;
use crate::placement::Ask;
use crate::rollout::{PLACE_TIME_MAX, Search, no_room, seen_by};
use crate::verdict::fail;
use crate::world::World;

/// Beyond the build's own time limit, which its node enforces.
const BUILD_SLACK: Millis = Millis::secs(60);
/// How long a build may be in the queue of a node that does not answer any more: four builds that
/// take all their time. On one that answers it may be there for as long as its turn takes, which is
/// bounded by what the node has room for.
const QUEUE_TIME_MAX: Millis = Millis::secs(60 * 60);

/// Begins a build if its org may have one more at this moment.
pub(crate) fn begin(
    world: &World,
    deployment: &Deployment,
    build: &BuildPlan,
    now: Timestamp,
    plan: &mut Plan,
) {
    let running = running(world, deployment) + planned(world, deployment, plan);
    let at_once = world.orgs.get(&deployment.org).map_or(0, |o| o.quota.builds_at_once);
    if running >= at_once {
        let reason = format!("{running} builds of its org are running, of {at_once} at once");
        return plan.wait(deployment.id, reason);
    }
    let ask = Ask::build(runtime(build), deployment.org);
    match plan.room.place(&ask, None) {
        Ok(node) => plan.act(Action::StartBuild { deployment: deployment.id, node }),
        Err(no) => {
            no_room(world, deployment, &Search { component: None, ask: &ask }, &no, now, plan);
        }
    }
}

fn runtime(build: &BuildPlan) -> Runtime {
    build.steps.first().map_or(Runtime::Host, |step| step.runtime)
}

fn running(world: &World, deployment: &Deployment) -> u32 {
    let others = |b: &&Build| b.org == deployment.org && b.deployment != deployment.id;
    let running = world.builds_under_way().filter(others);
    u32::try_from(running.count()).unwrap_or(u32::MAX)
}

/// Those that this very plan begins for the same org.
fn planned(world: &World, deployment: &Deployment, plan: &Plan) -> u32 {
    let same_org = |id| world.deployments.get(id).is_some_and(|d| d.org == deployment.org);
    let planned = plan.actions.iter().filter(
        |action| matches!(action, Action::StartBuild { deployment, .. } if same_org(deployment)),
    );
    u32::try_from(planned.count()).unwrap_or(u32::MAX)
}

pub(crate) fn step(world: &World, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    let Some(build) = deployment.build.and_then(|id| world.builds.get(&id)) else {
        let cause = Cause::new(CauseCode::Internal, "its build is not there any more");
        return fail(deployment, cause, plan);
    };
    match &build.state {
        BuildState::Done { artifact } => {
            plan.act(Action::CutRelease { deployment: deployment.id, artifact: *artifact });
        }
        BuildState::Failed { cause } => retry_or_fail(world, deployment, build, cause, now, plan),
        BuildState::Cancelled => {
            let cause = Cause::new(CauseCode::BuildInterrupted, "its build was cancelled");
            fail(deployment, cause, plan);
        }
        BuildState::Running { node, .. } if !world.nodes.contains_key(node) => {
            let cause = Cause::new(CauseCode::BuildInterrupted, "its node is gone");
            retry_or_fail(world, deployment, build, &cause, now, plan);
        }
        BuildState::Running { node, .. } if nodes::is_lost(world, *node) => {
            leave_lost_node(world, deployment, build, now, plan);
        }
        BuildState::Queued | BuildState::Running { .. } => {
            let reason = match build.turn {
                Turn::Waiting => "the build waits for its turn on its node",
                Turn::Unknown | Turn::Begun { .. } => "the build is running",
            };
            wait(world, deployment, build, reason.to_owned(), now, plan);
        }
    }
}

/// Begins again elsewhere at once. What nobody else can take goes on where it is, if it does.
fn leave_lost_node(
    world: &World,
    deployment: &Deployment,
    build: &Build,
    now: Timestamp,
    plan: &mut Plan,
) {
    let begun = attempts(deployment);
    if begun >= limits::BUILD_ATTEMPTS_MAX {
        let said = format!("the node of its build is lost, after {begun} attempts");
        return wait(world, deployment, build, said, now, plan);
    }
    let ask = Ask::build(runtime(&build.plan), deployment.org);
    let said = match plan.room.place(&ask, None) {
        Ok(node) => {
            let attempt = begun + 1;
            return plan.act(Action::RetryBuild { deployment: deployment.id, node, attempt });
        }
        Err(no) => format!("the node of its build is lost, and no other can take it: {no}"),
    };
    wait(world, deployment, build, said, now, plan);
}

fn wait(
    world: &World,
    deployment: &Deployment,
    build: &Build,
    reason: String,
    now: Timestamp,
    plan: &mut Plan,
) {
    match deadline(world, build) {
        Some(deadline) if now >= deadline => fail(deployment, overdue(build), plan),
        Some(deadline) => {
            plan.wait(deployment.id, reason);
            plan.wake_at(deadline);
        }
        None => plan.wait(deployment.id, reason),
    }
}

/// When a build has no time left. It counts from when its node began with it: other orgs may hold
/// the node's places for builds, and this one's time is not theirs to use up.
fn deadline(world: &World, build: &Build) -> Option<Timestamp> {
    let answers = match &build.state {
        BuildState::Running { node, .. } => world.is_here(*node),
        BuildState::Queued
        | BuildState::Done { .. }
        | BuildState::Failed { .. }
        | BuildState::Cancelled => false,
    };
    let whole = limits::BUILD_TIME_MAX;
    let deadline = match build.turn {
        Turn::Waiting if answers => return None,
        Turn::Waiting => build.updated.plus(QUEUE_TIME_MAX),
        Turn::Begun { at } => at.plus(whole).plus(BUILD_SLACK),
        Turn::Unknown => build.updated.plus(whole).plus(BUILD_SLACK),
    };
    Some(seen_by(world, deadline))
}

fn overdue(build: &Build) -> Cause {
    let message = match build.turn {
        Turn::Waiting => format!("its node is away, and its turn did not come in {QUEUE_TIME_MAX}"),
        Turn::Unknown | Turn::Begun { .. } => {
            format!("the build took longer than {}", limits::BUILD_TIME_MAX)
        }
    };
    Cause::new(CauseCode::BuildTimeout, message)
}

/// Each attempt is marked by a build phase of its own.
fn attempts(deployment: &Deployment) -> u32 {
    let begun = deployment.phases.iter().filter(|m| m.phase == Phase::Build).count();
    u32::try_from(begun).unwrap_or(u32::MAX).max(1)
}

fn retry_or_fail(
    world: &World,
    deployment: &Deployment,
    build: &Build,
    cause: &Cause,
    now: Timestamp,
    plan: &mut Plan,
) {
    let attempt = attempts(deployment);
    if cause.code == CauseCode::BuildInterrupted && attempt < limits::BUILD_ATTEMPTS_MAX {
        let deadline = seen_by(world, build.updated.plus(PLACE_TIME_MAX));
        match plan.room.place(&Ask::build(runtime(&build.plan), deployment.org), None) {
            Ok(node) => {
                let attempt = attempt + 1;
                return plan.act(Action::RetryBuild { deployment: deployment.id, node, attempt });
            }
            Err(no) if no.may_pass() && now < deadline => {
                plan.wake_at(deadline);
                return plan.wait(deployment.id, format!("no node for another attempt: {no}"));
            }
            Err(_) => {}
        }
    }
    fail(deployment, cause.clone(), plan);
}
