//! The first process of a sandbox: starts the app, reaps, forwards signals, keeps the logs moving
//! and records how the app ended.
//!
//! It runs beside hostile code, so it holds two pipes and one file, allocates nothing, cannot be
//! traced (not dumpable) and knows nothing of the platform. It needs no libc: a static program of
//! a few kilobytes that costs one page or two per instance. It never restarts anything; that is
//! decided outside.
//!
//! Arguments: its own name, then the app's command line. Environment: the app's. Descriptors:
//! see `contract.rs`.
#![no_std]
#![no_main]
// The compiler must not turn the loops of `memcpy` and `memset` below into calls of themselves.
#![no_builtins]
#![deny(unsafe_op_in_unsafe_fn)]

#[path = "contract.rs"]
#[allow(dead_code)]
mod contract;
mod sys;

use contract::{
    AT_DROPPED_ERR, AT_DROPPED_OUT, AT_ENDED_MS, AT_KIND, AT_VALUE, FD_ERR, FD_EXIT, FD_OUT,
    KIND_EXEC_FAILED, KIND_EXITED, KIND_SIGNALED, SIGNALS,
};
use sys::{EACCES, EINTR, ENOENT, ENOTDIR};

/// How often a quiet sandbox looks at its pipes: rare enough to cost nothing, often enough that an
/// app without a log reader stands still for two seconds at most.
const TICK_NS: u64 = 1_000_000_000;
/// The first wait after something was dropped; it doubles back to `TICK_NS` from there. Half a
/// pipe per wait keeps up with some 25 MB of log a second.
const DRAIN_TICK_NS: u64 = 5_000_000;
/// Full on this many ticks in a row means that nobody reads.
const FULL_TICKS: u32 = 2;
/// How long the last lines wait for a reader that is being restarted.
const LINGER_NS: u64 = 5_000_000_000;
/// How often the end of the last lines is looked for.
const LINGER_STEP_NS: u64 = 2_000_000;
/// Longest path that is tried for a command, as the kernel limits it.
const PATH_BYTES: usize = 4096;
/// The code a shell gives for a command that could not be started; only ever seen by a debugger.
const EXIT_NOT_STARTED: i32 = 127;

/// For `kill`: all processes of the namespace but ourselves.
const EVERYBODY_ELSE: i32 = -1;

#[unsafe(no_mangle)]
extern "C" fn init_main(stack: *const usize) -> ! {
    // SAFETY: the kernel puts argc, argv, NULL, envp, NULL at the stack pointer it starts us with.
    let (argv, envp) = unsafe {
        let argc = *stack;
        (stack.add(1) as *const *const u8, stack.add(1 + argc + 1) as *const *const u8)
    };
    // SAFETY: argc is at least one (our own name), so argv[1] is the app's name or NULL.
    let app_argv = unsafe { argv.add(1) };

    sys::forbid_dumping();
    let signals = sys::block(&SIGNALS);
    let app = match start(app_argv, envp) {
        Ok(pid) => pid,
        Err(errno) => finish(KIND_EXEC_FAILED, errno),
    };

    let mut logs = Logs {
        out: Pipe::new(FD_OUT, AT_DROPPED_OUT),
        err: Pipe::new(FD_ERR, AT_DROPPED_ERR),
        wait_ns: TICK_NS,
    };
    let mut next_tick = sys::monotonic_ns() + logs.wait_ns;
    let mut app = App { pid: app, asked: false, end: None };
    loop {
        let now = sys::monotonic_ns();
        if now >= next_tick {
            logs.tick();
            next_tick = now + logs.wait_ns;
        }
        match sys::wait_signal(&signals, next_tick.saturating_sub(now)) {
            Some(sys::SIGCHLD) => app.reap(),
            Some(sys::SIGWINCH) => sys::kill(app.pid, sys::SIGWINCH),
            Some(signal) => app.ask_to_end(signal),
            None => {}
        }
    }
}

/// Starts the app in a session of its own and waits until it has been executed.
fn start(argv: *const *const u8, envp: *const *const u8) -> Result<i32, i32> {
    let (reader, writer) = sys::pipe_cloexec()?;
    let pid = sys::fork()?;
    if pid == 0 {
        sys::new_session();
        sys::unblock_all();
        for fd in [FD_OUT, FD_ERR, FD_EXIT, reader] {
            sys::close(fd);
        }
        let errno = exec_search(argv, envp);
        sys::write(writer, &errno.to_ne_bytes());
        sys::exit(EXIT_NOT_STARTED);
    }
    sys::close(writer);
    let mut errno = [0u8; 4];
    let got = loop {
        match sys::read(reader, &mut errno) {
            Err(EINTR) => {}
            other => break other,
        }
    };
    sys::close(reader);
    match got {
        Ok(4) => Err(i32::from_ne_bytes(errno)),
        _ => Ok(pid),
    }
}

/// Executes `argv[0]`, looked up in `PATH` when it holds no slash. Returns only the error.
fn exec_search(argv: *const *const u8, envp: *const *const u8) -> i32 {
    // SAFETY: both arrays come from the kernel, end in NULL and hold NUL-terminated strings.
    unsafe {
        let name = *argv;
        if name.is_null() || *name == 0 {
            return ENOENT;
        }
        if contains_slash(name) {
            return sys::exec(name, argv, envp);
        }
        let mut path = match find_path(envp) {
            Some(path) => path,
            None => return ENOENT,
        };
        let mut last = ENOENT;
        loop {
            let mut candidate = [0u8; PATH_BYTES];
            let mut len = 0;
            while *path != 0 && *path != b':' && len < PATH_BYTES {
                candidate[len] = *path;
                len += 1;
                path = path.add(1);
            }
            // An empty entry would mean the working directory: a place where a tenant's upload
            // could shadow a command, so it is skipped.
            if len > 0 && append(&mut candidate, len, name) {
                let errno = sys::exec(candidate.as_ptr(), argv, envp);
                if errno != ENOENT && errno != ENOTDIR && errno != EACCES {
                    return errno;
                }
                if errno == EACCES {
                    last = EACCES;
                }
            }
            while *path != 0 && *path != b':' {
                path = path.add(1);
            }
            if *path == 0 {
                return last;
            }
            path = path.add(1);
        }
    }
}

/// Adds `/name` and the closing NUL; says whether it fitted.
///
/// # Safety
/// `name` must be NUL-terminated.
unsafe fn append(candidate: &mut [u8; PATH_BYTES], at: usize, name: *const u8) -> bool {
    let mut len = at;
    if len >= PATH_BYTES {
        return false;
    }
    candidate[len] = b'/';
    len += 1;
    let mut next = name;
    loop {
        if len >= PATH_BYTES {
            return false;
        }
        // SAFETY: `next` never passes the NUL that ends `name`.
        let byte = unsafe { *next };
        candidate[len] = byte;
        if byte == 0 {
            return true;
        }
        len += 1;
        // SAFETY: the byte was not the closing NUL, so there is one more.
        next = unsafe { next.add(1) };
    }
}

/// # Safety
/// `text` must be NUL-terminated.
unsafe fn contains_slash(text: *const u8) -> bool {
    let mut next = text;
    // SAFETY: the walk stops at the NUL.
    unsafe {
        while *next != 0 {
            if *next == b'/' {
                return true;
            }
            next = next.add(1);
        }
    }
    false
}

/// # Safety
/// `envp` must end in NULL and hold NUL-terminated strings.
unsafe fn find_path(envp: *const *const u8) -> Option<*const u8> {
    let mut next = envp;
    // SAFETY: the walk stops at the NULL; bytes are compared one by one up to the first that
    // differs, so never beyond a NUL.
    unsafe {
        while !(*next).is_null() {
            let entry = *next;
            if *entry == b'P'
                && *entry.add(1) == b'A'
                && *entry.add(2) == b'T'
                && *entry.add(3) == b'H'
                && *entry.add(4) == b'='
            {
                return Some(entry.add(5));
            }
            next = next.add(1);
        }
    }
    None
}

/// The process that was started, and everything it has left to us.
struct App {
    pid: i32,
    /// Whether it was asked to end.
    asked: bool,
    /// How it ended, once it has: kind and value.
    end: Option<(u8, i32)>,
}

impl App {
    /// Everybody is asked: the app is often a shell, which tells nobody and ends first.
    fn ask_to_end(&mut self, signal: i32) {
        self.asked = true;
        sys::kill(EVERYBODY_ELSE, signal);
    }

    /// Collects every child that has ended. The app's end is the end of the sandbox; if it was asked
    /// for, the others may finish first, for as long as whoever asked has patience.
    fn reap(&mut self) {
        loop {
            match sys::wait_any() {
                sys::Waited::Ended { pid, status } if pid == self.pid => {
                    let signal = status & 0x7f;
                    let end = match signal {
                        0 => (KIND_EXITED, (status >> 8) & 0xff),
                        signal => (KIND_SIGNALED, signal),
                    };
                    if !self.asked {
                        finish(end.0, end.1);
                    }
                    self.end = Some(end);
                }
                sys::Waited::Ended { .. } => {}
                sys::Waited::NobodyEnded => return,
                sys::Waited::NobodyLeft => {
                    if let Some((kind, value)) = self.end {
                        finish(kind, value);
                    }
                    return;
                }
            }
        }
    }
}

/// Writes the record, its kind last, ends whatever the app left behind, and leaves once its last
/// lines have been read: with the last holder of a pipe goes what is in it.
fn finish(kind: u8, value: i32) -> ! {
    sys::write_at(FD_EXIT, AT_VALUE, &value.to_le_bytes());
    sys::write_at(FD_EXIT, AT_ENDED_MS, &sys::wall_ms().to_le_bytes());
    sys::write_at(FD_EXIT, AT_KIND, &[kind]);
    sys::kill(EVERYBODY_ELSE, sys::SIGKILL);
    let deadline = sys::monotonic_ns() + LINGER_NS;
    let nothing = sys::block(&[]);
    while sys::readable_bytes(FD_OUT) + sys::readable_bytes(FD_ERR) > 0
        && sys::monotonic_ns() < deadline
    {
        sys::wait_signal(&nothing, LINGER_STEP_NS);
    }
    sys::exit(0)
}

struct Logs {
    out: Pipe,
    err: Pipe,
    wait_ns: u64,
}

impl Logs {
    fn tick(&mut self) {
        let dropped_out = self.out.tick();
        let dropped_err = self.err.tick();
        if dropped_out || dropped_err {
            self.wait_ns = DRAIN_TICK_NS;
        } else if self.wait_ns < TICK_NS {
            self.wait_ns = if self.wait_ns * 2 < TICK_NS { self.wait_ns * 2 } else { TICK_NS };
        }
        if self.wait_ns == TICK_NS {
            self.out.calm();
            self.err.calm();
        }
    }
}

struct Pipe {
    fd: i32,
    counter_at: usize,
    dropped: u64,
    full_ticks: u32,
    full: bool,
}

impl Pipe {
    fn new(fd: i32, counter_at: usize) -> Self {
        Self { fd, counter_at, dropped: 0, full_ticks: 0, full: false }
    }

    /// Looks once; when nobody has read for long enough, drops the oldest half. Says whether it did.
    fn tick(&mut self) -> bool {
        let capacity = sys::pipe_capacity(self.fd);
        let held = sys::readable_bytes(self.fd);
        // Many small packets can use every slot of a pipe with few bytes in it.
        self.full = held >= capacity / 4 * 3 || !sys::is_writable(self.fd);
        if !self.full {
            return false;
        }
        self.full_ticks += 1;
        if self.full_ticks < FULL_TICKS {
            return false;
        }
        self.full_ticks = FULL_TICKS;
        let before = self.dropped;
        let mut scrap = [0u8; 4096];
        loop {
            match sys::read(self.fd, &mut scrap) {
                Ok(count) if count > 0 => self.dropped += count as u64,
                _ => break,
            }
            if sys::readable_bytes(self.fd) <= capacity / 2 && sys::is_writable(self.fd) {
                break;
            }
            // A writer as fast as we are must not keep us here: signals wait meanwhile.
            if self.dropped - before >= 4 * capacity as u64 {
                break;
            }
        }
        sys::write_at(FD_EXIT, self.counter_at, &self.dropped.to_le_bytes());
        self.dropped != before
    }

    /// Forgets earlier full ticks once the pipe has been seen with room at the slow pace.
    fn calm(&mut self) {
        if !self.full {
            self.full_ticks = 0;
        }
    }
}
