//! Reads what the groups of a sandbox have counted. They go on answering after its end, until
//! they are removed.

use std::fs;
use std::io;

use super::{Controller, Group, Version};

/// Counters of one sandbox. What no group counts is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory of the processes themselves: what to bill and to evict by. Page cache is left out,
    /// for it is charged to whoever touched a shared file first.
    pub rss_bytes: u64,
    /// Files in memory: `/tmp`, `/dev/shm`, a writable layer in memory.
    pub shmem_bytes: u64,
    /// All that the limit counts, page cache included.
    pub memory_bytes: u64,
    pub cpu_usec: u64,
    /// Processes and threads, the init included.
    pub pids: u64,
    /// Processes that were ended because the memory limit was reached. The exit code does not tell:
    /// a worker may die so and its master live on.
    pub oom_kills: u64,
    /// Times that a new process was refused.
    pub pids_refused: u64,
    /// Time that processes had to wait for the CPU limit.
    pub throttled_usec: u64,
}

impl Usage {
    pub(crate) fn read(groups: &[Group]) -> io::Result<Self> {
        let mut usage = Self::default();
        for group in groups {
            if group.version == Version::V2 {
                // Counted in every group of version 2, with or without the controller.
                usage.cpu_usec = keyed(group, "cpu.stat", "usage_usec")?;
            }
            for controller in &group.controllers {
                usage.add(group, *controller)?;
            }
        }
        Ok(usage)
    }

    fn add(&mut self, group: &Group, controller: Controller) -> io::Result<()> {
        match (group.version, controller) {
            (Version::V1, Controller::Memory) => {
                self.rss_bytes = keyed(group, "memory.stat", "total_rss")?;
                self.shmem_bytes = keyed(group, "memory.stat", "total_shmem")?;
                self.memory_bytes = single(group, "memory.usage_in_bytes")?;
                self.oom_kills = keyed(group, "memory.oom_control", "oom_kill")?;
            }
            (Version::V2, Controller::Memory) => {
                self.rss_bytes = keyed(group, "memory.stat", "anon")?;
                self.shmem_bytes = keyed(group, "memory.stat", "shmem")?;
                self.memory_bytes = single(group, "memory.current")?;
                self.oom_kills = keyed(group, "memory.events", "oom_kill")?;
            }
            (Version::V1, Controller::Cpu) => {
                self.throttled_usec = keyed(group, "cpu.stat", "throttled_time")? / 1_000;
            }
            (Version::V2, Controller::Cpu) => {
                self.throttled_usec = keyed(group, "cpu.stat", "throttled_usec")?;
            }
            (Version::V1, Controller::Cpuacct) => {
                self.cpu_usec = single(group, "cpuacct.usage")? / 1_000;
            }
            (Version::V1 | Version::V2, Controller::Pids) => {
                self.pids = single(group, "pids.current")?;
                self.pids_refused = keyed(group, "pids.events", "max")?;
            }
            (Version::V1, Controller::Freezer)
            | (Version::V2, Controller::Cpuacct | Controller::Freezer) => {}
        }
        Ok(())
    }
}

fn single(group: &Group, file: &str) -> io::Result<u64> {
    let text = fs::read_to_string(group.path.join(file))?;
    Ok(text.trim().parse().unwrap_or(0))
}

fn keyed(group: &Group, file: &str, key: &str) -> io::Result<u64> {
    let text = fs::read_to_string(group.path.join(file))?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
    Ok(value.unwrap_or(0))
}
