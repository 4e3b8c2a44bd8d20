//! Whether what was placed is spread, counted again without the code that placed it.
//!
//! What is promised: a component is in every zone that it may be in, and on the nodes of each, one
//! more here than there at the most. A node that is nearly full gives way, and its zone with it, so
//! only places count that had room to spare to the end; what is placed here never leaves.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use insula_model::node::Node;
use insula_model::spec::{ComponentSpec, PlacementSpec};
use insula_model::{NodeId, ZoneName};
use insula_plan::World;
use insula_plan::world::Load;

use super::fleet::{Deployed, Rows};

/// More in one place than in another of the same kind, at the most.
const APART_MAX: u32 = 1;
/// In hundredths of what a node has. It counts as busy from 75 on, and then gives way.
const CALM_MAX: u64 = 70;

#[derive(Debug, Default)]
pub struct Spread {
    apps: u32,
    /// Those that may be anywhere, and how far their zones and nodes are apart, in the worst.
    free: u32,
    zones: u32,
    nodes: u32,
    /// Apps of which every zone had room to spare to the end.
    whole: u32,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { apps, free, zones, nodes, whole } = self;
        write!(
            f,
            "{apps} apps, {free} of them without constraints: zones at most {zones} apart, nodes of \
             a zone {nodes}; all zones of {whole} had room to spare"
        )
    }
}

/// Whether a node may have it at all.
pub fn suits(node: &Node, asks: &PlacementSpec) -> bool {
    let site = &node.site;
    site.pool == asks.pool
        && asks.labels.iter().all(|(key, value)| site.labels.get(key) == Some(value))
        && (asks.zones.is_empty() || site.zone.as_ref().is_some_and(|z| asks.zones.contains(z)))
}

/// An error if an app is not spread as is promised.
pub fn check(rows: &Rows, world: &World) -> Result<Spread> {
    let mut spread = Spread::default();
    let mut by_kind: Vec<(&PlacementSpec, Zones<'_>)> = Vec::new();
    for one in &rows.apps {
        let spec = one.release.spec.components.values().next().context("one component")?;
        let known = by_kind.iter().position(|(asks, _)| **asks == spec.placement);
        let known = known.unwrap_or_else(|| {
            by_kind.push((&spec.placement, zones(rows, world, &spec.placement)));
            by_kind.len() - 1
        });
        let (_, zones) = by_kind.get(known).context("just put there")?;
        spread.look(world, one, spec, zones)?;
    }
    Ok(spread)
}

/// The nodes that a kind of app may be on, with what each has to carry.
type Zones<'a> = BTreeMap<&'a ZoneName, Vec<(&'a Node, Load)>>;

fn zones<'a>(rows: &'a Rows, world: &World, asks: &PlacementSpec) -> Zones<'a> {
    let mut zones = Zones::new();
    for node in rows.nodes.iter().filter(|node| suits(node, asks)) {
        if let Some(zone) = &node.site.zone {
            zones.entry(zone).or_default().push((node, world.instances.load(node.id)));
        }
    }
    zones
}

impl Spread {
    fn look(
        &mut self,
        world: &World,
        one: &Deployed,
        spec: &ComponentSpec,
        zones: &Zones<'_>,
    ) -> Result<()> {
        let mut on: BTreeMap<NodeId, u32> = BTreeMap::new();
        for instance in world.instances.of_app(one.app.id) {
            *on.entry(instance.node).or_default() += 1;
        }
        let (mut most, mut least, mut calm_zones) = (0, u32::MAX, 0);
        let mut of_nodes = 0;
        for nodes in zones.values() {
            let of = |node: &Node| on.get(&node.id).copied().unwrap_or_default();
            let there: u32 = nodes.iter().map(|(node, _)| of(node)).sum();
            most = most.max(there);
            let calm = nodes.iter().filter(|(node, load)| is_calm(world, node, load, spec));
            let Some(fewest) = calm.map(|(node, _)| of(node)).min() else { continue };
            (least, calm_zones) = (least.min(there), calm_zones + 1);
            let on_one = nodes.iter().map(|(node, _)| of(node)).max().unwrap_or_default();
            of_nodes = of_nodes.max(on_one.saturating_sub(fewest));
        }
        let of_zones = most.saturating_sub(least);
        let name = &one.app.name;
        ensure!(of_zones <= APART_MAX, "{name} has {of_zones} more in one zone than in another");
        ensure!(of_nodes <= APART_MAX, "{name} has {of_nodes} more on one node than on another");
        self.apps += 1;
        self.whole += u32::from(calm_zones == zones.len());
        if spec.placement == PlacementSpec::default() {
            self.free += 1;
            self.zones = self.zones.max(of_zones);
            self.nodes = self.nodes.max(of_nodes);
        }
        Ok(())
    }
}

/// Whether one more would not make a node busy.
fn is_calm(world: &World, node: &Node, load: &Load, spec: &ComponentSpec) -> bool {
    let (has, rules) = (node.offer.capacity, world.rules);
    let below = |sum: u64, all: u64, promised: u32| {
        let all = all.saturating_mul(u64::from(promised)) / 100;
        sum.saturating_mul(100) <= all.saturating_mul(CALM_MAX)
    };
    below(load.cpu_milli + u64::from(spec.cpu.0), has.cpu.0.into(), rules.cpu_overcommit)
        && below(load.memory.0 + spec.memory.0, has.memory.0, rules.memory_overcommit)
        && load.instances < has.instances
        && load.pids + u64::from(spec.pids) <= has.pids.into()
        && load.disk.0 + spec.disk.0 <= has.disk.0
}
