//! The rows of a large fleet, the same ones every time: nodes of several kinds, and apps that ask
//! for some of them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use insula_model::app::{App, Environment, Project};
use insula_model::build::Artifact;
use insula_model::deployment::{Deployment, DeploymentState, Phase, PhaseMark, Source};
use insula_model::feed::Change;
use insula_model::node::{Architecture, Capacity, Duty, Node, NodeMode, Offer, RuntimeFound, Site};
use insula_model::release::{Release, ReleaseNumber};
use insula_model::spec::{
    AppSpec, ComponentKind, ComponentSpec, Isolation, PlacementSpec, Runtime,
};
use insula_model::tenancy::{Actor, Org, Quota};
use insula_model::{
    AppId, Bytes, DeploymentId, Digest, EnvironmentId, HostName, MilliCpu, NodeId, OrgId,
    ProjectId, ReleaseId, Timestamp, limits,
};
use insula_store::{
    Store, Tx, WriteError, apps, deployments, environments, feed, nodes, orgs, projects, releases,
};

/// Orgs that share the fleet.
const ORGS: u32 = 20;
/// Instances of one app, in turns: 200 on average, never more than a component may have.
const APP_SIZES: [u32; 8] = [250, 120, 250, 30, 250, 200, 250, 250];
const ZONES: [&str; 5] = ["north", "east", "south", "west", "core"];
/// One node of so many is kept for those that ask for its pool, and one app of so many asks.
const POOLED: u32 = 4;
/// Rows in one mutation while the fleet is set up.
const SET_UP_AT_ONCE: usize = 200;
/// Apps that are never placed: what a decision costs is asked with them. One of each kind.
const PROBES: u32 = 8;

const CREATED: Timestamp = Timestamp::from_millis(1_790_000_000_000);

#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub nodes: u32,
    pub instances: u32,
}

#[derive(Debug, Clone)]
pub struct Deployed {
    pub app: App,
    pub release: Release,
    pub deployment: Deployment,
}

#[derive(Debug)]
pub struct Rows {
    pub suffix: HostName,
    orgs: Vec<(Org, Project, Environment)>,
    pub nodes: Vec<Node>,
    /// To be placed.
    pub apps: Vec<Deployed>,
    /// The same kinds of apps, of one instance each.
    pub probes: Vec<Deployed>,
}

fn random(n: u32) -> [u8; 10] {
    let mut bytes = [0; 10];
    // Spread, as random bytes would be; the counter keeps them apart.
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    bytes[4..8].copy_from_slice(&n.to_be_bytes());
    bytes
}

pub fn rows(size: Size) -> Rows {
    let name = |text: String| text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"));
    let orgs = (0..ORGS).map(|n| {
        let org = OrgId::from_parts(CREATED, random(n));
        let project = ProjectId::from_parts(CREATED, random(n));
        let environment = EnvironmentId::from_parts(CREATED, random(n));
        (
            Org {
                id: org,
                name: format!("org-{n}").parse().unwrap_or_else(|_| unreachable!()),
                quota: Quota { instances: u32::MAX, ..Quota::default() },
                created: CREATED,
            },
            Project {
                id: project,
                org,
                name: "default".parse().unwrap_or_else(|_| unreachable!()),
                created: CREATED,
            },
            Environment {
                id: environment,
                org,
                project,
                name: "production".parse().unwrap_or_else(|_| unreachable!()),
                created: CREATED,
            },
        )
    });
    let orgs: Vec<_> = orgs.collect();
    let mut left = size.instances;
    let mut apps = Vec::new();
    for n in 0.. {
        if left == 0 {
            break;
        }
        let instances = APP_SIZES[n as usize % APP_SIZES.len()].min(left);
        left -= instances;
        apps.push(deployed(&orgs, n, instances));
    }
    let first = apps.len() as u32;
    let probes = (0..PROBES).map(|n| deployed(&orgs, first + n, 1)).collect();
    let nodes = (0..size.nodes).map(|n| node(n, name(format!("n{n}")))).collect();
    Rows {
        suffix: "example.org".parse().unwrap_or_else(|_| unreachable!()),
        orgs,
        nodes,
        apps,
        probes,
    }
}

/// Enough for its share of the instances and a third more, so that the fleet is neither empty nor
/// stuffed when all are placed.
fn node(n: u32, name: insula_model::NodeName) -> Node {
    let site = Site {
        pool: (n % POOLED == 3).then(|| text("batch")),
        zone: Some(text(ZONES[n as usize / 4 % ZONES.len()])),
        labels: [(text("disk"), text(if n.is_multiple_of(2) { "ssd" } else { "hdd" }))].into(),
    };
    Node {
        id: NodeId::from_parts(CREATED, random(n)),
        name,
        offer: Offer {
            capacity: Capacity {
                cpu: MilliCpu(8_000),
                memory: Bytes::gib(28),
                instances: 500,
                pids: 100_000,
                disk: Bytes::gib(200),
            },
            mode: NodeMode::Full,
            runtimes: vec![RuntimeFound {
                runtime: Runtime::Python,
                version: "3.11.2".into(),
                path: "/usr/bin/python3".into(),
            }],
            architecture: Architecture::X86,
            isolation: BTreeSet::from([Isolation::Standard]),
        },
        site,
        agent_version: "0.1.0".into(),
        joined: CREATED,
        hello: CREATED,
        duty: Duty::Serve,
        lost: None,
        ailments: vec![],
        relay: Some(([10, 0, (n >> 8) as u8, n as u8], 7_443).into()),
    }
}

fn text<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a name"))
}

/// One of four asks for a pool, one for a label, one for three zones, and one for nothing.
fn placement(n: u32) -> PlacementSpec {
    let any = PlacementSpec::default();
    match n % 4 {
        0 => PlacementSpec { pool: Some(text("batch")), ..any },
        1 => PlacementSpec { labels: BTreeMap::from([(text("disk"), text("ssd"))]), ..any },
        2 => PlacementSpec { zones: ZONES[..3].iter().map(|zone| text(zone)).collect(), ..any },
        _ => any,
    }
}

fn deployed(orgs: &[(Org, Project, Environment)], n: u32, instances: u32) -> Deployed {
    let (org, project, environment) = &orgs[n as usize % orgs.len()];
    let app = App {
        id: AppId::from_parts(CREATED, random(n)),
        org: org.id,
        project: project.id,
        environment: environment.id,
        name: text(&format!("app-{n}")),
        created: CREATED,
        running: true,
        scale: BTreeMap::new(),
        live: None,
    };
    let web = ComponentSpec {
        instances,
        run: Some("python3 main.py".into()),
        runtime: Runtime::Python,
        cpu: MilliCpu(100 + 50 * (n % 3)),
        memory: Bytes::mib(32 << (n % 2)),
        pids: limits::PIDS_DEFAULT,
        placement: placement(n / 2),
        ..ComponentSpec::of_kind(ComponentKind::Service)
    };
    let spec = AppSpec { app: None, components: [(text("web"), web)].into() };
    let (release, deployment) =
        (ReleaseId::from_parts(CREATED, random(n)), DeploymentId::from_parts(CREATED, random(n)));
    let artifact =
        Artifact { source: Digest::from_sha256([7; 32]), built: None, size: Bytes::kib(40) };
    Deployed {
        release: Release {
            id: release,
            org: org.id,
            app: app.id,
            number: ReleaseNumber(1),
            deployment,
            artifact,
            spec: spec.clone(),
            variables: BTreeMap::new(),
            secrets: BTreeSet::new(),
            actor: Actor::Operator,
            created: CREATED,
        },
        deployment: Deployment {
            id: deployment,
            org: org.id,
            app: app.id,
            source: Source::Folder {
                manifest: artifact.source,
                size: artifact.size,
                spec: Box::new(spec),
                plan: Default::default(),
            },
            state: DeploymentState::Starting,
            build: None,
            release: Some(release),
            previous: None,
            actor: Actor::Operator,
            trace: String::new(),
            created: CREATED,
            updated: CREATED,
            phases: vec![PhaseMark { phase: Phase::Start, started: CREATED, ended: None }],
            warnings: vec![],
        },
        app,
    }
}

pub fn store(store: &Store, rows: &Rows) -> Result<()> {
    for (org, project, environment) in rows.orgs.clone() {
        store.write_blocking(move |tx: &mut Tx| {
            orgs::create(tx, &org)?;
            projects::create(tx, &project)?;
            environments::create(tx, &environment)
        })?;
    }
    for some in rows.nodes.chunks(SET_UP_AT_ONCE) {
        let some = some.to_vec();
        store.write_blocking(move |tx: &mut Tx| {
            some.iter().try_for_each(|node| nodes::hello(tx, node))
        })?;
    }
    let all: Vec<Deployed> = rows.apps.iter().chain(&rows.probes).cloned().collect();
    for some in all.chunks(SET_UP_AT_ONCE) {
        let (some, suffix) = (some.to_vec(), rows.suffix.clone());
        store.write_blocking(move |tx: &mut Tx| {
            some.iter().try_for_each(|one| {
                let host = one.app.default_host(&suffix);
                let host = host.unwrap_or_else(|| unreachable!("short names"));
                apps::create(tx, &one.app, &host)?;
                releases::create(tx, &one.release)?;
                deployments::create(tx, &one.deployment)
            })
        })?;
    }
    Ok(())
}

/// How many instances the store holds.
pub fn count(store: &Store) -> Result<u32> {
    let (_, rows) = store.read_blocking::<_, insula_store::StoreError, _>(feed::snapshot)?;
    let instances = rows.iter().filter(|row| matches!(row, Change::Instance(_)));
    Ok(instances.count() as u32)
}

/// So that closures over the store agree on their error.
pub type Written = Result<(), WriteError>;
