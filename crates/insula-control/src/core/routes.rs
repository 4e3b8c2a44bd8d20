//! Gives the gateways their table, when something that is in it changed. Takes no input but the
//! World.

use insula_model::deployment::DeploymentState;

use super::report::{Pass, Reconciler};
use super::{Core, Now, Publication, Turn};

impl Core {
    pub(super) fn pass_routes(&mut self, now: Now, turn: &mut Turn) {
        if !std::mem::take(&mut self.concern.routes) {
            return;
        }
        let table = insula_plan::routes::table(&self.world);
        let same = self
            .table
            .as_ref()
            .is_some_and(|last| last.routes == table.routes && last.relays == table.relays);
        let mut pass = Pass::default();
        if !same {
            pass.did("table published", 1);
            self.edge.published(&table);
            self.look_at_edge();
            turn.routes = Some(Publication { table: table.clone(), trace: self.traces() });
            self.table = Some(table);
        }
        self.note(Reconciler::Routes, pass, now);
    }

    fn traces(&self) -> String {
        let pending = self.world.pending_apps().flat_map(|app| self.world.pending(app));
        let shifting = pending.filter(|d| d.state == DeploymentState::Shifting);
        shifting.map(|d| d.trace.as_str()).collect::<Vec<_>>().join(",")
    }
}
