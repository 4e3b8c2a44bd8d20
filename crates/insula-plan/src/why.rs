//! Everything can be asked why: sentences about an app, a deployment, an instance, a run or a node.

use std::collections::BTreeMap;

use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::instance::{Instance, Intent};
use insula_model::node::{Duty, Node, NodeState};
use insula_model::observed::{InstancePhase, InstanceReport, Observed};
use insula_model::{AppId, NodeId, Timestamp};

use crate::action::Plan;
use crate::nodes;
use crate::world::World;

/// What the last plan said of a subject, in the order in which it was said.
pub fn waits<'a>(plan: &'a Plan, subject: &'a str) -> impl Iterator<Item = &'a str> {
    plan.all_waits().filter(move |w| w.subject == subject).map(|w| w.reason.as_str())
}

pub fn instance(world: &World, instance: &Instance) -> Vec<String> {
    let mut said: Vec<String> = its_node(world, instance).into_iter().collect();
    match instance.intent {
        Intent::Run => said.push("it should run".to_owned()),
        Intent::Drain { since } => {
            said.push(format!("it is being drained since {since}: others take over"));
        }
        Intent::Stop { since } => said.push(format!("it was told to stop at {since}")),
    }
    match &instance.observed {
        Observed::Unknown => said.push("its node has not reported it yet".into()),
        Observed::Absent { seen } => {
            said.push(format!("its node says it is not there, since {seen}"))
        }
        Observed::Present { value, .. } => said.extend(report(value)),
    }
    said
}

/// What of its node matters to it.
fn its_node(world: &World, instance: &Instance) -> Option<String> {
    let Some(node) = world.nodes.get(&instance.node) else {
        return Some("its node was removed".into());
    };
    let name = &node.name;
    if let Some(since) = node.lost {
        let single = crate::rollout::spec_of(world, instance).is_some_and(|spec| spec.single);
        let then = match (instance.run, single) {
            (Some(_), _) => "a run must not happen twice, so it counts as running",
            (None, true) => "there may never be two of it, so it is not replaced yet",
            (None, false) => {
                "it is replaced elsewhere, and what is too many ends once that is back"
            }
        };
        return Some(format!("{name} is lost since {since}; this is what it said last; {then}"));
    }
    if !world.is_here(node.id) {
        return Some(format!("{name} is not connected; this is what it said last"));
    }
    let moves = nodes::is_draining(world, node.id) && instance.intent == Intent::Run;
    moves.then(|| format!("{name} is being drained: it moves to another node"))
}

/// How a node fares, what it does not get, and what it waits for. The operator's.
pub fn node(world: &World, plan: &Plan, id: NodeId) -> Vec<String> {
    let Some(node) = world.nodes.get(&id) else { return vec!["it was removed".into()] };
    let mut said = vec![standing(world, node)];
    said.extend(node.ailments.iter().map(|a| format!("{}: {}", a.kind.as_str(), a.message)));
    let mut there: BTreeMap<&'static str, usize> = BTreeMap::new();
    for one in world.instances.of_node(id) {
        *there.entry(part(one)).or_default() += 1;
    }
    let builds = nodes::builds_on(world, id).count();
    there.extend((builds > 0).then_some(("builds under way", builds)));
    said.extend(there.into_iter().map(|(what, count)| format!("{what}: {count}")));
    said.extend(waits(plan, &id.to_string()).map(str::to_owned));
    if nodes::is_draining(world, id) {
        said.extend(nodes::builds_on(world, id).map(|build| {
            let app = world.apps.get(&build.app).map_or("a deleted app", |app| app.name.as_str());
            format!("a build of {app} goes on to its end")
        }));
    }
    said
}

/// What an instance is to its node.
fn part(instance: &Instance) -> &'static str {
    match instance.intent {
        Intent::Run if instance.run.is_some() => "runs of jobs that go on",
        Intent::Run => "instances that should run",
        Intent::Drain { .. } => "instances that finish their requests",
        Intent::Stop { .. } => "instances that were told to stop",
    }
}

fn standing(world: &World, node: &Node) -> String {
    let since = |duty: &Duty| match duty {
        Duty::Serve => None,
        Duty::Cordon { since } | Duty::Drain { since } => Some(*since),
    };
    match (nodes::state(world, node), node.lost.or(since(&node.duty))) {
        (NodeState::Ready, _) => "it is ready and gets new instances".into(),
        (NodeState::Suspect, _) => "it missed a heartbeat and gets nothing new for now".into(),
        (NodeState::Degraded, _) => "something is wrong with it, so it gets nothing new".into(),
        (NodeState::Lost, since) => format!(
            "it is lost{}: what it has is replaced elsewhere, but for single instances and runs; nothing there is stopped",
            at(since)
        ),
        (NodeState::Cordoned, since) => {
            format!("it is cordoned{}: it keeps what it has and gets nothing new", at(since))
        }
        (NodeState::Draining, since) => {
            format!("it is being drained{}: what it has moves to others", at(since))
        }
        (NodeState::Drained, since) => {
            format!("it was drained{} and holds nothing any more", at(since))
        }
    }
}

fn at(since: Option<Timestamp>) -> String {
    since.map_or_else(String::new, |since| format!(" since {since}"))
}

fn report(report: &InstanceReport) -> Vec<String> {
    let mut said = vec![match &report.phase {
        InstancePhase::Preparing => "its node is fetching what it is made of".to_owned(),
        InstancePhase::Starting => "its process runs and has not answered a probe yet".to_owned(),
        InstancePhase::Ready if report.restarts > 0 => {
            format!("it is ready, after {} restarts", report.restarts)
        }
        InstancePhase::Ready => "it is ready".to_owned(),
        InstancePhase::Unready { reason } => format!("it fails its probe: {reason}"),
        InstancePhase::BackingOff { until } => {
            format!("it ended and is started again at {until}, {} restarts so far", report.restarts)
        }
        InstancePhase::Stuck { cause } => format!("it cannot become ready: {}", cause.message),
        InstancePhase::Stopping => "it is ending".to_owned(),
        InstancePhase::Finished => "it has ended".to_owned(),
    }];
    if let Some(note) = &report.last_exit {
        said.push(format!("it last ended at {} with {}", note.at, note.exit));
        said.extend(note.tail.iter().map(|line| format!("  {line}")));
    }
    said.extend(report.warnings.iter().cloned());
    said
}

pub fn deployment(deployment: &Deployment, plan: &Plan) -> Vec<String> {
    let mut said = vec![format!("it is {}", deployment.state)];
    match &deployment.state {
        DeploymentState::Failed { cause } => {
            said.push(cause.message.clone());
            said.extend(cause.hint.clone());
            said.extend(cause.tail.iter().map(|line| format!("  {line}")));
        }
        DeploymentState::Superseded { by } => said.push(format!("a later one won: {by}")),
        DeploymentState::Cancelled { by } => said.push(format!("it was cancelled by {by}")),
        DeploymentState::Queued
        | DeploymentState::Building
        | DeploymentState::Starting
        | DeploymentState::Shifting => {
            said.extend(waits(plan, &deployment.id.to_string()).map(str::to_owned));
        }
        DeploymentState::Live => said.extend(deployment.warnings.iter().cloned()),
    }
    said
}

/// `newest` is the app's newest deployment, which the world has forgotten if it ended badly.
pub fn app(world: &World, app: AppId, newest: Option<&Deployment>, plan: &Plan) -> Vec<String> {
    let mut said = Vec::new();
    let Some(app) = world.apps.get(&app) else { return said };
    if !app.running {
        said.push("it was stopped (`insula start` brings it back)".into());
    }
    match &app.live {
        None => said.push("no deployment of it has become live yet".into()),
        Some(live) => said.push(format!("{} is live since {}", live.deployment, live.since)),
    }
    if let Some(newest) = newest
        && let DeploymentState::Failed { .. } = newest.state
    {
        said.push(format!("{}: {}", newest.id, deployment(newest, plan).join("; ")));
    }
    for pending in world.pending(app.id) {
        said.push(format!("{}: {}", pending.id, deployment(pending, plan).join("; ")));
    }
    said.extend(waits(plan, &app.id.to_string()).map(str::to_owned));
    for i in world.instances_of(app.id) {
        let ready = i.observed.present().is_some_and(|r| {
            // One that is ready now and was not a moment ago is worth a word.
            r.phase == InstancePhase::Ready && r.restarts == 0
        });
        let placed_well = its_node(world, i).is_none();
        if !ready || i.intent != Intent::Run || !placed_well {
            said.push(format!("{} ({}): {}", i.id, i.component, instance(world, i).join("; ")));
        }
    }
    said
}
