//! Who belongs to the fleet: permissions to join, identities that were given out, servers, leases.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{GatewayId, JoinId, NodeId, ServerId};
use crate::names::NodeName;
use crate::node::Site;
use crate::time::Timestamp;

/// A one-time permission to join. The secret is shown once and stored as a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub id: JoinId,
    pub grants: JoinGrant,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// Who used it, once somebody has.
    pub used: Option<JoinUse>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "grants", rename_all = "snake_case")]
pub enum JoinGrant {
    Node {
        /// Nothing: the node brings its own.
        name: Option<NodeName>,
        site: Site,
    },
    Gateway,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinUse {
    pub at: Timestamp,
    pub by: Member,
}

/// Who somebody is on the wire: what a certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "role", content = "id", rename_all = "snake_case")]
pub enum Member {
    Server(ServerId),
    Node(NodeId),
    Gateway(GatewayId),
}

impl Member {
    pub fn role(&self) -> &'static str {
        match self {
            Self::Server(_) => "server",
            Self::Node(_) => "node",
            Self::Gateway(_) => "gateway",
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(id) => write!(f, "{id}"),
            Self::Node(id) => write!(f, "{id}"),
            Self::Gateway(id) => write!(f, "{id}"),
        }
    }
}

/// Which certificate of a member counts. Older ones are refused once a newer one was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    pub member: Member,
    /// Of the newest certificate that was given out, and of the one that was used last.
    pub newest: Serial,
    pub used: Serial,
    pub since: Timestamp,
    /// Set for ever when the member was removed.
    pub revoked: Option<Timestamp>,
}

/// A certificate's number: it grows with each one that a member gets.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Serial(pub u64);

/// A gateway that joined from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    pub id: GatewayId,
    pub version: String,
    pub joined: Timestamp,
    pub hello: Timestamp,
}

/// One `insula server` of those that share a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub id: ServerId,
    /// Where agents, gateways and other servers reach it; nothing if it serves this machine alone.
    pub fleet: Option<SocketAddr>,
    pub version: String,
    /// When it said last that it is there.
    pub seen: Timestamp,
}

/// The right to reconcile, held by one server at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub holder: ServerId,
    /// Grows with each holder; what an older one still writes is refused.
    pub epoch: u64,
    pub until: Timestamp,
}
