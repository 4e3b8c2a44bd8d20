//! What the keeper reads of a sandbox: who its init is, and how it ended.
//!
//! It reads only the fields that it needs, so that a keeper goes on serving sandboxes whose other
//! fields a newer build has changed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;

use super::contract::{ContractError, Exit};

/// A process for ever, not a number for now.
#[derive(Debug, Deserialize)]
pub(crate) struct Process {
    pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    start_ticks: u64,
    boot_id: String,
}

#[derive(Debug, Deserialize)]
struct Record {
    init: Option<Process>,
}

/// The init of the sandbox in `dir`; `None` while it is being made.
pub(crate) fn init(dir: &Path) -> Result<Option<Process>, ContractError> {
    let path = dir.join("record.json");
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Record>(&bytes)
            .map(|record| record.init)
            .map_err(|source| ContractError::Foreign { path, source: Some(source) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ContractError::Read { path, source }),
    }
}

impl Process {
    /// A descriptor of exactly this process, or `None` when it has ended.
    pub(crate) fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| boot_id.trim() == self.boot_id) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The descriptor came first: from now on the number cannot mean another process unnoticed.
        let ticks = match std::fs::read(format!("/proc/{}/stat", self.pid)) {
            Ok(stat) => start_ticks(&stat),
            Err(_) => None,
        };
        if ticks != Some(self.start_ticks) {
            return Ok(None);
        }
        // A zombie has ended, too.
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now))? > 0;
        Ok((!ended).then_some(pidfd))
    }
}

/// The name in field 2 is the process's own choice: anything up to the last `)` may be in it.
fn start_ticks(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// Layout of the exit file, version 1; see the init of `insula-sandbox`.
const EXIT_BYTES: usize = 64;
const EXIT_MAGIC: &[u8; 8] = b"INSULAEX";
const EXIT_VERSION: u8 = 1;

/// How the app ended, if its init could say so, and the bytes that the init dropped unread.
pub(crate) fn exit(dir: &Path) -> Result<(Option<Exit>, u64), ContractError> {
    let path = dir.join("exit");
    match std::fs::read(&path) {
        Ok(bytes) => decode(&bytes).ok_or(ContractError::Foreign { path, source: None }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((None, 0)),
        Err(source) => Err(ContractError::Read { path, source }),
    }
}

fn decode(bytes: &[u8]) -> Option<(Option<Exit>, u64)> {
    if bytes.len() != EXIT_BYTES || !bytes.starts_with(EXIT_MAGIC) || bytes[8] != EXIT_VERSION {
        return None;
    }
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    };
    let value = i32::from_le_bytes(bytes[12..16].try_into().ok()?);
    let exit = match bytes[9] {
        0 => None,
        1 => Some(Exit::Code(value as u8)),
        2 => Some(Exit::Signal(value)),
        3 => Some(Exit::NotStarted { errno: value }),
        _ => return None,
    };
    Some((exit, word(24)?.saturating_add(word(32)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_forge_its_line_by_its_name() {
        let stat = b"7 (a) 1 2 (b) S 5 6 7 8 9 0 1 2 3 4 30 12 0 0 20 0 1 0 4242 1000 33 9\n";
        assert_eq!(start_ticks(stat), Some(4242));
    }

    #[test]
    fn another_start_or_boot_is_another_process() {
        let stat = std::fs::read("/proc/self/stat").unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let me = |ticks: u64, boot: &str| Process {
            pid: i32::try_from(std::process::id()).unwrap(),
            start_ticks: ticks,
            boot_id: boot.to_owned(),
        };
        let ticks = start_ticks(&stat).unwrap();
        assert!(me(ticks, boot.trim()).pidfd().unwrap().is_some());
        assert!(me(ticks + 1, boot.trim()).pidfd().unwrap().is_none());
        assert!(me(ticks, "another").pidfd().unwrap().is_none());
    }
}
