//! What the gateways serve, from what was published and what they acknowledged.
//!
//! Of each instance is kept since which table it is routed and up to which it was, not one set for
//! each table: what an acknowledgement costs must not depend on how far behind a gateway stays, for
//! gateways parse strangers' bytes and may be anybody's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use insula_model::routes::RouteTable;
use insula_model::{GatewayId, Generation, InstanceId};
use insula_plan::Edge;

/// Published tables that are remembered. A gateway further behind than this counts as unknown.
const TABLES_REMEMBERED_MAX: usize = 64;

/// The memory behind [`insula_plan::Edge`].
#[derive(Debug, Default)]
pub(super) struct EdgeLedger {
    /// Generations of the tables that are remembered, the oldest first.
    published: VecDeque<Generation>,
    spans: BTreeMap<InstanceId, Span>,
    gateways: BTreeMap<GatewayId, Following>,
    routed: Option<Routed>,
}

/// The tables, one after the other, that an instance is in. One that left and came back has the
/// later ones only: whoever serves an earlier one is not counted as serving it, and need not be.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Generation,
    /// Nothing if it is in the newest.
    to: Option<Generation>,
}

/// Who is routed by gateways that serve nothing older than `oldest` and nothing newer than
/// `newest`, made of the table of that number.
#[derive(Debug)]
struct Routed {
    made_of: Option<Generation>,
    oldest: Generation,
    newest: Generation,
    by_all: Arc<BTreeSet<InstanceId>>,
    by_any: Arc<BTreeSet<InstanceId>>,
}

#[derive(Debug, Default)]
struct Following {
    acked: Option<Generation>,
    busy: BTreeSet<InstanceId>,
}

impl EdgeLedger {
    pub(super) fn published(&mut self, table: &RouteTable) {
        let before = self.published.back().copied();
        let now = table.generation;
        let routed = table.routes.iter().flat_map(|r| r.endpoints.iter().map(|e| e.instance));
        let routed: BTreeSet<InstanceId> = routed.collect();
        // Presence changes a table and no generation: whoever acknowledges that one may mean either.
        let from = if before == Some(now) { Generation(now.0 + 1) } else { now };
        self.published.push_back(now);
        while self.published.len() > TABLES_REMEMBERED_MAX {
            self.published.pop_front();
        }
        let oldest = self.published.front().copied().unwrap_or(now);
        self.spans.retain(|id, span| {
            if span.to.is_none() && !routed.contains(id) {
                span.to = before;
            }
            span.to.is_none_or(|to| to >= oldest)
        });
        for id in routed {
            let span = self.spans.entry(id).or_insert(Span { from, to: None });
            if span.to.is_some() {
                *span = Span { from, to: None };
            }
        }
    }

    pub(super) fn hello(&mut self, gateway: GatewayId) {
        self.gateways.insert(gateway, Following::default());
    }

    pub(super) fn gone(&mut self, gateway: GatewayId) {
        self.gateways.remove(&gateway);
    }

    pub(super) fn acked(
        &mut self,
        gateway: GatewayId,
        generation: Generation,
        busy: BTreeSet<InstanceId>,
    ) {
        // An acknowledgement of a session that has ended says nothing any more.
        let Some(following) = self.gateways.get_mut(&gateway) else { return };
        following.busy = busy;
        // In one session nobody goes back to a table from before.
        let held = following.acked.filter(|held| self.published.contains(held));
        if held.is_none_or(|held| held < generation) {
            following.acked = Some(generation);
        }
    }

    pub(super) fn view(&mut self) -> Edge {
        let mut edge = Edge { gateways: self.gateways.len(), known: true, ..Edge::default() };
        let mut served: Option<(Generation, Generation)> = None;
        for following in self.gateways.values() {
            edge.busy.extend(&following.busy);
            match following.acked.filter(|acked| self.published.binary_search(acked).is_ok()) {
                Some(acked) => {
                    let (oldest, newest) = served.unwrap_or((acked, acked));
                    served = Some((oldest.min(acked), newest.max(acked)));
                }
                None => edge.known = false,
            }
        }
        if let Some((oldest, newest)) = served {
            let routed = self.routed_between(oldest, newest);
            edge.routed_by_all = Arc::clone(&routed.by_all);
            edge.routed_by_any = Arc::clone(&routed.by_any);
        }
        edge
    }

    /// A look at every instance, once for each table that is published and each that the first or
    /// the last gateway comes to; in between it is at hand.
    fn routed_between(&mut self, oldest: Generation, newest: Generation) -> &Routed {
        let made_of = self.published.back().copied();
        let held = self.routed.take();
        let held =
            held.filter(|it| (it.made_of, it.oldest, it.newest) == (made_of, oldest, newest));
        self.routed.insert(held.unwrap_or_else(|| {
            let ids = |of: &dyn Fn(&Span) -> bool| {
                let spans = self.spans.iter().filter(|(_, span)| of(span));
                Arc::new(spans.map(|(id, _)| *id).collect())
            };
            let by_all = ids(&|span| span.from <= oldest && span.to.is_none_or(|to| to >= newest));
            // What was sent since may be in force already.
            let by_any = ids(&|span| span.to.is_none_or(|to| to >= oldest));
            Routed { made_of, oldest, newest, by_all, by_any }
        }))
    }
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;
    use insula_model::routes::{Endpoint, Route};
    use insula_model::{AppId, NodeId, OrgId};

    use super::*;

    fn id(n: u8) -> InstanceId {
        InstanceId::from_parts(Timestamp::from_millis(i64::from(n)), [n; 10])
    }

    fn gateway(n: u8) -> GatewayId {
        GatewayId::from_parts(Timestamp::from_millis(1), [n; 10])
    }

    fn table(generation: u64, instances: &[InstanceId]) -> RouteTable {
        let at = Timestamp::from_millis(1);
        let endpoint = |instance: &InstanceId| Endpoint {
            instance: *instance,
            node: NodeId::from_parts(at, [0; 10]),
            address: ([127, 0, 0, 1], 1).into(),
        };
        let route = Route {
            host: "a.localhost".parse().unwrap(),
            path: "/".into(),
            preserve: false,
            org: OrgId::from_parts(at, [0; 10]),
            app: AppId::from_parts(at, [0; 10]),
            component: "web".parse().unwrap(),
            endpoints: instances.iter().map(endpoint).collect(),
        };
        RouteTable {
            generation: Generation(generation),
            routes: vec![route],
            relays: BTreeMap::new(),
        }
    }

    #[test]
    fn an_instance_is_in_service_until_the_last_gateway_has_let_go() {
        let mut ledger = EdgeLedger::default();
        ledger.hello(gateway(1));
        ledger.hello(gateway(2));
        assert!(!ledger.view().known, "nobody has said what it serves");
        ledger.published(&table(1, &[id(1)]));
        ledger.acked(gateway(1), Generation(1), BTreeSet::new());
        ledger.acked(gateway(2), Generation(1), BTreeSet::new());
        ledger.published(&table(2, &[id(2)]));
        ledger.acked(gateway(1), Generation(2), BTreeSet::from([id(1)]));
        let edge = ledger.view();
        assert!(edge.known);
        assert!(edge.routed_by_any.contains(&id(1)), "the second gateway still sends to it");
        assert!(!edge.routed_by_all.contains(&id(2)));
        assert!(edge.busy.contains(&id(1)));
        ledger.acked(gateway(2), Generation(2), BTreeSet::new());
        assert!(!ledger.view().routed_by_any.contains(&id(1)));
        assert!(ledger.view().routed_by_all.contains(&id(2)));
    }

    #[test]
    fn a_gateway_that_serves_a_table_from_before_our_time_is_unknown() {
        let mut ledger = EdgeLedger::default();
        ledger.published(&table(9, &[id(1)]));
        ledger.hello(gateway(1));
        ledger.acked(gateway(1), Generation(3), BTreeSet::new());
        assert!(!ledger.view().known);
    }

    #[test]
    fn one_that_left_and_came_back_is_in_service_wherever_it_ever_was() {
        let mut ledger = EdgeLedger::default();
        (1..=2).for_each(|n| ledger.hello(gateway(n)));
        for (generation, routed) in [(1, vec![id(1)]), (2, vec![]), (3, vec![id(1)])] {
            ledger.published(&table(generation, &routed));
        }
        ledger.acked(gateway(1), Generation(1), BTreeSet::new());
        ledger.acked(gateway(2), Generation(2), BTreeSet::new());
        assert!(ledger.view().routed_by_any.contains(&id(1)));
        assert!(!ledger.view().routed_by_all.contains(&id(1)), "the second does not serve it");
        (1..=2).for_each(|n| ledger.acked(gateway(n), Generation(3), BTreeSet::new()));
        assert!(ledger.view().routed_by_all.contains(&id(1)));
    }

    #[test]
    fn nobody_goes_back_to_a_table_from_before_unless_we_know_nothing_of_the_later_one() {
        let mut ledger = EdgeLedger::default();
        ledger.hello(gateway(1));
        ledger.acked(gateway(1), Generation(900), BTreeSet::new());
        (1..=2).for_each(|n| ledger.published(&table(n, &[id(n as u8)])));
        assert!(!ledger.view().known, "it still serves what a store told that was put back");
        ledger.acked(gateway(1), Generation(2), BTreeSet::new());
        assert!(ledger.view().known);
        ledger.acked(gateway(1), Generation(1), BTreeSet::from([id(9)]));
        let edge = ledger.view();
        assert!(edge.routed_by_all.contains(&id(2)) && edge.busy.contains(&id(9)));
    }

    #[test]
    fn a_gateway_that_stays_behind_costs_a_look_for_each_table_and_none_for_each_word() {
        let mut ledger = EdgeLedger::default();
        (1..=2).for_each(|n| ledger.hello(gateway(n)));
        let many: Vec<InstanceId> = (0..20_000).map(InstanceId::from_u128).collect();
        for generation in 1..=64 {
            ledger.published(&table(generation, &many[generation as usize..]));
        }
        ledger.acked(gateway(1), Generation(64), BTreeSet::new());
        let mut made: Vec<Arc<BTreeSet<InstanceId>>> = Vec::new();
        for word in 0..10_000 {
            // Every word another: further on and back, and busy with something else.
            let behind = Generation(1 + word % 8);
            ledger.acked(gateway(2), behind, BTreeSet::from([many[word as usize]]));
            let edge = ledger.view();
            assert!(edge.known);
            if !made.iter().any(|known| Arc::ptr_eq(known, &edge.routed_by_any)) {
                made.push(edge.routed_by_any);
            }
        }
        assert_eq!(made.len(), 8, "looks at 20,000 instances for 10,000 words");
        assert_eq!((made[0].len(), made[7].len()), (19_999, 19_992));
    }

    #[test]
    fn of_two_tables_of_one_generation_either_may_be_in_force() {
        let mut ledger = EdgeLedger::default();
        ledger.hello(gateway(1));
        ledger.published(&table(5, &[id(1)]));
        ledger.published(&table(5, &[id(2)]));
        ledger.acked(gateway(1), Generation(5), BTreeSet::new());
        let edge = ledger.view();
        assert!(edge.known && !edge.routed_by_all.contains(&id(2)));
        assert_eq!(*edge.routed_by_any, BTreeSet::from([id(1), id(2)]));
    }

    #[test]
    fn what_no_gateway_can_serve_any_more_is_forgotten() {
        let mut ledger = EdgeLedger::default();
        for generation in 1..=1_000 {
            ledger.published(&table(generation, &[InstanceId::from_u128(generation.into())]));
        }
        assert_eq!(ledger.spans.len(), TABLES_REMEMBERED_MAX);
        assert_eq!(ledger.published.len(), TABLES_REMEMBERED_MAX);
    }
}
