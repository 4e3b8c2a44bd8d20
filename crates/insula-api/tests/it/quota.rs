//! Over the quota is a clear refusal to the one who went over it.

use serde_json::{Value, json};

use crate::scene::{JOB, Scene, WEB};
use crate::stage::Stage;

async fn set(stage: &Stage, change: impl FnOnce(&mut Value)) {
    let mut quota = stage.get(&stage.operator, "/v1/orgs/acme/quota").await.ok();
    change(&mut quota);
    stage.put(&stage.operator, "/v1/orgs/acme/quota", &quota).await.ok();
}

/// Ends the run that the scene has waiting, so that only the app counts.
async fn without_the_run(stage: &Stage, scene: &Scene) {
    let path = format!("/v1/orgs/acme/runs/{}/cancel", scene.ids["run"]);
    stage.post(&stage.operator, &path, &json!({})).await.ok();
}

#[tokio::test]
async fn scaling_stops_at_the_quota_and_says_what_is_left() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    without_the_run(&stage, &scene).await;
    let path = format!("/v1/orgs/acme/apps/{}/scale", scene.ids["app"]);
    let scale = async |count: u32| {
        stage.post(&stage.operator, &path, &json!({ "components": { WEB: count } })).await
    };
    set(&stage, |quota| quota["instances"] = json!(4)).await;
    scale(4).await.ok();
    let refused = scale(5).await.refused(422, "quota_exceeded");
    assert_eq!(refused["detail"], "`acme` may run 4 instances; with this it would need 5");
    assert!(refused["hint"].as_str().unwrap().starts_with("4 are left"), "{refused}");
    let app = stage.get(&stage.operator, &format!("/v1/orgs/acme/apps/{}", scene.ids["app"])).await;
    assert_eq!(app.ok()["scale"], json!({ WEB: 4 }), "the refused one changed nothing");

    set(&stage, |quota| quota["memory_bytes"] = json!(512 << 20)).await;
    let refused = scale(3).await.refused(422, "quota_exceeded");
    assert_eq!(
        refused["detail"],
        "`acme` may use 512MiB of memory; with this it would need 768MiB"
    );
    scale(2).await.ok();
    set(&stage, |quota| quota["cpu_millis"] = json!(500)).await;
    let refused = scale(2).await.refused(422, "quota_exceeded");
    assert_eq!(refused["detail"], "`acme` may use 0.5 cores; with this it would need 1");

    let usage = stage.get(&stage.operator, "/v1/orgs/acme/usage").await.ok();
    assert_eq!((&usage["instances"], &usage["memory_bytes"]), (&json!(2), &json!(512 << 20)));
}

#[tokio::test]
async fn a_stopped_app_costs_nothing_and_starting_it_has_to_fit() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    without_the_run(&stage, &scene).await;
    let action = async |what: &str| {
        let path = format!("/v1/orgs/acme/apps/{}/{what}", scene.ids["app"]);
        stage.post(&stage.operator, &path, &json!({})).await
    };
    assert_eq!(action("stop").await.ok()["running"], false);
    set(&stage, |quota| quota["instances"] = json!(0)).await;
    action("start").await.refused(422, "quota_exceeded");
    action("restart").await.refused(409, "conflict");
    set(&stage, |quota| quota["instances"] = json!(1)).await;
    assert_eq!(action("start").await.ok()["running"], true);
}

#[tokio::test]
async fn a_deployment_has_to_fit_with_its_instances_and_its_files() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    without_the_run(&stage, &scene).await;
    let app = &scene.ids["app"];
    let spec = "schema = 1\n[components.web]\nkind = \"service\"\nrun = \"true\"\ninstances = 60\n";
    let refused = crate::deploy::deploy(&stage, "acme", app, &[("insula.toml", spec)]).await;
    let refused = refused.refused(422, "quota_exceeded");
    assert_eq!(refused["detail"], "`acme` may run 50 instances; with this it would need 60");

    set(&stage, |quota| quota["disk_bytes"] = json!(30)).await;
    let files = [("index.html", "more than the org may keep on its disk")];
    let refused = crate::deploy::deploy(&stage, "acme", app, &files).await;
    refused.refused(422, "quota_exceeded");
    crate::deploy::deploy(&stage, "acme", app, &[("index.html", "little")]).await.ok();
    set(&stage, |quota| quota["disk_bytes"] = json!(1)).await;
    let (_, body) = crate::deploy::folder(&[("a", "b")]);
    let with = crate::stage::With::token(&stage.operator);
    let with = with.body("application/vnd.insula.chunks", body);
    let upload = stage.send("PUT", "/v1/orgs/acme/sources/chunks", with).await;
    upload.refused(422, "quota_exceeded");
}

#[tokio::test]
async fn what_cannot_be_scaled_is_told_for_every_component_at_once() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let path = format!("/v1/orgs/acme/apps/{}/scale", scene.ids["app"]);
    let body = json!({ "components": { "tidy": 1, "nobody": 1, "web": 1_000 } });
    let refused = stage.post(&stage.operator, &path, &body).await.refused(422, "invalid_field");
    let keys: Vec<_> = refused["errors"].as_array().unwrap().iter().map(|e| &e["key"]).collect();
    assert_eq!(keys, ["components.nobody", "components.tidy", "components.web"]);
}

#[tokio::test]
async fn a_quota_that_was_changed_meanwhile_is_not_overwritten() {
    let stage = Stage::open().await;
    stage.org("acme").await;
    let seen = stage.get(&stage.operator, "/v1/orgs/acme/quota").await;
    let (tag, quota) = (seen.header("etag").unwrap().to_owned(), seen.ok());
    set(&stage, |quota| quota["instances"] = json!(7)).await;
    let with = crate::stage::With::token(&stage.operator).json(&quota).header("if-match", tag);
    let late = stage.send("PUT", "/v1/orgs/acme/quota", with).await;
    late.refused(412, "precondition_failed");
}

#[tokio::test]
async fn runs_count_until_they_have_ended() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let robot = stage.machine("acme", insula_model::tenancy::Role::Developer).await;
    let path = format!("/v1/orgs/acme/apps/{}/runs", scene.ids["app"]);
    let create = async || stage.post(&robot, &path, &json!({ "component": JOB })).await;
    let usage = async || {
        let usage = stage.get(&stage.operator, "/v1/orgs/acme/usage").await.ok();
        [&usage["instances"], &usage["memory_bytes"], &usage["cpu_millis"]]
            .map(|amount| amount.as_u64().unwrap())
    };
    assert_eq!(usage().await, [2, 512 << 20, 1_000], "the app's instance, and the run that waits");

    set(&stage, |quota| quota["instances"] = json!(3)).await;
    let second = create().await.ok();
    let refused = create().await.refused(422, "quota_exceeded");
    assert_eq!(refused["detail"], "`acme` may run 3 instances; with this it would need 4");
    let scale = format!("/v1/orgs/acme/apps/{}/scale", scene.ids["app"]);
    let more = stage.post(&robot, &scale, &json!({ "components": { WEB: 2 } })).await;
    more.refused(422, "quota_exceeded");

    // Stopping the app makes room; its runs go on and count.
    let stop = format!("/v1/orgs/acme/apps/{}/stop", scene.ids["app"]);
    stage.post(&robot, &stop, &json!({})).await.ok();
    assert_eq!(usage().await, [2, 512 << 20, 1_000]);
    let third = create().await.ok();
    create().await.refused(422, "quota_exceeded");

    let cancel = async |id: &Value| {
        let path = format!("/v1/orgs/acme/runs/{}/cancel", id.as_str().unwrap());
        stage.post(&robot, &path, &json!({})).await
    };
    let cancelled = cancel(&third["id"]).await.ok();
    assert_eq!((&cancelled["state"], &cancelled["done"]), (&json!("cancelled"), &json!(true)));
    assert!(cancelled["ended"].is_string(), "{cancelled}");
    cancel(&third["id"]).await.refused(409, "conflict");
    assert_eq!(usage().await, [2, 512 << 20, 1_000]);

    set(&stage, |quota| quota["memory_bytes"] = json!(600 << 20)).await;
    let refused = create().await.refused(422, "quota_exceeded");
    assert!(refused["detail"].as_str().unwrap().contains("of memory"), "{refused}");
    cancel(&second["id"]).await.ok();
    create().await.ok();
}

#[tokio::test]
async fn an_org_without_builds_is_told_so_at_once() {
    let stage = Stage::open().await;
    stage.org("acme").await;
    let app = stage.app("acme", "shop").await;
    let runtimes = [insula_model::spec::Runtime::Python, insula_model::spec::Runtime::Files];
    crate::deploy::node(&stage, &runtimes, insula_model::Bytes::gib(4)).await;
    set(&stage, |quota| quota["builds_at_once"] = json!(0)).await;
    let built =
        [("requirements.txt", "flask\n"), ("Procfile", "web: python app.py\n"), ("app.py", "\n")];
    let refused = crate::deploy::deploy(&stage, "acme", &app, &built).await;
    let refused = refused.refused(422, "quota_exceeded");
    assert_eq!(refused["detail"], "`acme` may not build anything, and this has to be built");
    let (manifest, _) = crate::deploy::folder(&built);
    let plan = format!("/v1/orgs/acme/apps/{app}/deployments/plan");
    let body = json!({ "manifest": manifest });
    stage.post(&stage.operator, &plan, &body).await.refused(422, "quota_exceeded");

    let plain = [("index.html", "nothing to build")];
    crate::deploy::deploy(&stage, "acme", &app, &plain).await.ok();
    set(&stage, |quota| quota["builds_at_once"] = json!(1)).await;
    crate::deploy::deploy(&stage, "acme", &app, &built).await.ok();
}
