//! Keeps what is live as large as it should be, and ends what belongs to nothing.
//!
//! Never touches the instances of a deployment that is under way (see `rollout`).

use std::collections::BTreeSet;

use insula_model::app::App;
use insula_model::deployment::DeploymentState;
use insula_model::instance::{Instance, Intent};
use insula_model::{ComponentName, DeploymentId, Timestamp};

use crate::action::{Action, Plan};
use crate::placement::{Ask, Kin};
use crate::rollout::wanted;
use crate::world::World;

pub(crate) fn step(world: &World, app: &App, _now: Timestamp, plan: &mut Plan) {
    let under_way: BTreeSet<DeploymentId> = world.pending(app.id).map(|d| d.id).collect();
    let shifting = world.pending(app.id).any(|d| d.state == DeploymentState::Shifting);
    let live = app.live.as_ref();
    for instance in world.instances_of(app.id) {
        let belongs = under_way.contains(&instance.deployment)
            || live.is_some_and(|l| l.deployment == instance.deployment);
        if !belongs && instance.intent == Intent::Run {
            let (instance, why) = (instance.id, "its deployment did not become live");
            plan.act(Action::Stop { instance, why });
        }
    }
    let Some(live) = live else { return };
    // Those that shift take over in this moment: what was live is on its way out.
    if shifting {
        return;
    }
    let Some(release) = world.releases.get(&live.release) else { return };
    for (name, spec) in &release.spec.components {
        let have = instances(world, app, live.deployment, name);
        let want = wanted(app, name, spec) as usize;
        if have.len() > want {
            // The youngest go: the oldest have proved themselves longest.
            for surplus in &have[want..] {
                plan.act(Action::Drain { instance: surplus.id, why: "scaled down" });
            }
        }
        // A single component that a deployment has asked to make way stays away.
        let replaced = spec.single && !under_way.is_empty();
        let still_there = spec.single
            && world.instances_of(app.id).any(|i| {
                i.component == *name && (i.intent != Intent::Run || i.deployment != live.deployment)
            });
        if have.len() >= want || replaced {
            continue;
        }
        if still_there {
            plan.wait(app.id, format!("`{name}` is single: the old one has to end first"));
            continue;
        }
        for _ in have.len()..want {
            let ask = Ask::of(spec, app.org);
            match plan.room.place(&ask, Some(&Kin::new(app.id, name))) {
                Ok(node) => plan.act(Action::Place {
                    app: app.id,
                    deployment: live.deployment,
                    component: name.clone(),
                    nodes: vec![node],
                }),
                Err(no) => {
                    plan.wait(app.id, format!("no node has room for `{name}`: {no}"));
                    break;
                }
            }
        }
    }
}

fn instances<'a>(
    world: &'a World,
    app: &App,
    deployment: DeploymentId,
    component: &ComponentName,
) -> Vec<&'a Instance> {
    world
        .instances_of(app.id)
        .filter(|i| {
            i.deployment == deployment && i.component == *component && i.intent == Intent::Run
        })
        .collect()
}
