//! What a measurement costs, as the kernel counts it.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// Waits for the disk that are timed before a measurement; the middle one is told.
const FSYNCS: usize = 21;

#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Of all threads of this process.
    pub cpu: Duration,
    pub rss_mib: u64,
}

pub fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

pub fn rss_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("VmRSS")?;
    Ok(kib.parse::<u64>()? >> 10)
}

/// The span below which so many thousandths lie.
pub fn percentile(spans: &[Duration], thousandths: usize) -> Duration {
    let mut sorted = spans.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * thousandths / 1_000).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

/// How long the disk takes to say that a small write is safe: the floor of every commit.
pub fn fsync(folder: &Path) -> Result<String> {
    let mut file = std::fs::File::create(folder.join("fsync"))?;
    let mut spans = Vec::new();
    for _ in 0..FSYNCS {
        let begun = Instant::now();
        file.write_all(&[1; 4_096])?;
        file.sync_data()?;
        spans.push(begun.elapsed());
    }
    Ok(format!("{:.0?}", percentile(&spans, 500)))
}
