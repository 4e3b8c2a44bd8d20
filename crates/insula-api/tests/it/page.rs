//! Lists in pages, and the form of every answer.

use std::collections::BTreeSet;

use insula_model::tenancy::Role;
use serde_json::json;

use crate::scene::Scene;
use crate::stage::{Stage, With};

#[tokio::test]
async fn a_list_is_read_page_by_page_without_a_gap() {
    let stage = Stage::open().await;
    let names: Vec<String> = (0..7).map(|n| format!("p{n}")).collect();
    for name in &names {
        stage.make("/v1/orgs/default/projects", &json!({ "name": name })).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let at = cursor.map_or(String::new(), |cursor: String| format!("&cursor={cursor}"));
        let path = format!("/v1/orgs/default/projects?limit=3{at}");
        let page = stage.get(&stage.operator, &path).await.ok();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        seen.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    let want: Vec<String> = std::iter::once("default".to_owned()).chain(names).collect();
    assert_eq!(seen, want);
}

#[tokio::test]
async fn cursors_and_limits_that_are_none_are_refused() {
    let stage = Stage::open().await;
    stage.make("/v1/orgs/default/projects", &json!({ "name": "x" })).await;
    let page = stage.get(&stage.operator, "/v1/orgs/default/projects?limit=1").await.ok();
    let cursor = page["next"].as_str().unwrap();
    for query in [
        "cursor=nonsense".to_owned(),
        "cursor=".to_owned(),
        "cursor=00ff".to_owned(),
        format!("cursor={cursor}0"),
        "limit=many".to_owned(),
        "limit=-1".to_owned(),
        "unknown=1".to_owned(),
        "limit=1&limit=2".to_owned(),
    ] {
        let path = format!("/v1/orgs/default/projects?{query}");
        stage.get(&stage.operator, &path).await.refused(400, "bad_request");
    }
    // Of another list.
    let path = format!("/v1/orgs/default/apps?cursor={cursor}");
    stage.get(&stage.operator, &path).await.refused(400, "bad_request");
    let path = "/v1/orgs/default/projects?limit=100000";
    stage.get(&stage.operator, path).await.ok();
}

#[tokio::test]
async fn every_list_has_items_and_takes_its_pages() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut tried = 0;
    for route in insula_api::routes() {
        if !route.query.iter().any(|param| param.name == "cursor") {
            continue;
        }
        let path = scene.path(&route);
        let page = stage.get(&stage.operator, &format!("{path}?limit=1")).await.ok();
        let items = page["items"].as_array().unwrap();
        assert!(!items.is_empty(), "{route:?} shows nothing");
        tried += 1;
    }
    assert!(tried >= 14, "{tried}");
}

#[tokio::test]
async fn apps_are_found_by_where_they_are_and_what_they_are_called() {
    let stage = Stage::open().await;
    stage.org("acme").await;
    let shop = stage.app("acme", "shop").await;
    let path = "/v1/orgs/acme/projects/default/environments";
    stage.make(path, &json!({ "name": "staging" })).await;
    let body = json!({ "name": "shop", "project": "default", "environment": "staging" });
    stage.make("/v1/orgs/acme/apps", &body).await;
    stage.app("acme", "blog").await;
    let count = async |query: &str| {
        let page = stage.get(&stage.operator, &format!("/v1/orgs/acme/apps?{query}")).await.ok();
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 3);
    assert_eq!(count("name=shop").await, 2);
    assert_eq!(count("project=default&environment=production").await, 2);
    assert_eq!(count("project=default&environment=staging&name=blog").await, 0);
    let alone = stage.get(&stage.operator, "/v1/orgs/acme/apps?environment=staging").await;
    alone.refused(400, "bad_request");
    let again = json!({ "name": "shop", "project": "default", "environment": "production" });
    stage.post(&stage.operator, "/v1/orgs/acme/apps", &again).await.refused(409, "name_taken");
    let app = stage.get(&stage.operator, &format!("/v1/orgs/acme/apps/{shop}")).await.ok();
    assert_eq!(app["project_name"], "default");
}

#[tokio::test]
async fn requests_are_named_and_their_names_are_taken_if_they_are_names() {
    let stage = Stage::open().await;
    let answer = stage.get(&stage.operator, "/healthz").await;
    assert!(answer.header("x-request-id").unwrap().starts_with("req_"));
    let with = With::default().header("x-request-id", "mine-1");
    let answer = stage.send("GET", "/v1/whoami", with).await;
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    assert_eq!(answer.json()["request_id"], "mine-1");
    let with = With::default().header("x-request-id", "not a name");
    let answer = stage.send("GET", "/healthz", with).await;
    assert!(answer.header("x-request-id").unwrap().starts_with("req_"));

    let app = stage.app("default", "shop").await;
    let (manifest, _) = crate::deploy::folder(&[("index.html", "x")]);
    crate::deploy::deploy(&stage, "default", &app, &[("index.html", "x")]).await.ok();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let with = With::token(&stage.operator)
        .json(&json!({ "manifest": manifest }))
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let path = format!("/v1/orgs/default/apps/{app}/deployments");
    assert_eq!(stage.send("POST", &path, with).await.ok()["trace"], trace);
    let events = stage.get(&stage.operator, "/v1/orgs/default/events?limit=1").await.ok();
    assert_eq!(events["items"][0]["trace"], trace);
}

#[tokio::test]
async fn events_tell_who_did_what_and_can_be_read_by_app() {
    let stage = Stage::open().await;
    let shop = stage.app("default", "shop").await;
    stage.app("default", "blog").await;
    let path = format!("/v1/orgs/default/events?app={shop}");
    let events = stage.get(&stage.operator, &path).await.ok();
    let events = events["items"].as_array().unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["type"], "app.created");
    assert_eq!(events[0]["actor"], "operator");
    assert_eq!(events[0]["subject"], shop);
    let all = stage.get(&stage.operator, "/v1/orgs/default/events").await.ok();
    let ids: BTreeSet<_> =
        all["items"].as_array().unwrap().iter().map(|e| e["id"].to_string()).collect();
    assert_eq!(ids.len(), 2);
    let since = stage.get(&stage.operator, "/v1/orgs/default/events?after=0").await.ok();
    assert_eq!(since["items"][0]["subject"], shop, "the oldest first");
}

#[tokio::test]
async fn events_name_their_app_and_who_did_it() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let (app, domain) = (&scene.ids["app"], &scene.ids["domain"]);
    let (ada, robot) =
        (stage.person("acme", Role::Admin).await, stage.machine("acme", Role::Admin).await);
    let start = stage.store.read(insula_store::events::newest).await.unwrap().0;
    let at = |rest: &str| format!("/v1/orgs/acme/{rest}");
    let (scale, run) = (at(&format!("apps/{app}/scale")), at(&format!("apps/{app}/runs")));
    stage.post(&ada, &scale, &json!({ "components": { "web": 2 } })).await.ok();
    stage.post(&robot, &run, &json!({ "component": "tidy" })).await.ok();
    let cancel = at(&format!("deployments/{}/cancel", scene.ids["deployment"]));
    stage.post(&stage.operator, &cancel, &json!({})).await.ok();
    stage.delete(&ada, &at(&format!("domains/{domain}"))).await.ok();

    let path = at(&format!("events?after={start}"));
    let said = async || {
        let events = stage.get(&ada, &path).await.ok();
        let events = events["items"].as_array().unwrap().clone();
        let said = events.iter().map(|event| {
            let by = event["actor_name"].as_str().or(event["actor"].as_str()).unwrap();
            format!("{} by {by}", event["message"].as_str().unwrap())
        });
        said.collect::<Vec<_>>()
    };
    let all = [
        "shop: scaled to web=2 by admin@acme.example",
        "shop: a run of `tidy` was asked for by admin",
        "shop: a deployment that was queued was cancelled by operator",
        "shop: acme.example.org leads nowhere now by admin@acme.example",
    ];
    assert_eq!(said().await, all);
    assert_eq!(stage.get(&robot, "/v1/whoami").await.ok()["name"], "admin", "of the token");
    let listed = stage.get(&ada, &at("events?limit=1")).await.ok();
    assert_eq!(listed["items"][0]["actor_name"], "admin@acme.example", "in pages, too");
}

#[tokio::test]
async fn an_org_is_not_told_the_address_of_who_is_no_member() {
    let stage = Stage::open().await;
    stage.org("acme").await;
    let (ada, owner) =
        (stage.person("acme", Role::Admin).await, stage.machine("acme", Role::Owner).await);
    let made = json!({ "name": "web" });
    stage.post(&ada, "/v1/orgs/acme/projects", &made).await.ok();
    let actor = stage.get(&ada, "/v1/whoami").await.ok()["actor"].as_str().unwrap().to_owned();
    let by_ada = async |path: &str, token: &str| {
        let events = stage.get(token, path).await.ok();
        let mut events = events["items"].as_array().unwrap().clone().into_iter();
        events.find(|e| e["type"] == "project.created" && e["actor"] == *actor).unwrap()
    };
    let event = by_ada("/v1/orgs/acme/events", &owner).await;
    assert_eq!(event["actor_name"], "admin@acme.example");
    stage.delete(&owner, &format!("/v1/orgs/acme/members/{actor}")).await.ok();
    assert_eq!(by_ada("/v1/orgs/acme/events", &owner).await.get("actor_name"), None);
    let event = by_ada("/v1/events", &stage.operator).await;
    assert_eq!(event["actor_name"], "admin@acme.example", "the operator knows everybody");
}
