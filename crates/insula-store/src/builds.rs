//! Sources on their way to artifacts.

use insula_model::build::{Build, BuildState};
use insula_model::deployment::Deployment;
use insula_model::schema;
use insula_model::{AppId, BuildId, DeploymentId, OrgId};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;
use crate::whereabouts;

const SELECT: &str = "SELECT doc FROM builds";

fn read(row: &mut Row<'_>) -> Result<Build, StoreError> {
    row.document()
}

fn name(state: &BuildState) -> &'static str {
    match state {
        BuildState::Queued => "queued",
        BuildState::Running { .. } => "running",
        BuildState::Done { .. } => "done",
        BuildState::Failed { .. } => "failed",
        BuildState::Cancelled => "cancelled",
    }
}

pub fn create(tx: &mut Tx, build: &Build) -> Result<(), WriteError> {
    let deployment = crate::deployments::get(tx, build.org, build.deployment)?;
    if deployment.is_none_or(|deployment| deployment.app != build.app) {
        return Err(WriteError::NotFound { kind: Kind::Deployment });
    }
    let made = tx.execute(
        "INSERT INTO builds (id, org, app, deployment, state, doc)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING",
        params![
            build.id,
            build.org,
            build.app,
            build.deployment,
            name(&build.state),
            schema::encode(build).map_err(StoreError::from)?,
        ],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::Build });
    }
    note_whereabouts(tx, build)?;
    tx.touch(build.id);
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: BuildId) -> Result<Option<Build>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

pub fn get_any_org(tx: &Tx, id: BuildId) -> Result<Option<Build>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

/// The newest first.
pub fn list(
    tx: &Tx,
    org: OrgId,
    app: Option<AppId>,
    page: &Page,
) -> Result<Paged<Build>, StoreError> {
    let mut select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    select.and_some("app = ?", app);
    page::read(tx, "builds", select, Order::Newest, page, read, |build| {
        (String::new(), build.id.to_string())
    })
}

/// Those of deployments that have not ended, and of those that some app lives by.
pub(crate) fn in_use_any_org(tx: &Tx) -> Result<Vec<Build>, StoreError> {
    tx.query(
        &format!(
            "{SELECT} WHERE id IN (
                 SELECT build FROM deployments WHERE final = 0
                 UNION
                 SELECT build FROM deployments WHERE id IN (SELECT live_deployment FROM apps))
             ORDER BY id"
        ),
        &[],
        read,
    )
}

/// Replaces the build, if it still is in the state in which that was decided: the same kind of
/// state, and of a running build the same attempt.
pub fn update(tx: &mut Tx, expected: &BuildState, build: &Build) -> Result<(), WriteError> {
    let found = get(tx, build.org, build.id)?
        .filter(|found| found.app == build.app && found.deployment == build.deployment)
        .ok_or(WriteError::NotFound { kind: Kind::Build })?;
    if attempt(&found.state) != attempt(expected) || name(&found.state) != name(expected) {
        return Err(WriteError::Moved {
            kind: Kind::Build,
            expected: name(expected).to_owned(),
            found: name(&found.state).to_owned(),
        });
    }
    tx.execute(
        "UPDATE builds SET state = ?2, doc = ?3 WHERE id = ?1",
        params![build.id, name(&build.state), schema::encode(build).map_err(StoreError::from)?,],
    )?;
    note_whereabouts(tx, build)?;
    tx.touch(build.id);
    Ok(())
}

/// Where it runs: once it is done nothing else says where it was.
fn note_whereabouts(tx: &mut Tx, build: &Build) -> Result<(), StoreError> {
    match build.state {
        BuildState::Running { node, .. } => whereabouts::note(tx, build.app, node),
        BuildState::Queued
        | BuildState::Done { .. }
        | BuildState::Failed { .. }
        | BuildState::Cancelled => Ok(()),
    }
}

/// Ends what still builds for a deployment that was cancelled.
pub(crate) fn cancel_of_deployment(tx: &mut Tx, deployment: &Deployment) -> Result<(), WriteError> {
    let Some(build) = deployment.build.map(|id| get(tx, deployment.org, id)).transpose()?.flatten()
    else {
        return Ok(());
    };
    if build.state.is_final() {
        return Ok(());
    }
    let cancelled =
        Build { state: BuildState::Cancelled, updated: deployment.updated, ..build.clone() };
    update(tx, &build.state, &cancelled)
}

fn attempt(state: &BuildState) -> Option<u32> {
    match state {
        BuildState::Running { attempt, .. } => Some(*attempt),
        BuildState::Queued
        | BuildState::Done { .. }
        | BuildState::Failed { .. }
        | BuildState::Cancelled => None,
    }
}

pub(crate) fn delete_of_app(tx: &mut Tx, app: AppId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM builds WHERE app = ?1", params![app])?;
    Ok(())
}

pub(crate) fn delete_of_deployment(
    tx: &mut Tx,
    deployment: DeploymentId,
) -> Result<(), StoreError> {
    tx.execute("DELETE FROM builds WHERE deployment = ?1", params![deployment])?;
    Ok(())
}
