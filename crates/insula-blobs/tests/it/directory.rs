//! The directory store.

use std::path::{Path, PathBuf};

use insula_blobs::{BATCH_BLOBS_MAX, BlobConfig, BlobError, Blobs};

use crate::shared::{
    ROOMY, a_batch_is_stored_in_order, a_blob_lives_and_dies, bytes, digest_of, shelf,
    what_is_refused_leaves_nothing,
};

pub fn open(path: &Path) -> Blobs {
    Blobs::open(BlobConfig::Directory { path: path.to_owned() }).unwrap()
}

pub fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn a_blob_lives_and_dies_in_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    a_blob_lives_and_dies(&open(folder.path())).await;
    assert!(files_below(&folder.path().join("staging")).is_empty());
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_in_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path());
    what_is_refused_leaves_nothing(&blobs).await;
    assert!(files_below(folder.path()).is_empty());
}

#[tokio::test]
async fn a_batch_is_stored_in_order_in_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path());
    a_batch_is_stored_in_order(&blobs, 600).await;
    let many = vec![bytes::Bytes::new(); BATCH_BLOBS_MAX + 1];
    let refused = blobs.put_many(shelf(3), many).await;
    assert!(matches!(refused, Err(BlobError::BatchTooLarge { .. })));
}

#[tokio::test]
async fn damage_on_disk_is_noticed_on_reading() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path());
    let stored = blobs.put_bytes(shelf(1), bytes(1, 600_000)).await.unwrap();
    let file = files_below(&folder.path().join("objects")).remove(0);
    let mut on_disk = std::fs::read(&file).unwrap();
    on_disk[300_000] ^= 1;
    std::fs::write(&file, &on_disk).unwrap();
    let damaged = |result| matches!(result, Err(BlobError::Damaged { got, .. }) if got == digest_of(&on_disk));
    assert!(damaged(blobs.get_bytes(shelf(1), stored.digest, ROOMY).await.map(|_| ())));
    assert!(damaged(blobs.verify(shelf(1), stored.digest).await.map(|_| ())));

    // Deleting and storing again is the way out.
    blobs.delete(shelf(1), stored.digest).await.unwrap();
    blobs.put_bytes(shelf(1), bytes(1, 600_000)).await.unwrap();
    blobs.verify(shelf(1), stored.digest).await.unwrap();
}

#[tokio::test]
async fn two_stores_over_one_directory_do_not_clear_each_others_staging() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (open(folder.path()), open(folder.path()));
    let one = first.put_bytes(shelf(1), bytes(1, 10)).await.unwrap();
    let two = second.put_bytes(shelf(1), bytes(2, 10)).await.unwrap();
    let third = open(folder.path());
    first.put_bytes(shelf(1), bytes(3, 10)).await.unwrap();
    assert_eq!(third.has_many(shelf(1), &[one.digest, two.digest]).await.unwrap(), [true, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_blob_put_by_many_at_once_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(folder.path());
    let puts: Vec<_> = (0..32)
        .map(|_| {
            let blobs = blobs.clone();
            tokio::spawn(async move { blobs.put_bytes(shelf(1), bytes(1, 50_000)).await })
        })
        .collect();
    for put in puts {
        put.await.unwrap().unwrap();
    }
    assert_eq!(files_below(folder.path()).len(), 1);
}
