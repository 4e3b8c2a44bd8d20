//! Histories: appended in the transaction of what they tell of, read by org or by app.
//!
//! Events are ordered by their commit, not by their clock, so one who follows misses none.

use insula_model::event::Event;
use insula_model::{AppId, OrgId};

use crate::error::StoreError;
use crate::page::{Cursor, Page, Paged};
use crate::sql::{Row, Select, params, to_json};
use crate::tx::Tx;

/// Events that an org keeps, about a month of a busy team. Others' orgs do not crowd it out.
pub const KEPT_PER_ORG: u64 = 20_000;

/// A place in the history of the platform.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventSeq(pub u64);

/// Whose history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Org(OrgId),
    App(OrgId, AppId),
    /// All orgs' and what concerns the operator alone.
    Platform,
    /// What concerns the operator alone: nodes, gateways, servers.
    Operator,
}

fn read(row: &mut Row<'_>) -> Result<(EventSeq, Event), StoreError> {
    Ok((EventSeq(row.amount()?), row.json("an event")?))
}

pub fn append(tx: &mut Tx, event: &Event) -> Result<(), StoreError> {
    let seq: u64 = tx
        .returning(
            "UPDATE counters SET value = value + 1 WHERE name = 'event' RETURNING value",
            &[],
            |row| row.amount(),
        )?
        .pop()
        .unwrap_or(1);
    tx.execute(
        "INSERT INTO events (seq, id, org, app, doc) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            seq,
            event.id,
            event.org.map(|org| org.to_string()).unwrap_or_default(),
            event.app,
            to_json("an event", event)?,
        ],
    )?;
    tx.events_moved(EventSeq(seq));
    Ok(())
}

pub fn newest(tx: &Tx) -> Result<EventSeq, StoreError> {
    let sql = "SELECT value FROM counters WHERE name = 'event'";
    Ok(EventSeq(tx.find(sql, &[], |row| row.amount())?.unwrap_or(0)))
}

fn select(of: Of) -> Select {
    const SELECT: &str = "SELECT seq, doc FROM events WHERE";
    match of {
        Of::Org(org) => Select::new(format!("{SELECT} org = ?1"), params![org]),
        Of::App(org, app) => {
            Select::new(format!("{SELECT} org = ?1 AND app = ?2"), params![org, app])
        }
        Of::Operator => Select::new(format!("{SELECT} org = ''"), &[]),
        Of::Platform => Select::new(format!("{SELECT} 1 = 1"), &[]),
    }
}

/// The newest first.
pub fn list(tx: &Tx, of: Of, page: &Page) -> Result<Paged<Event>, StoreError> {
    const LIST: &str = "events";
    let mut select = select(of);
    if let Some(cursor) = &page.after {
        let [seq] = cursor.key(LIST)?;
        let seq: u64 = seq.parse().map_err(|_| StoreError::Cursor)?;
        select.and("seq < ?", [seq.into()]);
    }
    select.then("ORDER BY seq DESC LIMIT ?", [(page.rows() + 1).into()]);
    let mut found = tx.select(&select, read)?;
    let more = found.len() > page.rows();
    found.truncate(page.rows());
    let next = found.last().filter(|_| more).map(|(seq, _)| Cursor::of(LIST, &[seq.0.to_string()]));
    Ok(Paged { items: found.into_iter().map(|(_, event)| event).collect(), next })
}

/// What came after `after`, the oldest first, at most `limit`: for one who follows.
pub fn since(
    tx: &Tx,
    of: Of,
    after: EventSeq,
    limit: usize,
) -> Result<Vec<(EventSeq, Event)>, StoreError> {
    let mut select = select(of);
    select.and("seq > ?", [after.0.into()]);
    select.then("ORDER BY seq LIMIT ?", [limit.into()]);
    tx.select(&select, read)
}

/// Forgets each org's oldest events beyond `keep`.
pub(crate) fn sweep(tx: &mut Tx, keep: u64) -> Result<usize, StoreError> {
    let full: Vec<String> = tx.query(
        "SELECT org FROM events GROUP BY org HAVING COUNT(*) > ?1",
        params![keep],
        |row| row.text(),
    )?;
    let mut gone = 0;
    for org in full {
        gone += tx.execute(
            "DELETE FROM events WHERE org = ?1 AND seq <= (
                 SELECT seq FROM events WHERE org = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
            params![org, keep],
        )?;
    }
    Ok(gone)
}
