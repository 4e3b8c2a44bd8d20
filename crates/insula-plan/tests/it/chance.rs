//! A fleet that fares badly at random, from a seed: nodes go silent, come back, are drained and
//! removed, releases fail, scales change. What must hold in every moment is said in sentences.
//!
//! What runs in truth is kept beside the world, as agents would: they obey the Target that they
//! were given last, and go on with it while nobody hears them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_model::instance::{Instance, Intent};
use insula_model::node::Duty;
use insula_model::observed::{InstancePhase, Observed};
use insula_model::spec::{AppSpec, ComponentKind, ComponentSpec, Failover, RolloutSpec};
use insula_model::target::InstanceIntent;
use insula_model::{Bytes, ComponentName, DeploymentId, InstanceId, Millis, NodeId, Timestamp};
use insula_model::{feed::Change, limits};
use insula_plan::rollout::wanted;
use insula_plan::{Action, Presence, World};

use crate::scene::{Scene, component, spec};

/// Enough to meet every rule often; more with `INSULA_SEEDS=1000`.
const SEEDS: u64 = 12;
/// Seconds of trouble, then seconds in which everything has to come to rest.
const TROUBLE: u64 = 200;
const REST: u64 = 240;
const GRACE: Millis = Millis::secs(5);

/// splitmix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What an agent does in truth.
#[derive(Default)]
struct Agent {
    cut: bool,
    silent: u64,
    /// When it was told last that the server heard it.
    acked: Timestamp,
    runs: BTreeMap<InstanceId, Running>,
}

struct Running {
    component: ComponentName,
    leased: bool,
    /// When it will be ready, or gone.
    ready: Timestamp,
    ends: Option<Timestamp>,
    fails: bool,
}

struct Fleet {
    scene: Scene,
    dice: Dice,
    agents: BTreeMap<NodeId, Agent>,
    /// Whether new releases cannot become ready.
    bad: BTreeSet<DeploymentId>,
    nodes_made: u64,
}

fn app_of(dice: &mut Dice) -> AppSpec {
    let roll = |dice: &mut Dice| match dice.below(4) {
        0 => RolloutSpec::BlueGreen,
        1 => RolloutSpec::Rolling { surge: 1, unavailable: 0 },
        2 => RolloutSpec::Rolling { surge: 0, unavailable: 1 },
        _ => RolloutSpec::Rolling { surge: 2, unavailable: 1 },
    };
    let part = |kind, n| {
        let mut part: ComponentSpec = component(kind, n);
        part.stop.grace = GRACE;
        part.drain = Millis::secs(3);
        part
    };
    let web = ComponentSpec { rollout: roll(dice), ..part(ComponentKind::Service, 3) };
    let api = ComponentSpec { rollout: roll(dice), ..part(ComponentKind::Worker, 2) };
    let clock = ComponentSpec { single: true, ..part(ComponentKind::Worker, 1) };
    let beat = ComponentSpec { failover: Failover::Lease, ..clock.clone() };
    spec(&[("web", web), ("api", api), ("clock", clock), ("beat", beat)])
}

impl Fleet {
    fn new(seed: u64) -> Self {
        let mut fleet = Self {
            scene: Scene::bare(),
            dice: Dice(seed),
            agents: BTreeMap::new(),
            bad: BTreeSet::new(),
            nodes_made: 0,
        };
        fleet.scene.dotted = true;
        fleet.scene.watch = Some(hold_true);
        for _ in 0..3 + fleet.dice.below(3) {
            fleet.join();
        }
        let spec = app_of(&mut fleet.dice);
        fleet.scene.deploy(spec);
        fleet
    }

    fn join(&mut self) {
        self.nodes_made += 1;
        let id = self.scene.node(&format!("n{}", self.nodes_made), Bytes::gib(4));
        self.agents.insert(id, Agent { acked: self.scene.now, ..Agent::default() });
    }

    fn some_node(&mut self) -> NodeId {
        let nth = self.dice.below(self.agents.len() as u64) as usize;
        *self.agents.keys().nth(nth).expect("there is always a node")
    }

    fn trouble(&mut self) {
        match self.dice.below(60) {
            0..5 => {
                let id = self.some_node();
                let agent = self.agents.get_mut(&id).unwrap();
                agent.cut = !agent.cut;
            }
            5 => self.agents.values_mut().for_each(|agent| agent.cut = true),
            6 => self.agents.values_mut().for_each(|agent| agent.cut = false),
            9..11 => {
                let spec = app_of(&mut self.dice);
                let id = self.scene.deploy(spec);
                if self.dice.one_in(3) {
                    self.bad.insert(id);
                }
            }
            11..13 => {
                let n = self.dice.below(5) as u32;
                self.scene.app_mut().scale.insert("web".parse().unwrap(), n);
            }
            13..15 => {
                let id = self.some_node();
                let since = self.scene.now;
                let duty = match self.dice.below(3) {
                    0 => Duty::Cordon { since },
                    1 => Duty::Drain { since },
                    _ => Duty::Serve,
                };
                Arc::make_mut(self.scene.world.nodes.get_mut(&id).unwrap()).duty = duty;
            }
            15 if self.dice.one_in(3) => {
                let id = self.some_node();
                self.agents.remove(&id);
                self.scene.world.apply(Change::NodeGone(id));
                self.join();
            }
            _ => {}
        }
    }

    /// A second passes: nodes are heard or not, agents do what they were told last.
    fn second(&mut self) {
        self.scene.later(Millis::secs(1));
        let now = self.scene.now;
        let ids: Vec<NodeId> = self.agents.keys().copied().collect();
        for id in ids {
            let agent = self.agents.get_mut(&id).unwrap();
            if agent.cut {
                agent.silent += 1;
                let span = Millis::secs(agent.silent);
                self.scene.world.heard.insert(id, Presence::Silent { span });
            } else {
                if agent.silent > 0 {
                    let row = self.scene.world.nodes.get_mut(&id).unwrap();
                    Arc::make_mut(row).hello = now;
                }
                (agent.silent, agent.acked) = (0, now);
                self.obey(id);
                self.report(id);
                self.scene.world.heard.insert(id, Presence::Here);
            }
            self.keep_leases(id);
            let agent = self.agents.get_mut(&id).unwrap();
            agent.runs.retain(|_, run| run.ends.is_none_or(|at| now < at));
        }
        if !self.dice.one_in(3) {
            self.scene.gateway_follows();
        }
        self.scene.settle();
        self.no_single_runs_twice();
    }

    fn obey(&mut self, id: NodeId) {
        let now = self.scene.now;
        let target = insula_plan::target::node(&self.scene.world, id);
        let agent = self.agents.get_mut(&id).unwrap();
        for one in &target.instances {
            let wanted = one.intent == InstanceIntent::Run;
            match agent.runs.get_mut(&one.id) {
                Some(run) if !wanted && run.ends.is_none() => {
                    run.ends = Some(now.plus(Millis(self.dice.below(GRACE.0))));
                }
                None if wanted => {
                    let running = Running {
                        component: one.component.clone(),
                        leased: one.failover == Failover::Lease,
                        ready: now.plus(Millis::secs(self.dice.below(4))),
                        ends: None,
                        fails: self.bad.contains(&one.deployment),
                    };
                    agent.runs.insert(one.id, running);
                }
                Some(_) | None => {}
            }
        }
        let named: BTreeSet<InstanceId> = target.instances.iter().map(|i| i.id).collect();
        agent.runs.retain(|id, _| named.contains(id));
    }

    fn report(&mut self, id: NodeId) {
        let now = self.scene.now;
        let rows: Vec<Instance> = self.scene.world.instances.of_node(id).cloned().collect();
        for row in rows {
            let phase = row.observed.present().map(|r| r.phase.clone());
            // Agents tell only what changed.
            match self.agents[&id].runs.get(&row.id) {
                Some(run) if run.fails && now >= run.ready => {
                    if row.observed.present().is_none_or(|r| r.exits_before_ready < 2) {
                        self.scene.exit_early(row.id, 1);
                    }
                }
                Some(run) if now >= run.ready && phase != Some(InstancePhase::Ready) => {
                    self.scene.ready(row.id);
                }
                Some(run) if now < run.ready && phase.is_none() => {
                    self.scene.report(row.id, |r| r.phase = InstancePhase::Starting);
                }
                Some(_) => {}
                None if matches!(row.observed, Observed::Absent { .. }) => {}
                None => {
                    let observed = Observed::Absent { seen: now };
                    self.scene.world.instances.update(&row.id, |r| r.observed = observed);
                }
            }
        }
    }

    fn keep_leases(&mut self, id: NodeId) {
        let now = self.scene.now;
        let agent = self.agents.get_mut(&id).unwrap();
        let over = agent.acked.plus(limits::FAILOVER_LEASE);
        for run in agent.runs.values_mut().filter(|r| r.leased && r.ends.is_none()) {
            if now >= over {
                run.ends = Some(over.plus(Millis(self.dice.below(GRACE.0))));
            }
        }
    }

    /// Of the nodes that were not removed: for those, the operator said that they are gone.
    fn no_single_runs_twice(&self) {
        for name in ["clock", "beat"] {
            let runs = self.agents.values().flat_map(|agent| agent.runs.values());
            let there = runs.filter(|run| run.component.as_str() == name).count();
            assert!(there <= 1, "a single component never runs twice: {there} of {name}");
        }
    }

    fn comes_to_rest(&mut self) {
        let now = self.scene.now;
        for (id, agent) in &mut self.agents {
            agent.cut = false;
            let row = self.scene.world.nodes.get_mut(id).unwrap();
            Arc::make_mut(row).duty = Duty::Serve;
        }
        self.bad.clear();
        self.agents.values_mut().flat_map(|a| a.runs.values_mut()).for_each(|r| r.fails = false);
        let id = self.scene.deploy(app_of(&mut self.dice));
        for _ in 0..REST {
            self.second();
        }
        self.scene.gateway_follows();
        let waits = self.scene.settle();
        assert_eq!(waits, "", "everything comes to rest, since {now}");
        let app = self.scene.world.apps[&self.scene.app].clone();
        assert_eq!(app.live.as_ref().map(|live| live.deployment), Some(id), "the newest is live");
        let release = self.scene.world.releases[&app.live.as_ref().unwrap().release].clone();
        for (name, spec) in &release.spec.components {
            let there = self.scene.instances().into_iter().filter(|i| i.component == *name);
            assert_eq!(
                there.count(),
                wanted(&app, name, spec) as usize,
                "as many as asked: {name}"
            );
        }
        let calm = self.scene.instances();
        self.second();
        assert_eq!(calm, self.scene.instances(), "what has come to rest stays so");
    }
}

/// What must hold of every single step.
fn hold_true(before: &World, action: &Action, after: &World) {
    match action {
        Action::Place { app, deployment, component, .. } => {
            let asked = ceiling(after, *deployment, component);
            let app = &after.apps[app];
            let there = after
                .instances_of(app.id)
                .filter(|i| i.component == *component && counts(after, i, *deployment));
            let there = there.count();
            let rows = || after.instances_of(app.id).filter(|i| i.component == *component);
            assert!(
                there <= asked,
                "never more than asked and the surge: {there} of {asked}, for {deployment}: {:?}",
                rows().map(|i| told(after, i)).collect::<Vec<_>>(),
            );
        }
        Action::Drain { instance, why } => {
            let row = before.instances.get(instance).expect("it is there");
            assert!(row.intent == Intent::Run, "nothing is drained twice");
            assert!(before.is_here(row.node), "nothing is drained while its node is silent");
            if *why == "replaced" || *why == "more of them than are asked for" {
                enough_are_left(before, row, after);
            }
        }
        Action::Stop { instance, why } => {
            let row = before.instances.get(instance).expect("it is there");
            let fenced = why.contains("lease");
            let healthy = row.intent == Intent::Run && !fenced;
            let here = before.is_here(row.node);
            assert!(!healthy || here, "nothing is stopped while its node is silent: {why}");
        }
        Action::Shift { drain, .. } => {
            let silent = |id| !before.is_here(before.instances.get(id).unwrap().node);
            assert!(!drain.iter().any(silent), "nothing is drained while its node is silent");
        }
        Action::Supersede { .. }
        | Action::StartBuild { .. }
        | Action::RetryBuild { .. }
        | Action::CutRelease { .. }
        | Action::UseRelease { .. }
        | Action::GoLive { .. }
        | Action::Fail { .. }
        | Action::Forget { .. }
        | Action::Lose { .. }
        | Action::Welcome { .. }
        | Action::StartRun { .. }
        | Action::EndRun { .. } => {}
    }
}

fn told(world: &World, i: &Instance) -> String {
    let lost = world.nodes.get(&i.node).is_none_or(|node| node.lost.is_some());
    let state = world.deployments[&i.deployment].state.as_str();
    let (intent, rollout) = (i.intent, spec_of(world, i).rollout);
    format!("{} of {} ({state}, {rollout:?}) lost {lost} {intent:?}", i.component, i.deployment)
}

fn spec_of<'a>(world: &'a World, instance: &Instance) -> &'a ComponentSpec {
    &world.releases[&instance.release].spec.components[&instance.component]
}

fn pace(spec: &ComponentSpec) -> (usize, usize) {
    match spec.rollout {
        RolloutSpec::BlueGreen => (1, 0),
        RolloutSpec::Rolling { surge, unavailable } => (surge as usize, unavailable as usize),
    }
}

/// As many as may be there: asked for, and the surge of those that are exchanged.
fn ceiling(world: &World, deployment: DeploymentId, component: &ComponentName) -> usize {
    let row = &world.deployments[&deployment];
    let app = &world.apps[&row.app];
    let spec = &world.releases[&row.release.unwrap()].spec.components[component];
    let paces = world.instances_of(app.id).filter(|i| i.component == *component);
    let surge = paces.map(|i| pace(spec_of(world, i)).0).max().unwrap_or(0);
    let one = if spec.single { 0 } else { surge };
    wanted(app, component, spec) as usize + one
}

/// Whether an instance counts beside those of a deployment. One that rolls counts what leaves, too,
/// until it is gone, and what is left of others that rolled; nobody counts what another one has
/// started to take over in one moment.
fn counts(world: &World, i: &Instance, goal: DeploymentId) -> bool {
    let lost = world.nodes.get(&i.node).is_none_or(|node| node.lost.is_some());
    let rolls = |spec: &ComponentSpec| match spec.rollout {
        RolloutSpec::Rolling { .. } => true,
        RolloutSpec::BlueGreen => false,
    };
    let release = &world.releases[&world.deployments[&goal].release.unwrap()];
    let goal_rolls = rolls(&release.spec.components[&i.component]);
    let under_way = !world.deployments[&i.deployment].state.is_final();
    let beside = goal_rolls && !under_way && rolls(spec_of(world, i));
    !lost && (i.deployment == goal || beside) && (goal_rolls || i.intent == Intent::Run)
}

/// A ready one leaves only if enough others are ready.
fn enough_are_left(before: &World, row: &Instance, after: &World) {
    let ready = |world: &World, i: &Instance| {
        let phase = i.observed.present().is_some_and(|r| r.phase == InstancePhase::Ready);
        i.intent == Intent::Run && phase && world.is_here(i.node)
    };
    if !ready(before, row) || spec_of(before, row).single {
        return;
    }
    let of = |i: &&Instance| i.component == row.component && ready(after, i);
    let left = after.instances_of(row.app).filter(of).count();
    let app = &after.apps[&row.app];
    let least = specs(after, row)
        .map(|spec| (wanted(app, &row.component, spec) as usize).saturating_sub(pace(spec).1))
        .min()
        .unwrap_or(0);
    assert!(left >= least, "a ready one leaves only if enough are ready: {left} of {least}");
}

/// Every spec of the component by which it may be exchanged now: of what is there, and of what a
/// deployment is bringing.
fn specs<'a>(world: &'a World, row: &Instance) -> impl Iterator<Item = &'a ComponentSpec> {
    let there = world.instances_of(row.app).map(|i| i.release);
    let coming = world.pending(row.app).filter_map(|d| d.release);
    let component = row.component.clone();
    let releases: BTreeSet<_> = there.chain(coming).collect();
    releases.into_iter().map(move |id| &world.releases[&id].spec.components[&component])
}

#[test]
fn whatever_happens_the_rules_hold_and_it_comes_to_rest() {
    let asked = std::env::var("INSULA_SEEDS").ok().and_then(|n| n.parse().ok());
    for seed in 0..asked.unwrap_or(SEEDS) {
        let told = std::panic::catch_unwind(|| {
            let mut fleet = Fleet::new(seed);
            for _ in 0..TROUBLE {
                fleet.trouble();
                fleet.second();
            }
            fleet.comes_to_rest();
        });
        if let Err(cause) = told {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause);
        }
    }
}
