//! What the host offers: cores, memory, and the runtimes under `/usr`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use insula_model::limits::REPORT_INSTANCES_MAX;
use insula_model::node::{Architecture, Capacity, NodeMode, Offer, RuntimeFound};
use insula_model::spec::{Isolation, Runtime};
use insula_model::{Bytes, MilliCpu};
use insula_wire::facts::NodeFacts;

use crate::config::Offered;

/// An interpreter that needs longer to say its version is broken.
const VERSION_TIME_MAX: Duration = Duration::from_secs(10);
/// Kept for the host and for our own processes.
const MEMORY_KEPT: Bytes = Bytes::mib(256);
/// A version is a word; whatever is longer is not one.
const VERSION_LEN_MAX: usize = 40;

const PROGRAMS: [(Runtime, &str); 3] = [
    (Runtime::Python, "/usr/bin/python3"),
    (Runtime::Node, "/usr/bin/node"),
    (Runtime::Node, "/usr/bin/npm"),
];

/// Of the host, but for what the operator says otherwise.
pub async fn gather(mode: NodeMode, offered: Offered) -> NodeFacts {
    let found = PROGRAMS.map(|(runtime, path)| async move {
        let version = version_of(path).await?;
        Some(RuntimeFound { runtime, version, path: path.to_owned() })
    });
    let runtimes = futures_util::future::join_all(found).await.into_iter().flatten().collect();
    let offer = Offer {
        capacity: instead(of_host(), offered),
        mode,
        runtimes,
        architecture: Architecture::parse(std::env::consts::ARCH),
        isolation: [Isolation::Standard].into(),
    };
    NodeFacts { offer, relay: None, clock: None, site: None }
}

fn instead(host: Capacity, offered: Offered) -> Capacity {
    Capacity {
        cpu: offered.cpu.unwrap_or(host.cpu),
        memory: offered.memory.unwrap_or(host.memory),
        instances: offered.instances.unwrap_or(host.instances),
        disk: offered.disk.unwrap_or(host.disk),
        ..host
    }
}

fn of_host() -> Capacity {
    let unknown = Capacity::default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory_total(&meminfo).unwrap_or(Bytes::gib(1));
    Capacity {
        cpu: MilliCpu(u32::try_from(cores.saturating_mul(1_000)).unwrap_or(u32::MAX)),
        memory: Bytes(memory.0.saturating_sub(MEMORY_KEPT.0)),
        instances: u32::try_from(REPORT_INSTANCES_MAX).unwrap_or(u32::MAX),
        pids: pids_max().unwrap_or(unknown.pids),
        // Writable layers are memory (decision 4), and are counted there: what instances ask for
        // is bounded on disk only where the operator says so.
        disk: unknown.disk,
    }
}

/// Of all processes of the machine: the smaller of the two bounds that the kernel has.
fn pids_max() -> Option<u32> {
    let bound = |name: &str| -> Option<u32> {
        std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse().ok()
    };
    Some(bound("pid_max")?.min(bound("threads-max")?))
}

fn memory_total(meminfo: &str) -> Option<Bytes> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kib.checked_mul(1024)?))
}

async fn version_of(path: &str) -> Option<String> {
    if !Path::new(path).exists() {
        return None;
    }
    let mut command = tokio::process::Command::new(path);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_TIME_MAX, command.output()).await.ok()?.ok()?;
    if !output.status.success() {
        return None;
    }
    version_in(&String::from_utf8_lossy(&output.stdout))
}

/// `Python 3.11.2`, `v18.20.4` and `9.2.0` each name themselves in their own way.
fn version_in(text: &str) -> Option<String> {
    let word = text.split_whitespace().last()?.trim_start_matches('v');
    let plain = word.len() <= VERSION_LEN_MAX && word.starts_with(|c: char| c.is_ascii_digit());
    plain.then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_each_program_says_them() {
        assert_eq!(version_in("Python 3.11.2\n").as_deref(), Some("3.11.2"));
        assert_eq!(version_in("v18.20.4\n").as_deref(), Some("18.20.4"));
        assert_eq!(version_in("9.2.0\n").as_deref(), Some("9.2.0"));
        assert_eq!(version_in("command not found"), None);
        assert_eq!(version_in(""), None);
    }

    #[test]
    fn an_operator_may_offer_something_else_than_the_host_has() {
        let host = of_host();
        assert!(host.pids > 0 && host.pids < Capacity::default().pids);
        let (memory, disk) = (Bytes::mib(64), Bytes::gib(1));
        let offered = Offered { memory: Some(memory), disk: Some(disk), ..Offered::default() };
        assert_eq!(instead(host, offered), Capacity { memory, disk, ..host });
    }

    #[test]
    fn memory_is_read_from_the_kernels_own_words() {
        let text = "MemTotal:       24521884 kB\nMemFree:        123 kB\n";
        assert_eq!(memory_total(text), Some(Bytes(24_521_884 * 1024)));
        assert_eq!(memory_total("nothing"), None);
    }
}
