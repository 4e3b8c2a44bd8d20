//! What a reader of the feed keeps in memory: rows by id, and no more than a snapshot would hold.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::GatewayId;
use insula_model::app::{App, Domain, Environment, Project};
use insula_model::build::Build;
use insula_model::deployment::{Deployment, Source};
use insula_model::feed::Change;
use insula_model::fleet::Gateway;
use insula_model::instance::{Instance, Run};
use insula_model::node::Node;
use insula_model::release::Release;
use insula_model::tenancy::Org;
use insula_model::{
    AppId, BuildId, DeploymentId, DomainId, EnvironmentId, InstanceId, NodeId, OrgId, ProjectId,
    ReleaseId, RunId,
};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
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
    pub gateways: BTreeMap<GatewayId, Gateway>,
}

impl World {
    /// Applies changes that belong together, then forgets what nothing needs.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.take(change);
        }
        self.prune();
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Org(row) => _ = self.orgs.insert(row.id, *row),
            Change::OrgGone(id) => _ = self.orgs.remove(&id),
            Change::Project(row) => _ = self.projects.insert(row.id, *row),
            Change::ProjectGone(id) => _ = self.projects.remove(&id),
            Change::Environment(row) => _ = self.environments.insert(row.id, *row),
            Change::EnvironmentGone(id) => _ = self.environments.remove(&id),
            Change::App(row) => _ = self.apps.insert(row.id, *row),
            Change::AppGone(id) => {
                self.apps.remove(&id);
                self.deployments.retain(|_, deployment| deployment.app != id);
                self.builds.retain(|_, build| build.app != id);
            }
            Change::Domain(row) => _ = self.domains.insert(row.id, *row),
            Change::DomainGone(id) => _ = self.domains.remove(&id),
            Change::Deployment(row) => _ = self.deployments.insert(row.id, *row),
            Change::Build(row) => _ = self.builds.insert(row.id, *row),
            Change::Release(row) => _ = self.releases.insert(row.id, *row),
            Change::ReleaseGone(id) => _ = self.releases.remove(&id),
            Change::Instance(row) => _ = self.instances.insert(row.id, *row),
            Change::InstanceGone(id) => _ = self.instances.remove(&id),
            Change::Run(row) => _ = self.runs.insert(row.id, *row),
            Change::RunGone(id) => _ = self.runs.remove(&id),
            Change::Node(row) => _ = self.nodes.insert(row.id, *row),
            Change::NodeGone(id) => _ = self.nodes.remove(&id),
            Change::Gateway(row) => _ = self.gateways.insert(row.id, *row),
            Change::GatewayGone(id) => _ = self.gateways.remove(&id),
            Change::SecretsOf(_) => {}
        }
    }

    fn prune(&mut self) {
        let live = self.apps.values().filter_map(|app| app.live.as_ref());
        let lived_by: BTreeSet<_> = live.clone().map(|live| live.deployment).collect();
        let mut releases: BTreeSet<_> = live.map(|live| live.release).collect();
        self.deployments.retain(|id, d| !d.state.is_final() || lived_by.contains(id));
        self.runs.retain(|_, run| !run.state.is_final());
        let builds: BTreeSet<_> = self.deployments.values().filter_map(|d| d.build).collect();
        self.builds.retain(|id, _| builds.contains(id));
        for deployment in self.deployments.values().filter(|d| !d.state.is_final()) {
            releases.extend(deployment.release);
            releases.extend(deployment.previous);
            match deployment.source {
                Source::Folder { .. } => {}
                Source::Release { release } | Source::Reconfigure { release } => {
                    releases.insert(release);
                }
            }
        }
        releases.extend(self.instances.values().map(|instance| instance.release));
        releases.extend(self.runs.values().map(|run| run.release));
        self.releases.retain(|id, _| releases.contains(id));
    }
}
