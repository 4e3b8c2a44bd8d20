//! One build, from its source to its layer, or to the cause of its failure.
//!
//! A build is a function of its source: one that we interrupted is begun again from nothing, within
//! bounds. Its result stays on the board until the Target no longer names it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insula_kit::backoff::Backoff;
use insula_model::build::{Artifact, BuildStep};
use insula_model::deployment::{Cause, CauseCode};
use insula_model::limits::{BUILD_ATTEMPTS_MAX, CAUSE_TAIL_LINES_MAX};
use insula_model::observed::{BuildPhase, Exit};
use insula_model::target::BuildTarget;
use insula_model::{BuildId, Bytes};
use insula_sandbox::{Record, SandboxId, SandboxSpec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::output::{BuildLog, Pipes};
use super::settings::Settings;
use super::spec::{Surroundings, spec};
use super::state::BuildState;
use super::turns::Turn;
use super::watch::{DiskWatch, ease, is_full};
use crate::artifact::{Lease, Opaque, PackError, Packed, pack};
use crate::contact::Leave;
use crate::error::chain;
use crate::instance::shortened;
use crate::log::{Stream, query_build};
use crate::names::{Presence, Tenant};
use crate::places::Held;
use crate::sandbox::SandboxError;
use crate::server::{BlobError, BlobKind, pieces_of};
use crate::shared::Shared;
use crate::tree;

/// A server that is away takes the result when it is back.
const STORE_AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// What a build does first.
const FETCH: &str = "fetch the source";

#[derive(Debug)]
pub struct BuildTask {
    shared: Arc<Shared>,
    target: BuildTarget,
    /// Its place in the queue, until it runs.
    turn: Option<Turn>,
    settings: Arc<Settings>,
    cancel: CancellationToken,
    /// Held while a launch goes on, which nobody can take back.
    launching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, thiserror::Error)]
enum BuildError {
    /// The build's own fault, or its limits'.
    #[error("{}", .0.message)]
    Cause(Box<Cause>),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("{doing} {}", path.display())]
    Disk {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write the build's log")]
    Log(#[from] crate::log::LogError),
    #[error("give the build a place on this node")]
    Place(#[from] crate::places::NoPlace),
    #[error("a thread that packed a layer ended early")]
    Thread,
}

impl From<Cause> for BuildError {
    fn from(cause: Cause) -> Self {
        Self::Cause(Box::new(cause))
    }
}

impl BuildError {
    fn into_cause(self) -> Cause {
        let code = match &self {
            Self::Cause(cause) => return (**cause).clone(),
            Self::Pack(error) if error.is_full() => CauseCode::DiskFull,
            Self::Blob(error) if error.is_quota() => CauseCode::QuotaExceeded,
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                CauseCode::DiskFull
            }
            Self::Pack(PackError::TooLarge { .. } | PackError::TooMany | PackError::TooDeep) => {
                CauseCode::BuildFailed
            }
            Self::Sandbox(_)
            | Self::Pack(PackError::Io { .. })
            | Self::Blob(_)
            | Self::Disk { .. }
            | Self::Log(_)
            | Self::Place(_)
            | Self::Thread => CauseCode::Internal,
        };
        Cause::new(code, chain(&self))
    }
}

/// The folders of one attempt.
struct Folders {
    layer: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    cache: PathBuf,
    archive: PathBuf,
}

impl BuildTask {
    pub fn new(
        shared: Arc<Shared>,
        target: BuildTarget,
        mut turn: Turn,
        settings: Arc<Settings>,
        cancel: CancellationToken,
    ) -> Self {
        let launching = Arc::default();
        let phase = match turn.has_begun() {
            true => BuildPhase::Running { step: FETCH.into() },
            false => BuildPhase::Waiting,
        };
        let turn = Some(turn);
        let task = Self { shared, target, turn, settings, cancel, launching };
        task.report(phase);
        task
    }

    /// Until the Target does not name it any more.
    pub async fn run(mut self) {
        let id = self.target.id;
        let turn = self.turn.take();
        let cancelled = self.cancel.clone();
        let outcome = tokio::select! {
            outcome = self.outcome(turn) => Some(outcome),
            () = cancelled.cancelled() => None,
        };
        // Whatever the future above was doing when it was dropped, its processes end here.
        self.end_sandboxes().await;
        self.shared.names.set(Tenant::Build(id), None);
        self.ease_cache().await;
        if let Some(outcome) = outcome {
            self.report(outcome);
            cancelled.cancelled().await;
        }
        let layout = self.shared.layout.clone();
        let removed = tokio::task::spawn_blocking(move || BuildState::remove(&layout, id)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(build = %id, %error, "remove the folder of a build");
        }
        self.shared.board.remove_build(id);
    }

    fn report(&self, phase: BuildPhase) {
        let (build, trace) = (self.target.id, &self.target.trace);
        match &phase {
            BuildPhase::Waiting => tracing::info!(%build, trace, "build waits for its turn"),
            BuildPhase::Running { step } => tracing::info!(%build, trace, step, "build"),
            BuildPhase::Done { .. } => tracing::info!(%build, trace, "build done"),
            BuildPhase::Failed { cause } => {
                tracing::info!(%build, trace, cause = cause.code.as_str(), "build failed");
            }
        }
        self.shared.board.put_build(self.target.id, phase);
    }

    fn id(&self) -> BuildId {
        self.target.id
    }

    async fn outcome(&self, turn: Option<Turn>) -> BuildPhase {
        let mut state = BuildState::load(&self.shared.layout, self.id());
        if state.attempt != self.target.attempt {
            state = BuildState { attempt: self.target.attempt, ..BuildState::default() };
        }
        if let Some(outcome) = state.outcome {
            return outcome;
        }
        let phase = if state.begun >= BUILD_ATTEMPTS_MAX {
            let message = format!("the build was interrupted {} times", state.begun);
            BuildPhase::Failed { cause: Cause::new(CauseCode::BuildInterrupted, message) }
        } else {
            let mut turn = turn;
            if let Some(turn) = &mut turn {
                turn.begins().await;
            }
            // Held to the end of the build, whose time counts from here: see `steps`.
            state.begun += 1;
            self.keep(&state);
            match self.build().await {
                Ok(artifact) => BuildPhase::Done { artifact },
                Err(cause) => BuildPhase::Failed { cause },
            }
        };
        state.outcome = Some(phase.clone());
        self.keep(&state);
        phase
    }

    fn keep(&self, state: &BuildState) {
        let layout = &self.shared.layout;
        let kept = std::fs::create_dir_all(layout.build(self.id()))
            .map_err(|error| error.to_string())
            .and_then(|()| state.store(layout, self.id()).map_err(|error| chain(&error)));
        if let Err(error) = kept {
            tracing::warn!(build = %self.id(), error, "keep the state of a build");
        }
    }

    async fn build(&self) -> Result<Artifact, Cause> {
        let source = Artifact { source: self.target.source, built: None, size: Bytes(0) };
        self.report(BuildPhase::Running { step: FETCH.into() });
        let lease = self
            .shared
            .artifacts
            .lease(self.target.place.org, &source)
            .await
            .map_err(|error| error.cause())?;
        if self.target.plan.steps.is_empty() {
            return Ok(Artifact { size: lease.bytes, ..source });
        }
        let secrets = self.shared.secrets().of(self.id());
        let clock = Arc::clone(&self.shared.clock);
        let log = BuildLog::open(&self.shared.logs, self.id(), secrets.values(), clock)
            .map_err(|error| BuildError::from(error).into_cause())?;
        let built = self.steps(&lease, &log).await;
        if let Err(error) = &built {
            log.say(format!("failed: {}", chain(error))).await;
        }
        let logged = log.finish().await;
        match built {
            Ok(artifact) => {
                if let Err(error) = logged {
                    tracing::warn!(build = %self.id(), error = %chain(&error), "log of a build");
                }
                Ok(artifact)
            }
            Err(error) => {
                let mut cause = error.into_cause();
                cause.tail = self.tail().await;
                Err(cause)
            }
        }
    }

    async fn steps(&self, lease: &Lease, log: &BuildLog) -> Result<Artifact, BuildError> {
        for warning in &self.target.plan.warnings {
            log.say(format!("warning: {warning}")).await;
        }
        let folders = self.folders().await?;
        let place = self.shared.places.take(self.target.place.environment).await?;
        let presence = Presence {
            environment: self.target.place.environment,
            app: None,
            address: place.place.address(),
            serves: None,
            routed: false,
        };
        self.shared.names.set(Tenant::Build(self.id()), Some(presence));
        let deadline = Instant::now() + self.target.time_limit.as_duration();
        let (layer, cache) = (folders.layer.clone(), folders.cache.clone());
        let disk = DiskWatch::begin(layer, cache, self.target.output_max);
        let sandboxes = &self.shared.sandboxes;
        let full = disk.clone().run(sandboxes.clone(), self.id());
        tokio::pin!(full);
        for (number, step) in self.target.plan.steps.iter().enumerate() {
            self.report(BuildPhase::Running { step: step.name.clone() });
            log.say(format!("── {}", step.name)).await;
            tokio::select! {
                done = self.step(number, step, lease, &folders, &place, log) => done?,
                cause = &mut full => return Err(cause.into()),
                () = tokio::time::sleep_until(deadline) => {
                    let limit = self.target.time_limit;
                    let message =
                        format!("`{}` was still running after {limit}", step.name);
                    return Err(Cause::new(CauseCode::BuildTimeout, message).into());
                }
            }
        }
        drop(place);
        // What came after the last look.
        if let Some(cause) = disk.now(sandboxes, self.id()).await {
            return Err(cause.into());
        }
        self.finish(lease, &folders, log).await
    }

    async fn folders(&self) -> Result<Folders, BuildError> {
        let top = self.shared.layout.build(self.id());
        let layer = top.join("layer");
        let folders = Folders {
            upper: layer.join("upper"),
            work: layer.join("work"),
            cache: self.shared.layout.build_cache(self.target.place.app),
            archive: top.join("layer.tar.gz"),
            layer,
        };
        let (layer, archive) = (folders.layer.clone(), folders.archive.clone());
        let made = [folders.upper.clone(), folders.work.clone(), folders.cache.clone()];
        let cache = folders.cache.clone();
        tokio::task::spawn_blocking(move || {
            remove(&layer)?;
            match std::fs::remove_file(&archive) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(BuildError::Disk { doing: "remove", path: archive, source });
                }
                Ok(()) | Err(_) => {}
            }
            ease(&cache).map_err(|source| BuildError::Disk {
                doing: "ease",
                path: cache,
                source,
            })?;
            for path in made {
                std::fs::create_dir_all(&path).map_err(|source| BuildError::Disk {
                    doing: "make",
                    path,
                    source,
                })?;
            }
            Ok(())
        })
        .await
        .map_err(|_| BuildError::Thread)??;
        Ok(folders)
    }

    /// Caches lie there until the app is built again, which may be never.
    async fn ease_cache(&self) {
        if self.target.plan.steps.is_empty() {
            return;
        }
        let cache = self.shared.layout.build_cache(self.target.place.app);
        let eased = tokio::task::spawn_blocking(move || ease(&cache)).await;
        if let Ok(Err(error)) = eased {
            tracing::warn!(build = %self.id(), %error, "ease a cache of builds");
        }
    }

    async fn step(
        &self,
        number: usize,
        step: &BuildStep,
        lease: &Lease,
        folders: &Folders,
        place: &Held,
        log: &BuildLog,
    ) -> Result<(), BuildError> {
        let spec = spec(
            &self.target,
            step,
            Surroundings {
                sandbox: sandbox_id(self.id(), number),
                layers: lease.layers.clone(),
                upper: &folders.upper,
                work: &folders.work,
                cache: &folders.cache,
                place: &place.place,
                settings: &self.settings,
                open_usr_local: self.shared.open_usr_local,
            },
        );
        let (record, mut pipes) = self.launch(spec).await?;
        tokio::select! {
            ended = self.shared.sandboxes.ended(&record) => ended?,
            broken = pipes.copy(log) => {
                let Err(source) = broken;
                let path = self.shared.sandboxes.dir(&record.id).path().to_owned();
                return Err(BuildError::Disk { doing: "read the pipes in", path, source });
            }
        }
        pipes.drain(log).await;
        let (exit, _) = self.shared.sandboxes.exit(&record);
        let starved = self.shared.sandboxes.usage(&record).is_some_and(|it| it.oom_kills > 0);
        self.shared.sandboxes.destroy(record).await?;
        if exit == (Exit::Code { code: 0 }) {
            return Ok(());
        }
        let full = is_full(&folders.layer);
        Err(failure(step, exit, starved, full, &self.target).into())
    }

    /// Goes on to its end even if nobody waits for it any more, so that it can be waited for.
    async fn launch(&self, spec: SandboxSpec) -> Result<(Record, Pipes), SandboxError> {
        let launching = Arc::clone(&self.launching).lock_owned().await;
        let sandboxes = self.shared.sandboxes.clone();
        let launched = tokio::spawn(async move {
            let launched = sandboxes.launch(spec, Leave::Always, Pipes::default()).await;
            drop(launching);
            launched
        });
        launched.await.map_err(|_| SandboxError::Thread)?
    }

    async fn finish(
        &self,
        lease: &Lease,
        folders: &Folders,
        log: &BuildLog,
    ) -> Result<Artifact, BuildError> {
        self.report(BuildPhase::Running { step: "pack the result".into() });
        let max = self.target.output_max;
        let opaque = Opaque::of(match self.shared.places.has_networks() {
            true => insula_model::node::NodeMode::Full,
            false => insula_model::node::NodeMode::Development,
        });
        let (upper, archive) = (folders.upper.clone(), folders.archive.clone());
        let packed: Packed =
            tokio::task::spawn_blocking(move || pack(&upper, &archive, max, opaque))
                .await
                .map_err(|_| BuildError::Thread)??;
        if packed.entries == 0 {
            return Ok(Artifact { source: self.target.source, built: None, size: lease.bytes });
        }
        self.store(folders, &packed).await?;
        if packed.owned {
            // What was built here need not be fetched.
            if let Err(error) =
                self.shared.artifacts.adopt_layer(&packed.digest, &folders.upper, packed.size.0)
            {
                tracing::warn!(build = %self.id(), error = %chain(&error), "keep a layer");
            }
        }
        log.say(format!("built {} in {} files", packed.size, packed.entries)).await;
        let size = Bytes(lease.bytes.0.saturating_add(packed.size.0));
        Ok(Artifact { source: self.target.source, built: Some(packed.digest), size })
    }

    async fn store(&self, folders: &Folders, packed: &Packed) -> Result<(), BuildError> {
        let mut failures = 0;
        loop {
            let path = folders.archive.clone();
            let file = std::fs::File::open(&path).map_err(|source| BuildError::Disk {
                doing: "open",
                path,
                source,
            })?;
            let (org, server) = (self.target.place.org, &self.shared.server);
            let stored =
                server.store(org, BlobKind::Artifact, packed.digest, pieces_of(file)).await;
            match stored {
                Ok(()) => return Ok(()),
                Err(error) if error.is_passing() => {
                    failures += 1;
                    tracing::debug!(error = %chain(&error), "store a layer again");
                    tokio::time::sleep(STORE_AGAIN.delay(failures, 1.0)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The last lines that the build itself wrote, with secrets hidden as in the log.
    async fn tail(&self) -> Vec<String> {
        let (root, id) = (self.shared.logs.clone(), self.id());
        let read = tokio::task::spawn_blocking(move || {
            query_build(&root, id, Some(CAUSE_TAIL_LINES_MAX * 2), None)
        });
        let entries = match read.await {
            Ok(Ok(page)) => page.entries,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        let mut lines: Vec<String> = entries
            .iter()
            .filter(|entry| entry.stream != Stream::Platform)
            .map(|entry| shortened(&entry.text))
            .collect();
        lines.drain(..lines.len().saturating_sub(CAUSE_TAIL_LINES_MAX));
        lines
    }

    /// All sandboxes of this build, however far they came.
    async fn end_sandboxes(&self) {
        let prefix = self.id().to_string();
        let _launched = self.launching.lock().await;
        if let Err(error) = end_sandboxes(&self.shared.sandboxes, &prefix).await {
            tracing::warn!(build = %self.id(), error = %chain(&error), "end the sandboxes of a build");
        }
    }
}

/// Ends and removes every sandbox whose name begins so.
pub async fn end_sandboxes(
    sandboxes: &crate::sandbox::Sandboxes,
    prefix: &str,
) -> Result<(), SandboxError> {
    let ours = |record: &Record| record.id.as_str().starts_with(prefix);
    for record in sandboxes.list().await?.into_iter().filter(ours) {
        sandboxes.destroy(record).await?;
    }
    sandboxes.sweep().await?;
    Ok(())
}

fn sandbox_id(build: BuildId, step: usize) -> SandboxId {
    // As for instances: letters, digits, `_` and `-` in less than 64 characters.
    SandboxId::new(format!("{build}-{step}")).expect("an id and a number make a sandbox's id")
}

fn failure(step: &BuildStep, exit: Exit, starved: bool, full: bool, target: &BuildTarget) -> Cause {
    let name = &step.name;
    let mut cause = if starved || exit == Exit::OutOfMemory {
        let message = format!("`{name}` needed more than the {} that a build has", target.memory);
        Cause::new(CauseCode::OutOfMemory, message)
    } else if full {
        Cause::new(CauseCode::DiskFull, format!("`{name}` failed on a full disk ({exit})"))
    } else {
        Cause::new(CauseCode::BuildFailed, format!("`{name}` failed: {exit}"))
    };
    cause.exit = Some(exit);
    cause
}

fn remove(path: &Path) -> Result<(), BuildError> {
    tree::remove(path).map_err(|source| BuildError::Disk {
        doing: "remove",
        path: path.to_owned(),
        source,
    })
}
