//! How the installation is, for the operator and for whoever asks whether it lives.

use insula_model::Timestamp;
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}
