//! Carries actions out: each in a mutation of its own, all of them in one commit.

use std::sync::Arc;

use insula_kit::random::Random;
use insula_model::tenancy::Actor;
use insula_model::{BuildId, DeploymentId, ID_RANDOM_BYTES, InstanceId, ReleaseId, Timestamp};
use insula_plan::effect::{self, Cut, Fresh, Write};
use insula_plan::{Action, World};
use insula_store::{Tx, WriteError, builds, deployments, instances, releases, runs};
use tracing::{debug, info, warn};

use crate::{Cx, secrets, tell};

/// How many of the actions were not carried out for another reason than that the store had moved on.
pub(crate) async fn all(cx: &Cx, world: &Arc<World>, actions: &[Action], now: Timestamp) -> usize {
    // Queued together, so that the store commits them together.
    let begun: Vec<_> = actions
        .iter()
        .map(|action| {
            (action, tokio::spawn(one(cx.clone(), Arc::clone(world), action.clone(), now)))
        })
        .collect();
    let mut failed = 0;
    for (action, task) in begun {
        match task.await {
            Ok(Ok(())) => log(world, action),
            Ok(Err(WriteError::Moved { .. } | WriteError::NotFound { .. })) => {
                debug!(action = %action, "overtaken; the next pass decides anew");
            }
            Ok(Err(error)) => {
                failed += 1;
                warn!(action = %action, error = &error as &dyn std::error::Error, "an action failed");
            }
            Err(error) => {
                failed += 1;
                warn!(action = %action, %error, "an action panicked");
            }
        }
    }
    failed
}

/// One line for what changes a deployment, with the trace that runs through all of it.
fn log(world: &World, action: &Action) {
    let trace = |id: &DeploymentId| world.deployments.get(id).map_or("", |d| d.trace.as_str());
    match action {
        Action::Supersede { deployment, .. }
        | Action::StartBuild { deployment, .. }
        | Action::RetryBuild { deployment, .. }
        | Action::CutRelease { deployment, .. }
        | Action::UseRelease { deployment, .. }
        | Action::Place { deployment, .. }
        | Action::Shift { deployment, .. }
        | Action::GoLive { deployment, .. } => {
            info!(trace = trace(deployment), action = %action, "done");
        }
        Action::Fail { deployment, cause } => {
            info!(trace = trace(deployment), %deployment, cause = cause.code.as_str(), "failed");
        }
        Action::Drain { .. }
        | Action::Stop { .. }
        | Action::Lose { .. }
        | Action::Welcome { .. }
        | Action::Forget { .. }
        | Action::StartRun { .. }
        | Action::EndRun { .. } => debug!(action = %action, "done"),
    }
}

async fn one(cx: Cx, world: Arc<World>, action: Action, now: Timestamp) -> Result<(), WriteError> {
    let fresh = fresh(cx.random.as_ref(), now);
    let event = tell::EventParts::new(cx.random.as_ref(), now);
    cx.store
        .write(move |tx| {
            let cut = match effect::cuts(&action) {
                Some(deployment) => cut(tx, &world, deployment)?,
                None => Cut::default(),
            };
            let effect = effect::effect(&world, &action, now, fresh, &cut);
            for write in &effect.writes {
                carry_out(tx, &world, write)?;
            }
            if let Some(told) = &effect.told {
                tell::event(tx, &world, &event, told, Actor::Platform, now)?;
            }
            Ok(())
        })
        .await
}

fn fresh(random: &dyn Random, now: Timestamp) -> Fresh {
    let mut bytes = [[0; ID_RANDOM_BYTES]; 3];
    bytes.iter_mut().for_each(|b| random.fill(b));
    Fresh {
        build: BuildId::from_parts(now, bytes[0]),
        release: ReleaseId::from_parts(now, bytes[1]),
        instance: InstanceId::from_parts(now, bytes[2]),
    }
}

/// What a release freezes, as of this transaction.
fn cut(tx: &mut Tx, world: &World, deployment: DeploymentId) -> Result<Cut, WriteError> {
    let Some(app) = world.deployments.get(&deployment).and_then(|d| world.apps.get(&d.app)) else {
        return Ok(Cut::default());
    };
    let variables = secrets::variables(tx, app)?;
    let names = secrets::names(tx, app)?;
    let number = releases::next_number(tx, app.org, app.id)?.0;
    Ok(Cut { number, variables, secrets: names })
}

fn carry_out(tx: &mut Tx, world: &World, write: &Write) -> Result<(), WriteError> {
    match write {
        Write::Deployment { row, was } => deployments::update(tx, was, row),
        Write::Build(row) => match builds::get(tx, row.org, row.id)? {
            None => builds::create(tx, row),
            Some(found) => builds::update(tx, &found.state, row),
        },
        Write::Release(row) => releases::create(tx, row),
        Write::Instances(rows) => rows.iter().try_for_each(|row| instances::create(tx, row)),
        Write::Node { row, was } => insula_store::nodes::mark(tx, row.id, *was, row.lost).map(drop),
        Write::Intent { instance, intent } => match world.instances.get(instance) {
            Some(row) => instances::set_intent(tx, row.org, *instance, *intent).map(drop),
            None => Ok(()),
        },
        Write::Forget { instance } => match world.instances.get(instance) {
            Some(row) => instances::delete(tx, row.org, *instance),
            None => Ok(()),
        },
        Write::Live { org, app, live } => insula_store::apps::set_live(tx, *org, *app, live),
        Write::Run { row, was } => runs::update(tx, was, row),
    }
}
