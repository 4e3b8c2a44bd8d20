//! A host with its agent, its keeper and the processes of its instances: what truly runs.
//!
//! The agent's contract, in words: it refuses the past by generation; it holds what its Target names
//! and stops whatever it does not; it goes on while it is cut off, and when it begins anew it obeys
//! the Target on its disk; it reports everything that it holds. What has `failover = "lease"` it
//! runs only while a server answers: it stops it `FAILOVER_LEASE` after it sent the last heartbeat
//! that was answered, the keeper ends it a grace later whatever the agent does, and it begins again
//! only after a Target that came after contact did.

mod held;

use std::collections::BTreeMap;

use insula_model::build::BuildPlan;
use insula_model::deployment::{Cause, CauseCode};
use insula_model::node::Offer;
use insula_model::observed::{BuildPhase, BuildReport, Exit, NodeReport};
use insula_model::spec::Failover;
use insula_model::target::{InstanceIntent, InstanceTarget, NodeTarget, accept};
use insula_model::{BuildId, Digest, Generation, InstanceId, NodeId, NodeName, limits};

use crate::behaviour::Behaviour;
use crate::chance::Chance;
pub use held::{Held, Life};

/// The longest that fetching and unpacking takes.
const PREPARE_MAX_MS: u64 = 1_200;
/// The longest build.
const BUILD_MAX_MS: u64 = 6_000;

/// What a node makes of what all nodes promise. One that breaks a promise shows that the properties
/// see it, without any mistake in the code under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Habit {
    #[default]
    Sound,
    /// It goes on with what depends on contact, whoever else was asked to run it.
    IgnoresLeases,
    /// It ends what is ready when its server is silent.
    Panics,
}

#[derive(Debug)]
pub struct Machine {
    pub habit: Habit,
    pub id: NodeId,
    pub name: NodeName,
    pub offer: Offer,
    pub site: insula_model::node::Site,
    /// It has power.
    pub up: bool,
    /// Its agent runs.
    pub agent: bool,
    /// All of it stands still.
    pub frozen: bool,
    pub removed: bool,
    /// It has been started for the first time.
    pub joined: bool,
    pub disk: Option<NodeTarget>,
    pub held: BTreeMap<InstanceId, Held>,
    builds: BTreeMap<BuildId, Building>,
    /// Sending time of the last heartbeat that was answered, since boot.
    contact: Option<u64>,
    epoch: u64,
    granted: Option<u64>,
    /// The epoch that the present session began in, once it was answered.
    spoken: Option<Option<u64>>,
    pub session: Option<u64>,
    /// When the server answered last in this session, or the session began.
    pub answered: u64,
    pub said: Option<NodeReport>,
    pub clock_ms: i64,
    /// When `step` is due, as far as that was announced.
    pub due: Option<u64>,
}

#[derive(Debug)]
struct Building {
    attempt: u32,
    source: Digest,
    until: u64,
    fails: bool,
}

/// What others may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Began(InstanceId),
    BecameReady(InstanceId),
    /// One that was ready is being stopped, by its Target or, if so, because its lease is over.
    StoppedReady(InstanceId, bool),
    Gone(InstanceId),
}

impl Machine {
    pub fn new(id: NodeId, name: NodeName, offer: Offer, site: insula_model::node::Site) -> Self {
        Self {
            habit: Habit::Sound,
            id,
            name,
            offer,
            site,
            up: false,
            agent: false,
            frozen: false,
            removed: false,
            joined: false,
            disk: None,
            held: BTreeMap::new(),
            builds: BTreeMap::new(),
            contact: None,
            epoch: 0,
            granted: None,
            spoken: None,
            session: None,
            answered: 0,
            said: None,
            clock_ms: 0,
            due: None,
        }
    }

    /// Whether its agent does anything now.
    pub fn works(&self) -> bool {
        self.up && self.agent && !self.frozen
    }

    pub fn generation(&self) -> Generation {
        self.disk.as_ref().map_or(Generation(0), |target| target.generation)
    }

    fn contact_is_over(&self, now: u64) -> bool {
        self.contact.is_none_or(|heard| now.saturating_sub(heard) >= limits::FAILOVER_LEASE.0)
    }

    fn lease_holds(&self, now: u64) -> bool {
        if self.habit == Habit::IgnoresLeases {
            return true;
        }
        self.granted == Some(self.epoch) && !self.contact_is_over(now)
    }

    fn is_fenced(&self, target: &InstanceTarget, now: u64) -> bool {
        match target.failover {
            Failover::Lease => !self.lease_holds(now),
            Failover::Never => self.habit == Habit::Panics && self.contact_is_over(now),
        }
    }

    pub fn begin_session(&mut self, session: u64, now: u64) {
        self.session = Some(session);
        self.spoken = None;
        self.answered = now;
    }

    /// A server has answered what was sent then. False if that took longer than a lease: what was
    /// said in this session counts no more, and the agent dials again to be told once more.
    #[must_use]
    pub fn answered(&mut self, sent: u64, now: u64) -> bool {
        self.answered = now;
        if self.contact_is_over(now) {
            self.epoch += 1;
        }
        self.contact = self.contact.max(Some(sent));
        let epoch = (!self.contact_is_over(now)).then_some(self.epoch);
        *self.spoken.get_or_insert(epoch) == epoch
    }

    pub fn crash_agent(&mut self) {
        self.agent = false;
        self.session = None;
        self.said = None;
    }

    /// The agent begins anew, and obeys the Target on its disk. What was granted lies there, too.
    pub fn start_agent(&mut self, now: u64, chance: &mut Chance) -> Vec<Happened> {
        self.agent = true;
        self.joined = true;
        self.session = None;
        self.said = None;
        self.converge(now, chance)
    }

    pub fn crash(&mut self, now: u64) -> Vec<Happened> {
        self.crash_agent();
        self.up = false;
        self.contact = None;
        self.granted = None;
        let mut happened = Vec::new();
        for (id, held) in &mut self.held {
            if held.runs() {
                happened.push(Happened::Gone(*id));
                held.ended(Exit::Lost, now);
            }
        }
        self.builds.clear();
        happened
    }

    /// Refuses the past; whether it took the Target.
    pub fn take(
        &mut self,
        target: NodeTarget,
        now: u64,
        chance: &mut Chance,
    ) -> Option<Vec<Happened>> {
        accept(self.generation(), target.generation).ok()?;
        self.disk = Some(target);
        if !self.contact_is_over(now) && self.spoken == Some(Some(self.epoch)) {
            self.granted = Some(self.epoch);
        }
        Some(self.converge(now, chance))
    }

    /// Makes what is held what is named.
    fn converge(&mut self, now: u64, chance: &mut Chance) -> Vec<Happened> {
        let mut happened = Vec::new();
        let Some(target) = self.disk.take() else { return happened };
        let named: BTreeMap<InstanceId, &InstanceTarget> =
            target.instances.iter().map(|it| (it.id, it)).collect();
        let mut stop = Vec::new();
        for id in self.held.keys() {
            let run = named.get(id).is_some_and(|it| it.intent == InstanceIntent::Run);
            let fenced = run && named.get(id).is_some_and(|it| self.is_fenced(it, now));
            if !run || fenced {
                stop.push((*id, fenced));
            }
        }
        for (id, fenced) in stop {
            self.stop(id, fenced, now, chance, &mut happened);
        }
        for (id, it) in named {
            if it.intent == InstanceIntent::Run && !self.is_fenced(it, now) {
                let prepared = now + chance.between(20, PREPARE_MAX_MS);
                self.held.entry(id).or_insert_with(|| Held::new(it.clone(), prepared));
            }
        }
        let wanted: BTreeMap<BuildId, u32> =
            target.builds.iter().map(|build| (build.id, build.attempt)).collect();
        self.builds.retain(|id, held| wanted.get(id) == Some(&held.attempt));
        for build in &target.builds {
            let until = now + chance.between(300, BUILD_MAX_MS);
            let fails = breaks(&build.plan);
            let (attempt, source) = (build.attempt, build.source);
            let begun = Building { attempt, source, until, fails };
            self.builds.entry(build.id).or_insert(begun);
        }
        self.disk = Some(target);
        happened
    }

    fn stop(
        &mut self,
        id: InstanceId,
        fenced: bool,
        now: u64,
        chance: &mut Chance,
        happened: &mut Vec<Happened>,
    ) {
        let Some(held) = self.held.get_mut(&id) else { return };
        if held.is_stopping() {
            return;
        }
        held.wanted = false;
        if held.life == Life::Ready {
            happened.push(Happened::StoppedReady(id, fenced));
        }
        if held.runs() {
            // It may take all its grace, or none of it.
            let span = chance.between(0, held.grace());
            held.life = Life::Stopping { until: now + span };
        } else {
            self.held.remove(&id);
            happened.push(Happened::Gone(id));
        }
    }

    /// Ends the process of an instance, as its own fault; whether it had one.
    pub fn kill(&mut self, id: InstanceId, now: u64) -> bool {
        let Some(held) = self.held.get_mut(&id) else { return false };
        match held.life {
            Life::Starting { .. } | Life::Ready | Life::Stuck => {
                held.ended(Exit::Signal { signal: 9 }, now);
                true
            }
            Life::Preparing { .. } | Life::BackingOff { .. } | Life::Stopping { .. } => false,
        }
    }

    /// What time brings.
    pub fn step(&mut self, now: u64, flaky: bool, chance: &mut Chance) -> Vec<Happened> {
        let mut happened = Vec::new();
        if !self.up || self.frozen {
            return happened;
        }
        self.end_what_is_over(now, &mut happened);
        if self.agent {
            // Before anything starts: it may have stood still until now.
            happened.extend(self.converge(now, chance));
            for held in self.held.values_mut() {
                held.step(now, flaky, chance, &mut happened);
            }
        }
        happened
    }

    /// Processes whose stop has come to its end, and what the keeper ends for its lease.
    fn end_what_is_over(&mut self, now: u64, happened: &mut Vec<Happened>) {
        let contact = self.contact;
        self.held.retain(|id, held| {
            let leased =
                held.target.failover == Failover::Lease && self.habit != Habit::IgnoresLeases;
            let end = contact.map(|heard| heard + limits::FAILOVER_LEASE.0 + held.grace());
            let over = leased && held.runs() && end.is_some_and(|end| now >= end);
            let stopped = matches!(held.life, Life::Stopping { until } if now >= until);
            if over || stopped {
                happened.push(Happened::Gone(*id));
            }
            !(over || stopped)
        });
    }

    /// When `step` changes something that no message announces.
    pub fn next(&self, now: u64) -> Option<u64> {
        if !self.up || self.frozen {
            return None;
        }
        let lease = self.contact.map(|heard| heard + limits::FAILOVER_LEASE.0);
        let mut next: Option<u64> = None;
        let mut wake = |at: u64| next = Some(next.map_or(at, |other: u64| other.min(at)));
        for held in self.held.values() {
            if held.target.failover == Failover::Lease && held.runs() {
                // Once for the agent, once for the keeper.
                for end in lease.into_iter().flat_map(|end| [end, end + held.grace()]) {
                    if end > now {
                        wake(end);
                    }
                }
            }
            match held.life {
                Life::Preparing { until } | Life::BackingOff { until } if self.agent => wake(until),
                Life::Starting { since } if self.agent => {
                    held.starts(since).into_iter().for_each(&mut wake);
                }
                Life::Stopping { until } => wake(until),
                Life::Ready if self.agent && held.unready_until > now => wake(held.unready_until),
                Life::Preparing { .. }
                | Life::BackingOff { .. }
                | Life::Starting { .. }
                | Life::Ready
                | Life::Stuck => {}
            }
        }
        if self.agent {
            self.builds.values().filter(|it| it.until > now).for_each(|it| wake(it.until));
        }
        next.map(|at| at.max(now + 1))
    }

    /// Everything that it holds.
    pub fn report(&self, now: u64) -> NodeReport {
        let build = |(id, it): (&BuildId, &Building)| {
            let phase = if now < it.until {
                BuildPhase::Running { step: "compile".to_owned() }
            } else if it.fails {
                BuildPhase::Failed {
                    cause: Cause::new(CauseCode::BuildFailed, "it does not compile"),
                }
            } else {
                BuildPhase::Done { artifact: Behaviour::artifact(it.source) }
            };
            BuildReport { id: *id, phase }
        };
        NodeReport {
            generation: self.generation(),
            instances: self.held.iter().map(|(id, held)| held.report(*id, now)).collect(),
            builds: self.builds.iter().map(build).collect(),
            ailments: Vec::new(),
        }
    }
}

/// Whether a plan is one that fails: its only step says so.
fn breaks(plan: &BuildPlan) -> bool {
    plan.steps.iter().any(|step| step.name == "break")
}
