//! A transaction, as the modules of this crate see it.

use std::collections::BTreeSet;
use std::fmt;

use insula_model::{Generation, Timestamp};

use crate::database::{Condition, Database, Moved};
use crate::error::StoreError;
use crate::events::EventSeq;
use crate::feed::Touch;
use crate::sql::{Row, Select, Value};

/// An open transaction. Reading takes `&Tx`, changing takes `&mut Tx`.
///
/// It is used by the functions of this crate's modules; it has none of its own for callers, so no
/// statement is written anywhere else.
pub struct Tx {
    database: Database,
    /// Rows whose change must be told, since the last `take_touched`.
    touched: BTreeSet<Touch>,
    /// Where the feed and the events stand after what was done so far, if that moved them.
    heads: Moved,
    /// How far back the feed reaches.
    pub(crate) feed_kept: u64,
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("touched", &self.touched).finish_non_exhaustive()
    }
}

impl Tx {
    pub(crate) fn new(database: Database, feed_kept: u64) -> Self {
        Self { database, touched: BTreeSet::new(), heads: (None, None), feed_kept }
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn query<T>(
        &self,
        sql: &str,
        params: &[Value],
        map: impl FnMut(&mut Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.database.query(sql, params, map)
    }

    pub(crate) fn select<T>(
        &self,
        select: &Select,
        map: impl FnMut(&mut Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.database.query(select.sql(), select.params(), map)
    }

    /// The row, for a query that finds one at most.
    pub(crate) fn find<T>(
        &self,
        sql: &str,
        params: &[Value],
        map: impl FnMut(&mut Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.database.query(sql, params, map)?.pop())
    }

    /// Whether the query finds anything.
    pub(crate) fn any(&self, sql: &str, params: &[Value]) -> Result<bool, StoreError> {
        Ok(self.find(sql, params, |_| Ok(()))?.is_some())
    }

    pub(crate) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<usize, StoreError> {
        self.still_open()?;
        self.database.execute(sql, params)
    }

    /// A statement that changes rows and returns something of them.
    pub(crate) fn returning<T>(
        &mut self,
        sql: &str,
        params: &[Value],
        map: impl FnMut(&mut Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.still_open()?;
        self.database.query(sql, params, map)
    }

    /// After an error that undid the transaction, a closure that goes on regardless must not
    /// change anything outside of one.
    fn still_open(&self) -> Result<(), StoreError> {
        match self.database.condition() {
            Condition::Open => Ok(()),
            Condition::Failed | Condition::None => Err(StoreError::Undone),
        }
    }

    /// What time it is, for whoever compares it with what other servers wrote: by the clock of the
    /// database that they share. A file has one user, whose own clock this is.
    pub fn clock(&self, here: Timestamp) -> Result<Timestamp, StoreError> {
        match &self.database {
            Database::Sqlite(_) => Ok(here),
            Database::Postgres(postgres) => {
                let sql = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
                let now = postgres.query(sql, &[], |row| row.time())?;
                Ok(now.first().copied().unwrap_or(here))
            }
        }
    }

    /// Notes that a row has changed, appeared or gone.
    pub(crate) fn touch(&mut self, touch: impl Into<Touch>) {
        self.touched.insert(touch.into());
    }

    pub(crate) fn heads(&self) -> Moved {
        self.heads
    }

    /// Forgets what a mutation did that is being undone.
    pub(crate) fn undo_to(&mut self, heads: Moved) {
        self.heads = heads;
        self.touched.clear();
    }

    pub(crate) fn feed_moved(&mut self, head: Generation) {
        self.heads.0 = Some(head);
    }

    pub(crate) fn events_moved(&mut self, newest: EventSeq) {
        self.heads.1 = Some(newest);
    }

    pub(crate) fn take_touched(&mut self) -> BTreeSet<Touch> {
        std::mem::take(&mut self.touched)
    }
}

/// A one-way hash of a credential that was long and random: a token's, an invitation's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

impl From<&SecretHash> for Value {
    fn from(hash: &SecretHash) -> Self {
        Self::Blob(hash.0.to_vec())
    }
}
