//! Brings a file to the format of this version, or refuses it.
//!
//! Each migration is a text of its own and is never edited once it was released. Before an older
//! file is touched, it is copied beside itself.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use insula_model::Millis;

use crate::backup;
use crate::error::OpenError;
use crate::sqlite::{Access, Format, Sqlite};

/// What turns format N into N + 1, beginning with an empty file.
pub(crate) const MIGRATIONS: &[&str] = &[include_str!("migrations/0001.sql")];

/// Opens the file for writing, made if it is not there, in the newest format.
pub(crate) fn open(path: &Path, wait: Millis, migrations: &[&str]) -> Result<Sqlite, OpenError> {
    let failed = |source| OpenError::Open { path: path.to_owned(), source };
    create(path)?;
    let database = Sqlite::open(path, Access::Write, wait).map_err(failed)?;
    let known = known(migrations);
    let found = match database.format().map_err(failed)? {
        Format::Empty => 0,
        Format::Ours(format) => format,
        Format::Foreign => return Err(OpenError::Foreign { path: path.to_owned() }),
    };
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    if found > 0 && found < known {
        let copy = copy_of(path, found);
        backup::copy(path, &copy).map_err(|source| OpenError::Copy {
            path: path.to_owned(),
            copy: copy.clone(),
            source: Box::new(source),
        })?;
        tracing::info!(from = found, to = known, copy = %copy.display(), "migrating the database");
    }
    database.make_durable().map_err(failed)?;
    for (to, migration) in (1..).zip(migrations).skip(found as usize) {
        let failed = |source| OpenError::Migrate { path: path.to_owned(), to, source };
        database.migrate(to, migration).map_err(failed)?;
    }
    Ok(database)
}

pub(crate) fn known(migrations: &[&str]) -> u32 {
    u32::try_from(migrations.len()).unwrap_or(u32::MAX)
}

/// Beside the file: `insula.db.format-1`.
pub(crate) fn copy_of(path: &Path, format: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".format-{format}"));
    name.into()
}

/// The database holds hashes of credentials: its owner alone may read it, and the files that
/// SQLite puts beside it take over its mode.
fn create(path: &Path) -> Result<(), OpenError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(OpenError::Create { path: path.to_owned(), source }),
    }
}
