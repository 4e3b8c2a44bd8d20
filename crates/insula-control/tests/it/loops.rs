//! The loop over the real store: what it does with sessions that tell it things.

use std::sync::Arc;
use std::time::Duration;

use insula_blobs::{BlobConfig, Blobs};
use insula_control::{Boards, Cx, Leadership, Membership, Status};
use insula_kit::clock::{Clock, TestClock};
use insula_kit::random::SeededRandom;
use insula_kit::seal::{Key, Keyring};
use insula_kit::shutdown::{Cause, Shutdown};
use insula_link::{Hub, Inbound, Inbox, Telling};
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::event::Event;
use insula_model::instance::Instance;
use insula_model::node::{Ailment, AilmentKind};
use insula_model::*;
use insula_plan::{Rules, View};
use insula_store::{
    Page, Store, StoreConfig, WriteError, apps, deployments, environments, events, instances, orgs,
    projects,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fixture::{BEGIN, Shop, hello, node_id, obedient, random};

/// Far more than anything here takes; only a broken loop waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How far the time of day moves with each view: no gateway follows, so what waits for one waits
/// for its deadline.
const VIEW_MS: i64 = 500;

/// A store in a folder of its own.
pub struct Ground {
    pub store: Store,
    folder: TempDir,
}

impl Ground {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig::new(folder.path().join("insula.db"))).unwrap();
        Self { store, folder }
    }

    /// The same store, for another thread.
    pub fn beside(&self) -> Self {
        Self { store: self.store.clone(), folder: tempfile::tempdir().unwrap() }
    }

    pub fn cx(&self, seed: u64, clock: &TestClock) -> Cx {
        let random = Arc::new(SeededRandom::new(seed));
        let path = self.folder.path().join("blobs");
        Cx {
            store: self.store.clone(),
            hub: Hub::new().0,
            blobs: Blobs::open(BlobConfig::Directory { path }).unwrap(),
            clock: Arc::new(clock.clone()),
            keys: Arc::new(Keyring::new(Key::generate(random.as_ref()))),
            random,
            suffix: "localhost".parse().unwrap(),
            rules: Rules::default(),
        }
    }

    /// An app, and a deployment of it that was just asked for.
    pub async fn deploys(&self, shop: &Shop) {
        let (org, project, environment, app) =
            (shop.org.clone(), shop.project.clone(), shop.environment.clone(), shop.app.clone());
        let host = app.default_host(&"localhost".parse().unwrap()).unwrap();
        let queued =
            Deployment { state: DeploymentState::Queued, release: None, ..shop.deployment.clone() };
        let write = move |tx: &mut insula_store::Tx| {
            orgs::create(tx, &org)?;
            projects::create(tx, &project)?;
            environments::create(tx, &environment)?;
            apps::create(tx, &app, &host)?;
            deployments::create(tx, &queued)
        };
        self.store.write::<_, WriteError, _>(write).await.unwrap();
    }

    pub async fn deployment(&self, shop: &Shop) -> Deployment {
        let (org, id) = (shop.org.id, shop.deployment.id);
        let read = move |tx: &insula_store::Tx| deployments::get(tx, org, id);
        self.store.read(read).await.unwrap().unwrap()
    }

    pub async fn instances(&self, shop: &Shop) -> Vec<Instance> {
        let org = shop.org.id;
        let page = Page::default();
        let read = move |tx: &insula_store::Tx| instances::list(tx, org, None, &page);
        self.store.read(read).await.unwrap().items
    }

    /// The kinds of the operator's events, the oldest first.
    pub async fn history(&self) -> Vec<Event> {
        let read = |tx: &insula_store::Tx| {
            events::since(tx, events::Of::Platform, events::EventSeq(0), 1_000)
        };
        self.store.read(read).await.unwrap().into_iter().map(|(_, event)| event).collect()
    }
}

/// A control plane that runs, and the other ends of what it was given.
pub struct Plane {
    pub inbound: Telling,
    pub view: watch::Receiver<View>,
    pub leadership: watch::Receiver<Leadership>,
    pub status: watch::Receiver<Arc<Status>>,
    pub shutdown: Shutdown,
    pub task: JoinHandle<()>,
    pub clock: TestClock,
}

impl Plane {
    pub fn starts(ground: &Ground, number: u64, alone: bool) -> Self {
        Self::starts_at(ground, number, alone, BEGIN.as_millis())
    }

    /// Each server has a clock of its own.
    pub fn starts_at(ground: &Ground, number: u64, alone: bool, ms: i64) -> Self {
        let clock = TestClock::new(ms);
        let (inbound, receiver) = Inbox::channel(1_024);
        let (view, seen) = watch::channel(insula_plan::blank("localhost".parse().unwrap()));
        let boards = Boards::of(view);
        let membership = Membership {
            id: ServerId::from_parts(BEGIN, random(number)),
            fleet: Some(([127, 0, 0, 1], number as u16).into()),
            version: "0".to_owned(),
            alone,
        };
        let shutdown = Shutdown::new();
        let (leadership, status) = (boards.leadership.subscribe(), boards.status.subscribe());
        let serving = insula_control::serve(
            ground.cx(number, &clock),
            membership,
            receiver,
            boards,
            shutdown.clone(),
        );
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self { inbound, view: seen, leadership, status, shutdown, task, clock }
    }

    pub async fn leads(&mut self) -> u64 {
        let leads = self.leadership.wait_for(|it| matches!(it, Leadership::Leader { .. }));
        match &*tokio::time::timeout(PATIENCE, leads).await.expect("nobody leads").unwrap() {
            Leadership::Leader { epoch } => *epoch,
            Leadership::Follower { .. } => unreachable!(),
        }
    }

    pub async fn follows(&mut self) {
        let follows = self.leadership.wait_for(|it| matches!(it, Leadership::Follower { .. }));
        tokio::time::timeout(PATIENCE, follows).await.expect("it still leads").unwrap();
    }

    pub async fn greets(&self, n: u64) {
        let clock = Timestamp::from_millis(self.clock.now_ms());
        self.inbound.send(hello(n, clock)).await.unwrap();
    }

    /// What an agent says that holds what this control plane wants of it at this moment.
    pub async fn obeys(&self, n: u64, ailments: Vec<Ailment>) {
        let target = insula_plan::target::node(&self.view.borrow().0, node_id(n));
        let report = obedient(Some(&target), ailments);
        self.inbound.send(Inbound::NodeReport { node: node_id(n), report }).await.unwrap();
    }

    /// Nodes obey with each view until one is as it should be.
    pub async fn until(&mut self, nodes: &[u64], done: impl Fn(&View) -> bool) {
        let all = async {
            loop {
                self.view.changed().await.unwrap();
                self.clock.advance_ms(VIEW_MS);
                if done(&self.view.borrow()) {
                    return;
                }
                for n in nodes {
                    self.obeys(*n, vec![]).await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("it never comes to that");
    }

    pub async fn ends(self) {
        self.shutdown.begin(Cause::Terminate);
        tokio::time::timeout(PATIENCE, self.task).await.expect("it does not end").unwrap();
    }
}

pub fn is_live(view: &View, shop: &Shop) -> bool {
    view.0.apps.get(&shop.app.id).is_some_and(|app| app.live.is_some())
}

#[tokio::test]
async fn a_deployment_goes_live_over_the_real_store() {
    let ground = Ground::new();
    let shop = Shop::new(1, 3);
    let mut plane = Plane::starts(&ground, 1, true);
    assert_eq!(plane.leads().await, 1);
    plane.greets(1).await;
    ground.deploys(&shop).await;
    plane.until(&[1], |view| is_live(view, &shop)).await;
    assert_eq!(ground.deployment(&shop).await.state, DeploymentState::Live);
    let instances = ground.instances(&shop).await;
    assert_eq!(instances.len(), 3);
    assert!(instances.iter().all(|row| row.observed.present().is_some()));
    let kinds: Vec<String> = ground.history().await.into_iter().map(|event| event.kind).collect();
    for kind in ["node.joined", "release.created", "instance.ready", "deployment.live"] {
        assert!(kinds.iter().any(|told| told == kind), "{kind} is not in {kinds:?}");
    }
    plane.ends().await;
}

#[tokio::test]
async fn a_node_is_told_of_once_when_it_joins_and_when_it_ails_and_when_it_is_well() {
    let ground = Ground::new();
    let mut plane = Plane::starts(&ground, 1, true);
    plane.leads().await;
    plane.greets(1).await;
    let here = |view: &View| view.0.is_here(node_id(1));
    plane.until(&[1], here).await;
    // The same session again: nothing new to tell.
    plane.greets(1).await;
    plane.until(&[1], |view| !here(view)).await;
    plane.until(&[1], here).await;
    let disk = Ailment { kind: AilmentKind::Disk, message: "1 % free".to_owned() };
    plane.obeys(1, vec![disk.clone()]).await;
    plane.obeys(1, vec![disk.clone()]).await;
    plane.until(&[], |view| view.0.nodes[&node_id(1)].ailments == [disk.clone()]).await;
    plane.obeys(1, vec![]).await;
    plane.until(&[], |view| view.0.nodes[&node_id(1)].ailments.is_empty()).await;
    let history = ground.history().await;
    let told: Vec<&str> = history.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(told, ["n1 has joined", "n1 is degraded: 1 % free", "n1 is well again"]);
    assert!(history.iter().all(|event| event.org.is_none()));
    plane.ends().await;
}

#[tokio::test]
async fn a_node_that_was_removed_cannot_make_its_row_again() {
    let ground = Ground::new();
    let mut plane = Plane::starts(&ground, 1, true);
    plane.leads().await;
    plane.greets(1).await;
    plane.until(&[1], |view| view.0.is_here(node_id(1))).await;
    let remove = |tx: &mut insula_store::Tx| {
        insula_store::nodes::remove_with_instances(tx, node_id(1), BEGIN)
    };
    ground.store.write::<_, WriteError, _>(remove).await.unwrap();
    plane.until(&[], |view| view.0.nodes.is_empty()).await;
    plane.greets(1).await;
    // Another one comes after it: then the first one's greeting was looked at.
    plane.greets(2).await;
    plane.until(&[2], |view| view.0.is_here(node_id(2))).await;
    assert!(!plane.view.borrow().0.nodes.contains_key(&node_id(1)));
    plane.ends().await;
}

#[tokio::test]
async fn the_operator_sees_who_leads_and_how_everything_went() {
    let ground = Ground::new();
    let shop = Shop::new(1, 1);
    let mut plane = Plane::starts(&ground, 1, true);
    plane.leads().await;
    plane.greets(1).await;
    ground.deploys(&shop).await;
    plane.until(&[1], |view| is_live(view, &shop)).await;
    let told = plane.status.wait_for(|status| {
        let passed = |of| status.reports.get(&of).is_some_and(|report| report.passes > 0);
        use insula_control::Reconciler::{Deployments, Identities, Nodes, Routes};
        [Deployments, Identities, Nodes, Routes].into_iter().all(passed)
            && status.instances == 1
            && !status.servers.is_empty()
    });
    let status = tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap().clone();
    assert_eq!(status.leads, Some(1));
    assert_eq!(status.servers[0].id, ServerId::from_parts(BEGIN, random(1)));
    plane.ends().await;
}
