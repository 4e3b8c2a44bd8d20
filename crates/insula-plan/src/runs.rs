//! One execution: placed once, watched to its end.

use insula_model::instance::{Instance, Intent, Run, RunState};
use insula_model::observed::{Exit, InstancePhase, Observed};
use insula_model::{Millis, Timestamp};

use crate::action::{Action, Plan};
use crate::nodes;
use crate::placement::Ask;
use crate::world::World;

/// How long a run looks for room on nodes that are there. Longer than drains and graces usually
/// are, and short enough that whoever waits for it is told the same hour.
const RUN_WAIT_MAX: Millis = Millis::secs(600);
/// Within this a node that answers has been told of an instance and holds it.
const BEGIN_TIME_MAX: Millis = Millis::secs(30);

pub(crate) fn step(world: &World, run: &Run, now: Timestamp, plan: &mut Plan) {
    let instance = run.instance.and_then(|id| world.instances.get(&id));
    match (&run.state, instance) {
        (RunState::Queued, _) => place(world, run, now, plan),
        (RunState::Running, Some(instance)) => watch(world, run, instance, plan),
        (RunState::Running, None) => plan.act(Action::EndRun { run: run.id, exit: Exit::Lost }),
        (RunState::Ended { .. } | RunState::Cancelled, _) => {}
    }
}

/// Ends the instances whose run is over; they are not in the world's runs any more.
pub(crate) fn is_over(world: &World, instance: &Instance) -> bool {
    instance.run.is_some_and(|id| world.runs.get(&id).is_none_or(|r| r.state.is_final()))
}

fn place(world: &World, run: &Run, now: Timestamp, plan: &mut Plan) {
    let spec = world.releases.get(&run.release).and_then(|r| r.spec.components.get(&run.component));
    let Some(spec) = spec else {
        let reason = "the release does not have this component".to_owned();
        return plan.act(Action::EndRun { run: run.id, exit: Exit::NotStarted { reason } });
    };
    match plan.room.place(&Ask::of(spec, run.org), None) {
        Ok(node) => plan.act(Action::StartRun { run: run.id, node }),
        // A node that is away may take it once it is back; one that is there had its time.
        Err(no) if no.may_pass() => plan.wait(run.id, format!("it cannot be placed: {no}")),
        Err(no) => {
            let deadline = run.created.plus(RUN_WAIT_MAX);
            if now >= deadline {
                let reason = format!("it could not be placed within {RUN_WAIT_MAX}: {no}");
                return plan.act(Action::EndRun { run: run.id, exit: Exit::NotStarted { reason } });
            }
            plan.wake_at(deadline);
            plan.wait(run.id, format!("it cannot be placed: {no}"));
        }
    }
}

fn watch(world: &World, run: &Run, instance: &Instance, plan: &mut Plan) {
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
        Observed::Absent { seen } if is_gone(world, instance, *seen) => {
            plan.act(Action::EndRun { run: run.id, exit: Exit::Lost });
        }
        Observed::Unknown | Observed::Present { .. } | Observed::Absent { .. } => {
            wait_for_node(world, run, instance, plan);
        }
    }
}

/// Whether the node that says an instance is not there had been told of it, and had the time to
/// begin: then it had it once, and came back without it.
fn is_gone(world: &World, instance: &Instance, seen: Timestamp) -> bool {
    instance.intent != Intent::Run
        || (world.is_here(instance.node) && seen >= instance.created.plus(BEGIN_TIME_MAX))
}

/// A job must not run twice, so what is on a node that is away counts as running.
fn wait_for_node(world: &World, run: &Run, instance: &Instance, plan: &mut Plan) {
    if world.is_here(instance.node) {
        return;
    }
    let node = nodes::name(world, instance.node);
    let since = world.nodes.get(&instance.node).and_then(|node| node.lost);
    let how = since.map_or_else(|| "is not heard".into(), |at| format!("is lost since {at}"));
    plan.wait(
        run.id,
        format!(
            "its node {node} {how}: it may still be running, and must not run twice; it ends as lost if {node} comes back without it or is removed"
        ),
    );
}
