//! Running copies: what was decided of each, and what is known of it.
//!
//! Made for millions: what an instance shares with others is in its cohort, its row is small, and
//! many are made by few statements. There is no index by node: it would make each commit of a
//! large rollout touch as many pages as there are nodes, and nodes are removed seldom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use insula_model::instance::{Instance, Intent};
use insula_model::observed::{InstanceReport, Observed};
use insula_model::schema::{self, Document};
use insula_model::{AppId, InstanceId, NodeId, OrgId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::cohorts::{self, Cohort, CohortId, Own};
use crate::error::{Kind, StoreError, WriteError};
use crate::feed;
use crate::page::{Cursor, Page, Paged};
use crate::sql::{Row, Select, Value, params};
use crate::tx::Tx;
use crate::whereabouts;

/// How many rows one statement makes, the most first. A statement of each is kept; more rows in one
/// would save no more time.
const ROWS_AT_ONCE: [usize; 2] = [64, 8];
/// Rows that are read at once of all that there are: a bound on what a driver may buffer.
const READ_AT_ONCE: usize = 16_384;

/// The columns of an instance named `i` that `own` reads.
const OWN: &str = "i.id, i.node, i.intent, i.since, i.created, i.observed";

static SELECT: LazyLock<String> = LazyLock::new(|| {
    format!("SELECT {OWN}, {} FROM instances i JOIN cohorts c ON c.id = i.cohort", cohorts::COLUMNS)
});

/// What makes so many rows that differ in nothing but id and node.
static INSERTS: LazyLock<[String; ROWS_AT_ONCE.len()]> = LazyLock::new(|| {
    ROWS_AT_ONCE.map(|count| {
        let rows = (0..count).map(|nth| {
            let (id, node) = (3 + 2 * nth, 4 + 2 * nth);
            format!("(?{id}, ?1, ?{node}, 0, NULL, ?2, NULL)")
        });
        let rows = rows.collect::<Vec<_>>().join(", ");
        format!(
            "INSERT INTO instances (id, cohort, node, intent, since, created, observed)
             VALUES {rows} ON CONFLICT (id) DO NOTHING"
        )
    })
});

/// What a node reported, as it is stored. Unknown is no document at all.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Seen(Observed<Box<InstanceReport>>);

impl Document for Seen {
    const KIND: &'static str = "observation";
    const SCHEMA: u64 = 1;
    fn upcast(_: u64, document: Map<String, Json>) -> Map<String, Json> {
        document
    }
}

fn encode(observed: &Observed<Box<InstanceReport>>) -> Result<Option<String>, StoreError> {
    match observed {
        Observed::Unknown => Ok(None),
        Observed::Absent { .. } | Observed::Present { .. } => {
            Ok(Some(schema::encode(&Seen(observed.clone()))?))
        }
    }
}

/// Sixteen bytes, which sort as the id does.
fn bytes(id: u128) -> Value {
    Value::Blob(id.to_be_bytes().to_vec())
}

fn read_bytes(row: &mut Row<'_>) -> Result<u128, StoreError> {
    let bytes: [u8; 16] = row.blob()?.try_into().map_err(|_| row.refuse("not sixteen bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

/// 0, 1, 2: only ever moves forward.
fn rank(intent: Intent) -> (i64, Option<Timestamp>) {
    match intent {
        Intent::Run => (0, None),
        Intent::Drain { since } => (1, Some(since)),
        Intent::Stop { since } => (2, Some(since)),
    }
}

/// One that cannot be read is as if its node had not said it: it says it again. It must not keep any
/// server from reading everything else.
fn observed(text: &str) -> Observed<Box<InstanceReport>> {
    match schema::decode::<Seen>(text) {
        Ok(seen) => seen.0,
        Err(error) => {
            let cause = &error as &dyn std::error::Error;
            tracing::error!(error = cause, "an observation cannot be read; it counts as unknown");
            Observed::Unknown
        }
    }
}

fn own(row: &mut Row<'_>) -> Result<Own, StoreError> {
    Ok(Own {
        id: InstanceId::from_u128(read_bytes(row)?),
        node: NodeId::from_u128(read_bytes(row)?),
        intent: match (row.int()?, row.optional_time()?) {
            (0, None) => Intent::Run,
            (1, Some(since)) => Intent::Drain { since },
            (2, Some(since)) => Intent::Stop { since },
            _ => return Err(row.refuse("not an intent and its time")),
        },
        created: row.time()?,
        observed: match row.optional_text()? {
            None => Observed::Unknown,
            Some(text) => observed(&text),
        },
    })
}

fn read(row: &mut Row<'_>) -> Result<Instance, StoreError> {
    let own = own(row)?;
    Ok(Cohort::read(row)?.instance(own))
}

pub fn create(tx: &mut Tx, instance: &Instance) -> Result<(), WriteError> {
    create_many(tx, std::slice::from_ref(instance))
}

/// Makes all of them or none. Cheapest when those of one component stand together and their ids
/// follow one another (`InstanceId::nth`).
pub fn create_many(tx: &mut Tx, instances: &[Instance]) -> Result<(), WriteError> {
    for alike in instances.chunk_by(cohorts::alike) {
        let cohort = cohorts::of_new(tx, &alike[0])?;
        for rows in alike.chunk_by(|a, b| is_new(a) && is_new(b) && a.created == b.created) {
            insert(tx, cohort, rows)?;
        }
        tx.touch(alike[0].release);
    }
    for run in instances.chunk_by(|a, b| a.id.as_u128().checked_add(1) == Some(b.id.as_u128())) {
        feed::touch_run(tx, run[0].id, run[run.len() - 1].id);
    }
    Ok(())
}

/// As almost all are made: wanted, and not heard of.
fn is_new(instance: &Instance) -> bool {
    instance.intent == Intent::Run && instance.observed == Observed::Unknown
}

/// Rows of a cohort; if it is more than one, they differ in nothing but id and node.
fn insert(tx: &mut Tx, cohort: CohortId, mut rows: &[Instance]) -> Result<(), WriteError> {
    for (count, sql) in ROWS_AT_ONCE.into_iter().zip(&*INSERTS) {
        while let Some((now, later)) = rows.split_at_checked(count) {
            let mut values = Vec::with_capacity(2 + 2 * count);
            values.extend([cohort.into(), now[0].created.into()]);
            for row in now {
                values.extend([bytes(row.id.as_u128()), bytes(row.node.as_u128())]);
            }
            if tx.execute(sql, &values)? < count {
                return Err(WriteError::Exists { kind: Kind::Instance });
            }
            rows = later;
        }
    }
    for row in rows {
        let (intent, since) = rank(row.intent);
        let made = tx.execute(
            "INSERT INTO instances (id, cohort, node, intent, since, created, observed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
            params![
                bytes(row.id.as_u128()),
                cohort,
                bytes(row.node.as_u128()),
                intent,
                since,
                row.created,
                encode(&row.observed)?,
            ],
        )?;
        if made == 0 {
            return Err(WriteError::Exists { kind: Kind::Instance });
        }
    }
    Ok(())
}

pub fn get(tx: &Tx, org: OrgId, id: InstanceId) -> Result<Option<Instance>, StoreError> {
    let sql = format!("{} WHERE i.id = ?1 AND c.org = ?2", *SELECT);
    tx.find(&sql, params![bytes(id.as_u128()), org], read)
}

pub fn get_any_org(tx: &Tx, id: InstanceId) -> Result<Option<Instance>, StoreError> {
    tx.find(&format!("{} WHERE i.id = ?1", *SELECT), params![bytes(id.as_u128())], read)
}

/// The oldest first.
pub fn list(
    tx: &Tx,
    org: OrgId,
    app: Option<AppId>,
    page: &Page,
) -> Result<Paged<Instance>, StoreError> {
    const LIST: &str = "instances";
    // From the few cohorts to their instances, whatever the database would guess: the other way
    // round it reads the whole fleet.
    let from = "FROM cohorts c CROSS JOIN instances i WHERE i.cohort = c.id AND c.org = ?1";
    let mut select =
        Select::new(format!("SELECT {OWN}, {} {from}", cohorts::COLUMNS), params![org]);
    select.and_some("c.app = ?", app);
    if let Some(cursor) = &page.after {
        let [id] = cursor.key(LIST)?;
        let id: InstanceId = id.parse().map_err(|_| StoreError::Cursor)?;
        select.and("i.id > ?", [bytes(id.as_u128())]);
    }
    select.then("ORDER BY i.id LIMIT ?", [(page.rows() + 1).into()]);
    let mut items = tx.select(&select, read)?;
    let more = items.len() > page.rows();
    items.truncate(page.rows());
    let next = items.last().filter(|_| more);
    let next = next.map(|last| Cursor::of(LIST, &[last.id.to_string()]));
    Ok(Paged { items, next })
}

/// The nodes that have instances of an app now; `whereabouts` knows those that had.
pub(crate) fn nodes_of_app(
    tx: &Tx,
    org: OrgId,
    app: AppId,
) -> Result<BTreeSet<NodeId>, StoreError> {
    let sql = "SELECT DISTINCT i.node FROM cohorts c CROSS JOIN instances i
               WHERE i.cohort = c.id AND c.org = ?1 AND c.app = ?2";
    let nodes = tx.query(sql, params![org, app], |row| read_bytes(row).map(NodeId::from_u128))?;
    Ok(nodes.into_iter().collect())
}

/// Everything that was placed on a node. Reads the whole fleet; the control plane's World has an
/// index of it.
pub fn of_node_any_org(tx: &Tx, node: NodeId) -> Result<Vec<Instance>, StoreError> {
    let sql = format!("{} WHERE i.node = ?1 ORDER BY i.id", *SELECT);
    tx.query(&sql, params![bytes(node.as_u128())], read)
}

pub(crate) fn any_on_node(tx: &Tx, node: NodeId) -> Result<bool, StoreError> {
    tx.any("SELECT 1 FROM instances WHERE node = ?1 LIMIT 1", params![bytes(node.as_u128())])
}

/// Those from one id to another, both included.
pub(crate) fn range_any_org(
    tx: &Tx,
    first: InstanceId,
    last: InstanceId,
) -> Result<Vec<Instance>, StoreError> {
    let sql = format!(
        "SELECT i.cohort, {OWN} FROM instances i WHERE i.id BETWEEN ?1 AND ?2 ORDER BY i.id"
    );
    let found = tx.query(&sql, params![bytes(first.as_u128()), bytes(last.as_u128())], |row| {
        Ok((CohortId::read(row)?, own(row)?))
    })?;
    let mut whole = Vec::with_capacity(found.len());
    let mut of: Option<(CohortId, Cohort)> = None;
    for (id, own) in found {
        // Those that were made together share one.
        if of.as_ref().is_none_or(|(known, _)| *known != id) {
            of = cohorts::get(tx, id)?.map(|cohort| (id, cohort));
        }
        whole.extend(of.as_ref().map(|(_, cohort)| cohort.instance(own)));
    }
    Ok(whole)
}

/// All there are, in the order of their ids, without holding them twice.
pub(crate) fn each_any_org(tx: &Tx, mut take: impl FnMut(Instance)) -> Result<(), StoreError> {
    let cohorts: BTreeMap<CohortId, Cohort> = cohorts::all(tx)?.into_iter().collect();
    let sql =
        format!("SELECT i.cohort, {OWN} FROM instances i WHERE i.id > ?1 ORDER BY i.id LIMIT ?2");
    let mut after = Value::Blob(Vec::new());
    loop {
        let mut last = None;
        let read = tx.query(&sql, params![after, READ_AT_ONCE], |row| {
            let cohort = cohorts.get(&CohortId::read(row)?);
            let cohort = cohort.ok_or_else(|| row.refuse("no such cohort"))?;
            let own = own(row)?;
            last = Some(own.id);
            take(cohort.instance(own));
            Ok(())
        })?;
        match last {
            Some(last) if read.len() == READ_AT_ONCE => after = bytes(last.as_u128()),
            _ => return Ok(()),
        }
    }
}

/// Moves what is wanted of it forward. False if it was there already, or further.
pub fn set_intent(
    tx: &mut Tx,
    org: OrgId,
    id: InstanceId,
    intent: Intent,
) -> Result<bool, WriteError> {
    let (rank, since) = rank(intent);
    let moved = tx.execute(
        "UPDATE instances SET intent = ?3, since = ?4
         WHERE id = ?1 AND intent < ?3
           AND EXISTS (SELECT 1 FROM cohorts c WHERE c.id = instances.cohort AND c.org = ?2)",
        params![bytes(id.as_u128()), org, rank, since],
    )?;
    if moved > 0 {
        tx.touch(id);
        return Ok(true);
    }
    match get(tx, org, id)? {
        Some(_) => Ok(false),
        None => Err(WriteError::NotFound { kind: Kind::Instance }),
    }
}

/// Notes what its node reports. False if that is what was known: nothing is written then.
pub fn set_observed(
    tx: &mut Tx,
    org: OrgId,
    id: InstanceId,
    observed: &Observed<Box<InstanceReport>>,
) -> Result<bool, WriteError> {
    let known = tx.find(
        "SELECT i.observed FROM instances i JOIN cohorts c ON c.id = i.cohort
         WHERE i.id = ?1 AND c.org = ?2",
        params![bytes(id.as_u128()), org],
        |row| row.optional_text(),
    )?;
    let known = known.ok_or(WriteError::NotFound { kind: Kind::Instance })?;
    // Equal documents have equal texts: keys are sorted.
    let said = encode(observed)?;
    if known == said {
        return Ok(false);
    }
    tx.execute(
        "UPDATE instances SET observed = ?2 WHERE id = ?1",
        params![bytes(id.as_u128()), said],
    )?;
    tx.touch(id);
    Ok(true)
}

/// Forgets it: its node has nothing of it any more.
pub fn delete(tx: &mut Tx, org: OrgId, id: InstanceId) -> Result<(), WriteError> {
    let (cohort, node) = tx
        .returning(
            "DELETE FROM instances
             WHERE id = ?1
               AND EXISTS (SELECT 1 FROM cohorts c WHERE c.id = instances.cohort AND c.org = ?2)
             RETURNING cohort, node",
            params![bytes(id.as_u128()), org],
            |row| Ok((CohortId::read(row)?, NodeId::from_u128(read_bytes(row)?))),
        )?
        .pop()
        .ok_or(WriteError::NotFound { kind: Kind::Instance })?;
    tx.touch(id);
    whereabouts::note_cohort(tx, cohort, node)?;
    Ok(cohorts::delete_if_empty(tx, cohort)?)
}

/// Forgets everything that was placed on a node; how many these were.
pub(crate) fn delete_of_node(tx: &mut Tx, node: NodeId) -> Result<usize, StoreError> {
    let gone = tx.returning(
        "DELETE FROM instances WHERE node = ?1 RETURNING id, cohort",
        params![bytes(node.as_u128())],
        |row| Ok((InstanceId::from_u128(read_bytes(row)?), CohortId::read(row)?)),
    )?;
    let mut cohorts: Vec<_> = gone.iter().map(|(_, cohort)| *cohort).collect();
    cohorts.sort();
    cohorts.dedup();
    gone.iter().for_each(|(id, _)| tx.touch(*id));
    cohorts.into_iter().try_for_each(|cohort| cohorts::delete_if_empty(tx, cohort))?;
    Ok(gone.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_read_of_an_instance_is_unknown_and_ends_nothing() {
        let seen = Observed::Absent { seen: Timestamp::from_millis(7) };
        assert_eq!(observed(&encode(&seen).unwrap().unwrap()), seen);
        // A later version's, a time of the year 10000, half a document, none.
        let beyond = r#"{"schema":1,"observed":"absent","seen":"10000-01-01T00:00:00.000Z"}"#;
        for odd in [r#"{"schema":99}"#, beyond, r#"{"schema":1,"obs"#, ""] {
            assert_eq!(observed(odd), Observed::Unknown, "{odd}");
        }
    }
}
