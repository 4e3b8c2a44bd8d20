//! From a folder to a deployment, as the CLI does it and as programs do.

use insula_blobs::{Entry, Manifest};
use insula_kit::digest::sha256;
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::node::{Architecture, Capacity, Duty, Node, NodeMode, Offer, RuntimeFound, Site};
use insula_model::spec::{Isolation, Runtime};
use insula_model::{Bytes, DeploymentId, Digest, MilliCpu, NodeId, Timestamp};
use insula_store::{WriteError, deployments, nodes, orgs};
use insula_wire::rest::source::{CHUNKS_MEDIA_TYPE, frame_header};
use serde_json::{Value, json};

use crate::scene::Scene;
use crate::stage::{Stage, With};

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(sha256(bytes))
}

/// What a folder of these files is called, and the body that uploads them.
pub fn folder(files: &[(&str, &str)]) -> (Value, Vec<u8>) {
    let mut body = Vec::new();
    let entries = files.iter().map(|(path, text)| {
        let bytes = text.as_bytes();
        body.extend_from_slice(&frame_header(&digest(bytes), bytes.len() as u64));
        body.extend_from_slice(bytes);
        Entry::file(*path, digest(bytes), Bytes(bytes.len() as u64), false)
    });
    let manifest = Manifest::new(entries.collect()).unwrap();
    (serde_json::from_slice(&manifest.encode()).unwrap(), body)
}

/// Uploads and deploys; the answer to the latter.
pub async fn deploy(
    stage: &Stage,
    org: &str,
    app: &str,
    files: &[(&str, &str)],
) -> crate::stage::Answer {
    let (manifest, body) = folder(files);
    let path = format!("/v1/orgs/{org}/sources/chunks");
    let with = With::token(&stage.operator).body(CHUNKS_MEDIA_TYPE, body);
    stage.send("PUT", &path, with).await.ok();
    let path = format!("/v1/orgs/{org}/apps/{app}/deployments");
    stage.post(&stage.operator, &path, &json!({ "manifest": manifest })).await
}

/// What a host with nothing offers.
pub fn offer() -> Offer {
    Offer {
        capacity: Capacity::default(),
        mode: NodeMode::Full,
        runtimes: Vec::new(),
        architecture: Architecture::X86,
        isolation: [Isolation::Standard].into(),
    }
}

/// A node of this size that has these runtimes, as if its agent had said hello.
pub async fn node(stage: &Stage, runtimes: &[Runtime], memory: Bytes) {
    let runtimes = runtimes.iter().map(|runtime| RuntimeFound {
        runtime: *runtime,
        version: "1".into(),
        path: "/usr/bin/x".into(),
    });
    let now = Timestamp::from_millis(1_795_000_000_000);
    let node = Node {
        id: NodeId::from_parts(now, [1; 10]),
        name: "one".parse().unwrap(),
        offer: Offer {
            capacity: Capacity {
                cpu: MilliCpu(2_000),
                memory,
                instances: 100,
                ..Capacity::default()
            },
            runtimes: runtimes.collect(),
            ..offer()
        },
        site: Site::default(),
        duty: Duty::Serve,
        lost: None,
        ailments: Vec::new(),
        relay: None,
        agent_version: "0.1.0".into(),
        joined: now,
        hello: now,
    };
    stage.store.write(move |tx| nodes::hello(tx, &node)).await.map_err(|e: WriteError| e).unwrap();
}

#[tokio::test]
async fn a_folder_is_uploaded_where_it_lacks_and_deployed() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    let (manifest, body) = folder(&[("index.html", "<h1>hello</h1>"), ("style.css", "h1 {}")]);
    let path = format!("/v1/orgs/default/apps/{app}/deployments");
    let deployment = json!({ "manifest": manifest });

    let early = stage.post(&stage.operator, &path, &deployment).await;
    early.refused(422, "source_incomplete");

    let asked = json!({ "chunks": [digest(b"h1 {}"), digest(b"<h1>hello</h1>")] });
    let missing = stage.post(&stage.operator, "/v1/orgs/default/sources/missing", &asked).await;
    assert_eq!(missing.ok()["missing"], asked["chunks"]);

    let with = With::token(&stage.operator).body(CHUNKS_MEDIA_TYPE, body);
    let stored = stage.send("PUT", "/v1/orgs/default/sources/chunks", with).await.ok();
    assert_eq!(stored, json!({ "chunks": 2, "bytes": 19 }));
    let missing = stage.post(&stage.operator, "/v1/orgs/default/sources/missing", &asked).await;
    assert_eq!(missing.ok()["missing"], json!([]));

    let planned = stage.post(&stage.operator, &format!("{path}/plan"), &deployment).await.ok();
    assert_eq!(planned["components"][0]["kind"], "static");
    let made = stage.post(&stage.operator, &path, &deployment).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made = made.json();
    assert_eq!(made["state"], "queued");
    assert_eq!(made["source"]["kind"], "folder");
    let short = &app[app.len() - 6..];
    assert_eq!(made["url"], format!("http://shop-{short}.localhost:8080/"));

    let id = made["id"].as_str().unwrap();
    let shown = stage.get(&stage.operator, &format!("/v1/orgs/default/deployments/{id}")).await;
    assert_eq!(shown.ok(), made);
    let listed = stage.get(&stage.operator, &path).await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);

    let cancel = format!("/v1/orgs/default/deployments/{id}/cancel");
    assert_eq!(stage.post(&stage.operator, &cancel, &json!({})).await.ok()["state"], "cancelled");
    stage.post(&stage.operator, &cancel, &json!({})).await.refused(409, "conflict");
}

#[tokio::test]
async fn a_deployment_is_cancelled_until_traffic_moves_to_it() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let id: DeploymentId = scene.ids["deployment"].parse().unwrap();
    let path = format!("/v1/orgs/acme/deployments/{id}");
    let moved = async |from: DeploymentState, to: DeploymentState| {
        let moved = stage.store.write(move |tx| {
            let org = orgs::by_name(tx, &"acme".parse().unwrap())?.unwrap().id;
            let before = deployments::get(tx, org, id)?.unwrap();
            deployments::update(tx, &from, &Deployment { state: to.clone(), ..before })
        });
        moved.await.map_err(|error: WriteError| error).unwrap();
    };
    let cancel = async || {
        let path = format!("{path}/cancel");
        stage.post(&stage.operator, &path, &json!({})).await
    };
    moved(DeploymentState::Queued, DeploymentState::Shifting).await;
    let refused = cancel().await.refused(409, "conflict");
    assert_eq!(refused["detail"], "traffic is moving to it already");
    assert_eq!(refused["hint"], "to go back, use rollback");
    assert_eq!(stage.get(&stage.operator, &path).await.ok()["state"], "shifting");
    moved(DeploymentState::Shifting, DeploymentState::Starting).await;
    assert_eq!(cancel().await.ok()["state"], "cancelled");
}

#[tokio::test]
async fn a_stopped_app_is_started_before_it_moves() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let app = &scene.ids["app"];
    let action = async |what: &str| {
        let path = format!("/v1/orgs/acme/apps/{app}/{what}");
        stage.post(&stage.operator, &path, &json!({})).await
    };
    let files = [("index.html", "hello")];
    let (manifest, _) = folder(&files);
    let plan = format!("/v1/orgs/acme/apps/{app}/deployments/plan");
    let body = json!({ "manifest": manifest });
    action("stop").await.ok();
    let refused = deploy(&stage, "acme", app, &files).await.refused(409, "conflict");
    assert_eq!(refused["hint"], "start it first: `insula start`");
    stage.post(&stage.operator, &plan, &body).await.refused(409, "conflict");
    let rollback = format!("/v1/orgs/acme/apps/{app}/rollback");
    let back = stage.post(&stage.operator, &rollback, &json!({ "number": 1 })).await;
    back.refused(409, "conflict");
    action("start").await.ok();
    deploy(&stage, "acme", app, &files).await.ok();

    // Nothing was live, so there is nothing to start.
    let fresh = stage.app("acme", "fresh").await;
    let stop = format!("/v1/orgs/acme/apps/{fresh}/stop");
    stage.post(&stage.operator, &stop, &json!({})).await.ok();
    deploy(&stage, "acme", &fresh, &files).await.ok();
}

#[tokio::test]
async fn every_mistake_is_told_at_once_with_its_file_and_fix() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    let spec = "schema = 1\nnonsense = true\n[components.web]\nkind = \"service\"\nport = 99999\n\
                memory = \"lots\"\n";
    let refused = deploy(&stage, "default", &app, &[("insula.toml", spec)]).await;
    let problem = refused.refused(422, "invalid_spec");
    let errors = problem["errors"].as_array().unwrap();
    assert!(errors.len() >= 3, "{errors:#?}");
    for error in errors {
        assert_eq!(error["file"], "insula.toml", "{error}");
        assert!(error["message"].is_string());
    }
    let listed =
        stage.get(&stage.operator, &format!("/v1/orgs/default/apps/{app}/deployments")).await;
    assert_eq!(listed.ok()["items"], json!([]), "nothing was promised");
}

#[tokio::test]
async fn what_no_node_could_run_is_refused_with_the_line_that_helps() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    node(&stage, &[Runtime::Files, Runtime::Host], Bytes::gib(1)).await;
    let python =
        [("requirements.txt", "flask\n"), ("Procfile", "web: python app.py\n"), ("app.py", "\n")];
    let refused = deploy(&stage, "default", &app, &python).await.refused(422, "runtime_missing");
    assert!(refused["hint"].as_str().unwrap().contains("apt-get install python3"), "{refused}");

    let spec =
        "schema = 1\n[components.web]\nkind = \"service\"\nrun = \"true\"\nmemory = \"2GiB\"\n";
    let large = deploy(&stage, "default", &app, &[("insula.toml", spec)]).await;
    let large = large.refused(422, "too_large_for_nodes");
    assert!(large["detail"].as_str().unwrap().contains("`web` asks for 2GiB"), "{large}");
}

#[tokio::test]
async fn a_chunk_that_is_not_what_it_says_is_refused_and_not_kept() {
    let stage = Stage::open().await;
    let put = |body: Vec<u8>| {
        let with = With::token(&stage.operator).body(CHUNKS_MEDIA_TYPE, body);
        stage.send("PUT", "/v1/orgs/default/sources/chunks", with)
    };
    let mut wrong = frame_header(&digest(b"good"), 3).to_vec();
    wrong.extend_from_slice(b"bad");
    put(wrong).await.refused(422, "chunk_corrupt");
    let mut cut = frame_header(&digest(b"good"), 4).to_vec();
    cut.extend_from_slice(b"go");
    put(cut).await.refused(422, "chunk_corrupt");
    let endless = frame_header(&digest(b"good"), u64::MAX).to_vec();
    put(endless).await.refused(413, "source_too_large");
    let asked = json!({ "chunks": [digest(b"good"), digest(b"bad")] });
    let missing = stage.post(&stage.operator, "/v1/orgs/default/sources/missing", &asked).await;
    assert_eq!(missing.ok()["missing"], asked["chunks"]);
}

#[tokio::test]
async fn a_large_chunk_streams_to_disk() {
    let stage = Stage::open().await;
    let large = vec![7; 20 << 20];
    let mut body = frame_header(&digest(&large), large.len() as u64).to_vec();
    body.extend_from_slice(&large);
    body.extend_from_slice(&frame_header(&digest(b"small"), 5));
    body.extend_from_slice(b"small");
    let with = With::token(&stage.operator).body(CHUNKS_MEDIA_TYPE, body);
    let stored = stage.send("PUT", "/v1/orgs/default/sources/chunks", with).await.ok();
    assert_eq!(stored["chunks"], 2);
    let asked = json!({ "chunks": [digest(&large), digest(b"small")] });
    let missing = stage.post(&stage.operator, "/v1/orgs/default/sources/missing", &asked).await;
    assert_eq!(missing.ok()["missing"], json!([]));
}

#[tokio::test]
async fn a_manifest_in_another_form_is_refused() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    let path = format!("/v1/orgs/default/apps/{app}/deployments");
    let file =
        |path: &str| json!({ "path": path, "kind": "file", "executable": false, "chunks": [] });
    let link = |target: &str| json!({ "path": "l", "kind": "symlink", "target": target });
    for manifest in [
        json!([]),
        json!({ "schema": 2, "entries": [] }),
        json!({ "schema": 1 }),
        json!({ "schema": 1, "entries": [], "more": 1 }),
        json!({ "schema": 1, "entries": [file("../escape")] }),
        json!({ "schema": 1, "entries": [file("/etc/passwd")] }),
        json!({ "schema": 1, "entries": [file("a\u{0}b")] }),
        json!({ "schema": 1, "entries": [file("b"), file("a")] }),
        json!({ "schema": 1, "entries": [file("a"), file("a")] }),
        json!({ "schema": 1, "entries": [link("/etc/passwd")] }),
        json!({ "schema": 1, "entries": [link("../..")] }),
        json!({ "schema": 1, "entries": [{ "path": "d", "kind": "device" }] }),
    ] {
        let refused = stage.post(&stage.operator, &path, &json!({ "manifest": manifest })).await;
        refused.refused(422, "invalid_manifest");
    }
}
