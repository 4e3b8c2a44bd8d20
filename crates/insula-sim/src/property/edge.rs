//! What gateways send to is ready, and what leaves is sent nothing.

use insula_control::core::mutation::Mutation;
use insula_model::instance::Instance;
use insula_model::{DeploymentId, Millis};

use super::{Property, is_lost, is_ready, of_component, spec_of, wanted};
use crate::sim::Sim;
use crate::words::short;

/// From a decision to its commit, at the slowest.
const COMMIT_MS_MAX: u64 = 10_000;

impl Sim {
    pub(super) fn was_ready(&mut self, mutation: &Mutation, id: DeploymentId) {
        self.checked(Property::Verdict);
        let world = &*mutation.world;
        let Some(deployment) = world.deployments.get(&id) else { return };
        let release = deployment.release.and_then(|id| world.releases.get(&id));
        let Some(release) = release else { return };
        for (name, spec) in &release.spec.components {
            let want = wanted(world, deployment.app, name, spec) as usize;
            let want = if spec.single { want.min(1) } else { want };
            let truly = |row: &&Instance| self.ever_ready.contains(&row.id);
            let ready = of_component(world, deployment.app, name)
                .filter(|row| row.deployment == id && is_ready(row) && !is_lost(world, row.node))
                .filter(truly)
                .count();
            if ready < want {
                let said = format!(
                    "{} takes over with {ready} of {want} `{name}` that ever were ready",
                    short(&id.to_string())
                );
                return self.violate(Property::Verdict, said);
            }
        }
    }

    /// Whoever was asked has let go of the old ones.
    pub(super) fn is_routed(&mut self, id: DeploymentId, sure: bool) {
        let Some(deployment) = self.store.rows.deployments.get(&id).cloned() else { return };
        if !sure {
            return;
        }
        self.checked(Property::Verdict);
        for g in &self.gateways_in_contact() {
            let Some(table) = &self.gateways[*g].table else { continue };
            let of_app = table.routes.iter().filter(|route| route.app == deployment.app);
            let old = of_app.flat_map(|route| &route.endpoints).find(|endpoint| {
                let row = self.store.rows.instances.get(&endpoint.instance);
                row.is_some_and(|row| row.deployment != id)
            });
            if let Some(old) = old {
                let said = format!(
                    "{} is live, and gateway {g} sends to {}",
                    short(&id.to_string()),
                    short(&old.instance.to_string())
                );
                return self.violate(Property::Verdict, said);
            }
        }
    }

    /// Those that the leader knew when it decided what is committed now.
    fn gateways_in_contact(&self) -> Vec<usize> {
        let term = self.leader().and_then(|leader| self.servers[leader].term.as_ref());
        let sessions = term.into_iter().flat_map(|term| &term.gateways);
        let old = |id: &u64| self.sessions[id].began + COMMIT_MS_MAX < self.now;
        sessions.filter(|(_, id)| old(id)).map(|(g, _)| *g).collect()
    }

    pub(super) fn is_out_of_the_routes(
        &mut self,
        mutation: &Mutation,
        row: &Instance,
        since: insula_model::Timestamp,
    ) {
        if !row.kind.listens() {
            return;
        }
        self.checked(Property::Routes);
        let drain = spec_of(&self.store.rows, row).map_or(Millis(0), |spec| spec.drain);
        // Ten seconds more for a gateway that does not follow.
        let over = mutation.at >= since.plus(drain).plus(Millis::secs(10));
        let gateways = self.gateways_in_contact();
        let sends = gateways.iter().find(|g| self.gateways[**g].routed().contains(&row.id));
        if let Some(g) = sends.filter(|_| !over) {
            let said = format!(
                "{} is told to stop, and gateway {g} sends to it",
                short(&row.id.to_string())
            );
            self.violate(Property::Routes, said);
        }
    }
}
