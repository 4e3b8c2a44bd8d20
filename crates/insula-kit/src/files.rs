//! Small files that must survive: written whole or not at all, on disk before we say so.
//!
//! For documents of a few kilobytes (targets, keys, credentials). Blobs have their own crate.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, RenameFlags, renameat_with};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Four times the largest document we write (a node's Target); a larger one is not ours.
pub const DOCUMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Who may read what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// 0600: its owner alone.
    Private,
    /// 0644: anybody on the host.
    Public,
}

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read {} as JSON", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{} is larger than the {max} bytes that may be read from it", path.display())]
    TooLarge { path: PathBuf, max: u64 },
    #[error("{} can be read by others (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    NotPrivate { path: PathBuf, mode: u32 },
    #[error("{} belongs to user {owner}, not to user {us} nor root", path.display())]
    NotOurs { path: PathBuf, owner: u32, us: u32 },
    #[error("{} has no folder and name to write to", path.display())]
    NotAPath { path: PathBuf },
}

impl FileError {
    /// The file does not exist: for many callers an answer, not a failure.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// Replaces `path` at once and durably: a reader, or a power cut, sees the old or the new bytes.
pub fn write_durably(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let temporary = Temporary::write(path, bytes, access)?;
    fs::rename(&temporary.path, path).map_err(FileError::io("rename into place", path))?;
    temporary.placed()
}

/// Like `write_durably`, unless `path` exists: then false, and nothing changes.
pub fn create_durably(path: &Path, bytes: &[u8], access: Access) -> Result<bool, FileError> {
    let temporary = Temporary::write(path, bytes, access)?;
    match renameat_with(CWD, &temporary.path, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => temporary.placed().map(|()| true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        // File systems without RENAME_NOREPLACE (some network ones) do know hard links.
        Err(rustix::io::Errno::INVAL) => {
            match rustix::fs::linkat(CWD, &temporary.path, CWD, path, AtFlags::empty()) {
                Ok(()) => sync_folder(&temporary.folder).map(|()| true),
                Err(rustix::io::Errno::EXIST) => Ok(false),
                Err(error) => Err(FileError::io("link into place", path)(error.into())),
            }
        }
        Err(error) => Err(FileError::io("rename into place", path)(error.into())),
    }
}

/// Removes `path` durably; a file that is not there is as good as removed.
pub fn remove_durably(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(&folder_of(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::io("remove", path)(error)),
    }
}

pub fn write_json<T: Serialize>(path: &Path, value: &T, access: Access) -> Result<(), FileError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| FileError::Json { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    write_durably(path, &bytes, access)
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let bytes = read(path, DOCUMENT_BYTES_MAX)?;
    serde_json::from_slice(&bytes)
        .map_err(|source| FileError::Json { path: path.to_owned(), source })
}

/// The whole file, unless it is larger than `max` bytes.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    read_open(file, path, max)
}

/// The whole file, refused if anybody but its owner could have read or written it.
pub fn read_private(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    // Asked of the open file, so that it cannot be exchanged between question and reading.
    let metadata = file.metadata().map_err(FileError::io("examine", path))?;
    let (owner, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != us && owner != 0 {
        return Err(FileError::NotOurs { path: path.to_owned(), owner, us });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::NotPrivate { path: path.to_owned(), mode });
    }
    read_open(file, path, max)
}

/// Makes the folder and those above it; the last one is 0700 even if it was there with more.
pub fn create_private_folder(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(FileError::io("create folder", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(FileError::io("close to others", path))
}

/// Makes durable what was created, renamed or removed directly in `folder`.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|open| open.sync_all()).map_err(FileError::io("sync", folder))
}

/// A written and synced file under a name nobody looks for; gone again unless it was placed.
struct Temporary {
    folder: PathBuf,
    path: PathBuf,
}

impl Temporary {
    fn write(target: &Path, bytes: &[u8], access: Access) -> Result<Self, FileError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let folder = folder_of(target)?;
        let path = folder.join(format!(
            ".insula-{}-{}.tmp",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ));
        // An earlier process with our pid may have died here; its leftover is worth nothing.
        let _ = fs::remove_file(&path);
        let mode = match access {
            Access::Private => 0o600,
            Access::Public => 0o644,
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(FileError::io("create a file beside", target))?;
        let temporary = Self { folder, path };
        // The umask may have taken bits that the reader needs.
        file.set_permissions(fs::Permissions::from_mode(mode))
            .and_then(|()| file.write_all(bytes))
            .and_then(|()| file.sync_all())
            .map_err(FileError::io("write", target))?;
        Ok(temporary)
    }

    fn placed(self) -> Result<(), FileError> {
        sync_folder(&self.folder)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing by this name, which is as it should be.
        let _ = fs::remove_file(&self.path);
    }
}

fn read_open(file: File, path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > max {
        return Err(FileError::TooLarge { path: path.to_owned(), max });
    }
    Ok(bytes)
}

fn folder_of(path: &Path) -> Result<PathBuf, FileError> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(_)) if parent.as_os_str().is_empty() => Ok(PathBuf::from(".")),
        (Some(parent), Some(_)) => Ok(parent.to_owned()),
        _ => Err(FileError::NotAPath { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_replaces_everything_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target.json");
        write_durably(&path, b"a longer first text", Access::Public).unwrap();
        assert_eq!(mode_of(&path), 0o644);
        write_durably(&path, b"short", Access::Private).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(names_in(folder.path()), ["target.json"]);
    }

    #[test]
    fn a_write_that_cannot_be_placed_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("occupied");
        fs::create_dir(&path).unwrap();
        let error = write_durably(&path, b"text", Access::Private).unwrap_err();
        assert!(error.to_string().starts_with("rename into place /"), "{error}");
        assert_eq!(names_in(folder.path()), ["occupied"]);
    }

    #[test]
    fn the_first_to_create_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(create_durably(&path, b"first", Access::Private).unwrap());
        assert!(!create_durably(&path, b"second", Access::Private).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names_in(folder.path()), ["key"]);
    }

    #[test]
    fn a_private_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_durably(&path, b"secret", Access::Public).unwrap();
        let error = read_private(&path, 100).unwrap_err();
        assert!(error.to_string().contains("mode 0644"), "{error}");
        write_durably(&path, b"secret", Access::Private).unwrap();
        assert_eq!(read_private(&path, 100).unwrap(), b"secret");
    }

    #[test]
    fn a_file_over_the_limit_is_refused_at_the_limit_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_durably(&path, b"12345", Access::Public).unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert!(matches!(read(&path, 4), Err(FileError::TooLarge { max: 4, .. })));
    }

    #[test]
    fn json_errors_name_the_file_and_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doc.json");
        write_json(&path, &vec![1, 2], Access::Public).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), [1, 2]);
        fs::write(&path, "[1,\n  x]").unwrap();
        let error = read_json::<Vec<u8>>(&path).unwrap_err();
        assert!(error.to_string().contains("doc.json"), "{error}");
        assert!(error.source().unwrap().to_string().contains("line 2"));
        remove_durably(&path).unwrap();
        remove_durably(&path).unwrap();
        assert!(read_json::<Vec<u8>>(&path).unwrap_err().is_missing());
    }

    #[test]
    fn a_private_folder_is_closed_even_if_it_was_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        create_private_folder(&path).unwrap();
        assert_eq!(mode_of(&path), 0o700);
    }
}
