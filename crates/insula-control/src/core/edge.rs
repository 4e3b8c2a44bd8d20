//! What the gateways serve, from what was published and what they acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use insula_model::routes::RouteTable;
use insula_model::{GatewayId, Generation, InstanceId};
use insula_plan::Edge;

/// Published tables that are remembered. A gateway further behind than this counts as unknown.
const TABLES_REMEMBERED_MAX: usize = 64;

/// The memory behind [`insula_plan::Edge`].
#[derive(Debug, Default)]
pub(super) struct EdgeLedger {
    published: VecDeque<(Generation, BTreeSet<InstanceId>)>,
    gateways: BTreeMap<GatewayId, Following>,
}

#[derive(Debug, Default)]
struct Following {
    acked: Option<Generation>,
    busy: BTreeSet<InstanceId>,
}

impl EdgeLedger {
    pub(super) fn published(&mut self, table: &RouteTable) {
        let routed = table.routes.iter().flat_map(|r| r.endpoints.iter().map(|e| e.instance));
        self.published.push_back((table.generation, routed.collect()));
        while self.published.len() > TABLES_REMEMBERED_MAX {
            self.published.pop_front();
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
        if let Some(following) = self.gateways.get_mut(&gateway) {
            *following = Following { acked: Some(generation), busy };
        }
    }

    pub(super) fn view(&self) -> Edge {
        let mut edge = Edge { gateways: self.gateways.len(), known: true, ..Edge::default() };
        let mut first = true;
        for following in self.gateways.values() {
            edge.busy.extend(&following.busy);
            let table =
                following.acked.and_then(|acked| self.published.iter().find(|(g, _)| *g == acked));
            let Some((acked, routed)) = table else {
                edge.known = false;
                continue;
            };
            // What was sent since may be in force already.
            let under_way = self.published.iter().filter(|(sent, _)| sent >= acked);
            edge.routed_by_any.extend(under_way.flat_map(|(_, routed)| routed));
            if first {
                edge.routed_by_all.clone_from(routed);
                first = false;
            } else {
                edge.routed_by_all.retain(|id| routed.contains(id));
            }
        }
        edge
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
}
