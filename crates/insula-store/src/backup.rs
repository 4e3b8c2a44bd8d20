//! Copies of the whole database, taken while it is used, and proved before they are.
//!
//! A backup holds hashes and sealed values, and no key: the master key is a file of its own, which
//! backups leave out.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use insula_model::Millis;
use rusqlite::backup::{Backup, StepResult};

use crate::copy::{self, CopyError};
use crate::database::{Access, DbError};
use crate::error::{OpenError, StoreError};
use crate::migrate::{MIGRATIONS, known};
use crate::postgres::{self, PostgresUrl};
use crate::sqlite::{Format, Sqlite};
use crate::store::{Place, Store, StoreConfig};

/// Nodes and gateways may hold generations from after the backup was taken, and refuse older ones.
/// A store that was restored goes on from beyond all of them: this is a thousand commits a second
/// for seven weeks.
const RESTORED_GENERATIONS_SKIPPED: u64 = 1 << 32;

/// What ran, ran on a machine that this one is not: it is placed again. Nor are the servers of then
/// these; the fence of their leases stays.
const NOT_RESTORED: &[(&str, &str)] = &[
    ("instances", "DELETE FROM instances"),
    ("cohorts", "DELETE FROM cohorts"),
    ("nodes", "DELETE FROM nodes"),
    ("feed", "DELETE FROM feed"),
    ("servers", "DELETE FROM servers"),
    ("leases", "UPDATE leases SET until = 0"),
];

/// A backup may wait longer than a request for somebody who holds the file.
const WAIT: Millis = Millis::secs(30);

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("copy the database {} to {}", from.display(), to.display())]
    Copy {
        from: PathBuf,
        to: PathBuf,
        #[source]
        source: DbError,
    },
    #[error("{} is there already; move it away first", path.display())]
    Exists { path: PathBuf },
    #[error("{} is not a backup of Insula", path.display())]
    Foreign { path: PathBuf },
    #[error("{} has format {found}, and this version of insula knows formats up to {known}", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{} is damaged: {first}", path.display())]
    Damaged { path: PathBuf, first: String },
    #[error("write to the copy {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: StoreError,
    },
    #[error("make the file {} for a backup", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: OpenError,
    },
    #[error("open {place} for a backup")]
    OpenPlace {
        place: String,
        #[source]
        source: OpenError,
    },
    #[error("{place} holds no state of Insula")]
    Empty { place: String },
    #[error(
        "{place} has format {found}, and this version of insula works with {known}: back it up with \
         the insula that runs on it, or start the new server first"
    )]
    Older { place: String, found: u32, known: u32 },
    #[error("copy the rows")]
    Rows(#[source] CopyError),
}

impl Store {
    /// Writes a consistent copy while others read and write. `to` must not exist; it appears only
    /// when it is whole, proved and on the disk.
    pub fn backup_to_blocking(&self, to: &Path) -> Result<(), RestoreError> {
        refuse_existing(to)?;
        match self.place() {
            Place::Sqlite(path) => copy(path, to),
            Place::Postgres(_) => copy_rows(self, to),
        }
    }
}

/// PostgreSQL's rows in a file of SQLite: the same format, and restored the same way.
fn copy_rows(from: &Store, to: &Path) -> Result<(), RestoreError> {
    let partial = beside(to, "partial");
    remove(&partial)?;
    let fill = || {
        let open = |source| RestoreError::Open { path: partial.clone(), source };
        let store = Store::open(StoreConfig::new(&partial)).map_err(open)?;
        copy::copy(from, &store).map_err(RestoreError::Rows)?;
        drop(store);
        let failed = |source| {
            let (from, to) = (partial.clone(), to.to_owned());
            RestoreError::Copy { from, to, source }
        };
        let database = Sqlite::open(&partial, Access::Write, WAIT).map_err(failed)?;
        database.make_single().map_err(failed)?;
        drop(database);
        publish(&partial, to)
    };
    let outcome = fill();
    if outcome.is_err() {
        // The first error is the one to tell.
        let _ = remove(&partial);
    }
    outcome
}

/// A consistent copy of a database that servers may be using, in a file of SQLite. What is backed
/// up stays in its format: a copy must not be what migrates a database under an older server.
pub fn backup(from: &Place, to: &Path) -> Result<(), RestoreError> {
    refuse_existing(to)?;
    match from {
        Place::Sqlite(path) => copy(path, to),
        Place::Postgres(url) => {
            let open = |source| RestoreError::OpenPlace { place: url.to_string(), source };
            refuse_format(url, format_of(url).map_err(open)?)?;
            let store = Store::open(StoreConfig::postgres(url.clone())).map_err(open)?;
            copy_rows(&store, to)
        }
    }
}

/// The driver runs on a runtime of its own, and this may be called from inside of one.
fn format_of(url: &PostgresUrl) -> Result<Option<u32>, OpenError> {
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| postgres::format::look(url));
        looking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn refuse_format(url: &PostgresUrl, found: Option<u32>) -> Result<(), RestoreError> {
    let place = url.to_string();
    let known = postgres::migrate::known(postgres::migrate::MIGRATIONS);
    match found {
        None => Err(RestoreError::Empty { place }),
        Some(found) if found < known => Err(RestoreError::Older { place, found, known }),
        // A newer one is refused when it is opened.
        Some(_) => Ok(()),
    }
}

/// Puts a backup where a store can be opened. Refuses what is damaged, foreign or too new, and a
/// place where something is. `from` may be of an older format: opening it migrates it.
pub fn restore(from: &Path, to: &Path) -> Result<(), RestoreError> {
    fs::metadata(from).map_err(|source| {
        let path = from.to_owned();
        RestoreError::File { doing: "read", path, source }
    })?;
    refuse_existing(to)?;
    copy_and(from, to, |database| {
        let write = || -> Result<(), StoreError> {
            database.begin(Access::Write)?;
            // Whoever followed the feed before begins with a snapshot.
            database.execute(
                "UPDATE counters SET value = value + ?1 WHERE name = 'feed'",
                &[RESTORED_GENERATIONS_SKIPPED.into()],
            )?;
            database.execute(
                "UPDATE counters SET value = (SELECT value FROM counters WHERE name = 'feed')
                 WHERE name = 'feed_trimmed'",
                &[],
            )?;
            for (table, statement) in NOT_RESTORED {
                let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
                // A backup of an older format may not have it yet.
                if !database.query(sql, &[(*table).into()], |_| Ok(()))?.is_empty() {
                    database.execute(statement, &[])?;
                }
            }
            database.batch("COMMIT")
        };
        write().map_err(|source| RestoreError::Write { path: to.to_owned(), source })
    })
}

fn refuse_existing(to: &Path) -> Result<(), RestoreError> {
    match fs::symlink_metadata(to) {
        Ok(_) => Err(RestoreError::Exists { path: to.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(RestoreError::File { doing: "look for", path: to.to_owned(), source }),
    }
}

/// A consistent, proved copy of a database that may be in use, in place of what is at `to`.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), RestoreError> {
    copy_and(from, to, |_| Ok(()))
}

fn copy_and(
    from: &Path,
    to: &Path,
    then: impl FnOnce(&Sqlite) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let partial = beside(to, "partial");
    remove(&partial)?;
    let outcome = fill(from, &partial, then).and_then(|()| publish(&partial, to));
    if outcome.is_err() {
        // The first error is the one to tell.
        let _ = remove(&partial);
    }
    outcome
}

fn fill(
    from: &Path,
    partial: &Path,
    then: impl FnOnce(&Sqlite) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let file = |doing| move |source| RestoreError::File { doing, path: partial.to_owned(), source };
    let failed =
        |source| RestoreError::Copy { from: from.to_owned(), to: partial.to_owned(), source };
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)
        .map_err(file("create"))?;
    let source = Sqlite::open(from, Access::Read, WAIT).map_err(failed)?;
    let mut target = Sqlite::open(partial, Access::Write, WAIT).map_err(failed)?;
    copy_pages(&source, &mut target).map_err(failed)?;
    match target.format().map_err(failed)? {
        Format::Ours(found) if found <= known(MIGRATIONS) => {}
        Format::Ours(found) => {
            let known = known(MIGRATIONS);
            return Err(RestoreError::Newer { path: from.to_owned(), found, known });
        }
        Format::Empty | Format::Foreign => {
            return Err(RestoreError::Foreign { path: from.to_owned() });
        }
    }
    if let Some(first) = target.problems().map_err(failed)?.into_iter().next() {
        return Err(RestoreError::Damaged { path: from.to_owned(), first });
    }
    then(&target)?;
    // One file, whole by itself: no log beside it that somebody could forget.
    target.make_single().map_err(failed)
}

/// In one step: a reader's view of a write-ahead log does not change under it, and does not keep
/// anybody from writing.
fn copy_pages(source: &Sqlite, target: &mut Sqlite) -> Result<(), DbError> {
    let backup = Backup::new(source.connection(), target.connection_mut())?;
    loop {
        match backup.step(-1)? {
            StepResult::Done => return Ok(()),
            // The busy timeout has done the waiting.
            _ => continue,
        }
    }
}

fn publish(partial: &Path, to: &Path) -> Result<(), RestoreError> {
    let failed = |doing| move |source| RestoreError::File { doing, path: to.to_owned(), source };
    File::open(partial).and_then(|file| file.sync_all()).map_err(failed("sync the copy for"))?;
    fs::rename(partial, to).map_err(failed("name the copy"))?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// A partial copy of ours, and what the database may have left beside it.
fn remove(partial: &Path) -> Result<(), RestoreError> {
    let mut paths = vec![partial.to_owned()];
    for suffix in ["-journal", "-wal", "-shm"] {
        let mut name = partial.as_os_str().to_owned();
        name.push(suffix);
        paths.push(name.into());
    }
    for path in paths {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(RestoreError::File { doing: "remove", path, source }),
        }
    }
    Ok(())
}
