//! Starts, watches, ends and removes sandboxes. The way in for the node agent.
//!
//! Holds no state but its settings: everything about a sandbox is in its folder and in the kernel,
//! so any process may take over at any moment. All calls block; none of them waits without a bound.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::Signal;

use crate::cgroup::{Group, GroupError, Layout, LayoutError, Usage};
use crate::exit::{self, ExitFileError, ExitRecord};
use crate::id::SandboxId;
use crate::identity;
use crate::launcher::{HIDDEN_ARGUMENT, LaunchPlan, Reply, Request};
use crate::net;
use crate::probe::{self, Capability};
use crate::process::{self, Listener, Process};
use crate::record::{Driver, Record, RecordError, SandboxDir, lock_run_dir, sandbox_ids};
use crate::spec::{Mode, Network, SandboxSpec, SpecError};

/// The launcher's own deadline and time to clean up after it.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(15);
/// A probe tries a few system calls.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// A SIGKILL takes effect in milliseconds unless the machine is in trouble.
const KILL_TIMEOUT_MS: u64 = 10_000;
/// A reply is one record.
const REPLY_BYTES_MAX: u64 = 1 << 20;

/// How the embedded driver is set up on this machine.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    pub mode: Mode,
    /// Holds one folder per sandbox; only its owner may enter it.
    pub run_dir: PathBuf,
    /// Path of our control groups from the top of each hierarchy, such as `insula-default`. One
    /// per data folder.
    pub cgroup_parent: String,
    /// The program that becomes the launcher; ourselves by default.
    pub launcher: PathBuf,
}

impl RuntimeConfig {
    pub fn new(mode: Mode, run_dir: impl Into<PathBuf>, cgroup_parent: impl Into<String>) -> Self {
        Self {
            mode,
            run_dir: run_dir.into(),
            cgroup_parent: cgroup_parent.into(),
            launcher: "/proc/self/exe".into(),
        }
    }
}

#[derive(Debug)]
pub struct Runtime {
    mode: Mode,
    run_dir: PathBuf,
    launcher: PathBuf,
    layout: Option<Layout>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("find a place for control groups")]
    Layout(#[from] LayoutError),
    #[error("make the folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("the request for a sandbox is refused")]
    Spec(#[from] SpecError),
    #[error("there already is a sandbox `{0}`")]
    Exists(SandboxId),
    #[error("run the launcher of sandbox `{id}`")]
    Launcher {
        id: SandboxId,
        #[source]
        source: io::Error,
    },
    #[error("sandbox `{id}` could not be started: {step}: {cause}")]
    Failed { id: SandboxId, step: String, cause: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{what} sandbox `{id}`")]
    Io {
        what: &'static str,
        id: SandboxId,
        #[source]
        source: io::Error,
    },
    #[error("sandbox `{0}` did not end after SIGKILL")]
    Unkillable(SandboxId),
    #[error("sandbox `{0}` has no control group: without root nothing can be paused")]
    NoGroup(SandboxId),
    #[error("change the control groups of sandbox `{id}`")]
    Group {
        id: SandboxId,
        #[source]
        source: GroupError,
    },
    #[error("take sandbox `{id}` off the network")]
    Network {
        id: SandboxId,
        #[source]
        source: net::NetError,
    },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Exit(#[from] ExitFileError),
}

/// What became of a sandbox's app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Running,
    /// The init saw the end of the app.
    Ended(ExitRecord),
    /// The init itself is gone without a record: killed from outside, out of memory as a group, or
    /// the machine was started anew.
    Lost,
}

/// What a sweep found to remove.
#[derive(Debug, Default)]
pub struct Swept {
    pub removed: Vec<SandboxId>,
    pub failed: Vec<(SandboxId, ControlError)>,
}

impl Runtime {
    /// Looks at the machine once. Makes the run folder, nothing else.
    pub fn open(config: RuntimeConfig) -> Result<Self, OpenError> {
        let layout = match config.mode {
            Mode::Root => Some(Layout::detect(&config.cgroup_parent)?),
            Mode::User => None,
        };
        let failed = |source| OpenError::Folder { path: config.run_dir.clone(), source };
        // The launcher works elsewhere.
        let run_dir = std::path::absolute(&config.run_dir).map_err(failed)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&run_dir).map_err(failed)?;
        Ok(Self { mode: config.mode, run_dir, launcher: config.launcher, layout })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// The folder with the FIFOs and records of a sandbox.
    pub fn dir(&self, id: &SandboxId) -> SandboxDir {
        SandboxDir::new(&self.run_dir, id)
    }

    /// What this machine lets us enforce, line by line.
    pub fn probe(&self) -> Vec<Capability> {
        let request = Request::Probe { mode: self.mode, scratch: self.run_dir.clone() };
        let tried = match self.ask(&request, PROBE_DEADLINE) {
            Ok(Reply::Probed(tried)) => tried,
            Ok(Reply::Launched(_) | Reply::Failed(_)) => vec![],
            Err(error) => vec![probe::launcher_failed(&error)],
        };
        probe::report(self.mode, self.layout.as_ref(), tried)
    }

    /// Returns when the init runs; the app follows at once. A failed launch leaves nothing behind. What
    /// the app is told (arguments, environment) is never written to disk.
    pub fn launch(&self, spec: &SandboxSpec) -> Result<Record, LaunchError> {
        spec.check(self.mode)?;
        let id = spec.id.clone();
        // Asked before anything is begun: what follows a failure may remove the folder.
        if self.dir(&id).path().exists() {
            return Err(LaunchError::Exists(id));
        }
        let plan = LaunchPlan {
            run_dir: self.run_dir.clone(),
            mode: self.mode,
            cgroups: self.layout.as_ref().map(|l| l.groups(&id)).unwrap_or_default(),
            spec: spec.clone(),
        };
        let failure = match self.ask(&Request::Launch(Box::new(plan)), LAUNCH_DEADLINE) {
            Ok(Reply::Launched(record)) => return Ok(*record),
            Ok(Reply::Failed(failure)) if failure.exists => return Err(LaunchError::Exists(id)),
            Ok(Reply::Failed(failure)) => {
                LaunchError::Failed { id: id.clone(), step: failure.step, cause: failure.cause }
            }
            Ok(Reply::Probed(_)) => LaunchError::Launcher {
                id: id.clone(),
                source: io::Error::other("the launcher answered another question"),
            },
            Err(source) => LaunchError::Launcher { id: id.clone(), source },
        };
        // What cannot be removed now is found by the next sweep.
        let _ = self.remove(&id);
        Err(failure)
    }

    fn ask(&self, request: &Request, deadline: Duration) -> io::Result<Reply> {
        let deadline = Instant::now() + deadline;
        let mut launcher = Command::new(&self.launcher)
            .arg(HIDDEN_ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let reply = converse(&mut launcher, request, deadline);
        if reply.is_err() {
            let _ = launcher.kill();
        }
        // The launcher has answered or was killed: it ends now.
        let status = launcher.wait()?;
        reply.map_err(|error| io::Error::new(error.kind(), format!("{error} ({status})")))
    }

    pub fn load(&self, id: &SandboxId) -> Result<Option<Record>, RecordError> {
        Record::load(&self.run_dir, id)
    }

    pub fn list(&self) -> Result<Vec<Record>, RecordError> {
        Record::list(&self.run_dir)
    }

    pub fn is_alive(&self, record: &Record) -> Result<bool, ControlError> {
        Ok(self.pidfd(record)?.is_some())
    }

    /// A descriptor that becomes readable when the sandbox ends; `None` when it has.
    pub fn pidfd(&self, record: &Record) -> Result<Option<OwnedFd>, ControlError> {
        let Some(init) = &record.init else { return Ok(None) };
        init.pidfd().map_err(failed("look at", record))
    }

    /// The app's end, once there is one.
    pub fn exit(&self, record: &Record) -> Result<Option<ExitRecord>, ControlError> {
        let file = exit::read(&self.dir(&record.id).exit())?;
        Ok(file.and_then(|file| file.ended))
    }

    /// Log bytes that the init dropped so far because nobody read them.
    pub fn dropped_bytes(&self, record: &Record) -> Result<u64, ControlError> {
        let file = exit::read(&self.dir(&record.id).exit())?;
        Ok(file.map_or(0, |file| file.dropped_bytes))
    }

    pub fn fate(&self, record: &Record) -> Result<Fate, ControlError> {
        // In this order: an init writes its record before it ends.
        let alive = self.is_alive(record)?;
        match self.exit(record)? {
            Some(exit) => Ok(Fate::Ended(exit)),
            None if alive => Ok(Fate::Running),
            None => Ok(Fate::Lost),
        }
    }

    /// Sends a signal to the app by way of the init, which passes on HUP, INT, QUIT, USR1, USR2,
    /// TERM and WINCH. A sandbox that has ended takes no offence.
    pub fn signal(&self, record: &Record, signal: Signal) -> Result<(), ControlError> {
        let Some(pidfd) = self.pidfd(record)? else { return Ok(()) };
        send(&pidfd, signal).map_err(failed("signal", record))
    }

    /// Ends everything in the sandbox and waits for it.
    pub fn kill(&self, record: &Record) -> Result<(), ControlError> {
        let Some(pidfd) = self.pidfd(record)? else { return Ok(()) };
        for group in &record.cgroups {
            group.kill();
        }
        // With the first process of a namespace goes every other.
        send(&pidfd, Signal::KILL).map_err(failed("kill", record))?;
        for group in record.cgroups.iter().filter(|group| group.can_freeze()) {
            // Under version 1 a frozen process does not even die.
            let _ = group.set_frozen(false);
        }
        let ended =
            identity::has_ended(&pidfd, KILL_TIMEOUT_MS).map_err(failed("await", record))?;
        if ended { Ok(()) } else { Err(ControlError::Unkillable(record.id.clone())) }
    }

    /// Ends the sandbox if need be and removes all of it. Can be repeated.
    pub fn destroy(&self, record: &Record) -> Result<(), ControlError> {
        match record.driver {
            Driver::Embedded => {}
        }
        self.kill(record)?;
        // A launch that was cut off may have members that no record names.
        let at_once = record.cgroups.iter().any(Group::kill);
        for group in record.cgroups.iter().filter(|_| !at_once) {
            for pid in group.processes().map_err(failed("look into the groups of", record))? {
                kill_number(pid);
            }
        }
        if let Network::Own(attachment) = &record.network {
            net::detach(attachment)
                .map_err(|source| ControlError::Network { id: record.id.clone(), source })?;
        }
        for group in &record.cgroups {
            group
                .remove()
                .map_err(|source| ControlError::Group { id: record.id.clone(), source })?;
        }
        self.remove_folder(&record.id).map_err(failed("remove the folder of", record))
    }

    /// A sweep must not see half of it: a folder whose record is already gone.
    fn remove_folder(&self, id: &SandboxId) -> io::Result<()> {
        let _entering = match lock_run_dir(&self.run_dir, FlockOperation::LockShared) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            lock => lock?,
        };
        match fs::remove_dir_all(self.dir(id).path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Removes what launches left that never got as far as a record, and nothing else. A launch
    /// that is still going on, of whatever process, is let alone.
    pub fn sweep(&self) -> Result<Swept, RecordError> {
        let mut swept = Swept::default();
        for id in self.abandoned()? {
            match self.remove(&id) {
                Ok(()) => swept.removed.push(id),
                Err(error) => swept.failed.push((id, error)),
            }
        }
        Ok(swept)
    }

    /// Folders without a record that no launcher holds: nobody will ever finish them.
    fn abandoned(&self) -> Result<Vec<SandboxId>, RecordError> {
        let failed = |source| RecordError::Read { path: self.run_dir.clone(), source };
        let _alone = lock_run_dir(&self.run_dir, FlockOperation::LockExclusive).map_err(failed)?;
        let mut abandoned = Vec::new();
        for id in sandbox_ids(&self.run_dir)? {
            let dir = self.dir(&id);
            // The lock first: a launcher writes the record before it lets go.
            if !is_locked(&dir.lock()) && dir.record()?.is_none() {
                abandoned.push(id);
            }
        }
        Ok(abandoned)
    }

    /// Removes a sandbox by its folder alone, however far its launch came.
    fn remove(&self, id: &SandboxId) -> Result<(), ControlError> {
        let dir = self.dir(id);
        let known = match dir.record()? {
            Some(record) => Some(record),
            None => match dir.plan() {
                // Torn by a power cut, so of an earlier boot: only the folder is left of it.
                Err(RecordError::Foreign { source: Some(_), .. }) => None,
                plan => plan?,
            },
        };
        if let Some(record) = known {
            return self.destroy(&record);
        }
        // Not even a plan: nothing else was made.
        self.remove_folder(id).map_err(|source| ControlError::Io {
            what: "remove the folder of",
            id: id.clone(),
            source,
        })
    }

    /// Stops every process where it is; memory and connections stay.
    pub fn freeze(&self, record: &Record) -> Result<(), ControlError> {
        self.set_frozen(record, true)
    }

    pub fn thaw(&self, record: &Record) -> Result<(), ControlError> {
        self.set_frozen(record, false)
    }

    fn set_frozen(&self, record: &Record, frozen: bool) -> Result<(), ControlError> {
        let group = record
            .cgroups
            .iter()
            .find(|group| group.can_freeze())
            .ok_or_else(|| ControlError::NoGroup(record.id.clone()))?;
        group
            .set_frozen(frozen)
            .map_err(|source| ControlError::Group { id: record.id.clone(), source })
    }

    /// What the sandbox uses. Without control groups it is added up over its processes.
    pub fn usage(&self, record: &Record) -> Result<Usage, ControlError> {
        if record.cgroups.is_empty() {
            return process::usage(record).map_err(failed("measure", record));
        }
        Usage::read(&record.cgroups).map_err(failed("measure", record))
    }

    pub fn processes(&self, record: &Record) -> Result<Vec<Process>, ControlError> {
        process::list(record).map_err(failed("list the processes of", record))
    }

    /// TCP ports on which the app waits for connections.
    pub fn listening_ports(&self, record: &Record) -> Result<Vec<Listener>, ControlError> {
        process::listeners(record).map_err(failed("list the ports of", record))
    }
}

fn failed(what: &'static str, record: &Record) -> impl FnOnce(io::Error) -> ControlError {
    let id = record.id.clone();
    move |source| ControlError::Io { what, id, source }
}

fn send(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// For members of our own group only: the number was read from it a moment ago.
fn kill_number(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

fn is_locked(path: &Path) -> bool {
    match fs::File::open(path) {
        Ok(file) => rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockShared).is_err(),
        Err(_) => false,
    }
}

/// Sends the request and reads one line, within the deadline.
fn converse(launcher: &mut Child, request: &Request, deadline: Instant) -> io::Result<Reply> {
    let mut stdin = launcher.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut stdout = launcher.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    // The launcher reads all before it does anything, so this cannot hang on its work.
    stdin.write_all(&serde_json::to_vec(request)?)?;
    drop(stdin);
    let mut line = Vec::new();
    let mut piece = [0; 4_096];
    while line.last() != Some(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        if !identity::has_ended(&stdout, left_ms)? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the launcher does not answer"));
        }
        let count = stdout.read(&mut piece)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the launcher ended without an answer",
            ));
        }
        line.extend_from_slice(&piece[..count]);
        if line.len() as u64 > REPLY_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the launcher's answer is too long",
            ));
        }
    }
    Ok(serde_json::from_slice(&line)?)
}
