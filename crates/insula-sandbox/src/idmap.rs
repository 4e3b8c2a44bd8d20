//! Maps of user ids: those of a sandbox, and those that show files under other owners.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Signal;

use crate::sys;

/// The whole range of a sandbox, `0..count` inside.
pub(crate) fn write_range(pid: u32, base: u32, count: u32) -> io::Result<()> {
    let map = format!("0 {base} {count}\n");
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), &map)
}

/// One id inside for our own outside: all that an ordinary user may map.
pub(crate) fn write_single(pid: u32, inside: u32, user: u32, group: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("{inside} {user} 1\n"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{inside} {group} 1\n"))
}

/// Shows files that belong to 0 on disk as files of the app's user, and the other way round for
/// what he writes. The namespace that carries the map is made when it is first needed.
pub(crate) struct Owners {
    map: String,
    userns: Option<OwnedFd>,
}

impl Owners {
    pub fn new(base: u32, app: u32) -> Self {
        Self { map: owner_map(base, app), userns: None }
    }

    /// As `apply`, for a layer of an overlay: those can be mapped only since Linux 5.19.
    pub fn apply_to_layer(&mut self, mount: &OwnedFd) -> io::Result<bool> {
        let release = rustix::system::uname();
        let known = release.release().to_str().is_ok_and(|text| is_at_least(text, 5, 19));
        Ok(known && self.apply(mount)?)
    }

    /// False when the file system or the kernel cannot; the mount is unchanged then.
    pub fn apply(&mut self, mount: &OwnedFd) -> io::Result<bool> {
        let userns = match &self.userns {
            Some(userns) => userns,
            None => self.userns.insert(namespace(&self.map)?),
        };
        match sys::mount_idmap(mount.as_fd(), userns.as_fd()) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                // Not this file system, already mapped, or not this kernel.
                Some(libc::EINVAL | libc::EPERM | libc::ENOSYS | libc::EOPNOTSUPP) => Ok(false),
                _ => Err(error),
            },
        }
    }
}

/// Compares a release such as `6.1.0-25-amd64`.
fn is_at_least(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let found = (numbers.next().flatten().unwrap_or(0), numbers.next().flatten().unwrap_or(0));
    found >= (major, minor)
}

/// 0 on disk is the app's user; the app's number on disk is the sandbox's 0; the rest as it is. One
/// number beyond the range is the host's root: the kernel makes an overlay's own entries as that.
fn owner_map(base: u32, app: u32) -> String {
    let rest = crate::spec::UID_RANGE - app - 1;
    format!(
        "0 {} 1\n1 {} {}\n{app} {base} 1\n{} {} {rest}\n{} 0 1\n",
        base + app,
        base + 1,
        app - 1,
        app + 1,
        base + app + 1,
        crate::spec::UID_RANGE
    )
}

/// A user namespace with this map for users and groups, held by its descriptor alone.
fn namespace(map: &str) -> io::Result<OwnedFd> {
    let launcher = rustix::process::getpid();
    let Some(child) = sys::clone3(libc::CLONE_NEWUSER as u64, None)? else {
        // Waits for its end, and ends with the launcher.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        if rustix::process::getppid() != Some(launcher) {
            sys::exit_now(0);
        }
        loop {
            sys::pause();
        }
    };
    let result = (|| {
        fs::write(format!("/proc/{}/uid_map", child.pid), map)?;
        fs::write(format!("/proc/{}/gid_map", child.pid), map)?;
        File::open(format!("/proc/{}/ns/user", child.pid)).map(OwnedFd::from)
    })();
    let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
    let pidfd = rustix::process::WaitId::PidFd(child.pidfd.as_fd());
    let _ = rustix::process::waitid(pidfd, rustix::process::WaitIdOptions::EXITED);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_numbers_not_text() {
        for (release, expected) in [
            ("6.1.0-25-amd64", true),
            ("5.19.0", true),
            ("5.4.0-190-generic", false),
            ("5.15.153.1-microsoft-standard-WSL2", false),
            ("10.0-rc1", true),
            ("odd", false),
        ] {
            assert_eq!(is_at_least(release, 5, 19), expected, "{release}");
        }
    }

    #[test]
    fn the_owner_map_is_one_to_one() {
        let map = owner_map(1_000_000, 1000);
        assert_eq!(
            map,
            "0 1001000 1\n1 1000001 999\n1000 1000000 1\n1001 1001001 64535\n65536 0 1\n"
        );
    }
}
