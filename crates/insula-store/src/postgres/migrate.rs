//! Brings a schema to the format of this version, or refuses it.
//!
//! Several servers may start at once: the first one works, under a lock of the whole schema, and
//! the others find it done. Each migration is one transaction, changes of tables and all, so there
//! is no copy beside it as with a file: the operator's own backups are that.

use insula_model::Millis;

use crate::database::{Access, Condition};
use crate::error::{OpenError, StoreError};
use crate::postgres::{Postgres, PostgresUrl};
use crate::sql::Value;
use crate::store::Patience;

/// What makes an empty schema the first format that PostgreSQL ever had, and then what turns
/// format N into N + 1. Numbers are shared with SQLite: one format, the same tables.
pub(crate) const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0002.sql"), include_str!("migrations/0003.sql")];
/// The format that the first of them makes.
pub(crate) const FORMAT_FIRST: u32 = 2;

/// Another server may be migrating; that is worth more patience than a row.
const LOCK_WAIT: Millis = Millis::secs(60);
/// Likewise, and a migration of large tables takes as long as it takes.
const PATIENCE: Patience = Patience { away: Millis::secs(0), answer: Millis::secs(3_600) };

pub(crate) fn known(migrations: &[&str]) -> u32 {
    FORMAT_FIRST - 1 + u32::try_from(migrations.len()).unwrap_or(u32::MAX - FORMAT_FIRST)
}

/// Leaves the schema in the newest format.
pub(crate) fn run(url: &PostgresUrl, migrations: &[&str]) -> Result<(), OpenError> {
    let place = || url.to_string();
    let connect = |source| OpenError::Connect { place: place(), source };
    let database = Postgres::new(url.clone(), Access::Write, LOCK_WAIT, PATIENCE, None);
    let database = database.map_err(OpenError::Thread)?;
    database.connect().map_err(connect)?;
    loop {
        let step = step(&database, url, migrations);
        if database.condition() != Condition::None {
            // The first error is the one to tell.
            let _ = database.roll_back();
        }
        match step {
            Ok(Step::Done) => return Ok(()),
            Ok(Step::Migrated) => {}
            Ok(Step::Foreign) => {
                return Err(OpenError::ForeignSchema {
                    place: place(),
                    schema: url.schema.clone(),
                });
            }
            Ok(Step::Newer { found, known }) => {
                return Err(OpenError::NewerSchema { place: place(), found, known });
            }
            Err(source) => return Err(OpenError::Prepare { place: place(), source }),
        }
    }
}

enum Step {
    Done,
    Migrated,
    Foreign,
    Newer { found: u32, known: u32 },
}

fn step(database: &Postgres, url: &PostgresUrl, migrations: &[&str]) -> Result<Step, StoreError> {
    let schema = &url.schema;
    database.batch("BEGIN")?;
    // Two schemas of one database may share a number, and then only wait for each other.
    database.batch(&format!("SELECT pg_advisory_xact_lock(hashtext('insula {schema}'))"))?;
    let named = [Value::from(schema.as_str())];
    let exists = "SELECT 1 FROM pg_namespace WHERE nspname = ?1";
    if database.query(exists, &named, |_| Ok(()))?.is_empty() {
        database.batch(&format!("CREATE SCHEMA \"{schema}\""))?;
    }
    let tables = "SELECT tablename FROM pg_tables WHERE schemaname = ?1";
    let tables = database.query(tables, &named, |row| row.text())?;
    let found: u32 = if tables.is_empty() {
        0
    } else if tables.iter().any(|table| table == "format")
        && tables.iter().any(|table| table == "counters")
    {
        let found = database.query("SELECT number FROM format", &[], |row| row.amount())?;
        found.first().copied().unwrap_or(0)
    } else {
        return Ok(Step::Foreign);
    };
    let known = known(migrations);
    if found > known {
        return Ok(Step::Newer { found, known });
    }
    if found == known {
        return Ok(Step::Done);
    }
    let next = found.max(FORMAT_FIRST - 1) + 1;
    let migration = migrations[(next - FORMAT_FIRST) as usize];
    tracing::info!(database = %url, from = found, to = next, "migrating the database");
    database.batch(migration)?;
    database.execute("UPDATE format SET number = ?1", &[next.into()])?;
    database.batch("COMMIT")?;
    Ok(Step::Migrated)
}
