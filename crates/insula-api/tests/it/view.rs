//! What is answered from the control plane's last view: why, routes, nodes, and the state of all.

use std::sync::Arc;

use insula_link::{InstanceUsage, Traffic};
use insula_model::Timestamp;
use insula_model::observed::{InstancePhase, InstanceReport, Observed};
use insula_plan::{World, plan};
use insula_store::{WriteError, feed, instances, orgs};
use serde_json::json;

use crate::scene::{Scene, WEB};
use crate::stage::Stage;

/// One pass of the control plane without its hands: read everything, decide, show.
async fn pass(stage: &Stage) {
    let (_, changes) = stage.store.read(feed::snapshot).await.unwrap();
    let mut world = World::new("localhost".parse().unwrap());
    changes.into_iter().for_each(|change| world.apply(change));
    let decided = plan(&world, Timestamp::from_millis(1_795_000_000_000));
    stage.view.send_replace(Arc::new((Arc::new(world), Arc::new(decided))));
}

async fn ready(stage: &Stage, scene: &Scene) {
    let id: insula_model::InstanceId = scene.ids["instance"].parse().unwrap();
    let (org, at) = (scene.org.parse().unwrap(), Timestamp::from_millis(1_795_000_000_000));
    let report = InstanceReport {
        id,
        phase: InstancePhase::Ready,
        endpoint: Some("10.0.0.2:8080".parse().unwrap()),
        restarts: 0,
        exits_before_ready: 0,
        last_exit: None,
        started: Some(at),
        ready_since: Some(at),
        warnings: Vec::new(),
    };
    stage
        .store
        .write(move |tx| {
            let org = orgs::by_name(tx, &org)?.unwrap().id;
            let observed = Observed::Present { value: Box::new(report.clone()), seen: at };
            instances::set_observed(tx, org, id, &observed)?;
            Ok::<_, WriteError>(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn routes_lead_to_who_is_ready() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let path = format!("/v1/orgs/acme/apps/{}/routes", scene.ids["app"]);
    assert_eq!(stage.get(&stage.operator, &path).await.ok()["items"], json!([]));
    ready(&stage, &scene).await;
    pass(&stage).await;
    let routes = stage.get(&stage.operator, &path).await.ok();
    let routes = routes["items"].as_array().unwrap();
    assert_eq!(routes.len(), 2, "its own host, and its domain");
    for route in routes {
        assert_eq!((&route["component"], &route["path"]), (&json!(WEB), &json!("/")));
        assert_eq!(route["endpoints"], json!(["10.0.0.2:8080"]));
    }
    assert!(routes.iter().any(|route| route["host"] == "acme.example.org"));
    let status = stage.get(&stage.operator, "/v1/status").await.ok();
    assert_eq!((&status["instances"], &status["instances_ready"]), (&json!(1), &json!(1)));
    assert_eq!(status["deployments_open"], 1);
}

#[tokio::test]
async fn everything_can_be_asked_why() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    pass(&stage).await;
    for what in ["app", "deployment", "instance", "run"] {
        let path = format!("/v1/orgs/acme/why?subject={}", scene.ids[what]);
        let why = stage.get(&stage.operator, &path).await.ok();
        assert_eq!(why["subject"], scene.ids[what]);
        assert!(why["summary"].as_str().unwrap().len() > 5, "{why}");
    }
    let path = format!("/v1/orgs/acme/why?subject={}", scene.ids["instance"]);
    let why = stage.get(&stage.operator, &path).await.ok();
    assert_eq!(why["summary"], "of-acme is not connected; this is what it said last");
    assert_eq!(why["reasons"][0], "it should run");
    assert_eq!(why["reasons"][1], "its node has not reported it yet");
    for wrong in ["", "subject=", "subject=nonsense", "subject=org_x"] {
        let path = format!("/v1/orgs/acme/why?{wrong}");
        stage.get(&stage.operator, &path).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn nodes_and_runtimes_are_shown_with_what_is_reserved() {
    let stage = Stage::open().await;
    crate::deploy::node(
        &stage,
        &[insula_model::spec::Runtime::Python, insula_model::spec::Runtime::Files],
        insula_model::Bytes::gib(4),
    )
    .await;
    pass(&stage).await;
    let nodes = stage.get(&stage.operator, "/v1/nodes").await.ok();
    let node = &nodes["items"][0];
    assert_eq!((&node["name"], &node["connected"]), (&json!("one"), &json!(false)));
    assert_eq!(node["capacity"]["memory_bytes"], 4_u64 << 30);
    assert_eq!(node["reserved"]["instances"], 0);
    let path = format!("/v1/nodes/{}", node["id"].as_str().unwrap());
    assert_eq!(&stage.get(&stage.operator, &path).await.ok(), node);
    let robot = stage.machine("default", insula_model::tenancy::Role::Viewer).await;
    let runtimes = stage.get(&robot, "/v1/runtimes").await.ok();
    let names: Vec<_> =
        runtimes["items"].as_array().unwrap().iter().map(|one| &one["runtime"]).collect();
    assert_eq!(names, ["files", "python"]);
    let metrics = stage.get(&stage.operator, "/metrics").await;
    assert!(
        metrics.text.contains("insula_api_requests_total{route=\"list_nodes\",status=\"200\"} 1")
    );
}

/// What `/metrics` says, without its explanations.
async fn metrics(stage: &Stage) -> Vec<String> {
    let answer = stage.get(&stage.operator, "/metrics").await;
    assert_eq!(answer.status, 200);
    let lines = answer.text.lines().filter(|line| !line.starts_with('#'));
    lines.map(ToOwned::to_owned).collect()
}

/// All lines of one metric.
fn of<'l>(lines: &'l [String], name: &str) -> Vec<&'l str> {
    let is = |line: &str| line.split(['{', ' ']).next() == Some(name);
    lines.iter().map(String::as_str).filter(|line| is(line)).collect()
}

#[tokio::test]
async fn a_server_that_does_not_decide_tells_no_figures_of_a_fleet_that_it_does_not_see() {
    let stage = Stage::open().await;
    Scene::set(&stage, "acme", 1).await;
    pass(&stage).await;
    let leading = metrics(&stage).await;
    assert_eq!(of(&leading, "insula_server_decides"), ["insula_server_decides 1"]);
    assert_eq!(of(&leading, "insula_nodes"), ["insula_nodes 1"]);
    stage.fleet.set_deciding(insula_api::Deciding::Nobody);
    let following = metrics(&stage).await;
    assert_eq!(of(&following, "insula_server_decides"), ["insula_server_decides 0"]);
    assert_eq!(of(&following, "insula_feed_head").len(), 1, "what it knows itself");
    for of_the_fleet in ["insula_nodes", "insula_instances", "insula_apps"] {
        assert!(of(&following, of_the_fleet).is_empty(), "{of_the_fleet}");
    }
}

#[tokio::test]
async fn the_operator_sees_how_all_apps_are() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    pass(&stage).await;
    let before = metrics(&stage).await;
    assert_eq!(
        of(&before, "insula_instances"),
        ["insula_instances{phase=\"ready\"} 0", "insula_instances{phase=\"unknown\"} 1"]
    );
    assert_eq!(
        of(&before, "insula_deployments_open"),
        ["insula_deployments_open{state=\"queued\"} 1"]
    );
    assert_eq!(of(&before, "insula_nodes_connected"), ["insula_nodes_connected 0"]);
    assert_eq!(of(&before, "insula_gateways_connected"), ["insula_gateways_connected 0"]);
    let head = stage.store.head().borrow().0;
    assert_eq!(of(&before, "insula_feed_head"), [format!("insula_feed_head {head}")]);
    let seen = format!("insula_world_generation {}", stage.view.borrow().0.generation.0);
    assert_eq!(of(&before, "insula_world_generation"), [seen]);

    ready(&stage, &scene).await;
    pass(&stage).await;
    let after = metrics(&stage).await;
    assert_eq!(of(&after, "insula_instances"), ["insula_instances{phase=\"ready\"} 1"]);
    let restarts = of(&after, "insula_instance_restarts_total");
    let labels = format!(
        "org=\"acme\",project=\"default\",environment=\"production\",app=\"shop\",\
         component=\"web\",instance=\"{}\"",
        scene.ids["instance"]
    );
    assert_eq!(restarts, [format!("insula_instance_restarts_total{{{labels}}} 0")]);
    let number = |lines: &[String], name| {
        let [line] = of(lines, name)[..] else { panic!("{name} is told once") };
        line.split(' ').next_back().unwrap().parse::<u64>().unwrap()
    };
    for name in ["insula_store_mutations_total", "insula_store_commits_total"] {
        assert!(number(&after, name) > number(&before, name), "{name}");
    }
}

#[tokio::test]
async fn what_nodes_and_gateways_count_is_told_of_what_is_there() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    pass(&stage).await;
    let app: insula_model::AppId = scene.ids["app"].parse().unwrap();
    let at = Timestamp::from_millis(1);
    let nobody = insula_model::AppId::from_parts(at, [7; 10]);
    let traffic = Traffic { requests: 3, errors_5xx: 1, bytes_out: 100 };
    stage.hub.add_traffic(app, WEB.parse().unwrap(), traffic);
    stage.hub.add_traffic(app, WEB.parse().unwrap(), traffic);
    stage.hub.add_traffic(app, "made-up".parse().unwrap(), traffic);
    stage.hub.add_traffic(nobody, WEB.parse().unwrap(), traffic);
    let used = InstanceUsage { memory_bytes: 5_000, cpu_usec: 7, pids: 1, log_dropped_bytes: 9 };
    stage.hub.set_usage(scene.ids["instance"].parse().unwrap(), used);
    stage.hub.set_usage(insula_model::InstanceId::from_parts(at, [7; 10]), used);

    let lines = metrics(&stage).await;
    let place = "org=\"acme\",project=\"default\",environment=\"production\",app=\"shop\",\
                 component=\"web\"";
    for (name, sum) in [
        ("insula_app_requests_total", 6),
        ("insula_app_errors_5xx_total", 2),
        ("insula_app_bytes_out_total", 200),
    ] {
        assert_eq!(of(&lines, name), [format!("{name}{{{place}}} {sum}")]);
    }
    let instance = &scene.ids["instance"];
    for (name, amount) in [
        ("insula_instance_memory_bytes", 5_000),
        ("insula_instance_cpu_microseconds_total", 7),
        ("insula_instance_log_dropped_bytes_total", 9),
    ] {
        let line = format!("{name}{{{place},instance=\"{instance}\"}} {amount}");
        assert_eq!(of(&lines, name), [line]);
    }
    assert_eq!(stage.hub.traffic().len(), 1, "what nobody has is not kept");

    let path = format!("/v1/orgs/acme/apps/{app}");
    stage.delete(&stage.operator, &path).await.ok();
    pass(&stage).await;
    assert!(of(&metrics(&stage).await, "insula_app_requests_total").is_empty());
    assert!(stage.hub.traffic().is_empty());
}

#[tokio::test]
async fn a_deployment_that_ends_is_counted_once() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let ended = async || {
        let lines = metrics(&stage).await;
        of(&lines, "insula_deployments_ended_total").join("\n")
    };
    let none = ended().await;
    for outcome in ["live", "failed", "superseded", "cancelled"] {
        let line = format!("insula_deployments_ended_total{{outcome=\"{outcome}\"}} 0");
        assert!(none.contains(&line), "{none}");
    }
    let cancel = format!("/v1/orgs/acme/deployments/{}/cancel", scene.ids["deployment"]);
    stage.post(&stage.operator, &cancel, &json!({})).await.ok();
    stage.post(&stage.operator, &cancel, &json!({})).await.refused(409, "conflict");
    let once = none.replace("{outcome=\"cancelled\"} 0", "{outcome=\"cancelled\"} 1");
    assert_eq!(ended().await, once);
    assert_eq!(ended().await, once, "reading it again counts nothing");
}
