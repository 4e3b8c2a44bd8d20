//! What the core wants written, as values. The shell does it in the store, a simulation does it in
//! its own (`apply`); both do all of a mutation or nothing.

use std::sync::Arc;

use insula_model::feed::Change;
use insula_model::node::{Ailment, Duty, Node};
use insula_model::{EventId, NodeId, NodeName, Timestamp};
use insula_plan::effect::{self, Cut, Fresh, Write};
use insula_plan::{Action, World};
use insula_wire::facts::NodeFacts;

use super::ingest::Seen;

/// Names a mutation in the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One change of the store: all of it or nothing.
#[derive(Debug, Clone)]
pub struct Mutation {
    pub ticket: Ticket,
    /// What it was decided on.
    pub world: Arc<World>,
    pub at: Timestamp,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// A node has opened a session.
    Greet { node: NodeId, greeting: Box<Greeting>, event: EventId },
    /// What a report changes.
    Saw { node: NodeId, seen: Vec<Sight> },
    /// What is wrong with a node now. Starts from what the World says was wrong.
    Ail { node: NodeId, ailments: Vec<Ailment>, event: EventId },
    /// Steps of a plan, together.
    Act { steps: Vec<Step> },
}

/// What a node said of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Greeting {
    pub name: NodeName,
    pub version: String,
    pub facts: NodeFacts,
}

/// One thing that a report changes, with ids for the events that tell of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    pub seen: Seen,
    pub events: Vec<EventId>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub action: Action,
    pub fresh: Fresh,
    pub event: EventId,
}

/// What became of a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The store had moved on: nothing was written, and the next turn decides anew.
    Overtaken,
    /// The store did not do it, or nobody knows whether it did.
    Failed,
}

/// The row of a node that greets: what is known of it stays, what it says of itself is new.
pub fn greeted(known: Option<&Node>, id: NodeId, greeting: &Greeting, at: Timestamp) -> Node {
    Node {
        id,
        name: greeting.name.clone(),
        offer: greeting.facts.offer.clone(),
        site: known.map_or_else(
            || greeting.facts.site.clone().unwrap_or_default(),
            |known| known.site.clone(),
        ),
        agent_version: greeting.version.clone(),
        joined: known.map_or(at, |known| known.joined),
        hello: at,
        duty: known.map_or(Duty::Serve, |known| known.duty),
        lost: known.and_then(|known| known.lost),
        ailments: known.map_or_else(Vec::new, |known| known.ailments.clone()),
        relay: greeting.facts.relay,
    }
}

/// Does a mutation in a store that is a World, as a simulation has one. `cut` says what a release
/// freezes. Changes are as the feed would tell them.
pub fn apply(
    store: &mut World,
    mutation: &Mutation,
    cut: impl Fn(&World, &Action) -> Cut,
) -> (Outcome, Vec<Change>) {
    let mut next = store.clone();
    let mut changes = Vec::new();
    let done = match &mutation.what {
        What::Greet { node, greeting, .. } => {
            let known = next.nodes.get(node).map(Arc::as_ref);
            changes.push(Change::Node(Box::new(greeted(known, *node, greeting, mutation.at))));
            true
        }
        What::Saw { seen, .. } => {
            changes.extend(seen.iter().filter_map(|sight| saw(&next, &sight.seen, mutation.at)));
            true
        }
        What::Ail { node, ailments, .. } => {
            if let Some(row) = next.nodes.get(node).filter(|row| row.ailments != *ailments) {
                let row = Node { ailments: ailments.clone(), ..(**row).clone() };
                changes.push(Change::Node(Box::new(row)));
            }
            true
        }
        What::Act { steps } => steps.iter().all(|step| {
            let cut = match effect::cuts(&step.action) {
                Some(_) => cut(&next, &step.action),
                None => Cut::default(),
            };
            let effect =
                effect::effect(&mutation.world, &step.action, mutation.at, step.fresh, &cut);
            effect.writes.iter().all(|write| {
                let Some(more) = written(&next, write) else { return false };
                more.iter().cloned().for_each(|change| next.apply(change));
                changes.extend(more);
                true
            })
        }),
    };
    if !done {
        return (Outcome::Overtaken, Vec::new());
    }
    if !changes.is_empty() {
        changes.iter().cloned().for_each(|change| store.apply(change));
        store.generation.0 += changes.len() as u64;
    }
    (Outcome::Done, changes)
}

fn saw(store: &World, seen: &Seen, at: Timestamp) -> Option<Change> {
    match seen {
        Seen::Instance { id, observed, .. } => {
            let row = store.instances.get(id).filter(|row| row.observed != *observed)?;
            let mut row = row.clone();
            row.observed = observed.clone();
            Some(Change::Instance(Box::new(row)))
        }
        Seen::Build { row, .. } => {
            let was = store.builds.get(&row.id)?;
            (!was.state.is_final()).then(|| Change::Build(row.clone()))
        }
        Seen::Turn { row, turn } => {
            let was = store.builds.get(&row.id)?;
            let same = was.state == row.state && was.turn == row.turn;
            same.then(|| {
                let mut next = (**was).clone();
                next.turn = *turn;
                next.updated = at;
                Change::Build(Box::new(next))
            })
        }
    }
}

/// The rows that a write changes, as they are then; nothing if the store has moved on.
fn written(store: &World, write: &Write) -> Option<Vec<Change>> {
    Some(match write {
        Write::Deployment { row, was } => {
            store.deployments.get(&row.id).filter(|found| found.state == *was)?;
            vec![Change::Deployment(row.clone())]
        }
        Write::Build(row) => vec![Change::Build(row.clone())],
        Write::Release(row) => vec![Change::Release(row.clone())],
        Write::Instances(rows) => {
            if rows.iter().any(|row| !store.apps.contains_key(&row.app)) {
                return None;
            }
            rows.iter().map(|row| Change::Instance(Box::new(row.clone()))).collect()
        }
        Write::Node { row, was } => {
            let found = store.nodes.get(&row.id).filter(|found| found.lost == *was)?;
            let marked = Node { lost: row.lost, ..(**found).clone() };
            vec![Change::Node(Box::new(marked))]
        }
        Write::Intent { instance, intent } => {
            let found = store.instances.get(instance)?;
            if rank(*intent) <= rank(found.intent) {
                return Some(Vec::new());
            }
            let mut row = found.clone();
            row.intent = *intent;
            vec![Change::Instance(Box::new(row))]
        }
        Write::Forget { instance } => {
            store.instances.get(instance)?;
            vec![Change::InstanceGone(*instance)]
        }
        Write::Live { app, live, .. } => {
            let mut row = (**store.apps.get(app)?).clone();
            row.live = Some(live.clone());
            vec![Change::App(Box::new(row))]
        }
        Write::Run { row, was } => {
            store.runs.get(&row.id).filter(|found| found.state == *was)?;
            vec![Change::Run(row.clone())]
        }
    })
}

/// An intent only ever moves forward.
fn rank(intent: insula_model::instance::Intent) -> u8 {
    use insula_model::instance::Intent;
    match intent {
        Intent::Run => 0,
        Intent::Drain { .. } => 1,
        Intent::Stop { .. } => 2,
    }
}
