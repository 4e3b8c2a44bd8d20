//! The sandbox driver as the agent uses it: its calls block, so they go to threads that may.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use insula_model::Timestamp;
use insula_model::observed::Exit;
use insula_sandbox::{
    ControlError, ExitCause, Fate, LaunchError, Mode, OpenError, Record, RecordError, Runtime,
    RuntimeConfig, SandboxDir, SandboxId, SandboxSpec, Signal, Swept, Usage,
};
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;

use crate::contact::Leave;
use crate::probe::Listening;

/// A launch takes some five milliseconds, and the folder is made in the first of them.
const FOLDER_LOOK_EVERY: Duration = Duration::from_micros(200);
/// A keeper is done with a folder within milliseconds.
const DESTROY_ATTEMPTS_MAX: u32 = 5;
const DESTROY_AGAIN_AFTER: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("watch the process of a sandbox")]
    Watch(#[source] io::Error),
    #[error("no server has heard this node for as long as it may run this")]
    NoLeave,
    #[error("a thread that worked on a sandbox ended early")]
    Thread,
}

/// Clones share the driver.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    runtime: Arc<Runtime>,
}

/// Something done in the folder of a sandbox before its app starts.
pub trait Early: Send + 'static {
    /// Called again and again once the folder is there, until it says that it is done.
    fn attempt(&mut self, dir: &SandboxDir) -> bool;
}

impl Sandboxes {
    pub fn open(mode: Mode, run: PathBuf, cgroup_parent: &str) -> Result<Self, SandboxError> {
        let runtime = Runtime::open(RuntimeConfig::new(mode, run, cgroup_parent))?;
        Ok(Self { runtime: Arc::new(runtime) })
    }

    pub fn dir(&self, id: &SandboxId) -> SandboxDir {
        self.runtime.dir(id)
    }

    /// `early` works beside the launcher: what an app writes in its first millisecond has a reader
    /// only if that reader was there before. Leave is asked for when nothing but the launch itself
    /// is left to do; without it nothing was begun.
    pub async fn launch<E: Early>(
        &self,
        spec: SandboxSpec,
        leave: Leave,
        mut early: E,
    ) -> Result<(Record, E), SandboxError> {
        let dir = self.runtime.dir(&spec.id);
        let over = Arc::new(AtomicBool::new(false));
        let beside = spawn_blocking({
            let over = Arc::clone(&over);
            move || {
                loop {
                    let last = over.load(Ordering::Acquire);
                    if dir.path().exists() && early.attempt(&dir) || last {
                        return early;
                    }
                    std::thread::sleep(FOLDER_LOOK_EVERY);
                }
            }
        });
        let launched = self.call(move |runtime| launch(runtime, &spec, &leave)).await;
        over.store(true, Ordering::Release);
        let early = beside.await.map_err(|_| SandboxError::Thread)?;
        Ok((launched??, early))
    }

    pub async fn load(&self, id: SandboxId) -> Result<Option<Record>, SandboxError> {
        Ok(self.call(move |runtime| runtime.load(&id)).await??)
    }

    pub async fn list(&self) -> Result<Vec<Record>, SandboxError> {
        Ok(self.call(|runtime| runtime.list()).await??)
    }

    pub async fn sweep(&self) -> Result<Swept, SandboxError> {
        Ok(self.call(|runtime| runtime.sweep()).await??)
    }

    /// Becomes ready when the sandbox has ended; at once if it has.
    pub async fn ended(&self, record: &Record) -> Result<(), SandboxError> {
        let pidfd: OwnedFd = match self.runtime.pidfd(record)? {
            Some(pidfd) => pidfd,
            None => return Ok(()),
        };
        // Deprecated for types that lie about their descriptor, which an owned one cannot; the
        // other door is `unsafe`, and that stays in the driver.
        #[expect(deprecated)]
        let pidfd = AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)
            .map_err(SandboxError::Watch)?;
        // Readable for ever, once it is.
        pidfd.readable().await.map_err(SandboxError::Watch)?.retain_ready();
        Ok(())
    }

    pub fn is_alive(&self, record: &Record) -> Result<bool, SandboxError> {
        Ok(self.runtime.is_alive(record)?)
    }

    pub fn signal(&self, record: &Record, signal: i32) -> Result<(), SandboxError> {
        match Signal::from_named_raw(signal) {
            Some(signal) => Ok(self.runtime.signal(record, signal)?),
            // Ours are all named; nothing is sent rather than something else.
            None => Ok(()),
        }
    }

    pub async fn kill(&self, record: Record) -> Result<(), SandboxError> {
        Ok(self.call(move |runtime| runtime.kill(&record)).await??)
    }

    /// Ends it if need be, and removes all of it.
    pub async fn destroy(&self, record: Record) -> Result<(), SandboxError> {
        let mut attempts = 1;
        loop {
            let again = record.clone();
            match self.call(move |runtime| runtime.destroy(&again)).await? {
                Ok(()) => return Ok(()),
                // A keeper that is just writing the end of the log puts files into the folder.
                Err(_) if attempts < DESTROY_ATTEMPTS_MAX => attempts += 1,
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(DESTROY_AGAIN_AFTER).await;
        }
    }

    /// How a sandbox that has ended went, and when, if its init could say so. Its counters decide about memory, not its exit code: a
    /// shell whose child was killed for memory ends with 137 like any other.
    pub fn exit(&self, record: &Record) -> (Exit, Option<Timestamp>) {
        let killed_for_memory = self.usage(record).is_some_and(|usage| usage.oom_kills > 0);
        let fate = self.runtime.fate(record);
        let at = match &fate {
            Ok(Fate::Ended(end)) => i64::try_from(end.ended_ms).ok().map(Timestamp::from_millis),
            Ok(Fate::Lost | Fate::Running) | Err(_) => None,
        };
        let exit = match fate {
            Ok(Fate::Ended(end)) => match end.cause {
                ExitCause::Signaled { signal: 9 } if killed_for_memory => Exit::OutOfMemory,
                ExitCause::Exited { code: 137 } if killed_for_memory => Exit::OutOfMemory,
                ExitCause::Exited { code } => Exit::Code { code: code.into() },
                ExitCause::Signaled { signal } => Exit::Signal { signal },
                ExitCause::ExecFailed { errno } => {
                    let error = io::Error::from_raw_os_error(errno);
                    Exit::NotStarted { reason: format!("the command could not be run: {error}") }
                }
            },
            Ok(Fate::Lost) if killed_for_memory => Exit::OutOfMemory,
            Ok(Fate::Lost | Fate::Running) | Err(_) => Exit::Lost,
        };
        (exit, at)
    }

    pub fn usage(&self, record: &Record) -> Option<Usage> {
        self.runtime.usage(record).ok()
    }

    pub fn dropped_bytes(&self, record: &Record) -> u64 {
        self.runtime.dropped_bytes(record).unwrap_or_default()
    }

    /// Of all processes in the sandboxes whose names begin so; of one that has ended, none.
    pub async fn pids(&self, prefix: &str) -> Result<Vec<u32>, SandboxError> {
        let prefix = prefix.to_owned();
        self.call(move |runtime| {
            let mut pids = Vec::new();
            for record in runtime.list()? {
                // One that ends meanwhile must not hide the others.
                if record.id.as_str().starts_with(&prefix)
                    && let Ok(processes) = runtime.processes(&record)
                {
                    pids.extend(processes.iter().map(|process| process.pid));
                }
            }
            Ok(pids)
        })
        .await?
    }

    pub fn listening(&self, record: &Record) -> io::Result<Vec<Listening>> {
        // On the host's network the gateway is at home on loopback, too.
        let host = matches!(record.network, insula_sandbox::Network::Host);
        let ports = self.runtime.listening_ports(record).map_err(io::Error::other)?;
        let listening = |it: insula_sandbox::Listener| Listening {
            port: it.port,
            loopback: it.loopback_only && !host,
        };
        Ok(ports.into_iter().map(listening).collect())
    }

    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Runtime) -> T + Send + 'static,
    ) -> Result<T, SandboxError> {
        let runtime = Arc::clone(&self.runtime);
        spawn_blocking(move || call(&runtime)).await.map_err(|_| SandboxError::Thread)
    }
}

fn launch(runtime: &Runtime, spec: &SandboxSpec, leave: &Leave) -> Result<Record, SandboxError> {
    if !leave.is_given() {
        return Err(SandboxError::NoLeave);
    }
    Ok(runtime.launch(spec)?)
}
