//! Says whether a process that was written down is still that process.
//!
//! Numbers of processes are used again. A recorded one counts only together with the moment at
//! which it started and the boot in which that was.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process for ever, not a number for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub start_ticks: u64,
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The identity of a process that exists now.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start_ticks: start_ticks(pid)?, boot_id: boot_id()? })
    }

    /// A descriptor of exactly this process, or `None` when it is gone.
    pub fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        if boot_id()? != self.boot_id {
            return Ok(None);
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The descriptor came first: from now on the number cannot mean another process unnoticed.
        match start_ticks(self.pid) {
            Ok(ticks) if ticks == self.start_ticks => {}
            Ok(_) => return Ok(None),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok((!has_ended(&pidfd, 0)?).then_some(pidfd))
    }

    pub fn is_alive(&self) -> io::Result<bool> {
        Ok(self.pidfd()?.is_some())
    }
}

/// Waits up to `timeout_ms` for the end of the process behind `pidfd`; a zombie has ended.
pub(crate) fn has_ended(pidfd: impl AsFd, timeout_ms: u64) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(timeout_ms);
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn start_ticks(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat)
        .map(|stat| stat.start_ticks)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc stat line"))
}

/// The process ended between two looks.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

pub(crate) struct Stat {
    pub parent: u32,
    pub start_ticks: u64,
    pub cpu_ticks: u64,
    pub rss_pages: u64,
}

/// The name in field 2 is the process's own choice: anything up to the last `)` may be in it.
pub(crate) fn parse_stat(line: &[u8]) -> Option<Stat> {
    let end = line.iter().rposition(|b| *b == b')')?;
    let fields: Vec<&str> =
        std::str::from_utf8(&line[end + 1..]).ok()?.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3);
    Some(Stat {
        parent: field(4)?.parse().ok()?,
        cpu_ticks: field(14)?.parse::<u64>().ok()? + field(15)?.parse::<u64>().ok()?,
        start_ticks: field(22)?.parse().ok()?,
        rss_pages: field(24)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_forge_its_line_by_its_name() {
        let line = b"7 (a) 1 2 (b) S 5 6 7 8 9 0 1 2 3 4 30 12 0 0 20 0 1 0 4242 1000 33 9\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            (stat.parent, stat.start_ticks, stat.cpu_ticks, stat.rss_pages),
            (5, 4242, 42, 33)
        );
    }

    #[test]
    fn another_start_or_boot_is_another_process() {
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(me.is_alive().unwrap());
        let later = ProcessIdentity { start_ticks: me.start_ticks + 1, ..me.clone() };
        assert!(!later.is_alive().unwrap());
        let reboot = ProcessIdentity { boot_id: "other".into(), ..me };
        assert!(!reboot.is_alive().unwrap());
    }
}
