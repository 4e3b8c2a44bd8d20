//! A full disk is an error with words, loses nothing, and is over when there is room again.
//!
//! The disk is a file system of a few megabytes in a mount namespace of the test's own process: it
//! ends with it, whatever happens.

use std::path::Path;
use std::process::Command;

use insula_model::tenancy::Quota;
use insula_store::idempotency::{self, Begin, Request};
use insula_store::{Store, StoreConfig, StoreError, Tx, WriteError, orgs};

use crate::group::{hold, queued};
use crate::model::{at, digest, org, org_id};
use crate::postgres::Server;

const FOLDER: &str = "INSULA_STORE_TEST_FULL_DISK";
const NAME: &str = "disk::a_full_disk_is_said_so_and_writing_goes_on_when_there_is_room";
const NAME_POSTGRESQL: &str =
    "disk::a_full_disk_under_postgresql_is_said_so_and_writing_goes_on_when_there_is_room";

#[test]
fn a_full_disk_is_said_so_and_writing_goes_on_when_there_is_room() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return fill(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    with_mounts_of_its_own(NAME, folder.path());
}

#[test]
fn a_full_disk_under_postgresql_is_said_so_and_writing_goes_on_when_there_is_room() {
    if std::env::var_os(FOLDER).is_some() {
        return fill_postgresql();
    }
    let folder = tempfile::tempdir().unwrap();
    with_mounts_of_its_own(NAME_POSTGRESQL, folder.path());
}

/// Runs a test of this binary again, in a mount namespace of its own.
fn with_mounts_of_its_own(test: &str, folder: &Path) {
    let outcome = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FOLDER, folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&outcome.stderr);
    if said.contains("unshare failed") {
        assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "{said}");
        eprintln!("SKIPPED: a full disk needs root, for a mount of its own: {said}");
        return;
    }
    assert!(outcome.status.success(), "{said}\n{}", String::from_utf8_lossy(&outcome.stdout));
    said.lines().filter(|line| line.starts_with("SKIPPED")).for_each(|line| eprintln!("{line}"));
}

fn mount(folder: &Path, options: &str) {
    let mut mount = Command::new("mount");
    let mounted = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).status();
    assert!(mounted.unwrap().success());
}

/// Bytes that nothing makes smaller.
fn noise(n: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(n) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// The tables are on the small disk. Were the log there too, the server would stop: an outage.
fn fill_postgresql() {
    let Some(mut server) = Server::start() else { return };
    let small = server.folder().join("small");
    std::fs::create_dir(&small).unwrap();
    mount(&small, "size=8m,mode=0777");
    let tables = small.join("tables");
    std::fs::create_dir(&tables).unwrap();
    server.give(&tables);
    server.sql(&format!("CREATE TABLESPACE small LOCATION '{}'", tables.display()));
    server.sql("ALTER DATABASE postgres SET default_tablespace = small");
    let store = Store::open(server.config("a")).unwrap();
    let write = |n: u32| {
        let heavy = move |tx: &mut Tx| -> Result<(), WriteError> {
            orgs::create(tx, &org(n))?;
            Ok(idempotency::finish(tx, &request(n), 200, &noise(n, 100_000), at(0))?)
        };
        store.write_blocking(heavy)
    };
    let mut acknowledged = 0;
    let refused = loop {
        match write(acknowledged) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "eight megabytes hold a hundred?");
    };
    assert!(
        matches!(refused, WriteError::Store(StoreError::DiskFull(_))),
        "{refused:?} after {acknowledged}"
    );
    assert!(acknowledged > 5);
    // Reading goes on, and what was refused left nothing.
    assert_eq!(store.read_blocking(orgs::count).unwrap(), u64::from(acknowledged));
    assert!(matches!(write(acknowledged), Err(WriteError::Store(StoreError::DiskFull(_)))));
    mount(&small, "remount,size=32m");
    write(acknowledged).unwrap();
    assert_eq!(store.read_blocking(orgs::count).unwrap(), u64::from(acknowledged) + 1);
    drop(store);
    server.stop();
    // A folder cannot be removed while a disk is mounted in it.
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
}

fn request(n: u32) -> Request {
    Request {
        caller: "tok".to_owned(),
        key: n.to_string(),
        route: "POST /".to_owned(),
        body: digest(n),
    }
}

/// In the namespace of its own.
fn fill(folder: &Path) {
    mount(folder, "size=2m");
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![0; 512 << 10]).unwrap();

    let store = Store::open(StoreConfig::new(folder.join("insula.db"))).unwrap();
    store.write_blocking(|tx| orgs::create(tx, &org(0))).unwrap();
    let write = |n: u32| {
        let heavy = move |tx: &mut Tx| -> Result<(), WriteError> {
            orgs::create(tx, &org(n))?;
            Ok(idempotency::finish(tx, &request(n), 200, &[n as u8; 20_000], at(0))?)
        };
        store.write_blocking(heavy)
    };
    let mut acknowledged = 0;
    let refused = loop {
        match write(acknowledged + 1) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "two megabytes hold twenty?");
    };
    assert!(
        matches!(refused, WriteError::Store(StoreError::DiskFull(_))),
        "{refused:?} after {acknowledged}"
    );
    assert!(refused.to_string().contains("disk that holds the database is full"));
    assert!(acknowledged > 5);

    // Reading goes on; what was refused left nothing; it is refused again, and again alone.
    let present = || {
        let all = 0..=acknowledged + 1;
        let found = store.read_blocking(move |tx| -> Result<Vec<_>, StoreError> {
            all.map(|n| Ok(orgs::get(tx, org_id(n))?.is_some())).collect()
        });
        found.unwrap().into_iter().filter(|found| *found).count() as u32
    };
    assert_eq!(present(), acknowledged + 1);
    assert!(matches!(write(acknowledged + 1), Err(WriteError::Store(StoreError::DiskFull(_)))));

    // In a group, only the one that does not fit is refused.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let small = |n| store.write(move |tx| orgs::set_quota(tx, org_id(n), &Quota::default()));
        let (go, held) = hold(&store).await;
        let before = queued(small(0)).await;
        let huge = queued(store.write(|tx| -> Result<(), WriteError> {
            Ok(idempotency::finish(tx, &request(0), 200, &[0; 4 << 20], at(0))?)
        }))
        .await;
        let after = queued(small(1)).await;
        go.send(()).unwrap();
        held.await.unwrap();
        before.await.unwrap();
        assert!(matches!(huge.await, Err(WriteError::Store(StoreError::DiskFull(_)))));
        after.await.unwrap();
    });

    std::fs::remove_file(&ballast).unwrap();
    write(acknowledged + 1).unwrap();
    assert_eq!(present(), acknowledged + 2);

    // A group that is too much together: as many as fit are kept, the others are told.
    let (kept, refused) = runtime.block_on(async {
        let (go, held) = hold(&store).await;
        let mut writes = Vec::new();
        for n in 2_000..2_040 {
            let heavy = move |tx: &mut Tx| -> Result<(), WriteError> {
                Ok(idempotency::finish(tx, &request(n), 200, &[7; 30_000], at(0))?)
            };
            writes.push(queued(store.write(heavy)).await);
        }
        go.send(()).unwrap();
        held.await.unwrap();
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        for (n, write) in (2_000..).zip(writes) {
            match write.await {
                Ok(()) => kept.push(n),
                Err(WriteError::Store(StoreError::DiskFull(_))) => refused.push(n),
                Err(error) => panic!("{error:?}"),
            }
        }
        (kept, refused)
    });
    assert!(!kept.is_empty() && !refused.is_empty(), "{kept:?} kept, {refused:?} refused");
    for (n, expected) in
        kept.into_iter().map(|n| (n, true)).chain(refused.into_iter().map(|n| (n, false)))
    {
        let begun = store.write_blocking(move |tx| idempotency::begin(tx, &request(n), at(1)));
        assert_eq!(matches!(begun.unwrap(), Begin::Replay { .. }), expected, "{n}");
    }
    drop(store);
    // And it is all there for the next one who opens it.
    let store = Store::open(StoreConfig::new(folder.join("insula.db"))).unwrap();
    assert_eq!(store.read_blocking(orgs::count).unwrap(), u64::from(acknowledged) + 2);
}
