//! A run is a few rounds: first it is rough, with faults and people at work; then it is calm, and
//! within a bounded time everything has to be as it was asked for, and to stay so.

use insula_model::deployment::DeploymentState;
use insula_model::{AppId, DeploymentId};

use crate::behaviour::Behaviour;
use crate::property::Property;
use crate::sim::{Event, Sim};

/// The longest patience of the control plane is five minutes, for nodes that are lost while a
/// deployment starts; one rollout or drain may come after it.
const CALM_MS_MAX: u64 = 460_000;
/// For so long nothing at all may change once all is as it was asked for. Longer than the control
/// plane's look at everything, which so happens in it now and then.
const STAYS_MS: u64 = 12_000;
const LOOK_EVERY_MS: u64 = 2_000;
/// What was under way when it became calm arrives within this, and is noticed: a question about the
/// lease that a slow store answers late takes the term from whoever asked it, say.
const UNDER_WAY_MS_MAX: u64 = 5_000;
/// A good release goes live within this, in a calm fleet.
const DEPLOY_MS_MAX: u64 = 60_000;

#[derive(Debug, Default)]
pub struct Round {
    number: usize,
    rough_until: u64,
    calm_since: u64,
    /// Since when all is well.
    well_since: Option<u64>,
    /// The deployment that shows whether one goes through.
    probe: Option<(DeploymentId, u64)>,
    probed: bool,
    rough: bool,
}

impl Round {
    /// Whether things go wrong, and people work.
    pub fn is_rough(&self) -> bool {
        self.rough
    }

    /// Until when it is rough, if it is.
    pub fn rough_until(&self) -> u64 {
        self.rough_until
    }

    pub fn calm_since(&self) -> u64 {
        self.calm_since
    }
}

impl Sim {
    pub fn begin_rounds(&mut self) {
        self.begin_rough();
        self.queue.push(self.now + LOOK_EVERY_MS, Event::Look);
    }

    fn begin_rough(&mut self) {
        let lasts = self.chance.between(60_000, 240_000);
        self.round.number += 1;
        self.round.rough = true;
        self.round.rough_until = self.now + lasts;
        self.round.probe = None;
        self.round.probed = false;
        self.trace.tell(self.now, || "it is rough from here on".to_owned());
        self.queue.push(self.now + 2_500, Event::Operator);
        self.queue.push(self.now + 5_000, Event::Fault);
    }

    /// Looks whether a part of the round is over, or all is well.
    pub fn look(&mut self) {
        self.queue.push(self.now + LOOK_EVERY_MS, Event::Look);
        if self.round.rough {
            if self.now >= self.round.rough_until {
                self.round.rough = false;
                self.round.calm_since = self.now;
                self.round.well_since = None;
                self.trace.tell(self.now, || "it is calm from here on".to_owned());
                self.heal_all();
            }
            return;
        }
        if self.now < self.round.calm_since + UNDER_WAY_MS_MAX {
            return;
        }
        // In the middle of a write nothing can be said; there is always another moment.
        if self.is_writing() && self.now < self.round.calm_since + CALM_MS_MAX {
            return;
        }
        if let Err(wrong) = self.is_well() {
            if self.round.well_since.take().is_some() {
                self.violate(Property::Stays, format!("what was well is not any more: {wrong}"));
            } else if self.now > self.round.calm_since + CALM_MS_MAX {
                self.violate(Property::Stays, format!("it did not become well: {wrong}"));
            } else if self.round.probe.is_some_and(|(_, since)| self.now > since + DEPLOY_MS_MAX) {
                self.violate(Property::Verdict, format!("a good release is not live: {wrong}"));
            }
            return;
        }
        self.checked(Property::Stays);
        let since = *self.round.well_since.get_or_insert(self.now);
        if self.acted_at > since {
            let detail = "all was as asked for, and the control plane acted".to_owned();
            return self.violate(Property::Stays, detail);
        }
        if self.now < since + STAYS_MS {
            return;
        }
        if let Some((probe, _)) = self.round.probe.take() {
            self.probe_ended(probe);
        }
        if !self.round.probed {
            self.round.probed = true;
            if let Some(app) = self.can_be_probed() {
                return self.probe(app);
            }
        }
        if self.round.number >= self.setup.rounds {
            self.done = true;
            return;
        }
        self.begin_rough();
    }

    fn can_be_probed(&mut self) -> Option<AppId> {
        if self.setup.tight || !self.has_room() {
            return None;
        }
        let known = self.known.apps.iter().filter(|(_, wanted)| wanted.running);
        let apps: Vec<AppId> = known.map(|(id, _)| *id).collect();
        let free: Vec<AppId> =
            apps.into_iter().filter(|app| !self.waits_for_single(*app)).collect();
        self.chance.pick(&free).copied()
    }

    fn probe(&mut self, app: AppId) {
        let Some(leader) = self.leader() else { return };
        let wall = self.clocks(leader).wall;
        // Ids sort by time: a clock that was set back must not make this one the older.
        let newest = self.store.rows.deployments.values().map(|row| row.created).max();
        let wall = newest.map_or(wall, |newest| wall.max(newest.plus(insula_model::Millis(1))));
        let before = self.known.deployments.clone();
        self.deploy_this(app, Behaviour::Good { ready_after: 300 }, wall);
        let new = self.known.deployments.difference(&before).next().copied();
        self.round.probe = new.map(|id| (id, self.now));
        self.round.well_since = None;
    }

    fn probe_ended(&mut self, probe: DeploymentId) {
        self.checked(Property::Verdict);
        let state = self.store.rows.deployments.get(&probe).map(|row| row.state.clone());
        if state != Some(DeploymentState::Live) {
            let said = state.map_or_else(|| "gone".to_owned(), |state| format!("{state:?}"));
            self.violate(
                Property::Verdict,
                format!(
                    "a good release in a calm fleet: {}: {said}",
                    crate::words::short(&probe.to_string())
                ),
            );
        }
    }
}
