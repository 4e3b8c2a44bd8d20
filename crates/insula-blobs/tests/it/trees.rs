//! Laying out trees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use futures_util::stream;
use insula_blobs::{
    BlobError, BlobStream, Chunk, Entry, Manifest, MaterializeError, Node, materialize,
};
use insula_model::{Bytes as Size, Digest};

use crate::directory::{files_below, open};
use crate::shared::{bytes, digest_of, shelf};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_tree_is_laid_out_as_its_manifest_says() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(&folder.path().join("blobs"));
    let (one, two) = (bytes(1, 700_000), bytes(2, 10));
    let stored = blobs.put_many(shelf(1), vec![one.clone(), two.clone()]).await.unwrap();
    let chunk = |n: usize| Chunk { digest: stored[n].digest, size: stored[n].size };
    let chunked = Node::File { executable: false, chunks: vec![chunk(1), chunk(0), chunk(1)] };
    let manifest = Manifest::new(vec![
        Entry { path: "a/b/chunked".into(), node: chunked },
        Entry::file("run.sh", stored[1].digest, stored[1].size, true),
        Entry::file("none", digest_of(b""), Size(0), false),
        Entry::dir("a/empty"),
        Entry::symlink("a/link", "../run.sh"),
        Entry::symlink("dangling", "not/there"),
    ])
    .unwrap();

    let dest = folder.path().join("tree");
    let fetch = |digest| blobs.get_stream(shelf(1), digest);
    materialize(&manifest, fetch, &dest).await.unwrap();
    let chunked = [two.as_ref(), one.as_ref(), two.as_ref()].concat();
    assert_eq!(fs::read(dest.join("a/b/chunked")).unwrap(), chunked);
    assert_eq!(fs::read(dest.join("a/link")).unwrap(), two);
    assert_eq!(fs::read(dest.join("none")).unwrap(), b"");
    assert_eq!(fs::read_link(dest.join("dangling")).unwrap(), Path::new("not/there"));
    assert_eq!(mode(&dest.join("run.sh")), 0o755);
    assert_eq!(mode(&dest.join("a/b/chunked")), 0o644);
    for dir in ["", "a", "a/b", "a/empty"] {
        assert_eq!(mode(&dest.join(dir)), 0o755, "{dir}");
    }

    // What is there stays, and nothing is left beside it.
    let again = materialize(&manifest, fetch, &dest).await;
    assert!(matches!(again, Err(MaterializeError::Exists { .. })), "{again:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn contents_that_are_not_those_asked_for_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let manifest =
        Manifest::new(vec![Entry::file("f", digest_of(b"right"), Size(5), false)]).unwrap();
    for wrong in ["wrong", "righ", "rightt", ""] {
        let fetch = |_: Digest| async move {
            let pieces = stream::iter([Ok::<_, BlobError>(bytes::Bytes::from(wrong))]);
            Ok(Box::pin(pieces) as BlobStream)
        };
        let refused = materialize(&manifest, fetch, &folder.path().join("tree")).await;
        assert!(matches!(refused, Err(MaterializeError::Content { .. })), "{wrong}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_missing_chunk_names_the_file_that_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = open(&folder.path().join("blobs"));
    let manifest =
        Manifest::new(vec![Entry::file("a/f", digest_of(b"right"), Size(5), false)]).unwrap();
    let fetch = |digest| blobs.get_stream(shelf(1), digest);
    let error = materialize(&manifest, fetch, &folder.path().join("tree")).await.unwrap_err();
    assert_eq!(error.to_string(), "fetch the contents of `a/f`");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Somebody who can write beside us puts a link in the way while the tree is being laid out.
#[tokio::test]
async fn a_link_put_in_the_way_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    let manifest =
        Manifest::new(vec![Entry::file("a/f", digest_of(b"right"), Size(5), false)]).unwrap();
    let fetch = |_: Digest| {
        // Called when the folders are made and the file is not yet.
        let unfinished = fs::read_dir(&work).unwrap().next().unwrap().unwrap().path();
        fs::remove_dir(unfinished.join("a")).unwrap();
        std::os::unix::fs::symlink(&outside, unfinished.join("a")).unwrap();
        async {
            let pieces = stream::iter([Ok::<_, BlobError>(bytes::Bytes::from("right"))]);
            Ok(Box::pin(pieces) as BlobStream)
        }
    };
    let refused = materialize(&manifest, fetch, &work.join("tree")).await;
    assert!(matches!(refused, Err(MaterializeError::Io { doing: "create", .. })), "{refused:?}");
    assert!(files_below(&outside).is_empty());
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
}
