//! In calm: whether everything is as it was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use insula_control::core::report::Reconciler;
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::instance::{Instance, Intent};
use insula_model::node::{Duty, Node};
use insula_model::spec::Failover;
use insula_model::{AppId, ComponentName, DeploymentId};
use insula_plan::World;

use super::{Property, is_lost, spec_of};
use crate::link::Place;
use crate::sim::Sim;
use crate::words::short;

/// What can be done is done within this, in calm. Passes come at every tick; new terms and pauses
/// after a failure of the store are shorter.
const IDLE_MS_MAX: u64 = 15_000;
/// What is due by itself within this is still to come: a node that may be back is waited for.
const DUE_SOON_MS: u64 = 20_000;

impl Sim {
    /// Whether the node is connected, as both ends see it.
    pub fn is_connected(&self, n: usize) -> bool {
        let session = self.machines[n].session.and_then(|id| self.sessions.get(&id));
        self.machines[n].works()
            && session
                .is_some_and(|it| it.server_holds && it.client_holds && it.who == Place::Node(n))
    }

    /// Whether there is at least one node that takes what has to go somewhere.
    pub fn has_room(&self) -> bool {
        let takes = |n: &usize| {
            let row = self.store.rows.nodes.get(&self.machines[*n].id);
            self.is_connected(*n)
                && row.is_some_and(|row| row.duty == Duty::Serve && row.lost.is_none())
        };
        (0..self.machines.len()).any(|n| takes(&n))
    }

    /// Whether something of the app is single, has no lease, and is on a node that is away.
    pub fn waits_for_single(&self, app: AppId) -> bool {
        self.store.rows.instances_of(app).any(|row| {
            spec_of(&self.store.rows, row)
                .is_some_and(|spec| spec.single && spec.failover == Failover::Never)
                && self.store.rows.nodes.get(&row.node).is_some_and(|node| node.lost.is_some())
        })
    }

    /// Whether the leader waits for answers of the store.
    pub fn is_writing(&self) -> bool {
        let term = self.leader().and_then(|leader| self.servers[leader].term.as_ref());
        term.is_some_and(|term| !term.core.is_current() || term.open > 0)
    }

    /// Whether everything is as it was asked for; if not, what is not.
    pub fn is_well(&mut self) -> Result<(), String> {
        let leader = self.leader().ok_or("nobody leads")?;
        let now = self.clocks(leader);
        let term = self.servers[leader].term.as_ref().ok_or("nobody leads")?;
        if !term.core.is_current() || term.open > 0 {
            return Err("the leader waits for the store".to_owned());
        }
        let report = term.core.status(now).reports;
        let missed =
            report.get(&Reconciler::Safety).and_then(|it| it.did.get("target found stale"));
        if missed.is_some_and(|missed| *missed > 0) {
            self.violate(Property::Missed, "a Target was found stale".to_owned());
            return Ok(());
        }
        let plan = insula_plan::plan(term.core.world(), now.wall);
        if let Some(action) = plan.actions.first() {
            let idle = self.now.saturating_sub(self.acted_at.max(self.round.calm_since()));
            if idle > IDLE_MS_MAX {
                let said = format!("for {idle} ms nobody did what is to be done: {action}");
                self.violate(Property::Missed, said);
                return Ok(());
            }
            return Err(format!("there is something to do: {action}"));
        }
        if plan.next.is_some_and(|next| next.since(now.wall).0 <= DUE_SOON_MS) {
            return Err("something is due in a moment".to_owned());
        }
        let rows = &self.store.rows;
        // Not all is as it was asked for while the silence of its node is counted.
        let counted = |row: &&Instance| {
            let leased = spec_of(rows, row).is_some_and(|it| it.failover == Failover::Lease);
            let lost = rows.nodes.get(&row.node).is_some_and(|node| node.lost.is_some());
            leased && lost && row.intent == Intent::Run
        };
        if let Some(row) = rows.instances.values().find(counted) {
            return Err(format!("the lease of {} runs out", short(&row.id.to_string())));
        }
        // One that waits for a node may wait for ever, if nothing is due by itself.
        let for_good = |app| plan.next.is_none() && self.waits_for_single(app);
        // A build on a node that is away goes on there for all its time, if no other takes it.
        let has_room = self.has_room();
        let builds = |row: &Deployment| row.state == DeploymentState::Building && !has_room;
        let open =
            |row: &&Arc<Deployment>| !row.state.is_final() && !for_good(row.app) && !builds(row);
        if let Some(open) = rows.deployments.values().find(open) {
            let waits = plan.waits.iter().filter(|wait| wait.subject == open.id.to_string());
            let waits: Vec<&str> = waits.map(|wait| wait.reason.as_str()).collect();
            let id = short(&open.id.to_string());
            return Err(format!("{id} is {}: {}", open.state, waits.join("; ")));
        }
        let short_of_room = plan.waits.iter().any(|wait| wait.reason.contains("cannot be placed"))
            || plan.waits.iter().any(|wait| wait.reason.contains("stays:"));
        self.nodes_are_well(term.core.world())?;
        let waits =
            || plan.waits.iter().map(|it| format!("; {}: {}", short(&it.subject), it.reason));
        let tell = |wrong: String| wrong + &waits().collect::<String>();
        self.apps_are_well(short_of_room).map_err(tell)?;
        self.gateways_are_well(leader)?;
        self.checked(Property::Missed);
        Ok(())
    }

    fn nodes_are_well(&self, world: &World) -> Result<(), String> {
        for (n, machine) in self.machines.iter().enumerate() {
            let row: Option<&Node> = self.store.rows.nodes.get(&machine.id).map(AsRef::as_ref);
            if machine.removed || !machine.joined {
                continue;
            }
            let Some(row) = row else {
                // It fell over before it was heard for the first time.
                if !machine.up {
                    continue;
                }
                return Err(format!("node {n} has no row"));
            };
            if machine.up != row.lost.is_none() {
                return Err(format!("node {n} is up: {}, lost: {:?}", machine.up, row.lost));
            }
            if !machine.up {
                continue;
            }
            if !self.is_connected(n) {
                return Err(format!("node {n} is not connected"));
            }
            let target = insula_plan::target::node(world, machine.id);
            let held = machine.disk.as_ref().map(|it| (&it.instances, &it.builds, &it.fleet));
            if held != Some((&target.instances, &target.builds, &target.fleet)) {
                return Err(format!("node {n} holds another Target than it should"));
            }
        }
        for row in self.store.rows.instances.values() {
            if !self.store.rows.nodes.contains_key(&row.node) {
                return Err(format!(
                    "{} is on a node that was removed",
                    short(&row.id.to_string())
                ));
            }
            if row.intent != Intent::Run && !is_lost(world, row.node) {
                return Err(format!("{} is leaving", short(&row.id.to_string())));
            }
        }
        Ok(())
    }

    fn apps_are_well(&self, short_of_room: bool) -> Result<(), String> {
        // Of a single one whose node stays away there is nothing, for as long as that is so.
        for app in self.store.rows.apps.values().filter(|app| !self.waits_for_single(app.id)) {
            let mut there: BTreeMap<&ComponentName, (usize, usize, usize)> = BTreeMap::new();
            for (n, machine) in self.machines.iter().enumerate() {
                for held in machine.held.values().filter(|it| it.target.place.app == app.id) {
                    if !self.is_connected(n) {
                        continue;
                    }
                    let counts = there.entry(&held.target.component).or_default();
                    counts.0 += 1;
                    let live =
                        app.live.as_ref().is_some_and(|it| it.deployment == held.target.deployment);
                    counts.1 += usize::from(live && held.serves(self.now));
                    counts.2 += usize::from(live && !held.serves(self.now));
                }
            }
            let release =
                app.live.as_ref().and_then(|live| self.store.rows.releases.get(&live.release));
            let Some(release) = release else {
                if !there.is_empty() {
                    return Err(format!(
                        "{} has nothing that is live, and runs {there:?}",
                        app.name
                    ));
                }
                continue;
            };
            let good = self.is_good(release.id);
            for (name, spec) in &release.spec.components {
                let want = insula_plan::rollout::wanted(app, name, spec) as usize;
                let away = spec.single && self.waits_for_single(app.id);
                let (all, ready, coming) = there.remove(name).unwrap_or_default();
                let enough = ready == want || short_of_room || away || !good;
                // What is live and never ready does not take the place of what is; what will be ready
                // may still let another go.
                if (good && (all > want || coming > 0)) || !enough {
                    return Err(format!(
                        "`{name}` of {}: {all} there, {ready} ready, {want} asked for",
                        app.name
                    ));
                }
            }
            if let Some((name, _)) = there.first_key_value() {
                return Err(format!(
                    "`{name}` of {} is no part of what is live, and runs",
                    app.name
                ));
            }
        }
        Ok(())
    }

    fn gateways_are_well(&self, leader: usize) -> Result<(), String> {
        let Some(term) = &self.servers[leader].term else { return Err("nobody leads".to_owned()) };
        let table = insula_plan::routes::table(term.core.world());
        for (g, gateway) in self.gateways.iter().enumerate() {
            if !term.gateways.contains_key(&g) {
                return Err(format!("gateway {g} is not connected"));
            }
            if gateway.table.as_ref().map(|it| (&it.routes, &it.relays))
                != Some((&table.routes, &table.relays))
            {
                return Err(format!("gateway {g} serves another table than it should"));
            }
        }
        Ok(())
    }

    /// The rows of a deployment that somebody waits for.
    pub fn deployment(&self, id: DeploymentId) -> Option<&Deployment> {
        self.store.rows.deployments.get(&id).map(AsRef::as_ref)
    }
}
