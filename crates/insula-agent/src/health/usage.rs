//! What the whole machine uses, whoever uses it: placement looks at it beside what is reserved.

use std::path::PathBuf;

use insula_wire::node::NodeUsage;

/// Measures from call to call.
#[derive(Debug)]
pub struct NodeMeter {
    data: PathBuf,
    before: Option<Ticks>,
}

/// As the kernel counts them since the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
    cores: u32,
}

impl NodeMeter {
    pub fn new(data: PathBuf) -> Self {
        Self { data, before: read_ticks() }
    }

    pub fn measure(&mut self) -> NodeUsage {
        let now = read_ticks();
        let cpu_milli = match (self.before, now) {
            (Some(before), Some(now)) => used(before, now),
            (_, _) => 0,
        };
        self.before = now.or(self.before);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let free = super::disk_size(&self.data).map_or(0, |(_, free)| free.0);
        NodeUsage { cpu_milli, memory_bytes: memory_used(&meminfo), disk_free_bytes: free }
    }
}

fn read_ticks() -> Option<Ticks> {
    ticks(&std::fs::read_to_string("/proc/stat").ok()?)
}

fn ticks(stat: &str) -> Option<Ticks> {
    let mut lines = stat.lines();
    let total = lines.next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; what follows is counted in user already.
    let fields: Vec<u64> =
        total.split_whitespace().take(8).filter_map(|n| n.parse().ok()).collect();
    let all: u64 = fields.iter().sum();
    let idle: u64 = fields.get(3..5)?.iter().sum();
    let cores = lines.take_while(|line| line.starts_with("cpu")).count();
    Some(Ticks { busy: all - idle, all, cores: u32::try_from(cores).ok()? })
}

/// In thousandths of a core.
fn used(before: Ticks, now: Ticks) -> u32 {
    let all = now.all.saturating_sub(before.all);
    if all == 0 {
        return 0;
    }
    let busy = now.busy.saturating_sub(before.busy).min(all);
    u32::try_from(busy.saturating_mul(1_000 * u64::from(now.cores)) / all).unwrap_or(u32::MAX)
}

fn memory_used(meminfo: &str) -> u64 {
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    match (kib("MemTotal:"), kib("MemAvailable:")) {
        (Some(total), Some(available)) => total.saturating_sub(available).saturating_mul(1_024),
        (_, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_by_what_they_did_since_the_last_look() {
        let stat = |busy: u64, idle: u64| {
            format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1\ncpu1 1\nintr 5\n")
        };
        let before = ticks(&stat(100, 900)).unwrap();
        assert_eq!(before, Ticks { busy: 100, all: 1_000, cores: 2 });
        let after = ticks(&stat(150, 1_050)).unwrap();
        assert_eq!(used(before, after), 500, "a quarter of two cores");
        assert_eq!(used(after, after), 0);
        assert_eq!(used(after, before), 0, "counters that went back");
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn caches_are_not_use() {
        let text = "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:  600 kB\n";
        assert_eq!(memory_used(text), 400 * 1_024);
        assert_eq!(memory_used(""), 0);
    }

    #[test]
    fn this_machine_uses_something() {
        let usage = NodeMeter::new("/".into()).measure();
        assert!(usage.memory_bytes > 0 && usage.disk_free_bytes > 0);
    }
}
