//! Writes what was seen: rows and the events that tell of them, in one transaction each.

use std::sync::Arc;

use insula_kit::random::Random;
use insula_model::build::{Build, BuildState};
use insula_model::event::Event;
use insula_model::node::{Duty, Node};
use insula_model::tenancy::Actor;
use insula_model::{EventId, ID_RANDOM_BYTES, NodeId, NodeName, Timestamp};
use insula_plan::World;
use insula_plan::effect::Told;
use insula_store::{Tx, WriteError, builds, events, instances, nodes};
use insula_wire::facts::NodeFacts;
use tracing::warn;

use crate::Cx;
use crate::ingest::Seen;

/// Ids for the events of one mutation, made outside of it because it may run again.
pub(crate) struct EventParts(Vec<EventId>);

/// A report tells of a handful of transitions of one instance at most.
const EVENTS_PER_MUTATION_MAX: usize = 8;

impl EventParts {
    pub(crate) fn new(random: &dyn Random, now: Timestamp) -> Self {
        let id = |_| {
            let mut bytes = [0; ID_RANDOM_BYTES];
            random.fill(&mut bytes);
            EventId::from_parts(now, bytes)
        };
        Self((0..EVENTS_PER_MUTATION_MAX).map(id).collect())
    }
}

pub(crate) fn event(
    tx: &mut Tx,
    world: &World,
    parts: &EventParts,
    told: &Told,
    actor: Actor,
    now: Timestamp,
) -> Result<(), WriteError> {
    nth_event(tx, world, parts, 0, told, actor, now)
}

fn nth_event(
    tx: &mut Tx,
    world: &World,
    parts: &EventParts,
    nth: usize,
    told: &Told,
    actor: Actor,
    now: Timestamp,
) -> Result<(), WriteError> {
    let Some(id) = parts.0.get(nth) else { return Ok(()) };
    // An org's history speaks of many apps.
    let message = match world.apps.get(&told.app) {
        Some(app) => format!("{}: {}", app.name, told.message),
        None => told.message.clone(),
    };
    let event = Event {
        id: *id,
        kind: told.kind.to_owned(),
        version: 1,
        time: now,
        actor,
        org: Some(told.org),
        subject: told.subject.clone(),
        app: Some(told.app),
        message,
        trace: told.trace.clone(),
        request: None,
        before: None,
        after: None,
    };
    events::append(tx, &event)?;
    Ok(())
}

/// What a node said of itself.
#[derive(Debug, Clone)]
pub(crate) struct Greeting {
    pub(crate) name: NodeName,
    pub(crate) version: String,
    pub(crate) facts: NodeFacts,
}

/// Stores a greeting; whether it is stored. Two nodes of one name are told apart by their ids.
pub(crate) async fn node_hello(cx: &Cx, id: NodeId, greeting: &Greeting, now: Timestamp) -> bool {
    let greeting = greeting.clone();
    let written = cx
        .store
        .write(move |tx| {
            let joined = nodes::get(tx, id)?.map_or(now, |known| known.joined);
            let mut node = Node {
                id,
                name: greeting.name.clone(),
                offer: greeting.facts.offer.clone(),
                site: greeting.facts.site.clone().unwrap_or_default(),
                agent_version: greeting.version.clone(),
                joined,
                hello: now,
                duty: Duty::Serve,
                lost: None,
                ailments: Vec::new(),
                relay: greeting.facts.relay,
            };
            match nodes::hello(tx, &node) {
                Err(WriteError::NameTaken { .. }) => {
                    let Ok(name) = format!("node-{}", id.short()).parse() else { return Ok(()) };
                    node.name = name;
                    nodes::hello(tx, &node)
                }
                other => other,
            }
        })
        .await;
    if let Err(error) = &written {
        warn!(%id, error = error as &dyn std::error::Error, "a node's greeting was not stored");
    }
    written.is_ok()
}

/// Whether all of it was stored.
pub(crate) async fn seen(cx: &Cx, world: &Arc<World>, seen: Vec<Seen>, now: Timestamp) -> bool {
    let mut all = true;
    let begun: Vec<_> = seen
        .into_iter()
        .map(|one| tokio::spawn(write(cx.clone(), Arc::clone(world), one, now)))
        .collect();
    for task in begun {
        match task.await {
            Ok(Ok(())) => {}
            // It went while the report was on its way.
            Ok(Err(WriteError::NotFound { .. } | WriteError::Moved { .. })) => {}
            Ok(Err(error)) => {
                all = false;
                warn!(error = &error as &dyn std::error::Error, "a report was not stored");
            }
            Err(error) => {
                all = false;
                warn!(%error, "storing a report panicked");
            }
        }
    }
    all
}

async fn write(cx: Cx, world: Arc<World>, seen: Seen, now: Timestamp) -> Result<(), WriteError> {
    let parts = EventParts::new(cx.random.as_ref(), now);
    cx.store
        .write(move |tx| match &seen {
            Seen::Instance { id, observed, told } => {
                let Some(row) = world.instances.get(id) else { return Ok(()) };
                if instances::set_observed(tx, row.org, *id, observed)? {
                    for (nth, told) in told.iter().enumerate() {
                        nth_event(tx, &world, &parts, nth, told, Actor::Platform, now)?;
                    }
                }
                Ok(())
            }
            Seen::Build { row, told } => {
                let Some(was) = builds::get(tx, row.org, row.id)? else { return Ok(()) };
                match was.state {
                    BuildState::Running { .. } => {
                        builds::update(tx, &was.state, row)?;
                        event(tx, &world, &parts, told, Actor::Platform, now)
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
                        let next = Build { turn: *turn, updated: now, ..was };
                        builds::update(tx, &row.state, &next)
                    }
                    Some(_) | None => Ok(()),
                }
            }
        })
        .await
}
