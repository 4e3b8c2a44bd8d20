//! Looks which format a schema has, for those who must not be what migrates it.

use insula_model::Millis;

use crate::database::Access;
use crate::error::{OpenError, StoreError};
use crate::postgres::{Postgres, PostgresUrl};
use crate::sql::Value;
use crate::store::Patience;

/// Nobody holds what is read here for longer, unless he changes the tables.
const LOCK_WAIT: Millis = Millis::secs(5);

/// Nothing if there is nothing of ours. Changes nothing, and makes nothing.
pub(crate) fn look(url: &PostgresUrl) -> Result<Option<u32>, OpenError> {
    let place = || url.to_string();
    let patience = Patience::default();
    let database = Postgres::new(url.clone(), Access::Read, LOCK_WAIT, patience, None);
    let database = database.map_err(OpenError::Thread)?;
    database.connect().map_err(|source| OpenError::Connect { place: place(), source })?;
    found(&database, url).map_err(|source| OpenError::Prepare { place: place(), source })
}

fn found(database: &Postgres, url: &PostgresUrl) -> Result<Option<u32>, StoreError> {
    let is_there = "SELECT 1 FROM pg_tables WHERE schemaname = ?1 AND tablename = 'format'";
    if database.query(is_there, &[Value::from(url.schema.as_str())], |_| Ok(()))?.is_empty() {
        return Ok(None);
    }
    let numbers = database.query("SELECT number FROM format", &[], |row| row.amount())?;
    Ok(numbers.first().copied())
}
