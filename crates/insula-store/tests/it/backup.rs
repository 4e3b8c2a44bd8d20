//! Backups are taken while others write, and are proved by a restore.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use insula_model::Generation;
use insula_store::feed::{self, FeedError};
use insula_store::{RestoreError, Store, StoreConfig, WriteError, backup, orgs, restore, users};

use crate::model::{Fixture, org, org_id, user};

fn open(path: &Path) -> Store {
    Store::open(StoreConfig::new(path)).unwrap()
}

#[test]
fn a_backup_during_writes_is_of_one_moment() {
    let fixture = Fixture::new();
    let stop = Arc::new(AtomicBool::new(false));
    let (store, told) = (fixture.store.clone(), Arc::clone(&stop));
    let writing = std::thread::spawn(move || {
        let mut n = 0;
        while !told.load(Ordering::Relaxed) {
            // Two rows that belong together.
            let pair = move |tx: &mut insula_store::Tx| {
                orgs::create(tx, &org(n))?;
                users::create(tx, &user(n), None)
            };
            store.write_blocking(pair).unwrap();
            n += 1;
        }
    });
    let mut head = fixture.store.head();
    let mut written = Vec::new();
    for round in 0..5 {
        // Somebody has written since the last one.
        let before = *head.borrow_and_update();
        while *fixture.store.head().borrow() <= Generation(before.0 + 10) {
            std::thread::yield_now();
        }
        let acknowledged = fixture.store.head().borrow().0;
        let to = fixture.folder.path().join(format!("backup-{round}"));
        fixture.store.backup_to_blocking(&to).unwrap();
        written.push((to, acknowledged));
    }
    stop.store(true, Ordering::Relaxed);
    writing.join().unwrap();
    for (backup, acknowledged) in written {
        let to = fixture.folder.path().join("restored.db");
        restore(&backup, &to).unwrap();
        let restored = open(&to);
        let counts = |tx: &insula_store::Tx| -> Result<_, WriteError> {
            let page = insula_store::Page::first(200);
            let mut people = 0;
            let mut next = Some(page);
            while let Some(page) = next {
                let found = users::list(tx, &page)?;
                people += found.items.len() as u64;
                next = found.next.map(|cursor| insula_store::Page::after(200, cursor));
            }
            Ok((orgs::count(tx)?, people))
        };
        let (orgs, people) = restored.read_blocking(counts).unwrap();
        assert_eq!(orgs, people, "half of a mutation in the backup");
        assert!(orgs >= acknowledged, "acknowledged before the backup, and not in it");
        drop(restored);
        for suffix in ["", "-wal", "-shm"] {
            let file = fixture.folder.path().join(format!("restored.db{suffix}"));
            if file.exists() {
                std::fs::remove_file(file).unwrap();
            }
        }
    }
}

#[test]
fn a_place_is_backed_up_beside_the_store_that_uses_it() {
    let fixture = Fixture::new();
    fixture.write(|tx| orgs::create(tx, &org(1))).unwrap();
    let (file, to) = (fixture.folder.path().join("b"), fixture.folder.path().join("r.db"));
    backup(&fixture.config().place, &file).unwrap();
    fixture.write(|tx| orgs::create(tx, &org(2))).unwrap();
    let again = backup(&fixture.config().place, &file);
    assert!(matches!(again, Err(RestoreError::Exists { .. })), "{again:?}");
    restore(&file, &to).unwrap();
    assert_eq!(open(&to).read_blocking(orgs::count).unwrap(), 1);
}

#[test]
fn a_restored_store_goes_on_beyond_every_generation_it_may_have_given() {
    let fixture = Fixture::new();
    let (backup, to) = (fixture.folder.path().join("b"), fixture.folder.path().join("r.db"));
    fixture.write(|tx| orgs::create(tx, &org(1))).unwrap();
    let at_backup = *fixture.store.head().borrow();
    fixture.store.backup_to_blocking(&backup).unwrap();
    fixture.write(|tx| orgs::create(tx, &org(2))).unwrap();
    let last_given = *fixture.store.head().borrow();

    restore(&backup, &to).unwrap();
    let restored = open(&to);
    assert!(*restored.head().borrow() > last_given);
    // Readers from before it begin anew; the snapshot has what was backed up.
    for before in [at_backup, last_given] {
        let outcome = restored.read_blocking(move |tx| feed::since(tx, before, 10));
        assert!(matches!(outcome, Err(FeedError::Gap(_))));
    }
    let (head, changes) = restored.read_blocking(feed::snapshot).unwrap();
    assert_eq!(changes.len(), 1);
    restored.write_blocking(|tx| orgs::create(tx, &org(3))).unwrap();
    let (_, changes) = restored.read_blocking(move |tx| feed::since(tx, head, 10)).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(restored.read_blocking(|tx| orgs::get(tx, org_id(2))).unwrap(), None);
}

#[test]
fn nothing_is_overwritten_and_nothing_damaged_is_restored() {
    let fixture = Fixture::new();
    fixture.write(|tx| (0..200).try_for_each(|n| orgs::create(tx, &org(n)))).unwrap();
    let folder = fixture.folder.path();
    let backup = folder.join("backup");
    fixture.store.backup_to_blocking(&backup).unwrap();
    assert!(matches!(fixture.store.backup_to_blocking(&backup), Err(RestoreError::Exists { .. })));
    assert!(matches!(restore(&backup, &backup), Err(RestoreError::Exists { .. })));
    let to = folder.join("restored.db");
    let refused = |from: &Path| {
        let error = restore(from, &to).unwrap_err();
        assert!(!to.exists(), "{error}");
        let left = std::fs::read_dir(folder).unwrap();
        let left = left
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("restored"));
        assert_eq!(left.count(), 0, "something is left of {error}");
        error
    };
    assert!(matches!(refused(&folder.join("nowhere")), RestoreError::File { .. }));

    // A few pages of the middle, gone bad.
    let mut bytes = std::fs::read(&backup).unwrap();
    let (from, upto) = (bytes.len() / 2, bytes.len() / 2 + 8192);
    bytes[from..upto].fill(0x5a);
    let damaged = folder.join("damaged");
    std::fs::write(&damaged, &bytes).unwrap();
    assert!(matches!(refused(&damaged), RestoreError::Damaged { .. } | RestoreError::Copy { .. }));
    // The end, cut off.
    let short = folder.join("short");
    std::fs::write(&short, &std::fs::read(&backup).unwrap()[..from]).unwrap();
    assert!(matches!(refused(&short), RestoreError::Damaged { .. } | RestoreError::Copy { .. }));

    let foreign = folder.join("foreign");
    rusqlite::Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE recipes (name TEXT)")
        .unwrap();
    assert!(matches!(refused(&foreign), RestoreError::Foreign { .. }));
    let newer = folder.join("newer");
    std::fs::copy(&backup, &newer).unwrap();
    rusqlite::Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    assert!(matches!(refused(&newer), RestoreError::Newer { found: 9, .. }));

    restore(&backup, &to).unwrap();
    let restored = open(&to);
    assert_eq!(restored.read_blocking(orgs::count).unwrap(), 200);
}

#[test]
fn a_backup_of_the_format_before_is_restored_and_then_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let (backup, to) = (folder.path().join("older"), folder.path().join("insula.db"));
    let older = rusqlite::Connection::open(&backup).unwrap();
    older.execute_batch(include_str!("../../src/migrations/0001.sql")).unwrap();
    older.execute_batch("PRAGMA application_id = 0x696e7375; PRAGMA user_version = 1;").unwrap();
    older
        .execute_batch("INSERT INTO orgs VALUES ('org_', 'acme', 0, 1, 1, 1, 1, 1, 1, 1)")
        .unwrap();
    drop(older);
    restore(&backup, &to).unwrap();
    assert_eq!(open(&to).read_blocking(orgs::count).unwrap(), 1);
}
