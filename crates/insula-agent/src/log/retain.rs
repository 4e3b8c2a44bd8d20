//! Keeps the logs of an app, and of the node, within a bound: the oldest segments go first.
//!
//! Whether their instance still lives makes no difference, except that a segment being written stays.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::layout::{LogRoot, SegmentName, folders, list};

/// What may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub bytes: u64,
    pub segments: u64,
}

/// What is kept of a segment in mind while deciding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub path: PathBuf,
    pub ms: i64,
    pub bytes: u64,
    /// Being written: counts, and stays.
    pub active: bool,
}

/// Which segments must go so that the rest is within the bound. Pure.
pub fn surplus(mut all: Vec<Kept>, bound: Bound) -> Vec<PathBuf> {
    let mut bytes: u64 = all.iter().map(|s| s.bytes).sum();
    let mut count = all.len() as u64;
    all.sort_by(|a, b| (a.ms, &a.path).cmp(&(b.ms, &b.path)));
    let mut gone = Vec::new();
    for segment in all {
        if bytes <= bound.bytes && count <= bound.segments {
            break;
        }
        if !segment.active {
            bytes -= segment.bytes;
            count -= 1;
            gone.push(segment.path);
        }
    }
    gone
}

/// Brings the logs of one app (its directory, see `LogRoot::app`) within the bound.
pub fn enforce_app(app: &Path, bound: Bound) -> io::Result<()> {
    let mut kept = Vec::new();
    for component in folders(app)? {
        for instance in folders(&component)? {
            collect(&instance, &mut kept)?;
        }
    }
    remove(surplus(kept, bound))
}

/// Brings the logs of the whole node, builds included, within the bound.
pub fn enforce_node(root: &LogRoot, bound: Bound) -> io::Result<()> {
    let mut kept = Vec::new();
    for owner in folders(root.path())? {
        for middle in folders(&owner)? {
            collect(&middle, &mut kept)?;
            for instance in folders(&middle)? {
                collect(&instance, &mut kept)?;
            }
        }
    }
    remove(surplus(kept, bound))
}

fn collect(dir: &Path, kept: &mut Vec<Kept>) -> io::Result<()> {
    for name in SegmentName::list(dir)? {
        let path = name.path(dir);
        let Ok(about) = std::fs::metadata(&path) else { continue };
        let active = !name.sealed && is_locked(&path);
        kept.push(Kept { path, ms: name.ms, bytes: about.len(), active });
    }
    Ok(())
}

/// A writer locks what it writes.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

fn remove(segments: Vec<PathBuf>) -> io::Result<()> {
    for path in segments {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let Some(dir) = path.parent() else { continue };
        let segment_left = list(dir)?
            .iter()
            .any(|e| e.file_name().to_str().and_then(SegmentName::parse).is_some());
        if !segment_left {
            // Spools of a keeper that was killed may be left.
            match std::fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(ms: i64, bytes: u64, active: bool) -> Kept {
        Kept { path: PathBuf::from(format!("{ms}")), ms, bytes, active }
    }

    #[test]
    fn the_oldest_go_first_and_no_more_than_needed() {
        let all = vec![kept(3, 10, false), kept(1, 10, false), kept(2, 10, false)];
        let paths = |bound| surplus(all.clone(), bound);
        assert_eq!(paths(Bound { bytes: 30, segments: 3 }), Vec::<PathBuf>::new());
        assert_eq!(paths(Bound { bytes: 29, segments: 3 }), [PathBuf::from("1")]);
        assert_eq!(paths(Bound { bytes: 100, segments: 1 }), ["1", "2"].map(PathBuf::from));
    }

    #[test]
    fn what_is_being_written_counts_and_stays() {
        let all = vec![kept(1, 50, true), kept(2, 10, false), kept(3, 10, false)];
        let bound = Bound { bytes: 60, segments: 10 };
        assert_eq!(surplus(all, bound), [PathBuf::from("2")]);
    }

    #[test]
    fn enforcing_twice_changes_nothing_and_spares_the_locked() {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("app/web/ins");
        let now = insula_model::Timestamp::from_millis(10);
        let writer = super::super::SegmentWriter::open(&dir, now).unwrap();
        for ms in 1..5 {
            let old = SegmentName { seq: 0, ms, sealed: true };
            std::fs::write(old.path(&dir), [0; 100]).unwrap();
        }
        let bound = Bound { bytes: 250, segments: 10 };
        for _ in 0..2 {
            enforce_app(&data.path().join("app"), bound).unwrap();
            let left: Vec<i64> = SegmentName::list(&dir).unwrap().iter().map(|n| n.ms).collect();
            assert_eq!(left, [3, 4, 10]);
        }
        drop(writer);
        enforce_app(&data.path().join("app"), Bound { bytes: 0, segments: 0 }).unwrap();
        assert!(!dir.exists());
    }
}
