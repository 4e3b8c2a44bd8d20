//! Does one step of building a root, in the child, in the new mount namespace.
//!
//! A thin shell around the kernel: what to do was decided in `root`. Runs after `clone3`, so a
//! step holds everything it needs.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};

use crate::sys;

/// A tree deeper than this is no app; walking it would need a descriptor per level.
const TREE_DEPTH_MAX: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Cuts the namespace off from the host's, mounts the new root and works in it from then on.
    Enter {
        path: CString,
        options: CString,
    },
    /// There may already be one.
    Dir {
        path: CString,
        mode: u32,
        owner: Option<u32>,
    },
    File {
        path: CString,
        contents: Vec<u8>,
    },
    Link {
        path: CString,
        target: CString,
    },
    Tmpfs {
        target: CString,
        options: CString,
        read_only: bool,
    },
    Bind {
        source: CString,
        target: CString,
        attributes: u64,
        recursive: bool,
    },
    /// Puts a mount that was made outside into its place.
    Attach {
        mount: usize,
        target: CString,
    },
    Proc {
        target: CString,
    },
    /// Wanted, but nothing breaks without it.
    Setting {
        path: CString,
        value: Vec<u8>,
    },
    Overlay {
        target: CString,
        options: CString,
    },
    /// Gives everything below to the app's user, where layers could not be shown as his.
    OwnTree {
        path: CString,
        owner: u32,
    },
    /// Takes a mount away and its folder with it.
    Leave {
        path: CString,
    },
    RemoveDir {
        path: CString,
    },
    /// Makes the new root the root and lets go of the old one.
    Pivot,
    /// Makes the root read-only; the mounts in it keep their own flags.
    SealRoot,
}

impl Step {
    pub fn run(&self, mounts: &[OwnedFd]) -> io::Result<()> {
        match self {
            Self::Enter { path, options } => enter(path, options),
            Self::Dir { path, mode, owner } => make_dir(path, *mode, *owner),
            Self::File { path, contents } => write_file(path, contents, OFlags::CREATE),
            Self::Link { path, target } => {
                Ok(rustix::fs::symlinkat(target.as_c_str(), CWD, path.as_c_str())?)
            }
            Self::Tmpfs { target, options, read_only } => {
                let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
                if *read_only {
                    flags |= MountFlags::RDONLY;
                }
                Ok(mount(c"tmpfs", target.as_c_str(), c"tmpfs", flags, options.as_c_str())?)
            }
            Self::Bind { source, target, attributes, recursive } => {
                let mount = detach(source, *recursive)?;
                sys::mount_restrict(mount.as_fd(), *attributes, *recursive)?;
                attach(&mount, target)
            }
            Self::Attach { mount, target } => attach(&mounts[*mount], target),
            Self::Proc { target } => {
                let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                Ok(mount(c"proc", target.as_c_str(), c"proc", flags, None::<&CStr>)?)
            }
            Self::Setting { path, value } => {
                let _ = write_file(path, value, OFlags::empty());
                Ok(())
            }
            Self::Overlay { target, options } => {
                let flags = MountFlags::NOSUID | MountFlags::NODEV;
                Ok(mount(c"overlay", target.as_c_str(), c"overlay", flags, options.as_c_str())?)
            }
            Self::OwnTree { path, owner } => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let top = rustix::fs::open(path.as_c_str(), flags, Mode::empty())?;
                own_tree(&top, *owner, 0)
            }
            Self::Leave { path } => {
                unmount(path.as_c_str(), UnmountFlags::DETACH)?;
                Ok(rustix::fs::unlinkat(CWD, path.as_c_str(), AtFlags::REMOVEDIR)?)
            }
            Self::RemoveDir { path } => {
                Ok(rustix::fs::unlinkat(CWD, path.as_c_str(), AtFlags::REMOVEDIR)?)
            }
            Self::Pivot => {
                // The old root lands on top of the new one and is taken away from there.
                rustix::process::pivot_root(c".", c".")?;
                unmount(c".", UnmountFlags::DETACH)?;
                Ok(rustix::process::chdir(c"/")?)
            }
            Self::SealRoot => {
                let flags =
                    MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
                Ok(mount_remount(c"/", flags, c"")?)
            }
        }
    }
}

fn enter(path: &CStr, options: &CStr) -> io::Result<()> {
    mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    mount(c"tmpfs", path, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options)?;
    Ok(rustix::process::chdir(path)?)
}

fn make_dir(path: &CStr, mode: u32, owner: Option<u32>) -> io::Result<()> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(owner) = owner {
        chown(CWD, path, owner)?;
    }
    Ok(())
}

fn write_file(path: &CStr, contents: &[u8], flags: OFlags) -> io::Result<()> {
    let flags = flags | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?;
    let mut rest = contents;
    while !rest.is_empty() {
        let count = rustix::io::write(&file, rest)?;
        rest = &rest[count..];
    }
    Ok(())
}

/// A copy of a mount that is attached nowhere yet.
pub(crate) fn detach(source: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, source, flags)?)
}

fn attach(mount: &OwnedFd, target: &CStr) -> io::Result<()> {
    Ok(move_mount(mount, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn chown(at: impl AsFd, name: &CStr, owner: u32) -> io::Result<()> {
    let (user, group) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(owner));
    Ok(rustix::fs::chownat(at, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn own_tree(folder: &OwnedFd, owner: u32, depth: usize) -> io::Result<()> {
    if depth > TREE_DEPTH_MAX {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    chown(folder, c".", owner)?;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            own_tree(&below, owner, depth + 1)?;
        } else {
            chown(folder, name, owner)?;
        }
    }
    Ok(())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |path: &CString| path.to_string_lossy().into_owned();
        match self {
            Self::Enter { path, .. } => write!(f, "mount the new root at {}", show(path)),
            Self::Dir { path, .. } => write!(f, "make the folder {}", show(path)),
            Self::File { path, .. } => write!(f, "write {}", show(path)),
            Self::Link { path, .. } => write!(f, "link {}", show(path)),
            Self::Tmpfs { target, .. } => write!(f, "mount memory at {}", show(target)),
            Self::Bind { source, target, .. } => {
                write!(f, "bind {} at {}", show(source), show(target))
            }
            Self::Attach { target, .. } => write!(f, "attach {}", show(target)),
            Self::Proc { target } => write!(f, "mount {}", show(target)),
            Self::Setting { path, .. } => write!(f, "set {}", show(path)),
            Self::Overlay { target, options } => {
                write!(f, "mount the layers ({}) at {}", show(options), show(target))
            }
            Self::OwnTree { path, .. } => write!(f, "give {} to the app's user", show(path)),
            Self::Leave { path } => write!(f, "unmount {}", show(path)),
            Self::RemoveDir { path } => write!(f, "remove {}", show(path)),
            Self::Pivot => f.write_str("change the root"),
            Self::SealRoot => f.write_str("make the root read-only"),
        }
    }
}
