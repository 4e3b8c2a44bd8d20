//! Chooses a node for each instance that has none.
//!
//! In: what the nodes have, what is reserved and measured on them, and where the component's other
//! instances are. Out: a node, or the reason of every node that was refused. Never moves a placed
//! instance and never looks at an instance's health: placement that reacts to health moves load
//! exactly when the fleet is weakest. The order of preference stands in decision 0015.

mod choice;
mod refusal;
mod seat;

use insula_model::instance::{Instance, Intent};
use insula_model::spec::{ComponentSpec, Isolation, PlacementSpec, Runtime};
use insula_model::{AppId, Bytes, ComponentName, MilliCpu, NodeId, OrgId, limits};

pub use refusal::{NoRoom, Refusal, Why};

use crate::world::{Fleet, World};
use seat::Seats;

/// What an instance or a build asks of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub cpu: MilliCpu,
    pub memory: Bytes,
    pub pids: u32,
    pub disk: Bytes,
    pub runtime: Runtime,
    pub isolation: Isolation,
    pub placement: PlacementSpec,
    /// Whose it is: a node without isolation between orgs takes one org only.
    pub org: OrgId,
}

impl Ask {
    pub fn of(spec: &ComponentSpec, org: OrgId) -> Self {
        Self {
            cpu: spec.cpu,
            memory: spec.memory,
            pids: spec.pids,
            disk: spec.disk,
            runtime: spec.runtime,
            isolation: spec.isolation,
            placement: spec.placement.clone(),
            org,
        }
    }

    /// What a build reserves. Less than its ceiling: builds are short, and most are small.
    pub fn build(runtime: Runtime, org: OrgId) -> Self {
        Self {
            cpu: limits::CPU_DEFAULT,
            memory: limits::MEMORY_DEFAULT,
            pids: limits::PIDS_DEFAULT,
            disk: limits::DISK_DEFAULT,
            runtime,
            isolation: Isolation::Standard,
            placement: PlacementSpec::default(),
            org,
        }
    }
}

/// The instances of one component: they are kept apart from each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kin {
    pub app: AppId,
    pub component: ComponentName,
}

impl Kin {
    pub fn new(app: AppId, component: &ComponentName) -> Self {
        Self { app, component: component.clone() }
    }

    /// Whether an instance counts: those that leave, and runs, do not.
    fn counts(&self, instance: &Instance) -> bool {
        instance.component == self.component
            && instance.run.is_none()
            && instance.intent == Intent::Run
    }
}

/// What is left on each node while a plan is being made.
///
/// Nothing is worked out before the first that asks; from then on the room only shrinks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Room {
    fleet: Fleet,
    seats: Option<Box<Seats>>,
    /// How often there was none.
    short: u64,
}

impl Room {
    pub fn of(world: &World) -> Self {
        Self { fleet: world.fleet(), seats: None, short: 0 }
    }

    /// Takes the best node that fits.
    pub fn place(&mut self, ask: &Ask, kin: Option<&Kin>) -> Result<NodeId, NoRoom> {
        let (nodes, no) = self.place_many(ask, kin, 1);
        match (nodes.first(), no) {
            (Some(node), _) => Ok(*node),
            (None, Some(no)) => Err(no),
            (None, None) => Err(NoRoom::default()),
        }
    }

    /// Takes `n` nodes, one after the other, or as many as there is room for and why not more.
    pub fn place_many(
        &mut self,
        ask: &Ask,
        kin: Option<&Kin>,
        n: usize,
    ) -> (Vec<NodeId>, Option<NoRoom>) {
        let seats = self.seats.get_or_insert_with(|| Box::new(Seats::of(&self.fleet)));
        let (nodes, no) = choice::choose(seats, &self.fleet.instances, ask, kin, n);
        self.short += u64::from(no.is_some());
        (nodes, no)
    }

    /// How often somebody was refused so far.
    pub(crate) fn short(&self) -> u64 {
        self.short
    }

    /// Lets go of the view: the plan is made, and may be kept for long.
    pub(crate) fn close(&mut self) {
        *self = Self { short: self.short, ..Self::default() };
    }
}
