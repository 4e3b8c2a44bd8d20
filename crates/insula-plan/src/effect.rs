//! What carrying out an action writes: rows, computed here so that the control plane, which has
//! the store, and a simulation, which has none, do exactly the same.
//!
//! Each write names the state that it starts from. If the store has moved on, nothing is written,
//! and the next pass decides anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_model::app::Live;
use insula_model::build::{Build, BuildState, Turn};
use insula_model::deployment::{Deployment, DeploymentState, Phase, PhaseMark, Source};
use insula_model::instance::{Instance, Intent, Run, RunState};
use insula_model::node::{Duty, Node};
use insula_model::observed::Observed;
use insula_model::release::{Release, ReleaseNumber};
use insula_model::spec::{AppSpec, ComponentSpec};
use insula_model::{
    AppId, BuildId, ComponentName, DeploymentId, InstanceId, NodeId, OrgId, ReleaseId, RunId,
    Timestamp, VariableName,
};

use crate::action::Action;
use crate::world::{Presence, World};

/// Ids that were made for one action, used if it needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    pub build: BuildId,
    pub release: ReleaseId,
    /// The first, if several are placed at once; see `InstanceId::nth`.
    pub instance: InstanceId,
}

/// What a release freezes, read in the transaction that cuts it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    pub number: u32,
    pub variables: BTreeMap<VariableName, String>,
    pub secrets: BTreeSet<VariableName>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Replaces the deployment if it is still in the state `was`.
    Deployment {
        row: Box<Deployment>,
        was: DeploymentState,
    },
    Build(Box<Build>),
    Release(Box<Release>),
    /// Of one component of one deployment: everything but id and node is the same in all.
    Instances(Vec<Instance>),
    Intent {
        instance: InstanceId,
        intent: Intent,
    },
    Forget {
        instance: InstanceId,
    },
    Live {
        org: OrgId,
        app: AppId,
        live: Live,
    },
    /// Marks the node as lost or found, if its mark still is `was`.
    Node {
        row: Box<Node>,
        was: Option<Timestamp>,
    },
    /// Replaces the run if it is still in the state `was`.
    Run {
        row: Box<Run>,
        was: RunState,
    },
}

/// One sentence for the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub kind: &'static str,
    /// Nothing for what concerns the operator alone: a node that is lost.
    pub org: Option<OrgId>,
    pub app: Option<AppId>,
    pub subject: String,
    pub message: String,
    pub trace: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Effect {
    pub writes: Vec<Write>,
    pub told: Option<Told>,
}

/// The deployment whose release is about to be cut, if the action cuts one.
pub fn cuts(action: &Action) -> Option<DeploymentId> {
    match action {
        Action::CutRelease { deployment, .. } => Some(*deployment),
        Action::Supersede { .. }
        | Action::StartBuild { .. }
        | Action::RetryBuild { .. }
        | Action::UseRelease { .. }
        | Action::Place { .. }
        | Action::Shift { .. }
        | Action::GoLive { .. }
        | Action::Fail { .. }
        | Action::Drain { .. }
        | Action::Stop { .. }
        | Action::Forget { .. }
        | Action::Lose { .. }
        | Action::Welcome { .. }
        | Action::StartRun { .. }
        | Action::EndRun { .. } => None,
    }
}

/// What an action writes; nothing if what it speaks of is gone.
pub fn effect(world: &World, action: &Action, now: Timestamp, fresh: Fresh, cut: &Cut) -> Effect {
    let deployment = |id: &DeploymentId| world.deployments.get(id);
    let found = match action {
        Action::Supersede { deployment: id, by } => {
            deployment(id).map(|d| supersede(world, d, *by, now))
        }
        Action::StartBuild { deployment: id, node } => {
            deployment(id).and_then(|d| start_build(d, *node, now, fresh.build))
        }
        Action::RetryBuild { deployment: id, node, attempt } => {
            deployment(id).and_then(|d| retry_build(world, d, *node, *attempt, now))
        }
        Action::CutRelease { deployment: id, artifact } => {
            deployment(id).and_then(|d| cut_release(world, d, *artifact, now, fresh.release, cut))
        }
        Action::UseRelease { deployment: id, release } => {
            deployment(id).map(|d| use_release(world, d, *release, now))
        }
        Action::Place { deployment: id, component, nodes, .. } => {
            deployment(id).and_then(|d| place(world, d, component, nodes, now, fresh.instance))
        }
        Action::Shift { deployment: id, drain, warnings } => {
            deployment(id).map(|d| shift(d, drain, warnings, now))
        }
        Action::GoLive { deployment: id, warnings } => {
            deployment(id).and_then(|d| go_live(world, d, warnings, now))
        }
        Action::Fail { deployment: id, cause } => {
            let message = format!("failed: {}", cause.message);
            let state = DeploymentState::Failed { cause: cause.clone() };
            deployment(id).map(|d| end(world, d, state, message, now))
        }
        Action::Drain { instance, .. } => intent(world, *instance, Intent::Drain { since: now }),
        Action::Stop { instance, .. } => intent(world, *instance, Intent::Stop { since: now }),
        Action::Forget { instance } => Some(forget(world, *instance)),
        Action::Lose { node } => mark(world, *node, Some(now)),
        Action::Welcome { node } => mark(world, *node, None),
        Action::StartRun { run, node } => {
            world.runs.get(run).and_then(|r| start_run(world, r, *node, now, fresh.instance))
        }
        Action::EndRun { run, exit } => world.runs.get(run).map(|r| {
            let state = RunState::Ended { exit: exit.clone() };
            let message = format!("run of {} ended: {exit}", r.component);
            let row = Run { state, ended: Some(now), ..(**r).clone() };
            let told = told_run("run.ended", r, message);
            Effect { writes: vec![write_run(r, row)], told: Some(told) }
        }),
    };
    found.unwrap_or_default()
}

fn told(kind: &'static str, d: &Deployment, message: String) -> Told {
    Told {
        kind,
        org: Some(d.org),
        app: Some(d.app),
        subject: d.id.to_string(),
        message,
        trace: Some(d.trace.clone()),
    }
}

fn told_run(kind: &'static str, run: &Run, message: String) -> Told {
    Told {
        kind,
        org: Some(run.org),
        app: Some(run.app),
        subject: run.id.to_string(),
        message,
        trace: None,
    }
}

/// A deployment in another state, its running phase ended and the next one begun.
fn moved(
    d: &Deployment,
    state: DeploymentState,
    phase: Option<Phase>,
    now: Timestamp,
) -> Deployment {
    let mut row = Deployment { state, updated: now, ..d.clone() };
    if let Some(last) = row.phases.last_mut()
        && last.ended.is_none()
    {
        last.ended = Some(now);
    }
    row.phases.extend(phase.map(|phase| PhaseMark { phase, started: now, ended: None }));
    row
}

fn write_deployment(was: &Deployment, row: Deployment) -> Write {
    Write::Deployment { row: Box::new(row), was: was.state.clone() }
}

fn write_run(was: &Run, row: Run) -> Write {
    Write::Run { row: Box::new(row), was: was.state.clone() }
}

fn supersede(world: &World, d: &Deployment, by: DeploymentId, now: Timestamp) -> Effect {
    end(world, d, DeploymentState::Superseded { by }, format!("superseded by {by}"), now)
}

/// A verdict that is not `live`; a build that still runs for it is cancelled.
fn end(
    world: &World,
    d: &Deployment,
    state: DeploymentState,
    message: String,
    now: Timestamp,
) -> Effect {
    let kind = match &state {
        DeploymentState::Failed { .. } => "deployment.failed",
        DeploymentState::Superseded { .. } => "deployment.superseded",
        DeploymentState::Cancelled { .. } => "deployment.cancelled",
        DeploymentState::Queued
        | DeploymentState::Building
        | DeploymentState::Starting
        | DeploymentState::Shifting
        | DeploymentState::Live => "deployment.changed",
    };
    let mut writes = vec![write_deployment(d, moved(d, state, None, now))];
    let build = d.build.and_then(|id| world.builds.get(&id)).filter(|b| !b.state.is_final());
    writes.extend(build.map(|b| {
        Write::Build(Box::new(Build {
            state: BuildState::Cancelled,
            updated: now,
            ..(**b).clone()
        }))
    }));
    Effect { writes, told: Some(told(kind, d, message)) }
}

fn start_build(d: &Deployment, node: NodeId, now: Timestamp, id: BuildId) -> Option<Effect> {
    let Source::Folder { manifest, plan, .. } = &d.source else { return None };
    let build = Build {
        id,
        org: d.org,
        app: d.app,
        deployment: d.id,
        source: *manifest,
        plan: plan.clone(),
        state: BuildState::Running { node, attempt: 1 },
        turn: Turn::Unknown,
        created: now,
        updated: now,
    };
    let row = Deployment {
        build: Some(id),
        ..moved(d, DeploymentState::Building, Some(Phase::Build), now)
    };
    let message = "building".to_owned();
    Some(Effect {
        writes: vec![write_deployment(d, row), Write::Build(Box::new(build))],
        told: Some(told("deployment.building", d, message)),
    })
}

fn retry_build(
    world: &World,
    d: &Deployment,
    node: NodeId,
    attempt: u32,
    now: Timestamp,
) -> Option<Effect> {
    let build = world.builds.get(&d.build?)?;
    let state = BuildState::Running { node, attempt };
    let build = Build { state, turn: Turn::Unknown, updated: now, ..(**build).clone() };
    let row = moved(d, DeploymentState::Building, Some(Phase::Build), now);
    let message = format!("the build was interrupted; attempt {attempt}");
    Some(Effect {
        writes: vec![write_deployment(d, row), Write::Build(Box::new(build))],
        told: Some(told("deployment.building", d, message)),
    })
}

fn cut_release(
    world: &World,
    d: &Deployment,
    artifact: insula_model::build::Artifact,
    now: Timestamp,
    id: ReleaseId,
    cut: &Cut,
) -> Option<Effect> {
    let spec: AppSpec = match &d.source {
        Source::Folder { spec, .. } => (**spec).clone(),
        Source::Reconfigure { release } | Source::Release { release } => {
            world.releases.get(release)?.spec.clone()
        }
    };
    let release = Release {
        id,
        org: d.org,
        app: d.app,
        number: ReleaseNumber(cut.number),
        deployment: d.id,
        artifact,
        spec,
        variables: cut.variables.clone(),
        secrets: cut.secrets.clone(),
        actor: d.actor.clone(),
        created: now,
    };
    let message = format!("release {} cut", release.number);
    let mut effect = use_release(world, d, id, now);
    effect.writes.push(Write::Release(Box::new(release)));
    effect.told = Some(told("release.created", d, message));
    Some(effect)
}

fn use_release(world: &World, d: &Deployment, release: ReleaseId, now: Timestamp) -> Effect {
    let live = world.apps.get(&d.app).and_then(|a| a.live.as_ref());
    // A restart changes nothing of what one would go back to.
    let previous = match live {
        Some(live) if live.release == release => {
            world.deployments.get(&live.deployment).and_then(|before| before.previous)
        }
        Some(live) => Some(live.release),
        None => None,
    };
    let row = Deployment {
        release: Some(release),
        previous,
        ..moved(d, DeploymentState::Starting, Some(Phase::Start), now)
    };
    let message = "starting".to_owned();
    Effect {
        writes: vec![write_deployment(d, row)],
        told: Some(told("deployment.starting", d, message)),
    }
}

fn place(
    world: &World,
    d: &Deployment,
    component: &ComponentName,
    nodes: &[NodeId],
    now: Timestamp,
    first: InstanceId,
) -> Option<Effect> {
    let release = d.release?;
    let spec = world.releases.get(&release)?.spec.components.get(component)?;
    let of = |(n, node): (u32, &NodeId)| {
        let id = first.nth(n);
        instance(world, d.app, component, spec, release, d.id, None, *node, now, id)
    };
    let rows = (0..).zip(nodes).map(of).collect::<Option<Vec<Instance>>>()?;
    Some(Effect { writes: vec![Write::Instances(rows)], told: None })
}

/// The node with another mark, and the sentence for the operator's history.
fn mark(world: &World, id: NodeId, lost: Option<Timestamp>) -> Option<Effect> {
    let node = world.nodes.get(&id)?;
    let row = Node { lost, ..(**node).clone() };
    let (kind, message) = match (lost, world.presence(id)) {
        (Some(_), Presence::Silent { span }) => {
            ("node.lost", format!("{} was not heard for {span}: it is given up", node.name))
        }
        (Some(_), Presence::Here) => ("node.lost", format!("{} is given up", node.name)),
        (None, _) => ("node.welcomed", format!("{} is back, and was welcomed", node.name)),
    };
    let told = Some(told_node(kind, node, message));
    Some(Effect { writes: vec![Write::Node { row: Box::new(row), was: node.lost }], told })
}

fn told_node(kind: &'static str, node: &Node, message: String) -> Told {
    Told { kind, org: None, app: None, subject: node.id.to_string(), message, trace: None }
}

/// The last one to leave a node that is being drained tells that this is done. Several may be
/// forgotten from one view of the world: then the first of them speaks for all.
fn forget(world: &World, id: InstanceId) -> Effect {
    let node = world.instances.get(&id).and_then(|i| world.nodes.get(&i.node));
    let drained = node.filter(|node| {
        let mut left = world.instances.of_node(node.id);
        let first = world.instances.of_node(node.id).next().is_some_and(|i| i.id == id);
        matches!(node.duty, Duty::Drain { .. })
            && first
            && left.all(crate::instances::may_be_forgotten)
    });
    let told = drained.map(|node| {
        let message = format!("{} is drained: it holds no instance any more", node.name);
        told_node("node.drained", node, message)
    });
    Effect { writes: vec![Write::Forget { instance: id }], told }
}

#[allow(clippy::too_many_arguments)] // A row is what its columns are; a builder would only rename them.
fn instance(
    world: &World,
    app: AppId,
    component: &ComponentName,
    spec: &ComponentSpec,
    release: ReleaseId,
    deployment: DeploymentId,
    run: Option<RunId>,
    node: NodeId,
    now: Timestamp,
    id: InstanceId,
) -> Option<Instance> {
    let app = world.apps.get(&app)?;
    Some(Instance {
        id,
        org: app.org,
        project: app.project,
        environment: app.environment,
        app: app.id,
        component: component.clone(),
        kind: spec.kind,
        release,
        deployment,
        run,
        node,
        cpu: spec.cpu,
        memory: spec.memory,
        pids: spec.pids,
        disk: spec.disk,
        intent: Intent::Run,
        created: now,
        observed: Observed::Unknown,
    })
}

fn shift(d: &Deployment, drain: &[InstanceId], warnings: &[String], now: Timestamp) -> Effect {
    let mut row = moved(d, DeploymentState::Shifting, Some(Phase::Shift), now);
    row.warnings.extend(warnings.iter().cloned());
    let mut writes = vec![write_deployment(d, row)];
    writes.extend(
        drain
            .iter()
            .map(|id| Write::Intent { instance: *id, intent: Intent::Drain { since: now } }),
    );
    let message = "ready; traffic is shifting".to_owned();
    Effect { writes, told: Some(told("deployment.shifting", d, message)) }
}

fn go_live(world: &World, d: &Deployment, warnings: &[String], now: Timestamp) -> Option<Effect> {
    let release = d.release?;
    let mut row = moved(d, DeploymentState::Live, None, now);
    row.warnings.extend(warnings.iter().cloned());
    let live = Live { release, deployment: d.id, since: now };
    let number = world.releases.get(&release).map(|r| r.number);
    let message = number.map_or_else(|| "live".to_owned(), |n| format!("release {n} is live"));
    Some(Effect {
        writes: vec![write_deployment(d, row), Write::Live { org: d.org, app: d.app, live }],
        told: Some(told("deployment.live", d, message)),
    })
}

fn intent(world: &World, id: InstanceId, intent: Intent) -> Option<Effect> {
    world.instances.get(&id)?;
    Some(Effect { writes: vec![Write::Intent { instance: id, intent }], told: None })
}

fn start_run(
    world: &World,
    run: &Run,
    node: NodeId,
    now: Timestamp,
    id: InstanceId,
) -> Option<Effect> {
    let release = world.releases.get(&run.release)?;
    let spec = release.spec.components.get(&run.component)?;
    let made = instance(
        world,
        run.app,
        &run.component,
        spec,
        run.release,
        release.deployment,
        Some(run.id),
        node,
        now,
        id,
    )?;
    let row = Run { state: RunState::Running, instance: Some(id), ..run.clone() };
    Some(Effect {
        writes: vec![write_run(run, row), Write::Instances(vec![made])],
        told: Some(told_run("run.started", run, format!("run of {} started", run.component))),
    })
}

/// Applies what an effect writes to a world, as the feed would. For simulations and tests.
pub fn write(world: &mut World, write: &Write) {
    use insula_model::feed::Change;
    match write {
        Write::Deployment { row, was } => {
            if world.deployments.get(&row.id).is_some_and(|d| d.state == *was) {
                world.apply(Change::Deployment(row.clone()));
            }
        }
        Write::Build(row) => world.apply(Change::Build(row.clone())),
        Write::Release(row) => world.apply(Change::Release(row.clone())),
        Write::Instances(rows) => {
            rows.iter().for_each(|row| world.instances.insert(row.clone()));
        }
        Write::Node { row, was } => {
            if world.nodes.get(&row.id).is_some_and(|n| n.lost == *was) {
                world.apply(Change::Node(row.clone()));
            }
        }
        Write::Intent { instance, intent } => {
            world.instances.update(instance, |row| row.intent = *intent);
        }
        Write::Forget { instance } => world.apply(Change::InstanceGone(*instance)),
        Write::Live { app, live, .. } => {
            if let Some(row) = world.apps.get_mut(app) {
                Arc::make_mut(row).live = Some(live.clone());
            }
        }
        Write::Run { row, was } => {
            if world.runs.get(&row.id).is_some_and(|r| r.state == *was) {
                world.apply(Change::Run(row.clone()));
            }
        }
    }
    world.generation.0 += 1;
}
