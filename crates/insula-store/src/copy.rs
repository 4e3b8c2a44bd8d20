//! A whole store into another one, whichever databases the two are: all of it or nothing.
//!
//! This is how an installation moves, and how PostgreSQL is backed up (into a file of SQLite) and
//! restored. What is read is of one moment. What arrives is read again before it is committed, and
//! must have the same rows: counted, and by a digest of all their values.

use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::{Context, SHA256};

use crate::error::StoreError;
use crate::sql::Value;
use crate::store::Store;
use crate::tx::Tx;

/// Rows of one statement. A few hundred parameters are within what both databases take.
const ROWS_AT_ONCE: usize = 64;
/// Statements' worth of rows on their way from one database to the other.
const UNDER_WAY_MAX: usize = 32;

/// A table, its key and its columns, in both databases. Parents come before children.
#[derive(Debug, Clone, Copy)]
struct Table {
    name: &'static str,
    key: &'static str,
    columns: &'static str,
}

const fn table(name: &'static str, key: &'static str, columns: &'static str) -> Table {
    Table { name, key, columns }
}

#[rustfmt::skip]
const TABLES: &[Table] = &[
    table("counters", "name", "name, value"),
    table("feed", "kind, id", "kind, id, seq"),
    table("orgs", "id", "id, name, created, instances, memory, cpu, builds_at_once, releases_kept, log_rate, disk"),
    table("org_names", "name", "name, org"),
    table("hosts", "host", "host, org, app"),
    table("users", "id", "id, email, email_key, operator, created, password"),
    table("members", "org, user_id", "org, user_id, role, since"),
    table("invitations", "id", "id, org, email, role, invited_by, created, expires, hash"),
    table("tokens", "id", "id, name, kind, org, user_id, role, created, expires, last_used, hash"),
    table("projects", "id", "id, org, name, created"),
    table("environments", "id", "id, org, project, name, created"),
    table("apps", "id", "id, org, project, environment, name, created, running, scale, live_release, live_deployment, live_since, releases"),
    table("domains", "id", "id, org, app, host, created"),
    table("variables", "scope_id, name", "org, scope, scope_id, name, value, updated"),
    table("data_keys", "org, id", "org, id, wrapped, created"),
    table("secrets", "scope_id, name", "org, scope, scope_id, name, version, updated, key_id, sealed"),
    table("deployments", "id", "id, org, app, state, final, build, release_id, previous, source_release, doc"),
    table("builds", "id", "id, org, app, deployment, state, doc"),
    table("releases", "id", "id, org, app, number, deployment, artifact_kept, live_until, doc"),
    table("cohorts", "id", "id, org, project, environment, app, component, kind, release_id, deployment, run, cpu, memory, pids, disk"),
    table("instances", "id", "id, cohort, node, intent, since, created, observed"),
    table("runs", "id", "id, org, app, release_id, state, final, doc"),
    table("whereabouts", "app, node", "app, node"),
    table("nodes", "id", "id, name, agent_version, joined, hello, offer, site, duty, lost, ailments, relay"),
    table("events", "seq", "seq, id, org, app, doc"),
    table("idempotency", "caller, key", "caller, key, route, body, status, answer, at"),
    table("blob_holds", "org, digest, holder", "org, digest, holder, size"),
    table("gateways", "id", "id, version, joined, hello"),
    table("joins", "id", "id, grants, created, expires, used_at, used_by, hash"),
    table("enrolments", "member", "member, role, newest, used, since, issued, revoked"),
    table("authority", "id", "id, certificate, sealed_key, created"),
    table("servers", "id", "id, fleet, version, seen"),
    table("leases", "name", "name, holder, epoch, until"),
];

/// Has rows in an empty store too: they are replaced.
const COUNTERS: &str = "counters";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTable {
    pub name: &'static str,
    pub rows: u64,
    pub digest: RowsDigest,
}

/// Of the values of all rows, in the order of their key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RowsDigest([u8; 32]);

impl fmt::Debug for RowsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{place} is not empty: it has rows in `{table}`")]
    NotEmpty { place: String, table: &'static str },
    #[error("what arrived in `{table}` is not what was sent: {arrived} rows of {sent}")]
    Differs { table: &'static str, sent: u64, arrived: u64 },
    #[error("read {place}")]
    Read {
        place: String,
        #[source]
        source: StoreError,
    },
    #[error("write to {place}; it is empty as before")]
    Write {
        place: String,
        #[source]
        source: StoreError,
    },
    #[error("the copy was interrupted; begin again")]
    Interrupted,
}

impl From<StoreError> for CopyError {
    fn from(source: StoreError) -> Self {
        // The place is put in where it is known.
        Self::Write { place: String::new(), source }
    }
}

/// What travels. The end is said, so that a reader that broke off is not taken for one.
enum Parcel {
    Rows(usize, Vec<Vec<Value>>),
    End(Vec<CopiedTable>),
}

/// Copies every row. Blocks; others may read and write `from` meanwhile, and what they write after
/// the beginning is not copied. `to` must be empty, and is untouched if anything fails.
pub fn copy(from: &Store, to: &Store) -> Result<Vec<CopiedTable>, CopyError> {
    let (send, receive) = sync_channel(UNDER_WAY_MAX);
    let source = from.clone();
    let reading = std::thread::spawn(move || {
        source.read_blocking(move |tx| -> Result<(), StoreError> { read_all(tx, &send) })
    });
    // A mutation may be run again, and what was received is gone then.
    let receive = Arc::new(Mutex::new(Some(receive)));
    let place = to.place().to_string();
    let written = to.write_blocking({
        let place = place.clone();
        move |tx| {
            let taken = receive.lock().unwrap_or_else(PoisonError::into_inner).take();
            write_all(tx, &taken.ok_or(CopyError::Interrupted)?, &place)
        }
    });
    let read = reading.join().map_err(|_| CopyError::Interrupted)?;
    read.map_err(|source| CopyError::Read { place: from.place().to_string(), source })?;
    written.map_err(|error| match error {
        CopyError::Write { source, .. } => CopyError::Write { place, source },
        other => other,
    })
}

fn read_all(tx: &Tx, send: &SyncSender<Parcel>) -> Result<(), StoreError> {
    let mut copied = Vec::new();
    for (number, table) in TABLES.iter().enumerate() {
        let mut rows = Vec::with_capacity(ROWS_AT_ONCE);
        let done = each_row(tx, *table, |row| {
            rows.push(row);
            if rows.len() < ROWS_AT_ONCE {
                return true;
            }
            send.send(Parcel::Rows(number, std::mem::take(&mut rows))).is_ok()
        })?;
        // Whoever hung up has an error of its own to tell.
        if !rows.is_empty() && send.send(Parcel::Rows(number, rows)).is_err() {
            return Ok(());
        }
        copied.push(done);
    }
    let _ = send.send(Parcel::End(copied));
    Ok(())
}

fn write_all(
    tx: &mut Tx,
    receive: &Receiver<Parcel>,
    place: &str,
) -> Result<Vec<CopiedTable>, CopyError> {
    for table in TABLES {
        let mut sql = format!("SELECT 1 FROM {}", table.name);
        if table.name == COUNTERS {
            sql.push_str(" WHERE value <> 0");
        }
        sql.push_str(" LIMIT 1");
        if tx.any(&sql, &[])? {
            return Err(CopyError::NotEmpty { place: place.to_owned(), table: table.name });
        }
    }
    tx.execute("DELETE FROM counters", &[])?;
    loop {
        match receive.recv() {
            Ok(Parcel::Rows(number, rows)) => insert(tx, TABLES[number], rows)?,
            Ok(Parcel::End(sent)) => return proved(tx, sent),
            Err(_) => return Err(CopyError::Interrupted),
        }
    }
}

fn insert(tx: &mut Tx, table: Table, rows: Vec<Vec<Value>>) -> Result<(), StoreError> {
    let mut sql = format!("INSERT INTO {} ({}) VALUES ", table.name, table.columns);
    let mut number = 0;
    for (at, row) in rows.iter().enumerate() {
        let numbered: Vec<String> =
            row.iter().zip(number + 1..).map(|(_, number)| format!("?{number}")).collect();
        number += row.len();
        let comma = if at == 0 { "" } else { ", " };
        sql.push_str(&format!("{comma}({})", numbered.join(", ")));
    }
    let values: Vec<Value> = rows.into_iter().flatten().collect();
    tx.execute(&sql, &values)?;
    Ok(())
}

/// Reads what is there now, in the transaction that wrote it.
fn proved(tx: &mut Tx, sent: Vec<CopiedTable>) -> Result<Vec<CopiedTable>, CopyError> {
    for (table, sent) in TABLES.iter().zip(&sent) {
        let arrived = each_row(tx, *table, |_| true)?;
        if arrived != *sent {
            let (table, sent) = (table.name, sent.rows);
            return Err(CopyError::Differs { table, sent, arrived: arrived.rows });
        }
    }
    let head = crate::feed::head(tx)?;
    tx.feed_moved(head);
    let newest = crate::events::newest(tx)?;
    tx.events_moved(newest);
    Ok(sent)
}

/// Rows of one page: one statement reads so many, so that a large table is never in memory.
const PAGE_ROWS: usize = 1_024;

/// Every row in the order of the key, until `take` has enough.
fn each_row(
    tx: &Tx,
    table: Table,
    mut take: impl FnMut(Vec<Value>) -> bool,
) -> Result<CopiedTable, StoreError> {
    let Table { name, key, columns } = table;
    let width = columns.split(", ").count();
    let keys = key.split(", ").count();
    let marks: Vec<String> = (1..=keys).map(|number| format!("?{number}")).collect();
    let mut digest = Context::new(&SHA256);
    let mut count = 0;
    let mut after: Option<Vec<Value>> = None;
    'table: loop {
        let only = match &after {
            Some(_) => format!("WHERE ({key}) > ({})", marks.join(", ")),
            None => String::new(),
        };
        let sql =
            format!("SELECT {columns}, {key} FROM {name} {only} ORDER BY {key} LIMIT {PAGE_ROWS}");
        let rows = tx.query(&sql, after.as_deref().unwrap_or_default(), |row| {
            (0..width + keys).map(|_| row.value()).collect::<Result<Vec<_>, _>>()
        })?;
        let whole = rows.len() == PAGE_ROWS;
        for mut row in rows {
            after = Some(row.split_off(width));
            row.iter().for_each(|value| note(&mut digest, value));
            count += 1;
            if !take(row) {
                break 'table;
            }
        }
        if !whole {
            break;
        }
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.finish().as_ref());
    Ok(CopiedTable { name, rows: count, digest: RowsDigest(bytes) })
}

/// A kind, a length and the bytes: no two rows read the same.
fn note(digest: &mut Context, value: &Value) {
    let mut put = |kind: u8, bytes: &[u8]| {
        digest.update(&[kind]);
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    match value {
        Value::Null => put(0, &[]),
        Value::Int(number) => put(1, &number.to_be_bytes()),
        Value::Text(text) => put(2, text.as_bytes()),
        Value::Blob(bytes) => put(3, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreConfig;

    #[test]
    fn no_table_and_no_column_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("insula.db");
        drop(Store::open(StoreConfig::new(&path)).unwrap());
        let database = rusqlite::Connection::open(&path).unwrap();
        let list = |sql: &str| -> String {
            let mut statement = database.prepare(sql).unwrap();
            let rows = statement.query_map((), |row| row.get::<_, String>(0)).unwrap();
            rows.collect::<Result<Vec<_>, _>>().unwrap().join(", ")
        };
        let tables = list("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
        let mut ours: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        ours.sort_unstable();
        assert_eq!(tables, ours.join(", "));
        for Table { name, key, columns } in TABLES {
            let of = |only: &str| format!("SELECT name FROM pragma_table_info('{name}') {only}");
            assert_eq!(list(&of("")), *columns, "{name}");
            assert_eq!(list(&of("WHERE pk > 0 ORDER BY pk")), *key, "{name}");
        }
    }
}
