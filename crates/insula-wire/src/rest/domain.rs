//! Host names of an app, and what they route to.

use insula_model::app;
use insula_model::{AppId, ComponentName, DomainId, HostName, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Domain {
    #[schema(value_type = String)]
    pub id: DomainId,
    #[schema(value_type = String)]
    pub app: AppId,
    #[schema(value_type = String, format = Hostname)]
    pub host: HostName,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDomain {
    #[schema(value_type = String, format = Hostname)]
    pub host: HostName,
}

/// A host and a path prefix, and the component that answers there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Route {
    #[schema(value_type = String, format = Hostname)]
    pub host: HostName,
    pub path: String,
    /// Whether the app sees the prefix.
    pub preserve: bool,
    #[schema(value_type = String)]
    pub component: ComponentName,
    /// Addresses of instances that are ready.
    pub endpoints: Vec<String>,
}

impl From<&app::Domain> for Domain {
    fn from(domain: &app::Domain) -> Self {
        Self { id: domain.id, app: domain.app, host: domain.host.clone(), created: domain.created }
    }
}
