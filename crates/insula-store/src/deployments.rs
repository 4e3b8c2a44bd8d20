//! Moves from one release to the next.
//!
//! A change names the state it was decided in, and is refused if another decision came first.

use insula_model::deployment::{Deployment, DeploymentState, Source};
use insula_model::schema;
use insula_model::{AppId, BuildId, DeploymentId, OrgId, ReleaseId};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;
use crate::{blobs, builds};

/// Ended deployments that an app keeps; one that fails every hour is remembered for six weeks.
pub const KEPT_PER_APP: u32 = 1_000;

const SELECT: &str = "SELECT doc FROM deployments";

fn read(row: &mut Row<'_>) -> Result<Deployment, StoreError> {
    row.document()
}

/// The earlier release that is deployed again, if it is one.
fn source_release(source: &Source) -> Option<ReleaseId> {
    match source {
        Source::Folder { .. } => None,
        Source::Release { release } | Source::Reconfigure { release } => Some(*release),
    }
}

/// Also forgets the app's oldest ended deployments beyond `KEPT_PER_APP`, with their builds.
pub fn create(tx: &mut Tx, deployment: &Deployment) -> Result<(), WriteError> {
    let d = deployment;
    if crate::apps::get(tx, d.org, d.app)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::App });
    }
    if let Some(release) = source_release(&d.source) {
        let known = crate::releases::get(tx, d.org, release)?;
        if known.is_none_or(|known| known.release.app != d.app) {
            return Err(WriteError::NotFound { kind: Kind::Release });
        }
    }
    let made = tx.execute(
        "INSERT INTO deployments (id, org, app, state, final, build, release_id, previous,
                                  source_release, doc)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING",
        params![
            d.id,
            d.org,
            d.app,
            d.state.as_str(),
            d.state.is_final(),
            d.build,
            d.release,
            d.previous,
            source_release(&d.source),
            schema::encode(d).map_err(StoreError::from)?,
        ],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::Deployment });
    }
    if let Source::Folder { manifest, size, .. } = &d.source
        && !d.state.is_final()
    {
        blobs::hold(tx, d.org, *manifest, d.id, *size)?;
    }
    tell(tx, d);
    trim(tx, d.app, KEPT_PER_APP)?;
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: DeploymentId) -> Result<Option<Deployment>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

pub fn get_any_org(tx: &Tx, id: DeploymentId) -> Result<Option<Deployment>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

/// The newest first.
pub fn list(
    tx: &Tx,
    org: OrgId,
    app: Option<AppId>,
    page: &Page,
) -> Result<Paged<Deployment>, StoreError> {
    let mut select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    select.and_some("app = ?", app);
    page::read(tx, "deployments", select, Order::Newest, page, read, |deployment| {
        (String::new(), deployment.id.to_string())
    })
}

/// Those of the app that have not ended, the newest first.
pub fn under_way(tx: &Tx, org: OrgId, app: AppId) -> Result<Vec<Deployment>, StoreError> {
    tx.query(
        &format!("{SELECT} WHERE app = ?2 AND org = ?1 AND final = 0 ORDER BY id DESC"),
        params![org, app],
        read,
    )
}

/// The one that the app is moving by: its newest that has not ended.
pub fn newest_under_way(tx: &Tx, org: OrgId, app: AppId) -> Result<Option<Deployment>, StoreError> {
    Ok(under_way(tx, org, app)?.into_iter().next())
}

/// Those that have not ended, and those that some app lives by.
pub(crate) fn in_use_any_org(tx: &Tx) -> Result<Vec<Deployment>, StoreError> {
    tx.query(
        &format!(
            "{SELECT} WHERE final = 0
             UNION ALL
             {SELECT} WHERE final = 1 AND id IN (SELECT live_deployment FROM apps)"
        ),
        &[],
        read,
    )
}

/// Replaces the deployment, if it still is in the state in which that was decided.
pub fn update(
    tx: &mut Tx,
    expected: &DeploymentState,
    deployment: &Deployment,
) -> Result<(), WriteError> {
    let d = deployment;
    let changed = tx.execute(
        "UPDATE deployments SET state = ?5, final = ?6, build = ?7, release_id = ?8,
                                previous = ?9, source_release = ?10, doc = ?11
         WHERE org = ?1 AND app = ?2 AND id = ?3 AND state = ?4",
        params![
            d.org,
            d.app,
            d.id,
            expected.as_str(),
            d.state.as_str(),
            d.state.is_final(),
            d.build,
            d.release,
            d.previous,
            source_release(&d.source),
            schema::encode(d).map_err(StoreError::from)?,
        ],
    )?;
    if changed == 0 {
        return Err(moved(tx, expected, d)?);
    }
    if d.state.is_final() {
        // What came of it holds its own blobs; a source that failed is sent again.
        blobs::let_go(tx, d.id)?;
    }
    if matches!(d.state, DeploymentState::Cancelled { .. }) {
        // Here and not in a plan: plans forget a deployment that has ended, and its build with it.
        builds::cancel_of_deployment(tx, d)?;
    }
    tell(tx, d);
    Ok(())
}

fn moved(tx: &Tx, expected: &DeploymentState, d: &Deployment) -> Result<WriteError, StoreError> {
    let found = get(tx, d.org, d.id)?.filter(|found| found.app == d.app);
    Ok(match found {
        None => WriteError::NotFound { kind: Kind::Deployment },
        Some(found) => WriteError::Moved {
            kind: Kind::Deployment,
            expected: expected.to_string(),
            found: found.state.to_string(),
        },
    })
}

fn tell(tx: &mut Tx, d: &Deployment) {
    tx.touch(d.id);
    for release in [d.release, d.previous, source_release(&d.source)].into_iter().flatten() {
        tx.touch(release);
    }
    if let Some(build) = d.build {
        tx.touch(build);
    }
}

pub(crate) fn touch_with_build(tx: &mut Tx, id: DeploymentId) -> Result<(), StoreError> {
    let build: Option<Option<BuildId>> =
        tx.find("SELECT build FROM deployments WHERE id = ?1", params![id], |row| {
            row.optional_parse()
        })?;
    tx.touch(id);
    if let Some(build) = build.flatten() {
        tx.touch(build);
    }
    Ok(())
}

fn trim(tx: &mut Tx, app: AppId, keep: u32) -> Result<(), StoreError> {
    let gone: Vec<DeploymentId> = tx.returning(
        "DELETE FROM deployments WHERE app = ?1 AND final = 1
             AND id NOT IN (SELECT live_deployment FROM apps WHERE live_deployment IS NOT NULL)
             AND id <= (SELECT id FROM deployments WHERE app = ?1 AND final = 1
                        ORDER BY id DESC LIMIT 1 OFFSET ?2)
         RETURNING id",
        params![app, keep],
        |row| row.parse(),
    )?;
    for id in gone {
        crate::builds::delete_of_deployment(tx, id)?;
    }
    Ok(())
}

pub(crate) fn delete_of_app(tx: &mut Tx, app: AppId) -> Result<(), StoreError> {
    let gone: Vec<DeploymentId> =
        tx.returning("DELETE FROM deployments WHERE app = ?1 RETURNING id", params![app], |row| {
            row.parse()
        })?;
    // Their end is told by the app's.
    gone.into_iter().try_for_each(|id| blobs::let_go(tx, id))
}
