//! How the installation is, for the operator and for whoever asks whether it lives.

use std::collections::BTreeMap;

use insula_model::{ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// Whether this installation keeps one org only, without hard limits.
    pub development: bool,
    /// What hosts of apps end with.
    pub suffix: String,
    pub orgs: u32,
    pub apps: u32,
    pub nodes: u32,
    pub nodes_connected: u32,
    pub instances: u32,
    pub instances_ready: u32,
    pub deployments_open: u32,
    /// How many nodes are in each state.
    pub nodes_by_state: BTreeMap<String, u32>,
    pub gateways: u32,
    /// The servers that share this installation, and which of them decides.
    pub servers: Vec<Server>,
    /// What each reconciler of the deciding server did last.
    pub reconcilers: Vec<Reconciler>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    #[schema(value_type = String)]
    pub id: ServerId,
    /// Where the fleet reaches it; nothing for one that serves its own machine alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<String>,
    pub version: String,
    #[schema(value_type = String, format = DateTime)]
    pub seen: Timestamp,
    /// Whether it holds the right to decide.
    pub leads: bool,
}

/// The last report of a reconciler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reconciler {
    pub name: String,
    pub passes: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    pub took_micros: u64,
    /// What the last pass that did something did, in words.
    pub did: String,
    /// What waits, and why; the first few.
    pub waits: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}
