//! Carries mutations out in the store: each in a transaction of its own, many of them in one
//! commit, all of them behind the fence of the lease.

use std::sync::Arc;

use insula_model::build::{Build, BuildState};
use insula_model::event::Event;
use insula_model::node::Ailment;
use insula_model::tenancy::Actor;
use insula_model::{EventId, NodeId, Timestamp};
use insula_plan::effect::{self, Cut, Told, Write};
use insula_plan::{Action, World};
use insula_store::{Kind, Tx, WriteError, builds, deployments, events, instances, nodes, releases};
use insula_store::{StoreError, runs};
use tracing::{debug, info, warn};

use crate::Cx;
use crate::core::ingest::Seen;
use crate::core::mutation::{Greeting, Mutation, Outcome, Sight, Step, Ticket, What, greeted};
use crate::fence::Fence;
use crate::secrets;

/// What became of each mutation, and whether the fence stood in the way of any.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) outcomes: Vec<(Ticket, Outcome)>,
    /// Somebody else leads: whatever else was answered, nothing more may be done.
    pub(crate) superseded: bool,
}

pub(crate) async fn all(cx: &Cx, fence: Fence, mutations: Vec<Mutation>) -> Written {
    // Queued together, so that the store commits them together.
    let begun: Vec<_> = mutations
        .into_iter()
        .map(|mutation| {
            let mutation = Arc::new(mutation);
            (Arc::clone(&mutation), tokio::spawn(one(cx.clone(), fence, mutation)))
        })
        .collect();
    let mut written = Written::default();
    for (mutation, task) in begun {
        let answer = task.await;
        let outcome = match &answer {
            Ok(Ok(())) => {
                log(&mutation);
                Outcome::Done
            }
            Ok(Err(
                error @ (WriteError::Moved { .. }
                | WriteError::NotFound { .. }
                | WriteError::Exists { .. }
                | WriteError::Revoked { .. }),
            )) => {
                debug!(%error, "overtaken; the next pass decides anew");
                Outcome::Overtaken
            }
            Ok(Err(error)) => {
                written.superseded |= matches!(error, WriteError::Superseded { .. });
                warn!(
                    what = name(&mutation.what),
                    error = error as &dyn std::error::Error,
                    "a write failed"
                );
                Outcome::Failed
            }
            Err(error) => {
                warn!(what = name(&mutation.what), %error, "a write panicked");
                Outcome::Failed
            }
        };
        written.outcomes.push((mutation.ticket, outcome));
    }
    written
}

fn name(what: &What) -> &'static str {
    match what {
        What::Greet { .. } => "a node's greeting",
        What::Saw { .. } => "a node's report",
        What::Ail { .. } => "a node's ailments",
        What::Act { .. } => "steps of the plan",
    }
}

/// One line for what changes a deployment, with the trace that runs through all of it.
fn log(mutation: &Mutation) {
    let What::Act { steps } = &mutation.what else { return };
    for Step { action, .. } in steps {
        match deployment_of(action).and_then(|id| mutation.world.deployments.get(&id)) {
            Some(deployment) => info!(trace = deployment.trace, action = %action, "done"),
            None => debug!(action = %action, "done"),
        }
    }
}

fn deployment_of(action: &Action) -> Option<insula_model::DeploymentId> {
    match action {
        Action::Supersede { deployment, .. }
        | Action::StartBuild { deployment, .. }
        | Action::RetryBuild { deployment, .. }
        | Action::CutRelease { deployment, .. }
        | Action::UseRelease { deployment, .. }
        | Action::Place { deployment, .. }
        | Action::Shift { deployment, .. }
        | Action::GoLive { deployment, .. }
        | Action::Fail { deployment, .. } => Some(*deployment),
        _ => None,
    }
}

async fn one(cx: Cx, fence: Fence, mutation: Arc<Mutation>) -> Result<(), WriteError> {
    cx.store
        .write(move |tx| {
            fence.check(tx)?;
            match &mutation.what {
                What::Greet { node, greeting, event } => {
                    greet(tx, *node, greeting, *event, mutation.at)
                }
                What::Saw { seen, .. } => {
                    seen.iter().try_for_each(|sight| saw(tx, &mutation, sight))
                }
                What::Ail { node, ailments, event } => {
                    ail(tx, *node, ailments, *event, mutation.at)
                }
                What::Act { steps } => steps.iter().try_for_each(|step| act(tx, &mutation, step)),
            }
        })
        .await
}

/// Two nodes of one name are told apart by the store; one that was removed stays out.
fn greet(
    tx: &mut Tx,
    id: NodeId,
    greeting: &Greeting,
    event: EventId,
    at: Timestamp,
) -> Result<(), WriteError> {
    let known = nodes::get(tx, id)?;
    nodes::hello(tx, &greeted(known.as_ref(), id, greeting, at))?;
    if known.is_some() {
        return Ok(());
    }
    let name = nodes::get(tx, id)?.map_or_else(|| greeting.name.clone(), |row| row.name);
    operator_event(tx, event, "node.joined", id, format!("{name} has joined"), at)
}

fn ail(
    tx: &mut Tx,
    id: NodeId,
    ailments: &[Ailment],
    event: EventId,
    at: Timestamp,
) -> Result<(), WriteError> {
    let row = nodes::get(tx, id)?.ok_or(WriteError::NotFound { kind: Kind::Node })?;
    if nodes::set_ailments(tx, id, ailments)?.is_none() {
        return Ok(());
    }
    let (kind, message) = if ailments.is_empty() {
        ("node.recovered", format!("{} is well again", row.name))
    } else {
        let said: Vec<&str> = ailments.iter().map(|ailment| ailment.message.as_str()).collect();
        ("node.degraded", format!("{} is degraded: {}", row.name, said.join("; ")))
    };
    operator_event(tx, event, kind, id, message, at)
}

fn operator_event(
    tx: &mut Tx,
    id: EventId,
    kind: &'static str,
    node: NodeId,
    message: String,
    at: Timestamp,
) -> Result<(), WriteError> {
    let told = Told { kind, org: None, app: None, subject: node.to_string(), message, trace: None };
    Ok(events::append(tx, &shaped(id, &told, None, at))?)
}

/// A sentence of the history. An org's history speaks of many apps, so it begins with the app's.
fn event(
    tx: &mut Tx,
    world: &World,
    id: EventId,
    told: &Told,
    at: Timestamp,
) -> Result<(), StoreError> {
    let app = told.app.and_then(|id| world.apps.get(&id));
    events::append(tx, &shaped(id, told, app.map(|app| app.name.to_string()), at))
}

fn shaped(id: EventId, told: &Told, app: Option<String>, at: Timestamp) -> Event {
    Event {
        id,
        kind: told.kind.to_owned(),
        version: 1,
        time: at,
        actor: Actor::Platform,
        org: told.org,
        subject: told.subject.clone(),
        app: told.app,
        message: match app {
            Some(app) => format!("{app}: {}", told.message),
            None => told.message.clone(),
        },
        trace: told.trace.clone(),
        request: None,
        before: None,
        after: None,
    }
}

/// What went while the report was on its way is passed over.
fn saw(tx: &mut Tx, mutation: &Mutation, sight: &Sight) -> Result<(), WriteError> {
    let (world, at) = (&mutation.world, mutation.at);
    match &sight.seen {
        Seen::Instance { id, observed, told } => {
            let Some(row) = world.instances.get(id) else { return Ok(()) };
            match instances::set_observed(tx, row.org, *id, observed) {
                Ok(true) => {
                    for (told, event_id) in told.iter().zip(&sight.events) {
                        event(tx, world, *event_id, told, at)?;
                    }
                    Ok(())
                }
                Ok(false) | Err(WriteError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        }
        Seen::Build { row, told } => {
            let Some(was) = builds::get(tx, row.org, row.id)? else { return Ok(()) };
            match was.state {
                BuildState::Running { .. } => {
                    builds::update(tx, &was.state, row)?;
                    for event_id in &sight.events {
                        event(tx, world, *event_id, told, at)?;
                    }
                    Ok(())
                }
                BuildState::Queued
                | BuildState::Done { .. }
                | BuildState::Failed { .. }
                | BuildState::Cancelled => Ok(()),
            }
        }
        Seen::Turn { row, turn } => {
            // Of this attempt only: it may have ended or gone elsewhere meanwhile.
            match builds::get(tx, row.org, row.id)? {
                Some(was) if was.state == row.state && was.turn == row.turn => {
                    let next = Build { turn: *turn, updated: at, ..was };
                    builds::update(tx, &row.state, &next)
                }
                Some(_) | None => Ok(()),
            }
        }
    }
}

fn act(tx: &mut Tx, mutation: &Mutation, step: &Step) -> Result<(), WriteError> {
    let (world, at) = (&mutation.world, mutation.at);
    let cut = match effect::cuts(&step.action) {
        Some(deployment) => cut(tx, world, deployment)?,
        None => Cut::default(),
    };
    let effect = effect::effect(world, &step.action, at, step.fresh, &cut);
    for write in &effect.writes {
        carry_out(tx, world, write)?;
    }
    if let Some(told) = &effect.told {
        event(tx, world, step.event, told, at)?;
    }
    Ok(())
}

/// What a release freezes, as of this transaction.
fn cut(
    tx: &mut Tx,
    world: &World,
    deployment: insula_model::DeploymentId,
) -> Result<Cut, WriteError> {
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
        Write::Instances(rows) => instances::create_many(tx, rows),
        Write::Node { row, was } => match nodes::mark(tx, row.id, *was, row.lost)? {
            true => Ok(()),
            false => Err(WriteError::Moved {
                kind: Kind::Node,
                expected: mark(*was),
                found: mark(nodes::get(tx, row.id)?.and_then(|found| found.lost)),
            }),
        },
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

fn mark(lost: Option<Timestamp>) -> String {
    lost.map_or_else(|| "not lost".to_owned(), |at| format!("lost at {at}"))
}
