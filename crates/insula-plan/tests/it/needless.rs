//! What the world lets go of: exactly what nothing names any more, whatever the order of events.

use std::collections::BTreeSet;

use insula_model::app::{App, Live};
use insula_model::build::{Artifact, Build, BuildPlan, BuildState, Turn};
use insula_model::deployment::{Cause, CauseCode, Deployment, DeploymentState, Source};
use insula_model::feed::Change;
use insula_model::instance::{Instance, Intent, Run, RunState};
use insula_model::observed::{Exit, Observed};
use insula_model::release::{Release, ReleaseNumber};
use insula_model::spec::{AppSpec, ComponentKind};
use insula_model::tenancy::Actor;
use insula_model::*;
use insula_plan::World;

use crate::placement::Dice;

const SEEDS: u64 = 60;
const STEPS: usize = 300;
const AT: Timestamp = Timestamp::from_millis(0);

fn id(n: u64) -> u128 {
    (1 << 80) | u128::from(n)
}

/// A history that a store could tell: what names a row comes after it.
struct History {
    dice: Dice,
    made: u64,
    /// Everything that there ever was, as it was told last.
    whole: World,
    /// Told in this step.
    told: Vec<Change>,
}

impl History {
    fn tell(&mut self, change: Change) {
        self.whole.apply(change.clone());
        self.told.push(change);
    }

    fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    fn some<T: Copy>(&mut self, all: Vec<T>) -> Option<T> {
        let n = all.len() as u64;
        (n > 0).then(|| all[self.dice.below(n) as usize])
    }

    fn any_app(&mut self) -> Option<AppId> {
        self.some(self.whole.apps.keys().copied().collect())
    }

    /// One of an app that still exists, told again as the store does when somebody names it.
    fn any_release(&mut self, app: AppId) -> Option<ReleaseId> {
        let of = self.whole.releases.values().filter(|row| row.app == app).map(|row| row.id);
        let found = self.some(of.collect())?;
        let row = self.whole.releases[&found].clone();
        self.tell(Change::Release(Box::new((*row).clone())));
        Some(found)
    }

    /// One that may have instances: it has not ended, or the app lives by it.
    fn any_deployment(&mut self, app: AppId) -> Option<Deployment> {
        let live = self.whole.apps[&app].live.as_ref().map(|live| live.deployment);
        let pending = self.whole.pending(app).map(|row| row.id);
        let found = self.some(pending.chain(live).collect())?;
        Some((*self.whole.deployments[&found]).clone())
    }

    fn step(&mut self) -> Option<()> {
        let n = self.next();
        let org = OrgId::from_u128(id(1));
        match self.dice.below(13) {
            0 => self.tell(Change::App(Box::new(App {
                id: AppId::from_u128(id(n)),
                org,
                project: ProjectId::from_u128(id(1)),
                environment: EnvironmentId::from_u128(id(1)),
                name: "shop".parse().unwrap(),
                created: AT,
                running: true,
                scale: Default::default(),
                live: None,
            }))),
            1 if self.dice.one_in(3) => {
                let app = self.any_app()?;
                self.tell(Change::AppGone(app));
            }
            1 | 2 => {
                let app = self.any_app()?;
                let source = match self.any_release(app) {
                    Some(release) if self.dice.one_in(2) => Source::Release { release },
                    _ => Source::Folder {
                        manifest: Digest::from_sha256([1; 32]),
                        size: Bytes(1),
                        spec: Box::new(AppSpec { app: None, components: Default::default() }),
                        plan: BuildPlan::default(),
                    },
                };
                let build = self.dice.one_in(2).then(|| BuildId::from_u128(id(n)));
                let previous = self.any_release(app);
                let deployment = DeploymentId::from_u128(id(n));
                self.tell(Change::Deployment(Box::new(Deployment {
                    id: deployment,
                    org,
                    app,
                    source,
                    state: DeploymentState::Building,
                    build,
                    release: None,
                    previous,
                    actor: Actor::Operator,
                    trace: String::new(),
                    created: AT,
                    updated: AT,
                    phases: vec![],
                    warnings: vec![],
                })));
                let build = build?;
                self.tell(Change::Build(Box::new(Build {
                    id: build,
                    org,
                    app,
                    deployment,
                    source: Digest::from_sha256([1; 32]),
                    plan: BuildPlan::default(),
                    state: BuildState::Queued,
                    turn: Turn::Unknown,
                    created: AT,
                    updated: AT,
                })));
            }
            3 | 4 => {
                let app = self.any_app()?;
                let under_way = self.whole.pending(app).map(|row| row.id).collect();
                let deployment = self.some(under_way)?;
                let release = ReleaseId::from_u128(id(n));
                self.tell(Change::Release(Box::new(Release {
                    id: release,
                    org,
                    app,
                    number: ReleaseNumber(1),
                    deployment,
                    artifact: Artifact {
                        source: Digest::from_sha256([1; 32]),
                        built: None,
                        size: Bytes(1),
                    },
                    spec: AppSpec { app: None, components: Default::default() },
                    variables: Default::default(),
                    secrets: Default::default(),
                    actor: Actor::Operator,
                    created: AT,
                })));
                let row = (*self.whole.deployments[&deployment]).clone();
                let state = DeploymentState::Starting;
                let row = Deployment { release: Some(release), state, ..row };
                self.tell(Change::Deployment(Box::new(row)));
            }
            5 | 6 => {
                let app = self.any_app()?;
                let row = self.any_deployment(app)?;
                let release = row.release?;
                self.tell(Change::Instance(Box::new(Instance {
                    id: InstanceId::from_u128(id(n)),
                    org,
                    project: ProjectId::from_u128(id(1)),
                    environment: EnvironmentId::from_u128(id(1)),
                    app,
                    component: "web".parse().unwrap(),
                    kind: ComponentKind::Service,
                    release,
                    deployment: row.id,
                    run: None,
                    node: NodeId::from_u128(id(1)),
                    cpu: MilliCpu(1),
                    memory: Bytes(1),
                    pids: 1,
                    disk: Bytes(1),
                    intent: Intent::Run,
                    created: AT,
                    observed: Observed::Unknown,
                })));
            }
            7 | 8 => {
                let gone = self.some(self.whole.instances.values().map(|row| row.id).collect())?;
                self.tell(Change::InstanceGone(gone));
            }
            9 => {
                let app = self.any_app()?;
                let under_way = self.whole.pending(app).map(|row| row.id).collect();
                let deployment = self.some(under_way)?;
                let row = (*self.whole.deployments[&deployment]).clone();
                let cause = Box::new(Cause::new(CauseCode::Exited, "it ended"));
                let state = DeploymentState::Failed { cause };
                self.tell(Change::Deployment(Box::new(Deployment { state, ..row })));
            }
            10 => {
                let app = self.any_app()?;
                let under_way = self.whole.pending(app).map(|row| row.id).collect();
                let deployment = self.some(under_way)?;
                let row = (*self.whole.deployments[&deployment]).clone();
                let release = row.release?;
                let state = DeploymentState::Live;
                self.tell(Change::Deployment(Box::new(Deployment { state, ..row })));
                let live = Some(Live { release, deployment, since: AT });
                let app = (*self.whole.apps[&app]).clone();
                self.tell(Change::App(Box::new(App { live, ..app })));
            }
            11 => {
                let app = self.any_app()?;
                let release = self.any_release(app)?;
                self.tell(Change::Run(Box::new(Run {
                    id: RunId::from_u128(id(n)),
                    org,
                    app,
                    component: "web".parse().unwrap(),
                    release,
                    command: None,
                    state: RunState::Queued,
                    instance: None,
                    created: AT,
                    ended: None,
                })));
            }
            _ => {
                let run = self.some(self.whole.runs.keys().copied().collect())?;
                let row = (*self.whole.runs[&run]).clone();
                let state = RunState::Ended { exit: Exit::Lost };
                self.tell(Change::Run(Box::new(Run { state, ..row })));
            }
        }
        Some(())
    }
}

/// What something still names, found by looking at everything.
fn needed(world: &World) -> (BTreeSet<DeploymentId>, BTreeSet<BuildId>, BTreeSet<ReleaseId>) {
    let held: BTreeSet<DeploymentId> = world.instances.values().map(|i| i.deployment).collect();
    let lives = || world.apps.values().filter_map(|app| app.live.as_ref());
    let live: BTreeSet<DeploymentId> = lives().map(|live| live.deployment).collect();
    let deployments: BTreeSet<DeploymentId> = world
        .deployments
        .values()
        .filter(|row| world.apps.contains_key(&row.app))
        .map(|row| (row.id, row.state.is_final()))
        .filter(|(id, over)| !over || live.contains(id) || held.contains(id))
        .map(|(id, _)| id)
        .collect();
    let builds = world.builds.values().filter(|row| deployments.contains(&row.deployment));
    let runs = world.runs.values().filter(|run| !run.state.is_final());
    let mut named: BTreeSet<ReleaseId> = runs.map(|run| run.release).collect();
    named.extend(lives().map(|live| live.release));
    named.extend(world.instances.values().map(|i| i.release));
    for row in deployments.iter().map(|id| &world.deployments[id]) {
        named.extend(row.release);
        named.extend(row.previous);
        named.extend(insula_plan::rollout::source_release(row));
    }
    named.retain(|id| world.releases.contains_key(id));
    (deployments.clone(), builds.map(|row| row.id).collect(), named)
}

#[test]
fn what_nothing_names_is_let_go_and_nothing_else() {
    let mut most = 0;
    for seed in 0..SEEDS {
        let suffix: HostName = "localhost".parse().unwrap();
        let whole = World::new(suffix.clone());
        let mut history = History { dice: Dice(seed), made: 0, whole, told: Vec::new() };
        let mut world = World::new(suffix);
        for step in 0..STEPS {
            history.step();
            history.told.drain(..).for_each(|change| world.apply(change));
            if history.dice.one_in(3) {
                world.prune();
                let (deployments, builds, releases) = needed(&history.whole);
                let at = format!("seed {seed}, step {step}");
                assert!(world.deployments.keys().eq(&deployments), "deployments, {at}");
                assert!(world.builds.keys().eq(&builds), "builds, {at}");
                assert!(world.releases.keys().eq(&releases), "releases, {at}");
                assert!(world.runs.values().all(|run| !run.state.is_final()), "runs, {at}");
                most = most.max(releases.len());
            }
        }
    }
    assert!(most > 10, "the histories are too short to mean anything: {most}");
}
