//! One execution: placed once, watched to its end.

use insula_model::Timestamp;
use insula_model::instance::{Instance, Intent, Run, RunState};
use insula_model::observed::{Exit, InstancePhase, Observed};

use crate::action::{Action, Plan};
use crate::placement::Ask;
use crate::world::World;

pub(crate) fn step(world: &World, run: &Run, _now: Timestamp, plan: &mut Plan) {
    let instance = run.instance.and_then(|id| world.instances.get(&id));
    match (&run.state, instance) {
        (RunState::Queued, _) => place(world, run, plan),
        (RunState::Running, Some(instance)) => watch(run, instance, plan),
        (RunState::Running, None) => plan.act(Action::EndRun { run: run.id, exit: Exit::Lost }),
        (RunState::Ended { .. } | RunState::Cancelled, _) => {}
    }
}

/// Ends the instances whose run is over; they are not in the world's runs any more.
pub(crate) fn is_over(world: &World, instance: &Instance) -> bool {
    instance.run.is_some_and(|id| world.runs.get(&id).is_none_or(|r| r.state.is_final()))
}

fn place(world: &World, run: &Run, plan: &mut Plan) {
    let spec = world.releases.get(&run.release).and_then(|r| r.spec.components.get(&run.component));
    let Some(spec) = spec else {
        let reason = "the release does not have this component".to_owned();
        return plan.act(Action::EndRun { run: run.id, exit: Exit::NotStarted { reason } });
    };
    match plan.room.place(Ask { cpu: spec.cpu, memory: spec.memory, runtime: spec.runtime }) {
        Ok(node) => plan.act(Action::StartRun { run: run.id, node }),
        Err(no) => plan.wait(run.id, format!("no node has room: {no}")),
    }
}

fn watch(run: &Run, instance: &Instance, plan: &mut Plan) {
    match &instance.observed {
        Observed::Present { value, .. } if value.phase == InstancePhase::Finished => {
            let exit = value.last_exit.as_ref().map_or(Exit::Lost, |note| note.exit.clone());
            plan.act(Action::EndRun { run: run.id, exit });
        }
        // What cannot be made ready now is tried again by its node for ever; nobody waits so long.
        Observed::Present { value, .. } if matches!(value.phase, InstancePhase::Stuck { .. }) => {
            if let InstancePhase::Stuck { cause } = &value.phase {
                let exit = Exit::NotStarted { reason: cause.message.clone() };
                plan.act(Action::EndRun { run: run.id, exit });
            }
        }
        Observed::Absent { .. } if instance.intent != Intent::Run => {
            plan.act(Action::EndRun { run: run.id, exit: Exit::Lost });
        }
        Observed::Unknown | Observed::Present { .. } | Observed::Absent { .. } => {}
    }
}
