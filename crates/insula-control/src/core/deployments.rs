//! Moves deployments, runs and instances on, gives up nodes and welcomes them: carries out what
//! `insula-plan` decides of whatever is due. Takes no input but the World and the time.

use std::sync::Arc;

use insula_model::{BuildId, InstanceId, Millis, NodeId, ReleaseId, Timestamp};
use insula_plan::effect::Fresh;
use insula_plan::{Action, World};
use tracing::warn;

use super::mutation::{Step, What};
use super::report::{Pass, Reconciler};
use super::{Cargo, Core, Now, STORE_PAUSE, TURNS_IN_A_ROW_MAX, Turn};

/// Rows that one mutation may write: large enough that its overhead does not count, small enough
/// that others get their turn.
const ROWS_PER_MUTATION_MAX: usize = 256;

/// What is due to be planned.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    due: bool,
    next: Option<Timestamp>,
    /// The last bundle of steps did not go through: each goes alone, so that one that cannot be
    /// done does not hold up the others.
    singly: bool,
}

impl Schedule {
    pub(super) fn change(&mut self, _world: &World, _change: &insula_model::feed::Change) {
        self.due = true;
    }

    pub(super) fn presence(&mut self, _world: &World, _node: NodeId) {
        self.due = true;
    }

    pub(super) fn edge(&mut self, _world: &World) {
        self.due = true;
    }

    pub(super) fn everything(&mut self) {
        self.due = true;
    }

    /// A write was answered: whatever became of it, it is looked at again.
    pub(super) fn anew(&mut self) {
        self.due = true;
    }

    pub(super) fn singly(&mut self, bundled: bool) {
        self.singly |= bundled;
    }
}

impl Core {
    pub(super) fn pass_deployments(&mut self, now: Now, turn: &mut Turn) {
        let timer = self.schedule.next.is_some_and(|next| next <= now.wall);
        if !self.schedule.due && !timer {
            turn.again = self.schedule.next.map(|next| next.since(now.wall));
            return;
        }
        if self.acted_in_a_row >= TURNS_IN_A_ROW_MAX {
            warn!("the plan does not come to rest; trying again in a moment");
            self.acted_in_a_row = 0;
            self.resume = Some(Millis(now.steady.0 + STORE_PAUSE.0));
            turn.again = Some(STORE_PAUSE);
            return;
        }
        let plan = insula_plan::plan(&self.world, now.wall);
        self.schedule.due = false;
        self.schedule.next = plan.next;
        let mut pass = Pass::default();
        plan.actions.iter().for_each(|action| pass.did(verb(action), 1));
        plan.waits.iter().for_each(|wait| pass.wait(format!("{}: {}", wait.subject, wait.reason)));
        if plan.actions.is_empty() {
            self.acted_in_a_row = 0;
            turn.again = plan.next.map(|next| next.since(now.wall));
        } else {
            self.acted_in_a_row += 1;
            self.act(&plan.actions, now, turn);
        }
        self.plan = Arc::new(plan);
        self.note(Reconciler::Deployments, pass, now);
    }

    fn act(&mut self, actions: &[Action], now: Now, turn: &mut Turn) {
        let singly = std::mem::take(&mut self.schedule.singly);
        let mut bundle = Vec::new();
        let mut rows = 0;
        for action in actions {
            let step =
                Step { action: action.clone(), fresh: self.fresh(now), event: self.event_id(now) };
            let Some(more) = bulk(action).filter(|_| !singly) else {
                self.send_steps(vec![step], now, turn);
                continue;
            };
            if rows + more > ROWS_PER_MUTATION_MAX && !bundle.is_empty() {
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
