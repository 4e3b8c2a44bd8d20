//! An immutable view of everything that decisions are made from.
//!
//! Rows come from the store's feed; what only the running processes know (which gateways follow,
//! which nodes are heard) stands beside them. Rebuildable from the store at any moment. A copy
//! shares what it has in common with its original, so a view may be kept while the next is made.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use insula_model::app::{App, Domain, Environment, Live, Project};
use insula_model::build::Build;
use insula_model::deployment::Deployment;
use insula_model::feed::Change;
use insula_model::fleet::Gateway;
use insula_model::instance::{Instance, Intent, Run};
use insula_model::node::Node;
use insula_model::release::Release;
use insula_model::tenancy::Org;
use insula_model::{
    AppId, BuildId, Bytes, DeploymentId, DomainId, EnvironmentId, GatewayId, Generation, HostName,
    InstanceId, MilliCpu, Millis, NodeId, OrgId, ProjectId, ReleaseId, RunId, Timestamp, limits,
};

#[derive(Debug, Clone, PartialEq)]
pub struct World {
    pub generation: Generation,
    /// Every app answers at its name under this.
    pub suffix: HostName,
    pub orgs: OrdMap<OrgId, Org>,
    pub projects: OrdMap<ProjectId, Project>,
    pub environments: OrdMap<EnvironmentId, Environment>,
    pub apps: OrdMap<AppId, Arc<App>>,
    pub domains: OrdMap<DomainId, Domain>,
    pub deployments: OrdMap<DeploymentId, Arc<Deployment>>,
    pub builds: OrdMap<BuildId, Arc<Build>>,
    pub releases: OrdMap<ReleaseId, Arc<Release>>,
    pub instances: Instances,
    pub runs: OrdMap<RunId, Arc<Run>>,
    pub nodes: OrdMap<NodeId, Arc<Node>>,
    pub gateways: OrdMap<GatewayId, Gateway>,
    pub edge: Edge,
    /// When this control plane began to look. What was late before may have happened unseen.
    pub since: Timestamp,
    /// Nodes that were heard since then. See `presence`.
    pub heard: OrdMap<NodeId, Presence>,
    pub measured: OrdMap<NodeId, Measured>,
    /// Deployments without a verdict that this control plane keeps an eye on.
    pub watched: OrdMap<DeploymentId, Watched>,
    pub rules: Rules,
    /// Deployments without a verdict, by their app.
    pending: OrdMap<AppId, OrdSet<DeploymentId>>,
    /// Builds that had no verdict when their row came in.
    building: OrdSet<BuildId>,
    runs_of: OrdMap<AppId, OrdSet<RunId>>,
    deployments_of: OrdMap<AppId, OrdSet<DeploymentId>>,
    apps_of: OrdMap<EnvironmentId, OrdSet<AppId>>,
    domains_of: OrdMap<AppId, OrdSet<DomainId>>,
    stale: Stale,
}

/// What may have become needless since `prune` looked last.
#[derive(Debug, Clone, Default)]
struct Stale {
    apps: BTreeSet<AppId>,
    deployments: BTreeSet<DeploymentId>,
    builds: BTreeSet<BuildId>,
    runs: BTreeSet<RunId>,
    releases: BTreeSet<ReleaseId>,
}

impl Stale {
    fn was_live(&mut self, live: Option<Live>) {
        self.deployments.extend(live.as_ref().map(|live| live.deployment));
        self.releases.extend(live.map(|live| live.release));
    }
}

/// Two worlds that hold the same are the same, whatever somebody has still to look at.
impl PartialEq for Stale {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Every release that a deployment names.
fn releases_of(row: &Deployment) -> impl Iterator<Item = ReleaseId> {
    [row.release, row.previous, crate::rollout::source_release(row)].into_iter().flatten()
}

/// What the operator decided for the whole fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Between heartbeats.
    pub heartbeat: Millis,
    /// How often a core is promised, in hundredths. Most instances are idle most of the time.
    pub cpu_overcommit: u32,
    /// Likewise for memory: what is over it dies, so it is promised once unless somebody insists.
    pub memory_overcommit: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { heartbeat: limits::HEARTBEAT, cpu_overcommit: 1_600, memory_overcommit: 100 }
    }
}

/// How a node is heard. Measured on a clock that never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has a session, has said what it holds, and was heard within an interval.
    Here,
    /// It has not been heard for this long: whole intervals, counted from when it was heard last or
    /// from when this control plane began to look, whichever is later.
    Silent { span: Millis },
}

/// For how long a deployment was seen to come no further, see `rollout::last_step`. Measured on a
/// clock that never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    pub span: Millis,
    /// All of that time was seen. Otherwise it was so before this control plane began to look, and
    /// only the times in the rows tell of that.
    pub whole: bool,
}

/// What a node uses in truth, as it said last, in coarse steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    pub cpu: MilliCpu,
    pub memory: Bytes,
}

/// What the gateways have acknowledged. The sets have everything in them that is routed: a World is
/// copied with each change, and they are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    /// Gateways with a session.
    pub gateways: usize,
    /// Whether each of them serves a table that we remember; otherwise `routed` is not the truth.
    pub known: bool,
    /// Instances in the table that all of them serve.
    pub routed_by_all: Arc<BTreeSet<InstanceId>>,
    /// Instances in the table that any of them serves.
    pub routed_by_any: Arc<BTreeSet<InstanceId>>,
    /// Instances out of the tables that still have requests.
    pub busy: BTreeSet<InstanceId>,
}

/// What placement looks at, shared with the world that it was taken from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Fleet {
    pub(crate) nodes: OrdMap<NodeId, Arc<Node>>,
    pub(crate) heard: OrdMap<NodeId, Presence>,
    pub(crate) measured: OrdMap<NodeId, Measured>,
    pub(crate) instances: Instances,
    pub(crate) rules: Rules,
    builds: OrdMap<BuildId, Arc<Build>>,
    building: OrdSet<BuildId>,
}

impl Fleet {
    /// Those that reserve something.
    pub(crate) fn builds(&self) -> impl Iterator<Item = &Build> {
        under_way(&self.building, &self.builds)
    }
}

fn under_way<'a>(
    ids: &'a OrdSet<BuildId>,
    rows: &'a OrdMap<BuildId, Arc<Build>>,
) -> impl Iterator<Item = &'a Build> {
    let found = ids.iter().filter_map(|id| rows.get(id)).map(Arc::as_ref);
    found.filter(|build| !build.state.is_final())
}

/// All instances, found by id, by app and by node, with what they add up to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Instances {
    rows: OrdMap<InstanceId, Arc<Instance>>,
    /// The rows once more: whoever looks at an app looks at all of them, time and again.
    by_app: OrdMap<AppId, OrdMap<InstanceId, Arc<Instance>>>,
    by_node: OrdMap<NodeId, OnNode>,
    leaving: OrdSet<InstanceId>,
    /// How many were started by a deployment, and from a release.
    of_deployment: OrdMap<DeploymentId, u32>,
    of_release: OrdMap<ReleaseId, u32>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct OnNode {
    ids: OrdSet<InstanceId>,
    load: Load,
}

/// What the instances on a node have reserved together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// In thousandths of a core: more than fits in what one instance may ask for.
    pub cpu_milli: u64,
    pub memory: Bytes,
    pub pids: u64,
    pub disk: Bytes,
    pub instances: u32,
}

impl Load {
    pub(crate) fn add(&mut self, row: &Instance) {
        self.cpu_milli += u64::from(row.cpu.0);
        self.memory.0 = self.memory.0.saturating_add(row.memory.0);
        self.pids += u64::from(row.pids);
        self.disk.0 = self.disk.0.saturating_add(row.disk.0);
        self.instances += 1;
    }

    fn take(&mut self, row: &Instance) {
        self.cpu_milli = self.cpu_milli.saturating_sub(u64::from(row.cpu.0));
        self.memory.0 = self.memory.0.saturating_sub(row.memory.0);
        self.pids = self.pids.saturating_sub(u64::from(row.pids));
        self.disk.0 = self.disk.0.saturating_sub(row.disk.0);
        self.instances = self.instances.saturating_sub(1);
    }
}

impl Instances {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn contains_key(&self, id: &InstanceId) -> bool {
        self.rows.contains_key(id)
    }

    pub fn get(&self, id: &InstanceId) -> Option<&Instance> {
        self.rows.get(id).map(Arc::as_ref)
    }

    pub fn values(&self) -> impl Iterator<Item = &Instance> {
        self.rows.values().map(Arc::as_ref)
    }

    /// The oldest first, runs among them.
    pub fn of_app(&self, app: AppId) -> impl Iterator<Item = &Instance> {
        self.by_app.get(&app).into_iter().flat_map(OrdMap::values).map(Arc::as_ref)
    }

    /// Apps that have any, deleted ones among them.
    pub fn apps(&self) -> impl Iterator<Item = AppId> {
        self.by_app.keys().copied()
    }

    /// The oldest first.
    pub fn of_node(&self, node: NodeId) -> impl Iterator<Item = &Instance> {
        let ids = self.by_node.get(&node).map(|on| &on.ids);
        ids.into_iter().flatten().filter_map(|id| self.get(id))
    }

    pub fn count_on(&self, node: NodeId) -> usize {
        self.by_node.get(&node).map_or(0, |on| on.ids.len())
    }

    pub fn load(&self, node: NodeId) -> Load {
        self.by_node.get(&node).map_or_else(Load::default, |on| on.load)
    }

    /// What every node that holds any has reserved, in the order of their ids.
    pub(crate) fn loads(&self) -> impl Iterator<Item = (NodeId, Load)> {
        self.by_node.iter().map(|(id, on)| (*id, on.load))
    }

    /// Those on their way out: drained or told to stop.
    pub fn leaving(&self) -> impl Iterator<Item = &Instance> {
        self.leaving.iter().filter_map(|id| self.get(id))
    }

    fn any_of_deployment(&self, id: &DeploymentId) -> bool {
        self.of_deployment.contains_key(id)
    }

    fn any_of_release(&self, id: &ReleaseId) -> bool {
        self.of_release.contains_key(id)
    }

    pub fn insert(&mut self, row: Instance) {
        self.unlink(row.id);
        let row = Arc::new(row);
        let (id, on) = (row.id, self.by_node.entry(row.node).or_default());
        on.ids.insert(id);
        on.load.add(&row);
        self.by_app.entry(row.app).or_default().insert(id, Arc::clone(&row));
        *self.of_deployment.entry(row.deployment).or_default() += 1;
        *self.of_release.entry(row.release).or_default() += 1;
        if row.intent != Intent::Run {
            self.leaving.insert(id);
        }
        self.rows.insert(id, row);
    }

    pub fn remove(&mut self, id: &InstanceId) -> Option<Arc<Instance>> {
        self.unlink(*id);
        self.rows.remove(id)
    }

    /// Changes a row in place.
    pub fn update(&mut self, id: &InstanceId, change: impl FnOnce(&mut Instance)) {
        if let Some(row) = self.get(id) {
            let mut row = row.clone();
            change(&mut row);
            self.insert(row);
        }
    }

    /// Takes a row out of every index, if it is there.
    fn unlink(&mut self, id: InstanceId) {
        let Some(gone) = self.rows.get(&id) else { return };
        if let Some(on) = self.by_node.get_mut(&gone.node) {
            on.ids.remove(&id);
            on.load.take(gone);
            if on.ids.is_empty() {
                self.by_node.remove(&gone.node);
            }
        }
        if let Some(ids) = self.by_app.get_mut(&gone.app) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_app.remove(&gone.app);
            }
        }
        one_less(&mut self.of_deployment, &gone.deployment);
        one_less(&mut self.of_release, &gone.release);
        self.leaving.remove(&id);
    }
}

fn one_less<K: Ord + Clone>(counts: &mut OrdMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl World {
    pub fn new(suffix: HostName) -> Self {
        Self {
            generation: Generation::default(),
            suffix,
            orgs: OrdMap::new(),
            projects: OrdMap::new(),
            environments: OrdMap::new(),
            apps: OrdMap::new(),
            domains: OrdMap::new(),
            deployments: OrdMap::new(),
            builds: OrdMap::new(),
            releases: OrdMap::new(),
            instances: Instances::default(),
            runs: OrdMap::new(),
            nodes: OrdMap::new(),
            gateways: OrdMap::new(),
            edge: Edge::default(),
            since: Timestamp::from_millis(0),
            heard: OrdMap::new(),
            measured: OrdMap::new(),
            watched: OrdMap::new(),
            rules: Rules::default(),
            pending: OrdMap::new(),
            building: OrdSet::new(),
            runs_of: OrdMap::new(),
            deployments_of: OrdMap::new(),
            apps_of: OrdMap::new(),
            domains_of: OrdMap::new(),
            stale: Stale::default(),
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
            Change::App(row) => self.take_app(*row),
            Change::AppGone(id) => self.drop_app(id),
            Change::Domain(row) => self.take_domain(*row),
            Change::DomainGone(id) => self.drop_domain(id),
            Change::Deployment(row) => self.take_deployment(*row),
            Change::Build(row) => self.take_build(*row),
            Change::Release(row) => self.take_release(*row),
            Change::ReleaseGone(id) => drop(self.releases.remove(&id)),
            Change::Instance(row) => self.instances.insert(*row),
            Change::InstanceGone(id) => self.drop_instance(id),
            Change::Run(row) => self.take_run(*row),
            Change::RunGone(id) => self.drop_run(id),
            Change::Node(row) => drop(self.nodes.insert(row.id, Arc::new(*row))),
            Change::NodeGone(id) => {
                self.nodes.remove(&id);
                self.heard.remove(&id);
                self.measured.remove(&id);
            }
            Change::Gateway(row) => drop(self.gateways.insert(row.id, *row)),
            Change::GatewayGone(id) => drop(self.gateways.remove(&id)),
            Change::SecretsOf(_) => {}
        }
    }

    fn take_app(&mut self, row: App) {
        let live = row.live.clone();
        self.apps_of.entry(row.environment).or_default().insert(row.id);
        let before = self.apps.insert(row.id, Arc::new(row)).and_then(|app| app.live.clone());
        if before != live {
            self.stale.was_live(before);
        }
    }

    fn drop_app(&mut self, id: AppId) {
        self.stale.apps.insert(id);
        let Some(gone) = self.apps.remove(&id) else { return };
        self.stale.was_live(gone.live.clone());
        unlist(&mut self.apps_of, &gone.environment, &id);
    }

    fn take_domain(&mut self, row: Domain) {
        self.drop_domain(row.id);
        self.domains_of.entry(row.app).or_default().insert(row.id);
        self.domains.insert(row.id, row);
    }

    fn drop_domain(&mut self, id: DomainId) {
        let Some(gone) = self.domains.remove(&id) else { return };
        unlist(&mut self.domains_of, &gone.app, &id);
    }

    fn take_deployment(&mut self, row: Deployment) {
        let (app, id) = (row.app, row.id);
        if row.state.is_final() {
            unlist(&mut self.pending, &app, &id);
        } else {
            self.pending.entry(app).or_default().insert(id);
        }
        self.deployments_of.entry(app).or_default().insert(id);
        self.stale.deployments.insert(id);
        if let Some(before) = self.deployments.insert(id, Arc::new(row)) {
            self.stale.releases.extend(releases_of(&before));
        }
    }

    fn take_release(&mut self, row: Release) {
        self.stale.releases.insert(row.id);
        self.releases.insert(row.id, Arc::new(row));
    }

    fn drop_instance(&mut self, id: InstanceId) {
        if let Some(gone) = self.instances.remove(&id) {
            self.stale.deployments.insert(gone.deployment);
            self.stale.releases.insert(gone.release);
        }
    }

    fn take_build(&mut self, row: Build) {
        if row.state.is_final() {
            self.building.remove(&row.id);
        } else {
            self.building.insert(row.id);
        }
        self.stale.builds.insert(row.id);
        self.builds.insert(row.id, Arc::new(row));
    }

    fn take_run(&mut self, row: Run) {
        if row.state.is_final() {
            self.stale.runs.insert(row.id);
        }
        self.runs_of.entry(row.app).or_default().insert(row.id);
        self.runs.insert(row.id, Arc::new(row));
    }

    fn drop_run(&mut self, id: RunId) {
        let Some(gone) = self.runs.remove(&id) else { return };
        self.stale.releases.insert(gone.release);
        unlist(&mut self.runs_of, &gone.app, &id);
    }

    /// Lets go of what no decision can need any more, so that the view stays small however long
    /// the history is. Looks only at what may have become needless since the last time.
    pub fn prune(&mut self) {
        let mut stale = std::mem::take(&mut self.stale);
        let gone = std::mem::take(&mut stale.apps);
        let of_gone = gone.iter().filter_map(|app| self.deployments_of.get(app)).flatten();
        stale.deployments.extend(of_gone.copied());
        for id in std::mem::take(&mut stale.deployments) {
            if self.deployments.get(&id).is_some_and(|row| !self.needs_deployment(row)) {
                self.drop_deployment(id, &mut stale);
            }
        }
        for id in std::mem::take(&mut stale.builds) {
            if self.builds.get(&id).is_some_and(|b| !self.deployments.contains_key(&b.deployment)) {
                self.builds.remove(&id);
                self.building.remove(&id);
            }
        }
        for id in std::mem::take(&mut stale.runs) {
            if let Some(run) = self.runs.get(&id).filter(|run| run.state.is_final()) {
                stale.releases.insert(run.release);
                self.drop_run(id);
            }
        }
        for id in stale.releases {
            if self.releases.get(&id).is_some_and(|row| !self.needs_release(row)) {
                self.releases.remove(&id);
            }
        }
    }

    fn needs_deployment(&self, row: &Deployment) -> bool {
        let Some(app) = self.apps.get(&row.app) else { return false };
        !row.state.is_final()
            || app.live.as_ref().is_some_and(|live| live.deployment == row.id)
            || self.instances.any_of_deployment(&row.id)
    }

    /// A release is named by rows of its own app alone.
    fn needs_release(&self, row: &Release) -> bool {
        let live = self.apps.get(&row.app).and_then(|app| app.live.as_ref());
        let deployments = self.deployments_of.get(&row.app).into_iter().flatten();
        live.is_some_and(|live| live.release == row.id)
            || self.instances.any_of_release(&row.id)
            || self.runs_of(row.app).any(|run| run.release == row.id)
            || deployments
                .filter_map(|id| self.deployments.get(id))
                .any(|deployment| releases_of(deployment).any(|id| id == row.id))
    }

    fn drop_deployment(&mut self, id: DeploymentId, stale: &mut Stale) {
        let Some(gone) = self.deployments.remove(&id) else { return };
        unlist(&mut self.pending, &gone.app, &id);
        unlist(&mut self.deployments_of, &gone.app, &id);
        stale.builds.extend(gone.build);
        stale.releases.extend(releases_of(&gone));
    }

    /// The instances of an app that are kept running, runs left out. The oldest first.
    pub fn instances_of(&self, app: AppId) -> impl Iterator<Item = &Instance> {
        self.instances.of_app(app).filter(|i| i.run.is_none())
    }

    /// Deployments of an app that have no verdict yet, the oldest first.
    pub fn pending(&self, app: AppId) -> impl Iterator<Item = &Deployment> {
        // Ids sort by the time they were made.
        let ids = self.pending.get(&app).into_iter().flatten();
        ids.filter_map(|id| self.deployments.get(id)).map(Arc::as_ref)
    }

    /// Apps that have such a deployment.
    pub fn pending_apps(&self) -> impl Iterator<Item = AppId> {
        self.pending.keys().copied()
    }

    /// The apps of an environment.
    pub fn apps_of(&self, environment: EnvironmentId) -> impl Iterator<Item = &App> {
        let ids = self.apps_of.get(&environment).into_iter().flatten();
        ids.filter_map(|id| self.apps.get(id)).map(Arc::as_ref)
    }

    pub fn domains_of(&self, app: AppId) -> impl Iterator<Item = &Domain> {
        let ids = self.domains_of.get(&app).into_iter().flatten();
        ids.filter_map(|id| self.domains.get(id))
    }

    /// Builds without a verdict, the oldest first.
    pub fn builds_under_way(&self) -> impl Iterator<Item = &Build> {
        under_way(&self.building, &self.builds)
    }

    pub(crate) fn fleet(&self) -> Fleet {
        Fleet {
            nodes: self.nodes.clone(),
            heard: self.heard.clone(),
            measured: self.measured.clone(),
            instances: self.instances.clone(),
            rules: self.rules,
            builds: self.builds.clone(),
            building: self.building.clone(),
        }
    }

    /// The oldest first.
    pub fn runs_of(&self, app: AppId) -> impl Iterator<Item = &Run> {
        let ids = self.runs_of.get(&app).into_iter().flatten();
        ids.filter_map(|id| self.runs.get(id)).map(Arc::as_ref)
    }

    pub fn presence(&self, node: NodeId) -> Presence {
        self.heard.get(&node).copied().unwrap_or(Presence::Silent { span: Millis(0) })
    }

    /// Whether what a node said last is what it holds now.
    pub fn is_here(&self, node: NodeId) -> bool {
        self.presence(node) == Presence::Here
    }
}

fn unlist<K: Ord + Clone, V: Ord + Clone>(lists: &mut OrdMap<K, OrdSet<V>>, key: &K, item: &V) {
    if let Some(list) = lists.get_mut(key) {
        list.remove(item);
        if list.is_empty() {
            lists.remove(key);
        }
    }
}
