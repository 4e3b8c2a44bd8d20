//! Running copies: what was decided of each, and what is known of it.

use insula_model::instance::{Instance, Intent};
use insula_model::observed::{InstanceReport, Observed};
use insula_model::schema;
use insula_model::{AppId, InstanceId, NodeId, OrgId, ReleaseId};

use crate::error::{Kind, StoreError, WriteError};
use crate::page::{self, Order, Page, Paged};
use crate::sql::{Row, Select, params};
use crate::tx::Tx;

const SELECT: &str = "SELECT doc FROM instances";

fn read(row: &mut Row<'_>) -> Result<Instance, StoreError> {
    row.document()
}

pub fn create(tx: &mut Tx, instance: &Instance) -> Result<(), WriteError> {
    let i = instance;
    if crate::apps::get(tx, i.org, i.app)?.is_none() {
        return Err(WriteError::NotFound { kind: Kind::App });
    }
    if crate::releases::get(tx, i.org, i.release)?.is_none_or(|known| known.release.app != i.app) {
        return Err(WriteError::NotFound { kind: Kind::Release });
    }
    let made = tx.execute(
        "INSERT INTO instances (id, org, project, environment, app, release_id, node, run, doc)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING",
        params![
            i.id,
            i.org,
            i.project,
            i.environment,
            i.app,
            i.release,
            i.node,
            i.run,
            schema::encode(i).map_err(StoreError::from)?,
        ],
    )?;
    if made == 0 {
        return Err(WriteError::Exists { kind: Kind::Instance });
    }
    tx.touch(i.id);
    tx.touch(i.release);
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: InstanceId) -> Result<Option<Instance>, StoreError> {
    tx.find(&format!("{SELECT} WHERE org = ?1 AND id = ?2"), params![org, id], read)
}

pub fn get_any_org(tx: &Tx, id: InstanceId) -> Result<Option<Instance>, StoreError> {
    tx.find(&format!("{SELECT} WHERE id = ?1"), params![id], read)
}

/// The oldest first.
pub fn list(
    tx: &Tx,
    org: OrgId,
    app: Option<AppId>,
    page: &Page,
) -> Result<Paged<Instance>, StoreError> {
    let mut select = Select::new(format!("{SELECT} WHERE org = ?1"), params![org]);
    select.and_some("app = ?", app);
    page::read(tx, "instances", select, Order::Oldest, page, read, |instance| {
        (String::new(), instance.id.to_string())
    })
}

/// Everything that was placed on a node.
pub fn of_node_any_org(tx: &Tx, node: NodeId) -> Result<Vec<Instance>, StoreError> {
    tx.query(&format!("{SELECT} WHERE node = ?1 ORDER BY id"), params![node], read)
}

pub(crate) fn any_on_node(tx: &Tx, node: NodeId) -> Result<bool, StoreError> {
    tx.any("SELECT 1 FROM instances WHERE node = ?1 LIMIT 1", params![node])
}

pub(crate) fn all_any_org(tx: &Tx) -> Result<Vec<Instance>, StoreError> {
    tx.query(&format!("{SELECT} ORDER BY id"), &[], read)
}

/// Moves what is wanted of it forward. False if it was there already, or further.
pub fn set_intent(
    tx: &mut Tx,
    org: OrgId,
    id: InstanceId,
    intent: Intent,
) -> Result<bool, WriteError> {
    let mut instance = get(tx, org, id)?.ok_or(WriteError::NotFound { kind: Kind::Instance })?;
    if rank(intent) <= rank(instance.intent) {
        return Ok(false);
    }
    instance.intent = intent;
    write(tx, &instance)?;
    Ok(true)
}

fn rank(intent: Intent) -> u8 {
    match intent {
        Intent::Run => 0,
        Intent::Drain { .. } => 1,
        Intent::Stop { .. } => 2,
    }
}

/// Notes what its node reports. False if that is what was known: nothing is written then.
pub fn set_observed(
    tx: &mut Tx,
    org: OrgId,
    id: InstanceId,
    observed: &Observed<Box<InstanceReport>>,
) -> Result<bool, WriteError> {
    let mut instance = get(tx, org, id)?.ok_or(WriteError::NotFound { kind: Kind::Instance })?;
    if instance.observed == *observed {
        return Ok(false);
    }
    instance.observed = observed.clone();
    write(tx, &instance)?;
    Ok(true)
}

fn write(tx: &mut Tx, instance: &Instance) -> Result<(), StoreError> {
    let doc = schema::encode(instance)?;
    tx.execute("UPDATE instances SET doc = ?2 WHERE id = ?1", params![instance.id, doc])?;
    tx.touch(instance.id);
    Ok(())
}

/// Forgets it: its node has nothing of it any more.
pub fn delete(tx: &mut Tx, org: OrgId, id: InstanceId) -> Result<(), WriteError> {
    let gone: Option<(AppId, ReleaseId)> = tx
        .returning(
            "DELETE FROM instances WHERE org = ?1 AND id = ?2 RETURNING app, release_id",
            params![org, id],
            |row| Ok((row.parse()?, row.parse()?)),
        )?
        .pop();
    let (app, release) = gone.ok_or(WriteError::NotFound { kind: Kind::Instance })?;
    tx.touch(id);
    if crate::apps::get_any_org(tx, app)?.is_none() {
        crate::releases::delete_if_unused(tx, release)?;
    }
    Ok(())
}

/// Forgets everything that was placed on a node; how many these were.
pub(crate) fn delete_of_node(tx: &mut Tx, node: NodeId) -> Result<usize, WriteError> {
    let placed = of_node_any_org(tx, node)?;
    placed.iter().try_for_each(|instance| delete(tx, instance.org, instance.id))?;
    Ok(placed.len())
}
