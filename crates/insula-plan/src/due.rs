//! Which apps and nodes a plan has to look at: those that something happened to, whose time has
//! come, or who wait for what somebody else gave back.
//!
//! Bookkeeping only: it decides nothing, and what it forgets is found by the next look at
//! everything. Planning what is due gives the actions that planning everything would give; the
//! tests hold that for every story.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use insula_model::deployment::DeploymentState;
use insula_model::feed::Change;
use insula_model::instance::{Instance, Intent};
use insula_model::node::{Duty, Node};
use insula_model::spec::Failover;
use insula_model::{AppId, NodeId, OrgId, Timestamp};

use crate::action::{Plan, Wait};
use crate::rollout::spec_of;
use crate::world::{Presence, World};

/// Waits of one app that are remembered for whoever asks why. A person reads fewer.
const WAITS_KEPT_MAX: usize = 100;

/// What a plan looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    pub apps: BTreeSet<AppId>,
    pub nodes: BTreeSet<NodeId>,
}

impl Scope {
    pub fn all(world: &World) -> Self {
        // Runs and instances of an app that was deleted have still to end.
        let runs = world.runs.values().map(|run| run.app);
        let apps = world.apps.keys().copied().chain(world.instances.apps()).chain(runs);
        Self { apps: apps.collect(), nodes: world.nodes.keys().copied().collect() }
    }

    pub fn of_app(app: AppId) -> Self {
        Self { apps: [app].into(), nodes: BTreeSet::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.apps.is_empty() && self.nodes.is_empty()
    }
}

/// Whom a part of a plan is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    App(AppId),
    Node(NodeId),
}

/// How one that was looked at was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    pub who: Who,
    /// There is something to do for it: it is not at rest yet.
    pub acts: bool,
    /// It found no room.
    pub short: bool,
    /// When its time comes.
    pub next: Option<Timestamp>,
    /// Which of the plan's waits are its own.
    pub waits: std::ops::Range<usize>,
}

/// Those that are due, and what the others wait for.
#[derive(Debug, Clone, Default)]
pub struct Due {
    /// First come, first planned: one that never rests must not keep others waiting.
    queue: BTreeMap<u64, AppId>,
    places: BTreeMap<AppId, u64>,
    last_place: u64,
    nodes: BTreeSet<NodeId>,
    timers: BTreeSet<(Timestamp, Who)>,
    timer_of: BTreeMap<Who, Timestamp>,
    /// Apps that found no room.
    short: BTreeSet<AppId>,
    standing: OrdMap<Who, Arc<[Wait]>>,
}

impl Due {
    /// After a start, a gap in the feed or other rules; and once in a while, for what was missed.
    pub fn everything(&mut self, world: &World) {
        let Scope { apps, nodes } = Scope::all(world);
        apps.into_iter().for_each(|app| self.app(app));
        self.nodes.extend(nodes);
    }

    /// Before the world takes the change.
    pub fn change(&mut self, before: &World, change: &Change) {
        match change {
            Change::App(row) => self.app(row.id),
            Change::AppGone(id) => self.app(*id),
            Change::Deployment(row) => self.app(row.app),
            Change::Release(row) => self.app(row.app),
            Change::Run(row) => self.app(row.app),
            Change::RunGone(id) => {
                before.runs.get(id).iter().for_each(|run| self.app(run.app));
            }
            Change::ReleaseGone(id) => {
                before.releases.get(id).iter().for_each(|row| self.app(row.app));
            }
            Change::Build(row) => {
                self.app(row.app);
                if row.state.is_final() {
                    self.queued(before, row.org);
                    self.room();
                }
            }
            Change::Instance(row) => self.instance(before, row),
            Change::InstanceGone(id) => {
                if let Some(row) = before.instances.get(id) {
                    self.instance(before, row);
                    self.room();
                }
            }
            Change::Node(row) => self.node_row(before, row),
            Change::NodeGone(id) => self.all_of_node(before, *id),
            // How many builds it may run at once.
            Change::Org(row) => self.queued(before, row.id),
            Change::OrgGone(_)
            | Change::Project(_)
            | Change::ProjectGone(_)
            | Change::Environment(_)
            | Change::EnvironmentGone(_)
            | Change::Domain(_)
            | Change::DomainGone(_)
            | Change::Gateway(_)
            | Change::GatewayGone(_)
            | Change::SecretsOf(_) => {}
        }
    }

    fn instance(&mut self, before: &World, row: &Instance) {
        self.app(row.app);
        let node = before.nodes.get(&row.node);
        if node.is_some_and(|node| matches!(node.duty, Duty::Drain { .. })) {
            self.nodes.insert(row.node);
        }
    }

    fn node_row(&mut self, before: &World, row: &Node) {
        self.nodes.insert(row.id);
        let Some(old) = before.nodes.get(&row.id) else { return self.room() };
        let larger = old.offer != row.offer
            || old.site != row.site
            || old.duty != row.duty
            || old.lost != row.lost
            || old.ailments != row.ailments;
        if larger {
            self.room();
        }
        if old.duty != row.duty || old.lost != row.lost || old.hello != row.hello {
            self.all_of_node(before, row.id);
        }
    }

    /// After a node was heard, or went silent, or was silent for another while.
    pub fn presence(&mut self, world: &World, node: NodeId) {
        self.nodes.insert(node);
        match world.presence(node) {
            Presence::Here => {
                self.room();
                self.all_of_node(world, node);
            }
            Presence::Silent { span } if span.0 <= world.rules.heartbeat.0 => {
                self.all_of_node(world, node);
            }
            // What longer silence changes: those with a lease on it.
            Presence::Silent { .. } => {
                let leased = world.instances.of_node(node).filter(|row| {
                    spec_of(world, row).is_some_and(|spec| match spec.failover {
                        Failover::Lease => true,
                        Failover::Never => false,
                    })
                });
                leased.map(|row| row.app).for_each(|app| self.app(app));
            }
        }
    }

    fn all_of_node(&mut self, world: &World, node: NodeId) {
        self.nodes.insert(node);
        self.apps_on(world, node);
        let on = |build: &&insula_model::build::Build| match &build.state {
            insula_model::build::BuildState::Running { node: it, .. } => *it == node,
            insula_model::build::BuildState::Queued
            | insula_model::build::BuildState::Done { .. }
            | insula_model::build::BuildState::Failed { .. }
            | insula_model::build::BuildState::Cancelled => false,
        };
        world.builds_under_way().filter(on).for_each(|build| self.app(build.app));
    }

    fn apps_on(&mut self, world: &World, node: NodeId) {
        world.instances.of_node(node).for_each(|row| self.app(row.app));
    }

    /// After gateways came, went, followed or finished requests.
    pub fn edge(&mut self, world: &World) {
        let shifts = |app: &AppId| {
            world.pending(*app).any(|deployment| deployment.state == DeploymentState::Shifting)
        };
        world.pending_apps().filter(shifts).for_each(|app| self.app(app));
        let draining = world.instances.leaving().filter(|row| match row.intent {
            Intent::Drain { .. } => true,
            Intent::Run | Intent::Stop { .. } => false,
        });
        draining.for_each(|row| self.app(row.app));
    }

    /// Deployments of the org that have not begun: they may wait for its builds.
    fn queued(&mut self, world: &World, org: OrgId) {
        let waits = |app: &AppId| {
            let mut pending = world.pending(*app);
            pending.any(|it| it.org == org && it.state == DeploymentState::Queued)
        };
        world.pending_apps().filter(waits).for_each(|app| self.app(app));
    }

    /// Somebody gave room back.
    fn room(&mut self) {
        std::mem::take(&mut self.short).into_iter().for_each(|app| self.app(app));
    }

    /// Has one app looked at.
    pub fn app(&mut self, app: AppId) {
        self.places.entry(app).or_insert_with(|| {
            self.last_place += 1;
            self.queue.insert(self.last_place, app);
            self.last_place
        });
    }

    /// Takes what is due now, of the apps at most so many; the others stay due. What was taken and
    /// could not be planned has to be put back.
    pub fn take(&mut self, now: Timestamp, apps_max: usize) -> Scope {
        while let Some((at, who)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, who));
            self.timer_of.remove(&who);
            match who {
                Who::App(app) => self.app(app),
                Who::Node(node) => drop(self.nodes.insert(node)),
            }
        }
        let mut apps = BTreeSet::new();
        while apps.len() < apps_max
            && let Some((_, app)) = self.queue.pop_first()
        {
            self.places.remove(&app);
            apps.insert(app);
        }
        Scope { apps, nodes: std::mem::take(&mut self.nodes) }
    }

    pub fn put_back(&mut self, scope: Scope) {
        scope.apps.into_iter().for_each(|app| self.app(app));
        self.nodes.extend(scope.nodes);
    }

    /// Whether something is due without anybody's time having to come.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.nodes.is_empty()
    }

    /// When the next one's time comes.
    pub fn next(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Notes how those that a plan looked at were left, and completes the plan with what the others
    /// wait for. Whoever has something to do is due again: only a plan that finds nothing to do for
    /// it lets it rest.
    pub fn planned(&mut self, plan: &mut Plan) {
        for rest in &plan.rests {
            if let Some(at) = self.timer_of.remove(&rest.who) {
                self.timers.remove(&(at, rest.who));
            }
            if let Some(at) = rest.next {
                self.timers.insert((at, rest.who));
                self.timer_of.insert(rest.who, at);
            }
            match rest.who {
                Who::App(app) => {
                    self.short.remove(&app);
                    if rest.acts {
                        self.app(app);
                    }
                    if rest.short {
                        self.short.insert(app);
                    }
                }
                Who::Node(node) if rest.acts => drop(self.nodes.insert(node)),
                Who::Node(_) => {}
            }
            let waits = plan.waits.get(rest.waits.clone()).unwrap_or_default();
            match waits.is_empty() {
                true => drop(self.standing.remove(&rest.who)),
                false => {
                    let kept = waits.iter().take(WAITS_KEPT_MAX).cloned().collect();
                    self.standing.insert(rest.who, kept);
                }
            }
        }
        plan.next = self.next();
        plan.standing = self.standing.clone();
    }
}
