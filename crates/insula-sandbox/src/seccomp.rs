//! Which system calls an app may make.
//!
//! An allow-list of the calls that ordinary programs use, after what container engines have found
//! workable, and narrower where that costs nothing. What is not listed is `EPERM`; calls that a C
//! library tries first and replaces when they are missing are `ENOSYS`. Another architecture's
//! calls end the process. Nothing here is about files or addresses: mounts, users and namespaces
//! decide those.

use std::collections::BTreeMap;

use libc::{EPERM, c_long, sock_filter};

use crate::filter::{Condition, Range, Verdict, assemble};

/// Numbers from here on are newer than the list; a libc must see that they are missing.
const FIRST_UNKNOWN: u32 = 463;
/// From here on numbers are those of x32, another way to make every call.
const FIRST_OF_X32: u32 = 0x4000_0000;

/// All flags of `clone` that make a namespace.
const CLONE_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32
    | 0x80; // CLONE_NEWTIME, which libc knows under another type.

/// Calls that are refused as if the kernel were too old for them. `clone3` hides its flags behind a
/// pointer, where no filter sees them, and `openat2` its mode; io_uring makes calls that no filter sees.
/// The older asynchronous calls (`io_setup` and its kin) draw on one stock for the whole machine, which
/// nothing divides, so that one app would take it from the host's databases; libraries do without.
const MISSING: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_openat2,
    libc::SYS_io_cancel,
    libc::SYS_io_destroy,
    libc::SYS_io_getevents,
    SYS_IO_PGETEVENTS,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// The C library has no name for it.
#[cfg(target_arch = "x86_64")]
const SYS_IO_PGETEVENTS: c_long = 333;
#[cfg(not(target_arch = "x86_64"))]
const SYS_IO_PGETEVENTS: c_long = 292;

/// The program that every app runs under.
pub(crate) fn compile() -> Vec<sock_filter> {
    assemble(&ranges(&verdicts()))
}

fn verdicts() -> BTreeMap<u32, Verdict> {
    let mut verdicts = BTreeMap::new();
    let mut set = |call: c_long, verdict: Verdict| {
        let call = u32::try_from(call).expect("numbers of calls are small");
        assert!(verdicts.insert(call, verdict).is_none(), "call {call} is listed twice");
    };
    for list in [FILES, PROCESSES, MEMORY, SIGNALS, TIME, SOCKETS, EVENTS, SYSTEM, OLD] {
        for call in list {
            set(*call, Verdict::Allow);
        }
    }
    for call in MISSING {
        set(*call, Verdict::Refuse(libc::ENOSYS));
    }
    let no_namespaces = Condition { argument: 0, mask: CLONE_NAMESPACES, value: 0 };
    set(libc::SYS_clone, Verdict::AllowIf(vec![vec![no_namespaces]]));
    set(libc::SYS_socket, socket());
    // The other families above make no pairs, and one of those not above does (AF_TIPC).
    set(libc::SYS_socketpair, Verdict::AllowIf(vec![vec![is(0, libc::AF_UNIX as u32)]]));
    for (call, mode) in SET_MODE {
        set(*call, Verdict::AllowIf(vec![vec![no_set_user(*mode)]]));
    }
    for (call, flags) in OPEN {
        let creates_none = Condition { argument: *flags, mask: CREATES, value: 0 };
        // Without a file to create the mode is whatever lay in the register.
        set(*call, Verdict::AllowIf(vec![vec![creates_none], vec![no_set_user(flags + 1)]]));
    }
    // Linux, 32 bit personalities and the question which one it is; with and without the flag
    // that compilers and debuggers use (no randomised addresses).
    let personalities = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0x0004_0000, 0xffff_ffff];
    let ways = personalities.map(|value| vec![is(0, value)]);
    set(libc::SYS_personality, Verdict::AllowIf(ways.to_vec()));
    verdicts
}

/// Unix, IPv4 and IPv6, and routing questions (`getifaddrs`). AF_VSOCK would reach the
/// hypervisor from any network namespace; AF_ALG, AF_PACKET and rare protocols are attack surface.
fn socket() -> Verdict {
    let mut ways = vec![
        vec![is(0, libc::AF_UNIX as u32)],
        vec![is(0, libc::AF_NETLINK as u32), is(2, libc::NETLINK_ROUTE as u32)],
    ];
    for (family, kind, protocol) in INTERNET {
        let kind = Condition { argument: 1, mask: SOCKET_KIND, value: *kind as u32 };
        ways.push(vec![is(0, *family as u32), kind, is(2, *protocol as u32)]);
    }
    Verdict::AllowIf(ways)
}

/// The type of a socket without the flags that stand in the same argument.
const SOCKET_KIND: u32 = 0xf;

/// TCP, UDP and ping, by name or as the type's default. The kernel would load others (MPTCP, UDP-Lite,
/// SCTP, DCCP) for whoever asks, and some of them by their type alone.
const INTERNET: &[(i32, i32, i32)] = &[
    (libc::AF_INET, libc::SOCK_STREAM, 0),
    (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP),
    (libc::AF_INET, libc::SOCK_DGRAM, 0),
    (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
    (libc::AF_INET6, libc::SOCK_STREAM, 0),
    (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP),
    (libc::AF_INET6, libc::SOCK_DGRAM, 0),
    (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6),
];

/// No set-user and no set-group bit. Inside they mean nothing, for every mount is `nosuid`; but what a
/// build writes to a folder of the host belongs to the host's root there.
fn no_set_user(argument: u8) -> Condition {
    Condition { argument, mask: libc::S_ISUID | libc::S_ISGID, value: 0 }
}

fn is(argument: u8, value: u32) -> Condition {
    Condition { argument, mask: u32::MAX, value }
}

/// Every number there is, in as few ranges as it takes.
fn ranges(verdicts: &BTreeMap<u32, Verdict>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let mut add = |first: u32, verdict: Verdict| {
        if ranges.last().is_none_or(|last| last.verdict != verdict) {
            ranges.push(Range { first, verdict });
        }
    };
    for number in 0..FIRST_UNKNOWN {
        add(number, verdicts.get(&number).cloned().unwrap_or(Verdict::Refuse(EPERM)));
    }
    add(FIRST_UNKNOWN, Verdict::Refuse(libc::ENOSYS));
    add(FIRST_OF_X32, Verdict::Refuse(EPERM));
    ranges
}

const FILES: &[c_long] = &[
    libc::SYS_chdir,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_ioctl,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lseek,
    libc::SYS_lsetxattr,
    libc::SYS_mkdirat,
    libc::SYS_name_to_handle_at,
    libc::SYS_newfstatat,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_removexattr,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_setxattr,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_tee,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_vmsplice,
    libc::SYS_write,
    libc::SYS_writev,
];

const PROCESSES: &[c_long] = &[
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_get_robust_list,
    libc::SYS_ioprio_get,
    libc::SYS_ioprio_set,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    // Since 4.8 a traced process cannot slip past its filter; the init cannot be traced.
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_seccomp,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setpgid,
    libc::SYS_setpriority,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setrlimit,
    libc::SYS_setsid,
    libc::SYS_setuid,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

const MEMORY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mlockall,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munlockall,
    libc::SYS_munmap,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    libc::SYS_process_mrelease,
    libc::SYS_remap_file_pages,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_shmget,
];

const SIGNALS: &[c_long] = &[
    libc::SYS_kill,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_tgkill,
    libc::SYS_tkill,
];

const TIME: &[c_long] = &[
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getitimer,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_setitimer,
    libc::SYS_times,
    libc::SYS_timer_create,
    libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_gettime,
    libc::SYS_timer_settime,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
];

const SOCKETS: &[c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

const EVENTS: &[c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_mq_getsetattr,
    libc::SYS_mq_notify,
    libc::SYS_mq_open,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_unlink,
    libc::SYS_msgctl,
    libc::SYS_msgget,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_semctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
];

const SYSTEM: &[c_long] =
    &[libc::SYS_getrandom, libc::SYS_rseq, libc::SYS_sysinfo, libc::SYS_uname];

/// `fchmodat2` has one number everywhere; older headers lack its name.
const SYS_FCHMODAT2: c_long = 452;

/// Flags of `open` with which the mode counts: `O_CREAT`, and `O_TMPFILE` without its `O_DIRECTORY`.
const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

/// Calls that give a file its mode, and the place of the mode among their arguments.
const SET_MODE: &[(c_long, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (SYS_FCHMODAT2, 2),
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
];

/// Calls that may create a file, and the place of their flags; the mode follows.
const OPEN: &[(c_long, u8)] = &[
    (libc::SYS_openat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
];

/// Calls that only x86_64 still has; their successors are listed above.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_alarm,
    libc::SYS_arch_prctl,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_fork,
    libc::SYS_futimesat,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_inotify_init,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_signalfd,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_vfork,
];

#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::tests::verdict;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | EPERM as u32;
    const NOT_THERE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    fn of(call: c_long, arguments: &[u64]) -> u32 {
        verdict(&compile(), call as u32, arguments)
    }

    #[test]
    fn the_program_says_what_the_lists_say() {
        let lists = [FILES, PROCESSES, MEMORY, SIGNALS, TIME, SOCKETS, EVENTS, SYSTEM, OLD];
        let mut conditional = vec![libc::SYS_clone, libc::SYS_personality];
        conditional.extend([libc::SYS_socket, libc::SYS_socketpair]);
        conditional.extend(SET_MODE.iter().chain(OPEN).map(|(call, _)| *call));
        let program = compile();
        for number in 0..700_u32 {
            let call = c_long::from(number);
            if conditional.contains(&call) {
                continue;
            }
            let expected = if lists.iter().any(|list| list.contains(&call)) {
                ALLOW
            } else if MISSING.contains(&call) || number >= FIRST_UNKNOWN {
                NOT_THERE
            } else {
                NOT_PERMITTED
            };
            assert_eq!(verdict(&program, number, &[]), expected, "{number}");
        }
        for number in [FIRST_OF_X32, FIRST_OF_X32 + 59, u32::MAX] {
            assert_eq!(verdict(&program, number, &[]), NOT_PERMITTED, "{number}");
        }
    }

    #[test]
    fn dangerous_calls_are_refused() {
        for call in [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_perf_event_open,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_mount_setattr,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_swapon,
            libc::SYS_reboot,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_open_by_handle_at,
            libc::SYS_pidfd_getfd,
            libc::SYS_settimeofday,
            libc::SYS_syslog,
        ] {
            assert_eq!(of(call, &[]), NOT_PERMITTED, "{call}");
        }
    }

    #[test]
    fn arguments_decide_where_the_call_alone_does_not() {
        let thread = 0x003d_0f00;
        assert_eq!(of(libc::SYS_clone, &[thread]), ALLOW);
        assert_eq!(of(libc::SYS_clone, &[17]), ALLOW);
        for bit in 0..32 {
            let flag = 1_u64 << bit;
            let makes_one = u64::from(CLONE_NAMESPACES) & flag != 0;
            let expected = if makes_one { NOT_PERMITTED } else { ALLOW };
            assert_eq!(of(libc::SYS_clone, &[flag]), expected, "{flag:#x}");
        }
        for family in 0..50_u64 {
            let expected = if [1, 2, 10, 16].contains(&family) { ALLOW } else { NOT_PERMITTED };
            assert_eq!(of(libc::SYS_socket, &[family, 1, 0]), expected, "{family}");
        }
        assert_eq!(of(libc::SYS_socket, &[16, 3, 12]), NOT_PERMITTED, "netfilter");
        for family in 0..50_u64 {
            let expected = if family == 1 { ALLOW } else { NOT_PERMITTED };
            assert_eq!(of(libc::SYS_socketpair, &[family, 1, 0]), expected, "{family}");
        }
        assert_eq!(of(libc::SYS_personality, &[0xffff_ffff]), ALLOW);
        assert_eq!(of(libc::SYS_personality, &[0x0040_0000]), NOT_PERMITTED);
    }

    #[test]
    fn the_internet_is_tcp_udp_and_ping() {
        let program = compile();
        let flags = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;
        for (family, ping) in [(2, 1), (10, 58)] {
            for kind in 0..16_u64 {
                for protocol in 0..300_u64 {
                    let known = match kind {
                        1 => [0, 6].contains(&protocol),
                        2 => [0, 17, ping].contains(&protocol),
                        _ => false,
                    };
                    let expected = if known { ALLOW } else { NOT_PERMITTED };
                    for kind in [kind, kind | flags] {
                        let arguments = [family, kind, protocol];
                        let found = verdict(&program, libc::SYS_socket as u32, &arguments);
                        assert_eq!(found, expected, "{family} {kind:#x} {protocol}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_file_becomes_a_set_user_program() {
        for (call, mode) in SET_MODE {
            let with = |value: u64| {
                let mut arguments = [0o6000; 6];
                arguments[usize::from(*mode)] = value;
                of(*call, &arguments)
            };
            assert_eq!(with(0o1777), ALLOW, "{call}");
            assert_eq!(with(0o4755), NOT_PERMITTED, "{call}");
            assert_eq!(with(0o2755), NOT_PERMITTED, "{call}");
        }
        for (call, flags) in OPEN {
            let with = |open: i32, mode: u64| {
                let mut arguments = [0; 6];
                arguments[usize::from(*flags)] = open as u64;
                arguments[usize::from(*flags) + 1] = mode;
                of(*call, &arguments)
            };
            assert_eq!(with(libc::O_RDONLY, 0o4755), ALLOW, "{call}: no file is made");
            assert_eq!(with(libc::O_CREAT | libc::O_RDWR, 0o755), ALLOW, "{call}");
            assert_eq!(with(libc::O_CREAT | libc::O_RDWR, 0o4755), NOT_PERMITTED, "{call}");
            assert_eq!(with(libc::O_TMPFILE | libc::O_RDWR, 0o2755), NOT_PERMITTED, "{call}");
            assert_eq!(with(libc::O_DIRECTORY, 0o4755), ALLOW, "{call}");
        }
    }

    #[test]
    fn the_program_stays_small() {
        // A tenth of what the kernel takes; each instruction is paid for at every start.
        assert!(compile().len() < 400, "{}", compile().len());
    }
}
