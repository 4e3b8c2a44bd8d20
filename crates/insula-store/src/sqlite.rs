//! SQLite behind the few things that a transaction needs of a database.

use std::path::{Path, PathBuf};

use insula_model::Millis;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};

use crate::database::{Access, DbError};
use crate::error::StoreError;
use crate::sql::{Row, Value};

/// Every statement of ours, with the variants that filters make of lists.
const STATEMENTS_CACHED: usize = 256;
/// "insu": tells our files from other people's.
const APPLICATION_ID: u32 = 0x696e_7375;
/// What stays of a write-ahead log after a checkpoint. A burst may need more, for a while.
const WAL_KEPT_BYTES: u32 = 16 << 20;
/// Readers and the writer each; the file is small and the kernel caches it too.
const CACHE_KIB: u32 = 2_048;

#[derive(Debug)]
pub(crate) struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    /// Opens a file that exists.
    ///
    /// Another process may hold it for `wait` before a statement gives up.
    pub(crate) fn open(path: &Path, access: Access, wait: Millis) -> Result<Self, DbError> {
        // A path that begins with `file:` or a colon is a path all the same: no URI flag, and
        // SQLite knows only one special name, which `plain` hides.
        let mode = match access {
            Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(plain(path), flags)?;
        connection.busy_timeout(wait.as_duration())?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
        connection.execute_batch(&format!(
            "PRAGMA foreign_keys = ON;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -{CACHE_KIB};
             PRAGMA trusted_schema = OFF;"
        ))?;
        Ok(Self { connection })
    }

    /// What makes an acknowledged commit survive a power cut.
    pub(crate) fn make_durable(&self) -> Result<(), DbError> {
        Ok(self.connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA journal_size_limit = {WAL_KEPT_BYTES};"
        ))?)
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Nothing beside the file itself: for a copy that travels.
    pub(crate) fn make_single(&self) -> Result<(), DbError> {
        Ok(self.connection.execute_batch("PRAGMA journal_mode = DELETE;")?)
    }

    pub(crate) fn begin(&self, access: Access) -> Result<(), StoreError> {
        self.batch(match access {
            Access::Write => "BEGIN IMMEDIATE",
            Access::Read => "BEGIN",
        })
    }

    /// Several statements without parameters or rows.
    pub(crate) fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.connection.execute_batch(sql).map_err(|error| classify(sql, error))
    }

    /// After some errors SQLite undoes a transaction by itself.
    pub(crate) fn in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    pub(crate) fn execute(&self, sql: &str, params: &[Value]) -> Result<usize, StoreError> {
        let run = || self.connection.prepare_cached(sql)?.execute(params_from_iter(params));
        run().map_err(|error| classify(sql, error))
    }

    pub(crate) fn query<T>(
        &self,
        sql: &str,
        params: &[Value],
        mut map: impl FnMut(&mut Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let failed = |error| classify(sql, error);
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let columns = statement.column_count();
        let mut rows = statement.query(params_from_iter(params)).map_err(failed)?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let values = (0..columns)
                .map(|column| value(column, row.get_ref(column)?))
                .collect::<Result<Vec<_>, _>>()
                .map_err(failed)?;
            out.push(map(&mut Row::new(sql, values))?);
        }
        Ok(out)
    }

    /// Who wrote the file, and in which format. Both are 0 in a new file.
    pub(crate) fn format(&self) -> Result<Format, DbError> {
        let read = |pragma| self.connection.pragma_query_value(None, pragma, |row| row.get(0));
        let application: u32 = read("application_id")?;
        let format: u32 = read("user_version")?;
        let tables: i64 = self.connection.query_row(
            "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table'",
            (),
            |row| row.get(0),
        )?;
        Ok(match application {
            APPLICATION_ID => Format::Ours(format),
            0 if format == 0 && tables == 0 => Format::Empty,
            _ => Format::Foreign,
        })
    }

    /// Runs a migration and notes its format, both or neither.
    pub(crate) fn migrate(&self, to: u32, sql: &str) -> Result<(), DbError> {
        let outcome = self.connection.execute_batch(&format!(
            "BEGIN EXCLUSIVE;
             {sql}
             PRAGMA application_id = {APPLICATION_ID};
             PRAGMA user_version = {to};
             COMMIT;"
        ));
        if outcome.is_err() && self.in_transaction() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        Ok(outcome?)
    }

    /// What is wrong with the file, in the words of the database. Nothing, if all is well.
    pub(crate) fn problems(&self) -> Result<Vec<String>, DbError> {
        let mut statement = self.connection.prepare("PRAGMA integrity_check(20)")?;
        let rows = statement.query_map((), |row| row.get::<_, String>(0))?;
        let mut found = rows.collect::<Result<Vec<_>, _>>()?;
        found.retain(|line| line != "ok");
        let mut statement = self.connection.prepare("PRAGMA foreign_key_check")?;
        let orphans = statement.query_map((), |row| {
            let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
            Ok(format!("a row of {table} has no row of {parent}"))
        })?;
        for orphan in orphans {
            found.push(orphan?);
        }
        Ok(found)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Empty,
    Ours(u32),
    Foreign,
}

/// `:memory:` as a path is a file of that name.
fn plain(path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { Path::new(".").join(path) }
}

fn value(column: usize, value: ValueRef<'_>) -> Result<Value, rusqlite::Error> {
    let text = |error| {
        rusqlite::Error::FromSqlConversionFailure(column, value.data_type(), Box::new(error))
    };
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Int(value),
        ValueRef::Text(bytes) => Value::Text(std::str::from_utf8(bytes).map_err(text)?.to_owned()),
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
        // We store no fractions.
        ValueRef::Real(_) => {
            let name = String::from("a fraction");
            return Err(rusqlite::Error::InvalidColumnType(column, name, value.data_type()));
        }
    })
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::ToSqlOutput::Borrowed;
        Ok(Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

fn classify(sql: &str, error: rusqlite::Error) -> StoreError {
    let code = error.sqlite_error_code();
    let source = DbError::from(error);
    match code {
        Some(ErrorCode::DiskFull) => StoreError::DiskFull(source),
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => StoreError::Io(source),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Locked(source),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(source),
        // The driver's list of codes is open.
        _ => StoreError::Statement { statement: sql.to_owned(), source },
    }
}
