//! Where bytes wait until their digest is known: a private folder per process.
//!
//! What lies here has no name that anybody looks for. A process holds a lock on its folder; the
//! folders of those that died are removed by the next one that starts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use insula_model::{Bytes, Digest};
use ring::digest::{Context, SHA256};
use rustix::fs::{FlockOperation, flock};

use crate::error::BlobError;

#[derive(Debug)]
pub(crate) struct Staging {
    folder: PathBuf,
    counter: AtomicU64,
    /// Locked as long as we live.
    _lock: File,
}

/// A file being written, removed on drop unless it was moved away.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    path: PathBuf,
    hasher: Hasher,
}

/// Digest and size of what passes.
#[derive(Clone)]
pub(crate) struct Hasher {
    context: Context,
    size: u64,
}

impl Staging {
    pub(crate) fn open(parent: &Path) -> Result<Self, BlobError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(BlobError::io("create folder", parent))?;
        remove_abandoned(parent).map_err(BlobError::io("clear", parent))?;
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let folder = parent.join(format!("{}-{number}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(BlobError::io("create folder", &folder)(error)),
            }
            // Another process that starts now may have taken the folder for abandoned before it
            // was locked; then there is nothing to open or it is not ours, and we take the next.
            let Ok(lock) = File::open(&folder) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && folder.exists() {
                return Ok(Self { folder, counter: AtomicU64::new(0), _lock: lock });
            }
        }
    }

    pub(crate) fn create(&self) -> Result<Staged, BlobError> {
        let path = self.folder.join(self.counter.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(BlobError::io("create", &path))?;
        Ok(Staged { file, path, hasher: Hasher::new() })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Staged {
    /// Adds bytes; refuses the one that is too many before it is written.
    pub(crate) fn write(&mut self, bytes: &[u8], max: Bytes) -> Result<(), BlobError> {
        self.hasher.update(bytes);
        if self.hasher.size > max.0 {
            return Err(BlobError::TooLarge { max });
        }
        self.file.write_all(bytes).map_err(BlobError::io("write", &self.path))
    }

    pub(crate) fn sync(&self) -> Result<(), BlobError> {
        // Data and size; the times may be lost.
        self.file.sync_data().map_err(BlobError::io("sync", &self.path))
    }

    pub(crate) fn digest(&self) -> Digest {
        self.hasher.digest()
    }

    pub(crate) fn size(&self) -> Bytes {
        Bytes(self.hasher.size)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn move_to(&self, target: &Path) -> Result<(), BlobError> {
        fs::rename(&self.path, target).map_err(BlobError::io("move into place", target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a move there is nothing by this name, and the number is never used again.
        let _ = fs::remove_file(&self.path);
    }
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Self { context: Context::new(&SHA256), size: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.size += bytes.len() as u64;
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.context.clone().finish().as_ref());
        Digest::from_sha256(bytes)
    }

    pub(crate) fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Self::new();
        hasher.update(bytes);
        hasher.digest()
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hasher({} bytes)", self.size)
    }
}

fn remove_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        // Gone already: another process clears at the same time.
        let Ok(folder) = File::open(&path) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}
