//! An org with one of everything, and a body for every route that takes one.

use std::collections::{BTreeMap, BTreeSet};

use insula_api::Route;
use insula_model::app::Live;
use insula_model::build::{Artifact, Build, BuildPlan, BuildState, Turn};
use insula_model::deployment::{Deployment, DeploymentState, Source};
use insula_model::fleet::Gateway;
use insula_model::instance::{Instance, Intent, Run, RunState};
use insula_model::node::{Capacity, Duty, Node, Offer, Site};
use insula_model::observed::Observed;
use insula_model::release::Release;
use insula_model::spec::{AppSpec, ComponentKind, ComponentSpec};
use insula_model::tenancy::{Actor, Role};
use insula_model::{
    AppId, BuildId, Bytes, DeploymentId, Digest, GatewayId, InstanceId, MilliCpu, NodeId, OrgId,
    ReleaseId, RunId, Timestamp,
};
use insula_store::{
    WriteError, apps, builds, deployments, gateways, instances, nodes, orgs, releases, runs,
};
use serde_json::{Value, json};

use crate::stage::{PASSWORD, Stage, With};

/// The cast of one org, by the names that paths call them.
#[derive(Debug, Clone)]
pub struct Scene {
    pub org: String,
    pub ids: BTreeMap<&'static str, String>,
}

pub const WEB: &str = "web";
pub const JOB: &str = "tidy";

pub fn spec() -> AppSpec {
    let mut web = ComponentSpec::of_kind(ComponentKind::Service);
    web.run = Some("serve".into());
    let mut job = ComponentSpec::of_kind(ComponentKind::Job);
    job.run = Some("tidy".into());
    let components =
        [(WEB.parse().unwrap(), web), (JOB.parse().unwrap(), job)].into_iter().collect();
    AppSpec { app: None, components }
}

impl Scene {
    /// `seed` tells the ids of one scene from another's.
    pub async fn set(stage: &Stage, org: &str, seed: u8) -> Self {
        stage.org(org).await;
        let app = stage.app(org, "shop").await;
        let user = stage.invite(org, &format!("extra@{org}.example"), Role::Viewer).await;
        let id_of = |made: &Value| made["id"].as_str().unwrap().to_owned();
        let body = json!({ "name": "extra", "role": "viewer" });
        let token = id_of(&stage.make(&format!("/v1/orgs/{org}/tokens"), &body).await["token"]);
        let body = json!({ "email": format!("new@{org}.example"), "role": "viewer" });
        let path = format!("/v1/orgs/{org}/invitations");
        let invitation = id_of(&stage.make(&path, &body).await["invitation"]);
        let body = json!({ "host": format!("{org}.example.org") });
        let path = format!("/v1/orgs/{org}/apps/{app}/domains");
        let domain = id_of(&stage.make(&path, &body).await);
        let project =
            stage.get(&stage.operator, &format!("/v1/orgs/{org}/projects/default")).await.ok();
        let path = format!("/v1/orgs/{org}/projects/default/environments/production");
        let environment = stage.get(&stage.operator, &path).await.ok();
        stage.fleet.set_fingerprint("a-fingerprint".into());
        let body = json!({ "role": "gateway" });
        let join = id_of(&stage.make("/v1/joins", &body).await["join"]);
        let rows = Rows::new(seed);
        rows.write(stage, org, &app).await;
        let ids = [
            ("org", org.to_owned()),
            ("app", app),
            ("user", user),
            ("token", token),
            ("invitation", invitation),
            ("domain", domain),
            ("project", id_of(&project)),
            ("environment", id_of(&environment)),
            ("deployment", rows.open.to_string()),
            ("release", rows.release.to_string()),
            ("build", rows.build.to_string()),
            ("instance", rows.instance.to_string()),
            ("run", rows.run.to_string()),
            ("node", rows.node.to_string()),
            ("gateway", rows.gateway.to_string()),
            ("join", join),
            ("name", "A_NAME".to_owned()),
            ("code", "not_found".to_owned()),
        ];
        Self { org: org.to_owned(), ids: ids.into_iter().collect() }
    }

    /// Another instance of the app, on this node.
    pub async fn places(&self, stage: &Stage, n: u8) -> InstanceId {
        let first: InstanceId = self.ids["instance"].parse().unwrap();
        let place = move |tx: &mut insula_store::Tx| {
            let like = instances::get_any_org(tx, first)?.unwrap();
            let id = InstanceId::from_parts(like.created, [100 + n; 10]);
            instances::create(tx, &Instance { id, node: crate::log::node_id(n), ..like })?;
            Ok::<_, WriteError>(id)
        };
        stage.store.write(place).await.unwrap()
    }

    /// One that nobody has heard of any more.
    pub fn gone_instance(&self) -> InstanceId {
        InstanceId::from_parts(Timestamp::from_millis(1), [99; 10])
    }

    /// The path of a route to what is in this scene.
    pub fn path(&self, route: &Route) -> String {
        self.path_with(route, |_| None)
    }

    pub fn path_with(&self, route: &Route, other: impl Fn(&str) -> Option<String>) -> String {
        let parts = route.path.split('/').map(|part| {
            match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                None => part.to_owned(),
                Some(name) => other(name).unwrap_or_else(|| {
                    self.ids.get(name).unwrap_or_else(|| panic!("no {name} in the scene")).clone()
                }),
            }
        });
        let path = parts.collect::<Vec<_>>().join("/");
        match route.name {
            "why" => format!("{path}?subject={}", self.ids["app"]),
            _ => path,
        }
    }

    /// A body that a route takes, so that the request goes well. A new route needs a line here.
    pub fn body(&self, route: &Route, with: With) -> With {
        let org = &self.org;
        let json = match route.name {
            "sign_in" => {
                json!({ "email": format!("extra@{org}.example"), "password": PASSWORD })
            }
            "change_password" => json!({ "current": PASSWORD, "new": "another long password" }),
            "accept_invitation" => json!({ "secret": "insi_nobody", "password": PASSWORD }),
            "create_org" => json!({ "name": "fresh" }),
            "set_quota" => json!({
                "instances": 50, "memory_bytes": 1u64 << 34, "cpu_millis": 32_000,
                "builds_at_once": 2, "releases_kept": 20, "log_rate_bytes": 1 << 20,
                "disk_bytes": 1u64 << 34,
            }),
            "create_join" => json!({ "role": "node", "name": "fresh" }),
            "set_node_site" => json!({ "zone": "a" }),
            "set_role" => json!({ "role": "developer" }),
            "create_invitation" => json!({ "email": "another@example.org", "role": "viewer" }),
            "create_token" => json!({ "name": "robot", "role": "viewer" }),
            "create_project" => json!({ "name": "fresh" }),
            "create_environment" => json!({ "name": "fresh" }),
            "create_app" => {
                json!({ "name": "fresh", "project": "default", "environment": "production" })
            }
            "scale_app" => json!({ "components": { WEB: 2 } }),
            "create_run" => json!({ "component": JOB }),
            "roll_back_app" => json!({ "number": 1 }),
            "find_missing_chunks" => json!({ "chunks": [] }),
            "create_deployment" | "plan_deployment" => {
                let (manifest, _) = crate::deploy::folder(&[("index.html", "hello")]);
                json!({ "manifest": manifest })
            }
            "change_project_variables"
            | "change_environment_variables"
            | "change_app_variables"
            | "change_project_secrets"
            | "change_environment_secrets"
            | "change_app_secrets" => json!({ "set": { "A_NAME": "value" } }),
            "set_project_variable"
            | "set_environment_variable"
            | "set_app_variable"
            | "set_project_secret"
            | "set_environment_secret"
            | "set_app_secret" => json!({ "value": "value" }),
            "add_domain" => json!({ "host": "fresh.example.org" }),
            "upload_chunks" => return with.body("application/vnd.insula.chunks", Vec::new()),
            "deploy_archive" => {
                let archive = crate::archive::tar_gz(&[("top/index.html", "hello")]);
                return with.body("application/gzip", archive);
            }
            _ => {
                assert!(
                    matches!(route.body, insula_api::BodyKind::None),
                    "{} takes a body: give it an example in scene.rs",
                    route.name
                );
                return with;
            }
        };
        with.json(&json)
    }
}

/// Enough for whatever a story deploys.
fn roomy() -> Capacity {
    Capacity {
        cpu: MilliCpu(64_000),
        memory: Bytes::gib(256),
        instances: 1_000,
        ..Capacity::default()
    }
}

/// What the control plane would have written: a live release, and a deployment under way.
struct Rows {
    live: DeploymentId,
    open: DeploymentId,
    release: ReleaseId,
    build: BuildId,
    instance: InstanceId,
    run: RunId,
    node: NodeId,
    gateway: GatewayId,
}

impl Rows {
    fn new(seed: u8) -> Self {
        let at = Timestamp::from_millis(1_794_000_000_000);
        Self {
            live: DeploymentId::from_parts(at, [seed; 10]),
            open: DeploymentId::from_parts(at, [seed + 1; 10]),
            release: ReleaseId::from_parts(at, [seed; 10]),
            build: BuildId::from_parts(at, [seed; 10]),
            instance: InstanceId::from_parts(at, [seed; 10]),
            run: RunId::from_parts(at, [seed; 10]),
            node: NodeId::from_parts(at, [seed; 10]),
            gateway: GatewayId::from_parts(at, [seed; 10]),
        }
    }

    async fn write(&self, stage: &Stage, org: &str, app: &str) {
        let (org, app): (insula_model::OrgName, AppId) =
            (org.parse().unwrap(), app.parse().unwrap());
        let Self { live, open, release, build, instance, run, node, gateway } = *self;
        let at = Timestamp::from_millis(1_794_000_000_000);
        let name = format!("of-{org}").parse().unwrap();
        let here = Node {
            id: node,
            name,
            offer: Offer { capacity: roomy(), ..crate::deploy::offer() },
            site: Site::default(),
            agent_version: "0.1.0".into(),
            joined: at,
            hello: at,
            duty: Duty::Serve,
            lost: None,
            ailments: Vec::new(),
            relay: None,
        };
        let edge = Gateway { id: gateway, version: "0.1.0".into(), joined: at, hello: at };
        stage
            .store
            .write(move |tx| {
                nodes::hello(tx, &here)?;
                gateways::hello(tx, &edge)?;
                let org = orgs::by_name(tx, &org)?.unwrap().id;
                let row = apps::get(tx, org, app)?.unwrap();
                let source = Digest::from_sha256([9; 32]);
                let artifact = Artifact { source, built: None, size: Bytes(5) };
                deployments::create(tx, &folder(live, org, app, None))?;
                let plan = BuildPlan::default();
                builds::create(
                    tx,
                    &Build {
                        id: build,
                        org,
                        app,
                        deployment: live,
                        source,
                        plan,
                        state: BuildState::Queued,
                        turn: Turn::Unknown,
                        created: at,
                        updated: at,
                    },
                )?;
                let number = releases::next_number(tx, org, app)?;
                releases::create(
                    tx,
                    &Release {
                        id: release,
                        org,
                        app,
                        number,
                        deployment: live,
                        artifact,
                        spec: spec(),
                        variables: BTreeMap::new(),
                        secrets: BTreeSet::new(),
                        actor: Actor::Platform,
                        created: at,
                    },
                )?;
                let ended = Deployment {
                    state: DeploymentState::Live,
                    release: Some(release),
                    build: Some(build),
                    ..folder(live, org, app, None)
                };
                deployments::update(tx, &DeploymentState::Queued, &ended)?;
                apps::set_live(tx, org, app, &Live { release, deployment: live, since: at })?;
                deployments::create(tx, &folder(open, org, app, Some(release)))?;
                instances::create(
                    tx,
                    &Instance {
                        id: instance,
                        org,
                        project: row.project,
                        environment: row.environment,
                        app,
                        component: WEB.parse().unwrap(),
                        kind: ComponentKind::Service,
                        release,
                        deployment: live,
                        run: None,
                        node,
                        cpu: MilliCpu(500),
                        memory: Bytes::mib(256),
                        pids: 100,
                        disk: Bytes::mib(128),
                        intent: Intent::Run,
                        created: at,
                        observed: Observed::Unknown,
                    },
                )?;
                runs::create(
                    tx,
                    &Run {
                        id: run,
                        org,
                        app,
                        component: JOB.parse().unwrap(),
                        release,
                        command: None,
                        state: RunState::Queued,
                        instance: None,
                        created: at,
                        ended: None,
                    },
                )?;
                Ok::<_, WriteError>(())
            })
            .await
            .unwrap();
    }
}

fn folder(id: DeploymentId, org: OrgId, app: AppId, previous: Option<ReleaseId>) -> Deployment {
    let at = Timestamp::from_millis(1_794_000_000_000);
    Deployment {
        id,
        org,
        app,
        source: Source::Folder {
            manifest: Digest::from_sha256([9; 32]),
            size: Bytes(5),
            spec: Box::new(spec()),
            plan: BuildPlan::default(),
        },
        state: DeploymentState::Queued,
        build: None,
        release: None,
        previous,
        actor: Actor::Operator,
        trace: "0123456789abcdef0123456789abcdef".into(),
        created: at,
        updated: at,
        phases: Vec::new(),
        warnings: Vec::new(),
    }
}
