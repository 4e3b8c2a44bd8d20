//! Who may do what: orgs, users, members, tokens, and how much an org may use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{InvitationId, OrgId, TokenId, UserId};
use crate::names::{Email, OrgName, TokenName};
use crate::time::Timestamp;
use crate::units::{Bytes, MilliCpu};

/// A member's role in an org. Each may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads everything but secrets' values, which nobody reads.
    Viewer,
    /// Deploys, scales, sets variables and secrets, reads logs.
    Developer,
    /// Members, tokens, projects, environments, domains.
    Admin,
    /// The org itself: its owners, its end.
    Owner,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Developer, Self::Admin, Self::Owner];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Developer => "developer",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a role: use viewer, developer, admin or owner")]
pub struct RoleError {
    pub given: String,
}

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| RoleError { given: crate::names::excerpt(text) })
    }
}

/// What an org may use at once. Quotas count what the Spec asks for; a rollout's surge is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    pub instances: u32,
    pub memory: Bytes,
    pub cpu: MilliCpu,
    pub builds_at_once: u32,
    pub releases_kept: u32,
    /// Bytes of log per second and instance; more is dropped and counted.
    pub log_rate: Bytes,
    /// Sources and artifacts together.
    pub disk: Bytes,
}

impl Default for Quota {
    /// Generous for one team on one machine, small enough that one team cannot take it all.
    fn default() -> Self {
        Self {
            instances: 50,
            memory: Bytes::gib(16),
            cpu: MilliCpu(32_000),
            builds_at_once: 2,
            releases_kept: crate::limits::RELEASES_KEPT_DEFAULT,
            log_rate: Bytes::mib(1),
            disk: Bytes::gib(20),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Org {
    pub id: OrgId,
    pub name: OrgName,
    pub quota: Quota,
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    pub email: Email,
    /// The operator owns the machines; there is at least one.
    pub operator: bool,
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub org: OrgId,
    pub user: UserId,
    pub email: Email,
    pub role: Role,
    pub since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub id: InvitationId,
    pub org: OrgId,
    pub email: Email,
    pub role: Role,
    pub invited_by: Actor,
    pub created: Timestamp,
    pub expires: Timestamp,
}

/// A credential. Its text is shown once, when it is made; we keep a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: TokenId,
    pub name: TokenName,
    pub scope: TokenScope,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TokenScope {
    /// A person who signed in: all that the person may, now.
    Session { user: UserId },
    /// A machine in one org, with a role of its own.
    Org { org: OrgId, role: Role },
    /// The operator's own credential, made on first start.
    Operator,
}

/// Who did something, as events remember it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Actor {
    User(UserId),
    Token(TokenId),
    /// The operator by the credential of the first start.
    Operator,
    /// A reconciler of ours.
    Platform,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::Token(id) => id.fmt(f),
            Self::Operator => f.write_str("operator"),
            Self::Platform => f.write_str("platform"),
        }
    }
}

impl FromStr for Actor {
    type Err = crate::ids::IdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "operator" => Ok(Self::Operator),
            "platform" => Ok(Self::Platform),
            other if other.starts_with(TokenId::PREFIX) => other.parse().map(Self::Token),
            other => other.parse().map(Self::User),
        }
    }
}

impl Serialize for Actor {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
