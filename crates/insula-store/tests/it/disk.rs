//! A full disk is an error with words, loses nothing, and is over when there is room again.
//!
//! The disk is a file system of two megabytes in a mount namespace of the test's own process: it
//! ends with it, whatever happens.

use std::path::Path;
use std::process::Command;

use insula_model::tenancy::Quota;
use insula_store::idempotency::{self, Begin, Request};
use insula_store::{Store, StoreConfig, StoreError, Tx, WriteError, orgs};

use crate::group::{hold, queued};
use crate::model::{at, digest, org, org_id};

const FOLDER: &str = "INSULA_STORE_TEST_FULL_DISK";
const NAME: &str = "disk::a_full_disk_is_said_so_and_writing_goes_on_when_there_is_room";

#[test]
fn a_full_disk_is_said_so_and_writing_goes_on_when_there_is_room() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return fill(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let outcome = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&outcome.stderr);
    if said.contains("unshare failed") {
        assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "{said}");
        eprintln!("SKIPPED: a full disk needs root, for a mount of its own: {said}");
        return;
    }
    assert!(outcome.status.success(), "{said}\n{}", String::from_utf8_lossy(&outcome.stdout));
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
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(folder)
        .status()
        .unwrap();
    assert!(mounted.success());
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
