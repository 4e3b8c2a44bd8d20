//! Holds all instances and builds of the node, and moves them to what the Target says.
//!
//! One task per instance and per build does the work; here is who is held, what each is told, and
//! which Target counts.

mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use insula_kit::random::Random;
use insula_kit::seal::Key;
use insula_model::target::{InstanceIntent, NodeTarget};
use insula_model::{BuildId, Generation, InstanceId};
use insula_wire::node as wire;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::build::{self, BuildTask, Builds};
use crate::error::chain;
use crate::instance::{Assignment, InstanceRecord, InstanceTask, Wanted};
use crate::kept::{self, Kept, Secrets};
use crate::names::Tenant;
use crate::shared::Shared;
use decide::{NodeStep, decide};

struct HeldBuild {
    attempt: u32,
    cancel: CancellationToken,
}

pub struct Node {
    shared: Arc<Shared>,
    builds: Builds,
    key: Arc<Key>,
    random: Arc<dyn Random>,
    target: Option<NodeTarget>,
    instances: BTreeMap<InstanceId, watch::Sender<Assignment>>,
    running_builds: BTreeMap<BuildId, HeldBuild>,
    tasks: JoinSet<()>,
    /// Whose task it is, also when it panics.
    who: BTreeMap<tokio::task::Id, Tenant>,
}

impl Node {
    pub fn new(shared: Arc<Shared>, key: Arc<Key>, random: Arc<dyn Random>) -> Self {
        Self {
            builds: Builds::new(Arc::clone(&shared)),
            shared,
            key,
            random,
            target: None,
            instances: BTreeMap::new(),
            running_builds: BTreeMap::new(),
            tasks: JoinSet::new(),
            who: BTreeMap::new(),
        }
    }

    /// Takes over what an earlier agent held, and obeys the last Target. Everything that was there
    /// is on the board when this returns.
    pub async fn resume(&mut self, records: Vec<InstanceRecord>, kept: Option<Kept>) {
        let mut wanted: BTreeMap<InstanceId, Assignment> = BTreeMap::new();
        if let Some(kept) = &kept {
            self.shared.set_secrets(kept.secrets.clone());
            for target in &kept.target.instances {
                wanted.insert(target.id, Assignment::of(target.clone()));
            }
        }
        for record in records {
            let id = record.id();
            let assignment = wanted.remove(&id).unwrap_or_else(|| Assignment {
                // Without any Target nothing is known to be unwanted.
                wanted: if kept.is_some() { Wanted::Stop } else { Wanted::Run },
                target: record.target.clone(),
                remember: false,
            });
            let (sender, receiver) = watch::channel(assignment);
            let task = InstanceTask::adopt(Arc::clone(&self.shared), receiver, record).await;
            self.hold(id, sender, task.run());
        }
        if let Some(kept) = kept {
            let generation = kept.target.generation;
            self.target = Some(kept.target);
            self.converge();
            self.shared.board.set_generation(generation);
        }
    }

    /// Until the channel of Targets is closed.
    pub async fn run(&mut self, targets: &mut mpsc::Receiver<wire::Target>) {
        loop {
            tokio::select! {
                target = targets.recv() => match target {
                    Some(target) => self.take(target).await,
                    None => return,
                },
                Some(ended) = self.tasks.join_next_with_id() => self.forget(ended),
            }
        }
    }

    async fn take(&mut self, message: wire::Target) {
        let held = self.target.as_ref().map_or(Generation(0), |target| target.generation);
        let kept = match kept::receive(held, message) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "refused a Target");
                return;
            }
        };
        let secrets = self.shared.secrets();
        let same = self.target.as_ref() == Some(&kept.target) && secrets == kept.secrets;
        if !same && let Err(error) = self.store(&kept, secrets).await {
            // Obeyed all the same: a full disk must not keep anybody from stopping things.
            tracing::error!(error = %chain(&error), "the Target is not on disk");
        }
        let generation = kept.target.generation;
        tracing::debug!(%generation, "took a Target");
        self.shared.set_secrets(kept.secrets);
        self.target = Some(kept.target);
        self.converge();
        self.shared.board.set_generation(generation);
    }

    async fn store(&self, kept: &Kept, before: Secrets) -> Result<(), kept::KeptError> {
        let before = self.target.is_some().then_some(before);
        let (shared, kept) = (Arc::clone(&self.shared), kept.clone());
        let (key, random) = (Arc::clone(&self.key), Arc::clone(&self.random));
        let storing = tokio::task::spawn_blocking(move || {
            kept::store(&shared.layout, &kept, before.as_ref(), &key, &*random)
        });
        storing.await.map_err(|_| kept::KeptError::Thread)?
    }

    fn converge(&mut self) {
        let Some(target) = self.target.take() else { return };
        let held = self.instances.iter().map(|(id, it)| (*id, it.borrow().clone())).collect();
        let builds = self.running_builds.iter().map(|(id, held)| (*id, held.attempt)).collect();
        for step in decide(&target, &held, &builds) {
            self.apply(step, &target);
        }
        self.shared.artifacts.keep(&named(&target));
        self.target = Some(target);
    }

    fn apply(&mut self, step: NodeStep, target: &NodeTarget) {
        let named = |id| target.instances.iter().find(|it| it.id == id).cloned();
        match step {
            NodeStep::Begin(id) => {
                let Some(target) = named(id) else { return };
                let (sender, receiver) = watch::channel(Assignment::of(target));
                let shared = Arc::clone(&self.shared);
                match InstanceRecord::load(&shared.layout, id) {
                    None => {
                        let task = InstanceTask::new(shared, receiver);
                        self.hold(id, sender, task.run());
                    }
                    // Its task ended early; what it held is still there.
                    Some(record) => self.hold(id, sender, async move {
                        InstanceTask::adopt(shared, receiver, record).await.run().await;
                    }),
                }
            }
            NodeStep::Tell(id) => {
                if let (Some(target), Some(held)) = (named(id), self.instances.get(&id)) {
                    held.send_replace(Assignment::of(target));
                }
            }
            NodeStep::StopUnnamed(id) => {
                if let Some(held) = self.instances.get(&id) {
                    held.send_modify(|it| it.wanted = Wanted::Stop);
                }
            }
            NodeStep::BeginBuild(id) => {
                let Some(build) = target.builds.iter().find(|it| it.id == id) else { return };
                let cancel = CancellationToken::new();
                let attempt = build.attempt;
                let task: BuildTask = self.builds.task(build.clone(), cancel.clone());
                self.running_builds.insert(id, HeldBuild { attempt, cancel });
                let spawned = self.tasks.spawn(task.run());
                self.who.insert(spawned.id(), Tenant::Build(id));
            }
            NodeStep::DropBuild(id) => {
                if let Some(held) = self.running_builds.get(&id) {
                    held.cancel.cancel();
                }
            }
        }
    }

    fn hold(
        &mut self,
        id: InstanceId,
        sender: watch::Sender<Assignment>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.instances.insert(id, sender);
        let spawned = self.tasks.spawn(task);
        self.who.insert(spawned.id(), Tenant::Instance(id));
    }

    fn forget(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(error) => {
                tracing::error!(%error, "a task ended early");
                error.id()
            }
        };
        match self.who.remove(&task) {
            Some(Tenant::Instance(id)) => {
                self.instances.remove(&id);
            }
            Some(Tenant::Build(id)) => {
                self.running_builds.remove(&id);
            }
            None => {}
        }
        // The Target may want again what has just gone.
        self.converge();
    }

    /// Stops everything and waits for it: the apps go with the platform.
    pub async fn stop_all(&mut self) {
        for held in self.running_builds.values() {
            held.cancel.cancel();
        }
        for held in self.instances.values() {
            held.send_modify(|it| {
                it.wanted = Wanted::Stop;
                it.remember = true;
            });
        }
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task ended early");
            }
        }
        self.instances.clear();
        self.running_builds.clear();
    }

    /// Leaves everything running for the next agent. Builds end: their processes are ours.
    pub async fn leave(&mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        if let Err(error) =
            build::end_sandboxes(&self.shared.sandboxes, build::SANDBOX_PREFIX).await
        {
            // The next agent begins with this.
            tracing::warn!(error = %chain(&error), "end the builds");
        }
    }
}

fn named(target: &NodeTarget) -> BTreeSet<insula_model::build::Artifact> {
    let instances = target.instances.iter().filter(|it| it.intent == InstanceIntent::Run);
    let sources = target.builds.iter().map(|build| insula_model::build::Artifact {
        source: build.source,
        built: None,
        size: insula_model::Bytes(0),
    });
    instances.map(|it| it.artifact).chain(sources).collect()
}
