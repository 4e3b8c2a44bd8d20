//! What is released as one, and what serves of it now.

use std::collections::BTreeMap;

use insula_model::app::{App, ConfigScope, Live};
use insula_model::{AppId, AppName, ComponentName, EnvironmentId, HostName, OrgId, ProjectId};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, Value, params, to_json};
use crate::tx::Tx;
use crate::{deployments, hosts, releases, runs, secrets, variables};

const SELECT: &str = "SELECT id, org, project, environment, name, created, running, scale, \
                      live_release, live_deployment, live_since FROM apps";

/// Which apps a list shows. Everything that is `None` is not asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub project: Option<ProjectId>,
    pub environment: Option<EnvironmentId>,
    pub name: Option<AppName>,
}

fn read(row: &mut Row<'_>) -> Result<App, StoreError> {
    let app = App {
        id: row.parse()?,
        org: row.parse()?,
        project: row.parse()?,
        environment: row.parse()?,
        name: row.parse()?,
        created: row.time()?,
        running: row.flag()?,
        scale: row.json("an app's scale")?,
        live: None,
    };
    let live = (row.optional_parse()?, row.optional_parse()?, row.optional_time()?);
    let live = match live {
        (Some(release), Some(deployment), Some(since)) => Some(Live { release, deployment, since }),
        _ => None,
    };
    Ok(App { live, ..app })
}

/// Makes the app and takes its default host. Nothing is live in it yet, whatever `app.live` says.
///
/// After `HostTaken` nothing was done: the caller may try another id in the same transaction.
pub fn create(tx: &mut Tx, app: &App, default_host: &HostName) -> Result<(), WriteError> {
    let environment = crate::environments::get(tx, app.org, app.environment)?;
    if environment.is_none_or(|environment| environment.project != app.project) {
        return Err(WriteError::NotFound { kind: Kind::Environment });
    }
    if by_name(tx, app.org, app.environment, &app.name)?.is_some() {
        return Err(WriteError::NameTaken { kind: Kind::App, name: app.name.to_string() });
    }
    hosts::claim(tx, app.org, app.id, default_host)?;
    let made = tx.execute(
        "INSERT INTO apps (id, org, project, environment, name, created, running, scale)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO NOTHING",
        params![
            app.id,
            app.org,
            app.project,
            app.environment,
            &app.name,
            app.created,
            app.running,
            to_json("an app's scale", &app.scale)?,
        ],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::App });
    }
    tx.touch(app.id);
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: AppId) -> Result<Option<App>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

pub fn get_any_org(tx: &Tx, id: AppId) -> Result<Option<App>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

pub fn by_name(
    tx: &Tx,
    org: OrgId,
    environment: EnvironmentId,
    name: &AppName,
) -> Result<Option<App>, StoreError> {
    tx.find(
        &format!("{SELECT} WHERE org = ?1 AND environment = ?2 AND name = ?3"),
        params![org, environment, name],
        read,
    )
}

/// By name; apps of one name stand together, in the order they were made.
pub fn list(tx: &Tx, org: OrgId, filter: &Filter, page: &Page) -> Result<Paged<App>, StoreError> {
    let mut select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    select.and_some("project = ?", filter.project);
    select.and_some("environment = ?", filter.environment);
    select.and_some("name = ?", filter.name.as_ref());
    page::read(tx, "apps", select, Order::Name, page, read, |app| {
        (app.name.to_string(), app.id.to_string())
    })
}

pub(crate) fn all_any_org(tx: &Tx) -> Result<Vec<App>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

pub(crate) fn all_of_org(tx: &Tx, org: OrgId) -> Result<Vec<App>, StoreError> {
    tx.query(&format!("{SELECT} WHERE org = ?1 ORDER BY id"), params![org], read)
}

pub(crate) fn ids_of_org(tx: &Tx, org: OrgId) -> Result<Vec<AppId>, StoreError> {
    tx.query("SELECT id FROM apps WHERE org = ?1 ORDER BY id", params![org], |row| row.parse())
}

pub fn set_running(tx: &mut Tx, org: OrgId, id: AppId, running: bool) -> Result<(), WriteError> {
    update(tx, org, id, "UPDATE apps SET running = ?3 WHERE org = ?1 AND id = ?2", running.into())
}

/// Replaces what `insula scale` asked for, all components at once.
pub fn set_scale(
    tx: &mut Tx,
    org: OrgId,
    id: AppId,
    scale: &BTreeMap<ComponentName, u32>,
) -> Result<(), WriteError> {
    let scale = to_json("an app's scale", scale)?;
    update(tx, org, id, "UPDATE apps SET scale = ?3 WHERE org = ?1 AND id = ?2", scale.into())
}

fn update(tx: &mut Tx, org: OrgId, id: AppId, sql: &str, value: Value) -> Result<(), WriteError> {
    if tx.execute(sql, &[org.into(), id.into(), value])? == 0 {
        return Err(WriteError::NotFound { kind: Kind::App });
    }
    tx.touch(id);
    Ok(())
}

/// Says what serves from now on; what served before is noted as live until then.
pub fn set_live(tx: &mut Tx, org: OrgId, id: AppId, live: &Live) -> Result<(), WriteError> {
    let app = get(tx, org, id)?.ok_or(WriteError::NotFound { kind: Kind::App })?;
    if releases::get(tx, org, live.release)?.is_none_or(|known| known.release.app != id) {
        return Err(WriteError::NotFound { kind: Kind::Release });
    }
    if deployments::get(tx, org, live.deployment)?.is_none_or(|known| known.app != id) {
        return Err(WriteError::NotFound { kind: Kind::Deployment });
    }
    if let Some(before) = app.live.filter(|before| before.release != live.release) {
        releases::set_live_until(tx, before.release, Some(live.since))?;
    }
    releases::set_live_until(tx, live.release, None)?;
    tx.execute(
        "UPDATE apps SET live_release = ?3, live_deployment = ?4, live_since = ?5
         WHERE org = ?1 AND id = ?2",
        params![org, id, live.release, live.deployment, live.since],
    )?;
    tx.touch(id);
    tx.touch(live.release);
    deployments::touch_with_build(tx, live.deployment)?;
    Ok(())
}

/// Ends the app, its domains, variables, secrets, deployments, builds, runs and releases.
///
/// Instances stay, and with each the release it runs, until `instances::delete`: their nodes have
/// to stop them first. Hosts stay reserved for the org.
pub fn delete(tx: &mut Tx, org: OrgId, id: AppId) -> Result<(), WriteError> {
    if get(tx, org, id)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::App });
    }
    crate::domains::delete_of_app(tx, id)?;
    crate::whereabouts::delete_of_app(tx, id)?;
    hosts::release_all(tx, id)?;
    variables::delete_scope(tx, ConfigScope::App(id))?;
    secrets::delete_scope(tx, org, ConfigScope::App(id))?;
    runs::delete_of_app(tx, id)?;
    crate::builds::delete_of_app(tx, id)?;
    deployments::delete_of_app(tx, id)?;
    tx.execute("DELETE FROM apps WHERE id = ?1", params![id])?;
    releases::delete_of_app(tx, id)?;
    tx.touch(id);
    Ok(())
}
