//! Everything can be asked why: sentences about an app, a deployment, an instance or a run.

use insula_model::AppId;
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::instance::{Instance, Intent};
use insula_model::observed::{InstancePhase, InstanceReport, Observed};

use crate::action::Plan;
use crate::world::World;

/// What the last plan said of a subject, in the order in which it was said.
pub fn waits<'a>(plan: &'a Plan, subject: &'a str) -> impl Iterator<Item = &'a str> {
    plan.waits.iter().filter(move |w| w.subject == subject).map(|w| w.reason.as_str())
}

pub fn instance(world: &World, instance: &Instance) -> Vec<String> {
    let mut said = Vec::new();
    if !world.is_here(instance.node) {
        let name = world.nodes.get(&instance.node).map_or("its node", |node| node.name.as_str());
        said.push(format!("{name} is not connected; this is what it said last"));
    }
    match instance.intent {
        Intent::Run => said.push("it should run".to_owned()),
        Intent::Drain { since } => {
            said.push(format!("it is being drained since {since}: another release took over"));
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
        if !ready || i.intent != Intent::Run {
            said.push(format!("{} ({}): {}", i.id, i.component, instance(world, i).join("; ")));
        }
    }
    said
}
