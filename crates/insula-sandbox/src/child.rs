//! The path of the cloned child from its first instruction to the init.
//!
//! Runs in a copy of the launcher's single thread. Everything it needs was allocated before; it
//! speaks with the launcher over two pipes. When the launcher dies, its end of a pipe closes and
//! the child leaves: nothing half-made lives on.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode as FileMode, OFlags, open};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::exit::contract::{FD_ERR, FD_EXIT, FD_OUT, SIGNALS};
use crate::spec::{APP_UID, Mode};
use crate::step::Step;
use crate::sys::{self, StringArray};

/// The first descriptor that is not the init's.
const FIRST_OTHER_FD: i32 = FD_EXIT + 1;
/// On a machine without memory left, instances go before the platform.
const OOM_SCORE: &[u8] = b"500";

/// Everything the child works with.
pub(crate) struct Inside {
    pub mode: Mode,
    /// The app's user as the host numbers it.
    pub host_uid: u32,
    /// The `tasks` files of version 1 control groups.
    pub groups: Vec<CString>,
    pub steps: Vec<Step>,
    pub mounts: Vec<OwnedFd>,
    pub hostname: CString,
    pub cwd: CString,
    pub nofile: u64,
    pub own_network: bool,
    pub filter: Vec<libc::sock_filter>,
    pub argv: StringArray,
    pub envp: StringArray,
    pub init: OwnedFd,
    pub files: Files,
}

/// The descriptors that the init lives with.
pub(crate) struct Files {
    pub null: OwnedFd,
    pub out_write: OwnedFd,
    pub err_write: OwnedFd,
    pub out_both: OwnedFd,
    pub err_both: OwnedFd,
    pub exit: OwnedFd,
}

/// What the child is doing apart from steps; part of the message when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Stage {
    Session = 1,
    Groups,
    Loopback,
    Hostname,
    Namespaces,
    WorkingDirectory,
    Limits,
    Descriptors,
    User,
    Capabilities,
    Privileges,
    Filter,
    Exec,
}

impl Stage {
    const ALL: [Self; 13] = [
        Self::Session,
        Self::Groups,
        Self::Loopback,
        Self::Hostname,
        Self::Namespaces,
        Self::WorkingDirectory,
        Self::Limits,
        Self::Descriptors,
        Self::User,
        Self::Capabilities,
        Self::Privileges,
        Self::Filter,
        Self::Exec,
    ];

    fn describe(self) -> &'static str {
        match self {
            Self::Session => "start a session",
            Self::Groups => "join the control groups",
            Self::Loopback => "bring loopback up",
            Self::Hostname => "set the host name",
            Self::Namespaces => "make the user and cgroup namespaces",
            Self::WorkingDirectory => "enter the working directory",
            Self::Limits => "set resource limits",
            Self::Descriptors => "arrange descriptors",
            Self::User => "become the app's user",
            Self::Capabilities => "drop capabilities",
            Self::Privileges => "forbid new privileges",
            Self::Filter => "install the system call filter",
            Self::Exec => "execute the init",
        }
    }
}

/// One message of the child: eight bytes, so that a pipe never tears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// The root stands; the launcher may write the maps and let us go on.
    Ready,
    FailedStage {
        stage: Stage,
        errno: i32,
    },
    FailedStep {
        index: usize,
        errno: i32,
    },
}

/// Stages are numbered from one, steps from here.
const STEP_BASE: u32 = 1_000;
pub(crate) const MESSAGE_BYTES: usize = 8;

impl Message {
    pub fn encode(self) -> [u8; MESSAGE_BYTES] {
        let (code, errno) = match self {
            Self::Ready => (0, 0),
            Self::FailedStage { stage, errno } => (stage as u32, errno),
            Self::FailedStep { index, errno } => (STEP_BASE + index as u32, errno),
        };
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..4].copy_from_slice(&code.to_ne_bytes());
        bytes[4..].copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    pub fn decode(bytes: [u8; MESSAGE_BYTES]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let (code, errno) = (u32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
        match code {
            0 => Some(Self::Ready),
            STEP_BASE.. => Some(Self::FailedStep { index: (code - STEP_BASE) as usize, errno }),
            _ => Stage::ALL
                .into_iter()
                .find(|stage| *stage as u32 == code)
                .map(|stage| Self::FailedStage { stage, errno }),
        }
    }

    pub fn describe(self, steps: &[Step]) -> (String, i32) {
        match self {
            Self::Ready => ("prepare".into(), 0),
            Self::FailedStage { stage, errno } => (stage.describe().into(), errno),
            Self::FailedStep { index, errno } => {
                (steps.get(index).map_or_else(|| "build the root".into(), Step::to_string), errno)
            }
        }
    }
}

/// The child's ends of the two pipes.
pub(crate) struct Wire<'a> {
    pub from_launcher: BorrowedFd<'a>,
    pub to_launcher: BorrowedFd<'a>,
}

/// Never returns: the process becomes the init or ends.
pub(crate) fn run(inside: &Inside, wire: &Wire<'_>) -> ! {
    let failure = match prepare(inside, wire) {
        Ok(Gone::Launcher) => sys::exit_now(1),
        Err(failure) => failure,
    };
    let _ = rustix::io::write(wire.to_launcher, &failure.encode());
    sys::exit_now(1)
}

/// The one way in which `prepare` returns without a failure: nobody is there to go on for.
enum Gone {
    Launcher,
}

fn prepare(inside: &Inside, wire: &Wire<'_>) -> Result<Gone, Message> {
    let at =
        |stage: Stage| move |error: io::Error| Message::FailedStage { stage, errno: errno(&error) };
    // A Ctrl-C in the terminal of `insula up` must not reach the apps.
    rustix::process::setsid().map_err(io::Error::from).map_err(at(Stage::Session))?;
    sys::reset_signals(&SIGNALS);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if inside.mode == Mode::User && !proceed(wire) {
        return Ok(Gone::Launcher); // The maps come first: without them no mount is allowed.
    }
    for group in &inside.groups {
        join(group).map_err(at(Stage::Groups))?;
    }
    if inside.own_network {
        sys::loopback_up().map_err(at(Stage::Loopback))?;
    }
    sys::set_hostname(&inside.hostname).map_err(at(Stage::Hostname))?;
    raise_oom_score();
    // Modes of what the steps make are meant as they are written.
    rustix::process::umask(rustix::fs::Mode::empty());
    for (index, step) in inside.steps.iter().enumerate() {
        step.run(&inside.mounts)
            .map_err(|error| Message::FailedStep { index, errno: errno(&error) })?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if inside.mode == Mode::Root {
        sys::act_as(inside.host_uid).map_err(at(Stage::Namespaces))?;
        sys::unshare_users().map_err(at(Stage::Namespaces))?;
    }
    let _ = rustix::io::write(wire.to_launcher, &Message::Ready.encode());
    if !proceed(wire) {
        return Ok(Gone::Launcher);
    }
    limit(inside.nofile).map_err(at(Stage::Limits))?;
    arrange(&inside.files).map_err(at(Stage::Descriptors))?;
    sys::become_user(APP_UID, inside.mode == Mode::Root).map_err(at(Stage::User))?;
    rustix::process::chdir(inside.cwd.as_c_str())
        .map_err(io::Error::from)
        .map_err(at(Stage::WorkingDirectory))?;
    sys::drop_capabilities().map_err(at(Stage::Capabilities))?;
    sys::no_new_privileges().map_err(at(Stage::Privileges))?;
    sys::close_from_on_exec(FIRST_OTHER_FD).map_err(at(Stage::Descriptors))?;
    sys::install_filter(&inside.filter).map_err(at(Stage::Filter))?;
    let error = sys::exec_fd(inside.init.as_fd(), &inside.argv, &inside.envp);
    Err(at(Stage::Exec)(error))
}

/// Waits for the launcher's word; false when it is gone.
fn proceed(wire: &Wire<'_>) -> bool {
    let mut word = [0; 1];
    loop {
        match rustix::io::read(wire.from_launcher, &mut word) {
            Ok(count) => return count == 1,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// A thread that moves only itself (`0`) spares the kernel a lock that costs a grace period of some
/// milliseconds whenever somebody else moves it.
fn join(group: &CStr) -> io::Result<()> {
    let file = open(group, OFlags::WRONLY | OFlags::CLOEXEC, FileMode::empty())?;
    rustix::io::write(&file, b"0")?;
    Ok(())
}

fn raise_oom_score() {
    // Best effort: the sandbox is limited by its own group; this is about the whole machine.
    if let Ok(file) =
        open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, FileMode::empty())
    {
        let _ = rustix::io::write(&file, OOM_SCORE);
    }
}

fn limit(nofile: u64) -> io::Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let files = Some(nofile.min(hard));
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })?;
    // Not zero: with one byte the kernel does not start the host's crash handler either, which would
    // parse a tenant's memory with the host's rights.
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) })?)
}

fn arrange(files: &Files) -> io::Result<()> {
    sys::place(files.null.as_fd(), 0)?;
    sys::place(files.out_write.as_fd(), 1)?;
    sys::place(files.err_write.as_fd(), 2)?;
    sys::place(files.out_both.as_fd(), FD_OUT)?;
    sys::place(files.err_both.as_fd(), FD_ERR)?;
    sys::place(files.exit.as_fd(), FD_EXIT)
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_pipe() {
        let mut messages = vec![Message::Ready, Message::FailedStep { index: 41, errno: 13 }];
        messages.extend(Stage::ALL.map(|stage| Message::FailedStage { stage, errno: 22 }));
        for message in messages {
            assert_eq!(Message::decode(message.encode()), Some(message));
        }
        assert_eq!(Message::decode([255, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
