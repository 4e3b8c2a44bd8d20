//! Tenants. An org's name is its own for ever, also when it is gone.

use insula_model::tenancy::{Org, Quota};
use insula_model::{OrgId, OrgName};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;
use crate::{apps, environments, projects};

const SELECT: &str = "SELECT id, name, instances, memory, cpu, builds_at_once, releases_kept, \
                      log_rate, disk, created FROM orgs";

fn read(row: &mut Row<'_>) -> Result<Org, StoreError> {
    Ok(Org {
        id: row.parse()?,
        name: row.parse()?,
        quota: Quota {
            instances: row.amount()?,
            memory: row.bytes()?,
            cpu: row.cpu()?,
            builds_at_once: row.amount()?,
            releases_kept: row.amount()?,
            log_rate: row.bytes()?,
            disk: row.bytes()?,
        },
        created: row.time()?,
    })
}

pub fn create(tx: &mut Tx, org: &Org) -> Result<(), WriteError> {
    let reserved = tx.execute(
        "INSERT INTO org_names (name, org) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
        params![&org.name, org.id],
    )?;
    if reserved == 0 {
        return Err(WriteError::NameTaken { kind: Kind::Org, name: org.name.to_string() });
    }
    let q = &org.quota;
    let made = tx.execute(
        "INSERT INTO orgs (id, name, created, instances, memory, cpu, builds_at_once,
                           releases_kept, log_rate, disk)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING",
        params![
            org.id,
            &org.name,
            org.created,
            q.instances,
            q.memory,
            q.cpu,
            q.builds_at_once,
            q.releases_kept,
            q.log_rate,
            q.disk,
        ],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::Org });
    }
    tx.touch(org.id);
    Ok(())
}

pub fn get(tx: &Tx, id: OrgId) -> Result<Option<Org>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

pub fn by_name(tx: &Tx, name: &OrgName) -> Result<Option<Org>, StoreError> {
    tx.find(&format!("{SELECT} WHERE name = ?1"), params![name], read)
}

/// Every org, by name: for the operator.
pub fn list(tx: &Tx, page: &Page) -> Result<Paged<Org>, StoreError> {
    let select = Select::new(format!("{SELECT} WHERE 1 = 1"), &[]);
    page::read(tx, "orgs", select, Order::Name, page, read, |org| {
        (org.name.to_string(), org.id.to_string())
    })
}

pub(crate) fn all(tx: &Tx) -> Result<Vec<Org>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

pub fn count(tx: &Tx) -> Result<u64, StoreError> {
    Ok(tx.find("SELECT COUNT(*) FROM orgs", &[], |row| row.amount())?.unwrap_or(0))
}

pub fn set_quota(tx: &mut Tx, id: OrgId, quota: &Quota) -> Result<(), WriteError> {
    let q = quota;
    let changed = tx.execute(
        "UPDATE orgs SET instances = ?2, memory = ?3, cpu = ?4, builds_at_once = ?5,
                         releases_kept = ?6, log_rate = ?7, disk = ?8 WHERE id = ?1",
        params![
            id,
            q.instances,
            q.memory,
            q.cpu,
            q.builds_at_once,
            q.releases_kept,
            q.log_rate,
            q.disk,
        ],
    )?;
    if changed == 0 {
        return Err(WriteError::NotFound { kind: Kind::Org });
    }
    tx.touch(id);
    Ok(())
}

/// Ends an org and all that is in it. Its name and its hosts stay reserved, its events stay until
/// they are swept, and instances stay until their nodes have stopped them.
pub fn delete(tx: &mut Tx, id: OrgId) -> Result<(), WriteError> {
    if get(tx, id)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::Org });
    }
    for app in apps::ids_of_org(tx, id)? {
        apps::delete(tx, id, app)?;
    }
    for environment in environments::ids_of_org(tx, id)? {
        environments::delete(tx, id, environment)?;
    }
    for project in projects::ids_of_org(tx, id)? {
        projects::delete(tx, id, project)?;
    }
    for table in ["members", "invitations", "tokens", "variables", "secrets", "data_keys"] {
        tx.execute(&format!("DELETE FROM {table} WHERE org = ?1"), params![id])?;
    }
    tx.execute("DELETE FROM orgs WHERE id = ?1", params![id])?;
    tx.touch(id);
    Ok(())
}
