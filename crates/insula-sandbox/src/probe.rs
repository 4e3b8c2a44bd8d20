//! Says what this machine lets a sandbox enforce, line by line and with the fix: for `doctor`.
//!
//! Part is read from settings, part is tried in the launcher, because only a try tells whether a
//! security module stands in the way.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::cgroup::Layout;
use crate::idmap;
use crate::launcher::HIDDEN_ARGUMENT;
use crate::spec::{APP_UID, Mode, UID_BASE_MIN};
use crate::{step, sys};

/// One thing that a sandbox should enforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    pub name: String,
    pub enforced: bool,
    /// Without this no sandbox can be started in this mode.
    pub required: bool,
    pub detail: String,
    /// What to do about it; empty when it is enforced.
    pub fix: String,
}

impl Capability {
    fn yes(name: &str, detail: impl Into<String>) -> Self {
        let (name, detail) = (name.to_owned(), detail.into());
        Self { name, enforced: true, required: false, detail, fix: String::new() }
    }

    fn no(name: &str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        let (name, detail, fix) = (name.to_owned(), detail.into(), fix.into());
        Self { name, enforced: false, required: false, detail, fix }
    }

    fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

pub(crate) fn launcher_failed(error: &io::Error) -> Capability {
    Capability::no(
        "launcher",
        error.to_string(),
        format!("the program must answer `{HIDDEN_ARGUMENT}`"),
    )
    .required()
}

/// The whole report: what the launcher tried and what follows from the mode.
pub(crate) fn report(
    mode: Mode,
    layout: Option<&Layout>,
    tried: Vec<Capability>,
) -> Vec<Capability> {
    const AS_ROOT: &str = "run as root";
    let mut lines = tried;
    match (mode, layout) {
        (Mode::Root, Some(layout)) => {
            lines.push(Capability::yes("limits", layout.describe()));
            lines.push(Capability::yes("network", "a namespace of its own per instance"));
            lines.push(Capability::yes("users", "host ids of its own per instance"));
            lines.push(Capability::yes("pause", "the control group freezer"));
        }
        (Mode::Root, None) | (Mode::User, _) => {
            lines.push(Capability::no("limits", "memory, cpu and pids are not limited", AS_ROOT));
            lines.push(Capability::no(
                "network",
                "apps share the host's network and may reach it",
                AS_ROOT,
            ));
            lines.push(Capability::no("users", "apps run as your own user outside", AS_ROOT));
            lines.push(Capability::no("pause", "instances cannot be paused", AS_ROOT));
        }
    }
    lines
}

/// Runs in the launcher, which has one thread.
pub(crate) fn attempt(mode: Mode, scratch: &Path) -> Vec<Capability> {
    let mut lines = vec![namespaces(mode), filter()];
    match mode {
        Mode::Root => lines.push(owners(scratch)),
        Mode::User => lines.push(folders()),
    }
    lines
}

/// A user's overlay marks a removed folder by a `user.` attribute, which files in memory did not
/// always have.
fn folders() -> Capability {
    use rustix::fs::{MemfdFlags, XattrFlags, fsetxattr, memfd_create};
    const NAME: &str = "removed folders";
    // Any file in memory tells of all of them.
    let tried = memfd_create(c"insula-probe", MemfdFlags::CLOEXEC)
        .and_then(|file| fsetxattr(&file, c"user.overlay.opaque", b"y", XattrFlags::empty()));
    match tried {
        Ok(()) => Capability::yes(NAME, "an app may remove folders of its own code"),
        Err(error) => Capability::no(
            NAME,
            format!("an app cannot remove or rename folders of its own code ({error})"),
            "use Linux 6.6 or newer, or run as root",
        ),
    }
}

fn filter() -> Capability {
    let available = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    match available {
        Ok(_) => Capability::yes("system calls", "an allow-list of system calls"),
        Err(_) => Capability::no(
            "system calls",
            "the kernel has no seccomp filters",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
    .required()
}

fn owners(scratch: &Path) -> Capability {
    use std::os::unix::ffi::OsStrExt;
    let tried = std::ffi::CString::new(scratch.as_os_str().as_bytes())
        .map_err(io::Error::from)
        .and_then(|path| step::detach(&path, false))
        .and_then(|mount| idmap::Owners::new(UID_BASE_MIN, APP_UID).apply(&mount));
    match tried {
        Ok(true) => Capability::yes("file owners", "mapped per instance"),
        Ok(false) => Capability::no(
            "file owners",
            format!(
                "the file system of {} cannot map owners; layers are changed instead",
                scratch.display()
            ),
            "keep the data folder on ext4, xfs or btrfs with Linux 5.19 or newer: starts are faster",
        ),
        Err(error) => {
            Capability::no("file owners", error.to_string(), "run as root, outside a container")
        }
    }
}

/// Makes the namespaces of a sandbox and mounts something in them.
fn namespaces(mode: Mode) -> Capability {
    let detail = match mode {
        Mode::Root => "mounts, processes, users, network",
        Mode::User => "mounts, processes, users",
    };
    match try_namespaces(mode) {
        Ok(()) => Capability::yes("namespaces", detail),
        Err(error) => {
            let (reason, fix) = explain(mode, &Settings::read());
            Capability::no("namespaces", format!("{reason} ({error})"), fix)
        }
    }
    .required()
}

fn try_namespaces(mode: Mode) -> io::Result<()> {
    let shared = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    let flags = match mode {
        Mode::Root => shared | libc::CLONE_NEWNET,
        Mode::User => shared | libc::CLONE_NEWUSER,
    };
    let (go_read, go_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let Some(child) = sys::clone3(flags as u64, None)? else {
        drop(go_write);
        let mut word = [0; 1];
        let told = rustix::io::read(&go_read, &mut word);
        let code = match told {
            Ok(1) => isolate(mode).map_or_else(|e| e.raw_os_error().unwrap_or(1), |()| 0),
            _ => libc::ECANCELED,
        };
        sys::exit_now(code)
    };
    let mapped = match mode {
        Mode::Root => Ok(()),
        Mode::User => {
            let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
            idmap::write_single(child.pid, APP_UID, user.as_raw(), group.as_raw())
        }
    };
    match &mapped {
        Ok(()) => drop(rustix::io::write(&go_write, b"g")),
        Err(_) => drop(rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL)),
    }
    let pidfd = rustix::process::WaitId::PidFd(child.pidfd.as_fd());
    let status = rustix::process::waitid(pidfd, rustix::process::WaitIdOptions::EXITED)?;
    mapped?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("the trial process was killed")),
    }
}

fn isolate(mode: Mode) -> io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    mount(c"tmpfs", c"/tmp", c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"size=4096")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"proc", c"/proc", c"proc", flags, None::<&std::ffi::CStr>)?;
    match mode {
        Mode::Root => sys::unshare_users(),
        Mode::User => Ok(()), // It began in one.
    }
}

/// What may switch user namespaces off.
#[derive(Debug, Default)]
struct Settings {
    userns_clone: Option<String>,
    max_user_namespaces: Option<String>,
    apparmor_restrict: Option<String>,
}

impl Settings {
    fn read() -> Self {
        let read = |name: &str| {
            let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        Self {
            userns_clone: read("kernel/unprivileged_userns_clone"),
            max_user_namespaces: read("user/max_user_namespaces"),
            apparmor_restrict: read("kernel/apparmor_restrict_unprivileged_userns"),
        }
    }
}

/// Why namespaces cannot be made, and what to do. Pure.
fn explain(mode: Mode, settings: &Settings) -> (String, String) {
    let is = |value: &Option<String>, wanted: &str| value.as_deref() == Some(wanted);
    let (reason, fix) = if is(&settings.max_user_namespaces, "0") {
        ("no user namespaces are allowed", "sysctl -w user.max_user_namespaces=10000")
    } else if mode == Mode::Root {
        ("this root may not make namespaces, as in a container", "run outside a container")
    } else if is(&settings.userns_clone, "0") {
        ("user namespaces are switched off", "sysctl -w kernel.unprivileged_userns_clone=1")
    } else if is(&settings.apparmor_restrict, "1") {
        (
            "AppArmor restricts user namespaces of ordinary programs",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with \
             `userns,` for this program",
        )
    } else {
        ("the kernel refuses namespaces to this user", "run as root, or outside a container")
    };
    (reason.into(), fix.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_has_its_fix() {
        let on = || Some("1".to_owned());
        let off = || Some("0".to_owned());
        let explained = |settings: Settings| explain(Mode::User, &settings).1;
        let debian = Settings { userns_clone: off(), ..Settings::default() };
        assert!(explained(debian).contains("unprivileged_userns_clone=1"));
        let none =
            Settings { userns_clone: on(), max_user_namespaces: off(), ..Settings::default() };
        assert!(explained(none).contains("max_user_namespaces"));
        let ubuntu = Settings { apparmor_restrict: on(), ..Settings::default() };
        assert!(explained(ubuntu).contains("apparmor"));
        assert!(explained(Settings::default()).contains("root"));
    }
}
