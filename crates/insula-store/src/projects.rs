//! Apps that belong together.

use insula_model::app::{ConfigScope, Project};
use insula_model::{OrgId, ProjectId, ProjectName};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT id, org, name, created FROM projects";

fn read(row: &mut Row<'_>) -> Result<Project, StoreError> {
    Ok(Project { id: row.parse()?, org: row.parse()?, name: row.parse()?, created: row.time()? })
}

pub fn create(tx: &mut Tx, project: &Project) -> Result<(), WriteError> {
    if !tx.any("SELECT 1 FROM orgs WHERE id = ?1", params![project.org])? {
        return Err(WriteError::NotFound { kind: Kind::Org });
    }
    if by_name(tx, project.org, &project.name)?.is_some() {
        return Err(WriteError::NameTaken { kind: Kind::Project, name: project.name.to_string() });
    }
    let made = tx.execute(
        "INSERT INTO projects (id, org, name, created) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO NOTHING",
        params![project.id, project.org, &project.name, project.created],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::Project });
    }
    tx.touch(project.id);
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: ProjectId) -> Result<Option<Project>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

pub fn by_name(tx: &Tx, org: OrgId, name: &ProjectName) -> Result<Option<Project>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND name = ?2"), params![org, name], read)
}

pub(crate) fn get_any_org(tx: &Tx, id: ProjectId) -> Result<Option<Project>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

pub fn list(tx: &Tx, org: OrgId, page: &Page) -> Result<Paged<Project>, StoreError> {
    let select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    page::read(tx, "projects", select, Order::Name, page, read, |project| {
        (project.name.to_string(), project.id.to_string())
    })
}

pub(crate) fn all_any_org(tx: &Tx) -> Result<Vec<Project>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

pub(crate) fn ids_of_org(tx: &Tx, org: OrgId) -> Result<Vec<ProjectId>, StoreError> {
    tx.query("SELECT id FROM projects WHERE org = ?1 ORDER BY id", params![org], |row| row.parse())
}

/// Ends a project that has no environments any more, and what was configured on it.
pub fn delete(tx: &mut Tx, org: OrgId, id: ProjectId) -> Result<(), WriteError> {
    if get(tx, org, id)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::Project });
    }
    if tx.any("SELECT 1 FROM environments WHERE project = ?1 LIMIT 1", params![id])? {
        return Err(WriteError::NotEmpty { kind: Kind::Project, has: "environments" });
    }
    crate::variables::delete_scope(tx, ConfigScope::Project(id))?;
    crate::secrets::delete_scope(tx, org, ConfigScope::Project(id))?;
    tx.execute("DELETE FROM projects WHERE id = ?1", params![id])?;
    tx.touch(id);
    Ok(())
}
