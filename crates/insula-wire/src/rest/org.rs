//! Orgs, their quota and what they use of it.

use insula_model::tenancy;
use insula_model::{Bytes, MilliCpu, OrgId, OrgName, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Org {
    #[schema(value_type = String, example = "org_01j8z3k5v7e6n9q2r4t6w8y0ab")]
    pub id: OrgId,
    #[schema(value_type = String)]
    pub name: OrgName,
    pub quota: Quota,
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateOrg {
    #[schema(value_type = String)]
    pub name: OrgName,
}

/// What an org may use at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    pub instances: u32,
    pub memory_bytes: u64,
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// More builds than this wait; with none, what has to be built is refused.
    pub builds_at_once: u32,
    /// Releases whose files stay, beside those that are live.
    pub releases_kept: u32,
    /// Of log, per second and instance; more is dropped and counted.
    pub log_rate_bytes: u64,
    /// Sources and artifacts together.
    pub disk_bytes: u64,
}

/// The whole quota, as the operator wants it from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetQuota {
    pub instances: u32,
    pub memory_bytes: u64,
    pub cpu_millis: u32,
    pub builds_at_once: u32,
    pub releases_kept: u32,
    pub log_rate_bytes: u64,
    pub disk_bytes: u64,
}

/// What an org uses now, beside what it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    pub quota: Quota,
    /// Asked for by live apps that run, and by runs that have not ended.
    pub instances: u32,
    pub memory_bytes: u64,
    pub cpu_millis: u32,
    pub builds: u32,
    pub disk_bytes: u64,
}

/// The answer to a new data key, with which all secrets are sealed now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRotated {
    /// Counts the keys that the org has had.
    pub key: u32,
}

impl From<&tenancy::Quota> for Quota {
    fn from(quota: &tenancy::Quota) -> Self {
        Self {
            instances: quota.instances,
            memory_bytes: quota.memory.0,
            cpu_millis: quota.cpu.0,
            builds_at_once: quota.builds_at_once,
            releases_kept: quota.releases_kept,
            log_rate_bytes: quota.log_rate.0,
            disk_bytes: quota.disk.0,
        }
    }
}

impl From<SetQuota> for tenancy::Quota {
    fn from(quota: SetQuota) -> Self {
        Self {
            instances: quota.instances,
            memory: Bytes(quota.memory_bytes),
            cpu: MilliCpu(quota.cpu_millis),
            builds_at_once: quota.builds_at_once,
            releases_kept: quota.releases_kept,
            log_rate: Bytes(quota.log_rate_bytes),
            disk: Bytes(quota.disk_bytes),
        }
    }
}

impl From<&tenancy::Org> for Org {
    fn from(org: &tenancy::Org) -> Self {
        Self {
            id: org.id,
            name: org.name.clone(),
            quota: Quota::from(&org.quota),
            created: org.created,
        }
    }
}
