//! What may run only in contact with a server, and what never cares.

use std::time::Duration;

use insula_model::spec::Failover;

use rustix::process::Signal;

use super::instance::{RUN, app};
use super::world::{World, alone, eventually, get};

/// Shorter than the platform's, so that a test need not wait for that.
const LEASE_MS: u64 = 1_500;

/// The first instance does not care, the second one stops without contact.
async fn world() -> World {
    let lease = ("FAILOVER_LEASE_MS".to_owned(), LEASE_MS.to_string());
    let mut world = World::with_environment([lease].into()).await;
    let source = app(&world);
    world.instances.push(world.instance(1, source, RUN));
    let mut leased = world.instance(2, source, RUN);
    leased.failover = Failover::Lease;
    world.instances.push(leased);
    world.send();
    world.until_ready(0).await;
    world.until_ready(1).await;
    world
}

fn sandboxes_of(world: &World, number: usize) -> usize {
    let id = world.instances[number].id.to_string();
    world.sandboxes().iter().filter(|name| name.starts_with(&id)).count()
}

#[test]
fn without_contact_only_the_leased_stop_and_a_server_brings_them_back() {
    let name = "agent::lease::without_contact_only_the_leased_stop_and_a_server_brings_them_back";
    alone(name, async || {
        let mut world = world().await;
        let steady = world.until_ready(0).await;
        // While the server answers, the lease goes on.
        tokio::time::sleep(Duration::from_millis(LEASE_MS * 2)).await;
        assert_eq!(world.until_phase(1, "ready").await.restarts, 0);

        world.server = None;
        eventually("the end of the leased one", || sandboxes_of(&world, 1) == 0).await;
        get(steady, "/").await.unwrap();
        assert_eq!(sandboxes_of(&world, 0), 1);

        // An agent that begins without contact does not start it either.
        world.kill_agent();
        world.start_agent();
        world.endpoint_on_disk().await;
        get(steady, "/").await.unwrap();
        assert_eq!(sandboxes_of(&world, 1), 0);

        world.state.report.send_replace(None);
        world.start_server().await;
        // The same Target again: it was sent after contact, so the instance is still ours.
        world.until_ready(1).await;
        let unharmed = world.until_phase(0, "ready").await;
        assert_eq!((unharmed.restarts, unharmed.last_exit), (0, None));
    });
}

#[test]
fn an_agent_that_is_replaced_in_contact_leaves_the_leased_alone() {
    let name = "agent::lease::an_agent_that_is_replaced_in_contact_leaves_the_leased_alone";
    alone(name, async || {
        let mut world = world().await;
        let contact = world.data().join("agent/contact.json");
        eventually("contact on disk", || contact.exists()).await;
        let before = world.sandboxes();
        world.kill_agent();
        world.state.report.send_replace(None);
        world.start_agent();
        let report = world.until_phase(1, "ready").await;
        assert_eq!((report.restarts, report.last_exit), (0, None));
        assert_eq!(world.sandboxes(), before);
    });
}

#[test]
fn after_a_boot_contact_alone_does_not_bring_the_leased_back_however_often_the_agent_begins() {
    let name = concat!(
        "agent::lease::",
        "after_a_boot_contact_alone_does_not_bring_the_leased_back_however_often_the_agent_begins"
    );
    alone(name, async || {
        let mut world = world().await;
        let contact = world.data().join("agent/contact.json");
        eventually("contact on disk", || contact.exists()).await;
        let steady = world.until_ready(0).await;
        // The machine was off for long enough that the server starts the leased one elsewhere. Now
        // it is on, and the server answers but cannot send a Target: its disk is full, say.
        world.kill_agent();
        world.state.target.send_replace(None);
        let of_before = std::fs::read_to_string(&contact).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        std::fs::write(&contact, of_before.replace(boot.trim(), "the boot before")).unwrap();
        world.start_agent();
        eventually("the end of the leased one", || sandboxes_of(&world, 1) == 0).await;
        let is_of_this_boot =
            || std::fs::read_to_string(&contact).is_ok_and(|text| text.contains(boot.trim()));
        eventually("contact in this boot", is_of_this_boot).await;

        let leased = world.instances[1].id;
        for _ in 0..2 {
            world.kill_agent();
            world.state.report.send_replace(None);
            world.start_agent();
            // The first report tells of all that the agent holds, begun or not.
            let report = world.until("report", |_| true).await;
            assert!(report.instances.iter().all(|it| it.id != leased), "{report:#?}");
            get(steady, "/").await.unwrap();
        }
        world.send();
        world.until_ready(1).await;
        assert_eq!(world.until_phase(0, "ready").await.restarts, 0);
    });
}

#[test]
fn a_frozen_agent_does_not_keep_the_leased_running() {
    let name = "agent::lease::a_frozen_agent_does_not_keep_the_leased_running";
    alone(name, async || {
        let world = world().await;
        let (steady, leased) = (world.until_ready(0).await, world.until_ready(1).await);
        world.signal_agent(Signal::STOP);
        // Lease and grace are over, and the keeper does what the agent cannot.
        let patience = Duration::from_millis(200);
        let answers = || std::net::TcpStream::connect_timeout(&leased, patience).is_ok();
        eventually("the end of the leased one", || !answers()).await;
        get(steady, "/").await.unwrap();
        world.state.report.send_replace(None);
        world.signal_agent(Signal::CONT);
        // It has lost its lease, asks again, and is told again.
        world.until_ready(1).await;
        assert_eq!(world.until_phase(0, "ready").await.restarts, 0);
    });
}

#[test]
fn a_server_that_hears_nothing_is_left_and_does_not_count_as_contact() {
    let name = "agent::lease::a_server_that_hears_nothing_is_left_and_does_not_count_as_contact";
    alone(name, async || {
        let world = world().await;
        let sessions = world.state.hellos.borrow().len();
        world.state.refusal.send_replace(Some(tonic::Status::unavailable("away")));
        world.state.mute.send_replace(true);
        eventually("the end of the leased one", || sandboxes_of(&world, 1) == 0).await;
        assert_eq!(world.state.hellos.borrow().len(), sessions);
        assert_eq!(sandboxes_of(&world, 0), 1);
    });
}
