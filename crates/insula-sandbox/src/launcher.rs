//! The hidden process that makes one sandbox and leaves.
//!
//! It has one thread and nothing of the platform in it, so that it may clone. It reads a plan on
//! standard input, answers with one line on standard output and exits; the sandbox is orphaned on
//! purpose. Whatever goes wrong, the child ends with it, and the folder tells a clean-up the rest.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, FlockOperation, MemfdFlags, Mode as FileMode, OFlags, SealFlags};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Group, Version};
use crate::child::{self, Files, Inside, MESSAGE_BYTES, Message, Wire};
use crate::host;
use crate::identity::ProcessIdentity;
use crate::idmap;
use crate::net;
use crate::record::{Driver, RECORD_SCHEMA, Record, SandboxDir, lock_run_dir};
use crate::root::{Prepared, Root};
use crate::seccomp;
use crate::spec::{APP_UID, Mode, Network, SandboxSpec, UID_RANGE, Upper};
use crate::step;
use crate::sys::{self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, StringArray};

/// The first argument that makes a program of ours a launcher.
pub const HIDDEN_ARGUMENT: &str = "sandbox-launch";

/// From the clone to the init: a hundred times what it takes. Beyond it something hangs.
const EXEC_DEADLINE: Duration = Duration::from_secs(10);
/// What a log pipe should hold: a burst of some thousand lines while the reader is away.
const PIPE_BYTES: usize = 256 * 1024;
/// Descriptors below are the init's; the launcher's own stay clear of them.
const FIRST_FREE_FD: i32 = 10;

static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/insula-init"));

/// What the launcher is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    Launch(Box<LaunchPlan>),
    /// Tries what a sandbox needs, without making one.
    Probe {
        mode: Mode,
        scratch: PathBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LaunchPlan {
    pub run_dir: PathBuf,
    pub mode: Mode,
    pub cgroups: Vec<Group>,
    pub spec: SandboxSpec,
}

/// What the launcher answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Launched(Box<Record>),
    Failed(Failure),
    Probed(Vec<crate::probe::Capability>),
}

/// The step that failed, in words, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub step: String,
    pub cause: String,
    pub exists: bool,
}

impl Failure {
    fn new(step: impl Into<String>, cause: impl ToString) -> Self {
        Self { step: step.into(), cause: cause.to_string(), exists: false }
    }
}

fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let step = step.into();
    move |error| Failure::new(step, error)
}

/// Everything between the first argument and the exit.
pub(crate) fn main() -> std::process::ExitCode {
    let mut text = Vec::new();
    let reply = match io::stdin().read_to_end(&mut text) {
        Err(error) => Reply::Failed(Failure::new("read the launch plan", error)),
        Ok(_) => match serde_json::from_slice(&text) {
            Err(error) => Reply::Failed(Failure::new("understand the launch plan", error)),
            Ok(Request::Probe { mode, scratch }) => {
                Reply::Probed(crate::probe::attempt(mode, &scratch))
            }
            Ok(Request::Launch(plan)) => match launch(&plan) {
                Ok(record) => Reply::Launched(Box::new(record)),
                Err(failure) => Reply::Failed(failure),
            },
        },
    };
    let mut line = serde_json::to_vec(&reply).unwrap_or_default();
    line.push(b'\n');
    match io::stdout().write_all(&line) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        // Nobody listens: whoever comes next finds the record in the folder.
        Err(_) => std::process::ExitCode::FAILURE,
    }
}

fn launch(plan: &LaunchPlan) -> Result<Record, Failure> {
    let deadline = Instant::now() + EXEC_DEADLINE;
    reserve_descriptors().map_err(at("reserve descriptors"))?;
    let spec = &plan.spec;
    let dir = SandboxDir::new(&plan.run_dir, &spec.id);
    let mut record = Record {
        schema: RECORD_SCHEMA,
        id: spec.id.clone(),
        driver: Driver::Embedded,
        mode: plan.mode,
        init: None,
        cgroups: plan.cgroups.clone(),
        network: spec.network.clone(),
        uid_base: spec.uid_base,
        created_ms: now_ms(),
    };
    let _lock = make_folder(&plan.run_dir, &dir, &record)?;
    for group in &plan.cgroups {
        group.create(&spec.limits).map_err(|e| Failure::new(e.to_string(), source_of(&e)))?;
    }
    let inside = prepare(plan, &dir)?;
    let (child, mut pipes) = clone(plan, &inside)?;
    let outcome = supervise(plan, &dir, &mut record, &child, &mut pipes, &inside, deadline);
    if outcome.is_err() {
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL);
    }
    outcome.map(|()| record)
}

/// The parent's side after the clone, up to the init.
fn supervise(
    plan: &LaunchPlan,
    dir: &SandboxDir,
    record: &mut Record,
    child: &sys::Child,
    pipes: &mut Pipes,
    inside: &Inside,
    deadline: Instant,
) -> Result<(), Failure> {
    let spec = &plan.spec;
    if plan.mode == Mode::User {
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        idmap::write_single(child.pid, APP_UID, user.as_raw(), group.as_raw())
            .map_err(at("map the user"))?;
        pipes.proceed().map_err(at("let the sandbox begin"))?;
    }
    if let Network::Own(attachment) = &spec.network {
        net::attach(attachment, child.pidfd.as_fd())
            .map_err(|e| Failure::new("join the network", chain(&e)))?;
    }
    record.init = Some(ProcessIdentity::of(child.pid).map_err(at("identify the init"))?);
    // Before the app runs: nothing runs that nobody knows of.
    dir.store_record(record).map_err(at("write the record"))?;
    match pipes.message(deadline)? {
        Some(Message::Ready) => {}
        Some(failure) => return Err(failed_inside(failure, inside)),
        None => return Err(Failure::new("build the root", "the first process ended early")),
    }
    if plan.mode == Mode::Root {
        idmap::write_range(child.pid, spec.uid_base, UID_RANGE).map_err(at("map the users"))?;
    }
    pipes.proceed().map_err(at("let the sandbox go on"))?;
    match pipes.message(deadline)? {
        None => Ok(()), // The pipe closed at exec.
        Some(Message::Ready) => Err(Failure::new("execute the init", "unexpected message")),
        Some(failure) => Err(failed_inside(failure, inside)),
    }
}

fn failed_inside(message: Message, inside: &Inside) -> Failure {
    let (step, errno) = message.describe(&inside.steps);
    Failure::new(step, io::Error::from_raw_os_error(errno))
}

/// The folder, its FIFOs and the exit record; locked until the launcher has left.
fn make_folder(run_dir: &Path, dir: &SandboxDir, plan: &Record) -> Result<OwnedFd, Failure> {
    let private = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
    // A sweep must not see the folder before it is locked.
    let entering =
        lock_run_dir(run_dir, FlockOperation::LockShared).map_err(at("lock the run folder"))?;
    private(dir.path()).map_err(|error| Failure {
        exists: error.kind() == io::ErrorKind::AlreadyExists,
        ..Failure::new(format!("make the folder {}", dir.path().display()), error)
    })?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let lock: OwnedFd = options.open(dir.lock()).map_err(at("make the lock"))?.into();
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(io::Error::from)
        .map_err(at("lock the folder"))?;
    drop(entering);
    dir.store_plan(plan).map_err(at("write the plan"))?;
    private(&dir.root()).map_err(at("make the mount point"))?;
    for path in [dir.out(), dir.err()] {
        make_fifo(&path, plan).map_err(at(format!("make {}", path.display())))?;
    }
    let mut exit = options.open(dir.exit()).map_err(at("make the exit record"))?;
    exit.write_all(&crate::exit::initial()).map_err(at("write the exit record"))?;
    Ok(lock)
}

/// The app may open its own output again by `/dev/stdout`, so its group may write. It does not own
/// the FIFO, and so cannot change that.
fn make_fifo(path: &Path, plan: &Record) -> io::Result<()> {
    rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, FileMode::from_raw_mode(0o600), 0)?;
    if plan.mode == Mode::Root {
        let group = rustix::fs::Gid::from_raw(plan.uid_base + APP_UID);
        rustix::fs::chown(path, None, Some(group))?;
        rustix::fs::chmod(path, FileMode::from_raw_mode(0o620))?;
    }
    Ok(())
}

fn prepare(plan: &LaunchPlan, dir: &SandboxDir) -> Result<Inside, Failure> {
    let spec = &plan.spec;
    let facts =
        host::facts(spec).map_err(|(path, e)| Failure::new(format!("look at {path}"), e))?;
    let (mounts, prepared) = match plan.mode {
        Mode::Root => detached_mounts(spec)?,
        Mode::User => (Vec::new(), Prepared::default()),
    };
    let root = Root { spec, mode: plan.mode, facts: &facts, prepared: &prepared, at: &dir.root() };
    let text = |plain: &[u8]| CString::new(plain).map_err(|e| Failure::new("read the plan", e));
    let mut argv = vec![c"insula-init".to_owned()];
    for argument in &spec.argv {
        argv.push(text(argument.as_bytes())?);
    }
    let mut envp = Vec::new();
    for (name, value) in &spec.env {
        envp.push(text(format!("{name}={value}").as_bytes())?);
    }
    let mut groups = Vec::new();
    for group in plan.cgroups.iter().filter(|group| group.version == Version::V1) {
        groups.push(text(group.path.join("tasks").as_os_str().as_bytes())?);
    }
    Ok(Inside {
        mode: plan.mode,
        host_uid: spec.uid_base + APP_UID,
        groups,
        steps: root.steps(),
        mounts,
        hostname: text(spec.hostname.as_bytes())?,
        cwd: text(spec.cwd.as_os_str().as_bytes())?,
        nofile: spec.limits.nofile,
        own_network: plan.mode == Mode::Root,
        filter: seccomp::compile(),
        argv: StringArray::new(argv),
        envp: StringArray::new(envp),
        init: sealed_init().map_err(at("prepare the init"))?,
        files: open_files(dir).map_err(at("open the log pipes"))?,
    })
}

/// Layers and binds as mounts that are attached nowhere yet, with owners mapped where possible.
fn detached_mounts(spec: &SandboxSpec) -> Result<(Vec<OwnedFd>, Prepared), Failure> {
    const SAFE: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    let app_uid = spec.uid_base + APP_UID;
    let mut mounts = Vec::new();
    let mut prepared = Prepared { owners_mapped: true, ..Prepared::default() };
    let mut owners = idmap::Owners::new(spec.uid_base, APP_UID);
    for layer in &spec.app.lower {
        let mount = detached(layer, SAFE | MOUNT_ATTR_RDONLY)?;
        prepared.owners_mapped &=
            owners.apply_to_layer(&mount).map_err(at("map the owners of a layer"))?;
        prepared.lower.push(mounts.len());
        mounts.push(mount);
    }
    if let Upper::Directory { upper, work } = &spec.app.upper {
        // An overlay wants both folders in one mount, so their parent is what we take.
        let alone = spec.app.lower.is_empty();
        let source = if alone { Some(upper.as_path()) } else { upper.parent() };
        let mount = detached(source.unwrap_or(Path::new("/")), SAFE)?;
        let mapped =
            owners.apply_to_layer(&mount).map_err(at("map the owners of the writable layer"))?;
        prepared.owners_mapped &= mapped || alone;
        if !mapped {
            for folder in [upper, work] {
                own(folder, app_uid).map_err(at(format!("give away {}", folder.display())))?;
            }
        }
        prepared.upper = Some(mounts.len());
        mounts.push(mount);
    }
    for bind in &spec.binds {
        let attributes = if bind.read_only { SAFE | MOUNT_ATTR_RDONLY } else { SAFE };
        let mount = detached(&bind.source, attributes)?;
        // What cannot be written keeps its owners: a private file of the host stays private.
        if !bind.read_only {
            let mapped = owners.apply(&mount).map_err(at("map the owners of a bound folder"))?;
            if !mapped {
                let source = &bind.source;
                own(source, app_uid).map_err(at(format!("give away {}", source.display())))?;
            }
        }
        prepared.binds.push(mounts.len());
        mounts.push(mount);
    }
    Ok((mounts, prepared))
}

fn detached(source: &Path, attributes: u64) -> Result<OwnedFd, Failure> {
    let step = || at(format!("take {}", source.display()));
    let name = CString::new(source.as_os_str().as_bytes()).map_err(|e| step()(e.into()))?;
    let mount = step::detach(&name, false).map_err(step())?;
    sys::mount_restrict(mount.as_fd(), attributes, false).map_err(step())?;
    Ok(mount)
}

/// Where owners cannot be mapped, a writable folder of the host belongs to the app's user.
fn own(folder: &Path, uid: u32) -> io::Result<()> {
    let name = CString::new(folder.as_os_str().as_bytes())?;
    if fs::metadata(folder)?.is_dir() {
        step::Step::OwnTree { path: name, owner: uid }.run(&[])
    } else {
        std::os::unix::fs::chown(folder, Some(uid), Some(uid))
    }
}

/// The init in memory: sealed, so that nothing changes it, and unreadable, so that the kernel
/// makes whoever executes it not dumpable from the first instruction.
fn sealed_init() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = match rustix::fs::memfd_create(c"insula-init", flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag and make every memfd executable.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(c"insula-init", flags)?,
        other => other?,
    };
    let mut rest = INIT;
    while !rest.is_empty() {
        let count = rustix::io::write(&memfd, rest)?;
        rest = &rest[count..];
    }
    rustix::fs::fchmod(&memfd, FileMode::from_raw_mode(0o111))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memfd, seals)?;
    Ok(memfd)
}

fn open_files(dir: &SandboxDir) -> io::Result<Files> {
    let open = |path: &Path, flags: OFlags| -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(path, flags | OFlags::CLOEXEC, FileMode::empty())?)
    };
    let both = |path: &Path| -> io::Result<OwnedFd> {
        let pipe = open(path, OFlags::RDWR | OFlags::NONBLOCK)?;
        // Smaller where the user may not have so many pages; the init asks for the real size.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES);
        Ok(pipe)
    };
    let (out, err) = (dir.out(), dir.err());
    Ok(Files {
        null: open(Path::new("/dev/null"), OFlags::RDONLY)?,
        out_both: both(&out)?,
        err_both: both(&err)?,
        out_write: open(&out, OFlags::WRONLY)?,
        err_write: open(&err, OFlags::WRONLY)?,
        exit: open(&dir.exit(), OFlags::WRONLY)?,
    })
}

fn clone(plan: &LaunchPlan, inside: &Inside) -> Result<(sys::Child, Pipes), Failure> {
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from);
    let (go_read, go_write) = pipe().map_err(at("make a pipe"))?;
    let (status_read, status_write) = pipe().map_err(at("make a pipe"))?;
    let shared = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    let flags = match plan.mode {
        Mode::Root => shared | libc::CLONE_NEWNET,
        Mode::User => shared | libc::CLONE_NEWUSER,
    };
    let two = plan.cgroups.iter().find(|group| group.version == Version::V2);
    let cgroup =
        two.map(Group::open).transpose().map_err(|e| Failure::new(e.to_string(), source_of(&e)))?;
    match sys::clone3(flags as u64, cgroup.as_ref().map(AsFd::as_fd)) {
        Ok(Some(child)) => Ok((child, Pipes { go: go_write, status: status_read })),
        Ok(None) => {
            // Without our copies a dead launcher closes the pipe, and the child notices.
            drop((go_write, status_read));
            child::run(
                inside,
                &Wire { from_launcher: go_read.as_fd(), to_launcher: status_write.as_fd() },
            )
        }
        Err(error) => Err(Failure::new("make the namespaces", error)),
    }
}

/// The launcher's ends.
struct Pipes {
    go: OwnedFd,
    status: OwnedFd,
}

impl Pipes {
    fn proceed(&mut self) -> io::Result<()> {
        rustix::io::write(&self.go, b"g")?;
        Ok(())
    }

    /// The next message, or `None` when the child executed the init or ended.
    fn message(&mut self, deadline: Instant) -> Result<Option<Message>, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let ready = crate::identity::has_ended(&self.status, left_ms).map_err(at("wait"))?;
        if !ready {
            let cause = format!("the init was not reached within {} s", EXEC_DEADLINE.as_secs());
            return Err(Failure::new("start the sandbox", cause));
        }
        let mut bytes = [0; MESSAGE_BYTES];
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&self.status, &mut bytes))
            .map_err(io::Error::from)
            .map_err(at("hear from the sandbox"))?;
        if count == 0 {
            return Ok(None);
        }
        let broken = || Failure::new("hear from the sandbox", "a message of unknown form");
        Message::decode(bytes).filter(|_| count == MESSAGE_BYTES).map(Some).ok_or_else(broken)
    }
}

/// Fills every free number below `FIRST_FREE_FD`, so that none of ours is where the init's go.
fn reserve_descriptors() -> io::Result<()> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty())?;
    let mut last = null;
    while last.as_raw_fd() < FIRST_FREE_FD {
        let next = sys::duplicate_above(last.as_fd(), 0)?;
        // Kept open for the life of the launcher.
        std::mem::forget(std::mem::replace(&mut last, next));
    }
    Ok(())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn source_of(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, chain)
}

/// An error and all that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!(": {source}");
        next = source.source();
    }
    text
}
