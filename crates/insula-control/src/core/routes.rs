//! Gives the gateways their table, when something that is in it changed: the parts of the apps that
//! a change concerns are made anew. Takes no input but the World.

use std::sync::Arc;

use insula_model::AppId;
use insula_model::deployment::DeploymentState;

use super::report::Reconciler;
use super::{Core, Now, Publication, Turn};

impl Core {
    pub(super) fn pass_routes(&mut self, now: Now, turn: &mut Turn) {
        let mut pass = self.pass();
        let changed = std::mem::take(&mut self.concern.routes);
        let every = std::mem::take(&mut self.concern.every_route);
        let relays = std::mem::take(&mut self.concern.relays);
        let anew = if every { self.all_parts() } else { self.look_at_parts(changed) };
        if anew == 0 && !relays && self.table.is_some() {
            return;
        }
        let table = insula_plan::routes::assemble(&self.world, self.parts.values());
        let same = self
            .table
            .as_ref()
            .is_some_and(|last| last.routes == table.routes && last.relays == table.relays);
        if !same {
            pass.did("table published", 1);
            self.edge.published(&table);
            self.look_at_edge();
            turn.routes = Some(Publication { table: table.clone(), trace: self.traces() });
            self.table = Some(table);
        }
        self.note(Reconciler::Routes, pass, now);
    }

    /// Makes every app's part anew; how many are not what they were.
    fn all_parts(&mut self) -> usize {
        let world = Arc::clone(&self.world);
        self.parts.retain(|app, _| world.apps.contains_key(app));
        let anew = self.look_at_parts(world.apps.keys().copied());
        // One that went leaves nothing to compare.
        anew.max(1)
    }

    fn look_at_parts(&mut self, apps: impl IntoIterator<Item = AppId>) -> usize {
        let mut anew = 0;
        for id in apps {
            let part = match self.world.apps.get(&id) {
                Some(app) => insula_plan::routes::of_app(&self.world, app),
                None => Vec::new(),
            };
            if self.parts.get(&id).is_some_and(|last| *last == part) {
                continue;
            }
            let before =
                if part.is_empty() { self.parts.remove(&id) } else { self.parts.insert(id, part) };
            anew += usize::from(before.is_some() || self.parts.contains_key(&id));
        }
        anew
    }

    fn traces(&self) -> String {
        let pending = self.world.pending_apps().flat_map(|app| self.world.pending(app));
        let shifting = pending.filter(|d| d.state == DeploymentState::Shifting);
        shifting.map(|d| d.trace.as_str()).collect::<Vec<_>>().join(",")
    }
}
