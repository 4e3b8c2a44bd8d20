//! The way out of an instance: drained, stopped, forgotten.

use insula_model::instance::{Instance, Intent};
use insula_model::observed::Observed;
use insula_model::{Millis, Timestamp, limits};

use crate::action::{Action, Plan};
use crate::rollout::spec_of;
use crate::world::World;

/// Beyond its drain, how long an instance waits for gateways that have not followed. A gateway
/// that is away this long serves a table of its own, and loses these endpoints.
const GATEWAY_SLACK: Millis = Millis::secs(10);

pub(crate) fn step(world: &World, instance: &Instance, now: Timestamp, plan: &mut Plan) {
    if !world.apps.contains_key(&instance.app) && instance.intent == Intent::Run {
        return plan.act(Action::Stop { instance: instance.id, why: "its app was deleted" });
    }
    if !world.nodes.contains_key(&instance.node) {
        return plan.act(Action::Forget { instance: instance.id });
    }
    match instance.intent {
        Intent::Run if crate::runs::is_over(world, instance) => {
            plan.act(Action::Stop { instance: instance.id, why: "its run is over" });
        }
        Intent::Run => {}
        Intent::Drain { since } => drain(world, instance, since, now, plan),
        Intent::Stop { .. } => match instance.observed {
            Observed::Absent { .. } => plan.act(Action::Forget { instance: instance.id }),
            Observed::Unknown | Observed::Present { .. } => {
                if !world.is_here(instance.node) {
                    plan.wait(instance.id, "its node is not heard: it ends once that is back");
                }
            }
        },
    }
}

/// Told to stop, and gone as its node says.
pub(crate) fn may_be_forgotten(instance: &Instance) -> bool {
    matches!(instance.intent, Intent::Stop { .. })
        && matches!(instance.observed, Observed::Absent { .. })
}

fn drain(world: &World, instance: &Instance, since: Timestamp, now: Timestamp, plan: &mut Plan) {
    let stop = |plan: &mut Plan, why| plan.act(Action::Stop { instance: instance.id, why });
    if !instance.kind.listens() {
        return stop(plan, "replaced");
    }
    let edge = &world.edge;
    // Others find it by name, and no gateway says when they have done: it gets its whole drain.
    let by_gateways = crate::routes::has_route(world, instance);
    let routed = edge.routed_by_any.contains(&instance.id);
    if by_gateways
        && edge.known
        && edge.gateways > 0
        && !routed
        && !edge.busy.contains(&instance.id)
    {
        return stop(plan, "drained");
    }
    let drain = spec_of(world, instance).map_or(limits::DRAIN_DEFAULT, |spec| spec.drain);
    let mut deadline = since.plus(drain);
    if routed || !edge.known || edge.gateways == 0 {
        deadline = deadline.plus(GATEWAY_SLACK);
    }
    if now >= deadline {
        stop(plan, "its time to drain is over");
    } else {
        plan.wait(instance.id, "draining: requests are under way");
        plan.wake_at(deadline);
    }
}
