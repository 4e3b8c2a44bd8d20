//! Words of the model, made in one line, with ids that count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use insula_model::app::{App, Domain, Environment, Live, Project};
use insula_model::build::{Artifact, Build, BuildPlan, BuildState, BuildStep, Turn};
use insula_model::deployment::{Deployment, DeploymentState, Phase, PhaseMark, Source};
use insula_model::event::Event;
use insula_model::instance::{Instance, Intent, Run, RunState};
use insula_model::node::{Architecture, Capacity, Duty, Node, NodeMode, Offer, RuntimeFound, Site};
use insula_model::observed::{InstancePhase, InstanceReport, Observed};
use insula_model::release::{Release, ReleaseNumber};
use insula_model::spec::{AppSpec, ComponentKind, ComponentSpec, Isolation, Runtime};
use insula_model::tenancy::{Actor, Org, Quota, Token, TokenScope, User};
use insula_model::{
    AppId, BuildId, Bytes, DeploymentId, Digest, DomainId, EnvironmentId, EventId, HostName,
    InstanceId, MilliCpu, NodeId, OrgId, ProjectId, ReleaseId, RunId, Timestamp, TokenId, UserId,
};
use insula_store::{SecretHash, Store, StoreConfig, Tx, WriteError};
use tempfile::TempDir;

/// A store of its own, and a folder, both gone with it. The store is a file in the folder, or a
/// schema of a PostgreSQL (see `postgres`).
pub struct Fixture {
    pub store: Store,
    pub folder: TempDir,
    config: StoreConfig,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut StoreConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = || StoreConfig::new(folder.path().join("insula.db"));
        let mut config = crate::postgres::place().unwrap_or_else(sqlite);
        change(&mut config);
        let store = Store::open(config.clone()).unwrap();
        Self { store, folder, config }
    }

    /// To open the same store once more.
    pub fn config(&self) -> StoreConfig {
        self.config.clone()
    }

    pub fn write<T: Send + 'static>(
        &self,
        mutation: impl Fn(&mut Tx) -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, WriteError> {
        self.store.write_blocking(mutation)
    }

    pub fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Tx) -> Result<T, WriteError> + Send + 'static,
    ) -> T {
        self.store.read_blocking(query).unwrap()
    }
}

pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + millis)
}

/// The n-th id of a kind: later ones sort after earlier ones.
fn random(n: u32) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[6..].copy_from_slice(&n.to_be_bytes());
    bytes
}

macro_rules! ids {
    ($($function:ident -> $id:ident;)*) => {$(
        pub fn $function(n: u32) -> $id {
            $id::from_parts(at(n.into()), random(n))
        }
    )*};
}

ids! {
    org_id -> OrgId;
    user_id -> UserId;
    token_id -> TokenId;
    project_id -> ProjectId;
    environment_id -> EnvironmentId;
    app_id -> AppId;
    domain_id -> DomainId;
    deployment_id -> DeploymentId;
    build_id -> BuildId;
    release_id -> ReleaseId;
    instance_id -> InstanceId;
    run_id -> RunId;
    node_id -> NodeId;
    event_id -> EventId;
}

pub fn host(text: &str) -> HostName {
    text.parse().unwrap()
}

pub fn digest(n: u32) -> Digest {
    let mut bytes = [0; 32];
    bytes[28..].copy_from_slice(&n.to_be_bytes());
    Digest::from_sha256(bytes)
}

pub fn hash(n: u8) -> SecretHash {
    SecretHash([n; 32])
}

pub fn org(n: u32) -> Org {
    Org {
        id: org_id(n),
        name: format!("org-{n}").parse().unwrap(),
        quota: Quota::default(),
        created: at(0),
    }
}

pub fn user(n: u32) -> User {
    User {
        id: user_id(n),
        email: format!("Person{n}@example.org").parse().unwrap(),
        operator: false,
        created: at(0),
    }
}

pub fn token(n: u32, scope: TokenScope) -> Token {
    Token {
        id: token_id(n),
        name: format!("ci-{n}").parse().unwrap(),
        scope,
        created: at(0),
        expires: None,
    }
}

pub fn project(org: u32, n: u32) -> Project {
    Project {
        id: project_id(n),
        org: org_id(org),
        name: format!("project-{n}").parse().unwrap(),
        created: at(0),
    }
}

pub fn environment(project: &Project, n: u32) -> Environment {
    Environment {
        id: environment_id(n),
        org: project.org,
        project: project.id,
        name: format!("environment-{n}").parse().unwrap(),
        created: at(0),
    }
}

pub fn app(environment: &Environment, n: u32) -> App {
    App {
        id: app_id(n),
        org: environment.org,
        project: environment.project,
        environment: environment.id,
        name: format!("app-{n}").parse().unwrap(),
        created: at(0),
        running: true,
        scale: BTreeMap::new(),
        live: None,
    }
}

pub fn default_host(app: &App) -> HostName {
    app.default_host(&host("localhost")).unwrap()
}

pub fn domain(app: &App, n: u32, name: &str) -> Domain {
    Domain { id: domain_id(n), org: app.org, app: app.id, host: host(name), created: at(0) }
}

pub fn spec(instances: u32) -> AppSpec {
    let mut web = ComponentSpec::of_kind(ComponentKind::Service);
    web.instances = instances;
    web.run = Some("python app.py".to_owned());
    let job = ComponentSpec::of_kind(ComponentKind::Job);
    AppSpec {
        app: None,
        components: [("web".parse().unwrap(), web), ("clean".parse().unwrap(), job)].into(),
    }
}

pub fn folder(manifest: u32, size: Bytes) -> Source {
    let step = BuildStep {
        name: "install packages".to_owned(),
        runtime: Runtime::Python,
        argv: vec!["pip".to_owned(), "install".to_owned()],
        env: BTreeMap::from([("PIP_NO_INPUT".to_owned(), "1".to_owned())]),
        dir: String::new(),
    };
    let plan = BuildPlan { steps: vec![step], warnings: vec!["using 3.11".to_owned()] };
    Source::Folder { manifest: digest(manifest), size, spec: Box::new(spec(2)), plan }
}

pub fn deployment(app: &App, n: u32, source: Source) -> Deployment {
    Deployment {
        id: deployment_id(n),
        org: app.org,
        app: app.id,
        source,
        state: DeploymentState::Queued,
        build: None,
        release: None,
        previous: app.live.as_ref().map(|live| live.release),
        actor: Actor::User(user_id(1)),
        trace: "0af7651916cd43dd8448eb211c80319c".to_owned(),
        created: at(0),
        updated: at(0),
        phases: vec![PhaseMark { phase: Phase::Queue, started: at(0), ended: None }],
        warnings: vec![],
    }
}

pub fn build(deployment: &Deployment, n: u32) -> Build {
    Build {
        id: build_id(n),
        org: deployment.org,
        app: deployment.app,
        deployment: deployment.id,
        source: digest(1),
        plan: BuildPlan::default(),
        state: BuildState::Queued,
        turn: Turn::Unknown,
        created: at(0),
        updated: at(0),
    }
}

pub fn artifact(n: u32) -> Artifact {
    Artifact { source: digest(n), built: Some(digest(1_000_000 + n)), size: Bytes::kib(10) }
}

pub fn release(deployment: &Deployment, n: u32, number: ReleaseNumber) -> Release {
    Release {
        id: release_id(n),
        org: deployment.org,
        app: deployment.app,
        number,
        deployment: deployment.id,
        artifact: artifact(n),
        spec: spec(2),
        variables: BTreeMap::from([("LOG_LEVEL".parse().unwrap(), "info".to_owned())]),
        secrets: BTreeSet::from(["API_KEY".parse().unwrap()]),
        actor: Actor::Platform,
        created: at(0),
    }
}

pub fn live(release: &Release, since: Timestamp) -> Live {
    Live { release: release.id, deployment: release.deployment, since }
}

pub fn instance(app: &App, release: &Release, n: u32) -> Instance {
    Instance {
        id: instance_id(n),
        org: app.org,
        project: app.project,
        environment: app.environment,
        app: app.id,
        component: "web".parse().unwrap(),
        kind: ComponentKind::Service,
        release: release.id,
        deployment: release.deployment,
        run: None,
        node: node_id(1),
        cpu: MilliCpu(500),
        memory: Bytes::mib(256),
        pids: 100,
        disk: Bytes::mib(128),
        intent: Intent::Run,
        created: at(0),
        observed: Observed::Unknown,
    }
}

pub fn ready(instance: InstanceId, seen: Timestamp) -> Observed<Box<InstanceReport>> {
    let endpoint: SocketAddr = "10.77.0.2:8080".parse().unwrap();
    let value = InstanceReport {
        id: instance,
        phase: InstancePhase::Ready,
        endpoint: Some(endpoint),
        restarts: 0,
        exits_before_ready: 0,
        last_exit: None,
        started: Some(at(1)),
        ready_since: Some(at(2)),
        warnings: vec![],
    };
    Observed::Present { value: Box::new(value), seen }
}

pub fn run(app: &App, release: &Release, n: u32) -> Run {
    Run {
        id: run_id(n),
        org: app.org,
        app: app.id,
        component: "clean".parse().unwrap(),
        release: release.id,
        command: None,
        state: RunState::Queued,
        instance: None,
        created: at(0),
        ended: None,
    }
}

pub fn node(n: u32) -> Node {
    Node {
        id: node_id(n),
        name: format!("node-{n}").parse().unwrap(),
        offer: Offer {
            capacity: Capacity {
                cpu: MilliCpu(2_000),
                memory: Bytes::gib(4),
                instances: 100,
                ..Capacity::default()
            },
            mode: NodeMode::Full,
            runtimes: vec![RuntimeFound {
                runtime: Runtime::Python,
                version: "3.11.2".to_owned(),
                path: "/usr/bin/python3".to_owned(),
            }],
            architecture: Architecture::X86,
            isolation: [Isolation::Standard].into(),
        },
        site: Site::default(),
        agent_version: "0.1.0".to_owned(),
        joined: at(0),
        hello: at(0),
        duty: Duty::Serve,
        lost: None,
        ailments: vec![],
        relay: None,
    }
}

pub fn event(org: Option<OrgId>, app: Option<AppId>, n: u32) -> Event {
    Event {
        id: event_id(n),
        kind: "app.created".to_owned(),
        version: 1,
        time: at(n.into()),
        actor: Actor::Operator,
        org,
        subject: app.map(|app| app.to_string()).unwrap_or_default(),
        app,
        message: format!("event {n}"),
        trace: None,
        request: None,
        before: None,
        after: Some(serde_json::json!({"name": "shop"})),
    }
}

/// An org with one of everything, all under the number `n`.
pub struct Tenant {
    pub org: Org,
    pub project: Project,
    pub environment: Environment,
    pub app: App,
    pub deployment: Deployment,
    pub build: Build,
    pub release: Release,
    pub instance: Instance,
    pub run: Run,
}

impl Tenant {
    pub fn of(n: u32) -> Self {
        let org = org(n);
        let project = project(n, n);
        let environment = environment(&project, n);
        let app = app(&environment, n);
        let mut deployment = deployment(&app, n, folder(n, Bytes::kib(4)));
        deployment.build = Some(build_id(n));
        let build = build(&deployment, n);
        let release = release(&deployment, n, ReleaseNumber(1));
        let instance = instance(&app, &release, n);
        let run = run(&app, &release, n);
        Self { org, project, environment, app, deployment, build, release, instance, run }
    }

    /// Up to the app.
    pub fn settle(&self, tx: &mut Tx) -> Result<(), WriteError> {
        insula_store::orgs::create(tx, &self.org)?;
        insula_store::projects::create(tx, &self.project)?;
        insula_store::environments::create(tx, &self.environment)?;
        insula_store::apps::create(tx, &self.app, &default_host(&self.app))
    }

    /// All of it.
    pub fn deploy(&self, tx: &mut Tx) -> Result<(), WriteError> {
        use insula_store::{apps, builds, deployments, instances, nodes, releases, runs};
        self.settle(tx)?;
        nodes::hello(tx, &node(1))?;
        deployments::create(tx, &self.deployment)?;
        builds::create(tx, &self.build)?;
        assert_eq!(releases::next_number(tx, self.org.id, self.app.id)?, self.release.number);
        releases::create(tx, &self.release)?;
        apps::set_live(tx, self.org.id, self.app.id, &live(&self.release, at(1)))?;
        instances::create(tx, &self.instance)?;
        runs::create(tx, &self.run)
    }
}
