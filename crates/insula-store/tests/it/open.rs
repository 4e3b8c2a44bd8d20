//! Opening: what is ours is opened as its owner's alone, what is not is refused with words.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use insula_store::{OpenError, Store, StoreConfig, StoreError, orgs};

use crate::model::{Fixture, org, org_id};

fn open(path: &Path) -> Result<Store, OpenError> {
    Store::open(StoreConfig::new(path))
}

#[test]
fn a_store_is_found_again_as_it_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("insula.db");
    let store = open(&path).unwrap();
    store.write_blocking(|tx| orgs::create(tx, &org(1))).unwrap();
    let head = *store.head().borrow();
    drop(store);
    let store = open(&path).unwrap();
    assert_eq!(*store.head().borrow(), head);
    assert_eq!(store.read_blocking(|tx| orgs::get(tx, org_id(1))).unwrap(), Some(org(1)));
}

#[test]
fn its_files_are_its_owners_alone() {
    let fixture = Fixture::new();
    fixture.write(|tx| orgs::create(tx, &org(1))).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(fixture.folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
        seen += 1;
    }
    assert_eq!(seen, 3, "the database, its log and its index");
}

/// Writes to a database as a stranger would: from outside.
fn edit(path: &Path, sql: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn a_newer_format_is_refused_with_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("insula.db");
    drop(open(&path).unwrap());
    edit(&path, "PRAGMA user_version = 999");
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 999, known: 3, .. }));
    assert!(error.to_string().contains("has format 999"), "{error}");
    assert!(error.to_string().contains("start the newer version"), "{error}");
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("foreign.db");
    edit(&foreign, "CREATE TABLE recipes (name TEXT)");
    let before = std::fs::read(&foreign).unwrap();
    assert!(matches!(open(&foreign), Err(OpenError::Foreign { .. })));
    assert_eq!(std::fs::read(&foreign).unwrap(), before);

    let text = folder.path().join("text.db");
    std::fs::write(&text, "not a database at all, and long enough to be read as one".repeat(20))
        .unwrap();
    assert!(matches!(open(&text), Err(OpenError::Open { .. })));
    let nowhere = folder.path().join("nowhere/insula.db");
    assert!(matches!(open(&nowhere), Err(OpenError::Create { .. })));
}

#[test]
fn a_name_that_means_something_to_the_database_is_a_path_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file:insula.db?mode=memory");
    drop(open(&path).unwrap());
    assert!(path.exists());
}

#[test]
fn a_handle_that_a_closure_holds_does_not_block_the_end() {
    let fixture = Fixture::new();
    let Fixture { store, folder, .. } = fixture;
    let held = store.clone();
    let (inside, entered) = std::sync::mpsc::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let reading = async {
        let read = store.read(move |_| -> Result<(), StoreError> {
            inside.send(()).unwrap();
            gate.recv().unwrap();
            drop(held);
            Ok(())
        });
        read.await.unwrap();
    };
    runtime.block_on(async {
        tokio::pin!(reading);
        // Polled once: the closure is on its way.
        tokio::select! {
            biased;
            () = &mut reading => panic!("it waits for the gate"),
            () = std::future::ready(()) => {}
        }
        entered.recv().unwrap();
        go.send(()).unwrap();
        reading.await;
    });
    drop(store);
    drop(folder);
}

#[test]
fn a_database_that_another_process_holds_is_said_to_be_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("insula.db");
    let lock_wait = insula_model::Millis(1);
    let store = Store::open(StoreConfig { lock_wait, ..StoreConfig::new(&path) }).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.write_blocking(|tx| orgs::create(tx, &org(1)));
    assert!(matches!(refused, Err(insula_store::WriteError::Store(StoreError::Locked(_)))));
    // Reading goes on meanwhile, and writing afterwards.
    assert_eq!(store.read_blocking(orgs::count).unwrap(), 0);
    other.execute_batch("ROLLBACK").unwrap();
    store.write_blocking(|tx| orgs::create(tx, &org(1))).unwrap();
}
