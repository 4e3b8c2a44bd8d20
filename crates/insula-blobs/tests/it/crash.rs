//! kill -9 in the middle of putting: what was acknowledged is there, what is there is whole.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use futures_util::TryStreamExt;
use insula_model::Digest;

use crate::directory::{files_below, open};
use crate::shared::{ROOMY, bytes, pieces, shelf};

const FOLDER_VARIABLE: &str = "INSULA_BLOBS_CRASH_FOLDER";
const TEST: &str = "crash::a_killed_process_leaves_whole_blobs_and_no_others";

/// One test in two roles: it starts itself as the process that will be killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_leaves_whole_blobs_and_no_others() {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return put_for_ever(Path::new(&folder)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<Digest> = Vec::new();
    for round in 0..8 {
        acknowledged.extend(put_until_killed(folder.path(), 1 + round * 7));
        let blobs = open(folder.path());
        let staged = files_below(&folder.path().join("staging"));
        assert!(staged.is_empty(), "the next start clears: {staged:?}");
        let there = blobs.has_many(shelf(1), &acknowledged).await.unwrap();
        assert!(there.iter().all(|there| *there), "round {round}: {there:?}");
        let visible: Vec<_> = blobs.list(shelf(1)).try_collect().await.unwrap();
        for found in &visible {
            assert_eq!(blobs.verify(shelf(1), found.digest).await.unwrap(), found.size);
        }
        assert_eq!(files_below(&folder.path().join("objects")).len(), visible.len());
    }
}

/// Starts the other role, and kills it after so many acknowledgements.
fn put_until_killed(folder: &Path, acknowledgements: usize) -> Vec<Digest> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(FOLDER_VARIABLE, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The harness writes to the same stream, possibly on the same line.
    let digest = |line: String| line.split_once("stored ")?.1.parse().ok();
    let mut digests: Vec<Digest> =
        lines.by_ref().filter_map(digest).take(acknowledgements).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it still said before it died counts as well.
    digests.extend(lines.filter_map(digest));
    assert!(digests.len() >= acknowledgements, "the child ended by itself");
    digests
}

async fn put_for_ever(folder: &Path) {
    let blobs = open(folder);
    let seed = u64::from(std::process::id()) << 32;
    let large = tokio::spawn({
        let blobs = blobs.clone();
        async move {
            for number in 0.. {
                let all = bytes(seed + number, 6_000_000);
                let stored = blobs.put_stream(shelf(1), pieces(&all, 10_000), None, ROOMY).await;
                println!("stored {}", stored.unwrap().digest);
            }
        }
    });
    for number in 0.. {
        let batch = (0..40).map(|n| bytes(seed + 1_000_000 + number * 40 + n, 3_000)).collect();
        for stored in blobs.put_many(shelf(1), batch).await.unwrap() {
            println!("stored {}", stored.digest);
        }
    }
    large.await.unwrap();
}
