//! One keeper per node: its lock, its socket, how it is started, replaced and told to stop.
//!
//! The lock is the truth about who keeps; the socket only carries nudges. A new keeper asks the old
//! one to yield and waits for the lock; an old one that does not answer is ended, which is safe at
//! any moment.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const SOCKET_FILE: &str = "keeper.sock";
const LOCK_FILE: &str = "keeper.lock";
/// What the keeper says of itself, this many bytes and the same of the one before.
const OWN_LOG_BYTES_MAX: u64 = 1 << 20;
/// An idle keeper answers in a millisecond, one that syncs to a slow disk in some hundred.
const YIELD_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a lock is tried while its holder is on its way out.
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// The waiting thread calls nothing deep.
const WAIT_STACK_BYTES: usize = 64 << 10;

/// What can be said to a keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Look for new sandboxes.
    Nudge,
    /// End; whoever comes next goes on.
    Stop,
}

impl Order {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Nudge => b"nudge",
            Self::Stop => b"stop",
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        [Self::Nudge, Self::Stop].into_iter().find(|order| order.bytes() == bytes)
    }
}

/// Held by the keeper for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the place of whoever keeps now.
    pub(crate) fn take(run: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(run)?;
        let mut file = open_lock(run)?;
        let deadline = Instant::now() + YIELD_TIMEOUT;
        let mut forced = false;
        while !try_lock(&file)? {
            if Instant::now() < deadline {
                // Fails while the other is only starting; then it is asked again.
                let _ = send(run, Order::Stop);
                wait_for_holder(&mut file, LOCK_RETRY, None)?;
            } else if !forced {
                wait_for_holder(&mut file, YIELD_TIMEOUT, Some(Signal::KILL))?;
                forced = true;
            } else {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another keeper holds the lock and does not go away",
                ));
            }
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

fn open_lock(run: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(run.join(LOCK_FILE))
}

fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the process that wrote its number into the lock has ended.
fn wait_for_holder(file: &mut File, at_most: Duration, signal: Option<Signal>) -> io::Result<()> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(pidfd) = pidfd else {
        // Locked, but its number is not there yet.
        std::thread::sleep(LOCK_RETRY);
        return Ok(());
    };
    if let Some(signal) = signal {
        // The lock is still held by somebody: only a process that has this file open can be it.
        if holds(pid, file)? {
            pidfd_send_signal(&pidfd, signal)?;
        }
    }
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    match poll(&mut fds, Some(&timespec(at_most))) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the process has the lock file open: a number in a file alone may mean anybody by now.
fn holds(pid: Option<Pid>, file: &File) -> io::Result<bool> {
    let Some(pid) = pid else { return Ok(false) };
    let ours = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let Ok(fds) = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else {
        return Ok(false);
    };
    Ok(fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == ours)))
}

pub(crate) fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}

/// Where orders arrive.
#[derive(Debug)]
pub(crate) struct Socket(UnixDatagram);

impl Socket {
    /// The lock must be held: whatever lies there is of a keeper that is gone.
    pub(crate) fn bind(run: &Path) -> io::Result<Self> {
        match std::fs::remove_file(run.join(SOCKET_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = with_short_path(run, SOCKET_FILE, |path| UnixDatagram::bind(path))?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// The next order; none when there is none.
    pub(crate) fn receive(&self) -> Option<Order> {
        let mut buf = [0; 64];
        loop {
            match self.0.recv(&mut buf) {
                Ok(n) => match Order::parse(&buf[..n]) {
                    Some(order) => return Some(order),
                    // A newer client: it has to live with an older keeper.
                    None => continue,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn send(run: &Path, order: Order) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    with_short_path(run, SOCKET_FILE, |path| socket.send_to(order.bytes(), path)).map(drop)
}

/// A socket's address has room for 107 bytes and a data folder may be deep: goes through a descriptor.
pub(crate) fn with_short_path<T>(
    run: &Path,
    name: &str,
    f: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let dir = File::open(run)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
    f(&path)
}

/// Tells the keeper of `data` that there is a new sandbox. Not needed: it watches the folder too.
pub fn nudge(data: &Path) -> io::Result<()> {
    send(&data.join("run"), Order::Nudge)
}

/// Whether a keeper runs for this data folder.
pub fn is_running(data: &Path) -> io::Result<bool> {
    let run = data.join("run");
    if !run.join(LOCK_FILE).exists() {
        return Ok(false);
    }
    let file = open_lock(&run)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Stops the keeper of `data`, if one runs, and waits until it has ended.
pub fn stop(data: &Path) -> io::Result<()> {
    let run = data.join("run");
    let deadline = Instant::now() + YIELD_TIMEOUT;
    while is_running(data)? {
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the keeper does not stop"));
        }
        let _ = send(&run, Order::Stop);
        wait_for_holder(&mut open_lock(&run)?, LOCK_RETRY, None)?;
    }
    Ok(())
}

/// Starts `insula keeper --data …` from our own binary if none runs. It outlives us: it gets its own
/// session, no environment and nothing of ours open; what it has to say goes to
/// `<data>/log/keeper.log`.
pub fn spawn_if_absent(data: &Path) -> io::Result<()> {
    if is_running(data)? {
        return Ok(());
    }
    let data = std::fs::canonicalize(data)?;
    let log = own_log(&data)?;
    let mut child = Command::new("/proc/self/exe")
        .arg("keeper")
        .arg("--data")
        .arg(&data)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    // Reaped if it ends before us; if we end first, init does it.
    std::thread::Builder::new()
        .name("keeper-wait".to_owned())
        .stack_size(WAIT_STACK_BYTES)
        .spawn(move || child.wait())?;
    Ok(())
}

fn own_log(data: &Path) -> io::Result<File> {
    let dir = data.join("log");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let path = dir.join("keeper.log");
    if std::fs::metadata(&path).is_ok_and(|about| about.len() > OWN_LOG_BYTES_MAX) {
        std::fs::rename(&path, dir.join("keeper.log.1"))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
