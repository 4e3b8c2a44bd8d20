//! Whether the data folder's disk has room and takes writes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use insula_model::Bytes;
use rustix::fs::{StatVfs, statvfs};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Room that an artifact, its logs and our own records need on any disk.
const FREE_MIN: Bytes = Bytes::gib(1);
/// On a small disk, this part of it: of a thousand.
const FREE_MIN_PER_MILLE: u64 = 50;
/// Files that can still be made, of a thousand.
const INODES_MIN_PER_MILLE: u64 = 20;
/// What was short must grow beyond its limit by half before it counts as enough.
const ENOUGH_HALVES: u64 = 3;
/// Between probes: each costs the disk a flush.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// A page written and flushed takes milliseconds; a disk that needs longer holds up every record
/// that we must make durable.
const PROBE_TIME_MAX: Duration = Duration::from_secs(5);
const PROBE_FILE: &str = ".insula-probe";
const PROBE_BYTES: usize = 4_096;

/// What the disk is short of. `already`: it was so at the last look.
pub fn shortage(data: &Path, already: bool) -> Option<String> {
    match statvfs(data) {
        Ok(seen) => short_of(&seen, already),
        Err(error) => Some(format!("its disk cannot be looked at: {error}")),
    }
}

fn short_of(seen: &StatVfs, already: bool) -> Option<String> {
    let enough = |limit: u64| if already { limit.saturating_mul(ENOUGH_HALVES) / 2 } else { limit };
    let total = seen.f_blocks.saturating_mul(seen.f_frsize);
    let free = seen.f_bavail.saturating_mul(seen.f_frsize);
    if free < enough(FREE_MIN.0.min(total / 1_000 * FREE_MIN_PER_MILLE)) {
        return Some("its disk is nearly full".into());
    }
    // File systems that make them as they go say zero.
    let of_files = seen.f_files / 1_000 * INODES_MIN_PER_MILLE;
    if seen.f_files > 0 && seen.f_favail < enough(of_files) {
        return Some("its disk has hardly any inodes left".into());
    }
    None
}

/// Of the whole disk, and what is free of it.
pub fn size(data: &Path) -> Option<(Bytes, Bytes)> {
    let seen = statvfs(data).ok()?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(seen.f_frsize));
    Some((bytes(seen.f_blocks), bytes(seen.f_bavail)))
}

/// Writes a page and flushes it, on a thread that may hang with the disk. One at a time.
#[derive(Debug)]
pub struct WriteProbe {
    data: PathBuf,
    due: Instant,
    running: Option<(Instant, oneshot::Receiver<std::io::Result<Duration>>)>,
    found: Option<String>,
}

impl WriteProbe {
    pub fn new(data: PathBuf) -> Self {
        Self { data, due: Instant::now(), running: None, found: None }
    }

    /// What is wrong, as far as it is known now. Never waits.
    pub fn look(&mut self) -> Option<String> {
        let now = Instant::now();
        if let Some((began, result)) = &mut self.running {
            match result.try_recv() {
                Ok(outcome) => {
                    self.found = judge(outcome);
                    self.running = None;
                }
                Err(oneshot::error::TryRecvError::Empty) => {
                    if now.duration_since(*began) > PROBE_TIME_MAX {
                        self.found = Some(SLOW.into());
                    }
                }
                Err(oneshot::error::TryRecvError::Closed) => self.running = None,
            }
        }
        if self.running.is_none() && now >= self.due {
            self.due = now + PROBE_EVERY;
            let (tell, result) = oneshot::channel();
            let path = self.data.join(PROBE_FILE);
            tokio::task::spawn_blocking(move || {
                // Nobody listens any more when the agent ends.
                let _ = tell.send(write(&path));
            });
            self.running = Some((now, result));
        }
        self.found.clone()
    }
}

const SLOW: &str = "its disk takes seconds for a small write";

fn judge(outcome: std::io::Result<Duration>) -> Option<String> {
    match outcome {
        Ok(took) if took > PROBE_TIME_MAX => Some(SLOW.into()),
        Ok(_) => None,
        Err(error) => Some(format!("its disk does not take writes: {error}")),
    }
}

fn write(path: &Path) -> std::io::Result<Duration> {
    let began = std::time::Instant::now();
    let mut file = File::create(path)?;
    file.write_all(&[0; PROBE_BYTES])?;
    file.sync_all()?;
    drop(file);
    std::fs::remove_file(path)?;
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(total_gib: u64, free_mib: u64, files: u64, free_files: u64) -> StatVfs {
        let mut seen = statvfs("/").unwrap();
        seen.f_frsize = 4_096;
        seen.f_blocks = total_gib << 18;
        seen.f_bavail = free_mib << 8;
        (seen.f_files, seen.f_favail) = (files, free_files);
        seen
    }

    #[test]
    fn room_is_a_gibibyte_or_a_twentieth_of_a_small_disk() {
        assert_eq!(short_of(&disk(1_000, 1_100, 0, 0), false), None);
        assert!(short_of(&disk(1_000, 1_000, 0, 0), false).is_some());
        assert!(short_of(&disk(1_000, 1_100, 0, 0), true).is_some(), "not enough again yet");
        assert_eq!(short_of(&disk(1_000, 1_600, 0, 0), true), None);
        assert_eq!(short_of(&disk(4, 250, 0, 0), false), None);
        assert!(short_of(&disk(4, 150, 0, 0), false).is_some());
    }

    #[test]
    fn inodes_run_out_as_well() {
        assert_eq!(short_of(&disk(100, 50_000, 1_000_000, 30_000), false), None);
        let short = short_of(&disk(100, 50_000, 1_000_000, 10_000), false);
        assert!(short.unwrap().contains("inodes"));
    }

    #[tokio::test]
    async fn a_probe_writes_leaves_nothing_and_says_why_it_cannot() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(judge(write(&folder.path().join(PROBE_FILE))), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        let mut probe = WriteProbe::new(folder.path().join("missing"));
        assert_eq!(probe.look(), None, "not known yet");
        let result = probe.running.take().unwrap();
        probe.found = judge(result.1.await.unwrap());
        assert!(probe.look().unwrap().contains("does not take writes"));
        assert!(probe.running.is_none(), "the next one is not due yet");
        assert!(judge(Ok(PROBE_TIME_MAX * 2)).is_some());
    }
}
