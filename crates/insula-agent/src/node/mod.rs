//! Holds all instances and builds of the node, and moves them to what the Target says.
//!
//! One task per instance and per build does the work; here is who is held, what each is told, and
//! which Target counts.

mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use insula_kit::random::Random;
use insula_kit::seal::Key;
use insula_model::spec::Failover;
use insula_model::target::{InstanceIntent, NodeTarget};
use insula_model::{BuildId, Generation, InstanceId};
use insula_wire::node as wire;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::build::{self, BuildTask, Builds};
use crate::contact::{Contact, Epoch};
use crate::error::chain;
use crate::instance::{Assignment, InstanceRecord, InstanceTask, Wanted};
use crate::kept::{self, Kept, Secrets};
use crate::names::Tenant;
use crate::session::Mailbox;
use crate::shared::Shared;
use decide::{Lease, NodeStep, decide, is_fenced};

/// Between tries to keep a Target that could not be kept.
const STORE_AGAIN_AFTER: Duration = Duration::from_secs(10);

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
    /// Whether that, with its secrets, is on disk.
    on_disk: bool,
    instances: BTreeMap<InstanceId, watch::Sender<Assignment>>,
    running_builds: BTreeMap<BuildId, HeldBuild>,
    tasks: JoinSet<()>,
    /// Whose task it is, also when it panics.
    who: BTreeMap<tokio::task::Id, Tenant>,
    contact: Contact,
    /// The epoch of contact under which what depends on contact was begun here; it ends with it.
    granted: Option<Epoch>,
    /// Whether anything here depends on contact.
    leased: watch::Sender<bool>,
}

/// A Target as it came, and in what epoch of contact; nothing if there was none.
#[derive(Debug)]
pub struct Received {
    pub target: wire::Target,
    pub epoch: Option<Epoch>,
}

impl Node {
    pub fn new(
        shared: Arc<Shared>,
        key: Arc<Key>,
        random: Arc<dyn Random>,
        contact: Contact,
    ) -> Self {
        Self {
            granted: contact.granted(),
            contact,
            leased: watch::Sender::new(false),
            builds: Builds::new(Arc::clone(&shared)),
            shared,
            key,
            random,
            target: None,
            on_disk: false,
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
        let lease = self.lease();
        if let Some(kept) = &kept {
            self.shared.set_secrets(kept.secrets.clone());
            for target in &kept.target.instances {
                let mut assignment = Assignment::of(target.clone(), lease.granted());
                if is_fenced(target, lease) {
                    fence(&mut assignment);
                }
                wanted.insert(target.id, assignment);
            }
        }
        for record in records {
            let id = record.id();
            let assignment = wanted.remove(&id).unwrap_or_else(|| {
                let mut assignment = Assignment::of(record.target.clone(), lease.granted());
                // Without any Target nothing is known to be unwanted.
                assignment.wanted = if kept.is_some() { Wanted::Stop } else { Wanted::Run };
                if kept.is_none() && is_fenced(&record.target, lease) {
                    fence(&mut assignment);
                }
                assignment
            });
            let (sender, receiver) = watch::channel(assignment);
            let task = InstanceTask::adopt(Arc::clone(&self.shared), receiver, record).await;
            self.hold(id, sender, task.run());
        }
        if let Some(kept) = kept {
            let generation = kept.target.generation;
            self.on_disk = true;
            self.obey(kept.target);
            self.shared.board.set_generation(generation);
        }
    }

    /// Whether something here may run only while a server hears us.
    pub fn leased(&self) -> watch::Receiver<bool> {
        self.leased.subscribe()
    }

    /// Whether what depends on contact may run.
    fn lease(&self) -> Lease {
        match self.granted {
            Some(epoch) if self.contact.epoch() == Some(epoch) => Lease::Holds(epoch),
            Some(_) | None => Lease::Over,
        }
    }

    /// For ever.
    pub async fn run(&mut self, targets: &Mailbox) -> Infallible {
        loop {
            let lapse = self.lapse();
            tokio::select! {
                received = targets.take() => self.take(received).await,
                Some(ended) = self.tasks.join_next_with_id() => self.forget(ended),
                () = lapse => self.lapsed(),
                () = tokio::time::sleep(STORE_AGAIN_AFTER), if !self.on_disk => self.keep_again().await,
            }
        }
    }

    /// Once there is room, nobody has to send it again.
    async fn keep_again(&mut self) {
        let Some(target) = self.target.clone() else { return };
        let kept = Kept { target, secrets: self.shared.secrets() };
        self.keep(&kept).await;
    }

    async fn keep(&mut self, kept: &Kept) {
        let before = self.on_disk.then(|| self.shared.secrets());
        let stored = self.stored(kept, before).await;
        self.on_disk = stored.is_ok();
        if let Err(error) = stored {
            // Obeyed all the same: a full disk must not keep anybody from stopping things.
            tracing::error!(error = %chain(&error), "the Target is not on disk");
        }
    }

    /// Ready once what depends on contact must stop.
    fn lapse(&self) -> impl Future<Output = ()> + use<> {
        let (contact, granted, leased) =
            (self.contact.clone(), self.granted, *self.leased.borrow());
        async move {
            match granted {
                Some(epoch) if leased => contact.ended(epoch).await,
                Some(_) | None => std::future::pending().await,
            }
        }
    }

    fn lapsed(&mut self) {
        self.granted = None;
        self.converge();
    }

    async fn take(&mut self, Received { target: message, epoch }: Received) {
        let held = self.target.as_ref().map_or(Generation(0), |target| target.generation);
        let kept = match kept::receive(held, message) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "refused a Target");
                return;
            }
        };
        let same = self.target.as_ref() == Some(&kept.target);
        if !(self.on_disk && same && self.shared.secrets() == kept.secrets) {
            self.keep(&kept).await;
        }
        let generation = kept.target.generation;
        tracing::debug!(%generation, "took a Target");
        self.shared.set_secrets(kept.secrets);
        if let Some(epoch) = epoch {
            self.contact.grant(epoch);
        }
        self.granted = self.contact.granted();
        self.obey(kept.target);
        self.shared.board.set_generation(generation);
    }

    fn obey(&mut self, target: NodeTarget) {
        let leased = target.instances.iter().any(|it| it.failover == Failover::Lease);
        self.leased.send_if_modified(|before| std::mem::replace(before, leased) != leased);
        // Who was removed from the fleet is refused from here on.
        self.shared.fleet.send_if_modified(|before| {
            let changed = **before != target.fleet;
            if changed {
                *before = Arc::new(target.fleet.clone());
            }
            changed
        });
        self.target = Some(target);
        self.converge();
    }

    /// A disk may take its time; a lease does not wait for it.
    async fn stored(
        &mut self,
        kept: &Kept,
        before: Option<Secrets>,
    ) -> Result<(), kept::KeptError> {
        let mut storing = self.store(kept, before);
        loop {
            tokio::select! {
                stored = &mut storing => return stored.map_err(|_| kept::KeptError::Thread)?,
                () = self.lapse() => self.lapsed(),
            }
        }
    }

    fn store(
        &self,
        kept: &Kept,
        before: Option<Secrets>,
    ) -> JoinHandle<Result<(), kept::KeptError>> {
        let (shared, kept) = (Arc::clone(&self.shared), kept.clone());
        let (key, random) = (Arc::clone(&self.key), Arc::clone(&self.random));
        tokio::task::spawn_blocking(move || {
            kept::store(&shared.layout, &kept, before.as_ref(), &key, &*random)
        })
    }

    fn converge(&mut self) {
        let Some(target) = self.target.take() else { return };
        let held = self.instances.iter().map(|(id, it)| (*id, it.borrow().clone())).collect();
        let builds = self.running_builds.iter().map(|(id, held)| (*id, held.attempt)).collect();
        for step in decide(&target, &held, &builds, self.lease()) {
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
                let assignment = Assignment::of(target, self.lease().granted());
                let (sender, receiver) = watch::channel(assignment);
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
                    held.send_replace(Assignment::of(target, self.lease().granted()));
                }
            }
            NodeStep::StopUnnamed(id) => {
                if let Some(held) = self.instances.get(&id) {
                    held.send_modify(|it| it.wanted = Wanted::Stop);
                }
            }
            NodeStep::Fence(id) => {
                if let Some(held) = self.instances.get(&id) {
                    tracing::warn!(instance = %id, "no server has heard this node: it stops");
                    held.send_modify(fence);
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

/// It stops, and may be wanted again: a run that was started must not be started then.
fn fence(assignment: &mut Assignment) {
    assignment.wanted = Wanted::Stop;
    assignment.remember = true;
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
