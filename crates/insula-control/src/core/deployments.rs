//! Moves deployments, runs and instances on, gives up nodes and welcomes them: carries out what
//! `insula-plan` decides of whatever is due. Takes no input but the World and the time.

use std::sync::Arc;

use insula_model::{AppId, BuildId, InstanceId, Millis, ReleaseId};
use insula_plan::Action;
use insula_plan::effect::Fresh;
use tracing::warn;

use super::flight::Cargo;
use super::mutation::{Step, What};
use super::report::Reconciler;
use super::{Core, Now, STORE_PAUSE, TURNS_IN_A_ROW_MAX, Turn};

/// Rows that one mutation may write: large enough that its overhead does not count, small enough
/// that others get their turn.
const ROWS_PER_MUTATION_MAX: usize = 256;

/// Apps that one plan looks at. What it decides is written before the next ones are looked at, so
/// this bounds how old the World is by then.
const APPS_PER_PLAN_MAX: usize = 512;

impl Core {
    pub(super) fn pass_deployments(&mut self, now: Now, turn: &mut Turn) {
        let scope = self.due.take(now.wall, APPS_PER_PLAN_MAX);
        if scope.is_empty() {
            turn.again = self.due.next().map(|next| next.since(now.wall));
            return;
        }
        if self.acted_in_a_row >= TURNS_IN_A_ROW_MAX {
            warn!("the plan does not come to rest; trying again in a moment");
            self.due.put_back(scope);
            self.acted_in_a_row = 0;
            self.resume = Some(Millis(now.steady.0 + STORE_PAUSE.0));
            turn.again = Some(STORE_PAUSE);
            return;
        }
        let mut pass = self.pass();
        self.watch(scope.apps.iter().copied(), now, true);
        let mut plan = insula_plan::plan_for(&self.world, &scope, now.wall);
        self.due.planned(&mut plan);
        plan.actions.iter().for_each(|action| pass.did(verb(action), 1));
        for wait in &plan.waits {
            pass.wait(|| format!("{}: {}", wait.subject, wait.reason));
        }
        if plan.actions.is_empty() {
            self.acted_in_a_row = 0;
            turn.again = match self.due.is_empty() {
                true => plan.next.map(|next| next.since(now.wall)),
                // Others are due.
                false => Some(Millis(0)),
            };
        } else {
            self.acted_in_a_row += 1;
            self.act(&plan.actions, now, turn);
        }
        self.plan = Arc::new(plan);
        self.note(Reconciler::Deployments, pass, now);
    }

    /// Notes how long the deployments of these have come no further.
    pub(super) fn watch(&mut self, apps: impl IntoIterator<Item = AppId>, now: Now, whole: bool) {
        for app in apps {
            for (id, watched) in self.vigil.look(&self.world, app, now.steady, whole) {
                let all = &mut self.world_mut().watched;
                match watched {
                    Some(watched) => drop(all.insert(id, watched)),
                    None => drop(all.remove(&id)),
                }
            }
        }
    }

    fn act(&mut self, actions: &[Action], now: Now, turn: &mut Turn) {
        let singly = std::mem::take(&mut self.singly);
        let mut bundle = Vec::new();
        let (mut rows, mut last) = (0, None);
        for action in actions {
            let step =
                Step { action: action.clone(), fresh: self.fresh(now), event: self.event_id(now) };
            let Some(more) = bulk(action) else {
                self.send_steps(vec![step], now, turn);
                continue;
            };
            // After a bundle that did not go through nobody waits for another's app; what makes room
            // and what takes it still stand or fall together.
            let app = self.app_of(action);
            let other = singly && app != last;
            last = app;
            if (other || rows + more > ROWS_PER_MUTATION_MAX) && !bundle.is_empty() {
                self.send_steps(std::mem::take(&mut bundle), now, turn);
                rows = 0;
            }
            rows += more;
            bundle.push(step);
        }
        if !bundle.is_empty() {
            self.send_steps(bundle, now, turn);
        }
    }

    /// Whose instances a step that is bundled touches.
    fn app_of(&self, action: &Action) -> Option<AppId> {
        match action {
            Action::Place { app, .. } => Some(*app),
            Action::Drain { instance, .. }
            | Action::Stop { instance, .. }
            | Action::Forget { instance } => self.world.instances.get(instance).map(|i| i.app),
            Action::Supersede { .. }
            | Action::StartBuild { .. }
            | Action::RetryBuild { .. }
            | Action::CutRelease { .. }
            | Action::UseRelease { .. }
            | Action::Shift { .. }
            | Action::GoLive { .. }
            | Action::Fail { .. }
            | Action::Lose { .. }
            | Action::Welcome { .. }
            | Action::StartRun { .. }
            | Action::EndRun { .. } => None,
        }
    }

    fn send_steps(&mut self, steps: Vec<Step>, now: Now, turn: &mut Turn) {
        let flight = self.fly(Cargo::Actions { steps: steps.len() });
        self.write(flight, What::Act { steps }, now, turn);
    }

    fn fresh(&self, now: Now) -> Fresh {
        Fresh {
            build: BuildId::from_parts(now.wall, self.random_bytes()),
            release: ReleaseId::from_parts(now.wall, self.random_bytes()),
            instance: InstanceId::from_parts(now.wall, self.random_bytes()),
        }
    }
}

/// How many rows an action writes, if it is one of those that come in crowds and are bundled: they
/// touch instances only. What moves a deployment is a mutation of its own, because it names the
/// state that it starts from.
fn bulk(action: &Action) -> Option<usize> {
    match action {
        Action::Place { nodes, .. } => Some(nodes.len()),
        Action::Drain { .. } | Action::Stop { .. } | Action::Forget { .. } => Some(1),
        Action::Supersede { .. }
        | Action::StartBuild { .. }
        | Action::RetryBuild { .. }
        | Action::CutRelease { .. }
        | Action::UseRelease { .. }
        | Action::Shift { .. }
        | Action::GoLive { .. }
        | Action::Fail { .. }
        | Action::Lose { .. }
        | Action::Welcome { .. }
        | Action::StartRun { .. }
        | Action::EndRun { .. } => None,
    }
}

/// What the operator reads in the report.
fn verb(action: &Action) -> &'static str {
    match action {
        Action::Supersede { .. } => "superseded",
        Action::StartBuild { .. } => "build started",
        Action::RetryBuild { .. } => "build tried again",
        Action::CutRelease { .. } => "release cut",
        Action::UseRelease { .. } => "release started",
        Action::Place { .. } => "placed",
        Action::Shift { .. } => "shifted",
        Action::GoLive { .. } => "live",
        Action::Fail { .. } => "failed",
        Action::Drain { .. } => "drained",
        Action::Stop { .. } => "stopped",
        Action::Forget { .. } => "forgotten",
        Action::Lose { .. } => "node given up",
        Action::Welcome { .. } => "node welcomed",
        Action::StartRun { .. } => "run started",
        Action::EndRun { .. } => "run ended",
    }
}
