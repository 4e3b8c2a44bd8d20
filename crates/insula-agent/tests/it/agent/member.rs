//! Agents as members of a fleet: over mutual TLS, to any of its servers.

use insula_model::node::AilmentKind;
use insula_model::observed::NodeReport;
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use rustix::process::Signal;

use super::fake::Server;
use super::fleet::Fleet;
use super::instance::{RUN, app};
use super::world::{PATIENCE, World, alone, eventually, get};

#[test]
fn a_node_joins_once_and_runs_apps_from_blobs_that_came_over_tls() {
    let name = "agent::member::a_node_joins_once_and_runs_apps_from_blobs_that_came_over_tls";
    alone(name, async || {
        let mut world = World::of_fleet(&Fleet::new()).await;
        let source = app(&world);
        world.instances.push(world.instance(1, source, RUN));
        world.send();
        let endpoint = world.until_ready(0).await;
        let hello = world.state.hellos.borrow()[0].clone();
        assert_eq!(hello.name, "blue", "as the fleet calls it");
        let facts: NodeFacts = serde_json::from_str(&hello.facts).unwrap();
        assert!(facts.clock.is_some());
        let named = std::fs::read_to_string(world.data().join("node")).unwrap();
        assert_eq!(named.trim(), hello.node);

        // The token was used; the next agent does not need it, and is not asked for it.
        world.end_agent(Signal::TERM).await;
        world.environment.remove("TOKEN");
        world.state.report.send_replace(None);
        world.start_agent();
        assert_eq!(world.until_ready(0).await, endpoint);
        assert_eq!(world.state.hellos.borrow().last().unwrap().node, hello.node);
        let usage = world.state.usage.subscribe().wait_for(Option::is_some).await.unwrap().clone();
        assert!(usage.unwrap().node.unwrap().memory_bytes > 0);
    });
}

#[test]
fn a_token_that_is_refused_ends_the_agent_with_words() {
    alone("agent::member::a_token_that_is_refused_ends_the_agent_with_words", async || {
        let fleet = Fleet::new();
        let server = Server::start_in(&fleet, super::fake::State::new(), 0).await;
        let folder = tempfile::tempdir().unwrap();
        let (at, token) = (format!("fleet:{}", server.address.unwrap()), fleet.token(0));
        let agent = super::world::role()
            .args(["agent", folder.path().to_str().unwrap(), &at, "-"])
            .env("TOKEN", token)
            .output()
            .unwrap();
        assert_eq!(agent.status.code(), Some(1));
        let said = String::from_utf8_lossy(&agent.stderr);
        assert!(said.contains("the token was used"), "{said}");
        assert!(said.contains("insula nodes token"), "{said}");
    });
}

#[test]
fn when_its_server_is_gone_a_node_goes_to_another() {
    alone("agent::member::when_its_server_is_gone_a_node_goes_to_another", async || {
        let fleet = Fleet::new();
        let mut world = World::of_fleet(&fleet).await;
        let source = app(&world);
        world.instances.push(world.instance(1, source, RUN));
        world.send();
        let endpoint = world.until_ready(0).await;
        // The fleet grows; the node hears of it in its session.
        let other = Server::start_in(&fleet, world.state.clone(), 0).await;
        let first = world.server.as_ref().unwrap().address.unwrap();
        let addresses = vec![first.to_string(), other.address.unwrap().to_string()];
        let servers = wire::Servers { addresses: addresses.clone() };
        world.state.requests.send(wire::server_message::Message::Servers(servers)).unwrap();
        let file = world.data().join("agent/servers.json");
        let kept = || std::fs::read_to_string(&file).unwrap_or_default().contains(&addresses[1]);
        eventually("the list on disk", kept).await;

        world.state.report.send_replace(None);
        let began = std::time::Instant::now();
        world.server = Some(other);
        assert_eq!(world.until_ready(0).await, endpoint);
        assert!(began.elapsed() < PATIENCE / 8, "{:?}", began.elapsed());
        assert_eq!(world.until_phase(0, "ready").await.restarts, 0);
        // And so does an agent that only knows what is on disk.
        world.kill_agent();
        world.at = "fleet:127.0.0.1:1".into();
        world.environment.remove("TOKEN");
        world.state.report.send_replace(None);
        world.start_agent();
        assert_eq!(world.until_ready(0).await, endpoint);
    });
}

#[test]
fn a_node_that_was_removed_keeps_its_apps_and_knocks_less_often() {
    let name = "agent::member::a_node_that_was_removed_keeps_its_apps_and_knocks_less_often";
    alone(name, async || {
        let fleet = Fleet::new();
        let mut world = World::of_fleet(&fleet).await;
        let source = app(&world);
        world.instances.push(world.instance(1, source, RUN));
        world.send();
        let endpoint = world.until_ready(0).await;
        let removed = tonic::Status::permission_denied("this node was removed");
        world.state.refusal.send_replace(Some(removed));
        let port = world.server.as_ref().unwrap().address.unwrap().port();
        world.server = None;
        world.server = Some(Server::start_in(&fleet, world.state.clone(), port).await);
        let knocks = world.state.refused.clone();
        let mut heard = knocks.subscribe();
        heard.wait_for(|refused| *refused > 0).await.unwrap();
        // A second one comes after five seconds at the earliest.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        assert_eq!(*knocks.borrow(), 1);
        get(endpoint, "/").await.unwrap();
    });
}

#[test]
fn a_clock_that_is_off_is_reported_and_then_taken_back() {
    alone("agent::member::a_clock_that_is_off_is_reported_and_then_taken_back", async || {
        let mut world = World::of_fleet(&Fleet::new()).await;
        world.send();
        world.state.clock_ahead_ms.send_replace(3_600_000);
        let clock =
            |report: &NodeReport| report.ailments.iter().any(|it| it.kind == AilmentKind::Clock);
        let report = world.until("word of the clock", clock).await;
        let ailment = report.ailments.iter().find(|it| it.kind == AilmentKind::Clock).unwrap();
        assert!(ailment.message.contains("about an hour"), "{}", ailment.message);
        world.state.clock_ahead_ms.send_replace(0);
        world.until("no word of it", |report| !clock(report)).await;
    });
}

const HOUR_MS: i64 = 3_600_000;
/// So little that it is time for the next one, whatever the jitter and a clock that is off.
const ALMOST_OVER_MS: i64 = 40 * HOUR_MS;

/// Joins by its token, renews, runs an app, says that its clock is off, and is a member again when
/// it begins anew: all by that clock.
async fn lives_by_a_clock_that_is(ahead_ms: i64, word: &str) {
    let fleet = Fleet::whose_first_certificates_live(ALMOST_OVER_MS);
    let mut world = World::of_fleet_with_clock(&fleet, ahead_ms).await;
    let source = app(&world);
    world.instances.push(world.instance(1, source, RUN));
    world.send();
    let endpoint = world.until_ready(0).await;
    eventually("the next certificate", || fleet.renewed() > 0).await;
    let is_clock = |kind: AilmentKind| kind == AilmentKind::Clock;
    let off = |report: &NodeReport| report.ailments.iter().any(|it| is_clock(it.kind));
    let report = world.until("word of the clock", off).await;
    let said = &report.ailments.iter().find(|it| is_clock(it.kind)).unwrap().message;
    assert!(said.contains(word) && said.contains("about an hour"), "{said}");

    world.end_agent(Signal::TERM).await;
    world.environment.remove("TOKEN");
    world.state.report.send_replace(None);
    world.start_agent();
    assert_eq!(world.until_ready(0).await, endpoint);
    world.until("word of the clock", off).await;
    assert_eq!(fleet.renewed(), 1, "the next one is not due for long");
    get(endpoint, "/").await.unwrap();
}

#[test]
fn a_node_whose_clock_is_an_hour_behind_joins_renews_and_says_so() {
    let name = "agent::member::a_node_whose_clock_is_an_hour_behind_joins_renews_and_says_so";
    alone(name, async || lives_by_a_clock_that_is(-HOUR_MS, "behind").await);
}

#[test]
fn a_node_whose_clock_is_an_hour_ahead_joins_renews_and_says_so() {
    let name = "agent::member::a_node_whose_clock_is_an_hour_ahead_joins_renews_and_says_so";
    alone(name, async || lives_by_a_clock_that_is(HOUR_MS, "ahead of").await);
}
