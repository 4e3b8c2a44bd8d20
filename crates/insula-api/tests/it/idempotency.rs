//! Whatever changes something can be repeated: the second time answers like the first, and does
//! nothing.

use insula_api::Route;
use insula_model::tenancy::Role;
use insula_store::events;
use serde_json::json;

use crate::scene::Scene;
use crate::stage::{PASSWORD, Stage, With};

/// Whose second time cannot be asked for: it has ended the credential that asks.
const ENDS_ITS_CREDENTIAL: &[&str] = &["sign_out", "change_password"];
/// What is prepared by other requests, so the scene has to be another one for each route.
async fn prepare(stage: &Stage, scene: &Scene, route: &Route) -> With {
    let operator = With::token(&stage.operator);
    let app = &scene.ids["app"];
    match route.name {
        "accept_invitation" => {
            let body = json!({ "email": "fresh@example.org", "role": "viewer" });
            let made = stage.make("/v1/orgs/acme/invitations", &body).await;
            With::default().json(&json!({ "secret": made["secret"], "password": PASSWORD }))
        }
        "create_deployment" => {
            crate::deploy::deploy(stage, "acme", app, &[("index.html", "hello")]).await.ok();
            scene.body(route, operator)
        }
        "unset_project_variable"
        | "unset_environment_variable"
        | "unset_app_variable"
        | "unset_project_secret"
        | "unset_environment_secret"
        | "unset_app_secret" => {
            let path = scene.path(route);
            stage.put(&stage.operator, &path, &json!({ "value": "v" })).await.ok();
            operator
        }
        "delete_org" | "delete_project" | "delete_environment" => {
            let path = format!("/v1/orgs/acme/apps/{app}");
            stage.delete(&stage.operator, &path).await.ok();
            operator
        }
        _ => scene.body(route, operator),
    }
}

async fn events_so_far(stage: &Stage) -> u64 {
    stage.store.read(events::newest).await.unwrap().0
}

#[tokio::test]
async fn every_mutation_happens_once_for_one_key() {
    let mut tried = 0;
    for route in insula_api::routes().iter().filter(|route| route.repeats()) {
        if ENDS_ITS_CREDENTIAL.contains(&route.name) {
            continue;
        }
        let stage = Stage::open().await;
        let scene = Scene::set(&stage, "acme", 1).await;
        let with = prepare(&stage, &scene, route).await.header("idempotency-key", "key-1");
        let (method, path) = (route.method.as_str(), scene.path(route));

        let first = stage.send(method, &path, with.clone()).await;
        assert!((200..300).contains(&first.status), "{route:?}: {}", first.text);
        assert_eq!(first.header("idempotency-replayed"), None);
        let told = events_so_far(&stage).await;

        let second = stage.send(method, &path, with.clone()).await;
        if route.name == "delete_org" {
            // The org is gone, and with it whatever is below its path.
            second.refused(404, "not_found");
            tried += 1;
            continue;
        }
        assert_eq!((second.status, &second.text), (first.status, &first.text), "{route:?}");
        assert_eq!(second.header("idempotency-replayed"), Some("true"), "{route:?}");
        assert_eq!(events_so_far(&stage).await, told, "{route:?} did something twice");

        let mut elsewhere = With::default().header("idempotency-key", "key-1");
        elsewhere.token.clone_from(&with.token);
        if elsewhere.token.is_some() {
            let other = elsewhere.json(&json!({ "name": "elsewhere" }));
            let path =
                if route.name == "create_project" { "/v1/orgs" } else { "/v1/orgs/acme/projects" };
            stage.send("POST", path, other).await.refused(422, "idempotency_key_reused");
        }
        tried += 1;
    }
    assert!(tried > 40, "{tried}");
}

#[tokio::test]
async fn another_body_under_the_same_key_is_refused() {
    let stage = Stage::open().await;
    let send = async |name: &str, token: &str| {
        let with = With::token(token).json(&json!({ "name": name }));
        stage.send("POST", "/v1/orgs/default/projects", with.header("idempotency-key", "k")).await
    };
    send("one", &stage.operator).await.ok();
    send("two", &stage.operator).await.refused(422, "idempotency_key_reused");
    // A key is the caller's own, and it is forgotten after a day.
    let robot = stage.machine("default", Role::Admin).await;
    send("three", &robot).await.ok();
    stage.clock.set_ms(insula_kit::clock::Clock::now_ms(&stage.clock) + 24 * 3_600_000 + 1);
    send("two", &stage.operator).await.ok();
}

#[tokio::test]
async fn a_refused_mutation_leaves_its_key_free() {
    let stage = Stage::open().await;
    let send = async |name: &str| {
        let with = With::token(&stage.operator).json(&json!({ "name": name }));
        stage.send("POST", "/v1/orgs/default/projects", with.header("idempotency-key", "k")).await
    };
    send("default").await.refused(409, "name_taken");
    send("other").await.ok();
}

#[tokio::test]
async fn of_many_at_once_one_does_it_and_all_say_the_same() {
    let stage = Stage::open().await;
    let requests = (0..8).map(|_| {
        let with = With::token(&stage.operator)
            .json(&json!({ "name": "robot", "role": "viewer" }))
            .header("idempotency-key", "k");
        stage.send("POST", "/v1/orgs/default/tokens", with)
    });
    let answers = futures_util::future::join_all(requests).await;
    let fresh = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none());
    assert_eq!(fresh.count(), 1);
    assert!(answers.iter().all(|answer| answer.text == answers[0].text && answer.status == 201));
    let listed = stage.get(&stage.operator, "/v1/orgs/default/tokens").await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_kept_for_a_repetition_is_not_readable_in_the_database() {
    let stage = Stage::open().await;
    let with = With::token(&stage.operator)
        .json(&json!({ "name": "robot", "role": "viewer" }))
        .header("idempotency-key", "k");
    let made = stage.send("POST", "/v1/orgs/default/tokens", with).await.ok();
    let secret = made["secret"].as_str().unwrap();
    assert!(!crate::secret::everything_stored(&stage).contains(secret));
}

#[tokio::test]
async fn keys_that_are_none_are_refused() {
    let stage = Stage::open().await;
    for key in ["", " ", "a b", "é", &"k".repeat(129)] {
        let with = With::token(&stage.operator).json(&json!({ "name": "x" }));
        let with = with.header("idempotency-key", key);
        let answer = stage.send("POST", "/v1/orgs/default/projects", with).await;
        answer.refused(400, "idempotency_key_invalid");
    }
}
