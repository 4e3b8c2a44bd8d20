//! What has to hold: at every commit, at every event of a process, and when it has been calm.

use std::collections::BTreeMap;

use insula_control::core::mutation::{Mutation, What};
use insula_control::core::report::Reconciler;
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::feed::Change;
use insula_model::instance::{Instance, Intent};
use insula_model::node::{Duty, Node};
use insula_model::observed::InstancePhase;
use insula_model::spec::{ComponentSpec, Failover, RolloutSpec};
use insula_model::{AppId, ComponentName, DeploymentId, Generation, InstanceId, Millis, NodeId};
use insula_plan::{Action, World};

use crate::link::Place;
use crate::machine::Happened;
use crate::sim::Sim;
use crate::words::short;

/// What can be done is done within this, in calm. Passes come at every tick; new terms and pauses
/// after a failure of the store are shorter.
const IDLE_MS_MAX: u64 = 15_000;

/// From a decision to its commit, at the slowest.
const COMMIT_MS_MAX: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    Surge,
    Single,
    Acknowledged,
    Innocent,
    Enough,
    Stays,
    Verdict,
    Routes,
    Generations,
    Removed,
    Capacity,
    Missed,
}

impl Property {
    pub const ALL: [Self; 12] = [
        Self::Surge,
        Self::Single,
        Self::Acknowledged,
        Self::Innocent,
        Self::Enough,
        Self::Stays,
        Self::Verdict,
        Self::Routes,
        Self::Generations,
        Self::Removed,
        Self::Capacity,
        Self::Missed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Surge => "surge",
            Self::Single => "single",
            Self::Acknowledged => "acknowledged",
            Self::Innocent => "innocent",
            Self::Enough => "enough",
            Self::Stays => "stays",
            Self::Verdict => "verdict",
            Self::Routes => "routes",
            Self::Generations => "generations",
            Self::Removed => "removed",
            Self::Capacity => "capacity",
            Self::Missed => "missed",
        }
    }

    pub fn sentence(self) -> &'static str {
        match self {
            Self::Surge => {
                "never are more instances of a component placed than asked for plus its surge, on nodes that are not lost"
            }
            Self::Single => "of a single component there are never two processes at once, anywhere",
            Self::Acknowledged => {
                "what was acknowledged is never undone, and every deployment ends with a verdict that stays"
            }
            Self::Innocent => {
                "nothing that is ready is stopped unless that was decided, and nothing is decided to leave on a node that is not heard"
            }
            Self::Enough => {
                "of what is ready only so much is told to leave that enough others are ready"
            }
            Self::Stays => {
                "in calm everything becomes as it was asked for, and then nothing changes any more"
            }
            Self::Verdict => {
                "what went live was ready and routed, and a good release goes live in a calm fleet"
            }
            Self::Routes => {
                "what drains is told to stop only when no gateway sends to it, or its time is over"
            }
            Self::Generations => "the generation that a node holds never goes back",
            Self::Removed => "a node that was removed has no row ever again",
            Self::Capacity => "no node is given more than it has, or anything that it must not get",
            Self::Missed => {
                "the look at everything finds nothing that the passes before had missed"
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub property: Property,
    pub detail: String,
    pub step: u64,
    pub at: u64,
}

fn spec_of<'a>(world: &'a World, row: &Instance) -> Option<&'a ComponentSpec> {
    world.releases.get(&row.release)?.spec.components.get(&row.component)
}

fn is_lost(world: &World, node: NodeId) -> bool {
    world.nodes.get(&node).is_none_or(|row| row.lost.is_some() && !world.is_here(node))
}

fn is_ready(row: &Instance) -> bool {
    row.observed.present().is_some_and(|report| report.phase == InstancePhase::Ready)
}

fn wanted(world: &World, app: AppId, name: &ComponentName, spec: &ComponentSpec) -> u32 {
    world.apps.get(&app).map_or(0, |row| insula_plan::rollout::wanted(row, name, spec))
}

fn of_component<'a>(
    world: &'a World,
    app: AppId,
    name: &'a ComponentName,
) -> impl Iterator<Item = &'a Instance> {
    world.instances_of(app).filter(move |row| row.component == *name)
}

impl Sim {
    /// What must hold of a commit of the control plane's.
    pub fn after_commit(&mut self, mutation: &Mutation, changes: &[Change], before: &World) {
        self.keeps_what_was_acknowledged(changes, before);
        let What::Act { steps } = &mutation.what else { return };
        for step in steps {
            match &step.action {
                Action::Place { app, deployment, component, nodes } => {
                    self.places_few_enough(mutation, before, (*app, *deployment, component));
                    self.places_where_there_is_room(mutation, nodes);
                }
                Action::Shift { deployment, .. } => self.was_ready(mutation, *deployment),
                Action::GoLive { deployment, warnings } => {
                    self.is_routed(*deployment, warnings.is_empty());
                }
                Action::Drain { .. }
                | Action::Stop { .. }
                | Action::Supersede { .. }
                | Action::StartBuild { .. }
                | Action::RetryBuild { .. }
                | Action::CutRelease { .. }
                | Action::UseRelease { .. }
                | Action::Fail { .. }
                | Action::Forget { .. }
                | Action::Lose { .. }
                | Action::Welcome { .. }
                | Action::StartRun { .. }
                | Action::EndRun { .. } => {}
            }
        }
        for change in changes {
            match change {
                Change::Instance(row) => {
                    let was = before.instances.get(&row.id).map(|row| row.intent);
                    match (was, row.intent) {
                        (Some(Intent::Run), Intent::Drain { .. } | Intent::Stop { .. }) => {
                            self.may_be_told_to_leave(mutation, row);
                            self.leaves_enough(mutation, row, before);
                        }
                        (Some(Intent::Drain { since }), Intent::Stop { .. }) => {
                            self.is_out_of_the_routes(mutation, row, since);
                        }
                        (Some(_) | None, _) => {}
                    }
                }
                Change::InstanceGone(id) => {
                    if let Some(row) = before.instances.get(id) {
                        self.is_truly_gone(row);
                    }
                }
                _ => {}
            }
        }
    }

    fn keeps_what_was_acknowledged(&mut self, changes: &[Change], before: &World) {
        self.checked(Property::Acknowledged);
        for change in changes {
            match change {
                Change::App(row) => {
                    let Some(known) = self.known.apps.get(&row.id) else { continue };
                    if row.running != known.running || row.scale != known.scale {
                        let said = format!(
                            "{}: running {}, scale {:?}; asked for {known:?}",
                            row.name, row.running, row.scale
                        );
                        self.violate(Property::Acknowledged, said);
                    }
                }
                Change::Node(row) => {
                    if self.store.removed.contains(&row.id) {
                        self.violate(Property::Removed, format!("{} is there again", row.name));
                    }
                    let duty = self.known.duties.get(&row.id).copied().unwrap_or(Duty::Serve);
                    if row.duty != duty {
                        let said = format!("{} is {:?}; asked for {duty:?}", row.name, row.duty);
                        self.violate(Property::Acknowledged, said);
                    }
                }
                Change::Deployment(row) => {
                    let was = before.deployments.get(&row.id);
                    if was.is_some_and(|was| was.state.is_final() && was.state != row.state) {
                        let said =
                            format!("{} had a verdict and has another", short(&row.id.to_string()));
                        self.violate(Property::Acknowledged, said);
                    }
                }
                _ => {}
            }
        }
    }

    fn places_few_enough(
        &mut self,
        mutation: &Mutation,
        before: &World,
        (app, goal, name): (AppId, DeploymentId, &ComponentName),
    ) {
        self.checked(Property::Surge);
        let (rows, world) = (&self.store.rows, &*mutation.world);
        let release = world.deployments.get(&goal).and_then(|row| row.release);
        let release = release.and_then(|id| world.releases.get(&id));
        let Some(spec) = release.and_then(|row| row.spec.components.get(name)) else { return };
        let want = wanted(world, app, name, spec);
        let (surge, whole) = match spec.rollout {
            _ if spec.single => (0, true),
            RolloutSpec::BlueGreen => (1, false),
            RolloutSpec::Rolling { surge: 0, unavailable: 0 } => (1, true),
            RolloutSpec::Rolling { surge, .. } => (surge, true),
        };
        let there = |row: &&Instance| spec.single || !is_lost(world, row.node);
        let own = of_component(rows, app, name)
            .filter(there)
            .filter(|row| row.deployment == goal && row.intent == Intent::Run)
            .count();
        let others = |row: &&Instance| {
            let old = rows.deployments.get(&row.deployment);
            old.is_none_or(|old| old.state.is_final())
        };
        let all = of_component(rows, app, name)
            .filter(there)
            .filter(|row| row.deployment == goal || others(row))
            .count();
        // Leftovers of several releases are exchanged at the pace of any of them.
        let paces = of_component(before, app, name).filter_map(|row| spec_of(before, row));
        let surge = paces.fold(surge, |surge, other| match other.rollout {
            RolloutSpec::BlueGreen => surge,
            RolloutSpec::Rolling { surge: more, unavailable } => {
                surge.max(more).max(u32::from(more == 0 && unavailable == 0))
            }
        });
        let surge = if spec.single { 0 } else { surge };
        let max = (want + surge) as usize;
        let rolls = whole
            && !spec.single
            && of_component(rows, app, name).all(|row| {
                spec_of(rows, row)
                    .is_some_and(|other| matches!(other.rollout, RolloutSpec::Rolling { .. }))
            });
        if own > max || (rolls && all > max) {
            let said = format!(
                "`{name}`: {own} of the goal and {all} in all, of {want} asked for and {surge} more"
            );
            self.violate(Property::Surge, said);
        }
    }

    fn places_where_there_is_room(&mut self, mutation: &Mutation, nodes: &[NodeId]) {
        self.checked(Property::Capacity);
        for id in nodes {
            let Some(row) = mutation.world.nodes.get(id).cloned() else {
                let said = format!("{} is not known", short(&id.to_string()));
                return self.violate(Property::Capacity, said);
            };
            let load = self.store.rows.instances.load(*id);
            if load.memory > row.offer.capacity.memory {
                let said =
                    format!("{} has {} of {}", row.name, load.memory, row.offer.capacity.memory);
                return self.violate(Property::Capacity, said);
            }
            if row.duty != Duty::Serve || row.lost.is_some() || !mutation.world.is_here(*id) {
                let said = format!(
                    "{} ({:?}, lost {:?}) is given something",
                    row.name, row.duty, row.lost
                );
                return self.violate(Property::Capacity, said);
            }
        }
    }

    fn was_ready(&mut self, mutation: &Mutation, id: DeploymentId) {
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
    fn is_routed(&mut self, id: DeploymentId, sure: bool) {
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

    fn may_be_told_to_leave(&mut self, mutation: &Mutation, row: &Instance) {
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

    /// By what the control plane knows: as many others are ready as have to be.
    fn leaves_enough(&mut self, mutation: &Mutation, row: &Instance, before: &World) {
        self.checked(Property::Enough);
        let (rows, world) = (&self.store.rows, &*mutation.world);
        let Some(app) = world.apps.get(&row.app).cloned() else { return };
        let moves = |steps: &What| match steps {
            What::Act { steps } => {
                steps.iter().any(|step| matches!(step.action, Action::Shift { .. }))
            }
            What::Greet { .. } | What::Saw { .. } | What::Ail { .. } => false,
        };
        let serves = |row: &Instance, world: &World| {
            is_ready(row)
                && mutation.world.is_here(row.node)
                && world.instances.contains_key(&row.id)
        };
        if !app.running || !before.instances.get(&row.id).is_some_and(|row| serves(row, world)) {
            return;
        }
        let pending = world
            .pending(row.app)
            .any(|it| matches!(it.state, DeploymentState::Starting | DeploymentState::Shifting));
        let shifting = world.pending(row.app).any(|it| it.state == DeploymentState::Shifting);
        // Of what the app has now: what is live, or takes over.
        let Some(live) = app.live.as_ref() else { return };
        let Some(spec) =
            world.releases.get(&live.release).and_then(|it| it.spec.components.get(&row.component))
        else {
            return;
        };
        let own = spec_of(rows, row);
        if spec.single || own.is_none_or(|own| own.single) || moves(&mutation.what) || shifting {
            return;
        }
        if pending
            && own.is_some_and(|own| own.rollout == RolloutSpec::BlueGreen)
            && row.deployment != live.deployment
        {
            return;
        }
        // Of a deployment that did not go live, and cannot serve beside what is.
        if row.deployment != live.deployment
            && !pending
            && own.is_some_and(|own| own.rollout == RolloutSpec::BlueGreen)
        {
            return;
        }
        let unavailable = |spec: &ComponentSpec| match spec.rollout {
            RolloutSpec::BlueGreen => 0,
            RolloutSpec::Rolling { unavailable, .. } => unavailable,
        };
        let least = |spec: &ComponentSpec| {
            wanted(world, row.app, &row.component, spec).saturating_sub(unavailable(spec))
        };
        let newest = world
            .pending(row.app)
            .filter_map(|it| it.release)
            .filter_map(|id| world.releases.get(&id));
        let newest =
            newest.filter_map(|it| it.spec.components.get(&row.component)).map(least).min();
        // Leftovers of several releases go at the pace of any of them.
        let there = of_component(before, row.app, &row.component);
        let there = there.filter_map(|it| spec_of(before, it)).map(least).min();
        let need = least(spec).min(newest.unwrap_or(u32::MAX)).min(there.unwrap_or(u32::MAX));
        let need = need as usize;
        let left = of_component(rows, row.app, &row.component)
            .filter(|it| it.intent == Intent::Run && serves(it, world))
            .count();
        if left < need {
            // A drained node whose replacement had all its time is the one exception.
            let drained = world
                .nodes
                .get(&row.node)
                .is_some_and(|node| matches!(node.duty, Duty::Drain { .. }));
            if !drained {
                let said = format!(
                    "{} leaves, and {left} of `{}` are ready of {need} at least",
                    short(&row.id.to_string()),
                    row.component
                );
                self.violate(Property::Enough, said);
            }
        }
    }

    fn is_out_of_the_routes(
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

    /// A row goes only when nothing of it is there.
    fn is_truly_gone(&mut self, row: &Instance) {
        self.checked(Property::Innocent);
        let held = |m: &crate::machine::Machine| {
            !m.removed && m.id == row.node && m.held.get(&row.id).is_some_and(|held| held.runs())
        };
        if self.machines.iter().any(held) {
            let said = format!("{} is forgotten, and runs", short(&row.id.to_string()));
            self.violate(Property::Innocent, said);
        }
    }

    pub fn after_target(&mut self, n: usize, before: Generation) {
        self.checked(Property::Generations);
        let after = self.machines[n].generation();
        if after < before {
            self.violate(
                Property::Generations,
                format!("node {n} held {before} and holds {after}"),
            );
        }
    }

    pub fn after_happening(&mut self, n: usize, what: Happened) {
        match what {
            Happened::Began(id) => self.is_alone(n, id),
            Happened::StoppedReady(id, fenced) => {
                self.checked(Property::Innocent);
                let row = self.store.rows.instances.get(&id);
                let told = row.is_none_or(|row| matches!(row.intent, Intent::Stop { .. }));
                if !told && !fenced && !self.machines[n].removed {
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

    fn is_alone(&mut self, n: usize, id: InstanceId) {
        let Some(held) = self.machines[n].held.get(&id) else { return };
        let of = (held.target.place.app, held.target.component.clone());
        if !self.singles.contains(&of) {
            return;
        }
        self.checked(Property::Single);
        // A machine that stands still does nothing; when it goes on, its lease is looked at first.
        let others = self.machines.iter().filter(|m| m.up && !m.removed && !m.frozen);
        let twin = others.flat_map(|m| &m.held).find(|(other, held)| {
            **other != id
                && held.runs()
                && (held.target.place.app, &held.target.component) == (of.0, &of.1)
        });
        if let Some((twin, _)) = twin {
            let said = format!(
                "`{}`: {} starts while {} runs",
                of.1,
                short(&id.to_string()),
                short(&twin.to_string())
            );
            self.violate(Property::Single, said);
        }
    }

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
        let rows = &self.store.rows;
        if let Some(open) = rows
            .deployments
            .values()
            .find(|row| !row.state.is_final() && !self.waits_for_single(row.app))
        {
            let waits = plan.waits.iter().filter(|wait| wait.subject == open.id.to_string());
            let waits: Vec<&str> = waits.map(|wait| wait.reason.as_str()).collect();
            let id = short(&open.id.to_string());
            return Err(format!("{id} is {}: {}", open.state, waits.join("; ")));
        }
        let short_of_room = plan.waits.iter().any(|wait| wait.reason.contains("cannot be placed"))
            || plan.waits.iter().any(|wait| wait.reason.contains("stays:"));
        self.nodes_are_well(term.core.world())?;
        let waits = || plan.waits.iter().map(|it| format!("; {}: {}", short(&it.subject), it.reason));
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
            let Some(row) = row else { return Err(format!("node {n} has no row")) };
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
            let mut there: BTreeMap<&ComponentName, (usize, usize)> = BTreeMap::new();
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
                let (all, ready) = there.remove(name).unwrap_or_default();
                let enough = ready == want || short_of_room || away || !good;
                // What is live and never ready does not take the place of what is.
                if (all > want && good) || !enough {
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
