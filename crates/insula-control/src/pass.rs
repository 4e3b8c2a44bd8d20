//! The loop: what came in, what was committed, what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use insula_kit::shutdown::Shutdown;
use insula_link::{Inbound, Secrets};
use insula_model::deployment::DeploymentState;
use insula_model::feed::Change;
use insula_model::observed::NodeReport;
use insula_model::routes::RouteTable;
use insula_model::target::NodeTarget;
use insula_model::{Generation, Millis, NodeId, OrgId, Timestamp};
use insula_plan::{Plan, Presence, View, World};
use insula_store::feed::{self, FeedError};
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use crate::edge::EdgeLedger;
use crate::tell::Greeting;
use crate::{ControlError, Cx, apply, ingest, secrets, tell};

/// Changes read from the feed in one go; more wait for the next.
const CHANGES_AT_ONCE: usize = 10_000;
/// Passes in a row before the loop looks up again. A plan that never comes to rest must not keep
/// reports waiting.
const PASSES_IN_A_ROW_MAX: usize = 32;
/// After a failure of the store, before the next try.
const STORE_PAUSE: Millis = Millis(500);
/// The longest the loop sleeps: a wake that was lost costs no more than this.
const SLEEP_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Loop {
    cx: Cx,
    world: Arc<World>,
    edge: EdgeLedger,
    /// What was sent last, so that only what changed is sent.
    targets: BTreeMap<NodeId, NodeTarget>,
    /// The values that went with it: what is sent again when one cannot be opened any more.
    secrets: BTreeMap<NodeId, Secrets>,
    routes: Option<RouteTable>,
    /// Orgs whose secrets changed since their nodes were sent values.
    stale_secrets: BTreeSet<OrgId>,
    /// Greetings and newest reports that are not stored yet. A node tells only changes, so what
    /// it told stays here until the store has it.
    greetings: BTreeMap<NodeId, Greeting>,
    reports: BTreeMap<NodeId, NodeReport>,
}

impl Loop {
    pub(crate) async fn load(cx: Cx) -> Result<Self, ControlError> {
        let (generation, changes) =
            cx.store.read(feed::snapshot).await.map_err(ControlError::Load)?;
        let mut world = World::new(cx.suffix.clone());
        changes.into_iter().for_each(|change| world.apply(change));
        world.generation = generation;
        world.since = Timestamp::from_millis(cx.clock.now_ms());
        Ok(Self {
            cx,
            world: Arc::new(world),
            edge: EdgeLedger::default(),
            targets: BTreeMap::new(),
            secrets: BTreeMap::new(),
            routes: None,
            stale_secrets: BTreeSet::new(),
            greetings: BTreeMap::new(),
            reports: BTreeMap::new(),
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
                    self.take(first);
                    while let Ok(more) = inbound.try_recv() {
                        self.take(more);
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

    /// Notes what a session told; `passes` stores it.
    fn take(&mut self, message: Inbound) {
        match message {
            Inbound::NodeHello { node, name, version, facts } => {
                self.forget_session(node);
                self.greetings.insert(node, Greeting { name, version, facts });
            }
            Inbound::NodeReport { node, report } => drop(self.reports.insert(node, report)),
            Inbound::NodeGone { node } => self.forget_session(node),
            Inbound::GatewayHello { gateway } => self.edge.hello(gateway),
            Inbound::RouteAck { gateway, generation, busy } => {
                self.edge.acked(gateway, generation, busy);
            }
            Inbound::GatewayGone { gateway } => self.edge.gone(gateway),
        }
        self.look_at_edge();
    }

    fn forget_session(&mut self, node: NodeId) {
        self.targets.remove(&node);
        self.greetings.remove(&node);
        self.reports.remove(&node);
        if self.world.is_here(node) {
            self.world_mut().heard.insert(node, Presence::Silent { span: Millis(0) });
        }
    }

    fn look_at_edge(&mut self) {
        let edge = self.edge.view();
        if edge != self.world.edge {
            self.world_mut().edge = edge;
        }
    }

    /// Copies the world if the last view still holds it: once in a turn at most.
    fn world_mut(&mut self) -> &mut World {
        Arc::make_mut(&mut self.world)
    }

    /// Stores what sessions told. False if something is left for later.
    async fn ingest(&mut self) -> bool {
        for (node, greeting) in std::mem::take(&mut self.greetings) {
            if !tell::node_hello(&self.cx, node, &greeting, self.now()).await {
                self.greetings.insert(node, greeting);
            }
        }
        for (node, report) in std::mem::take(&mut self.reports) {
            let sent = self.targets.get(&node).map(|target| target.generation);
            let seen = ingest::report(&self.world, node, &report, sent, self.now());
            if tell::seen(&self.cx, &self.world, seen, self.now()).await {
                // A node counts as there once it has said what it holds.
                if !self.world.is_here(node) {
                    self.world_mut().heard.insert(node, Presence::Here);
                }
            } else {
                self.reports.insert(node, report);
            }
        }
        self.greetings.is_empty() && self.reports.is_empty()
    }

    /// Plans and applies until nothing is left to do, then tells nodes and gateways.
    async fn passes(&mut self) -> Plan {
        for _ in 0..PASSES_IN_A_ROW_MAX {
            let current = self.refresh().await && self.ingest().await && self.refresh().await;
            if !current {
                // What is decided on an old world would be done twice.
                return self.pause();
            }
            let sent = self.publish().await;
            let mut plan = insula_plan::plan(&self.world, self.now());
            if plan.actions.is_empty() {
                if !sent {
                    plan.next = self.pause().next;
                }
                return plan;
            }
            let failed = apply::all(&self.cx, &self.world, &plan.actions, self.now()).await;
            if failed > 0 {
                warn!(failed, of = plan.actions.len(), "some actions could not be carried out");
                return self.pause();
            }
        }
        warn!("the plan does not come to rest; trying again in a moment");
        self.pause()
    }

    /// A plan that does nothing but come back soon.
    fn pause(&self) -> Plan {
        let mut plan = insula_plan::plan(&self.world, self.now());
        plan.actions.clear();
        plan.next = Some(self.now().plus(STORE_PAUSE));
        plan
    }

    /// Brings the world up to the store's last commit. False if the store did not answer.
    async fn refresh(&mut self) -> bool {
        let mut changed = false;
        loop {
            let from = self.world.generation;
            let read = self.cx.store.read(move |tx| feed::since(tx, from, CHANGES_AT_ONCE)).await;
            match read {
                Ok((generation, changes)) if generation == from && changes.is_empty() => {
                    if changed {
                        // Not before: a page may end between a row and the one that needs it.
                        self.world_mut().prune();
                    }
                    return true;
                }
                Ok((generation, changes)) => {
                    changed = true;
                    self.take_changes(generation, changes);
                }
                Err(FeedError::Gap(gap)) => {
                    warn!(%gap, "reading the whole world again");
                    match self.cx.store.read(feed::snapshot).await {
                        Ok((generation, changes)) => self.replace(generation, changes),
                        Err(error) => return store_failed("read the world", &error),
                    }
                }
                Err(FeedError::Store(error)) => return store_failed("read the feed", &error),
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
        self.world_mut().generation = generation;
    }

    fn replace(&mut self, generation: Generation, changes: Vec<Change>) {
        let mut world = World::new(self.world.suffix.clone());
        changes.into_iter().for_each(|change| world.apply(change));
        world.generation = generation;
        world.since = self.world.since;
        world.edge = self.world.edge.clone();
        world.heard = self.world.heard.clone();
        world.measured = self.world.measured.clone();
        world.rules = self.world.rules;
        self.world = Arc::new(world);
        // Which secrets changed in the gap is not known: everything is sent again.
        self.targets.clear();
    }

    /// Sends what changed to whom it concerns. False if something could not be sent.
    async fn publish(&mut self) -> bool {
        let table = insula_plan::routes::table(&self.world);
        let mut sent = true;
        if self.routes.as_ref().is_none_or(|last| last.routes != table.routes) {
            match self.cx.hub.publish_routes(&table, self.shifting_traces()) {
                Ok(()) => {
                    self.edge.published(&table);
                    self.routes = Some(table);
                    self.look_at_edge();
                }
                Err(error) => {
                    error!(%error, "the routes cannot be published");
                    sent = false;
                }
            }
        }
        for node in self.cx.hub.nodes_connected() {
            if self.world.nodes.contains_key(&node) {
                sent &= self.send_target(node).await;
            }
        }
        if sent {
            self.stale_secrets.clear();
        }
        let world = &self.world;
        self.cx.hub.retain_usage(|id| world.instances.contains_key(id));
        self.cx.hub.retain_traffic(|app, _| world.apps.contains_key(app));
        sent
    }

    /// So that one trace runs through a whole deployment, to the edge.
    fn shifting_traces(&self) -> String {
        let shifting = self.world.deployments.values();
        let shifting = shifting.filter(|d| d.state == DeploymentState::Shifting);
        shifting.map(|d| d.trace.as_str()).collect::<Vec<_>>().join(",")
    }

    async fn send_target(&mut self, node: NodeId) -> bool {
        let target = insula_plan::target::node(&self.world, node);
        let same = self.targets.get(&node).is_some_and(|last| {
            NodeTarget { generation: last.generation, ..target.clone() } == *last
        });
        let mut orgs = target.instances.iter().map(|i| i.place.org);
        if same && !orgs.any(|org| self.stale_secrets.contains(&org)) {
            return true;
        }
        let last = self.secrets.remove(&node).unwrap_or_default();
        let secrets = match secrets::of_target(&self.cx, &self.world, &target, &last).await {
            Ok(secrets) => secrets,
            Err(error) => {
                self.secrets.insert(node, last);
                return store_failed("read a node's secrets", &error);
            }
        };
        match self.cx.hub.send_target(&target, &secrets) {
            Ok(()) => {
                self.targets.insert(node, target);
                self.secrets.insert(node, secrets);
                true
            }
            Err(error) => {
                error!(%node, %error, "a node's target cannot be sent");
                false
            }
        }
    }
}

/// Says so; always false, for the caller to pass on.
fn store_failed(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> bool {
    error!(doing, error, "the store failed; trying again in a moment");
    false
}
