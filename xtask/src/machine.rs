//! Facts about the machine: without them a measurement is a rumour.

use std::fs;

use anyhow::{Context, Result};

use crate::process;

/// Rust's name for this host, such as `x86_64-unknown-linux-gnu`.
pub fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = process::output(process::command(rustc).arg("-vV"))?;
    let said = String::from_utf8(said).context("read the output of rustc")?;
    let line = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc does not say its host")?.to_owned())
}

/// One line to stand above every table of figures.
pub fn facts() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = first_line("/proc/sys/kernel/osrelease");
    let processor = processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    let memory = memory_gib(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let load = first_line("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("unknown");
    format!("{cores} cores, {processor}, {memory}, Linux {kernel}, load {load}")
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn processor(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(": ")).map(|(_, name)| name.trim());
    name.unwrap_or("unknown processor").to_owned()
}

fn memory_gib(meminfo: &str) -> String {
    const KIB_PER_GIB: f64 = 1_048_576.0;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|n| n.parse().ok());
    match kib {
        Some(kib) => {
            let kib: f64 = kib;
            format!("{:.1} GiB", kib / KIB_PER_GIB)
        }
        None => "unknown memory".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_what_the_kernel_says() {
        assert_eq!(
            processor("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n"),
            "Some CPU @ 2 GHz"
        );
        assert_eq!(processor(""), "unknown processor");
        assert_eq!(memory_gib("MemTotal:       25165824 kB\n"), "24.0 GiB");
        assert_eq!(memory_gib("nothing"), "unknown memory");
    }
}
