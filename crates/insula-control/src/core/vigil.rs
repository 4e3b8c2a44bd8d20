//! How long deployments have come no further, on the clock that never jumps: the times in their rows
//! are by the time of day of whoever wrote them, and that may be set at any moment. What follows
//! from it is decided in `insula_plan::rollout`.

use std::collections::BTreeMap;

use insula_model::{AppId, DeploymentId, Millis, Timestamp};
use insula_plan::{Watched, World, rollout};

/// Deployments without a verdict, by their app.
#[derive(Debug, Default)]
pub(super) struct Vigil(BTreeMap<AppId, BTreeMap<DeploymentId, Seen>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When it came this far, as the rows say: where it is now if that is the same.
    step: Timestamp,
    /// Since when it has been seen there.
    from: Millis,
    whole: bool,
}

impl Vigil {
    /// Looks at the deployments of an app: how long each has been where it is, or nothing of those
    /// that are done. `whole`: what is new has just become so; otherwise nobody saw when it did.
    pub(super) fn look(
        &mut self,
        world: &World,
        app: AppId,
        now: Millis,
        whole: bool,
    ) -> Vec<(DeploymentId, Option<Watched>)> {
        let before = self.0.remove(&app).unwrap_or_default();
        let mut said = Vec::new();
        let mut seen = BTreeMap::new();
        for deployment in world.pending(app) {
            let step = rollout::last_step(world, deployment);
            let there = before.get(&deployment.id).filter(|it| it.step == step);
            let there = there.copied().unwrap_or(Seen { step, from: now, whole });
            let span = Millis(now.0.saturating_sub(there.from.0));
            said.push((deployment.id, Some(Watched { span, whole: there.whole })));
            seen.insert(deployment.id, there);
        }
        let done = before.keys().filter(|id| !seen.contains_key(id));
        said.extend(done.map(|id| (*id, None)));
        if !seen.is_empty() {
            self.0.insert(app, seen);
        }
        said
    }
}
