//! Moves a deployment towards its verdict.
//!
//! Queued → building → starting → shifting → live; the old release serves until the new one has
//! proved itself. The newest deployment of an app wins. Never stops an instance that serves (see
//! `instances`), and never replaces one of the live release (see `steady`).

use insula_model::app::App;
use insula_model::build::{Artifact, Build, BuildState, Turn};
use insula_model::deployment::{Cause, CauseCode, Deployment, DeploymentState, Phase, Source};
use insula_model::instance::{Instance, Intent};
use insula_model::limits;
use insula_model::observed::{Exit, InstancePhase};
use insula_model::release::Release;
use insula_model::spec::{ComponentSpec, Runtime};
use insula_model::{AppId, ComponentName, Millis, ReleaseId, Timestamp};

use crate::action::{Action, Plan};
use crate::placement::{Ask, Kin};
use crate::world::World;

/// Beyond an instance's own start-up time: fetching its artifact, a node that has to come back.
const START_SLACK: Millis = Millis::secs(30);
/// How long a shift waits for a gateway that does not answer before it goes on without it.
const SHIFT_TIME_MAX: Millis = Millis::secs(20);
/// How long a deployment may look for room before it says that there is none. Long enough for an
/// agent that restarts.
const PLACE_TIME_MAX: Millis = Millis::secs(15);
/// After a start of the control plane, until nodes have come back and told what they hold. Until
/// then nothing is late.
const RETURN_TIME_MAX: Millis = Millis::secs(15);
/// The same while instances are on their way out: a drain and a grace, as they are by default.
const LEAVING_TIME_MAX: Millis = Millis::secs(45);
/// Beyond the build's own time limit, which its node enforces.
const BUILD_SLACK: Millis = Millis::secs(60);
/// How long a build may be in the queue of a node that does not answer any more: four builds that
/// take all their time. On one that answers it may be there for as long as its turn takes, which is
/// bounded by what the node has room for.
const QUEUE_TIME_MAX: Millis = Millis::secs(60 * 60);

pub(crate) fn step(world: &World, app: &App, now: Timestamp, plan: &mut Plan) {
    let Some(newest) = world.pending(app.id).last() else { return };
    for deployment in world.pending(app.id) {
        // One that shifts already is done in a moment, and turning round would cost requests.
        let shifting = deployment.state == DeploymentState::Shifting;
        if deployment.id != newest.id && !shifting {
            plan.act(Action::Supersede { deployment: deployment.id, by: newest.id });
        } else {
            advance(world, app, deployment, now, plan);
        }
    }
}

/// The release that a deployment begins with, if it names one.
pub fn source_release(deployment: &Deployment) -> Option<ReleaseId> {
    match &deployment.source {
        Source::Folder { .. } => None,
        Source::Release { release } | Source::Reconfigure { release } => Some(*release),
    }
}

/// How many instances of a component an app wants now.
pub fn wanted(app: &App, component: &ComponentName, spec: &ComponentSpec) -> u32 {
    if !app.running || !spec.kind.stays() {
        return 0;
    }
    app.scale.get(component).copied().unwrap_or(spec.instances)
}

fn advance(world: &World, app: &App, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    match &deployment.state {
        DeploymentState::Queued => queued(world, deployment, now, plan),
        DeploymentState::Building => building(world, deployment, now, plan),
        DeploymentState::Starting => starting(world, app, deployment, now, plan),
        DeploymentState::Shifting => shifting(world, deployment, now, plan),
        DeploymentState::Live
        | DeploymentState::Failed { .. }
        | DeploymentState::Superseded { .. }
        | DeploymentState::Cancelled { .. } => {}
    }
}

fn queued(world: &World, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    // A shift that is under way ends first, so that there is one set of instances to take over from.
    let shifting = |d: &Deployment| d.state == DeploymentState::Shifting;
    if world.pending(deployment.app).any(shifting) {
        return plan.wait(deployment.id, "the deployment before it is shifting traffic");
    }
    match &deployment.source {
        Source::Folder { manifest, size, plan: build, .. } if build.steps.is_empty() => {
            let artifact = Artifact { source: *manifest, built: None, size: *size };
            plan.act(Action::CutRelease { deployment: deployment.id, artifact });
        }
        Source::Folder { plan: build, .. } => {
            let running =
                builds_running(world, deployment) + builds_planned(world, deployment, plan);
            let at_once = world.orgs.get(&deployment.org).map_or(0, |o| o.quota.builds_at_once);
            if running >= at_once {
                let reason =
                    format!("{running} builds of its org are running, of {at_once} at once");
                return plan.wait(deployment.id, reason);
            }
            let runtime = build.steps.first().map_or(Runtime::Host, |s| s.runtime);
            match plan.room.place(&Ask::build(runtime, deployment.org), None) {
                Ok(node) => plan.act(Action::StartBuild { deployment: deployment.id, node }),
                Err(no) => no_room(world, deployment, None, &no, now, plan),
            }
        }
        Source::Release { release } => {
            plan.act(Action::UseRelease { deployment: deployment.id, release: *release });
        }
        Source::Reconfigure { release } => match world.releases.get(release) {
            Some(release) => plan
                .act(Action::CutRelease { deployment: deployment.id, artifact: release.artifact }),
            None => fail(deployment, lost_release(), plan),
        },
    }
}

fn builds_running(world: &World, deployment: &Deployment) -> u32 {
    let running = world.builds.values().filter(|b| {
        b.org == deployment.org && b.deployment != deployment.id && !b.state.is_final()
    });
    u32::try_from(running.count()).unwrap_or(u32::MAX)
}

/// Those that this very plan begins for the same org.
fn builds_planned(world: &World, deployment: &Deployment, plan: &Plan) -> u32 {
    let same_org = |id| world.deployments.get(id).is_some_and(|d| d.org == deployment.org);
    let planned = plan.actions.iter().filter(
        |action| matches!(action, Action::StartBuild { deployment, .. } if same_org(deployment)),
    );
    u32::try_from(planned.count()).unwrap_or(u32::MAX)
}

fn building(world: &World, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    let Some(build) = deployment.build.and_then(|id| world.builds.get(&id)) else {
        return fail(
            deployment,
            Cause::new(CauseCode::Internal, "its build is not there any more"),
            plan,
        );
    };
    match &build.state {
        BuildState::Done { artifact } => {
            plan.act(Action::CutRelease { deployment: deployment.id, artifact: *artifact });
        }
        BuildState::Failed { cause } => {
            let runtime = build.plan.steps.first().map_or(Runtime::Host, |s| s.runtime);
            retry_or_fail(world, deployment, build, runtime, cause, now, plan);
        }
        BuildState::Cancelled => {
            fail(
                deployment,
                Cause::new(CauseCode::BuildInterrupted, "its build was cancelled"),
                plan,
            );
        }
        BuildState::Running { node, .. } if !world.nodes.contains_key(node) => {
            let runtime = build.plan.steps.first().map_or(Runtime::Host, |s| s.runtime);
            let cause = Cause::new(CauseCode::BuildInterrupted, "its node is gone");
            retry_or_fail(world, deployment, build, runtime, &cause, now, plan);
        }
        BuildState::Queued | BuildState::Running { .. } => {
            let reason = match build.turn {
                Turn::Waiting => "the build waits for its turn on its node",
                Turn::Unknown | Turn::Begun { .. } => "the build is running",
            };
            match build_deadline(world, build) {
                Some(deadline) if now >= deadline => fail(deployment, overdue(build), plan),
                Some(deadline) => {
                    plan.wait(deployment.id, reason);
                    plan.wake_at(deadline);
                }
                None => plan.wait(deployment.id, reason),
            }
        }
    }
}

/// When a build has no time left. It counts from when its node began with it: other orgs may hold
/// the node's places for builds, and this one's time is not theirs to use up.
fn build_deadline(world: &World, build: &Build) -> Option<Timestamp> {
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

fn retry_or_fail(
    world: &World,
    deployment: &Deployment,
    build: &Build,
    runtime: Runtime,
    cause: &Cause,
    now: Timestamp,
    plan: &mut Plan,
) {
    // Each attempt is marked by a build phase of its own.
    let begun = deployment.phases.iter().filter(|m| m.phase == Phase::Build).count();
    let attempt = u32::try_from(begun).unwrap_or(u32::MAX).max(1);
    if cause.code == CauseCode::BuildInterrupted && attempt < limits::BUILD_ATTEMPTS_MAX {
        let deadline = seen_by(world, build.updated.plus(PLACE_TIME_MAX));
        match plan.room.place(&Ask::build(runtime, deployment.org), None) {
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

fn starting(world: &World, app: &App, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    let Some(release) = deployment.release.and_then(|id| world.releases.get(&id)) else {
        return fail(deployment, lost_release(), plan);
    };
    let own: Vec<&Instance> =
        world.instances_of(app.id).filter(|i| i.deployment == deployment.id).collect();
    if let Some(cause) = own.iter().find_map(|i| hopeless(i)) {
        return fail(deployment, cause, plan);
    }
    let mut all_ready = true;
    for (name, spec) in &release.spec.components {
        let want = wanted(app, name, spec) as usize;
        let mut have: Vec<&&Instance> =
            own.iter().filter(|i| i.component == *name && i.intent == Intent::Run).collect();
        if want > have.len() && spec.single && !give_way(world, app, deployment, name, plan) {
            all_ready = false;
            plan.wait(deployment.id, format!("`{name}` is single: the old one has to end first"));
            continue;
        }
        for _ in have.len()..want {
            all_ready = false;
            let ask = Ask::of(spec, app.org);
            match plan.room.place(&ask, Some(&Kin::new(app.id, name))) {
                Ok(node) => plan.act(Action::Place {
                    app: app.id,
                    deployment: deployment.id,
                    component: name.clone(),
                    nodes: vec![node],
                }),
                Err(no) => return no_room(world, deployment, Some(name), &no, now, plan),
            }
        }
        // Scaled down while it was starting.
        while have.len() > want {
            if let Some(surplus) = have.pop() {
                plan.act(Action::Stop { instance: surplus.id, why: "scaled down" });
            }
        }
        for instance in have.iter().filter(|i| !is_ready(i)) {
            all_ready = false;
            // From when it was placed: a single one waits for the old one's end first.
            let began = started(deployment).max(instance.created);
            let late = seen_by(world, began.plus(spec.health.startup).plus(START_SLACK));
            if now >= late {
                return fail(deployment, too_late(instance, spec), plan);
            }
            plan.wake_at(late);
            plan.wait(deployment.id, format!("`{name}` is {}", phase_of(instance)));
        }
    }
    if all_ready {
        let drain = outgoing(world, app.id, deployment).map(|i| i.id).collect();
        let mut warnings: Vec<String> = own
            .iter()
            .filter_map(|i| i.observed.present())
            .flat_map(|report| report.warnings.iter().cloned())
            .collect();
        if !app.running {
            warnings
                .push("the app is stopped: nothing of this release was started or proved".into());
        }
        plan.act(Action::Shift { deployment: deployment.id, drain, warnings });
    }
}

/// Asks what is still there of a single component to end; whether it has.
fn give_way(
    world: &World,
    app: &App,
    deployment: &Deployment,
    component: &ComponentName,
    plan: &mut Plan,
) -> bool {
    let mut gone = true;
    for old in world.instances_of(app.id) {
        if old.deployment != deployment.id && old.component == *component {
            gone = false;
            if old.intent == Intent::Run {
                plan.act(Action::Drain { instance: old.id, why: "makes way for the next one" });
            }
        }
    }
    gone
}

fn outgoing<'a>(
    world: &'a World,
    app: AppId,
    deployment: &'a Deployment,
) -> impl Iterator<Item = &'a Instance> {
    world.instances_of(app).filter(|i| i.deployment != deployment.id && i.intent == Intent::Run)
}

fn shifting(world: &World, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    let since = deployment
        .phases
        .iter()
        .rev()
        .find(|m| m.phase == Phase::Shift)
        .map_or(deployment.updated, |m| m.started);
    let instances =
        || world.instances.values().filter(|i| i.app == deployment.app && i.run.is_none());
    let arrived = instances()
        .filter(|i| i.deployment == deployment.id && i.intent == Intent::Run)
        .filter(|i| i.kind.listens() && is_ready(i) && crate::routes::has_route(world, i))
        .all(|i| world.edge.routed_by_all.contains(&i.id));
    let left = !instances()
        .filter(|i| i.deployment != deployment.id)
        .any(|i| world.edge.routed_by_any.contains(&i.id));
    let routed = instances().any(|i| i.kind.listens() && crate::routes::has_route(world, i));
    if !routed || (world.edge.known && world.edge.gateways > 0 && arrived && left) {
        return plan.act(Action::GoLive { deployment: deployment.id, warnings: vec![] });
    }
    let deadline = seen_by(world, since.plus(SHIFT_TIME_MAX));
    if now >= deadline {
        let warning = format!("no gateway confirmed the new routes within {SHIFT_TIME_MAX}");
        return plan.act(Action::GoLive { deployment: deployment.id, warnings: vec![warning] });
    }
    plan.wake_at(deadline);
    plan.wait(deployment.id, "the gateways have not confirmed the new routes yet");
}

/// A deadline, or when nodes had the time to say that it was met while nobody listened.
fn seen_by(world: &World, deadline: Timestamp) -> Timestamp {
    deadline.max(world.since.plus(RETURN_TIME_MAX))
}

pub(crate) fn is_ready(instance: &Instance) -> bool {
    instance.observed.present().is_some_and(|r| r.phase == InstancePhase::Ready)
}

fn phase_of(instance: &Instance) -> &'static str {
    instance.observed.present().map_or("not reported yet", |r| r.phase.as_str())
}

fn started(deployment: &Deployment) -> Timestamp {
    deployment
        .phases
        .iter()
        .rev()
        .find(|m| m.phase == Phase::Start)
        .map_or(deployment.updated, |m| m.started)
}

/// Why waiting for this new instance would not help, if so.
fn hopeless(instance: &Instance) -> Option<Cause> {
    if instance.intent != Intent::Run {
        return None;
    }
    let report = instance.observed.present()?;
    let component = Some(instance.component.clone());
    if let InstancePhase::Stuck { cause } = &report.phase {
        return Some(Cause { component, ..cause.clone() });
    }
    if report.ready_since.is_some() || report.exits_before_ready < limits::EXITS_BEFORE_READY_MAX {
        return None;
    }
    let note = report.last_exit.clone()?;
    let code = match note.exit {
        Exit::OutOfMemory => CauseCode::OutOfMemory,
        Exit::NotStarted { .. } => CauseCode::StartFailed,
        Exit::Code { .. } | Exit::Signal { .. } | Exit::Lost => CauseCode::Exited,
    };
    let times = report.exits_before_ready;
    Some(Cause {
        message: format!(
            "`{}` ended {times} times before it was ready: {}",
            instance.component, note.exit
        ),
        hint: hint_for(&note.exit).map(str::to_owned),
        component,
        exit: Some(note.exit),
        tail: note.tail,
        code,
    })
}

fn hint_for(exit: &Exit) -> Option<&'static str> {
    match exit {
        Exit::Code { code: 0 } => {
            Some("a service has to keep running; make it `kind = \"job\"` if it is meant to end")
        }
        Exit::Code { code: 127 } => Some("127 is a shell's word for: command not found"),
        Exit::Code { code: 126 } => Some("126 is a shell's word for: not executable"),
        Exit::OutOfMemory => Some("give it more with `memory = \"512MiB\"` in insula.toml"),
        Exit::Code { .. } | Exit::Signal { .. } | Exit::NotStarted { .. } | Exit::Lost => None,
    }
}

fn too_late(instance: &Instance, spec: &ComponentSpec) -> Cause {
    let report = instance.observed.present();
    let said = match report.map(|r| &r.phase) {
        Some(InstancePhase::Unready { reason }) => format!("it fails its probe: {reason}"),
        Some(phase) => format!("it is {}", phase.as_str()),
        None => "its node has not reported it".to_owned(),
    };
    let message =
        format!("`{}` was not ready within {}: {said}", instance.component, spec.health.startup);
    let last = report.and_then(|r| r.last_exit.clone());
    Cause {
        component: Some(instance.component.clone()),
        exit: last.as_ref().map(|note| note.exit.clone()),
        tail: last.map(|note| note.tail).unwrap_or_default(),
        hint: Some("a slow starter may ask for more with `health = { startup = \"120s\" }`".into()),
        ..Cause::new(CauseCode::ProbeFailed, message)
    }
}

fn lost_release() -> Cause {
    Cause::new(CauseCode::SourceLost, "the release it starts from is not kept any more")
}

fn no_room(
    world: &World,
    deployment: &Deployment,
    component: Option<&ComponentName>,
    no: &crate::placement::NoRoom,
    now: Timestamp,
    plan: &mut Plan,
) {
    // What is on its way out gives its room back.
    let leaving = world.instances.values().any(|i| i.intent != Intent::Run);
    let patience = if leaving { LEAVING_TIME_MAX } else { PLACE_TIME_MAX };
    let deadline = seen_by(world, deployment.updated.plus(patience));
    let what = component.map_or_else(|| "the build".to_owned(), |c| format!("`{c}`"));
    let message = format!("no node has room for {what}: {no}");
    if (leaving || no.may_pass()) && now < deadline {
        plan.wake_at(deadline);
        return plan.wait(deployment.id, message);
    }
    let cause =
        Cause { component: component.cloned(), ..Cause::new(CauseCode::NoCapacity, message) };
    fail(deployment, cause, plan);
}

fn fail(deployment: &Deployment, cause: Cause, plan: &mut Plan) {
    plan.act(Action::Fail { deployment: deployment.id, cause: Box::new(cause) });
}

/// The spec that an instance was started with.
pub(crate) fn spec_of<'a>(world: &'a World, instance: &Instance) -> Option<&'a ComponentSpec> {
    let release: &Release = world.releases.get(&instance.release)?;
    release.spec.components.get(&instance.component)
}
