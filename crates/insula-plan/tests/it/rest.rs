//! That planning comes to rest: after a plan was applied, and nothing else happened, the next one
//! has only what the first has made possible, and soon there is nothing.
//!
//! Whatever a world asks for stands in one plan of it. So what the next plan adds was not possible
//! before, and something that was just applied made it so: `allows` lists all that may. Nothing is
//! decided twice, and nothing is taken back.

use std::collections::BTreeSet;

use insula_model::build::{Build, BuildState};
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::{AppId, DeploymentId, InstanceId, NodeId, Timestamp};
use insula_plan::{Action, Plan, World};

use crate::follower;
use crate::script::Script;

/// Plans until nothing is left to do, at the most. Four are the most that were seen, in hundreds of
/// fleets that fare badly: more is a circle.
pub const PASSES_MAX: usize = 8;

/// The plans of one settling, as they are applied one after the other.
#[derive(Default)]
pub struct Passes {
    /// What was done to what, ever.
    done: BTreeSet<String>,
    /// Instances that there were before the first.
    there: Option<BTreeSet<InstanceId>>,
    /// Deployments that have failed meanwhile: what was placed for them ends at once.
    failed: BTreeSet<DeploymentId>,
    /// Deployments that have begun to start meanwhile.
    begun: BTreeSet<DeploymentId>,
    last: Vec<Action>,
    told: Vec<Vec<String>>,
}

impl Passes {
    /// Looks at what is about to be applied to a world.
    pub fn look(&mut self, world: &World, plan: &Plan) {
        let first = self.there.is_none();
        let there = || world.instances.values().map(|i| i.id).collect();
        self.there.get_or_insert_with(there);
        self.told.push(plan.actions.iter().map(ToString::to_string).collect());
        for action in &plan.actions {
            let followed = self.last.iter().any(|before| allows(world, before, action));
            assert!(first || followed, "{action}: follows from nothing\n{:#?}", self.told);
            let new = self.done.insert(subject(action));
            // Some have room now and others when somebody has left.
            let more = matches!(action, Action::Place { .. });
            assert!(new || more, "{action}: was decided before\n{:#?}", self.told);
            assert!(!self.takes_back(world, action), "{action}: a moment later\n{:#?}", self.told);
        }
        for action in &plan.actions {
            if let Action::Fail { deployment, .. } = action {
                self.failed.insert(*deployment);
            }
            if let Action::CutRelease { deployment, .. } | Action::UseRelease { deployment, .. } =
                action
            {
                self.begun.insert(*deployment);
            }
        }
        self.last.clone_from(&plan.actions);
    }

    /// Whether it ends what was placed in this very settling.
    fn takes_back(&self, world: &World, action: &Action) -> bool {
        let (Action::Drain { instance, .. } | Action::Stop { instance, .. }) = action else {
            return false;
        };
        let row = world.instances.get(instance).expect("it is there");
        let there = self.there.as_ref().is_some_and(|there| there.contains(instance));
        let of = |d: &DeploymentId| world.deployments.get(d).map(|d| d.app) == Some(row.app);
        // What was missing of the live release came in the very plan in which the next one began.
        let overtaken = self.begun.iter().any(|d| *d != row.deployment && of(d));
        !there && !self.failed.contains(&row.deployment) && !overtaken
    }

    pub fn count(&self) -> usize {
        self.told.len()
    }
}

/// What can be done to something once. A deployment has one verdict.
fn subject(action: &Action) -> String {
    match action {
        Action::Supersede { deployment, .. }
        | Action::GoLive { deployment, .. }
        | Action::Fail { deployment, .. } => format!("verdict {deployment}"),
        Action::StartBuild { deployment, .. } | Action::RetryBuild { deployment, .. } => {
            format!("build {deployment}")
        }
        Action::CutRelease { deployment, .. } | Action::UseRelease { deployment, .. } => {
            format!("release {deployment}")
        }
        Action::Place { deployment, component, .. } => format!("place {component} of {deployment}"),
        Action::Shift { deployment, .. } => format!("shift {deployment}"),
        Action::Drain { instance, .. } => format!("drain {instance}"),
        Action::Stop { instance, .. } => format!("stop {instance}"),
        Action::Forget { instance } => format!("forget {instance}"),
        // Given up and welcomed in turns would be a circle, too.
        Action::Lose { node } | Action::Welcome { node } => format!("mark {node}"),
        Action::StartRun { run, .. } => format!("start {run}"),
        Action::EndRun { run, .. } => format!("end {run}"),
    }
}

/// Whether what was applied may be why there is more to do: a list of what may, so whatever is new
/// may not until somebody writes here why. `world` is after it.
fn allows(world: &World, applied: &Action, next: &Action) -> bool {
    let app_of = |d: &DeploymentId| world.deployments.get(d).map(|d| d.app);
    let org_of = |d: &DeploymentId| world.deployments.get(d).map(|d| d.org);
    let row = |i: &InstanceId| world.instances.get(i);
    let app_of_row = |i: &InstanceId| row(i).map(|i| i.app);
    match (next, applied) {
        // Its turn has come: the one before it has shifted, or a build of its org was ended.
        (
            Action::StartBuild { deployment, .. }
            | Action::CutRelease { deployment, .. }
            | Action::UseRelease { deployment, .. },
            Action::GoLive { deployment: other, .. },
        ) => app_of(deployment) == app_of(other),
        (
            Action::StartBuild { deployment, .. },
            Action::Fail { deployment: other, .. } | Action::Supersede { deployment: other, .. },
        ) => org_of(deployment) == org_of(other),
        (Action::RetryBuild { deployment, .. }, Action::Lose { node }) => {
            let row = world.deployments.get(deployment);
            let build = row.and_then(|d| world.builds.get(&d.build?));
            build.is_some_and(|build| runs_on(build, *node))
        }
        // There is a release to start: it shifts at once if nothing is wanted of it, or there is no
        // room for it.
        (
            Action::Shift { deployment, .. } | Action::Fail { deployment, .. },
            Action::CutRelease { deployment: same, .. }
            | Action::UseRelease { deployment: same, .. },
        ) => deployment == same,
        // A deployment begins, or has its verdict: it exchanges what is there, or the one before
        // goes on instead.
        (
            Action::Place { .. } | Action::Drain { .. } | Action::Stop { .. },
            Action::CutRelease { deployment, .. }
            | Action::UseRelease { deployment, .. }
            | Action::Supersede { deployment, .. }
            | Action::Fail { deployment, .. }
            | Action::GoLive { deployment, .. },
        ) => whose(world, next) == app_of(deployment),
        // One that is not ready leaves as soon as there is another for it; one that leaves makes way
        // for the next, and the last old one for the shift.
        (Action::Drain { instance, .. }, Action::Place { app, component, .. })
        | (Action::Place { app, component, .. }, Action::Drain { instance, .. }) => {
            row(instance).is_some_and(|i| i.app == *app && i.component == *component)
        }
        (Action::Shift { deployment, .. }, Action::Drain { instance, .. }) => {
            app_of_row(instance) == app_of(deployment)
        }
        (Action::GoLive { deployment, .. }, Action::Shift { deployment: same, .. }) => {
            deployment == same
        }
        // The way out of an instance.
        (Action::Stop { instance, .. }, Action::Drain { instance: same, .. })
        | (Action::Forget { instance }, Action::Stop { instance: same, .. }) => instance == same,
        (Action::Stop { instance, .. }, Action::Shift { drain, .. }) => drain.contains(instance),
        (Action::Stop { instance, .. }, Action::EndRun { run, .. }) => {
            row(instance).is_some_and(|i| i.run == Some(*run))
        }
        (Action::EndRun { run, .. }, Action::Forget { instance }) => {
            world.runs.get(run).is_some_and(|r| r.instance == Some(*instance))
        }
        // There is room that there was not; a single one that is fenced has left.
        (
            Action::Place { .. }
            | Action::StartBuild { .. }
            | Action::RetryBuild { .. }
            | Action::StartRun { .. },
            Action::Forget { .. } | Action::Welcome { .. },
        ) => true,
        // A deployment that found none for one component goes on with the next.
        (
            Action::Drain { instance, .. } | Action::Stop { instance, .. },
            Action::Forget { .. } | Action::Welcome { .. },
        ) if goes_on(world, instance) => true,
        // What it waited for has come, and there is no room even so.
        (Action::Fail { .. }, Action::Forget { .. } | Action::Welcome { .. }) => true,
        (Action::Place { app, component, .. }, Action::Stop { instance, why }) => {
            let fenced = why.contains("lease");
            fenced && row(instance).is_some_and(|i| i.app == *app && i.component == *component)
        }
        // A node is lost: others take over. It is back: what is too many ends there, or elsewhere.
        (Action::Place { app, .. }, Action::Lose { node }) => {
            world.instances_of(*app).any(|i| i.node == *node)
        }
        (Action::Stop { instance, .. }, Action::Lose { node }) => {
            row(instance).is_some_and(|i| i.node == *node)
        }
        (Action::Drain { instance, .. }, Action::Welcome { node }) => {
            let app = app_of_row(instance);
            app.is_some_and(|app| world.instances_of(app).any(|i| i.node == *node))
        }
        _ => false,
    }
}

/// The app of something that is placed or ended.
fn whose(world: &World, action: &Action) -> Option<AppId> {
    match action {
        Action::Place { app, .. } => Some(*app),
        Action::Drain { instance, .. } | Action::Stop { instance, .. } => {
            world.instances.get(instance).map(|i| i.app)
        }
        _ => None,
    }
}

fn goes_on(world: &World, instance: &InstanceId) -> bool {
    let app = world.instances.get(instance).map(|i| i.app);
    let starting = |d: &Deployment| d.state == DeploymentState::Starting;
    app.is_some_and(|app| world.pending(app).any(starting))
}

fn runs_on(build: &Build, on: NodeId) -> bool {
    match &build.state {
        BuildState::Running { node, .. } => *node == on,
        BuildState::Queued
        | BuildState::Done { .. }
        | BuildState::Failed { .. }
        | BuildState::Cancelled => false,
    }
}

/// Whoever begins to look now, and reads every row again, finds nothing to do either, and waits for
/// the same.
pub fn a_newcomer_agrees(world: &World, now: Timestamp, seen: &Plan) {
    let mut fresh = World::new(world.suffix.clone());
    follower::changes(&fresh, world).into_iter().for_each(|row| fresh.apply(row));
    fresh.environments = world.environments.clone();
    fresh.edge = world.edge.clone();
    fresh.since = world.since;
    fresh.heard = world.heard.clone();
    fresh.measured = world.measured.clone();
    fresh.watched = world.watched.clone();
    fresh.rules = world.rules;
    let plan = insula_plan::plan(&fresh, now);
    assert_eq!(plan.actions, vec![], "planning again after applying yields nothing");
    assert_eq!(plan.waits, seen.waits, "and what waits is the same");
    assert_eq!(plan.next, seen.next, "until the same moment");
}

/// Shows plans of these actions one after the other, each of the first instance of a live app.
fn show(plans: &[fn(InstanceId) -> Action]) {
    let s = Script::new("nodes a b; app web x2").scene;
    let one = s.named("web.1");
    let mut passes = Passes::default();
    for action in plans {
        let mut plan = insula_plan::plan(&s.world, s.now);
        plan.actions = vec![action(one)];
        passes.look(&s.world, &plan);
    }
}

const DRAIN: fn(InstanceId) -> Action = |instance| Action::Drain { instance, why: "test" };
const STOP: fn(InstanceId) -> Action = |instance| Action::Stop { instance, why: "test" };
const FORGET: fn(InstanceId) -> Action = |instance| Action::Forget { instance };

#[test]
fn one_step_may_follow_from_another() {
    show(&[DRAIN, STOP, FORGET]);
}

#[test]
#[should_panic(expected = "follows from nothing")]
fn what_follows_from_nothing_is_found() {
    show(&[DRAIN, FORGET]);
}

#[test]
#[should_panic(expected = "follows from nothing")]
fn what_is_decided_again_at_once_is_found() {
    show(&[DRAIN, DRAIN]);
}

#[test]
#[should_panic(expected = "was decided before")]
fn what_is_decided_twice_is_found() {
    // The second drain might follow from the node's return, if it were the first.
    let s = Script::new("nodes a b; app web x2").scene;
    let (instance, node) = (s.named("web.1"), s.node_id("a"));
    let drain = Action::Drain { instance, why: "test" };
    let mut passes = Passes::default();
    for actions in [vec![drain.clone(), Action::Welcome { node }], vec![drain]] {
        let mut plan = insula_plan::plan(&s.world, s.now);
        plan.actions = actions;
        passes.look(&s.world, &plan);
    }
}

#[test]
#[should_panic(expected = "yields nothing")]
fn what_a_newcomer_would_still_do_is_found() {
    let mut s = Script::new("nodes a b; app web x2").scene;
    let seen = insula_plan::plan(&s.world, s.now);
    s.app_mut().scale.insert("web".parse().unwrap(), 3);
    a_newcomer_agrees(&s.world, s.now, &seen);
}
