//! The groups of one sandbox: made, limited, frozen, killed and removed.
//!
//! Which hierarchies exist is `layout`'s business; what the groups have counted is `usage`'s. Only
//! groups of our own are ever made, changed or removed.

mod layout;
mod usage;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use layout::{Layout, LayoutError};
pub use usage::Usage;

use crate::spec::Limits;

/// The kernel's usual accounting period; shorter ones cost more and longer ones stutter.
const CPU_PERIOD_USEC: u64 = 100_000;
/// Members of a group end asynchronously after their SIGKILL; a second is rare, this never seen.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Freezing takes a fraction of a millisecond unless a process sits in the kernel.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    V1,
    V2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    Memory,
    Cpu,
    /// Only version 1 counts and limits in two controllers.
    Cpuacct,
    Pids,
    /// Only version 1: version 2 freezes without a controller.
    Freezer,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Pids => "pids",
            Self::Freezer => "freezer",
        }
    }
}

/// One group in one hierarchy and what it is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub version: Version,
    pub controllers: Vec<Controller>,
    pub path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("{what} {path}")]
pub struct GroupError {
    pub what: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GroupError {
    let path = path.to_path_buf();
    move |source| GroupError { what, path, source }
}

impl Group {
    /// Makes the group with its limits; nothing is in it yet.
    pub(crate) fn create(&self, limits: &Limits) -> Result<(), GroupError> {
        let parent = self.parent();
        // Somebody may remove the empty parent between our two steps; then we make it again.
        for last in [false, false, true] {
            fs::create_dir_all(parent).map_err(failed("make the control group", parent))?;
            match fs::create_dir(&self.path) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !last => {}
                Err(error) => return Err(failed("make the control group", &self.path)(error)),
            }
        }
        // Only now, for with our group in it the parent stays: a new one would have no controllers.
        self.enable_above()?;
        for (file, value, needed) in self.settings(limits) {
            let path = self.path.join(file);
            match fs::write(&path, &value) {
                Ok(()) => {}
                Err(_) if !needed => {}
                Err(error) => return Err(failed("set", &path)(error)),
            }
        }
        Ok(())
    }

    fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Gives this group its controllers: it has only what each group above hands down. What is
    /// handed down already is let alone.
    fn enable_above(&self) -> Result<(), GroupError> {
        if self.version == Version::V1 || self.controllers.is_empty() {
            return Ok(());
        }
        // Until the parent hands a controller down too, nothing keeps systemd from taking it back at
        // the top, where no unit of its own may need it; then the next write finds none.
        for last in [false, false, true] {
            match self.hand_down_from_top() {
                Err(error) if error.source.kind() == io::ErrorKind::NotFound && !last => {}
                outcome => return outcome,
            }
        }
        Ok(())
    }

    fn hand_down_from_top(&self) -> Result<(), GroupError> {
        let above: Vec<&Path> = self
            .parent()
            .ancestors()
            .take_while(|group| group.join("cgroup.subtree_control").exists())
            .collect();
        above.into_iter().rev().try_for_each(|group| self.hand_down(group))
    }

    fn hand_down(&self, from: &Path) -> Result<(), GroupError> {
        let path = from.join("cgroup.subtree_control");
        let held = fs::read_to_string(&path).map_err(failed("read", &path))?;
        for controller in &self.controllers {
            if !held.split_ascii_whitespace().any(|name| name == controller.name()) {
                let value = format!("+{}", controller.name());
                fs::write(&path, value).map_err(failed("enable a controller in", &path))?;
            }
        }
        Ok(())
    }

    /// File, value, and whether going without it is an error.
    fn settings(&self, limits: &Limits) -> Vec<(&'static str, String, bool)> {
        // The init is one more process than the app knows of.
        let pids = (u64::from(limits.pids) + 1).to_string();
        let quota = u64::from(limits.cpu_milli) * CPU_PERIOD_USEC / 1_000;
        let memory = limits.memory_bytes.to_string();
        let mut settings = Vec::new();
        for controller in &self.controllers {
            match (self.version, controller) {
                (Version::V1, Controller::Memory) => {
                    settings.push(("memory.limit_in_bytes", memory.clone(), true));
                    // Absent where the kernel does not count swap.
                    settings.push(("memory.memsw.limit_in_bytes", memory.clone(), false));
                }
                (Version::V2, Controller::Memory) => {
                    settings.push(("memory.max", memory.clone(), true));
                    settings.push(("memory.swap.max", "0".into(), false));
                    settings.push(("memory.oom.group", "1".into(), false));
                }
                (Version::V1, Controller::Cpu) => {
                    settings.push(("cpu.cfs_period_us", CPU_PERIOD_USEC.to_string(), true));
                    settings.push(("cpu.cfs_quota_us", quota.to_string(), true));
                }
                (Version::V2, Controller::Cpu) => {
                    settings.push(("cpu.max", format!("{quota} {CPU_PERIOD_USEC}"), true));
                }
                (Version::V1 | Version::V2, Controller::Pids) => {
                    settings.push(("pids.max", pids.clone(), true));
                }
                (Version::V1 | Version::V2, Controller::Cpuacct | Controller::Freezer) => {}
            }
        }
        settings
    }

    /// A descriptor for `clone3`, which starts the child inside; only version 2 can.
    pub(crate) fn open(&self) -> Result<OwnedFd, GroupError> {
        Ok(fs::File::open(&self.path).map_err(failed("open", &self.path))?.into())
    }

    pub(crate) fn processes(&self) -> io::Result<Vec<u32>> {
        let text = match fs::read_to_string(self.path.join("cgroup.procs")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect())
    }

    /// Ends every member at once where the kernel can (5.14), and says whether it did.
    pub(crate) fn kill(&self) -> bool {
        self.version == Version::V2 && fs::write(self.path.join("cgroup.kill"), "1").is_ok()
    }

    pub(crate) fn can_freeze(&self) -> bool {
        self.version == Version::V2 || self.controllers.contains(&Controller::Freezer)
    }

    /// Returns when every member stands still, or runs again.
    pub(crate) fn set_frozen(&self, frozen: bool) -> Result<(), GroupError> {
        let (file, value, state, wanted) = match (self.version, frozen) {
            (Version::V2, true) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            (Version::V2, false) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
            (Version::V1, true) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
        };
        let path = self.path.join(file);
        let state = self.path.join(state);
        fs::write(&path, value).map_err(failed("set", &path))?;
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        loop {
            let text = fs::read_to_string(&state).map_err(failed("read", &state))?;
            if text.lines().any(|line| line == wanted) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(failed("wait for", &state)(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Removes the group, and the parent when this was the last in it. Waits for members to end.
    pub(crate) fn remove(&self) -> Result<(), GroupError> {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        let mut pause = Duration::from_micros(200);
        loop {
            match fs::remove_dir(&self.path) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    if Instant::now() > deadline {
                        return Err(failed("remove the control group", &self.path)(error));
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(error) => return Err(failed("remove the control group", &self.path)(error)),
            }
        }
        // Not empty is the usual case, and somebody else's removal is as good as ours.
        let _ = fs::remove_dir(self.parent());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(version: Version, controllers: &[Controller]) -> String {
        let group = Group { version, controllers: controllers.to_vec(), path: "/g".into() };
        let limits = Limits {
            memory_bytes: 268_435_456,
            cpu_milli: 500,
            pids: 100,
            nofile: 1024,
            tmp_bytes: 1 << 20,
            shm_bytes: 1 << 20,
        };
        let mut text = String::new();
        for (file, value, _) in group.settings(&limits) {
            text += &format!("{file}={value}\n");
        }
        text
    }

    #[test]
    fn controllers_are_handed_down_from_the_top_and_only_once() {
        let top = tempfile::tempdir().unwrap();
        let (above, parent) = (top.path().join("above"), top.path().join("above/ours"));
        fs::create_dir_all(&parent).unwrap();
        // Files stand in for the kernel's: what is written stays, so only the last line shows.
        fs::write(top.path().join("cgroup.subtree_control"), "cpu memory pids").unwrap();
        fs::write(above.join("cgroup.subtree_control"), "memory").unwrap();
        fs::write(parent.join("cgroup.subtree_control"), "").unwrap();
        let controllers = vec![Controller::Memory, Controller::Cpu];
        let group = Group { version: Version::V2, controllers, path: parent.join("id") };
        group.enable_above().unwrap();
        let shown = |dir: &Path| fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap();
        assert_eq!(shown(top.path()), "cpu memory pids", "not ours to change when it is there");
        assert_eq!(shown(&above), "+cpu");
        assert_eq!(shown(&parent), "+cpu");
    }

    #[test]
    fn limits_in_both_versions() {
        use Controller::{Cpu, Cpuacct, Freezer, Memory, Pids};
        assert_eq!(
            settings(Version::V1, &[Memory, Cpu, Cpuacct, Pids, Freezer]),
            "memory.limit_in_bytes=268435456\nmemory.memsw.limit_in_bytes=268435456\n\
             cpu.cfs_period_us=100000\ncpu.cfs_quota_us=50000\npids.max=101\n"
        );
        assert_eq!(
            settings(Version::V2, &[Memory, Cpu, Pids]),
            "memory.max=268435456\nmemory.swap.max=0\nmemory.oom.group=1\n\
             cpu.max=50000 100000\npids.max=101\n"
        );
    }
}
