//! Agents and servers come and go; apps stay.

use insula_model::observed::Exit;
use insula_model::{RunId, Timestamp};
use insula_wire::node as wire;
use rustix::process::Signal;

use super::instance::{RUN, app};
use super::world::{World, alone, eventually, get};

async fn pid(endpoint: std::net::SocketAddr) -> serde_json::Value {
    let answer = get(endpoint, "/").await.unwrap();
    let seen: serde_json::Value = serde_json::from_str(&answer).unwrap();
    seen["env"]["INSULA_INSTANCE"].clone()
}

#[test]
fn an_agent_that_is_killed_or_replaced_leaves_apps_alone() {
    alone("agent::adopt::an_agent_that_is_killed_or_replaced_leaves_apps_alone", async || {
        let mut world = World::new().await;
        let source = app(&world);
        world.instances.push(world.instance(1, source, RUN));
        world.send();
        let endpoint = world.until_ready(0).await;
        let sandboxes = world.sandboxes();
        let before = pid(endpoint).await;

        world.kill_agent();
        assert_eq!(pid(endpoint).await, before);
        world.state.report.send_replace(None);
        world.start_agent();
        assert_eq!(world.until_ready(0).await, endpoint);

        world.end_agent(Signal::TERM).await;
        assert_eq!(pid(endpoint).await, before);
        world.state.report.send_replace(None);
        world.start_agent();
        // The first report already says so: nothing leaves the routes in between.
        let report = world.until("report", |_| true).await;
        assert_eq!(report.instances[0].phase.as_str(), "ready");
        assert_eq!(
            (report.instances[0].endpoint, report.instances[0].restarts),
            (Some(endpoint), 0)
        );
        assert_eq!(world.sandboxes(), sandboxes);
    });
}

#[test]
fn without_a_server_the_last_target_is_obeyed() {
    alone("agent::adopt::without_a_server_the_last_target_is_obeyed", async || {
        let mut world = World::new().await;
        let source = app(&world);
        let mut target = world.instance(1, source, RUN);
        target.secrets.push("API_KEY".parse().unwrap());
        world.secret(target.id, "API_KEY", "hunter2-hunter2");
        world.instances.push(target);
        world.send();
        let endpoint = world.until_ready(0).await;

        world.server = None;
        world.kill_agent();
        // As after a reboot: nothing runs, and nobody is there to ask.
        insula_agent::down(world.data()).await.unwrap();
        assert!(get(endpoint, "/").await.is_err());
        world.restart_keeper().await;
        world.start_agent();
        let fresh = world.endpoint_on_disk().await;
        assert!(get(fresh, "/").await.unwrap().contains("hunter2-hunter2"));

        world.state.report.send_replace(None);
        world.start_server().await;
        assert_eq!(world.until_ready(0).await, fresh);
    });
}

/// A gateway that begins with the routes that it kept goes by address, before any server is up.
#[test]
fn after_a_power_cut_no_address_is_given_that_a_kept_route_may_name() {
    let name = "agent::adopt::after_a_power_cut_no_address_is_given_that_a_kept_route_may_name";
    alone(name, async || {
        let mut world = World::new().await;
        let source = app(&world);
        world.instances.push(world.instance(1, source, RUN));
        world.send();
        let first = world.until_ready(0).await;
        let last_address = world.data().join("agent/last-address");
        let synced = std::fs::read(&last_address).unwrap();
        world.instances.push(world.instance(2, source, RUN));
        world.send();
        let second = world.until_ready(1).await;
        // It takes everything that runs, and of the disk the records and what came after the sync.
        world.kill_agent();
        insula_agent::down(world.data()).await.unwrap();
        std::fs::remove_dir_all(world.data().join("agent/state")).unwrap();
        std::fs::write(&last_address, synced).unwrap();
        // Somebody else is wanted here from now on.
        world.instances = vec![world.instance(3, source, RUN), world.instance(4, source, RUN)];
        world.send();
        world.state.report.send_replace(None);
        world.restart_keeper().await;
        world.start_agent();
        for number in 0..2 {
            let stranger = world.until_ready(number).await;
            assert!(stranger != first && stranger != second, "{stranger}");
        }
        for route in [first, second] {
            assert!(get(route, "/").await.is_err(), "somebody answers at {route}");
        }
    });
}

#[test]
fn a_target_from_the_past_is_refused() {
    alone("agent::adopt::a_target_from_the_past_is_refused", async || {
        let mut world = World::new().await;
        let source = app(&world);
        world.send();
        let past = world.state.target.borrow().clone();
        world.instances.push(world.instance(1, source, RUN));
        world.send();
        let endpoint = world.until_ready(0).await;
        world.state.target.send_replace(past);
        // What comes after it is taken, so the past was seen by then.
        world.instances.push(world.instance(2, source, RUN));
        world.send();
        world.until_ready(1).await;
        assert_eq!(world.until_ready(0).await, endpoint);
    });
}

#[test]
fn a_keeper_that_is_killed_is_replaced_and_no_line_is_lost() {
    alone("agent::adopt::a_keeper_that_is_killed_is_replaced_and_no_line_is_lost", async || {
        let mut world = World::new().await;
        let source = app(&world);
        let talk = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done";
        let mut talker = world.instance(1, source, talk);
        talker.kind = insula_model::spec::ComponentKind::Worker;
        talker.port = None;
        world.instances.push(talker);
        world.send();
        world.until_phase(0, "ready").await;
        world.kill_keeper();
        // The agent starts another one.
        let follow = wire::LogRequest { follow: true, ..world.app_log() };
        let lines = world.log_until(follow, |line| line == "line 400").await;
        let said: Vec<&String> = lines.iter().filter(|line| line.starts_with("line ")).collect();
        for (number, line) in said.iter().enumerate() {
            assert_eq!(**line, format!("line {}", number + 1));
        }
        assert_eq!(world.until_phase(0, "ready").await.restarts, 0);
    });
}

#[test]
fn a_run_that_ends_while_nobody_watches_keeps_its_exit_code() {
    alone("agent::adopt::a_run_that_ends_while_nobody_watches_keeps_its_exit_code", async || {
        let mut world = World::new().await;
        let source = world.source(&[("a", "a")]);
        // Goes on when the test says so, by answering on its port.
        let line = "python3 -c 'import socket; s = socket.create_server((\"\", 8080)); s.accept()'; exit 5";
        let mut run = world.instance(1, source, line);
        run.run = Some(RunId::from_parts(Timestamp::from_millis(1), [1; 10]));
        world.instances.push(run);
        world.send();
        world.until_phase(0, "ready").await;
        let endpoint = world.address_on_disk();
        world.kill_agent();
        eventually("the run goes on", || std::net::TcpStream::connect(endpoint).is_ok()).await;
        let exit = world.data().join("run").join(&world.sandboxes()[0]).join("kept.json");
        eventually("the run ends", || exit.exists()).await;
        world.state.report.send_replace(None);
        world.start_agent();
        let over = world.until_phase(0, "finished").await;
        assert_eq!(over.last_exit.unwrap().exit, Exit::Code { code: 5 });
        assert_eq!(over.restarts, 0);
    });
}

#[test]
fn losing_the_server_changes_nothing_and_crashes_are_still_mended() {
    alone(
        "agent::adopt::losing_the_server_changes_nothing_and_crashes_are_still_mended",
        async || {
            let mut world = World::new().await;
            let source = app(&world);
            world.instances.push(world.instance(1, source, RUN));
            world.send();
            let endpoint = world.until_ready(0).await;
            world.server = None;
            let _ = get(endpoint, "/exit/9").await;
            // It is there again, where gateways know it, with nobody to tell.
            eventually("a restart", || world.restarts_on_disk() == 1).await;
            assert_eq!(world.endpoint_on_disk().await, endpoint);
            get(endpoint, "/").await.unwrap();
            world.state.report.send_replace(None);
            world.start_server().await;
            let report = world.until_phase(0, "ready").await;
            assert_eq!((report.endpoint, report.restarts), (Some(endpoint), 1));
        },
    );
}
