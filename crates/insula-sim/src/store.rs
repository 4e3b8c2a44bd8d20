//! The store that several servers share: commit-ordered, fenced, and it never loses what it took.
//!
//! Commits may be slow, refused (a full disk), or done without the answer arriving; see `weather`
//! in `fault`. A reader of the feed gets rows as they are now, in pages, as the real one does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_control::core::mutation::{self, Mutation, Outcome, What};
use insula_model::feed::Change;
use insula_model::{AppId, Generation, NodeId};
use insula_plan::World;
use insula_plan::effect::{self, Cut};

/// Who reconciles, by the store's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lease {
    pub holder: Option<usize>,
    pub epoch: u64,
    pub until: u64,
}

#[derive(Debug)]
pub struct Store {
    pub rows: World,
    pub lease: Lease,
    /// Whose identity was revoked, for ever.
    pub removed: BTreeSet<NodeId>,
    log: Vec<Change>,
    /// What is no longer told: a reader from before takes a snapshot.
    trimmed: u64,
    numbers: BTreeMap<AppId, u32>,
}

/// The reader is too far behind.
#[derive(Debug)]
pub struct Gap;

impl Store {
    pub fn new(suffix: insula_model::HostName) -> Self {
        Self {
            rows: World::new(suffix),
            lease: Lease::default(),
            removed: BTreeSet::new(),
            log: Vec::new(),
            trimmed: 0,
            numbers: BTreeMap::new(),
        }
    }

    pub fn head(&self) -> Generation {
        self.rows.generation
    }

    /// A commit of the API's: rows as they are then.
    pub fn commit(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.log.push(change.clone());
            self.rows.apply(change);
            self.rows.generation.0 += 1;
        }
    }

    /// A commit of the control plane's. What a removed node said is not taken: its identity is gone.
    pub fn mutate(&mut self, mutation: &Mutation) -> (Outcome, Vec<Change>) {
        if let What::Greet { node, .. } = &mutation.what
            && self.removed.contains(node)
        {
            return (Outcome::Overtaken, Vec::new());
        }
        let numbers = &self.numbers;
        let cut = |world: &World, action: &insula_plan::Action| {
            let app = effect::cuts(action).and_then(|id| world.deployments.get(&id)).map(|d| d.app);
            let number = app.and_then(|app| numbers.get(&app)).copied().unwrap_or(0) + 1;
            Cut { number, ..Cut::default() }
        };
        let (outcome, changes) = mutation::apply(&mut self.rows, mutation, cut);
        for change in &changes {
            if let Change::Release(row) = change {
                self.numbers.insert(row.app, row.number.0);
            }
        }
        self.log.extend(changes.iter().cloned());
        (outcome, changes)
    }

    /// What changed after `from`, about so many changes at most, and up to where.
    pub fn since(&self, from: Generation, limit: usize) -> Result<(Generation, Vec<Change>), Gap> {
        if from.0 < self.trimmed {
            return Err(Gap);
        }
        let begin = usize::try_from(from.0).unwrap_or(usize::MAX).min(self.log.len());
        let end = (begin + limit).min(self.log.len());
        let changes = self.log[begin..end].iter().map(|change| self.as_it_is(change)).collect();
        Ok((Generation(end as u64), changes))
    }

    /// Makes every reader that is behind take a snapshot.
    pub fn trim(&mut self) {
        self.trimmed = self.rows.generation.0;
    }

    fn as_it_is(&self, change: &Change) -> Change {
        let rows = &self.rows;
        match change {
            Change::App(row) => match rows.apps.get(&row.id) {
                Some(row) => Change::App(Box::new((**row).clone())),
                None => Change::AppGone(row.id),
            },
            Change::Deployment(row) => match rows.deployments.get(&row.id) {
                Some(row) => Change::Deployment(Box::new((**row).clone())),
                None => change.clone(),
            },
            Change::Build(row) => match rows.builds.get(&row.id) {
                Some(row) => Change::Build(Box::new((**row).clone())),
                None => change.clone(),
            },
            Change::Instance(row) => match rows.instances.get(&row.id) {
                Some(row) => Change::Instance(Box::new(row.clone())),
                None => Change::InstanceGone(row.id),
            },
            Change::Run(row) => match rows.runs.get(&row.id) {
                Some(row) => Change::Run(Box::new((**row).clone())),
                None => Change::RunGone(row.id),
            },
            Change::Node(row) => match rows.nodes.get(&row.id) {
                Some(row) => Change::Node(Box::new((**row).clone())),
                None => Change::NodeGone(row.id),
            },
            other => other.clone(),
        }
    }

    /// Every row.
    pub fn snapshot(&self) -> (Generation, Vec<Change>) {
        let rows = &self.rows;
        let mut all = Vec::new();
        all.extend(rows.nodes.values().map(|row| Change::Node(Box::new((**row).clone()))));
        all.extend(rows.gateways.values().map(|row| Change::Gateway(Box::new(row.clone()))));
        all.extend(rows.orgs.values().map(|row| Change::Org(Box::new(row.clone()))));
        all.extend(rows.projects.values().map(|row| Change::Project(Box::new(row.clone()))));
        let environments = rows.environments.values();
        all.extend(environments.map(|row| Change::Environment(Box::new(row.clone()))));
        all.extend(rows.apps.values().map(|row| Change::App(Box::new((**row).clone()))));
        all.extend(rows.releases.values().map(|row| Change::Release(Box::new((**row).clone()))));
        let deployments = rows.deployments.values();
        all.extend(deployments.map(|row| Change::Deployment(Box::new((**row).clone()))));
        all.extend(rows.builds.values().map(|row| Change::Build(Box::new((**row).clone()))));
        all.extend(
            rows.runs
                .values()
                .map(|row| Change::Run(Box::new(Arc::unwrap_or_clone(Arc::clone(row))))),
        );
        all.extend(rows.instances.values().map(|row| Change::Instance(Box::new(row.clone()))));
        (self.head(), all)
    }
}
