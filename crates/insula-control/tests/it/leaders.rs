//! Several control planes over one store: one leads, and whoever does not writes nothing.

use std::sync::mpsc as blocking;

use insula_control::{Fence, LEASE, LEASE_TTL, Leadership};
use insula_kit::clock::Clock;
use insula_model::deployment::DeploymentState;
use insula_model::*;
use insula_store::{StoreError, Tx, WriteError, apps, leases};

use crate::fixture::{BEGIN, Shop, node_id, random};
use crate::loops::{Ground, PATIENCE, Plane, is_live};

fn server(n: u64) -> ServerId {
    ServerId::from_parts(BEGIN, random(n))
}

#[tokio::test]
async fn one_leads_and_the_other_knows_who() {
    let ground = Ground::new();
    let mut first = Plane::starts(&ground, 1, false);
    assert_eq!(first.leads().await, 1);
    let mut second = Plane::starts(&ground, 2, false);
    let knows = second.leadership.wait_for(
        |it| matches!(it, Leadership::Follower { leader: Some(leader) } if leader.id == server(1)),
    );
    tokio::time::timeout(PATIENCE, knows).await.expect("it does not know the leader").unwrap();
    first.ends().await;
    // The lease was given back: nobody's time had to run out.
    let epoch = second.leads().await;
    assert!(epoch > 1);
    second.ends().await;
}

#[tokio::test]
async fn a_leader_that_was_killed_is_followed_by_another_once_its_lease_is_over() {
    let ground = Ground::new();
    let shop = Shop::new(1, 2);
    let mut first = Plane::starts(&ground, 1, false);
    first.leads().await;
    first.greets(1).await;
    ground.deploys(&shop).await;
    first.until(&[1], |view| is_live(view, &shop)).await;
    let mut second = Plane::starts_at(&ground, 2, false, first.clock.now_ms());
    first.task.abort();
    _ = first.task.await;
    second.clock.advance_ms(LEASE_TTL.0 as i64 + 1);
    second.leads().await;
    // It knows everything that was acknowledged, and goes on where the other was.
    second.greets(1).await;
    second.until(&[1], |view| is_live(view, &shop) && view.0.is_here(node_id(1))).await;
    assert_eq!(ground.instances(&shop).await.len(), 2);
    second.ends().await;
}

#[tokio::test]
async fn a_leader_that_stood_still_and_comes_back_writes_nothing() {
    let ground = Ground::new();
    let shop = Shop::new(1, 2);
    let (hold, held) = blocking::channel::<()>();
    let (began, begins) = blocking::channel::<()>();
    let (handles, given) = tokio::sync::oneshot::channel();
    // The first one has a thread of its own, so that it can be stopped as a signal stops one.
    let beside = ground.beside();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut first = Plane::starts(&beside, 1, false);
            first.leads().await;
            first.greets(1).await;
            first.until(&[1], |view| view.0.is_here(node_id(1))).await;
            let leadership = first.leadership.clone();
            // What it will hear first when it comes back: a reason to write.
            first.greets(2).await;
            handles.send((leadership, first.shutdown.clone(), first.clock.now_ms())).unwrap();
            began.send(()).unwrap();
            held.recv().unwrap();
            first.follows().await;
            first.shutdown.requested().await;
            first.ends().await;
        });
    });
    let (mut leadership, shutdown, ms) = given.await.unwrap();
    begins.recv().unwrap();
    let mut second = Plane::starts_at(&ground, 2, false, ms + LEASE_TTL.0 as i64 + 1);
    let epoch = second.leads().await;
    ground.deploys(&shop).await;
    second.greets(1).await;
    second.until(&[1], |view| is_live(view, &shop)).await;
    hold.send(()).unwrap();
    let follows = leadership.wait_for(|it| matches!(it, Leadership::Follower { .. }));
    tokio::time::timeout(PATIENCE, follows).await.expect("it believes that it leads").unwrap();
    shutdown.begin(insula_kit::shutdown::Cause::Terminate);
    thread.join().unwrap();
    let lease = ground.store.read(|tx| leases::get(tx, LEASE)).await.unwrap().unwrap();
    assert_eq!((lease.holder, lease.epoch), (server(2), epoch));
    assert_eq!(ground.instances(&shop).await.len(), 2);
    assert_eq!(ground.deployment(&shop).await.state, DeploymentState::Live);
    let nodes = ground.store.read(|tx| insula_store::nodes::get(tx, node_id(2))).await.unwrap();
    assert_eq!(nodes, None, "what it was told before it stood still is not written after");
    second.ends().await;
}

#[tokio::test]
async fn the_fence_undoes_what_a_former_leader_writes() {
    let ground = Ground::new();
    let shop = Shop::new(1, 1);
    ground.deploys(&shop).await;
    let acquire = |n: u64, ms: u64| {
        move |tx: &mut Tx| leases::acquire(tx, LEASE, server(n), BEGIN.plus(Millis(ms)), LEASE_TTL)
    };
    let first = ground.store.write::<_, StoreError, _>(acquire(1, 0)).await.unwrap().unwrap();
    let second = ground.store.write::<_, StoreError, _>(acquire(2, 9_000)).await.unwrap().unwrap();
    let stops = |epoch, holder| {
        let (org, app) = (shop.org.id, shop.app.id);
        move |tx: &mut Tx| {
            apps::set_running(tx, org, app, false)?;
            Fence { holder, epoch }.check(tx)
        }
    };
    let late = ground.store.write(stops(first.epoch, first.holder)).await;
    assert!(matches!(late, Err(WriteError::Superseded { .. })), "{late:?}");
    let (org, id) = (shop.org.id, shop.app.id);
    let app = ground.store.read(move |tx| apps::get(tx, org, id)).await.unwrap().unwrap();
    assert!(app.running, "it was undone");
    ground.store.write(stops(second.epoch, second.holder)).await.unwrap();
}

#[tokio::test]
async fn one_that_is_alone_does_not_wait_for_the_lease_of_its_dead_predecessor() {
    let ground = Ground::new();
    let before = |tx: &mut Tx| {
        leases::acquire(tx, LEASE, server(9), BEGIN, Millis::secs(3_600))
            .map(|lease| lease.unwrap())
    };
    let before = ground.store.write::<_, StoreError, _>(before).await.unwrap();
    let mut plane = Plane::starts(&ground, 1, true);
    assert_eq!(plane.leads().await, before.epoch + 1);
    plane.ends().await;
}

#[tokio::test]
async fn a_server_that_was_killed_is_neither_shown_nor_offered() {
    let ground = Ground::new();
    let mut killed = Plane::starts(&ground, 1, false);
    killed.leads().await;
    killed.task.abort();
    _ = killed.task.await;
    // Long enough for its word to be old, and not for its row to be swept away.
    let later = BEGIN.as_millis() + 21_000;
    let mut next = Plane::starts_at(&ground, 2, false, later);
    next.leads().await;
    let shown = next.status.wait_for(|status| !status.servers.is_empty());
    let shown = tokio::time::timeout(PATIENCE, shown).await.expect("no status").unwrap().clone();
    let shown: Vec<ServerId> = shown.servers.iter().map(|server| server.id).collect();
    assert_eq!(shown, [server(2)]);
    next.ends().await;
}
