//! What a transaction needs of a database, whichever of the two it is.

use std::sync::Arc;

use insula_model::Generation;
use tokio_postgres::error::SqlState;

use crate::error::StoreError;
use crate::events::EventSeq;
use crate::postgres::Postgres;
use crate::sql::{Row, Value};
use crate::sqlite::Sqlite;

/// What a driver says, without its type.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct DbError(Arc<Cause>);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("PostgreSQL did not answer in {0:?}")]
    Silent(std::time::Duration),
    #[error("the connection to PostgreSQL is lost")]
    Lost,
    #[error("PostgreSQL has given this writer no name, under which a lost commit could be found")]
    Nameless,
    #[error("the database has format {found}, and this version of insula writes format {known}")]
    Format { found: u32, known: u32 },
}

impl<E: Into<Cause>> From<E> for DbError {
    fn from(error: E) -> Self {
        Self(Arc::new(error.into()))
    }
}

impl DbError {
    /// Whether a server was there and does not let us in: a wrong password, a user or a database
    /// that it does not know. Waiting changes nothing about that.
    pub fn is_refusal(&self) -> bool {
        match &*self.0 {
            Cause::Postgres(error) => error.code().is_some_and(|state| {
                // Class 28: invalid authorization, whatever is invalid about it.
                *state == SqlState::INVALID_CATALOG_NAME || state.code().starts_with("28")
            }),
            Cause::Sqlite(_)
            | Cause::Io(_)
            | Cause::Silent(_)
            | Cause::Lost
            | Cause::Nameless
            | Cause::Format { .. } => false,
        }
    }

    /// Whether somebody was waited for long already.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(&*self.0, Cause::Silent(_))
    }
}

/// How a connection will be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    Read,
}

/// How far a transaction has come by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Open,
    /// A statement failed, and nothing more is done before it is undone to a savepoint.
    Failed,
    /// There is none, or no longer.
    None,
}

/// What a commit moved, for those who wait for it.
pub(crate) type Moved = (Option<Generation>, Option<EventSeq>);

#[derive(Debug)]
pub(crate) enum Database {
    Sqlite(Sqlite),
    Postgres(Box<Postgres>),
}

impl Database {
    pub(crate) fn begin(&self, access: Access) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.begin(access),
            Self::Postgres(postgres) => postgres.begin(access),
        }
    }

    /// Makes what was done since `begin` durable, and tells the other servers.
    pub(crate) fn commit(&self, moved: Moved) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.batch("COMMIT"),
            Self::Postgres(postgres) => postgres.commit(moved),
        }
    }

    /// Ends the transaction, if there is one, as if it had never been.
    pub(crate) fn roll_back(&self) -> Result<(), StoreError> {
        match (self.condition(), self) {
            (Condition::None, _) => Ok(()),
            (Condition::Open | Condition::Failed, Self::Sqlite(sqlite)) => sqlite.batch("ROLLBACK"),
            (Condition::Open | Condition::Failed, Self::Postgres(postgres)) => postgres.roll_back(),
        }
    }

    pub(crate) fn condition(&self) -> Condition {
        match self {
            // After some errors SQLite undoes a transaction by itself.
            Self::Sqlite(sqlite) if sqlite.in_transaction() => Condition::Open,
            Self::Sqlite(_) => Condition::None,
            Self::Postgres(postgres) => postgres.condition(),
        }
    }

    /// A place inside the transaction to come back to.
    pub(crate) fn savepoint(&self) -> Result<(), StoreError> {
        self.batch("SAVEPOINT mutation")
    }

    pub(crate) fn undo_to_savepoint(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.batch("ROLLBACK TO mutation"),
            Self::Postgres(postgres) => postgres.undo_to_savepoint(),
        }
    }

    pub(crate) fn release_savepoint(&self) -> Result<(), StoreError> {
        self.batch("RELEASE mutation")
    }

    /// Several statements without parameters or rows.
    pub(crate) fn batch(&self, sql: &str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.batch(sql),
            Self::Postgres(postgres) => postgres.batch(sql),
        }
    }

    pub(crate) fn execute(&self, sql: &str, params: &[Value]) -> Result<usize, StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.execute(sql, params),
            Self::Postgres(postgres) => postgres.execute(sql, params),
        }
    }

    pub(crate) fn query<T>(
        &self,
        sql: &str,
        params: &[Value],
        map: impl FnMut(&mut Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.query(sql, params, map),
            Self::Postgres(postgres) => postgres.query(sql, params, map),
        }
    }
}
