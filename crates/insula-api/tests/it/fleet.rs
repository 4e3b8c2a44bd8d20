//! Tokens to join with, what the operator does to nodes and gateways, and what is refused of it.
//!
//! Who may is in `access.txt`, that a repetition does nothing in `idempotency.rs`.

use std::collections::BTreeMap;

use insula_model::fleet::{Join, JoinGrant};
use insula_model::instance::Instance;
use insula_model::node::{Capacity, Duty, Node, Offer, Site};
use insula_model::{Bytes, InstanceId, JoinId, MilliCpu, NodeId, ReleaseId, Timestamp};
use insula_plan::{World, plan};
use insula_store::{SecretHash, WriteError, feed, instances, joins, nodes, releases};
use serde_json::{Value, json};

use crate::scene::Scene;
use crate::stage::{Stage, With};

/// What the authority is recognised by, in these stories.
const FINGERPRINT: &str = "mzxw6ytboi";
/// When the stage's clock begins.
const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const HOUR_MS: i64 = 3_600_000;

fn after(ms: i64) -> String {
    Timestamp::from_millis(1_795_000_000_000 + ms).to_string()
}

/// A node that has greeted once.
async fn node(stage: &Stage, id: NodeId, name: &str) {
    let capacity = Capacity {
        cpu: MilliCpu(2_000),
        memory: Bytes::gib(4),
        instances: 100,
        ..Capacity::default()
    };
    let node = Node {
        id,
        name: name.parse().unwrap(),
        offer: Offer { capacity, ..crate::deploy::offer() },
        site: Site::default(),
        duty: Duty::Serve,
        lost: None,
        ailments: Vec::new(),
        relay: None,
        agent_version: "0.1.0".into(),
        joined: NOW,
        hello: NOW,
    };
    stage.store.write(move |tx| nodes::hello(tx, &node)).await.map_err(|e: WriteError| e).unwrap();
}

/// A token that nobody has used.
async fn join(stage: &Stage, id: JoinId) {
    let expires = Timestamp::from_millis(1_795_000_000_000 + HOUR_MS);
    let join = Join { id, grants: JoinGrant::Gateway, created: NOW, expires, used: None };
    let writing = stage.store.write(move |tx| joins::create(tx, &join, &SecretHash([7; 32])));
    writing.await.map_err(|e: WriteError| e).unwrap();
}

fn node_id(seed: u8) -> NodeId {
    NodeId::from_parts(NOW, [seed; 10])
}

/// One pass of the control plane without its hands.
async fn pass(stage: &Stage) {
    let (_, changes) = stage.store.read(feed::snapshot).await.unwrap();
    let mut world = World::new("localhost".parse().unwrap());
    changes.into_iter().for_each(|change| world.apply(change));
    let decided = plan(&world, NOW);
    stage.view.send_replace((world.into(), decided.into()).into());
}

async fn events(stage: &Stage) -> Vec<String> {
    let told = stage.get(&stage.operator, "/v1/events").await.ok();
    let kinds = told["items"].as_array().unwrap().iter();
    kinds.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_text_of_a_token_is_shown_once_and_kept_as_a_hash() {
    let stage = Stage::open().await;
    let asked = json!({ "name": "worker-2", "zone": "north", "labels": { "disk": "ssd" } });
    let early = stage.post(&stage.operator, "/v1/joins", &asked).await;
    early.refused(503, "unavailable");

    stage.fleet.set_fingerprint(FINGERPRINT.into());
    stage.fleet.set_servers(vec!["10.0.0.1:7443".into()]);
    let made = stage.post(&stage.operator, "/v1/joins", &asked).await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    assert_eq!(made["servers"], json!(["10.0.0.1:7443"]));
    assert_eq!(
        (&made["join"]["role"], &made["join"]["name"]),
        (&json!("node"), &json!("worker-2"))
    );
    assert_eq!(made["join"]["expires"], after(HOUR_MS), "in an hour, where nobody says otherwise");
    let text = made["secret"].as_str().unwrap();
    let (secret, fingerprint) = text.split_once('.').unwrap();
    assert_eq!(fingerprint, FINGERPRINT);
    assert!(secret.starts_with("insj_") && secret.len() > 30, "{} bytes", secret.len());

    // What joins later gets what was said here.
    let hash = insula_kit::token::Token::parse(secret).unwrap().hash();
    let hash = SecretHash(*hash.as_bytes());
    let kept = stage.store.read(move |tx| joins::find(tx, &hash)).await.unwrap().unwrap();
    let JoinGrant::Node { name, site } = kept.grants else { panic!("not for a node") };
    assert_eq!(name.unwrap().as_str(), "worker-2");
    assert_eq!(site.zone.unwrap().as_str(), "north");
    assert_eq!(site.labels.len(), 1);

    let list = stage.get(&stage.operator, "/v1/joins").await;
    assert_eq!(list.ok()["items"][0], made["join"]);
    let told = stage.get(&stage.operator, "/v1/events").await;
    assert!(told.text.contains("join.created"));
    for answer in [&list.text, &told.text] {
        assert!(!answer.contains(secret), "{answer}");
    }
    // Neither the file nor what is kept beside it has the text.
    for file in std::fs::read_dir(stage.folder()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let there = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!there, "{} has it", path.display());
        }
    }
}

#[tokio::test]
async fn a_repetition_says_the_same_text_and_makes_no_second_token() {
    let stage = Stage::open().await;
    stage.fleet.set_fingerprint(FINGERPRINT.into());
    let ask = async || {
        let with = With::token(&stage.operator).json(&json!({ "role": "gateway" }));
        stage.send("POST", "/v1/joins", with.header("idempotency-key", "k")).await.ok()
    };
    let first = ask().await;
    assert_eq!(first["join"]["role"], "gateway");
    assert_eq!(ask().await, first);
    let list = stage.get(&stage.operator, "/v1/joins").await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_token_cannot_grant_is_refused_with_its_bound() {
    let stage = Stage::open().await;
    stage.fleet.set_fingerprint(FINGERPRINT.into());
    let labels = |n: usize| -> BTreeMap<String, Value> {
        (0..n).map(|i| (format!("label-{i}"), json!("x"))).collect()
    };
    for (asked, said) in [
        (json!({ "expires": after(0) }), "passed"),
        (json!({ "expires": after(-HOUR_MS) }), "passed"),
        (json!({ "expires": after(7 * 24 * HOUR_MS + 1) }), "at most"),
        (json!({ "labels": labels(65) }), "64 labels at most"),
        (json!({ "role": "server" }), "`server`"),
        (json!({ "name": "No Name" }), "line 1"),
        (json!({ "zone": "" }), "line 1"),
    ] {
        let problem = stage.post(&stage.operator, "/v1/joins", &asked).await;
        let problem = problem.refused(422, "invalid_field");
        assert!(problem.to_string().contains(said), "{asked}: {problem}");
    }
    for fits in [
        json!({ "expires": after(7 * 24 * HOUR_MS) }),
        json!({ "expires": after(1) }),
        json!({ "labels": labels(64) }),
    ] {
        stage.make("/v1/joins", &fits).await;
    }
}

#[tokio::test]
async fn a_token_is_revoked_once() {
    let stage = Stage::open().await;
    let id = JoinId::from_parts(NOW, [1; 10]);
    join(&stage, id).await;
    let path = format!("/v1/joins/{id}");
    assert_eq!(stage.delete(&stage.operator, &path).await.status, 204);
    stage.delete(&stage.operator, &path).await.refused(404, "not_found");
    let list = stage.get(&stage.operator, "/v1/joins").await.ok();
    assert_eq!(list["items"], json!([]));
    assert_eq!(events(&stage).await.iter().filter(|kind| *kind == "join.deleted").count(), 1);
}

#[tokio::test]
async fn a_duty_is_told_once_and_keeps_the_moment_in_which_it_began() {
    let stage = Stage::open().await;
    let id = node_id(1);
    node(&stage, id, "one").await;
    pass(&stage).await;
    let to = async |verb: &str| {
        let path = format!("/v1/nodes/{id}/{verb}");
        let notes = stage.post(&stage.operator, &path, &json!(null)).await.ok()["notes"].clone();
        notes.as_array().unwrap().first().map(|note| note.as_str().unwrap().to_owned())
    };
    let began = to("cordon").await;
    assert_eq!(began, Some(format!("cordoned since {}", after(0))));
    stage.clock.set_ms(1_795_000_000_000 + HOUR_MS);
    assert_eq!(to("cordon").await, began);
    assert_eq!(to("drain").await, Some(format!("draining since {}", after(HOUR_MS))));
    assert_eq!(to("uncordon").await, None);
    assert_eq!(to("uncordon").await, None);
    let of_nodes: Vec<String> =
        events(&stage).await.into_iter().filter(|kind| kind.starts_with("node.")).collect();
    assert_eq!(of_nodes, ["node.uncordoned", "node.draining", "node.cordoned"], "newest first");
}

#[tokio::test]
async fn a_site_is_changed_where_it_is_named_and_nowhere_else() {
    let stage = Stage::open().await;
    let id = node_id(1);
    node(&stage, id, "one").await;
    let path = format!("/v1/nodes/{id}");
    let set = async |asked: Value| {
        stage.send("PATCH", &path, With::token(&stage.operator).json(&asked)).await
    };
    let site = |answer: &Value| json!([answer["pool"], answer["zone"], answer["labels"]]);

    let all = json!({ "pool": "gpu", "zone": "north", "labels": { "disk": "ssd" } });
    assert_eq!(site(&set(all).await.ok()), json!(["gpu", "north", { "disk": "ssd" }]));
    let moved = set(json!({ "zone": "south" })).await.ok();
    assert_eq!(site(&moved), json!(["gpu", "south", { "disk": "ssd" }]));
    let common = set(json!({ "pool": "" })).await.ok();
    assert_eq!(site(&common), json!([null, "south", { "disk": "ssd" }]));
    set(json!({})).await.ok();
    let told = events(&stage).await.iter().filter(|kind| *kind == "node.site_set").count();
    assert_eq!(told, 3, "what changes nothing is no event");

    let labels: BTreeMap<String, Value> =
        (0..65).map(|i| (format!("label-{i}"), json!("x"))).collect();
    for wrong in [
        json!({ "zone": "North Sea" }),
        json!({ "pool": "a/b" }),
        json!({ "labels": { "": "x" } }),
        json!({ "labels": labels }),
    ] {
        set(wrong).await.refused(422, "invalid_field");
    }
    let kept = stage.get(&stage.operator, &path).await.ok();
    assert_eq!(site(&kept), json!([null, "south", { "disk": "ssd" }]));
}

#[tokio::test]
async fn a_drain_says_beforehand_what_would_move_and_changes_nothing() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let id = &scene.ids["node"];
    pass(&stage).await;
    let path = format!("/v1/nodes/{id}/drain");
    let alone = stage.get(&stage.operator, &path).await.ok();
    assert_eq!((&alone["moves"], &alone["singles"]), (&json!([]), &json!([])));
    let stays = &alone["stays"][0];
    assert_eq!(stays["instance"], scene.ids["instance"]);
    assert_eq!(stays["what"], "acme/shop web");
    assert!(stays["why"].as_str().is_some_and(|why| !why.is_empty()), "{alone}");
    let shown = stage.get(&stage.operator, &format!("/v1/nodes/{id}")).await.ok();
    assert_eq!(shown["notes"], json!([]));
}

/// Gives the scene's node one of a component that must never run twice.
async fn single(stage: &Stage, node: NodeId) {
    let written = stage.store.write(move |tx| {
        let one = instances::of_node_any_org(tx, node)?.remove(0);
        let mut release = releases::get_any_org(tx, one.release)?.unwrap();
        release.id = ReleaseId::from_parts(NOW, [77; 10]);
        release.number = releases::next_number(tx, one.org, one.app)?;
        release.spec.components.get_mut(&one.component).unwrap().single = true;
        releases::create(tx, &release)?;
        let id = InstanceId::from_parts(NOW, [77; 10]);
        instances::create(tx, &Instance { id, release: release.id, ..one })
    });
    written.await.map_err(|error: WriteError| error).unwrap();
}

#[tokio::test]
async fn a_node_that_is_well_is_not_removed_from_under_what_would_then_run_twice() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let id: NodeId = scene.ids["node"].parse().unwrap();
    single(&stage, id).await;
    let path = format!("/v1/nodes/{id}");
    let refused = stage.delete(&stage.operator, &path).await.refused(409, "not_empty");
    let said = refused["detail"].as_str().unwrap();
    assert!(said.ends_with("runs what must never run twice, and then would: acme/shop web"));
    let hint = refused["hint"].as_str().unwrap();
    assert!(hint.contains("insula nodes drain ") && hint.contains("--force"), "{hint}");
    assert_eq!(stage.get(&stage.operator, &path).await.status, 200, "nothing happened");
    let forced = format!("{path}?force");
    assert_eq!(stage.delete(&stage.operator, &forced).await.status, 204);
}

#[tokio::test]
async fn a_lost_node_is_removed_with_what_it_had_once_somebody_says_that_it_is_off() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let id: NodeId = scene.ids["node"].parse().unwrap();
    single(&stage, id).await;
    let lost = stage.store.write(move |tx| nodes::mark(tx, id, None, Some(NOW)));
    assert!(lost.await.map_err(|error: WriteError| error).unwrap());
    assert_eq!(stage.delete(&stage.operator, &format!("/v1/nodes/{id}")).await.status, 204);
}

#[tokio::test]
async fn who_is_removed_is_gone_with_what_it_ran_and_stays_gone() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let id = &scene.ids["node"];
    let path = format!("/v1/nodes/{id}");
    assert_eq!(stage.delete(&stage.operator, &path).await.status, 204);
    stage.get(&stage.operator, &path).await.refused(404, "not_found");
    stage.delete(&stage.operator, &path).await.refused(404, "not_found");
    let kept = stage.store.read(nodes_left).await.unwrap();
    assert_eq!(kept, 0);
    let instances = format!("/v1/orgs/acme/apps/{}/instances", scene.ids["app"]);
    assert_eq!(stage.get(&stage.operator, &instances).await.ok()["items"], json!([]));
    assert!(events(&stage).await.contains(&"node.removed".to_owned()));

    let edge = &scene.ids["gateway"];
    let listed = stage.get(&stage.operator, "/v1/gateways").await.ok();
    assert_eq!(listed["items"][0]["id"], edge.as_str());
    assert_eq!(listed["items"][0]["connected"], false);
    let path = format!("/v1/gateways/{edge}");
    assert_eq!(stage.delete(&stage.operator, &path).await.status, 204);
    stage.delete(&stage.operator, &path).await.refused(404, "not_found");
    assert_eq!(stage.get(&stage.operator, "/v1/gateways").await.ok()["items"], json!([]));
}

fn nodes_left(tx: &insula_store::Tx) -> Result<usize, insula_store::StoreError> {
    Ok(nodes::list(tx, &insula_store::Page::first(10))?.items.len())
}
