//! Proves the sandbox on a machine of another kind: Debian with systemd and control groups of
//! version 2 alone, on the distribution's kernel, whatever this machine has.
//!
//! The machine is emulated in software, because KVM is missing where CI runs: it is slow, and so this
//! is no part of `cargo xtask test`. Here is how it starts and what its console said; `image` makes
//! its disk, the scripts beside run inside.

mod image;
mod verdict;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// Four times what it takes on two busy cores; beyond it the guest hangs.
const GUEST_TIMEOUT: Duration = Duration::from_secs(8 * 60);
/// The largest test fills 200 MB; the rest is the system's.
const GUEST_MEMORY_MIB: &str = "1536";
/// Races need two.
const GUEST_CORES: &str = "2";

/// A folder in the form of an unpacked kernel package, instead of this machine's own `/`.
const KERNEL_VARIABLE: &str = "INSULA_GUEST_KERNEL";

/// A program that we start, and the package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/busybox", "busybox-static"),
    ("/usr/bin/cpio", "cpio"),
    ("/usr/sbin/mke2fs", "e2fsprogs"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/bin/dpkg-query", "dpkg"),
    ("/usr/bin/apt-cache", "apt"),
    ("/usr/lib/systemd/systemd", "systemd-sysv"),
    ("/usr/bin/dbus-daemon", "dbus"),
    ("/usr/bin/python3", "python3"),
];
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

pub fn cgroup_v2() -> Result<()> {
    let kernel = kernel();
    let missing = missing(kernel.is_some(), |file| Path::new(file).exists());
    let Some(kernel) = kernel.filter(|_| missing.is_empty()) else {
        bail!(
            "missing packages: apt-get install --no-install-recommends {}{}",
            missing.join(" "),
            if missing.contains(&KERNEL_PACKAGE) {
                format!(" (or unpack that one somewhere and name the folder in {KERNEL_VARIABLE})")
            } else {
                String::new()
            },
        );
    };
    println!("guest: Linux {}, {GUEST_CORES} emulated cores", kernel.version);
    let root = process::root();
    let ours = image::Ours {
        tests: built(&["test", "--package", "insula-sandbox", "--test", "it", "--no-run"], "it")?,
        binary: built(&["build", "--package", "insula", "--bin", "insula"], "insula")?,
        operators: root.join("docs/operators.md"),
        app: root.join("examples/python"),
    };
    let dir = Scratch::new()?;
    let image = image::make(&dir.path, &kernel, &ours)?;
    let mut guest = Guest::boot(&kernel, &image)?;
    let console = guest.watch(GUEST_TIMEOUT)?;
    verdict::judge(&console)
}

/// The kernel to boot and its modules.
pub struct Kernel {
    pub version: String,
    pub image: PathBuf,
    pub modules: PathBuf,
}

fn kernel() -> Option<Kernel> {
    let root = std::env::var_os(KERNEL_VARIABLE).map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join("boot")).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(version) = name.strip_prefix("vmlinuz-") else { continue };
        let modules = root.join("lib/modules").join(version);
        if modules.join("kernel").is_dir() {
            found.push(Kernel { version: version.to_owned(), image: entry.path(), modules });
        }
    }
    found.into_iter().max_by(|a, b| a.version.cmp(&b.version))
}

fn missing(kernel: bool, exists: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut missing: Vec<_> =
        PROGRAMS.iter().filter(|(file, _)| !exists(file)).map(|(_, package)| *package).collect();
    if !kernel {
        missing.push(KERNEL_PACKAGE);
    }
    missing
}

/// Has cargo build a program, and says where it is.
fn built(words: &[&str], name: &str) -> Result<PathBuf> {
    let said = process::output(process::cargo().args(words).args([
        "--message-format",
        "json",
        "--quiet",
    ]))?;
    for line in String::from_utf8_lossy(&said).lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("hear from cargo")?;
        if let (true, Some(file)) =
            (message["target"]["name"] == name, message["executable"].as_str())
        {
            return Ok(file.into());
        }
    }
    bail!("cargo built no `{name}`")
}

/// A folder that goes when we go.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("insula-guest-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is a file of a temporary folder, and the outcome is known by now.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

struct Guest {
    child: Child,
    console: Option<ChildStdout>,
}

impl Guest {
    fn boot(kernel: &Kernel, image: &image::Image) -> Result<Self> {
        let drive = format!("file={},format=raw,if=virtio", image.disk.display());
        // Nothing is reached from here and nothing gets in: no network, no monitor.
        let mut child = process::command("nice")
            .args(["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-nodefaults", "-nic", "none", "-display", "none", "-monitor", "none"])
            .args(["-serial", "stdio", "-no-reboot"])
            .args(["-m", GUEST_MEMORY_MIB, "-smp", GUEST_CORES, "-drive", &drive])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&image.initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 systemd.unit=proof.target"])
            .stdout(Stdio::piped())
            .spawn()
            .context("start qemu-system-x86_64")?;
        let console = child.stdout.take();
        Ok(Self { child, console })
    }

    /// Shows the console while it speaks, and returns all that it said.
    fn watch(&mut self, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        let console = self.console.take().context("the console is watched once")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut said = String::new();
        loop {
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    println!("  | {line}");
                    said += &line;
                    said.push('\n');
                }
                // The console closes with the machine.
                Err(RecvTimeoutError::Disconnected) => return Ok(said),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest was still busy after {} s", patience.as_secs())
                }
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_by_its_package() {
        assert_eq!(missing(true, |_| true), Vec::<&str>::new());
        let some = missing(false, |file| !file.contains("qemu"));
        assert_eq!(some, ["qemu-system-x86", "linux-image-cloud-amd64"]);
    }
}
