//! The system calls of the init, each in a safe wrapper; no libc underneath.
//!
//! Numbers and structures are the kernel's for x86_64 and aarch64.

use core::arch::{asm, global_asm};

pub const SIGKILL: i32 = 9;
pub const SIGCHLD: i32 = 17;
pub const SIGWINCH: i32 = 28;

pub const ENOENT: i32 = 2;
pub const EINTR: i32 = 4;
pub const EACCES: i32 = 13;
pub const ENOTDIR: i32 = 20;

const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
const SIGSET_BYTES: usize = 8;
const PR_SET_DUMPABLE: usize = 4;
const O_CLOEXEC: usize = 0o2000000;
const F_GETPIPE_SZ: usize = 1032;
const FIONREAD: usize = 0x541b;
const POLLOUT: i16 = 4;
const WNOHANG: usize = 1;
const CLOCK_REALTIME: usize = 0;
const CLOCK_MONOTONIC: usize = 1;

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const PWRITE64: usize = 18;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const FCNTL: usize = 72;
    pub const SETSID: usize = 112;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
    pub const CLOCK_GETTIME: usize = 228;
    pub const EXIT_GROUP: usize = 231;
    pub const PPOLL: usize = 271;
    pub const PIPE2: usize = 293;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub const FCNTL: usize = 25;
    pub const IOCTL: usize = 29;
    pub const CLOSE: usize = 57;
    pub const PIPE2: usize = 59;
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const PWRITE64: usize = 68;
    pub const PPOLL: usize = 73;
    pub const EXIT_GROUP: usize = 94;
    pub const CLOCK_GETTIME: usize = 113;
    pub const KILL: usize = 129;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const SETSID: usize = 157;
    pub const PRCTL: usize = 167;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
}

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call init_main",
    "ud2",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "and sp, x0, #-16",
    "bl init_main",
    "brk #1",
);

/// # Safety
/// The arguments must be what the system call `number` expects; pointers must be valid for it.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, args: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; rcx and r11 are all it clobbers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// # Safety
/// The arguments must be what the system call `number` expects; pointers must be valid for it.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, args: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; only x0 changes.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            options(nostack),
        );
    }
    result
}

fn checked(result: isize) -> Result<usize, i32> {
    if result < 0 { Err(-result as i32) } else { Ok(result as usize) }
}

pub struct SignalSet(u64);

pub fn forbid_dumping() {
    // SAFETY: no pointers.
    unsafe { call(nr::PRCTL, [PR_SET_DUMPABLE, 0, 0, 0, 0]) };
}

/// Blocks `signals`, so that they wait for `wait_signal`, even those a first process would ignore.
pub fn block(signals: &[i32]) -> SignalSet {
    let mut set = 0u64;
    for signal in signals {
        set |= 1 << (signal - 1);
    }
    // SAFETY: `set` lives through the call and has the size we name.
    unsafe { call(nr::RT_SIGPROCMASK, [SIG_BLOCK, &raw const set as usize, 0, SIGSET_BYTES, 0]) };
    SignalSet(set)
}

pub fn unblock_all() {
    let set = 0u64;
    // SAFETY: `set` lives through the call and has the size we name.
    unsafe { call(nr::RT_SIGPROCMASK, [SIG_SETMASK, &raw const set as usize, 0, SIGSET_BYTES, 0]) };
}

/// The next pending signal of the set, or `None` when the time is over.
pub fn wait_signal(set: &SignalSet, timeout_ns: u64) -> Option<i32> {
    let timeout = [(timeout_ns / 1_000_000_000) as i64, (timeout_ns % 1_000_000_000) as i64];
    // SAFETY: set and time live through the call; the information about the sender is not wanted.
    let result = unsafe {
        call(
            nr::RT_SIGTIMEDWAIT,
            [&raw const set.0 as usize, 0, timeout.as_ptr() as usize, SIGSET_BYTES, 0],
        )
    };
    if result > 0 { Some(result as i32) } else { None }
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: no pointers.
    unsafe { call(nr::KILL, [pid as usize, signal as usize, 0, 0, 0]) };
}

pub fn fork() -> Result<i32, i32> {
    // SAFETY: no shared memory and no stack of its own: a plain fork.
    checked(unsafe { call(nr::CLONE, [SIGCHLD as usize, 0, 0, 0, 0]) }).map(|pid| pid as i32)
}

pub fn new_session() {
    // SAFETY: no arguments.
    unsafe { call(nr::SETSID, [0; 5]) };
}

/// Returns only when it failed, with the error.
///
/// # Safety
/// `path` must be NUL-terminated; both arrays must end in NULL and hold NUL-terminated strings.
pub unsafe fn exec(path: *const u8, argv: *const *const u8, envp: *const *const u8) -> i32 {
    // SAFETY: the caller's promise.
    -unsafe { call(nr::EXECVE, [path as usize, argv as usize, envp as usize, 0, 0]) } as i32
}

/// A child that has ended and its status, if there is one.
pub fn wait_any() -> Waited {
    let mut status = 0i32;
    // SAFETY: `status` lives through the call.
    let pid =
        unsafe { call(nr::WAIT4, [-1isize as usize, &raw mut status as usize, WNOHANG, 0, 0]) };
    match pid {
        0 => Waited::NobodyEnded,
        pid if pid > 0 => Waited::Ended { pid: pid as i32, status },
        // The only failure that can be: there is nobody to wait for.
        _ => Waited::NobodyLeft,
    }
}

pub enum Waited {
    Ended { pid: i32, status: i32 },
    NobodyEnded,
    NobodyLeft,
}

pub fn pipe_cloexec() -> Result<(i32, i32), i32> {
    let mut fds = [0i32; 2];
    // SAFETY: room for the two descriptors.
    checked(unsafe { call(nr::PIPE2, [fds.as_mut_ptr() as usize, O_CLOEXEC, 0, 0, 0]) })?;
    Ok((fds[0], fds[1]))
}

pub fn close(fd: i32) {
    // SAFETY: no pointers; descriptors are only closed by those who opened them.
    unsafe { call(nr::CLOSE, [fd as usize, 0, 0, 0, 0]) };
}

pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the kernel writes within the buffer.
    checked(unsafe {
        call(nr::READ, [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0])
    })
}

pub fn write(fd: i32, bytes: &[u8]) {
    // SAFETY: the kernel reads within the bytes.
    unsafe { call(nr::WRITE, [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0]) };
}

pub fn write_at(fd: i32, offset: usize, bytes: &[u8]) {
    // SAFETY: the kernel reads within the bytes.
    unsafe { call(nr::PWRITE64, [fd as usize, bytes.as_ptr() as usize, bytes.len(), offset, 0]) };
}

pub fn pipe_capacity(fd: i32) -> usize {
    // SAFETY: no pointers.
    checked(unsafe { call(nr::FCNTL, [fd as usize, F_GETPIPE_SZ, 0, 0, 0]) }).unwrap_or(65_536)
}

pub fn readable_bytes(fd: i32) -> usize {
    let mut count = 0i32;
    // SAFETY: the kernel writes one i32.
    unsafe { call(nr::IOCTL, [fd as usize, FIONREAD, &raw mut count as usize, 0, 0]) };
    if count > 0 { count as usize } else { 0 }
}

pub fn is_writable(fd: i32) -> bool {
    #[repr(C)]
    struct PollFd {
        fd: i32,
        events: i16,
        revents: i16,
    }
    let mut poll = PollFd { fd, events: POLLOUT, revents: 0 };
    let now = [0i64; 2];
    // SAFETY: one entry, a time, no signal mask; all live through the call.
    unsafe { call(nr::PPOLL, [&raw mut poll as usize, 1, now.as_ptr() as usize, 0, 0]) };
    poll.revents & POLLOUT != 0
}

pub fn monotonic_ns() -> u64 {
    let time = clock(CLOCK_MONOTONIC);
    time[0] as u64 * 1_000_000_000 + time[1] as u64
}

pub fn wall_ms() -> u64 {
    let time = clock(CLOCK_REALTIME);
    time[0] as u64 * 1_000 + time[1] as u64 / 1_000_000
}

fn clock(id: usize) -> [i64; 2] {
    let mut time = [0i64; 2];
    // SAFETY: room for seconds and nanoseconds.
    unsafe { call(nr::CLOCK_GETTIME, [id, time.as_mut_ptr() as usize, 0, 0, 0]) };
    time
}

pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: ends the process; the loop is for the type.
        unsafe { call(nr::EXIT_GROUP, [code as usize, 0, 0, 0, 0]) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    let mut at = 0;
    while at < count {
        // SAFETY: within both regions, by the caller's promise.
        unsafe { *to.add(at) = *from.add(at) };
        at += 1;
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    let mut at = 0;
    while at < count {
        // SAFETY: within the region, by the caller's promise.
        unsafe { *to.add(at) = byte as u8 };
        at += 1;
    }
    to
}
