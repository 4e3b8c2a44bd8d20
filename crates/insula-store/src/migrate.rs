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
use crate::database::Access;
use crate::error::OpenError;
use crate::sqlite::{Format, Sqlite};

/// What turns format N into N + 1, beginning with an empty file.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
];

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

#[cfg(test)]
mod tests {
    use insula_model::tenancy::{Org, Quota};
    use insula_model::{OrgId, Timestamp};

    use super::*;
    use crate::orgs;
    use crate::store::{Store, StoreConfig};

    const SECOND: &str = "ALTER TABLE orgs ADD COLUMN motto TEXT NOT NULL DEFAULT '';";
    const BROKEN: &str = "ALTER TABLE orgs ADD COLUMN motto TEXT; DROP TABLE no_such_table;";

    fn org() -> Org {
        let created = Timestamp::from_millis(1_790_000_000_000);
        let id = OrgId::from_parts(created, [1; 10]);
        Org { id, name: "acme".parse().unwrap(), quota: Quota::default(), created }
    }

    /// A store of the first format with an org in it.
    fn first(path: &Path) {
        let store = Store::open_with(StoreConfig::new(path), &MIGRATIONS[..1]).unwrap();
        store.write_blocking(|tx| orgs::create(tx, &org())).unwrap();
    }

    fn format(path: &Path) -> Format {
        Sqlite::open(path, Access::Read, Millis(0)).unwrap().format().unwrap()
    }

    #[test]
    fn an_older_file_is_copied_and_then_migrated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("insula.db");
        first(&path);
        let migrations = [MIGRATIONS[0], SECOND];
        let store = Store::open_with(StoreConfig::new(&path), &migrations).unwrap();
        assert_eq!(store.read_blocking(|tx| orgs::get(tx, org().id)).unwrap(), Some(org()));
        drop(store);
        assert_eq!(format(&path), Format::Ours(2));

        // The copy is the store as it was: the older version opens it.
        let copy = copy_of(&path, 1);
        assert_eq!(format(&copy), Format::Ours(1));
        let store = Store::open_with(StoreConfig::new(&copy), &MIGRATIONS[..1]).unwrap();
        assert_eq!(store.read_blocking(|tx| orgs::get(tx, org().id)).unwrap(), Some(org()));

        // The older version refuses what the newer one made of it.
        let refused = Store::open_with(StoreConfig::new(&path), &MIGRATIONS[..1]);
        assert!(matches!(refused, Err(OpenError::Newer { found: 2, known: 1, .. })));
    }

    #[test]
    fn a_migration_that_fails_changes_nothing_and_can_be_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("insula.db");
        first(&path);
        for _ in 0..2 {
            let failed = Store::open_with(StoreConfig::new(&path), &[MIGRATIONS[0], BROKEN]);
            assert!(matches!(failed, Err(OpenError::Migrate { to: 2, .. })));
            assert_eq!(format(&path), Format::Ours(1));
        }
        let store = Store::open_with(StoreConfig::new(&path), &[MIGRATIONS[0], SECOND]).unwrap();
        assert_eq!(store.read_blocking(|tx| orgs::get(tx, org().id)).unwrap(), Some(org()));
    }

    #[test]
    fn nothing_is_migrated_that_could_not_be_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("insula.db");
        first(&path);
        // Something is in the way that is not a copy of ours.
        std::fs::create_dir(copy_of(&path, 1)).unwrap();
        let refused = Store::open_with(StoreConfig::new(&path), &[MIGRATIONS[0], SECOND]);
        assert!(matches!(refused, Err(OpenError::Copy { .. })));
        assert_eq!(format(&path), Format::Ours(1));
    }
}
