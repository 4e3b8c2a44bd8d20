//! What people do: the operator with her nodes, developers with their apps. Each of it is a commit
//! of the API's, acknowledged once it is done; what was acknowledged is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_model::app::{App, Environment, Project};
use insula_model::build::{BuildPlan, BuildStep};
use insula_model::deployment::{Deployment, DeploymentState, Phase, PhaseMark, Source};
use insula_model::feed::Change;
use insula_model::fleet::Gateway as GatewayRow;
use insula_model::node::{Capacity, Duty, Node, NodeMode, Offer, RuntimeFound, Site};
use insula_model::spec::{
    AppSpec, ComponentKind, ComponentSpec, Failover, Isolation, RolloutSpec, Runtime,
};
use insula_model::tenancy::{Actor, Org, Quota};
use insula_model::{
    AppId, Bytes, ComponentName, DeploymentId, EnvironmentId, GatewayId, MilliCpu, Millis, NodeId,
    OrgId, ProjectId, ReleaseId, Timestamp,
};

use crate::behaviour::Behaviour;
use crate::gateway::Gateway;
use crate::machine::Machine;
use crate::server::{Server, WALL_BEGINS_MS};
use crate::sim::{Event, Sim};

/// What was acknowledged, as the store must have it.
#[derive(Debug, Default)]
pub struct Known {
    pub apps: BTreeMap<AppId, Wanted>,
    pub duties: BTreeMap<NodeId, Duty>,
    pub deployments: BTreeSet<DeploymentId>,
    /// Whether the code that a deployment brings can become ready; of rollbacks by their release.
    pub good: BTreeMap<DeploymentId, bool>,
}

#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub running: bool,
    pub scale: BTreeMap<ComponentName, u32>,
}

impl Sim {
    /// The fleet as it begins.
    pub fn build(&mut self) {
        let begins = Timestamp::from_millis(WALL_BEGINS_MS - 1_000);
        let org = OrgId::from_parts(begins, self.chance.bytes());
        let project = ProjectId::from_parts(begins, self.chance.bytes());
        let environment = EnvironmentId::from_parts(begins, self.chance.bytes());
        let quota = Quota { instances: 1_000, memory: Bytes::gib(1_000), ..Quota::default() };
        let name = |text: &str| text.to_owned();
        self.store.commit(vec![
            Change::Org(Box::new(Org { id: org, name: parsed("acme"), quota, created: begins })),
            Change::Project(Box::new(Project {
                id: project,
                org,
                name: parsed("shop"),
                created: begins,
            })),
            Change::Environment(Box::new(Environment {
                id: environment,
                org,
                project,
                name: parsed("production"),
                created: begins,
            })),
        ]);
        for n in 0..self.setup.apps {
            let app = App {
                id: AppId::from_parts(begins, self.chance.bytes()),
                org,
                project,
                environment,
                name: parsed(&name(["one", "two", "three"][n % 3])),
                created: begins,
                running: true,
                scale: BTreeMap::new(),
                live: None,
            };
            self.known.apps.insert(app.id, Wanted { running: true, scale: BTreeMap::new() });
            self.store.commit(vec![Change::App(Box::new(app))]);
        }
        for _ in 0..self.setup.gateways {
            let id = GatewayId::from_parts(begins, self.chance.bytes());
            let row = GatewayRow { id, version: "0.1.0".to_owned(), joined: begins, hello: begins };
            self.store.commit(vec![Change::Gateway(Box::new(row))]);
            self.gateways.push(Gateway::new(id));
        }
        for _ in 0..self.setup.servers {
            self.servers.push(Server::default());
            self.lives.push(0);
        }
        for n in 0..self.setup.nodes + usize::from(self.setup.moving) {
            let machine = self.new_machine(n);
            self.machines.push(machine);
        }
        (0..self.setup.servers).for_each(|s| self.start_server(s));
        (0..self.setup.gateways).for_each(|g| self.start_gateway(g));
        (0..self.setup.nodes).for_each(|n| self.start_machine(n));
        self.begin_rounds();
    }

    fn new_machine(&mut self, n: usize) -> Machine {
        let at = Timestamp::from_millis(WALL_BEGINS_MS - 500);
        let memory = if self.setup.tight { Bytes::mib(900) } else { Bytes::gib(64) };
        let runtime = |runtime| RuntimeFound { runtime, version: "1".into(), path: "/".into() };
        let offer = Offer {
            capacity: Capacity {
                cpu: MilliCpu(16_000),
                memory,
                instances: 200,
                ..Capacity::default()
            },
            mode: NodeMode::Full,
            runtimes: Runtime::ALL.into_iter().map(runtime).collect(),
            architecture: insula_model::node::Architecture::X86,
            isolation: BTreeSet::from([Isolation::Standard]),
        };
        let zone = ["north", "south"][n % 2];
        let site = Site { zone: Some(parsed(zone)), ..Site::default() };
        let id = NodeId::from_parts(at, self.chance.bytes());
        let mut machine = Machine::new(id, parsed(&format!("n{n}")), offer, site);
        machine.habit = self.setup.habit;
        machine
    }

    /// Through which server, or nothing: no server answers.
    fn api(&mut self) -> Option<Timestamp> {
        let s = self.chance.below(self.servers.len());
        let answers = self.servers[s].up
            && self.servers[s].paused_until <= self.now
            && self.store_answers(s)
            && !self.weather.full;
        answers.then(|| self.clocks(s).wall)
    }

    fn done(&mut self, changes: Vec<Change>, words: impl FnOnce() -> String) {
        self.store.commit(changes);
        self.counts.operations += 1;
        self.trace.fold(self.store.head().0);
        self.trace.tell(self.now, || format!("api: {}", words()));
        self.everybody_looks();
    }

    pub fn operate(&mut self) {
        if !self.round.is_rough() {
            return;
        }
        let pause = self.chance.between(1, self.setup.operation_every * 2);
        self.queue.push(self.now + pause, Event::Operator);
        let Some(wall) = self.api() else { return };
        let apps: Vec<AppId> = self.known.apps.keys().copied().collect();
        let Some(app) = self.chance.pick(&apps).copied() else { return };
        match self.chance.below(if self.setup.moving { 23 } else { 18 }) {
            0..=6 => self.deploy(app, wall),
            7..=9 => self.scale(app, wall),
            10 => self.set_running(app, wall),
            11 => self.restart(app, wall),
            12..=13 => self.roll_back(app, wall),
            14 => self.set_duty(Duty::Cordon { since: wall }),
            15 => self.set_duty(Duty::Drain { since: wall }),
            16 => self.cancel(app),
            17..=19 => self.set_duty(Duty::Serve),
            20..=21 => self.join(),
            _ => self.remove_node(),
        }
    }

    /// The apps differ, and each keeps its shape: one that is single stays so.
    fn spec(&mut self, app: AppId) -> AppSpec {
        let at = self.known.apps.keys().position(|id| *id == app).unwrap_or(0);
        let mut components = BTreeMap::new();
        let quick = |mut spec: ComponentSpec| {
            spec.run = (spec.kind != ComponentKind::Static).then(|| "serve".to_owned());
            spec.health.startup = Millis::secs(8);
            spec.drain = Millis::secs(2);
            spec.stop.grace = Millis::secs(3);
            spec.memory = Bytes::mib(64);
            spec
        };
        let mut web = quick(ComponentSpec::of_kind(ComponentKind::Service));
        web.instances = u32::try_from(self.chance.between(1, 4)).unwrap_or(1);
        web.rollout = match (at + usize::from(self.chance.percent(15))) % 3 {
            0 => RolloutSpec::BlueGreen,
            1 => RolloutSpec::Rolling { surge: 1, unavailable: 0 },
            _ => RolloutSpec::Rolling {
                surge: u32::try_from(self.chance.below(2)).unwrap_or(0),
                unavailable: u32::try_from(self.chance.below(2)).unwrap_or(0),
            },
        };
        components.insert(parsed("web"), web);
        if at != 1 {
            let mut clock = quick(ComponentSpec::of_kind(ComponentKind::Worker));
            clock.single = true;
            clock.failover = if at == 0 { Failover::Lease } else { Failover::Never };
            self.singles.insert((app, parsed("clock")));
            components.insert(parsed("clock"), clock);
        }
        if at == 1 {
            let mut work = quick(ComponentSpec::of_kind(ComponentKind::Worker));
            work.instances = 2;
            work.rollout = RolloutSpec::Rolling { surge: 1, unavailable: 1 };
            components.insert(parsed("work"), work);
        }
        AppSpec { app: None, components }
    }

    fn behaviour(&mut self) -> Behaviour {
        let ready_after = self.chance.between(50, 2_500);
        match self.chance.below(10) {
            0 => Behaviour::Crashes { after: ready_after / 4 },
            1 => Behaviour::Mute,
            2..=3 => Behaviour::Flaky { ready_after },
            _ => Behaviour::Good { ready_after },
        }
    }

    fn deploy(&mut self, app: AppId, wall: Timestamp) {
        let behaviour = self.behaviour();
        self.deploy_this(app, behaviour, wall);
    }

    pub fn deploy_this(&mut self, app: AppId, behaviour: Behaviour, wall: Timestamp) {
        let spec = self.spec(app);
        let unique = self.chance.draw();
        let steps = match self.chance.below(if self.round.is_rough() { 6 } else { 1 }) {
            0..=3 => Vec::new(),
            4 => vec![step("compile")],
            _ => vec![step(if self.chance.percent(20) { "break" } else { "compile" })],
        };
        let compiles = steps.iter().all(|step| step.name != "break");
        let source = Source::Folder {
            manifest: behaviour.source(unique),
            size: Bytes::mib(1),
            spec: Box::new(spec),
            plan: BuildPlan { steps, warnings: Vec::new() },
        };
        let good = behaviour.becomes_ready() && compiles;
        self.begin_deployment(app, source, good, wall, "deploy");
    }

    fn begin_deployment(
        &mut self,
        app: AppId,
        source: Source,
        good: bool,
        wall: Timestamp,
        verb: &'static str,
    ) {
        let Some(row) = self.store.rows.apps.get(&app).cloned() else { return };
        let id = DeploymentId::from_parts(wall, self.chance.bytes());
        let deployment = Deployment {
            id,
            org: row.org,
            app,
            source,
            state: DeploymentState::Queued,
            build: None,
            release: None,
            previous: None,
            actor: Actor::Operator,
            trace: String::new(),
            created: wall,
            updated: wall,
            phases: vec![PhaseMark { phase: Phase::Queue, started: wall, ended: None }],
            warnings: Vec::new(),
        };
        self.known.deployments.insert(id);
        self.known.good.insert(id, good);
        self.counts.deployments += 1;
        // The release that it begins with is told of together with it.
        let release = insula_plan::rollout::source_release(&deployment);
        let release = release.and_then(|id| self.store.rows.releases.get(&id));
        let release = release.map(|row| Change::Release(Box::new((**row).clone())));
        let mut changes = vec![Change::Deployment(Box::new(deployment))];
        changes.extend(release);
        self.done(changes, || {
            format!(
                "{verb} {}: {} ({})",
                row.name,
                crate::words::short(&id.to_string()),
                if good { "good" } else { "bad" }
            )
        });
    }

    fn row(&self, app: AppId) -> Option<App> {
        self.store.rows.apps.get(&app).map(|row| (**row).clone())
    }

    fn scale(&mut self, app: AppId, _: Timestamp) {
        let Some(mut row) = self.row(app) else { return };
        let to = u32::try_from(self.chance.between(0, 5)).unwrap_or(1);
        row.scale.insert(parsed("web"), to);
        if let Some(known) = self.known.apps.get_mut(&app) {
            known.scale.clone_from(&row.scale);
        }
        let name = row.name.clone();
        self.done(vec![Change::App(Box::new(row))], || format!("scale {name} web={to}"));
    }

    fn set_running(&mut self, app: AppId, _: Timestamp) {
        let Some(mut row) = self.row(app) else { return };
        row.running = !row.running || self.chance.percent(40);
        if let Some(known) = self.known.apps.get_mut(&app) {
            known.running = row.running;
        }
        let (name, running) = (row.name.clone(), row.running);
        self.done(vec![Change::App(Box::new(row))], || format!("{name} running: {running}"));
    }

    fn restart(&mut self, app: AppId, wall: Timestamp) {
        let Some(live) = self.row(app).and_then(|row| row.live) else { return };
        let good = self.is_good(live.release);
        let source = Source::Reconfigure { release: live.release };
        self.begin_deployment(app, source, good, wall, "restart");
    }

    fn roll_back(&mut self, app: AppId, wall: Timestamp) {
        let releases: Vec<ReleaseId> =
            self.store.rows.releases.values().filter(|r| r.app == app).map(|r| r.id).collect();
        let Some(release) = self.chance.pick(&releases).copied() else { return };
        let good = self.is_good(release);
        self.begin_deployment(app, Source::Release { release }, good, wall, "roll back");
    }

    pub fn is_good(&self, release: ReleaseId) -> bool {
        let release = self.store.rows.releases.get(&release);
        release.is_some_and(|row| Behaviour::of(&row.artifact).becomes_ready())
    }

    fn cancel(&mut self, app: AppId) {
        let Some(row) = self.store.rows.pending(app).last().cloned() else { return };
        if row.state == DeploymentState::Shifting {
            return;
        }
        let state = DeploymentState::Cancelled { by: Actor::Operator };
        let id = row.id;
        let row = Deployment { state, ..row };
        self.done(vec![Change::Deployment(Box::new(row))], || {
            format!("cancel {}", crate::words::short(&id.to_string()))
        });
    }

    fn set_duty(&mut self, duty: Duty) {
        let nodes: Vec<Arc<Node>> = self.store.rows.nodes.values().cloned().collect();
        let Some(row) = self.chance.pick(&nodes) else { return };
        // A fleet of which all is drained runs nothing, and shows nothing.
        let serving = nodes.iter().filter(|node| node.duty == Duty::Serve).count();
        if duty != Duty::Serve && serving < 2 {
            return;
        }
        let row = Node { duty, ..(**row).clone() };
        self.known.duties.insert(row.id, duty);
        let name = row.name.clone();
        self.done(vec![Change::Node(Box::new(row))], || format!("{name}: {duty:?}"));
    }

    fn join(&mut self) {
        let new = self.machines.iter().position(|machine| !machine.joined);
        let Some(n) = new else { return };
        self.counts.operations += 1;
        self.trace.tell(self.now, || format!("node {n} joins"));
        self.start_machine(n);
    }

    /// The operator says that a node is gone for ever, and it is.
    fn remove_node(&mut self) {
        let there = |n: &usize| self.store.rows.nodes.contains_key(&self.machines[*n].id);
        let nodes: Vec<usize> = (0..self.machines.len()).filter(there).collect();
        if nodes.len() < 3 {
            return;
        }
        let Some(n) = self.chance.pick(&nodes).copied() else { return };
        let id = self.machines[n].id;
        self.crash_machine(n);
        self.machines[n].removed = true;
        self.machines[n].held.clear();
        let on = self.store.rows.instances.of_node(id).map(|row| Change::InstanceGone(row.id));
        let mut changes: Vec<Change> = on.collect();
        changes.push(Change::NodeGone(id));
        self.store.removed.insert(id);
        self.known.duties.remove(&id);
        self.done(changes, || format!("node {n} is removed"));
    }
}

fn step(name: &str) -> BuildStep {
    BuildStep {
        name: name.to_owned(),
        runtime: Runtime::Host,
        argv: vec!["make".to_owned()],
        env: BTreeMap::new(),
        dir: String::new(),
    }
}

/// Names of ours, which are all valid.
pub fn parsed<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid name")
}
