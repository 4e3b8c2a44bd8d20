//! What a node's report changes, decided as a pure function.
//!
//! A report is complete: what it does not name is not there. Only transitions are written, so a
//! node that repeats itself costs nothing.

use insula_model::build::{Build, BuildState};
use insula_model::instance::Instance;
use insula_model::observed::{BuildPhase, InstancePhase, InstanceReport, NodeReport, Observed};
use insula_model::{InstanceId, NodeId, Timestamp};
use insula_plan::World;
use insula_plan::effect::Told;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    Instance { id: InstanceId, observed: Box<Observed<InstanceReport>>, told: Vec<Told> },
    Build { row: Box<Build>, told: Told },
}

pub(crate) fn report(
    world: &World,
    node: NodeId,
    report: &NodeReport,
    now: Timestamp,
) -> Vec<Seen> {
    let mut seen = Vec::new();
    for instance in world.instances.values().filter(|i| i.node == node) {
        let reported = report.instances.iter().find(|r| r.id == instance.id);
        seen.extend(changed(instance, reported, now));
    }
    for told in &report.builds {
        let Some(build) = world.builds.get(&told.id) else { continue };
        let here = matches!(build.state, BuildState::Running { node: on, .. } if on == node);
        let state = match &told.phase {
            BuildPhase::Running { .. } => continue,
            BuildPhase::Done { artifact } => BuildState::Done { artifact: *artifact },
            BuildPhase::Failed { cause } => BuildState::Failed { cause: cause.clone() },
        };
        if here {
            let told = build_told(build, &state);
            let row = Build { state, updated: now, ..build.clone() };
            seen.push(Seen::Build { row: Box::new(row), told });
        }
    }
    seen
}

fn build_told(build: &Build, state: &BuildState) -> Told {
    let (kind, message) = match state {
        BuildState::Done { artifact } => {
            ("build.done", format!("the build is done: {}", artifact.size))
        }
        BuildState::Failed { cause } => {
            ("build.failed", format!("the build failed: {}", cause.message))
        }
        BuildState::Queued | BuildState::Running { .. } | BuildState::Cancelled => {
            ("build.changed", "the build changed".to_owned())
        }
    };
    Told {
        kind,
        org: build.org,
        app: build.app,
        subject: build.id.to_string(),
        message,
        trace: None,
    }
}

fn changed(instance: &Instance, reported: Option<&InstanceReport>, now: Timestamp) -> Option<Seen> {
    let before = instance.observed.present();
    let observed = match (reported, &instance.observed) {
        (Some(report), _) if before == Some(report) => return None,
        (Some(report), _) => Observed::Present { value: report.clone(), seen: now },
        (None, Observed::Absent { .. }) => return None,
        (None, Observed::Unknown | Observed::Present { .. }) => Observed::Absent { seen: now },
    };
    let told = reported.map(|after| history(instance, before, after)).unwrap_or_default();
    Some(Seen::Instance { id: instance.id, observed: Box::new(observed), told })
}

/// What of a transition belongs in the history.
fn history(
    instance: &Instance,
    before: Option<&InstanceReport>,
    after: &InstanceReport,
) -> Vec<Told> {
    let mut told = Vec::new();
    let mut tell = |kind, message| {
        told.push(Told {
            kind,
            org: instance.org,
            app: instance.app,
            subject: instance.id.to_string(),
            message,
            trace: None,
        });
    };
    let component = &instance.component;
    let exit_before = before.and_then(|b| b.last_exit.as_ref());
    if let Some(note) = &after.last_exit
        && exit_before != Some(note)
        && instance.run.is_none()
    {
        tell("instance.exited", format!("`{component}` ended: {}", note.exit));
    }
    if after.restarts > before.map_or(0, |b| b.restarts) {
        tell(
            "instance.restarted",
            format!("`{component}` was started again, restart {}", after.restarts),
        );
    }
    let phase_before = before.map(|b| &b.phase);
    if phase_before != Some(&after.phase) {
        match &after.phase {
            InstancePhase::Ready => tell("instance.ready", format!("`{component}` is ready")),
            InstancePhase::Unready { reason } => {
                tell("instance.unready", format!("`{component}` fails its probe: {reason}"));
            }
            InstancePhase::BackingOff { until } => {
                tell("instance.backing_off", format!("`{component}` is started again at {until}"));
            }
            InstancePhase::Stuck { cause } => {
                tell(
                    "instance.stuck",
                    format!("`{component}` cannot become ready: {}", cause.message),
                );
            }
            InstancePhase::Preparing
            | InstancePhase::Starting
            | InstancePhase::Stopping
            | InstancePhase::Finished => {}
        }
    }
    told
}
