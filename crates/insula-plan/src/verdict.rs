//! What fails a deployment, in words for the person who has to mend it.

use insula_model::deployment::{Cause, CauseCode, Deployment};
use insula_model::instance::{Instance, Intent};
use insula_model::limits;
use insula_model::observed::{Exit, InstancePhase};
use insula_model::spec::ComponentSpec;

use crate::action::{Action, Plan};

pub(crate) fn fail(deployment: &Deployment, cause: Cause, plan: &mut Plan) {
    plan.act(Action::Fail { deployment: deployment.id, cause: Box::new(cause) });
}

pub(crate) fn lost_release() -> Cause {
    Cause::new(CauseCode::SourceLost, "the release it starts from is not kept any more")
}

/// Why waiting for this new instance would not help, if so.
pub(crate) fn hopeless(instance: &Instance) -> Option<Cause> {
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
    // A reboot of its node is nothing that the app did; it has its time to become ready.
    if note.exit == Exit::Lost {
        return None;
    }
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

pub(crate) fn too_late(instance: &Instance, spec: &ComponentSpec) -> Cause {
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
