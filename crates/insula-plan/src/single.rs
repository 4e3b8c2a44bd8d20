//! Components of which there are never two at once.
//!
//! A new instance is placed only when no row of the component is left that may still run: its
//! node said that it is gone, or was removed, or is fenced. See decision 0016 for why that is safe.

use insula_model::app::App;
use insula_model::instance::{Instance, Intent};
use insula_model::limits;
use insula_model::spec::{ComponentSpec, Failover};
use insula_model::{ComponentName, Millis};

use crate::action::{Action, Plan};
use crate::crew::Asked;
use crate::nodes;
use crate::placement::{Ask, Kin, NoRoom};
use crate::rollout::{room_may_come, spec_of};
use crate::world::{Presence, World};

/// Beyond the lease and the grace: a heartbeat that was on its way, and clocks that do not run
/// at quite the same speed.
const FENCE_SLACK_HEARTBEATS: u64 = 2;

/// Whether a component may never be there twice: it says so, or what is live or there does.
pub(crate) fn applies(
    world: &World,
    app: &App,
    name: &ComponentName,
    spec: &ComponentSpec,
) -> bool {
    let live = || {
        let release = world.releases.get(&app.live.as_ref()?.release)?;
        Some(release.spec.components.get(name)?.single)
    };
    let of = |i: &Instance| spec_of(world, i).is_some_and(|s| s.single);
    let there = || world.instances_of(app.id).any(|i| i.component == *name && of(i));
    spec.single || live() == Some(true) || there()
}

/// Takes the step; `subject` is who waits. What has no room comes back, for the caller to judge.
pub(crate) fn step(
    world: &World,
    asked: &Asked<'_>,
    subject: &str,
    takes_over: bool,
    plan: &mut Plan,
) -> Option<NoRoom> {
    if fence_all(world, asked, plan) {
        return None;
    }
    let rows = || world.instances_of(asked.app.id).filter(|i| i.component == *asked.name);
    let may_run: Vec<&Instance> = rows().filter(|i| !is_fenced(world, i)).collect();
    let (own, others): (Vec<&Instance>, Vec<&Instance>) =
        may_run.into_iter().partition(|i| i.deployment == asked.goal && i.intent == Intent::Run);
    let spare = own.iter().skip(asked.want.min(1));
    for spare in spare.filter(|i| world.is_here(i.node)) {
        plan.act(Action::Drain { instance: spare.id, why: "more of them than are asked for" });
    }
    if asked.want == 0 {
        return None;
    }
    if let Some(there) = own.first() {
        stays_or_moves(world, asked, there, subject, plan);
        return None;
    }
    if others.is_empty() {
        return place(asked, plan);
    }
    if takes_over && let Some(no) = hopeless(world, asked, plan) {
        return Some(no);
    }
    for old in &others {
        if takes_over && old.intent == Intent::Run && world.is_here(old.node) {
            plan.act(Action::Drain { instance: old.id, why: "makes way for the next one" });
        }
        plan.wait(subject, blocked_by(world, old));
    }
    None
}

fn ask(asked: &Asked<'_>) -> (Ask, Kin) {
    (Ask::of(asked.spec, asked.app.org), Kin::new(asked.app.id, asked.name))
}

fn place(asked: &Asked<'_>, plan: &mut Plan) -> Option<NoRoom> {
    let (ask, kin) = ask(asked);
    match plan.room.place(&ask, Some(&kin)) {
        Ok(node) => plan.act(Action::Place {
            app: asked.app.id,
            deployment: asked.goal,
            component: asked.name.clone(),
            nodes: vec![node],
        }),
        Err(no) => return Some(no),
    }
    None
}

/// Why nothing could take it even after the old one has left, if so: then the old one stays.
fn hopeless(world: &World, asked: &Asked<'_>, plan: &mut Plan) -> Option<NoRoom> {
    let (ask, kin) = ask(asked);
    let no = plan.room.place(&ask, Some(&kin)).err()?;
    (!no.may_pass() && !room_may_come(world, &ask, &no)).then_some(no)
}

/// The one that is there, where it may have to leave: stopped first, for two cannot be.
fn stays_or_moves(
    world: &World,
    asked: &Asked<'_>,
    there: &Instance,
    subject: &str,
    plan: &mut Plan,
) {
    if nodes::is_lost(world, there.node) {
        return plan.wait(subject, blocked_by(world, there));
    }
    if !nodes::is_draining(world, there.node) {
        return;
    }
    let what = format!("`{}` of {}", asked.name, asked.app.name);
    let (ask, kin) = ask(asked);
    // The room is kept for it as long as this plan is being made; the next one places it.
    match plan.room.place(&ask, Some(&kin)) {
        Err(no) => plan.wait(there.node, format!("{what} stays: {no}")),
        Ok(_) if !world.is_here(there.node) => {
            plan.wait(there.node, format!("{what} waits until its node is heard again"));
        }
        Ok(_) => plan.act(Action::Drain { instance: there.id, why: "its node is being drained" }),
    }
}

/// Tells the nodes whose lease is over to stop what they stopped by themselves; whether any had
/// not been told. Only then may it be somewhere else: a node that is back obeys its Target.
fn fence_all(world: &World, asked: &Asked<'_>, plan: &mut Plan) -> bool {
    let mut told = false;
    for one in world.instances_of(asked.app.id).filter(|i| i.component == *asked.name) {
        told |= fence(world, one, plan);
    }
    told
}

pub(crate) fn fence(world: &World, one: &Instance, plan: &mut Plan) -> bool {
    let stopped = matches!(one.intent, Intent::Stop { .. });
    let over = !stopped && lease_is_over(world, one);
    if over {
        let why = "its node is silent: its lease is over";
        plan.act(Action::Stop { instance: one.id, why });
    }
    over
}

/// Whether an instance cannot run any more, though its node did not say so.
fn is_fenced(world: &World, instance: &Instance) -> bool {
    matches!(instance.intent, Intent::Stop { .. }) && lease_is_over(world, instance)
}

fn lease_is_over(world: &World, instance: &Instance) -> bool {
    let Some(node) = world.nodes.get(&instance.node).filter(|n| n.lost.is_some()) else {
        return false;
    };
    match (spec_of(world, instance), world.presence(node.id)) {
        (Some(spec), Presence::Silent { span }) => match spec.failover {
            Failover::Lease => span >= fence_time(world, spec),
            Failover::Never => false,
        },
        (Some(_) | None, Presence::Here) | (None, Presence::Silent { .. }) => false,
    }
}

/// After how much silence an instance has certainly been stopped by its node.
fn fence_time(world: &World, spec: &ComponentSpec) -> Millis {
    let slack = world.rules.heartbeat.0 * FENCE_SLACK_HEARTBEATS;
    Millis(limits::FAILOVER_LEASE.0 + spec.stop.grace.0 + slack)
}

/// Why the next one cannot be yet.
fn blocked_by(world: &World, old: &Instance) -> String {
    let name = &old.component;
    let lost = world.nodes.get(&old.node).and_then(|node| Some((node, node.lost?)));
    let Some((node, since)) = lost else {
        if !world.is_here(old.node) {
            let on = nodes::name(world, old.node);
            return format!("`{name}` is single: {on}, which has the old one, is not heard");
        }
        return format!("`{name}` is single: the old one has to end first");
    };
    let said = format!("`{name}` is single and its node {} is lost since {since}", node.name);
    match spec_of(world, old).map(|spec| (spec.failover, fence_time(world, spec))) {
        Some((Failover::Lease, after)) => {
            format!("{said}; it is replaced when that has been silent for {after}")
        }
        Some((Failover::Never, _)) | None => format!(
            "{said}: it is replaced once that is back or removed (`failover = \"lease\"` would replace it by itself)"
        ),
    }
}
