//! A full disk: a clear error, nothing half-written, and it works again once there is room.
//!
//! The disk is a small tmpfs in a mount namespace of a child of ours, so it is gone when the child
//! is, however it ends.

use std::path::Path;
use std::process::Command;

use insula_blobs::{BlobError, Entry, Manifest, MaterializeError, materialize};
use insula_model::Bytes as Size;

use crate::directory::{files_below, open};
use crate::shared::{ROOMY, bytes, digest_of, pieces, shelf};

const FOLDER_VARIABLE: &str = "INSULA_BLOBS_FULL_FOLDER";
const TEST: &str = "full::a_full_disk_is_told_and_nothing_is_left";

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_left() {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return fill(Path::new(&folder)).await;
    }
    let root = rustix::process::geteuid().is_root();
    let namespace: &[&str] =
        if root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let possible = Command::new("unshare").args(namespace).arg("true").status();
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!(
            "SKIPPED: a_full_disk_is_told_and_nothing_is_left: needs root or user namespaces, and unshare"
        );
        assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "INSULA_TEST_ALL is set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("unshare")
        .args(namespace)
        .arg("--")
        .args(["sh", "-ec", "mount -t tmpfs -o size=2m tmpfs \"$1\"; shift; exec \"$@\"", "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(FOLDER_VARIABLE, folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(files_below(folder.path()).is_empty(), "it was not the small disk that was filled");
}

async fn fill(disk: &Path) {
    let blobs = open(disk);
    let kept = blobs.put_bytes(shelf(1), bytes(1, 500_000)).await.unwrap();
    let full = blobs.put_stream(shelf(1), pieces(&bytes(2, 4_000_000), 50_000), None, ROOMY).await;
    let Err(error @ BlobError::Full { .. }) = full else { panic!("{full:?}") };
    let told = format!("no space left for blobs in {}/staging", disk.display());
    assert!(error.to_string().starts_with(&told), "{error}");
    let batch = (0..40).map(|n| bytes(10 + n, 100_000)).collect();
    assert!(matches!(blobs.put_many(shelf(1), batch).await, Err(BlobError::Full { .. })));
    assert!(files_below(&disk.join("staging")).is_empty());

    let large = bytes(1, 500_000);
    let entries =
        (0..4).map(|n| Entry::file(format!("f{n}"), digest_of(&large), Size(500_000), false));
    let manifest = Manifest::new(entries.collect()).unwrap();
    let tree = disk.join("tree");
    let fetch = |digest| blobs.get_stream(shelf(1), digest);
    let laid_out = materialize(&manifest, fetch, &tree).await;
    assert!(matches!(laid_out, Err(MaterializeError::Full { .. })), "{laid_out:?}");
    assert!(!tree.exists());

    assert_eq!(files_below(disk).len(), 1);
    blobs.verify(shelf(1), kept.digest).await.unwrap();
    blobs.put_bytes(shelf(1), bytes(3, 1_000_000)).await.unwrap();
}
