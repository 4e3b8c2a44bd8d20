//! Executions of jobs and commands.

use insula_model::instance::{Run, RunState};
use insula_model::schema;
use insula_model::{AppId, OrgId, RunId};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;

/// Ended runs that an app keeps; their output goes with their logs, long before.
pub const KEPT_PER_APP: u32 = 1_000;

const SELECT: &str = "SELECT doc FROM runs";

fn read(row: &mut Row<'_>) -> Result<Run, StoreError> {
    row.document()
}

fn name(state: &RunState) -> &'static str {
    match state {
        RunState::Queued => "queued",
        RunState::Running => "running",
        RunState::Ended { .. } => "ended",
        RunState::Cancelled => "cancelled",
    }
}

/// Also forgets the app's oldest ended runs beyond `KEPT_PER_APP`.
pub fn create(tx: &mut Tx, run: &Run) -> Result<(), WriteError> {
    let release = crate::releases::get(tx, run.org, run.release)?;
    if release.is_none_or(|known| known.release.app != run.app) {
        return Err(WriteError::NotFound { kind: Kind::Release });
    }
    let made = tx.execute(
        "INSERT INTO runs (id, org, app, release_id, state, final, doc)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
        params![
            run.id,
            run.org,
            run.app,
            run.release,
            name(&run.state),
            run.state.is_final(),
            schema::encode(run).map_err(StoreError::from)?,
        ],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::Run });
    }
    tx.touch(run.id);
    tx.touch(run.release);
    trim(tx, run.app, KEPT_PER_APP)?;
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: RunId) -> Result<Option<Run>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

pub fn get_any_org(tx: &Tx, id: RunId) -> Result<Option<Run>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

/// The newest first.
pub fn list(
    tx: &Tx,
    org: OrgId,
    app: Option<AppId>,
    page: &Page,
) -> Result<Paged<Run>, StoreError> {
    let mut select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    select.and_some("app = ?", app);
    page::read(tx, "runs", select, Order::Newest, page, read, |run| {
        (String::new(), run.id.to_string())
    })
}

/// Those of the org that have not ended.
pub(crate) fn under_way(tx: &Tx, org: OrgId) -> Result<Vec<Run>, StoreError> {
    // An expression keeps the planner on the index of what is under way: an org may have a long
    // history.
    let sql = format!("{SELECT} WHERE final = 0 AND org || '' = ?1 ORDER BY id");
    tx.query(&sql, params![org], read)
}

pub(crate) fn under_way_any_org(tx: &Tx) -> Result<Vec<Run>, StoreError> {
    tx.query(&format!("{SELECT} WHERE final = 0 ORDER BY id"), &[], read)
}

/// Replaces the run, if it still is in the state in which that was decided.
pub fn update(tx: &mut Tx, expected: &RunState, run: &Run) -> Result<(), WriteError> {
    let changed = tx.execute(
        "UPDATE runs SET state = ?5, final = ?6, doc = ?7
         WHERE org = ?1 AND app = ?2 AND id = ?3 AND state = ?4",
        params![
            run.org,
            run.app,
            run.id,
            name(expected),
            name(&run.state),
            run.state.is_final(),
            schema::encode(run).map_err(StoreError::from)?,
        ],
    )?;
    if changed == 0 {
        let found = get(tx, run.org, run.id)?.filter(|found| found.app == run.app);
        return Err(match found {
            None => WriteError::NotFound { kind: Kind::Run },
            Some(found) => WriteError::Moved {
                kind: Kind::Run,
                expected: name(expected).to_owned(),
                found: name(&found.state).to_owned(),
            },
        });
    }
    tx.touch(run.id);
    Ok(())
}

fn trim(tx: &mut Tx, app: AppId, keep: u32) -> Result<(), StoreError> {
    let gone: Vec<RunId> = tx.returning(
        "DELETE FROM runs WHERE app = ?1 AND final = 1 AND id <= (
             SELECT id FROM runs WHERE app = ?1 AND final = 1
             ORDER BY id DESC LIMIT 1 OFFSET ?2)
         RETURNING id",
        params![app, keep],
        |row| row.parse(),
    )?;
    gone.into_iter().for_each(|id| tx.touch(id));
    Ok(())
}

pub(crate) fn delete_of_app(tx: &mut Tx, app: AppId) -> Result<(), StoreError> {
    let gone: Vec<RunId> =
        tx.returning("DELETE FROM runs WHERE app = ?1 RETURNING id", params![app], |row| {
            row.parse()
        })?;
    gone.into_iter().for_each(|id| tx.touch(id));
    Ok(())
}
