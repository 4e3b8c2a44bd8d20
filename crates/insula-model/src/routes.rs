//! What gateways serve: hosts and paths to the addresses of ready instances.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::Generation;
use crate::ids::{AppId, InstanceId, NodeId, OrgId};
use crate::names::{ComponentName, HostName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    pub generation: Generation,
    /// Ordered by host, then by path, the longest first.
    pub routes: Vec<Route>,
    /// Where the relay of each node answers that has an endpoint here. A gateway reaches instances
    /// of its own node at their address, and all others through these.
    #[serde(default)]
    pub relays: BTreeMap<NodeId, SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub host: HostName,
    /// A prefix of whole segments; `/` for all.
    pub path: String,
    pub preserve: bool,
    pub org: OrgId,
    pub app: AppId,
    pub component: ComponentName,
    /// Empty when nothing is ready: the gateway says so with a page of its own.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    pub instance: InstanceId,
    pub node: NodeId,
    pub address: SocketAddr,
}
