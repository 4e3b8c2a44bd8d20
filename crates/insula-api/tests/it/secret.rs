//! A secret's value goes in and is nowhere to be seen: not in an answer, an event, a log line, an
//! error, nor in the database; and the app that names it gets the newest one.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use insula_model::AppId;
use insula_model::tenancy::Role;
use insula_store::{Store, apps};
use insula_vault::values_of_app;
use serde_json::json;

use crate::scene::Scene;
use crate::stage::{Stage, With};

const VALUE: &str = "hunter2-hunter2-hunter2";

/// Every byte below the stage's folder, as text.
pub fn everything_stored(stage: &Stage) -> String {
    fn read(folder: &Path, all: &mut Vec<u8>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else {
                all.extend(std::fs::read(path).unwrap());
            }
        }
    }
    let mut all = Vec::new();
    read(stage.folder(), &mut all);
    assert!(all.len() > 10_000, "something was stored");
    String::from_utf8_lossy(&all).into_owned()
}

/// Everything that any test of this process logs, from now on.
fn logged() -> Arc<Mutex<Vec<u8>>> {
    #[derive(Clone)]
    struct Kept(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    Arc::clone(LOG.get_or_init(|| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Kept(Arc::clone(&log));
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || kept.clone())
            .init();
        log
    }))
}

async fn value_of(store: &Store, stage: &Stage, app: &str, name: &str) -> Option<String> {
    let (id, master): (AppId, _) = (app.parse().unwrap(), Arc::clone(&stage.master));
    let name: insula_model::VariableName = name.parse().unwrap();
    store
        .read(move |tx| {
            let app = apps::get_any_org(tx, id)?.unwrap();
            Ok::<_, insula_vault::VaultError>(values_of_app(tx, &master, &app)?.remove(&name))
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_value_is_shown_nowhere() {
    let log = logged();
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let owner = stage.machine("acme", Role::Owner).await;
    let app = format!("/v1/orgs/acme/apps/{}/secrets", scene.ids["app"]);
    let mut answers = Vec::new();
    let body = json!({ "value": VALUE });
    for place in [
        "/v1/orgs/acme/projects/default/secrets".to_owned(),
        "/v1/orgs/acme/projects/default/environments/production/secrets".to_owned(),
        app.clone(),
    ] {
        let with = With::token(&owner).json(&body).header("idempotency-key", place.clone());
        for _ in 0..2 {
            let answer = stage.send("PUT", &format!("{place}/KEY"), with.clone()).await;
            answer.ok();
            answers.push(answer);
        }
        answers.push(stage.put(&owner, &format!("{place}/PORT"), &body).await);
        answers.push(stage.put(&owner, &format!("{place}/not%20a%20name"), &body).await);
        let several = json!({ "set": { "ONE": VALUE, "TWO": VALUE }, "unset": ["NOT_THERE"] });
        answers.push(stage.send("PATCH", &place, With::token(&owner).json(&several)).await);
        // Mistakes in a body with a value in it, of every kind.
        for wrong in [
            json!({ "value": VALUE, "more": VALUE }),
            json!({ "value": [VALUE] }),
            json!({ VALUE: 1 }),
            json!(VALUE),
        ] {
            let answer = stage.put(&owner, &format!("{place}/KEY"), &wrong).await;
            assert_eq!(answer.status, 422, "{}", answer.text);
            answers.push(answer);
        }
        let broken = format!("{{ \"value\": \"{VALUE}\", }}");
        let with = With::token(&owner).body("application/json", broken.into_bytes());
        let answer = stage.send("PUT", &format!("{place}/KEY"), with).await;
        answers.push(answer);
    }
    answers.push(stage.post(&owner, "/v1/orgs/acme/data-key/rotate", &json!({})).await);
    for route in insula_api::routes().iter().filter(|route| route.method == "GET") {
        answers.push(stage.get(&stage.operator, &scene.path(route)).await);
    }
    assert!(answers.iter().any(|answer| answer.text.contains("\"KEY\"")), "its name is shown");
    for answer in &answers {
        assert!(!answer.text.contains(VALUE), "{}", answer.text);
    }
    assert!(!everything_stored(&stage).contains(VALUE));
    let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    assert!(log.contains("set_app_secret"), "the log was captured");
    assert!(!log.contains(VALUE));
    let app = &scene.ids["app"];
    assert_eq!(value_of(&stage.store, &stage, app, "KEY").await.as_deref(), Some(VALUE));
}

#[tokio::test]
async fn the_narrower_place_wins_and_a_rotation_keeps_every_value() {
    let stage = Stage::open().await;
    let app = stage.app("default", "shop").await;
    let set = async |place: &str, value: &str| {
        let path = format!("/v1/orgs/default/{place}/secrets/KEY");
        stage.put(&stage.operator, &path, &json!({ "value": value })).await.ok();
    };
    let now = async || value_of(&stage.store, &stage, &app, "KEY").await.unwrap();
    set("projects/default", "of the project").await;
    assert_eq!(now().await, "of the project");
    set(&format!("apps/{app}"), "of the app").await;
    set("projects/default/environments/production", "of the environment").await;
    assert_eq!(now().await, "of the app");
    set(&format!("apps/{app}"), "the newest").await;
    let rotate = "/v1/orgs/default/data-key/rotate";
    let first = stage.post(&stage.operator, rotate, &json!({})).await.ok();
    let second = stage.post(&stage.operator, rotate, &json!({})).await.ok();
    assert_ne!(first["key"], second["key"]);
    assert_eq!(now().await, "the newest");
    let path = format!("/v1/orgs/default/apps/{app}/secrets");
    let listed = stage.get(&stage.operator, &path).await.ok();
    assert_eq!(listed["items"][0]["version"], 2);
    stage.delete(&stage.operator, &format!("{path}/KEY")).await.ok();
    assert_eq!(now().await, "of the environment");
}

#[tokio::test]
async fn what_is_live_is_deployed_anew_with_a_change_unless_told_otherwise() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let app = &scene.ids["app"];
    let cancel = format!("/v1/orgs/acme/deployments/{}/cancel", scene.ids["deployment"]);
    stage.post(&stage.operator, &cancel, &json!({})).await.ok();
    let quiet = format!("/v1/orgs/acme/apps/{app}/variables/A?deploy=false");
    let body = json!({ "value": "1" });
    assert_eq!(stage.put(&stage.operator, &quiet, &body).await.ok()["deployments"], json!([]));
    for (path, body) in [
        (format!("/v1/orgs/acme/apps/{app}/variables/A"), &body),
        (format!("/v1/orgs/acme/apps/{app}/secrets/B"), &body),
        ("/v1/orgs/acme/projects/default/variables/C".to_owned(), &body),
    ] {
        let started = stage.put(&stage.operator, &path, body).await.ok();
        // Each sees the one before under way, which has not cut its release: one is enough.
        let count = started["deployments"].as_array().unwrap().len();
        assert_eq!(count, usize::from(path.ends_with("/A")), "{path}: {started}");
        if count == 1 {
            let source = &started["deployments"][0]["source"];
            assert_eq!(source["kind"], "reconfigure");
            assert_eq!(source["release"], scene.ids["release"]);
        }
    }
}

#[tokio::test]
async fn a_name_is_a_variable_or_a_secret_and_never_one_of_ours() {
    let stage = Stage::open().await;
    let place = "/v1/orgs/default/projects/default";
    let value = json!({ "value": "x" });
    stage.put(&stage.operator, &format!("{place}/variables/A"), &value).await.ok();
    let both = stage.put(&stage.operator, &format!("{place}/secrets/A"), &value).await;
    both.refused(409, "conflict");
    stage.put(&stage.operator, &format!("{place}/secrets/B"), &value).await.ok();
    let both = stage.put(&stage.operator, &format!("{place}/variables/B"), &value).await;
    both.refused(409, "conflict");
    for name in ["PORT", "INSULA_APP"] {
        for kind in ["variables", "secrets"] {
            let path = format!("{place}/{kind}/{name}");
            stage.put(&stage.operator, &path, &value).await.refused(422, "invalid_field");
        }
    }
    let nul = json!({ "value": "a\u{0}b" });
    for kind in ["variables", "secrets"] {
        let path = format!("{place}/{kind}/NUL");
        stage.put(&stage.operator, &path, &nul).await.refused(422, "invalid_field");
    }
}

#[tokio::test]
async fn a_change_of_what_somebody_else_has_changed_is_refused() {
    let stage = Stage::open().await;
    let path = "/v1/orgs/default/projects/default/variables";
    let seen = stage.get(&stage.operator, path).await;
    let tag = seen.header("etag").unwrap().to_owned();
    let change = |name: &str, tag: &str| {
        With::token(&stage.operator)
            .json(&json!({ "set": { name: "1" } }))
            .header("if-match", tag.to_owned())
    };
    stage.send("PATCH", path, change("A", &tag)).await.ok();
    let late = stage.send("PATCH", path, change("B", &tag)).await;
    late.refused(412, "precondition_failed");
    let tag = stage.get(&stage.operator, path).await.header("etag").unwrap().to_owned();
    stage.send("PATCH", path, change("B", &tag)).await.ok();
    let listed = stage.get(&stage.operator, path).await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
}
