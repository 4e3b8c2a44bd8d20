//! Contents of files, kept on the node: a new source mostly repeats the one before it.
//!
//! Fetched ones are compared with their digest before they appear under its name. The oldest go when
//! there are too many; a tree that was laid out does not need them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use insula_blobs::{BlobError as StoreError, BlobStream};
use insula_model::limits::SOURCE_FILE_MAX;
use insula_model::{Digest, OrgId};

use crate::server::{BlobError, BlobKind, Server};

/// Four average sources; more would only save the local socket some work.
pub const CHUNKS_BYTES_MAX: u64 = 2 << 30;
const READ_BYTES: usize = 256 * 1024;

/// The chunks of one org: the same bytes of two orgs are two chunks, as on the server.
#[derive(Debug, Clone)]
pub struct Chunks {
    folder: PathBuf,
    scratch: PathBuf,
    org: OrgId,
    server: Server,
}

impl Chunks {
    pub fn new(folder: &Path, scratch: &Path, org: OrgId, server: Server) -> Self {
        let folder = folder.join(org.to_string());
        Self { folder, scratch: scratch.to_owned(), org, server }
    }

    /// From here if it is here, else from the server, and then it is here.
    pub async fn stream(&self, digest: Digest) -> Result<BlobStream, StoreError> {
        let path = self.folder.join(digest.hex());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.fetch(digest, &path).await.map_err(|error| match error {
                    BlobError::Disk { source, .. }
                        if source.kind() == io::ErrorKind::StorageFull =>
                    {
                        StoreError::Full { folder: self.folder.clone(), source }
                    }
                    error => StoreError::Sender { source: Box::new(error) },
                })?;
                File::open(&path).map_err(|source| self.io("open", &path, source))?
            }
            Err(source) => return Err(self.io("open", &path, source)),
        };
        Ok(pieces(file, path))
    }

    async fn fetch(&self, digest: Digest, path: &Path) -> Result<(), BlobError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let disk = |source| BlobError::Disk { kind: "chunk", digest, source };
        std::fs::create_dir_all(&self.folder).map_err(disk)?;
        let name = format!("chunk-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let beside = self.scratch.join(name);
        let mut file = File::create(&beside).map_err(disk)?;
        let max = SOURCE_FILE_MAX.0;
        let fetched = self
            .server
            .fetch(self.org, BlobKind::Chunk, digest, max, |piece| file.write_all(piece))
            .await
            .and_then(|_| std::fs::rename(&beside, path).map_err(disk));
        if fetched.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        fetched
    }

    fn io(&self, doing: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError::Io { doing, path: path.to_owned(), source }
    }
}

fn pieces(file: File, path: PathBuf) -> BlobStream {
    Box::pin(
        stream::unfold(Some(file), move |file| {
            let path = path.clone();
            async move {
                let mut file = file?;
                // Files of a source are small, and page cache is quick: no thread for each.
                let mut piece = vec![0; READ_BYTES];
                match file.read(&mut piece) {
                    Ok(0) => None,
                    Ok(read) => {
                        piece.truncate(read);
                        let rest = if read < READ_BYTES { end_of(file) } else { Some(file) };
                        Some((Ok(Bytes::from(piece)), rest))
                    }
                    Err(source) => {
                        Some((Err(StoreError::Io { doing: "read", path, source }), None))
                    }
                }
            }
        })
        .fuse(),
    )
}

/// A short read of a plain file is its last, which saves asking again.
fn end_of(file: File) -> Option<File> {
    drop(file);
    None
}

/// Removes the oldest chunks of all orgs until they fit.
pub fn trim(folder: &Path, max: u64) -> io::Result<()> {
    let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    let orgs = match std::fs::read_dir(folder) {
        Ok(orgs) => orgs,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for org in orgs {
        for chunk in std::fs::read_dir(org?.path())? {
            let chunk = chunk?;
            let about = chunk.metadata()?;
            found.push((about.modified()?, about.len(), chunk.path()));
        }
    }
    let mut total: u64 = found.iter().map(|(_, size, _)| size).sum();
    found.sort();
    for (_, size, path) in found {
        if total <= max {
            break;
        }
        std::fs::remove_file(path)?;
        total -= size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_chunks_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let org = folder.path().join("org_1");
        std::fs::create_dir(&org).unwrap();
        for (age, name) in ["oldest", "older", "newest"].iter().enumerate() {
            let file = File::create(org.join(name)).unwrap();
            file.set_len(100).unwrap();
            let seconds = 1_000 + age as u64;
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        }
        trim(folder.path(), 200).unwrap();
        assert!(!org.join("oldest").exists());
        assert!(org.join("older").exists() && org.join("newest").exists());
        trim(&folder.path().join("absent"), 0).unwrap();
    }
}
