//! What is answered from the control plane's last view: why, routes, nodes, and the state of all.

use std::sync::Arc;

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
            let observed = Observed::Present { value: report.clone(), seen: at };
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
    assert_eq!(why["summary"], "it should run");
    assert_eq!(why["reasons"][0], "its node has not reported it yet");
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
