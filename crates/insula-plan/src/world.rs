//! An immutable view of everything that decisions are made from.
//!
//! Rows come from the store's feed; what only the running processes know (which gateways follow,
//! which nodes are connected) stands beside them in `Live`. Rebuildable from the store at any moment.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::app::{App, Domain, Environment, Project};
use insula_model::build::Build;
use insula_model::deployment::Deployment;
use insula_model::feed::Change;
use insula_model::instance::{Instance, Run};
use insula_model::node::Node;
use insula_model::release::Release;
use insula_model::tenancy::Org;
use insula_model::{
    AppId, BuildId, DeploymentId, DomainId, EnvironmentId, Generation, HostName, InstanceId,
    NodeId, OrgId, ProjectId, ReleaseId, RunId, Timestamp,
};

#[derive(Debug, Clone, PartialEq)]
pub struct World {
    pub generation: Generation,
    /// Every app answers at its name under this.
    pub suffix: HostName,
    pub orgs: BTreeMap<OrgId, Org>,
    pub projects: BTreeMap<ProjectId, Project>,
    pub environments: BTreeMap<EnvironmentId, Environment>,
    pub apps: BTreeMap<AppId, App>,
    pub domains: BTreeMap<DomainId, Domain>,
    pub deployments: BTreeMap<DeploymentId, Deployment>,
    pub builds: BTreeMap<BuildId, Build>,
    pub releases: BTreeMap<ReleaseId, Release>,
    pub instances: BTreeMap<InstanceId, Instance>,
    pub runs: BTreeMap<RunId, Run>,
    pub nodes: BTreeMap<NodeId, Node>,
    pub edge: Edge,
    /// When this control plane began to look. What was late before may have happened unseen.
    pub since: Timestamp,
    pub connected: BTreeSet<NodeId>,
}

/// What the gateways have acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    /// Gateways with a session.
    pub gateways: usize,
    /// Whether each of them serves a table that we remember; otherwise `routed` is not the truth.
    pub known: bool,
    /// Instances in the table that all of them serve.
    pub routed_by_all: BTreeSet<InstanceId>,
    /// Instances in the table that any of them serves.
    pub routed_by_any: BTreeSet<InstanceId>,
    /// Instances out of the tables that still have requests.
    pub busy: BTreeSet<InstanceId>,
}

impl World {
    pub fn new(suffix: HostName) -> Self {
        Self {
            generation: Generation::default(),
            suffix,
            orgs: BTreeMap::new(),
            projects: BTreeMap::new(),
            environments: BTreeMap::new(),
            apps: BTreeMap::new(),
            domains: BTreeMap::new(),
            deployments: BTreeMap::new(),
            builds: BTreeMap::new(),
            releases: BTreeMap::new(),
            instances: BTreeMap::new(),
            runs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            edge: Edge::default(),
            since: Timestamp::from_millis(0),
            connected: BTreeSet::new(),
        }
    }

    /// Takes a row as it is now. Applying a change twice is applying it once.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Org(row) => drop(self.orgs.insert(row.id, *row)),
            Change::OrgGone(id) => drop(self.orgs.remove(&id)),
            Change::Project(row) => drop(self.projects.insert(row.id, *row)),
            Change::ProjectGone(id) => drop(self.projects.remove(&id)),
            Change::Environment(row) => drop(self.environments.insert(row.id, *row)),
            Change::EnvironmentGone(id) => drop(self.environments.remove(&id)),
            Change::App(row) => drop(self.apps.insert(row.id, *row)),
            Change::AppGone(id) => drop(self.apps.remove(&id)),
            Change::Domain(row) => drop(self.domains.insert(row.id, *row)),
            Change::DomainGone(id) => drop(self.domains.remove(&id)),
            Change::Deployment(row) => drop(self.deployments.insert(row.id, *row)),
            Change::Build(row) => drop(self.builds.insert(row.id, *row)),
            Change::Release(row) => drop(self.releases.insert(row.id, *row)),
            Change::ReleaseGone(id) => drop(self.releases.remove(&id)),
            Change::Instance(row) => drop(self.instances.insert(row.id, *row)),
            Change::InstanceGone(id) => drop(self.instances.remove(&id)),
            Change::Run(row) => drop(self.runs.insert(row.id, *row)),
            Change::RunGone(id) => drop(self.runs.remove(&id)),
            Change::Node(row) => drop(self.nodes.insert(row.id, *row)),
            Change::NodeGone(id) => drop(self.nodes.remove(&id)),
            Change::SecretsOf(_) => {}
        }
    }

    /// Lets go of what no decision can need any more, so that the view stays small however long
    /// the history is.
    pub fn prune(&mut self) {
        let live: BTreeSet<DeploymentId> =
            self.apps.values().filter_map(|a| a.live.as_ref()).map(|l| l.deployment).collect();
        let held: BTreeSet<DeploymentId> = self.instances.values().map(|i| i.deployment).collect();
        self.deployments.retain(|id, d| {
            self.apps.contains_key(&d.app)
                && (!d.state.is_final() || live.contains(id) || held.contains(id))
        });
        let deployments = &self.deployments;
        self.builds.retain(|_, b| deployments.contains_key(&b.deployment));
        self.runs.retain(|_, r| !r.state.is_final());
        let mut releases: BTreeSet<ReleaseId> =
            self.apps.values().filter_map(|a| a.live.as_ref()).map(|l| l.release).collect();
        releases.extend(self.instances.values().map(|i| i.release));
        releases.extend(self.runs.values().map(|r| r.release));
        for deployment in self.deployments.values() {
            releases.extend(deployment.release);
            releases.extend(deployment.previous);
            releases.extend(crate::rollout::source_release(deployment));
        }
        self.releases.retain(|id, _| releases.contains(id));
    }

    /// The instances of an app that are kept running, runs left out.
    pub fn instances_of(&self, app: AppId) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(move |i| i.app == app && i.run.is_none())
    }

    /// Deployments of an app that have no verdict yet, the oldest first.
    pub fn pending(&self, app: AppId) -> impl Iterator<Item = &Deployment> {
        // Ids sort by the time they were made.
        self.deployments.values().filter(move |d| d.app == app && !d.state.is_final())
    }
}
