//! The best of those that fit: one look at every node, however many instances are placed.
//!
//! A node's place in the order is one number, most important part first (decision 0015). Taking a
//! node only ever makes it, and its zone, less attractive; so the best of all can be kept at the
//! top of a heap for each zone, and what comes out is what placing one after another would give.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use insula_model::NodeId;

use super::seat::{NAMELESS, Seats, Spread, WHOLE};
use super::{Ask, Kin, NoRoom};
use crate::world::Instances;

/// From which share on a node counts as busy, and as nearly full. Below the first, spread decides:
/// a component on three half-loaded nodes is better off than on the emptiest one alone.
const BUSY: u64 = WHOLE / 4 * 3;
const NEARLY_FULL: u64 = WHOLE / 10 * 9;

const STEP_BITS: u32 = 4;
const COUNT_BITS: u32 = 24;
const SHARE_BITS: u32 = 20;
const SLOT_BITS: u32 = 32;
const ZONE_SHIFT: u32 = COUNT_BITS + 2 * SHARE_BITS + SLOT_BITS;
const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;
const _: () = assert!(2 * STEP_BITS + 2 * COUNT_BITS + 2 * SHARE_BITS + SLOT_BITS <= 128);

/// Where a node stands among those that fit; the least is taken.
type Rank = u128;

fn step(share: u64) -> u128 {
    match share {
        NEARLY_FULL.. => 2,
        BUSY.. => 1,
        _ => 0,
    }
}

/// The rank of a seat, with nothing said of its zone.
fn rank_at(seats: &Seats, slot: u32, ask: &Ask) -> Rank {
    let (cpu, memory) = seats.shares(slot, ask);
    let count = seats.at_seat[slot as usize].min(COUNT_MAX);
    let mut rank = (step(cpu) << STEP_BITS) | step(memory);
    rank <<= COUNT_BITS;
    // A node without a zone is a zone of its own: what it has, its zone has.
    rank |= if seats.seats[slot as usize].zone == NAMELESS { u128::from(count) } else { 0 };
    rank = (rank << COUNT_BITS) | u128::from(count);
    rank = (rank << SHARE_BITS) | u128::from(cpu);
    rank = (rank << SHARE_BITS) | u128::from(memory);
    (rank << SLOT_BITS) | u128::from(slot)
}

fn slot_of(rank: Rank) -> u32 {
    (rank & u128::from(u32::MAX)) as u32
}

/// The same with how many the zone has.
fn with_zone(rank: Rank, in_zone: u32) -> Rank {
    rank + (u128::from(in_zone.min(COUNT_MAX)) << ZONE_SHIFT)
}

pub(super) fn choose(
    seats: &mut Seats,
    instances: &Instances,
    ask: &Ask,
    kin: Option<&Kin>,
    n: usize,
) -> (Vec<NodeId>, Option<NoRoom>) {
    if n == 0 {
        return (Vec::new(), None);
    }
    if let Some(no) = seats.known_hopeless(ask) {
        return (Vec::new(), Some(no));
    }
    let eligible = seats.eligible(ask);
    let mut spread = kin.map(|kin| spread_of(seats, instances, kin)).unwrap_or_default();
    spread.slots.iter().for_each(|slot| count(seats, *slot, 1));
    let taken = match n {
        1 => one(seats, &eligible, ask).into_iter().collect(),
        _ => many(seats, &eligible, ask, kin.is_some(), n),
    };
    spread.slots.iter().for_each(|slot| count(seats, *slot, -1));
    if n == 1 {
        taken.iter().for_each(|slot| seats.take(*slot, ask));
    }
    let nodes: Vec<NodeId> = taken.iter().map(|slot| seats.id(*slot)).collect();
    if let Some(kin) = kin {
        spread.slots.extend(taken);
        seats.spreads.insert(kin.clone(), spread);
    }
    let no = (nodes.len() < n).then(|| seats.no_room(ask));
    (nodes, no)
}

/// Where the component's instances are, those that this plan has placed among them. What is on a
/// lost node serves nobody, so it does not keep others away.
fn spread_of(seats: &mut Seats, instances: &Instances, kin: &Kin) -> Spread {
    seats.spreads.remove(kin).unwrap_or_else(|| {
        let of = instances.of_app(kin.app).filter(|instance| kin.counts(instance));
        let slots = of.filter_map(|instance| seats.slot(instance.node));
        Spread { slots: slots.filter(|slot| !seats.is_lost(*slot)).collect() }
    })
}

fn count(seats: &mut Seats, slot: u32, by: i32) {
    let at = &mut seats.at_seat[slot as usize];
    *at = at.saturating_add_signed(by);
    let zone = seats.seats[slot as usize].zone;
    if zone != NAMELESS {
        let at = &mut seats.at_zone[zone as usize];
        *at = at.saturating_add_signed(by);
    }
}

fn in_zone(seats: &Seats, zone: u32) -> u32 {
    if zone == NAMELESS { 0 } else { seats.at_zone[zone as usize] }
}

fn one(seats: &Seats, eligible: &[u32], ask: &Ask) -> Option<u32> {
    let fit = eligible.iter().filter(|slot| seats.fits(**slot, ask));
    let ranks = fit.map(|slot| {
        with_zone(rank_at(seats, *slot, ask), in_zone(seats, seats.seats[*slot as usize].zone))
    });
    ranks.min().map(slot_of)
}

fn many(seats: &mut Seats, eligible: &[u32], ask: &Ask, spread: bool, n: usize) -> Vec<u32> {
    // One heap for each zone that has a name, the last one for all nodes that have none.
    let mut ranks: Vec<Vec<Reverse<Rank>>> = vec![Vec::new(); seats.zones + 1];
    let heap_of = |zone: u32, zones: usize| (zone as usize).min(zones);
    for slot in eligible.iter().filter(|slot| seats.fits(**slot, ask)) {
        let heap = heap_of(seats.seats[*slot as usize].zone, seats.zones);
        ranks[heap].push(Reverse(rank_at(seats, *slot, ask)));
    }
    let mut heaps: Vec<BinaryHeap<Reverse<Rank>>> =
        ranks.into_iter().map(BinaryHeap::from).collect();
    let mut taken = Vec::with_capacity(n);
    while taken.len() < n {
        let tops = heaps.iter().enumerate().filter_map(|(at, heap)| {
            let Reverse(rank) = heap.peek()?;
            Some((with_zone(*rank, seats.at_zone.get(at).copied().unwrap_or(0)), at))
        });
        let Some((rank, at)) = tops.min() else { break };
        let slot = slot_of(rank);
        heaps[at].pop();
        seats.take(slot, ask);
        if spread {
            count(seats, slot, 1);
        }
        taken.push(slot);
        if seats.fits(slot, ask) {
            heaps[at].push(Reverse(rank_at(seats, slot, ask)));
        }
    }
    if spread {
        taken.iter().for_each(|slot| count(seats, *slot, -1));
    }
    taken
}
