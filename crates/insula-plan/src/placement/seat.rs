//! Nodes as placement looks at them: small, in an array, in the order of their ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use insula_model::build::BuildState;
use insula_model::node::{Duty, Node, NodeMode};
use insula_model::spec::{Isolation, PlacementSpec, Runtime};
use insula_model::{Bytes, MilliCpu, NodeId, OrgId, ZoneName};

use super::{Ask, Kin, NoRoom, Refusal};
use crate::world::{Fleet, Load, Measured, Presence};

/// Shares are counted in parts of this: fine enough to tell nodes apart, small enough to pack.
pub(super) const WHOLE: u64 = 1 << 20;
/// The zone of a node whose zone nobody named.
pub(super) const NAMELESS: u32 = u32::MAX;
/// Distinct asks of one plan that are remembered to have found nothing.
const HOPELESS_MAX: usize = 256;

/// What is left on one node. Amounts only shrink while a plan is made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seat {
    cpu: Scale,
    memory: Scale,
    disk_free: u64,
    pids_free: u64,
    instances_free: u32,
    pub(super) zone: u32,
    /// Whether it takes one org only; which one stands in `Seats::orgs`.
    one_org: bool,
}

/// An amount of which some is reserved, and how much of it is used in truth.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    all: u64,
    free: u64,
    /// What one is worth in parts of the whole, so that no scan divides.
    worth: u64,
    /// The share that was measured, in parts of the whole.
    measured: u64,
}

/// How many binary digits of `Scale::worth` are behind the point.
const WORTH_POINT: u32 = 32;

impl Scale {
    fn new(all: u64, reserved: u64, measured: u64, real: u64) -> Self {
        let measured = measured.min(real).saturating_mul(WHOLE) / real.max(1);
        let worth = (WHOLE << WORTH_POINT) / all.max(1);
        Self { all, free: all.saturating_sub(reserved), worth, measured: measured.min(WHOLE - 1) }
    }

    /// The share that counts if this much more were reserved: of what is reserved and what is
    /// measured, the larger. Only for what fits.
    fn share(&self, more: u64) -> u64 {
        let reserved = ((self.all - self.free + more) * self.worth) >> WORTH_POINT;
        reserved.max(self.measured).min(WHOLE - 1)
    }

    fn take(&mut self, much: u64) {
        self.free = self.free.saturating_sub(much);
    }
}

/// Memory is weighed in these, so that shares fit in 64 bits.
const MEMORY_GRAIN: u32 = 10;

fn grains(bytes: Bytes) -> u64 {
    bytes.0.div_ceil(1 << MEMORY_GRAIN)
}

/// What decides which nodes can be asked at all, whatever is reserved on them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Filter {
    runtime: Runtime,
    isolation: Isolation,
    pool: Option<insula_model::PoolName>,
    zones: std::collections::BTreeSet<ZoneName>,
    labels: BTreeMap<insula_model::LabelName, insula_model::LabelValue>,
    architecture: Option<insula_model::node::Architecture>,
}

impl Filter {
    fn of(ask: &Ask) -> Self {
        let PlacementSpec { pool, zones, labels, architecture } = ask.placement.clone();
        Self { runtime: ask.runtime, isolation: ask.isolation, pool, zones, labels, architecture }
    }
}

/// How many instances of one component are where.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Spread {
    /// Each seat that has any, once for each.
    pub(super) slots: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Seats {
    ids: Vec<NodeId>,
    nodes: Vec<Arc<Node>>,
    here: Vec<bool>,
    pub(super) seats: Vec<Seat>,
    /// How many zones have a name.
    pub(super) zones: usize,
    orgs: BTreeMap<u32, OrgId>,
    eligible: BTreeMap<Filter, Arc<[u32]>>,
    pub(super) spreads: BTreeMap<Kin, Spread>,
    hopeless: Vec<(Ask, NoRoom)>,
    /// Zeroes between two choices; kept so that none allocates.
    pub(super) at_seat: Vec<u32>,
    pub(super) at_zone: Vec<u32>,
}

impl Seats {
    pub(super) fn of(fleet: &Fleet) -> Self {
        let mut made = Self::default();
        let mut zones: BTreeMap<ZoneName, u32> = BTreeMap::new();
        // All in the order of the nodes' ids: one walk over each.
        let mut heard = fleet.heard.iter().peekable();
        let mut measured = fleet.measured.iter().peekable();
        let mut loads = fleet.instances.loads().peekable();
        for (id, node) in &fleet.nodes {
            while heard.next_if(|(other, _)| *other < id).is_some() {}
            while measured.next_if(|(other, _)| *other < id).is_some() {}
            while loads.next_if(|(other, _)| other < id).is_some() {}
            let presence = heard.next_if(|(other, _)| *other == id).map(|(_, it)| *it);
            let used = measured.next_if(|(other, _)| *other == id).map(|(_, it)| *it);
            let load = loads.next_if(|(other, _)| other == id).map(|(_, it)| it);
            let zone = node.site.zone.as_ref().map_or(NAMELESS, |name| {
                let next = zones.len() as u32;
                *zones.entry(name.clone()).or_insert(next)
            });
            let slot = made.ids.len() as u32;
            let seat =
                Seat::of(fleet, node, load.unwrap_or_default(), used.unwrap_or_default(), zone);
            if seat.one_org
                && let Some(first) = fleet.instances.of_node(*id).next()
            {
                made.orgs.insert(slot, first.org);
            }
            made.ids.push(*id);
            made.nodes.push(Arc::clone(node));
            made.here.push(presence == Some(Presence::Here));
            made.seats.push(seat);
        }
        made.zones = zones.len();
        made.at_zone = vec![0; zones.len()];
        made.at_seat = vec![0; made.seats.len()];
        made.take_builds(fleet);
        made
    }

    fn take_builds(&mut self, fleet: &Fleet) {
        for build in fleet.builds() {
            let node = match &build.state {
                BuildState::Running { node, .. } => *node,
                BuildState::Queued
                | BuildState::Done { .. }
                | BuildState::Failed { .. }
                | BuildState::Cancelled => continue,
            };
            if let Some(slot) = self.slot(node) {
                self.take(slot, &Ask::build(Runtime::Host, build.org));
            }
        }
    }

    pub(super) fn slot(&self, node: NodeId) -> Option<u32> {
        self.ids.binary_search(&node).ok().map(|at| at as u32)
    }

    pub(super) fn id(&self, slot: u32) -> NodeId {
        self.ids[slot as usize]
    }

    pub(super) fn is_lost(&self, slot: u32) -> bool {
        self.nodes[slot as usize].lost.is_some()
    }

    /// The seats that an ask may take if there is room, in the order of their ids.
    pub(super) fn eligible(&mut self, ask: &Ask) -> Arc<[u32]> {
        let filter = Filter::of(ask);
        if let Some(found) = self.eligible.get(&filter) {
            return Arc::clone(found);
        }
        let all = 0..self.seats.len() as u32;
        let fit = |slot: &u32| self.unfit(*slot, ask).or(self.unable(*slot)).is_none();
        let found: Arc<[u32]> = all.filter(fit).collect();
        self.eligible.insert(filter, Arc::clone(&found));
        found
    }

    /// Whether an eligible seat has room.
    pub(super) fn fits(&self, slot: u32, ask: &Ask) -> bool {
        let seat = &self.seats[slot as usize];
        seat.cpu.free >= u64::from(ask.cpu.0)
            && seat.memory.free >= grains(ask.memory)
            && seat.pids_free >= u64::from(ask.pids)
            && seat.disk_free >= ask.disk.0
            && seat.instances_free > 0
            && (!seat.one_org || self.orgs.get(&slot).is_none_or(|org| *org == ask.org))
    }

    pub(super) fn take(&mut self, slot: u32, ask: &Ask) {
        let seat = &mut self.seats[slot as usize];
        seat.cpu.take(u64::from(ask.cpu.0));
        seat.memory.take(grains(ask.memory));
        seat.pids_free = seat.pids_free.saturating_sub(u64::from(ask.pids));
        seat.disk_free = seat.disk_free.saturating_sub(ask.disk.0);
        seat.instances_free = seat.instances_free.saturating_sub(1);
        if seat.one_org {
            self.orgs.insert(slot, ask.org);
        }
    }

    /// What every node says to an ask that found nothing.
    pub(super) fn no_room(&mut self, ask: &Ask) -> NoRoom {
        let all = 0..self.seats.len() as u32;
        let refused = all
            .filter_map(|slot| Some((&self.nodes[slot as usize].name, self.refusal(slot, ask)?)));
        let no = NoRoom::new(ask, &refused.collect::<Vec<_>>());
        // Room only shrinks: the next that asks for as much need not be weighed again.
        if self.hopeless.len() < HOPELESS_MAX {
            self.hopeless.push((ask.clone(), no.clone()));
        }
        no
    }

    pub(super) fn known_hopeless(&self, ask: &Ask) -> Option<NoRoom> {
        self.hopeless.iter().find(|(known, _)| known == ask).map(|(_, no)| no.clone())
    }

    /// Why a node is not taken: first what nothing will change, then its state, then its room.
    fn refusal(&self, slot: u32, ask: &Ask) -> Option<Refusal> {
        let seat = &self.seats[slot as usize];
        let whole = self.nodes[slot as usize].offer.capacity;
        let too_small = seat.short(
            ask,
            &Seat {
                cpu: Scale { free: seat.cpu.all, ..seat.cpu },
                memory: Scale { free: seat.memory.all, ..seat.memory },
                disk_free: whole.disk.0,
                pids_free: u64::from(whole.pids),
                instances_free: whole.instances,
                ..*seat
            },
            whole.instances,
        );
        let taken = seat.one_org && self.orgs.get(&slot).is_some_and(|org| *org != ask.org);
        self.unfit(slot, ask)
            .or(too_small)
            .or(self.unable(slot))
            .or(taken.then_some(Refusal::Org))
            .or(seat.short(ask, seat, whole.instances))
    }

    /// What about the node itself does not suit the ask, and never will.
    fn unfit(&self, slot: u32, ask: &Ask) -> Option<Refusal> {
        let node = &self.nodes[slot as usize];
        let (site, offer, wanted) = (&node.site, &node.offer, &ask.placement);
        let has_runtime = match ask.runtime {
            Runtime::Python | Runtime::Node => {
                offer.runtimes.iter().any(|found| found.runtime == ask.runtime)
            }
            Runtime::Files | Runtime::Host => true,
        };
        let in_zone = wanted.zones.is_empty()
            || site.zone.as_ref().is_some_and(|zone| wanted.zones.contains(zone));
        let mut labels = wanted.labels.iter();
        if site.pool != wanted.pool {
            Some(Refusal::Pool)
        } else if !in_zone {
            Some(Refusal::Zone)
        } else if !labels.all(|(name, value)| site.labels.get(name) == Some(value)) {
            Some(Refusal::Labels)
        } else if wanted.architecture.is_some_and(|wanted| wanted != offer.architecture) {
            Some(Refusal::Architecture { is: offer.architecture })
        } else if !offer.isolation.contains(&ask.isolation) {
            Some(Refusal::Isolation)
        } else if !has_runtime {
            Some(Refusal::Runtime)
        } else {
            None
        }
    }

    /// What keeps everything new away from the node for now.
    fn unable(&self, slot: u32) -> Option<Refusal> {
        let node = &self.nodes[slot as usize];
        if node.lost.is_some() {
            return Some(Refusal::Lost);
        }
        match node.duty {
            Duty::Drain { .. } => return Some(Refusal::Draining),
            Duty::Cordon { .. } => return Some(Refusal::Cordoned),
            Duty::Serve => {}
        }
        if !self.here[slot as usize] {
            return Some(Refusal::Away);
        }
        node.ailments.first().map(|it| Refusal::Degraded { ailment: it.kind })
    }

    /// The share of the processor that would count, and of the memory.
    pub(super) fn shares(&self, slot: u32, ask: &Ask) -> (u64, u64) {
        let seat = &self.seats[slot as usize];
        (seat.cpu.share(u64::from(ask.cpu.0)), seat.memory.share(grains(ask.memory)))
    }
}

impl Seat {
    fn of(fleet: &Fleet, node: &Node, load: Load, used: Measured, zone: u32) -> Self {
        let capacity = node.offer.capacity;
        let promised = |all: u64, hundredths: u32| all.saturating_mul(hundredths.into()) / 100;
        let cpu = u64::from(capacity.cpu.0);
        let memory = capacity.memory.0 >> MEMORY_GRAIN;
        Self {
            cpu: Scale::new(
                promised(cpu, fleet.rules.cpu_overcommit),
                load.cpu_milli,
                used.cpu.0.into(),
                cpu,
            ),
            memory: Scale::new(
                promised(memory, fleet.rules.memory_overcommit),
                grains(load.memory),
                grains(used.memory),
                memory,
            ),
            disk_free: capacity.disk.0.saturating_sub(load.disk.0),
            pids_free: u64::from(capacity.pids).saturating_sub(load.pids),
            instances_free: capacity.instances.saturating_sub(load.instances),
            zone,
            one_org: match node.offer.mode {
                NodeMode::Full => false,
                NodeMode::Development => true,
            },
        }
    }

    /// What `left` has too little of; said with what this seat has.
    fn short(&self, ask: &Ask, left: &Seat, most: u32) -> Option<Refusal> {
        if left.memory.free < grains(ask.memory) {
            Some(Refusal::Memory { free: Bytes(self.memory.free << MEMORY_GRAIN) })
        } else if left.cpu.free < u64::from(ask.cpu.0) {
            let free = u32::try_from(self.cpu.free).unwrap_or(u32::MAX);
            Some(Refusal::Cpu { free: MilliCpu(free) })
        } else if left.pids_free < u64::from(ask.pids) {
            Some(Refusal::Pids { free: u32::try_from(self.pids_free).unwrap_or(u32::MAX) })
        } else if left.disk_free < ask.disk.0 {
            Some(Refusal::Disk { free: Bytes(self.disk_free) })
        } else if left.instances_free == 0 {
            Some(Refusal::Instances { most })
        } else {
            None
        }
    }
}
