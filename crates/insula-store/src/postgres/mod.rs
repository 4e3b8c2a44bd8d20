//! PostgreSQL behind the few things that a transaction needs of a database.
//!
//! A connection belongs to one thread of the store, which waits for its answers; nothing here runs
//! when that thread does not. Whoever writes holds the row lock of the feed's counter from the
//! first statement to the commit: as with SQLite one writer at a time, across all servers, so a
//! mutation sees everything that was committed before it and positions are given in the order of
//! commits. No closure of a mutation is ever run again because of a neighbour.

mod away;
mod connect;
pub(crate) mod follow;
pub(crate) mod format;
pub(crate) mod migrate;
mod tls;
mod url;
mod value;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error as _;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use insula_model::Millis;
use tokio::runtime::Runtime;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{Client, Statement};
use tokio_stream::StreamExt;

use self::away::Away;
use crate::database::{Access, Cause, Condition, Database, DbError, Moved};
use crate::error::{OpenError, StoreError};
use crate::sql::{Row, Value};
use crate::store::Patience;

pub use url::{PostgresUrl, PostgresUrlError};

/// Every statement of ours, with the variants that filters make of lists.
const STATEMENTS_CACHED: usize = 256;
/// A group of more mutations would overflow what PostgreSQL keeps of subtransactions in shared
/// memory (64), which slows down every reader.
pub(crate) const GROUP_MAX: usize = 60;
/// Between attempts to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A UUID with its dashes.
const WRITER_NAME_LEN: usize = 36;

/// Taken first by every writer and held until the end of its transaction.
const LOCK: &str = "SELECT value FROM counters WHERE name = 'feed' FOR UPDATE";

/// Who writes, and what he tries, so that he can ask later whether it was done.
#[derive(Debug)]
struct Marker {
    writer: WriterName,
    attempt: Cell<i64>,
}

/// One writer's own, for ever: a mark under a name that two shared would answer for the other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WriterName(String);

impl WriterName {
    /// As PostgreSQL made it, which writes it in one form only. Part of a statement's text, too.
    fn read(row: &mut Row<'_>) -> Result<Self, StoreError> {
        let name = row.text()?;
        let of_a_uuid = |c: char| c == '-' || matches!(c, '0'..='9' | 'a'..='f');
        if name.len() == WRITER_NAME_LEN && name.chars().all(of_a_uuid) {
            Ok(Self(name))
        } else {
            Err(row.refuse("not the name of a writer"))
        }
    }
}

#[derive(Debug)]
pub(crate) struct Postgres {
    url: PostgresUrl,
    access: Access,
    lock_wait: Millis,
    patience: Patience,
    /// Shared with the other connections of the store.
    away: Away,
    /// The format that the tables must have; nothing while they are being made.
    format: Option<u32>,
    runtime: Runtime,
    session: RefCell<Option<Session>>,
    /// Nobody commits without.
    marker: Option<Marker>,
}

struct Session {
    client: Arc<Client>,
    driver: RefCell<connect::Driver>,
    statements: RefCell<HashMap<String, Statement>>,
    condition: Cell<Condition>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("condition", &self.condition).finish_non_exhaustive()
    }
}

/// What became of a commit whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Landed {
    Done,
    Undone,
}

impl Postgres {
    /// Not connected yet.
    pub(crate) fn new(
        url: PostgresUrl,
        access: Access,
        lock_wait: Millis,
        patience: Patience,
        format: Option<u32>,
    ) -> Result<Self, std::io::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (session, away, marker) = (RefCell::new(None), Away::default(), None);
        Ok(Self { url, access, lock_wait, patience, away, format, runtime, session, marker })
    }

    /// Connects anew, whatever there was.
    pub(crate) fn connect(&self) -> Result<(), DbError> {
        *self.session.borrow_mut() = None;
        let session = self.runtime.block_on(connect::session(self));
        let (client, driver) = session.inspect_err(|_| self.seen_away())?;
        *self.session.borrow_mut() = Some(Session {
            client: Arc::new(client),
            driver: RefCell::new(driver),
            statements: RefCell::default(),
            condition: Cell::new(Condition::None),
        });
        Ok(())
    }

    /// Names this writer, for ever: its marks are found under that name.
    pub(crate) fn name_writer(&mut self) -> Result<(), StoreError> {
        let sql = "SELECT CAST(gen_random_uuid() AS TEXT)";
        let name = self.query(sql, &[], WriterName::read)?.pop();
        let writer = name.ok_or_else(|| StoreError::Unavailable(Cause::Nameless.into()))?;
        self.marker = Some(Marker { writer, attempt: Cell::new(0) });
        // What others left who ended long ago.
        self.batch("DELETE FROM writers WHERE at < now() - INTERVAL '1 day'")
    }

    pub(crate) fn begin(&self, access: Access) -> Result<(), StoreError> {
        let begun = match access {
            Access::Write => format!("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {LOCK}"),
            Access::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned(),
        };
        let begin = || {
            self.set(Condition::Open);
            self.batch(&begun)
        };
        let kept = if self.is_lost() { None } else { Some(begin()) };
        let outcome = match kept {
            Some(Err(StoreError::Unavailable(cause))) if cause.is_silence() => {
                Err(StoreError::Unavailable(cause))
            }
            // That a connection broke somewhen says nothing of a new one.
            None | Some(Err(StoreError::Unavailable(_))) => {
                self.connect().map_err(StoreError::Unavailable)?;
                begin()
            }
            Some(outcome) => outcome,
        };
        if outcome.is_err() && self.condition() == Condition::Failed {
            // It waited for the lock in vain, say.
            self.roll_back()?;
        }
        outcome
    }

    /// Until when one who asked then waits for a PostgreSQL that is away.
    pub(crate) fn waits_until(&self, asked: Instant) -> Instant {
        self.away.waits_until(asked, self.patience.away.as_duration())
    }

    fn seen_away(&self) {
        self.away.seen(Instant::now(), self.patience.away.as_duration());
    }

    /// `begin`, with the patience of one who asked then.
    pub(crate) fn begin_by(&self, access: Access, asked: Instant) -> Result<(), StoreError> {
        let mut backoff = Backoff::default();
        loop {
            let outcome = self.begin(access);
            let until = self.waits_until(asked);
            match outcome {
                Err(StoreError::Unavailable(_)) if Instant::now() < until => backoff.wait(until),
                outcome => return outcome,
            }
        }
    }

    fn marker(&self) -> Result<&Marker, StoreError> {
        self.marker.as_ref().ok_or_else(|| StoreError::Unavailable(Cause::Nameless.into()))
    }

    pub(crate) fn commit(&self, moved: Moved) -> Result<(), StoreError> {
        let Marker { writer: WriterName(writer), attempt } = self.marker()?;
        attempt.set(attempt.get() + 1);
        // In one message with the commit, so without parameters: one way to the server, not three.
        let mut sql = format!(
            "INSERT INTO writers (id, attempt) VALUES ('{writer}', {})
             ON CONFLICT (id) DO UPDATE SET attempt = excluded.attempt, at = now();",
            attempt.get()
        );
        if let (Some(_), _) | (_, Some(_)) = moved {
            let head = moved.0.map_or(0, |head| head.0);
            let events = moved.1.map_or(0, |events| events.0);
            let channel = self.url.channel();
            sql.push_str(&format!("SELECT pg_notify('{channel}', '{head} {events}');"));
        }
        sql.push_str("COMMIT");
        let outcome = self.wait("COMMIT", self.client()?.batch_execute(&sql));
        match outcome {
            Ok(()) => {
                self.set(Condition::None);
                Ok(())
            }
            // It may have been done before the answer was lost.
            Err(StoreError::Unavailable(source)) => Err(StoreError::Unknown(source)),
            Err(error) => Err(error),
        }
    }

    /// What became of the last commit, which had no answer. Waits for the lock that it held: after
    /// that it is over, one way or the other.
    pub(crate) fn landed(&self) -> Result<Landed, StoreError> {
        let Marker { writer: WriterName(writer), attempt } = self.marker()?;
        self.begin(Access::Write)?;
        let sql = "SELECT attempt FROM writers WHERE id = ?1";
        let found = self.query(sql, &[Value::Text(writer.clone())], |row| row.int());
        let done = found?.pop() == Some(attempt.get());
        self.roll_back()?;
        Ok(if done { Landed::Done } else { Landed::Undone })
    }

    pub(crate) fn roll_back(&self) -> Result<(), StoreError> {
        self.batch("ROLLBACK")?;
        self.set(Condition::None);
        Ok(())
    }

    pub(crate) fn undo_to_savepoint(&self) -> Result<(), StoreError> {
        self.batch("ROLLBACK TO SAVEPOINT mutation")?;
        self.set(Condition::Open);
        Ok(())
    }

    pub(crate) fn condition(&self) -> Condition {
        self.session.borrow().as_ref().map_or(Condition::None, |session| session.condition.get())
    }

    fn is_lost(&self) -> bool {
        self.session.borrow().as_ref().is_none_or(|session| session.client.is_closed())
    }

    fn set(&self, condition: Condition) {
        if let Some(session) = &*self.session.borrow() {
            session.condition.set(condition);
        }
    }

    pub(crate) fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.wait(sql, self.client()?.batch_execute(sql))
    }

    pub(crate) fn execute(&self, sql: &str, params: &[Value]) -> Result<usize, StoreError> {
        let statement = self.prepared(sql)?;
        let client = self.client()?;
        let changed = self.wait(sql, client.execute_raw(&statement, borrowed(params)))?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    pub(crate) fn query<T>(
        &self,
        sql: &str,
        params: &[Value],
        mut map: impl FnMut(&mut Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let statement = self.prepared(sql)?;
        let client = self.client()?;
        let rows = self.wait(sql, client.query_raw(&statement, borrowed(params)))?;
        let mut rows = pin!(rows);
        let mut out = Vec::new();
        while let Some(row) = self.wait(sql, async { rows.next().await.transpose() })? {
            let values = (0..row.len()).map(|column| row.try_get(column));
            let values = values.collect::<Result<Vec<Value>, _>>();
            let values = values.map_err(|error| classify(sql, error))?;
            out.push(map(&mut Row::new(sql, values))?);
        }
        Ok(out)
    }

    fn prepared(&self, sql: &str) -> Result<Statement, StoreError> {
        let known = |session: &Session| session.statements.borrow().get(sql).cloned();
        if let Some(known) = self.session.borrow().as_ref().and_then(known) {
            return Ok(known);
        }
        let theirs = numbered(sql);
        let statement = self.wait(sql, self.client()?.prepare(&theirs))?;
        if let Some(session) = &*self.session.borrow() {
            let mut statements = session.statements.borrow_mut();
            if statements.len() >= STATEMENTS_CACHED {
                statements.clear();
            }
            statements.insert(sql.to_owned(), statement.clone());
        }
        Ok(statement)
    }

    /// Waits for one answer, and notes what an error makes of the connection.
    fn wait<T>(
        &self,
        sql: &str,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let silent = self.patience.answer.as_duration();
        let waited = match &*self.session.borrow() {
            None => return Err(StoreError::Unavailable(Cause::Lost.into())),
            Some(session) => {
                let mut driver = session.driver.borrow_mut();
                let answer = connect::driven(&mut driver, answer);
                // The clock of a time-out is the runtime's, inside of which it is made.
                self.runtime.block_on(async { tokio::time::timeout(silent, answer).await })
            }
        };
        let error = match waited {
            Ok(Ok(answer)) => {
                self.away.over();
                return Ok(answer);
            }
            Ok(Err(error)) => classify(sql, error),
            Err(_) => StoreError::Unavailable(Cause::Silent(silent).into()),
        };
        if matches!(error, StoreError::Unavailable(_)) {
            self.seen_away();
            // Whatever was open on it is undone by the server, which finds us gone.
            *self.session.borrow_mut() = None;
        } else if self.condition() == Condition::Open {
            self.set(Condition::Failed);
        }
        Err(error)
    }

    fn client(&self) -> Result<Arc<Client>, StoreError> {
        let session = self.session.borrow();
        let client = session.as_ref().map(|session| Arc::clone(&session.client));
        client.ok_or_else(|| StoreError::Unavailable(Cause::Lost.into()))
    }
}

/// Connections for a writer and its readers, to tables of the newest format.
pub(crate) fn open(
    url: &PostgresUrl,
    readers: usize,
    lock_wait: Millis,
    patience: Patience,
) -> Result<(Database, Vec<Database>), OpenError> {
    migrate::run(url, migrate::MIGRATIONS)?;
    let format = Some(migrate::known(migrate::MIGRATIONS));
    let away = Away::default();
    let connect = |access| {
        let postgres = Postgres::new(url.clone(), access, lock_wait, patience, format);
        let mut postgres = postgres.map_err(OpenError::Thread)?;
        postgres.away = away.clone();
        let place = url.to_string();
        postgres.connect().map_err(|source| OpenError::Connect { place, source })?;
        Ok(postgres)
    };
    let mut writer = connect(Access::Write)?;
    writer.name_writer().map_err(OpenError::Head)?;
    let readers: Result<_, OpenError> =
        (0..readers).map(|_| Ok(Database::Postgres(Box::new(connect(Access::Read)?)))).collect();
    Ok((Database::Postgres(Box::new(writer)), readers?))
}

/// Between attempts to connect: soon at first, then seldom.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(BACKOFF_MAX);
        now
    }

    pub(crate) fn wait(&mut self, until: Instant) {
        std::thread::sleep(self.next().min(until.saturating_duration_since(Instant::now())));
    }
}

/// `?1` as PostgreSQL writes it.
fn numbered(sql: &str) -> String {
    sql.replace('?', "$")
}

fn borrowed(params: &[Value]) -> impl ExactSizeIterator<Item = &Value> {
    params.iter()
}

fn classify(sql: &str, error: tokio_postgres::Error) -> StoreError {
    let io = error.source().is_some_and(|cause| cause.is::<std::io::Error>());
    let lost = error.is_closed() || io || error.as_db_error().is_some_and(ends_connection);
    let code = error.code().cloned();
    let source = DbError::from(error);
    if lost {
        return StoreError::Unavailable(source);
    }
    match code {
        Some(SqlState::DISK_FULL) => StoreError::DiskFull(source),
        Some(SqlState::IO_ERROR) => StoreError::Io(source),
        Some(
            SqlState::LOCK_NOT_AVAILABLE
            | SqlState::T_R_DEADLOCK_DETECTED
            | SqlState::T_R_SERIALIZATION_FAILURE,
        ) => StoreError::Locked(source),
        Some(SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED) => StoreError::Damaged(source),
        // The list of codes is open.
        _ => StoreError::Statement { statement: sql.to_owned(), source },
    }
}

/// Whether the server hangs up after this, or is not the one that takes writes any more.
fn ends_connection(error: &tokio_postgres::error::DbError) -> bool {
    let fatal = matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    let class = error.code().code().get(..2);
    // Connection exceptions; an operator who ends or restarts it; too few of something.
    fatal
        || class == Some("08")
        || class == Some("57")
        || *error.code() == SqlState::READ_ONLY_SQL_TRANSACTION
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(answer: &str) -> Result<WriterName, StoreError> {
        WriterName::read(&mut Row::new("SELECT", vec![Value::from(answer)]))
    }

    #[test]
    fn what_is_no_name_is_not_made_one() {
        let name = "1f0c1b7e-9d3a-4c5e-8f60-0123456789ab";
        assert_eq!(name_of(name).unwrap(), WriterName(name.to_owned()));
        for none in ["", "-", &name[1..], &name.to_uppercase(), &name.replace('-', "'")] {
            assert!(matches!(name_of(none), Err(StoreError::Column { .. })), "{none}");
        }
    }

    /// All that have none would answer for each other.
    #[test]
    fn who_has_no_name_commits_nothing_and_takes_no_commit_for_done() {
        let url = "postgres:///nowhere?host=/nowhere".parse().unwrap();
        let patience = Patience { away: Millis(0), answer: Millis(0) };
        let nameless = Postgres::new(url, Access::Write, Millis(0), patience, None).unwrap();
        let is_refused = |error: StoreError| {
            let StoreError::Unavailable(cause) = error else { panic!("{error:?}") };
            assert!(cause.to_string().contains("no name"), "{cause}");
        };
        is_refused(nameless.commit((None, None)).unwrap_err());
        is_refused(nameless.landed().unwrap_err());
    }
}
