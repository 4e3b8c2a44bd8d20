//! System calls that rustix does not offer, or not in a form that is safe after `clone3`.
//!
//! Everything here is a thin wrapper; all of the crate's `unsafe` outside the init and the network
//! lies in this file. glibc's wrappers of `setgroups` and `setres*id` wait for other threads that
//! do not exist after a clone, so those go straight to the kernel.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `struct clone_args` of the kernel, its third version.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

pub(crate) struct Child {
    pub pid: u32,
    pub pidfd: OwnedFd,
}

/// Clones the calling process with the namespaces in `flags`. `None` in the child.
///
/// The caller must have one thread: the child continues with a copy of its memory, locks included.
pub(crate) fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Child>> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no shared memory and no stack are asked for, so this is a fork; `args` and `pidfd`
    // live through the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(None),
        // SAFETY: the kernel has just stored a new descriptor that nobody else owns.
        1.. => Ok(Some(Child { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
        _ => Err(io::Error::last_os_error()),
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An array of C strings as `execve` wants it; allocated before the clone.
pub(crate) struct StringArray {
    // The pointers point into `strings`, whose buffers do not move with the vector.
    strings: Vec<std::ffi::CString>,
    pointers: Vec<*const c_char>,
}

impl StringArray {
    pub fn new(strings: Vec<std::ffi::CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { strings, pointers }
    }

    pub fn len(&self) -> usize {
        self.strings.len()
    }
}

/// Executes the program in `fd`. Returns only the error.
pub(crate) fn exec_fd(fd: BorrowedFd<'_>, argv: &StringArray, envp: &StringArray) -> io::Error {
    debug_assert!(argv.len() > 0);
    // SAFETY: both arrays end in NULL and their strings live in the arrays.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// `struct mount_attr` of the kernel, its first version.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x4;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x8;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Adds attributes to a mount, and with `recursive` to those below it. None is taken away, so
/// it works on mounts whose flags are locked by a user namespace.
pub(crate) fn mount_restrict(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    mount_setattr(mount, &MountAttr { attr_set: set, ..MountAttr::default() }, recursive)
}

/// Shows the files of a detached mount under other owners, as `userns` maps them.
pub(crate) fn mount_idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        userns_fd: userns.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    mount_setattr(mount, &attr, false)
}

fn mount_setattr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: path and attributes live through the call, with the size we name.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
}

const AT_RECURSIVE: libc::c_int = 0x8000;

/// A user namespace and a cgroup namespace of our own, the last two of a sandbox.
pub(crate) fn unshare_users() -> io::Result<()> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: descriptors, memory and file system attributes stay shared.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWCGROUP) }?)
}

/// Acts as `owner`, with every capability that we had, so that the user namespace made next is his.
///
/// What is in a namespace takes of the kernel's stocks per user (inotify, queued signals and timers,
/// message queues, processes), and that is counted on the namespace's owner as well. Were it the
/// host's root, all sandboxes would draw on one stock, and the host with them.
pub(crate) fn act_as(owner: u32) -> io::Result<()> {
    const KEEP: libc::uid_t = libc::uid_t::MAX;
    // SAFETY: no pointers.
    done(unsafe { libc::syscall(libc::SYS_setresuid, KEEP, owner, KEEP) })?;
    // That emptied the effective set; some kernels let only the privileged make user namespaces.
    raise_capabilities()
}

/// The header of capability sets of 64 bits, for the calling process.
const CAPABILITIES_OF_SELF: [u32; 2] = [0x2008_0522, 0];

/// Makes effective what is permitted.
fn raise_capabilities() -> io::Result<()> {
    let header = CAPABILITIES_OF_SELF;
    let mut sets = [0u32; 6];
    // SAFETY: a version 3 header for ourselves and room for its three sets of two words.
    done(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) })?;
    // Effective, permitted, inheritable; first the lower halves, then the upper ones.
    (sets[0], sets[3]) = (sets[1], sets[4]);
    // SAFETY: as above; the sets are only read.
    done(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

/// The app's identity, without glibc's detour over all threads.
pub(crate) fn become_user(id: u32, drop_groups: bool) -> io::Result<()> {
    // SAFETY: no pointers but the empty list of groups.
    unsafe {
        if drop_groups {
            done(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        }
        done(libc::syscall(libc::SYS_setresgid, id, id, id))?;
        done(libc::syscall(libc::SYS_setresuid, id, id, id))
    }
}

/// Empties the bounding and ambient sets, then every other set of capabilities.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: no pointers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result < 0 {
            let error = io::Error::last_os_error();
            // The first number that this kernel does not know ends the list.
            if error.raw_os_error() == Some(libc::EINVAL) && capability > 0 {
                break;
            }
            return Err(error);
        }
    }
    // SAFETY: no pointers.
    done(
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }
            .into(),
    )?;
    let header = CAPABILITIES_OF_SELF;
    let sets = [0u32; 6];
    // SAFETY: a version 3 header for ourselves and its three sets of two words.
    done(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

/// No exec of this process or its children ever gains a privilege again.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

pub(crate) fn install_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let too_long = |_| io::Error::from_raw_os_error(libc::E2BIG);
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(too_long)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program outlives the call, which only reads it.
    done(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    })
}

/// Makes every descriptor from `first` on close at the next exec.
pub(crate) fn close_from_on_exec(first: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; nothing is closed now.
    done(unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
}

/// Puts `fd` at the fixed number `at`, kept over exec.
pub(crate) fn place(fd: BorrowedFd<'_>, at: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == at {
        // SAFETY: no pointers; a `dup2` onto itself would leave close-on-exec set.
        return done(unsafe { libc::fcntl(at, libc::F_SETFD, 0) }.into());
    }
    // SAFETY: the number is one of the init's, which nothing else in this process uses.
    done(unsafe { libc::dup3(fd.as_raw_fd(), at, 0) }.into())
}

/// A copy of `fd` at a number not below `least`, closed at exec.
pub(crate) fn duplicate_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    done(copy.into())?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Default dispositions, for ignored signals would stay ignored over exec, and a mask of just these.
pub(crate) fn reset_signals(blocked: &[i32]) {
    for signal in 1..=64 {
        // SAFETY: the default disposition is valid for every signal; those that cannot be set
        // are refused by the kernel.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: a set initialised by `sigemptyset` that lives through the calls.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        for signal in blocked {
            libc::sigaddset(&raw mut mask, *signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
    }
}

/// Brings loopback up in the namespace of the calling process.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero request is valid; the name is NUL-terminated by the zeroes behind it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as c_char;
        request.ifr_name[1] = b'o' as c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        done(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into())
    }
}

/// Leaves the process at once, without the destructors and buffers that belong to the parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

pub(crate) fn set_hostname(name: &CStr) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.to_bytes())?)
}

/// Sleeps until a signal comes.
pub(crate) fn pause() {
    // SAFETY: no pointers.
    unsafe { libc::pause() };
}

/// Bytes in a page of memory.
pub(crate) fn page_bytes() -> u64 {
    // SAFETY: no pointers.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4_096)
}
