//! Keeps a build from filling the disk: its layer and its cache are measured while it runs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insula_model::Bytes;
use insula_model::deployment::{Cause, CauseCode};

use crate::tree::size;

/// Left to everybody else on the disk.
const FREE_MIN: Bytes = Bytes::mib(256);
/// What one app's package managers may keep between builds.
pub const CACHE_MAX: Bytes = Bytes::gib(2);
/// Between looks; a fast disk takes a gigabyte meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looking may take this part of the time, so that a large tree is looked at less often.
const LOOK_SHARE: u32 = 20;

#[derive(Debug, Clone)]
pub struct DiskWatch {
    pub layer: PathBuf,
    pub cache: PathBuf,
    pub layer_max: Bytes,
}

impl DiskWatch {
    /// Ends only when there is too much.
    pub async fn run(self) -> Cause {
        loop {
            let began = Instant::now();
            let watch = self.clone();
            let looked = tokio::task::spawn_blocking(move || watch.look()).await;
            if let Ok(Some(cause)) = looked {
                return cause;
            }
            tokio::time::sleep(LOOK_EVERY.max(began.elapsed() * LOOK_SHARE)).await;
        }
    }

    fn look(&self) -> Option<Cause> {
        if free(&self.layer).is_ok_and(|free| free < FREE_MIN) {
            return Some(Cause::new(CauseCode::DiskFull, "the node's disk is full"));
        }
        for (what, path, max) in
            [("added", &self.layer, self.layer_max), ("left in its cache", &self.cache, CACHE_MAX)]
        {
            if size(path) > max {
                let message = format!("the build {what} more than the {max} that it may");
                return Some(Cause::new(CauseCode::DiskFull, message));
            }
        }
        None
    }
}

/// Whether a failure may be the disk's.
pub fn is_full(path: &Path) -> bool {
    free(path).is_ok_and(|free| free < FREE_MIN)
}

fn free(path: &Path) -> io::Result<Bytes> {
    let about = rustix::fs::statvfs(path)?;
    Ok(Bytes(about.f_bavail.saturating_mul(about.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (layer, cache) = (folder.path().join("layer"), folder.path().join("cache"));
        std::fs::create_dir_all(layer.join("deep")).unwrap();
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(layer.join("deep/file"), vec![1; 100_000]).unwrap();
        let mut watch = DiskWatch { layer, cache, layer_max: Bytes::mib(1) };
        assert_eq!(watch.look(), None);
        watch.layer_max = Bytes::kib(50);
        let cause = watch.look().unwrap();
        assert_eq!(cause.code, CauseCode::DiskFull);
        assert_eq!(cause.message, "the build added more than the 50KiB that it may");
    }
}
