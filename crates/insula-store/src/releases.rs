//! What was released: immutable, numbered in its app, kept. Artifacts are kept less long.

use insula_model::release::{Release, ReleaseNumber};
use insula_model::schema;
use insula_model::{AppId, OrgId, ReleaseId, Timestamp};

use crate::blobs;
use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT artifact_kept, doc FROM releases";

/// A release, and whether one can still go back to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRelease {
    pub release: Release,
    pub artifact_kept: bool,
}

fn read(row: &mut Row<'_>) -> Result<KeptRelease, StoreError> {
    Ok(KeptRelease { artifact_kept: row.flag()?, release: row.document()? })
}

/// The number for the release that is being made in this transaction. No number is given twice.
pub fn next_number(tx: &mut Tx, org: OrgId, app: AppId) -> Result<ReleaseNumber, WriteError> {
    let number = tx.returning(
        "UPDATE apps SET releases = releases + 1 WHERE org = ?1 AND id = ?2 RETURNING releases",
        params![org, app],
        |row| row.amount().map(ReleaseNumber),
    )?;
    number.into_iter().next().ok_or(WriteError::NotFound { kind: Kind::App })
}

/// Keeps the release and holds its artifact. Its number comes from `next_number`.
pub fn create(tx: &mut Tx, release: &Release) -> Result<(), WriteError> {
    let r = release;
    if crate::apps::get(tx, r.org, r.app)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::App });
    }
    let made = tx.execute(
        "INSERT INTO releases (id, org, app, number, deployment, artifact_kept, doc)
         VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6) ON CONFLICT DO NOTHING",
        params![
            r.id,
            r.org,
            r.app,
            r.number.0,
            r.deployment,
            schema::encode(r).map_err(StoreError::from)?,
        ],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::Release });
    }
    blobs::hold_artifact(tx, r.org, &r.artifact, r.id)?;
    tx.touch(r.id);
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: ReleaseId) -> Result<Option<KeptRelease>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

pub fn by_number(
    tx: &Tx,
    org: OrgId,
    app: AppId,
    number: ReleaseNumber,
) -> Result<Option<KeptRelease>, StoreError> {
    tx.find(
        &format!("{SELECT} WHERE org = ?1 AND app = ?2 AND number = ?3"),
        params![org, app, number.0],
        read,
    )
}

pub fn get_any_org(tx: &Tx, id: ReleaseId) -> Result<Option<Release>, StoreError> {
    Ok(tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)?.map(|kept| kept.release))
}

/// The newest first.
pub fn list(
    tx: &Tx,
    org: OrgId,
    app: AppId,
    page: &Page,
) -> Result<Paged<KeptRelease>, StoreError> {
    let select = Select::new(format!("{SELECT} WHERE org = ?1 AND app = ?2"), params![org, app]);
    page::read(tx, "releases", select, Order::Newest, page, read, |kept| {
        (String::new(), kept.release.id.to_string())
    })
}

/// What an app lives by, what runs, and what a deployment or a run under way names.
const IN_USE: &str = "SELECT live_release FROM apps WHERE live_release IS NOT NULL
     UNION SELECT release_id FROM cohorts
     UNION SELECT release_id FROM runs WHERE final = 0
     UNION SELECT release_id FROM deployments WHERE final = 0 AND release_id IS NOT NULL
     UNION SELECT previous FROM deployments WHERE final = 0 AND previous IS NOT NULL
     UNION SELECT source_release FROM deployments
           WHERE final = 0 AND source_release IS NOT NULL";

pub(crate) fn in_use_any_org(tx: &Tx) -> Result<Vec<Release>, StoreError> {
    let sql = format!("{SELECT} WHERE id IN ({IN_USE}) ORDER BY id");
    Ok(tx.query(&sql, &[], read)?.into_iter().map(|kept| kept.release).collect())
}

pub(crate) fn set_live_until(
    tx: &mut Tx,
    id: ReleaseId,
    until: Option<Timestamp>,
) -> Result<(), StoreError> {
    tx.execute("UPDATE releases SET live_until = ?2 WHERE id = ?1", params![id, until])?;
    Ok(())
}

/// Releases of the app whose artifact nobody needs: not among the newest `keep`, not live since
/// `live_since`, and not in use. The oldest first.
pub fn past_keeping(
    tx: &Tx,
    org: OrgId,
    app: AppId,
    keep: u32,
    live_since: Timestamp,
) -> Result<Vec<ReleaseId>, StoreError> {
    tx.query(
        &format!(
            "SELECT id FROM releases
             WHERE org = ?1 AND app = ?2 AND artifact_kept = 1
               AND number <= (SELECT releases FROM apps WHERE id = ?2) - ?3
               AND (live_until IS NULL OR live_until < ?4)
               AND id NOT IN ({IN_USE})
             ORDER BY number"
        ),
        params![org, app, keep, live_since],
        |row| row.parse(),
    )
}

/// Lets go of the artifact; the record stays. From here on there is no going back to it.
pub fn drop_artifact(tx: &mut Tx, org: OrgId, id: ReleaseId) -> Result<(), WriteError> {
    let changed = tx.execute(
        "UPDATE releases SET artifact_kept = 0 WHERE org = ?1 AND id = ?2",
        params![org, id],
    )?;
    if changed == 0 {
        return Err(WriteError::NotFound { kind: Kind::Release });
    }
    blobs::let_go(tx, id)?;
    Ok(())
}

/// All of an app that is gone, but for those that still run.
pub(crate) fn delete_of_app(tx: &mut Tx, app: AppId) -> Result<(), StoreError> {
    let ids: Vec<ReleaseId> =
        tx.query("SELECT id FROM releases WHERE app = ?1", params![app], |row| row.parse())?;
    ids.into_iter().try_for_each(|id| delete_if_unused(tx, id))
}

pub(crate) fn delete_if_unused(tx: &mut Tx, id: ReleaseId) -> Result<(), StoreError> {
    if tx.any("SELECT 1 FROM cohorts WHERE release_id = ?1 LIMIT 1", params![id])? {
        return Ok(());
    }
    tx.execute("DELETE FROM releases WHERE id = ?1", params![id])?;
    blobs::let_go(tx, id)?;
    tx.touch(id);
    Ok(())
}
