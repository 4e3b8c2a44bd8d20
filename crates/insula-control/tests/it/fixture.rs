//! Words of the model, made in one line, with ids that count.

use std::collections::{BTreeMap, BTreeSet};

use insula_control::core::Now;
use insula_link::Inbound;
use insula_model::app::{App, Environment, Live, Project};
use insula_model::build::{Artifact, BuildPlan};
use insula_model::deployment::{Deployment, DeploymentState, Source};
use insula_model::feed::Change;
use insula_model::node::{Ailment, Architecture, Capacity, NodeMode, Offer};
use insula_model::observed::{InstancePhase, InstanceReport, NodeReport};
use insula_model::release::{Release, ReleaseNumber};
use insula_model::spec::{AppSpec, ComponentKind, ComponentSpec, Isolation};
use insula_model::target::NodeTarget;
use insula_model::tenancy::{Actor, Org, Quota};
use insula_model::*;
use insula_wire::facts::NodeFacts;

/// When every story begins: a day after which nothing in it expires.
pub const BEGIN: Timestamp = Timestamp::from_millis(1_800_000_000_000);

pub fn random(n: u64) -> [u8; ID_RANDOM_BYTES] {
    let mut bytes = [0; ID_RANDOM_BYTES];
    bytes[2..].copy_from_slice(&n.to_be_bytes());
    bytes
}

pub fn node_id(n: u64) -> NodeId {
    NodeId::from_parts(BEGIN, random(n))
}

/// One org with an app that is live: rows, parents before children.
pub struct Shop {
    pub org: Org,
    pub project: Project,
    pub environment: Environment,
    pub app: App,
    pub deployment: Deployment,
    pub release: Release,
}

impl Shop {
    pub fn new(number: u64, instances: u32) -> Self {
        let web = ComponentSpec {
            instances,
            run: Some("serve".to_owned()),
            ..ComponentSpec::of_kind(ComponentKind::Service)
        };
        let id = random(number);
        let org = OrgId::from_parts(BEGIN, id);
        let project = ProjectId::from_parts(BEGIN, id);
        let environment = EnvironmentId::from_parts(BEGIN, id);
        let app = AppId::from_parts(BEGIN, id);
        let deployment = DeploymentId::from_parts(BEGIN, id);
        let release = ReleaseId::from_parts(BEGIN, id);
        let spec = AppSpec { app: None, components: [("web".parse().unwrap(), web)].into() };
        let source = Source::Folder {
            manifest: Digest::from_sha256([1; 32]),
            size: Bytes(1),
            spec: Box::new(spec.clone()),
            plan: BuildPlan::default(),
        };
        Self {
            org: Org {
                id: org,
                name: format!("acme-{number}").parse().unwrap(),
                quota: Quota::default(),
                created: BEGIN,
            },
            project: Project { id: project, org, name: "default".parse().unwrap(), created: BEGIN },
            environment: Environment {
                id: environment,
                org,
                project,
                name: "production".parse().unwrap(),
                created: BEGIN,
            },
            app: App {
                id: app,
                org,
                project,
                environment,
                name: format!("shop-{number}").parse().unwrap(),
                created: BEGIN,
                running: true,
                scale: BTreeMap::new(),
                live: None,
            },
            deployment: Deployment {
                id: deployment,
                org,
                app,
                source,
                state: DeploymentState::Live,
                build: None,
                release: Some(release),
                previous: None,
                actor: Actor::Operator,
                trace: format!("{number:032x}"),
                created: BEGIN,
                updated: BEGIN,
                phases: vec![],
                warnings: vec![],
            },
            release: Release {
                id: release,
                org,
                app,
                number: ReleaseNumber(1),
                deployment,
                artifact: Artifact {
                    source: Digest::from_sha256([2; 32]),
                    built: None,
                    size: Bytes(1),
                },
                spec,
                variables: BTreeMap::new(),
                secrets: BTreeSet::new(),
                actor: Actor::Operator,
                created: BEGIN,
            },
        }
    }

    pub fn live(&self) -> Live {
        Live { release: self.release.id, deployment: self.deployment.id, since: BEGIN }
    }

    /// Everything, with the deployment live.
    pub fn rows(&self) -> Vec<Change> {
        let app = App { live: Some(self.live()), ..self.app.clone() };
        vec![
            Change::Org(Box::new(self.org.clone())),
            Change::Project(Box::new(self.project.clone())),
            Change::Environment(Box::new(self.environment.clone())),
            Change::App(Box::new(app)),
            Change::Release(Box::new(self.release.clone())),
            Change::Deployment(Box::new(self.deployment.clone())),
        ]
    }
}

pub fn facts(clock: Option<Timestamp>) -> NodeFacts {
    NodeFacts {
        offer: Offer {
            capacity: Capacity {
                cpu: MilliCpu(4_000),
                memory: Bytes::gib(8),
                instances: 200,
                ..Capacity::default()
            },
            mode: NodeMode::Full,
            runtimes: vec![],
            architecture: Architecture::X86,
            isolation: [Isolation::Standard].into(),
        },
        relay: None,
        clock,
        site: None,
    }
}

pub fn hello(n: u64, clock: Timestamp) -> Inbound {
    Inbound::NodeHello {
        node: node_id(n),
        name: format!("n{n}").parse().unwrap(),
        version: "0".to_owned(),
        facts: facts(Some(clock)),
    }
}

pub fn ready(id: InstanceId) -> InstanceReport {
    InstanceReport {
        id,
        phase: InstancePhase::Ready,
        endpoint: Some(([10, 0, 0, 1], 8_080).into()),
        restarts: 0,
        exits_before_ready: 0,
        last_exit: None,
        started: None,
        ready_since: None,
        warnings: vec![],
    }
}

/// What an agent says that does at once what it is told.
pub fn obedient(target: Option<&NodeTarget>, ailments: Vec<Ailment>) -> NodeReport {
    use insula_model::target::InstanceIntent;
    let wanted = target.into_iter().flat_map(|target| &target.instances);
    let running = wanted.filter(|instance| match instance.intent {
        InstanceIntent::Run => true,
        InstanceIntent::Stop => false,
    });
    NodeReport {
        generation: target.map(|target| target.generation).unwrap_or_default(),
        instances: running.map(|instance| ready(instance.id)).collect(),
        builds: vec![],
        ailments,
    }
}

/// Both clocks, moving together.
pub fn at(ms: u64) -> Now {
    Now { wall: BEGIN.plus(Millis(ms)), steady: Millis(5_000_000 + ms) }
}
