//! Trees that tenants made: measured and removed without trust in their shape.
//!
//! A build may nest folders deeper than any path, or than we have descriptors; plain recursion by
//! path or by descriptor would fail on them for ever. Nothing here follows a symlink. Nobody may
//! be writing into a tree while it is removed.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use insula_model::Bytes;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

/// Levels that are walked at once, each with a descriptor. What lies deeper is too deep to measure,
/// and is lifted to the top to be removed.
const LEVELS_MAX: usize = 200;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What was found of a tree, up to where it was too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    pub bytes: Bytes,
    pub entries: usize,
}

/// What the disk holds of a tree. A tree that is too deep to be measured is as large as can be;
/// what disappears meanwhile does not count.
pub fn size(path: &Path) -> Bytes {
    measure(path, Bytes(u64::MAX), usize::MAX).bytes
}

/// The same, but ends soon after there is more than `bytes_max` or `entries_max`: who makes a tree
/// large must not make looking at it slow.
pub fn measure(path: &Path, bytes_max: Bytes, entries_max: usize) -> Measured {
    let mut walk = Walk { bytes: 0, entries: 0, bytes_max: bytes_max.0, entries_max };
    if let Ok(top) = openat(CWD, path, FOLDER, Mode::empty()) {
        walk.below(&top, 0);
    }
    Measured { bytes: Bytes(walk.bytes), entries: walk.entries }
}

struct Walk {
    bytes: u64,
    entries: usize,
    bytes_max: u64,
    entries_max: usize,
}

impl Walk {
    fn below(&mut self, folder: &OwnedFd, level: usize) {
        // One more than there may be is enough to know, and a folder may hold millions.
        let wanted = (self.entries_max - self.entries).saturating_add(1);
        for (name, _) in first_entries(folder, wanted).unwrap_or_default() {
            self.entries += 1;
            if self.is_over() {
                return;
            }
            let Ok(about) = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            // The kernel counts in units of 512 bytes, whatever a block of the disk is.
            let bytes = u64::try_from(about.st_blocks).unwrap_or(0) * 512;
            self.bytes = self.bytes.saturating_add(bytes);
            if FileType::from_raw_mode(about.st_mode) == FileType::Directory {
                if level == LEVELS_MAX {
                    self.bytes = u64::MAX;
                    return;
                }
                if let Ok(below) = openat(folder, &name, FOLDER, Mode::empty()) {
                    self.below(&below, level + 1);
                }
            }
            if self.is_over() {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.bytes > self.bytes_max || self.bytes == u64::MAX || self.entries > self.entries_max
    }
}

/// Removes a tree of any depth; one that is not there is as good as removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let top = match openat(CWD, path, FOLDER, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut lifted = 0;
    loop {
        empty(&top, &top, 0, &mut lifted)?;
        // What was lifted from the depths lies at the top now.
        if entries(&top)?.is_empty() {
            break;
        }
    }
    std::fs::remove_dir(path)
}

fn empty(folder: &OwnedFd, top: &OwnedFd, level: usize, lifted: &mut u64) -> io::Result<()> {
    for (name, kind) in entries(folder)? {
        let is_folder = match kind {
            // Some file systems do not say.
            FileType::Unknown => {
                let about = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(about.st_mode) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        if !is_folder {
            unlinkat(folder, &name, AtFlags::empty())?;
        } else if level == LEVELS_MAX {
            *lifted += 1;
            renameat(folder, &name, top, format!(".insula-lifted-{lifted}"))?;
        } else {
            let below = open_for_removal(folder, &name)?;
            empty(&below, top, level + 1, lifted)?;
            match unlinkat(folder, &name, AtFlags::REMOVEDIR) {
                // Something was lifted into it: it is the top, or a later round's.
                Ok(()) | Err(Errno::NOTEMPTY) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// An ordinary user cannot look into his own folder if it says so.
fn open_for_removal(folder: impl AsFd, name: &CString) -> Result<OwnedFd, Errno> {
    match openat(folder.as_fd(), name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmodat(folder.as_fd(), name, Mode::RWXU, AtFlags::empty())?;
            openat(folder.as_fd(), name, FOLDER, Mode::empty())
        }
        opened => opened,
    }
}

fn entries(folder: &OwnedFd) -> io::Result<Vec<(CString, FileType)>> {
    first_entries(folder, usize::MAX)
}

fn first_entries(folder: &OwnedFd, max: usize) -> io::Result<Vec<(CString, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            found.push((name.to_owned(), entry.file_type()));
            if found.len() >= max {
                break;
            }
        }
    }
    Ok(found)
}

/// Removes the folders in `folder` that were not touched for the longest time, until they fit.
pub fn trim(folder: &Path, max: Bytes) -> io::Result<()> {
    let mut found = Vec::new();
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in listed {
        let entry = entry?;
        found.push((entry.metadata()?.modified()?, size(&entry.path()), entry.path()));
    }
    found.sort();
    let mut total = found.iter().fold(0u64, |total, (_, size, _)| total.saturating_add(size.0));
    for (_, size, path) in found {
        if total <= max.0 {
            break;
        }
        remove(&path)?;
        total = total.saturating_sub(size.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::*;

    /// A chain of folders far beyond what a path may say.
    fn nest(top: &Path, levels: usize) {
        let mut here = openat(CWD, top, FOLDER, Mode::empty()).unwrap();
        for _ in 0..levels {
            mkdirat(&here, "deep", Mode::RWXU).unwrap();
            here = openat(&here, "deep", FOLDER, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn a_bottomless_tree_is_too_large_and_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("side/by/side")).unwrap();
        std::fs::write(tree.join("side/file"), "x").unwrap();
        nest(&tree, 3_000);
        assert_eq!(size(&tree), Bytes(u64::MAX));
        remove(&tree).unwrap();
        assert!(!tree.exists());
        remove(&tree).unwrap();
    }

    #[test]
    fn a_walk_ends_where_there_is_too_much() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..100 {
            let below = folder.path().join((n % 10).to_string());
            std::fs::create_dir_all(&below).unwrap();
            std::fs::write(below.join(n.to_string()), [1; 5_000]).unwrap();
        }
        let all = measure(folder.path(), Bytes::gib(1), 110);
        assert_eq!(all.entries, 110);
        assert_eq!(all.bytes, size(folder.path()));
        assert_eq!(measure(folder.path(), Bytes::gib(1), 50).entries, 51);
        let few = measure(folder.path(), Bytes::kib(50), 110);
        assert!(few.bytes > Bytes::kib(50) && few.bytes < Bytes::kib(100), "{few:?}");
    }

    #[test]
    fn symlinks_are_removed_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, precious) = (folder.path().join("tree"), folder.path().join("precious"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::create_dir(&precious).unwrap();
        std::fs::write(precious.join("file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("../precious", tree.join("out")).unwrap();
        assert!(size(&tree) < Bytes(100_000));
        remove(&tree).unwrap();
        assert!(precious.join("file").exists());
        // Nor when the tree itself is one.
        std::os::unix::fs::symlink("precious", &tree).unwrap();
        assert!(remove(&tree).is_err());
        assert!(precious.join("file").exists());
    }

    #[test]
    fn the_folders_that_were_not_used_for_the_longest_time_go_first() {
        let folder = tempfile::tempdir().unwrap();
        for (age, name) in ["old", "new"].iter().enumerate() {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("file"), vec![1; 100_000]).unwrap();
            let seconds = std::time::Duration::from_secs(1_000 + age as u64);
            let time = std::time::SystemTime::UNIX_EPOCH + seconds;
            std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
        trim(folder.path(), Bytes(150_000)).unwrap();
        assert!(!folder.path().join("old").exists() && folder.path().join("new").exists());
    }
}
