//! Nothing healthy is stopped that was not told to leave, and nothing is told to leave unheard.

use insula_control::core::mutation::Mutation;
use insula_model::instance::{Instance, Intent};
use insula_model::spec::Failover;

use super::{Property, spec_of};
use crate::machine::Happened;
use crate::sim::Sim;
use crate::words::short;

impl Sim {
    pub(super) fn may_be_told_to_leave(&mut self, mutation: &Mutation, row: &Instance) {
        self.checked(Property::Innocent);
        let leased = spec_of(&self.store.rows, row)
            .is_some_and(|spec| spec.failover == Failover::Lease && spec.single);
        if mutation.world.is_here(row.node) || leased {
            return;
        }
        let said =
            format!("{} is told to leave, and its node is not heard", short(&row.id.to_string()));
        self.violate(Property::Innocent, said);
    }

    /// A row goes only when nothing of it is there.
    pub(super) fn is_truly_gone(&mut self, row: &Instance) {
        self.checked(Property::Innocent);
        let held = |m: &crate::machine::Machine| {
            !m.removed && m.id == row.node && m.held.get(&row.id).is_some_and(|held| held.runs())
        };
        if self.machines.iter().any(held) {
            let said = format!("{} is forgotten, and runs", short(&row.id.to_string()));
            self.violate(Property::Innocent, said);
        }
    }

    pub fn after_happening(&mut self, n: usize, what: Happened) {
        match what {
            Happened::Began(id) => self.is_alone(n, id),
            Happened::StoppedReady(id, fenced) => {
                self.checked(Property::Innocent);
                let row = self.store.rows.instances.get(&id);
                let told = row.is_none_or(|row| matches!(row.intent, Intent::Stop { .. }));
                // Only what depends on contact ends without it.
                let leased = row
                    .and_then(|row| spec_of(&self.store.rows, row))
                    .is_some_and(|spec| spec.failover == Failover::Lease);
                let right = told || (fenced && leased) || self.machines[n].removed;
                if !right {
                    let said = format!(
                        "{} is ready on node {n} and is stopped; its row says that it runs",
                        short(&id.to_string())
                    );
                    self.violate(Property::Innocent, said);
                }
            }
            Happened::BecameReady(id) => drop(self.ever_ready.insert(id)),
            Happened::Gone(_) => {}
        }
    }
}
