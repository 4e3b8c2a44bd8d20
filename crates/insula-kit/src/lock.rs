//! One process at a time: an exclusive lock on a file that says who holds it.
//!
//! The kernel gives the lock back when its holder dies, however it dies. The file stays behind on
//! purpose: removing it would let two processes lock two files of the same name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Held until dropped. The descriptor is not inherited by processes that we start.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is held by {}", path.display(), holder(.pid))]
    Held { path: PathBuf, pid: Option<u32> },
    #[error("lock {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock or says who has it; never waits.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::Held { path: path.to_owned(), pid: read_pid(&mut file) });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Emptied first, so that nobody reads the pid of somebody who let go. The lock itself
        // goes with the descriptor.
        let _ = self.file.set_len(0);
    }
}

/// Whose pid stands in the file, while the lock is held; a hint for people and for `insula down`.
pub fn holder_pid(path: &Path) -> io::Result<Option<u32>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(Errno::WOULDBLOCK) => Ok(read_pid(&mut file)),
        Err(error) => Err(error.into()),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    // Ten digits, a line end, and room to notice that it is something else.
    const PID_TEXT_BYTES_MAX: u64 = 32;
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(PID_TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(holder_pid(&path).unwrap(), None);
        let lock = Lock::acquire(&path).unwrap();
        let us = std::process::id();
        let error = Lock::acquire(&path).unwrap_err();
        assert!(error.to_string().ends_with(&format!("lock is held by process {us}")), "{error}");
        assert_eq!(holder_pid(&path).unwrap(), Some(us));
        drop(lock);
        assert_eq!(holder_pid(&path).unwrap(), None);
        Lock::acquire(&path).unwrap();
    }

    #[test]
    fn a_dead_holders_file_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        std::fs::write(&path, "4194304999\n").unwrap();
        let _lock = Lock::acquire(&path).unwrap();
        assert_eq!(holder_pid(&path).unwrap(), Some(std::process::id()));
    }
}
