//! What the operator, or `insula up`, decides about an agent. Read once, by the binary.

use std::collections::BTreeMap;
use std::path::PathBuf;

use insula_model::NodeName;
use insula_model::node::{Capacity, NodeMode};
use insula_sandbox::net::NetConfig;
use tokio::sync::watch;

use crate::names::Names;

#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The data folder of the whole installation; the agent's own part is `agent/` in it.
    pub data: PathBuf,
    pub server: Endpoint,
    pub name: NodeName,
    pub host: HostAccess,
    /// Our own binary: it is the keeper, the sandbox launcher, and serves files in static instances.
    pub program: PathBuf,
    /// What to offer instead of what the host has.
    pub capacity: Option<Capacity>,
    pub build: BuildSettings,
    /// Shows instances the host's `/usr/local` and `/usr/src`.
    pub open_usr_local: bool,
    /// Where names are told to whoever answers for them.
    pub names: watch::Sender<Names>,
}

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
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
