//! Whom a change concerns: the nodes whose Target may be another now, and whether the routes may.
//!
//! Looked at with the rows as they are before the change is applied. It errs towards too many: a
//! Target that turns out to be the same is not sent. What it forgot is found by the whole pass that
//! comes once a minute, which says so.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::build::{Build, BuildState};
use insula_model::deployment::DeploymentState;
use insula_model::feed::Change;
use insula_model::fleet::Member;
use insula_model::instance::{Instance, Intent};
use insula_model::node::Node;
use insula_model::observed::InstancePhase;
use insula_model::{AppId, DeploymentId, EnvironmentId, NodeId, OrgId};
use insula_plan::World;

#[derive(Debug, Default)]
pub(super) struct Concern {
    /// Nodes whose Target has to be looked at.
    pub(super) nodes: BTreeSet<NodeId>,
    /// All of them.
    pub(super) every_node: bool,
    /// Whoever runs something of these has neighbours that changed.
    pub(super) environments: BTreeSet<EnvironmentId>,
    /// Apps whose part of the table has to be made anew.
    pub(super) routes: BTreeSet<AppId>,
    pub(super) every_route: bool,
    /// Where nodes are reached has changed, and nothing else of the table need have.
    pub(super) relays: bool,
    /// Orgs whose secrets changed since their nodes were sent values.
    pub(super) secrets: BTreeSet<OrgId>,
    /// Who was removed, and has to go.
    pub(super) removed: Vec<Member>,
}

/// Which apps an environment has: the World has no need of it.
#[derive(Debug, Default)]
pub(super) struct Environments(BTreeMap<EnvironmentId, BTreeSet<AppId>>);

impl Environments {
    pub(super) fn of(world: &World) -> Self {
        let mut of = Self::default();
        world.apps.values().for_each(|app| of.insert(app.environment, app.id));
        of
    }

    fn insert(&mut self, environment: EnvironmentId, app: AppId) {
        self.0.entry(environment).or_default().insert(app);
    }

    fn remove(&mut self, environment: EnvironmentId, app: AppId) {
        if let Some(apps) = self.0.get_mut(&environment) {
            apps.remove(&app);
            if apps.is_empty() {
                self.0.remove(&environment);
            }
        }
    }

    /// The nodes that run something of an environment.
    pub(super) fn nodes<'a>(
        &'a self,
        world: &'a World,
        environment: EnvironmentId,
    ) -> impl Iterator<Item = NodeId> + 'a {
        let apps = self.0.get(&environment).into_iter().flatten();
        apps.flat_map(|app| world.instances.of_app(*app)).map(|instance| instance.node)
    }

    fn change(&mut self, world: &World, change: &Change) {
        match change {
            Change::App(row) => self.insert(row.environment, row.id),
            Change::AppGone(id) => {
                if let Some(app) = world.apps.get(id) {
                    self.remove(app.environment, *id);
                }
            }
            _ => {}
        }
    }
}

impl Concern {
    pub(super) fn everything(&mut self) {
        self.every_node = true;
        self.every_route = true;
    }

    /// To be asked before the change is applied to the world.
    pub(super) fn change(
        &mut self,
        world: &World,
        environments: &mut Environments,
        change: &Change,
    ) {
        environments.change(world, change);
        match change {
            Change::Org(row) => {
                let before = world.orgs.get(&row.id);
                let told =
                    |org: &insula_model::tenancy::Org| (org.name.clone(), org.quota.log_rate);
                if before.map(told) != Some(told(row)) {
                    self.org(world, row.id);
                }
            }
            Change::SecretsOf(org) => {
                self.secrets.insert(*org);
                self.org(world, *org);
            }
            // They go once they are empty, and their names never change.
            Change::OrgGone(_)
            | Change::Project(_)
            | Change::ProjectGone(_)
            | Change::Environment(_)
            | Change::EnvironmentGone(_) => {}
            Change::App(row) => {
                let before = world.apps.get(&row.id);
                let told = |app: &insula_model::app::App| (app.name.clone(), app.environment);
                if before.map(|app| told(app)) != Some(told(row)) {
                    self.app(world, row.id);
                }
                if before.is_none_or(|app| app.live != row.live || app.name != row.name) {
                    self.routes.insert(row.id);
                }
            }
            Change::AppGone(id) => {
                self.app(world, *id);
                self.builds(world, |build| build.app == *id);
                self.environments.extend(world.apps.get(id).map(|app| app.environment));
                self.routes.insert(*id);
            }
            Change::Domain(row) => _ = self.routes.insert(row.app),
            Change::DomainGone(id) => {
                self.routes.extend(world.domains.get(id).map(|domain| domain.app));
            }
            Change::Deployment(row) => {
                let before = world.deployments.get(&row.id);
                let shifts = |state: &DeploymentState| *state == DeploymentState::Shifting;
                let shifted = before.is_some_and(|before| shifts(&before.state));
                if shifted || shifts(&row.state) {
                    self.routes.insert(row.app);
                }
                if before.is_none() {
                    // Its trace goes with its instances.
                    self.app(world, row.app);
                }
                if before.is_none_or(|before| before.state != row.state) {
                    self.deployment(world, row.id);
                }
            }
            Change::Build(row) => {
                let before = world.builds.get(&row.id);
                self.nodes.extend(before.and_then(|build| builds_on(build)));
                self.nodes.extend(builds_on(row));
            }
            Change::Release(row) => {
                if world.releases.get(&row.id).is_none_or(|before| **before != **row) {
                    self.app(world, row.app);
                    self.routes.insert(row.app);
                }
            }
            Change::ReleaseGone(id) => {
                if let Some(row) = world.releases.get(id) {
                    self.app(world, row.app);
                    self.routes.insert(row.app);
                }
            }
            Change::Instance(row) => self.instance(world.instances.get(&row.id), Some(row)),
            Change::InstanceGone(id) => self.instance(world.instances.get(id), None),
            Change::Run(row) => {
                let instance = row.instance.and_then(|id| world.instances.get(&id));
                self.nodes.extend(instance.map(|instance| instance.node));
            }
            Change::RunGone(id) => {
                let instance = world.runs.get(id).and_then(|run| run.instance);
                let instance = instance.and_then(|id| world.instances.get(&id));
                self.nodes.extend(instance.map(|instance| instance.node));
            }
            Change::Node(row) => {
                let before = world.nodes.get(&row.id);
                if before.is_none() {
                    self.nodes.insert(row.id);
                }
                let reached = |node: &Node| (node.relay, node.lost.is_some());
                if before.map(|node| reached(node)) != Some(reached(row)) {
                    self.reached(world, row.id);
                }
            }
            Change::NodeGone(id) => {
                if world.nodes.contains_key(id) {
                    self.removed.push(Member::Node(*id));
                    self.reached(world, *id);
                }
            }
            Change::Gateway(row) => self.every_node |= !world.gateways.contains_key(&row.id),
            Change::GatewayGone(id) => {
                if world.gateways.contains_key(id) {
                    self.removed.push(Member::Gateway(*id));
                    self.every_node = true;
                }
            }
        }
    }

    fn org(&mut self, world: &World, org: OrgId) {
        for app in world.apps.values().filter(|app| app.org == org) {
            self.app(world, app.id);
        }
        self.builds(world, |build| build.org == org);
    }

    fn app(&mut self, world: &World, app: AppId) {
        self.nodes.extend(world.instances.of_app(app).map(|instance| instance.node));
    }

    fn deployment(&mut self, world: &World, id: DeploymentId) {
        self.builds(world, |build| build.deployment == id);
    }

    fn builds(&mut self, world: &World, of: impl Fn(&Build) -> bool) {
        let builds = world.builds_under_way().filter(|build| of(build));
        self.nodes.extend(builds.filter_map(builds_on));
    }

    /// A node that is reached elsewhere than before, or not at all: by those that share an
    /// environment with it.
    pub(super) fn reached(&mut self, world: &World, node: NodeId) {
        self.nodes.insert(node);
        self.environments.extend(world.instances.of_node(node).map(|i| i.environment));
        self.routes.extend(world.instances.of_node(node).map(|i| i.app));
        self.relays = true;
    }

    fn instance(&mut self, before: Option<&Instance>, after: Option<&Instance>) {
        let rows = || before.into_iter().chain(after);
        let targeted = |row: &Instance| (row.node, row.intent, row.release, row.run);
        if before.map(targeted) != after.map(targeted) {
            self.nodes.extend(rows().map(|row| row.node));
        }
        let elsewhere = |row: &Instance| (row.node, is_named(row));
        if before.map(elsewhere) != after.map(elsewhere) {
            self.environments.extend(rows().map(|row| row.environment));
        }
        if before.and_then(route) != after.and_then(route) {
            self.routes.extend(rows().map(|row| row.app));
        }
    }
}

/// Where a build runs, if it does.
fn builds_on(build: &Build) -> Option<NodeId> {
    match &build.state {
        BuildState::Running { node, .. } => Some(*node),
        BuildState::Queued
        | BuildState::Done { .. }
        | BuildState::Failed { .. }
        | BuildState::Cancelled => None,
    }
}

/// Whether others find it by name.
fn is_named(row: &Instance) -> bool {
    row.intent == Intent::Run && row.kind.listens() && is_ready(row)
}

fn is_ready(row: &Instance) -> bool {
    row.observed.present().is_some_and(|report| match report.phase {
        InstancePhase::Ready => true,
        InstancePhase::Preparing
        | InstancePhase::Starting
        | InstancePhase::Unready { .. }
        | InstancePhase::BackingOff { .. }
        | InstancePhase::Stuck { .. }
        | InstancePhase::Stopping
        | InstancePhase::Finished => false,
    })
}

/// What the routes say of an instance that may be in them.
fn route(row: &Instance) -> Option<(NodeId, DeploymentId, std::net::SocketAddr)> {
    let endpoint = row.observed.present()?.endpoint?;
    is_named(row).then_some((row.node, row.deployment, endpoint))
}
