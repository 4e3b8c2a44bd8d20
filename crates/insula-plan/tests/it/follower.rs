//! Whoever plans only what is due decides what planning everything would decide. Follows a scene
//! from pass to pass, and is told what changed as the feed and the sessions would tell it.

use std::collections::BTreeSet;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use insula_model::Timestamp;
use insula_model::feed::Change;
use insula_plan::{Due, Plan, World};

#[derive(Debug)]
pub struct Follower {
    due: Due,
    last: World,
}

impl Follower {
    pub fn new(world: &World) -> Self {
        let mut due = Due::default();
        due.everything(world);
        Self { due, last: world.clone() }
    }

    /// `whole` is the plan of everything in this world.
    pub fn compare(&mut self, world: &World, now: Timestamp, whole: &Plan) {
        self.catch_up(world);
        let scope = self.due.take(now, usize::MAX);
        let mut part = insula_plan::plan_for(world, &scope, now);
        self.due.planned(&mut part);
        let actions: Vec<String> = part.actions.iter().map(ToString::to_string).collect();
        let whole_actions: Vec<String> = whole.actions.iter().map(ToString::to_string).collect();
        assert_eq!(actions, whole_actions, "what is due is not all that there is to do");
        if whole.actions.is_empty() {
            let said = |plan: &Plan| -> BTreeSet<String> {
                plan.all_waits().map(|wait| format!("{}: {}", wait.subject, wait.reason)).collect()
            };
            assert_eq!(said(&part), said(whole), "what waits was not told");
            assert_eq!(self.due.next(), whole.next, "a time was missed");
        }
    }

    fn catch_up(&mut self, world: &World) {
        let before = self.last.clone();
        for change in changes(&before, world) {
            self.due.change(&self.last, &change);
            self.last.apply(change);
        }
        self.last = world.clone();
        let nodes: BTreeSet<_> = before.heard.keys().chain(world.heard.keys()).copied().collect();
        for node in nodes {
            if before.presence(node) != world.presence(node) {
                self.due.presence(world, node);
            }
        }
        if before.edge != world.edge {
            self.due.edge(world);
        }
        if before.rules != world.rules || before.since != world.since {
            self.due.everything(world);
        }
    }
}

pub fn changes(before: &World, after: &World) -> Vec<Change> {
    fn rows<K: Ord + Copy, V: Clone + PartialEq>(
        before: &OrdMap<K, V>,
        after: &OrdMap<K, V>,
        row: impl Fn(&V) -> Option<Change>,
        gone: impl Fn(K) -> Option<Change>,
        out: &mut Vec<Change>,
    ) {
        out.extend(before.diff(after).filter_map(|item| match item {
            DiffItem::Add(_, new) | DiffItem::Update { new: (_, new), .. } => row(new),
            DiffItem::Remove(id, _) => gone(*id),
        }));
    }
    let mut out = Vec::new();
    let o = &mut out;
    rows(
        &before.orgs,
        &after.orgs,
        |r| Some(Change::Org(Box::new(r.clone()))),
        |id| Some(Change::OrgGone(id)),
        o,
    );
    rows(
        &before.apps,
        &after.apps,
        |r| Some(Change::App(Box::new((**r).clone()))),
        |id| Some(Change::AppGone(id)),
        o,
    );
    rows(
        &before.releases,
        &after.releases,
        |r| Some(Change::Release(Box::new((**r).clone()))),
        |id| Some(Change::ReleaseGone(id)),
        o,
    );
    rows(
        &before.deployments,
        &after.deployments,
        |r| Some(Change::Deployment(Box::new((**r).clone()))),
        |_| None,
        o,
    );
    rows(
        &before.builds,
        &after.builds,
        |r| Some(Change::Build(Box::new((**r).clone()))),
        |_| None,
        o,
    );
    rows(
        &before.runs,
        &after.runs,
        |r| Some(Change::Run(Box::new((**r).clone()))),
        |id| Some(Change::RunGone(id)),
        o,
    );
    rows(
        &before.nodes,
        &after.nodes,
        |r| Some(Change::Node(Box::new((**r).clone()))),
        |id| Some(Change::NodeGone(id)),
        o,
    );
    let gone = before.instances.values().filter(|row| !after.instances.contains_key(&row.id));
    out.extend(gone.map(|row| Change::InstanceGone(row.id)));
    let new = after.instances.values().filter(|row| before.instances.get(&row.id) != Some(row));
    out.extend(new.map(|row| Change::Instance(Box::new(row.clone()))));
    out
}
