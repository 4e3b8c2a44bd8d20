//! Putting staged files into place, durably, one or a thousand at a time.
//!
//! object_store's own local store can sync, but one object after the other, and it forgets a
//! folder that another thread made a moment ago and has not synced yet. So we write and it reads.
//!
//! The order is the whole point: bytes are on disk before a name leads to them, and the name is on
//! disk before anybody is told. In a batch each of these steps is done for all blobs before the
//! next, so that the file system's journal commits a few times and not a thousand times. Not
//! `syncfs`: it would wait for whatever else is being written on the same disk, by anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use insula_model::{Bytes, Digest};

use crate::error::BlobError;
use crate::key::Shelf;
use crate::staging::{Hasher, Staged, Staging};
use crate::store::Stored;

/// Syncs in flight: the disk orders them better than we do, and more threads only queue.
const SYNC_THREADS: usize = 8;
/// Blobs of a batch that are written before they are synced: each keeps a descriptor open, of
/// which a process may have 1,024 by default.
const GROUP_BLOBS: usize = 256;

#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    staging: Staging,
    /// Folders that are on disk with all those above them.
    durable: Mutex<BTreeSet<PathBuf>>,
}

impl Directory {
    /// `path/objects` holds the blobs, `path/staging` what is not one yet.
    pub(crate) fn open(path: &Path) -> Result<Self, BlobError> {
        let root = path.join("objects");
        let is_new = !path.exists();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(BlobError::io("create folder", &root))?;
        let staging = Staging::open(&path.join("staging"))?;
        sync_folder(path)?;
        if let Some(above) = path.parent().filter(|above| is_new && !above.as_os_str().is_empty()) {
            sync_folder(above)?;
        }
        let durable = Mutex::new(BTreeSet::from([root.clone()]));
        Ok(Self { root, staging, durable })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn staging(&self) -> &Staging {
        &self.staging
    }

    pub(crate) fn put_many(
        &self,
        shelf: Shelf,
        blobs: &[bytes::Bytes],
    ) -> Result<Vec<Stored>, BlobError> {
        let mut stored = Vec::with_capacity(blobs.len());
        let mut distinct = BTreeMap::new();
        for blob in blobs {
            let (digest, size) = (Hasher::of(blob), Bytes(blob.len() as u64));
            stored.push(Stored { digest, size });
            distinct.insert(digest, blob);
        }
        let distinct: Vec<_> = distinct.into_values().collect();
        for group in distinct.chunks(GROUP_BLOBS) {
            let staged = group.iter().map(|blob| {
                let mut staged = self.staging.create()?;
                staged.write(blob, Bytes(blob.len() as u64))?;
                Ok(staged)
            });
            self.place_all(shelf, staged.collect::<Result<_, BlobError>>()?)?;
        }
        Ok(stored)
    }

    pub(crate) fn has_many(
        &self,
        shelf: Shelf,
        digests: &[Digest],
    ) -> Result<Vec<bool>, BlobError> {
        let there = |digest: &Digest| {
            let path = self.path_of(shelf, *digest);
            path.try_exists().map_err(BlobError::io("look for", &path))
        };
        digests.iter().map(there).collect()
    }

    /// All of them are durable when this returns; after an error, some may be, and each that is
    /// visible is whole.
    pub(crate) fn place_all(&self, shelf: Shelf, staged: Vec<Staged>) -> Result<(), BlobError> {
        let mut folders = BTreeSet::new();
        let mut fresh = Vec::with_capacity(staged.len());
        for blob in staged {
            let target = self.path_of(shelf, blob.digest());
            folders.insert(self.folder_of(&target)?);
            // The same name means the same bytes, and they were synced before they had a name. The
            // folder is synced all the same: whoever put it there may not have come to that yet.
            let there = fs::metadata(&target).is_ok_and(|there| there.len() == blob.size().0);
            if !there {
                fresh.push((blob, target));
            }
        }
        in_parallel(&fresh, |(blob, _)| blob.sync())?;
        for (blob, target) in &fresh {
            blob.move_to(target)?;
        }
        let folders: Vec<_> = folders.into_iter().collect();
        in_parallel(&folders, |folder| sync_folder(folder))
    }

    fn path_of(&self, shelf: Shelf, digest: Digest) -> PathBuf {
        self.root.join(shelf.key(digest).as_ref())
    }

    /// The folder of `target`, made if need be. The lock is held until it is on disk, so that
    /// nobody builds on a folder that may yet vanish.
    fn folder_of(&self, target: &Path) -> Result<PathBuf, BlobError> {
        let folder = target.parent().unwrap_or(&self.root).to_owned();
        let mut durable = self.durable.lock().map_err(|_| BlobError::Thread)?;
        if durable.contains(&folder) {
            return Ok(folder);
        }
        let missing: Vec<_> = folder
            .ancestors()
            .take_while(|above| !durable.contains(*above))
            .map(Path::to_owned)
            .collect();
        for path in missing.into_iter().rev() {
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(BlobError::io("create folder", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
            sync_folder(path.parent().unwrap_or(&self.root))?;
            durable.insert(path);
        }
        Ok(folder)
    }
}

fn sync_folder(folder: &Path) -> Result<(), BlobError> {
    File::open(folder)
        .and_then(|open| open.sync_all())
        .map_err(BlobError::io("sync folder", folder))
}

fn in_parallel<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), BlobError> + Sync,
) -> Result<(), BlobError> {
    if items.len() <= 1 {
        return items.iter().try_for_each(work);
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .chunks(items.len().div_ceil(SYNC_THREADS))
            .map(|part| scope.spawn(|| part.iter().try_for_each(&work)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(BlobError::Thread)))
    })
}
