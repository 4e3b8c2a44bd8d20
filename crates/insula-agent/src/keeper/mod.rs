//! The keeper: takes what the sandboxes of a node write and keeps it, whoever else comes and goes.
//!
//! One process per node, apart from the agent, so that upgrading or killing the agent is not noticed
//! by any app; and built so that killing the keeper itself is not noticed either:
//!
//! - The FIFOs are held open by the inits. While no keeper runs, output waits in them.
//! - What is taken out of a FIFO is moved by the kernel into a file (see `spool`), and a keeper that
//!   returns goes on where that file and the log differ. Nothing of value is only in memory.
//! - No app ever waits for a disk: what cannot be written, or is over the rate, is dropped, counted,
//!   and said so in the log.
//!
//! It has one thread (and one for `fence`), sleeps in the kernel while nothing is written, and uses one set of buffers for
//! all instances. Not here: starting and ending sandboxes, and reading logs (see `log`).

mod contract;
mod control;
mod fence;
mod gate;
mod instance;
mod intake;
mod sandbox;
mod spool;

pub use contract::{ContractError, Exit, KeptRecord, LOG_SCHEMA, LogSpec};
pub use control::{is_running, nudge, spawn_if_absent, stop};
pub use fence::{Word, tell};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use insula_model::{AppId, Timestamp};
use rustix::event::{Timespec, epoll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::chain;
use crate::log::{Bound, LogRoot, Seal, SegmentName, Stream, enforce_app, enforce_node};
use contract::KeptRecord as Record;
use control::{Lock, Order, Socket};
use instance::{Ended, Instance, Turn};
use intake::Scratch;

/// What one node keeps of all apps and builds together, unless told otherwise.
pub const NODE_BOUND: Bound = Bound { bytes: 4 << 30, segments: 200_000 };
/// The whole node is looked over once in so many segments: it takes a while where apps are many.
const SEGMENTS_PER_NODE_LOOK: u32 = 32;
/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 64;
/// A record of an end that could not be written is tried again this often.
const RECORD_RETRY_MS: i64 = 1_000;

const SOCKET: u64 = 0;
const FOLDERS: u64 = 1;
/// The tokens of an instance are its key times this, plus one of the following.
const TOKENS: u64 = 4;
const PIPE_OUT: u64 = 0;
const PIPE_ERR: u64 = 1;
const PROCESS: u64 = 2;

#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// The data folder of the node.
    pub data: PathBuf,
    /// What is kept of all apps and builds together; `NODE_BOUND` unless the operator decides.
    pub node_bound: Bound,
}

#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error("take over the sandboxes in {run}")]
    TakeOver {
        run: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("wait for the sandboxes in {run}")]
    Wait {
        run: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Keeps the logs until told to stop, or replaced by another keeper of the same folder.
pub fn run(config: KeeperConfig) -> Result<ExitCode, KeeperError> {
    let run = config.data.join("run");
    let take_over = |source| KeeperError::TakeOver { run: run.clone(), source };
    leave_the_spawner();
    let mut keeper = Keeper::start(&config).map_err(take_over)?;
    fence::begin(run.clone()).map_err(take_over)?;
    keeper.watch().map_err(|source| KeeperError::Wait { run: run.clone(), source })?;
    Ok(ExitCode::SUCCESS)
}

/// Best effort: each of these fails for somebody who has it already, or may not.
fn leave_the_spawner() {
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    // Six descriptors for each instance.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // Losing the keeper costs little, but every app of the node would fill its pipe.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-500");
}

struct Keeper {
    run: PathBuf,
    root: LogRoot,
    node_bound: Bound,
    socket: Socket,
    epoll: OwnedFd,
    folders: OwnedFd,
    instances: BTreeMap<u64, Instance>,
    /// The folders of `instances`.
    held: BTreeMap<PathBuf, u64>,
    next_key: u64,
    /// Ended, but the record could not be written: for which folder, and when to try again.
    unrecorded: BTreeMap<PathBuf, (Record, i64)>,
    /// Folders that cannot be kept for now; said once, tried again.
    refused: BTreeSet<PathBuf>,
    sealing: Option<Seal>,
    to_seal: VecDeque<PathBuf>,
    segments_since_look: u32,
    scratch: Scratch,
    /// Last, so that whoever takes over finds every segment let go.
    _lock: Lock,
}

impl Keeper {
    fn start(config: &KeeperConfig) -> io::Result<Self> {
        let run = config.data.join("run");
        let lock = Lock::take(&run)?;
        let socket = Socket::bind(&run)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let folders = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Watched before it is read, so that no sandbox falls in between.
        let appears = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&folders, &run, appears)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(SOCKET), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &folders, epoll::EventData::new_u64(FOLDERS), epoll::EventFlags::IN)?;
        let mut keeper = Self {
            run,
            root: LogRoot::of(&config.data),
            node_bound: config.node_bound,
            socket,
            epoll,
            folders,
            instances: BTreeMap::new(),
            held: BTreeMap::new(),
            next_key: 1,
            unrecorded: BTreeMap::new(),
            refused: BTreeSet::new(),
            sealing: None,
            to_seal: VecDeque::new(),
            segments_since_look: 0,
            scratch: Scratch::new(),
            _lock: lock,
        };
        keeper.scan()?;
        Ok(keeper)
    }

    /// The loop: sleep, take, seal a little, until told to stop.
    fn watch(&mut self) -> io::Result<()> {
        let mut events = [MaybeUninit::uninit(); EVENTS_MAX];
        loop {
            let timeout = self.timeout();
            let (ready, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if ready.is_empty() && !self.refused.is_empty() {
                self.scan()?;
            }
            let tokens: Vec<u64> = ready.iter().map(|event| event.data.u64()).collect();
            for token in tokens {
                match token {
                    SOCKET => {
                        while let Some(order) = self.socket.receive() {
                            match order {
                                Order::Stop => return Ok(()),
                                Order::Nudge => self.scan()?,
                            }
                        }
                    }
                    FOLDERS => self.folders_changed()?,
                    token => self.ready(token),
                }
            }
            self.due();
            self.seal_a_little();
        }
    }

    /// For ever, unless something is due or being sealed.
    fn timeout(&self) -> Option<Timespec> {
        if self.sealing.is_some() || !self.to_seal.is_empty() {
            return Some(control::timespec(Duration::ZERO));
        }
        let instances = self.instances.values().filter_map(Instance::due_ms);
        let records = self.unrecorded.values().map(|(_, due)| *due);
        let again = (!self.refused.is_empty()).then(|| now().as_millis() + RECORD_RETRY_MS);
        let due = instances.chain(records).chain(again).min()?;
        let ms = u64::try_from(due - now().as_millis()).unwrap_or(0);
        // A millisecond more, so that it is due when we wake.
        Some(control::timespec(Duration::from_millis(ms.min(RECORD_RETRY_MS as u64) + 1)))
    }

    /// Looks for sandboxes that we do not keep yet.
    fn scan(&mut self) -> io::Result<()> {
        for dir in crate::log::folders(&self.run)? {
            if self.held.contains_key(&dir) || self.unrecorded.contains_key(&dir) {
                continue;
            }
            // Watched before it is read: what is not complete yet wakes us when it is.
            let completes = WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
            let watch = inotify::add_watch(&self.folders, &dir, completes);
            let adopted = Instance::adopt(&dir, &self.root, now(), &mut self.scratch);
            let settled = match adopted {
                Ok(Some(instance)) => {
                    self.refused.remove(&dir);
                    self.hold(dir, instance);
                    true
                }
                Ok(None) => Record::exists(&dir),
                Err(error) => {
                    if self.refused.insert(dir.clone()) {
                        let error = chain(&error);
                        tracing::warn!(error, "cannot keep the log of a sandbox");
                    }
                    false
                }
            };
            if settled && let Ok(watch) = watch {
                let _ = inotify::remove_watch(&self.folders, watch);
            }
        }
        self.refused.retain(|dir| dir.exists());
        Ok(())
    }

    fn hold(&mut self, dir: PathBuf, mut instance: Instance) {
        let key = self.next_key;
        self.next_key += 1;
        tracing::info!(instance = %instance.spec().instance, "keeping its log");
        let complete = instance.take_complete();
        self.segments_are_complete(complete, instance.spec().app, instance.keep());
        self.to_seal.extend(left_plain(instance.log_dir()));
        let listened = self.listen(key, &instance);
        let ended = instance.pidfd().is_none();
        self.held.insert(dir, key);
        self.instances.insert(key, instance);
        if let Err(error) = listened {
            // Nothing can be listened to any more: better to go, and let the next one try.
            tracing::error!(%error, "listen to a sandbox");
        }
        if ended {
            self.end(key);
        }
    }

    fn listen(&self, key: u64, instance: &Instance) -> io::Result<()> {
        let token = |kind| epoll::EventData::new_u64(key * TOKENS + kind);
        if let Some(pidfd) = instance.pidfd() {
            epoll::add(
                &self.epoll,
                instance.pipe(Stream::Out),
                token(PIPE_OUT),
                epoll::EventFlags::IN,
            )?;
            epoll::add(
                &self.epoll,
                instance.pipe(Stream::Err),
                token(PIPE_ERR),
                epoll::EventFlags::IN,
            )?;
            epoll::add(&self.epoll, pidfd, token(PROCESS), epoll::EventFlags::IN)?;
        }
        Ok(())
    }

    fn folders_changed(&mut self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.folders, &mut buffer);
        // What changed does not matter; looking at everything is the same work.
        while events.next().is_ok() {}
        self.scan()
    }

    fn ready(&mut self, token: u64) {
        let key = token / TOKENS;
        // Of an instance that ended earlier in the same round.
        let Some(instance) = self.instances.get_mut(&key) else { return };
        let stream = match token % TOKENS {
            PIPE_OUT => Stream::Out,
            PIPE_ERR => Stream::Err,
            _ => return self.end(key),
        };
        let turn = instance.turn(stream, now(), &mut self.scratch);
        if turn == Turn::End {
            // Would be ready for ever; the end of the process comes by its own descriptor.
            let _ = epoll::delete(&self.epoll, instance.pipe(stream));
        }
        let (complete, app, keep) =
            (instance.take_complete(), instance.spec().app, instance.keep());
        self.segments_are_complete(complete, app, keep);
    }

    fn end(&mut self, key: u64) {
        let Some(instance) = self.instances.remove(&key) else { return };
        self.held.retain(|_, held| *held != key);
        let (app, keep) = (instance.spec().app, instance.keep());
        let Ended { dir, kept, complete } = instance.finish(now(), &mut self.scratch);
        tracing::info!(instance = %kept.instance, exit = ?kept.exit, "its log is complete");
        self.segments_are_complete(complete, app, keep);
        self.record(dir, kept);
    }

    fn record(&mut self, dir: PathBuf, kept: Record) {
        let Err(error) = kept.store(&dir) else { return };
        if dir.exists() {
            let error = chain(&error);
            tracing::warn!(instance = %kept.instance, error, "write the record of the end");
            self.unrecorded.insert(dir, (kept, now().as_millis() + RECORD_RETRY_MS));
        }
    }

    fn due(&mut self) {
        let now = now();
        for instance in self.instances.values_mut() {
            instance.wake(now, &mut self.scratch);
        }
        let (due, later) = std::mem::take(&mut self.unrecorded)
            .into_iter()
            .partition(|(_, (_, due))| *due <= now.as_millis());
        self.unrecorded = later;
        for (dir, (kept, _)) in due {
            self.record(dir, kept);
        }
    }

    fn segments_are_complete(&mut self, complete: Vec<PathBuf>, app: AppId, keep: Bound) {
        if complete.is_empty() {
            return;
        }
        self.segments_since_look += complete.len() as u32;
        self.to_seal.extend(complete);
        let mut done = enforce_app(&self.root.app(app), keep);
        if self.segments_since_look >= SEGMENTS_PER_NODE_LOOK {
            self.segments_since_look = 0;
            done = done.and(enforce_node(&self.root, self.node_bound));
        }
        if let Err(error) = done {
            tracing::warn!(%error, "remove old logs");
        }
    }

    fn seal_a_little(&mut self) {
        if self.sealing.is_none() {
            let Some(next) = self.to_seal.pop_front() else { return };
            // Gone by retention, or no room: it stays as it is.
            self.sealing = Seal::begin(&next).ok();
        }
        let Some(seal) = self.sealing.as_mut() else { return };
        match seal.step() {
            Ok(false) => {}
            Ok(true) => self.sealing = None,
            Err(error) => {
                tracing::warn!(%error, "seal a segment");
                self.sealing = None;
            }
        }
    }
}

/// Segments that an earlier keeper had no time to seal.
fn left_plain(dir: &Path) -> Vec<PathBuf> {
    let names = SegmentName::list(dir).unwrap_or_default();
    let older = names.split_last().map_or(&[][..], |(_, older)| older);
    older.iter().filter(|name| !name.sealed).map(|name| dir.join(name.to_string())).collect()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
