//! Copies of a project, each with its own private network.

use insula_model::app::{ConfigScope, Environment};
use insula_model::{EnvironmentId, EnvironmentName, OrgId, ProjectId};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT id, org, project, name, created FROM environments";

fn read(row: &mut Row<'_>) -> Result<Environment, StoreError> {
    Ok(Environment {
        id: row.parse()?,
        org: row.parse()?,
        project: row.parse()?,
        name: row.parse()?,
        created: row.time()?,
    })
}

pub fn create(tx: &mut Tx, environment: &Environment) -> Result<(), WriteError> {
    let Environment { id, org, project, name, created } = environment;
    if crate::projects::get(tx, *org, *project)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::Project });
    }
    if by_name(tx, *org, *project, name)?.is_some() {
        return Err(WriteError::NameTaken { kind: Kind::Environment, name: name.to_string() });
    }
    let made = tx.execute(
        "INSERT INTO environments (id, org, project, name, created) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO NOTHING",
        params![id, org, project, name, *created],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::Environment });
    }
    tx.touch(*id);
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: EnvironmentId) -> Result<Option<Environment>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

pub fn by_name(
    tx: &Tx,
    org: OrgId,
    project: ProjectId,
    name: &EnvironmentName,
) -> Result<Option<Environment>, StoreError> {
    tx.find(
        &format!("{SELECT} WHERE org = ?1 AND project = ?2 AND name = ?3"),
        params![org, project, name],
        read,
    )
}

pub(crate) fn get_any_org(tx: &Tx, id: EnvironmentId) -> Result<Option<Environment>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

pub fn list(
    tx: &Tx,
    org: OrgId,
    project: Option<ProjectId>,
    page: &Page,
) -> Result<Paged<Environment>, StoreError> {
    let mut select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    select.and_some("project = ?", project);
    page::read(tx, "environments", select, Order::Name, page, read, |environment| {
        (environment.name.to_string(), environment.id.to_string())
    })
}

pub(crate) fn all_any_org(tx: &Tx) -> Result<Vec<Environment>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

pub(crate) fn ids_of_org(tx: &Tx, org: OrgId) -> Result<Vec<EnvironmentId>, StoreError> {
    let sql = "SELECT id FROM environments WHERE org = ?1 ORDER BY id";
    tx.query(sql, params![org], |row| row.parse())
}

/// Ends an environment that has no apps any more, and what was configured on it.
pub fn delete(tx: &mut Tx, org: OrgId, id: EnvironmentId) -> Result<(), WriteError> {
    if get(tx, org, id)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::Environment });
    }
    if tx.any("SELECT 1 FROM apps WHERE environment = ?1 LIMIT 1", params![id])? {
        return Err(WriteError::NotEmpty { kind: Kind::Environment, has: "apps" });
    }
    crate::variables::delete_scope(tx, ConfigScope::Environment(id))?;
    crate::secrets::delete_scope(tx, org, ConfigScope::Environment(id))?;
    tx.execute("DELETE FROM environments WHERE id = ?1", params![id])?;
    tx.touch(id);
    Ok(())
}
