//! The loop: what came in, what was committed, what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use insula_kit::shutdown::Shutdown;
use insula_link::Inbound;
use insula_model::feed::Change;
use insula_model::routes::RouteTable;
use insula_model::target::NodeTarget;
use insula_model::{Generation, NodeId, OrgId, Timestamp};
use insula_plan::{Plan, View, World};
use insula_store::feed::{self, FeedError};
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use crate::edge::EdgeLedger;
use crate::{ControlError, Cx, apply, ingest, secrets, tell};

/// Changes read from the feed in one go; more wait for the next.
const CHANGES_AT_ONCE: usize = 10_000;
/// Passes in a row before the loop looks up again. A plan that never comes to rest must not keep
/// reports waiting.
const PASSES_IN_A_ROW_MAX: usize = 32;
/// After a failure of the store, before the next try.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// The longest the loop sleeps: a wake that was lost costs no more than this.
const SLEEP_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Loop {
    cx: Cx,
    world: Arc<World>,
    edge: EdgeLedger,
    /// What was sent last, so that only what changed is sent.
    targets: BTreeMap<NodeId, NodeTarget>,
    routes: Option<RouteTable>,
    /// Orgs whose secrets changed since their nodes were sent values.
    stale_secrets: BTreeSet<OrgId>,
}

impl Loop {
    pub(crate) async fn load(cx: Cx) -> Result<Self, ControlError> {
        let (generation, changes) =
            cx.store.read(feed::snapshot).await.map_err(ControlError::Load)?;
        let mut world = World::new(cx.suffix.clone());
        changes.into_iter().for_each(|change| world.apply(change));
        world.generation = generation;
        Ok(Self {
            cx,
            world: Arc::new(world),
            edge: EdgeLedger::default(),
            targets: BTreeMap::new(),
            routes: None,
            stale_secrets: BTreeSet::new(),
        })
    }

    pub(crate) async fn run(
        mut self,
        mut inbound: mpsc::Receiver<Inbound>,
        view: watch::Sender<View>,
        shutdown: Shutdown,
    ) -> Result<(), ControlError> {
        let mut head = self.cx.store.head();
        let mut next = Some(self.now());
        loop {
            let sleep =
                next.map_or(SLEEP_MAX, |at| at.since(self.now()).as_duration().min(SLEEP_MAX));
            tokio::select! {
                biased;
                _ = shutdown.requested() => return Ok(()),
                Some(first) = inbound.recv() => {
                    self.take(first).await;
                    while let Ok(more) = inbound.try_recv() {
                        self.take(more).await;
                    }
                }
                changed = head.changed() => {
                    // The store is closed only when the server ends.
                    if changed.is_err() { return Ok(()) }
                }
                () = tokio::time::sleep(sleep) => {}
            }
            head.mark_unchanged();
            let plan = self.passes().await;
            next = plan.next;
            view.send_replace(Arc::new((Arc::clone(&self.world), Arc::new(plan))));
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.cx.clock.now_ms())
    }

    /// Notes what a session told. A report that cannot be stored is not lost: the agent repeats it
    /// with its next session, and its session is as good as its last report.
    async fn take(&mut self, message: Inbound) {
        match message {
            Inbound::NodeHello { node, name, version, facts } => {
                tell::node_hello(&self.cx, node, name, version, facts, self.now()).await;
                self.world_mut().connected.insert(node);
                self.targets.remove(&node);
            }
            Inbound::NodeReport { node, report } => {
                self.refresh().await;
                let seen = ingest::report(&self.world, node, &report, self.now());
                tell::seen(&self.cx, &self.world, seen, self.now()).await;
                self.refresh().await;
            }
            Inbound::NodeGone { node } => {
                self.world_mut().connected.remove(&node);
            }
            Inbound::GatewayHello { gateway } => self.edge.hello(gateway),
            Inbound::RouteAck { gateway, generation, busy } => {
                self.edge.acked(gateway, generation, busy);
            }
            Inbound::GatewayGone { gateway } => self.edge.gone(gateway),
        }
        let edge = self.edge.view();
        if edge != self.world.edge {
            self.world_mut().edge = edge;
        }
    }

    fn world_mut(&mut self) -> &mut World {
        // Copies only while somebody looks at the last view.
        Arc::make_mut(&mut self.world)
    }

    /// Plans and applies until nothing is left to do, then tells nodes and gateways.
    async fn passes(&mut self) -> Plan {
        for _ in 0..PASSES_IN_A_ROW_MAX {
            self.refresh().await;
            self.publish().await;
            let plan = insula_plan::plan(&self.world, self.now());
            if plan.actions.is_empty() {
                return plan;
            }
            let failed = apply::all(&self.cx, &self.world, &plan.actions, self.now()).await;
            if failed > 0 {
                warn!(failed, of = plan.actions.len(), "some actions could not be carried out");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
        warn!("the plan does not come to rest; looking at messages first");
        let mut plan = insula_plan::plan(&self.world, self.now());
        plan.next = Some(self.now());
        plan
    }

    /// Brings the world up to the store's last commit.
    async fn refresh(&mut self) {
        loop {
            let from = self.world.generation;
            let read = self.cx.store.read(move |tx| feed::since(tx, from, CHANGES_AT_ONCE)).await;
            match read {
                Ok((generation, changes)) if generation == from && changes.is_empty() => return,
                Ok((generation, changes)) => self.take_changes(generation, changes),
                Err(FeedError::Gap(gap)) => {
                    warn!(%gap, "reading the whole world again");
                    match self.cx.store.read(feed::snapshot).await {
                        Ok((generation, changes)) => self.replace(generation, changes),
                        Err(error) => return pause("read the world", &error).await,
                    }
                }
                Err(FeedError::Store(error)) => return pause("read the feed", &error).await,
            }
        }
    }

    fn take_changes(&mut self, generation: Generation, changes: Vec<Change>) {
        for change in changes {
            if let Change::SecretsOf(org) = &change {
                self.stale_secrets.insert(*org);
            }
            self.world_mut().apply(change);
        }
        let world = self.world_mut();
        world.generation = generation;
        world.prune();
    }

    fn replace(&mut self, generation: Generation, changes: Vec<Change>) {
        let mut world = World::new(self.world.suffix.clone());
        changes.into_iter().for_each(|change| world.apply(change));
        world.generation = generation;
        world.edge = self.world.edge.clone();
        world.connected = self.world.connected.clone();
        self.world = Arc::new(world);
    }

    /// Sends what changed to whom it concerns.
    async fn publish(&mut self) {
        let table = insula_plan::routes::table(&self.world);
        if self.routes.as_ref().is_none_or(|last| last.routes != table.routes) {
            match self.cx.hub.publish_routes(&table) {
                Ok(()) => {
                    self.edge.published(&table);
                    self.routes = Some(table);
                    let edge = self.edge.view();
                    if edge != self.world.edge {
                        self.world_mut().edge = edge;
                    }
                }
                Err(error) => error!(%error, "the routes cannot be published"),
            }
        }
        let nodes: Vec<NodeId> = self.world.connected.iter().copied().collect();
        for node in nodes {
            self.send_target(node).await;
        }
        self.stale_secrets.clear();
        let world = &self.world;
        self.cx.hub.retain_usage(|id| world.instances.contains_key(id));
    }

    async fn send_target(&mut self, node: NodeId) {
        let target = insula_plan::target::node(&self.world, node);
        let same = self
            .targets
            .get(&node)
            .is_some_and(|last| last.instances == target.instances && last.builds == target.builds);
        let orgs = target.instances.iter().map(|i| i.place.org);
        let fresh = !orgs.clone().any(|org| self.stale_secrets.contains(&org));
        if same && fresh {
            return;
        }
        let secrets = match secrets::of_target(&self.cx, &self.world, &target).await {
            Ok(secrets) => secrets,
            Err(error) => {
                error!(%node, error = &error as &dyn std::error::Error, "a node's secrets cannot be read");
                return;
            }
        };
        match self.cx.hub.send_target(&target, &secrets) {
            Ok(()) => drop(self.targets.insert(node, target)),
            Err(error) => error!(%node, %error, "a node's target cannot be sent"),
        }
    }
}

async fn pause(doing: &'static str, error: &insula_store::StoreError) {
    error!(doing, error = error as &dyn std::error::Error, "the store failed; trying again");
    tokio::time::sleep(STORE_PAUSE).await;
}
