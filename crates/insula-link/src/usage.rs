//! What instances, hosts and routes are worth: counted while the server runs, never stored.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use insula_kit::metrics::Metrics;
use insula_model::limits::REPORT_INSTANCES_MAX;
use insula_model::{AppId, Bytes, ComponentName, InstanceId, MilliCpu, NodeId};
use insula_wire::node as wire;

use crate::hub::Hub;

/// Components whose traffic is counted: more than an installation has. Gateways parse strangers'
/// bytes, so what they name is not believed without end.
const TRAFFIC_COMPONENTS_MAX: usize = 8_192;

/// What an instance used, as its node saw it last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceUsage {
    pub memory_bytes: u64,
    pub cpu_usec: u64,
    pub pids: u32,
    pub log_dropped_bytes: u64,
}

/// What a host has to do, all it runs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeUsage {
    pub cpu: MilliCpu,
    pub memory: Bytes,
    pub disk_free: Bytes,
}

/// Requests that gateways have counted for a component since the server began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    pub errors_5xx: u64,
    pub bytes_out: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Usage {
    instances: Mutex<BTreeMap<InstanceId, InstanceUsage>>,
    traffic: Mutex<BTreeMap<(AppId, ComponentName), Traffic>>,
    pub(crate) relays: OnceLock<Metrics>,
}

impl Hub {
    fn instances(&self) -> MutexGuard<'_, BTreeMap<InstanceId, InstanceUsage>> {
        self.shared.usage.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self) -> MutexGuard<'_, BTreeMap<(AppId, ComponentName), Traffic>> {
        self.shared.usage.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn usage(&self) -> BTreeMap<InstanceId, InstanceUsage> {
        self.instances().clone()
    }

    pub fn traffic(&self) -> BTreeMap<(AppId, ComponentName), Traffic> {
        self.counted().clone()
    }

    /// Takes a node's word for itself and for what it was given, and for nobody else.
    pub(crate) fn note_usage(&self, node: NodeId, report: &wire::UsageReport) {
        if let Some(seen) = &report.node {
            let usage = NodeUsage {
                cpu: MilliCpu(seen.cpu_milli),
                memory: Bytes(seen.memory_bytes),
                disk_free: Bytes(seen.disk_free_bytes),
            };
            self.set_node_usage(node, usage);
        }
        let Some(reach) = self.reach(node) else { return };
        for seen in report.instances.iter().take(REPORT_INSTANCES_MAX) {
            let Ok(id) = seen.instance.parse() else { continue };
            if !reach.instances.contains(&id) {
                continue;
            }
            let usage = InstanceUsage {
                memory_bytes: seen.memory_bytes,
                cpu_usec: seen.cpu_usec,
                pids: seen.pids,
                log_dropped_bytes: seen.log_dropped_bytes,
            };
            self.set_usage(id, usage);
        }
    }

    pub fn set_usage(&self, id: InstanceId, usage: InstanceUsage) {
        self.instances().insert(id, usage);
    }

    /// Forgets the usage of instances that are no more.
    pub fn retain_usage(&self, keep: impl Fn(&InstanceId) -> bool) {
        self.instances().retain(|id, _| keep(id));
    }

    pub(crate) fn note_traffic(&self, report: &wire::TrafficReport) {
        for seen in &report.apps {
            let (Ok(app), Ok(component)) = (seen.app.parse(), seen.component.parse()) else {
                continue;
            };
            let more = Traffic {
                requests: seen.requests,
                errors_5xx: seen.errors_5xx,
                bytes_out: seen.bytes_out,
            };
            self.add_traffic(app, component, more);
        }
    }

    /// Counts on. What is new is left out while as many are counted as may be.
    pub fn add_traffic(&self, app: AppId, component: ComponentName, more: Traffic) {
        let mut traffic = self.counted();
        let (full, key) = (traffic.len() >= TRAFFIC_COMPONENTS_MAX, (app, component));
        if full && !traffic.contains_key(&key) {
            return;
        }
        let sum = traffic.entry(key).or_default();
        // A gateway may say any number.
        sum.requests = sum.requests.saturating_add(more.requests);
        sum.errors_5xx = sum.errors_5xx.saturating_add(more.errors_5xx);
        sum.bytes_out = sum.bytes_out.saturating_add(more.bytes_out);
    }

    /// Forgets the traffic of what is no more, or never was.
    pub fn retain_traffic(&self, keep: impl Fn(&AppId, &ComponentName) -> bool) {
        self.counted().retain(|(app, component), _| keep(app, component));
    }
}

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;

    use super::*;

    fn report(apps: &[(&str, &str, u64)]) -> wire::TrafficReport {
        let apps = apps.iter().map(|(app, component, requests)| wire::AppTraffic {
            app: (*app).to_owned(),
            component: (*component).to_owned(),
            requests: *requests,
            errors_5xx: 1,
            bytes_out: u64::MAX,
        });
        wire::TrafficReport { apps: apps.collect(), relay: None }
    }

    fn app(n: u32) -> AppId {
        let mut random = [0; 10];
        random[6..].copy_from_slice(&n.to_be_bytes());
        AppId::from_parts(Timestamp::from_millis(1), random)
    }

    #[test]
    fn a_gateway_may_say_anything_and_only_names_and_sums_remain() {
        let (hub, _inbound) = Hub::new();
        let id = app(1).to_string();
        let odd = [(&*id, "web", 2), ("../etc", "web", 1), (&*id, "a\"b\n", 1), ("", "", 1)];
        hub.note_traffic(&report(&odd));
        hub.note_traffic(&report(&[(&id, "web", 3)]));
        let sum = Traffic { requests: 5, errors_5xx: 2, bytes_out: u64::MAX };
        assert_eq!(hub.traffic(), [((app(1), "web".parse().unwrap()), sum)].into());
    }

    #[test]
    fn made_up_apps_end_at_a_limit_and_leave_room_once_they_are_let_go() {
        let (hub, _inbound) = Hub::new();
        let web: ComponentName = "web".parse().unwrap();
        let one = Traffic { requests: 1, ..Traffic::default() };
        let max = TRAFFIC_COMPONENTS_MAX as u32;
        (0..max + 10).for_each(|n| hub.add_traffic(app(n), web.clone(), one));
        assert_eq!(hub.traffic().len(), TRAFFIC_COMPONENTS_MAX);
        hub.add_traffic(app(0), web.clone(), one);
        assert_eq!(hub.traffic()[&(app(0), web.clone())].requests, 2, "what is known counts on");
        hub.retain_traffic(|id, _| *id == app(0));
        hub.add_traffic(app(max), web.clone(), one);
        assert_eq!(hub.traffic().len(), 2);
    }
}
