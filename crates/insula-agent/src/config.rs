//! What the operator, or `insula up`, decides about an agent. Read once, by the binary.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use insula_kit::pki::Invitation;
use insula_model::node::{NodeMode, Site};
use insula_model::{Bytes, MilliCpu, Millis, NodeName};
use insula_sandbox::net::NetConfig;
use tokio::sync::watch;

use crate::names::Names;

#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The data folder of the whole installation; the agent's own part is `agent/` in it.
    pub data: PathBuf,
    pub server: Endpoint,
    pub name: NodeName,
    /// Pool, zone and labels of a node on the server's own machine; of one that joined, its
    /// token's count.
    pub site: Option<Site>,
    pub relay: RelayAccess,
    pub host: HostAccess,
    /// Our own binary: it is the keeper, the sandbox launcher, and serves files in static instances.
    pub program: PathBuf,
    /// What to offer instead of what the host has.
    pub offer: Offered,
    /// How long an instance that depends on contact goes on without any.
    pub failover_lease: Millis,
    pub build: BuildSettings,
    /// Shows instances the host's `/usr/local` and `/usr/src`.
    pub open_usr_local: bool,
    /// Where names are told to whoever answers for them.
    pub names: watch::Sender<Names>,
}

/// Where the server is.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// On this machine.
    Unix(PathBuf),
    /// Any of these, each `host:port`, and those that the fleet named before. None are needed once
    /// this node has joined.
    Fleet {
        servers: Vec<String>,
        /// What `insula nodes token` printed: needed once, and again when the certificate has ended.
        token: Option<Invitation>,
    },
}

/// Where other nodes and gateways reach what runs here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayAccess {
    /// Where the relay listens; nothing: there is none.
    pub listen: Option<SocketAddr>,
    /// What to tell others, if it is not where it listens.
    pub advertise: Option<SocketAddr>,
}

/// Each thing of which less (or more) is to be offered than the host has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offered {
    pub cpu: Option<MilliCpu>,
    pub memory: Option<Bytes>,
    pub instances: Option<u32>,
    /// Of what instances ask for as `disk`.
    pub disk: Option<Bytes>,
}

/// What the agent may do on its host.
#[derive(Debug, Clone)]
pub enum HostAccess {
    /// As root: own networks and hard limits.
    Full { net: NetConfig },
    /// As an ordinary user: the host's network, ports of loopback, no limits.
    Development,
}

impl HostAccess {
    pub fn mode(&self) -> NodeMode {
        match self {
            Self::Full { .. } => NodeMode::Full,
            Self::Development => NodeMode::Development,
        }
    }
}

/// What builds need to reach the world from the operator's network.
#[derive(Debug, Clone, Default)]
pub struct BuildSettings {
    /// Proxy, package index and CA settings, as environment variables: `HTTPS_PROXY`,
    /// `PIP_INDEX_URL`, `npm_config_registry`, `NODE_EXTRA_CA_CERTS` and their like.
    pub env: BTreeMap<String, String>,
    /// Files and folders that those settings name (CA bundles, `pip.conf`), shown read-only in
    /// builds. They appear at the same place, or below `/etc/insula-host` where that is taken; the
    /// settings are rewritten to match.
    pub read_only: Vec<PathBuf>,
}
