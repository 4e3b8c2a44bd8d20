//! Tokens with which nodes and gateways join, and gateways that have.

use std::collections::BTreeMap;

use insula_model::fleet::{self, JoinGrant};
use insula_model::{
    GatewayId, JoinId, LabelName, LabelValue, NodeName, PoolName, Timestamp, ZoneName,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::Hidden;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Join {
    #[schema(value_type = String)]
    pub id: JoinId,
    /// `node` or `gateway`.
    pub role: String,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// The id of who used it, once somebody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JoinRole {
    #[default]
    Node,
    Gateway,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJoin {
    #[serde(default)]
    pub role: JoinRole,
    /// What the node will be called; without it, the node brings its own name.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    #[schema(value_type = BTreeMap<String, String>)]
    #[serde(default)]
    pub labels: BTreeMap<LabelName, LabelValue>,
    /// In an hour, if it is not given.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// The secret is shown here and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinCreated {
    pub join: Join,
    #[schema(value_type = String)]
    pub secret: Hidden,
    /// Where it can be used: `host:port` of each server.
    pub servers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gateway {
    #[schema(value_type = String)]
    pub id: GatewayId,
    pub version: String,
    pub connected: bool,
    #[schema(value_type = String, format = DateTime)]
    pub joined: Timestamp,
    /// The last time it connected.
    #[schema(value_type = String, format = DateTime)]
    pub hello: Timestamp,
}

impl From<&fleet::Join> for Join {
    fn from(join: &fleet::Join) -> Self {
        let (role, name) = match &join.grants {
            JoinGrant::Node { name, .. } => ("node", name.clone()),
            JoinGrant::Gateway => ("gateway", None),
        };
        Self {
            id: join.id,
            role: role.into(),
            name,
            created: join.created,
            expires: join.expires,
            used_by: join.used.as_ref().map(|used| used.by.to_string()),
        }
    }
}

impl Gateway {
    pub fn new(gateway: &fleet::Gateway, connected: bool) -> Self {
        Self {
            id: gateway.id,
            version: gateway.version.clone(),
            connected,
            joined: gateway.joined,
            hello: gateway.hello,
        }
    }
}
