//! Keeps a build from filling the disk: its layer and its cache are measured while it runs, by their
//! bytes and by their files, and so is what its processes keep open without a name.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insula_model::deployment::{Cause, CauseCode};
use insula_model::{BuildId, Bytes};

use super::nameless::{self, Nameless};
use crate::artifact::FILES_MAX;
use crate::sandbox::Sandboxes;
use crate::tree::{self, Measured, measure};

/// What one app's package managers may keep between builds.
const CACHE_MAX: Bytes = Bytes::gib(2);
/// The same in files: package managers keep some ten thousand.
const CACHE_FILES_MAX: usize = 200_000;
/// Between looks; a fast disk takes a gigabyte meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looking may take this part of the time, so that a large tree is looked at less often.
const LOOK_SHARE: u32 = 20;
/// But never less often than this, whatever a build does to make looking slow.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What is left to everybody else on the disk, and what is asked of one build.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    free_min: Bytes,
    /// Of all files that the disk can hold, those that have to be left, in percent.
    files_free_min: u64,
    /// A disk with more than this left, in percent, is not about to be filled.
    free_ample: u64,
    /// How much of the disk may go while a build runs, whoever took it.
    fall_max: Bytes,
    layer_max: Bytes,
    layer_files_max: usize,
    cache_max: Bytes,
    cache_files_max: usize,
}

impl Bounds {
    fn of(layer_max: Bytes) -> Self {
        /// Other builds and the logs of instances meanwhile.
        const FALL_SLACK: Bytes = Bytes::gib(1);
        let fall_max = layer_max.0.saturating_add(CACHE_MAX.0).saturating_add(FALL_SLACK.0);
        Self {
            free_min: Bytes::mib(256),
            files_free_min: 5,
            free_ample: 10,
            fall_max: Bytes(fall_max),
            layer_max,
            layer_files_max: FILES_MAX,
            cache_max: CACHE_MAX,
            cache_files_max: CACHE_FILES_MAX,
        }
    }
}

/// What the disk has left.
#[derive(Debug, Clone, Copy)]
struct Space {
    free: Bytes,
    whole: Bytes,
    files_free: u64,
    /// None where a file system makes room for files as it goes.
    files_whole: u64,
}

#[derive(Debug, Clone, Copy)]
struct Looked {
    space: Option<Space>,
    /// What went since the build began.
    fell: Bytes,
    layer: Measured,
    cache: Measured,
    nameless: Nameless,
}

#[derive(Debug, Clone)]
pub struct DiskWatch {
    layer: PathBuf,
    cache: PathBuf,
    bounds: Bounds,
    began_with: Option<Bytes>,
}

impl DiskWatch {
    /// At the beginning of a build: what the disk loses from here on is counted.
    pub fn begin(layer: PathBuf, cache: PathBuf, layer_max: Bytes) -> Self {
        let began_with = space(&layer).ok().map(|space| space.free);
        Self { layer, cache, bounds: Bounds::of(layer_max), began_with }
    }

    /// Ends only when there is too much.
    pub async fn run(self, sandboxes: Sandboxes, build: BuildId) -> Cause {
        loop {
            let began = Instant::now();
            if let Some(cause) = self.now(&sandboxes, build).await {
                return cause;
            }
            tokio::time::sleep(pause(began.elapsed())).await;
        }
    }

    /// Looks once.
    pub async fn now(&self, sandboxes: &Sandboxes, build: BuildId) -> Option<Cause> {
        // A sandbox that cannot be listed is looked at the next time.
        let pids = sandboxes.pids(&build.to_string()).await.unwrap_or_default();
        let watch = self.clone();
        tokio::task::spawn_blocking(move || watch.look(&pids)).await.ok().flatten()
    }

    fn look(&self, pids: &[u32]) -> Option<Cause> {
        let bounds = &self.bounds;
        let space = space(&self.layer).ok();
        let fell = match (self.began_with, space) {
            (Some(began), Some(now)) => Bytes(began.0.saturating_sub(now.free.0)),
            (None, _) | (_, None) => Bytes(0),
        };
        let looked = Looked {
            space,
            fell,
            layer: measure(&self.layer, bounds.layer_max, bounds.layer_files_max),
            cache: measure(&self.cache, bounds.cache_max, bounds.cache_files_max),
            nameless: nameless::measure(pids, &[&self.layer, &self.cache]),
        };
        too_much(bounds, &looked).map(|message| Cause::new(CauseCode::DiskFull, message))
    }
}

fn pause(look: Duration) -> Duration {
    look.saturating_mul(LOOK_SHARE).clamp(LOOK_EVERY, PAUSE_MAX)
}

/// What there is too much of. What the build itself did comes first: it is the better answer.
fn too_much(bounds: &Bounds, looked: &Looked) -> Option<String> {
    let Looked { layer, cache, nameless, .. } = looked;
    if layer.bytes > bounds.layer_max {
        return Some(format!("the build added more than the {} that it may", bounds.layer_max));
    }
    if layer.entries > bounds.layer_files_max {
        let max = bounds.layer_files_max;
        return Some(format!("too many files: the build added more than the {max} that it may"));
    }
    if cache.bytes > bounds.cache_max {
        let max = bounds.cache_max;
        return Some(format!("the build left in its cache more than the {max} that it may"));
    }
    if cache.entries > bounds.cache_files_max {
        let max = bounds.cache_files_max;
        return Some(format!(
            "too many files: the build left in its cache more than the {max} that it may"
        ));
    }
    if layer.bytes.0.saturating_add(nameless.bytes.0) > bounds.layer_max.0 {
        let max = bounds.layer_max;
        return Some(format!(
            "the build added more than the {max} that it may, {} of it in files that it removed \
             and still has open",
            rounded(nameless.bytes)
        ));
    }
    if !nameless.whole {
        return Some("too many open files: what the build added cannot be measured".into());
    }
    let space = looked.space?;
    if space.is_short(bounds) {
        return Some("the node's disk is full".into());
    }
    if space.is_short_of_files(bounds) {
        return Some("the node's disk has no room for more files".into());
    }
    if looked.fell > bounds.fall_max && space.is_low(bounds) {
        return Some(format!("the node's disk lost {} while the build ran", rounded(looked.fell)));
    }
    None
}

/// For people: to whole MiB, down.
fn rounded(bytes: Bytes) -> Bytes {
    Bytes::mib(bytes.0 >> 20)
}

impl Space {
    fn is_short(&self, bounds: &Bounds) -> bool {
        self.free < bounds.free_min
    }

    fn is_short_of_files(&self, bounds: &Bounds) -> bool {
        is_below(self.files_free, self.files_whole, bounds.files_free_min)
    }

    fn is_low(&self, bounds: &Bounds) -> bool {
        is_below(self.free.0, self.whole.0, bounds.free_ample)
    }
}

/// Whether a part is less than so many percent of a whole.
fn is_below(part: u64, whole: u64, percent: u64) -> bool {
    u128::from(part) * 100 < u128::from(whole) * u128::from(percent)
}

/// Removes a cache that is half full, with what nobody may need any more; it fills again.
pub fn ease(cache: &Path) -> io::Result<()> {
    ease_to(cache, Bytes(CACHE_MAX.0 / 2), CACHE_FILES_MAX / 2)
}

fn ease_to(cache: &Path, bytes_max: Bytes, files_max: usize) -> io::Result<()> {
    let found = measure(cache, bytes_max, files_max);
    if found.bytes > bytes_max || found.entries > files_max {
        tree::remove(cache)?;
    }
    Ok(())
}

/// Whether a failure may be the disk's.
pub fn is_full(path: &Path) -> bool {
    let bounds = Bounds::of(Bytes(0));
    space(path).is_ok_and(|space| space.is_short(&bounds) || space.is_short_of_files(&bounds))
}

fn space(path: &Path) -> io::Result<Space> {
    let about = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(about.f_frsize));
    Ok(Space {
        free: bytes(about.f_bavail),
        whole: bytes(about.f_blocks),
        files_free: about.f_favail,
        files_whole: about.f_files,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A watch over two new folders, with a disk that has room whatever the machine's has.
    fn watch(folder: &Path) -> DiskWatch {
        let (layer, cache) = (folder.join("layer"), folder.join("cache"));
        std::fs::create_dir_all(layer.join("deep")).unwrap();
        std::fs::create_dir(&cache).unwrap();
        let mut watch = DiskWatch::begin(layer, cache, Bytes::mib(1));
        watch.bounds.free_min = Bytes(0);
        watch.bounds.files_free_min = 0;
        watch
    }

    fn said(watch: &DiskWatch, pids: &[u32]) -> Option<String> {
        let cause = watch.look(pids)?;
        assert_eq!(cause.code, CauseCode::DiskFull);
        Some(cause.message)
    }

    #[test]
    fn what_is_too_much_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = watch(folder.path());
        std::fs::write(watch.layer.join("deep/file"), vec![1; 100_000]).unwrap();
        assert_eq!(said(&watch, &[]), None);
        watch.bounds.layer_max = Bytes::kib(50);
        let message = said(&watch, &[]).unwrap();
        assert_eq!(message, "the build added more than the 50KiB that it may");
    }

    #[test]
    fn empty_files_are_counted_in_the_layer_and_in_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = watch(folder.path());
        for n in 0..20 {
            std::fs::write(watch.layer.join(format!("deep/{n}")), "").unwrap();
            std::fs::write(watch.cache.join(n.to_string()), "").unwrap();
        }
        watch.bounds.layer_files_max = 21;
        watch.bounds.cache_files_max = 20;
        assert_eq!(said(&watch, &[]), None, "the folder `deep` is one, too");
        watch.bounds.layer_files_max = 20;
        let message = said(&watch, &[]).unwrap();
        assert_eq!(message, "too many files: the build added more than the 20 that it may");
        watch.bounds.layer_files_max = 21;
        watch.bounds.cache_files_max = 19;
        let message = said(&watch, &[]).unwrap();
        assert!(message.starts_with("too many files: the build left in its cache"), "{message}");
    }

    #[test]
    fn a_cache_of_many_files_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = watch(folder.path()).cache;
        for n in 0..20 {
            std::fs::write(cache.join(n.to_string()), "").unwrap();
        }
        ease_to(&cache, Bytes::mib(1), 20).unwrap();
        assert!(cache.exists());
        ease_to(&cache, Bytes::mib(1), 19).unwrap();
        assert!(!cache.exists());
        ease_to(&cache, Bytes::mib(1), 19).unwrap();
    }

    #[test]
    fn files_without_a_name_count_as_added() {
        let folder = tempfile::tempdir().unwrap();
        let watch = watch(folder.path());
        let path = watch.layer.join("hidden");
        let mut file = std::fs::File::create_new(&path).unwrap();
        file.write_all(&vec![1; 2 << 20]).unwrap();
        file.sync_all().unwrap();
        let own = [std::process::id()];
        std::fs::remove_file(&path).unwrap();
        assert_eq!(said(&watch, &[]), None, "of other processes it is not");
        let message = said(&watch, &own).unwrap();
        assert!(message.contains("in files that it removed"), "{message}");
        drop(file);
        assert_eq!(said(&watch, &own), None);
    }

    #[test]
    fn a_disk_short_of_bytes_or_of_files_or_that_fills_fast_is_refused() {
        let bounds = Bounds::of(Bytes::gib(2));
        let none = Measured { bytes: Bytes(0), entries: 0 };
        let nameless = Nameless { bytes: Bytes(0), whole: true };
        let said = |free_mib, files_free, files_whole, fell| {
            let (free, whole) = (Bytes::mib(free_mib), Bytes::gib(100));
            let space = Some(Space { free, whole, files_free, files_whole });
            let looked = Looked { space, fell, layer: none, cache: none, nameless };
            too_much(&bounds, &looked).unwrap_or_default()
        };
        let (low, ample) = (9 << 10, 11 << 10);
        assert_eq!(said(ample, 50, 1_000, Bytes(0)), "");
        assert_eq!(said(ample, 0, 0, Bytes(0)), "", "it does not count them");
        assert_eq!(said(ample, 49, 1_000, Bytes(0)), "the node's disk has no room for more files");
        assert_eq!(said(255, 50, 1_000, Bytes(0)), "the node's disk is full");
        assert_eq!(said(low, 50, 1_000, Bytes::gib(5)), "");
        assert_eq!(said(ample, 50, 1_000, Bytes::gib(6)), "");
        assert_eq!(
            said(low, 50, 1_000, Bytes::gib(6)),
            "the node's disk lost 6GiB while the build ran"
        );
    }

    #[test]
    fn a_slow_look_does_not_put_off_the_next_one() {
        assert_eq!(pause(Duration::from_millis(1)), LOOK_EVERY);
        assert_eq!(pause(Duration::from_millis(100)), Duration::from_secs(2));
        assert_eq!(pause(Duration::from_secs(600)), PAUSE_MAX);
    }
}
