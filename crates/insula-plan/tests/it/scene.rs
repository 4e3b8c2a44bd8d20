//! A world small enough to tell a story in, and a hand that carries actions out.

use std::collections::BTreeMap;
use std::sync::Arc;

use insula_model::app::{App, Environment, Project};
use insula_model::build::{Artifact, Build, BuildPlan, BuildState, BuildStep, Turn};
use insula_model::deployment::{Cause, CauseCode, Deployment, DeploymentState, PhaseMark, Source};
use insula_model::feed::Change;
use insula_model::instance::{Instance, Intent, Run, RunState};
use insula_model::node::{Architecture, Capacity, Duty, Node, NodeMode, Offer, RuntimeFound, Site};
use insula_model::observed::{Exit, ExitNote, InstancePhase, InstanceReport, Observed};
use insula_model::spec::{AppSpec, ComponentKind, ComponentSpec, Isolation, Runtime};
use insula_model::tenancy::{Actor, Org, Quota};
use insula_model::*;
use insula_plan::effect::{Cut, Fresh, effect, write};
use insula_plan::{Action, Presence, World};

use crate::follower::Follower;
use crate::rest::{PASSES_MAX, Passes, a_newcomer_agrees};

pub struct Scene {
    pub world: World,
    pub now: Timestamp,
    pub app: AppId,
    made: u64,
    names: BTreeMap<String, String>,
    follower: Option<Follower>,
    /// Whether instances are called `web.2`, and told of when they have been placed.
    pub dotted: bool,
    /// What the operator's history says.
    pub events: Vec<String>,
    /// Looks at every action: the world before it, and after.
    pub watch: Option<fn(&World, &Action, &World)>,
}

pub fn component(kind: ComponentKind, instances: u32) -> ComponentSpec {
    let run = (kind != ComponentKind::Static).then(|| "serve".to_owned());
    ComponentSpec { instances, run, ..ComponentSpec::of_kind(kind) }
}

pub fn spec(components: &[(&str, ComponentSpec)]) -> AppSpec {
    let named = components.iter().map(|(n, c)| (n.parse().unwrap(), c.clone()));
    AppSpec { app: None, components: named.collect() }
}

impl Scene {
    /// One org, one app, one node with room for plenty, one gateway that follows at once.
    pub fn new() -> Self {
        let mut scene = Self::bare();
        scene.node("a", Bytes::gib(8));
        scene
    }

    /// The same without the node.
    pub fn bare() -> Self {
        let mut scene = Self {
            world: World::new("localhost".parse().unwrap()),
            now: Timestamp::from_millis(1_000_000),
            app: AppId::from_parts(Timestamp::from_millis(1), [0; 10]),
            made: 0,
            names: BTreeMap::new(),
            follower: None,
            dotted: false,
            events: Vec::new(),
            watch: None,
        };
        let (at, now) = (scene.parts(), scene.now);
        let org = OrgId::from_parts(at.0, at.1);
        let project = ProjectId::from_parts(at.0, at.1);
        let environment = EnvironmentId::from_parts(at.0, at.1);
        let rows = [
            Change::Org(Box::new(Org {
                id: org,
                name: "acme".parse().unwrap(),
                quota: Quota::default(),
                created: now,
            })),
            Change::Project(Box::new(Project {
                id: project,
                org,
                name: "default".parse().unwrap(),
                created: now,
            })),
            Change::Environment(Box::new(Environment {
                id: environment,
                org,
                project,
                name: "production".parse().unwrap(),
                created: now,
            })),
            Change::App(Box::new(App {
                id: scene.app,
                org,
                project,
                environment,
                name: "shop".parse().unwrap(),
                created: now,
                running: true,
                scale: BTreeMap::new(),
                live: None,
            })),
        ];
        rows.into_iter().for_each(|row| scene.world.apply(row));
        scene.names.insert(scene.app.to_string(), "shop".into());
        scene.world.edge.gateways = 1;
        scene.world.edge.known = true;
        scene
    }

    fn parts(&mut self) -> (Timestamp, [u8; 10]) {
        self.made += 1;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.made.to_be_bytes());
        (self.now.plus(Millis(self.made)), random)
    }

    pub fn node(&mut self, name: &str, memory: Bytes) -> NodeId {
        let (at, random) = self.parts();
        let id = NodeId::from_parts(at, random);
        let found =
            |runtime| RuntimeFound { runtime, version: "1".into(), path: "/usr/bin".into() };
        let node = Node {
            id,
            name: name.parse().unwrap(),
            offer: Offer {
                capacity: Capacity {
                    cpu: MilliCpu(4_000),
                    memory,
                    instances: 200,
                    ..Capacity::default()
                },
                mode: NodeMode::Full,
                runtimes: vec![found(Runtime::Python), found(Runtime::Node)],
                architecture: Architecture::X86,
                isolation: [Isolation::Standard].into(),
            },
            site: Site::default(),
            agent_version: "0".into(),
            joined: at,
            hello: self.now,
            duty: Duty::Serve,
            lost: None,
            ailments: vec![],
            relay: None,
        };
        self.names.insert(id.to_string(), format!("node {name}"));
        self.world.apply(Change::Node(Box::new(node)));
        self.world.heard.insert(id, Presence::Here);
        id
    }

    pub fn deploy(&mut self, spec: AppSpec) -> DeploymentId {
        self.deploy_with(spec, BuildPlan::default())
    }

    pub fn deploy_built(&mut self, spec: AppSpec) -> DeploymentId {
        let step = BuildStep {
            name: "install".into(),
            runtime: Runtime::Python,
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            dir: String::new(),
        };
        self.deploy_with(spec, BuildPlan { steps: vec![step], warnings: vec![] })
    }

    fn deploy_with(&mut self, spec: AppSpec, plan: BuildPlan) -> DeploymentId {
        let manifest = Digest::from_sha256([1; 32]);
        let size = Bytes(1);
        self.start(Source::Folder { manifest, size, spec: Box::new(spec), plan })
    }

    pub fn start(&mut self, source: Source) -> DeploymentId {
        let (at, random) = self.parts();
        let id = DeploymentId::from_parts(at, random);
        let org = self.world.apps[&self.app].org;
        let row = Deployment {
            id,
            org,
            app: self.app,
            source,
            state: DeploymentState::Queued,
            build: None,
            release: None,
            previous: None,
            actor: Actor::Operator,
            trace: String::new(),
            created: self.now,
            updated: self.now,
            phases: Vec::<PhaseMark>::new(),
            warnings: vec![],
        };
        let count = self.names.values().filter(|n| n.starts_with('d')).count() + 1;
        self.names.insert(id.to_string(), format!("d{count}"));
        self.world.apply(Change::Deployment(Box::new(row)));
        id
    }

    pub fn run_job(&mut self, component: &str) -> RunId {
        let (at, random) = self.parts();
        let id = RunId::from_parts(at, random);
        let app = &self.world.apps[&self.app];
        let row = Run {
            id,
            org: app.org,
            app: app.id,
            component: component.parse().unwrap(),
            release: app.live.as_ref().unwrap().release,
            command: None,
            state: RunState::Queued,
            instance: None,
            created: self.now,
            ended: None,
        };
        self.names.insert(id.to_string(), "the run".into());
        self.world.apply(Change::Run(Box::new(row)));
        id
    }

    pub fn instances(&self) -> Vec<Instance> {
        self.world.instances.values().cloned().collect()
    }

    /// Instances of a deployment that should run.
    pub fn running(&self, deployment: DeploymentId) -> Vec<InstanceId> {
        let of = |i: &&Instance| i.deployment == deployment && i.intent == Intent::Run;
        self.world.instances.values().filter(of).map(|i| i.id).collect()
    }

    pub fn report(&mut self, id: InstanceId, change: impl FnOnce(&mut InstanceReport)) {
        let now = self.now;
        let row = self.world.instances.get(&id).expect("the instance is there");
        let mut report = row.observed.present().cloned().unwrap_or(Box::new(InstanceReport {
            id,
            phase: InstancePhase::Starting,
            endpoint: None,
            restarts: 0,
            exits_before_ready: 0,
            last_exit: None,
            started: Some(now),
            ready_since: None,
            warnings: vec![],
        }));
        change(&mut report);
        let observed = Observed::Present { value: report, seen: now };
        self.world.instances.update(&id, |row| row.observed = observed);
    }

    pub fn ready(&mut self, id: InstanceId) {
        let now = self.now;
        self.report(id, |r| {
            r.phase = InstancePhase::Ready;
            r.endpoint = Some(([10, 0, 0, 1], 8080).into());
            r.ready_since = r.ready_since.or(Some(now));
        });
    }

    pub fn exit_early(&mut self, id: InstanceId, code: i32) {
        let at = self.now;
        self.report(id, |r| {
            r.exits_before_ready += 1;
            let tail = vec!["Traceback: no module named shop".to_owned()];
            r.last_exit = Some(ExitNote { exit: Exit::Code { code }, at, tail });
            r.phase = InstancePhase::BackingOff { until: at };
        });
    }

    /// On every node that answers.
    pub fn all_ready(&mut self) {
        for instance in self.instances() {
            let unwell = instance.observed.present().is_some_and(|r| match &r.phase {
                InstancePhase::Unready { .. } | InstancePhase::Finished => true,
                InstancePhase::Preparing
                | InstancePhase::Starting
                | InstancePhase::Ready
                | InstancePhase::BackingOff { .. }
                | InstancePhase::Stuck { .. }
                | InstancePhase::Stopping => false,
            });
            let heard = self.world.is_here(instance.node);
            if instance.intent == Intent::Run && heard && !unwell {
                self.ready(instance.id);
            }
        }
    }

    /// Every node that answers says that what was told to stop is gone.
    pub fn all_stopped_are_gone(&mut self) {
        let seen = self.now;
        for row in self.instances() {
            if matches!(row.intent, Intent::Stop { .. }) && self.world.is_here(row.node) {
                self.world.instances.update(&row.id, |r| r.observed = Observed::Absent { seen });
            }
        }
    }

    pub fn gateway_follows(&mut self) {
        let table = insula_plan::routes::table(&self.world);
        let routed: std::collections::BTreeSet<InstanceId> =
            table.routes.iter().flat_map(|r| r.endpoints.iter().map(|e| e.instance)).collect();
        self.world.edge.routed_by_all = Arc::new(routed);
        self.world.edge.routed_by_any = Arc::clone(&self.world.edge.routed_by_all);
    }

    /// What its node says of the newest build, now.
    pub fn build_turn(&mut self, turn: Turn) {
        let now = self.now;
        self.newest_build(|build| (build.turn, build.updated) = (turn, now));
    }

    pub fn build_ends(&mut self, state: impl FnOnce() -> BuildState) {
        self.newest_build(|build| build.state = state());
    }

    fn newest_build(&mut self, change: impl FnOnce(&mut Build)) {
        let id = *self.world.builds.keys().next_back().expect("there is a build");
        change(Arc::make_mut(self.world.builds.get_mut(&id).unwrap()));
    }

    /// Changes every node at once.
    pub fn all_nodes(&mut self, change: impl Fn(&mut Node)) {
        for id in self.world.nodes.keys().copied().collect::<Vec<_>>() {
            change(Arc::make_mut(self.world.nodes.get_mut(&id).unwrap()));
        }
    }

    /// How many builds the app's org may run at once.
    pub fn builds_at_once(&mut self, n: u32) {
        let org = self.world.apps[&self.app].org;
        self.world.orgs.get_mut(&org).unwrap().quota.builds_at_once = n;
    }

    /// As the operator or a developer would by the API.
    pub fn app_mut(&mut self) -> &mut App {
        Arc::make_mut(self.world.apps.get_mut(&self.app).expect("the app is there"))
    }

    pub fn built() -> BuildState {
        let artifact = Artifact {
            source: Digest::from_sha256([1; 32]),
            built: Some(Digest::from_sha256([2; 32])),
            size: Bytes(2),
        };
        BuildState::Done { artifact }
    }

    pub fn build_failed(code: CauseCode) -> BuildState {
        BuildState::Failed { cause: Cause::new(code, "pip said no") }
    }

    pub fn later(&mut self, span: Millis) {
        self.now = self.now.plus(span);
    }

    /// Plans and carries out until nothing is left to do; tells what was done and what waits.
    pub fn settle(&mut self) -> String {
        let mut said = String::new();
        let mut passes = Passes::default();
        while passes.count() < PASSES_MAX {
            let plan = insula_plan::plan(&self.world, self.now);
            let follower = self.follower.get_or_insert_with(|| Follower::new(&self.world));
            follower.compare(&self.world, self.now, &plan);
            if plan.actions.is_empty() {
                for wait in &plan.waits {
                    said += &format!("wait {}: {}\n", self.name(&wait.subject), wait.reason);
                }
                a_newcomer_agrees(&self.world, self.now, &plan);
                println!("came to rest after {} passes", passes.count());
                return self.told(&said);
            }
            passes.look(&self.world, &plan);
            for action in plan.actions {
                let placed = self.dotted && matches!(action, Action::Place { .. });
                if !placed {
                    said += &format!("{}\n", self.tell(&action));
                }
                let parts: Vec<_> = (0..3).map(|_| self.parts()).collect();
                let fresh = Fresh {
                    build: BuildId::from_parts(parts[0].0, parts[0].1),
                    release: ReleaseId::from_parts(parts[1].0, parts[1].1),
                    instance: InstanceId::from_parts(parts[2].0, parts[2].1),
                };
                let number = self.world.releases.len() as u32 + 1;
                let cut = Cut { number, ..Cut::default() };
                let effect = effect(&self.world, &action, self.now, fresh, &cut);
                let before = self.watch.map(|_| self.world.clone());
                effect.writes.iter().for_each(|w| write(&mut self.world, w));
                if let (Some(watch), Some(before)) = (self.watch, before) {
                    watch(&before, &action, &self.world);
                }
                let events = effect.told.iter().filter(|t| t.org.is_none());
                self.events.extend(events.map(|t| format!("{}: {}", t.kind, t.message)));
                for line in self.name_new_instances() {
                    if placed {
                        said += &line;
                    }
                }
            }
        }
        panic!("it never comes to rest:\n{said}");
    }

    /// Gives names to instances that have none; a line for each.
    fn name_new_instances(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for instance in self.world.instances.values() {
            let id = instance.id.to_string();
            if self.names.contains_key(&id) {
                continue;
            }
            let component = &instance.component;
            let name = if self.dotted {
                let prefix = format!("{component}.");
                let count = self.names.values().filter(|n| n.starts_with(&prefix)).count() + 1;
                format!("{prefix}{count}")
            } else {
                let count = self.names.values().filter(|n| n.starts_with('i')).count() + 1;
                format!("i{count} ({component})")
            };
            lines.push(format!("start {name} on {}\n", self.node_name(instance.node)));
            self.names.insert(id, name);
        }
        lines
    }

    pub fn node_name(&self, id: NodeId) -> String {
        self.world.nodes.get(&id).map_or_else(|| "?".into(), |n| n.name.to_string())
    }

    pub fn node_id(&self, name: &str) -> NodeId {
        let found = self.world.nodes.values().find(|n| n.name.as_str() == name);
        found.unwrap_or_else(|| panic!("there is no node {name}")).id
    }

    pub fn name_of(&self, id: InstanceId) -> String {
        self.name(&id.to_string())
    }

    /// From here on the story is of an app in another environment of the same project.
    pub fn another_environment(&mut self) {
        let (at, random) = self.parts();
        let mut app = (*self.world.apps[&self.app]).clone();
        let id = EnvironmentId::from_parts(at, random);
        self.world.apply(Change::Environment(Box::new(Environment {
            id,
            org: app.org,
            project: app.project,
            name: "staging".parse().unwrap(),
            created: self.now,
        })));
        app.id = AppId::from_parts(at, random);
        app.environment = id;
        app.name = "other".parse().unwrap();
        app.live = None;
        self.app = app.id;
        self.names.insert(app.id.to_string(), "other".into());
        self.world.apply(Change::App(Box::new(app)));
    }

    /// An instance by the name that it has in the story.
    pub fn named(&self, name: &str) -> InstanceId {
        let id = self.names.iter().find(|(_, n)| *n == name).map(|(id, _)| id);
        id.unwrap_or_else(|| panic!("there is no {name}")).parse().unwrap()
    }

    pub fn told(&self, said: &str) -> String {
        let mut said = said.to_owned();
        for (id, name) in &self.names {
            said = said.replace(id, name);
        }
        said
    }

    fn name(&self, id: &str) -> String {
        self.names.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }

    fn tell(&self, action: &Action) -> String {
        let n = |id: &dyn std::fmt::Display| self.name(&id.to_string());
        match action {
            Action::Supersede { deployment, by } => {
                format!("supersede {} by {}", n(deployment), n(by))
            }
            Action::StartBuild { deployment, node } => {
                format!("build {} on {}", n(deployment), n(node))
            }
            Action::RetryBuild { deployment, attempt, .. } => {
                format!("build {} again, attempt {attempt}", n(deployment))
            }
            Action::CutRelease { deployment, .. } => format!("cut a release for {}", n(deployment)),
            Action::UseRelease { deployment, .. } => format!("use a release for {}", n(deployment)),
            Action::Place { deployment, component, nodes, .. } => {
                let on: Vec<String> = nodes.iter().map(|node| n(node)).collect();
                format!("place {component} of {} on {}", n(deployment), on.join(", "))
            }
            Action::Shift { deployment, drain, .. } => {
                let out: Vec<String> = drain.iter().map(|i| n(i)).collect();
                format!("shift to {}, drain {out:?}", n(deployment))
            }
            Action::GoLive { deployment, warnings } => {
                format!("{} is live {warnings:?}", n(deployment))
            }
            Action::Fail { deployment, cause } => {
                format!("{} failed: {}: {}", n(deployment), cause.code.as_str(), cause.message)
            }
            Action::Drain { instance, why } => format!("drain {}: {why}", n(instance)),
            Action::Stop { instance, why } => format!("stop {}: {why}", n(instance)),
            Action::Forget { instance } => format!("forget {}", n(instance)),
            Action::Lose { node } => format!("give up {}", n(node)),
            Action::Welcome { node } => format!("welcome {}", n(node)),
            Action::StartRun { run, node } => format!("start {} on {}", n(run), n(node)),
            Action::EndRun { run, exit } => format!("{} ended: {exit}", n(run)),
        }
    }
}
